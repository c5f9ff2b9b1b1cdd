//! Reading the log back at the start: every whole line is an event again, and nothing else stops the start.
//!
//! A line is whole if its checksum holds. What follows the last whole line is a torn write, which was never
//! acknowledged: it is cut off. Damage before that is set aside in the quarantine and blanked out in place, so
//! that the log is valid NDJSON again and every other line keeps its position.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Take, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use tracing::warn;

use super::draft::{Draft, DraftMaker};
use super::pipeline;
use super::scan::{Scan, read_chunk};
use crate::error::{Error, Result};
use crate::event::Event;

/// Where damaged pieces of the log are set aside, in the data folder.
pub const QUARANTINE_FILE: &str = "quarantine.ndjson";
/// Bytes read at a time; a line is at most a tenth of it.
const CHUNK_BYTES: usize = 512 << 10;
/// Bytes of a damaged piece that are kept for inspection.
const KEPT_BYTES: usize = 64 << 10;

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

/// Reads a log, gives its events to `sink` in order, each time with the range of bytes they are in, and mends the file.
pub(super) fn recover(
    path: &Path,
    quarantine: &Path,
    maker: &DraftMaker,
    now: DateTime<Utc>,
    mut sink: impl FnMut(Draft, Range<u64>) -> Result<()>,
) -> Result<Recovered> {
    if !path.exists() {
        return Ok(Recovered::default());
    }
    let read = |bytes: &[u8]| {
        let mut draft = Draft::default();
        let found = read_chunk(bytes, |event| {
            maker.push_stored(&mut draft, event);
            Ok(())
        })?;
        // What follows the last event may be cut off, and then other events take its place.
        let whole = found.end_of_last_line;
        Ok((found, (draft, whole, bytes.len() as u64)))
    };
    let mut start = 0;
    let scan = scan_file(path, read, |(draft, whole, length)| {
        let bytes = start..start + whole;
        start += length;
        sink(draft, bytes)
    })?;
    if scan.events == 0 && begins_with_an_object(path)? {
        return Err(Error::Damaged {
            file: path.to_owned(),
            message: "it has lines, and none of them is one that this program wrote; move it away and bring its \
                      events in with `echopilot import`"
                .into(),
        });
    }
    let recovered = Recovered {
        events: scan.events,
        torn_bytes: scan.length - scan.end_of_last_line,
        damaged: scan.damaged_inside().count() as u64,
    };
    if !scan.damage.is_empty() || recovered.torn_bytes > 0 {
        mend(path, quarantine, &scan, now)?;
    }
    Ok(recovered)
}

/// Whether the first line of a file is whole and a JSON object: not what a torn write leaves.
fn begins_with_an_object(path: &Path) -> Result<bool> {
    let mut start = Vec::new();
    File::open(path)
        .and_then(|file| file.take(CHUNK_BYTES as u64).read_to_end(&mut start))
        .map_err(Error::io("read", path))?;
    let line = start.split_inclusive(|&byte| byte == b'\n').next();
    Ok(line.is_some_and(|line| {
        line.starts_with(b"{")
            && line.ends_with(b"\n")
            && serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok()
    }))
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
    let file = File::open(path).map_err(Error::io("open", path))?;
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

/// Sets the damage aside, then makes the log whole: blanks inside, a cut at the end.
fn mend(path: &Path, quarantine: &Path, scan: &Scan, now: DateTime<Utc>) -> Result<()> {
    let log = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(Error::io("open", path))?;
    let kept = set_aside(&log, path, quarantine, scan, now);
    if let Err(error) = &kept {
        warn!("Damage stays in the log, because it cannot be set aside: {error}");
    }
    for damage in scan.damaged_inside().filter(|_| kept.is_ok()) {
        log.write_all_at(&damage.blank(), damage.offset)
            .map_err(Error::io("mend", path))?;
    }
    log.set_len(scan.end_of_last_line)
        .map_err(Error::io("cut the torn end of", path))?;
    log.sync_all().map_err(Error::io("sync", path))
}

/// One line of the quarantine.
#[derive(Serialize)]
struct Quarantined<'a> {
    found_at: String,
    file: &'a str,
    offset: u64,
    bytes: u64,
    reason: &'a str,
    raw: String,
}

fn set_aside(
    log: &File,
    path: &Path,
    quarantine: &Path,
    scan: &Scan,
    now: DateTime<Utc>,
) -> Result<()> {
    let file = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let mut lines = Vec::new();
    for damage in &scan.damage {
        let mut raw = vec![0; KEPT_BYTES.min(damage.length as usize)];
        log.read_exact_at(&mut raw, damage.offset)
            .map_err(Error::io("read", path))?;
        let torn = damage.offset >= scan.end_of_last_line;
        let quarantined = Quarantined {
            found_at: now.to_rfc3339_opts(SecondsFormat::Secs, true),
            file,
            offset: damage.offset,
            bytes: damage.length,
            reason: if torn {
                "torn write"
            } else {
                damage.reason.reason()
            },
            raw: String::from_utf8_lossy(&raw).into_owned(),
        };
        // Writing to memory cannot fail.
        let _ = serde_json::to_writer(&mut lines, &quarantined);
        lines.push(b'\n');
    }
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(quarantine)
        .map_err(Error::io("open", quarantine))?;
    file.write_all(&lines)
        .and_then(|()| file.sync_all())
        .map_err(Error::io("write", quarantine))?;
    super::folder::sync_parent(quarantine)
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
        let mut file = File::open(path).map_err(Error::io("open", path))?;
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
