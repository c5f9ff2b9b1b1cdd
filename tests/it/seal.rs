//! Sealing: the log becomes Parquet that others can read, and no result changes.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{Server, batch, event, folder, log_lines, run_json, unsealed_demo};
use crate::oracle::python;

fn usage(dir: &Path) -> Value {
    let mut usage = run_json(dir, &["usage", "--days", "90", "--tz", "Asia/Tokyo"]);
    usage.as_object_mut().unwrap().remove("ts");
    usage
}

#[test]
fn results_are_the_same_before_after_and_half_way_through_seals() {
    let dir = folder();
    unsealed_demo(dir.path(), 4000, 20, 1);
    assert_eq!(log_lines(dir.path()).len(), 4000);
    let before = usage(dir.path());
    let sealed = run_json(dir.path(), &["seal"]);
    assert_eq!(
        (&sealed["events"], &sealed["segments"]),
        (&json!(4000), &json!(20))
    );
    assert!(log_lines(dir.path()).is_empty());
    assert_eq!(usage(dir.path()), before);
    assert_eq!(run_json(dir.path(), &["seal"])["events"], 0);
    // Sealed and unsealed events are counted together, and a user in both once.
    let server = Server::start(dir.path());
    server.post(&batch([
        event("action", "user_1", "dashboard"),
        event("action", "new", "new"),
    ]));
    let both = server.usage("?days=90&tz=Asia/Tokyo");
    assert_eq!(
        both["total_events"].as_u64(),
        before["total_events"].as_u64().map(|events| events + 2)
    );
    assert_eq!(
        both["mau"].as_u64(),
        before["mau"].as_u64().map(|users| users + 1)
    );
    assert_eq!(both["feature_usage"]["new"], 1);
    // A clean stop seals.
    server.stop();
    assert!(log_lines(dir.path()).is_empty());
    assert_eq!(usage(dir.path())["mau"], both["mau"]);
    let verified = run_json(dir.path(), &["verify"]);
    assert_eq!(
        (&verified["sealed_events"], &verified["damage"]),
        (&json!(4002), &json!([]))
    );
}

#[test]
fn another_engine_reads_the_lake_and_counts_the_same() {
    let dir = folder();
    run_json(
        dir.path(),
        &["demo", "--events", "3000", "--users", "60", "--days", "10"],
    );
    run_json(dir.path(), &["seal"]);
    let script = "
import duckdb, json, sys
lake = sys.argv[1] + '/events/**/*.parquet'
names = [(r[0], r[1]) for r in duckdb.execute(f\"describe select * from read_parquet('{lake}', hive_partitioning=true)\").fetchall()]
rows = duckdb.execute(f\"select count(*), count(distinct user_id), bool_and(cast(ts at time zone 'UTC' as date) = dt) from read_parquet('{lake}', hive_partitioning=true)\").fetchone()
print(json.dumps({'names': names, 'rows': rows}))
";
    let found = python(&["-c", script, dir.path().to_str().unwrap()]);
    let users = run_json(dir.path(), &["usage", "--days", "365"])["mau"].clone();
    assert_eq!(found["rows"], json!([3000, users, true]));
    assert_eq!(
        found["names"],
        json!([
            ["ts", "TIMESTAMP WITH TIME ZONE"],
            ["event_type", "VARCHAR"],
            ["user_id", "VARCHAR"],
            ["feature", "VARCHAR"],
            ["metadata", "VARCHAR"],
            ["url", "VARCHAR"],
            ["event_id", "VARCHAR"],
            ["received_at", "TIMESTAMP WITH TIME ZONE"],
            ["dt", "DATE"]
        ])
    );
}

#[test]
fn a_compaction_that_was_cut_off_is_undone_whatever_else_lies_in_the_days_folder() {
    let dir = folder();
    unsealed_demo(dir.path(), 400, 1, 1);
    run_json(dir.path(), &["seal"]);
    let before = usage(dir.path());
    let lake = dir.path().join("events");
    let day = std::fs::read_dir(&lake)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let name = day.file_name().unwrap().to_str().unwrap().to_owned();
    // The folders were exchanged, and the manifest not yet replaced.
    std::fs::write(day.join(".somebody"), "else").unwrap();
    let staged = dir
        .path()
        .join("compacting")
        .join(name.replace("dt=", "00000002-"));
    std::fs::create_dir_all(staged.parent().unwrap()).unwrap();
    std::fs::rename(&day, &staged).unwrap();
    std::fs::create_dir(&day).unwrap();
    std::fs::write(day.join("00000002-m.parquet"), "not committed").unwrap();
    std::fs::write(lake.join("README"), "of another program").unwrap();
    assert_eq!(usage(dir.path()), before);
    assert_eq!(run_json(dir.path(), &["verify"])["damage"], json!([]));
    assert!(!staged.exists() && !day.join("00000002-m.parquet").exists());
    assert!(day.join(".somebody").exists());
}
