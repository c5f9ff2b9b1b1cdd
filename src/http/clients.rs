//! Limits of each client address, so that no client can use all of the server.
//!
//! No address is stored: the table is keyed by a hash whose random key never leaves the process.
//! IPv6 addresses count by their /64, which is what one customer has.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::warn;

use super::token_bucket::{Level, TokenBucket};
use crate::config::ClientLimits;
use crate::engine::LimitStatus;

/// Clients with an entry of their own. More than that at once are an attack, whose clients then
/// share entries; each entry takes about 150 bytes.
const MAX_CLIENTS: usize = 100_000;
/// Entries that clients share when the table is full.
const COMMON_ENTRIES: u64 = 256;
/// Size of a burst, in seconds of the rate.
const BURST_SECONDS: f64 = 10.0;
/// Shortest time between two traces about wrong keys.
const WRONG_KEYS_TRACE: Duration = Duration::from_secs(60);

/// The table of clients.
pub struct Clients {
    hasher: RandomState,
    table: Mutex<HashMap<u64, Arc<Client>>>,
    limits: ClientLimits,
    events: Option<TokenBucket>,
    wrong_keys: Option<TokenBucket>,
    /// Counters of rejections.
    reached: Reached,
    wrong: WrongKeys,
    /// The use of the limits at the last sweep.
    sampled: Mutex<Used>,
}

/// Use of the limits of clients, of each by the client that uses most.
#[derive(Debug, Clone, Copy, Default)]
struct Used {
    connections: u64,
    kib: u64,
    events: u64,
    wrong_keys: u64,
    /// Clients in the table.
    clients: u64,
}

/// Rejections by limit since the start.
#[derive(Default)]
struct Reached {
    table: AtomicU64,
    connections: AtomicU64,
    kib: AtomicU64,
    events: AtomicU64,
    wrong_keys: AtomicU64,
}

/// The state of one client.
#[derive(Default)]
pub struct Client {
    connections: AtomicUsize,
    /// Bytes of bodies that are being received.
    receiving: AtomicUsize,
    events: Mutex<Level>,
    wrong_keys: Mutex<Level>,
}

#[derive(Default)]
struct WrongKeys {
    all: AtomicU64,
    traced: Mutex<Traced>,
}

#[derive(Default)]
struct Traced {
    untraced: u64,
    at: Option<Instant>,
}

impl Clients {
    /// An empty table, with these limits for each client.
    pub fn new(limits: ClientLimits) -> Self {
        let bucket = |limit: u32, seconds: f64, burst: f64| {
            (limit > 0).then(|| TokenBucket {
                per_second: f64::from(limit) / seconds,
                burst: f64::from(limit) * burst,
            })
        };
        Self {
            hasher: RandomState::new(),
            table: Mutex::default(),
            events: bucket(limits.client_events, 1.0, BURST_SECONDS),
            wrong_keys: bucket(limits.wrong_keys, 60.0, 1.0),
            limits,
            reached: Reached::default(),
            wrong: WrongKeys::default(),
            sampled: Mutex::default(),
        }
    }

    /// The client of an address.
    pub fn of(&self, address: IpAddr) -> Arc<Client> {
        let mut key = self.key(address);
        let mut table = self.table.lock();
        if table.len() >= MAX_CLIENTS && !table.contains_key(&key) {
            self.sweep_table(&mut table, Instant::now());
            if table.len() >= MAX_CLIENTS {
                self.reached.table.fetch_add(1, Ordering::Relaxed);
                key %= COMMON_ENTRIES;
            }
        }
        table.entry(key).or_default().clone()
    }

    fn key(&self, address: IpAddr) -> u64 {
        match address.to_canonical() {
            IpAddr::V4(v4) => self.hasher.hash_one((4, u64::from(v4.to_bits()))),
            IpAddr::V6(v6) => self.hasher.hash_one((6, (v6.to_bits() >> 64) as u64)),
        }
    }

    /// Removes idle clients whose buckets are full again, traces wrong keys that were not traced
    /// yet, and samples the use of the limits.
    pub fn sweep(&self, now: Instant) {
        self.sweep_table(&mut self.table.lock(), now);
        self.trace_wrong_keys(0, now);
        let used = self.used(now);
        *self.sampled.lock() = used;
    }

    fn sweep_table(&self, table: &mut HashMap<u64, Arc<Client>>, now: Instant) {
        // Only the table has a reference, and the table is locked: no other thread can begin to use
        // the client.
        table.retain(|_, client| Arc::strong_count(client) > 1 || !self.is_idle(client, now));
        let spare = table.capacity() > 4 * table.len().max(1_024);
        if spare {
            table.shrink_to_fit();
        }
    }

