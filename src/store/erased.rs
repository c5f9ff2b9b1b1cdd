//! The erased users: a filter for every event that comes in, and for every query while an erasure
//! is in progress.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Utc};
use polars::prelude::*;
use ring::hmac;
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};

use super::lock::{OrderedRw, Rank, ReadGuard, WriteGuard};
use crate::dictionary::UserDictionary;
use crate::error::{Error, Result};
use crate::event::SYSTEM_NAME;
use crate::event::identity::named_ids;
use crate::schema;

/// Bytes of the key of hashes.
const KEY_BYTES: usize = 32;

/// The time of each erasure, by HMAC-SHA256 of the id, in hex. Events that happened until then stay
/// away; an event that happened later is a new user's.
pub type ErasureTimes = BTreeMap<String, DateTime<Utc>>;

/// Adds erasures; of two erasures of an id the later one counts. Returns true if that changes
/// anything.
pub(super) fn add_times(times: &mut ErasureTimes, others: &ErasureTimes) -> bool {
    let mut has_changed = false;
    for (hash, &until) in others {
        if times.get(hash).is_none_or(|&known| known < until) {
            times.insert(hash.clone(), until);
            has_changed = true;
        }
    }
    has_changed
}

/// Hashes of the ids of erased users, with the key without which they cannot be matched to ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErasedIds {
    /// The key, in hex.
    pub key: String,
    /// The times of their erasures.
    pub hashes: ErasureTimes,
}

impl ErasedIds {
    /// The hashes of some users, whose erasure was complete at a time.
    pub fn of(key: &str, users: &[String], until: DateTime<Utc>) -> Self {
        let hmac = hmac_key(key);
        let hashes = users.iter().map(|user| (hash(&hmac, user), until));
        Self {
            key: key.to_owned(),
            hashes: hashes.collect(),
        }
    }

    /// Adds erasures under the same key. Returns true if one is new or later.
    pub fn add(&mut self, times: &ErasureTimes) -> bool {
        add_times(&mut self.hashes, times)
    }

    /// A new key.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn new_key() -> Result<String> {
        let mut key = [0; KEY_BYTES];
        getrandom::fill(&mut key).map_err(|error| {
            Error::system("make a key for erased users")(std::io::Error::other(error))
        })?;
        Ok(hex::encode(key))
    }
}

/// The key of hashes, of its hex digits.
pub(super) fn hmac_key(key: &str) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes())
}

/// Erased users under one key, by the hashes of their ids.
pub(super) struct ErasedHashes {
    key: hmac::Key,
    /// Until when their events stay away, in µs.
    until_us: HashMap<String, i64>,
}

impl ErasedHashes {
    /// Hashes under a key.
    pub fn new(key: &str, times: &ErasureTimes) -> Self {
        let until_us = times
            .iter()
            .map(|(hash, until)| (hash.clone(), until.timestamp_micros()));
        Self {
            key: hmac_key(key),
            until_us: until_us.collect(),
        }
    }

    /// Until when the events of a user stay away, in µs; none if the user is not one of them.
    pub fn until_us(&self, user: &str) -> Option<i64> {
        self.until_us.get(&hash(&self.key, user)).copied()
    }

    /// True if an event of this user and time stays away.
    pub fn has(&self, user: &str, ts_us: i64) -> bool {
        self.until_us(user)
            .is_some_and(|until_us| ts_us <= until_us)
    }
}

/// The erased users, shared by all who add or read events.
#[derive(Clone)]
pub(super) struct ErasedUsers {
    /// Only events that happened until then can be of erased users: read without a lock, for the
    /// events that happen now.
    until_us: Arc<AtomicI64>,
    /// The same for the erasures that are complete.
    ended_until_us: Arc<AtomicI64>,
    state: Arc<OrderedRw<ErasedState>>,
}

#[derive(Default)]
struct ErasedState {
    /// Those of this store, and those of a table that it shares, whose erasure is complete.
    ended: Vec<ErasedHashes>,
    /// Codes that they had in this process.
    ended_codes: RoaringBitmap,
    /// Those whose erasure is in progress, by their ids and codes.
    pending: HashSet<String>,
    pending_codes: RoaringBitmap,
    /// Users who are no longer in the states, and whose events may still be in segments.
    hidden: Vec<String>,
}

