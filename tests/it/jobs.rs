//! Long jobs over HTTP: started, followed, cancelled, and gone after a restart.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{KEY, PATIENCE, Server, batch, event, folder};

/// The key of the command line, which the server keeps in the data folder.
fn command_line_key(data_dir: &Path) -> String {
    let holder = std::fs::read_to_string(data_dir.join("holder")).unwrap();
    let server: Value = serde_json::from_str(holder.lines().nth(1).unwrap()).unwrap();
    server["key"].as_str().unwrap().to_owned()
}

/// Sends a request; returns its status, the header `Location`, and its body.
fn send(
    server: &Server,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &Value,
) -> (u16, String, Value) {
    let mut request = ureq::http::Request::builder()
        .method(method)
        .uri(format!("{}{path}", server.url))
        .header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(PATIENCE))
        .build()
        .into();
    let mut response = agent.run(request.body(body).unwrap()).expect("a response");
    let location = response.headers().get("location");
    let location = location.map(|location| location.to_str().unwrap().to_owned());
    let text = response.body_mut().read_to_string().unwrap();
    (
        response.status().as_u16(),
        location.unwrap_or_default(),
        serde_json::from_str(&text).unwrap_or_default(),
    )
}

/// Starts a job; returns its address.
fn start(server: &Server, method: &str, path: &str, body: &Value) -> String {
    let headers = [("x-dash-key", KEY), ("prefer", "respond-async")];
    let (status, location, job) = send(server, method, path, &headers, body);
    assert_eq!(status, 202, "{job}");
    assert!(
        location.ends_with(job["id"].as_str().unwrap()),
        "{location}"
    );
    location
}

