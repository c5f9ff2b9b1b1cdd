//! Events of the clients of other products.

use std::collections::BTreeMap;
use std::time::Instant;

use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::Utc;
use serde::Serialize;
use utoipa::ToSchema;

use super::{json, paths};
use crate::config::Names;
use crate::engine::PendingIngest;
use crate::error::ErrorCode;
use crate::http::caller::Caller;
use crate::http::described::{BodyErrors, Errors, KeyErrors, NotFoundErrors, OriginErrors};
use crate::http::error_response::ErrorResponse;
use crate::http::event::{check_origin, committed};
use crate::http::extract::{PathParam, Public};
use crate::http::{HandlerResult, body};
use crate::monitoring::{BatchOutcome, Family};
use crate::sdk::{self, Batch, Product, content};

/// The time of sending of `PostHog`'s newer protocol.
const POSTHOG_SENT_AT: &str = "posthog-request-timestamp";
/// Parameters of the query string that may have the key.
const KEY_PARAMETERS: [&str; 3] = ["writeKey", "api_key", "token"];

/// A response to Segment's clients.
#[derive(Serialize, ToSchema)]
pub struct SegmentAnswer {
    /// Always true.
    success: bool,
}

/// A response to `PostHog`'s clients.
#[derive(Serialize, ToSchema)]
pub struct PostHogAnswer {
    /// Always `Ok`.
    status: &'static str,
}

impl PostHogAnswer {
    /// The events were received.
    pub const OK: Self = Self { status: "Ok" };
}

/// A response to `PostHog`'s clients of the newer protocol.
#[derive(Serialize, ToSchema)]
pub struct PostHogResults {
    /// The outcome of each event, by its `uuid`.
    results: BTreeMap<String, PostHogResult>,
}

/// The outcome of an event.
#[derive(Serialize, ToSchema)]
pub struct PostHogResult {
    /// `ok`, or `drop` if it is not stored.
    result: &'static str,
    /// The reason why it is not stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<String>,
}

/// Events of the clients of Segment and `RudderStack`: a batch, or the message of one call.
///
/// The name of the call is `batch`, `import`, `track`, `page`, `screen`, `identify`, `group` or
/// `alias`, or the first letter of one of these.
#[utoipa::path(
    post,
    path = "/v1/{call}",
    operation_id = "segment",
    tag = "clients",
    params(("call" = String, Path, description = "The name of the call.")),
    request_body = Object,
    responses(
        (status = 200, description = "The events are on disk, or they are wrong, counted and quarantined.", body = SegmentAnswer),
        Errors, BodyErrors, KeyErrors, OriginErrors, NotFoundErrors
    ),
    security(())
)]
pub async fn segment(
    public: Public,
    PathParam(call): PathParam,
    request: Request,
) -> HandlerResult<Response> {
    let call = paths::call(&call).ok_or_else(ErrorResponse::not_found)?;
    respond_to_segment(&public, call, request).await
}

/// Events of the clients of `RudderStack` in a beacon.
#[utoipa::path(
    post,
    path = "/beacon/v1/batch",
    operation_id = "segment_beacon",
    tag = "clients",
    params(("writeKey" = Option<String>, Query, description = "The key.")),
    request_body = Object,
    responses(
        (status = 200, description = "As of a batch.", body = SegmentAnswer),
        Errors, BodyErrors, KeyErrors, OriginErrors
    ),
    security(())
)]
pub async fn segment_beacon(public: Public, request: Request) -> HandlerResult<Response> {
    respond_to_segment(&public, None, request).await
}

async fn respond_to_segment(
    public: &Public,
    call: Option<&'static str>,
    request: Request,
) -> HandlerResult<Response> {
    let protocol = Protocol {
        call,
        ..Protocol::of(Product::Segment)
    };
    store(public, protocol, request).await?;
    Ok(json(SegmentAnswer { success: true }))
}

/// Events of the clients of `PostHog`: a batch, a list, or one event.
#[utoipa::path(
    post,
    path = "/batch",
    operation_id = "posthog_batch",
    tag = "clients",
    request_body = Object,
    responses(
        (status = 200, description = "The events are on disk, or they are wrong, counted and quarantined.", body = PostHogAnswer),
        Errors, BodyErrors, KeyErrors, OriginErrors
    ),
    security(())
)]
pub async fn posthog_batch(public: Public, request: Request) -> HandlerResult<Response> {
    respond_to_posthog(&public, request).await
}

