//! Limits of the public interface: open connections, the eviction of idle ones, clients, visitors,
//! and the phases of a shutdown.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use chrono::Utc;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tracing::warn;

use super::caller::{self, Caller, Peer, forwarded_for};
use super::clients::Clients;
use super::connection_state::ConnectionState;
use super::error_response::ErrorResponse;
use super::path::INGEST_PATH;
use crate::config::{ServeConfig, VisitorIds};
use crate::daily::day_of;
use crate::engine::LimitStatus;
use crate::error::ErrorCode;
use crate::monitoring::Monitoring;
use crate::visitors::{Visitor, Visitors};

/// Time for the head of a request, and after which an idle connection is closed.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// An idle connection is not closed sooner for another one: its first request may be in flight.
const LEAST_WAIT: Duration = Duration::from_millis(20);
/// Pause after a search for idle connections that found none: a search takes about 100 µs.
const EVICT_PAUSE: Duration = Duration::from_millis(10);
/// One of so many connections is closed when the limit is reached. Closing several at once saves
/// searches.
const EVICTED_SHARE: usize = 100;
/// Share of the descriptors reserved for files that rejected connections may take: each takes one
/// for a second.
const REJECTED_SHARE: u64 = 4;
/// Descriptors reserved for files where there are enough; otherwise half of all.
const FILES_RESERVED: u64 = 512;

/// Headers by which a visitor asks not to be recognized.
const PRIVACY_SIGNALS: [&str; 2] = ["sec-gpc", "dnt"];

/// Limits that all connections share, and the phase of the server.
pub struct PublicLimits {
    config: ServeConfig,
    clients: Arc<Clients>,
    most: usize,
    connections: Mutex<HashMap<u64, Arc<ConnectionState>>>,
    open: AtomicUsize,
    /// Connections that were asked to close and are still open.
    closing: AtomicUsize,
    reached: AtomicU64,
    /// The time of the last search that found no idle connection.
    looked: Mutex<Option<Instant>>,
    rejected_origins: AtomicU64,
    phase: watch::Sender<Phase>,
    closed: Notify,
    rejected: Arc<Semaphore>,
    monitoring: Arc<Monitoring>,
    /// The ids of visitors; none if these are anonymous.
    visitors: Option<Arc<Visitors>>,
}

/// Phase of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Requests are served.
    Open,
    /// Open requests are finished.
    Finishing,
    /// All connections are closed.
    Cut,
}

impl PublicLimits {
    /// The limits of a server with these settings.
    pub fn new(config: &ServeConfig, monitoring: Arc<Monitoring>) -> Arc<Self> {
        let wanted = config.limits.connections as usize;
        let (most, reserved) = descriptors(wanted);
        Arc::new(Self {
            clients: Arc::new(Clients::new(config.limits.clone())),
            most,
            config: config.clone(),
            connections: Mutex::default(),
            open: AtomicUsize::new(0),
            closing: AtomicUsize::new(0),
            reached: AtomicU64::new(0),
            looked: Mutex::default(),
            rejected_origins: AtomicU64::new(0),
            phase: watch::Sender::new(Phase::Open),
            closed: Notify::new(),
            rejected: Arc::new(Semaphore::new((reserved / REJECTED_SHARE).max(1) as usize)),
            monitoring,
            visitors: (config.visitors == VisitorIds::Daily).then(Arc::default),
        })
    }

    /// The settings of the server.
    pub fn config(&self) -> &ServeConfig {
        &self.config
    }

    /// Returns true if this path takes events.
    pub fn is_ingest_path(&self, path: &str) -> bool {
        path == INGEST_PATH || path == self.config.neutral_path.as_str()
    }

    /// The client of a request: the peer, or the one that a trusted proxy names.
    pub fn caller(&self, peer: &Peer, head: &Parts) -> Caller {
        let named = if peer.is_proxy {
            forwarded_for(&head.headers, &self.config.trusted_proxies)
        } else {
            None
        };
        let client = match named {
            Some(address) => self.clients.of(address),
            None => peer.client.clone(),
        };
        let is_local = caller::is_local(peer, head);
        let address = named.or((!peer.is_proxy).then_some(peer.address));
        Caller::new(self.clients.clone(), client, is_local).with_address(address)
    }

    /// The visitor who sends a request, for its events without a user; none if visitors are
    /// anonymous, or this one asks to be.
    pub fn visitor(&self, head: &Parts) -> Option<Visitor> {
        let visitors = self.visitors.as_ref()?;
        let address = head.extensions.get::<Caller>()?.address()?;
        let has_signal = |name: &str| {
            let mut values = head.headers.get_all(name).iter();
            values.any(|value| value.as_bytes().trim_ascii() == b"1")
        };
        if PRIVACY_SIGNALS.into_iter().any(has_signal) {
            return None;
        }
        let agent = head.headers.get(header::USER_AGENT);
        Some(visitors.visitor(address, agent.map_or(b"", |agent| agent.as_bytes())))
    }

    /// The limits of connections and clients, for the status.
    pub fn status(&self) -> Vec<LimitStatus> {
        self.limits(self.clients.status())
    }

    /// The same, with the use of the limits of clients as of the last [`PublicLimits::sweep`].
    pub fn sampled_status(&self) -> Vec<LimitStatus> {
        self.limits(self.clients.sampled_status())
    }

    fn limits(&self, of_clients: Vec<LimitStatus>) -> Vec<LimitStatus> {
        let mut limits = vec![LimitStatus {
            name: "connections",
            limit: self.most as u64,
            used: self.open.load(Ordering::Relaxed) as u64,
            reached: self.reached.load(Ordering::Relaxed),
        }];
        limits.extend(of_clients);
        limits.push(LimitStatus {
            name: "origins",
            limit: self.config.origins.listed().map_or(0, <[_]>::len) as u64,
            used: self.config.origins.listed().map_or(0, <[_]>::len) as u64,
            reached: self.rejected_origins.load(Ordering::Relaxed),
        });
        limits
    }

