//! Forms of requests and responses: a query in a URL, windows by their first and last day, formats
//! by `Accept`, compression, and entity tags of results that cannot change.

use std::io::Read;

use chrono::{Days, NaiveDate, Utc};
use flate2::read::GzDecoder;
use serde_json::{Value, json};
use ureq::http::Response;

use crate::harness::{KEY, PATIENCE, Server, batch, echopilot, folder, run, run_json};

/// A GET request with the key and other headers; the body is as it was sent.
fn get(server: &Server, path: &str, headers: &[(&str, &str)]) -> Response<Vec<u8>> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(PATIENCE))
        .build()
        .into();
    let mut request = agent
        .get(format!("{}{path}", server.url))
        .header("x-dash-key", KEY);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (head, mut body) = request.call().expect("the server responds").into_parts();
    let mut bytes = Vec::new();
    body.as_reader().read_to_end(&mut bytes).expect("a body");
    Response::from_parts(head, bytes)
}

fn header<'a>(response: &'a Response<Vec<u8>>, name: &str) -> &'a str {
    let value = response.headers().get(name);
    value.map_or("", |value| value.to_str().unwrap())
}

fn today() -> NaiveDate {
    Utc::now().date_naive()
}

/// A day before today.
fn day(ago: u64) -> NaiveDate {
    today() - Days::new(ago)
}

fn event(ago: u64, user: &str, feature: &str) -> Value {
    json!({"event_type": "action", "user_id": user, "feature": feature,
           "ts": format!("{}T09:00:00Z", day(ago))})
}

/// A server with events of some days that are over, and of today.
fn server_with_events(dir: &std::path::Path) -> Server {
    let server = Server::start(dir);
    let events = (0..60).map(|n| event(n % 6, &format!("u{}", n % 7), &format!("f{}", n % 5)));
    assert_eq!(server.post(&batch(events)).1["logged"], 60);
    server
}

/// A response without the time of its computation.
fn without_ts(body: &[u8]) -> Value {
    let mut body: Value = serde_json::from_slice(body).expect("JSON");
    body.as_object_mut().unwrap().remove("ts");
    body
}

#[test]
fn a_query_in_a_url_has_the_result_of_the_same_query_in_a_body() {
    let dir = folder();
    let server = server_with_events(dir.path());
    let (from, to) = (day(5), day(1));
    for (flat, query) in [
        (
            format!("metric=feature_usage&limit=3&from={from}&to={to}"),
            json!({"metric": "feature_usage", "limit": 3, "days": 5, "end": to}),
        ),
        (
            format!("metric=retention&grain=day&periods=2&ever=true&days=5&end={to}"),
            json!({"metric": "retention", "grain": "day", "periods": 2, "ever": true,
                   "from": from, "to": to}),
        ),
        (
            "metric=active_users&tz=Asia%2FTokyo".to_owned(),
            json!({"metric": "active_users", "tz": "Asia/Tokyo"}),
        ),
    ] {
        let (status, asked) = server.ask("/api/analytics/query", &query);
        assert_eq!(status, 200, "{asked}");
        let asked = without_ts(asked.to_string().as_bytes());
        let q = serde_urlencoded(&query.to_string());
        for target in [flat, format!("q={q}")] {
            let answer = get(&server, &format!("/api/analytics/query?{target}"), &[]);
            assert_eq!(answer.status(), 200, "{target}");
            assert_eq!(without_ts(answer.body()), asked, "{target}");
        }
    }
    let steps = json!({"metric": "funnel", "steps": [{"feature": "f1"}, {"feature": "f2"}],
                       "filter": {"event_type": "action"}});
    let q = serde_urlencoded(&steps.to_string());
    let answer = get(&server, &format!("/api/analytics/query?q={q}"), &[]);
    assert_eq!(
        without_ts(answer.body()),
        without_ts(
            server
                .ask("/api/analytics/query", &steps)
                .1
                .to_string()
                .as_bytes()
        )
    );
    let (status, error) = server.get("/api/analytics/query?metric=active_users&filter=x");
    assert_eq!((status, &error["error"]), (400, &json!("bad_query")));
    let (status, _) = server.get_with("/api/analytics/query?metric=active_users", &[]);
    assert_eq!(status, 401);
}

