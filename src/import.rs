//! Bringing existing events in: NDJSON, plain or compressed, from files or standard input.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::event::{self, Verdict};
use crate::store::{Part, RestCounts, Store, Stored, pipeline};
use crate::window::DAY_US;

/// Bytes of lines that are stored at once, as one segment of each day; a core that is at work on them takes several times as
/// much memory.
const CHUNK_BYTES: usize = 16 << 20;
/// Bytes that are read from a file at a time when less than a chunk is missing.
const BUFFER_BYTES: usize = 64 << 10;
/// Refused lines that are described; the rest is counted.
const DESCRIBED_REFUSALS: usize = 20;
/// The longest line: an event with all the metadata it may have, escaped in the worst way.
const MAX_LINE_BYTES: usize = 1 << 20;

/// What became of the lines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Events stored.
    pub accepted: u64,
    /// Events that were there, known by their id.
    pub duplicates: u64,
    /// Events older than any window.
    pub too_old: u64,
    /// Lines that are no event.
    pub refused: u64,
    /// Accepted events whose name is beyond a daily limit.
    #[serde(skip_serializing_if = "RestCounts::is_empty")]
    pub rest: RestCounts,
    /// Why, for the first of them, with file and line.
    pub errors: Vec<String>,
}

/// Where events come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file; `.gz` and `.zst` are inflated.
    File(PathBuf),
    /// Standard input, plain or compressed: the first bytes tell.
    Stdin,
}

/// How far an import is: bytes read from the files, compressed as they are.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Bytes read.
    pub bytes: Arc<AtomicU64>,
    /// Lines read.
    pub lines: Arc<AtomicU64>,
}

/// Stores all events of the sources, received at `now`. With `rebase_to` all times are shifted by whole days
/// so that the newest event falls on that day.
///
/// # Errors
/// If a source cannot be read or the store cannot write; what was accepted before stays.
pub fn import(
    store: &Store,
    sources: &[Source],
    rebase_to: Option<NaiveDate>,
    now: DateTime<Utc>,
    progress: &Progress,
) -> Result<Imported> {
    let shift_us = match rebase_to {
        None => 0,
        Some(day) => days_to(day, newest_ts_us(sources)?) * DAY_US,
    };
    let importer = Importer {
        progress,
        received_at_us: store.receive(now)?.at_us,
        shift_us,
    };
    let mut imported = Imported::default();
    for source in sources {
        importer.run(store, source, &mut imported)?;
    }
    Ok(imported)
}

impl Source {
    /// The name in messages.
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Stdin => "standard input".into(),
        }
    }

    /// Bytes to read, compressed as they are; unknown for standard input.
    pub fn bytes(&self) -> Option<u64> {
        match self {
            Self::File(path) => path.metadata().ok().map(|facts| facts.len()),
            Self::Stdin => None,
        }
    }

    fn open(&self, progress: &Progress) -> Result<Box<dyn BufRead + Send>> {
        let (reader, path): (Box<dyn Read + Send>, &Path) = match self {
            Self::File(path) => (
                Box::new(File::open(path).map_err(Error::io("open", path))?),
                path,
            ),
            Self::Stdin => (Box::new(std::io::stdin()), Path::new("standard input")),
        };
        let counted = Counted {
            reader,
            bytes: progress.bytes.clone(),
        };
        inflate(BufReader::with_capacity(BUFFER_BYTES, counted)).map_err(Error::io("read", path))
    }
}

/// Looks at the first bytes: a compressed stream says so itself, whatever the file's name.
fn inflate(mut reader: impl BufRead + Send + 'static) -> std::io::Result<Box<dyn BufRead + Send>> {
    let start = reader.fill_buf()?;
    if start.starts_with(&[0x1F, 0x8B]) {
        let inflated = flate2::bufread::MultiGzDecoder::new(reader);
        return Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, inflated)));
    }
    if start.starts_with(&[0x28, 0xB5, 0x2F, 0xFD]) {
        let inflated = zstd::stream::read::Decoder::with_buffer(reader)?;
        return Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, inflated)));
    }
    Ok(Box::new(reader))
}

