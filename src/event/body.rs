//! Request bodies: a batch of events, each of which is validated by itself.
//!
//! A body is parsed in one pass. Fields are kept as JSON borrowed from the body, because `sent_at`
//! may follow the events it corrects and because a wrong type must cost one event, not the batch.
//! A body that is not valid JSON is split into events, which are parsed one by one; that is
//! slower.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::raw_event::{Key, RawEvent, is_missing};
use super::split::{self, Layout, Splitter, Step};
use super::text::{self, Escapes};
use super::{MAX_BATCH_EVENTS, MAX_CLOCK_SKEW_US, MESSAGE_CHARS, line, timestamp};
use crate::error::{Error, ErrorCode, Result, first_chars, shown};

/// A parsed request body: at most [`MAX_BATCH_EVENTS`] events, not yet validated.
#[derive(Debug)]
pub struct Batch<'a> {
    /// Its events, in the client's order.
    pub events: Vec<RawEvent<'a>>,
    sent_at_us: Option<i64>,
}

/// Parses a request body: `{"events":[…]}`, an array of events, one event, or one event per line.
///
/// # Errors
/// `bad_json` if it is none of these or truncated, and [`Error::TooLarge`] above
/// [`MAX_BATCH_EVENTS`] events. An event that is not valid JSON is part of the batch, and rejected
/// by its validation.
pub fn read_batch(body: &[u8]) -> Result<Batch<'_>> {
    let body = text::without_mark(body);
    let read = match Body::read(body) {
        Ok(body) => body,
        Err(message) => Body::split(body).ok_or_else(|| {
            // The parser's message may quote the whole body.
            let message = first_chars(&message, MESSAGE_CHARS);
            Error::bad_input(ErrorCode::BadJson, format!("invalid body: {message}"))
        })?,
    };
    if read.events.count > MAX_BATCH_EVENTS {
        return Err(Error::TooLarge {
            code: ErrorCode::TooManyEvents,
            message: format!(
                "the batch has {} events; allowed are {MAX_BATCH_EVENTS}; nothing was stored",
                read.events.count
            ),
        });
    }
    let sent_at_us = match read.sent_at.filter(|json| !is_missing(json)) {
        None => None,
        Some(json) => Some(timestamp::parse(json).ok_or_else(|| {
            let json = shown(json);
            Error::bad_input(
                ErrorCode::BadSentAt,
                format!("sent_at is {json}; allowed is RFC 3339 or an epoch number"),
            )
        })?),
    };
    Ok(Batch {
        events: read.events.kept,
        sent_at_us,
    })
}

impl Batch<'_> {
    /// Difference between the clocks of client and server, in µs, if the client sent `sent_at`.
    pub fn clock_difference_us(&self, received_at_us: i64) -> Option<i64> {
        Some(received_at_us.saturating_sub(self.sent_at_us?))
    }

    /// Correction of the client's timestamps, in µs: 0 unless `sent_at` shows that its clock is
    /// off by more than [`MAX_CLOCK_SKEW_US`].
    pub fn clock_skew_us(&self, received_at_us: i64) -> i64 {
        self.clock_difference_us(received_at_us)
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
    /// Parses a body that is valid JSON, as nearly all are.
    fn read(body: &'a [u8]) -> Result<Self, String> {
        let body = std::str::from_utf8(body).map_err(|error| format!("not UTF-8: {error}"))?;
        let escapes = Escapes::of(body);
        let mut read: Self = serde_json::from_str(body).map_err(|error| error.to_string())?;
        for event in &mut read.events.kept {
            event.escapes = escapes;
        }
        Ok(read)
    }

    /// Splits a body and parses each event by itself, so that one that is not valid JSON does not
    /// affect its neighbours. `None` if the positions of the events cannot be determined.
    fn split(body: &'a [u8]) -> Option<Self> {
        let units = match split::layout(body, true) {
            Layout::Document => vec![body],
            Layout::Lines => line::lines(body).collect(),
            Layout::Foreign => return None,
        };
        let mut events = Events::default();
        let mut sent_at = None;
        let (mut containers, mut bare_events) = (0, 0);
        for unit in units {
            let mut splitter = Splitter::default();
            loop {
                match splitter.step(unit, true) {
                    Step::Event(place) => {
                        events.count += 1;
                        if events.count <= MAX_BATCH_EVENTS {
                            events.kept.push(RawEvent::read(unit.get(place)?));
                        }
                    }
                    Step::End => break,
                    Step::More | Step::Malformed(_) => return None,
                }
            }
            containers += splitter.containers();
            bare_events += splitter.bare_events();
            let found = splitter.sent_at().and_then(|place| unit.get(place));
            sent_at = found.or(sent_at);
        }
        let is_batch = match (containers, bare_events) {
            (1, 0) => true,
            (0, 1) => events.kept.iter().all(RawEvent::has_event_type),
            (0, _) => bare_events > 0,
            _ => false,
        };
        is_batch.then_some(Self {
            events,
            sent_at: sent_at.map(|json| std::str::from_utf8(json).unwrap_or("not UTF-8")),
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
            sent_at,
        })
    }
}

