//! Time as the store believes it: a wall clock that is wrong, for a moment or for good, must not lose an event, count one
//! twice or expire one early.
//!
//! # What is accepted
//! `received_at` never decreases: an event gets the clock's time, or the newest `received_at` before it if that is later.
//! Nothing is accepted ([`Error::Clock`]) while the clock is
//! - before 2020, where no clock is that was ever set;
//! - more than an hour behind the newest `received_at`; less is a step that a time server made;
//! - more than 30 days ahead of the newest `received_at` and of the last day on which the store ran.
//!
//! It heals by itself when the clock is right again. A clock that is right after all, as after two months without the
//! server, is confirmed by a person ([`TrustedClock::confirm`]). An empty store takes every clock since 2020.
//!
//! # A clock that jumps while the process runs
//! A step of more than an hour, beside the steady clock of the system and the time that the machine was suspended, is
//! believed when it has lasted ten minutes. Until then time goes on by the steady clock, so that a jump of a moment
//! leaves no trace; events whose own `ts` agrees with the new time are accepted as well. A restart believes the clock
//! that it finds, within the limits above.
//!
//! # The last believed day
//! Expiry and the memory of event ids need more than that: what they drop never comes back. They go by the *last
//! believed day*. It follows the believed time from a day to the next one. A gap of more than a day is believed once
//! the clock was seen two days after the first day behind the gap: a server that was off for a week expires two days
//! later, and a wrong clock that somebody notices within a day expires nothing and forgets no id. It is kept in the
//! manifest, so that it advances without any event too, and never lies in the future of the believed time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, Days, NaiveDate, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

use super::lock::{Guard, Ordered, Rank};
use super::version::expiry::{ExpiryFacts, MAX_STEP_DAYS};
use crate::daily::{date, day_of};
use crate::error::{Error, Result};
use crate::window::{DAY_US, HOUR_US};

/// 2020-01-01: no clock that was ever set is before it.
const EARLIEST_US: i64 = 1_577_836_800_000_000;
/// How far the clock may be behind the newest event: more than a time server ever corrects at once on a machine that
/// is in use.
const MAX_BEHIND_US: i64 = HOUR_US;
/// A step beside the steady clock that is believed at once, in µs.
const MAX_STEP_US: i64 = HOUR_US;
/// A greater step is believed when it has lasted so long: time for a time server, or a person, to notice.
const SETTLE: Duration = Duration::from_secs(600);
/// A gap is believed so many days after the first day behind it: at least 24 hours.
const DOUBT_DAYS: u64 = 2;

/// What the manifest keeps of the clock, beside [`ExpiryFacts::looked_on`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockFacts {
    /// The newest `received_at`, in µs; an event of a clock that was corrected since may have a later one.
    pub newest_us: i64,
    /// Days behind a gap that is not believed yet.
    #[serde(default)]
    pub doubted: Option<Doubted>,
}

/// The days on which the clock was seen behind a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubted {
    first_on: NaiveDate,
    last_on: NaiveDate,
}

/// The days of a manifest that are doubted.
pub(super) fn doubted(facts: Option<ClockFacts>) -> Option<Doubted> {
    facts.and_then(|facts| facts.doubted)
}

/// When a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// `received_at` of its events, in µs.
    pub at_us: i64,
    /// The latest time that it may be, in µs: later while a jump forward is not believed yet.
    pub latest_us: i64,
}

/// The clock of a store, shared by all who add events, expire or ask for health.
pub(super) struct TrustedClock {
    state: Ordered<State>,
    started: Instant,
    ids_until_us: Arc<AtomicI64>,
}

#[derive(Debug, Default)]
struct State {
    /// The newest `received_at`, in µs.
    newest_us: Option<i64>,
    /// The last believed day.
    seen_on: Option<NaiveDate>,
    doubted: Option<Doubted>,
    /// The time that was believed last.
    anchor: Option<Anchor>,
    jump: Option<Jump>,
    /// Whether the trace says that nothing is accepted.
    is_stopped: bool,
}

