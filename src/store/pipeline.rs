//! Background work: a parallel map over the chunks of a stream that keeps their order, tickets, and
//! threads at low priority.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use parking_lot::Mutex;
use polars::prelude::*;
use thread_priority::{ThreadPriority, ThreadPriorityValue, set_current_thread_priority};
use tracing::warn;

use crate::error::Result;

/// Queued chunks per worker: enough to keep all of them busy, few enough to bound memory.
const CHUNKS_PER_WORKER: usize = 1;

/// Priority of background work, of 0 to 99. It is niceness 10: a tenth of a busy machine, on which
/// the work would never end with less.
const BACKGROUND_PRIORITY: u8 = 23;

/// Runs work in a thread of low priority, so that requests come first. Threads that the work starts
/// inherit the priority.
pub fn in_background<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    start_query_threads();
    std::thread::scope(|scope| {
        let done = scope.spawn(|| {
            let lowered = ThreadPriorityValue::try_from(BACKGROUND_PRIORITY)
                .map(ThreadPriority::Crossplatform)
                .map(set_current_thread_priority);
            if !matches!(lowered, Ok(Ok(()))) {
                warn!("Background work runs at full priority");
            }
            work()
        });
        done.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// Number of threads of background work that takes seconds: half of the cores, so that requests
/// find one that is free.
pub fn background_threads() -> usize {
    cores().div_ceil(2)
}

/// Starts the threads that all queries share. They keep the priority of the thread that starts
/// them, which must not be one of low priority.
fn start_query_threads() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        for engine in [Engine::InMemory, Engine::Streaming] {
            let rows = DataFrame::new(1, vec![Column::new("row".into(), [1_i64])]);
            let counted = rows.and_then(|rows| {
                let groups = rows.lazy().group_by([col("row")]).agg([len()]);
                groups.collect_with_engine(engine)
            });
            if let Err(error) = counted {
                warn!(%error, "Queries may run at low priority");
            }
        }
    });
}

/// Number of cores.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Applies `work` to each chunk that `next` returns, on all cores, and passes the results to `sink`
/// in the order of the chunks. Stops at the first error of `next` or `sink` and returns it.
///
/// # Errors
/// The first error of `next` or `sink`.
pub fn ordered<T: Send, R: Send>(
    next: impl FnMut() -> Result<Option<T>> + Send,
    work: impl Fn(T) -> R + Sync,
    sink: impl FnMut(R) -> Result<()>,
) -> Result<()> {
    ordered_on(cores(), next, work, sink)
}

/// Does the same as [`ordered`] on a given number of threads, which may exceed the number of cores
/// if the work also waits for the disk.
///
/// # Errors
/// As [`ordered`].
pub fn ordered_on<T: Send, R: Send>(
    workers: usize,
    mut next: impl FnMut() -> Result<Option<T>> + Send,
    work: impl Fn(T) -> R + Sync,
    mut sink: impl FnMut(R) -> Result<()>,
) -> Result<()> {
    let (job_sender, jobs) =
        sync_channel::<(T, SyncSender<Outcome<R>>)>(workers * CHUNKS_PER_WORKER);
    let (order_sender, order) =
        sync_channel::<Result<Receiver<Outcome<R>>>>(workers * CHUNKS_PER_WORKER);
    let jobs = Mutex::new(jobs);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((chunk, reply)) = take(&jobs) {
                    if is_over.load(Ordering::Relaxed) {
                        continue;
                    }
                    // A panic must not end the worker: it may be the last one for the queued
                    // chunks.
                    let outcome = catch_unwind(AssertUnwindSafe(|| work(chunk)));
                    // The receiver is gone once the sink has failed.
                    let _ = reply.send(outcome);
                }
            });
        }
        scope.spawn(move || {
            loop {
                let (reply, result) = sync_channel(1);
                let step = match next() {
                    Ok(Some(chunk)) => {
                        if job_sender.send((chunk, reply)).is_err() {
                            return;
                        }
                        Ok(result)
                    }
                    Ok(None) => return,
                    Err(error) => Err(error),
                };
                let failed = step.is_err();
                if order_sender.send(step).is_err() || failed {
                    return;
                }
            }
        });
        // However this ends, it drops `order`, which ends the reader and then the workers.
        let done = catch_unwind(AssertUnwindSafe(|| {
            for outcome in order {
                if let Ok(outcome) = outcome?.recv() {
                    sink(outcome.unwrap_or_else(|panic| resume_unwind(panic)))?;
                }
            }
            Ok(())
        }));
        is_over.store(true, Ordering::Relaxed);
        done.unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// Issues tickets.
pub struct Tickets {
    last: Receiver<()>,
}

/// A ticket that serialises work in the order of issue. Dropping a ticket unused releases the next
/// one at once, without waiting for those before.
pub struct Ticket {
    before: Receiver<()>,
    _ends_with_this: SyncSender<()>,
}

impl Default for Tickets {
    fn default() -> Self {
        // The sender is dropped: there is no ticket before the first.
        Self {
            last: sync_channel(0).1,
        }
    }
}

impl Tickets {
    /// Issues the next ticket.
    pub fn issue(&mut self) -> Ticket {
        let (sender, next) = sync_channel(0);
        Ticket {
            before: std::mem::replace(&mut self.last, next),
            _ends_with_this: sender,
        }
    }
}

impl Ticket {
    /// Does the work once the work of all earlier tickets is done.
    pub fn take<T>(self, work: impl FnOnce() -> T) -> T {
        // Nothing is ever sent: this returns when the ticket before is dropped.
        let _ = self.before.recv();
        work()
    }
}

/// Result of the work on a chunk, or its panic, which is passed on.
type Outcome<R> = std::thread::Result<R>;

fn take<T>(jobs: &Mutex<Receiver<T>>) -> Option<T> {
    jobs.lock().recv().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn results_come_in_order_and_an_error_ends_the_work() {
        let mut numbers = 0..1000_u64;
        let mut seen = Vec::new();
        let done = ordered(
            || Ok(numbers.next()),
            |number| number * 2,
            |double| {
                seen.push(double);
                Ok(())
            },
        );
        assert!(done.is_ok());
        assert_eq!(
            seen,
            (0..1000).map(|number| number * 2).collect::<Vec<u64>>()
        );
        let stopped = ordered(
            || Ok(Some(1)),
            |number: u64| number,
            |_| Err(Error::Cancelled("stop")),
        );
        assert!(matches!(stopped, Err(Error::Cancelled("stop"))));
    }

    #[test]
    fn a_panic_of_all_workers_is_passed_on() {
        let passed_on = catch_unwind(|| {
            let mut numbers = 0..1000_u64;
            ordered(
                || Ok(numbers.next()),
                |number| {
                    assert!(number > 1000, "as the test wants it");
                    number
                },
                |_| Ok(()),
            )
        });
        assert!(passed_on.is_err());
    }

    #[test]
    fn work_is_done_in_the_order_of_tickets_and_a_dropped_ticket_releases_the_next() {
        let mut turns = Tickets::default();
        let tickets: Vec<Ticket> = (0..4).map(|_| turns.issue()).collect();
        let seen = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for (number, ticket) in tickets.into_iter().enumerate().rev() {
                let seen = &seen;
                scope.spawn(move || ticket.take(|| seen.lock().push(number)));
            }
        });
        assert_eq!(*seen.lock(), [0, 1, 2, 3]);
        drop(turns.issue());
        assert_eq!(turns.issue().take(|| 5), 5);
    }
}
