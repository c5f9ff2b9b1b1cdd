//! The size of a store, for status.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use crate::store::Store;
use crate::store::files::columns;

/// Events, files and bytes of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct StoreSize {
    /// Events in the logs, not yet sealed.
    pub log_events: usize,
    /// Bytes of the open log.
    pub log_bytes: u64,
    /// Rotated logs that wait to be sealed.
    pub waiting_logs: usize,
    /// Their bytes.
    pub waiting_bytes: u64,
    /// Events in segments.
    pub sealed_events: u64,
    /// Live segments.
    pub segments: usize,
    /// Their bytes.
    pub sealed_bytes: u64,
    /// Daily states, of UTC and of the other reporting zones.
    pub states: usize,
    /// Bytes of the states.
    pub state_bytes: u64,
    /// Bytes of the columns.
    pub column_bytes: u64,
    /// Event ids of sealed events that new events are compared with.
    pub event_ids: u64,
    /// Bytes of their files.
    pub event_id_bytes: u64,
}

impl Store {
    /// The current size.
    pub fn size(&self) -> StoreSize {
        let published = self.versions.published();
        let version = published.version().clone();
        let (log_events, log_bytes) = (published.tail.len(), published.log_bytes);
        let (logs, bytes) = (published.waiting.logs(), published.waiting.bytes());
        drop(published);
        let ids = || version.event_ids.iter().flat_map(|ids| &ids.files);
        let segment_bytes = version.segment_metas().map(|meta| meta.bytes);
        StoreSize {
            log_events,
            log_bytes,
            waiting_logs: logs,
            waiting_bytes: bytes,
            sealed_events: version.rows(),
            segments: version.segments.len(),
            sealed_bytes: segment_bytes.sum(),
            states: version.all_states().count(),
            state_bytes: version.all_states().map(|state| state.meta.bytes).sum(),
            column_bytes: columns::bytes(&self.folder),
            event_ids: ids().map(|file| file.ids).sum(),
            event_id_bytes: ids().map(|file| file.bytes()).sum(),
        }
    }

    /// The age of the oldest event that waits to be sealed.
    pub fn seal_lag(&self) -> Option<Duration> {
        let published = self.versions.published();
        let since = published.waiting.since.or(published.log_since);
        let since = since.filter(|_| published.tail.len() > 0);
        since.map(|since| since.elapsed())
    }
}
