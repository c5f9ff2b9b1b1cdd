//! Expiry of ids: a user whose last event and last daily state are gone leaves the dictionary.
//!
//! The line of the user's number becomes `null`, as in an erasure, and the manifest that names the new file is the commit: a
//! crash leaves the dictionary as it was or without the id, and the next expiry looks again. The number is not given to
//! another user. Who comes back after a restart gets a new number; who comes back before it still has the old one in
//! memory, and gets the line back with the commit that stores the first event.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};

use roaring::RoaringBitmap;
use tracing::{info, warn};

use super::Store;
use super::dictionary::{self, DictionaryFacts};
use super::states::StateFile;
use crate::daily::{DailyState, Day};
use crate::error::{Error, Result};
use crate::schema;

/// What this process knows of ids that left the dictionary.
#[derive(Default)]
pub(super) struct ExpiredIds {
    /// Numbers whose lines are gone, and which still have their ids in memory.
    numbers: RoaringBitmap,
    /// Whether the dictionary was looked through since the start.
    has_looked: bool,
}

impl Store {
    /// Takes the ids out of the dictionary of which nothing is left, if so many states were removed just now or it is the
    /// first time since the start. Returns how many.
    ///
    /// # Errors
    /// If a file cannot be written; then it is tried again.
    pub(super) fn forget_expired_ids(&self, removed_states: usize) -> Result<usize> {
        if removed_states == 0 && self.lock_expired_ids().has_looked {
            return Ok(0);
        }
        let states = self.view.lock().states.clone();
        let mut live = RoaringBitmap::new();
        let read = states
            .values()
            .try_for_each(|state| self.add_users(state, &mut live));
        match read {
            Ok(()) => {}
            // Who is in it is not known.
            Err(error @ Error::Damaged { .. }) => {
                warn!("No id is taken out of the dictionary: {error}");
                self.lock_expired_ids().has_looked = true;
                return Ok(0);
            }
            Err(error) => return Err(error),
        }
        let mut manifest = self.lock_manifest()?;
        self.add_users_since(&states, &mut live)?;
        let mut gone = RoaringBitmap::new();
        gone.insert_range(0..manifest.dictionary.users);
        gone -= live;
        let (facts, forgotten) = match gone.is_empty() {
            true => (manifest.dictionary, 0),
            false => dictionary::forget(&self.folder, manifest.dictionary, &gone)?,
        };
        if forgotten > 0 {
            let mut next = manifest.clone();
            next.dictionary = facts;
            self.commit(&manifest, &next)?;
            *manifest = next;
            self.lock_expired_ids().numbers |= &gone;
            self.names().users.forget(&gone);
            info!(
                "Took the ids of {forgotten} users out of the dictionary: nothing of theirs is left"
            );
        }
        self.lock_expired_ids().has_looked = true;
        dictionary::remove_others(&self.folder, manifest.dictionary)?;
        Ok(forgotten)
    }

    /// Adds the users of states that came since, and of events that are not sealed. One whose event is on its way gets the
    /// line back when it is sealed.
    fn add_users_since(
        &self,
        before: &BTreeMap<Day, Arc<StateFile>>,
        live: &mut RoaringBitmap,
    ) -> Result<()> {
        let (states, tail) = {
            let view = self.view.lock();
            (
                view.states.clone(),
                view.tail.snapshot(&(i64::MIN..i64::MAX))?,
            )
        };
        for (day, state) in &states {
            if before
                .get(day)
                .is_none_or(|before| before.facts != state.facts)
            {
                self.add_users(state, live)?;
            }
        }
        for chunk in tail {
            let users = chunk.frame.column(schema::USER_ID)?.to_physical_repr();
            live.extend(users.u32()?.iter().flatten());
        }
        Ok(())
    }

    fn add_users(&self, state: &StateFile, live: &mut RoaringBitmap) -> Result<()> {
        *live |= &state.activity_once(self.names())?.users;
        Ok(())
    }

    /// Gives users their lines back who have come back: the dictionary is written anew with them, and holds once the manifest
    /// says so. Returns who they are.
    pub(super) fn restore_ids(
        &self,
        left: &BTreeMap<Day, DailyState>,
        facts: &mut DictionaryFacts,
    ) -> Result<RoaringBitmap> {
        let mut returned = RoaringBitmap::new();
        let expired = self.lock_expired_ids();
        if !expired.numbers.is_empty() {
            for state in left.values() {
                returned |= &state.activity.users & &expired.numbers;
            }
            returned -= self.gate.ended();
        }
        if !returned.is_empty() {
            *facts = dictionary::restore(&self.folder, *facts, &self.names().users, &returned)?;
        }
        Ok(returned)
    }

    /// Says that users have their lines again.
    ///
    /// # Errors
    /// If the dictionary without them cannot be removed.
    pub(super) fn have_returned(
        &self,
        returned: &RoaringBitmap,
        facts: DictionaryFacts,
    ) -> Result<()> {
        if returned.is_empty() {
            return Ok(());
        }
        self.lock_expired_ids().numbers -= returned;
        self.names().users.recall(returned);
        dictionary::remove_others(&self.folder, facts)
    }

    fn lock_expired_ids(&self) -> MutexGuard<'_, ExpiredIds> {
        self.expired_ids
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
