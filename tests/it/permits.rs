//! Permits for each kind of work, and what happens to work whose client disconnects.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use chrono::{Days, Utc};
use serde_json::json;
use tempfile::TempDir;

use crate::harness::{KEY, Server, engine, event, folder, ingest};
use crate::public_limits::{limit, until};

/// A store in which everything that reads events waits until the FIFO is opened, which replaces a
/// segment. Daily states are intact.
struct HeldStore {
    _dir: TempDir,
    data: PathBuf,
    segment: PathBuf,
}

impl HeldStore {
    fn new() -> Self {
        let dir = folder();
        let data = dir.path().join("data");
        // So long before the newest events that a start does not read its ids.
        let first = Utc::now() - Days::new(20);
        for days in [0, 10, 12] {
            let then = first + Days::new(days);
            let engine = engine(&data, then);
            ingest(&engine, &[event("action", "u", "f")], then);
            engine.store().seal().unwrap();
        }
        let segment = only_file(&data.join(format!("events/dt={}", first.date_naive())));
        std::fs::remove_file(&segment).unwrap();
        let made = Command::new("mkfifo").arg(&segment).status().unwrap();
        assert!(made.success());
        Self {
            _dir: dir,
            data,
            segment,
        }
    }

    /// Lets the readers go on until it is dropped; what they read is not a segment.
    fn release(&self) -> File {
        let mut options = OpenOptions::new();
        options.read(true).write(true).open(&self.segment).unwrap()
    }
}

fn only_file(dir: &Path) -> PathBuf {
    let mut entries = std::fs::read_dir(dir).unwrap();
    entries.next().unwrap().unwrap().path()
}

/// Sends a request with the key and does not wait for the response.
fn send(server: &Server, request: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.url.trim_start_matches("http://")).unwrap();
    write!(
        stream,
        "{request} HTTP/1.1\r\nHost: test\r\nX-Dash-Key: {KEY}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    stream
}

/// Sends queries that read events, as many as there are permits, and waits until all have one.
fn scans(server: &Server) -> Vec<TcpStream> {
    let query = json!({"metric":"event_types","days":30,"filter":{"metadata.plan":"pro"}});
    let query = query.to_string();
    let mut streams = vec![send(
        server,
        "GET /api/analytics/usage?days=30&tz=Europe/Berlin",
        "",
    )];
    streams.extend((1..4).map(|_| send(server, "POST /api/analytics/query", &query)));
    until("the scans run", || limit(server, "queries").1 == 4);
    streams
}

/// Checks that queries of daily states get a response now.
fn states_are_queried(server: &Server) {
    let usage = server.usage("?days=30");
    assert_eq!(usage["total_events"], 3, "{usage}");
    for query in [
        json!({"metric":"active_users","days":30}),
        json!({"metric":"retention","days":30,"start":{"feature":"f"}}),
    ] {
        let (status, body) = server.ask("/api/analytics/query", &query);
        assert_eq!(status, 200, "{body}");
    }
}

#[test]
fn queries_of_states_and_jobs_do_not_wait_for_scans() {
    let store = HeldStore::new();
    let server = Server::start(&store.data);
    let _scans = scans(&server);
    states_are_queried(&server);
    assert_eq!(server.get("/api/analytics/cohorts").0, 200);
    assert_eq!(server.rollup().0, 200);
    // All of them ran while the scans did.
    assert_eq!(limit(&server, "queries"), (4, 4, 0));
    let _released = store.release();
}

#[test]
fn a_query_whose_client_disconnects_is_cancelled_and_returns_its_permit() {
    let store = HeldStore::new();
    let mut server = Server::start(&store.data);
    for stream in scans(&server) {
        stream.shutdown(Shutdown::Both).unwrap();
    }
    server.wait_for_lines("Cancelled a query: its client disconnected", 4);
    let _released = store.release();
    until("the permits are free", || limit(&server, "queries").1 == 0);
}

#[test]
fn a_client_that_disconnects_while_it_waits_for_a_permit_leaves_the_queue() {
    let store = HeldStore::new();
    let server = Server::start(&store.data);
    let scans = scans(&server);
    let query = json!({"metric":"event_types","filter":{"metadata.plan":"pro"}}).to_string();
    let waiting = send(&server, "POST /api/analytics/query", &query);
    until("the query waits", || limit(&server, "connections").1 >= 6);
    waiting.shutdown(Shutdown::Both).unwrap();
    drop(waiting);
    until("it has left", || limit(&server, "connections").1 <= 5);
    // It did not wait until it was rejected.
    assert_eq!(limit(&server, "queries"), (4, 4, 0));
    drop(scans);
    let _released = store.release();
}

#[test]
fn jobs_are_bounded_and_do_not_delay_queries() {
    let store = HeldStore::new();
    let server = Server::start(&store.data);
    let erasures: Vec<TcpStream> = (0..3)
        .map(|_| send(&server, "DELETE /api/analytics/users/u?confirm=3", ""))
        .collect();
    until("two erasures run", || limit(&server, "jobs").1 == 2);
    states_are_queried(&server);
    assert_eq!(limit(&server, "jobs"), (2, 2, 0));
    drop(erasures);
    let _released = store.release();
}

#[test]
fn several_queries_of_a_request_take_one_permit_and_end_with_their_client() {
    let store = HeldStore::new();
    let mut server = Server::start(&store.data);
    let scan = json!({"metric":"event_types","days":30,"filter":{"metadata.plan":"pro"}});
    let state = json!({"metric":"active_users","days":30});
    let body = json!({"queries": [state, scan, scan, scan]}).to_string();
    let stream = send(&server, "POST /api/analytics/queries", &body);
    until("a query runs", || limit(&server, "queries").1 > 0);
    assert_eq!(limit(&server, "queries"), (4, 1, 0));
    stream.shutdown(Shutdown::Both).unwrap();
    server.wait_for_lines("Cancelled a query: its client disconnected", 1);
    let _released = store.release();
    until("the permit is free", || limit(&server, "queries").1 == 0);
}
