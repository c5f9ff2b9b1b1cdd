//! JSON objects that end with a checksum of themselves, and checksums of complete files.
//!
//! The last field of such an object is `"crc32c"`: eight hexadecimal digits of the CRC-32C
//! (Castagnoli) of every byte before its comma. A JSON parser does not notice a flipped bit inside
//! a string; the checksum does.
//!
//! A small file is one such object around a value of any type, `{"checked":VALUE,"crc32c":"…"}`. No
//! file of the versions without checksums has that shape, so that damage never makes a file with a
//! checksum look like one without.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::Serialize;

use crate::error::{Error, Result};

const KEY: &[u8] = br#","crc32c":""#;
const DIGITS: usize = 8;
const END: &[u8] = br#""}"#;
/// The start of a small file.
const CHECKED: &[u8] = br#"{"checked":"#;
/// The end of a field's name before a value that is a string.
const STRING_FIELD: &[u8] = br#"":""#;
/// Bytes read at a time.
const BLOCK_BYTES: usize = 1 << 20;

/// The reasons why bytes are not an object with its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch {
    /// The bytes do not end with a checksum field.
    Missing,
    /// The checksum does not match the bytes before it.
    Wrong,
}

/// Ends the object that begins at `start` and has no closing brace yet, with its checksum.
pub fn close_object(out: &mut Vec<u8>, start: usize) {
    let checksum = crc32c::crc32c(out.get(start..).unwrap_or_default());
    out.extend_from_slice(KEY);
    out.extend_from_slice(&hex(checksum));
    out.extend_from_slice(END);
}

/// Appends a value, which must serialize as an object, as a line with its checksum.
pub fn write_line(value: &impl Serialize, out: &mut Vec<u8>) {
    let start = out.len();
    // Writing to memory cannot fail, and no value has a map whose keys are not strings.
    let _ = serde_json::to_writer(&mut *out, value);
    // The closing brace.
    out.pop();
    close_object(out, start);
    out.push(b'\n');
}

/// Checks an object written by [`close_object`].
///
/// # Errors
/// The [`Mismatch`] of its last field.
pub fn check_object(object: &[u8]) -> Result<(), Mismatch> {
    let (body, digits) = object
        .strip_suffix(END)
        .and_then(|rest| rest.split_last_chunk::<DIGITS>())
        .ok_or(Mismatch::Missing)?;
    let body = body.strip_suffix(KEY).ok_or(Mismatch::Missing)?;
    if hex(crc32c::crc32c(body)) == *digits {
        Ok(())
    } else {
        Err(Mismatch::Wrong)
    }
}

/// Result of checking a line, in a file whose oldest lines may have been written without checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineCheck {
    /// Its checksum is right.
    Right,
    /// It is JSON that was written without a checksum.
    Unchecked,
    /// It is not what was written; the reason.
    Damaged(&'static str),
}

/// Checks a line, given without its newline. A line that ends like one with a checksum, whatever
/// the name of its last field, never counts as one without: the damage may be in the name.
pub fn check_line(line: &[u8]) -> LineCheck {
    match check_object(line) {
        Ok(()) => return LineCheck::Right,
        Err(Mismatch::Wrong) => return LineCheck::Damaged("its checksum does not match"),
        Err(Mismatch::Missing) => {}
    }
    let ends_like_one = line
        .strip_suffix(END)
        .and_then(|rest| rest.split_last_chunk::<DIGITS>())
        .is_some_and(|(before, _)| before.ends_with(STRING_FIELD));
    if ends_like_one {
        LineCheck::Damaged("its checksum is damaged")
    } else if serde_json::from_slice::<serde::de::IgnoredAny>(line).is_err() {
        LineCheck::Damaged("it is not a complete line")
    } else {
        LineCheck::Unchecked
    }
}

/// The content of a small file with this value, given as JSON.
pub fn wrap(json: &[u8]) -> Vec<u8> {
    let mut file = CHECKED.to_vec();
    file.extend_from_slice(json);
    close_object(&mut file, 0);
    file.push(b'\n');
    file
}

