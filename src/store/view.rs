//! What a query sees: the live segments and the tail, changed together so that an event is seen exactly once.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use polars::prelude::*;
use roaring::RoaringBitmap;

use super::erased::Gate;
use super::expiry::ExpiryFacts;
use super::pipeline;
use super::postings::{self, Uses};
use super::rotation::WaitingLogs;
use super::segment::{self, Segment};
use super::states::{StateFacts, StateFile};
use super::tail::{Chunk, Tail};
use crate::daily::{Activities, Activity, DailyState, Day, Week, WeekActivity, days_of, week_of};
use crate::error::Result;
use crate::names::{Names, REST_USER};
use crate::schema;
use crate::window::DAY_US;

/// The view, shared by the writer, the seal and all queries.
#[derive(Clone)]
pub(super) struct SharedView {
    view: Arc<Mutex<View>>,
    weeks: Arc<Mutex<BTreeMap<Week, KeptWeek>>>,
}

/// Daily states, and chunks of the tail.
type StatesAndTail = (Vec<(Day, Arc<StateFile>)>, Vec<Arc<Chunk>>);

/// The states of the days of a week that have events.
type DaysOfWeek<'a> = &'a [(Day, Arc<StateFile>)];

/// A week that was counted, and from what.
struct KeptWeek {
    /// Names of the states' files, which are never used twice.
    files: Vec<String>,
    activity: Arc<WeekActivity>,
}

impl KeptWeek {
    fn count(states: DaysOfWeek<'_>, names: &Names) -> Result<Self> {
        let mut activity = WeekActivity::default();
        for (_, state) in states {
            activity.add(state.activity_once(names)?.as_ref());
        }
        Ok(Self {
            files: states
                .iter()
                .map(|(_, state)| state.facts.path.clone())
                .collect(),
            activity: Arc::new(activity),
        })
    }

    /// Whether it was counted from these.
    fn is_of(&self, states: DaysOfWeek<'_>) -> bool {
        let files = states.iter().map(|(_, state)| &state.facts.path);
        self.files.iter().eq(files)
    }
}

/// Events that are computed on at once, by all cores together: enough to keep them busy, few enough that memory is bounded by
/// them and that a question can be given up.
const BATCH_ROWS: u64 = 4 << 20;

/// What a question reads of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Columns<'a> {
    /// Those of [`schema::COUNTED`].
    Counted,
    /// Metadata and URL as well.
    All,
    /// `ts`, user and feature, at least, of known users' uses of these features, those of one user in no order; others may be
    /// among them.
    Uses(&'a [String]),
}

impl Columns<'_> {
    /// With metadata and URL, or without.
    pub fn with_details(details: bool) -> Self {
        match details {
            true => Self::All,
            false => Self::Counted,
        }
    }
}

/// Some events, read when it is their turn.
pub enum Batch {
    /// What is a plan already: events of the tail.
    Events(LazyFrame),
    /// Segments, which are opened then.
    Segments(SegmentsBatch),
    /// What may be read from postings.
    Uses(UsesBatch),
}

/// The events of some segments.
pub struct SegmentsBatch {
    segments: Vec<Arc<Segment>>,
    condition: Expr,
    selected: Vec<Expr>,
}

/// The uses of some features in some segments.
pub struct UsesBatch {
    segments: Vec<Arc<Segment>>,
    features: Arc<[String]>,
    condition: Expr,
    names: Names,
}

impl Batch {
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
            Self::Uses(uses) => uses.events(),
        }
    }
}

impl UsesBatch {
    fn events(self) -> Result<LazyFrame> {
        let mut uses = Uses::default();
        let mut without = Vec::new();
        for segment in self.segments {
            if !postings::read(&segment, &self.features, &mut uses) {
                without.push(segment);
            }
        }
        let mut frames = vec![uses.frame()?.lazy()];
        if !without.is_empty() {
            let user = self.names.users.numbers(col(schema::USER_ID), None);
            frames.push(segment::scan(&without)?.select([
                col(schema::TS),
                user,
                col(schema::FEATURE),
            ]));
        }
        Ok(concat(frames, UnionArgs::default())?.filter(self.condition))
    }
}

