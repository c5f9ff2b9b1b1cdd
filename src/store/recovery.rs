//! Reading the log back at the start: every whole line is an event again, and nothing else stops the start but a file that is no
//! log of ours.
//!
//! A line is whole if its checksum holds. What follows the last whole line is a torn write, which was never
//! acknowledged: it is cut off. Damage before that is set aside in the quarantine and blanked out in place, so
//! that the log is valid NDJSON again and every other line keeps its position. What is cut or blanked is at most one write group,
//! all of it is in the quarantine before, and the file has a whole line of ours or is the beginning of one: anything else may be a
//! file of another program, and is left as it is.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Take};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::Serialize;
use tracing::warn;

use super::files;
use super::folder::{Access, Folder};
use super::log_kind::{self, LogKind};
use super::pipeline;
use super::quarantine::{self, Piece};
use super::rotation::RotatedLog;
use super::scan::{Damage, Scan, read_chunk};
use super::shape::{EVENT_LOG_FILE, NEXT_LOG_FILE, QUARANTINE_FILE};
use crate::error::{Error, Result};
use crate::event::Event;

/// Bytes read at a time; a line is at most a tenth of it.
const CHUNK_BYTES: usize = 512 << 10;
/// Bytes of lines that are written and synced together, at most.
pub const GROUP_BYTES: usize = 4 << 20;
/// Bytes of a log that may be cut or blanked: those of one write group and a line, which is what a power cut can tear.
const MAX_DAMAGE_BYTES: u64 = (GROUP_BYTES + CHUNK_BYTES / 10) as u64;
/// Bytes read at a time in search of the zeros at the end.
const BLOCK_BYTES: u64 = 64 << 10;

/// What reading a log back found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Recovered {
    /// Whole events.
    pub events: u64,
    /// Bytes of a torn write that were cut off the end.
    pub torn_bytes: u64,
    /// Damaged pieces that were set aside.
    pub damaged: u64,
}

impl Recovered {
    /// Traces what was found in a log.
    pub(super) fn report(self, path: &Path, access: Access) {
        let file = path.file_name().unwrap_or_default().display();
        let is_mended = access == Access::ReadWrite;
        if self.torn_bytes > 0 {
            let torn_bytes = self.torn_bytes;
            match is_mended {
                true => warn!(torn_bytes, "Cut a torn write off the end of {file}"),
                false => warn!(torn_bytes, "Left out a torn write at the end of {file}"),
            }
        }
        if self.damaged > 0 {
            let damaged = self.damaged;
            match is_mended {
                true => warn!(
                    damaged,
                    "Set {damaged} damaged pieces of {file} aside in {QUARANTINE_FILE}"
                ),
                false => warn!(damaged, "Left out {damaged} damaged pieces of {file}"),
            }
        }
    }
}

/// The logs that are there and hold events no segment has, oldest first. In a folder that may be changed the rotations have been
/// ended; in another one, what a crash left of one is read as it is.
pub(super) fn logs_to_read(folder: &Folder, sealed_through: u64) -> Result<Vec<PathBuf>> {
    let waiting = RotatedLog::list(folder.path())?;
    let names = match folder.access() {
        Access::ReadWrite => &[EVENT_LOG_FILE][..],
        Access::ReadOnly => &[EVENT_LOG_FILE, NEXT_LOG_FILE],
    };
    let logs = waiting
        .into_iter()
        .filter(|log| log.number > sealed_through)
        .map(|log| log.path)
        .chain(names.iter().map(|name| folder.path().join(name)));
    let mut found = Vec::new();
    for log in logs {
        if check_regular(&log)? {
            found.push(log);
        }
    }
    Ok(found)
}

