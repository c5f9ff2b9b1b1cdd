//! Samples of the state of the server, which the engine takes in the background.

use chrono::NaiveDate;

use super::process::Process;

/// The windows of the active users of the last closed day, in days.
pub const WINDOW_DAYS: [u16; 3] = [1, 7, 30];
/// Their names, in the same order.
pub const WINDOWS: [&str; 3] = ["1d", "7d", "30d"];

/// A sample that needs no file. Times are in seconds since 1970.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gauges {
    /// Time of the sample; 0 before the first.
    pub at: f64,
    /// Start of the process's store.
    pub opened_at: f64,
    /// Events are accepted.
    pub is_writable: bool,
    /// Age of the oldest event that waits to be sealed, in seconds; 0 if none waits.
    pub seal_lag: f64,
    /// Events that wait to be sealed.
    pub unsealed_events: u64,
    /// Bytes of the open event log and of those that wait to be sealed.
    pub log_bytes: u64,
    /// Events in segments.
    pub sealed_events: u64,
    /// Live segments.
    pub segments: u64,
    /// Their bytes.
    pub segment_bytes: u64,
    /// Live segments that are known to be damaged.
    pub damaged_segments: u64,
    /// Live daily states.
    pub states: u64,
    /// Their bytes.
    pub state_bytes: u64,
    /// Links between ids of users that hold, of sealed events.
    pub links: u64,
    /// Statements about ids that were rejected, of sealed events.
    pub rejected_links: u64,
    /// Subscribers of live events.
    pub watchers: u64,
    /// Time of receipt of the newest event; 0 without one.
    pub last_event: f64,
    /// The limits of names and of a query.
    pub limits: Vec<Limit>,
    /// The published tables; none if the server publishes none.
    pub tables: Option<TableGauges>,
}

/// The tables that a server publishes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TableGauges {
    /// The version of the table of events, once it is known.
    pub version: Option<u64>,
    /// Seconds for which they have not had what is sealed; 0 if they have it.
    pub lag: u64,
    /// Failures in a row.
    pub failures: u32,
}

/// A limit, its use, and how often it was reached since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Name, as in the status.
    pub name: &'static str,
    /// The limit; 0 means unlimited.
    pub limit: u64,
    /// Current use.
    pub used: u64,
    /// Number of times that it was reached.
    pub reached: u64,
}

/// A sample that may need files, or takes longer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resources {
    /// Free bytes on the disk of the data folder, if they are known.
    pub disk_free: Option<u64>,
    /// Time since which a rollup is due, in seconds since 1970; 0 if none is.
    pub rollup_due_since: f64,
    /// Memory of the store.
    pub memory: Memory,
    /// The process.
    pub process: Process,
    /// The numbers of the last closed day, once they were counted.
    pub day: Option<ClosedDay>,
}

/// Estimates of the bytes that parts of the store hold in memory, from lengths and capacities.
/// Bytes of mapped files are not included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Events that wait to be sealed.
    pub tail: u64,
    /// Event ids of the last 7 days.
    pub event_ids: u64,
    /// Ids of users.
    pub dictionary: u64,
    /// Daily states and weeks that were read.
    pub states: u64,
}

/// The numbers of the last closed day of UTC, equal to those of `usage`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosedDay {
    /// The day.
    pub day: NaiveDate,
    /// Distinct users of the windows of [`WINDOW_DAYS`] that end with it.
    pub active_users: [u64; WINDOW_DAYS.len()],
    /// Events of the day by type.
    pub events: Vec<(String, u64)>,
}
