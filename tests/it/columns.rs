//! Columns: the events of days that are over as integers. Results from them equal those of the
//! events, and no result depends on them.

use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};
use echopilot_analytics::engine::{Cancel, Engine};
use echopilot_analytics::metrics::query::Query;
use echopilot_analytics::store::CompactionScope;
use serde_json::{Value, json};

use crate::harness::{columns, engine, folder, ingest, run, run_json, unsealed_demo};

/// A store of nine complete days, with columns.
fn store(data: &Path) {
    unsealed_demo(data, 20_000, 9, 7);
    run_json(data, &["seal"]);
}

/// The same time throughout a test: results in hours are compared.
fn now() -> DateTime<Utc> {
    thread_local!(static NOW: DateTime<Utc> = Utc::now());
    NOW.with(|now| *now)
}

/// Queries that read columns.
fn questions() -> Vec<Value> {
    let steps =
        json!([{"feature":"dashboard"},{"feature":["reports","inbox"]},{"feature":"dashboard"}]);
    let plan = json!({"metadata.plan":["pro","team"]});
    let yesterday = (now() - TimeDelta::days(1)).date_naive().to_string();
    let mut all = Vec::new();
    for tz in ["UTC", "Asia/Tokyo", "Asia/Kolkata"] {
        all.extend([
            json!({"metric":"funnel","steps":steps,"within":"2d","days":8,"tz":tz}),
            json!({"metric":"funnel","steps":steps,"within":"2d","days":8,"tz":tz,"order":"any"}),
            json!({"metric":"funnel","steps":steps,"within":"2d","days":8,"tz":tz,"order":"strict"}),
            json!({"metric":"funnel","steps":steps,"days":3,"tz":tz,"exclude":[{"filter":{"feature":"billing"}}]}),
            json!({"metric":"funnel","steps":steps,"days":8,"tz":tz,"filter":{"feature":{"prefix":"d"}}}),
            json!({"metric":"funnel","steps":steps,"days":8,"tz":tz,"breakdown":"metadata.platform","filter":plan}),
            json!({"metric":"active_users","days":8,"tz":tz,"filter":{"feature":["dashboard","search"]}}),
            json!({"metric":"active_users","days":8,"tz":tz,"filter":plan}),
            json!({"metric":"retention","days":8,"tz":tz,"start":{"feature":"dashboard"},"return":{"feature":"search"}}),
            json!({"metric":"feature_usage","days":8,"tz":tz,"filter":plan}),
            json!({"metric":"feature_usage","days":8,"tz":tz,"breakdown":"metadata.platform"}),
            json!({"metric":"event_types","days":8,"tz":tz,"filter":{"metadata.plan":{"exists":false}}}),
            json!({"metric":"trends","days":8,"tz":tz,"grain":"hour","breakdown":"metadata.platform","limit":2,
                   "series":[{},{"filter":plan,"measure":"users"}],"formula":"A/B"}),
            // Days that are over: the same hours of a running one change with the time.
            json!({"metric":"trends","days":3,"end":yesterday,"tz":tz,"compare":"previous","rolling":2,"filter":plan,
                   "series":[{"measure":"events_per_user"},{"filter":{"feature":"search"},"measure":"users"}]}),
            json!({"metric":"trends","days":8,"tz":tz,"grain":"week","breakdown":"feature",
                   "series":[{"measure":"sum","of":"metadata.amount"},{"measure":"p90","of":"metadata.duration"}]}),
            json!({"metric":"trends","days":8,"tz":tz,"breakdown":"metadata.platform","limit":2,
                   "series":[{"measure":"sessions"},{"measure":"sessions","filter":{"feature":"search"}},{"filter":plan}]}),
            json!({"metric":"sessions","days":8,"tz":tz,"grain":"hour","filter":plan}),
            json!({"metric":"sessions","days":8,"tz":tz,"breakdown":"feature","breakdown_of":"last"}),
            json!({"metric":"paths","days":8,"tz":tz}),
            json!({"metric":"paths","days":8,"tz":tz,"by":"session","start":{"feature":"reports"},"filter":plan}),
        ]);
    }
    all
}

fn answers(engine: &Engine) -> Vec<Value> {
    let ask = |question: Value| {
        let query = Query::parse(question.to_string().as_bytes()).unwrap();
        let answer = engine.query(&query, now(), &Cancel::default()).unwrap();
        json!([answer.rows, answer.notes])
    };
    questions().into_iter().map(ask).collect()
}

#[test]
fn results_from_columns_equal_results_from_events() {
    let dir = folder();
    store(dir.path());
    let opened = engine(dir.path(), now());
    let (live, others) = columns(dir.path());
    assert_eq!((live.len(), others.len()), (9, 0));
    let from_columns = answers(&opened);
    std::fs::remove_file(&live[4]).unwrap();
    assert_eq!(answers(&opened), from_columns);
    std::fs::remove_dir_all(dir.path().join("columns")).unwrap();
    let from_events = answers(&opened);
    for ((question, events), columns) in questions().iter().zip(&from_events).zip(&from_columns) {
        assert_eq!(columns, events, "{question}");
    }
    let users = from_events[0][0][0]["users"].as_u64().unwrap();
    assert!(users > 100, "{users}");
}

