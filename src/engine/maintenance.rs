//! Jobs on the store: import, seal, compaction, scrub, rebuild, expiry, and the confirmation of the
//! clock.

use chrono::{DateTime, Days, NaiveDate, Utc};
use tracing::{error, warn};

use super::{ClockAnswer, Engine, ExpireAnswer};
use crate::demo::{self, Demo};
use crate::error::{Error, ErrorCode, Result};
use crate::import::{self, Imported, Source};
use crate::progress::Progress;
use crate::rollup::RollupLog;
use crate::store::{
    Clock, CompactionScope, ExpiryPolicy, Rebuilt, SealUrgency, Sealed, StoreSize, is_displaced,
};
use crate::window::utc_string;

/// Bytes that one scrub verifies: a large lake takes some hours, at a negligible load of the disk.
const SCRUB_BYTES: u64 = 32 << 20;

/// Disk space of an event of the synthetic history in the log. 352 bytes on average.
const DEMO_LOG_BYTES: u64 = 400;
/// Most disk space of the log: it is sealed as it grows.
const DEMO_MAX_LOG_BYTES: u64 = 256 << 20;
/// Disk space of a sealed event: 42 bytes in segments and states, and what is derived from them.
const DEMO_SEALED_BYTES: u64 = 100;

impl Engine {
    /// Checks that events can be accepted when the clock says `now`.
    ///
    /// # Errors
    /// As [`Store::check_writable`](crate::store::Store::check_writable) and
    /// [`Store::trusted`](crate::store::Store::trusted).
    pub fn check_ready(&self, now: DateTime<Utc>) -> Result<()> {
        self.store.check_writable()?;
        self.store.trusted(now).map(drop)
    }

    /// Accepts the clock on the confirmation of a person, although it jumped.
    ///
    /// # Errors
    /// `bad_date` if the confirmed day is another one, and as
    /// [`Store::confirm_clock`](crate::store::Store::confirm_clock).
    pub fn confirm_clock(&self, date: NaiveDate, now: DateTime<Utc>) -> Result<ClockAnswer> {
        let today = now.date_naive();
        if date != today {
            let message = format!("the confirmed date is {date}; the clock says {today}");
            return Err(Error::bad_input(ErrorCode::BadDate, message));
        }
        self.store.confirm_clock(now)?;
        Ok(ClockAnswer {
            ok: true,
            clock: utc_string(now),
        })
    }

    /// Stores all events of the sources, with its progress in bytes.
    ///
    /// # Errors
    /// As [`import::import`].
    pub fn import(
        &self,
        sources: &[Source],
        options: &import::Options,
        now: DateTime<Utc>,
        progress: &Progress,
    ) -> Result<Imported> {
        self.check_takes_events()?;
        let plan = self.checked_plan();
        import::import(&self.store, &plan, sources, options, now, progress)
    }

    /// Fills an empty store with a synthetic history; `made` is called with the number of events so
    /// far.
    ///
    /// # Errors
    /// `not_empty` if there are events, and as [`demo::fill`].
    pub fn fill_demo(&self, demo: Demo, made: impl Fn(u64)) -> Result<u64> {
        self.check_takes_events()?;
        let size = self.size();
        if size.log_events > 0 || size.sealed_events > 0 {
            return Err(Error::bad_input(
                ErrorCode::NotEmpty,
                format!(
                    "{} holds events already; choose an empty folder with --data-dir",
                    self.store.folder().path().display()
                ),
            ));
        }
        // Half a history could not be completed later.
        let in_log = demo.events.saturating_mul(DEMO_LOG_BYTES);
        let sealed = demo.events.saturating_mul(DEMO_SEALED_BYTES);
        let needed = sealed.saturating_add(in_log.min(DEMO_MAX_LOG_BYTES));
        match self.store.folder().free_bytes() {
            Some(free) if free < needed => Err(Error::DiskFull),
            _ => demo::fill(&self.store, demo, made),
        }
    }

