//! Event types: events and distinct users per type, all three always there, in funnel order.
//!
//! Anonymous events count as events and never as users. Definitions: `docs/metrics.md`, "Usage" and "Events".

use polars::prelude::*;
use serde::Deserialize;

use super::counts::Counts;
use super::table::Table;
use crate::event::EventType;
use crate::schema;

/// The question.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventTypes {}

impl EventTypes {
    /// What events are counted by.
    pub fn key(&self) -> Expr {
        col(schema::EVENT_TYPE)
    }

    /// The answer, from the counts of each type by its place in funnel order.
    pub fn answer(&self, mut counts: Counts) -> Table {
        let mut names: Vec<String> = Vec::new();
        let (mut events, mut users) = (Vec::new(), Vec::new());
        for (event_type, number) in EventType::ALL.iter().zip(0..) {
            let count = counts.remove(&(number, None)).unwrap_or_default();
            names.push(event_type.name().to_owned());
            events.push(count.events);
            users.push(count.users.len());
        }
        Table::default()
            .with("event_type", names)
            .with("events", events)
            .with("users", users)
    }
}
