//! Admission: assigns codes to the users and features of accepted events, within daily limits.
//!
//! Clients choose the ids of users and the names of features, so both are limited per day. An event
//! beyond a limit is stored as it was sent; daily states count it under *rest*:
//!
//! - The first features of a day of `ts`, in the order of arrival, are counted by name, and later
//!   ones together as [`REST_FEATURE`]. New features are also counted together once all days have
//!   very many. The daily state has the names of the first ones.
//! - The first new users of a day of `received_at` get a code in the dictionary. Events of later
//!   ones count as events without a user ([`REST_USER`]), until a day on which the user is within
//!   the limit.
//! - The first metadata keys of a day of `received_at`, since the process started, are within the
//!   limit. Keys are stored in their events only, so that an event with a later key is just counted
//!   and reported.
//!
//! Event types need no limit: there are three.
//!
//! Codes are assigned here and nowhere else, when the event is about to be stored: rejected events,
//! duplicates and queries assign none.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use polars::prelude::*;
use roaring::RoaringBitmap;
use serde::Serialize;
use utoipa::ToSchema;

use super::batch::{BatchBuilder, BatchRow, Name, WriteBatch};
use crate::config::NameLimits;
use crate::daily::{Day, day_of};
use crate::dictionary::{Dictionaries, Lookup, REST_FEATURE, REST_USER, UserDictionary};
use crate::digest::{Digest, DigestSet, Digester};
use crate::error::Result;
use crate::event::identity::Identity;
use crate::event::path;
use crate::links::Statement;
use crate::schema;
use crate::store::files::rotation::LogId;
use crate::store::lock::{Guard, Ordered, Rank};
use crate::store::version::NewUsers;
use crate::store::version::row::Row;

/// Most features with a code, over all days: far more than a product has. With the longest ASCII
/// names they take some 100 MB.
pub(in crate::store) const MAX_FEATURES: usize = 250_000;

/// Numbers of events with a name beyond a limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct RestCounts {
    /// Events with a feature beyond the limit of features a day.
    pub features: u64,
    /// Events of users beyond the limit of new users a day.
    pub users: u64,
    /// Events with a metadata key beyond the limit of keys a day.
    pub metadata_keys: u64,
}

impl RestCounts {
    /// True if no event was beyond a limit.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds the counts of other events.
    pub fn add(&mut self, other: Self) {
        self.features += other.features;
        self.users += other.users;
        self.metadata_keys += other.metadata_keys;
    }
}

/// Use of the daily limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct NameUse {
    /// Most features with a code that a day has, of the days that got events since the start.
    pub features: u64,
    /// New users of the newest day.
    pub new_users: u32,
    /// Metadata keys of the newest day.
    pub metadata_keys: u64,
    /// Events beyond the limits since the start.
    pub rest: RestCounts,
}

/// Assigns codes; shared by everything that adds events to a store.
#[derive(Clone)]
pub(in crate::store) struct Admission {
    names: Dictionaries,
    keys: Digester,
    limits: NameLimits,
    admitted: Arc<Ordered<Admitted>>,
    beyond: Arc<Beyond>,
    /// The new users up to the end of each log that is waiting for its seal.
    at_end_of_log: Arc<Ordered<HashMap<LogId, NewUsers>>>,
}

#[derive(Default)]
struct Beyond {
    features: AtomicU64,
    users: AtomicU64,
    metadata_keys: AtomicU64,
}

/// Names that were admitted so far.
#[derive(Default)]
pub(in crate::store) struct Admitted {
    /// The features that have a code on each day; a day is added with its first event.
    days: HashMap<Day, RoaringBitmap>,
    new_users: NewUsers,
    metadata_keys: MetadataKeys,
}

/// An identity call that is not admitted yet.
pub(in crate::store) struct Said {
    pub ts_us: i64,
    pub received_at_us: i64,
    pub user: String,
    pub identity: Identity<String>,
}

