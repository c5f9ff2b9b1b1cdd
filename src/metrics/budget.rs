//! The memory that a query may hold for what grows with its distinct values, users and events:
//! groups with their sets of users, sequences, rows of the result.
//!
//! Each part of a query charges what it holds, as an estimate from lengths and capacities, and a
//! query whose parts need more than the limit ends with `too_many_groups`. Batches that are being
//! read are bounded by their number of rows and are not charged: a quarter of the limit is left for
//! them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use roaring::RoaringBitmap;

use crate::error::{Error, ErrorCode, Result};

/// Bytes of a set of users with its first container, whatever is in it.
const SET_BYTES: u64 = 192;

/// The limit of each query, and what all running queries hold together.
#[derive(Debug)]
pub struct QueryMemory {
    limit_bytes: u64,
    held: AtomicU64,
    reached: AtomicU64,
}

/// The budget of one query.
#[derive(Debug)]
pub struct Budget {
    memory: Arc<QueryMemory>,
    held: AtomicU64,
}

/// The memory of one part of a query. It is returned to the budget on drop.
#[derive(Debug)]
pub struct Charge<'a> {
    budget: &'a Budget,
    bytes: u64,
}

impl QueryMemory {
    /// A limit for each query.
    pub fn new(limit_bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            limit_bytes,
            held: AtomicU64::new(0),
            reached: AtomicU64::new(0),
        })
    }

    /// The budget of a query that begins now.
    pub fn budget(self: &Arc<Self>) -> Budget {
        Budget {
            memory: self.clone(),
            held: AtomicU64::new(0),
        }
    }

    /// Bytes that all running queries hold together.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Number of queries that ended at the limit.
    pub fn reached(&self) -> u64 {
        self.reached.load(Ordering::Relaxed)
    }
}

impl Budget {
    /// Bytes that all parts of the query may hold together.
    pub fn bytes(&self) -> u64 {
        self.memory.limit_bytes / 4 * 3
    }

    /// Bytes that all parts of the query hold together.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// The charge of a part that holds nothing yet.
    pub fn charge(&self) -> Charge<'_> {
        Charge {
            budget: self,
            bytes: 0,
        }
    }
}

impl Charge<'_> {
    /// Sets the bytes that the part holds now.
    ///
    /// # Errors
    /// `too_many_groups` if the query holds more than its budget.
    pub fn set(&mut self, bytes: u64) -> Result<()> {
        let (memory, before) = (&self.budget.memory, self.bytes);
        // Wrapping, so that a part that shrinks subtracts.
        let change = bytes.wrapping_sub(before);
        self.bytes = bytes;
        memory.held.fetch_add(change, Ordering::Relaxed);
        let held = self.budget.held.fetch_add(change, Ordering::Relaxed);
        if bytes <= before || held.wrapping_add(change) <= self.budget.bytes() {
            return Ok(());
        }
        memory.reached.fetch_add(1, Ordering::Relaxed);
        Err(Error::bad_input(
            ErrorCode::TooManyGroups,
            format!(
                "the groups, users and events that the query has to hold need more than its {} MiB of memory; a shorter \
                 window, a filter, or a property with fewer values needs less, and --limit-query-mib allows more",
                memory.limit_bytes >> 20
            ),
        ))
    }

    /// Bytes that the part holds.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        let released = self.bytes.wrapping_neg();
        self.budget.held.fetch_add(released, Ordering::Relaxed);
        let memory = &self.budget.memory;
        memory.held.fetch_add(released, Ordering::Relaxed);
    }
}

/// Bytes of a set of users in memory. Its containers have space to grow.
pub fn set_bytes(users: &RoaringBitmap) -> u64 {
    SET_BYTES + users.serialized_size() as u64 / 2 * 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_hold_at_most_three_quarters_together_and_return_what_they_held() {
        let memory = QueryMemory::new(4_000);
        let budget = memory.budget();
        let (mut one, mut other) = (budget.charge(), budget.charge());
        assert!(one.set(2_000).is_ok() && other.set(1_000).is_ok());
        assert_eq!(memory.held(), 3_000);
        let error = other.set(1_001).expect_err("more than the budget");
        assert!(error.to_string().contains("--limit-query-mib"), "{error}");
        assert_eq!(memory.reached(), 1);
        // A part that shrinks is never the one that is too large.
        assert!(one.set(2_000).is_ok());
        assert!(one.set(1_999).is_ok());
        // Other queries have budgets of their own.
        assert!(memory.budget().charge().set(3_000).is_ok());
        drop((one, other));
        assert_eq!(memory.held(), 0);
        assert!(budget.charge().set(3_000).is_ok());
    }
}
