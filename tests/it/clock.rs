//! Wrong clocks, temporarily and permanently: nothing is lost, nothing counts twice, nothing
//! expires early.

use std::path::{Path, PathBuf};
use std::process::Command;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use echopilot_analytics::engine::{Engine, IngestAnswer, RollupScope};
use echopilot_analytics::error::{Error, ErrorCode};
use echopilot_analytics::store::Clock;
use echopilot_analytics::window::WindowRequest;
use serde_json::{Value, json};

use crate::harness::{KEY, Server, at_time, batch, echopilot, engine, folder, log_lines, run_json};

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// The true time of the tests that run in this process.
fn start() -> DateTime<Utc> {
    at("2026-11-20T12:00:00Z")
}

/// Sends a batch; `None` if the clock stops it.
fn send(engine: &Engine, body: &Value, now: DateTime<Utc>) -> Option<IngestAnswer> {
    let pending = match engine.ingest(body.to_string().as_bytes(), now) {
        Ok(pending) => pending,
        Err(Error::Clock(message)) => {
            let day = now.date_naive().to_string();
            assert!(message.contains(&day), "{message}");
            return None;
        }
        Err(error) => panic!("{error}"),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    Some(runtime.block_on(pending.answer()).unwrap())
}

/// Events with and without a timestamp and an id, for the true time `now`.
fn batches(name: &str, now: DateTime<Utc>) -> Vec<Value> {
    let ts = now.to_rfc3339();
    let event = |user: &str| json!({"event_type":"action","user_id":user});
    vec![
        json!({"events":[event("no-time")]}),
        json!({"events":[{"event_type":"action","user_id":"timed","ts":ts}]}),
        json!({"events":[{"event_type":"action","user_id":"timed-id","ts":ts,"event_id":format!("{name}-a")}]}),
        json!({"events":[{"event_type":"action","user_id":"id","event_id":format!("{name}-b")}]}),
        json!({"events":[{"event_type":"action","user_id":"sent","ts":ts,"event_id":format!("{name}-c")}],"sent_at":ts}),
    ]
}

fn is_with_id(batch: &Value) -> bool {
    batch["events"][0]["event_id"].is_string()
}

/// The stored and rejected events of the test.
#[derive(Default)]
struct Sent {
    acknowledged: usize,
}

impl Sent {
    fn send_new(&mut self, engine: &Engine, name: &str, clock: DateTime<Utc>) -> bool {
        let mut is_accepted = true;
        for batch in batches(name, start()) {
            match send(engine, &batch, clock) {
                Some(answer) => {
                    assert_eq!(
                        (answer.logged, answer.rejected, answer.ignored),
                        (1, 0, 0),
                        "{batch}"
                    );
                    self.acknowledged += 1;
                }
                None => is_accepted = false,
            }
        }
        is_accepted
    }

    /// Sends events with ids again: none is counted, whatever the clock is.
    fn again(&self, engine: &Engine, name: &str, clock: DateTime<Utc>) {
        for batch in batches(name, start())
            .iter()
            .filter(|batch| is_with_id(batch))
        {
            if let Some(answer) = send(engine, batch, clock) {
                assert_eq!(
                    (answer.logged, answer.duplicates),
                    (0, 1),
                    "{name} at {clock}: {batch}"
                );
            }
        }
    }
}

/// Number of events by day.
fn days(engine: &Engine, end: NaiveDate) -> Vec<(NaiveDate, u64)> {
    let mut found = Vec::new();
    for days in 0..365 {
        let day = end - TimeDelta::days(days);
        let request = WindowRequest {
            days: Some(1),
            end: Some(day),
            ..WindowRequest::default()
        };
        let events = engine
            .usage(&request, end.and_hms_opt(23, 0, 0).unwrap().and_utc())
            .unwrap();
        if events.numbers.total_events > 0 {
            found.push((day, events.numbers.total_events));
        }
    }
    found
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Lasting {
    /// The process goes on while the clock is wrong.
    Moment,
    /// It is restarted with the wrong clock.
    Restarted,
}

#[test]
fn no_jump_of_the_clock_loses_doubles_or_expires_an_event() {
    let jumps = [
        start() + TimeDelta::days(8),
        start() + TimeDelta::days(20),
        start() - TimeDelta::days(1),
        start() - TimeDelta::hours(2),
        at("1970-01-02T00:00:00Z"),
        at("2099-01-01T00:00:00Z"),
    ];
    for wrong in jumps {
        for lasting in [Lasting::Moment, Lasting::Restarted] {
            for is_sealed in [true, false] {
                let what = format!("{wrong}, {lasting:?}, sealed: {is_sealed}");
                let dir = folder();
                let mut sent = Sent::default();
                let mut open = engine(dir.path(), start());
                // These expire the day after tomorrow.
                let old = start() - TimeDelta::days(89);
                let oldest = json!({"events":[{"event_type":"action","user_id":"old","ts":old.to_rfc3339()}]});
                send(&open, &oldest, start()).unwrap();
                sent.acknowledged += 1;
                assert!(sent.send_new(&open, "before", start()));
                open.store().seal().unwrap();
                assert!(sent.send_new(&open, "before, in the log", start()));
                if is_sealed {
                    open.store().seal().unwrap();
                }
                if lasting == Lasting::Restarted {
                    drop(open);
                    open = engine(dir.path(), wrong);
                }
                sent.again(&open, "before", wrong);
                let is_accepted = sent.send_new(&open, "during", wrong);
                let is_ready = open.check_ready(wrong).is_ok();
                assert_eq!(is_accepted, is_ready, "{what}");
                for name in ["before", "before, in the log", "during"] {
                    sent.again(&open, name, wrong);
                }
                // The nightly rollup, which may be rejected.
                for _ in 0..3 {
                    let _ = open.expire(wrong.date_naive(), Clock::Doubted);
                }
                if is_sealed {
                    open.store().seal().unwrap();
                }
                if lasting == Lasting::Restarted {
                    drop(open);
                    open = engine(dir.path(), wrong);
                    let _ = open.expire(wrong.date_naive(), Clock::Doubted);
                    sent.again(&open, "before", wrong);
                    drop(open);
                    open = engine(dir.path(), start() + TimeDelta::minutes(5));
                }
                // The clock is correct again.
                let right = start() + TimeDelta::minutes(10);
                if open.check_ready(right).is_err() {
                    // Only if events were accepted with a time in the future.
                    assert!(
                        lasting == Lasting::Restarted && wrong > right && is_accepted,
                        "{what}"
                    );
                    assert!(send(&open, &batches("x", right)[0], right).is_none());
                    assert!(
                        open.confirm_clock(wrong.date_naive(), right).is_err(),
                        "{what}"
                    );
                    open.confirm_clock(right.date_naive(), right).unwrap();
                }
                for name in ["before", "before, in the log"] {
                    sent.again(&open, name, right);
                }
                if is_accepted {
                    sent.again(&open, "during", right);
                }
                assert!(sent.send_new(&open, "after", right), "{what}");
                assert_eq!(
                    open.expire(right.date_naive(), Clock::Doubted)
                        .unwrap()
                        .expired
                        .events,
                    0
                );
                open.store().seal().unwrap();
                drop(open);
                let right = right + TimeDelta::minutes(5);
                let open = engine(dir.path(), right);
                open.check_ready(right)
                    .unwrap_or_else(|error| panic!("{what}: {error}"));
                sent.again(&open, "before", right);
                sent.again(&open, "after", right);
                let size = open.size();
                assert_eq!(
                    size.sealed_events as usize + size.log_events,
                    sent.acknowledged,
                    "{what}"
                );
                // Each is on its day; those without a timestamp on that of the clock, if it was
                // trusted.
                let mut expected = vec![
                    (start().date_naive(), sent.acknowledged as u64 - 1),
                    (old.date_naive(), 1),
                ];
                if is_accepted && lasting == Lasting::Restarted {
                    expected[0].1 -= 2;
                    expected.insert(0, (wrong.date_naive(), 2));
                    // The client's clock was correct: its time is adjusted to the wrong clock.
                    expected[0].1 += 1;
                    expected[1].1 -= 1;
                }
                let end = wrong
                    .max(right)
                    .min(right + TimeDelta::days(30))
                    .date_naive();
                assert_eq!(days(&open, end), expected, "{what}");
                assert_eq!(open.rebuild().unwrap().changed, 0, "{what}");
            }
        }
    }
}

#[test]
fn received_at_never_goes_back_and_survives_a_restart() {
    let dir = folder();
    let event = json!({"events":[{"event_type":"action","user_id":"u"}]});
    let received = |engine: &Engine, now| {
        send(engine, &event, now).unwrap();
        let lines = log_lines(dir.path());
        at(lines.last().unwrap()["received_at"].as_str().unwrap())
    };
    let open = engine(dir.path(), start());
    assert_eq!(received(&open, start()), start());
    // A step of a time server.
    let back = start() - TimeDelta::minutes(50);
    assert_eq!(received(&open, back), start());
    drop(open);
    // Read from the log, then from segments.
    let open = engine(dir.path(), back);
    assert_eq!(received(&open, back), start());
    open.store().seal().unwrap();
    drop(open);
    let open = engine(dir.path(), back);
    assert_eq!(received(&open, back), start());
    let more = start() - TimeDelta::minutes(61);
    assert!(send(&open, &event, more).is_none());
    let next = start() + TimeDelta::minutes(1);
    assert_eq!(received(&open, next), next);
}

#[test]
fn an_import_has_the_same_guard() {
    let dir = folder();
    let file = dir.path().join("events");
    let data = dir.path().join("data");
    std::fs::write(&file, "{\"event_type\":\"action\",\"user_id\":\"u\"}\n").unwrap();
    let import = |clock: &str| {
        let mut command = echopilot(&data);
        at_time(&mut command, &format!("@{clock}"));
        command.arg("import").arg(&file).output().unwrap()
    };
    for (clock, is_accepted) in [
        ("1970-01-02 00:00:00", false),
        ("2026-11-20 12:00:00", true),
        ("2026-11-19 12:00:00", false),
        ("2099-01-01 00:00:00", false),
        ("2026-11-28 12:00:00", true),
    ] {
        let output = import(clock);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), is_accepted, "{clock}: {said}");
        assert!(is_accepted || said.contains("the clock says"), "{said}");
    }
    assert_eq!(run_json(&data, &["verify"])["sealed_events"], 2);
}

