//! `POST /api/analytics/event`, and the same under the neutral path: public, for any site.

use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, post};
use chrono::Utc;
use tower_http::cors::{AllowHeaders, Any, CorsLayer};

use super::refusal::Refusal;
use super::{Answer, App, body};

/// Time for the disk to take a batch. After it the client is told to send again; its event ids keep the
/// batch from counting twice.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a browser may remember that any site may send events.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// The route, with its own rules for other sites.
pub fn route() -> MethodRouter<App> {
    post(ingest)
        .fallback(|| async { Refusal::method_not_allowed() })
        .layer(any_site())
}

/// Takes a batch of events and answers once the accepted ones are on disk.
async fn ingest(State(app): State<App>, request: Request) -> Answer<Response> {
    let (head, body) = request.into_parts();
    let body = body::read_json(&app.bodies, &head.headers, body).await?;
    let pending = app.engine.ingest(&body, Utc::now())?;
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

/// Pages of every site may send events here, without credentials.
fn any_site() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([Method::POST])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([header::RETRY_AFTER])
        .max_age(PREFLIGHT_MAX_AGE)
}
