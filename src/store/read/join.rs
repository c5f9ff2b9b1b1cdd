//! Join: the events of one day from the files of several servers, each event once.
//!
//! Rows are in the order of receipt, and at one time in that of the files. The result has the order
//! of a segment: by user, then by time, then by that order. Of events with one id, type and user
//! the first by time, then by that order, stays. Joining a result with more files gives the same as
//! joining all of them at once.

use std::fs::File;
use std::path::Path;

use chrono::NaiveDate;
use polars::prelude::*;

use super::export::{ExportPartMeta, write};
use crate::daily::{date, day_of};
use crate::digest::{DigestMap, Digester};
use crate::error::{Error, Result};
use crate::event::visitor::is_visitor_id;
use crate::schema;
use crate::store::files::segment::Sorted;

/// The events of one day, each once, with the columns of [`schema::lake`].
#[derive(Clone)]
pub struct JoinedDay(DataFrame);

impl JoinedDay {
    /// Joins events of one day of UTC. The frames are in the order of the files.
    ///
    /// # Errors
    /// If they are not of one day, or have other columns.
    pub fn of(frames: Vec<DataFrame>) -> Result<Self> {
        let mut events = DataFrame::empty_with_schema(&schema::lake());
        for frame in frames {
            events.vstack_mut(&frame)?;
        }
        events.rechunk_mut();
        let in_order = SortMultipleOptions::default()
            .with_maintain_order(true)
            .with_multithreaded(false);
        let events = events.sort([schema::RECEIVED_AT], in_order)?;
        let events = events.filter_seq(&first_of_each(&events)?)?;
        let sorted = Sorted::new(events)?;
        if sorted.days().count() > 1 {
            return Err(Error::Query("a file of a day has events of others".into()));
        }
        Ok(Self(sorted.events))
    }

    /// Its events.
    pub fn events(&self) -> &DataFrame {
        &self.0
    }

    /// The number of events.
    pub fn rows(&self) -> u64 {
        self.0.height() as u64
    }

    /// Least and greatest `ts`, in µs; none without events.
    ///
    /// # Errors
    /// If the column is missing.
    pub fn span_us(&self) -> Result<Option<(i64, i64)>> {
        let column = self.0.column(schema::TS)?.to_physical_repr();
        let ts_us = column.i64()?;
        Ok(ts_us.min().zip(ts_us.max()))
    }

    /// Writes it as a Parquet file, durably.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<ExportPartMeta> {
        write(self.0.clone(), path)
    }
}

/// A part of the events of a day, which are joined without the others: all copies of an event are
/// in one part, and so are all events of a user.
#[derive(Debug, Clone, Copy)]
pub struct DayPart {
    /// Its number, from 0.
    pub part: u64,
    /// The number of parts.
    pub parts: u64,
}

impl DayPart {
    /// The whole day.
    pub const ALL: Self = Self { part: 0, parts: 1 };

    /// The rows of a frame that are in it.
    fn of(self, events: DataFrame) -> Result<DataFrame> {
        if self.parts <= 1 {
            return Ok(events);
        }
        let users = events.column(schema::USER_ID)?.str()?;
        let ids = events.column(schema::EVENT_ID)?.str()?;
        let digester = Digester::fixed();
        let is_in_part = users.iter().zip(ids.iter()).map(|(user, id)| {
            // The id of an event of a visitor counts for all visitors.
            let known = user.filter(|user| !is_visitor_id(user));
            let digest = digester.digest(known.or(id).or(user).unwrap_or_default());
            Some(digest.hash() % self.parts == self.part)
        });
        let is_in_part: BooleanChunked = is_in_part.collect();
        Ok(events.filter_seq(&is_in_part)?)
    }
}