/// What a day left behind, in parts that may share users.
pub struct DayParts {
    /// The day.
    pub day: Day,
    sealed: Option<Arc<StateFile>>,
    unsealed: Vec<Arc<DailyState>>,
}

impl DayParts {
    fn of(day: Day) -> Self {
        Self {
            day,
            sealed: None,
            unsealed: Vec::new(),
        }
    }

    /// Who was active and how much happened. What is read of a file is kept.
    ///
    /// # Errors
    /// [`crate::error::Error::Damaged`] if the state is.
    pub fn activities(&self, names: &Names) -> Result<Vec<Arc<Activity>>> {
        let sealed = self.sealed.iter().map(|state| state.activity(names));
        let unsealed = self.unsealed.iter().map(|state| Ok(state.activity.clone()));
        sealed.chain(unsealed).collect()
    }

    /// All of the states.
    ///
    /// # Errors
    /// [`crate::error::Error::Damaged`] if the state is.
    pub fn states(&self, names: &Names) -> Result<Vec<Arc<DailyState>>> {
        let sealed = self
            .sealed
            .iter()
            .map(|state| Ok(Arc::new(state.state(names)?)));
        sealed
            .chain(self.unsealed.iter().cloned().map(Ok))
            .collect()
    }
}

/// The segments and the tail at one instant.
pub(super) struct View {
    pub segments: Vec<Arc<Segment>>,
    /// What the events in the segments left behind of each day.
    pub states: BTreeMap<Day, Arc<StateFile>>,
    pub tail: Tail,
    /// What expired.
    pub expiry: ExpiryFacts,
    /// Bytes in the open log.
    pub log_bytes: u64,
    /// Since when the oldest event of the open log waits to be sealed.
    pub log_since: Option<Instant>,
    /// The rotated logs that wait to be sealed.
    pub waiting: WaitingLogs,
    /// Who is erased.
    pub gate: Gate,
}

impl View {
    /// Makes these the live states; what was read of those that stay is kept. Returns those that are live no more.
    pub fn set_states(&mut self, mut states: BTreeMap<Day, Arc<StateFile>>) -> Vec<Arc<StateFile>> {
        for (day, state) in &mut states {
            if let Some(old) = self.states.get(day)
                && old.facts == state.facts
            {
                *state = self.states.remove(day).unwrap_or_else(|| state.clone());
            }
        }
        std::mem::replace(&mut self.states, states)
            .into_values()
            .collect()
    }
}

/// A reader's own copy of what it needs; files and chunks stay readable while it exists.
struct Snapshot {
    segments: Vec<Arc<Segment>>,
    tail: Vec<Arc<Chunk>>,
    empty: DataFrame,
    /// The events that are not being erased, where some are: an expression on the ids of users.
    visible: Option<Expr>,
    /// The same for the frames of the tail, which have the numbers of users.
    visible_tail: Option<Expr>,
}

impl SharedView {
    pub fn new(view: View) -> Self {
        Self {
            view: Arc::new(Mutex::new(view)),
            weeks: Arc::default(),
        }
    }