/// A believed time, and what the steady clock said then.
#[derive(Debug, Clone, Copy)]
struct Anchor {
    wall_us: i64,
    steady: Steady,
}

/// A jump that is not believed yet.
#[derive(Debug, Clone, Copy)]
struct Jump {
    /// The wall clock less the steady one, in µs.
    offset_us: i64,
    since: Duration,
}

/// Time since the start of the process.
#[derive(Debug, Clone, Copy, Default)]
struct Steady {
    /// While the machine was awake.
    awake: Duration,
    /// While it was suspended; known where that matters.
    suspended: Option<Duration>,
}

impl TrustedClock {
    /// The clock of a store with this manifest; `newest_us` is the newest `received_at` of its segments.
    pub fn new(facts: Option<ClockFacts>, expiry: ExpiryFacts, newest_us: Option<i64>) -> Self {
        let (newest_us, seen_on) = match facts {
            Some(facts) => (Some(facts.newest_us), expiry.looked_on),
            // Of an earlier version, which wrote down what the clock said, right or wrong.
            None => {
                let newest_on = newest_us.map(|us| date(day_of(us)));
                let is_ahead =
                    |seen_on: NaiveDate| newest_on.is_some_and(|on| seen_on > on + Days::new(1));
                let seen_on = expiry.looked_on.filter(|&on| !is_ahead(on));
                (newest_us, seen_on.or(newest_on))
            }
        };
        let clock = Self {
            state: Ordered::new(
                Rank::Leaf,
                State {
                    newest_us,
                    seen_on,
                    doubted: facts.and_then(|facts| facts.doubted),
                    ..State::default()
                },
            ),
            started: Instant::now(),
            ids_until_us: Arc::new(AtomicI64::new(i64::MAX)),
        };
        clock.publish(&clock.lock());
        clock
    }

    /// The end of the last believed day, in µs: what event ids are forgotten by.
    pub fn ids_until(&self) -> Arc<AtomicI64> {
        self.ids_until_us.clone()
    }

    /// The newest `received_at`, in µs.
    pub fn newest_us(&self) -> Option<i64> {
        self.lock().newest_us
    }

    /// Notes events that are stored, or are about to be, by their `received_at`.
    pub fn note(&self, received_at_us: impl Iterator<Item = i64>) {
        let mut state = self.lock();
        received_at_us.for_each(|received_at_us| state.note(received_at_us));
        self.publish(&state);
    }

    /// Gives a request its time of receipt.
    ///
    /// # Errors
    /// [`Error::Clock`] while the clock is not believed.
    pub fn receive(&self, now: DateTime<Utc>) -> Result<Received> {
        let mut state = self.lock();
        let believed_us = self.look(&mut state, now)?;
        let at_us = state
            .newest_us
            .map_or(believed_us, |newest| newest.max(believed_us));
        state.note(at_us);
        self.publish(&state);
        Ok(Received {
            at_us,
            latest_us: at_us.max(now.timestamp_micros()),
        })
    }

    /// The time that is believed.
    ///
    /// # Errors
    /// [`Error::Clock`] while the clock is not believed.
    pub fn believed(&self, now: DateTime<Utc>) -> Result<DateTime<Utc>> {
        let believed_us = self.look(&mut self.lock(), now)?;
        Ok(DateTime::from_timestamp_micros(believed_us).unwrap_or(now))
    }

    /// The last believed day when the clock says `now`: only days before it are over.
    pub fn believed_day(&self, now: DateTime<Utc>) -> NaiveDate {
        let mut state = self.lock();
        // A clock that is not believed moves no day.
        let _ = self.look(&mut state, now);
        let today = now.date_naive();
        state.seen_on.map_or(today, |seen_on| seen_on.min(today))
    }

