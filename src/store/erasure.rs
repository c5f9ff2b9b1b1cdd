//! Erasure: all events of some users go, from everywhere, and stay away.
//!
//! 1. The users are named in `erasures.json`, durably, with a keyed hash each that stays for ever: from then on no event of
//!    theirs is accepted. 2. The log is sealed. 3. Their events are found; the daily states without them are the commit from
//!    which no question sees them. 4. The segments that have them are written anew without them, day by day. 5. The dictionary
//!    forgets their ids; their numbers are never given again. 6. The quarantine is cleaned, and the ids are taken out of
//!    `erasures.json`. A crash leaves that file as the list of what is still to do, and every step may be done again.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use polars::prelude::*;
use ring::hmac;
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};
use tracing::info;

use super::erased::{Gate, hash, is_any};
use super::exchange::changed_meanwhile;
use super::folder::Folder;
use super::manifest::Manifest;
use super::segment::{self, Segment, SegmentFacts};
use super::shape::{ERASURES_FILE, QUARANTINE_FILE};
use super::states::{self, StateFile};
use super::{Store, dictionary, live_paths, live_states, pipeline, view};
use crate::daily::{self, DailyState, Day};
use crate::error::{Error, Result};
use crate::event::text;
use crate::names::{Names, Numbering};
use crate::schema;

/// Bytes of the key of the hashes.
const KEY_BYTES: usize = 32;
/// Ids shorter than this are looked for with their quotes, because they are part of many texts.
const DISTINCT_BYTES: usize = 6;
/// Fewer events are erased without being confirmed: about what one very busy person leaves in a day.
const UNCONFIRMED_EVENTS: u64 = 1_000;
/// While somebody confirms, a server goes on: the events may have become more by this many, or by one in so many.
const GROWN_EVENTS: u64 = 1_000;
const GROWN_SHARE: u64 = 100;

/// What is kept of erasures.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Erasures {
    /// Key of the hashes, so that nobody finds out by them who was erased without it.
    key: String,
    /// Hashes of erased users.
    erased: BTreeSet<String>,
    /// Users who are being erased.
    pending: BTreeSet<String>,
}

/// What an erasure found and removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Erased {
    /// Users it was asked for.
    pub users: usize,
    /// Those of them who had events.
    pub users_found: usize,
    /// Events removed.
    pub events: u64,
    /// Days of these events.
    pub days: usize,
    /// Segments written anew.
    pub segments: usize,
    /// Daily states written anew.
    pub states: usize,
    /// Ids taken out of the dictionary.
    pub dictionary: usize,
    /// Pieces taken out of the quarantine.
    pub quarantined: usize,
}

impl Erasures {
    fn load(folder: &Folder) -> Result<Self> {
        folder.read_json(ERASURES_FILE)
    }

    fn save(&self, folder: &Folder) -> Result<()> {
        folder.replace_json(ERASURES_FILE, self)
    }

    /// Tells the gate who is erased.
    fn tell(&self, gate: &Gate, users: &Numbering) -> Result<()> {
        gate.set(self.key(), &self.erased, &self.pending, users)
    }

    fn key(&self) -> Option<hmac::Key> {
        (!self.key.is_empty()).then(|| hmac::Key::new(hmac::HMAC_SHA256, self.key.as_bytes()))
    }

    fn begin(&mut self, users: &[String]) -> Result<()> {
        if self.key.is_empty() {
            let mut key = [0; KEY_BYTES];
            getrandom::fill(&mut key).map_err(|error| {
                Error::io("make a key for", ERASURES_FILE.as_ref())(std::io::Error::other(error))
            })?;
            self.key = hex::encode(key);
        }
        if let Some(key) = self.key() {
            self.erased
                .extend(users.iter().map(|user| hash(&key, user)));
        }
        self.pending.extend(users.iter().cloned());
        Ok(())
    }
}

/// Makes the gate of a store that is opened. Users whose erasure was interrupted are hidden if the states, all of them,
/// have forgotten them already: states and events say the same.
///
/// # Errors
/// If the list of erasures or a state cannot be read.
pub(super) fn gate(folder: &Folder, manifest: &Manifest, names: &Names) -> Result<Gate> {
    let gate = Gate::default();
    folder.upgrade_json::<Erasures>(ERASURES_FILE)?;
    let erasures = Erasures::load(folder)?;
    erasures.tell(&gate, &names.users)?;
    let numbers = gate.numbers();
    let mut is_forgotten = true;
    if !erasures.pending.is_empty() {
        for facts in &manifest.states {
            // One that cannot be read must not stop the start.
            is_forgotten &= StateFile::new(folder.path(), facts.clone())
                .activity_once(names)
                .is_ok_and(|state| state.users.is_disjoint(&numbers));
        }
    }
    if is_forgotten {
        let pending: Vec<&str> = erasures.pending.iter().map(String::as_str).collect();
        gate.hide(&pending);
    }
    Ok(gate)
}

