//! JSON strings: decoding those of untrusted clients so that they are safe to store (no NUL, no
//! unpaired surrogate), encoding, and finding their ends.

use std::borrow::Cow;

use serde::Deserializer;
use serde::de::Visitor;

/// Result of one search for backslashes in all of some JSON. Most has none, and one search of all
/// of it is faster than one of each string in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Escapes {
    /// No string has an escape.
    None,
    /// Strings may have escapes.
    #[default]
    Some,
}

impl Escapes {
    /// Searches some JSON for escapes.
    pub fn of(json: &str) -> Self {
        match memchr::memchr(b'\\', json.as_bytes()) {
            None => Self::None,
            Some(_) => Self::Some,
        }
    }
}

/// Strips the byte-order mark that some programs put before UTF-8.
pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes)
}

/// Decodes one JSON string, given with its quotes, out of JSON with these escapes. Without any it
/// is borrowed. An unpaired surrogate becomes U+FFFD and NUL is removed, so that neither loses the
/// event. `None` if it is not a string.
pub fn decode(json: &str, escapes: Escapes) -> Option<Cow<'_, str>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    if escapes == Escapes::None || memchr::memchr(b'\\', inner.as_bytes()).is_none() {
        return Some(Cow::Borrowed(inner));
    }
    // As bytes, because `serde_json` rejects unpaired surrogates in a `str`.
    serde_json::Deserializer::from_str(json)
        .deserialize_bytes(Sanitizer)
        .ok()
        .map(Cow::Owned)
}

/// Splits off the JSON string at the start of `json`, which has no escapes: the string without its
/// quotes, and the rest.
pub fn split_plain(json: &str) -> Option<(&str, &str)> {
    let inner = json.strip_prefix('"')?;
    let end = memchr::memchr(b'"', inner.as_bytes())?;
    Some((inner.get(..end)?, inner.get(end + 1..)?))
}

/// Length in bytes, quotes included, of the JSON string at the start of `json`, which has no
/// escapes.
pub fn plain_length(json: &str) -> usize {
    let inner = json.as_bytes().get(1..).unwrap_or_default();
    memchr::memchr(b'"', inner).map_or(json.len(), |quote| quote + 2)
}

/// Length in bytes of the valid JSON object at the start of `json`, which has no escapes.
pub fn plain_object_length(json: &str) -> Option<usize> {
    let bytes = json.as_bytes();
    let mut depth = 0;
    let mut at = 0;
    loop {
        at += memchr::memchr3(b'"', b'{', b'}', bytes.get(at..)?)?;
        match bytes.get(at)? {
            b'"' => at += 1 + memchr::memchr(b'"', bytes.get(at + 1..)?)?,
            b'{' => depth += 1,
            _ => depth -= 1,
        }
        at += 1;
        if depth == 0 {
            return Some(at);
        }
    }
}

/// Appends a string as JSON.
pub fn encode(string: &str, out: &mut Vec<u8>) {
    // A loop without an early exit tests many bytes in one instruction.
    let is_plain = string.bytes().fold(true, |is_plain, byte| {
        is_plain & (byte >= b' ') & (byte != b'"') & (byte != b'\\')
    });
    if is_plain {
        out.push(b'"');
        out.extend_from_slice(string.as_bytes());
        out.push(b'"');
    } else {
        // Writing to memory cannot fail.
        let _ = serde_json::to_writer(&mut *out, string);
    }
}

/// Replaces unpaired surrogates and removes NUL.
struct Sanitizer;

impl Visitor<'_> for Sanitizer {
    type Value = String;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a string")
    }

    /// `serde_json` passes an unpaired surrogate on as the three bytes that UTF-8 would have for
    /// it.
    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<String, E> {
        let mut string = String::with_capacity(bytes.len());
        for chunk in bytes.utf8_chunks() {
            string.extend(chunk.valid().chars().filter(|&char| char != '\0'));
            // A surrogate is ED A0..BF 80..BF: three invalid chunks of one byte, and the first one
            // alone is replaced.
            if chunk.invalid().first() == Some(&0xED) {
                string.push(char::REPLACEMENT_CHARACTER);
            }
        }
        Ok(string)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpaired_surrogates_are_replaced_and_nul_is_removed() {
        for (json, string) in [
            (r#""plain""#, "plain"),
            (r#""a\ud800b""#, "a\u{FFFD}b"),
            (r#""\udc00\ud800""#, "\u{FFFD}\u{FFFD}"),
            (r#""\ud83d\ude00""#, "😀"),
            (r#""a\u0000b""#, "ab"),
            (r#""é\n\"""#, "é\n\""),
            (r#""""#, ""),
        ] {
            assert_eq!(
                decode(json, Escapes::of(json)).as_deref(),
                Some(string),
                "{json}"
            );
        }
        for json in ["5", "null", r#""half"#, "{}"] {
            assert_eq!(decode(json, Escapes::Some), None, "{json}");
        }
    }

    #[test]
    fn encoded_strings_have_one_line_and_decode_to_the_same_string() {
        for string in ["plain", "a\"b\\c", "line\nbreak\u{1}", "\u{2028}é😀"] {
            let mut out = Vec::new();
            encode(string, &mut out);
            let json = String::from_utf8(out).expect("JSON is UTF-8");
            assert!(!json.contains('\n'));
            assert_eq!(decode(&json, Escapes::Some).as_deref(), Some(string));
        }
    }
}
