//! Reporting zones: their daily states give the numbers of a scan of the events, and outlive them.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};
use echopilot_analytics::config::NameLimits;
use echopilot_analytics::engine::{Cancel, Cost, Engine, UsageAnswer};
use echopilot_analytics::error::Error;
use echopilot_analytics::metrics::query::Query;
use echopilot_analytics::store::Clock;
use echopilot_analytics::window::{WindowRequest, day_us};
use serde_json::{Value, json};

use crate::harness::{
    Server, echopilot, engine, folder, ingest, numbers_below, printed, run, run_json, store_config,
};

/// Zones of whole, half and quarter hours, east and west, with and without daylight saving time.
const ZONES: [&str; 6] = [
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Africa/Abidjan",
];

fn now() -> DateTime<Utc> {
    "2026-11-20T12:00:00Z".parse().unwrap()
}

/// An engine with these reporting zones.
fn engine_with(dir: &Path, zones: &str) -> Engine {
    let mut config = store_config(dir);
    config.zones = zones.parse().unwrap();
    Engine::open(&config, "the test", now()).unwrap()
}

/// An event of a user at a time.
fn event(user: u64, ts_us: i64) -> Value {
    let ts = DateTime::from_timestamp_micros(ts_us).unwrap();
    let event_type = ["page_view", "action", "conversion"][(user % 3) as usize];
    let user_id = (!user.is_multiple_of(11)).then(|| format!("u{user}"));
    let feature = (user + ts_us as u64) % 9;
    let feature = (!user.is_multiple_of(7)).then(|| format!("f{feature}"));
    json!({"ts": ts.to_rfc3339(), "event_type": event_type, "user_id": user_id, "feature": feature})
}

/// Events of the last year: at any time, and around the midnights of days on which clocks change.
fn history(seed: u64, count: usize) -> Vec<Value> {
    let mut below = numbers_below(seed);
    let mut events: Vec<Value> = (0..count)
        .map(|_| {
            let age = TimeDelta::seconds(below(364 * 86_400) as i64)
                + TimeDelta::microseconds(below(1_000_000) as i64);
            event(below(300), (now() - age).timestamp_micros())
        })
        .collect();
    for day in [
        "2026-03-08",
        "2026-03-29",
        "2026-04-05",
        "2026-10-04",
        "2026-10-25",
        "2026-11-01",
        "2026-07-01",
    ] {
        let day: NaiveDate = day.parse().unwrap();
        for zone in ZONES {
            let span = day_us(day, zone.parse().unwrap());
            for ts_us in [span.start - 1, span.start, span.end - 1, span.end] {
                events.push(event(below(300), ts_us));
            }
        }
    }
    events
}

fn send(engines: &[&Engine], events: &[Value]) {
    for engine in engines {
        for batch in events.chunks(100) {
            let answer = ingest(engine, batch, now());
            assert_eq!(answer.logged, batch.len());
        }
    }
}

fn window(zone: &str, days: i64) -> WindowRequest {
    WindowRequest {
        days: Some(days),
        tz: Some(zone.into()),
        ..WindowRequest::default()
    }
}

fn usage(engine: &Engine, zone: &str, days: i64) -> UsageAnswer {
    engine.usage(&window(zone, days), now()).unwrap()
}

/// The results of everything that states are enough for, in a zone.
fn results(engine: &Engine, zone: &str) -> Vec<Value> {
    let mut results: Vec<Value> = [365, 230, 30, 1]
        .map(|days| json!(usage(engine, zone, days)))
        .into();
    for query in [
        json!({"metric":"active_users","days":300}),
        json!({"metric":"active_users","days":40,"end":"2026-04-10","filter":{"feature":["f1","f2"]}}),
        json!({"metric":"active_users","days":365,"grain":"week","filter":{"event_type":"action"}}),
        json!({"metric":"lifecycle","days":120}),
        json!({"metric":"lifecycle","days":120,"grain":"month","filter":{"feature":"f3"}}),
        json!({"metric":"stickiness","days":60}),
        json!({"metric":"retention","days":50,"grain":"week"}),
        json!({"metric":"retention","days":50,"grain":"week","ever":true}),
        json!({"metric":"retention","days":20,"start":{"feature":"f1"},"return":{"event_type":"action"}}),
        json!({"metric":"feature_usage","days":250,"limit":4}),
        json!({"metric":"event_types","days":250}),
    ] {
        let mut query = query;
        query["tz"] = json!(zone);
        let query = Query::parse(query.to_string().as_bytes()).unwrap();
        let answer = engine.query(&query, now(), &Cancel::default()).unwrap();
        results.push(json!(answer));
    }
    results
}