/// The statement of an event about its user and another id, by their codes. Ids beyond the limit of
/// new users have none.
fn statement(ts_us: i64, user: Option<u32>, id: Identity<u32>) -> Option<Statement> {
    let alias = match id {
        Identity::Nothing => return None,
        Identity::Known | Identity::Alias(REST_USER) => None,
        Identity::Alias(code) => Some(code),
    };
    let user = user.filter(|&user| user != REST_USER)?;
    Some(Statement { ts_us, user, alias })
}

/// The metadata keys that were admitted on the newest day.
#[derive(Default)]
struct MetadataKeys {
    /// The day, by `received_at`.
    day: Day,
    /// Their digests.
    keys: DigestSet,
}

impl MetadataKeys {
    /// Admits a key of an event of that day. False if it is beyond the limit.
    fn admit(&mut self, key: Digest, day: Day, limit: u32) -> bool {
        if day > self.day {
            self.day = day;
            self.keys.clear();
        }
        self.keys.contains(&key) || (self.keys.len() < limit as usize && self.keys.insert(key))
    }
}

impl Admitted {
    /// The new users of the newest day.
    pub fn new_users(&self) -> NewUsers {
        self.new_users
    }
}

/// Returns the features that the state of a day counts by name.
pub(in crate::store) type NamedFeatures<'a> = dyn Fn(Day) -> RoaringBitmap + 'a;

impl Admission {
    pub fn new(maker: &BatchBuilder, limits: NameLimits, new_users: NewUsers) -> Self {
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

    /// The dictionaries.
    pub fn names(&self) -> &Dictionaries {
        &self.names
    }

    /// The limits.
    pub fn limits(&self) -> NameLimits {
        self.limits
    }

    /// Locks the names that were admitted, to admit more.
    pub fn lock(&self) -> Guard<'_, Admitted> {
        self.admitted.lock()
    }

    /// Records that all events of a log have been admitted.
    pub fn end_log(&self, log: LogId) {
        let new_users = self.lock().new_users;
        self.at_end_of_log.lock().insert(log, new_users);
    }

    /// The new users up to the end of a log that is being sealed; `before` if the log is not known.
    pub fn new_users_of(&self, log: LogId, before: NewUsers) -> NewUsers {
        let logs = self.at_end_of_log.lock();
        logs.get(&log).copied().unwrap_or(before)
    }

    /// Forgets a log that has been sealed.
    pub fn forget_log(&self, log: LogId) {
        self.at_end_of_log.lock().remove(&log);
    }

    /// Use of the limits.
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

    /// The ids of users.
    pub fn users(&self) -> &UserDictionary {
        &self.names.users
    }

