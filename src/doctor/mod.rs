//! Checks of the data folder, the machine and the settings: what works, what would fail, and what
//! to do about it. Nothing is changed; temporary files for a check are removed at once.

mod clock;
mod disk;
mod folder;
mod limits;
mod listen;

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::config::{Listen, StoreConfig};

/// Settings whose consequences are checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The data folder and the limits.
    pub store: StoreConfig,
    /// The address of the server.
    pub listen: Listen,
    /// The file of the dashboard keys, if it is not in the data folder.
    pub dash_key_file: Option<PathBuf>,
}

/// Result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Nothing is to be done.
    Ok,
    /// It works, and may fail or be slow later.
    Warning,
    /// Something fails.
    Fails,
}

/// A finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Name of the check.
    pub check: &'static str,
    /// Its result.
    pub outcome: Outcome,
    /// The state that was found, with its values.
    pub found: String,
    /// The consequence and the next step; absent if nothing is to be done.
    pub advice: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self {
            check,
            outcome: Outcome::Ok,
            found: found.into(),
            advice: None,
        }
    }

    fn warning(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            outcome: Outcome::Warning,
            advice: Some(advice.into()),
            ..Self::ok(check, found)
        }
    }

    fn fails(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            outcome: Outcome::Fails,
            ..Self::warning(check, found, advice)
        }
    }
}

/// All findings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Examined {
    /// True if nothing fails.
    pub ok: bool,
    /// One for each check, in order.
    pub checks: Vec<Finding>,
}

/// Examines everything.
pub fn examine(settings: &Settings, now: DateTime<Utc>) -> Examined {
    let root = &settings.store.data_dir;
    let folder = folder::Folder::examine(root);
    let mut checks = folder.findings(root);
    checks.extend(disk::findings(root, &folder));
    checks.extend(limits::findings(&settings.store));
    checks.extend(clock::findings(&folder, now));
    checks.extend(folder::key_findings(settings));
    checks.push(listen::finding(&settings.listen, root));
    Examined {
        ok: checks.iter().all(|found| found.outcome < Outcome::Fails),
        checks,
    }
}

/// A number of bytes for people.
fn shown_bytes(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}
