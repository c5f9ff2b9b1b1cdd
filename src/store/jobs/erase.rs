//! Erasure: all events of some users are removed everywhere, and stay away. So are the identity
//! calls of other users that name one of them: they say something about an erased id alone.
//!
//! 1. The users are recorded in `erasures.json`, durably: from then on no event of theirs, and no
//!    such call, is accepted. 2. The log is sealed. 3. Their events and these calls are found, the
//!    calls in all segments with `system` events; the daily states without them are the commit from
//!    which no query sees them. 4. The segments with their events are written again without them,
//!    day by day. 5. Their ids leave the dictionary; their codes are never given to others. 6. The
//!    quarantine and the held events are cleaned, and keyed hashes replace the ids in
//!    `erasures.json`. They are kept forever, with the time: events that happened until then stay
//!    away, and an event that happens later is a new user's. After a crash that file lists what is
//!    still to do, and every step may be repeated.
//!
//! A store that shares a table also has the hashes of users whom other servers have erased, under
//! the key of the table.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use polars::prelude::*;
use ring::hmac;
use roaring::RoaringBitmap;
use serde::{Deserialize, Deserializer, Serialize};
use tracing::info;
use utoipa::ToSchema;

use super::links::CALL_COLUMNS;
use super::seal::has_events_of;
use crate::checksum::{self, Mismatch};
use crate::daily::{self, Activity, Day, Place, Slices};
use crate::dictionary::{Dictionaries, UserDictionary};
use crate::error::{Error, Result};
use crate::event::{self, identity};
use crate::links::Links;
use crate::schema;
use crate::store::erased::{
    ErasedHashes, ErasedIds, ErasedUsers, ErasureTimes, add_times, hash, hmac_key, mask_of,
    mask_of_calls, named_by,
};
use crate::store::files::folder::{Access, Folder};
use crate::store::files::links::OldTables;
use crate::store::files::rotation::RotatedLog;
use crate::store::files::segment::{self, ALL_ROWS, Segment};
use crate::store::files::shape::{ERASURES_FILE, EVENT_LOG_FILE, HELD_EVENTS_FILE, NEXT_LOG_FILE};
use crate::store::files::states::{self, ZoneDay};
use crate::store::files::{self, dictionary, held_file, mentions, recovery};
use crate::store::version::{
    ALWAYS_US, DayChange, Manifest, Transaction, Unpublished, Version, changed_meanwhile,
};
use crate::store::{Store, pipeline};
use crate::window;

/// Rows of which the metadata is in memory at once while calls are searched: a row group.
const ROWS_AT_ONCE: usize = 131_072;
/// Fewer events are erased without confirmation: about those of one very busy person in a day.
const UNCONFIRMED_EVENTS: u64 = 1_000;
/// Events may come in before the confirmation: this many more are accepted, or one in
/// `GROWN_SHARE`.
const GROWN_EVENTS: u64 = 1_000;
const GROWN_SHARE: u64 = 100;

/// The list of erasures, as `erasures.json` has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Erasures {
    /// HMAC key, without which the hashes cannot be matched to user ids.
    key: String,
    /// The erased users, by their hashes. An earlier version stored no times.
    #[serde(deserialize_with = "read_times")]
    erased: ErasureTimes,
    /// Users whose erasure is in progress.
    pending: BTreeSet<String>,
    /// Users whom any server of a table has erased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    table: Option<ErasedIds>,
}

/// The time of an erasure by an earlier version, until the store is opened for writing.
const UNKNOWN_TIME: DateTime<Utc> = match DateTime::from_timestamp(253_402_300_799, 0) {
    Some(end_of_year_9999) => end_of_year_9999,
    None => DateTime::<Utc>::MAX_UTC,
};

fn read_times<'de, D: Deserializer<'de>>(json: D) -> Result<ErasureTimes, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Stored {
        Times(ErasureTimes),
        Hashes(BTreeSet<String>),
    }
    Ok(match Stored::deserialize(json)? {
        Stored::Times(times) => times,
        Stored::Hashes(hashes) => {
            let times = hashes.into_iter().map(|hash| (hash, UNKNOWN_TIME));
            times.collect()
        }
    })
}

