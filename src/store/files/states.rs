//! The files of daily states: one a day of UTC and of each reporting zone, written again under
//! another name when the day gets more events.

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use chrono::NaiveDate;
use chrono_tz::Tz;
use parking_lot::Mutex;
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};

use super::folder::Folder;
use super::shape;
use crate::daily::{self, Activity, DailyState, Day, Members, MembersOf, date};
use crate::dictionary::{Dictionaries, REST_FEATURE};
use crate::error::{Error, Result};
use crate::links::canonical::{Canonical, LinkedActivity};
use crate::store::files;
use crate::store::pipeline;
use crate::window;

/// Their folder in the data folder.
const DIR: &str = "states";
/// Files written at once per core: one waits for the disk while others are encoded.
const FILES_PER_CORE: usize = 4;
/// Most files written at once: a descriptor each.
const MAX_OPEN_FILES: usize = 32;

/// A day of a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZoneDay {
    /// The zone.
    pub tz: Tz,
    /// Its calendar day.
    pub day: Day,
}

impl ZoneDay {
    /// A day of UTC.
    pub fn utc(day: Day) -> Self {
        Self { tz: Tz::UTC, day }
    }

    /// The date of the day.
    pub fn date(self) -> NaiveDate {
        date(self.day)
    }
}

/// Metadata of a daily state in the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateMeta {
    /// Its day.
    pub day: NaiveDate,
    /// Path below the data folder.
    pub path: String,
    /// Length of the file.
    pub bytes: u64,
    /// CRC-32C of the file.
    pub crc32c: u32,
    /// Events of the day, `system` events included.
    pub events: u64,
    /// The time range of the day in µs, by the rules that its zone had when the state was made;
    /// absent for UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span_us: Option<Range<i64>>,
}

/// A live state. The part that most queries need is kept in memory once it was read.
#[derive(Debug)]
pub struct StateFile {
    /// Its entry in the manifest.
    pub meta: StateMeta,
    path: PathBuf,
    activity: OnceLock<Arc<Activity>>,
    /// The same with users in the place of their aliases, as of the last reader.
    linked: Mutex<Option<LinkedActivity>>,
    /// The file's bytes once it is replaced, for readers that still have this state.
    replaced: OnceLock<Vec<u8>>,
}

impl StateFile {
    /// The state of the data folder `root` with this metadata. The file is not opened yet.
    pub fn new(root: &Path, meta: StateMeta) -> Self {
        Self {
            path: root.join(&meta.path),
            meta,
            activity: OnceLock::new(),
            linked: Mutex::new(None),
            replaced: OnceLock::new(),
        }
    }

    /// Users and events of the day; kept in memory.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the file is not what was written.
    pub fn activity(&self, names: &Dictionaries) -> Result<Arc<Activity>> {
        let read = self.activity_once(names)?;
        // Another reader may have been first; both read the same.
        Ok(self.activity.get_or_init(|| read).clone())
    }

    /// Users and events of the day with users in the place of their aliases; kept in memory.
    ///
    /// # Errors
    /// As [`StateFile::activity`].
    pub fn linked(&self, names: &Dictionaries, canonical: &Canonical) -> Result<LinkedActivity> {
        let known = self.linked.lock().clone();
        if let Some(known) = known.filter(|known| canonical.is_current(known)) {
            return Ok(known);
        }
        let linked = canonical.activity(&self.activity(names)?);
        *self.linked.lock() = Some(linked.clone());
        Ok(linked)
    }

    /// Users and events of the day, if they are kept in memory.
    pub fn kept(&self) -> Option<&Activity> {
        self.activity.get().map(Arc::as_ref)
    }

    /// Users and events of the day, not kept in memory.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the file is not what was written.
    pub fn activity_once(&self, names: &Dictionaries) -> Result<Arc<Activity>> {
        if let Some(activity) = self.activity.get() {
            return Ok(activity.clone());
        }
        let read = daily::decode_activity(&self.verified_bytes()?, names)
            .map_err(|message| self.damaged(message))?;
        Ok(Arc::new(read))
    }

    /// The features that the day names; none if the file cannot be read.
    pub fn named_features(&self, names: &Dictionaries) -> RoaringBitmap {
        let activity = self.activity_once(names);
        let mut named: RoaringBitmap = activity
            .iter()
            .flat_map(|activity| activity.features.keys().copied())
            .collect();
        named.remove(REST_FEATURE);
        named
    }

