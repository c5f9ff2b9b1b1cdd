//! Export of the lake: one folder per day with the day's files, and `export.json`, which lists all
//! files ([`list`]).
//!
//! The replacement of the list is the one step that changes an export:
//!
//! 1. The list names the files that are about to be written (`pending`), so that the next export
//!    recognises them as its own.
//! 2. All new files are written to a temporary folder. Their names were never used before.
//! 3. The files are published, and the list names them instead of the old ones.
//! 4. Files that the list does not name any more are removed.
//!
//! So a reader of the list finds complete files of one export, whatever is interrupted. A reader
//! that lists the folder finds old and new files together between 3 and 4, and after a crash in
//! between until the next export.
//!
//! With `--since last` a day with the same segments as in the last export is skipped. Days that an
//! interrupted export wrote already are not written again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use chrono::NaiveDate;
use serde::Serialize;
use tracing::warn;

use super::delta;
use super::destination::Destination;
use super::layout::{self, EVENTS_DIR, ROLLUP_DIRS, RunId, is_rollup_table};
use super::list::{self, ExportList, ExportedDay, ExportedFile, Signed};
use super::rollups::Rollups;
use super::warehouse::Warehouse;
use crate::error::{Error, ErrorCode, Result};
use crate::store::{self, ExportPartMeta, Mark, SealedDay, files, pipeline};

/// Approximate maximum size of a file: the upper end of what warehouses load efficiently.
const PART_BYTES: u64 = 200 << 20;
/// Days after which the list is saved, so that few are written again after an interruption.
const DAYS_PER_SAVE: usize = 16;

/// The days to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Since {
    /// Days that changed since the last export to this destination.
    Last,
}

/// The scope of the days in a [`Source`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Some days of the store.
    Some,
    /// All days of the store: other days in the export were erased, or expired.
    All,
}

/// The result of an export.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// Days written.
    pub days: usize,
    /// Days that did not change since the last export.
    pub unchanged: usize,
    /// Days removed, because their events were erased or expired.
    pub removed: usize,
    /// Files written.
    pub files: usize,
    /// Events in these files.
    pub events: u64,
    /// Size of these files.
    pub bytes: u64,
}

/// The days of a store.
pub struct Source<'a> {
    /// The days, with their events.
    pub days: &'a [SealedDay],
    /// Days before this one expired in the store. The export keeps them: a late event of such a
    /// day must not replace all of it.
    pub kept_from: Option<NaiveDate>,
    /// Identity and key of the store.
    pub mark: &'a Mark,
}

/// An export in progress.
pub struct Export<'a> {
    source: &'a Source<'a>,
    to: &'a Destination,
    list: ExportList,
    /// Files that an export of this store wrote, and may overwrite and remove.
    owned: BTreeSet<String>,
    /// All files in the folders of the export, with their sizes.
    present: BTreeMap<String, u64>,
    /// Part of the names of the files that it writes.
    run: RunId,
    /// Files other than those of days that this export writes.
    others: BTreeSet<String>,
    /// Days to remove from the export.
    gone: Vec<NaiveDate>,
}

impl<'a> Export<'a> {
    /// Reads the list and the files of the destination. Nothing is changed.
    ///
    /// # Errors
    /// As [`ExportList::load`].
    pub fn open(source: &'a Source<'a>, to: &'a Destination) -> Result<Self> {
        let list = ExportList::load(to, source.mark)?;
        let mut present = BTreeMap::new();
        let warehouses = Warehouse::ALL.map(Warehouse::name);
        let tables = [EVENTS_DIR].into_iter().chain(ROLLUP_DIRS);
        for dir in tables.chain(warehouses) {
            present.extend(to.list(dir)?);
        }
        let log = delta::log::log_dir(EVENTS_DIR);
        if present.keys().any(|name| name.starts_with(&log)) {
            let message = format!(
                "{} belongs to a table; export to another folder, or with --for delta",
                to.shown(&log)
            );
            return Err(Error::bad_input(ErrorCode::BadTarget, message));
        }
        let mut owned = list.names();
        if list.signed == Signed::No {
            owned.clear();
            for file in list.day_files() {
                if is_as_listed(to, &present, file)? {
                    owned.insert(file.path.clone());
                }
            }
            // Earlier versions wrote them, and did not list them.
            if !list.days.is_empty() {
                owned.extend(list::unlisted_names(&present));
            }
        }
        Ok(Self {
            source,
            to,
            list,
            owned,
            present,
            run: RunId::new()?,
            others: BTreeSet::new(),
            gone: Vec::new(),
        })
    }

