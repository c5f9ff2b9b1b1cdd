//! Load: a long stream of events becomes segments without passing through the log, because the
//! source has them already.
//!
//! A group of parts of the stream is written as segments, which are not live, and then the manifest
//! names them: that is the commit, by which a group is stored or not. The importer needs no
//! response before that.

use std::collections::BTreeMap;

use polars::prelude::*;

use super::seal::Sealing;
use crate::daily::{self, Day, Slices};
use crate::digest::Digest;
use crate::error::Result;
use crate::event::Event;
use crate::event::identity::{Identity, identity_of};
use crate::links::Statement;
use crate::store::Store;
use crate::store::files::event_ids::{self, Entry};
use crate::store::files::rows::LakeRows;
use crate::store::files::segment::{self, SegmentMeta, Sorted};
use crate::store::ingest::admission::{RestCounts, Said};
use crate::store::ingest::batch::BatchBuilder;
use crate::store::ingest::dedup::{Origin, SharedIds};
use crate::store::ingest::statements::{Call, StatementTimes, Statements};
use crate::store::lock::{Ordered, Rank};
use crate::store::pipeline::{self, Ticket, Tickets};
use crate::store::version::Transaction;

/// Parts of a group: the loss of an interrupted load, and how often daily states are written.
const GROUP_PARTS: usize = 64;
/// Statements about ids of a group that are in memory: some 50 MB. Beyond it, identity calls are
/// added that others repeat.
const MAX_STATEMENTS: usize = 1 << 20;

/// The events of a part of a stream.
pub struct Part {
    maker: BatchBuilder,
    rows: LakeRows,
    /// Of events with an id: the row, the digest of the id, and the time of receipt.
    ids: Vec<(IdxSize, Digest, i64)>,
    /// Identity calls, in order. Those of duplicates repeat others.
    said: Vec<Said>,
    /// The identity calls that were added to events.
    added: Vec<Added>,
    statements: Statements,
}

/// An identity call that was added to an event of a part.
struct Added {
    row: IdxSize,
    /// Its statement.
    key: Digest,
    ts_us: i64,
}

/// The outcome of the events of a part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Events that are stored.
    pub logged: usize,
    /// Events that had been stored before, by their id.
    pub duplicates: usize,
    /// Identity calls that were added to events and are stored; they are not among the others.
    pub added: usize,
    /// Stored events with a name beyond a limit.
    pub rest: RestCounts,
}

/// A part that was written.
struct Written {
    segments: Vec<SegmentMeta>,
    states: Slices,
    statements: Vec<Statement>,
    loaded: Loaded,
}

impl Part {
    fn new(maker: BatchBuilder, bytes: usize, statements: Statements) -> Self {
        Self {
            maker,
            rows: LakeRows::for_lines(bytes),
            ids: Vec::new(),
            said: Vec::new(),
            added: Vec::new(),
            statements,
        }
    }

    /// Adds an event, unless its user was erased.
    pub fn push(&mut self, event: &Event<'_>) {
        let Some(stored) = self.maker.unless_erased(event) else {
            return;
        };
        if let Some(key) = self.maker.key(&stored) {
            let row = self.rows.len() as IdxSize;
            self.ids.push((row, key, stored.received_at_us));
        }
        if let (Identity::Alias(alias), Some(user)) = (identity_of(event), &event.user_id) {
            let statements = &mut self.statements;
            statements.add(&self.maker, user, &alias, event.ts_us);
        }
        let identity = match identity_of(&stored) {
            Identity::Nothing => None,
            Identity::Known => Some(Identity::Known),
            Identity::Alias(id) => Some(Identity::Alias(id.into_owned())),
        };
        if let Some((identity, user)) = identity.zip(stored.user_id.as_deref()) {
            self.said.push(Said {
                ts_us: stored.ts_us,
                received_at_us: stored.received_at_us,
                user: user.to_owned(),
                identity,
            });
        }
        self.rows.push(&stored);
    }

