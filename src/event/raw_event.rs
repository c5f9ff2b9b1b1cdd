//! One event as the client sent it, and its validation.
//!
//! Parsing keeps each field as borrowed JSON, because a wrong type must cost one event and not its
//! neighbours, and because the correction of the client's clock may follow the events.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::text::{self, Escapes};
use super::{
    DeclaredTypes, Event, EventCode, EventType, MAX_AGE_US, MAX_AHEAD_US, MAX_EVENT_ID_CHARS,
    MAX_EVENT_TYPE_CHARS, MAX_FEATURE_CHARS, MAX_URL_CHARS, MAX_USER_ID_CHARS, MESSAGE_CHARS, Note,
    Outcome, is_junk_id, metadata, timestamp,
};
use crate::error::{first_chars, shown};

/// An event as the client sent it: the JSON of each field that is present and not null.
#[derive(Debug, Default)]
pub struct RawEvent<'a> {
    fields: [Option<&'a str>; FIELDS.len()],
    fault: Option<Fault>,
    /// Those of the JSON around the event.
    pub(super) escapes: Escapes,
}

/// Code and message of a rejection.
type Fault = (EventCode, String);

/// Integers up to this are exact as doubles.
const MAX_EXACT_DOUBLE: f64 = 9_007_199_254_740_992.0;

const FIELDS: [&str; 7] = [
    "ts",
    "event_type",
    "user_id",
    "feature",
    "metadata",
    "url",
    "event_id",
];
const TS: usize = 0;
const EVENT_TYPE: usize = 1;
const USER_ID: usize = 2;
const FEATURE: usize = 3;
const METADATA: usize = 4;
const URL: usize = 5;
const EVENT_ID: usize = 6;

fn field_of(key: &[u8]) -> Option<usize> {
    Some(match key {
        b"ts" => TS,
        b"event_type" => EVENT_TYPE,
        b"user_id" => USER_ID,
        b"feature" => FEATURE,
        b"metadata" => METADATA,
        b"url" => URL,
        b"event_id" => EVENT_ID,
        _ => return None,
    })
}

