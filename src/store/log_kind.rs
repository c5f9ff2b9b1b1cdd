//! What a file under an event log's name is, from its beginning: a log of ours, nothing yet, or a file of another program, which
//! is never cut, blanked or emptied.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::files;
use super::scan::read_chunk;
use crate::error::{Error, Result};
use crate::event::LINE_START;

/// Bytes at the start that are looked at: more than a write group, so that a torn or damaged group is not all that is seen.
const HEAD_BYTES: u64 = 8 << 20;
/// What follows the time in every line of ours.
const AFTER_TS: &[u8] = br#"","event_type":""#;
/// Bytes of a time.
const TS_BYTES: usize = 30;

/// What a log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogKind {
    /// There is no such file, or nothing in it: no byte, or zeros and blanks alone.
    Empty,
    /// It has a whole line of ours, or is the beginning of one.
    Ours,
    /// Another program wrote it; what it looks like.
    Foreign(&'static str),
}

/// Looks at the beginning of a log.
///
/// # Errors
/// If it cannot be read.
pub fn of(path: &Path) -> Result<LogKind> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(LogKind::Empty),
        found => {
            let found = found.map_err(Error::io("look at", path))?;
            if found.is_symlink() {
                return Ok(LogKind::Foreign("a symbolic link"));
            }
            if !found.is_file() {
                return Ok(LogKind::Foreign("no regular file"));
            }
        }
    }
    let mut head = Vec::new();
    let file: File = files::open(path)?;
    file.take(HEAD_BYTES)
        .read_to_end(&mut head)
        .map_err(Error::io("read", path))?;
    judge(&head)
}

fn judge(head: &[u8]) -> Result<LogKind> {
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

/// The bytes before the zeros at the end, which a file system leaves of a write that a power cut interrupted.
pub fn without_zeros(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|&byte| byte != 0);
    bytes
        .get(..end.map_or(0, |end| end + 1))
        .unwrap_or_default()
}

/// Whether some bytes are the beginning of a line of ours, and nothing else: a torn write has no line end, and is no whole
/// JSON object unless it is a whole line of ours.
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
    let is_whole_json = || serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok();
    is_line && (crate::event::read_line(bytes).is_ok() || !is_whole_json())
}

/// What a file looks like that has no line of ours.
fn describe(bytes: &[u8]) -> &'static str {
    let first_line = bytes
        .split(|&byte| byte == b'\n')
        .next()
        .unwrap_or_default();
    match bytes {
        [0x1F, 0x8B, ..] => "gzip data",
        [0x28, 0xB5, 0x2F, 0xFD, ..] => "zstd data",
        [0xEF, 0xBB, 0xBF, ..] => "text with a byte-order mark, without a line of this program",
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => "text in UTF-16",
        _ if bytes.trim_ascii_start().starts_with(b"[") => "a JSON list",
        _ if first_line.trim_ascii().is_empty() => {
            "a blank first line, and no line of this program"
        }
        _ if first_line.trim_ascii_start().starts_with(b"{") => {
            "JSON lines that this program did not write"
        }
        _ if std::str::from_utf8(bytes.get(..bytes.len().min(512)).unwrap_or_default())
            .is_err_and(|error| error.error_len().is_some()) =>
        {
            "binary data"
        }
        _ => "text that this program did not write",
    }
}

/// The refusal to use such a file.
pub fn refusal(path: &Path, found: &str) -> Error {
    Error::Damaged {
        file: path.to_owned(),
        message: format!(
            "it is no event log that this program wrote, but {found}; it was left as it is. Move it away, and bring its \
             events in with `echopilot import`"
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
    fn every_beginning_of_a_line_of_ours_is_ours_and_nothing_like_it() -> Result<()> {
        let line = line();
        for cut in 1..=line.len() {
            let torn = line.get(..cut).unwrap_or_default();
            assert_eq!(judge(torn)?, LogKind::Ours, "cut at {cut}");
            assert_eq!(judge(&[torn, &[0; 5000]].concat())?, LogKind::Ours, "{cut}");
        }
        for empty in [&b""[..], &[0; 100_000], b"\n", b"  \n\n", b"   \n\0\0"] {
            assert_eq!(judge(empty)?, LogKind::Empty, "{empty:?}");
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
            assert!(matches!(judge(other)?, LogKind::Foreign(_)), "{other:?}");
        }
        Ok(())
    }
}
