//! Queries: `POST` and `GET /api/analytics/query`, and `POST /api/analytics/queries`.

use axum::body::Body;
use axum::extract::RawQuery;
use axum::http::HeaderMap;
use axum::response::Response;
use chrono::{NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use utoipa::openapi::path::Parameter;
use utoipa::openapi::schema::SchemaType;
use utoipa::openapi::{RefOr, Schema, Type};
use utoipa::{IntoParams, ToSchema};

use super::accept::accepted;
use super::described::{Binary, BodyErrors, Errors, FormatErrors, KeyErrors};
use super::entity_tag::{self, EntityTag};
use super::error_response::ErrorResponse;
use super::extract::{Reader, Viewer};
use super::json_response::JsonResponse;
use super::query_string::parameters;
use super::{App, HandlerResult, body};
use crate::engine::{Cancel, Cost, Engine};
use crate::error::{Error, ErrorCode, Result};
use crate::export::Format;
use crate::metrics::query::{Query, QueryAnswer};

/// Any metric, in the format that `Accept` prefers.
#[utoipa::path(
    post,
    path = "/api/analytics/query",
    operation_id = "query",
    tag = "queries",
    request_body = Query,
    responses(
        (
            status = 200,
            description = "The rows of the metric.",
            content(
                (QueryAnswer = "application/json"),
                (String = "text/csv"),
                (Binary = "application/vnd.apache.arrow.stream"),
                (Binary = "application/vnd.apache.parquet")
            )
        ),
        Errors, KeyErrors, BodyErrors, FormatErrors
    )
)]
pub async fn query(Viewer(app): Viewer, headers: HeaderMap, body: Body) -> HandlerResult<Response> {
    let format = accepted(&headers)?;
    let body = body::receive(&app.permits.bodies, &headers, body).await?;
    let viewer = app.clone();
    let query = app
        .permits
        .decode(body, move |json| {
            Viewer::check(&viewer, json)?;
            Ok(Query::parse(json)?)
        })
        .await?;
    let encoded = run(&app, query, format).await?;
    Ok(entity_tag::respond(format, encoded))
}

/// Most queries of a request.
const MAX_QUERIES: usize = 20;
/// Bytes of results after which no more queries are run: with this each may have a large result.
const MAX_RESULTS_BYTES: usize = 64 << 20;

/// Several queries.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Queries {
    /// The queries, each as for `POST /api/analytics/query`.
    #[schema(value_type = Vec<Query>, min_items = 1, max_items = 20)]
    queries: Vec<Map<String, Value>>,
}

impl Queries {
    fn parse(json: &[u8]) -> Result<Self> {
        let bad = |message| Error::bad_input(ErrorCode::BadQuery, message);
        let queries: Self = serde_json::from_slice(json)
            .map_err(|error| bad(format!("allowed is {{\"queries\":[queries]}}: {error}")))?;
        match queries.queries.len() {
            1..=MAX_QUERIES => Ok(queries),
            count => Err(bad(format!(
                "queries has {count} queries; allowed are 1 to {MAX_QUERIES}"
            ))),
        }
    }
}

/// The results of several queries.
#[derive(Serialize, ToSchema)]
pub struct Answers {
    /// Always true: the request was understood.
    ok: bool,
    /// For each query, in order, its result or the body of an error response.
    #[schema(value_type = Vec<Object>)]
    answers: Vec<Box<RawValue>>,
}

/// Several metrics in one request, one after another.
///
/// Each result is that of `POST /api/analytics/query`; a query that fails has the body of an error
/// response, and does not affect the others.
#[utoipa::path(
    post,
    path = "/api/analytics/queries",
    operation_id = "queries",
    tag = "queries",
    request_body = Queries,
    responses(
        (status = 200, description = "The results, in the order of the queries.", body = Answers),
        Errors, KeyErrors, BodyErrors
    )
)]
pub async fn queries(
    Viewer(app): Viewer,
    headers: HeaderMap,
    body: Body,
) -> HandlerResult<JsonResponse<Answers>> {
    let body = body::receive(&app.permits.bodies, &headers, body).await?;
    let queries = app
        .permits
        .decode(body, |json| Ok(Queries::parse(json)?))
        .await?;
    let mut answers = Vec::with_capacity(queries.queries.len());
    let mut bytes = 0;
    for query in queries.queries {
        let answer = if bytes <= MAX_RESULTS_BYTES {
            answer(&app, query).await
        } else {
            let message = "the results before it have more than 64 MiB; send it in another request";
            Err(Error::bad_input(ErrorCode::TooManyGroups, message).into())
        };
        let answer = answer.unwrap_or_else(|error| error.json());
        bytes += answer.get().len();
        answers.push(answer);
    }
    Ok(JsonResponse(Answers { ok: true, answers }))
}

