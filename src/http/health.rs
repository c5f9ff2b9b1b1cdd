//! Health checks, for load balancers and operators.

use axum::Json;
use chrono::Utc;
use serde::Serialize;
use utoipa::ToSchema;

use super::HandlerResult;
use super::described::Errors;
use super::error_response::ErrorResponse;
use super::extract::{Public, Readiness};

/// The process responds.
#[derive(Serialize, ToSchema)]
pub struct Liveness {
    /// Always true.
    ok: bool,
}

/// The process responds.
#[utoipa::path(
    get,
    path = "/health/live",
    operation_id = "health_live",
    tag = "operation",
    responses((status = 200, description = "It does.", body = Liveness), Errors),
    security(())
)]
pub async fn live() -> Json<Liveness> {
    Json(Liveness { ok: true })
}

/// Events can be accepted, or why not.
#[utoipa::path(
    get,
    path = "/health/ready",
    operation_id = "health_ready",
    tag = "operation",
    responses((status = 200, description = "They can.", body = Readiness), Errors),
    security(())
)]
pub async fn ready(public: Public) -> HandlerResult<Json<Readiness>> {
    let readiness = public.readiness(Utc::now()).await;
    readiness.map(Json).map_err(ErrorResponse::unavailable)
}
