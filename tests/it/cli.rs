//! The command line: output, wrong usage, and commands next to a running server.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::harness::{KEY, Server, batch, echopilot, event, folder, run, run_json};

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn help_fits_eighty_columns_and_has_no_markup() {
    let dir = folder();
    for command in [
        "",
        "serve",
        "import",
        "usage",
        "query",
        "cohort",
        "cohort set",
        "export",
        "user",
        "user erase",
        "user access",
        "rollup",
        "seal",
        "rebuild",
        "expire",
        "verify",
        "backup",
        "restore",
        "doctor",
        "table",
        "table servers",
        "table retire",
        "demo",
        "health",
        "completions",
        "man",
    ] {
        let arguments: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
        let output = run(dir.path(), &arguments);
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        let longest = text
            .lines()
            .max_by_key(|line| line.chars().count())
            .unwrap();
        assert!(longest.chars().count() <= 80, "{arguments:?}: {longest}");
        assert!(!text.contains('`'), "{arguments:?}: {text}");
    }
}

#[test]
fn an_import_counts_the_results_and_names_invalid_lines() {
    let dir = folder();
    let now = chrono::Utc::now().to_rfc3339();
    let good = json!({"ts":now,"event_type":"action","user_id":"u","event_id":"1"}).to_string();
    let text = format!(
        "{good}\n\n{good}\nnot json\n{}\n{}",
        json!({"event_type":"tap"}),
        json!({"ts":"2001-01-01T00:00:00Z","event_type":"action"})
    );
    let file = dir.path().join("events.ndjson");
    std::fs::write(&file, &text).unwrap();
    let output = run(
        &dir.path().join("data"),
        &["import", file.to_str().unwrap()],
    );
    assert_eq!(output.status.code(), Some(1));
    let counts: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (
            &counts["accepted"],
            &counts["duplicates"],
            &counts["too_old"],
            &counts["refused"]
        ),
        (&json!(1), &json!(1), &json!(1), &json!(2))
    );
    let told = stderr(&output);
    assert!(
        told.contains(&format!(
            "2 events were not imported:\nechopilot: {}, line 4: bad_event: the event is invalid JSON: expected",
            file.display()
        )),
        "{told}"
    );
    assert!(
        told.contains("line 5: bad_event_type: event_type is \"tap\""),
        "{told}"
    );
}

#[test]
fn compressed_files_and_standard_input_are_read() {
    let dir = folder();
    let line = format!("{}\n", json!({"event_type":"action","user_id":"u"}));
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(line.as_bytes()).unwrap();
    let files = [
        ("a.ndjson", line.clone().into_bytes()),
        ("a.ndjson.gz", gz.finish().unwrap()),
        (
            "a.ndjson.zst",
            zstd::encode_all(line.as_bytes(), 3).unwrap(),
        ),
    ];
    let data = dir.path().join("data");
    let mut arguments = vec!["import".to_owned()];
    for (name, bytes) in &files {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        arguments.push(path.to_str().unwrap().to_owned());
    }
    for tool in ["bzip2", "xz"] {
        let path = dir.path().join(tool);
        std::fs::write(&path, &line).unwrap();
        let compressed = std::process::Command::new(tool)
            .args(["-c", path.to_str().unwrap()])
            .output();
        let Ok(compressed) = compressed else {
            eprintln!("SKIPPED: {tool} is not there");
            continue;
        };
        std::fs::write(&path, compressed.stdout).unwrap();
        arguments.push(path.to_str().unwrap().to_owned());
    }
    let sources = arguments.len();
    arguments.push("-".into());
    let mut child = echopilot(&data)
        .args(&arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&files[1].1).unwrap();
    let output = child.wait_with_output().unwrap();
    let counts: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(counts["accepted"], sources);
    assert_eq!(run_json(&data, &["usage"])["total_events"], sources);
}

/// The content of a file, and the result: accepted and rejected events, exit code, and message.
type ImportCase<'a> = (&'a [u8], u64, u64, i32, &'a str);

