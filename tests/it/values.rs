//! The most used values of a property: exact from every kind of data, and never in part without
//! saying so.

use std::collections::BTreeMap;

use chrono::{DateTime, Days, TimeDelta, Utc};
use echopilot_analytics::engine::{Cancel, Engine, ValuesRequest};
use echopilot_analytics::metrics::query::Query;
use echopilot_analytics::store::CompactionScope;
use echopilot_analytics::window::WindowRequest;
use serde_json::{Value, json};

use crate::harness::{KEY, Server, batch, columns, echopilot, engine, folder, ingest, run_json};

const DAYS: i64 = 4;

/// Metadata of every kind.
fn odd_metadata() -> Vec<Value> {
    vec![
        json!({"plan": "pro", "seats": 10, "beta": true}),
        json!({"plan": "Pro", "seats": 10.0}),
        json!({"plan": "free", "seats": "10", "beta": "true"}),
        json!({"plan": null, "tags": ["a", "b", "a", ["c"]], "deep": {"plan": "pro", "n": [1, 2]}}),
        json!({"tags": "a", "deep": {"plan": {"x": 1}}}),
        json!({"a.b": 1, "a": {"b": 2, "c": false}}),
        json!({"a": {"b": 3}, "control\u{1}\u{7}\"": "line\nbreak\u{202e}\u{1b}[31m"}),
        json!({"tags": [], "deep": {}, "": "empty key"}),
        json!({}),
    ]
}

/// Events of the days before `now`, with the metadata above.
fn events(now: DateTime<Utc>, per_day: usize) -> Vec<Value> {
    let metadata = odd_metadata();
    let types = ["page_view", "action"];
    let event = |day: i64, at: usize| {
        let ts = now - TimeDelta::days(day) - TimeDelta::seconds(at as i64);
        json!({
            "ts": ts.to_rfc3339(), "event_type": types[at % 2],
            "user_id": format!("u{}", at % 5), "feature": format!("f{}", at % 3),
            "url": format!("/p/{}", at % 4), "metadata": metadata[at % metadata.len()],
        })
    };
    let days = 0..DAYS;
    days.flat_map(|day| (0..per_day).map(move |at| event(day, at)))
        .collect()
}

fn at_noon() -> DateTime<Utc> {
    let day = Utc::now().date_naive() - Days::new(1);
    day.and_hms_opt(12, 0, 0).unwrap().and_utc()
}

fn values(engine: &Engine, request: &ValuesRequest, now: DateTime<Utc>) -> Value {
    let answer = engine.values(request, now, &Cancel::default()).unwrap();
    serde_json::to_value(answer).unwrap()
}

fn request(property: &str) -> ValuesRequest {
    ValuesRequest {
        property: property.to_owned(),
        limit: Some(200),
        window: WindowRequest {
            days: Some(DAYS - 1),
            ..WindowRequest::default()
        },
        ..ValuesRequest::default()
    }
}

/// The number of events that a filter finds.
fn found(engine: &Engine, property: &str, condition: &Value, now: DateTime<Utc>) -> u64 {
    let query = json!({"metric": "event_types", "days": DAYS - 1, "filter": {property: condition}});
    let query = Query::parse(query.to_string().as_bytes()).unwrap();
    let answer = engine.query(&query, now, &Cancel::default()).unwrap();
    let rows = serde_json::to_value(answer.rows).unwrap();
    let rows = rows.as_array().unwrap().iter();
    rows.map(|row| row["events"].as_u64().unwrap()).sum()
}

