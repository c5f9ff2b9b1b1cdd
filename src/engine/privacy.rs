//! Access to the data of a user, and its erasure.

use std::collections::{BTreeSet, HashSet};
use std::time::Instant;

use chrono::{DateTime, Utc};

use super::{Engine, EraseAnswer};
use crate::error::{Error, ErrorCode, Result};
use crate::progress::Progress;
use crate::store::ErasureLimit;
use crate::window::utc_string;

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

    /// Erases users. When this returns, nothing of theirs is in the data folder, and events that
    /// happened before are ignored. If their events are a large share of all events, `confirmed`
    /// must be the number of them.
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
        self.check_takes_events()?;
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
        let ids = self.all_ids_of(users)?;
        let limit = ErasureLimit {
            percent: self.config.limit_erasure_percent,
            confirmed,
        };
        self.store.check_erasure(&ids, limit)?;
        progress.set_total(users.len() as u64);
        progress.commit()?;
        let recorded = self.record_erasure(&ids)?;
        let mut receipt = self.erase_here(users, now)?;
        drop(recorded);
        receipt.published = self.publish_erasure();
        progress.set_done(users.len() as u64);
        Ok(receipt)
    }

    /// Erases users in the data folder.
    ///
    /// # Errors
    /// As [`Store::ids_of`](crate::store::Store::ids_of) and
    /// [`Store::erase`](crate::store::Store::erase).
    pub(super) fn erase_here(&self, users: &[String], now: DateTime<Utc>) -> Result<EraseAnswer> {
        let ids = self.all_ids_of(users)?;
        let named = users.iter().flat_map(|user| self.store.stored_ids(user));
        let named: HashSet<String> = named.collect();
        let aliases = ids.iter().filter(|id| !named.contains(*id)).count();
        let started = Instant::now();
        // So that it is known which events each line was computed from, and the erasure changes
        // them.
        self.correct_rollups(now);
        let mut cohorts = 0;
        self.change_cohorts(|all| {
            cohorts = all.forget(&ids);
            Ok(())
        })?;
        let named: HashSet<&str> = users.iter().chain(&ids).map(String::as_str).collect();
        let reports = self.forget_in_reports(&named)?;
        let alerts = self.forget_in_alerts(&named)?;
        let mut exports = 0;
        let mut erased = self.store.erase(&ids, now, |ids| {
            exports = self.refresh_exports(ids)?;
            Ok(())
        })?;
        self.correct_rollups(now);
        self.monitoring().erasure.observe_time(started.elapsed());
        erased.users = users.len();
        erased.aliases = aliases;
        Ok(EraseAnswer {
            ok: true,
            asked_at: utc_string(now),
            erased,
            cohorts,
            reports,
            alerts,
            exports,
            published: None,
        })
    }

    /// All ids of some users, each once: those by which they are stored, and their aliases.
    ///
    /// # Errors
    /// As [`Store::ids_of`](crate::store::Store::ids_of).
    pub(super) fn all_ids_of(&self, users: &[String]) -> Result<Vec<String>> {
        let mut all = BTreeSet::new();
        for user in users {
            all.extend(self.store.ids_of(user)?);
        }
        Ok(all.into_iter().collect())
    }

    /// Completes erasures that were interrupted.
    ///
    /// # Errors
    /// As [`Store::erase`](crate::store::Store::erase).
    pub fn finish_erasures(&self, now: DateTime<Utc>) -> Result<()> {
        let ended = self
            .store
            .finish_erasures(now, |ids| self.refresh_exports(ids).map(drop));
        if let Some(erased) = ended? {
            self.request_publication();
            self.record_finished_erasure(erased.users, erased.events, now);
        }
        Ok(())
    }
}
