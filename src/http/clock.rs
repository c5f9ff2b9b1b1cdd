//! `POST /api/analytics/clock?confirm=DATE`: a person says that the clock is right.

use axum::extract::RawQuery;
use chrono::Utc;

use super::HandlerResult;
use super::described::{DashKeyErrors, Errors, WriteErrors};
use super::extract::Keyed;
use super::json_response::JsonResponse;
use super::query_string::parameters;
use crate::engine::ClockAnswer;
use crate::error::{Error, ErrorCode};
use crate::window::parse_day;

/// Accepts the clock, if the date is today's by it.
#[utoipa::path(
    post,
    path = "/api/analytics/clock",
    operation_id = "confirm_clock",
    tag = "operation",
    params(("confirm" = NaiveDate, Query, description = "Today's date.")),
    responses(
        (status = 200, description = "Events are accepted with this clock.", body = ClockAnswer),
        Errors, DashKeyErrors, WriteErrors
    )
)]
pub async fn confirm(
    Keyed(app): Keyed,
    RawQuery(query): RawQuery,
) -> HandlerResult<JsonResponse<ClockAnswer>> {
    let fields = parameters(&query.unwrap_or_default(), &["confirm"])?;
    let date = fields
        .first()
        .ok_or_else(|| "confirm is missing; allowed is today's date".to_owned())
        .and_then(|(_, date)| parse_day(date).map_err(|message| format!("confirm: {message}")))
        .map_err(|message| Error::bad_input(ErrorCode::BadDate, message))?;
    let operator = app.operator();
    app.run_job(move |engine| engine.by(&operator, Utc::now()).confirm_clock(date))
        .await
        .map(JsonResponse)
}