/// Checks that one engine finds in states what the other finds in events, in all zones.
fn compare(states: &Engine, events: &Engine, when: &str) {
    for zone in ZONES {
        let request = window(zone, 365);
        assert_eq!(
            states.cost_of_usage(&request, now()),
            Cost::States,
            "{when}"
        );
        assert_eq!(events.cost_of_usage(&request, now()), Cost::Events);
        for (ours, theirs) in results(states, zone).iter().zip(results(events, zone)) {
            assert_eq!(*ours, theirs, "{zone} {when}");
        }
    }
}

#[test]
fn states_of_a_zone_give_the_numbers_of_a_scan() {
    let (dir, other_dir) = (folder(), folder());
    let zones = ZONES.join(",");
    let states = engine_with(dir.path(), &zones);
    let events = engine(other_dir.path(), now());
    let (first, late) = (history(1, 1_500), history(2, 500));
    send(&[&states, &events], &first);
    for engine in [&states, &events] {
        engine.store().seal().unwrap();
    }
    // Late events, some of them sealed.
    send(&[&states, &events], &late[..250]);
    states.seal(now()).unwrap();
    send(&[&states, &events], &late[250..]);
    compare(&states, &events, "with events in segments and in the log");
    drop(states);
    let states = engine_with(dir.path(), &zones);
    compare(&states, &events, "after a restart");
    states.seal(now()).unwrap();
    let rebuilt = states.rebuild().unwrap();
    assert_eq!(rebuilt.changed, 0, "the same bytes");
    // Erased users leave the states of all zones.
    let users: Vec<String> = (1..40).map(|user| format!("u{user}")).collect();
    for engine in [&states, &events] {
        engine.erase(&users, None, now()).unwrap();
    }
    compare(&states, &events, "after an erasure");
    assert_eq!(states.rebuild().unwrap().changed, 0, "the same bytes");
}

#[test]
fn a_zone_that_is_added_later_gets_states_of_all_events_that_are_kept() {
    let (dir, other_dir) = (folder(), folder());
    let before = engine(dir.path(), now());
    let events = engine(other_dir.path(), now());
    let (first, late) = (history(3, 800), history(4, 300));
    send(&[&before, &events], &first);
    before.store().seal().unwrap();
    drop(before);
    let states = engine_with(dir.path(), &ZONES.join(","));
    // Until the states are made, events are read: also those of a seal in between.
    let berlin = |days| window("Europe/Berlin", days);
    assert_eq!(states.cost_of_usage(&berlin(365), now()), Cost::Events);
    send(&[&states, &events], &late);
    assert_eq!(results(&states, ZONES[0]), results(&events, ZONES[0]));
    states.store().seal().unwrap();
    assert_eq!(results(&states, ZONES[0]), results(&events, ZONES[0]));
    states.build_zones().unwrap();
    compare(&states, &events, "when the states are made");
    assert_eq!(states.rebuild().unwrap().changed, 0, "the same bytes");
    drop(states);
    // A command without the setting keeps them up to date.
    let plain = engine(dir.path(), now());
    send(&[&plain, &events], &history(5, 100));
    plain.store().seal().unwrap();
    compare(&plain, &events, "without the setting");
}

