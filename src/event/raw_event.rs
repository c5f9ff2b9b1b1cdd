//! One event as the client wrote it, and the verdict on it.
//!
//! Each field is first kept as its JSON text, borrowed, because a wrong type must cost one event and not its
//! neighbours, and because what corrects the client's clock may come later.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::text::{self, Escapes};
use super::{
    Event, EventType, MAX_AGE_US, MAX_AHEAD_US, MAX_EVENT_ID_CHARS, MAX_EVENT_TYPE_CHARS,
    MAX_FEATURE_CHARS, MAX_URL_CHARS, MAX_USER_ID_CHARS, Note, Verdict, is_junk_id, metadata,
    timestamp,
};

/// One event as the client wrote it: the JSON text of each field that is there and not null.
#[derive(Debug, Default)]
pub struct RawEvent<'a> {
    fields: [Option<&'a str>; FIELDS.len()],
    fault: Option<Fault>,
    /// Those of the text around the event.
    pub(super) escapes: Escapes,
}

/// Code and message of a refusal.
type Fault = (&'static str, String);

/// Whole numbers up to this are exact as doubles.
const MAX_EXACT_DOUBLE: f64 = 9_007_199_254_740_992.0;
/// Characters of a reader's message that are sent back; it may quote the event.
const MESSAGE_CHARS: usize = 200;

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

/// What follows the key of a field, where a text begins with it: most programs write the fields in our order, and to compare is
/// quicker than to look for the key's end.
fn after_key(json: &str, field: usize) -> Option<&str> {
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

/// Reads one event, alone on its line.
///
/// # Errors
/// A sentence about what is not JSON.
pub fn read_event(line: &[u8]) -> Result<RawEvent<'_>, String> {
    let wrong = |error: &dyn fmt::Display| format!("the event is no JSON: {error}");
    let line = std::str::from_utf8(line).map_err(|error| wrong(&error))?;
    if let Some(event) = read_plain(line) {
        return Ok(event);
    }
    let event: RawEvent<'_> = serde_json::from_str(line).map_err(|error| wrong(&error))?;
    Ok(RawEvent {
        escapes: Escapes::of(line),
        ..event
    })
}

/// Reads an event whose strings have no escapes from quote to quote, in half the time of the general reading. `None`
/// for any other text, right or wrong: the general reading judges it.
fn read_plain(line: &str) -> Option<RawEvent<'_>> {
    // Every byte is looked at, because without an early end many are looked at in one instruction.
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
        let (field, value) = match after_key(rest, expected) {
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

/// Bytes of the JSON value, without escapes, at the start of a text. `None` if it is none.
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
    /// Reads what stands in the place of an event; what cannot be read is refused when it is judged.
    pub fn read(text: &'a [u8]) -> Self {
        read_event(text.trim_ascii()).unwrap_or_else(|message| Self {
            fault: Some((
                "bad_event",
                message.chars().take(MESSAGE_CHARS).collect::<String>(),
            )),
            ..Self::default()
        })
    }

    /// Whether it is an object with an event type, right or wrong.
    pub fn has_event_type(&self) -> bool {
        self.field(EVENT_TYPE).is_some()
    }

    /// Judges the event as received at `received_at_us`; `clock_skew_us` is added to the client's time.
    pub fn judge(self, received_at_us: i64, clock_skew_us: i64) -> Verdict<'a> {
        let mut notes = Vec::new();
        match self.check(received_at_us, clock_skew_us, &mut notes) {
            Ok(event) if event.ts_us < received_at_us - MAX_AGE_US => Verdict::TooOld,
            Ok(event) => Verdict::Accepted(event, notes),
            Err((code, message)) => Verdict::Refused(code, message),
        }
    }

    fn check(
        mut self,
        received_at_us: i64,
        clock_skew_us: i64,
        notes: &mut Vec<Note>,
    ) -> Result<Event<'a>, Fault> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        let event = Event {
            event_type: self.event_type()?,
            ts_us: match self.field(TS).filter(|json| !is_missing(json)) {
                None => received_at_us,
                Some(json) => timestamp::parse(json)
                    .and_then(|ts_us| ts_us.checked_add(clock_skew_us))
                    .ok_or_else(|| ("bad_ts", wrong(TS, json, "RFC 3339 or an epoch number")))?,
            },
            user_id: self
                .name(USER_ID, "bad_user_id")?
                .and_then(|id| short_id(id, USER_ID, MAX_USER_ID_CHARS, "user_id_dropped", notes))
                .filter(|id| !is_junk_id(id)),
            feature: self
                .name(FEATURE, "bad_feature")?
                .map(|text| cut(text, FEATURE, MAX_FEATURE_CHARS, "feature_cut", notes)),
            metadata: self.metadata(notes)?,
            url: self
                .text(URL, "bad_url")?
                .map(|text| cut(text, URL, MAX_URL_CHARS, "url_cut", notes)),
            event_id: self.name(EVENT_ID, "bad_event_id")?.and_then(|id| {
                short_id(id, EVENT_ID, MAX_EVENT_ID_CHARS, "event_id_dropped", notes)
            }),
            received_at_us,
        };
        if event.ts_us > received_at_us.saturating_add(MAX_AHEAD_US) {
            let json = self.field(TS).unwrap_or_default();
            let limit = "at most 24 hours ahead of the server";
            return Err(("future_ts", wrong(TS, json, limit)));
        }
        Ok(event)
    }

    /// When the client says it happened, in µs, if it says so in a form that is understood.
    pub fn ts_us(&self) -> Option<i64> {
        timestamp::parse(self.field(TS)?)
    }

    fn event_type(&self) -> Result<EventType, Fault> {
        const CODE: &str = "bad_event_type";
        let name = self
            .text(EVENT_TYPE, CODE)?
            .ok_or_else(|| (CODE, "event_type is missing".to_owned()))?;
        EventType::from_name(&name).ok_or_else(|| {
            let chars = name.chars().count();
            let json = self.field(EVENT_TYPE).unwrap_or_default();
            let message = match chars > MAX_EVENT_TYPE_CHARS {
                true => {
                    format!("event_type has {chars} characters; allowed are {MAX_EVENT_TYPE_CHARS}")
                }
                false => wrong(EVENT_TYPE, json, "page_view, action or conversion"),
            };
            (CODE, message)
        })
    }

    /// Canonical metadata. What is no object is left out, and what is too large is cut: neither loses the event.
    fn metadata(&self, notes: &mut Vec<Note>) -> Result<Cow<'a, str>, Fault> {
        const NONE: Cow<'_, str> = Cow::Borrowed("{}");
        let Some(json) = self.field(METADATA).filter(|json| !is_missing(json)) else {
            return Ok(NONE);
        };
        if !json.starts_with('{') {
            let message = wrong(METADATA, json, "an object; it is left out");
            notes.push(("metadata_dropped", message));
            return Ok(NONE);
        }
        let canonical =
            metadata::canonical(json, self.escapes).map_err(|message| ("bad_metadata", message))?;
        if let Some(message) = canonical.cut {
            notes.push(("metadata_cut", message));
        }
        Ok(canonical.json)
    }

    /// The text of a field; missing, null and empty are `None`.
    fn text(&self, field: usize, code: &'static str) -> Result<Option<Cow<'a, str>>, Fault> {
        let Some(json) = self.field(field) else {
            return Ok(None);
        };
        let text =
            text::decode(json, self.escapes).ok_or_else(|| (code, wrong(field, json, "text")))?;
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    /// The text of an id or a name; a number is taken as text.
    fn name(&self, field: usize, code: &'static str) -> Result<Option<Cow<'a, str>>, Fault> {
        match self.field(field) {
            Some(json) if !json.starts_with('"') => number_text(json)
                .map(Some)
                .ok_or_else(|| (code, wrong(field, json, "text or a number"))),
            _ => self.text(field, code),
        }
    }

    fn field(&self, field: usize) -> Option<&'a str> {
        self.fields.get(field).copied().flatten()
    }
}

/// Whether a field with this value is as good as missing: null, or text of blanks alone.
pub(super) fn is_missing(json: &str) -> bool {
    match json.strip_prefix('"') {
        // Nearly all begin with another letter.
        Some(text) => text.trim_ascii_start().starts_with('"'),
        None => json == "null",
    }
}

/// The text of a JSON number: one value is one text, so that `7`, `7.0` and `7e0` are `7`. `None` for what is no number, or
/// beyond all doubles.
fn number_text(json: &str) -> Option<Cow<'_, str>> {
    let digits = json.strip_prefix('-').unwrap_or(json);
    if json != "-0" && !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Cow::Borrowed(json));
    }
    let begins_as_a_number = digits.starts_with(|first: char| first.is_ascii_digit());
    let number: f64 = begins_as_a_number.then(|| json.parse().ok())??;
    let is_whole = number.fract() == 0.0 && number.abs() <= MAX_EXACT_DOUBLE;
    number.is_finite().then(|| {
        Cow::Owned(match is_whole {
            true => (number as i64).to_string(),
            false => number.to_string(),
        })
    })
}

