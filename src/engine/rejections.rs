//! The newest rejected events with the reasons, for the person who wonders where events are. In
//! memory only, and of an event no more than the message of the response.

use std::collections::{BTreeMap, VecDeque};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::Engine;
use crate::error::first_chars;
use crate::event::{EventCode, Rejection};

/// Most rejections that are kept.
const MAX_RECENT: usize = 100;
/// Most characters of a message.
const MAX_MESSAGE_CHARS: usize = 300;

/// Rejected events since the start.
#[derive(Default)]
pub(super) struct Rejections {
    by_code: BTreeMap<EventCode, u64>,
    /// The newest first.
    recent: VecDeque<(i64, EventCode, String)>,
}

/// Rejected events since the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct RejectionsAnswer {
    /// Number of rejected events by code.
    pub by_code: BTreeMap<EventCode, u64>,
    /// At most 100 rejections, the newest first.
    pub recent: Vec<RejectedEvent>,
}

/// A rejected event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct RejectedEvent {
    /// When it was received.
    pub received_at: String,
    /// The code of the reason.
    pub code: EventCode,
    /// The field, the beginning of its value and what is allowed.
    pub message: String,
}

impl Engine {
    /// Keeps the reasons for the rejected events of a request.
    pub(super) fn note_rejections(&self, received_at_us: i64, rejections: &[Rejection]) {
        let mut all = self.rejections.lock();
        for rejection in rejections {
            *all.by_code.entry(rejection.code).or_default() += 1;
            all.recent.truncate(MAX_RECENT - 1);
            let message = first_chars(&rejection.message, MAX_MESSAGE_CHARS).to_owned();
            all.recent
                .push_front((received_at_us, rejection.code, message));
        }
    }

    /// Rejected events since the start.
    pub fn rejections(&self) -> RejectionsAnswer {
        let all = self.rejections.lock();
        let recent = all.recent.iter();
        let recent = recent.map(|(received_at_us, code, message)| RejectedEvent {
            received_at: rfc3339(*received_at_us),
            code: *code,
            message: message.clone(),
        });
        RejectionsAnswer {
            by_code: all.by_code.clone(),
            recent: recent.collect(),
        }
    }
}

/// A time in µs since 1970, as responses have it.
pub(super) fn rfc3339(us: i64) -> String {
    let time: DateTime<Utc> = DateTime::from_timestamp_micros(us).unwrap_or_default();
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}
