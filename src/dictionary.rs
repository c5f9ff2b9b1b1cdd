//! Dictionaries of the strings of events: string ↔ code. Those of event types and features are
//! Polars categoricals too.
//!
//! The code of a user never changes while the store is open, because the store keeps the dictionary
//! of users in a file (see [`UserDictionary`]); the code of a feature is valid in one process. Only
//! the store's admission of accepted events assigns codes to new users and features, within the
//! daily limits; reading events assigns none.

mod lookup;
mod users;

use std::sync::Arc;

use parking_lot::{RwLock, RwLockReadGuard};
use polars::prelude::*;
use roaring::RoaringBitmap;

use crate::digest::{DigestMap, Digester};
use crate::error::Result;
use crate::event::{EventType, SYSTEM_NAME};
use crate::schema;

pub use lookup::Lookup;
pub use users::{Mapped, NO_ID, UserDictionary};

use lookup::codes;

/// Code of the feature that stands for all features beyond a day's limit.
pub const REST_FEATURE: u32 = 0;
/// The string of [`REST_FEATURE`] in daily states. No string of an event contains a NUL.
pub const REST_FEATURE_NAME: &str = "\0rest";
/// Code of [`EventType::System`].
pub const SYSTEM_TYPE: u32 = EventType::ALL.len() as u32;
/// Stands for users beyond the limit of new users a day, who have no code.
pub const REST_USER: u32 = u32::MAX;

/// The dictionaries of one process, shared by all readers and writers of events.
#[derive(Clone)]
pub struct Dictionaries {
    /// Event types. Those that need no declaration have the codes of [`EventType::ALL`], in funnel
    /// order, and `system` has [`SYSTEM_TYPE`]; the codes of the others are valid in one process.
    pub event_types: Dictionary,
    /// Ids of users.
    pub users: UserDictionary,
    /// Features.
    pub features: Dictionary,
}

/// A dictionary of strings, whose codes count from 0 in the order of insertion.
#[derive(Clone)]
pub struct Dictionary {
    categories: Arc<Categories>,
    mapping: Arc<CategoricalMapping>,
    digests: Arc<RwLock<Digests>>,
}

/// Codes by the digests of their strings. A lookup reads one table, while the Polars mapping
/// compares strings that are scattered in memory. Filled when a column is first looked up.
#[derive(Default)]
struct Digests {
    digester: Digester,
    codes: DigestMap<u32>,
    /// The strings of all lower codes are in `codes`.
    known: CatSize,
}

impl Dictionaries {
    /// Names of the event types and of nothing else.
    ///
    /// # Errors
    /// If Polars cannot insert the event types.
    pub fn new() -> Result<Self> {
        let event_types = Dictionary::new(schema::EVENT_TYPE);
        for event_type in EventType::ALL {
            event_types.number(event_type.name())?;
        }
        let system = event_types.number(SYSTEM_NAME)?;
        debug_assert_eq!(system, SYSTEM_TYPE);
        let features = Dictionary::new(schema::FEATURE);
        let rest = features.number(REST_FEATURE_NAME)?;
        debug_assert_eq!(rest, REST_FEATURE);
        Ok(Self {
            event_types,
            users: UserDictionary::default(),
            features,
        })
    }

    /// The code of an event type; one that has none gets one. A tracking plan declares few.
    pub fn event_type(&self, event_type: EventType<'_>) -> u32 {
        let place = EventType::ALL.iter().position(|one| *one == event_type);
        match place {
            Some(code) => code as u32,
            None => {
                let name = event_type.name();
                let known = self.event_types.find(name);
                // It fails when all codes of 32 bits are assigned.
                known.unwrap_or_else(|| self.event_types.number(name).unwrap_or_default())
            }
        }
    }

    /// Names and codes of event types as responses list them: those that need no declaration, in
    /// funnel order, and then the others among `codes`, by name.
    pub fn listed_event_types(&self, codes: impl Iterator<Item = u32>) -> Vec<(&str, u32)> {
        let undeclared = EventType::ALL.map(EventType::name).into_iter().zip(0..);
        let mut declared: Vec<(&str, u32)> = codes
            .filter(|&code| code as usize >= EventType::ALL.len())
            .filter_map(|code| Some((self.event_types.text(code)?, code)))
            .collect();
        declared.sort_unstable();
        declared.dedup();
        undeclared.chain(declared).collect()
    }

