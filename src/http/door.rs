//! The public door: how many connections may be open, which must go for others, and how far a stop is.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, StatusCode};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tracing::warn;

use super::caller::{Caller, Peer, forwarded_for};
use super::clients::Clients;
use super::path::INGEST_PATH;
use super::progress::Progress;
use super::refusal::Refusal;
use crate::config::ServeConfig;
use crate::engine::LimitStatus;

/// Time for the head of a request, and how long an idle connection is kept.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that waits for a request is not ended sooner for another: its first one may be on its way.
const LEAST_WAIT: Duration = Duration::from_millis(20);
/// Where no connection could be ended for another, none is looked for again for so long: looking costs some 100 µs.
const EVICT_PAUSE: Duration = Duration::from_millis(10);
/// Of so many connections one is ended when there is no room for another. Several at once, so that they are not looked for each time.
const EVICTED_SHARE: usize = 100;
/// Of the descriptors that are kept for files, one of so many is for a connection that was told that there is no room for it: it takes
/// one for a second.
const TURNED_AWAY_SHARE: u64 = 4;
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
    pub fn is_crowded(&self) -> bool {
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

impl Door {
    /// Counts a connection from an address, under a number of its own; or says why it cannot be served.
    ///
    /// # Errors
    /// If the client or all clients together have too many.
    pub fn open(self: &Arc<Self>, address: IpAddr, id: u64) -> Result<Opened, Refusal> {
        let peer = Peer {
            client: self.clients.of(address),
            is_proxy: self.config.trusted_proxies.contain(address),
        };
        if !peer.is_proxy && !self.clients.connect(&peer.client) {
            return Err(Refusal::too_many(
                "too_many_connections",
                "this client has too many connections",
                Duration::from_secs(1),
            ));
        }
        if !self.make_room() {
            if !peer.is_proxy {
                self.clients.disconnect(&peer.client);
            }
            return Err(Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "busy",
                "the server has too many connections; try again in a second",
            ));
        }
        let progress = Arc::new(Progress::new());
        self.open.fetch_add(1, Ordering::Relaxed);
        self.lock_connections().insert(id, progress.clone());
        Ok(Opened {
            door: self.clone(),
            progress,
            peer,
            id,
        })
    }

    /// A place among connections that are turned away and still open, if there is one.
    pub fn place_to_turn_away(&self) -> Option<OwnedSemaphorePermit> {
        self.turned_away.clone().try_acquire_owned().ok()
    }

    /// Resolves when a connection has ended.
    pub async fn one_closed(&self) {
        self.closed.notified().await;
    }

    /// Forgets clients that use nothing.
    pub fn sweep(&self) {
        self.clients.sweep(Instant::now());
    }

    /// Says how far a stop is.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Waits until no connection is open; false if some still are.
    pub async fn wait_until_closed(&self, timeout: Duration) -> bool {
        let closed = async {
            while self.open.load(Ordering::Relaxed) > 0 {
                self.closed.notified().await;
            }
        };
        tokio::time::timeout(timeout, closed).await.is_ok()
    }
}
