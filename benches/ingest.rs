//! Durable ingest over HTTP while the log is sealed repeatedly: the real server with 64 keep-alive
//! clients, and a bare `write` + `fdatasync` loop of the same bytes, in turns on the same machine.
//! `cargo bench --bench ingest`, with a part of a load's name for that load alone; with `--plain`
//! for events without ids, and `--segment` or `--posthog` for those of other products' clients.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a bench stops at the first error, and prints its numbers"
)]

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use echopilot_analytics::event::{self, Outcome};
use tokio::net::TcpStream;

const CLIENTS: usize = 64;
const KEY: &str = "a-key-for-the-bench";
const ROUNDS: usize = 5;
const BARE_ROUND: Duration = Duration::from_secs(3);

/// The events that clients send.
#[derive(Clone, Copy)]
enum EventKind {
    /// As the browser client of a site sends them.
    AsSent,
    /// Without ids, with two metadata keys.
    Plain,
    /// Calls of `track` as `@segment/analytics-node` sends them.
    Segment,
    /// Events as `posthog-node` sends them.
    Posthog,
}

impl EventKind {
    fn wanted() -> Self {
        let is_given = |name: &str| std::env::args().any(|given| given == name);
        match () {
            () if is_given("--plain") => Self::Plain,
            () if is_given("--segment") => Self::Segment,
            () if is_given("--posthog") => Self::Posthog,
            () => Self::AsSent,
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::AsSent | Self::Plain => "/api/analytics/event",
            Self::Segment => "/v1/batch",
            Self::Posthog => "/batch/",
        }
    }

    /// A part of the response to some events that were stored.
    fn stored(self, events: usize) -> String {
        match self {
            Self::AsSent | Self::Plain => format!("\"logged\":{events},"),
            Self::Segment => "\"success\":true".into(),
            Self::Posthog => "\"status\":\"Ok\"".into(),
        }
    }

    /// The kind whose lines of the log are known.
    fn logged(self) -> Self {
        match self {
            Self::Segment | Self::Posthog => Self::AsSent,
            own => own,
        }
    }
}

/// The load of the clients.
#[derive(Clone, Copy)]
struct Load {
    name: &'static str,
    events_per_request: usize,
    /// Requests per second of all clients together; if absent, each client sends the next request
    /// after the response.
    paced: Option<f64>,
}

/// Long enough that the log is sealed repeatedly.
const ROUND: Duration = Duration::from_secs(6);

