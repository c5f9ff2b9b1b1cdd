//! The HTTP interface: decode, one engine call, encode.
//!
//! Served through hyper's own HTTP/1 connection with time-outs and a limit on connections, which `axum::serve`
//! does not have. No address of a client is kept or traced.

mod asset;
mod auth;
mod body;
mod client;
mod clock;
mod dashboard;
mod demo;
mod event;
mod export;
mod live;
mod ops;
mod refusal;
mod reports;
mod streamed;
mod users;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, header};
use axum::routing::{delete, get, post};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use tracing::{debug, info, warn};

use crate::config::NeutralPath;
use crate::engine::{DemoFolder, Engine};

pub use auth::DashKeys;
use refusal::Refusal;

/// Open connections; each costs a descriptor, of which a process often has 1,024, and some 10 kB.
const MAX_CONNECTIONS: usize = 800;
/// Time for the head of a request, and how long an idle connection is kept.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a request's head; browsers send up to 8 kB of cookies.
const MAX_HEAD_BYTES: usize = 32 << 10;
/// Header lines of a request.
const MAX_HEADERS: usize = 64;
/// Time that open requests have to finish once the server was told to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(8);
/// Pause after the system refused a connection, so that a lack of descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Queries that run at once; each uses all cores.
const MAX_QUERIES: usize = 4;
/// Exports that run at once: each holds some parts in memory for as long as its client takes.
const MAX_EXPORTS: usize = 2;
/// Users whose events are sent at once: each holds some parts in memory for as long as its client takes.
const MAX_ACCESSES: usize = 2;
/// Bodies that are being received, together, in KiB: what slow or hostile clients can hold of the memory.
const MAX_BODIES_KIB: usize = 256 << 10;

/// What every handler needs.
#[derive(Clone)]
struct App {
    engine: Arc<Engine>,
    keys: Arc<DashKeys>,
    demo: demo::Demo,
    queries: Arc<Semaphore>,
    exports: Arc<Semaphore>,
    accesses: Arc<Semaphore>,
    /// Room for bodies, a permit a KiB.
    bodies: Arc<Semaphore>,
}

/// The routes.
pub fn router(engine: Arc<Engine>, keys: DashKeys, neutral_path: &NeutralPath) -> Router {
    let app = App {
        demo: Arc::new(DemoFolder::of(engine.config())),
        engine,
        keys: Arc::new(keys),
        queries: Arc::new(Semaphore::new(MAX_QUERIES)),
        exports: Arc::new(Semaphore::new(MAX_EXPORTS)),
        accesses: Arc::new(Semaphore::new(MAX_ACCESSES)),
        bodies: Arc::new(Semaphore::new(MAX_BODIES_KIB)),
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
        .merge(client::routes(neutral_path))
        .layer(CatchPanicLayer::custom(Refusal::after_panic))
        // No browser takes an answer for anything but what it says it is.
        .layer(SetResponseHeaderLayer::if_not_present(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ))
        // Bodies are read by `body::read_json`, which knows the limits of a compressed one as well.
        .layer(DefaultBodyLimit::disable())
        .with_state(app)
}

/// Serves until `stop` resolves, then lets open requests finish for 8 seconds.
pub async fn serve(listener: TcpListener, router: Router, stop: impl Future<Output = ()>) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS);
    let mut stop = std::pin::pin!(stop);
    loop {
        let accept = async {
            // In a full house the next client waits in the system's queue.
            let permit = connections.clone().acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, stream) = tokio::select! {
            (permit, accepted) = accept => match accepted {
                Ok((stream, _)) => (permit, stream),
                Err(error) => {
                    warn!(%error, "Cannot accept a connection: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            () = &mut stop => break,
        };
        let connection = connection(&http, stream, router.clone());
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, "A connection ended early: {error}");
            }
            drop(permit);
        });
    }
    drop(listener);
    info!("Stopping: no new connections, open requests finish");
    if tokio::time::timeout(STOP_TIMEOUT, graceful.shutdown())
        .await
        .is_err()
    {
        warn!("Some requests did not finish in time and were cut off");
    }
}

fn connection(
    http: &http1::Builder,
    stream: TcpStream,
    router: Router,
) -> http1::Connection<TokioIo<TcpStream>, TowerToHyperService<Router>> {
    // Answers are small and complete; waiting for more of them to send together only delays them.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "Cannot switch off the delay of a connection: {error}");
    }
    http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
}

/// A handler's answer when nothing can go wrong any more.
type Answer<T> = Result<T, Refusal>;
