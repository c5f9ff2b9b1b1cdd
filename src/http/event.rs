//! `POST /api/analytics/event`, and the same under the neutral path: public, for any site or those that are listed.

use std::time::Duration;

use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, post};
use chrono::Utc;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use super::caller::Caller;
use super::door::Door;
use super::extract::{Public, Shared};
use super::refusal::Refusal;
use super::{Answer, body};
use crate::config::Origins;
use crate::event;

/// Time for the disk to take a batch. After it the client is told to send again; its event ids keep the
/// batch from counting twice.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a browser may remember that a site may send events.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// The route, with its own rules for other sites.
pub fn route(origins: &Origins) -> MethodRouter<Shared> {
    post(ingest)
        .fallback(|| async { Refusal::method_not_allowed() })
        .layer(sites(origins))
}

/// Takes a batch of events and answers once the accepted ones are on disk.
async fn ingest(public: Public, request: Request) -> Answer<Response> {
    let (head, body) = request.into_parts();
    check_origin(public.door(), &head.headers)?;
    let body = body::read_json(public.bodies(), &head.headers, body).await?;
    // Before anything is kept of the events.
    public.check_writable()?;
    let batch = event::read_batch(&body)?;
    if let Some(caller) = head.extensions.get::<Caller>() {
        caller.take_events(batch.events.len())?;
    }
    let pending = public.ingest(batch, Utc::now())?;
    // What waits for the disk is counted by the queue; the body is not.
    drop(body);
    let answer = tokio::time::timeout(COMMIT_TIMEOUT, pending.answer())
        .await
        .map_err(|_| {
            Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "slow_disk",
                "the disk did not take the events in time; send them again",
            )
        })??;
    let status = if answer.ok {
        StatusCode::OK
    } else {
        StatusCode::BAD_REQUEST
    };
    Ok((status, Json(answer)).into_response())
}

/// Lets a page of a listed site pass, and what is no page.
fn check_origin(door: &Door, headers: &HeaderMap) -> Answer<()> {
    for origin in headers.get_all(header::ORIGIN) {
        if !door
            .config()
            .origins
            .allow(origin.to_str().unwrap_or_default())
        {
            door.count_rejected_origin();
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "origin_not_allowed",
                "pages of this origin may not send events here; see --origins",
            ));
        }
    }
    Ok(())
}

/// Pages of these sites may send events here, also to a server in a network that is more private than theirs. They may send
/// credentials, as beacons always do, which nothing here looks at; a browser then wants its own origin named.
fn sites(origins: &Origins) -> CorsLayer {
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
