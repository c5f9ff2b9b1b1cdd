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

    /// Removes idle clients whose buckets are full again, and traces wrong keys that were not
    /// traced yet.
    pub fn sweep(&self, now: Instant) {
        self.sweep_table(&mut self.table.lock(), now);
        self.trace_wrong_keys(0, now);
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
        let now = Instant::now();
        let table = self.table.lock();
        let most = |used: &dyn Fn(&Client) -> u64| table.values().map(|one| used(one)).max();
        let missing = |bucket: Option<TokenBucket>, level: &Mutex<Level>| {
            bucket.map_or(0, |bucket| bucket.missing(&level.lock(), now).ceil() as u64)
        };
        let connections = |client: &Client| client.connections.load(Ordering::Relaxed) as u64;
        let kib = |client: &Client| client.receiving.load(Ordering::Relaxed).div_ceil(1024) as u64;
        let events = |client: &Client| missing(self.events, &client.events);
        let wrong_keys = |client: &Client| missing(self.wrong_keys, &client.wrong_keys);
        let status = |name, limit, used: Option<u64>, reached: &AtomicU64| LimitStatus {
            name,
            limit,
            used: used.unwrap_or(0),
            reached: reached.load(Ordering::Relaxed),
        };
        let (limits, reached) = (&self.limits, &self.reached);
        vec![
            status(
                "client_connections",
                limits.client_connections.into(),
                most(&connections),
                &reached.connections,
            ),
            status(
                "client_kib",
                limits.client_kib.into(),
                most(&kib),
                &reached.kib,
            ),
            status(
                "client_events",
                limits.client_events.into(),
                most(&events),
                &reached.events,
            ),
            status(
                "wrong_keys",
                limits.wrong_keys.into(),
                most(&wrong_keys),
                &reached.wrong_keys,
            ),
            status(
                "clients",
                MAX_CLIENTS as u64,
                Some(table.len() as u64),
                &reached.table,
            ),
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
