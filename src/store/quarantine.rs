//! The quarantine: damaged pieces of the log, whole, each a line of JSON with a checksum. A piece is durable here before it is cut
//! from the log or blanked there.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use super::files;
use super::folder::Folder;
use super::shape::QUARANTINE_FILE;
use crate::checksum::{self, LineCheck};
use crate::error::{Error, Result};
use crate::event::lines;

/// A damaged piece of a log.
pub struct Piece {
    /// Its position in the log, in bytes.
    pub offset: u64,
    /// Its bytes, all of them.
    pub bytes: Vec<u8>,
    /// Why it is no event.
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
    /// As text, in which a person and an erasure look for ids.
    raw: &'a str,
    /// The bytes themselves, if they are no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    hex: Option<String>,
}

/// Keeps pieces of the log `file`, durably.
///
/// # Errors
/// If they cannot be written; then nothing may be taken from the log.
pub fn keep(folder: &Folder, file: &str, pieces: &[Piece], now: DateTime<Utc>) -> Result<()> {
    if pieces.is_empty() {
        return Ok(());
    }
    folder.check_writable()?;
    let path = folder.path().join(QUARANTINE_FILE);
    let quarantine = files::open_in_place(&path)?;
    let mut added = Vec::new();
    if !ends_whole(&quarantine).map_err(Error::io("read", &path))? {
        added.push(b'\n');
    }
    for piece in pieces {
        let start = added.len();
        let raw = String::from_utf8_lossy(&piece.bytes);
        let is_text = matches!(raw, std::borrow::Cow::Borrowed(_));
        let line = Line {
            found_at: now.to_rfc3339_opts(SecondsFormat::Secs, true),
            file,
            offset: piece.offset,
            bytes: piece.bytes.len() as u64,
            reason: piece.reason,
            raw: &raw,
            hex: (!is_text).then(|| hex::encode(&piece.bytes)),
        };
        // Writing to memory cannot fail.
        let _ = serde_json::to_writer(&mut added, &line);
        added.pop();
        checksum::close_object(&mut added, start);
        added.push(b'\n');
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

/// Whether nothing, or a whole line, is at the end.
fn ends_whole(file: &File) -> std::io::Result<bool> {
    let length = file.metadata()?.len();
    let mut last = [b'\n'];
    if let Some(at) = length.checked_sub(1) {
        file.read_exact_at(&mut last, at)?;
    }
    Ok(last == [b'\n'])
}

/// Checks the lines of the file `name`, each of which ends with a checksum if it is not older than that. Returns how many there
/// are, and a sentence for each damaged one.
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
            None => LineCheck::Damaged("it is not a whole line"),
        };
        if let LineCheck::Damaged(why) = found {
            damage.push(format!("{}, line {number}: {why}", path.display()));
        }
    }
    Ok((count, damage))
}
