//! The list of an export, `export.json`: its days with their files, and its other files. An export
//! overwrites and removes only files that the list names.
//!
//! The list is trusted if the store signed it: it ends with an HMAC, whose key is in the data
//! folder, and a checksum. Lists of earlier versions have neither; of their files, those are
//! trusted that have the listed size and checksum.

use std::collections::{BTreeMap, BTreeSet};

use chrono::NaiveDate;
use ring::hmac;
use serde::{Deserialize, Serialize};

use super::destination::Destination;
use super::layout::{OLD_ROLLUPS, day_of, is_rollup_table};
use super::warehouse::Warehouse;
use crate::checksum::{self, LineCheck, Mismatch};
use crate::error::{Error, ErrorCode, Result};
use crate::store::{ExportPartMeta, Mark};

/// The name of the list in the export folder.
pub const FILE_NAME: &str = "export.json";
/// The bytes before the signature, which is followed by the checksum alone.
const SIGNATURE_KEY: &[u8] = br#","hmac":""#;

/// The contents of an export folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportList {
    /// Its days.
    pub days: BTreeMap<NaiveDate, ExportedDay>,
    /// Its other files.
    #[serde(default)]
    pub files: BTreeSet<String>,
    /// Files that an unfinished export is about to write or to remove. They do not belong to the
    /// export.
    #[serde(default)]
    pub pending: BTreeSet<String>,
    /// Days whose files an unfinished export has written, but not published.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub staged: BTreeMap<NaiveDate, ExportedDay>,
    /// The id of the store that wrote it.
    #[serde(default)]
    store: String,
    #[serde(default, skip_serializing, rename = "hmac")]
    _hmac: String,
    #[serde(default, skip_serializing, rename = "crc32c")]
    _crc32c: String,
    /// The state of its signature.
    #[serde(skip)]
    pub signed: Signed,
}

/// State of a list's signature.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Signed {
    /// It has the store's signature, or there was no list.
    #[default]
    Yes,
    /// It has none: an earlier version wrote it.
    No,
}

/// A day of an export.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedDay {
    /// Its segments and their checksums.
    pub sources: Vec<String>,
    /// Its files.
    pub files: Vec<ExportedFile>,
}

/// A file of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedFile {
    /// Its path in the export folder.
    pub path: String,
    /// Its rows, size and checksum.
    #[serde(flatten)]
    pub meta: ExportPartMeta,
}

