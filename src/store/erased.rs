//! The erased users: a filter for every event that comes in, and for every query while an erasure
//! is in progress.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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

/// Hashes of the ids of erased users, with the key without which they cannot be matched to ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErasedIds {
    /// The key, in hex.
    pub key: String,
    /// HMAC-SHA256 of each id, in hex.
    pub hashes: BTreeSet<String>,
}

impl ErasedIds {
    /// The hashes of some users.
    pub fn of(key: &str, users: &[String]) -> Self {
        let hmac = hmac_key(key);
        Self {
            key: key.to_owned(),
            hashes: users.iter().map(|user| hash(&hmac, user)).collect(),
        }
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

/// Hashes of erased users under one key.
pub(super) struct ErasedHashes {
    key: hmac::Key,
    hashes: HashSet<String>,
}

impl ErasedHashes {
    /// Hashes under a key.
    pub fn new(key: &str, hashes: &BTreeSet<String>) -> Self {
        Self {
            key: hmac_key(key),
            hashes: hashes.iter().cloned().collect(),
        }
    }

    /// True if a user is one of them.
    pub fn has(&self, user: &str) -> bool {
        self.hashes.contains(&hash(&self.key, user))
    }
}

/// The erased users, shared by all who add or read events.
#[derive(Clone)]
pub(super) struct ErasedUsers {
    /// True once there is one: read without a lock, for the many stores without any.
    is_used: Arc<AtomicBool>,
    state: Arc<OrderedRw<ErasedState>>,
}

#[derive(Default)]
struct ErasedState {
    /// Those of this store, and those of a table that it shares.
    lists: Vec<ErasedHashes>,
    /// Codes that erased users have in this process.
    numbers: RoaringBitmap,
    /// Those of them whose erasure is in progress.
    pending: RoaringBitmap,
    /// Users who are no longer in the states, and whose events may still be in segments.
    hidden: Vec<String>,
}

impl Default for ErasedUsers {
    fn default() -> Self {
        Self {
            is_used: Arc::default(),
            state: Arc::new(OrderedRw::new(Rank::ErasedUsers, ErasedState::default())),
        }
    }
}

impl ErasedUsers {
    /// True if a user is erased.
    pub fn is_erased(&self, user: &str, users: &UserDictionary) -> bool {
        if !self.is_used.load(Ordering::Acquire) {
            return false;
        }
        let state = self.read();
        // A user with a code is known; a hash takes longer.
        match users.find(user) {
            Some(number) => state.numbers.contains(number),
            None => state.lists.iter().any(|list| list.has(user)),
        }
    }

    /// True if users were erased.
    pub fn is_used(&self) -> bool {
        self.is_used.load(Ordering::Acquire)
    }

    /// The codes that erased users have in this process.
    pub fn numbers(&self) -> RoaringBitmap {
        self.read().numbers.clone()
    }

    /// The codes of users whose erasure is complete: nothing of theirs is stored.
    pub fn ended(&self) -> RoaringBitmap {
        let state = self.read();
        &state.numbers - &state.pending
    }

    /// True if an erasure is in progress.
    pub fn has_pending(&self) -> bool {
        !self.read().pending.is_empty()
    }

    /// Marks all erasures as complete.
    pub fn end(&self) {
        let mut state = self.write();
        state.pending.clear();
        state.hidden.clear();
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
            let pending: Vec<u32> = state.pending.iter().collect();
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
    /// their ids.
    ///
    /// # Errors
    /// If there is no code left for one of them.
    pub fn set(
        &self,
        lists: Vec<ErasedHashes>,
        pending: &BTreeSet<String>,
        users: &UserDictionary,
    ) -> Result<()> {
        let mut numbers = RoaringBitmap::new();
        for user in pending {
            // A user without a code gets one, so that no event in the queue adds another.
            numbers.insert(users.number(user)?);
        }
        let mut state = self.write();
        state.lists = lists;
        state.numbers |= &numbers;
        state.pending = numbers;
        self.is_used
            .store(!state.lists.is_empty(), Ordering::Release);
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

/// The ids that the identity calls among some events name.
///
/// # Errors
/// If a column is missing.
pub(super) fn named_by(events: &DataFrame) -> Result<Vec<String>> {
    let ids = named_by_row(naming_columns(events)?).flatten();
    Ok(ids.map(Cow::into_owned).collect())
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
