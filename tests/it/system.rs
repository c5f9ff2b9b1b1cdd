//! `system` events: stored, exported, listed and erased as all others, and seen by a query only
//! where a filter names them.
//!
//! Three stores get the same history: one as it is, one without its `system` events, and one in
//! which they have a declared type. What names no `system` events is the same in the first two, and
//! what names them is the same in the first and the last.

use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};
use echopilot_analytics::engine::{COMMAND_LINE, Cancel, Engine, RollupScope, ValuesRequest};
use echopilot_analytics::export::events::EventFormat;
use echopilot_analytics::metrics::cohort::Cohort;
use echopilot_analytics::metrics::query::Query;
use echopilot_analytics::plan::Plan;
use echopilot_analytics::progress::Progress;
use echopilot_analytics::store::{Clock, CompactionScope};
use echopilot_analytics::window::WindowRequest;
use serde_json::{Map, Value, json};

use crate::harness::{folder, ingest, numbers_below, store_config};
use crate::metrics::run_queries;

/// The declared type that stands for `system` events in the third store.
const OTHER: &str = "identity";
const DAYS: i64 = 12;
/// A zone with the days of UTC and without states.
const WITHOUT_STATES: &str = "Africa/Abidjan";

fn now() -> DateTime<Utc> {
    "2026-03-05T12:34:56Z".parse().unwrap()
}

fn open(dir: &Path) -> Engine {
    let mut config = store_config(dir);
    config.zones = "UTC,Europe/Berlin".parse().unwrap();
    config.limit_erasure_percent = 100;
    let engine = Engine::open(&config, "the test", now()).unwrap();
    let plan = json!({"event_types":[{"name":"system"},{"name":OTHER}]}).to_string();
    let plan = Plan::parse(plan.as_bytes()).unwrap();
    engine.by(COMMAND_LINE, now()).set_plan(plan).unwrap();
    for cohort in [
        json!({"name":"identified","did":{"filter":{"event_type":"system"},"at_least":2}}),
        json!({"name":"buyers","did":{"filter":{"event_type":"conversion"},"at_least":1}}),
        json!({"name":"reached","step":{"funnel":{"steps":
            [{"event_type":"system"},{"event_type":"action"}]},"reached":2}}),
    ] {
        let cohort = cohort.to_string().replace(
            "system",
            if dir.ends_with(OTHER) {
                OTHER
            } else {
                "system"
            },
        );
        let cohort = Cohort::parse(cohort.as_bytes()).unwrap();
        engine.set_cohort(cohort).unwrap();
    }
    engine
}

/// Events of some days, some of which have `system` events alone, as some users do.
fn history(seed: u64, count: usize) -> Vec<Value> {
    let mut below = numbers_below(seed);
    let event = |day: i64, seconds: u64, event_type: &str, user: u64, feature: u64| {
        let ts = now() - TimeDelta::days(day) - TimeDelta::seconds(seconds as i64);
        // The last ones are anonymous, and those before them have `system` events alone.
        let event_type = match user {
            10..14 => "system",
            _ => event_type,
        };
        json!({
            "ts": ts.to_rfc3339(), "event_type": event_type,
            "user_id": (user < 14).then(|| format!("u{user:02}")),
            "feature": (feature < 5).then(|| format!("f{feature}")),
            "url": format!("/{event_type}/{feature}"),
            "metadata": {"kind": event_type, "arm": format!("a{}", user % 2)},
        })
    };
    // The window begins and ends with an event that all see.
    let mut events = vec![
        event(DAYS - 1, 0, "page_view", 0, 0),
        event(0, 0, "page_view", 1, 1),
    ];
    for _ in 0..count {
        let day = below(DAYS as u64) as i64;
        let types = ["page_view", "action", "conversion", "system"];
        let event_type = match day {
            3 | 4 => "system",
            _ => types[below(4) as usize],
        };
        events.push(event(day, below(40_000), event_type, below(16), below(7)));
    }
    events
}

