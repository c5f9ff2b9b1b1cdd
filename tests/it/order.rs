//! Events with equal timestamps keep the order of the log, for the engine and for SQL over the
//! lake, after all jobs of the store: the names of a day's files sort in that order.

use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};
use echopilot_analytics::checksum;
use echopilot_analytics::engine::{Cancel, Engine};
use echopilot_analytics::event::{Event, EventType};
use echopilot_analytics::export::Format;
use echopilot_analytics::metrics::NAMES;
use echopilot_analytics::metrics::query::Query;
use echopilot_analytics::store::{Clock, CompactionScope, ExpiryPolicy};
use serde_json::{Value, json};

use crate::faults::{copy, with_fault};
use crate::harness::{
    FEATURES, echopilot, engine, folder, incompressible, ingest, numbers_below, run_json,
};
use crate::metrics::{request_of, run_queries};

/// The time at which the stores are opened.
fn start() -> DateTime<Utc> {
    "2026-03-05T12:00:00Z".parse().unwrap()
}

/// The results of all metrics over a number of days up to `now`.
fn results(engine: &Engine, days: i64, now: DateTime<Utc>) -> Vec<(&'static str, Vec<u8>)> {
    let ask = |metric: &'static str| {
        let mut request = request_of(metric);
        request["days"] = json!(days);
        request["end"] = json!(now.date_naive().to_string());
        let query = Query::parse(request.to_string().as_bytes()).unwrap();
        let answer = engine.query(&query, now, &Cancel::default()).unwrap();
        (metric, Format::Json.encode(&answer, &answer.rows).unwrap())
    };
    NAMES.map(ask).into()
}

/// Compares all metrics with their SQL in DuckDB over the lake; all events are sealed.
fn check_sql(engine: &Engine, days: i64, now: DateTime<Utc>) {
    let dir = folder();
    for (metric, answer) in results(engine, days, now) {
        std::fs::write(dir.path().join(format!("{metric}.json")), answer).unwrap();
    }
    let lake = engine.store().folder().path().join("events");
    run_queries(&[
        "compare_all",
        dir.path().to_str().unwrap(),
        lake.to_str().unwrap(),
    ]);
}

/// The files of the live segments, in the order of the log.
fn files(data_dir: &Path) -> Vec<String> {
    let manifest = std::fs::read(data_dir.join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let segments = manifest["segments"].as_array().unwrap().iter();
    segments
        .map(|segment| segment["path"].as_str().unwrap().to_owned())
        .collect()
}

/// Checks that the names of each day's segments sort in the order of the log.
fn check_names(data_dir: &Path) {
    let by_log = files(data_dir);
    let day = |path: &String| path.rsplit_once('/').unwrap().0.to_owned();
    for path in &by_log {
        let of_day = by_log.iter().filter(|other| day(other) == day(path));
        assert!(of_day.is_sorted_by(|a, b| a < b), "{by_log:?}");
    }
}

/// An event of a user, with the same timestamp as all others of that day.
fn tied(user: &str, feature: &str, days_before: i64) -> Event<'static> {
    let ts = start() - TimeDelta::days(days_before);
    Event {
        ts_us: ts.timestamp_micros(),
        event_type: EventType::Action,
        user_id: Some(user.to_owned().into()),
        feature: Some(feature.to_owned().into()),
        metadata: "{}".into(),
        url: None,
        event_id: None,
        received_at_us: start().timestamp_micros(),
    }
}

