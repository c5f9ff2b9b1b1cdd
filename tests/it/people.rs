//! Data of users: expiry of ids with the last event, keys of pseudonyms, access to large histories,
//! and large erasures.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use chrono::{DateTime, Days, TimeDelta, Utc};
use echopilot_analytics::store::Clock;
use echopilot_analytics::window::WindowRequest;
use serde_json::{Value, json};

use crate::faults::{copy, with_fault};
use crate::harness::{KEY, Server, batch, echopilot, engine, folder, ingest, run, run_json};

/// The lines of the dictionary, of any generation.
fn dictionary(data: &Path) -> Vec<Value> {
    let files: Vec<PathBuf> = std::fs::read_dir(data)
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with("users")
        })
        .collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let text = std::fs::read_to_string(&files[0]).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn import(data: &Path, events: &[Value]) {
    let file = data.with_extension("events");
    let lines: Vec<String> = events.iter().map(Value::to_string).collect();
    std::fs::write(&file, lines.join("\n")).unwrap();
    run_json(data, &["import", file.to_str().unwrap()]);
}

fn days_ago(days: u64) -> String {
    format!("{}T00:00:00Z", Utc::now().date_naive() - Days::new(days))
}

fn used(user: &str, days: u64) -> Value {
    json!({"event_type":"action","user_id":user,"feature":"f","ts":days_ago(days)})
}

/// A store of users who were active 200 and 45 days ago, and recently. Raw events are kept for 30
/// days and states for 60.
fn store_of_ages() -> (tempfile::TempDir, PathBuf) {
    let dir = folder();
    let data = dir.path().join("data");
    let users = ["stays", "goner", "in a state", "goes too", "new"];
    let ages = [1, 200, 45, 61, 2];
    let events: Vec<Value> = users
        .iter()
        .zip(ages)
        .map(|(user, age)| used(user, age))
        .collect();
    import(&data, &events);
    import(&data, &[used("stays", 200), used("goner", 199)]);
    (dir, data)
}

fn expire(data: &Path) -> std::process::Command {
    let mut command = echopilot(data);
    command
        .env("ECHOPILOT_RAW_RETENTION_DAYS", "30")
        .env("ECHOPILOT_ROLLUP_RETENTION_DAYS", "60")
        .arg("expire");
    command
}

fn expired(data: &Path) -> Value {
    serde_json::from_slice(&crate::harness::printed(&mut expire(data))).unwrap()
}

/// Files of the data folder that contain a string.
fn files_with(dir: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, text));
        } else if memchr::memmem::find(&std::fs::read(&path).unwrap(), text.as_bytes()).is_some() {
            found.push(path);
        }
    }
    found
}

