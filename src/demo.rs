//! A synthetic history for demonstrations and benchmarks: realistic, and seeded, so that it is the
//! same everywhere.
//!
//! Users sign up over the whole period, stay for weeks or months and leave; some return, and a few
//! are heavy users. Sessions follow the hours of a working day and the days of a week, and features
//! Zipf's law. Events carry what the browser client sends: an `event_id`, a URL and metadata. Some
//! sessions are anonymous, some begin before the user signs in, and some arrive days late.
//! [`Demo::plain`] makes the smallest events instead.

mod event;
mod parameters;
mod session;
mod users;

use std::collections::{BTreeMap, VecDeque};
use std::vec::IntoIter;

use chrono::{Datelike, Days, NaiveDate, Weekday};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::error::{Error, ErrorCode, Result};
use crate::event::Event;
use crate::store::{BatchBuilder, Reply, Store, WriteBatch, pipeline};
use crate::window::DAY_US;
use event::DemoEvent;
pub use parameters::Demo;
use parameters::part_seed;
use session::Sessions;
use users::{Users, Visitor};

/// Events per write batch.
const BATCH_EVENTS: usize = 10_000;
/// Maximum number of batches that wait to be written.
const BATCHES_IN_FLIGHT: usize = 8;

const NOUNS: [&str; 20] = [
    "dashboard",
    "workflow_builder",
    "boss_mode",
    "reports",
    "inbox",
    "calendar",
    "search",
    "billing",
    "team",
    "settings",
    "projects",
    "tasks",
    "files",
    "comments",
    "automations",
    "integrations",
    "templates",
    "goals",
    "timeline",
    "audit_log",
];
const VERBS: [&str; 10] = [
    "",
    "_open",
    "_create",
    "_edit",
    "_share",
    "_export",
    "_filter",
    "_delete",
    "_duplicate",
    "_archive",
];

/// The parts of a history that all days have in common.
struct History {
    demo: Demo,
    users: Users,
    sessions: Sessions,
    features: Vec<String>,
    /// Number of events of each day.
    quotas: Vec<u64>,
}

/// The events of a history in the order in which the server receives them, in chunks. Holds the
/// events of one day, and those that arrive on a later one.
struct Chunks<'a> {
    history: &'a History,
    /// Days that are not generated yet.
    days: std::ops::Range<u32>,
    /// Received on the current day.
    received: IntoIter<DemoEvent>,
    /// Received on a later day.
    late: BTreeMap<u32, Vec<DemoEvent>>,
}

/// Generates a history and stores it. `progress` is called with the number of events stored so
/// far.
///
/// # Errors
/// `bad_demo` if a number is zero; if the store cannot write.
pub fn fill(store: &Store, demo: Demo, progress: impl Fn(u64)) -> Result<u64> {
    if demo.events == 0 || demo.days == 0 || demo.users == 0 || demo.features == 0 {
        return Err(Error::bad_input(
            ErrorCode::BadDemo,
            "events, days, users and features must be at least 1",
        ));
    }
    let history = History::new(demo)?;
    let mut chunks = Chunks::new(&history);
    let builder = store.batch_builder();
    let mut in_flight = VecDeque::<Reply>::new();
    let mut stored = 0;
    let wait = |reply: Reply| -> Result<u64> {
        let stored = reply
            .blocking_recv()
            .map_err(|_| Error::Poisoned("the writer has stopped".into()))??;
        Ok(stored.logged as u64)
    };
    pipeline::ordered(
        || Ok(chunks.next()),
        |chunk| history.batch(&chunk, &builder),
        |batch| {
            if store.seal_urgency().is_some() {
                store.seal()?;
            }
            in_flight.push_back(store.append(batch)?);
            if in_flight.len() >= BATCHES_IN_FLIGHT
                && let Some(reply) = in_flight.pop_front()
            {
                stored += wait(reply)?;
                progress(stored);
            }
            Ok(())
        },
    )?;
    for reply in in_flight {
        stored += wait(reply)?;
        progress(stored);
    }
    Ok(stored)
}

