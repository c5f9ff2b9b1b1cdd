//! The HTTP interface: decode, one engine call, encode.
//!
//! Connections are served by hyper's HTTP/1 with timeouts and with limits for connections and
//! clients (`public_limits`), which `axum::serve` does not have. hyper does not read the next
//! request while a response waits for the socket, so that a client that does not read holds one
//! response. No address of a client is stored or traced.

mod accept;
mod asset;
mod auth;
mod blocking;
mod body;
mod caller;
mod client_script;
mod clients;
mod clock;
mod cohorts;
mod connection;
mod connection_state;
mod dashboard;
mod demo;
mod error_response;
mod event;
mod export;
mod extract;
mod health;
mod json_response;
mod listener;
mod live;
mod monitoring;
mod path;
mod permits;
mod public_limits;
mod query;
mod query_string;
mod request_body;
mod rollup;
mod service;
mod socket;
mod status;
mod streaming;
mod token_bucket;
mod usage;
mod users;
mod weak_key;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, header};
use axum::routing::{delete, get, post};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::set_header::SetResponseHeaderLayer;

use crate::engine::{DemoFolder, Engine, LimitStatus};

pub use auth::DashKeys;
use blocking::Permits;
use error_response::ErrorResponse;
use extract::AppState;
pub use listener::serve;
pub use public_limits::PublicLimits;

/// Most bytes of a request's head; browsers send up to 8 kB of cookies.
const MAX_HEAD_BYTES: usize = 32 << 10;
/// Most bytes of a request's path and query string; proxies have similar limits.
const MAX_URI_BYTES: usize = 16 << 10;
/// Most header lines of a request.
const MAX_HEADERS: usize = 64;

/// The state that handlers need.
#[derive(Clone)]
struct App {
    engine: Arc<Engine>,
    keys: Arc<DashKeys>,
    public_limits: Arc<PublicLimits>,
    demo: Arc<DemoFolder>,
    permits: Arc<Permits>,
}

impl App {
    /// The limits of clients and requests.
    fn limits(&self) -> Vec<LimitStatus> {
        let mut limits = self.public_limits.status();
        limits.extend(self.permits.limits());
        limits
    }

    /// The same, with the use of the limits of clients as of some seconds ago, so that no request
    /// waits for it.
    fn sampled_limits(&self) -> Vec<LimitStatus> {
        let mut limits = self.public_limits.sampled_status();
        limits.extend(self.permits.limits());
        limits
    }
}

/// The routes.
pub fn router(
    engine: Arc<Engine>,
    keys: Arc<DashKeys>,
    public_limits: Arc<PublicLimits>,
) -> Router {
    let app = App {
        demo: Arc::new(DemoFolder::of(engine.config())),
        engine,
        keys,
        permits: Arc::new(Permits::new()),
        public_limits: public_limits.clone(),
    };
    Router::new()
        .route("/api/analytics/usage", get(usage::usage))
        .route("/api/analytics/query", post(query::query))
        .route(
            "/api/analytics/cohorts",
            get(cohorts::cohorts).post(cohorts::set_cohort),
        )
        .route(
            "/api/analytics/cohorts/{name}",
            delete(cohorts::remove_cohort),
        )
        .route("/api/analytics/export", get(export::export))
        .route("/api/analytics/users/{id}/events", get(users::access))
        .route("/api/analytics/users/{id}", delete(users::erase))
        .route("/api/analytics/erasures", post(users::erase_many))
        .route("/api/analytics/clock", post(clock::confirm))
        .route("/api/analytics/rollup", post(rollup::rollup))
        .route("/api/analytics/status", get(status::status))
        .route("/api/analytics/live", get(live::live))
        .merge(demo::routes())
        .merge(dashboard::routes())
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/metrics", get(monitoring::metrics))
        .fallback(|| async { ErrorResponse::not_found() })
        .method_not_allowed_fallback(|| async { ErrorResponse::method_not_allowed() })
        // After the fallback, which would otherwise replace the response to a preflight request.
        .merge(client_script::routes(public_limits.config()))
        .layer(CatchPanicLayer::custom(ErrorResponse::after_panic))
        // Browsers must not guess another content type.
        .layer(SetResponseHeaderLayer::if_not_present(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ))
        // Bodies are read by `body::receive`, which has limits of its own.
        .layer(DefaultBodyLimit::disable())
        .with_state(AppState::new(app))
}

/// The result of a handler.
type HandlerResult<T> = Result<T, ErrorResponse>;