/// The rest of some JSON after the key of this field and its colon, if it begins with them. Most
/// programs write the fields in our order, and comparing is faster than searching the key's end.
fn strip_key(json: &str, field: usize) -> Option<&str> {
    match field {
        TS => json.strip_prefix(r#""ts":"#),
        EVENT_TYPE => json.strip_prefix(r#""event_type":"#),
        USER_ID => json.strip_prefix(r#""user_id":"#),
        FEATURE => json.strip_prefix(r#""feature":"#),
        METADATA => json.strip_prefix(r#""metadata":"#),
        URL => json.strip_prefix(r#""url":"#),
        EVENT_ID => json.strip_prefix(r#""event_id":"#),
        _ => None,
    }
}

/// Parses one event, alone on its line.
///
/// # Errors
/// A message that says why the line is not valid JSON.
pub fn read_event(line: &[u8]) -> Result<RawEvent<'_>, String> {
    let invalid = |error: &dyn fmt::Display| format!("the event is invalid JSON: {error}");
    let line = std::str::from_utf8(line).map_err(|error| invalid(&error))?;
    if let Some(event) = read_plain(line) {
        return Ok(event);
    }
    let event: RawEvent<'_> = serde_json::from_str(line).map_err(|error| invalid(&error))?;
    Ok(RawEvent {
        escapes: Escapes::of(line),
        ..event
    })
}

/// Parses an event without escapes from quote to quote, in 0.6 times the time of `serde_json`.
/// `None` for any other line, valid or not, which is then parsed by `serde_json`.
fn read_plain(line: &str) -> Option<RawEvent<'_>> {
    // A loop without an early exit tests many bytes in one instruction.
    let plain = line
        .bytes()
        .fold(true, |plain, byte| plain & (byte >= b' ') & (byte != b'\\'));
    let mut rest = line.strip_prefix('{').filter(|_| plain)?;
    let mut event = RawEvent {
        escapes: Escapes::None,
        ..RawEvent::default()
    };
    let mut seen = [false; FIELDS.len()];
    let mut expected = TS;
    loop {
        let (field, value) = match strip_key(rest, expected) {
            Some(value) => (Some(expected), value),
            None => {
                let (key, after) = text::split_plain(rest.trim_ascii_start())?;
                let value = after.trim_ascii_start().strip_prefix(':')?;
                (field_of(key.as_bytes()), value)
            }
        };
        let value = value.trim_ascii_start();
        let (json, after) = value.split_at_checked(plain_length(value)?)?;
        if let Some(field) = field {
            expected = field + 1;
            if std::mem::replace(seen.get_mut(field)?, true) {
                return None;
            }
            *event.fields.get_mut(field)? = Some(json).filter(|json| *json != "null");
        }
        match after.trim_ascii_start().strip_prefix(',') {
            Some(more) => rest = more,
            None => return (after.trim_ascii_start() == "}").then_some(event),
        }
    }
}

/// Length in bytes of the JSON value at the start of `json`, which has no escapes. `None` if it is
/// invalid.
fn plain_length(json: &str) -> Option<usize> {
    if json.starts_with('"') {
        return Some(text::plain_length(json));
    }
    metadata::flat_length(json).or_else(|| {
        let mut values = serde_json::Deserializer::from_str(json).into_iter::<IgnoredAny>();
        values.next()?.ok()?;
        Some(values.byte_offset())
    })
}

impl<'a> RawEvent<'a> {
    /// Parses one element of a batch. One that is not valid JSON is rejected by validation.
    pub fn read(json: &'a [u8]) -> Self {
        read_event(json.trim_ascii()).unwrap_or_else(|message| Self {
            fault: Some((
                EventCode::BadEvent,
                first_chars(&message, MESSAGE_CHARS).to_owned(),
            )),
            ..Self::default()
        })
    }

    /// True if it is an object with an event type, valid or not.
    pub fn has_event_type(&self) -> bool {
        self.field(EVENT_TYPE).is_some()
    }

    /// Validates the event as received at `received_at_us`; `clock_skew_us` is added to the
    /// client's timestamp. No types are declared.
    pub fn validate(self, received_at_us: i64, clock_skew_us: i64) -> Outcome<'a> {
        self.validate_among(DeclaredTypes::NONE, received_at_us, clock_skew_us)
    }

    /// The same, with declared types.
    pub fn validate_among(
        self,
        types: &'a DeclaredTypes,
        received_at_us: i64,
        clock_skew_us: i64,
    ) -> Outcome<'a> {
        let mut notes = Vec::new();
        match self.check(types, received_at_us, clock_skew_us, &mut notes) {
            Ok(event) if event.ts_us < received_at_us - MAX_AGE_US => Outcome::TooOld,
            Ok(event) => Outcome::Accepted(event, notes),
            Err((code, message)) => Outcome::Rejected(code, message),
        }
    }

    fn check(
        mut self,
        types: &'a DeclaredTypes,
        received_at_us: i64,
        clock_skew_us: i64,
        notes: &mut Vec<Note>,
    ) -> Result<Event<'a>, Fault> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        let event = Event {
            event_type: self.event_type(types)?,
            ts_us: match self.field(TS).filter(|json| !is_missing(json)) {
                None => received_at_us,
                Some(json) => timestamp::parse(json)
                    .and_then(|ts_us| ts_us.checked_add(clock_skew_us))
                    .ok_or_else(|| {
                        (
                            EventCode::BadTs,
                            invalid(TS, json, "RFC 3339 or an epoch number"),
                        )
                    })?,
            },
            user_id: self
                .name(USER_ID, EventCode::BadUserId)?
                .and_then(|id| {
                    short_id(
                        id,
                        USER_ID,
                        MAX_USER_ID_CHARS,
                        EventCode::UserIdDropped,
                        notes,
                    )
                })
                .filter(|id| !is_junk_id(id)),
            feature: self.name(FEATURE, EventCode::BadFeature)?.map(|name| {
                truncate(
                    name,
                    FEATURE,
                    MAX_FEATURE_CHARS,
                    EventCode::FeatureCut,
                    notes,
                )
            }),
            metadata: self.metadata(notes)?,
            url: self
                .string(URL, EventCode::BadUrl)?
                .map(|url| truncate(url, URL, MAX_URL_CHARS, EventCode::UrlCut, notes)),
            event_id: self.name(EVENT_ID, EventCode::BadEventId)?.and_then(|id| {
                short_id(
                    id,
                    EVENT_ID,
                    MAX_EVENT_ID_CHARS,
                    EventCode::EventIdDropped,
                    notes,
                )
            }),
            received_at_us,
        };
        if event.ts_us > received_at_us.saturating_add(MAX_AHEAD_US) {
            let json = self.field(TS).unwrap_or_default();
            let limit = "at most 24 hours ahead of the server";
            return Err((EventCode::FutureTs, invalid(TS, json, limit)));
        }
        Ok(event)
    }

    /// The client's timestamp in µs, if it sent a valid one.
    pub fn ts_us(&self) -> Option<i64> {
        timestamp::parse(self.field(TS)?)
    }

    fn event_type(&self, types: &'a DeclaredTypes) -> Result<EventType<'a>, Fault> {
        const CODE: EventCode = EventCode::BadEventType;
        let name = self
            .string(EVENT_TYPE, CODE)?
            .ok_or_else(|| (CODE, "event_type is missing".to_owned()))?;
        let found = EventType::undeclared(&name).or_else(|| types.find(&name));
        found.ok_or_else(|| {
            let chars = name.chars().count();
            let json = self.field(EVENT_TYPE).unwrap_or_default();
            let message = if chars > MAX_EVENT_TYPE_CHARS {
                format!("event_type has {chars} characters; allowed are {MAX_EVENT_TYPE_CHARS}")
            } else if types.is_empty() {
                invalid(EVENT_TYPE, json, "page_view, action or conversion")
            } else {
                let allowed =
                    "page_view, action, conversion or a type that the tracking plan declares";
                invalid(EVENT_TYPE, json, allowed)
            };
            (CODE, message)
        })
    }

    /// Canonical metadata. A value that is not an object is dropped and one over a limit is
    /// reduced: neither rejects the event.
    fn metadata(&self, notes: &mut Vec<Note>) -> Result<Cow<'a, str>, Fault> {
        const NONE: Cow<'_, str> = Cow::Borrowed("{}");
        let Some(json) = self.field(METADATA).filter(|json| !is_missing(json)) else {
            return Ok(NONE);
        };
        if !json.starts_with('{') {
            let message = invalid(METADATA, json, "an object; it was dropped");
            notes.push((EventCode::MetadataDropped, message));
            return Ok(NONE);
        }
        let canonical = metadata::canonical(json, self.escapes)
            .map_err(|message| (EventCode::BadMetadata, message))?;
        if let Some(message) = canonical.cut {
            notes.push((EventCode::MetadataCut, message));
        }
        Ok(canonical.json)
    }

    /// The string of a field; missing, null and empty are `None`.
    fn string(&self, field: usize, code: EventCode) -> Result<Option<Cow<'a, str>>, Fault> {
        let Some(json) = self.field(field) else {
            return Ok(None);
        };
        let string = text::decode(json, self.escapes)
            .ok_or_else(|| (code, invalid(field, json, "a string")))?;
        Ok(Some(string).filter(|string| !string.is_empty()))
    }

    /// The string of an id or a name; a number is taken as a string.
    fn name(&self, field: usize, code: EventCode) -> Result<Option<Cow<'a, str>>, Fault> {
        match self.field(field) {
            Some(json) if !json.starts_with('"') => number_string(json)
                .map(Some)
                .ok_or_else(|| (code, invalid(field, json, "a string or a number"))),
            _ => self.string(field, code),
        }
    }

    fn field(&self, field: usize) -> Option<&'a str> {
        self.fields.get(field).copied().flatten()
    }
}

