//! Exports: the lake for a warehouse, and events as a stream.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{Cancel, Engine};
use crate::error::{Error, Result};
use crate::export::destination::Destination;
use crate::export::events::{Encoder, EventFormat};
use crate::export::lake::{self, Exported, Scope, Since};
use crate::export::rollups;
use crate::export::warehouse::Warehouse;
use crate::rollup;
use crate::store::SealedDay;
use crate::window::WindowRequest;

/// How deep exports are looked for in the data folder.
const EXPORT_DEPTH: usize = 3;

/// The folder of files on their way to a bucket, among the unfinished files of the store.
const UPLOAD_DIR: &str = "upload";

/// What is exported, and where to.
#[derive(Debug, Clone)]
pub struct ExportRequest {
    /// The folder, or the address of a bucket or a part of it.
    pub to: String,
    /// Who will read it.
    pub target: Warehouse,
    /// Which days; all if absent.
    pub window: Option<WindowRequest>,
    /// Which of them are written.
    pub since: Option<Since>,
}

/// What an export did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExportAnswer {
    /// Always true.
    pub ok: bool,
    /// The events.
    #[serde(flatten)]
    pub exported: Exported,
    /// Daily rollups.
    pub rollups: usize,
}

impl Engine {
    /// Exports the lake, as it is after a seal now. `progress` is called with the events done and those there
    /// are.
    ///
    /// # Errors
    /// If a segment is damaged or a file cannot be written; what is done stays done.
    pub fn export(
        &self,
        request: &ExportRequest,
        now: DateTime<Utc>,
        progress: impl Fn(u64, u64),
    ) -> Result<ExportAnswer> {
        let window = request
            .window
            .as_ref()
            .map(|window| window.resolve(now))
            .transpose()?;
        let data_dir = self.store.folder().path();
        let to = Destination::open(&request.to, self.store.folder().temp(UPLOAD_DIR)?)?;
        if let Destination::Folder(to) = &to {
            check_target(to, data_dir)?;
        }
        self.store.seal()?;
        let days = self.store.sealed_days(window.as_ref())?;
        let all = days.iter().map(SealedDay::rows).sum();
        let scope = match window {
            Some(_) => Scope::Some,
            None => Scope::All,
        };
        let kept_from = self.store.expiry().raw_from;
        let exported = lake::export(&days, kept_from, scope, &to, request.since, |done| {
            progress(done, all);
        })?;
        request.target.write(&to)?;
        let log = rollup::read(self.store.folder())?;
        let rollups = rollups::export(&log, &to)?;
        to.clear_temp()?;
        Ok(ExportAnswer {
            ok: true,
            exported,
            rollups,
        })
    }

    /// Brings the exports that lie in the data folder up to date: what was erased goes from them too. Returns how many there
    /// are.
    ///
    /// # Errors
    /// As [`Engine::export`].
    pub(super) fn refresh_exports(&self, erased: &[&str]) -> Result<usize> {
        let mut folders = Vec::new();
        find_exports(self.store.folder().path(), EXPORT_DEPTH, &mut folders);
        if folders.is_empty() {
            return Ok(0);
        }
        let days = self.store.sealed_days(None)?;
        let kept_from = self.store.expiry().raw_from;
        for to in &folders {
            lake::refresh(&days, kept_from, to, erased)?;
        }
        Ok(folders.len())
    }

    /// Writes the events of a window to `sink`, part by part, with those that are not sealed.
    ///
    /// # Errors
    /// If something that is needed is damaged, it was given up, and what `sink` returns.
    pub fn export_events(
        &self,
        request: &WindowRequest,
        format: EventFormat,
        now: DateTime<Utc>,
        cancel: &Cancel,
        mut sink: impl FnMut(Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let window = request.resolve(now)?;
        let parts = self.store.whole(window.range_us())?;
        let mut encoder = Encoder::new(format)?;
        for part in parts {
            cancel.check()?;
            let events = part?.collect()?;
            // As text they take several times the memory: a slow reader is waited for after each slice.
            for start in (0..events.height()).step_by(format.slice_rows()) {
                cancel.check()?;
                let ready = encoder.write(&events.slice(start as i64, format.slice_rows()))?;
                if !ready.is_empty() {
                    sink(ready)?;
                }
            }
        }
        sink(encoder.finish()?)
    }
}

/// Refuses a target in which the store keeps its own files.
fn check_target(to: &Path, data_dir: &Path) -> Result<()> {
    const OURS: [&str; 8] = [
        "events",
        "states",
        "postings",
        "tmp",
        "sealing",
        "compacting",
        "damaged",
        "demo",
    ];
    std::fs::create_dir_all(to).map_err(Error::io("create", to))?;
    let (to, data_dir) = match (to.canonicalize(), data_dir.canonicalize()) {
        (Ok(to), Ok(data_dir)) => (to, data_dir),
        _ => return Ok(()),
    };
    let is_ours = to.strip_prefix(&data_dir).is_ok_and(|inside| {
        let first = inside.components().next();
        first.is_none_or(|first| OURS.iter().any(|ours| first.as_os_str() == *ours))
    });
    match is_ours {
        false => Ok(()),
        true => Err(Error::bad_input(
            "bad_target",
            format!(
                "{} is where the store keeps its own files; choose another folder",
                to.display()
            ),
        )),
    }
}

fn find_exports(dir: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for path in entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
    {
        if path.join(lake::MANIFEST).exists() {
            found.push(path);
        } else if depth > 1 {
            find_exports(&path, depth - 1, found);
        }
    }
}