/// Reads a log and repairs the file, unless the folder is read-only. `add` puts an event into a batch, on all
/// cores; `sink` gets the batches in order, each with the range of bytes of its lines.
///
/// # Errors
/// [`Error::Damaged`] if it is no log of ours, or more of it is damaged than one write group; then it is as it was.
pub(super) fn recover<B: Default + Send>(
    folder: &Folder,
    path: &Path,
    now: DateTime<Utc>,
    add: impl Fn(&mut B, &Event<'_>) + Sync,
    mut sink: impl FnMut(B, Range<u64>) -> Result<()>,
) -> Result<Recovered> {
    let read = |bytes: &[u8]| {
        let mut batch = B::default();
        let found = read_chunk(bytes, |event| {
            add(&mut batch, event);
            Ok(())
        })?;
        // What follows the last event may be cut off, and then other events take its place.
        let whole = found.end_of_last_line;
        Ok((found, (batch, whole, bytes.len() as u64)))
    };
    let mut start = 0;
    let scan = scan_file(path, read, |(batch, whole, length)| {
        let bytes = start..start + whole;
        start += length;
        sink(batch, bytes)
    })?;
    let log = files::open(path)?;
    let torn = Torn::of(&log, path, &scan)?;
    check_damage(path, &scan, &torn)?;
    let recovered = Recovered {
        events: scan.events,
        torn_bytes: scan.length - torn.start,
        damaged: scan.damaged_inside().count() as u64,
    };
    let is_whole = scan.damaged_inside().next().is_none() && recovered.torn_bytes == 0;
    if !is_whole && folder.access() == Access::ReadWrite {
        mend(folder, path, &scan, &torn, now)?;
    }
    Ok(recovered)
}

/// The end of a log after its last whole line.
struct Torn {
    /// Where it is cut.
    start: u64,
    /// Where the zeros begin that are nothing of the write.
    zeros: u64,
}

impl Torn {
    fn of(log: &File, path: &Path, scan: &Scan) -> Result<Self> {
        let zeros = zeros_at_end(log, scan.end_of_last_line..scan.length)
            .map_err(Error::io("read", path))?;
        let kind = match scan.events {
            0 => log_kind::of(path)?,
            _ => LogKind::Ours,
        };
        match kind {
            LogKind::Foreign(found) => Err(log_kind::refusal(path, found)),
            LogKind::Ours => Ok(Self {
                start: scan.end_of_last_line,
                zeros,
            }),
            // Blanks stay as they are.
            LogKind::Empty => Ok(Self {
                start: zeros,
                zeros,
            }),
        }
    }
}

/// Refuses a log of which more is damaged than a torn write can be: most of it may be of another program.
fn check_damage(path: &Path, scan: &Scan, torn: &Torn) -> Result<()> {
    let inside: u64 = scan.damaged_inside().map(|damage| damage.length).sum();
    let at_end = torn.zeros.saturating_sub(torn.start);
    let (bytes, place) = match inside.max(at_end) == inside {
        true => (inside, "between its events"),
        false => (at_end, "after its last event"),
    };
    match bytes > MAX_DAMAGE_BYTES {
        false => Ok(()),
        true => Err(Error::Damaged {
            file: path.to_owned(),
            message: format!(
                "{bytes} bytes {place} are no events of this program, more than the {MAX_DAMAGE_BYTES} that a torn write can \
                 leave; it was left as it is. Move it away, and bring its {} events in with `echopilot import`",
                scan.events
            ),
        }),
    }
}

/// Where the zeros at the end of a part of a file begin.
fn zeros_at_end(file: &File, part: Range<u64>) -> std::io::Result<u64> {
    let mut end = part.end;
    while end > part.start {
        let start = end.saturating_sub(BLOCK_BYTES).max(part.start);
        let mut block = vec![0; (end - start) as usize];
        file.read_exact_at(&mut block, start)?;
        let before = log_kind::without_zeros(&block).len() as u64;
        if before > 0 {
            return Ok(start + before);
        }
        end = start;
    }
    Ok(end)
}

/// Whether there is a log; what is no regular file under its name is refused before anything is read from it.
pub(super) fn check_regular(path: &Path) -> Result<bool> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        found => match found.map_err(Error::io("look at", path))? {
            found if found.is_file() => Ok(true),
            found if found.is_symlink() => Err(log_kind::refusal(path, "a symbolic link")),
            _ => Err(log_kind::refusal(path, "no regular file")),
        },
    }
}

