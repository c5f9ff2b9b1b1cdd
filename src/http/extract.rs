//! Parts of a request, whose absence is answered in the one shape of every error response.
//!
//! What a handler may use is one of them: [`Keyed`] for those that ask for the dashboard key, [`Public`] for the others. The
//! router's state gives away nothing else, so that a handler without the key cannot read the store.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path};
use axum::http::StatusCode;
use axum::http::request::Parts;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::App;
use super::door::Door;
use super::limits::Places;
use super::refusal::Refusal;
use crate::engine::PendingIngest;
use crate::error::Result as EngineResult;
use crate::event::Batch;

/// The state of the router.
#[derive(Clone)]
pub struct Shared(App);

impl Shared {
    /// The state with what handlers need.
    pub fn new(app: App) -> Self {
        Self(app)
    }
}

/// What a handler may use after the request has shown a valid dashboard key.
pub struct Keyed(pub App);

impl FromRequestParts<Shared> for Keyed {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, Refusal> {
        shared.0.keys.check(&parts.headers)?;
        Ok(Self(shared.0.clone()))
    }
}

/// What a handler may use for anybody: it adds events, and tells whether they are accepted.
pub struct Public(App);

impl FromRequestParts<Shared> for Public {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(
        _: &mut Parts,
        shared: &Shared,
    ) -> Result<Self, std::convert::Infallible> {
        Ok(Self(shared.0.clone()))
    }
}

impl Public {
    /// The room for bodies.
    pub fn bodies(&self) -> &Places {
        &self.0.bodies
    }

    /// The door that the request came through.
    pub fn door(&self) -> &Arc<Door> {
        &self.0.door
    }

    /// Whether events can be accepted now, before anything is kept of them.
    ///
    /// # Errors
    /// Why not.
    pub fn check_writable(&self) -> EngineResult<()> {
        self.0.engine.store().check_writable()
    }

    /// Adds a batch of events.
    ///
    /// # Errors
    /// If none of it can be taken.
    pub fn ingest(&self, batch: Batch<'_>, now: DateTime<Utc>) -> EngineResult<PendingIngest> {
        self.0.engine.ingest_batch(batch, now)
    }

    /// The readiness of the store, as a response.
    ///
    /// # Errors
    /// Why events are not accepted.
    pub fn readiness(&self, now: DateTime<Utc>) -> EngineResult<Value> {
        self.0.engine.check_ready(now)?;
        Ok(json!({
            "ok": true,
            "recovered_at_start": self.0.engine.store().recovered(),
        }))
    }
}

/// The one variable part of a path, decoded.
pub struct PathText(pub String);

impl<S: Send + Sync> FromRequestParts<S> for PathText {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        path.map(|Path(text)| Self(text)).map_err(|_| {
            Refusal::new(
                StatusCode::BAD_REQUEST,
                "bad_path",
                "the path is no UTF-8 text once its %-escapes are decoded",
            )
        })
    }
}