    /// The columns of [`schema::COUNTED`] as codes. A type without a code gets one; a user without
    /// one is [`REST_USER`], a feature [`REST_FEATURE`].
    pub fn counted(&self) -> [Expr; 4] {
        [
            col(schema::TS),
            self.event_types.assigned(col(schema::EVENT_TYPE)),
            self.users.numbers(col(schema::USER_ID), Some(REST_USER)),
            self.features
                .numbers(col(schema::FEATURE), Some(REST_FEATURE)),
        ]
    }

    /// The columns of [`schema::COUNTED`] as codes; features that are not in `named` are
    /// [`REST_FEATURE`].
    pub fn counted_among(&self, named: &RoaringBitmap) -> [Expr; 4] {
        let [ts, event_type, user, _] = self.counted();
        let features = self.features.clone();
        let named = named.clone();
        let feature = col(schema::FEATURE).map(
            move |column| {
                let codes = features.lookup(column.str()?).map(|found| match found {
                    Lookup::Null => None,
                    Lookup::Known(code) if named.contains(code) => Some(code),
                    Lookup::Known(_) | Lookup::Unknown(_) => Some(REST_FEATURE),
                });
                let codes: UInt32Chunked = codes.collect();
                Ok(codes.with_name(column.name().clone()).into_column())
            },
            |_, field| Ok(Field::new(field.name().clone(), DataType::UInt32)),
        );
        [ts, event_type, user, feature]
    }
}

impl Dictionary {
    fn new(namespace: &'static str) -> Self {
        let categories =
            Categories::random(PlSmallStr::from_static(namespace), CategoricalPhysical::U32);
        let mapping = categories.mapping();
        Self {
            categories,
            mapping,
            digests: Arc::default(),
        }
    }

    /// Inserts a string and returns its code; a string that has a code keeps it.
    ///
    /// # Errors
    /// If all codes of 32 bits are assigned.
    pub fn number(&self, string: &str) -> Result<u32> {
        Ok(self.mapping.insert_cat(string)?)
    }

    /// The code of a string; none if it has no code.
    pub fn find(&self, string: &str) -> Option<u32> {
        self.mapping.get_cat(string)
    }

    /// The string of a code that was assigned.
    pub fn text(&self, code: u32) -> Option<&str> {
        self.mapping.cat_to_str(code)
    }

    /// Upper bound of the number of codes: insertions in progress are included.
    pub fn len(&self) -> usize {
        self.mapping.num_cats_upper_bound()
    }

    /// True if no code is assigned.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The codes of a string column as an expression; strings without a code become `unknown`.
    /// Assigns no codes.
    pub fn numbers(&self, strings: Expr, unknown: Option<u32>) -> Expr {
        let this = self.clone();
        strings.map(
            move |column| Ok(codes(&column, this.lookup(column.str()?), unknown)),
            |_, field| Ok(Field::new(field.name().clone(), DataType::UInt32)),
        )
    }

    /// The codes of a string column as an expression; strings without a code get one.
    fn assigned(&self, strings: Expr) -> Expr {
        let this = self.clone();
        strings.map(
            move |column| {
                let codes = this.lookup(column.str()?).map(|found| match found {
                    Lookup::Null => Ok(None),
                    Lookup::Known(code) => Ok(Some(code)),
                    Lookup::Unknown(string) => this.mapping.insert_cat(string).map(Some),
                });
                let codes: UInt32Chunked = codes.collect::<PolarsResult<_>>()?;
                Ok(codes.with_name(column.name().clone()).into_column())
            },
            |_, field| Ok(Field::new(field.name().clone(), DataType::UInt32)),
        )
    }

