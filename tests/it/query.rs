//! Queries over HTTP and on the command line, with filters, breakdowns and cohorts, in every
//! format.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};

use chrono::{Days, Utc};
use echopilot_analytics::engine::Cancel;
use echopilot_analytics::metrics::NAMES;
use echopilot_analytics::metrics::query::Query;
use echopilot_analytics::store::Columns;
use polars::prelude::{col, lit};
use serde_json::{Value, json};

use crate::harness::{
    KEY, PATIENCE, Server, batch, engine, event, folder, ingest, printed, run, run_json,
};
use crate::metrics::request_of;
use crate::oracle::python_command;

/// Events of yesterday: seconds after noon, type, user, feature, URL, metadata.
fn yesterday(events: &[(i64, &str, &str, &str, &str, Value)]) -> Vec<Value> {
    let day = Utc::now().date_naive() - Days::new(1);
    let noon = day.and_hms_opt(12, 0, 0).unwrap().and_utc().timestamp();
    events
        .iter()
        .map(|(second, event_type, user, feature, url, metadata)| {
            json!({"ts": noon + second, "event_type": event_type, "user_id": user, "feature": feature, "url": url,
                "metadata": metadata})
        })
        .collect()
}

fn shop() -> Vec<Value> {
    yesterday(&[
        (
            0,
            "page_view",
            "ann",
            "docs",
            "/docs/a",
            json!({"plan": "pro", "seats": 5}),
        ),
        (
            1,
            "page_view",
            "bob",
            "docs",
            "/docs/b",
            json!({"plan": "free", "seats": 1.5}),
        ),
        (
            2,
            "page_view",
            "cyd",
            "docs",
            "/blog",
            json!({"plan": "team", "beta": true}),
        ),
        (
            3,
            "action",
            "ann",
            "cart",
            "/cart",
            json!({"note": "a \"plan\":\"free\" inside"}),
        ),
        (
            4,
            "action",
            "bob",
            "cart",
            "/cart",
            json!({"seats": "ten", "deep": {"plan": "pro"}}),
        ),
        (5, "conversion", "ann", "buy", "/buy", json!({"plan": null})),
        (
            6,
            "page_view",
            "",
            "docs",
            "/docs/c",
            json!({"plan": "pro"}),
        ),
    ])
}

/// Events, and users of yesterday.
fn found(server: &Server, filter: &Value) -> (i64, i64) {
    let (status, answer) = query(
        server,
        &json!({"metric":"event_types","days":2,"filter":filter}),
    );
    assert_eq!(status, 200, "{answer}");
    let rows = answer["rows"].as_array().unwrap();
    let events = rows.iter().map(|row| row["events"].as_i64().unwrap()).sum();
    let (_, answer) = query(
        server,
        &json!({"metric":"active_users","days":2,"filter":filter}),
    );
    (events, answer["rows"][0]["dau"].as_i64().unwrap())
}

fn query(server: &Server, request: &Value) -> (u16, Value) {
    server.ask("/api/analytics/query", request)
}

