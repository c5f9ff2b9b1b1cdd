//! The HTTP interface: decode, one engine call, encode.
//!
//! Served through hyper's own HTTP/1 connection with time-outs and limits for connections and clients (`door`), which
//! `axum::serve` does not have. hyper reads no further request while a response waits for the socket, so that a client that does not
//! read holds one response. No address of a client is kept or traced.

mod accept;
mod asset;
mod auth;
mod body;
mod bucket;
mod caller;
mod client;
mod clients;
mod clock;
mod connection;
mod dashboard;
mod demo;
mod door;
mod event;
mod export;
mod extract;
mod limits;
mod listener;
mod live;
mod ops;
mod path;
mod progress;
mod refusal;
mod reports;
mod service;
mod stream;
mod streamed;
mod users;
mod weak_key;
mod wire;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, header};
use axum::routing::{delete, get, post};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::set_header::SetResponseHeaderLayer;

use crate::engine::{DemoFolder, Engine, LimitStatus};

pub use auth::DashKeys;
pub use door::Door;
use extract::Shared;
use limits::Places;
pub use listener::serve;
use refusal::Refusal;

/// Bytes of a request's head; browsers send up to 8 kB of cookies.
const MAX_HEAD_BYTES: usize = 32 << 10;
/// Bytes of a request's path and query string: every question fits, and longer ones end in no log of a proxy.
const MAX_URI_BYTES: usize = 16 << 10;
/// Header lines of a request.
const MAX_HEADERS: usize = 64;
/// Queries that run at once; each uses all cores.
const MAX_QUERIES: u32 = 4;
/// Exports that run at once: each holds some parts in memory for as long as its client takes.
const MAX_EXPORTS: u32 = 2;
/// Users whose events are sent at once: each holds some parts in memory for as long as its client takes.
const MAX_ACCESSES: u32 = 2;
/// Bodies that are being received, together, in KiB: what slow or hostile clients can hold of the memory.
const MAX_BODIES_KIB: u32 = 256 << 10;

/// What every handler needs.
#[derive(Clone)]
struct App {
    engine: Arc<Engine>,
    keys: Arc<DashKeys>,
    door: Arc<Door>,
    demo: demo::Demo,
    queries: Places,
    exports: Places,
    accesses: Places,
    /// Room for bodies, a place a KiB.
    bodies: Places,
}

impl App {
    /// The limits of clients and requests.
    fn limits(&self) -> Vec<LimitStatus> {
        let mut limits = self.door.limits();
        let places = [&self.bodies, &self.queries, &self.exports, &self.accesses];
        limits.extend(places.map(Places::status));
        limits
    }
}

/// The routes.
pub fn router(engine: Arc<Engine>, keys: Arc<DashKeys>, door: Arc<Door>) -> Router {
    let app = App {
        demo: Arc::new(DemoFolder::of(engine.config())),
        engine,
        keys,
        queries: Places::new("queries", MAX_QUERIES),
        exports: Places::new("exports", MAX_EXPORTS),
        accesses: Places::new("accesses", MAX_ACCESSES),
        bodies: Places::new("bodies_kib", MAX_BODIES_KIB),
        door: door.clone(),
    };
    Router::new()
        .route("/api/analytics/usage", get(reports::usage))
        .route("/api/analytics/query", post(reports::query))
        .route(
            "/api/analytics/cohorts",
            get(reports::cohorts).post(reports::set_cohort),
        )
        .route(
            "/api/analytics/cohorts/{name}",
            delete(reports::remove_cohort),
        )
        .route("/api/analytics/export", get(export::export))
        .route("/api/analytics/users/{id}/events", get(users::access))
        .route("/api/analytics/users/{id}", delete(users::erase))
        .route("/api/analytics/erasures", post(users::erase_many))
        .route("/api/analytics/clock", post(clock::confirm))
        .route("/api/analytics/rollup", post(reports::rollup))
        .route("/api/analytics/status", get(reports::status))
        .route("/api/analytics/live", get(live::live))
        .merge(demo::routes())
        .merge(dashboard::routes())
        .route("/health/live", get(ops::live))
        .route("/health/ready", get(ops::ready))
        .fallback(|| async { Refusal::not_found() })
        .method_not_allowed_fallback(|| async { Refusal::method_not_allowed() })
        // After the fallback, which would otherwise take the place of the answer to a preflight.
        .merge(client::routes(door.config()))
        .layer(CatchPanicLayer::custom(Refusal::after_panic))
        // No browser takes an answer for anything but what it says it is.
        .layer(SetResponseHeaderLayer::if_not_present(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ))
        // Bodies are read by `body::read_json`, which knows the limits of a compressed one as well.
        .layer(DefaultBodyLimit::disable())
        .with_state(Shared::new(app))
}

/// A handler's response, or its rejection.
type Answer<T> = Result<T, Refusal>;
