//! Everything that changes committed files, one job a module: plan, prepare files, one
//! [`Transaction`]. Scrub and verify only read.

mod compact;
mod day_state;
mod erase;
mod erasure_permit;
mod event_ids;
mod expire;
mod expire_ids;
mod follow;
mod index;
mod links;
mod load;
mod published;
mod rebuild;
mod renumber;
mod scrub;
mod seal;
mod settled;
mod verify;
mod zones;

use std::sync::Arc;

use chrono_tz::Tz;

use super::Store;
use super::lock::{Ordered, Rank};
use super::version::{Transaction, Version};
use crate::daily::{DailyState, Day, Place, Slices};
use crate::error::Result;
use crate::store::files::day_folder::RetiredDays;
use crate::store::files::states::ZoneDay;
use crate::window;
use day_state::DayEvents;
use erasure_permit::ErasurePermit;
use expire_ids::ExpiredIds;
use seal::FailedSeals;

pub use compact::CompactionScope;
pub(super) use erase::load_erased_users;
pub use erase::{Erased, ErasureLimit, RepeatedErasures, repeat_erasures};
pub(super) use event_ids::open_event_ids;
pub use expire::Expired;
pub(super) use links::add_missing_links;
pub use load::{Loaded, Part};
pub use published::SharedTableMeta;
pub use rebuild::Rebuilt;
pub(super) use rebuild::add_missing_states;
pub(super) use renumber::{MIN_FREE, renumber_users};
pub(super) use seal::LATE_BYTES;
pub use seal::{SealUrgency, Sealed};
pub use settled::Compactions;
pub use verify::{Verified, verify, verify_with};
pub(super) use zones::add_zones;

/// State of the jobs of a store.
pub(super) struct Jobs {
    erasure: ErasurePermit,
    /// The last erasure for which a confirmation was requested.
    offered: Ordered<Option<erase::Offer>>,
    failed_seals: Ordered<FailedSeals>,
    retired: Ordered<RetiredDays>,
    expired_ids: Ordered<ExpiredIds>,
    /// The links that the table next to the lake has, by their file.
    links_table: Ordered<Option<String>>,
    /// Position of the file that was scrubbed last.
    scrubbed: Ordered<usize>,
    /// Most bytes of columns, in percent of the segments.
    column_share: u8,
    /// Cloned by each compaction while it runs.
    compacting: Arc<()>,
}

impl Jobs {
    /// No job has run yet. Columns may have `column_share` percent of the bytes of segments.
    pub fn new(column_share: u8) -> Self {
        Self {
            column_share,
            compacting: Arc::default(),
            erasure: ErasurePermit::default(),
            offered: Ordered::new(Rank::Leaf, None),
            failed_seals: Ordered::new(Rank::Leaf, FailedSeals::default()),
            retired: Ordered::new(Rank::Job, RetiredDays::default()),
            expired_ids: Ordered::new(Rank::Job, ExpiredIds::default()),
            links_table: Ordered::new(Rank::Job, None),
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

    /// Computes the states of the events of a day of UTC from its segments, without those of some
    /// users and the identity calls that name them.
    fn day_slices(&self, version: &Version, day: Day, without: &[&str]) -> Result<Slices> {
        let names = self.names();
        let events = DayEvents {
            segments: &version.segments_of(day),
            day,
            zones: self.versions.zones(),
            names,
            named: version.named_features(day, names),
            max_features: self.ingest.admission.limits().features,
            without,
        };
        events.compute()
    }

    /// Computes the state of a day of a zone from the segments of its days of UTC, without the
    /// events of some users.
    fn day_state(&self, version: &Version, day: ZoneDay, without: &[&str]) -> Result<DailyState> {
        let mut state = DailyState::default();
        let zone = version.zone(day.tz);
        for utc_day in window::utc_days_of(day.date(), day.tz) {
            let is_included = zone.is_none_or(|zone| zone.includes(utc_day));
            if day.tz != Tz::UTC && !(is_included && version.has_segments_of(utc_day)) {
                continue;
            }
            let slices = self.day_slices(version, utc_day, without)?;
            if let Some(place) = Place::of(day.tz, self.versions.zones())
                && let Some(part) = slices.of_zone(place, |_| true).remove(&day.day)
            {
                state.merge(&part);
            }
        }
        Ok(state)
    }
}
