//! The tracking plan: declared event types, what becomes of events that do not follow it, and the
//! quarantine, also when the process dies.

use std::path::{Path, PathBuf};

use chrono::{TimeDelta, Utc};
use echopilot_analytics::config::Mapping;
use echopilot_analytics::engine::{COMMAND_LINE, Engine, QuarantineRequest};
use echopilot_analytics::import::{Options, Source};
use echopilot_analytics::plan::Plan;
use echopilot_analytics::progress::Progress;
use echopilot_analytics::sdk::{self, Product};
use echopilot_analytics::store::Clock;
use echopilot_analytics::window::WindowRequest;
use serde_json::{Value, json};

use crate::faults::with_fault;
use crate::harness::{
    Answer, KEY, Server, answer_of, batch, echopilot, engine, event, folder, ingest, post_to, run,
    run_json,
};

const PLAN: &str = "/api/analytics/plan";
const QUARANTINE: &str = "/api/analytics/quarantine";

/// Sends JSON with the key.
fn put(server: &Server, path: &str, body: &Value) -> Answer {
    let config = ureq::Agent::config_builder().http_status_as_error(false);
    let agent: ureq::Agent = config.build().into();
    let mut response = agent
        .put(format!("{}{path}", server.url))
        .header("content-type", "application/json")
        .header("x-dash-key", KEY)
        .send(body.to_string())
        .expect("a response");
    let status = response.status().as_u16();
    let body = response.body_mut().read_to_string().expect("a body");
    (status, serde_json::from_str(&body).expect("JSON"))
}

/// A plan of a shop: `signup` is a type, purchases need an amount, and `beta` is unknown.
fn plan(mode: &str) -> Value {
    json!({
        "event_types": [{"name":"signup","description":"A new account"}],
        "conversions": [{"name":"purchase","mode":mode,
            "metadata":{"properties":{"amount":{"type":"number"}},"required":["amount"]}}],
        "paths": [{"path":"/order/:id"}],
    })
}

fn file(dir: &Path, name: &str, json: &Value) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, json.to_string()).unwrap();
    path
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

#[test]
fn declared_types_are_counted_before_and_after_the_seal_and_a_restart() {
    let dir = folder();
    let server = Server::start(dir.path());
    let (status, answer) = server.post(&batch([event("signup", "ann", "form")]));
    assert_eq!(
        (status, &answer["errors"][0]["code"]),
        (400, &json!("bad_event_type"))
    );
    assert_eq!(put(&server, PLAN, &plan("warn")).0, 200);
    let events = [
        event("signup", "ann", "form"),
        event("signup", "bob", "form"),
        event("signup", "bob", "form"),
        event("page_view", "ann", "order/17"),
        event("page_view", "bob", "order/18"),
    ];
    let (status, answer) = server.post(&batch(events));
    assert_eq!((status, &answer["logged"]), (200, &json!(5)), "{answer}");
    let (_, answer) = server.post(&batch([event("other", "ann", "form")]));
    assert_eq!(answer["errors"][0]["code"], "bad_event_type");
    let check = |server: &Server| {
        let usage = server.usage("?days=1");
        let (_, raw) = server.get_bytes("/api/analytics/usage?days=1", &[("x-dash-key", KEY)]);
        let raw = String::from_utf8(raw).unwrap();
        // In funnel order, and then by name.
        let steps = r#""funnel_steps":{"page_view":2,"action":0,"conversion":0,"signup":3}"#;
        assert!(raw.contains(steps), "{raw}");
        assert_eq!(usage["feature_usage"], json!({"form":3,"order/:id":2}));
        let ask = |query: Value| server.ask("/api/analytics/query", &query).1["rows"].clone();
        let types = json!({"metric":"event_types","days":1});
        assert_eq!(
            ask(types)[3],
            json!({"event_type":"signup","events":3,"users":2})
        );
        // From states, from events by columns or lake, and as a step.
        let active = |filter: Value| {
            ask(json!({"metric":"active_users","days":1,"filter":filter}))[0]["dau"].clone()
        };
        assert_eq!(active(json!({"event_type":"signup"})), 2);
        assert_eq!(active(json!({"event_type":"signup","feature":"form"})), 2);
        let scanned = json!({"metric":"event_types","days":1,"filter":{"feature":"form"}});
        assert_eq!(ask(scanned)[3]["events"], 3);
        let funnel = json!({"metric":"funnel","days":1,
            "steps":[{"event_type":"signup"},{"event_type":"page_view"}]});
        assert_eq!(ask(funnel)[1]["users"], 2);
    };
    check(&server);
    server.stop();
    run_json(dir.path(), &["seal"]);
    let server = Server::start(dir.path());
    check(&server);
    // The plan is kept.
    let (_, kept) = server.get(PLAN);
    assert_eq!(kept["plan"]["event_types"][0]["name"], "signup");
    assert_eq!(server.rollup().0, 200);
    server.stop();
    run_json(dir.path(), &["rebuild"]);
    let server = Server::start(dir.path());
    check(&server);
    server.stop();
    assert_eq!(run_json(dir.path(), &["verify"])["damage"], json!([]));
}

