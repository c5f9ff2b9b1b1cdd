//! Deduplication over seals, restarts and lost files: an event with the id of an earlier one is
//! stored once.

use std::fs;
use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use echopilot_analytics::engine::Engine;
use echopilot_analytics::store::{Clock, CompactionScope};
use serde_json::{Value, json};

use crate::harness::{Server, batch, engine, folder, ingest, run_json};

/// Events of one request.
const EVENTS: usize = 100;

/// Events with ids that begin with `name`.
fn events(name: &str) -> Vec<Value> {
    let event = |number| json!({"event_type":"action","user_id":format!("u{number}"),"event_id":format!("{name}-{number}")});
    (0..EVENTS).map(event).collect()
}

/// Sends the events. True if all are stored, false if all are duplicates.
fn is_new(engine: &Engine, name: &str, now: DateTime<Utc>) -> bool {
    let answer = ingest(engine, &events(name), now);
    match (answer.logged, answer.duplicates) {
        (EVENTS, 0) => true,
        (0, EVENTS) => false,
        other => panic!("{name}: {other:?}"),
    }
}

/// Ids of sealed events that the store knows.
fn known(engine: &Engine, now: DateTime<Utc>) -> u64 {
    engine.status(now).unwrap().store.event_ids
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir.join("ids")).unwrap();
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

/// A folder with two sealed requests, "first" and "second".
fn sealed(now: DateTime<Utc>) -> tempfile::TempDir {
    let dir = folder();
    let engine = engine(dir.path(), now);
    for name in ["first", "second"] {
        assert!(is_new(&engine, name, now));
        engine.store().seal().unwrap();
        assert!(!is_new(&engine, name, now), "{name}");
    }
    dir
}

#[test]
fn ids_of_sealed_events_are_known_after_a_restart_and_when_files_become_one() {
    let now = Utc::now();
    let dir = sealed(now);
    let engine = engine(dir.path(), now);
    assert_eq!(known(&engine, now), 2 * EVENTS as u64);
    for number in 0..20 {
        let name = format!("more {number}");
        assert!(is_new(&engine, &name, now));
        assert!(!is_new(&engine, &name, now));
        engine.store().seal().unwrap();
    }
    assert_eq!(known(&engine, now), 22 * EVENTS as u64);
    assert!(files(dir.path()).len() < 12, "they are joined by seals");
    let tomorrow = now + TimeDelta::days(1);
    engine.compact(tomorrow, CompactionScope::Full).unwrap();
    assert!(files(dir.path()).len() <= 2, "one for each day of receipt");
    assert_eq!(known(&engine, now), 22 * EVENTS as u64);
    for name in ["first", "second", "more 0", "more 19"] {
        assert!(!is_new(&engine, name, now), "{name}");
    }
    assert!(is_new(&engine, "new", now));
}

#[test]
fn ids_leave_memory_and_disk_after_seven_days() {
    let start = Utc::now() - TimeDelta::days(20);
    let dir = sealed(start);
    // Each day in a new process, because a clock that jumps is not trusted at once.
    let open = |now: DateTime<Utc>| {
        let engine = engine(dir.path(), now);
        engine.expire(now.date_naive(), Clock::Doubted).unwrap();
        engine
    };
    for days in 1..7 {
        let now = start + TimeDelta::days(days);
        let engine = open(now);
        assert!(is_new(&engine, &format!("day {days}"), now));
        engine.store().seal().unwrap();
        assert!(!is_new(&engine, "first", now), "after {days} days");
        let expected = (2 + days.unsigned_abs()) * EVENTS as u64;
        assert_eq!(known(&engine, now), expected);
    }
    let now = start + TimeDelta::days(7) + TimeDelta::minutes(1);
    let engine = open(now);
    assert!(is_new(&engine, "first", now));
    engine.store().seal().unwrap();
    assert_eq!(
        known(&engine, now),
        7 * EVENTS as u64,
        "without the first day"
    );
    drop(engine);
    // They also leave when none come in.
    let now = now + TimeDelta::days(1);
    let engine = open(now);
    assert!(is_new(&engine, "last", now));
    engine.compact(now, CompactionScope::Urgent).unwrap();
    assert_eq!(known(&engine, now), 6 * EVENTS as u64);
}

