//! Write batches: events on their way into the store, as lines for the log and as the columns that
//! the tail keeps of them.

use std::borrow::Cow;

use super::pseudonym::Pseudonyms;
use crate::dictionary::Dictionaries;
use crate::digest::{Digest, Digester};
use crate::event::identity::{self, Identity, identity_of};
use crate::event::visitor::is_visitor_id;
use crate::event::{self, Event, path};
use crate::store::erased::ErasedUsers;

/// Builds write batches; shared by everything that adds events to one store.
#[derive(Clone)]
pub struct BatchBuilder {
    pub(in crate::store) names: Dictionaries,
    pub(in crate::store) keys: Digester,
    pub(in crate::store) gate: ErasedUsers,
    pub(in crate::store) pseudonyms: Option<Pseudonyms>,
}

/// A write batch: events that are stored together, in order.
#[derive(Default)]
pub struct WriteBatch {
    /// Complete lines of the event log; empty if the events were read from the log.
    pub(in crate::store) lines: Vec<u8>,
    pub(in crate::store) rows: Vec<BatchRow>,
    /// The strings of users and features that have no code, one after the other.
    pub(in crate::store) unnamed: String,
    /// Digests of the metadata keys of all events, event by event.
    pub(in crate::store) metadata_keys: Vec<Digest>,
    /// Number of events that were left out because a user is erased: their own, or one whom an
    /// identity call names.
    pub erased: usize,
}

/// A user or feature of an event that is not admitted yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Name {
    /// Its code in [`Dictionaries`].
    Known(u32),
    /// It has no code; its string is this range of the `unnamed` strings of the batch.
    New { start: usize, end: usize },
}

/// An event of a write batch.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct BatchRow {
    /// End of the event's line in the lines of the batch.
    pub line_end: usize,
    pub ts_us: i64,
    pub received_at_us: i64,
    /// Code of the event type in [`Dictionaries`].
    pub event_type: u32,
    /// `None` for an anonymous event.
    pub user: Option<Name>,
    pub feature: Option<Name>,
    /// The digest by which a re-send is recognized, if the event has an id.
    pub key: Option<Digest>,
    /// The start of its metadata keys among those of the batch, and their number.
    pub metadata_keys: (usize, u8),
    /// Its statement about the ids of its user.
    pub identity: Identity<Name>,
}

impl Name {
    /// Its string in `unnamed`; empty if it has a code.
    pub fn string(self, unnamed: &str) -> &str {
        match self {
            Self::Known(_) => "",
            Self::New { start, end } => unnamed.get(start..end).unwrap_or_default(),
        }
    }
}

impl BatchBuilder {
    /// Adds a new event, unless its user is erased, or an erased id is in it.
    pub fn push(&self, batch: &mut WriteBatch, event: &Event<'_>) {
        let Some(event) = self.unless_erased(event) else {
            batch.erased += 1;
            return;
        };
        event::write_line(&event, &mut batch.lines);
        self.push_stored(batch, &event);
    }

    /// The event as it is stored, under the pseudonym of its user if there are pseudonyms; `None`
    /// if its user is erased. Other ids of the user, which an identity call names, are treated
    /// alike: a call that names an erased one says something about it alone.
    pub(in crate::store) fn unless_erased<'a, 'e>(
        &self,
        event: &'a Event<'e>,
    ) -> Option<Cow<'a, Event<'e>>> {
        let user = event.user_id.as_deref();
        let is_erased = |id: &str| self.is_erased(id, event.ts_us);
        let mut others = identity::other_ids(event);
        if user.is_some_and(is_erased) || others.any(|id| is_erased(&id)) {
            return None;
        }
        let Some(pseudonyms) = &self.pseudonyms else {
            return Some(Cow::Borrowed(event));
        };
        let metadata = identity::with_other_ids(event, |id| pseudonyms.of(id));
        if user.is_none() && metadata.is_none() {
            return Some(Cow::Borrowed(event));
        }
        let mut stored = Event {
            user_id: user.map(|user| pseudonyms.of(user).into()),
            ..event.clone()
        };
        if let Some(metadata) = metadata {
            stored.metadata = metadata.into();
        }
        Some(Cow::Owned(stored))
    }

    /// True if an event of this time stays away because an id is erased. It may have been erased by
    /// the clear id, before pseudonyms were switched on, or by the pseudonym, after that.
    pub(in crate::store) fn is_erased(&self, id: &str, ts_us: i64) -> bool {
        let is_erased = |id: &str| self.gate.is_erased(id, ts_us);
        let pseudonyms = self.pseudonyms.as_ref();
        self.gate.reaches(ts_us)
            && (is_erased(id) || pseudonyms.is_some_and(|all| is_erased(&all.of(id))))
    }

