//! Verify: compares every file with its checksum. Nothing is changed, whatever a crash left: a file
//! is what the manifest says wherever it is.

use std::path::Path;

use serde::Serialize;

use crate::dictionary::Dictionaries;
use crate::error::{Error, Result};
use crate::store::files;
use crate::store::files::event_ids::IdFile;
use crate::store::files::folder::{Folder, Purpose};
use crate::store::files::scan::read_chunk;
use crate::store::files::shape::QUARANTINE_FILE;
use crate::store::files::{columns, dictionary, ownership, quarantine, recovery};
use crate::store::version::{Manifest, Version};

/// Result of a verification.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Valid events in the logs.
    pub log_events: u64,
    /// Segments whose checksum holds.
    pub segments: usize,
    /// Events in them.
    pub sealed_events: u64,
    /// Daily states whose checksum holds.
    pub states: usize,
    /// One sentence for each damage, with file and position. Empty means all is well.
    pub damage: Vec<String>,
}

/// Checks every checksum of a data folder.
///
/// # Errors
/// If another process has the folder or a file cannot be read. Damage is a finding and not an
/// error, except that of the manifest, without which nothing else can be verified.
pub fn verify(data_dir: &Path, holder: &str) -> Result<Verified> {
    let folder = Folder::open(data_dir, holder, Purpose::Inspect)?;
    let version = Version::of(folder.path(), Manifest::load(folder.path())?);
    let mut verified = Verified::default();
    for segment in &version.segments {
        if let Err(message) = columns::verify(segment) {
            let path = columns::path_of(segment);
            verified
                .damage
                .push(format!("{}: {message}", path.display()));
        }
        match segment.verify() {
            Ok(_) => {
                verified.segments += 1;
                verified.sealed_events += segment.meta.rows;
            }
            Err(error @ (Error::Damaged { .. } | Error::Io { .. })) => {
                verified.damage.push(error.to_string());
            }
            Err(error) => return Err(error),
        }
    }
    let names = Dictionaries::new()?;
    if let Err(error) = dictionary::load(folder.path(), version.dictionary, &names.users) {
        verified.damage.push(error.to_string());
    }
    for state in version.all_states() {
        match state.state(&names) {
            Ok(_) => verified.states += 1,
            Err(error @ (Error::Damaged { .. } | Error::Io { .. })) => {
                verified.damage.push(error.to_string());
            }
            Err(error) => return Err(error),
        }
    }
    for meta in version.event_ids.into_iter().flat_map(|ids| ids.files) {
        let file = IdFile::open(folder.path(), meta);
        verified.check(file.and_then(|file| file.verify()))?;
    }
    for log in recovery::logs_to_read(&folder, version.sealed_through)? {
        verify_log(&log, &mut verified)?;
    }
    for name in ownership::SMALL_FILES {
        verified.check(files::check_json(&folder.path().join(name)))?;
    }
    for name in [QUARANTINE_FILE, ownership::ROLLUP_LOG] {
        verified
            .damage
            .extend(quarantine::verify_lines(folder.path(), name)?.1);
    }
    Ok(verified)
}

impl Verified {
    /// Keeps damage as a finding.
    fn check(&mut self, found: Result<()>) -> Result<()> {
        match found {
            Err(error @ (Error::Damaged { .. } | Error::Io { .. })) => {
                self.damage.push(error.to_string());
                Ok(())
            }
            found => found,
        }
    }
}

fn verify_log(path: &Path, verified: &mut Verified) -> Result<()> {
    let read = |bytes: &[u8]| Ok((read_chunk(bytes, |_| Ok(()))?, ()));
    let scan = recovery::scan_file(path, read, |()| Ok(()))?;
    verified.log_events += scan.events;
    verified.damage.extend(scan.damage.iter().map(|damage| {
        format!(
            "{} is damaged at byte {}, {} bytes: {}",
            path.display(),
            damage.offset,
            damage.length,
            damage.reason.reason()
        )
    }));
    Ok(())
}