    /// Saves the names of files that are about to be written, which makes the folder an export,
    /// and removes the files of an interrupted export.
    ///
    /// # Errors
    /// `bad_target` if a file of another program has one of the names; then nothing was changed.
    fn claim(&mut self, names: BTreeSet<String>) -> Result<()> {
        for name in &names {
            let above = name.match_indices('/').filter_map(|(at, _)| name.get(..at));
            let in_the_way = above
                .filter(|above| self.present.contains_key(*above))
                .chain(
                    (self.present.contains_key(name) && !self.owned.contains(name))
                        .then_some(name.as_str()),
                )
                .next();
            if let Some(other) = in_the_way {
                return Err(Error::bad_input(
                    ErrorCode::BadTarget,
                    format!(
                        "{} exists and was not written by an export of this store; nothing was \
                         changed. Move it, or choose another folder",
                        self.to.shown(other)
                    ),
                ));
            }
        }
        let left_over: Vec<String> = self.list.pending.iter().cloned().collect();
        self.list.pending.extend(names.iter().cloned());
        self.save()?;
        let named = self.list.files_of_export();
        for name in left_over.iter().filter(|name| !named.contains(*name)) {
            self.remove(name)?;
        }
        self.owned.extend(names);
        Ok(())
    }

    fn save(&mut self) -> Result<()> {
        self.list.save(self.to, self.source.mark)
    }

    /// Writes the files of the days that are due. `others` are the names of all other files that
    /// will be written, except for the rollup tables. `progress` is called with the number of
    /// events done, and may cancel.
    ///
    /// # Errors
    /// As [`Export::open`]; if a segment is damaged or a file cannot be written. Then the export
    /// is unchanged.
    pub fn write_days(
        &mut self,
        scope: Scope,
        since: Option<Since>,
        others: BTreeSet<String>,
        mut progress: impl FnMut(u64) -> Result<()>,
    ) -> Result<Exported> {
        let mut exported = Exported::default();
        let source = self.source;
        let (unchanged, due): (Vec<&SealedDay>, Vec<&SealedDay>) = source
            .days
            .iter()
            .partition(|day| self.keeps(day) || since == Some(Since::Last) && self.has(day));
        let mut staged = self.take_staged()?;
        staged.retain(|day, made| {
            let is_due =
                |of_store: &&SealedDay| of_store.day == *day && of_store.sources() == made.sources;
            due.iter().any(is_due)
        });
        let rows = |days: &[&SealedDay]| days.iter().map(|day| day.rows()).sum::<u64>();
        exported.days = due.len();
        exported.unchanged = unchanged.len();
        exported.events = rows(&due);
        let (made, to_make): (Vec<&SealedDay>, Vec<&SealedDay>) = due
            .into_iter()
            .partition(|day| staged.contains_key(&day.day));
        self.others = others;
        self.others.extend(layout::rollup_paths(&self.run));
        let mut names = self.others.clone();
        names.extend(to_make.iter().flat_map(|day| part_names(day, &self.run)));
        names.extend(files_of(&staged).map(|file| file.path.clone()));
        self.list.staged = staged;
        self.claim(names)?;
        let mut done = rows(&unchanged) + rows(&made);
        progress(done)?;
        let mut waiting = to_make.into_iter();
        let (to, run) = (self.to, self.run.clone());
        pipeline::ordered(
            || Ok(waiting.next()),
            |day| Ok((day, write_day(day, to, &run)?)),
            |written: Result<(&SealedDay, ExportedDay)>| {
                let (day, written) = written?;
                self.list.staged.insert(day.day, written);
                if self.list.staged.len().is_multiple_of(DAYS_PER_SAVE) {
                    self.save()?;
                }
                done += day.rows();
                progress(done)
            },
        )?;
        for file in files_of(&self.list.staged) {
            exported.files += 1;
            exported.bytes += file.meta.bytes;
        }
        if scope == Scope::All {
            let kept: BTreeSet<NaiveDate> = source.days.iter().map(|day| day.day).collect();
            self.gone = self.days_without(&kept);
            exported.removed = self.gone.len();
        }
        self.rewrite_expired(|path, temp| {
            if layout::is_old_part(&path.to_string_lossy()) {
                store::rewrite(path, temp).map(Some)
            } else {
                Ok(None)
            }
        })?;
        Ok(exported)
    }

