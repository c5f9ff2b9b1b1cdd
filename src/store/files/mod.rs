//! Files and folders on disk: created with access for their owner only, and changed so that a power
//! cut leaves either the old or the new state.

pub mod audit;
pub(in crate::store) mod columns;
pub(in crate::store) mod day_folder;
pub(in crate::store) mod dictionary;
pub(in crate::store) mod event_ids;
#[cfg(test)]
pub(crate) mod faults;
pub mod folder;
pub(in crate::store) mod held_file;
pub(in crate::store) mod identity;
pub(in crate::store) mod links;
pub(in crate::store) mod log_kind;
pub(in crate::store) mod mentions;
pub(in crate::store) mod output;
pub(in crate::store) mod ownership;
pub(in crate::store) mod quarantine;
pub(in crate::store) mod recovery;
pub mod restoring;
pub(in crate::store) mod rotation;
pub(in crate::store) mod rows;
pub mod scan;
pub(in crate::store) mod segment;
pub(in crate::store) mod shape;
pub(in crate::store) mod states;

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use polars::prelude::ScanSources;
use rustix::fs::OFlags;
use serde::de::DeserializeOwned;

use crate::checksum::{self, LineCheck, Mismatch};
use crate::dictionary::Mapped;
use crate::error::{Error, Result};

/// Mode of the files of the store, whatever the umask is: only their owner has access.
const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;
/// Bits of a mode that grant access.
pub const MODE_BITS: u32 = 0o777;

/// Called before a change of a file, which tests let fail.
///
/// # Errors
/// If a test makes it fail.
pub fn may_fail(operation: &str, path: &Path) -> std::io::Result<()> {
    #[cfg(test)]
    faults::check(operation, path)?;
    let _ = (operation, path);
    Ok(())
}

/// Renames a finished and synced file to its final name, durably.
///
/// # Errors
/// If the rename or the sync of the folder fails.
pub fn publish(temp: &Path, path: &Path) -> Result<()> {
    may_fail("rename", path).map_err(Error::io("rename to", path))?;
    fs::rename(temp, path).map_err(Error::io("rename to", path))?;
    sync_parent(path)
}

/// Writes a file and syncs its content; its name is durable once its folder is synced.
///
/// # Errors
/// If a step fails; then the file is removed.
pub fn write_synced(path: &Path, content: &[u8]) -> Result<()> {
    or_remove(path, || {
        may_fail("write", path).map_err(Error::io("write", path))?;
        let mut file = create(path)?;
        file.write_all(content).map_err(Error::io("write", path))?;
        file.sync_all().map_err(Error::io("sync", path))
    })
}

/// Works on an unfinished file and removes it if the work fails: the disk may be full, and the file
/// may contain data that is to be erased.
///
/// # Errors
/// The error of the work.
pub fn or_remove<T>(path: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    work().inspect_err(|_| {
        // If it cannot be removed now, the next start removes it.
        let _ = fs::remove_file(path);
    })
}

/// Creates a file, or empties an existing one, with access for its owner only, whatever the umask
/// is. A symbolic link is not followed.
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

/// Opens a file for writing in place, and creates it if it does not exist. A symbolic link is not
/// followed.
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

/// Opens a file for reading. A symbolic link is not followed.
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

/// Sets the mode if it is another one: an unusual umask takes rights from the owner too.
fn ensure_mode(file: &File, mode: u32) -> std::io::Result<()> {
    if file.metadata()?.mode() & MODE_BITS == mode {
        Ok(())
    } else {
        file.set_permissions(Permissions::from_mode(mode))
    }
}

/// Creates a folder with access for its owner only, in an existing folder. An existing folder stays
/// as it is.
///
/// # Errors
/// If it cannot be created.
pub fn make_private(dir: &Path) -> std::io::Result<()> {
    may_fail("make", dir)?;
    match DirBuilder::new().mode(DIR_MODE).create(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(error) => Err(error),
        Ok(()) => ensure_mode(&File::open(dir)?, DIR_MODE),
    }
}

/// Creates a folder and its missing parents, durably and with access for their owner only.
///
/// # Errors
/// If one cannot be created.
pub fn make(dir: &Path) -> Result<()> {
    let missing = missing_folders(dir);
    for dir in missing.iter().rev() {
        make_private(dir).map_err(Error::io("create the folder", dir))?;
    }
    missing.into_iter().try_for_each(sync_parent)
}

