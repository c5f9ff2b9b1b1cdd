//! Import of existing events: NDJSON or arrays of events, plain or compressed, from files or
//! standard input.

mod chunks;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;

use crate::error::{Error, ErrorCode, Result};
use crate::event::split::{Splitter, Step};
use crate::event::{EventCode, Outcome, RawEvent, read_event};
use crate::inflate::inflate;
use crate::progress::Progress;
use crate::store::{Part, RestCounts, Store, Stored, pipeline};
use crate::window::DAY_US;
use chunks::{Chunk, Chunks, Fault};

/// Size of the buffer of a file, for reads of less than a chunk.
const BUFFER_BYTES: usize = 64 << 10;
/// Maximum number of rejections that are described; the rest is counted.
const DESCRIBED_REJECTIONS: usize = 20;

/// The outcome of an import.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Events stored.
    pub accepted: u64,
    /// Events that are stored already, recognised by their id.
    pub duplicates: u64,
    /// Events older than any window.
    pub too_old: u64,
    /// Lines and elements of arrays that are not valid events, and files of other formats.
    pub refused: u64,
    /// Accepted events with a name beyond a daily limit.
    #[serde(skip_serializing_if = "RestCounts::is_empty")]
    pub rest: RestCounts,
    /// The reasons for the first rejections, with file and line.
    pub errors: Vec<String>,
    /// Number of accepted events that were changed, by the code of the note.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub notes: BTreeMap<EventCode, u64>,
}

/// An input of an import, plain or compressed. The first bytes determine the format, not the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// Standard input.
    Stdin,
}

/// Stores all events of the sources, received at `now`. With `rebase_to` all timestamps are
/// shifted by whole days so that the newest event falls on that day.
///
/// # Errors
/// If a source cannot be read, the store cannot write, or it is cancelled; events stored before
/// that are kept.
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
    if let Some(total) = sources.iter().map(Source::bytes).sum() {
        progress.set_total(total);
    }
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
    /// The name used in messages.
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Stdin => "standard input".into(),
        }
    }

    /// Size in bytes, before decompression; unknown for standard input.
    pub fn bytes(&self) -> Option<u64> {
        match self {
            Self::File(path) => path.metadata().ok().map(|metadata| metadata.len()),
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
            progress: progress.clone(),
        };
        inflate(BufReader::with_capacity(BUFFER_BYTES, counted)).map_err(Error::io("read", path))
    }
}

/// A reader that counts the bytes read.
struct Counted<R> {
    reader: R,
    progress: Progress,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.progress.add(read as u64);
        Ok(read)
    }
}

/// The timestamp of the newest valid event of all sources, in µs.
fn newest_ts_us(sources: &[Source]) -> Result<Option<i64>> {
    let mut newest = None;
    for source in sources {
        if *source == Source::Stdin {
            return Err(Error::bad_input(
                ErrorCode::BadRebaseTo,
                "--rebase-to needs two passes and cannot be used with standard input; pass a file",
            ));
        }
        let mut chunks = Chunks::new(source.open(&Progress::default())?);
        let name = source.name();
        pipeline::ordered(
            || next_chunk(&mut chunks, &name),
            |chunk: Chunk| {
                let mut newest = None;
                for record in chunk.records() {
                    each_event(&chunk, record, |raw| {
                        newest = newest.max(valid_ts_us(raw));
                    });
                }
                newest
            },
            |found| {
                newest = newest.max(found);
                Ok(())
            },
        )?;
    }
    Ok(newest)
}

/// The timestamp of an event that is valid at that time.
fn valid_ts_us(event: RawEvent<'_>) -> Option<i64> {
    let ts_us = event.ts_us()?;
    matches!(event.validate(ts_us, 0), Outcome::Accepted(..)).then_some(ts_us)
}

fn next_chunk<R: BufRead>(chunks: &mut Chunks<R>, name: &str) -> Result<Option<Chunk>> {
    chunks
        .next_chunk()
        .map_err(|error| Error::io("read", name.as_ref())(error))
}

/// Calls `found` with each event of a record. Most records are one event; a line may be an array,
/// or hold several events without a break between them.
fn each_event<'a>(chunk: &Chunk, record: &'a [u8], mut found: impl FnMut(RawEvent<'a>)) {
    let record = record.trim_ascii();
    if !chunk.has_lines() {
        return found(RawEvent::read(record));
    }
    if record.is_empty() {
        return;
    }
    match read_event(record) {
        Ok(event) if event.has_event_type() => return found(event),
        _ => {}
    }
    let mut splitter = Splitter::default();
    loop {
        match splitter.step(record, true) {
            Step::Event(place) => found(RawEvent::read(record.get(place).unwrap_or_default())),
            Step::Malformed(at) => {
                found(RawEvent::read(record.get(at..).unwrap_or_default()));
                return;
            }
            Step::End | Step::More => return,
        }
    }
}

