//! The events of each user with the value of a property: what sessions and paths are made of.

use std::ops::Range;

use polars::prelude::*;

use super::coded::{FilterBits, column_of};
use super::filter::{Filter, Property};
use super::local_dictionary::LocalDictionary;
use super::partition::{self, Collect};
use super::sequence::{Sequences, Timed};
use super::source::{Columns, Scan, Source, TableScan, TableTimes};
use crate::columns::{Rows, Table};
use crate::daily::Day;
use crate::error::Result;
use crate::schema;

/// Inactivity that ends a session, in µs: 30 minutes, as everywhere in the field.
const SESSION_GAP_US: i64 = 30 * 60 * 1_000_000;

/// The code of the value of events that have none.
pub const NO_VALUE: u32 = 0;

/// The bit of events that meet the filter of the query.
const MET: u32 = 1 << 31;

const VALUE: &str = "value";
const BITS: &str = "bits";

/// An event of a known user.
#[derive(Debug, Clone, Copy)]
pub struct Visit {
    /// Its time in µs.
    pub ts_us: i64,
    /// The code of its value of the property.
    pub value: u32,
    /// The filters that it meets: bit 0 is the first one.
    pub met: u32,
}

impl Timed for Visit {
    fn ts_us(&self) -> i64 {
        self.ts_us
    }
}

/// The visits that a metric reads: events of known users that meet the filter of the query.
#[derive(Debug)]
pub struct Visits<'a> {
    /// Days of the zone.
    pub days: Range<Day>,
    /// The property whose values visits have.
    pub property: Option<&'a Property>,
    /// Filters, at most 31, of which visits say which ones they meet.
    pub filters: Vec<&'a Filter>,
    /// Those that are read.
    pub which: Which,
}

/// The visits that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// All.
    All,
    /// Those that meet one of the filters.
    Met,
    /// Those that have a value or meet one of the filters.
    MetOrValued,
}

/// True if two events of a user, of which no other is between them, are in one session.
pub fn is_one_session(before_us: i64, after_us: i64) -> bool {
    after_us - before_us <= SESSION_GAP_US
}

impl Visits<'_> {
    /// Calls `visit` with each user and their visits, in the order of time and of the log, as
    /// [`partition::for_each_user`] does. Returns the values by their codes.
    ///
    /// # Errors
    /// As [`partition::for_each_user`].
    pub fn for_each_user<F>(
        &self,
        source: &dyn Source,
        new: impl Fn() -> F + Sync,
        visit: impl Fn(u32, &[Visit], &mut F) -> Result<()> + Sync,
        merge: impl Fn(F) -> Result<()> + Sync,
    ) -> Result<LocalDictionary> {
        let mut collection = Collection {
            visits: self,
            filter: source.filter(),
            items: Sequences::default(),
            values: LocalDictionary::default(),
        };
        collection.values.code(None);
        let input = partition::Input {
            source,
            scan: &self.scan(),
            plan: &|events| self.plan(events),
            max_items: partition::max_items::<Visit>(source.budget()),
        };
        partition::for_each_user(&input, &mut collection, new, visit, merge)?;
        Ok(collection.values)
    }

    fn scan(&self) -> Scan {
        let of_filters = self.filters.iter().flat_map(|filter| filter.properties());
        let properties: Vec<Property> = of_filters.chain(self.property).cloned().collect();
        Scan {
            days: self.days.clone(),
            also: match (self.which, self.filters.as_slice()) {
                (Which::Met, [only]) => (*only).clone(),
                _ => Filter::default(),
            },
            columns: Columns::with_details(properties.iter().any(Property::is_detail)),
            tables: Some(TableScan {
                properties,
                // Which event of several at one timestamp is the first matters for values alone.
                times: match self.property {
                    Some(_) => TableTimes::InOrder,
                    None => TableTimes::Read,
                },
            }),
        }
    }

    /// User, `ts`, value, and the filters that are met, in the order of the events.
    fn plan(&self, events: LazyFrame) -> LazyFrame {
        let value = self.property.map_or(lit(NULL), Property::expr);
        let bits = self.filters.iter().enumerate().map(|(at, filter)| {
            let bit = 1_u32 << at;
            filter.expr().cast(DataType::UInt32) * lit(bit)
        });
        let bits = bits.reduce(|all, more| all + more).unwrap_or(lit(0_u32));
        let met = (!self.filters.is_empty()).then(|| Filter::any(self.filters.iter().copied()));
        let events = events.filter(col(schema::USER_ID).is_not_null());
        let events = match (self.which, met) {
            (Which::All, _) => events,
            (Which::Met, met) => events.filter(met.unwrap_or(lit(false))),
            (Which::MetOrValued, None) => events.filter(value.clone().is_not_null()),
            (Which::MetOrValued, Some(met)) => events.filter(value.clone().is_not_null().or(met)),
        };
        events.select([
            col(schema::USER_ID),
            col(schema::TS).to_physical(),
            value.cast(DataType::String).alias(VALUE),
            bits.cast(DataType::UInt32).alias(BITS),
        ])
    }

    fn is_wanted(&self, visit: &Visit) -> bool {
        match self.which {
            Which::All => true,
            Which::Met => visit.met != 0,
            Which::MetOrValued => visit.met != 0 || visit.value != NO_VALUE,
        }
    }
}

