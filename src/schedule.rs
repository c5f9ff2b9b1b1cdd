//! Jobs at their times, in UTC. clokwerk only wakes them: what a job does follows from what is there.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use chrono::{NaiveTime, Utc};
use clokwerk::{Job, Scheduler, TimeUnits};
use tracing::warn;

use crate::backoff::Reporter;
use crate::engine::{Engine, RollupScope};
use crate::error::{Error, Result};
use crate::rollup;
use crate::store::{Clock, Effort, SealUrgency, pipeline};

/// How often the times and the size of the log are looked at; a busy server fills a log in less than a second.
const TICK: Duration = Duration::from_millis(100);
/// A run that clokwerk missed, because the clock jumped or the start fell on midnight, is made up this soon.
const CATCH_UP_MINUTES: u32 = 10;
/// How often some of what is sealed is verified, and days of very many segments are looked for.
const TIDY_INTERVAL: Duration = Duration::from_secs(60);
/// How often it is checked that the log and the folder that are open are the ones under their names.
const IN_PLACE_INTERVAL: Duration = Duration::from_secs(1);

/// The running scheduler.
pub struct Schedule {
    stop: Vec<Sender<()>>,
}

impl Schedule {
    /// Starts the jobs: what is due already runs at once.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(engine: Arc<Engine>, rollup_at: NaiveTime) -> Result<Self> {
        let checked = engine.clone();
        // On a thread of its own: no job may keep it from looking.
        let in_place = spawn("in-place", IN_PLACE_INTERVAL, move || {
            checked.store().check_in_place();
        })?;
        let reporter = Arc::new(Reporter::default());
        let tidied = engine.clone();
        let tidy_reporter = reporter.clone();
        let mut last_night = None;
        let tidy = spawn("tidy", TIDY_INTERVAL, move || {
            if last_night.is_none() {
                run(&tidy_reporter, "warm-up", || {
                    // Without it the first answers wait longer, or say what is damaged.
                    if let Err(error) = tidied.warm_up(Utc::now()) {
                        warn!("First answers will take longer: {error}");
                    }
                    Ok(())
                });
            }
            // Beside the other jobs: it may take a while, and the log fills in seconds.
            let now = Utc::now();
            // The night begins when yesterday is rolled up; one that was slept through is made up at the start.
            let night = Some(rollup::last_due_day(now, rollup_at));
            let effort = match std::mem::replace(&mut last_night, night) == night {
                true => Effort::Urgent,
                false => Effort::Full,
            };
            let reporter = &tidy_reporter;
            run_beside(reporter, "erasure", || tidied.finish_erasures());
            run_beside(reporter, "compaction", || tidied.compact(now, effort));
            run_beside(reporter, "scrub", || tidied.scrub());
        })?;
        let mut scheduler = Scheduler::with_tz(Utc);
        let (job, job_reporter) = (engine.clone(), reporter.clone());
        scheduler
            .every(1.day())
            .at_time(rollup_at)
            .run(move || roll_up(&job, &job_reporter));
        let (job, job_reporter) = (engine.clone(), reporter.clone());
        scheduler
            .every(CATCH_UP_MINUTES.minutes())
            .run(move || roll_up(&job, &job_reporter));
        let mut is_first = true;
        let schedule = spawn("schedule", TICK, move || {
            if std::mem::take(&mut is_first) {
                roll_up(&engine, &reporter);
            }
            seal(&engine, &reporter);
            scheduler.run_pending();
        })?;
        Ok(Self {
            stop: vec![in_place, tidy, schedule],
        })
    }

    /// Starts no more jobs. One that runs is not waited for: whenever it ends, its files are whole.
    pub fn stop(self) {
        drop(self.stop);
    }
}

/// Starts a thread that does something at once and then at intervals, until the sender is dropped.
fn spawn(
    name: &'static str,
    interval: Duration,
    mut job: impl FnMut() + Send + 'static,
) -> Result<Sender<()>> {
    let (stop, stopped) = channel();
    std::thread::Builder::new()
        .name(name.into())
        .spawn(move || {
            job();
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                job();
            }
        })
        .map_err(Error::system("start the scheduler"))?;
    Ok(stop)
}

fn roll_up(engine: &Engine, reporter: &Reporter) {
    // It was said once that the clock is wrong; what a job would do by it, nobody could take back.
    let Ok(now) = engine.store().believed(Utc::now()) else {
        return;
    };
    run(reporter, "rollup", || engine.rollup(RollupScope::Due, now));
    run(reporter, "expiry", || {
        engine.expire(now.date_naive(), Clock::Doubted)
    });
}

fn seal(engine: &Engine, reporter: &Reporter) {
    match engine.seal_urgency() {
        None => {}
        Some(SealUrgency::Due) => run_beside(reporter, "seal", || engine.store().seal()),
        // Queries and starts would get slow: the seal takes its share of the machine.
        Some(SealUrgency::Late) => run(reporter, "seal", || engine.store().seal()),
    }
}

/// Runs a job that gives way to requests.
fn run_beside<T: Send>(
    reporter: &Reporter,
    name: &'static str,
    job: impl FnOnce() -> Result<T> + Send,
) {
    pipeline::beside(|| run(reporter, name, job));
}

/// Runs a job, whose failure must not end the schedule; what it shares is whole after a panic.
fn run<T>(reporter: &Reporter, name: &'static str, job: impl FnOnce() -> Result<T>) {
    let failed = format!("The {name} failed and will be tried again");
    match std::panic::catch_unwind(AssertUnwindSafe(job)) {
        Ok(Ok(_)) => reporter.succeeded(&failed),
        Ok(Err(error)) => reporter.failed(&failed, &error.to_string()),
        Err(_) => reporter.failed(&failed, "it panicked"),
    }
}
