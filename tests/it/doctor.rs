//! `echopilot doctor`: what it finds, and that it changes nothing.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::faults::Tmpfs;
use crate::harness::{KEY, Server, batch, echopilot, event, folder, run, run_json, unsealed_demo};

/// The findings at a free port, and whether the command succeeded.
fn examine(data: &Path, more: &[&str]) -> (Value, bool) {
    let arguments = [
        &["doctor", "--listen", "127.0.0.1:0", "--format", "json"],
        more,
    ]
    .concat();
    let output = run(data, &arguments);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["ok"], output.status.success(), "{found}");
    (found, output.status.success())
}

/// Outcome and description of a check.
fn finding(found: &Value, check: &str) -> (String, String) {
    let checks = found["checks"].as_array().unwrap();
    let found = checks.iter().find(|finding| finding["check"] == check);
    let found = found.unwrap_or_else(|| panic!("no {check} in {checks:?}"));
    let of = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
    (of("outcome"), format!("{} {}", of("found"), of("advice")))
}

/// Names of all files and folders below a folder, with their lengths and times.
fn tree(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        let state = path.symlink_metadata().unwrap();
        if path.is_dir() {
            found.push(format!("{path:?}"));
            found.extend(tree(&path));
        } else {
            found.push(format!(
                "{path:?} {} {:?}",
                state.len(),
                state.modified().unwrap()
            ));
        }
    }
    found.sort();
    found
}

