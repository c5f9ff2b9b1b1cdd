//! `GET /api/analytics/values?property=&prefix=&limit=&days=`: the most used values of a property.

use axum::extract::RawQuery;
use chrono::Utc;

use super::HandlerResult;
use super::described::{Errors, KeyErrors};
use super::extract::Reader;
use super::json_response::JsonResponse;
use super::query_string::{WINDOW, parameters, window_of};
use crate::engine::{ValuesAnswer, ValuesRequest};
use crate::error::{Error, ErrorCode, Result, shown};
use crate::window::WindowRequest;

/// The most used values of a property, or the keys of the metadata, for autocompletion.
#[utoipa::path(
    get,
    path = "/api/analytics/values",
    operation_id = "values",
    tag = "queries",
    params(
        ("property" = String, Query, description = "`event_type`, `feature`, `url`, `metadata.<path>`, or `metadata` for its keys."),
        ("prefix" = Option<String>, Query, description = "What the values begin with or, after these, contain, without case."),
        ("limit" = Option<usize>, Query, minimum = 1, maximum = 200, description = "Most values; 20 if absent."),
        WindowRequest,
    ),
    responses(
        (status = 200, description = "The values, the most used ones first.", body = ValuesAnswer),
        Errors, KeyErrors
    )
)]
pub async fn values(
    Reader(app): Reader,
    RawQuery(query): RawQuery,
) -> HandlerResult<JsonResponse<ValuesAnswer>> {
    let request = parse(&query.unwrap_or_default())?;
    let now = Utc::now();
    let cost = app.engine.cost_of_values(&request);
    app.run_query(cost, move |engine, cancel| {
        engine.values(&request, now, cancel)
    })
    .await
    .map(JsonResponse)
}

fn parse(query: &str) -> Result<ValuesRequest> {
    const FIELDS: [&str; 3] = ["property", "prefix", "limit"];
    let mut fields = parameters(query, &[&WINDOW[..], &FIELDS].concat())?;
    let mut request = ValuesRequest::default();
    let own = fields.extract_if(.., |(field, _)| FIELDS.contains(&field.as_str()));
    for (field, value) in own {
        match field.as_str() {
            "property" => request.property = value,
            "prefix" => request.prefix = value,
            _ => {
                let limit = value.parse().map_err(|_| {
                    let message = format!("limit is {:?}; allowed is 1 to 200", shown(&value));
                    Error::bad_input(ErrorCode::BadLimit, message)
                })?;
                request.limit = Some(limit);
            }
        }
    }
    request.window = window_of(fields)?;
    Ok(request)
}
