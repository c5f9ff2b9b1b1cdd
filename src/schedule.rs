//! Jobs at their times, in UTC. clokwerk only wakes them: what a job does follows from what is there.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use chrono::{NaiveTime, Utc};
use clokwerk::{Job, Scheduler, TimeUnits};
use thread_priority::{ThreadPriority, set_current_thread_priority};
use tracing::{error, warn};

use crate::engine::{Engine, RollupScope};
use crate::error::{Error, Result};
use crate::store::{Clock, SealUrgency};

/// How often the times are looked at.
const TICK: Duration = Duration::from_secs(1);
/// A run that clokwerk missed, because the clock jumped or the start fell on midnight, is made up this soon.
const CATCH_UP_MINUTES: u32 = 10;
/// How often segments are compacted and some of them verified.
const TIDY_MINUTES: u32 = 1;

/// The running scheduler.
pub struct Schedule {
    stop: Sender<()>,
}

impl Schedule {
    /// Starts the jobs: what is due already runs at once.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(engine: Arc<Engine>, rollup_at: NaiveTime) -> Result<Self> {
        let (stop, stopped) = channel();
        std::thread::Builder::new()
            .name("schedule".into())
            .spawn(move || {
                let mut scheduler = Scheduler::with_tz(Utc);
                let job = engine.clone();
                scheduler
                    .every(1.day())
                    .at_time(rollup_at)
                    .run(move || roll_up(&job));
                let job = engine.clone();
                scheduler
                    .every(CATCH_UP_MINUTES.minutes())
                    .run(move || roll_up(&job));
                let job = engine.clone();
                scheduler
                    .every(TIDY_MINUTES.minutes())
                    .run(move || tidy(&job));
                roll_up(&engine);
                while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                    // A busy server fills a log in seconds, so this is looked at each time.
                    seal(&engine);
                    scheduler.run_pending();
                }
            })
            .map_err(Error::io("start", "the scheduler".as_ref()))?;
        Ok(Self { stop })
    }

    /// Starts no more jobs. One that runs is not waited for: whenever it ends, its files are whole.
    pub fn stop(self) {
        drop(self.stop);
    }
}

fn roll_up(engine: &Engine) {
    run("rollup", || engine.rollup(RollupScope::Due, Utc::now()));
    run("expiry", || {
        engine.expire(Utc::now().date_naive(), Clock::Doubted)
    });
}

fn seal(engine: &Engine) {
    match engine.seal_urgency() {
        None => {}
        Some(SealUrgency::Due) => run_beside("seal", || engine.store().seal()),
        // Questions and starts would get slow: the seal takes its share of the machine.
        Some(SealUrgency::Late) => run("seal", || engine.store().seal()),
    }
}

fn tidy(engine: &Engine) {
    run_beside("compaction", || engine.tidy(Utc::now()));
}

/// Runs a job that gives way to requests: at low priority, which the threads that it starts inherit.
fn run_beside<T>(name: &str, job: impl FnOnce() -> Result<T> + Send) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            if let Err(error) = set_current_thread_priority(ThreadPriority::Min) {
                warn!("The {name} runs at full priority: {error:?}");
            }
            run(name, job);
        });
    });
}

/// Runs a job, whose failure must not end the schedule; what it shares is whole after a panic.
fn run<T>(name: &str, job: impl FnOnce() -> Result<T>) {
    match std::panic::catch_unwind(AssertUnwindSafe(job)) {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => error!("The {name} failed and will be tried again: {error}"),
        Err(_) => error!("The {name} panicked and will be tried again"),
    }
}
