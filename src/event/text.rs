//! JSON strings of untrusted clients, made safe to store: no NUL, no half of a surrogate pair.

use std::borrow::Cow;

use serde::Deserializer;
use serde::de::Visitor;

/// Whether a longer text around JSON strings has a backslash anywhere. Most have none, and one look at all of it is
/// quicker than one at each string.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Escapes {
    /// No string of the text has an escape.
    None,
    /// Some may.
    #[default]
    Some,
}

impl Escapes {
    /// Looks at a text.
    pub fn of(text: &str) -> Self {
        match memchr::memchr(b'\\', text.as_bytes()) {
            None => Self::None,
            Some(_) => Self::Some,
        }
    }
}

/// A text without the byte-order mark that some programs put before UTF-8.
pub fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text)
}

/// Decodes one JSON string, given as its source text with quotes, from a text with these escapes. Without any it is
/// borrowed. A lone surrogate becomes U+FFFD and NUL is dropped, so that neither loses the event. `None` if it is no
/// string.
pub fn decode(json: &str, escapes: Escapes) -> Option<Cow<'_, str>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    if escapes == Escapes::None || memchr::memchr(b'\\', inner.as_bytes()).is_none() {
        return Some(Cow::Borrowed(inner));
    }
    // As bytes, because as text `serde_json` refuses a lone surrogate.
    serde_json::Deserializer::from_str(json)
        .deserialize_bytes(Sanitizer)
        .ok()
        .map(Cow::Owned)
}

/// The JSON string, without escapes, at the start of `json`, without its quotes, and what follows.
pub fn split_plain(json: &str) -> Option<(&str, &str)> {
    let inner = json.strip_prefix('"')?;
    let end = memchr::memchr(b'"', inner.as_bytes())?;
    Some((inner.get(..end)?, inner.get(end + 1..)?))
}

/// Bytes of the JSON string, without escapes, at the start of `json`, quotes included.
pub fn plain_length(json: &str) -> usize {
    let inner = json.as_bytes().get(1..).unwrap_or_default();
    memchr::memchr(b'"', inner).map_or(json.len(), |quote| quote + 2)
}

/// Bytes of the JSON object, without escapes, at the start of `json`.
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

/// Appends `text` as a JSON string.
pub fn encode(text: &str, out: &mut Vec<u8>) {
    // Every byte is looked at, because without an early end many are looked at in one instruction.
    let clean = text.bytes().fold(true, |clean, byte| {
        clean & (byte >= b' ') & (byte != b'"') & (byte != b'\\')
    });
    if !clean {
        // Writing to memory cannot fail.
        let _ = serde_json::to_writer(&mut *out, text);
    } else {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    }
}

struct Sanitizer;

impl Visitor<'_> for Sanitizer {
    type Value = String;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a string")
    }

    /// `serde_json` passes a lone surrogate on as the three bytes that UTF-8 would have for it.
    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<String, E> {
        let mut text = String::with_capacity(bytes.len());
        for chunk in bytes.utf8_chunks() {
            text.extend(chunk.valid().chars().filter(|&char| char != '\0'));
            // A surrogate is ED A0..BF 80..BF: three invalid chunks of one byte, of which the first stands
            // for the character.
            if chunk.invalid().first() == Some(&0xED) {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lone_surrogates_and_nul_do_not_lose_the_text() {
        for (json, text) in [
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
                Some(text),
                "{json}"
            );
        }
        for json in ["5", "null", r#""half"#, "{}"] {
            assert_eq!(decode(json, Escapes::Some), None, "{json}");
        }
    }

    #[test]
    fn encoding_gives_one_line_that_decodes_to_the_text() {
        for text in ["plain", "a\"b\\c", "line\nbreak\u{1}", "\u{2028}é😀"] {
            let mut out = Vec::new();
            encode(text, &mut out);
            let json = String::from_utf8(out).expect("JSON is UTF-8");
            assert!(!json.contains('\n'));
            assert_eq!(decode(&json, Escapes::Some).as_deref(), Some(text));
        }
    }
}
