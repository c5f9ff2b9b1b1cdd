//! The tail: the events of the log that are not in a segment yet, as columns in memory.
//!
//! Only the columns that count metrics read are kept, and strings as codes, about 20 bytes an
//! event. Full chunks are immutable, so that a snapshot copies the open chunk only.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};

use polars::prelude::*;

use super::row::Row;
use crate::daily::{self, OtherZones, Slices};
use crate::dictionary::{Dictionaries, REST_FEATURE, SYSTEM_TYPE};
use crate::error::{Error, Result};
use crate::links::Statement;
use crate::schema;
use crate::store::files::rotation::id_of;
use crate::store::files::rows::LakeRows;
use crate::store::files::scan::read_chunk;
use crate::store::files::shape::EVENT_LOG_FILE;

/// Rows of a full chunk: about a morsel of the streaming engine, and few enough that closing one,
/// for which a commit waits, takes a millisecond.
const CHUNK_ROWS: usize = 1 << 15;

/// The events since the last seal, in the order of the log.
pub struct Tail {
    names: Dictionaries,
    /// The zones that events are counted for.
    zones: OtherZones,
    full: Vec<Arc<Chunk>>,
    /// Events of the full chunks.
    full_events: usize,
    /// The span of the full chunks.
    full_span: Option<Span>,
    open: OpenChunk,
    /// The place of the first statement about ids.
    first_statement: u64,
}

/// The oldest part of the tail: the events of the oldest log.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct SealMark {
    chunks: usize,
}

impl SealMark {
    /// The mark after the chunks that [`Tail::of_log`] returned.
    pub fn of(chunks: &[Arc<Chunk>]) -> Self {
        Self {
            chunks: chunks.len(),
        }
    }
}

/// Events of the tail; immutable.
pub struct Chunk {
    /// The columns of [`schema::COUNTED`] as daily states count them: users are codes, other
    /// strings are categoricals, and names beyond a limit are [`crate::dictionary::REST_USER`] and
    /// [`REST_FEATURE`].
    pub frame: DataFrame,
    /// True if a feature is beyond the limit of its day.
    has_rest_features: bool,
    /// True if some of the events are `system` events.
    pub has_system: bool,
    /// The statements of the events about ids, in their order.
    pub statements: Vec<Statement>,
    span: Span,
    part: LogPart,
    zones: OtherZones,
    /// The daily states of the events, computed at the first use.
    slices: OnceLock<Slices>,
    /// The columns that are not in the frame, read at the first use.
    details: OnceLock<DataFrame>,
}

/// Part of a log: complete lines of an open file, which stays readable when it is renamed or
/// removed.
#[derive(Debug, Clone)]
pub(in crate::store) struct LogPart {
    pub file: Arc<File>,
    pub bytes: Range<u64>,
}

impl LogPart {
    /// True if `next` is a later part of the same log.
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

/// The least and the greatest `ts` of some events, in µs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    first_us: i64,
    last_us: i64,
}

impl Span {
    fn of(ts_us: i64) -> Self {
        Self {
            first_us: ts_us,
            last_us: ts_us,
        }
    }

    fn union(self, other: Self) -> Self {
        Self {
            first_us: self.first_us.min(other.first_us),
            last_us: self.last_us.max(other.last_us),
        }
    }

    fn overlaps(self, range_us: &Range<i64>) -> bool {
        self.first_us < range_us.end && self.last_us >= range_us.start
    }
}

/// The newest events, to which more are added.
#[derive(Default)]
struct OpenChunk {
    part: Option<LogPart>,
    /// The span of the events, kept up to date because it is read under the lock of the view.
    span: Option<Span>,
    ts_us: Vec<i64>,
    event_types: Vec<Option<u32>>,
    users: Vec<Option<u32>>,
    features: Vec<Option<u32>>,
    statements: Vec<Statement>,
}

impl Tail {
    /// An empty tail.
    pub fn new(names: Dictionaries, zones: OtherZones) -> Self {
        Self {
            names,
            zones,
            full: Vec::new(),
            full_events: 0,
            full_span: None,
            open: OpenChunk::default(),
            first_statement: 0,
        }
    }

    /// The places of the statements of the events about ids, among all of this process. Those
    /// before are sealed.
    pub fn statement_places(&self) -> Range<u64> {
        let unsealed = statements_in(&self.full) + self.open.statements.len() as u64;
        self.first_statement..self.first_statement + unsealed
    }

