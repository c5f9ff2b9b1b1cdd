//! The folder or bucket that backups are in: one pool of files that all of them share, a list for
//! each backup, and a mark. A file of the pool has its complete content from the moment that it has
//! its name, and is never changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::list::{BackupList, LISTS_DIR, ListedFile, MARK_FILE, POOL_DIR, TargetMark, is_list};
use crate::checksum::Summing;
use crate::error::{Error, ErrorCode, Result};
use crate::export::destination::{Destination, Readers};
use crate::store::capture::{CapturedFile, Growth};
use crate::store::files;
use crate::store::folder::make_data_folder;

/// The folder of unfinished files, in a folder of backups.
const TEMP_DIR: &str = ".echopilot-tmp";
/// Bytes copied at a time.
const BLOCK_BYTES: usize = 1 << 20;
/// Files that are copied at once: each waits for the disk or the network most of the time.
const FOLDER_WORKERS: usize = 2;
const BUCKET_WORKERS: usize = 8;

/// A folder or bucket of backups.
#[derive(Debug)]
pub struct Target {
    to: Destination,
    /// Locks a folder until the value is dropped.
    _lock: Option<File>,
    mark: Option<TargetMark>,
    /// Folders with new names, which are not durable yet.
    unsynced: Mutex<BTreeSet<PathBuf>>,
    temp_number: AtomicU64,
}

/// The way in which the content of a file came into the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// As another name of the same file.
    Linked,
    /// As a copy.
    Copied,
}

impl Target {
    /// Opens a folder or bucket for a new backup of a data folder; a missing folder is created.
    ///
    /// # Errors
    /// `bad_target` if the address is wrong, if it has files and no backups, or if it is in the
    /// data folder; [`Error::Held`] if another backup is being written to it.
    pub fn open_to_write(to: &str, data_dir: &Path) -> Result<Self> {
        let to = Destination::open(to, PathBuf::new(), Readers::Owner)?;
        let lock = match &to {
            Destination::Bucket(_) => None,
            Destination::Folder(root) => {
                check_apart(&root.path, data_dir)?;
                if !root.path.exists() {
                    make_data_folder(&root.path)?;
                }
                let lock = File::open(&root.path).map_err(Error::io("open", &root.path))?;
                check_lock(lock.try_lock(), &root.path)?;
                Some(lock)
            }
        };
        let target = Self::of(to, lock)?;
        if target.mark.is_some() {
            target.clear_temp()?;
        }
        let is_other = |name: &&String| !name.starts_with(TEMP_DIR);
        if target.mark.is_none()
            && let Some(first) = target.to.list("")?.keys().find(is_other)
        {
            let message = format!(
                "{} is not empty and has no backups: it has {first}; nothing was changed. Choose another folder",
                target.to.shown("")
            );
            return Err(Error::bad_input(ErrorCode::BadTarget, message));
        }
        Ok(target)
    }

    /// Opens a folder or bucket to restore a backup from it.
    ///
    /// # Errors
    /// `no_backup` if there is none, and [`Error::Held`] while one is being written.
    pub fn open_to_read(from: &str) -> Result<Self> {
        let from = Destination::open(from, PathBuf::new(), Readers::Owner)?;
        let lock = match &from {
            Destination::Folder(root) if root.path.is_dir() => {
                let lock = File::open(&root.path).map_err(Error::io("open", &root.path))?;
                // A file system without locks has no backup in progress that needs one.
                if let Err(TryLockError::WouldBlock) = lock.try_lock_shared() {
                    check_lock(Err(TryLockError::WouldBlock), &root.path)?;
                }
                Some(lock)
            }
            _ => None,
        };
        let target = Self::of(from, lock)?;
        match target.mark {
            Some(_) => Ok(target),
            None => Err(target.no_backup()),
        }
    }

    fn of(to: Destination, lock: Option<File>) -> Result<Self> {
        let mark = to.read(MARK_FILE)?;
        let mark = mark.map(|content| TargetMark::decode(&content, &to.shown(MARK_FILE)));
        Ok(Self {
            mark: mark.transpose()?,
            to,
            _lock: lock,
            unsynced: Mutex::default(),
            temp_number: AtomicU64::new(0),
        })
    }

    /// The error for a place without backups.
    pub fn no_backup(&self) -> Error {
        let place = self.to.shown("");
        let message = format!("there is no backup in {}", place.trim_end_matches('/'));
        Error::bad_input(ErrorCode::NoBackup, message)
    }

