//! Conversion between lines of the event log and rows of the lake.

use std::borrow::Cow;

use polars::prelude::*;

use crate::error::Result;
use crate::event::{self, Event, EventType};
use crate::schema;

/// Bytes of a short line, by which capacity is reserved.
const SHORT_LINE_BYTES: usize = 180;

/// Events as the columns of [`schema::lake`].
pub(in crate::store) struct LakeRows {
    ts_us: Vec<i64>,
    event_type: StringChunkedBuilder,
    user_id: StringChunkedBuilder,
    feature: StringChunkedBuilder,
    metadata: StringChunkedBuilder,
    url: StringChunkedBuilder,
    event_id: StringChunkedBuilder,
    received_at_us: Vec<i64>,
}

impl LakeRows {
    /// No events, with capacity for those of so many bytes of lines.
    pub fn for_lines(bytes: usize) -> Self {
        let rows = bytes / SHORT_LINE_BYTES;
        let strings = |name| StringChunkedBuilder::new(PlSmallStr::from_static(name), rows);
        Self {
            ts_us: Vec::with_capacity(rows),
            event_type: strings(schema::EVENT_TYPE),
            user_id: strings(schema::USER_ID),
            feature: strings(schema::FEATURE),
            metadata: strings(schema::METADATA),
            url: strings(schema::URL),
            event_id: strings(schema::EVENT_ID),
            received_at_us: Vec::with_capacity(rows),
        }
    }

    /// Number of events.
    pub fn len(&self) -> usize {
        self.ts_us.len()
    }

    /// Adds an event.
    pub fn push(&mut self, event: &Event<'_>) {
        self.ts_us.push(event.ts_us);
        self.event_type.append_value(event.event_type.name());
        self.user_id.append_option(event.user_id.as_deref());
        self.feature.append_option(event.feature.as_deref());
        self.metadata.append_value(&event.metadata);
        self.url.append_option(event.url.as_deref());
        self.event_id.append_option(event.event_id.as_deref());
        self.received_at_us.push(event.received_at_us);
    }

    /// The events as a frame.
    ///
    /// # Errors
    /// If Polars cannot create it.
    pub fn finish(self) -> Result<DataFrame> {
        let height = self.ts_us.len();
        Ok(DataFrame::new(
            height,
            vec![
                schema::timestamps(schema::TS, self.ts_us),
                self.event_type.finish().into_column(),
                self.user_id.finish().into_column(),
                self.feature.finish().into_column(),
                self.metadata.finish().into_column(),
                self.url.finish().into_column(),
                self.event_id.finish().into_column(),
                schema::timestamps(schema::RECEIVED_AT, self.received_at_us),
            ],
        )?)
    }
}

/// Writes events with the columns of [`schema::lake`] as lines of the log.
///
/// # Errors
/// If a column is missing.
pub fn write_lines(events: &DataFrame, out: &mut Vec<u8>) -> Result<()> {
    let strings = |name| Ok::<_, PolarsError>(events.column(name)?.str()?.clone());
    let times = |name| Ok::<_, PolarsError>(events.column(name)?.to_physical_repr().i64()?.clone());
    let (ts, received_at) = (times(schema::TS)?, times(schema::RECEIVED_AT)?);
    let (event_types, users) = (strings(schema::EVENT_TYPE)?, strings(schema::USER_ID)?);
    let (features, metadata) = (strings(schema::FEATURE)?, strings(schema::METADATA)?);
    let (urls, ids) = (strings(schema::URL)?, strings(schema::EVENT_ID)?);
    for row in 0..events.height() {
        let Some(event_type) = event_types.get(row).and_then(EventType::stored) else {
            continue;
        };
        let event = Event {
            ts_us: ts.get(row).unwrap_or_default(),
            event_type,
            user_id: users.get(row).map(Cow::Borrowed),
            feature: features.get(row).map(Cow::Borrowed),
            metadata: Cow::Borrowed(metadata.get(row).unwrap_or("{}")),
            url: urls.get(row).map(Cow::Borrowed),
            event_id: ids.get(row).map(Cow::Borrowed),
            received_at_us: received_at.get(row).unwrap_or_default(),
        };
        event::write_line(&event, out);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_the_same_lines_after_they_were_rows() -> Result<()> {
        let full = Event {
            ts_us: 1_761_040_800_123_456,
            event_type: EventType::Conversion,
            user_id: Some("u".into()),
            feature: Some("f".into()),
            metadata: r#"{"a":1}"#.into(),
            url: Some("/p".into()),
            event_id: Some("id".into()),
            received_at_us: 1_761_040_800_250_000,
        };
        let empty = Event {
            user_id: None,
            feature: None,
            metadata: "{}".into(),
            url: None,
            event_id: None,
            ..full.clone()
        };
        let mut rows = LakeRows::for_lines(1_000);
        let mut expected = Vec::new();
        for event in [&full, &empty] {
            rows.push(event);
            event::write_line(event, &mut expected);
        }
        assert_eq!(rows.len(), 2);
        let events = rows.finish()?;
        assert_eq!(**events.schema(), schema::lake());
        let mut lines = Vec::new();
        write_lines(&events, &mut lines)?;
        assert_eq!(lines, expected);
        Ok(())
    }
}
