//! Numbers for the texts of events: a Polars categorical each for event types, users and features.
//!
//! The number of a user is the same for ever, because the store keeps its dictionary; that of a feature holds for
//! one process. Only the store's admission of accepted events gives numbers to new users and features, within the
//! daily limits; reading events gives none.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use polars::prelude::*;
use roaring::RoaringBitmap;

use crate::digest::{DigestMap, Digester};
use crate::error::Result;
use crate::event::EventType;
use crate::schema;

/// Number of the feature that stands for all features beyond a day's limit.
pub const REST_FEATURE: u32 = 0;
/// Its name in daily states. No string of an event has a NUL.
pub const REST_FEATURE_NAME: &str = "\0rest";
/// Stands for a user beyond the limit of new users a day, who has no number.
pub const REST_USER: u32 = u32::MAX;

/// The names of one process, shared by all who read or write events.
#[derive(Clone)]
pub struct Names {
    /// Of event types, numbered in funnel order.
    pub event_types: Numbering,
    /// Of users.
    pub users: Numbering,
    /// Of features.
    pub features: Numbering,
}

/// Texts and their numbers, counted from 0 in the order in which they came.
#[derive(Clone)]
pub struct Numbering {
    categories: Arc<Categories>,
    mapping: Arc<CategoricalMapping>,
    digests: Arc<RwLock<Digests>>,
    forgotten: Arc<Forgotten>,
}

/// Numbers whose texts are not found any more, until one comes in again.
#[derive(Default)]
struct Forgotten {
    /// Whether there ever were any: without a lock, for every event that comes in.
    is_used: AtomicBool,
    numbers: RwLock<RoaringBitmap>,
}

impl Forgotten {
    fn contains(&self, number: u32) -> bool {
        self.is_used.load(Ordering::Acquire)
            && self
                .numbers
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .contains(number)
    }

    fn change(&self, change: impl FnOnce(&mut RoaringBitmap)) {
        change(&mut self.numbers.write().unwrap_or_else(PoisonError::into_inner));
        self.is_used.store(true, Ordering::Release);
    }
}

/// Numbers by the digests of their texts: a look into one table, where the mapping compares texts that lie scattered in memory.
/// Filled when a column of texts is first numbered.
#[derive(Default)]
struct Digests {
    digester: Digester,
    numbers: DigestMap<u32>,
    /// The texts with lower numbers are in.
    known: CatSize,
}

impl Names {
    /// No names yet.
    ///
    /// # Errors
    /// If the engine cannot number the event types.
    pub fn new() -> Result<Self> {
        let event_types = Numbering::new(schema::EVENT_TYPE);
        for event_type in EventType::ALL {
            event_types.number(event_type.name())?;
        }
        let features = Numbering::new(schema::FEATURE);
        let rest = features.number(REST_FEATURE_NAME)?;
        debug_assert_eq!(rest, REST_FEATURE);
        Ok(Self {
            event_types,
            users: Numbering::new(schema::USER_ID),
            features,
        })
    }

    /// The columns of [`schema::COUNTED`] as numbers. A user without a number is [`REST_USER`].
    pub fn counted(&self) -> [Expr; 4] {
        [
            col(schema::TS),
            self.event_types.numbers(col(schema::EVENT_TYPE), None),
            self.users.numbers(col(schema::USER_ID), Some(REST_USER)),
            self.features
                .numbers(col(schema::FEATURE), Some(REST_FEATURE)),
        ]
    }

    /// The columns of [`schema::COUNTED`] as numbers, features that are not in `named` as [`REST_FEATURE`].
    pub fn counted_among(&self, named: &RoaringBitmap) -> [Expr; 4] {
        let [ts, event_type, user, _] = self.counted();
        let features = self.features.clone();
        let named = named.clone();
        let feature = col(schema::FEATURE).map(
            move |column| {
                let numbers = features.lookup(column.str()?).map(|found| match found {
                    Lookup::Null => None,
                    Lookup::Known(number) if named.contains(number) => Some(number),
                    Lookup::Known(_) | Lookup::Unknown(_) => Some(REST_FEATURE),
                });
                let numbers: UInt32Chunked = numbers.collect();
                Ok(numbers.with_name(column.name().clone()).into_column())
            },
            |_, field| Ok(Field::new(field.name().clone(), DataType::UInt32)),
        );
        [ts, event_type, user, feature]
    }
}

