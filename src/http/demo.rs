//! `POST /api/analytics/demo` fills a folder beside the data with a made-up history; below `/demo` it answers questions, and
//! takes no events.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use chrono::Utc;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;

use super::extract::{Keyed, PathText, Shared};
use super::refusal::Refusal;
use super::reports::{self, Report, run_beside};
use super::{Answer, App};
use crate::engine::DemoAnswer;

/// The routes.
pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/api/analytics/demo", post(fill))
        .route("/demo/api/analytics/{question}", any(ask))
}

/// Fills the folder, unless it is filled already.
async fn fill(Keyed(app): Keyed) -> Report<DemoAnswer> {
    let demo = app.demo.clone();
    run_beside(&app, move |_| demo.fill(Utc::now())).await
}

/// Passes a question on to the same handlers, with the demo's engine in the place of the real one.
async fn ask(
    Keyed(app): Keyed,
    PathText(question): PathText,
    mut request: Request,
) -> Answer<Response> {
    let demo = app.demo.clone();
    let opened = tokio::task::spawn_blocking(move || demo.open(Utc::now())).await;
    let Ok(engine) = opened else {
        return Err(Refusal::internal());
    };
    let engine = engine?.ok_or_else(Refusal::not_found)?;
    let query = request.uri().query().map(|query| format!("?{query}"));
    let target = format!("/{question}{}", query.unwrap_or_default());
    *request.uri_mut() = target.parse::<Uri>().map_err(|_| Refusal::not_found())?;
    let app = App { engine, ..app };
    let answered = TowerToHyperService::new(questions().with_state(Shared::new(app)))
        .call(request)
        .await;
    Ok(answered.into_response())
}

/// What the demo answers: everything that only reads.
fn questions() -> Router<Shared> {
    Router::new()
        .route("/usage", get(reports::usage))
        .route("/query", post(reports::query))
        .route("/cohorts", get(reports::cohorts))
        .route("/status", get(reports::status))
        .fallback(|| async { Refusal::not_found() })
        .method_not_allowed_fallback(|| async { Refusal::method_not_allowed() })
}

/// The demo's folder, which all requests share.
pub type Demo = Arc<crate::engine::DemoFolder>;
