//! Files and folders on disk: made for their owner alone, and changed so that a power cut leaves the old state or the new one.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::de::DeserializeOwned;

use super::shape;
use crate::checksum::{self, LineCheck, Mismatch};
use crate::error::{Error, Result};

/// Whatever the umask is, nobody but the owner reads a file of the store.
const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;
/// Bits of a mode that let somebody in.
pub const MODE_BITS: u32 = 0o777;

/// Called before a change of a file, which tests let fail.
///
/// # Errors
/// If a test wants it to fail.
#[cfg_attr(
    not(test),
    expect(clippy::unnecessary_wraps, reason = "tests let it fail")
)]
pub(super) fn may_fail(operation: &str, path: &Path) -> std::io::Result<()> {
    #[cfg(test)]
    super::faults::check(operation, path)?;
    let _ = (operation, path);
    Ok(())
}

/// Gives a finished and synced file its final name, durably.
///
/// # Errors
/// If the rename or the sync of the folder fails.
pub fn publish(temp: &Path, path: &Path) -> Result<()> {
    may_fail("rename", path).map_err(Error::io("rename to", path))?;
    fs::rename(temp, path).map_err(Error::io("rename to", path))?;
    sync_parent(path)
}

/// Writes a file and syncs what is in it; its name is durable when its folder is synced.
///
/// # Errors
/// If a step fails; then there is no such file.
pub fn write_synced(path: &Path, content: &[u8]) -> Result<()> {
    or_remove(path, || {
        may_fail("write", path).map_err(Error::io("write", path))?;
        let mut file = create(path)?;
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

/// Creates a file, or empties it, that its owner alone can read, whatever the umask is. A symbolic link is not followed.
///
/// # Errors
/// If it cannot be created.
pub fn create(path: &Path) -> Result<File> {
    may_fail("create", path).map_err(Error::io("create", path))?;
    let file = private_options()
        .create(true)
        .truncate(true)
        .write(true)
        .open(path);
    file.and_then(|file| ensure_mode(&file, FILE_MODE).map(|()| file))
        .map_err(Error::io("create", path))
}

/// Opens a file to be written in place, and creates it if there is none. A symbolic link is not followed.
///
/// # Errors
/// If it cannot be opened.
pub fn open_in_place(path: &Path) -> Result<File> {
    may_fail("open", path).map_err(Error::io("open", path))?;
    let is_new = !path.exists();
    let file = private_options()
        .create(true)
        .read(true)
        .write(true)
        .open(path);
    file.and_then(|file| {
        if is_new {
            ensure_mode(&file, FILE_MODE)?;
        }
        Ok(file)
    })
    .map_err(Error::io("open", path))
}

/// Opens a file to read it. A symbolic link is not followed.
///
/// # Errors
/// If it cannot be opened.
pub fn open(path: &Path) -> Result<File> {
    private_options()
        .read(true)
        .open(path)
        .map_err(Error::io("open", path))
}

fn private_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .mode(FILE_MODE)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options
}

/// A strange umask takes rights from the owner too.
fn ensure_mode(file: &File, mode: u32) -> std::io::Result<()> {
    match file.metadata()?.mode() & MODE_BITS == mode {
        true => Ok(()),
        false => file.set_permissions(Permissions::from_mode(mode)),
    }
}

/// Makes a folder that its owner alone can enter, in one that is there; one that is there stays as it is.
///
/// # Errors
/// If it cannot be made.
pub fn make_private(dir: &Path) -> std::io::Result<()> {
    may_fail("make", dir)?;
    match DirBuilder::new().mode(DIR_MODE).create(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(error) => Err(error),
        Ok(()) => ensure_mode(&File::open(dir)?, DIR_MODE),
    }
}

/// Makes a folder, durably and for its owner alone, where there is none, and those that it lies in.
///
/// # Errors
/// If it cannot be made.
pub fn make(dir: &Path) -> Result<()> {
    let missing = missing_folders(dir);
    for dir in missing.iter().rev() {
        make_private(dir).map_err(Error::io("create the folder", dir))?;
    }
    missing.into_iter().try_for_each(sync_parent)
}

/// A folder and those that it lies in, as far as they are not there; the innermost first.
/// The folders of a path that are not there, the outermost first.
pub fn missing_folders(dir: &Path) -> Vec<&Path> {
    dir.ancestors()
        .take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists())
        .collect()
}

/// Removes a folder with all that is in it, where there is one. A symbolic link in its place is removed, and not what it
/// points to.
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

/// What is left of a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// It is gone.
    Nothing,
    /// It has files that are not ours.
    Others,
}

