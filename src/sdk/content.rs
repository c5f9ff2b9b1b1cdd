//! Bodies of the clients of other products. What they are is read from their bytes, because their
//! labels are wrong as often as right: JSON comes as a form, and gzip without a header.

use std::borrow::Cow;
use std::io::Read;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::error::{Error, ErrorCode, Result};
use crate::event::text::without_mark;
use crate::inflate::{Form, Gzip};

/// Most bytes of a body on the wire.
pub const MAX_WIRE_BYTES: usize = 5 << 20;
/// Most bytes of a body once inflated.
pub const MAX_INFLATED_BYTES: usize = 20 << 20;
/// Layers of a body: a proxy may compress what a client has compressed and put into a form.
const MAX_LAYERS: usize = 5;
/// Bytes that brotli reads at a time.
const BROTLI_BUFFER_BYTES: usize = 8 << 10;
/// The field of a form that has the events.
const FORM_FIELD: &[u8] = b"data=";
/// Base64 with padding or without.
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_allow_trailing_bits(true)
    .with_decode_padding_mode(DecodePaddingMode::Indifferent);

/// The JSON in a body. `label` is the value of `Content-Encoding`, which counts only where the
/// bytes do not tell.
///
/// # Errors
/// If it cannot be inflated, inflates to too much, or there is no JSON in it.
pub fn decode(body: &[u8], label: Option<&str>) -> Result<String> {
    let mut body = Cow::Borrowed(body);
    let mut label = label.map(str::trim);
    for _ in 0..MAX_LAYERS {
        body = match layer(&body, label.take()) {
            Layer::Json => return text(body),
            Layer::Inflated(inflated) => inflated?.into(),
            Layer::Unwrapped(inner) => inner.into(),
            Layer::Unknown => break,
        };
    }
    Err(Error::bad_input(
        ErrorCode::BadJson,
        "the body is not JSON, and not JSON in gzip, zstd, deflate, brotli, base64 or a form",
    ))
}

enum Layer {
    Json,
    Inflated(Result<Vec<u8>>),
    Unwrapped(Vec<u8>),
    Unknown,
}

/// The outermost layer of a body.
fn layer(body: &[u8], label: Option<&str>) -> Layer {
    match Form::of(body) {
        Some(Form::Gzip) => return Layer::Inflated(read_limited(Gzip::new(body))),
        Some(Form::Zstd) => {
            let inflated = zstd::stream::read::Decoder::new(body).map_err(bad_encoding);
            return Layer::Inflated(inflated.and_then(read_limited));
        }
        _ => {}
    }
    let trimmed = without_mark(body).trim_ascii_start();
    if let Some(b'{' | b'[') = trimmed.first() {
        return Layer::Json;
    }
    let is = |name: &str| label.is_some_and(|label| label.eq_ignore_ascii_case(name));
    if is("deflate") {
        // The standard requires a zlib header; some clients send raw deflate.
        let inflated = read_limited(flate2::read::ZlibDecoder::new(body));
        let inflated = inflated.or_else(|_| read_limited(flate2::read::DeflateDecoder::new(body)));
        return Layer::Inflated(inflated);
    }
    if is("br") {
        let inflated = brotli::Decompressor::new(body, BROTLI_BUFFER_BYTES);
        return Layer::Inflated(read_limited(inflated));
    }
    if let Some(rest) = trimmed.strip_prefix(FORM_FIELD) {
        let value = rest.split(|byte| *byte == b'&').next().unwrap_or_default();
        return Layer::Unwrapped(percent_decoded(value));
    }
    match base64_decoded(trimmed) {
        Some(inner) => Layer::Unwrapped(inner),
        None => Layer::Unknown,
    }
}

/// Reads one byte more than is allowed, and rejects it.
fn read_limited(reader: impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = MAX_INFLATED_BYTES as u64 + 1;
    reader
        .take(most)
        .read_to_end(&mut bytes)
        .map_err(bad_encoding)?;
    if bytes.len() > MAX_INFLATED_BYTES {
        return Err(Error::TooLarge {
            code: ErrorCode::TooLarge,
            message: format!("the body inflates to more than {MAX_INFLATED_BYTES} bytes"),
        });
    }
    Ok(bytes)
}

fn bad_encoding(_: std::io::Error) -> Error {
    Error::bad_input(ErrorCode::BadEncoding, "the compressed body is damaged")
}

/// Decodes a value of a form.
fn percent_decoded(value: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((&first, after)) = rest.split_first() {
        let hex = match after {
            [high, low, ..] if first == b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                digit(*high).zip(digit(*low))
            }
            _ => None,
        };
        let (byte, after) = match (first, hex) {
            (_, Some((high, low))) => ((high * 16 + low) as u8, after.get(2..).unwrap_or_default()),
            // A plus of base64 that was not encoded is a plus again below.
            (b'+', None) => (b' ', after),
            _ => (first, after),
        };
        decoded.push(byte);
        rest = after;
    }
    decoded
}

/// Decodes base64 of either alphabet, in which a form may have made a blank of a plus.
fn base64_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let text = text.trim_ascii_end();
    let plain: Vec<u8> = text
        .iter()
        .map(|byte| match byte {
            b' ' | b'-' => b'+',
            b'_' => b'/',
            byte => *byte,
        })
        .collect();
    let engine = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
    let decoded = engine.decode(plain).ok()?;
    (!decoded.is_empty()).then_some(decoded)
}

