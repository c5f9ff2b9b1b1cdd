//! The daily rollup: one line a closed day, with the usage of the 30 days that end with it.
//!
//! Which days are due follows from what is there, never from having been awake at the time: a day is due when
//! it is over, has no line, and is not before the first event.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};

use chrono::{DateTime, Days, NaiveDate, NaiveTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::checksum::{self, LineCheck};
use crate::error::{Error, Result};
use crate::metrics::usage::UsageNumbers;
use crate::store::folder::{self, Folder};

/// The rollup log's name in the data folder.
pub const FILE_NAME: &str = "analytics.ndjson";
/// Days that a rollup looks back over, the day itself included: what makes its `mau` monthly.
pub const PERIOD_DAYS: u16 = 30;

/// Features that a line lists: more than a product has, and little enough that a year of lines is some megabytes, whatever
/// names were sent.
pub const MAX_FEATURES: usize = 1_000;

/// The longest line that is read: one with the longest names in the worst escapes has half of it.
const MAX_LINE_BYTES: u64 = 4 << 20;
/// How a line of ours begins.
const LINE_START: &[u8] = br#"{"ts":""#;
/// How a line of ours ends.
const LINE_END: &[u8] = br#""}"#;

/// One line of the rollup log: the user's shape, and the day.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RollupLine {
    /// When the day was due to be rolled up. Not the time of the run, so that a rebuilt log has equal bytes.
    pub ts: String,
    /// The day, the last of the period.
    pub day: NaiveDate,
    /// Length of the period in days.
    pub period_days: u16,
    /// The numbers.
    #[serde(flatten)]
    pub usage: UsageNumbers,
}

impl RollupLine {
    /// The line of `day`.
    pub fn new(day: NaiveDate, rollup_at: NaiveTime, usage: UsageNumbers) -> Self {
        Self {
            ts: due_at(day, rollup_at).to_rfc3339_opts(SecondsFormat::Secs, true),
            day,
            period_days: PERIOD_DAYS,
            usage,
        }
    }

    /// Writes the line with its checksum and newline.
    fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        // Writing to memory cannot fail.
        let _ = serde_json::to_writer(&mut *out, self);
        out.pop();
        checksum::close_object(out, start);
        out.push(b'\n');
    }
}

/// When the rollup of `day` is due: `rollup_at` of the day after it, so that late events have time to come.
fn due_at(day: NaiveDate, rollup_at: NaiveTime) -> DateTime<Utc> {
    (day + Days::new(1)).and_time(rollup_at).and_utc()
}

/// The last day whose rollup is due at `now`.
pub fn last_due_day(now: DateTime<Utc>, rollup_at: NaiveTime) -> NaiveDate {
    let yesterday = last_closed_day(now);
    if due_at(yesterday, rollup_at) <= now {
        yesterday
    } else {
        yesterday - Days::new(1)
    }
}

/// The last day that is over at `now`.
pub fn last_closed_day(now: DateTime<Utc>) -> NaiveDate {
    now.date_naive() - Days::new(1)
}

/// The days from the first event's to `last`, both included, that lack a rollup; no more than the
/// `keep_days` last ones.
pub fn missing_days(
    first_event: Option<NaiveDate>,
    last: NaiveDate,
    keep_days: u16,
    done: &BTreeSet<NaiveDate>,
) -> Vec<NaiveDate> {
    let Some(first_event) = first_event else {
        return Vec::new();
    };
    let first_kept = last - Days::new(u64::from(keep_days.max(1)) - 1);
    first_event
        .max(first_kept)
        .iter_days()
        .take_while(|day| *day <= last)
        .filter(|day| !done.contains(day))
        .collect()
}

/// The lines of the rollup log that are whole and ours.
///
/// # Errors
/// If the file cannot be read.
pub fn read(folder: &Folder) -> Result<Vec<u8>> {
    let mut lines = Vec::new();
    each_line(folder, |line, kind| {
        if matches!(kind, Kind::Day(_)) {
            lines.extend_from_slice(line);
        }
        Ok(())
    })?;
    Ok(lines)
}

/// What a line of the rollup log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The rollup of a day.
    Day(NaiveDate),
    /// A line of another program, which stays as it is.
    Foreign,
    /// A torn, damaged or too long line. Its day is made again.
    Unreadable,
}

impl Kind {
    fn of(line: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Line {
            day: NaiveDate,
        }
        let Some(object) = line.strip_suffix(b"\n") else {
            return Self::Unreadable;
        };
        match checksum::check_line(object) {
            LineCheck::Damaged(_) if is_like_ours(object) => Self::Unreadable,
            LineCheck::Damaged(_) => Self::Foreign,
            LineCheck::Right | LineCheck::Unchecked => serde_json::from_slice(object)
                .map_or(Self::Foreign, |line: Line| Self::Day(line.day)),
        }
    }
}

/// Whether a line, or a part of one, may once have been the rollup of a day.
fn is_like_ours(line: &[u8]) -> bool {
    line.starts_with(LINE_START) || line.ends_with(LINE_END)
}

