//! Commands next to a running server: they send it requests, and print what they print without it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::harness::{
    KEY, Server, batch, echopilot, event, folder, free_port, import, printed, run, run_json,
    unsealed_demo,
};

/// A command and its exit code.
struct Case {
    arguments: Vec<String>,
    code: i32,
}

/// Fields that depend on the time, or on when the server joins segments.
const OMITTED: [&str; 7] = [
    "ts",
    "asked_at",
    "segments",
    "bytes",
    "log_events",
    "received_at",
    "crc32c",
];

fn case(code: i32, arguments: &[&str]) -> Case {
    Case {
        arguments: arguments.iter().map(|&part| part.to_owned()).collect(),
        code,
    }
}

/// The output of a command, without the fields that differ between two runs.
fn comparable(output: &Output, data_dir: &Path) -> (Option<i32>, Vec<u8>, String) {
    let mut stdout = output.stdout.clone();
    if let Ok(mut value) = serde_json::from_slice::<Value>(&stdout) {
        if let Some(fields) = value.as_object_mut() {
            for name in OMITTED {
                fields.remove(name);
            }
        }
        // Indented as it was printed, unless it is an event.
        let text = String::from_utf8_lossy(&stdout);
        let is_event = text.lines().count() == 1;
        let lines = text.lines().filter(|line| {
            let omits = |name: &str| line.trim_start().starts_with(&format!("\"{name}\":"));
            !OMITTED.iter().any(|name| omits(name))
        });
        stdout = match is_event {
            true => value.to_string().into_bytes(),
            false => lines.collect::<Vec<_>>().join("\n").into_bytes(),
        };
    }
    let folder = data_dir.to_str().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).replace(folder, "DATA");
    let is_about_job = |line: &&str| line.starts_with("The server at ") || line.contains(" WARN ");
    let stderr: Vec<&str> = stderr.lines().filter(|line| !is_about_job(line)).collect();
    (output.status.code(), stdout, stderr.join("\n"))
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.unwrap().success());
}

