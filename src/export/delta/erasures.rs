//! Erasures of a shared table: a server that is asked to erase users first records their ids next
//! to the table. Each server erases them in its data folder and in its files, and says so; with
//! the last one the record goes.
//!
//! `_erasures/ID.json` has the ids, and `_erasures/ID.SERVER.done` says that a server has no data
//! of them any more; after N servers were retired, `_erasures/ID.SERVER.N.done` says so, and that
//! the files of those have none. Marks from before the last retirement do not count.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::members::Members;
use super::read_json;
use crate::error::Result;
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
    /// The servers that have erased them, each with the number of servers that were retired then.
    done: BTreeMap<String, u64>,
    /// The paths of the marks that say so.
    marks: Vec<String>,
}

impl Record {
    /// True if a server has erased the users, also in the files of so many retired servers.
    pub fn is_done(&self, server: &str, retired: u64) -> bool {
        self.done.get(server).is_some_and(|known| *known >= retired)
    }

    /// The servers that have not erased them.
    pub fn waiting<'a>(&'a self, members: &'a Members) -> impl Iterator<Item = &'a String> {
        let servers = members.servers.iter();
        servers.filter(move |server| !self.is_done(server, members.retired))
    }
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
/// If they cannot be read, and [`crate::error::Error::Damaged`] for one that cannot be decoded.
pub fn open(to: &Destination) -> Result<Vec<Record>> {
    let mut records: BTreeMap<String, Record> = BTreeMap::new();
    let mut done = Vec::new();
    for path in to.list(&format!("{EVENTS_DIR}/{DIR}"))?.into_keys() {
        let name = path.rsplit('/').next().unwrap_or_default();
        if let Some(id) = name.strip_suffix(RECORD_SUFFIX) {
            let Some(content) = read_json::<Content>(to, &path)? else {
                continue;
            };
            let record = Record {
                id: id.to_owned(),
                users: content.users,
                done: BTreeMap::new(),
                marks: Vec::new(),
            };
            records.insert(id.to_owned(), record);
        } else if let Some((id, server, retired)) = parse_mark(name) {
            done.push((path.clone(), id.to_owned(), server.to_owned(), retired));
        }
    }
    for (path, id, server, retired) in done {
        match records.get_mut(&id) {
            Some(record) => {
                let known = record.done.entry(server).or_default();
                *known = retired.max(*known);
                record.marks.push(path);
            }
            // The last server was interrupted after it had removed the record.
            None => to.remove(&path)?,
        }
    }
    Ok(records.into_values().collect())
}

/// The record, the server and the number of retired servers of a mark.
fn parse_mark(name: &str) -> Option<(&str, &str, u64)> {
    let (id, rest) = name.strip_suffix(DONE_SUFFIX)?.split_once('.')?;
    match rest.split_once('.') {
        None => Some((id, rest, 0)),
        Some((server, retired)) => Some((id, server, retired.parse().ok()?)),
    }
}

fn mark(id: &str, server: &str, retired: u64) -> String {
    let retired = match retired {
        0 => String::new(),
        retired => format!(".{retired}"),
    };
    path(&format!("{id}.{server}{retired}{DONE_SUFFIX}"))
}

/// Says that a server has erased the users of a record in its data folder, and in the table as it
/// was when these were its servers. If all of them have, the record is removed.
///
/// # Errors
/// If a file cannot be written or removed; the next call continues.
pub fn done(to: &Destination, record: &mut Record, server: &str, members: &Members) -> Result<()> {
    if !record.is_done(server, members.retired) {
        let mark = mark(&record.id, server, members.retired);
        // Taken: an earlier request, whose response was lost.
        let _: Created = to.create(&mark, b"{}")?;
        record.marks.push(mark);
        record.done.insert(server.to_owned(), members.retired);
    }
    if record.waiting(members).next().is_none() {
        to.remove(&path(&format!("{}{RECORD_SUFFIX}", record.id)))?;
        record.marks.iter().try_for_each(|mark| to.remove(mark))?;
    }
    Ok(())
}
