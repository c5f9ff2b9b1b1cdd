//! The events of each user in the order of time: what funnels and paths are searched in.

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

    /// Calls `visit` with what each user did, in the order of time and, at one instant, of the log.
    pub fn for_each(self, mut visit: impl FnMut(&[T])) {
        let Self { users, items } = self;
        let (Some(&greatest), Some(&any)) = (users.iter().max(), items.first()) else {
            return;
        };
        // Sorted by user by counting: first where those of each begin, then where the next one of each goes.
        let mut ends = vec![0_u32; greatest as usize + 2];
        for &user in &users {
            if let Some(count) = ends.get_mut(user as usize + 1) {
                *count += 1;
            }
        }
        let mut sum = 0;
        for end in &mut ends {
            sum += *end;
            *end = sum;
        }
        let mut sorted = vec![any; items.len()];
        for (user, item) in users.into_iter().zip(items) {
            if let Some(place) = ends.get_mut(user as usize) {
                if let Some(slot) = sorted.get_mut(*place as usize) {
                    *slot = item;
                }
                *place += 1;
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
