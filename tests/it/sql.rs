//! Queries as SQL of other engines: DuckDB runs what `echopilot sql` prints, and every number must
//! be that of the engine.

use std::collections::BTreeMap;
use std::path::Path;

use chrono::{DateTime, Days, Utc};
use echopilot_analytics::cohorts::Cohorts;
use echopilot_analytics::engine::{Cancel, Engine};
use echopilot_analytics::metrics::cohort::Cohort;
use echopilot_analytics::metrics::query::Query;
use echopilot_analytics::sql::answer::{self, Cell, History, Rows};
use echopilot_analytics::sql::{Dialect, QueryContext, Statement};
use echopilot_analytics::window::WindowRequest;
use serde_json::{Value, json};

use crate::harness::{engine, folder, ingest, numbers_below, run, run_json};
use crate::oracle::python_command;

/// Names that are hostile to a SQL of SQL, among plain ones.
const HOSTILE: [&str; 9] = [
    "home",
    "cart",
    "it's \"quoted\"",
    r"\' OR 1=1 -- ",
    "検索 ünï",
    "a:b $c @d {e} ?f",
    "line\nend; drop table events",
    "Cart",
    "10.0",
];
const ZONES: [&str; 5] = [
    "UTC",
    "Europe/Berlin",
    "America/St_Johns",
    "Pacific/Apia",
    "Asia/Kathmandu",
];
const GRAINS: [&str; 3] = ["day", "week", "month"];
/// Values of metadata that every engine reads in the same way.
const PLANS: [&str; 7] = [
    "\"free\"", "\"pro\"", "\"it's\"", "\"\"", "\"10.0\"", "null", "true",
];
const AMOUNTS: [&str; 9] = [
    "0",
    "7",
    "-3",
    "2.5",
    "12.25",
    "0.05",
    "\"12\"",
    "\"1e1\"",
    "9007199254740993",
];

fn pick<T: Copy>(below: &mut dyn FnMut(u64) -> u64, of: &[T]) -> T {
    of[below(of.len() as u64) as usize]
}

/// Events of few users at few times, with hostile names and ties of every kind.
pub fn hostile_events(count: u64, days: u64, seed: u64, now: DateTime<Utc>) -> Vec<Value> {
    let mut below = numbers_below(seed);
    let start = now.timestamp() / 900 * 900;
    let event = |at: u64, below: &mut dyn FnMut(u64) -> u64| {
        let name = |below: &mut dyn FnMut(u64) -> u64| HOSTILE[below(9) as usize];
        let user = match below(40) {
            0 => json!(null),
            number @ 1..=8 => json!(format!("{}-{number}", HOSTILE[number as usize])),
            number => json!(format!("u{number}")),
        };
        json!({
            "ts": start - (below(days * 96) * 900) as i64,
            "event_type": pick(below, &["page_view", "action", "action", "conversion"]),
            "user_id": user,
            "feature": match below(5) { 0 => json!(null), _ => json!(name(below)) },
            "url": match below(3) { 0 => json!(null), _ => json!(format!("/{}", name(below))) },
            "metadata": match below(4) {
                0 => json!({}),
                _ => {
                    let (plan, amount) = (pick(below, &PLANS), pick(below, &AMOUNTS));
                    let amount = format!("{{\"plan\":{plan},\"amount\":{amount},\"in it\":{{\"plan\":\"other\"}}}}");
                    serde_json::from_str(&amount).unwrap()
                }
            },
            "event_id": format!("id-{at}"),
        })
    };
    (0..count).map(|at| event(at, &mut below)).collect()
}

/// Stores events in batches.
fn store(engine: &Engine, events: &[Value], now: DateTime<Utc>) {
    for batch in events.chunks(100) {
        assert_eq!(ingest(engine, batch, now).rejected, 0);
    }
}

