//! Reduces metadata that exceeds a limit: values that are too deep are removed, then the largest
//! ones, until the rest fits.
//!
//! Few events need it, so the object is parsed again, member by member.

use std::borrow::Cow;
use std::collections::BinaryHeap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{MAX_BYTES, MAX_DEPTH, MAX_KEYS, check_number, duplicate_key};
use crate::event::text::{self, Escapes};

/// The key of the member that marks reduced metadata.
const MARK: &str = "cut";
/// The member itself, with the bracket after it.
const MARK_AND_END: &str = "\"cut\":true}";

/// A member of the object. In the order of its fields the last one is removed first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Member {
    /// Number of keys with its own, at all depths together.
    keys: usize,
    /// Length in bytes of key, colon and value.
    bytes: usize,
    /// Its place among the members.
    place: usize,
    /// Key, colon and value as canonical JSON; empty if the member alone exceeds the limit.
    json: String,
}

/// Rewrites a valid object that exceeds a limit as compact JSON within the limits, with the mark.
///
/// Members that have to be removed are not held, so that an object of millions of members takes
/// little more memory than itself.
pub fn within_limits(json: &str) -> Result<String, String> {
    let mut kept: BinaryHeap<Member> = BinaryHeap::new();
    // The mark has one.
    let mut keys = 1;
    let mut seen = Seen::default();
    let mut place = 0;
    each(json, |key, value| {
        let key = seen.key(key)?;
        if key == MARK {
            return Ok(());
        }
        let mut written = Written::default();
        written.push(&encoded(&key));
        written.push(":");
        let member = Member {
            keys: 1 + write(value, 2, &mut written)?,
            bytes: written.bytes,
            place,
            json: written.json,
        };
        place += 1;
        keys += member.keys;
        kept.push(member);
        // What follows only adds keys: the members with most of them cannot stay.
        while keys > MAX_KEYS
            && let Some(largest) = kept.pop()
        {
            keys -= largest.keys;
        }
        Ok(())
    })?;
    seen.check(json)?;
    let mut members = kept.into_vec();
    // Each has a comma after it.
    let bytes = members.iter().map(|member| member.bytes + 1);
    let mut bytes = "{".len() + bytes.sum::<usize>() + MARK_AND_END.len();
    // Of equal members the last is removed first.
    members.sort_unstable_by_key(|member| (member.bytes, member.place));
    while bytes > MAX_BYTES
        && let Some(largest) = members.pop()
    {
        bytes -= largest.bytes + 1;
    }
    members.sort_unstable_by_key(|member| member.place);
    let mut out = String::with_capacity(bytes);
    out.push('{');
    for member in members {
        out.push_str(&member.json);
        out.push(',');
    }
    out.push_str(MARK_AND_END);
    Ok(out)
}

/// JSON up to the limit of metadata. Of longer JSON only the length is known, because it is
/// removed.
#[derive(Default)]
struct Written {
    json: String,
    bytes: usize,
}

impl Written {
    fn push(&mut self, json: &str) {
        self.bytes += json.len();
        if self.bytes <= MAX_BYTES {
            self.json.push_str(json);
        } else {
            self.json = String::new();
        }
    }
}

/// The keys of an object, by a hash: millions of keys would take several times as much memory as
/// the object. Two keys with one hash count as equal.
#[derive(Default)]
struct Seen(Vec<u64>);

impl Seen {
    /// Decodes a key, and adds it.
    fn key<'a>(&mut self, json: &'a str) -> Result<Cow<'a, str>, String> {
        let key = text::decode(json, Escapes::of(json)).ok_or("metadata has an invalid key")?;
        self.0.push(hash_of(&key));
        Ok(key)
    }

    /// Checks the keys of the object that is `json`.
    fn check(mut self, json: &str) -> Result<(), String> {
        self.0.sort_unstable();
        let duplicate = self.0.windows(2).find_map(|pair| match pair {
            [a, b] if a == b => Some(*a),
            _ => None,
        });
        let Some(duplicate) = duplicate else {
            return Ok(());
        };
        each(json, |key, _| {
            let key = Self::default().key(key)?;
            match hash_of(&key) == duplicate {
                true => Err(duplicate_key(&key)),
                false => Ok(()),
            }
        })
    }
}

