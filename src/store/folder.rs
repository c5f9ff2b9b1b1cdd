//! The data folder: one holder at a time, its files readable by their owner alone, and replacements that survive a power cut.
//!
//! Whose a folder is, is judged before anything is written (`ownership`). One that cannot be written is read as it is.

use std::fs::{self, File, Permissions, TryLockError};
use std::io::{BufWriter, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::warn;

use super::files::{self, IsChecked, Left, MODE_BITS};
use super::ownership::{self, MARK_FILE, Mark, Owner};
use super::shape::{self, EVENT_LOG_FILE, MANIFEST_FILE, TEMP_DIR};
use crate::checksum;
use crate::error::{Error, Result};

/// Says who holds the folder, for the message that the second process prints. It is not the lock: the lock
/// is on the folder itself, which cannot be deleted from under us, and ends with the process.
const HOLDER_FILE: &str = "holder";
/// Where earlier versions had them.
const OLD_TEMP_DIR: &str = "tmp";
const OTHERS: u32 = 0o077;
const WRITERS: u32 = 0o222;

/// What a data folder is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To change it.
    Change,
    /// To read it. Where it cannot be written it is left as it is.
    Read,
    /// To look at it. It is left as it is.
    Inspect,
}

/// What may be done to a data folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It is this process's to change.
    ReadWrite,
    /// Nothing in it is changed.
    ReadOnly,
}

/// A data folder that no other process changes until the value is dropped.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    lock: File,
    access: Access,
    /// None in a folder of an earlier version that cannot be written.
    mark: Option<Mark>,
}

impl Folder {
    /// Takes the folder, to change it. It is made if it does not exist. `holder` describes this process to others.
    ///
    /// # Errors
    /// As [`Folder::open`].
    pub fn take(path: &Path, holder: &str) -> Result<Self> {
        Self::open(path, holder, Purpose::Change)
    }

    /// Opens the folder, which is made if it does not exist, unless it is only looked at.
    ///
    /// # Errors
    /// [`Error::Held`] if another process has it, `foreign_folder` if it is somebody else's, and if it is to be changed and
    /// cannot be written. Then nothing was changed.
    pub fn open(path: &Path, holder: &str, purpose: Purpose) -> Result<Self> {
        if purpose != Purpose::Inspect && !path.exists() {
            make_data_folder(path)?;
        }
        let lock = File::open(path).map_err(Error::io("open the data folder", path))?;
        let access = match purpose {
            Purpose::Inspect => Access::ReadOnly,
            Purpose::Read | Purpose::Change => access_of(path),
        };
        lock_folder(&lock, path, access)?;
        let owner = ownership::look(path)?;
        let mut folder = Self {
            path: path.to_owned(),
            lock,
            access,
            mark: None,
        };
        match access {
            Access::ReadWrite => folder.begin(owner, holder)?,
            Access::ReadOnly if purpose == Purpose::Change => return Err(read_only(path)),
            Access::ReadOnly => {
                if let Owner::Marked(mark) = owner {
                    folder.mark = Some(mark);
                }
                if purpose == Purpose::Read {
                    warn!(
                        "The data folder {} cannot be written; it is read as it is",
                        path.display()
                    );
                }
            }
        }
        Ok(folder)
    }

    /// Makes the folder ready to be changed.
    fn begin(&mut self, owner: Owner, holder: &str) -> Result<()> {
        ownership::check_places(&self.path)?;
        ownership::report_strangers(&self.path)?;
        self.make_private();
        self.describe_holder(holder);
        self.clear_temp()?;
        let is_earlier = matches!(owner, Owner::Unmarked);
        self.mark = Some(match owner {
            Owner::Marked(mark) => mark,
            Owner::Unmarked | Owner::Empty => {
                let mark = Mark::new()?;
                match self.replace_json(MARK_FILE, &mark) {
                    // A store on a full disk starts all the same, and gets its mark another time.
                    Err(Error::DiskFull) => {
                        warn!("The data folder gets no mark, because there is no space left");
                    }
                    written => written?,
                }
                mark
            }
        });
        if is_earlier {
            self.clear_old_temp();
        }
        Ok(())
    }

    /// Whether the folder may be changed.
    pub fn access(&self) -> Access {
        self.access
    }

    /// Which store it is; none in a folder of an earlier version that cannot be written.
    pub fn mark(&self) -> Option<&Mark> {
        self.mark.as_ref()
    }

