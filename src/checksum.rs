//! JSON objects that carry a checksum of themselves, and checksums of whole files.
//!
//! The last field of such an object is `"crc32c"`: eight hexadecimal digits of the CRC-32C (Castagnoli) of
//! every byte before its comma. A JSON parser does not notice a flipped bit inside a text; this does.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::{Error, Result};

const KEY: &[u8] = br#","crc32c":""#;
const DIGITS: usize = 8;
const END: &[u8] = br#""}"#;
/// Bytes read at a time.
const BLOCK_BYTES: usize = 1 << 20;

/// Why bytes are not an object with its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch {
    /// It does not end with a checksum field.
    Missing,
    /// The checksum is not that of the bytes before it.
    Wrong,
}

/// Ends the object that begins at `start` and lacks its closing brace, with its checksum.
pub fn close_object(out: &mut Vec<u8>, start: usize) {
    let checksum = crc32c::crc32c(out.get(start..).unwrap_or_default());
    out.extend_from_slice(KEY);
    out.extend_from_slice(&hex(checksum));
    out.extend_from_slice(END);
}

/// Checks an object written by [`close_object`].
///
/// # Errors
/// What is wrong with its last field.
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

/// The checksum of an open file's content; `path` is for messages.
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

/// Writes to another writer and keeps the checksum of what it wrote.
pub struct Summing<W> {
    inner: W,
    /// CRC-32C of all that was written.
    pub checksum: u32,
    /// Bytes written.
    pub bytes: u64,
}

impl<W> Summing<W> {
    /// Nothing was written yet.
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
