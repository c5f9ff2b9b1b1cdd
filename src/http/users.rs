//! Access and erasure: what the person who answers a request under the GDPR needs.

use axum::body::Body;
use axum::extract::RawQuery;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use chrono::Utc;
use serde::Deserialize;

use super::extract::{Keyed, PathText};
use super::reports::{Report, parameters, run_beside};
use super::streamed::streamed;
use super::{Answer, body};
use crate::engine::EraseAnswer;
use crate::error::Error;

/// `GET /api/analytics/users/{id}/events`: every event of a user as NDJSON, as a stream.
pub async fn access(Keyed(app): Keyed, PathText(user): PathText) -> Answer<Response> {
    let Some(permit) = app.accesses.try_take(1) else {
        return Err(Error::Busy("the events of too many users are being sent").into());
    };
    let engine = app.engine.clone();
    let ndjson = HeaderValue::from_static("application/x-ndjson");
    streamed(ndjson, permit, move |sink, _| {
        engine.user_events(&user, sink)
    })
    .await
}

/// `DELETE /api/analytics/users/{id}?confirm=`: erases a user; the answer is the receipt.
pub async fn erase(
    Keyed(app): Keyed,
    PathText(user): PathText,
    RawQuery(query): RawQuery,
) -> Report<EraseAnswer> {
    let confirmed = parameters(&query.unwrap_or_default(), &["confirm"])?
        .first()
        .map(|(_, events)| {
            events.parse().map_err(|_| {
                let events: String = events.chars().take(64).collect();
                let message = format!("confirm is {events:?}; allowed is a number of events");
                Error::bad_input("bad_confirm", message)
            })
        })
        .transpose()?;
    run_beside(&app, move |engine| {
        engine.erase(&[user], confirmed, Utc::now())
    })
    .await
}

/// `POST /api/analytics/erasures` with `{"users":[…],"confirm":EVENTS}`: erases many at once.
pub async fn erase_many(Keyed(app): Keyed, headers: HeaderMap, body: Body) -> Report<EraseAnswer> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Users {
        users: Vec<String>,
        confirm: Option<u64>,
    }
    let body = body::read_json(&app.bodies, &headers, body).await?;
    let Users { users, confirm } = serde_json::from_slice(&body).map_err(|error| {
        Error::bad_input(
            "bad_users",
            format!("allowed is {{\"users\":[ids]}}, and with it \"confirm\", a number of events: {error}"),
        )
    })?;
    run_beside(&app, move |engine| {
        engine.erase(&users, confirm, Utc::now())
    })
    .await
}