    /// Checks that the folder may be changed, and that the one under its name is the one that is locked.
    ///
    /// # Errors
    /// If it may not, and [`Error::Poisoned`] if another folder has the name, or none.
    pub fn check_writable(&self) -> Result<()> {
        if self.access == Access::ReadOnly {
            return Err(read_only(&self.path));
        }
        self.check_in_place()
    }

    /// Checks that the folder under its name is the one that is locked.
    ///
    /// # Errors
    /// [`Error::Poisoned`] if it is not.
    pub fn check_in_place(&self) -> Result<()> {
        super::identity::check_folder(&self.lock, &self.path)
    }

    /// Changes what a second process is told about this one. On a full disk it is told less.
    pub fn describe_holder(&self, holder: &str) {
        let path = self.path.join(HOLDER_FILE);
        let written = files::create(&path)
            .and_then(|mut file| writeln!(file, "{holder}").map_err(Error::io("write", &path)));
        if let Err(error) = written {
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
        self.check_writable()?;
        let dir = self.path.join(TEMP_DIR);
        files::make_private(&dir).map_err(Error::io("create", &dir))?;
        Ok(dir.join(name))
    }

    /// Puts `content` in place of the file `name`: at every instant, power cut included, the file is whole
    /// and either old or new, and after this it is new.
    ///
    /// # Errors
    /// If any step fails; then the file is the old or the new one, and whole.
    pub fn replace(&self, name: &str, content: &[u8]) -> Result<()> {
        let temp = self.temp(name)?;
        files::write_synced(&temp, content)?;
        files::or_remove(&temp, || files::publish(&temp, &self.path.join(name)))
    }

    /// Puts what `write` writes in place of the file `name`, as [`Folder::replace`] does. It need not be in memory.
    ///
    /// # Errors
    /// Those of `write`, and as [`Folder::replace`].
    pub fn replace_with(
        &self,
        name: &str,
        write: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<()> {
        let temp = self.temp(name)?;
        files::or_remove(&temp, || {
            let file = files::create(&temp)?;
            let mut out = BufWriter::new(&file);
            write(&mut out)?;
            out.flush().map_err(Error::io("write", &temp))?;
            drop(out);
            file.sync_all().map_err(Error::io("sync", &temp))
        })?;
        files::or_remove(&temp, || files::publish(&temp, &self.path.join(name)))
    }

    /// Puts a value, as readable JSON with a checksum, in place of the file `name`, as [`Folder::replace`] does.
    ///
    /// # Errors
    /// As [`Folder::replace`].
    pub fn replace_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        // Writing to memory cannot fail.
        let json = serde_json::to_vec_pretty(value).unwrap_or_default();
        self.replace(name, &checksum::wrap(&json))
    }

    /// The value in the small file `name`; the default if there is no such file. One that an earlier version wrote has no
    /// checksum.
    ///
    /// # Errors
    /// If it cannot be read, and [`Error::Damaged`] if it is not what was written.
    pub fn read_json<T: DeserializeOwned + Default>(&self, name: &str) -> Result<T> {
        Ok(files::read_json(&self.path.join(name))?.map_or_else(T::default, |(value, _)| value))
    }

    /// Gives the small file `name` a checksum if an earlier version wrote it.
    ///
    /// # Errors
    /// As [`Folder::read_json`] and [`Folder::replace`].
    pub fn upgrade_json<T: DeserializeOwned + Serialize>(&self, name: &str) -> Result<()> {
        match files::read_json::<T>(&self.path.join(name))? {
            Some((value, IsChecked::No)) if self.access == Access::ReadWrite => {
                self.replace_json(name, &value)
            }
            _ => Ok(()),
        }
    }

    /// Whether some events would fit on the disk now.
    pub fn has_room(&self) -> bool {
        const PROBE_BYTES: usize = 64 << 10;
        let Ok(probe) = self.temp("probe") else {
            return false;
        };
        let fits = files::create(&probe)
            .is_ok_and(|mut file| file.write_all(&vec![0; PROBE_BYTES]).is_ok());
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
        files::remove_all(&self.path.join(TEMP_DIR))
    }

    /// Removes what an earlier version left unfinished. Its folder has a name that others use too: what is not ours by its
    /// own name stays.
    fn clear_old_temp(&self) {
        let dir = self.path.join(OLD_TEMP_DIR);
        match files::remove_ours(&dir, shape::is_unfinished) {
            Ok(Left::Nothing) => {}
            Ok(Left::Others) => warn!(
                "{} has files that the store did not write; they are left alone",
                dir.display()
            ),
            Err(error) => warn!("Unfinished files of an earlier version are left: {error}"),
        }
    }

    /// Takes the folder, and what of it has a name of ours, from other users if they can read it: an earlier version made it
    /// under the umask. Said once, because from then on it is private.
    fn make_private(&self) {
        let others = |mode: u32| mode & OTHERS;
        let Ok(found) = self.lock.metadata() else {
            return;
        };
        if others(found.mode()) == 0 {
            return;
        }
        let private = Permissions::from_mode(found.mode() & MODE_BITS & !OTHERS);
        if let Err(error) = self.lock.set_permissions(private) {
            warn!(
                "Other users of this machine may read {}, which cannot be changed: {error}",
                self.path.display()
            );
            return;
        }
        let mut changed = 0;
        for name in ownership::FOLDERS
            .iter()
            .chain(&["dash_key"])
            .chain(&ownership::FILES)
        {
            changed += make_tree_private(&self.path.join(name));
        }
        for path in files::list(&self.path).unwrap_or_default() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if shape::is_dictionary(&name) {
                changed += make_tree_private(&path);
            }
        }
        if changed > 0 {
            warn!(
                files = changed,
                "Other users of this machine could read {}; now its owner alone can",
                self.path.display()
            );
        }
    }
}

