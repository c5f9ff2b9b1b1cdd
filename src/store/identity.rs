//! Whether the log and the data folder that are open are the ones under their names. Another program may move, remove, replace
//! or truncate them, `logrotate` for one: what is written then lies in a file that no start reads back, so that nothing may be
//! answered as stored any more.

use std::fs::{File, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::{Error, Result};

/// What is said to clients. The trace has the path.
pub const DISPLACED: &str = "the event log was moved, removed or truncated by another program; put it back under its name and \
                             restart the server";
/// The same of the folder.
const FOLDER_DISPLACED: &str = "the data folder was moved, removed or replaced by another program; put it back under its name \
                                and restart the server";

/// Whether this is why writing stopped, and not a failed write.
pub fn is_displaced(reason: &str) -> bool {
    [DISPLACED, FOLDER_DISPLACED].contains(&reason)
}

/// Checks that the log under its name is the open one, and holds all that was written.
///
/// # Errors
/// What is there instead.
pub fn check_log(open: &File, path: &Path, written: u64) -> Result<(), String> {
    let shown = path.display();
    let Some(named) = named(std::fs::symlink_metadata(path)) else {
        return Err(format!("{shown} is gone"));
    };
    let (Some(named), Ok(open)) = (named, open.metadata()) else {
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
    // Its own name may be a symbolic link.
    let is_in_place = match (named(std::fs::metadata(path)), open.metadata()) {
        (None, _) => false,
        (Some(Some(named)), Ok(open)) => is_same(&named, &open),
        _ => true,
    };
    match is_in_place {
        true => Ok(()),
        false => Err(Error::Poisoned(FOLDER_DISPLACED.into())),
    }
}

/// What has a name: `None` if nothing has it, and nothing inside if that cannot be told now, which proves nothing.
fn named(found: std::io::Result<Metadata>) -> Option<Option<Metadata>> {
    match found {
        Ok(found) => Some(Some(found)),
        Err(error) => match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => None,
            _ => Some(None),
        },
    }
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_is_gone_replaced_or_shorter_is_not_the_open_one() -> std::io::Result<()> {
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
}
