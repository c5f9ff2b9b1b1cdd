//! The manifest: a [`Version`] as the file `manifest.json`. Replacing it is the commit of every
//! job.

use std::collections::BTreeMap;
use std::path::Path;

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

use super::Version;
use super::expiry::ExpiryMeta;
use super::zone::{ZoneMeta, ZoneStates};
use crate::checksum;
use crate::daily::Day;
use crate::error::{Error, Result};
use crate::store::clock::ClockMeta;
use crate::store::files::dictionary::DictionaryMeta;
use crate::store::files::event_ids::EventIdsMeta;
use crate::store::files::folder::Folder;
use crate::store::files::links::LinksMeta;
use crate::store::files::segment::SegmentMeta;
use crate::store::files::shape::MANIFEST_FILE;
use crate::store::files::states::StateMeta;

/// The format that this program writes. A newer one is an error; older ones are read for ever.
const FORMAT: u32 = 1;

/// New users that were admitted on the day of the newest one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewUsers {
    /// The day, by `received_at`, as days since 1970-01-01.
    pub day: Day,
    /// Users.
    pub users: u32,
}

/// The content of the manifest; the fields are those of [`Version`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    version: u32,
    /// See [`Version::sequence`].
    #[serde(default)]
    pub sequence: u64,
    /// See [`Version::sealed_through`].
    pub sealed_through: u64,
    /// The live segments.
    pub segments: Vec<SegmentMeta>,
    /// The live daily states of UTC, by day.
    #[serde(default)]
    pub states: Vec<StateMeta>,
    /// See [`Version::zones`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<ZoneMeta>,
    /// See [`Version::dictionary`].
    #[serde(default)]
    pub dictionary: DictionaryMeta,
    /// See [`Version::expiry`].
    #[serde(default)]
    pub expiry: ExpiryMeta,
    /// See [`Version::new_users`].
    #[serde(default)]
    pub new_users: NewUsers,
    /// See [`Version::clock`].
    #[serde(default)]
    pub clock: Option<ClockMeta>,
    /// See [`Version::user_key`].
    #[serde(default)]
    pub user_key: Option<String>,
    /// See [`Version::event_ids`].
    #[serde(default)]
    pub event_ids: Option<EventIdsMeta>,
    /// See [`Version::followed`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub followed: BTreeMap<NaiveDate, String>,
    /// See [`Version::links`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub links: Option<LinksMeta>,
}

impl Default for Manifest {
    fn default() -> Self {
        Self {
            version: FORMAT,
            sequence: 0,
            sealed_through: 0,
            segments: Vec::new(),
            states: Vec::new(),
            zones: Vec::new(),
            dictionary: DictionaryMeta::default(),
            expiry: ExpiryMeta::default(),
            new_users: NewUsers::default(),
            clock: None,
            user_key: None,
            event_ids: None,
            followed: BTreeMap::new(),
            links: None,
        }
    }
}

impl Manifest {
    /// The manifest of a version.
    pub fn of(version: &Version) -> Self {
        let states = version.states.values();
        Self {
            version: FORMAT,
            sequence: version.sequence,
            sealed_through: version.sealed_through,
            segments: version.segment_metas().cloned().collect(),
            states: states.map(|state| state.meta.clone()).collect(),
            zones: version.zones.iter().map(ZoneStates::meta).collect(),
            dictionary: version.dictionary,
            expiry: version.expiry,
            new_users: version.new_users,
            clock: version.clock,
            user_key: version.user_key.clone(),
            event_ids: version.event_ids.clone(),
            followed: version.followed.clone(),
            links: version.links.meta.clone(),
        }
    }

    /// Reads the manifest of a data folder; the default before the first seal.
    ///
    /// # Errors
    /// As [`Manifest::parse`].
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join(MANIFEST_FILE);
        match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            read => Self::parse(&read.map_err(Error::io("read", &path))?, &path),
        }
    }

    /// Reads the content of a manifest; `path` is for error messages.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it is not what was written, or was written by a newer program.
    pub fn parse(text: &[u8], path: &Path) -> Result<Self> {
        let damaged = |message: String| Error::Damaged {
            file: path.to_owned(),
            message,
        };
        let object = text.strip_suffix(b"\n").unwrap_or_default();
        checksum::check_object(object)
            .map_err(|_| damaged("its checksum does not match; restore it".into()))?;
        let Format { version } =
            serde_json::from_slice(text).map_err(|error| damaged(error.to_string()))?;
        if version > FORMAT {
            return Err(damaged(format!(
                "it has version {version}, and this program knows up to {FORMAT}; use a newer program"
            )));
        }
        let mut manifest: Self =
            serde_json::from_slice(text).map_err(|error| damaged(error.to_string()))?;
        manifest.sequence = manifest.sequence.max(manifest.sealed_through);
        Ok(manifest)
    }

    /// Paths of the immutable files that a backup has: segments, states and links.
    pub fn paths(&self) -> impl Iterator<Item = &String> {
        let of_zones = self.zones.iter().flat_map(|zone| &zone.states);
        let states = self.states.iter().chain(of_zones).map(|state| &state.path);
        self.segments
            .iter()
            .map(|segment| &segment.path)
            .chain(states)
            .chain(self.links.as_ref().map(|links| &links.path))
    }

    /// The content of the file.
    pub fn encode(&self) -> Vec<u8> {
        // Writing to memory cannot fail.
        let mut text = serde_json::to_vec(self).unwrap_or_default();
        text.pop();
        checksum::close_object(&mut text, 0);
        text.push(b'\n');
        text
    }

    /// Makes this the manifest of the folder, durably and at once.
    ///
    /// # Errors
    /// If it cannot be written; then the old or the new one holds, complete.
    pub fn commit(&self, folder: &Folder) -> Result<()> {
        folder.replace(MANIFEST_FILE, &self.encode())
    }
}

#[derive(Deserialize)]
struct Format {
    version: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_or_newer_manifest_is_rejected() -> Result<()> {
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
            version: FORMAT + 1,
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
