//! A made-up history to look at: seeded, so that it is the same everywhere, and believable.
//!
//! Users sign up over the whole span, stay for weeks or months and leave; few are heavy, most are light.
//! Sessions follow the hours of a working day and the days of a week, and features a Zipf law.

use chrono::{Datelike, Days, NaiveDate, Weekday};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Exp, Geometric, LogNormal, Normal, Zipf};

use crate::error::{Error, Result};
use crate::event::{Event, EventType};
use crate::store::{Draft, DraftMaker, Reply, Store, pipeline};
use crate::window::{DAY_US, HOUR_US};

/// What to make up.
#[derive(Debug, Clone, Copy)]
pub struct Demo {
    /// Events in all.
    pub events: u64,
    /// Days, the last of which is `last_day`.
    pub days: u32,
    /// Users in all.
    pub users: u32,
    /// Features in all.
    pub features: u32,
    /// Equal seeds give equal histories.
    pub seed: u64,
    /// The newest day.
    pub last_day: NaiveDate,
}

/// Sessions without a known user.
const ANONYMOUS_SHARE: f64 = 0.08;
/// Events of a session, on average.
const SESSION_EVENTS: f64 = 6.0;
/// Days that a user stays, on average.
const STAY_DAYS: f64 = 60.0;
/// Exponent of the Zipf law of features: the first gets about a fifth of the use of two hundred.
const FEATURE_EXPONENT: f64 = 1.05;
/// Acts that follow one in the same feature: people stay with what they do, as in recorded histories, where a user's
/// day has six features for ten events.
const SAME_FEATURE_SHARE: f64 = 0.4;
/// Events of a draft.
const DRAFT_EVENTS: u64 = 10_000;
/// Drafts on their way to the disk.
const DRAFTS_IN_FLIGHT: usize = 8;

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

/// One made-up user.
struct User {
    id: String,
    first_day: u32,
    last_day: u32,
    weight: f64,
    metadata: &'static str,
}

/// The parts of a history that all days share.
struct History {
    demo: Demo,
    users: Vec<User>,
    features: Vec<String>,
    /// Events of each day.
    quotas: Vec<u64>,
}

/// Makes the history up and stores it. `made` is called with the number of events so far.
///
/// # Errors
/// `bad_demo` if a number is zero, and if the store cannot write.
pub fn fill(store: &Store, demo: Demo, made: impl Fn(u64)) -> Result<u64> {
    if demo.events == 0 || demo.days == 0 || demo.users == 0 || demo.features == 0 {
        return Err(Error::bad_input(
            "bad_demo",
            "events, days, users and features must be at least 1",
        ));
    }
    let history = History::new(demo)?;
    let maker = store.draft_maker();
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
        |day| history.day(day, &maker),
        |drafts| {
            for draft in drafts? {
                if store.seal_urgency().is_some() {
                    store.seal()?;
                }
                in_flight.push_back(store.append(draft)?);
                if in_flight.len() >= DRAFTS_IN_FLIGHT
                    && let Some(reply) = in_flight.pop_front()
                {
                    stored += wait(reply)?;
                    made(stored);
                }
            }
            Ok(())
        },
    )?;
    for reply in in_flight {
        stored += wait(reply)?;
        made(stored);
    }
    Ok(stored)
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

    /// The events of one day, in the order of time.
    fn day(&self, day: u32, maker: &DraftMaker) -> Result<Vec<Draft>> {
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
        let mut acts = Vec::with_capacity(quota as usize);
        while (acts.len() as u64) < quota {
            let user = match active.is_empty() || rng.random_bool(ANONYMOUS_SHARE) {
                true => None,
                false => {
                    let at = rng.random::<f64>() * total;
                    active
                        .get(weights.partition_point(|weight| *weight < at))
                        .copied()
                }
            };
            let mut ts_us = (hours.sample(&mut rng).rem_euclid(24.0) * HOUR_US as f64) as i64;
            let mut feature = features.sample(&mut rng) as usize - 1;
            for step in 0..=lengths.sample(&mut rng) {
                if (acts.len() as u64) >= quota || ts_us >= DAY_US {
                    break;
                }
                if step > 0 && !rng.random_bool(SAME_FEATURE_SHARE) {
                    feature = features.sample(&mut rng) as usize - 1;
                }
                acts.push((day_start_us + ts_us, user, feature, act(step, &mut rng)));
                ts_us += rng.random_range(2_000_000..90_000_000);
            }
        }
        acts.sort_by_key(|(ts_us, ..)| *ts_us);
        let mut drafts = Vec::new();
        for acts in acts.chunks(DRAFT_EVENTS as usize) {
            let mut draft = Draft::default();
            for &(ts_us, user, feature, event_type) in acts {
                let feature = self
                    .features
                    .get(feature)
                    .map_or("dashboard", String::as_str);
                let url = format!("/{feature}");
                let event = Event {
                    ts_us,
                    event_type,
                    user_id: user.map(|user| user.id.as_str().into()),
                    feature: Some(feature.into()),
                    metadata: user.map_or("{}", |user| user.metadata).into(),
                    url: Some(url.into()),
                    event_id: None,
                    received_at_us: ts_us,
                };
                maker.push(&mut draft, &event);
            }
            drafts.push(draft);
        }
        Ok(drafts)
    }
}

/// A session begins with a page; a goal is rare and never first.
fn act(step: u64, rng: &mut StdRng) -> EventType {
    match rng.random::<f64>() {
        _ if step == 0 => EventType::PageView,
        share if share < 0.55 => EventType::PageView,
        share if share < 0.95 => EventType::Action,
        _ => EventType::Conversion,
    }
}

/// Every other id is a UUID, the rest are short.
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

/// How many events each day gets: growth over the span, quiet weekends, some chance; the sum is exact.
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

/// The constants above are valid parameters; a number of features is checked before.
fn wrong_distribution(error: impl std::fmt::Display) -> Error {
    Error::bad_input("bad_demo", error.to_string())
}
