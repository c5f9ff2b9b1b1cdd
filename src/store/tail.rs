//! The tail: the events of the log that no segment holds yet, as columns in memory.
//!
//! Only the columns that count metrics read are kept, and texts as numbers, about 20 bytes an event. Chunks
//! are immutable once full, so that a reader's snapshot costs the copy of the open chunk only.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};

use polars::prelude::*;

use super::rotation::id_of;
use super::row::Row;
use super::rows::LakeRows;
use super::scan::read_chunk;
use super::shape::EVENT_LOG_FILE;
use crate::daily::{self, DailyState, Day};
use crate::error::{Error, Result};
use crate::names::{Names, REST_FEATURE};
use crate::schema;

/// Rows of a full chunk: about a morsel of the streaming engine, and few enough that ending one, which a commit
/// waits for, takes a millisecond.
const CHUNK_ROWS: usize = 1 << 15;

/// The events since the last seal, in the order of the log.
pub struct Tail {
    names: Names,
    full: Vec<Arc<Chunk>>,
    open: OpenChunk,
}

/// The oldest part of the tail: the events of the oldest log.
#[derive(Debug, Clone, Copy)]
pub(super) struct SealMark {
    chunks: usize,
}

impl SealMark {
    /// The mark behind the chunks that [`Tail::of_log`] gave.
    pub fn of(chunks: &[Arc<Chunk>]) -> Self {
        Self {
            chunks: chunks.len(),
        }
    }
}

/// Some events of the tail, never changed.
pub struct Chunk {
    /// The columns of [`schema::COUNTED`], as daily states count them: users are numbers, other strings are categoricals, and
    /// names beyond a limit are [`crate::names::REST_USER`] and [`REST_FEATURE`].
    pub frame: DataFrame,
    /// Whether a feature is beyond the limit of its day.
    has_rest_features: bool,
    span: Span,
    part: LogPart,
    /// What the events leave behind of each day, once somebody asked.
    states: OnceLock<BTreeMap<Day, Arc<DailyState>>>,
    /// The columns that are not in the frame, once somebody asked.
    details: OnceLock<DataFrame>,
}

/// Part of a log: whole lines of a file that keeps its content, whatever becomes of its name.
#[derive(Debug, Clone)]
pub(super) struct LogPart {
    pub file: Arc<File>,
    pub bytes: Range<u64>,
}

impl LogPart {
    /// Whether `next` is further on in the same log.
    fn is_before(&self, next: &Self) -> bool {
        Arc::ptr_eq(&self.file, &next.file) && self.bytes.end <= next.bytes.start
    }

    fn read(&self) -> Result<DataFrame> {
        let mut lines = vec![0; (self.bytes.end - self.bytes.start) as usize];
        self.file
            .read_exact_at(&mut lines, self.bytes.start)
            .map_err(Error::io("read", EVENT_LOG_FILE.as_ref()))?;
        let mut rows = LakeRows::for_lines(lines.len());
        read_chunk(&lines, |event| {
            rows.push(event);
            Ok(())
        })?;
        rows.finish()
    }
}

/// The least and the greatest `ts` of a chunk, in µs.
#[derive(Clone, Copy)]
struct Span {
    first_us: i64,
    last_us: i64,
}

#[derive(Default)]
struct OpenChunk {
    part: Option<LogPart>,
    ts_us: Vec<i64>,
    event_types: Vec<Option<u32>>,
    users: Vec<Option<u32>>,
    features: Vec<Option<u32>>,
}

impl Tail {
    /// An empty tail.
    pub fn new(names: Names) -> Self {
        Self {
            names,
            full: Vec::new(),
            open: OpenChunk::default(),
        }
    }

    /// Number of events.
    pub fn len(&self) -> usize {
        self.full
            .iter()
            .map(|chunk| chunk.frame.height())
            .sum::<usize>()
            + self.open.ts_us.len()
    }

    /// Adds events, which are what that part of a log holds.
    pub(super) fn append(&mut self, rows: &[Row], part: LogPart) -> Result<()> {
        if self
            .open
            .part
            .as_ref()
            .is_some_and(|open| !open.is_before(&part))
        {
            self.close_chunk()?;
        }
        match &mut self.open.part {
            Some(open) => open.bytes.end = part.bytes.end,
            none => *none = Some(part),
        }
        for row in rows {
            self.open.ts_us.push(row.ts_us);
            self.open.event_types.push(Some(row.event_type as u32));
            self.open.users.push(row.user);
            self.open.features.push(row.feature);
        }
        if self.open.ts_us.len() >= CHUNK_ROWS {
            self.close_chunk()?;
        }
        Ok(())
    }

    /// The file of the newest event, and where its line ends.
    pub(super) fn log_end(&self) -> Option<(Arc<File>, u64)> {
        let full = self.full.last().map(|chunk| &chunk.part);
        let part = self.open.part.as_ref().or(full)?;
        Some((part.file.clone(), part.bytes.end))
    }

    /// The `ts` of the oldest event, in µs.
    pub fn first_ts_us(&self) -> Option<i64> {
        let full = self.full.iter().map(|chunk| chunk.span.first_us);
        full.chain(self.open.span().map(|span| span.first_us)).min()
    }

    /// The `ts` of the newest event, in µs.
    pub fn last_ts_us(&self) -> Option<i64> {
        let full = self.full.iter().map(|chunk| chunk.span.last_us);
        full.chain(self.open.span().map(|span| span.last_us)).max()
    }

