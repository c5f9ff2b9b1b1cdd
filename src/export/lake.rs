//! The lake as others load it: a folder a day with the files of the day, and `export.json`, which says what is in it ([`list`]).
//!
//! An export changes what is there in one step, which is the replacement of the list:
//!
//! 1. The list says which files are about to be written (`pending`), so that the next export knows them for its own.
//! 2. All new files are made beside the export. Their names were never used before.
//! 3. They get their names, and the list names them instead of the old ones.
//! 4. What the list does not name any more is removed.
//!
//! So a reader of the list finds whole files of one export, whatever is interrupted. A reader that lists the folder finds old and
//! new files together between 3 and 4, and after a crash in between until the next export.
//!
//! A day whose segments are those of the last export is left as it is with `--since last`; days that an export made before it was
//! cut off are taken as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use chrono::NaiveDate;
use serde::Serialize;
use tracing::warn;

use super::destination::Destination;
use super::layout::{self, EVENTS_DIR, ROLLUP_DIRS, RunId, is_rollup_table};
use super::list::{self, ExportList, ExportedDay, ExportedFile, Signed};
use super::rollups::Rollups;
use super::warehouse::Warehouse;
use crate::error::{Error, Result};
use crate::store::{self, Mark, PartFacts, SealedDay, files, pipeline};

/// A file has at most about so many bytes: the upper end of what warehouses like to load.
const PART_BYTES: u64 = 200 << 20;
/// Days after which the list is written, so that an export that is cut off makes few of them again.
const DAYS_PER_SAVE: usize = 16;

/// Which days are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Since {
    /// Those that changed since the last export to this folder.
    Last,
}

/// Which of the store's days are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Some.
    Some,
    /// All: others that are in the folder were erased, or expired.
    All,
}

/// What an export did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// Days written.
    pub days: usize,
    /// Days that were there already, as they are.
    pub unchanged: usize,
    /// Days taken out, because their events are gone.
    pub removed: usize,
    /// Files written.
    pub files: usize,
    /// Events in them.
    pub events: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The days of a store.
pub struct Source<'a> {
    /// The days, with their events.
    pub days: &'a [SealedDay],
    /// Days before it expired in the store. They stay in the export as they are: a late event of such a day must not take the
    /// place of all of it.
    pub kept_from: Option<NaiveDate>,
    /// Which store it is.
    pub mark: &'a Mark,
}

/// An export that has begun.
pub struct Export<'a> {
    source: &'a Source<'a>,
    to: &'a Destination,
    list: ExportList,
    /// Files that an export of this store wrote, and may overwrite and remove.
    owned: BTreeSet<String>,
    /// What is in the folders of the export, with bytes.
    present: BTreeMap<String, u64>,
    /// What is in the names of the files that it writes.
    run: RunId,
    /// The files beside those of the days that this export writes.
    others: BTreeSet<String>,
    /// Days that the export will not have any more.
    gone: Vec<NaiveDate>,
}

impl<'a> Export<'a> {
    /// Reads what is there. Nothing is changed.
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

