//! The log of a Delta table: one commit a version, `_delta_log/00000000000000000012.json`, and
//! checkpoints of all that is in force.
//!
//! Whatever this program would not write is an error that names the file: a table of another
//! program, of another store or with features that are not known is never changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use super::action::{Action, Add, CommitInfo, Metadata, Protocol, Remove, Txn};
use super::checkpoint;
use crate::error::{Error, ErrorCode, Result};
use crate::export::destination::{Created, Destination};

/// The folder of the log, in the folder of the table.
pub const LOG_DIR: &str = "_delta_log";
/// The name of the file that points at the newest checkpoint.
const LAST_CHECKPOINT: &str = "_last_checkpoint";
/// A checkpoint is written after this many commits: a reader that opens the table reads fewer.
pub const COMMITS_PER_CHECKPOINT: u64 = 100;
/// Digits of a version in the name of a file.
const DIGITS: usize = 20;
const COMMIT_SUFFIX: &str = ".json";
const CHECKPOINT_SUFFIX: &str = ".checkpoint.parquet";

/// The path of the log of a table.
pub fn log_dir(table: &str) -> String {
    format!("{table}/{LOG_DIR}")
}

fn commit_path(table: &str, version: u64) -> String {
    format!("{}/{version:020}{COMMIT_SUFFIX}", log_dir(table))
}

fn checkpoint_path(table: &str, version: u64) -> String {
    format!("{}/{version:020}{CHECKPOINT_SUFFIX}", log_dir(table))
}

/// The version in the name of a file of the log.
fn version_of(name: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_suffix(suffix)?;
    let is_version = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_version.then(|| digits.parse().ok())?
}

/// The error for something that no version of this program writes.
pub fn foreign(file: &str, what: impl Display) -> Error {
    let message =
        format!("{file} {what}; nothing was changed there. Move it, or publish to another place");
    Error::bad_input(ErrorCode::BadTarget, message)
}

/// The state of a table at its newest version.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// The version; none before the first commit.
    pub version: Option<u64>,
    /// The description of the table.
    pub metadata: Option<Metadata>,
    /// The states of the writers.
    pub txns: BTreeMap<String, Txn>,
    /// The files that belong to it, by path.
    pub live: BTreeMap<String, Add>,
    /// The files that belonged to it and may still exist, by path.
    pub removed: BTreeMap<String, Remove>,
    /// Versions that have a checkpoint.
    checkpoints: BTreeSet<u64>,
    /// Versions whose commit exists.
    commits: BTreeSet<u64>,
}

impl Snapshot {
    /// Reads the newest version of a table. Nothing is changed.
    ///
    /// # Errors
    /// `bad_target` for a table with anything that this program does not write, and
    /// [`Error::Damaged`] for a file that cannot be decoded or is missing.
    pub fn read(to: &Destination, table: &str) -> Result<Self> {
        let mut read = Self::default();
        let dir = log_dir(table);
        for path in to.list(&dir)?.into_keys() {
            let name = path.get(dir.len() + 1..).unwrap_or_default();
            if let Some(version) = version_of(name, COMMIT_SUFFIX) {
                read.commits.insert(version);
            } else if let Some(version) = version_of(name, CHECKPOINT_SUFFIX) {
                read.checkpoints.insert(version);
            } else if name != LAST_CHECKPOINT
                && (name.contains(".checkpoint.") || name.ends_with(COMMIT_SUFFIX))
            {
                let what = "is a file of a log with features that this program does not know";
                return Err(foreign(&to.shown(&path), what));
            }
        }
        let start = read.checkpoints.last().copied();
        if let Some(version) = start {
            let path = checkpoint_path(table, version);
            let actions = checkpoint::decode(to.read(&path)?.unwrap_or_default());
            let actions = actions.map_err(|why| damaged(to, &path, version, &why))?;
            read.apply(actions, &to.shown(&path), version)?;
        }
        let next = start.map_or(0, |version| version + 1);
        let last = read.commits.last().copied();
        for version in next..last.map_or(next, |last| last.saturating_add(1).max(next)) {
            let path = commit_path(table, version);
            match read_commit(to, table, version)? {
                Some(actions) => read.apply(actions, &to.shown(&path), version)?,
                None => return Err(damaged(to, &path, version, "it is missing")),
            }
        }
        Ok(read)
    }