/// A random condition on a property of strings.
fn condition(below: &mut dyn FnMut(u64) -> u64) -> Value {
    let name = HOSTILE[below(9) as usize];
    let part: String = name.chars().skip(1).take(3).collect();
    match below(11) {
        7 => json!({"contains": part.to_uppercase(), "ignore_case": true}),
        8 => {
            json!({"matches": pick(below, &["^[a-z]+$", "(?i)CART|検", "[0-9]\\.", "^.{2,5}$", "e|\\$"])})
        }
        9 => json!({"above": 5}),
        0 => json!(name),
        1 => json!([name, HOSTILE[below(9) as usize], "none"]),
        2 => json!({"contains": part}),
        3 => json!({"prefix": name.chars().take(2).collect::<String>()}),
        4 => json!({"suffix": part}),
        5 => json!({"exists": below(2) == 0}),
        6 => json!({"not": condition(below)}),
        _ => json!({"all": [{"not": name}, condition(below)]}),
    }
}

/// A random condition on a value of metadata.
fn of_metadata(below: &mut dyn FnMut(u64) -> u64) -> Value {
    match below(8) {
        0 => json!({"metadata.plan": pick(below, &["pro", "it's", "true", "other", ""])}),
        1 => json!({"metadata.plan": {"not": ["pro", "free"]}}),
        2 => json!({"metadata.plan": {"exists": below(2) == 0}}),
        3 => json!({"metadata.amount": [7, 2.5, "12", 1e1]}),
        4 => json!({"metadata.amount": {"min": -3, "below": 12.25}}),
        5 => json!({"metadata.amount": {"not": {"above": 2.5}}}),
        6 => json!({"metadata.plan": {"matches": "^(PRO|f)", "ignore_case": true}}),
        _ => json!({"metadata.amount": {"prefix": "1"}, "metadata.missing": {"exists": false}}),
    }
}

/// A random filter.
fn filter(below: &mut dyn FnMut(u64) -> u64) -> Value {
    match below(10) {
        7 | 8 => of_metadata(below),
        9 => {
            json!({"any": [of_metadata(below), {"not": of_metadata(below)}], "feature": condition(below)})
        }
        0 => json!({}),
        1 => json!({"feature": condition(below)}),
        2 => json!({"url": condition(below), "event_type": ["action", "page_view"]}),
        3 => json!({"user_id": {"not": "u9"}}),
        4 => json!({"any": [{"feature": condition(below)}, {"event_type": "conversion"}]}),
        5 => json!({"not": {"feature": condition(below), "url": {"exists": true}}}),
        _ => json!({"event_type": {"not": "conversion"}}),
    }
}