    /// The view itself. A panic while it was locked left it whole: it is only ever replaced in one step.
    pub fn lock(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The features that the sealed state of a day names; none if it has no state that can be read.
    pub fn named_features(&self, day: Day, names: &Names) -> RoaringBitmap {
        let state = self.lock().states.get(&day).cloned();
        state.map_or_else(RoaringBitmap::new, |state| state.named_features(names))
    }

    /// The events whose `ts` lies in `range_us`, with the columns of [`schema::COUNTED`] as numbers.
    ///
    /// # Errors
    /// If a segment that is needed is damaged.
    pub fn scan(&self, range_us: Range<i64>, names: &Names) -> Result<LazyFrame> {
        let snapshot = self.snapshot(&range_us)?;
        let tail = concat_frames(&snapshot.tail)?.unwrap_or(snapshot.empty);
        let tail = tail.lazy().filter(inside(&range_us, snapshot.visible_tail));
        let mut frames = vec![tail.select([
            col(schema::TS),
            col(schema::EVENT_TYPE).to_physical(),
            col(schema::USER_ID),
            col(schema::FEATURE).to_physical(),
        ])];
        if !snapshot.segments.is_empty() {
            let events = segment::scan(&snapshot.segments)?;
            let events = events.filter(inside(&range_us, snapshot.visible));
            frames.insert(0, events.select(names.counted()));
        }
        Ok(concat(frames, UnionArgs::default())?)
    }

    /// The events whose `ts` lies in `range_us`, in parts of some million, each user's events of a day in the order of the
    /// log. Users are their numbers, other texts are texts.
    ///
    /// # Errors
    /// If a segment that is needed, or the log, is damaged.
    pub fn batches(
        &self,
        range_us: Range<i64>,
        columns: Columns<'_>,
        names: &Names,
    ) -> Result<Vec<Batch>> {
        let mut snapshot = self.snapshot(&range_us)?;
        // By day; those of one day are in the order of the log.
        snapshot.segments.sort_by_key(|segment| segment.day());
        let selected = |user: Expr, text: fn(&'static str) -> Expr| {
            let mut selected = vec![
                col(schema::TS),
                text(schema::EVENT_TYPE),
                user,
                text(schema::FEATURE),
            ];
            if columns == Columns::All {
                selected.extend([col(schema::METADATA), col(schema::URL)]);
            }
            selected
        };
        let visible = || snapshot.visible.clone();
        let mut batches = Vec::new();
        let mut rows = 0;
        let full_rows = (BATCH_ROWS / pipeline::cores() as u64).max(1);
        let full = |segment: &Arc<Segment>| {
            let before = rows / full_rows;
            rows += segment.facts.rows;
            rows / full_rows == before
        };
        let mut same_batch = full;
        for batch in snapshot.segments.chunk_by(|_, next| same_batch(next)) {
            let user = names.users.numbers(col(schema::USER_ID), None);
            let condition = inside_of(batch, &range_us, visible());
            batches.push(match columns {
                // What is being erased is told by ids, and postings have numbers.
                Columns::Uses(features) if snapshot.visible.is_none() => Batch::Uses(UsesBatch {
                    segments: batch.to_vec(),
                    features: features.into(),
                    condition,
                    names: names.clone(),
                }),
                // A text is selected as it is: a condition on it then goes through this selection into the reading of the file.
                _ => Batch::Segments(SegmentsBatch {
                    segments: batch.to_vec(),
                    condition,
                    selected: selected(user, col),
                }),
            });
        }
        for chunk in snapshot.tail {
            let frame = match columns {
                Columns::All => chunk.with_details()?.lazy(),
                Columns::Counted | Columns::Uses(_) => chunk.counted()?.lazy(),
            };
            let events = frame.filter(inside(&range_us, snapshot.visible_tail.clone()));
            let user = col(schema::USER_ID);
            let user = when(user.clone().neq(lit(REST_USER)))
                .then(user)
                .otherwise(lit(NULL));
            batches.push(Batch::Events(
                events.select(selected(user, |name| col(name).cast(DataType::String))),
            ));
        }
        Ok(batches)
    }

    /// The events whose `ts` lies in `range_us`, with the columns of [`schema::lake`], a segment or chunk at a time.
    ///
    /// # Errors
    /// If a segment that is needed, or the log, is damaged.
    pub fn whole_range(
        &self,
        range_us: Range<i64>,
    ) -> Result<impl Iterator<Item = Result<LazyFrame>> + use<>> {
        let mut snapshot = self.snapshot(&range_us)?;
        snapshot.segments.sort_by_key(|segment| segment.day());
        let inside = inside(&range_us, snapshot.visible);
        Ok(parts(
            verified(snapshot.segments, 1)?,
            snapshot.tail,
            inside,
        ))
    }

    /// The daily states of a range of days, each in parts: those of sealed events and those of each chunk of the tail.
    /// No file is read yet.
    pub fn days(&self, days: &Range<Day>) -> Result<Vec<DayParts>> {
        let (states, chunks) = self.states_and_tail(days)?;
        let mut found: BTreeMap<Day, DayParts> = BTreeMap::new();
        for (day, state) in states {
            found.entry(day).or_insert_with(|| DayParts::of(day)).sealed = Some(state);
        }
        for chunk in &chunks {
            for (&day, state) in chunk.states()?.range(days.clone()) {
                let parts = found.entry(day).or_insert_with(|| DayParts::of(day));
                parts.unsealed.push(state.clone());
            }
        }
        Ok(found.into_values().collect())
    }

    /// The revision of each day of a range that has events: a text that is another one when they are. No file is read. Events
    /// that move from the log into segments are a new revision of the same events; a compaction is none.
    ///
    /// # Errors
    /// If the engine cannot count the events that are not sealed.
    pub fn revisions(&self, days: &Range<Day>) -> Result<BTreeMap<Day, String>> {
        let (states, chunks) = self.states_and_tail(days)?;
        let mut revisions: BTreeMap<Day, String> = BTreeMap::new();
        for (day, state) in states {
            // Of states of one day, which have the same bytes if they are the same.
            let StateFacts {
                events,
                bytes,
                crc32c,
                ..
            } = state.facts;
            revisions.insert(day, format!("{events}-{bytes}-{crc32c:08x}"));
        }
        let mut unsealed: BTreeMap<Day, u64> = BTreeMap::new();
        for chunk in &chunks {
            for (day, state) in chunk.states()?.range(days.clone()) {
                *unsealed.entry(*day).or_default() += state.activity.events;
            }
        }
        for (day, events) in unsealed {
            revisions
                .entry(day)
                .or_default()
                .push_str(&format!("+{events}"));
        }
        Ok(revisions)
    }

    /// What happened in a range of days.
    ///
    /// # Errors
    /// If a state that is needed is damaged.
    pub fn activities(&self, days: Range<Day>, names: &Names) -> Result<Activities> {
        let (states, chunks) = self.states_and_tail(&days)?;
        let mut activities = Activities::default();
        for chunk in &chunks {
            for (day, state) in chunk.states()?.range(days.clone()) {
                let parts = activities.days.entry(*day).or_default();
                parts.push(state.activity.clone());
            }
        }
        let unsealed: BTreeSet<Week> = activities.days.keys().copied().map(week_of).collect();
        let mut whole_weeks = Vec::new();
        for of_week in states.chunk_by(|(a, _), (b, _)| week_of(*a) == week_of(*b)) {
            let Some(week) = of_week.first().map(|(day, _)| week_of(*day)) else {
                continue;
            };
            let reach = days_of(week);
            if days.start <= reach.start && reach.end <= days.end && !unsealed.contains(&week) {
                whole_weeks.push((week, of_week));
                continue;
            }
            for (day, state) in of_week {
                let parts = activities.days.entry(*day).or_default();
                parts.push(state.activity(names)?);
            }
        }
        activities.weeks = self.weeks(&whole_weeks, names)?;
        Ok(activities)
    }

    /// What happened in weeks of which all is sealed. Each is counted once and kept: a year is some fifty sets of users
    /// and not 365.
    fn weeks(
        &self,
        weeks: &[(Week, DaysOfWeek<'_>)],
        names: &Names,
    ) -> Result<BTreeMap<Week, Arc<WeekActivity>>> {
        let mut found = BTreeMap::new();
        let mut missing = Vec::new();
        {
            let kept = self.weeks.lock().unwrap_or_else(PoisonError::into_inner);
            for &(week, states) in weeks {
                match kept.get(&week).filter(|kept| kept.is_of(states)) {
                    Some(kept) => drop(found.insert(week, kept.activity.clone())),
                    None => missing.push((week, states)),
                }
            }
        }
        let mut missing = missing.into_iter();
        pipeline::ordered(
            || Ok(missing.next()),
            |(week, states)| Ok((week, KeptWeek::count(states, names)?)),
            |counted: Result<(Week, KeptWeek)>| {
                let (week, counted) = counted?;
                found.insert(week, counted.activity.clone());
                let mut kept = self.weeks.lock().unwrap_or_else(PoisonError::into_inner);
                kept.insert(week, counted);
                Ok(())
            },
        )?;
        Ok(found)
    }

    /// The states of a range of days, and the chunks of the tail that may hold events of it, at one instant.
    fn states_and_tail(&self, days: &Range<Day>) -> Result<StatesAndTail> {
        let range_us = i64::from(days.start).saturating_mul(DAY_US)
            ..i64::from(days.end).saturating_mul(DAY_US);
        let view = self.lock();
        let states = view.states.range(days.clone());
        let states = states.map(|(&day, state)| (day, state.clone())).collect();
        Ok((states, view.tail.snapshot(&range_us)?))
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
            visible: view.gate.visible(),
            visible_tail: view.gate.visible_numbers(),
        })
    }
}

/// Segments in groups of so many, each verified now: that one is damaged is said before the first events of others are.
///
/// # Errors
/// If one is damaged.
fn verified(segments: Vec<Arc<Segment>>, group: usize) -> Result<Vec<Vec<Arc<Segment>>>> {
    segments
        .iter()
        .try_for_each(|segment| segment.verified_or_kept())?;
    Ok(segments.chunks(group).map(<[_]>::to_vec).collect())
}

/// Of sealed events and then of the tail those that meet a condition. A group of segments is opened, and a chunk of the tail
/// read from the log, when it is its turn.
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

/// Leaves the segments of the days on which, by their states, one of these users may have been active.
///
/// # Errors
/// If a state is damaged.
pub(super) fn keep_days_of(
    users: &RoaringBitmap,
    segments: &mut Vec<Arc<Segment>>,
    states: &BTreeMap<Day, Arc<StateFile>>,
    names: &Names,
) -> Result<()> {
    let mut days = BTreeSet::new();
    for (&day, state) in states {
        let activity = state.activity(names)?;
        // A state does not say who the users beyond the limit were.
        if activity.rest_user_events > 0 || !activity.users.is_disjoint(users) {
            days.insert(day);
        }
    }
    segments.retain(|segment| days.contains(&segment.day()));
    Ok(())
}

/// The events whose `ts` lies in a range, and that are visible.
fn inside(range_us: &Range<i64>, visible: Option<Expr>) -> Expr {
    let instant = |us: i64| lit(us).cast(schema::instant());
    let inside = col(schema::TS)
        .gt_eq(instant(range_us.start))
        .and(col(schema::TS).lt(instant(range_us.end)));
    match visible {
        None => inside,
        Some(visible) => inside.and(visible),
    }
}

/// The same for segments, whose `ts` need not be looked at if all of it lies in the range.
fn inside_of(segments: &[Arc<Segment>], range_us: &Range<i64>, visible: Option<Expr>) -> Expr {
    let is_inside = |segment: &Arc<Segment>| {
        let facts = &segment.facts;
        range_us.start <= facts.first_ts_us && facts.last_ts_us < range_us.end
    };
    match segments.iter().all(is_inside) {
        true => visible.unwrap_or(lit(true)),
        false => inside(range_us, visible),
    }
}

/// One frame with the events of all chunks, nothing copied.
fn concat_frames(chunks: &[Arc<Chunk>]) -> Result<Option<DataFrame>> {
    let mut chunks = chunks.iter();
    let Some(first) = chunks.next() else {
        return Ok(None);
    };
    let mut all = first.frame.clone();
    for chunk in chunks {
        all.vstack_mut(&chunk.frame)?;
    }
    Ok(Some(all))
}
