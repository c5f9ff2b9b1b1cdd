//! The list of an export, `export.json`: its days with their files, and what else the export wrote. An export overwrites and
//! removes only files that the list names.
//!
//! The list is believed if the store signed it: it ends with an HMAC, whose key lies in the data folder, and a checksum. One that
//! an earlier version wrote has neither; of its files, those are believed that have the size and the checksum that it gives.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use chrono::NaiveDate;
use ring::hmac;
use serde::{Deserialize, Serialize};

use super::destination::Destination;
use super::lake::EVENTS_DIR;
use super::rollups;
use super::warehouse::Warehouse;
use crate::checksum::{self, LineCheck, Mismatch};
use crate::error::{Error, Result};
use crate::store::{Mark, PartFacts};

/// Its name in the export folder.
pub const FILE_NAME: &str = "export.json";
/// What comes before the signature, which is the last field but the checksum.
const SIGNATURE_KEY: &[u8] = br#","hmac":""#;

/// What an export folder has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportList {
    /// Its days.
    pub days: BTreeMap<NaiveDate, ExportedDay>,
    /// Its other files.
    #[serde(default)]
    pub files: BTreeSet<String>,
    /// Files that an export which has not ended is about to write, or to remove: they are no part of the export.
    #[serde(default)]
    pub pending: BTreeSet<String>,
    /// Days whose files an export which has not ended has made, and not put in their places.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub staged: BTreeMap<NaiveDate, ExportedDay>,
    /// The store whose export it is.
    #[serde(default)]
    store: String,
    #[serde(default, skip_serializing, rename = "hmac")]
    _hmac: String,
    #[serde(default, skip_serializing, rename = "crc32c")]
    _crc32c: String,
    /// Whether the store signed it.
    #[serde(skip)]
    pub signed: Signed,
}

/// Whether a list is known to be the store's own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Signed {
    /// There was none, or it has the store's signature.
    #[default]
    Yes,
    /// An earlier version wrote it.
    No,
}

/// A day of an export.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedDay {
    /// The segments it was made of, and their checksums.
    pub sources: Vec<String>,
    /// Its files.
    pub files: Vec<ExportedFile>,
}

/// A file of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedFile {
    /// Its path in the export folder.
    pub path: String,
    /// What is in it.
    #[serde(flatten)]
    pub facts: PartFacts,
}

impl ExportList {
    /// Reads the list of an export; it is empty before the first one.
    ///
    /// # Errors
    /// If it cannot be read; [`Error::Damaged`] if it is not what was written, or names what no export writes; `bad_target` if it
    /// is that of another store, or of another program.
    pub fn load(to: &Destination, mark: &Mark) -> Result<Self> {
        let Some(text) = to.read(FILE_NAME)? else {
            return Ok(Self::default());
        };
        let refused = |message: &str| {
            Error::bad_input(
                "bad_target",
                format!("{} {message}; choose another folder", to.shown(FILE_NAME)),
            )
        };
        let damaged = |message: String| Error::Damaged {
            file: to.shown(FILE_NAME).into(),
            message: format!(
                "{message}; nothing was changed there. Restore it, or choose another folder"
            ),
        };
        let object = text.strip_suffix(b"\n").unwrap_or(&text);
        let list: Self = match checksum::check_object(object) {
            Ok(()) => {
                let list: Self =
                    serde_json::from_slice(object).map_err(|error| damaged(error.to_string()))?;
                if list.store != mark.store {
                    return Err(refused("is the list of an export of another store"));
                }
                if !is_signed(object, mark) {
                    return Err(damaged("this store did not sign it".into()));
                }
                list
            }
            Err(Mismatch::Wrong) => return Err(damaged("its checksum does not match".into())),
            Err(Mismatch::Missing) => {
                if let LineCheck::Damaged(why) = checksum::check_line(object) {
                    return Err(damaged(why.into()));
                }
                let list: Self = serde_json::from_slice(object)
                    .map_err(|_| refused("is not the list of an export"))?;
                Self {
                    signed: Signed::No,
                    ..list
                }
            }
        };
        let is_new = !(list.files.is_empty() && list.pending.is_empty() && list.store.is_empty());
        if list.signed == Signed::No && is_new {
            return Err(damaged("its signature is missing".into()));
        }
        match list.strange_path() {
            Some(path) => Err(damaged(format!(
                "it names {path:?}, which no export writes"
            ))),
            None => Ok(list),
        }
    }

