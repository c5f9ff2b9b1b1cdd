//! Every metric in its three forms: the engine, the SQL and the numbers counted by hand say the
//! same.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use chrono::{DateTime, Utc};
use echopilot_analytics::engine::{Cancel, Engine};
use echopilot_analytics::export::Format;
use echopilot_analytics::metrics::query::Query;
use echopilot_analytics::metrics::{LIST, MORE_SQL, NAMES};
use echopilot_analytics::store::CompactionScope;
use echopilot_analytics::window::WindowRequest;
use serde_json::{Value, json};

use crate::harness::{FEATURES, engine, folder, import, ingest, numbers_below, run_json};
use crate::histories::{purchases, shop_clicks};
use crate::oracle::python_command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The names of all SQL files: of each metric, and of measures that have one of their own.
pub fn forms() -> Vec<&'static str> {
    NAMES
        .into_iter()
        .chain(MORE_SQL.map(|(name, _)| name))
        .collect()
}

/// The names of the golden tables without SQL, whose requests are in files.
const WITHOUT_SQL: [&str; 3] = ["trends_days", "trends_hours", "trends_months"];

/// The request in the first line of a metric's SQL.
pub fn request_of(metric: &str) -> Value {
    let sql = std::fs::read_to_string(sql_file(metric)).expect("the metric has its SQL");
    let line = sql.lines().next().unwrap().strip_prefix("-- ").unwrap();
    let request: Value = serde_json::from_str(line).expect("line 1 is the request");
    let of = request["metric"].as_str().unwrap();
    assert!(
        metric
            .strip_prefix(of)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    );
    request
}

fn sql_file(metric: &str) -> PathBuf {
    root().join(format!("queries/{metric}.sql"))
}

fn golden_file(metric: &str) -> PathBuf {
    root().join(format!("tests/golden/{metric}.csv"))
}

/// The time of the queries over the history that was counted by hand.
fn golden_now() -> DateTime<Utc> {
    "2024-03-03T12:00:00Z".parse().unwrap()
}

fn ask(engine: &Engine, request: &Value, now: DateTime<Utc>) -> Vec<u8> {
    let query = Query::parse(request.to_string().as_bytes()).unwrap();
    let answer = engine.query(&query, now, &Cancel::default()).unwrap();
    Format::Csv.encode(&answer, &answer.rows).unwrap()
}

fn rows(csv: &[u8]) -> Vec<Vec<String>> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .from_reader(csv);
    let records = reader.records().map(|record| record.unwrap());
    records
        .map(|record| record.iter().map(str::to_owned).collect())
        .collect()
}

/// Compares tables cell by cell; numbers as numbers, to nine digits.
fn assert_same(metric: &str, found: &[u8], expected: &[u8]) {
    let (found, expected) = (rows(found), rows(expected));
    let text = |rows: &[Vec<String>]| {
        let lines: Vec<String> = rows.iter().map(|row| row.join(",")).collect();
        lines.join("\n")
    };
    let same = found.len() == expected.len()
        && found.iter().zip(&expected).all(|(found, expected)| {
            found.len() == expected.len()
                && found.iter().zip(expected).all(|(found, expected)| {
                    match (found.parse::<f64>(), expected.parse::<f64>()) {
                        (Ok(a), Ok(b)) => (a - b).abs() <= 1e-9 * b.abs().max(1.0),
                        _ => found == expected,
                    }
                })
        });
    assert!(
        same,
        "{metric} is\n{}\nand should be\n{}",
        text(&found),
        text(&expected)
    );
}

