//! The list of an export, `export.json`: its days with their files, and what else the export wrote. An export overwrites and
//! removes only files that the list names.
//!
//! The list is believed if the store signed it: it ends with an HMAC, whose key lies in the data folder, and a checksum. One that
//! an earlier version wrote has neither; of its files, those are believed that have the size and the checksum that it gives.

use std::collections::{BTreeMap, BTreeSet};

use chrono::NaiveDate;
use ring::hmac;
use serde::{Deserialize, Serialize};

use super::destination::Destination;
use super::layout::{OLD_ROLLUPS, day_of, is_rollup_table};
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
        text.extend(hex::encode(signature.as_ref()).bytes());
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
                (None, None) => !fixed.contains(*path) && !is_rollup_table(path),
            })
            .map(|(_, path)| path)
    }
}

/// The names of all files beside those of days.
fn fixed_names() -> BTreeSet<String> {
    let of_warehouses = Warehouse::ALL
        .iter()
        .flat_map(|warehouse| warehouse.names());
    let old_rollups = OLD_ROLLUPS.map(str::to_owned);
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
        .and_then(|digits| hex::decode(digits).ok());
    signature.is_some_and(|signature| hmac::verify(&mark_key(mark), body, &signature).is_ok())
}

fn mark_key(mark: &Mark) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, mark.key.as_bytes())
}
