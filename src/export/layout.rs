//! The names of folders and files of an export.

use std::path::Path;

use chrono::NaiveDate;

use crate::error::{Error, Result};

/// The folder of the events, in the export folder.
pub const EVENTS_DIR: &str = "events";
/// The folder of the table with a row a day, in the export folder.
pub const ROLLUPS_DIR: &str = "daily_rollups";
/// The folder of the table with a row a day and feature.
pub const FEATURES_DIR: &str = "daily_features";
/// The folders of these tables.
pub const ROLLUP_DIRS: [&str; 2] = [ROLLUPS_DIR, FEATURES_DIR];
/// Files of these of earlier versions, which had both tables in one folder, where readers took them for one.
pub const OLD_ROLLUPS: [&str; 2] = [
    "daily_rollups/daily_rollups.parquet",
    "daily_rollups/feature_usage.parquet",
];

/// What the names of the files of one export have in common, and those of no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunId(String);

impl RunId {
    /// A new one.
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
}

/// The name of a part of a table. No export writes it a second time.
pub fn part_name(place: usize, run: &RunId) -> String {
    format!("part-{place:05}-{}.parquet", run.0)
}

/// Whether a name is one that [`part_name`] makes.
pub fn is_part(name: &str) -> bool {
    let parts = name
        .strip_prefix("part-")
        .and_then(|rest| rest.strip_suffix(".parquet"))
        .and_then(|rest| rest.split_once('-'));
    parts.is_some_and(|(place, run)| {
        // As `hex` writes it, in lower case.
        let is_run =
            hex::decode(run).is_ok_and(|bytes| bytes.len() == 8 && hex::encode(bytes) == run);
        is_run
            && place
                .parse()
                .is_ok_and(|place| part_name(place, &RunId(run.to_owned())) == name)
    })
}

/// The path of a part of a day.
pub fn part_path(day: NaiveDate, place: usize, run: &RunId) -> String {
    format!("{EVENTS_DIR}/dt={day}/{}", part_name(place, run))
}

/// Whether a path is that of a part of a day of an earlier version, which wrote it again and again, and with string views.
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

/// The day of a path, if it is that of a part of a day.
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

/// The paths of the tables in the export folder.
pub fn rollup_paths(run: &RunId) -> [String; 2] {
    ROLLUP_DIRS.map(|dir| path(dir, run))
}

/// The path of a table of one file.
pub fn path(dir: &str, run: &RunId) -> String {
    format!("{dir}/{}", part_name(0, run))
}

/// Whether a path is that of a file of one of the tables, of this version or an earlier one.
pub fn is_rollup_table(path: &str) -> bool {
    let is_part = |(dir, name)| ROLLUP_DIRS.contains(&dir) && is_part(name);
    OLD_ROLLUPS.contains(&path) || path.split_once('/').is_some_and(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_that_an_export_makes_are_taken() -> Result<()> {
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
}