#[test]
fn every_metric_has_its_three_forms() {
    for form in forms() {
        request_of(form);
        assert!(golden_file(form).exists(), "tests/golden/{form}.csv");
    }
    for metric in NAMES {
        assert!(golden_file(metric).exists(), "tests/golden/{metric}.csv");
        let file = root().join(format!("src/metrics/{metric}.rs"));
        let folder = root().join(format!("src/metrics/{metric}/mod.rs"));
        assert!(file.exists() || folder.exists(), "{}", file.display());
    }
    for (dir, extension) in [("queries", "sql"), ("tests/golden", "csv")] {
        for entry in std::fs::read_dir(root().join(dir)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|found| found == extension) {
                let name = path.file_stem().unwrap().to_str().unwrap();
                let is_without_sql = extension == "csv" && WITHOUT_SQL.contains(&name);
                assert!(
                    forms().contains(&name) || is_without_sql,
                    "{} belongs to no metric",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn the_documentation_lists_every_metric() {
    for file in ["docs/metrics.md", "queries/README.md"] {
        let page = std::fs::read_to_string(root().join(file)).unwrap();
        let name = |row: &str| {
            row.strip_prefix("| `")?
                .split('`')
                .next()
                .map(str::to_owned)
        };
        let rows = page
            .lines()
            .skip_while(|row| name(row).as_deref() != NAMES.first().copied());
        let names: Vec<String> = rows.map_while(name).collect();
        assert_eq!(names, NAMES, "{file}");
    }
}

#[test]
fn the_help_lists_every_metric() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_echopilot"));
    let output = command.args(["query", "--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    for metric in LIST {
        let line = help
            .lines()
            .find(|line| line.trim_start().starts_with(metric.name));
        let line = line.expect(metric.name);
        assert!(line.ends_with(metric.about), "{line}");
    }
}

#[test]
fn a_history_counted_by_hand_gives_the_numbers_that_were_counted() {
    let dir = folder();
    let now = golden_now();
    let check = |engine: &Engine| {
        for name in WITHOUT_SQL {
            let expected = std::fs::read(golden_file(name)).unwrap();
            let request = golden_file(name).with_extension("json");
            let request = serde_json::from_slice(&std::fs::read(request).unwrap()).unwrap();
            assert_same(name, &ask(engine, &request, now), &expected);
        }
        for metric in forms() {
            let expected = std::fs::read(golden_file(metric)).unwrap();
            let mut request = request_of(metric);
            assert_same(metric, &ask(engine, &request, now), &expected);
            // In a zone with the days of UTC the result comes from events instead of daily states.
            request["tz"] = json!("Africa/Abidjan");
            assert_same(metric, &ask(engine, &request, now), &expected);
        }
    };
    let opened = engine(dir.path(), now);
    let lines = std::fs::read_to_string(root().join("tests/golden/events.ndjson")).unwrap();
    let events: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let answer = ingest(&opened, &events, now);
    assert_eq!((answer.logged, answer.duplicates), (37, 1));
    check(&opened);
    opened.store().seal().unwrap();
    check(&opened);
    opened.compact(now, CompactionScope::Full).unwrap();
    drop(opened);
    check(&engine(dir.path(), now));
}

/// Runs the second implementation, which must agree.
pub fn run_queries(arguments: &[&str]) -> Output {
    let output = python_command()
        .arg("tests/oracle/queries.py")
        .args(arguments)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Compares the results over a sealed store with those of the SQL in DuckDB over its lake.
fn compare_with_sql(data: &Path, days: &[i64]) {
    run_json(data, &["seal"]);
    let lake = data.join("events");
    let yesterday = (Utc::now() - chrono::TimeDelta::days(1)).date_naive();
    for metric in forms() {
        for days in days {
            let mut request = request_of(metric);
            request["days"] = json!(days);
            request["end"] = json!(yesterday.to_string());
            let answer = run_json(data, &["query", &request.to_string()]);
            let file = data.join("answer.json");
            std::fs::write(&file, answer.to_string()).unwrap();
            run_queries(&[
                "compare",
                sql_file(metric).to_str().unwrap(),
                file.to_str().unwrap(),
                lake.to_str().unwrap(),
            ]);
        }
    }
}

#[test]
fn metrics_of_a_shop_and_of_its_customers_are_those_of_the_sql_in_duckdb() {
    for (history, days) in [
        (shop_clicks as fn(&Path) -> PathBuf, &[365, 45][..]),
        (purchases, &[365][..]),
    ] {
        let dir = folder();
        let data = dir.path().join("data");
        import(&data, &history(dir.path()));
        compare_with_sql(&data, days);
    }
}

/// Events of few users at few timestamps, so that there are ties of every kind.
fn crowded_history(events: u64, seed: u64) -> String {
    let mut below = numbers_below(seed);
    let now = Utc::now().timestamp() / 3_600 * 3_600;
    let mut lines = String::new();
    for id in 0..events {
        let feature = FEATURES[below(6) as usize];
        let event_type = ["page_view", "action", "conversion"][below(3) as usize];
        let user = below(45);
        // Most users have one platform, some several. One of them is a number, in two notations.
        let platforms = [
            [json!("desktop"), json!("desktop")],
            [json!(-10.5), json!(-1050e-2)],
            [json!(10), json!(10.0)],
        ];
        let platform = if user.is_multiple_of(5) {
            below(3)
        } else {
            user % 3
        };
        let platform = &platforms[platform as usize][below(2) as usize];
        let event = json!({
            "ts": now - below(60 * 24) as i64 * 3_600 - 86_400,
            "event_type": event_type,
            "user_id": match user { 0 => json!("undefined"), 1 => json!(null), user => json!(format!("u{user}")) },
            "feature": if feature.is_empty() { json!(null) } else { json!(feature) },
            "metadata": match below(4) {
                0 => json!({}),
                1 => json!({"platform": platform, "price": below(400) as f64 / 8.0 - 10.0}),
                2 => json!({"platform": platform, "price": format!("{}", below(9))}),
                _ => json!({"platform": platform, "price": (["free", "1e1", ".5"][below(3) as usize])}),
            },
            "event_id": format!("id-{id}"),
        });
        lines.push_str(&event.to_string());
        lines.push('\n');
    }
    lines
}

#[test]
fn a_random_history_full_of_ties_gives_the_numbers_of_the_sql_in_duckdb() {
    for seed in [1, 2] {
        let dir = folder();
        let file = dir.path().join("history");
        std::fs::write(&file, crowded_history(3_000, seed)).unwrap();
        let data = dir.path().join("data");
        run_json(&data, &["import", file.to_str().unwrap()]);
        compare_with_sql(&data, &[70, 20]);
    }
}

#[test]
fn every_query_translates_to_the_dialects_of_the_warehouses() {
    let files: Vec<String> = forms()
        .into_iter()
        .map(|form| sql_file(form).to_str().unwrap().to_owned())
        .collect();
    let arguments: Vec<&str> = ["translate"]
        .into_iter()
        .chain(files.iter().map(String::as_str))
        .collect();
    run_queries(&arguments);
}

/// The periods of a result that are partial.
fn partial(engine: &Engine, mut request: Value, tz: &str, now: DateTime<Utc>) -> Vec<String> {
    request["tz"] = json!(tz);
    let query = Query::parse(request.to_string().as_bytes()).unwrap();
    let answer = engine.query(&query, now, &Cancel::default()).unwrap();
    let answer = serde_json::to_value(answer).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    if let Some(periods) = answer["partial_periods"].as_array() {
        return periods.iter().map(text).collect();
    }
    let rows = answer["rows"].as_array().unwrap().iter();
    rows.filter(|row| row["partial"] == true)
        .map(|row| text(row.get("period").unwrap_or(&row["cohort"])))
        .collect()
}

#[test]
fn lifecycle_has_the_active_users_of_every_period_that_is_not_cut() {
    let dir = folder();
    let now: DateTime<Utc> = "2024-03-04T09:00:00Z".parse().unwrap();
    let opened = engine(dir.path(), now);
    let first = "2023-12-20T20:00:00Z".parse::<DateTime<Utc>>().unwrap();
    for day in 0..75 {
        let ts = (first + chrono::Days::new(day)).to_rfc3339();
        // Some come each week, some leave for a while, and each day has users of its own.
        let users = (0..20).filter(|user| (day / (user + 1)) % 3 == 0 || day % 7 == *user);
        let users = users
            .map(|user| format!("{user}"))
            .chain([format!("only {day}")]);
        let event = |user| json!({"ts": ts, "event_type": "action", "user_id": user});
        ingest(&opened, &users.map(event).collect::<Vec<_>>(), now);
    }
    let rows = |metric: &str, grain: &str| {
        let query = json!({"metric": metric, "grain": grain, "days": 60, "end": "2024-03-01"});
        let query = Query::parse(query.to_string().as_bytes()).unwrap();
        let answer = opened.query(&query, now, &Cancel::default()).unwrap();
        serde_json::to_value(answer).unwrap()["rows"].clone()
    };
    for (grain, users, complete) in [
        ("day", "dau", 60),
        ("week", "users", 7),
        ("month", "users", 1),
    ] {
        let (active, sources) = (rows("active_users", grain), rows("lifecycle", grain));
        let pairs = active
            .as_array()
            .unwrap()
            .iter()
            .zip(sources.as_array().unwrap());
        let whole: Vec<_> = pairs.filter(|(row, _)| row["partial"] == false).collect();
        assert_eq!(whole.len(), complete, "{grain}");
        for (active, sources) in whole {
            let of = |name: &str| sources[name].as_i64().unwrap();
            let sum = of("new") + of("returning") + of("resurrecting");
            assert_eq!(active["period"], sources["period"], "{grain}");
            assert_eq!(active[users], sum, "{grain} {active} {sources}");
        }
    }
}

#[test]
fn every_metric_says_which_periods_the_window_or_the_present_cuts() {
    let dir = folder();
    // Ten users of each day from Monday 2024-01-29 to Sunday 2024-03-03: seventy of each week.
    let now: DateTime<Utc> = "2024-03-04T09:00:00Z".parse().unwrap();
    let opened = engine(dir.path(), now);
    let monday = "2024-01-29T20:00:00Z".parse::<DateTime<Utc>>().unwrap();
    for day in 0..35 {
        let ts = monday + chrono::Days::new(day);
        let users = (0..10).map(|user| json!({"ts":ts.to_rfc3339(),"event_type":"action","user_id":format!("{}-{user}", day % 7)}));
        ingest(&opened, &users.collect::<Vec<_>>(), now);
    }
    let weeks = json!({"metric":"active_users","grain":"week","days":30,"end":"2024-03-03"});
    let query = Query::parse(weeks.to_string().as_bytes()).unwrap();
    let answer = opened.query(&query, now, &Cancel::default()).unwrap();
    let rows = serde_json::to_value(answer).unwrap()["rows"].clone();
    // The window begins with Saturday, February 3rd.
    assert_eq!(
        rows[0],
        json!({"period":"2024-01-29","users":20,"partial":true})
    );
    for (row, monday) in [(1, "2024-02-05"), (4, "2024-02-26")] {
        let whole = json!({"period":monday,"users":70,"partial":false});
        assert_eq!(rows[row], whole);
    }

    let sunday: DateTime<Utc> = "2024-03-03T21:00:00Z".parse().unwrap();
    for metric in ["active_users", "lifecycle", "retention", "stickiness"] {
        let ask = |days: i64, end: &str, grain: &str, tz: &str, now: DateTime<Utc>| {
            let request = json!({"metric":metric,"grain":grain,"days":days,"end":end});
            partial(&opened, request, tz, now)
        };
        let none: [&str; 0] = [];
        // The window: its start, its end, both in one period, and neither.
        let saturday = ask(29, "2024-03-02", "week", "UTC", now);
        assert_eq!(saturday, ["2024-01-29", "2024-02-26"], "{metric}");
        let inside = ask(3, "2024-02-08", "week", "UTC", now);
        assert_eq!(inside, ["2024-02-05"], "{metric}");
        let whole = ask(28, "2024-03-03", "week", "UTC", now);
        assert_eq!(whole, none, "{metric}");
        let months = ask(33, "2024-03-03", "month", "UTC", now);
        assert_eq!(months, ["2024-01-01", "2024-03-01"], "{metric}");
        assert_eq!(ask(29, "2024-02-29", "month", "UTC", now), none, "{metric}");
        assert_eq!(ask(7, "2024-03-03", "day", "UTC", now), none, "{metric}");
        // The present: Sunday is not over in UTC and in New York; in Auckland it is.
        for (tz, day, week) in [
            ("UTC", &["2024-03-03"][..], &["2024-02-26"][..]),
            ("America/New_York", &["2024-03-03"], &["2024-02-26"]),
            ("Pacific/Auckland", &[], &[]),
        ] {
            assert_eq!(ask(7, "2024-03-03", "day", tz, sunday), day, "{metric}");
            assert_eq!(ask(7, "2024-03-03", "week", tz, sunday), week, "{metric}");
        }
    }

    let usage = |days: i64, end: &str, now: DateTime<Utc>| {
        let window = WindowRequest {
            days: Some(days),
            end: Some(end.parse().unwrap()),
            ..WindowRequest::default()
        };
        let answer = serde_json::to_value(opened.usage(&window, now).unwrap()).unwrap();
        (
            answer["partial_days"].clone(),
            answer["partial_weeks"].clone(),
        )
    };
    let (days, weeks) = usage(30, "2024-03-03", now);
    assert_eq!((days, weeks), (json!([]), json!(["2024-01-29"])));
    let (days, weeks) = usage(28, "2024-03-03", now);
    assert_eq!((days, weeks), (json!([]), json!([])));
    let (days, weeks) = usage(7, "2024-03-03", sunday);
    assert_eq!(
        (days, weeks),
        (json!(["2024-03-03"]), json!(["2024-02-26"]))
    );
}