fn serde_urlencoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

#[test]
fn from_and_to_are_taken_wherever_a_window_is() {
    let dir = folder();
    let server = server_with_events(dir.path());
    let (from, to) = (day(4), day(2));
    let by_days = format!("days=3&end={to}");
    let by_from = format!("from={from}&to={to}");
    for path in ["usage", "export"] {
        let format = if path == "export" { "&format=csv" } else { "" };
        let [a, b] = [&by_days, &by_from].map(|window| {
            get(
                &server,
                &format!("/api/analytics/{path}?{window}{format}"),
                &[],
            )
        });
        assert_eq!((a.status().as_u16(), b.status().as_u16()), (200, 200));
        if path == "export" {
            assert_eq!(a.body(), b.body());
            assert!(a.body().len() > 1_000);
        } else {
            assert_eq!(without_ts(a.body()), without_ts(b.body()));
        }
        for (wrong, names) in [
            (format!("days=3&from={from}"), "days, from"),
            (format!("end={to}&to={to}&from={from}"), "end, from, to"),
            (format!("to={to}"), "to"),
        ] {
            let (status, error) = server.get(&format!("/api/analytics/{path}?{wrong}"));
            assert_eq!(
                (status, &error["error"]),
                (400, &json!("bad_window")),
                "{wrong}"
            );
            assert!(
                error["message"].as_str().unwrap().contains(names),
                "{error}"
            );
        }
    }
    server.stop();
    let (from, to) = (from.to_string(), to.to_string());
    let usage = run_json(dir.path(), &["usage", "--from", &from, "--to", &to]);
    let same = run_json(dir.path(), &["usage", "--days", "3", "--end", &to]);
    assert_eq!(usage["window"], same["window"]);
    assert_eq!(usage["total_events"], same["total_events"]);
    let query = json!({"metric": "event_types", "from": from, "to": to}).to_string();
    assert_eq!(
        run_json(dir.path(), &["query", &query])["window"],
        same["window"]
    );
    let target = folder();
    let target = target.path().join("out");
    let exported = run_json(
        dir.path(),
        &[
            "export",
            "--to",
            target.to_str().unwrap(),
            "--from",
            &from,
            "--until",
            &to,
        ],
    );
    assert_eq!(exported["events"], same["total_events"]);
    let wrong = run(dir.path(), &["usage", "--days", "3", "--from", &from]);
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn accept_selects_the_format_of_usage_and_of_an_export() {
    let dir = folder();
    let server = server_with_events(dir.path());
    let usage = server.usage("?days=6&limit=2");
    let csv = get(
        &server,
        "/api/analytics/usage?days=6&limit=2",
        &[("accept", "text/csv")],
    );
    assert_eq!(header(&csv, "content-type"), "text/csv; charset=utf-8");
    let csv = String::from_utf8(csv.into_body()).unwrap();
    let value = |measure: &str| {
        let line = csv.lines().find_map(|line| line.strip_prefix(measure));
        line.unwrap_or_else(|| panic!("{measure}: {csv}"))
            .parse::<f64>()
            .unwrap()
    };
    assert_eq!(json!(value("dau,,")), usage["dau"]);
    assert_eq!(value("mau,,"), usage["mau"].as_f64().unwrap());
    assert_eq!(value("total_events,,"), 60.0);
    for (feature, events) in usage["feature_usage"].as_object().unwrap() {
        assert_eq!(
            value(&format!("feature_usage,{feature},")),
            events.as_f64().unwrap()
        );
    }
    assert_eq!(
        value("rest_feature_events,,"),
        usage["rest"]["feature_events"].as_f64().unwrap()
    );
    let arrow = "application/vnd.apache.arrow.stream";
    for path in ["usage?days=6", "export?days=6", "query?metric=event_types"] {
        for (accept, start) in [
            (arrow, &b"\xff\xff\xff\xff"[..]),
            ("application/vnd.apache.parquet", b"PAR1"),
        ] {
            let found = get(
                &server,
                &format!("/api/analytics/{path}"),
                &[("accept", accept)],
            );
            assert_eq!(header(&found, "content-type"), accept, "{path}");
            assert!(found.body().starts_with(start), "{path} {accept}");
        }
        let none = get(
            &server,
            &format!("/api/analytics/{path}"),
            &[("accept", "image/png")],
        );
        assert_eq!(none.status(), 406, "{path}");
    }
    // The format of an export that is named counts more than a header.
    let ndjson = get(
        &server,
        "/api/analytics/export?format=ndjson",
        &[("accept", arrow)],
    );
    assert_eq!(header(&ndjson, "content-type"), "application/x-ndjson");
    let all = get(&server, "/api/analytics/export", &[("accept", "*/*")]);
    assert!(all.body().starts_with(b"PAR1"));
    // The command has the same formats.
    server.stop();
    let printed = run(
        dir.path(),
        &["usage", "--days", "6", "--limit", "2", "--format", "csv"],
    );
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), csv);
}

