//! The data folder: it is locked by one process at a time, its files are readable by their owner
//! only, and files are replaced so that a power cut leaves either the old or the new one.
//!
//! Before anything is written, `ownership` checks that the folder belongs to this program. A
//! read-only folder is read without changing it.

use std::fs::{self, File, Permissions, TryLockError};
use std::io::{BufWriter, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::ownership::{self, MARK_FILE, Mark, Owner};
use super::shape::{self, EVENT_LOG_FILE, MANIFEST_FILE, TEMP_DIR};
use crate::checksum;
use crate::error::{Error, Result};
use crate::store::files::{self, IsChecked, Left, MODE_BITS};

/// Describes the lock owner, for the message of a second process. The lock itself is on the folder,
/// which cannot be deleted while it is open, and ends with the process.
const HOLDER_FILE: &str = "holder";
/// The folder of unfinished files of earlier versions.
const OLD_TEMP_DIR: &str = "tmp";
const OTHERS: u32 = 0o077;
const WRITERS: u32 = 0o222;

/// The address of the server that has a data folder locked, for commands on the same machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerAddress {
    /// Scheme, address, port and base path.
    pub url: String,
    /// Version of the program.
    pub version: String,
    /// The key of the command line, which the server makes at each start. Those who can read it can
    /// read the data folder.
    pub key: String,
}

impl ServerAddress {
    /// The address of the server that has the folder locked. The file stays when a process is
    /// killed: only a folder that is locked has a server.
    pub fn load(folder: &Path) -> Option<Self> {
        let holder = fs::read_to_string(folder.join(HOLDER_FILE)).ok()?;
        serde_json::from_str(holder.lines().nth(1)?).ok()
    }
}

/// The process that has a data folder locked, as it describes itself.
pub fn holder(folder: &Path) -> String {
    let holder = fs::read_to_string(folder.join(HOLDER_FILE)).unwrap_or_default();
    // The second line has the key of the command line.
    match holder.lines().next().unwrap_or_default().trim() {
        "" => "another process".into(),
        holder => holder.into(),
    }
}

/// The purpose for which a data folder is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Change it.
    Change,
    /// Read it. If it can be written, it is recovered and locked as for [`Purpose::Change`].
    Read,
    /// Check it without changing anything.
    Inspect,
}

/// The access of this process to a data folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It may change the folder, and no other process may.
    ReadWrite,
    /// It changes nothing.
    ReadOnly,
}

/// A data folder that no other process changes until the value is dropped.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    lock: File,
    access: Access,
    /// `None` for a read-only folder of an earlier version.
    mark: Option<Mark>,
}

impl Folder {
    /// Opens the folder for [`Purpose::Change`], and creates it if it does not exist. `holder`
    /// describes this process in the error messages of others.
    ///
    /// # Errors
    /// As [`Folder::open`].
    pub fn take(path: &Path, holder: &str) -> Result<Self> {
        Self::open(path, holder, Purpose::Change)
    }