#[test]
fn files_of_other_programs_are_read() {
    let cases: [ImportCase; 20] = [
        (b"", 0, 0, 0, ""),
        (b"E", 1, 0, 0, ""),
        (b"\xEF\xBB\xBFE\nE\n", 2, 0, 0, ""),
        (b"E\r\nE\r\n", 2, 0, 0, ""),
        (b"E\rE\rE", 3, 0, 0, ""),
        (b"EE E\nE", 4, 0, 0, ""),
        (b"E,\nE,\n", 2, 0, 0, ""),
        (b"[E,E]\n[E]\n[]", 3, 0, 0, ""),
        (b"[\n E,\n E\n]\n", 2, 0, 0, ""),
        (b"\xEF\xBB\xBF[E,E]", 2, 0, 0, ""),
        (
            b"{\"events\":[E,E],\"sent_at\":\"2025-10-21T10:00:00Z\"}\n{\"events\":[E]}",
            3,
            0,
            0,
            "",
        ),
        (b"{\n\"events\":\n[\nE,\nE\n]\n}\n", 2, 0, 0, ""),
        (
            b"{\n\"event_type\":\"action\"\n}\n{\n\"event_type\":\"action\"\n}",
            2,
            0,
            0,
            "",
        ),
        (
            b"[\nE,\n{\"event_type\":\"action\",\"metadata\":{\"p\":NaN}},\nE]",
            2,
            1,
            1,
            "event 2: bad_event: the event is invalid JSON",
        ),
        (
            b"E\n{\"event_type\":\"action\",\"feature\":\"\xff\"}\nE",
            2,
            1,
            1,
            "line 2: bad_event: the event is invalid JSON",
        ),
        (b"E\n{\"event_type\":\"ac", 1, 1, 1, "line 2: bad_event"),
        (
            b"[\nE,\nE,\n{\"event_type\":",
            2,
            1,
            1,
            "event 3: the array of events is truncated or malformed",
        ),
        (
            b"ts,event_type,user_id\n2025-10-21,action,u\n",
            0,
            1,
            1,
            "it looks like CSV",
        ),
        (
            b"PAR1\x15\x04\x15\0",
            0,
            1,
            1,
            "it looks like a Parquet file",
        ),
        (b"\xff\xfe{\0\"\0", 0, 1, 1, "it looks like UTF-16"),
    ];
    let dir = folder();
    let data = dir.path().join("data");
    let file = dir.path().join("events");
    let mut stored = 0;
    for (content, accepted, rejected, code, message) in cases {
        let mut bytes = Vec::new();
        for byte in content {
            match byte {
                b'E' => bytes.extend_from_slice(br#"{"event_type":"action"}"#),
                byte => bytes.push(*byte),
            }
        }
        std::fs::write(&file, &bytes).unwrap();
        let output = run(&data, &["import", file.to_str().unwrap()]);
        let shown = format!("{}: {}", content.escape_ascii(), stderr(&output));
        assert_eq!(output.status.code(), Some(code), "{shown}");
        let counts: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(counts["accepted"], accepted, "{shown}");
        assert_eq!(counts["refused"], rejected, "{shown}");
        assert!(stderr(&output).contains(message), "{shown}");
        stored += accepted;
    }
    assert_eq!(run_json(&data, &["usage"])["total_events"], stored);
}

#[test]
fn rebasing_finds_the_newest_event_of_a_list_and_notes_are_counted() {
    let dir = folder();
    let file = dir.path().join("events.json");
    let text = "[\n{\"event_type\":\"action\",\"ts\":\"1998-06-01 10:00:00 UTC\",\"user_id\":7,\"metadata\":[]},\n\
                {\"event_type\":\"action\",\"ts\":\"1998-06-30\",\"user_id\":8}]";
    std::fs::write(&file, text).unwrap();
    let data = dir.path().join("data");
    let counts = run_json(
        &data,
        &["import", file.to_str().unwrap(), "--rebase-to", "today"],
    );
    assert_eq!(counts["notes"], json!({"metadata_dropped": 1}));
    assert_eq!(run_json(&data, &["usage", "--days", "1"])["mau"], 1);
    assert_eq!(run_json(&data, &["usage", "--days", "30"])["mau"], 2);
}

#[test]
fn rebasing_moves_the_newest_event_to_the_day_and_keeps_the_distances() {
    let dir = folder();
    let file = dir.path().join("old.ndjson");
    let lines = [
        json!({"ts":"1998-06-30T23:59:59Z","event_type":"action","user_id":"b"}),
        json!({"ts":"1998-06-01T00:00:00Z","event_type":"action","user_id":"a"}),
    ];
    std::fs::write(&file, format!("{}\n{}\n", lines[0], lines[1])).unwrap();
    let data = dir.path().join("data");
    run_json(
        &data,
        &["import", file.to_str().unwrap(), "--rebase-to", "today"],
    );
    assert_eq!(run_json(&data, &["usage", "--days", "1"])["mau"], 1);
    assert_eq!(run_json(&data, &["usage", "--days", "29"])["mau"], 1);
    assert_eq!(run_json(&data, &["usage", "--days", "30"])["mau"], 2);
}

#[test]
fn wrong_usage_exits_with_2_and_names_the_value() {
    let dir = folder();
    for (arguments, says) in [
        (
            &["usage", "--days", "0"][..],
            "days is 0; allowed is 1 to 365",
        ),
        (&["usage", "--days", "many"], "many"),
        (&["usage", "--end", "2026-13-01"], "2026-13-01"),
        (&["usage", "--tz", "Moon"], "Moon"),
        (&["rollup", "--day", "soon"], "soon"),
        (
            &["import", "/dev/null", "--rebase-to", "tomorrow"],
            "tomorrow",
        ),
        (&["import", "-", "--rebase-to", "today"], "standard input"),
        (&["serve", "--listen", "nowhere"], "nowhere"),
        (&["serve", "--rollup-at", "25:00"], "25:00"),
        (&["demo", "--users", "0"], "at least 1"),
        (&["fly"], "fly"),
        (&[], "Usage"),
    ] {
        let output = run(dir.path(), arguments);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments:?}: {}",
            stderr(&output)
        );
        assert!(
            stderr(&output).contains(says),
            "{arguments:?}: {}",
            stderr(&output)
        );
        assert!(output.stdout.is_empty());
    }
    let output = run(dir.path(), &["import", "/nowhere/events.ndjson"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("/nowhere/events.ndjson"));
}

