//! Jobs at their times, in UTC. clokwerk only wakes them: what a job does follows from what is there.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use chrono::{NaiveTime, Utc};
use clokwerk::{Job, Scheduler, TimeUnits};
use tracing::error;

use crate::engine::{Engine, RollupScope};
use crate::error::{Error, Result};

/// How often the times are looked at.
const TICK: Duration = Duration::from_secs(1);
/// A run that clokwerk missed, because the clock jumped or the start fell on midnight, is made up this soon.
const CATCH_UP_MINUTES: u32 = 10;

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
                roll_up(&engine);
                while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
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
    // A panic must not end the schedule; what the job shares is whole after one.
    let job = AssertUnwindSafe(|| engine.rollup(RollupScope::Due, Utc::now()));
    match std::panic::catch_unwind(job) {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => error!("The rollup failed and will be tried again: {error}"),
        Err(_) => error!("The rollup panicked and will be tried again"),
    }
}
