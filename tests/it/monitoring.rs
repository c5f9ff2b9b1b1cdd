//! `/metrics`: what a real server exposes, who may read it, and that promtool accepts it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use chrono::{Days, NaiveDate, TimeDelta, Utc};
use echopilot_analytics::engine::Cancel;
use echopilot_analytics::metrics::query::Query;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    KEY, PATIENCE, Server, batch, echopilot, engine, event, folder, free_port, ingest, log_path,
    run,
};
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

    /// True if a sample is on the page: some are not until they were measured.
    fn has(&self, sample: &str) -> bool {
        self.0.contains_key(sample)
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
    until("the process is measured, and no query runs", || {
        let page = Page::of(&server);
        let queries = r#"echopilot_limit_used{limit="queries"}"#;
        page.has("process_resident_memory_bytes") && page.has(queries) && page.value(queries) == 0.0
    });
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
        (r#"echopilot_job_failures_total{task="rollup"}"#, 0.0),
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

#[test]
fn batches_that_cannot_be_stored_have_failed_and_the_server_is_not_writable() {
    let dir = folder();
    let server = Server::start(dir.path());
    let events = batch([event("action", "ann", "a")]);
    assert_eq!(server.post(&events).0, 200);
    std::fs::rename(log_path(dir.path()), dir.path().join("aside")).unwrap();
    until("the log is missed", || server.post(&events).0 == 503);
    until("it is sampled", || {
        Page::of(&server).value("echopilot_writable") == 0.0
    });
    let page = Page::of(&server);
    for sample in [
        r#"echopilot_ingest_batches_total{family="native",outcome="failed"}"#,
        r#"echopilot_http_errors_total{code="log_stopped"}"#,
    ] {
        assert_eq!(page.value(sample), 1.0, "{sample}");
    }
    assert_eq!(server.get_with("/health/ready", &[]).0, 503);
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

/// Names of the metrics on a page, without the parts of histograms.
fn names(page: &str) -> BTreeSet<String> {
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let names = types.filter_map(|line| line.split(' ').next());
    names.map(str::to_owned).collect()
}

#[test]
fn the_documentation_lists_every_metric_and_alert() {
    let dir = folder();
    let server = Server::start(dir.path());
    until("the day is counted", || {
        text(&server).contains("echopilot_active_users{")
    });
    let document = include_str!("../../docs/operations.md");
    let (_, section) = document.split_once("\n## Monitoring\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let (metrics, alerts) = section.split_once("\n### Alerts").unwrap();
    let listed = |section: &str| -> BTreeSet<String> {
        let rows = section.lines().filter(|line| line.starts_with("| `"));
        let cells =
            rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2));
        cells.map(str::to_owned).collect()
    };
    assert_eq!(listed(metrics), names(&text(&server)));
    let (_, status) = server.get("/api/analytics/status");
    let names = status["alerts"].as_array().unwrap().iter();
    let names = names.map(|alert| alert["name"].as_str().unwrap().to_owned());
    assert_eq!(listed(alerts), names.collect::<BTreeSet<_>>());
}

/// A file of `static/ops`.
fn ops(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("static/ops")
        .join(name)
}

#[test]
fn the_rules_are_valid_and_pass_their_tests() {
    let said = promtool(&["check", "rules", ops("alerts.yml").to_str().unwrap()], "");
    assert!(said.contains("SUCCESS: 12 rules found"), "{said}");
    promtool(
        &["test", "rules", ops("alerts_test.yml").to_str().unwrap()],
        "",
    );
}

/// The expressions of the rules and of the dashboard.
fn expressions() -> Vec<String> {
    let rules = std::fs::read_to_string(ops("alerts.yml")).unwrap();
    let mut expressions = Vec::new();
    for rule in rules.split("expr:").skip(1) {
        let lines = rule.trim_start_matches(" |").lines();
        // A block is indented deeper than the fields of the rule.
        let first = lines.clone().next().unwrap_or_default().trim().to_owned();
        let block = lines
            .skip(1)
            .take_while(|line| line.starts_with("          "));
        expressions.push(
            std::iter::once(&*first)
                .chain(block.map(str::trim))
                .collect::<Vec<_>>()
                .join(" "),
        );
    }
    let dashboard = std::fs::read(ops("grafana.json")).unwrap();
    let dashboard: Value = serde_json::from_slice(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    for target in panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array())
        .flatten()
    {
        let source = &target["datasource"]["uid"];
        assert_eq!(source, "${datasource}", "{target}");
        let expression = target["expr"].as_str().unwrap();
        let expression = expression
            .replace("$__rate_interval", "5m")
            .replace("$instance", ".*");
        expressions.push(expression);
    }
    expressions
        .iter_mut()
        .for_each(|expression| *expression = expression.trim().to_owned());
    expressions
}

/// The words of an expression that begin like this, each with what follows it.
fn words<'a>(expression: &'a str, start: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let found = expression.match_indices(start).map(|(place, _)| place);
    let is_word = |char: char| char.is_ascii_alphanumeric() || char == '_';
    let found = found.filter(move |place| !expression[..*place].ends_with([':', '_', '-']));
    found.map(move |place| {
        let rest = &expression[place..];
        rest.split_at(rest.find(|char| !is_word(char)).unwrap_or(rest.len()))
    })
}

#[test]
fn every_metric_and_label_of_rules_and_dashboard_is_exposed() {
    let dir = folder();
    let server = Server::start(dir.path());
    traffic(&server);
    until("the day is counted", || {
        text(&server).contains("echopilot_active_users{")
    });
    let page = text(&server);
    // Labels and their values by name, and those that Prometheus adds.
    let mut exposed: BTreeMap<&str, BTreeSet<(&str, &str)>> = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (sample, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
        let labels = labels.trim_end_matches('}').split(',').filter_map(|label| {
            let (label, value) = label.split_once('=')?;
            Some((label, value.trim_matches('"')))
        });
        exposed.entry(name).or_default().extend(labels);
    }
    // Those that are on the page once they occurred.
    let all_labels: BTreeSet<&str> = exposed
        .values()
        .flatten()
        .map(|(label, _)| *label)
        .collect();
    let mut used: BTreeSet<&str> = BTreeSet::new();
    let expressions = expressions();
    for expression in &expressions {
        for (name, rest) in words(expression, "echopilot_").chain(words(expression, "process_")) {
            let labels = exposed.get(name);
            let labels = labels.unwrap_or_else(|| panic!("{name} is not exposed: {expression}"));
            used.insert(name.trim_end_matches("_bucket"));
            let selector = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
            let selector = selector.map_or("", |(selector, _)| selector);
            for matcher in selector
                .split(',')
                .filter(|matcher| !matcher.trim().is_empty())
            {
                let (label, value) = matcher.split_once('=').unwrap();
                let (label, value) = (label.trim(), value.trim_matches(['~', '"']));
                let is_known = label == "instance" || labels.contains(&(label, value));
                assert!(is_known, "{label}={value} of {name}: {expression}");
            }
        }
        for list in expression.split(" by (").skip(1) {
            let (list, _) = list.split_once(')').unwrap();
            for label in list.split(',').map(str::trim) {
                let is_known = label == "instance" || all_labels.contains(label);
                assert!(is_known, "by ({label}): {expression}");
            }
        }
    }
    // The dashboard shows everything.
    let unused = [
        "echopilot_closed_day_timestamp_seconds",
        "process_start_time_seconds",
    ];
    for name in names(&page) {
        assert!(
            used.contains(&*name) || unused.contains(&&*name),
            "{name} is in no panel"
        );
    }
    // They are valid: as rules, which promtool checks.
    let rules: String = expressions
        .iter()
        .enumerate()
        .map(|(place, expression)| {
            let expression = serde_json::to_string(expression).unwrap();
            format!("  - {{record: \"test:{place}\", expr: {expression}}}\n")
        })
        .collect();
    let file = dir.path().join("rules.yml");
    std::fs::write(&file, format!("groups:\n- name: test\n  rules:\n{rules}")).unwrap();
    let said = promtool(&["check", "rules", file.to_str().unwrap()], "");
    assert!(
        said.contains(&format!("SUCCESS: {} rules", expressions.len())),
        "{said}"
    );
}

/// A data folder with a damaged segment, whose alert fires.
fn damaged_folder() -> TempDir {
    let dir = folder();
    let then = Utc::now() - Days::new(3);
    let engine = engine(dir.path(), then);
    ingest(&engine, &[event("action", "ann", "a")], then);
    engine.store().seal().unwrap();
    let day = dir.path().join(format!("events/dt={}", then.date_naive()));
    let segment = std::fs::read_dir(day)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let mut bytes = std::fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    engine.sample_gauges(then);
    engine.evaluate_alerts(then).unwrap();
    assert_eq!(engine.firing_alerts(), []);
    assert!(!dir.path().join("engine_alerts.json").exists());
    let query = Query::parse(br#"{"metric":"active_users","tz":"Europe/Berlin"}"#).unwrap();
    assert!(engine.query(&query, then, &Cancel::default()).is_err());
    engine.sample_gauges(then);
    // Not twice in a minute.
    engine
        .evaluate_alerts(then + TimeDelta::seconds(59))
        .unwrap();
    assert_eq!(engine.firing_alerts(), []);
    engine
        .evaluate_alerts(then + TimeDelta::seconds(60))
        .unwrap();
    let firing = engine.firing_alerts();
    assert_eq!(firing.len(), 1);
    assert_eq!(firing[0].name, "EchopilotSegmentsDamaged");
    dir
}

#[test]
fn an_alert_is_a_warning_of_a_ready_server_and_survives_a_restart() {
    let dir = damaged_folder();
    let server = Server::start(dir.path());
    let (status, ready) = server.get_with("/health/ready", &[]);
    assert_eq!((status, &ready["ok"]), (200, &json!(true)));
    let warning = &ready["warnings"][0];
    assert_eq!(warning["alert"], "EchopilotSegmentsDamaged");
    assert_eq!(warning["severity"], "page");
    assert_eq!(ready["warnings"].as_array().unwrap().len(), 1);
    let (_, status) = server.get("/api/analytics/status");
    let alerts = status["alerts"].as_array().unwrap();
    assert_eq!(alerts.len(), 10);
    let states = alerts.iter().map(|alert| &alert["state"]);
    assert_eq!(
        states.filter(|state| **state == "ok").count(),
        9,
        "{status}"
    );
    let alert = alerts
        .iter()
        .find(|alert| alert["state"] == "firing")
        .unwrap();
    assert_eq!(alert["name"], "EchopilotSegmentsDamaged");
    assert_eq!(alert["since"], warning["since"]);
    let page = Page::of(&server);
    assert_eq!(
        page.value(r#"echopilot_alert_firing{alert="EchopilotSegmentsDamaged"}"#),
        1.0
    );
    assert_eq!(
        page.value(r#"echopilot_alert_firing{alert="EchopilotSilent"}"#),
        0.0
    );
    // Events are accepted nevertheless.
    assert_eq!(server.post(&batch([event("action", "bob", "a")])).0, 200);
}

#[test]
fn a_damaged_file_of_alerts_does_not_stop_a_start() {
    let dir = damaged_folder();
    let file = dir.path().join("engine_alerts.json");
    let text = std::fs::read_to_string(&file).unwrap();
    for damaged in [
        text.replace("true", "false"),
        text[..text.len() / 2].to_owned(),
        String::new(),
    ] {
        std::fs::write(&file, &damaged).unwrap();
        let server = Server::start(dir.path());
        let (status, ready) = server.get_with("/health/ready", &[]);
        assert_eq!(
            (status, &ready["warnings"]),
            (200, &Value::Null),
            "{damaged}"
        );
        let traced = server.kill();
        assert!(
            traced.contains("The alerts begin without those"),
            "{damaged}: {traced}"
        );
        let verified = run(dir.path(), &["verify"]);
        let said = [verified.stdout, verified.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains("engine_alerts.json"), "{damaged}: {said}");
    }
    std::fs::remove_file(&file).unwrap();
    let server = Server::start(dir.path());
    assert_eq!(
        server.get_with("/health/ready", &[]).1["warnings"],
        Value::Null
    );
    assert!(!server.kill().contains("The alerts begin"));
}

/// A running Prometheus; ended when dropped.
struct Prometheus {
    child: Child,
    url: String,
    _folder: TempDir,
}

impl Prometheus {
    /// Scrapes a server each second, and evaluates the rules.
    fn start(server: &Server) -> Self {
        let port = free_port();
        let folder = folder();
        let (rules, target) = (
            ops("alerts.yml"),
            server.url.strip_prefix("http://").unwrap(),
        );
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{rules:?}]\n\
             scrape_configs: [{{job_name: echopilot, static_configs: [{{targets: [\"{target}\"]}}]}}]\n"
        );
        std::fs::write(folder.path().join("prometheus.yml"), config).unwrap();
        let child = Command::new("prometheus")
            .current_dir(folder.path())
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .args([
                "--config.file=prometheus.yml",
                "--storage.tsdb.path=data",
                "--log.level=error",
            ])
            .stdin(Stdio::null())
            .spawn()
            .expect("prometheus, which `make test` installs");
        Self {
            child,
            url: format!("http://127.0.0.1:{port}/api/v1"),
            _folder: folder,
        }
    }

    /// Part of a response of its API; null while it is starting.
    fn get(&self, path: &str) -> Value {
        let response = ureq::get(format!("{}/{path}", self.url)).call();
        let text = response.and_then(|mut response| response.body_mut().read_to_string());
        let mut answer: Value = serde_json::from_str(&text.unwrap_or_default()).unwrap_or_default();
        answer["data"].take()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As `OpenMetrics`, which it asks for.
#[test]
fn prometheus_scrapes_the_page_and_evaluates_the_rules() {
    let dir = folder();
    let server = Server::start(dir.path());
    traffic(&server);
    let prometheus = Prometheus::start(&server);
    let target = || prometheus.get("targets")["activeTargets"][0].clone();
    // A scrape may take too long on a busy machine; one that cannot be read is always down.
    let mut last = Value::Null;
    let start = Instant::now();
    while last["health"] != "up" {
        assert!(start.elapsed() < PATIENCE, "{last}");
        std::thread::park_timeout(Duration::from_millis(100));
        last = target();
    }
    let value = |query: &str| {
        prometheus.get(&format!("query?query={query}"))["result"][0]["value"][1].clone()
    };
    until("the numbers are there", || {
        value("sum(echopilot_ingest_events_total)") == "5"
            && value("echopilot_build_info") == "1"
            && value("echopilot_rollup_due_since_timestamp_seconds").is_string()
            && value("count(echopilot_ingest_duration_seconds_bucket)") == "15"
    });
    let rules = || prometheus.get("rules")["groups"][0]["rules"].clone();
    until("the rules are evaluated", || {
        let rules = rules();
        let rules = rules.as_array();
        rules.is_some_and(|rules| {
            rules.len() == 12 && rules.iter().all(|rule| rule["health"] == "ok")
        })
    });
}
