//! The daily rollup: its days follow from stored data, not from when the server ran.

use std::path::Path;

use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};
use echopilot_analytics::engine::{Engine, ExportRequest, RollupScope};
use echopilot_analytics::export::warehouse::Warehouse;
use echopilot_analytics::progress::Progress;
use echopilot_analytics::store::{Clock, CompactionScope, ExpiryPolicy};
use echopilot_analytics::window::WindowRequest;
use polars::prelude::*;
use serde_json::{Value, json};

use crate::clock::FakeClock;
use crate::harness::{Server, at_time, batch, echopilot, engine, folder, ingest, run, run_json};
use crate::public_limits::until;

fn today() -> NaiveDate {
    Utc::now().date_naive()
}

/// A store with an event of one user five days ago and of another two days ago.
fn two_events(data_dir: &Path) {
    // Outside the data folder, which must not contain foreign files.
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
    // The server's own run may come before the request: together they wrote each day once.
    assert_eq!(lines(dir.path()).len(), 5);
    assert_eq!(server.rollup().1, json!({"ok":true,"days":[]}));
    server.stop();
    assert_eq!(lines(dir.path()).len(), 5);
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
    for arguments in [&["import", file.to_str().unwrap()][..], &["seal"]] {
        let mut command = echopilot(dir.path());
        at_time(&mut command, "@2030-01-01 13:00:00");
        assert!(command.args(arguments).status().unwrap().success());
    }
    let clock = FakeClock::new(elsewhere.path());
    clock.set("2030-01-02 03:14:59");
    let mut server = clock.server(dir.path());
    // After the rollup, the day is noted.
    until("the schedule has run once", || {
        let manifest = std::fs::read(dir.path().join("manifest.json")).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        manifest["expiry"]["looked_on"] == "2030-01-02"
    });
    assert!(
        lines(dir.path()).is_empty(),
        "the day is closed and not yet due"
    );
    clock.set("2030-01-02 03:15:00");
    server.wait_for("Rolled up 1 days");
    assert_eq!(days(&lines(dir.path())), ["2030-01-01"]);
    // A start at 03:16 after a night off.
    server.kill();
    std::fs::remove_file(dir.path().join("analytics.ndjson")).unwrap();
    let mut command = echopilot(dir.path());
    at_time(&mut command, "@2030-01-03 03:16:00");
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

/// The time of the tests below.
fn now() -> DateTime<Utc> {
    "2026-03-05T12:00:00Z".parse().unwrap()
}

fn day(days_before: u64) -> NaiveDate {
    now().date_naive() - Days::new(days_before)
}

fn event(days_before: u64, user: &str, feature: &str) -> Value {
    json!({"ts":format!("{}T12:00:00Z", day(days_before)),"event_type":"action","user_id":user,"feature":feature})
}

/// A line without what is not usage.
fn numbers(mut line: Value) -> Value {
    let fields = line.as_object_mut().unwrap();
    for name in [
        "ok",
        "ts",
        "day",
        "crc32c",
        "unique_days",
        "unique_weeks",
        "window",
        "partial_days",
        "partial_weeks",
    ] {
        fields.remove(name);
    }
    for name in ["covered_from", "users_per_day", "users_per_week"] {
        fields.remove(name);
    }
    line
}

/// Checks that each of the last closed days has one line, with the numbers of usage.
fn check_lines(engine: &Engine, days_before: u64) {
    let found = lines(engine.store().folder().path());
    let expected: Vec<String> = (1..=days_before)
        .rev()
        .map(|days| day(days).to_string())
        .collect();
    let mut sorted = days(&found);
    sorted.sort();
    assert_eq!(sorted, expected);
    for line in found {
        let request = WindowRequest {
            days: Some(30),
            end: line["day"].as_str().unwrap().parse().ok(),
            ..WindowRequest::default()
        };
        let usage = engine.usage(&request, now()).unwrap();
        // Through the same JSON, which costs a number its last digit.
        let usage = serde_json::to_string(&usage).unwrap();
        let usage = serde_json::from_str(&usage).unwrap();
        assert_eq!(numbers(line.clone()), numbers(usage), "{}", line["day"]);
    }
}

fn log_and_sources(data_dir: &Path) -> [(Vec<u8>, u64); 2] {
    use std::os::unix::fs::MetadataExt;
    ["analytics.ndjson", "rollup_sources.json"].map(|name| {
        let path = data_dir.join(name);
        let inode = path.metadata().unwrap().ino();
        (std::fs::read(path).unwrap(), inode)
    })
}

#[test]
fn late_events_of_every_kind_correct_the_lines_whose_period_has_them() {
    let dir = folder();
    let open = engine(dir.path(), now());
    ingest(&open, &[event(40, "ann", "f"), event(2, "bob", "f")], now());
    let roll_up = |scope| open.rollup(scope, now()).unwrap().days;
    assert_eq!(roll_up(RollupScope::Closed).len(), 40);
    check_lines(&open, 40);
    let of = |days: &mut dyn Iterator<Item = u64>| days.map(day).collect::<Vec<_>>();
    // Another user, a new feature, a known user again: of a closed day, and of a day without a
    // line.
    for (late, scope) in [
        (event(2, "cid", "f"), RollupScope::Closed),
        (event(2, "cid", "new"), RollupScope::Due),
        (event(2, "cid", "new"), RollupScope::Day(day(2))),
        (event(1, "cid", "f"), RollupScope::Day(day(20))),
    ] {
        ingest(&open, std::slice::from_ref(&late), now());
        let first = if late["ts"]
            .as_str()
            .unwrap()
            .starts_with(&day(1).to_string())
        {
            1
        } else {
            2
        };
        assert_eq!(roll_up(scope), of(&mut (1..=first).rev()), "{late}");
        check_lines(&open, 40);
        assert_eq!(roll_up(scope), []);
    }
    // 30 lines and not more.
    ingest(
        &open,
        &[event(35, "dan", "f"), event(36, "dan", "f")],
        now(),
    );
    assert_eq!(roll_up(RollupScope::Due), of(&mut (6..=36).rev()));
    check_lines(&open, 40);
    // Days before the first line, as an import brings them.
    ingest(&open, &[event(42, "old", "f")], now());
    assert_eq!(roll_up(RollupScope::Closed), of(&mut (13..=42).rev()));
    check_lines(&open, 42);
    // A seal moves events, and a compaction joins segments: the lines are as they were.
    let before = log_and_sources(dir.path());
    open.store().seal().unwrap();
    assert_eq!(roll_up(RollupScope::Closed), []);
    let sealed = log_and_sources(dir.path());
    assert_eq!(sealed[0].0, before[0].0);
    ingest(&open, &[event(0, "bob", "today")], now());
    open.store().seal().unwrap();
    open.compact(now() + TimeDelta::hours(2), CompactionScope::Full)
        .unwrap();
    assert_eq!(roll_up(RollupScope::Closed), []);
    assert_eq!(log_and_sources(dir.path()), sealed, "nothing was written");
    drop(open);
    let open = engine(dir.path(), now());
    assert_eq!(open.rollup(RollupScope::Closed, now()).unwrap().days, []);
    open.rebuild().unwrap();
    assert_eq!(open.rollup(RollupScope::Closed, now()).unwrap().days, []);
    assert_eq!(log_and_sources(dir.path()), sealed, "nothing was written");
}

#[test]
fn the_log_after_late_events_is_that_of_a_store_that_had_them_in_time() {
    let (late, in_time) = (folder(), folder());
    let of_day = |number: u64| {
        let users = ["ann", "bob", "cid"];
        let user = users[(number * 7 % 3) as usize];
        event(1 + number * 11 % 45, user, &format!("f{}", number % 4))
    };
    let open = engine(late.path(), now());
    ingest(&open, &[event(45, "ann", "f0")], now());
    for start in (0..90).step_by(10) {
        let events: Vec<Value> = (start..start + 10).map(of_day).collect();
        ingest(&open, &events, now());
        if start % 20 == 0 {
            open.store().seal().unwrap();
        }
        open.rollup(RollupScope::Due, now()).unwrap();
        check_lines(&open, 45);
    }
    let other = engine(in_time.path(), now());
    let mut events: Vec<Value> = (0..90).rev().map(of_day).collect();
    events.push(event(45, "ann", "f0"));
    ingest(&other, &events, now());
    other.rollup(RollupScope::Due, now()).unwrap();
    let log = |dir: &Path| std::fs::read_to_string(dir.join("analytics.ndjson")).unwrap();
    assert_eq!(log(late.path()), log(in_time.path()));
}

#[test]
fn an_erasure_and_an_export_correct_the_lines_and_the_export_has_them() {
    let dir = folder();
    let elsewhere = folder();
    let open = engine(dir.path(), now());
    ingest(
        &open,
        &[event(33, "ann", "f"), event(3, "bob", "secret")],
        now(),
    );
    open.rollup(RollupScope::Closed, now()).unwrap();
    let to = elsewhere.path().join("export");
    let exported = || {
        let request = ExportRequest {
            to: to.to_str().unwrap().into(),
            target: Warehouse::Bigquery,
            window: None,
            since: None,
        };
        open.export(&request, now(), &Progress::default()).unwrap();
        let mut files = std::fs::read_dir(to.join("daily_rollups")).unwrap();
        let file = files.next().unwrap().unwrap().path();
        assert!(files.next().is_none(), "one file");
        let file = std::fs::File::open(file).unwrap();
        let table = ParquetReader::new(file).finish().unwrap();
        let events = table.column("total_events").unwrap().i64().unwrap();
        events.iter().flatten().sum::<i64>()
    };
    let expected = || -> i64 {
        let lines = lines(dir.path());
        lines
            .iter()
            .map(|line| line["total_events"].as_i64().unwrap())
            .sum()
    };
    // The 30 lines of ann's period, of which one has bob too, and the 3 of bob's.
    assert_eq!((expected(), exported()), (33, 33));
    ingest(&open, &[event(3, "cid", "f")], now());
    assert_eq!((exported(), expected()), (36, 36));
    check_lines(&open, 33);
    let erased = open.erase(&["bob".into()], None, now()).unwrap();
    assert_eq!(erased.erased.events, 1);
    assert_eq!(expected(), 33, "by itself");
    check_lines(&open, 33);
    assert!(
        !std::fs::read_to_string(dir.path().join("analytics.ndjson"))
            .unwrap()
            .contains("secret")
    );
    // No user remains.
    open.erase(&["ann".into(), "cid".into()], Some(2), now())
        .unwrap();
    check_lines(&open, 33);
    assert_eq!((expected(), exported()), (0, 0));
}

#[test]
fn lines_of_an_earlier_version_are_rewritten_once_and_those_without_events_stay() {
    let dir = folder();
    let open = engine(dir.path(), now());
    ingest(&open, &[event(5, "ann", "f")], now());
    open.rollup(RollupScope::Closed, now()).unwrap();
    let path = dir.path().join("analytics.ndjson");
    // As before lines followed late events: a wrong line, one of a day without events, no sources.
    let log = std::fs::read_to_string(&path).unwrap();
    let unchecked = |line: &str, days_before: u64, users: u64| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        line.as_object_mut().unwrap().remove("crc32c");
        line["day"] = json!(day(days_before).to_string());
        line["mau"] = json!(users);
        format!("{line}\n")
    };
    let first = log.lines().next().unwrap();
    let old = format!("{}{}", unchecked(first, 90, 7), unchecked(first, 4, 9));
    let foreign = "{\"ts\":\"2025-10-21T03:15:00Z\",\"period_days\":30}\n";
    std::fs::write(
        &path,
        format!("{foreign}{old}{log}{}", unchecked(first, 3, 8)),
    )
    .unwrap();
    std::fs::remove_file(dir.path().join("rollup_sources.json")).unwrap();
    // Of two lines of a day the newest counts, also in what is read before it is corrected.
    let days_of = |days: &[u64]| days.iter().map(|&days| day(days)).collect::<Vec<_>>();
    assert_eq!(
        open.rollup(RollupScope::Due, now()).unwrap().days,
        days_of(&[3])
    );
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.starts_with(foreign), "{text}");
    let found = lines(dir.path());
    let users: Vec<(Value, Value)> = found[1..]
        .iter()
        .map(|line| (line["day"].clone(), line["mau"].clone()))
        .collect();
    let expected = [(90, 7), (5, 1), (4, 1), (2, 1), (1, 1), (3, 1)]
        .map(|(days, users)| (json!(day(days).to_string()), json!(users)));
    assert_eq!(users, expected);
    let before = log_and_sources(dir.path());
    assert_eq!(open.rollup(RollupScope::Due, now()).unwrap().days, []);
    assert_eq!(log_and_sources(dir.path()), before);
}

