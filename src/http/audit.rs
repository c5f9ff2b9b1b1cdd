//! `GET /api/analytics/audit?limit=&user=`: the newest entries of the audit log.

use axum::extract::RawQuery;

use super::HandlerResult;
use super::described::{DashKeyErrors, Errors};
use super::extract::Keyed;
use super::json_response::JsonResponse;
use super::query_string::parameters;
use crate::engine::{AuditAnswer, AuditRequest};
use crate::error::{Error, ErrorCode, shown};

/// The newest entries of the audit log.
#[utoipa::path(
    get,
    path = "/api/analytics/audit",
    operation_id = "audit",
    tag = "operation",
    params(
        ("limit" = Option<usize>, Query, minimum = 1, maximum = 10_000, description = "Most entries."),
        ("user" = Option<String>, Query, description = "Only entries about this user."),
    ),
    responses(
        (status = 200, description = "The entries, the newest first.", body = AuditAnswer),
        Errors, DashKeyErrors
    )
)]
pub async fn audit(
    Keyed(app): Keyed,
    RawQuery(query): RawQuery,
) -> HandlerResult<JsonResponse<AuditAnswer>> {
    let mut request = AuditRequest::default();
    for (field, value) in parameters(&query.unwrap_or_default(), &["limit", "user"])? {
        if field == "user" {
            request.user = Some(value);
            continue;
        }
        let limit = value.parse().map_err(|_| {
            let (value, most) = (shown(&value), AuditRequest::MAX_LIMIT);
            let message = format!("limit is {value:?}; allowed is 1 to {most}");
            Error::bad_input(ErrorCode::BadLimit, message)
        })?;
        request.limit = Some(limit);
    }
    app.run_short(move |engine| engine.audit(&request))
        .await
        .map(JsonResponse)
}
