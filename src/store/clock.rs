//! The clock that the store trusts: a wrong wall clock must not make it lose an event, count one
//! twice or expire one early.
//!
//! # When events are accepted
//! `received_at` never decreases: an event gets the time of the wall clock, or the newest
//! `received_at` so far if that is later. No event is accepted ([`Error::Clock`]) while the wall
//! clock is
//! - before 2020, as clocks are that were never set;
//! - more than an hour behind the newest `received_at`; a smaller difference is a step by a time
//!   server;
//! - more than 30 days ahead of the newest `received_at` and of the last day on which the store
//!   ran.
//!
//! Events are accepted again as soon as the clock is right. If the clock is right after all, for
//! example after two months without the server, a person confirms it ([`TrustedClock::confirm`]).
//! An empty store accepts every clock since 2020.
//!
//! # A clock that jumps while the process runs
//! A step of more than an hour, compared to the system's monotonic clock and the time for which the
//! machine was suspended, is trusted once it has lasted ten minutes. Until then the monotonic clock
//! counts, so that a short jump has no effect; events whose own `ts` agrees with the new time are
//! accepted as well. After a restart the clock is trusted within the limits above.
//!
//! # The last trusted day
//! Expiry and the deduplication of event ids are stricter, because dropped data never comes back.
//! They use the *last trusted day*, which follows the trusted time from one day to the next. A gap
//! of more than a day is trusted once the clock was seen two days after the first day behind the
//! gap: after a week without the server, data expires two days late, and a wrong clock that is
//! corrected within a day expires no data and forgets no id. The day is stored in the manifest, so
//! that it also advances without events, and is never after the trusted time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, Days, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

use super::lock::{Ordered, Rank};
use super::version::expiry::{ExpiryMeta, MAX_STEP_DAYS};
use crate::daily::{date, day_of};
use crate::error::{Error, Result};
use crate::window::{DAY_US, HOUR_US, utc_string};

/// 2020-01-01: a clock before it was never set.
const EARLIEST_US: i64 = 1_577_836_800_000_000;
/// The clock may be this far behind the newest event, in µs: more than a time server ever corrects
/// at once on a machine that is in use.
const MAX_BEHIND_US: i64 = HOUR_US;
/// The largest step, compared to the monotonic clock, that is trusted at once, in µs.
const MAX_STEP_US: i64 = HOUR_US;
/// A larger step is trusted once it has lasted this long: time for a time server or a person to
/// correct it.
const SETTLE: Duration = Duration::from_secs(600);
/// A time may be checked this long after it was read, for example by a job that read it at its
/// start.
const MAX_AGE: Duration = Duration::from_secs(1);
/// A gap is trusted this many days after the first day behind it: at least 24 hours.
const DOUBT_DAYS: u64 = 2;

/// Metadata of the clock in the manifest, in addition to [`ExpiryMeta::looked_on`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockMeta {
    /// The newest `received_at`, in µs. Events that were received before the clock was set back may
    /// have later ones.
    pub newest_us: i64,
    /// Days behind a gap that is not trusted yet.
    #[serde(default)]
    pub doubted: Option<Doubted>,
}

/// The first and last day on which the clock was seen behind a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubted {
    first_on: NaiveDate,
    last_on: NaiveDate,
}

/// The days of a manifest that are not trusted yet.
pub(super) fn doubted(meta: Option<ClockMeta>) -> Option<Doubted> {
    meta.and_then(|meta| meta.doubted)
}

/// The time of receipt of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// `received_at` of its events, in µs.
    pub at_us: i64,
    /// The latest time that it can be, in µs: later than `at_us` while a jump forward is not
    /// trusted.
    pub latest_us: i64,
}

/// The clock of a store, shared by ingest, expiry and health checks.
pub(super) struct TrustedClock {
    state: Ordered<State>,
    started: Instant,
    ids_until_us: Arc<AtomicI64>,
}

