//! The product metrics. Each is complete in its file: parameters, what it reads, how it folds that,
//! and its result.
//!
//! A metric reads through [`Source`], which the engine implements over the store. Nothing here
//! opens a file, reads a clock or executes a plan. To add a metric: see `CONTRIBUTING.md`.
//! Definitions of all numbers: `docs/metrics.md`.

pub mod active_days;
pub mod active_users;
pub mod budget;
mod coded;
pub mod cohort;
pub mod counts;
pub mod event_types;
pub mod events;
pub mod experiment;
pub mod feature_usage;
pub mod filter;
#[cfg(test)]
mod frame;
pub mod funnel;
pub mod lifecycle;
mod local_dictionary;
mod partition;
pub mod paths;
pub mod query;
pub mod retention;
pub mod scan;
pub mod sequence;
pub mod sessions;
mod sharded;
pub mod source;
pub mod stickiness;
pub mod table;
mod top;
pub mod trends;
pub mod usage;
mod visits;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::error::Result;
use filter::Filter;
use source::Source;
use table::Table;

/// Groups of a breakdown that have rows of their own.
pub const MAX_GROUPS: usize = 25;
/// The name of all other groups.
pub const OTHER: &str = "__other__";

/// Checks the most rows of a response.
///
/// # Errors
/// A sentence with the limit and what is allowed.
pub fn check_limit(limit: usize, most: usize) -> Result<(), String> {
    match (1..=most).contains(&limit) {
        true => Ok(()),
        false => Err(format!("limit is {limit}; allowed is 1 to {most}")),
    }
}

/// The parameters of a metric, as a request gives them, and its computation.
pub trait Measure {
    /// Checks what the types of the fields cannot express.
    ///
    /// # Errors
    /// A sentence that names the field, the value and what is allowed.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// Days before the window that are counted in it.
    fn days_before(&self) -> u16;

    /// The filters among the parameters.
    fn filters_mut(&mut self) -> Vec<&mut Filter> {
        Vec::new()
    }

    /// Computes the metric at the time `now`.
    ///
    /// # Errors
    /// If stored data is damaged or the query is cancelled.
    fn run(&self, source: &dyn Source, now: DateTime<Utc>) -> Result<Answer>;
}

/// Result of a metric.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// The rows.
    pub rows: Table,
    /// Further fields of the response, by name: for what rows cannot express.
    pub notes: Map<String, Value>,
}

impl From<Table> for Answer {
    fn from(rows: Table) -> Self {
        Self {
            rows,
            notes: Map::new(),
        }
    }
}

impl Answer {
    /// Adds a field to the response.
    pub fn with_note(mut self, name: &str, value: Value) -> Self {
        self.notes.insert(name.into(), value);
        self
    }
}

/// A metric of the list, for its documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// Its name: of the request, the module, the SQL file and the golden table.
    pub name: &'static str,
    /// One sentence.
    pub about: &'static str,
    /// The same metric as SQL.
    pub sql: &'static str,
}

/// The SQL of measures that need a query of their own: the name of its file, and what it contains.
pub const MORE_SQL: [(&str, &str); 2] = [
    (
        "trends_numbers",
        include_str!("../../queries/trends_numbers.sql"),
    ),
    (
        "trends_sessions",
        include_str!("../../queries/trends_sessions.sql"),
    ),
];

/// The list of metrics, from which come the enum, parsing, names, help and the SQL of exports.
macro_rules! metrics {
    ($(#[doc = $about:literal] $name:ident: $Metric:ident,)*) => {
        /// A query of one metric.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Metric {
            $(#[doc = $about] $Metric($name::$Metric),)*
        }

        const COUNT: usize = [$(stringify!($name)),*].len();

        /// The names of all metrics.
        pub const NAMES: [&str; COUNT] = [$(stringify!($name)),*];

        /// All metrics.
        pub const LIST: [Listed; COUNT] = [$(Listed {
            name: stringify!($name),
            about: $about,
            sql: include_str!(concat!("../../queries/", stringify!($name), ".sql")),
        }),*];

        impl Metric {
            /// The name in requests and responses.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$Metric(_) => stringify!($name),)*
                }
            }

            /// The parameters and the computation.
            pub fn measure(&self) -> &dyn Measure {
                match self {
                    $(Self::$Metric(metric) => metric,)*
                }
            }

            /// The filters among the parameters.
            pub fn filters_mut(&mut self) -> Vec<&mut Filter> {
                match self {
                    $(Self::$Metric(metric) => metric.filters_mut(),)*
                }
            }

            /// The JSON Schema of the parameters of each metric.
            fn parameters() -> [(&'static str, RefOr<Schema>); COUNT] {
                [$((stringify!($name), $name::$Metric::schema())),*]
            }

            /// Adds the schemas that those of the parameters refer to.
            fn add_schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
                $($name::$Metric::schemas(schemas);)*
            }

            /// Reads the parameters of a metric; `None` if no metric has that name.
            fn read(name: &str, parameters: Map<String, Value>) -> Result<Option<Self>> {
                match name {
                    $(stringify!($name) => query::fields(parameters).map(Self::$Metric).map(Some),)*
                    _ => Ok(None),
                }
            }
        }
    };
}

metrics! {
    /// Active users over time.
    active_users: ActiveUsers,
    /// Events and users per feature.
    feature_usage: FeatureUsage,
    /// Events and users per event type.
    event_types: EventTypes,
    /// A measure of series of events over time.
    trends: Trends,
    /// Sessions, their events and their length.
    sessions: Sessions,
    /// New, returning, resurrecting and dormant users.
    lifecycle: Lifecycle,
    /// Users by the number of periods they were active in.
    stickiness: Stickiness,
    /// Users by the steps they reached, with times.
    funnel: Funnel,
    /// Users of a cohort who come back.
    retention: Retention,
    /// Transitions from one feature to the next.
    paths: Paths,
    /// Conversion by variant, with its statistics.
    experiment: Experiment,
    /// Single events, newest first.
    events: Events,
}

impl Metric {
    /// Computes the metric at the time `now`.
    ///
    /// # Errors
    /// If stored data is damaged or the query is cancelled.
    pub fn run(&self, source: &dyn Source, now: DateTime<Utc>) -> Result<Answer> {
        self.measure().run(source, now)
    }

    /// True if the result has the ids of users, which a read key may not see.
    pub fn shows_users(&self) -> bool {
        matches!(self, Self::Events(_))
    }

    /// Days before the window that are counted in it.
    pub fn days_before(&self) -> u16 {
        self.measure().days_before()
    }
}
