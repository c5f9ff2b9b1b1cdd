//! Backups of a data folder, also while a server changes it, and their [`restore`].
//!
//! All backups in a folder or bucket share one pool of files, so that a backup adds what is new and
//! nothing else. A backup is its list, which is written last: an interrupted one leaves the others
//! valid and files in the pool that no list names, which the next one uses or removes.

pub mod list;
pub mod restore;
mod target;

use std::collections::{BTreeMap, HashSet};
use std::num::NonZeroUsize;
use std::path::Path;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::store::capture::{Capture, CapturedFile, Growth};
use crate::store::pipeline;
use list::{BackupList, ListedFile, POOL_DIR};
use target::{Put, Target};

/// Attempts to copy the files of a capture before they are removed: only those that could not be
/// kept open can be missed.
const ATTEMPTS: usize = 5;

/// A request for a backup.
#[derive(Debug, Clone)]
pub struct BackupRequest {
    /// The folder or bucket of backups.
    pub to: String,
    /// Number of backups that are kept, with this one; all if absent.
    pub keep: Option<NonZeroUsize>,
}

/// Result of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackedUp {
    /// True if no file of the data folder was damaged or missing.
    pub ok: bool,
    /// The list that makes it a backup.
    pub backup: String,
    /// When it was begun: it has every event that was acknowledged before.
    pub taken_at: DateTime<Utc>,
    /// Files of the data folder.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Those of them that no earlier backup had.
    pub new_files: usize,
    /// Their bytes.
    pub new_bytes: u64,
    /// Those that are other names of the same files, and take no space until the server removes its
    /// own.
    pub linked_files: usize,
    /// Older backups that were removed.
    pub removed_backups: usize,
    /// Files that no backup has any more and were removed.
    pub removed_files: usize,
    /// A sentence for each file of the data folder that is damaged or missing; the backup is
    /// without them.
    pub damaged: Vec<String>,
}

/// Adds a backup of a data folder, which another process may have open. `progress` is called with
/// the bytes done and of all files.
///
/// # Errors
/// `bad_target` if the address is wrong, has files and no backups, or is in the data folder;
/// `target_in_use` if another backup is being written to it; as [`Capture::take`]; and if a
/// file cannot be read or written. Earlier backups stay valid.
pub fn back_up(
    data_dir: &Path,
    request: &BackupRequest,
    now: DateTime<Utc>,
    progress: impl Fn(u64, u64),
) -> Result<BackedUp> {
    let mut to = Target::open_to_write(&request.to, data_dir)?;
    for _ in 0..ATTEMPTS {
        let mut capture = Capture::take(data_dir)?;
        to.mark(capture.store.as_deref())?;
        if let Some(added) = add_all(&to, &mut capture, &progress)? {
            return finish(&to, added, request.keep, now);
        }
    }
    Err(Error::Busy(
        "the data folder changes faster than it can be copied; raise the limit of open files (ulimit -n)",
    ))
}

/// The files of a backup, all in the pool.
#[derive(Default)]
struct Added {
    files: Vec<ListedFile>,
    new_files: usize,
    new_bytes: u64,
    linked_files: usize,
    damaged: Vec<String>,
}

/// Result of adding a file.
enum Outcome {
    /// An earlier backup has it.
    Kept(ListedFile),
    New(ListedFile, Put),
    /// It was removed after the capture.
    Gone(String),
    /// It got shorter after the capture, because a write without space was undone.
    Changed,
    Damaged(String),
}

/// Adds the files of a capture to the pool. None if the server removed one of them meanwhile.
fn add_all(
    to: &Target,
    capture: &mut Capture,
    progress: impl Fn(u64, u64),
) -> Result<Option<Added>> {
    let pool = to.pool()?;
    let mut added = Added {
        damaged: std::mem::take(&mut capture.missing),
        ..Added::default()
    };
    let files = std::mem::take(&mut capture.files);
    let all = files.iter().map(|file| file.bytes).sum();
    let mut files = files.into_iter();
    let mut gone = Vec::new();
    let mut has_changed = false;
    let mut done = 0;
    progress(done, all);
    pipeline::ordered_on(
        to.workers(),
        || Ok(files.next()),
        |file| (file.bytes, add(to, &pool, file)),
        |(bytes, outcome)| {
            match outcome? {
                Outcome::Kept(listed) => added.files.push(listed),
                Outcome::New(listed, put) => {
                    added.new_files += 1;
                    added.new_bytes += listed.bytes;
                    added.linked_files += usize::from(put == Put::Linked);
                    added.files.push(listed);
                }
                Outcome::Gone(path) => gone.push(path),
                Outcome::Changed => has_changed = true,
                Outcome::Damaged(message) => added.damaged.push(message),
            }
            done += bytes;
            progress(done, all);
            Ok(())
        },
    )?;
    if has_changed || !gone.is_empty() && !capture.is_current()? {
        return Ok(None);
    }
    // No commit removed them.
    let missing = gone.into_iter().map(|path| format!("{path} is missing"));
    added.damaged.extend(missing);
    Ok(Some(added))
}

