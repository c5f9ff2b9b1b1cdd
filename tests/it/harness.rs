//! Starts the program in its own folder, and sends it requests.

use std::cell::Cell;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use chrono::{DateTime, NaiveTime, Timelike, Utc};
use echopilot_analytics::config::{Durability, NameLimits, StoreConfig};
use echopilot_analytics::demo::Demo;
use echopilot_analytics::engine::{Engine, IngestAnswer, PendingIngest};
use echopilot_analytics::zones::Zones;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The dashboard key of all test servers.
pub const KEY: &str = "a-key-for-the-tests";
/// Longest wait for anything that should happen soon.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A temporary folder. The first of a test waits while the day is about to change.
pub fn folder() -> TempDir {
    thread_local!(static IS_FIRST: Cell<bool> = const { Cell::new(true) });
    if IS_FIRST.replace(false) {
        wait_for_the_day();
    }
    tempfile::tempdir().expect("a temporary folder")
}

/// Waits while a test could still run when the day ends in UTC, or when the daily rollup begins at
/// 03:15: the test and its server would not mean the same day, or other days would be rolled up.
/// Events of the first minute of a day are still to come when it begins.
fn wait_for_the_day() {
    let is_near = || {
        let now = Utc::now();
        let minute = now.hour() * 60 + now.minute();
        minute < 1 || (185..196).contains(&minute) || minute >= 1_430
    };
    while is_near() {
        std::thread::park_timeout(Duration::from_secs(1));
    }
}

/// A port without a listener, which no connection and no other test of this process gets either:
/// it is below those that the system gives.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let of_process = std::process::id() as u16 % 10_000;
    std::iter::repeat_with(|| NEXT.fetch_add(1, Ordering::Relaxed))
        .map(|next| 20_000 + of_process + next % 2_000)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

/// The program without settings of the environment.
pub fn echopilot(data_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_echopilot"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ECHOPILOT_")) {
        command.env_remove(name);
    }
    command.env("ECHOPILOT_DATA_DIR", data_dir);
    command
}

/// Runs a command to its end.
pub fn run(data_dir: &Path, arguments: &[&str]) -> Output {
    echopilot(data_dir)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the program starts")
}

/// Runs a command that must succeed, and reads its result.
pub fn run_json(data_dir: &Path, arguments: &[&str]) -> Value {
    let text = printed(echopilot(data_dir).args(arguments).stdin(Stdio::null()));
    serde_json::from_slice(&text).expect("a command prints JSON")
}

/// Imports a history with a shift of time, so that its last event is of today.
pub fn import(data_dir: &Path, file: &Path) -> Value {
    let file = file.to_str().expect("a path in UTF-8");
    run_json(data_dir, &["import", file, "--rebase-to", "today"])
}

