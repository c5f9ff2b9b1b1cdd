//! The lake as open Delta tables, read by engines that others wrote.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use chrono::Utc;
use echopilot_analytics::engine::Cancel;
use echopilot_analytics::export::Format;
use echopilot_analytics::metrics::NAMES;
use echopilot_analytics::metrics::query::Query;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    PATIENCE, Server, batch, echopilot, engine, event, folder, refused, run_json, unsealed_demo,
};
use crate::metrics::request_of;
use crate::monitoring::Page;
use crate::oracle::{python, python_command};
use crate::public_limits::until;

fn publish(data: &Path, to: &Path) -> Value {
    let to = to.to_str().unwrap();
    run_json(data, &["export", "--for", "delta", "--to", to])
}

/// Compares the rows of all readers with those of the lake. Returns their number.
fn read_by_all(to: &Path, data: &Path) -> u64 {
    let lake = data.join("events");
    let arguments = [to.to_str().unwrap(), lake.to_str().unwrap()];
    let rows = python(&["tests/oracle/delta.py", "rows", arguments[0], arguments[1]]);
    rows.as_u64().unwrap()
}

/// The result of each metric over the days of a history of nine, in files of their names.
pub fn results_of_metrics(data: &Path) -> TempDir {
    let results = folder();
    let now = Utc::now();
    let store = engine(data, now);
    for metric in NAMES {
        let mut request = request_of(metric);
        request["days"] = json!(9);
        request["end"] = json!(now.date_naive().to_string());
        let query = Query::parse(request.to_string().as_bytes()).unwrap();
        let answer = store.query(&query, now, &Cancel::default()).unwrap();
        let path = results.path().join(format!("{metric}.json"));
        std::fs::write(path, Format::Json.encode(&answer, &answer.rows).unwrap()).unwrap();
    }
    results
}

/// The numbers of the versions of the table of events.
fn versions(to: &Path) -> usize {
    let log = std::fs::read_dir(to.join("events/_delta_log")).unwrap();
    let names = log.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".json")).count()
}

/// True if a file below a folder contains these bytes. One that is deleted meanwhile does not.
fn contains(dir: &Path, bytes: &str) -> bool {
    let mut files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    files.any(|entry| {
        let path = entry.path();
        match path.is_dir() {
            true => contains(&path, bytes),
            false => {
                let content = std::fs::read(&path).unwrap_or_default();
                content
                    .windows(bytes.len())
                    .any(|part| part == bytes.as_bytes())
            }
        }
    })
}

/// Users of the demo who get a second id.
const LINKED: u64 = 8;