/// What an erasure may remove without being confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErasureLimit {
    /// This share of all events, in percent.
    pub percent: u8,
    /// The number of events that whoever asks says will go.
    pub confirmed: Option<u64>,
}

/// A number of events that was named to be confirmed.
pub(super) struct Offer {
    users: Vec<String>,
    events: u64,
}

/// Where events are looked for.
#[derive(Debug, Clone, Copy)]
enum Reach {
    /// On the days on which the users were active, as the states say.
    DaysOfStates,
    /// On all days: the states may have forgotten the users already.
    AllDays,
}

/// The events of some users in a segment.
struct Found {
    segment: Arc<Segment>,
    events: u64,
    users: RoaringBitmap,
    left: BTreeMap<Day, DailyState>,
}

impl Store {
    /// Erases users: when this returns, nothing of theirs is in the data folder, and nothing comes in any more. `last` takes
    /// them out of what the store does not know.
    ///
    /// # Errors
    /// If something cannot be read or written; then [`Store::finish_erasures`] goes on with it.
    pub fn erase(
        &self,
        users: &[String],
        last: impl FnOnce(&[&str]) -> Result<()> + Send,
    ) -> Result<Erased> {
        let _one = self.lock_erasing();
        let mut erasures = Erasures::load(&self.folder)?;
        let reach = match erasures.pending.is_empty() {
            true => Reach::DaysOfStates,
            false => Reach::AllDays,
        };
        erasures.begin(users)?;
        erasures.save(&self.folder)?;
        erasures.tell(&self.gate, &self.names().users)?;
        // They are invisible from here on.
        pipeline::beside(|| self.erase_pending(erasures, reach, last))
    }

    /// Ends erasures that were interrupted.
    ///
    /// # Errors
    /// As [`Store::erase`].
    pub fn finish_erasures(
        &self,
        last: impl FnOnce(&[&str]) -> Result<()>,
    ) -> Result<Option<Erased>> {
        let _one = self.lock_erasing();
        let erasures = Erasures::load(&self.folder)?;
        match erasures.pending.is_empty() {
            true => Ok(None),
            false => self.erase_pending(erasures, Reach::AllDays, last).map(Some),
        }
    }

    /// Rejects an erasure that would remove a large share of all events and was not confirmed. Users whose erasure was accepted
    /// before are not asked about again.
    ///
    /// # Errors
    /// [`Error::Unconfirmed`], with nothing changed, and if something cannot be read.
    pub fn check_erasure(&self, users: &[String], limit: ErasureLimit) -> Result<()> {
        let pending = Erasures::load(&self.folder)?.pending;
        let mut users: Vec<String> = users
            .iter()
            .filter(|user| !pending.contains(*user))
            .cloned()
            .collect();
        users.sort_unstable();
        let ids: Vec<&str> = users.iter().map(String::as_str).collect();
        let (all, found) = self.count(&ids)?;
        let is_small = u128::from(found) * 100 <= u128::from(all) * u128::from(limit.percent);
        if is_small || found < UNCONFIRMED_EVENTS || limit.confirmed == Some(found) {
            return Ok(());
        }
        let mut offered = self.offered.lock().unwrap_or_else(PoisonError::into_inner);
        let is_offered = offered.as_ref().is_some_and(|offer| {
            let grown = GROWN_EVENTS.max(offer.events / GROWN_SHARE);
            offer.users == users
                && limit.confirmed == Some(offer.events)
                && found <= offer.events.saturating_add(grown)
        });
        if is_offered {
            return Ok(());
        }
        let named = match users.as_slice() {
            [user] => format!("the user {user:?} has"),
            _ => format!("the users ({} ids) have", users.len()),
        };
        let share = found as f64 * 100.0 / all as f64;
        let message = format!(
            "{named} {found} of all {all} events, {share:.1}%; more than {}% are erased only when that is confirmed; nothing \
             was removed; if it is meant, ask again with the confirmation {found} (?confirm={found}, \
             \"confirm\":{found} or --confirm {found})",
            limit.percent
        );
        *offered = Some(Offer {
            users,
            events: found,
        });
        Err(Error::Unconfirmed(message))
    }

