//! Accepts connections, serves those within the limits, and stops.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;
use tokio::net::{TcpListener, TcpStream};
use tracing::{info, warn};

use super::connection;
use super::error_response::ErrorResponse;
use super::public_limits::{HEADER_TIMEOUT, Phase, PublicLimits};
use super::service::Service;

/// Time that open requests have to finish once the server stops: most take milliseconds, and a
/// commit that takes longer means that the disk hangs.
const FINISH_TIMEOUT: Duration = Duration::from_secs(3);
/// Time that connections have to close once they are aborted.
const CUT_TIMEOUT: Duration = Duration::from_millis(500);
/// Pause after a failed accept, so that a lack of file descriptors does not spin the loop, and
/// while connections that were asked to close do so.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Interval at which idle clients are removed from the table.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);
/// Shortest time between two traces about connections that cannot be accepted.
const TRACE_INTERVAL: Duration = Duration::from_secs(60);

/// Serves until `stop` resolves, then lets open requests finish for three seconds and aborts the
/// rest.
pub async fn serve(
    listeners: Vec<TcpListener>,
    router: Router,
    public_limits: Arc<PublicLimits>,
    stop: impl Future<Output = ()>,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(super::MAX_HEAD_BYTES)
        .max_headers(super::MAX_HEADERS);
    let mut stop = std::pin::pin!(stop);
    let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
    let mut next_id = 0;
    let (mut failures, mut traced) = (0, None::<Instant>);
    loop {
        let is_crowded = public_limits.is_crowded();
        let accepted = tokio::select! {
            accepted = accept(&listeners), if !is_crowded => accepted,
            () = public_limits.one_closed(), if is_crowded => continue,
            () = tokio::time::sleep(ACCEPT_PAUSE), if is_crowded => continue,
            _ = sweep.tick() => {
                public_limits.sweep();
                continue;
            }
            () = &mut stop => break,
        };
        match accepted {
            Ok((stream, address)) => {
                next_id += 1;
                admit(&http, stream, address, &router, &public_limits, next_id);
            }
            Err(error) => {
                failures += 1;
                if traced.is_none_or(|at| at.elapsed() >= TRACE_INTERVAL) {
                    warn!(
                        failures,
                        "Cannot accept a connection ({failures} times): {error}"
                    );
                    (traced, failures) = (Some(Instant::now()), 0);
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listeners);
    info!("Stopping: no new connections, open requests finish");
    public_limits.set_phase(Phase::Finishing);
    if !public_limits.wait_until_closed(FINISH_TIMEOUT).await {
        warn!("Some requests did not finish in time and were aborted");
        public_limits.set_phase(Phase::Cut);
        public_limits.wait_until_closed(CUT_TIMEOUT).await;
    }
}

/// Accepts the next connection to any of the addresses.
async fn accept(listeners: &[TcpListener]) -> std::io::Result<(TcpStream, SocketAddr)> {
    std::future::poll_fn(|context| {
        let accepted = listeners
            .iter()
            .map(|listener| listener.poll_accept(context));
        let mut ready = accepted.filter(Poll::is_ready);
        ready.next().unwrap_or(Poll::Pending)
    })
    .await
}

/// Begins to serve a connection, or rejects it with a response.
fn admit(
    http: &http1::Builder,
    stream: TcpStream,
    address: SocketAddr,
    router: &Router,
    public_limits: &Arc<PublicLimits>,
    id: u64,
) {
    let opened = match public_limits.open(address.ip(), id) {
        Ok(opened) => opened,
        Err(rejection) => return reject(public_limits, stream, &rejection),
    };
    let service = Service {
        router: router.clone(),
        public_limits: public_limits.clone(),
        state: opened.state.clone(),
        peer: opened.peer.clone(),
    };
    tokio::spawn(connection::serve(http.clone(), stream, service, opened));
}

/// Sends a response and closes a connection without reading a request.
fn reject(public_limits: &PublicLimits, stream: TcpStream, rejection: &ErrorResponse) {
    public_limits.count_error(rejection.code());
    // The response fits into the empty buffer of a new socket. A disconnected client needs none.
    let _ = stream.try_write(&rejection.raw());
    // If it were closed at once, the client's unread bytes could destroy the response in flight.
    if let Some(permit) = public_limits.rejection_permit() {
        tokio::spawn(async move {
            connection::linger(stream).await;
            drop(permit);
        });
    }
}
