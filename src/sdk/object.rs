//! A JSON object of which each value stays JSON, borrowed from the body.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::event::text::{self, Escapes};
use crate::event::{is_junk_id, number_string};

/// Members of an object that are read. Clients have fewer; of a hostile body the rest costs no
/// memory.
const MAX_MEMBERS: usize = 1_000;

/// The members of an object in their order. Of those with one name the last counts, as in
/// JavaScript.
#[derive(Debug, Default)]
pub struct Object<'a>(Vec<(Cow<'a, str>, &'a str)>);

impl<'a> Object<'a> {
    /// Parses an object; `None` if it is none.
    pub fn read(json: &'a str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }

    /// The JSON of a member; null counts as missing.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        let found = self.0.iter().rev().find(|(key, _)| key == name);
        found.map(|(_, json)| *json).filter(|json| *json != "null")
    }

    /// A member that is an object; an empty one otherwise.
    pub fn object(&self, name: &str) -> Self {
        self.get(name).and_then(Self::read).unwrap_or_default()
    }

    /// A string that is not empty.
    pub fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        text_of(self.get(name)?)
    }

    /// A name: a string that is not empty, or a number as a string.
    pub fn name(&self, name: &str) -> Option<Cow<'a, str>> {
        name_of(self.get(name)?)
    }

    /// An id of a user, unless it is a placeholder.
    pub fn id(&self, name: &str) -> Option<Cow<'a, str>> {
        id_of(self.get(name)?)
    }

    /// True if the member is true.
    pub fn is_true(&self, name: &str) -> bool {
        self.get(name) == Some("true")
    }

    /// True if the member is false.
    pub fn is_false(&self, name: &str) -> bool {
        self.get(name) == Some("false")
    }

    /// The object with one more member.
    pub fn with(mut self, name: &'a str, json: &'a str) -> Self {
        self.0.push((Cow::Borrowed(name), json));
        self
    }

    /// The object without the members of some names.
    pub fn without(&self, is_left_out: impl Fn(&str) -> bool) -> Self {
        let members = self.0.iter().filter(|(name, _)| !is_left_out(name));
        Self(members.cloned().collect())
    }

    /// True without members.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The members that are not null.
    pub fn members(&self) -> impl Iterator<Item = (&Cow<'a, str>, &'a str)> {
        let members = self.0.iter().map(|(key, json)| (key, *json));
        members.filter(|(_, json)| *json != "null")
    }
}

/// The string of some JSON, unless it is empty.
pub fn text_of(json: &str) -> Option<Cow<'_, str>> {
    text::decode(json, Escapes::of(json)).filter(|text| !text.is_empty())
}

/// A name: a string that is not empty, or a number as a string.
pub fn name_of(json: &str) -> Option<Cow<'_, str>> {
    if json.starts_with('"') {
        text_of(json)
    } else {
        number_string(json)
    }
}

/// An id of a user without blanks around it, unless it is a placeholder.
pub fn id_of(json: &str) -> Option<Cow<'_, str>> {
    let id = match name_of(json)? {
        Cow::Borrowed(id) => Cow::Borrowed(id.trim()),
        Cow::Owned(id) => Cow::Owned(id.trim().to_owned()),
    };
    (!is_junk_id(&id)).then_some(id)
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members)
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Object<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
        let mut members = Vec::new();
        while members.len() < MAX_MEMBERS {
            let Some(Name(key)) = map.next_key()? else {
                return Ok(Object(members));
            };
            members.push((key, map.next_value::<&RawValue>()?.get()));
        }
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Object(members))
    }
}

/// A key, borrowed where it has no escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Key;
        impl<'de> Visitor<'de> for Key {
            type Value = Name<'de>;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(key)))
            }
            fn visit_str<E>(self, key: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(key.to_owned())))
            }
        }
        deserializer.deserialize_str(Key)
    }
}

/// The elements of an array as JSON: all are counted, and some are kept.
#[derive(Debug, Default)]
pub struct Elements<'a> {
    /// The first ones.
    pub kept: Vec<&'a str>,
    /// The number of all.
    pub count: usize,
}

impl<'a> Elements<'a> {
    /// Parses an array and keeps `most` elements; `None` if it is none.
    pub fn read(json: &'a str, most: usize) -> Option<Self> {
        let mut deserializer = serde_json::Deserializer::from_str(json);
        let elements = deserializer.deserialize_seq(Kept(most)).ok()?;
        deserializer.end().ok()?;
        Some(elements)
    }
}

struct Kept(usize);

impl<'de> Visitor<'de> for Kept {
    type Value = Elements<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Elements<'de>, A::Error> {
        let mut elements = Elements::default();
        while elements.count < self.0 {
            let Some(element) = array.next_element::<&RawValue>()? else {
                return Ok(elements);
            };
            elements.kept.push(element.get());
            elements.count += 1;
        }
        while array.next_element::<IgnoredAny>()?.is_some() {
            elements.count += 1;
        }
        Ok(elements)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_members_with_one_name_the_last_counts_and_null_is_missing() {
        let json = r#"{"a":1,"\u0062":"x","a":null,"c":[1, 2],"a":2}"#;
        let object = Object::read(json).expect("an object");
        assert_eq!(object.get("a"), Some("2"));
        assert_eq!(object.text("b").as_deref(), Some("x"));
        assert_eq!(object.get("c"), Some("[1, 2]"));
        assert_eq!(object.members().count(), 4);
        assert!(Object::read("[1]").is_none());
        assert!(Object::read(r#"{"a":1} {}"#).is_none());
    }

    #[test]
    fn ids_are_strings_or_numbers_and_placeholders_are_none() {
        for (json, id) in [
            (r#""u-1""#, Some("u-1")),
            (r#"" u-1 ""#, Some("u-1")),
            ("17", Some("17")),
            ("17.0", Some("17")),
            (r#""undefined""#, None),
            (r#""""#, None),
            ("0", None),
            ("true", None),
            (r#"{"id":1}"#, None),
        ] {
            assert_eq!(id_of(json).as_deref(), id, "{json}");
        }
    }

    #[test]
    fn members_and_elements_beyond_a_limit_are_counted_and_not_kept() {
        let members: Vec<String> = (0..5_000).map(|n| format!("\"k{n}\":{n}")).collect();
        let json = format!("{{{}}}", members.join(","));
        let object = Object::read(&json).expect("an object");
        assert_eq!(object.members().count(), MAX_MEMBERS);
        let elements = Elements::read("[1, [2], {\"a\":3}, 4]", 3).expect("an array");
        assert_eq!((elements.kept.len(), elements.count), (3, 4));
        assert_eq!(elements.kept, ["1", "[2]", "{\"a\":3}"]);
        assert!(Elements::read("{}", 3).is_none());
        assert!(Elements::read("[1] 2", 3).is_none());
        // Values are not recursed into.
        let deep = format!("[{}{}]", "[".repeat(5_000), "]".repeat(5_000));
        assert_eq!(Elements::read(&deep, 3).map(|deep| deep.count), Some(1));
    }
}
