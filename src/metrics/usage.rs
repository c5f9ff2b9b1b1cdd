//! Usage: daily, weekly and monthly active users, events per feature and per type of a window.
//!
//! - `dau` = (sum over days with data of distinct users of the day) / (days with data); a day with data has at
//!   least one event, anonymous ones included.
//! - `wau` = the same over ISO weeks, counting only events in the window; a week cut by its edge is a week.
//! - `mau` = distinct users of the window.
//!
//! Days are those of the reporting zone. Late events count in the day they happened. Duplicates are not in
//! the frame. Definitions: `spec/definitions.md`, "Usage"; the user's document, "Metrics Definitions".

use chrono_tz::Tz;
use polars::prelude::*;

use super::{day, week};
use crate::schema;

/// Column of the number of events.
pub const EVENTS: &str = "events";
/// Column of the number of users.
pub const USERS: &str = "users";
/// Column of the number of days with data.
pub const DAYS: &str = "days";
/// Column of the number of ISO weeks with data.
pub const WEEKS: &str = "weeks";
/// Column of the sum over days of the day's users.
pub const USER_DAYS: &str = "user_days";
/// Column of the sum over weeks of the week's users.
pub const USER_WEEKS: &str = "user_weeks";

const DAY: &str = "day";
const WEEK: &str = "week";

/// The frames that usage is made of. Each is small, whatever the number of events.
pub struct Usage {
    /// One row: [`EVENTS`], [`DAYS`], [`WEEKS`], [`USERS`], [`USER_DAYS`].
    pub totals: LazyFrame,
    /// One row: [`USER_WEEKS`].
    pub weekly: LazyFrame,
    /// A row per feature, most used first, ties by name: the feature, [`EVENTS`].
    pub features: LazyFrame,
    /// A row per event type that occurs: the type, [`EVENTS`].
    pub event_types: LazyFrame,
}

/// Usage of the events in a frame that holds one window, with days of the zone `tz`.
pub fn usage(events: LazyFrame, tz: Tz) -> Usage {
    // Every number of users follows from who was active on which day, which is far less than the events.
    let user_days = events
        .clone()
        .select([day(tz).alias(DAY), col(schema::USER_ID)])
        .group_by([col(DAY), col(schema::USER_ID)])
        .agg([len().alias(EVENTS)])
        .with_column(week(col(DAY)).alias(WEEK));
    Usage {
        totals: user_days.clone().select([
            col(EVENTS).cast(DataType::Int64).sum(),
            count(col(DAY).n_unique()).alias(DAYS),
            count(col(WEEK).n_unique()).alias(WEEKS),
            count(col(schema::USER_ID).drop_nulls().n_unique()).alias(USERS),
            count(col(schema::USER_ID).count()).alias(USER_DAYS),
        ]),
        weekly: user_days
            .filter(col(schema::USER_ID).is_not_null())
            .select([col(WEEK), col(schema::USER_ID)])
            .unique(None, UniqueKeepStrategy::Any)
            .select([count(len()).alias(USER_WEEKS)]),
        features: events_per(events.clone(), schema::FEATURE)
            .filter(col(schema::FEATURE).is_not_null())
            .sort_by_exprs(
                [col(EVENTS), col(schema::FEATURE)],
                SortMultipleOptions::default().with_order_descending_multi([true, false]),
            ),
        event_types: events_per(events, schema::EVENT_TYPE)
            .sort([schema::EVENT_TYPE], SortMultipleOptions::default()),
    }
}

fn events_per(events: LazyFrame, column: &str) -> LazyFrame {
    events
        .group_by([col(column)])
        .agg([count(len()).alias(EVENTS)])
        .with_column(col(column).cast(DataType::String))
}

/// Counts come out of Polars in 32 bits without sign; everyone else's are 64 bits.
fn count(expr: Expr) -> Expr {
    expr.cast(DataType::Int64)
}