    /// Writes the rollup tables.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn write_rollups(&mut self, rollups: Rollups) -> Result<()> {
        for (path, bytes) in rollups.files(&self.run)? {
            self.to.stage_bytes(&path, &bytes)?;
        }
        Ok(())
    }

    /// Commits the export: publishes the files it wrote, and removes those that it replaces.
    ///
    /// # Errors
    /// If a file cannot be written or removed.
    pub fn finish(mut self) -> Result<()> {
        let staged = std::mem::take(&mut self.list.staged);
        let tables = self.others.iter().filter(|name| is_rollup_table(name));
        let of_days = files_of(&staged).map(|file| &file.path);
        let names: Vec<String> = of_days.chain(tables).cloned().collect();
        self.to.publish_staged(&names)?;
        for file in files_of(&staged) {
            self.present.insert(file.path.clone(), file.meta.bytes);
        }
        self.list.days.extend(staged);
        let gone = std::mem::take(&mut self.gone);
        self.list.days.retain(|day, _| !gone.contains(day));
        if !self.others.is_empty() {
            self.list.files.retain(|name| !is_rollup_table(name));
            self.list.files.append(&mut self.others);
        }
        let named = self.list.files_of_export();
        let is_old = |name: &String| !named.contains(name) && self.owned.contains(name);
        let old = self.present.keys().filter(|name| is_old(name));
        self.list.pending = old.cloned().collect();
        // The step that changes the export.
        self.save()?;
        self.remove_orphans()?;
        if !self.list.pending.is_empty() {
            self.list.pending.clear();
            self.save()?;
        }
        self.to.remove_empty(EVENTS_DIR)?;
        self.to.clear_staged()
    }

    /// Removes users from an export in a folder, which gets `tables` in the place of its own. They
    /// are erased in the store already; days that only the export has are read and rewritten.
    ///
    /// # Errors
    /// As [`Export::write_days`].
    pub fn refresh(mut self, erased: &[&str], tables: Rollups) -> Result<()> {
        let source = self.source;
        let changed: Vec<&SealedDay> = source
            .days
            .iter()
            .filter(|day| self.list.days.contains_key(&day.day))
            .filter(|day| !self.keeps(day) && !self.has(day))
            .collect();
        // Days of an interrupted export may contain the users.
        self.list.staged.clear();
        let names = changed.iter().flat_map(|day| part_names(day, &self.run));
        let mut names: BTreeSet<String> = names.collect();
        // The links have ids of users.
        if self.list.files.iter().any(|name| is_rollup_table(name)) {
            self.others.extend(layout::rollup_paths(&self.run));
            names.extend(self.others.clone());
        }
        self.claim(names)?;
        if !self.others.is_empty() {
            self.write_rollups(tables)?;
        }
        for day in changed {
            let written = write_day(day, self.to, &self.run)?;
            self.list.staged.insert(day.day, written);
        }
        self.rewrite_expired(|path, temp| store::rewrite_without(path, temp, erased))?;
        self.gone = self.days_without(&self.days_of_store());
        self.finish()
    }

    /// Rewrites files of days that expired in the store, and that only this export has. `rewrite`
    /// returns `None` for files that it keeps.
    fn rewrite_expired(
        &mut self,
        mut rewrite: impl FnMut(&Path, &Path) -> Result<Option<ExportPartMeta>>,
    ) -> Result<()> {
        let of_store = self.days_of_store();
        let is_expired = |day: &NaiveDate| self.source.kept_from.is_some_and(|from| *day < from);
        let expired: Vec<(NaiveDate, ExportedDay)> = self
            .list
            .days
            .iter()
            .filter(|(day, _)| is_expired(day) && !of_store.contains(day))
            .map(|(day, exported)| (*day, exported.clone()))
            .collect();
        // Files in a bucket are not rewritten.
        let Destination::Folder(root) = self.to else {
            return Ok(());
        };
        for (day, mut exported) in expired {
            let mut names = BTreeSet::new();
            for (place, file) in exported.files.iter_mut().enumerate() {
                if !self.present.contains_key(&file.path) || !self.owned.contains(&file.path) {
                    continue;
                }
                let name = layout::part_path(day, place, &self.run);
                let path = root.path.join(&file.path);
                let temp = self.to.staged_path(&name)?;
                let written = files::or_remove(&temp, || rewrite(&path, &temp))?;
                if let Some(meta) = written {
                    names.insert(name.clone());
                    *file = ExportedFile { path: name, meta };
                }
            }
            if !names.is_empty() {
                self.claim(names)?;
                self.list.staged.insert(day, exported);
            }
        }
        Ok(())
    }

    /// Compares the files with the list. Returns a message for each damaged file.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn verify(&self) -> Result<Vec<String>> {
        let mut damage = Vec::new();
        for file in self.list.day_files() {
            if !is_as_listed(self.to, &self.present, file)? {
                damage.push(format!(
                    "{} is damaged: its size or checksum differs from the list; export again",
                    self.to.shown(&file.path)
                ));
            }
        }
        Ok(damage)
    }

    /// True if a day expired in the store, which has only late events of it.
    fn keeps(&self, day: &SealedDay) -> bool {
        self.source.kept_from.is_some_and(|from| day.day < from)
            && self.list.days.contains_key(&day.day)
    }

    /// True if the export has a day with the segments of the store.
    fn has(&self, day: &SealedDay) -> bool {
        self.list.days.get(&day.day).is_some_and(|exported| {
            let is_complete = |file: &ExportedFile| {
                self.present.get(&file.path) == Some(&file.meta.bytes)
                    && self.owned.contains(&file.path)
            };
            exported.sources == day.sources()
                && exported.files.iter().all(is_complete)
                && !exported
                    .files
                    .iter()
                    .any(|file| layout::is_old_part(&file.path))
        })
    }

    /// Takes the days that an interrupted export wrote, if all of their files still exist.
    fn take_staged(&mut self) -> Result<BTreeMap<NaiveDate, ExportedDay>> {
        let mut staged = std::mem::take(&mut self.list.staged);
        if staged.is_empty() {
            return Ok(staged);
        }
        let present = self.to.staged()?;
        let is_complete = |file: &ExportedFile| -> Result<bool> {
            if present.get(&file.path) != Some(&file.meta.bytes) {
                return Ok(false);
            }
            let checksum = self.to.staged_checksum(&file.path)?;
            Ok(checksum.is_none_or(|found| found == file.meta.crc32c))
        };
        let mut incomplete = Vec::new();
        for (day, made) in &staged {
            for file in &made.files {
                if !is_complete(file)? {
                    incomplete.push(*day);
                }
            }
        }
        staged.retain(|day, _| !incomplete.contains(day));
        Ok(staged)
    }

    /// The days of which the store has all events.
    fn days_of_store(&self) -> BTreeSet<NaiveDate> {
        let days = self.source.days.iter().filter(|day| !self.keeps(day));
        days.map(|day| day.day).collect()
    }

    /// The days of the list that are not in `kept`, without those that expired in the store.
    fn days_without(&self, kept: &BTreeSet<NaiveDate>) -> Vec<NaiveDate> {
        let kept_from = self.source.kept_from;
        let days = self.list.days.keys().copied();
        days.filter(|day| !kept.contains(day) && kept_from.is_none_or(|from| *day >= from))
            .collect()
    }

    /// Removes a file if it exists and an export of this store wrote it.
    fn remove(&mut self, name: &str) -> Result<()> {
        if self.owned.contains(name) && self.present.remove(name).is_some() {
            self.to.remove(name)?;
        }
        Ok(())
    }

    /// Removes files that the list does not name any more, and copies of listed files, which would
    /// be counted twice. Other files are kept, with a warning.
    fn remove_orphans(&mut self) -> Result<()> {
        let names = self.list.files_of_export();
        let files: Vec<String> = self.present.keys().cloned().collect();
        let mut foreign = Vec::new();
        for name in files.iter().filter(|name| !names.contains(*name)) {
            if self.owned.contains(name) {
                self.remove(name)?;
            } else if layout::day_of(name).is_some() && self.is_copy(name)? {
                self.to.remove(name)?;
            } else if is_in_table(name) {
                foreign.push(name);
            }
        }
        if let Some(first) = foreign.first() {
            warn!(
                files = foreign.len(),
                "{} and {} more files in the folders of the tables were not written by an export of \
                 this store; they are kept, and loaded by programs that load the folder",
                self.to.shown(first),
                foreign.len() - 1
            );
        }
        Ok(())
    }

    /// True if a file has the same bytes as one of the list.
    fn is_copy(&self, name: &str) -> Result<bool> {
        let bytes = self.present.get(name);
        let same_size = self
            .list
            .day_files()
            .filter(|file| Some(&file.meta.bytes) == bytes);
        let mut checksums = same_size.map(|file| file.meta.crc32c).peekable();
        if checksums.peek().is_none() {
            return Ok(false);
        }
        let found = self.to.checksum(name)?;
        Ok(checksums.any(|checksum| Some(checksum) == found))
    }
}