    /// The day by which things expire when the clock says that it is `today`.
    ///
    /// # Errors
    /// The last day on which the clock was seen, if `today` is too far ahead of it.
    pub fn day_of_expiry(&self, today: NaiveDate) -> Result<NaiveDate, NaiveDate> {
        let mut state = self.lock();
        if let Some(last_on) = state.last_on()
            && today > last_on + Days::new(MAX_STEP_DAYS)
        {
            return Err(last_on);
        }
        state.see(today);
        self.publish(&state);
        Ok(state.seen_on.map_or(today, |seen_on| seen_on.min(today)))
    }

    /// Believes the day of a clock that a person has confirmed.
    pub fn confirm_day(&self, today: NaiveDate) {
        let mut state = self.lock();
        (state.seen_on, state.doubted) = (Some(today), None);
        self.publish(&state);
    }

    /// Believes a clock that a person has confirmed: `received_at` goes on from here, also if it was later already.
    pub fn confirm(&self, now: DateTime<Utc>) {
        let now_us = now.timestamp_micros();
        let steady = self.steady();
        let mut state = self.lock();
        if state.is_behind(now_us) {
            state.newest_us = Some(now_us);
        }
        (state.seen_on, state.doubted) = (Some(now.date_naive()), None);
        (state.anchor, state.jump) = (
            Some(Anchor {
                wall_us: now_us,
                steady: steady.measured(),
            }),
            None,
        );
        self.publish(&state);
    }

    /// Whether the clock is behind the newest event, so that confirming it takes `received_at` back.
    ///
    /// # Errors
    /// [`Error::Clock`] if no clock can be right that says so.
    pub fn check_confirmation(&self, now: DateTime<Utc>) -> Result<bool> {
        let now_us = now.timestamp_micros();
        if now_us < EARLIEST_US {
            return Err(never(now_us));
        }
        Ok(self.lock().is_behind(now_us))
    }

    /// Writes what is known into the facts of a manifest.
    pub fn save(&self, facts: &mut Option<ClockFacts>, expiry: &mut ExpiryFacts) {
        let state = self.lock();
        if let Some(newest_us) = state.newest_us {
            *facts = Some(ClockFacts {
                newest_us,
                doubted: state.doubted,
            });
            expiry.looked_on = state.seen_on;
        }
    }

    fn look(&self, state: &mut State, now: DateTime<Utc>) -> Result<i64> {
        let now_us = now.timestamp_micros();
        let looked = state.look(now_us, self.steady(), Steady::measured);
        self.publish(state);
        match &looked {
            Err(error) if !state.is_stopped => {
                state.is_stopped = true;
                error!("Nothing is accepted: {error}");
            }
            Ok(_) if state.is_stopped => {
                state.is_stopped = false;
                info!("The clock is believed again; events are accepted");
            }
            _ => {}
        }
        looked
    }

    fn publish(&self, state: &State) {
        let until_us = state.seen_on.map_or(i64::MAX, |seen_on| {
            (i64::from(seen_on.to_epoch_days()) + 1).saturating_mul(DAY_US)
        });
        self.ids_until_us.store(until_us, Ordering::Relaxed);
    }

    fn steady(&self) -> Steady {
        Steady {
            awake: self.started.elapsed(),
            suspended: None,
        }
    }

    fn lock(&self) -> Guard<'_, State> {
        self.state.lock()
    }
}

impl State {
    /// What is believed when the wall clock and the steady clock say this. `measured` finds out how long the machine was
    /// suspended, which takes longer.
    fn look(
        &mut self,
        wall_us: i64,
        steady: Steady,
        measured: impl FnOnce(Steady) -> Steady,
    ) -> Result<i64> {
        self.check(wall_us)?;
        let believed_us = self.believe(wall_us, steady, measured);
        match self.newest_us {
            Some(_) => self.see(date(day_of(believed_us))),
            // There is nothing yet that a wrong clock could harm.
            None => (self.seen_on, self.doubted) = (Some(date(day_of(believed_us))), None),
        }
        Ok(believed_us)
    }