    /// Opens and locks the folder. Unless it is only inspected, it is created if it does not exist.
    ///
    /// # Errors
    /// [`Error::Held`] if another process has locked it, `foreign_folder` if it belongs to another
    /// program, and if it should be changed and is read-only. Then nothing was changed.
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
                        "The data folder {} is read-only; it is read without changing it",
                        path.display()
                    );
                }
            }
        }
        Ok(folder)
    }

    /// Prepares the folder for changes.
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
                    // A store on a full disk starts nevertheless, and gets its mark at a later
                    // start.
                    Err(Error::DiskFull) => {
                        warn!("There is no space left to mark the data folder as ours");
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

    /// The access of this process.
    pub fn access(&self) -> Access {
        self.access
    }

    /// The mark, which identifies the store; `None` for a read-only folder of an earlier version.
    pub fn mark(&self) -> Option<&Mark> {
        self.mark.as_ref()
    }

    /// Checks that the folder may be changed, and that it still has its name.
    ///
    /// # Errors
    /// If it is read-only, and [`Error::Poisoned`] if another folder or none has its name.
    pub fn check_writable(&self) -> Result<()> {
        if self.access == Access::ReadOnly {
            return Err(read_only(&self.path));
        }
        self.check_in_place()
    }

    /// Checks that the locked folder still has its name.
    ///
    /// # Errors
    /// [`Error::Poisoned`] if another folder or none has it.
    pub fn check_in_place(&self) -> Result<()> {
        super::identity::check_folder(&self.lock, &self.path)
    }

    /// Changes the description of this process for others. On a full disk the old one may be lost.
    fn describe_holder(&self, holder: &str) {
        let path = self.path.join(HOLDER_FILE);
        let written = files::create(&path)
            .and_then(|mut file| writeln!(file, "{holder}").map_err(Error::io("write", &path)));
        if let Err(error) = written {
            warn!("Other processes cannot see who uses the data folder: {error}");
        }
    }

    /// Changes the description of this process, a server, so that commands can send it requests.
    pub fn describe_server(&self, holder: &str, server: &ServerAddress) {
        // A value of strings always serializes.
        let address = serde_json::to_string(server).unwrap_or_default();
        self.describe_holder(&format!("{holder}\n{address}"));
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path for an unfinished file, in a folder for these.
    ///
    /// # Errors
    /// If that folder cannot be created.
    pub fn temp(&self, name: &str) -> Result<PathBuf> {
        self.check_writable()?;
        let dir = self.path.join(TEMP_DIR);
        files::make_private(&dir).map_err(Error::io("create", &dir))?;
        Ok(dir.join(name))
    }

    /// Replaces the file `name` atomically and durably: at every moment, also after a power cut, it
    /// has either the old or the new content, and after this call the new one.
    ///
    /// # Errors
    /// If a step fails; then the file has either the old or the new content.
    pub fn replace(&self, name: &str, content: &[u8]) -> Result<()> {
        let temp = self.temp(name)?;
        files::write_synced(&temp, content)?;
        files::or_remove(&temp, || files::publish(&temp, &self.path.join(name)))
    }

    /// Replaces the file `name` as [`Folder::replace`] does, by content that `write` writes piece
    /// by piece.
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

    /// Replaces the small file `name` as [`Folder::replace`] does, by a value as indented JSON with
    /// a checksum.
    ///
    /// # Errors
    /// As [`Folder::replace`].
    pub fn replace_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        // Writing to memory cannot fail, and no value has a map whose keys are not strings.
        let json = serde_json::to_vec_pretty(value).unwrap_or_default();
        self.replace(name, &checksum::wrap(&json))
    }

    /// The value of the small file `name`; the default if there is no such file. A file of an
    /// earlier version has no checksum.
    ///
    /// # Errors
    /// If it cannot be read, and [`Error::Damaged`] if it is not what was written.
    pub fn read_json<T: DeserializeOwned + Default>(&self, name: &str) -> Result<T> {
        Ok(files::read_json(&self.path.join(name))?.map_or_else(T::default, |(value, _)| value))
    }

    /// Adds a checksum to the small file `name` if an earlier version wrote it without one.
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

    /// True if a small file fits on the disk now; it writes one to find out.
    pub fn has_space(&self) -> bool {
        const PROBE_BYTES: usize = 64 << 10;
        let Ok(probe) = self.temp("probe") else {
            return false;
        };
        let fits = files::create(&probe)
            .is_ok_and(|mut file| file.write_all(&vec![0; PROBE_BYTES]).is_ok());
        // If it cannot be removed now, the next start removes it.
        let _ = fs::remove_file(&probe);
        fits
    }

    /// True if more than so many bytes are free, so that optional files may be written.
    pub fn has_free_bytes(&self, bytes: u64) -> bool {
        self.free_bytes().is_some_and(|free| free > bytes)
    }

    /// Free bytes on the disk, if the file system reports them.
    pub fn free_bytes(&self) -> Option<u64> {
        let found = rustix::fs::statvfs(&self.path).ok()?;
        Some(found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// Removes the unfinished files of an earlier process, which were never published.
    fn clear_temp(&self) -> Result<()> {
        files::remove_all(&self.path.join(TEMP_DIR))
    }

    /// Removes the unfinished files of an earlier version. Other programs also use the name of its
    /// folder: files whose own names are not ours stay.
    fn clear_old_temp(&self) {
        let dir = self.path.join(OLD_TEMP_DIR);
        match files::remove_ours(&dir, shape::is_unfinished) {
            Ok(Left::Nothing) => {}
            Ok(Left::Others) => warn!(
                "{} has files that the store did not write; they are left alone",
                dir.display()
            ),
            Err(error) => warn!("Cannot remove unfinished files of an earlier version: {error}"),
        }
    }

    /// Takes away the access of other users to the folder and to our files in it, which earlier
    /// versions created under the umask. That is traced once, because the folder is private from
    /// then on.
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
                "Other users of this machine may read {}, and its mode cannot be changed: {error}",
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
                "Other users of this machine could read {}; now only its owner can",
                self.path.display()
            );
        }
    }
}

