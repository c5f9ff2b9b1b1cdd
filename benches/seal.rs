//! Seal: events per second from the event log to durable segments and states.
//! `cargo bench --bench seal`, with `--plain` for events without ids.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a bench stops at the first error, and prints its numbers"
)]

use std::time::Instant;

use chrono::{NaiveTime, Utc};
use echopilot_analytics::config::{Durability, NameLimits, StoreConfig};
use echopilot_analytics::event::{Event, EventType};
use echopilot_analytics::store::{Store, WriteBatch};
use echopilot_analytics::zones::Zones;

/// The allocator of the product.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 5;
const EVENTS: u64 = 2_000_000;
const EVENTS_PER_BATCH: u64 = 10_000;
const USERS: u64 = 100_000;
const FEATURES: u64 = 200;

fn main() {
    let is_plain = std::env::args().any(|name| name == "--plain");
    let make_event = if is_plain { plain_event } else { sent_event };
    let mut rates: Vec<f64> = (0..ROUNDS).map(|_| seal(make_event)).collect();
    rates.sort_by(f64::total_cmp);
    println!(
        "{EVENTS} events of two days, {ROUNDS} rounds, events/s: median {:.0}, {:.0} to {:.0}",
        rates.get(ROUNDS / 2).unwrap(),
        rates.first().unwrap(),
        rates.last().unwrap()
    );
}

/// Events per second of one seal.
fn seal(make_event: fn(u64, i64) -> Event<'static>) -> f64 {
    let dir = tempfile::tempdir_in(".").unwrap();
    let config = StoreConfig {
        data_dir: dir.path().to_owned(),
        durability: Durability::Sync,
        raw_retention_days: 90,
        rollup_retention_days: 365,
        rollup_at: NaiveTime::MIN,
        zones: Zones::default(),
        user_key_file: None,
        names: NameLimits::default(),
        limit_erasure_percent: 5,
        column_share: 60,
        limit_query_mib: 1_024,
    };
    let now = Utc::now();
    let store = Store::open(&config, "the bench", now).unwrap();
    let maker = store.batch_builder();
    for first in (0..EVENTS).step_by(EVENTS_PER_BATCH as usize) {
        let mut batch = WriteBatch::default();
        for number in first..first + EVENTS_PER_BATCH {
            maker.push(&mut batch, &make_event(number, now.timestamp_micros()));
        }
        let stored = store
            .append(batch)
            .unwrap()
            .blocking_recv()
            .unwrap()
            .unwrap();
        assert_eq!(stored.logged as u64, EVENTS_PER_BATCH);
    }
    let started = Instant::now();
    let sealed = store.seal().unwrap();
    assert_eq!(sealed.events, EVENTS);
    EVENTS as f64 / started.elapsed().as_secs_f64()
}

/// An event of the last two days as the browser client of a site sends it: with an id, and the
/// metadata of a session of about six events.
fn sent_event(number: u64, now_us: i64) -> Event<'static> {
    let event = plain_event(number, now_us);
    let session = (number / 6).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let country = ["US", "DE", "JP", "BR"][(session % 4) as usize];
    let scattered = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let ms = format!("{:012x}", event.ts_us / 1_000);
    let (ms, end_of_ms) = ms.split_at(8);
    Event {
        event_id: Some(format!("{ms}-{end_of_ms}-7000-9f00-{:012x}", scattered >> 16).into()),
        metadata: format!(
            r#"{{"platform":"web","country":"{country}","session":"{session:016x}","plan":"pro","action":"click"}}"#
        )
        .into(),
        url: event.url.map(|url| format!("{url}/{}", scattered % 100_000).into()),
        ..event
    }
}

/// An event of the last two days without an id. A few users have many of them.
fn plain_event(number: u64, now_us: i64) -> Event<'static> {
    let scattered = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 16;
    let user = (scattered % USERS) * (scattered / USERS % USERS) / USERS;
    let feature = format!(
        "feature_{}",
        scattered % FEATURES * (scattered / FEATURES % FEATURES) / FEATURES
    );
    let user = match user % 2 {
        0 => format!("0197a6f0-7c1e-4d2a-9f00-{user:012x}"),
        _ => format!("user_{user}"),
    };
    let ts_us = now_us - 40 * 3_600_000_000 + (number * 72_000) as i64;
    Event {
        ts_us,
        event_type: match scattered % 10 {
            0..6 => EventType::PageView,
            6..9 => EventType::Action,
            _ => EventType::Conversion,
        },
        user_id: Some(user.into()),
        url: Some(format!("/{feature}").into()),
        feature: Some(feature.into()),
        metadata: r#"{"platform":"web","plan":"pro"}"#.into(),
        event_id: None,
        received_at_us: ts_us + 250_000,
    }
}
