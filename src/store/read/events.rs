//! Reading events: segments and tail of one snapshot, so that every event is read exactly once.

use std::ops::Range;
use std::sync::Arc;

use polars::prelude::*;

use super::{Reader, SystemEvents};
use crate::columns::{Projection, Table};
use crate::dictionary::REST_USER;
use crate::error::Result;
use crate::links::canonical::Canonical;
use crate::schema;
use crate::store::erased::Visible;
use crate::store::files::columns;
use crate::store::files::segment::{self, Segment};
use crate::store::pipeline;
use crate::store::version::Snapshot;
use crate::store::version::tail::Chunk;

/// Events of the batches that all cores work on at once: enough to keep them busy, few enough to
/// bound memory and to cancel a query between batches.
const BATCH_ROWS: u64 = 4 << 20;
/// The same with metadata and URL, which make an event ten times as large and groups as many as
/// events.
const DETAILED_BATCH_ROWS: u64 = 1 << 20;

/// Column projection of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Columns {
    /// The columns of [`schema::COUNTED`].
    Counted,
    /// Metadata, URL and the ids of users as [`schema::USER`] as well.
    All,
    /// Those of [`schema::COUNTED`] as codes, see [`crate::dictionary::Dictionaries::counted`].
    Codes,
}

impl Columns {
    /// With metadata and URL, or without.
    pub fn with_details(details: bool) -> Self {
        if details { Self::All } else { Self::Counted }
    }
}

/// Some events, which are read later.
pub enum Batch {
    /// Events of the tail, which are a plan already.
    Events(LazyFrame),
    /// Segments, which are opened then.
    Segments(SegmentsBatch),
}

/// The events of some segments.
pub struct SegmentsBatch {
    segments: Vec<Arc<Segment>>,
    condition: Expr,
    selected: Vec<Expr>,
}

impl Batch {
    /// True if it reads segments of the lake.
    pub fn reads_segments(&self) -> bool {
        matches!(self, Self::Segments(_))
    }

    /// The events.
    ///
    /// # Errors
    /// If a segment is damaged.
    pub fn events(self) -> Result<LazyFrame> {
        match self {
            Self::Events(events) => Ok(events),
            Self::Segments(batch) => Ok(segment::scan(&batch.segments)?
                .filter(batch.condition)
                .select(batch.selected)),
        }
    }
}

/// The events of a time range that a query reads from [columns](crate::columns) where it can.
pub struct Tables<'a> {
    /// The columns that it needs.
    pub projection: &'a Projection,
    /// The order of the events of a user on one day.
    pub order: LogOrder,
    /// Called between two files.
    pub check: &'a (dyn Fn() -> Result<()> + Sync),
}

/// The order of the events of a user on one day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogOrder {
    /// That of the log, in the tables and then in the batches: the segments of a day from the first
    /// one without a table on are in batches.
    Kept,
    /// Any.
    Free,
}