/// Visits as they are read.
struct Collection<'a> {
    visits: &'a Visits<'a>,
    /// The filter of the query.
    filter: &'a Filter,
    items: Sequences<Visit>,
    values: LocalDictionary,
}

/// The columns of a table for visits.
struct VisitColumns {
    bits: FilterBits,
    /// The column of the property and the value of each code.
    values: Option<(usize, Vec<u32>)>,
}

impl Collect for Collection<'_> {
    type Item = Visit;
    type Columns = VisitColumns;

    fn read(&mut self, frame: &DataFrame, includes: &dyn Fn(u32) -> bool) -> Result<()> {
        let users = frame.column(schema::USER_ID)?.u32()?;
        let times = frame.column(schema::TS)?.i64()?;
        let strings = frame.column(VALUE)?.str()?;
        let bits = frame.column(BITS)?.u32()?;
        let keys = users.iter().zip(times.iter());
        let rows = keys.zip(strings.iter().zip(bits.iter()));
        let Self { items, values, .. } = self;
        let read = rows.filter_map(|((user, ts_us), (value, met))| {
            let user = user.filter(|&user| includes(user))?;
            let visit = Visit {
                ts_us: ts_us?,
                value: values.code(value),
                met: met.unwrap_or(0),
            };
            Some((user, visit))
        });
        items.extend(frame.height(), read);
        Ok(())
    }

    fn sequences(&mut self) -> &mut Sequences<Visit> {
        &mut self.items
    }

    fn open(&mut self, table: &Table) -> Result<VisitColumns> {
        let values = match self.visits.property {
            None => None,
            Some(property) => {
                let column = column_of(table, property)?;
                let strings = table.values(column)?;
                let codes = strings.iter().map(|value| {
                    let string = property.string_of(value);
                    self.values.code(string.as_deref())
                });
                let codes = std::iter::once(NO_VALUE).chain(codes);
                Some((column, codes.collect()))
            }
        };
        let filters = self.visits.filters.iter().enumerate();
        let filters = filters.map(|(at, filter)| (*filter, 1 << at));
        Ok(VisitColumns {
            bits: FilterBits::new(table, filters.chain([(self.filter, MET)]))?,
            values,
        })
    }

    fn read_table(
        &self,
        table: &Table,
        VisitColumns { bits, values }: &VisitColumns,
        users: Range<u32>,
        includes: &dyn Fn(u32) -> bool,
        into: &mut Sequences<Visit>,
    ) -> Result<()> {
        let mut wanted = bits.columns.clone();
        wanted.extend(values.as_ref().map(|(column, _)| *column));
        let slice = table.slice(&Rows::Of(users), &wanted, true)?;
        let met = bits.of_rows(&slice);
        let codes = slice.codes(bits.columns.len()).zip(values.as_ref());
        let value_of = |row: usize| {
            let (codes, (_, values)) = codes?;
            values.get(codes.code(row)).copied()
        };
        let users = slice.runs().filter(|(user, _)| includes(*user));
        let rows = users.flat_map(|(user, rows)| rows.map(move |row| (user, row)));
        let items = rows.filter_map(|(user, row)| {
            let met = met.get(row).copied().filter(|met| met & MET != 0)?;
            let visit = Visit {
                ts_us: slice.ts_us(row),
                value: value_of(row).unwrap_or(NO_VALUE),
                met: met & !MET,
            };
            self.visits.is_wanted(&visit).then_some((user, visit))
        });
        into.extend(slice.rows(), items);
        Ok(())
    }

    fn string_bytes(&self) -> u64 {
        self.values.bytes()
    }

    fn column_bytes(VisitColumns { bits, values }: &VisitColumns) -> u64 {
        let values = values
            .as_ref()
            .map_or(0, |(_, values)| size_of_val(values.as_slice()));
        bits.bytes() + values as u64
    }
}