#[test]
fn a_filter_finds_the_events_it_says_in_the_log_and_in_the_lake() {
    let dir = folder();
    let server = Server::start(dir.path());
    server.post(&batch(shop()));
    let expected = [
        (json!({}), (7, 3)),
        (json!({"event_type": "action"}), (2, 2)),
        (json!({"feature": ["cart", "buy"]}), (3, 2)),
        (json!({"feature": {"prefix": "d"}}), (4, 3)),
        (json!({"url": {"prefix": "/docs"}}), (3, 2)),
        (json!({"url": "/cart", "metadata.seats": "ten"}), (1, 1)),
        (json!({"metadata.plan": "pro"}), (2, 1)),
        (json!({"metadata.plan": ["pro", "free"]}), (3, 2)),
        (json!({"metadata.plan": {"exists": true}}), (4, 3)),
        (json!({"metadata.plan": {"exists": false}}), (3, 2)),
        (json!({"metadata.seats": 5}), (1, 1)),
        (json!({"metadata.seats": {"min": 1.5}}), (2, 2)),
        (json!({"metadata.seats": {"min": 1.6, "max": 5}}), (1, 1)),
        (json!({"metadata.beta": true}), (1, 1)),
        (json!({"metadata.missing": "x"}), (0, 0)),
        (json!({"metadata.it's \"odd\"": {"exists": true}}), (0, 0)),
    ];
    for (filter, expected) in &expected {
        assert_eq!(found(&server, filter), *expected, "{filter} in the log");
    }
    server.stop();
    run_json(dir.path(), &["seal"]);
    let server = Server::start(dir.path());
    for (filter, expected) in &expected {
        assert_eq!(found(&server, filter), *expected, "{filter} in the lake");
    }
    // Half in the lake, half in the log.
    server.post(&batch(shop()));
    for (filter, (events, users)) in &expected {
        assert_eq!(
            found(&server, filter),
            (events * 2, *users),
            "{filter} in both"
        );
    }
}

