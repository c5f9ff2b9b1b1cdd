//! Permits for work that a limited number of requests may do at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::engine::LimitStatus;

/// A number of permits, and how often none was free.
pub struct PermitPool {
    name: &'static str,
    all: u32,
    free: Arc<Semaphore>,
    reached: AtomicU64,
}

impl PermitPool {
    /// A pool of `all` free permits. `name` is the name of the limit in the status.
    pub fn new(name: &'static str, all: u32) -> Self {
        Self {
            name,
            all,
            free: Arc::new(Semaphore::new(all as usize)),
            reached: AtomicU64::new(0),
        }
    }

    /// Takes permits if they are free now; counts the request as rejected if not.
    pub fn try_acquire(&self, permits: u32) -> Option<OwnedSemaphorePermit> {
        let taken = self.free.clone().try_acquire_many_owned(permits).ok();
        self.count_rejected(taken)
    }

    /// Takes a permit, in the order of the requests. Dropping the future leaves the queue.
    #[expect(
        clippy::expect_used,
        reason = "acquiring fails only after a semaphore was closed, which none is"
    )]
    pub async fn acquire(&self) -> OwnedSemaphorePermit {
        let acquired = self.free.clone().acquire_owned().await;
        acquired.expect("the semaphore is never closed")
    }

    /// Takes a permit as [`PermitPool::acquire`] does, within a time; counts the request as
    /// rejected if none is free in time.
    pub async fn acquire_within(&self, wait: Duration) -> Option<OwnedSemaphorePermit> {
        let taken = tokio::time::timeout(wait, self.acquire()).await.ok();
        self.count_rejected(taken)
    }

    fn count_rejected(&self, taken: Option<OwnedSemaphorePermit>) -> Option<OwnedSemaphorePermit> {
        if taken.is_none() {
            self.reached.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// The number of permits, how many are taken, and how often none was free.
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime")
            .block_on(future)
    }

    #[test]
    fn permits_are_returned_when_dropped_and_rejections_are_counted() {
        let pool = PermitPool::new("test", 2);
        let taken = pool.try_acquire(2);
        assert!(taken.is_some() && pool.try_acquire(1).is_none());
        assert!(block_on(pool.acquire_within(Duration::ZERO)).is_none());
        assert_eq!((pool.status().used, pool.status().reached), (2, 2));
        drop(taken);
        assert!(block_on(pool.acquire_within(Duration::ZERO)).is_some());
        assert_eq!((pool.status().used, pool.status().reached), (0, 2));
    }

    #[test]
    fn a_request_that_stops_waiting_takes_no_permit() {
        let pool = PermitPool::new("test", 1);
        block_on(async {
            let taken = pool.acquire().await;
            let mut waiting = Box::pin(pool.acquire());
            assert!(waiting.as_mut().now_or_never().is_none());
            drop(waiting);
            drop(taken);
            assert!(pool.try_acquire(1).is_some());
        });
    }
}
