//! Background jobs and their schedule, in UTC. clokwerk only starts them: what a job does follows
//! from the stored state.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use chrono::{NaiveTime, Utc};
use clokwerk::{Job, Scheduler, TimeUnits};
use tracing::warn;

use crate::alerts::sender::MessageSender;
use crate::backoff::Reporter;
use crate::engine::{Engine, RollupScope};
use crate::error::{Error, Result};
use crate::monitoring::Monitoring;
use crate::rollup;
use crate::store::{Clock, CompactionScope, SealUrgency, pipeline};

/// Interval at which the schedule and the size of the log are checked; a busy server fills a log in
/// less than a second.
const TICK: Duration = Duration::from_millis(100);
/// Interval at which a rollup is started that clokwerk missed, because the clock jumped or the
/// server started at midnight.
const CATCH_UP_MINUTES: u32 = 10;
/// Interval of scrubbing, compaction, the rest of interrupted erasures and that of the states of
/// new zones.
const TIDY_INTERVAL: Duration = Duration::from_secs(60);
/// Interval at which it is checked whether an alert of a user is due or a message waits.
const MESSAGES_INTERVAL: Duration = Duration::from_secs(1);
/// Interval at which it is checked whether a publication or a deletion is due.
const PUBLICATION_INTERVAL: Duration = Duration::from_secs(1);
/// Interval at which the gauges for monitoring are sampled: they are as old as this at most.
const GAUGES_INTERVAL: Duration = Duration::from_secs(1);
/// Interval at which what needs files or more time is sampled.
const RESOURCES_INTERVAL: Duration = Duration::from_secs(5);
/// Interval at which it is checked that the open log and data folder are still the ones at their
/// paths.
const IN_PLACE_INTERVAL: Duration = Duration::from_secs(1);

/// The running scheduler.
pub struct Schedule {
    stop: Vec<Sender<()>>,
}

impl Schedule {
    /// Starts the jobs. Jobs that are due run at once.
    ///
    /// # Errors
    /// If a thread cannot be created.
    pub fn start(
        engine: Arc<Engine>,
        rollup_at: NaiveTime,
        sender: Arc<MessageSender>,
    ) -> Result<Self> {
        let report = Arc::new(Report {
            failures: Reporter::default(),
            monitoring: engine.monitoring().clone(),
        });
        let checked = engine.clone();
        // On a separate thread, so that no job delays it.
        let in_place = spawn("in-place", IN_PLACE_INTERVAL, move || {
            checked.store().check_in_place();
        })?;
        // On a thread that needs no file, so that a hanging disk is noticed.
        let (sampled, gauges_report) = (engine.clone(), report.clone());
        let gauges = spawn("gauges", GAUGES_INTERVAL, move || {
            run(&gauges_report, "sampling", || {
                sampled.sample_gauges(Utc::now());
                Ok(())
            });
        })?;
        let (sampled, resources_report) = (engine.clone(), report.clone());
        let resources = spawn("resources", RESOURCES_INTERVAL, move || {
            run_in_background(&resources_report, "sampling", || {
                sampled.sample_resources(Utc::now());
                Ok(())
            });
            run_in_background(&resources_report, "alerts", || {
                sampled.evaluate_alerts(Utc::now())
            });
        })?;
        let tidied = engine.clone();
        let tidy_report = report.clone();
        let mut last_night = None;
        let tidy = spawn("tidy", TIDY_INTERVAL, move || {
            if last_night.is_none() {
                run(&tidy_report, "warm-up", || {
                    // Without it the first responses take longer, or report the damage.
                    if let Err(error) = tidied.warm_up(Utc::now()) {
                        warn!("The first responses will take longer: {error}");
                    }
                    Ok(())
                });
            }
            // Not with the other jobs: these may take a while, and the log fills in seconds.
            let now = Utc::now();
            // The full compaction of a day starts with the rollup of the day before, or at the next
            // start of the server.
            let night = Some(rollup::last_due_day(now, rollup_at));
            let effort = if std::mem::replace(&mut last_night, night) == night {
                CompactionScope::Urgent
            } else {
                CompactionScope::Full
            };
            let report = &tidy_report;
            run_in_background(report, "erasure", || tidied.finish_erasures(now));
            run_in_background(report, "compaction", || tidied.compact(now, effort));
            run_in_background(report, "scrub", || tidied.scrub());
        })?;
        // On a separate thread: the days of a large lake take minutes.
        let (zoned, zone_report) = (engine.clone(), report.clone());
        let zones = spawn("zones", TIDY_INTERVAL, move || {
            run_in_background(&zone_report, "making of daily states", || {
                zoned.build_zones()
            });
        })?;
        // On a separate thread: a receiver may take its time.
        let (alerting, alert_report) = (engine.clone(), report.clone());
        let messages = spawn("messages", MESSAGES_INTERVAL, move || {
            run_in_background(&alert_report, "messages", || {
                alerting.run_user_alerts(&sender, Utc::now())
            });
        })?;
        // On a separate thread: a bucket may be slow or gone.
        let (publishing, publish_report) = (engine.clone(), report.clone());
        let publication = spawn("publication", PUBLICATION_INTERVAL, move || {
            run_in_background(&publish_report, "publication", || {
                publishing.run_publication()
            });
        })?;
        // The same for a server that reads a table: it has no publication.
        let (reading, read_report) = (engine.clone(), report.clone());
        let read = spawn("table", PUBLICATION_INTERVAL, move || {
            run_in_background(&read_report, "reading of the table", || {
                reading.follow_table(Utc::now())
            });
        })?;
        let mut scheduler = Scheduler::with_tz(Utc);
        let (job, job_report) = (engine.clone(), report.clone());
        scheduler
            .every(1.day())
            .at_time(rollup_at)
            .run(move || roll_up(&job, &job_report));
        let (job, job_report) = (engine.clone(), report.clone());
        scheduler
            .every(CATCH_UP_MINUTES.minutes())
            .run(move || roll_up(&job, &job_report));
        let mut is_first = true;
        let schedule = spawn("schedule", TICK, move || {
            if std::mem::take(&mut is_first) {
                roll_up(&engine, &report);
            }
            seal(&engine, &report);
            scheduler.run_pending();
        })?;
        Ok(Self {
            stop: vec![
                in_place,
                gauges,
                resources,
                tidy,
                zones,
                messages,
                publication,
                read,
                schedule,
            ],
        })
    }

