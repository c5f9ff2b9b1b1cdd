//! Samples of the store for monitoring. None of them opens a file.

use std::sync::Arc;

use crate::daily::{Activity, WeekActivity};
use crate::monitoring::{Gauges, Memory};
use crate::store::Store;
use crate::store::files::segment::Segment;

/// Bytes of an event in the tail.
const TAIL_EVENT_BYTES: u64 = 20;
/// µs in a second.
const SECOND_US: f64 = 1e6;

impl Store {
    /// The gauges of the store; what only the engine knows has its default. The lock that commits
    /// wait for is held as long as by a query.
    pub fn gauges(&self) -> Gauges {
        let published = self.versions.published();
        let version = published.version().clone();
        let since = published.waiting.since.or(published.log_since);
        let unsealed_events = published.tail.len() as u64;
        let log_bytes = published.log_bytes + published.waiting.bytes();
        drop(published);
        let lag = since.filter(|_| unsealed_events > 0);
        let segments = || version.segments.iter();
        Gauges {
            seal_lag: lag.map_or(0.0, |since| since.elapsed().as_secs_f64()),
            unsealed_events,
            log_bytes,
            sealed_events: version.rows(),
            segments: version.segments.len() as u64,
            segment_bytes: segments().map(|segment| segment.meta.bytes).sum(),
            damaged_segments: segments()
                .filter(|segment| Segment::is_damaged(segment))
                .count() as u64,
            states: version.all_states().count() as u64,
            state_bytes: version.all_states().map(|state| state.meta.bytes).sum(),
            links: version.links.links.len(),
            rejected_links: version.links.links.rejected(),
            watchers: self.subscribers() as u64,
            last_event: self
                .ingest
                .clock
                .newest_us()
                .map_or(0.0, |us| us as f64 / SECOND_US),
            ..Gauges::default()
        }
    }

    /// Estimates of the memory of the parts of the store.
    pub fn memory(&self) -> Memory {
        let published = self.versions.published();
        let version = published.version().clone();
        let tail = published.tail.len() as u64 * TAIL_EVENT_BYTES;
        drop(published);
        let event_ids = self.ingest.recent.lock().memory_bytes();
        let days = version.all_states().filter_map(|state| state.kept());
        let days: u64 = days.map(Activity::memory_bytes).sum();
        let weeks: Vec<Arc<WeekActivity>> = self.reader.weeks.kept();
        let weeks: u64 = weeks.iter().map(|week| week.whole.memory_bytes()).sum();
        Memory {
            tail,
            event_ids,
            dictionary: self.names().users.memory_bytes() + version.links.links.memory_bytes(),
            states: days + weeks,
        }
    }
}