/// The events without those of the type `system`.
fn without(events: &[Value]) -> Vec<Value> {
    let seen = events
        .iter()
        .filter(|event| event["event_type"] != "system");
    seen.cloned().collect()
}

/// The same value with another name of the type.
fn renamed(value: &Value) -> Value {
    serde_json::from_str(&value.to_string().replace("system", OTHER)).unwrap()
}

fn send(engine: &Engine, events: &[Value]) {
    for some in events.chunks(100) {
        assert_eq!(ingest(engine, some, now()).logged, some.len());
    }
}

/// Queries that name no `system` event.
fn unnamed() -> Vec<Value> {
    let steps = json!([{"feature":"f0"},{"feature":["f1","f2"]}]);
    vec![
        json!({"metric":"active_users"}),
        json!({"metric":"active_users","filter":{"event_type":{"not":"action"}}}),
        json!({"metric":"active_users","filter":{"event_type":{"prefix":"s"}}}),
        json!({"metric":"active_users","filter":{"feature":"f1"}}),
        json!({"metric":"active_users","filter":{"metadata.kind":["system","action"]}}),
        json!({"metric":"active_users","filter":{"not":{"event_type":"action"}}}),
        json!({"metric":"active_users","filter":{"cohort":"buyers"}}),
        json!({"metric":"feature_usage"}),
        json!({"metric":"feature_usage","breakdown":"metadata.kind"}),
        json!({"metric":"event_types"}),
        json!({"metric":"event_types","filter":{"url":{"contains":"s"}}}),
        json!({"metric":"trends","compare":"previous","series":[{},{"measure":"users"}]}),
        json!({"metric":"trends","grain":"hour","breakdown":"metadata.kind","series":[{}]}),
        json!({"metric":"sessions"}),
        json!({"metric":"lifecycle"}),
        json!({"metric":"stickiness"}),
        json!({"metric":"funnel","steps":steps}),
        json!({"metric":"funnel","steps":steps,"order":"strict"}),
        json!({"metric":"funnel","steps":steps,"breakdown":"metadata.kind","order":"any"}),
        json!({"metric":"retention","start":{"feature":"f1"}}),
        json!({"metric":"paths"}),
        json!({"metric":"experiment","exposure":{"feature":"f1"},"variant":"arm","goal":{"feature":"f2"}}),
        json!({"metric":"events","limit":50}),
        json!({"metric":"events","limit":50,"filter":{"user_id":"u11"}}),
    ]
}

/// Queries that name `system` events wherever they may see them.
fn named() -> Vec<Value> {
    let system = json!({"event_type":"system"});
    let action = json!({"event_type":"action"});
    vec![
        json!({"metric":"active_users","filter":system}),
        json!({"metric":"active_users","filter":{"event_type":["action","system"],"feature":"f1"}}),
        json!({"metric":"active_users","filter":{"any":[{"event_type":"system","feature":"f1"},{"event_type":"action"}]}}),
        json!({"metric":"active_users","filter":{"event_type":"action","cohort":"identified"}}),
        json!({"metric":"active_users","filter":{"event_type":"action","cohort":"reached"}}),
        json!({"metric":"feature_usage","filter":system}),
        json!({"metric":"event_types","filter":{"event_type":["system","action"]}}),
        json!({"metric":"trends","series":[{"filter":system,"measure":"users"},{"filter":action},{"filter":system}]}),
        json!({"metric":"trends","series":[{"filter":system,"measure":"users"}],"breakdown":"feature"}),
        json!({"metric":"funnel","steps":[system,action]}),
        json!({"metric":"funnel","steps":[action,system,action],"order":"strict",
               "filter":{"event_type":["system","action"]}}),
        json!({"metric":"retention","start":system,"return":action}),
        json!({"metric":"retention","start":action,"return":system}),
        json!({"metric":"experiment","exposure":{"event_type":"system","feature":"f1"},"variant":"arm","goal":action}),
        json!({"metric":"experiment","exposure":action,"variant":"arm","goal":system}),
        json!({"metric":"events","limit":80,"filter":system}),
    ]
}

