//! The daily rollup: one line for each closed day, with the usage of the 30 days that end with it.
//!
//! Due days follow from stored data, whether or not the server ran at the time: a day is due when
//! it is over, has no line, and is not before the first event. A line is due again when a day of
//! its period has changed since: by late events or an erasure. For that, a small second file
//! records what each line was computed from, see [`Sources`]. It is written after the log, so that
//! a crash between the two costs rewriting some lines and never leaves an outdated one.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};

use chrono::{DateTime, Days, NaiveDate, NaiveTime, Utc};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::checksum::{self, LineCheck};
use crate::daily::Day;
use crate::digest::Digester;
use crate::error::{Error, Result};
use crate::metrics::usage::UsageNumbers;
use crate::store::files;
use crate::store::folder::Folder;
use crate::window::utc_string;

/// The rollup log's name in the data folder.
pub const FILE_NAME: &str = "analytics.ndjson";
/// The file in the data folder that records what the lines were computed from.
pub const SOURCES_FILE: &str = "rollup_sources.json";
/// Version of the computation of lines. A new one rewrites all lines.
const REVISION: u32 = 1;
/// Days of a rollup's period, its own day included: its `mau` is monthly.
pub const PERIOD_DAYS: u16 = 30;

/// Most features of a line: more than a product has, and few enough that a year of lines is some
/// megabytes whatever clients send.
pub const MAX_FEATURES: usize = 1_000;

/// The longest line that is read: twice the longest that is written, with the longest names all
/// escaped.
const MAX_LINE_BYTES: u64 = 4 << 20;
/// The beginning of every line that we write.
const LINE_START: &[u8] = br#"{"ts":""#;
/// The end of every line that we write.
const LINE_END: &[u8] = br#""}"#;

/// One line of the rollup log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RollupLine {
    /// Time at which the rollup of the day was due. Not that of the run, so that a rebuilt log has
    /// equal bytes.
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
            ts: utc_string(due_at(day, rollup_at)),
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

