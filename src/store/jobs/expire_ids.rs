//! Expiry of ids: a user whose last event and last daily state are gone leaves the dictionary.
//!
//! The line of the user's code becomes `null`, as in an erasure, and the manifest that names the
//! new file is the commit: a crash leaves the dictionary as it was or without the id, and the next
//! expiry searches again. The code is not given to another user. A user who comes back after a
//! restart gets a new code; one who comes back before it still has the old code in memory, and gets
//! the line back with the commit that stores the first event.

use std::collections::BTreeMap;

use roaring::RoaringBitmap;
use tracing::{info, warn};

use crate::daily::{DailyState, Day};
use crate::error::{Error, Result};
use crate::links::Links;
use crate::schema;
use crate::store::Store;
use crate::store::files::dictionary::{self, DictionaryMeta};
use crate::store::files::states::StateFile;
use crate::store::lock::Guard;
use crate::store::version::{ALWAYS_US, Version};

/// Ids that left the dictionary since the start, also by an erasure.
#[derive(Default)]
pub(super) struct ExpiredIds {
    /// Codes whose lines are gone, and which still have their ids in memory.
    numbers: RoaringBitmap,
    /// True once the whole dictionary was searched.
    has_searched: bool,
}

/// The codes below `users` that are not in use.
fn plan(users: u32, live: &RoaringBitmap) -> RoaringBitmap {
    let mut gone = RoaringBitmap::new();
    gone.insert_range(0..users);
    gone - live
}

impl Store {
    /// Removes from the dictionary the ids of users of whom nothing is left, if states were removed
    /// or it is the first time since the start. Returns how many.
    ///
    /// # Errors
    /// If a file cannot be written; then it is tried again.
    pub(in crate::store) fn expire_ids(&self, removed_states: usize) -> Result<usize> {
        if removed_states == 0 && self.expired_ids().has_searched {
            return Ok(0);
        }
        let version = self.versions.version();
        let mut live = RoaringBitmap::new();
        let read = version
            .all_states()
            .try_for_each(|state| self.add_users(state, &mut live));
        match read {
            Ok(()) => {}
            // Its users are unknown.
            Err(error @ Error::Damaged { .. }) => {
                warn!("No id is removed from the dictionary: {error}");
                self.expired_ids().has_searched = true;
                return Ok(0);
            }
            Err(error) => return Err(error),
        }
        let mut transaction = self.begin()?;
        self.add_users_since(&version, &mut live)?;
        drop(version);
        let dictionary = transaction.base().dictionary;
        let known = &transaction.base().links.links;
        let mut links = Links::clone(known);
        links.expire(&mut live);
        if links != **known {
            transaction.next.sequence += 1;
            transaction.write_links(links)?;
        }
        let gone = plan(dictionary.users, &live);
        let (meta, forgotten) = if gone.is_empty() {
            (dictionary, 0)
        } else {
            dictionary::forget(&self.folder, dictionary, &gone)?
        };
        if forgotten == 0 {
            self.expired_ids().has_searched = true;
            // A deletion that failed is tried again.
            dictionary::remove_others(&self.folder, dictionary)?;
            return Ok(0);
        }
        transaction.next.dictionary = meta;
        let committed = transaction.commit(|_| {})?;
        let mut expired = self.expired_ids();
        expired.numbers |= &gone;
        expired.has_searched = true;
        drop(expired);
        self.names().users.forget(&gone);
        info!(
            "Removed the ids of {forgotten} users from the dictionary: nothing of theirs is left"
        );
        committed.removed?;
        Ok(forgotten)
    }

    /// Adds the users of states that were written since, and of events that are not sealed. The
    /// user of an event in the queue gets the line back when the event is sealed.
    fn add_users_since(&self, before: &Version, live: &mut RoaringBitmap) -> Result<()> {
        let now = self.versions.snapshot(&ALWAYS_US)?;
        let before = before.state_paths();
        for state in now.version.all_states() {
            // The name of a state is never used twice.
            if !before.contains(state.meta.path.as_str()) {
                self.add_users(state, live)?;
            }
        }
        for chunk in now.tail {
            let users = chunk.frame.column(schema::USER_ID)?.to_physical_repr();
            live.extend(users.u32()?.iter().flatten());
            let said = chunk.statements.iter();
            live.extend(
                said.flat_map(|said| [Some(said.user), said.alias])
                    .flatten(),
            );
        }
        Ok(())
    }

    fn add_users(&self, state: &StateFile, live: &mut RoaringBitmap) -> Result<()> {
        *live |= state.activity_once(self.names())?.stored_users();
        Ok(())
    }

    /// Gives returning users, of states or of links, their lines back: the dictionary is written
    /// again with them, and holds once it is committed. Returns their codes.
    pub(super) fn restore_ids(
        &self,
        states: &BTreeMap<Day, DailyState>,
        linked: &RoaringBitmap,
        meta: &mut DictionaryMeta,
    ) -> Result<RoaringBitmap> {
        let mut returned = RoaringBitmap::new();
        let expired = self.expired_ids();
        if !expired.numbers.is_empty() {
            returned |= linked & &expired.numbers;
            for state in states.values() {
                returned |= state.activity.stored_users() & &expired.numbers;
            }
        }
        if !returned.is_empty() {
            *meta = dictionary::restore(&self.folder, *meta, &self.names().users, &returned)?;
        }
        Ok(returned)
    }

    /// Notes that the lines of returning users are committed.
    pub(super) fn note_restored(&self, returned: &RoaringBitmap) {
        if !returned.is_empty() {
            self.expired_ids().numbers -= returned;
            self.names().users.recall(returned);
        }
    }

    /// Notes codes whose lines are gone because their users were erased: a user who comes back gets
    /// the line back, too.
    pub(super) fn note_erased_ids(&self, codes: &RoaringBitmap) {
        self.expired_ids().numbers |= codes;
    }

    fn expired_ids(&self) -> Guard<'_, ExpiredIds> {
        self.jobs.expired_ids.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_without_state_or_event_expire() {
        let live = RoaringBitmap::from([0, 2, 7]);
        assert_eq!(plan(4, &live), RoaringBitmap::from([1, 3]));
        assert_eq!(plan(0, &live), RoaringBitmap::new());
    }
}
