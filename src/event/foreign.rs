//! Recognises files that hold no events by their first bytes, for people who named the wrong file.

use crate::error::first_chars;

/// First bytes of file formats that are not JSON, with their names.
const MARKS: [(&[u8], &str); 19] = [
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"ORC", "an ORC file"),
    (b"Obj\x01", "an Avro file"),
    (b"SQLite format 3", "an SQLite database"),
    (b"PK\x03\x04", "a ZIP archive or a spreadsheet"),
    (b"7z\xBC\xAF\x27\x1C", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x1F\x8B", "gzip, compressed twice"),
    (b"\x28\xB5\x2F\xFD", "zstd, compressed twice"),
    (b"BZh", "bzip2, compressed twice"),
    (b"\xFD7zXZ\0", "xz, compressed twice"),
    (b"\x1F\x9D", "compressed by compress"),
    (b"\x04\x22\x4D\x18", "compressed by lz4"),
    (b"\x5D\0\0", "compressed by lzma"),
    (b"LZIP", "compressed by lzip"),
    (b"%PDF", "a PDF"),
    (b"<?xml", "XML"),
    (b"\xD0\xCF\x11\xE0", "an Office document"),
];
/// Position of the signature of a tar archive.
const TAR_MARK: std::ops::Range<usize> = 257..262;
/// Number of first bytes among which a zero indicates binary data.
const HEAD_BYTES: usize = 1024;
/// Characters of the first line that a message quotes.
const SHOWN_CHARS: usize = 60;

/// The encoding of JSON that is not UTF-8, detected by its byte-order mark or by the zeros between
/// its letters.
pub fn charset(start: &[u8]) -> Option<&'static str> {
    match start {
        [0xFF, 0xFE, 0, 0, ..] | [0, 0, 0xFE, 0xFF, ..] | [b'{' | b'[', 0, 0, 0, ..] => {
            Some("UTF-32")
        }
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] | [b'{' | b'[', 0, ..] | [0, b'{' | b'[', ..] => {
            Some("UTF-16")
        }
        _ => None,
    }
}

/// The format of a file that is not UTF-8, whatever lines it contains.
pub fn format(start: &[u8]) -> Option<String> {
    if let Some(charset) = charset(start) {
        return Some(format!(
            "{charset}; convert it to UTF-8, for example with iconv"
        ));
    }
    if let Some((_, what)) = MARKS.iter().find(|(mark, _)| start.starts_with(mark)) {
        return Some((*what).to_owned());
    }
    if start.get(TAR_MARK) == Some(b"ustar") {
        return Some("a tar archive; unpack it first".to_owned());
    }
    // A zero byte in a file of events is an error in one of them.
    let begins_as_json = matches!(start.trim_ascii_start().first(), Some(b'{' | b'['));
    let head = start.get(..HEAD_BYTES).unwrap_or(start);
    (!begins_as_json && head.contains(&0)).then(|| "binary data".to_owned())
}

/// The likely format of a file without events, with advice where there is any.
pub fn looks_like(start: &[u8]) -> String {
    if let Some(format) = format(start) {
        return format;
    }
    let first = start.trim_ascii_start();
    let first = first.split(|byte| matches!(byte, b'\n' | b'\r')).next();
    let first = String::from_utf8_lossy(first.unwrap_or_default());
    let what = match first.trim_start() {
        line if line.starts_with('<') => "HTML or XML",
        line if line.contains('\t') => "TSV (columns separated by tabs)",
        line if line.contains(',') || line.contains(';') => "CSV",
        _ => "plain text",
    };
    let shown = first_chars(&first, SHOWN_CHARS);
    format!("{what}; its first line is {shown:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_file_formats_are_recognised() {
        let mut tar = vec![b'a'; 512];
        tar[TAR_MARK].copy_from_slice(b"ustar");
        for (start, says) in [
            (&b"ts,event_type,user_id\n1,action,u"[..], "CSV"),
            (b"ts;event_type\n", "CSV"),
            (b"ts\tevent_type\n", "TSV"),
            (b"hello\n", "plain text; its first line is \"hello\""),
            (b"<!doctype html>", "HTML"),
            (b"<?xml version", "XML"),
            (b"PAR1\x15\x04", "Parquet"),
            (b"PK\x03\x04rest", "ZIP"),
            (b"\x04\x22\x4D\x18rest", "lz4"),
            (b"\x7fELF\0\0", "binary data"),
            (b"\xff\xfe{\0\"\0", "UTF-16"),
            (b"\xfe\xff\0{\0\"", "UTF-16"),
            (b"{\0\"\0e\0", "UTF-16"),
            (b"{\0\0\0\"\0\0\0", "UTF-32"),
            (&tar, "tar"),
        ] {
            let found = looks_like(start);
            assert!(found.contains(says), "{found}: {says}");
        }
        assert_eq!(charset(b"{\"a\":1}"), None);
    }
}
