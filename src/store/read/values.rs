//! Counts of the values of a property and of the keys of metadata, part by part: of segments from
//! their [columns](crate::columns) where these have them, and else from the events.

use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::{Arc, Weak};

use polars::prelude::*;

use super::events::{inside, segments_in};
use super::{Reader, SystemEvents};
use crate::columns::{Content, List};
use crate::daily::Day;
use crate::error::Result;
use crate::event::counter::{Counter, Kinds};
use crate::event::path::{self, Path};
use crate::schema;
use crate::store::files::columns;
use crate::store::files::segment::{self, Segment};
use crate::store::version::tail::Chunk;

/// Events between two checks while events are counted.
const EVENTS_PER_CHECK: usize = 4_096;

/// The values that are counted. A value of metadata counts in the events that a filter for it
/// finds, and an object or a list has no value of its own, but those in it.
#[derive(Debug, Clone)]
pub enum ValuesOf {
    /// URLs.
    Urls,
    /// The values at a path in the metadata.
    Path {
        /// The path.
        path: String,
        /// Finds it.
        finder: Box<Path>,
    },
    /// The paths of the metadata that have values, as names of properties.
    Keys,
}

impl ValuesOf {
    /// The values at a path in the metadata.
    pub fn path(path: &str) -> Self {
        Self::Path {
            path: path.to_owned(),
            finder: Path::new(path).into(),
        }
    }

    /// Counts from the columns of a segment; none if they do not have all that is counted.
    fn known(&self, list: &List, content: &dyn Content) -> Result<Option<Counter>, String> {
        let keys = list.keys(content)?;
        let mut counter = Counter::default();
        let name = match (self, &keys) {
            (Self::Keys, None) => return Ok(None),
            (Self::Keys, Some(keys)) => {
                // A name is listed twice if it has single values in some events and lists in
                // others.
                for ((name, count), event) in keys.counts.iter().zip(0..) {
                    counter.add(name, count.kinds, event, count.events);
                }
                return Ok(Some(counter));
            }
            (Self::Urls, Some(keys)) if !keys.has_urls => return Ok(Some(counter)),
            (Self::Urls, _) => schema::URL.to_owned(),
            (Self::Path { path, .. }, keys) => {
                let property = format!("{}.{path}", schema::METADATA);
                match keys {
                    Some(keys) if keys.dotted.iter().any(|key| is_at_or_below(&property, key)) => {
                        return Ok(None);
                    }
                    Some(keys) if !keys.counts.iter().any(|(name, _)| *name == property) => {
                        return Ok(Some(counter));
                    }
                    // Keys with dots are in no column.
                    None if path.contains('.') => return Ok(None),
                    _ => {}
                }
                let first = path.split('.').next().unwrap_or_default();
                format!("{}.{first}", schema::METADATA)
            }
        };
        let Some(values) = list.counted_values(content, &name)? else {
            return Ok(None);
        };
        for ((value, events), event) in values.iter().zip(0..) {
            match self {
                Self::Path { path, .. } => {
                    let mut add = |json: &str| add_scalar(&mut counter, json, event, *events);
                    match path.split_once('.') {
                        Some((_, rest)) => path::any_below(rest, value, &mut add),
                        None => path::any_of(value, &mut add),
                    };
                }
                _ => counter.add(value, Kinds::default(), event, *events),
            }
        }
        Ok(Some(counter))
    }

    /// Counts some events, given as a column of metadata or URLs. `event` is the number of the
    /// first one.
    fn count(&self, column: &StringChunked, event: u64, counter: &mut Counter) {
        let values = (event..).zip(column.iter());
        for (event, value) in values.filter_map(|(event, value)| Some((event, value?))) {
            match self {
                Self::Urls => counter.add(value, Kinds::default(), event, 1),
                Self::Path { finder, .. } => {
                    finder.any(value, &mut |json| add_scalar(counter, json, event, 1));
                }
                Self::Keys => {
                    let mut name = String::from(schema::METADATA);
                    path::for_each_scalar(&mut name, value, &mut |name, json| {
                        counter.add(name, Kinds::of(json), event, 1);
                    });
                }
            }
        }
    }

    fn column(&self) -> &'static str {
        match self {
            Self::Urls => schema::URL,
            Self::Path { .. } | Self::Keys => schema::METADATA,
        }
    }
}

