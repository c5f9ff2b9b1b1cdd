//! The lake as a folder that others load: a folder a day with the files of the day, and `export.json`, which says what is in it.
//!
//! A file gets its name when it is whole and durable. A day whose segments are those of the last export is left as it is, so
//! that an export that was cut off, asked for again with `--since last`, goes on where it was.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::store::{self, PartFacts, SealedDay, folder, pipeline};

/// The list of what an export folder has.
pub const MANIFEST: &str = "export.json";
/// The folder of the events, in the export folder.
pub const EVENTS_DIR: &str = "events";
/// The folder of unfinished files, in the export folder.
const TEMP_DIR: &str = "tmp";
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
    /// Reads the list of an export folder; it is empty before the first export.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn load(to: &Path) -> Result<Self> {
        folder::read_json(&to.join(MANIFEST))
    }

    fn save(&self, to: &Path) -> Result<()> {
        write(to, MANIFEST, &folder::json(self))
    }

    /// Whether a day expired in the store, and only late events of it are there.
    fn keeps(&self, day: &SealedDay, kept_from: Option<NaiveDate>) -> bool {
        kept_from.is_some_and(|from| day.day < from) && self.days.contains_key(&day.day)
    }

    /// Whether a day is there as it is in the store.
    fn has(&self, to: &Path, day: &SealedDay) -> bool {
        self.days.get(&day.day).is_some_and(|exported| {
            exported.sources == day.sources()
                && exported
                    .files
                    .iter()
                    .all(|file| to.join(&file.path).exists())
        })
    }
}

/// Writes a small file of an export, whole or not at all.
///
/// # Errors
/// If it cannot be written.
pub fn write(to: &Path, name: &str, content: &[u8]) -> Result<()> {
    let path = to.join(name);
    let dir = path.parent().unwrap_or(to);
    std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    let temp = temp(to, &name.replace('/', "-"))?;
    std::fs::write(&temp, content)
        .and_then(|()| std::fs::File::open(&temp)?.sync_all())
        .map_err(Error::io("write", &temp))?;
    folder::publish(&temp, &path)
}

/// The path of an unfinished file, outside of the folders that others load.
fn temp(to: &Path, name: &str) -> Result<PathBuf> {
    let dir = to.join(TEMP_DIR);
    std::fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
    Ok(dir.join(name))
}

/// Exports these days to a folder. Days before `kept_from`, which expired in the store, stay in the folder as they are: a late
/// event of such a day must not take the place of all of it. `progress` is called with the events done.
///
/// # Errors
/// If a segment is damaged or a file cannot be written; what is done stays done.
pub fn export(
    days: &[SealedDay],
    kept_from: Option<NaiveDate>,
    scope: Scope,
    to: &Path,
    since: Option<Since>,
    mut progress: impl FnMut(u64),
) -> Result<Exported> {
    std::fs::create_dir_all(to).map_err(Error::io("create", to))?;
    let mut manifest = ExportManifest::load(to)?;
    // From its first file on the folder is known as an export.
    manifest.save(to)?;
    let mut exported = Exported::default();
    let (left, due): (Vec<&SealedDay>, Vec<&SealedDay>) = days.iter().partition(|day| {
        manifest.keeps(day, kept_from) || since == Some(Since::Last) && manifest.has(to, day)
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

/// Removes what is left of unfinished files.
///
/// # Errors
/// If it cannot be removed.
pub fn clear_temp(to: &Path) -> Result<()> {
    let temp = to.join(TEMP_DIR);
    match std::fs::remove_dir_all(&temp) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", &temp)(error))
        }
        _ => Ok(()),
    }
}

/// Takes users out of an export: `days` are those of its days that the store still has, without them already. Days that are
/// in the export alone are read and written anew.
///
/// # Errors
/// As [`export`].
pub fn refresh(
    days: &[&SealedDay],
    kept_from: Option<NaiveDate>,
    to: &Path,
    erased: &[&str],
) -> Result<()> {
    let mut manifest = ExportManifest::load(to)?;
    let in_store = |manifest: &ExportManifest, day: &SealedDay| !manifest.keeps(day, kept_from);
    let changed: Vec<&SealedDay> = days
        .iter()
        .copied()
        .filter(|day| in_store(&manifest, day) && !manifest.has(to, day))
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
                let path = to.join(&file.path);
                let temp = temp(to, &format!("{day}-refreshed.parquet"))?;
                if let Some(facts) = store::rewrite_without(&path, &temp, erased)? {
                    folder::publish(&temp, &path)?;
                    file.facts = facts;
                }
            }
        }
    }
    remove_gone(&mut manifest, &of_store, kept_from, to)?;
    manifest.save(to)?;
    remove_orphans(&manifest, to)
}

/// Removes files of events that the list does not have: those of an export that was cut off.
fn remove_orphans(manifest: &ExportManifest, to: &Path) -> Result<()> {
    let files = manifest.days.values().flat_map(|day| &day.files);
    let known: BTreeSet<PathBuf> = files.map(|file| to.join(&file.path)).collect();
    for day in folder::list(&to.join(EVENTS_DIR))? {
        for path in folder::list(&day)? {
            if !known.contains(&path) {
                folder::remove(&path)?;
            }
        }
        if folder::list(&day)?.is_empty() {
            std::fs::remove_dir(&day).map_err(Error::io("remove", &day))?;
        }
    }
    Ok(())
}

fn write_day(day: &SealedDay, to: &Path) -> Result<ExportedDay> {
    let dir = format!("{EVENTS_DIR}/dt={}", day.day);
    let mut files = Vec::new();
    let live = to.join(&dir);
    std::fs::create_dir_all(&live).map_err(Error::io("create", &live))?;
    for (place, part) in day.parts(PART_BYTES).iter().enumerate() {
        let path = format!("{dir}/part-{place:05}.parquet");
        let temp = temp(to, &format!("{}-{place}.parquet", day.day))?;
        let facts = part.write(&temp)?;
        folder::publish(&temp, &to.join(&path))?;
        files.push(ExportedFile { path, facts });
    }
    folder::sync_parent(&live)?;
    Ok(ExportedDay {
        sources: day.sources(),
        files,
    })
}

/// Removes the files of a day that its new export does not have.
fn remove_files(to: &Path, old: ExportedDay, new: &ExportedDay) -> Result<()> {
    let kept: BTreeSet<&str> = new.files.iter().map(|file| file.path.as_str()).collect();
    old.files
        .iter()
        .filter(|file| !kept.contains(file.path.as_str()))
        .try_for_each(|file| folder::remove(&to.join(&file.path)))
}

/// Takes out the days that are not kept. Those before `kept_from` expired in the store, and stay here.
fn remove_gone(
    manifest: &mut ExportManifest,
    kept: &BTreeSet<NaiveDate>,
    kept_from: Option<NaiveDate>,
    to: &Path,
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