/// Adds a file to the pool unless it is there.
fn add(to: &Target, pool: &BTreeMap<String, u64>, mut file: CapturedFile) -> Result<Outcome> {
    let is_kept = |listed: &ListedFile| pool.get(&listed.pool_name()) == Some(&listed.bytes);
    let path = file.path.clone();
    let listed = |bytes, crc32c| ListedFile {
        path: path.clone(),
        bytes,
        crc32c,
    };
    let known = file.crc32c.map(|crc32c| listed(file.bytes, crc32c));
    if let Some(known) = known.clone().filter(is_kept) {
        return Ok(Outcome::Kept(known));
    }
    let Some(open) = file.open()? else {
        return Ok(Outcome::Gone(file.on_disk().display().to_string()));
    };
    let listed = match known {
        Some(known) => known,
        None => {
            let (bytes, crc32c) = target::checksum_of(&open, file.bytes, file.on_disk())?;
            listed(bytes, crc32c)
        }
    };
    if is_kept(&listed) {
        return Ok(Outcome::Kept(listed));
    }
    match to.put(&file, &open, &listed) {
        Err(error @ Error::Damaged { .. }) if file.growth == Growth::Immutable => {
            Ok(Outcome::Damaged(error.to_string()))
        }
        Err(Error::Damaged { .. }) if file.crc32c.is_none() => Ok(Outcome::Changed),
        put => put.map(|put| Outcome::New(listed, put)),
    }
}

/// Writes the list, and removes the backups that are not kept.
fn finish(
    to: &Target,
    added: Added,
    keep: Option<NonZeroUsize>,
    now: DateTime<Utc>,
) -> Result<BackedUp> {
    // Before the list that names the files.
    to.sync()?;
    let list = BackupList::new(now, added.files, added.damaged);
    let name = list.name();
    to.write(&name, &list.encode())?;
    to.sync()?;
    check_complete(to, &list).inspect_err(|_| {
        // A list without its files is not a backup.
        let _ = to.remove(&name);
    })?;
    let removed_backups = match keep {
        Some(keep) => remove_old(to, keep)?,
        None => 0,
    };
    let removed_files = remove_unlisted(to)?;
    to.tidy()?;
    Ok(BackedUp {
        ok: list.damaged.is_empty(),
        backup: name,
        taken_at: list.taken_at,
        files: list.files.len(),
        bytes: list.bytes(),
        new_files: added.new_files,
        new_bytes: added.new_bytes,
        linked_files: added.linked_files,
        removed_backups,
        removed_files,
        damaged: list.damaged,
    })
}

/// Checks that the pool has every file of a list: another process may have removed one from a
/// bucket, which has no lock.
fn check_complete(to: &Target, list: &BackupList) -> Result<()> {
    let pool = to.pool()?;
    for file in &list.files {
        let name = file.pool_name();
        let message = match pool.get(&name) {
            Some(bytes) if *bytes == file.bytes => continue,
            Some(bytes) => format!("it has {bytes} bytes, and {} were written", file.bytes),
            None => "it is missing".into(),
        };
        return Err(Error::Damaged {
            file: to.shown(&name).into(),
            message,
        });
    }
    Ok(())
}

/// Removes all backups but the newest. Returns how many.
fn remove_old(to: &Target, keep: NonZeroUsize) -> Result<usize> {
    let lists = to.lists()?;
    let old = lists.len().saturating_sub(keep.get());
    for name in lists.iter().take(old) {
        to.remove(name)?;
    }
    Ok(old)
}

/// Removes the files of the pool that no list names. Returns how many.
fn remove_unlisted(to: &Target) -> Result<usize> {
    let mut listed = HashSet::new();
    for name in to.lists()? {
        match to.read_list(&name) {
            Ok(list) => listed.extend(list.files.iter().map(ListedFile::pool_name)),
            // It may name any file.
            Err(error) => {
                tracing::warn!("Files without a backup are not removed: {error}");
                return Ok(0);
            }
        }
    }
    let mut removed = 0;
    for name in to.pool()?.keys() {
        if !listed.contains(name) && name.starts_with(POOL_DIR) {
            to.remove(name)?;
            removed += 1;
        }
    }
    Ok(removed)
}
