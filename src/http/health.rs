//! Health checks, for load balancers and operators.

use axum::Json;
use chrono::Utc;
use serde_json::{Value, json};

use super::HandlerResult;
use super::error_response::ErrorResponse;
use super::extract::{Public, Readiness};

/// `GET /health/live`: the process responds.
pub async fn live() -> Json<Value> {
    Json(json!({"ok": true}))
}

/// `GET /health/ready`: events can be accepted, or why not.
pub async fn ready(public: Public) -> HandlerResult<Json<Readiness>> {
    let readiness = public.readiness(Utc::now()).await;
    readiness.map(Json).map_err(ErrorResponse::unavailable)
}
