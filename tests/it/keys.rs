//! Keys: both headers, read keys, names, and files that change while the server runs.

use serde_json::{Value, json};

use crate::harness::{KEY, PATIENCE, Server, batch, echopilot, event, folder, run};
use crate::public_limits::until;

const READ_KEY: &str = "a-key-to-read-with-1f";

fn bearer(key: &str) -> String {
    format!("Bearer {key}")
}

/// Sends a request, and returns its status and the code of its error.
fn status_of(url: &str, method: &str, path: &str, header: (&str, &str)) -> (u16, String) {
    let body = match (method, path) {
        ("POST", "/api/analytics/query") => r#"{"metric":"active_users"}"#,
        ("POST", "/api/analytics/cohorts") => r#"{"name":"new","users":["ann"]}"#,
        ("POST", "/api/analytics/erasures") => r#"{"users":["unknown-user"]}"#,
        ("POST", "/api/analytics/exports") => r#"{"to":"x://nowhere"}"#,
        ("POST", "/api/analytics/imports") => r#"{"files":[]}"#,
        _ => "",
    };
    let request = ureq::http::Request::builder()
        .method(method)
        .uri(format!("{url}{path}"))
        .header("content-type", "application/json")
        .header(header.0, header.1)
        .body(body)
        .unwrap();
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(PATIENCE))
        .build()
        .into();
    let mut response = agent.run(request).expect("a response");
    let status = response.status().as_u16();
    if path.ends_with("/live") && status == 200 {
        // It does not end.
        return (status, String::new());
    }
    let body = response.body_mut().read_to_string().unwrap_or_default();
    let body: Value = serde_json::from_str(&body).unwrap_or_default();
    (
        status,
        body["error"].as_str().unwrap_or_default().to_owned(),
    )
}

#[test]
fn a_read_key_may_query_and_nothing_else() {
    let dir = folder();
    let mut command = echopilot(dir.path());
    command.env("ECHOPILOT_READ_KEY", format!("grafana:{READ_KEY}"));
    let server = Server::start_as(command);
    server.post(&batch([event("action", "ann", "home")]));
    let list = json!({"name": "testers", "users": ["ann"]});
    assert_eq!(server.ask("/api/analytics/cohorts", &list).0, 200);
    let reads = [
        ("GET", "/api/analytics/usage"),
        ("POST", "/api/analytics/query"),
        ("GET", "/api/analytics/status"),
        ("GET", "/api/analytics/cohorts"),
    ];
    let others = [
        ("GET", "/api/analytics/live"),
        ("GET", "/api/analytics/export?format=ndjson"),
        ("GET", "/api/analytics/users/ann/events"),
        ("GET", "/api/analytics/audit"),
        ("GET", "/api/analytics/jobs"),
        ("GET", "/api/analytics/jobs/1"),
        ("DELETE", "/api/analytics/jobs/1"),
        ("POST", "/api/analytics/cohorts"),
        ("DELETE", "/api/analytics/cohorts/testers"),
        ("POST", "/api/analytics/rollup"),
        ("POST", "/api/analytics/clock?confirm=2020-01-01"),
        ("POST", "/api/analytics/expire"),
        ("POST", "/api/analytics/seal"),
        ("POST", "/api/analytics/rebuild"),
        ("POST", "/api/analytics/verify"),
        ("POST", "/api/analytics/exports"),
        ("POST", "/api/analytics/imports"),
        ("POST", "/api/analytics/demo"),
        ("DELETE", "/api/analytics/users/ann"),
        ("POST", "/api/analytics/erasures"),
    ];
    let headers = |key: &str| {
        [
            ("x-dash-key", key.to_owned()),
            ("authorization", bearer(key)),
            ("authorization", format!("bearer  {key}")),
        ]
    };
    let status = |method, path, header: &(&str, String)| {
        status_of(&server.url, method, path, (header.0, &header.1))
    };
    for header in headers(READ_KEY) {
        for (method, path) in reads {
            assert_eq!(status(method, path, &header).0, 200, "{method} {path}");
        }
        for (method, path) in others {
            let expected = (403, "read_key".to_owned());
            assert_eq!(status(method, path, &header), expected, "{method} {path}");
        }
    }
    // Nothing was changed.
    assert_eq!(server.usage("")["total_events"], 1);
    let (_, cohorts) = server.get("/api/analytics/cohorts");
    assert_eq!(cohorts["cohorts"], json!([list]));
    // A read key does not show the users of a list.
    let (_, cohorts) = server.get_with("/api/analytics/cohorts", &[("x-dash-key", READ_KEY)]);
    assert_eq!(cohorts["cohorts"], json!([{"name": "testers"}]));
    for header in headers(KEY) {
        // The demo takes seconds.
        let requests = reads.into_iter().chain(others);
        for (method, path) in requests.filter(|(_, path)| !path.ends_with("/demo")) {
            let status = status(method, path, &header).0;
            assert!(
                ![401, 403].contains(&status) || path.ends_with("/imports"),
                "{method} {path}: {status}"
            );
        }
    }
    for header in headers("another-key-than-those") {
        for (method, path) in reads.into_iter().chain(others).take(5) {
            let expected = (401, "unauthorized".to_owned());
            assert_eq!(status(method, path, &header), expected, "{method} {path}");
        }
    }
    // Too many wrong keys count together, whatever header has them; right ones wait too.
    let wrong = headers("another-key-than-those");
    let expected = (429, "too_many_wrong_keys".to_owned());
    for right in headers(READ_KEY).into_iter().chain(headers(KEY)) {
        // Every three seconds one more is allowed.
        until("a right key waits", || {
            let mut wrong = wrong.iter().cycle().take(1_000);
            assert!(wrong.any(|wrong| status("GET", "/api/analytics/usage", wrong) == expected));
            status("GET", "/api/analytics/usage", &right) == expected
        });
    }
    let traced = server.stop();
    assert!(
        !traced.contains(READ_KEY) && !traced.contains(KEY),
        "{traced}"
    );
}

