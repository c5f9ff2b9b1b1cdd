//! Exports: the lake for a warehouse, and events as a stream.

use std::path::{Path, PathBuf};
use std::time::Instant;

use chrono::{DateTime, Utc};
use tracing::warn;

use super::query::StoreSource;
use super::{Cancel, Engine, ExportAnswer};
use crate::error::{Error, ErrorCode, Result};
use crate::export::delta::attach;
use crate::export::destination::{Destination, Readers, Root};
use crate::export::events::{Encoder, EventFormat};
use crate::export::lake::{Export, Scope, Since, Source};
use crate::export::rollups::Rollups;
use crate::export::warehouse::Warehouse;
use crate::export::{layout, list};
use crate::metrics::query::Query;
use crate::progress::Progress;
use crate::rollup;
use crate::store::files;
use crate::store::folder::{Access, Folder, Purpose};
use crate::store::{self, FOLDERS, MARK_FILE, Mark, SealedDay, Verified};
use crate::window::{Window, WindowRequest};

/// Depth of the search for exports in the data folder.
const EXPORT_DEPTH: usize = 3;

/// The folder of files on their way to a bucket, among the unfinished files of the store.
const UPLOAD_DIR: &str = "upload";

/// A request to export the lake.
#[derive(Debug, Clone)]
pub struct ExportRequest {
    /// The folder, or the address of a bucket or a part of it.
    pub to: String,
    /// The warehouse that will read it.
    pub target: Warehouse,
    /// The days; all if absent.
    pub window: Option<WindowRequest>,
    /// Restricts the written days to those that changed.
    pub since: Option<Since>,
}

impl Engine {
    /// Exports the lake, as it is after a seal now, with its progress in events.
    ///
    /// # Errors
    /// If a segment is damaged, a file cannot be written, or it is cancelled; then the export is
    /// what it was before.
    pub fn export(
        &self,
        request: &ExportRequest,
        now: DateTime<Utc>,
        progress: &Progress,
    ) -> Result<ExportAnswer> {
        if request.target == Warehouse::Delta {
            return self.export_tables(request, now, progress);
        }
        let window = request
            .window
            .as_ref()
            .map(|window| window.resolve(now))
            .transpose()?;
        let folder = self.store.folder();
        let is_bucket = is_bucket(&request.to);
        // One at a time: an erasure changes an export that is complete.
        let _one = self.exports.lock();
        let readers = if is_bucket || !check_target(request.to.as_ref(), folder.path())? {
            Readers::ByUmask
        } else {
            Readers::Owner
        };
        if readers == Readers::Owner {
            folder.check_writable()?;
        }
        let temp = match (is_bucket, folder.access()) {
            (false, _) => PathBuf::new(),
            (true, Access::ReadWrite) => folder.temp(UPLOAD_DIR)?,
            (true, Access::ReadOnly) => std::env::temp_dir().join(temp_name()?),
        };
        let to = Destination::open(&request.to, temp, readers)?;
        if folder.access() == Access::ReadWrite {
            self.correct_rollups(now);
        }
        let exported = self.export_to(&to, request, window.as_ref(), progress);
        // Also after a failed export, which may have filled the disk.
        let cleared = to.clear_temp();
        exported.and_then(|exported| cleared.map(|()| exported))
    }

