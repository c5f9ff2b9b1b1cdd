//! `GET /api/analytics/status`.

use chrono::Utc;

use super::HandlerResult;
use super::extract::Keyed;
use super::json_response::JsonResponse;
use crate::engine::StatusAnswer;

/// `GET /api/analytics/status`
pub async fn status(Keyed(app): Keyed) -> HandlerResult<JsonResponse<StatusAnswer>> {
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