fn answer(engine: &Engine, query: &Value, tz: &str) -> Value {
    let mut query = query.clone();
    query["days"] = json!(DAYS);
    query["tz"] = json!(tz);
    let parsed = Query::parse(query.to_string().as_bytes()).unwrap();
    let answer = engine.query(&parsed, now(), &Cancel::default());
    let answer = answer.unwrap_or_else(|error| panic!("{query}: {error}"));
    let mut answer = serde_json::to_value(answer).unwrap();
    // The cursor is a place in the log.
    answer.as_object_mut().unwrap().remove("next");
    answer
}

fn window() -> WindowRequest {
    WindowRequest {
        days: Some(DAYS),
        ..WindowRequest::default()
    }
}

/// The values of a property.
fn values(engine: &Engine, property: &str) -> Value {
    let request = ValuesRequest {
        property: property.into(),
        window: window(),
        ..ValuesRequest::default()
    };
    let answer = engine.values(&request, now(), &Cancel::default());
    serde_json::to_value(answer.unwrap().values).unwrap()
}

/// The number of exported events that meet a filter.
fn exported(engine: &Engine, filter: &Value) -> usize {
    let filter: Map<String, Value> = serde_json::from_value(filter.clone()).unwrap();
    let query = Query::of_events(window(), filter).unwrap();
    let mut lines = Vec::new();
    let cancel = Cancel::default();
    let exported = engine.export_events(&query, EventFormat::Ndjson, now(), &cancel, |part| {
        lines.extend(part);
        Ok(())
    });
    exported.unwrap();
    lines.iter().filter(|&&byte| byte == b'\n').count()
}

/// Three stores with the same history.
struct Stores {
    mixed: Engine,
    plain: Engine,
    other: Engine,
}

impl Stores {
    fn open(dir: &Path) -> Self {
        Self {
            mixed: open(&dir.join("mixed")),
            plain: open(&dir.join("plain")),
            other: open(&dir.join(OTHER)),
        }
    }

    fn all(&self) -> [&Engine; 3] {
        [&self.mixed, &self.plain, &self.other]
    }

    fn send(&self, events: &[Value]) {
        send(&self.mixed, events);
        send(&self.plain, &without(events));
        let others: Vec<Value> = events.iter().map(renamed).collect();
        send(&self.other, &others);
    }

    fn check(&self, stage: &str) {
        let Self {
            mixed,
            plain,
            other,
        } = self;
        for tz in ["UTC", "Europe/Berlin", WITHOUT_STATES] {
            for query in unnamed() {
                let [found, expected] = [mixed, plain].map(|engine| answer(engine, &query, tz));
                assert_eq!(found, expected, "{stage}, {tz}: {query}");
            }
            for query in named() {
                let found = answer(mixed, &query, tz);
                let expected = answer(other, &renamed(&query), tz);
                assert_eq!(renamed(&found), expected, "{stage}, {tz}: {query}");
            }
            let usage = |engine: &Engine| {
                let request = WindowRequest {
                    tz: Some(tz.into()),
                    ..window()
                };
                json!(engine.usage(&request, now()).unwrap())
            };
            assert_eq!(usage(mixed), usage(plain), "{stage}, {tz}");
        }
        for property in ["event_type", "feature", "url", "metadata.kind", "metadata"] {
            let [found, expected] = [mixed, plain].map(|engine| values(engine, property));
            assert_eq!(found, expected, "{stage}: {property}");
        }
        assert_eq!(exported(mixed, &json!({})), exported(other, &json!({})));
        for filter in [
            json!({"feature":"f1"}),
            json!({"event_type":{"not":"action"}}),
        ] {
            assert_eq!(
                exported(mixed, &filter),
                exported(plain, &filter),
                "{stage}"
            );
        }
        let system = json!({"event_type":"system"});
        let found = exported(mixed, &system);
        assert_eq!(found, exported(other, &renamed(&system)), "{stage}");
        assert!(found > 20, "{found}");
        let lines_of = |engine: &Engine, user: &str| {
            let mut lines = Vec::new();
            let listed = engine.user_events(user, |part| {
                lines.extend(part);
                Ok(())
            });
            listed.unwrap();
            lines.iter().filter(|&&byte| byte == b'\n').count()
        };
        for user in ["u01", "u11"] {
            assert_eq!(lines_of(mixed, user), lines_of(other, user), "{stage}");
        }
    }
}

