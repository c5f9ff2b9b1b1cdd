//! A synthetic history for demonstrations and benchmarks: realistic, and seeded, so that it is the
//! same everywhere.
//!
//! Users sign up over the whole period, stay for weeks or months and leave; a few are heavy users.
//! Sessions follow the hours of a working day and the days of a week, and features Zipf's law.

use chrono::{Datelike, Days, NaiveDate, Weekday};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Exp, Geometric, LogNormal, Normal, Zipf};

use crate::error::{Error, Result};
use crate::event::{Event, EventType};
use crate::store::{BatchBuilder, Reply, Store, WriteBatch, pipeline};
use crate::window::{DAY_US, HOUR_US};

/// Parameters of a history.
#[derive(Debug, Clone, Copy)]
pub struct Demo {
    /// Number of events.
    pub events: u64,
    /// Number of days, up to and including `last_day`.
    pub days: u32,
    /// Number of users.
    pub users: u32,
    /// Number of features.
    pub features: u32,
    /// Seed of the random numbers; equal seeds give equal histories.
    pub seed: u64,
    /// The last day.
    pub last_day: NaiveDate,
}

/// Share of sessions without a user id.
const ANONYMOUS_SHARE: f64 = 0.08;
/// Mean number of events per session.
const SESSION_EVENTS: f64 = 6.0;
/// Mean number of days that a user stays.
const STAY_DAYS: f64 = 60.0;
/// Exponent of Zipf's law for features: the first of 200 features gets about a fifth of all
/// events.
const FEATURE_EXPONENT: f64 = 1.05;
/// Share of events with the same feature as the event before. In recorded histories a user's day
/// has six features for ten events.
const SAME_FEATURE_SHARE: f64 = 0.4;
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
const METADATA: [&str; 6] = [
    r#"{"platform":"web","plan":"free"}"#,
    r#"{"platform":"web","plan":"pro"}"#,
    r#"{"platform":"web","plan":"team"}"#,
    r#"{"platform":"ios","plan":"free"}"#,
    r#"{"platform":"ios","plan":"pro"}"#,
    r#"{"platform":"android","plan":"free"}"#,
];

/// A synthetic user.
struct User {
    id: String,
    first_day: u32,
    last_day: u32,
    weight: f64,
    metadata: &'static str,
}

/// The parts of a history that all days have in common.
struct History {
    demo: Demo,
    users: Vec<User>,
    features: Vec<String>,
    /// Number of events of each day.
    quotas: Vec<u64>,
}

/// One event of a history.
#[derive(Clone, Copy)]
struct Occurrence<'a> {
    ts_us: i64,
    /// `None` if anonymous.
    user: Option<&'a User>,
    feature: &'a str,
    event_type: EventType,
}

