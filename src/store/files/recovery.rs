//! Recovery of the event log at the start: every valid line becomes an event again. Only a file
//! that is not a log of ours prevents the start.
//!
//! A line is valid if its checksum matches. Bytes after the last valid line are a torn write, which
//! was never acknowledged, and are cut off. Damage before that is moved to the quarantine and
//! blanked in place, so that the log is valid NDJSON again and every other line keeps its position.
//!
//! A file that could be one of another program is not changed: at most one write group is cut or
//! blanked, all of it is in the quarantine before, and the file has a valid line of ours or is the
//! beginning of one.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Take};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::Serialize;
use tracing::warn;
use utoipa::ToSchema;

use super::folder::{Access, Folder};
use super::log_kind::{self, LogKind, NOT_REGULAR, SYMBOLIC_LINK};
use super::quarantine::{self, Piece};
use super::rotation::RotatedLog;
use super::scan::{Damage, Scan, read_chunk};
use super::shape::{EVENT_LOG_FILE, NEXT_LOG_FILE, QUARANTINE_FILE};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::store::files;
use crate::store::pipeline;

/// Bytes read at a time; a line is at most a tenth of it.
const CHUNK_BYTES: usize = 512 << 10;
/// Most bytes of lines that are written and synced together.
pub const GROUP_BYTES: usize = 4 << 20;
/// Most bytes of a log that are cut or blanked: one write group and a line, which is what a power
/// cut can tear.
const MAX_DAMAGE_BYTES: u64 = (GROUP_BYTES + CHUNK_BYTES / 10) as u64;
/// Bytes read at a time in search of the zeros at the end.
const BLOCK_BYTES: u64 = 64 << 10;

/// Result of the recovery of a log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Recovered {
    /// Valid events.
    pub events: u64,
    /// Bytes of a torn write that were cut off the end.
    pub torn_bytes: u64,
    /// Damaged pieces that were moved to the quarantine.
    pub damaged: u64,
}

impl Recovered {
    /// Traces the damage of a log.
    pub(in crate::store) fn report(self, path: &Path, access: Access) {
        let file = path.file_name().unwrap_or_default().display();
        let is_repaired = access == Access::ReadWrite;
        let (torn_bytes, damaged) = (self.torn_bytes, self.damaged);
        if torn_bytes > 0 && is_repaired {
            warn!(torn_bytes, "Cut a torn write off the end of {file}");
        } else if torn_bytes > 0 {
            warn!(torn_bytes, "Left out a torn write at the end of {file}");
        }
        if damaged > 0 && is_repaired {
            warn!(
                damaged,
                "Moved {damaged} damaged pieces of {file} to {QUARANTINE_FILE}"
            );
        } else if damaged > 0 {
            warn!(damaged, "Left out {damaged} damaged pieces of {file}");
        }
    }
}