    /// The statements of the events about ids from a place on, in their order.
    pub fn statements_from(&self, place: u64) -> Vec<Statement> {
        let full = self.full.iter().flat_map(|chunk| &chunk.statements);
        let passed = place.saturating_sub(self.first_statement);
        let statements = full.chain(&self.open.statements).skip(passed as usize);
        statements.copied().collect()
    }

    /// Number of events.
    pub fn len(&self) -> usize {
        self.full_events + self.open.ts_us.len()
    }

    /// Adds the events of that part of a log.
    pub(in crate::store) fn append(&mut self, rows: &[Row], part: LogPart) -> Result<()> {
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
            self.open.push(row);
        }
        if self.open.ts_us.len() >= CHUNK_ROWS {
            self.close_chunk()?;
        }
        Ok(())
    }

    /// The file of the newest event and the end of its line.
    pub(in crate::store) fn log_end(&self) -> Option<(Arc<File>, u64)> {
        let full = self.full.last().map(|chunk| &chunk.part);
        let part = self.open.part.as_ref().or(full)?;
        Some((part.file.clone(), part.bytes.end))
    }

    /// The `ts` of the oldest event, in µs.
    pub fn first_ts_us(&self) -> Option<i64> {
        self.span().map(|span| span.first_us)
    }

    /// The `ts` of the newest event, in µs.
    pub fn last_ts_us(&self) -> Option<i64> {
        self.span().map(|span| span.last_us)
    }

    fn span(&self) -> Option<Span> {
        let spans = self.full_span.into_iter().chain(self.open.span);
        spans.reduce(Span::union)
    }

    /// The chunks that may hold events of `range_us`, as they are now.
    ///
    /// # Errors
    /// If the engine cannot build the open chunk.
    pub fn snapshot(&self, range_us: &Range<i64>) -> Result<Vec<Arc<Chunk>>> {
        let mut chunks: Vec<Arc<Chunk>> = self
            .full
            .iter()
            .filter(|chunk| chunk.span.overlaps(range_us))
            .cloned()
            .collect();
        if self.open.span.is_some_and(|span| span.overlaps(range_us)) {
            chunks.extend(self.open.chunk(&self.names, &self.zones)?.map(Arc::new));
        }
        Ok(chunks)
    }

    /// The chunks of the oldest log, if it is the file with that device and inode. A log that was
    /// read back when the store was opened has several handles.
    ///
    /// # Errors
    /// If the metadata of a log cannot be read.
    pub(in crate::store) fn of_log(&self, log: (u64, u64)) -> Result<Vec<Arc<Chunk>>> {
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

    fn close_chunk(&mut self) -> Result<()> {
        if let Some(chunk) = self.open.chunk(&self.names, &self.zones)? {
            self.full.push(Arc::new(chunk));
            self.count_full();
        }
        self.open.clear();
        Ok(())
    }

    /// Closes the open chunk, because the next events belong to another log.
    pub(in crate::store) fn end_log(&mut self) -> Result<()> {
        self.close_chunk()
    }

    /// Removes the chunks up to the mark, which are in segments now.
    pub(in crate::store) fn take_sealed(&mut self, mark: SealMark) -> Vec<Arc<Chunk>> {
        let kept = self.full.split_off(mark.chunks.min(self.full.len()));
        let sealed = std::mem::replace(&mut self.full, kept);
        self.count_full();
        self.first_statement += statements_in(&sealed);
        sealed
    }

    /// Brings events and span of the full chunks up to date.
    fn count_full(&mut self) {
        let heights = self.full.iter().map(|chunk| chunk.frame.height());
        self.full_events = heights.sum();
        let spans = self.full.iter().map(|chunk| chunk.span);
        self.full_span = spans.reduce(Span::union);
    }
}

/// Number of statements about ids in some chunks.
fn statements_in(chunks: &[Arc<Chunk>]) -> u64 {
    let statements = chunks.iter().map(|chunk| chunk.statements.len() as u64);
    statements.sum()
}

impl Chunk {
    /// The part of the log with its events.
    pub(in crate::store) fn part(&self) -> &LogPart {
        &self.part
    }

    /// True if it may have events of a time range.
    pub fn overlaps(&self, range_us: &Range<i64>) -> bool {
        self.span.overlaps(range_us)
    }

    /// The least and the greatest `ts` of its events, in µs.
    pub fn span_us(&self) -> (i64, i64) {
        (self.span.first_us, self.span.last_us)
    }

    /// True if all of its events lie in a time range.
    pub fn is_inside(&self, range_us: &Range<i64>) -> bool {
        range_us.start <= self.span.first_us && self.span.last_us < range_us.end
    }