/// Calls `visit` with each line of the rollup log, newline included, and what it is; of a line that is too long with its
/// start. No more than one line is in memory.
fn each_line(folder: &Folder, mut visit: impl FnMut(&[u8], Kind) -> Result<()>) -> Result<()> {
    let path = folder.path().join(FILE_NAME);
    if !path.exists() {
        return Ok(());
    }
    let file = folder::open(&path)?;
    let mut log = BufReader::new(file);
    let mut line = Vec::new();
    loop {
        line.clear();
        Read::by_ref(&mut log)
            .take(MAX_LINE_BYTES)
            .read_until(b'\n', &mut line)
            .map_err(Error::io("read", &path))?;
        if line.is_empty() {
            return Ok(());
        }
        if line.len() as u64 == MAX_LINE_BYTES && !line.ends_with(b"\n") {
            log.skip_until(b'\n').map_err(Error::io("read", &path))?;
        }
        visit(&line, Kind::of(&line))?;
    }
}

/// The rollup log as it is on disk.
#[derive(Debug, Default)]
pub struct RollupLog {
    /// Days that have a line.
    pub done: BTreeSet<NaiveDate>,
}

impl RollupLog {
    /// Reads which days have a line. One that is torn, damaged or too long does not count, and its day is made again.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn load(folder: &Folder) -> Result<Self> {
        let mut log = Self::default();
        let mut unreadable = 0;
        each_line(folder, |_, kind| {
            match kind {
                Kind::Day(day) => drop(log.done.insert(day)),
                Kind::Foreign => {}
                Kind::Unreadable => unreadable += 1,
            }
            Ok(())
        })?;
        if unreadable > 0 {
            warn!(
                lines = unreadable,
                "Left {unreadable} unreadable lines of {FILE_NAME} out; their days are made again where they can be"
            );
        }
        Ok(log)
    }

    /// Appends the lines that `next` gives, and puts the log in place of the old one, durably and at once. Lines are written one
    /// by one, so that memory does not follow their number.
    ///
    /// # Errors
    /// Those of `next`, and if the log cannot be written; then it is as it was.
    pub fn append(
        &mut self,
        folder: &Folder,
        mut next: impl FnMut() -> Result<Option<RollupLine>>,
    ) -> Result<usize> {
        let Some(mut line) = next()? else {
            return Ok(0);
        };
        let mut added = BTreeSet::new();
        rewrite(
            folder,
            |_| true,
            |out| {
                let mut bytes = Vec::new();
                loop {
                    bytes.clear();
                    line.write(&mut bytes);
                    out.write_all(&bytes)
                        .map_err(Error::io("write", FILE_NAME.as_ref()))?;
                    added.insert(line.day);
                    match next()? {
                        Some(another) => line = another,
                        None => return Ok(()),
                    }
                }
            },
        )?;
        let count = added.len();
        self.done.append(&mut added);
        Ok(count)
    }

    /// Removes the lines of days before `first_kept`, durably and at once. Returns how many there were.
    ///
    /// # Errors
    /// If the log cannot be written.
    pub fn remove_before(&mut self, folder: &Folder, first_kept: NaiveDate) -> Result<usize> {
        let before = self.done.len();
        self.done.retain(|day| *day >= first_kept);
        let removed = before - self.done.len();
        if removed > 0 {
            let is_kept = |day: NaiveDate| day >= first_kept;
            rewrite(folder, is_kept, |_| Ok(()))?;
        }
        Ok(removed)
    }
}

/// Puts a log with the lines of the days that are kept, those of other programs and what `add` writes in place of the log.
fn rewrite(
    folder: &Folder,
    is_kept: impl Fn(NaiveDate) -> bool,
    add: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<()> {
    folder.replace_with(FILE_NAME, |out| {
        each_line(folder, |line, kind| {
            let keeps = match kind {
                Kind::Day(day) => is_kept(day),
                Kind::Foreign => true,
                Kind::Unreadable => false,
            };
            match keeps {
                true => out
                    .write_all(line)
                    .map_err(Error::io("write", FILE_NAME.as_ref())),
                false => Ok(()),
            }
        })?;
        add(out)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::parse_day;

    fn day(text: &str) -> NaiveDate {
        parse_day(text).expect("the test names a day")
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("the test names an instant")
    }

    #[test]
    fn a_night_off_is_caught_up_and_nothing_is_done_twice() {
        let done = BTreeSet::from([day("2026-02-27")]);
        let missing = |first, last| missing_days(first, day(last), 365, &done);
        assert_eq!(
            missing(Some(day("2026-02-26")), "2026-03-01"),
            [day("2026-02-26"), day("2026-02-28"), day("2026-03-01")]
        );
        assert!(missing(None, "2026-03-01").is_empty());
        assert!(missing(Some(day("2026-03-02")), "2026-03-01").is_empty());
        assert_eq!(missing(Some(day("1997-01-01")), "2026-03-01").len(), 364);
    }

    #[test]
    fn a_day_is_due_at_a_quarter_past_three_and_closed_at_midnight() {
        let rollup_at = NaiveTime::from_hms_opt(3, 15, 0).expect("a time of day");
        for (now, due, closed) in [
            ("2026-03-01T00:00:00Z", "2026-02-27", "2026-02-28"),
            ("2026-03-01T03:14:59Z", "2026-02-27", "2026-02-28"),
            ("2026-03-01T03:15:00Z", "2026-02-28", "2026-02-28"),
            ("2026-03-01T23:59:59Z", "2026-02-28", "2026-02-28"),
        ] {
            assert_eq!(last_due_day(at(now), rollup_at), day(due), "{now}");
            assert_eq!(last_closed_day(at(now)), day(closed), "{now}");
        }
    }
}
