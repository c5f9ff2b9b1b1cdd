//! Alerts and digests that users define: `/api/analytics/alerts`.

use axum::body::Body;
use axum::http::HeaderMap;
use chrono::Utc;

use super::described::{BodyErrors, DashKeyErrors, Errors, NotFoundErrors, WriteErrors};
use super::extract::{Keyed, PathParam};
use super::json_response::JsonResponse;
use super::{HandlerResult, body};
use crate::alerts::Alert;
use crate::engine::{AlertTestAnswer, AlertsAnswer, Cost};

/// The alerts and digests with their states.
#[utoipa::path(
    get,
    path = "/api/analytics/alerts",
    operation_id = "alerts",
    tag = "reports",
    responses(
        (status = 200, description = "All alerts and digests.", body = AlertsAnswer),
        Errors, DashKeyErrors
    )
)]
pub async fn alerts(Keyed(app): Keyed) -> HandlerResult<JsonResponse<AlertsAnswer>> {
    app.run_short(|engine| engine.user_alerts())
        .await
        .map(JsonResponse)
}

/// Creates an alert or digest, or replaces the one with that id.
#[utoipa::path(
    put,
    path = "/api/analytics/alerts/{id}",
    operation_id = "set_alert",
    tag = "reports",
    params(("id" = String, Path, pattern = "^[a-z0-9-]{1,64}$", description = "The alert's id.")),
    request_body = Alert,
    responses(
        (status = 200, description = "All alerts and digests.", body = AlertsAnswer),
        Errors, DashKeyErrors, BodyErrors, WriteErrors
    )
)]
pub async fn set_alert(
    Keyed(app): Keyed,
    PathParam(id): PathParam,
    headers: HeaderMap,
    body: Body,
) -> HandlerResult<JsonResponse<AlertsAnswer>> {
    let body = body::receive(&app.permits.bodies, &headers, body).await?;
    let alert = app
        .permits
        .decode(body, |json| Ok(Alert::parse(json)?))
        .await?;
    let (operator, sender) = (app.operator(), app.sender.clone());
    // Its query runs once.
    app.run_query(Cost::Events, move |engine, _| {
        engine
            .by(&operator, Utc::now())
            .set_alert(&id, alert, Some(&sender))
    })
    .await
    .map(JsonResponse)
}

/// Removes an alert or digest, also its messages that wait.
#[utoipa::path(
    delete,
    path = "/api/analytics/alerts/{id}",
    operation_id = "remove_alert",
    tag = "reports",
    params(("id" = String, Path, description = "The alert's id.")),
    responses(
        (status = 200, description = "The alerts and digests that stay.", body = AlertsAnswer),
        Errors, DashKeyErrors, NotFoundErrors, WriteErrors
    )
)]
pub async fn remove_alert(
    Keyed(app): Keyed,
    PathParam(id): PathParam,
) -> HandlerResult<JsonResponse<AlertsAnswer>> {
    let operator = app.operator();
    app.run_short(move |engine| engine.by(&operator, Utc::now()).remove_alert(&id))
        .await
        .map(JsonResponse)
}

/// Evaluates an alert or digest now and sends a test message to each destination, once.
#[utoipa::path(
    post,
    path = "/api/analytics/alerts/{id}/test",
    operation_id = "test_alert",
    tag = "reports",
    params(("id" = String, Path, description = "The alert's id.")),
    responses(
        (status = 200, description = "The number, and what became of each message.", body = AlertTestAnswer),
        Errors, DashKeyErrors, NotFoundErrors
    )
)]
pub async fn test_alert(
    Keyed(app): Keyed,
    PathParam(id): PathParam,
) -> HandlerResult<JsonResponse<AlertTestAnswer>> {
    let sender = app.sender.clone();
    app.run_job(move |engine| engine.test_user_alert(&id, &sender, Utc::now()))
        .await
        .map(JsonResponse)
}
