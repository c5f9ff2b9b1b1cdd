//! The public door: accepts connections within limits, ends those that must go, and stops.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};
use tracing::{info, warn};

use super::caller::{Caller, forwarded_for};
use super::client::INGEST_PATH;
use super::clients::Clients;
use super::connection;
use super::progress::Progress;
use super::refusal::Refusal;
use super::service::{Peer, Service};
use crate::config::ServeConfig;
use crate::engine::LimitStatus;

/// Time for the head of a request, and how long an idle connection is kept.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
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
/// A connection that waits for a request is not ended sooner for another: its first one may be on its way.
const LEAST_WAIT: Duration = Duration::from_millis(20);
/// Where no connection could be ended for another, none is looked for again for so long: looking costs some 100 µs.
const EVICT_PAUSE: Duration = Duration::from_millis(10);
/// Of so many connections one is ended when there is no room for another. Several at once, so that they are not looked for each time.
const EVICTED_SHARE: usize = 100;
/// Of the descriptors that are kept for files, one of so many is for a connection that was told that there is no room for it: it takes
/// one for a second.
const TURNED_AWAY_SHARE: u64 = 4;
/// Least time between two lines of the trace about connections that cannot be accepted.
const TRACE_INTERVAL: Duration = Duration::from_secs(60);
/// Descriptors that are kept for files where there are enough; otherwise half of them.
const FILES_RESERVED: u64 = 512;

/// What all connections share.
pub struct Door {
    config: ServeConfig,
    clients: Arc<Clients>,
    most: usize,
    connections: Mutex<HashMap<u64, Arc<Progress>>>,
    open: AtomicUsize,
    /// Connections that were asked to end and are still open.
    leaving: AtomicUsize,
    reached: AtomicU64,
    /// When a connection to end was looked for in vain.
    looked: Mutex<Option<Instant>>,
    rejected_origins: AtomicU64,
    phase: watch::Sender<Phase>,
    closed: Notify,
    turned_away: Arc<Semaphore>,
}

/// How far a stop is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Requests are answered.
    Open,
    /// Those that came are still answered.
    Finishing,
    /// Connections end, whatever they do.
    Cut,
}

impl Door {
    /// The door of a server.
    pub fn new(config: &ServeConfig) -> Arc<Self> {
        let wanted = config.limits.connections as usize;
        let (most, reserved) = descriptors(wanted);
        Arc::new(Self {
            clients: Arc::new(Clients::new(config.limits.clone())),
            most,
            config: config.clone(),
            connections: Mutex::default(),
            open: AtomicUsize::new(0),
            leaving: AtomicUsize::new(0),
            reached: AtomicU64::new(0),
            looked: Mutex::default(),
            rejected_origins: AtomicU64::new(0),
            phase: watch::Sender::new(Phase::Open),
            closed: Notify::new(),
            turned_away: Arc::new(Semaphore::new(
                (reserved / TURNED_AWAY_SHARE).max(1) as usize
            )),
        })
    }

    /// The settings of the server.
    pub fn config(&self) -> &ServeConfig {
        &self.config
    }

    /// Whether events are sent to this path.
    pub fn is_ingest_path(&self, path: &str) -> bool {
        path == INGEST_PATH || path == self.config.neutral_path.as_str()
    }

    /// The client of a request: the peer, or whom a trusted proxy names.
    pub fn caller(&self, peer: &Peer, headers: &HeaderMap) -> Caller {
        let named = match peer.is_proxy {
            true => forwarded_for(headers, &self.config.trusted_proxies),
            false => None,
        };
        let client = match named {
            Some(address) => self.clients.of(address),
            None => peer.client.clone(),
        };
        Caller::new(self.clients.clone(), client)
    }

    /// The limits of connections and clients.
    pub fn limits(&self) -> Vec<LimitStatus> {
        let mut limits = vec![LimitStatus {
            name: "connections",
            limit: self.most as u64,
            used: self.open.load(Ordering::Relaxed) as u64,
            reached: self.reached.load(Ordering::Relaxed),
        }];
        limits.extend(self.clients.status());
        limits.push(LimitStatus {
            name: "origins",
            limit: self.config.origins.listed().map_or(0, <[_]>::len) as u64,
            used: self.config.origins.listed().map_or(0, <[_]>::len) as u64,
            reached: self.rejected_origins.load(Ordering::Relaxed),
        });
        limits
    }

    /// Counts events that a page of another origin sent.
    pub fn count_rejected_origin(&self) {
        self.rejected_origins.fetch_add(1, Ordering::Relaxed);
    }

    /// How many keys were wrong since the start.
    pub fn wrong_keys(&self) -> u64 {
        self.clients.wrong_keys()
    }

    /// Follows how far a stop is.
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    fn lock_connections(&self) -> MutexGuard<'_, HashMap<u64, Arc<Progress>>> {
        // A map is whole between two calls.
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is room for another connection, once those that were asked to have ended.
    fn make_room(&self) -> bool {
        let has_room = || {
            let leaving = self.leaving.load(Ordering::Relaxed);
            self.open.load(Ordering::Relaxed).saturating_sub(leaving) < self.most
        };
        if has_room() {
            return true;
        }
        self.reached.fetch_add(1, Ordering::Relaxed);
        self.evict();
        has_room()
    }

