//! The codes of rejected and changed events.

use std::fmt;

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;
use utoipa::ToSchema;

/// The reason for the rejection of an event (`bad_…`, `duplicate_field`, `future_ts`,
/// `quarantine_full`), a change that was made to one before it was stored (`…_cut`, `…_dropped`),
/// or what in it does not follow the tracking plan (`plan_…`).
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
    IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum EventCode {
    /// It is not an object, or not JSON.
    BadEvent,
    /// `event_id` is not a string or a number.
    BadEventId,
    /// `event_type` is missing or unknown.
    BadEventType,
    /// `feature` is not a string or a number.
    BadFeature,
    /// `metadata` is not an object.
    BadMetadata,
    /// `ts` is not a timestamp.
    BadTs,
    /// `url` is not a string.
    BadUrl,
    /// `user_id` is not a string or a number.
    BadUserId,
    /// A field occurs twice.
    DuplicateField,
    /// `event_id` was too long and was left out.
    EventIdDropped,
    /// `feature` was truncated.
    FeatureCut,
    /// `ts` is in the future.
    FutureTs,
    /// `metadata` was reduced to its limits.
    MetadataCut,
    /// `metadata` was left out.
    MetadataDropped,
    /// A conversion that the tracking plan does not declare.
    PlanConversion,
    /// A feature that the tracking plan does not declare.
    PlanFeature,
    /// The metadata does not match its schema in the tracking plan.
    PlanMetadata,
    /// The tracking plan quarantines it, and the quarantine is full.
    QuarantineFull,
    /// A session replay of a client of another product, which is not stored.
    Replay,
    /// `url` was truncated.
    UrlCut,
    /// `user_id` was too long and was left out.
    UserIdDropped,
}

/// The code as responses have it.
impl fmt::Display for EventCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(formatter)
    }
}
