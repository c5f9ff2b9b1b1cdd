//! The events of each user, in bounded memory: one range of user codes after another.
//!
//! Tables are sorted by user, so that each range of users reads its rows alone, on all cores.
//! Events that are in no table are collected before; if there are more than memory should hold,
//! this is repeated for one part of the users after another.

use std::ops::Range;

use polars::prelude::DataFrame;

use super::budget::{Budget, Charge};
use super::sequence::{Sequences, Timed};
use super::source::{Plan, Scan, Source};
use crate::columns::Table;
use crate::error::Result;

/// Items collected at once; queries over more are processed in partitions of the users.
const MAX_ITEMS: usize = 16 << 20;
/// Collected items take at most one part of so many of the budget of a query.
const ITEMS_SHARE: u64 = 2;

/// Ranges that are worked on at once take at most about one part of so many of the budget.
const RANGES_SHARE: u64 = 4;
/// Times that a range has the bytes of its items: in the order of the tables, in the order of time,
/// and about as much for what was read of a table.
const RANGE_COPIES: u64 = 3;

/// Items that a query collects at once.
pub fn max_items<T>(budget: &Budget) -> usize {
    let items = budget.bytes() / ITEMS_SHARE / item_bytes::<T>();
    MAX_ITEMS.min(items as usize)
}

/// Rows of a range of users, so that the ranges of all cores fit into the budget.
fn range_rows<T>(source: &dyn Source) -> usize {
    let of_a_range = source.budget().bytes() / RANGES_SHARE / source.cores() as u64;
    let rows = of_a_range / RANGE_COPIES / item_bytes::<T>();
    RANGE_ROWS.min(rows as usize)
}

/// Bytes of items in memory.
fn items_bytes<T: Timed>(items: &Sequences<T>) -> u64 {
    items.len() as u64 * item_bytes::<T>()
}

/// Bytes of what was collected.
fn held_bytes<C: Collect>(collection: &mut C) -> u64 {
    items_bytes(collection.sequences()) + collection.string_bytes()
}

/// Bytes of an item with its user.
const fn item_bytes<T>() -> u64 {
    (size_of::<u32>() + size_of::<T>()) as u64
}

/// Rows that are read between two checks for cancellation: some ten milliseconds.
const ROWS_PER_CHECK: usize = 1 << 18;
/// Rows of tables that a core works on at once: some 50 MB.
const RANGE_ROWS: usize = 1 << 20;
/// Fewest ranges of users, so that all cores have work.
const MIN_RANGES: usize = 16;

/// Sequences that are read from the results of a plan, and from tables.
pub trait Collect: Sync {
    /// The items of a user.
    type Item: Timed + Send + Sync;
    /// The columns of a table that are needed.
    type Columns: Send + Sync;

    /// Reads the result of a batch, of the users that `includes` accepts.
    ///
    /// # Errors
    /// If the frame lacks a column.
    fn read(&mut self, frame: &DataFrame, includes: &dyn Fn(u32) -> bool) -> Result<()>;

    /// The sequences read so far.
    fn sequences(&mut self) -> &mut Sequences<Self::Item>;

    /// Finds the columns that are needed in a table.
    ///
    /// # Errors
    /// If the table cannot be read.
    fn open(&mut self, table: &Table) -> Result<Self::Columns>;

    /// Reads the events of a range of users from a table, of those that `includes` accepts.
    ///
    /// # Errors
    /// If the table cannot be read.
    fn read_table(
        &self,
        table: &Table,
        columns: &Self::Columns,
        users: Range<u32>,
        includes: &dyn Fn(u32) -> bool,
        into: &mut Sequences<Self::Item>,
    ) -> Result<()>;

    /// Bytes of what else was read: the strings that items have codes for.
    fn string_bytes(&self) -> u64;

    /// Bytes of what is kept of the columns of a table.
    fn column_bytes(columns: &Self::Columns) -> u64;
}

