//! What a query sees: the live segments and the tail, changed together so that an event is seen exactly once.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use polars::prelude::*;

use super::segment::{self, Segment};
use super::tail::Tail;
use crate::error::Result;
use crate::schema;

/// The view, shared by the writer, the seal and all queries.
#[derive(Clone)]
pub(super) struct SharedView(Arc<Mutex<View>>);

/// The segments and the tail at one instant.
pub(super) struct View {
    pub segments: Vec<Arc<Segment>>,
    pub tail: Tail,
    /// Bytes in the open log.
    pub log_bytes: u64,
}

/// A reader's own copy of what it needs; files and chunks stay readable while it exists.
struct Snapshot {
    segments: Vec<Arc<Segment>>,
    tail: Vec<DataFrame>,
    empty: DataFrame,
}

impl SharedView {
    pub fn new(view: View) -> Self {
        Self(Arc::new(Mutex::new(view)))
    }

    /// The view itself. A panic while it was locked left it whole: it is only ever replaced in one step.
    pub fn lock(&self) -> MutexGuard<'_, View> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The events whose `ts` lies in `range_us`, with the columns of [`schema::COUNTED`].
    ///
    /// # Errors
    /// If a segment that is needed is damaged.
    pub fn scan(&self, range_us: Range<i64>) -> Result<LazyFrame> {
        let snapshot = self.snapshot(&range_us)?;
        let columns = schema::COUNTED.map(col);
        let mut frames = Vec::new();
        if !snapshot.segments.is_empty() {
            frames.push(segment::scan(&snapshot.segments)?.select(columns.clone()));
        }
        if let Some(tail) = concat_frames(snapshot.tail)? {
            frames.push(tail.lazy());
        }
        let frame = match frames.len() {
            0 => snapshot.empty.lazy(),
            1 => frames.remove(0),
            _ => {
                let as_text = [schema::EVENT_TYPE, schema::USER_ID, schema::FEATURE]
                    .map(|name| col(name).cast(DataType::String));
                let frames: Vec<LazyFrame> = frames
                    .into_iter()
                    .map(|frame| frame.with_columns(as_text.clone()))
                    .collect();
                concat(frames, UnionArgs::default())?
            }
        };
        let instant = |us: i64| lit(us).cast(schema::instant());
        Ok(frame.filter(
            col(schema::TS)
                .gt_eq(instant(range_us.start))
                .and(col(schema::TS).lt(instant(range_us.end))),
        ))
    }

    fn snapshot(&self, range_us: &Range<i64>) -> Result<Snapshot> {
        let view = self.lock();
        Ok(Snapshot {
            segments: view
                .segments
                .iter()
                .filter(|segment| segment.overlaps(range_us))
                .cloned()
                .collect(),
            tail: view.tail.snapshot(range_us)?,
            empty: view.tail.empty_frame()?,
        })
    }
}

/// One frame with the chunks of all, nothing copied.
fn concat_frames(frames: Vec<DataFrame>) -> Result<Option<DataFrame>> {
    let mut frames = frames.into_iter();
    let Some(mut all) = frames.next() else {
        return Ok(None);
    };
    for frame in frames {
        all.vstack_mut(&frame)?;
    }
    Ok(Some(all))
}
