//! The manifest: which segments are live, and which logs they cover. Replacing it is the commit of a seal.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::folder::Folder;
use super::segment::SegmentFacts;
use crate::checksum;
use crate::error::{Error, Result};

/// Its name in the data folder.
pub const FILE_NAME: &str = "manifest.json";
/// The format that this program writes. A newer one is refused; older ones are read for ever.
const VERSION: u32 = 1;

/// The state of the sealed part of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    version: u32,
    /// Number of the last rotated log whose events are all in the segments.
    pub sealed_through: u64,
    /// The live segments.
    pub segments: Vec<SegmentFacts>,
}

impl Default for Manifest {
    fn default() -> Self {
        Self {
            version: VERSION,
            sealed_through: 0,
            segments: Vec::new(),
        }
    }
}

impl Manifest {
    /// Reads the manifest of a data folder; there is none before the first seal.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it is not what was written, or was written by a newer program.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE_NAME);
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
        checksum::check_object(text.trim_ascii_end())
            .map_err(|_| damaged("its checksum does not match".into()))?;
        let Version { version } =
            serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if version > VERSION {
            return Err(damaged(format!(
                "it has version {version}, and this program knows up to {VERSION}; use a newer program"
            )));
        }
        serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))
    }

    /// Makes this the manifest of the folder, durably and at once.
    ///
    /// # Errors
    /// If it cannot be written; then the old one holds.
    pub fn commit(&self, folder: &Folder) -> Result<()> {
        // Writing to memory cannot fail.
        let mut text = serde_json::to_vec(self).unwrap_or_default();
        text.pop();
        checksum::close_object(&mut text, 0);
        text.push(b'\n');
        folder.replace(FILE_NAME, &text)
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
            sealed_through: 7,
            ..Manifest::default()
        };
        manifest.commit(&folder)?;
        assert_eq!(Manifest::load(dir.path())?, manifest);
        let path = dir.path().join(FILE_NAME);
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