/// The JSON as a string. Bytes that are no UTF-8 are replaced, and numbers that JSON does not have
/// become null: each would cost all events of the body.
fn text(body: Cow<'_, [u8]>) -> Result<String> {
    let text = match body {
        // A large body is not copied.
        Cow::Owned(body) if without_mark(&body).len() == body.len() => String::from_utf8(body)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
        body => String::from_utf8_lossy(without_mark(&body)).into_owned(),
    };
    match serde_json::from_str::<serde::de::IgnoredAny>(&text) {
        Ok(_) => Ok(text),
        Err(error) => {
            let repaired = without_special_numbers(&text);
            let is_valid = matches!(&repaired, Cow::Owned(text)
                if serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok());
            match repaired {
                Cow::Owned(text) if is_valid => Ok(text),
                _ => Err(Error::bad_input(
                    ErrorCode::BadJson,
                    format!("the body is invalid JSON: {error}"),
                )),
            }
        }
    }
}

/// Replaces `NaN`, `Infinity` and `-Infinity`, which Python writes, by null.
fn without_special_numbers(json: &str) -> Cow<'_, str> {
    const SPECIAL: [&str; 3] = ["NaN", "-Infinity", "Infinity"];
    let mut out = String::new();
    let mut copied = 0;
    let mut at = 0;
    let bytes = json.as_bytes();
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at += 1;
                while let Some(inner) = bytes.get(at) {
                    at += match inner {
                        b'\\' => 2,
                        _ => 1,
                    };
                    if *inner == b'"' {
                        break;
                    }
                }
            }
            b'N' | b'-' | b'I' => {
                let rest = json.get(at..).unwrap_or_default();
                match SPECIAL.iter().find(|special| rest.starts_with(**special)) {
                    Some(special) => {
                        out.push_str(json.get(copied..at).unwrap_or_default());
                        out.push_str("null");
                        at += special.len();
                        copied = at;
                    }
                    None => at += 1,
                }
            }
            _ => at += 1,
        }
    }
    if copied == 0 {
        return Cow::Borrowed(json);
    }
    out.push_str(json.get(copied..).unwrap_or_default());
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const JSON: &str = r#"{"event":"a+b & c","n":[1]}"#;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(content).expect("memory");
        gzip.finish().expect("memory")
    }

    fn base64(content: &[u8]) -> String {
        base64::engine::general_purpose::STANDARD.encode(content)
    }

    fn encoded(text: &str) -> String {
        serde_urlencoded::to_string([("data", text)]).expect("a form")
    }

    #[test]
    fn bodies_are_read_by_their_bytes() {
        let json = JSON.as_bytes();
        let mut deflate =
            flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        deflate.write_all(json).expect("memory");
        let deflate = deflate.finish().expect("memory");
        let zstd = zstd::encode_all(json, 1).expect("memory");
        let mut brotli = brotli::CompressorWriter::new(Vec::new(), 4_096, 1, 20);
        brotli.write_all(json).expect("memory");
        let brotli = brotli.into_inner();
        let url_safe = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json);
        for (label, body) in [
            (None, json.to_vec()),
            (Some("gzip"), gzip(json)),
            // Labels that are wrong.
            (None, gzip(json)),
            (Some("gzip"), json.to_vec()),
            (Some("br"), gzip(json)),
            (Some("unknown"), json.to_vec()),
            (None, zstd.clone()),
            (Some("deflate"), deflate),
            (Some("br"), brotli),
            (Some("gzip"), gzip(&gzip(json))),
            (None, base64(json).into()),
            (None, base64(&gzip(json)).into()),
            (None, url_safe.into()),
            (None, encoded(JSON).into()),
            (None, encoded(&base64(json)).into()),
            (None, encoded(&base64(&gzip(json))).into()),
            (None, format!("data={}&ver=1", base64(json)).into()),
            (None, gzip(encoded(&base64(json)).as_bytes())),
            (None, [b"\xEF\xBB\xBF", json].concat()),
            (None, [b" \n", json].concat()),
        ] {
            let found = decode(&body, label);
            let found = found.unwrap_or_else(|error| panic!("{label:?} {body:?}: {error}"));
            assert_eq!(found.trim(), JSON, "{label:?}");
        }
    }

    #[test]
    fn numbers_that_json_lacks_become_null_and_other_bytes_are_replaced() {
        for (body, expected) in [
            (
                &br#"{"a":NaN,"b":[-Infinity,Infinity],"c":"NaN \" NaN"}"#[..],
                r#"{"a":null,"b":[null,null],"c":"NaN \" NaN"}"#,
            ),
            (b"{\"a\":\"\xff\"}", "{\"a\":\"\u{FFFD}\"}"),
        ] {
            assert_eq!(decode(body, None).expect("JSON"), expected);
        }
    }

    #[test]
    fn what_holds_no_json_is_rejected_and_a_bomb_is_cut_off() {
        let code = |body: &[u8], label| match decode(body, label) {
            Err(Error::BadInput { code, .. } | Error::TooLarge { code, .. }) => Some(code),
            _ => None,
        };
        let damaged = gzip(JSON.as_bytes());
        for (body, expected) in [
            (&b""[..], ErrorCode::BadJson),
            (b"{", ErrorCode::BadJson),
            (b"{} {}", ErrorCode::BadJson),
            (b"{\"a\":Nan}", ErrorCode::BadJson),
            (b"hello?", ErrorCode::BadJson),
            (b"data=", ErrorCode::BadJson),
            (&damaged[..damaged.len() - 9], ErrorCode::BadEncoding),
        ] {
            assert_eq!(code(body, None), Some(expected), "{body:?}");
        }
        let bomb = gzip(&vec![b' '; MAX_INFLATED_BYTES + 1]);
        assert!(bomb.len() < MAX_WIRE_BYTES);
        assert_eq!(code(&bomb, None), Some(ErrorCode::TooLarge));
    }
}
