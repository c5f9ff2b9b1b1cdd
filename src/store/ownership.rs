//! Whose a folder is. A data folder carries a mark, the file `.echopilot`; a folder that is not empty and has neither the mark
//! nor files that an earlier version wrote belongs to somebody else, and no command touches it.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::files;
use super::log_kind::{self, LogKind};
use super::shape::{
    self, ERASURES_FILE, EVENT_LOG_FILE, MANIFEST_FILE, NEXT_LOG_FILE, QUARANTINE_FILE,
};
use crate::checksum;
use crate::error::{Error, Result};

/// The mark's name.
pub const MARK_FILE: &str = ".echopilot";
/// The format of the data folder that this program writes.
const FORMAT: u32 = 1;
/// Bytes of a store's id.
const ID_BYTES: usize = 16;
/// Bytes of the key by which a store knows its own lists.
const KEY_BYTES: usize = 32;
/// Bytes at the start of a file that are looked at.
const HEAD_BYTES: u64 = 64 << 10;

/// Names that version control, file systems and desktops put into a folder that is empty otherwise.
const OF_NOBODY: [&str; 7] = [
    ".gitkeep",
    ".gitignore",
    ".keep",
    ".DS_Store",
    ".snapshot",
    ".zfs",
    "lost+found",
];

/// Folders of ours.
pub const FOLDERS: [&str; 7] = [
    shape::TEMP_DIR,
    "events",
    "states",
    "postings",
    "sealing",
    "compacting",
    "damaged",
];

/// The rollup log.
pub const ROLLUP_LOG: &str = "analytics.ndjson";
/// Files of one JSON value and a checksum.
pub const SMALL_FILES: [&str; 3] = [ERASURES_FILE, COHORTS, ROLLUP_SOURCES];
const COHORTS: &str = "cohorts.json";
const ROLLUP_SOURCES: &str = "rollup_sources.json";

/// Files of ours, beside the dictionary.
pub const FILES: [&str; 10] = [
    MARK_FILE,
    MANIFEST_FILE,
    EVENT_LOG_FILE,
    NEXT_LOG_FILE,
    ROLLUP_LOG,
    QUARANTINE_FILE,
    ERASURES_FILE,
    COHORTS,
    ROLLUP_SOURCES,
    "holder",
];

/// What the mark says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    format: u32,
    /// Which store it is: copies of a folder are the same store.
    pub store: String,
    /// Signs what the store leaves elsewhere, so that it knows it again.
    pub key: String,
}

/// What a folder is.
#[derive(Debug)]
pub enum Owner {
    /// A data folder with its mark.
    Marked(Mark),
    /// A data folder that an earlier version wrote.
    Unmarked,
    /// Nobody's.
    Empty,
}

impl Mark {
    /// The mark of a new store.
    ///
    /// # Errors
    /// If the system has no random bytes.
    pub fn new() -> Result<Self> {
        let random = |bytes: &mut [u8]| {
            getrandom::fill(bytes).map_err(|error| {
                Error::io("make an id for", Path::new(MARK_FILE))(std::io::Error::other(error))
            })
        };
        let (mut id, mut key) = ([0; ID_BYTES], [0; KEY_BYTES]);
        random(&mut id)?;
        random(&mut key)?;
        Ok(Self {
            format: FORMAT,
            store: hex::encode(id),
            key: hex::encode(key),
        })
    }

    /// Reads the mark of a folder, if it has one.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it is not what was written, or was written by a newer program.
    pub fn load(root: &Path) -> Result<Option<Self>> {
        let path = root.join(MARK_FILE);
        if !files::is_file(&path)? {
            return Ok(None);
        }
        let damaged = |message: &str| Error::Damaged {
            file: path.clone(),
            message: message.into(),
        };
        let text = fs::read(&path).map_err(Error::io("read", &path))?;
        let mark: Self = checksum::unwrap(&text)
            .ok()
            .and_then(|json| serde_json::from_slice(json).ok())
            .ok_or_else(|| {
                damaged(
                    "its checksum does not match; restore it, or remove it: a new one is made then, and exports of \
                     this store go to a new folder",
                )
            })?;
        match mark.format > FORMAT {
            true => Err(damaged("it was written by a newer program; use that one")),
            false => Ok(Some(mark)),
        }
    }
}

/// Looks whose a folder is. Nothing is changed.
///
/// # Errors
/// `foreign_folder` if it is somebody else's; [`Error::Damaged`] if the mark is damaged, or if all that is there is a log that
/// another program wrote.
pub fn look(root: &Path) -> Result<Owner> {
    if let Some(mark) = Mark::load(root)? {
        return Ok(Owner::Marked(mark));
    }
    let (mut strangers, mut unproven) = (Vec::new(), Vec::new());
    for path in files::list(root)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match OF_NOBODY.contains(&name.as_ref()) || name == shape::TEMP_DIR {
            true => {}
            false if is_of_earlier_version(&name) => unproven.push(name.into_owned()),
            false => strangers.push(name.into_owned()),
        }
    }
    let log = log_kind::of(&root.join(EVENT_LOG_FILE))?;
    if has_evidence(root, &log)? {
        return Ok(Owner::Unmarked);
    }
    if let LogKind::Foreign(found) = log {
        return Err(log_kind::refusal(&root.join(EVENT_LOG_FILE), found));
    }
    if !unproven.is_empty() && strangers.is_empty() && is_fresh(root) {
        return Ok(Owner::Unmarked);
    }
    // A name alone proves nothing: others use it too.
    strangers.extend(unproven);
    strangers.sort();
    match strangers.first() {
        Some(first) => Err(foreign(root, first)),
        None => Ok(Owner::Empty),
    }
}