impl<'a> Chunks<'a> {
    fn new(history: &'a History) -> Self {
        Self {
            history,
            days: 0..history.demo.days,
            received: IntoIter::default(),
            late: BTreeMap::new(),
        }
    }

    /// The next events, ordered by time of receipt; `None` at the end.
    fn next(&mut self) -> Option<Vec<DemoEvent>> {
        loop {
            let chunk: Vec<DemoEvent> = self.received.by_ref().take(BATCH_EVENTS).collect();
            if !chunk.is_empty() {
                return Some(chunk);
            }
            let day = self.days.next()?;
            self.received = self.receive(day).into_iter();
        }
    }

    /// The events that the server receives on a day.
    fn receive(&mut self, day: u32) -> Vec<DemoEvent> {
        let mut received = self.late.remove(&day).unwrap_or_default();
        let end_us = self.history.start_of_day(day + 1);
        for event in self.history.day(day) {
            match event.received_at_us - end_us {
                ..0 => received.push(event),
                after_us => {
                    let received_on = day + 1 + (after_us / DAY_US) as u32;
                    self.late.entry(received_on).or_default().push(event);
                }
            }
        }
        received.sort_by_key(|event| event.received_at_us);
        received
    }
}

impl History {
    fn new(demo: Demo) -> Result<Self> {
        let mut rng = StdRng::seed_from_u64(demo.seed);
        Ok(Self {
            quotas: quotas(&demo, &mut rng),
            users: Users::new(&demo, &mut rng)?,
            sessions: Sessions::new(&demo)?,
            features: feature_names(demo.features),
            demo,
        })
    }

    /// Start of a day, in µs since the epoch.
    fn start_of_day(&self, day: u32) -> i64 {
        let first = self.demo.last_day - Days::new(u64::from(self.demo.days - 1));
        let date = first + Days::new(u64::from(day));
        date.signed_duration_since(NaiveDate::default()).num_days() * DAY_US
    }

    /// The events that happen on a day, session by session. Independent of other days.
    fn day(&self, day: u32) -> Vec<DemoEvent> {
        let mut rng = StdRng::seed_from_u64(part_seed(self.demo.seed, day));
        let active = self.users.active_on(day);
        let day_us = self.start_of_day(day)..self.start_of_day(day + 1);
        let end_us = self.start_of_day(self.demo.days);
        let quota = self.quotas.get(day as usize).copied().unwrap_or(0) as usize;
        let mut events = Vec::with_capacity(quota);
        while events.len() < quota {
            let missing = quota - events.len();
            let session = self
                .sessions
                .session(day_us.clone(), end_us, &active, &mut rng);
            events.extend(session.take(missing));
        }
        events
    }

    fn batch(&self, events: &[DemoEvent], builder: &BatchBuilder) -> WriteBatch {
        let mut batch = WriteBatch::default();
        for event in events {
            builder.push(&mut batch, &self.event(event));
        }
        batch
    }

    /// The event as it is stored.
    fn event(&self, event: &DemoEvent) -> Event<'_> {
        let feature = self.features.get(event.feature as usize);
        let feature = feature.map_or("dashboard", String::as_str);
        let visitor = match event.user {
            Some(user) => self.users.user(user),
            None => Visitor::anonymous(event.session),
        };
        match self.demo.plain {
            true => event.plain(feature, visitor),
            false => event.as_sent(feature, visitor),
        }
    }
}

fn feature_names(count: u32) -> Vec<String> {
    let mut names: Vec<String> = VERBS
        .iter()
        .flat_map(|verb| NOUNS.iter().map(move |noun| format!("{noun}{verb}")))
        .take(count as usize)
        .collect();
    names.extend((names.len()..count as usize).map(|number| format!("feature_{number}")));
    names
}

