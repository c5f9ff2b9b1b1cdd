//! Filters: whatever reads the events, they are those that meet the definition.

use std::path::Path;

use chrono::{DateTime, Utc};
use echopilot_analytics::engine::{Cancel, Engine};
use echopilot_analytics::metrics::query::Query;
use serde_json::{Map, Value, json};

use crate::harness::{KEY, Server, engine, folder, ingest, numbers_below};
use crate::oracle::python_command;

fn now() -> DateTime<Utc> {
    "2026-03-05T12:00:00Z".parse().unwrap()
}

/// Metadata of events, with values of every kind.
const METADATA: [&str; 14] = [
    "{}",
    r#"{"v":"pro","n":10}"#,
    r#"{"v":"Professional","n":10.0}"#,
    r#"{"v":"free","n":"1e1"}"#,
    r#"{"v":null,"n":11.5}"#,
    r#"{"v":["pro","team"],"n":[1,99]}"#,
    r#"{"v":[],"n":"NaN"}"#,
    r#"{"v":true,"n":9007199254740993}"#,
    r#"{"v":{"x":"pro"},"n":-3}"#,
    r#"{"v":{"x":["a",null,7]}}"#,
    r#"{"v.x":"pro","n":0}"#,
    r#"{"v":"10","n":"12abc"}"#,
    r#"{"v":"","n":""}"#,
    r#"{"v":"straße É","n":1}"#,
];
const PROPERTIES: [&str; 8] = [
    "event_type",
    "feature",
    "url",
    "user_id",
    "metadata.v",
    "metadata.n",
    "metadata.v.x",
    "metadata.none",
];
/// Values that occur, and some that do not.
const STRINGS: [&str; 16] = [
    "action",
    "conversion",
    "cart",
    "docs",
    "/docs/a",
    "/docs",
    "ann",
    "bob",
    "pro",
    "Pro",
    "free",
    "10",
    "1.5",
    "",
    "a",
    "team",
];

/// Three days of events, the last one of today.
fn events() -> Vec<Value> {
    let mut below = numbers_below(21);
    let mut pick =
        |values: &[Option<&str>]| values[below(values.len() as u64) as usize].map(String::from);
    let mut events = Vec::new();
    for at in 0..420_usize {
        let minutes = at * 8;
        let ts = now() - chrono::TimeDelta::minutes(minutes as i64);
        let metadata: Value = serde_json::from_str(METADATA[at % METADATA.len()]).unwrap();
        events.push(json!({
            "ts": ts.to_rfc3339(),
            "event_type": pick(&[Some("action"), Some("page_view"), Some("conversion")]),
            "user_id": pick(&[Some("ann"), Some("bob"), Some("Bobby"), None]),
            "feature": pick(&[Some("cart"), Some("docs"), Some("Docs search"), None]),
            "url": pick(&[Some("/docs"), Some("/docs/a"), Some("https://x.example/Docs?q=10"), None]),
            "metadata": metadata,
        }));
    }
    events
}

/// The values of a property of an event, by the definition: a list has those of its members and,
/// as a whole, its JSON, in which no string is searched. True marks what can be searched.
fn values(event: &Value, property: &str) -> Vec<(Value, bool)> {
    let Some(path) = property.strip_prefix("metadata.") else {
        return value_of(&event[property]);
    };
    at(&event["metadata"], path)
}

fn at(value: &Value, path: &str) -> Vec<(Value, bool)> {
    if let Value::Array(members) = value {
        return members.iter().flat_map(|member| at(member, path)).collect();
    }
    let Value::Object(map) = value else {
        return Vec::new();
    };
    if let Some(found) = map.get(path) {
        return value_of(found);
    }
    let inner = map.iter().filter_map(|(key, value)| {
        let rest = path.strip_prefix(key.as_str())?.strip_prefix('.')?;
        Some(at(value, rest))
    });
    inner.flatten().collect()
}

fn value_of(value: &Value) -> Vec<(Value, bool)> {
    match value {
        Value::Null => Vec::new(),
        Value::Array(members) => {
            let inner = members.iter().flat_map(value_of);
            std::iter::once((value.clone(), false))
                .chain(inner)
                .collect()
        }
        Value::Object(_) => vec![(value.clone(), false)],
        scalar => vec![(scalar.clone(), true)],
    }
}

