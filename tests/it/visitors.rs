//! Daily visitors: events without a user count as users of one day, and nothing of the client's
//! address or User-Agent is stored.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use echopilot_analytics::engine::{Cancel, Engine, IngestAnswer};
use echopilot_analytics::event::read_batch;
use echopilot_analytics::metrics::query::Query;
use echopilot_analytics::visitors::Visitors;
use echopilot_analytics::window::WindowRequest;
use serde_json::{Value, json};

use crate::harness::{KEY, Server, echopilot, engine, folder, log_lines, run_json};

/// A User-Agent that occurs nowhere else.
const AGENT: &str = "Visitor-Agent/7.31 (Plan 9; armv6)";
const ADDRESSES: [&str; 3] = ["198.51.100.77", "203.0.113.201", "2001:db8:77:31::c0de"];

fn anonymous(feature: &str) -> Value {
    json!({"event_type": "page_view", "feature": feature})
}

/// A server whose requests all come through a trusted proxy.
fn behind_proxy(dir: &Path) -> Server {
    let mut command = echopilot(dir);
    command
        .env("ECHOPILOT_VISITORS", "daily")
        .env("ECHOPILOT_TRUSTED_PROXIES", "127.0.0.1");
    Server::start_as(command)
}

fn post(server: &Server, events: &[Value], headers: &[(&str, &str)]) {
    let body = json!({ "events": events }).to_string();
    let (status, answer) = server.post_raw(body.as_bytes(), headers);
    assert_eq!(status, 200, "{answer}");
}

/// The ids of the users of the log, in its order.
fn users(dir: &Path) -> Vec<Value> {
    let lines = log_lines(dir).into_iter();
    lines.map(|line| line["user_id"].clone()).collect()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| match path.is_dir() {
            true => files(&path),
            false => vec![path],
        })
        .collect()
}

fn is_visitor(id: &Value) -> bool {
    let id = id.as_str().unwrap_or_default();
    id.len() == 17 && id.starts_with('~')
}

#[test]
fn a_visitor_has_an_id_by_address_and_agent_and_neither_is_stored() {
    let dir = folder();
    let mut server = behind_proxy(dir.path());
    let forwarded = |address: &'static str| ("x-forwarded-for", address);
    let agent = ("user-agent", AGENT);
    let [a, b, c] = ADDRESSES.map(forwarded);
    post(&server, &[anonymous("one"), anonymous("two")], &[a, agent]);
    post(&server, &[anonymous("three")], &[a, agent]);
    let ann = json!({"event_type": "action", "user_id": "ann"});
    let junk = json!({"event_type": "action", "user_id": "undefined"});
    post(&server, &[ann, junk], &[a, agent]);
    for other in [[b, agent], [c, agent], [a, ("user-agent", "Other/1.0")]] {
        post(&server, &[anonymous("other")], &other);
    }
    // Visitors who ask not to be recognized, and a proxy that does not name the client.
    for anonymous_one in [
        vec![a, agent, ("sec-gpc", "1")],
        vec![a, agent, ("dnt", "1")],
        vec![agent],
        vec![agent, ("x-forwarded-for", "unknown")],
    ] {
        post(&server, &[anonymous("unknown")], &anonymous_one);
    }
    let users = users(dir.path());
    assert!(is_visitor(&users[0]), "{users:?}");
    assert_eq!(users[1..3], [users[0].clone(), users[0].clone()]);
    assert_eq!(users[3..5], [json!("ann"), users[0].clone()]);
    let others = &users[5..8];
    assert!(others.iter().all(is_visitor), "{others:?}");
    assert!(!others.contains(&users[0]) && others[0] != others[1] && others[1] != others[2]);
    assert_eq!(
        users[8..],
        [Value::Null, Value::Null, Value::Null, Value::Null]
    );
    let today = server.usage("?days=1");
    assert_eq!(
        (&today["dau"], &today["visitors"]),
        (&json!(5.0), &Value::Null)
    );
    let (_, page) = server.get_bytes("/metrics", &[("x-dash-key", KEY)]);
    let page = String::from_utf8(page).unwrap();
    assert!(
        page.contains("\nechopilot_visitor_events_total 7\n"),
        "{page}"
    );
    let traced = server.stop();
    run_json(dir.path(), &["seal"]);
    let hidden = [AGENT, "Plan 9", "Other/1.0"].iter().chain(&ADDRESSES);
    for text in hidden {
        assert!(!traced.contains(text), "{text}: {traced}");
        for file in files(dir.path()) {
            let bytes = std::fs::read(&file).unwrap();
            let found = memchr::memmem::find(&bytes, text.as_bytes());
            assert_eq!(found, None, "{text} is in {}", file.display());
        }
    }
    // The key of the day was in memory alone.
    server = behind_proxy(dir.path());
    assert_eq!(server.usage("?days=1")["dau"], json!(5.0), "sealed");
    post(&server, &[anonymous("one")], &[a, agent]);
    assert_eq!(server.usage("?days=1")["dau"], json!(6.0));
    assert_eq!(server.usage("?days=2")["visitors"], json!("daily"));
}