/// Actions of users `u0`, `u1` and so on, yesterday, each with metadata that is given as JSON.
fn actions(metadata: &[&str]) -> String {
    let ts = (Utc::now() - Days::new(1)).to_rfc3339();
    let events: Vec<_> = (0..)
        .zip(metadata)
        .map(|(user, metadata)| {
            format!(r#"{{"event_type":"action","feature":"f","user_id":"u{user}","ts":"{ts}","metadata":{metadata}}}"#)
        })
        .collect();
    format!(r#"{{"events":[{}]}}"#, events.join(","))
}

#[test]
fn a_number_is_one_value_in_every_notation_in_filters_breakdowns_and_arms() {
    let dir = folder();
    let server = Server::start(dir.path());
    let sent = actions(&[
        r#"{"p":10}"#,
        r#"{"p":10.0}"#,
        r#"{"p":1e1}"#,
        r#"{"p":"10"}"#,
        r#"{"p":"10.0"}"#,
        r#"{"p":9007199254740992}"#,
        r#"{"p":9007199254740993}"#,
        r#"{"p":-0.0}"#,
        r#"{"p":0}"#,
        r#"{"p":"NaN"}"#,
        r#"{"p":""}"#,
        r#"{"p":"12abc"}"#,
        r#"{"p":"inf"}"#,
        r#"{"p":true}"#,
    ]);
    assert_eq!(server.post_raw(sent.as_bytes(), &[]).1["logged"], 14);
    let check = |server: &Server| {
        for (condition, users) in [
            (json!(10), 4),
            (json!(10.0), 4),
            (json!("10"), 4),
            (json!("10.0"), 5),
            (json!(["1e1", 0]), 6),
            (json!(9_007_199_254_740_993_u64), 1),
            (json!({"min": 9_007_199_254_740_993_u64}), 1),
            (json!({"max": 9_007_199_254_740_992_u64}), 8),
            (json!({"min": 10}), 7),
            (json!({"min": 0, "max": 0}), 2),
            (json!({"min": -1e300}), 9),
            (json!({"exists": true}), 14),
            (json!("NaN"), 1),
            (json!(""), 1),
            (json!(true), 1),
        ] {
            let filter = json!({ "metadata.p": condition });
            assert_eq!(found(server, &filter), (users, users), "{condition}");
        }
        // The feature, which is a string like those above.
        assert_eq!(found(server, &json!({"feature": {"min": 0}})), (0, 0));
        let (_, funnel) = query(
            server,
            &json!({"metric":"funnel","days":2,"breakdown":"metadata.p",
            "steps":[{"feature":"f"},{"feature":"g"}]}),
        );
        let mut groups: Vec<_> = funnel["rows"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|row| row["step"] == 1 && row["users"].as_i64() > Some(1))
            .map(|row| {
                (
                    row["breakdown"].as_str().unwrap(),
                    row["users"].as_i64().unwrap(),
                )
            })
            .collect();
        groups.sort_unstable();
        assert_eq!(groups, [("0", 2), ("10", 4)], "{funnel}");
        let (status, experiment) = query(
            server,
            &json!({"metric":"experiment","days":2,"exposure":{"metadata.p":{"min":-1,"max":10}},
            "variant":"p","goal":{"feature":"g"},"control":10.0,"weights":{"0":1,"10.0":2}}),
        );
        assert_eq!(status, 200, "{experiment}");
        let arms: Vec<_> = experiment["rows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| {
                (
                    row["variant"].as_str().unwrap(),
                    row["exposed"].as_i64().unwrap(),
                )
            })
            .collect();
        assert_eq!(
            arms,
            [
                ("10", 4),
                ("0", 2),
                ("10.0", 1),
                ("__multiple__", 0),
                ("__sample_ratio__", 7)
            ],
            "a string keeps its notation"
        );
    };
    check(&server);
    server.stop();
    run_json(dir.path(), &["seal"]);
    check(&Server::start(dir.path()));
}

#[test]
fn a_filter_finds_values_in_objects_and_lists_and_under_the_empty_key() {
    let dir = folder();
    let server = Server::start(dir.path());
    let sent = actions(&[
        r#"{"a":{"b":1,"c":{"d":"x"}}}"#,
        r#"{"a.b":1}"#,
        r#"{"a.b":2,"a":{"b":1}}"#,
        r#"{"a":{"b":[1,2]}}"#,
        r#"{"a":[{"b":3},{"b":1.0}]}"#,
        r#"{"":"empty","tags":["red","blue"]}"#,
        r#"{"tags":[]}"#,
        r#"{"tags":[null],"":null}"#,
    ]);
    assert_eq!(server.post_raw(sent.as_bytes(), &[]).1["logged"], 8);
    for (filter, users) in [
        (json!({"metadata.a.b": 1}), 4),
        (json!({"metadata.a.b": 2}), 2),
        (json!({"metadata.a.b": {"min": 3}}), 1),
        (json!({"metadata.a.b": {"exists": true}}), 5),
        (json!({"metadata.a.c.d": "x"}), 1),
        (json!({"metadata.a.c.d.e": {"exists": true}}), 0),
        (json!({"metadata.b": {"exists": true}}), 0),
        (json!({"metadata.": "empty"}), 1),
        (json!({"metadata.": {"exists": false}}), 7),
        (json!({"metadata.tags": "blue"}), 1),
        (json!({"metadata.tags": ["blue", "red"]}), 1),
        (json!({"metadata.tags": {"prefix": "re"}}), 1),
        (json!({"metadata.tags": "e"}), 0),
    ] {
        assert_eq!(found(&server, &filter), (users, users), "{filter}");
    }
}

#[test]
fn a_breakdown_splits_by_the_property_and_names_what_is_missing() {
    let dir = folder();
    let server = Server::start(dir.path());
    server.post(&batch(shop()));
    let (_, answer) = query(
        &server,
        &json!({"metric":"funnel","days":2,"breakdown":"metadata.plan",
        "steps":[{"feature":"docs"},{"feature":"cart"}]}),
    );
    let found: Vec<_> = answer["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            (
                row["breakdown"].clone(),
                row["step"].as_i64().unwrap(),
                row["users"].as_i64().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            (json!("free"), 1, 1),
            (json!("free"), 2, 1),
            (json!("pro"), 1, 1),
            (json!("pro"), 2, 1),
            (json!("team"), 1, 1),
            (json!("team"), 2, 0),
        ]
    );
    let (_, answer) = query(
        &server,
        &json!({"metric":"feature_usage","days":2,"breakdown":"metadata.plan"}),
    );
    let found: Vec<_> = answer["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            (
                row["feature"].as_str().unwrap(),
                row["breakdown"].clone(),
                row["events"].as_i64().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            ("docs", json!("pro"), 2),
            ("docs", json!("free"), 1),
            ("docs", json!("team"), 1),
            ("cart", Value::Null, 2),
            ("buy", Value::Null, 1),
        ]
    );
    // More values than are named.
    let many: Vec<_> = (0..30)
        .map(|value| {
            (
                10 + value,
                "action",
                "dan",
                "many",
                "/",
                json!({"v": format!("{value:02}")}),
            )
        })
        .collect();
    server.post(&batch(yesterday(&many)));
    let (_, answer) = query(
        &server,
        &json!({"metric":"feature_usage","days":2,"breakdown":"metadata.v","filter":{"feature":"many"}}),
    );
    let rows = answer["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 26);
    assert_eq!(
        (&rows[0]["breakdown"], &rows[0]["events"]),
        (&json!("__other__"), &json!(5))
    );
}