/// True for null and for a string of blanks, which count as missing.
pub(super) fn is_missing(json: &str) -> bool {
    match json.strip_prefix('"') {
        // Nearly all begin with another letter.
        Some(string) => string.trim_ascii_start().starts_with('"'),
        None => json == "null",
    }
}

/// A JSON number as a string. Equal values give equal strings: `7`, `7.0` and `7e0` are `7`.
/// `None` if it is not a number, or out of the range of doubles.
pub(crate) fn number_string(json: &str) -> Option<Cow<'_, str>> {
    let digits = json.strip_prefix('-').unwrap_or(json);
    if json != "-0" && !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Cow::Borrowed(json));
    }
    let begins_as_a_number = digits.starts_with(|first: char| first.is_ascii_digit());
    let number: f64 = begins_as_a_number.then(|| json.parse().ok())??;
    let is_integer = number.fract() == 0.0 && number.abs() <= MAX_EXACT_DOUBLE;
    number.is_finite().then(|| {
        Cow::Owned(if is_integer {
            (number as i64).to_string()
        } else {
            number.to_string()
        })
    })
}

/// Truncates a string to `max_chars` characters, with a note.
fn truncate<'a>(
    mut string: Cow<'a, str>,
    field: usize,
    max_chars: usize,
    code: EventCode,
    notes: &mut Vec<Note>,
) -> Cow<'a, str> {
    if let Some(message) = too_long(&string, field, max_chars) {
        let end = string.char_indices().nth(max_chars);
        let end = end.map_or(string.len(), |(end, _)| end);
        match &mut string {
            Cow::Borrowed(string) => *string = string.get(..end).unwrap_or_default(),
            Cow::Owned(string) => string.truncate(end),
        }
        notes.push((code, format!("{message}; it was truncated")));
    }
    string
}