const LOADS: [Load; 4] = [
    Load {
        name: "100 events a request, closed loop",
        events_per_request: 100,
        paced: None,
    },
    Load {
        name: "100 events a request, 310,000 events/s offered",
        events_per_request: 100,
        paced: Some(3_100.0),
    },
    Load {
        name: "1 event a request, closed loop",
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
        "{CLIENTS} keep-alive clients, fdatasync before each reply, medians of {ROUNDS} rounds, each on a new server"
    );
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|name| !name.starts_with("--"))
        .collect();
    let kind = EventKind::wanted();
    let is_wanted = |load: &Load| wanted.iter().all(|part| load.name.contains(part));
    for load in LOADS.into_iter().filter(is_wanted) {
        let rounds: Vec<Round> = (0..ROUNDS)
            .map(|_| {
                let dir = tempfile::tempdir_in(".").unwrap();
                let bare = bare_loop(dir.path(), kind, load.events_per_request);
                Server::start(dir.path()).round(kind, load, bare)
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
        if !matches!(kind, EventKind::AsSent | EventKind::Plain) {
            continue;
        }
        println!(
            "  log {:.0} MB/s; bare write + fdatasync loop {:.0} MB/s, p99 {:.1} ms; ratio {:.2}",
            median(&|round| round.log_mb_per_second),
            median(&|round| round.bare.mb_per_second),
            median(&|round| round.bare.p99_ms),
            median(&|round| round.log_mb_per_second / round.bare.mb_per_second),
        );
        println!(
            "  usage of a year meanwhile: p50 {:.1} ms, p95 {:.1} ms",
            median(&|round| at(&round.usage_latencies, 0.50)),
            median(&|round| at(&round.usage_latencies, 0.95)),
        );
        println!(
            "  server {} MB resident at rest, {} MB afterwards",
            median(&|round| round.at_rest_mb as f64),
            median(&|round| round.afterwards_mb as f64)
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
    /// Latencies of the queries meanwhile; sorted, in ms.
    usage_latencies: Vec<f64>,
    at_rest_mb: u64,
    afterwards_mb: u64,
}

impl Round {
    fn at(&self, share: f64) -> f64 {
        at(&self.latencies, share)
    }
}

/// The quantile of sorted values.
fn at(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}

/// Measures writes of one size, each followed by `fdatasync`: the lines of one request of each
/// client.
fn bare_loop(dir: &Path, kind: EventKind, events_per_request: usize) -> Bare {
    let path = dir.join("bare");
    let mut file = File::create(&path).unwrap();
    let group = vec![b'x'; CLIENTS * events_per_request * line_bytes(kind.logged()) as usize];
    let started = Instant::now();
    let mut bytes = 0;
    let mut latencies = Vec::new();
    while started.elapsed() < BARE_ROUND {
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
    next_id: Arc<AtomicU64>,
}

impl Server {
    fn start(dir: &Path) -> Self {
        let data = dir.join("data");
        let mut child = Command::new(env!("CARGO_BIN_EXE_echopilot"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(&data)
            .env("ECHOPILOT_DASH_KEY", KEY)
            // All clients have the same address.
            .env("ECHOPILOT_LIMIT_CLIENT_EVENTS", "0")
            .env(
                "ECHOPILOT_LOG",
                std::env::var("ECHOPILOT_LOG").unwrap_or("warn".into()),
            )
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = loop {
            let line = lines.next().unwrap().unwrap();
            if let Some((_, address)) = line.split_once(" http://") {
                break address.to_owned();
            }
        };
        let traces = std::env::var_os("ECHOPILOT_LOG").is_some();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok).filter(|_| traces) {
                eprintln!("{line}");
            }
        });
        Self {
            child,
            address,
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

    fn round(&self, kind: EventKind, load: Load, bare: Bare) -> Round {
        let at_rest_mb = self.resident_mb();
        let started = Instant::now();
        let stop = AtomicBool::new(false);
        let (mut latencies, usage_latencies) = std::thread::scope(|scope| {
            let queries = scope.spawn(|| self.query_usage(&stop));
            let latencies = self.load(kind, load);
            stop.store(true, Ordering::Relaxed);
            (latencies, queries.join().unwrap())
        });
        let seconds = started.elapsed().as_secs_f64();
        assert_eq!(self.events(), latencies.len() * load.events_per_request);
        latencies.sort_by(f64::total_cmp);
        let events_per_second = (latencies.len() * load.events_per_request) as f64 / seconds;
        Round {
            events_per_second,
            log_mb_per_second: events_per_second * line_bytes(kind.logged()) / 1e6,
            bare,
            latencies,
            usage_latencies,
            at_rest_mb,
            afterwards_mb: self.resident_mb(),
        }
    }

    /// The events that were stored.
    fn events(&self) -> usize {
        let url = format!("http://{}/api/analytics/usage?days=2", self.address);
        let response = ureq::get(&url).header("x-dash-key", KEY).call().unwrap();
        let usage = response.into_body().read_to_string().unwrap();
        let usage: serde_json::Value = serde_json::from_str(&usage).unwrap();
        usage["total_events"].as_u64().unwrap() as usize
    }

    /// Queries usage of a year periodically; latencies in ms.
    fn query_usage(&self, stop: &AtomicBool) -> Vec<f64> {
        let url = format!("http://{}/api/analytics/usage?days=365", self.address);
        let mut latencies = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let started = Instant::now();
            let response = ureq::get(&url).header("x-dash-key", KEY).call().unwrap();
            response.into_body().read_to_string().unwrap();
            latencies.push(started.elapsed().as_secs_f64() * 1e3);
            // The pace of the queries, which must not take much of the machine.
            std::thread::sleep(Duration::from_millis(50));
        }
        latencies.sort_by(f64::total_cmp);
        latencies
    }

    /// Runs all clients on one thread, so that they take little of the server's cores; latencies
    /// in ms.
    fn load(&self, kind: EventKind, load: Load) -> Vec<f64> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let next_id = self.next_id.clone();
        runtime.block_on(async {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|number| {
                    let address = self.address.clone();
                    tokio::spawn(client(address, kind, load, number, next_id.clone()))
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

/// Sends batches sequentially, with a unique id for each event; latencies in ms. If paced, a
/// latency begins when the batch was due, so that a slow response is not hidden by sending less.
async fn client(
    address: String,
    kind: EventKind,
    load: Load,
    number: usize,
    next_id: Arc<AtomicU64>,
) -> Vec<f64> {
    let stream = TcpStream::connect(&address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let events_per_request = load.events_per_request;
    let (mut request, id_places) = request(kind, number, events_per_request);
    let stored = kind.stored(events_per_request);
    let interval = load
        .paced
        .map(|rate| Duration::from_secs_f64(CLIENTS as f64 / rate));
    let mut due = Instant::now()
        + interval
            .unwrap_or_default()
            .mul_f64(number as f64 / CLIENTS as f64);
    let stop = Instant::now() + ROUND;
    let mut latencies = Vec::new();
    let mut response = [0; 4096];
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
            if let Ok(length) = stream.try_read(&mut response) {
                break length;
            }
        };
        latencies.push(sent.elapsed().as_secs_f64() * 1e3);
        let response = std::str::from_utf8(&response[..length]).unwrap();
        assert!(response.contains(&stored), "{response}");
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

/// Size of one event of a request in the log, in bytes.
fn line_bytes(kind: EventKind) -> f64 {
    let (request, _) = request(kind, 0, 1);
    let start = request
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap()
        + 4;
    let now_us = chrono::Utc::now().timestamp_micros();
    let batch = event::read_batch(&request[start..]).unwrap();
    let mut line = Vec::new();
    for raw in batch.events {
        match raw.validate(now_us, 0) {
            Outcome::Accepted(event, _) => event::write_line(&event, &mut line),
            other => panic!("{other:?}"),
        }
    }
    line.len() as f64
}

/// A request of some events, and the positions of the last 12 digits of each event's id. Plain
/// events have no ids.
fn request(kind: EventKind, client: usize, events: usize) -> (Vec<u8>, Vec<usize>) {
    let now = chrono::Utc::now();
    let ms = format!("{:012x}", now.timestamp_millis());
    let (ms, end_of_ms) = ms.split_at(8);
    let ts = now.format("%Y-%m-%dT%H:%M:%S%.3fZ");
    let listed: Vec<String> = (0..events)
        .map(|number| {
            let user = (client * events + number) * 7919 % 100_000;
            let common = format!(
                r#""event_type":"action","user_id":"user_{user:06}","feature":"workflow_builder_share","ts":"{ts}""#
            );
            let id = format!("{ms}-{end_of_ms}-7000-9f00-############");
            let duration = user % 500;
            match kind {
                EventKind::AsSent => format!(
                    r#"{{{common},"url":"/workflow_builder/share/{user}","event_id":"{id}","metadata":{{"platform":"web","country":"DE","session":"7d2ac1e5{user:08x}","plan":"pro","action":"click","duration":{duration}.25}}}}"#
                ),
                EventKind::Plain => format!(
                    r#"{{{common},"url":"/workflow_builder/share","metadata":{{"platform":"web","plan":"pro"}}}}"#
                ),
                EventKind::Segment => format!(
                    r#"{{"timestamp":"{ts}","userId":"user_{user:06}","event":"workflow_builder_share","type":"track","properties":{{"platform":"web","country":"DE","plan":"pro","duration":{duration}.25}},"context":{{"page":{{"url":"https://app.example/workflow_builder/share/{user}"}},"library":{{"name":"@segment/analytics-node","version":"2.3.0"}}}},"integrations":{{}},"messageId":"node-next-{id}","_metadata":{{"nodeVersion":"22.14.0","jsRuntime":"node"}}}}"#
                ),
                EventKind::Posthog => format!(
                    r#"{{"distinct_id":"user_{user:06}","event":"workflow_builder_share","properties":{{"platform":"web","country":"DE","plan":"pro","duration":{duration}.25,"$current_url":"https://app.example/workflow_builder/share/{user}","$lib":"posthog-node","$lib_version":"5.9.0","$geoip_disable":true}},"type":"capture","library":"posthog-node","library_version":"5.9.0","timestamp":"{ts}","uuid":"{id}"}}"#
                ),
            }
        })
        .collect();
    let listed = listed.join(",");
    let body = match kind {
        EventKind::AsSent | EventKind::Plain => format!(r#"{{"events":[{listed}]}}"#),
        EventKind::Segment => {
            format!(r#"{{"batch":[{listed}],"sentAt":"{ts}","writeKey":"site"}}"#)
        }
        EventKind::Posthog => {
            format!(r#"{{"api_key":"site","batch":[{listed}],"sent_at":"{ts}"}}"#)
        }
    };
    let path = kind.path();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let places = request
        .match_indices("############")
        .map(|(at, _)| at)
        .collect();
    (request.into_bytes(), places)
}
