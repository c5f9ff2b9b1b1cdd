//! The data folder: one holder at a time, and replacements that survive a power cut.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::warn;

use crate::error::{Error, Result};

/// Says who holds the folder, for the message that the second process prints. It is not the lock: the lock
/// is on the folder itself, which cannot be deleted from under us, and ends with the process.
const HOLDER_FILE: &str = "holder";
/// Unfinished files. On the same file system as the folder, so that a rename publishes them.
const TEMP_DIR: &str = "tmp";

/// A data folder that this process alone may change, until the value is dropped.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    lock: File,
}

impl Folder {
    /// Takes the folder, which is made if it does not exist. `holder` describes this process to others.
    ///
    /// # Errors
    /// [`Error::Held`] if another process has it.
    pub fn take(path: &Path, holder: &str) -> Result<Self> {
        make(path)?;
        let lock = File::open(path).map_err(Error::io("open the data folder", path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = fs::read_to_string(path.join(HOLDER_FILE)).unwrap_or_default();
                return Err(Error::Held {
                    folder: path.to_owned(),
                    holder: match holder.trim() {
                        "" => "another process".into(),
                        holder => holder.into(),
                    },
                });
            }
            Err(TryLockError::Error(source)) => {
                return Err(Error::io("lock the data folder", path)(source));
            }
        }
        let folder = Self {
            path: path.to_owned(),
            lock,
        };
        folder.describe_holder(holder);
        folder.clear_temp()?;
        Ok(folder)
    }

    /// Changes what a second process is told about this one. On a full disk it is told less.
    pub fn describe_holder(&self, holder: &str) {
        if let Err(error) = fs::write(self.path.join(HOLDER_FILE), format!("{holder}\n")) {
            warn!("Cannot say who holds the data folder: {error}");
        }
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of an unfinished file, in a folder of its own.
    ///
    /// # Errors
    /// If that folder cannot be made.
    pub fn temp(&self, name: &str) -> Result<PathBuf> {
        let dir = self.path.join(TEMP_DIR);
        fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        Ok(dir.join(name))
    }

    /// Puts `content` in place of the file `name`: at every instant, power cut included, the file is whole
    /// and either old or new, and after this it is new.
    ///
    /// # Errors
    /// If any step fails; then the file is the old or the new one, and whole.
    pub fn replace(&self, name: &str, content: &[u8]) -> Result<()> {
        let temp = self.temp(name)?;
        write_synced(&temp, content)?;
        or_remove(&temp, || publish(&temp, &self.path.join(name)))
    }

    /// Puts a value, as readable JSON, in place of the file `name`, as [`Folder::replace`] does.
    ///
    /// # Errors
    /// As [`Folder::replace`].
    pub fn replace_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        self.replace(name, &json(value))
    }

    /// Whether some events would fit on the disk now.
    pub fn has_room(&self) -> bool {
        const PROBE_BYTES: usize = 64 << 10;
        let Ok(probe) = self.temp("probe") else {
            return false;
        };
        let fits = fs::write(&probe, vec![0; PROBE_BYTES]).is_ok();
        // It is cleared at the next start if it cannot be removed now.
        let _ = fs::remove_file(&probe);
        fits
    }

    /// Whether what is not needed may be written: there is room for so many bytes beside it.
    pub fn has_room_beside(&self, bytes: u64) -> bool {
        self.free_bytes().is_some_and(|free| free > bytes)
    }

    /// Room on the disk, where the file system says it.
    pub fn free_bytes(&self) -> Option<u64> {
        let found = rustix::fs::statvfs(&self.path).ok()?;
        Some(found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// What an earlier process left unfinished was never published.
    fn clear_temp(&self) -> Result<()> {
        remove_all(&self.path.join(TEMP_DIR))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Closing the file would not free the folder while a child process, just forked, has it open too.
        let _ = self.lock.unlock();
    }
}

/// Gives a finished and synced file its final name, durably.
///
/// # Errors
/// If the rename or the sync of the folder fails.
pub fn publish(temp: &Path, path: &Path) -> Result<()> {
    fs::rename(temp, path).map_err(Error::io("rename to", path))?;
    sync_parent(path)
}

/// Writes a file and syncs what is in it; its name is durable when its folder is synced.
///
/// # Errors
/// If a step fails; then there is no such file.
pub fn write_synced(path: &Path, content: &[u8]) -> Result<()> {
    or_remove(path, || {
        let mut file = File::create(path).map_err(Error::io("create", path))?;
        file.write_all(content).map_err(Error::io("write", path))?;
        file.sync_all().map_err(Error::io("sync", path))
    })
}

/// Does work on an unfinished file, which must not stay on a disk that may be full, or with what is to be erased, if that
/// fails.
///
/// # Errors
/// Those of the work.
pub fn or_remove<T>(path: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    work().inspect_err(|_| {
        // It is cleared at the next start if it cannot be removed now.
        let _ = fs::remove_file(path);
    })
}

/// Makes a folder, durably, where there is none, and those that it lies in.
///
/// # Errors
/// If it cannot be made.
pub fn make(dir: &Path) -> Result<()> {
    if dir.exists() {
        return Ok(());
    }
    let missing: Vec<&Path> = dir
        .ancestors()
        .take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists())
        .collect();
    fs::create_dir_all(dir).map_err(Error::io("create the folder", dir))?;
    missing.into_iter().try_for_each(sync_parent)
}

/// Removes a folder with all that is in it, where there is one.
///
/// # Errors
/// If it cannot be removed.
pub fn remove_all(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("clear", dir)(error))
        }
        _ => Ok(()),
    }
}

/// A value as readable JSON, for a small file.
pub fn json(value: &impl Serialize) -> Vec<u8> {
    // Writing to memory cannot fail.
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}

/// The value in a small JSON file; the default if there is no such file.
///
/// # Errors
/// If it cannot be read, and [`Error::Damaged`] if it is not such a value.
pub fn read_json<T: DeserializeOwned + Default>(path: &Path) -> Result<T> {
    match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(T::default()),
        read => {
            let text = read.map_err(Error::io("read", path))?;
            serde_json::from_slice(&text).map_err(|error| Error::Damaged {
                file: path.to_owned(),
                message: error.to_string(),
            })
        }
    }
}

/// The paths in a folder; none if there is no such folder.
///
/// # Errors
/// If it cannot be listed.
pub fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io("list", dir))?,
    };
    entries
        .map(|entry| Ok(entry.map_err(Error::io("list", dir))?.path()))
        .collect()
}

/// Removes a file, durably: without the folder's sync a power cut would bring it back.
///
/// # Errors
/// If it cannot be removed; that it is gone already is no error.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", path)(error))
        }
        _ => sync_parent(path),
    }
}

/// Makes the names in the folder of `path` durable.
///
/// # Errors
/// If the folder cannot be synced.
pub fn sync_parent(path: &Path) -> Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    sync(parent.unwrap_or(Path::new(".")))
}

/// Makes the names in a folder durable.
///
/// # Errors
/// If it cannot be synced.
pub fn sync(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|folder| folder.sync_all())
        .map_err(Error::io("sync the folder", dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_told_who_the_first_is() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let first = Folder::take(dir.path(), "the first")?;
        match Folder::take(dir.path(), "the second") {
            Err(Error::Held { holder, .. }) => assert_eq!(holder, "the first"),
            other => panic!("{other:?}"),
        }
        drop(first);
        Folder::take(dir.path(), "the second").map(drop)
    }
}