/// Links pairs of users of a store, as a client of Segment does. `file` is for its messages.
fn link_some_users(data: &Path, file: &Path) {
    let events = run_json(
        data,
        &["query", r#"{"metric":"events","days":9,"limit":500}"#],
    );
    let rows = events["rows"].as_array().unwrap().iter();
    let users: BTreeSet<&str> = rows.filter_map(|row| row["user_id"].as_str()).collect();
    let users: Vec<&str> = users.into_iter().take(2 * LINKED as usize).collect();
    assert_eq!(users.len() as u64, 2 * LINKED);
    let ts = Utc::now() - chrono::TimeDelta::hours(1);
    let calls = users.chunks(2).map(|ids| {
        json!({"type":"identify","anonymousId":ids[0],"userId":ids[1],"timestamp":ts.to_rfc3339()})
            .to_string()
    });
    std::fs::write(file, calls.collect::<Vec<_>>().join("\n")).unwrap();
    run_json(
        data,
        &["import", "--from", "segment", file.to_str().unwrap()],
    );
}

#[test]
fn every_reader_and_query_finds_in_the_table_what_is_in_the_store() {
    let dir = folder();
    let data = dir.path().join("data");
    let to = dir.path().join("it's a lake");
    unsealed_demo(&data, 3_000, 9, 1);
    link_some_users(&data, &dir.path().join("calls.ndjson"));
    run_json(&data, &["rollup"]);
    let published = publish(&data, &to);
    assert_eq!(published["events"], 3_000 + LINKED, "{published}");
    let names: Vec<&Value> = published["tables"]
        .as_array()
        .unwrap()
        .iter()
        .map(|table| &table["name"])
        .collect();
    assert_eq!(
        names,
        [
            "events",
            "daily_rollups",
            "daily_features",
            "daily_event_types",
            "links"
        ]
    );
    let again = publish(&data, &to);
    assert_eq!((&again["files"], versions(&to)), (&json!(0), 1));
    // A quote in a path cannot be read by every function of the readers.
    let place = dir.path().join("lake");
    std::fs::rename(&to, &place).unwrap();
    assert_eq!(read_by_all(&place, &data), 3_000 + LINKED);
    let published = publish(&data, &place);
    assert_eq!(published["files"], 0, "a moved table is the same");

    // All metrics by their SQL, in ClickHouse with the statements that the export wrote.
    let results = results_of_metrics(&data);
    let (place, results) = (place.to_str().unwrap(), results.path().to_str().unwrap());
    let compared = python(&["tests/oracle/delta.py", "queries", place, results]);
    // In DuckDB, ClickHouse, DataFusion, Polars and Sail.
    assert_eq!(compared, json!(5 * NAMES.len()));
}

#[test]
fn each_job_is_one_commit_and_erased_events_leave_every_file() {
    let dir = folder();
    let (data, to) = (dir.path().join("data"), dir.path().join("lake"));
    let now = Utc::now();
    let import = |number: usize, users: &[&str]| {
        let lines: Vec<String> = users
            .iter()
            .map(|user| {
                let ts = now - chrono::TimeDelta::days(2);
                json!({"event_type":"action","user_id":user,"ts":ts.to_rfc3339(),"event_id":format!("{user}-{number}")})
                    .to_string()
            })
            .collect();
        let file = dir.path().join("events.ndjson");
        std::fs::write(&file, lines.join("\n")).unwrap();
        run_json(&data, &["import", file.to_str().unwrap()]);
    };
    // As many small files as one compaction joins.
    for number in 0..8 {
        import(
            number,
            &["ann-the-first", "bob-the-second", "cyd-the-third"],
        );
        publish(&data, &to);
        assert_eq!(versions(&to), number + 1);
    }
    run_json(&data, &["seal"]);
    let compacted = publish(&data, &to);
    let events = &compacted["tables"][0];
    assert_eq!(
        (&events["added"], &events["removed"], versions(&to)),
        (&json!(1), &json!(8), 9),
        "{compacted}"
    );
    assert!(
        contains(&to, "bob-the-second"),
        "the words are searched as they are stored"
    );
    run_json(&data, &["user", "erase", "bob-the-second", "ann-the-first"]);
    let began = Instant::now();
    publish(&data, &to);
    assert_eq!(versions(&to), 10);
    assert!(began.elapsed().as_secs() < 60);
    // The compaction was published a moment ago, and its files have erased events too.
    assert!(!contains(&to, "bob-the-second") && !contains(&to, "ann-the-first"));
    assert_eq!(read_by_all(&to, &data), 8);
}

#[test]
fn the_statements_of_every_engine_parse_in_its_dialect() {
    let dir = folder();
    for (place, engines) in [("s3://b/p", 8), ("gs://b/p", 8), ("az://c/p", 7)] {
        let folder = dir.path().join(place.get(..2).unwrap());
        std::fs::create_dir(&folder).unwrap();
        let files = echopilot_analytics::export::delta::attach::files(place);
        assert_eq!(files.len(), engines);
        for (path, sql) in files {
            std::fs::write(folder.join(path.rsplit('/').next().unwrap()), sql).unwrap();
        }
    }
    let folders = ["s3", "gs", "az"].map(|name| dir.path().join(name));
    let folders = folders.iter().map(|folder| folder.to_str().unwrap());
    let arguments: Vec<&str> = ["tests/oracle/delta.py", "statements"]
        .into_iter()
        .chain(folders)
        .collect();
    let parsed = python(&arguments).as_u64().unwrap();
    assert!(parsed >= 70, "{parsed}");
}

#[test]
fn a_place_that_cannot_be_a_table_is_rejected_before_anything_is_written() {
    let dir = folder();
    let data = dir.path().join("data");
    unsealed_demo(&data, 100, 2, 1);
    let outside = dir.path().join("lake");
    let (outside, inside) = (outside.to_str().unwrap(), data.join("lake"));
    let plain = dir.path().join("plain");
    run_json(&data, &["export", "--to", plain.to_str().unwrap()]);
    for (to, more, says) in [
        ("ftp://host/x", vec![], "allowed are s3://, gs://, az://"),
        (inside.to_str().unwrap(), vec![], "is in the data folder"),
        (outside, vec!["--days", "3"], "a table has all events"),
        (outside, vec!["--since", "last"], "a table has all events"),
        (
            plain.to_str().unwrap(),
            vec![],
            "was not written by this server",
        ),
        // No variable has credentials, and this machine has no role.
        ("s3://bucket/lake", vec![], "set AWS_ACCESS_KEY_ID"),
    ] {
        let mut command = echopilot(&data);
        command
            .args(["export", "--for", "delta", "--to", to])
            .args(&more)
            .env("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")
            .env_remove("AWS_ACCESS_KEY_ID");
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{to}: {said}");
        assert!(said.contains(says), "{to}: {said}");
    }
    assert!(!Path::new(outside).exists() && !inside.exists() && !plain.join("attach").exists());
    publish(&data, Path::new(outside));
    let output = echopilot(&data)
        .args(["export", "--to", outside])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("_delta_log belongs to a table"), "{said}");
}

