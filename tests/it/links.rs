//! Links between ids: an identity call makes an id an alias of a user, and every metric counts both
//! as one user, whatever the order of arrival.
//!
//! Two stores get the same history: one as clients send it, the other with the ids that count,
//! which a model finds from all identity calls. Their results are the same at every stage.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use chrono::{DateTime, Datelike, TimeDelta, Utc};
use echopilot_analytics::engine::{
    COMMAND_LINE, Cancel, Engine, ExportRequest, RollupScope, UserLinksAnswer, UserLinksRequest,
};
use echopilot_analytics::export::warehouse::Warehouse;
use echopilot_analytics::metrics::cohort::Cohort;
use echopilot_analytics::metrics::query::Query;
use echopilot_analytics::monitoring::{self, PageFormat};
use echopilot_analytics::plan::Plan;
use echopilot_analytics::progress::Progress;
use echopilot_analytics::store::CompactionScope;
use echopilot_analytics::window::WindowRequest;
use serde_json::{Value, json};

use crate::erasure::files_with;
use crate::faults::with_fault;
use crate::harness::{
    KEY, PATIENCE, Server, at_time, echopilot, folder, ingest, numbers_below, printed, run,
    run_json, store_config,
};
use crate::metrics::run_queries;
use crate::monitoring::Page;
use crate::public_limits::until;

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
    let plan = Plan::parse(br#"{"event_types":[{"name":"system"}]}"#).unwrap();
    engine.by(COMMAND_LINE, now()).set_plan(plan).unwrap();
    for cohort in [
        json!({"name":"buyers","did":{"filter":{"event_type":"conversion"},"at_least":2}}),
        json!({"name":"some","users":["u1","u2"]}),
    ] {
        let cohort = Cohort::parse(cohort.to_string().as_bytes()).unwrap();
        engine.set_cohort(cohort).unwrap();
    }
    engine
}

/// An event at a second of its own.
fn event(second: i64, event_type: &str, user: &str, feature: &str) -> Value {
    let ts = now() - TimeDelta::seconds(second);
    json!({"ts": ts.to_rfc3339(), "event_type": event_type, "user_id": user, "feature": feature,
        "metadata": {"kind": event_type, "arm": format!("a{}", second % 2)}})
}

fn identify(second: i64, user: &str, alias: &str) -> Value {
    let mut event = event(second, "system", user, "identify");
    event["metadata"] = json!({"previous_id": alias});
    event
}

/// Events of visitors and users in any order, with identity calls that contradict each other.
fn history(seed: u64, count: usize) -> Vec<Value> {
    let mut below = numbers_below(seed);
    let id = |number: u64| match number {
        0..5 => format!("u{number}"),
        _ => format!("a{number:02}"),
    };
    let mut seconds = BTreeSet::new();
    let mut events = Vec::new();
    while events.len() < count {
        let second = below(DAYS.unsigned_abs() * 86_400 - 50_000) as i64;
        if !seconds.insert(second) {
            continue;
        }
        let types = ["page_view", "action", "conversion"];
        events.push(match below(8) {
            // Mostly a user and a visitor; now and then a visitor is named as a user.
            0 => {
                let user = if below(12) == 0 { below(20) } else { below(5) };
                identify(second, &id(user), &id(3 + below(17)))
            }
            _ => {
                let event_type = types[below(3) as usize];
                let feature = format!("f{}", below(4));
                event(second, event_type, &id(below(20)), &feature)
            }
        });
    }
    // The history begins with an event that both see.
    events.push(event(DAYS * 86_400 - 49_000, "page_view", "u0", "f0"));
    events
}

fn text<'a>(event: &'a Value, field: &str) -> &'a str {
    event[field].as_str().unwrap()
}

/// The links by their definition.
fn links_of(events: &[Value]) -> BTreeMap<String, String> {
    let mut calls: Vec<&Value> = events
        .iter()
        .filter(|event| event["event_type"] == "system")
        .collect();
    let users: BTreeSet<&str> = calls.iter().map(|call| text(call, "user_id")).collect();
    calls.sort_by_key(|call| text(call, "ts").to_owned());
    let mut links = BTreeMap::new();
    for call in calls {
        let alias = text(&call["metadata"], "previous_id");
        if !users.contains(alias) {
            let user = || text(call, "user_id").to_owned();
            links.entry(alias.to_owned()).or_insert_with(user);
        }
    }
    links
}

/// The events with the ids that count, without identity calls.
fn counted(events: &[Value], links: &BTreeMap<String, String>) -> Vec<Value> {
    let seen = events
        .iter()
        .filter(|event| event["event_type"] != "system");
    let linked = seen.map(|event| {
        let mut event = event.clone();
        if let Some(user) = links.get(text(&event, "user_id")) {
            event["user_id"] = json!(user);
        }
        event
    });
    linked.collect()
}

