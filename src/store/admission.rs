//! Admission: which names of accepted events get a number of their own.
//!
//! Whoever sends events chooses the names of users and features, so both are limited by the day. An event beyond a limit is
//! stored as it was sent; daily states count it under *rest*:
//!
//! - The first features of a day of `ts`, in the order of arrival, are counted by name, and later ones together as
//!   [`REST_FEATURE`]; so are new ones when all days together name very many. Which ones were first is what the day's state says: it has their names.
//! - The first new users of a day of `received_at` get a number in the dictionary. An event of a later one counts as an event
//!   and not as a user ([`REST_USER`]), until a day on which there is room for that user.
//! - The first keys of metadata of a day of `received_at`, counted since the start, are known as such. Keys are kept nowhere
//!   but in their events, so that an event with a later one is counted and said to have one, and nothing else.
//!
//! Event types need no limit: there are three.
//!
//! A name gets its number here and nowhere else, when its event is about to be stored: a rejected event, a duplicate or a
//! query leaves nothing behind.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use polars::prelude::*;
use roaring::RoaringBitmap;
use serde::Serialize;

use super::draft::{Draft, DraftMaker, DraftRow, Name};
use super::lock::{Guard, Ordered, Rank};
use super::row::Row;
use super::version::NewUsers;
use crate::config::NameLimits;
use crate::daily::{Day, day_of};
use crate::digest::{Digest, DigestSet, Digester};
use crate::error::Result;
use crate::event::path;
use crate::names::{Lookup, Names, REST_FEATURE, REST_USER};
use crate::schema;

/// Features of all days that have a number at once: far more than a product has, and with the longest names of ASCII some
/// 100 MB.
pub(super) const MAX_FEATURES: usize = 250_000;

/// Events whose name is beyond a limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RestCounts {
    /// Events with a feature beyond the limit of features a day.
    pub features: u64,
    /// Events of users beyond the limit of new users a day.
    pub users: u64,
    /// Events with a key of metadata beyond the limit of keys a day.
    pub metadata_keys: u64,
}

impl RestCounts {
    /// Whether no event was beyond a limit.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what other events came to.
    pub fn add(&mut self, other: Self) {
        self.features += other.features;
        self.users += other.users;
        self.metadata_keys += other.metadata_keys;
    }
}

/// How far the limits of names are used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct NameUse {
    /// Most features that a day has a number for, of the days that got events since the start.
    pub features: u64,
    /// New users of the newest day.
    pub new_users: u32,
    /// Keys of metadata of the newest day.
    pub metadata_keys: u64,
    /// Events beyond the limits since the start.
    pub rest: RestCounts,
}

/// Gives numbers to names, shared by all who add events to a store.
#[derive(Clone)]
pub(super) struct Admission {
    names: Names,
    keys: Digester,
    limits: NameLimits,
    admitted: Arc<Ordered<Admitted>>,
    beyond: Arc<Beyond>,
    /// How many new users there were at the end of each log that waits to be sealed.
    at_end_of_log: Arc<Ordered<HashMap<LogId, NewUsers>>>,
}

/// What tells the file of a log from all others: device and inode.
type LogId = (u64, u64);

#[derive(Default)]
struct Beyond {
    features: AtomicU64,
    users: AtomicU64,
    metadata_keys: AtomicU64,
}

/// What was admitted so far.
#[derive(Default)]
pub(super) struct Admitted {
    /// The features of each day that have a number; days are added when their first event comes.
    days: HashMap<Day, RoaringBitmap>,
    new_users: NewUsers,
    metadata_keys: MetadataKeys,
}

/// The keys of metadata that were admitted on the day of the newest one.
#[derive(Default)]
struct MetadataKeys {
    /// The day, by `received_at`.
    day: Day,
    /// Their digests.
    keys: DigestSet,
}

impl MetadataKeys {
    /// Whether an event of a day that has this key is within the limit.
    fn admit(&mut self, key: Digest, day: Day, limit: u32) -> bool {
        if day > self.day {
            self.day = day;
            self.keys.clear();
        }
        self.keys.contains(&key) || (self.keys.len() < limit as usize && self.keys.insert(key))
    }
}

impl Admitted {
    /// How many new users the newest day had.
    pub fn new_users(&self) -> NewUsers {
        self.new_users
    }
}

/// Says which features the state of a day names.
pub(super) type NamedFeatures<'a> = dyn Fn(Day) -> RoaringBitmap + 'a;

impl Admission {
    pub fn new(maker: &DraftMaker, limits: NameLimits, new_users: NewUsers) -> Self {
        let admitted = Admitted {
            new_users,
            ..Admitted::default()
        };
        Self {
            names: maker.names.clone(),
            keys: maker.keys,
            limits,
            admitted: Arc::new(Ordered::new(Rank::Admission, admitted)),
            beyond: Arc::default(),
            at_end_of_log: Arc::new(Ordered::new(Rank::Leaf, HashMap::new())),
        }
    }

