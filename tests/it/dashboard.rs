//! The requests of the dashboard: its own files, live events, the status, and the demo. What it
//! displays is tested in a browser, `tests/browser`.

use std::io::{BufRead, BufReader, Read};

use serde_json::{Value, json};
use ureq::http::Response;

use crate::harness::{KEY, PATIENCE, Server, batch, event, folder};

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .timeout_global(Some(PATIENCE))
        .build()
        .into()
}

fn get(server: &Server, path: &str) -> Response<ureq::Body> {
    let url = format!("{}{path}", server.url);
    agent().get(url).call().expect("the server responds")
}

fn header<'a>(response: &'a Response<ureq::Body>, name: &str) -> Vec<&'a str> {
    let values = response.headers().get_all(name);
    values.iter().map(|value| value.to_str().unwrap()).collect()
}

/// The live events of a server.
struct Live(BufReader<Box<dyn Read>>);

impl Live {
    fn open(server: &Server) -> Response<ureq::Body> {
        agent()
            .get(format!("{}/api/analytics/live", server.url))
            .header("x-dash-key", KEY)
            .call()
            .expect("the server responds")
    }

    fn of(server: &Server) -> Self {
        let response = Self::open(server);
        assert_eq!(response.status(), 200);
        assert_eq!(header(&response, "content-type"), ["text/event-stream"]);
        assert_eq!(
            header(&response, "cache-control"),
            ["no-store, no-transform"]
        );
        assert_eq!(header(&response, "x-accel-buffering"), ["no"]);
        Self(BufReader::new(Box::new(response.into_body().into_reader())))
    }

    /// The next message: its name and its data; `None` at the end.
    fn next(&mut self) -> Option<(String, Value)> {
        let mut name = String::new();
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some(found) = line.strip_prefix("event: ") {
                name = found.trim().into();
            } else if let Some(data) = line.strip_prefix("data: ") {
                return Some((name, serde_json::from_str(data).unwrap()));
            }
        }
    }
}

#[test]
fn the_page_may_run_only_its_own_scripts() {
    let dir = folder();
    let server = Server::start(dir.path());
    for path in ["/", "/demo/"] {
        let page = get(&server, path);
        assert_eq!(page.status(), 200);
        assert_eq!(header(&page, "content-type"), ["text/html; charset=utf-8"]);
        let [policy] = header(&page, "content-security-policy")[..] else {
            panic!("one policy");
        };
        for rule in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "require-trusted-types-for 'script'",
        ] {
            assert!(policy.contains(rule), "{policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        let html = page.into_body().read_to_string().unwrap();
        // Relative to the page, which may have any path behind a proxy.
        let names = html.split('"').filter(|name| name.contains("static/"));
        let names: Vec<&str> = names.collect();
        assert_eq!(names.len(), 6, "{html}");
        for name in names {
            let below = match path {
                "/demo/" => name.strip_prefix("../"),
                _ => Some(name),
            };
            let file = format!("/{}", below.expect("a relative address"));
            assert!(file.starts_with("/static/"), "{name}");
            assert_eq!(get(&server, &file).status(), 200, "{name}");
        }
        assert!(!html.contains("//"), "nothing is loaded from other hosts");
    }
    let moved = get(&server, "/demo");
    assert_eq!(
        (moved.status().as_u16(), header(&moved, "location")),
        (308, vec!["demo/"])
    );
    let script = get(&server, "/static/dashboard.js");
    assert_eq!(
        header(&script, "content-type"),
        ["text/javascript; charset=utf-8"]
    );
    let etag = header(&script, "etag")[0].to_owned();
    let again = agent()
        .get(format!("{}/static/dashboard.js", server.url))
        .header("if-none-match", &etag)
        .call()
        .unwrap();
    assert_eq!(again.status(), 304);
}

#[test]
fn a_wrong_path_is_a_page_for_a_person_and_json_for_a_program() {
    let dir = folder();
    let server = Server::start(dir.path());
    let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    let ask = |path: &str, accept: &str| {
        let url = format!("{}{path}", server.url);
        agent().get(url).header("accept", accept).call().unwrap()
    };
    for (path, root) in [
        ("/nothing", "./"),
        ("/nothing/", "../"),
        ("/api/analytics/nothing", "../../"),
        ("/static/a/b<script>", "../../"),
    ] {
        let page = ask(&path.replace('<', "%3C").replace('>', "%3E"), browser);
        assert_eq!(page.status(), 404, "{path}");
        assert_eq!(header(&page, "content-type"), ["text/html; charset=utf-8"]);
        assert_eq!(header(&page, "cache-control"), ["no-store"]);
        assert!(header(&page, "content-security-policy")[0].contains("default-src 'none'"));
        let html = page.into_body().read_to_string().unwrap();
        assert!(html.contains(&format!("href=\"{root}\"")), "{path}: {html}");
        assert!(!html.contains("script"), "{html}");
    }
    for accept in [
        "*/*",
        "application/json",
        "application/json, text/html;q=0.9",
    ] {
        let answer = ask("/nothing", accept);
        assert_eq!(answer.status(), 404);
        assert_eq!(header(&answer, "content-type"), ["application/json"]);
    }
    // What exists is not affected.
    assert_eq!(ask("/api/analytics/status", browser).status(), 401);
    let sent = agent()
        .post(format!("{}/nothing", server.url))
        .header("accept", browser)
        .send_empty()
        .unwrap();
    assert_eq!(header(&sent, "content-type"), ["application/json"]);
}

#[test]
fn live_events_are_streamed_until_the_server_stops() {
    let dir = folder();
    let server = Server::start(dir.path());
    server.post(&batch([event("page_view", "early", "first")]));
    let mut live = Live::of(&server);
    let (name, data) = live.next().unwrap();
    assert_eq!((name.as_str(), &data["accepted"]), ("before", &json!(1)));
    assert_eq!(data["events"][0]["user_id"], "early");
    let many = (0..3).map(|n| event("action", &format!("u{n}"), "f"));
    server.post(&batch(many));
    // One commit, or one after the other.
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let (name, data) = live.next().unwrap();
        assert_eq!(name, "events");
        let events = data["events"].as_array().unwrap().clone();
        assert_eq!(data["accepted"], json!(events.len()));
        seen.extend(events);
    }
    let users: Vec<&Value> = seen.iter().map(|event| &event["user_id"]).collect();
    assert_eq!(users, ["u0", "u1", "u2"]);
    for event in &seen {
        let line = event.to_string();
        assert!(!line.contains("127.0.0.1"), "no address: {line}");
    }
    server.signal("TERM");
    assert_eq!(live.next(), None);
    server.stop();
}

