//! Reduces metadata that exceeds a limit: values that are too deep are removed, then the largest
//! ones, until the rest fits.
//!
//! Few events need it, so the object is parsed again, member by member.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{MAX_BYTES, MAX_DEPTH, MAX_KEYS, check_number, duplicate_key};
use crate::event::text::{self, Escapes};

/// The member that marks reduced metadata.
const MARK: (&str, &str) = ("cut", "true");

/// A member of the object, canonical.
struct Member {
    /// The key as JSON, with quotes.
    key: String,
    value: Value,
}

/// A value, canonical.
struct Value {
    json: String,
    /// Number of keys in it, at all depths together.
    keys: usize,
}

impl Member {
    /// Length in bytes with its colon and a comma.
    fn bytes(&self) -> usize {
        self.key.len() + self.value.json.len() + 2
    }

    /// Number of keys with its own.
    fn keys(&self) -> usize {
        self.value.keys + 1
    }
}

/// Rewrites a valid object that exceeds a limit as compact JSON within the limits, with the mark.
pub fn within_limits(json: &str) -> Result<String, String> {
    let mark = Member {
        key: format!("\"{}\"", MARK.0),
        value: Value {
            json: MARK.1.into(),
            keys: 0,
        },
    };
    let mut members = members(json, 1)?;
    members.retain(|member| member.key != mark.key);
    let mut keys = mark.keys() + members.iter().map(Member::keys).sum::<usize>();
    // The last member has no comma, and the brackets take two.
    let mut bytes = 1 + mark.bytes() + members.iter().map(Member::bytes).sum::<usize>();
    let mut by_size: Vec<usize> = (0..members.len()).collect();
    // Of equal members the last is removed first.
    by_size.sort_by_key(|&place| {
        let member = members.get(place);
        member.map(|member| (member.bytes(), place))
    });
    let mut by_keys = by_size.clone();
    by_keys.sort_by_key(|&place| members.get(place).map(Member::keys));
    let mut is_kept = vec![true; members.len()];
    while keys > MAX_KEYS || bytes > MAX_BYTES {
        let largest = if keys > MAX_KEYS {
            by_keys.pop()
        } else {
            by_size.pop()
        };
        let Some(place) = largest else {
            break;
        };
        let kept = is_kept.get_mut(place).map(std::mem::take);
        if let (Some(true), Some(member)) = (kept, members.get(place)) {
            keys -= member.keys();
            bytes -= member.bytes();
        }
    }
    let kept = members.into_iter().zip(is_kept);
    let kept = kept.filter_map(|(member, is_kept)| is_kept.then_some(member));
    Ok(object(kept.chain([mark])))
}

fn object(members: impl Iterator<Item = Member>) -> String {
    let mut json = String::from("{");
    for member in members {
        if json.len() > 1 {
            json.push(',');
        }
        json.push_str(&member.key);
        json.push(':');
        json.push_str(&member.value.json);
    }
    json.push('}');
    json
}

/// The members of an object at this depth, without those that are too deep.
fn members(json: &str, depth: usize) -> Result<Vec<Member>, String> {
    let read = |error: serde_json::Error| error.to_string();
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let raw = deserializer.deserialize_map(Members).map_err(read)?;
    let mut keys: Vec<&str> = raw.iter().map(|(key, _)| key.as_str()).collect();
    keys.sort_unstable();
    if let Some(key) = keys.windows(2).find_map(|pair| match pair {
        [a, b] if a == b => Some(*a),
        _ => None,
    }) {
        return Err(duplicate_key(key));
    }
    let mut members = Vec::with_capacity(raw.len());
    for (key, value) in &raw {
        if let Some(value) = rewrite(value, depth + 1)? {
            let key = encoded(key);
            members.push(Member { key, value });
        }
    }
    Ok(members)
}

/// Rewrites a value as canonical JSON. `None` if it is too deep.
fn rewrite(json: &str, depth: usize) -> Result<Option<Value>, String> {
    let plain = |json: String| Value { json, keys: 0 };
    Ok(match json.as_bytes().first() {
        Some(b'{' | b'[') if depth > MAX_DEPTH => None,
        Some(b'{') => {
            let members = members(json, depth)?;
            Some(Value {
                keys: members.iter().map(Member::keys).sum(),
                json: object(members.into_iter()),
            })
        }
        Some(b'[') => {
            let elements: Vec<&RawValue> =
                serde_json::from_str(json).map_err(|error| error.to_string())?;
            let mut array = plain("[".into());
            for element in elements {
                let Some(element) = rewrite(element.get(), depth + 1)? else {
                    continue;
                };
                if array.json.len() > 1 {
                    array.json.push(',');
                }
                array.json.push_str(&element.json);
                array.keys += element.keys;
            }
            array.json.push(']');
            Some(array)
        }
        Some(b'"') => {
            let string = text::decode(json, Escapes::of(json));
            let string = string.ok_or("metadata has an invalid string")?;
            Some(plain(encoded(&string)))
        }
        Some(b't' | b'f' | b'n') => Some(plain(json.into())),
        _ => {
            check_number(json)?;
            Some(plain(json.into()))
        }
    })
}

