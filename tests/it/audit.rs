//! The audit log: who read, exported or erased events, and changed keys, cohorts and the clock.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{KEY, Server, batch, echopilot, event, folder, printed, run, run_json};

const FILE: &str = "audit.ndjson";

/// The entries of the audit log, oldest first, as `action by outcome subject`, with the counts.
fn entries(data_dir: &Path, arguments: &[&str]) -> Vec<(String, Value)> {
    let mut all = vec!["audit"];
    all.extend(arguments);
    let found = run_json(data_dir, &all);
    let mut entries: Vec<(String, Value)> = found["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            let text = |field: &str| entry[field].as_str().unwrap_or("-").to_owned();
            let parts = ["action", "by", "outcome", "subject"].map(text);
            (parts.join(" "), entry["counts"].clone())
        })
        .collect();
    entries.reverse();
    entries
}

/// The bytes of all files of a data folder.
fn contents(dir: &Path) -> String {
    let grep = std::process::Command::new("grep")
        .args(["-rlaE", "secret-ann|secret-ben"])
        .arg(dir)
        .output()
        .unwrap();
    String::from_utf8(grep.stdout).unwrap()
}

#[test]
fn every_recorded_action_has_its_operator_and_no_user_id() {
    let dir = folder();
    let data = dir.path().join("data");
    let keys = dir.path().join("keys");
    std::fs::write(&keys, format!("anna:{KEY}\n")).unwrap();
    let mut command = echopilot(&data);
    command.env("ECHOPILOT_DASH_KEY_FILE", &keys);
    let mut server = Server::start_with_its_key(&mut command);
    let users = ["secret-ann", "secret-ben", "secret-ben", "cid"];
    server.post(&batch(users.map(|user| event("action", user, "home"))));
    // Queries are not recorded.
    server.usage("");
    assert_eq!(server.get("/api/analytics/users/secret-ann/events").0, 200);
    let (status, _) = server.get_bytes(
        "/api/analytics/export?days=1&format=ndjson",
        &[("authorization", &format!("Bearer {KEY}"))],
    );
    assert_eq!(status, 200);
    let cohort = json!({"name": "testers", "users": ["secret-ben", "cid"]});
    assert_eq!(server.ask("/api/analytics/cohorts", &cohort).0, 200);
    assert_eq!(server.delete("/api/analytics/cohorts/testers").0, 200);
    let today = chrono::Utc::now().date_naive().to_string();
    let clock = format!("/api/analytics/clock?confirm={today}");
    assert_eq!(server.ask(&clock, &json!(null)).0, 200);
    assert_eq!(server.delete("/api/analytics/users/secret-ann").0, 200);
    assert_eq!(
        server
            .ask("/api/analytics/erasures", &json!({"users": []}))
            .0,
        400
    );
    std::fs::write(&keys, format!("anna:{KEY}\nben:another-key-than-that-3c\n")).unwrap();
    server.signal("HUP");
    server.wait_for("Reloaded the dashboard keys: 2 valid");
    // The keys are the same.
    server.signal("HUP");
    server.wait_for_lines("Reloaded the dashboard keys: 2 valid", 2);
    // On the command line, by the server and without it.
    run_json(&data, &["user", "erase", "secret-ben"]);
    let served = entries(&data, &[]);
    let over_http = server.get("/api/analytics/audit").1;
    assert_eq!(over_http["entries"].as_array().unwrap().len(), served.len());
    server.stop();
    let target = dir.path().join("export");
    run_json(&data, &["export", "--to", target.to_str().unwrap()]);
    printed(echopilot(&data).args(["user", "access", "cid"]));
    let cohort = r#"{"name":"new","did":{"filter":{"feature":"home"}}}"#;
    run_json(&data, &["cohort", "set", cohort]);
    let found = entries(&data, &[]);
    assert_eq!(found[..served.len()], served);
    let (names, counts): (Vec<String>, Vec<Value>) = found.into_iter().unzip();
    let export = format!("export anna begun {today} to {today}, application/x-ndjson");
    let to_folder = format!("export command line begun {}", target.display());
    let confirmed = format!("clock anna done {today}");
    let expected = [
        "access anna begun -",
        "access anna done -",
        &export,
        "export anna done -",
        "cohort anna done set \"testers\"",
        "cohort anna done removed \"testers\"",
        &confirmed,
        "erasure anna begun -",
        "erasure anna done -",
        "erasure anna begun -",
        "erasure anna failed -",
        "keys SIGHUP done -",
        "erasure command line begun -",
        "erasure command line done -",
        &to_folder,
        "export command line done -",
        "access command line begun -",
        "access command line done -",
        "cohort command line done set \"new\"",
    ];
    assert_eq!(names, expected);
    assert!(counts[1]["bytes"].as_u64().unwrap() > 50);
    assert!(counts[3]["bytes"].as_u64().unwrap() > 200);
    assert_eq!(counts[4], json!({"users": 2}));
    assert_eq!(counts[8], json!({"users": 1, "events": 1}));
    assert_eq!(counts[11], json!({"dashboard": 2}));
    assert_eq!(counts[13], json!({"users": 1, "events": 2}));
    assert_eq!(counts[15]["events"], 1);
    // Both erased users are in no file, and found by their ids.
    assert_eq!(contents(&data), "");
    let of_user = |user: &str| {
        let found = entries(&data, &["--user", user]);
        found.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
    };
    let ann = [
        "access anna begun -",
        "access anna done -",
        "erasure anna begun -",
        "erasure anna done -",
    ];
    assert_eq!(of_user("secret-ann"), ann);
    assert_eq!(
        of_user("secret-ben"),
        [
            "erasure command line begun -",
            "erasure command line done -"
        ]
    );
    assert_eq!(of_user("cid").len(), 2);
    assert_eq!(of_user("others"), Vec::<String>::new());
    assert_eq!(entries(&data, &["--limit", "1"]).len(), 1);
    assert_eq!(
        run(&data, &["audit", "--limit", "0"]).status.code(),
        Some(2)
    );
    assert_eq!(run_json(&data, &["verify"])["damage"], json!([]));
}