/// Removes the files of a folder that are ours by their names, the folders of days among them, and the folder if it is empty
/// then. Symbolic links are not followed.
///
/// # Errors
/// If something of ours cannot be removed.
pub fn remove_ours(dir: &Path, is_ours: fn(&str) -> bool) -> Result<Left> {
    match fs::symlink_metadata(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Left::Nothing),
        found if found.as_ref().is_ok_and(|found| !found.is_dir()) => return Ok(Left::Others),
        found => found.map(drop).map_err(Error::io("look at", dir))?,
    }
    let mut left = Left::Nothing;
    for path in list(dir)? {
        let found = fs::symlink_metadata(&path).map_err(Error::io("look at", &path))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match is_ours(&name) {
            true if found.is_file() => {
                may_fail("remove", &path).map_err(Error::io("remove", &path))?;
                fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            }
            true if found.is_dir() && shape::is_day_folder(&name) => {
                if remove_ours(&path, shape::is_segment)? == Left::Others {
                    left = Left::Others;
                }
            }
            _ => left = Left::Others,
        }
    }
    if left == Left::Nothing {
        fs::remove_dir(dir).map_err(Error::io("remove", dir))?;
    }
    Ok(left)
}

/// Whether there is a file of that name; a symbolic link or anything else is none.
///
/// # Errors
/// If it cannot be looked at.
pub fn is_file(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        found => Ok(found.map_err(Error::io("look at", path))?.is_file()),
    }
}

/// Whether a small file has a checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IsChecked {
    /// It has one, which is right.
    Yes,
    /// An earlier version wrote it.
    No,
}

/// The value in a small JSON file; none if there is no such file.
///
/// # Errors
/// If it cannot be read, and [`Error::Damaged`] if it is not what was written. A file with a checksum is never taken for one
/// that an earlier version wrote, wherever it is damaged: it has another shape than any value.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<(T, IsChecked)>> {
    let damaged = |message: String| Error::Damaged {
        file: path.to_owned(),
        message,
    };
    let text = match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(Error::io("read", path))?,
    };
    let (json, is_checked) = match checksum::unwrap(&text) {
        Ok(json) => (json, IsChecked::Yes),
        Err(Mismatch::Missing) => (text.as_slice(), IsChecked::No),
        Err(Mismatch::Wrong) => {
            return Err(damaged("its checksum does not match; restore it".into()));
        }
    };
    let value = serde_json::from_slice(json)
        .map_err(|error| damaged(format!("it is not what was written ({error}); restore it")))?;
    Ok(Some((value, is_checked)))
}

/// Checks a small JSON file, whatever its value is; there need not be one.
///
/// # Errors
/// As [`read_json`].
pub fn check_json(path: &Path) -> Result<()> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        read => read.map_err(Error::io("read", path))?,
    };
    match checksum::check_file(&text) {
        LineCheck::Damaged(why) => Err(Error::Damaged {
            file: path.to_owned(),
            message: format!("{why}; restore it"),
        }),
        LineCheck::Right | LineCheck::Unchecked => Ok(()),
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
    may_fail("remove", path).map_err(Error::io("remove", path))?;
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
    may_fail("sync", dir).map_err(Error::io("sync the folder", dir))?;
    File::open(dir)
        .and_then(|folder| folder.sync_all())
        .map_err(Error::io("sync the folder", dir))
}
