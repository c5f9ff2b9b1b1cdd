//! Extractors: what a handler needs of a request and of the server.
//!
//! A handler reaches the engine through [`Keyed`], which requires a dashboard key, or [`Reader`],
//! for which a read key is enough; or it adds events through [`Public`]. The router's state exposes
//! nothing else, so that a handler without a key check cannot read the store.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use utoipa::ToSchema;

use super::auth::{self, Role};
use super::blocking::Permits;
use super::caller::Caller;
use super::error_response::ErrorResponse;
use super::public_limits::PublicLimits;
use super::{App, HandlerResult};
use crate::engine::{PendingIngest, Shared};
use crate::error::ErrorCode;
use crate::error::Result as EngineResult;
use crate::event::Batch;
use crate::monitoring::{self, AlertStatus, Limit, Monitoring, PageFormat, Severity};
use crate::reports::links::Link;
use crate::sdk;
use crate::store::Recovered;
use crate::visitors::Visitor;

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
        let key = self.0.keys.check(&parts.headers);
        let key = key.map_err(|rejection| self.of_link_or(&parts.headers, rejection))?;
        let mut app = App {
            key: Some(key),
            ..self.0.clone()
        };
        if parts.extensions.get::<OfDemo>().is_some() {
            let demo = app.demo.clone();
            let engine = app.run_short(move |_| demo.open(Utc::now())).await?;
            app.engine = engine.ok_or_else(ErrorResponse::not_found)?;
        }
        Ok(app)
    }

    /// The share link whose token a request has.
    fn link(&self, headers: &HeaderMap) -> Option<Link> {
        let digest = auth::digest_of_key(headers)?;
        self.0.engine.link_with_token(&digest, Utc::now())
    }

    /// The response to a request whose key is none: another one if it is the token of a share link.
    fn of_link_or(&self, headers: &HeaderMap, rejection: ErrorResponse) -> ErrorResponse {
        match self.link(headers) {
            Some(_) => share_link(),
            None => rejection,
        }
    }

    /// The state for handlers of a request with the token of a share link, and what that shows.
    async fn with_link(&self, parts: &Parts) -> HandlerResult<Option<(App, Arc<Shared>)>> {
        if parts.extensions.get::<OfDemo>().is_some() || self.0.keys.check(&parts.headers).is_ok() {
            return Ok(None);
        }
        let Some(link) = self.link(&parts.headers) else {
            return Ok(None);
        };
        let shared = self.0.run_short(move |engine| engine.shared(&link)).await?;
        let shared = Arc::new(shared);
        let app = App {
            shared: Some(shared.clone()),
            ..self.0.clone()
        };
        Ok(Some((app, shared)))
    }
}

fn share_link() -> ErrorResponse {
    ErrorResponse::new(
        StatusCode::FORBIDDEN,
        ErrorCode::ShareLink,
        "a share link allows only the queries of its report",
    )
}

/// All that handlers need, for requests with a key that may query, or with the token of a share
/// link. A handler checks each query with [`Viewer::check`].
pub struct Viewer(pub App);

impl Viewer {
    /// Checks that the request may send this query: with a share link one of its report.
    ///
    /// # Errors
    /// 403 if not.
    pub fn check(app: &App, query: &[u8]) -> HandlerResult<()> {
        match &app.shared {
            None => Ok(()),
            Some(_) => Self::check_value(app, &serde_json::from_slice(query).unwrap_or_default()),
        }
    }

    /// The same for a query that is parsed as JSON already.
    ///
    /// # Errors
    /// 403 if not.
    pub fn check_value(app: &App, query: &Value) -> HandlerResult<()> {
        let is_allowed = app
            .shared
            .as_ref()
            .is_none_or(|shared| shared.allows(query));
        is_allowed.then_some(()).ok_or_else(share_link)
    }
}

impl FromRequestParts<AppState> for Viewer {
    type Rejection = ErrorResponse;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &AppState,
    ) -> Result<Self, ErrorResponse> {
        match state.with_link(parts).await? {
            Some((app, _)) => Ok(Self(app)),
            None => state.with_key(parts).await.map(Self),
        }
    }
}

/// The report or board of the share link of a request.
pub struct OfLink(pub Arc<Shared>);

impl FromRequestParts<AppState> for OfLink {
    type Rejection = ErrorResponse;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &AppState,
    ) -> Result<Self, ErrorResponse> {
        if let Some((_, shared)) = state.with_link(parts).await? {
            return Ok(Self(shared));
        }
        state.with_key(parts).await?;
        Err(ErrorResponse::new(
            StatusCode::NOT_FOUND,
            ErrorCode::UnknownShareLink,
            "this key is not the token of a share link",
        ))
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
            return Err(needs_dash_key("a read key may only query"));
        }
        Ok(Self(app))
    }
}

impl App {
    /// Checks whether the key of the request may see the ids of users.
    ///
    /// # Errors
    /// 403 `read_key` if it is not a dashboard key.
    pub fn check_shows_users(&self) -> HandlerResult<()> {
        match &self.key {
            Some(key) if key.role == Role::Dash => Ok(()),
            _ => Err(needs_dash_key("a read key may not see the ids of users")),
        }
    }
}

fn needs_dash_key(why: &str) -> ErrorResponse {
    ErrorResponse::new(
        StatusCode::FORBIDDEN,
        ErrorCode::ReadKey,
        format!("{why}; this request needs a dashboard key"),
    )
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
        let checked = state.0.keys.check_unless_local(&parts.headers, is_local);
        checked.map_err(|rejection| state.of_link_or(&parts.headers, rejection))?;
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

    /// Origins whose pages may embed a share link.
    pub fn link_origins(&self, id: &str) -> Vec<String> {
        self.0.engine.link_origins(id, Utc::now())
    }

    /// Checks whether events can be accepted now, before anything of them is stored.
    ///
    /// # Errors
    /// Why not.
    pub async fn check_writable(&self) -> HandlerResult<()> {
        self.0.check_writable().await
    }

    /// Adds a batch of events; those without a user are of the visitor, if there is one.
    ///
    /// # Errors
    /// If none of it can be stored.
    pub fn ingest(
        &self,
        batch: Batch<'_>,
        visitor: Option<Visitor>,
        now: DateTime<Utc>,
    ) -> EngineResult<PendingIngest> {
        self.0.engine.ingest_batch(batch, visitor, now)
    }

    /// Adds the events of a client of another product; those without a user are of the visitor,
    /// if there is one. Each message that becomes no event is reported to `note_dropped`.
    ///
    /// # Errors
    /// If none of it can be stored.
    pub fn ingest_mapped(
        &self,
        call: Option<&str>,
        batch: &sdk::Batch<'_>,
        visitor: Option<Visitor>,
        now: DateTime<Utc>,
        note_dropped: impl FnMut(usize, &str),
    ) -> EngineResult<PendingIngest> {
        let mapping = &self.0.public_limits.config().clients.mapping;
        self.0
            .engine
            .ingest_mapped(call, batch, mapping, visitor, now, note_dropped)
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

/// The variable segment of a path, or the segments, with their percent-encoding decoded.
pub struct PathParam<T = String>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for PathParam<T> {
    type Rejection = ErrorResponse;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ErrorResponse> {
        let path = Path::<T>::from_request_parts(parts, state).await;
        path.map(|Path(segments)| Self(segments)).map_err(|_| {
            ErrorResponse::new(
                StatusCode::BAD_REQUEST,
                ErrorCode::BadPath,
                "the percent-encoded path does not decode to UTF-8",
            )
        })
    }
}
