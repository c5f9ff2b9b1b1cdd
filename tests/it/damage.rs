//! Random damage of every kind of file. A query fails, or the damage is repaired and logged, or the
//! result is the same; it is never silently different. And `verify` names the damage.

use std::fs;
use std::path::{Path, PathBuf};

use chrono::{Days, Utc};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::faults::copy;
use crate::harness::{Server, batch, event, folder, run, run_json, unsealed_demo};

/// Number of damages for each kind of file.
const DAMAGES: u64 = 32;
const ERASED: &str = "an-erased-user";

/// A store with every kind of file.
fn store(dir: &Path) {
    unsealed_demo(dir, 400, 4, 1);
    run_json(dir, &["seal"]);
    let server = Server::start(dir);
    for number in 0..6 {
        server.post(&batch([
            event("action", ERASED, "f"),
            event("action", &format!("u{number}"), "f"),
            json!({"event_type":"action","user_id":"v","feature":"f","event_id":format!("{number}")}),
        ]));
    }
    server.stop();
    run_json(dir, &["user", "erase", ERASED]);
    run_json(
        dir,
        &[
            "cohort",
            "set",
            r#"{"name":"some","users":["u1","u2","u3"]}"#,
        ],
    );
    run_json(dir, &["rollup"]);
    run_json(
        dir,
        &["export", "--to", dir.join("exports/lake").to_str().unwrap()],
    );
    let log = dir.join("analytics_events.ndjson");
    let server = Server::start(dir);
    for number in 0..6 {
        server.post(&batch([event("page_view", &format!("u{number}"), "g")]));
    }
    server.kill();
    // A log that waits to be sealed, a log that is open, and a torn write in the quarantine.
    fs::create_dir_all(dir.join("sealing")).unwrap();
    fs::copy(&log, dir.join("sealing/00000900.ndjson")).unwrap();
    let torn = fs::read(&log).unwrap();
    fs::write(&log, [&torn[..], &torn[..70]].concat()).unwrap();
    run_json(dir, &["usage"]);
}

/// Results that depend on states, on events and on a cohort, and the events of the erased user.
fn ask(dir: &Path) -> Vec<Value> {
    let today = Utc::now().date_naive().to_string();
    let window = ["--days", "9", "--end", &today];
    let (mut answers, mut is_said) = (Vec::new(), false);
    for question in [
        json!({"metric":"active_users","days":9,"end":today}),
        json!({"metric":"feature_usage","days":9,"end":today,"filter":{"cohort":"some"}}),
    ] {
        answers.push(answer(dir, &["query", &question.to_string()], &mut is_said));
    }
    answers.push(answer(
        dir,
        &[&["usage"], &window[..]].concat(),
        &mut is_said,
    ));
    let utc_by_events = [&["usage", "--tz", "Africa/Abidjan"], &window[..]].concat();
    answers.push(answer(dir, &utc_by_events, &mut is_said));
    // Events of an erased user from before the erasure are ignored, and events with a known id.
    let file = dir.with_extension("again");
    let before = Utc::now() - Days::new(1);
    let erased = json!({"event_type":"action","user_id":ERASED,"ts":before});
    let known = json!({"event_type":"action","user_id":"v","feature":"f","event_id":"3"});
    fs::write(&file, format!("{erased}\n{known}\n")).unwrap();
    answers.push(
        match answer(dir, &["import", file.to_str().unwrap()], &mut is_said) {
            Value::Null => Value::Null,
            imported => imported["accepted"].clone(),
        },
    );
    fs::remove_file(&file).unwrap();
    answers.push(rollups(dir, &mut is_said));
    answers
}

/// The lines of the rollup log, after damaged ones are made again.
fn rollups(dir: &Path, is_said: &mut bool) -> Value {
    let rolled_up = answer(dir, &["rollup"], is_said);
    let lines = fs::read_to_string(dir.join("analytics.ndjson")).unwrap_or_default();
    let lines = lines.lines().map(serde_json::from_str::<Value>);
    let mut lines: Vec<Value> = lines.map(|line| line.expect("a line of JSON")).collect();
    lines.sort_by_key(|line| line["day"].to_string());
    match rolled_up {
        Value::Null => Value::Null,
        _ => lines.into(),
    }
}

