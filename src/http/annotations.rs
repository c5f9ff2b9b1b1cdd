//! Annotations of dates: `/api/analytics/annotations`.

use axum::body::Body;
use axum::http::HeaderMap;
use chrono::Utc;

use super::described::{BodyErrors, DashKeyErrors, Errors, KeyErrors, NotFoundErrors, WriteErrors};
use super::extract::{Keyed, PathParam, Reader};
use super::json_response::JsonResponse;
use super::{HandlerResult, body};
use crate::engine::AnnotationsAnswer;
use crate::reports::annotations::AnnotationRequest;

/// The annotations, sorted by date.
#[utoipa::path(
    get,
    path = "/api/analytics/annotations",
    operation_id = "annotations",
    tag = "reports",
    responses(
        (status = 200, description = "All annotations.", body = AnnotationsAnswer),
        Errors, KeyErrors
    )
)]
pub async fn annotations(Reader(app): Reader) -> HandlerResult<JsonResponse<AnnotationsAnswer>> {
    app.run_short(|engine| engine.annotations())
        .await
        .map(JsonResponse)
}

/// Creates an annotation, or replaces the one with that id.
#[utoipa::path(
    put,
    path = "/api/analytics/annotations/{id}",
    operation_id = "set_annotation",
    tag = "reports",
    params(("id" = String, Path, pattern = "^[a-z0-9-]{1,64}$", description = "The annotation's id.")),
    request_body = AnnotationRequest,
    responses(
        (status = 200, description = "All annotations.", body = AnnotationsAnswer),
        Errors, DashKeyErrors, BodyErrors, WriteErrors
    )
)]
pub async fn set_annotation(
    Keyed(app): Keyed,
    PathParam(id): PathParam,
    headers: HeaderMap,
    body: Body,
) -> HandlerResult<JsonResponse<AnnotationsAnswer>> {
    let body = body::receive(&app.permits.bodies, &headers, body).await?;
    let request = app
        .permits
        .decode(body, |json| Ok(AnnotationRequest::parse(json)?))
        .await?;
    let operator = app.operator();
    app.run_short(move |engine| {
        engine
            .by(&operator, Utc::now())
            .set_annotation(&id, request)
    })
    .await
    .map(JsonResponse)
}

/// Removes an annotation.
#[utoipa::path(
    delete,
    path = "/api/analytics/annotations/{id}",
    operation_id = "remove_annotation",
    tag = "reports",
    params(("id" = String, Path, description = "The annotation's id.")),
    responses(
        (status = 200, description = "The annotations that stay.", body = AnnotationsAnswer),
        Errors, DashKeyErrors, NotFoundErrors, WriteErrors
    )
)]
pub async fn remove_annotation(
    Keyed(app): Keyed,
    PathParam(id): PathParam,
) -> HandlerResult<JsonResponse<AnnotationsAnswer>> {
    let operator = app.operator();
    app.run_short(move |engine| engine.by(&operator, Utc::now()).remove_annotation(&id))
        .await
        .map(JsonResponse)
}