/// A random query of each metric that SQL can say.
pub fn queries(rounds: u64, seed: u64, end: DateTime<Utc>) -> Vec<Value> {
    let mut all = Vec::new();
    let mut next = numbers_below(seed);
    let below: &mut dyn FnMut(u64) -> u64 = &mut next;
    for _ in 0..rounds {
        let step = |place: usize| json!({"feature": HOSTILE[place]});
        let metrics = [
            json!({"metric": "active_users", "grain": GRAINS[below(3) as usize]}),
            json!({"metric": "feature_usage", "limit": below(9) + 1}),
            json!({"metric": "event_types"}),
            json!({"metric": "trends", "grain": GRAINS[below(3) as usize], "series": [
                {"filter": filter(below)}, {"measure": "users", "filter": filter(below)}, {"measure": "events_per_user"}],
                "formula": "A/B"}),
            json!({"metric": "trends", "grain": GRAINS[below(3) as usize], "limit": below(4) + 1,
                "breakdown": pick(below, &["feature", "url", "event_type", "metadata.plan", "metadata.amount"]), "series": [
                {"filter": filter(below), "measure": pick(below, &["users", "events", "events_per_user"])}, {"filter": filter(below)}]}),
            json!({"metric": "trends", "grain": "hour", "compare": pick(below, &[None, Some("previous")]), "series": [
                {"filter": filter(below), "measure": pick(below, &["sessions", "events"])}, {"measure": "users"}]}),
            json!({"metric": "trends", "grain": GRAINS[below(3) as usize], "rolling": below(9) + 1,
                "compare": pick(below, &[None, Some("previous"), Some("year")]), "series": [
                {"filter": filter(below)}, {"measure": "users"}, {"measure": "events_per_user"},
                {"measure": pick(below, &["sessions", "events"]), "filter": filter(below)}], "formula": "A-B"}),
            json!({"metric": "trends", "grain": GRAINS[below(3) as usize], "rolling": below(4) + 1, "limit": below(4) + 1,
                "compare": pick(below, &[None, Some("previous")]),
                "breakdown": pick(below, &["feature", "metadata.plan"]),
                "series": [{"measure": pick(below, &["users", "sessions"])}, {}]}),
            json!({"metric": "feature_usage", "limit": below(9) + 1,
                "breakdown": pick(below, &["url", "event_type", "metadata.plan", "user_id"])}),
            json!({"metric": "sessions", "grain": pick(below, &["hour", "day", "week", "month"])}),
            json!({"metric": "sessions", "grain": pick(below, &["hour", "day", "week"]), "limit": below(4) + 1,
                "breakdown": pick(below, &["feature", "url", "metadata.plan", "event_type"]),
                "breakdown_of": pick(below, &["first", "last"])}),
            json!({"metric": "lifecycle", "grain": GRAINS[below(3) as usize]}),
            json!({"metric": "stickiness", "grain": GRAINS[below(3) as usize]}),
            json!({"metric": "funnel", "within": pick(below, &["3h", "2d", "20d"]),
                "steps": (0..below(4) as usize + 2).map(step).collect::<Vec<_>>()}),
            json!({"metric": "funnel", "within": pick(below, &["3h", "20d"]),
                "breakdown": pick(below, &["url", "feature", "metadata.plan", "event_type"]), "steps": [
                {"event_type": "page_view"}, {"event_type": "action", "url": condition(below)}, {"event_type": "conversion"}]}),
            json!({"metric": "funnel", "steps": [{"event_type": "page_view", "feature": condition(below)},
                {"event_type": ["action", "none"]}, {"event_type": "conversion"}]}),
            json!({"metric": "retention", "grain": GRAINS[below(3) as usize], "ever": below(2) == 0,
                "cohort": pick(below, &["first", "recurring"]), "returning": pick(below, &["on", "on_or_after"]),
                "start": filter(below), "return": filter(below)}),
            json!({"metric": "paths", "depth": below(4) + 2, "limit": below(20) + 1,
                "start": match below(2) { 0 => json!(null), _ => filter(below) }}),
            json!({"metric": "experiment", "variant": "plan", "exposure": {"event_type": "page_view"},
                "goal": filter(below), "control": "it's"}),
            json!({"metric": "events", "limit": below(200) + 1}),
        ];
        for mut query in metrics {
            query["tz"] = json!(ZONES[below(5) as usize]);
            query["days"] = json!(pick(below, &[1, 2, 9, 40, 64]));
            query["end"] = json!((end - Days::new(below(4))).date_naive().to_string());
            query["filter"] = filter(below);
            if let Some(cohort) = pick(
                below,
                &[None, None, Some("fans"), Some("paying"), Some("list")],
            ) {
                query["filter"]["cohort"] = match below(3) {
                    0 => json!({"not": cohort}),
                    1 => json!([cohort, {"not": "late"}]),
                    _ => json!(cohort),
                };
            }
            if query["grain"] == "hour" {
                query["days"] = json!(pick(below, &[1, 2, 9]));
            }
            all.push(query);
        }
    }
    all
}