    /// Writes the list, signed.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&mut self, to: &Destination, mark: &Mark) -> Result<()> {
        self.store = mark.store.clone();
        self.signed = Signed::Yes;
        // Writing to memory cannot fail.
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.pop();
        let signature = hmac::sign(&mark_key(mark), &text);
        text.extend_from_slice(SIGNATURE_KEY);
        text.extend(hex(signature.as_ref()).bytes());
        text.push(b'"');
        checksum::close_object(&mut text, 0);
        text.push(b'\n');
        to.write(FILE_NAME, &text)
    }

    /// The files of the days.
    pub fn day_files(&self) -> impl Iterator<Item = &ExportedFile> {
        self.days.values().flat_map(|day| &day.files)
    }

    /// All files that it names.
    pub fn names(&self) -> BTreeSet<String> {
        let mut names = self.files_of_export();
        names.extend(self.pending.iter().cloned());
        names
    }

    /// The files that are the export.
    pub fn files_of_export(&self) -> BTreeSet<String> {
        let of_days = self.day_files().map(|file| &file.path);
        of_days.chain(&self.files).cloned().collect()
    }

    /// A path that it names and no export writes: outside of the folder, for one.
    fn strange_path(&self) -> Option<&str> {
        let of_days = self.days.iter().chain(&self.staged);
        let of_days = of_days.flat_map(|(day, exported)| {
            let files = exported.files.iter();
            files.map(move |file| (Some(*day), file.path.as_str()))
        });
        let others = self.files.iter().chain(&self.pending);
        let others = others.map(|path| (None, path.as_str()));
        let fixed = fixed_names();
        of_days
            .chain(others)
            .find(|(day, path)| match (day, day_of(path)) {
                (Some(day), of_path) => of_path != Some(*day),
                (None, Some(_)) => false,
                (None, None) => !fixed.contains(*path) && !rollups::is_table(path),
            })
            .map(|(_, path)| path)
    }
}

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
            Error::io("name", Path::new(FILE_NAME))(std::io::Error::other(error))
        })?;
        Ok(Self(hex(&random)))
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
            unhex(run.as_bytes()).is_some_and(|bytes| bytes.len() == 8 && hex(&bytes) == run);
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

/// The names of all files beside those of days.
fn fixed_names() -> BTreeSet<String> {
    let of_warehouses = Warehouse::ALL
        .iter()
        .flat_map(|warehouse| warehouse.names());
    let old_rollups = rollups::OLD_NAMES.map(str::to_owned);
    of_warehouses.chain(old_rollups).collect()
}

/// The files beside those of days, of those that are there.
pub fn unlisted_names(present: &BTreeMap<String, u64>) -> impl Iterator<Item = String> {
    let mut names = fixed_names();
    names.retain(|name| present.contains_key(name));
    names.into_iter()
}

fn is_signed(object: &[u8], mark: &Mark) -> bool {
    let Some(start) = memchr::memmem::rfind(object, SIGNATURE_KEY) else {
        return false;
    };
    let (body, rest) = object.split_at(start);
    let signature = rest
        .get(SIGNATURE_KEY.len()..)
        .and_then(|rest| rest.split(|&byte| byte == b'"').next())
        .and_then(unhex);
    signature.is_some_and(|signature| hmac::verify(&mark_key(mark), body, &signature).is_ok())
}

fn mark_key(mark: &Mark) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, mark.key.as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &[u8]) -> Option<Vec<u8>> {
    let (pairs, rest) = digits.as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs
        .iter()
        .map(byte)
        .collect::<Option<_>>()
        .filter(|_| rest.is_empty())
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
