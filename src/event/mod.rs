//! One event: parsing and validation of what clients send, and its line in the event log.
//!
//! Everything here is pure: bytes in, valid events or rejections out, no file and no clock. An
//! event borrows from its source wherever a string is stored as it was sent.

mod body;
pub mod code;
pub mod counter;
pub mod foreign;
pub mod identity;
mod line;
pub mod metadata;
pub mod number;
pub mod path;
mod raw_event;
pub mod split;
pub mod text;
pub mod timestamp;
pub mod visitor;

use std::borrow::Cow;

use serde::Serialize;
use utoipa::ToSchema;

pub use body::{Batch, read_batch};
pub use code::EventCode;
pub use line::{LINE_START, LineError, event_type_of, lines, read_line, write_line};
pub(crate) use raw_event::number_string;
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
/// Longest `event_id`, in characters. All common id schemes fit; a UUID has 36.
pub const MAX_EVENT_ID_CHARS: usize = 128;
/// Limit of timestamps ahead of the server, in µs: clients in any time zone may omit the offset.
pub const MAX_AHEAD_US: i64 = 24 * HOUR_US;
/// Maximum age of an event, in µs: no window reaches back further.
pub const MAX_AGE_US: i64 = 365 * DAY_US;
/// A client clock that is off by more than this, in µs, is corrected by `sent_at`; less may be
/// network delay.
pub const MAX_CLOCK_SKEW_US: i64 = 60 * 1_000_000;

/// Characters of a parser's message that are sent back: it may quote all of the client's JSON.
const MESSAGE_CHARS: usize = 200;

/// The name of [`EventType::System`].
pub const SYSTEM_NAME: &str = "system";

/// The type of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType<'a> {
    /// A page was viewed.
    PageView,
    /// A user did something: a click, a submitted form.
    Action,
    /// A goal was reached.
    Conversion,
    /// An identity call or the like of another client. Queries see it only where a filter names
    /// it, and no count has it.
    System,
    /// A type that a tracking plan declares, by its name.
    Declared(&'a str),
}

impl EventType<'static> {
    /// The types that need no declaration, in funnel order.
    pub const ALL: [Self; 3] = [Self::PageView, Self::Action, Self::Conversion];
}

impl<'a> EventType<'a> {
    /// The name in requests, logs and responses.
    pub fn name(self) -> &'a str {
        match self {
            Self::PageView => "page_view",
            Self::Action => "action",
            Self::Conversion => "conversion",
            Self::System => SYSTEM_NAME,
            Self::Declared(name) => name,
        }
    }

    /// True if its feature is one of the product: that of a page view is a path, and that of a
    /// `system` event the name of a call.
    pub fn uses_features(self) -> bool {
        !matches!(self, Self::PageView | Self::System)
    }

    /// The type with this name, if it needs no declaration.
    pub fn undeclared(name: &str) -> Option<Self> {
        EventType::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The type of a stored event. `None` if no declared type can have this name.
    pub fn stored(name: &'a str) -> Option<Self> {
        Self::undeclared(name).or_else(|| {
            let is_valid = DeclaredTypes::check_name(name).is_ok();
            is_valid.then(|| Self::declared(name))
        })
    }

    /// The type with the name of one that needs a declaration.
    fn declared(name: &'a str) -> Self {
        match name {
            SYSTEM_NAME => Self::System,
            name => Self::Declared(name),
        }
    }
}

/// The event types that a tracking plan declares in addition to [`EventType::ALL`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeclaredTypes(Vec<String>);

impl DeclaredTypes {
    /// No declared types.
    pub const NONE: &'static Self = &Self(Vec::new());

    /// The types with these names; names that need no declaration are left out.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        let names = names.into_iter();
        let mut names: Vec<String> = names
            .filter(|name| EventType::undeclared(name).is_none())
            .collect();
        names.sort_unstable();
        names.dedup();
        Self(names)
    }

    /// True if no type is declared.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True if this type is declared.
    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// The declared type with this name.
    fn find(&self, name: &str) -> Option<EventType<'_>> {
        let place = self.0.binary_search_by(|known| known.as_str().cmp(name));
        let name = self.0.get(place.ok()?)?;
        Some(EventType::declared(name))
    }

    /// Checks the name of an event type. In the event log it is written without escapes.
    ///
    /// # Errors
    /// A sentence about what is wrong with it.
    pub fn check_name(name: &str) -> Result<(), String> {
        // Bytes are never fewer than characters, so few names are counted.
        if name.is_empty()
            || name.len() > MAX_EVENT_TYPE_CHARS && name.chars().count() > MAX_EVENT_TYPE_CHARS
        {
            let chars = name.chars().count();
            return Err(format!(
                "has {chars} characters; allowed are 1 to {MAX_EVENT_TYPE_CHARS}"
            ));
        }
        match name
            .chars()
            .find(|&one| one.is_control() || "\"\\".contains(one))
        {
            Some(found) => Err(format!(
                "contains {found:?}; quotes, backslashes and control characters are not allowed"
            )),
            None => Ok(()),
        }
    }
}

/// A valid event, as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Event<'a> {
    /// When it happened, in µs since 1970 UTC; the time of receipt if the client sent none.
    pub ts_us: i64,
    /// Its type.
    pub event_type: EventType<'a>,
    /// Opaque id of the user; `None` if anonymous.
    pub user_id: Option<Cow<'a, str>>,
    /// The feature that was used.
    pub feature: Option<Cow<'a, str>>,
    /// A canonical JSON object ([`metadata::canonical`]).
    pub metadata: Cow<'a, str>,
    /// The page.
    pub url: Option<Cow<'a, str>>,
    /// The client's id of the event, by which a repetition is recognised.
    pub event_id: Option<Cow<'a, str>>,
    /// When the server received it, in µs since 1970 UTC.
    pub received_at_us: i64,
}

/// A change that was made to an event before it was stored: code and message.
pub type Note = (EventCode, String);

/// The reason why one event of a batch was rejected, or a change of one that was stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Rejection {
    /// Index in the batch, from 0.
    pub index: usize,
    /// Stable code for programs.
    pub code: EventCode,
    /// The field, its value and what is allowed.
    pub message: String,
}

/// The outcome of validating one event.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome<'a> {
    /// Valid: stored, with the changes that were made to it.
    Accepted(Event<'a>, Vec<Note>),
    /// Older than any window: ignored and counted.
    TooOld,
    /// Rejected, with a code and a message.
    Rejected(EventCode, String),
}

/// True for the placeholders that broken clients send as an id: those users are anonymous.
pub(crate) fn is_junk_id(id: &str) -> bool {
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
