//! Access and erasure: all data of a user is found, is removed from every byte of the data folder,
//! and does not come back.

use std::path::{Path, PathBuf};

use chrono::{Days, Utc};
use serde_json::{Value, json};

use crate::faults::{copy, with_fault, with_trace};
use crate::harness::{Server, batch, columns, echopilot, folder, printed, run, run_json};

const TARGET: &str = "target-user-77";

/// Events of three users, the target among them, and anonymous ones, of the last five days.
fn history(part: u64) -> Vec<Value> {
    let today = Utc::now().date_naive();
    let users = [
        json!(TARGET),
        json!("ann"),
        json!("bob \"quoted\""),
        json!(null),
    ];
    (0..40)
        .map(|number| {
            let day = today - Days::new(number % 5);
            let event_type = ["page_view", "action"][(number % 2) as usize];
            let user = &users[(number % 4) as usize];
            json!({"ts": format!("{day}T00:00:{:02}Z", number), "event_type": event_type,
                "user_id": user, "feature": format!("f{}", number % 3), "url": "/x",
                "metadata": {"n": number}, "event_id": format!("{part}-{number}")})
        })
        .collect()
}

/// A user with events in the log only.
const LATE: &str = "late-user-99";

fn late() -> Value {
    json!({"ts": format!("{}T01:00:00Z", Utc::now().date_naive() - Days::new(1)), "event_type": "action", "user_id": LATE,
        "feature": "f0", "metadata": {"n": 50}, "event_id": "late"})
}

/// A data folder with events in segments, compacted and not, and in the log.
fn store() -> tempfile::TempDir {
    let dir = folder();
    let file = dir.path().join("events");
    let data = dir.path().join("data");
    for part in 0..2 {
        let lines: Vec<String> = history(part).iter().map(Value::to_string).collect();
        std::fs::write(&file, lines.join("\n")).unwrap();
        run_json(&data, &["import", file.to_str().unwrap()]);
    }
    run_json(&data, &["seal"]);
    let server = Server::start(&data);
    server.post(&batch(history(2)));
    server.post(&batch([late()]));
    server.kill();
    std::fs::remove_file(&file).unwrap();
    dir
}