/// What is known of a string in a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup<'a> {
    /// There is none.
    Null,
    /// Its number.
    Known(u32),
    /// It has no number.
    Unknown(&'a str),
}

impl Numbering {
    fn new(namespace: &'static str) -> Self {
        let categories =
            Categories::random(PlSmallStr::from_static(namespace), CategoricalPhysical::U32);
        let mapping = categories.mapping();
        Self {
            categories,
            mapping,
            digests: Arc::default(),
            forgotten: Arc::default(),
        }
    }

    /// The number of a text, which gets one if it has none.
    ///
    /// # Errors
    /// If there are more texts than numbers of 32 bits.
    pub fn number(&self, text: &str) -> Result<u32> {
        let number = self.mapping.insert_cat(text)?;
        if self.forgotten.contains(number) {
            self.forgotten.change(|numbers| {
                numbers.remove(number);
            });
        }
        Ok(number)
    }

    /// The number of a text that has one and is not forgotten.
    pub fn find(&self, text: &str) -> Option<u32> {
        let number = self.mapping.get_cat(text)?;
        (!self.forgotten.contains(number)).then_some(number)
    }

    /// Forgets texts: they are not found any more until they come in again. What still has their numbers can be read.
    pub fn forget(&self, numbers: &RoaringBitmap) {
        self.forgotten.change(|forgotten| *forgotten |= numbers);
    }

    /// Finds texts again that were forgotten.
    pub fn recall(&self, numbers: &RoaringBitmap) {
        self.forgotten.change(|forgotten| *forgotten -= numbers);
    }

    /// The text of a number that was given.
    pub fn text(&self, number: u32) -> Option<&str> {
        self.mapping.cat_to_str(number)
    }

    /// How many texts have a number, those included that just get one.
    pub fn len(&self) -> usize {
        self.mapping.num_cats_upper_bound()
    }

    /// Whether no text has a number.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The numbers of a column of strings, `unknown` for those that have none; nothing gets a number.
    pub fn numbers(&self, strings: Expr, unknown: Option<u32>) -> Expr {
        let this = self.clone();
        strings.map(
            move |column| {
                let numbers = this.lookup(column.str()?).map(|found| match found {
                    Lookup::Null => None,
                    Lookup::Known(number) => Some(number),
                    Lookup::Unknown(_) => unknown,
                });
                let numbers: UInt32Chunked = numbers.collect();
                Ok(numbers.with_name(column.name().clone()).into_column())
            },
            |_, field| Ok(Field::new(field.name().clone(), DataType::UInt32)),
        )
    }

    /// What is known of each string of a column. Not the cast to [`Numbering::dtype`], which compares strings wherever they
    /// lie in memory: events of one user lie together, a string that equals the one before it has its number, and others
    /// are found by digest.
    pub fn lookup<'a>(
        &'a self,
        strings: &'a StringChunked,
    ) -> impl Iterator<Item = Lookup<'a>> + 'a {
        let digests = self.digests();
        let mut last = (None, Lookup::Null);
        strings.iter().map(move |string| {
            if last.0 != string {
                let found = string.map(|string| {
                    let known = digests.numbers.get(&digests.digester.digest(string));
                    known.map_or(Lookup::Unknown(string), |&number| Lookup::Known(number))
                });
                last = (string, found.unwrap_or(Lookup::Null));
            }
            last.1
        })
    }

    /// The digests of all texts that have a number now.
    fn digests(&self) -> RwLockReadGuard<'_, Digests> {
        let read = || self.digests.read().unwrap_or_else(PoisonError::into_inner);
        let is_behind = self.mapping.cat_to_str(read().known).is_some();
        if is_behind {
            let mut digests = self.digests.write().unwrap_or_else(PoisonError::into_inner);
            while let Some(text) = self.mapping.cat_to_str(digests.known) {
                let (number, digest) = (digests.known, digests.digester.digest(text));
                digests.numbers.insert(digest, number);
                digests.known += 1;
            }
        }
        read()
    }

    /// The type of a column of these texts.
    pub fn dtype(&self) -> DataType {
        DataType::Categorical(self.categories.clone(), self.mapping.clone())
    }

    /// A column of these texts, given by their numbers.
    pub fn column(&self, name: &'static str, numbers: &[Option<u32>]) -> Column {
        let numbers = UInt32Chunked::from_slice_options(PlSmallStr::from_static(name), numbers);
        CategoricalChunked::<Categorical32Type>::from_cats_and_dtype(numbers, self.dtype())
            .into_series()
            .into()
    }
}