    /// Applies the commits of others since this was read: to the newest version.
    ///
    /// # Errors
    /// As [`Snapshot::read`]; then this is at some version of the table, and can go on.
    pub fn follow(&mut self, to: &Destination, table: &str) -> Result<()> {
        let Some(mut version) = self.version else {
            *self = Self::read(to, table)?;
            return Ok(());
        };
        let first = version;
        while let Some(actions) = read_commit(to, table, version + 1)? {
            version += 1;
            self.apply(actions, &to.shown(&commit_path(table, version)), version)?;
            self.commits.insert(version);
        }
        // The next commit may be missing because checkpoints have taken its place.
        if version == first && last_checkpoint(to, table)? > Some(version) {
            *self = Self::read(to, table)?;
        }
        Ok(())
    }

    /// Applies the actions of one file.
    fn apply(&mut self, actions: Vec<Action>, file: &str, version: u64) -> Result<()> {
        let foreign = |what: String| foreign(file, format!("(version {version}) {what}"));
        for action in actions {
            if let Some(name) = action.others.keys().next() {
                return Err(foreign(format!(
                    "has {name:?}, which this program does not know"
                )));
            }
            if let Some(protocol) = action.protocol
                && protocol != Protocol::ours()
            {
                return Err(foreign(format!(
                    "needs reader {} and writer {} with {} lists of features; tables of this program need reader 1 and \
                     writer 2",
                    protocol.min_reader_version,
                    protocol.min_writer_version,
                    protocol.others.len()
                )));
            }
            if let Some(metadata) = action.meta_data {
                self.metadata = Some(metadata);
            }
            if let Some(txn) = action.txn {
                self.txns.insert(txn.app_id.clone(), txn);
            }
            if let Some(remove) = action.remove {
                self.live.remove(&remove.path);
                self.removed.insert(remove.path.clone(), remove);
            }
            if let Some(add) = action.add {
                if let Some(name) = add.others.keys().next() {
                    let path = &add.path;
                    return Err(foreign(format!(
                        "adds {path} with {name:?}, which is not known"
                    )));
                }
                self.removed.remove(&add.path);
                self.live.insert(add.path.clone(), add);
            }
        }
        self.version = Some(version);
        Ok(())
    }

    /// Forgets the files that were removed, for a reader that deletes none.
    pub fn forget_removed(&mut self) {
        self.removed.clear();
    }

    /// The removed files with the times at which they are deleted, in ms since 1970. A file that a
    /// compaction replaced before rows were erased may have these too, and goes together with the
    /// files that had them.
    pub fn deletions(&self) -> Vec<(&str, i64)> {
        let removed = self.removed.values();
        let erased = removed.clone().filter(|remove| remove.has_lost_rows());
        let erased: Vec<(i64, i64)> = erased
            .map(|remove| (remove.deletion_timestamp, remove.delete_at()))
            .collect();
        let deletions = removed.map(|remove| {
            let later = erased
                .iter()
                .filter(|(at, _)| *at >= remove.deletion_timestamp);
            let earliest = later.map(|(_, delete_at)| *delete_at).min();
            let delete_at = remove.delete_at();
            let delete_at = earliest.map_or(delete_at, |earliest| earliest.min(delete_at));
            (remove.path.as_str(), delete_at)
        });
        deletions.collect()
    }

    /// Writes the next version, unless another writer has written it meanwhile. `id` is that of the
    /// commit.
    ///
    /// # Errors
    /// If it cannot be written. It may be in the log all the same: it must be read again.
    pub fn commit(
        &mut self,
        to: &Destination,
        table: &str,
        id: &str,
        actions: &[Action],
    ) -> Result<Commit> {
        let version = self.version.map_or(0, |version| version + 1);
        let path = commit_path(table, version);
        let mut lines = Vec::new();
        for action in actions {
            // Writing to memory cannot fail.
            serde_json::to_writer(&mut lines, action).unwrap_or_default();
            lines.push(b'\n');
        }
        if to.create(&path, &lines)? == Created::Taken {
            // The response to an earlier request of ours may have been lost.
            let found = read_commit(to, table, version)?.unwrap_or_default();
            let is_ours = |info: &CommitInfo| info.txn_id == id;
            let mut infos = found
                .iter()
                .filter_map(|action| action.commit_info.as_ref());
            if !infos.any(is_ours) {
                return Ok(Commit::Conflict);
            }
        }
        self.commits.insert(version);
        self.apply(actions.to_vec(), &to.shown(&path), version)?;
        Ok(Commit::Done)
    }

