//! Loading: a long stream of events that are elsewhere already becomes segments without passing through the log.
//!
//! A group of parts of the stream is written as segments, which nobody sees yet, and then the manifest names them: that is the
//! commit, by which a group is stored or not. Whoever loads needs no answer before that.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use polars::prelude::*;

use super::dedup::SharedIds;
use super::draft::DraftMaker;
use super::manifest::Manifest;
use super::pipeline::{self, Turn, Turns};
use super::rows::LakeRows;
use super::seal::Sealing;
use super::segment::{self, SegmentFacts, Sorted};
use super::{Store, Stored};
use crate::daily::{self, DailyState, Day};
use crate::digest::Digest;
use crate::error::Result;
use crate::event::Event;

/// Parts of a group: what is lost of a load that is cut off, and how often daily states are written.
const GROUP_PARTS: usize = 64;

/// The events of a part of a stream.
pub struct Part {
    maker: DraftMaker,
    rows: LakeRows,
    /// Of events with an id: the row, what the id is known by, and when it was received.
    ids: Vec<(IdxSize, Digest, i64)>,
    erased: usize,
}

/// A part that was written.
struct Written {
    segments: Vec<SegmentFacts>,
    left: BTreeMap<Day, DailyState>,
    stored: Stored,
}

impl Part {
    fn new(maker: DraftMaker, bytes: usize) -> Self {
        Self {
            maker,
            rows: LakeRows::for_lines(bytes),
            ids: Vec::new(),
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
        self.rows.push(&event);
    }

    /// Takes duplicates out, by their rows.
    fn finish(self, duplicates: &[IdxSize]) -> Result<Sorted> {
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
        Sorted::new(events)
    }
}

/// Ids of events that are about to be stored. They are taken back when this is dropped, unless they are kept.
struct TakenIds {
    recent: SharedIds,
    keys: Mutex<Vec<Digest>>,
}

impl TakenIds {
    fn new(recent: SharedIds) -> Self {
        Self {
            recent,
            keys: Mutex::default(),
        }
    }

    /// Takes the ids of a part. Returns the rows of its duplicates.
    fn take(&self, part: &Part) -> Vec<IdxSize> {
        let mut duplicates = Vec::new();
        if part.ids.is_empty() {
            return duplicates;
        }
        let mut recent = self.recent.lock();
        let mut keys = self.lock_keys();
        for &(row, key, received_at_us) in &part.ids {
            match recent.insert(key, received_at_us) {
                true => keys.push(key),
                false => duplicates.push(row),
            }
        }
        duplicates
    }

    /// Keeps them: their events are stored.
    fn keep(self) {
        self.lock_keys().clear();
    }

    fn lock_keys(&self) -> MutexGuard<'_, Vec<Digest>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TakenIds {
    fn drop(&mut self) {
        let keys = std::mem::take(&mut *self.lock_keys());
        let mut recent = self.recent.lock();
        for key in keys {
            recent.remove(key);
        }
    }
}

impl Store {
    /// Stores a group of parts of a stream of lines, as `next` gives them: `read` finds the events of a part, on all cores, and
    /// `done` gets what it made of each and what became of its events, in order, once all are durable and visible. Of events
    /// with one id the first of the stream is stored. Nothing is sealed, compacted or expired meanwhile. False at the end of
    /// the stream, with nothing stored.
    ///
    /// # Errors
    /// Those of `next`, and if a file cannot be written; then nothing of the group is stored.
    pub fn load<P: AsRef<[u8]> + Send, R: Send>(
        &self,
        mut next: impl FnMut() -> Result<Option<P>> + Send,
        read: impl Fn(P, &mut Part) -> R + Sync,
        mut done: impl FnMut(R, Stored),
    ) -> Result<bool> {
        let mut manifest = self.lock_manifest()?;
        let Some(first) = next()? else {
            return Ok(false);
        };
        let number = self.reserve_numbers(&mut manifest, 1)?;
        let loaded = self.load_group(&mut manifest, number, first, &mut next, read);
        let results = loaded.inspect_err(|_| self.remove_uncommitted(&manifest, number))?;
        for (result, stored) in results {
            done(result, stored);
        }
        Ok(true)
    }

    /// Stores a group that begins with a part, under a number.
    fn load_group<P: AsRef<[u8]> + Send, R: Send>(
        &self,
        manifest: &mut Manifest,
        number: u64,
        first: P,
        next: &mut (impl FnMut() -> Result<Option<P>> + Send),
        read: impl Fn(P, &mut Part) -> R + Sync,
    ) -> Result<Vec<(R, Stored)>> {
        let others = std::iter::from_fn(|| next().transpose());
        let mut parts = (0..GROUP_PARTS).zip(std::iter::once(Ok(first)).chain(others));
        let mut turns = Turns::default();
        let taken = TakenIds::new(self.recent.clone());
        let mut sealing = Sealing::default();
        let mut results = Vec::new();
        pipeline::ordered_on(
            // One waits for the disk while the others work.
            pipeline::cores() + 1,
            || {
                let Some((place, part)) = parts.next() else {
                    return Ok(None);
                };
                Ok(Some((place, part?, turns.next_turn())))
            },
            |(place, part, turn)| {
                let mut events = Part::new(self.maker.clone(), part.as_ref().len());
                let result = read(part, &mut events);
                let name = format!("{number:08}-{place:04}");
                Ok((result, self.write_part(&name, events, turn, &taken)?))
            },
            |written: Result<(R, Written)>| {
                let (result, written) = written?;
                sealing.segments.extend(written.segments);
                let left = written.left.iter().map(|(&day, state)| (day, state));
                daily::merge_days(&mut sealing.left, left);
                results.push((result, written.stored));
                Ok(())
            },
        )?;
        if !sealing.segments.is_empty() {
            let mut next = manifest.clone();
            next.new_users = self.admission.lock().new_users();
            self.commit_segments(manifest, next, sealing, None)?;
        }
        taken.keep();
        Ok(results)
    }

    fn write_part(&self, name: &str, part: Part, turn: Turn, taken: &TakenIds) -> Result<Written> {
        let duplicates = turn.take(|| taken.take(&part));
        let erased = part.erased;
        let sorted = part.finish(&duplicates)?;
        let named = |day| self.view.named_features(day, self.names());
        let (numbered, rest) = self.admission.admit_all(&sorted.events, &named)?;
        Ok(Written {
            left: daily::read(&daily::plan(numbered.lazy()).collect()?)?,
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