/// True if a name is a key or leads into it.
fn is_at_or_below(name: &str, key: &str) -> bool {
    let rest = name.strip_prefix(key);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Counts a value if it is a string, number or boolean. Returns false, so that a search goes on.
fn add_scalar(counter: &mut Counter, json: &str, event: u64, events: u64) -> bool {
    let kinds = Kinds::of(json);
    if kinds != Kinds::default()
        && let Some(value) = path::string_of(json)
    {
        counter.add(&value, kinds, event, events);
    }
    false
}

/// A part of the events of a range of days: a segment, or a chunk of the tail.
pub struct ValuePart {
    events: Events,
    key: Option<PartKey>,
    range_us: Range<i64>,
    visible: Option<Expr>,
}

enum Events {
    Segment(Arc<Segment>),
    Chunk(Arc<Chunk>),
}

/// Identifies a part whose counts never change, for as long as it exists.
#[derive(Debug, Clone)]
pub enum PartKey {
    /// A segment.
    Segment(Weak<Segment>),
    /// A full chunk of the tail.
    Chunk(Weak<Chunk>),
}

impl PartKey {
    /// True while the part exists. Its address is not used again as long as the key exists.
    pub fn is_live(&self) -> bool {
        match self {
            Self::Segment(segment) => segment.strong_count() > 0,
            Self::Chunk(chunk) => chunk.strong_count() > 0,
        }
    }

    fn address(&self) -> usize {
        match self {
            Self::Segment(segment) => segment.as_ptr().addr(),
            Self::Chunk(chunk) => chunk.as_ptr().addr(),
        }
    }
}

impl PartialEq for PartKey {
    fn eq(&self, other: &Self) -> bool {
        self.address() == other.address()
    }
}

impl Eq for PartKey {}

impl Hash for PartKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.address().hash(state);
    }
}

impl ValuePart {
    /// The key of its counts; none if they are those of some of its events, or change.
    pub fn key(&self) -> Option<&PartKey> {
        self.key.as_ref()
    }

    /// The day of its events, if they are sealed.
    pub fn day(&self) -> Option<Day> {
        match &self.events {
            Events::Segment(segment) => Some(segment.day()),
            Events::Chunk(_) => None,
        }
    }

    /// Number of events, of all days.
    pub fn rows(&self) -> u64 {
        match &self.events {
            Events::Segment(segment) => segment.meta.rows,
            Events::Chunk(chunk) => chunk.frame.height() as u64,
        }
    }

    /// Counts from columns, in far less time than from events; none if there are no columns that
    /// have all that is counted.
    pub fn known(&self, of: &ValuesOf) -> Option<Counter> {
        match &self.events {
            // Hidden users are filtered by ids.
            Events::Segment(segment) if self.visible.is_none() => {
                columns::described(segment, |list, content| of.known(list, content))
            }
            _ => None,
        }
    }

    /// Counts from the events. `check` is called with the bytes that the counts take, from time to
    /// time.
    ///
    /// # Errors
    /// [`crate::error::Error::Damaged`] if the segment or the log is, and the errors of `check`.
    pub fn read(&self, of: &ValuesOf, mut check: impl FnMut(u64) -> Result<()>) -> Result<Counter> {
        check(0)?;
        let column = of.column();
        let frame = match &self.events {
            Events::Segment(segment) => {
                let events = segment::scan(std::slice::from_ref(segment))?;
                let has_system = segment.meta.system > 0;
                let visible = SystemEvents::Hidden.of_lake(has_system, self.visible.clone());
                let events = match visible {
                    Some(visible) => events.filter(visible),
                    None => events,
                };
                let events = events.select([col(column)]);
                events
                    .collect_with_engine(Engine::Streaming)?
                    .unwrap_single()
            }
            Events::Chunk(chunk) => {
                let events = chunk.with_details()?.lazy();
                let visible = SystemEvents::Hidden.of_tail(chunk.has_system, self.visible.clone());
                let events = events.filter(inside(&self.range_us, visible));
                events.select([col(column)]).collect()?
            }
        };
        let strings = frame.column(column)?.str()?;
        let mut counter = Counter::default();
        for start in (0..strings.len()).step_by(EVENTS_PER_CHECK) {
            let some = strings.slice(start as i64, EVENTS_PER_CHECK);
            of.count(&some, start as u64, &mut counter);
            check(counter.bytes())?;
        }
        Ok(counter)
    }
}

impl Reader {
    /// The parts of the events of some days of UTC, the newest first.
    ///
    /// # Errors
    /// If the open chunk of the tail cannot be built.
    pub fn value_parts(&self, range_us: Range<i64>) -> Result<Vec<ValuePart>> {
        let snapshot = self.versions.snapshot(&range_us)?;
        let mut segments = segments_in(&snapshot, &range_us);
        segments.sort_by_key(|segment| std::cmp::Reverse(segment.day()));
        let is_hiding = snapshot.visible.is_some();
        let chunks = snapshot.tail.into_iter().map(|chunk| {
            // Only full chunks are shared; the open one was made for this reader.
            let is_kept = Arc::strong_count(&chunk) > 1 && chunk.is_inside(&range_us);
            let key = PartKey::Chunk(Arc::downgrade(&chunk));
            ValuePart {
                events: Events::Chunk(chunk),
                key: Some(key).filter(|_| is_kept && !is_hiding),
                range_us: range_us.clone(),
                visible: snapshot.visible_tail.clone(),
            }
        });
        let segments = segments.into_iter().map(|segment| {
            let key = PartKey::Segment(Arc::downgrade(&segment));
            ValuePart {
                events: Events::Segment(segment),
                key: Some(key).filter(|_| !is_hiding),
                range_us: range_us.clone(),
                // `system` events are never counted.
                visible: snapshot.visible.clone().map(|visible| visible.users),
            }
        });
        Ok(chunks.chain(segments).collect())
    }
}
