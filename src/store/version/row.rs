//! The columns of an admitted event that the store keeps in memory.

use crate::event::EventType;

/// An admitted event in memory.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Row {
    pub ts_us: i64,
    pub event_type: EventType,
    /// Code of the user in [`crate::dictionary::Dictionaries`]; `None` for an anonymous event.
    pub user: Option<u32>,
    /// Code of the feature in [`crate::dictionary::Dictionaries`].
    pub feature: Option<u32>,
}
