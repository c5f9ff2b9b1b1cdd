//! Invariants of every metric: order, batches, restarts, re-sending, sealing, compaction and the
//! source, daily states or events, change no result.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};
use echopilot_analytics::engine::{Cancel, Engine, UsageAnswer};
use echopilot_analytics::metrics::query::Query;
use echopilot_analytics::store::CompactionScope;
use echopilot_analytics::window::{DAY_US, WindowRequest};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::harness::{engine, folder, ingest};

/// A synthetic event: seconds before now, type, user, feature.
#[derive(Debug, Clone)]
struct Made {
    seconds_ago: i64,
    event_type: &'static str,
    user: Option<u8>,
    feature: Option<u8>,
}

fn made() -> impl Strategy<Value = Made> {
    (
        0..40 * 86_400_i64,
        prop::sample::select(vec!["page_view", "action", "conversion"]),
        prop::option::weighted(0.8, 0..12_u8),
        prop::option::weighted(0.8, 0..5_u8),
    )
        .prop_map(|(seconds_ago, event_type, user, feature)| Made {
            seconds_ago,
            event_type,
            user,
            feature,
        })
}

fn now() -> DateTime<Utc> {
    "2026-03-05T12:34:56.789Z".parse().unwrap()
}

fn ts_us(event: &Made) -> i64 {
    now().timestamp_micros() - event.seconds_ago * 1_000_000
}

fn open(dir: &Path) -> Engine {
    engine(dir, now())
}

/// Sends events, each with an id of its own.
fn send(engine: &Engine, events: &[(usize, &Made)]) {
    for chunk in events.chunks(100) {
        let events: Vec<_> = chunk
            .iter()
            .map(|(id, event)| {
                json!({"ts":ts_us(event),"event_type":event.event_type,"event_id":format!("id-{id}"),
                    "user_id":event.user.map(|user| format!("user-{user}")),
                    "feature":event.feature.map(|feature| format!("feature-{feature}"))})
            })
            .collect();
        let answer = ingest(engine, &events, now());
        assert_eq!(answer.logged + answer.duplicates, chunk.len());
    }
}

fn ask(engine: &Engine, days: i64) -> UsageAnswer {
    let request = WindowRequest {
        days: Some(days),
        ..WindowRequest::default()
    };
    engine.usage(&request, now()).unwrap()
}

/// The same from events: a zone with the days of UTC has no states.
fn ask_events(engine: &Engine, days: i64) -> UsageAnswer {
    let request = WindowRequest {
        days: Some(days),
        tz: Some("Africa/Abidjan".into()),
        ..WindowRequest::default()
    };
    engine.usage(&request, now()).unwrap()
}

/// A query of each metric but paths, which depend on the order of the log.
fn queries() -> Vec<Value> {
    let steps = json!([{"feature":"feature-1"},{"feature":["feature-2","feature-3"]},{"feature":"feature-1"}]);
    vec![
        json!({"metric":"active_users","days":30}),
        json!({"metric":"active_users","grain":"week","days":40}),
        json!({"metric":"active_users","grain":"month","days":40,"filter":{"feature":"feature-1"}}),
        json!({"metric":"feature_usage","days":20}),
        json!({"metric":"event_types","days":20}),
        json!({"metric":"trends","days":20,"compare":"previous","rolling":3,
               "series":[{},{"measure":"users"},{"filter":{"event_type":["action","conversion"]},"measure":"users"}]}),
        json!({"metric":"trends","days":20,"grain":"week","breakdown":"feature","limit":2,
               "series":[{"measure":"events_per_user"},{"filter":{"event_type":"action"}}]}),
        json!({"metric":"trends","days":20,"compare":"previous","rolling":2,"breakdown":"event_type","formula":"B/A",
               "series":[{"measure":"sessions"},{"filter":{"feature":"feature-1"},"measure":"sessions"},{}]}),
        json!({"metric":"trends","days":20,"breakdown":"event_type","limit":1,"rolling":2,
               "series":[{},{"measure":"users"},{"filter":{"event_type":{"not":"action"}},"measure":"events_per_user"}]}),
        json!({"metric":"trends","days":20,"breakdown":"feature","limit":2,"grain":"week","compare":"previous",
               "series":[{},{"measure":"users","filter":{"feature":{"exists":true}}},{"measure":"sessions"},
                         {"measure":"users"},{"filter":{"feature":["feature-1","feature-4"]}}]}),
        json!({"metric":"sessions","days":20}),
        json!({"metric":"lifecycle","days":10}),
        json!({"metric":"lifecycle","grain":"week","days":30,"filter":{"event_type":["action","conversion"]}}),
        json!({"metric":"stickiness","days":14}),
        json!({"metric":"funnel","steps":steps,"within":"9d","days":40}),
        json!({"metric":"funnel","steps":steps,"order":"strict","days":40}),
        json!({"metric":"funnel","steps":steps,"order":"any","within":"5d","days":40,"exclude":[{"filter":{"feature":"feature-0"}}]}),
        json!({"metric":"retention","days":30}),
        json!({"metric":"retention","grain":"week","returning":"on_or_after","cohort":"recurring","days":40}),
        json!({"metric":"retention","grain":"week","ever":true,"days":20,"start":{"feature":"feature-1"}}),
        json!({"metric":"experiment","exposure":{"feature":"feature-1"},"variant":"none","goal":{"feature":"feature-2"}}),
    ]
}

