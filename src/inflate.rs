//! Decompression of streams as the standard tools write and accept them, detected by their first
//! bytes.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result};
use std::mem::take;

use flate2::bufread::GzDecoder;

/// Number of first bytes that are enough to detect every format.
const START_BYTES: usize = 512;
/// Size of the buffer of inflated bytes.
const BUFFER_BYTES: usize = 64 << 10;
/// Memory limit of the dictionary of an xz stream, in KiB: `xz -9` takes 64 MiB.
const XZ_MEMORY_KIB: u32 = 256 << 10;

/// A compression format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// gzip, of any number of members.
    Gzip,
    /// Zstandard, of any number of frames, skippable ones included.
    Zstd,
    /// bzip2, of any number of streams.
    Bzip2,
    /// xz, of any number of streams.
    Xz,
}

impl Form {
    /// Detects the format by the first bytes.
    pub fn of(start: &[u8]) -> Option<Self> {
        match start {
            [0x1F, 0x8B, ..] => Some(Self::Gzip),
            // A frame, or a skippable frame.
            [0x28, 0xB5, 0x2F, 0xFD, ..] | [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..] => Some(Self::Zstd),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(Self::Bzip2),
            [0xFD, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            _ => None,
        }
    }
}

/// Inflates a stream if it is compressed, and returns it unchanged otherwise.
///
/// # Errors
/// If its start cannot be read.
pub fn inflate<R: BufRead + Send + 'static>(reader: R) -> Result<Box<dyn BufRead + Send>> {
    let reader = Started::new(reader)?;
    let buffered = |reader: Box<dyn Read + Send>| BufReader::with_capacity(BUFFER_BYTES, reader);
    Ok(match Form::of(&reader.start) {
        None => Box::new(reader),
        Some(Form::Gzip) => Box::new(buffered(Box::new(Gzip::new(reader)))),
        Some(Form::Zstd) => {
            let decoder = zstd::stream::read::Decoder::with_buffer(reader)?;
            Box::new(buffered(Box::new(decoder)))
        }
        Some(Form::Bzip2) => {
            let decoder = bzip2::bufread::MultiBzDecoder::new(reader);
            Box::new(buffered(Box::new(decoder)))
        }
        Some(Form::Xz) => {
            let decoder = lzma_rust2::XzReader::new_mem_limit(reader, true, XZ_MEMORY_KIB);
            Box::new(buffered(Box::new(decoder)))
        }
    })
}

/// A stream whose first bytes were read already: a pipe may deliver them in small pieces.
struct Started<R> {
    start: Vec<u8>,
    at: usize,
    rest: R,
}

impl<R: BufRead> Started<R> {
    fn new(mut rest: R) -> Result<Self> {
        let mut start = Vec::with_capacity(START_BYTES);
        rest.by_ref()
            .take(START_BYTES as u64)
            .read_to_end(&mut start)?;
        Ok(Self { start, at: 0, rest })
    }
}

impl<R: BufRead> Read for Started<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Started<R> {
    fn fill_buf(&mut self) -> Result<&[u8]> {
        match self.start.get(self.at..) {
            Some(start) if !start.is_empty() => Ok(start),
            _ => self.rest.fill_buf(),
        }
    }

    fn consume(&mut self, bytes: usize) {
        if self.at < self.start.len() {
            self.at += bytes;
        } else {
            self.rest.consume(bytes);
        }
    }
}

/// Inflates gzip: a sequence of members, and zeros after the last one, with which tapes and block
/// devices pad it.
pub struct Gzip<R>(Member<R>);

#[derive(Default)]
enum Member<R> {
    Inside(Box<GzDecoder<R>>),
    After(R),
    #[default]
    Failed,
}

impl<R: BufRead> Gzip<R> {
    /// Inflates a stream that begins with a member.
    pub fn new(reader: R) -> Self {
        Self(Member::Inside(Box::new(GzDecoder::new(reader))))
    }
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match take(&mut self.0) {
                Member::Inside(mut decoder) => match decoder.read(buffer)? {
                    0 => self.0 = Member::After(decoder.into_inner()),
                    read => {
                        self.0 = Member::Inside(decoder);
                        return Ok(read);
                    }
                },
                Member::After(mut reader) => match reader.fill_buf()?.first() {
                    Some(0) => {
                        skip_zeros(&mut reader)?;
                        self.0 = Member::After(reader);
                    }
                    Some(_) => self.0 = Member::Inside(Box::new(GzDecoder::new(reader))),
                    None => {
                        self.0 = Member::After(reader);
                        return Ok(0);
                    }
                },
                Member::Failed => return Err(trailing()),
            }
        }
    }
}