#[test]
fn large_responses_are_compressed_for_clients_that_accept_it() {
    let dir = folder();
    let server = server_with_events(dir.path());
    let gzip = [("accept-encoding", "gzip")];
    let query = "query?metric=active_users&days=90";
    for path in [
        query,
        "usage?days=30&limit=100",
        "status",
        "export?format=ndjson",
        "export?format=csv",
        "export?format=arrow",
        "users/u1/events",
    ] {
        let plain = get(
            &server,
            &format!("/api/analytics/{path}"),
            &[("accept-encoding", "identity")],
        );
        let packed = get(&server, &format!("/api/analytics/{path}"), &gzip);
        assert_eq!(header(&plain, "content-encoding"), "", "{path}");
        if plain.body().len() < 1_024 {
            assert_eq!(header(&packed, "content-encoding"), "", "{path}");
            continue;
        }
        let mut vary = plain.headers().get_all("vary").iter();
        assert!(vary.any(|vary| vary == "accept-encoding"), "{path}");
        assert_eq!(header(&packed, "content-encoding"), "gzip", "{path}");
        let mut inflated = Vec::new();
        GzDecoder::new(&packed.body()[..])
            .read_to_end(&mut inflated)
            .expect("gzip");
        assert!(packed.body().len() < inflated.len(), "{path}");
        if path.starts_with("export") || path.starts_with("users") {
            assert_eq!(&inflated, plain.body(), "{path}");
        }
    }
    for (path, why) in [
        ("export?format=parquet", "it is compressed already"),
        ("query?metric=event_types", "it is small"),
        ("query?metric=nothing", "it is an error"),
    ] {
        let answer = get(&server, &format!("/api/analytics/{path}"), &gzip);
        assert_eq!(header(&answer, "content-encoding"), "", "{path}: {why}");
    }
}

/// The entity tag of a response, which the server then recognises.
fn tag(server: &Server, path: &str, accept: &str) -> String {
    let answer = get(server, path, &[("accept", accept)]);
    assert_eq!(answer.status(), 200, "{path}");
    let tag = header(&answer, "etag").to_owned();
    assert!(!tag.is_empty(), "{path} has no tag");
    assert_eq!(header(&answer, "cache-control"), "private, no-cache");
    let vary = header(&answer, "vary");
    assert!(
        vary.contains("x-dash-key") && vary.contains("authorization"),
        "{vary}"
    );
    let again = get(server, path, &[("accept", accept), ("if-none-match", &tag)]);
    assert_eq!(
        (again.status().as_u16(), again.body().len()),
        (304, 0),
        "{path}"
    );
    assert_eq!(header(&again, "etag"), tag);
    tag
}