/// Counts what is read through it.
struct Counted<R> {
    reader: R,
    bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// The `ts` of the newest event of all sources, in µs.
fn newest_ts_us(sources: &[Source]) -> Result<Option<i64>> {
    let mut newest = None;
    for source in sources {
        if *source == Source::Stdin {
            return Err(Error::bad_input(
                "bad_rebase_to",
                "--rebase-to reads its input twice, which standard input cannot be; name a file",
            ));
        }
        let mut reader = source.open(&Progress::default())?;
        pipeline::ordered(
            || read_lines(&mut reader, &source.name()),
            |lines: Vec<u8>| event::lines(&lines).filter_map(valid_ts_us).max(),
            |found| {
                newest = newest.max(found);
                Ok(())
            },
        )?;
    }
    Ok(newest)
}

/// When an event happened that would be accepted at that time.
fn valid_ts_us(line: &[u8]) -> Option<i64> {
    let event = event::read_event(line.trim_ascii()).ok()?;
    let ts_us = event.ts_us()?;
    matches!(event.judge(ts_us, 0), Verdict::Accepted(_)).then_some(ts_us)
}

/// Whole days from the day of `newest_us` to `day`.
fn days_to(day: NaiveDate, newest_us: Option<i64>) -> i64 {
    let epoch_day = day.signed_duration_since(NaiveDate::default()).num_days();
    newest_us.map_or(0, |newest_us| epoch_day - newest_us.div_euclid(DAY_US))
}

/// The next whole lines, some of them; `None` at the end.
fn read_lines(reader: &mut impl BufRead, name: &str) -> Result<Option<Vec<u8>>> {
    let io = |error| Error::io("read", name.as_ref())(error);
    let mut lines = Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 8);
    Read::by_ref(reader)
        .take(CHUNK_BYTES as u64)
        .read_to_end(&mut lines)
        .map_err(io)?;
    if lines.len() == CHUNK_BYTES && !lines.ends_with(b"\n") {
        // A line without end is refused when it is judged, once it is as long as no event is.
        Read::by_ref(reader)
            .take(MAX_LINE_BYTES as u64)
            .read_until(b'\n', &mut lines)
            .map_err(io)?;
    }
    Ok(Some(lines).filter(|lines| !lines.is_empty()))
}

struct Importer<'a> {
    progress: &'a Progress,
    received_at_us: i64,
    shift_us: i64,
}

/// What some lines were that are not stored.
#[derive(Default)]
struct Judged {
    lines: u64,
    too_old: u64,
    /// Line among them, from 0, and what is wrong.
    refused: Vec<(u64, String)>,
}

impl Importer<'_> {
    fn run(&self, store: &Store, source: &Source, imported: &mut Imported) -> Result<()> {
        let mut reader = source.open(self.progress)?;
        let name = source.name();
        let mut lines_before = 0;
        let mut count = |judged: Judged, stored: Stored| {
            imported.accepted += stored.logged as u64;
            imported.duplicates += stored.duplicates as u64;
            imported.rest.add(stored.rest);
            imported.too_old += judged.too_old;
            imported.refused += judged.refused.len() as u64;
            for (line, message) in judged.refused {
                if imported.errors.len() < DESCRIBED_REFUSALS {
                    let line = lines_before + line + 1;
                    imported
                        .errors
                        .push(format!("{name}, line {line}: {message}"));
                }
            }
            lines_before += judged.lines;
        };
        while store.load(
            || read_lines(&mut reader, &name),
            |lines, part| self.judge(&lines, part),
            &mut count,
        )? {}
        Ok(())
    }

    fn judge(&self, lines: &[u8], part: &mut Part) -> Judged {
        let mut judged = Judged::default();
        for line in event::lines(lines) {
            let number = judged.lines;
            judged.lines += 1;
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            let verdict = match event::read_event(line) {
                Ok(raw) => raw.judge(self.received_at_us, self.shift_us),
                Err(message) => {
                    judged.refused.push((number, message));
                    continue;
                }
            };
            match verdict {
                Verdict::Accepted(event) => part.push(&event),
                Verdict::TooOld => judged.too_old += 1,
                Verdict::Refused(code, message) => {
                    judged.refused.push((number, format!("{code}: {message}")));
                }
            }
        }
        let progress = &self.progress.lines;
        progress.fetch_add(judged.lines, Ordering::Relaxed);
        judged
    }
}

/// A day to rebase to, as the command line writes it.
///
/// # Errors
/// A sentence that says what is allowed.
pub fn parse_rebase_to(text: &str, now: DateTime<Utc>) -> Result<NaiveDate, String> {
    match text {
        "today" => Ok(now.date_naive()),
        day => crate::window::parse_day(day).map_err(|message| format!("{message}, or today")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::timestamp;

    #[test]
    fn rebasing_shifts_by_whole_days() {
        let newest = timestamp::parse_rfc3339("2024-06-29T23:59:59.999999Z");
        let day = crate::window::parse_day("2024-07-01").expect("a day");
        assert_eq!(days_to(day, newest), 2);
        assert_eq!(days_to(day, None), 0);
        let old = timestamp::parse_rfc3339("1969-12-31T23:00:00Z");
        assert_eq!(days_to(NaiveDate::default(), old), 1);
    }
}