    /// Says which files are about to be written. From here on the folder is known as an export, and what one that was cut off
    /// left beside its files is gone.
    ///
    /// # Errors
    /// `bad_target` if a file of somebody else is in the way; then nothing was changed.
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
                    "bad_target",
                    format!(
                        "{} is in the way and no export of this store wrote it; nothing was changed. Move it away, or choose \
                         another folder",
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

    /// Makes the files of the days that are due. `others` are the names of what will be written beside them and their tables.
    /// `progress` is called with the events done.
    ///
    /// # Errors
    /// As [`Export::open`]; if a segment is damaged or a file cannot be written, the export stays what it was.
    pub fn write_days(
        &mut self,
        scope: Scope,
        since: Option<Since>,
        others: BTreeSet<String>,
        mut progress: impl FnMut(u64),
    ) -> Result<Exported> {
        let mut exported = Exported::default();
        let source = self.source;
        let (left, due): (Vec<&SealedDay>, Vec<&SealedDay>) = source
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
        exported.unchanged = left.len();
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
        let mut done = rows(&left) + rows(&made);
        progress(done);
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
                progress(done);
                Ok(())
            },
        )?;
        for file in files_of(&self.list.staged) {
            exported.files += 1;
            exported.bytes += file.facts.bytes;
        }
        if scope == Scope::All {
            let kept: BTreeSet<NaiveDate> = source.days.iter().map(|day| day.day).collect();
            self.gone = self.days_without(&kept);
            exported.removed = self.gone.len();
        }
        self.rewrite_expired(
            |path, temp| match layout::is_old_part(&path.to_string_lossy()) {
                true => store::rewrite(path, temp).map(Some),
                false => Ok(None),
            },
        )?;
        Ok(exported)
    }

    /// Makes the tables of the rollups.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn write_rollups(&mut self, rollups: Rollups) -> Result<()> {
        for (path, bytes) in rollups.files(&self.run)? {
            self.to.stage_bytes(&path, &bytes)?;
        }
        Ok(())
    }

    /// Ends the export: what it made is the export now, and what it has no more is removed.
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
            self.present.insert(file.path.clone(), file.facts.bytes);
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

    /// Takes users out of an export in a folder. The store's days are without them already; days that are in the export alone are
    /// read and written anew.
    ///
    /// # Errors
    /// As [`Export::write_days`].
    pub fn refresh(mut self, erased: &[&str]) -> Result<()> {
        let source = self.source;
        let changed: Vec<&SealedDay> = source
            .days
            .iter()
            .filter(|day| self.list.days.contains_key(&day.day))
            .filter(|day| !self.keeps(day) && !self.has(day))
            .collect();
        // Made by an export that was cut off, and they may be there with the users.
        self.list.staged.clear();
        let names = changed.iter().flat_map(|day| part_names(day, &self.run));
        self.claim(names.collect())?;
        for day in changed {
            let written = write_day(day, self.to, &self.run)?;
            self.list.staged.insert(day.day, written);
        }
        self.rewrite_expired(|path, temp| store::rewrite_without(path, temp, erased))?;
        self.gone = self.days_without(&self.days_of_store());
        self.finish()
    }

    /// Writes files of days again that expired in the store and are in this export alone: those for which `rewrite` does so.
    fn rewrite_expired(
        &mut self,
        mut rewrite: impl FnMut(&Path, &Path) -> Result<Option<PartFacts>>,
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
        // What is in a bucket is not read again.
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
                if let Some(facts) = written {
                    names.insert(name.clone());
                    *file = ExportedFile { path: name, facts };
                }
            }
            if !names.is_empty() {
                self.claim(names)?;
                self.list.staged.insert(day, exported);
            }
        }
        Ok(())
    }

    /// A sentence for each file of the list that is not what was written.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn verify(&self) -> Result<Vec<String>> {
        let mut damage = Vec::new();
        for file in self.list.day_files() {
            if !is_as_listed(self.to, &self.present, file)? {
                damage.push(format!(
                    "{} is damaged: it is not what the export wrote; export again",
                    self.to.shown(&file.path)
                ));
            }
        }
        Ok(damage)
    }

    /// Whether a day expired in the store, and only late events of it are there.
    fn keeps(&self, day: &SealedDay) -> bool {
        self.source.kept_from.is_some_and(|from| day.day < from)
            && self.list.days.contains_key(&day.day)
    }

    /// Whether a day is there as it is in the store.
    fn has(&self, day: &SealedDay) -> bool {
        self.list.days.get(&day.day).is_some_and(|exported| {
            let is_whole = |file: &ExportedFile| {
                self.present.get(&file.path) == Some(&file.facts.bytes)
                    && self.owned.contains(&file.path)
            };
            exported.sources == day.sources()
                && exported.files.iter().all(is_whole)
                && !exported
                    .files
                    .iter()
                    .any(|file| layout::is_old_part(&file.path))
        })
    }

    /// The days that an export which was cut off made, as far as all of their files are still there.
    fn take_staged(&mut self) -> Result<BTreeMap<NaiveDate, ExportedDay>> {
        let mut staged = std::mem::take(&mut self.list.staged);
        if staged.is_empty() {
            return Ok(staged);
        }
        let there = self.to.staged()?;
        let is_whole = |file: &ExportedFile| -> Result<bool> {
            if there.get(&file.path) != Some(&file.facts.bytes) {
                return Ok(false);
            }
            let checksum = self.to.staged_checksum(&file.path)?;
            Ok(checksum.is_none_or(|found| found == file.facts.crc32c))
        };
        let mut broken = Vec::new();
        for (day, made) in &staged {
            for file in &made.files {
                if !is_whole(file)? {
                    broken.push(*day);
                }
            }
        }
        staged.retain(|day, _| !broken.contains(day));
        Ok(staged)
    }

    /// The days that the store has whole.
    fn days_of_store(&self) -> BTreeSet<NaiveDate> {
        let days = self.source.days.iter().filter(|day| !self.keeps(day));
        days.map(|day| day.day).collect()
    }

    /// The days of the list that are not kept. Those that expired in the store stay.
    fn days_without(&self, kept: &BTreeSet<NaiveDate>) -> Vec<NaiveDate> {
        let kept_from = self.source.kept_from;
        let days = self.list.days.keys().copied();
        days.filter(|day| !kept.contains(day) && kept_from.is_none_or(|from| *day >= from))
            .collect()
    }

    /// Removes a file that an export of this store wrote, where it is.
    fn remove(&mut self, name: &str) -> Result<()> {
        if self.owned.contains(name) && self.present.remove(name).is_some() {
            self.to.remove(name)?;
        }
        Ok(())
    }

    /// Removes what the list named before and does not any more: files of an export that was cut off, and copies of files of
    /// ours beside them, which would be counted twice. What else is there is left, and said.
    fn remove_orphans(&mut self) -> Result<()> {
        let names = self.list.files_of_export();
        let files: Vec<String> = self.present.keys().cloned().collect();
        let mut strangers = Vec::new();
        for name in files.iter().filter(|name| !names.contains(*name)) {
            if self.owned.contains(name) {
                self.remove(name)?;
            } else if layout::day_of(name).is_some() && self.is_copy(name)? {
                self.to.remove(name)?;
            } else if is_in_table(name) {
                strangers.push(name);
            }
        }
        if let Some(first) = strangers.first() {
            warn!(
                files = strangers.len(),
                "{} and {} more in the folders of the tables are not of an export of this store; they are left, and whoever loads the folder \
                 loads them too",
                self.to.shown(first),
                strangers.len() - 1
            );
        }
        Ok(())
    }

    /// Whether a file has the bytes of one that the list names.
    fn is_copy(&self, name: &str) -> Result<bool> {
        let bytes = self.present.get(name);
        let alike = self
            .list
            .day_files()
            .filter(|file| Some(&file.facts.bytes) == bytes);
        let mut checksums = alike.map(|file| file.facts.crc32c).peekable();
        if checksums.peek().is_none() {
            return Ok(false);
        }
        let found = self.to.checksum(name)?;
        Ok(checksums.any(|checksum| Some(checksum) == found))
    }
}

/// Whether a file is there with the bytes that a list gives; in a bucket, as many.
fn is_as_listed(
    to: &Destination,
    present: &BTreeMap<String, u64>,
    file: &ExportedFile,
) -> Result<bool> {
    if present.get(&file.path) != Some(&file.facts.bytes) {
        return Ok(false);
    }
    let found = to.checksum(&file.path)?;
    Ok(found.is_none_or(|found| found == file.facts.crc32c))
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
        let facts = to.stage(&path, |temp| part.write(temp))?;
        files.push(ExportedFile { path, facts });
    }
    Ok(ExportedDay {
        sources: day.sources(),
        files,
    })
}