    fn is_idle(&self, client: &Client, now: Instant) -> bool {
        let is_full = |bucket: Option<TokenBucket>, level: &Mutex<Level>| {
            bucket.is_none_or(|bucket| bucket.missing(&level.lock(), now) == 0.0)
        };
        client.connections.load(Ordering::Relaxed) == 0
            && client.receiving.load(Ordering::Relaxed) == 0
            && is_full(self.events, &client.events)
            && is_full(self.wrong_keys, &client.wrong_keys)
    }

    /// Counts a connection of a client until it is disconnected; false if it has too many.
    pub fn connect(&self, client: &Client) -> bool {
        let taken = take(
            &client.connections,
            1,
            self.limits.client_connections as usize,
        );
        if !taken {
            self.reached.connections.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// Counts a connection as closed.
    pub fn disconnect(&self, client: &Client) {
        client.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts received bytes of a client until they are released; false if it is sending too much
    /// at once.
    pub fn receive(&self, client: &Client, bytes: usize) -> bool {
        let limit = self.limits.client_kib as usize * 1024;
        let taken = take(&client.receiving, bytes, limit);
        if !taken {
            self.reached.kib.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// Releases received bytes.
    pub fn received(&self, client: &Client, bytes: usize) {
        client.receiving.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Takes tokens for the events of a batch.
    ///
    /// # Errors
    /// The time after which the client may send the events.
    pub fn take_events(&self, client: &Client, events: usize) -> Result<(), Duration> {
        let Some(bucket) = self.events else {
            return Ok(());
        };
        bucket
            .take(&mut client.events.lock(), events as f64, Instant::now())
            .inspect_err(|_| {
                self.reached.events.fetch_add(1, Ordering::Relaxed);
            })
    }

    /// Checks that a client may send a key: not after too many wrong ones.
    ///
    /// # Errors
    /// The time after which it may.
    pub fn check_key_attempts(&self, client: &Client) -> Result<(), Duration> {
        let Some(bucket) = self.wrong_keys else {
            return Ok(());
        };
        bucket
            .check(&client.wrong_keys.lock(), Instant::now())
            .inspect_err(|_| {
                self.reached.wrong_keys.fetch_add(1, Ordering::Relaxed);
            })
    }

    /// Counts a wrong key.
    pub fn count_wrong_key(&self, client: &Client) {
        let now = Instant::now();
        if let Some(bucket) = self.wrong_keys {
            // Of concurrent requests more may fail than there are tokens.
            let _ = bucket.take(&mut client.wrong_keys.lock(), 1.0, now);
        }
        self.wrong.all.fetch_add(1, Ordering::Relaxed);
        self.trace_wrong_keys(1, now);
    }

    /// Traces how many keys were wrong: at once, and then at most once a minute. Neither key nor
    /// address is traced.
    fn trace_wrong_keys(&self, more: u64, now: Instant) {
        let mut traced = self.wrong.traced.lock();
        traced.untraced += more;
        let is_due = traced
            .at
            .is_none_or(|at| now.saturating_duration_since(at) >= WRONG_KEYS_TRACE);
        if traced.untraced > 0 && is_due {
            let wrong_keys = std::mem::take(&mut traced.untraced);
            traced.at = Some(now);
            warn!(
                wrong_keys,
                "Rejected {wrong_keys} requests with a wrong dashboard key"
            );
        }
    }

    /// Wrong keys since the start.
    pub fn wrong_keys(&self) -> u64 {
        self.wrong.all.load(Ordering::Relaxed)
    }

    /// The limits of a client; what is used is that of the client that uses most.
    pub fn status(&self) -> Vec<LimitStatus> {
        self.limits(self.used(Instant::now()))
    }

    /// The same with what was used at the last [`Clients::sweep`]. It does not wait for the table.
    pub fn sampled_status(&self) -> Vec<LimitStatus> {
        self.limits(*self.sampled.lock())
    }

    /// The use of the limits now. The table is locked while its clients are listed.
    fn used(&self, now: Instant) -> Used {
        let clients: Vec<Arc<Client>> = self.table.lock().values().cloned().collect();
        let missing = |bucket: Option<TokenBucket>, level: &Mutex<Level>| {
            bucket.map_or(0, |bucket| bucket.missing(&level.lock(), now).ceil() as u64)
        };
        let mut used = Used {
            clients: clients.len() as u64,
            ..Used::default()
        };
        for client in &clients {
            let connections = client.connections.load(Ordering::Relaxed) as u64;
            let kib = client.receiving.load(Ordering::Relaxed).div_ceil(1024) as u64;
            used.connections = used.connections.max(connections);
            used.kib = used.kib.max(kib);
            used.events = used.events.max(missing(self.events, &client.events));
            let wrong_keys = missing(self.wrong_keys, &client.wrong_keys);
            used.wrong_keys = used.wrong_keys.max(wrong_keys);
        }
        used
    }

    fn limits(&self, used: Used) -> Vec<LimitStatus> {
        let (limits, reached) = (&self.limits, &self.reached);
        let status = |name, limit: u32, used, reached: &AtomicU64| LimitStatus {
            name,
            limit: limit.into(),
            used,
            reached: reached.load(Ordering::Relaxed),
        };
        vec![
            status(
                "client_connections",
                limits.client_connections,
                used.connections,
                &reached.connections,
            ),
            status("client_kib", limits.client_kib, used.kib, &reached.kib),
            status(
                "client_events",
                limits.client_events,
                used.events,
                &reached.events,
            ),
            status(
                "wrong_keys",
                limits.wrong_keys,
                used.wrong_keys,
                &reached.wrong_keys,
            ),
            status("clients", MAX_CLIENTS as u32, used.clients, &reached.table),
        ]
    }
}

/// Adds to a count unless it would exceed a limit; 0 means unlimited.
fn take(count: &AtomicUsize, more: usize, limit: usize) -> bool {
    let added = |used: usize| {
        let next = used + more;
        (limit == 0 || next <= limit).then_some(next)
    };
    count
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, added)
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients() -> Clients {
        Clients::new(ClientLimits {
            connections: 10,
            client_connections: 2,
            client_kib: 4,
            client_events: 1,
            wrong_keys: 2,
            write_timeout_ms: 1,
        })
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_client_is_an_address_or_a_network_of_64_bits() {
        let clients = clients();
        let is_same = |a, b| Arc::ptr_eq(&clients.of(address(a)), &clients.of(address(b)));
        assert!(is_same("192.0.2.1", "192.0.2.1"));
        assert!(is_same("192.0.2.1", "::ffff:192.0.2.1"));
        assert!(!is_same("192.0.2.1", "192.0.2.2"));
        assert!(is_same("2001:db8:0:1::1", "2001:db8:0:1:ffff::9"));
        assert!(!is_same("2001:db8:0:1::1", "2001:db8:0:2::1"));
    }

    #[test]
    fn sampled_use_is_that_of_the_last_sweep_and_does_not_wait_for_the_table() {
        let clients = clients();
        let client = clients.of(address("192.0.2.1"));
        assert!(clients.connect(&client) && clients.connect(&client));
        let used = |limits: Vec<LimitStatus>, name: &str| {
            let limit = limits.into_iter().find(|limit| limit.name == name);
            limit.map(|limit| (limit.used, limit.reached))
        };
        let of = "client_connections";
        assert_eq!(used(clients.status(), of), Some((2, 0)));
        assert_eq!(used(clients.sampled_status(), of), Some((0, 0)));
        clients.sweep(Instant::now());
        assert!(!clients.connect(&client));
        let _table = clients.table.lock();
        assert_eq!(used(clients.sampled_status(), of), Some((2, 1)));
        assert_eq!(used(clients.sampled_status(), "clients"), Some((1, 0)));
    }

    #[test]
    fn the_limits_of_one_client_do_not_affect_another() {
        let clients = clients();
        let (first, second) = (
            clients.of(address("192.0.2.1")),
            clients.of(address("192.0.2.2")),
        );
        for _ in 0..2 {
            assert!(clients.connect(&first) && clients.receive(&first, 2_048));
            clients.count_wrong_key(&first);
        }
        assert!(clients.take_events(&first, 10).is_ok());
        assert!(!clients.connect(&first) && !clients.receive(&first, 1));
        assert!(clients.take_events(&first, 1).is_err());
        assert!(clients.check_key_attempts(&first).is_err());
        assert!(clients.connect(&second) && clients.receive(&second, 4_096));
        assert!(clients.take_events(&second, 10).is_ok());
        assert!(clients.check_key_attempts(&second).is_ok());
        clients.disconnect(&first);
        clients.received(&first, 1);
        assert!(clients.connect(&first) && clients.receive(&first, 1));
    }

    #[test]
    fn only_idle_clients_are_removed() {
        let clients = clients();
        let now = Instant::now();
        let count = || clients.table.lock().len();
        drop(clients.of(address("192.0.2.1")));
        let (open, spent) = (
            clients.of(address("192.0.2.2")),
            clients.of(address("192.0.2.3")),
        );
        assert!(clients.connect(&open));
        assert!(clients.take_events(&spent, 5).is_ok());
        drop((open, spent));
        assert_eq!(count(), 3);
        clients.sweep(now);
        assert_eq!(count(), 2);
        clients.sweep(now + Duration::from_secs(6));
        assert_eq!(count(), 1);
        clients.disconnect(&clients.of(address("192.0.2.2")));
        clients.sweep(now + Duration::from_secs(6));
        assert_eq!(count(), 0);
    }

    #[test]
    fn the_table_of_clients_is_bounded() {
        let clients = clients();
        for number in 0..MAX_CLIENTS as u32 + 2_000 {
            let client = clients.of(IpAddr::V4(std::net::Ipv4Addr::from_bits(number)));
            assert!(clients.take_events(&client, 1).is_ok() || number >= MAX_CLIENTS as u32);
        }
        assert!(clients.table.lock().len() <= MAX_CLIENTS + COMMON_ENTRIES as usize);
    }
}