fn rows(engine: &Engine, request: &Value) -> Vec<Value> {
    let query = Query::parse(request.to_string().as_bytes()).unwrap();
    let answer = engine.query(&query, now(), &Cancel::default()).unwrap();
    match serde_json::to_value(&answer.rows).unwrap() {
        Value::Array(rows) => rows,
        other => panic!("{other}"),
    }
}

/// Checks the identities of a result.
fn check_identities(request: &Value, rows: &[Value]) {
    let of = |row: &Value, field: &str| row[field].as_i64().unwrap();
    match request["metric"].as_str().unwrap() {
        "funnel" => {
            let users: Vec<i64> = rows.iter().map(|row| of(row, "users")).collect();
            assert!(
                users.is_sorted_by(|before, after| before >= after),
                "{rows:?}"
            );
        }
        "retention" => {
            for row in rows.iter().filter(|row| row["cohort"] != "average") {
                assert_eq!(row["cells"][0], row["size"], "{row}");
                let cells = row["cells"].as_array().unwrap();
                assert!(
                    cells
                        .iter()
                        .all(|cell| cell.as_i64().unwrap_or(0) <= of(row, "size"))
                );
            }
        }
        "stickiness" => {
            let all: i64 = rows.iter().map(|row| of(row, "users")).sum();
            assert_eq!(all, of(&rows[0], "cumulative"));
        }
        _ => {}
    }
}

/// Events, users, days, weeks, users per day and per week summed, events per feature.
type Counted = (u64, u64, u64, u64, u64, u64, Vec<(String, u64)>);

/// Usage by plain loops over all events.
fn brute_force(events: &[Made], days: i64) -> Counted {
    let last = now().timestamp_micros().div_euclid(DAY_US);
    let mut users_of_day: BTreeMap<i64, BTreeSet<u8>> = BTreeMap::new();
    let mut users_of_week: BTreeMap<i64, BTreeSet<u8>> = BTreeMap::new();
    let mut users = BTreeSet::new();
    let mut features: BTreeMap<String, u64> = BTreeMap::new();
    let mut total = 0;
    for event in events {
        let day = ts_us(event).div_euclid(DAY_US);
        if day > last || day <= last - days {
            continue;
        }
        total += 1;
        users_of_day.entry(day).or_default().extend(event.user);
        users_of_week
            .entry((day + 3).div_euclid(7))
            .or_default()
            .extend(event.user);
        users.extend(event.user);
        if let Some(feature) = event.feature {
            *features.entry(format!("feature-{feature}")).or_default() += 1;
        }
    }
    let mut features: Vec<(String, u64)> = features.into_iter().collect();
    features.sort_by(|(name, events), (other, others)| others.cmp(events).then(name.cmp(other)));
    let sum = |groups: &BTreeMap<i64, BTreeSet<u8>>| {
        groups.values().map(|users| users.len() as u64).sum()
    };
    (
        total,
        users.len() as u64,
        users_of_day.len() as u64,
        users_of_week.len() as u64,
        sum(&users_of_day),
        sum(&users_of_week),
        features,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn order_batches_restarts_resending_seals_and_compaction_change_no_result(
        events in prop::collection::vec(made(), 0..120),
        cuts in prop::collection::vec(0..120_usize, 0..5),
        shuffle in any::<u64>(),
        resend in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        seals in any::<bool>(),
        compacts in any::<bool>(),
    ) {
        let plain = folder();
        let engine = open(plain.path());
        let in_order: Vec<_> = events.iter().enumerate().collect();
        send(&engine, &in_order);

        let other = folder();
        let mut mixed = in_order.clone();
        mixed.sort_by_key(|(id, _)| (*id as u64 + 1).wrapping_mul(shuffle | 1));
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(mixed.len())).chain([0, mixed.len()]).collect();
        cuts.sort_unstable();
        for pair in cuts.windows(2) {
            let reopened = open(other.path());
            send(&reopened, &mixed[pair[0]..pair[1]]);
            let again: Vec<_> = resend.iter().filter(|_| pair[1] > 0).map(|index| mixed[index.index(pair[1])]).collect();
            send(&reopened, &again);
            if seals {
                reopened.store().seal().unwrap();
            }
            if compacts {
                reopened.compact(now() + TimeDelta::days(1), CompactionScope::Full).unwrap();
            }
        }
        let reopened = open(other.path());
        // States say what the segments say, to the byte.
        prop_assert_eq!(reopened.rebuild().unwrap().changed, 0);

        for request in queries() {
            let answer = rows(&engine, &request);
            prop_assert_eq!(&answer, &rows(&reopened, &request), "{}", request);
            let mut by_events = request.clone();
            by_events["tz"] = json!("Africa/Abidjan");
            prop_assert_eq!(&answer, &rows(&reopened, &by_events), "{}", by_events);
            check_identities(&request, &answer);
        }
        for days in [1, 2, 7, 30, 365] {
            let expected = brute_force(&events, days);
            let answer = ask(&engine, days);
            prop_assert_eq!(&answer, &ask(&reopened, days));
            for engine in [&engine, &reopened] {
                let by_events = UsageAnswer { window: answer.window.clone(), ..ask_events(engine, days) };
                prop_assert_eq!(&by_events, &answer);
            }
            let found = (
                answer.numbers.total_events, answer.numbers.mau, answer.unique_days, answer.unique_weeks,
                answer.users_per_day, answer.users_per_week, answer.numbers.feature_usage,
            );
            prop_assert_eq!(found, expected);
        }
    }
}
