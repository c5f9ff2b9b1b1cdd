//! Questions and jobs, for those who have the dashboard key.

use std::cmp::Reverse;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::RawQuery;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{NaiveDate, Utc};
use tracing::info;

use super::accept::{Preference, preferences};
use super::extract::{Keyed, PathText};
use super::refusal::Refusal;
use super::{Answer, App, body};
use crate::engine::{
    Cancel, CohortsAnswer, Engine, RollupAnswer, RollupScope, StatusAnswer, UsageAnswer,
};
use crate::error::{Error, Result};
use crate::export::Format;
use crate::metrics::cohort::Cohort;
use crate::metrics::query::Query;
use crate::metrics::usage::MAX_FEATURES;

use crate::window::{WindowRequest, parse_day};

/// How long a question waits for its turn.
const QUERY_WAIT: Duration = Duration::from_secs(10);
/// Answers are about people's behaviour: no cache between the server and the asker keeps them.
pub(super) const NO_STORE: [(HeaderName, HeaderValue); 1] =
    [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];

pub(super) type Report<T> = Answer<([(HeaderName, HeaderValue); 1], Json<T>)>;

/// `GET /api/analytics/usage?days=&end=&tz=&limit=`
pub async fn usage(Keyed(app): Keyed, RawQuery(query): RawQuery) -> Report<UsageAnswer> {
    let query = query.unwrap_or_default();
    let mut fields = parameters(&query, &["days", "end", "tz", "limit"])?;
    let mut features = MAX_FEATURES;
    for (_, limit) in fields.extract_if(.., |(field, _)| field == "limit") {
        features = limit.parse().map_err(|_| {
            let limit: String = limit.chars().take(64).collect();
            let message = format!("limit is {limit:?}; allowed is 1 to {MAX_FEATURES}");
            Error::bad_input("bad_limit", message)
        })?;
    }
    let request = window_of(fields)?;
    run(&app, move |engine| {
        engine.usage_of(&request, features, Utc::now(), &Cancel::default())
    })
    .await
}

/// `POST /api/analytics/rollup?day=`
pub async fn rollup(Keyed(app): Keyed, RawQuery(query): RawQuery) -> Report<RollupAnswer> {
    let mut scope = RollupScope::Closed;
    for (field, value) in parameters(&query.unwrap_or_default(), &["day"])? {
        if field == "day" {
            scope = RollupScope::Day(day("day", "bad_day", &value)?);
        }
    }
    // Not a question: several wait for each other, and must not keep questions waiting.
    run_beside(&app, move |engine| engine.rollup(scope, Utc::now())).await
}

/// `GET /api/analytics/status`
pub async fn status(Keyed(app): Keyed) -> Report<StatusAnswer> {
    let limits = app.limits();
    let wrong_keys = app.door.wrong_keys();
    run_beside(&app, move |engine| {
        let mut status = engine.status(Utc::now())?;
        status.limits.extend(limits);
        status.wrong_keys = wrong_keys;
        Ok(status)
    })
    .await
}

/// `POST /api/analytics/query`, in the format that `Accept` asks for. It is given up when the client closes the connection.
pub async fn query(Keyed(app): Keyed, headers: HeaderMap, body: Body) -> Answer<Response> {
    let format = accepted(&headers)?;
    let body = body::read_json(&app.bodies, &headers, body).await?;
    let query = Query::parse(&body)?;
    let mut waiting = Waiting::default();
    let cancel = waiting.cancel.clone();
    let answer = run(&app, move |engine| {
        format.encode(&engine.query(&query, Utc::now(), &cancel)?)
    })
    .await;
    waiting.is_over = true;
    let answer = answer?;
    Ok((
        NO_STORE,
        [(header::CONTENT_TYPE, format.media_type())],
        answer.1.0,
    )
        .into_response())
}

/// Whoever waits for an answer: a question is given up when it is dropped before.
#[derive(Default)]
struct Waiting {
    cancel: Cancel,
    is_over: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.is_over {
            info!("Gave a question up: its client is gone");
            self.cancel.cancel();
        }
    }
}