/// Reads a log without changing it: `read` finds the events of some of its bytes, on all cores, and makes
/// something of them that `sink` gets in order.
pub(super) fn scan_file<T: Send>(
    path: &Path,
    read: impl Fn(&[u8]) -> Result<(Scan, T)> + Sync,
    mut sink: impl FnMut(T) -> Result<()>,
) -> Result<Scan> {
    let mut scan = Scan::default();
    let mut chunks = Chunks::open(path, 0..u64::MAX)?;
    pipeline::ordered(
        || chunks.next_chunk(Vec::new()),
        |chunk| Ok((chunk.offset, read(&chunk.bytes)?)),
        |result: Result<(u64, (Scan, T))>| {
            let (offset, (found, made)) = result?;
            scan.add(offset, found);
            sink(made)
        },
    )?;
    Ok(scan)
}

/// The bytes of a log in parts of whole lines, each of so many bytes or a few more.
pub(super) fn parts(path: &Path, bytes: u64) -> Result<Vec<Range<u64>>> {
    let file = files::open(path)?;
    let length = file.metadata().map_err(Error::io("read", path))?.len();
    let mut log = BufReader::new(file);
    let mut parts = Vec::new();
    let mut start = 0;
    while start < length {
        let mut end = start.saturating_add(bytes).min(length);
        log.seek(SeekFrom::Start(end))
            .and_then(|_| log.skip_until(b'\n'))
            .map(|skipped| end += skipped as u64)
            .map_err(Error::io("read", path))?;
        parts.push(start..end);
        start = end;
    }
    Ok(parts)
}

