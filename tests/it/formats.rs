//! Data folders of every format that was ever written stay readable.

use std::path::{Path, PathBuf};

use echopilot_analytics::checksum;
use serde_json::{Value, json};

use crate::faults::copy;
use crate::harness::{engine, ingest, run, run_json};

/// A data folder of the first version: sealed days with their states, and events in the log.
fn fixture(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(version)
}

/// The response without its time, and without the fields that the first version did not have.
fn usage(dir: &Path, tz: &str) -> Value {
    let arguments = ["usage", "--days", "30", "--end", "2026-11-21", "--tz", tz];
    let mut usage = run_json(dir, &arguments);
    let answer = usage.as_object_mut().unwrap();
    for later in ["ts", "window", "partial_days", "partial_weeks"] {
        answer.remove(later);
    }
    usage
}

#[test]
fn the_first_format_opens_and_gives_its_recorded_numbers() {
    let dir = copy(&fixture("v1"));
    let expected = std::fs::read(fixture("v1.json")).unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    assert_eq!(run_json(dir.path(), &["verify"])["damage"], json!([]));
    for tz in ["UTC", "Asia/Tokyo"] {
        assert_eq!(usage(dir.path(), tz), expected[tz], "{tz}");
    }
    assert_eq!(run_json(dir.path(), &["rebuild"])["changed"], 0);
    // A seal adds to existing days.
    run_json(dir.path(), &["seal"]);
    for tz in ["UTC", "Asia/Tokyo"] {
        assert_eq!(usage(dir.path(), tz), expected[tz], "{tz}, sealed");
    }
    // An event of a user that the dictionary knows, soon after the others, adds no user to it.
    let dictionary = || std::fs::read_to_string(dir.path().join("users.ndjson")).unwrap();
    let known = dictionary();
    assert_eq!(known.lines().count(), 7);
    let soon = "2026-11-23T12:00:00Z".parse().unwrap();
    let engine = engine(dir.path(), soon);
    let event = json!({"event_type":"action","user_id":"ann"});
    assert_eq!(ingest(&engine, &[event], soon).logged, 1);
    engine.close();
    assert_eq!(dictionary(), known);
}

#[test]
fn a_newer_format_is_rejected_and_left_unchanged() {
    let dir = copy(&fixture("v1"));
    let path = dir.path().join("manifest.json");
    let manifest = std::fs::read_to_string(&path).unwrap();
    let (body, _) = manifest.rsplit_once(",\"crc32c\":\"").unwrap();
    let mut newer = body
        .replace("{\"version\":1,", "{\"version\":2,")
        .into_bytes();
    assert_ne!(newer, body.as_bytes());
    checksum::close_object(&mut newer, 0);
    newer.push(b'\n');
    std::fs::write(&path, &newer).unwrap();
    for command in ["usage", "verify", "seal"] {
        let output = run(dir.path(), &[command]);
        assert_eq!(output.status.code(), Some(1), "{command}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            said.contains("version 2") && said.contains("newer program"),
            "{said}"
        );
    }
    assert_eq!(std::fs::read(&path).unwrap(), newer);
}