    fn export_to(
        &self,
        to: &Destination,
        request: &ExportRequest,
        window: Option<&Window>,
        progress: &Progress,
    ) -> Result<ExportAnswer> {
        let folder = self.store.folder();
        let mark = match folder.mark() {
            Some(mark) => mark.clone(),
            // The folder of an earlier version, opened read-only: the next export will not
            // recognise this one as its own.
            None => Mark::new()?,
        };
        let days = match folder.access() {
            Access::ReadWrite => {
                self.store.seal()?;
                self.store.sealed_days(window)?
            }
            Access::ReadOnly => self.store.days_with_unsealed(window)?,
        };
        progress.set_total(days.iter().map(SealedDay::rows).sum());
        let scope = match window {
            Some(_) => Scope::Some,
            None => Scope::All,
        };
        let source = Source {
            days: &days,
            kept_from: self.store.expiry().raw_from,
            mark: &mark,
        };
        let mut export = Export::open(&source, to)?;
        let others = request.target.names().collect();
        let exported = export.write_days(scope, request.since, others, |done| {
            progress.set_done(done);
            progress.check()
        })?;
        let rollups = self.rollup_tables()?;
        let days = rollups.days;
        export.write_rollups(rollups)?;
        request.target.write(to)?;
        progress.commit()?;
        export.finish()?;
        Ok(ExportAnswer {
            ok: true,
            exported,
            rollups: days,
            tables: Vec::new(),
        })
    }

    /// The rollup tables and the links of an export.
    fn rollup_tables(&self) -> Result<Rollups> {
        let rollups = Rollups::read(&rollup::read(self.store.folder())?)?;
        let version = self.store.sealed_version();
        Ok(rollups.with_links(self.store.links_table(&version)?))
    }

    /// Removes erased users from the exports in the data folder. Returns the number of exports.
    ///
    /// # Errors
    /// As [`Engine::export`].
    pub(super) fn refresh_exports(&self, erased: &[&str]) -> Result<usize> {
        let folder = self.store.folder();
        let _one = self.exports.lock();
        let exports = exports_in(folder.path());
        let (false, Some(mark)) = (exports.is_empty(), folder.mark()) else {
            return Ok(0);
        };
        let days = self.store.sealed_days(None)?;
        let source = Source {
            days: &days,
            kept_from: self.store.expiry().raw_from,
            mark,
        };
        let mut refreshed = 0;
        for to in &exports {
            match Export::open(&source, to) {
                // Of another store or program.
                Err(Error::BadInput { message, .. }) => warn!("{message}"),
                export => {
                    export?.refresh(erased, self.rollup_tables()?)?;
                    refreshed += 1;
                }
            }
        }
        Ok(refreshed)
    }

