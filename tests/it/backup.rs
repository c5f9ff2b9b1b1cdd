//! Backup and restore: of a store that changes meanwhile, killed and on a full disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, RwLock};

use chrono::{TimeDelta, Utc};
use echopilot_analytics::checksum;
use echopilot_analytics::engine::{Cancel, Engine};
use echopilot_analytics::export::events::EventFormat;
use echopilot_analytics::metrics::query::Query;
use echopilot_analytics::store::CompactionScope;
use echopilot_analytics::window::WindowRequest;
use serde_json::{Value, json};

use crate::faults::{CutDisk, copy, with_fault};
use crate::harness::{
    Server, batch, echopilot, engine, event, folder, ingest, log_path, run, run_json, unsealed_demo,
};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn back_up(data: &Path, to: &Path) -> Value {
    run_json(data, &["backup", "--to", text(to)])
}

fn restore(from: &Path, data: &Path) -> Value {
    run_json(data, &["restore", text(from)])
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A user who is erased; no other string contains the id.
const ERASED: &str = "zora-7788";

/// The users of all events, with the number of their events.
fn users_in(engine: &Engine) -> BTreeMap<String, usize> {
    let request = WindowRequest {
        days: Some(9),
        ..WindowRequest::default()
    };
    let mut lines = Vec::new();
    let now = Utc::now();
    let query = Query::of_events(request, serde_json::Map::new()).unwrap();
    let done = engine.export_events(
        &query,
        EventFormat::Ndjson,
        now,
        &Cancel::default(),
        |part| {
            lines.extend(part);
            Ok(())
        },
    );
    done.unwrap();
    let mut users = BTreeMap::new();
    for line in lines
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        let event: Value = serde_json::from_slice(line).unwrap();
        let user = event["user_id"].as_str().unwrap();
        *users.entry(user.to_owned()).or_default() += 1;
    }
    users
}

/// All files below a folder with their contents.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(tree(&path)),
            false => drop(found.insert(path.clone(), fs::read(path).unwrap())),
        }
    }
    found
}

/// Numbers of a data folder, from states and from events.
fn numbers(data: &Path) -> Value {
    let usage = |tz: &str| {
        let mut usage = run_json(data, &["usage", "--days", "9", "--tz", tz]);
        for changing in ["ts", "window"] {
            usage.as_object_mut().unwrap().remove(changing);
        }
        usage
    };
    json!([
        usage("UTC"),
        usage("Africa/Abidjan"),
        fs::read_to_string(data.join("analytics.ndjson")).unwrap_or_default(),
        run_json(data, &["cohort", "list"])
    ])
}

