//! The metadata of an event: one JSON object, checked against its limits and written canonically.
//!
//! The input is JSON that `serde_json` has already found valid, so that one pass over its bytes is
//! enough. Numbers keep their digits: nothing is rounded before it is logged.

use std::borrow::Cow;

use super::path;
use super::text::{self, Escapes};
use crate::error::shown;

mod cut;

/// Most bytes of one event's metadata, written canonically.
pub const MAX_BYTES: usize = 16 * 1024;
/// Most keys of one event's metadata, at all depths together.
pub const MAX_KEYS: usize = 100;
/// Deepest nesting; the object itself is depth 1.
pub const MAX_DEPTH: usize = 5;
/// Maximum number of keys of an object that [`flat_length`] checks.
const FLAT_KEYS: usize = 16;
/// A shorter number without an exponent is in the range of doubles.
const SAFE_NUMBER_BYTES: usize = 300;

/// Metadata as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canonical<'a> {
    /// Compact JSON on one line. Borrowed if the client sent it so.
    pub json: Cow<'a, str>,
    /// A message about the limit, if values were removed because of it.
    pub cut: Option<String>,
}

/// Rewrites a valid JSON object, out of JSON with these escapes, as compact JSON within the
/// limits.
///
/// # Errors
/// A message about a duplicate key, or a number out of the range of doubles.
pub fn canonical(json: &str, escapes: Escapes) -> Result<Canonical<'_>, String> {
    if escapes == Escapes::None && json.len() <= MAX_BYTES && flat_length(json) == Some(json.len())
    {
        return Ok(Canonical {
            json: Cow::Borrowed(json),
            cut: None,
        });
    }
    let mut walk = Walk {
        json,
        escapes,
        at: 0,
        copied: 0,
        rewritten: String::new(),
        open: [Container::Array; MAX_DEPTH],
        depth: 0,
        keys: Vec::new(),
        keys_seen: 0,
    };
    let limit = match walk.run() {
        Ok(()) => {
            let json = walk.finish();
            if json.len() <= MAX_BYTES {
                return Ok(Canonical { json, cut: None });
            }
            let bytes = json.len();
            format!("metadata has {bytes} bytes; allowed are {MAX_BYTES}")
        }
        Err(Stop::Limit(message)) => message,
        Err(Stop::Invalid(message)) => return Err(message),
    };
    Ok(Canonical {
        json: Cow::Owned(cut::within_limits(json)?),
        cut: Some(format!("{limit}; the largest values were removed")),
    })
}

/// The reason why a walk ends early.
enum Stop {
    /// The metadata exceeds a limit.
    Limit(String),
    /// The metadata cannot be stored.
    Invalid(String),
}

/// Length in bytes of the object at the start of `json`, which has no escapes, if the object is
/// valid and canonical, with few keys and neither objects nor arrays in it. Most metadata is
/// checked by this alone. `None` for any other.
pub(super) fn flat_length(json: &str) -> Option<usize> {
    let mut rest = json.strip_prefix('{')?;
    if rest.starts_with('}') {
        return Some(2);
    }
    let mut keys = [""; FLAT_KEYS];
    for place in 0..FLAT_KEYS {
        let (key, after_key) = text::split_plain(rest)?;
        if keys.iter().take(place).any(|known| *known == key) {
            return None;
        }
        *keys.get_mut(place)? = key;
        let value = after_key.strip_prefix(':')?;
        let after = value.get(scalar_length(value)?..)?;
        match after.strip_prefix(',') {
            Some(more) => rest = more,
            None => return Some(json.len() - after.strip_prefix('}')?.len()),
        }
    }
    None
}

/// Length in bytes of the string, constant or number without exponent at the start of `json`,
/// which has no escapes.
fn scalar_length(json: &str) -> Option<usize> {
    let digits = |json: &str| json.bytes().take_while(u8::is_ascii_digit).count();
    match json.as_bytes().first()? {
        b'"' => Some(text::plain_length(json)),
        b't' => json.starts_with("true").then_some(4),
        b'f' => json.starts_with("false").then_some(5),
        b'n' => json.starts_with("null").then_some(4),
        _ => {
            let positive = json.strip_prefix('-').unwrap_or(json);
            let integer = digits(positive);
            if integer == 0 || (integer > 1 && positive.starts_with('0')) {
                return None;
            }
            let after = positive.get(integer..)?;
            let after = match after.strip_prefix('.') {
                None => after,
                Some(fraction) => {
                    fraction.get(Some(digits(fraction)).filter(|count| *count > 0)?..)?
                }
            };
            let length = json.len() - after.len();
            (length < SAFE_NUMBER_BYTES).then_some(length)
        }
    }
}