    /// All columns of [`schema::lake`], read from the log.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the log is not what was written.
    pub fn whole(&self) -> Result<DataFrame> {
        let read = self.part.read()?;
        self.check_count(read.height())?;
        Ok(read)
    }

    /// Checks that all of its events were found in the log.
    ///
    /// # Errors
    /// [`Error::Damaged`] if not.
    pub fn check_count(&self, found: usize) -> Result<()> {
        let events = self.frame.height();
        if found == events {
            return Ok(());
        }
        Err(Error::Damaged {
            file: EVENT_LOG_FILE.into(),
            message: format!(
                "{found} events of {events} can be read; restart to move the damage to the quarantine"
            ),
        })
    }

    /// The columns of [`schema::COUNTED`], features as they were sent.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the log is not what was written.
    pub fn counted(&self) -> Result<DataFrame> {
        let mut frame = self.frame.clone();
        if self.has_rest_features {
            frame.with_column(self.details()?.column(schema::FEATURE)?.clone())?;
        }
        Ok(frame)
    }

    /// The columns of [`Chunk::counted`], metadata, URL and the ids of users.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the log is not what was written.
    pub fn with_details(&self) -> Result<DataFrame> {
        let details = [schema::METADATA, schema::URL, schema::USER];
        let details = self.details()?.select(details)?;
        Ok(self.counted()?.hstack(details.columns())?)
    }

    /// The columns that are not in the frame, read from the log at the first use.
    fn details(&self) -> Result<&DataFrame> {
        if let Some(details) = self.details.get() {
            return Ok(details);
        }
        let mut columns = vec![schema::METADATA, schema::URL, schema::USER_ID];
        columns.extend(self.has_rest_features.then_some(schema::FEATURE));
        let mut details = self.whole()?.select(columns)?;
        details.rename(schema::USER_ID, schema::USER.into())?;
        // Another reader may have been first; both read the same.
        Ok(self.details.get_or_init(|| details))
    }

    /// The daily states of the events.
    ///
    /// # Errors
    /// If Polars cannot compute them.
    pub fn slices(&self) -> Result<&Slices> {
        if let Some(slices) = self.slices.get() {
            return Ok(slices);
        }
        let counted = daily::plan(self.frame.clone().lazy(), &self.zones).collect()?;
        let slices = daily::read(&counted, &self.zones)?;
        // Another reader may have been first; both computed the same.
        Ok(self.slices.get_or_init(|| slices))
    }
}

impl OpenChunk {
    fn push(&mut self, row: &Row) {
        let at = Span::of(row.ts_us);
        self.span = Some(self.span.map_or(at, |span| span.union(at)));
        self.ts_us.push(row.ts_us);
        self.event_types.push(Some(row.event_type));
        self.users.push(row.user);
        self.features.push(row.feature);
        self.statements.extend(row.statement);
    }

    /// A chunk of the events so far; none if there are none.
    fn chunk(&self, names: &Dictionaries, zones: &OtherZones) -> Result<Option<Chunk>> {
        let (Some(span), Some(part)) = (self.span, self.part.clone()) else {
            return Ok(None);
        };
        Ok(Some(Chunk {
            frame: self.frame(names)?,
            has_rest_features: self.features.contains(&Some(REST_FEATURE)),
            has_system: self.event_types.contains(&Some(SYSTEM_TYPE)),
            statements: self.statements.clone(),
            span,
            part,
            zones: zones.clone(),
            slices: OnceLock::new(),
            details: OnceLock::new(),
        }))
    }