#[test]
fn sources_that_are_lost_damaged_or_older_than_the_log_cost_one_run() {
    let dir = folder();
    let open = engine(dir.path(), now());
    ingest(&open, &[event(3, "ann", "f")], now());
    open.rollup(RollupScope::Closed, now()).unwrap();
    let path = dir.path().join("rollup_sources.json");
    let older = std::fs::read(&path).unwrap();
    ingest(&open, &[event(3, "bob", "f")], now());
    open.rollup(RollupScope::Closed, now()).unwrap();
    let log = log_and_sources(dir.path());
    for content in [Some(&older[..]), Some(b"{"), None] {
        match content {
            Some(content) => std::fs::write(&path, content).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        assert_eq!(open.rollup(RollupScope::Closed, now()).unwrap().days, []);
        let [(lines, _), (sources, _)] = log_and_sources(dir.path());
        assert_eq!((&lines, &sources), (&log[0].0, &log[1].0));
    }
    check_lines(&open, 3);
}

#[test]
fn lines_whose_period_reaches_into_what_has_expired_stay() {
    let dir = folder();
    let open = engine(dir.path(), now());
    let all = (1..=60).map(|days| event(days, "ann", "f"));
    ingest(&open, &all.collect::<Vec<_>>(), now());
    open.store().seal().unwrap();
    open.rollup(RollupScope::Closed, now()).unwrap();
    check_lines(&open, 60);
    let before = days_and_users(dir.path());
    let retention = ExpiryPolicy {
        raw_days: 10,
        state_days: 50,
    };
    let expired = open
        .store()
        .expire(now().date_naive(), retention, Clock::Confirmed)
        .unwrap();
    assert_eq!(expired.states_from, Some(day(50)));
    assert_eq!(open.rollup(RollupScope::Closed, now()).unwrap().days, []);
    // Of a day whose events have expired and whose state is kept: what can be counted is.
    ingest(
        &open,
        &[event(45, "bob", "f"), event(55, "bob", "f")],
        now(),
    );
    let corrected = open.rollup(RollupScope::Closed, now()).unwrap().days;
    assert_eq!(corrected, (16..=21).rev().map(day).collect::<Vec<_>>());
    let after = days_and_users(dir.path());
    for (place, days_before) in (1..=60).rev().enumerate() {
        let users = match days_before {
            16..=21 => 2,
            _ => 1,
        };
        assert_eq!(before[place], (day(days_before).to_string(), 1));
        assert_eq!(after[place], (day(days_before).to_string(), users));
    }
}

fn days_and_users(data_dir: &Path) -> Vec<(String, u64)> {
    let lines = lines(data_dir).into_iter();
    lines
        .map(|line| {
            let users = line["mau"].as_u64().unwrap();
            (line["day"].as_str().unwrap().to_owned(), users)
        })
        .collect()
}

#[test]
fn the_route_the_command_and_the_schedule_correct_alike() {
    let dir = folder();
    two_events(dir.path());
    run_json(dir.path(), &["rollup"]);
    let late = |user: &str| {
        let ts = format!("{}T13:00:00Z", today() - Days::new(2));
        batch([json!({"ts":ts,"event_type":"action","user_id":user})])
    };
    let users = || {
        let of = |days: u64| {
            let day = (today() - Days::new(days)).to_string();
            let mut lines = lines(dir.path()).into_iter();
            lines.find(|line| line["day"] == day).unwrap()["mau"].clone()
        };
        [of(3), of(2), of(1)]
    };
    let corrected: Vec<String> = [2, 1]
        .map(|days| (today() - Days::new(days)).to_string())
        .into();
    assert_eq!(users(), [1, 2, 2]);
    // A start is a run of the schedule.
    let import_and_start = |user: &str| {
        let file = folder();
        let file = file.path().join("late");
        let line = late(user)["events"][0].to_string();
        std::fs::write(&file, format!("{line}\n")).unwrap();
        run_json(dir.path(), &["import", file.to_str().unwrap()]);
        let mut command = echopilot(dir.path());
        command.args(["--rollup-at", "00:00"]);
        let mut server = Server::start_as(command);
        server.wait_for("Corrected the rollups of 2 days");
        server
    };
    let server = import_and_start("zero");
    assert_eq!(users(), [1, 3, 3]);
    server.post(&late("one"));
    let (status, answer) = server.ask(
        &format!("/api/analytics/rollup?day={}", corrected[0]),
        &json!({}),
    );
    assert_eq!((status, &answer["days"]), (200, &json!(corrected)));
    assert_eq!(users(), [1, 4, 4]);
    server.post(&late("two"));
    assert_eq!(server.rollup().1["days"], json!(corrected));
    server.post(&late("three"));
    server.kill();
    let day = ["rollup", "--day", &corrected[1]];
    assert_eq!(run_json(dir.path(), &day)["days"], json!(corrected));
    assert_eq!(users(), [1, 6, 6]);
    import_and_start("four").stop();
    assert_eq!(users(), [1, 7, 7]);
}
