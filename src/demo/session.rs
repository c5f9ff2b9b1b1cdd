//! The sessions of a synthetic history: who visits when, which features are used, and when the
//! events arrive.

use std::ops::Range;

use rand::RngExt;
use rand::rngs::StdRng;
use rand_distr::{Distribution, Geometric, LogNormal, Normal, Zipf};

use super::event::DemoEvent;
use super::parameters::{Demo, wrong_distribution};
use super::users::Active;
use crate::error::Result;
use crate::event::EventType;
use crate::window::{DAY_US, HOUR_US};

/// Share of sessions whose visitor never signs in.
const ANONYMOUS_SHARE: f64 = 0.25;
/// The same in a plain history.
const PLAIN_ANONYMOUS_SHARE: f64 = 0.08;
/// Share of the other sessions that begin before the user signs in.
const SIGN_IN_SHARE: f64 = 0.15;
/// Maximum number of events before the user signs in.
const MAX_EVENTS_BEFORE_SIGN_IN: u64 = 3;
/// Mean number of events per session.
const SESSION_EVENTS: f64 = 6.0;
/// Time between two events of a session.
const PAUSE_US: Range<i64> = 2_000_000..90_000_000;
/// Time from an event until the server receives it: the browser client waits for more events.
const LATENCY_US: Range<i64> = 1_000_000..5_500_000;
/// Share of sessions that arrive late, from devices without a network.
const LATE_SHARE: f64 = 0.015;
/// Median delay of these.
const LATE_HOURS: f64 = 6.0;
/// The browser client sends an event for this long.
const MAX_DELAY_US: f64 = (7 * DAY_US - LATENCY_US.end) as f64;
/// Exponent of Zipf's law for features: the first of 200 features gets about a fifth of all
/// events.
const FEATURE_EXPONENT: f64 = 1.05;
/// Share of events with the same feature as the event before. In recorded histories a user's day
/// has six features for ten events.
const SAME_FEATURE_SHARE: f64 = 0.4;

/// The distributions of sessions.
pub struct Sessions {
    is_plain: bool,
    features: Zipf<f64>,
    lengths: Geometric,
    hours: Normal<f64>,
    delays_us: LogNormal<f64>,
}

impl Sessions {
    /// # Errors
    /// None with the constants above and at least one feature.
    pub fn new(demo: &Demo) -> Result<Self> {
        let delay_us = LATE_HOURS * HOUR_US as f64;
        Ok(Self {
            is_plain: demo.plain,
            features: Zipf::new(f64::from(demo.features), FEATURE_EXPONENT)
                .map_err(wrong_distribution)?,
            lengths: Geometric::new(1.0 / SESSION_EVENTS).map_err(wrong_distribution)?,
            hours: Normal::new(13.0, 3.5).map_err(wrong_distribution)?,
            delays_us: LogNormal::new(delay_us.ln(), 1.5).map_err(wrong_distribution)?,
        })
    }

    /// The events of a session that begins on a day. Events of a history that ends at `end_us` have
    /// arrived by then.
    pub fn session(
        &self,
        day_us: Range<i64>,
        end_us: i64,
        active: &Active,
        rng: &mut StdRng,
    ) -> impl Iterator<Item = DemoEvent> {
        let anonymous_share = match self.is_plain {
            true => PLAIN_ANONYMOUS_SHARE,
            false => ANONYMOUS_SHARE,
        };
        let user = match rng.random_bool(anonymous_share) {
            true => None,
            false => active.pick(rng),
        };
        let signs_in_at = match !self.is_plain && rng.random_bool(SIGN_IN_SHARE) {
            true => rng.random_range(1..=MAX_EVENTS_BEFORE_SIGN_IN),
            false => 0,
        };
        let delay_us = match !self.is_plain && rng.random_bool(LATE_SHARE) {
            true => self.delays_us.sample(rng).min(MAX_DELAY_US) as i64,
            false => 0,
        };
        let session = rng.random();
        let start_us = self.hours.sample(rng).rem_euclid(24.0) * HOUR_US as f64;
        let mut ts_us = day_us.start + start_us as i64;
        let mut feature = self.feature(rng);
        (0..=self.lengths.sample(rng)).map_while(move |step| {
            if step > 0 {
                ts_us += rng.random_range(PAUSE_US);
                if !rng.random_bool(SAME_FEATURE_SHARE) {
                    feature = self.feature(rng);
                }
            }
            let arrives_at_us = match self.is_plain {
                true => ts_us,
                false => ts_us + delay_us + rng.random_range(LATENCY_US),
            };
            let event = DemoEvent {
                ts_us,
                received_at_us: match arrives_at_us < end_us {
                    true => arrives_at_us,
                    false => ts_us,
                },
                session,
                is_first: step == 0,
                user,
                is_signed_in: step >= signs_in_at,
                feature,
                event_type: event_type(step, rng),
                random: rng.random(),
            };
            (ts_us < day_us.end).then_some(event)
        })
    }

    /// Code of the feature of an event.
    fn feature(&self, rng: &mut StdRng) -> u32 {
        self.features.sample(rng) as u32 - 1
    }
}

/// The type of an event of a session: page views first, conversions rarely.
fn event_type(step: u64, rng: &mut StdRng) -> EventType<'static> {
    match rng.random::<f64>() {
        _ if step == 0 => EventType::PageView,
        share if share < 0.55 => EventType::PageView,
        share if share < 0.95 => EventType::Action,
        _ => EventType::Conversion,
    }
}