/// A data folder with all kinds of files: sealed days, a rollup, a cohort, an erased user, and
/// events in the log.
fn all_kinds() -> tempfile::TempDir {
    let dir = folder();
    let data = dir.path().join("data");
    unsealed_demo(&data, 300, 3, 1);
    run_json(&data, &["seal"]);
    run_json(&data, &["rollup"]);
    run_json(
        &data,
        &["cohort", "set", r#"{"name":"testers","users":["u1"]}"#],
    );
    let users = fs::read_to_string(data.join("users.ndjson")).unwrap();
    let user: String = serde_json::from_str(users.lines().next().unwrap()).unwrap();
    run_json(&data, &["user", "erase", &user]);
    let more = folder();
    unsealed_demo(more.path(), 200, 3, 2);
    fs::copy(log_path(more.path()), log_path(&data)).unwrap();
    dir
}

#[test]
fn a_restored_backup_is_the_store_and_the_next_backup_adds_only_what_is_new() {
    let dir = all_kinds();
    let [data, to, restored] = ["data", "backups", "restored"].map(|name| dir.path().join(name));
    let before = tree(&data);
    let first = back_up(&data, &to);
    assert_eq!(tree(&data), before, "a backup changes nothing");
    assert_eq!(
        (&first["ok"], &first["damaged"]),
        (&json!(true), &json!([]))
    );
    assert_eq!(first["new_files"], first["files"]);
    assert!(first["linked_files"].as_u64() >= Some(6), "{first}");
    restore(&to, &restored);
    assert_eq!(run_json(&restored, &["verify"])["damage"], json!([]));
    // The files are the same, but for those that follow from others and their names.
    let copied = tree(&restored);
    for (path, content) in &before {
        let name = path.strip_prefix(&data).unwrap();
        let left_out = [
            "columns",
            "ids",
            "holder",
            "manifest.json",
            "links/links.parquet",
        ];
        if left_out.iter().any(|left| name.starts_with(left)) {
            continue;
        }
        assert_eq!(copied.get(&restored.join(name)), Some(content), "{name:?}");
    }
    let is_left_out = |path: &PathBuf| {
        let left_out = ["columns", "ids", "holder", "links/links.parquet"];
        let name = path.strip_prefix(&data).unwrap();
        left_out.iter().any(|left| name.starts_with(left))
    };
    let expected = before.keys().filter(|path| !is_left_out(path));
    assert_eq!(copied.len(), expected.count());
    assert_eq!(run_json(&restored, &["seal"])["events"], 200);
    assert_eq!(run_json(&restored, &["verify"])["damage"], json!([]));
    run_json(&data, &["seal"]);
    assert_eq!(numbers(&restored), numbers(&data));
    // Every file is for its owner only.
    for path in tree(&to).keys().chain(tree(&restored).keys()) {
        assert_eq!(path.metadata().unwrap().mode() & 0o077, 0, "{path:?}");
    }

    let second = back_up(&data, &to);
    assert!(
        second["new_files"].as_u64() < first["new_files"].as_u64(),
        "{second}"
    );
    let third = back_up(&data, &to);
    assert_eq!(
        (&third["new_files"], &third["removed_files"]),
        (&json!(0), &json!(0))
    );
    let listed = run_json(&data, &["restore", text(&to), "--list"]);
    assert_eq!(listed.as_array().unwrap().len(), 3);
    // The first one, by its time.
    let earlier = dir.path().join("earlier");
    let at = first["taken_at"].as_str().unwrap();
    let found = run_json(&earlier, &["restore", text(&to), "--at", at]);
    assert_eq!(found["backup"], first["backup"]);
    assert_eq!(tree(&earlier).len(), copied.len());

    let kept = run_json(&data, &["backup", "--to", text(&to), "--keep", "1"]);
    assert_eq!(kept["removed_backups"], 3);
    assert!(kept["removed_files"].as_u64() > Some(0), "{kept}");
    let checked = run_json(&data, &["restore", text(&to), "--check"]);
    assert_eq!(checked["backup"], kept["backup"]);
    let pool = tree(&to.join("files")).len() as u64;
    assert_eq!(Some(pool), kept["files"].as_u64());
}

#[test]
fn a_backup_of_a_running_server_has_every_acknowledged_event_and_an_erasure_reaches_it() {
    let dir = folder();
    let [data, to] = ["data", "backups"].map(|name| dir.path().join(name));
    let server = Server::start(&data);
    for user in ["ann", "bob", ERASED] {
        assert_eq!(server.post(&batch([event("action", user, "f")])).0, 200);
    }
    let cohort = json!({"name":"testers","users":[ERASED,"bob"]});
    assert_eq!(server.ask("/api/analytics/cohorts", &cohort).0, 200);
    let first = back_up(&data, &to);
    let before = Utc::now();
    assert_eq!(server.delete("/api/analytics/users/zora-7788").0, 200);
    assert_eq!(server.post(&batch([event("action", "dan", "f")])).0, 200);
    let second = back_up(&data, &to);
    server.kill();
    let restored = |name: &str, more: &[&str]| {
        let data = dir.path().join(name);
        let restored = run_json(&data, &[&["restore", text(&to)], more].concat());
        let users: Vec<String> = users_in(&engine(&data, Utc::now())).into_keys().collect();
        (restored, users, data)
    };
    let (newest, users, _) = restored("newest", &[]);
    assert_eq!(
        (&newest["backup"], &newest["erased_users"]),
        (&second["backup"], &json!(0))
    );
    assert_eq!(users, ["ann", "bob", "dan"]);
    // The older backup has the user, whom the newest one knows to be erased.
    let at = first["taken_at"].as_str().unwrap();
    let (older, users, data_of_older) = restored("older", &["--at", at]);
    assert_eq!(
        (&older["backup"], &older["erased_users"]),
        (&first["backup"], &json!(1))
    );
    assert_eq!(users, ["ann", "bob"]);
    for (path, content) in tree(&data_of_older) {
        let found = memchr::memmem::find(&content, ERASED.as_bytes());
        assert_eq!(found, None, "{path:?}");
    }
    let server = Server::start(&data_of_older);
    let late = json!({"event_type":"action","user_id":ERASED,"ts":before});
    let ignored = server.post(&batch([late])).1;
    assert_eq!(ignored["logged"], 0, "{ignored}");
    drop(server);
    // Without a newer backup, the list of the data folder tells it.
    fs::remove_file(to.join(second["backup"].as_str().unwrap())).unwrap();
    assert_eq!(restored("unaware", &[]).1, ["ann", "bob", ERASED]);
    let list = data.join("erasures.json");
    let (aware, users, _) = restored("aware", &["--erasures", text(&list)]);
    assert_eq!(
        (aware["erased_users"].as_u64(), users),
        (Some(1), vec!["ann".into(), "bob".into()])
    );
}

#[test]
fn erasures_of_another_list_are_repeated_as_far_as_their_users_are_known() {
    let dir = folder();
    let [data, to, other] = ["data", "backups", "other"].map(|name| dir.path().join(name));
    for (place, users) in [
        (&data, ["ann", "bob", ERASED]),
        (&other, ["ann", "dan", "eve"]),
    ] {
        let engine = engine(place, Utc::now());
        let events = users.map(|user| event("action", user, "f"));
        assert_eq!(ingest(&engine, &events, Utc::now()).logged, 3);
    }
    let before = Utc::now();
    // Each store has a key of its own for its erasures.
    run_json(&data, &["user", "erase", ERASED]);
    run_json(&other, &["user", "erase", "ann", "dan"]);
    back_up(&data, &to);
    let restored = dir.path().join("restored");
    let list = other.join("erasures.json");
    let found = run_json(
        &restored,
        &["restore", text(&to), "--erasures", text(&list)],
    );
    let counts = (&found["erased_users"], &found["unknown_erasures"]);
    assert_eq!(counts, (&json!(1), &json!(1)), "{found}");
    let engine = engine(&restored, Utc::now());
    let users: Vec<String> = users_in(&engine).into_keys().collect();
    assert_eq!(users, ["bob"]);
    for user in ["ann", ERASED] {
        let late = json!({"event_type":"action","user_id":user,"ts":before});
        assert_eq!(ingest(&engine, &[late], Utc::now()).logged, 0, "{user}");
    }
    drop(engine);
    // A list that is damaged.
    fs::write(&list, "{\"checked\":{},\"crc32c\":\"00000000\"}\n").unwrap();
    let again = dir.path().join("again");
    let output = run(&again, &["restore", text(&to), "--erasures", text(&list)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("list of erasures"),
        "{}",
        said(&output)
    );
    assert!(!again.exists());
}

#[test]
fn a_restored_store_knows_the_event_ids_of_sealed_events() {
    let dir = folder();
    let [data, to, restored] = ["data", "backups", "restored"].map(|name| dir.path().join(name));
    let sent = batch([json!({"event_type":"action","user_id":"ann","event_id":"1"})]);
    let server = Server::start(&data);
    assert_eq!(server.post(&sent).1["logged"], 1);
    // It seals at its end.
    server.stop();
    back_up(&data, &to);
    restore(&to, &restored);
    let server = Server::start(&restored);
    assert_eq!(server.post(&sent).1["duplicates"], 1);
    assert_eq!(server.usage("")["total_events"], 1);
}

/// Rounds of a backup during other work, and of its restore.
const ROUNDS: usize = 4;

/// A store that ingests events, each of another user, and seals, compacts and erases.
struct Busy {
    engine: Engine,
    is_over: AtomicBool,
    /// Locked to write while the work pauses.
    gate: RwLock<()>,
    /// Users whose events were acknowledged and not erased.
    acknowledged: Mutex<BTreeSet<String>>,
    /// Users whose erasure was begun.
    erased: Mutex<BTreeSet<String>>,
}

impl Busy {
    /// Repeats work until it is over.
    fn repeat(&self, mut work: impl FnMut(u64)) {
        for number in 0.. {
            if self.is_over.load(Ordering::Relaxed) {
                return;
            }
            let _open = self.gate.read().unwrap();
            work(number);
        }
    }

    fn ingest(&self, number: u64) {
        let users: Vec<String> = (0..20)
            .map(|place| format!("user-{number}-{place}"))
            .collect();
        let ts = (Utc::now() - TimeDelta::days((number % 3) as i64)).to_rfc3339();
        let events: Vec<Value> = users
            .iter()
            .map(|user| {
                json!({"event_type":"action","user_id":user,"event_id":user,"feature":"f","ts":ts})
            })
            .collect();
        assert_eq!(ingest(&self.engine, &events, Utc::now()).logged, 20);
        self.acknowledged.lock().unwrap().extend(users);
    }

    fn seal_and_compact(&self) {
        self.engine.store().seal().unwrap();
        // A day that got no event for an hour is compacted completely.
        let later = Utc::now() + TimeDelta::hours(2);
        self.engine.compact(later, CompactionScope::Full).unwrap();
    }

    fn erase_one(&self) {
        let one = self.acknowledged.lock().unwrap().iter().next().cloned();
        let Some(user) = one else {
            return;
        };
        self.erased.lock().unwrap().insert(user.clone());
        let users = std::slice::from_ref(&user);
        self.engine.erase(users, None, Utc::now()).unwrap();
        self.acknowledged.lock().unwrap().remove(&user);
    }
}

/// Ends the work when it is dropped, also by a failed assertion.
struct Ends<'a>(&'a Busy);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

#[test]
fn backups_during_ingest_seals_compactions_and_erasures_have_each_acknowledged_event_once() {
    let dir = folder();
    let [data, to] = ["data", "backups"].map(|name| dir.path().join(name));
    let busy = Busy {
        engine: engine(&data, Utc::now()),
        is_over: AtomicBool::new(false),
        gate: RwLock::default(),
        acknowledged: Mutex::default(),
        erased: Mutex::default(),
    };
    std::thread::scope(|scope| {
        let _ends = Ends(&busy);
        let busy = &busy;
        scope.spawn(|| busy.repeat(|number| busy.ingest(number)));
        scope.spawn(|| busy.repeat(|_| busy.seal_and_compact()));
        scope.spawn(|| busy.repeat(|_| busy.erase_one()));
        for round in 0..ROUNDS {
            while busy.acknowledged.lock().unwrap().len() < 100 * (round + 1) {
                std::thread::yield_now();
            }
            // In this order: who is in the first list and not in the second is erased completely.
            let erased_before = busy.erased.lock().unwrap().clone();
            let before = busy.acknowledged.lock().unwrap().clone();
            // A killed backup costs nothing.
            let mut killed = echopilot(&data);
            with_fault(&mut killed, &to, "kill", 5 + 15 * round);
            killed.args(["backup", "--to", text(&to)]).output().unwrap();
            let backed_up = back_up(&data, &to);
            let _closed = busy.gate.write().unwrap();
            assert_eq!(backed_up["damaged"], json!([]), "{round}");
            let erased_after = busy.erased.lock().unwrap().clone();
            let restored = dir.path().join(format!("restored-{round}"));
            restore(&to, &restored);
            let found = {
                let engine = engine(&restored, Utc::now());
                engine.finish_erasures(Utc::now()).unwrap();
                users_in(&engine)
            };
            for (user, events) in &found {
                assert_eq!(*events, 1, "{round}: {user}");
                let is_back = erased_before.contains(user) && !before.contains(user);
                assert!(!is_back, "{round}: {user} was erased");
            }
            let lost = before
                .difference(&erased_after)
                .find(|user| !found.contains_key(*user));
            assert_eq!(lost, None, "{round}");
            assert_eq!(run_json(&restored, &["rebuild"])["changed"], 0, "{round}");
            let damage = run_json(&restored, &["verify"])["damage"].clone();
            assert_eq!(damage, json!([]), "{round}");
            fs::remove_dir_all(&restored).unwrap();
        }
    });
}

/// A command whose `at`-th change of a file below a folder fails.
fn faulty(data: &Path, arguments: &[&str], below: &Path, kind: &str, at: usize) -> Command {
    let mut command = echopilot(data);
    command.args(arguments);
    with_fault(&mut command, below, kind, at);
    command
}

#[test]
fn a_backup_killed_or_without_space_at_any_call_leaves_the_earlier_ones_and_the_next_succeeds() {
    let origin = all_kinds();
    let first = {
        let [data, to] = ["data", "backups"].map(|name| origin.path().join(name));
        let first = back_up(&data, &to);
        run_json(&data, &["seal"]);
        first
    };
    for (kind, step) in [("kill", 1), ("torn", 2), ("enospc", 2)] {
        let mut points = 0;
        for at in (1..).step_by(step) {
            let dir = copy(origin.path());
            let [data, to] = ["data", "backups"].map(|name| dir.path().join(name));
            let check = |at: &[&str]| {
                let check = [&["restore", text(&to), "--check"], at].concat();
                run_json(&data, &check)["backup"].clone()
            };
            let keep = ["backup", "--to", text(&to), "--keep", "2"];
            let output = faulty(&data, &keep, &to, kind, at).output().unwrap();
            let done = output.status.success();
            if kind == "enospc" && !done {
                let message = said(&output);
                let expected = "no space left on the device";
                assert!(message.contains(expected), "at {at}: {message}");
            }
            // The newest is the first one or this one; both are complete.
            assert!(!done || check(&[]) != first["backup"], "{kind} at {at}");
            let earlier = check(&["--at", first["taken_at"].as_str().unwrap()]);
            assert_eq!(earlier, first["backup"], "{kind} at {at}");
            let next = run_json(&data, &["backup", "--to", text(&to), "--keep", "1"]);
            assert_eq!(check(&[]), next["backup"], "{kind} at {at}");
            let pool = tree(&to.join("files")).len() as u64;
            assert_eq!(next["files"].as_u64(), Some(pool), "{kind} at {at}: {next}");
            assert!(!to.join(".echopilot-tmp").exists(), "{kind} at {at}");
            if done {
                break;
            }
            points += 1;
        }
        assert!(points >= 5, "{kind}: only {points} points were tried");
    }
}

#[test]
fn a_restore_killed_or_without_space_at_any_call_leaves_nothing_that_opens_and_can_be_repeated() {
    let dir = all_kinds();
    let [data, to] = ["data", "backups"].map(|name| dir.path().join(name));
    back_up(&data, &to);
    let expected = numbers(&data);
    for (kind, step) in [("kill", 1), ("torn", 5), ("enospc", 5)] {
        let mut points = 0;
        for at in (1..).step_by(step) {
            let other = folder();
            let restored = other.path().join("restored");
            let arguments = ["restore", text(&to)];
            let output = faulty(&restored, &arguments, other.path(), kind, at)
                .output()
                .unwrap();
            if output.status.success() {
                assert_eq!(numbers(&restored), expected);
                break;
            }
            let left = tree(&restored);
            let is_marked = left.contains_key(&restored.join(".echopilot-restoring"));
            if kind == "enospc" {
                let message = said(&output);
                assert!(message.contains("no space left on the device"), "{message}");
                assert!(!restored.exists(), "at {at}: {left:?}");
            }
            if is_marked {
                for command in ["usage", "seal", "verify"] {
                    let refused = run(&restored, &[command]);
                    assert!(!refused.status.success());
                    assert!(
                        said(&refused).contains("a restore into"),
                        "{}",
                        said(&refused)
                    );
                }
                assert_eq!(tree(&restored), left, "{kind} at {at}");
            }
            // Otherwise it was killed before the first file or after the last one.
            if is_marked || left.is_empty() {
                restore(&to, &restored);
            }
            if points % 8 == 0 || !is_marked {
                assert_eq!(numbers(&restored), expected, "{kind} at {at}");
            }
            points += 1;
        }
        assert!(points >= 5, "{kind}: only {points} points were tried");
    }
}

/// Writes a small file of a backup with another content and a right checksum.
fn rewrite(path: &Path, change: impl FnOnce(&mut Value)) {
    let content = fs::read(path).unwrap();
    let mut value: Value = serde_json::from_slice(checksum::unwrap(&content).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, checksum::wrap(value.to_string().as_bytes())).unwrap();
}

#[test]
fn a_damaged_incomplete_or_newer_backup_is_named_and_nothing_is_changed() {
    let origin = all_kinds();
    let backed_up = back_up(&origin.path().join("data"), &origin.path().join("backups"));
    let list = backed_up["backup"].as_str().unwrap();
    let segment = |to: &Path| {
        let pool = tree(&to.join("files/events")).into_keys();
        pool.last().unwrap()
    };
    type Damage<'a> = Box<dyn Fn(&Path) + 'a>;
    let cases: Vec<(Damage<'_>, &str)> = vec![
        (
            Box::new(|to| fs::remove_file(segment(to)).unwrap()),
            "it is missing",
        ),
        (
            Box::new(|to| fs::write(segment(to), "short").unwrap()),
            "it has 5 bytes",
        ),
        (
            Box::new(|to| {
                let path = segment(to);
                let mut content = fs::read(&path).unwrap();
                content[40] ^= 1;
                fs::remove_file(&path).unwrap();
                fs::write(&path, content).unwrap();
            }),
            "with the checksum",
        ),
        (
            Box::new(|to| fs::write(to.join(list), "{}").unwrap()),
            "use another backup (--at)",
        ),
        (
            Box::new(|to| rewrite(&to.join(list), |list| list["format"] = json!(2))),
            "use a newer program",
        ),
        (
            Box::new(|to| {
                rewrite(&to.join("echopilot-backups.json"), |mark| {
                    mark["format"] = json!(2)
                })
            }),
            "use a newer program",
        ),
        (
            Box::new(|to| {
                rewrite(&to.join(list), |list| {
                    let files = list["files"].as_array_mut().unwrap();
                    files.retain(|file| !file["path"].as_str().unwrap().starts_with("states/"));
                });
            }),
            "it lacks",
        ),
        (
            Box::new(|to| {
                rewrite(&to.join(list), |list| {
                    let file = list["files"][0].clone();
                    let outside = format!("../{}", file["path"].as_str().unwrap());
                    let from = to.join(format!(
                        "files/{}.{}-{:08x}",
                        file["path"].as_str().unwrap(),
                        file["bytes"],
                        file["crc32c"].as_u64().unwrap()
                    ));
                    let name = from.file_name().unwrap().to_owned();
                    fs::copy(&from, to.join(name)).unwrap();
                    list["files"][0]["path"] = json!(outside);
                });
            }),
            "missing",
        ),
        (
            Box::new(|to| fs::remove_file(to.join(list)).unwrap()),
            "there is no backup in",
        ),
    ];
    for (damage, expected) in cases {
        let dir = copy(origin.path());
        let to = dir.path().join("backups");
        damage(&to);
        for place in ["new", "empty"] {
            let data = dir.path().join(place);
            if place == "empty" {
                fs::create_dir(&data).unwrap();
            }
            let output = run(&data, &["restore", text(&to)]);
            assert!(!output.status.success(), "{expected}");
            assert!(
                said(&output).contains(expected),
                "{expected}: {}",
                said(&output)
            );
            assert_eq!(data.exists(), place == "empty", "{expected}");
            assert!(tree(&data).is_empty(), "{expected}");
        }
    }
}

#[test]
fn places_with_other_files_are_rejected_and_left_unchanged() {
    let dir = all_kinds();
    let [data, to, other] = ["data", "backups", "other"].map(|name| dir.path().join(name));
    back_up(&data, &to);
    let refused = |data: &Path, arguments: &[&str], expected: &str| {
        let before = tree(dir.path());
        let output = run(data, arguments);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(
            said(&output).contains(expected),
            "{expected}: {}",
            said(&output)
        );
        assert_eq!(tree(dir.path()), before, "{expected}");
    };
    fs::create_dir(&other).unwrap();
    fs::write(other.join("notes.txt"), "mine").unwrap();
    refused(&data, &["backup", "--to", text(&other)], "it has notes.txt");
    refused(&other, &["restore", text(&to)], "it has notes.txt");
    refused(&data, &["restore", text(&to)], "is not empty");
    refused(&data, &["restore", text(&other)], "there is no backup in");
    refused(
        &data,
        &["restore", text(&dir.path().join("missing"))],
        "there is no backup in",
    );
    refused(
        &data,
        &["restore", text(&to), "--at", "2020-01-01"],
        "there is no backup in",
    );
    refused(
        &data,
        &["restore", text(&to), "--at", "soon"],
        "allowed are times",
    );
    refused(
        &data,
        &["backup", "--to", text(&data.join("backups"))],
        "in each other",
    );
    refused(
        &data,
        &["backup", "--to", text(dir.path())],
        "in each other",
    );
    refused(&other, &["backup", "--to", text(&to)], "is not");
    refused(
        &dir.path().join("missing"),
        &["backup", "--to", text(&to)],
        "is not a data folder",
    );
    refused(
        &data,
        &["backup", "--to", "ftp://host/x"],
        "allowed are s3://",
    );
    // Another store.
    let second = dir.path().join("second");
    unsealed_demo(&second, 100, 2, 1);
    refused(
        &second,
        &["backup", "--to", text(&to)],
        "backups of another store",
    );
}

#[test]
fn a_damaged_file_is_reported_and_the_rest_is_backed_up() {
    let dir = all_kinds();
    let [data, to, restored] = ["data", "backups", "restored"].map(|name| dir.path().join(name));
    let segment = tree(&data.join("events")).into_keys().last().unwrap();
    fs::remove_file(&segment).unwrap();
    let output = run(&data, &["backup", "--to", text(&to)]);
    assert_eq!(output.status.code(), Some(1));
    let backed_up: Value = serde_json::from_slice(&output.stdout).unwrap();
    let damaged = backed_up["damaged"].to_string();
    assert!(
        damaged.contains(segment.file_name().unwrap().to_str().unwrap()),
        "{damaged}"
    );
    assert_eq!(restore(&to, &restored)["damaged"], backed_up["damaged"]);
    let found = run_json_of_failed(&restored, &["verify"]);
    let damage = found["damage"].as_array().unwrap().iter();
    let segments: Vec<&Value> = damage
        .filter(|found| found.to_string().contains("events/"))
        .collect();
    assert_eq!(segments.len(), 1, "{found}");
}

fn run_json_of_failed(data: &Path, arguments: &[&str]) -> Value {
    let output = run(data, arguments);
    assert!(!output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_power_cut_undoes_nothing_of_a_backup_or_restore_that_ended() {
    let origin = all_kinds();
    let dir = folder();
    let Some(mut disk) = CutDisk::mount(dir.path()) else {
        return;
    };
    let outside = origin.path().join("data");
    let [inside, copied, linked] = ["data", "copied", "linked"].map(|name| disk.mounted.join(name));
    let mut command = Command::new("cp");
    command.arg("-a").args([&outside, &inside]);
    assert!(command.status().unwrap().success());
    disk.sync();
    for (data, to) in [(&outside, &copied), (&inside, &linked)] {
        let backed_up = back_up(data, to);
        let has_links = backed_up["linked_files"].as_u64() > Some(0);
        assert_eq!(has_links, data == &inside, "{backed_up}");
        disk.cut();
        disk.mount_again();
        run_json(data, &["restore", text(to), "--check"]);
        let restored = to.join("../restored");
        restore(to, &restored);
        disk.cut();
        disk.mount_again();
        assert_eq!(run_json(&restored, &["verify"])["damage"], json!([]));
        assert_eq!(numbers(&restored), numbers(copy(&outside).path()));
        fs::remove_dir_all(&restored).unwrap();
    }
}

#[test]
fn a_backup_needs_few_file_descriptors() {
    let dir = all_kinds();
    let [data, to] = ["data", "backups"].map(|name| dir.path().join(name));
    let first = back_up(&data, &dir.path().join("other"));
    let plain = echopilot(&data);
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 64; exec \"$0\" \"$@\""])
        .arg(plain.get_program())
        .args(["backup", "--data-dir", text(&data), "--to", text(&to)])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    for name in ["files", "bytes", "linked_files", "damaged"] {
        assert_eq!(found[name], first[name], "{name}");
    }
    run_json(&data, &["restore", text(&to), "--check"]);
}

#[test]
fn a_folder_of_the_first_format_is_backed_up_and_restored() {
    let origin = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1");
    let dir = copy(&origin);
    let to = folder();
    let other = folder();
    let restored = other.path().join("restored");
    back_up(dir.path(), to.path());
    restore(to.path(), &restored);
    let usage = |data: &Path| {
        let window = ["usage", "--days", "30", "--end", "2026-11-21"];
        let mut usage = run_json(data, &window);
        usage.as_object_mut().unwrap().remove("ts");
        usage
    };
    let expected = usage(dir.path());
    assert_eq!(usage(&restored), expected);
    // The folder has a mark now, and its backups go on.
    back_up(dir.path(), to.path());
    let newest = other.path().join("newest");
    restore(to.path(), &newest);
    assert_eq!(usage(&newest), expected);
}
