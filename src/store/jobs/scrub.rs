//! Scrub: reads files again and compares them with their checksums, so that damage is found before
//! the files are needed. It takes no transaction: it reads a version, whose files stay readable.

use crate::error::Result;
use crate::store::Store;

impl Store {
    /// Verifies the next segments, states and files of event ids in turn, about `bytes` of them.
    ///
    /// # Errors
    /// [`crate::error::Error::Damaged`] for the first damaged file; the next scrub goes on behind
    /// it.
    pub fn scrub(&self, bytes: u64) -> Result<()> {
        let mut position = self.jobs.scrubbed.lock();
        let version = self.versions.version();
        let states: Vec<_> = version.all_states().collect();
        let ids = self.ingest.recent.lock().sealed().to_vec();
        let files = version.segments.len() + states.len() + ids.len();
        let mut read = 0;
        for _ in 0..files {
            *position = (*position + 1) % files;
            if let Some(segment) = version.segments.get(*position) {
                segment.scrub()?;
                read += segment.meta.bytes;
            } else if let Some(state) = states.get(*position - version.segments.len()) {
                state.verified_bytes()?;
                read += state.meta.bytes;
            } else if let Some(file) = ids.get(*position - version.segments.len() - states.len()) {
                file.verify()?;
                read += file.meta.bytes();
            }
            if read >= bytes {
                break;
            }
        }
        Ok(())
    }
}