/// The folder and its parents, as far as they do not exist; the innermost first.
pub fn missing_folders(dir: &Path) -> Vec<&Path> {
    dir.ancestors()
        .take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists())
        .collect()
}

/// Removes a folder with its content; it need not exist. A symbolic link in its place is removed,
/// and not its target.
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

/// The remains of a folder after [`remove_ours`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// The folder is removed.
    Nothing,
    /// It has files of other programs.
    Others,
}

/// Removes the files and day folders whose names are ours from a folder, and the folder if that
/// leaves it empty. Symbolic links are not followed.
///
/// # Errors
/// If one of our files cannot be removed.
pub fn remove_ours(dir: &Path, is_ours: fn(&str) -> bool) -> Result<Left> {
    match fs::symlink_metadata(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Left::Nothing),
        found if found.as_ref().is_ok_and(|found| !found.is_dir()) => return Ok(Left::Others),
        found => found.map(drop).map_err(Error::io("inspect", dir))?,
    }
    let mut left = Left::Nothing;
    for path in list(dir)? {
        let found = fs::symlink_metadata(&path).map_err(Error::io("inspect", &path))?;
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

/// True if there is a regular file at this path; symbolic links and folders do not count.
///
/// # Errors
/// If its metadata cannot be read.
pub fn is_file(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        found => Ok(found.map_err(Error::io("inspect", path))?.is_file()),
    }
}

/// Tells whether a small file has a checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IsChecked {
    /// It has one, which is right.
    Yes,
    /// An earlier version wrote it, without a checksum.
    No,
}

/// Reads the value of a small JSON file; none if there is no such file.
///
/// # Errors
/// If it cannot be read, and [`Error::Damaged`] if it is not what was written. A damaged file with
/// a checksum never counts as one of an earlier version, because its shape differs from that of any
/// value.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<(T, IsChecked)>> {
    let damaged = |message: String| Error::Damaged {
        file: path.to_owned(),
        message,
    };
    let content = match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(Error::io("read", path))?,
    };
    let (json, is_checked) = match checksum::unwrap(&content) {
        Ok(json) => (json, IsChecked::Yes),
        Err(Mismatch::Missing) => (content.as_slice(), IsChecked::No),
        Err(Mismatch::Wrong) => {
            return Err(damaged("its checksum does not match; restore it".into()));
        }
    };
    let value = serde_json::from_slice(json)
        .map_err(|error| damaged(format!("it is not what was written ({error}); restore it")))?;
    Ok(Some((value, is_checked)))
}

/// Checks a small JSON file, whatever the type of its value. The file need not exist.
///
/// # Errors
/// As [`read_json`].
pub fn check_json(path: &Path) -> Result<()> {
    let content = match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        read => read.map_err(Error::io("read", path))?,
    };
    match checksum::check_file(&content) {
        LineCheck::Damaged(why) => Err(Error::Damaged {
            file: path.to_owned(),
            message: format!("{why}; restore it"),
        }),
        LineCheck::Right | LineCheck::Unchecked => Ok(()),
    }
}

/// The absolute path, with the symbolic links of its existing part resolved.
///
/// # Errors
/// If the current folder cannot be found.
pub fn resolve(path: &Path) -> Result<PathBuf> {
    let whole = std::path::absolute(path).map_err(Error::io("find", path))?;
    let mut resolved = PathBuf::new();
    for component in whole.components() {
        match component {
            Component::ParentDir => drop(resolved.pop()),
            component => resolved.push(component),
        }
        // The rest does not exist yet.
        if let Ok(real) = resolved.canonicalize() {
            resolved = real;
        }
    }
    Ok(resolved)
}

/// Maps a file into memory. It must not shrink meanwhile.
///
/// # Errors
/// If it cannot be opened or mapped.
pub fn map(path: &Path) -> Result<Mapped> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    // Polars maps files that it reads in this way, which needs no unsafe code here.
    let files = ScanSources::Files(Arc::new([file]));
    let mapped = files.first().map(|file| file.to_memslice()).transpose()?;
    Ok(mapped.map_or_else(|| Arc::new([]) as Mapped, |mapped| Arc::new(mapped)))
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