/// A value as a string; numbers in one notation.
fn string(value: &Value) -> String {
    match value {
        Value::String(string) => string.clone(),
        Value::Number(number) => match number.as_f64() {
            Some(float) if float.fract() == 0.0 && float.abs() < 1e15 => format!("{float:.0}"),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

/// A value as a number: a number, or a string that is a JSON number.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(string) => match serde_json::from_str(string) {
            Ok(Value::Number(number)) => number.as_f64(),
            _ => None,
        },
        _ => None,
    }
}

/// True if an event meets a filter, by the definition.
fn meets(event: &Value, filter: &Map<String, Value>) -> bool {
    filter.iter().all(|(key, condition)| match key.as_str() {
        "any" => {
            let mut filters = condition.as_array().unwrap().iter();
            filters.any(|filter| meets(event, filter.as_object().unwrap()))
        }
        "not" => !meets(event, condition.as_object().unwrap()),
        property => holds(
            &values(event, property),
            condition,
            property.starts_with("metadata."),
        ),
    })
}

fn holds(values: &[(Value, bool)], condition: &Value, is_metadata: bool) -> bool {
    let equals = |value: &Value, wanted: &Value| {
        let as_number = |value: &Value| match value {
            // The string of a number also names the number.
            Value::String(_) if !is_metadata => None,
            other => number(other),
        };
        string(value) == string(wanted)
            || value.is_number() && as_number(wanted).is_some_and(|it| number(value) == Some(it))
    };
    let object = match condition {
        Value::Array(wanted) => {
            return values
                .iter()
                .any(|value| wanted.iter().any(|one| equals(&value.0, one)));
        }
        Value::Object(object) => object,
        wanted => return values.iter().any(|value| equals(&value.0, wanted)),
    };
    if let Some(inner) = object.get("not") {
        return !holds(values, inner, is_metadata);
    }
    if let Some(all) = object.get("all") {
        let mut all = all.as_array().unwrap().iter();
        return all.all(|one| holds(values, one, is_metadata));
    }
    if let Some(exists) = object.get("exists") {
        return *exists == json!(!values.is_empty());
    }
    let ignores_case = object.get("ignore_case") == Some(&json!(true));
    let cased = |string: String| {
        if ignores_case {
            string.to_lowercase()
        } else {
            string
        }
    };
    let search = ["contains", "prefix", "suffix", "matches"];
    if let Some(search) = search
        .into_iter()
        .find(|search| object.contains_key(*search))
    {
        let wanted = cased(string(&object[search]));
        return values.iter().filter(|value| value.1).any(|(value, _)| {
            let value = cased(string(value));
            match search {
                "contains" => value.contains(&wanted),
                "prefix" => value.starts_with(&wanted),
                "suffix" => value.ends_with(&wanted),
                // Those of the test are alternatives of whole strings.
                _ => wanted
                    .trim_matches(['^', '$', '(', ')'])
                    .split('|')
                    .any(|one| one == value),
            }
        });
    }
    values
        .iter()
        .filter_map(|value| number(&value.0))
        .any(|found| {
            object.iter().all(|(bound, limit)| {
                let limit = limit.as_f64().unwrap();
                match bound.as_str() {
                    "min" => found >= limit,
                    "max" => found <= limit,
                    "above" => found > limit,
                    _ => found < limit,
                }
            })
        })
}

/// A random condition.
fn condition(below: &mut impl FnMut(u64) -> u64, depth: u32) -> Value {
    let pick = |below: &mut dyn FnMut(u64) -> u64| STRINGS[below(STRINGS.len() as u64) as usize];
    let kinds = if depth == 0 { 9 } else { 11 };
    match below(kinds) {
        0 => json!(pick(below)),
        1 => json!([pick(below), pick(below), 10]),
        2 => json!({"exists": below(2) == 0}),
        3 => json!({"min": below(12), "max": 5 + below(9)}),
        4 => json!({"above": below(12)}),
        5 => json!({"contains": pick(below), "ignore_case": below(2) == 0}),
        6 => json!({"prefix": pick(below), "ignore_case": below(2) == 0}),
        7 => json!({"suffix": pick(below)}),
        8 => json!({"matches": format!("^({}|{})$", pick(below), pick(below))}),
        9 => json!({"not": condition(below, depth - 1)}),
        _ => json!({"all": [condition(below, depth - 1), condition(below, depth - 1)]}),
    }
}

