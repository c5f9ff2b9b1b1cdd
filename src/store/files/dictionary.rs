//! The dictionary file: the ids of all users with an event or a daily state, whose codes never
//! change.
//!
//! Each line of `users.ndjson` in the data folder is an id as a JSON string; the number of the
//! line, from 0, is the code of the user. The file only grows. The manifest says how many bytes of
//! it are valid, so that what a crash left after them is ignored.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};

use super::folder::Folder;
use crate::dictionary::{NO_ID, UserDictionary};
use crate::error::{Error, Result};
use crate::event::{lines, text};
use crate::store::files;

/// The file's name in the data folder until users are removed.
pub const FILE_NAME: &str = "users.ndjson";

/// Metadata of the dictionary in the manifest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DictionaryMeta {
    /// Users with a code.
    pub users: u32,
    /// Bytes of their lines.
    pub bytes: u64,
    /// CRC-32C of these bytes.
    pub crc32c: u32,
    /// Number of times that users were removed; part of the file's name.
    #[serde(default)]
    pub generation: u32,
}

impl DictionaryMeta {
    /// The file's name in the data folder.
    pub fn file_name(&self) -> String {
        match self.generation {
            0 => FILE_NAME.into(),
            generation => format!("users-{generation}.ndjson"),
        }
    }
}

/// Reads the dictionary into `users`, so that each user gets the same code again.
///
/// # Errors
/// [`Error::Damaged`] if it is not what was written.
pub fn load(root: &Path, meta: DictionaryMeta, users: &UserDictionary) -> Result<()> {
    let path = root.join(meta.file_name());
    let damaged = |message: String| Error::Damaged {
        file: path.clone(),
        message,
    };
    // A store without users has no file.
    let mapped = match meta.users {
        0 => Arc::new([]),
        _ => files::map(&path)?,
    };
    let length = usize::try_from(meta.bytes).unwrap_or(usize::MAX);
    let bytes = mapped.as_ref().as_ref().get(..length);
    if bytes.is_none_or(|bytes| crc32c::crc32c(bytes) != meta.crc32c) {
        return Err(damaged("its checksum does not match; restore it".into()));
    }
    let found = users.load(&mapped, length).map_err(damaged)?;
    if found != meta.users as usize {
        return Err(damaged(format!("it has {found} lines of {}", meta.users)));
    }
    Ok(())
}

/// Appends the users up to the code `until`, durably. They count once the manifest has the returned
/// metadata.
///
/// # Errors
/// If they cannot be written; then the file is valid as before.
pub fn extend(
    folder: &Folder,
    meta: DictionaryMeta,
    users: &UserDictionary,
    erased: &RoaringBitmap,
    until: u32,
) -> Result<DictionaryMeta> {
    if until <= meta.users {
        return Ok(meta);
    }
    let mut added = Vec::new();
    for code in meta.users..until {
        if erased.contains(code) {
            added.extend_from_slice(NO_ID);
            continue;
        }
        text::encode(&id_of(users, code)?, &mut added);
        added.push(b'\n');
    }
    let path = folder.path().join(meta.file_name());
    let is_new = !path.exists();
    let file = files::open_in_place(&path)?;
    file.write_all_at(&added, meta.bytes)
        .and_then(|()| file.set_len(meta.bytes + added.len() as u64))
        .and_then(|()| file.sync_all())
        .map_err(Error::io("write", &path))?;
    if is_new {
        files::sync_parent(&path)?;
    }
    Ok(DictionaryMeta {
        users: until,
        bytes: meta.bytes + added.len() as u64,
        crc32c: crc32c::crc32c_append(meta.crc32c, &added),
        ..meta
    })
}

/// Rewrites the dictionary without the ids of these codes, durably. The new file counts once the
/// manifest has the returned metadata. Also returns how many ids were removed.
///
/// # Errors
/// If the file cannot be read or written.
pub fn forget(
    folder: &Folder,
    meta: DictionaryMeta,
    codes: &RoaringBitmap,
) -> Result<(DictionaryMeta, usize)> {
    let mut forgotten = 0;
    let next = rewrite(folder, meta, |code, line, kept| {
        if codes.contains(code) && line != NO_ID {
            kept.extend_from_slice(NO_ID);
            forgotten += 1;
        } else {
            kept.extend_from_slice(line);
        }
        Ok(())
    })?;
    if forgotten > 0 {
        next.write(folder)?;
    }
    Ok((next.meta, forgotten))
}

