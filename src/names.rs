//! Numbers for the texts of events: a Polars categorical each for event types, users and features.
//!
//! The number of a user is the same for ever, because the store keeps its dictionary; that of a feature holds for
//! one process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use polars::prelude::*;
use roaring::RoaringBitmap;

use crate::digest::{DigestMap, Digester};
use crate::error::Result;
use crate::event::EventType;
use crate::schema;

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
        Ok(Self {
            event_types,
            users: Numbering::new(schema::USER_ID),
            features: Numbering::new(schema::FEATURE),
        })
    }

    /// The columns of [`schema::COUNTED`], texts as categoricals: casting a text gives it its number.
    pub fn counted(&self) -> [Expr; 4] {
        [
            col(schema::TS),
            col(schema::EVENT_TYPE).cast(self.event_types.dtype()),
            col(schema::USER_ID).cast(self.users.dtype()),
            col(schema::FEATURE).cast(self.features.dtype()),
        ]
    }

    /// The columns of [`schema::COUNTED`], texts as their numbers: of events that lie user by user.
    pub fn numbered(&self) -> [Expr; 4] {
        [
            col(schema::TS),
            self.event_types.numbers(col(schema::EVENT_TYPE)),
            self.users.numbers(col(schema::USER_ID)),
            self.features.numbers(col(schema::FEATURE)),
        ]
    }
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

    /// The numbers of a column of texts. Not the cast to [`Numbering::dtype`], which looks every text up by its bytes: events of
    /// one user lie together, a text that equals the one before it has its number, and others are found by digest.
    pub fn numbers(&self, texts: Expr) -> Expr {
        let this = self.clone();
        texts.map(
            move |column| {
                let digests = this.digests();
                let mut last = None;
                let numbers = column.str()?.iter().map(|text| {
                    let Some(text) = text else { return Ok(None) };
                    match last {
                        Some((same, number)) if same == text => Ok(Some(number)),
                        _ => {
                            let known = digests.numbers.get(&digests.digester.digest(text));
                            let number = match known {
                                Some(&number) => number,
                                None => this.mapping.insert_cat(text)?,
                            };
                            last = Some((text, number));
                            Ok(Some(number))
                        }
                    }
                });
                let numbers: UInt32Chunked = numbers.collect::<PolarsResult<_>>()?;
                Ok(numbers.with_name(column.name().clone()).into_column())
            },
            |_, field| Ok(Field::new(field.name().clone(), DataType::UInt32)),
        )
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
