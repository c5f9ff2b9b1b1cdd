//! Statements about ids by events other than identity calls: clients of other products may put two
//! ids of a user into every event. Such an event is followed by an identity call, but only if that
//! says something new.
//!
//! The sealed links have what was stated up to the last seal. What was stored since then is in a
//! set of limited size, which may be empty at any time: without an entry, an identity call is
//! stored once more, which changes nothing.

use std::sync::Arc;

use super::batch::BatchBuilder;
use crate::digest::{Digest, DigestMap};
use crate::event::Event;
use crate::links::{Links, Statement};
use crate::store::Store;
use crate::store::lock::Ordered;

/// Most statements that are kept after their events were stored: the users of some minutes, in less
/// than a megabyte.
const MAX_RECENT: usize = 20_000;

/// Times of statements, in µs, by the digest of user and alias.
pub(in crate::store) struct StatementTimes {
    times: DigestMap<i64>,
    limit: usize,
}

impl StatementTimes {
    /// No statements, and the most that are kept.
    pub fn with_limit(limit: usize) -> Self {
        Self {
            times: DigestMap::default(),
            limit,
        }
    }

    /// True if the same was stated for this time or an earlier one.
    pub fn has(&self, key: Digest, ts_us: i64) -> bool {
        self.times.get(&key).is_some_and(|&known| known <= ts_us)
    }

    /// Adds a statement. All others are forgotten if there are too many.
    pub fn add(&mut self, key: Digest, ts_us: i64) {
        if self.times.len() >= self.limit && !self.times.contains_key(&key) {
            self.times.clear();
        }
        let time = self.times.entry(key).or_insert(ts_us);
        *time = ts_us.min(*time);
    }

    /// Adds statements.
    pub fn extend(&mut self, others: &Self) {
        for (&key, &ts_us) in &others.times {
            self.add(key, ts_us);
        }
    }
}

/// The statements of stored events since a commit.
pub(in crate::store) struct RecentStatements {
    /// The number of the committed version.
    sequence: u64,
    times: StatementTimes,
}

impl Default for RecentStatements {
    fn default() -> Self {
        Self {
            sequence: 0,
            times: StatementTimes::with_limit(MAX_RECENT),
        }
    }
}

impl RecentStatements {
    /// Those since a version; none if there is a newer one. A seal, an erasure and the removal of
    /// a link make a new version, so that nothing is kept for longer than it is true.
    fn since(&mut self, sequence: u64) -> Option<&mut StatementTimes> {
        if sequence > self.sequence {
            self.sequence = sequence;
            self.times.times.clear();
        }
        (sequence == self.sequence).then_some(&mut self.times)
    }
}

/// The statements of a write batch, or of a part of an import.
pub struct Statements {
    sealed: Arc<Links>,
    recent: Arc<Ordered<RecentStatements>>,
    /// The number of the version of the sealed links.
    sequence: u64,
    times: StatementTimes,
}

impl Store {
    /// Statements of a new batch.
    pub fn statements(&self) -> Statements {
        let version = self.versions.version();
        Statements {
            sealed: version.links.links.clone(),
            recent: self.ingest.statements.clone(),
            sequence: version.sequence,
            times: StatementTimes::with_limit(usize::MAX),
        }
    }
}

/// Identity calls that say what is new in the events of a batch: of each pair of ids the one with
/// the least time, in whatever order they come.
#[derive(Default)]
pub struct Calls<'a> {
    places: DigestMap<usize>,
    calls: Vec<Call<'a>>,
}

/// An identity call to store.
pub struct Call<'a> {
    /// Its statement.
    pub key: Digest,
    /// The index of the event that it follows.
    pub index: usize,
    /// The call.
    pub event: Event<'a>,
}

impl<'a> Calls<'a> {
    /// Adds a call, whose statement is new.
    pub fn add(&mut self, call: Call<'a>) {
        let next = self.calls.len();
        let place = *self.places.entry(call.key).or_insert(next);
        match self.calls.get_mut(place) {
            Some(known) => *known = call,
            None => self.calls.push(call),
        }
    }
}

impl<'a> IntoIterator for Calls<'a> {
    type Item = Call<'a>;
    type IntoIter = std::vec::IntoIter<Call<'a>>;

    fn into_iter(self) -> Self::IntoIter {
        self.calls.into_iter()
    }
}

impl Statements {
    /// Adds the statement that an id is an alias of a user. Returns its digest if it is new: not
    /// stated for this time or an earlier one.
    pub fn add(
        &mut self,
        maker: &BatchBuilder,
        user: &str,
        alias: &str,
        ts_us: i64,
    ) -> Option<Digest> {
        // Without ids in memory.
        let key = maker.keys.digest_all([Some(user), Some(alias)]);
        let is_known = self.times.has(key, ts_us)
            || self.is_recent(key, ts_us)
            || !self.is_new(maker, user, alias, ts_us);
        if is_known {
            return None;
        }
        self.times.add(key, ts_us);
        Some(key)
    }