/// Checks that each value has as many events as a filter for it finds, and that none is missing.
fn check(engine: &Engine, now: DateTime<Utc>) -> BTreeMap<String, Value> {
    let keys = values(engine, &request("metadata"), now);
    assert_eq!(keys["complete"], true, "{keys}");
    let mut kinds = BTreeMap::new();
    let mut names = vec!["event_type".to_owned(), "feature".into(), "url".into()];
    for key in keys["values"].as_array().unwrap() {
        let name = key["value"].as_str().unwrap().to_owned();
        let scalars = values(engine, &request(&name), now);
        let scalars: u64 = scalars["values"]
            .as_array()
            .unwrap()
            .iter()
            .map(|value| value["events"].as_u64().unwrap())
            .sum();
        // A list has several values.
        assert!(key["events"].as_u64().unwrap() <= scalars, "{key}");
        kinds.insert(name.clone(), json!([key["kind"], key["events"]]));
        names.push(name);
    }
    for name in names {
        let answer = values(engine, &request(&name), now);
        assert_eq!(answer["complete"], true, "{answer}");
        assert_eq!(answer["covered_from"], answer["window"]["from"]);
        let list = answer["values"].as_array().unwrap();
        assert!(!list.is_empty(), "{name}");
        for value in list {
            let condition = &value["value"];
            let events = found(engine, &name, condition, now);
            assert_eq!(value["events"], events, "{name} {condition}");
        }
    }
    kinds
}

#[test]
fn values_have_the_events_that_a_filter_finds_in_the_log_the_lake_and_the_columns() {
    let dir = folder();
    let now = at_noon();
    let opened = engine(dir.path(), now);
    ingest_all(&opened, &events(now, 27), now);
    let in_log = check(&opened, now);
    let kinds: Vec<_> = in_log
        .iter()
        .map(|(key, kind)| (key.as_str(), kind.clone()))
        .collect();
    let day_events = |events: u64, kind: &str| json!([kind, 3 * events]);
    let expected = [
        ("metadata.", day_events(3, "string")),
        ("metadata.a.b", day_events(6, "number")),
        ("metadata.a.c", day_events(3, "boolean")),
        ("metadata.beta", day_events(6, "mixed")),
        ("metadata.control\u{1}\u{7}\"", day_events(3, "string")),
        ("metadata.deep.n", day_events(3, "number")),
        ("metadata.deep.plan", day_events(3, "string")),
        ("metadata.deep.plan.x", day_events(3, "number")),
        ("metadata.plan", day_events(9, "string")),
        ("metadata.seats", day_events(9, "mixed")),
        ("metadata.tags", day_events(6, "string")),
    ];
    assert_eq!(kinds, expected);
    opened.store().seal().unwrap();
    assert_eq!(check(&opened, now), in_log);
    let later = now + TimeDelta::days(1);
    opened.compact(later, CompactionScope::Full).unwrap();
    assert_eq!(columns(dir.path()).0.len(), DAYS as usize);
    assert_eq!(check(&opened, now), in_log);
    // Half of it in columns, half in the log.
    ingest_all(&opened, &events(now, 27), now);
    let doubled = check(&opened, now);
    for (key, kind) in &in_log {
        let both = json!([kind[0], kind[1].as_u64().unwrap() * 2]);
        assert_eq!(doubled[key], both, "{key}");
    }
    drop(opened);
    assert_eq!(check(&engine(dir.path(), now), now), doubled);
}

fn ingest_all(engine: &Engine, events: &[Value], now: DateTime<Utc>) {
    for events in events.chunks(100) {
        let answer = ingest(engine, events, now);
        assert_eq!(answer.logged, events.len());
    }
}

