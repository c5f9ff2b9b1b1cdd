//! The event log: the file to which every accepted event is appended before it is acknowledged.
//!
//! A group of lines is one write and one `fdatasync`. A write for which the disk has no space is
//! undone. A failed sync is never retried: the kernel may have dropped the bytes after it, and
//! would report success (Rebello et al., *Can Applications Recover from fsync Failures?*, USENIX
//! ATC 2020).

use std::fs::File;
use std::io::{Error as IoError, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::Durability;
use crate::error::{Error, Result, is_out_of_space};
use crate::store::files;
use crate::store::files::identity::{self, DISPLACED};
use crate::store::files::rotation::id_of;
use crate::store::files::shape::{EVENT_LOG_FILE, NEXT_LOG_FILE};

/// The open event log, to which events are appended.
pub(in crate::store) struct EventLog {
    path: PathBuf,
    file: File,
    /// The same file for readers, who keep it when the log is rotated.
    reader: Arc<File>,
    /// Everything before this is durable.
    length: u64,
    durability: Durability,
}

impl EventLog {
    /// Opens the log for appending, and creates it if it does not exist.
    pub fn open(path: &Path, durability: Durability) -> Result<Self> {
        let file = files::open_in_place(path)?;
        let length = file.metadata().map_err(Error::io("read", path))?.len();
        let reader = files::open(path)?;
        files::sync_parent(path)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            reader: Arc::new(reader),
            length,
            durability,
        })
    }

    /// Opens the log of a read-only data folder. Nothing can be appended to it.
    pub fn open_to_read(path: &Path) -> Result<Self> {
        // A store whose events are all sealed may have no log.
        let path = if path.exists() {
            path
        } else {
            Path::new("/dev/null")
        };
        let file = files::open(path)?;
        let length = file.metadata().map_err(Error::io("read", path))?.len();
        let reader = files::open(path)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            reader: Arc::new(reader),
            length,
            durability: Durability::Os,
        })
    }

    /// Checks that the file under the log's name is this log, with everything that was written.
    ///
    /// # Errors
    /// [`Error::Poisoned`] if it is not; the difference is traced.
    pub fn check_in_place(&self) -> Result<()> {
        identity::check_log(&self.file, &self.path, self.length).map_err(|found| {
            tracing::error!("The event log is not where it was: {found}");
            Error::Poisoned(DISPLACED.into())
        })
    }

    /// Bytes in the log.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Identity of its file: device and inode.
    ///
    /// # Errors
    /// If the file's metadata cannot be read.
    pub fn id(&self) -> Result<(u64, u64)> {
        id_of(&self.reader)
    }

    /// The log's file for readers.
    pub fn reader(&self) -> &Arc<File> {
        &self.reader
    }

    /// Appends complete lines and makes them durable.
    ///
    /// # Errors
    /// [`Error::DiskFull`] if there is no space; then the log is as before. [`Error::Poisoned`] for
    /// anything else; then nothing may be appended any more.
    pub fn append(&mut self, lines: &[u8]) -> Result<()> {
        if let Err(error) = self.file.write_all_at(lines, self.length) {
            return Err(match self.file.set_len(self.length) {
                Ok(()) if is_out_of_space(&error) => Error::DiskFull,
                _ => Error::Poisoned(format!("write: {error}")),
            });
        }
        if self.durability == Durability::Sync {
            self.file
                .sync_data()
                .map_err(|error| Error::Poisoned(format!("sync: {error}")))?;
        }
        self.length += lines.len() as u64;
        Ok(())
    }

    /// Continues with another log, which gets the name of this one. It is one rename, because
    /// commits wait for it.
    ///
    /// # Errors
    /// [`Error::DiskFull`] if there is no space for a name; then nothing has changed. After any
    /// other error the writer must stop, because it does not know which file is the log.
    pub fn rotate(&mut self, next: NextLog) -> Result<()> {
        let rename =
            |from: &Path, to: &Path| std::fs::rename(from, to).map_err(Error::io("rename", from));
        if let Some(aside) = &next.aside {
            rename(&self.path, aside)?;
        }
        let renamed = match &next.aside {
            Some(aside) => files::sync_parent(aside),
            None => Ok(()),
        }
        .and_then(|()| rename(&next.log.path, &self.path));
        match (renamed, &next.aside) {
            // The log has been renamed and no other one has its name.
            (Err(error), Some(_)) => return Err(Error::Poisoned(format!("rotation: {error}"))),
            (renamed, _) => renamed?,
        }
        *self = Self {
            path: self.path.clone(),
            durability: self.durability,
            ..next.log
        };
        Ok(())
    }
}

