//! Trends compared with another engine: DuckDB, with the zones and percentiles of its own.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use echopilot_analytics::engine::{Cancel, Engine};
use echopilot_analytics::metrics::query::Query;
use echopilot_analytics::store::Clock;
use serde_json::{Value, json};

use crate::harness::{engine, folder, ingest, numbers_below};
use crate::oracle::python;

/// Two days after the clocks of Europe were put back, on 2026-10-25.
fn now() -> DateTime<Utc> {
    "2026-10-27T09:20:00Z".parse().unwrap()
}

/// Events of eight days before, many of them in the night in which an hour is repeated.
fn send_history(engine: &Engine, events: usize, seed: u64) {
    let mut below = numbers_below(seed);
    let night: DateTime<Utc> = "2026-10-25T00:00:00Z".parse().unwrap();
    let made: Vec<Value> = (0..events)
        .map(|_| {
            let seconds = match below(3) {
                0 => below(3 * 3_600) as i64,
                _ => below(7 * 86_400) as i64 - 5 * 86_400,
            };
            let amount = match below(6) {
                0 => json!(null),
                1 => json!(format!("{}", below(90))),
                2 => json!("12abc"),
                3 => json!(below(1_000) as f64 / 8.0 - 20.0),
                _ => json!(below(12)),
            };
            let event_type = ["page_view", "action", "conversion"][below(3) as usize];
            let plan = ["free", "pro", "team"].get(below(4) as usize);
            json!({
                "ts": night.timestamp() + seconds,
                "event_type": event_type,
                "user_id": match below(9) { 0 => json!(null), _ => json!(format!("u{}", below(25))) },
                "feature": match below(4) { 0 => json!(null), name => json!(format!("f{}", name * below(3))) },
                "metadata": {"amount": amount, "plan": plan},
            })
        })
        .collect();
    for batch in made.chunks(100) {
        ingest(engine, batch, now());
    }
}

/// Requests of every grain, measure and kind of group.
fn requests() -> Vec<Value> {
    let of = |measure: &str| json!({"measure":measure,"of":"metadata.amount"});
    let numbers = ["sum", "mean", "min", "max", "median", "p90", "p95", "p99"].map(of);
    let events =
        json!([{},{"measure":"users"},{"measure":"events_per_user"},{"measure":"sessions"}]);
    let mut all = Vec::new();
    for tz in ["Europe/Berlin", "UTC", "Asia/Kolkata"] {
        for grain in ["hour", "day", "week", "month"] {
            for series in [json!(numbers), events.clone()] {
                all.push(json!({"series":series,"grain":grain,"from":"2026-10-21","to":"2026-10-26","tz":tz}));
            }
        }
        for (breakdown, limit) in [("event_type", 2), ("feature", 3), ("metadata.plan", 1)] {
            all.push(json!({"series":[{"measure":"sessions"},{},{"measure":"users"},of("p90")],"grain":"day",
                "breakdown":breakdown,"limit":limit,"from":"2026-10-21","to":"2026-10-26","tz":tz}));
            all.push(json!({"series":[of("median"),{"measure":"sessions","filter":{"event_type":"action"}}],"grain":"week",
                "filter":{"metadata.plan":"pro"},"breakdown":breakdown,"limit":limit,
                "from":"2026-10-23","to":"2026-10-26","tz":tz}));
        }
        all.push(json!({"series":[{"measure":"users"},{"measure":"events","filter":{"event_type":"action"}}],
            "grain":"hour","breakdown":"event_type","from":"2026-10-24","to":"2026-10-25","tz":tz}));
    }
    all
}

/// The key of a row, and its value.
type Rows = BTreeMap<Vec<Option<String>>, Option<f64>>;

fn same(a: Option<f64>, b: Option<f64>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => (a - b).abs() <= 1e-9 * b.abs().max(1.0),
        (a, b) => a.is_none() && b.is_none(),
    }
}

/// The rows of the engine with these fields as keys.
fn ours(rows: &Value, keys: &[&str]) -> Rows {
    let key = |row: &Value| -> Vec<Option<String>> {
        let text = |name: &&str| match row[*name].as_str() {
            None if *name == "kind" => Some("all".into()),
            text => text.map(str::to_owned),
        };
        keys.iter().map(text).collect()
    };
    let rows = rows.as_array().unwrap().iter();
    rows.map(|row| (key(row), row["value"].as_f64())).collect()
}

fn theirs(rows: &Value) -> Rows {
    let rows = rows.as_array().unwrap().iter().map(|row| {
        let row = row.as_array().unwrap();
        let (value, key) = row.split_last().unwrap();
        let key = key.iter().map(|text| text.as_str().map(str::to_owned));
        (key.collect(), value.as_f64())
    });
    rows.collect()
}

