//! The columns of an admitted event that the store keeps in memory.

use crate::links::Statement;

/// An admitted event in memory.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Row {
    pub ts_us: i64,
    /// Code of the event type in [`crate::dictionary::Dictionaries`].
    pub event_type: u32,
    /// Code of the user in [`crate::dictionary::Dictionaries`]; `None` for an anonymous event.
    pub user: Option<u32>,
    /// Code of the feature in [`crate::dictionary::Dictionaries`].
    pub feature: Option<u32>,
    /// Its statement about the ids of its user.
    pub statement: Option<Statement>,
}
