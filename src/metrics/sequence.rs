//! The events of each user in the order of time: the input of funnels and paths.

use std::ops::Range;

use super::source::Source;
use crate::error::Result;

/// Items that are sorted without a check for cancellation: some ten milliseconds if they are in no
/// order.
const SORTED_AT_ONCE: usize = 1 << 18;

/// A timestamped item of a user.
pub trait Timed: Copy {
    /// Its time in µs.
    fn ts_us(&self) -> i64;
}

/// Items of users, collected in the order of the log.
///
/// In parts that never grow, because memory that is touched for the first time costs as much as the
/// search in it.
#[derive(Debug)]
pub struct Sequences<T> {
    parts: Vec<SequencePart<T>>,
}

#[derive(Debug)]
struct SequencePart<T> {
    users: Vec<u32>,
    items: Vec<T>,
}

impl<T> Default for Sequences<T> {
    fn default() -> Self {
        Self { parts: Vec::new() }
    }
}

impl<T: Timed> Sequences<T> {
    /// Adds items with their users, in the order of the log, at most `capacity` of them.
    pub fn extend(&mut self, capacity: usize, items: impl Iterator<Item = (u32, T)>) {
        let mut part = SequencePart {
            users: Vec::with_capacity(capacity),
            items: Vec::with_capacity(capacity),
        };
        for (user, item) in items {
            part.users.push(user);
            part.items.push(item);
        }
        if !part.users.is_empty() {
            self.parts.push(part);
        }
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.users.len()).sum()
    }

    /// True if there are no items.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    fn users(&self) -> impl Iterator<Item = u32> {
        self.parts
            .iter()
            .flat_map(|part| part.users.iter().copied())
    }

    /// One more than the greatest user code.
    fn end(&self) -> u32 {
        self.users().max().map_or(0, |greatest| greatest + 1)
    }

    /// Keeps about the lower half, by user code, and returns the code from which on users were
    /// removed. `None` if all items are of one user.
    pub fn keep_lower_half(&mut self) -> Option<u32> {
        let mut users: Vec<u32> = self.users().collect();
        let least = *users.iter().min()?;
        let middle = users.len() / 2;
        let (_, &mut median, _) = users.select_nth_unstable(middle);
        let bound = median.max(least.checked_add(1)?);
        for part in &mut self.parts {
            let items = std::mem::take(&mut part.users)
                .into_iter()
                .zip(std::mem::take(&mut part.items));
            (part.users, part.items) = items.filter(|&(user, _)| user < bound).unzip();
        }
        self.parts.retain(|part| !part.users.is_empty());
        (self.len() < users.len()).then_some(bound)
    }

    /// The users of some items, each with the number of items that it stands for.
    pub fn sample(&self) -> impl Iterator<Item = (u32, usize)> {
        /// So many items are represented by one.
        const STEP: usize = 64;
        let parts = self.parts.iter();
        parts.flat_map(|part| part.users.iter().step_by(STEP).map(|&user| (user, STEP)))
    }

    /// Adds the items of a range of users from others, after its own.
    ///
    /// # Errors
    /// `busy` if the query is cancelled.
    pub fn extend_from(
        &mut self,
        others: &Self,
        users: &Range<u32>,
        source: &dyn Source,
    ) -> Result<()> {
        for part in &others.parts {
            source.check_cancelled()?;
            let count = part.users.iter().filter(|user| users.contains(user));
            let items = part.users.iter().zip(&part.items);
            let items = items.filter(|(user, _)| users.contains(user));
            self.extend(count.count(), items.map(|(&user, &item)| (user, item)));
        }
        Ok(())
    }

    /// Calls `visit` with each user of a range and their items, in the order of time and, at one
    /// timestamp, of the log.
    ///
    /// # Errors
    /// `busy` if the query is cancelled, `too_many_groups` if its memory is not enough for a sorted
    /// copy of these items, and the first error of `visit`.
    pub fn for_each(
        &self,
        range: Range<u32>,
        source: &dyn Source,
        mut visit: impl FnMut(u32, &[T]) -> Result<()>,
    ) -> Result<()> {
        let Some(&any) = self.parts.first().and_then(|part| part.items.first()) else {
            return Ok(());
        };
        let width = range.end.min(self.end()).saturating_sub(range.start);
        // The index of a user in the range.
        let index = |user: u32| user.checked_sub(range.start).filter(|&index| index < width);
        // Counting sort by user: first the offset of each user, then the end of what is placed so
        // far.
        let mut ends = vec![0_u32; width as usize + 1];
        for part in &self.parts {
            source.check_cancelled()?;
            for index in part.users.iter().copied().filter_map(index) {
                if let Some(count) = ends.get_mut(index as usize + 1) {
                    *count += 1;
                }
            }
        }
        let mut sum = 0;
        for end in &mut ends {
            sum += *end;
            *end = sum;
        }
        let mut charge = source.budget().charge();
        let copied = sum as usize * size_of::<T>();
        charge.set((size_of_val(ends.as_slice()) + copied) as u64)?;
        let mut sorted = vec![any; sum as usize];
        for part in &self.parts {
            source.check_cancelled()?;
            for (&user, item) in part.users.iter().zip(&part.items) {
                if let Some(next) = index(user).and_then(|index| ends.get_mut(index as usize)) {
                    if let Some(slot) = sorted.get_mut(*next as usize) {
                        *slot = *item;
                    }
                    *next += 1;
                }
            }
        }
        let mut start = 0;
        for (user, end) in (range.start..).zip(ends) {
            let end = end as usize;
            if let Some(of_user) = sorted.get_mut(start..end).filter(|items| !items.is_empty()) {
                sort_by_time(of_user, source)?;
                visit(user, of_user)?;
            }
            start = end;
        }
        Ok(())
    }
}

