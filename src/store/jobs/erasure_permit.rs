//! The permit to erase users, one erasure at a time. Compaction and indexing only try to keep
//! erasures out, the states of new zones wait for it; they do not keep each other out.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::store::lock::{OrderedRw, Rank, ReadGuard, WriteGuard};

/// The permit, and the number of erasures that wait for it.
pub struct ErasurePermit {
    /// Locked to write by an erasure.
    permit: OrderedRw<()>,
    waiting: AtomicUsize,
}

impl Default for ErasurePermit {
    fn default() -> Self {
        Self {
            permit: OrderedRw::new(Rank::Erasure, ()),
            waiting: AtomicUsize::new(0),
        }
    }
}

impl ErasurePermit {
    /// Waits for the permit.
    pub fn wait(&self) -> WriteGuard<'_, ()> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let permit = self.permit.write();
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        permit
    }

    /// Keeps erasures out, unless one is in progress or waits: these have precedence. An erasure
    /// knows its segments by their names, and what it removes must not be written again.
    pub fn keep_out(&self) -> Option<ReadGuard<'_, ()>> {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            return None;
        }
        self.permit.try_read()
    }

    /// Keeps erasures out, once none is in progress or waits.
    pub fn wait_to_keep_out(&self) -> ReadGuard<'_, ()> {
        self.permit.read()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_erasure_has_precedence() {
        let erasure = ErasurePermit::default();
        let compacting = erasure.keep_out().expect("no erasure");
        std::thread::scope(|scope| {
            let other = scope.spawn(|| erasure.keep_out().is_some());
            assert!(other.join().expect("no panic"), "jobs run together");
        });
        drop(compacting);
        let erasing = erasure.wait();
        assert!(erasure.keep_out().is_none());
        drop(erasing);
        erasure.waiting.store(1, Ordering::Relaxed);
        assert!(erasure.keep_out().is_none());
    }
}
