//! Durable ingest over HTTP: the real server, 64 keep-alive clients and a bare `write` + `fdatasync` loop of the
//! same bytes, in turns on the same machine. `cargo bench --bench ingest`
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a bench stops at the first surprise, and prints its numbers"
)]

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

const CLIENTS: usize = 64;
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(6);
/// The same bytes that 64 waiting batches of 100 make, in one write.
const BARE_GROUP_BYTES: usize = CLIENTS * 100 * 300;

/// What the clients send.
#[derive(Clone, Copy)]
struct Load {
    name: &'static str,
    events_per_request: usize,
    /// Requests a second of all clients together; as fast as they are answered if absent.
    paced: Option<f64>,
}

const LOADS: [Load; 4] = [
    Load {
        name: "100 events a request, as fast as answered",
        events_per_request: 100,
        paced: None,
    },
    Load {
        name: "100 events a request, 300,000 events/s offered",
        events_per_request: 100,
        paced: Some(3_000.0),
    },
    Load {
        name: "1 event a request, as fast as answered",
        events_per_request: 1,
        paced: None,
    },
    Load {
        name: "1 event a request, 20,000 events/s offered",
        events_per_request: 1,
        paced: Some(20_000.0),
    },
];

fn main() {
    println!(
        "{CLIENTS} keep-alive clients, fdatasync before each reply, medians of {ROUNDS} rounds of {ROUND:?}"
    );
    for load in LOADS {
        let dir = tempfile::tempdir_in(".").unwrap();
        let server = Server::start(dir.path());
        let at_rest_mb = server.resident_mb();
        let rounds: Vec<Round> = (0..ROUNDS)
            .map(|_| {
                let bare = bare_loop(dir.path(), load.events_per_request);
                server.round(load, bare)
            })
            .collect();
        let median = |of: &dyn Fn(&Round) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[ROUNDS / 2]
        };
        println!(
            "\n{}:\n  {:.0} events/s, p50 {:.1} ms, p99 {:.1} ms (of each round: {})",
            load.name,
            median(&|round| round.events_per_second),
            median(&|round| round.at(0.50)),
            median(&|round| round.at(0.99)),
            rounds
                .iter()
                .map(|round| format!("{:.1}", round.at(0.99)))
                .collect::<Vec<_>>()
                .join(", "),
        );
        println!(
            "  log {:.0} MB/s; bare write + fdatasync loop {:.0} MB/s, p99 {:.1} ms; ratio {:.2}",
            median(&|round| round.log_mb_per_second),
            median(&|round| round.bare.mb_per_second),
            median(&|round| round.bare.p99_ms),
            median(&|round| round.log_mb_per_second / round.bare.mb_per_second),
        );
        println!(
            "  server {at_rest_mb} MB resident at rest, {} MB afterwards",
            server.resident_mb()
        );
    }
}

struct Bare {
    mb_per_second: f64,
    p99_ms: f64,
}

struct Round {
    events_per_second: f64,
    log_mb_per_second: f64,
    bare: Bare,
    /// Sorted, in ms.
    latencies: Vec<f64>,
}

impl Round {
    fn at(&self, share: f64) -> f64 {
        self.latencies[((self.latencies.len() - 1) as f64 * share) as usize]
    }
}

/// MB/s, and p99 in ms, of writes of one size, each followed by `fdatasync`. With one event a request a group is 64 lines.
fn bare_loop(dir: &Path, events_per_request: usize) -> Bare {
    let path = dir.join("bare");
    let mut file = File::create(&path).unwrap();
    let group = vec![b'x'; BARE_GROUP_BYTES * events_per_request / 100];
    let started = Instant::now();
    let mut bytes = 0;
    let mut latencies = Vec::new();
    while started.elapsed() < ROUND / 2 {
        let written = Instant::now();
        file.write_all(&group).unwrap();
        file.sync_data().unwrap();
        bytes += group.len();
        latencies.push(written.elapsed().as_secs_f64() * 1e3);
    }
    latencies.sort_by(f64::total_cmp);
    let p99_ms = latencies[(latencies.len() - 1) * 99 / 100];
    let mb_per_second = bytes as f64 / 1e6 / started.elapsed().as_secs_f64();
    std::fs::remove_file(path).unwrap();
    Bare {
        mb_per_second,
        p99_ms,
    }
}

struct Server {
    child: Child,
    address: String,
    log: std::path::PathBuf,
    next_id: Arc<AtomicU64>,
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
            next_id: Arc::new(AtomicU64::new(0)),
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

    fn round(&self, load: Load, bare: Bare) -> Round {
        let log_before = self.log.metadata().unwrap().len();
        let started = Instant::now();
        let mut latencies = self.load(load);
        let seconds = started.elapsed().as_secs_f64();
        latencies.sort_by(f64::total_cmp);
        Round {
            events_per_second: (latencies.len() * load.events_per_request) as f64 / seconds,
            log_mb_per_second: (self.log.metadata().unwrap().len() - log_before) as f64
                / 1e6
                / seconds,
            bare,
            latencies,
        }
    }

    /// All clients on one thread, so that they take as little as may be from the server's cores: latencies in ms.
    fn load(&self, load: Load) -> Vec<f64> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let next_id = self.next_id.clone();
        runtime.block_on(async {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|number| {
                    tokio::spawn(client(self.address.clone(), load, number, next_id.clone()))
                })
                .collect();
            let mut latencies = Vec::new();
            for client in clients {
                latencies.extend(client.await.unwrap());
            }
            latencies
        })
    }
}

/// Sends batches one after the other, each event with an id of its own, and times the answers in ms. When paced,
/// time counts from when a batch was due, so that a slow answer is not hidden by sending less.
async fn client(address: String, load: Load, number: usize, next_id: Arc<AtomicU64>) -> Vec<f64> {
    let stream = TcpStream::connect(&address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let events_per_request = load.events_per_request;
    let (mut request, id_places) = request(events_per_request);
    let logged = format!("\"logged\":{events_per_request},");
    let interval = load
        .paced
        .map(|rate| Duration::from_secs_f64(CLIENTS as f64 / rate));
    let mut due = Instant::now()
        + interval
            .unwrap_or_default()
            .mul_f64(number as f64 / CLIENTS as f64);
    let stop = Instant::now() + ROUND;
    let mut latencies = Vec::new();
    let mut answer = [0; 4096];
    while Instant::now() < stop {
        if let Some(interval) = interval {
            tokio::time::sleep_until(due.into()).await;
            due += interval;
        }
        let first = next_id.fetch_add(events_per_request as u64, Ordering::Relaxed);
        for (number, place) in id_places.iter().enumerate() {
            write_hex(first + number as u64, &mut request[*place..*place + 12]);
        }
        let sent = interval.map_or_else(Instant::now, |interval| due - interval);
        let mut written = 0;
        while written < request.len() {
            stream.writable().await.unwrap();
            written += stream.try_write(&request[written..]).unwrap_or(0);
        }
        let length = loop {
            stream.readable().await.unwrap();
            if let Ok(length) = stream.try_read(&mut answer) {
                break length;
            }
        };
        latencies.push(sent.elapsed().as_secs_f64() * 1e3);
        let text = std::str::from_utf8(&answer[..length]).unwrap();
        assert!(text.contains(&logged), "{text}");
    }
    latencies
}

fn write_hex(mut number: u64, out: &mut [u8]) {
    for digit in out.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number % 16) as usize];
        number /= 16;
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