#[test]
fn queries_see_system_events_only_where_a_filter_names_them() {
    for seed in [7] {
        let dir = folder();
        let stores = Stores::open(dir.path());
        let history = history(seed, 900);
        let (first, later) = history.split_at(500);
        stores.send(first);
        stores.check("unsealed");
        for engine in stores.all() {
            engine.seal(now()).unwrap();
        }
        stores.check("sealed");
        stores.send(later);
        stores.check("partly sealed");
        for engine in stores.all() {
            engine.seal(now()).unwrap();
            engine.rollup(RollupScope::Closed, now()).unwrap();
            let tomorrow = now() + TimeDelta::days(1);
            engine.compact(tomorrow, CompactionScope::Full).unwrap();
        }
        stores.check("compacted, with columns");
        let rollups = |store: &str| std::fs::read(dir.path().join(store).join("analytics.ndjson"));
        assert_eq!(rollups("mixed").unwrap(), rollups("plain").unwrap());
        drop(stores);
        let stores = Stores::open(dir.path());
        // What the restart finds, and what the nightly expiry leaves of the dictionary.
        for engine in stores.all() {
            engine.expire(now().date_naive(), Clock::Confirmed).unwrap();
        }
        stores.check("opened again");
        for engine in stores.all() {
            assert_eq!(engine.rebuild().unwrap().changed, 0);
        }
        drop(stores);
        let stores = Stores::open(dir.path());
        stores.check("rebuilt, opened again");
        let gone = ["u02", "u12"].map(str::to_owned);
        for engine in stores.all() {
            engine
                .by(COMMAND_LINE, now())
                .erase(&gone, None, &Progress::default())
                .unwrap();
        }
        stores.check("erased");
        assert_eq!(
            exported(
                &stores.mixed,
                &json!({"event_type":"system","user_id":"u12"})
            ),
            0
        );
        assert_eq!(stores.mixed.rebuild().unwrap().changed, 0);
        let verified = stores.mixed.verify(&Progress::default()).unwrap();
        assert!(verified.damage.is_empty(), "{:?}", verified.damage);
    }
}

#[test]
fn the_views_of_sql_hide_system_events_as_the_engine_does() {
    let dir = folder();
    let engine = open(dir.path());
    send(&engine, &history(9, 600));
    engine.seal(now()).unwrap();
    let lake = dir.path().join("events");
    let lake = lake.to_str().unwrap();
    let (days, end) = (DAYS.to_string(), now().date_naive().to_string());
    let rows_of = |sql: &str| -> Value {
        let printed = run_queries(&["run", lake, sql, "--days", &days, "--end", &end]);
        let rows = String::from_utf8(printed.stdout).unwrap();
        serde_json::from_str(&rows.replace("occurrences", "events")).unwrap()
    };
    let seen = answer(&engine, &json!({"metric":"event_types"}), "UTC");
    assert_eq!(rows_of("queries/event_types.sql"), seen["rows"]);
    // The view of all events.
    let sql = std::fs::read_to_string("queries/event_types.sql").unwrap();
    let of_all = dir.path().join("all.sql");
    std::fs::write(&of_all, sql.replace("from events", "from all_events")).unwrap();
    let types = ["page_view", "action", "conversion", "system"];
    let all = json!({"metric":"event_types","filter":{"event_type":types}});
    let all = answer(&engine, &all, "UTC");
    assert_eq!(all["rows"].as_array().unwrap().len(), 4);
    assert_eq!(rows_of(of_all.to_str().unwrap()), all["rows"]);
}
