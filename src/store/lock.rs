//! The locks of the store, each with its rank in the lock order (see [`super`]). With debug
//! assertions, a thread that takes locks against the order panics; without them the ranks cost
//! nothing.
//!
//! The locks are not poisoned by a panic: every value behind them is changed in one step, so that a
//! panic leaves it valid.

use std::ops::{Deref, DerefMut};

use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Position in the lock order: a thread takes locks of greater ranks than all that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// The permit to erase, held for minutes.
    Erasure,
    /// The one transaction on the committed state, held for seconds.
    Transaction,
    /// State of single jobs: retired day folders, expired ids, position of the scrub.
    Job,
    /// Not a lock: held by the writer thread for as long as it lives, because transactions wait for
    /// it.
    WriterThread,
    /// Recent event ids.
    RecentIds,
    /// Names admitted within the daily limits.
    Admission,
    /// The file of held events.
    Held,
    /// The published version and the tail.
    Published,
    /// Erased users.
    ErasedUsers,
    /// Locks under which no other lock of the store is taken.
    Leaf,
}

/// A mutex with a rank.
#[derive(Debug)]
pub(super) struct Ordered<T> {
    rank: Rank,
    mutex: Mutex<T>,
}

impl<T> Ordered<T> {
    /// Protects a value.
    pub const fn new(rank: Rank, value: T) -> Self {
        Self {
            rank,
            mutex: Mutex::new(value),
        }
    }

    /// Waits for the value.
    pub fn lock(&self) -> Guard<'_, T> {
        let held = Held::enter(self.rank);
        Guard {
            guard: self.mutex.lock(),
            _held: held,
        }
    }
}

/// A locked value. Dropping it unlocks.
#[derive(Debug)]
pub(super) struct Guard<'a, T> {
    guard: MutexGuard<'a, T>,
    _held: Held,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

/// A read-write lock with a rank.
#[derive(Debug)]
pub(super) struct OrderedRw<T> {
    rank: Rank,
    lock: RwLock<T>,
}

impl<T> OrderedRw<T> {
    /// Protects a value.
    pub const fn new(rank: Rank, value: T) -> Self {
        Self {
            rank,
            lock: RwLock::new(value),
        }
    }

    /// Waits for the value, to read it.
    pub fn read(&self) -> ReadGuard<'_, T> {
        let held = Held::enter(self.rank);
        ReadGuard {
            guard: self.lock.read(),
            _held: held,
        }
    }

    /// The value to read it, unless another thread changes it or waits to change it.
    pub fn try_read(&self) -> Option<ReadGuard<'_, T>> {
        let guard = self.lock.try_read()?;
        Some(ReadGuard {
            guard,
            _held: Held::enter(self.rank),
        })
    }

    /// Waits for the value, to change it.
    pub fn write(&self) -> WriteGuard<'_, T> {
        let held = Held::enter(self.rank);
        WriteGuard {
            guard: self.lock.write(),
            _held: held,
        }
    }
}

/// A value locked to read it. Dropping it unlocks.
pub(super) struct ReadGuard<'a, T> {
    guard: RwLockReadGuard<'a, T>,
    _held: Held,
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

/// A value locked to change it. Dropping it unlocks.
pub(super) struct WriteGuard<'a, T> {
    guard: RwLockWriteGuard<'a, T>,
    _held: Held,
}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

#[cfg(debug_assertions)]
mod held {
    use std::cell::RefCell;

    use super::Rank;

    thread_local! {
        static RANKS: RefCell<Vec<Rank>> = const { RefCell::new(Vec::new()) };
    }

    /// A rank that this thread holds.
    #[derive(Debug)]
    pub(in crate::store) struct Held(Rank);

    impl Held {
        /// Adds a rank to those that this thread holds; panics if that is against the order.
        pub fn enter(rank: Rank) -> Self {
            RANKS.with_borrow_mut(|ranks| {
                let last = ranks.iter().max();
                assert!(
                    last.is_none_or(|&last| last < rank),
                    "locks against the order: {rank:?} while holding {ranks:?}"
                );
                ranks.push(rank);
            });
            Self(rank)
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            // The thread may be ending, and then there is nothing left to keep.
            let _ = RANKS.try_with(|ranks| {
                let mut ranks = ranks.borrow_mut();
                if let Some(place) = ranks.iter().rposition(|rank| *rank == self.0) {
                    ranks.remove(place);
                }
            });
        }
    }
}

#[cfg(not(debug_assertions))]
mod held {
    use super::Rank;

    /// A rank that this thread holds; not checked without debug assertions.
    #[derive(Debug)]
    pub(in crate::store) struct Held;

    impl Held {
        /// Does nothing.
        pub fn enter(_: Rank) -> Self {
            Self
        }
    }
}

pub(super) use held::Held;

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn locks_are_taken_in_the_order_of_their_ranks() {
        let transaction = Ordered::new(Rank::Transaction, 1);
        let published = Ordered::new(Rank::Published, 2);
        let erased = OrderedRw::new(Rank::ErasedUsers, 3);
        let in_order = || {
            let first = transaction.lock();
            let second = published.lock();
            // Unlocked in another order than they were locked.
            drop(first);
            let third = erased.read();
            *second + *third
        };
        assert_eq!(in_order(), 5);
        let _writer = Held::enter(Rank::WriterThread);
        assert_eq!(*published.lock(), 2);
    }

    #[test]
    fn a_lock_against_the_order_panics_with_debug_assertions() {
        let transaction = Ordered::new(Rank::Transaction, ());
        let published = Ordered::new(Rank::Published, ());
        let other = Ordered::new(Rank::Published, ());
        let fails = |work: &dyn Fn()| catch_unwind(AssertUnwindSafe(work)).is_err();
        let upward = || {
            let _second = published.lock();
            let _first = transaction.lock();
        };
        let level = || {
            let _one = published.lock();
            let _other = other.lock();
        };
        let writer_waits_for_a_job = || {
            let _writer = Held::enter(Rank::WriterThread);
            let _first = transaction.lock();
        };
        for work in [&upward as &dyn Fn(), &level, &writer_waits_for_a_job] {
            assert_eq!(fails(work), cfg!(debug_assertions));
        }
        // A panic leaves neither a lock nor a rank behind.
        let _first = transaction.lock();
        let _second = published.lock();
    }
}
