//! Removal of a server that does not come back from a shared table: `echopilot table`. It needs the
//! table alone, no data folder and no server.
//!
//! A server is retired by one commit, which moves its setting. Commits are in one order: what the
//! server committed before is in the table, and what it tries to commit later collides with this
//! one, of which it reads then.

use chrono::DateTime;
use serde::Serialize;

use super::action::Action;
use super::erasures;
use super::log::{Commit, Snapshot, log_dir};
use super::members::{retired_setting, server_setting};
use super::shared::{check, files_of};
use super::table::{ATTEMPTS, commit_info};
use crate::error::{Error, ErrorCode, Result};
use crate::export::destination::Destination;
use crate::export::layout::{EVENTS_DIR, RunId};
use crate::window::utc_string;

/// The servers of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableServers {
    /// Always true.
    pub ok: bool,
    /// The table.
    pub table: String,
    /// Its version.
    pub version: u64,
    /// Erasures that not all servers have applied.
    pub open_erasures: usize,
    /// The servers that publish to it.
    pub servers: Vec<TableServer>,
    /// The servers that were retired.
    pub retired: Vec<String>,
}

/// A server of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableServer {
    /// Its id.
    pub id: String,
    /// The version of its last commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_version: Option<u64>,
    /// The time of that commit, by its clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_commit_at: Option<String>,
    /// Files of the table that are its own.
    pub files: usize,
    /// Open erasures that wait for it.
    pub erasing: usize,
}

/// A server that is retired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Retired {
    /// Always true.
    pub ok: bool,
    /// The table.
    pub table: String,
    /// The id of the server.
    pub retired: String,
    /// The version of the table from which on it is; absent if it was retired before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Its files in the table, which belong to all other servers now.
    pub files: usize,
    /// Open erasures, which the other servers apply to its files.
    pub open_erasures: usize,
    /// The servers that are left.
    pub servers: Vec<String>,
}

/// The servers of a table, with what each has done last.
///
/// # Errors
/// `bad_target` if it is not a table of several servers, and if it cannot be read.
pub fn servers(to: &Destination) -> Result<TableServers> {
    let (snapshot, version) = read(to)?;
    let open = erasures::open(to)?;
    let members = snapshot.members();
    let server = |id: &String| {
        let last = snapshot.last_commit_of(id);
        let at = last.and_then(|(_, at)| DateTime::from_timestamp_millis(at));
        let waits = |record: &&erasures::Record| !record.is_done(id, members.retired);
        TableServer {
            id: id.clone(),
            last_version: last.map(|(version, _)| version),
            last_commit_at: at.map(utc_string),
            files: files_of(&snapshot, id),
            erasing: open.iter().filter(waits).count(),
        }
    };
    Ok(TableServers {
        ok: true,
        table: to.shown(EVENTS_DIR),
        version,
        open_erasures: open.len(),
        servers: members.servers.iter().map(server).collect(),
        retired: snapshot.retired().into_keys().map(str::to_owned).collect(),
    })
}

/// Retires a server: it publishes nothing more, no erasure waits for it, and its files belong to
/// all others. A server that is retired already stays so. Times are in ms since 1970.
///
/// # Errors
/// `bad_target` if it is not a table of several servers or has no such server, and if it cannot be
/// read or written; then the server is retired or not, and the next call finds out.
pub fn retire(to: &Destination, server: &str, now: i64) -> Result<Retired> {
    let (mut snapshot, _) = read(to)?;
    let version = commit(to, &mut snapshot, server, now)?;
    let open = erasures::open(to)?;
    Ok(Retired {
        ok: true,
        table: to.shown(EVENTS_DIR),
        retired: server.to_owned(),
        version,
        files: files_of(&snapshot, server),
        open_erasures: open.len(),
        servers: snapshot.members().servers.into_iter().collect(),
    })
}

/// The newest version of a table of several servers.
fn read(to: &Destination) -> Result<(Snapshot, u64)> {
    let snapshot = Snapshot::read(to, EVENTS_DIR)?;
    check(to, &snapshot)?;
    let Some(version) = snapshot.version else {
        let message = format!("there is no table at {}", to.shown(EVENTS_DIR));
        return Err(Error::bad_input(ErrorCode::BadTarget, message));
    };
    Ok((snapshot, version))
}

/// Commits the retirement; none if the server is retired already.
fn commit(
    to: &Destination,
    snapshot: &mut Snapshot,
    server: &str,
    now: i64,
) -> Result<Option<u64>> {
    for _ in 0..ATTEMPTS {
        if snapshot.retired().contains_key(server) {
            return Ok(None);
        }
        let mut metadata = snapshot.metadata.clone();
        let settings = metadata.as_mut().map(|known| &mut known.configuration);
        let settings = settings.ok_or(Error::Busy("the table is being made"))?;
        let Some(store) = settings.remove(&server_setting(server)) else {
            let servers = Vec::from_iter(snapshot.members().servers).join(", ");
            let message = format!(
                "no server publishes to {} as {server:?}; its servers are: {servers}",
                to.shown(&log_dir(EVENTS_DIR))
            );
            return Err(Error::bad_input(ErrorCode::BadTarget, message));
        };
        settings.insert(retired_setting(server), store);
        let id = RunId::new()?;
        let mut actions = vec![commit_info(now, &id)];
        actions.extend(metadata.map(Action::from));
        match snapshot.commit(to, EVENTS_DIR, id.as_str(), &actions)? {
            Commit::Done => return Ok(snapshot.version),
            Commit::Conflict => snapshot.follow(to, EVENTS_DIR)?,
        }
    }
    Err(Error::Busy("the servers of the table are faster"))
}
