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
use crate::store::files::event_ids::{self, Entry};
use crate::store::files::rows::LakeRows;
use crate::store::files::segment::{self, SegmentMeta, Sorted};
use crate::store::ingest::admission::Said;
use crate::store::ingest::batch::BatchBuilder;
use crate::store::ingest::dedup::{Origin, SharedIds};
use crate::store::lock::{Ordered, Rank};
use crate::store::pipeline::{self, Ticket, Tickets};
use crate::store::version::Transaction;
use crate::store::{Store, Stored};

/// Parts of a group: the loss of an interrupted load, and how often daily states are written.
const GROUP_PARTS: usize = 64;

/// The events of a part of a stream.
pub struct Part {
    maker: BatchBuilder,
    rows: LakeRows,
    /// Of events with an id: the row, the digest of the id, and the time of receipt.
    ids: Vec<(IdxSize, Digest, i64)>,
    /// Identity calls, in order. Those of duplicates repeat others.
    said: Vec<Said>,
    erased: usize,
}

/// A part that was written.
struct Written {
    segments: Vec<SegmentMeta>,
    states: Slices,
    statements: Vec<Statement>,
    stored: Stored,
}

impl Part {
    fn new(maker: BatchBuilder, bytes: usize) -> Self {
        Self {
            maker,
            rows: LakeRows::for_lines(bytes),
            ids: Vec::new(),
            said: Vec::new(),
            erased: 0,
        }
    }

    /// Adds an event, unless its user was erased.
    pub fn push(&mut self, event: &Event<'_>) {
        let Some(event) = self.maker.unless_erased(event) else {
            self.erased += 1;
            return;
        };
        if let Some(key) = self.maker.key(&event) {
            let row = self.rows.len() as IdxSize;
            self.ids.push((row, key, event.received_at_us));
        }
        let identity = match identity_of(&event) {
            Identity::Nothing => None,
            Identity::Known => Some(Identity::Known),
            Identity::Alias(id) => Some(Identity::Alias(id.into_owned())),
        };
        if let Some((identity, user)) = identity.zip(event.user_id.as_deref()) {
            self.said.push(Said {
                ts_us: event.ts_us,
                received_at_us: event.received_at_us,
                user: user.to_owned(),
                identity,
            });
        }
        self.rows.push(&event);
    }

    /// The identity calls, and the events without duplicates, which are given by their rows.
    fn finish(self, duplicates: &[IdxSize]) -> Result<(Vec<Said>, Sorted)> {
        let mut events = self.rows.finish()?;
        if !duplicates.is_empty() {
            let mut is_new = vec![true; events.height()];
            for &row in duplicates {
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
}

impl TakenIds {
    fn new(recent: SharedIds) -> Self {
        Self {
            recent,
            ids: Ordered::new(Rank::Leaf, Vec::new()),
        }
    }

    /// Adds the ids of a part. Returns the rows of its duplicates.
    fn take(&self, part: &Part) -> Vec<IdxSize> {
        let mut duplicates = Vec::new();
        if part.ids.is_empty() {
            return duplicates;
        }
        let mut recent = self.recent.lock();
        let mut ids = self.ids.lock();
        for &(row, key, received_at_us) in &part.ids {
            if recent.insert(key, received_at_us, Origin::Load) {
                ids.push((key, received_at_us));
            } else {
                duplicates.push(row);
            }
        }
        duplicates
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
        mut done: impl FnMut(R, Stored),
    ) -> Result<bool> {
        let transaction = self.begin()?;
        let Some(first) = next()? else {
            return Ok(false);
        };
        for (result, stored) in self.load_group(transaction, first, &mut next, read)? {
            done(result, stored);
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
    ) -> Result<Vec<(R, Stored)>> {
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
                let mut events = Part::new(self.ingest.maker.clone(), part.as_ref().len());
                let result = read(part, &mut events)?;
                let name = format!("{number:08}-{place:04}");
                Ok((result, self.write_part(&name, events, turn, &taken)?))
            },
            |written: Result<(R, Written)>| {
                let (result, written) = written?;
                sealing.segments.extend(written.segments);
                sealing.states.merge(&written.states);
                sealing.statements.extend(written.statements);
                results.push((result, written.stored));
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
        let duplicates = turn.take(|| taken.take(&part));
        let erased = part.erased;
        let (said, sorted) = part.finish(&duplicates)?;
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
            stored: Stored {
                logged: sorted.events.height(),
                duplicates: duplicates.len(),
                erased,
                rest,
            },
        })
    }
}