#[test]
fn commands_print_the_same_with_and_without_a_server() {
    let dir = folder();
    let (alone, served) = (dir.path().join("alone"), dir.path().join("served"));
    unsealed_demo(&alone, 3_000, 20, 7);
    run_json(&alone, &["seal"]);
    run_json(&alone, &["rollup"]);
    let events = dir.path().join("events.ndjson");
    let odd = event("action", "a/b é%?..", "odd");
    let lines = [event("action", "new", "home"), odd].map(|line| line.to_string());
    std::fs::write(
        &events,
        format!("{}\n{{\"event_type\":7}}\n", lines.join("\n")),
    )
    .unwrap();
    let events = events.to_str().unwrap();
    copy(&alone, &served);
    let mut command = echopilot(&served);
    command.env("ECHOPILOT_BASE_PATH", "/a/b");
    let server = Server::start_as(command);
    let user = a_user(&alone);
    let retention = r#"{"metric":"retention","grain":"week","days":20}"#;
    let funnel = r#"{"metric":"funnel","steps":[{"feature":"feature-0"},{"feature":"feature-1"}],"breakdown":"event_type"}"#;
    let testers = format!(r#"{{"name":"the testers / é","users":["{user}"]}}"#);
    let of_testers = r#"{"metric":"event_types","filter":{"cohort":"the testers / é"}}"#;
    let unknown = r#"{"metric":"event_types","filter":{"cohort":"others"}}"#;
    let cases = [
        case(0, &["usage"]),
        case(
            0,
            &["usage", "--days", "9", "--tz", "Asia/Tokyo", "--limit", "2"],
        ),
        case(2, &["usage", "--days", "0"]),
        case(2, &["usage", "--limit", "0"]),
        case(0, &["query", retention]),
        case(0, &["query", funnel, "--format", "json"]),
        case(0, &["query", funnel, "--format", "csv"]),
        case(0, &["query", funnel, "--format", "csv-spreadsheet"]),
        case(0, &["query", retention, "--format", "parquet"]),
        case(0, &["query", retention, "--format", "arrow"]),
        case(2, &["query", r#"{"metric":"nothing"}"#]),
        case(2, &["query", unknown]),
        case(0, &["cohort", "set", &testers]),
        case(2, &["cohort", "set", r#"{"name":"x"}"#]),
        case(0, &["cohort", "list"]),
        case(0, &["query", of_testers]),
        case(
            0,
            &[
                "export",
                "--to",
                "DATA/../exports-of-NAME",
                "--for",
                "snowflake",
            ],
        ),
        case(2, &["export", "--to", "DATA/events"]),
        case(0, &["import", &events.replace("events", "empty")]),
        case(1, &["import", events]),
        case(0, &["user", "access", &user]),
        case(0, &["user", "access", "a/b é%?.."]),
        case(0, &["user", "access", "unknown"]),
        case(0, &["rollup"]),
        case(2, &["rollup", "--day", "2999-01-01"]),
        case(0, &["seal"]),
        case(0, &["rebuild"]),
        case(0, &["verify"]),
        case(0, &["expire"]),
        case(2, &["expire", "--confirm-date", "2020-01-01"]),
        case(0, &["cohort", "remove", "the testers / é"]),
        case(2, &["cohort", "remove", "the testers / é"]),
        case(0, &["user", "erase", &user, "unknown"]),
        case(0, &["user", "access", &user]),
        case(2, &["user", "erase", ""]),
        case(0, &["audit", "--user", "unknown-user", "--limit", "5"]),
        case(2, &["audit", "--limit", "0"]),
        case(0, &["usage"]),
    ];
    std::fs::write(events.replace("events", "empty"), "").unwrap();
    for case in &cases {
        let outputs = [("alone", &alone), ("served", &served)].map(|(name, data)| {
            let arguments = case.arguments.iter().map(|argument| {
                let argument = argument.replace("DATA", data.to_str().unwrap());
                argument.replace("NAME", name)
            });
            let arguments: Vec<String> = arguments.collect();
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let output = run(data, &arguments);
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(
                output.status.code(),
                Some(case.code),
                "{arguments:?}: {told}"
            );
            comparable(&output, data)
        });
        let [alone, served] = &outputs;
        let shown = |output: &(Option<i32>, Vec<u8>, String)| {
            format!("{}\n{}", String::from_utf8_lossy(&output.1), output.2)
        };
        assert_eq!(shown(alone), shown(served), "{:?}", case.arguments);
        assert_eq!(alone, served, "{:?}", case.arguments);
    }
    let export = dir.path().join("exports-of-served/export.json");
    assert!(export.exists(), "relative paths are those of the command");
    server.stop();
}

/// A user of a history.
fn a_user(data_dir: &Path) -> String {
    let users = std::fs::read_to_string(data_dir.join("users.ndjson")).unwrap();
    let line = users.lines().find(|line| line.contains('"')).unwrap();
    line.split('"').nth(1).unwrap().to_owned()
}

#[test]
fn a_server_is_found_at_every_address_and_with_any_key() {
    for listen in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0", ":0"] {
        let dir = folder();
        let mut command = echopilot(dir.path());
        command.env("ECHOPILOT_DASH_KEY", KEY);
        let Some(server) = Server::try_start_at(&mut command, listen) else {
            assert!(listen.contains("::"), "{listen} without IPv6");
            eprintln!("SKIPPED {listen}: this machine has no IPv6");
            continue;
        };
        let found = run_json(dir.path(), &["usage"]);
        assert_eq!(found["total_events"], 0, "{listen}");
        // The key of the command line is that of this start.
        server.kill();
        assert_eq!(run_json(dir.path(), &["usage"])["total_events"], 0);
    }
}

#[test]
fn a_server_that_cannot_be_asked_is_named_and_nothing_is_changed() {
    let dir = folder();
    let server = Server::start(dir.path());
    server.post(&batch([event("action", "ann", "home")]));
    let holder = dir.path().join("holder");
    let written = std::fs::read_to_string(&holder).unwrap();
    let (line, address) = written.split_once('\n').unwrap();
    let address: Value = serde_json::from_str(address).unwrap();
    let with = |field: &str, value: &str| {
        let mut changed = address.clone();
        changed[field] = json!(value);
        format!("{line}\n{changed}\n")
    };
    let free = format!("http://127.0.0.1:{}", free_port());
    let wrong_key = "0".repeat(64);
    for (content, says) in [
        (with("key", &wrong_key), "does not accept the key"),
        (with("version", "0.0.9"), "server of version 0.0.9"),
        (with("url", &free), "does not respond"),
        (
            with("url", "http://somewhere"),
            "not a URL with an IP address",
        ),
        (format!("{line}\n"), "Run the command again"),
        (String::new(), "in use by another process"),
    ] {
        std::fs::write(&holder, content).unwrap();
        for arguments in [&["user", "erase", "ann"][..], &["verify"], &["seal"]] {
            let output = run(dir.path(), arguments);
            let told = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{told}");
            assert!(told.contains(says), "{says}: {told}");
            assert!(output.stdout.is_empty());
            assert!(!told.contains(address["key"].as_str().unwrap()), "{told}");
        }
    }
    std::fs::write(&holder, written).unwrap();
    assert_eq!(run_json(dir.path(), &["usage"])["total_events"], 1);
    // Another program at the address of a server that was killed.
    assert_eq!(run(dir.path(), &["demo"]).status.code(), Some(1));
}

#[test]
fn what_a_server_cannot_read_is_reported_with_a_way_out() {
    let dir = folder();
    let server = Server::start(dir.path());
    let mut command = echopilot(dir.path());
    let output = command
        .args(["import", "-"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(
        told.contains("standard input") && told.contains(&server.url),
        "{told}"
    );
    // A relative path is that of the command.
    let file = "events.ndjson";
    let line = format!("{}\n", event("action", "ann", "home"));
    std::fs::write(dir.path().join(file), line).unwrap();
    let mut command = echopilot(dir.path());
    let printed = printed(command.current_dir(dir.path()).args(["import", file]));
    let imported: Value = serde_json::from_slice(&printed).unwrap();
    assert_eq!(imported["accepted"], 1);
}

/// A history is imported while the server runs, and the server knows its events at once.
#[test]
fn an_import_next_to_a_server_is_visible_at_once_and_stores_no_event_twice() {
    let dir = folder();
    let data = dir.path().join("data");
    let server = Server::start(&data);
    let file: PathBuf = dir.path().join("events.ndjson");
    let lines = (0..500).map(|number| {
        let mut line = event("action", "ann", "home");
        line["event_id"] = json!(format!("e{number}"));
        format!("{line}\n")
    });
    std::fs::write(&file, lines.collect::<String>()).unwrap();
    let mut sent = event("action", "ann", "home");
    sent["event_id"] = json!("e7");
    server.post(&batch([sent]));
    let imported = import(&data, &file);
    assert_eq!(
        (&imported["accepted"], &imported["duplicates"]),
        (&json!(499), &json!(1))
    );
    assert_eq!(import(&data, &file)["duplicates"], 500);
    assert_eq!(server.usage("")["total_events"], 500);
    server.stop();
    assert_eq!(run_json(&data, &["verify"])["damage"], json!([]));
    assert_eq!(run_json(&data, &["usage"])["total_events"], 500);
}
