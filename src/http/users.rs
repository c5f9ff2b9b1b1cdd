//! Access and erasure, for requests under the GDPR.

use axum::body::Body;
use axum::extract::RawQuery;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use chrono::Utc;
use serde::Deserialize;
use utoipa::ToSchema;

use super::described::{BodyErrors, ConfirmErrors, Errors, KeyErrors, WriteErrors};
use super::extract::{Keyed, PathParam};
use super::json_response::JsonResponse;
use super::query_string::parameters;
use super::streaming::streamed;
use super::{HandlerResult, body};
use crate::engine::EraseAnswer;
use crate::error::{Error, ErrorCode, Result, shown};

/// Everything that is stored of a user, as NDJSON.
#[utoipa::path(
    get,
    path = "/api/analytics/users/{id}/events",
    operation_id = "user_events",
    tag = "users",
    params(("id" = String, Path, description = "The user's id.")),
    responses(
        (status = 200, description = "One event a line.", body = String, content_type = "application/x-ndjson"),
        Errors, KeyErrors
    )
)]
pub async fn access(Keyed(app): Keyed, PathParam(user): PathParam) -> HandlerResult<Response> {
    let Some(permit) = app.permits.accesses.try_acquire(1) else {
        return Err(Error::Busy("too many exports of users at once").into());
    };
    let engine = app.engine.clone();
    let ndjson = HeaderValue::from_static("application/x-ndjson");
    streamed(ndjson, permit, move |sink, _| {
        engine.user_events(&user, sink)
    })
    .await
}

/// Erases a user; the response is the receipt.
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
        Errors, KeyErrors, ConfirmErrors, WriteErrors
    )
)]
pub async fn erase(
    Keyed(app): Keyed,
    PathParam(user): PathParam,
    RawQuery(query): RawQuery,
) -> HandlerResult<JsonResponse<EraseAnswer>> {
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
    app.run_job(move |engine| engine.erase(&[user], confirmed, Utc::now()))
        .await
        .map(JsonResponse)
}

/// Erases several users; the response is the receipt.
#[utoipa::path(
    post,
    path = "/api/analytics/erasures",
    operation_id = "erase_users",
    tag = "users",
    request_body = Users,
    responses(
        (status = 200, description = "What was removed where.", body = EraseAnswer),
        Errors, KeyErrors, BodyErrors, ConfirmErrors, WriteErrors
    )
)]
pub async fn erase_many(
    Keyed(app): Keyed,
    headers: HeaderMap,
    body: Body,
) -> HandlerResult<JsonResponse<EraseAnswer>> {
    let body = body::receive(&app.permits.bodies, &headers, body).await?;
    let Users { users, confirm } = app
        .permits
        .decode(body, |json| Ok(parse_users(json)?))
        .await?;
    app.run_job(move |engine| engine.erase(&users, confirm, Utc::now()))
        .await
        .map(JsonResponse)
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
