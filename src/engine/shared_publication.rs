//! A server that publishes to a table of several servers (`serve --publish TO --server-id ID`): its
//! own events, the erasures that any of them is asked for, and the joining of days that are over.
//!
//! Before its first publication it learns of the users who were erased before it came.

use std::collections::BTreeSet;

use chrono::Utc;
use tracing::info;

use super::Engine;
use super::publication::{Done, ErasedHere, SharedTarget, SharedWork, StoreState};
use super::tables::now_ms;
use crate::error::{Error, ErrorCode, Result};
use crate::export::delta::data_file;
use crate::export::delta::shared::{ServerFile, SharedTable};
use crate::export::delta::{erased_ids, erasures};
use crate::export::destination::Destination;
use crate::export::layout::RunId;

/// Erasures that were applied to a table.
#[derive(Default)]
struct Applied {
    /// Time at which the last file with erased events is deleted, in ms since 1970.
    erased_go_at: Option<i64>,
    /// Servers that have not applied one yet.
    erasing: Vec<String>,
    /// True if one is not complete.
    is_open: bool,
}

impl Engine {
    /// Publishes what is sealed, applies erasures, and joins days that are over.
    ///
    /// # Errors
    /// As [`SharedTable::open`], [`SharedTable::publish`] and
    /// [`Store::note_published`](crate::store::Store::note_published), and if an erasure fails.
    pub(super) fn publish_shared(
        &self,
        to: &Destination,
        target: &SharedTarget,
        shared: &mut SharedWork,
        state: StoreState,
        erasures: Option<u64>,
    ) -> Result<()> {
        let table = &mut shared.table;
        let opened = table.open(to, now_ms());
        if table.is_retired() {
            self.store.note_retired()?;
        }
        self.store.note_published(opened?.0)?;
        let mut erased_go_at = None;
        if !shared.knows_erased {
            erased_go_at = self.learn_erased(to, target, table)?.erased_go_at;
            shared.knows_erased = true;
        }
        let Some(version) = self.store.version_to_share()? else {
            return Ok(());
        };
        let files = version.segments.iter().map(|segment| ServerFile {
            number: segment.number(),
            file: data_file(segment),
        });
        let files: Vec<ServerFile<'_>> = files.collect();
        let mut events = table.publish(to, &files, version.raw_from, now_ms())?;
        self.store.note_published(table.through()?.0)?;
        let applied = self.apply_erasures(to, target, table)?;
        let after = target.join_after.as_millis();
        // A server that completes an erasure later removes the users from all files of several
        // servers: these must not have events of users who came back meanwhile.
        let days = match applied.is_open {
            true => 0,
            false => table.join_days(to, i64::try_from(after).unwrap_or(i64::MAX), now_ms)?,
        };
        if days > 0 {
            info!(days, "Joined the files of {days} days of the table");
        }
        events.version = table.version();
        events.erased_go_at = applied.erased_go_at.max(erased_go_at);
        self.note_publication(Done {
            store: (version.fingerprint(), state.1),
            added: events.added,
            events,
            erasures,
            erasing: applied.erasing,
        });
        table.tidy(to, now_ms())
    }

    /// Erases the users who were erased by the servers of the table while this one did not run, or
    /// before it came: nothing of theirs is published, and none of their events accepted.
    fn learn_erased(
        &self,
        to: &Destination,
        target: &SharedTarget,
        table: &mut SharedTable,
    ) -> Result<Applied> {
        // As before every mark of an erasure: what was left unpublished may have their events.
        table.remove_left(to)?;
        // First the open records, then the hashes: these are added before a record goes.
        let applied = self.apply_erasures(to, target, table)?;
        if let Some(erased) = erased_ids::read(to)? {
            let found = self.store.learn_erased(&erased)?;
            if !found.is_empty() {
                let now = Utc::now();
                let erased = self.erase_here(&found, now)?.erased;
                self.record_finished_erasure(found.len(), erased.events, now);
            }
        }
        Ok(applied)
    }

    /// Erases the users whom any server was asked to erase, here and in the files that are this
    /// server's or belong to no server.
    fn apply_erasures(
        &self,
        to: &Destination,
        target: &SharedTarget,
        table: &mut SharedTable,
    ) -> Result<Applied> {
        let mut applied = Applied::default();
        for mut record in erasures::open(to)? {
            // A request erases them here, and its receipt says what was removed.
            if self.is_erasing(&record.id) {
                applied.is_open = true;
                continue;
            }
            if !record.is_done(&target.server, table.members()?.retired) {
                let now = Utc::now();
                let ids = self.all_ids_of(&record.users)?;
                let only_here = ids.iter().filter(|id| !record.users.contains(id));
                let only_here: Vec<String> = only_here.cloned().collect();
                if !only_here.is_empty() {
                    // The other servers may have events of aliases that this one alone knows.
                    erasures::record(to, &RunId::new()?, &only_here)?;
                }
                let erased = self.erase_here(&record.users, now)?.erased;
                let known = erased_ids::add(to, &record.id, &record.users, Utc::now())?;
                self.store.note_erased(&known)?;
                let users: Vec<&str> = ids.iter().map(String::as_str).collect();
                let outcome = table.erase(to, &users, now_ms())?;
                applied.erased_go_at = applied.erased_go_at.max(outcome.erased_go_at);
                if erased.events > 0 || erased.identity_calls > 0 {
                    self.record_finished_erasure(users.len(), erased.events, now);
                }
            }
            let members = table.members()?;
            erasures::done(to, &mut record, &target.server, &members)?;
            applied.erasing.extend(record.waiting(&members).cloned());
        }
        applied.is_open |= !applied.erasing.is_empty();
        applied.erasing.sort_unstable();
        applied.erasing.dedup();
        Ok(applied)
    }

    /// Records all ids of users next to the table to which several servers publish, before a
    /// request erases them here: each server erases them then, also if this one stops at once. None
    /// without such a table.
    ///
    /// # Errors
    /// If the table cannot be reached, and `shared_table` if this process does not publish to it.
    pub(super) fn record_erasure(&self, ids: &[String]) -> Result<Option<ErasedHere<'_>>> {
        let Some(to) = self.shared_target() else {
            let known = self.store.shared_table()?;
            // The table is not that of a retired server any more: its others erase there.
            if known.server.is_empty() || known.retired {
                return Ok(None);
            }
            let message = format!(
                "the events of this data folder are also in the table of several servers at {}; nothing was erased. Start \
                 its server with --publish and --server-id {}, and repeat the request there",
                known.to, known.server
            );
            return Err(Error::bad_input(ErrorCode::SharedTable, message));
        };
        // The ids by which they are stored: pseudonyms where there are pseudonyms.
        let stored = ids.iter().filter_map(|id| self.store.stored_ids(id).pop());
        let stored: BTreeSet<String> = stored.collect();
        let stored: Vec<String> = stored.into_iter().collect();
        let id = RunId::new()?;
        let erased = self.erased_here(id.as_str());
        erasures::record(to, &id, &stored)?;
        Ok(Some(erased))
    }
}