#[test]
fn an_id_leaves_the_dictionary_with_the_last_event_and_state() {
    let (_dir, data) = store_of_ages();
    let before = dictionary(&data);
    assert_eq!(before.len(), 5);
    let usage = run_json(&data, &["usage", "--days", "50"])["feature_usage"].clone();
    let answer = expired(&data);
    assert_eq!(
        (&answer["users"], &answer["states"]),
        (&json!(2), &json!(3)),
        "{answer}"
    );
    // The results of other users are unchanged.
    let after = dictionary(&data);
    for (before, after) in before.iter().zip(&after) {
        match before.as_str().unwrap() {
            "goner" | "goes too" => assert_eq!(*after, Value::Null),
            _ => assert_eq!(after, before),
        }
    }
    for gone in ["goner", "goes too"] {
        assert_eq!(files_with(&data, gone), Vec::<PathBuf>::new());
        assert!(run(&data, &["user", "access", gone]).stdout.is_empty());
    }
    assert_eq!(
        run_json(&data, &["usage", "--days", "50"])["feature_usage"],
        usage
    );
    assert_eq!(run_json(&data, &["verify"])["damage"], json!([]));
    assert_eq!(run_json(&data, &["rebuild"])["changed"], 0);
    assert_eq!(expired(&data)["users"], 0);
    // A user who comes back gets a new id.
    import(&data, &[used("goner", 0), used("stays", 0)]);
    let again = dictionary(&data);
    assert_eq!((again.len(), &again[5]), (6, &json!("goner")));
    assert_eq!(again[..5], after);
    let lifecycle = run_json(&data, &["query", r#"{"metric":"lifecycle","days":1}"#]);
    assert_eq!(
        lifecycle["rows"][0]["returning"].as_i64(),
        Some(1),
        "{lifecycle}"
    );
    assert_eq!(run_json(&data, &["rebuild"])["changed"], 0);
    assert_eq!(run_json(&data, &["verify"])["damage"], json!([]));
}

#[test]
fn a_user_who_comes_back_to_a_running_server_is_one_user_in_memory_and_on_disk() {
    let start: DateTime<Utc> = "2026-11-20T12:00:00Z".parse().unwrap();
    let used = |user: &str, at: DateTime<Utc>| json!({"event_type":"action","user_id":user,"feature":"f","ts":at.to_rfc3339()});
    for is_sealed in [true, false] {
        let dir = folder();
        let open = engine(dir.path(), start);
        let year = start - TimeDelta::days(364);
        ingest(
            &open,
            &[
                used("back", year),
                used("gone", year),
                used("waits", year),
                used("stays", start),
            ],
            start,
        );
        open.store().seal().unwrap();
        // One of them has another event in the log.
        ingest(&open, &[used("waits", start)], start);
        let later = start + TimeDelta::days(2);
        // Two midnights, one after the other.
        open.expire((start + TimeDelta::days(1)).date_naive(), Clock::Doubted)
            .unwrap();
        let expired = open
            .expire(later.date_naive(), Clock::Doubted)
            .unwrap()
            .expired;
        assert_eq!((expired.states, expired.users), (1, 2));
        assert_eq!(
            dictionary(dir.path()),
            [Value::Null, Value::Null, json!("waits"), json!("stays")]
        );
        assert_eq!(open.store().names().users.find("back"), None);
        assert_eq!(open.store().names().users.find("stays"), Some(3));
        ingest(
            &open,
            &[
                used("back", start),
                used("new", start),
                used("stays", start),
            ],
            start,
        );
        let mau = |engine: &echopilot_analytics::engine::Engine| {
            let request = WindowRequest {
                days: Some(30),
                end: Some(start.date_naive()),
                ..WindowRequest::default()
            };
            engine.usage(&request, start).unwrap().numbers.mau
        };
        assert_eq!(mau(&open), 4);
        let mut events = 0;
        open.user_events("back", |lines| {
            events += lines.iter().filter(|&&byte| byte == b'\n').count();
            Ok(())
        })
        .unwrap();
        assert_eq!(events, 1);
        // An expiry meanwhile keeps the user who has come back.
        assert_eq!(
            open.expire(later.date_naive(), Clock::Doubted)
                .unwrap()
                .expired
                .users,
            0
        );
        if is_sealed {
            open.store().seal().unwrap();
            let found = dictionary(dir.path());
            assert_eq!(
                found,
                [
                    json!("back"),
                    Value::Null,
                    json!("waits"),
                    json!("stays"),
                    json!("new")
                ]
            );
        }
        drop(open);
        // As after a crash.
        let open = engine(dir.path(), start);
        assert_eq!(mau(&open), 4);
        open.store().seal().unwrap();
        drop(open);
        let found = dictionary(dir.path());
        assert_eq!(
            found.iter().filter(|line| **line == "back").count(),
            1,
            "{found:?}"
        );
        assert!(!found.contains(&json!("gone")));
        let open = engine(dir.path(), start);
        assert_eq!(mau(&open), 4);
        assert_eq!(open.rebuild().unwrap().changed, 0);
        assert_eq!(run_json_of_verify(dir.path(), open), json!([]));
    }
}

fn run_json_of_verify(data: &Path, open: echopilot_analytics::engine::Engine) -> Value {
    drop(open);
    run_json(data, &["verify"])["damage"].clone()
}

#[test]
fn expiry_of_ids_killed_at_any_call_leaves_a_valid_store_and_can_be_repeated() {
    let (_dir, origin) = store_of_ages();
    let numbers = |data: &Path| {
        let rows = |metric: &str| {
            let question = json!({"metric":metric,"days":50}).to_string();
            run_json(data, &["query", &question])["rows"].clone()
        };
        ["active_users", "feature_usage", "lifecycle"].map(rows)
    };
    let undisturbed = copy(&origin);
    expired(undisturbed.path());
    let expected = numbers(undisturbed.path());
    let without = dictionary(undisturbed.path());
    for kind in ["kill", "torn", "eio"] {
        let mut points = 0;
        // Every call if the process is killed; some calls for the other kinds, which run the same
        // code.
        let step = if kind == "kill" { 1 } else { 5 };
        for at in (1..).step_by(step) {
            let dir = copy(&origin);
            let mut command = expire(dir.path());
            with_fault(&mut command, dir.path(), kind, at);
            let done = command.output().unwrap().status.success();
            assert_eq!(
                run_json(dir.path(), &["verify"])["damage"],
                json!([]),
                "{kind} at {at}"
            );
            assert_eq!(
                run_json(dir.path(), &["rebuild"])["changed"],
                0,
                "{kind} at {at}"
            );
            expired(dir.path());
            assert_eq!(numbers(dir.path()), expected, "{kind} at {at}");
            assert_eq!(dictionary(dir.path()), without, "{kind} at {at}");
            if done {
                break;
            }
            points += 1;
        }
        assert!(
            points * step >= 20,
            "{kind}: only {points} points were tried"
        );
    }
}

#[test]
fn no_user_leaves_the_dictionary_while_a_state_is_damaged() {
    let (_dir, data) = store_of_ages();
    let states = std::fs::read_dir(data.join("states")).unwrap();
    let last = states.map(|file| file.unwrap().path()).max().unwrap();
    let whole = std::fs::read(&last).unwrap();
    let mut bytes = whole.clone();
    bytes[10] ^= 1;
    std::fs::write(&last, bytes).unwrap();
    assert_eq!(expired(&data)["users"], 0);
    assert!(dictionary(&data).contains(&json!("goner")));
    std::fs::write(&last, whole).unwrap();
    assert_eq!(expired(&data)["users"], 2);
}

fn with_key(data: &Path, key: Option<&Path>, arguments: &[&str]) -> Output {
    let mut command = echopilot(data);
    if let Some(key) = key {
        command.env("ECHOPILOT_USER_KEY_FILE", key);
    }
    command.args(arguments).output().unwrap()
}

/// Names, lengths and times of all files.
fn state_of_files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(state_of_files(&path)),
            false => found.push((path.clone(), std::fs::read(&path).unwrap())),
        }
    }
    found.sort();
    found
}