/// Result of an erasure.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Erased {
    /// Requested users.
    pub users: usize,
    /// Those of them who had events.
    pub users_found: usize,
    /// Events removed.
    pub events: u64,
    /// Days of these events.
    pub days: usize,
    /// Identity calls of other users that named one of these users. They were removed as well, and
    /// are not among `events`. Absent without any.
    #[serde(skip_serializing_if = "is_zero")]
    pub identity_calls: usize,
    /// Segments written again.
    pub segments: usize,
    /// Daily states written again.
    pub states: usize,
    /// Ids removed from the dictionary.
    pub dictionary: usize,
    /// Pieces removed from the quarantine.
    pub quarantined: usize,
    /// Held events removed: those that a tracking plan quarantined.
    #[serde(skip_serializing_if = "is_zero")]
    pub held: usize,
    /// Other ids of these users, whose events were removed as well. Absent without any.
    #[serde(skip_serializing_if = "is_zero")]
    pub aliases: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl Erasures {
    fn load(folder: &Folder) -> Result<Self> {
        folder.read_json(ERASURES_FILE)
    }

    /// True if an erasure is not complete.
    ///
    /// # Errors
    /// If the list of erasures cannot be read.
    pub fn is_pending(folder: &Folder) -> Result<bool> {
        Ok(!Self::load(folder)?.pending.is_empty())
    }

    fn save(&self, folder: &Folder) -> Result<()> {
        folder.replace_json(ERASURES_FILE, self)
    }

    /// Sets the erased users of the store.
    fn publish(&self, erased: &ErasedUsers, users: &UserDictionary) -> Result<()> {
        let own = self.key().map(|_| (&self.key, &self.erased));
        let of_table = self.table.iter().map(|table| (&table.key, &table.hashes));
        let lists = own.into_iter().chain(of_table);
        let lists = lists.map(|(key, hashes)| ErasedHashes::new(key, hashes));
        erased.set(lists.collect(), &self.pending, users)
    }

    fn key(&self) -> Option<hmac::Key> {
        (!self.key.is_empty()).then(|| hmac_key(&self.key))
    }

    /// Adds users whom a server of the table has erased. False if all are known.
    fn add_of_table(&mut self, ids: &ErasedIds) -> bool {
        match &mut self.table {
            Some(known) if known.key == ids.key => known.add(&ids.hashes),
            // None, or of a table that was made again.
            known => {
                *known = Some(ids.clone());
                true
            }
        }
    }

    fn begin(&mut self, users: &[String]) -> Result<()> {
        if self.key.is_empty() {
            self.key = ErasedIds::new_key()?;
        }
        self.pending.extend(users.iter().cloned());
        Ok(())
    }

    /// The erasures that are in progress are complete at this time.
    fn complete(&mut self, until: DateTime<Utc>) {
        let users: Vec<String> = std::mem::take(&mut self.pending).into_iter().collect();
        add_times(
            &mut self.erased,
            &ErasedIds::of(&self.key, &users, until).hashes,
        );
    }

    /// Sets the times of the erasures of an earlier version. Returns false if there are none.
    fn set_unknown_times(&mut self, until: DateTime<Utc>) -> bool {
        let times = self.erased.values_mut();
        let unknown = times.filter(|time| **time == UNKNOWN_TIME);
        unknown.map(|time| *time = until).count() > 0
    }
}

/// Loads the erased users when a store is opened. Users whose erasure was interrupted are hidden if
/// they are in no state any more: states and events agree then.
///
/// # Errors
/// If the list of erasures cannot be read.
pub fn load_erased_users(
    folder: &Folder,
    version: &Version,
    names: &Dictionaries,
) -> Result<ErasedUsers> {
    let erased = ErasedUsers::default();
    folder.upgrade_json::<Erasures>(ERASURES_FILE)?;
    let mut erasures = Erasures::load(folder)?;
    let until = end_time(Utc::now(), version.clock.map(|clock| clock.newest_us));
    if erasures.set_unknown_times(until) && folder.access() == Access::ReadWrite {
        erasures.save(folder)?;
    }
    erasures.publish(&erased, &names.users)?;
    let numbers = erased.pending();
    let mut is_forgotten = true;
    if !erasures.pending.is_empty() {
        for state in version.states.values() {
            // One that cannot be read must not stop the start.
            is_forgotten &= state
                .activity_once(names)
                .is_ok_and(|activity| !activity.has_any(&numbers));
        }
    }
    if is_forgotten {
        let pending: Vec<&str> = erasures.pending.iter().map(String::as_str).collect();
        erased.hide(&pending);
    }
    Ok(erased)
}

/// Erasures that were repeated in a restored folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepeatedErasures {
    /// Ids of the users with data in the folder, whose erasure is in progress now.
    pub users: Vec<String>,
    /// Erased users whose hashes are of another key, and who have no data in the folder.
    pub unknown: usize,
}

/// Records the erasures of a newer list, the content of an `erasures.json`, in a data folder that
/// no process has open. Those of users with data in the folder are in progress then: a start
/// completes them.
///
/// # Errors
/// [`Error::Damaged`] if one of the lists is, and if the folder cannot be read or changed.
pub fn repeat_erasures(root: &Path, newer: &[u8]) -> Result<RepeatedErasures> {
    let path = root.join(ERASURES_FILE);
    let json = match checksum::unwrap(newer) {
        // Of an earlier version.
        Err(Mismatch::Missing) => Some(newer),
        unwrapped => unwrapped.ok(),
    };
    let newer = json.and_then(|json| serde_json::from_slice::<Erasures>(json).ok());
    let newer = newer.ok_or_else(|| Error::Damaged {
        file: ERASURES_FILE.into(),
        message: "the newer list of erasures is not what was written".into(),
    })?;
    let mut erasures: Erasures =
        files::read_json(&path)?.map_or_else(Erasures::default, |(value, _)| value);
    let Some(key) = newer.key().filter(|_| newer != erasures) else {
        return Ok(RepeatedErasures::default());
    };
    let is_same_key = erasures.key.is_empty() || erasures.key == newer.key;
    let is_new = |id: &str| {
        let hash = hash(&key, id);
        let known = erasures.erased.get(&hash).filter(|_| is_same_key);
        newer.pending.contains(id) || newer.erased.get(&hash) > known
    };
    let mut users: Vec<String> = ids_in(root)?;
    users.retain(|id| is_new(id));
    let mut unknown = 0;
    if is_same_key {
        erasures.key = newer.key;
        add_times(&mut erasures.erased, &newer.erased);
    } else {
        let hashes = users.iter().map(|user| hash(&key, user));
        let known = hashes.filter(|hash| newer.erased.contains_key(hash));
        unknown = newer.erased.len() - known.count();
    }
    erasures.begin(&users)?;
    erasures.pending.extend(newer.pending);
    // Writing to memory cannot fail, and the keys of the maps are strings.
    let json = serde_json::to_vec_pretty(&erasures).unwrap_or_default();
    files::write_synced(&path, &checksum::wrap(&json))?;
    Ok(RepeatedErasures { users, unknown })
}

