//! The lake as other programs see it, while it is written.

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use chrono::{TimeDelta, Utc};
use echopilot_analytics::engine::Engine;
use echopilot_analytics::store::CompactionScope;
use serde_json::{Value, json};

use crate::harness::{engine, folder, ingest};
use crate::oracle::python_command;

/// Four engines that count the lake again and again.
struct Readers {
    child: Child,
    stop: Option<ChildStdin>,
    counts: Lines<BufReader<ChildStdout>>,
}

impl Readers {
    fn start(dir: &Path) -> Self {
        let mut child = python_command()
            .args(["tests/oracle/lake_readers.py"])
            .arg(dir.join("events"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            stop: child.stdin.take(),
            counts: BufReader::new(child.stdout.take().unwrap()).lines(),
            child,
        }
    }

    /// The next count, and how often its reader was told before that a file is gone.
    fn next(&mut self) -> Option<(u64, u64)> {
        let line: Value = serde_json::from_str(&self.counts.next()?.unwrap()).unwrap();
        assert_eq!(line["ids"], line["rows"], "{line}: an event is there twice");
        Some((line["rows"].as_u64()?, line["gone"].as_u64()?))
    }

    /// The counts of a last round of each engine, begun now.
    fn last_round(mut self) -> Vec<u64> {
        drop(self.stop.take());
        let mut counts = Vec::new();
        while let Some((rows, _)) = self.next() {
            counts.push(rows);
        }
        assert!(self.child.wait().unwrap().success());
        counts.split_off(counts.len() - 4)
    }
}

/// Ingests sixty events of three days and seals them.
fn seal_some(engine: &Engine, sent: &mut u64) {
    let events: Vec<Value> = (0..60)
        .map(|place| {
            let number = *sent + place;
            json!({"event_type":"action","user_id":format!("u{}", number % 17),"event_id":format!("e{number}"),
                "ts":(Utc::now() - TimeDelta::days((number % 3) as i64)).timestamp_micros()})
        })
        .collect();
    assert_eq!(ingest(engine, &events, Utc::now()).logged, 60);
    *sent += 60;
    engine.store().seal().unwrap();
}

#[test]
fn other_engines_count_every_sealed_event_once_while_it_ingests_and_seals() {
    let dir = folder();
    let engine = engine(dir.path(), Utc::now());
    let mut sent = 0;
    seal_some(&engine, &mut sent);
    let mut readers = Readers::start(dir.path());
    let mut seen = 0;
    // Each count by one of the engines meets about one more seal.
    for _ in 0..60 {
        let (rows, gone) = readers.next().expect("the readers go on");
        seal_some(&engine, &mut sent);
        assert!(
            seen <= rows && rows <= sent,
            "{rows}: seen {seen}, sent {sent}"
        );
        assert_eq!(gone, 0, "nothing that was there goes");
        seen = rows;
    }
    assert_eq!(readers.last_round(), [sent; 4]);
}

#[test]
fn compaction_shows_no_event_twice_and_leaves_one_file_a_day() {
    let dir = folder();
    let engine = engine(dir.path(), Utc::now());
    let mut sent = 0;
    seal_some(&engine, &mut sent);
    let mut readers = Readers::start(dir.path());
    let (mut seen, mut short) = (0, 0);
    for _ in 0..60 {
        let (rows, _) = readers.next().expect("the readers go on");
        seal_some(&engine, &mut sent);
        // A day from now every day is quiet, so that each folder is exchanged each time instead of
        // once a night.
        let quiet = Utc::now() + TimeDelta::days(1);
        engine.compact(quiet, CompactionScope::Full).unwrap();
        assert!(rows <= sent, "{rows} of {sent}");
        // An engine that opens a file at the moment of its removal may skip it.
        short += u64::from(rows < seen);
        seen = seen.max(rows);
    }
    assert!(short <= 6, "{short} of 60 counts lacked a file");
    assert_eq!(readers.last_round(), [sent; 4]);
    let days = std::fs::read_dir(dir.path().join("events")).unwrap();
    for day in days {
        assert_eq!(std::fs::read_dir(day.unwrap().path()).unwrap().count(), 1);
    }
}
