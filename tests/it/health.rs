//! Health, wrong paths, slow clients, starting and stopping.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{PATIENCE, Server, batch, echopilot, event, folder, post_to, run, run_json};

#[test]
fn health_reports_that_events_are_accepted() {
    let dir = folder();
    let server = Server::start(dir.path());
    assert_eq!(
        server.get_with("/health/live", &[]),
        (200, json!({"ok":true}))
    );
    let (status, body) = server.get_with("/health/ready", &[]);
    assert_eq!((status, &body["ok"]), (200, &json!(true)));
    assert_eq!(
        body["recovered_at_start"],
        json!({"events":0,"torn_bytes":0,"damaged":0})
    );
}

#[test]
fn unknown_paths_and_methods_get_the_common_error_response() {
    let dir = folder();
    let server = Server::start(dir.path());
    for path in [
        "/nothing",
        "/api/analytics",
        "/../../etc/passwd",
        "/%2e%2e/x",
        "/api/analytics/usage/x",
    ] {
        let (status, body) = server.get(path);
        assert_eq!(
            (status, &body["error"]),
            (404, &json!("not_found")),
            "{path}"
        );
    }
    for path in ["/api/analytics/event", "/api/analytics/rollup"] {
        let (status, body) = server.get(path);
        assert_eq!(
            (status, &body["error"]),
            (405, &json!("method_not_allowed")),
            "{path}"
        );
    }
}

#[test]
fn a_client_that_does_not_finish_its_head_is_disconnected() {
    let dir = folder();
    let server = Server::start(dir.path());
    let address = server.url.strip_prefix("http://").unwrap();
    let mut silent = TcpStream::connect(address).unwrap();
    let mut half = TcpStream::connect(address).unwrap();
    half.write_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Half:")
        .unwrap();
    for stream in [&mut silent, &mut half] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut rest = Vec::new();
        // The server closes the connection; a reset counts too.
        let _ = stream.read_to_end(&mut rest);
        let rest = String::from_utf8_lossy(&rest);
        assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 4"), "{rest}");
    }
    assert_eq!(server.get_with("/health/live", &[]).0, 200);
}

#[test]
fn the_first_start_creates_a_key_that_only_its_owner_can_read() {
    let dir = folder();
    let data = dir.path().join("new/logs");
    let server = Server::start_with_its_key(&mut echopilot(&data));
    let path = data.join("dash_key");
    let key = std::fs::read_to_string(&path).unwrap().trim().to_owned();
    assert_eq!(key.len(), 64);
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(
        server
            .get_with("/api/analytics/usage", &[("x-dash-key", &key)])
            .0,
        200
    );
    let traced = server.stop();
    assert!(traced.contains(path.to_str().unwrap()), "{traced}");
    assert!(!traced.contains(&key), "the key was shown");
    let server = Server::start_with_its_key(&mut echopilot(&data));
    assert_eq!(
        server
            .get_with("/api/analytics/usage", &[("x-dash-key", &key)])
            .0,
        200
    );
}

#[test]
fn two_keys_are_valid_at_once_and_weak_ones_are_rejected() {
    let dir = folder();
    let mut command = echopilot(dir.path());
    command.env(
        "ECHOPILOT_DASH_KEY",
        "first-key-of-the-two,second-key-of-the-two",
    );
    let server = Server::start_with_its_key(&mut command);
    for key in ["first-key-of-the-two", "second-key-of-the-two"] {
        assert_eq!(
            server
                .get_with("/api/analytics/usage", &[("x-dash-key", key)])
                .0,
            200
        );
    }
    drop(server);
    let output = run(
        dir.path(),
        &["serve", "--listen", "127.0.0.1:0", "--dash-key", "short"],
    );
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("16 or more"));
}

#[test]
fn a_stop_under_load_loses_no_acknowledged_event() {
    let dir = folder();
    let mut server = Server::start(dir.path());
    let accepted: u64 = std::thread::scope(|scope| {
        let url = &server.url;
        let clients: Vec<_> = (0..4)
            .map(|client| scope.spawn(move || send_until_refused(url, client)))
            .collect();
        while server.usage("?days=1")["total_events"].as_u64().unwrap() < 2_000 {}
        server.signal("TERM");
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .sum()
    });
    let stopping = Instant::now();
    assert!(server.wait().success());
    assert!(stopping.elapsed() < Duration::from_secs(20));
    let usage = run_json(dir.path(), &["usage", "--days", "1"]);
    let stored = usage["total_events"].as_u64().unwrap();
    // A batch whose response was cut off may be stored; an acknowledged one must be.
    assert!(
        stored >= accepted && accepted >= 2_000,
        "accepted {accepted}, stored {stored}"
    );
    assert!(
        (stored - accepted) <= 4 * 20,
        "accepted {accepted}, stored {stored}"
    );
    assert_eq!(usage["mau"].as_u64().unwrap(), stored);
}

/// Sends batches of 20 events until the server is gone; returns the number of acknowledged events.
fn send_until_refused(url: &str, client: usize) -> u64 {
    let mut accepted = 0;
    for number in 0.. {
        let events = batch(
            (0..20).map(|place| event("action", &format!("c{client}-{number}-{place}"), "f")),
        );
        match post_to(url, events.to_string().as_bytes(), &[]) {
            Ok((200, body)) => accepted += body["logged"].as_u64().unwrap(),
            _ => break,
        }
    }
    accepted
}
