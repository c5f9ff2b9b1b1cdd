//! `GET /api/analytics/status`.

use chrono::Utc;

use super::HandlerResult;
use super::described::{Errors, KeyErrors};
use super::extract::Reader;
use super::json_response::JsonResponse;
use crate::engine::StatusAnswer;

/// Accepted events, size, limits, zones and progress of the jobs.
#[utoipa::path(
    get,
    path = "/api/analytics/status",
    operation_id = "status",
    tag = "operation",
    responses((status = 200, description = "The status.", body = StatusAnswer), Errors, KeyErrors)
)]
pub async fn status(Reader(app): Reader) -> HandlerResult<JsonResponse<StatusAnswer>> {
    let limits = app.clone();
    app.run_short(move |engine| {
        let mut status = engine.status(Utc::now())?;
        status.limits.extend(limits.limits());
        status.wrong_keys = limits.public_limits.wrong_keys();
        Ok(status)
    })
    .await
    .map(JsonResponse)
}