    /// Adds the statement that an id is an alias of the user of an event. Returns its digest if it
    /// is new.
    pub fn add_statement(&mut self, event: &Event<'_>, alias: &str) -> Option<Digest> {
        let user = event.user_id.as_deref()?;
        self.statements.add(&self.maker, user, alias, event.ts_us)
    }

    /// Adds an identity call that says what is new.
    pub fn push_call(&mut self, call: &Call<'_>) {
        let row = self.rows.len() as IdxSize;
        self.push(&call.event);
        if self.rows.len() as IdxSize > row {
            let (key, ts_us) = (call.key, call.event.ts_us);
            self.added.push(Added { row, key, ts_us });
        }
    }

    /// True if a row is an identity call that was added to an event.
    fn is_added(&self, row: IdxSize) -> bool {
        let found = self.added.binary_search_by_key(&row, |added| added.row);
        found.is_ok()
    }

    /// The identity calls, and the events without some rows.
    fn finish(self, left_out: &[IdxSize]) -> Result<(Vec<Said>, Sorted)> {
        let mut events = self.rows.finish()?;
        if !left_out.is_empty() {
            let mut is_new = vec![true; events.height()];
            for &row in left_out {
                if let Some(is_new) = is_new.get_mut(row as usize) {
                    *is_new = false;
                }
            }
            events = events.filter(&BooleanChunked::new(PlSmallStr::EMPTY, is_new))?;
        }
        Ok((self.said, Sorted::new(events)?))
    }
}

/// Ids of events that are about to be stored. They are removed when this is dropped, unless they
/// are kept.
struct TakenIds {
    recent: SharedIds,
    /// Each with the time of receipt.
    ids: Ordered<Vec<(Digest, i64)>>,
    /// The statements of the parts so far.
    statements: Ordered<StatementTimes>,
}

/// The rows of a part that are not stored.
#[derive(Default)]
struct LeftOut {
    /// Identity calls that were added to events, and say what a part before said.
    repeated: Vec<IdxSize>,
    /// Events with the id of another one.
    duplicates: Vec<IdxSize>,
}

impl TakenIds {
    fn new(recent: SharedIds) -> Self {
        Self {
            recent,
            ids: Ordered::new(Rank::Leaf, Vec::new()),
            statements: Ordered::new(Rank::Leaf, StatementTimes::with_limit(MAX_STATEMENTS)),
        }
    }

    /// Adds the ids and the statements of a part. Returns the rows that are not stored.
    fn take(&self, part: &Part) -> LeftOut {
        let mut left_out = LeftOut::default();
        {
            let mut statements = self.statements.lock();
            let repeated = part.added.iter();
            let repeated = repeated.filter(|added| statements.has(added.key, added.ts_us));
            left_out.repeated = repeated.map(|added| added.row).collect();
            statements.extend(part.statements.times());
        }
        if part.ids.is_empty() {
            return left_out;
        }
        let LeftOut {
            repeated,
            duplicates,
        } = &mut left_out;
        let mut recent = self.recent.lock();
        let mut ids = self.ids.lock();
        for &(row, key, received_at_us) in &part.ids {
            if repeated.binary_search(&row).is_ok() {
                continue;
            }
            if recent.insert(key, received_at_us, Origin::Load) {
                ids.push((key, received_at_us));
            } else {
                duplicates.push(row);
            }
        }
        left_out
    }

    /// Those of the events that are to be committed.
    fn entries(&self) -> BTreeMap<Day, Vec<Entry>> {
        event_ids::by_day(self.ids.lock().iter().copied())
    }

    /// Keeps them: their events are stored.
    fn keep(self) {
        self.ids.lock().clear();
    }
}

impl Drop for TakenIds {
    fn drop(&mut self) {
        let ids = std::mem::take(&mut *self.ids.lock());
        let mut recent = self.recent.lock();
        for (key, _) in ids {
            recent.remove(key, Origin::Load);
        }
    }
}