#[test]
fn a_cohort_limits_every_metric_to_its_users() {
    let dir = folder();
    let server = Server::start(dir.path());
    server.post(&batch(shop()));
    for cohort in [
        json!({"name":"carts","did":{"filter":{"feature":"cart"}}}),
        json!({"name":"busy","did":{"filter":{},"at_least":3}}),
        json!({"name":"team","users":["cyd","nobody"]}),
    ] {
        let (status, answer) = server.ask("/api/analytics/cohorts", &cohort);
        assert_eq!(status, 200, "{answer}");
    }
    let users = |server: &Server, metric: Value, cohort: &str| {
        let mut request = metric;
        request["filter"]["cohort"] = json!(cohort);
        request["days"] = json!(2);
        let (status, answer) = query(server, &request);
        assert_eq!(status, 200, "{answer}");
        answer["rows"].clone()
    };
    let check = |server: &Server| {
        for (cohort, dau, events) in [("carts", 2, 5), ("busy", 1, 3), ("team", 1, 1)] {
            let rows = users(server, json!({"metric":"active_users","filter":{}}), cohort);
            assert_eq!(rows[0]["dau"], dau, "{cohort}");
            let rows = users(server, json!({"metric":"lifecycle","filter":{}}), cohort);
            assert_eq!(rows[0]["new"], dau, "{cohort}");
            let rows = users(server, json!({"metric":"retention","filter":{}}), cohort);
            assert_eq!(rows[0]["size"], dau, "{cohort}");
            let rows = users(server, json!({"metric":"stickiness","filter":{}}), cohort);
            assert_eq!(rows[0]["users"], dau, "{cohort}");
            let rows = users(server, json!({"metric":"event_types","filter":{}}), cohort);
            let found: i64 = rows
                .as_array()
                .unwrap()
                .iter()
                .map(|row| row["events"].as_i64().unwrap())
                .sum();
            assert_eq!(found, events, "{cohort}");
            let steps = json!([{"feature":"docs"},{"feature":"cart"}]);
            let rows = users(
                server,
                json!({"metric":"funnel","steps":steps,"filter":{}}),
                cohort,
            );
            assert_eq!(rows[0]["users"], dau, "{cohort}");
            let rows = users(server, json!({"metric":"paths","filter":{}}), cohort);
            assert_eq!(
                rows.as_array().unwrap().is_empty(),
                cohort == "team",
                "{cohort}"
            );
        }
        let rows = users(
            server,
            json!({"metric":"experiment","exposure":{"feature":"docs"},"variant":"plan",
            "goal":{"feature":"buy"},"filter":{}}),
            "carts",
        );
        let variants: Vec<_> = rows
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["variant"].clone())
            .collect();
        assert_eq!(
            variants,
            ["free", "pro", "__multiple__", "__sample_ratio__"]
        );
    };
    check(&server);
    server.stop();
    let server = Server::start(dir.path());
    check(&server);
    let (status, answer) = server.get("/api/analytics/cohorts");
    assert_eq!(status, 200);
    let names: Vec<_> = answer["cohorts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cohort| cohort["name"].clone())
        .collect();
    assert_eq!(names, ["busy", "carts", "team"]);
    assert_eq!(server.delete("/api/analytics/cohorts/busy").0, 200);
    let (status, answer) = query(
        &server,
        &json!({"metric":"event_types","filter":{"cohort":"busy"}}),
    );
    assert_eq!((status, &answer["error"]), (400, &json!("unknown_cohort")));
    assert!(
        answer["message"].as_str().unwrap().contains("carts, team"),
        "{answer}"
    );
}

