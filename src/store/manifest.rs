//! The manifest: which segments are live, and which logs they cover. Replacing it is the commit of every job.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::clock::ClockFacts;
use super::dictionary::DictionaryFacts;
use super::expiry::ExpiryFacts;
use super::folder::Folder;
use super::segment::SegmentFacts;
use super::shape::MANIFEST_FILE;
use super::states::StateFacts;
use crate::checksum;
use crate::daily::Day;
use crate::error::{Error, Result};

/// The format that this program writes. A newer one is refused; older ones are read for ever.
const VERSION: u32 = 1;

/// How many new users were admitted on the day of the newest one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewUsers {
    /// The day, by `received_at`, as days since 1970-01-01.
    pub day: Day,
    /// How many.
    pub users: u32,
}

/// The state of the sealed part of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    version: u32,
    /// Greatest number in the name of a file that ever was live.
    #[serde(default)]
    pub sequence: u64,
    /// Number of the last rotated log whose events are all in the segments.
    pub sealed_through: u64,
    /// The live segments; those of one day in the order in which their events were logged, which is that of their names.
    pub segments: Vec<SegmentFacts>,
    /// The live daily states, by day.
    #[serde(default)]
    pub states: Vec<StateFacts>,
    /// How much of the dictionary holds.
    #[serde(default)]
    pub dictionary: DictionaryFacts,
    /// What expired.
    #[serde(default)]
    pub expiry: ExpiryFacts,
    /// New users of the newest day, of the events in the segments.
    #[serde(default)]
    pub new_users: NewUsers,
    /// The newest `received_at`; absent in what an earlier version wrote.
    #[serde(default)]
    pub clock: Option<ClockFacts>,
    /// Fingerprint of the key of the pseudonyms; absent where there never was one.
    #[serde(default)]
    pub user_key: Option<String>,
}

impl Default for Manifest {
    fn default() -> Self {
        Self {
            version: VERSION,
            sequence: 0,
            sealed_through: 0,
            segments: Vec::new(),
            states: Vec::new(),
            dictionary: DictionaryFacts::default(),
            expiry: ExpiryFacts::default(),
            new_users: NewUsers::default(),
            clock: None,
            user_key: None,
        }
    }
}

impl Manifest {
    /// Reads the manifest of a data folder; there is none before the first seal.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it is not what was written, or was written by a newer program.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join(MANIFEST_FILE);
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            read => read.map_err(Error::io("read", &path))?,
        };
        let damaged = |message: String| Error::Damaged {
            file: path.clone(),
            message,
        };
        let object = text.strip_suffix(b"\n").unwrap_or_default();
        checksum::check_object(object)
            .map_err(|_| damaged("its checksum does not match; restore it".into()))?;
        let Version { version } =
            serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if version > VERSION {
            return Err(damaged(format!(
                "it has version {version}, and this program knows up to {VERSION}; use a newer program"
            )));
        }
        let mut manifest: Self =
            serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        manifest.sequence = manifest.sequence.max(manifest.sealed_through);
        Ok(manifest)
    }

    /// Events in the live segments.
    pub fn rows(&self) -> u64 {
        self.segments.iter().map(|facts| facts.rows).sum()
    }

    /// Puts states in the place of those of the same days.
    pub fn replace_states(&mut self, new: Vec<StateFacts>) {
        let is_replaced = |facts: &StateFacts| new.iter().any(|other| other.day == facts.day);
        self.states.retain(|facts| !is_replaced(facts));
        self.states.extend(new);
        self.states.sort_by_key(|facts| facts.day);
    }

    /// Makes this the manifest of the folder, durably and at once.
    ///
    /// # Errors
    /// If it cannot be written; then one of the two holds, whole.
    pub fn commit(&self, folder: &Folder) -> Result<()> {
        // Writing to memory cannot fail.
        let mut text = serde_json::to_vec(self).unwrap_or_default();
        text.pop();
        checksum::close_object(&mut text, 0);
        text.push(b'\n');
        folder.replace(MANIFEST_FILE, &text)
    }
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_that_was_changed_or_is_newer_is_refused() -> Result<()> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let folder = Folder::take(dir.path(), "the test")?;
        assert_eq!(Manifest::load(dir.path())?, Manifest::default());
        let manifest = Manifest {
            sequence: 7,
            sealed_through: 7,
            ..Manifest::default()
        };
        manifest.commit(&folder)?;
        assert_eq!(Manifest::load(dir.path())?, manifest);
        let path = dir.path().join(MANIFEST_FILE);
        let text = std::fs::read_to_string(&path).expect("just written");
        std::fs::write(&path, text.replace('7', "8")).expect("a writable folder");
        assert!(matches!(
            Manifest::load(dir.path()),
            Err(Error::Damaged { .. })
        ));
        Manifest {
            version: VERSION + 1,
            ..manifest
        }
        .commit(&folder)?;
        match Manifest::load(dir.path()) {
            Err(Error::Damaged { message, .. }) => assert!(message.contains("newer program")),
            other => panic!("{other:?}"),
        }
        Ok(())
    }
}