#[test]
fn missing_and_damaged_files_are_made_again_at_the_start() {
    let now = Utc::now();
    let dir = sealed(now);
    let change = |content: &dyn Fn(&mut Vec<u8>)| {
        for path in files(dir.path()) {
            let mut bytes = fs::read(&path).unwrap();
            content(&mut bytes);
            fs::write(&path, bytes).unwrap();
        }
    };
    let lost: [&dyn Fn(); 4] = [
        &|| fs::remove_dir_all(dir.path().join("ids")).unwrap(),
        &|| fs::remove_file(&files(dir.path())[0]).unwrap(),
        &|| change(&|bytes| *bytes.last_mut().unwrap() ^= 1),
        &|| change(&|bytes| bytes.truncate(bytes.len() / 2)),
    ];
    for (number, lose) in lost.into_iter().enumerate() {
        lose();
        let engine = engine(dir.path(), now);
        assert_eq!(known(&engine, now), 2 * EVENTS as u64, "{number}");
        for name in ["first", "second"] {
            assert!(!is_new(&engine, name, now), "{name}, {number}");
        }
    }
    assert_eq!(run_json(dir.path(), &["verify"])["damage"], json!([]));
}

#[test]
fn damaged_entries_are_found_and_made_again_while_the_store_is_open() {
    let now = Utc::now();
    let dir = sealed(now);
    for path in files(dir.path()) {
        let mut bytes = fs::read(&path).unwrap();
        bytes[0] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    let verified = run_json_of_damage(dir.path());
    assert!(verified.contains("/ids/"), "{verified}");
    let engine = engine(dir.path(), now);
    assert!(engine.store().scrub(u64::MAX).is_err());
    engine.compact(now, CompactionScope::Urgent).unwrap();
    for name in ["first", "second"] {
        assert!(!is_new(&engine, name, now), "{name}");
    }
    engine.store().scrub(u64::MAX).unwrap();
    drop(engine);
    assert_eq!(run_json(dir.path(), &["verify"])["damage"], json!([]));
}

/// The first damage that `verify` finds.
fn run_json_of_damage(dir: &Path) -> String {
    let verified = crate::harness::run(dir, &["verify"]);
    let verified: Value = serde_json::from_slice(&verified.stdout).unwrap();
    verified["damage"][0].to_string()
}

#[test]
fn a_store_of_an_earlier_version_gets_its_ids_from_the_segments_once() {
    let now = Utc::now();
    let dir = sealed(now);
    let path = dir.path().join("manifest.json");
    let manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let mut manifest = manifest;
    let manifest = manifest.as_object_mut().unwrap();
    manifest.remove("event_ids").unwrap();
    manifest.remove("crc32c").unwrap();
    let object = serde_json::to_vec(manifest).unwrap();
    let mut object = object[..object.len() - 1].to_vec();
    echopilot_analytics::checksum::close_object(&mut object, 0);
    object.push(b'\n');
    fs::write(&path, object).unwrap();
    let made = {
        let engine = engine(dir.path(), now);
        assert_eq!(known(&engine, now), 2 * EVENTS as u64);
        assert!(!is_new(&engine, "first", now) && !is_new(&engine, "second", now));
        files(dir.path())
    };
    let engine = engine(dir.path(), now);
    assert!(!is_new(&engine, "first", now));
    assert_eq!(files(dir.path()), made, "they are made once");
}

#[test]
fn a_killed_server_knows_the_ids_of_all_acknowledged_events() {
    let dir = folder();
    for round in 0..3 {
        let server = Server::start(dir.path());
        for before in 0..round {
            let answer = server.post(&batch(events(&format!("round {before}")))).1;
            assert_eq!(answer["duplicates"], EVENTS, "{before} in {round}");
        }
        let answer = server.post(&batch(events(&format!("round {round}")))).1;
        assert_eq!(answer["logged"], EVENTS);
        server.kill();
        if round == 1 {
            run_json(dir.path(), &["seal"]);
        }
    }
}