/// Reads a part of a file of the lake of any server, on this thread alone.
///
/// # Errors
/// [`Error::Damaged`] if it has other columns or events of another day, and if it cannot be read.
pub fn read_day(path: &Path, day: NaiveDate, part: DayPart) -> Result<DataFrame> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let events = ParquetReader::new(file)
        .read_parallel(ParallelStrategy::None)
        .finish()?;
    let damaged = |message: &str| Error::Damaged {
        file: path.to_owned(),
        message: message.into(),
    };
    if **events.schema() != schema::lake() {
        return Err(damaged("it has other columns than the lake"));
    }
    let column = events.column(schema::TS)?.to_physical_repr();
    let ts_us = column.i64()?;
    let is_of_day = |ts_us: Option<i64>| ts_us.is_none_or(|ts_us| date(day_of(ts_us)) == day);
    if !is_of_day(ts_us.min()) || !is_of_day(ts_us.max()) {
        return Err(damaged("it has events of another day"));
    }
    part.of(events)
}

/// The rows that are the first of their event, of events in the order of the log.
fn first_of_each(events: &DataFrame) -> Result<BooleanChunked> {
    let ids = events.column(schema::EVENT_ID)?.str()?;
    let types = events.column(schema::EVENT_TYPE)?.str()?;
    let users = events.column(schema::USER_ID)?.str()?;
    let times = events.column(schema::TS)?.to_physical_repr();
    let digester = Digester::new();
    let mut first: DigestMap<(i64, usize)> = DigestMap::default();
    let mut is_first = vec![true; events.height()];
    let columns = ids.iter().zip(types.iter()).zip(users.iter());
    for (row, (((id, event_type), user), ts_us)) in columns.zip(times.i64()?.iter()).enumerate() {
        let Some(id) = id else {
            continue;
        };
        // As at ingest: a visitor who sends an event again may have another id by then.
        let user = user.filter(|user| !is_visitor_id(user));
        let key = digester.digest_all([Some(id), event_type, user]);
        let this = (ts_us.unwrap_or_default(), row);
        let kept = first.entry(key).or_insert(this);
        if *kept == this {
            continue;
        }
        let lost = if this < *kept {
            std::mem::replace(kept, this).1
        } else {
            row
        };
        if let Some(is_first) = is_first.get_mut(lost) {
            *is_first = false;
        }
    }
    Ok(BooleanChunked::new(PlSmallStr::EMPTY, is_first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::visitor::VISITOR_PREFIX;
    use crate::event::{Event, EventType};
    use crate::store::files::rows::LakeRows;

    /// Events by user, time in s, time of receipt in s, and id.
    type Row = (&'static str, i64, i64, Option<&'static str>);

    fn frame(rows: &[Row]) -> Result<DataFrame> {
        let mut events = LakeRows::for_lines(0);
        for (place, &(user, ts, received, id)) in rows.iter().enumerate() {
            events.push(&Event {
                ts_us: ts * 1_000_000,
                event_type: EventType::Action,
                user_id: Some(user.into()),
                feature: Some(format!("{received}-{place}").into()),
                metadata: "{}".into(),
                url: None,
                event_id: id.map(Into::into),
                received_at_us: received * 1_000_000,
            });
        }
        events.finish()
    }

    /// User, time and feature, which has the time of receipt and the row.
    fn found(day: &JoinedDay) -> Vec<(String, i64, String)> {
        let events = day.events();
        let text = |name: &str| events.column(name).unwrap().str().unwrap().clone();
        let times = events.column(schema::TS).unwrap().to_physical_repr();
        let times: Vec<Option<i64>> = times.i64().unwrap().iter().collect();
        let rows = text(schema::USER_ID);
        let features = text(schema::FEATURE);
        let rows = rows.iter().zip(times).zip(features.iter());
        rows.map(|((user, ts), feature)| {
            let text = |text: Option<&str>| text.unwrap().to_owned();
            (text(user), ts.unwrap() / 1_000_000, text(feature))
        })
        .collect()
    }

    #[test]
    fn an_event_that_two_servers_have_stays_once_and_ties_are_in_the_order_of_receipt() -> Result<()>
    {
        let a: &[Row] = &[
            ("ann", 5, 10, Some("1")),
            ("bob", 5, 11, Some("2")),
            // Of one time: received first at the other server.
            ("ann", 7, 13, Some("3")),
            // Without an id each is an event.
            ("bob", 6, 14, None),
            // The same id of another user is another event.
            ("bob", 9, 14, Some("1")),
        ];
        let b: &[Row] = &[
            ("ann", 7, 12, Some("4")),
            ("ann", 5, 12, Some("1")),
            ("bob", 6, 14, None),
            // Without a time of the client the copies have the times of their receipt.
            ("bob", 4, 15, Some("2")),
        ];
        let c: &[Row] = &[("ann", 7, 20, Some("3")), ("zoe", 1, 21, Some("1"))];
        let all = JoinedDay::of(vec![frame(a)?, frame(b)?, frame(c)?])?;
        let expected = [
            ("ann", 5, "10-0"),
            ("ann", 7, "12-0"),
            ("ann", 7, "13-2"),
            ("bob", 4, "15-3"),
            ("bob", 6, "14-3"),
            ("bob", 6, "14-2"),
            ("bob", 9, "14-4"),
            ("zoe", 1, "21-1"),
        ];
        let expected = expected.map(|(user, ts, feature)| (user.into(), ts, feature.into()));
        assert_eq!(found(&all), expected);
        assert_eq!(all.span_us()?, Some((1_000_000, 9_000_000)));
        // In two steps, and again with a copy of all.
        let some = JoinedDay::of(vec![frame(a)?, frame(b)?])?;
        let more = JoinedDay::of(vec![some.events().clone(), frame(c)?])?;
        assert_eq!(found(&more), expected);
        Ok(())
    }

    #[test]
    fn the_parts_of_a_day_have_each_event_and_all_its_copies_together() -> Result<()> {
        let visitors = ["0000000000000001", "0000000000000002"];
        let visitors = visitors.map(|id| format!("{VISITOR_PREFIX}{id}"));
        let [first, second] = visitors.each_ref().map(|id| &*id.clone().leak());
        let rows: Vec<Row> = (0..40)
            .flat_map(|at| {
                let user: &'static str = format!("user-{}", at % 7).leak();
                let id: &'static str = format!("id-{}", at % 20).leak();
                [
                    (user, at, at, Some(id)),
                    (first, at, at, Some(id)),
                    (second, at, at, None),
                ]
            })
            .collect();
        let all = frame(&rows)?;
        let whole = JoinedDay::of(vec![all.clone()])?;
        let parts = (0..3).map(|part| {
            let part = DayPart { part, parts: 3 }.of(all.clone())?;
            assert!(part.height() > 0);
            JoinedDay::of(vec![part])
        });
        let parts: Vec<JoinedDay> = parts.collect::<Result<_>>()?;
        let mut together: Vec<_> = parts.iter().flat_map(found).collect();
        let mut expected = found(&whole);
        together.sort();
        expected.sort();
        assert_eq!(together, expected);
        Ok(())
    }

    #[test]
    fn a_file_of_another_day_or_with_other_columns_is_damaged() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("day.parquet");
        let day = JoinedDay::of(vec![frame(&[("ann", 5, 10, None)])?])?;
        assert_eq!(day.write(&path)?.rows, 1);
        let read = |day| read_day(&path, date(day), DayPart::ALL);
        assert!(read(0)?.equals_missing(day.events()));
        assert!(matches!(read(1), Err(Error::Damaged { .. })));
        write(day.events().drop(schema::URL)?, &path)?;
        assert!(matches!(read(0), Err(Error::Damaged { .. })));
        let two_days = frame(&[("ann", 5, 10, None), ("ann", 100_000, 10, None)])?;
        assert!(JoinedDay::of(vec![two_days]).is_err());
        Ok(())
    }
}
