//! The events of each user in the order of time: what funnels and paths are searched in.

use std::ops::Range;

/// Something that a user did, with its time.
pub trait Timed: Copy {
    /// When, in µs.
    fn ts_us(&self) -> i64;
}

/// What users did, gathered in the order of the log.
#[derive(Debug)]
pub struct Sequences<T> {
    users: Vec<u32>,
    items: Vec<T>,
}

impl<T> Default for Sequences<T> {
    fn default() -> Self {
        Self {
            users: Vec::new(),
            items: Vec::new(),
        }
    }
}

impl<T: Timed> Sequences<T> {
    /// Adds what a user did.
    pub fn push(&mut self, user: u32, item: T) {
        self.users.push(user);
        self.items.push(item);
    }

    /// Makes room for so many more.
    pub fn reserve(&mut self, items: usize) {
        self.users.reserve(items);
        self.items.reserve(items);
    }

    /// How many things were done.
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether nothing was done.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Leaves about the lower half, by the numbers of the users, and returns the number from which on users were left out.
    /// `None` if all is of one user.
    pub fn keep_lower_half(&mut self) -> Option<u32> {
        let least = *self.users.iter().min()?;
        let mut users = self.users.clone();
        let middle = users.len() / 2;
        let (_, &mut median, _) = users.select_nth_unstable(middle);
        let bound = median.max(least.checked_add(1)?);
        let all = self.users.len();
        let mut kept = 0;
        for place in 0..all {
            if self.users.get(place).is_some_and(|&user| user < bound) {
                self.users.swap(kept, place);
                self.items.swap(kept, place);
                kept += 1;
            }
        }
        self.users.truncate(kept);
        self.items.truncate(kept);
        (kept < all).then_some(bound)
    }

    /// Ranges of numbers that all users are in, so many.
    pub fn shares(&self, shares: u32) -> impl Iterator<Item = Range<u32>> + Send + use<T> {
        let end = self.users.iter().max().map_or(0, |&greatest| greatest + 1);
        let width = end.div_ceil(shares).max(1);
        (0..end)
            .step_by(width as usize)
            .map(move |start| start..end.min(start.saturating_add(width)))
    }

    /// Calls `visit` with what each user of a range did, in the order of time and, at one instant, of the log.
    pub fn for_each(&self, range: Range<u32>, mut visit: impl FnMut(&[T])) {
        let Some(&any) = self.items.first() else {
            return;
        };
        let greatest = self.users.iter().filter(|&user| range.contains(user)).max();
        let width = greatest.map_or(0, |greatest| greatest - range.start + 1);
        // The place of a user in the range; others have none.
        let place = |user: u32| user.checked_sub(range.start).filter(|&place| place < width);
        // Sorted by user by counting: first where those of each begin, then where the next one of each goes.
        let mut ends = vec![0_u32; width as usize + 1];
        for place in self.users.iter().filter_map(|&user| place(user)) {
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
        for (&user, item) in self.users.iter().zip(&self.items) {
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