/// A random filter; of one property, where one is given.
fn filter(
    below: &mut impl FnMut(u64) -> u64,
    depth: u32,
    only: Option<&str>,
) -> Map<String, Value> {
    let mut filter = Map::new();
    for _ in 0..=below(2) {
        match below(if depth == 0 { 2 } else { 4 }) {
            0 | 1 => {
                let property = PROPERTIES[below(PROPERTIES.len() as u64) as usize];
                let property = only.unwrap_or(property).to_owned();
                filter.insert(property, condition(below, 2));
            }
            2 => {
                let any =
                    (0..=below(3)).map(|_| Value::Object(self::filter(below, depth - 1, only)));
                filter.insert("any".into(), any.collect());
            }
            _ => {
                let inner = self::filter(below, depth - 1, only);
                filter.insert("not".into(), inner.into());
            }
        }
    }
    filter
}

fn rows(engine: &Engine, request: &Value) -> Vec<Value> {
    let query = Query::parse(request.to_string().as_bytes());
    let query = query.unwrap_or_else(|error| panic!("{request}: {error}"));
    let answer = engine.query(&query, now(), &Cancel::default()).unwrap();
    serde_json::from_value(serde_json::to_value(&answer.rows).unwrap()).unwrap()
}

/// Events by type and users by day of the events that meet a filter.
fn expected(events: &[Value], filter: &Map<String, Value>) -> (u64, Vec<u64>) {
    let met: Vec<&Value> = events.iter().filter(|event| meets(event, filter)).collect();
    let days = ["2026-03-03", "2026-03-04", "2026-03-05"].map(|day| {
        let of_day = met
            .iter()
            .filter(|event| event["ts"].as_str().unwrap().starts_with(day));
        let users: std::collections::BTreeSet<&str> = of_day
            .filter_map(|event| event["user_id"].as_str())
            .collect();
        users.len() as u64
    });
    (met.len() as u64, days.to_vec())
}

fn found(engine: &Engine, filter: &Map<String, Value>) -> (u64, Vec<u64>) {
    let query = |metric: &str| json!({"metric":metric,"days":3,"filter":filter});
    let events = rows(engine, &query("event_types"));
    let events = events
        .iter()
        .map(|row| row["events"].as_u64().unwrap())
        .sum();
    let days = rows(engine, &query("active_users"));
    (
        events,
        days.iter()
            .map(|row| row["dau"].as_u64().unwrap())
            .collect(),
    )
}

/// The same whether the events are in the tail, in columns and segments, or known from states.
#[test]
fn random_filters_select_the_events_that_the_definition_does() {
    let dir = folder();
    let opened = engine(dir.path(), now());
    let events = events();
    for chunk in events.chunks(100) {
        assert_eq!(ingest(&opened, chunk, now()).logged, chunk.len());
    }
    let mut below = numbers_below(2_026);
    let mut filters: Vec<Map<String, Value>> =
        (0..300).map(|_| filter(&mut below, 2, None)).collect();
    for property in ["event_type", "feature"] {
        filters.extend((0..40).map(|_| filter(&mut below, 1, Some(property))));
    }
    let check = |engine: &Engine, state: &str| {
        let mut selective = 0;
        for filter in &filters {
            let expected = expected(&events, filter);
            assert_eq!(
                found(engine, filter),
                expected,
                "{state}: {}",
                json!(filter)
            );
            selective += usize::from((1..events.len() as u64).contains(&expected.0));
        }
        assert!(selective > 60, "{selective}");
    };
    check(&opened, "tail");
    opened.seal(now()).unwrap();
    check(&opened, "sealed");
    judge(&opened, dir.path());
}

