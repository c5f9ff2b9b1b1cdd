//! `GET /api/analytics/usage`: numbers counted by hand, windows, zones, keys.

use serde_json::{Value, json};

use crate::harness::{KEY, Server, batch, folder, run_json};

/// Imports events of early March 2024, after a leap day; the 1st is a Friday.
fn march(events: &[(&str, &str, Option<&str>, Option<&str>)]) -> (tempfile::TempDir, String) {
    let dir = folder();
    let lines: Vec<String> = events
        .iter()
        .map(|(ts, event_type, user, feature)| {
            json!({"ts":ts,"event_type":event_type,"user_id":user,"feature":feature}).to_string()
        })
        .collect();
    let file = dir.path().join("events.ndjson");
    std::fs::write(&file, lines.join("\n")).unwrap();
    let data = dir.path().join("data");
    let end = chrono::Utc::now().date_naive().to_string();
    run_json(
        &data,
        &["import", file.to_str().unwrap(), "--rebase-to", &end],
    );
    (dir, end)
}

#[test]
fn the_numbers_are_those_counted_by_hand() {
    let now = chrono::Utc::now();
    let monday = {
        // The Monday two weeks back, so that all days below are over.
        use chrono::Datelike;
        let today = now.date_naive();
        today - chrono::Days::new(u64::from(today.weekday().num_days_from_monday()) + 14)
    };
    let at = |day: u64, time: &str| format!("{}T{time}Z", monday + chrono::Days::new(day));
    let dir = folder();
    let server = Server::start(dir.path());
    let one = |ts: String, event_type: &str, user: Value, feature: Value| json!({"ts":ts,"event_type":event_type,"user_id":user,"feature":feature});
    let (status, _) = server.post(&batch([
        // Monday: two users, one of them twice, and an anonymous event.
        one(
            at(0, "00:00:00"),
            "page_view",
            json!("ann"),
            json!("dashboard"),
        ),
        one(at(0, "12:00:00"), "action", json!("ann"), json!("save")),
        one(
            at(0, "12:00:00"),
            "page_view",
            json!("bob"),
            json!("dashboard"),
        ),
        one(
            at(0, "23:59:59.999999"),
            "page_view",
            Value::Null,
            json!("dashboard"),
        ),
        // Wednesday: only an anonymous event. A day with data, and no user.
        one(at(2, "10:00:00"), "action", json!("undefined"), Value::Null),
        // Sunday and the Monday after: one user, two weeks.
        one(
            at(6, "23:59:59"),
            "conversion",
            json!("ann"),
            json!("signup"),
        ),
        one(
            at(7, "00:00:00"),
            "page_view",
            json!("ann"),
            json!("billing"),
        ),
        // One microsecond before the window.
        one(
            format!("{}T23:59:59.999999Z", monday - chrono::Days::new(1)),
            "action",
            json!("eve"),
            json!("save"),
        ),
    ]));
    assert_eq!(status, 200);
    let end = (monday + chrono::Days::new(7)).to_string();
    let usage = server.usage(&format!("?days=8&end={end}"));
    // Users of days: 2, 0, 1, 1 over 4 days with data. Of weeks: 2, 1 over 2 weeks.
    assert_eq!(usage["dau"], 1.0);
    assert_eq!(usage["wau"], 1.5);
    assert_eq!(usage["mau"], 2);
    assert_eq!(usage["total_events"], 7);
    assert_eq!(usage["unique_days"], 4);
    assert_eq!(usage["unique_weeks"], 2);
    assert_eq!(usage["users_per_day"], 4);
    assert_eq!(usage["users_per_week"], 3);
    assert_eq!(usage["period_days"], 8);
    assert_eq!(
        usage["window"],
        json!({"from":monday.to_string(),"to":end,"days":8,"tz":"UTC","partial":false})
    );
    assert_eq!(usage["covered_from"], monday.to_string());
    let text = usage_text(&server, &format!("?days=8&end={end}"));
    assert!(
        text.contains(r#""feature_usage":{"dashboard":3,"billing":1,"save":1,"signup":1}"#),
        "{text}"
    );
    assert!(
        text.contains(r#""funnel_steps":{"page_view":4,"action":2,"conversion":1}"#),
        "{text}"
    );
    assert_eq!(server.usage(&format!("?days=9&end={end}"))["mau"], 3);
}

fn usage_text(server: &Server, query: &str) -> String {
    let agent: ureq::Agent = ureq::Agent::new_with_defaults();
    let mut answer = agent
        .get(format!("{}/api/analytics/usage{query}", server.url))
        .header("x-dash-key", KEY)
        .call()
        .unwrap();
    let cache = answer.headers().get("cache-control").unwrap();
    assert_eq!(cache, "private, no-cache", "the window is closed");
    answer.body_mut().read_to_string().unwrap()
}

#[test]
fn usage_of_an_empty_store_is_zeros() {
    let dir = folder();
    let server = Server::start(dir.path());
    for query in ["", "?days=1", "?days=365", "?tz=Asia/Kathmandu"] {
        let usage = server.usage(query);
        for (field, zero) in [
            ("dau", json!(0.0)),
            ("wau", json!(0.0)),
            ("mau", json!(0)),
            ("total_events", json!(0)),
            ("unique_days", json!(0)),
            ("unique_weeks", json!(0)),
        ] {
            assert_eq!(usage[field], zero, "{field}");
        }
        assert_eq!(usage["feature_usage"], json!({}));
        assert_eq!(
            usage["funnel_steps"],
            json!({"page_view":0,"action":0,"conversion":0})
        );
    }
}

#[test]
fn days_are_those_of_the_reporting_zone() {
    // 23:30 and 00:30 UTC are one evening in New York and two days in London.
    let (dir, end) = march(&[
        ("2024-03-01T23:30:00Z", "action", Some("ann"), None),
        ("2024-03-02T00:30:00Z", "action", Some("ann"), None),
    ]);
    let data = dir.path().join("data");
    let days = |tz: &str| {
        run_json(&data, &["usage", "--days", "5", "--end", &end, "--tz", tz])["unique_days"].clone()
    };
    assert_eq!(days("UTC"), 2);
    assert_eq!(days("America/New_York"), 1);
    assert_eq!(days("Asia/Kathmandu"), 1);
    assert_eq!(days("Pacific/Apia"), 1);
}

#[test]
fn an_acknowledged_event_is_in_the_next_response() {
    let dir = folder();
    let server = Server::start(dir.path());
    for number in 1..=50 {
        assert_eq!(
            server
                .post(&batch([
                    json!({"event_type":"action","user_id":format!("u{number}")})
                ]))
                .0,
            200
        );
        let usage = server.usage("?days=1");
        assert_eq!(
            (&usage["mau"], &usage["total_events"]),
            (&json!(number), &json!(number))
        );
        assert_eq!(usage["window"]["partial"], true);
    }
}

#[test]
fn a_wrong_request_names_what_is_allowed() {
    let dir = folder();
    let server = Server::start(dir.path());
    for (query, code, says) in [
        ("?days=0", "bad_days", "1 to 365"),
        ("?days=366", "bad_days", "366"),
        ("?days=-1", "bad_days", "-1"),
        ("?days=ten", "bad_days", "ten"),
        ("?days=", "bad_days", "1 to 365"),
        (
            "?days=99999999999999999999",
            "bad_days",
            "99999999999999999999",
        ),
        ("?end=yesterday", "bad_end", "YYYY-MM-DD"),
        ("?end=2026-02-29", "bad_end", "2026-02-29"),
        ("?end=0001-01-01", "bad_end", "0001-01-01"),
        ("?tz=Mars", "bad_tz", "Mars"),
        ("?day=5", "bad_query", "days, end, from, to, period, tz"),
        ("?days=5&days=6", "bad_query", "duplicate"),
    ] {
        let (status, body) = server.get(&format!("/api/analytics/usage{query}"));
        assert_eq!(
            (status, &body["error"]),
            (400, &json!(code)),
            "{query}: {body}"
        );
        assert!(
            body["message"].as_str().unwrap().contains(says),
            "{query}: {body}"
        );
    }
}

#[test]
fn requests_without_key_are_unauthorized() {
    let dir = folder();
    let mut command = crate::harness::echopilot(dir.path());
    command.env("ECHOPILOT_LOG", "warn");
    let server = Server::start_as(command);
    let wrong = format!("{KEY}x");
    let cases: [&[(&str, &str)]; 6] = [
        &[],
        &[("x-dash-key", "")],
        &[("x-dash-key", "wrong")],
        &[("x-dash-key", &wrong)],
        &[("x-dash-key", &KEY[..KEY.len() - 1])],
        &[("authorization", KEY)],
    ];
    for headers in cases {
        let (status, body) = server.get_with("/api/analytics/usage?days=0", headers);
        assert_eq!(
            (status, &body["error"]),
            (401, &json!("unauthorized")),
            "{headers:?}"
        );
    }
    assert_eq!(
        server
            .get_with(&format!("/api/analytics/usage?key={KEY}"), &[])
            .0,
        401
    );
}