/// The format that a client prefers of those there are; JSON unless it says something else. Of those that it wants equally, the
/// one that it names first.
fn accepted(headers: &HeaderMap) -> Answer<Format> {
    let ranges = preferences(headers, &header::ACCEPT);
    let is_silent = headers
        .get_all(header::ACCEPT)
        .iter()
        .all(HeaderValue::is_empty);
    if is_silent {
        return Ok(Format::Json);
    }
    // The most wanted, then the one that is named first, then the first of ours.
    let best = Format::ALL
        .into_iter()
        .filter_map(|format| Some((format, wanted(format, &ranges)?)))
        .filter(|(_, (weight, _))| *weight > 0)
        .min_by_key(|(_, (weight, place))| (Reverse(*weight), *place));
    if let Some((format, _)) = best {
        return Ok(format);
    }
    let wanted: Vec<&str> = headers
        .get_all(header::ACCEPT)
        .iter()
        .map(|line| line.to_str().unwrap_or_default())
        .collect();
    let wanted: String = wanted.join(", ").chars().take(200).collect();
    let allowed = Format::ALL.map(Format::media_type).join(", ");
    Err(Refusal::new(
        StatusCode::NOT_ACCEPTABLE,
        "not_acceptable",
        format!("Accept is {wanted:?}; allowed are {allowed}"),
    ))
}

/// How much a format is wanted, and the place of what says so: the range that fits it most closely.
fn wanted(format: Format, ranges: &[Preference<'_>]) -> Option<(u16, usize)> {
    let media_type = format.media_type();
    let name = media_type.split(';').next().unwrap_or_default();
    let (kind, _) = name.split_once('/').unwrap_or_default();
    let variant = format.variant();
    let closeness = |range: &Preference<'_>| match range.parameter("variant") {
        found if found.is_some() && range.is(name) => (found == variant).then_some(3),
        // A variant is chosen by its name alone.
        _ if variant.is_some() => None,
        _ if range.is(name) => Some(2),
        _ if range.is(&format!("{kind}/*")) => Some(1),
        _ => range.is("*/*").then_some(0),
    };
    let fitting = ranges.iter().enumerate();
    let fitting = fitting.filter_map(|(place, range)| Some((closeness(range)?, place, range)));
    fitting
        .min_by_key(|(closeness, place, _)| (Reverse(*closeness), *place))
        .map(|(_, place, range)| (range.weight, place))
}

/// `GET /api/analytics/cohorts`
pub async fn cohorts(Keyed(app): Keyed) -> Report<CohortsAnswer> {
    run_beside(&app, |engine| engine.cohorts().map(CohortsAnswer::from)).await
}

/// `POST /api/analytics/cohorts`: keeps a cohort, in the place of one of that name.
pub async fn set_cohort(
    Keyed(app): Keyed,
    headers: HeaderMap,
    body: Body,
) -> Report<CohortsAnswer> {
    let body = body::read_json(&app.bodies, &headers, body).await?;
    let cohort = Cohort::parse(&body)?;
    run_beside(&app, |engine| {
        engine.set_cohort(cohort).map(CohortsAnswer::from)
    })
    .await
}

/// `DELETE /api/analytics/cohorts/{name}`
pub async fn remove_cohort(Keyed(app): Keyed, PathText(name): PathText) -> Report<CohortsAnswer> {
    run_beside(&app, move |engine| {
        engine.remove_cohort(&name).map(CohortsAnswer::from)
    })
    .await
}

/// Runs a question beside the requests, when it is its turn.
async fn run<T: Send + 'static>(
    app: &App,
    question: impl FnOnce(&Engine) -> Result<T> + Send + 'static,
) -> Report<T> {
    let turn = tokio::time::timeout(QUERY_WAIT, app.queries.take()).await;
    let Ok(Some(turn)) = turn else {
        app.queries.count();
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
pub(super) async fn run_beside<T: Send + 'static>(
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

/// The window that some fields name.
pub(super) fn window_of(fields: Vec<(String, String)>) -> Result<WindowRequest> {
    let mut request = WindowRequest::default();
    for (field, value) in fields {
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
pub(super) fn parameters(query: &str, allowed: &[&str]) -> Result<Vec<(String, String)>> {
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
