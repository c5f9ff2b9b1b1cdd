//! An event between a client's message and the log: clock, limits and the marks that they leave.

use std::borrow::Cow;

use xxhash_rust::xxh3::xxh3_128;

use super::Mapped;
use super::fields::{Fields, Traits};
use crate::error::shown;
use crate::event::text::Escapes;
use crate::event::{
    Event, EventCode, EventType, MAX_AGE_US, MAX_AHEAD_US, MAX_CLOCK_SKEW_US, MAX_EVENT_ID_CHARS,
    MAX_FEATURE_CHARS, MAX_URL_CHARS, MAX_USER_ID_CHARS, Outcome, metadata, timestamp,
};

/// Prefix of the event ids of messages that are not events.
const MALFORMED_PREFIX: &str = "malformed-";

/// The settings of a mapping.
pub struct Context<'c> {
    /// True for the name of an event that is a conversion.
    pub is_conversion: &'c dyn Fn(&str) -> bool,
    /// Treatment of traits that name a person.
    pub traits: Traits,
}

/// The receipt of a message.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// When it was received, in µs since 1970 UTC.
    pub at_us: i64,
    /// The later of two plausible times of the server; the same while only one is.
    pub latest_us: i64,
    /// The client's clock is corrected by its time of sending: not for a file, which was sent long
    /// ago.
    pub corrects_clock: bool,
    /// The time of sending by the client's clock, as JSON, of the request around the message.
    pub sent_at: Option<&'a str>,
}

/// The reason why a message is not an event.
pub struct Fault {
    code: EventCode,
    /// With the value that is wrong, for responses and the list of rejections.
    message: String,
    /// Without it, for the quarantine: the value may name a person.
    reason: String,
}

impl Fault {
    /// A part of the message has a wrong value.
    pub fn wrong(code: EventCode, part: &str, value: &str, allowed: &str) -> Self {
        Self {
            code,
            message: format!("{part} is {}; {allowed}", shown(value)),
            reason: format!("{part} is wrong; {allowed}"),
        }
    }

    /// A part of the message is of another kind, or missing.
    pub fn other(code: EventCode, part: &str, kind: &str, allowed: &str) -> Self {
        let message = format!("{part} is {kind}; {allowed}");
        Self {
            code,
            reason: message.clone(),
            message,
        }
    }

    /// A part of the message is missing.
    pub fn missing(code: EventCode, part: &str, allowed: &str) -> Self {
        Self::other(code, part, "missing", allowed)
    }
}

/// The kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A page or a screen was viewed.
    PageView,
    /// A conversion if its name is declared as one, and an action otherwise.
    Named,
    /// An action, whatever its name.
    Action,
    /// An identity call, or another message that is about no use of a feature.
    System,
}

/// When an event happened.
#[derive(Debug, Clone, Copy, Default)]
pub enum Time<'a> {
    /// When it was received.
    #[default]
    Receipt,
    /// A time as JSON, by the client's clock.
    At(&'a str),
    /// A time as JSON that needs no correction.
    Exactly(&'a str),
    /// So many µs before it was received.
    Before(i64),
}

/// An event of a client's message.
pub struct Draft<'a> {
    /// Its kind.
    pub kind: Kind,
    /// The feature.
    pub feature: Option<Cow<'a, str>>,
    /// The user.
    pub user_id: Option<Cow<'a, str>>,
    /// The client's id of the event.
    pub event_id: Option<Cow<'a, str>>,
    /// The page.
    pub url: Option<Cow<'a, str>>,
    /// When it happened.
    pub time: Time<'a>,
    /// The time of sending of the message itself, as JSON.
    pub sent_at: Option<&'a str>,
    /// The metadata.
    pub metadata: Fields<'a>,
    /// Another id of the user. That of an identity call is in its metadata instead.
    pub alias: Option<Cow<'a, str>>,
    /// The reason why the message is not an event: the other fields are what is understood of it.
    pub fault: Option<Fault>,
}

