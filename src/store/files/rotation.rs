//! Rotated logs: files with a number in their names that wait to be sealed.

use std::collections::VecDeque;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::shape::{self, EVENT_LOG_FILE, NEXT_LOG_FILE};
use crate::error::{Error, Result};
use crate::store::files;

/// Folder of rotated logs in the data folder.
const SEALING_DIR: &str = "sealing";

/// Identity of the file of a log: device and inode.
pub(in crate::store) type LogId = (u64, u64);

/// A rotated log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct RotatedLog {
    pub number: u64,
    pub path: PathBuf,
}

impl RotatedLog {
    /// The path for a log of that number; its folder is made.
    pub fn prepare(folder: &Path, number: u64) -> Result<PathBuf> {
        let dir = folder.join(SEALING_DIR);
        files::make_private(&dir).map_err(Error::io("create", &dir))?;
        files::sync_parent(&dir)?;
        Ok(dir.join(format!("{number:08}.ndjson")))
    }

    /// The rotated logs, in order, without the open log, also while it has a second name.
    pub fn list(folder: &Path) -> Result<Vec<Self>> {
        let open = Self::of_open_log(folder)?;
        let mut logs = Self::all(folder)?;
        logs.retain(|log| open.as_ref() != Some(&log.path));
        Ok(logs)
    }

    /// Completes an interrupted rotation when a store is opened whose segments cover the logs up to
    /// that number. With events in the next log it had come to its last step; without them it is
    /// undone.
    pub fn finish_rotation(folder: &Path, sealed_through: u64) -> Result<()> {
        let next = folder.join(NEXT_LOG_FILE);
        let bytes = metadata(&next)?.map(|found| found.len());
        match (bytes.unwrap_or(0), Self::of_open_log(folder)?) {
            (0, _) => {
                Self::undo_rotation(folder)?;
                bytes.map_or(Ok(()), |_| files::remove(&next))
            }
            (_, Some(_)) => files::publish(&next, &folder.join(EVENT_LOG_FILE)),
            // Not left by a rotation; a copy of the folder may have made two files of the two
            // names.
            (_, None) => {
                let last = Self::all(folder)?.last().map_or(0, |log| log.number);
                files::publish(&next, &Self::prepare(folder, last.max(sealed_through) + 1)?)
            }
        }
    }

    /// Removes the second name of the open log, if a rotation has left one.
    pub fn undo_rotation(folder: &Path) -> Result<()> {
        match Self::of_open_log(folder)? {
            Some(path) => files::remove(&path),
            None => Ok(()),
        }
    }

    /// Removes the logs up to that number: their events are all in segments.
    ///
    /// # Errors
    /// If one cannot be removed.
    pub fn remove_through(folder: &Path, sealed_through: u64) -> Result<()> {
        Self::list(folder)?
            .iter()
            .filter(|log| log.number <= sealed_through)
            .try_for_each(|log| files::remove(&log.path))
    }

    fn of_open_log(folder: &Path) -> Result<Option<PathBuf>> {
        let Some(open) = inode(&folder.join(EVENT_LOG_FILE))? else {
            return Ok(None);
        };
        for log in Self::all(folder)? {
            if inode(&log.path)? == Some(open) {
                return Ok(Some(log.path));
            }
        }
        Ok(None)
    }

    /// The files with the name of a rotated log, in order; one may be the open log.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub fn all(folder: &Path) -> Result<Vec<Self>> {
        let dir = folder.join(SEALING_DIR);
        let mut logs = Vec::new();
        for path in files::list(&dir)? {
            let name = path.file_name().and_then(|name| name.to_str());
            if let Some(number) = name.and_then(shape::rotated_log) {
                logs.push(Self { number, path });
            }
        }
        logs.sort_by_key(|log| log.number);
        Ok(logs)
    }

    /// Its path below the data folder.
    pub fn name(number: u64) -> String {
        format!("{SEALING_DIR}/{number:08}.ndjson")
    }

    /// Device and inode of its file.
    ///
    /// # Errors
    /// If the metadata of the file cannot be read.
    pub fn id(&self) -> Result<LogId> {
        let found = std::fs::metadata(&self.path).map_err(Error::io("inspect", &self.path))?;
        Ok((found.dev(), found.ino()))
    }
}

/// Sizes and ages of the rotated logs.
#[derive(Debug, Default)]
pub struct WaitingLogs {
    /// Their bytes, oldest first.
    lengths: VecDeque<u64>,
    /// Time since which the oldest event in them waits.
    pub since: Option<Instant>,
    /// Time of the start, while events that it found in its logs wait.
    pub found: Option<Instant>,
}

impl WaitingLogs {
    /// The rotated logs that a start finds.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub fn found(folder: &Path, has_events: bool) -> Result<Self> {
        let now = has_events.then(Instant::now);
        let lengths = RotatedLog::list(folder)?.into_iter();
        Ok(Self {
            lengths: lengths
                .map(|log| Ok(metadata(&log.path)?.map_or(0, |found| found.len())))
                .collect::<Result<_>>()?,
            since: now,
            found: now,
        })
    }

    /// Number of logs.
    pub fn logs(&self) -> usize {
        self.lengths.len()
    }

    /// Their bytes.
    pub fn bytes(&self) -> u64 {
        self.lengths.iter().sum()
    }

    /// Adds the log that was open.
    pub fn rotated(&mut self, bytes: u64, since: Option<Instant>) {
        self.lengths.push_back(bytes);
        self.since = self.since.or(since);
        self.found = None;
    }

    /// Removes the oldest.
    pub fn sealed(&mut self) {
        self.lengths.pop_front();
        if self.lengths.is_empty() {
            self.since = None;
        }
    }
}

/// Device and inode of an open log, which tell its file from all others.
///
/// # Errors
/// If the metadata of the file cannot be read.
pub(in crate::store) fn id_of(log: &File) -> Result<LogId> {
    let found = log.metadata();
    let found = found.map_err(Error::io("inspect", EVENT_LOG_FILE.as_ref()))?;
    Ok((found.dev(), found.ino()))
}

fn metadata(path: &Path) -> Result<Option<Metadata>> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some).map_err(Error::io("inspect", path)),
    }
}

/// Device and inode of a file; `None` if it does not exist.
fn inode(path: &Path) -> Result<Option<(u64, u64)>> {
    Ok(metadata(path)?.map(|found| (found.dev(), found.ino())))
}
