//! Exports and backups in object storage, tested against moto, an independent S3 server.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Instant;

use chrono::{Days, Utc};
use echopilot_analytics::metrics::NAMES;
use serde_json::{Value, json};

use crate::delta::results_of_metrics;
use crate::harness::{
    PATIENCE, echopilot, folder, incompressible, numbers_below, printed, run, run_json,
    unsealed_demo,
};
use crate::oracle::{python, python_command};

/// A running S3 server, stopped when dropped.
pub struct S3 {
    child: Child,
    _lives_while_open: ChildStdin,
    url: String,
}

impl S3 {
    /// Starts it. Each request with a number that this one divides fails.
    pub fn start(fail_every: u32) -> Self {
        let mut child = python_command()
            .args(["tests/oracle/s3_server.py", &fail_every.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let url = lines.next().expect("the server starts").unwrap();
        Self {
            child,
            _lives_while_open: stdin,
            url,
        }
    }

    /// A command with the credentials of the server.
    pub fn command(&self, data: &Path) -> Command {
        let mut command = echopilot(data);
        command
            .env("AWS_ENDPOINT_URL", &self.url)
            .env("AWS_ALLOW_HTTP", "true")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test");
        command
    }

    fn export(&self, data: &Path, more: &[&str]) -> Command {
        let mut command = self.command(data);
        command.args(["export", "--to", "s3://lake/our/events"]);
        command.args(more);
        command
    }

    /// Runs a command, which must succeed, with the place of backups for `{}`.
    fn run(&self, data: &Path, arguments: &[&str]) -> Value {
        serde_json::from_slice(&printed(&mut self.with_backups(data, arguments))).unwrap()
    }

    /// A command with the place of backups for `{}`.
    fn with_backups(&self, data: &Path, arguments: &[&str]) -> Command {
        let mut command = self.command(data);
        command.args(arguments.iter().map(|argument| match *argument {
            "{}" => "s3://lake/our/backups",
            argument => argument,
        }));
        command
    }

    /// Runs a command until it ends, or the server holds its `at`-th request: then it is killed.
    /// True if it ended.
    fn kill_at(&self, at: usize, mut command: Command) -> bool {
        self.control(&format!("hold?{at}"));
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        let started = Instant::now();
        let done = loop {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success());
                break true;
            }
            if self.control("held") == json!(true) {
                break false;
            }
            assert!(started.elapsed() < PATIENCE);
        };
        child.kill().unwrap();
        child.wait().unwrap();
        self.control("release");
        done
    }

    fn exported(&self, data: &Path, more: &[&str]) -> Value {
        serde_json::from_slice(&printed(&mut self.export(data, more))).unwrap()
    }

    /// Reads the export with DuckDB: the names of the objects, and the users with their events.
    fn read(&self) -> Value {
        python(&["tests/oracle/s3_reader.py", &self.url])
    }

    /// The names of all objects.
    pub fn objects(&self) -> Vec<String> {
        let list = "import boto3, json, sys\n\
            s3 = boto3.client('s3', endpoint_url=sys.argv[1], region_name='us-east-1', \
            aws_access_key_id='test', aws_secret_access_key='test')\n\
            pages = s3.get_paginator('list_objects_v2').paginate(Bucket='lake')\n\
            print(json.dumps([found['Key'] for page in pages for found in page.get('Contents', [])]))";
        serde_json::from_value(python(&["-c", list, &self.url])).unwrap()
    }

    /// Controls after how many requests the server fails, and reads its state.
    fn control(&self, command: &str) -> Value {
        let mut answer = ureq::get(format!("{}/{command}", self.url)).call().unwrap();
        serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap()
    }