#[test]
fn columns_and_not_the_lake_are_read() {
    let dir = folder();
    store(dir.path());
    let expected = answers(&engine(dir.path(), now()));
    let opened = engine(dir.path(), now());
    // The days that lie in the windows of 8 days in every zone, at any time of the day.
    let lake = std::fs::read_dir(dir.path().join("events")).unwrap();
    let mut days: Vec<_> = lake.map(|day| day.unwrap().path()).collect();
    days.sort();
    for day in &days[3..8] {
        std::fs::remove_dir_all(day).unwrap();
    }
    let asked = questions().into_iter().zip(expected);
    for (question, expected) in asked.filter(|(question, _)| question["days"] == 8) {
        let query = Query::parse(question.to_string().as_bytes()).unwrap();
        let answer = opened.query(&query, now(), &Cancel::default());
        let answer = answer.unwrap_or_else(|error| panic!("{question}: {error}"));
        assert_eq!(json!([answer.rows, answer.notes]), expected, "{question}");
    }
}

#[test]
fn late_events_and_events_in_the_log_count_in_addition_to_columns() {
    let dir = folder();
    store(dir.path());
    let opened = engine(dir.path(), now());
    let late = |user: &str, day: i64| {
        let noon = (now() - TimeDelta::days(day)).timestamp();
        ["dashboard", "inbox"].map(|feature| {
            json!({"event_type":"action","user_id":user,"feature":feature,"ts":noon,"event_id":format!("{user}{feature}")})
        })
    };
    let users = |engine: &Engine| answers(engine)[1][0][1]["users"].as_u64().unwrap();
    let before = users(&opened);
    ingest(&opened, &late("in the log", 2), now());
    assert_eq!(users(&opened), before + 1);
    opened.store().seal().unwrap();
    ingest(&opened, &late("in the log again", 3), now());
    assert_eq!(users(&opened), before + 2);
    opened.seal(now() + TimeDelta::days(1)).unwrap();
    assert_eq!(users(&opened), before + 2);
    assert_eq!(
        columns(dir.path()).1.len(),
        0,
        "they went when segments were joined"
    );
}

#[test]
fn events_of_one_timestamp_stay_in_the_order_of_the_log() {
    let dir = folder();
    let opened = engine(dir.path(), now());
    let noon = (now() - TimeDelta::days(2)).timestamp();
    let event =
        |feature: &str| json!({"event_type":"action","user_id":"ann","feature":feature,"ts":noon});
    let path = |opened: &Engine| {
        let query = json!({"metric":"paths","days":3}).to_string();
        let query = Query::parse(query.as_bytes()).unwrap();
        let answer = opened.query(&query, now(), &Cancel::default()).unwrap();
        answer.notes["paths"][0]["path"].clone()
    };
    ingest(&opened, &[event("d"), event("c")], now());
    opened.seal(now() + TimeDelta::hours(2)).unwrap();
    let (files, _) = columns(dir.path());
    assert_eq!(files.len(), 1);
    assert_eq!(path(&opened), json!(["d", "c"]));
    // In a segment without columns, and in the log.
    ingest(&opened, &[event("b")], now());
    opened.store().seal().unwrap();
    ingest(&opened, &[event("a")], now());
    assert_eq!(path(&opened), json!(["d", "c", "b", "a"]));
    // Columns of a segment that is not the first one of its day.
    opened.store().seal().unwrap();
    opened.seal(now() + TimeDelta::hours(2)).unwrap();
    assert_eq!(path(&opened), json!(["d", "c", "b", "a"]));
    assert_eq!(columns(dir.path()).0.len(), 1);
}

#[test]
fn damaged_columns_are_reported_and_rebuilt_and_never_used() {
    let dir = folder();
    store(dir.path());
    let expected = answers(&engine(dir.path(), now()));
    let (files, _) = columns(dir.path());
    // In the magic bytes, the segment's checksum, lengths, the list and the blocks; and cut off.
    for place in [0, 9, 13, 17, 25, 400, 5_000, 12_000, usize::MAX] {
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
        assert!(damage[0].as_str().unwrap().contains(".columns"));
        let opened = engine(dir.path(), now());
        assert_eq!(answers(&opened), expected, "{place}");
        // A block that no query reads stays unchanged.
        std::fs::remove_dir_all(dir.path().join("columns")).unwrap();
        opened.compact(now(), CompactionScope::Full).unwrap();
        drop(opened);
        assert_eq!(run_json(dir.path(), &["verify"])["damage"], json!([]));
    }
}

#[test]
fn columns_take_at_most_their_share_and_none_is_written_if_it_is_zero() {
    for share in [0, 60] {
        let dir = folder();
        unsealed_demo(dir.path(), 50_000, 3, 7);
        run_json(dir.path(), &["seal", "--column-share", &share.to_string()]);
        let (files, _) = columns(dir.path());
        // All days are over, so each has them. In the first hour of a day the day before has two.
        let days = std::fs::read_dir(dir.path().join("events")).unwrap();
        let segments = days.flat_map(|day| std::fs::read_dir(day.unwrap().path()).unwrap());
        let segments = segments.count();
        assert!(segments >= 3);
        assert_eq!(files.len(), if share == 0 { 0 } else { segments });
        let bytes: u64 = files
            .iter()
            .map(|file| file.metadata().unwrap().len())
            .sum();
        let size = engine(dir.path(), now()).store().size();
        assert_eq!(size.column_bytes, bytes);
        assert!(
            bytes * 100 <= size.sealed_bytes * share,
            "{bytes} of {size:?}"
        );
    }
}

#[test]
fn foreign_files_among_the_columns_stay_and_have_no_effect() {
    let dir = folder();
    store(dir.path());
    let foreign = dir.path().join("columns/backup");
    std::fs::create_dir(&foreign).unwrap();
    run_json(dir.path(), &["seal"]);
    assert!(foreign.exists());
    let target = dir.path().join("columns").display().to_string();
    let refused = run(dir.path(), &["export", "--to", &target]);
    assert!(!refused.status.success());
    let refused = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.contains("keeps its own files"), "{refused}");
}
