//! `POST /api/analytics/demo` fills a separate folder with a synthetic history, and
//! `/demo/api/analytics/…` queries it. It accepts no events.

use axum::Router;
use axum::extract::Request;
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use chrono::Utc;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;

use super::error_response::ErrorResponse;
use super::extract::{AppState, Keyed, PathParam};
use super::json_response::JsonResponse;
use super::{App, HandlerResult};
use super::{cohorts, query, status, usage};
use crate::engine::DemoAnswer;

/// The routes.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/api/analytics/demo", post(fill))
        .route("/demo/api/analytics/{name}", any(forward))
}

/// Fills the folder unless it has events.
async fn fill(Keyed(app): Keyed) -> HandlerResult<JsonResponse<DemoAnswer>> {
    let demo = app.demo.clone();
    app.run_job(move |_| demo.fill(Utc::now()))
        .await
        .map(JsonResponse)
}

/// Passes a request on to the same handlers, with the engine of the demo.
async fn forward(
    Keyed(app): Keyed,
    PathParam(name): PathParam,
    mut request: Request,
) -> HandlerResult<Response> {
    let demo = app.demo.clone();
    let engine = app.run_short(move |_| demo.open(Utc::now())).await?;
    let engine = engine.ok_or_else(ErrorResponse::not_found)?;
    let query = request.uri().query().map(|query| format!("?{query}"));
    let target = format!("/{name}{}", query.unwrap_or_default());
    *request.uri_mut() = target
        .parse::<Uri>()
        .map_err(|_| ErrorResponse::not_found())?;
    let app = App { engine, ..app };
    let response = TowerToHyperService::new(demo_routes().with_state(AppState::new(app)))
        .call(request)
        .await;
    Ok(response.into_response())
}

/// The routes of the demo: everything that only reads.
fn demo_routes() -> Router<AppState> {
    Router::new()
        .route("/usage", get(usage::usage))
        .route("/query", post(query::query))
        .route("/cohorts", get(cohorts::cohorts))
        .route("/status", get(status::status))
        .fallback(|| async { ErrorResponse::not_found() })
        .method_not_allowed_fallback(|| async { ErrorResponse::method_not_allowed() })
}