/// The cohorts that random queries name.
pub fn cohorts() -> Cohorts {
    let mut cohorts = Cohorts::default();
    for cohort in [
        json!({"name":"fans","did":{"filter":{"feature":["home","Cart"],"metadata.plan":{"not":"free"}},"at_least":3}}),
        json!({"name":"late","did":{"filter":{"event_type":"conversion"}},"window":{"days":20}}),
        json!({"name":"list","users":["u9","u12","u20","nobody","it's \"quoted\"-2"]}),
        json!({"name":"paying","last":{"property":"metadata.plan","is":["pro","it's"]}}),
    ] {
        let cohort = Cohort::parse(cohort.to_string().as_bytes()).unwrap();
        cohorts.set(cohort).unwrap();
    }
    cohorts
}

fn context(cohorts: &Cohorts, now: DateTime<Utc>) -> QueryContext<'_> {
    QueryContext {
        cohorts,
        has_user_key: false,
        now,
    }
}

fn parsed(query: &Value) -> Query {
    Query::parse(query.to_string().as_bytes()).unwrap()
}

/// A statement with its views, for the scripts of `tests/oracle`.
fn described(statement: &Statement, dialect: Dialect, name: &str, lake: &Path) -> Value {
    let lake = lake.to_str().unwrap();
    json!({"dialect": name, "views": Statement::views(dialect, Some(lake)), "text": statement.text,
        "parameters": statement.parameters})
}

/// Runs a script of `tests/oracle` on statements.
fn oracle(command: &str, statements: &[Value]) -> Value {
    let dir = folder();
    let file = dir.path().join("statements.json");
    std::fs::write(&file, json!(statements).to_string()).unwrap();
    let mut python = python_command();
    let output = python
        .args(["tests/oracle/sql.py", command])
        .arg(&file)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The rows of a statement, as the oracle prints them.
fn rows_of(found: &Value) -> Rows {
    let cell = |cell: &Value| match cell {
        Value::Null => Cell::Null,
        Value::String(string) => Cell::String(string.clone()),
        number => Cell::Integer(number.as_i64().expect("a whole number")),
    };
    let names = found["names"].as_array().unwrap().iter();
    let rows = found["rows"].as_array().unwrap().iter();
    Rows {
        names: names
            .map(|name| name.as_str().unwrap().to_owned())
            .collect(),
        rows: rows
            .map(|row| row.as_array().unwrap().iter().map(cell).collect())
            .collect(),
    }
}

/// Equality of JSON: of whole numbers to the last digit, of quotients to the twelfth.
pub fn same(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
        }
        (Value::Number(a), Value::Number(b)) if a.is_f64() || b.is_f64() => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            (a - b).abs() <= 1e-12 * a.abs().max(b.abs())
        }
        _ => ours == theirs,
    }
}

