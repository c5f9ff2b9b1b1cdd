//! Identity calls: `system` events of other clients that say that a user has a known id, and mostly
//! which other id the user had before.

use std::borrow::Cow;

use super::path;
use super::text;
use super::{Event, EventType, MAX_USER_ID_CHARS, is_junk_id};

/// The names of the calls, which are the features of their events.
const CALLS: [&str; 7] = [
    "identify",
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

/// The metadata of an event with other ids in the place of those that it names: `replace` returns
/// the id to store, or none if it must not be stored. None if the event names no other id.
pub fn with_other_ids(
    event: &Event<'_>,
    replace: impl Fn(&str) -> Option<String>,
) -> Option<String> {
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
        let start = object.len();
        object.push(if start == 0 { b'{' } else { b',' });
        object.extend_from_slice(key.as_bytes());
        object.push(b':');
        match path::string_of(value).filter(|_| is_id(key)) {
            None => object.extend_from_slice(value.as_bytes()),
            Some(id) => match replace(&id) {
                Some(id) => text::encode(&id, &mut object),
                None => object.truncate(start),
            },
        }
    }
    if object.is_empty() {
        object.push(b'{');
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
    fn ids_in_metadata_are_replaced_or_left_out() {
        let of = |feature, metadata, id: Option<&str>| {
            with_other_ids(&call(feature, metadata), |_| id.map(str::to_owned))
        };
        let two = r#"{"previous_id":"b","plan":"a"}"#;
        let replaced = r#"{"previous_id":"\"c","plan":"a"}"#;
        assert_eq!(of("identify", two, Some("\"c")).as_deref(), Some(replaced));
        let without = of("identify", two, None);
        assert_eq!(without.as_deref(), Some(r#"{"plan":"a"}"#));
        let one = of("$create_alias", r#"{"alias":"b"}"#, None);
        assert_eq!(one.as_deref(), Some("{}"));
        assert_eq!(of("identify", r#"{"plan":"a"}"#, None), None);
    }
}