#[test]
fn next_to_a_running_server_a_command_that_needs_the_folder_names_it() {
    let dir = folder();
    let server = Server::start(dir.path());
    server.post(&batch([event("action", "u", "f")]));
    for (arguments, says) in [
        (&["demo"][..], "POST /api/analytics/demo"),
        (&["serve", "--listen", "127.0.0.1:0"], "--data-dir"),
    ] {
        let output = run(dir.path(), arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let told = stderr(&output);
        assert!(told.contains("echopilot serve (process"), "{told}");
        assert!(told.contains(&server.url), "{told}");
        assert!(told.contains(says), "{arguments:?}: {told}");
    }
    assert_eq!(server.usage("")["total_events"], 1);
}

#[test]
fn the_command_line_and_http_give_the_same_result() {
    let dir = folder();
    run_json(dir.path(), &["demo", "--events", "5000", "--users", "100"]);
    let end = chrono::Utc::now().date_naive().to_string();
    let arguments = [
        "usage",
        "--days",
        "90",
        "--end",
        &end,
        "--tz",
        "America/Lima",
    ];
    let mut from_cli = run_json(dir.path(), &arguments);
    let server = Server::start(dir.path());
    let mut from_http = server.usage(&format!("?days=90&end={end}&tz=America/Lima"));
    for answer in [&mut from_cli, &mut from_http] {
        answer.as_object_mut().unwrap().remove("ts");
    }
    assert_eq!(from_cli, from_http);
    assert!(from_cli["total_events"].as_u64().unwrap() > 4_900);
}

/// All events of a data folder.
fn exported(data_dir: &Path) -> Vec<Value> {
    let server = Server::start(data_dir);
    let path = "/api/analytics/export?days=365&format=ndjson";
    let (status, lines) = server.get_bytes(path, &[("x-dash-key", KEY)]);
    assert_eq!(status, 200);
    let events = serde_json::Deserializer::from_slice(&lines).into_iter();
    events.map(|event| event.unwrap()).collect()
}

#[test]
fn equal_seeds_make_equal_demos_and_events_are_never_mixed_with_them() {
    let [one, two, plain] = [folder(), folder(), folder()];
    let demo = ["demo", "--events", "3000", "--users", "50", "--seed", "7"];
    for (dir, switches) in [(&one, &[][..]), (&two, &[]), (&plain, &["--plain"])] {
        let made = run_json(dir.path(), &[&demo, switches].concat());
        assert_eq!(made["events"], 3000);
    }
    let events = exported(one.path());
    assert_eq!(events.len(), 3000);
    assert_eq!(events, exported(two.path()));
    assert!(events.iter().all(|event| event["event_id"].is_string()));
    let plain = exported(plain.path());
    assert_eq!(plain.len(), 3000);
    assert!(plain.iter().all(|event| event["event_id"].is_null()));
    let output = run(one.path(), &["demo"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("holds events already"));
    let usage = run_json(one.path(), &["usage", "--days", "90"]);
    assert!(usage["mau"].as_u64().unwrap() > 30);
    assert!(usage["funnel_steps"]["page_view"].as_u64() > usage["funnel_steps"]["action"].as_u64());
}
