//! The product metrics: pure functions from lazy frames of events to lazy frames of numbers, and from daily states to
//! numbers.
//!
//! Nothing here opens a file, reads a clock or executes a plan. A frame of events has at least the columns of
//! [`crate::schema::COUNTED`]; texts may be strings or categoricals, because a metric only compares them.
//!
//! To add a metric: see `CONTRIBUTING.md`. What its numbers mean is in `docs/metrics.md`.

pub mod active_users;
pub mod cohort;
pub mod counts;
pub mod event_types;
pub mod experiment;
pub mod feature_usage;
pub mod filter;
pub mod funnel;
pub mod lifecycle;
pub mod paths;
pub mod presence;
pub mod query;
pub mod retention;
pub mod sequence;
pub mod stickiness;
pub mod table;
pub mod usage;
mod values;

use chrono_tz::Tz;
use polars::prelude::*;

use crate::daily;
use crate::schema;

/// The questions there are. HTTP and command line parse the same closed list.
#[derive(Debug, Clone, PartialEq)]
pub enum Metric {
    /// Active users over time.
    ActiveUsers(active_users::ActiveUsers),
    /// Events and users per feature.
    FeatureUsage(feature_usage::FeatureUsage),
    /// Events and users per event type.
    EventTypes(event_types::EventTypes),
    /// New, returning, resurrecting and dormant users.
    Lifecycle(lifecycle::Lifecycle),
    /// Users by the number of periods they were active in.
    Stickiness(stickiness::Stickiness),
    /// How far users get through some steps.
    Funnel(funnel::Funnel),
    /// How many users come back.
    Retention(retention::Retention),
    /// Which features follow each other.
    Paths(paths::Paths),
    /// Which variant converts better.
    Experiment(experiment::Experiment),
}

/// The calendar day of an event in the reporting zone, as days since 1970-01-01.
pub fn day(tz: Tz) -> Expr {
    let ts = col(schema::TS);
    let local = match tz {
        Tz::UTC => ts,
        // The name of a zone that chrono-tz knows is one that Polars knows.
        tz => match polars::prelude::TimeZone::opt_try_new(Some(tz.name())) {
            Ok(Some(zone)) => ts.dt().convert_time_zone(zone),
            _ => ts,
        },
    };
    daily::day(local)
}

/// The ISO week of a day, as weeks since the Monday before 1970-01-01.
pub fn week(day: Expr) -> Expr {
    (day + lit(daily::DAYS_SINCE_MONDAY)).floor_div(lit(7))
}
