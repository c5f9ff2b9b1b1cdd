//! Durable ingest over HTTP: the real server, 64 keep-alive clients and a bare `write` + `fdatasync` loop of the
//! same bytes, in turns on the same machine. `cargo bench --bench ingest`
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a bench stops at the first surprise, and prints its numbers"
)]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const CLIENTS: usize = 64;
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(6);
/// The same bytes that 64 waiting batches of 100 make, in one write.
const BARE_GROUP_BYTES: usize = CLIENTS * 100 * 300;

fn main() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let server = Server::start(dir.path());
    println!("server at rest: {} MB resident", server.resident_mb());
    println!(
        "{CLIENTS} keep-alive clients, fdatasync before each reply, {ROUNDS} rounds of {ROUND:?}, medians\n"
    );
    for events_per_request in [100, 1] {
        let mut rounds: Vec<Round> = (0..ROUNDS)
            .map(|_| {
                let bare = bare_loop(dir.path(), events_per_request);
                server.round(events_per_request, bare)
            })
            .collect();
        rounds.sort_by(|a, b| a.events_per_second.total_cmp(&b.events_per_second));
        let median = &rounds[ROUNDS / 2];
        println!(
            "{events_per_request:>3} events a request: {:>9.0} events/s  {:>7.0} requests/s  p50 {:>5.1} ms  p99 {:>5.1} ms  max {:>6.1} ms",
            median.events_per_second,
            median.events_per_second / events_per_request as f64,
            median.at(0.50),
            median.at(0.99),
            median.at(1.0),
        );
        println!(
            "                      log {:>5.0} MB/s, bare write+fdatasync loop {:>5.0} MB/s, ratio {:.2}",
            median.log_mb_per_second,
            median.bare_mb_per_second,
            median.log_mb_per_second / median.bare_mb_per_second
        );
    }
    println!(
        "\nserver after the load: {} MB resident",
        server.resident_mb()
    );
}

struct Round {
    events_per_second: f64,
    log_mb_per_second: f64,
    bare_mb_per_second: f64,
    /// Sorted, in ms.
    latencies: Vec<f64>,
}

impl Round {
    fn at(&self, share: f64) -> f64 {
        self.latencies[((self.latencies.len() - 1) as f64 * share) as usize]
    }
}

/// MB/s of writes of one size, each followed by `fdatasync`. With one event a request a group is 64 lines.
fn bare_loop(dir: &Path, events_per_request: usize) -> f64 {
    let path = dir.join("bare");
    let mut file = File::create(&path).unwrap();
    let group = vec![b'x'; BARE_GROUP_BYTES * events_per_request / 100];
    let started = Instant::now();
    let mut bytes = 0;
    while started.elapsed() < ROUND / 2 {
        file.write_all(&group).unwrap();
        file.sync_data().unwrap();
        bytes += group.len();
    }
    let rate = bytes as f64 / 1e6 / started.elapsed().as_secs_f64();
    std::fs::remove_file(path).unwrap();
    rate
}

struct Server {
    child: Child,
    address: String,
    log: std::path::PathBuf,
    next_id: AtomicU64,
}

impl Server {
    fn start(dir: &Path) -> Self {
        let data = dir.join("data");
        let mut child = Command::new(env!("CARGO_BIN_EXE_echopilot"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(&data)
            .env("ECHOPILOT_LOG", "warn")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = loop {
            let line = lines.next().unwrap().unwrap();
            if let Some((_, address)) = line.split_once("answers at http://") {
                break address.to_owned();
            }
        };
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            child,
            address,
            log: data.join("analytics_events.ndjson"),
            next_id: AtomicU64::new(0),
        }
    }

    fn resident_mb(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS"))
            .unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
            / 1024
    }

    fn round(&self, events_per_request: usize, bare_mb_per_second: f64) -> Round {
        let stop = AtomicBool::new(false);
        let log_before = self.log.metadata().unwrap().len();
        let started = Instant::now();
        let mut latencies: Vec<f64> = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|_| scope.spawn(|| self.client(events_per_request, &stop)))
                .collect();
            std::thread::sleep(ROUND);
            stop.store(true, Ordering::Relaxed);
            clients
                .into_iter()
                .flat_map(|client| client.join().unwrap())
                .collect()
        });
        let seconds = started.elapsed().as_secs_f64();
        latencies.sort_by(f64::total_cmp);
        Round {
            events_per_second: (latencies.len() * events_per_request) as f64 / seconds,
            log_mb_per_second: (self.log.metadata().unwrap().len() - log_before) as f64
                / 1e6
                / seconds,
            bare_mb_per_second,
            latencies,
        }
    }

    /// Sends batches one after the other, each event with an id of its own, and times the answers in ms.
    fn client(&self, events_per_request: usize, stop: &AtomicBool) -> Vec<f64> {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        let (mut request, id_places) = request(events_per_request);
        let mut latencies = Vec::new();
        let mut answer = [0; 4096];
        while !stop.load(Ordering::Relaxed) {
            let first = self
                .next_id
                .fetch_add(events_per_request as u64, Ordering::Relaxed);
            for (number, place) in id_places.iter().enumerate() {
                let id = format!("{:012x}", first + number as u64);
                request[*place..*place + 12].copy_from_slice(id.as_bytes());
            }
            let sent = Instant::now();
            stream.write_all(&request).unwrap();
            let length = stream.read(&mut answer).unwrap();
            latencies.push(sent.elapsed().as_secs_f64() * 1e3);
            let text = std::str::from_utf8(&answer[..length]).unwrap();
            assert!(
                text.contains(&format!("\"logged\":{events_per_request},")),
                "{text}"
            );
        }
        latencies
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// A request of some events of about 240 bytes each, and where the last 12 digits of each event's id are.
fn request(events: usize) -> (Vec<u8>, Vec<usize>) {
    let now = chrono::Utc::now().format("%Y-%m-%dT%H:%M:%S%.3fZ");
    let listed: Vec<String> = (0..events)
        .map(|number| {
            format!(
                r#"{{"event_type":"action","user_id":"user_{:06}","feature":"workflow_builder_share","event_id":"0197a6f0-7c1e-7d2a-9f00-############","ts":"{now}","url":"/workflow_builder/share","metadata":{{"platform":"web","plan":"pro"}}}}"#,
                number * 7919 % 100_000
            )
        })
        .collect();
    let body = format!(r#"{{"events":[{}]}}"#, listed.join(","));
    let request = format!(
        "POST /api/analytics/event HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let places = request
        .match_indices("############")
        .map(|(at, _)| at)
        .collect();
    (request.into_bytes(), places)
}