/// The ids of all users with events, and those that identity calls name, each once.
fn ids_in(root: &Path) -> Result<Vec<String>> {
    let manifest = Manifest::load(root)?;
    let sealed_through = manifest.sealed_through;
    let version = Version::of(root, manifest);
    let mut ids = HashSet::new();
    for segment in &version.segments {
        match segment.verify() {
            Ok(()) => {
                let one = std::slice::from_ref(segment);
                let users = segment::scan(one)?.select([col(schema::USER_ID)]);
                let users = users.unique(None, UniqueKeepStrategy::Any).collect()?;
                let users = users.column(schema::USER_ID)?.str()?;
                ids.extend(users.iter().flatten().map(str::to_owned));
                if segment.meta.system > 0 {
                    ids.extend(named_in(segment)?.into_iter().map(|(id, _)| id));
                }
            }
            // It was damaged when the backup was made, and is not in it.
            Err(Error::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let logs = RotatedLog::list(root)?.into_iter();
    let logs = logs.filter(|log| log.number > sealed_through);
    let open = [EVENT_LOG_FILE, NEXT_LOG_FILE].map(|name| root.join(name));
    for log in logs.map(|log| log.path).chain(open) {
        if !recovery::check_regular(&log)? {
            continue;
        }
        recovery::scan_part(&log, 0..u64::MAX, |event| {
            ids.extend(event.user_id.as_deref().map(str::to_owned));
            ids.extend(identity::other_ids(event).map(Cow::into_owned));
            Ok(())
        })?;
    }
    ids.extend(ids_held(root)?.into_iter().map(|(id, _)| id));
    let names = Dictionaries::new()?;
    dictionary::load(root, version.dictionary, &names.users)?;
    let codes = 0..names.users.len() as u32;
    ids.extend(codes.filter_map(|code| names.users.text(code)));
    let mut ids: Vec<String> = ids.into_iter().collect();
    ids.sort_unstable();
    Ok(ids)
}

/// The ids that the identity calls of a segment name, each with the time of its call, in µs.
fn named_in(segment: &Segment) -> Result<Vec<(String, i64)>> {
    named_by(&segment::read_alone(
        segment,
        Some(&CALL_COLUMNS),
        ALL_ROWS,
    )?)
}

/// The ids of the users of held events, and those that identity calls among them name, each with
/// the time of its event, in µs.
fn ids_held(root: &Path) -> Result<Vec<(String, i64)>> {
    let held = root.join(HELD_EVENTS_FILE);
    if !files::is_file(&held)? {
        return Ok(Vec::new());
    }
    let lines = std::fs::read(&held).map_err(Error::io("read", &held))?;
    let mut ids = Vec::new();
    for held in event::lines(&lines).filter_map(held_file::read) {
        let others = identity::other_ids(&held.event).map(Cow::into_owned);
        let all = others.chain(held.event.user_id.as_deref().map(str::to_owned));
        ids.extend(all.map(|id| (id, held.event.ts_us)));
    }
    Ok(ids)
}

/// Limit of an erasure without confirmation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErasureLimit {
    /// This share of all events, in percent.
    pub percent: u8,
    /// The number of events that the client confirmed.
    pub confirmed: Option<u64>,
}

/// A number of events for which a confirmation was requested.
pub(super) struct Offer {
    users: Vec<String>,
    events: u64,
}

/// The wall clock, which is read at the start of an erasure, and then follows the monotonic one.
#[derive(Clone, Copy)]
struct EraseClock {
    now: DateTime<Utc>,
    started: Instant,
}

impl EraseClock {
    fn new(now: DateTime<Utc>) -> Self {
        Self {
            now,
            started: Instant::now(),
        }
    }

    fn now(self) -> DateTime<Utc> {
        self.now + self.started.elapsed()
    }
}

/// The time of an erasure that ends now. It is not before the last event was received, and if the
/// clock is ahead, the users stay away for longer.
fn end_time(now: DateTime<Utc>, newest_us: Option<i64>) -> DateTime<Utc> {
    let newest = newest_us.and_then(DateTime::from_timestamp_micros);
    newest.map_or(now, |newest| newest.max(now))
}

/// Days on which events are searched.
#[derive(Debug, Clone, Copy)]
enum SearchScope {
    /// Those on which the users were active, as the states say.
    DaysOfStates,
    /// All: the users may have left the states already.
    AllDays,
}

/// The events of some users in a segment, and the identity calls of others that name them.
struct Found {
    segment: Arc<Segment>,
    /// The events of the users.
    events: u64,
    users: RoaringBitmap,
    /// The share in the daily states of those of them who are in the state of the day.
    states: Slices,
    /// The share of the others, who are beyond the limit of new users or left before a crash, and
    /// that of the calls.
    rest: Slices,
    /// The calls.
    identity_calls: u64,
}

/// The share of erased users in the states of a reporting zone.
#[derive(Clone, Copy)]
struct ZoneErasure<'a> {
    tz: Tz,
    /// The codes of the users.
    users: &'a RoaringBitmap,
    /// Their events that are counted.
    removed: &'a Slices,
    /// Their ids.
    pending: &'a [&'a str],
    /// Days of UTC that were counted again: days of the zone that they overlap are too, where all
    /// of their events are kept.
    recounted: &'a BTreeSet<Day>,
}

