//! The dictionary: the number of every user of whom an event or a daily state is there, for ever the same.
//!
//! `users.ndjson` in the data folder has the user's id as JSON text on each line; the line's place, from 0, is the
//! number. It only grows; the manifest says how much of it holds, so that what a crash left behind that is cut off.

use std::os::unix::fs::FileExt;
use std::path::Path;

use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};

use super::files;
use super::folder::Folder;
use crate::error::{Error, Result};
use crate::event::{lines, text};
use crate::names::Numbering;

/// Its name in the data folder, before users were erased.
pub const FILE_NAME: &str = "users.ndjson";
/// The line of a number whose user was erased, or of whom nothing is left.
const FORGOTTEN: &[u8] = b"null\n";

/// How much of the dictionary holds, as the manifest says it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DictionaryFacts {
    /// Users with a number.
    pub users: u32,
    /// Bytes of their lines.
    pub bytes: u64,
    /// CRC-32C of these.
    pub crc32c: u32,
    /// How often users were taken out: part of the file's name.
    #[serde(default)]
    pub generation: u32,
}

impl DictionaryFacts {
    fn file_name(&self) -> String {
        match self.generation {
            0 => FILE_NAME.into(),
            generation => format!("users-{generation}.ndjson"),
        }
    }
}

/// Numbers the users of the dictionary as before.
///
/// # Errors
/// [`Error::Damaged`] if it is not what was written.
pub fn load(root: &Path, facts: DictionaryFacts, users: &Numbering) -> Result<()> {
    let path = root.join(facts.file_name());
    let damaged = |message: String| Error::Damaged {
        file: path.clone(),
        message,
    };
    if facts.users == 0 {
        return Ok(());
    }
    let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
    let length = usize::try_from(facts.bytes).unwrap_or(usize::MAX);
    let bytes = bytes
        .get(..length)
        .filter(|bytes| crc32c::crc32c(bytes) == facts.crc32c)
        .ok_or_else(|| damaged("its checksum does not match; restore it".into()))?;
    let mut expected = 0;
    for line in lines(bytes) {
        if line == FORGOTTEN {
            // No text of an event has a NUL.
            expected = users.number(&format!("\0{expected}"))? + 1;
            continue;
        }
        let id = std::str::from_utf8(line.trim_ascii_end())
            .ok()
            .and_then(|json| text::decode(json, text::Escapes::Some))
            .ok_or_else(|| damaged(format!("line {} is no text", expected + 1)))?;
        if users.number(&id)? != expected {
            return Err(damaged(format!("line {} is there twice", expected + 1)));
        }
        expected += 1;
    }
    if expected != facts.users {
        return Err(damaged(format!(
            "it has {expected} lines of {}",
            facts.users
        )));
    }
    Ok(())
}

/// Writes the users up to the number `until`, durably. They hold once the manifest says so.
///
/// # Errors
/// If they cannot be written; then what held before still does.
pub fn extend(
    folder: &Folder,
    facts: DictionaryFacts,
    users: &Numbering,
    erased: &RoaringBitmap,
    until: u32,
) -> Result<DictionaryFacts> {
    if until <= facts.users {
        return Ok(facts);
    }
    let mut added = Vec::new();
    for number in facts.users..until {
        if erased.contains(number) {
            added.extend_from_slice(FORGOTTEN);
            continue;
        }
        text::encode(text_of(users, number), &mut added);
        added.push(b'\n');
    }
    let path = folder.path().join(facts.file_name());
    let is_new = !path.exists();
    let file = files::open_in_place(&path)?;
    file.write_all_at(&added, facts.bytes)
        .and_then(|()| file.set_len(facts.bytes + added.len() as u64))
        .and_then(|()| file.sync_all())
        .map_err(Error::io("write", &path))?;
    if is_new {
        files::sync_parent(&path)?;
    }
    Ok(DictionaryFacts {
        users: until,
        bytes: facts.bytes + added.len() as u64,
        crc32c: crc32c::crc32c_append(facts.crc32c, &added),
        ..facts
    })
}

/// Writes the dictionary anew without the ids of these numbers, durably. It holds once the manifest says so. Returns how
/// many ids it no longer has.
///
/// # Errors
/// If it cannot be read or written.
pub fn forget(
    folder: &Folder,
    facts: DictionaryFacts,
    numbers: &RoaringBitmap,
) -> Result<(DictionaryFacts, usize)> {
    let path = folder.path().join(facts.file_name());
    if facts.users == 0 {
        return Ok((facts, 0));
    }
    let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
    let held = bytes.get(..facts.bytes as usize).unwrap_or_default();
    let mut kept = Vec::with_capacity(held.len());
    let mut forgotten = 0;
    for (number, line) in (0..).zip(lines(held)) {
        match numbers.contains(number) && line != FORGOTTEN {
            true => {
                kept.extend_from_slice(FORGOTTEN);
                forgotten += 1;
            }
            false => kept.extend_from_slice(line),
        }
    }
    let next = DictionaryFacts {
        users: facts.users,
        bytes: kept.len() as u64,
        crc32c: crc32c::crc32c(&kept),
        generation: facts.generation + 1,
    };
    if forgotten > 0 {
        folder.replace(&next.file_name(), &kept)?;
    }
    Ok((next, forgotten))
}

/// Writes the dictionary anew with the ids of these numbers, durably. It holds once the manifest says so.
///
/// # Errors
/// If it cannot be read or written.
pub fn restore(
    folder: &Folder,
    facts: DictionaryFacts,
    users: &Numbering,
    numbers: &RoaringBitmap,
) -> Result<DictionaryFacts> {
    let path = folder.path().join(facts.file_name());
    let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
    let held = bytes.get(..facts.bytes as usize).unwrap_or_default();
    let mut restored = Vec::with_capacity(held.len());
    for (number, line) in (0..).zip(lines(held)) {
        match numbers.contains(number) && line == FORGOTTEN {
            true => {
                text::encode(text_of(users, number), &mut restored);
                restored.push(b'\n');
            }
            false => restored.extend_from_slice(line),
        }
    }
    let next = DictionaryFacts {
        users: facts.users,
        bytes: restored.len() as u64,
        crc32c: crc32c::crc32c(&restored),
        generation: facts.generation + 1,
    };
    folder.replace(&next.file_name(), &restored)?;
    Ok(next)
}

/// Removes the files of other generations.
///
/// # Errors
/// If the folder cannot be listed or changed.
pub fn remove_others(folder: &Folder, facts: DictionaryFacts) -> Result<()> {
    for path in files::list(folder.path())? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let generation = name
            .strip_prefix("users-")
            .and_then(|rest| rest.strip_suffix(".ndjson"));
        let is_ours =
            name == FILE_NAME || generation.is_some_and(|number| number.parse::<u32>().is_ok());
        if is_ours && facts.users > 0 && name != facts.file_name() {
            files::remove(&path)?;
        }
    }
    Ok(())
}

/// The text of a number that was given. A number given by another thread this instant has its text an instant later.
fn text_of(users: &Numbering, number: u32) -> &str {
    loop {
        match users.text(number) {
            Some(text) => return text,
            None => std::thread::yield_now(),
        }
    }
}
