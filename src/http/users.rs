//! Access and erasure, for requests under the GDPR.

use axum::body::Body;
use axum::extract::RawQuery;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use chrono::Utc;
use serde::Deserialize;

use super::extract::{Keyed, PathParam};
use super::json_response::JsonResponse;
use super::query_string::parameters;
use super::streaming::streamed;
use super::{HandlerResult, body};
use crate::engine::EraseAnswer;
use crate::error::{Error, Result, shown};

/// `GET /api/analytics/users/{id}/events`: streams every event of a user as NDJSON.
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

/// `DELETE /api/analytics/users/{id}?confirm=`: erases a user; the response is the receipt.
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
                Error::bad_input("bad_confirm", message)
            })
        })
        .transpose()?;
    app.run_job(move |engine| engine.erase(&[user], confirmed, Utc::now()))
        .await
        .map(JsonResponse)
}

/// `POST /api/analytics/erasures` with `{"users":[…],"confirm":EVENTS}`: erases several users.
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
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Users {
    users: Vec<String>,
    confirm: Option<u64>,
}

fn parse_users(json: &[u8]) -> Result<Users> {
    serde_json::from_slice(json).map_err(|error| {
        let message = format!(
            "allowed is {{\"users\":[ids]}}, and with it \"confirm\", a number of events: {error}"
        );
        Error::bad_input("bad_users", message)
    })
}