/// The events that sequences are made of.
pub struct Input<'a> {
    /// The data of the query.
    pub source: &'a dyn Source,
    /// The events that are read.
    pub scan: &'a Scan,
    /// The plan whose results are read where events are in no table.
    pub plan: &'a Plan<'a>,
    /// Items that are collected at once.
    pub max_items: usize,
}

/// Calls `visit` with each user, their complete sequence and what it found before in a range of
/// users, which is `new` at first, on all cores; and `merge` with what it found in each range. At
/// most `max_items` of the input are collected at once, unless one user has more.
///
/// # Errors
/// As [`Source::for_each_batch`], and the first error of `visit` and `merge`; `too_many_groups` if
/// the strings, or the items of a range or of one user, do not fit into the memory of the query.
pub fn for_each_user<C: Collect, F>(
    input: &Input<'_>,
    collection: &mut C,
    new: impl Fn() -> F + Sync,
    visit: impl Fn(u32, &[C::Item], &mut F) -> Result<()> + Sync,
    merge: impl Fn(F) -> Result<()> + Sync,
) -> Result<()> {
    let source = input.source;
    let mut next = Some(0);
    let mut charge = source.budget().charge();
    while let Some(start) = next {
        let users = start..u32::MAX;
        let (tables, left_out) = collect_partition(input, users, collection, &mut charge)?;
        next = left_out;
        let mut columns = Vec::with_capacity(tables.len());
        let mut column_bytes = 0;
        for table in &tables {
            source.check_cancelled()?;
            let of_table = collection.open(table)?;
            column_bytes += C::column_bytes(&of_table);
            columns.push(of_table);
            charge.set(held_bytes(collection) + column_bytes)?;
        }
        let collected = std::mem::take(collection.sequences());
        let users = start..next.unwrap_or(u32::MAX);
        let ranges = ranges(users, &tables, &collected, range_rows::<C::Item>(source));
        let collection = &*collection;
        source.in_parallel(ranges, &|users| {
            let mut found = new();
            if tables.is_empty() {
                let visit = |user, items: &[C::Item]| visit(user, items, &mut found);
                collected.for_each(users, source, visit)?;
                return merge(found);
            }
            let includes = |user: u32| source.includes_user(user);
            let mut items = Sequences::default();
            let mut charge = source.budget().charge();
            for (table, columns) in tables.iter().zip(&columns) {
                source.check_cancelled()?;
                collection.read_table(table, columns, users.clone(), &includes, &mut items)?;
                charge.set(items_bytes(&items))?;
            }
            // Later in the log than all events of the same day in tables.
            items.extend_from(&collected, &users, source)?;
            charge.set(items_bytes(&items))?;
            let visit = |user, items: &[C::Item]| visit(user, items, &mut found);
            items.for_each(users, source, visit)?;
            merge(found)
        })?;
    }
    Ok(())
}

/// Ranges that cover some users, each with about the same number of events, and at most about
/// `most`.
fn ranges<T: Timed>(
    users: Range<u32>,
    tables: &[Table],
    collected: &Sequences<T>,
    most: usize,
) -> Vec<Range<u32>> {
    let indexes = tables.iter().flat_map(Table::index);
    let mut counts: Vec<(u32, usize)> = indexes.chain(collected.sample()).collect();
    counts.retain(|(user, _)| users.contains(user));
    counts.sort_unstable();
    let rows: usize = counts.iter().map(|(_, rows)| rows).sum();
    let most = rows.div_ceil(MIN_RANGES).clamp(1, most.max(1));
    let mut ranges = Vec::new();
    let (mut start, mut sum) = (users.start, 0);
    for (user, rows) in counts {
        if sum >= most && user > start {
            ranges.push(start..user);
            (start, sum) = (user, 0);
        }
        sum += rows;
    }
    ranges.push(start..users.end);
    ranges
}

