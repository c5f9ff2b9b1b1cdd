//! The event log: the file that every accepted event is appended to before it is acknowledged.
//!
//! A group of lines is one write and one `fdatasync`. A write that finds no room is undone. A failed sync is
//! never retried: after it the kernel may have dropped the bytes and would report success
//! (Rebello et al., *Can Applications Recover from fsync Failures?*, USENIX ATC 2020).

use std::fs::File;
use std::io::{Error as IoError, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files;
use super::identity::{self, DISPLACED};
use super::rotation::id_of;
use super::shape::{EVENT_LOG_FILE, NEXT_LOG_FILE};
use crate::config::Durability;
use crate::error::{Error, Result, is_no_room};

/// The open event log, at its end.
pub(super) struct EventLog {
    path: PathBuf,
    file: File,
    /// The same file, for those who read it back; it stays theirs when the log goes on elsewhere.
    reader: Arc<File>,
    /// Everything before this is durable.
    length: u64,
    durability: Durability,
}

impl EventLog {
    /// Opens the log for appending; it is made if it does not exist.
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

    /// Opens the log of a folder that is not to be changed. Nothing can be appended to it.
    pub fn open_to_read(path: &Path) -> Result<Self> {
        let path = match path.exists() {
            true => path,
            // A store of which all is sealed may have none.
            false => Path::new("/dev/null"),
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

    /// Checks that the log under its name is this one, with all that was written.
    ///
    /// # Errors
    /// [`Error::Poisoned`] if it is not; what is there instead is traced.
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

    /// What tells its file from all others.
    ///
    /// # Errors
    /// If the file cannot be looked at.
    pub fn id(&self) -> Result<(u64, u64)> {
        id_of(&self.reader)
    }

    /// The log, to be read.
    pub fn reader(&self) -> &Arc<File> {
        &self.reader
    }

    /// Appends whole lines and makes them durable.
    ///
    /// # Errors
    /// [`Error::DiskFull`] if there is no room; then the log is as it was. [`Error::Poisoned`] for anything
    /// else; then nothing may be appended any more.
    pub fn append(&mut self, lines: &[u8]) -> Result<()> {
        if let Err(error) = self.file.write_all_at(lines, self.length) {
            return Err(match self.file.set_len(self.length) {
                Ok(()) if is_no_room(&error) => Error::DiskFull,
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

    /// Goes on with another log, which takes this one's name. That is one step, because commits wait for it.
    ///
    /// # Errors
    /// [`Error::DiskFull`] if there is no room for a name; then nothing has changed. If it fails otherwise the writer must
    /// stop, because it no longer knows which file is the log.
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
            // The log has lost its name.
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

/// An empty log, ready to take the place of the open one.
///
/// A rotation gives the open log a second name, durably, and then the next log its first one. So it has a name at every instant,
/// whatever a power cut undoes; what it may undo the next start completes.
pub(super) struct NextLog {
    log: EventLog,
    /// Where the open log goes, on a file system that knows no second names.
    aside: Option<PathBuf>,
}

impl NextLog {
    /// Makes it, and gives the open log the name `aside`, in a folder that is there.
    ///
    /// # Errors
    /// If a file cannot be made; then nothing has changed.
    pub fn prepare(folder: &Path, aside: &Path) -> Result<Self> {
        let path = folder.join(NEXT_LOG_FILE);
        let log = EventLog::open(&path, Durability::Sync)?;
        if log.length > 0 {
            return Err(Error::Damaged {
                file: path,
                message: "it should be empty; restart to take its events up".into(),
            });
        }
        let open = folder.join(EVENT_LOG_FILE);
        let aside = match std::fs::hard_link(&open, aside) {
            Err(error) if is_no_link(&error) => Some(aside.to_owned()),
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
pub(super) fn sync_rotation(folder: &Path) -> Result<()> {
    files::sync_parent(&folder.join(EVENT_LOG_FILE))
}

fn is_no_link(error: &IoError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Unsupported | ErrorKind::PermissionDenied
    )
}
