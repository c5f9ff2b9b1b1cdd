//! The lake as other programs see it, while it is written.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};

use crate::harness::{engine, folder, ingest};
use crate::oracle::python_command;

#[test]
fn other_engines_count_every_sealed_event_once_while_it_ingests_seals_and_compacts() {
    let dir = folder();
    let engine = engine(dir.path(), Utc::now());
    let mut sent = 0;
    let seal_some = |sent: &mut u64| {
        let events: Vec<Value> = (0..60)
            .map(|place| {
                let number = *sent + place;
                json!({"event_type":"action","user_id":format!("u{}", number % 17),"event_id":format!("e{number}"),
                    "ts":(Utc::now() - TimeDelta::days((number % 3) as i64)).timestamp_micros()})
            })
            .collect();
        assert_eq!(ingest(&engine, &events, Utc::now()).logged, 60);
        *sent += 60;
        engine.store().seal().unwrap();
        // A day from now every day is quiet, so that all small segments are joined each time.
        engine.tidy(Utc::now() + TimeDelta::days(1)).unwrap();
    };
    seal_some(&mut sent);
    let mut readers = python_command()
        .args(["tests/oracle/lake_readers.py"])
        .arg(dir.path().join("events"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stop = readers.stdin.take();
    let mut counts = BufReader::new(readers.stdout.take().unwrap()).lines();
    let mut next = || -> Option<Value> {
        Some(serde_json::from_str(&counts.next()?.unwrap()).expect("a line of JSON"))
    };
    let mut seen = 0;
    let mut check = |count: &Value, sent: u64| {
        let rows = count["rows"].as_u64().unwrap();
        assert_eq!(count["ids"], count["rows"], "an event is there twice");
        assert!(
            seen <= rows && rows <= sent,
            "{count}: seen {seen}, sent {sent}"
        );
        seen = rows;
    };
    // Each count by one of the engines meets about one more round of writing.
    for _ in 0..60 {
        let count = next().expect("the readers go on");
        seal_some(&mut sent);
        check(&count, sent);
    }
    drop(stop);
    let mut counted_last = Vec::new();
    while let Some(line) = next() {
        match line["gone"].as_u64() {
            Some(gone) => eprintln!("{gone} files were gone before a reader opened them"),
            None => {
                check(&line, sent);
                counted_last.push(line["rows"].as_u64().unwrap());
            }
        }
    }
    assert!(readers.wait().unwrap().success());
    let four_engines = &counted_last[counted_last.len() - 4..];
    assert_eq!(four_engines, [sent; 4]);
    let files = Command::new("find")
        .arg(dir.path().join("events"))
        .args(["-type", "f"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&files.stdout).lines().count(), 3);
}