/// An id of at most `max_chars` characters. A longer one is dropped, with a note: truncated, two
/// ids could become one.
fn short_id<'a>(
    id: Cow<'a, str>,
    field: usize,
    max_chars: usize,
    code: EventCode,
    notes: &mut Vec<Note>,
) -> Option<Cow<'a, str>> {
    let Some(message) = too_long(&id, field, max_chars) else {
        return Some(id);
    };
    notes.push((code, format!("{message}; it was dropped")));
    None
}

/// A message if a string has more than `max_chars` characters.
fn too_long(string: &str, field: usize, max_chars: usize) -> Option<String> {
    // Bytes are never fewer than characters, so few strings are counted.
    if string.len() <= max_chars {
        return None;
    }
    let chars = string.chars().count();
    let name = FIELDS.get(field).copied().unwrap_or_default();
    (chars > max_chars).then(|| format!("{name} has {chars} characters; allowed are {max_chars}"))
}

/// A message about an invalid value.
fn invalid(field: usize, json: &str, allowed: &str) -> String {
    let name = FIELDS.get(field).copied().unwrap_or_default();
    let value = shown(json);
    format!("{name} is {value}; allowed is {allowed}")
}

impl<'de> Deserialize<'de> for RawEvent<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EventVisitor)
    }
}

struct EventVisitor;

/// Anything but an object is a rejected event; the value is parsed to its end so that the next
/// event is found.
impl<'de> Visitor<'de> for EventVisitor {
    type Value = RawEvent<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut event = RawEvent::default();
        let mut seen = [false; FIELDS.len()];
        while let Some(key) = map.next_key_seed(Key(field_of))? {
            let Some(field) = key else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let json = map.next_value::<&RawValue>()?.get();
            if let Some(seen) = seen.get_mut(field)
                && std::mem::replace(seen, true)
            {
                let name = FIELDS.get(field).copied().unwrap_or_default();
                event.fault = Some((EventCode::DuplicateField, format!("duplicate field {name}")));
            }
            if let Some(slot) = event.fields.get_mut(field) {
                *slot = Some(json).filter(|json| *json != "null");
            }
        }
        Ok(event)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        not_an_object("an array")
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        not_an_object("a string")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        not_an_object("a boolean")
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        not_an_object("a number")
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        not_an_object("a number")
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        not_an_object("a number")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        not_an_object("null")
    }
}

pub(super) fn not_an_object<'de, E>(found: &str) -> Result<RawEvent<'de>, E> {
    Ok(RawEvent {
        fault: Some((
            EventCode::BadEvent,
            format!("the event is {found}; allowed is an object"),
        )),
        ..RawEvent::default()
    })
}

/// Deserialises a key with a function that maps it. As bytes, so that a key with an unpaired
/// surrogate is an unknown key and not an error.
pub(super) struct Key<T>(pub fn(&[u8]) -> T);

impl<'de, T> DeserializeSeed<'de> for Key<T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_bytes(self)
    }
}

impl<T> Visitor<'_> for Key<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a key")
    }

    fn visit_bytes<E>(self, key: &[u8]) -> Result<T, E> {
        Ok(self.0(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_lines_parse_as_by_serde_json() {
        for (line, plain) in [
            (r#"{"event_type":"action"}"#, true),
            (
                r#"{"event_type": "action", "user_id": null, "ts": 1761040800 }"#,
                true,
            ),
            (
                r#" { "feature" : "é,{}" , "metadata" : {"a" : [{"b":"}{"}]} , "x":true}"#,
                true,
            ),
            (r#"{"user_id":7,"url":"/a","unknown":{"a":1}}"#, true),
            (r#"{"feature":"a"b"}"#, false),
            (r#"{"feature":["a","b"],"url":"/a"}"#, true),
            (r#"{"feature":"a","feature":"b"}"#, false),
            (r#"{"metadata":{"a":1,"b":"c"},"url":"/a"}"#, true),
            (r#"{"metadata":{"a":1]}"#, false),
            (r#"{"metadata":{"a":1}x}"#, false),
            (r#"{"ts":01}"#, false),
            (r#"{"ts":1,}"#, false),
            (r#"{"ts":1}}"#, false),
            (r#"{"ts" 1}"#, false),
            ("{\"url\":\"a\tb\"}", false),
            ("{\"url\":\u{a0}1}", false),
            (r#"{"url":"a"#, false),
            ("{}", false),
            ("", false),
        ] {
            let general = serde_json::from_str::<RawEvent<'_>>(line).ok();
            let found = read_plain(line.trim_ascii());
            assert_eq!(found.is_some(), plain, "{line}");
            if let Some(found) = found {
                assert_eq!(
                    Some(found.fields),
                    general.map(|event| event.fields),
                    "{line}"
                );
            }
        }
    }
}
