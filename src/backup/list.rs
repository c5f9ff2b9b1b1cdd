//! The list of a backup, which is written last and makes it valid, and the mark of a folder or
//! bucket of backups.

use std::path::Path;

use chrono::{DateTime, SubsecRound, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::checksum;
use crate::error::{Error, Result};

/// The format that this program writes. A newer one is an error.
const FORMAT: u32 = 1;
/// The folder of lists.
pub const LISTS_DIR: &str = "backups";
/// The folder of the files of all backups.
pub const POOL_DIR: &str = "files";
/// The file that marks a folder or bucket of backups.
pub const MARK_FILE: &str = "echopilot-backups.json";

/// A backup: the files of a data folder at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupList {
    format: u32,
    /// Version of the program that wrote it.
    pub program: String,
    /// When it was begun: it has every event that was acknowledged before.
    pub taken_at: DateTime<Utc>,
    /// The files.
    pub files: Vec<ListedFile>,
    /// A sentence for each file of the data folder that was damaged or missing.
    pub damaged: Vec<String>,
}

/// A file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedFile {
    /// Path below the data folder.
    pub path: String,
    /// Length.
    pub bytes: u64,
    /// CRC-32C of the content.
    pub crc32c: u32,
}

/// The mark of a folder or bucket of backups, which are all of one store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetMark {
    format: u32,
    /// Id of the store; none if a folder of an earlier version was backed up.
    pub store: Option<String>,
}

impl ListedFile {
    /// Its name among the files of all backups. Files of the same name have the same content.
    pub fn pool_name(&self) -> String {
        let Self {
            path,
            bytes,
            crc32c,
        } = self;
        format!("{POOL_DIR}/{path}.{bytes}-{crc32c:08x}")
    }
}

impl BackupList {
    /// The list of a backup that was begun at this time.
    pub fn new(taken_at: DateTime<Utc>, files: Vec<ListedFile>, damaged: Vec<String>) -> Self {
        Self {
            format: FORMAT,
            program: env!("CARGO_PKG_VERSION").into(),
            taken_at: taken_at.trunc_subsecs(3),
            files,
            damaged,
        }
    }

    /// Name of the list, which sorts by time.
    pub fn name(&self) -> String {
        let time = self.taken_at.format("%Y%m%dT%H%M%S%.3fZ");
        format!("{LISTS_DIR}/{time}.json")
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// The file of the data folder with this path.
    pub fn file(&self, path: &str) -> Option<&ListedFile> {
        self.files.iter().find(|file| file.path == path)
    }

    /// The content of the list.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads the content of a list; `shown` is its name in error messages.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it is not what was written, or was written by a newer program.
    pub fn decode(content: &[u8], shown: &str) -> Result<Self> {
        decode(content, shown)
    }
}

/// True for the name of a list.
pub fn is_list(name: &str) -> bool {
    let time = name
        .strip_prefix(LISTS_DIR)
        .and_then(|rest| rest.strip_prefix('/')?.strip_suffix(".json"));
    time.is_some_and(|time| {
        !time.is_empty()
            && time
                .bytes()
                .all(|byte| byte.is_ascii_digit() || b"TZ.".contains(&byte))
    })
}

impl TargetMark {
    /// The mark for backups of a store.
    pub fn new(store: Option<String>) -> Self {
        Self {
            format: FORMAT,
            store,
        }
    }

    /// The content of the mark.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads the content of a mark; `shown` is its name in error messages.
    ///
    /// # Errors
    /// As [`BackupList::decode`].
    pub fn decode(content: &[u8], shown: &str) -> Result<Self> {
        decode(content, shown)
    }
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    // Writing to memory cannot fail, and no value has a map whose keys are not strings.
    checksum::wrap(&serde_json::to_vec(value).unwrap_or_default())
}

fn decode<T: DeserializeOwned>(content: &[u8], shown: &str) -> Result<T> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let damaged = |message: String| Error::Damaged {
        file: Path::new(shown).to_owned(),
        message,
    };
    let json = checksum::unwrap(content)
        .map_err(|_| damaged("its checksum does not match; use another backup (--at)".into()))?;
    let Format { format } =
        serde_json::from_slice(json).map_err(|error| damaged(error.to_string()))?;
    if format > FORMAT {
        return Err(damaged(format!(
            "it has format {format}, and this program knows up to {FORMAT}; use a newer program"
        )));
    }
    serde_json::from_slice(json).map_err(|error| damaged(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> BackupList {
        let file = ListedFile {
            path: "events/dt=2026-11-26/00000001-0000.parquet".into(),
            bytes: 12,
            crc32c: 0xAB,
        };
        let taken_at = "2026-11-26T10:00:00.123456Z".parse().expect("a time");
        BackupList::new(taken_at, vec![file], Vec::new())
    }

    #[test]
    fn names_of_lists_sort_by_time_and_those_of_files_tell_contents_apart() {
        let list = list();
        assert_eq!(list.name(), "backups/20261126T100000.123Z.json");
        assert!(is_list(&list.name()));
        for other in [
            "backups/notes.json",
            "backups/.json",
            "20261126T100000.123Z.json",
            "backups/2026.txt",
        ] {
            assert!(!is_list(other), "{other}");
        }
        assert_eq!(
            list.files[0].pool_name(),
            "files/events/dt=2026-11-26/00000001-0000.parquet.12-000000ab"
        );
    }

    #[test]
    fn a_damaged_or_newer_list_is_an_error() -> Result<()> {
        let list = list();
        let content = list.encode();
        assert_eq!(BackupList::decode(&content, "a list")?, list);
        for at in 0..content.len() {
            let mut damaged = content.clone();
            damaged[at] ^= 1;
            assert!(BackupList::decode(&damaged, "a list").is_err(), "{at}");
            assert!(
                BackupList::decode(&content[..at], "a list").is_err(),
                "{at}"
            );
        }
        let newer = BackupList {
            format: FORMAT + 1,
            ..list
        };
        let error =
            BackupList::decode(&newer.encode(), "a list").map_err(|error| error.to_string());
        assert!(error.is_err_and(|error| error.contains("use a newer program")));
        Ok(())
    }
}