/// Compares the results of the engine with those of DuckDB over its lake.
fn compare(engine: &Engine, data: &Path, queries: &[Value], now: DateTime<Utc>) {
    let lake = data.join("events");
    let cohorts = engine.cohorts().unwrap();
    let statements = queries.iter().map(|query| {
        let query = parsed(query);
        let window = query.window.resolve(now).unwrap();
        Statement::of(&query, &window, Dialect::DuckDb, context(&cohorts, now)).unwrap()
    });
    let statements: Vec<Statement> = statements.collect();
    // The query and its check.
    let both = statements.iter().flat_map(|statement| {
        let check = statement.of_check();
        [statement.clone(), check]
            .map(|statement| described(&statement, Dialect::DuckDb, "duckdb", &lake))
    });
    let found = oracle("duckdb", &both.collect::<Vec<_>>());
    let history = History {
        first_day: engine.store().first_day(),
        raw_from: None,
    };
    let mut with_rows = 0;
    let mut differences: BTreeMap<&str, String> = BTreeMap::new();
    for ((query, statement), found) in queries
        .iter()
        .zip(&statements)
        .zip(found.as_array().unwrap().chunks(2))
    {
        let [found, check] = found else {
            panic!("{query} has no check");
        };
        let has_visitors = answer::has_visitors(&statement.check, &rows_of(check));
        assert_eq!(
            has_visitors.map_err(|error| error.to_string()),
            Ok(false),
            "{query}"
        );
        let parsed = parsed(query);
        let ours = engine.query(&parsed, now, &Cancel::default()).unwrap();
        let window = parsed.window.resolve(now).unwrap();
        let theirs = answer::answer(&parsed, &window, now, history, &rows_of(found)).unwrap();
        with_rows += usize::from(!found["rows"].as_array().unwrap().is_empty());
        let mut notes = json!(ours.notes);
        // The caller adds them.
        for name in ["history_from", "cohort_windows"] {
            notes.as_object_mut().unwrap().remove(name);
        }
        for (part, ours, theirs) in [
            ("rows", json!(ours.rows), json!(theirs.rows)),
            ("notes", notes, json!(theirs.notes)),
        ] {
            if !same(&ours, &theirs) {
                let text = &statement.text;
                let different =
                    format!("{part} of {query}\nby the engine {ours}\nby DuckDB {theirs}\n{text}");
                differences.entry(parsed.metric.name()).or_insert(different);
            }
        }
    }
    let all: Vec<String> = differences.into_values().collect();
    assert!(all.is_empty(), "{}", all.join("\n"));
    assert!(
        with_rows * 10 > queries.len() * 6,
        "{with_rows} queries have rows"
    );
}

#[test]
fn random_queries_over_hostile_events_are_those_of_the_sql_in_duckdb() {
    for seed in [1, 2] {
        let dir = folder();
        let now = Utc::now();
        let opened = engine(dir.path(), now);
        store(&opened, &hostile_events(2_500, 70, seed, now), now);
        opened.store().seal().unwrap();
        for cohort in cohorts().cohorts {
            opened.set_cohort(cohort).unwrap();
        }
        let mut all = queries(8, seed, now);
        // The page after each page of events.
        let pages = all.iter().filter(|query| query["metric"] == "events");
        let pages: Vec<Value> = pages
            .filter_map(|query| {
                let page = opened
                    .query(&parsed(query), now, &Cancel::default())
                    .unwrap();
                let next = page.notes["next"].as_str()?.to_owned();
                let mut query = query.clone();
                query["before"] = json!(next);
                Some(query)
            })
            .collect();
        assert!(!pages.is_empty());
        all.extend(pages);
        compare(&opened, dir.path(), &all, now);
    }
}

#[test]
fn a_funnel_whose_steps_one_event_can_meet_twice_is_that_of_the_sql_in_duckdb() {
    let dir = folder();
    let now = Utc::now();
    let opened = engine(dir.path(), now);
    let mut events = hostile_events(1_500, 20, 5, now);
    // No two of them are at one time.
    for (at, event) in events.iter_mut().enumerate() {
        let ts = event["ts"].as_i64().unwrap() * 1_000 + at as i64 % 900_000;
        event["ts"] = json!(ts);
    }
    store(&opened, &events, now);
    opened.store().seal().unwrap();
    let mut next = numbers_below(9);
    let below: &mut dyn FnMut(u64) -> u64 = &mut next;
    let step = |below: &mut dyn FnMut(u64) -> u64| {
        let names = [HOSTILE[below(9) as usize], HOSTILE[below(9) as usize]];
        match below(5) {
            0 => json!({"feature": names}),
            1 => json!({"event_type": pick(below, &["page_view", "action"])}),
            2 => json!({"url": {"exists": true}}),
            3 => json!({}),
            _ => json!({"event_type": "action", "feature": {"not": names}}),
        }
    };
    let queries = (0..40).map(|_| {
        let steps: Vec<Value> = (0..below(3) + 2).map(|_| step(below)).collect();
        json!({"metric": "funnel", "steps": steps, "within": pick(below, &["5h", "2d", "14d"]), "days": 21,
            "breakdown": pick(below, &[None, None, Some("feature")])})
    });
    compare(&opened, dir.path(), &queries.collect::<Vec<_>>(), now);

    // With another event at its time, an event that meets two steps is a matter of matching.
    let known = events.iter().find(|event| event["user_id"] == "u20");
    let known = known.expect("an event of the user");
    let twin =
        json!({"ts": known["ts"], "user_id": "u20", "event_type": "action", "feature": "home"});
    assert_eq!(ingest(&opened, &[twin], now).logged, 1);
    opened.store().seal().unwrap();
    let query = parsed(&json!({"metric": "funnel", "steps": [{}, {}], "days": 21}));
    let window = query.window.resolve(now).unwrap();
    let cohorts = Cohorts::default();
    let statement =
        Statement::of(&query, &window, Dialect::DuckDb, context(&cohorts, now)).unwrap();
    let described = described(
        &statement,
        Dialect::DuckDb,
        "duckdb",
        &dir.path().join("events"),
    );
    let rows = rows_of(&oracle("duckdb", &[described])[0]);
    let error = answer::answer(&query, &window, now, History::default(), &rows).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("another event at the same time: 2"),
        "{error}"
    );
}

