//! The file of the audit log: lines of JSON with a checksum, appended durably. A full file becomes
//! the old one, in the place of the one before.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::Serialize;

use super::folder::{Access, Folder};
use super::quarantine;
use super::shape::{AUDIT_FILE, OLD_AUDIT_FILE};
use crate::checksum::{self, LineCheck};
use crate::error::{Error, Result};
use crate::event::lines;
use crate::store::files;

/// Bytes after which a file is full: some 50,000 lines.
const MAX_BYTES: u64 = 16 << 20;
/// Bytes at the end of the file in which its last newline is searched. The longest line names
/// 10,000 users.
const TAIL_BYTES: u64 = 1 << 20;

/// Appends entries, each as a line, durably and all or none.
///
/// # Errors
/// If they cannot be written; then the file has none of them.
pub fn append<T: Serialize>(folder: &Folder, entries: &[T]) -> Result<()> {
    append_up_to(folder, entries, MAX_BYTES)
}

fn append_up_to<T: Serialize>(folder: &Folder, entries: &[T], max_bytes: u64) -> Result<()> {
    folder.check_writable()?;
    let mut added = Vec::new();
    for entry in entries {
        checksum::write_line(entry, &mut added);
    }
    let path = folder.path().join(AUDIT_FILE);
    let mut file = files::open_in_place(&path)?;
    let mut length = end_of_lines(&file, &path)?;
    if length > 0 && length + added.len() as u64 > max_bytes {
        drop(file);
        files::publish(&path, &folder.path().join(OLD_AUDIT_FILE))?;
        file = files::open_in_place(&path)?;
        length = 0;
    }
    let written = files::may_fail("append", &path)
        // A line that a power cut has torn is not an entry: nothing followed it.
        .and_then(|()| file.set_len(length))
        .and_then(|()| file.write_all_at(&added, length))
        .and_then(|()| file.sync_all());
    if let Err(error) = written {
        // What cannot be removed now is cut by the next entry, or fails its check.
        let _ = file.set_len(length);
        return Err(Error::io("write", &path)(error));
    }
    if length == 0 {
        files::sync_parent(&path)?;
    }
    Ok(())
}

/// The position behind the last complete line.
fn end_of_lines(file: &File, path: &Path) -> Result<u64> {
    let length = file.metadata().map_err(Error::io("inspect", path))?.len();
    let start = length.saturating_sub(TAIL_BYTES);
    let mut tail = vec![0; (length - start) as usize];
    file.read_exact_at(&mut tail, start)
        .map_err(Error::io("read", path))?;
    Ok(match memchr::memrchr(b'\n', &tail) {
        Some(newline) => start + newline as u64 + 1,
        None if start == 0 => 0,
        // It is damaged, and stays for the person who repairs it.
        None => length,
    })
}

/// Cuts a last line that a power cut has torn.
///
/// # Errors
/// If the file cannot be read or changed.
pub fn recover(folder: &Folder) -> Result<()> {
    let path = folder.path().join(AUDIT_FILE);
    if folder.access() == Access::ReadOnly || !files::is_file(&path)? {
        return Ok(());
    }
    let file = files::open_in_place(&path)?;
    let end = end_of_lines(&file, &path)?;
    let length = file.metadata().map_err(Error::io("inspect", &path))?.len();
    if end == length {
        return Ok(());
    }
    files::may_fail("cut", &path)
        .and_then(|()| file.set_len(end))
        .and_then(|()| file.sync_all())
        .map_err(Error::io("cut", &path))
}