    /// All events, and those of these users.
    fn count(&self, users: &[&str]) -> Result<(u64, u64)> {
        let numbers = self.numbers_of(users);
        let (mut segments, states, tail) = {
            let view = self.view.lock();
            (
                view.segments.clone(),
                view.states.clone(),
                view.tail.snapshot(&(i64::MIN..i64::MAX))?,
            )
        };
        let mut all: u64 = segments.iter().map(|segment| segment.facts.rows).sum();
        let mut found = 0;
        for chunk in tail {
            let users = chunk.frame.column(schema::USER_ID)?.to_physical_repr();
            let is_theirs = |user: &u32| numbers.contains(*user);
            found += users.u32()?.iter().flatten().filter(is_theirs).count() as u64;
            all += chunk.frame.height() as u64;
        }
        view::keep_days_of(&numbers, &mut segments, &states, self.names())?;
        let mut segments = segments.into_iter();
        pipeline::ordered(
            || Ok(segments.next()),
            |segment| {
                let events = segment::scan(std::slice::from_ref(&segment))?
                    .filter(is_any(users))
                    .select([len().cast(DataType::UInt64)])
                    .collect()?;
                Ok(events.select_at_idx(0).map_or(Ok(0), |count| {
                    count.u64().map(|count| count.get(0).unwrap_or(0))
                })?)
            },
            |count: Result<u64>| {
                match count {
                    Ok(count) => found += count,
                    // The erasure itself names it.
                    Err(Error::Damaged { .. }) => {}
                    Err(error) => return Err(error),
                }
                Ok(())
            },
        )?;
        Ok((all, found))
    }

    fn erase_pending(
        &self,
        mut erasures: Erasures,
        reach: Reach,
        last: impl FnOnce(&[&str]) -> Result<()>,
    ) -> Result<Erased> {
        let pending: Vec<&str> = erasures.pending.iter().map(String::as_str).collect();
        self.seal()?;
        let (found, damaged) = self.find(&pending, reach)?;
        let mut users = RoaringBitmap::new();
        found.iter().for_each(|found| users |= &found.users);
        let days: BTreeSet<Day> = found.iter().map(|found| found.segment.day()).collect();
        let mut erased = Erased {
            users: pending.len(),
            users_found: users.len() as usize,
            events: found.iter().map(|found| found.events).sum(),
            days: days.len(),
            ..Erased::default()
        };
        erased.states = self.forget_in_states(&pending, &found)?;
        erased.segments = self.rewrite_days(&pending, &found)?;
        erased.dictionary = self.forget_in_dictionary(&pending)?;
        erased.quarantined = self.forget_in_quarantine(&pending)?;
        self.lock_retired().remove_all()?;
        self.remove_other_postings()?;
        last(&pending)?;
        // What could not be read may hold something of theirs: it is tried again.
        if let Some(error) = damaged {
            return Err(error);
        }
        erasures.pending.clear();
        erasures.save(&self.folder)?;
        self.gate.end();
        info!(
            users = erased.users,
            events = erased.events,
            "Erased {} users, {} events",
            erased.users,
            erased.events
        );
        Ok(erased)
    }

    /// The segments of the days on which, by their states, one of these users was active.
    fn segments_of(&self, users: &[&str]) -> Result<Vec<Arc<Segment>>> {
        let users = self.numbers_of(users);
        let (mut segments, states) = {
            let view = self.view.lock();
            (view.segments.clone(), view.states.clone())
        };
        view::keep_days_of(&users, &mut segments, &states, self.names())?;
        Ok(segments)
    }

    pub(super) fn numbers_of(&self, users: &[&str]) -> RoaringBitmap {
        let numbers = users
            .iter()
            .filter_map(|user| self.names().users.find(user));
        numbers.collect()
    }

    /// The segments that have events of these users, and that one could not be read.
    fn find(&self, users: &[&str], reach: Reach) -> Result<(Vec<Found>, Option<Error>)> {
        let segments = match reach {
            Reach::DaysOfStates => self.segments_of(users)?,
            Reach::AllDays => self.view.lock().segments.clone(),
        };
        let mut segments = segments.into_iter();
        let mut found = Vec::new();
        let mut damaged = None;
        let names = self.names();
        let states = self.view.lock().states.clone();
        pipeline::ordered(
            || Ok(segments.next()),
            |segment| {
                let state = states.get(&segment.day());
                let known = state.map(|state| state.activity(names)).transpose()?;
                let named = state.map(|state| state.named_features(names));
                let events = segment::scan(std::slice::from_ref(&segment))?
                    .filter(is_any(users))
                    .select(names.counted_among(&named.unwrap_or_default()))
                    .collect()?;
                let numbers = events.column(schema::USER_ID)?.u32()?;
                // Users whom the state has forgotten, before a crash, are not taken out of it twice.
                let is_known = |user: Option<u32>| {
                    user.zip(known.as_ref())
                        .is_some_and(|(user, known)| known.users.contains(user))
                };
                let is_known: BooleanChunked =
                    numbers.iter().map(|user| Some(is_known(user))).collect();
                let to_forget = events.filter(&is_known)?;
                Ok(Found {
                    events: events.height() as u64,
                    users: daily::set(numbers.iter().flatten().collect()),
                    left: daily::read(&daily::plan(to_forget.lazy()).collect()?)?,
                    segment,
                })
            },
            |one: Result<Found>| {
                match one {
                    Ok(one) if one.events > 0 => found.push(one),
                    Ok(_) => {}
                    Err(error @ Error::Damaged { .. }) => damaged = damaged.take().or(Some(error)),
                    Err(error) => return Err(error),
                }
                Ok(())
            },
        )?;
        Ok((found, damaged))
    }