    /// True if a checkpoint is due: a multiple of [`COMMITS_PER_CHECKPOINT`] has passed since the
    /// last one.
    fn is_checkpoint_due(&self) -> bool {
        let due = self.version.unwrap_or(0) / COMMITS_PER_CHECKPOINT;
        let last = self.checkpoints.last().copied().unwrap_or(0);
        due > last / COMMITS_PER_CHECKPOINT
    }

    /// Writes a checkpoint of this version if one is due, and then removes what is older than the
    /// one before, which readers may still use.
    ///
    /// # Errors
    /// If a file cannot be written or removed; the table is complete all the same.
    pub fn checkpoint(&mut self, to: &Destination, table: &str) -> Result<()> {
        let Some(version) = self.version.filter(|_| self.is_checkpoint_due()) else {
            return self.remove_old(to, table);
        };
        let mut actions: Vec<Action> = vec![Protocol::ours().into()];
        actions.extend(self.metadata.clone().map(Action::from));
        actions.extend(self.txns.values().cloned().map(Action::from));
        actions.extend(self.removed.values().cloned().map(|remove| {
            let data_change = false;
            Action::from(Remove {
                data_change,
                ..remove
            })
        }));
        actions.extend(self.live.values().cloned().map(|add| {
            let data_change = false;
            Action::from(Add { data_change, ..add })
        }));
        to.write(
            &checkpoint_path(table, version),
            &checkpoint::encode(&actions)?,
        )?;
        self.checkpoints.insert(version);
        let pointer = serde_json::json!({"version": version, "size": actions.len()});
        let pointer_path = format!("{}/{LAST_CHECKPOINT}", log_dir(table));
        to.write(&pointer_path, pointer.to_string().as_bytes())?;
        self.remove_old(to, table)
    }

    /// Removes commits and checkpoints that are older than the last checkpoint but one.
    fn remove_old(&mut self, to: &Destination, table: &str) -> Result<()> {
        let Some(&kept) = self.checkpoints.iter().rev().nth(1) else {
            return Ok(());
        };
        // Checkpoints last: with commits alone a reader could not begin.
        while let Some(&version) = self.commits.first().filter(|version| **version < kept) {
            to.remove(&commit_path(table, version))?;
            self.commits.remove(&version);
        }
        while let Some(&version) = self.checkpoints.first().filter(|version| **version < kept) {
            to.remove(&checkpoint_path(table, version))?;
            self.checkpoints.remove(&version);
        }
        Ok(())
    }
}

/// The version of the newest checkpoint; none before the first.
fn last_checkpoint(to: &Destination, table: &str) -> Result<Option<u64>> {
    let path = format!("{}/{LAST_CHECKPOINT}", log_dir(table));
    let pointer = to.read(&path)?.unwrap_or_default();
    let pointer: serde_json::Value = serde_json::from_slice(&pointer).unwrap_or_default();
    Ok(pointer.get("version").and_then(serde_json::Value::as_u64))
}

/// The outcome of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// It is in the log.
    Done,
    /// Another writer has this version: the table must be read again.
    Conflict,
}

/// The actions of a commit; none if it does not exist.
fn read_commit(to: &Destination, table: &str, version: u64) -> Result<Option<Vec<Action>>> {
    let path = commit_path(table, version);
    let Some(lines) = to.read(&path)? else {
        return Ok(None);
    };
    let lines = lines.split(|&byte| byte == b'\n');
    let lines = lines.filter(|line| !line.is_empty());
    let actions = lines.map(serde_json::from_slice).collect::<Result<_, _>>();
    let actions: Vec<Action> =
        actions.map_err(|error| damaged(to, &path, version, &error.to_string()))?;
    if actions.is_empty() {
        return Err(damaged(to, &path, version, "it is empty"));
    }
    Ok(Some(actions))
}

fn damaged(to: &Destination, path: &str, version: u64, why: &str) -> Error {
    Error::Damaged {
        file: to.shown(path).into(),
        message: format!(
            "version {version} of the table cannot be read ({why}); nothing was changed there. Restore it, or publish to \
             another place"
        ),
    }
}
