//! `/metrics`: what a real server exposes, who may read it, and that promtool accepts it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use chrono::{Days, NaiveDate, Utc};
use serde_json::{Value, json};

use crate::harness::{KEY, Server, batch, echopilot, engine, event, folder, ingest};
use crate::public_limits::until;

/// The samples of a page, by name and labels as they are on the page.
pub struct Page(BTreeMap<String, f64>);

impl Page {
    /// Reads the page of a server, as a process on its machine.
    pub fn of(server: &Server) -> Self {
        Self::parse(&text(server))
    }

    fn parse(page: &str) -> Self {
        let samples = page.lines().filter(|line| !line.starts_with('#'));
        let samples = samples.map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            (name.to_owned(), value.parse().expect("a number"))
        });
        Self(samples.collect())
    }

    /// The value of a sample.
    pub fn value(&self, sample: &str) -> f64 {
        let names = || self.0.keys().collect::<Vec<_>>();
        *self
            .0
            .get(sample)
            .unwrap_or_else(|| panic!("{sample} is not one of {:?}", names()))
    }
}

fn text(server: &Server) -> String {
    let (status, page) = server.get_bytes("/metrics", &[]);
    let page = String::from_utf8(page).unwrap();
    assert_eq!(status, 200, "{page}");
    page
}