    /// Takes users out of the daily states: the commit from which no question sees them.
    fn forget_in_states(&self, pending: &[&str], found: &[Found]) -> Result<usize> {
        let names = self.names();
        let users = self.numbers_of(pending);
        let mut left: BTreeMap<Day, DailyState> = BTreeMap::new();
        let of_segments = found.iter().flat_map(|found| &found.left);
        daily::merge_days(&mut left, of_segments.map(|(&day, state)| (day, state)));
        let mut manifest = self.lock_manifest()?;
        let mut next = manifest.clone();
        next.sequence += 1;
        let (files, segments) = {
            let view = self.view.lock();
            (view.states.clone(), view.segments.clone())
        };
        let days: BTreeSet<Day> = found.iter().map(|found| found.segment.day()).collect();
        let mut files = files.iter();
        let written = states::write(&self.folder, next.sequence, names, || {
            for (&day, file) in files.by_ref() {
                let mut state = file.state(names)?;
                // A state does not say who the users beyond the limit were: it is counted again.
                if state.activity.rest_user_events > 0 && days.contains(&day) {
                    let of_day = segments.iter().filter(|segment| segment.day() == day);
                    let of_day: Vec<Arc<Segment>> = of_day.cloned().collect();
                    return Ok(Some((day, self.state_of(&of_day, day, pending)?)));
                }
                // Done before a crash already, or nothing to do.
                if !state.activity.users.is_disjoint(&users) {
                    state.remove(&users, left.get(&day));
                    return Ok(Some((day, state)));
                }
            }
            Ok(None)
        })?;
        if written.is_empty() {
            self.gate.hide(pending);
            return Ok(0);
        }
        let count = written.len();
        next.replace_states(written);
        // A day of which nothing is left has no state.
        next.states.retain(|facts| facts.events > 0);
        self.commit(&manifest, &next)?;
        let mut view = self.view.lock();
        let replaced = view.set_states(live_states(&self.folder, &next));
        self.gate.hide(pending);
        drop(view);
        *manifest = next;
        states::remove(&self.folder, replaced, &manifest.states)?;
        Ok(count)
    }

    /// Writes the segments with events of these users anew, without them.
    fn rewrite_days(&self, users: &[&str], found: &[Found]) -> Result<usize> {
        let days: BTreeSet<Day> = found.iter().map(|found| found.segment.day()).collect();
        if days.is_empty() {
            return Ok(0);
        }
        // Names for the files of all days, by one commit.
        let mut manifest = self.lock_manifest()?;
        let first_number = self.reserve_numbers(&mut manifest, days.len() as u64)?;
        drop(manifest);
        let mut days = days.into_iter().zip(first_number..);
        let affected: HashSet<&str> = found
            .iter()
            .map(|found| found.segment.facts.path.as_str())
            .collect();
        let mut rewritten = 0;
        let mut failed = None;
        pipeline::ordered(
            || Ok(days.next()),
            |(day, number)| self.rewrite_day(day, number, users, &affected),
            |written: Result<usize>| {
                match written {
                    Ok(count) => rewritten += count,
                    // One that is damaged costs its own day, and is named.
                    Err(error) => failed = failed.take().or(Some(error)),
                }
                Ok(())
            },
        )?;
        match failed {
            None => Ok(rewritten),
            Some(error) => Err(error),
        }
    }