/// Rewrites the dictionary without the lines that have no id, so that the others get the codes from
/// 0 on. The new file counts once the manifest has the returned metadata.
///
/// # Errors
/// If the file cannot be read or written.
pub fn renumber(folder: &Folder, meta: DictionaryMeta) -> Result<DictionaryMeta> {
    let mut next = rewrite(folder, meta, |_, line, kept| {
        if line != NO_ID {
            kept.extend_from_slice(line);
        }
        Ok(())
    })?;
    next.meta.users = lines(&next.bytes).count() as u32;
    next.write(folder)?;
    Ok(next.meta)
}

/// Rewrites the dictionary with the ids of these codes, which it had lost, durably. The new file
/// counts once the manifest has the returned metadata.
///
/// # Errors
/// If the file cannot be read or written.
pub fn restore(
    folder: &Folder,
    meta: DictionaryMeta,
    users: &UserDictionary,
    codes: &RoaringBitmap,
) -> Result<DictionaryMeta> {
    let next = rewrite(folder, meta, |code, line, restored| {
        if codes.contains(code) && line == NO_ID {
            text::encode(&id_of(users, code)?, restored);
            restored.push(b'\n');
        } else {
            restored.extend_from_slice(line);
        }
        Ok(())
    })?;
    next.write(folder)?;
    Ok(next.meta)
}

/// The dictionary of the next generation, which is not written yet.
struct Rewritten {
    meta: DictionaryMeta,
    bytes: Vec<u8>,
}

impl Rewritten {
    fn write(&self, folder: &Folder) -> Result<()> {
        folder.replace(&self.meta.file_name(), &self.bytes)
    }
}

/// Makes the next generation: `append` is called with each code, its line, and the new lines.
fn rewrite(
    folder: &Folder,
    meta: DictionaryMeta,
    mut append: impl FnMut(u32, &[u8], &mut Vec<u8>) -> Result<()>,
) -> Result<Rewritten> {
    let path = folder.path().join(meta.file_name());
    // A store without users has no file.
    let before = match meta.users {
        0 => Vec::new(),
        _ => std::fs::read(&path).map_err(Error::io("read", &path))?,
    };
    let valid = before.get(..meta.bytes as usize);
    let valid = valid.ok_or_else(|| Error::Damaged {
        file: path.clone(),
        message: "it is too short; restore it".into(),
    })?;
    let mut bytes = Vec::with_capacity(valid.len());
    for (code, line) in (0..).zip(lines(valid)) {
        append(code, line, &mut bytes)?;
    }
    let meta = DictionaryMeta {
        users: meta.users,
        bytes: bytes.len() as u64,
        crc32c: crc32c::crc32c(&bytes),
        generation: meta.generation + 1,
    };
    Ok(Rewritten { meta, bytes })
}

/// Removes dictionary files of other generations.
///
/// # Errors
/// If the folder cannot be listed or changed.
pub fn remove_others(folder: &Folder, meta: DictionaryMeta) -> Result<()> {
    for path in files::list(folder.path())? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let generation = name
            .strip_prefix("users-")
            .and_then(|rest| rest.strip_suffix(".ndjson"));
        let is_ours =
            name == FILE_NAME || generation.is_some_and(|number| number.parse::<u32>().is_ok());
        if is_ours && meta.users > 0 && name != meta.file_name() {
            files::remove(&path)?;
        }
    }
    Ok(())
}