/// Adds identity calls of another user that name the target, which is known as a user before: no
/// link comes of them. They are in segments and in the log.
fn add_calls(data: &Path) {
    let dir = folder();
    let [plan, file] = ["plan", "events"].map(|name| dir.path().join(name));
    std::fs::write(&plan, r#"{"event_types":[{"name":"system"}]}"#).unwrap();
    run_json(data, &["plan", "set", plan.to_str().unwrap()]);
    let call = |second: u64, user: &str, metadata: Value| {
        let day = Utc::now().date_naive() - Days::new(2);
        json!({"ts": format!("{day}T02:00:{second:02}Z"), "event_type": "system", "user_id": user,
            "feature": "identify", "metadata": metadata, "event_id": format!("call-{second}")})
    };
    let naming = |second| call(second, "dan", json!({"previous_id": TARGET}));
    let sealed = [call(0, TARGET, json!({})), naming(1)];
    std::fs::write(&file, sealed.map(|call| call.to_string()).join("\n")).unwrap();
    run_json(data, &["import", file.to_str().unwrap()]);
    let server = Server::start(data);
    server.post(&batch([naming(2)]));
    server.kill();
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

/// The files that contain a string, those of Parquet in any column.
pub fn files_with(dir: &Path, text: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = files(dir)
        .into_iter()
        .filter(|path| {
            // A file of a running job may no longer exist.
            let bytes = std::fs::read(path).unwrap_or_default();
            memchr::memmem::find(&bytes, text.as_bytes()).is_some()
        })
        .collect();
    let script = "import sys, duckdb\n\
        rows = duckdb.execute(\"select distinct filename from read_parquet(?, filename=true, hive_partitioning=false, union_by_name=true) \
        as one where contains(cast(one as varchar), ?)\", [sys.argv[1] + '/**/*.parquet', sys.argv[2]]).fetchall()\n\
        print('\\n'.join(row[0] for row in rows))\n";
    if files(dir)
        .iter()
        .any(|path| path.extension().is_some_and(|found| found == "parquet"))
    {
        let mut judge = crate::oracle::python_command();
        let lines = printed(judge.args(["-c", script, dir.to_str().unwrap(), text]));
        let lines = String::from_utf8(lines).unwrap();
        found.extend(
            lines
                .lines()
                .filter(|line| !line.is_empty())
                .map(PathBuf::from),
        );
    }
    found
}

/// Counts of events of the target, of others and of anonymous users, by states and by events.
fn counted(data: &Path) -> Vec<Value> {
    let mut all = Vec::new();
    for tz in ["UTC", "Africa/Abidjan"] {
        for question in [
            json!({"metric":"event_types","days":7,"tz":tz}),
            json!({"metric":"feature_usage","days":7,"tz":tz}),
            json!({"metric":"active_users","days":7,"tz":tz}),
            json!({"metric":"lifecycle","days":7,"tz":tz}),
            json!({"metric":"paths","days":7,"tz":tz}),
            json!({"metric":"funnel","days":7,"tz":tz,"steps":[{"feature":"f0"},{"feature":"f1"}]}),
            json!({"metric":"feature_usage","days":7,"tz":tz,"filter":{"metadata.n":{"min":7}}}),
        ] {
            all.push(run_json(data, &["query", &question.to_string()])["rows"].clone());
        }
    }
    assert_eq!(all[..7], all[7..], "states and events differ");
    all
}

/// The counts of the same store without these users.
fn counted_without(users: &[&str]) -> Vec<Value> {
    let dir = folder();
    let file = dir.path().join("events");
    let data = dir.path().join("data");
    let events = (0..3)
        .flat_map(history)
        .chain([late()])
        .filter(|event| !users.iter().any(|user| event["user_id"] == *user));
    let lines: Vec<String> = events.map(|event| event.to_string()).collect();
    std::fs::write(&file, lines.join("\n")).unwrap();
    run_json(&data, &["import", file.to_str().unwrap()]);
    counted(&data)
}

fn access(data: &Path, user: &str) -> Vec<Value> {
    let output = run(data, &["user", "access", user]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn access_gives_every_event_of_a_user_and_none_of_others_in_order() {
    let dir = store();
    let data = dir.path().join("data");
    // A torn line of the user is in the quarantine.
    let log = data.join("analytics_events.ndjson");
    let mut bytes = std::fs::read(&log).unwrap();
    bytes.extend_from_slice(
        format!("{{\"ts\":\"2026-01-01\",\"user_id\":\"{TARGET}\",\"fea").as_bytes(),
    );
    std::fs::write(&log, bytes).unwrap();
    let found = access(&data, TARGET);
    let (events, quarantined) = found.split_at(found.len() - 1);
    let mut expected: Vec<Value> = (0..3)
        .flat_map(history)
        .filter(|event| event["user_id"] == TARGET)
        .collect();
    for event in &mut expected {
        let second = event["ts"].as_str().unwrap().trim_end_matches('Z');
        event["ts"] = json!(format!("{second}.000000Z"));
    }
    expected.sort_by_key(|event| event["ts"].as_str().unwrap().to_owned());
    assert_eq!(events.len(), expected.len());
    for (found, expected) in events.iter().zip(&expected) {
        for field in [
            "ts",
            "event_type",
            "user_id",
            "feature",
            "metadata",
            "url",
            "event_id",
        ] {
            assert_eq!(found[field], expected[field], "{field}");
        }
    }
    assert!(
        quarantined[0]["raw"].as_str().unwrap().contains(TARGET),
        "{quarantined:?}"
    );
    assert_eq!(access(&data, "bob \"quoted\"").len(), 30);
    assert!(access(&data, "nobody-at-all").is_empty());
    let server = Server::start(&data);
    let (status, by_http) = server.get(&format!("/api/analytics/users/{TARGET}/events"));
    assert_eq!(
        (status, by_http.as_str().unwrap().lines().count()),
        (200, found.len())
    );
    assert_eq!(
        server
            .get("/api/analytics/users/bob%20%22quoted%22/events")
            .1
            .as_str()
            .unwrap()
            .lines()
            .count(),
        30
    );
    assert_eq!(
        server
            .get_with(&format!("/api/analytics/users/{TARGET}/events"), &[])
            .0,
        401
    );
}

#[test]
fn an_erased_user_is_in_no_byte_of_the_data_folder_and_stays_away() {
    let expected = counted_without(&[TARGET]);
    let dir = store();
    let data = dir.path().join("data");
    add_calls(&data);
    let log = data.join("analytics_events.ndjson");
    let mut bytes = std::fs::read(&log).unwrap();
    bytes.extend_from_slice(format!("{{\"ts\":\"2026-01-01\",\"user_id\":\"{TARGET}").as_bytes());
    std::fs::write(&log, bytes).unwrap();
    // An export in the data folder follows the erasure, one elsewhere does not.
    run_json(
        &data,
        &["export", "--to", data.join("out/lake").to_str().unwrap()],
    );
    let server = Server::start(&data);
    server.ask(
        "/api/analytics/cohorts",
        &json!({"name":"some","users":[TARGET, "ann"]}),
    );
    assert!(!files_with(&data, TARGET).is_empty());
    let (before, _) = columns(&data);
    assert!(!before.is_empty());
    let (status, receipt) = server.delete(&format!("/api/analytics/users/{TARGET}"));
    assert_eq!(status, 200, "{receipt}");
    for (field, value) in [
        ("users", 1),
        ("users_found", 1),
        ("events", 31),
        ("days", 5),
        ("identity_calls", 2),
        ("states", 5),
        ("dictionary", 1),
        ("quarantined", 1),
        ("cohorts", 1),
        ("exports", 1),
    ] {
        assert_eq!(receipt[field], value, "{field} of {receipt}");
    }
    assert_eq!(files_with(&data, TARGET), Vec::<PathBuf>::new());
    // They contain the user's id as a number, and are removed with the segments of the user.
    assert!(before.iter().all(|file| !file.exists()));
    assert_eq!(columns(&data).1, Vec::<PathBuf>::new());
    // Late and repeated events are reported as ignored, and not stored.
    let again = history(3)
        .into_iter()
        .filter(|event| event["user_id"] == TARGET);
    let (status, answer) = server.post(&batch(again.clone()));
    assert_eq!(
        (status, &answer["logged"], &answer["ignored"]),
        (200, &json!(0), &json!(10)),
        "{answer}"
    );
    assert_eq!(files_with(&data, TARGET), Vec::<PathBuf>::new());
    server.stop();
    assert_eq!(counted(&data), expected);
    assert_eq!(run_json(&data, &["verify"])["damage"], json!([]));
    assert_eq!(run_json(&data, &["rebuild"])["changed"], 0);
    assert!(access(&data, TARGET).is_empty());
    assert_eq!(access(&data, "ann").len(), 30);
    // After a restart too, and by import. Events of other users are accepted, with other ids.
    let server = Server::start(&data);
    let (_, answer) = server.post(&batch(
        again
            .clone()
            .chain([json!({"event_type":"action","user_id":"eve"})]),
    ));
    assert_eq!(
        (&answer["logged"], &answer["ignored"]),
        (&json!(1), &json!(10)),
        "{answer}"
    );
    server.stop();
    let file = dir.path().join("again");
    let lines: Vec<String> = again.map(|event| event.to_string()).collect();
    std::fs::write(&file, lines.join("\n")).unwrap();
    let imported = run_json(&data, &["import", file.to_str().unwrap()]);
    assert_eq!(imported["accepted"], 0, "{imported}");
    assert_eq!(files_with(&data, TARGET), Vec::<PathBuf>::new());
    assert_eq!(access(&data, "eve").len(), 1);
    assert_eq!(run_json(&data, &["rebuild"])["changed"], 0);
}

#[test]
fn an_event_after_an_erasure_is_a_new_users() {
    let dir = store();
    let data = dir.path().join("data");
    let others = counted_without(&[TARGET]);
    let mut server = Server::start(&data);
    let path = format!("/api/analytics/users/{TARGET}");
    assert_eq!(server.delete(&path).0, 200);
    let old = json!({"event_type":"action","user_id":TARGET,"feature":"old","ts":Utc::now() - Days::new(1)});
    let new = json!({"event_type":"action","user_id":TARGET,"feature":"new"});
    for (start, events) in [("first", 1), ("second", 3)] {
        let (_, answer) = server.post(&batch([old.clone(), new.clone()]));
        assert_eq!(
            (&answer["logged"], &answer["ignored"]),
            (&json!(1), &json!(1)),
            "{start}: {answer}"
        );
        let used = &server.usage("?days=2")["feature_usage"];
        assert_eq!((&used["new"], &used["old"]), (&json!(events), &Value::Null));
        server.stop();
        let file = dir.path().join("again");
        std::fs::write(&file, format!("{old}\n{new}")).unwrap();
        let imported = run_json(&data, &["import", file.to_str().unwrap()]);
        assert_eq!(imported["accepted"], 1, "{imported}");
        server = Server::start(&data);
    }
    server.stop();
    assert_eq!(access(&data, TARGET).len(), 4);
    assert_eq!(run_json(&data, &["verify"])["damage"], json!([]));
    assert_eq!(run_json(&data, &["rebuild"])["changed"], 0);
    // Erased again, nothing is left, and the counts are those of the others.
    let server = Server::start(&data);
    let (status, receipt) = server.delete(&path);
    assert_eq!((status, &receipt["events"]), (200, &json!(4)), "{receipt}");
    let (_, answer) = server.post(&batch([old]));
    assert_eq!(answer["ignored"], 1);
    server.stop();
    assert_eq!(files_with(&data, TARGET), Vec::<PathBuf>::new());
    assert_eq!(counted(&data), others);
}

#[test]
fn many_users_from_a_file_are_erased_at_once_and_an_empty_day_goes() {
    let dir = store();
    let data = dir.path().join("data");
    let file = dir.path().join("ids");
    std::fs::write(&file, format!("{TARGET}\nann\nbob \"quoted\"\nunknown\n")).unwrap();
    let receipt = run_json(&data, &["user", "erase", "--file", file.to_str().unwrap()]);
    assert_eq!(
        (
            &receipt["users"],
            &receipt["users_found"],
            &receipt["events"]
        ),
        (&json!(4), &json!(3), &json!(90))
    );
    for id in [TARGET, "bob "] {
        assert_eq!(files_with(&data, id), Vec::<PathBuf>::new(), "{id}");
    }
    let left = run_json(&data, &["usage", "--days", "7"]);
    assert_eq!(
        (&left["total_events"], &left["mau"]),
        (&json!(31), &json!(1))
    );
    // A store of one user is empty afterwards.
    let other = folder();
    std::fs::write(&file, history(0)[0].to_string()).unwrap();
    run_json(other.path(), &["import", file.to_str().unwrap()]);
    run_json(other.path(), &["user", "erase", TARGET]);
    assert_eq!(
        run_json(other.path(), &["usage", "--days", "7"])["total_events"],
        0
    );
    assert_eq!(
        std::fs::read_dir(other.path().join("events"))
            .unwrap()
            .count(),
        0
    );
    assert_eq!(run_json(other.path(), &["verify"])["damage"], json!([]));
    let output = run(other.path(), &["user", "erase", ""]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn user_key_file_stores_only_pseudonyms_and_users_are_found_by_their_id() {
    let dir = folder();
    let data = dir.path().join("data");
    let key = dir.path().join("key");
    std::fs::write(&key, "a key of more than sixteen bytes").unwrap();
    let with_key = |arguments: &[&str]| {
        let mut command = echopilot(&data);
        let command = command.env("ECHOPILOT_USER_KEY_FILE", &key).args(arguments);
        String::from_utf8(printed(command)).unwrap()
    };
    let file = dir.path().join("events");
    let lines: Vec<String> = history(0).iter().map(Value::to_string).collect();
    std::fs::write(&file, lines.join("\n")).unwrap();
    with_key(&["import", file.to_str().unwrap()]);
    let mut command = echopilot(&data);
    let server = Server::start_as({
        command.env("ECHOPILOT_USER_KEY_FILE", &key);
        command
    });
    server.post(&batch(history(1)));
    server.kill();
    assert_eq!(files_with(&data, TARGET), Vec::<PathBuf>::new());
    let events = with_key(&["user", "access", TARGET]);
    assert_eq!(events.lines().count(), 20);
    assert!(
        !events.contains(TARGET) && events.contains("\"hmac-"),
        "{events}"
    );
    // An export can be imported, and is of the same user.
    let usage: Value = serde_json::from_str(&with_key(&["usage", "--days", "7"])).unwrap();
    assert_eq!(usage["mau"], 3);
    std::fs::write(
        &file,
        events.replace("\"event_id\":\"", "\"event_id\":\"again-"),
    )
    .unwrap();
    with_key(&["import", file.to_str().unwrap()]);
    let usage: Value = serde_json::from_str(&with_key(&["usage", "--days", "7"])).unwrap();
    assert_eq!(
        (&usage["mau"], &usage["total_events"]),
        (&json!(3), &json!(100))
    );
    let receipt: Value = serde_json::from_str(&with_key(&["user", "erase", TARGET])).unwrap();
    assert_eq!(
        (&receipt["users"], &receipt["events"]),
        (&json!(1), &json!(40)),
        "{receipt}"
    );
    assert!(with_key(&["user", "access", TARGET]).is_empty());
    let imported: Value =
        serde_json::from_str(&with_key(&["import", file.to_str().unwrap()])).unwrap();
    assert_eq!(imported["accepted"], 0);
    // A key in the data folder would protect nothing.
    std::fs::copy(&key, data.join("key")).unwrap();
    let output = echopilot(&data)
        .env("ECHOPILOT_USER_KEY_FILE", data.join("key"))
        .arg("usage")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn erasure_killed_at_any_call_continues_and_ends() {
    let origin = store();
    add_calls(&origin.path().join("data"));
    let with = counted(
        &copy(&origin.path().join("data"))
            .path()
            .to_owned()
            .join("."),
    );
    let without = counted_without(&[TARGET, LATE]);
    let without_ann = counted_without(&[TARGET, LATE, "ann"]);
    let calls = {
        let dir = copy(&origin.path().join("data"));
        let trace = origin.path().join("trace");
        let mut command = echopilot(dir.path());
        with_trace(&mut command, dir.path(), &trace);
        printed(command.args(["user", "erase", TARGET, LATE]));
        std::fs::read_to_string(trace).unwrap().lines().count()
    };
    for kind in ["kill", "torn", "eio"] {
        let mut points = 0;
        // Every call if the process is killed; some calls for the other kinds, which run the same
        // code. A single failed call may be repeated, or may only concern the clean-up.
        let step = if kind == "kill" { 1 } else { 5 };
        for at in (1..=calls + 1).step_by(step) {
            let dir = copy(&origin.path().join("data"));
            let mut command = echopilot(dir.path());
            with_fault(&mut command, dir.path(), kind, at);
            let done = command
                .args(["user", "erase", TARGET, LATE])
                .output()
                .unwrap()
                .status
                .success();
            // Before it continues, all queries include the user, or none does.
            if points % 10 == 0 {
                assert_eq!(
                    run_json(dir.path(), &["verify"])["damage"],
                    json!([]),
                    "{kind} at {at}"
                );
                let found = counted(dir.path());
                assert!(
                    found == with || found == without,
                    "{kind} at {at}: {found:?}"
                );
            }
            // An erasure that was begun continues with the next one; otherwise it must be requested
            // again.
            let list =
                std::fs::read_to_string(dir.path().join("erasures.json")).unwrap_or_default();
            let next: &[&str] = match list.contains(TARGET) {
                true => &["user", "erase", "ann"],
                false => &["user", "erase", TARGET, LATE, "ann"],
            };
            run_json(dir.path(), next);
            if done || points % 10 == 0 {
                assert!(counted(dir.path()) == without_ann, "{kind} at {at}, again");
                assert_eq!(
                    files_with(dir.path(), TARGET),
                    Vec::<PathBuf>::new(),
                    "{kind} at {at}"
                );
                assert_eq!(
                    columns(dir.path()).1,
                    Vec::<PathBuf>::new(),
                    "{kind} at {at}"
                );
                assert_eq!(
                    run_json(dir.path(), &["rebuild"])["changed"],
                    0,
                    "{kind} at {at}"
                );
            }
            points += 1;
        }
        assert!(
            points * step >= 20,
            "{kind}: only {points} points were tried"
        );
    }
}