fn send(engine: &Engine, events: &[Value]) {
    for some in events.chunks(100) {
        assert_eq!(ingest(engine, some, now()).logged, some.len());
    }
}

fn queries() -> Vec<Value> {
    let steps = json!([{"feature":"f0"},{"feature":["f1","f2"]},{"feature":"f3"}]);
    vec![
        json!({"metric":"active_users"}),
        json!({"metric":"active_users","grain":"week"}),
        json!({"metric":"active_users","filter":{"event_type":["action","conversion"]}}),
        json!({"metric":"active_users","filter":{"feature":"f1"}}),
        json!({"metric":"active_users","filter":{"metadata.arm":"a1"}}),
        json!({"metric":"active_users","filter":{"user_id":["u1","u3","a09"]}}),
        json!({"metric":"active_users","filter":{"cohort":"buyers"}}),
        json!({"metric":"active_users","filter":{"cohort":{"not":"some"}}}),
        json!({"metric":"feature_usage"}),
        json!({"metric":"feature_usage","breakdown":"metadata.kind"}),
        json!({"metric":"event_types"}),
        json!({"metric":"event_types","filter":{"cohort":"some"}}),
        json!({"metric":"trends","compare":"previous","rolling":3,
            "series":[{"measure":"users"},{"measure":"sessions"},{"measure":"events_per_user"}]}),
        json!({"metric":"trends","grain":"hour","breakdown":"feature","series":[{"measure":"users"}]}),
        json!({"metric":"sessions"}),
        json!({"metric":"lifecycle"}),
        json!({"metric":"stickiness"}),
        json!({"metric":"funnel","steps":steps}),
        json!({"metric":"funnel","steps":steps,"order":"strict"}),
        json!({"metric":"funnel","steps":steps,"order":"any","breakdown":"metadata.kind"}),
        json!({"metric":"retention","ever":true}),
        json!({"metric":"retention","cohort":"recurring","start":{"feature":"f1"}}),
        json!({"metric":"paths"}),
        json!({"metric":"experiment","exposure":{"feature":"f1"},"variant":"arm","goal":{"feature":"f2"}}),
        json!({"metric":"events","limit":50}),
        json!({"metric":"events","limit":50,"filter":{"user_id":"u2"}}),
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

fn usage(engine: &Engine, tz: &str) -> Value {
    let request = WindowRequest {
        days: Some(DAYS),
        tz: Some(tz.into()),
        ..WindowRequest::default()
    };
    json!(engine.usage(&request, now()).unwrap())
}

/// Checks that a store counts as another one.
fn check(linked: &Engine, model: &Engine, stage: &str) {
    for tz in ["UTC", "Europe/Berlin", WITHOUT_STATES] {
        assert_eq!(usage(linked, tz), usage(model, tz), "{stage}, {tz}");
        for query in queries() {
            let [found, expected] = [linked, model].map(|engine| answer(engine, &query, tz));
            assert_eq!(found, expected, "{stage}, {tz}: {query}");
        }
    }
}

/// Number of funnels that were computed from columns alone.
fn from_columns(engine: &Engine) -> u64 {
    let page = monitoring::page(engine.monitoring(), Vec::new(), 0, PageFormat::Text);
    let mut counts = page.lines().filter_map(|line| {
        let labels = line.strip_prefix("echopilot_query_duration_seconds_count{")?;
        let is_it = labels.contains("\"funnel\"") && labels.contains("\"columns\"");
        labels.rsplit(' ').next()?.parse().ok().filter(|_| is_it)
    });
    counts.next().unwrap_or(0)
}

fn list(engine: &Engine) -> UserLinksAnswer {
    engine.user_links(&UserLinksRequest::default()).unwrap()
}

fn held(answer: &UserLinksAnswer) -> BTreeMap<String, String> {
    let holding = answer.links.iter().filter(|link| link.rejected.is_none());
    holding
        .map(|link| (link.alias.clone(), link.user_id.clone()))
        .collect()
}

/// Exchanges events at random.
fn shuffled(mut events: Vec<Value>, seed: u64) -> Vec<Value> {
    let mut below = numbers_below(seed);
    for place in (1..events.len()).rev() {
        events.swap(place, below(place as u64 + 1) as usize);
    }
    events
}

fn lines_of(engine: &Engine, user: &str) -> usize {
    let mut lines = Vec::new();
    let listed = engine.user_events(user, |part| {
        lines.extend(part);
        Ok(())
    });
    listed.unwrap();
    lines.iter().filter(|&&byte| byte == b'\n').count()
}

#[test]
fn every_metric_counts_the_users_that_a_model_finds_at_every_stage() {
    for seed in [11] {
        let dir = folder();
        let stores = || ["linked", "model"].map(|name| open(&dir.path().join(name)));
        let [mut linked, mut model] = stores();
        let mut history = shuffled(history(seed, 700), seed);
        let ts = |place: &usize| text(&history[*place], "ts").to_owned();
        let oldest = (0..history.len()).min_by_key(ts).unwrap();
        history.swap(0, oldest);
        let links = links_of(&history);
        assert!(links.len() > 8, "{links:?}");
        let (first, later) = history.split_at(400);
        let links_of_first = links_of(first);
        {
            let early = open(&dir.path().join("early"));
            send(&early, &counted(first, &links_of_first));
            send(&linked, first);
            check(&linked, &early, "unsealed");
            linked.seal(now()).unwrap();
            early.seal(now()).unwrap();
            check(&linked, &early, "sealed");
            let tomorrow = now() + TimeDelta::days(1);
            linked.compact(tomorrow, CompactionScope::Full).unwrap();
            check(&linked, &early, "with columns");
        }
        linked.rollup(RollupScope::Closed, now()).unwrap();
        send(&linked, later);
        send(&model, &counted(&history, &links));
        check(
            &linked,
            &model,
            "partly sealed, with links that change those before",
        );
        assert_eq!(held(&list(&linked)), links);
        for engine in [&linked, &model] {
            engine.seal(now()).unwrap();
        }
        check(&linked, &model, "sealed again");
        for engine in [&linked, &model] {
            engine.rollup(RollupScope::Closed, now()).unwrap();
            let tomorrow = now() + TimeDelta::days(1);
            engine.compact(tomorrow, CompactionScope::Full).unwrap();
        }
        let before = from_columns(&linked);
        check(&linked, &model, "compacted, with columns");
        assert!(
            from_columns(&linked) > before,
            "columns are not written again"
        );
        let rollups = |store: &str| std::fs::read(dir.path().join(store).join("analytics.ndjson"));
        assert_eq!(rollups("linked").unwrap(), rollups("model").unwrap());
        drop((linked, model));
        [linked, model] = stores();
        check(&linked, &model, "opened again");
        assert_eq!(held(&list(&linked)), links);
        assert_eq!(linked.rebuild().unwrap().changed, 0);
        check(&linked, &model, "rebuilt");
        let (alias, user) = links.first_key_value().unwrap();
        let of_user = counted(&history, &links);
        let of_user = of_user.iter().filter(|event| event["user_id"] == **user);
        let calls = history.iter().filter(|event| {
            event["event_type"] == "system"
                && (event["user_id"] == **user || links.get(text(event, "user_id")) == Some(user))
        });
        assert_eq!(lines_of(&linked, alias), of_user.count() + calls.count());
        assert_eq!(lines_of(&linked, user), lines_of(&linked, alias));
        for (engine, id) in [(&linked, alias), (&model, user)] {
            let by = engine.by(COMMAND_LINE, now());
            by.erase(std::slice::from_ref(id), None, &Progress::default())
                .unwrap();
        }
        check(&linked, &model, "erased");
        let left = held(&list(&linked));
        assert!(left.values().all(|of| of != user) && left.len() < links.len());
        assert_eq!(lines_of(&linked, user), 0);
        let verified = linked.verify(&Progress::default()).unwrap();
        assert!(verified.damage.is_empty(), "{:?}", verified.damage);
        drop((linked, model));
        [linked, model] = stores();
        check(&linked, &model, "erased and opened again");
    }
}

/// Users of all days, of all weeks and of the window that usage counts, and those that the calls
/// and events give.
fn users_of(engine: &Engine, history: &[Value]) -> [[usize; 3]; 2] {
    let found = usage(engine, "UTC");
    let found = ["users_per_day", "users_per_week", "mau"].map(|field| found[field].as_u64());
    let (mut by_day, mut by_week) = (BTreeSet::new(), BTreeSet::new());
    for event in counted(history, &links_of(history)) {
        let user = text(&event, "user_id").to_owned();
        let ts: DateTime<Utc> = text(&event, "ts").parse().unwrap();
        by_day.insert((ts.date_naive(), user.clone()));
        by_week.insert((ts.iso_week(), user));
    }
    let users: BTreeSet<&String> = by_day.iter().map(|(_, user)| user).collect();
    let expected = [by_day.len(), by_week.len(), users.len()];
    [found.map(|users| users.unwrap() as usize), expected]
}

#[test]
fn links_that_are_added_and_end_between_queries_count_at_once() {
    let dir = folder();
    let engine = open(dir.path());
    let (calls, mut known): (Vec<Value>, Vec<Value>) = history(12, 700)
        .into_iter()
        .partition(|event| event["event_type"] == "system");
    send(&engine, &known);
    engine.seal(now()).unwrap();
    for (step, some) in calls.chunks(2).enumerate() {
        send(&engine, some);
        known.extend_from_slice(some);
        if step % 10 == 9 {
            engine.seal(now()).unwrap();
        }
        let [found, expected] = users_of(&engine, &known);
        assert_eq!(found, expected, "{step}");
    }
}

#[test]
fn a_removed_link_ends_in_all_numbers_and_stays_away() {
    let dir = folder();
    let linked = open(&dir.path().join("linked"));
    let mut history = history(5, 400);
    let links = links_of(&history);
    send(&linked, &history);
    linked.seal(now()).unwrap();
    let tomorrow = now() + TimeDelta::days(1);
    linked.compact(tomorrow, CompactionScope::Full).unwrap();
    let (alias, _) = links.last_key_value().unwrap();
    let by = linked.by(COMMAND_LINE, now());
    by.remove_user_link(alias).unwrap();
    assert!(by.remove_user_link(alias).is_err());
    // The same call again says nothing new.
    let call = history
        .iter()
        .find(|event| event["metadata"]["previous_id"] == **alias);
    send(&linked, &[call.unwrap().clone()]);
    let mut left = links.clone();
    left.remove(alias);
    assert_eq!(held(&list(&linked)), left);
    history.retain(|event| event["metadata"]["previous_id"] != **alias);
    let model = open(&dir.path().join("model"));
    send(&model, &counted(&history, &left));
    check(&linked, &model, "removed");
    linked.compact(tomorrow, CompactionScope::Full).unwrap();
    check(&linked, &model, "removed, with columns");
    drop(linked);
    let linked = open(&dir.path().join("linked"));
    check(&linked, &model, "removed, and opened again");
}

/// The stages of the events of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Unsealed,
    Sealed,
    /// With columns, and an export in the data folder.
    Compacted,
}

fn open_at(dir: &Path, key: Option<&Path>) -> Engine {
    let mut config = store_config(dir);
    config.zones = "UTC,Europe/Berlin".parse().unwrap();
    config.limit_erasure_percent = 100;
    config.user_key_file = key.map(Path::to_owned);
    let engine = Engine::open(&config, "the test", now()).unwrap();
    set_plan(&engine, json!({"name": "system"}));
    engine
}

fn set_plan(engine: &Engine, event_type: Value) {
    let plan = json!({"event_types": [event_type]}).to_string();
    let plan = Plan::parse(plan.as_bytes()).unwrap();
    engine.by(COMMAND_LINE, now()).set_plan(plan).unwrap();
}

fn erase(engine: &Engine, id: &str) -> Value {
    let by = engine.by(COMMAND_LINE, now());
    let receipt = by.erase(&[id.to_owned()], None, &Progress::default());
    json!(receipt.unwrap())
}

fn export_into(engine: &Engine, to: &Path) {
    let request = ExportRequest {
        to: to.to_str().unwrap().to_owned(),
        target: Warehouse::Plain,
        window: None,
        since: None,
    };
    engine
        .export(&request, now(), &Progress::default())
        .unwrap();
}

/// Events of others who stay, one of whom has an identity call on a day with none of theirs else.
fn others() -> Vec<Value> {
    let mut events = Vec::new();
    for (place, user) in ["u1", "u2", "u3", "u4"].into_iter().enumerate() {
        let second = place as i64;
        events.push(event(100 + second, "action", user, "f1"));
        events.push(event(100_000 + second, "page_view", user, "f2"));
        events.push(identify(200 + second, user, &format!("a{second}")));
    }
    events.push(identify(300_000, "u1", "a0"));
    events
}

#[test]
fn an_erased_id_is_in_no_identity_call_of_another_user() {
    let stages = [Stage::Unsealed, Stage::Sealed, Stage::Compacted];
    for (stage, has_key) in stages
        .into_iter()
        .flat_map(|stage| [(stage, false), (stage, true)])
    {
        let place = format!("{stage:?}, user key: {has_key}");
        let dir = folder();
        let [data, key] = ["data", "key"].map(|name| dir.path().join(name));
        std::fs::write(&key, "a key of more than sixteen bytes").unwrap();
        let key = has_key.then_some(key.as_path());
        let mut engine = open_at(&data, key);
        let own = [
            identify(600, "gone-user", "gone-visitor"),
            event(601, "action", "gone-user", "f1"),
            event(100_601, "page_view", "gone-visitor", "f2"),
            event(602, "action", "gone-device", "f1"),
        ];
        let removed_link = identify(700, "u3", "gone-device");
        let rejected = [
            // An alias of another user, and a known user. The last one is all of its user's day.
            identify(400, "u1", "gone-visitor"),
            identify(401, "u2", "gone-user"),
            identify(300_402, "u4", "gone-user"),
        ];
        send(&engine, &own);
        let link = list(&engine).links.remove(0);
        let mut ids = vec![link.alias, link.user_id];
        send(&engine, std::slice::from_ref(&removed_link));
        let new = list(&engine).links.into_iter().map(|link| link.alias);
        ids.extend(new.filter(|alias| *alias != ids[0]).collect::<Vec<_>>());
        let by = engine.by(COMMAND_LINE, now());
        by.remove_user_link("gone-device").unwrap();
        send(&engine, &rejected);
        send(&engine, &others());
        assert_eq!(list(&engine).rejected, 3, "{place}");
        if stage != Stage::Unsealed {
            engine.seal(now()).unwrap();
        }
        if stage == Stage::Compacted {
            let tomorrow = now() + TimeDelta::days(1);
            engine.compact(tomorrow, CompactionScope::Full).unwrap();
            export_into(&engine, &data.join("out/lake"));
        }
        // Quarantined calls.
        let strict = json!({"name": "system", "mode": "quarantine",
            "metadata": {"required": ["declared"]}});
        set_plan(&engine, strict);
        let calls = [identify(800, "u1", "gone-user"), identify(801, "u1", "a0")];
        assert_eq!(ingest(&engine, &calls, now()).quarantined, 2);
        set_plan(&engine, json!({"name": "system"}));
        for id in &ids {
            assert!(!files_with(&data, id).is_empty(), "{place}: {id}");
        }

        let receipt = erase(&engine, "gone-visitor");
        let counts = ["events", "aliases", "identity_calls", "held", "days"];
        let found = counts.map(|count| receipt[count].as_u64().unwrap_or(0));
        assert_eq!(found, [3, 1, 3, 1, 2], "{place}: {receipt}");
        let receipt = erase(&engine, "gone-device");
        let found = counts.map(|count| receipt[count].as_u64().unwrap_or(0));
        assert_eq!(found, [1, 0, 1, 0, 1], "{place}: {receipt}");
        // They are sent again, and do not come back.
        let again: Vec<Value> = own
            .into_iter()
            .chain([removed_link])
            .chain(rejected)
            .collect();
        let response = ingest(&engine, &again, now());
        let answered = (response.logged, response.ignored);
        assert_eq!(answered, (0, again.len()), "{place}");
        engine.seal(now()).unwrap();

        let model = open_at(&dir.path().join("model"), key);
        send(&model, &others());
        model.seal(now()).unwrap();
        let calls = json!({"metric":"event_types","filter":{"event_type":"system"}});
        let users = json!({"metric":"active_users"});
        for reopened in [false, true] {
            if reopened {
                drop(engine);
                engine = open_at(&data, key);
            }
            for (query, tz) in [(&calls, "UTC"), (&users, "UTC"), (&users, "Europe/Berlin")] {
                let [found, expected] = [&engine, &model].map(|of| answer(of, query, tz));
                assert_eq!(found, expected, "{place}: {query}");
            }
            let [found, expected] = [&engine, &model].map(|of| held(&list(of)));
            assert_eq!(found, expected, "{place}");
            for id in ids.iter().map(String::as_str).chain(["gone-"]) {
                let found = files_with(&data, id);
                assert_eq!(found, Vec::<PathBuf>::new(), "{place}: {id}");
            }
            let verified = engine.verify(&Progress::default()).unwrap();
            assert!(verified.damage.is_empty(), "{place}: {:?}", verified.damage);
        }
        // The states are those of the events that are left.
        assert_eq!(engine.rebuild().unwrap().changed, 0, "{place}");
    }
}

/// A request of a client of `PostHog`.
fn capture(server: &Server, id: &str, event: &str, user: &str, properties: Value) {
    let mut properties = properties;
    properties["distinct_id"] = json!(user);
    properties["$device_id"] = json!("device-1");
    let body = json!({"uuid": id, "event": event, "properties": properties,
        "timestamp": format!("2026-03-05T10:00:{:02}Z", id.len())});
    let body = json!({"api_key": "phc_1", "batch": [body]}).to_string();
    let (status, answer) = server.ask_text("/batch", body, &[]);
    assert_eq!(status, 200, "{answer:?}");
}

#[test]
fn a_visit_with_a_sign_up_is_one_user_before_and_after_everything() {
    let dir = folder();
    let start = || {
        let mut command = echopilot(dir.path());
        at_time(&mut command, "2026-03-05 10:30:00");
        command.env("ECHOPILOT_CONVERSIONS", "purchase");
        Server::start_as(command)
    };
    let one_user = |server: &Server, stage: &str| {
        let usage = server.usage("?days=1");
        assert_eq!(
            (&usage["mau"], &usage["dau"]),
            (&json!(1), &json!(1.0)),
            "{stage}: {usage}"
        );
        let steps = json!([{"feature":"pricing"},{"feature":"sign-up"},{"feature":"purchase"}]);
        let query = json!({"metric":"funnel","steps":steps,"days":1});
        let (status, answer) = server.ask("/api/analytics/query", &query);
        assert_eq!(status, 200, "{answer}");
        let users = answer["rows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| &row["users"]);
        assert!(
            users.eq([&json!(1), &json!(1), &json!(1)]),
            "{stage}: {answer}"
        );
    };
    let server = start();
    let page = json!({"$current_url": "https://shop.example/pricing"});
    capture(&server, "1", "$pageview", "anon-1", page);
    capture(&server, "22", "sign-up", "anon-1", json!({}));
    capture(
        &server,
        "333",
        "$identify",
        "user-1",
        json!({"$anon_distinct_id": "anon-1"}),
    );
    capture(
        &server,
        "4444",
        "purchase",
        "user-1",
        json!({"$is_identified": true}),
    );
    one_user(&server, "in the log");
    let (status, listed) = server.get("/api/analytics/links");
    assert_eq!(status, 200, "{listed}");
    let expected = json!([{"alias":"anon-1","user_id":"user-1","since":"2026-03-05T10:00:03Z"}]);
    assert_eq!(listed["links"], expected);
    assert_eq!(
        (&listed["total"], &listed["next"]),
        (&json!(1), &Value::Null)
    );
    server.kill();
    let server = start();
    one_user(&server, "killed and started again");
    server.stop();
    let run_at = |arguments: &[&str]| {
        let mut command = echopilot(dir.path());
        at_time(&mut command, "2026-03-05 10:30:00");
        let done = command.args(arguments).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {done:?}");
        done.stdout
    };
    run_at(&["seal"]);
    let server = start();
    one_user(&server, "sealed");
    server.stop();
    run_at(&["rebuild"]);
    let server = start();
    one_user(&server, "rebuilt");
    until("the links are sampled", || {
        Page::of(&server).value("echopilot_links{outcome=\"linked\"}") == 1.0
    });
    // DuckDB over lake and links counts the same.
    let lake = dir.path().join("events");
    let active = [
        "run",
        lake.to_str().unwrap(),
        "queries/active_users.sql",
        "--days",
        "1",
        "--end",
        "2026-03-05",
    ];
    let rows: Value = serde_json::from_slice(&run_queries(&active).stdout).unwrap();
    assert_eq!(rows[0]["dau"], 1, "{rows}");
    let listed: Value = serde_json::from_slice(&run_at(&["links", "list"])).unwrap();
    assert_eq!(listed["links"], expected);
    let (status, gone) = server.delete("/api/analytics/links/anon-1");
    assert_eq!((status, &gone["alias"]), (200, &json!("anon-1")));
    assert_eq!(server.delete("/api/analytics/links/anon-1").0, 404);
    let usage = server.usage("?days=1");
    assert_eq!(usage["mau"], 2, "{usage}");
}

/// An event of Segment's clients with two ids of a user, after so many seconds of the hour.
fn track(id: &str, second: u32, alias: &str, user: &str) -> Value {
    let (minute, second) = (second / 60, second % 60);
    json!({"type": "track", "event": "used", "messageId": id, "anonymousId": alias, "userId": user,
        "timestamp": format!("2026-03-05T10:{minute:02}:{second:02}.000Z")})
}

fn send_messages(server: &Server, messages: &[Value]) {
    let (status, answer) = server.ask("/v1/batch", &json!({"batch": messages}));
    assert_eq!((status, answer), (200, json!({"success": true})));
}

/// The metadata of all identity calls of a server.
fn calls(server: &Server) -> Vec<Value> {
    let path = "/api/analytics/export?days=365&format=ndjson";
    let (status, export) = server.get_bytes(path, &[("x-dash-key", KEY)]);
    assert_eq!(status, 200);
    let export = String::from_utf8(export).unwrap();
    let events = export.lines().map(serde_json::from_str);
    let events = events.map(|event: Result<Value, _>| event.unwrap());
    events
        .filter(|event| event["event_type"] == "system")
        .map(|event| event["metadata"].clone())
        .collect()
}

#[test]
fn events_with_two_ids_link_them_and_cost_one_identity_call() {
    let dir = folder();
    let start = || {
        let mut command = echopilot(dir.path());
        at_time(&mut command, "2026-03-05 10:50:00");
        Server::start_as(command)
    };
    let server = start();
    let page = json!({"type": "page", "name": "prices", "messageId": "page", "anonymousId": "anon-1",
        "timestamp": "2026-03-05T10:00:00Z"});
    send_messages(&server, &[page]);
    for batch in 0..10 {
        let events = (0..100).map(|n| track(&format!("{batch}-{n}"), 600 + n, "anon-1", "user-1"));
        send_messages(&server, &events.collect::<Vec<_>>());
    }
    let expected = json!({"previous_id": "anon-1", "by": "action"});
    assert_eq!(calls(&server), [expected]);
    let usage = server.usage("?days=1");
    let counts = (&usage["mau"], &usage["total_events"]);
    assert_eq!(counts, (&json!(1), &json!(1_001)), "{usage}");
    // Sent again, after a restart, after a seal.
    send_messages(&server, &[track("0-0", 600, "anon-1", "user-1")]);
    assert_eq!(calls(&server).len(), 1);
    server.stop();
    let server = start();
    run_json(dir.path(), &["seal"]);
    for n in 0..3 {
        let event = track(&format!("later-{n}"), 700 + n, "anon-1", "user-1");
        send_messages(&server, &[event.clone(), event]);
    }
    assert_eq!(calls(&server).len(), 1);
    let since = |server: &Server| {
        let (_, listed) = server.get("/api/analytics/links");
        assert_eq!(listed["total"], 1, "{listed}");
        listed["links"][0]["since"].clone()
    };
    assert_eq!(since(&server), "2026-03-05T10:10:00Z");
    // Late events have earlier times; the first comes last.
    let late = |n: u32| track(&format!("late-{n}"), 100 - n, "anon-1", "user-1");
    send_messages(&server, &(0..41).map(late).collect::<Vec<_>>());
    send_messages(&server, &[track("late", 60, "anon-1", "user-1")]);
    assert_eq!(calls(&server).len(), 2);
    assert_eq!(since(&server), "2026-03-05T10:01:00Z");
    // Another user of the same browser is rejected, once.
    for n in 0..4 {
        let event = |part: u32| track(&format!("other-{n}-{part}"), 900 + n, "anon-1", "user-2");
        send_messages(&server, &[event(0), event(1)]);
        if n == 1 {
            run_json(dir.path(), &["seal"]);
        }
    }
    assert_eq!(calls(&server).len(), 3);
    let (_, rejected) = server.get("/api/analytics/links?rejected=true");
    assert_eq!(
        rejected["links"],
        json!([{"alias": "anon-1", "user_id": "user-2", "since": "2026-03-05T10:15:00Z",
            "rejected": "other_user"}])
    );
    // Neither equal ids nor placeholders.
    for (n, alias) in ["user-3", "undefined", "0", ""].into_iter().enumerate() {
        let event = track(&format!("none-{n}"), 950, alias, "user-3");
        send_messages(&server, &[event]);
    }
    assert_eq!(calls(&server).len(), 3);
    let usage = server.usage("?days=1");
    assert_eq!(usage["mau"], 3, "{usage}");
    // A link that was removed comes back with an event after that, and not with one before.
    assert_eq!(server.delete("/api/analytics/links/anon-1").0, 200);
    send_messages(&server, &[track("old", 30, "anon-1", "user-1")]);
    assert_eq!(calls(&server).len(), 3);
    for n in 0..3 {
        let event = track(&format!("new-{n}"), 3_500 + n, "anon-1", "user-2");
        send_messages(&server, &[event]);
    }
    assert_eq!(calls(&server).len(), 4);
    let (_, listed) = server.get("/api/analytics/links");
    assert_eq!(listed["links"][0]["user_id"], "user-2", "{listed}");
    let (_, page) = server.get_bytes("/metrics", &[("x-dash-key", KEY)]);
    let page = String::from_utf8(page).unwrap();
    // Since the restart: 61 events, and the calls of the late one, the other user and the new one.
    let line = "echopilot_ingest_events_total{family=\"segment\",outcome=\"logged\"} 64\n";
    assert!(page.contains(line), "{page}");
    // An event of before the erasure is not stored, nor a call.
    let (status, _) = server.delete("/api/analytics/users/user-2");
    assert_eq!(status, 200);
    let left = calls(&server);
    send_messages(&server, &[track("gone-1", 2_900, "anon-1", "user-4")]);
    send_messages(&server, &[track("gone-2", 2_900, "anon-2", "user-2")]);
    assert_eq!(calls(&server), left);
    // After it both ids are those of a new user.
    send_messages(&server, &[track("back", 3_520, "anon-1", "user-4")]);
    assert_eq!(calls(&server).len(), left.len() + 1);
    let (_, listed) = server.get("/api/analytics/links");
    assert_eq!(listed["links"][0]["user_id"], "user-4", "{listed}");
}

#[test]
fn a_batch_that_failed_and_is_repeated_links_its_ids() {
    let dir = folder();
    let flag = dir.path().with_extension("flag");
    let mut command = echopilot(dir.path());
    with_fault(&mut command, dir.path(), "enospc", 1);
    command.env("FAULT_FLAG", &flag);
    let server = Server::start_as(command);
    let mut event = track("m-1", 0, "anon-1", "user-1");
    event.as_object_mut().unwrap().remove("timestamp");
    let batch = json!({"batch": [event]});
    std::fs::write(&flag, "").unwrap();
    assert_eq!(server.ask_with("/v1/batch", &batch, &[]).0, 503);
    std::fs::remove_file(&flag).unwrap();
    let started = Instant::now();
    while server.ask_with("/v1/batch", &batch, &[]).0 != 200 {
        assert!(started.elapsed() < PATIENCE, "the disk stays full");
    }
    assert_eq!(calls(&server).len(), 1);
    send_messages(&server, &[event]);
    assert_eq!(calls(&server).len(), 1);
    let (_, listed) = server.get("/api/analytics/links");
    assert_eq!(listed["links"][0]["alias"], "anon-1", "{listed}");
}

#[test]
fn ids_under_keyed_hashes_are_linked_by_one_identity_call() {
    let dir = folder();
    let key = dir.path().join("key");
    std::fs::write(&key, "0123456789abcdef0123456789abcdef").unwrap();
    let data = dir.path().join("data");
    let mut command = echopilot(&data);
    at_time(&mut command, "2026-03-05 10:50:00");
    command.env("ECHOPILOT_USER_KEY_FILE", &key);
    let server = Server::start_as(command);
    for n in 0..4 {
        let event = track(&format!("m-{n}"), 600 + n, "anon-1", "user-1");
        send_messages(&server, &[event]);
        if n == 1 {
            let mut command = echopilot(&data);
            command.env("ECHOPILOT_USER_KEY_FILE", &key).arg("seal");
            printed(&mut command);
        }
    }
    let found = calls(&server);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_ne!(found[0]["previous_id"], "anon-1");
    assert_eq!(server.usage("?days=1")["mau"], 1);
}

/// The times of a file are those of the past, and its parts are read concurrently.
#[test]
fn an_import_stores_one_identity_call_for_two_ids_in_several_parts() {
    let dir = folder();
    let file = dir.path().join("archive.json");
    let mut lines = String::new();
    for n in 0..40_000_u32 {
        let mut message = track(&format!("m-{n}"), n / 12, "anon-1", "user-1");
        message["properties"] = json!({"long": "x".repeat(400)});
        if n % 10_000 == 9_999 {
            message["anonymousId"] = json!("anon-2");
        }
        lines += &message.to_string();
        lines.push('\n');
    }
    assert!(lines.len() > 20 << 20, "there is one part");
    std::fs::write(&file, lines).unwrap();
    let data = dir.path().join("data");
    let import = || {
        let mut command = echopilot(&data);
        at_time(&mut command, "2026-03-05 11:30:00");
        command.args(["import", "--from", "segment"]).arg(&file);
        let answer: Value = serde_json::from_slice(&printed(&mut command)).unwrap();
        ["accepted", "duplicates", "identity_calls"].map(|name| answer[name].as_u64().unwrap_or(0))
    };
    assert_eq!(import(), [40_000, 0, 2]);
    assert_eq!(import(), [0, 40_000, 0]);
    let mut command = echopilot(&data);
    at_time(&mut command, "2026-03-05 11:30:00");
    let server = Server::start_as(command);
    assert_eq!(calls(&server).len(), 2);
    let usage = server.usage("?days=1");
    let counts = (&usage["mau"], &usage["total_events"]);
    assert_eq!(counts, (&json!(1), &json!(40_000)), "{usage}");
    let (_, listed) = server.get("/api/analytics/links");
    assert_eq!(listed["total"], 2, "{listed}");
}

#[test]
fn sql_over_lake_and_links_counts_as_the_engine_does() {
    let dir = folder();
    let engine = open(dir.path());
    let history = history(8, 500);
    send(&engine, &history);
    engine.seal(now()).unwrap();
    let lake = dir.path().join("events");
    let lake = lake.to_str().unwrap();
    let (days, end) = (DAYS.to_string(), now().date_naive().to_string());
    for metric in ["active_users", "event_types"] {
        let sql = format!("queries/{metric}.sql");
        let printed = run_queries(&["run", lake, &sql, "--days", &days, "--end", &end]);
        let rows = String::from_utf8(printed.stdout).unwrap();
        let rows: Value = serde_json::from_str(&rows.replace("occurrences", "events")).unwrap();
        let expected = answer(&engine, &json!({"metric": metric}), "UTC");
        let counts = |rows: &Value| -> Vec<Vec<Value>> {
            let fields = ["dau", "wau", "mau", "event_type", "events", "users"];
            let rows = rows.as_array().unwrap().iter();
            rows.map(|row| fields.map(|field| row[field].clone()).to_vec())
                .collect()
        };
        assert_eq!(counts(&rows), counts(&expected["rows"]), "{metric}");
    }
    let links = links_of(&history);
    let ids = counted(&history, &links);
    let ids: BTreeSet<&str> = ids.iter().map(|event| text(event, "user_id")).collect();
    let usage = usage(&engine, "UTC");
    assert_eq!(usage["mau"], ids.len(), "{usage}");
}

#[test]
fn an_old_folder_and_one_without_identity_calls_have_no_links() {
    let dir = folder();
    let engine = open(dir.path());
    send(&engine, &[event(5, "action", "u1", "f1")]);
    engine.seal(now()).unwrap();
    let answer = list(&engine);
    assert_eq!(
        (answer.links.len(), answer.total, answer.rejected),
        (0, 0, 0)
    );
    let wrong = UserLinksRequest {
        limit: Some(0),
        ..UserLinksRequest::default()
    };
    assert!(engine.user_links(&wrong).is_err());
    drop(engine);
    assert!(dir.path().join("links/links.parquet").exists());
    assert_eq!(run_json(dir.path(), &["links", "list"])["total"], 0);
    assert!(!run(dir.path(), &["links", "remove", "u1"]).status.success());
}
