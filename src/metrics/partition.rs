//! Sequences of more events than memory should hold: the query runs for one range of user codes
//! after another.

use std::ops::Range;

use polars::prelude::DataFrame;

use super::sequence::{Sequences, Timed};
use super::source::{Plan, Scan, Source};
use crate::error::Result;

/// Items held in memory at once (about 600 MB); queries over more are processed in partitions of
/// the users.
pub const MAX_ITEMS: usize = 16 << 20;

/// Rows that are read between two checks for cancellation: some ten milliseconds.
const ROWS_PER_CHECK: usize = 1 << 18;

/// Sequences that are read from the results of a plan.
pub trait Collect {
    /// The items of a user.
    type Item: Timed;

    /// Reads the result of a batch, of the users that `includes` accepts.
    ///
    /// # Errors
    /// If the frame lacks a column.
    fn read(&mut self, frame: &DataFrame, includes: &dyn Fn(u32) -> bool) -> Result<()>;

    /// The sequences read so far.
    fn sequences(&mut self) -> &mut Sequences<Self::Item>;
}

/// Collects the sequences of all users and calls `visit` with them, of at most `max_items` at once
/// unless one user has more: each user's sequence is in one call and complete.
///
/// # Errors
/// As [`Source::for_each_batch`], and the first error of `visit`.
pub fn for_each_partition<C: Collect>(
    source: &dyn Source,
    scan: &Scan<'_>,
    plan: &Plan<'_>,
    max_items: usize,
    collection: &mut C,
    mut visit: impl FnMut(&mut C) -> Result<()>,
) -> Result<()> {
    let mut next = Some(0);
    while let Some(start) = next {
        let users = start..u32::MAX;
        next = collect_partition(source, scan, plan, max_items, users, collection)?;
        visit(collection)?;
        *collection.sequences() = Sequences::default();
    }
    Ok(())
}

/// Collects the sequences of a range of users, or of the first of them if these have more items
/// than `max_items`. Returns the code of the first user that was left out.
fn collect_partition<C: Collect>(
    source: &dyn Source,
    scan: &Scan<'_>,
    plan: &Plan<'_>,
    max_items: usize,
    users: Range<u32>,
    collection: &mut C,
) -> Result<Option<u32>> {
    let mut left_out = None;
    source.for_each_batch(scan, plan, &mut |frame| {
        let end = left_out.unwrap_or(users.end);
        let wanted = users.start..end;
        let includes = |user: u32| wanted.contains(&user) && source.includes_user(user);
        for start in (0..frame.height()).step_by(ROWS_PER_CHECK) {
            source.check_cancelled()?;
            collection.read(&frame.slice(start as i64, ROWS_PER_CHECK), &includes)?;
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
    Ok(left_out)
}

#[cfg(test)]
mod tests {
    use polars::prelude::*;

    use super::*;
    use crate::metrics::frame::FrameSource;
    use crate::metrics::source::Columns;
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
    }

    /// The number of items of each user, in the order of the visits, and the number of partitions.
    fn visited(max_items: usize) -> (Vec<usize>, usize) {
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
        let scan = Scan::of_window(&source, Columns::Counted);
        let plan = |events: LazyFrame| {
            events.select([col(schema::USER_ID), col(schema::TS).to_physical()])
        };
        let (mut counts, mut partitions) = (Vec::new(), 0);
        let visit = |times: &mut Times| {
            partitions += 1;
            times.0.for_each(0..u32::MAX, &source, |items| {
                counts.push(items.len());
                Ok(())
            })
        };
        let mut times = Times::default();
        for_each_partition(&source, &scan, &plan, max_items, &mut times, visit)
            .expect("partitions");
        (counts, partitions)
    }

    #[test]
    fn every_user_is_complete_in_one_partition() {
        let (counts, partitions) = visited(100);
        assert_eq!((counts, partitions), (vec![1, 2, 3, 4, 5], 1));
        for max_items in [1, 2, 4, 7, 14] {
            let (counts, partitions) = visited(max_items);
            assert_eq!(counts, [1, 2, 3, 4, 5], "{max_items}");
            assert!(partitions > 1, "{max_items}");
        }
    }
}
