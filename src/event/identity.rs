//! Identity calls: `system` events of other clients that say that a user has a known id, and mostly
//! which other id the user had before.

use std::borrow::Cow;

use super::path;
use super::text;
use super::{Event, EventType, MAX_USER_ID_CHARS, is_junk_id};

/// The name of the call that says of two ids that they are of one user.
const IDENTIFY: &str = "identify";
/// The names of the calls, which are the features of their events.
const CALLS: [&str; 7] = [
    IDENTIFY,
    "alias",
    "group",
    "$identify",
    "$create_alias",
    "$merge_dangerously",
    "$merge",
];
/// Those whose property `alias` is the other id.
const ALIAS_CALLS: [&str; 2] = ["$create_alias", "$merge_dangerously"];
/// Keys of the metadata, as JSON.
const PREVIOUS_ID: &str = "\"previous_id\"";
const ALIAS: &str = "\"alias\"";
const ANONYMOUS: &str = "\"anonymous\"";

/// The statement of an event about ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity<T> {
    /// Nothing.
    Nothing,
    /// The id of its user is known to belong to a person.
    Known,
    /// The same, and that this other id is of the same person.
    Alias(T),
}

/// The statement of an event about ids. An id that is none, or that of the user, is not an alias.
pub fn identity_of<'a>(event: &'a Event<'_>) -> Identity<Cow<'a, str>> {
    let (Some(user), Some(call)) = (event.user_id.as_deref(), event.feature.as_deref()) else {
        return Identity::Nothing;
    };
    if event.event_type != EventType::System || !CALLS.contains(&call) {
        return Identity::Nothing;
    }
    let mut is_anonymous = false;
    let mut found = None;
    for (key, value) in path::entries(&event.metadata) {
        if key == ANONYMOUS {
            is_anonymous = value == "true";
        } else if is_alias_key(key, call) {
            found = id_of(value).or(found);
        }
    }
    match found.filter(|alias| alias != user) {
        Some(alias) => Identity::Alias(alias),
        None if is_anonymous => Identity::Nothing,
        None => Identity::Known,
    }
}

/// The ids that a `system` event with this feature names in its metadata, whether or not they can
/// be aliases; none if it is not an identity call.
pub fn named_ids<'m>(call: &str, metadata: &'m str) -> impl Iterator<Item = Cow<'m, str>> {
    let metadata = if CALLS.contains(&call) { metadata } else { "" };
    path::entries(metadata)
        .filter(move |(key, _)| is_alias_key(key, call))
        .filter_map(|(_, value)| path::string_of(value))
}

/// The ids that an event names as those of its user, apart from the id that it was sent with.
pub fn other_ids<'a>(event: &'a Event<'_>) -> impl Iterator<Item = Cow<'a, str>> {
    let is_system = event.event_type == EventType::System;
    let call = event.feature.as_deref().filter(|_| is_system);
    named_ids(call.unwrap_or_default(), &event.metadata)
}

/// The identity call that says that another id is of the user of an event, with the time and the id
/// of the event.
pub fn call_after<'e>(event: Event<'e>, alias: &str) -> Event<'e> {
    let mut metadata = Vec::from(b"{");
    metadata.extend_from_slice(PREVIOUS_ID.as_bytes());
    metadata.push(b':');
    text::encode(alias, &mut metadata);
    metadata.extend_from_slice(b",\"by\":");
    text::encode(event.event_type.name(), &mut metadata);
    metadata.push(b'}');
    Event {
        event_type: EventType::System,
        feature: Some(Cow::Borrowed(IDENTIFY)),
        // It consists of strings.
        metadata: String::from_utf8(metadata).unwrap_or_default().into(),
        url: None,
        ..event
    }
}

/// The metadata of an event with other ids in the place of those that it names. None if it names
/// no other id.
pub fn with_other_ids(event: &Event<'_>, replace: impl Fn(&str) -> String) -> Option<String> {
    let call = event.feature.as_deref().unwrap_or_default();
    if event.event_type != EventType::System || !CALLS.contains(&call) {
        return None;
    }
    let is_id = |key: &str| is_alias_key(key, call);
    if !path::entries(&event.metadata).any(|(key, _)| is_id(key)) {
        return None;
    }
    let mut object = Vec::with_capacity(event.metadata.len());
    for (key, value) in path::entries(&event.metadata) {
        object.push(if object.is_empty() { b'{' } else { b',' });
        object.extend_from_slice(key.as_bytes());
        object.push(b':');
        match path::string_of(value).filter(|_| is_id(key)) {
            None => object.extend_from_slice(value.as_bytes()),
            Some(id) => text::encode(&replace(&id), &mut object),
        }
    }
    object.push(b'}');
    // It consists of pieces of a string.
    String::from_utf8(object).ok()
}

