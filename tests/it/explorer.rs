//! Single events in pages, several queries in one request, and exports of the events that meet a
//! filter.

use std::collections::BTreeMap;

use chrono::{DateTime, Days, TimeDelta, Utc};
use echopilot_analytics::engine::{Cancel, Engine};
use echopilot_analytics::metrics::cohort::Cohort;
use echopilot_analytics::metrics::query::Query;
use echopilot_analytics::store::CompactionScope;
use serde_json::{Value, json};

use crate::harness::{
    KEY, Server, batch, echopilot, engine, folder, ingest, numbers_below, printed, run, run_json,
};

/// Yesterday at noon.
fn noon() -> DateTime<Utc> {
    let day = Utc::now().date_naive() - Days::new(1);
    day.and_hms_opt(12, 0, 0).unwrap().and_utc()
}

/// Events of a few users at a few times of three days, numbered in the order of their arrival.
fn crowd(now: DateTime<Utc>, numbers: std::ops::Range<u64>, seed: u64) -> Vec<Value> {
    let mut below = numbers_below(seed);
    let features = ["cart", "docs"];
    let event = |number: u64| {
        let ts = now - TimeDelta::days(below(3) as i64) - TimeDelta::minutes(below(3) as i64);
        let user = ["", "ann", "bob", "cyd"][below(4) as usize];
        json!({
            "ts": ts.to_rfc3339(), "event_type": "action", "user_id": user,
            "feature": features[below(2) as usize], "url": format!("/{number}"),
            "metadata": {"number": number, "nested": {"list": [1, 2.50]}},
        })
    };
    numbers.map(event).collect()
}

/// The place of an event in a page: later ones first, then by user, then the last of the log first.
fn order(event: &Value) -> (std::cmp::Reverse<String>, String, std::cmp::Reverse<u64>) {
    let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
    let ts: DateTime<Utc> = text("ts").parse().unwrap();
    let number = event["metadata"]["number"].as_u64().unwrap();
    (
        std::cmp::Reverse(ts.to_rfc3339()),
        text("user_id"),
        std::cmp::Reverse(number),
    )
}

fn page(engine: &Engine, request: &Value, now: DateTime<Utc>) -> (Vec<Value>, Value) {
    let query = Query::parse(request.to_string().as_bytes()).unwrap();
    let answer = engine.query(&query, now, &Cancel::default()).unwrap();
    let answer = serde_json::to_value(answer).unwrap();
    (
        answer["rows"].as_array().unwrap().clone(),
        answer["next"].clone(),
    )
}

fn numbers(events: &[Value]) -> Vec<u64> {
    let number = |event: &Value| event["metadata"]["number"].as_u64().unwrap();
    events.iter().map(number).collect()
}