#[test]
fn states_of_a_zone_outlive_the_events() {
    let dir = folder();
    let engine = engine_with(dir.path(), &ZONES.join(","));
    send(&[&engine], &history(6, 800));
    engine.seal(now()).unwrap();
    let all = |engine: &Engine| ZONES.map(|zone| results(engine, zone));
    let before = all(&engine);
    let expired = engine.expire(now().date_naive(), Clock::Doubted).unwrap();
    assert!(expired.expired.segments > 200 && expired.expired.states == 0);
    assert_eq!(all(&engine), before);
    // A rebuild keeps the days of which some or all events have expired.
    assert_eq!(engine.rebuild().unwrap().changed, 0);
    drop(engine);
    let engine = engine_with(dir.path(), &ZONES.join(","));
    assert_eq!(all(&engine), before);
    // An event of an expired day still counts, in its day of each zone, also once its segment is
    // gone, and a user who is erased does not.
    let berlin = |engine: &Engine| usage(engine, "Europe/Berlin", 365).numbers;
    let numbers = berlin(&engine);
    let at: DateTime<Utc> = "2026-06-30T23:00:00Z".parse().unwrap();
    send(
        &[&engine],
        &[json!({"ts": at.to_rfc3339(), "event_type": "action", "user_id": "late"})],
    );
    engine.seal(now()).unwrap();
    engine.expire(now().date_naive(), Clock::Doubted).unwrap();
    let with_late = berlin(&engine);
    assert_eq!(with_late.mau, numbers.mau + 1);
    assert_eq!(with_late.total_events, numbers.total_events + 1);
    let july = WindowRequest {
        days: Some(1),
        end: Some("2026-07-01".parse().unwrap()),
        tz: Some("Europe/Berlin".into()),
        ..WindowRequest::default()
    };
    let before = engine.usage(&july, now()).unwrap().numbers.mau;
    engine.erase(&["late".to_owned()], None, now()).unwrap();
    assert_eq!(engine.usage(&july, now()).unwrap().numbers.mau, before - 1);
    assert_eq!(berlin(&engine).mau, numbers.mau);
    // States of a zone expire as those of UTC.
    let recent = usage(&engine, "Europe/Berlin", 101).numbers;
    drop(engine);
    let mut config = store_config(dir.path());
    config.rollup_retention_days = 100;
    let engine = Engine::open(&config, "the test", now()).unwrap();
    engine.expire(now().date_naive(), Clock::Doubted).unwrap();
    let year = usage(&engine, "Europe/Berlin", 365);
    assert_eq!(year.numbers, recent);
    assert_eq!(year.covered_from, now().date_naive() - Days::new(100));
}

#[test]
fn a_zone_that_is_added_after_events_expired_says_from_when_it_is_covered() {
    let dir = folder();
    let before = engine(dir.path(), now());
    send(&[&before], &history(7, 800));
    before.seal(now()).unwrap();
    before.expire(now().date_naive(), Clock::Doubted).unwrap();
    let scanned = ZONES.map(|zone| results(&before, zone));
    drop(before);
    let states = engine_with(dir.path(), &ZONES.join(","));
    states.build_zones().unwrap();
    let raw_from = now().date_naive() - Days::new(90);
    for (zone, scanned) in ZONES.iter().zip(scanned) {
        assert_eq!(
            states.cost_of_usage(&window(zone, 365), now()),
            Cost::States
        );
        assert_eq!(results(&states, zone), scanned, "{zone}");
    }
    let covered = |engine: &Engine, zone, days| usage(engine, zone, days).covered_from;
    assert_eq!(covered(&states, "Africa/Abidjan", 365), raw_from);
    assert_eq!(covered(&states, "America/New_York", 365), raw_from);
    assert_eq!(
        covered(&states, "Europe/Berlin", 365),
        raw_from + Days::new(1)
    );
    let first = now().date_naive() - Days::new(29);
    assert_eq!(covered(&states, "Europe/Berlin", 30), first);
    // The states stay when more events expire.
    let numbers = usage(&states, "Europe/Berlin", 80).numbers;
    drop(states);
    let mut config = store_config(dir.path());
    config.raw_retention_days = 5;
    let states = Engine::open(&config, "the test", now()).unwrap();
    states.expire(now().date_naive(), Clock::Doubted).unwrap();
    assert_eq!(usage(&states, "Europe/Berlin", 80).numbers, numbers);
    assert_eq!(
        covered(&states, "Europe/Berlin", 365),
        raw_from + Days::new(1)
    );
    let status = json!(states.status(now()).unwrap());
    assert_eq!(status["zones"], json!([{"zone":"UTC","complete":true}]));
}

