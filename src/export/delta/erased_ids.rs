//! The users whom the servers of a shared table have erased, for a server that joins later: it must
//! not accept events of them that come late. There are keyed hashes only, as in the data folder of
//! each server.
//!
//! `_erased/key.json` has the key, which never changes, and each other file some hashes. Hashes are
//! only added: a file is removed once another one has all of its hashes.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::read_json;
use crate::error::{Error, Result};
use crate::export::destination::{Created, Destination};
use crate::export::layout::{EVENTS_DIR, RunId};
use crate::store::{ErasedIds, ErasureTimes};

/// The folder of the hashes, in the folder of the table. Readers ignore a name that begins so.
const DIR: &str = "_erased";
const KEY_NAME: &str = "key.json";
const SUFFIX: &str = ".json";
/// Files that are joined by a server that reads them.
const MANY_FILES: usize = 100;
/// Times that the files are listed, because another server joins them.
const ATTEMPTS: usize = 10;

#[derive(Serialize, Deserialize)]
struct Key {
    key: String,
}

#[derive(Serialize, Deserialize)]
struct Hashes {
    erased: ErasureTimes,
}

fn path(name: &str) -> String {
    format!("{EVENTS_DIR}/{DIR}/{name}")
}

/// Adds the users of a record of this id, before a server says that it has erased them. Events that
/// happened until this time stay away. Returns their hashes.
///
/// # Errors
/// If a file cannot be read or written; the next call continues.
pub fn add(
    to: &Destination,
    id: &str,
    users: &[String],
    until: DateTime<Utc>,
) -> Result<ErasedIds> {
    let key = match read_key(to)? {
        Some(key) => key,
        None => make_key(to)?,
    };
    let ids = ErasedIds::of(&key, users, until);
    write(to, id, &ids.hashes)?;
    Ok(ids)
}

/// All erased users; none if there are none.
///
/// # Errors
/// If a file cannot be read, and [`Error::Damaged`] for one that cannot be decoded.
pub fn read(to: &Destination) -> Result<Option<ErasedIds>> {
    for _ in 0..ATTEMPTS {
        let paths = list(to)?;
        if paths.is_empty() {
            return Ok(None);
        }
        let mut ids = ErasedIds {
            key: read_key(to)?.ok_or_else(|| missing_key(to))?,
            hashes: ErasureTimes::new(),
        };
        let mut is_complete = true;
        for path in &paths {
            match read_json::<Hashes>(to, path)? {
                Some(content) => _ = ids.add(&content.erased),
                // Another server has joined the files meanwhile.
                None => is_complete = false,
            }
        }
        if is_complete {
            if paths.len() > MANY_FILES {
                write(to, RunId::new()?.as_str(), &ids.hashes)?;
                paths.iter().try_for_each(|path| to.remove(path))?;
            }
            return Ok(Some(ids));
        }
    }
    Err(Error::Busy("other servers of the table are faster"))
}

/// The paths of the files with hashes.
fn list(to: &Destination) -> Result<Vec<String>> {
    let paths = to.list(&format!("{EVENTS_DIR}/{DIR}"))?.into_keys();
    let key = path(KEY_NAME);
    Ok(paths
        .filter(|path| path.ends_with(SUFFIX) && *path != key)
        .collect())
}

fn write(to: &Destination, id: &str, hashes: &ErasureTimes) -> Result<()> {
    let content = Hashes {
        erased: hashes.clone(),
    };
    // Writing to memory cannot fail.
    let content = serde_json::to_vec(&content).unwrap_or_default();
    // Taken: another server has added the same users.
    to.create(&path(&format!("{id}{SUFFIX}")), &content)
        .map(|_: Created| ())
}

fn read_key(to: &Destination) -> Result<Option<String>> {
    Ok(read_json::<Key>(to, &path(KEY_NAME))?.map(|content| content.key))
}

/// Makes the key, unless another server was faster.
fn make_key(to: &Destination) -> Result<String> {
    let content = Key {
        key: ErasedIds::new_key()?,
    };
    // With another key, the hashes that are there would be of no use.
    if list(to)?.is_empty() {
        let json = serde_json::to_vec(&content).unwrap_or_default();
        if to.create(&path(KEY_NAME), &json)? == Created::Yes {
            return Ok(content.key);
        }
    }
    read_key(to)?.ok_or_else(|| missing_key(to))
}

fn missing_key(to: &Destination) -> Error {
    Error::Damaged {
        file: to.shown(&path(KEY_NAME)).into(),
        message: "it is missing".into(),
    }
}