#[test]
fn pages_have_each_event_once_while_events_arrive_are_sealed_and_compacted() {
    let now = noon();
    let conditions = [
        json!({}),
        json!({"feature": "cart"}),
        json!({"cohort": "some", "feature": "docs"}),
    ];
    for (limit, filter) in [3, 17, 64].into_iter().zip(conditions) {
        let dir = folder();
        let opened = engine(dir.path(), now);
        let cohort = json!({"name": "some", "users": ["ann", "cyd"]});
        let cohort = Cohort::parse(cohort.to_string().as_bytes()).unwrap();
        opened.by("test", now).set_cohort(cohort).unwrap();
        let first = crowd(now, 0..300, 5);
        let meets = |event: &&Value| {
            let is_of_cohort = ["ann", "cyd"].contains(&event["user_id"].as_str().unwrap());
            filter["feature"].is_null()
                || (event["feature"] == filter["feature"]
                    && (filter["cohort"].is_null() || is_of_cohort))
        };
        let mut expected: Vec<Value> = first.iter().filter(meets).cloned().collect();
        expected.sort_by_key(order);
        for events in first.chunks(100) {
            ingest(&opened, events, now);
        }
        let mut request = json!({"metric": "events", "days": 4, "limit": limit, "filter": filter});
        let (mut found, mut arrived) = (Vec::new(), 300);
        for step in 0.. {
            let (rows, next) = page(&opened, &request, now);
            assert!(rows.is_sorted_by_key(order), "{limit}");
            found.extend(rows);
            if next.is_null() {
                break;
            }
            request["before"] = next;
            match step % 4 {
                0 => {
                    let more = crowd(now, arrived..arrived + 4, arrived);
                    ingest(&opened, &more, now);
                    arrived += 4;
                }
                1 => drop(opened.store().seal().unwrap()),
                2 => {
                    let later = now + TimeDelta::days(step / 4 % 2);
                    opened.compact(later, CompactionScope::Full).unwrap();
                }
                _ => {}
            }
        }
        assert!(found.is_sorted_by_key(order), "{limit}");
        found.retain(|event| event["metadata"]["number"].as_u64().unwrap() < 300);
        assert_eq!(numbers(&found), numbers(&expected), "{limit}");
        // All of them at once, after a restart.
        drop(opened);
        let request = json!({"metric": "events", "days": 4, "limit": 1_000, "filter": filter});
        let (mut all, next) = page(&engine(dir.path(), now), &request, now);
        assert_eq!(next, Value::Null);
        all.retain(|event| event["metadata"]["number"].as_u64().unwrap() < 300);
        assert_eq!(numbers(&all), numbers(&expected), "{limit}");
    }
}

#[test]
fn an_event_is_shown_as_it_was_sent_and_days_after_the_page_are_not_read() {
    let dir = folder();
    let now = noon();
    let opened = engine(dir.path(), now);
    let event = |days: i64, metadata: Value| {
        let ts = now - TimeDelta::days(days);
        json!({"ts": ts.to_rfc3339(), "event_type": "conversion", "user_id": "ann\u{202e}",
               "url": "/a?b=\u{1b}", "event_id": format!("e{days}"), "metadata": metadata})
    };
    ingest(
        &opened,
        &[
            event(0, json!({"price": 1.5, "a.b": {"c": null}})),
            event(1, json!({})),
            event(2, json!({})),
        ],
        now,
    );
    opened.store().seal().unwrap();
    drop(opened);
    let oldest = dir.path().join("events");
    let oldest = oldest.join(format!("dt={}", (now - TimeDelta::days(2)).date_naive()));
    std::fs::remove_dir_all(oldest).unwrap();
    let opened = engine(dir.path(), now);
    let (rows, next) = page(&opened, &json!({"metric": "events", "limit": 2}), now);
    let received_at = rows[0]["received_at"].clone();
    assert!(
        received_at
            .as_str()
            .unwrap()
            .starts_with(&now.date_naive().to_string())
    );
    let expected = json!({
        "ts": now.format("%Y-%m-%dT%H:%M:%S.000000Z").to_string(), "event_type": "conversion",
        "user_id": "ann\u{202e}", "feature": null, "metadata": {"price": 1.5, "a.b": {"c": null}},
        "url": "/a?b=\u{1b}", "event_id": "e0", "received_at": received_at,
    });
    assert_eq!(rows[0], expected);
    assert_eq!(rows[1]["event_id"], "e1");
    let query = json!({"metric": "events", "limit": 2, "before": next});
    let query = Query::parse(query.to_string().as_bytes()).unwrap();
    assert!(opened.query(&query, now, &Cancel::default()).is_err());
}