#[test]
fn events_that_do_not_follow_the_plan_are_reported_or_quarantined_and_replayed() {
    let dir = folder();
    let server = Server::start(dir.path());
    let good = json!({"event_type":"conversion","user_id":"ann","feature":"purchase",
        "metadata":{"amount":5}});
    let bad = json!({"event_type":"conversion","user_id":"bob","feature":"purchase",
        "metadata":{"amount":"5 EUR"},"event_id":"b1"});
    let without_id = json!({"event_type":"conversion","feature":"purchase"});
    put(&server, PLAN, &plan("warn"));
    let (_, answer) = server.post(&batch([good.clone(), without_id.clone()]));
    assert_eq!(
        (&answer["logged"], &answer["notes"][0]["code"]),
        (&json!(2), &json!("plan_metadata"))
    );
    assert!(answer.get("quarantined").is_none(), "{answer}");
    put(&server, PLAN, &plan("quarantine"));
    let send = || server.post(&batch([good.clone(), bad.clone(), without_id.clone()]));
    let (status, answer) = send();
    assert_eq!(
        (status, &answer["logged"], &answer["quarantined"]),
        (200, &json!(1), &json!(2))
    );
    assert_eq!(answer["notes"][0]["index"], 1);
    // The same again: one has an id.
    assert_eq!(send().1["quarantined"], 2);
    let (status, list) = server.get(&format!("{QUARANTINE}?limit=2"));
    assert_eq!((status, &list["count"]), (200, &json!(3)), "{list}");
    assert_eq!(list["next"], 1);
    assert_eq!(list["events"][0]["code"], "plan_metadata");
    let (_, rest) = server.get(&format!("{QUARANTINE}?before=1"));
    assert_eq!(
        (rest["events"].as_array().unwrap().len(), &rest["next"]),
        (1, &Value::Null)
    );
    let of_bob = [&list, &rest]
        .into_iter()
        .flat_map(|page| page["events"].as_array().unwrap());
    let of_bob = of_bob.filter(|one| one["event"]["user_id"] == "bob");
    let of_bob: Vec<&Value> = of_bob.collect();
    assert_eq!(of_bob.len(), 1);
    assert_eq!(of_bob[0]["event"]["metadata"]["amount"], "5 EUR");
    let reason = of_bob[0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("metadata/amount: "), "{reason}");
    assert_eq!(server.usage("?days=1")["total_events"], 4);
    let (_, status) = server.get("/api/analytics/status");
    assert_eq!(status["quarantine"]["events"], 3);
    let (_, page) = server.get_bytes("/metrics", &[("x-dash-key", KEY)]);
    let page = String::from_utf8(page).unwrap();
    assert!(
        page.contains("echopilot_plan_quarantined_total{code=\"plan_metadata\"} "),
        "{page}"
    );
    // Nothing changes as long as the plan does not.
    let replay = || server.ask(&format!("{QUARANTINE}/replay"), &json!({})).1;
    let counts = |answer: &Value| {
        ["replayed", "duplicates", "ignored", "kept"].map(|name| answer[name].as_u64().unwrap())
    };
    assert_eq!(counts(&replay()), [0, 0, 0, 3]);
    put(&server, PLAN, &plan("accept"));
    // An event that is held is stored by its replay, and not a second time.
    let (_, answer) = server.post(&batch([bad.clone()]));
    assert_eq!(
        (&answer["logged"], &answer["quarantined"]),
        (&json!(0), &json!(1))
    );
    assert_eq!(counts(&replay()), [3, 0, 0, 0]);
    assert_eq!(counts(&replay()), [0, 0, 0, 0]);
    assert_eq!(server.usage("?days=1")["total_events"], 7);
    let (_, answer) = server.post(&batch([bad.clone()]));
    assert_eq!(answer["duplicates"], 1);
    // And an event that is stored is not held.
    put(&server, PLAN, &plan("quarantine"));
    let (_, answer) = send();
    assert_eq!(
        (&answer["duplicates"], &answer["quarantined"]),
        (&json!(1), &json!(1))
    );
    server.stop();
    assert_eq!(run_json(dir.path(), &["verify"])["damage"], json!([]));
}