/// Filters with their conditions in SQL over the lake.
const JUDGED: [(&str, &str); 9] = [
    (
        r#"{"feature":{"not":"cart"}}"#,
        "feature is distinct from 'cart'",
    ),
    (
        r#"{"url":{"contains":"docs","ignore_case":true}}"#,
        "url ilike '%docs%'",
    ),
    (
        r#"{"url":{"matches":"^/docs(/a)?$"}}"#,
        "regexp_matches(url, '^/docs(/a)?$')",
    ),
    (r#"{"user_id":{"suffix":"b"}}"#, "suffix(user_id, 'b')"),
    (
        r#"{"user_id":{"not":{"prefix":"B"}}}"#,
        "coalesce(not starts_with(user_id, 'B'), true)",
    ),
    (
        r#"{"any":[{"feature":"docs"},{"event_type":"conversion"}],"not":{"url":"/docs"}}"#,
        "(feature is not distinct from 'docs' or event_type = 'conversion') and url is distinct from '/docs'",
    ),
    (
        r#"{"metadata.v":["pro","free"]}"#,
        r#"(metadata->>'$.v') in ('pro', 'free', '["pro","team"]')"#,
    ),
    (
        r#"{"metadata.n":{"all":[{"exists":true},{"above":0},{"not":{"min":11}}]}}"#,
        "try_cast((metadata->>'$.n') as double) > 0 and try_cast((metadata->>'$.n') as double) < 11",
    ),
    (
        r#"{"metadata.none":{"exists":false},"metadata.v":{"exists":false}}"#,
        "(metadata->>'$.v') is null",
    ),
];

/// Compares some filters with DuckDB.
fn judge(engine: &Engine, data: &Path) {
    let script = "import duckdb, sys
for where in sys.argv[2:]:
    lake = f\"read_parquet('{sys.argv[1]}/events/*/*.parquet')\"
    print(duckdb.sql(f'select count(*) from {lake} where {where}').fetchall()[0][0])";
    let output = python_command()
        .args(["-c", script, data.to_str().unwrap()])
        .args(JUDGED.map(|(_, sql)| sql))
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let counts = String::from_utf8(output.stdout).unwrap();
    let counts: Vec<u64> = counts.lines().map(|line| line.parse().unwrap()).collect();
    let found = JUDGED.map(|(filter, _)| found(engine, &serde_json::from_str(filter).unwrap()).0);
    assert_eq!(counts, found);
    assert!(
        counts.iter().all(|count| (1..420).contains(count)),
        "{counts:?}"
    );
}

#[test]
fn a_condition_on_features_counts_in_a_process_that_has_just_started() {
    let dir = folder();
    let opened = engine(dir.path(), now());
    let events = ["home", "house", "cart"].map(|feature| {
        json!({"event_type":"action","user_id":feature,"feature":feature,"ts":"2026-03-04T10:00:00Z"})
    });
    ingest(&opened, &events, now());
    opened.store().seal().unwrap();
    drop(opened);
    // From daily states and from events.
    for tz in ["UTC", "Africa/Abidjan"] {
        for (condition, users) in [(json!({"prefix":"ho"}), 2), (json!({"exists":true}), 3)] {
            for (metric, column) in [("active_users", "dau"), ("trends", "value")] {
                let filter = json!({"feature":condition});
                let series = json!([{"measure":"users","filter":filter}]);
                let mut request = json!({"metric":metric,"days":1,"end":"2026-03-04","tz":tz});
                match metric {
                    "trends" => request["series"] = series,
                    _ => request["filter"] = filter,
                }
                // No query before it has read the names of the features.
                let rows = rows(&engine(dir.path(), now()), &request);
                assert_eq!(rows[0][column], json!(users), "{request}");
            }
        }
    }
}

#[test]
fn a_filter_that_would_take_time_or_memory_is_rejected_by_its_place() {
    let dir = folder();
    let server = Server::start(dir.path());
    server.post(&json!({"events":[{"event_type":"action","url":"a".repeat(2_000),"user_id":"u"}]}));
    let deep = |levels: usize| {
        format!(
            "{}{}{}",
            r#"{"not":"#.repeat(levels),
            "{}",
            "}".repeat(levels)
        )
    };
    let long = "a".repeat(1_000_000);
    for (filter, says) in [
        (deep(10_000), "recursion limit"),
        (deep(100), "nested more than 8 deep"),
        (
            format!(r#"{{"url":{{"matches":"{long}"}}}}"#),
            "filter: url: \\\"aaa",
        ),
        (
            r#"{"url":{"matches":"((((a{99}){99}){99}){99})"}}"#.into(),
            "too large",
        ),
        (r#"{"any":[{"url":"a"},{"colour":"b"}]}"#.into(), "any[1]"),
        (
            format!(r#"{{"any":[{}{{}}]}}"#, "{},".repeat(50_000)),
            "more than 50 conditions",
        ),
    ] {
        let request = format!(r#"{{"metric":"event_types","filter":{filter}}}"#);
        let started = std::time::Instant::now();
        let (status, body) =
            server.ask_text("/api/analytics/query", request, &[("x-dash-key", KEY)]);
        let body = String::from_utf8(body).unwrap();
        assert_eq!(status, 400, "{body}");
        assert!(body.contains(says), "{says}: {body}");
        assert!(body.len() < 2_000, "{body}");
        assert!(started.elapsed().as_secs() < 20, "{says}");
    }
    // The costliest expression that is accepted.
    let worst = json!({"metric":"event_types","filter":{"url":{"matches":"(a|aa|aaa)*a{200}b"}}});
    let (status, answer) = server.ask("/api/analytics/query", &worst);
    assert_eq!(
        (status, &answer["rows"][0]["events"]),
        (200, &json!(0)),
        "{answer}"
    );
}
