//! Access: everything that is stored of one user, in the order of time, in constant memory however much it is.
//!
//! Day by day: of each segment of a day, the rows of the user lie together in the order of time, and of the events that are
//! not sealed yet it is kept where their lines are. These are merged; of each a few rows at a time are in memory, and of
//! those whose time has not come nothing is.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use polars::prelude::*;

use super::Store;
use super::erased::is_any;
use super::mentions;
use super::rows::write_lines;
use super::segment::{self, Segment};
use super::shape::{EVENT_LOG_FILE, QUARANTINE_FILE};
use super::tail::Chunk;
use super::version::ALWAYS_US;
use crate::daily::{Day, day_of};
use crate::error::{Error, Result};
use crate::{event, schema};

/// Events that are in memory at once: some ten MB where each has a few kB of metadata.
const ROWS: usize = 2_048;
/// Events that are read at once at least, however many parts of a day overlap.
const MIN_ROWS: usize = 16;
/// Bytes that are handed over at once.
const PIECE_BYTES: usize = 256 << 10;
/// Bytes of the log that are looked through at once; a line is at most a fraction of it.
const SCAN_BYTES: u64 = 1 << 20;

/// Where the line of an event that is not sealed yet is.
#[derive(Debug, Clone, Copy)]
struct Line {
    ts_us: i64,
    chunk: usize,
    start: u64,
    bytes: usize,
}

/// What there is of a user on one day.
#[derive(Default)]
struct DayOfUser {
    segments: Vec<Arc<Segment>>,
    lines: Vec<Line>,
}

/// Events of a user in the order of time, of which some are in memory.
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

/// Lines that are in memory, each with its time and where it ends.
#[derive(Default)]
struct Loaded {
    text: Vec<u8>,
    lines: std::vec::IntoIter<(i64, usize)>,
    start: usize,
}

impl Store {
    /// Everything that is stored of a user under these ids, each event as a line of the log, in the order of time and then
    /// of the log; then pieces of the quarantine that mention the id, as they stand there. `sink` gets it in pieces.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a segment or the log is, and what `sink` returns.
    pub fn user_events(
        &self,
        ids: &[String],
        mut sink: impl FnMut(Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        // By the view of one instant, so that an event that is sealed meanwhile is there once.
        let snapshot = self.versions.snapshot(&ALWAYS_US)?;
        let users = self.numbers_of(&ids);
        let segments = snapshot.version.segments_with(&users, self.names())?;
        let mut days: BTreeMap<Day, DayOfUser> = BTreeMap::new();
        for segment in segments {
            // Damage is said before the first event is handed over.
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
                match out.len() {
                    ..PIECE_BYTES => Ok(()),
                    _ => sink(std::mem::take(&mut out)),
                }
            })?;
        }
        self.quarantined(&ids, &mut out)?;
        sink(out)
    }

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
        // By time, and those of one instant in the order of the log.
        let mut next: BinaryHeap<Reverse<(i64, usize)>> = (0..)
            .zip(&runs)
            .map(|(place, run)| Reverse((run.first_us, place)))
            .collect();
        while let Some(Reverse((_, place))) = next.pop() {
            let Some(run) = runs.get_mut(place) else {
                continue;
            };
            let until = next.peek().map(|Reverse(other)| *other);
            while let Some(ts_us) = run.next_us(rows)? {
                if until.is_some_and(|until| until < (ts_us, place)) {
                    next.push(Reverse((ts_us, place)));
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
        // The order of the log stays for those of one instant.
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

    /// The time of the next event, which is in memory then.
    fn next_us(&mut self, rows: usize) -> Result<Option<i64>> {
        if self.loaded.next_us().is_none() {
            // Freed before others are read.
            self.loaded = Loaded::default();
            self.loaded = self.source.load(rows)?;
        }
        Ok(self.loaded.next_us())
    }
}

impl Source {
    /// The next events; none at the end.
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
                let mut text = Vec::new();
                write_lines(&events, &mut text)?;
                let instants = events.column(schema::TS)?.to_physical_repr();
                let ends = memchr::memchr_iter(b'\n', &text).map(|newline| newline + 1);
                let lines: Vec<(i64, usize)> = instants
                    .i64()?
                    .iter()
                    .map(Option::unwrap_or_default)
                    .zip(ends)
                    .collect();
                match lines.len() == length {
                    true => Ok(Loaded::new(text, lines)),
                    false => Err(Error::Damaged {
                        file: segment.path(),
                        message: format!("{} events of {length} can be read", lines.len()),
                    }),
                }
            }
            Self::Log { tail, lines } => {
                let mut text = Vec::new();
                let mut ends = Vec::new();
                for line in lines.take(rows) {
                    let start = text.len();
                    text.resize(start + line.bytes, 0);
                    if let (Some(chunk), Some(place)) =
                        (tail.get(line.chunk), text.get_mut(start..))
                    {
                        let file = &chunk.part().file;
                        file.read_exact_at(place, line.start)
                            .map_err(Error::io("read", EVENT_LOG_FILE.as_ref()))?;
                    }
                    ends.push((line.ts_us, text.len()));
                }
                Ok(Loaded::new(text, ends))
            }
        }
    }
}

impl Loaded {
    fn new(text: Vec<u8>, lines: Vec<(i64, usize)>) -> Self {
        Self {
            text,
            lines: lines.into_iter(),
            start: 0,
        }
    }

    fn next_us(&self) -> Option<i64> {
        self.lines.as_slice().first().map(|(ts_us, _)| *ts_us)
    }

    /// Takes the next line out.
    fn take(&mut self) -> &[u8] {
        let end = self.lines.next().map_or(self.start, |(_, end)| end);
        let line = self.start..end;
        self.start = end;
        self.text.get(line).unwrap_or_default()
    }
}

/// Where the user's events are in a segment. Those of one id lie together; should they not, they are found all the same.
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
    let instants = found.column(schema::TS)?.i64()?;
    let mut runs: Vec<Run> = Vec::new();
    for (row, ts_us) in rows.iter().zip(instants.iter()) {
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

/// Where the user's events are in a chunk of the tail.
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
        let whole = bytes.get(..=newline).unwrap_or_default();
        for line in event::lines(whole) {
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
    match events == chunk.frame.height() {
        true => Ok(found),
        false => Err(Error::Damaged {
            file: EVENT_LOG_FILE.into(),
            message: format!(
                "{events} events of {} can be read; restart to set the damage aside",
                chunk.frame.height()
            ),
        }),
    }
}

/// How many runs have events of one instant, or of the time between two of them.
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