    /// Whether a clock can be believed that says this.
    fn check(&self, wall_us: i64) -> Result<()> {
        if wall_us < EARLIEST_US {
            return Err(never(wall_us));
        }
        let Some(newest_us) = self.newest_us else {
            return Ok(());
        };
        let last_us = self.last_on().map_or(newest_us, |last_on| {
            newest_us.max(i64::from(last_on.to_epoch_days()).saturating_mul(DAY_US))
        });
        let way = if self.is_behind(wall_us) {
            "more than an hour later"
        } else if wall_us > last_us.saturating_add(MAX_STEP_DAYS as i64 * DAY_US) {
            "more than 30 days earlier"
        } else {
            return Ok(());
        };
        let day = date(day_of(wall_us));
        let seen = match last_us > newest_us {
            true => format!(
                " (and the clock was last seen on {})",
                date(day_of(last_us))
            ),
            false => String::new(),
        };
        Err(Error::Clock(format!(
            "the clock says {}, and the newest event was received at {}{seen}, {way}; events are accepted when the clock is \
             right again; if it is right now, confirm it: POST /api/analytics/clock?confirm={day} with the dashboard key, or, \
             while no server runs, `echopilot expire --confirm-date {day}`",
            instant(wall_us),
            instant(newest_us),
        )))
    }

    fn is_behind(&self, wall_us: i64) -> bool {
        self.newest_us
            .is_some_and(|newest_us| wall_us < newest_us.saturating_sub(MAX_BEHIND_US))
    }

    fn believe(
        &mut self,
        wall_us: i64,
        steady: Steady,
        measured: impl FnOnce(Steady) -> Steady,
    ) -> i64 {
        let awake_us = micros(steady.awake);
        let Some(anchor) = self.anchor.filter(|_| self.newest_us.is_some()) else {
            let steady = measured(steady);
            (self.anchor, self.jump) = (Some(Anchor { wall_us, steady }), None);
            return wall_us;
        };
        let expected_us = anchor.wall_us + micros(steady.awake.saturating_sub(anchor.steady.awake));
        let is_near = |us: i64| (wall_us - us).abs() <= MAX_STEP_US;
        let mut known = anchor.steady.suspended;
        if !is_near(expected_us) {
            let now = measured(steady).suspended;
            let slept = now.zip(known).map(|(now, known)| now.saturating_sub(known));
            if slept.is_some_and(|slept| is_near(expected_us + micros(slept))) {
                known = now;
            } else if !self.has_settled(wall_us, awake_us, steady.awake, expected_us) {
                return expected_us;
            }
        }
        if self.jump.take().is_some() {
            info!("The clock is believed from here on: {}", instant(wall_us));
        }
        let steady = Steady {
            suspended: known,
            ..steady
        };
        self.anchor = Some(Anchor { wall_us, steady });
        wall_us
    }

    /// Whether a jump of the clock has lasted.
    fn has_settled(
        &mut self,
        wall_us: i64,
        awake_us: i64,
        awake: Duration,
        expected_us: i64,
    ) -> bool {
        let offset_us = wall_us - awake_us;
        let is_same = |jump: &Jump| (jump.offset_us - offset_us).abs() <= MAX_STEP_US;
        match self.jump.filter(is_same) {
            Some(jump) => awake.saturating_sub(jump.since) >= SETTLE,
            None => {
                warn!(
                    "The clock jumped from {} to {}; it is believed when that has lasted {} minutes",
                    instant(expected_us),
                    instant(wall_us),
                    SETTLE.as_secs() / 60
                );
                self.jump = Some(Jump {
                    offset_us,
                    since: awake,
                });
                false
            }
        }
    }

    fn note(&mut self, received_at_us: i64) {
        if self
            .newest_us
            .is_none_or(|newest_us| newest_us <= received_at_us)
        {
            self.newest_us = Some(received_at_us);
            self.see(date(day_of(received_at_us)));
        }
    }