/// Runs a prepared command, which must succeed, and returns what it prints.
pub fn printed(command: &mut Command) -> Vec<u8> {
    let output = command.output().expect("the program starts");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// The library by which a process sees another wall clock, and only that.
pub fn faketime() -> PathBuf {
    let listed = Command::new("dpkg")
        .args(["-L", "libfaketime"])
        .output()
        .expect("dpkg starts");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let library = listed
        .lines()
        .find(|path| path.ends_with("libfaketimeMT.so.1"));
    library
        .expect("Debian's libfaketime, which `make test` installs")
        .into()
}

/// Starts a command with a wall clock of faketime: `@` and a time at which it starts, or a time at
/// which it stands. The monotonic clock is unchanged.
pub fn at_time(command: &mut Command, time: &str) {
    command
        .env("LD_PRELOAD", faketime())
        .env("FAKETIME", time)
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1")
        .env("TZ", "UTC");
}

/// A running server, killed when dropped.
pub struct Server {
    child: Child,
    pub url: String,
    stderr: Receiver<String>,
    traced: Vec<String>,
}

/// Status and body of a response.
pub type Answer = (u16, Value);

impl Server {
    pub fn start(data_dir: &Path) -> Self {
        Self::start_as(echopilot(data_dir))
    }

    /// Starts the server with a prepared command, and waits until it listens.
    pub fn start_as(mut command: Command) -> Self {
        Self::start_with_its_key(command.env("ECHOPILOT_DASH_KEY", KEY))
    }

    /// Starts the server with the key of the command.
    pub fn start_with_its_key(command: &mut Command) -> Self {
        Self::try_start(command).expect("the server starts")
    }

    /// Starts the server; `None` if it ends before it listens.
    pub fn try_start(command: &mut Command) -> Option<Self> {
        Self::try_start_at(command, "127.0.0.1:0")
    }

    /// Starts the server at an address; `None` if it ends before it listens.
    pub fn try_start_at(command: &mut Command, listen: &str) -> Option<Self> {
        let mut server = Self::launch(command, listen);
        while let Some(line) = server.next_line() {
            if let Some(at) = line.find("http://") {
                let url = line[at..].split_whitespace().next();
                server.url = url.expect("an address").to_owned();
                return Some(server);
            }
        }
        eprintln!("The server ended: {:?}", server.traced);
        None
    }

    fn launch(command: &mut Command, listen: &str) -> Self {
        let mut child = command
            .args(["serve", "--listen", listen])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let (sender, stderr) = channel();
        let reader = BufReader::new(child.stderr.take().expect("a pipe"));
        std::thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            url: String::new(),
            stderr,
            traced: Vec::new(),
        }
    }

    fn next_line(&mut self) -> Option<String> {
        let line = self.stderr.recv_timeout(PATIENCE).ok()?;
        self.traced.push(line.clone());
        Some(line)
    }

    /// Waits until the server has traced a line with this string.
    pub fn wait_for(&mut self, text: &str) {
        while !self.traced.iter().any(|line| line.contains(text)) {
            assert!(
                self.next_line().is_some(),
                "{text:?} was not traced, and the server ended with {:?}: {:?}",
                self.child.try_wait(),
                self.traced
            );
        }
    }

    /// Waits until the server has traced so many lines that contain a string.
    pub fn wait_for_lines(&mut self, text: &str, lines: usize) {
        let traced = |server: &Self| {
            let lines = server.traced.iter();
            lines.filter(|line| line.contains(text)).count()
        };
        while traced(self) < lines {
            assert!(
                self.next_line().is_some(),
                "{text:?} was not traced {lines} times: {:?}",
                self.traced
            );
        }
    }

    pub fn post(&self, events: &Value) -> Answer {
        self.post_raw(events.to_string().as_bytes(), &[])
    }

    /// Sends a body as it is to the ingest route.
    pub fn post_raw(&self, body: &[u8], headers: &[(&str, &str)]) -> Answer {
        post_to(&self.url, body, headers).expect("a response")
    }

    /// Sends a GET request with the key.
    pub fn get(&self, path: &str) -> Answer {
        self.get_with(path, &[("x-dash-key", KEY)])
    }

    pub fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = agent().get(format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        read(request.call().expect("a response"))
    }

    /// Sends a GET request; returns the body as bytes.
    pub fn get_bytes(&self, path: &str, headers: &[(&str, &str)]) -> (u16, Vec<u8>) {
        let mut request = agent().get(format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = request.call().expect("a response");
        let mut bytes = Vec::new();
        response
            .body_mut()
            .as_reader()
            .read_to_end(&mut bytes)
            .expect("a complete body");
        (response.status().as_u16(), bytes)
    }

    /// Sends JSON with the key.
    pub fn ask(&self, path: &str, body: &Value) -> Answer {
        let (status, answer) = self.ask_with(path, body, &[("x-dash-key", KEY)]);
        (
            status,
            serde_json::from_slice(&answer).expect("a body in JSON"),
        )
    }

    /// Sends JSON with the key, and requests a media type.
    pub fn ask_as(&self, path: &str, body: &Value, media_type: &str) -> (u16, Vec<u8>) {
        self.ask_with(path, body, &[("x-dash-key", KEY), ("accept", media_type)])
    }

    /// Sends JSON with these headers.
    pub fn ask_with(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> (u16, Vec<u8>) {
        self.ask_text(path, body.to_string(), headers)
    }

    /// Sends a string with these headers.
    pub fn ask_text(&self, path: &str, body: String, headers: &[(&str, &str)]) -> (u16, Vec<u8>) {
        let mut request = agent()
            .post(format!("{}{path}", self.url))
            .header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = request.send(body).expect("a response");
        let mut bytes = Vec::new();
        response
            .body_mut()
            .as_reader()
            .read_to_end(&mut bytes)
            .expect("a complete body");
        (response.status().as_u16(), bytes)
    }

    /// Deletes with the key.
    pub fn delete(&self, path: &str) -> Answer {
        let request = agent()
            .delete(format!("{}{path}", self.url))
            .header("x-dash-key", KEY);
        read(request.call().expect("a response"))
    }

    pub fn rollup(&self) -> Answer {
        let request = agent()
            .post(format!("{}/api/analytics/rollup", self.url))
            .header("x-dash-key", KEY);
        read(request.send_empty().expect("a response"))
    }

    pub fn usage(&self, query: &str) -> Value {
        let (status, body) = self.get(&format!("/api/analytics/usage{query}"));
        assert_eq!(status, 200, "{body}");
        body
    }

    /// The id of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Peak memory of the process, in MB.
    pub fn peak_mb(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("the process runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        kib.expect("a peak").parse::<u64>().expect("a number") / 1024
    }

    pub fn signal(&self, name: &str) {
        let done = Command::new("kill")
            .args([&format!("-{name}"), &self.child.id().to_string()])
            .status()
            .expect("kill exists");
        assert!(done.success());
    }

    /// Waits until the process ends by itself.
    pub fn wait(&mut self) -> ExitStatus {
        while self.next_line().is_some() {}
        self.child.wait().expect("the process ends")
    }

    /// Waits until the server has traced a line with this string. False if it ends before.
    pub fn sees(&mut self, text: &str) -> bool {
        while !self.traced.iter().any(|line| line.contains(text)) {
            if self.next_line().is_none() {
                return false;
            }
        }
        true
    }

    /// Stops the server if it still runs. False if it was killed.
    pub fn ends_well(mut self) -> bool {
        let term = ["-TERM", &self.child.id().to_string()];
        let _ = Command::new("kill").args(term).status();
        self.wait().success()
    }

    /// Kills the process; returns what it wrote to stderr.
    pub fn kill(mut self) -> String {
        // It may have ended by itself.
        let _ = self.child.kill();
        self.wait();
        self.traced.join("\n")
    }

    /// Stops the server, checks that it ends well, and returns what it wrote to stderr.
    pub fn stop(mut self) -> String {
        self.signal("TERM");
        assert!(self.wait().success());
        self.traced.join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a body as it is to the ingest route of a server that may have ended.
pub fn post_to(url: &str, body: &[u8], headers: &[(&str, &str)]) -> Result<Answer, ureq::Error> {
    let mut request = agent().post(format!("{url}/api/analytics/event"));
    if !headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("content-type"))
    {
        request = request.header("content-type", "application/json");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send(body).map(read)
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(PATIENCE))
        .build()
        .into()
}

fn read(mut response: ureq::http::Response<ureq::Body>) -> Answer {
    let mut text = String::new();
    response
        .body_mut()
        .as_reader()
        .read_to_string(&mut text)
        .expect("a body in UTF-8");
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    (response.status().as_u16(), body)
}

/// A batch of events.
pub fn batch(events: impl IntoIterator<Item = Value>) -> Value {
    json!({"events": events.into_iter().collect::<Vec<_>>()})
}

/// An event of a user, without a time.
pub fn event(event_type: &str, user: &str, feature: &str) -> Value {
    json!({"event_type": event_type, "user_id": user, "feature": feature})
}

/// Opens an engine in this process, at the time `now`.
pub fn engine(data_dir: &Path, now: DateTime<Utc>) -> Engine {
    Engine::open(&store_config(data_dir), "the test", now).expect("a data folder")
}

/// The settings of the engines of this process.
pub fn store_config(data_dir: &Path) -> StoreConfig {
    StoreConfig {
        data_dir: data_dir.to_owned(),
        durability: Durability::Os,
        raw_retention_days: 90,
        rollup_retention_days: 365,
        rollup_at: NaiveTime::MIN,
        zones: Zones::default(),
        user_key_file: None,
        names: NameLimits::default(),
        limit_erasure_percent: 5,
        column_share: 60,
        limit_query_mib: 1_024,
    }
}

/// Sends at most 100 events to an engine of this process, and waits until they are stored.
pub fn ingest(engine: &Engine, events: &[Value], now: DateTime<Utc>) -> IngestAnswer {
    let body = json!({"events": events}).to_string();
    answer_of(engine.ingest(body.as_bytes(), now).expect("a batch"))
}

/// Waits until a batch is stored.
pub fn answer_of(pending: PendingIngest) -> IngestAnswer {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    runtime
        .block_on(pending.answer())
        .expect("a store that writes")
}

/// Fills a store with a synthetic history up to yesterday, all of it in the log.
pub fn unsealed_demo(data_dir: &Path, events: u64, days: u32, seed: u64) {
    let now = Utc::now();
    let demo = Demo {
        events,
        days,
        users: (events / 40) as u32,
        features: 20,
        seed,
        last_day: now.date_naive().pred_opt().expect("a yesterday"),
        plain: false,
    };
    engine(data_dir, now)
        .fill_demo(demo, |_| {})
        .expect("an empty store");
}

/// The lines of the event log.
pub fn log_lines(data_dir: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(log_path(data_dir)).expect("a log");
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| serde_json::from_str(line).expect("every line is JSON"))
        .collect()
}

/// The columns in a data folder: those of live segments, and obsolete ones.
pub fn columns(data_dir: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let manifest = std::fs::read(data_dir.join("manifest.json")).unwrap_or_default();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap_or_default();
    let live: Vec<(String, u64)> = manifest["segments"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|segment| {
            let path = segment["path"].as_str().expect("a path");
            let name = path.replacen("events/", "", 1).replace('/', "-");
            let crc32c = segment["crc32c"].as_u64().expect("a checksum");
            (format!("{name}.columns"), crc32c)
        })
        .collect();
    let files = std::fs::read_dir(data_dir.join("columns"));
    let files = files.into_iter().flatten().map(|file| file.unwrap().path());
    files.partition(|file| {
        let bytes = std::fs::read(file).unwrap();
        let of_segment = u32::from_le_bytes(*bytes[8..].first_chunk().unwrap());
        let name = file.file_name().unwrap().to_str().unwrap();
        live.contains(&(name.to_owned(), of_segment.into()))
    })
}

pub fn log_path(data_dir: &Path) -> PathBuf {
    data_dir.join("analytics_events.ndjson")
}

/// The features of random histories: those in the queries of `queries/`, and none.
pub const FEATURES: [&str; 6] = [
    "home",
    "catalog",
    "product_view",
    "add_to_cart",
    "purchase",
    "",
];

/// Pseudo-random numbers below a bound; a seed always gives the same.
pub fn numbers_below(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |bound| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    }
}

#[test]
fn tests_run_with_overflow_checks_and_debug_assertions() {
    let hint = "run `make test-rust`, or add `--config tests/checked.toml` to `cargo test`";
    let assertion = std::panic::catch_unwind(|| debug_assert!(black_box(false)));
    assert!(assertion.is_err(), "{hint}");
    let overflow = std::panic::catch_unwind(|| black_box(u8::MAX) + black_box(1));
    assert!(overflow.is_err(), "{hint}");
}

/// A string of about this many random hexadecimal digits, which no codec compresses below half.
pub fn incompressible(digits: usize, below: &mut impl FnMut(u64) -> u64) -> String {
    (0..digits / 7)
        .map(|_| format!("{:07x}", below(1 << 28)))
        .collect()
}

/// Starts a server that must fail to start and say why.
pub fn refused(mut command: Command, says: &str) {
    let output = command
        .args(["serve", "--listen", "127.0.0.1:0"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(says), "{said}");
}
