//! `GET` and `POST /api/analytics/cohorts`, `DELETE /api/analytics/cohorts/{name}`.

use axum::body::Body;
use axum::http::HeaderMap;
use chrono::Utc;

use super::auth::Role;
use super::described::{BodyErrors, DashKeyErrors, Errors, KeyErrors, WriteErrors};
use super::extract::{Keyed, PathParam, Reader};
use super::json_response::JsonResponse;
use super::{HandlerResult, body};
use crate::engine::CohortsAnswer;
use crate::metrics::cohort::Cohort;

/// The cohorts, sorted by name.
///
/// With a read key they have no lists of users.
#[utoipa::path(
    get,
    path = "/api/analytics/cohorts",
    operation_id = "cohorts",
    tag = "queries",
    responses(
        (status = 200, description = "All cohorts.", body = CohortsAnswer),
        Errors, KeyErrors
    )
)]
pub async fn cohorts(Reader(app): Reader) -> HandlerResult<JsonResponse<CohortsAnswer>> {
    let shows_users = app.key.as_ref().is_none_or(|key| key.role == Role::Dash);
    app.run_short(move |engine| {
        let mut found = engine.cohorts()?;
        if !shows_users {
            for cohort in &mut found.cohorts {
                cohort.users = None;
            }
        }
        Ok(CohortsAnswer::from(found))
    })
    .await
    .map(JsonResponse)
}

/// Creates a cohort, or replaces the one of that name.
#[utoipa::path(
    post,
    path = "/api/analytics/cohorts",
    operation_id = "set_cohort",
    tag = "queries",
    request_body = Cohort,
    responses(
        (status = 200, description = "All cohorts.", body = CohortsAnswer),
        Errors, DashKeyErrors, BodyErrors, WriteErrors
    )
)]
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
    let operator = app.operator();
    app.run_short(move |engine| {
        let cohorts = engine.by(&operator, Utc::now()).set_cohort(cohort);
        cohorts.map(CohortsAnswer::from)
    })
    .await
    .map(JsonResponse)
}

/// Removes a cohort.
#[utoipa::path(
    delete,
    path = "/api/analytics/cohorts/{name}",
    operation_id = "remove_cohort",
    tag = "queries",
    params(("name" = String, Path, description = "The cohort's name.")),
    responses(
        (status = 200, description = "The cohorts that stay.", body = CohortsAnswer),
        Errors, DashKeyErrors, WriteErrors
    )
)]
pub async fn remove_cohort(
    Keyed(app): Keyed,
    PathParam(name): PathParam,
) -> HandlerResult<JsonResponse<CohortsAnswer>> {
    let operator = app.operator();
    app.run_short(move |engine| {
        let cohorts = engine.by(&operator, Utc::now()).remove_cohort(&name);
        cohorts.map(CohortsAnswer::from)
    })
    .await
    .map(JsonResponse)
}
