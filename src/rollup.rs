//! The daily rollup: one line a closed day, with the usage of the 30 days that end with it.
//!
//! Which days are due follows from what is there, never from having been awake at the time: a day is due when
//! it is over, has no line, and is not before the first event.

use std::collections::BTreeSet;
use std::path::PathBuf;

use chrono::{DateTime, Days, NaiveDate, NaiveTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::error::{Error, Result};
use crate::metrics::usage::UsageNumbers;
use crate::store::folder::Folder;

/// The rollup log's name in the data folder.
pub const FILE_NAME: &str = "analytics.ndjson";
/// Days that a rollup looks back over, the day itself included: what makes its `mau` monthly.
pub const PERIOD_DAYS: u16 = 30;

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

/// The lines of the rollup log.
///
/// # Errors
/// If the file cannot be read.
pub fn read(folder: &Folder) -> Result<Vec<u8>> {
    Ok(RollupLog::load(folder)?.text)
}

/// The rollup log as it is on disk.
#[derive(Debug, Default)]
pub struct RollupLog {
    /// Days that have a line.
    pub done: BTreeSet<NaiveDate>,
    text: Vec<u8>,
}

impl RollupLog {
    /// Reads the log. A torn last line is left out, and its day made again; a whole line that is none of ours is kept
    /// as it is.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn load(folder: &Folder) -> Result<Self> {
        let path = Self::path(folder);
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            read => read.map_err(Error::io("read", &path))?,
        };
        let mut log = Self::default();
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            if !line.ends_with(b"\n") {
                warn!(bytes = line.len(), "Left out the torn end of {FILE_NAME}");
                break;
            }
            log.text.extend_from_slice(line);
            log.done.extend(day_of(line));
        }
        Ok(log)
    }

    /// Appends lines and puts the log in place of the old one, durably and at once.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn append(&mut self, folder: &Folder, lines: &[RollupLine]) -> Result<()> {
        for line in lines {
            // Writing to memory cannot fail.
            let _ = serde_json::to_writer(&mut self.text, line);
            self.text.push(b'\n');
            self.done.insert(line.day);
        }
        folder.replace(FILE_NAME, &self.text)
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
            let lines = self.text.split_inclusive(|&byte| byte == b'\n');
            self.text = lines
                .filter(|line| day_of(line).is_none_or(|day| day >= first_kept))
                .collect::<Vec<_>>()
                .concat();
            folder.replace(FILE_NAME, &self.text)?;
        }
        Ok(removed)
    }

    fn path(folder: &Folder) -> PathBuf {
        folder.path().join(FILE_NAME)
    }
}

/// The day of a line; `None` if it is none of ours.
fn day_of(line: &[u8]) -> Option<NaiveDate> {
    #[derive(Deserialize)]
    struct Line {
        day: NaiveDate,
    }
    let line: Line = serde_json::from_slice(line).ok()?;
    Some(line.day)
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
