//! The permit to erase users, one erasure at a time. Compaction and indexing only try it.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::store::lock::{Guard, Ordered, Rank};

/// The permit, and the number of erasures that wait for it.
pub struct ErasurePermit {
    permit: Ordered<()>,
    waiting: AtomicUsize,
}

impl Default for ErasurePermit {
    fn default() -> Self {
        Self {
            permit: Ordered::new(Rank::Erasure, ()),
            waiting: AtomicUsize::new(0),
        }
    }
}

impl ErasurePermit {
    /// Waits for the permit.
    pub fn wait(&self) -> Guard<'_, ()> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let permit = self.permit.lock();
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        permit
    }

    /// Keeps erasures out, unless one is in progress or waits: these have precedence. An erasure
    /// knows its segments by their names, and what it removes must not be written again.
    pub fn keep_out(&self) -> Option<Guard<'_, ()>> {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            return None;
        }
        self.permit.try_lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_erasure_has_precedence() {
        let erasure = ErasurePermit::default();
        drop(erasure.keep_out().expect("no erasure"));
        let erasing = erasure.wait();
        assert!(erasure.keep_out().is_none());
        drop(erasing);
        erasure.waiting.store(1, Ordering::Relaxed);
        assert!(erasure.keep_out().is_none());
    }
}