/// The same as `/batch`, for `PostHog`'s browser client.
#[utoipa::path(
    post,
    path = "/e",
    operation_id = "posthog_e",
    tag = "clients",
    params(("compression" = Option<String>, Query, description = "Not needed: the bytes tell.")),
    request_body = Object,
    responses(
        (status = 200, description = "As of a batch.", body = PostHogAnswer),
        Errors, BodyErrors, KeyErrors, OriginErrors
    ),
    security(())
)]
pub async fn posthog_e(public: Public, request: Request) -> HandlerResult<Response> {
    respond_to_posthog(&public, request).await
}

/// The same as `/batch`, for older clients of `PostHog`.
#[utoipa::path(
    post,
    path = "/capture",
    operation_id = "posthog_capture",
    tag = "clients",
    request_body = Object,
    responses(
        (status = 200, description = "As of a batch.", body = PostHogAnswer),
        Errors, BodyErrors, KeyErrors, OriginErrors
    ),
    security(())
)]
pub async fn posthog_capture(public: Public, request: Request) -> HandlerResult<Response> {
    respond_to_posthog(&public, request).await
}

/// The same as `/batch`, for newer clients of `PostHog`.
#[utoipa::path(
    post,
    path = "/i/v0/e",
    operation_id = "posthog_v0",
    tag = "clients",
    request_body = Object,
    responses(
        (status = 200, description = "As of a batch.", body = PostHogAnswer),
        Errors, BodyErrors, KeyErrors, OriginErrors
    ),
    security(())
)]
pub async fn posthog_v0(public: Public, request: Request) -> HandlerResult<Response> {
    respond_to_posthog(&public, request).await
}

async fn respond_to_posthog(public: &Public, request: Request) -> HandlerResult<Response> {
    let stored = store(public, Protocol::of(Product::PostHog), request).await;
    stored.map_err(for_posthog)?;
    Ok(json(PostHogAnswer::OK))
}

/// Events of the clients of `PostHog` that get an outcome for each event.
#[utoipa::path(
    post,
    path = "/i/v1/analytics/events",
    operation_id = "posthog_v1",
    tag = "clients",
    request_body = Object,
    responses(
        (status = 200, description = "The events are on disk, or they are wrong, counted and quarantined.", body = PostHogResults),
        Errors, BodyErrors, KeyErrors, OriginErrors
    ),
    security(())
)]
pub async fn posthog_v1(public: Public, request: Request) -> HandlerResult<Response> {
    let protocol = Protocol {
        has_outcomes: true,
        ..Protocol::of(Product::PostHog)
    };
    let stored = store(&public, protocol, request).await;
    let results = stored.map_err(for_posthog)?;
    let results = results.into_iter().map(|(uuid, details)| {
        let result = if details.is_some() { "drop" } else { "ok" };
        (uuid, PostHogResult { result, details })
    });
    Ok(json(PostHogResults {
        results: results.collect(),
    }))
}

/// The browser client of `PostHog` drops its events on 429, and sends them again on 503.
fn for_posthog(error: ErrorResponse) -> ErrorResponse {
    match error.status() {
        StatusCode::TOO_MANY_REQUESTS => error.with_status(StatusCode::SERVICE_UNAVAILABLE),
        _ => error,
    }
}

/// An event of a client of Plausible.
#[utoipa::path(
    post,
    path = "/api/event",
    operation_id = "plausible",
    tag = "clients",
    request_body = Object,
    responses(
        (status = 202, description = "The event is on disk, or it is wrong, counted and quarantined.", body = String, content_type = "text/plain"),
        Errors, BodyErrors, KeyErrors, OriginErrors
    ),
    security(())
)]
pub async fn plausible(public: Public, request: Request) -> HandlerResult<Response> {
    store(&public, Protocol::of(Product::Plausible), request).await?;
    Ok((StatusCode::ACCEPTED, "ok").into_response())
}

/// The protocol of a request.
#[derive(Clone, Copy)]
struct Protocol {
    product: Product,
    /// The kind of its message, where the path has it.
    call: Option<&'static str>,
    /// The response has an outcome of each event.
    has_outcomes: bool,
}

impl Protocol {
    fn of(product: Product) -> Self {
        Self {
            product,
            call: None,
            has_outcomes: false,
        }
    }

    /// The label of its counters.
    fn family(self) -> Family {
        match self.product {
            Product::PostHog => Family::PostHog,
            Product::Plausible => Family::Plausible,
            _ => Family::Segment,
        }
    }
}

/// The events of a request by their `uuid`, with the reason why one is not stored.
type Outcomes = Vec<(String, Option<String>)>;