/// An empty log, ready to replace the open one.
///
/// A rotation gives the open log a second name (a hard link), durably, and then its first name to
/// the next log. So the log has a name at every moment, whatever a power cut undoes; the next start
/// completes what it undid.
pub(in crate::store) struct NextLog {
    log: EventLog,
    /// The new name of the open log, on a file system without hard links.
    aside: Option<PathBuf>,
}

impl NextLog {
    /// Creates the next log, and gives the open log the second name `aside`, in an existing folder.
    ///
    /// # Errors
    /// If a file cannot be created; then nothing has changed.
    pub fn prepare(folder: &Path, aside: &Path) -> Result<Self> {
        let path = folder.join(NEXT_LOG_FILE);
        let log = EventLog::open(&path, Durability::Sync)?;
        if log.length > 0 {
            return Err(Error::Damaged {
                file: path,
                message: "it should be empty; restart to recover its events".into(),
            });
        }
        let open = folder.join(EVENT_LOG_FILE);
        let aside = match std::fs::hard_link(&open, aside) {
            Err(error) if has_no_hard_links(&error) => Some(aside.to_owned()),
            linked => {
                linked.map_err(Error::io("link", &open))?;
                files::sync_parent(aside)?;
                None
            }
        };
        Ok(Self { log, aside })
    }
}

/// Makes a rotation durable: until then a power cut may undo the last step.
///
/// # Errors
/// If the folder cannot be synced.
pub(in crate::store) fn sync_rotation(folder: &Path) -> Result<()> {
    files::sync_parent(&folder.join(EVENT_LOG_FILE))
}

/// True if the file system has no hard links.
fn has_no_hard_links(error: &IoError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Unsupported | ErrorKind::PermissionDenied
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotated_log_keeps_its_events_under_the_second_name() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join(EVENT_LOG_FILE);
        let aside = dir.path().join("00000001.ndjson");
        let mut log = EventLog::open(&path, Durability::Sync)?;
        log.append(b"one\n")?;
        let (id, reader) = (log.id()?, log.reader().clone());
        let next = NextLog::prepare(dir.path(), &aside)?;
        log.append(b"two\n")?;
        log.rotate(next)?;
        sync_rotation(dir.path())?;
        assert_eq!(log.length(), 0);
        assert_ne!(log.id()?, id);
        log.append(b"three\n")?;
        log.check_in_place()?;
        let content = |path: &Path| std::fs::read_to_string(path).expect("it exists");
        assert_eq!(content(&path), "three\n");
        assert_eq!(content(&aside), "one\ntwo\n");
        assert_eq!(id_of(&reader)?, id, "readers keep the file");
        Ok(())
    }

    #[test]
    fn a_next_log_with_events_and_a_displaced_log_are_errors() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join(EVENT_LOG_FILE);
        let log = EventLog::open(&path, Durability::Os)?;
        std::fs::write(dir.path().join(NEXT_LOG_FILE), "one\n").expect("written");
        let next = NextLog::prepare(dir.path(), &dir.path().join("00000001.ndjson"));
        assert!(matches!(next, Err(Error::Damaged { .. })));
        std::fs::remove_file(&path).expect("removed");
        assert!(matches!(log.check_in_place(), Err(Error::Poisoned(_))));
        let empty = EventLog::open_to_read(&path)?;
        assert_eq!(empty.length(), 0);
        Ok(())
    }

    #[test]
    fn a_failed_write_that_cannot_be_undone_stops_the_log() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join(EVENT_LOG_FILE);
        let mut log = EventLog::open(&path, Durability::Sync)?;
        log.append(b"one\n")?;
        // `/dev/full` has no space and cannot be truncated, so that the write cannot be undone.
        log.file = File::options()
            .write(true)
            .open("/dev/full")
            .expect("it exists");
        let failed = log.append(b"two\n");
        assert!(matches!(failed, Err(Error::Poisoned(_))), "{failed:?}");
        assert_eq!(log.length(), 4);
        Ok(())
    }
}