/// Metadata of which the value of a condition is a list, an object or an unusual number.
#[test]
fn a_check_finds_metadata_that_engines_read_differently() {
    let dir = folder();
    let data = dir.path().join("data");
    let odd = [
        r#"["pro"]"#,
        r#"{"a":1}"#,
        "10.0",
        "1e1",
        "-0",
        "0.001",
        "12345678.5",
        "0.1000000000000000055",
        "123456789012345678",
    ];
    let usual = [
        "10",
        "-2.5",
        "\"10.0\"",
        "\"1e400\"",
        "true",
        "null",
        "9007199254740993",
    ];
    let mut lines = Vec::new();
    for (name, values) in [("odd", &odd[..]), ("usual", &usual[..])] {
        for (at, value) in values.iter().enumerate() {
            lines.push(format!(
                r#"{{"event_type":"action","metadata":{{"{name}{at}":{value},"in":{{"z":[1.0]}}}}}}"#
            ));
        }
    }
    let file = dir.path().join("events.ndjson");
    std::fs::write(&file, lines.join("\n")).unwrap();
    let imported = run(&data, &["import", file.to_str().unwrap()]);
    assert!(imported.status.success());
    let now = Utc::now();
    let cohorts = Cohorts::default();
    let statement = |name: &str, at: usize, condition: Value| {
        let filter = json!({format!("metadata.{name}{at}"): condition});
        let query = parsed(&json!({"metric":"event_types","filter":filter}));
        let window = query.window.resolve(now).unwrap();
        Statement::of(&query, &window, Dialect::DuckDb, context(&cohorts, now)).unwrap()
    };
    let mut expected = Vec::new();
    for at in 0..odd.len() {
        expected.push((true, statement("odd", at, json!(10))));
        // A string that is not a number only needs to know lists and objects.
        expected.push((at < 2, statement("odd", at, json!("pro"))));
    }
    for at in 0..usual.len() {
        expected.push((false, statement("usual", at, json!(["10", 11]))));
    }
    // A range needs to know numbers near its bounds, and those beyond all doubles.
    expected.push((true, statement("odd", 7, json!({"above": 0.1}))));
    expected.push((false, statement("odd", 7, json!({"above": 0.2}))));
    expected.push((false, statement("odd", 2, json!({"min": 10}))));
    expected.push((true, statement("usual", 3, json!({"min": 10}))));
    let described: Vec<Value> = expected
        .iter()
        .map(|(_, statement)| {
            let check = statement.of_check();
            described(&check, Dialect::DuckDb, "duckdb", &data.join("events"))
        })
        .collect();
    let found = oracle("duckdb", &described);
    for ((is_odd, statement), found) in expected.iter().zip(found.as_array().unwrap()) {
        match answer::has_visitors(&statement.check, &rows_of(found)) {
            Ok(_) => assert!(!is_odd, "{:?}", statement.check),
            Err(error) => assert!(*is_odd, "{error}"),
        }
    }
}

