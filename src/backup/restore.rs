//! Restore of a backup to a new data folder.
//!
//! Everything is verified before the folder is a data folder: the list, length and checksum of each
//! file, and the formats. Erasures that the newest backup knows, or a list of them
//! that is given, are repeated in an older one.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Days, NaiveDate, NaiveTime, Utc};
use serde::Serialize;

use super::list::{BackupList, ListedFile};
use super::target::Target;
use crate::checksum::Summing;
use crate::error::{Error, Result};
use crate::store::files;
use crate::store::files::restoring::{ExpectedFile, Restoring};
use crate::store::{self, ERASURES_FILE, MANIFEST_FILE, Manifest, pipeline};

/// A request to restore a backup.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
    /// The folder or bucket of backups.
    pub from: String,
    /// The newest backup up to this time is restored; if absent, the newest of all.
    pub at: Option<At>,
    /// The `erasures.json` of a data folder whose erasures are repeated.
    pub erasures: Option<PathBuf>,
}

/// A time up to which a backup is searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At(DateTime<Utc>);

impl std::str::FromStr for At {
    type Err = String;

    /// Parses a time such as `2026-11-26T10:00:00Z`, or a date, which stands for its end.
    fn from_str(string: &str) -> Result<Self, String> {
        if let Ok(date) = string.parse::<NaiveDate>() {
            let next = date.checked_add_days(Days::new(1)).unwrap_or(date);
            return Ok(Self(next.and_time(NaiveTime::MIN).and_utc()));
        }
        match DateTime::parse_from_rfc3339(string) {
            Ok(time) => Ok(Self(time.to_utc())),
            Err(_) => Err("allowed are times such as 2026-11-26T10:00:00Z and dates".into()),
        }
    }
}

/// A backup that can be restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Available {
    /// Its list.
    pub backup: String,
    /// When it was begun; absent if the list is damaged.
    pub taken_at: Option<DateTime<Utc>>,
    /// Its files.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// A sentence for each damage: of the list, or of the data folder when the backup was made.
    pub damaged: Vec<String>,
}

/// Result of a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// True.
    pub ok: bool,
    /// The list of the backup.
    pub backup: String,
    /// When it was begun.
    pub taken_at: DateTime<Utc>,
    /// Files that were verified.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// A sentence for each file that was damaged when the backup was made, and is not in it.
    pub damaged: Vec<String>,
    /// Users who were erased after the backup, and are erased in the restored folder.
    #[serde(skip)]
    pub erased: Vec<String>,
    /// Their number.
    pub erased_users: usize,
    /// Erasures that cannot be repeated because they were recorded with another key; the users have
    /// no data in the backup, and later events of theirs are accepted.
    pub unknown_erasures: usize,
}

/// Lists the backups in a folder or bucket, the oldest first.
///
/// # Errors
/// `no_backup` if there is none, and `target_in_use` while one is being written.
pub fn available(from: &str) -> Result<Vec<Available>> {
    let from = Target::open_to_read(from)?;
    let names = from.lists()?.into_iter();
    let read = names.map(|backup| {
        Ok(match from.read_list(&backup) {
            Ok(list) => Available {
                backup,
                taken_at: Some(list.taken_at),
                files: list.files.len(),
                bytes: list.bytes(),
                damaged: list.damaged,
            },
            Err(error @ Error::Damaged { .. }) => Available {
                backup,
                taken_at: None,
                files: 0,
                bytes: 0,
                damaged: vec![error.to_string()],
            },
            Err(error) => return Err(error),
        })
    });
    read.collect()
}

/// Verifies every file of a backup, and writes nothing. `progress` is called with the bytes done
/// and of all files.
///
/// # Errors
/// As [`restore`].
pub fn check(request: &RestoreRequest, progress: impl Fn(u64, u64)) -> Result<Restored> {
    let from = Target::open_to_read(&request.from)?;
    let (name, list) = choose(&from, request.at)?;
    super::check_complete(&from, &list)?;
    copy_all(&from, &list, progress, |file, source| {
        let mut sum = Summing::new(std::io::sink());
        from.fetch(&file.pool_name(), &mut sum, Path::new(source))?;
        expected(file).check(sum.bytes, sum.checksum, source)
    })?;
    Ok(Restored::of(name, list))
}

