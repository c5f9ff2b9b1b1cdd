//! Current and old Arrow readers on every kind of file that is written.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::faults::{copy, with_fault};
use crate::harness::{KEY, Server, echopilot, folder, printed, run, run_json, unsealed_demo};
use crate::oracle::{old_python_command, python_command};

/// Reads files with every reader, and filters, sorts, takes, joins and groups them by a column of
/// strings, if they have one.
fn read_by_all(files: &[(&str, PathBuf)]) -> Vec<Value> {
    let found = [python_command(), old_python_command()].map(|mut python| {
        python.arg("tests/oracle/arrow_readers.py");
        python.args(
            files
                .iter()
                .map(|(column, path)| format!("{column}={}", path.display())),
        );
        serde_json::from_slice::<Value>(&printed(&mut python)).unwrap()
    });
    let [new, old] = found;
    assert_ne!(new["versions"], old["versions"]);
    assert_eq!(new["found"], old["found"]);
    new["found"].as_array().unwrap().clone()
}

/// The Parquet files in a folder and below it.
fn parquet_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(parquet_files(&path)),
            false if path.extension().is_some_and(|end| end == "parquet") => found.push(path),
            false => {}
        }
    }
    found.sort();
    found
}

/// The type of each string and timestamp column of the lake.
fn lake_types() -> Value {
    let (text, instant) = ("string", "timestamp[us, tz=UTC]");
    json!({"ts":instant,"event_type":text,"user_id":text,"feature":text,"metadata":text,"url":text,"event_id":text,
        "received_at":instant})
}

#[test]
fn every_file_is_read_filtered_and_joined_by_old_and_new_arrow_readers() {
    let dir = folder();
    let data = dir.path().join("data");
    let to = dir.path().join("out");
    unsealed_demo(&data, 600, 3, 1);
    run_json(&data, &["rollup"]);
    run_json(&data, &["seal"]);
    run_json(&data, &["export", "--to", to.to_str().unwrap()]);
    let query = r#"{"metric":"feature_usage","days":5}"#;
    let retention = r#"{"metric":"retention","days":5}"#;
    let mut files: Vec<(&str, PathBuf)> = Vec::new();
    for (name, query) in [("features", query), ("retention", retention)] {
        for format in ["parquet", "arrow"] {
            let output = run(&data, &["query", query, "--format", format]);
            let path = dir.path().join(format!("{name}.{format}"));
            std::fs::write(&path, output.stdout).unwrap();
            let column = if name == "features" {
                "feature"
            } else {
                "cohort"
            };
            files.push((column, path));
        }
    }
    let server = Server::start(&data);
    for format in ["parquet", "arrow"] {
        let address = format!("/api/analytics/export?days=5&format={format}");
        let (status, body) = server.get_bytes(&address, &[("x-dash-key", KEY)]);
        assert_eq!(status, 200);
        let path = dir.path().join(format!("events.{format}"));
        std::fs::write(&path, body).unwrap();
        files.push(("feature", path));
    }
    let answers = files.len();
    files.extend(
        parquet_files(&data.join("events"))
            .into_iter()
            .map(|path| ("feature", path)),
    );
    files.extend(
        parquet_files(&to.join("events"))
            .into_iter()
            .map(|path| ("feature", path)),
    );
    let events = files.len();
    files.extend(
        parquet_files(&to.join("daily_rollups"))
            .into_iter()
            .map(|path| ("", path)),
    );
    files.extend(
        parquet_files(&to.join("daily_features"))
            .into_iter()
            .map(|path| ("feature", path)),
    );
    files.extend(
        parquet_files(&to.join("daily_event_types"))
            .into_iter()
            .map(|path| ("event_type", path)),
    );
    assert_eq!((answers, events, files.len()), (6, 12, 15));
    let found = read_by_all(&files);
    for (file, (_, path)) in found.iter().zip(&files).take(events).skip(4) {
        assert_eq!(file["types"], lake_types(), "{}", path.display());
    }
    let rows = |range: std::ops::Range<usize>| -> u64 {
        found[range]
            .iter()
            .filter_map(|file| file["rows"].as_u64())
            .sum()
    };
    assert_eq!(
        (rows(4..5), rows(5..6), rows(6..9), rows(9..12)),
        (600, 600, 600, 600)
    );
    // The folders of two tables are never read as one table.
    assert_eq!(found[12]["types"]["dau"], "double");
    assert_eq!(
        found[13]["types"],
        json!({"day":"date32[day]","feature":"string","events":"int64"})
    );
    assert_eq!(
        found[14]["types"],
        json!({"day":"date32[day]","event_type":"string","events":"int64"})
    );
}

#[test]
fn compaction_killed_at_any_call_leaves_each_segment_in_the_old_or_the_new_format() {
    let origin = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1");
    let numbers = |dir: &Path| {
        let window = ["usage", "--days", "30", "--end", "2026-11-21"];
        // From the events, not from the daily states.
        let mut usage = run_json(dir, &[&window[..], &["--tz", "Africa/Abidjan"]].concat());
        usage.as_object_mut().unwrap().remove("ts");
        usage
    };
    let expected = numbers(copy(&origin).path());
    for kind in ["kill", "torn", "eio"] {
        let mut points = 0;
        // Another test kills the seal at each call.
        for at in (1..).step_by(if kind == "kill" { 3 } else { 10 }) {
            let dir = copy(&origin);
            let mut command = echopilot(dir.path());
            with_fault(&mut command, dir.path(), kind, at);
            let done = command.arg("seal").output().unwrap().status.success();
            assert_eq!(numbers(dir.path()), expected, "{kind} at {at}");
            let verified = run_json(dir.path(), &["verify"]);
            assert_eq!(verified["damage"], json!([]), "{kind} at {at}");
            run_json(dir.path(), &["seal"]);
            assert_eq!(numbers(dir.path()), expected, "{kind} at {at}, again");
            let manifest = std::fs::read(dir.path().join("manifest.json")).unwrap();
            let manifest: Value = serde_json::from_slice(&manifest).unwrap();
            let segments = manifest["segments"].as_array().unwrap();
            assert!(
                segments.iter().all(|segment| segment["format"] == 1),
                "{manifest}"
            );
            if done {
                let files = parquet_files(&dir.path().join("events"));
                assert_eq!(files.len(), segments.len());
                let files: Vec<_> = files.into_iter().map(|path| ("user_id", path)).collect();
                for file in read_by_all(&files) {
                    assert_eq!(file["types"], lake_types());
                }
                break;
            }
            points += 1;
        }
        assert!(points >= 5, "{kind}: only {points} points were tried");
    }
}

#[test]
fn an_export_of_segments_of_an_earlier_format_is_written_in_the_new_format() {
    let dir = copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1"));
    let to = folder();
    // Only the log is sealed: there is no compaction before.
    run_json(dir.path(), &["export", "--to", to.path().to_str().unwrap()]);
    let manifest = std::fs::read_to_string(dir.path().join("manifest.json")).unwrap();
    assert!(manifest.contains("\"format\":0"), "{manifest}");
    let files = parquet_files(&to.path().join("events"));
    assert!(files.len() >= 5);
    let files: Vec<_> = files.into_iter().map(|path| ("user_id", path)).collect();
    for file in read_by_all(&files) {
        assert_eq!(file["types"], lake_types());
    }
}
