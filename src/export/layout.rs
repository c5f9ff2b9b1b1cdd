//! Names of the folders and files of an export.

use std::path::Path;

use chrono::NaiveDate;

use crate::error::{Error, Result};

/// The folder of the events, in the export folder.
pub const EVENTS_DIR: &str = "events";
/// The folder of the table with one row per day, in the export folder.
pub const ROLLUPS_DIR: &str = "daily_rollups";
/// The folder of the table with one row per day and feature.
pub const FEATURES_DIR: &str = "daily_features";
/// The folder of the table with one row per day and event type.
pub const EVENT_TYPES_DIR: &str = "daily_event_types";
/// The folder of the table with one row per alias of a user.
pub const LINKS_DIR: &str = "links";
/// The folders of these tables.
pub const ROLLUP_DIRS: [&str; 4] = [ROLLUPS_DIR, FEATURES_DIR, EVENT_TYPES_DIR, LINKS_DIR];
/// Files of these tables by earlier versions, which wrote both into one folder, where readers took
/// them for one table.
pub const OLD_ROLLUPS: [&str; 2] = [
    "daily_rollups/daily_rollups.parquet",
    "daily_rollups/feature_usage.parquet",
];

/// Part of the file names of one export, which no other export uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunId(String);

impl RunId {
    /// Generates a random id.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn new() -> Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| {
            Error::io("name", Path::new("a file of an export"))(std::io::Error::other(error))
        })?;
        Ok(Self(hex::encode(random)))
    }

    /// The id that a name contains; `None` for any other string.
    pub fn parse(run: &str) -> Option<Self> {
        // As `hex` writes it, in lower case.
        let bytes = hex::decode(run).ok()?;
        (bytes.len() == 8 && hex::encode(bytes) == run).then(|| Self(run.to_owned()))
    }

    /// As it is in names.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The file name of a part of a table. No other export uses it.
pub fn part_name(place: usize, run: &RunId) -> String {
    format!("part-{place:05}-{}.parquet", run.0)
}

/// True for the names of [`part_name`].
pub fn is_part(name: &str) -> bool {
    let parts = name
        .strip_prefix("part-")
        .and_then(|rest| rest.strip_suffix(".parquet"))
        .and_then(|rest| rest.split_once('-'));
    parts.is_some_and(|(place, run)| {
        RunId::parse(run).is_some_and(|run| {
            let place = place.parse();
            place.is_ok_and(|place| part_name(place, &run) == name)
        })
    })
}

/// The path of a part of one day's events.
pub fn part_path(day: NaiveDate, place: usize, run: &RunId) -> String {
    format!("{EVENTS_DIR}/dt={day}/{}", part_name(place, run))
}

/// True for the path of a part by an earlier version, which overwrote it in each export, and used
/// string views.
pub fn is_old_part(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    let place = name
        .strip_prefix("part-")
        .and_then(|rest| rest.strip_suffix(".parquet"));
    place.is_some_and(|place| {
        let number: Option<usize> = place.parse().ok();
        number.is_some_and(|number| format!("{number:05}") == place)
    })
}

/// The day of a part's path. `None` for any other path.
pub fn day_of(path: &str) -> Option<NaiveDate> {
    let mut names = path.split('/');
    let (dir, folder, file) = (names.next()?, names.next()?, names.next()?);
    let day = NaiveDate::parse_from_str(folder.strip_prefix("dt=")?, "%Y-%m-%d").ok()?;
    let is_ours = dir == EVENTS_DIR
        && format!("dt={day}") == folder
        && names.next().is_none()
        && (is_part(file) || is_old_part(file));
    is_ours.then_some(day)
}

/// The paths of the rollup tables and of the links in the export folder.
pub fn rollup_paths(run: &RunId) -> [String; 4] {
    ROLLUP_DIRS.map(|dir| path(dir, run))
}

/// The path of a table that is one file.
pub fn path(dir: &str, run: &RunId) -> String {
    format!("{dir}/{}", part_name(0, run))
}

/// True for the path of a rollup table or of the links, of this version or an earlier one.
pub fn is_rollup_table(path: &str) -> bool {
    let is_part = |(dir, name)| ROLLUP_DIRS.contains(&dir) && is_part(name);
    OLD_ROLLUPS.contains(&path) || path.split_once('/').is_some_and(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_of_exports_are_recognised() -> Result<()> {
        let day = NaiveDate::from_ymd_opt(2026, 11, 26).unwrap_or_default();
        let run = RunId::new()?;
        assert_eq!(day_of(&part_path(day, 3, &run)), Some(day));
        assert!(!is_old_part(&part_path(day, 3, &run)));
        let old = "events/dt=2026-11-26/part-00000.parquet";
        assert!(day_of(old).is_some() && is_old_part(old));
        for path in [
            "../victim.txt",
            "/etc/passwd",
            "events/dt=2026-11-26/../../part-00000.parquet",
            "events/dt=2026-11-26/part-0.parquet",
            "events/dt=2026-11-26/part-00000.parquet/x",
            "events/dt=2026-11-26/part-+0000.parquet",
            "events/dt=2026-11-26/part-00000-.parquet",
            "events/dt=2026-11-26/part-00000-0123456789ABCDEF.parquet",
            "events/dt=2026-11-26/part-00000-0123456789abcdeg.parquet",
            "events/dt=2026-11-26/part-00000-0123456789abcdef0.parquet",
            "events/dt=2026-11-26/part-0-0123456789abcdef.parquet",
            "events/dt=2026-1-2/part-00000.parquet",
            "events/dt=2026-11-26/data.parquet",
            "other/dt=2026-11-26/part-00000.parquet",
            "events//part-00000.parquet",
            "",
        ] {
            assert_eq!(day_of(path), None, "{path}");
        }
        assert_ne!(RunId::new()?, run);
        Ok(())
    }

    #[test]
    fn only_tables_of_exports_are_recognised() -> Result<()> {
        let run = RunId::new()?;
        for path in rollup_paths(&run)
            .iter()
            .map(String::as_str)
            .chain(OLD_ROLLUPS)
        {
            assert!(is_rollup_table(path), "{path}");
            assert_eq!(day_of(path), None, "{path}");
        }
        let day = part_path(NaiveDate::default(), 0, &run);
        for path in [
            day.as_str(),
            "daily_rollups",
            "daily_rollups/",
            "daily_rollups/part-00000.parquet",
            "daily_rollups/x/part-00000-0123456789abcdef.parquet",
            "daily_other/part-00000-0123456789abcdef.parquet",
            "daily_features/feature_usage.parquet",
            "daily_rollups/../part-00000-0123456789abcdef.parquet",
        ] {
            assert!(!is_rollup_table(path), "{path}");
        }
        Ok(())
    }

    #[test]
    fn part_numbers_beyond_five_digits_are_recognised() -> Result<()> {
        let day = NaiveDate::default();
        let path = part_path(day, 123_456, &RunId::new()?);
        assert_eq!(day_of(&path), Some(day), "{path}");
        Ok(())
    }
}