#[test]
fn days_that_are_too_much_to_read_are_left_out_and_said_to_be() {
    let dir = folder();
    let now = at_noon();
    let opened = engine(dir.path(), now);
    ingest_all(&opened, &events(now, 18), now);
    opened.store().seal().unwrap();
    // Late events of the first day, which are not sealed.
    let late = json!({"ts": (now - TimeDelta::days(2)).to_rfc3339(), "event_type": "action",
                      "metadata": {"plan": "late"}});
    ingest_all(&opened, &[late], now);
    let limited = ValuesRequest {
        max_read_events: 40,
        ..request("metadata.plan")
    };
    let day = |before: i64| (now - TimeDelta::days(before)).date_naive().to_string();
    let answer = values(&opened, &limited, now);
    assert_eq!(answer["complete"], false);
    assert_eq!(answer["covered_from"], json!(day(1)));
    let expected = json!([
        {"value": "Pro", "events": 4}, {"value": "free", "events": 4}, {"value": "pro", "events": 4},
    ]);
    assert_eq!(answer["values"], expected);
    // What was read is kept, so that the next request counts the days before.
    let answer = values(&opened, &limited, now);
    assert_eq!(
        (&answer["complete"], &answer["more"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(answer["values"][0], json!({"value": "Pro", "events": 6}));
    assert_eq!(answer["values"][3], json!({"value": "late", "events": 1}));
}

#[test]
fn values_of_an_erased_user_are_gone() {
    let dir = folder();
    let now = at_noon();
    let opened = engine(dir.path(), now);
    let event = |user: &str, secret: &str| {
        json!({"ts": now.to_rfc3339(), "event_type": "action", "user_id": user,
               "metadata": {"secret": secret, "same": 1}})
    };
    ingest_all(&opened, &[event("ann", "hers"), event("bob", "his")], now);
    let of = request("metadata.secret");
    assert_eq!(
        values(&opened, &of, now)["values"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    opened.erase(&["ann".into()], Some(1), now).unwrap();
    let answer = values(&opened, &of, now);
    assert_eq!(answer["values"], json!([{"value": "his", "events": 1}]));
    let keys = values(&opened, &request("metadata"), now);
    let expected = json!([
        {"value": "metadata.same", "events": 1, "kind": "number"},
        {"value": "metadata.secret", "events": 1, "kind": "string"},
    ]);
    assert_eq!(keys["values"], expected);
}

#[test]
fn the_server_and_the_command_line_list_the_same_values() {
    let dir = folder();
    let mut command = echopilot(dir.path());
    let read_key = "a-read-key-for-the-tests";
    command.env("ECHOPILOT_READ_KEY", read_key);
    let server = Server::start_as(command);
    let now = Utc::now();
    for events in events(now, 50).chunks(100) {
        assert_eq!(server.post(&batch(events.to_vec())).0, 200);
    }
    let (status, answer) =
        server.get("/api/analytics/values?property=metadata.plan&prefix=PR&days=7");
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["values"][0]["value"], "Pro", "{answer}");
    assert_eq!(
        (&answer["more"], &answer["complete"]),
        (&json!(false), &json!(true))
    );
    let (_, one) = server.get("/api/analytics/values?property=metadata&limit=1");
    assert_eq!(
        (&one["more"], one["values"].as_array().unwrap().len()),
        (&json!(true), 1)
    );
    let remote = run_json(
        dir.path(),
        &["values", "metadata.plan", "PR", "--days", "7"],
    );
    assert_eq!(remote, answer);
    for (query, says) in [
        ("", "property is \"\"; allowed are"),
        ("property=user_id", "property is \"user_id\""),
        ("property=url&limit=0", "limit is 0"),
        ("property=url&limit=201", "allowed is 1 to 200"),
        ("property=url&days=366", "days is 366"),
        ("property=url&tz=Asia/Tokyo", "tz is Asia/Tokyo"),
        ("property=url&colour=red", "colour"),
    ] {
        let (status, answer) = server.get(&format!("/api/analytics/values?{query}"));
        assert_eq!(status, 400, "{query}: {answer}");
        assert!(
            answer["message"].as_str().unwrap().contains(says),
            "{query}: {answer}"
        );
    }
    let path = "/api/analytics/values?property=feature";
    assert_eq!(server.get_with(path, &[("x-dash-key", read_key)]).0, 200);
    assert_eq!(server.get_with(path, &[("x-dash-key", "wrong")]).0, 401);
    assert_eq!(
        server.get_with(path, &[("x-dash-key", KEY)]).1["values"][0]["events"],
        68
    );
    server.stop();
    assert_eq!(
        run_json(
            dir.path(),
            &["values", "metadata.plan", "PR", "--days", "7"]
        ),
        answer
    );
}