#[test]
fn a_wrong_query_names_the_field_the_value_and_what_is_allowed() {
    let dir = folder();
    let server = Server::start(dir.path());
    let steps = json!([{"feature":"a"},{"feature":"b"}]);
    for (request, says) in [
        (
            json!({"metric":"users"}),
            &["\"users\"", "active_users, feature_usage"][..],
        ),
        (json!({}), &["metric"]),
        (json!({"metric":"event_types","day":3}), &["day"]),
        (
            json!({"metric":"event_types","days":0}),
            &["days is 0", "1 to 365"],
        ),
        (json!({"metric":"event_types","days":366}), &["days is 366"]),
        (
            json!({"metric":"event_types","days":"many"}),
            &["days", "many"],
        ),
        (
            json!({"metric":"event_types","end":"21.11.2026"}),
            &["end", "21.11.2026", "YYYY-MM-DD"],
        ),
        (
            json!({"metric":"event_types","tz":"Mars/Base"}),
            &["Mars/Base", "IANA"],
        ),
        (
            json!({"metric":"lifecycle","grain":"year"}),
            &["grain", "year", "day", "week", "month"],
        ),
        (
            json!({"metric":"funnel","steps":[{"feature":"a"}]}),
            &["steps", "1 steps", "2 to 20"],
        ),
        (json!({"metric":"funnel"}), &["steps"]),
        (
            json!({"metric":"funnel","steps":steps,"within":"soon"}),
            &["within", "soon", "366d"],
        ),
        (
            json!({"metric":"funnel","steps":steps,"order":"loose"}),
            &["order", "loose", "ordered", "strict", "any"],
        ),
        (
            json!({"metric":"funnel","steps":steps,"exclude":[{"filter":{},"between":[2,1]}]}),
            &["[2,1]", "1 to 2"],
        ),
        (
            json!({"metric":"funnel","steps":steps,"breakdown":"colour"}),
            &["breakdown", "colour", "metadata.<path>"],
        ),
        (
            json!({"metric":"funnel","steps":[{"feature":"a"},{"colour":"b"}]}),
            &["steps[1]", "colour", "event_type, feature, url"],
        ),
        (
            json!({"metric":"event_types","filter":{"feature":{"like":"x"}}}),
            &["feature", "like", "prefix"],
        ),
        (
            json!({"metric":"event_types","filter":{"metadata.a":[]}}),
            &["metadata.a", "0 values"],
        ),
        (
            json!({"metric":"event_types","filter":{"metadata.a":{"min":1,"prefix":"x"}}}),
            &["metadata.a", "allowed"],
        ),
        (
            json!({"metric":"paths","depth":1}),
            &["depth is 1", "2 to 20"],
        ),
        (json!({"metric":"feature_usage","limit":0}), &["limit is 0"]),
        (
            json!({"metric":"retention","cohort":"last"}),
            &["cohort", "last", "first", "recurring"],
        ),
        (json!({"metric":"experiment","exposure":{}}), &["variant"]),
        (json!([1]), &["object"]),
    ] {
        let (status, answer) = query(&server, &request);
        assert_eq!(status, 400, "{request}: {answer}");
        let message = answer["message"].as_str().unwrap();
        for part in says {
            assert!(
                message.contains(part),
                "{request}: {message:?} lacks {part:?}"
            );
        }
        let output = run(&dir.path().join("other"), &["query", &request.to_string()]);
        assert_eq!(output.status.code(), Some(2), "{request}");
        assert!(
            String::from_utf8_lossy(&output.stderr).contains(message),
            "{request}"
        );
    }
}

