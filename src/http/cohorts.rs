//! `GET` and `POST /api/analytics/cohorts`, `DELETE /api/analytics/cohorts/{name}`.

use axum::body::Body;
use axum::http::HeaderMap;

use super::extract::{Keyed, PathParam};
use super::json_response::JsonResponse;
use super::{HandlerResult, body};
use crate::engine::CohortsAnswer;
use crate::metrics::cohort::Cohort;

/// `GET /api/analytics/cohorts`
pub async fn cohorts(Keyed(app): Keyed) -> HandlerResult<JsonResponse<CohortsAnswer>> {
    app.run_short(|engine| engine.cohorts().map(CohortsAnswer::from))
        .await
        .map(JsonResponse)
}

/// `POST /api/analytics/cohorts`: keeps a cohort, in the place of one of that name.
pub async fn set_cohort(
    Keyed(app): Keyed,
    headers: HeaderMap,
    body: Body,
) -> HandlerResult<JsonResponse<CohortsAnswer>> {
    let body = body::receive(&app.permits.bodies, &headers, body).await?;
    let cohort = app
        .permits
        .decode(body, |json| Ok(Cohort::parse(json)?))
        .await?;
    app.run_short(|engine| engine.set_cohort(cohort).map(CohortsAnswer::from))
        .await
        .map(JsonResponse)
}

/// `DELETE /api/analytics/cohorts/{name}`
pub async fn remove_cohort(
    Keyed(app): Keyed,
    PathParam(name): PathParam,
) -> HandlerResult<JsonResponse<CohortsAnswer>> {
    app.run_short(move |engine| engine.remove_cohort(&name).map(CohortsAnswer::from))
        .await
        .map(JsonResponse)
}
