//! The events of each user in the order of time: what funnels and paths are searched in.

use std::ops::Range;

/// Something that a user did, with its time.
pub trait Timed: Copy {
    /// When, in µs.
    fn ts_us(&self) -> i64;
}

/// What users did, gathered in the order of the log.
///
/// In parts that never grow, because memory that is touched for the first time costs as much as the search in it.
#[derive(Debug)]
pub struct Sequences<T> {
    parts: Vec<Part<T>>,
}

#[derive(Debug)]
struct Part<T> {
    users: Vec<u32>,
    items: Vec<T>,
}

impl<T> Default for Sequences<T> {
    fn default() -> Self {
        Self { parts: Vec::new() }
    }
}

impl<T: Timed> Sequences<T> {
    /// Adds at most so many things that users did.
    pub fn extend(&mut self, most: usize, done: impl Iterator<Item = (u32, T)>) {
        let mut part = Part {
            users: Vec::with_capacity(most),
            items: Vec::with_capacity(most),
        };
        for (user, item) in done {
            part.users.push(user);
            part.items.push(item);
        }
        if !part.users.is_empty() {
            self.parts.push(part);
        }
    }

    /// How many things were done.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.users.len()).sum()
    }

    /// Whether nothing was done.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    fn users(&self) -> impl Iterator<Item = u32> {
        self.parts
            .iter()
            .flat_map(|part| part.users.iter().copied())
    }

    /// One more than the greatest number of a user.
    fn end(&self) -> u32 {
        self.users().max().map_or(0, |greatest| greatest + 1)
    }

    /// Leaves about the lower half, by the numbers of the users, and returns the number from which on users were left out.
    /// `None` if all is of one user.
    pub fn keep_lower_half(&mut self) -> Option<u32> {
        let mut users: Vec<u32> = self.users().collect();
        let least = *users.iter().min()?;
        let middle = users.len() / 2;
        let (_, &mut median, _) = users.select_nth_unstable(middle);
        let bound = median.max(least.checked_add(1)?);
        for part in &mut self.parts {
            let done = std::mem::take(&mut part.users)
                .into_iter()
                .zip(std::mem::take(&mut part.items));
            (part.users, part.items) = done.filter(|&(user, _)| user < bound).unzip();
        }
        self.parts.retain(|part| !part.users.is_empty());
        (self.len() < users.len()).then_some(bound)
    }

    /// Ranges of numbers that all users are in, so many.
    pub fn shares(&self, shares: u32) -> impl Iterator<Item = Range<u32>> + Send + use<T> {
        let end = self.end();
        let width = end.div_ceil(shares).max(1);
        (0..end)
            .step_by(width as usize)
            .map(move |start| start..end.min(start.saturating_add(width)))
    }

    /// Calls `visit` with what each user of a range did, in the order of time and, at one instant, of the log.
    pub fn for_each(&self, range: Range<u32>, mut visit: impl FnMut(&[T])) {
        let Some(&any) = self.parts.first().and_then(|part| part.items.first()) else {
            return;
        };
        let width = range.end.min(self.end()).saturating_sub(range.start);
        // The place of a user in the range; others have none.
        let place = |user: u32| user.checked_sub(range.start).filter(|&place| place < width);
        // Sorted by user by counting: first where those of each begin, then where the next one of each goes.
        let mut ends = vec![0_u32; width as usize + 1];
        for place in self.users().filter_map(place) {
            if let Some(count) = ends.get_mut(place as usize + 1) {
                *count += 1;
            }
        }
        let mut sum = 0;
        for end in &mut ends {
            sum += *end;
            *end = sum;
        }
        let mut sorted = vec![any; sum as usize];
        let done = self
            .parts
            .iter()
            .flat_map(|part| part.users.iter().zip(&part.items));
        for (&user, item) in done {
            if let Some(next) = place(user).and_then(|place| ends.get_mut(place as usize)) {
                if let Some(slot) = sorted.get_mut(*next as usize) {
                    *slot = *item;
                }
                *next += 1;
            }
        }
        let mut start = 0;
        for end in ends {
            let end = end as usize;
            if let Some(of_user) = sorted.get_mut(start..end).filter(|items| !items.is_empty()) {
                // Nearly sorted already, and a stable sort leaves those of one instant in the order of the log.
                of_user.sort_by_key(Timed::ts_us);
                visit(of_user);
            }
            start = end;
        }
    }
}