#[test]
fn results_of_closed_days_have_an_entity_tag_until_they_change() {
    let dir = folder();
    let mut serve = echopilot(dir.path());
    serve.env("ECHOPILOT_ZONES", "UTC,Asia/Tokyo");
    let server = Server::start_as(serve);
    let events = (0..60).map(|n| event(n % 6, &format!("u{}", n % 7), &format!("f{}", n % 5)));
    server.post(&batch(events));
    let (json, csv) = ("application/json", "text/csv");
    let yesterday = day(1);
    let usage = format!("/api/analytics/usage?days=3&end={yesterday}");
    let query = format!("/api/analytics/query?metric=event_types&days=3&end={yesterday}");
    let tags = || [&usage, &query].map(|path| [json, csv].map(|accept| tag(&server, path, accept)));
    let before = tags();
    // Rows are the same bytes each time, JSON has the time of its computation.
    assert!(before[0][0].starts_with("W/\"") && before[0][1].starts_with('"'));
    let all: std::collections::BTreeSet<&String> = before.iter().flatten().collect();
    assert_eq!(all.len(), 4, "another request or format has another tag");
    assert_eq!(tags(), before);
    // Events of a day after the window change nothing.
    server.post(&batch([event(0, "new", "f1")]));
    assert_eq!(tags(), before);
    let changed = |change: &dyn Fn(), what: &str| {
        let before = tags();
        change();
        let after = tags();
        for (a, b) in before.iter().flatten().zip(after.iter().flatten()) {
            assert_ne!(a, b, "{what}");
        }
        for (path, tags) in [&usage, &query].into_iter().zip(&before) {
            let known = [("accept", json), ("if-none-match", tags[0].as_str())];
            assert_eq!(get(&server, path, &known).status(), 200, "{what}");
        }
    };
    changed(
        &|| assert_eq!(server.post(&batch([event(2, "late", "f1")])).1["logged"], 1),
        "a late event",
    );
    changed(
        &|| assert_eq!(server.delete("/api/analytics/users/late").0, 200),
        "an erasure",
    );
    // A cohort changes the results of its queries alone.
    let cohort = |users: Value| {
        let cohort = json!({"name": "some", "users": users});
        assert_eq!(server.ask("/api/analytics/cohorts", &cohort).0, 200);
    };
    cohort(json!(["u1"]));
    let filter =
        json!({"metric": "event_types", "days": 3, "end": yesterday, "filter": {"cohort": "some"}});
    let of_cohort = format!(
        "/api/analytics/query?q={}",
        serde_urlencoded(&filter.to_string())
    );
    let (unlimited, limited) = (tags(), tag(&server, &of_cohort, json));
    cohort(json!(["u2"]));
    assert_eq!(tags(), unlimited);
    assert_ne!(tag(&server, &of_cohort, json), limited);
    // A window that is not over has one of its result, which is computed each time.
    for path in [
        "/api/analytics/usage",
        "/api/analytics/query?metric=event_types",
    ] {
        for accept in [json, csv] {
            let before = tag(&server, path, accept);
            assert_eq!(tag(&server, path, accept), before);
            assert_eq!(server.post(&batch([event(0, "now", "f1")])).0, 200);
            let known = [("accept", accept), ("if-none-match", before.as_str())];
            assert_eq!(get(&server, path, &known).status(), 200, "{path}");
            assert_ne!(tag(&server, path, accept), before, "{path}");
        }
    }
    // Errors have none.
    let wrong = get(&server, "/api/analytics/query?metric=nothing", &[]);
    assert_eq!((wrong.status().as_u16(), header(&wrong, "etag")), (400, ""));
    // The key is checked before the tag.
    let known = [("if-none-match", before[0][0].as_str())];
    assert_eq!(server.get_with(&usage, &known).0, 401);
    // Another process, with other zones: the same rows, and another tag.
    let in_tokyo = format!("{usage}&tz=Asia/Tokyo");
    let (last, of_zone) = (tags(), tag(&server, &in_tokyo, json));
    server.stop();
    let server = Server::start(dir.path());
    assert_ne!(tag(&server, &usage, json), last[0][0]);
    assert_ne!(tag(&server, &in_tokyo, json), of_zone);
}

#[test]
fn an_expiry_changes_the_entity_tag() {
    let dir = folder();
    let mut serve = echopilot(dir.path());
    serve.env("ECHOPILOT_RAW_RETENTION_DAYS", "3");
    let server = Server::start_as(serve);
    server.post(&batch((0..6).map(|ago| event(ago, "u", "f"))));
    let path = format!(
        "/api/analytics/query?metric=event_types&from={}&to={}",
        day(5),
        day(1)
    );
    let before = tag(&server, &path, "text/csv");
    server.stop();
    let output = run(dir.path(), &["seal"]);
    assert!(output.status.success());
    let output = echopilot(dir.path())
        .env("ECHOPILOT_RAW_RETENTION_DAYS", "3")
        .arg("expire")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let server = Server::start(dir.path());
    assert_ne!(tag(&server, &path, "text/csv"), before);
}