fn encoded(string: &str) -> String {
    let mut json = Vec::with_capacity(string.len() + 2);
    text::encode(string, &mut json);
    // The encoder writes UTF-8 only.
    String::from_utf8_lossy(&json).into_owned()
}

/// Deserialises an object as its decoded keys and the JSON of its values.
struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(String, &'de str)>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(key) = map.next_key::<&RawValue>()? {
            let key: Option<Cow<'_, str>> = text::decode(key.get(), Escapes::of(key.get()));
            let key = key.ok_or_else(|| A::Error::custom("metadata has an invalid key"))?;
            let value = map.next_value::<&RawValue>()?.get();
            members.push((key.into_owned(), value));
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::metadata::canonical;

    fn cut(json: &str) -> String {
        let found = canonical(json, Escapes::of(json)).expect("metadata");
        assert!(found.cut.is_some(), "{json:.60}");
        let again = canonical(&found.json, Escapes::Some).expect("metadata");
        assert_eq!((&again.json, again.cut), (&found.json, None));
        found.json.into_owned()
    }

    fn string(bytes: usize) -> String {
        "x".repeat(bytes)
    }

    #[test]
    fn the_largest_values_are_removed_first_and_no_more_than_necessary() {
        let (large, larger) = (string(9_000), string(12_000));
        for (json, expected) in [
            (
                format!(r#"{{"a": 1,"b":"{}"}}"#, string(20_000)),
                r#"{"a":1,"cut":true}"#.into(),
            ),
            (
                format!(r#"{{"a":"{larger}","b":"{large}","c":"é\u00e9"}}"#),
                format!(r#"{{"b":"{large}","c":"éé","cut":true}}"#),
            ),
            (
                format!(r#"{{"cut":"mine","a":[1,{{"b":"{}"}}]}}"#, string(17_000)),
                r#"{"cut":true}"#.into(),
            ),
            (
                format!(r#"{{"{}":1,"a":{{"b":null}}}}"#, string(17_000)),
                r#"{"a":{"b":null},"cut":true}"#.into(),
            ),
        ] {
            assert_eq!(cut(&json), expected);
        }
    }

    #[test]
    fn metadata_just_over_a_limit_keeps_what_fits_with_the_mark() {
        let mark = r#","cut":true"#.len();
        // {"a":1,"b":"…"} one byte over.
        let json = format!(r#"{{"a":1,"b":"{}"}}"#, string(MAX_BYTES - 13));
        assert_eq!(json.len(), MAX_BYTES + 1);
        assert_eq!(cut(&json), r#"{"a":1,"cut":true}"#);
        // The larger value is removed, and the smaller one fits exactly with the mark.
        let rest = MAX_BYTES - r#"{"a":""}"#.len() - mark;
        let json = format!(r#"{{"a":"{}","b":"{}"}}"#, string(rest), string(rest + 1));
        assert_eq!(cut(&json).len(), MAX_BYTES);
    }

    #[test]
    fn of_too_many_keys_values_with_most_keys_are_removed_first_then_the_largest() {
        let keys = |count: usize| {
            let pairs: Vec<_> = (0..count).map(|key| format!("\"k{key}\":0")).collect();
            pairs.join(",")
        };
        let json = format!(
            r#"{{"a":"{}","o":{{{}}},"z":1}}"#,
            string(500),
            keys(MAX_KEYS)
        );
        let expected = format!(r#"{{"a":"{}","z":1,"cut":true}}"#, string(500));
        assert_eq!(cut(&json), expected);
        let json = format!("{{\"long\":\"{}\",{}}}", string(50), keys(MAX_KEYS));
        let found = cut(&json);
        assert!(!found.contains("long"), "{found}");
        assert!(found.starts_with(r#"{"k0":0,"k1":0,"#), "{found}");
        assert!(found.ends_with(r#","cut":true}"#), "{found}");
        assert_eq!(found.matches(':').count(), MAX_KEYS);
    }

    #[test]
    fn values_that_are_too_deep_are_removed_and_their_neighbours_kept() {
        let json = r#"{"a":{"b":{"c":{"d":{"e":{"f":1},"g":2},"h":[[1],2]}}},"i":3}"#;
        let expected = r#"{"a":{"b":{"c":{"d":{"g":2},"h":[2]}}},"i":3,"cut":true}"#;
        assert_eq!(cut(json), expected);
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(cut(&deep), r#"{"a":[[[[]]]],"cut":true}"#);
    }

    #[test]
    fn invalid_metadata_over_a_limit_is_rejected() {
        for (invalid, says) in [
            (r#""a":1,"\u0061":2"#, "duplicate key \"a\""),
            (r#""a":{"b":1,"b":2}"#, "duplicate key \"b\""),
            (r#""a":-1e999"#, "-1e999"),
        ] {
            let json = format!(r#"{{"big":"{}",{invalid}}}"#, string(20_000));
            let message = canonical(&json, Escapes::Some).expect_err("invalid");
            assert!(message.contains(says), "{message}");
        }
    }
}