#[test]
fn rejected_and_duplicate_events_are_not_streamed() {
    let dir = folder();
    let server = Server::start(dir.path());
    let mut live = Live::of(&server);
    live.next();
    let one = json!({"event_type": "action", "user_id": "u", "event_id": "1"});
    server.post(&batch([one.clone()]));
    server.post(&batch([one, json!({"event_type": "tap"})]));
    server.post(&batch([event("action", "last", "f")]));
    let mut users = Vec::new();
    while !users.contains(&json!("last")) {
        let (_, data) = live.next().unwrap();
        let events = data["events"].as_array().unwrap().iter();
        users.extend(events.map(|event| event["user_id"].clone()));
    }
    assert_eq!(users, ["u", "last"]);
}

#[test]
fn live_streams_are_limited_and_need_the_key() {
    let dir = folder();
    let server = Server::start(dir.path());
    for path in ["/api/analytics/live", "/api/analytics/status"] {
        assert_eq!(get(&server, path).status(), 401, "{path}");
    }
    let streams: Vec<Live> = (0..16).map(|_| Live::of(&server)).collect();
    let (_, status) = server.get("/api/analytics/status");
    assert_eq!(status["watchers"], 16);
    assert_eq!(Live::open(&server).status(), 503);
    drop(streams);
}

#[test]
fn the_status_has_accepted_waiting_and_stored_events() {
    let dir = folder();
    let server = Server::start(dir.path());
    let (status, empty) = server.get("/api/analytics/status");
    assert_eq!(status, 200, "{empty}");
    assert_eq!(empty["store"]["log_events"], 0);
    assert_eq!(empty["waiting"]["since"], Value::Null);
    assert_eq!(empty["first_day"], Value::Null);
    assert_eq!(empty["rollup"]["last_day"], Value::Null);
    let yesterday = (chrono::Utc::now() - chrono::TimeDelta::days(1)).to_rfc3339();
    let old = json!({"event_type": "action", "user_id": "u", "ts": yesterday});
    server.post(&batch([old, event("action", "u", "f")]));
    let (_, status) = server.get("/api/analytics/status");
    assert_eq!(status["accepted"]["last_minute"], 2, "{status}");
    assert_eq!(status["accepted"]["since_start"], 2);
    assert_eq!(
        status["accepted"]["per_minute"].as_array().unwrap().len(),
        60
    );
    assert_eq!(status["waiting"]["events"], 2);
    assert!(status["waiting"]["since"].is_string());
    assert_eq!(status["writable"], true);
    assert_ne!(status["first_day"], status["last_day"]);
    server.rollup();
    let (_, status) = server.get("/api/analytics/status");
    assert_eq!(status["rollup"]["last_day"], status["first_day"]);
    server.stop();
    let server = Server::start(dir.path());
    let (_, status) = server.get("/api/analytics/status");
    assert_eq!(status["store"]["sealed_events"], 2);
    assert_eq!(status["store"]["states"], 2);
    assert!(status["store"]["sealed_bytes"].as_u64().unwrap() > 0);
    assert_eq!(status["waiting"]["events"], 0);
}

#[test]
fn the_demo_has_a_separate_folder_and_accepts_no_events() {
    let dir = folder();
    let server = Server::start(dir.path());
    let usage = "/demo/api/analytics/usage?days=365";
    assert_eq!(server.get(usage).0, 404);
    assert!(!dir.path().join("demo").exists(), "a query creates nothing");
    let fill = || {
        let url = format!("{}/api/analytics/demo", server.url);
        let mut response = agent()
            .post(url)
            .header("x-dash-key", KEY)
            .send_empty()
            .unwrap();
        let answer: Value =
            serde_json::from_str(&response.body_mut().read_to_string().unwrap()).unwrap();
        answer
    };
    let (made, again) = (fill(), fill());
    assert_eq!(
        (&made["made"], &again["made"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(made["events"], again["events"]);
    let (status, demo) = server.get(usage);
    assert_eq!((status, &demo["total_events"]), (200, &made["events"]));
    assert_eq!(server.usage("?days=365")["total_events"], 0);
    for path in ["event", "rollup", "live", "demo", "cohorts/a"] {
        let (status, _) = server.get(&format!("/demo/api/analytics/{path}"));
        assert_eq!(status, 404, "{path}");
    }
    let unknown = get(&server, usage);
    assert_eq!(unknown.status(), 401, "the demo has the same key");
    server.stop();
    let server = Server::start(dir.path());
    assert_eq!(server.get(usage).1["total_events"], made["events"]);
    let (_, status) = server.get("/demo/api/analytics/status");
    assert_eq!(status["store"]["sealed_events"], made["events"]);
}