/// The existing logs with events that are in no segment, oldest first. If the folder may be
/// changed, interrupted rotations have been completed; otherwise the log that one left is included.
pub(in crate::store) fn logs_to_read(folder: &Folder, sealed_through: u64) -> Result<Vec<PathBuf>> {
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

/// Reads a log and repairs the file, unless the folder is read-only. `add` puts an event into a
/// batch, on all cores; `sink` gets the batches in order, each with the range of bytes of its
/// lines.
///
/// # Errors
/// [`Error::Damaged`] if it is not a log of ours, or if more of it is damaged than one write group;
/// then it is not changed.
pub(in crate::store) fn recover<B: Default + Send>(
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
        // Bytes after the last event may be cut off, and be replaced by other events.
        let valid = found.end_of_last_line;
        Ok((found, (batch, valid, bytes.len() as u64)))
    };
    let mut start = 0;
    let scan = scan_file(path, u64::MAX, read, |(batch, valid, length)| {
        let bytes = start..start + valid;
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
    let is_intact = scan.damaged_inside().next().is_none() && recovered.torn_bytes == 0;
    if !is_intact && folder.access() == Access::ReadWrite {
        repair(folder, path, &scan, &torn, now)?;
    }
    Ok(recovered)
}

/// The end of a log after its last valid line.
struct Torn {
    /// Offset at which the log is cut.
    start: u64,
    /// Offset of the zeros at the end, which are not bytes of the write.
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

/// Checks that the damage is at most what a torn write can leave: otherwise another program may
/// have written most of the file.
fn check_damage(path: &Path, scan: &Scan, torn: &Torn) -> Result<()> {
    let inside: u64 = scan.damaged_inside().map(|damage| damage.length).sum();
    let at_end = torn.zeros.saturating_sub(torn.start);
    let (bytes, position) = if inside >= at_end {
        (inside, "between its events")
    } else {
        (at_end, "after its last event")
    };
    if bytes > MAX_DAMAGE_BYTES {
        return Err(Error::Damaged {
            file: path.to_owned(),
            message: format!(
                "{bytes} bytes {position} are not events of this program, more than the {MAX_DAMAGE_BYTES} that a torn \
                 write can leave; nothing was changed. Move it away, and import its {} events with `echopilot import`",
                scan.events
            ),
        });
    }
    Ok(())
}

/// Offset of the zeros at the end of a part of a file.
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

/// True if the log exists. Anything but a regular file is an error, before anything is read from
/// it.
pub(in crate::store) fn check_regular(path: &Path) -> Result<bool> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        found => match found.map_err(Error::io("inspect", path))? {
            found if found.is_file() => Ok(true),
            found if found.is_symlink() => Err(log_kind::refusal(path, SYMBOLIC_LINK)),
            _ => Err(log_kind::refusal(path, NOT_REGULAR)),
        },
    }
}

/// Reads the first `bytes` of a log without changing it: `read` gets pieces of it, on all cores,
/// and `sink` gets the results in order.
pub(in crate::store) fn scan_file<T: Send>(
    path: &Path,
    bytes: u64,
    read: impl Fn(&[u8]) -> Result<(Scan, T)> + Sync,
    mut sink: impl FnMut(T) -> Result<()>,
) -> Result<Scan> {
    let mut scan = Scan::default();
    let mut chunks = Chunks::open(path, 0..bytes)?;
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

/// Divides a log into parts of complete lines, each of `bytes` bytes or slightly more.
pub(in crate::store) fn parts(path: &Path, bytes: u64) -> Result<Vec<Range<u64>>> {
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
pub(in crate::store) fn scan_part(
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

/// Moves the damage to the quarantine, and repairs the log: damage inside is blanked, a torn end
/// cut off. If the quarantine cannot be written, the damage stays in the log; later lines are found
/// all the same.
fn repair(
    folder: &Folder,
    path: &Path,
    scan: &Scan,
    torn: &Torn,
    now: DateTime<Utc>,
) -> Result<()> {
    let log = files::open_in_place(path)?;
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let kept = pieces(&log, path, scan, torn)
        .and_then(|pieces| quarantine::keep(folder, &file, &pieces, now));
    if let Err(error) = kept {
        warn!("Damage stays in {file}, because it cannot be moved to the quarantine: {error}");
        return Ok(());
    }
    for damage in scan.damaged_inside() {
        log.write_all_at(&damage.blank(), damage.offset)
            .map_err(Error::io("repair", path))?;
    }
    log.set_len(torn.start)
        .map_err(Error::io("cut the torn end of", path))?;
    log.sync_all().map_err(Error::io("sync", path))
}

/// Reads the damaged pieces, without the zeros at the end, of which a file system may leave any
/// number.
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
    let pieces = scan.damage.iter().map(|damage| {
        if is_torn(damage) {
            // A piece of zeros only is empty, but it has its line in the quarantine like any other
            // cut.
            let end = end(damage).min(torn.zeros.max(damage.offset));
            read(damage, end, "torn write")
        } else {
            read(damage, end(damage), damage.reason.reason())
        }
    });
    pieces.collect()
}

/// Part of a log, in chunks of complete lines.
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

    /// Reads the next chunk into a buffer that is reused.
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
        // At the end of the file, and if a line is longer than a chunk, the chunk does not end with
        // a newline.
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
    fn parts_of_a_log_have_each_line_once() {
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

    #[test]
    fn more_damage_than_a_torn_write_leaves_is_an_error() {
        let damage = |offset, length| Damage {
            offset,
            length,
            reason: crate::event::LineError::NoChecksum,
        };
        let most = MAX_DAMAGE_BYTES;
        for (inside, torn_bytes, is_error, position) in [
            (0, 0, false, ""),
            (most, most, false, ""),
            (most + 1, 0, true, "between its events"),
            (0, most + 1, true, "after its last event"),
            (most + 2, most + 1, true, "between its events"),
        ] {
            // Zeros after the torn write do not count.
            let end_of_last_line = inside + 10;
            let scan = Scan {
                events: 1,
                damage: vec![damage(0, inside), damage(end_of_last_line, torn_bytes + 5)],
                end_of_last_line,
                length: end_of_last_line + torn_bytes + 5,
            };
            let torn = Torn {
                start: end_of_last_line,
                zeros: end_of_last_line + torn_bytes,
            };
            match check_damage(Path::new("log"), &scan, &torn) {
                Ok(()) => assert!(!is_error, "{inside} {torn_bytes}"),
                Err(error) => {
                    let message = error.to_string();
                    assert!(is_error && message.contains(position), "{message}");
                }
            }
        }
    }

    #[test]
    fn zeros_at_the_end_are_found_across_blocks() -> std::io::Result<()> {
        let file = tempfile::tempfile()?;
        let zeros = 2 * BLOCK_BYTES + 3;
        file.write_all_at(b"abc", 0)?;
        file.set_len(3 + zeros)?;
        assert_eq!(zeros_at_end(&file, 0..3 + zeros)?, 3);
        assert_eq!(zeros_at_end(&file, 10..3 + zeros)?, 10, "only zeros");
        assert_eq!(zeros_at_end(&file, 0..3)?, 3, "no zeros");
        Ok(())
    }
}
