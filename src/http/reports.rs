//! Saved reports and boards: `/api/analytics/reports`.

use axum::body::Body;
use axum::http::HeaderMap;
use chrono::Utc;

use super::described::{
    BodyErrors, ConflictErrors, DashKeyErrors, Errors, KeyErrors, NotFoundErrors, WriteErrors,
};
use super::extract::{Keyed, PathParam, Reader};
use super::json_response::JsonResponse;
use super::{HandlerResult, body};
use crate::engine::{
    HistoryAnswer, ReportAnswer, ReportsAnswer, ReportsImport, ReportsImportAnswer,
};
use crate::reports::ReportRequest;

/// The reports and boards, sorted by id.
#[utoipa::path(
    get,
    path = "/api/analytics/reports",
    operation_id = "reports",
    tag = "reports",
    responses(
        (status = 200, description = "The newest version of each.", body = ReportsAnswer),
        Errors, KeyErrors
    )
)]
pub async fn reports(Reader(app): Reader) -> HandlerResult<JsonResponse<ReportsAnswer>> {
    app.run_short(|engine| engine.reports())
        .await
        .map(JsonResponse)
}

/// Creates or replaces the reports, boards and annotations of an export, all or none.
#[utoipa::path(
    post,
    path = "/api/analytics/reports",
    operation_id = "import_reports",
    tag = "reports",
    request_body = ReportsImport,
    responses(
        (status = 200, description = "How many there were.", body = ReportsImportAnswer),
        Errors, DashKeyErrors, BodyErrors, WriteErrors
    )
)]
pub async fn import_reports(
    Keyed(app): Keyed,
    headers: HeaderMap,
    body: Body,
) -> HandlerResult<JsonResponse<ReportsImportAnswer>> {
    let body = body::receive(&app.permits.bodies, &headers, body).await?;
    let import = app
        .permits
        .decode(body, |json| Ok(ReportsImport::parse(json)?))
        .await?;
    let operator = app.operator();
    app.run_short(move |engine| engine.by(&operator, Utc::now()).import_reports(import))
        .await
        .map(JsonResponse)
}

/// A report or board.
#[utoipa::path(
    get,
    path = "/api/analytics/reports/{id}",
    operation_id = "report",
    tag = "reports",
    params(("id" = String, Path, description = "The report's id.")),
    responses(
        (status = 200, description = "Its newest version.", body = ReportAnswer),
        Errors, KeyErrors, NotFoundErrors
    )
)]
pub async fn report(
    Reader(app): Reader,
    PathParam(id): PathParam,
) -> HandlerResult<JsonResponse<ReportAnswer>> {
    app.run_short(move |engine| engine.report(&id))
        .await
        .map(JsonResponse)
}

/// Creates a report or board, or replaces it. With `version`, only that version is replaced.
#[utoipa::path(
    put,
    path = "/api/analytics/reports/{id}",
    operation_id = "set_report",
    tag = "reports",
    params(("id" = String, Path, pattern = "^[a-z0-9-]{1,64}$", description = "The report's id.")),
    request_body = ReportRequest,
    responses(
        (status = 200, description = "The new version.", body = ReportAnswer),
        Errors, DashKeyErrors, BodyErrors, ConflictErrors, WriteErrors
    )
)]
pub async fn set_report(
    Keyed(app): Keyed,
    PathParam(id): PathParam,
    headers: HeaderMap,
    body: Body,
) -> HandlerResult<JsonResponse<ReportAnswer>> {
    let body = body::receive(&app.permits.bodies, &headers, body).await?;
    let request = app
        .permits
        .decode(body, |json| Ok(ReportRequest::parse(json)?))
        .await?;
    let operator = app.operator();
    app.run_short(move |engine| engine.by(&operator, Utc::now()).set_report(&id, request))
        .await
        .map(JsonResponse)
}

/// Removes a report or board with its earlier versions and share links, also from boards.
#[utoipa::path(
    delete,
    path = "/api/analytics/reports/{id}",
    operation_id = "remove_report",
    tag = "reports",
    params(("id" = String, Path, description = "The report's id.")),
    responses(
        (status = 200, description = "The reports and boards that stay.", body = ReportsAnswer),
        Errors, DashKeyErrors, NotFoundErrors, WriteErrors
    )
)]
pub async fn remove_report(
    Keyed(app): Keyed,
    PathParam(id): PathParam,
) -> HandlerResult<JsonResponse<ReportsAnswer>> {
    let operator = app.operator();
    app.run_short(move |engine| engine.by(&operator, Utc::now()).remove_report(&id))
        .await
        .map(JsonResponse)
}

/// The earlier versions of a report or board.
#[utoipa::path(
    get,
    path = "/api/analytics/reports/{id}/history",
    operation_id = "report_history",
    tag = "reports",
    params(("id" = String, Path, description = "The report's id.")),
    responses(
        (status = 200, description = "At most 20, the newest first.", body = HistoryAnswer),
        Errors, KeyErrors, NotFoundErrors
    )
)]
pub async fn report_history(
    Reader(app): Reader,
    PathParam(id): PathParam,
) -> HandlerResult<JsonResponse<HistoryAnswer>> {
    app.run_short(move |engine| engine.report_history(&id))
        .await
        .map(JsonResponse)
}