/// The id of a code.
///
/// # Errors
/// If it has none.
fn id_of(users: &UserDictionary, code: u32) -> Result<String> {
    users.text(code).ok_or_else(|| {
        let message = format!("the code {code} of the dictionary has no id");
        Error::Query(message.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: [&str; 4] = ["a", "b \"quoted\"", "ü", "d"];

    fn users() -> UserDictionary {
        UserDictionary::default()
    }

    /// A data folder whose dictionary has [`IDS`], its metadata, and the users.
    fn written() -> Result<(tempfile::TempDir, Folder, DictionaryMeta, UserDictionary)> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let folder = Folder::take(dir.path(), "a test")?;
        let users = users();
        for id in IDS {
            users.number(id)?;
        }
        let none = RoaringBitmap::new();
        // In two steps, as two seals do.
        let meta = extend(&folder, DictionaryMeta::default(), &users, &none, 2)?;
        let meta = extend(&folder, meta, &users, &none, 4)?;
        assert_eq!(extend(&folder, meta, &users, &none, 3)?, meta);
        Ok((dir, folder, meta, users))
    }

    /// The ids that are read back, by their codes; a removed one is `-`.
    fn read_back(folder: &Folder, meta: DictionaryMeta) -> Result<Vec<String>> {
        let users = users();
        load(folder.path(), meta, &users)?;
        let ids = (0..users.len()).map(|code| users.text(code as u32));
        Ok(ids.map(|id| id.unwrap_or_else(|| "-".into())).collect())
    }

    #[test]
    fn users_have_the_same_codes_after_a_restart() -> Result<()> {
        let (_dir, folder, meta, _) = written()?;
        assert_eq!(read_back(&folder, meta)?, IDS);
        let bytes = std::fs::read(folder.path().join(FILE_NAME)).expect("it is there");
        assert_eq!(
            bytes,
            "\"a\"\n\"b \\\"quoted\\\"\"\n\"ü\"\n\"d\"\n".as_bytes()
        );
        // Lines that no manifest knows are overwritten, and cut off.
        std::fs::write(
            folder.path().join(FILE_NAME),
            [&bytes[..], b"\"torn"].concat(),
        )
        .expect("written");
        assert_eq!(read_back(&folder, meta)?, IDS);
        Ok(())
    }

    #[test]
    fn removed_ids_keep_their_codes_free_and_can_be_restored() -> Result<()> {
        let (_dir, folder, meta, users) = written()?;
        let codes = [1, 3].into_iter().collect();
        let (without, removed) = forget(&folder, meta, &codes)?;
        assert_eq!((removed, without.generation, without.users), (2, 1, 4));
        assert_eq!(read_back(&folder, without)?, ["a", "-", "ü", "-"]);
        assert_eq!(read_back(&folder, meta)?, IDS, "until the manifest changes");
        let again = forget(&folder, without, &codes)?;
        assert_eq!(again.1, 0);
        let three = [3].into_iter().collect();
        let restored = restore(&folder, without, &users, &three)?;
        assert_eq!(read_back(&folder, restored)?, ["a", "-", "ü", "d"]);
        remove_others(&folder, restored)?;
        let names = files::list(folder.path())?;
        let names = names.iter().filter_map(|path| path.file_name()?.to_str());
        let kept: Vec<&str> = names.filter(|name| name.starts_with("users")).collect();
        assert_eq!(kept, ["users-2.ndjson"]);
        Ok(())
    }

    #[test]
    fn a_dictionary_without_users_has_no_line() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let folder = Folder::take(dir.path(), "a test")?;
        let erased = [0, 1].into_iter().collect();
        let (meta, forgotten) = forget(&folder, DictionaryMeta::default(), &erased)?;
        assert_eq!((meta.users, meta.bytes, forgotten), (0, 0, 0));

        let (_dir, folder, meta, users) = written()?;
        let all = [0, 1, 2, 3].into_iter().collect();
        let (without, _) = forget(&folder, meta, &all)?;
        let renumbered = renumber(&folder, without)?;
        assert_eq!((renumbered.users, renumbered.bytes), (0, 0));
        load(folder.path(), renumbered, &users)?;
        assert!(users.is_empty());
        assert_eq!(users.number("new")?, 0);
        let meta = extend(&folder, renumbered, &users, &RoaringBitmap::new(), 1)?;
        assert_eq!(read_back(&folder, meta)?, ["new"]);
        Ok(())
    }

    #[test]
    fn an_erased_user_is_never_written() -> Result<()> {
        let (_dir, folder, meta, users) = written()?;
        users.number("erased")?;
        let erased = [4].into_iter().collect();
        let meta = extend(&folder, meta, &users, &erased, 5)?;
        assert_eq!(
            read_back(&folder, meta)?.last().map(String::as_str),
            Some("-")
        );
        Ok(())
    }

    #[test]
    fn a_damaged_dictionary_is_an_error() -> Result<()> {
        let (_dir, folder, meta, _) = written()?;
        let damaged = |meta, content: &str| -> Result<bool> {
            let path = folder.path().join(FILE_NAME);
            std::fs::write(&path, content).map_err(Error::io("write", &path))?;
            let read = load(folder.path(), meta, &users());
            Ok(matches!(read, Err(Error::Damaged { .. })))
        };
        assert!(damaged(meta, "\"a\"\n")?, "too short");
        let rewritten = renumber(&folder, meta).map(|_| ());
        assert!(matches!(rewritten, Err(Error::Damaged { .. })));
        for (users, content) in [
            (2, "\"a\"\n\"a\"\n"),
            (2, "\"a\"\nb\n"),
            (2, "\"a\"\n"),
            (1, "\"a\"\n\"b\"\n"),
        ] {
            let meta = DictionaryMeta {
                users,
                bytes: content.len() as u64,
                crc32c: crc32c::crc32c(content.as_bytes()),
                generation: 0,
            };
            assert!(damaged(meta, content)?, "{content}");
            assert!(damaged(DictionaryMeta { crc32c: 1, ..meta }, content)?);
        }
        Ok(())
    }
}
