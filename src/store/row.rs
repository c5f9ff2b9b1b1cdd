//! What the store keeps in memory of one admitted event.

use crate::event::EventType;

/// What the store keeps in memory of one admitted event.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub ts_us: i64,
    pub event_type: EventType,
    /// Number of the user in [`crate::names::Names`]; `None` is anonymous.
    pub user: Option<u32>,
    /// Number of the feature in [`crate::names::Names`].
    pub feature: Option<u32>,
}