#[test]
fn quarantined_events_are_exactly_once_whenever_the_process_dies() {
    let strict = plan("quarantine");
    let events: Vec<Value> = (0..6)
        .map(|n| {
            let metadata = if n % 2 == 0 {
                json!({"amount":n})
            } else {
                json!({})
            };
            json!({"event_type":"conversion","user_id":format!("u{n}"),"event_id":format!("e{n}"),
                "feature":"purchase","metadata":metadata})
        })
        .collect();
    let body = batch(events).to_string();
    for kind in ["kill", "torn"] {
        let mut points = 0;
        for at in 1.. {
            let (dir, other) = (folder(), folder());
            let flag = other.path().join("flag");
            let file = file(other.path(), "plan.json", &strict);
            run_json(dir.path(), &["plan", "set", path(&file)]);
            let mut command = echopilot(dir.path());
            with_fault(&mut command, dir.path(), kind, at);
            command
                .env("FAULT_FLAG", &flag)
                .env("ECHOPILOT_DASH_KEY", KEY);
            let server = Server::try_start(&mut command).expect("no fault before the flag");
            std::fs::write(&flag, "").unwrap();
            let acknowledged = matches!(post_to(&server.url, body.as_bytes(), &[]), Ok((200, _)));
            let lax = json!({"event_types":[{"name":"signup"}]}).to_string();
            let ended = acknowledged && {
                let send = |request: ureq::RequestBuilder<ureq::typestate::WithBody>,
                            body: &str| {
                    let request = request.header("x-dash-key", KEY);
                    let sent = request
                        .header("content-type", "application/json")
                        .send(body);
                    sent.is_ok()
                };
                let url = |path: &str| format!("{}{path}", server.url);
                send(ureq::put(url(PLAN)), &lax)
                    && send(ureq::post(url(&format!("{QUARANTINE}/replay"))), "")
            };
            server.kill();
            let server = Server::start(dir.path());
            let stored = || server.usage("?days=1")["total_events"].as_u64().unwrap();
            let held = || server.get(QUARANTINE).1["count"].as_u64().unwrap();
            let (were_stored, were_held) = (stored(), held());
            let all = were_stored + were_held;
            if acknowledged {
                assert_eq!(
                    all, 6,
                    "{kind} at {at}: {were_stored} stored, {were_held} held"
                );
            } else {
                assert!(
                    all <= 6,
                    "{kind} at {at}: {were_stored} stored, {were_held} held"
                );
            }
            if ended {
                assert_eq!(were_held, 0, "{kind} at {at}");
            }
            // The client sends them again, and then they are replayed.
            put(&server, PLAN, &serde_json::from_str(&lax).unwrap());
            assert_eq!(post_to(&server.url, body.as_bytes(), &[]).unwrap().0, 200);
            server.ask(&format!("{QUARANTINE}/replay"), &json!({}));
            assert_eq!((stored(), held()), (6, 0), "{kind} at {at}");
            server.stop();
            if ended {
                break;
            }
            points += 1;
        }
        assert!(points >= 8, "{kind}: only {points} points were tried");
    }
}

/// Lines of purchases with ids, of which every second one has no amount.
fn purchases(count: usize) -> String {
    let ts = Utc::now() - TimeDelta::days(1);
    let line = |n: usize| {
        let metadata = match n % 2 {
            0 => json!({"amount":n}),
            _ => json!({}),
        };
        let event = json!({"ts":ts.to_rfc3339(),"event_type":"conversion","feature":"purchase",
            "user_id":format!("u{n}"),"event_id":format!("e{n}"),"metadata":metadata});
        format!("{event}\n")
    };
    (0..count).map(line).collect()
}

fn set_plan(engine: &Engine, plan: &Value) {
    let plan = Plan::parse(plan.to_string().as_bytes()).unwrap();
    engine.by(COMMAND_LINE, Utc::now()).set_plan(plan).unwrap();
}

/// The numbers of stored and of quarantined events.
fn stored_and_held(engine: &Engine) -> (u64, u64) {
    let usage = engine.usage(&WindowRequest::default(), Utc::now()).unwrap();
    let stored = usage.numbers.total_events;
    (stored, engine.quarantine_status().events)
}