/// A text that is cut, between two characters, to as many as are allowed.
fn cut<'a>(
    mut text: Cow<'a, str>,
    field: usize,
    max_chars: usize,
    code: &'static str,
    notes: &mut Vec<Note>,
) -> Cow<'a, str> {
    if let Some(message) = too_long(&text, field, max_chars) {
        let end = text.char_indices().nth(max_chars);
        let end = end.map_or(text.len(), |(end, _)| end);
        match &mut text {
            Cow::Borrowed(text) => *text = text.get(..end).unwrap_or_default(),
            Cow::Owned(text) => text.truncate(end),
        }
        notes.push((code, format!("{message}; it is cut")));
    }
    text
}

/// An id that is not too long. One that is cannot be cut, because two ids could become one.
fn short_id<'a>(
    id: Cow<'a, str>,
    field: usize,
    max_chars: usize,
    code: &'static str,
    notes: &mut Vec<Note>,
) -> Option<Cow<'a, str>> {
    let Some(message) = too_long(&id, field, max_chars) else {
        return Some(id);
    };
    notes.push((code, format!("{message}; it is left out")));
    None
}

/// A sentence about a text with too many characters.
fn too_long(text: &str, field: usize, max_chars: usize) -> Option<String> {
    // Bytes are never fewer than characters, so the count is needed for few texts.
    if text.len() <= max_chars {
        return None;
    }
    let chars = text.chars().count();
    let name = FIELDS.get(field).copied().unwrap_or_default();
    (chars > max_chars).then(|| format!("{name} has {chars} characters; allowed are {max_chars}"))
}

/// A sentence about a wrong value, cut to a length that fits a reply.
fn wrong(field: usize, json: &str, allowed: &str) -> String {
    let name = FIELDS.get(field).copied().unwrap_or_default();
    let value: String = json.chars().take(64).collect();
    format!("{name} is {value}; allowed is {allowed}")
}

impl<'de> Deserialize<'de> for RawEvent<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EventVisitor)
    }
}

struct EventVisitor;

/// Anything but an object is a refused event; its value is read to its end so that the next one is found.
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
                event.fault = Some(("duplicate_field", format!("{name} is there twice")));
            }
            if let Some(slot) = event.fields.get_mut(field) {
                *slot = Some(json).filter(|json| *json != "null");
            }
        }
        Ok(event)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        not_an_object("a list")
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        not_an_object("text")
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
            "bad_event",
            format!("the event is {found}; allowed is an object"),
        )),
        ..RawEvent::default()
    })
}

/// Reads a key with the function that knows the keys. As bytes, so that a key with a lone surrogate is merely
/// unknown.
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
    fn plain_lines_are_read_as_by_the_general_reading() {
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