impl Store {
    /// Stores a group of parts of a stream, as `next` returns them: `read` finds the events of a
    /// part, on all cores, and `done` gets its result and the outcome of the part's events, in
    /// order, once all are durable and visible. Of events with one id the first of the stream is
    /// stored. No other job commits meanwhile. False at the end of the stream, with nothing stored.
    ///
    /// # Errors
    /// Those of `next` and `read`, and if a file cannot be written; then nothing of the group is
    /// stored.
    pub fn load<P: AsRef<[u8]> + Send, R: Send>(
        &self,
        mut next: impl FnMut() -> Result<Option<P>> + Send,
        read: impl Fn(P, &mut Part) -> Result<R> + Sync,
        mut done: impl FnMut(R, Loaded),
    ) -> Result<bool> {
        let transaction = self.begin()?;
        let Some(first) = next()? else {
            return Ok(false);
        };
        for (result, loaded) in self.load_group(transaction, first, &mut next, read)? {
            done(result, loaded);
        }
        self.refresh_links_table();
        Ok(true)
    }

    /// Stores a group that begins with a part.
    fn load_group<P: AsRef<[u8]> + Send, R: Send>(
        &self,
        mut transaction: Transaction<'_>,
        first: P,
        next: &mut (impl FnMut() -> Result<Option<P>> + Send),
        read: impl Fn(P, &mut Part) -> Result<R> + Sync,
    ) -> Result<Vec<(R, Loaded)>> {
        let number = transaction.reserve_numbers(1)?;
        transaction.prepare_segments(number);
        let others = std::iter::from_fn(|| next().transpose());
        let mut parts = (0..GROUP_PARTS).zip(std::iter::once(Ok(first)).chain(others));
        let mut turns = Tickets::default();
        let taken = TakenIds::new(self.ingest.recent.clone());
        let mut sealing = Sealing::default();
        let mut results = Vec::new();
        pipeline::ordered_on(
            // One waits for the disk while the others work.
            pipeline::cores() + 1,
            || {
                let Some((place, part)) = parts.next() else {
                    return Ok(None);
                };
                Ok(Some((place, part?, turns.issue())))
            },
            |(place, part, turn)| {
                let bytes = part.as_ref().len();
                let mut events = Part::new(self.ingest.maker.clone(), bytes, self.statements());
                let result = read(part, &mut events)?;
                let name = format!("{number:08}-{place:04}");
                Ok((result, self.write_part(&name, events, turn, &taken)?))
            },
            |written: Result<(R, Written)>| {
                let (result, written) = written?;
                sealing.segments.extend(written.segments);
                sealing.states.merge(&written.states);
                sealing.statements.extend(written.statements);
                results.push((result, written.loaded));
                Ok(())
            },
        )?;
        if !sealing.segments.is_empty() {
            transaction.next.new_users = self.ingest.admission.lock().new_users();
            sealing.ids = taken.entries();
            self.commit_segments(transaction, sealing, None)?;
        }
        taken.keep();
        Ok(results)
    }

    fn write_part(
        &self,
        name: &str,
        part: Part,
        turn: Ticket,
        taken: &TakenIds,
    ) -> Result<Written> {
        let LeftOut {
            repeated,
            duplicates,
        } = turn.take(|| taken.take(&part));
        let mut loaded = Loaded {
            duplicates: duplicates.len(),
            added: part.added.len() - repeated.len(),
            ..Loaded::default()
        };
        for _ in duplicates.iter().filter(|&&row| part.is_added(row)) {
            loaded.duplicates -= 1;
            loaded.added -= 1;
        }
        let (said, sorted) = part.finish(&[repeated, duplicates].concat())?;
        let named = |day| self.versions.version().named_features(day, self.names());
        let (numbered, rest) = self.ingest.admission.admit_all(&sorted.events, &named)?;
        let zones = self.versions.zones();
        Ok(Written {
            states: daily::read(&daily::plan(numbered.lazy(), zones).collect()?, zones)?,
            statements: said
                .iter()
                .filter_map(|said| self.ingest.admission.admit_identity(said))
                .collect(),
            segments: segment::write_days(&self.folder, name, &sorted)?,
            loaded: Loaded {
                logged: sorted.events.height() - loaded.added,
                rest,
                ..loaded
            },
        })
    }
}