/// Compares the values. Periods and groups without any have a row in one of the two.
fn compare(request: &Value, name: &str, ours: &Rows, theirs: &Rows) {
    for key in ours.keys().chain(theirs.keys()) {
        let values = (ours.get(key).copied(), theirs.get(key).copied());
        let is_same = match values {
            (Some(ours), Some(theirs)) => same(ours, theirs),
            (Some(one), None) | (None, Some(one)) => one.is_none_or(|value| value == 0.0),
            (None, None) => true,
        };
        assert!(is_same, "{name} of {request}: {key:?} is {values:?}");
    }
}

#[test]
fn trends_of_a_week_with_a_clock_change_are_those_of_duckdb() {
    let dir = folder();
    let opened = engine(dir.path(), now());
    send_history(&opened, 2_500, 7);
    opened.store().seal().unwrap();
    let requests = requests();
    let file = dir.path().join("requests.json");
    std::fs::write(&file, json!(requests).to_string()).unwrap();
    let lake = dir.path().join("events");
    let judged = python(&[
        "tests/oracle/trends.py",
        lake.to_str().unwrap(),
        file.to_str().unwrap(),
    ]);
    for (request, judged) in requests.iter().zip(judged.as_array().unwrap()) {
        let mut query = request.clone();
        query["metric"] = json!("trends");
        let query = Query::parse(query.to_string().as_bytes()).unwrap();
        let answer = opened.query(&query, now(), &Cancel::default()).unwrap();
        let (rows, totals) = (theirs(&judged["rows"]), theirs(&judged["totals"]));
        assert!(!rows.is_empty(), "{request}");
        let found = ours(
            &json!(answer.rows),
            &["series", "period", "kind", "breakdown"],
        );
        compare(request, "rows", &found, &rows);
        let found = ours(&answer.notes["totals"], &["series", "kind", "breakdown"]);
        compare(request, "totals", &found, &totals);
    }
    // The hour that is repeated is two periods.
    let hours = json!({"metric":"trends","grain":"hour","from":"2026-10-25","to":"2026-10-25","tz":"Europe/Berlin"});
    let query = Query::parse(hours.to_string().as_bytes()).unwrap();
    let answer = opened.query(&query, now(), &Cancel::default()).unwrap();
    let rows = json!(answer.rows);
    assert_eq!(rows.as_array().unwrap().len(), 25);
    assert_eq!(rows[2]["period"], "2026-10-25T02:00:00+02:00");
    assert_eq!(rows[3]["period"], "2026-10-25T02:00:00+01:00");
}

fn ask(engine: &Engine, query: &Value) -> Value {
    let query = Query::parse(query.to_string().as_bytes()).unwrap();
    let answer = engine.query(&query, now(), &Cancel::default()).unwrap();
    serde_json::to_value(answer).unwrap()
}

#[test]
fn groups_of_types_and_features_outlive_the_events() {
    let dir = folder();
    let opened = engine(dir.path(), now());
    let events: Vec<Value> = (0..240)
        .map(|event| {
            let kind = ["page_view", "page_view", "action", "conversion"][event % 4];
            let feature = ["home", "cart", "home", "docs", "team"][event % 5];
            json!({"event_type":kind,"user_id":format!("u{}", event % 7),
                "feature": if event % 3 == 0 && event < 120 { None } else { Some(feature) },
                "ts":(now() - TimeDelta::hours(12 * event as i64)).timestamp()})
        })
        .collect();
    for batch in events.chunks(100) {
        ingest(&opened, batch, now());
    }
    opened.store().seal().unwrap();
    let both = json!([{},{"measure":"users"}]);
    let queries = [
        json!({"metric":"trends","breakdown":"event_type","limit":2,"series":both,"days":110}),
        json!({"metric":"trends","breakdown":"feature","limit":2,"grain":"week","days":110}),
        // No event meets it that has no feature.
        json!({"metric":"trends","breakdown":"feature","series":both,"filter":{"feature":{"all":[{"not":"team"},{"exists":true}]}},"days":110}),
        json!({"metric":"trends","breakdown":"event_type","filter":{"event_type":["action","conversion"]},
               "series":both,"compare":"previous","grain":"month","from":"2026-09-01","to":"2026-10-20"}),
    ];
    let by_events: Vec<Value> = queries
        .iter()
        .map(|query| {
            let mut query = query.clone();
            query["tz"] = json!("Africa/Abidjan");
            ask(&opened, &query)["rows"].clone()
        })
        .collect();
    opened.expire(now().date_naive(), Clock::Doubted).unwrap();
    for (query, rows) in queries.iter().zip(&by_events) {
        let answer = ask(&opened, query);
        assert_eq!(answer["rows"], *rows, "{query}");
        assert_eq!(answer["covered_from"], answer["window"]["from"], "{query}");
    }
    // Users without a feature are known from events alone, which the response says.
    let query = json!({"metric":"trends","breakdown":"feature","series":both,"days":110});
    let answer = ask(&opened, &query);
    assert!(
        answer["covered_from"].as_str() > answer["window"]["from"].as_str(),
        "{answer}"
    );
}
