//! Publication of a store to a table that it shares with other servers: the events with numbers up
//! to one that the table has. Later versions of the store publish those with greater numbers.
//!
//! A compaction joins no published events with others, or the number of the joined segment would
//! say the wrong thing about some of them. `publication.json` has the numbers up to which events
//! are or may be published; it is written before the table is, so that processes without a table
//! keep to it too.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::erase::Erasures;
use crate::error::{Error, ErrorCode, Result};
use crate::store::files::folder::Folder;
use crate::store::files::segment::SegmentMeta;
use crate::store::files::shape::PUBLICATION_FILE;
use crate::store::{SealedVersion, Store};

/// The shared table of a store, as `publication.json` has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedTableMeta {
    /// Id of the server in the table; empty if the store shares no table.
    pub server: String,
    /// The place of the table.
    pub to: String,
    /// Numbers up to which events are published: the last one that is known, and those of attempts
    /// of which it is not known.
    pub through: BTreeSet<u64>,
    /// The server was retired from the table.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retired: bool,
}

impl SharedTableMeta {
    pub(super) fn load(folder: &Folder) -> Result<Self> {
        folder.read_json(PUBLICATION_FILE)
    }

    fn save(&self, folder: &Folder) -> Result<()> {
        folder.replace_json(PUBLICATION_FILE, self)
    }

    /// True if one of two neighbours may be published and the other not.
    pub(super) fn are_apart(&self, first: &SegmentMeta, second: &SegmentMeta) -> bool {
        let (first, second) = (first.place_number(), second.place_number());
        let mut through = self.through.iter();
        through.any(|through| (first <= *through) != (second <= *through))
    }
}

impl Store {
    /// The shared table of the store.
    ///
    /// # Errors
    /// If its file cannot be read.
    pub fn shared_table(&self) -> Result<SharedTableMeta> {
        SharedTableMeta::load(&self.folder)
    }

    /// Records that the store publishes to a place under an id.
    ///
    /// # Errors
    /// `bad_target` if it publishes to another place or under another id: the table there has its
    /// events already. The same if it was retired from its table.
    pub fn share_table(&self, server: &str, to: &str) -> Result<()> {
        let mut known = self.shared_table()?;
        if known.retired {
            let message = format!(
                "the server {:?} was retired from the table at {}; start with an empty data folder (--data-dir) and a new \
                 --server-id",
                known.server, known.to
            );
            return Err(Error::bad_input(ErrorCode::BadTarget, message));
        }
        if (known.server.as_str(), known.to.as_str()) == (server, to) {
            return Ok(());
        }
        if !known.server.is_empty() {
            let message = format!(
                "this data folder publishes to {} as {:?}; go on there, or use another data folder",
                known.to, known.server
            );
            return Err(Error::bad_input(ErrorCode::BadTarget, message));
        }
        known.server = server.to_owned();
        known.to = to.to_owned();
        known.save(&self.folder)
    }

    /// Records that the server was retired from the table: its next start fails.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub fn note_retired(&self) -> Result<()> {
        let _transaction = self.begin()?;
        let mut known = self.shared_table()?;
        if known.retired {
            return Ok(());
        }
        known.retired = true;
        known.save(&self.folder)
    }

    /// Records that the table has the events with numbers up to one.
    ///
    /// # Errors
    /// `bad_target` if this folder has not published them, and if the file cannot be written.
    pub fn note_published(&self, through: u64) -> Result<()> {
        // No compaction reads it meanwhile.
        let _transaction = self.begin()?;
        let mut known = self.shared_table()?;
        if through > 0 && !known.through.contains(&through) {
            let message = format!(
                "the table at {} has events that server {:?} published from another state of its data folder, such as \
                 the one before a restore; nothing more is published",
                known.to, known.server
            );
            return Err(Error::bad_input(ErrorCode::BadTarget, message));
        }
        let numbers = BTreeSet::from([through]);
        if known.through != numbers {
            known.through = numbers;
            known.save(&self.folder)?;
        }
        Ok(())
    }

    /// The version that is to be published to the shared table, whose number is recorded. `None`
    /// while an erasure is not complete, or while segments have names of an earlier version.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub fn version_to_share(&self) -> Result<Option<SealedVersion>> {
        let Some(_no_erasure) = self.jobs.erasure.keep_out() else {
            return Ok(None);
        };
        let transaction = self.begin()?;
        let base = transaction.base();
        let mut days = base.by_day().into_values();
        let is_in_order = days.all(|day| day.is_sorted_by(|a, b| a.path < b.path));
        if !is_in_order || Erasures::is_pending(&self.folder)? {
            return Ok(None);
        }
        let mut known = self.shared_table()?;
        let last = base.segment_metas().map(SegmentMeta::place_number).max();
        if last.is_some_and(|last| known.through.insert(last)) {
            known.save(&self.folder)?;
        }
        Ok(Some(SealedVersion::of(base)))
    }
}