/// Waits until a job is in a state.
fn wait(server: &Server, location: &str, is_reached: impl Fn(&Value) -> bool) -> Value {
    let started = Instant::now();
    loop {
        let (status, job) = server.get(location);
        assert_eq!(status, 200, "{job}");
        if is_reached(&job) {
            return job;
        }
        assert!(started.elapsed() < PATIENCE, "{job}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn has_ended(job: &Value) -> bool {
    !job["ended_at"].is_null()
}

/// A file that is read as it is written.
fn pipe(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    let made = Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    path
}

fn import(server: &Server, key: &str, file: &Path) -> String {
    let (status, location, job) = send(
        server,
        "POST",
        "/api/analytics/imports",
        &[("x-dash-key", key)],
        &json!({"files": [file]}),
    );
    assert_eq!(status, 202, "{job}");
    location
}

#[test]
fn jobs_are_started_followed_and_listed() {
    let dir = folder();
    let mut command = crate::harness::echopilot(dir.path());
    command.env("ECHOPILOT_BASE_PATH", "/stats");
    let mut server = Server::start_as(command);
    server.post(&batch([
        event("action", "ann", "home"),
        event("action", "ben", "home"),
    ]));
    // The address has the base path.
    server.url = server.url.replace("/stats", "");
    let none = Value::Null;
    let sealing = start(&server, "POST", "/api/analytics/seal", &none);
    assert!(
        sealing.starts_with("/stats/api/analytics/jobs/"),
        "{sealing}"
    );
    let sealed = wait(&server, &sealing, has_ended);
    assert_eq!(sealed["state"], "done");
    assert_eq!(
        (&sealed["kind"], &sealed["started_by"]),
        (&json!("seal"), &json!("dashboard"))
    );
    assert_eq!(sealed["result"]["events"], 2, "{sealed}");
    let rebuilding = start(&server, "POST", "/api/analytics/rebuild", &none);
    let rebuilt = wait(&server, &rebuilding, has_ended);
    assert_eq!(
        rebuilt["result"],
        json!({"days": 1, "changed": 0, "kept": 0})
    );
    let progress = json!({"unit": "days", "done": 1, "total": 1});
    assert_eq!(rebuilt["progress"], progress);
    let erasing = start(&server, "DELETE", "/api/analytics/users/ann", &none);
    let erased = wait(&server, &erasing, has_ended);
    assert_eq!(
        (&erased["result"]["users"], &erased["result"]["events"]),
        (&json!(1), &json!(1))
    );
    // The receipt has no id, and neither has the list.
    let users = json!({"users": ["ben"]});
    let erasing = start(&server, "POST", "/api/analytics/erasures", &users);
    assert_eq!(wait(&server, &erasing, has_ended)["result"]["events"], 1);
    assert_eq!(server.usage("")["total_events"], 0);
    let wrong = json!({"users": []});
    let failing = start(&server, "POST", "/api/analytics/erasures", &wrong);
    let failed = wait(&server, &failing, has_ended);
    assert_eq!(failed["state"], "failed");
    assert_eq!(
        (&failed["error"]["status"], &failed["error"]["code"]),
        (&json!(400), &json!("bad_users"))
    );
    let rolling = start(&server, "POST", "/api/analytics/rollup", &none);
    assert_eq!(wait(&server, &rolling, has_ended)["result"]["ok"], true);
    let verifying = start(&server, "POST", "/api/analytics/verify", &none);
    assert_eq!(
        wait(&server, &verifying, has_ended)["result"]["damage"],
        json!([])
    );
    let bucket = json!({"to": "x3://bucket"});
    let exporting = start(&server, "POST", "/api/analytics/exports", &bucket);
    assert_eq!(wait(&server, &exporting, has_ended)["state"], "failed");
    let (_, listed) = server.get("/api/analytics/jobs");
    let kinds: Vec<&str> = listed["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| job["kind"].as_str().unwrap())
        .collect();
    let expected = [
        "export", "verify", "rollup", "erasure", "erasure", "erasure", "rebuild", "seal",
    ];
    assert_eq!(kinds, expected);
    assert!(!listed.to_string().contains("ann") && !listed.to_string().contains("ben"));
    // What has ended cannot be cancelled.
    let (status, refused) = server.delete(&sealing);
    assert_eq!((status, &refused["error"]), (409, &json!("job_ended")));
    // Without the preference the response has the result.
    let (status, _, receipt) = send(
        &server,
        "DELETE",
        "/api/analytics/users/ann",
        &[("x-dash-key", KEY)],
        &none,
    );
    assert_eq!((status, &receipt["events"]), (200, &json!(0)));
}

#[test]
fn only_the_command_line_names_files_of_the_server() {
    let dir = folder();
    let data = dir.path().join("data");
    let server = Server::start(&data);
    let target = dir.path().join("export");
    for (path, body) in [
        ("/api/analytics/exports", json!({"to": target})),
        ("/api/analytics/imports", json!({"files": ["/etc/passwd"]})),
    ] {
        let key = [("x-dash-key", KEY)];
        let (status, _, refused) = send(&server, "POST", path, &key, &body);
        assert_eq!(
            (status, &refused["error"]),
            (403, &json!("command_line_only"))
        );
    }
    assert!(!target.exists());
    let key = command_line_key(&data);
    let key = [("x-dash-key", key.as_str())];
    for (path, body, code) in [
        (
            "exports",
            json!({"to": target, "for": "oracle"}),
            "bad_export",
        ),
        ("exports", json!({"to": target, "days": 0}), "bad_days"),
        ("exports", json!({"two": target}), "bad_export"),
        ("imports", json!({"file": "a"}), "bad_import"),
    ] {
        let path = format!("/api/analytics/{path}");
        let (status, _, refused) = send(&server, "POST", &path, &key, &body);
        assert_eq!((status, &refused["error"]), (400, &json!(code)), "{body}");
    }
    assert!(!target.exists());
    let (status, location, _) = send(
        &server,
        "POST",
        "/api/analytics/exports",
        &key,
        &json!({"to": target, "for": "bigquery", "since": "last"}),
    );
    assert_eq!(status, 202);
    let job = wait(&server, &location, has_ended);
    assert_eq!(
        (&job["state"], &job["started_by"]),
        (&json!("done"), &json!("command line"))
    );
    assert!(target.join("export.json").exists());
}

#[test]
fn queued_and_running_jobs_are_cancelled_and_change_nothing() {
    let dir = folder();
    let data = dir.path().join("data");
    let server = Server::start(&data);
    let key = command_line_key(&data);
    let pipes = ["first", "second"].map(|name| pipe(dir.path(), name));
    // Each waits until its file is written, from here on: opening waits for the reader.
    let imports = pipes.each_ref().map(|pipe| import(&server, &key, pipe));
    let open = |pipe| OpenOptions::new().write(true).open(pipe).unwrap();
    let [cancelled, read] = pipes.each_ref().map(open);
    for location in &imports {
        wait(&server, location, |job| job["state"] == "running");
    }
    let queued = start(&server, "POST", "/api/analytics/rebuild", &Value::Null);
    let (_, job) = server.get(&queued);
    assert_eq!(
        (&job["state"], &job["can_cancel"]),
        (&json!("queued"), &json!(true))
    );
    for location in [&queued, &imports[0]] {
        for _ in 0..2 {
            let (status, job) = server.delete(location);
            assert_eq!((status, &job["state"]), (200, &json!("cancelling")));
        }
    }
    let line = event("action", "ann", "home").to_string();
    // It may have ended already.
    let _ = writeln!(&cancelled, "{line}");
    writeln!(&read, "{line}").unwrap();
    drop((cancelled, read));
    for (location, state) in [
        (&imports[0], "cancelled"),
        (&imports[1], "done"),
        (&queued, "cancelled"),
    ] {
        let job = wait(&server, location, has_ended);
        assert_eq!(job["state"], state, "{job}");
    }
    assert_eq!(server.usage("")["total_events"], 1);
    assert_eq!(server.delete(&queued).1["state"], "cancelled");
}

#[test]
fn a_recorded_erasure_is_not_cancelled_and_continues_after_a_restart() {
    let dir = folder();
    let data = dir.path().join("data");
    let server = Server::start(&data);
    server.post(&batch([
        event("action", "ann", "home"),
        event("action", "ben", "home"),
    ]));
    let key = command_line_key(&data);
    let path = pipe(dir.path(), "events");
    let importing = import(&server, &key, &path);
    // The import has begun and holds up other jobs until the file ends.
    let held = OpenOptions::new().write(true).open(&path).unwrap();
    wait(&server, &importing, |job| job["state"] == "running");
    let erasing = start(&server, "DELETE", "/api/analytics/users/ann", &Value::Null);
    wait(&server, &erasing, |job| job["can_cancel"] == false);
    let (status, refused) = server.delete(&erasing);
    assert_eq!((status, &refused["error"]), (409, &json!("job_committed")));
    let recorded = || {
        let erasures = std::fs::read_to_string(data.join("erasures.json"));
        erasures.is_ok_and(|erasures| erasures.contains("ann"))
    };
    let started = Instant::now();
    while !recorded() {
        assert!(started.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    }
    server.kill();
    drop(held);
    let mut server = Server::start(&data);
    let (status, unknown) = server.get(&erasing);
    assert_eq!((status, &unknown["error"]), (404, &json!("unknown_job")));
    assert!(unknown["message"].as_str().unwrap().contains("erasure"));
    assert_eq!(server.delete(&erasing).0, 404);
    server.wait_for("Erased 1 users");
    assert_eq!(server.usage("")["total_events"], 1);
}