#[test]
fn a_good_folder_passes_in_lines_of_eighty_columns_and_nothing_is_changed() {
    let dir = folder();
    let data = dir.path().join("data");
    let (missing, _) = examine(&data, &[]);
    assert!(
        finding(&missing, "data folder")
            .1
            .contains("does not exist")
    );
    assert_eq!(tree(dir.path()), [] as [String; 0]);
    fs::create_dir(&data).unwrap();
    let (empty, _) = examine(&data, &[]);
    assert!(finding(&empty, "data folder").1.contains("is empty"));
    unsealed_demo(&data, 300, 3, 1);
    run_json(&data, &["seal"]);
    let before = tree(dir.path());
    let (found, passes) = examine(&data, &[]);
    assert!(passes, "{found}");
    for check in [
        "data folder",
        "formats",
        "write and sync",
        "hard links",
        "exchange",
        "locks",
        "clock",
        "time zones",
    ] {
        assert_eq!(finding(&found, check).0, "ok", "{check} of {found}");
    }
    assert!(finding(&found, "server").1.contains("none runs"));
    assert_eq!(tree(dir.path()), before);
    let output = run(&data, &["doctor", "--listen", "127.0.0.1:0"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let path = text
        .lines()
        .filter(|line| !line.contains(data.to_str().unwrap()));
    assert!(
        path.clone().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    assert_eq!(path.count() + 1, text.lines().count(), "{text}");
}

#[test]
fn a_running_server_is_asked_and_goes_on() {
    let dir = folder();
    let server = Server::start(dir.path());
    assert_eq!(server.post(&batch([event("action", "ann", "f")])).0, 200);
    let address = server
        .url
        .strip_prefix("http://")
        .unwrap()
        .trim_end_matches('/')
        .to_owned();
    let before = tree(dir.path());
    let at_server = ["doctor", "--listen", &address, "--format", "json"];
    let output = run(dir.path(), &at_server);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{found}");
    assert_eq!(tree(dir.path()), before);
    let (outcome, text) = finding(&found, "server");
    assert!(outcome == "ok" && text.contains("is ready"), "{text}");
    // At another address, the lock of the folder tells it.
    let (found, _) = examine(dir.path(), &[]);
    assert!(
        finding(&found, "server")
            .1
            .contains("in use by echopilot serve"),
        "{found}"
    );
    // Without the key that the lock's file has for commands.
    assert!(!found.to_string().contains("\"key\""), "{found}");
    // Another folder.
    let other = folder();
    let output = run(other.path(), &at_server);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let (outcome, text) = finding(&found, "server");
    assert!(
        outcome == "warning" && text.contains("does not use this data folder"),
        "{text}"
    );
    assert_eq!(server.post(&batch([event("action", "bob", "f")])).0, 200);
    assert_eq!(server.usage("")["mau"], 2);
    // A log that was moved.
    fs::rename(
        dir.path().join("analytics_events.ndjson"),
        dir.path().join("moved"),
    )
    .unwrap();
    while server.get_with("/health/ready", &[]).0 == 200 {
        std::thread::yield_now();
    }
    let output = run(dir.path(), &at_server);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let (outcome, text) = finding(&found, "server");
    assert!(outcome == "fails" && text.contains("log_stopped"), "{text}");
}

#[test]
fn what_a_start_would_reject_fails_and_is_left_unchanged() {
    let check = |change: &dyn Fn(&Path), more: &[&str], check: &str, expected: &str| {
        let dir = folder();
        change(dir.path());
        let before = tree(dir.path());
        let (found, passes) = examine(dir.path(), more);
        let (outcome, text) = finding(&found, check);
        assert!(!passes && outcome == "fails", "{check}: {found}");
        assert!(text.contains(expected), "{check}: {text}");
        assert_eq!(tree(dir.path()), before, "{check}");
    };
    let ours = |dir: &Path| {
        unsealed_demo(dir, 100, 2, 1);
        run_json(dir, &["seal"]);
    };
    check(
        &|dir| fs::write(dir.join("notes.txt"), "mine").unwrap(),
        &[],
        "data folder",
        "notes.txt",
    );
    check(
        &|dir| fs::write(dir.join(".echopilot-restoring"), "events\n").unwrap(),
        &[],
        "data folder",
        "was interrupted",
    );
    check(
        &|dir| {
            ours(dir);
            fs::write(dir.join("manifest.json"), "{}").unwrap();
        },
        &[],
        "data folder",
        "its checksum does not match",
    );
    check(
        &|dir| {
            ours(dir);
            fs::set_permissions(dir.join("manifest.json"), Permissions::from_mode(0o400)).unwrap();
        },
        &[],
        "owner",
        "read-only",
    );
    check(
        &ours,
        &["--dash-key-file", "/missing/keys"],
        "dashboard key",
        "cannot read /missing/keys",
    );
    let keys = folder();
    let key = keys.path().join("key");
    fs::write(&key, "short").unwrap();
    let key = key.to_str().unwrap();
    check(
        &ours,
        &["--user-key-file", key],
        "user key",
        "allowed are 16 or more",
    );
    check(
        &ours,
        &["--dash-key-file", key],
        "dashboard key",
        "fewer than 16 characters",
    );
}

#[test]
fn a_key_that_others_may_read_is_a_warning() {
    let dir = folder();
    let keys = folder();
    let key = keys.path().join("key");
    fs::write(&key, KEY).unwrap();
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    let (found, passes) = examine(dir.path(), &["--dash-key-file", key.to_str().unwrap()]);
    let (outcome, text) = finding(&found, "dashboard key");
    assert!(
        passes && outcome == "warning" && text.contains("chmod 600"),
        "{text}"
    );
    assert!(!found.to_string().contains(KEY));
}

#[test]
fn another_program_at_the_address_fails() {
    let dir = folder();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // It closes each connection.
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let mut command = echopilot(dir.path());
    let output = command
        .args(["doctor", "--listen", &address])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("fails    server: another program listens on"),
        "{text}"
    );
}

#[test]
fn a_disk_without_space_fails_and_one_in_memory_is_a_warning() {
    let dir = folder();
    let Some(_mounted) = Tmpfs::mount(dir.path(), "size=4m") else {
        return;
    };
    unsealed_demo(dir.path(), 3_000, 3, 1);
    let (found, _) = examine(dir.path(), &[]);
    assert_eq!(finding(&found, "file system").0, "warning");
    let (outcome, text) = finding(&found, "free space");
    assert!(
        outcome == "warning" && text.contains("wait for up to"),
        "{text}"
    );
    // Larger than the rest of the disk.
    let full = fs::write(dir.path().join("filler"), vec![0; 8 << 20]);
    assert_eq!(full.map_err(|error| error.raw_os_error()), Err(Some(28)));
    let (found, passes) = examine(dir.path(), &[]);
    assert!(!passes);
    assert_eq!(finding(&found, "free space").0, "fails", "{found}");
    assert_eq!(finding(&found, "write and sync").0, "fails", "{found}");
    assert_eq!(found["ok"], json!(false));
}