impl Default for ErasedUsers {
    fn default() -> Self {
        Self {
            until_us: Arc::new(AtomicI64::new(i64::MIN)),
            ended_until_us: Arc::new(AtomicI64::new(i64::MIN)),
            state: Arc::new(OrderedRw::new(Rank::ErasedUsers, ErasedState::default())),
        }
    }
}

impl ErasedUsers {
    /// True if events of this time can be of erased users.
    pub fn reaches(&self, ts_us: i64) -> bool {
        ts_us <= self.until_us.load(Ordering::Acquire)
    }

    /// True if an event of this user and time stays away: the user is being erased, or was erased
    /// after it happened.
    pub fn is_erased(&self, user: &str, ts_us: i64) -> bool {
        if !self.reaches(ts_us) {
            return false;
        }
        let state = self.read();
        // A hash takes longer.
        state.pending.contains(user)
            || (self.reaches_ended(ts_us) && state.ended.iter().any(|list| list.has(user, ts_us)))
    }

    /// The same for the code of a user.
    pub fn is_erased_code(&self, code: u32, ts_us: i64, users: &UserDictionary) -> bool {
        let is_pending = self.read().pending_codes.contains(code);
        let is_ended = || {
            users
                .text(code)
                .is_some_and(|user| self.is_erased(&user, ts_us))
        };
        is_pending || (self.reaches_ended(ts_us) && is_ended())
    }

    fn reaches_ended(&self, ts_us: i64) -> bool {
        ts_us <= self.ended_until_us.load(Ordering::Acquire)
    }

    /// The codes of users whose erasure is in progress.
    pub fn pending(&self) -> RoaringBitmap {
        self.read().pending_codes.clone()
    }

    /// The codes that users had whose erasure is complete. Of those who have not come back nothing
    /// is stored.
    pub fn ended(&self) -> RoaringBitmap {
        self.read().ended_codes.clone()
    }

    /// True if an erasure is in progress.
    pub fn has_pending(&self) -> bool {
        !self.read().pending.is_empty()
    }

    /// Hides the events of users who are no longer in the states, and the identity calls that name
    /// them, if there are any.
    pub fn visible(&self) -> Option<Visible> {
        let state = self.read();
        let hidden: Vec<&str> = state.hidden.iter().map(String::as_str).collect();
        (!hidden.is_empty()).then(|| Visible {
            users: is_any(&hidden).not(),
            calls: names_any(&hidden).not(),
        })
    }

    /// Hides the events of these users by an expression on codes. No event of the log names them.
    pub fn visible_numbers(&self) -> Option<Expr> {
        let state = self.read();
        (!state.hidden.is_empty()).then(|| {
            let pending: Vec<u32> = state.pending_codes.iter().collect();
            let pending = Series::new(PlSmallStr::EMPTY, pending);
            let is_hidden = col(schema::USER_ID).is_in(lit(pending).implode(false), false);
            is_hidden.fill_null(lit(false)).not()
        })
    }

    /// Hides these users, who are no longer in the states, and no others.
    pub fn hide(&self, users: &[&str]) {
        self.write().hidden = users.iter().map(|&user| user.to_owned()).collect();
    }

    fn read(&self) -> ReadGuard<'_, ErasedState> {
        self.state.read()
    }

    fn write(&self) -> WriteGuard<'_, ErasedState> {
        self.state.write()
    }

    /// Sets the erased users: by the hashes of their ids, and those whose erasure is in progress by
    /// their ids. The erasures of others that were in progress are complete.
    ///
    /// # Errors
    /// If there is no code left for one of them.
    pub fn set(
        &self,
        ended: Vec<ErasedHashes>,
        pending: &BTreeSet<String>,
        users: &UserDictionary,
    ) -> Result<()> {
        let mut codes = RoaringBitmap::new();
        for user in pending {
            // A user without a code gets one, so that no event in the queue adds another.
            codes.insert(users.number(user)?);
        }
        let times = ended.iter().flat_map(|list| list.until_us.values());
        let ended_until_us = times.copied().max().unwrap_or(i64::MIN);
        let until_us = match pending.is_empty() {
            true => ended_until_us,
            false => i64::MAX,
        };
        let mut state = self.write();
        let before = std::mem::replace(&mut state.pending_codes, codes);
        state.ended_codes = (&state.ended_codes | before) - &state.pending_codes;
        state.ended = ended;
        state.pending = pending.iter().cloned().collect();
        if pending.is_empty() {
            state.hidden.clear();
        }
        self.ended_until_us.store(ended_until_us, Ordering::Release);
        self.until_us.store(until_us, Ordering::Release);
        Ok(())
    }
}

