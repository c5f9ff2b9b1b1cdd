//! Any bytes are inflated or rejected, with the same result at once and in pieces, and compressed
//! bytes inflate to the original.
#![no_main]

use std::io::{BufReader, Cursor, Read, Write};

use echopilot_fuzz::inflate::inflate;
use libfuzzer_sys::fuzz_target;

/// Limit of inflated bytes.
const MOST_BYTES: u64 = 1 << 20;

fuzz_target!(|input: &[u8]| {
    let at_once = read(input, 64 << 10);
    if at_once.as_ref().is_none_or(|text| text.len() < 64 << 10) {
        assert_eq!(at_once, read(input, 1 + input.len() % 7));
    }
    let Some((&form, text)) = input.split_first() else {
        return;
    };
    let (first, second) = text.split_at(text.len() / 2);
    let packed = match form % 3 {
        0 => [gzip(first), gzip(second), vec![0; form.into()]].concat(),
        1 => [skippable(first), zstd(first), skippable(second), zstd(second)].concat(),
        _ => [bzip2(first), bzip2(second)].concat(),
    };
    assert_eq!(read(&packed, 64 << 10).as_deref(), Some(text));
});

fn read(bytes: &[u8], buffer_bytes: usize) -> Option<Vec<u8>> {
    let reader = BufReader::with_capacity(buffer_bytes, Cursor::new(bytes.to_vec()));
    let mut text = Vec::new();
    inflate(reader).ok()?.take(MOST_BYTES).read_to_end(&mut text).ok()?;
    Some(text)
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text).expect("memory");
    encoder.finish().expect("memory")
}

fn zstd(text: &[u8]) -> Vec<u8> {
    zstd::encode_all(text, 1).expect("memory")
}

/// A skippable frame.
fn skippable(text: &[u8]) -> Vec<u8> {
    let length = u32::try_from(text.len()).expect("an input is short");
    [&b"\x5A\x2A\x4D\x18"[..], &length.to_le_bytes(), text].concat()
}

fn bzip2(text: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(text).expect("memory");
    encoder.finish().expect("memory")
}