    /// Admits an event of a write batch that is about to be stored.
    pub fn admit(
        &self,
        admitted: &mut Admitted,
        row: &BatchRow,
        batch: &WriteBatch,
        named: &NamedFeatures<'_>,
        rest: &mut RestCounts,
    ) -> Row {
        let unnamed = &batch.unnamed;
        let mut has_keys_beyond = false;
        for &key in batch.metadata_keys_of(row) {
            has_keys_beyond |= !self.metadata_key(admitted, key, row.received_at_us);
        }
        let user = row.user.map(|user| match user {
            Name::Known(code) => code,
            name => self.user(admitted, name.string(unnamed), row.received_at_us),
        });
        let feature = row.feature.map(|feature| {
            let day = day_of(row.ts_us);
            match feature {
                Name::Known(code) => self.known_feature(admitted, code, day, named),
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
        let id = match row.identity {
            Identity::Nothing => Identity::Nothing,
            Identity::Known => Identity::Known,
            Identity::Alias(Name::Known(code)) => Identity::Alias(code),
            Identity::Alias(name) => {
                let id = name.string(unnamed);
                Identity::Alias(self.user(admitted, id, row.received_at_us))
            }
        };
        Row {
            ts_us: row.ts_us,
            event_type: row.event_type,
            user,
            feature,
            statement: statement(row.ts_us, user, id),
        }
    }

    /// Admits the ids that an identity call of a user names, and returns what it says.
    pub fn admit_identity(&self, said: &Said) -> Option<Statement> {
        let mut admitted = self.lock();
        let mut code = |id: &str| self.user(&mut admitted, id, said.received_at_us);
        let user = code(&said.user);
        let id = match &said.identity {
            Identity::Nothing => Identity::Nothing,
            Identity::Known => Identity::Known,
            Identity::Alias(id) => Identity::Alias(code(id)),
        };
        statement(said.ts_us, Some(user), id)
    }

    /// Admits events that are about to be stored, with the columns of [`schema::lake`]. Returns the
    /// columns of [`schema::COUNTED`] as codes.
    ///
    /// # Errors
    /// If a column is missing.
    pub fn admit_all(
        &self,
        events: &DataFrame,
        named: &NamedFeatures<'_>,
    ) -> Result<(DataFrame, RestCounts)> {
        let timestamps = events.column(schema::TS)?.to_physical_repr();
        let timestamps = timestamps.i64()?;
        let received = events.column(schema::RECEIVED_AT)?.to_physical_repr();
        let event_types = events.column(schema::EVENT_TYPE)?.str()?;
        let event_types = self.names.event_types.lookup(event_types);
        let event_types = event_types.map(|found| match found {
            Lookup::Null => None,
            Lookup::Known(code) => Some(code),
            // It fails when all codes of 32 bits are assigned.
            Lookup::Unknown(name) => self.names.event_types.number(name).ok(),
        });
        let users = self
            .names
            .users
            .lookup(events.column(schema::USER_ID)?.str()?);
        let users = users.zip(received.i64()?.iter());
        let users = users.map(|(found, received_at_us)| match found {
            Lookup::Null => None,
            Lookup::Known(code) => Some(code),
            Lookup::Unknown(id) => {
                Some(self.user(&mut self.lock(), id, received_at_us.unwrap_or_default()))
            }
        });
        let mut of_day = (Day::MIN, RoaringBitmap::new());
        let features = self
            .names
            .features
            .lookup(events.column(schema::FEATURE)?.str()?);
        let features = features.zip(timestamps.iter()).map(|(found, ts_us)| {
            let day = day_of(ts_us.unwrap_or_default());
            let code = match found {
                Lookup::Null => return None,
                // The events of a day are neighbours, so that most need no lock.
                Lookup::Known(code) if of_day.0 == day && of_day.1.contains(code) => code,
                Lookup::Known(code) => self.known_feature(&mut self.lock(), code, day, named),
                Lookup::Unknown(name) => self.feature(&mut self.lock(), name, day, named),
            };
            if of_day.0 != day {
                of_day = (day, RoaringBitmap::new());
            }
            if code != REST_FEATURE {
                of_day.1.insert(code);
            }
            Some(code)
        });
        let mut known_keys = DigestSet::default();
        let mut with_keys_beyond = 0;
        let objects = events.column(schema::METADATA)?.str()?;
        for (object, received_at_us) in objects.iter().zip(received.i64()?.iter()) {
            let mut has_keys_beyond = false;
            for (key, _) in path::entries(object.unwrap_or_default()) {
                let key = self.keys.digest(key);
                // Most events have the keys of the events before them and need no lock.
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
        let count = |codes: &UInt32Chunked, rest: u32| {
            codes.iter().filter(|code| *code == Some(rest)).count() as u64
        };
        let rest = RestCounts {
            features: count(&features, REST_FEATURE),
            users: count(&users, REST_USER),
            metadata_keys: with_keys_beyond,
        };
        self.count(rest);
        let admitted = DataFrame::new(
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
        Ok((admitted, rest))
    }

    /// Admits a metadata key. False if it is beyond the limit of its day.
    fn metadata_key(&self, admitted: &mut Admitted, key: Digest, received_at_us: i64) -> bool {
        let day = day_of(received_at_us);
        admitted
            .metadata_keys
            .admit(key, day, self.limits.metadata_keys)
    }

    /// Admits a user. Returns the code, or [`REST_USER`] beyond the limit.
    fn user(&self, admitted: &mut Admitted, id: &str, received_at_us: i64) -> u32 {
        if let Some(code) = self.names.users.find(id) {
            return code;
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
        // It fails when all codes of 32 bits are assigned.
        self.names.users.number(id).unwrap_or(REST_USER)
    }

    /// Admits a feature that may have no code yet. Returns its code, or [`REST_FEATURE`] beyond a
    /// limit.
    fn feature(
        &self,
        admitted: &mut Admitted,
        name: &str,
        day: Day,
        named: &NamedFeatures<'_>,
    ) -> u32 {
        if let Some(code) = self.names.features.find(name) {
            return self.known_feature(admitted, code, day, named);
        }
        let of_day = admitted.days.entry(day).or_insert_with(|| named(day));
        if of_day.len() >= u64::from(self.limits.features)
            || self.names.features.len() >= MAX_FEATURES
        {
            return REST_FEATURE;
        }
        // It fails when all codes of 32 bits are assigned.
        let code = self.names.features.number(name).unwrap_or(REST_FEATURE);
        of_day.insert(code);
        code
    }

    /// Admits a feature that has a code on another day. Returns the code, or [`REST_FEATURE`]
    /// beyond the limit of the day.
    fn known_feature(
        &self,
        admitted: &mut Admitted,
        code: u32,
        day: Day,
        named: &NamedFeatures<'_>,
    ) -> u32 {
        let of_day = admitted.days.entry(day).or_insert_with(|| named(day));
        if !of_day.contains(code) {
            if of_day.len() >= u64::from(self.limits.features) {
                return REST_FEATURE;
            }
            of_day.insert(code);
        }
        code
    }

    /// Counts events beyond limits, for [`Admission::usage`].
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

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::event::{Event, EventType};
    use crate::store::erased::ErasedUsers;
    use crate::store::files::rows::LakeRows;
    use crate::window::DAY_US;

    const LIMITS: NameLimits = NameLimits {
        features: 2,
        new_users: 1,
        metadata_keys: 1,
    };

    fn maker() -> Result<BatchBuilder> {
        Ok(BatchBuilder {
            names: Dictionaries::new()?,
            keys: Digester::new(),
            gate: ErasedUsers::default(),
            pseudonyms: None,
        })
    }

    /// An event of user and feature, of a day by `ts` and of another by `received_at`.
    fn event(
        user: Option<&'static str>,
        feature: Option<&'static str>,
        (day, received_on): (Day, Day),
        metadata: &'static str,
    ) -> Event<'static> {
        Event {
            ts_us: i64::from(day) * DAY_US,
            event_type: EventType::Action,
            user_id: user.map(Cow::Borrowed),
            feature: feature.map(Cow::Borrowed),
            metadata: metadata.into(),
            url: None,
            event_id: None,
            received_at_us: i64::from(received_on) * DAY_US,
        }
    }

    /// Events beyond each of the limits, and those just within them. With limits of 2, 1 and 1.
    fn events() -> Vec<Event<'static>> {
        vec![
            event(Some("u"), Some("a"), (1, 5), "{}"),
            event(Some("u"), Some("b"), (1, 5), r#"{"k":1}"#),
            // The third feature of day 1, the second new user of day 5, the second key.
            event(Some("v"), Some("c"), (1, 5), r#"{"l":1}"#),
            // Day 2 has a limit of its own; a feature of day 1 is counted there by name too.
            event(Some("u"), Some("c"), (2, 5), r#"{"k":1}"#),
            event(None, Some("a"), (2, 5), "{}"),
            event(None, Some("b"), (2, 5), "{}"),
            event(None, None, (2, 5), "{}"),
            // The next day of `received_at`.
            event(Some("v"), Some("a"), (1, 6), r#"{"l":1}"#),
            event(Some("w"), Some("b"), (1, 6), "{}"),
        ]
    }

    /// The user and feature of each of [`events`], as strings.
    const EXPECTED: [(Option<&str>, Option<&str>); 9] = [
        (Some("u"), Some("a")),
        (Some("u"), Some("b")),
        (Some("rest"), Some("rest")),
        (Some("u"), Some("c")),
        (None, Some("a")),
        (None, Some("rest")),
        (None, None),
        (Some("v"), Some("a")),
        (Some("rest"), Some("b")),
    ];

    const EXPECTED_REST: RestCounts = RestCounts {
        features: 2,
        users: 2,
        metadata_keys: 1,
    };

    fn strings(
        names: &Dictionaries,
        user: Option<u32>,
        feature: Option<u32>,
    ) -> (Option<String>, Option<&str>) {
        let of_user = |user| match user {
            REST_USER => "rest".into(),
            user => names.users.text(user).unwrap_or_else(|| "unknown".into()),
        };
        let of_feature = |feature| match feature {
            REST_FEATURE => "rest",
            feature => names.features.text(feature).unwrap_or("unknown"),
        };
        (user.map(of_user), feature.map(of_feature))
    }

    #[test]
    fn each_limit_holds_for_its_day() -> Result<()> {
        let maker = maker()?;
        let admission = Admission::new(&maker, LIMITS, NewUsers::default());
        let mut batch = WriteBatch::default();
        for event in events() {
            maker.push(&mut batch, &event);
        }
        let mut rest = RestCounts::default();
        let rows = batch.rows.iter().map(|row| {
            let named = &|_| RoaringBitmap::new();
            let row = admission.admit(&mut admission.lock(), row, &batch, named, &mut rest);
            strings(admission.names(), row.user, row.feature)
        });
        let rows: Vec<_> = rows.collect();
        let rows = rows
            .iter()
            .map(|(user, feature)| (user.as_deref(), *feature));
        assert_eq!(rows.collect::<Vec<_>>(), EXPECTED);
        assert_eq!(rest, EXPECTED_REST);
        let usage = admission.usage();
        assert_eq!(
            (usage.features, usage.new_users, usage.metadata_keys),
            (2, 1, 1)
        );
        assert_eq!(usage.rest, EXPECTED_REST);
        Ok(())
    }

    #[test]
    fn a_frame_of_events_is_admitted_like_single_events() -> Result<()> {
        let maker = maker()?;
        let admission = Admission::new(&maker, LIMITS, NewUsers::default());
        let mut rows = LakeRows::for_lines(0);
        for event in events() {
            rows.push(&event);
        }
        let (admitted, rest) = admission.admit_all(&rows.finish()?, &|_| RoaringBitmap::new())?;
        let users = admitted.column(schema::USER_ID)?.u32()?;
        let features = admitted.column(schema::FEATURE)?.u32()?;
        let rows = users.iter().zip(features.iter());
        let rows = rows.map(|(user, feature)| strings(admission.names(), user, feature));
        let rows: Vec<_> = rows.collect();
        let rows = rows
            .iter()
            .map(|(user, feature)| (user.as_deref(), *feature));
        assert_eq!(rows.collect::<Vec<_>>(), EXPECTED);
        assert_eq!(rest, EXPECTED_REST);
        assert_eq!(admission.usage().rest, EXPECTED_REST);
        Ok(())
    }

    #[test]
    fn features_that_the_state_of_a_day_names_count_towards_its_limit() -> Result<()> {
        let maker = maker()?;
        let (x, y) = (
            maker.names.features.number("x")?,
            maker.names.features.number("y")?,
        );
        let admission = Admission::new(&maker, LIMITS, NewUsers::default());
        let named = |_| [x, y].into_iter().collect();
        let mut admitted = admission.lock();
        assert_eq!(admission.feature(&mut admitted, "x", 1, &named), x);
        assert_eq!(
            admission.feature(&mut admitted, "z", 1, &named),
            REST_FEATURE
        );
        assert_eq!(maker.names.features.find("z"), None, "it gets no code");
        Ok(())
    }

    #[test]
    fn new_users_go_on_after_a_restart_and_belong_to_their_log() -> Result<()> {
        let maker = maker()?;
        let full = NewUsers { day: 5, users: 1 };
        let admission = Admission::new(&maker, LIMITS, full);
        let five = 5 * DAY_US;
        assert_eq!(admission.user(&mut admission.lock(), "u", five), REST_USER);
        let user = admission.user(&mut admission.lock(), "u", five + DAY_US);
        assert_eq!(maker.names.users.text(user).as_deref(), Some("u"));
        let log = (1, 2);
        assert_eq!(admission.new_users_of(log, full), full);
        admission.end_log(log);
        let ended = NewUsers { day: 6, users: 1 };
        assert_eq!(admission.new_users_of(log, full), ended);
        admission.forget_log(log);
        assert_eq!(admission.new_users_of(log, full), full);
        Ok(())
    }
}