#[test]
fn an_idle_server_expires_in_the_end_and_one_that_was_off_names_the_command() {
    let dir = folder();
    let open = engine(dir.path(), start());
    send(
        &open,
        &json!({"events":[{"event_type":"action","user_id":"u"}]}),
        start(),
    )
    .unwrap();
    open.store().seal().unwrap();
    // Off for 20 days: 90 days old events expire two days later, however often it is tried before.
    let mut events = 0;
    for day in 20..=21 {
        let today = (start() + TimeDelta::days(day)).date_naive();
        for _ in 0..3 {
            let expired = open.expire(today, Clock::Doubted).unwrap().expired;
            assert_eq!((expired.as_of, expired.events), (start().date_naive(), 0));
        }
    }
    // On, without an event, for the rest of the year.
    for day in 22..=400 {
        let today = (start() + TimeDelta::days(day)).date_naive();
        let expired = open.expire(today, Clock::Doubted).unwrap().expired;
        assert_eq!(expired.as_of, today);
        events += expired.events;
        assert_eq!(events, u64::from(day > 90), "day {day}");
    }
    drop(open);
    // It ran all the time: an event is accepted after a restart, but not after two months off.
    let later = |days| start() + TimeDelta::days(days);
    let event = json!({"events":[{"event_type":"action","user_id":"u"}]});
    assert!(send(&engine(dir.path(), later(410)), &event, later(410)).is_some());
    let open = engine(dir.path(), later(480));
    match open.check_ready(later(480)) {
        Err(Error::Clock(message)) => {
            let date = later(480).date_naive();
            for part in [
                format!("`echopilot expire --confirm-date {date}`"),
                format!("POST /api/analytics/clock?confirm={date}"),
                later(480).format("%Y-%m-%dT%H:%M:%SZ").to_string(),
                later(410).format("%Y-%m-%dT%H:%M:%SZ").to_string(),
            ] {
                assert!(message.contains(&part), "{part}: {message}");
            }
        }
        other => panic!("{other:?}"),
    }
    match open.expire(later(480).date_naive(), Clock::Doubted) {
        Err(Error::BadInput { code, .. }) => assert_eq!(code, ErrorCode::ClockJump),
        other => panic!("{other:?}"),
    }
    open.confirm_clock(later(480).date_naive(), later(480))
        .unwrap();
    assert!(send(&open, &event, later(480)).is_some());
    drop(open);
    let open = engine(dir.path(), later(481));
    assert!(send(&open, &event, later(481)).is_some());
}

