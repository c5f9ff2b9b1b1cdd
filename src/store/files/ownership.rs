//! Ownership of a folder. A data folder has a mark, the file `.echopilot`. A folder that is not
//! empty and has neither the mark nor files of an earlier version belongs to another program, and
//! no command changes it.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::log_kind::{self, LogKind};
use super::shape::{
    self, ALERTS_FILE, AUDIT_FILE, ERASURES_FILE, EVENT_LOG_FILE, HELD_EVENTS_FILE, MANIFEST_FILE,
    NEXT_LOG_FILE, OLD_AUDIT_FILE, PUBLICATION_FILE, QUARANTINE_FILE,
};
use crate::checksum;
use crate::error::{Error, ErrorCode, Result};
use crate::store::files;

/// The mark's name.
pub const MARK_FILE: &str = ".echopilot";
/// The name of the file that a folder has while a backup is restored into it.
pub const RESTORING_FILE: &str = ".echopilot-restoring";
/// The format of the data folder that this program writes.
const FORMAT: u32 = 1;
/// Bytes of a store's id.
const ID_BYTES: usize = 16;
/// Bytes of the key by which a store recognizes lists that it wrote.
const KEY_BYTES: usize = 32;
/// Bytes at the start of a file that are inspected.
const HEAD_BYTES: u64 = 64 << 10;

/// Names that version control, file systems and desktops create in folders that are empty
/// otherwise.
const IGNORED: [&str; 7] = [
    ".gitkeep",
    ".gitignore",
    ".keep",
    ".DS_Store",
    ".snapshot",
    ".zfs",
    "lost+found",
];

/// Our folders.
pub const FOLDERS: [&str; 10] = [
    shape::TEMP_DIR,
    "events",
    "states",
    "ids",
    "links",
    "columns",
    "postings",
    "sealing",
    "compacting",
    "damaged",
];

/// The rollup log.
pub const ROLLUP_LOG: &str = "analytics.ndjson";
/// Our files that contain one JSON value with a checksum.
pub const SMALL_FILES: [&str; 11] = [
    ERASURES_FILE,
    PUBLICATION_FILE,
    COHORTS,
    PLAN,
    ROLLUP_SOURCES,
    ALERTS_FILE,
    REPORTS,
    SHARE_LINKS,
    ANNOTATIONS,
    USER_ALERTS,
    USER_ALERTS_STATE,
];
const COHORTS: &str = "cohorts.json";
const REPORTS: &str = "reports.json";
const SHARE_LINKS: &str = "share_links.json";
const ANNOTATIONS: &str = "annotations.json";
const USER_ALERTS: &str = "alerts.json";
const USER_ALERTS_STATE: &str = "alerts_state.json";
const PLAN: &str = "plan.json";
const ROLLUP_SOURCES: &str = "rollup_sources.json";

/// Our files, other than the dictionary.
pub const FILES: [&str; 21] = [
    MARK_FILE,
    MANIFEST_FILE,
    EVENT_LOG_FILE,
    NEXT_LOG_FILE,
    ROLLUP_LOG,
    QUARANTINE_FILE,
    HELD_EVENTS_FILE,
    AUDIT_FILE,
    OLD_AUDIT_FILE,
    ERASURES_FILE,
    COHORTS,
    PLAN,
    ROLLUP_SOURCES,
    ALERTS_FILE,
    REPORTS,
    SHARE_LINKS,
    ANNOTATIONS,
    USER_ALERTS,
    USER_ALERTS_STATE,
    PUBLICATION_FILE,
    "holder",
];

/// Content of the mark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    format: u32,
    /// Id of the store; copies of a folder have the same.
    pub store: String,
    /// Key of the signatures by which the store recognizes what it wrote elsewhere.
    pub key: String,
}

/// Owner of a folder.
#[derive(Debug)]
pub enum Owner {
    /// Ours: a data folder with a mark.
    Marked(Mark),
    /// Ours: a data folder of an earlier version, without a mark.
    Unmarked,
    /// None: the folder is empty.
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
    /// [`Error::Damaged`] if it is not what was written, or a newer version wrote it.
    pub fn load(root: &Path) -> Result<Option<Self>> {
        let path = root.join(MARK_FILE);
        if !files::is_file(&path)? {
            return Ok(None);
        }
        let damaged = |message: &str| Error::Damaged {
            file: path.clone(),
            message: message.into(),
        };
        let content = fs::read(&path).map_err(Error::io("read", &path))?;
        let mark: Self = checksum::unwrap(&content)
            .ok()
            .and_then(|json| serde_json::from_slice(json).ok())
            .ok_or_else(|| {
                damaged(
                    "its checksum does not match; restore it, or remove it: then the store gets a new one, and its \
                     exports need a new folder",
                )
            })?;
        if mark.format > FORMAT {
            return Err(damaged("it was written by a newer program; use that one"));
        }
        Ok(Some(mark))
    }
}

