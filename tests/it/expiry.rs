//! Expiry: old data is removed, based on stored events and never on the clock alone.

use std::path::Path;

use chrono::{DateTime, Days, TimeDelta, Utc};
use echopilot_analytics::engine::{Engine, RollupScope, UsageAnswer};
use echopilot_analytics::error::{Error, ErrorCode};
use echopilot_analytics::store::Clock;
use echopilot_analytics::window::WindowRequest;
use serde_json::json;

use crate::harness::{engine, folder, ingest};

fn now() -> DateTime<Utc> {
    "2026-03-05T12:00:00Z".parse().unwrap()
}

/// A store with an event on each of the last 120 days, all sealed. Every tenth is of one user, each
/// other of another user.
fn store(dir: &Path) -> Engine {
    let engine = engine(dir, now());
    let events: Vec<_> = (0..120)
        .map(|day| {
            let user = match day % 10 {
                0 => "regular".to_owned(),
                _ => format!("user-{day}"),
            };
            json!({"event_type":"action","user_id":user,"ts":(now() - TimeDelta::days(day)).timestamp()})
        })
        .collect();
    for batch in events.chunks(100) {
        ingest(&engine, batch, now());
    }
    engine.store().seal().unwrap();
    engine
}

fn usage(engine: &Engine, days: i64, tz: &str) -> UsageAnswer {
    let request = WindowRequest {
        days: Some(days),
        tz: Some(tz.into()),
        ..WindowRequest::default()
    };
    engine.usage(&request, now()).unwrap()
}

#[test]
fn raw_events_go_after_90_days_and_the_numbers_of_a_year_stay() {
    let dir = folder();
    let engine = store(dir.path());
    let before = usage(&engine, 365, "UTC");
    let expired = engine
        .expire(now().date_naive(), Clock::Doubted)
        .unwrap()
        .expired;
    assert_eq!(
        (expired.segments, expired.events, expired.states),
        (29, 29, 0)
    );
    let raw_from = now().date_naive() - Days::new(90);
    assert_eq!(expired.raw_from, Some(raw_from));
    let days = std::fs::read_dir(dir.path().join("events"))
        .unwrap()
        .count();
    assert_eq!(days, 91);
    // States cover all days. A zone needs events, and the response has their first day.
    assert_eq!(usage(&engine, 365, "UTC"), before);
    let tokyo = usage(&engine, 365, "Asia/Tokyo");
    assert_eq!(tokyo.numbers.total_events, 91);
    assert_eq!(tokyo.covered_from, raw_from + Days::new(1));
    assert_eq!(
        usage(&engine, 30, "Asia/Tokyo").covered_from,
        tokyo.window.to - Days::new(29)
    );
    // A second expiry removes nothing, also after a restart.
    let again = engine
        .expire(now().date_naive(), Clock::Doubted)
        .unwrap()
        .expired;
    assert_eq!((again.segments, again.states), (0, 0));
    drop(engine);
    let engine = crate::harness::engine(dir.path(), now());
    assert_eq!(usage(&engine, 365, "UTC"), before);
    assert_eq!(usage(&engine, 365, "Asia/Tokyo").numbers, tokyo.numbers);
    // An event of an expired day still counts, in its day.
    let late = json!({"event_type":"action","user_id":"late","ts":(now() - TimeDelta::days(100)).timestamp()});
    ingest(&engine, &[late], now());
    engine.store().seal().unwrap();
    assert_eq!(usage(&engine, 365, "UTC").numbers.total_events, 121);
    assert_eq!(engine.rebuild().unwrap().changed, 0);
    assert_eq!(
        usage(&engine, 365, "UTC").numbers.mau,
        before.numbers.mau + 1
    );
}

#[test]
fn states_and_rollup_lines_expire_after_a_year_and_the_response_reports_it() {
    let dir = folder();
    let engine = store(dir.path());
    engine.rollup(RollupScope::Closed, now()).unwrap();
    let lines = || std::fs::read_to_string(dir.path().join("analytics.ndjson")).unwrap();
    assert_eq!(lines().lines().count(), 119);
    // 300 days later, in steps that the clock check accepts.
    let mut today = now().date_naive();
    let mut removed = 0;
    for _ in 0..12 {
        today = today + Days::new(25);
        removed += engine.expire(today, Clock::Doubted).unwrap().rollup_lines;
    }
    let states_from = today - Days::new(365);
    let kept = 365 - 300 + 1;
    assert_eq!(engine.store().expiry().states_from, Some(states_from));
    assert_eq!(removed, 119 - (kept - 1));
    assert_eq!(lines().lines().count(), kept - 1);
    let left = usage(&engine, 365, "UTC");
    assert_eq!(
        (left.unique_days, left.covered_from),
        (kept as u64, states_from)
    );
    // An expired period is not rolled up again from a part of its events.
    assert!(
        engine
            .rollup(RollupScope::Closed, now())
            .unwrap()
            .days
            .is_empty()
    );
}

#[test]
fn a_clock_that_jumps_to_2099_deletes_nothing() {
    let dir = folder();
    let engine = store(dir.path());
    let before = usage(&engine, 365, "UTC");
    let size = engine.size();
    let jumped = "2099-01-01".parse().unwrap();
    for _ in 0..2 {
        match engine.expire(jumped, Clock::Doubted) {
            Err(Error::BadInput { code, message }) => {
                assert_eq!(code, ErrorCode::ClockJump);
                assert!(
                    message.contains("2099-01-01") && message.contains("2026-03-05"),
                    "{message}"
                );
            }
            other => panic!("{other:?}"),
        }
        // Events under the wrong clock are not accepted.
        let later = now() + TimeDelta::days(26_000);
        let body = json!({"events":[{"event_type":"action","user_id":"future"}]}).to_string();
        assert!(matches!(
            engine.ingest(body.as_bytes(), later),
            Err(Error::Clock(_))
        ));
    }
    assert_eq!(engine.size(), size);
    assert_eq!(usage(&engine, 365, "UTC"), before);
    // An operator may confirm the date.
    let expired = engine.expire(jumped, Clock::Confirmed).unwrap().expired;
    assert_eq!(expired.events, 120);
}
