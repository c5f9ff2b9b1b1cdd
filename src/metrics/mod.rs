//! The product metrics: pure functions from lazy frames of events to lazy frames of numbers, and from daily states to
//! numbers.
//!
//! Nothing here opens a file, reads a clock or executes a plan. A frame of events has at least the columns of
//! [`crate::schema::COUNTED`]; texts may be strings or categoricals, because a metric only compares them.

pub mod usage;

use chrono_tz::Tz;
use polars::prelude::*;

use crate::daily;
use crate::schema;

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