#[test]
fn http_and_command_line_give_one_result_in_every_format() {
    let dir = folder();
    let server = Server::start(dir.path());
    server.post(&batch(shop()));
    let request =
        json!({"metric":"funnel","days":2,"steps":[{"feature":"docs"},{"feature":"cart"}]});
    let (_, by_http) = query(&server, &request);
    let csv = server.ask_as("/api/analytics/query", &request, "text/csv");
    let arrow = server.ask_as(
        "/api/analytics/query",
        &request,
        "application/vnd.apache.arrow.stream",
    );
    let parquet = server.ask_as(
        "/api/analytics/query",
        &request,
        "application/vnd.apache.parquet",
    );
    let (status, _) = server.ask_as("/api/analytics/query", &request, "image/png");
    assert_eq!(status, 406);
    let spreadsheet = server.ask_as(
        "/api/analytics/query",
        &request,
        "text/csv; variant=spreadsheet",
    );
    server.stop();
    let by_command = run_json(dir.path(), &["query", &request.to_string()]);
    for field in ["metric", "window", "covered_from", "rows"] {
        assert_eq!(by_http[field], by_command[field], "{field}");
    }
    assert_eq!(by_http["rows"][1]["users"], 2);
    assert_eq!(
        by_http["rows"][1]["seconds_from_first"],
        json!({"mean": 3, "median": 3, "p90": 3})
    );
    let answers = [
        ("csv", csv),
        ("csv-spreadsheet", spreadsheet),
        ("arrow", arrow),
        ("parquet", parquet),
    ];
    for (format, answer) in answers {
        assert_eq!(answer.0, 200);
        let output = run(
            dir.path(),
            &["query", &request.to_string(), "--format", format],
        );
        assert_eq!(output.stdout, answer.1, "{format}");
        std::fs::write(dir.path().join(format!("rows.{format}")), answer.1).unwrap();
    }
    let script = "import sys, json, pyarrow as pa, pyarrow.ipc, pyarrow.parquet as pq, pandas as pd\n\
        d = sys.argv[1]\n\
        arrow = pa.ipc.open_stream(d + '/rows.arrow').read_all()\n\
        parquet = pq.read_table(d + '/rows.parquet')\n\
        csv = pd.read_csv(d + '/rows.csv')\n\
        assert arrow.column_names == parquet.column_names == list(csv.columns), (arrow.column_names, list(csv.columns))\n\
        assert arrow.to_pydict() == parquet.to_pydict()\n\
        assert arrow['users'].to_pylist() == csv['users'].tolist() == [3, 2]\n\
        assert arrow['seconds_from_first_mean'].to_pylist() == [None, 3.0]\n";
    printed(python_command().args(["-c", script, dir.path().to_str().unwrap()]));
}

#[test]
fn a_name_that_looks_like_a_formula_is_inert_for_spreadsheets_and_as_it_is_for_programs() {
    let dir = folder();
    let server = Server::start(dir.path());
    server.post(&batch(yesterday(&[(
        0,
        "action",
        "ann",
        "=HYPERLINK(\"x\")",
        "/",
        json!({}),
    )])));
    for (media_type, start, feature) in [
        ("text/csv", "feature,", "\n\"=HYPERLINK(\"\"x\"\")\","),
        (
            "text/csv;variant=spreadsheet",
            "\u{FEFF}feature,",
            "\n\"'=HYPERLINK(\"\"x\"\")\",",
        ),
    ] {
        let (_, csv) = server.ask_as(
            "/api/analytics/query",
            &json!({"metric":"feature_usage","days":2}),
            media_type,
        );
        let csv = String::from_utf8(csv).unwrap();
        assert!(csv.starts_with(start) && csv.contains(feature), "{csv}");
    }
}