/// The result of a command; null if it fails, or after it has logged that it read less than was
/// written, which also applies to later results.
fn answer(dir: &Path, arguments: &[&str], is_said: &mut bool) -> Value {
    let output = run(dir, arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let less = ["damaged pieces", "a torn write", "may be counted again"];
    *is_said |= less.iter().any(|message| said.contains(message));
    if !output.status.success() || *is_said {
        assert!(*is_said || !said.is_empty(), "{arguments:?}");
        assert!(!said.contains("panicked"), "{arguments:?}: {said}");
        return Value::Null;
    }
    let mut answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    answer.as_object_mut().unwrap().remove("ts");
    answer
}

fn damage(bytes: &mut Vec<u8>, random: &mut SmallRng) -> String {
    let at = random.random_range(0..bytes.len());
    match random.next_u32() % 4 {
        0 => {
            let bit = random.random_range(0..8);
            bytes[at] ^= 1 << bit;
            format!("bit {bit} of byte {at}")
        }
        1 => {
            bytes[at] = bytes[at].wrapping_add(random.random_range(1..=255));
            format!("byte {at}")
        }
        2 => {
            bytes.truncate(at);
            format!("cut at {at}")
        }
        _ => {
            let end = (at + 64).min(bytes.len());
            bytes[at..end].fill(0);
            format!("zeros from {at}")
        }
    }
}

/// The first file of a folder with this end of its name.
fn first(dir: &Path, end: &str) -> PathBuf {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => found.push(path),
            }
        }
    }
    found.retain(|path| path.to_str().unwrap().ends_with(end));
    found.sort();
    found.swap_remove(0)
}

fn check(name: &str, find: fn(&Path) -> PathBuf) {
    let origin = folder();
    let data = origin.path().join("data");
    store(&data);
    let path = find(&data);
    let path = path.strip_prefix(origin.path()).unwrap();
    let expected = {
        let dir = copy(origin.path());
        ask(&dir.path().join("data"))
    };
    assert!(
        expected.iter().all(|answer| !answer.is_null()),
        "{expected:?}"
    );
    assert_eq!(expected[expected.len() - 2], json!(0));
    let mut random = SmallRng::seed_from_u64(16);
    for number in 0..DAMAGES {
        let dir = copy(origin.path());
        let whole = fs::read(dir.path().join(path)).unwrap();
        let mut bytes = whole.clone();
        let what = damage(&mut bytes, &mut random);
        if bytes == whole {
            continue;
        }
        fs::write(dir.path().join(path), &bytes).unwrap();
        let data = dir.path().join("data");
        let verified = run(&data, &["verify"]);
        let said = [&verified.stdout[..], &verified.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert_eq!(
            verified.status.code(),
            Some(1),
            "{name} {number}, {what}: not found"
        );
        let file = path.file_name().unwrap().to_str().unwrap();
        let is_named = said.contains(file.strip_suffix(".columns").unwrap_or(file));
        assert!(is_named, "{name} {number}, {what}: {said}");
        assert_eq!(fs::read(dir.path().join(path)).unwrap(), bytes);
        for (found, expected) in ask(&data).iter().zip(&expected) {
            assert!(
                found.is_null() || found == expected,
                "{name} {number}, {what}: {found} for {expected}"
            );
        }
    }
}

macro_rules! damaged {
    ($($name:ident: $find:expr;)*) => {
        $(#[test]
        fn $name() {
            check(stringify!($name), $find);
        })*
    };
}

damaged! {
    a_damaged_manifest_makes_no_other_result: |dir| dir.join("manifest.json");
    a_damaged_mark_makes_no_other_result: |dir| dir.join(".echopilot");
    a_damaged_dictionary_makes_no_other_result: |dir| first(dir, "users-1.ndjson");
    a_damaged_state_makes_no_other_result: |dir| first(&dir.join("states"), ".state");
    a_damaged_segment_makes_no_other_result: |dir| first(&dir.join("events"), ".parquet");
    damaged_event_ids_make_no_other_result: |dir| first(&dir.join("ids"), ".ids");
    damaged_columns_make_no_other_result: |dir| first(&dir.join("columns"), ".columns");
    damaged_erasures_make_no_other_result: |dir| dir.join("erasures.json");
    damaged_cohorts_make_no_other_result: |dir| dir.join("cohorts.json");
    a_damaged_rollup_log_makes_no_other_result: |dir| dir.join("analytics.ndjson");
    a_damaged_quarantine_makes_no_other_result: |dir| dir.join("quarantine.ndjson");
    a_damaged_log_makes_no_other_result: |dir| dir.join("analytics_events.ndjson");
    a_damaged_log_that_waits_makes_no_other_result: |dir| dir.join("sealing/00000900.ndjson");
    a_damaged_list_of_an_export_makes_no_other_result: |dir| dir.join("exports/lake/export.json");
}
