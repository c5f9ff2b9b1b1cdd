//! The columns of an event table: in the lake, in memory, and in every lazy frame of a metric.

use polars::prelude::{
    Column, DataType, Field, Int64Chunked, IntoColumn, PlSmallStr, Schema, TimeUnit, TimeZone,
};

/// When the event happened: microseconds, UTC.
pub const TS: &str = "ts";
/// `page_view`, `action` or `conversion`.
pub const EVENT_TYPE: &str = "event_type";
/// Opaque id of the user; null for an anonymous one.
pub const USER_ID: &str = "user_id";
/// The feature that was used; null if none was.
pub const FEATURE: &str = "feature";
/// The id of the user as a string, in scans where [`USER_ID`] is a code.
pub const USER: &str = "user";
/// A JSON object, serialized.
pub const METADATA: &str = "metadata";
/// The page on which it happened.
pub const URL: &str = "url";
/// The client's id of the event.
pub const EVENT_ID: &str = "event_id";
/// When the server received it: microseconds, UTC.
pub const RECEIVED_AT: &str = "received_at";

/// Another id of a user, in the table of links.
pub const ALIAS: &str = "alias";
/// Time of the statement that an id is an alias, in the table of links.
pub const SINCE: &str = "since";

/// The columns that count metrics read: what the tail holds in memory.
pub const COUNTED: [&str; 4] = [TS, EVENT_TYPE, USER_ID, FEATURE];

/// The type of a timestamp: microseconds, UTC.
pub fn timestamp() -> DataType {
    DataType::Datetime(TimeUnit::Microseconds, Some(TimeZone::UTC))
}

/// A column of timestamps, given in microseconds.
pub fn timestamps(name: &'static str, timestamps_us: Vec<i64>) -> Column {
    Int64Chunked::from_vec(PlSmallStr::from_static(name), timestamps_us)
        .into_datetime(TimeUnit::Microseconds, Some(TimeZone::UTC))
        .into_column()
}

/// The schema of every segment, which never changes: new properties go into `metadata`.
pub fn lake() -> Schema {
    [
        (TS, timestamp()),
        (EVENT_TYPE, DataType::String),
        (USER_ID, DataType::String),
        (FEATURE, DataType::String),
        (METADATA, DataType::String),
        (URL, DataType::String),
        (EVENT_ID, DataType::String),
        (RECEIVED_AT, timestamp()),
    ]
    .into_iter()
    .map(|(name, dtype)| Field::new(PlSmallStr::from_static(name), dtype))
    .collect()
}
