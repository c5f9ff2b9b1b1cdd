//! Counters of the limits that all clients have together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::engine::LimitStatus;

/// Places for work that a limited number of requests may do at once.
#[derive(Clone)]
pub struct Places {
    name: &'static str,
    all: u32,
    free: Arc<Semaphore>,
    reached: Arc<AtomicU64>,
}

impl Places {
    /// So many free places. `name` is what the limit is called in the status.
    pub fn new(name: &'static str, all: u32) -> Self {
        Self {
            name,
            all,
            free: Arc::new(Semaphore::new(all as usize)),
            reached: Arc::default(),
        }
    }

    /// Takes places, if there are so many.
    pub fn try_take(&self, places: u32) -> Option<OwnedSemaphorePermit> {
        let taken = self.free.clone().try_acquire_many_owned(places).ok();
        if taken.is_none() {
            self.count();
        }
        taken
    }

    /// Takes a place, as soon as there is one.
    pub async fn take(&self) -> Option<OwnedSemaphorePermit> {
        self.free.clone().acquire_owned().await.ok()
    }

    /// Counts a request that got no place.
    pub fn count(&self) {
        self.reached.fetch_add(1, Ordering::Relaxed);
    }

    /// How many places there are, and how many are taken.
    pub fn status(&self) -> LimitStatus {
        let free = self.free.available_permits() as u64;
        LimitStatus {
            name: self.name,
            limit: self.all.into(),
            used: u64::from(self.all).saturating_sub(free),
            reached: self.reached.load(Ordering::Relaxed),
        }
    }
}
