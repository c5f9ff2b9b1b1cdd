//! Access: all stored data of one user, in the order of time and in constant memory.
//!
//! It is a merge, day by day. In each segment of a day the rows of the user are neighbours in the
//! order of time; of the events that are not sealed yet, the positions of their lines are kept.
//! Each of these runs is read a few rows at a time, and only once the merge has reached its first
//! event.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use polars::prelude::*;

use crate::daily::{Day, day_of};
use crate::error::{Error, Result};
use crate::store::erased::is_any;
use crate::store::files::mentions;
use crate::store::files::rows::write_lines;
use crate::store::files::segment::{self, Segment};
use crate::store::files::shape::{EVENT_LOG_FILE, QUARANTINE_FILE};
use crate::store::version::ALWAYS_US;
use crate::store::version::tail::Chunk;
use crate::store::{Store, read_held};
use crate::{event, schema};

/// Events in memory: some ten MB if each has a few kB of metadata.
const ROWS: usize = 2_048;
/// Fewest events that are read from a run, however many runs overlap.
const MIN_ROWS: usize = 16;
/// Bytes that are passed to the caller together.
const PIECE_BYTES: usize = 256 << 10;
/// Bytes of the log that are scanned together; a line is at most a fraction of it.
const SCAN_BYTES: u64 = 1 << 20;

/// Position of the line of an event that is not sealed yet.
#[derive(Debug, Clone, Copy)]
struct Line {
    ts_us: i64,
    chunk: usize,
    start: u64,
    bytes: usize,
}

/// The segments and lines of one day with events of a user.
#[derive(Default)]
struct DayOfUser {
    segments: Vec<Arc<Segment>>,
    lines: Vec<Line>,
}

/// Events of a user in the order of time; a few of them are in memory.
struct Run {
    source: Source,
    first_us: i64,
    last_us: i64,
    loaded: Loaded,
}

enum Source {
    /// Rows of a segment.
    Segment {
        segment: Arc<Segment>,
        start: usize,
        end: usize,
    },
    /// Lines of the log.
    Log {
        tail: Arc<[Arc<Chunk>]>,
        lines: std::vec::IntoIter<Line>,
    },
}

/// Lines in memory, each with its time and its end.
#[derive(Default)]
struct Loaded {
    bytes: Vec<u8>,
    lines: std::vec::IntoIter<(i64, usize)>,
    start: usize,
}

impl Store {
    /// Passes all stored data of the user with these ids to `sink`, in pieces: the events as lines
    /// of the log, ordered by time and then by their order in the log, and after them the lines of
    /// the quarantine that mention an id.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a segment or the log is damaged, and the errors of `sink`.
    pub fn user_events(
        &self,
        ids: &[String],
        mut sink: impl FnMut(Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        // One snapshot, so that an event that is sealed meanwhile appears once.
        let snapshot = self.versions.snapshot(&ALWAYS_US)?;
        let users = self.numbers_of(&ids);
        let segments = snapshot.version.segments_with(&users, self.names())?;
        let mut days: BTreeMap<Day, DayOfUser> = BTreeMap::new();
        for segment in segments {
            // Damage is reported before the first event is passed on.
            let _file = segment.verified()?;
            days.entry(segment.day())
                .or_default()
                .segments
                .push(segment);
        }
        let tail: Arc<[Arc<Chunk>]> = snapshot.tail.into();
        for (number, chunk) in tail.iter().enumerate() {
            for line in lines_of(chunk, number, &ids)? {
                days.entry(day_of(line.ts_us)).or_default().lines.push(line);
            }
        }
        let mut out = Vec::new();
        for (_, day) in days {
            day.merge(&ids, &tail, |line| {
                out.extend_from_slice(line);
                if out.len() < PIECE_BYTES {
                    return Ok(());
                }
                sink(std::mem::take(&mut out))
            })?;
        }
        self.quarantined(&ids, &mut out)?;
        self.held_of(&ids, &mut out)?;
        sink(out)
    }

    /// Appends the held events of the user, each with the reason.
    fn held_of(&self, ids: &[&str], out: &mut Vec<u8>) -> Result<()> {
        let lines = self.held_lines()?;
        for line in event::lines(&lines) {
            let held = read_held(line);
            let user = held.and_then(|held| held.event.user_id);
            if user.is_some_and(|user| ids.contains(&&*user)) {
                out.extend_from_slice(line);
            }
        }
        Ok(())
    }

    /// Appends the lines of the quarantine that mention an id.
    fn quarantined(&self, ids: &[&str], out: &mut Vec<u8>) -> Result<()> {
        let path = self.folder.path().join(QUARANTINE_FILE);
        let Ok(file) = File::open(&path) else {
            return Ok(());
        };
        let mut file = BufReader::new(file);
        let mut line = Vec::new();
        while file
            .read_until(b'\n', &mut line)
            .map_err(Error::io("read", &path))?
            > 0
        {
            if ids.iter().any(|id| mentions::is_in(&line, id)) {
                out.extend_from_slice(&line);
            }
            line.clear();
        }
        Ok(())
    }
}

impl DayOfUser {
    fn merge(
        self,
        ids: &[&str],
        tail: &Arc<[Arc<Chunk>]>,
        mut sink: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut runs = Vec::new();
        for segment in self.segments {
            runs.extend(runs_of(&segment, ids)?);
        }
        runs.extend(Run::of_log(self.lines, tail));
        let rows = (ROWS / most_at_once(&runs).max(1)).max(MIN_ROWS);
        // Ordered by time, and events of the same time by their order in the log.
        let mut next: BinaryHeap<Reverse<(i64, usize)>> = (0..)
            .zip(&runs)
            .map(|(index, run)| Reverse((run.first_us, index)))
            .collect();
        while let Some(Reverse((_, index))) = next.pop() {
            let Some(run) = runs.get_mut(index) else {
                continue;
            };
            let until = next.peek().map(|Reverse(other)| *other);
            while let Some(ts_us) = run.next_us(rows)? {
                if until.is_some_and(|until| until < (ts_us, index)) {
                    next.push(Reverse((ts_us, index)));
                    break;
                }
                sink(run.loaded.take())?;
            }
        }
        Ok(())
    }
}

impl Run {
    fn of_log(mut lines: Vec<Line>, tail: &Arc<[Arc<Chunk>]>) -> Option<Self> {
        // The sort is stable: events of the same time stay in the order of the log.
        lines.sort_by_key(|line| line.ts_us);
        Some(Self {
            first_us: lines.first()?.ts_us,
            last_us: lines.last()?.ts_us,
            source: Source::Log {
                tail: tail.clone(),
                lines: lines.into_iter(),
            },
            loaded: Loaded::default(),
        })
    }

