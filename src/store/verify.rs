//! Checking what is on disk against what was written, without changing anything.

use std::path::Path;

use serde::Serialize;

use super::draft::DraftMaker;
use super::event_log;
use super::manifest::Manifest;
use super::recovery;
use super::seal::RotatedLog;
use super::segment::Segment;
use crate::error::{Error, Result};

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Whole events in the logs.
    pub log_events: u64,
    /// Segments whose checksum holds.
    pub segments: usize,
    /// Events in them.
    pub sealed_events: u64,
    /// One sentence for each damage, with file and position. Empty means all is well.
    pub damage: Vec<String>,
}

pub(super) fn verify(folder: &Path, manifest: &Manifest, maker: &DraftMaker) -> Result<Verified> {
    let mut verified = Verified::default();
    for facts in &manifest.segments {
        match Segment::new(folder, facts.clone()).verify() {
            Ok(()) => {
                verified.segments += 1;
                verified.sealed_events += facts.rows;
            }
            Err(error @ (Error::Damaged { .. } | Error::Io { .. })) => {
                verified.damage.push(error.to_string());
            }
            Err(error) => return Err(error),
        }
    }
    let rotated = RotatedLog::list(folder)?.into_iter().map(|log| log.path);
    for path in rotated.chain([folder.join(event_log::FILE_NAME)]) {
        let scan = recovery::scan_file(&path, maker, |_| Ok(()))?;
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
    }
    Ok(verified)
}