    /// Seals the event log now, and compacts.
    ///
    /// # Errors
    /// As [`Store::seal`](crate::store::Store::seal) and [`Engine::compact`].
    pub fn seal(&self, now: DateTime<Utc>) -> Result<Sealed> {
        self.seal_with(now, &Progress::default())
    }

    /// The same, with the progress of the compaction in days.
    ///
    /// # Errors
    /// As [`Engine::seal`], and if it is cancelled; then what is done stays so.
    pub fn seal_with(&self, now: DateTime<Utc>, progress: &Progress) -> Result<Sealed> {
        let sealed = self.store.seal()?;
        self.store
            .compact_with(now, CompactionScope::Full, progress)?;
        Ok(sealed)
    }

    /// Compacts small segments, and writes the columns of those that stay.
    ///
    /// # Errors
    /// As [`Store::compact`](crate::store::Store::compact).
    pub fn compact(&self, now: DateTime<Utc>, effort: CompactionScope) -> Result<()> {
        self.store.compact(now, effort)
    }

    /// Verifies the next part of the sealed files.
    ///
    /// # Errors
    /// As [`Store::scrub`](crate::store::Store::scrub).
    pub fn scrub(&self) -> Result<()> {
        self.store.scrub(SCRUB_BYTES)
    }

    /// Rebuilds all daily states from the segments, and makes those of reporting zones that were
    /// added.
    ///
    /// # Errors
    /// As [`Store::rebuild`](crate::store::Store::rebuild).
    pub fn rebuild(&self) -> Result<Rebuilt> {
        self.rebuild_with(&Progress::default())
    }

    /// The same, with its progress in days of UTC.
    ///
    /// # Errors
    /// As [`Engine::rebuild`], and if it is cancelled; then nothing is changed.
    pub fn rebuild_with(&self, progress: &Progress) -> Result<Rebuilt> {
        let rebuilt = self.store.rebuild(progress)?;
        self.store.build_zones()?;
        Ok(rebuilt)
    }

    /// Makes the daily states of reporting zones that were added.
    ///
    /// # Errors
    /// As [`Store::build_zones`](crate::store::Store::build_zones).
    pub fn build_zones(&self) -> Result<()> {
        self.store.build_zones()
    }

    /// Removes events, daily states and rollup lines beyond their retention periods.
    ///
    /// # Errors
    /// `clock_jump` if the clock cannot be trusted, and if a file cannot be written.
    pub fn expire(&self, today: NaiveDate, clock: Clock) -> Result<ExpireAnswer> {
        let retention = ExpiryPolicy {
            raw_days: self.config.raw_retention_days,
            state_days: self.config.rollup_retention_days,
        };
        let expired = self.store.expire(today, retention, clock)?;
        let _one = self.lock_rollup_log();
        let first_kept = expired.as_of - Days::new(u64::from(self.config.rollup_retention_days));
        // Before the first seal there is no earlier time that the clock could be compared with.
        let rollup_lines = match self.store.expiry().looked_on {
            None => 0,
            Some(_) => RollupLog::load(self.store.folder())?
                .remove_before(self.store.folder(), first_kept)?,
        };
        let first_event = expired.as_of - Days::new(u64::from(self.config.raw_retention_days));
        let held = self.expire_held(first_event, expired.as_of)?;
        Ok(ExpireAnswer {
            ok: true,
            held,
            expired,
            rollup_lines,
        })
    }

    /// Seals the log before a clean stop, so that the next start has nothing to read back. If that
    /// fails, the next start reads the log.
    pub fn close(&self) {
        if self.size().log_events > 0
            && let Err(error) = self.store.seal()
        {
            match &error {
                Error::Poisoned(reason) if is_displaced(reason) => error!(
                    "{} events are in no segment, and their log is not under its name; the next start finds them only if it \
                     is put back there before",
                    self.size().log_events
                ),
                _ => warn!("The log stays as it is and is read back at the next start: {error}"),
            }
        }
    }

    /// The urgency of the next seal; `None` if none is due.
    pub fn seal_urgency(&self) -> Option<SealUrgency> {
        self.store.seal_urgency()
    }

    /// The size of the store.
    pub fn size(&self) -> StoreSize {
        self.store.size()
    }
}