/// Sorts the items of a user, which are nearly sorted already. The order of the log stays within
/// one timestamp.
fn sort_by_time<T: Timed>(items: &mut [T], source: &dyn Source) -> Result<()> {
    source.check_cancelled()?;
    if items.len() > SORTED_AT_ONCE {
        let (lower, upper) = items.split_at_mut(items.len() / 2);
        sort_by_time(lower, source)?;
        sort_by_time(upper, source)?;
        source.check_cancelled()?;
    }
    // Two sorted halves are merged.
    items.sort_by_key(Timed::ts_us);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::metrics::frame::FrameSource;

    /// A time and a place in the log.
    #[derive(Debug, Clone, Copy, PartialEq)]
    struct Placed(i64, i64);

    impl Timed for Placed {
        fn ts_us(&self) -> i64 {
            self.0
        }
    }

    impl Timed for (i64, char) {
        fn ts_us(&self) -> i64 {
            self.0
        }
    }

    fn sequences(parts: &[&[(u32, (i64, char))]]) -> Sequences<(i64, char)> {
        let mut sequences = Sequences::default();
        for part in parts {
            sequences.extend(part.len(), part.iter().copied());
        }
        sequences
    }

    /// The items of each user in a range, as a string.
    fn visited(sequences: &Sequences<(i64, char)>, range: Range<u32>) -> Vec<String> {
        let source = FrameSource::new("2024-03-01", 1, &[]);
        let mut visited = Vec::new();
        let done = sequences.for_each(range, &source, |_, items| {
            visited.push(items.iter().map(|item| item.1).collect());
            Ok(())
        });
        done.expect("not cancelled");
        visited
    }

    #[test]
    fn items_of_a_user_are_in_order_of_time_then_of_the_log() {
        let parts: [&[_]; 2] = [
            &[(7, (5, 'c')), (2, (1, 'x')), (7, (3, 'a'))],
            &[(7, (5, 'd')), (2, (1, 'y')), (7, (4, 'b'))],
        ];
        let sequences = sequences(&parts);
        assert_eq!(visited(&sequences, 0..u32::MAX), ["xy", "abcd"]);
        assert_eq!(visited(&sequences, 3..8), ["abcd"]);
        assert_eq!(visited(&sequences, 3..7), [""; 0]);
    }

    #[test]
    fn a_long_list_is_sorted_like_a_short_one() {
        let source = FrameSource::new("2024-03-01", 1, &[]);
        let count = 2 * SORTED_AT_ONCE as i64 + 7;
        let items = (0..count).map(|place| (place * 7_919 % 1_000, place));
        let mut sorted: Vec<Placed> = items.map(|(ts, place)| Placed(ts, place)).collect();
        let mut expected = sorted.clone();
        expected.sort_by_key(|item| (item.0, item.1));
        sort_by_time(&mut sorted, &source).expect("not cancelled");
        assert!(sorted == expected, "in the order of time, then of the log");
        source.checks_left.store(2, Ordering::Relaxed);
        assert!(sort_by_time(&mut sorted, &source).is_err());
    }

    #[test]
    fn the_lower_half_is_kept_and_every_user_stays_complete() {
        let mut all = sequences(&[
            &[(1, (1, 'a')), (5, (1, 'e')), (3, (1, 'c'))],
            &[(1, (2, 'b')), (5, (2, 'f')), (3, (2, 'd'))],
        ]);
        assert_eq!(all.keep_lower_half(), Some(3));
        assert_eq!(visited(&all, 0..u32::MAX), ["ab"]);
        // Users 3 and 5 were removed: one user is left, who cannot be split.
        assert_eq!(all.keep_lower_half(), None);
        assert_eq!(all.len(), 2);
        // One user has the half and more.
        let mut skewed =
            sequences(&[&[(1, (1, 'a')), (1, (2, 'b')), (1, (3, 'c')), (9, (1, 'd'))]]);
        assert_eq!(skewed.keep_lower_half(), Some(2));
        assert_eq!(skewed.len(), 3);
        assert_eq!(Sequences::<(i64, char)>::default().keep_lower_half(), None);
    }
}