    /// The chunks that may hold events of `range_us`, as they are now.
    ///
    /// # Errors
    /// If the engine cannot build the open chunk.
    pub fn snapshot(&self, range_us: &Range<i64>) -> Result<Vec<Arc<Chunk>>> {
        let overlaps = |span: Span| span.first_us < range_us.end && span.last_us >= range_us.start;
        let mut chunks: Vec<Arc<Chunk>> = self
            .full
            .iter()
            .filter(|chunk| overlaps(chunk.span))
            .cloned()
            .collect();
        if self.open.span().is_some_and(overlaps) {
            chunks.extend(self.open.chunk(&self.names)?.map(Arc::new));
        }
        Ok(chunks)
    }

    /// The chunks of the oldest log, if it is the file of that device and inode. A log has several handles if it was open when
    /// the store was.
    ///
    /// # Errors
    /// If a log cannot be looked at.
    pub(super) fn of_log(&self, log: (u64, u64)) -> Result<Vec<Arc<Chunk>>> {
        let mut chunks: Vec<Arc<Chunk>> = Vec::new();
        for chunk in &self.full {
            let file = &chunk.part.file;
            let is_known = chunks
                .last()
                .is_some_and(|last| Arc::ptr_eq(&last.part.file, file));
            if !is_known && id_of(file)? != log {
                break;
            }
            chunks.push(chunk.clone());
        }
        Ok(chunks)
    }

    /// An empty frame with the columns of the tail.
    pub fn empty_frame(&self) -> Result<DataFrame> {
        OpenChunk::default().frame(&self.names)
    }

    fn close_chunk(&mut self) -> Result<()> {
        let chunk = self.open.chunk(&self.names)?;
        self.full.extend(chunk.map(Arc::new));
        self.open.clear();
        Ok(())
    }

    /// Ends the open chunk: what comes next is of another log.
    pub(super) fn end_log(&mut self) -> Result<()> {
        self.close_chunk()
    }

    /// Takes out what the mark covers: segments hold it now.
    pub(super) fn take_sealed(&mut self, mark: SealMark) -> Vec<Arc<Chunk>> {
        let kept = self.full.split_off(mark.chunks.min(self.full.len()));
        std::mem::replace(&mut self.full, kept)
    }
}

impl Chunk {
    /// Where its events are in the log.
    pub(super) fn part(&self) -> &LogPart {
        &self.part
    }

    /// All columns of [`schema::lake`], read from the log.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the log does not hold what was written.
    pub fn whole(&self) -> Result<DataFrame> {
        let read = self.part.read()?;
        match read.height() == self.frame.height() {
            true => Ok(read),
            false => Err(Error::Damaged {
                file: EVENT_LOG_FILE.into(),
                message: format!(
                    "{} events of {} can be read; restart to set the damage aside",
                    read.height(),
                    self.frame.height()
                ),
            }),
        }
    }

    /// The columns of [`schema::COUNTED`], features as they were sent.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the log does not hold what was written.
    pub fn counted(&self) -> Result<DataFrame> {
        let mut frame = self.frame.clone();
        if self.has_rest_features {
            frame.with_column(self.details()?.column(schema::FEATURE)?.clone())?;
        }
        Ok(frame)
    }

    /// The columns of [`Chunk::counted`], and metadata and URL.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the log does not hold what was written.
    pub fn with_details(&self) -> Result<DataFrame> {
        let details = self.details()?.select([schema::METADATA, schema::URL])?;
        Ok(self.counted()?.hstack(details.columns())?)
    }

    /// The columns that the frame lacks, which are read from the log and kept.
    fn details(&self) -> Result<&DataFrame> {
        if let Some(details) = self.details.get() {
            return Ok(details);
        }
        let mut columns = vec![schema::METADATA, schema::URL];
        columns.extend(self.has_rest_features.then_some(schema::FEATURE));
        let details = self.whole()?.select(columns)?;
        // Another reader may have been first; both read the same.
        Ok(self.details.get_or_init(|| details))
    }

    /// What the events leave behind of each day.
    ///
    /// # Errors
    /// If the engine cannot compute it.
    pub fn states(&self) -> Result<&BTreeMap<Day, Arc<DailyState>>> {
        if let Some(states) = self.states.get() {
            return Ok(states);
        }
        let counted = daily::plan(self.frame.clone().lazy()).collect()?;
        let states = daily::read(&counted)?
            .into_iter()
            .map(|(day, state)| (day, Arc::new(state)))
            .collect();
        // Another reader may have been first; both computed the same.
        Ok(self.states.get_or_init(|| states))
    }
}

impl OpenChunk {
    fn span(&self) -> Option<Span> {
        Some(Span {
            first_us: *self.ts_us.iter().min()?,
            last_us: *self.ts_us.iter().max()?,
        })
    }

    /// The events as they are now, if there are any.
    fn chunk(&self, names: &Names) -> Result<Option<Chunk>> {
        let (Some(span), Some(part)) = (self.span(), self.part.clone()) else {
            return Ok(None);
        };
        Ok(Some(Chunk {
            frame: self.frame(names)?,
            has_rest_features: self.features.contains(&Some(REST_FEATURE)),
            span,
            part,
            states: OnceLock::new(),
            details: OnceLock::new(),
        }))
    }

    fn frame(&self, names: &Names) -> Result<DataFrame> {
        Ok(DataFrame::new(
            self.ts_us.len(),
            vec![
                schema::instants(schema::TS, self.ts_us.clone()),
                names
                    .event_types
                    .column(schema::EVENT_TYPE, &self.event_types),
                UInt32Chunked::from_slice_options(
                    PlSmallStr::from_static(schema::USER_ID),
                    &self.users,
                )
                .into_column(),
                names.features.column(schema::FEATURE, &self.features),
            ],
        )?)
    }

    fn clear(&mut self) {
        self.part = None;
        self.ts_us.clear();
        self.event_types.clear();
        self.users.clear();
        self.features.clear();
    }
}