#[test]
fn a_clock_that_is_ahead_rolls_no_day_up_that_is_not_over() {
    let dir = folder();
    let open = engine(dir.path(), start());
    let day = |days| (start() + TimeDelta::days(days)).date_naive();
    let event = |ts: DateTime<Utc>| json!({"events":[{"event_type":"action","user_id":"u","ts":ts.to_rfc3339()}]});
    send(&open, &event(start() - TimeDelta::days(2)), start()).unwrap();
    assert_eq!(
        open.rollup(RollupScope::Closed, start()).unwrap().days,
        [day(-2), day(-1)]
    );
    drop(open);
    for ahead in [8, 20, 26_000] {
        let wrong = start() + TimeDelta::days(ahead);
        let open = engine(dir.path(), wrong);
        for scope in [RollupScope::Due, RollupScope::Closed] {
            assert_eq!(
                open.rollup(scope, wrong).unwrap().days,
                [] as [NaiveDate; 0],
                "{ahead}"
            );
        }
        assert!(open.rollup(RollupScope::Day(day(1)), wrong).is_err());
    }
    let next = start() + TimeDelta::days(1);
    let open = engine(dir.path(), next);
    send(&open, &event(start()), next).unwrap();
    assert_eq!(
        open.rollup(RollupScope::Closed, next).unwrap().days,
        [day(0)]
    );
}

