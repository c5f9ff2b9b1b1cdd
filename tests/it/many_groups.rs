//! Queries with a group for each event: exact within their memory, or a clear error.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use chrono::{Days, NaiveDate, Utc};
use serde_json::{Value, json};

use crate::harness::{Server, echopilot, folder, run, run_json};
use crate::public_limits::limit;

const USERS: usize = 20_000;
/// Groups of a breakdown with rows of their own.
const GROUPS: usize = 25;
/// Rows of a step of paths, by default.
const TRANSITIONS: usize = 100;

/// An event of the history.
struct Event {
    user: usize,
    feature: String,
    value: Option<String>,
}

/// Three rounds in which each user has an event of one feature, with a value of its own or, for
/// every fourth, a common or missing one; then two in which each event has a feature of its own.
fn events() -> Vec<Event> {
    let rounds = (0..3 * USERS).map(|i| Event {
        user: i % USERS,
        feature: format!("f{}", i / USERS),
        value: match i % 4 {
            0 if i % 124 == 0 => None,
            0 => Some(format!("common-{}", i / 4 % 31)),
            _ => Some(format!("{i:08}-of-an-event-with-a-value-of-its-own")),
        },
    });
    let pages = (0..2 * USERS).map(|i| Event {
        user: i % USERS,
        feature: format!("page-{i:08}-of-a-site-with-many-pages"),
        value: None,
    });
    rounds.chain(pages).collect()
}

fn day() -> NaiveDate {
    Utc::now().date_naive() - Days::new(1)
}

/// Imports the events, a second apart: the features are actions, the pages page views.
fn store(data: &Path, events: &[Event]) {
    let noon = day().and_hms_opt(0, 0, 0).unwrap().and_utc().timestamp();
    let lines: String = events
        .iter()
        .zip(0_i64..)
        .map(|(event, place)| {
            let event_type = match event.feature.starts_with("page") {
                true => "page_view",
                false => "action",
            };
            let event = json!({"ts": noon + place / 4, "event_type": event_type,
                "user_id": format!("u{}", event.user), "feature": event.feature,
                "metadata": {"v": event.value}});
            format!("{event}\n")
        })
        .collect();
    let file = data.with_extension("ndjson");
    std::fs::write(&file, lines).unwrap();
    let imported = run_json(data, &["import", file.to_str().unwrap()]);
    assert_eq!(imported["accepted"], events.len());
}

/// The rows of each query, with the memory that is too little for it and one that is enough.
fn queries(events: &[Event]) -> Vec<(Value, [u32; 2], Vec<Value>)> {
    let actions = &events[..3 * USERS];
    let pages = &events[3 * USERS..];
    let query = |query: Value| {
        let mut query = query;
        query["days"] = json!(1);
        query["end"] = json!(day());
        query
    };
    let steps = json!([{"feature": "f0"}, {"feature": "f1"}]);
    vec![
        (
            query(json!({"metric": "feature_usage", "breakdown": "metadata.v",
                "filter": {"event_type": "action"}})),
            // With 48 MiB the users are counted in a second scan.
            [1, 64],
            feature_usage(actions),
        ),
        (
            query(
                json!({"metric": "trends", "breakdown": "metadata.v", "limit": 2,
                "filter": {"event_type": "action"}, "series": [{}, {"measure": "sessions"}]}),
            ),
            [1, 64],
            trends(actions),
        ),
        (
            query(json!({"metric": "funnel", "steps": steps, "breakdown": "metadata.v"})),
            [1, 16],
            funnel(actions),
        ),
        (
            query(json!({"metric": "paths", "filter": {"event_type": "page_view"}})),
            [1, 32],
            paths(pages),
        ),
    ]
}

/// The greatest groups: most first, ties by value, where a missing one is the least.
fn greatest(of_group: &BTreeMap<&Option<String>, u64>) -> Vec<Option<String>> {
    let mut groups: Vec<_> = of_group.iter().collect();
    groups.sort_by_key(|&(&group, &events)| (std::cmp::Reverse(events), group.clone()));
    let groups = groups.into_iter().take(GROUPS);
    groups.map(|(&group, _)| group.clone()).collect()
}

/// The group of the row that an event counts in.
fn row_of(group: &Option<String>, greatest: &[Option<String>]) -> Option<String> {
    if greatest.contains(group) {
        group.clone()
    } else {
        Some("__other__".into())
    }
}

fn feature_usage(events: &[Event]) -> Vec<Value> {
    let mut of_group = BTreeMap::new();
    for event in events {
        *of_group.entry(&event.value).or_default() += 1;
    }
    let greatest = greatest(&of_group);
    type Row<'a> = (&'a str, Option<String>);
    let mut found: BTreeMap<Row<'_>, (u64, BTreeSet<usize>)> = BTreeMap::new();
    for event in events {
        let group = row_of(&event.value, &greatest);
        let (count, users) = found.entry((&event.feature, group)).or_default();
        *count += 1;
        users.insert(event.user);
    }
    // All three features have equally many events.
    let mut rows: Vec<_> = found.into_iter().collect();
    rows.sort_by_key(|((feature, group), (count, _))| {
        (*feature, std::cmp::Reverse(*count), group.clone())
    });
    let rows = rows.into_iter().map(|((feature, group), (count, users))| {
        json!({"feature": feature, "breakdown": group, "events": count, "users": users.len()})
    });
    rows.collect()
}

