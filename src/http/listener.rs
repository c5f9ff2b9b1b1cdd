//! Accepts connections, serves those that the door lets in, and stops.

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
use super::door::{Door, HEADER_TIMEOUT, Phase};
use super::refusal::Refusal;
use super::service::Service;

/// Time that open requests have to finish once the server was told to stop: most take milliseconds, and a commit that takes as
/// long is a disk that hangs.
const FINISH_TIMEOUT: Duration = Duration::from_secs(3);
/// Time that connections have to end once they were cut.
const CUT_TIMEOUT: Duration = Duration::from_millis(500);
/// Pause after the system refused a connection, so that a lack of descriptors does not spin, and until those that were asked to
/// end have ended.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often clients that use nothing are forgotten.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);
/// Least time between two lines of the trace about connections that cannot be accepted.
const TRACE_INTERVAL: Duration = Duration::from_secs(60);

/// Serves until `stop` resolves, then lets open requests finish for three seconds and cuts the rest.
pub async fn serve(
    listeners: Vec<TcpListener>,
    router: Router,
    door: Arc<Door>,
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
        let is_crowded = door.is_crowded();
        let accepted = tokio::select! {
            accepted = accept(&listeners), if !is_crowded => accepted,
            () = door.one_closed(), if is_crowded => continue,
            () = tokio::time::sleep(ACCEPT_PAUSE), if is_crowded => continue,
            _ = sweep.tick() => {
                door.sweep();
                continue;
            }
            () = &mut stop => break,
        };
        match accepted {
            Ok((stream, address)) => {
                next_id += 1;
                admit(&http, stream, address, &router, &door, next_id);
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
    door.set_phase(Phase::Finishing);
    if !door.wait_until_closed(FINISH_TIMEOUT).await {
        warn!("Some requests did not finish in time and were cut off");
        door.set_phase(Phase::Cut);
        door.wait_until_closed(CUT_TIMEOUT).await;
    }
}

/// The next connection to any of the addresses.
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

/// Begins to serve a connection, or turns it away with an answer.
fn admit(
    http: &http1::Builder,
    stream: TcpStream,
    address: SocketAddr,
    router: &Router,
    door: &Arc<Door>,
    id: u64,
) {
    let opened = match door.open(address.ip(), id) {
        Ok(opened) => opened,
        Err(refusal) => return turn_away(door, stream, &refusal),
    };
    let service = Service {
        router: router.clone(),
        door: door.clone(),
        progress: opened.progress.clone(),
        peer: opened.peer.clone(),
    };
    tokio::spawn(connection::serve(http.clone(), stream, service, opened));
}

/// Answers and closes a connection without reading a request.
fn turn_away(door: &Door, stream: TcpStream, refusal: &Refusal) {
    // The answer fits into the empty buffer of a new socket. A client that is gone needs none.
    let _ = stream.try_write(&refusal.raw());
    // Closed at once, the client's own bytes could destroy the answer on their way.
    if let Some(place) = door.place_to_turn_away() {
        tokio::spawn(async move {
            connection::linger(stream).await;
            drop(place);
        });
    }
}