/// The value in the content of a small file that [`wrap`] made, as JSON.
///
/// # Errors
/// The [`Mismatch`] of its checksum; [`Mismatch::Missing`] also for a file without one.
pub fn unwrap(file: &[u8]) -> Result<&[u8], Mismatch> {
    let object = file.strip_suffix(b"\n").ok_or(Mismatch::Missing)?;
    check_object(object)?;
    object
        .strip_prefix(CHECKED)
        .and_then(|rest| rest.get(..rest.len().checked_sub(KEY.len() + DIGITS + END.len())?))
        .ok_or(Mismatch::Missing)
}

/// Checks the content of a small file, whatever the type of its value. Files of the versions
/// without checksums have another shape.
pub fn check_file(file: &[u8]) -> LineCheck {
    match unwrap(file) {
        Ok(_) => LineCheck::Right,
        Err(Mismatch::Wrong) => LineCheck::Damaged("its checksum does not match"),
        Err(Mismatch::Missing) if file.starts_with(CHECKED) => {
            LineCheck::Damaged("its checksum is damaged")
        }
        Err(Mismatch::Missing) => check_line(file.strip_suffix(b"\n").unwrap_or(file)),
    }
}

/// The checksum of an open file's content; `path` is for error messages.
///
/// # Errors
/// If the file cannot be read.
pub fn of_file(file: &File, path: &Path) -> Result<u32> {
    let mut block = vec![0; BLOCK_BYTES];
    let mut checksum = 0;
    let mut offset = 0;
    loop {
        let length = file
            .read_at(&mut block, offset)
            .map_err(Error::io("read", path))?;
        match block.get(..length) {
            None | Some([]) => return Ok(checksum),
            Some(bytes) => checksum = crc32c::crc32c_append(checksum, bytes),
        }
        offset += length as u64;
    }
}

/// A writer that passes everything on to another one and computes the checksum of it.
pub struct Summing<W> {
    inner: W,
    /// CRC-32C of everything written.
    pub checksum: u32,
    /// Bytes written.
    pub bytes: u64,
}

impl<W> Summing<W> {
    /// A writer to `inner`.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            checksum: 0,
            bytes: 0,
        }
    }

    /// The other writer.
    pub fn inner_mut(&mut self) -> &mut W {
        &mut self.inner
    }
}

impl<W: Write> Write for Summing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        let bytes = bytes.get(..written).unwrap_or_default();
        self.checksum = crc32c::crc32c_append(self.checksum, bytes);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

fn hex(checksum: u32) -> [u8; DIGITS] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut digits = [b'0'; DIGITS];
    for (place, digit) in digits.iter_mut().rev().enumerate() {
        let nibble = (checksum >> (4 * place)) & 0xF;
        *digit = HEX.get(nibble as usize).copied().unwrap_or(b'0');
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_of_a_small_file_never_passes_for_another_value_or_a_missing_checksum() {
        for value in [r#"{"key":"ab","erased":[]}"#, "[]", r#"[{"name":"a"}]"#] {
            let text = wrap(value.as_bytes());
            assert_eq!(unwrap(&text), Ok(value.as_bytes()));
            for at in 0..text.len() {
                assert!(unwrap(text.get(..at).unwrap_or_default()).is_err());
                for bit in 0..8 {
                    let mut damaged = text.clone();
                    if let Some(byte) = damaged.get_mut(at) {
                        *byte ^= 1 << bit;
                    }
                    assert!(unwrap(&damaged).is_err(), "byte {at}, bit {bit}");
                }
            }
            assert_eq!(unwrap(value.as_bytes()), Err(Mismatch::Missing));
        }
    }

    #[test]
    fn a_flipped_bit_never_makes_a_checked_line_an_unchecked_one() {
        let mut line = br#"{"day":"2026-11-01","mau":4,"feature_usage":{"a":1}"#.to_vec();
        assert!(matches!(check_line(&line), LineCheck::Damaged(_)));
        close_object(&mut line, 0);
        assert_eq!(check_line(&line), LineCheck::Right);
        for at in 0..line.len() {
            for bit in 0..8 {
                let mut damaged = line.clone();
                if let Some(byte) = damaged.get_mut(at) {
                    *byte ^= 1 << bit;
                }
                let found = check_line(&damaged);
                assert!(
                    matches!(found, LineCheck::Damaged(_)),
                    "{at}, {bit}: {found:?}"
                );
            }
        }
        let old = br#"{"day":"2026-11-01","mau":4,"feature_usage":{"a":1}}"#;
        assert_eq!(check_line(old), LineCheck::Unchecked);
    }
}
