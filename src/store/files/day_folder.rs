//! The folder of one day in the lake, and its exchange for another one in one step.
//!
//! The other folder is prepared in `compacting/`, next to the lake. A program that lists the day
//! sees the old files or the new ones, and never both. The manifest follows; after a crash between
//! the two, [`finish`] makes the folder what the manifest says. The old folder is removed a while
//! later, so that a program that has just listed it can read it completely.
//!
//! A program that listed a folder right before the exchange finds a name gone. Polars reports that;
//! DuckDB and pyarrow report it when they open the file, and silently skip it if it disappears
//! between listing and stat. No order of steps that other programs see by names can prevent that,
//! so folders are exchanged once a night, and at other times only when a day has very many files.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use tracing::warn;

use super::folder::Folder;
use super::segment::{self, LAKE_DIR, SegmentMeta};
use super::shape::{self, COMPACTING_DIR};
use crate::daily::{Day, date};
use crate::error::{Error, Result};
use crate::store::files::{self, Left};

/// Time for which the old folder of a day is kept: longer than any program takes to list it.
const RETIRED_FOR: Duration = Duration::from_secs(60);
/// Pause of compaction after a failure.
const PAUSE: Duration = Duration::from_secs(3_600);

/// A day's folder next to the lake, to be exchanged with the one in the lake.
pub struct PreparedDay {
    prepared: PathBuf,
    live: PathBuf,
}

impl PreparedDay {
    /// Prepares the folder of a day: new segments, each with its temporary file, and those that
    /// stay. `number` makes its name unique.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn prepare<'a>(
        folder: &Folder,
        day: Day,
        number: u64,
        new: &[(PathBuf, SegmentMeta)],
        stay: impl Iterator<Item = &'a SegmentMeta>,
    ) -> Result<Self> {
        let root = folder.path().join(COMPACTING_DIR);
        let day = date(day);
        let prepared = Self {
            live: live_folder(folder, &day.to_string()),
            prepared: root.join(format!("{number:08}-{day}")),
        };
        let filled = prepared.fill(folder, &root, new, stay);
        if filled.is_err() {
            // The next start removes it if it cannot be removed now.
            let _ = prepared.remove();
        }
        filled.map(|()| prepared)
    }

    fn fill<'a>(
        &self,
        folder: &Folder,
        root: &Path,
        new: &[(PathBuf, SegmentMeta)],
        stay: impl Iterator<Item = &'a SegmentMeta>,
    ) -> Result<()> {
        let prepared = &self.prepared;
        files::make_private(root).map_err(Error::io("create", root))?;
        files::make_private(prepared).map_err(Error::io("create", prepared))?;
        files::sync_parent(root)?;
        let place = |meta: &SegmentMeta| {
            let file = Path::new(&meta.path).file_name().unwrap_or_default();
            prepared.join(file)
        };
        for meta in stay {
            let path = folder.path().join(&meta.path);
            files::may_fail("link", &path).map_err(Error::io("link", &path))?;
            std::fs::hard_link(&path, place(meta)).map_err(Error::io("link", &path))?;
        }
        for (temp, meta) in new {
            files::publish(temp, &place(meta))?;
        }
        files::sync_parent(&prepared.join(LAKE_DIR))?;
        files::sync_parent(prepared)
    }

    /// Exchanges the folder with the one in the lake, durably and in one step. A second call undoes
    /// it.
    ///
    /// # Errors
    /// If the file system cannot; then nothing has changed. [`Error::Poisoned`] if it is unknown
    /// what has.
    pub fn exchange(&self) -> Result<()> {
        self.exchange_names()?;
        let synced =
            files::sync_parent(&self.live).and_then(|()| files::sync_parent(&self.prepared));
        let Err(error) = synced else {
            return Ok(());
        };
        // With a second failure it is unknown which folder a power cut leaves in the lake.
        Err(match self.exchange_names() {
            Ok(()) => error,
            Err(undo) => Error::Poisoned(format!("{error}; {undo}")),
        })
    }

    fn exchange_names(&self) -> Result<()> {
        files::may_fail("exchange", &self.live).map_err(Error::io("exchange", &self.live))?;
        renameat_with(CWD, &self.prepared, CWD, &self.live, RenameFlags::EXCHANGE)
            .map_err(|error| Error::io("exchange", &self.live)(error.into()))
    }

    /// Removes the folder that is next to the lake now.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove(&self) -> Result<()> {
        if files::remove_ours(&self.prepared, shape::is_segment)? == Left::Others {
            self.give_back()?;
        }
        files::sync_parent(&self.prepared)
    }

    /// Puts files that the store did not write back into the lake, where they were before the
    /// exchange.
    fn give_back(&self) -> Result<()> {
        for path in files::list(&self.prepared)? {
            let place = self.live.join(path.file_name().unwrap_or_default());
            if self.live.is_dir() && !place.exists() {
                std::fs::rename(&path, &place).map_err(Error::io("rename to", &place))?;
            }
        }
        if files::list(&self.prepared)?.is_empty() {
            return std::fs::remove_dir(&self.prepared)
                .map_err(Error::io("remove", &self.prepared));
        }
        warn!(folder = %self.prepared.display(), "Left files that the store did not write");
        Ok(())
    }
}