/// Time at which the rollup of `day` is due: `rollup_at` of the day after it, so that late events
/// can arrive before.
pub fn due_at(day: NaiveDate, rollup_at: NaiveTime) -> DateTime<Utc> {
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

/// The first day of the period of the line of `day`.
pub fn first_of_period(day: NaiveDate) -> NaiveDate {
    day - Days::new(u64::from(PERIOD_DAYS) - 1)
}

/// The valid lines that we wrote to the rollup log, by day. Of several lines of a day it is the
/// newest.
///
/// # Errors
/// If the file cannot be read.
pub fn read(folder: &Folder) -> Result<Vec<u8>> {
    let mut lines: BTreeMap<NaiveDate, Vec<u8>> = BTreeMap::new();
    each_line(folder, |line, kind| {
        if let Kind::Day(day) = kind {
            lines.insert(day, line.to_vec());
        }
        Ok(())
    })?;
    Ok(lines.into_values().flatten().collect())
}

/// The kind of a line of the rollup log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The rollup of a day.
    Day(NaiveDate),
    /// A line of another program, which stays as it is.
    Foreign,
    /// A torn, damaged or too long line. Its day is rolled up again.
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

/// True for a line, or a part of one, that may have been the rollup of a day.
fn is_like_ours(line: &[u8]) -> bool {
    line.starts_with(LINE_START) || line.ends_with(LINE_END)
}

/// Calls `visit` with each line of the rollup log, newline included, and its kind; with the start
/// of a line that is too long. Holds one line in memory.
fn each_line(folder: &Folder, mut visit: impl FnMut(&[u8], Kind) -> Result<()>) -> Result<()> {
    let path = folder.path().join(FILE_NAME);
    if !path.exists() {
        return Ok(());
    }
    let file = files::open(&path)?;
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

/// The input of all lines: the revisions of the days that have events, see
/// [`crate::store::Store::revisions`].
pub struct Sources(pub BTreeMap<Day, String>);

impl Sources {
    /// A digest of the input of the line of a day; `None` if no event of its period is known.
    pub fn of(&self, day: NaiveDate) -> Option<String> {
        let period = first_of_period(day).to_epoch_days()..=day.to_epoch_days();
        let mut found = format!("revision {REVISION}");
        let none = found.len();
        for (day, revision) in self.0.range(period) {
            // Neither contains a space or a newline.
            found.push_str(&format!("\n{day} {revision}"));
        }
        (found.len() > none).then(|| Digester::fixed().digest(&found).to_string())
    }
}

/// A line of the log.
#[derive(Debug, Clone, Copy)]
struct Written {
    /// Its index among all lines.
    place: usize,
    /// CRC-32C of its bytes.
    crc32c: u32,
}

/// The input of a line that was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct MadeFrom {
    /// CRC-32C of the line, to notice that it was replaced.
    line: u32,
    /// The digest of [`Sources::of`]; empty for `None`.
    sources: String,
}

/// The rollup log as it is on disk.
#[derive(Debug, Default)]
pub struct RollupLog {
    /// The newest line of each day that has one.
    lines: BTreeMap<NaiveDate, Written>,
    made_from: BTreeMap<NaiveDate, MadeFrom>,
}

impl RollupLog {
    /// Reads the days that have a line. A torn, damaged or too long line does not count, and its
    /// day is rolled up again. So are days whose line has no known input.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn load(folder: &Folder) -> Result<Self> {
        let mut log = Self::default();
        let mut unreadable = 0;
        let mut place = 0;
        each_line(folder, |line, kind| {
            match kind {
                Kind::Day(day) => {
                    let crc32c = crc32c::crc32c(line);
                    log.lines.insert(day, Written { place, crc32c });
                }
                Kind::Foreign => {}
                Kind::Unreadable => unreadable += 1,
            }
            place += 1;
            Ok(())
        })?;
        if unreadable > 0 {
            warn!(
                lines = unreadable,
                "Skipped {unreadable} unreadable lines of {FILE_NAME}; their days are rolled up again where possible"
            );
        }
        log.made_from = match folder.read_json(SOURCES_FILE) {
            Err(error @ Error::Damaged { .. }) => {
                warn!("{error}; all rollups are computed again where possible");
                BTreeMap::new()
            }
            read => read?,
        };
        Ok(log)
    }

    /// The days that have a line.
    pub fn days(&self) -> BTreeSet<NaiveDate> {
        self.lines.keys().copied().collect()
    }

    /// The last day that has a line.
    pub fn last_day(&self) -> Option<NaiveDate> {
        self.lines.keys().next_back().copied()
    }

    /// The first day that has a line.
    pub fn first_day(&self) -> Option<NaiveDate> {
        self.lines.keys().next().copied()
    }

    /// The days up to `last` whose line was computed from other events than those stored now. A
    /// line without a known input and without a known event in its period stays: it may be the only
    /// record of that day.
    pub fn outdated_days(&self, sources: &Sources, last: NaiveDate) -> BTreeSet<NaiveDate> {
        let is_outdated = |day: NaiveDate, line: &Written| {
            let now = sources.of(day);
            let known = self.made_from.get(&day);
            match known.filter(|known| known.line == line.crc32c) {
                Some(known) => known.sources != now.unwrap_or_default(),
                None => now.is_some(),
            }
        };
        self.lines
            .range(..=last)
            .filter(|(day, line)| is_outdated(**day, line))
            .map(|(day, _)| *day)
            .collect()
    }

    /// Writes the lines of `days`, each in place of the old one of its day or else at the end, and
    /// replaces the log atomically and durably. `line_of` computes the line of a day; if it returns
    /// `None`, the day stays as it is. Lines are written one by one, so that memory does not grow
    /// with their number. Returns the days whose line is new or changed.
    ///
    /// # Errors
    /// If the log cannot be written; then it is unchanged. If it is written and [`SOURCES_FILE`] is
    /// not, the next run computes the lines again.
    pub fn write(
        &mut self,
        folder: &Folder,
        days: &BTreeSet<NaiveDate>,
        sources: &Sources,
        mut line_of: impl FnMut(NaiveDate) -> Option<RollupLine>,
    ) -> Result<Vec<NaiveDate>> {
        let mut left = days.clone();
        // Without a line the log is not written.
        let mut first = loop {
            let Some(day) = left.pop_first() else {
                return Ok(Vec::new());
            };
            if let Some(line) = line_of(day) {
                left.insert(day);
                break Some(line);
            }
        };
        let mut made = BTreeMap::new();
        let mut make = |day: NaiveDate| {
            let ready = first.take_if(|line| line.day == day);
            let line = ready.or_else(|| line_of(day))?;
            let mut bytes = Vec::new();
            line.write(&mut bytes);
            made.insert(day, crc32c::crc32c(&bytes));
            Some(bytes)
        };
        folder.replace_with(FILE_NAME, |out| {
            self.each_kept(folder, |line, day| {
                let due = day.filter(|day| left.remove(day));
                match due.and_then(&mut make) {
                    Some(new) => put(out, &new),
                    None => put(out, line),
                }
            })?;
            left.iter()
                .filter_map(|day| make(*day))
                .try_for_each(|new| put(out, &new))
        })?;
        let changed = made
            .iter()
            .filter(|(day, crc32c)| self.lines.get(day).map(|line| line.crc32c) != Some(**crc32c))
            .map(|(day, _)| *day)
            .collect();
        for (day, line) in made {
            let sources = sources.of(day).unwrap_or_default();
            self.made_from.insert(day, MadeFrom { line, sources });
        }
        self.save_sources(folder)?;
        Ok(changed)
    }

    /// Removes the lines of days before `first_kept`, atomically and durably. Returns their number.
    ///
    /// # Errors
    /// If the log cannot be written.
    pub fn remove_before(&mut self, folder: &Folder, first_kept: NaiveDate) -> Result<usize> {
        let kept = self.lines.split_off(&first_kept);
        let removed = self.lines.len();
        if removed > 0 {
            self.lines.extend(&kept);
            folder.replace_with(FILE_NAME, |out| {
                self.each_kept(folder, |line, day| {
                    if day.is_none_or(|day| day >= first_kept) {
                        put(out, line)?;
                    }
                    Ok(())
                })
            })?;
            self.made_from = self.made_from.split_off(&first_kept);
            self.save_sources(folder)?;
        }
        self.lines = kept;
        Ok(removed)
    }

    /// Calls `visit` with the lines that stay when the log is rewritten: the newest of each day,
    /// and those of other programs.
    fn each_kept(
        &self,
        folder: &Folder,
        mut visit: impl FnMut(&[u8], Option<NaiveDate>) -> Result<()>,
    ) -> Result<()> {
        let mut place = 0;
        each_line(folder, |line, kind| {
            let here = place;
            place += 1;
            match kind {
                Kind::Unreadable => Ok(()),
                Kind::Foreign => visit(line, None),
                Kind::Day(day) => match self.lines.get(&day) {
                    Some(newest) if newest.place == here => visit(line, Some(day)),
                    _ => Ok(()),
                },
            }
        })
    }

    fn save_sources(&self, folder: &Folder) -> Result<()> {
        folder.replace_json(SOURCES_FILE, &self.made_from)
    }
}

fn put(out: &mut dyn Write, line: &[u8]) -> Result<()> {
    out.write_all(line)
        .map_err(Error::io("write", FILE_NAME.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::parse_day;

    fn day(text: &str) -> NaiveDate {
        parse_day(text).expect("the test names a day")
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("the test names a time")
    }

    #[test]
    fn days_missed_while_stopped_are_due_and_done_days_are_not() {
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