/// Hides what an erasure in progress removes: conditions on events with the columns of
/// [`schema::lake`].
#[derive(Debug, Clone)]
pub struct Visible {
    /// Hides the events of the users.
    pub users: Expr,
    /// Hides the identity calls that name them, which only `system` events are.
    calls: Expr,
}

impl Visible {
    /// Hides both.
    pub fn all(self) -> Expr {
        self.users.and(self.calls)
    }
}

/// Selects the events of some users, and the identity calls of others that name them.
pub(super) fn is_about(users: &[&str]) -> Expr {
    is_any(users).or(names_any(users))
}

/// Selects the identity calls that name some users.
fn names_any(users: &[&str]) -> Expr {
    let users: HashSet<String> = users.iter().map(|&user| user.to_owned()).collect();
    let [event_type, feature, metadata] = NAMING.map(col);
    event_type.map_many(
        move |columns| {
            let [types, features, metadata] = columns else {
                return Err(PolarsError::ColumnNotFound("of an identity call".into()));
            };
            let columns = [types.str()?, features.str()?, metadata.str()?];
            Ok(naming(|id| users.contains(id), columns).into_column())
        },
        &[feature, metadata],
        |_, fields| {
            let name = fields.first().map(|field| field.name().clone());
            Ok(Field::new(name.unwrap_or_default(), DataType::Boolean))
        },
    )
}

/// The columns that say which ids an identity call names.
const NAMING: [&str; 3] = [schema::EVENT_TYPE, schema::FEATURE, schema::METADATA];

/// The rows of events that are identity calls which name some users.
///
/// # Errors
/// If a column is missing.
pub(super) fn mask_of_calls(users: &HashSet<&str>, events: &DataFrame) -> Result<BooleanChunked> {
    Ok(naming(|id| users.contains(id), naming_columns(events)?))
}

fn naming(is_wanted: impl Fn(&str) -> bool, columns: [&StringChunked; 3]) -> BooleanChunked {
    let rows = named_by_row(columns);
    let found: BooleanChunked = rows
        .map(|mut ids| Some(ids.any(|id| is_wanted(&id))))
        .collect();
    found.with_name(PlSmallStr::from_static(schema::EVENT_TYPE))
}

/// The ids that the identity calls among some events name, each with the time of its call, in µs.
///
/// # Errors
/// If a column is missing.
pub(super) fn named_by(events: &DataFrame) -> Result<Vec<(String, i64)>> {
    let times = events.column(schema::TS)?.to_physical_repr();
    let rows = named_by_row(naming_columns(events)?).zip(times.i64()?.iter());
    let ids = rows.flat_map(|(ids, ts_us)| ids.zip(std::iter::repeat(ts_us.unwrap_or_default())));
    Ok(ids.map(|(id, ts_us)| (id.into_owned(), ts_us)).collect())
}

fn naming_columns(events: &DataFrame) -> Result<[&StringChunked; 3]> {
    let [event_type, feature, metadata] = NAMING.map(|name| events.column(name)?.str());
    Ok([event_type?, feature?, metadata?])
}

/// The ids that each row names, of which only identity calls name any.
fn named_by_row<'a>(
    [types, features, metadata]: [&'a StringChunked; 3],
) -> impl Iterator<Item = impl Iterator<Item = Cow<'a, str>>> {
    let rows = types.iter().zip(features.iter()).zip(metadata.iter());
    rows.map(|((event_type, feature), metadata)| {
        let call = feature.filter(|_| event_type == Some(SYSTEM_NAME));
        named_ids(call.unwrap_or_default(), metadata.unwrap_or_default())
    })
}

/// Selects the events of some users.
pub(super) fn is_any(users: &[&str]) -> Expr {
    let users = Series::new(PlSmallStr::EMPTY, users);
    col(schema::USER_ID)
        .cast(DataType::String)
        .is_in(lit(users).implode(false), false)
        .fill_null(lit(false))
}

/// The rows of a column of ids that are of some users.
pub(super) fn mask_of(users: &HashSet<&str>, ids: &StringChunked) -> BooleanChunked {
    let is_theirs = |id: Option<&str>| id.is_some_and(|id| users.contains(id));
    ids.iter().map(|id| Some(is_theirs(id))).collect()
}

/// The keyed hash that is kept of an erased id.
pub(super) fn hash(key: &hmac::Key, user: &str) -> String {
    hex::encode(hmac::sign(key, user.as_bytes()).as_ref())
}
