//! Work beside requests: on the chunks of a long stream on all cores, with the results in the stream's order; and at low
//! priority.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, Once, PoisonError};

use polars::prelude::*;
use thread_priority::{ThreadPriority, ThreadPriorityValue, set_current_thread_priority};
use tracing::warn;

use crate::error::Result;

/// Chunks that wait, per worker: enough to keep all busy, few enough to bound memory.
const CHUNKS_PER_WORKER: usize = 1;

/// Priority of work that gives way to requests, of 0 to 99: niceness 10, a tenth of a busy machine. With less it would never
/// end on one.
const BESIDE_PRIORITY: u8 = 23;

/// Does work that gives way to requests: at low priority, which the threads that it starts inherit.
pub fn beside<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    start_query_threads();
    std::thread::scope(|scope| {
        let done = scope.spawn(|| {
            let lowered = ThreadPriorityValue::try_from(BESIDE_PRIORITY)
                .map(ThreadPriority::Crossplatform)
                .map(set_current_thread_priority);
            if !matches!(lowered, Ok(Ok(()))) {
                warn!("Work that should give way to requests runs at full priority");
            }
            work()
        });
        done.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// Starts the threads that every query shares. They keep the priority of whoever starts them, which must not be work that
/// gives way to them.
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

/// Cores that work can run on at once.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Applies `work` to each chunk that `next` gives, on all cores, and hands the results to `sink` in order.
/// Stops at the first error of `next` or `sink` and returns it.
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

/// The same on so many threads: more than there are cores, for work that waits for the disk in between.
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
                    // A worker that died of a panic would leave what is queued to nobody.
                    let outcome = catch_unwind(AssertUnwindSafe(|| work(chunk)));
                    // Nobody waits for the result once the sink has failed.
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
        // `order` is dropped at the end of this, however it ends, which ends the reader and then the workers.
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

/// Hands out places in a row.
pub struct Turns {
    last: Receiver<()>,
}

/// A place in a row: what is done in turn is done in the order of the places. To drop one without taking it is to give the row
/// up: those behind no longer wait for those before.
pub struct Turn {
    before: Receiver<()>,
    _ends_with_this: SyncSender<()>,
}

impl Default for Turns {
    fn default() -> Self {
        // Nobody is before the first.
        Self {
            last: sync_channel(0).1,
        }
    }
}

impl Turns {
    /// The next place.
    pub fn next_turn(&mut self) -> Turn {
        let (sender, next) = sync_channel(0);
        Turn {
            before: std::mem::replace(&mut self.last, next),
            _ends_with_this: sender,
        }
    }
}

impl Turn {
    /// Does the work when all before have done theirs.
    pub fn take<T>(self, work: impl FnOnce() -> T) -> T {
        // Nobody sends: it ends when the place before is dropped.
        let _ = self.before.recv();
        work()
    }
}

/// What became of a chunk: its result, or a panic to pass on.
type Outcome<R> = std::thread::Result<R>;

fn take<T>(jobs: &Mutex<Receiver<T>>) -> Option<T> {
    jobs.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .recv()
        .ok()
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
            |_| Err(Error::Busy("stop")),
        );
        assert!(matches!(stopped, Err(Error::Busy("stop"))));
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
    fn turns_come_in_the_order_of_the_places_and_nobody_waits_for_one_who_gave_up() {
        let mut turns = Turns::default();
        let places: Vec<Turn> = (0..4).map(|_| turns.next_turn()).collect();
        let seen = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for (place, turn) in places.into_iter().enumerate().rev() {
                let seen = &seen;
                scope.spawn(move || turn.take(|| seen.lock().expect("no panic").push(place)));
            }
        });
        assert_eq!(*seen.lock().expect("no panic"), [0, 1, 2, 3]);
        drop(turns.next_turn());
        assert_eq!(turns.next_turn().take(|| 5), 5);
    }
}