    /// Looks up each string of a column.
    ///
    /// This is faster than a cast to [`Dictionary::dtype`], which compares strings that are
    /// scattered in memory: the events of a user are neighbours, so that most strings equal the one
    /// before them, and the others are found by their digest.
    pub fn lookup<'a>(
        &'a self,
        strings: &'a StringChunked,
    ) -> impl Iterator<Item = Lookup<'a>> + 'a {
        let digests = self.digests();
        let mut last = (None, Lookup::Null);
        strings.iter().map(move |string| {
            if last.0 != string {
                let found = string.map(|string| {
                    let known = digests.codes.get(&digests.digester.digest(string));
                    known.map_or(Lookup::Unknown(string), |&code| Lookup::Known(code))
                });
                last = (string, found.unwrap_or(Lookup::Null));
            }
            last.1
        })
    }

    /// The digests of all strings that have a code now.
    fn digests(&self) -> RwLockReadGuard<'_, Digests> {
        let is_behind = self.mapping.cat_to_str(self.digests.read().known).is_some();
        if is_behind {
            let mut digests = self.digests.write();
            while let Some(string) = self.mapping.cat_to_str(digests.known) {
                let (code, digest) = (digests.known, digests.digester.digest(string));
                digests.codes.insert(digest, code);
                digests.known += 1;
            }
        }
        self.digests.read()
    }

    /// The type of a categorical column of these strings.
    pub fn dtype(&self) -> DataType {
        DataType::Categorical(self.categories.clone(), self.mapping.clone())
    }

    /// A categorical column of the strings with these codes.
    pub fn column(&self, name: &'static str, codes: &[Option<u32>]) -> Column {
        let codes = UInt32Chunked::from_slice_options(PlSmallStr::from_static(name), codes);
        CategoricalChunked::<Categorical32Type>::from_cats_and_dtype(codes, self.dtype())
            .into_series()
            .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_count_from_zero_and_stay() -> Result<()> {
        let names = Dictionaries::new()?;
        assert_eq!(names.event_types.find("page_view"), Some(0));
        assert_eq!(names.event_types.find("conversion"), Some(2));
        assert_eq!(names.features.find(REST_FEATURE_NAME), Some(REST_FEATURE));
        let features = &names.features;
        assert_eq!(features.find("a"), None);
        assert_eq!([features.number("a")?, features.number("b")?], [1, 2]);
        assert_eq!([features.number("a")?, features.number("b")?], [1, 2]);
        assert_eq!((features.text(2), features.text(3)), (Some("b"), None));
        assert_eq!((features.len(), features.is_empty()), (3, false));
        Ok(())
    }

    #[test]
    fn a_lookup_finds_what_has_a_code_at_that_moment_and_assigns_none() -> Result<()> {
        let features = Dictionaries::new()?.features;
        features.number("a")?;
        let strings = [Some("a"), Some("a"), None, Some("b"), Some("a"), None];
        let strings = StringChunked::from_iter_options("s".into(), strings.into_iter());
        let (a, null) = (Lookup::Known(1), Lookup::Null);
        let lookup = || features.lookup(&strings).collect::<Vec<_>>();
        assert_eq!(lookup(), [a, a, null, Lookup::Unknown("b"), a, null]);
        assert_eq!(features.len(), 2);
        features.number("b")?;
        assert_eq!(lookup(), [a, a, null, Lookup::Known(2), a, null]);
        Ok(())
    }

    #[test]
    fn counted_columns_replace_what_has_no_code_or_is_not_named() -> Result<()> {
        let names = Dictionaries::new()?;
        let (a, b) = (names.features.number("a")?, names.features.number("b")?);
        names.users.number("u")?;
        let mut events = df!(
            schema::EVENT_TYPE => ["action", "page_view", "action", "action"],
            schema::USER_ID => [Some("u"), Some("new"), None, Some("u")],
            schema::FEATURE => [Some("a"), Some("b"), Some("new"), None],
        )?;
        events.with_column(schema::timestamps(schema::TS, vec![1, 2, 3, 4]))?;
        let codes = |columns: [Expr; 4]| -> Result<(Vec<_>, Vec<_>)> {
            let counted = events.clone().lazy().select(columns).collect()?;
            let column = |name| -> Result<Vec<Option<u32>>> {
                Ok(counted.column(name)?.u32()?.iter().collect())
            };
            Ok((column(schema::USER_ID)?, column(schema::FEATURE)?))
        };
        let users = vec![Some(0), Some(REST_USER), None, Some(0)];
        let features = vec![Some(a), Some(b), Some(REST_FEATURE), None];
        assert_eq!(codes(names.counted())?, (users.clone(), features));
        let named = [b].into_iter().collect();
        let features = vec![Some(REST_FEATURE), Some(b), Some(REST_FEATURE), None];
        assert_eq!(codes(names.counted_among(&named))?, (users, features));
        Ok(())
    }
}
