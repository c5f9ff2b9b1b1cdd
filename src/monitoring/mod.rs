//! Numbers about the server for an operator: counters and histograms that each part records
//! into, gauges that are sampled in the background, and the page that Prometheus reads.
//!
//! Recording takes atomics and no lock, once a batch, query or job and never once an event. Reading
//! takes no lock that ingest waits for: what is behind such a lock is sampled each second
//! ([`Gauges`]), and what needs files every few seconds ([`Resources`]). All labels have values
//! from lists of the program; none has one from a request.

mod alerts;
mod codes;
mod gauges;
mod histogram;
mod history;
mod labels;
mod page;
mod pairs;
mod process;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::error::{Error, Result};

pub use alerts::{ALERTS, AlertChange, AlertState, AlertStatus, Alerts, SavedAlerts, Severity};
pub use codes::Codes;
pub use gauges::{ClosedDay, Gauges, Limit, Memory, Resources, TableGauges, WINDOW_DAYS, WINDOWS};
pub use histogram::Histogram;
pub use labels::{BatchOutcome, EventOutcome, Family, QueryKind, QueryOutcome, QuerySource};
pub use page::{PageFormat, page};
pub use pairs::Pairs;
pub use process::Process;

/// Bounds of the time to make a group of events durable, in seconds: a fast disk needs less than a
/// millisecond, and after 5 s a disk counts as hanging.
const SYNC_SECONDS: &[f64] = &[
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];
/// Bounds of the time from the last byte of a batch to its response: a sync, and up to the 10 s
/// after which the client is told to send it again.
const INGEST_SECONDS: &[f64] = &[
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// Bounds of the time of a query. One of them is the 0.5 s of the alert.
const QUERY_SECONDS: &[f64] = &[
    0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];
/// Bounds of the time of a job. One of them is the 60 s of the alert.
const JOB_SECONDS: &[f64] = &[
    0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0,
];
/// Bounds of the length of a body on the wire, in bytes, up to its limit of 2 MiB.
const BODY_BYTES: &[f64] = &[
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    2_097_152.0,
];
/// Bounds of the difference between the clocks of a client and the server, in seconds; above 60 s
/// it is corrected.
const SKEW_SECONDS: &[f64] = &[1.0, 5.0, 15.0, 60.0, 300.0, 3_600.0, 86_400.0];

/// Codes of events that do not follow the tracking plan.
const PLAN_CODES: &[&str] = &["plan_conversion", "plan_feature", "plan_metadata"];
/// Codes of rejected events, which are listed from the start with 0.
const REJECTIONS: &[&str] = &[
    "bad_event",
    "bad_event_id",
    "bad_event_type",
    "bad_feature",
    "bad_metadata",
    "bad_ts",
    "bad_url",
    "bad_user_id",
    "duplicate_field",
    "future_ts",
];
/// Names of the jobs, which are listed from the start with 0.
const JOBS: &[&str] = &[
    "alerts",
    "compaction",
    "erasure",
    "expiry",
    "making of daily states",
    "messages",
    "publication",
    "rollup",
    "scrub",
    "seal",
];

/// Everything that is counted since the start, and the newest samples.
#[derive(Debug)]
pub struct Monitoring {
    /// Requests with events.
    pub batches: Pairs<Family, BatchOutcome, AtomicU64>,
    /// Events.
    pub events: Pairs<Family, EventOutcome, AtomicU64>,
    /// Events without a user that got the id of a daily visitor.
    pub visitor_events: AtomicU64,
    /// Rejected events by code.
    pub rejections: Codes,
    /// Stored events that do not follow the tracking plan, by code.
    pub warned: Codes,
    /// Events that the tracking plan quarantined, by code.
    pub quarantined: Codes,
    /// Error responses by code.
    pub errors: Codes,
    /// From the last byte of a batch to its response.
    pub ingest: Histogram,
    /// Bytes of a batch on the wire.
    pub body: Histogram,
    /// Difference between the clocks of a client and the server.
    pub skew: Histogram,
    /// Writing a group of events to the log until it is durable.
    pub sync: Histogram,
    /// Queries that had a result.
    pub query_times: Pairs<QueryKind, QuerySource, Histogram>,
    /// All queries.
    pub queries: Pairs<QueryKind, QueryOutcome, AtomicU64>,
    /// Rollups that wrote lines.
    pub rollup: Histogram,
    /// Seals of events.
    pub seal: Histogram,
    /// Erasures of users.
    pub erasure: Histogram,
    /// Exports of events, with the time that the client takes to read them.
    pub export: Histogram,
    /// Failures of background jobs by job.
    pub job_failures: Codes,
    /// Time of the last rollup that wrote lines, in ms; `u64::MAX` before the first.
    last_rollup_ms: AtomicU64,
    /// True for each alert that fires, in the order of [`Alerts::status`].
    firing: [AtomicBool; ALERTS],
    gauges: Mutex<Arc<Gauges>>,
    resources: Mutex<Arc<Resources>>,
}

impl Default for Monitoring {
    fn default() -> Self {
        Self {
            batches: Pairs::new(AtomicU64::default),
            events: Pairs::new(AtomicU64::default),
            visitor_events: AtomicU64::default(),
            rejections: Codes::new(REJECTIONS),
            warned: Codes::new(PLAN_CODES),
            quarantined: Codes::new(PLAN_CODES),
            errors: Codes::new(&[]),
            ingest: Histogram::of_seconds(INGEST_SECONDS),
            body: Histogram::of_bytes(BODY_BYTES),
            skew: Histogram::of_seconds(SKEW_SECONDS),
            sync: Histogram::of_seconds(SYNC_SECONDS),
            query_times: Pairs::new(|| Histogram::of_seconds(QUERY_SECONDS)),
            queries: Pairs::new(AtomicU64::default),
            rollup: Histogram::of_seconds(JOB_SECONDS),
            seal: Histogram::of_seconds(JOB_SECONDS),
            erasure: Histogram::of_seconds(JOB_SECONDS),
            export: Histogram::of_seconds(JOB_SECONDS),
            job_failures: Codes::new(JOBS),
            last_rollup_ms: AtomicU64::new(u64::MAX),
            firing: Default::default(),
            gauges: Mutex::default(),
            resources: Mutex::default(),
        }
    }
}

impl Monitoring {
    /// Counts a batch.
    pub fn count_batch(&self, family: Family, outcome: BatchOutcome) {
        add(self.batches.at(family, outcome), 1);
    }

    /// Counts events of a batch.
    pub fn count_events(&self, family: Family, outcome: EventOutcome, events: usize) {
        if events > 0 {
            add(self.events.at(family, outcome), events as u64);
        }
    }

    /// Counts a query, and the time of one that had a result.
    pub fn count_query<T>(
        &self,
        kind: QueryKind,
        source: QuerySource,
        result: &Result<T>,
        took: Duration,
    ) {
        let outcome = match result {
            Ok(_) => QueryOutcome::Succeeded,
            Err(Error::BadInput { .. } | Error::TooLarge { .. }) => QueryOutcome::Refused,
            Err(Error::Cancelled(_)) => QueryOutcome::Cancelled,
            Err(_) => QueryOutcome::Failed,
        };
        add(self.queries.at(kind, outcome), 1);
        if outcome == QueryOutcome::Succeeded
            && let Some(times) = self.query_times.at(kind, source)
        {
            times.observe_time(took);
        }
    }

    /// Counts a rollup that wrote lines.
    pub fn count_rollup(&self, took: Duration) {
        self.rollup.observe_time(took);
        self.last_rollup_ms
            .store(took.as_millis() as u64, Ordering::Relaxed);
    }

    /// Time of the last rollup that wrote lines, in seconds; `None` before the first.
    pub fn last_rollup_seconds(&self) -> Option<f64> {
        let ms = self.last_rollup_ms.load(Ordering::Relaxed);
        (ms != u64::MAX).then_some(ms as f64 / 1_000.0)
    }

    /// The newest gauges.
    pub fn gauges(&self) -> Arc<Gauges> {
        self.gauges.lock().clone()
    }

    /// Replaces the gauges.
    pub fn set_gauges(&self, gauges: Gauges) {
        *self.gauges.lock() = Arc::new(gauges);
    }

    /// The newest resources.
    pub fn resources(&self) -> Arc<Resources> {
        self.resources.lock().clone()
    }

    /// Replaces the resources.
    pub fn set_resources(&self, resources: Resources) {
        *self.resources.lock() = Arc::new(resources);
    }
}

fn add(counter: Option<&AtomicU64>, count: u64) {
    if let Some(counter) = counter {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}