/// Two groups, the missing one and the rest. Each event is a session: those of a user are 83
/// minutes apart.
fn trends(events: &[Event]) -> Vec<Value> {
    let mut of_group: BTreeMap<&Option<String>, u64> = BTreeMap::new();
    for event in events {
        *of_group.entry(&event.value).or_default() += 1;
    }
    let missing = of_group.remove(&None::<String>).unwrap();
    let greatest = greatest(&of_group);
    let [one, two] = [0, 1].map(|place| (&greatest[place], of_group[&greatest[place]]));
    let rest = events.len() as u64 - missing - one.1 - two.1;
    let of_series = |series: &str| {
        [
            json!([series, one.0, "value", one.1]),
            json!([series, two.0, "value", two.1]),
            json!([series, null, "missing", missing]),
            json!([series, null, "rest", rest]),
        ]
    };
    [of_series("A"), of_series("B")].concat()
}

/// Everybody completes it, in the group of the event of `f0`.
fn funnel(events: &[Event]) -> Vec<Value> {
    let entries = &events[..USERS];
    let mut of_group = BTreeMap::new();
    for event in entries {
        *of_group.entry(&event.value).or_default() += 1;
    }
    let greatest = greatest(&of_group);
    let others =
        of_group.values().sum::<u64>() - greatest.iter().map(|group| of_group[group]).sum::<u64>();
    let mut rows = Vec::new();
    for group in &greatest {
        rows.extend([1, 2].map(|step| json!([group, step, of_group[group]])));
    }
    rows.extend([1, 2].map(|step| json!(["__other__", step, others])));
    rows
}

/// Each user has one transition, which is no other's.
fn paths(events: &[Event]) -> Vec<Value> {
    let (first, second) = events.split_at(USERS);
    let transitions = first.iter().zip(second).take(TRANSITIONS);
    transitions
        .map(|(from, to)| json!({"step": 1, "from": from.feature, "to": to.feature, "users": 1}))
        .collect()
}

/// The rows of a response, those of a funnel without rates and times, and those of trends without
/// periods.
fn rows(response: &Value) -> Vec<Value> {
    let rows = response["rows"].as_array().unwrap().iter();
    rows.map(|row| match response["metric"].as_str() {
        Some("funnel") => json!([row["breakdown"], row["step"], row["users"]]),
        Some("trends") => json!([row["series"], row["breakdown"], row["kind"], row["value"]]),
        _ => row.clone(),
    })
    .collect()
}

#[test]
fn a_query_with_a_group_for_each_event_is_exact_or_is_rejected() {
    let dir = folder();
    let data = dir.path().join("data");
    let events = events();
    store(&data, &events);
    for (query, [little, enough], expected) in queries(&events) {
        for mib in [enough, 1_024] {
            let mib = mib.to_string();
            let arguments = ["query", "--limit-query-mib", &mib, &query.to_string()];
            let output = run(&data, &arguments);
            assert!(output.status.success(), "{query} in {mib} MiB: {output:?}");
            let response = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(rows(&response), expected, "{query} in {mib} MiB");
        }
        let little = little.to_string();
        let arguments = ["query", "--limit-query-mib", &little, &query.to_string()];
        let output = run(&data, &arguments);
        assert_eq!(output.status.code(), Some(2), "{query}: {output:?}");
        assert!(output.stdout.is_empty(), "{query}");
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.contains("--limit-query-mib"), "{query}: {message}");
    }
}

#[test]
fn the_error_of_too_many_groups_is_a_response_and_is_counted() {
    let dir = folder();
    let data = dir.path().join("data");
    let events = events();
    store(&data, &events);
    let mut command = echopilot(&data);
    command.env("ECHOPILOT_LIMIT_QUERY_MIB", "1");
    let server = Server::start_as(command);
    let queries = queries(&events);
    for (query, ..) in &queries {
        let (status, body) = server.ask("/api/analytics/query", query);
        assert_eq!((status, &body["error"]), (400, &json!("too_many_groups")));
        assert_eq!(body["ok"], false);
        let message = body["message"].as_str().unwrap();
        assert!(message.contains("1 MiB"), "{message}");
    }
    // Its memory is free again, and others go on.
    assert_eq!(limit(&server, "query_mib"), (1, 0, queries.len() as u64));
    let types = json!({"metric": "event_types", "days": 2});
    let (status, body) = server.ask("/api/analytics/query", &types);
    assert_eq!(
        (status, &body["rows"][0]["events"]),
        (200, &json!(2 * USERS))
    );
}
