//! Events on their way into the store: their lines for the log, and what the tail keeps of them once they are admitted.

use std::borrow::Cow;

use super::erased::ErasedUsers;
use super::pseudonym::Pseudonyms;
use crate::digest::{Digest, Digester};
use crate::event::{self, Event, EventType, path};
use crate::names::{Names, Numbering};

/// Makes drafts; shared by all who add events to one store.
#[derive(Clone)]
pub struct DraftMaker {
    pub(super) names: Names,
    pub(super) keys: Digester,
    pub(super) gate: ErasedUsers,
    pub(super) pseudonyms: Option<Pseudonyms>,
}

/// Events that are to be stored together, in order.
#[derive(Default)]
pub struct Draft {
    /// Whole lines of the event log, empty when the events come from the log itself.
    pub(super) lines: Vec<u8>,
    pub(super) rows: Vec<DraftRow>,
    /// The strings of names that have no number.
    pub(super) unnamed: String,
    /// Digests of the keys of all metadata, event by event.
    pub(super) metadata_keys: Vec<Digest>,
    /// Events of erased users, which are not in it.
    pub erased: usize,
}

/// A name of an event that is not admitted yet.
#[derive(Debug, Clone, Copy)]
pub(super) enum Name {
    /// It has this number in [`Names`].
    Known(u32),
    /// It has none: a part of the draft's strings.
    New { start: usize, end: usize },
}

/// One event of a draft.
#[derive(Debug, Clone, Copy)]
pub(super) struct DraftRow {
    /// Where the event's line ends in the draft's lines.
    pub line_end: usize,
    pub ts_us: i64,
    pub received_at_us: i64,
    pub event_type: EventType,
    /// `None` is anonymous.
    pub user: Option<Name>,
    pub feature: Option<Name>,
    pub key: Option<Digest>,
    /// Where the keys of its metadata begin among those of the draft, and how many there are.
    pub metadata_keys: (usize, u8),
}

impl Name {
    /// Its string, if it has no number.
    pub fn string(self, unnamed: &str) -> &str {
        match self {
            Self::Known(_) => "",
            Self::New { start, end } => unnamed.get(start..end).unwrap_or_default(),
        }
    }
}

impl DraftMaker {
    /// Adds an event that is not in the log yet, unless its user was erased.
    pub fn push(&self, draft: &mut Draft, event: &Event<'_>) {
        let Some(event) = self.unless_erased(event) else {
            draft.erased += 1;
            return;
        };
        event::write_line(&event, &mut draft.lines);
        self.push_stored(draft, &event);
    }

    /// The event as it is stored; `None` if its user was erased.
    pub(super) fn unless_erased<'a, 'e>(&self, event: &'a Event<'e>) -> Option<Cow<'a, Event<'e>>> {
        let Some(user) = event.user_id.as_deref() else {
            return Some(Cow::Borrowed(event));
        };
        let is_erased = |user: &str| self.gate.is_erased(user, &self.names.users);
        if is_erased(user) {
            return None;
        }
        let Some(pseudonyms) = &self.pseudonyms else {
            return Some(Cow::Borrowed(event));
        };
        // One with a pseudonym may have been erased before there were such, or since.
        let pseudonym = pseudonyms.of(user);
        (!is_erased(&pseudonym)).then(|| {
            Cow::Owned(Event {
                user_id: Some(pseudonym.into()),
                ..event.clone()
            })
        })
    }

    /// Adds an event whose line is in the log.
    pub(super) fn push_stored(&self, draft: &mut Draft, event: &Event<'_>) {
        let user = event.user_id.as_deref();
        let feature = event.feature.as_deref();
        let row = DraftRow {
            line_end: draft.lines.len(),
            ts_us: event.ts_us,
            received_at_us: event.received_at_us,
            event_type: event.event_type,
            user: user.map(|id| name(&self.names.users, id, &mut draft.unnamed)),
            feature: feature.map(|feature| name(&self.names.features, feature, &mut draft.unnamed)),
            key: self.key(event),
            metadata_keys: self.metadata_keys(event, &mut draft.metadata_keys),
        };
        draft.rows.push(row);
    }

    /// Adds the keys of the event's metadata to `keys`, and says where they are.
    fn metadata_keys(&self, event: &Event<'_>, keys: &mut Vec<Digest>) -> (usize, u8) {
        let start = keys.len();
        keys.extend(path::entries(&event.metadata).map(|(key, _)| self.keys.digest(key)));
        (start, (keys.len() - start).try_into().unwrap_or(u8::MAX))
    }

    /// By what a re-send of the event is known, if it has an id.
    pub(super) fn key(&self, event: &Event<'_>) -> Option<Digest> {
        let id = event.event_id.as_deref()?;
        let user = event.user_id.as_deref();
        Some(self.key_of(id, event.event_type.name(), user))
    }

    /// The same of what is stored of an event: its id, type and user. Two events with one id are one event if they are of one
    /// type and user; no user is one user.
    pub(super) fn key_of(&self, id: &str, event_type: &str, user: Option<&str>) -> Digest {
        // An event that was stored before there were pseudonyms is re-sent with one.
        let pseudonym = self
            .pseudonyms
            .as_ref()
            .zip(user)
            .map(|(all, user)| all.of(user));
        let user = pseudonym.as_deref().or(user);
        self.keys.digest_all([Some(id), Some(event_type), user])
    }
}

/// The number of a name or, where it has none, its string added to `unnamed`.
fn name(names: &Numbering, string: &str, unnamed: &mut String) -> Name {
    match names.find(string) {
        Some(number) => Name::Known(number),
        None => {
            let start = unnamed.len();
            unnamed.push_str(string);
            let end = unnamed.len();
            Name::New { start, end }
        }
    }
}

impl Draft {
    /// The keys of the metadata of one of its events.
    pub(super) fn metadata_keys_of(&self, row: &DraftRow) -> &[Digest] {
        let (start, count) = row.metadata_keys;
        let keys = self.metadata_keys.get(start..start + usize::from(count));
        keys.unwrap_or_default()
    }

    /// No events, and room for lines of so many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Self {
            lines: Vec::with_capacity(bytes),
            ..Self::default()
        }
    }

    /// Bytes that the events take in the log.
    pub fn line_bytes(&self) -> usize {
        self.lines.len()
    }

    /// Number of events.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no event.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}