/// Takes a file, or a folder with all in it, from other users. Returns how many were changed; symbolic links are not followed.
fn make_tree_private(path: &Path) -> usize {
    let Ok(found) = fs::symlink_metadata(path) else {
        return 0;
    };
    if !found.is_file() && !found.is_dir() {
        return 0;
    }
    let mut changed = 0;
    if found.mode() & OTHERS != 0 {
        let private = Permissions::from_mode(found.mode() & MODE_BITS & !OTHERS);
        // One that is not ours to change is in a folder that nobody else can enter.
        changed += usize::from(fs::set_permissions(path, private).is_ok());
    }
    if found.is_dir() {
        let inside = files::list(path).unwrap_or_default();
        changed += inside
            .iter()
            .map(|path| make_tree_private(path))
            .sum::<usize>();
    }
    changed
}

/// Makes the data folder, durably, for its owner alone; those that it lies in are not ours and have their usual modes.
fn make_data_folder(path: &Path) -> Result<()> {
    let missing = files::missing_folders(path);
    missing
        .get(1)
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| files::make_private(path))
        .map_err(Error::io("create the data folder", path))?;
    missing.into_iter().try_for_each(files::sync_parent)
}

fn lock_folder(lock: &File, path: &Path, access: Access) -> Result<()> {
    let locked = match access {
        Access::ReadWrite => lock.try_lock(),
        // Several may read it, while nobody changes it.
        Access::ReadOnly => lock.try_lock_shared(),
    };
    match locked {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let holder = fs::read_to_string(path.join(HOLDER_FILE)).unwrap_or_default();
            Err(Error::Held {
                folder: path.to_owned(),
                holder: match holder.trim() {
                    "" => "another process".into(),
                    holder => holder.into(),
                },
            })
        }
        // A file system without locks, where nobody can have it to change it.
        Err(TryLockError::Error(_)) if access == Access::ReadOnly => Ok(()),
        Err(TryLockError::Error(source)) => Err(Error::io("lock the data folder", path)(source)),
    }
}

/// Whether the data folder at this path may be changed: by its file system, its mode and that of its log and manifest. Root
/// could write where the mode lets nobody; it is not meant to.
pub fn access_of(path: &Path) -> Access {
    let is_writable = |path: &Path| {
        let mode = fs::metadata(path).map(|found| found.mode());
        mode.is_ok_and(|mode| mode & WRITERS != 0)
            && rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
    };
    let files = [MANIFEST_FILE, EVENT_LOG_FILE].map(|name| path.join(name));
    let mut files = files.iter().filter(|path| path.exists());
    match is_writable(path) && files.all(|path| is_writable(path)) {
        true => Access::ReadWrite,
        false => Access::ReadOnly,
    }
}

fn read_only(path: &Path) -> Error {
    Error::io("change", path)(std::io::Error::new(
        std::io::ErrorKind::ReadOnlyFilesystem,
        "this data folder cannot be written; usage, query, export, user access, cohort list and verify work on it as it is, \
         anything else on a copy of it",
    ))
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Closing the file would not free the folder while a child process, just forked, has it open too.
        let _ = self.lock.unlock();
    }
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
