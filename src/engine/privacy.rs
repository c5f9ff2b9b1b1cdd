//! Access to the data of a user, and its erasure.

use std::time::Instant;

use chrono::{DateTime, SecondsFormat, Utc};

use super::{Engine, EraseAnswer};
use crate::error::{Error, ErrorCode, Result};
use crate::progress::Progress;
use crate::store::ErasureLimit;

/// Most users that one request erases.
pub const MAX_ERASED_USERS: usize = 10_000;

impl Engine {
    /// Passes everything that is stored of a user to `sink` in pieces, as NDJSON.
    ///
    /// # Errors
    /// As [`Store::ids_of`](crate::store::Store::ids_of) and
    /// [`Store::user_events`](crate::store::Store::user_events).
    pub fn user_events(&self, user: &str, sink: impl FnMut(Vec<u8>) -> Result<()>) -> Result<()> {
        self.store.user_events(&self.store.ids_of(user)?, sink)
    }

    /// Erases users. When this returns, nothing of theirs is in the data folder, and their later
    /// events are ignored. If their events are a large share of all events, `confirmed` must be the
    /// number of them.
    ///
    /// # Errors
    /// `bad_users` for no or too many users, as [`Store::ids_of`](crate::store::Store::ids_of) and
    /// [`Store::check_erasure`](crate::store::Store::check_erasure), with nothing changed; and as
    /// [`Store::erase`](crate::store::Store::erase), after which the erasure continues in the
    /// background.
    pub fn erase(
        &self,
        users: &[String],
        confirmed: Option<u64>,
        now: DateTime<Utc>,
    ) -> Result<EraseAnswer> {
        self.erase_with(users, confirmed, now, &Progress::default())
    }

    /// The same, with its progress in users. It can be cancelled until it is recorded.
    ///
    /// # Errors
    /// As [`Engine::erase`].
    pub fn erase_with(
        &self,
        users: &[String],
        confirmed: Option<u64>,
        now: DateTime<Utc>,
        progress: &Progress,
    ) -> Result<EraseAnswer> {
        if users.is_empty() || users.len() > MAX_ERASED_USERS || users.iter().any(String::is_empty)
        {
            return Err(Error::bad_input(
                ErrorCode::BadUsers,
                format!(
                    "{} ids; allowed are 1 to {MAX_ERASED_USERS}, none of them empty",
                    users.len()
                ),
            ));
        }
        let ids: Vec<Vec<String>> = users
            .iter()
            .map(|user| self.store.ids_of(user))
            .collect::<Result<_>>()?;
        let ids = ids.concat();
        let limit = ErasureLimit {
            percent: self.config.limit_erasure_percent,
            confirmed,
        };
        self.store.check_erasure(&ids, limit)?;
        let started = Instant::now();
        // So that it is known which events each line was computed from, and the erasure changes
        // them.
        self.correct_rollups(now);
        progress.set_total(users.len() as u64);
        progress.commit()?;
        let mut cohorts = 0;
        self.change_cohorts(|all| {
            cohorts = all.forget(&ids);
            Ok(())
        })?;
        let mut exports = 0;
        let mut erased = self.store.erase(&ids, |ids| {
            exports = self.refresh_exports(ids)?;
            Ok(())
        })?;
        self.correct_rollups(now);
        self.monitoring().erasure.observe_time(started.elapsed());
        erased.users = users.len();
        progress.set_done(users.len() as u64);
        Ok(EraseAnswer {
            ok: true,
            asked_at: now.to_rfc3339_opts(SecondsFormat::Secs, true),
            erased,
            cohorts,
            exports,
        })
    }

    /// Completes erasures that were interrupted.
    ///
    /// # Errors
    /// As [`Store::erase`](crate::store::Store::erase).
    pub fn finish_erasures(&self, now: DateTime<Utc>) -> Result<()> {
        let ended = self
            .store
            .finish_erasures(|ids| self.refresh_exports(ids).map(drop));
        if let Some(erased) = ended? {
            self.record_finished_erasure(erased.users, erased.events, now);
        }
        Ok(())
    }
}