impl<'a> Draft<'a> {
    /// An event of this kind without anything else.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            feature: None,
            user_id: None,
            event_id: None,
            url: None,
            time: Time::Receipt,
            sent_at: None,
            metadata: Fields::default(),
            alias: None,
            fault: None,
        }
    }

    /// The event within all limits, with the other id of its user.
    pub fn finish(mut self, context: &Context<'_>, received: Received<'a>) -> Mapped<'a> {
        let mut fault = self.fault.take();
        let ts_us = self.ts_us(received).unwrap_or_else(|found| {
            fault.get_or_insert(found);
            received.at_us
        });
        if ts_us < received.at_us.saturating_sub(MAX_AGE_US) {
            return match fault {
                None => Outcome::TooOld.into(),
                Some(fault) => Outcome::Rejected(fault.code, fault.message).into(),
            };
        }
        let is_conversion = |name: &Option<Cow<'_, str>>| {
            let name = name.as_deref();
            name.is_some_and(|name| (context.is_conversion)(name))
        };
        let event_type = match self.kind {
            Kind::PageView => EventType::PageView,
            Kind::Named if is_conversion(&self.feature) => EventType::Conversion,
            Kind::Named | Kind::Action => EventType::Action,
            Kind::System => EventType::System,
        };
        let feature = self.cut(|draft| &mut draft.feature, MAX_FEATURE_CHARS);
        let url = self.cut(|draft| &mut draft.url, MAX_URL_CHARS);
        let is_short = |id: &Cow<'_, str>| has_at_most(id, MAX_USER_ID_CHARS);
        let user_id = self.user_id.take().filter(is_short);
        let event_id = self.event_id.take();
        let metadata = match fault {
            None => self.metadata(),
            Some(fault) => Err(fault),
        };
        let alias = self.alias.take();
        let mut event = Event {
            ts_us,
            event_type,
            user_id,
            feature,
            metadata: Cow::Borrowed("{}"),
            url,
            event_id: None,
            received_at_us: received.at_us,
        };
        match metadata {
            Ok(metadata) => {
                event.metadata = Cow::Owned(metadata);
                event.event_id = event_id.map(short_id);
                let user = event.user_id.as_deref();
                let alias = alias.filter(|alias| {
                    has_at_most(alias, MAX_USER_ID_CHARS) && user.is_some_and(|user| user != alias)
                });
                Mapped {
                    outcome: Outcome::Accepted(event, Vec::new()),
                    alias,
                    understood: None,
                }
            }
            Err(fault) => {
                let malformed = |id| Cow::Owned(format!("{MALFORMED_PREFIX}{id}"));
                event.event_id = event_id.map(|id| short_id(malformed(id)));
                Mapped {
                    outcome: Outcome::Rejected(fault.code, fault.message),
                    alias: None,
                    understood: Some((event, fault.reason)),
                }
            }
        }
    }

    /// The metadata as JSON.
    fn metadata(&self) -> Result<String, Fault> {
        let json = self.metadata.json();
        match metadata::canonical(&json, Escapes::of(&json)) {
            Ok(canonical) => Ok(canonical.json.into_owned()),
            Err(message) => Err(Fault {
                code: EventCode::BadMetadata,
                message,
                reason: "a metadata key occurs twice, or a number is out of range".to_owned(),
            }),
        }
    }

    /// The time of the event. One that is too far ahead becomes that of the receipt, with a mark.
    fn ts_us(&mut self, received: Received<'_>) -> Result<i64, Fault> {
        let (json, is_corrected) = match self.time {
            Time::Receipt => return Ok(received.at_us),
            Time::Before(us) => return Ok(received.at_us.saturating_sub(us.max(0))),
            Time::At(json) => (json, received.corrects_clock),
            Time::Exactly(json) => (json, false),
        };
        let ts_us = timestamp::parse(json).ok_or_else(|| {
            let allowed = "allowed is RFC 3339 or an epoch number";
            Fault::wrong(EventCode::BadTs, "the timestamp", json, allowed)
        })?;
        let sent_at = self.sent_at.or(received.sent_at);
        let sent_at_us = sent_at.filter(|_| is_corrected).and_then(timestamp::parse);
        let ts_us = ts_us.saturating_add(skew_us(sent_at_us, received));
        let limit_us = received.latest_us.saturating_add(MAX_AHEAD_US);
        if ts_us > limit_us {
            self.metadata.mark("clock");
            return Ok(received.at_us);
        }
        Ok(ts_us)
    }

    /// A string of at most so many characters; the metadata has a mark where it is cut.
    fn cut(
        &mut self,
        field: impl FnOnce(&mut Self) -> &mut Option<Cow<'a, str>>,
        max_chars: usize,
    ) -> Option<Cow<'a, str>> {
        let text = field(self).take()?;
        if has_at_most(&text, max_chars) {
            return Some(text);
        }
        self.metadata.mark_cut();
        let end = text.char_indices().nth(max_chars);
        let end = end.map_or(text.len(), |(end, _)| end);
        Some(match text {
            Cow::Borrowed(text) => Cow::Borrowed(text.get(..end).unwrap_or_default()),
            Cow::Owned(mut text) => {
                text.truncate(end);
                Cow::Owned(text)
            }
        })
    }
}

/// A message that is not an object, which is rejected.
pub fn not_an_object<'a>(json: &str, context: &Context<'_>, received: Received<'a>) -> Mapped<'a> {
    let found = match json.bytes().next() {
        Some(b'"') => "a string",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        Some(b'{') => "an object with an invalid key",
        _ => "a number",
    };
    let mut draft = Draft::new(Kind::Action);
    let fault = Fault::other(
        EventCode::BadEvent,
        "the event",
        found,
        "allowed is an object",
    );
    draft.fault = Some(fault);
    draft.finish(context, received)
}

/// Correction of a client's clock that is off by more than the limit, in µs. While two times of
/// the server are plausible, a client that agrees with one of them is not corrected.
fn skew_us(sent_at_us: Option<i64>, received: Received<'_>) -> i64 {
    let Some(sent_at_us) = sent_at_us else {
        return 0;
    };
    let skews = [received.at_us, received.latest_us].map(|us| us.saturating_sub(sent_at_us));
    let least = skews.into_iter().min_by_key(|us| us.saturating_abs());
    least
        .filter(|us| us.saturating_abs() > MAX_CLOCK_SKEW_US)
        .unwrap_or(0)
}

/// An id of an event. One that is too long becomes its digest, because a repetition has to be
/// recognized.
fn short_id(id: Cow<'_, str>) -> Cow<'_, str> {
    if has_at_most(&id, MAX_EVENT_ID_CHARS) {
        return id;
    }
    Cow::Owned(format!("{:032x}", xxh3_128(id.as_bytes())))
}

fn has_at_most(text: &str, chars: usize) -> bool {
    // Bytes are never fewer than characters, so few strings are counted.
    text.len() <= chars || text.chars().count() <= chars
}
