//! `GET` and `PUT /api/analytics/plan`, `GET /api/analytics/plan/inferred`, `GET
//! /api/analytics/quarantine?limit=&before=`, `POST /api/analytics/quarantine/replay`.

use axum::body::Body;
use axum::extract::RawQuery;
use axum::http::HeaderMap;
use chrono::Utc;

use super::described::{BodyErrors, DashKeyErrors, Errors, KeyErrors, WriteErrors};
use super::extract::{Keyed, Reader};
use super::json_response::JsonResponse;
use super::query_string::{WINDOW, parameters, window_of};
use super::{HandlerResult, body};
use crate::engine::{Cost, PlanAnswer, QuarantineAnswer, QuarantineRequest, ReplayAnswer};
use crate::error::{Error, ErrorCode, shown};
use crate::plan::Plan;
use crate::window::WindowRequest;

/// The tracking plan; an empty one if none was set.
#[utoipa::path(
    get,
    path = "/api/analytics/plan",
    operation_id = "plan",
    tag = "operation",
    responses(
        (status = 200, description = "The plan.", body = PlanAnswer),
        Errors, KeyErrors
    )
)]
pub async fn plan(Reader(app): Reader) -> HandlerResult<JsonResponse<PlanAnswer>> {
    app.run_short(|engine| Ok(engine.plan()))
        .await
        .map(JsonResponse)
}

/// Replaces the tracking plan, for all events that come in from now on.
#[utoipa::path(
    put,
    path = "/api/analytics/plan",
    operation_id = "set_plan",
    tag = "operation",
    request_body = Plan,
    responses(
        (status = 200, description = "The plan.", body = PlanAnswer),
        Errors, DashKeyErrors, BodyErrors, WriteErrors
    )
)]
pub async fn set_plan(
    Keyed(app): Keyed,
    headers: HeaderMap,
    body: Body,
) -> HandlerResult<JsonResponse<PlanAnswer>> {
    let body = body::receive(&app.permits.bodies, &headers, body).await?;
    let plan = app
        .permits
        .decode(body, |json| Ok(Plan::parse(json)?))
        .await?;
    let operator = app.operator();
    app.run_short(move |engine| engine.by(&operator, Utc::now()).set_plan(plan))
        .await
        .map(JsonResponse)
}

/// A plan of the events that are stored, with what the plan in use declares.
///
/// It is a start for the person who writes a plan, and is not in use.
#[utoipa::path(
    get,
    path = "/api/analytics/plan/inferred",
    operation_id = "infer_plan",
    tag = "operation",
    params(WindowRequest),
    responses(
        (status = 200, description = "The plan.", body = PlanAnswer),
        Errors, KeyErrors
    )
)]
pub async fn infer(
    Reader(app): Reader,
    RawQuery(query): RawQuery,
) -> HandlerResult<JsonResponse<PlanAnswer>> {
    let request = window_of(parameters(&query.unwrap_or_default(), &WINDOW)?)?;
    app.run_query(Cost::Events, move |engine, cancel| {
        engine.infer_plan(&request, Utc::now(), cancel)
    })
    .await
    .map(JsonResponse)
}

/// The events that the tracking plan quarantines, malformed messages of clients of other products,
/// and recently rejected events.
#[utoipa::path(
    get,
    path = "/api/analytics/quarantine",
    operation_id = "quarantine",
    tag = "operation",
    params(
        ("limit" = Option<usize>, Query, minimum = 1, maximum = 1_000, description = "Most events."),
        ("before" = Option<usize>, Query, description = "The `next` of the response before."),
    ),
    responses(
        (status = 200, description = "The events, the newest first.", body = QuarantineAnswer),
        Errors, DashKeyErrors
    )
)]
pub async fn quarantine(
    Keyed(app): Keyed,
    RawQuery(query): RawQuery,
) -> HandlerResult<JsonResponse<QuarantineAnswer>> {
    let mut request = QuarantineRequest::default();
    for (field, value) in parameters(&query.unwrap_or_default(), &["limit", "before"])? {
        let number = value.parse().map_err(|_| {
            let value = shown(&value);
            let message = format!("{field} is {value:?}; allowed is a number");
            Error::bad_input(ErrorCode::BadLimit, message)
        })?;
        match &*field {
            "limit" => request.limit = Some(number),
            _ => request.before = Some(number),
        }
    }
    app.run_short(move |engine| engine.quarantine(request))
        .await
        .map(JsonResponse)
}

/// Stores the quarantined events that follow the tracking plan now. Each is stored once.
#[utoipa::path(
    post,
    path = "/api/analytics/quarantine/replay",
    operation_id = "replay_quarantine",
    tag = "operation",
    responses(
        (status = 200, description = "What became of the events.", body = ReplayAnswer),
        Errors, DashKeyErrors, WriteErrors
    )
)]
pub async fn replay(Keyed(app): Keyed) -> HandlerResult<JsonResponse<ReplayAnswer>> {
    let operator = app.operator();
    app.run_short(move |engine| engine.by(&operator, Utc::now()).replay_quarantine())
        .await
        .map(JsonResponse)
}