    /// Marks the place as one of backups of this store.
    ///
    /// # Errors
    /// `bad_target` if it has backups of another store.
    pub fn mark(&mut self, store: Option<&str>) -> Result<()> {
        let found = self.mark.as_ref().and_then(|mark| mark.store.as_deref());
        if let (Some(found), Some(store)) = (found, store)
            && found != store
        {
            let message = format!(
                "{} has backups of another store; nothing was changed. Choose another folder",
                self.to.shown("")
            );
            return Err(Error::bad_input(ErrorCode::BadTarget, message));
        }
        if self.mark.is_none() || found.is_none() && store.is_some() {
            let mark = TargetMark::new(store.map(str::to_owned));
            self.write(MARK_FILE, &mark.encode())?;
            self.sync()?;
            self.mark = Some(mark);
        }
        Ok(())
    }

    /// Threads that copy files.
    pub fn workers(&self) -> usize {
        match self.to {
            Destination::Folder(_) => FOLDER_WORKERS,
            Destination::Bucket(_) => BUCKET_WORKERS,
        }
    }

    /// The path or address of a file, for messages.
    pub fn shown(&self, name: &str) -> String {
        self.to.shown(name)
    }

    /// The files of the pool, with their sizes.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub fn pool(&self) -> Result<BTreeMap<String, u64>> {
        self.to.list(POOL_DIR)
    }

    /// The names of the lists, the oldest first.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub fn lists(&self) -> Result<Vec<String>> {
        let names = self.to.list(LISTS_DIR)?.into_keys();
        Ok(names.filter(|name| is_list(name)).collect())
    }

    /// Reads a list.
    ///
    /// # Errors
    /// As [`BackupList::decode`], and `no_backup` if it does not exist.
    pub fn read_list(&self, name: &str) -> Result<BackupList> {
        match self.to.read(name)? {
            Some(content) => BackupList::decode(&content, &self.to.shown(name)),
            None => Err(self.no_backup()),
        }
    }

    /// Writes a small file atomically; it is durable after [`Target::sync`].
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        match &self.to {
            Destination::Folder(root) => self.publish(&root.path.join(name), |temp| {
                files::write_synced(temp, content)
            }),
            Destination::Bucket(bucket) => bucket.upload_from(content, Path::new(name), name),
        }
    }

    /// Adds a file to the pool: as a link to the same file if it is immutable and on the same file
    /// system, else as a copy.
    ///
    /// # Errors
    /// [`Error::Damaged`] if its content is not the listed one; then it is not in the pool.
    pub fn put(&self, file: &CapturedFile, open: &File, listed: &ListedFile) -> Result<Put> {
        let name = listed.pool_name();
        let content = Beginning::of(open, listed.bytes);
        match &self.to {
            Destination::Folder(root) => {
                let path = root.path.join(name);
                if file.growth == Growth::Immutable && self.link(file, open, &path)? {
                    return Ok(Put::Linked);
                }
                self.publish(&path, |temp| {
                    let mut out = Summing::new(files::create(temp)?);
                    copy(content, file.on_disk(), &mut out, temp)?;
                    check(file, listed, out.bytes, out.checksum)?;
                    let synced = out.inner_mut().sync_all();
                    synced.map_err(Error::io("sync", temp))
                })?;
            }
            Destination::Bucket(bucket) => {
                let mut read = SummingReader::new(content);
                bucket.upload_from(&mut read, file.on_disk(), &name)?;
                if let Err(error) = check(file, listed, read.bytes, read.checksum) {
                    self.to.remove(&name)?;
                    return Err(error);
                }
            }
        }
        Ok(Put::Copied)
    }

    /// Gives an immutable file a second name. False if that is not possible, or if its own name is
    /// gone.
    fn link(&self, file: &CapturedFile, open: &File, path: &Path) -> Result<bool> {
        self.make_parent(path)?;
        // Left by an interrupted backup, with another length.
        remove_if_there(path)?;
        if std::fs::hard_link(file.on_disk(), path).is_err() {
            return Ok(false);
        }
        let id = |found: &std::fs::Metadata| (found.dev(), found.ino());
        let linked = std::fs::symlink_metadata(path).map_err(Error::io("inspect", path))?;
        let open = open.metadata().map_err(Error::io("inspect", path))?;
        if id(&linked) == id(&open) && linked.len() == file.bytes {
            return Ok(true);
        }
        remove_if_there(path)?;
        Ok(false)
    }

    /// Writes a file of a folder under a temporary name, and renames it.
    fn publish(&self, path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let Destination::Folder(root) = &self.to else {
            return Ok(());
        };
        let dir = root.path.join(TEMP_DIR);
        files::make_private(&dir).map_err(Error::io("create", &dir))?;
        let number = self.temp_number.fetch_add(1, Ordering::Relaxed);
        let temp = dir.join(number.to_string());
        files::or_remove(&temp, || {
            write(&temp)?;
            self.make_parent(path)?;
            std::fs::rename(&temp, path).map_err(Error::io("rename to", path))
        })
    }

    /// Makes the folder of a file, which is synced later.
    fn make_parent(&self, path: &Path) -> Result<()> {
        let Some(parent) = path.parent() else {
            return Ok(());
        };
        files::make(parent)?;
        self.unsynced.lock().insert(parent.to_owned());
        Ok(())
    }

    /// Makes all new names durable.
    ///
    /// # Errors
    /// If a folder cannot be synced.
    pub fn sync(&self) -> Result<()> {
        let unsynced = std::mem::take(&mut *self.unsynced.lock());
        unsynced.iter().try_for_each(|dir| files::sync(dir))
    }

    /// Removes a file.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.to.remove(name)
    }

    /// Removes the folder of unfinished files, and the empty folders of days.
    ///
    /// # Errors
    /// If they cannot be removed.
    pub fn tidy(&self) -> Result<()> {
        self.clear_temp()?;
        self.to.remove_empty(&format!("{POOL_DIR}/events"))
    }

    fn clear_temp(&self) -> Result<()> {
        match &self.to {
            Destination::Folder(root) => files::remove_all(&root.path.join(TEMP_DIR)),
            Destination::Bucket(_) => Ok(()),
        }
    }

    /// Copies a file of the pool to a writer.
    ///
    /// # Errors
    /// If it cannot be read, and the first error of the writer.
    pub fn fetch(&self, name: &str, to: &mut dyn Write, shown: &Path) -> Result<()> {
        match &self.to {
            Destination::Folder(root) => {
                let path = root.path.join(name);
                copy(files::open(&path)?, &path, to, shown)
            }
            Destination::Bucket(bucket) => bucket.download(name, to, shown),
        }
    }
}