#[test]
fn usage_is_that_of_the_sql_in_duckdb() {
    let dir = folder();
    let now = Utc::now();
    let opened = engine(dir.path(), now);
    store(&opened, &hostile_events(1_500, 40, 3, now), now);
    opened.store().seal().unwrap();
    let windows: Vec<WindowRequest> = ZONES
        .iter()
        .flat_map(|tz| {
            [1, 5, 30, 365].map(|days| WindowRequest {
                days: Some(days),
                tz: Some((*tz).into()),
                ..WindowRequest::default()
            })
        })
        .collect();
    let statements = windows.iter().map(|request| {
        let window = request.resolve(now).unwrap();
        let statement = Statement::of_usage(&window, Dialect::DuckDb).unwrap();
        described(
            &statement,
            Dialect::DuckDb,
            "duckdb",
            &dir.path().join("events"),
        )
    });
    let found = oracle("duckdb", &statements.collect::<Vec<_>>());
    for (request, found) in windows.iter().zip(found.as_array().unwrap()) {
        for features in [3, 100] {
            let ours = opened
                .usage_of(request, features, now, &Cancel::default())
                .unwrap();
            let theirs = answer::usage(&rows_of(found), features).unwrap();
            assert_eq!(
                json!(ours.numbers),
                json!(theirs.clone().numbers()),
                "{request:?}"
            );
            let days = (
                ours.unique_days,
                ours.unique_weeks,
                ours.users_per_day,
                ours.users_per_week,
            );
            assert_eq!(
                days,
                (
                    theirs.days,
                    theirs.weeks,
                    theirs.user_days,
                    theirs.user_weeks
                )
            );
        }
    }
}

#[test]
fn every_statement_is_read_by_every_dialect() {
    let now: DateTime<Utc> = "2026-11-20T12:00:00Z".parse().unwrap();
    let dialects = [
        (Dialect::DuckDb, "duckdb"),
        (Dialect::Spark, "spark"),
        (Dialect::Databricks, "databricks"),
        (Dialect::BigQuery, "bigquery"),
        (Dialect::Snowflake, "snowflake"),
        (Dialect::ClickHouse, "clickhouse"),
        (Dialect::Trino, "trino"),
    ];
    let mut statements = Vec::new();
    let cohorts = cohorts();
    let all = queries(2, 7, now);
    for query in &all {
        let query = parsed(query);
        let window = query.window.resolve(now).unwrap();
        for (dialect, name) in dialects {
            let statement = Statement::of(&query, &window, dialect, context(&cohorts, now));
            let statement = match statement {
                Err(error) if ["clickhouse", "snowflake"].contains(&name) => {
                    let error = error.to_string();
                    assert!(error.to_lowercase().contains("snowflake"), "{error}");
                    continue;
                }
                found => found.unwrap(),
            };
            assert!(!statement.text.contains("OR 1=1"), "a value is in the SQL");
            statements.push(described(&statement, dialect, name, Path::new("/lake")));
            let check = statement.of_check();
            statements.push(described(&check, dialect, name, Path::new("/lake")));
        }
    }
    // Few are not available in two of them.
    assert!(statements.len() > 5 * 2 * all.len());
    let parsed = oracle("parse", &statements);
    assert_eq!(parsed, json!(statements.len()));
}