    /// The id under which the user of an event of this time is stored: the pseudonym if there are
    /// pseudonyms; `None` if the user is erased.
    pub(super) fn stored_id<'i>(&self, user: &'i str, ts_us: i64) -> Option<Cow<'i, str>> {
        let pseudonyms = self.pseudonyms.as_ref();
        let stored = || pseudonyms.map_or(Cow::Borrowed(user), |all| all.of(user).into());
        (!self.is_erased(user, ts_us)).then(stored)
    }

    /// Adds an event whose line is in the log already.
    pub(in crate::store) fn push_stored(&self, batch: &mut WriteBatch, event: &Event<'_>) {
        let user = event.user_id.as_deref();
        let feature = event.feature.as_deref();
        let row = BatchRow {
            line_end: batch.lines.len(),
            ts_us: event.ts_us,
            received_at_us: event.received_at_us,
            event_type: self.names.event_type(event.event_type),
            user: user.map(|id| name(self.names.users.find(id), id, &mut batch.unnamed)),
            feature: feature.map(|feature| {
                let code = self.names.features.find(feature);
                name(code, feature, &mut batch.unnamed)
            }),
            key: self.key(event),
            metadata_keys: self.metadata_keys(event, &mut batch.metadata_keys),
            identity: match identity_of(event) {
                Identity::Nothing => Identity::Nothing,
                Identity::Known => Identity::Known,
                Identity::Alias(id) => {
                    let code = self.names.users.find(&id);
                    Identity::Alias(name(code, &id, &mut batch.unnamed))
                }
            },
        };
        batch.rows.push(row);
    }

    /// Appends digests of the event's metadata keys to `keys`. Returns their start and number.
    fn metadata_keys(&self, event: &Event<'_>, keys: &mut Vec<Digest>) -> (usize, u8) {
        let start = keys.len();
        keys.extend(path::entries(&event.metadata).map(|(key, _)| self.keys.digest(key)));
        (start, (keys.len() - start).try_into().unwrap_or(u8::MAX))
    }

    /// The digest by which a re-send of the event is recognized; none if it has no id.
    pub(in crate::store) fn key(&self, event: &Event<'_>) -> Option<Digest> {
        let id = event.event_id.as_deref()?;
        let user = event.user_id.as_deref();
        Some(self.key_of(id, event.event_type.name(), user))
    }

    /// The digest by which a re-send of a stored event is recognized. Two events are the same if
    /// they have the same id, type and user; all anonymous events count as one user. So do those of
    /// daily visitors: a client that sends an event again may have another address by then.
    pub(in crate::store) fn key_of(
        &self,
        id: &str,
        event_type: &str,
        user: Option<&str>,
    ) -> Digest {
        let user = user.filter(|user| !is_visitor_id(user));
        // An event that was stored before pseudonyms were switched on is re-sent with one.
        let pseudonym = self
            .pseudonyms
            .as_ref()
            .zip(user)
            .map(|(all, user)| all.of(user));
        let user = pseudonym.as_deref().or(user);
        self.keys.digest_all([Some(id), Some(event_type), user])
    }
}

/// The code of a string or, if it has none, its place in `unnamed`, to which it is appended.
fn name(code: Option<u32>, string: &str, unnamed: &mut String) -> Name {
    match code {
        Some(code) => Name::Known(code),
        None => {
            let start = unnamed.len();
            unnamed.push_str(string);
            let end = unnamed.len();
            Name::New { start, end }
        }
    }
}

impl WriteBatch {
    /// Bytes of its lines.
    pub fn bytes(&self) -> usize {
        self.lines.len()
    }

    /// The digests of the metadata keys of one of its events.
    pub(in crate::store) fn metadata_keys_of(&self, row: &BatchRow) -> &[Digest] {
        let (start, count) = row.metadata_keys;
        let keys = self.metadata_keys.get(start..start + usize::from(count));
        keys.unwrap_or_default()
    }