/// True if a file has the size and checksum of the list; in a bucket, only the size is compared.
fn is_as_listed(
    to: &Destination,
    present: &BTreeMap<String, u64>,
    file: &ExportedFile,
) -> Result<bool> {
    if present.get(&file.path) != Some(&file.meta.bytes) {
        return Ok(false);
    }
    let found = to.checksum(&file.path)?;
    Ok(found.is_none_or(|found| found == file.meta.crc32c))
}

fn is_in_table(name: &str) -> bool {
    let dir = name.split('/').next().unwrap_or_default();
    dir == EVENTS_DIR || ROLLUP_DIRS.contains(&dir)
}

fn files_of(days: &BTreeMap<NaiveDate, ExportedDay>) -> impl Iterator<Item = &ExportedFile> {
    days.values().flat_map(|day| &day.files)
}

fn part_names(day: &SealedDay, run: &RunId) -> Vec<String> {
    let parts = day.parts(PART_BYTES).len();
    (0..parts)
        .map(|place| layout::part_path(day.day, place, run))
        .collect()
}

fn write_day(day: &SealedDay, to: &Destination, run: &RunId) -> Result<ExportedDay> {
    let mut files = Vec::new();
    for (place, part) in day.parts(PART_BYTES).iter().enumerate() {
        let path = layout::part_path(day.day, place, run);
        let meta = to.stage(&path, |temp| part.write(temp))?;
        files.push(ExportedFile { path, meta });
    }
    Ok(ExportedDay {
        sources: day.sources(),
        files,
    })
}
