//! The servers of a shared table, as its settings have them: those that publish to it, and those
//! that were retired because they do not come back.
//!
//! A server that reads of its retirement in the log commits nothing more. Its files belong to the
//! table then: every other server erases in them, and they expire and are joined like any.

use std::collections::{BTreeMap, BTreeSet};

use super::action::Txn;
use super::log::Snapshot;

/// The beginning of the settings that say which store publishes under the id of a server.
const SERVER_SETTING: &str = "echopilot.server.";
/// The beginning of those that say which store published under the id of a retired server. They
/// stay, so that no server uses the id again.
const RETIRED_SETTING: &str = "echopilot.retired.";
/// The beginning of the writers whose states are the versions of the last commits of servers.
const COMMITS: &str = "echopilot.commits.";

/// The servers that have to apply an erasure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    /// The ids of the servers that publish.
    pub servers: BTreeSet<String>,
    /// Number of servers that were retired. An erasure that a server applied before the last of
    /// them was is not applied to the files of that one.
    pub retired: u64,
}

/// The name of the setting of a server.
pub fn server_setting(server: &str) -> String {
    format!("{SERVER_SETTING}{server}")
}

/// The name of the setting of a retired server.
pub fn retired_setting(server: &str) -> String {
    format!("{RETIRED_SETTING}{server}")
}

/// The state of a server of which a commit is the last one. Times are in ms since 1970.
pub fn last_commit(server: &str, version: u64, now: i64) -> Txn {
    Txn {
        app_id: format!("{COMMITS}{server}"),
        version,
        last_updated: Some(now),
    }
}

impl Snapshot {
    fn settings(&self, prefix: &str) -> BTreeMap<&str, &str> {
        let settings = self.metadata.iter().flat_map(|known| &known.configuration);
        let settings =
            settings.filter_map(|(name, store)| Some((name.strip_prefix(prefix)?, store.as_str())));
        settings.collect()
    }

    /// The servers of a shared table, with the ids of their stores.
    pub fn servers(&self) -> BTreeMap<&str, &str> {
        self.settings(SERVER_SETTING)
    }

    /// The servers that were retired, with the ids of their stores.
    pub fn retired(&self) -> BTreeMap<&str, &str> {
        self.settings(RETIRED_SETTING)
    }

    /// True if a server publishes.
    pub fn has_server(&self, server: &str) -> bool {
        let settings = self.metadata.as_ref().map(|known| &known.configuration);
        settings.is_some_and(|settings| settings.contains_key(&server_setting(server)))
    }

    /// The servers that have to apply an erasure.
    pub fn members(&self) -> Members {
        Members {
            servers: self.servers().into_keys().map(str::to_owned).collect(),
            retired: self.retired().len() as u64,
        }
    }

    /// The version and the time of the last commit of a server, in ms since 1970.
    pub fn last_commit_of(&self, server: &str) -> Option<(u64, i64)> {
        let txn = self.txns.get(&format!("{COMMITS}{server}"))?;
        Some((txn.version, txn.last_updated?))
    }
}