#[test]
fn features_and_users_beyond_a_limit_are_the_rest_in_a_zone_too() {
    let (dir, other_dir) = (folder(), folder());
    let open = |dir: &Path, zones: &str| {
        let mut config = store_config(dir);
        config.zones = zones.parse().unwrap();
        config.names = NameLimits {
            features: 2,
            new_users: 3,
            ..NameLimits::default()
        };
        Engine::open(&config, "the test", now()).unwrap()
    };
    let states = open(dir.path(), "UTC,Asia/Kathmandu");
    let events = open(other_dir.path(), "UTC");
    // Two days of UTC in one day of Kathmandu: `c` is beyond the limit on the first of them.
    let at = |time: &str, user: &str, feature: &str| json!({"ts": time, "event_type": "action", "user_id": user, "feature": feature});
    let first = [
        at("2026-11-17T19:00:00Z", "ann", "a"),
        at("2026-11-17T19:00:00Z", "bob", "b"),
        at("2026-11-17T20:00:00Z", "cyd", "c"),
        at("2026-11-18T01:00:00Z", "ann", "c"),
        at("2026-11-18T02:00:00Z", "dan", "a"),
        at("2026-11-18T02:00:00Z", "eve", "a"),
    ];
    send(&[&states, &events], &first);
    let check = |when: &str| {
        let zone = "Asia/Kathmandu";
        let active = |engine: &Engine| {
            let query =
                json!({"metric":"active_users","days":5,"tz":zone,"filter":{"feature":"c"}});
            let query = Query::parse(query.to_string().as_bytes()).unwrap();
            json!(
                engine
                    .query(&query, now(), &Cancel::default())
                    .unwrap()
                    .rows
            )
        };
        assert_eq!(active(&states), active(&events), "{when}");
        let numbers = usage(&states, zone, 5);
        assert_eq!(
            numbers.numbers.rest.user_events,
            usage(&events, zone, 5).numbers.rest.user_events
        );
        numbers
    };
    let numbers = check("before a seal");
    assert_eq!(
        (numbers.numbers.mau, numbers.numbers.rest.user_events),
        (3, 2)
    );
    assert_eq!(numbers.numbers.rest.feature_events, 1);
    for engine in [&states, &events] {
        engine.store().seal().unwrap();
    }
    assert_eq!(check("after a seal"), numbers);
    // Users who have no code are erased from the counts.
    for engine in [&states, &events] {
        engine
            .erase(&["eve".to_owned(), "bob".to_owned()], None, now())
            .unwrap();
    }
    let numbers = check("after an erasure");
    assert_eq!((numbers.numbers.total_events, numbers.numbers.mau), (4, 2));
    assert_eq!(numbers.numbers.rest.user_events, 1);
}

/// Files of states of Europe/Berlin, by name.
fn zone_files(data_dir: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(data_dir.join("states")).unwrap();
    let files = files.map(|entry| entry.unwrap().path());
    let of_zone = |path: &PathBuf| path.to_string_lossy().contains("-Europe.Berlin.state");
    let mut files: Vec<PathBuf> = files.filter(of_zone).collect();
    files.sort();
    files
}