/// Takes away the access of other users to a file, or to a folder with its content. Returns how
/// many were changed; symbolic links are not followed.
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
        // If it cannot be changed, it is still in a folder that only its owner can enter.
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

/// Creates a data folder, or one of backups, durably and with access for its owner only. Missing
/// parents are not ours and get their usual modes.
///
/// # Errors
/// If it cannot be created.
pub fn make_data_folder(path: &Path) -> Result<()> {
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
        // Several processes may read it while none changes it.
        Access::ReadOnly => lock.try_lock_shared(),
    };
    match locked {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(Error::Held {
            folder: path.to_owned(),
            holder: holder(path),
        }),
        // A file system without locks, on which no other process can have opened it for changes.
        Err(TryLockError::Error(_)) if access == Access::ReadOnly => Ok(()),
        Err(TryLockError::Error(source)) => Err(Error::io("lock the data folder", path)(source)),
    }
}

/// Determines whether the data folder at this path may be changed: by its file system, its mode,
/// and the modes of its log and manifest. Root ignores modes; here they count for root too.
pub fn access_of(path: &Path) -> Access {
    let is_writable = |path: &Path| {
        let mode = fs::metadata(path).map(|found| found.mode());
        mode.is_ok_and(|mode| mode & WRITERS != 0)
            && rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
    };
    let files = [MANIFEST_FILE, EVENT_LOG_FILE].map(|name| path.join(name));
    let mut files = files.iter().filter(|path| path.exists());
    if is_writable(path) && files.all(|path| is_writable(path)) {
        Access::ReadWrite
    } else {
        Access::ReadOnly
    }
}

fn read_only(path: &Path) -> Error {
    Error::io("change", path)(std::io::Error::new(
        std::io::ErrorKind::ReadOnlyFilesystem,
        "the data folder is read-only; usage, query, export, user access, cohort list and verify work on it, \
         anything else on a copy of it",
    ))
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Closing the file would not unlock the folder while a child process, just forked, has it
        // open too.
        let _ = self.lock.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_is_told_who_has_locked_the_folder() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let first = Folder::take(dir.path(), "the first")?;
        match Folder::take(dir.path(), "the second") {
            Err(Error::Held { holder, .. }) => assert_eq!(holder, "the first"),
            other => panic!("{other:?}"),
        }
        drop(first);
        Folder::take(dir.path(), "the second").map(drop)
    }

    #[test]
    fn a_read_only_folder_can_be_read_and_not_changed() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("data");
        Folder::take(&path, "a test").map(drop)?;
        assert_eq!(access_of(&path), Access::ReadWrite);
        let set_mode = |mode| fs::set_permissions(&path, Permissions::from_mode(mode));
        set_mode(0o500).expect("the mode of a folder of ours");
        assert_eq!(access_of(&path), Access::ReadOnly);
        assert!(Folder::take(&path, "a test").is_err());
        let read = Folder::open(&path, "a test", Purpose::Read)?;
        assert_eq!(read.access(), Access::ReadOnly);
        assert!(read.mark().is_some());
        assert!(read.replace("cohorts.json", b"[]").is_err());
        set_mode(0o700).expect("the mode of a folder of ours");
        Ok(())
    }

    #[test]
    fn a_replaced_file_is_complete_private_and_leaves_no_unfinished_one() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let folder = Folder::take(dir.path(), "a test")?;
        folder.replace_json("cohorts.json", &vec!["a"])?;
        assert_eq!(folder.read_json::<Vec<String>>("cohorts.json")?, ["a"]);
        let failed = folder.replace_with("cohorts.json", |out| {
            out.write_all(b"half")
                .map_err(Error::io("write", dir.path()))?;
            Err(Error::DiskFull)
        });
        assert!(matches!(failed, Err(Error::DiskFull)));
        assert_eq!(folder.read_json::<Vec<String>>("cohorts.json")?, ["a"]);
        assert!(files::list(&dir.path().join(TEMP_DIR))?.is_empty());
        let mode = fs::metadata(dir.path().join("cohorts.json")).map(|found| found.mode());
        assert_eq!(mode.expect("it is there") & MODE_BITS, 0o600);
        // A file of an earlier version gets a checksum.
        folder.replace("cohorts.json", b"[\"b\"]")?;
        folder.upgrade_json::<Vec<String>>("cohorts.json")?;
        let content = fs::read(dir.path().join("cohorts.json")).expect("it is there");
        assert!(checksum::unwrap(&content).is_ok());
        assert_eq!(folder.read_json::<Vec<String>>("cohorts.json")?, ["b"]);
        Ok(())
    }
}