/// Stores events through the import.
fn load(engine: &Engine, events: &[Event<'_>]) {
    let mut parts = [()].into_iter();
    let stored = engine.store().load(
        || Ok(parts.next().map(|()| [0_u8; 0])),
        |_, part| {
            events.iter().for_each(|event| part.push(event));
            Ok(())
        },
        |(), _| {},
    );
    assert!(stored.unwrap());
}

/// Stores events through the ingest of clients.
fn send(engine: &Engine, events: &[Event<'_>]) {
    let events: Vec<Value> = events
        .iter()
        .map(|event| {
            json!({"ts":event.ts_us,"event_type":event.event_type.name(),"user_id":event.user_id,
                "feature":event.feature,"metadata":serde_json::from_str::<Value>(&event.metadata).unwrap()})
        })
        .collect();
    for batch in events.chunks(100) {
        ingest(engine, batch, start());
    }
}

/// 20 users who all use a feature at the same time.
fn twenty(feature: &str) -> Vec<Event<'static>> {
    (0..20)
        .map(|user| tied(&format!("u{user}"), feature, 1))
        .collect()
}

/// Checks that all users go through these features in order, by the engine and by SQL.
fn check_paths(engine: &Engine, features: &[&str]) {
    let mut request = request_of("paths");
    request["start"] = json!({"feature": features[0]});
    request["depth"] = json!(features.len());
    request["days"] = json!(3);
    request["end"] = json!(start().date_naive().to_string());
    let query = Query::parse(request.to_string().as_bytes()).unwrap();
    let answer = engine.query(&query, start(), &Cancel::default()).unwrap();
    let answer: Value =
        serde_json::from_slice(&Format::Json.encode(&answer, &answer.rows).unwrap()).unwrap();
    let ways: Vec<[&Value; 3]> = answer["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| [&row["from"], &row["to"], &row["users"]])
        .collect();
    let expected: Vec<Value> = features
        .windows(2)
        .map(|pair| json!([pair[0], pair[1], 20]))
        .collect();
    assert_eq!(json!(ways), json!(expected));
    let dir = folder();
    let sql = std::fs::read_to_string("queries/paths.sql").unwrap();
    let (_, rest) = sql.split_once('\n').unwrap();
    let query = dir.path().join("paths.sql");
    std::fs::write(&query, format!("-- {request}\n{rest}")).unwrap();
    let file = dir.path().join("answer.json");
    std::fs::write(&file, answer.to_string()).unwrap();
    let lake = engine.store().folder().path().join("events");
    run_queries(&[
        "compare",
        query.to_str().unwrap(),
        file.to_str().unwrap(),
        lake.to_str().unwrap(),
    ]);
    check_names(engine.store().folder().path());
}

#[test]
fn an_erasure_of_another_user_keeps_the_order_of_ties() {
    let dir = folder();
    let open = engine(dir.path(), start());
    let mut first = twenty("catalog");
    first.push(tied("victim", "x", 1));
    load(&open, &first);
    load(&open, &twenty("alpha"));
    load(&open, &twenty("beta"));
    let ways = ["catalog", "alpha", "beta"];
    check_paths(&open, &ways);
    open.erase(&["victim".into()], None, start()).unwrap();
    check_paths(&open, &ways);
    // A second erasure, in a rewritten file, and a compaction of all files.
    open.erase(&["u19".into(), "u18".into()], None, start())
        .unwrap();
    load(
        &open,
        &[tied("u18x", "catalog", 1), tied("u19x", "catalog", 1)],
    );
    load(&open, &[tied("u18x", "alpha", 1), tied("u19x", "alpha", 1)]);
    load(&open, &[tied("u18x", "beta", 1), tied("u19x", "beta", 1)]);
    check_paths(&open, &ways);
    open.compact(start() + TimeDelta::hours(2), CompactionScope::Full)
        .unwrap();
    assert_eq!(files(dir.path()).len(), 1);
    check_paths(&open, &ways);
}

#[test]
fn a_compaction_around_a_full_segment_keeps_the_order_of_ties() {
    let dir = folder();
    let open = engine(dir.path(), start());
    load(&open, &twenty("catalog"));
    load(&open, &twenty("alpha"));
    let mut full = twenty("beta");
    // URLs that do not compress to less than a full segment.
    let mut below = numbers_below(1);
    for number in 0..9_000 {
        full.push(Event {
            url: Some(incompressible(1_900, &mut below).into()),
            ..tied(&format!("filler{number}"), "z", 1)
        });
    }
    load(&open, &full);
    load(&open, &twenty("gamma"));
    load(&open, &twenty("delta"));
    // The segments on each side of it become one.
    open.compact(start() + TimeDelta::hours(2), CompactionScope::Full)
        .unwrap();
    assert_eq!(files(dir.path()).len(), 3);
    check_names(dir.path());
    check_paths(&open, &["catalog", "alpha", "beta", "gamma", "delta"]);
}

#[test]
fn a_log_that_could_not_be_sealed_before_an_import_is_ordered_after_it() {
    let dir = folder();
    let open = engine(dir.path(), start());
    load(&open, &twenty("catalog"));
    let mut in_log = twenty("beta");
    in_log.push(tied("other", "x", 2));
    send(&open, &in_log);
    // The log is rotated, and a file has the name of the folder of a day.
    let obstacle = dir.path().join("events/dt=2026-03-03");
    std::fs::write(&obstacle, "").unwrap();
    assert!(open.store().seal().is_err());
    load(&open, &twenty("alpha"));
    std::fs::remove_file(&obstacle).unwrap();
    let before = results(&open, 3, start());
    assert_eq!(open.store().seal().unwrap().events, 21);
    assert!(
        results(&open, 3, start()) == before,
        "the seal changes no result"
    );
    check_paths(&open, &["catalog", "alpha", "beta"]);
    drop(open);
    let open = engine(dir.path(), start());
    check_paths(&open, &["catalog", "alpha", "beta"]);
}

/// Renames the segments of a closed store as an earlier version named them after an erasure and a
/// compaction.
fn rename_as_before(data_dir: &Path) {
    let path = data_dir.join("manifest.json");
    let mut manifest = std::fs::read_to_string(&path).unwrap();
    for (number, file) in files(data_dir).iter().rev().enumerate() {
        let name = match number % 2 {
            0 => format!("{:08}-m", 10 + number),
            _ => format!("{:08}-e{number}", 10 + number),
        };
        let (day, _) = file.rsplit_once('/').unwrap();
        let new = format!("{day}/{name}.parquet");
        std::fs::rename(data_dir.join(file), data_dir.join(&new)).unwrap();
        manifest = manifest.replace(file, &new);
    }
    let sequence = manifest.find("\"sequence\":").unwrap() + "\"sequence\":".len();
    let end = manifest[sequence..].find(',').unwrap();
    manifest.replace_range(sequence..sequence + end, "99");
    manifest.truncate(manifest.rfind(",\"crc32c\":\"").unwrap());
    let mut manifest = manifest.into_bytes();
    checksum::close_object(&mut manifest, 0);
    manifest.push(b'\n');
    std::fs::write(&path, manifest).unwrap();
}

#[test]
fn segments_with_names_of_an_earlier_version_are_renamed_in_log_order() {
    let dir = folder();
    let ways = ["catalog", "alpha", "beta", "gamma"];
    let open = engine(dir.path(), start());
    for feature in ways {
        load(&open, &twenty(feature));
    }
    open.rollup(echopilot_analytics::engine::RollupScope::Closed, start())
        .unwrap();
    drop(open);
    rename_as_before(dir.path());
    let old = copy(dir.path());
    let open = engine(dir.path(), start());
    let before = results(&open, 3, start());
    // Also if there are no segments to merge.
    open.compact(start(), CompactionScope::Urgent).unwrap();
    assert_eq!(files(dir.path()).len(), 4);
    check_paths(&open, &ways);
    assert!(results(&open, 3, start()) == before);
    let renamed = files(dir.path());
    open.compact(start(), CompactionScope::Urgent).unwrap();
    assert_eq!(files(dir.path()), renamed, "once");
    open.compact(start() + TimeDelta::hours(2), CompactionScope::Full)
        .unwrap();
    assert_eq!(files(dir.path()).len(), 1);
    check_paths(&open, &ways);
    drop(open);
    // Killed at any call, the store has all segments under the old or the new name.
    for at in 1.. {
        let dir = copy(old.path());
        let mut command = echopilot(dir.path());
        with_fault(&mut command, dir.path(), "kill", at);
        let done = command.arg("seal").output().unwrap().status.success();
        let verified = run_json(dir.path(), &["verify"]);
        assert_eq!(
            (&verified["damage"], &verified["sealed_events"]),
            (&json!([]), &json!(80))
        );
        let open = engine(dir.path(), start());
        assert!(results(&open, 3, start()) == before, "killed at {at}");
        open.compact(start(), CompactionScope::Urgent).unwrap();
        check_names(dir.path());
        assert!(results(&open, 3, start()) == before, "killed at {at}");
        if done {
            assert!(at > 10, "only {at} points were tried");
            break;
        }
    }
}

#[test]
fn after_random_jobs_sql_and_engine_give_the_same_results() {
    for seed in 1..=4_u64 {
        let mut below = numbers_below(seed);
        let dir = folder();
        let mut open = engine(dir.path(), start());
        let mut done = Vec::new();
        let mut expires_before = 40;
        for step in 0..24 {
            // Few users, timestamps and days, so that nearly every event has the timestamp of
            // another event of its user.
            let events: Vec<Event<'_>> = (0..3 + below(25))
                .map(|_| {
                    let feature = FEATURES[below(6) as usize];
                    let user = below(14);
                    let platform = ["desktop", "mobile"][if user.is_multiple_of(5) {
                        below(2)
                    } else {
                        user % 2
                    } as usize];
                    let days_before = match below(8) {
                        0 => 20 + below(30) as i64,
                        other => (other % 3) as i64 + 1,
                    };
                    let event = tied(&format!("u{user}"), feature, days_before);
                    Event {
                        ts_us: event.ts_us + below(2) as i64,
                        event_type: EventType::ALL[below(3) as usize],
                        user_id: event.user_id.filter(|_| user > 0),
                        feature: event.feature.filter(|_| !feature.is_empty()),
                        metadata: format!("{{\"platform\":\"{platform}\"}}").into(),
                        ..event
                    }
                })
                .collect();
            let job = below(10);
            done.push(job);
            match job {
                0..=2 => send(&open, &events),
                3 | 4 => load(&open, &events),
                5 => drop(open.store().seal().unwrap()),
                6 => {
                    let later = start() + TimeDelta::hours(below(2) as i64 * 2);
                    open.compact(later, CompactionScope::Full).unwrap();
                }
                7 => {
                    let users = [format!("u{}", 1 + below(13)), format!("u{}", 1 + below(13))];
                    let confirmed = None;
                    open.erase(&users, confirmed, start()).unwrap();
                }
                8 => {
                    expires_before -= 3;
                    let retention = ExpiryPolicy {
                        raw_days: expires_before,
                        state_days: expires_before,
                    };
                    open.store()
                        .expire(start().date_naive(), retention, Clock::Confirmed)
                        .unwrap();
                }
                _ => {
                    drop(open);
                    open = engine(dir.path(), start());
                }
            }
            if step % 6 == 5 {
                let days = [70, 5][below(2) as usize];
                let unsealed = results(&open, days, start());
                open.store().seal().unwrap();
                assert!(
                    results(&open, days, start()) == unsealed,
                    "{seed}: {done:?}"
                );
                check_sql(&open, days, start());
                check_names(dir.path());
            }
        }
    }
}
