//! Health, for load balancers and people on call.

use axum::Json;
use axum::extract::State;
use chrono::Utc;
use serde_json::{Value, json};

use super::refusal::Refusal;
use super::{Answer, App};

/// `GET /health/live`: the process answers.
pub async fn live() -> Json<Value> {
    Json(json!({"ok": true}))
}

/// `GET /health/ready`: events can be accepted, or why not.
pub async fn ready(State(app): State<App>) -> Answer<Json<Value>> {
    app.engine
        .check_ready(Utc::now())
        .map_err(|error| Refusal::from(error).unavailable())?;
    Ok(Json(json!({
        "ok": true,
        "recovered_at_start": app.engine.store().recovered(),
    })))
}