/// Erased users of whom something is stored.
struct FoundIds<'a> {
    erased: ErasedHashes,
    users: &'a UserDictionary,
    /// Until when the events of each stay away, and the time of the first one that was found, both
    /// in µs.
    ids: HashMap<String, (i64, Option<i64>)>,
}

impl<'a> FoundIds<'a> {
    /// Those in the dictionary.
    fn among(users: &'a UserDictionary, erased: &ErasedIds) -> Self {
        let erased = ErasedHashes::new(&erased.key, &erased.hashes);
        let codes = 0..users.len() as u32;
        let known = codes.filter_map(|code| users.text(code));
        let known = known.filter(|id| users.find(id).is_some());
        let ids = known.filter_map(|id| {
            let until_us = erased.until_us(&id)?;
            Some((id, (until_us, None)))
        });
        Self {
            ids: ids.collect(),
            erased,
            users,
        }
    }

    /// Notes an event of a user, who may be one beyond the limit of new users.
    fn note(&mut self, id: &str, ts_us: i64) {
        if let Some((_, first_us)) = self.ids.get_mut(id) {
            *first_us = Some(first_us.map_or(ts_us, |first_us| first_us.min(ts_us)));
        } else if self.users.find(id).is_none()
            && let Some(until_us) = self.erased.until_us(id)
        {
            self.ids.insert(id.to_owned(), (until_us, Some(ts_us)));
        }
    }

    /// Notes a daily state, whose events may have expired.
    fn note_day(&mut self, day: Day, activity: &Activity) {
        for (id, (until_us, first_us)) in &mut self.ids {
            let is_before = day < daily::day_of(*until_us);
            if is_before && self.users.find(id).is_some_and(|code| activity.has(code)) {
                *first_us = Some(i64::MIN);
            }
        }
    }

    /// Those of whom something from before their erasure is stored, or nothing but the id.
    fn of_before(self) -> Vec<String> {
        let ids = self.ids.into_iter();
        let of_before = ids.filter(|(_, (until_us, first_us))| {
            first_us.is_none_or(|first_us| first_us <= *until_us)
        });
        let mut ids: Vec<String> = of_before.map(|(id, _)| id).collect();
        ids.sort_unstable();
        ids
    }
}

impl Store {
    /// Erases users: when this returns, nothing of theirs is in the data folder, and no event that
    /// happened before is accepted. `last` removes them from files that the store does not know.
    ///
    /// # Errors
    /// If something cannot be read or written; then [`Store::finish_erasures`] continues.
    pub fn erase(
        &self,
        users: &[String],
        now: DateTime<Utc>,
        last: impl FnOnce(&[&str]) -> Result<()> + Send,
    ) -> Result<Erased> {
        let clock = EraseClock::new(now);
        let _permit = self.jobs.erasure.wait();
        let mut erasures = Erasures::load(&self.folder)?;
        let scope = if erasures.pending.is_empty() {
            SearchScope::DaysOfStates
        } else {
            SearchScope::AllDays
        };
        erasures.begin(users)?;
        erasures.save(&self.folder)?;
        erasures.publish(&self.ingest.maker.gate, &self.names().users)?;
        pipeline::in_background(|| self.erase_pending(erasures, scope, clock, last))
    }

    /// Completes erasures that were interrupted.
    ///
    /// # Errors
    /// As [`Store::erase`].
    pub fn finish_erasures(
        &self,
        now: DateTime<Utc>,
        last: impl FnOnce(&[&str]) -> Result<()>,
    ) -> Result<Option<Erased>> {
        let clock = EraseClock::new(now);
        let _permit = self.jobs.erasure.wait();
        let erasures = Erasures::load(&self.folder)?;
        if erasures.pending.is_empty() {
            return Ok(None);
        }
        self.erase_pending(erasures, SearchScope::AllDays, clock, last)
            .map(Some)
    }