#[test]
fn what_sql_cannot_say_on_every_engine_is_rejected_by_name() {
    let now: DateTime<Utc> = "2026-11-20T12:00:00Z".parse().unwrap();
    let stopped = json!({"name":"stopped","step":{"funnel":{"steps":[{"feature":"a"},{"feature":"b"}]},"reached":1}});
    let mut cohorts = cohorts();
    cohorts
        .set(Cohort::parse(stopped.to_string().as_bytes()).unwrap())
        .unwrap();
    let funnel = |more: Value| {
        let mut query = json!({"metric":"funnel","steps":[{"feature":"a"},{"feature":"b"}]});
        query
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        query
    };
    let filtered = |filter: Value| json!({"metric":"event_types","filter":filter});
    for (query, says) in [
        (
            filtered(json!({"any":[{"metadata.a.b":{"min":1}}]})),
            "metadata.a.b",
        ),
        (filtered(json!({"metadata.it's":"pro"})), "metadata.it's"),
        (
            filtered(json!({"url":{"matches":r"\ba"}})),
            "starts and ends of words",
        ),
        (
            filtered(json!({"feature":{"above":0.1234567890123456}})),
            "more than 15 digits",
        ),
        (
            filtered(json!({"event_type":["action","system"]})),
            "system",
        ),
        (
            filtered(json!({"cohort":"stopped"})),
            "filter.cohort \"stopped\"",
        ),
        (filtered(json!({"cohort":"nobody"})), "nobody"),
        (
            json!({"metric":"trends","breakdown":"metadata.a.plan"}),
            "metadata.a.plan",
        ),
        (
            json!({"metric":"trends","rolling":7,"grain":"hour"}),
            "rolling hours",
        ),
        (
            json!({"metric":"trends","grain":"hour","tz":"Australia/Lord_Howe","from":"2026-10-01","to":"2026-10-09"}),
            "its clock changes within an hour",
        ),
        (
            json!({"metric":"trends","series":[{"measure":"sum","of":"metadata.n"}]}),
            "metadata.n",
        ),
        (json!({"metric":"paths","by":"session"}), "session"),
        (
            json!({"metric":"experiment","variant":"a'b","exposure":{},"goal":{}}),
            "a'b",
        ),
        (funnel(json!({"order":"strict"})), "strict"),
        (
            funnel(json!({"exclude":[{"filter":{"feature":"c"}}]})),
            "exclude",
        ),
    ] {
        let query = parsed(&query);
        let window = query.window.resolve(now).unwrap();
        let error = Statement::of(&query, &window, Dialect::Spark, context(&cohorts, now));
        let error = error.unwrap_err();
        assert!(error.to_string().contains(says), "{says}: {error}");
    }
}

#[test]
fn the_command_prints_views_query_and_parameters() {
    let dir = folder();
    let printed = |arguments: &[&str]| {
        let output = run(dir.path(), &[&["sql"], arguments].concat());
        String::from_utf8(output.stdout).unwrap()
    };
    let window = ["--from", "2026-11-01", "--to", "2026-11-20"];
    let script = printed(&[&["active_users", "--dialect", "bigquery"], &window[..]].concat());
    for part in [
        "create or replace view {dataset}.events",
        "-- param first_day DATE 2026-10-03\n",
        "day between @first_day and @last_day",
    ] {
        assert!(script.contains(part), "{part}\n{script}");
    }
    let filter = r#"{"feature":"it's\n"}"#;
    let options = ["--filter", filter, "--lake", "/x", "--format", "json"];
    let parts = run_json(
        dir.path(),
        &[&["sql", "event_types"], &window[..], &options].concat(),
    );
    assert!(
        parts["views"]
            .as_str()
            .unwrap()
            .contains("'/x/dt=*/*.parquet'")
    );
    assert_eq!(
        parts["parameters"],
        json!([{"name":"first_day","type":"DATE","value":"2026-11-01"},
            {"name":"last_day","type":"DATE","value":"2026-11-20"},{"name":"text_1","type":"TEXT","value":"it's\n"}])
    );
    let script = printed(&[&["event_types", "--filter", filter], &window[..]].concat());
    assert!(
        script.contains("-- param text_1 TEXT \"it's\\n\"\n"),
        "{script}"
    );
    // Nothing is opened or made.
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none());
}