#[derive(Debug, Default)]
struct State {
    /// The newest `received_at`, in µs.
    newest_us: Option<i64>,
    /// The last trusted day.
    seen_on: Option<NaiveDate>,
    doubted: Option<Doubted>,
    /// The last trusted time.
    anchor: Option<Anchor>,
    jump: Option<Jump>,
    /// True after it was traced that no event is accepted.
    is_stopped: bool,
}

/// A trusted time of the wall clock, with the monotonic clock at that moment.
#[derive(Debug, Clone, Copy)]
struct Anchor {
    wall_us: i64,
    steady: Steady,
}

/// A jump that is not trusted yet.
#[derive(Debug, Clone, Copy)]
struct Jump {
    /// The wall clock minus the monotonic one, in µs.
    offset_us: i64,
    since: Duration,
}

/// Time since the start of the process, by the monotonic clock.
#[derive(Debug, Clone, Copy, Default)]
struct Steady {
    /// Time for which the machine was awake.
    awake: Duration,
    /// Time for which it was suspended; measured only when it matters.
    suspended: Option<Duration>,
}

impl TrustedClock {
    /// The clock of a store with this manifest; `newest_us` is the newest `received_at` of its
    /// segments.
    pub fn new(meta: Option<ClockMeta>, expiry: ExpiryMeta, newest_us: Option<i64>) -> Self {
        let (newest_us, seen_on) = match meta {
            Some(meta) => (Some(meta.newest_us), expiry.looked_on),
            // An earlier version stored the day of the wall clock, right or wrong.
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
                    doubted: meta.and_then(|meta| meta.doubted),
                    ..State::default()
                },
            ),
            started: Instant::now(),
            ids_until_us: Arc::new(AtomicI64::new(i64::MAX)),
        };
        clock.publish(&clock.state.lock());
        clock
    }

    /// The end of the last trusted day, in µs, by which event ids are forgotten.
    pub fn ids_until(&self) -> Arc<AtomicI64> {
        self.ids_until_us.clone()
    }

    /// The newest `received_at`, in µs.
    pub fn newest_us(&self) -> Option<i64> {
        self.state.lock().newest_us
    }

    /// Records the `received_at` of events that are stored or about to be.
    pub fn note(&self, received_at_us: impl Iterator<Item = i64>) {
        let mut state = self.state.lock();
        received_at_us.for_each(|received_at_us| state.note(received_at_us));
        self.publish(&state);
    }

    /// The time of receipt of a request that arrives now.
    ///
    /// # Errors
    /// [`Error::Clock`] while the clock is not trusted.
    pub fn receive(&self, now: DateTime<Utc>) -> Result<Received> {
        let mut state = self.state.lock();
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

    /// The trusted time.
    ///
    /// # Errors
    /// [`Error::Clock`] while the clock is not trusted.
    pub fn trusted(&self, now: DateTime<Utc>) -> Result<DateTime<Utc>> {
        let believed_us = self.look(&mut self.state.lock(), now)?;
        Ok(DateTime::from_timestamp_micros(believed_us).unwrap_or(now))
    }

    /// True if events are accepted with this time. Looking so does not count as having seen it.
    pub fn is_trusted(&self, now: DateTime<Utc>) -> bool {
        self.state.lock().check(now.timestamp_micros()).is_ok()
    }

    /// The last trusted day when the wall clock says `now`. Only days before it are over.
    pub fn last_trusted_day(&self, now: DateTime<Utc>) -> NaiveDate {
        let mut state = self.state.lock();
        // If the clock is not trusted the day stays as it is.
        let _ = self.look(&mut state, now);
        let today = now.date_naive();
        state.seen_on.map_or(today, |seen_on| seen_on.min(today))
    }

    /// The day by which data expires when the wall clock says that it is `today`.
    ///
    /// # Errors
    /// The last day on which the clock was seen, if `today` is too far ahead of it.
    pub fn day_of_expiry(&self, today: NaiveDate) -> Result<NaiveDate, NaiveDate> {
        let mut state = self.state.lock();
        if let Some(last_on) = state.last_on()
            && today > last_on + Days::new(MAX_STEP_DAYS)
        {
            return Err(last_on);
        }
        state.see(today);
        self.publish(&state);
        Ok(state.seen_on.map_or(today, |seen_on| seen_on.min(today)))
    }

    /// Trusts a day that a person has confirmed.
    pub fn confirm_day(&self, today: NaiveDate) {
        let mut state = self.state.lock();
        (state.seen_on, state.doubted) = (Some(today), None);
        self.publish(&state);
    }

    /// Trusts a clock that a person has confirmed: `received_at` continues from `now`, even if it
    /// was later already.
    pub fn confirm(&self, now: DateTime<Utc>) {
        let now_us = now.timestamp_micros();
        let steady = self.steady();
        let mut state = self.state.lock();
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

    /// True if the clock is behind the newest event, so that confirming it sets `received_at` back.
    ///
    /// # Errors
    /// [`Error::Clock`] if the clock was never set.
    pub fn check_confirmation(&self, now: DateTime<Utc>) -> Result<bool> {
        let now_us = now.timestamp_micros();
        if now_us < EARLIEST_US {
            return Err(never(now_us));
        }
        Ok(self.state.lock().is_behind(now_us))
    }

    /// Stores the state of the clock in the metadata of a manifest.
    pub fn save(&self, meta: &mut Option<ClockMeta>, expiry: &mut ExpiryMeta) {
        let state = self.state.lock();
        if let Some(newest_us) = state.newest_us {
            *meta = Some(ClockMeta {
                newest_us,
                doubted: state.doubted,
            });
            expiry.looked_on = state.seen_on;
        }
    }

    /// The trusted time, in µs. Traces when the clock begins and ends to be trusted.
    fn look(&self, state: &mut State, now: DateTime<Utc>) -> Result<i64> {
        let now_us = now.timestamp_micros();
        let looked = state.look(now_us, self.steady(), Steady::measured);
        self.publish(state);
        match &looked {
            Err(error) if !state.is_stopped => {
                state.is_stopped = true;
                error!("No events are accepted: {error}");
            }
            Ok(_) if state.is_stopped => {
                state.is_stopped = false;
                info!("The clock is trusted again; events are accepted");
            }
            _ => {}
        }
        looked
    }

    /// Makes the last trusted day known to the deduplication.
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
}

impl State {
    /// The trusted time by the wall clock and the monotonic clock. `measured` adds how long the
    /// machine was suspended, which takes longer to find out.
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
            // An empty store has no data that a wrong clock could harm.
            None => (self.seen_on, self.doubted) = (Some(date(day_of(believed_us))), None),
        }
        Ok(believed_us)
    }

    /// Checks that a wall clock with this time is plausible.
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
        let seen = if last_us > newest_us {
            let last_on = date(day_of(last_us));
            format!(" (and the clock was last seen on {last_on})")
        } else {
            String::new()
        };
        Err(Error::Clock(format!(
            "the clock says {}, and the newest event was received at {}{seen}, {way}; events are accepted when the clock is \
             right again; if it is right now, confirm it: POST /api/analytics/clock?confirm={day} with the dashboard key, or, \
             while no server runs, `echopilot expire --confirm-date {day}`",
            time_of(wall_us),
            time_of(newest_us),
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
        } else if self.has_just_jumped(steady.awake) {
            // It may have been read before the jump, so it does not show that the clock is back.
            return wall_us;
        }
        if self.jump.take().is_some() {
            info!("The clock is trusted again: {}", time_of(wall_us));
        }
        let steady = Steady {
            suspended: known,
            ..steady
        };
        self.anchor = Some(Anchor { wall_us, steady });
        wall_us
    }

    /// True if a jump was noticed less than [`MAX_AGE`] ago.
    fn has_just_jumped(&self, awake: Duration) -> bool {
        self.jump
            .is_some_and(|jump| awake.saturating_sub(jump.since) < MAX_AGE)
    }

    /// True if a jump of the clock has lasted long enough to be trusted.
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
                    "The clock jumped from {} to {}; it is trusted once that has lasted {} minutes",
                    time_of(expected_us),
                    time_of(wall_us),
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

    /// Records a `received_at`.
    fn note(&mut self, received_at_us: i64) {
        if self
            .newest_us
            .is_none_or(|newest_us| newest_us <= received_at_us)
        {
            self.newest_us = Some(received_at_us);
            self.see(date(day_of(received_at_us)));
        }
    }

    /// Records a day on which the clock was seen.
    fn see(&mut self, day: NaiveDate) {
        let Some(seen_on) = self.seen_on else {
            self.seen_on = Some(day);
            return;
        };
        if day <= seen_on + Days::new(1) {
            // The clock is back from behind the gap, which was wrong.
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

    /// The last day on which the clock was seen, trusted or not.
    fn last_on(&self) -> Option<NaiveDate> {
        let newest_on = self.newest_us.map(|us| date(day_of(us)));
        let doubted_on = self.doubted.map(|doubted| doubted.last_on);
        self.seen_on.max(doubted_on).max(newest_on)
    }
}

impl Steady {
    /// Adds the time for which the machine was suspended. Linux includes it in its uptime; on a
    /// system without that figure a suspended machine counts as a jump of its clock.
    fn measured(self) -> Self {
        let uptime = std::fs::read_to_string("/proc/uptime").ok();
        let since_start = uptime
            .and_then(|uptime| uptime.split_ascii_whitespace().next()?.parse().ok())
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        // The start of the machine and that of the process differ by a constant, which does not
        // matter: only differences are used.
        Self {
            suspended: since_start.map(|since_start| since_start.saturating_sub(self.awake)),
            ..self
        }
    }
}

/// The error for a clock that was never set.
fn never(wall_us: i64) -> Error {
    Error::Clock(format!(
        "the clock says {}; it was never set; events are accepted when it is right",
        time_of(wall_us)
    ))
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// A time, for messages.
fn time_of(us: i64) -> String {
    utc_string(DateTime::from_timestamp_micros(us).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_US: i64 = 60 * 1_000_000;

    fn us(string: &str) -> i64 {
        let time: DateTime<Utc> = string.parse().expect("a time");
        time.timestamp_micros()
    }

    fn day(string: &str) -> NaiveDate {
        crate::window::parse_day(string).expect("a day")
    }

    /// A running process whose clocks the test moves.
    struct Running {
        state: State,
        wall_us: i64,
        steady: Steady,
    }

    impl Running {
        /// A process that has just received an event.
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
            let trusted = self
                .state
                .look(self.wall_us, self.steady, |steady| steady)?;
            let at_us = self
                .state
                .newest_us
                .map_or(trusted, |newest| newest.max(trusted));
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
    fn a_short_jump_has_no_effect() {
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
    fn a_time_that_was_read_before_a_jump_does_not_end_it() {
        let mut running = Running::at("2026-11-26T12:00:00Z");
        let before = running.wall_us;
        running.wall_us += 8 * DAY_US;
        running.receive().expect("time goes on");
        // Another thread read the clock before the jump and checks that time now.
        let jumped = std::mem::replace(&mut running.wall_us, before);
        assert_eq!(running.receive().ok(), Some(before));
        running.wall_us = jumped;
        running.pass(10 * MINUTE_US);
        assert_eq!(running.receive().ok(), Some(us("2026-12-04T12:10:00Z")));
        // A clock that is back a second later ends the jump: the next one has to last as long.
        running.wall_us += 8 * DAY_US;
        running.receive().expect("time goes on");
        running.wall_us -= 8 * DAY_US;
        running.pass(MINUTE_US);
        assert_eq!(running.receive().ok(), Some(us("2026-12-04T12:11:00Z")));
        running.wall_us += 8 * DAY_US;
        running.pass(9 * MINUTE_US);
        assert_eq!(running.receive().ok(), Some(us("2026-12-04T12:20:00Z")));
    }

    #[test]
    fn a_jump_that_lasts_ten_minutes_is_trusted_but_expires_nothing_for_two_days() {
        let mut running = Running::at("2026-11-26T12:00:00Z");
        running.wall_us += 8 * DAY_US;
        assert_eq!(running.receive().ok(), Some(us("2026-11-26T12:00:00Z")));
        running.pass(10 * MINUTE_US);
        assert_eq!(running.receive().ok(), Some(us("2026-12-04T12:10:00Z")));
        assert_eq!(running.state.seen_on, Some(day("2026-11-26")));
        running.pass(DAY_US);
        running.receive().expect("a trusted clock");
        assert_eq!(running.state.seen_on, Some(day("2026-11-26")));
        running.pass(DAY_US);
        running.receive().expect("a trusted clock");
        assert_eq!(running.state.seen_on, Some(day("2026-12-06")));
    }

    #[test]
    fn events_are_accepted_only_while_the_clock_is_within_the_limits() {
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
    fn received_at_never_decreases_after_a_step_back_of_less_than_an_hour() {
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
    fn a_clock_that_goes_back_while_no_event_comes_is_not_trusted_at_once() {
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
    fn after_a_suspension_the_clock_is_trusted_at_once() {
        let mut running = Running::at("2026-11-26T12:00:00Z");
        running.sleep(9 * HOUR_US);
        assert_eq!(running.receive().ok(), Some(us("2026-11-26T21:00:00Z")));
        running.sleep(20 * DAY_US);
        assert_eq!(running.receive().ok(), Some(us("2026-12-16T21:00:00Z")));
        // A suspension long ago does not explain a jump now.
        running.wall_us += 8 * DAY_US;
        assert_eq!(running.receive().ok(), Some(us("2026-12-16T21:00:00Z")));
    }

    #[test]
    fn without_events_the_last_trusted_day_follows_the_clock_day_by_day() {
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
    fn a_gap_is_trusted_two_days_later_however_seldom_the_clock_is_seen() {
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
        // A day before the gap ends it; the next gap counts from its own first day.
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
    fn a_day_stored_by_an_earlier_version_is_corrected_and_one_of_this_version_is_kept() {
        let newest_us = us("2026-11-22T12:00:00Z");
        let expiry = |looked_on| ExpiryMeta {
            looked_on: Some(day(looked_on)),
            ..ExpiryMeta::default()
        };
        let seen_on = |clock: TrustedClock| clock.state.lock().seen_on;
        for (mark, expected) in [
            ("2099-06-01", "2026-11-22"),
            ("2026-11-24", "2026-11-22"),
            ("2026-11-23", "2026-11-23"),
        ] {
            let clock = TrustedClock::new(None, expiry(mark), Some(newest_us));
            assert_eq!(seen_on(clock), Some(day(expected)), "{mark}");
        }
        let meta = ClockMeta {
            newest_us,
            doubted: None,
        };
        let clock = TrustedClock::new(Some(meta), expiry("2027-06-01"), Some(newest_us));
        assert_eq!(seen_on(clock), Some(day("2027-06-01")));
    }

    #[test]
    fn a_confirmed_clock_is_trusted_ahead_and_behind() {
        for now in ["2026-11-20T12:00:00Z", "2027-11-20T12:00:00Z"] {
            let clock = TrustedClock::new(
                None,
                ExpiryMeta::default(),
                Some(us("2026-11-26T12:00:00Z")),
            );
            let now: DateTime<Utc> = now.parse().expect("a time");
            assert!(matches!(clock.receive(now), Err(Error::Clock(_))), "{now}");
            clock.confirm(now);
            let received = clock.receive(now).expect("it is confirmed");
            assert_eq!(received.at_us, now.timestamp_micros());
            assert_eq!(clock.day_of_expiry(now.date_naive()), Ok(now.date_naive()));
        }
    }
}
