//! Questions and jobs, for those who have the dashboard key.

use std::time::Duration;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use chrono::{NaiveDate, Utc};

use super::refusal::Refusal;
use super::{Answer, App};
use crate::engine::{Engine, RollupAnswer, RollupScope, UsageAnswer};
use crate::error::{Error, Result};
use crate::window::{WindowRequest, parse_day};

/// How long a question waits for its turn.
const QUERY_WAIT: Duration = Duration::from_secs(10);
/// Answers are about people's behaviour: no cache between the server and the asker keeps them.
const NO_STORE: [(HeaderName, HeaderValue); 1] =
    [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];

type Report<T> = Answer<([(HeaderName, HeaderValue); 1], Json<T>)>;

/// `GET /api/analytics/usage?days=&end=&tz=`
pub async fn usage(
    State(app): State<App>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Report<UsageAnswer> {
    app.keys.check(&headers)?;
    let request = window_request(&query.unwrap_or_default())?;
    run(&app, move |engine| engine.usage(&request, Utc::now())).await
}

/// `POST /api/analytics/rollup?day=`
pub async fn rollup(
    State(app): State<App>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Report<RollupAnswer> {
    app.keys.check(&headers)?;
    let mut scope = RollupScope::Closed;
    for (field, value) in parameters(&query.unwrap_or_default(), &["day"])? {
        if field == "day" {
            scope = RollupScope::Day(day("day", "bad_day", &value)?);
        }
    }
    // Not a question: several wait for each other, and must not keep questions waiting.
    run_beside(&app, move |engine| engine.rollup(scope, Utc::now())).await
}

/// Runs a question beside the requests, when it is its turn.
async fn run<T: Send + 'static>(
    app: &App,
    question: impl FnOnce(&Engine) -> Result<T> + Send + 'static,
) -> Report<T> {
    let turn = tokio::time::timeout(QUERY_WAIT, app.queries.clone().acquire_owned()).await;
    let Ok(Ok(turn)) = turn else {
        return Err(Error::Busy("too many questions at once").into());
    };
    run_beside(app, move |engine| {
        let answer = question(engine);
        drop(turn);
        answer
    })
    .await
}

/// Runs work of the engine on a thread where it may take its time.
async fn run_beside<T: Send + 'static>(
    app: &App,
    work: impl FnOnce(&Engine) -> Result<T> + Send + 'static,
) -> Report<T> {
    let engine = app.engine.clone();
    let answer = tokio::task::spawn_blocking(move || work(&engine))
        .await
        .map_err(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "stopping",
                "the server stops",
            ),
        })??;
    Ok((NO_STORE, Json(answer)))
}

/// Reads `days`, `end` and `tz`; anything else is refused, so that a misspelt field is not ignored.
fn window_request(query: &str) -> Result<WindowRequest> {
    let mut request = WindowRequest::default();
    for (field, value) in parameters(query, &["days", "end", "tz"])? {
        match field.as_str() {
            "days" => {
                let days = value.parse().map_err(|_| {
                    let value: String = value.chars().take(64).collect();
                    Error::bad_input(
                        "bad_days",
                        format!("days is {value:?}; allowed is 1 to 365"),
                    )
                })?;
                request.days = Some(days);
            }
            "end" => request.end = Some(day("end", "bad_end", &value)?),
            _ => request.tz = Some(value),
        }
    }
    Ok(request)
}

fn day(field: &str, code: &'static str, value: &str) -> Result<NaiveDate> {
    parse_day(value).map_err(|message| Error::bad_input(code, format!("{field}: {message}")))
}

/// The fields of a query string, each at most once and each one of `allowed`.
fn parameters(query: &str, allowed: &[&str]) -> Result<Vec<(String, String)>> {
    let pairs: Vec<(String, String)> = serde_urlencoded::from_str(query)
        .map_err(|error| Error::bad_input("bad_query", format!("the query string: {error}")))?;
    let mut seen: Vec<&str> = Vec::new();
    for (field, _) in &pairs {
        if !allowed.contains(&field.as_str()) || seen.contains(&field.as_str()) {
            let field: String = field.chars().take(64).collect();
            let allowed = allowed.join(", ");
            return Err(Error::bad_input(
                "bad_query",
                format!("the field {field:?} is unknown or there twice; allowed are {allowed}"),
            ));
        }
        seen.push(field);
    }
    Ok(pairs)
}