    /// Writes the events of the window of a query which meet its filter and are of its cohort to
    /// `sink`, part by part, with those that are not sealed. Its metric does not matter.
    ///
    /// # Errors
    /// If stored data is damaged, the export is cancelled, and the first error of `sink`.
    pub fn export_events(
        &self,
        query: &Query,
        format: EventFormat,
        now: DateTime<Utc>,
        cancel: &Cancel,
        mut sink: impl FnMut(Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let started = Instant::now();
        let window = query.window.resolve(now)?;
        let mut source = StoreSource::new(self, window, cancel);
        self.limit(query, &mut source, now)?;
        let parts = self.store.whole(window.range_us())?;
        let mut encoder = Encoder::new(format)?;
        for part in parts {
            cancel.check()?;
            let events = source.collect(source.limited(part?))?;
            // Encoded they take several times the memory, so each slice waits for a slow reader.
            for start in (0..events.height()).step_by(format.slice_rows()) {
                cancel.check()?;
                let ready = encoder.write(&events.slice(start as i64, format.slice_rows()))?;
                if !ready.is_empty() {
                    sink(ready)?;
                }
            }
        }
        sink(encoder.finish()?)?;
        self.monitoring().export.observe_time(started.elapsed());
        Ok(())
    }
}

/// True if the target of an export is a bucket.
pub fn is_bucket(to: &str) -> bool {
    to.contains("://")
}

/// Checks every checksum of a data folder, and of the exports in it.
///
/// # Errors
/// As [`store::verify`].
pub fn verify(data_dir: &Path, holder: &str) -> Result<Verified> {
    verify_with(data_dir, holder, &Progress::default())
}

/// The same, with its progress in files.
///
/// # Errors
/// As [`store::verify`], and if it is cancelled.
pub fn verify_with(data_dir: &Path, holder: &str, progress: &Progress) -> Result<Verified> {
    let folder = Folder::open(data_dir, holder, Purpose::Inspect)?;
    let mut verified = store::verify_with(data_dir, holder, progress)?;
    verified.damage.extend(store::audit::verify(data_dir)?);
    verify_exports(&folder, &mut verified);
    Ok(verified)
}

impl Engine {
    /// Checks every checksum of the open store, and of the exports in its folder, with the progress
    /// in files.
    ///
    /// # Errors
    /// As [`store::Store::verify`].
    pub fn verify(&self, progress: &Progress) -> Result<Verified> {
        let mut verified = self.store.verify(progress)?;
        verified.damage.extend(self.verify_audit()?);
        // Not while an export is written to the folder.
        let _one = self.exports.lock();
        verify_exports(self.store.folder(), &mut verified);
        Ok(verified)
    }
}

/// Checks the exports in a data folder.
fn verify_exports(folder: &Folder, verified: &mut Verified) {
    let Some(mark) = folder.mark() else {
        return;
    };
    let source = Source {
        days: &[],
        kept_from: None,
        mark,
    };
    for to in exports_in(folder.path()) {
        let found = Export::open(&source, &to).and_then(|export| export.verify());
        verified.damage.extend(match found {
            Ok(damage) => damage,
            Err(error) => vec![error.to_string()],
        });
    }
}

/// Further folders of ours in a data folder: of earlier versions, and the demo.
const OTHER_FOLDERS: [&str; 2] = ["tmp", "demo"];

/// Rejects a target in which a store keeps its own files, or whose files would be among those of
/// this store. Creates nothing. Returns whether the target is in the data folder.
pub(super) fn check_target(to: &Path, data_dir: &Path) -> Result<bool> {
    let refused = |why: &str| {
        let message = format!("{} {why}; choose another folder", to.display());
        Err(Error::bad_input(ErrorCode::BadTarget, message))
    };
    let target = files::resolve(to)?;
    let data_dir = files::resolve(data_dir)?;
    let is_ours = |inside: &Path| {
        let first = inside.components().next();
        first.is_none_or(|first| {
            let mut ours = FOLDERS.iter().chain(&OTHER_FOLDERS);
            ours.any(|ours| first.as_os_str() == *ours)
        })
    };
    for root in target.ancestors() {
        let is_store = root == data_dir || root.join(MARK_FILE).exists();
        if is_store && target.strip_prefix(root).is_ok_and(is_ours) {
            return refused("is where a store keeps its own files");
        }
    }
    let written = Warehouse::ALL.map(Warehouse::name);
    let written = written
        .into_iter()
        .chain([layout::EVENTS_DIR, attach::DIR])
        .chain(layout::ROLLUP_DIRS);
    for name in written {
        if data_dir.starts_with(target.join(name)) {
            return refused("would have files of the export among those of the data folder");
        }
    }
    Ok(target.starts_with(&data_dir))
}

/// The exports that lie in a data folder. Symbolic links are not followed: they lead out of it.
fn exports_in(data_dir: &Path) -> Vec<Destination> {
    let mut found = Vec::new();
    find_exports(data_dir, EXPORT_DEPTH, &mut found);
    let found = found.into_iter().map(|path| {
        Destination::Folder(Root {
            path,
            readers: Readers::Owner,
        })
    });
    found.collect()
}

fn find_exports(dir: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    let is_folder = |path: &PathBuf| path.symlink_metadata().is_ok_and(|found| found.is_dir());
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default();
        depth == EXPORT_DEPTH
            && FOLDERS
                .iter()
                .chain(&OTHER_FOLDERS)
                .any(|ours| name == *ours)
    };
    for path in entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| is_folder(path) && !is_ours(path))
    {
        if path.join(list::FILE_NAME).exists() {
            found.push(path);
        } else if depth > 1 {
            find_exports(&path, depth - 1, found);
        }
    }
}

/// An unpredictable name, for a folder in a directory shared with other users.
fn temp_name() -> Result<String> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| {
        Error::io("make a name in", &std::env::temp_dir())(std::io::Error::other(error))
    })?;
    let random: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("echopilot-export-{random}"))
}