fn remove_if_there(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Checks that backups and data folder are not in each other.
fn check_apart(target: &Path, data_dir: &Path) -> Result<()> {
    let (target, data_dir) = (files::resolve(target)?, files::resolve(data_dir)?);
    if target.starts_with(&data_dir) || data_dir.starts_with(&target) {
        let message = format!(
            "{} and the data folder {} are in each other; choose another folder",
            target.display(),
            data_dir.display()
        );
        return Err(Error::bad_input(ErrorCode::BadTarget, message));
    }
    Ok(())
}

fn check_lock(locked: std::result::Result<(), TryLockError>, path: &Path) -> Result<()> {
    match locked {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let message = format!(
                "another backup or restore uses {}; wait until it has ended",
                path.display()
            );
            Err(Error::bad_input(ErrorCode::TargetInUse, message))
        }
        Err(TryLockError::Error(cause)) => Err(Error::io("lock", path)(cause)),
    }
}

/// Checks what was read of a file.
fn check(file: &CapturedFile, listed: &ListedFile, bytes: u64, crc32c: u32) -> Result<()> {
    if (bytes, crc32c) == (listed.bytes, listed.crc32c) {
        return Ok(());
    }
    Err(Error::Damaged {
        file: file.on_disk().to_owned(),
        message: format!(
            "it has {bytes} bytes with the checksum {crc32c:08x}, and was written with {} bytes with {:08x}",
            listed.bytes, listed.crc32c
        ),
    })
}

/// Copies everything; errors of reading name one path, those of writing the other.
fn copy(
    mut from: impl Read,
    read: &Path,
    to: &mut (impl Write + ?Sized),
    written: &Path,
) -> Result<()> {
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        let length = from.read(&mut block).map_err(Error::io("read", read))?;
        match block.get(..length) {
            None | Some([]) => return Ok(()),
            Some(bytes) => to.write_all(bytes).map_err(Error::io("write", written))?,
        }
    }
}

/// CRC-32C of the first bytes of a file.
///
/// # Errors
/// If they cannot be read.
pub fn checksum_of(file: &File, bytes: u64, path: &Path) -> Result<(u64, u32)> {
    let mut sum = Summing::new(std::io::sink());
    copy(Beginning::of(file, bytes), path, &mut sum, path)?;
    Ok((sum.bytes, sum.checksum))
}

/// Reads the first bytes of a file, whatever its position is.
struct Beginning<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl<'a> Beginning<'a> {
    fn of(file: &'a File, bytes: u64) -> Self {
        Self {
            file,
            at: 0,
            end: bytes,
        }
    }
}

impl Read for Beginning<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        let read = match buffer.get_mut(..length) {
            Some(buffer) => self.file.read_at(buffer, self.at)?,
            None => 0,
        };
        self.at += read as u64;
        Ok(read)
    }
}

/// A reader that computes the checksum of what it reads.
struct SummingReader<R> {
    inner: R,
    bytes: u64,
    checksum: u32,
}

impl<R> SummingReader<R> {
    fn new(inner: R) -> Self {
        Self {
            inner,
            bytes: 0,
            checksum: 0,
        }
    }
}

impl<R: Read> Read for SummingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let bytes = buffer.get(..read).unwrap_or_default();
        self.checksum = crc32c::crc32c_append(self.checksum, bytes);
        self.bytes += read as u64;
        Ok(read)
    }
}