#[test]
fn without_its_audit_log_a_server_sends_no_events_and_still_erases() {
    let dir = folder();
    let mut server = Server::start(dir.path());
    server.post(&batch([
        event("action", "ann", "home"),
        event("action", "ben", "home"),
    ]));
    // It cannot be written.
    let path = dir.path().join(FILE);
    std::fs::create_dir(&path).unwrap();
    for path in ["users/ann/events", "export?days=1&format=csv"] {
        let (status, answer) = server.get(&format!("/api/analytics/{path}"));
        assert_eq!(
            (status, &answer["error"]),
            (500, &json!("internal")),
            "{path}"
        );
    }
    let (status, receipt) = server.delete("/api/analytics/users/ann");
    assert_eq!((status, &receipt["events"]), (200, &json!(1)));
    server.wait_for("The audit log lacks an entry");
    std::fs::remove_dir(&path).unwrap();
    // The lines of the erasure were waiting, those of what did not happen were not.
    assert_eq!(server.get("/api/analytics/users/ben/events").0, 200);
    let names = |found: Vec<(String, Value)>| found.into_iter().map(|(name, _)| name);
    let found: Vec<String> = names(entries(dir.path(), &[])).collect();
    let expected = [
        "erasure dashboard begun -",
        "erasure dashboard done -",
        "access dashboard begun -",
        "access dashboard done -",
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_damaged_audit_log_is_reported_and_a_torn_line_is_cut() {
    let dir = folder();
    let path = dir.path().join(FILE);
    for user in ["ann", "ben"] {
        printed(echopilot(dir.path()).args(["user", "access", user]));
    }
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, [&whole[..], b"{\"at\":\"20"].concat()).unwrap();
    assert_eq!(entries(dir.path(), &[]).len(), 4);
    assert_eq!(std::fs::read(&path).unwrap(), whole);
    let mut damaged = whole.clone();
    damaged[20] ^= 1;
    std::fs::write(&path, damaged).unwrap();
    let output = run(dir.path(), &["verify"]);
    let found = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1));
    assert!(found.contains("audit.ndjson, line 1"), "{found}");
    // A damaged entry is not shown.
    assert_eq!(entries(dir.path(), &[]).len(), 3);
    let server = Server::start(dir.path());
    let output = run(dir.path(), &["verify"]);
    assert_eq!(output.status.code(), Some(1));
    server.stop();
}

#[test]
fn an_erasure_that_a_restart_completes_is_recorded() {
    let dir = folder();
    printed(echopilot(dir.path()).args(["user", "access", "ann"]));
    // As a process leaves it that was killed during the erasure.
    let key = "0123456789abcdef".repeat(4);
    let erasures = json!({"key": key, "erased": [], "pending": ["ann"]});
    std::fs::write(dir.path().join("erasures.json"), erasures.to_string()).unwrap();
    let mut server = Server::start(dir.path());
    server.wait_for("Erased 1 users");
    server.wait_for("Listening on");
    server.stop();
    let found = entries(dir.path(), &["--limit", "1"]);
    assert_eq!(
        found,
        [(
            "erasure server done -".to_owned(),
            json!({"users": 1, "events": 0})
        )]
    );
}