#[test]
fn a_read_key_sees_no_events_and_several_queries_have_a_result_each() {
    let dir = folder();
    let mut command = echopilot(dir.path());
    let read_key = "a-read-key-for-the-tests";
    command.env("ECHOPILOT_READ_KEY", read_key);
    let server = Server::start_as(command);
    let now = Utc::now();
    for events in crowd(now, 0..200, 9).chunks(100) {
        assert_eq!(server.post(&batch(events.to_vec())).0, 200);
    }
    let events = json!({"metric": "events", "limit": 5});
    let types = json!({"metric": "event_types", "filter": {"metadata.number": {"max": 9}}});
    let users = json!({"metric": "active_users", "days": 3});
    let request = json!({"queries": [types, {"metric": "colours"}, users, events, {"days": 1}]});
    let (as_reader, as_owner) = ([("x-dash-key", read_key)], [("x-dash-key", KEY)]);
    let ask = |path: &str, body: &Value, headers: &[(&str, &str)]| -> (u16, Value) {
        let (status, body) = server.ask_with(path, body, headers);
        (status, serde_json::from_slice(&body).unwrap())
    };
    let (status, answer) = ask("/api/analytics/query", &events, &as_reader);
    assert_eq!(
        (status, &answer["error"]),
        (403, &json!("read_key")),
        "{answer}"
    );
    let by_url = "/api/analytics/query?metric=events&limit=5";
    assert_eq!(server.get_with(by_url, &as_reader).0, 403);
    let (status, by_url) = server.get(by_url);
    assert_eq!((status, by_url["rows"].as_array().unwrap().len()), (200, 5));
    for headers in [&as_reader[..], &as_owner] {
        let (status, answer) = ask("/api/analytics/queries", &request, headers);
        assert_eq!(status, 200, "{answer}");
        let answers = answer["answers"].as_array().unwrap();
        assert_eq!(answers.len(), 5);
        for (query, answer) in request["queries"].as_array().unwrap().iter().zip(answers) {
            let (_, alone) = ask("/api/analytics/query", query, headers);
            let without_time = |answer: &Value| {
                let mut answer = answer.clone();
                answer.as_object_mut().unwrap().remove("ts");
                answer
            };
            assert_eq!(without_time(answer), without_time(&alone), "{query}");
        }
        assert_eq!(answers[0]["ok"], true, "{answer}");
        assert_eq!(answers[1]["error"], "bad_query", "{answer}");
        let is_reader = headers == as_reader;
        assert_eq!(answers[3]["ok"], !is_reader, "{answer}");
    }
    for (body, says) in [
        (json!({}), "queries"),
        (json!({"queries": []}), "0 queries"),
        (json!({"queries": vec![users; 21]}), "21 queries"),
        (json!({"queries": [1]}), "queries"),
        (json!({"queries": [types], "limit": 3}), "limit"),
    ] {
        let (status, answer) = ask("/api/analytics/queries", &body, &as_owner);
        assert_eq!(status, 400, "{body}");
        assert!(
            answer["message"].as_str().unwrap().contains(says),
            "{answer}"
        );
    }
    for (before, says) in [("x", "is not a cursor"), ("1.2", "is not a cursor")] {
        let wrong = json!({"metric": "events", "before": before});
        let (status, answer) = ask("/api/analytics/query", &wrong, &as_owner);
        assert_eq!(status, 400);
        assert!(
            answer["message"].as_str().unwrap().contains(says),
            "{answer}"
        );
    }
}

