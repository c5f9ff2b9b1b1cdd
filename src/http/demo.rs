//! `POST /api/analytics/demo` fills a separate folder with a synthetic history, and
//! `/demo/api/analytics/…` queries it. It accepts no events.

use axum::Extension;
use axum::http::StatusCode;
use chrono::Utc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::HandlerResult;
use super::described::{self, DashKeyErrors, Errors, WriteErrors};
use super::extract::{AppState, Keyed, OfDemo};
use super::json_response::JsonResponse;
use super::{cohorts, query, status, usage, values};
use crate::engine::DemoAnswer;

/// The routes: of the demo, everything that only reads.
pub fn routes() -> OpenApiRouter<AppState> {
    let mut reading = OpenApiRouter::default()
        .routes(routes!(usage::usage))
        .routes(routes!(query::query, query::query_by_url))
        .routes(routes!(query::queries))
        .routes(routes!(values::values))
        .routes(routes!(cohorts::cohorts))
        .routes(routes!(status::status))
        .layer(Extension(OfDemo));
    for item in reading.get_openapi_mut().paths.paths.values_mut() {
        described::rename(item, "demo");
        // Until the history is generated.
        described::add_error(item, StatusCode::NOT_FOUND);
    }
    OpenApiRouter::default()
        .routes(routes!(fill))
        .nest("/demo", reading)
}

/// Generates a synthetic history, unless there is one.
#[utoipa::path(
    post,
    path = "/api/analytics/demo",
    operation_id = "fill_demo",
    tag = "demo",
    responses(
        (status = 200, description = "The history.", body = DemoAnswer),
        Errors, DashKeyErrors, WriteErrors
    )
)]
async fn fill(Keyed(app): Keyed) -> HandlerResult<JsonResponse<DemoAnswer>> {
    let demo = app.demo.clone();
    app.run_job(move |_| demo.fill(Utc::now()))
        .await
        .map(JsonResponse)
}