impl Reader {
    /// The events of a time range in batches of some million, see [`crate::store::Store::batches`].
    ///
    /// # Errors
    /// If a segment that is needed, or the log, is damaged.
    pub fn batches(
        &self,
        range_us: Range<i64>,
        columns: Columns,
        system: SystemEvents,
        tables: Option<&Tables<'_>>,
    ) -> Result<(Vec<Table>, Vec<Batch>)> {
        let names = &self.names;
        let snapshot = self.versions.snapshot(&range_us)?;
        // By day; those of one day are in the order of the log.
        let mut segments = segments_in(&snapshot, &range_us);
        segments.sort_by_key(|segment| segment.day());
        let canonical = snapshot.canonical.as_ref();
        let tables = match tables {
            // Hidden users are filtered by ids, and tables have codes.
            Some(tables) if snapshot.visible.is_none() => {
                let found;
                (found, segments) = tables.open(segments, &range_us, system, canonical)?;
                found
            }
            _ => Vec::new(),
        };
        // Users in the place of their aliases.
        let linked = |codes: Expr| match canonical {
            Some(canonical) => canonical.codes(codes),
            None => codes,
        };
        let selected = |user: Expr, id: &'static str, string: fn(&'static str) -> Expr| {
            let mut selected = vec![
                col(schema::TS),
                string(schema::EVENT_TYPE),
                linked(user),
                string(schema::FEATURE),
            ];
            if columns == Columns::All {
                selected.extend([col(schema::METADATA), col(schema::URL)]);
                let id = match canonical {
                    Some(canonical) => canonical.ids(&names.users, col(id)),
                    None => col(id),
                };
                selected.push(id.alias(schema::USER));
            }
            selected
        };
        let visible = |batch| system.of_segments(batch, snapshot.visible.clone());
        let mut batches = Vec::new();
        let mut rows = 0;
        let rows_at_once = match columns {
            Columns::All => DETAILED_BATCH_ROWS,
            _ => BATCH_ROWS,
        };
        let full_rows = (rows_at_once / pipeline::cores() as u64).max(1);
        let full = |segment: &Arc<Segment>| {
            let before = rows / full_rows;
            rows += segment.meta.rows;
            rows / full_rows == before
        };
        let mut same_batch = full;
        for batch in segments.chunk_by(|_, next| same_batch(next)) {
            let user = names.users.numbers(col(schema::USER_ID), None);
            let condition = inside_of(batch, &range_us, visible(batch));
            // String columns are projected unchanged, so that predicates are pushed down into the
            // Parquet reader.
            batches.push(Batch::Segments(SegmentsBatch {
                segments: batch.to_vec(),
                condition,
                selected: match columns {
                    Columns::Codes => {
                        let [ts, event_type, user, feature] = names.counted();
                        vec![ts, event_type, linked(user), feature]
                    }
                    _ => selected(user, schema::USER_ID, col),
                },
            }));
        }
        for chunk in snapshot.tail {
            let frame = match columns {
                Columns::All => chunk.with_details()?.lazy(),
                Columns::Counted => chunk.counted()?.lazy(),
                Columns::Codes => chunk.frame.clone().lazy(),
            };
            let visible = system.of_tail(chunk.has_system, snapshot.visible_tail.clone());
            let events = frame.filter(inside(&range_us, visible));
            if columns == Columns::Codes {
                batches.push(Batch::Events(events.select([
                    col(schema::TS),
                    col(schema::EVENT_TYPE).to_physical(),
                    linked(col(schema::USER_ID)),
                    col(schema::FEATURE).to_physical(),
                ])));
                continue;
            }
            let user = col(schema::USER_ID);
            let user = when(user.clone().neq(lit(REST_USER)))
                .then(user)
                .otherwise(lit(NULL));
            let string = |name| col(name).cast(DataType::String);
            batches.push(Batch::Events(events.select(selected(
                user,
                schema::USER,
                string,
            ))));
        }
        Ok((tables, batches))
    }

    /// The events of a time range with all columns, a segment or chunk at a time, see
    /// [`crate::store::Store::whole`].
    ///
    /// # Errors
    /// If a segment that is needed, or the log, is damaged.
    pub fn whole_range(
        &self,
        range_us: Range<i64>,
    ) -> Result<impl Iterator<Item = Result<LazyFrame>> + use<>> {
        let snapshot = self.versions.snapshot(&range_us)?;
        let mut segments = segments_in(&snapshot, &range_us);
        segments.sort_by_key(|segment| segment.day());
        let inside = inside(&range_us, snapshot.visible.map(Visible::all));
        Ok(parts(verified(segments, 1)?, snapshot.tail, inside))
    }
}

