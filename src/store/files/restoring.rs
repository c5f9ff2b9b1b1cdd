//! A folder into which a backup is restored. Until all of it is there, durably, a file marks it as
//! unfinished, and nothing opens it as a data folder. The next restore removes what an interrupted
//! one left.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Component, Path, PathBuf};

use super::folder::make_data_folder;
use super::ownership::{self, RESTORING_FILE};
use crate::checksum::Summing;
use crate::error::{Error, ErrorCode, Result};
use crate::store::files;

/// A folder that is being restored, locked. Unless [`Restoring::finish`] succeeds, everything that
/// was written is removed when it is dropped.
#[derive(Debug)]
pub struct Restoring {
    path: PathBuf,
    lock: File,
    /// The restore created the folder.
    is_new: bool,
    /// Names in the folder that the restore writes.
    names: BTreeSet<String>,
    is_settled: bool,
}

impl Restoring {
    /// Begins to restore files with these paths, and removes what an interrupted restore left.
    ///
    /// # Errors
    /// `not_empty` if the folder has files, [`Error::Held`] if another process uses it, and
    /// [`Error::Damaged`] if a path would leave the folder. Then nothing was changed.
    pub fn begin<'a>(path: &Path, paths: impl Iterator<Item = &'a str>) -> Result<Self> {
        let names = paths.map(first_component).collect::<Result<_>>()?;
        let is_new = !path.exists();
        if is_new {
            make_data_folder(path)?;
        }
        let lock = File::open(path).map_err(Error::io("open", path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Held {
                    folder: path.to_owned(),
                    holder: "another process".into(),
                });
            }
            Err(TryLockError::Error(cause)) => return Err(Error::io("lock", path)(cause)),
        }
        let mut restoring = Self {
            path: path.to_owned(),
            lock,
            is_new,
            names,
            // Nothing is written yet.
            is_settled: true,
        };
        let mark = path.join(RESTORING_FILE);
        if files::is_file(&mark)? {
            let left = fs::read_to_string(&mark).map_err(Error::io("read", &mark))?;
            restoring.remove(left.lines())?;
        }
        if let Some(first) = ownership::first_name(path)? {
            let message = format!(
                "{} is not empty: it has {first}; nothing was changed. Choose a missing or empty folder",
                path.display()
            );
            return Err(Error::bad_input(ErrorCode::NotEmpty, message));
        }
        restoring.is_settled = false;
        let names: Vec<&str> = restoring.names.iter().map(String::as_str).collect();
        files::write_synced(&mark, (names.join("\n") + "\n").as_bytes())?;
        files::sync(path)?;
        Ok(restoring)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file, and syncs its content. `copy` writes the content.
    ///
    /// # Errors
    /// Those of `copy`, and [`Error::Damaged`] if the content has another length or checksum;
    /// `source` is its name in that message.
    pub fn write(
        &self,
        file: &ExpectedFile<'_>,
        source: &str,
        copy: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<()> {
        let path = self.path.join(file.path);
        files::make(path.parent().unwrap_or(&self.path))?;
        let mut out = Summing::new(files::create(&path)?);
        copy(&mut out)?;
        file.check(out.bytes, out.checksum, source)?;
        out.inner_mut().sync_all().map_err(Error::io("sync", &path))
    }

    /// Makes the folder a data folder, durably.
    ///
    /// # Errors
    /// If a folder cannot be synced; then everything is removed.
    pub fn finish(mut self) -> Result<()> {
        for name in &self.names {
            sync_below(&self.path.join(name))?;
        }
        files::sync(&self.path)?;
        // This makes it a data folder.
        files::remove(&self.path.join(RESTORING_FILE))?;
        self.is_settled = true;
        Ok(())
    }

    /// Removes these names from the folder, and then the mark.
    fn remove<'a>(&self, names: impl Iterator<Item = &'a str>) -> Result<()> {
        for name in names {
            let path = self.path.join(first_component(name)?);
            if path.is_dir() {
                files::remove_all(&path)?;
            } else {
                files::remove(&path)?;
            }
        }
        files::sync(&self.path)?;
        files::remove(&self.path.join(RESTORING_FILE))
    }
}

impl Drop for Restoring {
    fn drop(&mut self) {
        if !self.is_settled {
            // What cannot be removed is removed by the next restore.
            let removed = self.remove(self.names.iter().map(String::as_str));
            if removed.is_ok() && self.is_new {
                let _ = fs::remove_dir(&self.path);
            }
        }
        let _ = self.lock.unlock();
    }
}

/// A file that is restored, as the list of a backup describes it.
#[derive(Debug, Clone, Copy)]
pub struct ExpectedFile<'a> {
    /// Path below the data folder.
    pub path: &'a str,
    /// Length.
    pub bytes: u64,
    /// CRC-32C of the content.
    pub crc32c: u32,
}