/// Generates a history and stores it. `progress` is called with the number of events stored so
/// far.
///
/// # Errors
/// `bad_demo` if a number is zero; if the store cannot write.
pub fn fill(store: &Store, demo: Demo, progress: impl Fn(u64)) -> Result<u64> {
    if demo.events == 0 || demo.days == 0 || demo.users == 0 || demo.features == 0 {
        return Err(Error::bad_input(
            "bad_demo",
            "events, days, users and features must be at least 1",
        ));
    }
    let history = History::new(demo)?;
    let maker = store.batch_builder();
    let mut days = 0..demo.days;
    let mut in_flight = std::collections::VecDeque::<Reply>::new();
    let mut stored = 0;
    let wait = |reply: Reply| -> Result<u64> {
        let stored = reply
            .blocking_recv()
            .map_err(|_| Error::Poisoned("the writer has stopped".into()))??;
        Ok(stored.logged as u64)
    };
    pipeline::ordered(
        || Ok(days.next()),
        |day| Ok(batches(&history.day(day)?, &maker)),
        |batches: Result<Vec<WriteBatch>>| {
            for batch in batches? {
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

/// The write batches of a day.
fn batches(day: &[Occurrence<'_>], maker: &BatchBuilder) -> Vec<WriteBatch> {
    let batches = day.chunks(BATCH_EVENTS).map(|occurrences| {
        let mut batch = WriteBatch::default();
        for occurrence in occurrences {
            maker.push(&mut batch, &occurrence.event());
        }
        batch
    });
    batches.collect()
}

impl<'a> Occurrence<'a> {
    fn event(&self) -> Event<'a> {
        Event {
            ts_us: self.ts_us,
            event_type: self.event_type,
            user_id: self.user.map(|user| user.id.as_str().into()),
            feature: Some(self.feature.into()),
            metadata: self.user.map_or("{}", |user| user.metadata).into(),
            url: Some(format!("/{}", self.feature).into()),
            event_id: None,
            received_at_us: self.ts_us,
        }
    }
}

impl History {
    fn new(demo: Demo) -> Result<Self> {
        let mut rng = StdRng::seed_from_u64(demo.seed);
        let stay = Exp::new(1.0 / STAY_DAYS).map_err(wrong_distribution)?;
        let weight = LogNormal::new(0.0, 1.2).map_err(wrong_distribution)?;
        let users = (0..demo.users)
            .map(|number| {
                let first_day = (rng.random::<f64>() * f64::from(demo.days)) as u32;
                let stays = stay.sample(&mut rng) as u32;
                User {
                    id: user_id(number, &mut rng),
                    first_day,
                    last_day: first_day.saturating_add(stays),
                    weight: weight.sample(&mut rng),
                    metadata: pick(&METADATA, &mut rng).copied().unwrap_or("{}"),
                }
            })
            .collect();
        Ok(Self {
            quotas: quotas(&demo, &mut rng),
            features: feature_names(demo.features),
            users,
            demo,
        })
    }

    /// The events of one day, ordered by time.
    fn day(&self, day: u32) -> Result<Vec<Occurrence<'_>>> {
        let seed = self.demo.seed ^ (u64::from(day) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut rng = StdRng::seed_from_u64(seed);
        let active: Vec<&User> = self
            .users
            .iter()
            .filter(|user| (user.first_day..=user.last_day).contains(&day))
            .collect();
        let mut weights = Vec::with_capacity(active.len());
        let mut total = 0.0;
        for user in &active {
            total += user.weight;
            weights.push(total);
        }
        let features =
            Zipf::new(self.features.len() as f64, FEATURE_EXPONENT).map_err(wrong_distribution)?;
        let lengths = Geometric::new(1.0 / SESSION_EVENTS).map_err(wrong_distribution)?;
        let hours = Normal::<f64>::new(13.0, 3.5).map_err(wrong_distribution)?;
        let first = self.demo.last_day - Days::new(u64::from(self.demo.days - 1));
        let day_start_us = (first + Days::new(u64::from(day)))
            .signed_duration_since(NaiveDate::default())
            .num_days()
            * DAY_US;
        let quota = self.quotas.get(day as usize).copied().unwrap_or(0);
        let mut events = Vec::with_capacity(quota as usize);
        while (events.len() as u64) < quota {
            let user = if active.is_empty() || rng.random_bool(ANONYMOUS_SHARE) {
                None
            } else {
                let at = rng.random::<f64>() * total;
                let index = weights.partition_point(|weight| *weight < at);
                active.get(index).copied()
            };
            let mut ts_us = (hours.sample(&mut rng).rem_euclid(24.0) * HOUR_US as f64) as i64;
            let mut feature = features.sample(&mut rng) as usize - 1;
            for step in 0..=lengths.sample(&mut rng) {
                if (events.len() as u64) >= quota || ts_us >= DAY_US {
                    break;
                }
                if step > 0 && !rng.random_bool(SAME_FEATURE_SHARE) {
                    feature = features.sample(&mut rng) as usize - 1;
                }
                events.push(Occurrence {
                    ts_us: day_start_us + ts_us,
                    user,
                    feature: self
                        .features
                        .get(feature)
                        .map_or("dashboard", String::as_str),
                    event_type: event_type(step, &mut rng),
                });
                ts_us += rng.random_range(2_000_000..90_000_000);
            }
        }
        events.sort_by_key(|event| event.ts_us);
        Ok(events)
    }
}

/// The type of an event of a session: page views first, conversions rarely.
fn event_type(step: u64, rng: &mut StdRng) -> EventType {
    match rng.random::<f64>() {
        _ if step == 0 => EventType::PageView,
        share if share < 0.55 => EventType::PageView,
        share if share < 0.95 => EventType::Action,
        _ => EventType::Conversion,
    }
}

/// A user id: every other one is a UUID, the rest are short.
fn user_id(number: u32, rng: &mut StdRng) -> String {
    if number.is_multiple_of(2) {
        let bits: u128 = rng.random();
        format!(
            "{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}",
            (bits >> 96) as u32,
            (bits >> 80) as u16,
            (bits >> 68) & 0xFFF,
            (bits >> 52) & 0xFFF,
            bits & 0xFFFF_FFFF_FFFF
        )
    } else {
        format!("user_{number}")
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

fn pick<'a, T>(from: &'a [T], rng: &mut StdRng) -> Option<&'a T> {
    from.get(rng.random_range(0..from.len()))
}

/// Reports invalid parameters of a distribution. The constants above are valid, and the number of
/// features is checked before.
fn wrong_distribution(error: impl std::fmt::Display) -> Error {
    Error::bad_input("bad_demo", error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event;

    const DEMO: Demo = Demo {
        events: 5_000,
        days: 30,
        users: 200,
        features: 25,
        seed: 7,
        last_day: NaiveDate::from_ymd_opt(2026, 11, 26).expect("a valid date"),
    };

    /// The log lines of a history, generated day by day in this order.
    fn lines(demo: Demo, days: impl Iterator<Item = u32>) -> Result<Vec<Vec<u8>>> {
        let history = History::new(demo)?;
        let lines = days.map(|day| {
            let mut lines = Vec::new();
            for occurrence in history.day(day)? {
                event::write_line(&occurrence.event(), &mut lines);
            }
            Ok(lines)
        });
        lines.collect()
    }

    #[test]
    fn equal_seeds_give_equal_histories_in_any_order_of_days() -> Result<()> {
        let history = lines(DEMO, 0..DEMO.days)?;
        let mut backwards = lines(DEMO, (0..DEMO.days).rev())?;
        backwards.reverse();
        assert_eq!(history, backwards);
        assert_ne!(history, lines(Demo { seed: 8, ..DEMO }, 0..DEMO.days)?);
        Ok(())
    }

    #[test]
    fn a_history_has_exactly_the_requested_events_on_the_requested_days() -> Result<()> {
        for demo in [
            DEMO,
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
            let mut events = 0;
            for day in 0..demo.days {
                let day_start_us = i64::from(first.to_epoch_days() + day.cast_signed()) * DAY_US;
                let occurrences = history.day(day)?;
                events += occurrences.len() as u64;
                assert!(occurrences.is_sorted_by_key(|occurrence| occurrence.ts_us));
                let range = day_start_us..day_start_us + DAY_US;
                assert!(
                    occurrences
                        .iter()
                        .all(|occurrence| range.contains(&occurrence.ts_us))
                );
            }
            assert_eq!(events, demo.events);
        }
        Ok(())
    }
}