#[test]
fn changed_files_of_keys_are_read_without_a_signal() {
    let dir = folder();
    let (data, dash, read) = (
        dir.path().join("data"),
        dir.path().join("dash"),
        dir.path().join("read"),
    );
    std::fs::write(&dash, format!("anna:{KEY}\n")).unwrap();
    std::fs::write(&read, format!("{READ_KEY}\n")).unwrap();
    let mut command = echopilot(&data);
    command
        .env("ECHOPILOT_DASH_KEY_FILE", &dash)
        .env("ECHOPILOT_READ_KEY_FILE", &read)
        .env("ECHOPILOT_LIMIT_WRONG_KEYS", "0");
    let mut server = Server::start_with_its_key(&mut command);
    let usage = |server: &Server, key: &str| {
        let header = [("authorization", bearer(key))];
        let header = header
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        server.get_with("/api/analytics/usage", &header).0
    };
    assert_eq!((usage(&server, KEY), usage(&server, READ_KEY)), (200, 200));
    let new = "another-key-to-read-2e";
    std::fs::write(&read, format!("a:{READ_KEY}\nb:{new}\n")).unwrap();
    server.wait_for("Reloaded the read keys: 2 valid");
    assert_eq!((usage(&server, new), usage(&server, READ_KEY)), (200, 200));
    std::fs::write(&read, format!("b:{new}\n")).unwrap();
    server.wait_for("Reloaded the read keys: 1 valid");
    assert_eq!((usage(&server, new), usage(&server, READ_KEY)), (200, 401));
    // A key of both roles changes nothing, and neither does a weak one.
    std::fs::write(&read, KEY).unwrap();
    server.wait_for("also a dashboard key");
    std::fs::write(&read, "grafana:password12345678").unwrap();
    server.wait_for("\"grafana\" is too weak");
    assert_eq!((usage(&server, new), usage(&server, KEY)), (200, 200));
}

#[test]
fn a_wrong_read_key_stops_the_start_with_a_message() {
    let dir = folder();
    for (key, says) in [
        ("short", "16 or more"),
        (KEY, "also a dashboard key"),
        ("", "there are 0 read keys"),
    ] {
        let mut command = echopilot(dir.path());
        let output = command
            .env("ECHOPILOT_DASH_KEY", KEY)
            .args(["serve", "--listen", "127.0.0.1:0", "--read-key", key])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(says) && !said.contains(KEY), "{said}");
    }
    let both = [
        "serve",
        "--read-key",
        READ_KEY,
        "--read-key-file",
        "/nowhere",
    ];
    assert_eq!(run(dir.path(), &both).status.code(), Some(2));
}