    fn rewrite_day(
        &self,
        day: Day,
        number: u64,
        users: &[&str],
        affected: &HashSet<&str>,
    ) -> Result<usize> {
        let of_day: Vec<Arc<Segment>> = {
            let view = self.view.lock();
            let segments = view.segments.iter().filter(|segment| segment.day() == day);
            segments.cloned().collect()
        };
        let mut new: Vec<(PathBuf, SegmentFacts)> = Vec::new();
        let rewritten = self.rewrite_segments(day, number, users, affected, &of_day, &mut new);
        rewritten.inspect_err(|_| {
            for (temp, _) in &new {
                // It is cleared at the next start if it cannot be removed now.
                let _ = std::fs::remove_file(temp);
            }
        })
    }

    /// Writes those of a day's segments that are affected to unfinished files, which `new` names, and puts them in place.
    fn rewrite_segments(
        &self,
        day: Day,
        number: u64,
        users: &[&str],
        affected: &HashSet<&str>,
        of_day: &[Arc<Segment>],
        new: &mut Vec<(PathBuf, SegmentFacts)>,
    ) -> Result<usize> {
        let mut replaced: Vec<(Arc<Segment>, Option<SegmentFacts>)> = Vec::new();
        for segment in of_day
            .iter()
            .filter(|segment| affected.contains(segment.facts.path.as_str()))
        {
            let mut events = segment::scan(std::slice::from_ref(segment))?
                .filter(is_any(users).not())
                .collect()?;
            let kept = match events.height() {
                0 => None,
                _ => {
                    events.rechunk_mut();
                    let name = segment::name_in_place_of(&segment.facts, number);
                    let temp = self
                        .folder
                        .temp(&format!("{}-{name}.parquet", daily::date(day)))?;
                    let facts = segment::write_day(&temp, segment::path_of(day, &name), events)?;
                    new.push((temp, facts.clone()));
                    Some(facts)
                }
            };
            replaced.push((segment.clone(), kept));
        }
        let of_this_day = format!("{}/dt={}/", segment::LAKE_DIR, daily::date(day));
        let wanted = affected
            .iter()
            .filter(|path| path.starts_with(&of_this_day));
        if replaced.len() < wanted.count() {
            return Err(changed_meanwhile());
        }
        let mut manifest = self.lock_manifest()?;
        let staged = self.replace_in_day(&mut manifest, day, number, new, &replaced)?;
        // Not kept for a while, as after a compaction: what is erased has to go.
        staged.remove()?;
        segment::remove_empty_days(self.folder.path(), &live_paths(&self.folder, &manifest))?;
        Ok(replaced.len())
    }

    fn forget_in_dictionary(&self, users: &[&str]) -> Result<usize> {
        let mut manifest = self.lock_manifest()?;
        let mut next = manifest.clone();
        let numbers = self.numbers_of(users);
        let (facts, forgotten) = dictionary::forget(&self.folder, manifest.dictionary, &numbers)?;
        if forgotten > 0 {
            next.dictionary = facts;
            self.commit(&manifest, &next)?;
            *manifest = next;
        }
        dictionary::remove_others(&self.folder, manifest.dictionary)?;
        Ok(forgotten)
    }

    fn forget_in_quarantine(&self, users: &[&str]) -> Result<usize> {
        let path = self.folder.path().join(QUARANTINE_FILE);
        let Ok(lines) = std::fs::read(&path) else {
            return Ok(0);
        };
        let mut kept = Vec::with_capacity(lines.len());
        let mut removed = 0;
        for line in crate::event::lines(&lines) {
            match users.iter().any(|user| mentions(line, user)) {
                true => removed += 1,
                false => kept.extend_from_slice(line),
            }
        }
        if removed > 0 {
            self.folder.replace(QUARANTINE_FILE, &kept)?;
        }
        Ok(removed)
    }
}

/// Whether a piece of the quarantine, a damaged line as JSON text within JSON, mentions a user.
pub(super) fn mentions(line: &[u8], user: &str) -> bool {
    let mut once = Vec::new();
    text::encode(user, &mut once);
    let inner = String::from_utf8_lossy(&once).into_owned();
    let mut twice = Vec::new();
    text::encode(&inner, &mut twice);
    // Without the quotes of the outer text and, for an id that is distinct, without its own: they may be what was damaged.
    let quoted = twice.get(1..twice.len() - 1).unwrap_or_default();
    let bare = quoted
        .get(2..quoted.len().saturating_sub(2))
        .unwrap_or_default();
    let wanted = match user.len() {
        ..DISTINCT_BYTES => quoted,
        _ => bare,
    };
    let is_of_id = |byte: Option<&u8>| {
        byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte))
    };
    memchr::memmem::find_iter(line, wanted).any(|start| {
        // Not part of another id.
        let before = start.checked_sub(1).and_then(|before| line.get(before));
        user.len() < DISTINCT_BYTES
            || !(is_of_id(before) || is_of_id(line.get(start + wanted.len())))
    })
}