#[test]
fn the_format_is_the_one_that_the_client_wants_most_and_never_one_of_weight_zero() {
    let dir = folder();
    let server = Server::start(dir.path());
    let query = json!({"metric":"event_types","days":2});
    let (arrow, parquet) = (
        "application/vnd.apache.arrow.stream",
        "application/vnd.apache.parquet",
    );
    let (json, csv, sheet) = (
        "application/json",
        "text/csv; charset=utf-8",
        "text/csv; charset=utf-8; variant=spreadsheet",
    );
    for (accept, expected) in [
        (&[][..], json),
        (&[""], json),
        (&["*/*"], json),
        (
            &["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"],
            json,
        ),
        (&["text/csv"], csv),
        (&["TEXT/CSV;charset=UTF-8"], csv),
        (&["text/*"], csv),
        (&["text/csv, application/json"], csv),
        (&["application/json, text/csv"], json),
        (&["text/csv;q=0.1, application/json;q=0.2"], json),
        (&["application/json;q=0, */*"], csv),
        (&["application/json;q=0,text/csv;q=0.000, */*;q=0.5"], arrow),
        (&["application/*, application/json;q=0"], arrow),
        (&["text/csv;q=0.5, application/*;q=0.4"], csv),
        (&["*/*;q=0, application/vnd.apache.parquet"], parquet),
        (
            &["*/*;q=0.1, application/vnd.apache.parquet;q=0.9, text/*;q=0.95"],
            csv,
        ),
        (
            &[
                "application/json;q=0",
                "text/csv;q=0",
                "application/vnd.apache.parquet",
            ],
            parquet,
        ),
        (&["text/csv; variant=spreadsheet"], sheet),
        (
            &["text/csv;variant=\"spreadsheet\";q=0.9, application/json;q=0.8"],
            sheet,
        ),
        (&["text/csv;variant=spreadsheet;q=0, text/csv;q=0.2"], csv),
        (&["*/*;q=0"], ""),
        (&["application/json;q=0"], ""),
        (&["text/csv;variant=paper"], ""),
        (&["application/json;q=0.0, text/html"], ""),
        (&["image/png", "text/html;level=1"], ""),
        (&["application/json;q=high"], ""),
    ] {
        let mut request = ureq::post(format!("{}/api/analytics/query", server.url))
            .config()
            .http_status_as_error(false)
            .accept("")
            .build()
            .header("x-dash-key", KEY)
            .header("content-type", "application/json");
        for line in accept {
            request = request.header("accept", *line);
        }
        let response = request.send(query.to_string()).unwrap();
        let found = response.headers()["content-type"].to_str().unwrap();
        match expected {
            "" => assert_eq!(response.status(), 406, "{accept:?}: {found}"),
            expected => assert_eq!(
                (response.status().as_u16(), found),
                (200, expected),
                "{accept:?}"
            ),
        }
    }
}

#[test]
fn a_cancelled_query_ends() {
    let dir = folder();
    let engine = engine(dir.path(), Utc::now());
    crate::harness::ingest(&engine, &shop(), Utc::now());
    let cancel = Cancel::default();
    cancel.cancel();
    for request in [
        json!({"metric":"active_users"}),
        json!({"metric":"event_types","filter":{"metadata.plan":"pro"}}),
        json!({"metric":"funnel","steps":[{"feature":"docs"},{"feature":"cart"}]}),
    ] {
        let query = Query::parse(request.to_string().as_bytes()).unwrap();
        assert!(
            engine.query(&query, Utc::now(), &cancel).is_err(),
            "{request}"
        );
    }
}

/// The first line of each response, with the index of its connection.
fn first_lines(streams: &[TcpStream]) -> Receiver<(usize, String)> {
    let (sender, lines) = channel();
    for (number, stream) in streams.iter().enumerate() {
        let stream = stream.try_clone().unwrap();
        let sender = sender.clone();
        std::thread::spawn(move || {
            let mut line = String::new();
            // A connection that was closed gives none.
            let _ = BufReader::new(stream).read_line(&mut line);
            let _ = sender.send((number, line));
        });
    }
    lines
}

