//! Checks that the open log and the open data folder still have their names. Another program, such
//! as `logrotate`, may move, remove, replace or truncate them. Events would then be written to a
//! file that no start reads, so that none may be acknowledged any more.

use std::fs::{File, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::{Error, Result};

/// The reason that clients get. The trace has the path.
pub const DISPLACED: &str = "the event log was moved, removed or truncated by another program; put it back under its name and \
                             restart the server";
/// The reason that clients get if the folder is displaced.
const FOLDER_DISPLACED: &str = "the data folder was moved, removed or replaced by another program; put it back under its name \
                                and restart the server";

/// True if this is why writing stopped, rather than a failed write.
pub fn is_displaced(reason: &str) -> bool {
    [DISPLACED, FOLDER_DISPLACED].contains(&reason)
}

/// Checks that the log under its name is the open one, and has everything that was written.
///
/// # Errors
/// A sentence about the difference.
pub fn check_log(open: &File, path: &Path, written: u64) -> Result<(), String> {
    let shown = path.display();
    let named = match Named::of(std::fs::symlink_metadata(path)) {
        Named::Missing => return Err(format!("{shown} is gone")),
        Named::Unknown => return Ok(()),
        Named::Found(named) => named,
    };
    let Ok(open) = open.metadata() else {
        return Ok(());
    };
    if !is_same(&named, &open) {
        Err(format!("{shown} is another file now"))
    } else if open.len() < written {
        let found = open.len();
        Err(format!(
            "{shown} has {found} bytes, and {written} were written"
        ))
    } else {
        Ok(())
    }
}

/// Checks that the folder under its name is the open one.
///
/// # Errors
/// [`Error::Poisoned`] if it is not.
pub fn check_folder(open: &File, path: &Path) -> Result<()> {
    // Symbolic links are followed: the data folder may be given as one.
    let is_in_place = match (Named::of(std::fs::metadata(path)), open.metadata()) {
        (Named::Missing, _) => false,
        (Named::Found(named), Ok(open)) => is_same(&named, &open),
        _ => true,
    };
    if is_in_place {
        Ok(())
    } else {
        Err(Error::Poisoned(FOLDER_DISPLACED.into()))
    }
}

/// The file or folder that has a name.
enum Named {
    Found(Metadata),
    Missing,
    /// It cannot be inspected now, which proves nothing.
    Unknown,
}

impl Named {
    fn of(found: std::io::Result<Metadata>) -> Self {
        match found.map_err(|error| error.kind()) {
            Ok(found) => Self::Found(found),
            Err(ErrorKind::NotFound | ErrorKind::NotADirectory) => Self::Missing,
            Err(_) => Self::Unknown,
        }
    }
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_replaced_or_truncated_log_is_reported() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("log");
        std::fs::write(&path, "12345")?;
        let open = File::open(&path)?;
        assert_eq!(check_log(&open, &path, 5), Ok(()));
        assert!(check_log(&open, &path, 6).is_err_and(|found| found.contains("5 bytes")));
        let moved = dir.path().join("moved");
        std::fs::rename(&path, &moved)?;
        assert!(check_log(&open, &path, 5).is_err_and(|found| found.contains("gone")));
        std::os::unix::fs::symlink(&moved, &path)?;
        assert!(check_log(&open, &path, 5).is_err_and(|found| found.contains("another")));
        std::fs::remove_file(&path)?;
        std::fs::copy(&moved, &path)?;
        assert!(check_log(&open, &path, 5).is_err_and(|found| found.contains("another")));
        std::fs::rename(&moved, &path)?;
        assert_eq!(check_log(&open, &path, 5), Ok(()));
        Ok(())
    }

    #[test]
    fn a_moved_or_replaced_folder_is_reported() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let [path, moved] = ["data", "moved"].map(|name| dir.path().join(name));
        std::fs::create_dir(&path)?;
        let open = File::open(&path)?;
        let is_displaced = || match check_folder(&open, &path) {
            Err(Error::Poisoned(reason)) => is_displaced(&reason),
            _ => false,
        };
        assert!(!is_displaced());
        std::fs::rename(&path, &moved)?;
        assert!(is_displaced(), "moved");
        std::os::unix::fs::symlink(&moved, &path)?;
        assert!(!is_displaced(), "a link to it");
        std::fs::remove_file(&path)?;
        std::fs::create_dir(&path)?;
        assert!(is_displaced(), "replaced");
        Ok(())
    }
}