    /// Notes a day on which the clock was seen.
    fn see(&mut self, day: NaiveDate) {
        let Some(seen_on) = self.seen_on else {
            self.seen_on = Some(day);
            return;
        };
        if day <= seen_on + Days::new(1) {
            // A clock that is back shows that the gap was none.
            self.doubted = None;
            self.seen_on = Some(seen_on.max(day));
            return;
        }
        if self
            .last_on()
            .is_some_and(|last_on| day > last_on + Days::new(MAX_STEP_DAYS))
        {
            return;
        }
        match &mut self.doubted {
            Some(doubted) if day >= doubted.first_on + Days::new(DOUBT_DAYS) => {
                (self.seen_on, self.doubted) = (Some(day), None);
            }
            Some(doubted) if day >= doubted.first_on => doubted.last_on = doubted.last_on.max(day),
            doubted => {
                *doubted = Some(Doubted {
                    first_on: day,
                    last_on: day,
                });
            }
        }
    }

    /// The last day on which the clock was seen, believed or not.
    fn last_on(&self) -> Option<NaiveDate> {
        let newest_on = self.newest_us.map(|us| date(day_of(us)));
        let doubted_on = self.doubted.map(|doubted| doubted.last_on);
        self.seen_on.max(doubted_on).max(newest_on)
    }
}

impl Steady {
    /// With the time for which the machine was suspended. Linux counts it in the time since its start; another system
    /// may not say it, and then its sleep is a jump.
    fn measured(self) -> Self {
        let uptime = std::fs::read_to_string("/proc/uptime").ok();
        let since_start = uptime
            .and_then(|text| text.split_ascii_whitespace().next()?.parse().ok())
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        // Only differences of it matter.
        Self {
            suspended: since_start.map(|since_start| since_start.saturating_sub(self.awake)),
            ..self
        }
    }
}

