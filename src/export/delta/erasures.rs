//! Erasures of a shared table: a server that is asked to erase users first records their ids next
//! to the table. Each server erases them in its data folder and in its files, and says so; with
//! the last one the record goes.
//!
//! `_erasures/ID.json` has the ids, and `_erasures/ID.SERVER.done` says that a server has no data
//! of them any more.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::export::destination::{Created, Destination};
use crate::export::layout::{EVENTS_DIR, RunId};

/// The folder of the records, in the folder of the table. Readers ignore a name that begins so.
const DIR: &str = "_erasures";
const RECORD_SUFFIX: &str = ".json";
const DONE_SUFFIX: &str = ".done";

/// Users who are to be erased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its id.
    pub id: String,
    /// The ids of the users.
    pub users: Vec<String>,
    /// The servers that have erased them.
    pub done: BTreeSet<String>,
}

#[derive(Serialize, Deserialize)]
struct Content {
    users: Vec<String>,
}

fn path(name: &str) -> String {
    format!("{EVENTS_DIR}/{DIR}/{name}")
}

/// Records users who are to be erased, under a new id.
///
/// # Errors
/// If it cannot be written; it may be there all the same.
pub fn record(to: &Destination, id: &RunId, users: &[String]) -> Result<()> {
    let content = Content {
        users: users.to_vec(),
    };
    // Writing to memory cannot fail.
    let content = serde_json::to_vec(&content).unwrap_or_default();
    let name = format!("{}{RECORD_SUFFIX}", id.as_str());
    // No other record has this id: it is the same request, whose response was lost.
    to.create(&path(&name), &content).map(|_: Created| ())
}

/// The records that not all servers have applied.
///
/// # Errors
/// If they cannot be read, and [`Error::Damaged`] for one that cannot be decoded.
pub fn open(to: &Destination) -> Result<Vec<Record>> {
    let mut records: BTreeMap<String, Record> = BTreeMap::new();
    let mut done = Vec::new();
    for path in to.list(&format!("{EVENTS_DIR}/{DIR}"))?.into_keys() {
        let name = path.rsplit('/').next().unwrap_or_default();
        if let Some(id) = name.strip_suffix(RECORD_SUFFIX) {
            let Some(content) = to.read(&path)? else {
                continue;
            };
            let content = serde_json::from_slice::<Content>(&content);
            let content = content.map_err(|error| Error::Damaged {
                file: to.shown(&path).into(),
                message: error.to_string(),
            })?;
            let record = Record {
                id: id.to_owned(),
                users: content.users,
                done: BTreeSet::new(),
            };
            records.insert(id.to_owned(), record);
        } else if let Some((id, server)) = name
            .strip_suffix(DONE_SUFFIX)
            .and_then(|name| name.split_once('.'))
        {
            done.push((path.clone(), id.to_owned(), server.to_owned()));
        }
    }
    for (path, id, server) in done {
        match records.get_mut(&id) {
            Some(record) => drop(record.done.insert(server)),
            // The last server was interrupted after it had removed the record.
            None => to.remove(&path)?,
        }
    }
    Ok(records.into_values().collect())
}

/// Says that a server has erased the users of a record. If all of these servers have, the record is
/// removed.
///
/// # Errors
/// If a file cannot be written or removed; the next call continues.
pub fn done(
    to: &Destination,
    record: &mut Record,
    server: &str,
    servers: &BTreeSet<String>,
) -> Result<()> {
    let name = |server: &str| path(&format!("{}.{server}{DONE_SUFFIX}", record.id));
    if !record.done.contains(server) {
        // Taken: an earlier request, whose response was lost.
        let _: Created = to.create(&name(server), b"{}")?;
    }
    let paths: Vec<String> = record.done.iter().map(|server| name(server)).collect();
    let own = name(server);
    record.done.insert(server.to_owned());
    if record.done.is_superset(servers) {
        to.remove(&path(&format!("{}{RECORD_SUFFIX}", record.id)))?;
        paths
            .iter()
            .chain([&own])
            .try_for_each(|path| to.remove(path))?;
    }
    Ok(())
}
