//! Health, for load balancers and people on call.

use axum::Json;
use chrono::Utc;
use serde_json::{Value, json};

use super::Answer;
use super::extract::Public;
use super::refusal::Refusal;

/// `GET /health/live`: the process answers.
pub async fn live() -> Json<Value> {
    Json(json!({"ok": true}))
}

/// `GET /health/ready`: events can be accepted, or why not.
pub async fn ready(public: Public) -> Answer<Json<Value>> {
    let readiness = public.readiness(Utc::now());
    readiness
        .map(Json)
        .map_err(|error| Refusal::from(error).unavailable())
}