    /// Counts a request of a page whose origin is not allowed.
    pub fn count_rejected_origin(&self) {
        self.rejected_origins.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an error response.
    pub fn count_error(&self, code: ErrorCode) {
        self.monitoring.errors.count(code.into(), 1);
    }

    /// Wrong keys since the start.
    pub fn wrong_keys(&self) -> u64 {
        self.clients.wrong_keys()
    }

    /// Subscribes to the phase.
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Returns true if another connection fits, once those that were asked to close have done so.
    fn make_space(&self) -> bool {
        let has_space = || {
            let closing = self.closing.load(Ordering::Relaxed);
            self.open.load(Ordering::Relaxed).saturating_sub(closing) < self.most
        };
        if has_space() {
            return true;
        }
        self.reached.fetch_add(1, Ordering::Relaxed);
        self.evict();
        has_space()
    }

    /// The number of connections that are asked to close at once.
    fn evicted_at_once(&self) -> usize {
        (self.most / EVICTED_SHARE).max(1)
    }

    /// Returns true while so many connections are closing that accepting has to wait: each still
    /// has its descriptor.
    pub fn is_crowded(&self) -> bool {
        self.closing.load(Ordering::Relaxed) > self.evicted_at_once()
    }

    /// Asks the connections that are idle for longest to close.
    fn evict(&self) {
        let mut looked = self.looked.lock();
        if looked.is_some_and(|at| at.elapsed() < EVICT_PAUSE) {
            return;
        }
        *looked = None;
        let connections = self.connections.lock();
        let mut waiting: Vec<(Duration, &Arc<ConnectionState>)> = connections
            .values()
            .filter(|state| !state.is_evicted())
            .filter_map(|state| Some((state.waited()?, state)))
            .filter(|(waited, _)| *waited >= LEAST_WAIT)
            .collect();
        let count = self.evicted_at_once().min(waiting.len());
        if count > 0 && count < waiting.len() {
            waiting.select_nth_unstable_by(count - 1, |(a, _), (b, _)| b.cmp(a));
        }
        if count == 0 {
            *looked = Some(Instant::now());
        }
        for (_, state) in waiting.iter().take(count) {
            if state.evict() {
                self.closing.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// A connection that was asked to close stays open, or has closed.
    pub(super) fn has_closed(&self, state: &ConnectionState) {
        if state.keep() {
            self.closing.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// An open connection, which is counted until this is dropped.
pub struct OpenConnection {
    pub public_limits: Arc<PublicLimits>,
    pub state: Arc<ConnectionState>,
    pub peer: Peer,
    id: u64,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.public_limits.connections.lock().remove(&self.id);
        self.public_limits.has_closed(&self.state);
        if !self.peer.is_proxy {
            self.public_limits.clients.disconnect(&self.peer.client);
        }
        self.public_limits.open.fetch_sub(1, Ordering::Relaxed);
        self.public_limits.closed.notify_one();
    }
}

/// The number of connections that may be open, and of descriptors reserved for everything else: the
/// wanted number, or fewer if the system has fewer descriptors.
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

impl PublicLimits {
    /// Counts a connection from an address under an id of its own.
    ///
    /// # Errors
    /// 429 or 503 if the client or all clients together have too many.
    pub fn open(
        self: &Arc<Self>,
        address: IpAddr,
        id: u64,
    ) -> Result<OpenConnection, ErrorResponse> {
        let peer = Peer {
            client: self.clients.of(address),
            is_proxy: self.config.trusted_proxies.contain(address),
            is_loopback: address.to_canonical().is_loopback(),
            address,
        };
        if !peer.is_proxy && !self.clients.connect(&peer.client) {
            return Err(ErrorResponse::too_many(
                ErrorCode::TooManyConnections,
                "this client has too many connections",
                Duration::from_secs(1),
            ));
        }
        if !self.make_space() {
            if !peer.is_proxy {
                self.clients.disconnect(&peer.client);
            }
            return Err(ErrorResponse::new(
                StatusCode::SERVICE_UNAVAILABLE,
                ErrorCode::Busy,
                "the server has too many connections; try again in a second",
            ));
        }
        let state = Arc::new(ConnectionState::new());
        self.open.fetch_add(1, Ordering::Relaxed);
        self.connections.lock().insert(id, state.clone());
        Ok(OpenConnection {
            public_limits: self.clone(),
            state,
            peer,
            id,
        })
    }

    /// A permit for a rejected connection to stay open until its response is read.
    pub fn rejection_permit(&self) -> Option<OwnedSemaphorePermit> {
        self.rejected.clone().try_acquire_owned().ok()
    }

    /// Resolves when a connection was closed.
    pub async fn one_closed(&self) {
        self.closed.notified().await;
    }

    /// Removes idle clients from the table, and the keys of visitors of earlier days.
    pub fn sweep(&self) {
        self.clients.sweep(Instant::now());
        if let Some(visitors) = &self.visitors {
            visitors.forget_before(day_of(Utc::now().timestamp_micros()));
        }
    }

    /// Sets the phase.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Waits until no connection is open; false if some are after `timeout`.
    pub async fn wait_until_closed(&self, timeout: Duration) -> bool {
        let closed = async {
            while self.open.load(Ordering::Relaxed) > 0 {
                self.closed.notified().await;
            }
        };
        tokio::time::timeout(timeout, closed).await.is_ok()
    }
}
