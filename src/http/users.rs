//! Access and erasure, for requests under the GDPR.

use axum::body::Body;
use axum::extract::RawQuery;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use serde::Deserialize;
use utoipa::ToSchema;

use super::described::{BodyErrors, ConfirmErrors, DashKeyErrors, Errors, WriteErrors};
use super::extract::{Keyed, PathParam};
use super::jobs::{JobKind, JobResponse, prefers_job};
use super::json_response::JsonResponse;
use super::query_string::parameters;
use super::streaming::streamed;
use super::{App, HandlerResult, body};
use crate::engine::{Engine, EraseAnswer};
use crate::error::{Error, ErrorCode, Result, shown};
use crate::progress::Progress;

/// Everything that is stored of a user, as NDJSON.
#[utoipa::path(
    get,
    path = "/api/analytics/users/{id}/events",
    operation_id = "user_events",
    tag = "users",
    params(("id" = String, Path, description = "The user's id.")),
    responses(
        (status = 200, description = "One event a line.", body = String, content_type = "application/x-ndjson"),
        Errors, DashKeyErrors
    )
)]
pub async fn access(Keyed(app): Keyed, PathParam(user): PathParam) -> HandlerResult<Response> {
    let Some(permit) = app.permits.accesses.try_acquire(1) else {
        return Err(Error::Busy("too many exports of users at once").into());
    };
    let (engine, operator) = (app.engine.clone(), app.operator());
    let ndjson = HeaderValue::from_static("application/x-ndjson");
    streamed(ndjson, permit, move |sink, _| {
        engine.by(&operator, Utc::now()).user_events(&user, sink)
    })
    .await
}

/// Erases a user; the response is the receipt, or a job if the client prefers that.
#[utoipa::path(
    delete,
    path = "/api/analytics/users/{id}",
    operation_id = "erase_user",
    tag = "users",
    params(
        ("id" = String, Path, description = "The user's id."),
        ("confirm" = Option<u64>, Query, format = "uint64", description = "The number of events, if they are a large share of all."),
    ),
    responses(
        (status = 200, description = "What was removed where.", body = EraseAnswer),
        JobResponse,
        Errors, DashKeyErrors, ConfirmErrors, WriteErrors
    )
)]
pub async fn erase(
    Keyed(app): Keyed,
    PathParam(user): PathParam,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> HandlerResult<Response> {
    let confirmed = parameters(&query.unwrap_or_default(), &["confirm"])?
        .first()
        .map(|(_, events)| {
            events.parse().map_err(|_| {
                let events = shown(events);
                let message = format!("confirm is {events:?}; allowed is a number of events");
                Error::bad_input(ErrorCode::BadConfirm, message)
            })
        })
        .transpose()?;
    erase_users(&app, &headers, vec![user], confirmed).await
}

/// Erases users, as a job if the client prefers that.
async fn erase_users(
    app: &App,
    headers: &HeaderMap,
    users: Vec<String>,
    confirmed: Option<u64>,
) -> HandlerResult<Response> {
    let operator = app.operator();
    let erase = move |engine: &Engine, progress: &Progress| {
        let by = engine.by(&operator, Utc::now());
        by.erase(&users, confirmed, progress)
    };
    if prefers_job(headers) {
        return app.start_job(JobKind::Erasure, erase);
    }
    let erased = app.run_job(move |engine| erase(engine, &Progress::default()));
    Ok(JsonResponse(erased.await?).into_response())
}

/// Erases several users; the response is the receipt, or a job if the client prefers that.
#[utoipa::path(
    post,
    path = "/api/analytics/erasures",
    operation_id = "erase_users",
    tag = "users",
    request_body = Users,
    responses(
        (status = 200, description = "What was removed where.", body = EraseAnswer),
        JobResponse,
        Errors, DashKeyErrors, BodyErrors, ConfirmErrors, WriteErrors
    )
)]
pub async fn erase_many(
    Keyed(app): Keyed,
    headers: HeaderMap,
    body: Body,
) -> HandlerResult<Response> {
    let body = body::receive(&app.permits.bodies, &headers, body).await?;
    let Users { users, confirm } = app
        .permits
        .decode(body, |json| Ok(parse_users(json)?))
        .await?;
    erase_users(&app, &headers, users, confirm).await
}

/// The body of an erasure of several users.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Users {
    /// Their ids.
    #[schema(min_items = 1, max_items = 10_000)]
    users: Vec<String>,
    /// The number of their events, if these are a large share of all.
    #[schema(format = "uint64")]
    confirm: Option<u64>,
}

fn parse_users(json: &[u8]) -> Result<Users> {
    serde_json::from_slice(json).map_err(|error| {
        let message = format!(
            "allowed is {{\"users\":[ids]}}, and with it \"confirm\", a number of events: {error}"
        );
        Error::bad_input(ErrorCode::BadUsers, message)
    })
}