#[test]
fn a_mark_in_the_future_of_an_earlier_version_is_corrected() {
    let dir = folder();
    let open = engine(dir.path(), start());
    send(
        &open,
        &json!({"events":[{"event_type":"action","user_id":"u"}]}),
        start(),
    )
    .unwrap();
    open.store().seal().unwrap();
    drop(open);
    let path = dir.path().join("manifest.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut manifest: Value = serde_json::from_str(&text).unwrap();
    manifest.as_object_mut().unwrap().remove("crc32c");
    manifest.as_object_mut().unwrap().remove("clock");
    manifest["expiry"]["looked_on"] = json!("2099-06-01");
    let mut bytes = serde_json::to_vec(&manifest).unwrap();
    bytes.pop();
    echopilot_analytics::checksum::close_object(&mut bytes, 0);
    bytes.push(b'\n');
    std::fs::write(&path, bytes).unwrap();
    // A clock that is three years ahead is not trusted.
    let open = engine(dir.path(), start());
    let ahead = (start() + TimeDelta::days(1_000)).date_naive();
    assert!(open.expire(ahead, Clock::Doubted).is_err());
    let next = start() + TimeDelta::days(1);
    open.expire(next.date_naive(), Clock::Doubted).unwrap();
    assert_eq!(open.store().expiry().looked_on, Some(next.date_naive()));
    assert_eq!(open.size().sealed_events, 1);
}

/// A clock that a process reads from a file, which changes while the process runs.
pub struct FakeClock {
    file: PathBuf,
}

impl FakeClock {
    pub fn new(dir: &Path) -> Self {
        let clock = Self {
            file: dir.join("clock"),
        };
        clock.set("+0");
        clock
    }

    pub fn set(&self, clock: &str) {
        let next = self.file.with_extension("next");
        std::fs::write(&next, clock).unwrap();
        std::fs::rename(next, &self.file).unwrap();
    }

    fn run(&self, command: &mut Command) {
        at_time(command, "+0");
        command
            .env_remove("FAKETIME")
            .env("FAKETIME_TIMESTAMP_FILE", &self.file)
            .env("FAKETIME_NO_CACHE", "1");
    }

    pub fn server(&self, data: &Path) -> Server {
        let mut command = echopilot(data);
        self.run(&mut command);
        Server::start_as(command)
    }
}

#[test]
fn a_running_server_stops_and_heals_with_its_clock() {
    let dir = folder();
    let data = dir.path().join("data");
    let clock = FakeClock::new(dir.path());
    let server = clock.server(&data);
    let ids = |name: &str| {
        batch((0..100).map(|number| {
        json!({"event_type":"action","user_id":"u","event_id":format!("{name}-{number}")})
    }))
    };
    let no_ids = batch((0..100).map(|_| json!({"event_type":"action","user_id":"v"})));
    let duplicates = |server: &Server, name: &str| {
        let (status, answer) = server.post(&ids(name));
        assert_eq!(
            (status, &answer["duplicates"]),
            (200, &json!(100)),
            "{answer}"
        );
    };
    assert_eq!(server.post(&ids("first")).1["logged"], 100);
    // A jump forward leaves no trace.
    clock.set("+8d");
    assert_eq!(server.post(&no_ids).1["logged"], 100);
    assert_eq!(server.get_with("/health/ready", &[]).0, 200);
    duplicates(&server, "first");
    let today = Utc::now().date_naive();
    for line in log_lines(&data) {
        for field in ["ts", "received_at"] {
            let on = at(line[field].as_str().unwrap()).date_naive();
            assert!(on - today <= TimeDelta::days(1), "{field} of {line}");
        }
    }
    // An event with a timestamp of that time is not rejected either.
    let (status, answer) = server.post(&batch([json!({"event_type":"action","user_id":"w",
        "ts":(Utc::now() + TimeDelta::days(8)).to_rfc3339()})]));
    assert_eq!((status, &answer["logged"]), (200, &json!(1)), "{answer}");
    for wrong in ["-1d", "1970-01-02 00:00:00", "2099-01-01 00:00:00"] {
        clock.set(wrong);
        for _ in 0..3 {
            let (status, answer) = server.post(&ids("other"));
            assert_eq!(
                (status, &answer["error"]),
                (503, &json!("clock")),
                "{wrong}: {answer}"
            );
            let (status, answer) = server.get_with("/health/ready", &[]);
            assert_eq!(
                (status, &answer["error"]),
                (503, &json!("clock")),
                "{wrong}: {answer}"
            );
        }
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .build()
            .into();
        let refused = agent
            .post(format!("{}/api/analytics/event", server.url))
            .header("content-type", "application/json")
            .send(no_ids.to_string())
            .unwrap();
        assert!(refused.headers().contains_key("retry-after"));
        assert_eq!(server.get("/api/analytics/status").1["writable"], false);
    }
    clock.set("+0");
    duplicates(&server, "first");
    assert_eq!(server.post(&ids("second")).1["logged"], 100);
    assert_eq!(server.get_with("/health/ready", &[]).0, 200);
    let traced = server.stop();
    assert_eq!(
        traced.matches("No events are accepted").count(),
        1,
        "{traced}"
    );
    assert_eq!(traced.matches("The clock jumped").count(), 1, "{traced}");

    // A restart believes a jump of a week; the way back must be confirmed.
    clock.set("+8d");
    let server = clock.server(&data);
    assert_eq!(server.post(&no_ids).1["logged"], 100);
    duplicates(&server, "first");
    clock.set("+0");
    let (status, answer) = server.post(&ids("third"));
    assert_eq!(
        (status, &answer["error"]),
        (503, &json!("clock")),
        "{answer}"
    );
    let path = |date: NaiveDate| format!("/api/analytics/clock?confirm={date}");
    let confirm = |date, key| {
        let (status, answer) = server.ask_with(&path(date), &json!({}), &[("x-dash-key", key)]);
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        (status, answer)
    };
    let today = Utc::now().date_naive();
    assert_eq!(confirm(today, "another key").0, 401);
    assert_eq!(
        confirm(today + TimeDelta::days(8), KEY).1["error"],
        "bad_date"
    );
    assert_eq!(confirm(today, KEY).0, 200);
    for name in ["first", "second"] {
        duplicates(&server, name);
    }
    assert_eq!(server.post(&ids("third")).1["logged"], 100);
    server.kill();
    let server = clock.server(&data);
    for name in ["first", "second", "third"] {
        duplicates(&server, name);
    }
    assert_eq!(server.get_with("/health/ready", &[]).0, 200);
    server.stop();
    let verified = run_json(&data, &["verify"]);
    assert_eq!(
        (&verified["sealed_events"], &verified["damage"]),
        (&json!(501), &json!([]))
    );
}

#[test]
fn a_server_that_was_off_for_two_months_starts_and_can_be_confirmed_in_three_ways() {
    let dir = folder();
    let clock = FakeClock::new(dir.path());
    for way in ["command", "command-alone", "http"] {
        let data = dir.path().join(way);
        clock.set("-61d");
        let server = clock.server(&data);
        let event = batch([json!({"event_type":"action","user_id":"u"})]);
        assert_eq!(server.post(&event).1["logged"], 1);
        server.stop();
        clock.set("+0");
        let mut server = clock.server(&data);
        let (status, answer) = server.get_with("/health/ready", &[]);
        assert_eq!((status, &answer["error"]), (503, &json!("clock")));
        let today = Utc::now().date_naive().to_string();
        let message = answer["message"].as_str().unwrap().to_owned();
        let command = ["expire", "--confirm-date", &today];
        match way {
            "command" => {
                assert!(
                    message.contains(&format!("`echopilot {}`", command.join(" "))),
                    "{message}"
                );
                assert_eq!(run_json(&data, &command)["ok"], true);
            }
            "command-alone" => {
                server.stop();
                run_json(&data, &command);
                server = clock.server(&data);
            }
            _ => {
                let path = format!("/api/analytics/clock?confirm={today}");
                assert!(message.contains(&path), "{message}");
                assert_eq!(server.ask(&path, &json!({})).0, 200);
            }
        }
        assert_eq!(server.get_with("/health/ready", &[]).0, 200);
        assert_eq!(server.post(&event).1["logged"], 1);
        server.stop();
    }
}

#[test]
fn a_store_that_starts_with_a_clock_that_was_never_set_waits_for_it() {
    let dir = folder();
    let data = dir.path().join("data");
    let clock = FakeClock::new(dir.path());
    clock.set("1970-01-02 00:00:00");
    let server = clock.server(&data);
    let event = batch([json!({"event_type":"action","user_id":"u","event_id":"one"})]);
    let (status, answer) = server.post(&event);
    assert_eq!(
        (status, &answer["error"]),
        (503, &json!("clock")),
        "{answer}"
    );
    let (status, answer) = server.ask("/api/analytics/clock?confirm=1970-01-02", &json!({}));
    assert_eq!(
        (status, &answer["error"]),
        (503, &json!("clock")),
        "{answer}"
    );
    clock.set("+0");
    assert_eq!(server.post(&event).1["logged"], 1);
    assert_eq!(server.usage("?days=1")["total_events"], 1);
    server.stop();
}
