//! The data folder: its content, its owner and its modes, and the files of keys.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Finding, Settings};
use crate::store::files;
use crate::store::folder::{Access, access_of};
use crate::store::inspect::{self, Inspected};

/// Bits of a mode that grant access to other users.
const OTHERS: u32 = 0o077;
/// The user who may do everything.
const ROOT: u32 = 0;
/// Least characters of a key.
const MIN_KEY_CHARS: usize = 16;

/// The content of the data folder.
pub enum Folder {
    /// It does not exist.
    Missing,
    /// It is empty.
    Empty,
    /// It is a data folder.
    Ours(Inspected),
    /// A start would fail; the reason.
    Fails(String),
}

impl Folder {
    /// Examines the folder at this path.
    pub fn examine(root: &Path) -> Self {
        if !root.exists() {
            return Self::Missing;
        }
        match inspect::inspect(root) {
            Ok(None) => Self::Empty,
            Ok(Some(found)) => Self::Ours(found),
            Err(error) => Self::Fails(error.to_string()),
        }
    }

    /// The content of a data folder.
    pub fn inspected(&self) -> Option<&Inspected> {
        match self {
            Self::Ours(found) => Some(found),
            _ => None,
        }
    }

    /// The findings about the folder itself.
    pub fn findings(&self, root: &Path) -> Vec<Finding> {
        let shown = root.display();
        let content = match self {
            Self::Missing => Finding::ok(
                "data folder",
                format!("{shown} does not exist; the first start creates it"),
            ),
            Self::Empty => Finding::ok(
                "data folder",
                format!("{shown} is empty; the first start makes it a data folder"),
            ),
            Self::Fails(reason) => Finding::fails(
                "data folder",
                reason,
                "The server does not start with this folder.",
            ),
            Self::Ours(found) => Finding::ok("data folder", described(found, root)),
        };
        let mut findings = vec![content];
        if let Self::Ours(found) = self {
            findings.push(formats(found));
        }
        if !matches!(self, Self::Missing) {
            findings.extend(owner(root));
        }
        findings
    }
}

fn described(found: &Inspected, root: &Path) -> String {
    let Inspected {
        store,
        segments,
        log_bytes,
        ..
    } = found;
    let store = match store {
        Some(id) => format!("store {}", id.get(..8).unwrap_or(id)),
        None => "of an earlier version, without a mark".into(),
    };
    format!(
        "{} ({store}) has {segments} segments and {} of logs",
        root.display(),
        super::shown_bytes(*log_bytes)
    )
}

fn formats(found: &Inspected) -> Finding {
    match found.old_segments {
        0 => Finding::ok("formats", "all files have the present format"),
        old => Finding::ok(
            "formats",
            format!("{old} segments have an earlier format; the nightly compaction rewrites them"),
        ),
    }
}

/// The user of this process.
fn user() -> Option<u32> {
    Some(fs::metadata("/proc/self").ok()?.uid())
}

fn owner(root: &Path) -> Option<Finding> {
    let found = fs::metadata(root).ok()?;
    let (owner, mode) = (found.uid(), found.mode() & files::MODE_BITS);
    let user = user()?;
    if user != owner && user != ROOT {
        return Some(Finding::fails(
            "owner",
            format!("user {owner} owns the data folder, and this is user {user}"),
            "Run the server as the owner, or change the owner with chown -R.",
        ));
    }
    if access_of(root) == Access::ReadOnly {
        return Some(Finding::fails(
            "owner",
            "the data folder, its log or its manifest is read-only",
            "No event can be stored. Change the modes, or mount the file system for writing.",
        ));
    }
    if let Some(other) = other_owner(root, owner) {
        return Some(Finding::fails(
            "owner",
            format!("{other} has another owner than the data folder (user {owner})"),
            "A server that runs as that owner cannot use it: a command was run as another user. Change the owner \
             with chown -R.",
        ));
    }
    if user == ROOT && owner != ROOT {
        return Some(Finding::warning(
            "owner",
            format!("user {owner} owns the data folder, and this is root"),
            "Files that commands create as root cannot be read by the server: run commands as the owner.",
        ));
    }
    if mode & OTHERS != 0 {
        return Some(Finding::warning(
            "owner",
            format!("the data folder has mode {mode:o}"),
            "Other users may read it. The next start makes it private (700).",
        ));
    }
    Some(Finding::ok("owner", format!("user {owner}, mode {mode:o}")))
}

/// A file directly in the folder that has another owner.
fn other_owner(root: &Path, owner: u32) -> Option<String> {
    let paths = files::list(root).ok()?;
    let other = paths.iter().find(|path| {
        let found = fs::symlink_metadata(path);
        found.is_ok_and(|found| found.uid() != owner)
    });
    other.map(|path| path.display().to_string())
}

/// The findings about the files of keys.
pub fn key_findings(settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    let of_folder = settings.store.data_dir.join("dash_key");
    match (&settings.dash_key_file, of_folder.exists()) {
        (Some(file), _) => findings.push(key_file("dashboard key", file)),
        (None, true) => findings.push(key_file("dashboard key", &of_folder)),
        (None, false) => findings.push(Finding::ok(
            "dashboard key",
            "there is none yet; the first start generates it",
        )),
    }
    match inspect::user_key_fingerprint(&settings.store) {
        Err(error) => findings.push(Finding::fails(
            "user key",
            error.to_string(),
            "The server does not start without the key of its data folder.",
        )),
        Ok(None) => {}
        Ok(Some(fingerprint)) => {
            let file = settings.store.user_key_file.as_deref();
            let found = file.map(|file| key_file("user key", file));
            findings.extend(found.map(|found| Finding {
                found: format!("{}, fingerprint {fingerprint}", found.found),
                ..found
            }));
        }
    }
    findings
}

fn key_file(check: &'static str, file: &Path) -> Finding {
    let shown = file.display();
    let content = match fs::read_to_string(file) {
        Ok(content) => content,
        Err(error) => {
            return Finding::fails(
                check,
                format!("cannot read {shown}: {error}"),
                "The server does not start. Create the file, or make the user of the server its owner.",
            );
        }
    };
    if content.trim().chars().count() < MIN_KEY_CHARS {
        return Finding::fails(
            check,
            format!("{shown} has fewer than {MIN_KEY_CHARS} characters"),
            "The server rejects the key. Write a longer, random one.",
        );
    }
    let mode = fs::metadata(file).map_or(0, |found| found.mode() & files::MODE_BITS);
    if mode & OTHERS != 0 {
        return Finding::warning(
            check,
            format!("{shown} has mode {mode:o}"),
            "Other users may read the key. Change it with chmod 600.",
        );
    }
    Finding::ok(check, format!("{shown}, mode {mode:o}"))
}