    /// How many connections are asked to end at once.
    fn evicted_at_once(&self) -> usize {
        (self.most / EVICTED_SHARE).max(1)
    }

    /// Whether so many are about to end that others wait for them: each still has its descriptor.
    fn is_crowded(&self) -> bool {
        self.leaving.load(Ordering::Relaxed) > self.evicted_at_once()
    }

    /// Asks the connections to end that wait longest for a request.
    fn evict(&self) {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.is_some_and(|at| at.elapsed() < EVICT_PAUSE) {
            return;
        }
        *looked = None;
        let connections = self.lock_connections();
        let mut waiting: Vec<(Duration, &Arc<Progress>)> = connections
            .values()
            .filter(|progress| !progress.is_evicted())
            .filter_map(|progress| Some((progress.waited()?, progress)))
            .filter(|(waited, _)| *waited >= LEAST_WAIT)
            .collect();
        let count = self.evicted_at_once().min(waiting.len());
        if count > 0 && count < waiting.len() {
            waiting.select_nth_unstable_by(count - 1, |(a, _), (b, _)| b.cmp(a));
        }
        if count == 0 {
            *looked = Some(Instant::now());
        }
        for (_, progress) in waiting.iter().take(count) {
            if progress.evict() {
                self.leaving.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// A connection that was asked to end goes on, or has ended.
    pub(super) fn has_left(&self, progress: &Progress) {
        if progress.keep() {
            self.leaving.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// An open connection; it is counted until this is dropped.
pub struct Opened {
    pub door: Arc<Door>,
    pub progress: Arc<Progress>,
    pub peer: Peer,
    id: u64,
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.door.lock_connections().remove(&self.id);
        self.door.has_left(&self.progress);
        if !self.peer.is_proxy {
            self.door.clients.disconnect(&self.peer.client);
        }
        self.door.open.fetch_sub(1, Ordering::Relaxed);
        self.door.closed.notify_one();
    }
}

/// Connections that may be open, and descriptors that stay for everything else: as many connections as are wanted, and as the
/// system has descriptors for beside files.
fn descriptors(wanted: usize) -> (usize, u64) {
    let Ok(descriptors) = rlimit::Resource::NOFILE.get_soft() else {
        return (wanted, FILES_RESERVED);
    };
    let reserved = FILES_RESERVED.min(descriptors / 2);
    let free = usize::try_from(descriptors - reserved).unwrap_or(usize::MAX);
    let most = wanted.min(free).max(1);
    if most < wanted {
        warn!(
            wanted,
            descriptors,
            connections = most,
            "At most {most} connections instead of {wanted}: the system allows {descriptors} open files; raise its limit \
             (ulimit -n, LimitNOFILE)"
        );
    }
    (most, reserved)
}

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
            () = door.closed.notified(), if is_crowded => continue,
            () = tokio::time::sleep(ACCEPT_PAUSE), if is_crowded => continue,
            _ = sweep.tick() => {
                door.clients.sweep(Instant::now());
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
                    warn!(%error, failures, "Cannot accept a connection ({failures} times): {error}");
                    (traced, failures) = (Some(Instant::now()), 0);
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listeners);
    info!("Stopping: no new connections, open requests finish");
    door.phase.send_replace(Phase::Finishing);
    if !door.wait_until_closed(FINISH_TIMEOUT).await {
        warn!("Some requests did not finish in time and were cut off");
        door.phase.send_replace(Phase::Cut);
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

impl Door {
    /// Waits until no connection is open; false if some still are.
    async fn wait_until_closed(&self, timeout: Duration) -> bool {
        let closed = async {
            while self.open.load(Ordering::Relaxed) > 0 {
                self.closed.notified().await;
            }
        };
        tokio::time::timeout(timeout, closed).await.is_ok()
    }
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
    let address = address.ip();
    let peer = Peer {
        client: door.clients.of(address),
        is_proxy: door.config.trusted_proxies.contain(address),
    };
    if !peer.is_proxy && !door.clients.connect(&peer.client) {
        let refusal = Refusal::too_many(
            "too_many_connections",
            "this client has too many connections",
            Duration::from_secs(1),
        );
        return turn_away(door, stream, &refusal);
    }
    if !door.make_room() {
        if !peer.is_proxy {
            door.clients.disconnect(&peer.client);
        }
        let refusal = Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "busy",
            "the server has too many connections; try again in a second",
        );
        return turn_away(door, stream, &refusal);
    }
    let progress = Arc::new(Progress::new());
    door.open.fetch_add(1, Ordering::Relaxed);
    door.lock_connections().insert(id, progress.clone());
    let service = Service {
        router: router.clone(),
        door: door.clone(),
        progress: progress.clone(),
        peer: peer.clone(),
    };
    let opened = Opened {
        door: door.clone(),
        progress,
        peer,
        id,
    };
    tokio::spawn(connection::serve(http.clone(), stream, service, opened));
}

/// Answers and closes a connection without reading a request.
fn turn_away(door: &Door, stream: TcpStream, refusal: &Refusal) {
    // The answer fits into the empty buffer of a new socket. A client that is gone needs none.
    let _ = stream.try_write(&refusal.raw());
    // Closed at once, the client's own bytes could destroy the answer on their way.
    if let Ok(place) = door.turned_away.clone().try_acquire_owned() {
        tokio::spawn(async move {
            connection::linger(stream).await;
            drop(place);
        });
    }
}