fn hash_of(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// Writes a value at this depth as canonical JSON, without what is too deep in it; returns the
/// number of keys in it.
fn write(json: &str, depth: usize, out: &mut Written) -> Result<usize, String> {
    let mut keys = 0;
    let mut comma = "";
    match json.as_bytes().first() {
        Some(b'{') => {
            let mut seen = Seen::default();
            out.push("{");
            each(json, |key, value| {
                let key = seen.key(key)?;
                if !is_too_deep(value, depth + 1) {
                    out.push(std::mem::replace(&mut comma, ","));
                    out.push(&encoded(&key));
                    out.push(":");
                    keys += 1 + write(value, depth + 1, out)?;
                }
                Ok(())
            })?;
            seen.check(json)?;
            out.push("}");
        }
        Some(b'[') => {
            out.push("[");
            each(json, |_, element| {
                if !is_too_deep(element, depth + 1) {
                    out.push(std::mem::replace(&mut comma, ","));
                    keys += write(element, depth + 1, out)?;
                }
                Ok(())
            })?;
            out.push("]");
        }
        Some(b'"') => {
            let string = text::decode(json, Escapes::of(json));
            out.push(&encoded(&string.ok_or("metadata has an invalid string")?));
        }
        Some(b't' | b'f' | b'n') => out.push(json),
        _ => {
            check_number(json)?;
            out.push(json);
        }
    }
    Ok(keys)
}

/// True for an object or an array below the deepest level.
fn is_too_deep(json: &str, depth: usize) -> bool {
    depth > MAX_DEPTH && json.starts_with(['{', '['])
}

fn encoded(string: &str) -> String {
    let mut json = Vec::with_capacity(string.len() + 2);
    text::encode(string, &mut json);
    // The encoder writes UTF-8 only.
    String::from_utf8(json).unwrap_or_default()
}

/// Calls `take` with key and value of each member of an object, or with an empty key and each
/// element of an array, as JSON, until it fails.
fn each<'a>(
    json: &'a str,
    take: impl FnMut(&'a str, &'a str) -> Result<(), String>,
) -> Result<(), String> {
    let mut failed = None;
    let taken = serde_json::Deserializer::from_str(json).deserialize_any(Each {
        take,
        failed: &mut failed,
    });
    taken.map_err(|error| failed.unwrap_or_else(|| error.to_string()))
}

struct Each<'f, F> {
    take: F,
    /// The error of `take`, to which serde would add a position.
    failed: &'f mut Option<String>,
}

impl<'de, F: FnMut(&'de str, &'de str) -> Result<(), String>> Each<'_, F> {
    fn call<E: Error>(&mut self, key: &'de str, value: &'de str) -> Result<(), E> {
        (self.take)(key, value).map_err(|message| {
            *self.failed = Some(message);
            E::custom("it is rejected")
        })
    }
}

impl<'de, F: FnMut(&'de str, &'de str) -> Result<(), String>> Visitor<'de> for Each<'_, F> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<&RawValue>()? {
            let value = map.next_value::<&RawValue>()?;
            self.call(key.get(), value.get())?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut array: A) -> Result<(), A::Error> {
        while let Some(element) = array.next_element::<&RawValue>()? {
            self.call("", element.get())?;
        }
        Ok(())
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
    fn of_very_many_members_the_first_small_ones_are_kept() {
        let members = |count: usize| {
            let members = (0..count).map(|n| format!("\"k{n:06}\":{}", 1_000_000 + n));
            members.collect::<Vec<_>>().join(",")
        };
        let many = members(200_000);
        let expected = format!("{{{},\"a\":1,\"cut\":true}}", members(MAX_KEYS - 2));
        assert_eq!(cut(&format!("{{{many},\"a\":1}}")), expected);
        // Those in a value count, and the value is removed.
        let json = format!("{{\"o\":{{{many}}},\"a\":[{{\"b\":1}}]}}");
        assert_eq!(cut(&json), r#"{"a":[{"b":1}],"cut":true}"#);
        // Members that are removed are valid too.
        for (more, says) in [
            (
                "\"k199999\":1",
                "metadata has the duplicate key \"k199999\"",
            ),
            (
                "\"a\":{\"b\":1,\"b\":2}",
                "metadata has the duplicate key \"b\"",
            ),
            ("\"a\":1e999", "metadata has the number 1e999, out of range"),
        ] {
            let json = format!("{{{many},{more}}}");
            let message = canonical(&json, Escapes::None).expect_err(more);
            assert_eq!(message, says);
        }
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