/// Changes a byte of a file.
fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[20] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_state_of_a_zone_is_made_again_or_no_longer_covered() {
    let dir = folder();
    let zone = "Europe/Berlin";
    let engine = engine_with(dir.path(), zone);
    send(&[&engine], &history(8, 600));
    engine.seal(now()).unwrap();
    let before = usage(&engine, zone, 365);
    drop(engine);
    damage(zone_files(dir.path()).last().unwrap());
    assert!(!run(dir.path(), &["verify"]).status.success());
    let engine = engine_with(dir.path(), zone);
    let found = engine.usage(&window(zone, 365), now());
    assert!(matches!(found, Err(Error::Damaged { .. })), "{found:?}");
    assert_eq!(engine.rebuild().unwrap().changed, 1);
    assert_eq!(usage(&engine, zone, 365), before);
    // The seal of a late event makes a state again, too, if the events of the day are kept.
    let late = |engine: &Engine, time: &str| {
        send(&[engine], &[json!({"ts": time, "event_type": "action"})]);
        engine.seal(now()).unwrap();
        usage(engine, zone, 365)
    };
    let of_day = |day: &str| {
        let name = format!("/{day}-");
        let mut files = zone_files(dir.path()).into_iter();
        files
            .find(|path| path.to_string_lossy().contains(&name))
            .unwrap()
    };
    drop(engine);
    damage(&of_day("2026-10-25"));
    let engine = engine_with(dir.path(), zone);
    let with_one = late(&engine, "2026-10-24T22:30:00Z");
    assert_eq!(
        with_one.numbers.total_events,
        before.numbers.total_events + 1
    );
    assert_eq!(with_one.covered_from, before.covered_from);
    // Otherwise the days up to it are not covered any more.
    engine.expire(now().date_naive(), Clock::Doubted).unwrap();
    drop(engine);
    damage(&of_day("2026-03-29"));
    let engine = engine_with(dir.path(), zone);
    let day: NaiveDate = "2026-03-30".parse().unwrap();
    assert_eq!(late(&engine, "2026-03-29T10:00:00Z").covered_from, day);
    let utc = usage(&engine, "UTC", 365);
    assert_eq!(utc.numbers.total_events, before.numbers.total_events + 2);
    assert_eq!(utc.covered_from, before.covered_from);
}

#[test]
fn a_server_makes_the_states_of_its_zones_and_removes_those_of_others() {
    let dir = folder();
    run_json(
        dir.path(),
        &["demo", "--events", "3000", "--users", "100", "--days", "10"],
    );
    let with_zone = |command: &mut std::process::Command| {
        command.env("ECHOPILOT_ZONES", "Europe/Berlin,UTC");
        printed(command);
    };
    let mut command = echopilot(dir.path());
    command.env("ECHOPILOT_ZONES", "Europe/Berlin,UTC");
    let mut server = Server::start_as(command);
    server.wait_for("The daily states of Europe/Berlin are complete");
    let status = server.get("/api/analytics/status").1;
    let expected = json!([{"zone":"Europe/Berlin","complete":true},{"zone":"UTC","complete":true}]);
    assert_eq!(status["zones"], expected);
    server.stop();
    let states = zone_files(dir.path()).len();
    assert!((10..=11).contains(&states), "{states}");
    // Commands with and without the setting keep them.
    let usage = ["usage", "--days", "30", "--tz", "Europe/Berlin"];
    let from_states = run_json(dir.path(), &usage);
    with_zone(echopilot(dir.path()).args(usage));
    assert!(run(dir.path(), &["verify"]).status.success());
    assert_eq!(zone_files(dir.path()).len(), states);
    let server = Server::start(dir.path());
    assert!(zone_files(dir.path()).is_empty());
    let status = server.get("/api/analytics/status").1;
    assert_eq!(status["zones"], json!([{"zone":"UTC","complete":true}]));
    server.stop();
    let from_events = run_json(dir.path(), &usage);
    assert_eq!(from_states["feature_usage"], from_events["feature_usage"]);
    assert_eq!(from_states["mau"], from_events["mau"]);
    let wrong = run(dir.path(), &["usage", "--zones", "UTC,Mars/Base"]);
    let message = String::from_utf8(wrong.stderr).unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    assert!(
        message.contains("\"Mars/Base\" is not a time zone"),
        "{message}"
    );
}