#[test]
fn queries_at_once_are_bounded_and_one_whose_client_leaves_is_cancelled() {
    let dir = folder();
    let data = dir.path().join("data");
    // So long before the newest events that a start need not read its ids.
    let then = Utc::now() - Days::new(20);
    let day = then.date_naive();
    for days in [0, 10, 12] {
        let then = then + Days::new(days);
        let engine = engine(&data, then);
        ingest(&engine, &[event("action", "u", "f")], then);
        engine.store().seal().unwrap();
    }
    let segment = std::fs::read_dir(data.join(format!("events/dt={day}")))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    // To open the segment waits until the test opens it too.
    std::fs::remove_file(&segment).unwrap();
    assert!(
        Command::new("mkfifo")
            .arg(&segment)
            .status()
            .unwrap()
            .success()
    );
    let mut server = Server::start(&data);
    let request = json!({"metric":"event_types","days":30,"filter":{"metadata.plan":"pro"}});
    let body = request.to_string();
    let streams: Vec<TcpStream> = (0..5)
        .map(|_| {
            let mut stream = TcpStream::connect(server.url.trim_start_matches("http://")).unwrap();
            write!(
                stream,
                "POST /api/analytics/query HTTP/1.1\r\nHost: test\r\nX-Dash-Key: {KEY}\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .unwrap();
            stream
        })
        .collect();
    let lines = first_lines(&streams);
    let (refused, line) = lines.recv_timeout(PATIENCE).unwrap();
    assert!(line.starts_with("HTTP/1.1 503"), "{line}");
    // Of the four that wait, one leaves.
    let leaves = (refused + 1) % streams.len();
    streams[leaves].shutdown(Shutdown::Both).unwrap();
    server.wait_for("Cancelled a query");
    let _opened = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&segment)
        .unwrap();
    let mut failed = 0;
    for _ in 0..4 {
        let (number, line) = lines.recv_timeout(PATIENCE).unwrap();
        assert!(
            number == leaves || line.starts_with("HTTP/1.1 500"),
            "{line}"
        );
        failed += usize::from(number != leaves);
    }
    assert_eq!(failed, 3);
    // Their places are free again.
    let (status, _) = server.ask("/api/analytics/query", &json!({"metric":"event_types"}));
    assert_eq!(status, 200);
}

#[test]
fn a_query_needs_the_key() {
    let dir = folder();
    let server = Server::start(dir.path());
    let request = json!({"metric":"event_types"});
    for path in ["/api/analytics/query", "/api/analytics/cohorts"] {
        assert_eq!(server.ask_with(path, &request, &[]).0, 401, "{path}");
        let wrong = [("x-dash-key", "another")];
        assert_eq!(server.ask_with(path, &request, &wrong).0, 401, "{path}");
    }
}

#[test]
fn an_empty_store_has_a_result_for_every_metric() {
    let dir = folder();
    for metric in NAMES {
        let mut request = request_of(metric);
        request["days"] = json!(365);
        let by_states = run_json(dir.path(), &["query", &request.to_string()]);
        request["tz"] = json!("Asia/Tokyo");
        let by_events = run_json(dir.path(), &["query", &request.to_string()]);
        assert_eq!(
            by_states["rows"].as_array().unwrap().len(),
            by_events["rows"].as_array().unwrap().len()
        );
    }
}

#[test]
fn a_condition_on_a_stored_string_is_applied_while_the_file_is_read() {
    let dir = folder();
    let engine = engine(dir.path(), Utc::now());
    ingest(&engine, &shop(), Utc::now());
    engine.store().seal().unwrap();
    let mut batches = engine
        .store()
        .batches(i64::MIN..i64::MAX, Columns::All)
        .unwrap();
    let all = batches.remove(0).events().unwrap();
    for column in ["feature", "event_type", "url"] {
        let events = all.clone();
        let plan = events.filter(col(column).eq(lit("docs")));
        let plan = plan.describe_optimized_plan().unwrap();
        assert!(
            plan.contains("SELECTION") && !plan.contains("FILTER"),
            "{column}: {plan}"
        );
    }
}
