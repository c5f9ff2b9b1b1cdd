//! Checking what is on disk against what was written. No log, segment or manifest is changed.

use std::path::Path;

use serde::Serialize;

use super::compaction;
use super::dictionary;
use super::event_log;
use super::folder::Folder;
use super::manifest::Manifest;
use super::postings;
use super::recovery;
use super::scan::read_chunk;
use super::seal::RotatedLog;
use super::segment::Segment;
use super::states::StateFile;
use crate::error::{Error, Result};
use crate::names::Names;

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Whole events in the logs.
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

/// Checks every checksum of a data folder. `holder` says to others who we are.
///
/// # Errors
/// If another process has the folder or a file cannot be read. Damage is no error here but a finding, unless it
/// is the manifest's, without which nothing else can be judged.
pub fn verify(data_dir: &Path, holder: &str) -> Result<Verified> {
    std::fs::read_dir(data_dir).map_err(Error::io("open the data folder", data_dir))?;
    let folder = Folder::take(data_dir, holder)?;
    let manifest = Manifest::load(folder.path())?;
    // What a crash left between two folders is where the manifest says.
    compaction::finish(&folder, &manifest)?;
    let mut verified = Verified::default();
    for facts in &manifest.segments {
        let segment = Segment::new(folder.path(), facts.clone());
        if let Err(message) = postings::verify(&segment) {
            let path = postings::path_of(&segment);
            verified
                .damage
                .push(format!("{}: {message}", path.display()));
        }
        match segment.verify() {
            Ok(_) => {
                verified.segments += 1;
                verified.sealed_events += facts.rows;
            }
            Err(error @ (Error::Damaged { .. } | Error::Io { .. })) => {
                verified.damage.push(error.to_string());
            }
            Err(error) => return Err(error),
        }
    }
    let names = Names::new()?;
    if let Err(error) = dictionary::load(folder.path(), manifest.dictionary, &names.users) {
        verified.damage.push(error.to_string());
    }
    for facts in &manifest.states {
        match StateFile::new(folder.path(), facts.clone()).state(&names) {
            Ok(_) => verified.states += 1,
            Err(error @ (Error::Damaged { .. } | Error::Io { .. })) => {
                verified.damage.push(error.to_string());
            }
            Err(error) => return Err(error),
        }
    }
    let rotated = RotatedLog::list(folder.path())?;
    let waiting = rotated
        .into_iter()
        .filter(|log| log.number > manifest.sealed_through)
        .map(|log| log.path);
    let open = [event_log::FILE_NAME, event_log::NEXT_FILE_NAME];
    for path in waiting.chain(open.map(|name| folder.path().join(name))) {
        verify_log(&path, &mut verified)?;
    }
    Ok(verified)
}

fn verify_log(path: &Path, verified: &mut Verified) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
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