fn is_alias_key(key: &str, call: &str) -> bool {
    key == PREVIOUS_ID || (key == ALIAS && ALIAS_CALLS.contains(&call))
}

/// The id that a JSON value is; none if it cannot be one.
fn id_of(value: &str) -> Option<Cow<'_, str>> {
    let is_id = value.starts_with(['"', '-']) || value.starts_with(|c: char| c.is_ascii_digit());
    let id = path::string_of(value).filter(|_| is_id)?;
    let is_usable = !is_junk_id(&id) && id.chars().nth(MAX_USER_ID_CHARS).is_none();
    is_usable.then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(feature: &'static str, metadata: &'static str) -> Event<'static> {
        Event {
            ts_us: 0,
            event_type: EventType::System,
            user_id: Some("u".into()),
            feature: Some(feature.into()),
            metadata: metadata.into(),
            url: None,
            event_id: None,
            received_at_us: 0,
        }
    }

    #[test]
    fn identity_calls_name_a_known_user_and_mostly_another_id() {
        let alias = |id: &'static str| Identity::Alias(Cow::Borrowed(id));
        for (feature, metadata, expected) in [
            ("identify", r#"{"plan":"a","previous_id":"b"}"#, alias("b")),
            ("$create_alias", r#"{"alias":"b"}"#, alias("b")),
            ("$identify", r#"{"previous_id":12}"#, alias("12")),
            ("identify", r#"{"alias":"b"}"#, Identity::Known),
            ("identify", r#"{"previous_id":"u"}"#, Identity::Known),
            ("identify", r#"{"previous_id":"null"}"#, Identity::Known),
            ("identify", r#"{"previous_id":["b"]}"#, Identity::Known),
            ("identify", r#"{"anonymous":true}"#, Identity::Nothing),
            ("$pageleave", r#"{"previous_id":"b"}"#, Identity::Nothing),
            ("$identify", "{}", Identity::Known),
        ] {
            let found = call(feature, metadata);
            assert_eq!(identity_of(&found), expected, "{feature} {metadata}");
        }
        let action = Event {
            event_type: EventType::Action,
            ..call("identify", r#"{"previous_id":"b"}"#)
        };
        assert_eq!(identity_of(&action), Identity::Nothing);
    }

    #[test]
    fn ids_in_metadata_are_replaced() {
        let of = |metadata| with_other_ids(&call("identify", metadata), |id| format!("\"{id}"));
        let replaced = of(r#"{"previous_id":"b","plan":"a"}"#);
        let expected = r#"{"previous_id":"\"b","plan":"a"}"#;
        assert_eq!(replaced.as_deref(), Some(expected));
        assert_eq!(of(r#"{"plan":"a"}"#), None);
    }

    #[test]
    fn an_identity_call_also_names_ids_that_cannot_be_aliases() {
        for (feature, metadata, expected) in [
            ("identify", r#"{"previous_id":"b","plan":"a"}"#, &["b"][..]),
            (
                "$create_alias",
                r#"{"alias":"b","previous_id":"u"}"#,
                &["b", "u"],
            ),
            ("$identify", r#"{"previous_id":12}"#, &["12"]),
            ("group", r#"{"previous_id":"null"}"#, &["null"]),
            ("identify", r#"{"previous_id":null}"#, &[]),
            ("identify", r#"{"alias":"b"}"#, &[]),
            ("$pageleave", r#"{"previous_id":"b"}"#, &[]),
        ] {
            let mut event = call(feature, metadata);
            let found: Vec<_> = other_ids(&event).collect();
            assert_eq!(found, expected, "{feature} {metadata}");
            event.event_type = EventType::Action;
            assert_eq!(other_ids(&event).count(), 0);
        }
    }

    #[test]
    fn the_call_after_an_event_has_its_user_time_and_id_and_says_another_id() {
        let event = Event {
            ts_us: 1,
            event_type: EventType::PageView,
            url: Some("https://a.example/".into()),
            event_id: Some("m".into()),
            received_at_us: 2,
            ..call("prices", r#"{"plan":"a"}"#)
        };
        let found = call_after(event, "say \"b\"");
        let expected = Event {
            ts_us: 1,
            event_id: Some("m".into()),
            received_at_us: 2,
            ..call(
                "identify",
                r#"{"previous_id":"say \"b\"","by":"page_view"}"#,
            )
        };
        assert_eq!(found, expected);
        let alias = Identity::Alias(Cow::Borrowed("say \"b\""));
        assert_eq!(identity_of(&found), alias);
    }
}
