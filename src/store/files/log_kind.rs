//! Recognizes a file under the name of an event log by its beginning: an event log of this program,
//! an empty file, or a file of another program, which is never changed.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::scan::read_chunk;
use crate::error::{Error, Result};
use crate::event::LINE_START;
use crate::store::files;

/// Bytes at the start that are inspected: more than a write group, so that a torn or damaged group
/// is not all that is seen.
const HEAD_BYTES: u64 = 8 << 20;
/// The bytes after the time in every line of ours.
const AFTER_TS: &[u8] = br#"","event_type":""#;
/// Most bytes of a time.
const TS_BYTES: usize = 30;

/// Kind of a file under the name of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogKind {
    /// It does not exist, or is empty apart from zeros and blanks.
    Empty,
    /// It has a valid line of ours, or is the beginning of one.
    Ours,
    /// Another program wrote it; a description of its content.
    Foreign(&'static str),
}

/// Determines the kind of a log.
///
/// # Errors
/// If it cannot be read.
pub fn of(path: &Path) -> Result<LogKind> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(LogKind::Empty),
        found => {
            let found = found.map_err(Error::io("inspect", path))?;
            if found.is_symlink() {
                return Ok(LogKind::Foreign(SYMBOLIC_LINK));
            }
            if !found.is_file() {
                return Ok(LogKind::Foreign(NOT_REGULAR));
            }
        }
    }
    let mut head = Vec::new();
    let file: File = files::open(path)?;
    file.take(HEAD_BYTES)
        .read_to_end(&mut head)
        .map_err(Error::io("read", path))?;
    kind_of(&head)
}

/// The kind of a file that begins with these bytes.
fn kind_of(head: &[u8]) -> Result<LogKind> {
    if read_chunk(head, |_| Ok(()))?.events > 0 {
        return Ok(LogKind::Ours);
    }
    Ok(match without_zeros(head) {
        rest if rest.trim_ascii().is_empty() && (rest.is_empty() || rest.ends_with(b"\n")) => {
            LogKind::Empty
        }
        rest if is_torn_line(rest) => LogKind::Ours,
        rest => LogKind::Foreign(describe(rest)),
    })
}

/// The bytes without the zeros at their end, which a file system can leave of an interrupted write
/// after a power cut.
pub fn without_zeros(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|&byte| byte != 0);
    bytes
        .get(..end.map_or(0, |end| end + 1))
        .unwrap_or_default()
}

/// True if the bytes are the beginning of a line of ours and nothing else. A torn write has no
/// newline, and is not a complete JSON object unless it is a complete line of ours.
pub fn is_torn_line(bytes: &[u8]) -> bool {
    let starts = |bytes: &[u8], with: &[u8]| {
        let length = bytes.len().min(with.len());
        bytes.get(..length) == with.get(..length)
    };
    if bytes.contains(&b'\n') || !starts(bytes, LINE_START) {
        return false;
    }
    let rest = bytes.get(LINE_START.len()..).unwrap_or_default();
    let ts_end = rest.iter().position(|&byte| byte == b'"');
    let is_line = match ts_end {
        None => rest.len() <= TS_BYTES,
        Some(end) => end <= TS_BYTES && starts(rest.get(end..).unwrap_or_default(), AFTER_TS),
    };
    let is_complete_json = || serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok();
    is_line && (crate::event::read_line(bytes).is_ok() || !is_complete_json())
}

/// Describes the content of a file without a line of ours.
fn describe(bytes: &[u8]) -> &'static str {
    let first_line = bytes
        .split(|&byte| byte == b'\n')
        .next()
        .unwrap_or_default();
    match bytes {
        [0x1F, 0x8B, ..] => "gzip data",
        [0x28, 0xB5, 0x2F, 0xFD, ..] => "zstd data",
        [0xEF, 0xBB, 0xBF, ..] => "a text file with a byte-order mark",
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => "a text file in UTF-16",
        _ if bytes.trim_ascii_start().starts_with(b"[") => "a JSON list",
        _ if first_line.trim_ascii().is_empty() => {
            "a file with a blank first line and without a line of this program"
        }
        _ if first_line.trim_ascii_start().starts_with(b"{") => {
            "JSON lines that this program did not write"
        }
        _ if std::str::from_utf8(bytes.get(..bytes.len().min(512)).unwrap_or_default())
            .is_err_and(|error| error.error_len().is_some()) =>
        {
            "binary data"
        }
        _ => "a text file that this program did not write",
    }
}

/// Description of a symbolic link.
pub const SYMBOLIC_LINK: &str = "a symbolic link";
/// Description of a folder, a device and so on.
pub const NOT_REGULAR: &str = "something other than a regular file";

/// The error for a [`LogKind::Foreign`] file with this description.
pub fn refusal(path: &Path, found: &str) -> Error {
    Error::Damaged {
        file: path.to_owned(),
        message: format!(
            "it is not an event log of this program but {found}; nothing was changed. Move it away, and \
             import its events with `echopilot import`"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, EventType, write_line};

    fn line() -> Vec<u8> {
        let mut line = Vec::new();
        let event = Event {
            ts_us: 1_761_040_800_123_456,
            event_type: EventType::Action,
            user_id: Some("u".into()),
            feature: None,
            metadata: "{}".into(),
            url: None,
            event_id: None,
            received_at_us: 1_761_040_800_250_000,
        };
        write_line(&event, &mut line);
        line
    }

    #[test]
    fn every_beginning_of_a_line_of_ours_is_recognized_and_similar_files_are_not() -> Result<()> {
        let line = line();
        for cut in 1..=line.len() {
            let torn = line.get(..cut).unwrap_or_default();
            assert_eq!(kind_of(torn)?, LogKind::Ours, "cut at {cut}");
            assert_eq!(
                kind_of(&[torn, &[0; 5000]].concat())?,
                LogKind::Ours,
                "{cut}"
            );
        }
        for empty in [&b""[..], &[0; 100_000], b"\n", b"  \n\n", b"   \n\0\0"] {
            assert_eq!(kind_of(empty)?, LogKind::Empty, "{empty:?}");
        }
        let foreign = br#"{"ts":"2025-10-21T10:00:00Z","event_type":"action","user_id":"u"}"#;
        for other in [
            &foreign[..],
            &[foreign, &b"\n"[..]].concat(),
            &[b"\n", &foreign[..], b"\n"].concat(),
            &[b"\xEF\xBB\xBF", &foreign[..], b"\n"].concat(),
            &[b" ", &foreign[..], b"\n"].concat(),
            &[b"[", &foreign[..], b"]"].concat(),
            foreign.get(9..).unwrap_or_default(),
            br#"{"ts":"2025-10-21T10:00:00Z","level":"info","msg":"starting u"#,
            br#"{"ts":1761040800,"event"#,
            b"\x1F\x8B\x08\0\0",
            b"\x28\xB5\x2F\xFD\0",
            b"PAR1\0\0",
            b"   ",
            b"notes",
        ] {
            assert!(matches!(kind_of(other)?, LogKind::Foreign(_)), "{other:?}");
        }
        Ok(())
    }
}
