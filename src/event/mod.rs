//! One event: what a client may send, what it becomes, and its line in the event log.
//!
//! Everything here is pure: bytes in, checked events or refusals out, no file and no clock. An event borrows
//! from the text it was parsed from wherever that text is already clean.

mod body;
pub mod foreign;
mod line;
pub mod metadata;
pub mod number;
pub mod path;
mod raw_event;
pub mod split;
pub mod text;
pub mod timestamp;

use std::borrow::Cow;

use serde::Serialize;

pub use body::{Batch, read_batch};
pub use line::{LINE_START, LineError, lines, read_line, write_line};
pub use raw_event::{RawEvent, read_event};

use crate::window::{DAY_US, HOUR_US};

/// Most events of one request.
pub const MAX_BATCH_EVENTS: usize = 100;
/// Longest `event_type`, in characters.
pub const MAX_EVENT_TYPE_CHARS: usize = 200;
/// Longest `feature`, in characters.
pub const MAX_FEATURE_CHARS: usize = 200;
/// Longest `user_id`, in characters.
pub const MAX_USER_ID_CHARS: usize = 256;
/// Longest `url`, in characters.
pub const MAX_URL_CHARS: usize = 2_048;
/// Longest `event_id`, in characters: room for every id scheme of the field, and 36 for a UUID.
pub const MAX_EVENT_ID_CHARS: usize = 128;
/// How far ahead of the server an event may lie, in µs: a client in any time zone that forgot its offset.
pub const MAX_AHEAD_US: i64 = 24 * HOUR_US;
/// How old an event may be, in µs: older lies in no window.
pub const MAX_AGE_US: i64 = 365 * DAY_US;
/// A client clock further off than this is corrected by `sent_at`; less is the network's delay.
pub const MAX_CLOCK_SKEW_US: i64 = 60 * 1_000_000;

/// What kind of act an event records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// A page was seen.
    PageView,
    /// A user did something: a click, a submitted form.
    Action,
    /// A goal was reached.
    Conversion,
}

impl EventType {
    /// All of them, in funnel order.
    pub const ALL: [Self; 3] = [Self::PageView, Self::Action, Self::Conversion];

    /// The name in requests, logs and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::PageView => "page_view",
            Self::Action => "action",
            Self::Conversion => "conversion",
        }
    }

    /// The type of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// One accepted event, as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Event<'a> {
    /// When it happened, in µs since 1970 UTC; the time of receipt where the client gave none.
    pub ts_us: i64,
    /// What kind of act.
    pub event_type: EventType,
    /// Opaque id of the user; `None` is anonymous.
    pub user_id: Option<Cow<'a, str>>,
    /// What was used.
    pub feature: Option<Cow<'a, str>>,
    /// Compact JSON object.
    pub metadata: Cow<'a, str>,
    /// Where.
    pub url: Option<Cow<'a, str>>,
    /// The client's id of this event, by which a re-send is known.
    pub event_id: Option<Cow<'a, str>>,
    /// When the server received it, in µs since 1970 UTC.
    pub received_at_us: i64,
}

/// What was changed of an event that is stored: code and message.
pub type Note = (&'static str, String);

/// Why one event of a batch is not stored, or what was changed of one that is. Its neighbours are stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Place in the batch, from 0.
    pub index: usize,
    /// Stable code for programs.
    pub code: &'static str,
    /// What is wrong, the value, the limit.
    pub message: String,
}

/// What became of one well-formed event.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict<'a> {
    /// To be stored, with what was changed of it.
    Accepted(Event<'a>, Vec<Note>),
    /// Older than any window: ignored and counted.
    TooOld,
    /// Wrong, with a code and a message.
    Refused(&'static str, String),
}

/// Whether an id is one of the placeholders that broken clients send: those users are anonymous.
fn is_junk_id(id: &str) -> bool {
    const JUNK: [&str; 11] = [
        "null",
        "undefined",
        "anonymous",
        "[object object]",
        "0",
        "true",
        "false",
        "none",
        "nil",
        "nan",
        "00000000-0000-0000-0000-000000000000",
    ];
    let id = id.trim_ascii();
    id.is_empty() || JUNK.iter().any(|junk| id.eq_ignore_ascii_case(junk))
}
