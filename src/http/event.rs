//! `POST /api/analytics/event`, and the same under the neutral path: public, for pages of any site
//! or of listed ones.

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use serde::Serialize;
use serde_json::{Map, Value};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use utoipa::ToSchema;
use utoipa_axum::router::{UtoipaMethodRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;

use super::body::ReceivedBody;
use super::caller::Caller;
use super::described::{BodyErrors, Errors, OriginErrors, WriteErrors};
use super::error_response::{ErrorBody, ErrorResponse};
use super::extract::{AppState, Public};
use super::public_limits::PublicLimits;
use super::{HandlerResult, body};
use crate::config::Origins;
use crate::engine::{IngestAnswer, PendingIngest};
use crate::error::ErrorCode;
use crate::event;
use crate::monitoring::{BatchOutcome, EventOutcome, Family, Monitoring};

/// Time for a batch to reach the disk. After it the client is told to send the batch again; its
/// event ids prevent duplicates.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for which a browser may cache the response to a preflight request.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// The route, with its cross-origin rules.
pub fn route(origins: &Origins) -> UtoipaMethodRouter<AppState> {
    routes!(ingest).map(|route| {
        route
            .fallback(|| async { ErrorResponse::method_not_allowed() })
            .layer(cross_origin(origins))
    })
}

/// Stores a batch of events, and responds once the accepted ones are on disk.
#[utoipa::path(
    post,
    path = "/api/analytics/event",
    operation_id = "ingest",
    tag = "events",
    request_body = SentBatch,
    responses(
        (status = 200, description = "At least one event was stored, quarantined, a duplicate or ignored.", body = IngestAnswer),
        Errors,
        (status = 400, description = "All events were rejected, or the body is not a batch.", body = RejectedBatch),
        OriginErrors, BodyErrors, WriteErrors
    ),
    security(())
)]
async fn ingest(public: Public, request: Request) -> HandlerResult<Response> {
    let result = store(&public, request).await;
    public.monitoring().count_batch(
        Family::Native,
        BatchOutcome::of_status(match &result {
            Ok(response) => response.status().as_u16(),
            Err(error) => error.status().as_u16(),
        }),
    );
    result
}

async fn store(public: &Public, request: Request) -> HandlerResult<Response> {
    let (head, body) = request.into_parts();
    check_origin(public.limits(), &head.headers)?;
    let permits = public.permits();
    let body = body::receive(&permits.bodies, &head.headers, body).await?;
    let received = Instant::now();
    public.monitoring().body.observe(body.wire_bytes() as f64);
    let result = store_body(public, head, body).await;
    public.monitoring().ingest.observe_time(received.elapsed());
    result
}

async fn store_body(public: &Public, head: Parts, body: ReceivedBody) -> HandlerResult<Response> {
    let permits = public.permits();
    // Before anything of the events is stored.
    public.check_writable().await?;
    let caller = head.extensions.get::<Caller>().cloned();
    let visitor = public.limits().visitor(&head);
    let ingest = {
        let public = public.clone();
        move |json: &[u8]| {
            let batch = event::read_batch(json)?;
            if let Some(caller) = caller {
                caller.take_events(batch.events.len())?;
            }
            Ok(public.ingest(batch, visitor, Utc::now())?)
        }
    };
    let pending = permits.decode(body, ingest).await?;
    let result = committed(public, Family::Native, pending).await?;
    let status = if result.ok {
        StatusCode::OK
    } else {
        StatusCode::BAD_REQUEST
    };
    Ok((status, Json(result)).into_response())
}

/// The result of a batch, once it is on disk.
///
/// # Errors
/// If it could not be stored in time.
pub async fn committed(
    public: &Public,
    family: Family,
    pending: PendingIngest,
) -> HandlerResult<IngestAnswer> {
    let result = tokio::time::timeout(COMMIT_TIMEOUT, pending.answer())
        .await
        .map_err(|_| {
            ErrorResponse::new(
                StatusCode::SERVICE_UNAVAILABLE,
                ErrorCode::SlowDisk,
                "the disk did not store the events in time; send them again",
            )
        })??;
    count_events(public.monitoring(), family, &result);
    Ok(result)
}

/// Counts what became of the events of a batch.
fn count_events(monitoring: &Monitoring, family: Family, answer: &IngestAnswer) {
    for (outcome, events) in [
        (EventOutcome::Logged, answer.logged),
        (EventOutcome::Duplicate, answer.duplicates),
        (EventOutcome::Ignored, answer.ignored),
        (EventOutcome::Rejected, answer.rejected),
        (EventOutcome::Quarantined, answer.quarantined),
    ] {
        monitoring.count_events(family, outcome, events);
    }
    for rejection in &answer.errors {
        monitoring.rejections.count(rejection.code.into(), 1);
    }
}

/// Rejects pages of sites that are not listed. Requests without an origin do not come from a page.
///
/// # Errors
/// 403 for them.
pub fn check_origin(limits: &PublicLimits, headers: &HeaderMap) -> HandlerResult<()> {
    for origin in headers.get_all(header::ORIGIN) {
        if !limits
            .config()
            .origins
            .allow(origin.to_str().unwrap_or_default())
        {
            limits.count_rejected_origin();
            return Err(ErrorResponse::new(
                StatusCode::FORBIDDEN,
                ErrorCode::OriginNotAllowed,
                "pages of this origin may not send events here; see --origins",
            ));
        }
    }
    Ok(())
}

/// Cross-origin rules of ingest. Pages of the allowed origins may send events, also to a server in
/// a more private network. They may send credentials, as beacons always do, although none are read;
/// the response then has to name the page's origin.
pub fn cross_origin(origins: &Origins) -> CorsLayer {
    let origins = origins.clone();
    let origins =
        AllowOrigin::predicate(move |origin, _| origins.allow(origin.to_str().unwrap_or_default()));
    CorsLayer::new()
        .allow_origin(origins)
        .allow_credentials(true)
        .allow_private_network(true)
        .allow_methods([Method::POST])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([header::RETRY_AFTER])
        .max_age(PREFLIGHT_MAX_AGE)
}

/// A batch of events as clients send it. A list of events is also accepted, and so is one event.
/// An invalid event is rejected by itself.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "events are parsed without copies by `event::read_batch`"
)]
pub struct SentBatch {
    /// The events.
    #[schema(max_items = 100)]
    events: Vec<SentEvent>,
    /// Time of sending by the client's clock, which corrects times of a wrong clock.
    #[schema(format = DateTime)]
    sent_at: Option<String>,
}

/// One event; unknown fields are left out.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "events are parsed without copies by `event::read_batch`"
)]
pub struct SentEvent {
    /// Its type: `page_view`, `action`, `conversion`, or one that the tracking plan declares.
    #[schema(min_length = 1, max_length = 200, example = "page_view")]
    event_type: String,
    /// When it happened; when it was received if absent.
    #[schema(format = DateTime)]
    ts: Option<String>,
    /// The user's id; absent for an anonymous event.
    #[schema(max_length = 256)]
    user_id: Option<String>,
    /// The feature.
    #[schema(max_length = 200)]
    feature: Option<String>,
    /// Any properties: at most 16 KB, 100 keys, and a depth of 5.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Map<String, Value>>,
    /// The page.
    #[schema(max_length = 2_048)]
    url: Option<String>,
    /// An id by which repetitions are recognised.
    #[schema(max_length = 128)]
    event_id: Option<String>,
}

/// A batch of which nothing was stored.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "the response is one of these two")]
pub enum RejectedBatch {
    /// Every event was rejected.
    Events(IngestAnswer),
    /// The body is not a batch.
    Body(ErrorBody<'static>),
}