    /// An empty batch, with capacity for lines of so many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Self {
            lines: Vec::with_capacity(bytes),
            ..Self::default()
        }
    }

    /// Bytes of the lines.
    pub fn line_bytes(&self) -> usize {
        self.lines.len()
    }

    /// Number of events.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// True if the batch has no events.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use chrono::Utc;

    use super::*;
    use crate::error::Result;
    use crate::event::EventType;
    use crate::store::erased::{ErasedHashes, ErasedIds};

    fn event(user: Option<&'static str>, feature: Option<&'static str>) -> Event<'static> {
        Event {
            ts_us: 1_761_040_800_000_000,
            event_type: EventType::Action,
            user_id: user.map(Cow::Borrowed),
            feature: feature.map(Cow::Borrowed),
            metadata: r#"{"a":1,"b":{"c":2}}"#.into(),
            url: None,
            event_id: Some("id".into()),
            received_at_us: 1_761_040_800_000_000,
        }
    }

    fn maker() -> Result<BatchBuilder> {
        let names = Dictionaries::new()?;
        Ok(BatchBuilder {
            gate: ErasedUsers::default(),
            keys: Digester::new(),
            names,
            pseudonyms: None,
        })
    }

    #[test]
    fn a_batch_has_a_line_and_a_row_for_each_event() -> Result<()> {
        let maker = maker()?;
        maker.names.users.number("known")?;
        let mut batch = WriteBatch::default();
        maker.push(&mut batch, &event(Some("known"), Some("new feature")));
        maker.push(&mut batch, &event(Some("new"), None));
        maker.push(&mut batch, &event(None, Some("other")));
        let lines = memchr::memchr_iter(b'\n', &batch.lines).map(|newline| newline + 1);
        assert!(lines.eq(batch.rows.iter().map(|row| row.line_end)));
        let names = batch.rows.iter().map(|row| {
            let string = |name: Name| name.string(&batch.unnamed);
            (row.user.map(string), row.feature.map(string))
        });
        assert_eq!(
            names.collect::<Vec<_>>(),
            [
                (Some(""), Some("new feature")),
                (Some("new"), None),
                (None, Some("other"))
            ]
        );
        assert_eq!(batch.rows[0].user, Some(Name::Known(0)));
        assert_eq!(maker.names.users.len(), 1, "a batch assigns no codes");
        let keys = ["\"a\"", "\"b\""].map(|key| maker.keys.digest(key));
        for row in &batch.rows {
            assert_eq!(batch.metadata_keys_of(row), keys);
        }
        Ok(())
    }

    #[test]
    fn an_identity_call_that_names_an_erased_id_is_left_out() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("key");
        std::fs::write(&file, "0123456789abcdef").expect("written");
        let pseudonyms = Pseudonyms::load(&file, &dir.path().join("data"))?;
        for pseudonyms in [None, Some(pseudonyms)] {
            let gone = match &pseudonyms {
                Some(pseudonyms) => pseudonyms.of("gone"),
                None => "gone".to_owned(),
            };
            let maker = BatchBuilder {
                pseudonyms,
                ..maker()?
            };
            let erased = ErasedIds::of("a key", &[gone], Utc::now());
            let lists = vec![ErasedHashes::new(&erased.key, &erased.hashes)];
            let users = &maker.names.users;
            maker.gate.set(lists, &BTreeSet::new(), users)?;
            for user in [Some("a"), None] {
                let mut batch = WriteBatch::default();
                for id in ["gone", "b"] {
                    let call = Event {
                        event_type: EventType::System,
                        metadata: format!(r#"{{"previous_id":"{id}"}}"#).into(),
                        ..event(user, Some("identify"))
                    };
                    maker.push(&mut batch, &call);
                }
                assert_eq!((batch.erased, batch.len()), (1, 1), "{user:?}");
                let line = String::from_utf8_lossy(&batch.lines);
                let is_clear = line.contains(r#""previous_id":"b""#);
                assert_eq!(is_clear, maker.pseudonyms.is_none(), "{line}");
            }
        }
        Ok(())
    }

    #[test]
    fn a_re_send_has_the_id_the_type_and_the_user_of_the_event() -> Result<()> {
        let maker = maker()?;
        let key = maker.key_of("id", "action", Some("u"));
        assert_eq!(maker.key(&event(Some("u"), Some("any"))), Some(key));
        let visitors = ["~AZaz09-_AZaz09-_", "~0000000000000000"];
        for visitor in visitors {
            assert_eq!(
                maker.key(&event(Some(visitor), None)),
                maker.key(&event(None, None))
            );
        }
        for other in [
            maker.key_of("id2", "action", Some("u")),
            maker.key_of("id", "page_view", Some("u")),
            maker.key_of("id", "action", Some("v")),
            maker.key_of("id", "action", None),
        ] {
            assert_ne!(other, key);
        }
        let without_id = Event {
            event_id: None,
            ..event(Some("u"), None)
        };
        assert_eq!(maker.key(&without_id), None);
        Ok(())
    }
}
