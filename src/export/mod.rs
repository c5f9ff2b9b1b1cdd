//! What goes out: [answers](answer) in every format, [events as a stream](events), and [the lake](lake) as a warehouse loads
//! it, in a folder or a bucket ([`destination`]), with what it needs to do so ([`warehouse`]) and the daily [`rollups`]; the [`list`] says what is there.

pub mod answer;
pub mod csv;
pub mod destination;
pub mod events;
pub mod lake;
pub mod layout;
pub mod list;
pub mod rollups;
pub mod warehouse;

use crate::error::Error;

pub use answer::Format;

/// An encoder's own failure.
fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Query(Box::new(error))
}