/// One pass over valid JSON. Everything before `copied` is in `rewritten`, unless nothing was
/// rewritten yet.
struct Walk<'a> {
    json: &'a str,
    escapes: Escapes,
    at: usize,
    copied: usize,
    rewritten: String,
    /// The containers around the position; the first `depth` of them are open.
    open: [Container; MAX_DEPTH],
    depth: usize,
    /// The keys of the open objects, outermost first.
    keys: Vec<Cow<'a, str>>,
    keys_seen: usize,
}

#[derive(Clone, Copy)]
enum Container {
    Array,
    Object {
        /// Index of its first key among those of all open objects.
        first_key: usize,
        key_next: bool,
    },
}

impl<'a> Walk<'a> {
    fn run(&mut self) -> Result<(), Stop> {
        while let Some(&byte) = self.json.as_bytes().get(self.at) {
            match byte {
                b'{' => self.enter(Container::Object {
                    first_key: self.keys.len(),
                    key_next: true,
                })?,
                b'[' => self.enter(Container::Array)?,
                b'}' | b']' => {
                    if let Some(Container::Object { first_key, .. }) = self.innermost() {
                        let first_key = *first_key;
                        self.keys.truncate(first_key);
                    }
                    self.depth = self.depth.saturating_sub(1);
                    self.at += 1;
                }
                b',' => {
                    if let Some(Container::Object { key_next, .. }) = self.innermost() {
                        *key_next = true;
                    }
                    self.at += 1;
                }
                b'"' => self.string()?,
                b' ' | b'\t' | b'\n' | b'\r' => self.replace(self.at + 1, ""),
                b'-' | b'0'..=b'9' => self.number()?,
                // A colon, or a letter of true, false or null.
                _ => self.at += 1,
            }
        }
        Ok(())
    }

    fn innermost(&mut self) -> Option<&mut Container> {
        self.open.get_mut(self.depth.checked_sub(1)?)
    }