/// Calls `found` with each valid line, from the newest to the oldest, until it returns false.
///
/// # Errors
/// If a file cannot be read.
pub fn read_back(folder: &Folder, mut found: impl FnMut(&[u8]) -> bool) -> Result<()> {
    for name in [AUDIT_FILE, OLD_AUDIT_FILE] {
        let path = folder.path().join(name);
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            read => read.map_err(Error::io("read", &path))?,
        };
        let all: Vec<&[u8]> = lines(&bytes).collect();
        for line in all.into_iter().rev() {
            let Some(line) = line.strip_suffix(b"\n") else {
                continue;
            };
            if checksum::check_line(line) == LineCheck::Right && !found(line) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Checks both files. Returns a sentence for each damaged line. A last line that a crash has torn
/// is not damage: the next process that opens the folder cuts it.
///
/// # Errors
/// If one cannot be read.
pub fn verify(root: &Path) -> Result<Vec<String>> {
    let (_, mut damage) = quarantine::verify_lines(root, OLD_AUDIT_FILE)?;
    let (_, mut newest) = quarantine::verify_lines(root, AUDIT_FILE)?;
    let path = root.join(AUDIT_FILE);
    if !newest.is_empty() && files::is_file(&path)? {
        let file = files::open(&path)?;
        let length = file.metadata().map_err(Error::io("inspect", &path))?.len();
        if end_of_lines(&file, &path)? < length {
            newest.pop();
        }
    }
    damage.append(&mut newest);
    Ok(damage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::files::faults::{self, Failing};

    fn numbers(folder: &Folder) -> Result<Vec<u64>> {
        let mut found = Vec::new();
        read_back(folder, |line| {
            let line: serde_json::Value = serde_json::from_slice(line).expect("JSON");
            found.push(line["number"].as_u64().expect("a number"));
            true
        })?;
        Ok(found)
    }

    #[derive(Serialize)]
    struct Entry {
        number: u64,
    }

    fn append_number(folder: &Folder, number: u64, max_bytes: u64) -> Result<()> {
        append_up_to(folder, &[Entry { number }], max_bytes)
    }

    #[test]
    fn a_torn_line_is_cut_and_a_failed_one_leaves_nothing() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let folder = Folder::take(dir.path(), "a test")?;
        let path = dir.path().join(AUDIT_FILE);
        append(&folder, &[Entry { number: 1 }, Entry { number: 2 }])?;
        let tear = || {
            let mut torn = std::fs::read(&path).expect("read");
            torn.extend_from_slice(b"{\"number\":9");
            std::fs::write(&path, torn).expect("written");
        };
        tear();
        assert_eq!(verify(dir.path())?, Vec::<String>::new());
        let mut damaged = std::fs::read(&path).expect("read");
        damaged[3] ^= 1;
        std::fs::write(&path, damaged).expect("written");
        assert_eq!(verify(dir.path())?.len(), 1);
        std::fs::remove_file(&path).expect("removed");
        append(&folder, &[Entry { number: 1 }, Entry { number: 2 }])?;
        tear();
        append(&folder, &[Entry { number: 3 }])?;
        assert_eq!(numbers(&folder)?, [3, 2, 1]);
        tear();
        recover(&folder)?;
        assert_eq!(verify(dir.path())?, Vec::<String>::new());
        // Each operation may fail, and leaves complete lines.
        for at in 0.. {
            let before = numbers(&folder)?;
            let armed = faults::fail_at(dir.path(), at, Failing::Once);
            let appended = append(&folder, &[Entry { number: 4 }]);
            let is_reached = armed.seen().len() > at;
            drop(armed);
            assert_eq!(verify(dir.path())?, Vec::<String>::new(), "{at}");
            if !is_reached {
                appended?;
                break;
            }
            assert!(appended.is_err(), "{at}");
            assert_eq!(numbers(&folder)?, before, "{at}");
        }
        Ok(())
    }

    #[test]
    fn a_full_file_becomes_the_old_one() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let folder = Folder::take(dir.path(), "a test")?;
        append_number(&folder, 10, u64::MAX)?;
        let line = std::fs::metadata(dir.path().join(AUDIT_FILE))
            .expect("it is there")
            .len();
        for number in 11..20 {
            append_number(&folder, number, 3 * line)?;
        }
        assert_eq!(numbers(&folder)?, [19, 18, 17, 16]);
        // A line that is longer than a file is kept too.
        append_number(&folder, 20, 1)?;
        assert_eq!(numbers(&folder)?, [20, 19]);
        Ok(())
    }
}
