//! Entity tags of the responses of the API: each has one, and it changes with the body.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::time::Instant;

use serde_json::{Value, json};

use crate::harness::{KEY, PATIENCE, Server, batch, echopilot, event, folder};

const API: &str = "/api/analytics";

/// A response: its status, its headers and its body.
struct Found {
    status: u16,
    headers: ureq::http::HeaderMap,
    body: Vec<u8>,
}

impl Found {
    fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }

    /// The body without the time of its computation.
    fn content(&self) -> Value {
        let mut body: Value = serde_json::from_slice(&self.body).expect("JSON");
        body.as_object_mut().unwrap().remove("ts");
        body
    }
}

fn send(
    server: &Server,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &Value,
) -> Found {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .allow_non_standard_methods(true)
        .timeout_global(Some(PATIENCE))
        .build()
        .into();
    let mut request = ureq::http::Request::builder()
        .method(method)
        .uri(format!("{}{path}", server.url));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let sent = if body.is_null() {
        agent.run(request.body(()).unwrap())
    } else {
        let request = request.header("content-type", "application/json");
        agent.run(request.body(body.to_string()).unwrap())
    };
    let (head, mut body) = sent.expect("the server responds").into_parts();
    let mut bytes = Vec::new();
    body.as_reader().read_to_end(&mut bytes).expect("a body");
    Found {
        status: head.status.as_u16(),
        headers: head.headers,
        body: bytes,
    }
}

/// Sends a request with the key, which must succeed, and returns its body.
fn done(server: &Server, method: &str, path: &str, body: &Value) -> Value {
    let key = [("x-dash-key", KEY)];
    let found = send(server, method, &format!("{API}/{path}"), &key, body);
    let text = String::from_utf8_lossy(&found.body);
    assert!(found.status < 300, "{method} {path}: {text}");
    serde_json::from_slice(&found.body).expect("JSON")
}

/// Makes the `n`th version of everything that can be changed; returns the id of a job and the token
/// of a share link.
fn change(server: &Server, n: u32) -> (String, String) {
    let mut used = event("action", &format!("user {n}"), &format!("feature {n}"));
    used["metadata"] = json!({format!("key {n}"): n});
    let wrong = json!({"event_type": format!("wrong {n}")});
    assert_eq!(server.post(&batch([used, wrong])).1["logged"], 1);
    let identify = json!({"type": "identify", "messageId": format!("message {n}"),
                          "userId": format!("user {n}"), "anonymousId": format!("visitor {n}")});
    let batch = json!({"batch": [identify]});
    assert_eq!(send(server, "POST", "/v1/batch", &[], &batch).status, 200);
    let report = json!({"kind": "report", "name": format!("version {n}"), "view": "overview",
                        "state": {}, "queries": [{"metric": "active_users"}]});
    done(server, "PUT", "reports/r", &report);
    let text = format!("release {n}");
    let note = json!({"date": "2026-11-01", "text": text});
    done(server, "PUT", "annotations/a", &note);
    let alert = json!({"name": text, "query": {"metric": "active_users", "days": 7},
                       "value": "rows[-1].dau", "when": {"below": 0},
                       "to": ["https://hooks.example.com/x"]});
    done(server, "PUT", "alerts/a", &alert);
    let plan = json!({"event_types": [{"name": format!("type {n}")}]});
    done(server, "PUT", "plan", &plan);
    done(
        server,
        "POST",
        "cohorts",
        &json!({"name": "c", "users": [text]}),
    );
    let link = done(server, "POST", "reports/r/links", &json!({}));
    let token = link["link"]["token"].as_str().unwrap().to_owned();
    let job = done(server, "POST", "seal", &Value::Null);
    let job = job["id"].as_str().unwrap().to_owned();
    let started = Instant::now();
    while done(server, "GET", &format!("jobs/{job}"), &Value::Null)["ended_at"].is_null() {
        assert!(started.elapsed() < PATIENCE, "the job does not end");
    }
    (job, token)
}

