//! Labels: each has a name and a closed list of values.

/// A label whose values are known.
pub trait Label: Copy {
    /// Its name.
    const NAME: &'static str;
    /// Its values.
    const VALUES: &'static [&'static str];
    /// The index of this value.
    fn place(self) -> usize;
}

/// The protocol of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Our own.
    Native,
    /// That of Segment.
    Segment,
    /// That of `PostHog`.
    PostHog,
    /// That of Plausible.
    Plausible,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Native, Self::Segment, Self::PostHog, Self::Plausible];
}

impl Label for Family {
    const NAME: &'static str = "family";
    const VALUES: &'static [&'static str] = &["native", "segment", "posthog", "plausible"];
    fn place(self) -> usize {
        self as usize
    }
}

/// The outcome of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchOutcome {
    /// The response has status 200.
    Stored,
    /// It has a status of 4xx: the fault of the client.
    Refused,
    /// It has a status of 5xx.
    Failed,
}

impl BatchOutcome {
    /// The outcome of a batch whose response has this status.
    pub fn of_status(status: u16) -> Self {
        match status {
            ..400 => Self::Stored,
            400..500 => Self::Refused,
            500.. => Self::Failed,
        }
    }
}

impl Label for BatchOutcome {
    const NAME: &'static str = "outcome";
    const VALUES: &'static [&'static str] = &["stored", "refused", "failed"];
    fn place(self) -> usize {
        self as usize
    }
}

/// The outcome of an event of a batch that got a response with counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventOutcome {
    /// Stored.
    Logged,
    /// It had been stored before.
    Duplicate,
    /// Older than any window, or of an erased user.
    Ignored,
    /// Invalid.
    Rejected,
    /// Kept in the quarantine.
    Quarantined,
}

impl Label for EventOutcome {
    const NAME: &'static str = "outcome";
    const VALUES: &'static [&'static str] =
        &["logged", "duplicate", "ignored", "rejected", "quarantined"];
    fn place(self) -> usize {
        self as usize
    }
}

/// Usage, or a metric of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueryKind(usize);

impl QueryKind {
    /// Usage, the first of the list.
    pub const USAGE: Self = Self(0);
    /// Number of kinds.
    pub const COUNT: usize = Self::VALUES.len();

    /// The kind with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::VALUES
            .iter()
            .position(|known| *known == name)
            .map(Self)
    }
}

impl Label for QueryKind {
    const NAME: &'static str = "metric";
    // The names of `metrics::NAMES`, which a test of the engine compares: the store records here
    // too, and does not know the metrics.
    const VALUES: &'static [&'static str] = &[
        "usage",
        "active_users",
        "feature_usage",
        "event_types",
        "trends",
        "sessions",
        "lifecycle",
        "stickiness",
        "funnel",
        "retention",
        "paths",
        "experiment",
        "events",
    ];
    fn place(self) -> usize {
        self.0
    }
}

/// The data that a query read. A query that read several counts as the last of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum QuerySource {
    /// Daily states, and events in memory counted like them.
    States,
    /// Columns, and events in memory.
    Columns,
    /// Segments of the lake.
    Lake,
}

impl Label for QuerySource {
    const NAME: &'static str = "source";
    const VALUES: &'static [&'static str] = &["states", "columns", "lake"];
    fn place(self) -> usize {
        self as usize
    }
}

/// The outcome of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryOutcome {
    /// It has a result.
    Succeeded,
    /// The request was wrong, or needs more than a limit.
    Refused,
    /// Its client disconnected.
    Cancelled,
    /// Stored data is damaged, or the engine failed.
    Failed,
}

impl Label for QueryOutcome {
    const NAME: &'static str = "outcome";
    const VALUES: &'static [&'static str] = &["succeeded", "refused", "cancelled", "failed"];
    fn place(self) -> usize {
        self as usize
    }
}