    /// Number of requests of a kind.
    fn saw(&self, kind: &str) -> usize {
        let mut answer = ureq::get(format!("{}/seen", self.url)).call().unwrap();
        let seen: Vec<String> =
            serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap();
        seen.iter().filter(|request| *request == kind).count()
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Imports one event of each user on each of these days.
fn import(data: &Path, dir: &Path, days_ago: &[u64], users: &[&str]) {
    let today = Utc::now().date_naive();
    let lines: Vec<String> = days_ago
        .iter()
        .flat_map(|days_ago| users.iter().map(move |user| (days_ago, user)))
        .map(|(days_ago, user)| {
            let ts = format!("{}T10:00:00Z", today - Days::new(*days_ago));
            json!({"event_type":"action","user_id":user,"ts":ts}).to_string()
        })
        .collect();
    let file = dir.join("events");
    std::fs::write(&file, lines.join("\n")).unwrap();
    run_json(data, &["import", file.to_str().unwrap()]);
}

#[test]
fn an_export_to_a_bucket_has_every_event_and_only_changes_are_sent_again() {
    let dir = folder();
    let data = dir.path().join("data");
    // Every fifth request fails, and is retried.
    let s3 = S3::start(5);
    import(&data, dir.path(), &[1, 2, 3], &["ann", "bob"]);
    run_json(&data, &["rollup"]);
    let first = s3.exported(&data, &["--for", "snowflake"]);
    assert_eq!((&first["days"], &first["events"]), (&json!(3), &json!(6)));
    assert!(s3.saw("failed") >= 3);
    let found = s3.read();
    assert_eq!(found["users"], json!([["ann", 3], ["bob", 3]]));
    let objects: Vec<&str> = found["objects"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    for expected in [
        "our/events/export.json",
        "our/events/daily_rollups/part-00000-",
        "our/events/daily_features/part-00000-",
        "our/events/daily_event_types/part-00000-",
        "our/events/links/part-00000-",
        "our/events/snowflake/load.sql",
    ] {
        let is_there = objects.iter().any(|name| name.starts_with(expected));
        assert!(is_there, "{expected} of {objects:?}");
    }
    let is_unfinished = |name: &&str| name.contains(".echopilot-tmp");
    assert!(!objects.iter().any(is_unfinished), "{objects:?}");
    assert!(!data.join("tmp/upload").exists());

    let again = s3.exported(&data, &["--since", "last"]);
    assert_eq!(
        (&again["days"], &again["unchanged"]),
        (&json!(0), &json!(3))
    );
    import(&data, dir.path(), &[2], &["late"]);
    let changed = s3.exported(&data, &["--since", "last"]);
    assert_eq!(
        (&changed["days"], &changed["unchanged"]),
        (&json!(1), &json!(2))
    );
    run_json(&data, &["user", "erase", "bob"]);
    let erased = s3.exported(&data, &["--since", "last"]);
    assert_eq!(
        (&erased["days"], &erased["removed"]),
        (&json!(3), &json!(0))
    );
    assert_eq!(s3.read()["users"], json!([["ann", 3], ["late", 1]]));
}

/// Reads the table in the bucket, with the arguments of `tests/oracle/delta.py` for `{}`.
pub fn read_table(s3: &S3, arguments: &[&str]) -> Value {
    let mut reader = python_command();
    reader
        .env("ECHOPILOT_TEST_S3", &s3.url)
        .arg("tests/oracle/delta.py");
    reader.args(arguments.iter().map(|argument| match *argument {
        "{}" => TABLE,
        argument => argument,
    }));
    serde_json::from_slice(&printed(&mut reader)).unwrap()
}

/// The place of the tables.
pub const TABLE: &str = "s3://lake/our/tables";

#[test]
fn every_metric_over_a_table_in_a_bucket_is_that_of_the_engine() {
    let dir = folder();
    let data = dir.path().join("data");
    unsealed_demo(&data, 600, 9, 1);
    let s3 = S3::start(1 << 30);
    let mut publish = s3.command(&data);
    publish.args(["export", "--for", "delta", "--to", TABLE]);
    printed(&mut publish);
    let results = results_of_metrics(&data);
    let compared = read_table(&s3, &["queries", "{}", results.path().to_str().unwrap()]);
    // In ClickHouse, DataFusion, Polars and Sail.
    assert_eq!(compared, json!(4 * NAMES.len()));
}

#[test]
fn a_table_whose_publication_was_killed_is_readable_and_the_next_one_completes_it() {
    let dir = folder();
    let data = dir.path().join("data");
    import(&data, dir.path(), &[1, 2, 3], &["ann", "bob"]);
    // Every fifth request fails, and is retried.
    let s3 = S3::start(5);
    let publish = || {
        let mut command = s3.command(&data);
        command.args(["export", "--for", "delta", "--to", TABLE]);
        command
    };
    let publish_now = || -> Value { serde_json::from_slice(&printed(&mut publish())).unwrap() };
    assert_eq!(publish_now()["events"], 6);
    assert!(s3.saw("failed") >= 3);
    let mut expected: u64 = 6;
    let mut points = 0;
    for at in (1..).step_by(7) {
        import(&data, dir.path(), &[1 + at % 3], &[&format!("late-{at}")]);
        let done = s3.kill_at(at as usize, publish());
        let found = read_table(&s3, &["count", "{}"]).as_u64().unwrap();
        assert!(
            [expected, expected + 1].contains(&found),
            "at {at}: {found} of {expected}"
        );
        publish_now();
        expected += 1;
        assert_eq!(
            read_table(&s3, &["count", "{}"]),
            json!(expected),
            "at {at}"
        );
        if done {
            break;
        }
        points += 1;
    }
    assert!(points >= 3, "{points}");
    let lake = data.join("events");
    let rows = read_table(&s3, &["rows", "{}", lake.to_str().unwrap()]);
    assert_eq!(rows, json!(expected));
    // Nothing that an interrupted publication wrote is left.
    let objects: Vec<String> = s3.objects();
    let is_data = |name: &&String| name.starts_with("our/tables/events/dt=");
    let log = objects
        .iter()
        .filter(|name| name.starts_with("our/tables/events/_delta_log/"));
    assert_eq!(
        objects.iter().filter(is_data).count() as u64,
        expected - 3,
        "{objects:?}"
    );
    assert_eq!(log.count(), points + 2, "one commit for each change");
}

#[test]
fn an_export_killed_at_any_request_is_the_old_or_the_new_one_by_its_list() {
    let dir = folder();
    let data = dir.path().join("data");
    import(&data, dir.path(), &[1, 2, 3], &["ann", "bob"]);
    let s3 = S3::start(1 << 30);
    s3.exported(&data, &[]);
    let mut expected = 6;
    let mut points = 0;
    for at in (1..).step_by(7) {
        // One more day changes in each round.
        import(&data, dir.path(), &[1 + at % 3], &[&format!("late-{at}")]);
        let done = s3.kill_at(at as usize, s3.export(&data, &["--since", "last"]));
        let found = s3.read();
        let listed = found["listed_events"].as_u64().unwrap();
        assert_eq!(found["missing"], json!([]), "at {at}");
        assert!(
            [expected, expected + 1].contains(&listed),
            "at {at}: {listed} of {expected}"
        );
        s3.exported(&data, &["--since", "last"]);
        expected += 1;
        let found = s3.read();
        assert_eq!(
            (&found["listed_events"], &found["events"]),
            (&json!(expected), &json!(expected)),
            "at {at}"
        );
        assert_eq!(found["missing"], json!([]), "at {at}");
        let objects = found["objects"].to_string();
        assert_eq!(
            objects.matches(".parquet").count(),
            3 + 4,
            "at {at}: {objects}"
        );
        assert!(!objects.contains(".echopilot-tmp"), "at {at}: {objects}");
        if done {
            break;
        }
        points += 1;
    }
    assert!(points >= 4, "only {points} points were tried");
}

/// Usage without what differs from run to run.
fn usage(data: &Path) -> Value {
    let mut usage = run_json(data, &["usage", "--days", "9"]);
    usage.as_object_mut().unwrap().remove("ts");
    usage
}

#[test]
fn a_backup_in_a_bucket_adds_only_what_is_new_and_restores_the_store() {
    let dir = folder();
    let [data, restored, earlier] =
        ["data", "restored", "earlier"].map(|name| dir.path().join(name));
    // Every fifth request fails, and is retried.
    let s3 = S3::start(5);
    import(&data, dir.path(), &[1, 2, 3], &["ann", "bob"]);
    s3.exported(&data, &[]);
    let first = s3.run(&data, &["backup", "--to", "{}"]);
    assert_eq!(first["ok"], true, "{first}");
    let expected = usage(&data);
    import(&data, dir.path(), &[2], &["late"]);
    run_json(&data, &["user", "erase", "bob"]);
    let second = s3.run(&data, &["backup", "--to", "{}"]);
    assert!(
        second["new_files"].as_u64() < second["files"].as_u64(),
        "{second}"
    );
    assert!(s3.saw("failed") >= 3);
    let listed = s3.run(&data, &["restore", "{}", "--list"]);
    assert_eq!(listed.as_array().unwrap().len(), 2);
    s3.run(&restored, &["restore", "{}"]);
    assert_eq!(usage(&restored), usage(&data));
    assert_eq!(run_json(&restored, &["verify"])["damage"], json!([]));
    // The earlier one, without the user who was erased since.
    let at = first["taken_at"].as_str().unwrap();
    let found = s3.run(&earlier, &["restore", "{}", "--at", at]);
    assert_eq!(found["erased_users"], 1);
    run_json(&data, &["user", "erase", "late"]);
    assert_eq!(usage(&earlier), usage(&data));
    assert_ne!(usage(&earlier), expected);

    let third = s3.run(&data, &["backup", "--to", "{}", "--keep", "1"]);
    assert_eq!(third["removed_backups"], 2);
    let objects = s3.read()["objects"].to_string();
    let files = objects.matches("our/backups/files/").count() as u64;
    assert_eq!(Some(files), third["files"].as_u64(), "{objects}");
    // The prefix of an export has no backups, and its files stay.
    let mut command = s3.command(&data);
    command.args(["backup", "--to", "s3://lake/our/events"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("has no backups"), "{message}");
    assert_eq!(s3.read()["missing"], json!([]));
}

#[test]
fn a_backup_or_restore_killed_at_any_request_to_a_bucket_can_be_repeated() {
    let dir = folder();
    let data = dir.path().join("data");
    import(&data, dir.path(), &[1, 2, 3], &["ann", "bob"]);
    let s3 = S3::start(1 << 30);
    s3.exported(&data, &[]);
    s3.run(&data, &["backup", "--to", "{}"]);
    let backup = ["backup", "--to", "{}", "--keep", "1"];
    let mut points = 0;
    for at in (1..).step_by(5) {
        import(&data, dir.path(), &[1 + at % 3], &[&format!("late-{at}")]);
        let done = s3.kill_at(at as usize, s3.with_backups(&data, &backup));
        // The one before, or this one.
        s3.run(&data, &["restore", "{}", "--check"]);
        s3.run(&data, &backup);
        let checked = s3.run(&data, &["restore", "{}", "--check"]);
        let objects = s3.read()["objects"].to_string();
        let files = objects.matches("our/backups/files/").count() as u64;
        assert_eq!(Some(files), checked["files"].as_u64(), "at {at}: {objects}");
        if done {
            break;
        }
        points += 1;
    }
    assert!(points >= 3, "only {points} points were tried");
    let restored = dir.path().join("restored");
    let restore = ["restore", "{}"];
    let mut points = 0;
    for at in (1..).step_by(4) {
        let done = s3.kill_at(at, s3.with_backups(&restored, &restore));
        if !done {
            points += 1;
            if restored.join(".echopilot-restoring").exists() {
                let output = run(&restored, &["usage"]);
                assert!(!output.status.success(), "at {at}");
            }
            s3.run(&restored, &restore);
        }
        assert_eq!(usage(&restored), usage(&data), "at {at}");
        std::fs::remove_dir_all(&restored).unwrap();
        if done {
            break;
        }
    }
    assert!(points >= 3, "only {points} points were tried");
}

#[test]
fn large_files_are_uploaded_in_parts_and_failed_uploads_leave_no_object() {
    let dir = folder();
    let data = dir.path().join("data");
    let mut below = numbers_below(7);
    let users: Vec<String> = (0..2_500).map(|user| format!("user-{user}")).collect();
    let lines: Vec<String> = users
        .iter()
        .map(|user| {
            let text = incompressible(7_000, &mut below);
            let day = Utc::now().date_naive() - Days::new(1);
            json!({"event_type":"action","user_id":user,"ts":format!("{day}T10:00:00Z"),"metadata":{"text":text}}).to_string()
        })
        .collect();
    let file = dir.path().join("events");
    std::fs::write(&file, lines.join("\n")).unwrap();
    run_json(&data, &["import", file.to_str().unwrap()]);
    let s3 = S3::start(7);
    let exported = s3.exported(&data, &[]);
    assert!(exported["bytes"].as_u64().unwrap() > 8 << 20, "{exported}");
    assert!(s3.saw("PUT part") >= 2, "{exported}");
    assert_eq!(s3.read()["events"], 2_500);

    // The server always fails: the command reports it, and the bucket has no part of the export.
    let broken = S3::start(1);
    let output = broken.export(&data, &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        message.contains("s3://lake/our/events/export.json"),
        "{message}"
    );
    assert!(broken.saw("failed") > 3);
}

#[test]
fn an_invalid_bucket_address_is_rejected_before_any_request() {
    let dir = folder();
    for (to, expected) in [
        (
            "ftp://host/lake",
            "allowed are s3://, gs://, az:// and a folder",
        ),
        ("s3://", "s3"),
        ("az://container/lake", "account"),
    ] {
        let mut command = echopilot(dir.path());
        for (name, _) in std::env::vars() {
            if ["AWS_", "AZURE_", "GOOGLE_"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
            {
                command.env_remove(name);
            }
        }
        let output = command.args(["export", "--to", to]).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).to_lowercase();
        assert_eq!(output.status.code(), Some(2), "{to}: {message}");
        assert!(message.contains(expected), "{to}: {message}");
    }
}
