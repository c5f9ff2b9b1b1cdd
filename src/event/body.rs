//! What clients send: a batch of events, of which each is judged alone.
//!
//! The body is walked once. Each field is first kept as its JSON text, borrowed from the body, because
//! `sent_at` may follow the events it corrects and because a wrong type must cost one event, not the batch.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::raw::{Key, RawEvent, not_an_object};
use super::text::Escapes;
use super::{MAX_BATCH_EVENTS, MAX_CLOCK_SKEW_US, timestamp};
use crate::error::{Error, Result};

/// A request body: at most [`MAX_BATCH_EVENTS`] events, not yet judged.
#[derive(Debug)]
pub struct Batch<'a> {
    /// The events, in the client's order.
    pub events: Vec<RawEvent<'a>>,
    sent_at_us: Option<i64>,
}

/// Reads a request body.
///
/// # Errors
/// `bad_json` if it is not `{"events":[…]}`, and [`Error::TooLarge`] above [`MAX_BATCH_EVENTS`] events.
pub fn read_batch(body: &[u8]) -> Result<Batch<'_>> {
    let body = std::str::from_utf8(body)
        .map_err(|error| Error::bad_input("bad_json", format!("the body is not UTF-8: {error}")))?;
    let escapes = Escapes::of(body);
    let mut body = Body::read(body).map_err(|error| {
        // The message may quote the client's text, all of it.
        let message: String = error.to_string().chars().take(200).collect();
        Error::bad_input("bad_json", format!("the body is wrong: {message}"))
    })?;
    if body.events.count > MAX_BATCH_EVENTS {
        return Err(Error::TooLarge {
            code: "too_many_events",
            message: format!(
                "the batch has {} events; allowed are {MAX_BATCH_EVENTS}; nothing was stored",
                body.events.count
            ),
        });
    }
    for event in &mut body.events.kept {
        event.escapes = escapes;
    }
    let sent_at_us = match body.sent_at {
        None => None,
        Some(json) => Some(timestamp::parse(json).ok_or_else(|| {
            let json: String = json.chars().take(64).collect();
            Error::bad_input(
                "bad_sent_at",
                format!("sent_at is {json}; allowed is a time"),
            )
        })?),
    };
    Ok(Batch {
        events: body.events.kept,
        sent_at_us,
    })
}

impl Batch<'_> {
    /// What to add to the client's times, in µs: nothing unless its clock is off by more than
    /// [`MAX_CLOCK_SKEW_US`], as `sent_at` shows.
    pub fn clock_skew_us(&self, received_at_us: i64) -> i64 {
        self.sent_at_us
            .map(|sent_at_us| received_at_us.saturating_sub(sent_at_us))
            .filter(|skew| skew.saturating_abs() > MAX_CLOCK_SKEW_US)
            .unwrap_or(0)
    }
}

/// The object around the events.
struct Body<'a> {
    events: Events<'a>,
    sent_at: Option<&'a str>,
}

impl<'a> Body<'a> {
    fn read(body: &'a str) -> serde_json::Result<Self> {
        serde_json::from_str(body).or_else(|error| Self::read_apart(body).ok_or(error))
    }

    /// Reads each event for itself, which takes twice the time, when one that is no object cannot be passed over: a
    /// text with half a surrogate pair, a number that no double holds.
    fn read_apart(body: &'a str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Apart<'a> {
            #[serde(borrow)]
            events: Vec<&'a RawValue>,
            #[serde(borrow)]
            sent_at: Option<&'a RawValue>,
        }
        let apart: Apart<'a> = serde_json::from_str(body).ok()?;
        let read = |raw: &&'a RawValue| match serde_json::from_str(raw.get()) {
            Ok(event) => Some(event),
            Err(_) if raw.get().starts_with(['{', '[']) => None,
            Err(_) => not_an_object::<()>("no value").ok(),
        };
        Some(Self {
            events: Events {
                count: apart.events.len(),
                kept: apart
                    .events
                    .iter()
                    .take(MAX_BATCH_EVENTS)
                    .map(read)
                    .collect::<Option<_>>()?,
            },
            sent_at: apart.sent_at.map(RawValue::get),
        })
    }
}