    /// Loads the next event and returns its time.
    fn next_us(&mut self, rows: usize) -> Result<Option<i64>> {
        if self.loaded.next_us().is_none() {
            // Freed before more is read.
            self.loaded = Loaded::default();
            self.loaded = self.source.load(rows)?;
        }
        Ok(self.loaded.next_us())
    }
}

impl Source {
    /// Reads the next events; none at the end.
    fn load(&mut self, rows: usize) -> Result<Loaded> {
        match self {
            Self::Segment {
                segment,
                start,
                end,
            } => {
                let length = rows.min(*end - *start);
                if length == 0 {
                    return Ok(Loaded::default());
                }
                let events = segment::scan(std::slice::from_ref(segment))?
                    .slice(*start as i64, length as IdxSize)
                    .collect_with_engine(Engine::Streaming)?
                    .unwrap_single();
                *start += length;
                let mut bytes = Vec::new();
                write_lines(&events, &mut bytes)?;
                let timestamps = events.column(schema::TS)?.to_physical_repr();
                let ends = memchr::memchr_iter(b'\n', &bytes).map(|newline| newline + 1);
                let lines: Vec<(i64, usize)> = timestamps
                    .i64()?
                    .iter()
                    .map(Option::unwrap_or_default)
                    .zip(ends)
                    .collect();
                if lines.len() != length {
                    return Err(Error::Damaged {
                        file: segment.path(),
                        message: format!("{} events of {length} can be read", lines.len()),
                    });
                }
                Ok(Loaded::new(bytes, lines))
            }
            Self::Log { tail, lines } => {
                let mut bytes = Vec::new();
                let mut ends = Vec::new();
                for line in lines.take(rows) {
                    let start = bytes.len();
                    bytes.resize(start + line.bytes, 0);
                    if let (Some(chunk), Some(out)) = (tail.get(line.chunk), bytes.get_mut(start..))
                    {
                        let file = &chunk.part().file;
                        file.read_exact_at(out, line.start)
                            .map_err(Error::io("read", EVENT_LOG_FILE.as_ref()))?;
                    }
                    ends.push((line.ts_us, bytes.len()));
                }
                Ok(Loaded::new(bytes, ends))
            }
        }
    }
}

impl Loaded {
    fn new(bytes: Vec<u8>, lines: Vec<(i64, usize)>) -> Self {
        Self {
            bytes,
            lines: lines.into_iter(),
            start: 0,
        }
    }

    fn next_us(&self) -> Option<i64> {
        self.lines.as_slice().first().map(|(ts_us, _)| *ts_us)
    }