    /// The names that have a number.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The limits.
    pub fn limits(&self) -> NameLimits {
        self.limits
    }

    /// What was admitted, to be added to.
    pub fn lock(&self) -> Guard<'_, Admitted> {
        self.admitted.lock()
    }

    /// Notes that the events of a log have been admitted, all of them.
    pub fn end_log(&self, log: LogId) {
        let new_users = self.lock().new_users;
        self.lock_logs().insert(log, new_users);
    }

    /// How many new users there were at the end of a log that is sealed now; `before` if it is not known.
    pub fn new_users_of(&self, log: LogId, before: NewUsers) -> NewUsers {
        self.lock_logs().get(&log).copied().unwrap_or(before)
    }

    /// Forgets a log that has been sealed.
    pub fn forget_log(&self, log: LogId) {
        self.lock_logs().remove(&log);
    }

    fn lock_logs(&self) -> Guard<'_, HashMap<LogId, NewUsers>> {
        self.at_end_of_log.lock()
    }

    /// How far the limits are used.
    pub fn usage(&self) -> NameUse {
        let admitted = self.lock();
        NameUse {
            features: admitted
                .days
                .values()
                .map(RoaringBitmap::len)
                .max()
                .unwrap_or(0),
            new_users: admitted.new_users.users,
            metadata_keys: admitted.metadata_keys.keys.len() as u64,
            rest: RestCounts {
                features: self.beyond.features.load(Ordering::Relaxed),
                users: self.beyond.users.load(Ordering::Relaxed),
                metadata_keys: self.beyond.metadata_keys.load(Ordering::Relaxed),
            },
        }
    }

    /// The user of an event that is not admitted yet, if that user has a number.
    pub fn find_user(&self, row: &DraftRow, unnamed: &str) -> Option<u32> {
        match row.user? {
            Name::Known(number) => Some(number),
            name => self.names.users.find(name.string(unnamed)),
        }
    }

    /// Admits an event of a draft that is about to be stored. `named` says which features the state of a day names.
    pub fn admit(
        &self,
        admitted: &mut Admitted,
        row: &DraftRow,
        draft: &Draft,
        named: &NamedFeatures<'_>,
        rest: &mut RestCounts,
    ) -> Row {
        let unnamed = &draft.unnamed;
        let mut has_keys_beyond = false;
        for &key in draft.metadata_keys_of(row) {
            has_keys_beyond |= !self.metadata_key(admitted, key, row.received_at_us);
        }
        let user = row.user.map(|user| match user {
            Name::Known(number) => number,
            name => self.user(admitted, name.string(unnamed), row.received_at_us),
        });
        let feature = row.feature.map(|feature| {
            let day = day_of(row.ts_us);
            match feature {
                Name::Known(number) => self.known_feature(admitted, number, day, named),
                name => self.feature(admitted, name.string(unnamed), day, named),
            }
        });
        let beyond = RestCounts {
            features: u64::from(feature == Some(REST_FEATURE)),
            users: u64::from(user == Some(REST_USER)),
            metadata_keys: u64::from(has_keys_beyond),
        };
        self.count(beyond);
        rest.add(beyond);
        Row {
            ts_us: row.ts_us,
            event_type: row.event_type,
            user,
            feature,
        }
    }

    /// Admits events that are about to be stored, with the columns of [`schema::lake`]. Returns those of
    /// [`schema::COUNTED`] as numbers.
    ///
    /// # Errors
    /// If a column is missing.
    pub fn admit_all(
        &self,
        events: &DataFrame,
        named: &NamedFeatures<'_>,
    ) -> Result<(DataFrame, RestCounts)> {
        let instants = events.column(schema::TS)?.to_physical_repr();
        let instants = instants.i64()?;
        let received = events.column(schema::RECEIVED_AT)?.to_physical_repr();
        let event_types = events.column(schema::EVENT_TYPE)?.str()?;
        let event_types = self.names.event_types.lookup(event_types);
        let event_types = event_types.map(|found| match found {
            Lookup::Known(number) => Some(number),
            Lookup::Null | Lookup::Unknown(_) => None,
        });
        let users = self
            .names
            .users
            .lookup(events.column(schema::USER_ID)?.str()?);
        let users = users.zip(received.i64()?.iter());
        let users = users.map(|(found, received_at_us)| match found {
            Lookup::Null => None,
            Lookup::Known(number) => Some(number),
            Lookup::Unknown(id) => {
                Some(self.user(&mut self.lock(), id, received_at_us.unwrap_or_default()))
            }
        });
        let mut of_day = (Day::MIN, RoaringBitmap::new());
        let features = self
            .names
            .features
            .lookup(events.column(schema::FEATURE)?.str()?);
        let features = features.zip(instants.iter()).map(|(found, ts_us)| {
            let day = day_of(ts_us.unwrap_or_default());
            let number = match found {
                Lookup::Null => return None,
                // Events lie day by day, so that most need no lock.
                Lookup::Known(number) if of_day.0 == day && of_day.1.contains(number) => number,
                Lookup::Known(number) => self.known_feature(&mut self.lock(), number, day, named),
                Lookup::Unknown(name) => self.feature(&mut self.lock(), name, day, named),
            };
            if of_day.0 != day {
                of_day = (day, RoaringBitmap::new());
            }
            if number != REST_FEATURE {
                of_day.1.insert(number);
            }
            Some(number)
        });
        let mut known_keys = DigestSet::default();
        let mut with_keys_beyond = 0;
        let objects = events.column(schema::METADATA)?.str()?;
        for (object, received_at_us) in objects.iter().zip(received.i64()?.iter()) {
            let mut has_keys_beyond = false;
            for (key, _) in path::entries(object.unwrap_or_default()) {
                let key = self.keys.digest(key);
                // Most are those of the events before, so that most need no lock.
                if known_keys.contains(&key) {
                    continue;
                }
                let received_at_us = received_at_us.unwrap_or_default();
                if self.metadata_key(&mut self.lock(), key, received_at_us) {
                    known_keys.insert(key);
                } else {
                    has_keys_beyond = true;
                }
            }
            with_keys_beyond += u64::from(has_keys_beyond);
        }
        let name = PlSmallStr::from_static;
        let event_types: UInt32Chunked = event_types.collect();
        let users: UInt32Chunked = users.collect();
        let features: UInt32Chunked = features.collect();
        let count = |numbers: &UInt32Chunked, rest: u32| {
            numbers
                .iter()
                .filter(|number| *number == Some(rest))
                .count() as u64
        };
        let rest = RestCounts {
            features: count(&features, REST_FEATURE),
            users: count(&users, REST_USER),
            metadata_keys: with_keys_beyond,
        };
        self.count(rest);
        let numbered = DataFrame::new(
            events.height(),
            vec![
                events.column(schema::TS)?.clone(),
                event_types
                    .with_name(name(schema::EVENT_TYPE))
                    .into_column(),
                users.with_name(name(schema::USER_ID)).into_column(),
                features.with_name(name(schema::FEATURE)).into_column(),
            ],
        )?;
        Ok((numbered, rest))
    }

    /// Whether a key of metadata is within the limit of its day.
    fn metadata_key(&self, admitted: &mut Admitted, key: Digest, received_at_us: i64) -> bool {
        let day = day_of(received_at_us);
        admitted
            .metadata_keys
            .admit(key, day, self.limits.metadata_keys)
    }

    /// The number of a user, or [`REST_USER`].
    fn user(&self, admitted: &mut Admitted, id: &str, received_at_us: i64) -> u32 {
        if let Some(number) = self.names.users.find(id) {
            return number;
        }
        let day = day_of(received_at_us);
        let new_users = &mut admitted.new_users;
        if day > new_users.day {
            *new_users = NewUsers { day, users: 0 };
        }
        if new_users.users >= self.limits.new_users {
            return REST_USER;
        }
        new_users.users += 1;
        // Beyond 32 bits there is no number either.
        self.names.users.number(id).unwrap_or(REST_USER)
    }

    /// The number of a feature without one, or [`REST_FEATURE`].
    fn feature(
        &self,
        admitted: &mut Admitted,
        name: &str,
        day: Day,
        named: &NamedFeatures<'_>,
    ) -> u32 {
        if let Some(number) = self.names.features.find(name) {
            return self.known_feature(admitted, number, day, named);
        }
        let of_day = admitted.days.entry(day).or_insert_with(|| named(day));
        if of_day.len() >= u64::from(self.limits.features)
            || self.names.features.len() >= MAX_FEATURES
        {
            return REST_FEATURE;
        }
        // Beyond 32 bits there is no number either.
        let number = self.names.features.number(name).unwrap_or(REST_FEATURE);
        of_day.insert(number);
        number
    }

    /// The number of a feature, or [`REST_FEATURE`] if the day has no room for it.
    fn known_feature(
        &self,
        admitted: &mut Admitted,
        number: u32,
        day: Day,
        named: &NamedFeatures<'_>,
    ) -> u32 {
        let of_day = admitted.days.entry(day).or_insert_with(|| named(day));
        if !of_day.contains(number) {
            if of_day.len() >= u64::from(self.limits.features) {
                return REST_FEATURE;
            }
            of_day.insert(number);
        }
        number
    }

    fn count(&self, beyond: RestCounts) {
        if !beyond.is_empty() {
            self.beyond
                .features
                .fetch_add(beyond.features, Ordering::Relaxed);
            self.beyond.users.fetch_add(beyond.users, Ordering::Relaxed);
            self.beyond
                .metadata_keys
                .fetch_add(beyond.metadata_keys, Ordering::Relaxed);
        }
    }
}