/// Completes exchanges that a crash interrupted: a prepared folder with the live segments of its
/// day goes into the lake; then the folder next to the lake is removed. `live` has the live
/// segments of each day.
///
/// # Errors
/// If the folders cannot be read or changed.
pub fn finish(folder: &Folder, live: &BTreeMap<Day, Vec<&SegmentMeta>>) -> Result<()> {
    for path in files::list(&folder.path().join(COMPACTING_DIR))? {
        let Some(day) = segment::prepared_day(&path) else {
            continue;
        };
        let prepared = PreparedDay {
            live: live_folder(folder, &day.to_string()),
            prepared: path,
        };
        let found = file_names(&prepared.prepared)?;
        let wanted = live.get(&day.to_epoch_days()).into_iter().flatten();
        let wanted: BTreeSet<OsString> = wanted
            .filter_map(|meta| Path::new(&meta.path).file_name().map(Into::into))
            .collect();
        let missing_in = |lake: BTreeSet<OsString>| wanted.difference(&lake).cloned().collect();
        let mut missing: Vec<OsString> = missing_in(file_names(&prepared.live)?);
        if !missing.is_empty() && wanted.is_subset(&found) {
            prepared.exchange()?;
            missing = missing_in(file_names(&prepared.live)?);
        }
        // Nothing is removed that the manifest names and the lake does not have.
        for name in missing.iter().filter(|name| found.contains(*name)) {
            let path = prepared.live.join(name);
            std::fs::hard_link(prepared.prepared.join(name), &path)
                .map_err(Error::io("link", &path))?;
            files::sync_parent(&path)?;
        }
        prepared.remove()?;
    }
    Ok(())
}

/// True if the folder of a day in the lake has the live segments and no other file: only then it
/// can be exchanged. Others are files of other programs, or of a failed seal; a damaged segment may
/// be missing.
///
/// # Errors
/// If it cannot be listed.
pub fn is_clean<'a>(
    folder: &Folder,
    day: Day,
    segments: impl Iterator<Item = &'a SegmentMeta>,
) -> Result<bool> {
    let found = file_names(&live_folder(folder, &date(day).to_string()))?;
    let live: BTreeSet<OsString> = segments
        .filter_map(|meta| Path::new(&meta.path).file_name().map(Into::into))
        .collect();
    Ok(found == live)
}

/// The folder of a day in the lake.
fn live_folder(folder: &Folder, day: &str) -> PathBuf {
    folder.path().join(LAKE_DIR).join(format!("dt={day}"))
}

/// Old folders of days, which are removed a while after they left the lake.
#[derive(Default)]
pub struct RetiredDays {
    folders: Vec<(Instant, PreparedDay)>,
    /// Time of the last failed compaction.
    failed: Option<Instant>,
}

impl RetiredDays {
    /// Adds a folder that left the lake just now.
    pub fn push(&mut self, day: PreparedDay) {
        self.folders.push((Instant::now(), day));
    }

    /// Pauses compaction for a while, because it failed.
    pub fn pause(&mut self) {
        self.failed = Some(Instant::now());
    }

    /// Removes all folders.
    ///
    /// # Errors
    /// If one cannot be removed; the next start removes it then.
    pub fn remove_all(&mut self) -> Result<()> {
        while let Some((_, day)) = self.folders.last() {
            day.remove()?;
            self.folders.pop();
        }
        Ok(())
    }

    /// Removes the folders that were kept for long enough. True if days may be compacted now.
    ///
    /// # Errors
    /// If one cannot be removed; the next start removes it then.
    pub fn begin(&mut self) -> Result<bool> {
        let (old, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.folders)
            .into_iter()
            .partition(|(since, _)| since.elapsed() >= RETIRED_FOR);
        self.folders = kept;
        old.iter().try_for_each(|(_, day)| day.remove())?;
        Ok(self.failed.is_none_or(|failed| failed.elapsed() >= PAUSE))
    }
}

fn file_names(dir: &Path) -> Result<BTreeSet<OsString>> {
    let paths = files::list(dir)?;
    Ok(paths
        .iter()
        .filter_map(|path| path.file_name().map(Into::into))
        .collect())
}