/// Number of events of each day: growth over the period, quiet weekends, random variation. The sum
/// is exact.
fn quotas(demo: &Demo, rng: &mut StdRng) -> Vec<u64> {
    let first = demo.last_day - Days::new(u64::from(demo.days - 1));
    let shares: Vec<f64> = first
        .iter_days()
        .zip(0..demo.days)
        .map(|(date, day)| {
            let growth = 0.6 + 0.8 * f64::from(day) / f64::from(demo.days);
            let weekday = match date.weekday() {
                Weekday::Sat | Weekday::Sun => 0.45,
                _ => 1.0,
            };
            growth * weekday * (0.9 + 0.2 * rng.random::<f64>())
        })
        .collect();
    let total: f64 = shares.iter().sum();
    let mut given = 0;
    let mut share_so_far = 0.0;
    shares
        .iter()
        .map(|share| {
            share_so_far += share;
            let until = ((share_so_far / total) * demo.events as f64).round() as u64;
            let quota = until.saturating_sub(given);
            given += quota;
            quota
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

    use serde_json::{Map, Value};
    use uuid::Uuid;

    use super::*;
    use crate::event::{self, EventType};

    const DEMO: Demo = Demo {
        events: 5_000,
        days: 30,
        users: 200,
        features: 25,
        seed: 7,
        last_day: NaiveDate::from_ymd_opt(2026, 11, 26).expect("a valid date"),
        plain: false,
    };
    const PLAIN: Demo = Demo {
        plain: true,
        ..DEMO
    };
    const YEAR: Demo = Demo {
        events: 60_000,
        days: 365,
        users: 1_000,
        ..DEMO
    };

    /// The log lines of a history, generated day by day in this order.
    fn lines(demo: Demo, days: impl Iterator<Item = u32>) -> Result<Vec<Vec<u8>>> {
        let history = History::new(demo)?;
        let lines = days.map(|day| {
            let mut lines = Vec::new();
            for event in history.day(day) {
                event::write_line(&history.event(&event), &mut lines);
            }
            lines
        });
        Ok(lines.collect())
    }

    /// All events of a history, in the order in which the server receives them.
    fn received(history: &History) -> Vec<DemoEvent> {
        let mut chunks = Chunks::new(history);
        let chunks: Vec<Vec<DemoEvent>> = std::iter::from_fn(|| chunks.next()).collect();
        assert!(chunks.iter().all(|chunk| chunk.len() <= BATCH_EVENTS));
        chunks.concat()
    }

    fn metadata(event: &Event<'_>) -> Map<String, Value> {
        serde_json::from_str(&event.metadata).expect("an object")
    }

    #[test]
    fn equal_seeds_give_equal_histories_in_any_order_of_days() -> Result<()> {
        for demo in [DEMO, PLAIN] {
            let history = lines(demo, 0..demo.days)?;
            let mut backwards = lines(demo, (0..demo.days).rev())?;
            backwards.reverse();
            assert_eq!(history, backwards);
            assert_ne!(history, lines(Demo { seed: 8, ..demo }, 0..demo.days)?);
        }
        Ok(())
    }

    #[test]
    fn a_history_has_exactly_the_requested_events_on_the_requested_days() -> Result<()> {
        for demo in [
            DEMO,
            PLAIN,
            Demo {
                days: 1,
                users: 1,
                features: 1,
                ..DEMO
            },
            Demo {
                events: 1,
                days: 365,
                ..DEMO
            },
        ] {
            let history = History::new(demo)?;
            let first = demo.last_day - Days::new(u64::from(demo.days - 1));
            let mut generated = Vec::new();
            for day in 0..demo.days {
                let day_start_us = i64::from(first.to_epoch_days() + day.cast_signed()) * DAY_US;
                let events = history.day(day);
                let range = day_start_us..day_start_us + DAY_US;
                assert!(events.iter().all(|event| range.contains(&event.ts_us)));
                generated.extend(events.iter().map(|event| (event.ts_us, event.random)));
            }
            assert_eq!(generated.len() as u64, demo.events);
            let received = received(&history);
            assert!(received.is_sorted_by_key(|event| event.received_at_us));
            let mut stored: Vec<(i64, u64)> = received
                .iter()
                .map(|event| (event.ts_us, event.random))
                .collect();
            stored.sort_unstable();
            generated.sort_unstable();
            assert_eq!(stored, generated);
        }
        Ok(())
    }

    #[test]
    fn events_have_the_ids_urls_and_metadata_of_clients() -> Result<()> {
        let history = History::new(DEMO)?;
        let mut ids = HashSet::new();
        let mut keys = BTreeMap::<String, u32>::new();
        for demo_event in received(&history) {
            let event = history.event(&demo_event);
            let id = Uuid::parse_str(event.event_id.as_deref().expect("an id")).expect("a UUID");
            assert_eq!(id.get_version_num(), 7);
            let (seconds, nanoseconds) = id.get_timestamp().expect("of version 7").to_unix();
            let ms = seconds * 1_000 + u64::from(nanoseconds) / 1_000_000;
            assert_eq!(ms.cast_signed(), event.ts_us / 1_000);
            assert!(ids.insert(id), "{id} occurs twice");
            let feature = event.feature.as_deref().expect("a feature");
            let url = event.url.as_deref().expect("a URL");
            assert!(url.starts_with(&format!("/{feature}")), "{url}");

            let metadata = metadata(&event);
            let has = |key: &str| metadata.contains_key(key);
            assert!(has("platform") && has("country") && has("session"));
            assert_eq!(has("plan"), event.user_id.is_some());
            assert_eq!(has("amount"), event.event_type == EventType::Conversion);
            assert_eq!(has("action"), event.event_type == EventType::Action);
            let numbers = ["amount", "duration"].map(|key| metadata.get(key));
            assert!(
                numbers
                    .iter()
                    .flatten()
                    .all(|value| value.is_f64() || value.is_u64())
            );
            assert!(!has("referrer") || demo_event.is_first);
            assert!(!has("utm_source") || has("referrer"));
            for key in metadata.keys() {
                *keys.entry(key.clone()).or_default() += 1;
            }
        }
        assert_eq!(ids.len() as u64, DEMO.events);
        let shares: BTreeMap<&str, u32> = keys
            .iter()
            .map(|(key, count)| (key.as_str(), 100 * count / DEMO.events as u32))
            .collect();
        for (key, share) in [
            ("action", 25..40),
            ("amount", 1..8),
            ("country", 100..101),
            ("duration", 8..15),
            ("plan", 68..80),
            ("platform", 100..101),
            ("referrer", 5..12),
            ("session", 100..101),
            ("utm_campaign", 2..7),
            ("utm_medium", 2..7),
            ("utm_source", 2..7),
        ] {
            assert!(share.contains(&shares[key]), "{key}: {shares:?}");
        }
        assert_eq!(shares.len(), 11);
        Ok(())
    }

    #[test]
    fn the_server_accepts_the_events_unchanged() -> Result<()> {
        let history = History::new(DEMO)?;
        for demo_event in received(&history) {
            let event = history.event(&demo_event);
            let mut line = Vec::new();
            event::write_line(&event, &mut line);
            let sent = event::read_event(line.trim_ascii_end()).expect("an event");
            match sent.validate(event.received_at_us, 0) {
                event::Outcome::Accepted(accepted, _) => assert_eq!(
                    (accepted.metadata, accepted.url, accepted.user_id),
                    (event.metadata, event.url, event.user_id)
                ),
                other => panic!("{other:?}"),
            }
        }
        Ok(())
    }

    #[test]
    fn some_sessions_are_anonymous_and_some_begin_before_the_user_signs_in() -> Result<()> {
        for (demo, shares, before_sign_in) in [(DEMO, 20..32, true), (PLAIN, 5..12, false)] {
            let history = History::new(demo)?;
            let mut sessions = HashMap::<u64, Vec<DemoEvent>>::new();
            let mut anonymous = 0;
            for event in received(&history) {
                anonymous += u32::from(history.event(&event).user_id.is_none());
                sessions.entry(event.session).or_default().push(event);
            }
            let share = 100 * anonymous / demo.events as u32;
            assert!(shares.contains(&share), "{share} %");
            let mut with_sign_in = 0;
            for session in sessions.values_mut() {
                session.sort_by_key(|event| event.ts_us);
                let users: Vec<Option<String>> = session
                    .iter()
                    .map(|event| history.event(event).user_id.map(String::from))
                    .collect();
                let signed_in: BTreeSet<&String> = users.iter().flatten().collect();
                assert!(signed_in.len() <= 1, "{users:?}");
                assert!(users.is_sorted_by_key(Option::is_some), "{users:?}");
                with_sign_in += u32::from(users.first() != users.last());
            }
            assert_eq!(with_sign_in > 20, before_sign_in, "{with_sign_in}");
        }
        Ok(())
    }

    #[test]
    fn some_sessions_arrive_up_to_7_days_late() -> Result<()> {
        let history = History::new(YEAR)?;
        let delays_us: Vec<i64> = received(&history)
            .iter()
            .map(|event| event.received_at_us - event.ts_us)
            .collect();
        let later_than = |us: i64| delays_us.iter().filter(|delay| **delay > us).count();
        assert!(
            delays_us
                .iter()
                .all(|delay| (0..=7 * DAY_US).contains(delay))
        );
        assert!((600..1_200).contains(&later_than(60_000_000)));
        assert!(later_than(DAY_US) > 60, "{}", later_than(DAY_US));
        assert!(later_than(6 * DAY_US) > 0);
        let end_us = history.start_of_day(YEAR.days);
        assert!(
            received(&history)
                .iter()
                .all(|event| event.received_at_us < end_us)
        );
        Ok(())
    }

    #[test]
    fn users_come_go_and_return() -> Result<()> {
        let history = History::new(YEAR)?;
        let mut days = HashMap::<u32, BTreeSet<u32>>::new();
        for day in 0..YEAR.days {
            for user in history.day(day).iter().filter_map(|event| event.user) {
                days.entry(user).or_default().insert(day);
            }
        }
        assert!(days.len() > 700, "{} users occur", days.len());
        let active_in = |range: std::ops::Range<u32>| -> BTreeSet<u32> {
            let active = days
                .iter()
                .filter(|(_, days)| days.range(range.clone()).next().is_some());
            active.map(|(user, _)| *user).collect()
        };
        let (spring, autumn) = (active_in(90..120), active_in(300..330));
        assert!(spring.len() > 100 && autumn.len() > 100);
        assert!(spring.intersection(&autumn).count() < spring.len() / 3);
        let returns = |days: &BTreeSet<u32>| {
            days.iter()
                .zip(days.iter().skip(1))
                .any(|(before, after)| after - before > 30)
        };
        let returning = days.values().filter(|days| returns(days)).count();
        assert!((100..500).contains(&returning), "{returning} users return");
        Ok(())
    }

    #[test]
    fn plain_events_have_no_ids_and_two_metadata_keys_and_are_never_late() -> Result<()> {
        let history = History::new(PLAIN)?;
        for demo_event in received(&history) {
            let event = history.event(&demo_event);
            assert_eq!(event.event_id, None);
            assert_eq!(event.received_at_us, event.ts_us);
            let metadata = metadata(&event);
            let keys: Vec<&str> = metadata.keys().map(String::as_str).collect();
            match event.user_id {
                Some(_) => assert_eq!(keys, ["plan", "platform"]),
                None => assert!(keys.is_empty()),
            }
        }
        Ok(())
    }
}