/// Stores the events of a request.
async fn store(public: &Public, protocol: Protocol, request: Request) -> HandlerResult<Outcomes> {
    let result = store_request(public, protocol, request).await;
    // After other statuses than 503 these clients do not send again.
    let result = result.map_err(|error| match error.status() {
        StatusCode::INSUFFICIENT_STORAGE | StatusCode::INTERNAL_SERVER_ERROR => {
            error.with_status(StatusCode::SERVICE_UNAVAILABLE)
        }
        _ => error,
    });
    let status = match &result {
        Ok(_) => StatusCode::OK,
        Err(error) => error.status(),
    };
    let outcome = BatchOutcome::of_status(status.as_u16());
    public.monitoring().count_batch(protocol.family(), outcome);
    result
}

async fn store_request(
    public: &Public,
    protocol: Protocol,
    request: Request,
) -> HandlerResult<Outcomes> {
    let (head, body) = request.into_parts();
    check_origin(public.limits(), &head.headers)?;
    let permits = public.permits();
    let body = body::receive_unlabelled(&permits.bodies, body, content::MAX_WIRE_BYTES).await?;
    let received = Instant::now();
    public.monitoring().body.observe(body.bytes.len() as f64);
    // Before anything of the events is stored.
    public.check_writable().await?;
    let is_small = body.is_small();
    let ingest = {
        let public = public.clone();
        move || ingest(&public, protocol, &head, &body.bytes)
    };
    let (pending, outcomes) = permits.run_decoder(is_small, ingest).await?;
    let result = committed(public, protocol.family(), pending).await;
    public.monitoring().ingest.observe_time(received.elapsed());
    result.map(|_| outcomes)
}

/// Queues the events of a body.
fn ingest(
    public: &Public,
    protocol: Protocol,
    head: &Parts,
    body: &[u8],
) -> HandlerResult<(PendingIngest, Outcomes)> {
    let label = header_text(&head.headers, header::CONTENT_ENCODING.as_str());
    let json = content::decode(body, label)?;
    let sent_at = header_text(&head.headers, POSTHOG_SENT_AT);
    let sent_at = sent_at.and_then(|sent_at| serde_json::to_string(sent_at).ok());
    let mut batch = sdk::read(protocol.product, &json)?;
    if protocol.has_outcomes {
        batch.sent_at = batch.sent_at.or(sent_at.as_deref());
    }
    check_key(&public.limits().config().clients.sdk_keys, head, &batch)?;
    if let Some(caller) = head.extensions.get::<Caller>() {
        caller.take_events(batch.messages.len())?;
    }
    let mut outcomes: Outcomes = match protocol.has_outcomes {
        true => batch.uuids().map(|uuid| (uuid, None)).collect(),
        false => Vec::new(),
    };
    let note_dropped = |index: usize, reason: &str| {
        if let Some((_, details)) = outcomes.get_mut(index) {
            *details = Some(reason.to_owned());
        }
    };
    let visitor = public.limits().visitor(head);
    let pending = public.ingest_mapped(protocol.call, &batch, visitor, Utc::now(), note_dropped)?;
    Ok((pending, outcomes))
}

/// Checks the key of a request, where keys are listed.
fn check_key(listed: &Names, head: &Parts, batch: &Batch<'_>) -> HandlerResult<()> {
    let is_listed = |key: &str| sdk::is_listed(key, |key| listed.has(key));
    let has_key = listed.is_empty()
        || match key_of(head) {
            Some(key) => is_listed(&key),
            None => batch.has_key(is_listed),
        };
    if has_key {
        return Ok(());
    }
    Err(ErrorResponse::new(
        StatusCode::UNAUTHORIZED,
        ErrorCode::Unauthorized,
        "the write key, project key or site is missing or not listed; see --sdk-keys",
    ))
}

/// The key in the head of a request: that of `Authorization`, or of the query string.
fn key_of(head: &Parts) -> Option<String> {
    let authorization = header_text(&head.headers, header::AUTHORIZATION.as_str());
    let of_header = authorization.and_then(|value| {
        let (scheme, value) = value.trim().split_once(' ')?;
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(value.trim().to_owned());
        }
        let is_basic = scheme.eq_ignore_ascii_case("basic");
        let pair = STANDARD.decode(value.trim()).ok().filter(|_| is_basic)?;
        let pair = String::from_utf8(pair).ok()?;
        pair.split(':').next().map(str::to_owned)
    });
    let of_query = || {
        let pairs: Vec<(String, String)> =
            serde_urlencoded::from_str(head.uri.query().unwrap_or_default()).ok()?;
        let mut pairs = pairs.into_iter();
        let found = pairs.find(|(name, _)| KEY_PARAMETERS.contains(&name.as_str()));
        found.map(|(_, key)| key)
    };
    let key = of_header.or_else(of_query);
    key.filter(|key| !key.is_empty())
}

fn header_text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}