impl<'de> Deserialize<'de> for Body<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(BodyVisitor)
    }
}

enum BodyKey {
    Events,
    SentAt,
    Unknown,
}

impl BodyKey {
    fn of(key: &[u8]) -> Self {
        match key {
            b"events" => Self::Events,
            b"sent_at" => Self::SentAt,
            _ => Self::Unknown,
        }
    }
}

struct BodyVisitor;

impl<'de> Visitor<'de> for BodyVisitor {
    type Value = Body<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(r#"an object {"events":[…]}"#)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut events = None;
        let mut sent_at = None;
        while let Some(key) = map.next_key_seed(Key(BodyKey::of))? {
            match key {
                BodyKey::Events if events.is_none() => events = Some(map.next_value()?),
                BodyKey::SentAt if sent_at.is_none() => {
                    sent_at = Some(map.next_value::<&RawValue>()?.get())
                }
                BodyKey::Events => return Err(A::Error::duplicate_field("events")),
                BodyKey::SentAt => return Err(A::Error::duplicate_field("sent_at")),
                BodyKey::Unknown => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Body {
            events: events.ok_or_else(|| A::Error::missing_field("events"))?,
            sent_at: sent_at.filter(|json| *json != "null"),
        })
    }
}

/// The list of events: all are counted, and no more than the limit are kept.
#[derive(Default)]
struct Events<'a> {
    kept: Vec<RawEvent<'a>>,
    count: usize,
}

impl<'de> Deserialize<'de> for Events<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(EventsVisitor)
    }
}

struct EventsVisitor;

impl<'de> Visitor<'de> for EventsVisitor {
    type Value = Events<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut events = Events::default();
        while events.count < MAX_BATCH_EVENTS {
            match list.next_element()? {
                Some(event) => events.kept.push(event),
                None => return Ok(events),
            }
            events.count += 1;
        }
        while list.next_element::<IgnoredAny>()?.is_some() {
            events.count += 1;
        }
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Verdict;

    /// 2025-10-21T10:00:00Z
    const NOW: i64 = 1_761_040_800_000_000;

    fn judge_all(body: &str) -> Vec<String> {
        let batch = read_batch(body.as_bytes()).expect("the test has a well-formed body");
        let skew = batch.clock_skew_us(NOW);
        batch
            .events
            .into_iter()
            .map(|event| match event.judge(NOW, skew) {
                Verdict::Accepted(event) => format!("{}", event.ts_us - NOW),
                Verdict::TooOld => "too old".into(),
                Verdict::Refused(code, message) => format!("{code}: {message}"),
            })
            .collect()
    }