    /// Starts no more jobs. Running ones are not waited for: their files are valid whenever they
    /// end.
    pub fn stop(self) {
        drop(self.stop);
    }
}

/// Starts a thread that runs a job at once and then at intervals, until the sender is dropped.
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

fn roll_up(engine: &Engine, report: &Report) {
    // A wrong clock was traced already; what a job deletes by it cannot be restored.
    let Ok(now) = engine.store().trusted(Utc::now()) else {
        return;
    };
    run(report, "rollup", || engine.rollup(RollupScope::Due, now));
    run(report, "expiry", || {
        engine.expire(now.date_naive(), Clock::Doubted)
    });
}

fn seal(engine: &Engine, report: &Report) {
    match engine.seal_urgency() {
        None => {}
        Some(SealUrgency::Due) => run_in_background(report, "seal", || engine.store().seal()),
        // A longer log makes queries and starts slow, so the seal runs at normal priority.
        Some(SealUrgency::Late) => run(report, "seal", || engine.store().seal()),
    }
}

/// Where failures of jobs are traced and counted.
struct Report {
    failures: Reporter,
    monitoring: Arc<Monitoring>,
}

impl Report {
    fn failed(&self, job: &'static str, what: &str, cause: &str) {
        self.monitoring.job_failures.count(job, 1);
        self.failures.failed(what, cause);
    }
}

/// Runs a job at low priority.
fn run_in_background<T: Send>(
    report: &Report,
    name: &'static str,
    job: impl FnOnce() -> Result<T> + Send,
) {
    pipeline::in_background(|| run(report, name, job));
}

/// Runs a job. Its failure must not end the schedule, and shared state is consistent after a panic.
fn run<T>(report: &Report, name: &'static str, job: impl FnOnce() -> Result<T>) {
    let failed = format!("The {name} failed and will be tried again");
    match std::panic::catch_unwind(AssertUnwindSafe(job)) {
        Ok(Ok(_)) => report.failures.succeeded(&failed),
        Ok(Err(error)) => report.failed(name, &failed, &error.to_string()),
        Err(_) => report.failed(name, &failed, "it panicked"),
    }
}
