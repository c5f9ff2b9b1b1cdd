//! Extractors: what a handler needs of a request and of the server.
//!
//! A handler reaches the engine through [`Keyed`], which requires a dashboard key, or [`Reader`],
//! for which a read key is enough; or it adds events through [`Public`]. The router's state exposes
//! nothing else, so that a handler without a key check cannot read the store.

use axum::extract::{FromRequestParts, Path};
use axum::http::StatusCode;
use axum::http::request::Parts;
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::auth::Role;
use super::blocking::Permits;
use super::caller::Caller;
use super::error_response::ErrorResponse;
use super::public_limits::PublicLimits;
use super::{App, HandlerResult};
use crate::engine::PendingIngest;
use crate::error::ErrorCode;
use crate::error::Result as EngineResult;
use crate::event::Batch;
use crate::monitoring::{self, AlertStatus, Limit, Monitoring, PageFormat, Severity};
use crate::store::Recovered;

/// The state of the router.
#[derive(Clone)]
pub struct AppState(App);

impl AppState {
    /// Wraps what handlers need.
    pub fn new(app: App) -> Self {
        Self(app)
    }
}

/// All that handlers need, for requests with a dashboard key: for those that change something,
/// show the events of users, or name files of this machine.
pub struct Keyed(pub App);

/// All that handlers need, for requests with a dashboard key or a read key: for those that only
/// query.
pub struct Reader(pub App);

impl AppState {
    /// The state for handlers of a request with a valid key.
    async fn with_key(&self, parts: &Parts) -> HandlerResult<App> {
        let mut app = App {
            key: Some(self.0.keys.check(&parts.headers)?),
            ..self.0.clone()
        };
        if parts.extensions.get::<OfDemo>().is_some() {
            let demo = app.demo.clone();
            let engine = app.run_short(move |_| demo.open(Utc::now())).await?;
            app.engine = engine.ok_or_else(ErrorResponse::not_found)?;
        }
        Ok(app)
    }
}

impl FromRequestParts<AppState> for Reader {
    type Rejection = ErrorResponse;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &AppState,
    ) -> Result<Self, ErrorResponse> {
        state.with_key(parts).await.map(Self)
    }
}

impl FromRequestParts<AppState> for Keyed {
    type Rejection = ErrorResponse;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &AppState,
    ) -> Result<Self, ErrorResponse> {
        let app = state.with_key(parts).await?;
        if app.key.as_ref().is_some_and(|key| key.role == Role::Read) {
            return Err(ErrorResponse::new(
                StatusCode::FORBIDDEN,
                ErrorCode::ReadKey,
                "a read key may only query; this request needs a dashboard key",
            ));
        }
        Ok(Self(app))
    }
}

/// The page for monitoring, for requests with a valid key and for those of this machine.
pub struct Monitored(App);

impl FromRequestParts<AppState> for Monitored {
    type Rejection = ErrorResponse;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &AppState,
    ) -> Result<Self, ErrorResponse> {
        let caller = parts.extensions.get::<Caller>();
        let is_local = caller.is_some_and(Caller::is_local);
        state.0.keys.check_unless_local(&parts.headers, is_local)?;
        Ok(Self(state.0.clone()))
    }
}

impl Monitored {
    /// The page.
    pub fn page(&self, format: PageFormat) -> String {
        let limits = self.0.sampled_limits().into_iter().map(Limit::from);
        let wrong_keys = self.0.public_limits.wrong_keys();
        let monitoring = self.0.engine.monitoring();
        monitoring::page(monitoring, limits.collect(), wrong_keys, format)
    }
}
/// Marks requests for the demo's folder, in their extensions.
#[derive(Clone)]
pub struct OfDemo;

/// Access without a key: adds events, and reports whether they are accepted.
#[derive(Clone)]
pub struct Public(App);

impl FromRequestParts<AppState> for Public {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(
        _: &mut Parts,
        state: &AppState,
    ) -> Result<Self, std::convert::Infallible> {
        Ok(Self(state.0.clone()))
    }
}

impl Public {
    /// The permits.
    pub fn permits(&self) -> &Permits {
        &self.0.permits
    }

    /// The counters of the process.
    pub fn monitoring(&self) -> &Monitoring {
        self.0.engine.monitoring()
    }

    /// The limits of the public interface.
    pub fn limits(&self) -> &PublicLimits {
        &self.0.public_limits
    }

    /// Checks whether events can be accepted now, before anything of them is stored.
    ///
    /// # Errors
    /// Why not.
    pub async fn check_writable(&self) -> HandlerResult<()> {
        self.0.check_writable().await
    }

    /// Adds a batch of events.
    ///
    /// # Errors
    /// If none of it can be stored.
    pub fn ingest(&self, batch: Batch<'_>, now: DateTime<Utc>) -> EngineResult<PendingIngest> {
        self.0.engine.ingest_batch(batch, now)
    }

    /// The readiness of the store, as a response.
    ///
    /// # Errors
    /// Why events are not accepted.
    pub async fn readiness(&self, now: DateTime<Utc>) -> HandlerResult<Readiness> {
        self.0.check_writable().await?;
        let store = self.0.engine.store();
        store.trusted(now)?;
        Ok(Readiness {
            ok: true,
            recovered_at_start: store.recovered(),
            warnings: self
                .0
                .engine
                .firing_alerts()
                .iter()
                .map(Warning::of)
                .collect(),
        })
    }
}

/// A store that accepts events.
#[derive(Serialize, ToSchema)]
pub struct Readiness {
    /// Always true.
    ok: bool,
    /// Result of reading the event log at the start.
    recovered_at_start: Recovered,
    /// The alerts that fire, which do not make the server less ready.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<Warning>,
}

/// An alert that fires, without its value: anybody may read it.
#[derive(Serialize, ToSchema)]
pub struct Warning {
    /// Its name.
    alert: &'static str,
    /// Its urgency.
    severity: Severity,
    /// Its condition.
    condition: &'static str,
    /// Time since which the condition holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
}

impl Warning {
    fn of(alert: &AlertStatus) -> Self {
        Self {
            alert: alert.name,
            severity: alert.severity,
            condition: alert.condition,
            since: alert.since.clone(),
        }
    }
}

/// The variable segment of a path, with its percent-encoding decoded.
pub struct PathParam(pub String);

impl<S: Send + Sync> FromRequestParts<S> for PathParam {
    type Rejection = ErrorResponse;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ErrorResponse> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        path.map(|Path(segment)| Self(segment)).map_err(|_| {
            ErrorResponse::new(
                StatusCode::BAD_REQUEST,
                ErrorCode::BadPath,
                "the percent-encoded path does not decode to UTF-8",
            )
        })
    }
}
