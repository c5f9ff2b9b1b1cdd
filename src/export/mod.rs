//! Exports: [query results](answer) in every format, [events as a stream](events), and
//! [the lake](lake) for a warehouse, in a folder or a bucket ([`destination`]), also as open
//! [tables](delta).
//!
//! An export of the lake has scripts and queries for the [`warehouse`], the daily [`rollups`] and
//! a [`list`] of its files.

pub mod answer;
pub mod csv;
pub mod delta;
pub mod destination;
pub mod events;
pub mod lake;
pub mod layout;
pub mod list;
pub mod rollups;
pub mod warehouse;

use crate::error::Error;

pub use answer::Format;

/// Wraps an error of an encoder.
fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Query(Box::new(error))
}