    /// Adds users whom servers of the table have erased before this one knew of them: no event of
    /// theirs is accepted from now on. Returns the ids of those of them who have data here; their
    /// erasure is recorded, and [`Store::erase`] completes it.
    ///
    /// # Errors
    /// If a file cannot be read or written; then the next call continues.
    pub fn learn_erased(&self, ids: &ErasedIds) -> Result<Vec<String>> {
        let _permit = self.jobs.erasure.wait();
        let mut erasures = Erasures::load(&self.folder)?;
        if !erasures.add_of_table(ids) {
            return Ok(Vec::new());
        }
        let (gate, users) = (&self.ingest.maker.gate, &self.names().users);
        // Before their data is searched: what was accepted until now is found.
        erasures.publish(gate, users)?;
        self.seal()?;
        let found = pipeline::in_background(|| self.ids_with_data(ids))?;
        if !found.is_empty() {
            erasures.begin(&found)?;
        }
        erasures.save(&self.folder)?;
        erasures.publish(gate, users)?;
        Ok(found)
    }

    /// Adds users of the table whom this store has erased already.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub fn note_erased(&self, ids: &ErasedIds) -> Result<()> {
        let _permit = self.jobs.erasure.wait();
        let mut erasures = Erasures::load(&self.folder)?;
        if erasures.add_of_table(ids) {
            erasures.save(&self.folder)?;
            erasures.publish(&self.ingest.maker.gate, &self.names().users)?;
        }
        Ok(())
    }

    /// The ids of those of these users of whom data from before their erasure is here.
    fn ids_with_data(&self, erased: &ErasedIds) -> Result<Vec<String>> {
        let names = self.names();
        let mut found = FoundIds::among(&names.users, erased);
        let version = self.versions.version();
        for segment in &version.segments {
            match segment::read_alone(segment, Some(&[schema::TS, schema::USER_ID]), ALL_ROWS) {
                Ok(events) => {
                    let times = events.column(schema::TS)?.to_physical_repr();
                    let ids = events.column(schema::USER_ID)?.str()?.iter();
                    for (id, ts_us) in ids.zip(times.i64()?.iter()) {
                        if let Some((id, ts_us)) = id.zip(ts_us) {
                            found.note(id, ts_us);
                        }
                    }
                }
                // It is reported elsewhere, and nothing of it can be read.
                Err(Error::Damaged { .. }) => continue,
                Err(error) => return Err(error),
            }
            if segment.meta.system > 0 {
                let named = named_in(segment)?;
                named.iter().for_each(|(id, ts_us)| found.note(id, *ts_us));
            }
        }
        let held = ids_held(self.folder.path())?;
        held.iter().for_each(|(id, ts_us)| found.note(id, *ts_us));
        for (&day, state) in &version.states {
            // One that cannot be read is reported elsewhere.
            if let Ok(activity) = state.activity_once(names) {
                found.note_day(day, &activity);
            }
        }
        Ok(found.of_before())
    }

    /// Rejects an erasure that would remove a large share of all events and was not confirmed.
    /// Users whose erasure was accepted before need no confirmation.
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
        let (all, found) = pipeline::in_background(|| self.count(&ids))?;
        let is_small = u128::from(found) * 100 <= u128::from(all) * u128::from(limit.percent);
        if is_small || found < UNCONFIRMED_EVENTS || limit.confirmed == Some(found) {
            return Ok(());
        }
        let mut offered = self.jobs.offered.lock();
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
             was removed; to go on, repeat the request with the confirmation {found} (?confirm={found}, \
             \"confirm\":{found} or --confirm {found})",
            limit.percent
        );
        *offered = Some(Offer {
            users,
            events: found,
        });
        Err(Error::Unconfirmed(message))
    }

    /// The number of all events, and of those of these users.
    fn count(&self, users: &[&str]) -> Result<(u64, u64)> {
        let numbers = self.numbers_of(users);
        let snapshot = self.versions.snapshot(&ALWAYS_US)?;
        let mut all = snapshot.version.rows();
        let mut found = 0;
        for chunk in snapshot.tail {
            let users = chunk.frame.column(schema::USER_ID)?.to_physical_repr();
            let is_theirs = |user: &u32| numbers.contains(*user);
            found += users.u32()?.iter().flatten().filter(is_theirs).count() as u64;
            all += chunk.frame.height() as u64;
        }
        let segments = snapshot.version.segments_with(&numbers, self.names())?;
        let mut segments = segments.into_iter();
        let wanted: HashSet<&str> = users.iter().copied().collect();
        pipeline::ordered_on(
            pipeline::background_threads(),
            || Ok(segments.next()),
            |segment| {
                let ids = segment::read_alone(&segment, Some(&[schema::USER_ID]), ALL_ROWS)?;
                let theirs = mask_of(&wanted, ids.column(schema::USER_ID)?.str()?);
                Ok(theirs.sum().unwrap_or(0).into())
            },
            |count: Result<u64>| {
                match count {
                    Ok(count) => found += count,
                    // The erasure itself reports it.
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
        scope: SearchScope,
        clock: EraseClock,
        last: impl FnOnce(&[&str]) -> Result<()>,
    ) -> Result<Erased> {
        let pending: Vec<&str> = erasures.pending.iter().map(String::as_str).collect();
        self.seal()?;
        let (found, damaged) = self.find(&pending, scope)?;
        let mut users = RoaringBitmap::new();
        found.iter().for_each(|found| users |= &found.users);
        let mut erased = Erased {
            users: pending.len(),
            users_found: users.len() as usize,
            events: found.iter().map(|found| found.events).sum(),
            days: days_of(found.iter().filter(|found| found.events > 0)).len(),
            identity_calls: found
                .iter()
                .map(|found| found.identity_calls as usize)
                .sum(),
            ..Erased::default()
        };
        erased.states = self.erase_in_states(&pending, &found)?;
        self.write_links_table(OldTables::All)?;
        erased.segments = self.rewrite_days(&pending, &found)?;
        erased.dictionary = self.erase_in_dictionary(&pending)?;
        erased.quarantined = mentions::remove(&self.folder, &pending)?;
        erased.held = self.held.remove_users(&self.folder, &pending)?;
        self.jobs.retired.lock().remove_all()?;
        self.remove_other_columns()?;
        last(&pending)?;
        // A file that could not be read may have events of theirs: it is tried again.
        if let Some(error) = damaged {
            return Err(error);
        }
        erasures.complete(end_time(clock.now(), self.ingest.clock.newest_us()));
        erasures.save(&self.folder)?;
        let gate = &self.ingest.maker.gate;
        let codes = gate.pending();
        // Before an event of a user who comes back can be sealed.
        self.note_erased_ids(&codes);
        erasures.publish(gate, &self.names().users)?;
        self.names().users.forget(&codes);
        info!(
            users = erased.users,
            events = erased.events,
            "Erased {} users, {} events",
            erased.users,
            erased.events
        );
        Ok(erased)
    }

    /// The codes of those of these users who have one.
    pub(in crate::store) fn numbers_of(&self, users: &[&str]) -> RoaringBitmap {
        let numbers = users
            .iter()
            .filter_map(|user| self.names().users.find(user));
        numbers.collect()
    }

    /// The segments with events of these users or with identity calls that name them, and the error
    /// of a segment that could not be read.
    fn find(&self, users: &[&str], scope: SearchScope) -> Result<(Vec<Found>, Option<Error>)> {
        let names = self.names();
        let version = self.versions.version();
        let of_users = match scope {
            SearchScope::DaysOfStates => version.segments_with(&self.numbers_of(users), names)?,
            SearchScope::AllDays => version.segments.clone(),
        };
        let of_users: HashSet<&str> = of_users.iter().map(|segment| &*segment.meta.path).collect();
        let segments = version.segments.iter().map(|segment| {
            let may_have_events = of_users.contains(&*segment.meta.path);
            (segment.clone(), may_have_events)
        });
        let mut segments = segments
            .filter(|(segment, may_have_events)| *may_have_events || segment.meta.system > 0);
        let mut found = Vec::new();
        let mut damaged = None;
        let wanted: HashSet<&str> = users.iter().copied().collect();
        pipeline::ordered_on(
            pipeline::background_threads(),
            || Ok(segments.next()),
            |(segment, may_have_events)| {
                let state = version.states.get(&segment.day());
                let known = state.map(|state| state.activity(names)).transpose()?;
                let named = state.map(|state| state.named_features(names));
                let named = named.unwrap_or_default();
                let coded = |events: DataFrame| {
                    let events = events.lazy().select(names.counted_among(&named));
                    events.collect()
                };
                let events = match may_have_events {
                    true => coded(events_of(&wanted, &segment)?)?,
                    false => coded(DataFrame::empty_with_schema(&schema::lake()))?,
                };
                let calls = coded(calls_of(&wanted, &segment)?)?;
                let numbers = events.column(schema::USER_ID)?.u32()?;
                // Users who left the state before a crash are not removed from it twice.
                let is_known = |user: Option<u32>| {
                    user.zip(known.as_ref())
                        .is_some_and(|(user, known)| known.has(user))
                };
                let is_known: BooleanChunked =
                    numbers.iter().map(|user| Some(is_known(user))).collect();
                let zones = self.versions.zones();
                let slices = |events: DataFrame| {
                    daily::read(&daily::plan(events.lazy(), zones).collect()?, zones)
                };
                let mut rest = slices(events.filter(&!&is_known)?)?;
                rest.merge(&slices(calls.clone())?);
                Ok(Found {
                    events: events.height() as u64,
                    users: daily::set(numbers.iter().flatten().collect()),
                    states: slices(events.filter(&is_known)?)?,
                    rest,
                    identity_calls: calls.height() as u64,
                    segment,
                })
            },
            |one: Result<Found>| {
                match one {
                    Ok(one) if one.events + one.identity_calls > 0 => found.push(one),
                    Ok(_) => {}
                    Err(error @ Error::Damaged { .. }) => damaged = damaged.take().or(Some(error)),
                    Err(error) => return Err(error),
                }
                Ok(())
            },
        )?;
        Ok((found, damaged))
    }

    /// Removes users from the daily states: the commit from which no query sees them.
    fn erase_in_states(&self, pending: &[&str], found: &[Found]) -> Result<usize> {
        let names = self.names();
        let users = self.numbers_of(pending);
        let mut removed = Slices::default();
        found.iter().for_each(|found| removed.merge(&found.states));
        let removed_of_utc = removed.of_utc();
        let with_events = days_of(found);
        let with_calls = days_of(found.iter().filter(|found| found.identity_calls > 0));
        // Days that still counted users beyond the limit who are erased, or the calls.
        let mut recounted: BTreeSet<Day> = BTreeSet::new();
        let mut transaction = self.begin()?;
        transaction.next.sequence += 1;
        let days: Vec<Day> = transaction.base().states.keys().copied().collect();
        let mut days = days.into_iter();
        let mut written = transaction.write_states(names, |version| {
            for utc_day in days.by_ref() {
                let day = ZoneDay::utc(utc_day);
                let Some(file) = version.state(day) else {
                    continue;
                };
                let mut state = file.state(names)?;
                let has_theirs = state.activity.has_any(&users);
                let rest = state.activity.stored_rest_user_events();
                if has_theirs {
                    state.remove(&users, removed_of_utc.get(&utc_day));
                }
                // A state does not list the users beyond the limit, nor the users who have no other
                // event than the calls: it is counted again.
                let has_rest = rest > 0 && with_events.contains(&utc_day);
                if has_rest || with_calls.contains(&utc_day) {
                    let before = state.activity.stored_events();
                    match self.day_state(version, day, pending) {
                        // The day has another segment, which is damaged: no segment of the day can
                        // be written again, and the erasure is tried again.
                        Err(Error::Damaged { .. }) if !has_rest => {}
                        counted => {
                            let counted = counted?;
                            let after = &counted.activity;
                            if after.stored_rest_user_events() < rest
                                || after.stored_events() < before
                            {
                                recounted.insert(utc_day);
                            }
                            return Ok(Some((day, counted)));
                        }
                    }
                }
                // Else it was done before a crash, or there is nothing to do.
                if has_theirs {
                    return Ok(Some((day, state)));
                }
            }
            Ok(None)
        })?;
        for found in found {
            if recounted.contains(&found.segment.day()) {
                removed.merge(&found.rest);
            }
        }
        let zones: Vec<Tz> = transaction
            .base()
            .zones
            .iter()
            .map(|zone| zone.tz)
            .collect();
        for tz in zones {
            let from_zone = ZoneErasure {
                tz,
                users: &users,
                removed: &removed,
                pending,
                recounted: &recounted,
            };
            written += self.erase_in_zone(&mut transaction, from_zone)?;
        }
        let known = transaction.base().links.links.clone();
        let mut links = Links::clone(&known);
        links.erase(&users);
        let has_links = links != *known;
        if has_links {
            transaction.write_links(links)?;
        }
        let erased = &self.ingest.maker.gate;
        if written == 0 && !has_links {
            erased.hide(pending);
            // Old states stayed if their deletion failed.
            states::remove_others(&self.folder, &transaction.base().state_paths())?;
            return Ok(0);
        }
        // A day without events has no state.
        let next = &mut transaction.next;
        next.states.retain(|_, state| state.meta.events > 0);
        for zone in &mut next.zones {
            zone.states.retain(|_, state| state.meta.events > 0);
        }
        transaction
            .commit(|published| published.erased.hide(pending))?
            .removed?;
        Ok(written)
    }

    /// Removes users from the states of a reporting zone. It holds once the transaction is
    /// committed, together with the states of UTC.
    fn erase_in_zone(
        &self,
        transaction: &mut Transaction<'_>,
        erasure: ZoneErasure<'_>,
    ) -> Result<usize> {
        let ZoneErasure { tz, users, .. } = erasure;
        let (names, base) = (self.names(), transaction.base());
        let place = Place::of(tz, self.versions.zones());
        let (Some(place), Some(zone)) = (place, base.zone(tz)) else {
            return Ok(0);
        };
        let removed = erasure.removed;
        let removed = removed.of_zone(place, |utc_day| zone.includes(utc_day));
        let days: Vec<Day> = zone.states.keys().copied().collect();
        let mut days = days.into_iter();
        transaction.write_states(names, |version| {
            for day in days.by_ref() {
                let (day, removed) = (ZoneDay { tz, day }, removed.get(&day));
                let Some(file) = version.state(day) else {
                    continue;
                };
                let mut utc_days = window::utc_days_of(day.date(), tz);
                let has_rest = utc_days.any(|utc_day| erasure.recounted.contains(&utc_day));
                if has_rest && has_events_of(version, day) {
                    match self.day_state(version, day, erasure.pending) {
                        // A segment of the other day of UTC is damaged.
                        Err(Error::Damaged { .. }) => {}
                        counted => return Ok(Some((day, counted?))),
                    }
                }
                if removed.is_some() || file.activity_once(names)?.has_any(users) {
                    let mut state = file.state(names)?;
                    state.remove(users, removed);
                    return Ok(Some((day, state)));
                }
            }
            Ok(None)
        })
    }

    /// Writes the segments with events of these users again, without them.
    fn rewrite_days(&self, users: &[&str], found: &[Found]) -> Result<usize> {
        let days = days_of(found);
        if days.is_empty() {
            return Ok(0);
        }
        // Numbers for the files of all days, by one commit.
        let first_number = self.begin()?.reserve_numbers(days.len() as u64)?;
        let mut days = days.into_iter().zip(first_number..);
        let affected: HashSet<&str> = found
            .iter()
            .map(|found| found.segment.meta.path.as_str())
            .collect();
        let users: HashSet<&str> = users.iter().copied().collect();
        let mut rewritten = 0;
        let mut failed = None;
        pipeline::ordered_on(
            pipeline::background_threads(),
            || Ok(days.next()),
            |(day, number)| self.rewrite_day(day, number, &users, &affected),
            |written: Result<usize>| {
                match written {
                    Ok(count) => rewritten += count,
                    // A damaged segment costs its own day, and is reported.
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

    /// Writes those of a day's segments that are affected again, and exchanges the folder of the
    /// day.
    fn rewrite_day(
        &self,
        day: Day,
        number: u64,
        users: &HashSet<&str>,
        affected: &HashSet<&str>,
    ) -> Result<usize> {
        let of_day = self.versions.version().segments_of(day);
        let mut new = Unpublished::default();
        let mut replaced = Vec::new();
        for segment in of_day {
            if !affected.contains(segment.meta.path.as_str()) {
                continue;
            }
            let events = segment::read_alone(&segment, None, ALL_ROWS)?;
            let mut theirs = mask_of(users, events.column(schema::USER_ID)?.str()?);
            if segment.meta.system > 0 {
                theirs = theirs | mask_of_calls(users, &events)?;
            }
            let mut events = events.filter_seq(&!theirs)?;
            let kept = if events.height() == 0 {
                None
            } else {
                events.rechunk_mut();
                let name = segment::name_in_place_of(&segment.meta, number);
                let temp = self
                    .folder
                    .temp(&format!("{}-{name}.parquet", daily::date(day)))?;
                let meta = segment::write_day(&temp, segment::path_of(day, &name), events)?;
                new.push(temp, meta.clone());
                Some(meta)
            };
            replaced.push((segment, kept));
        }
        let of_this_day = format!("{}/dt={}/", segment::LAKE_DIR, daily::date(day));
        let wanted = affected
            .iter()
            .filter(|path| path.starts_with(&of_this_day));
        if replaced.len() < wanted.count() {
            return Err(changed_meanwhile());
        }
        let rewritten = replaced.len();
        let mut transaction = self.begin()?;
        transaction.exchange_day(DayChange {
            day,
            number,
            new,
            replaced,
        })?;
        let committed = transaction.commit(|_| {})?;
        // Not kept for a while, as after a compaction: erased events must go.
        if let Some(old) = committed.old_day {
            old.remove()?;
        }
        segment::remove_empty_days(self.folder.path(), &committed.version.segment_paths())?;
        committed.removed?;
        Ok(rewritten)
    }

    fn erase_in_dictionary(&self, users: &[&str]) -> Result<usize> {
        let mut transaction = self.begin()?;
        let numbers = self.numbers_of(users);
        let dictionary = transaction.base().dictionary;
        let (meta, forgotten) = dictionary::forget(&self.folder, dictionary, &numbers)?;
        if forgotten == 0 {
            // Another generation stayed if its deletion failed.
            dictionary::remove_others(&self.folder, dictionary)?;
            return Ok(0);
        }
        transaction.next.dictionary = meta;
        transaction.commit(|_| {})?.removed?;
        Ok(forgotten)
    }
}

/// The events of some users in a segment, with the columns of [`schema::COUNTED`]. The others are
/// read only if there are any.
fn events_of(users: &HashSet<&str>, segment: &Segment) -> Result<DataFrame> {
    let ids = segment::read_alone(segment, Some(&[schema::USER_ID]), ALL_ROWS)?;
    let theirs = mask_of(users, ids.column(schema::USER_ID)?.str()?);
    let none = theirs.sum() == Some(0);
    let events = if none {
        DataFrame::empty_with_schema(&schema::lake())
    } else {
        segment::read_alone(segment, Some(&schema::COUNTED), ALL_ROWS)?.filter_seq(&theirs)?
    };
    Ok(events)
}

/// The identity calls of other users in a segment that name some users, with the columns of
/// [`CALL_COLUMNS`].
fn calls_of(users: &HashSet<&str>, segment: &Segment) -> Result<DataFrame> {
    let mut found = DataFrame::empty_with_schema(&schema::lake()).select(CALL_COLUMNS)?;
    if segment.meta.system == 0 {
        return Ok(found);
    }
    let rows = usize::try_from(segment.meta.rows).unwrap_or(usize::MAX);
    for start in (0..rows).step_by(ROWS_AT_ONCE) {
        let some = start..start.saturating_add(ROWS_AT_ONCE).min(rows);
        let events = segment::read_alone(segment, Some(&CALL_COLUMNS), some)?;
        let theirs = mask_of(users, events.column(schema::USER_ID)?.str()?);
        let calls = mask_of_calls(users, &events)? & !theirs;
        found.vstack_mut(&events.filter_seq(&calls)?)?;
    }
    Ok(found)
}

/// The days on which events were found.
fn days_of<'a>(found: impl IntoIterator<Item = &'a Found>) -> BTreeSet<Day> {
    let days = found.into_iter().map(|found| found.segment.day());
    days.collect()
}
