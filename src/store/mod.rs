//! Everything that touches the data folder. The modules show the life of an event, one way down:
//! `open` and `jobs` → [`Store`] → `ingest` → `read` → `version` → `erased` → `files`.
//!
//! - `ingest`: an event is accepted, durable in the event log, and visible in the tail, in memory.
//! - `jobs`: seals turn logs into segments and daily states; compaction, indexing, expiry and
//!   erasure change them. Imported events become segments at once (`load`).
//! - `version`: the committed state as one immutable value, and the transaction that replaces it.
//! - `read`: queries read a snapshot of version and tail; no lock is held meanwhile.
//! - `files`: one kind of file each, which know neither a job nor the manifest.
//! - `held`: events that a tracking plan keeps out of the log, in a file of their own.
//! - `capture`, `inspect`: the files of one moment, for a backup, and what a start would find, both
//!   read without the lock of the folder.
//!
//! # Lock order
//! A thread takes locks in this order only, which `lock` checks in builds with debug assertions: 1
//! the permit to erase (compaction and indexing only try it) → 2 the transaction → 3 the state of
//! single jobs (retired day folders, expired ids, position of the scrub) → 4 recent event ids → 5
//! admission of names → 6 the file of held events → 7 the published version and the tail (for
//! microseconds: never across I/O, never while a large frame is built) → 8 erased users → 9
//! leaves. A seal waits for the writer thread inside a transaction, therefore the writer thread
//! takes 4 to 9 only. Scrub takes no transaction: it reads a version, whose files stay readable.

pub mod capture;
mod clock;
mod erased;
pub mod files;
mod held;
mod ingest;
pub mod inspect;
mod jobs;
mod lock;
mod open;
pub mod pipeline;
mod read;
#[cfg(test)]
mod tests;
mod version;

use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::config::StoreConfig;
use crate::dictionary::Dictionaries;
use crate::error::{Error, ErrorCode, Result};
use crate::monitoring::Monitoring;
use files::folder::{Folder, Purpose};
use held::HeldEvents;
use ingest::Ingest;
use jobs::Jobs;
use read::Reader;
use version::VersionControl;

pub use clock::Received;
pub use erased::{ErasedIds, ErasureTimes};
pub use files::held_file::{HeldEvent, HoldReason};
pub use files::identity::is_displaced;
pub use files::ownership::{FOLDERS, MARK_FILE, Mark};
pub use files::recovery::Recovered;
pub use files::rows::write_lines;
pub use files::segment::LAKE_DIR;
pub use files::shape::{ALERTS_FILE, ERASURES_FILE, EVENT_LOG_FILE, MANIFEST_FILE};
pub use files::{audit, folder, scan};
pub use held::{HeldBatch, HeldCounts, HeldReply, HeldSize, Hold, Keep, MAX_HELD_BYTES, read_held};
pub use ingest::admission::{NameUse, RestCounts};
pub use ingest::batch::{BatchBuilder, WriteBatch};
pub use ingest::live::{Commit, Subscription};
pub use ingest::rate::Accepted;
pub use ingest::statements::{Call, Calls, Statements};
pub use ingest::writer::{Reply, Stored};
pub use jobs::{
    CompactionScope, Compactions, Erased, ErasureLimit, Expired, Loaded, Part, Rebuilt,
    RepeatedErasures, SealUrgency, Sealed, SharedTableMeta, Verified, repeat_erasures, verify,
    verify_with,
};
pub use read::{
    Batch, Columns, DayOfEvents, DayPart, DayParts, ExportPartMeta, JoinedDay, LogOrder, PartKey,
    SealedDay, SealedSegment, SealedVersion, StoreSize, SystemEvents, Tables, ValuePart, ValuesOf,
    count_of, read_day, rewrite, rewrite_without,
};
pub(crate) use version::Manifest;
pub use version::{Clock, ExpiryMeta, ExpiryPolicy};

/// The open store. Dropping it commits the queue and unlocks the folder.
pub struct Store {
    // Fields are dropped in order: the writer ends before the folder is unlocked.
    ingest: Ingest,
    held: HeldEvents,
    reader: Reader,
    versions: Arc<VersionControl>,
    jobs: Jobs,
    folder: Folder,
    recovered: Recovered,
    monitoring: Arc<Monitoring>,
}

impl Store {
    /// Opens the data folder, reads the log back and starts the writer. `holder` identifies this
    /// process to others.
    ///
    /// # Errors
    /// [`Error::Held`] if another process has the folder, [`Error::Damaged`] if the manifest or the
    /// dictionary is.
    pub fn open(config: &StoreConfig, holder: &str, now: DateTime<Utc>) -> Result<Self> {
        Self::open_for(config, holder, Purpose::Change, now)
    }

    /// Opens the data folder for a purpose: one that cannot be written can be read as it is.
    ///
    /// # Errors
    /// As [`Store::open`] and [`Folder::open`].
    pub fn open_for(
        config: &StoreConfig,
        holder: &str,
        purpose: Purpose,
        now: DateTime<Utc>,
    ) -> Result<Self> {
        open::open(config, holder, purpose, now)
    }

    /// The names of users and features.
    pub fn names(&self) -> &Dictionaries {
        &self.ingest.maker.names
    }

    /// The ids under which a user may be stored: the clear one, and the pseudonym if there are any.
    pub fn stored_ids(&self, user: &str) -> Vec<String> {
        let pseudonyms = self.ingest.maker.pseudonyms.as_ref();
        let pseudonym = pseudonyms.map(|pseudonyms| pseudonyms.of(user));
        let mut ids = vec![user.to_owned()];
        ids.extend(pseudonym.filter(|pseudonym| pseudonym != user));
        ids
    }

    /// The ids of a user who is named in a request, with all that are linked to it.
    ///
    /// # Errors
    /// `user_key_needed` if no user has this id, and there are pseudonyms whose key was not given:
    /// of an earlier version, or of an import.
    pub fn ids_of(&self, user: &str) -> Result<Vec<String>> {
        let users = &self.names().users;
        let is_known = self.ingest.maker.pseudonyms.is_some()
            || ingest::pseudonym::is_pseudonym(user)
            || users.find(user).is_some();
        let mut ids = (0..users.len() as u32).filter_map(|number| users.text(number));
        if !is_known && ids.any(|id| ingest::pseudonym::is_pseudonym(&id)) {
            return Err(Error::bad_input(
                ErrorCode::UserKeyNeeded,
                "no user is stored under this id, and others are stored under keyed hashes: give the file \
                 of the key with --user-key-file, or use the hash as the id",
            ));
        }
        let mut ids = self.stored_ids(user);
        if let Some(canonical) = self.canonical() {
            let codes = ids.iter().filter_map(|id| users.find(id));
            let codes = codes.flat_map(|code| canonical.ids_of(code));
            let linked = codes
                .filter_map(|code| users.text(code))
                .collect::<Vec<_>>();
            ids.extend(linked);
            ids.sort_unstable();
            ids.dedup();
        }
        Ok(ids)
    }

    /// Result of reading the log back at the start.
    pub fn recovered(&self) -> Recovered {
        self.recovered
    }

    /// The data folder.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The counters of the process, those of everything above the store included.
    pub fn monitoring(&self) -> &Arc<Monitoring> {
        &self.monitoring
    }
}
