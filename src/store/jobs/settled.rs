//! The version that a publication shows to other programs: one between two jobs, so that each job
//! is one change for them.

use std::sync::Arc;

use super::erase::Erasures;
use crate::error::Result;
use crate::store::{SealedVersion, Store};

/// Treatment of a version within a compaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compactions {
    /// It does not: the compaction is waited for.
    Wait,
    /// It does, because something else must not wait.
    Ignore,
}

impl Store {
    /// The published version; `None` while an erasure is not complete, or a compaction runs that is
    /// waited for. Events that are not sealed are not in it.
    ///
    /// # Errors
    /// If the list of erasures cannot be read.
    pub fn settled_version(&self, compactions: Compactions) -> Result<Option<SealedVersion>> {
        let Some(_no_erasure) = self.jobs.erasure.keep_out() else {
            return Ok(None);
        };
        let is_compacting = Arc::strong_count(&self.jobs.compacting) > 1;
        if is_compacting && compactions == Compactions::Wait || Erasures::is_pending(&self.folder)?
        {
            return Ok(None);
        }
        Ok(Some(SealedVersion::of(&self.versions.version())))
    }

    /// The published version, also within a job.
    pub fn sealed_version(&self) -> SealedVersion {
        SealedVersion::of(&self.versions.version())
    }

    /// Identifies the published version.
    pub fn sealed_fingerprint(&self) -> u64 {
        self.sealed_version().fingerprint()
    }
}