    /// Removes and returns the next line.
    fn take(&mut self) -> &[u8] {
        let end = self.lines.next().map_or(self.start, |(_, end)| end);
        let line = self.start..end;
        self.start = end;
        self.bytes.get(line).unwrap_or_default()
    }
}

/// The runs of a user's events in a segment. Usually there is one for each id, because the rows of
/// a user are neighbours; rows elsewhere are runs of their own.
fn runs_of(segment: &Arc<Segment>, ids: &[&str]) -> Result<Vec<Run>> {
    const ROW: PlSmallStr = PlSmallStr::from_static("row");
    let found = segment::scan(std::slice::from_ref(segment))?
        .with_row_index(ROW, None)
        .filter(is_any(ids))
        .select([
            col(ROW).cast(DataType::UInt64),
            col(schema::TS).to_physical(),
        ])
        .collect_with_engine(Engine::Streaming)?
        .unwrap_single();
    let rows = found.column(&ROW)?.u64()?;
    let timestamps = found.column(schema::TS)?.i64()?;
    let mut runs: Vec<Run> = Vec::new();
    for (row, ts_us) in rows.iter().zip(timestamps.iter()) {
        let (Some(row), Some(ts_us)) = (row, ts_us) else {
            continue;
        };
        let row = row as usize;
        if let Some(Run {
            source: Source::Segment { end, .. },
            last_us,
            ..
        }) = runs.last_mut()
            && *end == row
            && *last_us <= ts_us
        {
            (*end, *last_us) = (row + 1, ts_us);
            continue;
        }
        runs.push(Run {
            source: Source::Segment {
                segment: segment.clone(),
                start: row,
                end: row + 1,
            },
            first_us: ts_us,
            last_us: ts_us,
            loaded: Loaded::default(),
        });
    }
    Ok(runs)
}

/// The lines of a user's events in a chunk of the tail.
fn lines_of(chunk: &Chunk, number: usize, ids: &[&str]) -> Result<Vec<Line>> {
    let part = chunk.part();
    let mut found = Vec::new();
    let mut events = 0;
    let mut start = part.bytes.start;
    let mut bytes = Vec::new();
    let mut wanted = SCAN_BYTES;
    while start < part.bytes.end {
        let length = wanted.min(part.bytes.end - start);
        bytes.resize(length as usize, 0);
        part.file
            .read_exact_at(&mut bytes, start)
            .map_err(Error::io("read", EVENT_LOG_FILE.as_ref()))?;
        let Some(newline) = memchr::memrchr(b'\n', &bytes) else {
            if start + length == part.bytes.end {
                break;
            }
            wanted *= 2;
            continue;
        };
        let complete = bytes.get(..=newline).unwrap_or_default();
        for line in event::lines(complete) {
            if let Some(Ok(event)) = line.strip_suffix(b"\n").map(event::read_line) {
                events += 1;
                let user = event.user_id.as_deref();
                if user.is_some_and(|user| ids.contains(&user)) {
                    found.push(Line {
                        ts_us: event.ts_us,
                        chunk: number,
                        start,
                        bytes: line.len(),
                    });
                }
            }
            start += line.len() as u64;
        }
    }
    chunk.check_count(events)?;
    Ok(found)
}

/// The largest number of runs that the merge has open at once: those with events before and after
/// the same moment.
fn most_at_once(runs: &[Run]) -> usize {
    let starts = runs.iter().map(|run| (run.first_us, 0));
    let ends = runs.iter().map(|run| (run.last_us, 1));
    let mut edges: Vec<(i64, usize)> = starts.chain(ends).collect();
    edges.sort_unstable();
    let (mut open, mut most) = (0_usize, 0);
    for (_, is_end) in edges {
        match is_end {
            0 => open += 1,
            _ => open = open.saturating_sub(1),
        }
        most = most.max(open);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run of an empty log from one time to another.
    fn run((first_us, last_us): (i64, i64)) -> Run {
        Run {
            source: Source::Log {
                tail: Vec::new().into(),
                lines: Vec::new().into_iter(),
            },
            first_us,
            last_us,
            loaded: Loaded::default(),
        }
    }

    #[test]
    fn runs_are_open_together_from_their_first_event_to_their_last() {
        for (runs, most) in [
            (&[][..], 0),
            (&[(1, 9)], 1),
            (&[(1, 3), (4, 9)], 1),
            // The last event of one has the time of the first of the other.
            (&[(1, 4), (4, 9)], 2),
            (&[(1, 9), (2, 3), (4, 5), (5, 6)], 3),
            (&[(7, 7), (7, 7), (7, 7)], 3),
        ] {
            let runs: Vec<Run> = runs.iter().copied().map(run).collect();
            assert_eq!(most_at_once(&runs), most);
        }
    }

    #[test]
    fn loaded_lines_are_taken_one_by_one() {
        let mut loaded = Loaded::new(b"a\nbc\n".to_vec(), vec![(7, 2), (8, 5)]);
        assert_eq!((loaded.next_us(), loaded.take()), (Some(7), &b"a\n"[..]));
        assert_eq!((loaded.next_us(), loaded.take()), (Some(8), &b"bc\n"[..]));
        assert_eq!((loaded.next_us(), loaded.take()), (None, &b""[..]));
    }
}