fn foreign(root: &Path, first: &str) -> Error {
    Error::bad_input(
        "foreign_folder",
        format!(
            "{} is not empty and is no data folder of EchoPilot: it has {first}; nothing was changed. Choose an empty or \
             a new folder with --data-dir",
            root.display()
        ),
    )
}

/// Names that earlier versions gave; some of them others use too.
fn is_of_earlier_version(name: &str) -> bool {
    FILES.contains(&name)
        || FOLDERS.contains(&name)
        || shape::is_dictionary(name)
        || ["dash_key", "demo", "tmp"].contains(&name)
}

/// Whether something is there that nobody else writes.
fn has_evidence(root: &Path, log: &LogKind) -> Result<bool> {
    let is_manifest = || {
        let head = head(&root.join(MANIFEST_FILE));
        // A damaged one too: then the manifest is what has to be restored.
        memchr::memmem::find(&head, br#""sealed_through":"#).is_some()
    };
    let is_rollup_log = || {
        #[derive(Deserialize)]
        struct Line {
            #[serde(rename = "day")]
            _day: chrono::NaiveDate,
            #[serde(rename = "period_days")]
            _period_days: u16,
        }
        let head = head(&root.join(ROLLUP_LOG));
        let line = head.split(|&byte| byte == b'\n').next();
        line.is_some_and(|line| serde_json::from_slice::<Line>(line).is_ok())
    };
    if matches!(log, LogKind::Ours) || is_manifest() || is_rollup_log() {
        return Ok(true);
    }
    for path in files::list(&root.join("sealing"))? {
        if shape::rotated_log(&file_name(&path)).is_some() && log_kind::of(&path)? == LogKind::Ours
        {
            return Ok(true);
        }
    }
    for day in files::list(&root.join("events"))? {
        if shape::is_day_folder(&file_name(&day)) {
            let files = files::list(&day).unwrap_or_default();
            if files.iter().any(|path| shape::is_segment(&file_name(path))) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Whether it is what an earlier version left that had accepted nothing yet: an empty log, and nothing in our folders.
fn is_fresh(root: &Path) -> bool {
    let is_empty = |name: &str| {
        let found = files::list(&root.join(name)).unwrap_or_default();
        found
            .iter()
            .all(|path| shape::is_unfinished(&file_name(path)))
    };
    let log = fs::symlink_metadata(root.join(EVENT_LOG_FILE));
    let has_empty_log = log.is_ok_and(|log| log.is_file() && log.len() == 0);
    (has_empty_log || head(&root.join("holder")).starts_with(b"echopilot "))
        && !root.join(MANIFEST_FILE).exists()
        && FOLDERS.iter().chain(&["tmp"]).all(|name| is_empty(name))
}

/// Says once at a start which files in the folders of the store are not its own. They are left alone.
///
/// # Errors
/// If a folder cannot be listed.
pub fn report_strangers(root: &Path) -> Result<()> {
    let mut strangers = Vec::new();
    type IsOurs = fn(&str) -> bool;
    let folders: [(&str, IsOurs); 6] = [
        ("events", shape::is_day_folder),
        ("states", shape::is_state),
        ("postings", shape::is_postings),
        ("sealing", |name| shape::rotated_log(name).is_some()),
        ("compacting", |name| shape::prepared_day(name).is_some()),
        ("damaged", shape::is_segment_of_day),
    ];
    for (folder, is_ours) in folders {
        for path in files::list(&root.join(folder))? {
            let inside = match path.is_dir() {
                true => files::list(&path)?,
                false => Vec::new(),
            };
            strangers.extend(
                inside
                    .into_iter()
                    .filter(|path| !shape::is_segment(&file_name(path))),
            );
            if !is_ours(&file_name(&path)) {
                strangers.push(path);
            }
        }
    }
    strangers.sort();
    if let Some(first) = strangers.first() {
        warn!(
            files = strangers.len(),
            "The folders of the store have {} files that it did not write, such as {}; they are left alone",
            strangers.len(),
            first.display()
        );
    }
    Ok(())
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The first bytes of a file; none if it is none.
fn head(path: &Path) -> Vec<u8> {
    let mut head = Vec::new();
    if files::is_file(path).unwrap_or(false)
        && let Ok(file) = File::open(path)
    {
        // What cannot be read proves nothing.
        let _ = file.take(HEAD_BYTES).read_to_end(&mut head);
    }
    head
}

/// Checks that what has a name of ours is what the store makes: a folder or a file of its own. By a symbolic link in its
/// place, files elsewhere would be cut or removed.
///
/// # Errors
/// [`Error::Damaged`] with the name and what to do.
pub fn check_places(root: &Path) -> Result<()> {
    for path in files::list(root)? {
        let name = file_name(&path);
        let is_folder = FOLDERS.contains(&name.as_str());
        if !is_folder && !FILES.contains(&name.as_str()) && !shape::is_dictionary(&name) {
            continue;
        }
        let found = fs::symlink_metadata(&path).map_err(Error::io("look at", &path))?;
        if found.is_dir() == is_folder && found.is_file() != is_folder {
            continue;
        }
        let message = match (found.is_symlink(), is_folder) {
            (true, _) => {
                "it is a symbolic link, and the store keeps its files in its own folder; put what it points to in its place"
            }
            (false, true) => "it is no folder; move it away",
            (false, false) => "it is no file; move it away",
        };
        return Err(Error::Damaged {
            file: path,
            message: message.into(),
        });
    }
    Ok(())
}