#[test]
fn without_trusted_proxies_the_address_is_that_of_the_connection_and_off_is_off() {
    for (setting, expected) in [("daily", 1.0), ("off", 0.0)] {
        let dir = folder();
        let mut command = echopilot(dir.path());
        command.env("ECHOPILOT_VISITORS", setting);
        let server = Server::start_as(command);
        for address in ADDRESSES {
            post(
                &server,
                &[anonymous("one")],
                &[("x-forwarded-for", address)],
            );
        }
        let usage = server.usage("");
        assert_eq!(
            (&usage["dau"], &usage["total_events"]),
            (&json!(expected), &json!(3))
        );
    }
}

/// Sends a batch of a client to an engine of this process.
fn send(
    engine: &Engine,
    visitors: &Arc<Visitors>,
    address: &str,
    body: &Value,
    now: DateTime<Utc>,
) -> IngestAnswer {
    let visitor = visitors.visitor(address.parse().unwrap(), AGENT.as_bytes());
    let body = body.to_string();
    let batch = read_batch(body.as_bytes()).unwrap();
    let pending = engine.ingest_batch(batch, Some(visitor), now).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(pending.answer()).unwrap()
}

#[test]
fn on_the_next_day_a_visitor_is_another_user_and_responses_over_days_say_so() {
    let dir = folder();
    let evening: DateTime<Utc> = "2026-11-20T23:30:00Z".parse().unwrap();
    let morning = evening + TimeDelta::hours(1);
    let later = evening + TimeDelta::hours(26);
    let open = engine;
    let engine = open(dir.path(), evening);
    let visitors = Arc::new(Visitors::default());
    let [address, ..] = ADDRESSES;
    let event =
        |ts: DateTime<Utc>| json!({"events": [{"event_type": "action", "ts": ts.to_rfc3339()}]});
    send(&engine, &visitors, address, &event(evening), evening);
    send(&engine, &visitors, address, &event(morning), morning);
    // Late events of the day before: its key is still there. Of an earlier day it is not.
    send(&engine, &visitors, address, &event(evening), morning);
    drop(engine);
    let engine = open(dir.path(), later);
    send(&engine, &visitors, address, &event(evening), later);
    let ids = users(dir.path());
    assert!(
        is_visitor(&ids[0]) && is_visitor(&ids[1]) && ids[0] != ids[1],
        "{ids:?}"
    );
    assert_eq!(ids[2..], [ids[0].clone(), Value::Null]);

    let window = |days: i64, end: &str| WindowRequest {
        days: Some(days),
        end: Some(end.parse().unwrap()),
        ..WindowRequest::default()
    };
    for (days, end, mau, expected) in [
        (1, "2026-11-20", 1, None),
        (1, "2026-11-21", 1, None),
        (2, "2026-11-21", 2, Some("daily")),
        (30, "2026-11-21", 2, Some("daily")),
        (30, "2026-11-19", 0, None),
    ] {
        let usage = engine.usage(&window(days, end), later).unwrap();
        let found = (usage.numbers.mau, usage.visitors);
        assert_eq!(found, (mau, expected), "{days} days to {end}");
    }
    for (query, expected) in [
        (
            json!({"metric": "trends", "days": 1, "end": "2026-11-21", "series": [{"measure": "users"}]}),
            Value::Null,
        ),
        (
            json!({"metric": "trends", "days": 2, "end": "2026-11-21", "series": [{"measure": "users"}]}),
            json!("daily"),
        ),
        // The rolling numbers of a day reach back.
        (
            json!({"metric": "active_users", "days": 1, "end": "2026-11-21"}),
            json!("daily"),
        ),
        (
            json!({"metric": "retention", "days": 7, "end": "2026-11-21"}),
            json!("daily"),
        ),
    ] {
        let parsed = Query::parse(query.to_string().as_bytes()).unwrap();
        let answer = engine.query(&parsed, later, &Cancel::default()).unwrap();
        let found = answer.notes.get("visitors").cloned().unwrap_or_default();
        assert_eq!(found, expected, "{query}");
    }
}

#[test]
fn an_event_that_is_sent_again_from_another_address_counts_once() {
    let dir = folder();
    let now: DateTime<Utc> = "2026-11-20T12:00:00Z".parse().unwrap();
    let engine = engine(dir.path(), now);
    let visitors = Arc::new(Visitors::default());
    let body =
        json!({"events": [{"event_type": "action", "event_id": "a", "ts": now.to_rfc3339()}]});
    let sent = ADDRESSES.map(|address| send(&engine, &visitors, address, &body, now));
    assert_eq!(sent.map(|answer| answer.duplicates), [0, 1, 1]);
    let usage = engine.usage(&WindowRequest::default(), now).unwrap();
    assert_eq!((usage.numbers.total_events, usage.numbers.mau), (1, 1));
}
