//! What goes out: [answers](answer) in every format, [events as a stream](events), and [the lake](lake) as a warehouse loads
//! it, in a folder or a bucket ([`destination`]), with what it needs to do so ([`warehouse`]) and the daily [`rollups`]; the [`list`] says what is there.

pub mod answer;
pub mod destination;
pub mod events;
pub mod lake;
pub mod list;
pub mod rollups;
pub mod warehouse;

use std::borrow::Cow;

use crate::error::Error;

pub use answer::Format;

/// A text that no spreadsheet takes for a formula: names come from whoever can send events.
pub fn inert(text: Cow<'_, str>) -> Cow<'_, str> {
    let begins = |start: char| matches!(start, '=' | '+' | '-' | '@') || start.is_control();
    match text.starts_with(begins) {
        true => Cow::Owned(format!("'{text}")),
        false => text,
    }
}

/// An encoder's own failure.
fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Query(Box::new(error))
}