/// Restores a backup to a data folder that is missing or empty. `progress` is called with the bytes
/// done and of all files.
///
/// # Errors
/// `no_backup` and `target_in_use`, as for [`available`]; `not_empty`;
/// [`Error::Damaged`] for a damaged or incomplete backup, or one of a newer program; and if a file
/// cannot be read or written. Then the folder is as it was before.
pub fn restore(
    data_dir: &Path,
    request: &RestoreRequest,
    progress: impl Fn(u64, u64),
) -> Result<Restored> {
    let from = Target::open_to_read(&request.from)?;
    let (name, list) = choose(&from, request.at)?;
    super::check_complete(&from, &list)?;
    let mut newer = Vec::new();
    if let Some(path) = &request.erasures {
        newer.push(std::fs::read(path).map_err(Error::io("read", path))?);
    }
    newer.extend(newest_erasures(&from, &name)?);
    let paths = list.files.iter().map(|file| file.path.as_str());
    // Erasures may be repeated in a backup without any.
    let to = Restoring::begin(data_dir, paths.chain([ERASURES_FILE]))?;
    copy_all(&from, &list, progress, |file, source| {
        let shown = to.path().join(&file.path);
        to.write(&expected(file), source, |out| {
            from.fetch(&file.pool_name(), out, &shown)
        })
    })?;
    let mut manifest = check_manifest(to.path(), &list)?;
    if manifest.event_ids.is_some() {
        // Their files are not in a backup: the first start makes them again from the segments.
        manifest.event_ids = None;
        let path = to.path().join(MANIFEST_FILE);
        files::write_synced(&path, &manifest.encode())?;
    }
    let mut restored = Restored::of(name, list);
    for newer in newer {
        let repeated = store::repeat_erasures(to.path(), &newer)?;
        restored.unknown_erasures = restored.unknown_erasures.max(repeated.unknown);
        restored.erased.extend(repeated.users);
    }
    restored.erased.sort_unstable();
    restored.erased.dedup();
    restored.erased_users = restored.erased.len();
    to.finish()?;
    Ok(restored)
}

impl Restored {
    fn of(backup: String, list: BackupList) -> Self {
        Self {
            ok: true,
            backup,
            taken_at: list.taken_at,
            files: list.files.len(),
            bytes: list.bytes(),
            damaged: list.damaged,
            erased: Vec::new(),
            erased_users: 0,
            unknown_erasures: 0,
        }
    }
}

/// The newest backup up to a time.
fn choose(from: &Target, at: Option<At>) -> Result<(String, BackupList)> {
    let mut names = from.lists()?;
    if let Some(At(time)) = at {
        let last = BackupList::new(time, Vec::new(), Vec::new()).name();
        names.retain(|name| *name <= last);
    }
    let name = names.pop().ok_or_else(|| from.no_backup())?;
    let list = from.read_list(&name)?;
    Ok((name, list))
}

/// The erasures that the newest backup knows, unless it is the one that is restored.
fn newest_erasures(from: &Target, restored: &str) -> Result<Option<Vec<u8>>> {
    for name in from
        .lists()?
        .iter()
        .rev()
        .take_while(|name| *name != restored)
    {
        let list = match from.read_list(name) {
            Ok(list) => list,
            Err(error) => {
                tracing::warn!("Its erasures are not repeated: {error}");
                continue;
            }
        };
        let Some(file) = list.file(ERASURES_FILE) else {
            return Ok(None);
        };
        let source = file.pool_name();
        let mut content = Summing::new(Vec::new());
        from.fetch(&source, &mut content, Path::new(&source))?;
        expected(file).check(content.bytes, content.checksum, &from.shown(&source))?;
        return Ok(Some(std::mem::take(content.inner_mut())));
    }
    Ok(None)
}

/// Copies every file of a list. `copy` gets the file, and its source for messages.
fn copy_all(
    from: &Target,
    list: &BackupList,
    progress: impl Fn(u64, u64),
    copy: impl Fn(&ListedFile, &str) -> Result<()> + Sync,
) -> Result<()> {
    let all = list.bytes();
    let mut files = list.files.iter();
    let mut done = 0;
    progress(done, all);
    pipeline::ordered_on(
        from.workers(),
        || Ok(files.next()),
        |file| {
            let source = from.shown(&file.pool_name());
            copy(file, &source).map(|()| file.bytes)
        },
        |copied| {
            done += copied?;
            progress(done, all);
            Ok(())
        },
    )
}

fn expected(file: &ListedFile) -> ExpectedFile<'_> {
    ExpectedFile {
        path: &file.path,
        bytes: file.bytes,
        crc32c: file.crc32c,
    }
}

/// Checks the formats, and that the backup has what the manifest names, except what was damaged.
fn check_manifest(root: &Path, list: &BackupList) -> Result<Manifest> {
    store::Mark::load(root)?;
    let manifest = Manifest::load(root)?;
    let paths: std::collections::HashSet<&str> =
        list.files.iter().map(|file| file.path.as_str()).collect();
    let missing = manifest
        .paths()
        .filter(|path| !paths.contains(path.as_str()));
    let count = missing.count();
    if count == list.damaged.len() {
        return Ok(manifest);
    }
    Err(Error::Damaged {
        file: list.name().into(),
        message: format!(
            "it lacks {count} files that its {MANIFEST_FILE} names; use another backup (--at)"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_stands_for_its_end() {
        let at = |string: &str| string.parse::<At>();
        let end = at("2026-11-27T00:00:00Z");
        assert_eq!(at("2026-11-26"), end);
        assert_eq!(at("2026-11-27T01:00:00+01:00"), end);
        for wrong in ["yesterday", "2026-13-01", "10:00", ""] {
            assert!(at(wrong).is_err_and(|message| message.contains("allowed are")));
        }
    }
}