    #[test]
    fn one_bad_event_never_loses_its_neighbours() {
        let found = judge_all(
            r#"{"events":[{"event_type":"action"},5,null,"x",[{}],true,1.5,{},{"event_type":"click"},
            {"event_type":"action","user_id":7},{"event_type":"action","metadata":[]},
            {"event_type":"action","event_type":"action"},{"event_type":"action","ts":"soon"},
            {"event_type":"action","ts":1761127200.1},{"event_type":"action","ts":"2024-10-21T09:59:59Z"},
            {"event_type":"action","\ud800":1,"ts":"2025-10-21T10:00:01Z"}]}"#,
        );
        assert_eq!(
            found,
            [
                "0",
                "bad_event: the event is a number; allowed is an object",
                "bad_event: the event is null; allowed is an object",
                "bad_event: the event is text; allowed is an object",
                "bad_event: the event is a list; allowed is an object",
                "bad_event: the event is a boolean; allowed is an object",
                "bad_event: the event is a number; allowed is an object",
                "bad_event_type: event_type is missing",
                "bad_event_type: event_type is \"click\"; allowed is page_view, action or conversion",
                "bad_user_id: user_id is 7; allowed is text",
                "bad_metadata: metadata is not an object",
                "duplicate_field: event_type is there twice",
                "bad_ts: ts is \"soon\"; allowed is RFC 3339 or an epoch number",
                "future_ts: ts is 1761127200.1; allowed is at most 24 hours ahead of the server",
                "too old",
                "1000000",
            ]
        );
    }

    #[test]
    fn an_element_that_cannot_even_be_read_costs_itself_alone() {
        let good = r#"{"event_type":"action"}"#;
        let no_value = "bad_event: the event is no value; allowed is an object";
        for bad in [r#""\ud800""#, "1e999", "-1e999"] {
            let body = format!(r#"{{"events":[{bad},{good}]}}"#);
            assert_eq!(judge_all(&body), [no_value, "0"], "{bad}");
        }
    }

    #[test]
    fn sent_at_corrects_a_clock_that_is_off_by_more_than_a_minute() {
        let event = r#"{"event_type":"action","ts":"2025-10-21T11:00:00Z"}"#;
        let unsent = r#"{"event_type":"action"}"#;
        let body =
            |sent_at: &str| format!(r#"{{"events":[{event},{unsent}],"sent_at":{sent_at}}}"#);
        assert_eq!(judge_all(&body("null")), ["3600000000", "0"]);
        assert_eq!(
            judge_all(&body(r#""2025-10-21T10:01:00Z""#)),
            ["3600000000", "0"]
        );
        assert_eq!(
            judge_all(&body(r#""2025-10-21T11:00:05Z""#)),
            ["-5000000", "0"]
        );
        assert_eq!(judge_all(&body("1761037200")), ["7200000000", "0"]);
    }

    #[test]
    fn junk_ids_are_anonymous_and_empty_texts_are_missing() {
        for id in [
            "",
            "null",
            "Undefined",
            "[object Object]",
            "0",
            "true",
            "00000000-0000-0000-0000-000000000000",
            " ",
        ] {
            let body = format!(
                r#"{{"events":[{{"event_type":"action","user_id":"{id}","feature":""}}]}}"#
            );
            let batch = read_batch(body.as_bytes()).expect("well-formed");
            for event in batch.events {
                match event.judge(NOW, 0) {
                    Verdict::Accepted(event) => {
                        assert_eq!((event.user_id, event.feature), (None, None), "{id}")
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    #[test]
    fn a_body_that_is_no_batch_is_refused_whole() {
        let many = format!(r#"{{"events":[{}]}}"#, vec!["{}"; 101].join(","));
        assert!(matches!(
            read_batch(many.as_bytes()),
            Err(Error::TooLarge { .. })
        ));
        for body in [
            "",
            "[]",
            "{}",
            "nope",
            r#"{"events":{}}"#,
            r#"{"events":[}"#,
            r#"{"events":[]}x"#,
            r#"{"events":[],"events":[]}"#,
            r#"{"events":[],"sent_at":"x"}"#,
        ] {
            assert!(
                matches!(read_batch(body.as_bytes()), Err(Error::BadInput { .. })),
                "{body}"
            );
        }
        assert!(matches!(
            read_batch(b"{\"events\":[\"\xff\"]}"),
            Err(Error::BadInput { .. })
        ));
        assert!(read_batch(br#"{"events":[]}"#).is_ok_and(|batch| batch.events.is_empty()));
    }

    #[test]
    fn limits_are_counted_in_characters() {
        let body = |feature: &str| {
            format!(r#"{{"events":[{{"event_type":"action","feature":"{feature}"}}]}}"#)
        };
        assert_eq!(judge_all(&body(&"é".repeat(200))), ["0"]);
        assert_eq!(
            judge_all(&body(&"é".repeat(201))),
            ["bad_feature: feature has 201 characters; allowed are 200"]
        );
    }
}