#[test]
fn an_import_treats_events_as_ingest_does() {
    let (dir, other) = (folder(), folder());
    let events = other.path().join("events.ndjson");
    std::fs::write(&events, purchases(10)).unwrap();
    let import = || run_json(dir.path(), &["import", path(&events)]);
    let set = |plan: &Value| {
        let file = file(other.path(), "plan.json", plan);
        run_json(dir.path(), &["plan", "set", path(&file)]);
    };
    let counts = |imported: &Value| {
        ["accepted", "duplicates", "refused", "quarantined"]
            .map(|name| imported[name].as_u64().unwrap_or(0))
    };
    set(&plan("quarantine"));
    let imported = import();
    assert_eq!(counts(&imported), [5, 0, 0, 5]);
    assert_eq!(imported["notes"], json!({"plan_metadata":5}));
    let list = run_json(dir.path(), &["quarantine", "list"]);
    assert_eq!(list["count"], 5);
    // The same reason as that of a client's event.
    let now = Utc::now();
    let open = engine(dir.path(), now);
    let bad = json!({"event_type":"conversion","user_id":"eve","feature":"purchase"});
    assert_eq!(ingest(&open, &[bad], now).quarantined, 1);
    let all = open.quarantine(QuarantineRequest::default()).unwrap();
    assert_eq!(all.events.len(), 6);
    for event in &all.events {
        assert_eq!(
            (event.code, &event.reason),
            (all.events[0].code, &all.events[0].reason)
        );
    }
    drop(open);
    // Again: each is stored or quarantined once.
    assert_eq!(counts(&import()), [0, 5, 0, 5]);
    assert_eq!(run_json(dir.path(), &["quarantine", "list"])["count"], 6);
    // What is quarantined stays there until it is replayed, also if it follows the plan now.
    set(&plan("warn"));
    assert_eq!(counts(&import()), [0, 5, 0, 5]);
    assert_eq!(
        run_json(dir.path(), &["quarantine", "replay"])["replayed"],
        6
    );
    assert_eq!(counts(&import()), [0, 10, 0, 0]);
    set(&plan("quarantine"));
    assert_eq!(counts(&import()), [0, 10, 0, 0]);
    // And with a plan that only warns, all is stored and counted.
    let warned = folder();
    let file = file(other.path(), "warn.json", &plan("warn"));
    run_json(warned.path(), &["plan", "set", path(&file)]);
    let imported = run_json(warned.path(), &["import", path(&events)]);
    assert_eq!(counts(&imported), [10, 0, 0, 0]);
    assert_eq!(imported["notes"], json!({"plan_metadata":5}));
}

#[test]
fn an_import_quarantines_each_event_once_whenever_the_process_dies() {
    let other = folder();
    let events = other.path().join("events.ndjson");
    std::fs::write(&events, purchases(20)).unwrap();
    let mut points = 0;
    let mut held_and_not_stored = 0;
    for at in 1.. {
        let dir = folder();
        set_plan(&engine(dir.path(), Utc::now()), &plan("quarantine"));
        let mut command = echopilot(dir.path());
        with_fault(&mut command, dir.path(), "kill", at);
        let output = command.args(["import", path(&events)]).output().unwrap();
        let ended = output.status.success();
        let now = Utc::now();
        let open = engine(dir.path(), now);
        let (stored, held) = stored_and_held(&open);
        if ended {
            assert_eq!((stored, held), (10, 10));
        } else {
            assert!(stored <= 10 && held <= 10, "{at}: {stored} and {held}");
            // Of one group: what is stored was quarantined before.
            assert!(stored == 0 || held == 10, "{at}: {stored} and {held}");
            held_and_not_stored += usize::from(held == 10 && stored == 0);
        }
        let sources = [Source::File(events.clone())];
        let import = || {
            open.import(&sources, &Options::default(), now, &Progress::default())
                .unwrap()
        };
        let again = import();
        assert_eq!((again.refused, again.quarantined), (0, 10), "{at}");
        assert_eq!(again.accepted + again.duplicates, 10, "{at}");
        assert_eq!(stored_and_held(&open), (10, 10), "{at}");
        set_plan(&open, &plan("accept"));
        open.by(COMMAND_LINE, now).replay_quarantine().unwrap();
        assert_eq!(stored_and_held(&open), (20, 0), "{at}");
        if ended {
            break;
        }
        points += 1;
    }
    assert!(points >= 15, "only {points} points were tried");
    assert!(held_and_not_stored >= 3, "{held_and_not_stored}");
}