/// A server that publishes at once, at most every second.
fn publishing(data: &Path, to: &str) -> std::process::Command {
    let mut command = echopilot(data);
    command.env("ECHOPILOT_PUBLISH", to);
    command.env("ECHOPILOT_PUBLISH_EVERY", "1");
    command
}

/// The publication in the status, once it meets a condition.
fn publication(server: &Server, is_so: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let (status, answer) = server.get("/api/analytics/status");
        assert_eq!(status, 200, "{answer}");
        let found = &answer["publication"];
        if is_so(found) {
            return found.clone();
        }
        assert!(began.elapsed() < PATIENCE, "{found}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// The publication in the receipt of an erasure, which is repeated until it has ended: a receipt
/// waits for it some seconds, which may be too few on a busy machine.
pub fn published_erasure(mut receipt: Value, again: impl Fn() -> Value) -> Value {
    let began = Instant::now();
    while receipt["published"]["waiting"] == "it is being published" {
        assert!(began.elapsed() < PATIENCE, "{receipt}");
        receipt = again();
    }
    assert_eq!(receipt["published"]["waiting"], Value::Null, "{receipt}");
    receipt["published"].take()
}

/// Waits until everything that is sealed is published. Returns the version.
fn published(server: &Server) -> u64 {
    let found = publication(server, |found| found["up_to_date"] == true);
    found["version"].as_u64().unwrap()
}

/// The rows of the table of events at each version, by its log.
fn rows_of_versions(to: &Path) -> Vec<u64> {
    let mut rows = 0;
    let mut of_versions = Vec::new();
    let mut files = std::collections::HashMap::new();
    for version in 0.. {
        let path = to.join(format!("events/_delta_log/{version:020}.json"));
        let Ok(lines) = std::fs::read_to_string(path) else {
            return of_versions;
        };
        for line in lines.lines() {
            let action: Value = serde_json::from_str(line).unwrap();
            let path = |kind: &str| Some(action[kind]["path"].as_str()?.to_owned());
            if let Some(path) = path("add") {
                let stats = action["add"]["stats"].as_str().unwrap();
                let stats: Value = serde_json::from_str(stats).unwrap();
                let of_file = stats["numRecords"].as_u64().unwrap();
                files.insert(path, of_file);
                rows += of_file;
            }
            if let Some(path) = path("remove") {
                rows -= files.remove(&path).expect("it was added");
            }
        }
        of_versions.push(rows);
    }
    unreachable!("versions end")
}

/// Reads in `make test`; more with the environment variable, as for a release.
const READS: usize = 200;

#[test]
fn each_read_while_a_server_publishes_is_exactly_one_committed_version() {
    let reads = std::env::var("ECHOPILOT_TEST_READS").ok();
    let reads = reads.and_then(|reads| reads.parse().ok()).unwrap_or(READS);
    let dir = folder();
    let (data, to) = (dir.path().join("data"), dir.path().join("lake"));
    unsealed_demo(&data, 100, 3, 1);
    let mut server = Server::start_as(publishing(&data, to.to_str().unwrap()));
    let now = Utc::now();
    let mut number = 0;
    let mut import = |users: &[String]| {
        number += 1;
        let lines: Vec<String> = users
            .iter()
            .enumerate()
            .map(|(place, user)| {
                let ts = now - chrono::TimeDelta::days(place as i64 % 3);
                json!({"event_type":"action","user_id":user,"ts":ts.to_rfc3339(),
                    "event_id":format!("{user}-{number}-{place}")})
                .to_string()
            })
            .collect();
        let file = dir.path().join(format!("events-{number}.ndjson"));
        std::fs::write(&file, lines.join("\n")).unwrap();
        run_json(&data, &["import", file.to_str().unwrap()]);
    };
    let users: Vec<String> = (0..400)
        .map(|user| format!("user-{user:03}-of-the-test"))
        .collect();
    import(&users);
    published(&server);
    let mut reader = python_command()
        .args(["tests/oracle/delta.py", "follow", to.to_str().unwrap()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(reader.stdout.take().unwrap()).lines();
    let (sender, found) = channel();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let _ = sender.send(serde_json::from_str::<Value>(&line).unwrap());
        }
    });
    let mut seen: Vec<Value> = Vec::new();
    let mut erased = users.chunks(2);
    let mut receipt = Value::Null;
    while seen.len() < reads {
        import(&users);
        published(&server);
        run_json(&data, &["seal"]);
        published(&server);
        if let Some(users) = erased.next() {
            let erase = || run_json(&data, &["user", "erase", &users[0], &users[1]]);
            receipt = published_erasure(erase(), erase);
            // It says when no file has the events of the erased users any more.
            let gone_at = receipt["files_deleted_at"].as_str().unwrap();
            let gone_at: chrono::DateTime<Utc> = gone_at.parse().unwrap();
            let within = (gone_at - Utc::now()).num_seconds();
            assert!((1..=60).contains(&within), "{receipt}");
        }
        seen.extend(found.try_iter());
    }
    drop(reader.stdin.take());
    reader.wait().unwrap();
    seen.extend(found.iter());
    let rows = rows_of_versions(&to);
    let mut by_reader = std::collections::BTreeMap::new();
    for read in &seen {
        assert_eq!(read["error"], Value::Null, "{read}");
        let version = |name: &str| read[name].as_u64().unwrap() as usize;
        let legal = &rows[version("first")..=version("last")];
        let count = read["rows"].as_u64().unwrap();
        assert!(legal.contains(&count), "{read}: {legal:?}");
        *by_reader
            .entry(read["reader"].as_str().unwrap())
            .or_insert(0) += 1;
    }
    assert_eq!(by_reader.len(), 5, "{by_reader:?}");
    assert!(rows.len() > 3, "{rows:?}");

    // The files go when the receipt says.
    assert!(receipt.is_object());
    let mut deletions = 0;
    while contains(&to, &users[0]) {
        deletions += 1;
        server.wait_for_lines("Deleted files", deletions);
    }
    until("it is up to date", || {
        let page = Page::of(&server);
        let gauges = ["echopilot_table_lag_seconds", "echopilot_table_failures"];
        gauges.iter().all(|gauge| page.value(gauge) == 0.0)
    });
    let log = server.stop();
    assert!(!log.contains("ERROR"), "{log}");
    assert_eq!(read_by_all(&to, &data), *rows.last().unwrap());
}

#[test]
fn a_bucket_that_is_gone_delays_no_event_and_is_reported() {
    let dir = folder();
    let data = dir.path().join("data");
    let mut command = publishing(&data, "s3://lake/tables");
    // Nothing listens there.
    command
        .env("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        .env("AWS_ALLOW_HTTP", "true")
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "secret-of-the-test");
    let server = Server::start_as(command);
    let (status, answer) = server.post(&batch([event("action", "ann", "a")]));
    assert_eq!((status, &answer["logged"]), (200, &json!(1)));
    run_json(&data, &["seal"]);
    let failed = publication(&server, |found| found["failures"].as_u64() > Some(0));
    let error = failed["last_error"].as_str().unwrap();
    assert!(error.contains("s3://lake/tables"), "{error}");
    assert!(!failed.to_string().contains("secret-of-the-test"));
    assert_eq!(
        (&failed["to"], &failed["version"]),
        (&json!("s3://lake/tables"), &Value::Null)
    );
    let (status, answer) = server.post(&batch([event("action", "bob", "a")]));
    assert_eq!((status, &answer["logged"]), (200, &json!(1)));
    let erased = run_json(&data, &["user", "erase", "ann"]);
    assert_eq!(erased["events"], 1);
    assert!(erased["published"]["waiting"].is_string(), "{erased}");
    server.stop();

    for (to, says) in [
        ("ftp://host/x", "allowed are s3://, gs://, az://"),
        (data.join("lake").to_str().unwrap(), "is in the data folder"),
    ] {
        refused(publishing(&data, to), says);
    }
}

#[test]
fn a_server_that_was_killed_publishes_what_is_missing_after_its_restart() {
    let dir = folder();
    let (data, to) = (dir.path().join("data"), dir.path().join("lake"));
    let place = to.to_str().unwrap();
    unsealed_demo(&data, 500, 3, 1);
    run_json(&data, &["seal"]);
    for round in 0..4 {
        let server = Server::start_as(publishing(&data, place));
        server.post(&batch([event("action", &format!("user-{round}"), "a")]));
        run_json(&data, &["seal"]);
        // At no particular moment: a publication may be in progress.
        server.kill();
    }
    let server = Server::start_as(publishing(&data, place));
    published(&server);
    server.stop();
    assert_eq!(read_by_all(&to, &data), 504);
}