/// Runs promtool with an input; it must accept it and say nothing.
pub fn promtool(arguments: &[&str], input: &str) -> String {
    let mut child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, which `make test` installs");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

/// Sends requests of every kind that is counted.
pub fn traffic(server: &Server) {
    let dated = json!({"event_type": "page_view", "user_id": "ann", "feature": "home",
                       "event_id": "1"});
    let sent_at = (Utc::now() - chrono::TimeDelta::seconds(30)).to_rfc3339();
    let first = json!({"events": [dated, event("action", "bob", "save")], "sent_at": sent_at});
    assert_eq!(server.post(&first).0, 200);
    // A repetition, and one invalid event next to a valid one.
    assert_eq!(server.post(&batch([dated])).0, 200);
    let mixed = batch([
        json!({"event_type": "x"}),
        event("conversion", "ann", "save"),
    ]);
    assert_eq!(server.post(&mixed).0, 200);
    assert_eq!(server.post_raw(b"no json", &[]).0, 400);
    assert_eq!(server.usage("?days=7")["mau"], json!(2));
    for query in [
        json!({"metric": "active_users"}),
        json!({"metric": "funnel", "steps": [{"feature": "home"}, {"feature": "save"}]}),
    ] {
        assert_eq!(server.ask("/api/analytics/query", &query).0, 200);
    }
    let wrong = json!({"metric": "active_users", "days": -1});
    assert_eq!(server.ask("/api/analytics/query", &wrong).0, 400);
    assert_eq!(server.get("/nothing").0, 404);
    let export = server.get_bytes("/api/analytics/export", &[("x-dash-key", KEY)]);
    assert_eq!(export.0, 200);
    assert_eq!(server.delete("/api/analytics/users/bob").0, 200);
}

#[test]
fn promtool_accepts_the_page_and_its_counters_are_what_was_sent() {
    let dir = folder();
    let server = Server::start(dir.path());
    traffic(&server);
    let page = text(&server);
    assert_eq!(promtool(&["check", "metrics"], &page), "");
    let page = Page::parse(&page);
    for (sample, value) in [
        (
            r#"echopilot_ingest_batches_total{family="native",outcome="stored"}"#,
            3.0,
        ),
        (
            r#"echopilot_ingest_batches_total{family="native",outcome="refused"}"#,
            1.0,
        ),
        (
            r#"echopilot_ingest_batches_total{family="native",outcome="failed"}"#,
            0.0,
        ),
        (
            r#"echopilot_ingest_events_total{family="native",outcome="logged"}"#,
            3.0,
        ),
        (
            r#"echopilot_ingest_events_total{family="native",outcome="duplicate"}"#,
            1.0,
        ),
        (
            r#"echopilot_ingest_events_total{family="native",outcome="rejected"}"#,
            1.0,
        ),
        (
            r#"echopilot_ingest_rejections_total{code="bad_event_type"}"#,
            1.0,
        ),
        (
            r#"echopilot_ingest_rejections_total{code="future_ts"}"#,
            0.0,
        ),
        (r#"echopilot_http_errors_total{code="bad_json"}"#, 1.0),
        (r#"echopilot_http_errors_total{code="not_found"}"#, 1.0),
        ("echopilot_ingest_duration_seconds_count", 4.0),
        (r#"echopilot_ingest_body_bytes_bucket{le="256"}"#, 4.0),
        ("echopilot_clock_skew_seconds_count", 1.0),
        (r#"echopilot_clock_skew_seconds_bucket{le="15"}"#, 0.0),
        (r#"echopilot_clock_skew_seconds_bucket{le="60"}"#, 1.0),
        (
            r#"echopilot_queries_total{metric="usage",outcome="succeeded"}"#,
            1.0,
        ),
        (
            r#"echopilot_queries_total{metric="active_users",outcome="succeeded"}"#,
            1.0,
        ),
        (
            r#"echopilot_query_duration_seconds_count{metric="usage",source="states"}"#,
            1.0,
        ),
        (
            r#"echopilot_query_duration_seconds_count{metric="funnel",source="columns"}"#,
            1.0,
        ),
        ("echopilot_export_duration_seconds_count", 1.0),
        ("echopilot_erasure_duration_seconds_count", 1.0),
        // The erasure sealed the events.
        ("echopilot_seal_duration_seconds_count", 1.0),
        (r#"echopilot_job_failures_total{job="rollup"}"#, 0.0),
        (r#"echopilot_limit{limit="client_events"}"#, 10_000.0),
        (r#"echopilot_limit_reached_total{limit="connections"}"#, 0.0),
        (r#"echopilot_limit_used{limit="queries"}"#, 0.0),
        ("echopilot_wrong_keys_total", 0.0),
    ] {
        assert_eq!(page.value(sample), value, "{sample}");
    }
    // A duplicate alone is not written, and each of the three others was synced.
    let syncs = page.value("echopilot_sync_duration_seconds_count");
    assert_eq!(syncs, 2.0);
    assert!(page.value("process_resident_memory_bytes") > 1e6);
    assert!(page.value("process_open_fds") > 3.0);
}

#[test]
fn gauges_follow_the_store() {
    let dir = folder();
    let server = Server::start(dir.path());
    let events = batch([event("action", "ann", "a"), event("action", "bob", "b")]);
    assert_eq!(server.post(&events).0, 200);
    until("the events are in the tail", || {
        Page::of(&server).value("echopilot_unsealed_events") == 2.0
    });
    let page = Page::of(&server);
    assert_eq!(page.value("echopilot_writable"), 1.0);
    assert!(page.value("echopilot_log_bytes") > 100.0);
    let newest = page.value("echopilot_last_event_timestamp_seconds");
    assert!(
        (Utc::now().timestamp() as f64 - newest).abs() < 60.0,
        "{newest}"
    );
    assert_eq!(
        page.value("echopilot_rollup_due_since_timestamp_seconds"),
        0.0
    );
    until("memory is sampled", || {
        Page::of(&server).value(r#"echopilot_memory_bytes{part="tail"}"#) == 40.0
    });
    assert_eq!(server.delete("/api/analytics/users/ann").0, 200);
    until("the erasure sealed the events", || {
        let page = Page::of(&server);
        page.value("echopilot_unsealed_events") == 0.0
            && page.value("echopilot_sealed_events") == 1.0
            && page.value("echopilot_segments") == 1.0
            && page.value("echopilot_seal_lag_seconds") == 0.0
    });
    assert_eq!(Page::of(&server).value("echopilot_damaged_segments"), 0.0);
}

/// The numbers of the last closed day on the page, and by the usage of the same windows.
fn closed_day(server: &Server, day: NaiveDate) -> [Vec<f64>; 2] {
    let page = Page::of(server);
    let windows =
        ["1d", "7d", "30d"].map(|window| format!("echopilot_active_users{{window=\"{window}\"}}"));
    let types = ["page_view", "action", "conversion"];
    let events = types.map(|name| format!("echopilot_events_of_day{{event_type=\"{name}\"}}"));
    let exposed = windows
        .iter()
        .chain(&events)
        .map(|sample| page.value(sample));
    let usage = [1, 7, 30].map(|days| server.usage(&format!("?days={days}&end={day}")));
    let users = usage.iter().map(|usage| usage["mau"].as_f64().unwrap());
    let of_type = |name: &str| usage[0]["funnel_steps"][name].as_f64().unwrap();
    let counted = users.chain(types.map(of_type));
    [exposed.collect(), counted.collect()]
}

#[test]
fn the_numbers_of_the_last_closed_day_are_those_of_usage() {
    let dir = folder();
    let now = Utc::now();
    let at = |days: u64, event_type: &str, user: &str| -> Value {
        let ts = (now - Days::new(days)).to_rfc3339();
        json!({"event_type": event_type, "user_id": user, "feature": "f", "ts": ts})
    };
    {
        let engine = engine(dir.path(), now);
        let events = [
            at(0, "action", "today"),
            at(1, "page_view", "ann"),
            at(1, "page_view", "ann"),
            at(1, "conversion", "bob"),
            at(7, "action", "cid"),
            at(8, "action", "dan"),
            at(30, "action", "eve"),
            at(31, "action", "fay"),
        ];
        ingest(&engine, &events, now);
        engine.store().seal().unwrap();
    }
    let server = Server::start(dir.path());
    let yesterday = now.date_naive() - Days::new(1);
    until("the day is counted", || {
        text(&server).contains("echopilot_active_users{")
    });
    let [exposed, counted] = closed_day(&server, yesterday);
    assert_eq!(exposed, [2.0, 3.0, 5.0, 2.0, 0.0, 1.0]);
    assert_eq!(exposed, counted);
    let since = Page::of(&server).value("echopilot_closed_day_timestamp_seconds");
    let midnight = yesterday.and_time(chrono::NaiveTime::MIN).and_utc();
    assert_eq!(since, midnight.timestamp() as f64);
    // A late event changes them.
    let late = batch([at(1, "action", "gus")]);
    assert_eq!(server.post(&late).0, 200);
    until("the late event is counted", || {
        closed_day(&server, yesterday)[0] == [3.0, 4.0, 6.0, 2.0, 1.0, 1.0]
    });
    let [exposed, counted] = closed_day(&server, yesterday);
    assert_eq!(exposed, counted);
}

/// The status of a request for the page over HTTP/1.0.
fn status_over_http_1_0(server: &Server) -> String {
    let address = server.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response.split(' ').nth(1).unwrap().to_owned()
}

#[test]
fn only_this_machine_reads_the_page_without_a_key() {
    let dir = folder();
    let server = Server::start(dir.path());
    let bearer = format!("Bearer {KEY}");
    let status = |headers: &[(&str, &str)]| server.get_with("/metrics", headers).0;
    for (headers, expected) in [
        (&[][..], 200),
        (&[("x-dash-key", KEY)], 200),
        (&[("authorization", &*bearer)], 200),
        // Who sends a key is checked.
        (&[("x-dash-key", "wrong")], 401),
        (&[("authorization", "Bearer wrong")], 401),
        // Requests of others, which a process on this machine passes on.
        (&[("x-forwarded-for", "127.0.0.1")], 401),
        (&[("forwarded", "for=127.0.0.1")], 401),
        (&[("via", "1.1 proxy")], 401),
        (&[("x-real-ip", "192.0.2.1")], 401),
        (&[("host", "analytics.example")], 401),
        (
            &[("x-forwarded-for", "192.0.2.1"), ("x-dash-key", KEY)],
            200,
        ),
    ] {
        assert_eq!(status(headers), expected, "{headers:?}");
    }
    assert_eq!(status_over_http_1_0(&server), "401");
    assert_eq!(Page::of(&server).value("echopilot_wrong_keys_total"), 2.0);
    // The page is no way to read the numbers of people.
    assert_eq!(server.get_with("/api/analytics/status", &[]).0, 401);
}

#[test]
fn a_trusted_proxy_on_this_machine_needs_a_key() {
    let dir = folder();
    let mut command = echopilot(dir.path());
    command.env("ECHOPILOT_TRUSTED_PROXIES", "127.0.0.1");
    let server = Server::start_as(command);
    let status = |headers: &[(&str, &str)]| server.get_with("/metrics", headers).0;
    // Also if it does not say for whom, or claims to ask for this machine.
    for headers in [
        &[][..],
        &[("x-forwarded-for", "192.0.2.1")],
        &[("x-forwarded-for", "127.0.0.1")],
        &[("x-forwarded-for", "::1")],
    ] {
        assert_eq!(status(headers), 401, "{headers:?}");
        assert_eq!(status(&[headers, &[("x-dash-key", KEY)]].concat()), 200);
    }
}

#[test]
fn openmetrics_is_served_on_request() {
    let dir = folder();
    let server = Server::start(dir.path());
    let page = |accept: &str| {
        let (status, page) = server.get_bytes("/metrics", &[("accept", accept)]);
        assert_eq!(status, 200);
        String::from_utf8(page).unwrap()
    };
    let open = page("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5");
    assert!(open.ends_with("# EOF\n") && open.contains("# TYPE echopilot_queries counter\n"));
    let plain = page("text/plain");
    assert!(!plain.contains("# EOF") && plain.contains("# TYPE echopilot_queries_total counter\n"));
}

/// Names of the metrics on a page, as they are in its samples.
fn names(page: &str) -> std::collections::BTreeSet<String> {
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let names = types.filter_map(|line| line.split(' ').next());
    names.map(str::to_owned).collect()
}

#[test]
fn the_documentation_lists_every_metric() {
    let dir = folder();
    let server = Server::start(dir.path());
    until("the day is counted", || {
        text(&server).contains("echopilot_active_users{")
    });
    let document = include_str!("../../docs/operations.md");
    let (_, section) = document.split_once("\n## Monitoring\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let listed = rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2));
    let listed: std::collections::BTreeSet<String> = listed.map(str::to_owned).collect();
    assert_eq!(listed, names(&text(&server)));
}
