//! The quarantine: the damaged pieces of logs, each a line of JSON with a checksum. A piece is
//! durable in the quarantine before it is cut from the log or blanked.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::folder::Folder;
use super::shape::QUARANTINE_FILE;
use crate::checksum::{self, LineCheck};
use crate::error::{Error, Result};
use crate::event::lines;
use crate::store::files;
use crate::window::utc_string;

/// A damaged piece of a log.
pub struct Piece {
    /// Its position in the log, in bytes.
    pub offset: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The reason why it is not an event.
    pub reason: &'static str,
}

/// One line of the quarantine.
#[derive(Serialize)]
struct Line<'a> {
    found_at: String,
    file: &'a str,
    offset: u64,
    bytes: u64,
    reason: &'a str,
    /// The bytes as a string, in which people and erasures search for ids.
    raw: &'a str,
    /// The bytes in hexadecimal, if they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    hex: Option<String>,
}

/// Appends pieces of the log `file`, durably.
///
/// # Errors
/// If they cannot be written; then they must stay in the log.
pub fn keep(folder: &Folder, file: &str, pieces: &[Piece], now: DateTime<Utc>) -> Result<()> {
    if pieces.is_empty() {
        return Ok(());
    }
    folder.check_writable()?;
    let path = folder.path().join(QUARANTINE_FILE);
    let quarantine = files::open_in_place(&path)?;
    let mut added = Vec::new();
    if !ends_with_newline(&quarantine).map_err(Error::io("read", &path))? {
        added.push(b'\n');
    }
    for piece in pieces {
        let raw = String::from_utf8_lossy(&piece.bytes);
        let is_utf8 = matches!(raw, std::borrow::Cow::Borrowed(_));
        let line = Line {
            found_at: utc_string(now),
            file,
            offset: piece.offset,
            bytes: piece.bytes.len() as u64,
            reason: piece.reason,
            raw: &raw,
            hex: (!is_utf8).then(|| hex::encode(&piece.bytes)),
        };
        checksum::write_line(&line, &mut added);
    }
    let appended = OpenOptions::new()
        .append(true)
        .open(&path)
        .and_then(|mut file| {
            file.write_all(&added)?;
            file.sync_all()
        });
    appended.map_err(Error::io("write", &path))?;
    files::sync_parent(&path)
}

/// True if the file is empty or its last line is complete.
fn ends_with_newline(file: &File) -> std::io::Result<bool> {
    let length = file.metadata()?.len();
    let mut last = [b'\n'];
    if let Some(at) = length.checked_sub(1) {
        file.read_exact_at(&mut last, at)?;
    }
    Ok(last == [b'\n'])
}

/// Checks the lines of the file `name`, each of which ends with a checksum unless an early version
/// wrote it. Returns the number of lines, and a sentence for each damaged one.
///
/// # Errors
/// If it cannot be read.
pub fn verify_lines(root: &Path, name: &str) -> Result<(usize, Vec<String>)> {
    let path = root.join(name);
    let bytes = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((0, Vec::new())),
        read => read.map_err(Error::io("read", &path))?,
    };
    let mut damage = Vec::new();
    let mut count = 0;
    for (number, line) in (1..).zip(lines(&bytes).filter(|line| !line.is_empty())) {
        count = number;
        let found = match line.strip_suffix(b"\n") {
            Some(line) => checksum::check_line(line),
            None => LineCheck::Damaged("it is not a complete line"),
        };
        if let LineCheck::Damaged(why) = found {
            damage.push(format!("{}, line {number}: {why}", path.display()));
        }
    }
    Ok((count, damage))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_appended_as_checked_lines() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let folder = Folder::take(dir.path(), "a test")?;
        let path = dir.path().join(QUARANTINE_FILE);
        let keep_piece = |bytes: &[u8]| {
            let piece = Piece {
                offset: 7,
                bytes: bytes.to_vec(),
                reason: "torn write",
            };
            keep(&folder, "log", &[piece], DateTime::UNIX_EPOCH)
        };
        keep(&folder, "log", &[], DateTime::UNIX_EPOCH)?;
        assert!(!path.exists());
        keep_piece(br#"{"user_id":"ada"#)?;
        // A power cut has torn the last line; the next one begins on a line of its own.
        let written = std::fs::read(&path).expect("read");
        std::fs::write(&path, [&written[..], b"{\"torn"].concat()).expect("written");
        keep_piece(b"\xFF\0")?;
        let content = std::fs::read(&path).expect("read");
        let found: Vec<serde_json::Result<serde_json::Value>> = content
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(serde_json::from_slice)
            .collect();
        let [Ok(first), Err(_), Ok(second)] = &found[..] else {
            panic!("{found:?}");
        };
        assert_eq!(first["raw"], r#"{"user_id":"ada"#);
        assert_eq!((&first["offset"], &first["bytes"]), (&7.into(), &15.into()));
        assert_eq!(first.get("hex"), None);
        assert_eq!(second["hex"], "ff00");
        let (lines, damage) = verify_lines(dir.path(), QUARANTINE_FILE)?;
        assert_eq!(lines, 3);
        assert_eq!(damage.len(), 1, "{damage:?}");
        assert!(damage[0].contains("line 2"), "{damage:?}");
        Ok(())
    }
}