impl Tables<'_> {
    /// The tables of segments all of whose events lie in a time range, and the other segments.
    fn open(
        &self,
        segments: Vec<Arc<Segment>>,
        range_us: &Range<i64>,
        system: SystemEvents,
        canonical: Option<&Arc<Canonical>>,
    ) -> Result<(Vec<Table>, Vec<Arc<Segment>>)> {
        let (mut tables, mut others) = (Vec::new(), Vec::new());
        let mut days = segments.chunk_by(|a, b| a.day() == b.day());
        let open = |of_day: &[Arc<Segment>]| {
            let opened = of_day.iter().map(|segment| {
                (self.check)()?;
                // Columns have no `system` events.
                let has_all = segment.meta.system == 0 || system == SystemEvents::Hidden;
                let table = (has_all && is_inside(segment, range_us))
                    .then(|| columns::open(segment, self.projection, canonical.map(Arc::as_ref)));
                Ok((segment.clone(), table.flatten()))
            });
            opened.collect::<Result<Vec<_>>>()
        };
        pipeline::ordered(
            || Ok(days.next()),
            open,
            |opened| {
                let mut opened = opened?;
                if self.order == LogOrder::Kept {
                    let before = opened.iter().position(|(_, table)| table.is_none());
                    let after = opened.iter_mut().skip(before.unwrap_or(usize::MAX));
                    after.for_each(|(_, table)| *table = None);
                }
                for (segment, table) in opened {
                    match table {
                        Some(table) => tables.push(table),
                        None => others.push(segment),
                    }
                }
                Ok(())
            },
        )?;
        Ok((tables, others))
    }
}

/// The segments that may have events of a time range.
pub(super) fn segments_in(snapshot: &Snapshot, range_us: &Range<i64>) -> Vec<Arc<Segment>> {
    let segments = snapshot.version.segments.iter();
    let segments = segments.filter(|segment| segment.overlaps(range_us));
    segments.cloned().collect()
}

/// Segments in groups, each verified now: damage is reported before the first events of others are
/// returned.
///
/// # Errors
/// If one is damaged.
fn verified(segments: Vec<Arc<Segment>>, group: usize) -> Result<Vec<Vec<Arc<Segment>>>> {
    segments
        .iter()
        .try_for_each(|segment| segment.verified_or_kept())?;
    Ok(segments.chunks(group).map(<[_]>::to_vec).collect())
}

/// The events that meet a condition, sealed ones and then the tail. A group of segments is opened,
/// and a chunk of the tail read from the log, when the iterator comes to it.
fn parts(
    sealed: Vec<Vec<Arc<Segment>>>,
    tail: Vec<Arc<Chunk>>,
    condition: Expr,
) -> impl Iterator<Item = Result<LazyFrame>> {
    let tail = tail
        .into_iter()
        .map(|chunk| chunk.whole().map(IntoLazy::lazy));
    let sealed = sealed.into_iter().map(|group| segment::scan(&group));
    let parts = sealed.chain(tail);
    parts.map(move |part| Ok(part?.filter(condition.clone())))
}

/// Selects the visible events whose `ts` lies in a range.
pub(super) fn inside(range_us: &Range<i64>, visible: Option<Expr>) -> Expr {
    let timestamp = |us: i64| lit(us).cast(schema::timestamp());
    let inside = col(schema::TS)
        .gt_eq(timestamp(range_us.start))
        .and(col(schema::TS).lt(timestamp(range_us.end)));
    match visible {
        None => inside,
        Some(visible) => inside.and(visible),
    }
}

/// The same for segments, whose `ts` need not be read if all of it lies in the range.
fn inside_of(segments: &[Arc<Segment>], range_us: &Range<i64>, visible: Option<Expr>) -> Expr {
    if segments.iter().all(|segment| is_inside(segment, range_us)) {
        visible.unwrap_or(lit(true))
    } else {
        inside(range_us, visible)
    }
}

/// True if all events of a segment lie in a time range.
fn is_inside(segment: &Segment, range_us: &Range<i64>) -> bool {
    let meta = &segment.meta;
    range_us.start <= meta.first_ts_us && meta.last_ts_us < range_us.end
}