/// Removes a file, durably: without the sync of its folder a power cut would bring it back.
///
/// # Errors
/// If it cannot be removed; a missing file is not an error.
pub fn remove(path: &Path) -> Result<()> {
    may_fail("remove", path).map_err(Error::io("remove", path))?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", path)(error))
        }
        _ => sync_parent(path),
    }
}

/// Syncs the folder of `path`, which makes the names in it durable.
///
/// # Errors
/// If the folder cannot be synced.
pub fn sync_parent(path: &Path) -> Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    sync(parent.unwrap_or(Path::new(".")))
}

/// Syncs a folder, which makes the names in it durable.
///
/// # Errors
/// If it cannot be synced.
pub fn sync(dir: &Path) -> Result<()> {
    may_fail("sync", dir).map_err(Error::io("sync the folder", dir))?;
    File::open(dir)
        .and_then(|folder| folder.sync_all())
        .map_err(Error::io("sync the folder", dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    fn write(path: PathBuf) {
        fs::create_dir_all(path.parent().expect("a folder")).expect("created");
        fs::write(path, "content").expect("written");
    }

    #[test]
    fn only_files_with_our_names_are_removed() -> Result<()> {
        let dir = dir();
        let root = dir.path().join("tmp");
        assert_eq!(remove_ours(&root, shape::is_unfinished)?, Left::Nothing);
        write(root.join("users.ndjson"));
        write(root.join("dt=2026-11-26/00000001-0000.parquet"));
        assert_eq!(remove_ours(&root, shape::is_unfinished)?, Left::Nothing);
        assert!(!root.exists());
        write(root.join("users.ndjson"));
        write(root.join("dt=2026-11-26/notes.txt"));
        write(root.join("other/00000001-0000.parquet"));
        let target = dir.path().join("target");
        write(target.clone());
        std::os::unix::fs::symlink(&target, root.join("users-1.ndjson")).expect("linked");
        assert_eq!(remove_ours(&root, shape::is_unfinished)?, Left::Others);
        assert!(!root.join("users.ndjson").exists());
        for kept in [
            "dt=2026-11-26/notes.txt",
            "other/00000001-0000.parquet",
            "users-1.ndjson",
        ] {
            assert!(root.join(kept).exists(), "{kept}");
        }
        Ok(())
    }

    #[test]
    fn an_unfinished_file_is_removed_when_the_work_fails() {
        let dir = dir();
        let path = dir.path().join("file");
        write(path.clone());
        assert!(or_remove(&path, || Ok(())).is_ok() && path.exists());
        assert!(or_remove(&path, || Err::<(), _>(Error::DiskFull)).is_err());
        assert!(!path.exists());
    }

    #[test]
    fn a_folder_is_created_with_its_missing_parents_for_its_owner_only() -> Result<()> {
        let dir = dir();
        let inner = dir.path().join("a/b/c");
        assert_eq!(missing_folders(&inner).len(), 3);
        make(&inner)?;
        assert!(missing_folders(&inner).is_empty());
        for folder in [&inner, &dir.path().join("a")] {
            let mode = fs::metadata(folder).expect("it exists").mode();
            assert_eq!(mode & MODE_BITS, DIR_MODE, "{}", folder.display());
        }
        make(&inner)
    }

    #[test]
    fn a_small_file_is_read_with_or_without_a_checksum_but_never_damaged() -> Result<()> {
        let dir = dir();
        let path = dir.path().join("file.json");
        assert_eq!(read_json::<Vec<u8>>(&path)?, None);
        check_json(&path)?;
        for (content, expected) in [
            (b"[1,2]".to_vec(), IsChecked::No),
            (checksum::wrap(b"[1,2]"), IsChecked::Yes),
        ] {
            fs::write(&path, &content).expect("written");
            assert_eq!(read_json(&path)?, Some((vec![1_u8, 2], expected)));
            check_json(&path)?;
        }
        let valid = checksum::wrap(b"[1,2]");
        for at in 0..valid.len() {
            let mut damaged = valid.clone();
            damaged[at] ^= 1;
            fs::write(&path, &damaged).expect("written");
            let read = read_json::<Vec<u8>>(&path);
            assert!(matches!(read, Err(Error::Damaged { .. })), "{at}");
            assert!(check_json(&path).is_err(), "{at}");
        }
        Ok(())
    }
}
