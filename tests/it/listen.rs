//! The settings `--listen` and `--base-path`.

use serde_json::json;

use crate::harness::{KEY, Server, batch, echopilot, event, folder, post_to, run};

#[test]
fn the_server_listens_on_each_address_of_a_host() {
    for listen in ["localhost:0", ":0", "[::1]:0", "127.0.0.1:0", "*:0"] {
        let dir = folder();
        let mut command = echopilot(dir.path());
        command.env("ECHOPILOT_DASH_KEY", KEY);
        let Some(server) = Server::try_start_at(&mut command, listen) else {
            // The only address in this list that not every machine has.
            assert_eq!(listen, "[::1]:0");
            eprintln!("SKIPPED: this machine has no IPv6");
            continue;
        };
        let (_, port) = server.url.rsplit_once(':').unwrap();
        let hosts: &[&str] = match listen {
            "[::1]:0" => &["[::1]"],
            "127.0.0.1:0" => &["127.0.0.1"],
            _ => &["127.0.0.1", "localhost"],
        };
        for host in hosts {
            let body = batch([event("action", "u", "f")]).to_string();
            let url = format!("http://{host}:{port}");
            let (status, answer) = post_to(&url, body.as_bytes(), &[]).unwrap();
            assert_eq!((status, &answer["logged"]), (200, &json!(1)), "{listen}");
        }
        server.stop();
    }
}

#[test]
fn a_wrong_or_used_address_is_named() {
    let dir = folder();
    for (listen, code, says) in [
        ("localhost:99999", 2, "localhost:99999"),
        ("http://localhost:1", 2, "http://localhost:1"),
        ("no-such-host.invalid:1", 2, "no-such-host.invalid:1"),
        ("192.0.2.1:0", 1, "192.0.2.1:0"),
    ] {
        let output = run(dir.path(), &["serve", "--listen", listen]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(says), "{said}");
    }
    let server = Server::start(dir.path());
    let other = folder();
    let taken = server.url.strip_prefix("http://").unwrap();
    let output = run(other.path(), &["serve", "--listen", taken]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains(taken));
}

#[test]
fn all_routes_are_under_the_base_path_and_at_the_root() {
    let dir = folder();
    let mut command = echopilot(dir.path());
    command.env("ECHOPILOT_BASE_PATH", "/analytics/");
    let server = Server::start_as(command);
    let (root, path) = server.url.rsplit_once('/').unwrap();
    assert_eq!(path, "analytics");
    let body = batch([event("action", "u", "f")]).to_string();
    for url in [&server.url, root] {
        let (status, answer) = post_to(url, body.as_bytes(), &[]).unwrap();
        assert_eq!((status, &answer["logged"]), (200, &json!(1)), "{url}");
    }
    assert_eq!(server.usage("?days=1")["total_events"], 2);
    for path in [
        "/",
        "/health/ready",
        "/static/dashboard.js",
        "/static/js/telemetry.js",
        "/echo.js",
        "/demo/",
    ] {
        for url in [&server.url, root] {
            let answer = ureq::get(format!("{url}{path}")).call().unwrap();
            assert_eq!(answer.status(), 200, "{url}{path}");
        }
    }
    // Relative, so that it is right behind any proxy.
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .max_redirects(0)
        .build()
        .into();
    let answer = agent.get(&server.url).call().unwrap();
    let location = answer.headers()["location"].to_str().unwrap();
    assert_eq!((answer.status().as_u16(), location), (307, "analytics/"));
    let output = run(dir.path(), &["serve", "--base-path", "/api"]);
    assert_eq!(output.status.code(), Some(2));
}