/// Reads a part of a log without changing it, on this thread.
pub(super) fn scan_part(
    path: &Path,
    part: Range<u64>,
    mut sink: impl FnMut(&Event<'_>) -> Result<()>,
) -> Result<Scan> {
    let mut scan = Scan::default();
    let mut chunks = Chunks::open(path, part)?;
    let mut buffer = Vec::new();
    while let Some(chunk) = chunks.next_chunk(buffer)? {
        scan.add(chunk.offset, read_chunk(&chunk.bytes, &mut sink)?);
        buffer = chunk.bytes;
    }
    Ok(scan)
}

/// Sets the damage aside, then makes the log whole: blanks inside, a cut at the end. What cannot be set aside stays in the log,
/// where lines that follow it are found all the same.
fn mend(folder: &Folder, path: &Path, scan: &Scan, torn: &Torn, now: DateTime<Utc>) -> Result<()> {
    let log = files::open_in_place(path)?;
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let kept = pieces(&log, path, scan, torn)
        .and_then(|pieces| quarantine::keep(folder, &file, &pieces, now));
    if let Err(error) = kept {
        warn!("Damage stays in {file}, because it cannot be set aside: {error}");
        return Ok(());
    }
    for damage in scan.damaged_inside() {
        log.write_all_at(&damage.blank(), damage.offset)
            .map_err(Error::io("mend", path))?;
    }
    log.set_len(torn.start)
        .map_err(Error::io("cut the torn end of", path))?;
    log.sync_all().map_err(Error::io("sync", path))
}

/// The damaged pieces, whole; without the zeros at the end, of which a file system may leave any number.
fn pieces(log: &File, path: &Path, scan: &Scan, torn: &Torn) -> Result<Vec<Piece>> {
    let read = |damage: &Damage, end: u64, reason| {
        let mut bytes = vec![0; end.saturating_sub(damage.offset) as usize];
        log.read_exact_at(&mut bytes, damage.offset)
            .map_err(Error::io("read", path))?;
        Ok(Piece {
            offset: damage.offset,
            bytes,
            reason,
        })
    };
    let end = |damage: &Damage| damage.offset + damage.length;
    let is_torn = |damage: &Damage| damage.offset >= scan.end_of_last_line;
    let pieces = scan.damage.iter().map(|damage| match is_torn(damage) {
        // Zeros alone are named, so that a cut is never without a line.
        true => read(
            damage,
            end(damage).min(torn.zeros.max(damage.offset)),
            "torn write",
        ),
        false => read(damage, end(damage), damage.reason.reason()),
    });
    pieces.collect()
}

/// Part of a log, in chunks of whole lines.
struct Chunks {
    file: Take<File>,
    path: PathBuf,
    offset: u64,
    rest: Vec<u8>,
}

struct Chunk {
    offset: u64,
    bytes: Vec<u8>,
}

impl Chunks {
    fn open(path: &Path, part: Range<u64>) -> Result<Self> {
        let mut file = files::open(path)?;
        file.seek(SeekFrom::Start(part.start))
            .map_err(Error::io("read", path))?;
        Ok(Self {
            file: file.take(part.end - part.start),
            path: path.to_owned(),
            offset: part.start,
            rest: Vec::new(),
        })
    }

    /// The next chunk, in a buffer that is free.
    fn next_chunk(&mut self, mut bytes: Vec<u8>) -> Result<Option<Chunk>> {
        bytes.clear();
        bytes.append(&mut self.rest);
        let wanted = CHUNK_BYTES.saturating_sub(bytes.len()).max(1);
        bytes.reserve(wanted);
        let read = Read::by_ref(&mut self.file)
            .take(wanted as u64)
            .read_to_end(&mut bytes)
            .map_err(Error::io("read", &self.path))?;
        if bytes.is_empty() {
            return Ok(None);
        }
        // At the end of the file, and for a line longer than a chunk, the bytes are handed on as they are.
        if read == wanted
            && let Some(newline) = memchr::memrchr(b'\n', &bytes)
        {
            self.rest.extend(bytes.drain(newline + 1..));
        }
        let offset = self.offset;
        self.offset += bytes.len() as u64;
        Ok(Some(Chunk { offset, bytes }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{self, EventType};

    #[test]
    fn parts_of_a_log_hold_each_line_once() {
        let mut lines = Vec::new();
        for number in 0..40_u8 {
            let event = Event {
                ts_us: number.into(),
                event_type: EventType::Action,
                user_id: Some("u".repeat(number.into()).into()),
                feature: None,
                metadata: "{}".into(),
                url: None,
                event_id: None,
                received_at_us: 0,
            };
            event::write_line(&event, &mut lines);
        }
        let dir = tempfile::tempdir().expect("there is a folder for it");
        let path = dir.path().join("log");
        std::fs::write(&path, &lines).expect("it can be written");
        let length = lines.len() as u64;
        let a_line = lines.split_inclusive(|&byte| byte == b'\n').next();
        let a_line = a_line.expect("there are lines").len() as u64;
        for bytes in [1, a_line - 1, a_line, 1_000, length - 1, length, u64::MAX] {
            let parts = parts(&path, bytes).expect("it can be read");
            let mut seen = Vec::new();
            let mut end = 0;
            for part in parts {
                assert_eq!(part.start, end);
                end = part.end;
                let scan = scan_part(&path, part, |event| {
                    seen.push(event.ts_us);
                    Ok(())
                });
                assert!(scan.expect("it can be read").damage.is_empty());
            }
            assert_eq!(end, length);
            assert_eq!(seen, (0..40).collect::<Vec<i64>>(), "parts of {bytes}");
        }
        std::fs::write(&path, "").expect("it can be written");
        assert_eq!(parts(&path, 1).expect("it can be read"), []);
    }
}
