//! The lake as others load it: a folder a day with the files of the day, and `export.json`, which says what is in it.
//!
//! A file gets its name when it is whole and durable ([`Destination`]). A day whose segments are those of the last export is left as it is, so
//! that an export that was cut off, asked for again with `--since last`, goes on where it was.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

use super::destination::Destination;
use crate::error::{Error, Result};
use crate::store::{self, PartFacts, SealedDay, folder, pipeline};

/// The list of what an export folder has.
pub const MANIFEST: &str = "export.json";
/// The folder of the events, in the export folder.
pub const EVENTS_DIR: &str = "events";
/// A file has at most about so many bytes: the upper end of what warehouses like to load.
const PART_BYTES: u64 = 200 << 20;
/// Days after which the list is written, so that an export that is cut off begins again with few of them.
const DAYS_PER_SAVE: usize = 16;

/// What an export folder has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportManifest {
    /// Its days.
    pub days: BTreeMap<NaiveDate, ExportedDay>,
}

/// A day of an export.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedDay {
    /// The segments it was made of, and their checksums.
    pub sources: Vec<String>,
    /// Its files.
    pub files: Vec<ExportedFile>,
}

/// A file of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedFile {
    /// Its path in the export folder.
    pub path: String,
    /// What is in it.
    #[serde(flatten)]
    pub facts: PartFacts,
}

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

impl ExportManifest {
    /// Reads the list of an export; it is empty before the first one.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn load(to: &Destination) -> Result<Self> {
        let Some(text) = to.read(MANIFEST)? else {
            return Ok(Self::default());
        };
        serde_json::from_slice(&text).map_err(|error| Error::Damaged {
            file: MANIFEST.into(),
            message: error.to_string(),
        })
    }

    fn save(&self, to: &Destination) -> Result<()> {
        to.write(MANIFEST, &folder::json(self))
    }

    /// Whether a day expired in the store, and only late events of it are there.
    fn keeps(&self, day: &SealedDay, kept_from: Option<NaiveDate>) -> bool {
        kept_from.is_some_and(|from| day.day < from) && self.days.contains_key(&day.day)
    }

    /// Whether a day is there as it is in the store, given the files that are there.
    fn has(&self, present: &BTreeMap<String, u64>, day: &SealedDay) -> bool {
        self.days.get(&day.day).is_some_and(|exported| {
            let is_whole = |file: &ExportedFile| present.get(&file.path) == Some(&file.facts.bytes);
            exported.sources == day.sources() && exported.files.iter().all(is_whole)
        })
    }
}

/// Exports these days. Days before `kept_from`, which expired in the store, stay in the export as they are: a late
/// event of such a day must not take the place of all of it. `progress` is called with the events done.
///
/// # Errors
/// If a segment is damaged or a file cannot be written; what is done stays done.
pub fn export(
    days: &[SealedDay],
    kept_from: Option<NaiveDate>,
    scope: Scope,
    to: &Destination,
    since: Option<Since>,
    mut progress: impl FnMut(u64),
) -> Result<Exported> {
    let mut manifest = ExportManifest::load(to)?;
    // From its first file on it is known as an export.
    manifest.save(to)?;
    let present = to.list(EVENTS_DIR)?;
    let mut exported = Exported::default();
    let (left, due): (Vec<&SealedDay>, Vec<&SealedDay>) = days.iter().partition(|day| {
        manifest.keeps(day, kept_from) || since == Some(Since::Last) && manifest.has(&present, day)
    });
    exported.unchanged = left.len();
    progress(left.iter().map(|day| day.rows()).sum());
    let mut due = due.into_iter();
    let mut done = left.iter().map(|day| day.rows()).sum();
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
            let old = manifest.days.insert(day.day, written.clone());
            remove_files(to, old.unwrap_or_default(), &written)?;
            if exported.days % DAYS_PER_SAVE == 0 {
                manifest.save(to)?;
            }
            done += day.rows();
            progress(done);
            Ok(())
        },
    )?;
    if scope == Scope::All {
        let kept: BTreeSet<NaiveDate> = days.iter().map(|day| day.day).collect();
        exported.removed = remove_gone(&mut manifest, &kept, kept_from, to)?;
    }
    manifest.save(to)?;
    remove_orphans(&manifest, to)?;
    Ok(exported)
}

