//! Verify: compares every file with its checksum. Nothing is changed, whatever a crash left: a file
//! is what the manifest says wherever it is.

use std::path::Path;

use serde::Serialize;

use crate::dictionary::Dictionaries;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::store::Store;
use crate::store::files;
use crate::store::files::event_ids::IdFile;
use crate::store::files::folder::{Folder, Purpose};
use crate::store::files::scan::read_chunk;
use crate::store::files::shape::{EVENT_LOG_FILE, QUARANTINE_FILE};
use crate::store::files::{columns, dictionary, held_file, links, ownership, quarantine, recovery};
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
    verify_with(data_dir, holder, &Progress::default())
}

/// The same, with its progress in files.
///
/// # Errors
/// As [`verify`], and if it is cancelled.
pub fn verify_with(data_dir: &Path, holder: &str, progress: &Progress) -> Result<Verified> {
    let folder = Folder::open(data_dir, holder, Purpose::Inspect)?;
    let version = Version::of(folder.path(), Manifest::load(folder.path())?);
    progress.set_total(files_of(&version));
    let mut verified = Verified::of_segments(&version, progress)?;
    verified.add(Verified::of_others(&folder, &version, u64::MAX, progress)?);
    Ok(verified)
}

impl Store {
    /// Checks every checksum of the open store. Events are accepted meanwhile; other jobs wait
    /// while what they would change is read, which does not include the segments.
    ///
    /// # Errors
    /// As [`verify`].
    pub fn verify(&self, progress: &Progress) -> Result<Verified> {
        let (version, others) = {
            // Erasures alone change the quarantine, and transactions everything else.
            let _no_erasure = self.jobs.erasure.wait_to_keep_out();
            let _no_other = self.begin()?;
            Manifest::load(self.folder.path())?;
            let version = self.versions.version();
            // What follows in the log is being written.
            let log_bytes = self.versions.published().log_bytes;
            progress.set_total(files_of(&version));
            let others = Verified::of_others(&self.folder, &version, log_bytes, progress)?;
            (version, others)
        };
        let mut verified = Verified::of_segments(&version, progress)?;
        verified.add(others);
        Ok(verified)
    }
}

/// The number of segments and daily states.
fn files_of(version: &Version) -> u64 {
    (version.segments.len() + version.all_states().count()) as u64
}

impl Verified {
    /// Checks the segments and their columns.
    fn of_segments(version: &Version, progress: &Progress) -> Result<Self> {
        let mut verified = Self::default();
        for segment in &version.segments {
            progress.check()?;
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
            progress.add(1);
        }
        Ok(verified)
    }

    /// Checks all other files; of the open log the first `log_bytes`.
    fn of_others(
        folder: &Folder,
        version: &Version,
        log_bytes: u64,
        progress: &Progress,
    ) -> Result<Self> {
        let mut verified = Self::default();
        let names = Dictionaries::new()?;
        if let Err(error) = dictionary::load(folder.path(), version.dictionary, &names.users) {
            verified.damage.push(error.to_string());
        }
        for state in version.all_states() {
            progress.check()?;
            match state.state(&names) {
                Ok(_) => verified.states += 1,
                Err(error @ (Error::Damaged { .. } | Error::Io { .. })) => {
                    verified.damage.push(error.to_string());
                }
                Err(error) => return Err(error),
            }
            progress.add(1);
        }
        verified.check(links::load(folder.path(), version.links.meta.as_ref()).map(drop))?;
        for meta in version.event_ids.iter().flat_map(|ids| &ids.files) {
            let file = IdFile::open(folder.path(), meta.clone());
            verified.check(file.and_then(|file| file.verify()))?;
        }
        for log in recovery::logs_to_read(folder, version.sealed_through)? {
            let is_open = log.ends_with(EVENT_LOG_FILE);
            let bytes = if is_open { log_bytes } else { u64::MAX };
            verify_log(&log, bytes, &mut verified)?;
        }
        for name in ownership::SMALL_FILES {
            verified.check(files::check_json(&folder.path().join(name)))?;
        }
        for name in [QUARANTINE_FILE, ownership::ROLLUP_LOG] {
            verified
                .damage
                .extend(quarantine::verify_lines(folder.path(), name)?.1);
        }
        verified.damage.extend(held_file::verify(folder.path())?);
        Ok(verified)
    }

    /// Adds what was found in other files.
    fn add(&mut self, others: Self) {
        self.log_events += others.log_events;
        self.segments += others.segments;
        self.sealed_events += others.sealed_events;
        self.states += others.states;
        self.damage.extend(others.damage);
    }

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

fn verify_log(path: &Path, bytes: u64, verified: &mut Verified) -> Result<()> {
    let read = |bytes: &[u8]| Ok((read_chunk(bytes, |_| Ok(()))?, ()));
    let scan = recovery::scan_file(path, bytes, read, |()| Ok(()))?;
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
