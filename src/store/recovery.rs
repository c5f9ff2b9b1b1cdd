//! Reading the log back at the start: every whole line is an event again, and nothing else stops the start.
//!
//! A line is whole if its checksum holds. What follows the last whole line is a torn write, which was never
//! acknowledged: it is cut off. Damage before that is set aside in the quarantine and blanked out in place, so
//! that the log is valid NDJSON again and every other line keeps its position.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use tracing::warn;

use super::draft::{Draft, DraftMaker};
use super::pipeline;
use super::scan::{Damage, Scan, read_chunk};
use crate::error::{Error, Result};

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
        let found = read_chunk(bytes, |event| maker.push_stored(&mut draft, event))?;
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
    let mut chunks = Chunks::open(path)?;
    pipeline::ordered(
        || chunks.next_chunk(),
        |chunk| Ok((chunk.offset, read(&chunk.bytes)?)),
        |result: Result<(u64, (Scan, T))>| {
            let (offset, (found, made)) = result?;
            scan.events += found.events;
            scan.length = offset + found.length;
            if found.events > 0 {
                scan.end_of_last_line = offset + found.end_of_last_line;
            }
            scan.damage
                .extend(found.damage.into_iter().map(|damage| Damage {
                    offset: damage.offset + offset,
                    ..damage
                }));
            sink(made)
        },
    )?;
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

/// A log in chunks of whole lines.
struct Chunks {
    file: File,
    path: std::path::PathBuf,
    offset: u64,
    rest: Vec<u8>,
}

struct Chunk {
    offset: u64,
    bytes: Vec<u8>,
}

impl Chunks {
    fn open(path: &Path) -> Result<Self> {
        Ok(Self {
            file: File::open(path).map_err(Error::io("open", path))?,
            path: path.to_owned(),
            offset: 0,
            rest: Vec::new(),
        })
    }

    fn next_chunk(&mut self) -> Result<Option<Chunk>> {
        let mut bytes = std::mem::take(&mut self.rest);
        let wanted = CHUNK_BYTES.saturating_sub(bytes.len()).max(1) as u64;
        let read = Read::by_ref(&mut self.file)
            .take(wanted)
            .read_to_end(&mut bytes)
            .map_err(Error::io("read", &self.path))?;
        if bytes.is_empty() {
            return Ok(None);
        }
        // At the end of the file, and for a line longer than a chunk, the bytes are handed on as they are.
        if read as u64 == wanted
            && let Some(newline) = memchr::memrchr(b'\n', &bytes)
        {
            self.rest = bytes.split_off(newline + 1);
        }
        let offset = self.offset;
        self.offset += bytes.len() as u64;
        Ok(Some(Chunk { offset, bytes }))
    }
}