fn never(wall_us: i64) -> Error {
    Error::Clock(format!(
        "the clock says {}; it was never set; events are accepted when it is right",
        instant(wall_us)
    ))
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn instant(us: i64) -> String {
    DateTime::from_timestamp_micros(us)
        .unwrap_or_default()
        .to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_US: i64 = 60 * 1_000_000;

    fn us(text: &str) -> i64 {
        let instant: DateTime<Utc> = text.parse().expect("an instant");
        instant.timestamp_micros()
    }

    fn day(text: &str) -> NaiveDate {
        crate::window::parse_day(text).expect("a day")
    }

    /// A running process whose clocks are moved by hand.
    struct Running {
        state: State,
        wall_us: i64,
        steady: Steady,
    }

    impl Running {
        /// With an event now.
        fn at(now: &str) -> Self {
            let mut running = Self {
                state: State::default(),
                wall_us: us(now),
                steady: Steady {
                    awake: Duration::ZERO,
                    suspended: Some(Duration::ZERO),
                },
            };
            running.receive().expect("an empty store");
            running
        }

        fn receive(&mut self) -> Result<i64> {
            let believed = self
                .state
                .look(self.wall_us, self.steady, |steady| steady)?;
            let at_us = self
                .state
                .newest_us
                .map_or(believed, |newest| newest.max(believed));
            self.state.note(at_us);
            Ok(at_us)
        }

        fn pass(&mut self, us: i64) {
            self.wall_us += us;
            self.steady.awake += Duration::from_micros(us.unsigned_abs());
        }

        fn sleep(&mut self, us: i64) {
            self.wall_us += us;
            let suspended = self.steady.suspended.get_or_insert_default();
            *suspended += Duration::from_micros(us.unsigned_abs());
        }
    }

    #[test]
    fn a_jump_of_a_moment_leaves_no_trace() {
        for jump_us in [8 * DAY_US, 2 * HOUR_US, 29 * DAY_US] {
            let mut running = Running::at("2026-11-26T12:00:00Z");
            running.pass(MINUTE_US);
            running.wall_us += jump_us;
            assert_eq!(running.receive().ok(), Some(us("2026-11-26T12:01:00Z")));
            running.pass(5 * MINUTE_US);
            assert_eq!(running.receive().ok(), Some(us("2026-11-26T12:06:00Z")));
            running.wall_us -= jump_us;
            running.pass(MINUTE_US);
            assert_eq!(running.receive().ok(), Some(us("2026-11-26T12:07:00Z")));
            assert_eq!(running.state.seen_on, Some(day("2026-11-26")));
            assert_eq!(running.state.doubted, None);
        }
    }

    #[test]
    fn a_jump_that_lasts_ten_minutes_is_believed_but_expires_nothing_for_two_days() {
        let mut running = Running::at("2026-11-26T12:00:00Z");
        running.wall_us += 8 * DAY_US;
        assert_eq!(running.receive().ok(), Some(us("2026-11-26T12:00:00Z")));
        running.pass(10 * MINUTE_US);
        assert_eq!(running.receive().ok(), Some(us("2026-12-04T12:10:00Z")));
        assert_eq!(running.state.seen_on, Some(day("2026-11-26")));
        running.pass(DAY_US);
        running.receive().expect("a believed clock");
        assert_eq!(running.state.seen_on, Some(day("2026-11-26")));
        running.pass(DAY_US);
        running.receive().expect("a believed clock");
        assert_eq!(running.state.seen_on, Some(day("2026-12-06")));
    }

    #[test]
    fn a_clock_outside_the_limits_stops_acceptance_and_heals() {
        let start = "2026-11-26T12:00:00Z";
        for (wrong, is_accepted) in [
            ("1970-01-02T00:00:00Z", false),
            ("2019-12-31T00:00:00Z", false),
            ("2026-11-25T12:00:00Z", false),
            ("2026-11-26T10:59:59Z", false),
            ("2026-11-26T11:00:01Z", true),
            ("2026-12-26T11:00:00Z", true),
            ("2026-12-27T00:00:00Z", false),
            ("2099-01-01T00:00:00Z", false),
        ] {
            let mut running = Running::at(start);
            running.wall_us = us(wrong);
            match running.receive() {
                Ok(_) => assert!(is_accepted, "{wrong}"),
                Err(Error::Clock(message)) => {
                    assert!(
                        !is_accepted && message.contains(wrong),
                        "{wrong}: {message}"
                    );
                    assert!(message.contains("the clock"), "{message}");
                }
                Err(error) => panic!("{error}"),
            }
            running.wall_us = us(start);
            running.pass(MINUTE_US);
            assert_eq!(
                running.receive().ok(),
                Some(us("2026-11-26T12:01:00Z")),
                "{wrong}"
            );
            assert_eq!(running.state.seen_on, Some(day("2026-11-26")), "{wrong}");
        }
    }

    #[test]
    fn a_step_back_of_less_than_an_hour_keeps_the_order() {
        let mut running = Running::at("2026-11-26T12:00:00Z");
        running.wall_us -= 50 * MINUTE_US;
        for _ in 0..4 {
            running.pass(10 * MINUTE_US);
            assert_eq!(running.receive().ok(), Some(us("2026-11-26T12:00:00Z")));
        }
        running.pass(20 * MINUTE_US);
        assert_eq!(running.receive().ok(), Some(us("2026-11-26T12:10:00Z")));
    }

    #[test]
    fn a_clock_that_goes_back_while_nothing_comes_in_is_not_believed_at_once() {
        let mut running = Running::at("2026-11-26T12:00:00Z");
        running.pass(3 * DAY_US);
        running
            .state
            .look(running.wall_us, running.steady, |steady| steady)
            .expect("a right clock");
        running.wall_us -= DAY_US;
        assert_eq!(running.receive().ok(), Some(us("2026-11-29T12:00:00Z")));
    }

    #[test]
    fn a_machine_that_slept_has_the_right_time_at_once() {
        let mut running = Running::at("2026-11-26T12:00:00Z");
        running.sleep(9 * HOUR_US);
        assert_eq!(running.receive().ok(), Some(us("2026-11-26T21:00:00Z")));
        running.sleep(20 * DAY_US);
        assert_eq!(running.receive().ok(), Some(us("2026-12-16T21:00:00Z")));
        // A jump is none less for a sleep long ago.
        running.wall_us += 8 * DAY_US;
        assert_eq!(running.receive().ok(), Some(us("2026-12-16T21:00:00Z")));
    }

    #[test]
    fn without_events_the_last_believed_day_follows_the_clock_day_by_day() {
        let mut state = Running::at("2026-11-26T12:00:00Z").state;
        for days in 1..=400 {
            state.see(day("2026-11-26") + Days::new(days));
            assert_eq!(state.seen_on, Some(day("2026-11-26") + Days::new(days)));
        }
        state
            .check(us("2027-12-30T00:00:00Z"))
            .expect("a server that ran all year");
    }

    #[test]
    fn a_gap_is_believed_two_days_later_however_seldom_the_clock_is_seen() {
        for step in [2, 7, 25, 30] {
            let mut state = Running::at("2026-11-26T12:00:00Z").state;
            let at = |steps: u64| day("2026-11-26") + Days::new(step * steps);
            for _ in 0..5 {
                state.see(at(1));
                assert_eq!(state.seen_on, Some(at(0)), "every {step} days");
            }
            state.see(at(2));
            assert_eq!(state.seen_on, Some(at(2)), "every {step} days");
        }
        // Back before the gap, it begins anew.
        let mut state = Running::at("2026-11-26T12:00:00Z").state;
        for seen in [
            "2026-12-04",
            "2026-11-26",
            "2026-12-07",
            "2099-01-01",
            "2026-12-08",
        ] {
            state.see(day(seen));
            assert_eq!(state.seen_on, Some(day("2026-11-26")), "{seen}");
        }
        state.see(day("2026-12-09"));
        assert_eq!(state.seen_on, Some(day("2026-12-09")));
    }

    #[test]
    fn a_mark_of_an_earlier_version_is_corrected_and_one_of_this_version_is_kept() {
        let newest_us = us("2026-11-22T12:00:00Z");
        let expiry = |looked_on| ExpiryFacts {
            looked_on: Some(day(looked_on)),
            ..ExpiryFacts::default()
        };
        let seen_on = |clock: TrustedClock| clock.lock().seen_on;
        for (mark, expected) in [
            ("2099-06-01", "2026-11-22"),
            ("2026-11-24", "2026-11-22"),
            ("2026-11-23", "2026-11-23"),
        ] {
            let clock = TrustedClock::new(None, expiry(mark), Some(newest_us));
            assert_eq!(seen_on(clock), Some(day(expected)), "{mark}");
        }
        let facts = ClockFacts {
            newest_us,
            doubted: None,
        };
        let clock = TrustedClock::new(Some(facts), expiry("2027-06-01"), Some(newest_us));
        assert_eq!(seen_on(clock), Some(day("2027-06-01")));
    }

    #[test]
    fn a_confirmed_clock_is_believed_ahead_and_behind() {
        for now in ["2026-11-20T12:00:00Z", "2027-11-20T12:00:00Z"] {
            let clock = TrustedClock::new(
                None,
                ExpiryFacts::default(),
                Some(us("2026-11-26T12:00:00Z")),
            );
            let now: DateTime<Utc> = now.parse().expect("an instant");
            assert!(matches!(clock.receive(now), Err(Error::Clock(_))), "{now}");
            clock.confirm(now);
            let received = clock.receive(now).expect("it is confirmed");
            assert_eq!(received.at_us, now.timestamp_micros());
            assert_eq!(clock.day_of_expiry(now.date_naive()), Ok(now.date_naive()));
        }
    }
}