/// The array of events: all are counted, and [`MAX_BATCH_EVENTS`] are kept.
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
        formatter.write_str("an array of events")
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
    use crate::event::Outcome;

    /// 2025-10-21T10:00:00Z
    const NOW: i64 = 1_761_040_800_000_000;

    /// The outcomes of the events of a body, each as a string.
    fn validate(body: impl AsRef<[u8]>) -> Vec<String> {
        let body = body.as_ref();
        let batch = read_batch(body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(body)));
        let skew = batch.clock_skew_us(NOW);
        batch
            .events
            .into_iter()
            .map(|event| match event.validate(NOW, skew) {
                Outcome::Accepted(event, notes) => {
                    let notes = notes.into_iter();
                    let notes = notes.map(|(code, message)| format!(", {code}: {message}"));
                    format!("{}{}", event.ts_us - NOW, notes.collect::<String>())
                }
                Outcome::TooOld => "too old".into(),
                Outcome::Rejected(code, message) => format!("{code}: {message}"),
            })
            .collect()
    }

    #[test]
    fn one_invalid_event_never_loses_its_neighbours() {
        let found = validate(
            r#"{"events":[{"event_type":"action"},5,null,"x",[{}],true,1.5,{},{"event_type":"click"},
            {"event_type":"action","user_id":true},{"event_type":"action","feature":[]},
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
                "bad_event: the event is a string; allowed is an object",
                "bad_event: the event is an array; allowed is an object",
                "bad_event: the event is a boolean; allowed is an object",
                "bad_event: the event is a number; allowed is an object",
                "bad_event_type: event_type is missing",
                "bad_event_type: event_type is \"click\"; allowed is page_view, action or conversion",
                "bad_user_id: user_id is true; allowed is a string or a number",
                "bad_feature: feature is []; allowed is a string or a number",
                "duplicate_field: duplicate field event_type",
                "bad_ts: ts is \"soon\"; allowed is RFC 3339 or an epoch number",
                "future_ts: ts is 1761127200.1; allowed is at most 24 hours ahead of the server",
                "too old",
                "1000000",
            ]
        );
    }

    /// A valid event, put between invalid ones.
    const GOOD: &str = r#"{"event_type":"action","metadata":{"p":1}}"#;

    /// Events that are not valid JSON.
    const UNREADABLE: [&[u8]; 45] = [
        br#"{"event_type":"action","metadata":{"p":NaN}}"#,
        br#"{"event_type":"action","metadata":{"p":Infinity}}"#,
        br#"{"event_type":"action","metadata":{"p":-Infinity}}"#,
        br#"{"event_type":"action","metadata":{"p":undefined}}"#,
        br#"{"event_type":"action","metadata":{"p":None,"q":{"r":True}}}"#,
        br#"{"event_type":"action","metadata":{"p":01}}"#,
        br#"{"event_type":"action","metadata":{"p":.5}}"#,
        br#"{"event_type":"action","metadata":{"p":5.}}"#,
        br#"{"event_type":"action","metadata":{"p":+5}}"#,
        br#"{"event_type":"action","metadata":{"p":0x1F}}"#,
        br#"{"event_type":"action","metadata":{"p":}}"#,
        br#"{"event_type":"action","metadata":{"p"}}"#,
        br#"{"event_type":"action","metadata":{p:1}}"#,
        br#"{"event_type":"action","metadata":{"p" 1}}"#,
        br#"{"event_type":"action","metadata":{"p":1 "q":2}}"#,
        br#"{"event_type":"action","metadata":{"p":1,}}"#,
        br#"{"event_type":"action","metadata":{"p":[1,]}}"#,
        br#"{"event_type":"action","metadata":{"p":1},}"#,
        br#"{"event_type":"action",,"feature":"f"}"#,
        br#"{event_type:"action"}"#,
        br#"{'event_type':'action'}"#,
        br#"{"event_type":"action"/* why */}"#,
        br#"{"event_type":"action","feature":"\q"}"#,
        br#"{"event_type":"action","feature":"C:\Users"}"#,
        br#"{"event_type":"action","feature":"\x41"}"#,
        br#"{"event_type":"action","feature":"\u12"}"#,
        b"{\"event_type\":\"action\",\"feature\":\"a\tb\"}",
        b"{\"event_type\":\"action\",\"feature\":\"a\nb\"}",
        b"{\"event_type\":\"action\",\"feature\":\"a\0b\"}",
        b"{\"event_type\":\"action\",\"feature\":\"\xFF\"}",
        b"{\"event_type\":\"action\",\"feature\":\"caf\xE9\"}",
        b"{\"event_type\":\"action\",\"feature\":\"\xED\xA0\x80\"}",
        b"{\"event_type\":\"action\",\"metadata\":{\"\xC3\":1}}",
        br#"{"event_type":"action","feature":"say "hi" now"}"#,
        br#"{"event_type":"action","metadata":{"q":"a "b"","l":[{"event_type":"action"},{"event_type":"action"}]}}"#,
        br#"{"event_type":"action","feature":"open}"#,
        br#"{"event_type":"action","feature":open"}"#,
        br#"{"event_type":"action","feature":"C:\"}"#,
        br#"{"event_type":"action","metadata":{"p":1}"#,
        br#"{"event_type":"action","metadata":{"p":[1,2}}"#,
        br#"{"event_type":"action"}}"#,
        br#"{"event_type":"action"} x"#,
        b"NaN",
        br#""\ud800""#,
        b"-1e999",
    ];

    #[test]
    fn an_event_that_is_not_valid_json_costs_only_itself() {
        for bad in UNREADABLE {
            let shown = String::from_utf8_lossy(bad).into_owned();
            let around = |before: &str, between: &str, after: &str| {
                let body = [
                    before.as_bytes(),
                    GOOD.as_bytes(),
                    between.as_bytes(),
                    bad,
                    between.as_bytes(),
                    GOOD.as_bytes(),
                    after.as_bytes(),
                ];
                body.concat()
            };
            for body in [
                around(r#"{"events":["#, ",", "]}"),
                around(
                    " { \"sent_at\" : null, \"x\":[1], \"events\" : [ ",
                    " , ",
                    " ] } ",
                ),
                around(r#"{"events":["#, ",\n", r#"],"sent_at":1761040800}"#),
                around("[", ",", "]"),
                around("[\n  ", ",\n  ", "\n]\n"),
            ] {
                let outcomes = validate(&body);
                assert_eq!(outcomes.len(), 3, "{shown}: {outcomes:?}");
                assert_eq!(
                    [&outcomes[0], &outcomes[2]],
                    ["0", "0"],
                    "{shown}: {outcomes:?}"
                );
                assert!(
                    outcomes[1].starts_with("bad_event: "),
                    "{shown}: {outcomes:?}"
                );
            }
            // The last of an array, and the only one.
            for body in [
                [br#"{"events":["#, GOOD.as_bytes(), b",", bad, b"]}"].concat(),
                [br#"["#, GOOD.as_bytes(), b",", bad, b"]"].concat(),
                [br#"{"events":["#, bad, br#"],"sent_at":1761040800}"#].concat(),
            ] {
                let outcomes = validate(&body);
                let (last, before) = outcomes.split_last().expect("an event");
                assert!(last.starts_with("bad_event: "), "{shown}: {outcomes:?}");
                assert!(before.iter().all(|one| one == "0"), "{shown}: {outcomes:?}");
            }
        }
    }

    #[test]
    fn an_event_that_is_not_valid_json_costs_only_its_line() {
        for bad in UNREADABLE.iter().filter(|bad| !bad.contains(&b'\n')) {
            let body = [GOOD.as_bytes(), bad, GOOD.as_bytes(), b""].join(&b"\r\n"[..]);
            let outcomes = validate(&body);
            let shown = String::from_utf8_lossy(bad);
            assert_eq!(outcomes.len(), 3, "{shown}: {outcomes:?}");
            assert_eq!(
                [&outcomes[0], &outcomes[2]],
                ["0", "0"],
                "{shown}: {outcomes:?}"
            );
            assert!(
                outcomes[1].starts_with("bad_event: "),
                "{shown}: {outcomes:?}"
            );
        }
    }

    #[test]
    fn unusual_but_valid_json_has_the_same_outcome_next_to_an_invalid_event() {
        let bad = r#"{"event_type":"action","x":NaN}"#;
        let deep = "[".repeat(50_000) + &"]".repeat(50_000);
        for (event, outcome) in [
            (r#"{"event_type":"action","feature":"\ud800"}"#, "0"),
            (r#"{"event_type":"action","\udc00":1}"#, "0"),
            (r#"{"event_type":"action","x":1e999}"#, "0"),
            (
                r#"{"event_type":"action","event_type":"action"}"#,
                "duplicate_field: duplicate field event_type",
            ),
            (
                r#"{"event_type":"action","metadata":{"p":1,"p":2}}"#,
                "bad_metadata: metadata has the duplicate key \"p\"",
            ),
            (
                r#"{"event_type":"action","metadata":{"p":1e999}}"#,
                "bad_metadata: metadata has the number 1e999, out of range",
            ),
            (&format!(r#"{{"event_type":"action","x":{deep}}}"#), "0"),
            (
                "7",
                "bad_event: the event is a number; allowed is an object",
            ),
        ] {
            let valid = format!(r#"{{"events":[{event},{GOOD}]}}"#);
            assert_eq!(validate(&valid), [outcome, "0"]);
            let split = validate(format!(r#"{{"events":[{event},{bad},{GOOD}]}}"#));
            assert_eq!([&split[0], &split[2]], [outcome, "0"]);
        }
    }

    #[test]
    fn one_event_an_array_and_lines_are_batches_too() {
        let mark = "\u{FEFF}";
        for body in [
            GOOD.into(),
            format!("{mark}{GOOD}"),
            format!("[{GOOD}]"),
            format!("{mark} [ {GOOD} ] "),
            format!("{mark}{{\"events\":[{GOOD}]}}"),
            "{\n\t\"ts\" : null,\n\t\"event_type\" : \"action\"\n}\n".into(),
        ] {
            assert_eq!(validate(&body), ["0"], "{body}");
        }
        for between in ["\n", "\r\n", "", " ", "\r", "\n\n \n", ",\n"] {
            let body = [GOOD; 3].join(between);
            assert_eq!(validate(&body), ["0", "0", "0"], "{between:?}");
        }
        for body in [
            format!("[{GOOD},]"),
            format!("[{GOOD},,{GOOD}]"),
            format!("[{GOOD} {GOOD}]"),
            format!("[\n{GOOD},\n{GOOD}\n]"),
        ] {
            assert!(validate(&body).iter().all(|one| one == "0"), "{body}");
        }
        let formatted = "{\n \"event_type\": \"action\",\n \"metadata\": {\n  \"p\": NaN\n }\n}";
        let outcomes = validate(format!("{formatted}\n{GOOD}\n{formatted}"));
        assert_eq!(outcomes.len(), 3);
        assert_eq!(outcomes[1], "0");
    }

    #[test]
    fn the_index_of_an_event_is_that_in_the_array() {
        let body = format!(r#"[{GOOD},x,{GOOD},{{"event_type":"action","feature":"a}},{GOOD}]"#);
        let outcomes = validate(&body);
        let is_good: Vec<bool> = outcomes.iter().map(|one| one == "0").collect();
        assert_eq!(is_good, [true, false, true, false, true]);
    }

    #[test]
    fn sent_at_corrects_a_client_clock_that_is_off_by_more_than_a_minute() {
        let event = r#"{"event_type":"action","ts":"2025-10-21T11:00:00Z"}"#;
        let unsent = r#"{"event_type":"action"}"#;
        let body =
            |sent_at: &str| format!(r#"{{"events":[{event},{unsent}],"sent_at":{sent_at}}}"#);
        assert_eq!(validate(body("null")), ["3600000000", "0"]);
        assert_eq!(
            validate(body(r#""2025-10-21T10:01:00Z""#)),
            ["3600000000", "0"]
        );
        assert_eq!(
            validate(body(r#""2025-10-21T11:00:05Z""#)),
            ["-5000000", "0"]
        );
        assert_eq!(validate(body("1761037200")), ["7200000000", "0"]);
    }

    #[test]
    fn junk_ids_are_anonymous_and_empty_strings_are_missing() {
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
                match event.validate(NOW, 0) {
                    Outcome::Accepted(event, _) => {
                        assert_eq!((event.user_id, event.feature), (None, None), "{id}")
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    #[test]
    fn an_invalid_body_is_rejected_as_a_whole() {
        for event in ["{}", "NaN"] {
            let many = format!(r#"{{"events":[{}]}}"#, [event; 101].join(","));
            assert!(matches!(
                read_batch(many.as_bytes()),
                Err(Error::TooLarge { .. })
            ));
        }
        let good = format!(r#"{{"events":[{GOOD},{GOOD}"#);
        for body in [
            "",
            " ",
            "{}",
            "nope",
            "nope,[]",
            "event_type=action",
            r#"{"events":{}}"#,
            r#"{"events":[}"#,
            r#"{"events":[]}x"#,
            r#"{"events":[]}{"events":[]}"#,
            r#"{"events":[],"events":[]}"#,
            r#"{"events":[],"sent_at":"x"}"#,
            r#"{"events":[],"sent_at":x}"#,
            r#"{"feature":"f"}"#,
            r#"[]{"event_type":"action"}"#,
            r#"{"event_type":"action""#,
            r#"{"event_type":"action","x":[1]"#,
            r#"{"event_type":"act"#,
            // Truncated at any position.
            &good,
            &format!("{good}]"),
            &format!("{good},"),
            &format!("{good},{{"),
            &format!(r#"{good},{{"event_type":"act"#),
            &format!(r#"{good},{{"event_type":"action","metadata":{{"l":[1]}}"#),
            &format!(r#"{good},{{"event_type":"action","metadata":{{"p":NaN,"l":[1]}}"#),
            &format!("[{GOOD}"),
            &format!("[{GOOD},NaN"),
        ] {
            assert!(
                matches!(read_batch(body.as_bytes()), Err(Error::BadInput { .. })),
                "{body}"
            );
        }
        for body in [r#"{"events":[]}"#, "[]", " [ ]\n"] {
            let batch = read_batch(body.as_bytes());
            assert!(batch.is_ok_and(|batch| batch.events.is_empty()), "{body}");
        }
    }

    /// The time of parsing is linear in the length of a body, however invalid it is.
    #[test]
    fn invalid_bodies_are_parsed_in_linear_time() {
        let started = std::time::Instant::now();
        for piece in [
            "[{\"a\":\"",
            "{\"a\":\"b},",
            "{\"a\":[[{",
            "{\"a\":\"b\"\"},{",
            "\"]",
            "{\"a\":x]}",
            "{\"event_type\":\"action\",\"a\":x},",
            "],",
            "\\\"",
            "{\"a\":{\"a\":",
            "[",
            "{",
            "\n{\"a",
            "x\n",
            "[{},{},",
            "{\"a\":\"},{\",\"b\":\"},{\",",
        ] {
            let body = piece.repeat((1 << 20) / piece.len());
            for around in [("", ""), ("[", "]"), ("[", "}"), (r#"{"events":["#, "]}")] {
                let body = format!("{}{body}{}", around.0, around.1);
                // Any result is right.
                drop(read_batch(body.as_bytes()));
            }
        }
        assert!(started.elapsed().as_secs() < 240, "{:?}", started.elapsed());
    }

    #[test]
    fn numbers_are_accepted_as_ids_and_names() {
        for (number, string) in [
            ("123", "123"),
            ("123.0", "123"),
            ("1.23e2", "123"),
            ("-5", "-5"),
            ("404", "404"),
            ("12345678901234567890", "12345678901234567890"),
            ("1.5", "1.5"),
            ("\"7\"", "7"),
        ] {
            let body = format!(
                r#"[{{"event_type":"action","user_id":{number},"feature":{number},"event_id":{number}}}]"#
            );
            let batch = read_batch(body.as_bytes()).expect("a list");
            for raw in batch.events {
                let Outcome::Accepted(event, notes) = raw.validate(NOW, 0) else {
                    panic!("{number}");
                };
                let found = [event.user_id, event.feature, event.event_id];
                assert_eq!(found.each_ref().map(Option::as_deref), [Some(string); 3]);
                assert_eq!(notes, []);
            }
        }
        for (event, outcome) in [
            (r#""user_id":0"#, "0"),
            (r#""user_id":-0"#, "0"),
            (
                r#""user_id":1e999"#,
                "bad_user_id: user_id is 1e999; allowed is a string or a number",
            ),
            (
                r#""event_id":{"a":1}"#,
                "bad_event_id: event_id is {\"a\":1}; allowed is a string or a number",
            ),
            (r#""url":5"#, "bad_url: url is 5; allowed is a string"),
            (r#""ts":"""#, "0"),
            (r#""ts":" ","metadata":"","url":"","feature":"""#, "0"),
            (r#""ts":"1761040801""#, "1000000"),
            (r#""ts":"2025-10-21 12:00:02+0200""#, "2000000"),
        ] {
            let body = format!(r#"[{{"event_type":"action",{event}}}]"#);
            assert_eq!(validate(&body), [outcome], "{event}");
        }
        assert_eq!(
            validate(r#"{"events":[{"event_type":"action"}],"sent_at":""}"#),
            ["0"]
        );
    }

    #[test]
    fn values_over_a_limit_are_truncated_or_dropped_and_the_event_is_kept() {
        let long = "é".repeat(2_100);
        let fits = |chars: usize| "é".repeat(chars);
        for (field, code, chars) in [
            ("feature", "feature_cut", 200),
            ("url", "url_cut", 2_048),
            ("user_id", "user_id_dropped", 256),
            ("event_id", "event_id_dropped", 128),
        ] {
            let body = |value: &str| format!(r#"[{{"event_type":"action","{field}":"{value}"}}]"#);
            assert_eq!(validate(body(&fits(chars))), ["0"]);
            let is_truncated = code.ends_with("_cut");
            let action = if is_truncated { "truncated" } else { "dropped" };
            let note = format!(
                "0, {code}: {field} has 2100 characters; allowed are {chars}; it was {action}"
            );
            assert_eq!(validate(body(&long)), [note]);
            let batch_body = body(&format!("\\u0061{long}"));
            let batch = read_batch(batch_body.as_bytes()).expect("a list");
            for raw in batch.events {
                let Outcome::Accepted(event, _) = raw.validate(NOW, 0) else {
                    panic!("{field}");
                };
                let found = [event.feature, event.url, event.user_id, event.event_id];
                let found: Vec<_> = found.into_iter().flatten().collect();
                if is_truncated {
                    assert_eq!(found, [format!("a{}", fits(chars - 1))]);
                } else {
                    assert!(found.is_empty());
                }
            }
        }
        let long_type = format!(r#"[{{"event_type":"{long}"}}]"#);
        assert_eq!(
            validate(&long_type),
            ["bad_event_type: event_type has 2100 characters; allowed are 200"]
        );
        for (metadata, shown) in [
            ("[]", "[]"),
            ("5", "5"),
            ("true", "true"),
            ("\"x\"", "\"x\""),
        ] {
            let body = format!(r#"[{{"event_type":"action","metadata":{metadata}}}]"#);
            let note = format!(
                "0, metadata_dropped: metadata is {shown}; allowed is an object; it was dropped"
            );
            assert_eq!(validate(&body), [note]);
        }
        let large = format!(
            r#"[{{"event_type":"action","metadata":{{"a":"{}"}}}}]"#,
            "x".repeat(20_000)
        );
        assert_eq!(
            validate(&large),
            [
                "0, metadata_cut: metadata has 20008 bytes; allowed are 16384; the largest values were removed"
            ]
        );
    }
}