    fn frame(&self, names: &Dictionaries) -> Result<DataFrame> {
        Ok(DataFrame::new(
            self.ts_us.len(),
            vec![
                schema::timestamps(schema::TS, self.ts_us.clone()),
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
        self.span = None;
        self.ts_us.clear();
        self.event_types.clear();
        self.users.clear();
        self.features.clear();
        self.statements.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, EventType, write_line};
    use crate::window::DAY_US;

    /// A log in a temporary file.
    struct Log {
        file: Arc<File>,
        end: u64,
    }

    impl Log {
        fn new() -> Self {
            let file = tempfile::tempfile().expect("a temporary file");
            Self {
                file: Arc::new(file),
                end: 0,
            }
        }

        /// Writes an event at each of these times and adds them to the tail.
        fn append(&mut self, tail: &mut Tail, ts_us: &[i64]) {
            let mut lines = Vec::new();
            for &ts_us in ts_us {
                let event = Event {
                    ts_us,
                    event_type: EventType::Action,
                    user_id: None,
                    feature: None,
                    metadata: r#"{"plan":"pro"}"#.into(),
                    url: None,
                    event_id: None,
                    received_at_us: ts_us,
                };
                write_line(&event, &mut lines);
            }
            self.file.write_all_at(&lines, self.end).expect("written");
            let rows = ts_us.iter().map(|&ts_us| Row {
                ts_us,
                event_type: 1,
                user: None,
                feature: None,
                statement: None,
            });
            let start = self.end;
            self.end += lines.len() as u64;
            let part = LogPart {
                file: self.file.clone(),
                bytes: start..self.end,
            };
            let rows: Vec<Row> = rows.collect();
            tail.append(&rows, part).expect("appended");
        }
    }

    fn tail() -> Tail {
        Tail::new(Dictionaries::new().expect("names"), OtherZones::default())
    }

    /// Number of events, and the first and last `ts`.
    fn extent(tail: &Tail) -> (usize, Option<(i64, i64)>) {
        (tail.len(), tail.first_ts_us().zip(tail.last_ts_us()))
    }

    #[test]
    fn length_and_span_follow_appended_and_sealed_events() -> Result<()> {
        let (mut tail, mut log, mut next) = (tail(), Log::new(), Log::new());
        assert_eq!(extent(&tail), (0, None));
        log.append(&mut tail, &[5, 3]);
        assert_eq!(extent(&tail), (2, Some((3, 5))));
        tail.end_log()?;
        assert_eq!(extent(&tail), (2, Some((3, 5))));
        next.append(&mut tail, &[9, 4]);
        assert_eq!(extent(&tail), (4, Some((3, 9))));
        let oldest = tail.of_log(id_of(&log.file)?)?;
        assert_eq!(oldest.len(), 1);
        assert!(
            tail.of_log(id_of(&next.file)?)?.is_empty(),
            "not the oldest"
        );
        let sealed = tail.take_sealed(SealMark::of(&oldest));
        assert_eq!(sealed.len(), 1);
        assert_eq!(extent(&tail), (2, Some((4, 9))));
        tail.end_log()?;
        tail.take_sealed(SealMark { chunks: 1 });
        assert_eq!(extent(&tail), (0, None));
        Ok(())
    }

    #[test]
    fn a_full_chunk_is_closed_and_a_snapshot_has_the_chunks_of_its_range() -> Result<()> {
        let (mut tail, mut log) = (tail(), Log::new());
        log.append(&mut tail, &vec![10; CHUNK_ROWS]);
        log.append(&mut tail, &[20, 30]);
        let heights = |range: Range<i64>| -> Result<Vec<usize>> {
            let chunks = tail.snapshot(&range)?;
            Ok(chunks.iter().map(|chunk| chunk.frame.height()).collect())
        };
        assert_eq!(heights(0..100)?, [CHUNK_ROWS, 2]);
        assert_eq!(heights(10..11)?, [CHUNK_ROWS]);
        assert_eq!(heights(11..20)?, [0; 0]);
        assert_eq!(heights(30..31)?, [2]);
        assert_eq!(heights(31..40)?, [0; 0]);
        Ok(())
    }

    #[test]
    fn events_that_do_not_follow_in_the_log_begin_a_chunk() -> Result<()> {
        let (mut tail, mut log, mut other) = (tail(), Log::new(), Log::new());
        log.append(&mut tail, &[1]);
        log.append(&mut tail, &[2]);
        assert_eq!(tail.full.len(), 0);
        other.append(&mut tail, &[3]);
        assert_eq!(tail.full.len(), 1);
        let end = tail.log_end().map(|(file, end)| (Arc::as_ptr(&file), end));
        assert_eq!(end, Some((Arc::as_ptr(&other.file), other.end)));
        Ok(())
    }

    #[test]
    fn columns_that_are_not_in_memory_are_read_from_the_log() -> Result<()> {
        let (mut tail, mut log) = (tail(), Log::new());
        log.append(&mut tail, &[DAY_US, DAY_US + 1]);
        let chunks = tail.snapshot(&(0..i64::MAX))?;
        let chunk = chunks.first().expect("one chunk");
        let details = chunk.with_details()?;
        let metadata = details.column(schema::METADATA)?.str()?;
        assert_eq!(metadata.get(1), Some(r#"{"plan":"pro"}"#));
        let states = chunk.slices()?.of_utc();
        assert_eq!(states.get(&1).map(|state| state.activity.events), Some(2));
        // A damaged line: details were read before, all columns are not.
        log.file.write_all_at(b"#", 0).expect("written");
        assert!(chunk.with_details().is_ok());
        assert!(matches!(chunk.whole(), Err(Error::Damaged { .. })));
        Ok(())
    }
}