/// Takes users out of an export in a folder: `days` are those that the store has, without them already. Days that are in the
/// export alone are read and written anew.
///
/// # Errors
/// As [`export`].
pub fn refresh(
    days: &[SealedDay],
    kept_from: Option<NaiveDate>,
    root: &Path,
    erased: &[&str],
) -> Result<()> {
    let to = &Destination::Folder(root.to_owned());
    let mut manifest = ExportManifest::load(to)?;
    let present = to.list(EVENTS_DIR)?;
    let in_store = |manifest: &ExportManifest, day: &SealedDay| !manifest.keeps(day, kept_from);
    let changed: Vec<&SealedDay> = days
        .iter()
        .filter(|day| manifest.days.contains_key(&day.day))
        .filter(|day| in_store(&manifest, day) && !manifest.has(&present, day))
        .collect();
    for day in changed {
        let written = write_day(day, to)?;
        let old = manifest.days.insert(day.day, written.clone());
        remove_files(to, old.unwrap_or_default(), &written)?;
    }
    let of_store: BTreeSet<NaiveDate> = days
        .iter()
        .filter(|day| in_store(&manifest, day))
        .map(|day| day.day)
        .collect();
    let is_expired = |day: &NaiveDate| kept_from.is_some_and(|from| *day < from);
    for (day, exported) in &mut manifest.days {
        if is_expired(day) && !of_store.contains(day) {
            for file in &mut exported.files {
                let path = root.join(&file.path);
                let temp = to.temp(&format!("{day}-refreshed.parquet"))?;
                if let Some(facts) = store::rewrite_without(&path, &temp, erased)? {
                    to.publish(&temp, &file.path)?;
                    file.facts = facts;
                }
            }
        }
    }
    remove_gone(&mut manifest, &of_store, kept_from, to)?;
    manifest.save(to)?;
    remove_orphans(&manifest, to)?;
    to.clear_temp()
}

/// Removes files of events that the list does not have: those of an export that was cut off.
fn remove_orphans(manifest: &ExportManifest, to: &Destination) -> Result<()> {
    let files = manifest.days.values().flat_map(|day| &day.files);
    let known: BTreeSet<&str> = files.map(|file| file.path.as_str()).collect();
    for name in to.list(EVENTS_DIR)?.keys() {
        if !known.contains(name.as_str()) {
            to.remove(name)?;
        }
    }
    to.remove_empty(EVENTS_DIR)
}

fn write_day(day: &SealedDay, to: &Destination) -> Result<ExportedDay> {
    let mut files = Vec::new();
    for (place, part) in day.parts(PART_BYTES).iter().enumerate() {
        let path = format!("{EVENTS_DIR}/dt={}/part-{place:05}.parquet", day.day);
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

/// Removes the files of a day that its new export does not have.
fn remove_files(to: &Destination, old: ExportedDay, new: &ExportedDay) -> Result<()> {
    let kept: BTreeSet<&str> = new.files.iter().map(|file| file.path.as_str()).collect();
    old.files
        .iter()
        .filter(|file| !kept.contains(file.path.as_str()))
        .try_for_each(|file| to.remove(&file.path))
}

/// Takes out the days that are not kept. Those before `kept_from` expired in the store, and stay here.
fn remove_gone(
    manifest: &mut ExportManifest,
    kept: &BTreeSet<NaiveDate>,
    kept_from: Option<NaiveDate>,
    to: &Destination,
) -> Result<usize> {
    let gone = manifest.days.keys().copied();
    let gone: Vec<NaiveDate> = gone
        .filter(|day| !kept.contains(day) && kept_from.is_none_or(|from| *day >= from))
        .collect();
    for day in &gone {
        let old = manifest.days.remove(day).unwrap_or_default();
        remove_files(to, old, &ExportedDay::default())?;
    }
    Ok(gone.len())
}
