//! Imports: events are stored in groups of parts, each group completely or not at all.

use std::fmt::Write;
use std::path::Path;

use chrono::{DateTime, Utc};
use echopilot_analytics::engine::Engine;
use echopilot_analytics::error::{Error, Result};
use echopilot_analytics::event::{self, Outcome};
use serde_json::{Value, json};

use crate::faults::with_fault;
use crate::harness::{echopilot, engine, folder, log_lines, run, run_json, unsealed_demo};

/// A line of an event; `id` is its event id.
fn line(ts: DateTime<Utc>, id: u32, feature: &str) -> String {
    let event = json!({"ts":ts.to_rfc3339(),"event_type":"action","user_id":format!("u{id}"),"feature":feature,"event_id":format!("e{id}")});
    format!("{event}\n")
}

/// Loads a stream of parts until its end. Returns how many events of each part were stored.
fn load(
    engine: &Engine,
    now: DateTime<Utc>,
    parts: impl IntoIterator<Item = Result<String>, IntoIter: Send>,
) -> Result<Vec<usize>> {
    let mut parts = parts.into_iter();
    let mut stored = Vec::new();
    while engine.store().load(
        || parts.next().transpose(),
        |lines, part| {
            for line in event::lines(lines.as_bytes()) {
                let event = event::read_event(line.trim_ascii()).unwrap();
                match event.validate(now.timestamp_micros(), 0) {
                    Outcome::Accepted(event, _) => part.push(&event),
                    other => panic!("{other:?}"),
                }
            }
            Ok(())
        },
        |(), of_part| stored.push(of_part.logged),
    )? {}
    Ok(stored)
}

fn total(engine: &Engine, now: DateTime<Utc>) -> usize {
    engine.status(now).unwrap().store.sealed_events as usize
}

#[test]
fn import_keeps_first_event_of_duplicated_id_across_parts() {
    let dir = folder();
    let now = Utc::now();
    let engine = engine(dir.path(), now);
    // Three parts have the same id, and each part has it twice. The parts are more than one group.
    let parts = (0..200_u32).map(|part| {
        let one = line(now, part / 3, &format!("f{part}"));
        Ok(format!("{one}{one}"))
    });
    let stored = load(&engine, now, parts).unwrap();
    let expected: Vec<usize> = (0..200).map(|part| usize::from(part % 3 == 0)).collect();
    assert_eq!(stored, expected);
    assert_eq!(total(&engine, now), 67);
    drop(engine);
    let usage = run_json(dir.path(), &["usage", "--days", "1"]);
    let features = usage["feature_usage"].as_object().unwrap();
    assert_eq!(features.len(), 67);
    assert!((0..67).all(|id| features.contains_key(&format!("f{}", 3 * id))));
}

#[test]
fn a_failed_group_stores_neither_events_nor_ids() {
    let dir = folder();
    let now = Utc::now();
    let engine = engine(dir.path(), now);
    let parts = |end: u32| {
        (0..200_u32).map(move |part| match part < end {
            true => Ok(line(now, part, "f")),
            false => Err(Error::Busy("the stream ends here")),
        })
    };
    assert!(load(&engine, now, parts(100)).is_err());
    let first = total(&engine, now);
    assert!(
        (1..100).contains(&first),
        "{first}: some groups, and not all"
    );
    let stored = load(&engine, now, parts(200)).unwrap();
    assert_eq!(stored.iter().sum::<usize>(), 200 - first);
    assert_eq!(total(&engine, now), 200);
}

#[test]
fn an_import_of_several_parts_counts_lines_and_finds_duplicates_across_them() {
    let dir = folder();
    let now = Utc::now();
    let mut lines = String::new();
    const IDS: u32 = 80_000;
    for feature in ["first", "second"] {
        for id in 0..IDS {
            lines.push_str(&line(now, id, feature));
        }
    }
    writeln!(lines, "no event").unwrap();
    assert!(lines.len() > 17 << 20, "{} bytes are one part", lines.len());
    let file = dir.path().join("events.ndjson");
    std::fs::write(&file, &lines).unwrap();
    let data = dir.path().join("data");
    let output = run(&data, &["import", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let imported: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (
            &imported["accepted"],
            &imported["duplicates"],
            &imported["refused"]
        ),
        (&json!(IDS), &json!(IDS), &json!(1))
    );
    let error = imported["errors"][0].as_str().unwrap();
    assert!(error.contains(&format!("line {}:", 2 * IDS + 1)), "{error}");
    let usage = run_json(&data, &["usage", "--days", "1"]);
    assert_eq!(usage["feature_usage"], json!({"first": IDS}));
    assert!(log_lines(&data).is_empty());
}

#[test]
fn an_import_killed_at_any_call_stores_all_or_nothing_and_can_be_repeated() {
    let dir = folder();
    let now = Utc::now();
    let file = dir.path().join("events.ndjson");
    let lines = (0..30).map(|id| line(now - chrono::Days::new(u64::from(id) % 2 + 1), id, "new"));
    std::fs::write(&file, lines.collect::<String>()).unwrap();
    let numbers = |data: &Path| {
        let mut usage = run_json(data, &["usage", "--days", "5"]);
        usage.as_object_mut().unwrap().remove("ts");
        usage
    };
    let make = |data: &Path| {
        unsealed_demo(data, 60, 3, 1);
        run_json(data, &["seal"]);
    };
    let import = |data: &Path| {
        let mut command = echopilot(data);
        command.arg("import").arg(&file);
        command
    };
    let (before, after) = {
        let data = folder();
        make(data.path());
        let before = numbers(data.path());
        assert!(import(data.path()).output().unwrap().status.success());
        (before, numbers(data.path()))
    };
    assert_eq!(after["feature_usage"]["new"], 30);
    for kind in ["kill", "torn", "eio"] {
        let mut points = 0;
        for at in 1.. {
            let data = folder();
            make(data.path());
            let mut command = import(data.path());
            with_fault(&mut command, data.path(), kind, at);
            let done = command.output().unwrap().status.success();
            let found = numbers(data.path());
            assert!(found == before || found == after, "{kind} at {at}: {found}");
            assert!(!done || found == after, "{kind} at {at}: {found}");
            let repeated: Value = run_json(data.path(), &["import", file.to_str().unwrap()]);
            assert_eq!(
                repeated["duplicates"] == 30,
                found == after,
                "{kind} at {at}"
            );
            assert_eq!(numbers(data.path()), after, "{kind} at {at}, again");
            let verified = run_json(data.path(), &["verify"]);
            assert_eq!(verified["damage"], json!([]), "{kind} at {at}");
            if done {
                break;
            }
            points += 1;
        }
        assert!(points >= 10, "{kind}: only {points} points were tried");
    }
}