#[test]
fn every_response_of_the_api_has_an_entity_tag_that_changes_with_its_body() {
    let dir = folder();
    let mut serve = echopilot(dir.path());
    serve.env("ECHOPILOT_LIMIT_WRONG_KEYS", "0");
    let server = Server::start_as(serve);
    let (job, token) = change(&server, 1);
    done(&server, "POST", "demo", &Value::Null);
    let (_, document) = server.get_with("/openapi.json", &[]);
    let mut targets = BTreeMap::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let responses = &item["get"]["responses"];
        if !path.contains(API) {
            continue;
        }
        let is_json = !responses["200"]["content"]["application/json"].is_null();
        assert_eq!(!responses["304"].is_null(), is_json, "{path}");
        if !is_json {
            continue;
        }
        let id = if path.contains("jobs") {
            job.as_str()
        } else {
            "r"
        };
        let query = match path.rsplit('/').next() {
            Some("query") => "?metric=feature_usage",
            Some("values") => "?property=feature",
            _ => "",
        };
        let key = if path.ends_with("/shared") {
            token.as_str()
        } else {
            KEY
        };
        targets.insert(path.as_str(), (path.replace("{id}", id) + query, key));
    }
    assert!(targets.len() > 20, "{targets:?}");
    let ask = |path: &str, method: &str, more: &[(&str, &str)]| {
        let (target, key) = &targets[path];
        let headers = [&[("x-dash-key", *key)][..], more].concat();
        send(&server, method, target, &headers, &Value::Null)
    };
    let mut before = BTreeMap::new();
    for path in targets.keys().copied() {
        let found = ask(path, "GET", &[]);
        let text = String::from_utf8_lossy(&found.body);
        assert_eq!(found.status, 200, "{path}: {text}");
        let tag = found.header("etag").to_owned();
        assert!(tag.starts_with("W/\""), "{path} {tag}");
        let not_kept = ["alerts", "audit", "links", "quarantine"];
        let name = path.trim_start_matches("/api/analytics/");
        let is_kept = !not_kept.contains(&name.split('/').next().unwrap());
        let caching = if is_kept {
            "private, no-cache"
        } else {
            "no-store"
        };
        assert_eq!(found.header("cache-control"), caching, "{path}");
        assert!(found.header("vary").contains("authorization"), "{path}");
        before.insert(path, (tag, found.content()));
    }
    // Those that change by themselves: sizes and times of the process, and the states of alerts.
    let is_moving = |path: &str| path.ends_with("/status") || path.ends_with("/alerts");
    for (path, (tag, content)) in &before {
        for method in ["GET", "HEAD"] {
            let again = ask(path, method, &[("if-none-match", tag)]);
            if !is_moving(path) {
                assert_eq!(
                    (again.status, again.body.len()),
                    (304, 0),
                    "{method} {path}"
                );
                assert_eq!(again.header("etag"), tag, "{method} {path}");
            }
        }
        // A request with another tag, and one of a client that unpacks.
        let known = [("if-none-match", "\"other\""), ("accept-encoding", "gzip")];
        let packed = ask(path, "GET", &known);
        assert_eq!(packed.status, 200, "{path}");
        if !is_moving(path) {
            assert_eq!(packed.header("etag"), tag, "{path}");
            assert_eq!(ask(path, "GET", &[]).content(), *content, "{path}");
        }
        // The key comes first.
        let wrong = [("x-dash-key", "wrong"), ("if-none-match", tag.as_str())];
        let target = &targets[path].0;
        assert_eq!(
            send(&server, "GET", target, &wrong, &Value::Null).status,
            401,
            "{path}"
        );
    }
    change(&server, 2);
    let mut unchanged = BTreeSet::new();
    for (path, (tag, content)) in &before {
        let found = ask(path, "GET", &[("if-none-match", tag)]);
        if found.status == 304 {
            unchanged.insert(*path);
            assert!(
                is_moving(path) || ask(path, "GET", &[]).content() == *content,
                "{path}"
            );
        } else {
            assert_ne!(found.header("etag"), tag, "{path}");
            assert_ne!(found.content(), *content, "{path}");
        }
    }
    // The demo and a job that has ended.
    unchanged.retain(|path| !path.starts_with("/demo"));
    assert_eq!(unchanged, BTreeSet::from(["/api/analytics/jobs/{id}"]));
}

#[test]
fn streams_errors_and_responses_to_other_requests_have_no_entity_tag() {
    let dir = folder();
    let server = Server::start(dir.path());
    server.post(&batch([event("action", "ann", "f")]));
    let key = [("x-dash-key", KEY)];
    let query = json!({"metric": "active_users"});
    for (method, path, status, caching, body) in [
        ("GET", "export?format=ndjson", 200, "no-store", &Value::Null),
        ("GET", "users/ann/events", 200, "no-store", &Value::Null),
        ("GET", "query?metric=none", 400, "", &Value::Null),
        ("GET", "reports/none", 404, "", &Value::Null),
        ("POST", "query", 200, "no-store", &query),
    ] {
        let found = send(&server, method, &format!("{API}/{path}"), &key, body);
        assert_eq!(found.status, status, "{path}");
        assert_eq!(found.header("etag"), "", "{path}");
        assert_eq!(found.header("cache-control"), caching, "{path}");
    }
}