#[test]
fn an_export_has_the_events_that_meet_a_filter_over_http_and_on_the_command_line() {
    let dir = folder();
    let server = Server::start(dir.path());
    let now = Utc::now();
    let events = crowd(now, 0..300, 21);
    for events in events.chunks(100) {
        assert_eq!(server.post(&batch(events.to_vec())).0, 200);
    }
    let cohort = json!({"name": "some", "users": ["ann", "bob"]});
    assert_eq!(server.ask("/api/analytics/cohorts", &cohort).0, 200);
    server.stop();
    run_json(dir.path(), &["seal"]);
    let server = Server::start(dir.path());
    // Half of them are not sealed.
    let late: Vec<Value> = crowd(now, 300..400, 22);
    assert_eq!(server.post(&batch(late.clone())).0, 200);
    let all: Vec<&Value> = events.iter().chain(&late).collect();
    let path = |filter: &Value, format: &str| {
        let filter = filter.to_string();
        let fields = [
            ("filter", filter.as_str()),
            ("format", format),
            ("days", "5"),
        ];
        let query = serde_urlencoded::to_string(fields).unwrap();
        format!("/api/analytics/export?{query}")
    };
    let is = |event: &Value, name: &str, values: &[&str]| {
        values.contains(&event[name].as_str().unwrap())
    };
    type Meets<'a> = &'a dyn Fn(&Value) -> bool;
    let filters: [(Value, Meets<'_>); 4] = [
        (json!({}), &|_| true),
        (json!({"feature": "cart"}), &|event| {
            is(event, "feature", &["cart"])
        }),
        (
            json!({"metadata.number": {"min": 250, "max": 349}}),
            &|event| (250..350).contains(&event["metadata"]["number"].as_u64().unwrap()),
        ),
        (json!({"cohort": "some", "feature": "docs"}), &|event| {
            is(event, "user_id", &["ann", "bob"]) && is(event, "feature", &["docs"])
        }),
    ];
    let key = [("x-dash-key", KEY)];
    let mut lines = BTreeMap::new();
    for (filter, meets) in &filters {
        let (status, body) = server.get_bytes(&path(filter, "ndjson"), &key);
        assert_eq!(status, 200);
        let found: Vec<Value> = String::from_utf8(body.clone())
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let mut found = numbers(&found);
        found.sort_unstable();
        let expected: Vec<Value> = all
            .iter()
            .filter(|event| meets(event))
            .map(|&event| event.clone())
            .collect();
        assert_eq!(found, numbers(&expected), "{filter}");
        assert!(!found.is_empty());
        let (_, csv) = server.get_bytes(&path(filter, "csv"), &key);
        let mut csv = csv::Reader::from_reader(&csv[..]);
        assert_eq!(csv.records().count(), expected.len(), "{filter}");
        let (_, parquet) = server.get_bytes(&path(filter, "parquet"), &key);
        assert_eq!(
            (&parquet[..4], &parquet[parquet.len() - 4..]),
            (&b"PAR1"[..], &b"PAR1"[..])
        );
        // By the server, as it runs.
        let filter_text = filter.to_string();
        let options = ["events", "--filter", &filter_text, "--days", "5"];
        assert_eq!(
            printed(echopilot(dir.path()).args(options)),
            body,
            "{filter}"
        );
        lines.insert(filter_text, body);
    }
    let (status, wrong) = server.get("/api/analytics/export?filter=%7B%22colour%22%3A1%7D");
    assert_eq!(status, 400);
    assert!(
        wrong["message"].as_str().unwrap().contains("colour"),
        "{wrong}"
    );
    assert_eq!(server.get("/api/analytics/export?filter=1").0, 400);
    let (status, _) = server.get("/api/analytics/export?filter=%7B%22cohort%22%3A%22none%22%7D");
    assert_ne!(status, 200);
    let (_, audit) = server.get("/api/analytics/audit?limit=100");
    let audit = audit.to_string();
    assert!(
        audit.contains("x-ndjson, filtered") && !audit.contains("cart"),
        "{audit}"
    );
    // The end of the server has sealed the others, which changes the order.
    server.stop();
    let sorted = |lines: Vec<u8>| {
        let lines = String::from_utf8(lines).unwrap();
        let mut lines: Vec<String> = lines.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    for (filter, body) in lines {
        let options = ["events", "--filter", &filter, "--days", "5"];
        let printed = printed(echopilot(dir.path()).args(options));
        assert_eq!(sorted(printed), sorted(body), "{filter}");
    }
    let file = dir.path().join("events-of-test.csv");
    let file = file.to_str().unwrap();
    printed(echopilot(dir.path()).args(["events", file, "--days", "5"]));
    assert!(
        std::fs::read_to_string(file)
            .unwrap()
            .starts_with("ts,event_type,")
    );
    for arguments in [
        &["events", file][..],
        &["events", "events.zip"],
        &["events", "--filter", "{"],
    ] {
        assert!(
            !run(dir.path(), arguments).status.success(),
            "{arguments:?}"
        );
    }
}