#[test]
fn a_store_of_pseudonyms_opens_only_with_its_key() {
    for is_sealed in [true, false] {
        let dir = folder();
        let data = dir.path().join("data");
        let [right, wrong] = ["right", "wrong"].map(|name| {
            let path = dir.path().join(name);
            std::fs::write(&path, format!("the {name} key of more than sixteen bytes")).unwrap();
            path
        });
        // Events that were stored before stay unchanged.
        import(&data, &[used("ann", 1)]);
        let mut command = echopilot(&data);
        command.env("ECHOPILOT_USER_KEY_FILE", &right);
        let server = Server::start_as(command);
        server.post(&batch([used("ann", 0), used("bob", 0)]));
        match is_sealed {
            true => drop(server.stop()),
            false => drop(server.kill()),
        }
        let before = state_of_files(&data);
        for key in [None, Some(wrong.as_path())] {
            for arguments in [
                &["user", "erase", "ann"][..],
                &["user", "access", "ann"],
                &["usage"],
                &["seal"],
                &["expire"],
                &["serve", "--listen", "127.0.0.1:0"],
            ] {
                let output = with_key(&data, key, arguments);
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
                assert!(
                    output.stdout.is_empty() && said.contains("--user-key-file"),
                    "{said}"
                );
            }
        }
        assert!(state_of_files(&data) == before, "something was written");
        // The same key with other white space around it is the same.
        let text = std::fs::read_to_string(&right).unwrap();
        std::fs::write(&right, format!("{text}\n")).unwrap();
        let erased = with_key(&data, Some(&right), &["user", "erase", "ann"]);
        let receipt: Value = serde_json::from_slice(&erased.stdout).unwrap();
        assert_eq!(
            (&receipt["events"], &receipt["users"]),
            (&json!(2), &json!(1)),
            "{receipt}"
        );
        // An export can be imported into a store without a key, and found by the hash.
        let out = with_key(&data, Some(&right), &["user", "access", "bob"]).stdout;
        let event: Value = serde_json::from_slice(&out).unwrap();
        let pseudonym = event["user_id"].as_str().unwrap();
        let other = dir.path().join("other");
        import(&other, &[event.clone(), used("ann", 0)]);
        assert!(
            !run(&other, &["user", "access", pseudonym])
                .stdout
                .is_empty()
        );
        assert!(!run(&other, &["user", "access", "ann"]).stdout.is_empty());
        // A user who may be one of the pseudonyms is not reported as unknown.
        for command in ["access", "erase"] {
            let output = run(&other, &["user", command, "bob"]);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{said}");
            assert!(said.contains("--user-key-file"), "{said}");
        }
    }
}