/// Number of days from the day of `newest_us` to `day`.
fn days_to(day: NaiveDate, newest_us: Option<i64>) -> i64 {
    let epoch_day = day.signed_duration_since(NaiveDate::default()).num_days();
    newest_us.map_or(0, |newest_us| epoch_day - newest_us.div_euclid(DAY_US))
}

struct Importer<'a> {
    progress: &'a Progress,
    received_at_us: i64,
    /// Added to all timestamps.
    shift_us: i64,
}

/// The outcome of validating a chunk.
#[derive(Default)]
struct ChunkOutcome {
    records: u64,
    too_old: u64,
    rejections: Vec<Rejection>,
    notes: BTreeMap<EventCode, u64>,
}

/// A record that is not stored, and the reason.
struct Rejection {
    /// The kind of record, and its index in the chunk, from 0. `None` for the whole file.
    record: Option<(&'static str, u64)>,
    message: String,
}

impl Importer<'_> {
    fn run(&self, store: &Store, source: &Source, imported: &mut Imported) -> Result<()> {
        let mut chunks = Chunks::new(source.open(self.progress)?);
        let name = source.name();
        let mut records_before = 0;
        let mut count = |outcome: ChunkOutcome, stored: Stored| {
            imported.accepted += stored.logged as u64;
            imported.duplicates += stored.duplicates as u64;
            imported.rest.add(stored.rest);
            imported.too_old += outcome.too_old;
            imported.refused += outcome.rejections.len() as u64;
            for (code, events) in outcome.notes {
                *imported.notes.entry(code).or_default() += events;
            }
            for Rejection { record, message } in outcome.rejections {
                if imported.errors.len() < DESCRIBED_REJECTIONS {
                    imported.errors.push(match record {
                        None => format!("{name}: {message}"),
                        Some((kind, index)) => {
                            format!("{name}, {kind} {}: {message}", records_before + index + 1)
                        }
                    });
                }
            }
            records_before += outcome.records;
        };
        while store.load(
            || {
                self.progress.check()?;
                next_chunk(&mut chunks, &name)
            },
            |chunk, part| self.validate(&chunk, part),
            &mut count,
        )? {}
        Ok(())
    }

    /// Validates the events of a chunk and adds the valid ones to `part`.
    fn validate(&self, chunk: &Chunk, part: &mut Part) -> ChunkOutcome {
        let kind = if chunk.has_lines() { "line" } else { "event" };
        let mut outcome = ChunkOutcome::default();
        for json in chunk.records() {
            let record = Some((kind, outcome.records));
            outcome.records += 1;
            each_event(chunk, json, |raw| {
                match raw.validate(self.received_at_us, self.shift_us) {
                    Outcome::Accepted(event, notes) => {
                        part.push(&event);
                        for (code, _) in notes {
                            *outcome.notes.entry(code).or_default() += 1;
                        }
                    }
                    Outcome::TooOld => outcome.too_old += 1,
                    Outcome::Rejected(code, message) => outcome.rejections.push(Rejection {
                        record,
                        message: format!("{code}: {message}"),
                    }),
                }
            });
        }
        if let Some(fault) = chunk.fault() {
            let (record, message) = match fault {
                Fault::Foreign(message) => (None, message),
                Fault::Record(message) => (Some((kind, outcome.records)), message),
            };
            outcome.records += u64::from(record.is_some());
            outcome.rejections.push(Rejection {
                record,
                message: message.clone(),
            });
        }
        self.progress.add_events(outcome.records);
        outcome
    }
}

/// Parses the value of `--rebase-to`: a day, or `today`.
///
/// # Errors
/// A message that says what is allowed.
pub fn parse_rebase_to(value: &str, now: DateTime<Utc>) -> Result<NaiveDate, String> {
    match value {
        "today" => Ok(now.date_naive()),
        day => crate::window::parse_day(day).map_err(|message| format!("{message}, or today")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::timestamp;

    #[test]
    fn rebase_to_shifts_timestamps_by_complete_days() {
        let newest = timestamp::parse_rfc3339("2024-06-29T23:59:59.999999Z");
        let day = crate::window::parse_day("2024-07-01").expect("a day");
        assert_eq!(days_to(day, newest), 2);
        assert_eq!(days_to(day, None), 0);
        let old = timestamp::parse_rfc3339("1969-12-31T23:00:00Z");
        assert_eq!(days_to(NaiveDate::default(), old), 1);
    }
}
