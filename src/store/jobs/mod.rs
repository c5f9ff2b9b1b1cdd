//! Everything that changes committed files, one job a module: plan, prepare files, one
//! [`Transaction`]. Scrub and verify only read.

mod compact;
mod day_state;
mod erase;
mod erasure_permit;
mod event_ids;
mod expire;
mod expire_ids;
mod index;
mod load;
mod rebuild;
mod scrub;
mod seal;
mod verify;

use super::Store;
use super::lock::{Ordered, Rank};
use super::version::{Transaction, Version};
use crate::daily::{DailyState, Day};
use crate::error::Result;
use crate::store::files::day_folder::RetiredDays;
use day_state::DayState;
use erasure_permit::ErasurePermit;
use expire_ids::ExpiredIds;
use seal::FailedSeals;

pub use compact::CompactionScope;
pub(super) use erase::load_erased_users;
pub use erase::{Erased, ErasureLimit};
pub(super) use event_ids::open_event_ids;
pub use expire::Expired;
pub use load::Part;
pub use rebuild::Rebuilt;
pub(super) use rebuild::add_missing_states;
pub use seal::{SealUrgency, Sealed};
pub use verify::{Verified, verify};

/// State of the jobs of a store.
pub(super) struct Jobs {
    erasure: ErasurePermit,
    /// The last erasure for which a confirmation was requested.
    offered: Ordered<Option<erase::Offer>>,
    failed_seals: Ordered<FailedSeals>,
    retired: Ordered<RetiredDays>,
    expired_ids: Ordered<ExpiredIds>,
    /// Position of the file that was scrubbed last.
    scrubbed: Ordered<usize>,
}

impl Default for Jobs {
    fn default() -> Self {
        Self {
            erasure: ErasurePermit::default(),
            offered: Ordered::new(Rank::Leaf, None),
            failed_seals: Ordered::new(Rank::Leaf, FailedSeals::default()),
            retired: Ordered::new(Rank::Job, RetiredDays::default()),
            expired_ids: Ordered::new(Rank::Job, ExpiredIds::default()),
            scrubbed: Ordered::new(Rank::Job, 0),
        }
    }
}

impl Store {
    /// Begins a transaction, once no other one runs.
    ///
    /// # Errors
    /// As [`super::version::VersionControl::begin`].
    pub(super) fn begin(&self) -> Result<Transaction<'_>> {
        self.versions.begin(&self.folder)
    }

    /// Computes the state of a day from its segments, without the events of some users.
    fn day_state(&self, version: &Version, day: Day, without: &[&str]) -> Result<DailyState> {
        let names = self.names();
        let state = DayState {
            segments: &version.segments_of(day),
            day,
            names,
            named: version.named_features(day, names),
            max_features: self.ingest.admission.limits().features,
            without,
        };
        state.compute()
    }
}