/// Collects the sequences of a range of users that are in no table, or of the first of them if
/// these have more items than `max_items`. Returns the tables, and the code of the first user that
/// was left out.
fn collect_partition<C: Collect>(
    input: &Input<'_>,
    users: Range<u32>,
    collection: &mut C,
    charge: &mut Charge<'_>,
) -> Result<(Vec<Table>, Option<u32>)> {
    let &Input {
        source,
        scan,
        plan,
        max_items,
    } = input;
    let mut left_out = None;
    let tables = source.for_each_batch(scan, plan, &mut |frame| {
        let end = left_out.unwrap_or(users.end);
        let wanted = users.start..end;
        let includes = |user: u32| wanted.contains(&user) && source.includes_user(user);
        for start in (0..frame.height()).step_by(ROWS_PER_CHECK) {
            source.check_cancelled()?;
            collection.read(&frame.slice(start as i64, ROWS_PER_CHECK), &includes)?;
            charge.set(held_bytes(collection))?;
        }
        while collection.sequences().len() > max_items {
            source.check_cancelled()?;
            match collection.sequences().keep_lower_half() {
                Some(bound) => left_out = Some(bound),
                // All items are of one user, who must fit.
                None => break,
            }
        }
        Ok(())
    })?;
    Ok((tables, left_out))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use parking_lot::Mutex;
    use polars::prelude::*;

    use super::*;
    use crate::columns::Rows;
    use crate::metrics::frame::FrameSource;
    use crate::metrics::source::{Columns, TableTimes};
    use crate::schema;

    #[derive(Debug, Default)]
    struct Times(Sequences<i64>);

    impl Timed for i64 {
        fn ts_us(&self) -> i64 {
            *self
        }
    }

    impl Collect for Times {
        type Item = i64;

        fn read(&mut self, frame: &DataFrame, includes: &dyn Fn(u32) -> bool) -> Result<()> {
            let users = frame.column(schema::USER_ID)?.u32()?.iter().flatten();
            let times = frame.column(schema::TS)?.i64()?.iter().flatten();
            let items = users.zip(times).filter(|&(user, _)| includes(user));
            self.0.extend(frame.height(), items);
            Ok(())
        }

        fn sequences(&mut self) -> &mut Sequences<i64> {
            &mut self.0
        }

        type Columns = ();

        fn open(&mut self, _: &Table) -> Result<()> {
            Ok(())
        }

        fn read_table(
            &self,
            table: &Table,
            (): &(),
            users: Range<u32>,
            includes: &dyn Fn(u32) -> bool,
            into: &mut Sequences<i64>,
        ) -> Result<()> {
            let slice = table.slice(&Rows::Of(users), &[], true)?;
            let items = slice.runs().filter(|(user, _)| includes(*user));
            let items = items.flat_map(|(user, rows)| rows.map(move |row| (user, row)));
            let items = items.map(|(user, row)| (user, slice.ts_us(row)));
            into.extend(slice.rows(), items);
            Ok(())
        }

        fn string_bytes(&self) -> u64 {
            0
        }

        fn column_bytes((): &()) -> u64 {
            0
        }
    }

    /// The number of items of each user, and the number of ranges, from tables and batches or from
    /// batches alone.
    fn visited(max_items: usize, tables: Option<TableTimes>) -> (Vec<usize>, usize) {
        // Users 0 to 4 have 1 to 5 events each, one in a batch of two.
        let users = ["a", "b", "c", "d", "e"];
        let times: Vec<String> = (0..5)
            .map(|hour| format!("2024-03-01 1{hour}:00"))
            .collect();
        let rows: Vec<_> = times
            .iter()
            .enumerate()
            .flat_map(|(place, time)| {
                let active = users.iter().skip(place);
                active.map(move |user| (time.as_str(), "action", *user, ""))
            })
            .collect();
        let mut source = FrameSource::new("2024-03-01", 1, &rows);
        source.batch_rows = 2;
        source.has_tables = true;
        let scan = Scan::of_window(&source, Columns::Counted);
        let plan = |events: LazyFrame| {
            events.select([col(schema::USER_ID), col(schema::TS).to_physical()])
        };
        let (counts, ranges) = (Mutex::new(Vec::new()), AtomicUsize::new(0));
        let input = Input {
            source: &source,
            scan: &match tables {
                Some(times) => scan.with_tables([], times),
                None => scan,
            },
            plan: &plan,
            max_items,
        };
        for_each_user(
            &input,
            &mut Times::default(),
            Vec::new,
            |_, items, found: &mut Vec<usize>| {
                assert!(items.is_sorted());
                found.push(items.len());
                Ok(())
            },
            |found| {
                ranges.fetch_add(1, Ordering::Relaxed);
                counts.lock().extend(found);
                Ok(())
            },
        )
        .expect("users");
        (counts.into_inner(), ranges.into_inner())
    }

    #[test]
    fn every_user_is_complete_in_one_range() {
        for tables in [None, Some(TableTimes::InOrder)] {
            for max_items in [100, 14, 7, 4, 2, 1] {
                let (counts, ranges) = visited(max_items, tables);
                assert_eq!(counts, [1, 2, 3, 4, 5], "{max_items}");
                assert!(
                    ranges > 1 || max_items > 14 || tables.is_some(),
                    "{max_items}"
                );
            }
        }
    }

    /// The number of items of all users and of ranges, from tables alone, of users with `each`
    /// events of one day.
    fn in_memory_of(bytes: u64, users: usize, each: usize) -> Result<(usize, usize)> {
        let users: Vec<String> = (0..users).map(|user| format!("u{user:05}")).collect();
        let of_user = |user| std::iter::repeat_n(("2024-03-01 10:00", "action", user, ""), each);
        let rows: Vec<_> = users
            .iter()
            .flat_map(|user| of_user(user.as_str()))
            .collect();
        let mut source = FrameSource::new("2024-03-01", 1, &rows);
        source.has_tables = true;
        source.limit_memory(bytes);
        let scan = Scan::of_window(&source, Columns::Counted).with_tables([], TableTimes::InOrder);
        let found = Mutex::new((0, 0));
        let plan = |events: LazyFrame| {
            events.select([col(schema::USER_ID), col(schema::TS).to_physical()])
        };
        let input = Input {
            source: &source,
            scan: &scan,
            plan: &plan,
            max_items: max_items::<i64>(source.budget()),
        };
        for_each_user(
            &input,
            &mut Times::default(),
            || 0,
            |_, items, found: &mut usize| {
                *found += items.len();
                Ok(())
            },
            |of_range| {
                let (items, ranges) = &mut *found.lock();
                *items += of_range;
                *ranges += 1;
                Ok(())
            },
        )?;
        assert_eq!(source.budget().held(), 0);
        Ok(found.into_inner())
    }

    #[test]
    fn tables_are_read_in_ranges_that_fit_and_a_user_that_does_not_is_rejected() {
        // 40,000 items of 12 bytes, and a sorted copy, are more than the budget of 192 KiB.
        let (items, ranges) = in_memory_of(1 << 18, 20_000, 2).expect("ranges that fit");
        assert_eq!(items, 40_000);
        assert!(ranges > MIN_RANGES, "{ranges}");
        assert!(in_memory_of(1 << 18, 1, 40_000).is_err());
        let (items, _) = in_memory_of(1 << 21, 1, 40_000).expect("enough");
        assert_eq!(items, 40_000);
    }

    #[test]
    fn ranges_cover_every_user_once_with_equal_numbers_of_events() {
        let mut collected = Sequences::default();
        // The greater codes have more events.
        let users = (0..20_000_u32).flat_map(|user| (0..=user / 2_000).map(move |_| user));
        collected.extend(0, users.map(|user| (user, 0_i64)));
        let ranges = ranges(3..30_000, &[], &collected, RANGE_ROWS);
        assert!(
            (MIN_RANGES - 2..=MIN_RANGES + 1).contains(&ranges.len()),
            "{ranges:?}"
        );
        let users: Vec<u32> = ranges.iter().cloned().flatten().collect();
        assert_eq!(users, (3..30_000).collect::<Vec<_>>());
        let width = |range: Option<&Range<u32>>| range.map_or(0, ExactSizeIterator::len);
        assert!(width(ranges.first()) > 4 * width(ranges.get(ranges.len() - 2)));
    }
}