impl ExportList {
    /// Reads the list of an export. It is empty before the first export.
    ///
    /// # Errors
    /// If it cannot be read; [`Error::Damaged`] if it was changed, or names files that no export
    /// writes; `bad_target` if another store or another program wrote it.
    pub fn load(to: &Destination, mark: &Mark) -> Result<Self> {
        let Some(json) = to.read(FILE_NAME)? else {
            return Ok(Self::default());
        };
        let rejected = |message: &str| {
            Error::bad_input(
                ErrorCode::BadTarget,
                format!("{} {message}; choose another folder", to.shown(FILE_NAME)),
            )
        };
        let damaged = |message: String| Error::Damaged {
            file: to.shown(FILE_NAME).into(),
            message: format!(
                "{message}; nothing was changed there. Restore it, or choose another folder"
            ),
        };
        let object = json.strip_suffix(b"\n").unwrap_or(&json);
        let list: Self = match checksum::check_object(object) {
            Ok(()) => {
                let list: Self =
                    serde_json::from_slice(object).map_err(|error| damaged(error.to_string()))?;
                if list.store != mark.store {
                    return Err(rejected("is the list of an export of another store"));
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
                    .map_err(|_| rejected("is not the list of an export"))?;
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
        match list.foreign_path() {
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
        let mut json = serde_json::to_vec_pretty(self).unwrap_or_default();
        json.pop();
        let signature = hmac::sign(&mark_key(mark), &json);
        json.extend_from_slice(SIGNATURE_KEY);
        json.extend(hex::encode(signature.as_ref()).bytes());
        json.push(b'"');
        checksum::close_object(&mut json, 0);
        json.push(b'\n');
        to.write(FILE_NAME, &json)
    }

    /// The files of the days.
    pub fn day_files(&self) -> impl Iterator<Item = &ExportedFile> {
        self.days.values().flat_map(|day| &day.files)
    }

    /// The names of all files in the list.
    pub fn names(&self) -> BTreeSet<String> {
        let mut names = self.files_of_export();
        names.extend(self.pending.iter().cloned());
        names
    }

    /// The names of the files that belong to the export.
    pub fn files_of_export(&self) -> BTreeSet<String> {
        let of_days = self.day_files().map(|file| &file.path);
        of_days.chain(&self.files).cloned().collect()
    }

    /// A path in the list that no export writes, for example one outside of the folder.
    fn foreign_path(&self) -> Option<&str> {
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

/// The names of all files that have a fixed name.
fn fixed_names() -> BTreeSet<String> {
    let of_warehouses = Warehouse::ALL
        .iter()
        .flat_map(|warehouse| warehouse.names());
    let old_rollups = OLD_ROLLUPS.map(str::to_owned);
    of_warehouses.chain(old_rollups).collect()
}

/// The files with a fixed name that are present.
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::destination::{Readers, Root};
    use super::super::layout::{RunId, part_path};
    use super::*;

    const DAY: NaiveDate = NaiveDate::from_ymd_opt(2026, 11, 26).expect("a valid date");

    /// A list of one day with one file, saved in a new folder, and its bytes.
    fn saved(mark: &Mark) -> Result<(tempfile::TempDir, Destination, ExportList, Vec<u8>)> {
        let dir = tempfile::tempdir().map_err(Error::io("create", Path::new("a folder")))?;
        let to = Destination::Folder(Root {
            path: dir.path().to_owned(),
            readers: Readers::Owner,
        });
        assert_eq!(ExportList::load(&to, mark)?, ExportList::default());
        let mut list = ExportList::default();
        list.days
            .insert(DAY, day(part_path(DAY, 0, &RunId::new()?)));
        list.files.insert(OLD_ROLLUPS[0].to_owned());
        list.save(&to, mark)?;
        let json = to.read(FILE_NAME)?.unwrap_or_default();
        Ok((dir, to, list, json))
    }

    fn day(path: String) -> ExportedDay {
        let meta = ExportPartMeta {
            rows: 3,
            bytes: 1_000,
            crc32c: 7,
        };
        ExportedDay {
            sources: vec!["a".into()],
            files: vec![ExportedFile { path, meta }],
        }
    }

    #[test]
    fn a_saved_list_is_loaded_unchanged_and_names_its_files() -> Result<()> {
        let mark = Mark::new()?;
        let (_dir, to, list, _) = saved(&mark)?;
        let loaded = ExportList::load(&to, &mark)?;
        assert_eq!(loaded.signed, Signed::Yes);
        assert_eq!(loaded.days, list.days);
        assert_eq!(loaded.names(), list.names());
        assert_eq!(loaded.names().len(), 2);
        Ok(())
    }

    #[test]
    fn a_changed_list_is_damaged_even_with_a_matching_checksum() -> Result<()> {
        let mark = Mark::new()?;
        let (_dir, to, _, json) = saved(&mark)?;
        let at = memchr::memmem::find(&json, b"1000").unwrap_or_default();
        let mut changed = json.clone();
        changed[at] = b'9';
        let mut signed_by_another = changed.clone();
        signed_by_another.truncate(changed.len() - br#","crc32c":"01234567"}"#.len() - 1);
        checksum::close_object(&mut signed_by_another, 0);
        for bytes in [
            &changed,
            &signed_by_another,
            &json[..json.len() - 2].to_vec(),
        ] {
            to.write(FILE_NAME, bytes)?;
            let loaded = ExportList::load(&to, &mark);
            assert!(matches!(loaded, Err(Error::Damaged { .. })), "{loaded:?}");
        }
        to.write(FILE_NAME, &json)?;
        assert!(ExportList::load(&to, &mark).is_ok());
        Ok(())
    }

    #[test]
    fn the_list_of_another_store_or_program_is_rejected() -> Result<()> {
        let mark = Mark::new()?;
        let (_dir, to, _, _) = saved(&mark)?;
        let rejected = |mark: &Mark| {
            let loaded = ExportList::load(&to, mark);
            assert!(
                matches!(
                    loaded,
                    Err(Error::BadInput {
                        code: ErrorCode::BadTarget,
                        ..
                    })
                ),
                "{loaded:?}"
            );
        };
        rejected(&Mark::new()?);
        to.write(FILE_NAME, b"{\"name\":\"export\"}\n")?;
        rejected(&mark);
        Ok(())
    }

    #[test]
    fn a_signed_list_with_a_path_that_no_export_writes_is_damaged() -> Result<()> {
        let mark = Mark::new()?;
        let run = RunId::new()?;
        let next_day = DAY.succ_opt().unwrap_or_default();
        for path in ["../victim".to_owned(), part_path(next_day, 0, &run)] {
            let (_dir, to, mut list, _) = saved(&mark)?;
            list.days.insert(DAY, day(path.clone()));
            list.save(&to, &mark)?;
            let loaded = ExportList::load(&to, &mark);
            assert!(matches!(loaded, Err(Error::Damaged { .. })), "{path}");
        }
        Ok(())
    }
}