/// Determines the owner of a folder. Nothing is changed.
///
/// # Errors
/// `foreign_folder` if it belongs to another program; `unfinished_restore` if a restore into it was
/// interrupted; [`Error::Damaged`] if the mark is damaged, or if the event log is one of another
/// program and there is no other sign that the folder is ours.
pub fn look(root: &Path) -> Result<Owner> {
    if files::is_file(&root.join(RESTORING_FILE))? {
        return Err(Error::bad_input(
            ErrorCode::UnfinishedRestore,
            format!(
                "a restore into {} was interrupted, and the folder has only a part of the data; run `echopilot \
                 restore` again",
                root.display()
            ),
        ));
    }
    if let Some(mark) = Mark::load(root)? {
        return Ok(Owner::Marked(mark));
    }
    let (mut foreign_names, mut possibly_ours) = (Vec::new(), Vec::new());
    for path in files::list(root)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if IGNORED.contains(&name.as_ref()) || name == shape::TEMP_DIR {
            continue;
        }
        if is_of_earlier_version(&name) {
            possibly_ours.push(name.into_owned());
        } else {
            foreign_names.push(name.into_owned());
        }
    }
    let log = log_kind::of(&root.join(EVENT_LOG_FILE))?;
    if has_evidence(root, &log)? {
        return Ok(Owner::Unmarked);
    }
    if let LogKind::Foreign(found) = log {
        return Err(log_kind::refusal(&root.join(EVENT_LOG_FILE), found));
    }
    if !possibly_ours.is_empty() && foreign_names.is_empty() && is_fresh(root) {
        return Ok(Owner::Unmarked);
    }
    // A name alone proves nothing: other programs may use it too.
    foreign_names.extend(possibly_ours);
    foreign_names.sort();
    match foreign_names.first() {
        Some(first) => Err(foreign(root, first)),
        None => Ok(Owner::Empty),
    }
}

/// The first name in a folder that makes it not empty; none if there is no such folder.
///
/// # Errors
/// If it cannot be listed.
pub fn first_name(root: &Path) -> Result<Option<String>> {
    let names = files::list(root)?.into_iter().map(|path| file_name(&path));
    Ok(names.filter(|name| !IGNORED.contains(&name.as_str())).min())
}

/// The error for a folder of another program, with one of the names in it.
fn foreign(root: &Path, first: &str) -> Error {
    Error::bad_input(
        ErrorCode::ForeignFolder,
        format!(
            "{} is not empty and is not a data folder of EchoPilot: it has {first}; nothing was changed. Choose an \
             empty or new folder with --data-dir",
            root.display()
        ),
    )
}

/// True for names that earlier versions used; other programs may use some of them too.
fn is_of_earlier_version(name: &str) -> bool {
    FILES.contains(&name)
        || FOLDERS.contains(&name)
        || shape::is_dictionary(name)
        || ["dash_key", "demo", "tmp"].contains(&name)
}

/// True if there is a file that only this program writes.
fn has_evidence(root: &Path, log: &LogKind) -> Result<bool> {
    let is_manifest = || {
        let head = head(&root.join(MANIFEST_FILE));
        // A damaged manifest counts as well: it has to be restored.
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

/// True for a data folder of an earlier version that had not accepted any event: its log is empty,
/// and so are our folders.
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

/// Traces the files of other programs in the folders of the store. They are left alone.
///
/// # Errors
/// If a folder cannot be listed.
pub fn report_strangers(root: &Path) -> Result<()> {
    let mut foreign = Vec::new();
    type IsOurs = fn(&str) -> bool;
    let folders: [(&str, IsOurs); 9] = [
        ("events", shape::is_day_folder),
        ("states", shape::is_state),
        ("columns", shape::is_columns),
        ("postings", shape::is_postings),
        ("ids", shape::is_event_ids),
        ("links", shape::is_links),
        ("sealing", |name| shape::rotated_log(name).is_some()),
        ("compacting", |name| shape::prepared_day(name).is_some()),
        ("damaged", shape::is_segment_of_day),
    ];
    for (folder, is_ours) in folders {
        for path in files::list(&root.join(folder))? {
            if path.is_dir() {
                let inside = files::list(&path)?;
                let is_segment = |path: &PathBuf| shape::is_segment(&file_name(path));
                foreign.extend(inside.into_iter().filter(|path| !is_segment(path)));
            }
            if !is_ours(&file_name(&path)) {
                foreign.push(path);
            }
        }
    }
    foreign.sort();
    if let Some(first) = foreign.first() {
        warn!(
            files = foreign.len(),
            "The folders of the store have {} files that it did not write, such as {}; they are left alone",
            foreign.len(),
            first.display()
        );
    }
    Ok(())
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The first bytes of a regular file; empty for anything else.
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

/// Checks that everything with one of our names is a regular file or a folder, as the store creates
/// it. With a symbolic link in its place, files elsewhere would be changed or removed.
///
/// # Errors
/// [`Error::Damaged`] with the name and the next step.
pub fn check_places(root: &Path) -> Result<()> {
    for path in files::list(root)? {
        let name = file_name(&path);
        let is_folder = FOLDERS.contains(&name.as_str());
        if !is_folder && !FILES.contains(&name.as_str()) && !shape::is_dictionary(&name) {
            continue;
        }
        let found = fs::symlink_metadata(&path).map_err(Error::io("inspect", &path))?;
        if found.is_dir() == is_folder && found.is_file() != is_folder {
            continue;
        }
        let message = match (found.is_symlink(), is_folder) {
            (true, _) => {
                "it is a symbolic link, but the store keeps its files in its own folder; replace the link by its target"
            }
            (false, true) => "it is not a folder; move it away",
            (false, false) => "it is not a regular file; move it away",
        };
        return Err(Error::Damaged {
            file: path,
            message: message.into(),
        });
    }
    Ok(())
}