    /// The complete state.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the file is not what was written.
    pub fn state(&self, names: &Dictionaries) -> Result<DailyState> {
        daily::decode(&self.verified_bytes()?, names).map_err(|message| self.damaged(message))
    }

    /// The event types or features that are wanted, with their users.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the file is not what was written.
    pub fn members(
        &self,
        names: &Dictionaries,
        of: MembersOf,
        is_wanted: impl Fn(u32) -> bool,
    ) -> Result<Vec<Members>> {
        daily::decode_members(&self.verified_bytes()?, names, of, is_wanted)
            .map_err(|message| self.damaged(message))
    }

    /// The file's bytes.
    ///
    /// # Errors
    /// [`Error::Damaged`] if they are not what was written.
    pub fn verified_bytes(&self) -> Result<Vec<u8>> {
        let bytes = match (std::fs::read(&self.path), self.replaced.get()) {
            // The file is removed once its bytes are kept.
            (Err(_), Some(bytes)) => bytes.clone(),
            (read, _) => read.map_err(Error::io("read", &self.path))?,
        };
        let found = crc32c::crc32c(&bytes);
        if found == self.meta.crc32c {
            return Ok(bytes);
        }
        Err(self.damaged(format!(
            "its checksum is {found:08x}, written was {:08x}; run `echopilot rebuild`",
            self.meta.crc32c
        )))
    }

    /// Keeps the bytes for readers that have this state: its file is about to be removed.
    pub fn keep(&self) {
        if let Ok(bytes) = std::fs::read(&self.path) {
            self.replaced.get_or_init(|| bytes);
        }
    }

    fn damaged(&self, message: String) -> Error {
        Error::Damaged {
            file: self.path.clone(),
            message,
        }
    }
}

/// Writes the states of days as `next` returns them, several at once. They are not live before a
/// manifest names them. The number makes the names of their files unique.
///
/// # Errors
/// Those of `next`, and if a file cannot be written.
pub fn write(
    folder: &Folder,
    number: u64,
    names: &Dictionaries,
    next: impl FnMut() -> Result<Option<(ZoneDay, DailyState)>> + Send,
) -> Result<Vec<(Tz, StateMeta)>> {
    let dir = folder.path().join(DIR);
    files::make(&dir)?;
    let mut written = Vec::new();
    let all_written = pipeline::ordered_on(
        (pipeline::cores() * FILES_PER_CORE).min(MAX_OPEN_FILES),
        next,
        |(zone_day, state)| {
            let (day, tz) = (zone_day.date(), zone_day.tz);
            let path = format!("{DIR}/{}", shape::state(day, number, tz));
            let bytes = daily::encode(&state, names).map_err(|message| Error::Damaged {
                file: path.clone().into(),
                message,
            })?;
            files::write_synced(&folder.path().join(&path), &bytes)?;
            let meta = StateMeta {
                day,
                path,
                bytes: bytes.len() as u64,
                crc32c: crc32c::crc32c(&bytes),
                events: state.activity.stored_events(),
                span_us: (tz != Tz::UTC).then(|| window::day_us(day, tz)),
            };
            Ok((tz, meta))
        },
        |meta: Result<(Tz, StateMeta)>| {
            written.push(meta?);
            Ok(())
        },
    );
    if let Err(error) = all_written {
        // Some were written, and the result of some was not seen. The next start removes the
        // others.
        for path in files::list(&dir)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if shape::state_number(&name) == Some(number) {
                let _ = std::fs::remove_file(&path);
            }
        }
        return Err(error);
    }
    if !written.is_empty() {
        files::sync_parent(&dir.join(DIR))?;
    }
    Ok(written)
}

/// Removes the files of states that are not live. `live` are paths below the data folder.
///
/// # Errors
/// If the folder cannot be listed or changed.
pub fn remove_others(folder: &Folder, live: &HashSet<&str>) -> Result<()> {
    let dir = folder.path().join(DIR);
    let mut has_removed = false;
    for path in files::list(&dir)? {
        let name = path.file_name().and_then(|name| name.to_str());
        let is_obsolete = name.is_some_and(|name| {
            shape::is_state(name) && !live.contains(format!("{DIR}/{name}").as_str())
        });
        if is_obsolete {
            files::may_fail("remove", &path).map_err(Error::io("remove", &path))?;
            std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            has_removed = true;
        }
    }
    if has_removed {
        files::sync(&dir)?;
    }
    Ok(())
}