#[test]
fn quarantined_events_are_erased_accessed_and_expire() {
    let dir = folder();
    let now = Utc::now();
    let engine = engine(dir.path(), now);
    let plan = Plan::parse(plan("quarantine").to_string().as_bytes()).unwrap();
    engine.by(COMMAND_LINE, now).set_plan(plan).unwrap();
    let bad = |user: &str| json!({"event_type":"conversion","user_id":user,"feature":"purchase"});
    let answer = ingest(&engine, &[bad("ann"), bad("bob"), bad("bob")], now);
    assert_eq!((answer.quarantined, answer.logged, answer.ok), (3, 0, true));
    let mut lines = Vec::new();
    let sent = engine.user_events("bob", |part| {
        lines.extend(part);
        Ok(())
    });
    sent.unwrap();
    let lines = String::from_utf8(lines).unwrap();
    assert_eq!(lines.matches("\"user_id\":\"bob\"").count(), 2, "{lines}");
    let receipt = engine.erase(&["bob".to_owned()], Some(100), now).unwrap();
    assert_eq!(receipt.erased.held, 2);
    let content = std::fs::read_to_string(dir.path().join("held_events.ndjson")).unwrap();
    assert!(
        !content.contains("bob") && content.contains("ann"),
        "{content}"
    );
    // The user is gone: nothing of theirs is held any more.
    let answer = ingest(&engine, &[bad("bob")], now);
    assert_eq!((answer.quarantined, answer.ignored), (0, 1));
    let count = || {
        engine
            .quarantine(QuarantineRequest::default())
            .unwrap()
            .count
    };
    let malformed = sdk::read(Product::Segment, r#"{"type":"tap","userId":"cat"}"#).unwrap();
    let mapping = Mapping {
        conversions: "".parse().unwrap(),
        sdk_traits: sdk::Traits::Drop,
    };
    let pending = engine.ingest_mapped(None, &malformed, &mapping, None, now, |_, _| {});
    assert_eq!(answer_of(pending.unwrap()).rejected, 1);
    let expire = |days: i64| {
        let later = (now + TimeDelta::days(days)).date_naive();
        engine.expire(later, Clock::Confirmed).unwrap();
        count()
    };
    assert_eq!(count(), 2);
    // Malformed messages go after a week.
    assert_eq!([expire(7), expire(8), expire(90), expire(91)], [2, 1, 1, 0]);
}

#[test]
fn a_wrong_plan_changes_nothing_and_a_damaged_one_stops_the_start() {
    let (dir, other) = (folder(), folder());
    let good = file(other.path(), "good.json", &plan("warn"));
    let set = run_json(dir.path(), &["plan", "set", path(&good)]);
    assert_eq!(set["event_types"][0]["name"], "signup");
    assert_eq!(run_json(dir.path(), &["plan", "show"]), set);
    assert_eq!(run_json(dir.path(), &["plan", "check", path(&good)]), set);
    let wrong = json!({"features":[{"name":"a","metadata":{"type":"text"}}]});
    let wrong = file(other.path(), "wrong.json", &wrong);
    for command in ["set", "check"] {
        let output = run(dir.path(), &["plan", command, path(&wrong)]);
        assert_eq!(output.status.code(), Some(2));
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.contains("features[0].metadata/type"), "{message}");
    }
    let server = Server::start(dir.path());
    let (status, answer) = put(&server, PLAN, &json!({"paths":[{"path":"a"}]}));
    assert_eq!((status, &answer["error"]), (400, &json!("bad_plan")));
    assert_eq!(server.get(PLAN).1["plan"], set);
    // Next to a server.
    assert_eq!(run_json(dir.path(), &["plan", "show"]), set);
    assert_eq!(run_json(dir.path(), &["plan", "set", path(&good)]), set);
    let (_, before) = server.post(&batch([json!({"event_type":"nothing"}), json!(7)]));
    assert_eq!(before["rejected"], 2);
    let list = run_json(dir.path(), &["quarantine", "list", "--limit", "5"]);
    assert_eq!(list["count"], 0);
    let rejections = &list["rejections"];
    assert_eq!(
        rejections["by_code"],
        json!({"bad_event":1,"bad_event_type":1})
    );
    assert_eq!(rejections["recent"][1]["code"], "bad_event_type");
    assert_eq!(
        run_json(dir.path(), &["quarantine", "replay"])["replayed"],
        0
    );
    let (_, answer) = server.post(&batch([event("action", "ann", "search")]));
    assert_eq!(answer["logged"], 1);
    let inferred = run_json(dir.path(), &["plan", "infer", "--days", "1"]);
    assert_eq!(
        inferred["features"],
        json!([{"name":"search","mode":"warn"}])
    );
    server.stop();
    assert_eq!(run_json(dir.path(), &["plan", "infer"]), inferred);
    let stored = dir.path().join("plan.json");
    let content = std::fs::read_to_string(&stored).unwrap();
    std::fs::write(&stored, content.replace("signup", "signdn")).unwrap();
    let output = run(dir.path(), &["usage"]);
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && message.contains("plan.json"),
        "{message}"
    );
}
