//! Postings: an index of the uses of a feature. Its results equal those of the events, and no
//! result depends on it.

use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};
use echopilot_analytics::engine::{Cancel, Engine};
use echopilot_analytics::metrics::query::Query;
use echopilot_analytics::store::{Columns, CompactionScope};
use serde_json::{Value, json};

use crate::harness::{engine, folder, ingest, postings, run, run_json, unsealed_demo};

/// A store of nine complete days, with postings.
fn store(data: &Path) {
    unsealed_demo(data, 20_000, 9, 7);
    run_json(data, &["seal"]);
}

fn now() -> DateTime<Utc> {
    Utc::now()
}

/// Queries that need only the uses of some features.
fn questions() -> Vec<Value> {
    let steps =
        json!([{"feature":"dashboard"},{"feature":["reports","inbox"]},{"feature":"dashboard"}]);
    let mut all = Vec::new();
    for tz in ["UTC", "Asia/Tokyo"] {
        all.extend([
            json!({"metric":"funnel","steps":steps,"within":"2d","days":8,"tz":tz}),
            json!({"metric":"funnel","steps":steps,"within":"2d","days":8,"tz":tz,"order":"any"}),
            json!({"metric":"funnel","steps":steps,"days":3,"tz":tz,"exclude":[{"filter":{"feature":"billing"}}]}),
            json!({"metric":"funnel","steps":steps,"days":8,"tz":tz,"filter":{"feature":{"prefix":"d"}}}),
            json!({"metric":"active_users","days":8,"tz":tz,"filter":{"feature":["dashboard","search"]}}),
            json!({"metric":"retention","days":8,"tz":tz,"start":{"feature":"dashboard"},"return":{"feature":"search"}}),
        ]);
    }
    all
}

fn answers(engine: &Engine) -> Vec<Value> {
    let ask = |question: Value| {
        let query = Query::parse(question.to_string().as_bytes()).unwrap();
        let answer = engine.query(&query, now(), &Cancel::default()).unwrap();
        serde_json::to_value(&answer.rows).unwrap()
    };
    questions().into_iter().map(ask).collect()
}

/// True if the uses of a feature in sealed events are read from the lake.
fn reads_the_lake(engine: &Engine) -> bool {
    let features = ["dashboard".to_owned()];
    let batches = engine
        .store()
        .batches(i64::MIN..i64::MAX, Columns::Occurrences(&features));
    let plans = batches.unwrap().into_iter().map(|batch| {
        let events = batch.events().unwrap();
        events.describe_optimized_plan().unwrap()
    });
    plans.into_iter().any(|plan| plan.contains("SCAN"))
}

#[test]
fn results_from_postings_equal_results_from_events() {
    let dir = folder();
    store(dir.path());
    let opened = engine(dir.path(), now());
    assert!(!reads_the_lake(&opened));
    let (live, others) = postings(dir.path());
    assert_eq!((live.len(), others.len()), (9, 0));
    let from_postings = answers(&opened);
    std::fs::remove_file(&live[4]).unwrap();
    assert!(reads_the_lake(&opened));
    assert_eq!(answers(&opened), from_postings);
    std::fs::remove_dir_all(dir.path().join("postings")).unwrap();
    let from_events = answers(&opened);
    assert_eq!(from_events, from_postings);
    let users = from_events[0][0]["users"].as_u64().unwrap();
    assert!(users > 100, "{users}");
}

#[test]
fn late_events_and_events_in_the_log_count_in_addition_to_postings() {
    let dir = folder();
    store(dir.path());
    let opened = engine(dir.path(), now());
    let late = |user: &str, day: i64| {
        let noon = (now() - TimeDelta::days(day)).timestamp();
        ["dashboard", "inbox"].map(|feature| {
            json!({"event_type":"action","user_id":user,"feature":feature,"ts":noon,"event_id":format!("{user}{feature}")})
        })
    };
    let users = |engine: &Engine| answers(engine)[1][1]["users"].as_u64().unwrap();
    let before = users(&opened);
    ingest(&opened, &late("in the log", 2), now());
    assert_eq!(users(&opened), before + 1);
    opened.store().seal().unwrap();
    ingest(&opened, &late("in the log again", 3), now());
    assert_eq!(users(&opened), before + 2);
    opened.seal(now() + TimeDelta::days(1)).unwrap();
    assert_eq!(users(&opened), before + 2);
    assert_eq!(
        postings(dir.path()).1.len(),
        0,
        "they went when segments were joined"
    );
}

#[test]
fn damaged_postings_are_reported_and_rebuilt_and_never_used() {
    let dir = folder();
    store(dir.path());
    let expected = answers(&engine(dir.path(), now()));
    let (files, _) = postings(dir.path());
    // In the magic bytes, the segment's checksum, lengths, the list and the blocks; and cut off.
    for place in [0, 9, 13, 17, 25, 400, 5_000, usize::MAX] {
        for file in &files {
            let mut bytes = std::fs::read(file).unwrap();
            match bytes.get_mut(place) {
                Some(byte) => *byte ^= 0x10,
                None => bytes.truncate(bytes.len() - 1),
            }
            std::fs::write(file, bytes).unwrap();
        }
        let verified = run(dir.path(), &["verify"]);
        assert!(!verified.status.success());
        let verified: Value = serde_json::from_slice(&verified.stdout).unwrap();
        let damage = verified["damage"].as_array().unwrap();
        assert_eq!(damage.len(), files.len(), "{place}: {verified}");
        assert!(damage[0].as_str().unwrap().contains(".postings"));
        let opened = engine(dir.path(), now());
        assert_eq!(answers(&opened), expected, "{place}");
        // A block that no query reads stays unchanged.
        std::fs::remove_dir_all(dir.path().join("postings")).unwrap();
        opened.compact(now(), CompactionScope::Full).unwrap();
        drop(opened);
        assert_eq!(run_json(dir.path(), &["verify"])["damage"], json!([]));
    }
}

#[test]
fn a_day_of_very_many_features_is_read_from_the_lake() {
    let dir = folder();
    let opened = engine(dir.path(), now());
    let noon = (now() - TimeDelta::days(1)).timestamp();
    let features = (0..66_000).map(|page| format!("orders/{page}"));
    let features: Vec<String> = features.chain(["dashboard".into()]).collect();
    for batch in features.chunks(100) {
        let events = batch.iter().map(
            |feature| json!({"event_type":"page_view","user_id":"ann","feature":feature,"ts":noon}),
        );
        ingest(&opened, &events.collect::<Vec<_>>(), now());
    }
    opened.seal(now()).unwrap();
    let (live, _) = postings(dir.path());
    let bytes: u64 = live.iter().map(|file| file.metadata().unwrap().len()).sum();
    assert!(
        !live.is_empty() && bytes < 100 * live.len() as u64,
        "{bytes}"
    );
    assert!(reads_the_lake(&opened));
    assert_eq!(answers(&opened)[0][0]["users"], 1);
    drop(opened);
    assert_eq!(run_json(dir.path(), &["verify"])["damage"], json!([]));
}

#[test]
fn foreign_files_among_the_postings_stay_and_have_no_effect() {
    let dir = folder();
    store(dir.path());
    let foreign = dir.path().join("postings/backup");
    std::fs::create_dir(&foreign).unwrap();
    run_json(dir.path(), &["seal"]);
    assert!(foreign.exists());
    let target = dir.path().join("postings").display().to_string();
    let refused = run(dir.path(), &["export", "--to", &target]);
    assert!(!refused.status.success());
    let refused = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.contains("keeps its own files"), "{refused}");
}