/// Reads zeros to the end.
fn skip_zeros(reader: &mut impl BufRead) -> Result<()> {
    loop {
        let bytes = reader.fill_buf()?;
        if bytes.is_empty() {
            return Ok(());
        }
        if bytes.iter().any(|byte| *byte != 0) {
            return Err(trailing());
        }
        let read = bytes.len();
        reader.consume(read);
    }
}

fn trailing() -> Error {
    Error::new(
        ErrorKind::InvalidData,
        "the compressed stream is damaged, or followed by other data",
    )
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use flate2::{Compression, GzBuilder};

    use super::*;

    const TEXT: &[u8] = b"{\"event_type\":\"action\"}\n";

    const XZ: &[u8] =
        b"\xfd\x37\x7a\x58\x5a\x00\x00\x04\xe6\xd6\xb4\x46\x02\x00\x21\x01\x16\x00\x00\x00\x74\x2f\
        \xe5\xa3\x01\x00\x17\x7b\x22\x65\x76\x65\x6e\x74\x5f\x74\x79\x70\x65\x22\x3a\x22\x61\x63\
        \x74\x69\x6f\x6e\x22\x7d\x0a\x00\x7a\x67\x14\x7e\xdd\xaa\xbd\x8d\x00\x01\x30\x18\x8e\x1b\
        \xac\xec\x1f\xb6\xf3\x7d\x01\x00\x00\x00\x00\x04\x59\x5a";

    fn read(bytes: &[u8]) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        // Two bytes at a time, as from a pipe.
        let reader = BufReader::with_capacity(2, Cursor::new(bytes.to_vec()));
        inflate(reader)?.read_to_end(&mut text)?;
        Ok(text)
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzBuilder::new()
            .filename("events.ndjson")
            .comment("a comment")
            .extra(*b"BC\x02\0\0\0")
            .write(Vec::new(), Compression::fast());
        encoder.write_all(text).expect("memory");
        encoder.finish().expect("memory")
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        zstd::encode_all(text, 1).expect("memory")
    }

    /// A skippable frame of 3 bytes.
    fn skippable() -> Vec<u8> {
        b"\x50\x2A\x4D\x18\x03\0\0\0abc".to_vec()
    }

    fn bzip2(text: &[u8]) -> Vec<u8> {
        let level = bzip2::Compression::fast();
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), level);
        encoder.write_all(text).expect("memory");
        encoder.finish().expect("memory")
    }

    /// [`TEXT`], compressed by `xz`.
    fn xz(text: &[u8]) -> Vec<u8> {
        assert_eq!(text, TEXT);
        XZ.to_vec()
    }

    #[test]
    fn all_formats_are_inflated_as_by_the_standard_tools() {
        let twice = [TEXT, TEXT].concat();
        let empty = gzip(b"");
        for (name, bytes, expected) in [
            ("plain", TEXT.to_vec(), TEXT),
            ("nothing", Vec::new(), &b""[..]),
            ("two bytes", b"{}".to_vec(), &b"{}"[..]),
            ("gzip", gzip(TEXT), TEXT),
            ("gzip members", [gzip(TEXT), gzip(TEXT)].concat(), &twice),
            ("blocked gzip", [gzip(TEXT), empty].concat(), TEXT),
            ("padded gzip", [gzip(TEXT), vec![0; 700]].concat(), TEXT),
            ("zstd", zstd(TEXT), TEXT),
            ("zstd frames", [zstd(TEXT), zstd(TEXT)].concat(), &twice),
            (
                "zstd, skippable first",
                [skippable(), zstd(TEXT)].concat(),
                TEXT,
            ),
            (
                "zstd, skippable between and last",
                [zstd(TEXT), skippable(), zstd(TEXT), skippable()].concat(),
                &twice,
            ),
            ("bzip2", bzip2(TEXT), TEXT),
            ("bzip2 streams", [bzip2(TEXT), bzip2(TEXT)].concat(), &twice),
            ("xz", xz(TEXT), TEXT),
            ("xz streams", [xz(TEXT), xz(TEXT)].concat(), &twice),
            ("padded xz", [xz(TEXT), vec![0; 8]].concat(), TEXT),
        ] {
            let found = read(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn damaged_truncated_or_followed_streams_are_errors() {
        for format in [gzip, zstd, bzip2, xz] {
            let stream = format(TEXT);
            for length in 6..stream.len() {
                assert!(read(&stream[..length]).is_err(), "{length} of {stream:?}");
            }
            let followed = [&stream[..], b"something else"].concat();
            assert!(read(&followed).is_err(), "{stream:?}");
        }
        let mut damaged = gzip(TEXT);
        let at = damaged.len() - 6;
        damaged[at] ^= 1;
        assert!(read(&damaged).is_err());
        assert!(read(&[gzip(TEXT), vec![0; 9], gzip(TEXT)].concat()).is_err());
    }
}
