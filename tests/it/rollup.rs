//! The daily rollup: driven by what is there, never by having been awake.

use std::path::Path;
use std::process::Command;

use chrono::{Days, NaiveDate, Utc};
use serde_json::{Value, json};

use crate::harness::{Server, echopilot, folder, run, run_json};

fn today() -> NaiveDate {
    Utc::now().date_naive()
}

/// A store with an event of one user five days ago and of another two days ago.
fn two_events(data_dir: &Path) {
    // Not in the data folder, which would be somebody else's then.
    let elsewhere = folder();
    let file = elsewhere.path().join("in.ndjson");
    let line = |days, user: &str| json!({"ts":format!("{}T12:00:00Z", today() - Days::new(days)),"event_type":"action","user_id":user,"feature":"f"});
    std::fs::write(&file, format!("{}\n{}\n", line(5, "ann"), line(2, "bob"))).unwrap();
    run_json(data_dir, &["import", file.to_str().unwrap()]);
}

fn lines(data_dir: &Path) -> Vec<Value> {
    std::fs::read_to_string(data_dir.join("analytics.ndjson"))
        .unwrap_or_default()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn days(lines: &[Value]) -> Vec<String> {
    lines
        .iter()
        .map(|line| line["day"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn every_closed_day_since_the_first_event_gets_one_line_in_the_users_shape() {
    let dir = folder();
    two_events(dir.path());
    let expected: Vec<String> = (1..=5)
        .rev()
        .map(|days| (today() - Days::new(days)).to_string())
        .collect();
    let answer = run_json(dir.path(), &["rollup"]);
    assert_eq!(answer, json!({"ok":true,"days":expected}));
    let found = lines(dir.path());
    assert_eq!(days(&found), expected);
    let (first, last) = (&found[0], &found[4]);
    let mut shape = first.clone();
    let checksum = shape.as_object_mut().unwrap().remove("crc32c");
    assert_eq!(checksum.unwrap().as_str().map(str::len), Some(8));
    assert_eq!(
        shape,
        json!({"ts":format!("{}T03:15:00Z", today() - Days::new(4)),"day":expected[0],"period_days":30,
            "dau":1.0,"wau":1.0,"mau":1,"feature_usage":{"f":1},
            "funnel_steps":{"page_view":0,"action":1,"conversion":0},"total_events":1})
    );
    assert_eq!(
        (&last["mau"], &last["total_events"]),
        (&json!(2), &json!(2))
    );
    // Again: nothing is due, no line is added, no byte changes.
    let before = std::fs::read(dir.path().join("analytics.ndjson")).unwrap();
    assert_eq!(
        run_json(dir.path(), &["rollup"]),
        json!({"ok":true,"days":[]})
    );
    assert_eq!(
        std::fs::read(dir.path().join("analytics.ndjson")).unwrap(),
        before
    );
    // A log that was lost is rebuilt with the same bytes.
    std::fs::remove_file(dir.path().join("analytics.ndjson")).unwrap();
    run_json(dir.path(), &["rollup"]);
    assert_eq!(
        std::fs::read(dir.path().join("analytics.ndjson")).unwrap(),
        before
    );
}

#[test]
fn a_torn_line_is_left_out_and_its_day_made_again() {
    let dir = folder();
    two_events(dir.path());
    run_json(dir.path(), &["rollup"]);
    let path = dir.path().join("analytics.ndjson");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 20]).unwrap();
    let answer = run_json(dir.path(), &["rollup"]);
    assert_eq!(
        answer["days"],
        json!([(today() - Days::new(1)).to_string()])
    );
    assert_eq!(std::fs::read(&path).unwrap(), whole);
}

#[test]
fn a_line_of_another_program_stays_as_it_is() {
    let dir = folder();
    two_events(dir.path());
    let path = dir.path().join("analytics.ndjson");
    let foreign = "{\"ts\":\"2025-10-21T03:15:00Z\",\"period_days\":30,\"dau\":42.5}\n";
    std::fs::write(&path, foreign).unwrap();
    assert_eq!(
        run_json(dir.path(), &["rollup"])["days"]
            .as_array()
            .unwrap()
            .len(),
        5
    );
    assert!(std::fs::read_to_string(&path).unwrap().starts_with(foreign));
    assert_eq!(run_json(dir.path(), &["rollup"])["days"], json!([]));
}

#[test]
fn one_day_can_be_asked_for_if_it_is_over() {
    let dir = folder();
    two_events(dir.path());
    let day = (today() - Days::new(3)).to_string();
    assert_eq!(
        run_json(dir.path(), &["rollup", "--day", &day])["days"],
        json!([day])
    );
    assert_eq!(
        run_json(dir.path(), &["rollup", "--day", &day])["days"],
        json!([])
    );
    let refused = run(dir.path(), &["rollup", "--day", &today().to_string()]);
    assert_eq!(refused.status.code(), Some(2));
    assert_eq!(days(&lines(dir.path())), [day]);
}

#[test]
fn a_start_after_nights_off_catches_up_by_itself() {
    let dir = folder();
    two_events(dir.path());
    // Due from midnight, so that the test means the same at any time of day.
    let mut command = echopilot(dir.path());
    command.args(["--rollup-at", "00:00"]);
    let server = Server::start_as(command);
    let asked = server.rollup();
    assert_eq!(asked.0, 200);
    // The server's own run may come before the request or be the request's: together they made each day once.
    assert_eq!(lines(dir.path()).len(), 5);
    assert_eq!(server.rollup().1, json!({"ok":true,"days":[]}));
    server.stop();
    assert_eq!(lines(dir.path()).len(), 5);
}

/// Runs a command while the clock, and only the wall clock, stands at an instant and goes on from there.
fn at_instant(command: &mut Command, instant: &str) {
    let library = Command::new("dpkg")
        .args(["-L", "libfaketime"])
        .output()
        .unwrap();
    let listed = String::from_utf8(library.stdout).unwrap();
    let library = listed
        .lines()
        .find(|path| path.ends_with("libfaketimeMT.so.1"))
        .expect("Debian's libfaketime, which `make test` installs");
    command
        .env("LD_PRELOAD", library)
        .env("FAKETIME", format!("@{instant}"))
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1")
        .env("TZ", "UTC");
}

#[test]
fn the_schedule_wakes_the_rollup_at_a_quarter_past_three() {
    let (dir, elsewhere) = (folder(), folder());
    let file = elsewhere.path().join("in.ndjson");
    std::fs::write(
        &file,
        "{\"ts\":\"2030-01-01T12:00:00Z\",\"event_type\":\"action\"}\n",
    )
    .unwrap();
    let mut import = echopilot(dir.path());
    at_instant(&mut import, "2030-01-02 03:14:00");
    assert!(import.arg("import").arg(&file).status().unwrap().success());
    let mut command = echopilot(dir.path());
    at_instant(&mut command, "2030-01-02 03:14:56");
    let mut server = Server::start_as(command);
    assert!(
        lines(dir.path()).is_empty(),
        "the day is closed and not yet due"
    );
    server.wait_for("Rolled up 1 days");
    assert_eq!(days(&lines(dir.path())), ["2030-01-01"]);
    // A start at 03:16 after a night off.
    server.kill();
    std::fs::remove_file(dir.path().join("analytics.ndjson")).unwrap();
    let mut command = echopilot(dir.path());
    at_instant(&mut command, "2030-01-03 03:16:00");
    let mut server = Server::start_as(command);
    server.wait_for("Rolled up 2 days");
    assert_eq!(days(&lines(dir.path())), ["2030-01-01", "2030-01-02"]);
}

#[test]
fn an_empty_store_has_nothing_to_roll_up() {
    let dir = folder();
    assert_eq!(
        run_json(dir.path(), &["rollup"]),
        json!({"ok":true,"days":[]})
    );
    assert!(!dir.path().join("analytics.ndjson").exists());
}