    fn enter(&mut self, container: Container) -> Result<(), Stop> {
        let slot = self
            .open
            .get_mut(self.depth)
            .ok_or_else(|| Stop::Limit(format!("metadata is deeper than {MAX_DEPTH}")))?;
        *slot = container;
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    fn string(&mut self) -> Result<(), Stop> {
        let rest = self.json.get(self.at..).unwrap_or_default();
        let json = rest
            .get(..string_length(rest, self.escapes))
            .unwrap_or(rest);
        let string = text::decode(json, self.escapes)
            .ok_or_else(|| Stop::Invalid("metadata has an invalid string".into()))?;
        let end = self.at + json.len();
        if let Cow::Owned(owned) = &string {
            let mut encoded = Vec::with_capacity(json.len());
            text::encode(owned, &mut encoded);
            if encoded == json.as_bytes() {
                self.at = end;
            } else {
                // The encoder writes UTF-8 only.
                self.replace(end, &String::from_utf8_lossy(&encoded));
            }
        } else {
            self.at = end;
        }
        if let Some(Container::Object {
            first_key,
            key_next,
        }) = self.innermost()
            && std::mem::take(key_next)
        {
            let first_key = *first_key;
            if self.keys.iter().skip(first_key).any(|key| *key == string) {
                return Err(Stop::Invalid(duplicate_key(&string)));
            }
            self.keys.push(string);
            self.keys_seen += 1;
            if self.keys_seen > MAX_KEYS {
                let message = format!("metadata has more than {MAX_KEYS} keys");
                return Err(Stop::Limit(message));
            }
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), Stop> {
        let rest = self.json.get(self.at..).unwrap_or_default();
        let length = rest
            .bytes()
            .position(|byte| !matches!(byte, b'-' | b'+' | b'.' | b'0'..=b'9' | b'e' | b'E'))
            .unwrap_or(rest.len());
        check_number(rest.get(..length).unwrap_or(rest)).map_err(Stop::Invalid)?;
        self.at += length;
        Ok(())
    }

    /// Replaces the source from the position to `end`.
    fn replace(&mut self, end: usize, json: &str) {
        let kept = self.json.get(self.copied..self.at).unwrap_or_default();
        self.rewritten.push_str(kept);
        self.rewritten.push_str(json);
        self.copied = end;
        self.at = end;
    }

    fn finish(mut self) -> Cow<'a, str> {
        if self.copied == 0 {
            return Cow::Borrowed(self.json);
        }
        self.replace(self.at, "");
        Cow::Owned(self.rewritten)
    }
}

fn check_number(number: &str) -> Result<(), String> {
    let is_safe = number.len() < SAFE_NUMBER_BYTES && !number.contains(['e', 'E']);
    if !is_safe && !number.parse().is_ok_and(f64::is_finite) {
        let number = shown(number);
        return Err(format!("metadata has the number {number}, out of range"));
    }
    Ok(())
}

fn duplicate_key(key: &str) -> String {
    let key = shown(key);
    format!("metadata has the duplicate key {key:?}")
}

/// Length in bytes, quotes included, of the JSON string at the start of `json`.
fn string_length(json: &str, escapes: Escapes) -> usize {
    match escapes {
        Escapes::None => text::plain_length(json),
        Escapes::Some => path::string_length(json),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_metadata_is_borrowed_and_other_metadata_is_rewritten() {
        for (json, expected) in [
            ("{}", "{}"),
            (
                r#"{"a":1,"b":[true,null,"x y"]}"#,
                r#"{"a":1,"b":[true,null,"x y"]}"#,
            ),
            ("{ \"a\" :\n\t[ 1 , 2 ] }", r#"{"a":[1,2]}"#),
            (
                r#"{"\u0061":"\u00e9\u0000\ud800"}"#,
                "{\"a\":\"é\u{FFFD}\"}",
            ),
            (
                r#"{"big":123456789012345678901234567890,"f":1.10}"#,
                r#"{"big":123456789012345678901234567890,"f":1.10}"#,
            ),
            (r#"{"q":"say \"hi\"\n"}"#, r#"{"q":"say \"hi\"\n"}"#),
        ] {
            let found = canonical(json, Escapes::of(json)).expect("metadata");
            assert_eq!((&*found.json, &found.cut), (expected, &None));
            let is_borrowed = matches!(found.json, Cow::Borrowed(_));
            assert_eq!(is_borrowed, json == expected, "{json}");
        }
    }

    #[test]
    fn flat_objects_are_recognised_only_if_valid_and_canonical() {
        let keys = |count: usize| {
            let pairs: Vec<_> = (0..count).map(|key| format!("\"k{key}\":0")).collect();
            format!("{{{}}}", pairs.join(","))
        };
        for flat in [
            "{}".into(),
            r#"{"a":"é, x}","b":-0,"c":0.50,"d":null}"#.into(),
            r#"{"a":true,"b":false,"c":12345678901234567890.1,"":""}"#.into(),
            keys(FLAT_KEYS),
        ] {
            assert_eq!(flat_length(&flat), Some(flat.len()), "{flat}");
            assert_eq!(
                flat_length(&format!("{flat},\"u")),
                Some(flat.len()),
                "{flat}"
            );
            assert!(
                serde_json::from_str::<serde_json::Value>(&flat).is_ok(),
                "{flat}"
            );
            let walked = canonical(&flat, Escapes::Some).expect("metadata");
            assert!(matches!(walked.json, Cow::Borrowed(_)), "{flat}");
        }
        for other in [
            "",
            "{",
            "[]",
            "{,}",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1"#,
            r#"{"a":1,}"#,
            r#"{"a":1 }"#,
            r#"{"a": 1}"#,
            r#"{ "a":1}"#,
            r#"{a:1}"#,
            r#"{"a":01}"#,
            r#"{"a":-}"#,
            r#"{"a":.5}"#,
            r#"{"a":1.}"#,
            r#"{"a":1e5}"#,
            r#"{"a":+1}"#,
            r#"{"a":truer}"#,
            r#"{"a":nul}"#,
            r#"{"a":"b}"#,
            r#"{"a":{}}"#,
            r#"{"a":[]}"#,
            r#"{"a":1,"a":2}"#,
            &keys(FLAT_KEYS + 1),
            &format!("{{\"a\":{}}}", "1".repeat(SAFE_NUMBER_BYTES)),
        ] {
            assert_eq!(flat_length(other), None, "{other}");
        }
    }

    #[test]
    fn messages_name_the_exceeded_limit() {
        let deep = |depth: usize| format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
        let keys = |count: usize| {
            let pairs: Vec<_> = (0..count).map(|key| format!("\"k{key}\":0")).collect();
            format!("{{{}}}", pairs.join(","))
        };
        let long = |bytes: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(bytes - 8));
        for fits in [deep(MAX_DEPTH), keys(MAX_KEYS), long(MAX_BYTES)] {
            let found = canonical(&fits, Escapes::None).expect("metadata");
            assert_eq!((&*found.json, found.cut), (&*fits, None));
        }
        for (json, says) in [
            (deep(MAX_DEPTH + 1), "deeper than 5"),
            (keys(MAX_KEYS + 1), "more than 100 keys"),
            (long(MAX_BYTES + 1), "16385 bytes"),
        ] {
            let found = canonical(&json, Escapes::Some).expect("metadata");
            assert!(found.cut.is_some_and(|cut| cut.contains(says)), "{says}");
        }
        for (json, says) in [
            (r#"{"a":1e400}"#, "1e400"),
            (r#"{"a":1,"\u0061":2}"#, "duplicate key \"a\""),
        ] {
            let message = canonical(json, Escapes::Some).expect_err("invalid");
            assert!(message.contains(says), "{message}");
        }
    }

    #[test]
    fn the_same_key_in_two_objects_is_not_a_duplicate() {
        let json = r#"{"a":{"x":1},"b":{"x":1},"c":[{"x":1},{"x":2}]}"#;
        assert!(canonical(json, Escapes::None).is_ok());
    }
}