async fn answer(app: &App, query: Map<String, Value>) -> HandlerResult<Box<RawValue>> {
    Viewer::check_value(app, &Value::Object(query.clone()))?;
    let encoded = run(app, Query::of_object(query)?, Format::Json).await?;
    let json = String::from_utf8(encoded).ok();
    let json = json.and_then(|json| RawValue::from_string(json).ok());
    json.ok_or_else(ErrorResponse::internal)
}

/// Any metric, for tools that send GET requests: the query as JSON in `q`, or its fields.
///
/// Filters, steps and other nested fields need `q`. The result has an entity tag, by which the
/// client learns later whether it has changed.
#[utoipa::path(
    get,
    path = "/api/analytics/query",
    operation_id = "query_by_url",
    tag = "queries",
    params(QueryParameters),
    responses(
        (
            status = 200,
            description = "The rows of the metric.",
            content(
                (QueryAnswer = "application/json"),
                (String = "text/csv"),
                (Binary = "application/vnd.apache.arrow.stream"),
                (Binary = "application/vnd.apache.parquet")
            )
        ),
        Errors, KeyErrors, FormatErrors
    )
)]
pub async fn query_by_url(
    Reader(app): Reader,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> HandlerResult<Response> {
    let format = accepted(&headers)?;
    let request = query.unwrap_or_default();
    let query = parse(&request)?;
    if query.metric.shows_users() {
        // Before the client is told that it has the result.
        app.check_shows_users()?;
    }
    let closed = match app.spark {
        Some(_) => None,
        None => EntityTag::of(&app, &query.window, &query.cohorts, &request, format).await?,
    };
    if let Some(known) = closed.as_ref().and_then(|closed| closed.if_known(&headers)) {
        return Ok(known);
    }
    let encoded = run(&app, query, format).await?;
    Ok(entity_tag::respond_tagged(format, encoded, closed))
}

async fn run(app: &App, query: Query, format: Format) -> HandlerResult<Vec<u8>> {
    if query.metric.shows_users() {
        app.check_shows_users()?;
    }
    let now = Utc::now();
    if let Some(spark) = app.spark.clone() {
        let query = move |_: &Engine, cancel: &Cancel| {
            let found = spark.query(&query, now, &|| cancel.check())?;
            format.encode(&found, &found.answer.rows)
        };
        return app.run_query(Cost::Events, query).await;
    }
    let cost = app.engine.cost_of(&query, now);
    app.run_query(cost, move |engine, cancel| {
        let answer = engine.query(&query, now, cancel)?;
        format.encode(&answer, &answer.rows)
    })
    .await
}

/// A query in a query string. The fields other than `q` are those of a query that are not nested.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "`parse` reads the fields by their description")]
struct QueryParameters {
    /// The query as JSON, instead of all other fields.
    q: Option<String>,
    /// The metric.
    metric: Option<String>,
    /// Length of the window in days; 30 if absent.
    #[param(minimum = 1, maximum = 365)]
    days: Option<i64>,
    /// Last day of the window; today in the zone if absent.
    end: Option<NaiveDate>,
    /// First day of the window, instead of `days`.
    from: Option<NaiveDate>,
    /// Last day of the window, with `from`; today in the zone if absent.
    to: Option<NaiveDate>,
    /// A calendar period, such as `last_month`, instead of the other fields of the window.
    period: Option<String>,
    /// IANA name of the reporting zone; UTC if absent.
    #[param(format = "iana-time-zone")]
    tz: Option<String>,
    /// `day`, `week` or `month`.
    grain: Option<String>,
    /// Most rows.
    limit: Option<i64>,
    /// Of events: the cursor of the page.
    before: Option<String>,
    /// Of features and funnels: the property that the result is split by.
    breakdown: Option<String>,
    /// Of a retention: cells after the first.
    periods: Option<i64>,
    /// Of a retention: `first` or `recurring`.
    cohort: Option<String>,
    /// Of a retention: `on` or `on_or_after`.
    returning: Option<String>,
    /// Of a retention: cohorts of the first event ever seen.
    ever: Option<bool>,
    /// Of paths: `user` or `session`.
    by: Option<String>,
    /// Of paths: most features of a path.
    depth: Option<i64>,
}

/// Parses a query in a query string.
fn parse(request: &str) -> Result<Query> {
    let known = QueryParameters::into_params(|| None);
    let names: Vec<&str> = known.iter().map(|known| known.name.as_str()).collect();
    let fields = parameters(request, &names)?;
    if let Some((_, json)) = fields.iter().find(|(name, _)| name == "q") {
        let others: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
        if others.len() > 1 {
            let others = others.join(", ");
            let message = format!("the query string has {others}; allowed is q alone");
            return Err(Error::bad_input(ErrorCode::BadQuery, message));
        }
        return Query::parse(json.as_bytes());
    }
    let object = fields.into_iter().map(|(name, value)| {
        let field = known.iter().find(|known| known.name == name);
        let value = typed(value, field.and_then(type_of));
        (name, value)
    });
    Query::of_object(object.collect())
}

/// The JSON type of a parameter.
fn type_of(parameter: &Parameter) -> Option<&Type> {
    match parameter.schema.as_ref()? {
        RefOr::T(Schema::Object(schema)) => match &schema.schema_type {
            SchemaType::Type(one) => Some(one),
            SchemaType::Array(several) => several.first(),
            SchemaType::AnyValue => None,
        },
        _ => None,
    }
}

/// A value as its type; as a string if it is not of that type, which the parser of the metric then
/// rejects by name.
fn typed(value: String, type_: Option<&Type>) -> Value {
    let parsed = match type_ {
        Some(Type::Integer) => value.parse::<i64>().ok().map(Value::from),
        Some(Type::Boolean) => value.parse::<bool>().ok().map(Value::from),
        _ => None,
    };
    parsed.unwrap_or(Value::String(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_json_give_the_same_query() {
        for (flat, json) in [
            (
                "metric=retention&grain=week&days=90&periods=4&ever=true&cohort=first&returning=on",
                r#"{"metric":"retention","grain":"week","days":90,"periods":4,"ever":true,
                    "cohort":"first","returning":"on"}"#,
            ),
            (
                "metric=feature_usage&from=2026-01-01&to=2026-01-31&limit=3&breakdown=metadata.plan\
                 &tz=Europe%2FBerlin",
                r#"{"metric":"feature_usage","from":"2026-01-01","to":"2026-01-31","limit":3,
                    "breakdown":"metadata.plan","tz":"Europe/Berlin"}"#,
            ),
            (
                "metric=paths&by=session&depth=3",
                r#"{"metric":"paths","by":"session","depth":3}"#,
            ),
        ] {
            let expected = Query::parse(json.as_bytes()).expect(json);
            assert_eq!(parse(flat).expect(flat), expected);
            let q = serde_urlencoded::to_string([("q", json)]).expect("a string");
            assert_eq!(parse(&q).expect(json), expected);
        }
        for (wrong, says) in [
            ("", "metric"),
            ("metric=active_users&metric=paths", "metric"),
            ("metric=active_users&steps=2", "steps"),
            ("metric=active_users&depth=2", "depth"),
            ("metric=active_users&days=many", "days"),
            ("metric=retention&ever=1", "ever"),
            ("q={}&days=3", "q, days"),
            ("q=x", "not a JSON object"),
        ] {
            let error = parse(wrong).expect_err(wrong).to_string();
            assert!(error.contains(says), "{wrong}: {error}");
        }
    }
}
