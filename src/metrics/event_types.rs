//! Event types: events and distinct users per type. The three types of the funnel have a row each,
//! in its order; those that a tracking plan declares and that occur follow by name.
//!
//! Anonymous events count as events and never as users. Definitions: `docs/metrics.md`, "Usage" and
//! "Events".

use chrono::{DateTime, Utc};
use serde::Deserialize;
use utoipa::ToSchema;

use super::counts::Key;
use super::source::Source;
use super::table::Table;
use super::{Answer, Measure};
use crate::error::Result;

/// The parameters: none.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EventTypes {}

impl Measure for EventTypes {
    fn days_before(&self) -> u16 {
        0
    }

    fn run(&self, source: &dyn Source, _now: DateTime<Utc>) -> Result<Answer> {
        let mut counts = source.counts(Key::EventType)?;
        let mut names: Vec<String> = Vec::new();
        let (mut events, mut users) = (Vec::new(), Vec::new());
        let codes: Vec<u32> = counts.counts.keys().map(|(code, _)| *code).collect();
        for (name, code) in source.names().listed_event_types(codes.into_iter()) {
            let count = counts.of_key(code);
            names.push(name.to_owned());
            events.push(count.events);
            users.push(count.users.len());
        }
        Ok(Table::default()
            .with("event_type", names)
            .with("events", events)
            .with("users", users)
            .into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::metrics::frame::FrameSource;

    #[test]
    fn every_type_has_a_row_and_anonymous_events_no_user() {
        let rows = FrameSource::new(
            "2024-03-03",
            3,
            &[
                ("2024-03-01 00:00", "action", "ann", "cart"),
                ("2024-03-01 00:00", "action", "ann", ""),
                ("2024-03-03 23:59", "action", "", ""),
                ("2024-03-03 23:59", "page_view", "bob", ""),
                ("2024-03-03 23:59", "signup", "bob", ""),
                ("2024-03-03 23:59", "refund", "", ""),
                // Before and after the window.
                ("2024-02-29 23:59", "conversion", "bob", ""),
                ("2024-03-04 00:00", "conversion", "bob", ""),
            ],
        )
        .rows(json!({"metric":"event_types"}));
        let expected = json!([
            {"event_type":"page_view","events":1,"users":1},
            {"event_type":"action","events":3,"users":1},
            {"event_type":"conversion","events":0,"users":0},
            {"event_type":"refund","events":1,"users":0},
            {"event_type":"signup","events":1,"users":1},
        ]);
        assert_eq!(rows, expected);
    }
}
