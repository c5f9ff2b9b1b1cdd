//! Metadata that is over a limit: what is too deep goes, then the largest values, until the rest fits.
//!
//! The slow way, for few events; the object is read again with a part for each member.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{MAX_BYTES, MAX_DEPTH, MAX_KEYS, check_number, twice};
use crate::event::text::{self, Escapes};

/// Says that something was left out.
const MARK: (&str, &str) = ("cut", "true");

/// A member of the object, canonical.
struct Member {
    /// Its key as JSON, with quotes.
    key: String,
    value: Value,
}

/// A value, canonical.
struct Value {
    json: String,
    /// Keys in it, at all depths together.
    keys: usize,
}

impl Member {
    /// Bytes with its colon and a comma.
    fn bytes(&self) -> usize {
        self.key.len() + self.value.json.len() + 2
    }

    /// Keys with its own.
    fn keys(&self) -> usize {
        self.value.keys + 1
    }
}

/// Rewrites a well-formed object that is over a limit as compact JSON that is not, with the mark that it was cut.
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
    // Of equal ones the later goes first.
    by_size.sort_by_key(|&place| {
        let member = members.get(place);
        member.map(|member| (member.bytes(), place))
    });
    let mut by_keys = by_size.clone();
    by_keys.sort_by_key(|&place| members.get(place).map(Member::keys));
    let mut is_kept = vec![true; members.len()];
    while keys > MAX_KEYS || bytes > MAX_BYTES {
        let largest = match keys > MAX_KEYS {
            true => by_keys.pop(),
            false => by_size.pop(),
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

/// The members of an object at a depth, without those that are too deep.
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
        return Err(twice(key));
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

/// A value as canonical JSON, if it is not too deep.
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
            let mut list = plain("[".into());
            for element in elements {
                let Some(element) = rewrite(element.get(), depth + 1)? else {
                    continue;
                };
                if list.json.len() > 1 {
                    list.json.push(',');
                }
                list.json.push_str(&element.json);
                list.keys += element.keys;
            }
            list.json.push(']');
            Some(list)
        }
        Some(b'"') => {
            let text = text::decode(json, Escapes::of(json));
            let text = text.ok_or("metadata has a string that is not text")?;
            Some(plain(encoded(&text)))
        }
        Some(b't' | b'f' | b'n') => Some(plain(json.into())),
        _ => {
            check_number(json)?;
            Some(plain(json.into()))
        }
    })
}

fn encoded(text: &str) -> String {
    let mut json = Vec::with_capacity(text.len() + 2);
    text::encode(text, &mut json);
    // The encoder writes UTF-8 only.
    String::from_utf8_lossy(&json).into_owned()
}

/// Reads an object as its keys, decoded, and the JSON of its values.
struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(String, &'de str)>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(key) = map.next_key::<&RawValue>()? {
            let text: Option<Cow<'_, str>> = text::decode(key.get(), Escapes::of(key.get()));
            let text = text.ok_or_else(|| A::Error::custom("a key is no text"))?;
            let value = map.next_value::<&RawValue>()?.get();
            members.push((text.into_owned(), value));
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

    fn text(bytes: usize) -> String {
        "x".repeat(bytes)
    }

    #[test]
    fn the_largest_values_go_first_and_no_more_than_must() {
        let (large, larger) = (text(9_000), text(12_000));
        for (json, expected) in [
            (
                format!(r#"{{"a": 1,"b":"{}"}}"#, text(20_000)),
                r#"{"a":1,"cut":true}"#.into(),
            ),
            (
                format!(r#"{{"a":"{larger}","b":"{large}","c":"é\u00e9"}}"#),
                format!(r#"{{"b":"{large}","c":"éé","cut":true}}"#),
            ),
            (
                format!(r#"{{"cut":"mine","a":[1,{{"b":"{}"}}]}}"#, text(17_000)),
                r#"{"cut":true}"#.into(),
            ),
            (
                format!(r#"{{"{}":1,"a":{{"b":null}}}}"#, text(17_000)),
                r#"{"a":{"b":null},"cut":true}"#.into(),
            ),
        ] {
            assert_eq!(cut(&json), expected);
        }
    }

    #[test]
    fn metadata_that_just_exceeds_a_limit_keeps_what_fits_with_the_mark() {
        let mark = r#","cut":true"#.len();
        // {"a":1,"b":"…"} one byte over.
        let json = format!(r#"{{"a":1,"b":"{}"}}"#, text(MAX_BYTES - 13));
        assert_eq!(json.len(), MAX_BYTES + 1);
        assert_eq!(cut(&json), r#"{"a":1,"cut":true}"#);
        // Two values, of which the smaller must go for the mark to have a place.
        let rest = MAX_BYTES - r#"{"a":""}"#.len() - mark;
        let json = format!(r#"{{"a":"{}","b":"{}"}}"#, text(rest), text(rest + 1));
        assert_eq!(cut(&json).len(), MAX_BYTES);
    }

    #[test]
    fn too_many_keys_lose_the_values_with_most_keys_then_the_largest() {
        let keys = |count: usize| {
            let pairs: Vec<_> = (0..count).map(|key| format!("\"k{key}\":0")).collect();
            pairs.join(",")
        };
        let json = format!(
            r#"{{"a":"{}","o":{{{}}},"z":1}}"#,
            text(500),
            keys(MAX_KEYS)
        );
        let expected = format!(r#"{{"a":"{}","z":1,"cut":true}}"#, text(500));
        assert_eq!(cut(&json), expected);
        let json = format!("{{\"long\":\"{}\",{}}}", text(50), keys(MAX_KEYS));
        let found = cut(&json);
        assert!(!found.contains("long"), "{found}");
        assert!(found.starts_with(r#"{"k0":0,"k1":0,"#), "{found}");
        assert!(found.ends_with(r#","cut":true}"#), "{found}");
        assert_eq!(found.matches(':').count(), MAX_KEYS);
    }

    #[test]
    fn what_is_too_deep_goes_and_what_is_beside_it_stays() {
        let json = r#"{"a":{"b":{"c":{"d":{"e":{"f":1},"g":2},"h":[[1],2]}}},"i":3}"#;
        let expected = r#"{"a":{"b":{"c":{"d":{"g":2},"h":[2]}}},"i":3,"cut":true}"#;
        assert_eq!(cut(json), expected);
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(cut(&deep), r#"{"a":[[[[]]]],"cut":true}"#);
    }

    #[test]
    fn what_is_wrong_in_metadata_that_is_too_large_is_still_wrong() {
        for (wrong, says) in [
            (r#""a":1,"\u0061":2"#, "\"a\" twice"),
            (r#""a":{"b":1,"b":2}"#, "\"b\" twice"),
            (r#""a":-1e999"#, "-1e999"),
        ] {
            let json = format!(r#"{{"big":"{}",{wrong}}}"#, text(20_000));
            let message = canonical(&json, Escapes::Some).expect_err("wrong");
            assert!(message.contains(says), "{message}");
        }
    }
}