/// Current (`VmRSS`) or peak (`VmHWM`) memory of a process, in kB.
fn memory_kb(process: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_ascii_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn an_event_that_was_stored_before_there_were_pseudonyms_is_known_when_it_is_sent_again() {
    let dir = folder();
    let data = dir.path().join("data");
    let key = dir.path().join("key");
    std::fs::write(&key, "a key of more than sixteen bytes").unwrap();
    let event = json!({"event_type":"action","user_id":"ann","event_id":"one"});
    let server = Server::start(&data);
    assert_eq!(server.post(&batch([event.clone()])).1["logged"], 1);
    server.stop();
    let mut command = echopilot(&data);
    command.env("ECHOPILOT_USER_KEY_FILE", &key);
    let server = Server::start_as(command);
    assert_eq!(server.post(&batch([event])).1["duplicates"], 1);
}

#[test]
fn access_to_a_large_history_streams_in_time_order_with_little_memory() {
    const EVENTS: u64 = 30_000;
    let dir = folder();
    let data = dir.path().join("data");
    let file = dir.path().join("events");
    let today = Utc::now().date_naive();
    // Of two days, in several segments that overlap in time, with equal timestamps.
    let at = |number: u64| {
        let day = today - Days::new(1 + u64::from(number.is_multiple_of(10)));
        let second = number * 7_919 % 80_000;
        format!(
            "{day}T{:02}:{:02}:{:02}Z",
            second / 3_600,
            second / 60 % 60,
            second % 60
        )
    };
    let filler = "x".repeat(4_000);
    let mut lines = std::io::BufWriter::new(std::fs::File::create(&file).unwrap());
    for number in 0..EVENTS {
        let event = json!({"event_type":"action","user_id":"giant","ts":at(number),
            "metadata":{"n":number,"filler":format!("{number}{filler}")}});
        let other = json!({"event_type":"action","user_id":"other","ts":at(number)});
        writeln!(lines, "{event}\n{other}").unwrap();
    }
    drop(lines);
    run_json(&data, &["import", file.to_str().unwrap()]);
    let server = Server::start(&data);
    let (_, small) = server.get_bytes("/api/analytics/users/other/events", &[("x-dash-key", KEY)]);
    assert_eq!(
        small.iter().filter(|&&byte| byte == b'\n').count(),
        EVENTS as usize
    );
    drop(small);
    // And some in the log.
    for first in (EVENTS..EVENTS + 500).step_by(50) {
        let events = (first..first + 50).map(|number| {
            json!({"event_type":"action","user_id":"giant","ts":at(number),
                "metadata":{"n":number,"filler":filler}})
        });
        assert_eq!(server.post(&batch(events)).0, 200);
    }
    server.kill();
    // By the command, without other jobs that need memory.
    let mut command = echopilot(&data)
        .args(["user", "access", "giant"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stream = BufReader::new(command.stdout.take().unwrap());
    let mut seen = vec![false; EVENTS as usize + 500];
    let mut last = String::new();
    let mut line = String::new();
    let mut grown = 0;
    for lines in 0.. {
        match lines {
            1 => grown = memory_kb(command.id(), "VmRSS"),
            // The rest is more than a pipe holds, so the command waits for the reader.
            30_000 => grown = memory_kb(command.id(), "VmHWM").saturating_sub(grown),
            _ => {}
        }
        if stream.read_line(&mut line).unwrap() == 0 {
            break;
        }
        let event: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(event["user_id"], "giant");
        let number = event["metadata"]["n"].as_u64().unwrap() as usize;
        let ts = event["ts"].as_str().unwrap().to_owned();
        assert!(ts >= last, "{ts} after {last}");
        assert!(
            !std::mem::replace(&mut seen[number], true),
            "{number} is there twice"
        );
        last = ts;
        line.clear();
    }
    assert!(seen.iter().all(|seen| *seen));
    assert!(command.wait().unwrap().success());
    eprintln!("memory grew by {grown} kB");
    assert!(grown < 80_000, "memory grew by {grown} kB");
}

/// Requests the events of a user; unread parts wait in the server.
fn access(server: &Server, user: &str) -> (u16, BufReader<impl Read + use<>>) {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .build()
        .into();
    let response = agent
        .get(format!("{}/api/analytics/users/{user}/events", server.url))
        .header("x-dash-key", KEY)
        .call()
        .unwrap();
    let status = response.status().as_u16();
    (status, BufReader::new(response.into_body().into_reader()))
}

/// A store of a user with some MB on each of two days, in the lake.
fn store_of_much() -> (tempfile::TempDir, PathBuf) {
    let dir = folder();
    let data = dir.path().join("data");
    let filler = "x".repeat(4_000);
    let events: Vec<Value> = (0..8_000)
        .map(|number| {
            json!({"event_type":"action","user_id":"giant","ts":days_ago(1 + number / 4_000),
                "metadata":{"n":number,"filler":filler}})
        })
        .collect();
    import(&data, &events);
    (dir, data)
}

#[test]
fn two_users_stream_at_once_and_a_disconnected_client_frees_its_permit() {
    let (_dir, data) = store_of_much();
    let server = Server::start(&data);
    let mut slow: Vec<_> = (0..2).map(|_| access(&server, "giant")).collect();
    for (status, lines) in &mut slow {
        assert_eq!(*status, 200);
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert!(line.contains("\"giant\""), "{line}");
    }
    let (status, mut refused) = access(&server, "giant");
    let mut message = String::new();
    refused.read_to_string(&mut message).unwrap();
    let message: Value = serde_json::from_str(&message).unwrap();
    assert_eq!(
        (status, &message["error"]),
        (503, &json!("busy")),
        "{message}"
    );
    // One reads to the end, the other leaves.
    let (_, mut lines) = slow.pop().unwrap();
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    assert_eq!(rest.lines().count(), 7_999);
    drop(slow);
    let deadline = std::time::Instant::now() + crate::harness::PATIENCE;
    let mut open = Vec::new();
    while open.len() < 2 {
        let (status, lines) = access(&server, "giant");
        match status {
            200 => open.push(lines),
            _ => assert!(
                std::time::Instant::now() < deadline,
                "no permit is free again"
            ),
        }
    }
    drop(open);
    server.kill();
}

#[test]
fn an_error_in_the_middle_of_an_access_ends_the_response_early() {
    let (_dir, data) = store_of_much();
    let mut server = Server::start(&data);
    let (status, mut lines) = access(&server, "giant");
    assert_eq!(status, 200);
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert!(line.contains(&days_ago(2)[..10]), "{line}");
    // The next day is replaced before it is read, by a rename: background jobs of the server may
    // have mapped the file, and a process that reads a mapped file while it is cut off is killed.
    let last = data.join(format!("events/dt={}", &days_ago(1)[..10]));
    let zeros = data.with_file_name("zeros");
    for file in std::fs::read_dir(last).unwrap() {
        let path = file.unwrap().path();
        let length = path.metadata().unwrap().len() as usize;
        std::fs::write(&zeros, vec![0; length]).unwrap();
        std::fs::rename(&zeros, path).unwrap();
    }
    let mut rest = Vec::new();
    let read = lines.read_to_end(&mut rest);
    assert!(read.is_err(), "{} bytes look whole", rest.len());
    server.wait_for("A response was aborted");
    server.kill();
}

#[test]
fn a_large_erasure_is_confirmed_by_the_number_of_its_events() {
    let dir = folder();
    let data = dir.path().join("data");
    let event = |user: &str, number: u64| json!({"event_type":"action","user_id":user,"ts":days_ago(number % 5)});
    let many = |user: &'static str, count| (0..count).map(move |number| event(user, number));
    let events: Vec<Value> = many("large", 1_200)
        .chain(many("small", 900))
        .chain(many("other", 5_000))
        .collect();
    import(&data, &events);
    let cohort = json!({"name":"some","users":["large"]});
    let server = Server::start(&data);
    server.ask("/api/analytics/cohorts", &cohort);
    assert_eq!(server.post(&batch(many("large", 50))).0, 200);
    let path = "/api/analytics/users/large";
    for wrong in ["", "?confirm=1", "?confirm=1251", "?confirm=7150"] {
        let (status, answer) = server.delete(&format!("{path}{wrong}"));
        assert_eq!(
            (status, &answer["error"]),
            (409, &json!("confirm_erasure")),
            "{answer}"
        );
        let message = answer["message"].as_str().unwrap();
        for part in ["\"large\"", "1250", "7150", "17.5%", "5%", "confirm=1250"] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }
    assert_eq!(
        server.delete(&format!("{path}?confirm=many")).1["error"],
        "bad_confirm"
    );
    assert_eq!(
        server.delete(&format!("{path}?force=1")).1["error"],
        "bad_query"
    );
    // Several together are one erasure.
    let both = |confirm: Value| {
        let body = json!({"users":["large","small"],"confirm":confirm});
        server.ask("/api/analytics/erasures", &body)
    };
    assert_eq!(both(Value::Null).0, 409);
    assert_eq!(both(json!(1_250)).0, 409);
    // Nothing was removed, and no user was marked.
    assert!(!data.join("erasures.json").exists());
    assert_eq!(server.usage("?days=9")["total_events"], 7_150);
    let cohorts = server.get("/api/analytics/cohorts").1.to_string();
    assert!(cohorts.contains("large"), "{cohorts}");
    // Events that arrive before the confirmation do not count.
    assert_eq!(both(Value::Null).0, 409);
    assert_eq!(server.post(&batch(many("large", 10))).0, 200);
    let (status, receipt) = both(json!(2_150));
    assert_eq!(
        (status, &receipt["events"]),
        (200, &json!(2_160)),
        "{receipt}"
    );
    server.stop();

    // The same by the command line, without new events. A higher limit needs fewer confirmations.
    let erase = |arguments: &[&str]| {
        let mut command = echopilot(&data);
        command
            .args(["user", "erase", "other"])
            .args(arguments)
            .output()
            .unwrap()
    };
    let output = erase(&[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("--confirm 5000"), "{said}");
    assert_eq!(erase(&["--confirm", "4999"]).status.code(), Some(2));
    assert_eq!(
        erase(&["--limit-erasure-percent", "99"]).status.code(),
        Some(2)
    );
    let backup = copy(&data);
    assert!(erase(&["--confirm", "5000"]).status.success());
    let mut command = echopilot(backup.path());
    command
        .env("ECHOPILOT_LIMIT_ERASURE_PERCENT", "100")
        .args(["user", "erase", "other"]);
    assert!(command.status().unwrap().success());
}

#[test]
fn an_accepted_erasure_continues_without_another_confirmation() {
    let dir = folder();
    let data = dir.path().join("data");
    let events: Vec<Value> = (0..2_000).map(|number| used("large", number % 5)).collect();
    import(&data, &events);
    // It dies after the users are marked.
    let mut points = 0;
    for at in (1..).step_by(4) {
        let copy = copy(&data);
        let mut command = echopilot(copy.path());
        with_fault(&mut command, copy.path(), "kill", at);
        let done = command
            .args(["user", "erase", "large", "--confirm", "2000"])
            .output()
            .unwrap()
            .status
            .success();
        let list = std::fs::read_to_string(copy.path().join("erasures.json")).unwrap_or_default();
        if list.contains("large") {
            points += 1;
            run_json(copy.path(), &["user", "erase", "large"]);
            assert_eq!(
                run_json(copy.path(), &["usage", "--days", "9"])["total_events"],
                0,
                "{at}"
            );
        }
        if done {
            break;
        }
    }
    assert!(points >= 3, "only {points} points were tried");
}