    /// The statements that were new.
    pub(in crate::store) fn times(&self) -> &StatementTimes {
        &self.times
    }

    /// Keeps the statements, whose events are durable now: before, a client that sends a batch
    /// again after a failure would find them known and not stored.
    pub fn keep(&self) {
        if let Some(recent) = self.recent.lock().since(self.sequence) {
            recent.extend(&self.times);
        }
    }

    fn is_recent(&self, key: Digest, ts_us: i64) -> bool {
        let mut recent = self.recent.lock();
        let recent = recent.since(self.sequence);
        recent.is_some_and(|recent| recent.has(key, ts_us))
    }

    /// True if the sealed links do not have a statement. One about an erased id never is new.
    fn is_new(&self, maker: &BatchBuilder, user: &str, alias: &str, ts_us: i64) -> bool {
        let stored = |id| maker.stored_id(id, ts_us);
        let (Some(user), Some(alias)) = (stored(user), stored(alias)) else {
            return false;
        };
        let users = &maker.names.users;
        let (Some(user), Some(alias)) = (users.find(&user), users.find(&alias)) else {
            return true;
        };
        let alias = Some(alias);
        !self.sealed.has(Statement { ts_us, user, alias })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dictionary::Dictionaries;
    use crate::digest::Digester;
    use crate::error::Result;
    use crate::store::erased::ErasedUsers;
    use crate::store::lock::Rank;

    fn maker() -> Result<BatchBuilder> {
        Ok(BatchBuilder {
            names: Dictionaries::new()?,
            keys: Digester::new(),
            gate: ErasedUsers::default(),
            pseudonyms: None,
        })
    }

    fn statements(
        sealed: &Links,
        recent: &Arc<Ordered<RecentStatements>>,
        sequence: u64,
    ) -> Statements {
        Statements {
            sealed: Arc::new(sealed.clone()),
            recent: recent.clone(),
            sequence,
            times: StatementTimes::with_limit(usize::MAX),
        }
    }

    #[test]
    fn a_statement_is_new_until_its_batch_is_stored_and_after_that_if_no_link_has_it() -> Result<()>
    {
        let maker = maker()?;
        let is_new = |statements: &mut Statements, user, alias, ts_us| {
            statements.add(&maker, user, alias, ts_us).is_some()
        };
        let mut links = Links::default();
        let recent = Arc::new(Ordered::new(Rank::Leaf, RecentStatements::default()));
        let mut failed = statements(&links, &recent, 1);
        assert!(is_new(&mut failed, "u", "a", 5));
        assert!(!is_new(&mut failed, "u", "a", 5), "once in a batch");
        drop(failed);
        let mut stored = statements(&links, &recent, 1);
        assert!(is_new(&mut stored, "u", "a", 5), "the batch before failed");
        let mut concurrent = statements(&links, &recent, 1);
        stored.keep();
        assert!(!is_new(&mut concurrent, "u", "a", 6));
        assert!(is_new(&mut concurrent, "u", "a", 4), "an earlier time");
        assert!(is_new(&mut concurrent, "v", "a", 6), "another user");
        assert!(is_new(&mut concurrent, "a", "u", 6), "the other direction");
        // A seal commits the first one.
        let user = maker.names.users.number("u")?;
        let alias = Some(maker.names.users.number("a")?);
        let ts_us = 5;
        links.add(Statement { ts_us, user, alias });
        let mut later = statements(&links, &recent, 2);
        assert!(!is_new(&mut later, "u", "a", 5) && is_new(&mut later, "u", "a", 4));
        assert!(is_new(&mut later, "u", "b", 5), "an id without a code");
        // A batch of the version before comes too late.
        concurrent.keep();
        let mut next = statements(&links, &recent, 2);
        assert!(is_new(&mut next, "v", "a", 6));
        Ok(())
    }

    #[test]
    fn a_full_set_forgets_all_statements() {
        let keys = ["a", "b", "c"].map(|id| Digester::fixed().digest(id));
        let mut times = StatementTimes::with_limit(2);
        times.add(keys[0], 5);
        times.add(keys[1], 5);
        times.add(keys[0], 4);
        assert!(times.has(keys[0], 4) && times.has(keys[1], 5));
        assert!(!times.has(keys[0], 3));
        times.add(keys[2], 5);
        assert!(times.has(keys[2], 5) && !times.has(keys[0], 5));
    }
}
