//! The lake as others load it: a folder a day with the files of the day, and `export.json`, which says what is in it ([`list`]).
//!
//! A file gets its name when it is whole and durable ([`Destination`]). A day whose segments are those of the last export is left
//! as it is, so that an export that was cut off, asked for again with `--since last`, goes on where it was. What an export is about
//! to write is named in the list before, so that the next one knows it for its own.

use std::collections::{BTreeMap, BTreeSet};

use chrono::NaiveDate;
use serde::Serialize;
use tracing::warn;

use super::destination::Destination;
use super::list::{self, ExportList, ExportedDay, ExportedFile, Signed};
use crate::error::{Error, Result};
use crate::store::{self, Mark, SealedDay, pipeline};

/// The folder of the events, in the export folder.
pub const EVENTS_DIR: &str = "events";
/// A file has at most about so many bytes: the upper end of what warehouses like to load.
const PART_BYTES: u64 = 200 << 20;
/// Days after which the list is written, so that an export that is cut off begins again with few of them.
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
}

impl<'a> Export<'a> {
    /// Reads what is there. Nothing is changed.
    ///
    /// # Errors
    /// As [`ExportList::load`].
    pub fn open(source: &'a Source<'a>, to: &'a Destination) -> Result<Self> {
        let list = ExportList::load(to, source.mark)?;
        let mut present = BTreeMap::new();
        for dir in [EVENTS_DIR, super::rollups::DIR].into_iter().chain(
            super::warehouse::Warehouse::ALL
                .iter()
                .map(|warehouse| warehouse.name()),
        ) {
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
        })
    }

    /// Says which files are about to be written beside those of the days, and which days. From here on the folder is known as
    /// an export.
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
        self.list.pending.extend(names.iter().cloned());
        self.owned.extend(names);
        self.save()
    }

    fn save(&mut self) -> Result<()> {
        self.list.save(self.to, self.source.mark)
    }

    /// Writes the days that are due, with `others`, the names of what will be written beside them. `progress` is called with the
    /// events done.
    ///
    /// # Errors
    /// As [`Export::open`]; if a segment is damaged or a file cannot be written, what is done stays done.
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
        let mut names = others.clone();
        names.extend(due.iter().flat_map(|day| part_names(day)));
        self.claim(names)?;
        self.list.files.extend(others);
        exported.unchanged = left.len();
        let mut done = left.iter().map(|day| day.rows()).sum();
        progress(done);
        let mut due = due.into_iter();
        let to = self.to;
        pipeline::ordered(
            || Ok(due.next()),
            |day| Ok((day, write_day(day, to)?)),
            |written: Result<(&SealedDay, ExportedDay)>| {
                let (day, written) = written?;
                exported.days += 1;
                exported.files += written.files.len();
                exported.events += day.rows();
                exported.bytes += written
                    .files
                    .iter()
                    .map(|file| file.facts.bytes)
                    .sum::<u64>();
                self.replace_day(day.day, written)?;
                if exported.days % DAYS_PER_SAVE == 0 {
                    self.save()?;
                }
                done += day.rows();
                progress(done);
                Ok(())
            },
        )?;
        if scope == Scope::All {
            let kept: BTreeSet<NaiveDate> = source.days.iter().map(|day| day.day).collect();
            exported.removed = self.remove_gone(&kept)?;
        }
        Ok(exported)
    }

    /// Ends the export: the list says what is there, and what it wrote before and has no more is removed.
    ///
    /// # Errors
    /// If a file cannot be written or removed.
    pub fn finish(mut self) -> Result<()> {
        self.list.pending.clear();
        self.save()?;
        self.remove_orphans()?;
        self.to.remove_empty(EVENTS_DIR)?;
        self.to.clear_temp()
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
        self.claim(changed.iter().flat_map(|day| part_names(day)).collect())?;
        for day in changed {
            let written = write_day(day, self.to)?;
            self.replace_day(day.day, written)?;
        }
        let of_store: BTreeSet<NaiveDate> = source
            .days
            .iter()
            .filter(|day| !self.keeps(day))
            .map(|day| day.day)
            .collect();
        let is_expired = |day: &NaiveDate| source.kept_from.is_some_and(|from| *day < from);
        for (day, exported) in &mut self.list.days {
            if is_expired(day) && !of_store.contains(day) {
                for file in &mut exported.files {
                    if !self.present.contains_key(&file.path) || !self.owned.contains(&file.path) {
                        continue;
                    }
                    let temp = self.to.temp(&format!("{day}-refreshed.parquet"))?;
                    let path = self.to.file(&file.path);
                    if let Some(facts) = store::rewrite_without(&path, &temp, erased)? {
                        self.to.publish(&temp, &file.path)?;
                        file.facts = facts;
                    }
                }
            }
        }
        self.remove_gone(&of_store)?;
        self.finish()
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
            exported.sources == day.sources() && exported.files.iter().all(is_whole)
        })
    }

    /// Notes a day that was written, and removes the files that it has no more.
    fn replace_day(&mut self, day: NaiveDate, written: ExportedDay) -> Result<()> {
        for file in &written.files {
            self.present.insert(file.path.clone(), file.facts.bytes);
        }
        let old = self.list.days.insert(day, written.clone());
        let kept: BTreeSet<&str> = written
            .files
            .iter()
            .map(|file| file.path.as_str())
            .collect();
        for file in old.iter().flat_map(|old| &old.files) {
            if !kept.contains(file.path.as_str()) {
                self.remove(&file.path)?;
            }
        }
        Ok(())
    }

    /// Takes out the days that are not kept. Those that expired in the store stay here.
    fn remove_gone(&mut self, kept: &BTreeSet<NaiveDate>) -> Result<usize> {
        let kept_from = self.source.kept_from;
        let gone = self.list.days.keys().copied();
        let gone: Vec<NaiveDate> = gone
            .filter(|day| !kept.contains(day) && kept_from.is_none_or(|from| *day >= from))
            .collect();
        for day in &gone {
            for file in self.list.days.remove(day).unwrap_or_default().files {
                self.remove(&file.path)?;
            }
        }
        Ok(gone.len())
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
        let names = self.list.names();
        let files: Vec<String> = self.present.keys().cloned().collect();
        let mut strangers = Vec::new();
        for name in files.iter().filter(|name| !names.contains(*name)) {
            if self.owned.contains(name) {
                self.remove(name)?;
            } else if list::day_of(name).is_some() && self.is_copy(name)? {
                self.to.remove(name)?;
            } else if name.starts_with(EVENTS_DIR) {
                strangers.push(name);
            }
        }
        if let Some(first) = strangers.first() {
            warn!(
                files = strangers.len(),
                "{} and {} more among the events are not of an export of this store; they are left, and whoever loads the folder \
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

fn part_names(day: &SealedDay) -> Vec<String> {
    let parts = day.parts(PART_BYTES).len();
    (0..parts)
        .map(|place| list::part_path(day.day, place))
        .collect()
}

fn write_day(day: &SealedDay, to: &Destination) -> Result<ExportedDay> {
    let mut files = Vec::new();
    for (place, part) in day.parts(PART_BYTES).iter().enumerate() {
        let path = list::part_path(day.day, place);
        let temp = to.temp(&format!("{}-{place}.parquet", day.day))?;
        let facts = part.write(&temp)?;
        to.publish(&temp, &path)?;
        files.push(ExportedFile { path, facts });
    }
    Ok(ExportedDay {
        sources: day.sources(),
        files,
    })
}
