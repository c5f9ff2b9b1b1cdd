//! Access and erasure: what the person who answers a request under the GDPR needs.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use serde::Deserialize;

use super::extract::PathText;
use super::reports::{NO_STORE, Report, run_beside};
use super::{Answer, App, body};
use crate::engine::EraseAnswer;
use crate::error::Error;

/// `GET /api/analytics/users/{id}/events`: every event of a user as NDJSON.
pub async fn access(
    State(app): State<App>,
    headers: HeaderMap,
    PathText(user): PathText,
) -> Answer<Response> {
    app.keys.check(&headers)?;
    let lines = run_beside(&app, move |engine| engine.user_events(&user)).await?;
    let ndjson = HeaderValue::from_static("application/x-ndjson");
    Ok((NO_STORE, [(header::CONTENT_TYPE, ndjson)], lines.1.0).into_response())
}

/// `DELETE /api/analytics/users/{id}`: erases a user; the answer is the receipt.
pub async fn erase(
    State(app): State<App>,
    headers: HeaderMap,
    PathText(user): PathText,
) -> Report<EraseAnswer> {
    app.keys.check(&headers)?;
    run_beside(&app, move |engine| engine.erase(&[user], Utc::now())).await
}

/// `POST /api/analytics/erasures` with `{"users":[…]}`: erases many at once.
pub async fn erase_many(
    State(app): State<App>,
    headers: HeaderMap,
    body: Body,
) -> Report<EraseAnswer> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Users {
        users: Vec<String>,
    }
    app.keys.check(&headers)?;
    let body = body::read_json(&app.bodies, &headers, body).await?;
    let Users { users } = serde_json::from_slice(&body).map_err(|error| {
        Error::bad_input(
            "bad_users",
            format!("allowed is {{\"users\":[ids]}}: {error}"),
        )
    })?;
    run_beside(&app, move |engine| engine.erase(&users, Utc::now())).await
}