impl ExpectedFile<'_> {
    /// Checks length and checksum of what was read from `source`.
    ///
    /// # Errors
    /// [`Error::Damaged`] if they differ.
    pub fn check(&self, bytes: u64, crc32c: u32, source: &str) -> Result<()> {
        if (bytes, crc32c) == (self.bytes, self.crc32c) {
            return Ok(());
        }
        Err(Error::Damaged {
            file: source.into(),
            message: format!(
                "it has {bytes} bytes with the checksum {crc32c:08x}, and the backup was written with {} bytes with {:08x}",
                self.bytes, self.crc32c
            ),
        })
    }
}

/// The first component of a path below the data folder.
fn first_component(path: &str) -> Result<String> {
    let is_below = Path::new(path)
        .components()
        .all(|component| matches!(component, Component::Normal(_)));
    let first = path.split('/').next().unwrap_or_default();
    if !is_below || path.contains('\n') || [RESTORING_FILE, ""].contains(&first) {
        return Err(Error::Damaged {
            file: path.into(),
            message: "the list of the backup names it, and it is not a file of a data folder"
                .into(),
        });
    }
    Ok(first.to_owned())
}

/// Syncs a folder and those in it; nothing for a file.
fn sync_below(path: &Path) -> Result<()> {
    if !path.is_dir() {
        return Ok(());
    }
    for inside in files::list(path)? {
        sync_below(&inside)?;
    }
    files::sync(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::files::folder::Folder;

    const FILE: ExpectedFile<'_> = ExpectedFile {
        path: "events/dt=2026-11-26/file",
        bytes: 4,
        crc32c: 0,
    };

    fn begin(path: &Path) -> Result<Restoring> {
        Restoring::begin(path, [FILE.path, "manifest.json"].into_iter())
    }

    fn write(to: &Restoring, content: &[u8]) -> Result<()> {
        let expected = ExpectedFile {
            crc32c: crc32c::crc32c(b"four"),
            ..FILE
        };
        to.write(&expected, "source", |out| {
            out.write_all(content)
                .map_err(Error::io("write", to.path()))
        })
    }

    #[test]
    fn a_folder_does_not_open_until_all_of_it_is_restored() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("data");
        let restoring = begin(&path)?;
        write(&restoring, b"four")?;
        drop(File::open(&path).expect("it is there"));
        assert!(matches!(begin(&path), Err(Error::Held { .. })));
        assert!(
            matches!(ownership::look(&path), Err(Error::BadInput { code, .. }) if code == ErrorCode::UnfinishedRestore)
        );
        assert!(
            write(&restoring, b"five").is_err_and(|error| error.to_string().contains("source"))
        );
        write(&restoring, b"four")?;
        restoring.finish()?;
        let content = fs::read(path.join(FILE.path)).expect("it is there");
        assert_eq!(content, b"four");
        match begin(&path) {
            Err(Error::BadInput { code, .. }) => assert_eq!(code, ErrorCode::NotEmpty),
            other => panic!("{other:?}"),
        }
        assert!(path.join(FILE.path).exists());
        Ok(())
    }

    #[test]
    fn a_failed_restore_leaves_nothing_and_an_interrupted_one_is_removed_by_the_next() -> Result<()>
    {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("data");
        let restoring = begin(&path)?;
        write(&restoring, b"four")?;
        drop(restoring);
        assert!(!path.exists());
        // Killed: neither finished nor dropped.
        let restoring = begin(&path)?;
        write(&restoring, b"four")?;
        restoring.lock.unlock().expect("unlocked");
        std::mem::forget(restoring);
        fs::write(path.join("notes.txt"), "of the user").expect("written");
        assert!(Folder::take(&path, "a test").is_err());
        // Only what the restore wrote is removed.
        assert!(matches!(
            begin(&path),
            Err(Error::BadInput {
                code: ErrorCode::NotEmpty,
                ..
            })
        ));
        assert!(path.join("notes.txt").exists() && !path.join("events").exists());
        fs::remove_file(path.join("notes.txt")).expect("removed");
        begin(&path)?.finish()
    }

    #[test]
    fn paths_that_leave_the_folder_are_rejected() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("data");
        for outside in [
            "../file",
            "/etc/passwd",
            "events/../../x",
            "",
            ".",
            "a\nb",
            RESTORING_FILE,
        ] {
            let begun = Restoring::begin(&path, std::iter::once(outside));
            assert!(matches!(begun, Err(Error::Damaged { .. })), "{outside:?}");
            assert!(!path.exists());
        }
    }
}
