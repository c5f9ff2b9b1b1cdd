//! Starting and stopping the server process: traces, the port, the order of a start and of a stop.

mod keys;
mod signals;

use std::io::{ErrorKind, IsTerminal};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use chrono::Utc;
use rustix::io::Errno;
use tokio::net::{TcpListener, TcpSocket};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use crate::config::{ServeConfig, StoreConfig};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::http::{self, DashKeys, Door};
use crate::schedule::Schedule;
use keys::KeySource;

/// The variable that chooses which traces are written.
const TRACE_VARIABLE: &str = "ECHOPILOT_LOG";
/// Connections that the system completes before they are accepted: a burst of new clients.
const BACKLOG: u32 = 4_096;
/// Bytes that the system holds of the responses of one connection. It would take up to 4 MB from a client that does not read, which
/// count where a container's memory is limited; so much is under way at some MB a second to the other side of the world.
const SEND_BUFFER_BYTES: u32 = 256 << 10;
/// Time for questions that still run when all connections have ended.
const LAST_QUERIES: Duration = Duration::from_secs(1);
/// Time from the signal until the last seal has ended, or is left to the next start.
const SEAL_DEADLINE: Duration = Duration::from_millis(8_500);
/// Events that a slow machine seals in a second; a log that needs longer than there is time is read back at the next start, which
/// takes about as long.
const SEALED_A_SECOND: f64 = 100_000.0;

/// Writes traces of `level` and above to stderr; of other crates only warnings.
pub fn start_traces(level: &str) {
    let default = format!("warn,echopilot_analytics={level}");
    let filter =
        EnvFilter::try_from_env(TRACE_VARIABLE).unwrap_or_else(|_| EnvFilter::new(default));
    // A second start, in a test, keeps the first.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .try_init();
}

/// Serves until SIGTERM or SIGINT, and ends within ten seconds after it.
///
/// # Errors
/// If the data folder, the key or the port is not to be had.
pub fn serve(store: &StoreConfig, config: &ServeConfig) -> Result<()> {
    let addresses = addresses(config)?;
    let loaded: Arc<OnceLock<(KeySource, Arc<DashKeys>)>> = Arc::default();
    let to_reload = loaded.clone();
    // First of all: whoever changes keys while the server starts must not end it.
    signals::on_reload(move || {
        // Before there are keys they are about to be read.
        if let Some((source, keys)) = to_reload.get() {
            source.reload(keys);
        }
    })?;
    let process = std::process::id();
    let holder = format!("echopilot serve (process {process})");
    let engine = Arc::new(Engine::open(store, &holder, Utc::now())?);
    let source = KeySource::new(config, engine.store().folder())?;
    let (keys, key_for_curl) = source.load()?;
    let keys = Arc::new(keys);
    loaded.get_or_init(|| (source, keys.clone()));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Error::system("start the threads of the server"))?;
    let stopped_at = runtime.block_on(async {
        let listeners = listen(&addresses)?;
        let address = listeners.first().map(TcpListener::local_addr);
        let address = address
            .unwrap_or_else(|| Err(ErrorKind::AddrNotAvailable.into()))
            .map_err(Error::system(format!("listen on {}", config.listen)))?;
        let url = format!("http://{address}{}", config.base_path.as_str());
        engine
            .store()
            .folder()
            .describe_holder(&format!("{holder}, which answers at {url}"));
        let stop_signal = signals::on_stop()?;
        let watched = engine.clone();
        let mut stopped_at = None;
        let stop = async {
            stop_signal.await;
            stopped_at = Some(Instant::now());
            // Their answers would never end by themselves.
            watched.store().end_watches();
        };
        let schedule = Schedule::start(engine.clone(), store.rollup_at)?;
        greet(&url, &key_for_curl);
        for address in listeners.iter().flat_map(TcpListener::local_addr) {
            info!(%address, "Listening on {address}");
        }
        let door = Door::new(config);
        let router = http::router(engine.clone(), keys, door.clone());
        http::serve(listeners, router, door, stop).await;
        schedule.stop();
        Ok::<_, Error>(stopped_at.unwrap_or_else(Instant::now))
    })?;
    runtime.shutdown_timeout(LAST_QUERIES);
    // What was answered is on disk.
    close(&engine, stopped_at + SEAL_DEADLINE);
    info!("Stopped");
    Ok(())
}

/// The addresses to listen on, before anything is opened.
fn addresses(config: &ServeConfig) -> Result<Vec<SocketAddr>> {
    let listen = &config.listen;
    let wrong = |reason: &dyn std::fmt::Display| {
        let message = format!("--listen {listen}: the host has no address: {reason}");
        Error::bad_input("bad_listen", message)
    };
    let addresses = listen.addresses().map_err(|error| wrong(&error))?;
    match addresses.is_empty() {
        true => Err(wrong(&"none was found")),
        false => Ok(addresses),
    }
}

/// Listens on each address that the machine has, on one port.
fn listen(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    let mut failed = None;
    for &(mut address) in addresses {
        if let Some(Ok(first)) = listeners.first().map(TcpListener::local_addr) {
            address.set_port(first.port());
        }
        match listen_on(address) {
            Ok(listener) => listeners.push(listener),
            // The socket of all IPv6 addresses has those of IPv4 as well.
            Err(error)
                if error.kind() == ErrorKind::AddrInUse
                    && address.ip() == Ipv4Addr::UNSPECIFIED
                    && !listeners.is_empty() => {}
            Err(error) if is_lacking(&error) && addresses.len() > 1 => {
                warn!(%address, "Not listening on {address}, which this machine lacks: {error}");
                failed = Some((address, error));
            }
            Err(error) => {
                return Err(Error::system(format!("listen on {address}"))(error));
            }
        }
    }
    match (listeners.is_empty(), failed) {
        (true, Some((address, error))) => Err(Error::system(format!("listen on {address}"))(error)),
        _ => Ok(listeners),
    }
}

/// Whether the machine does not have an address, or none of its kind: many containers have no IPv6.
fn is_lacking(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error())
}

fn listen_on(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address.is_ipv4() {
        true => TcpSocket::new_v4(),
        false => TcpSocket::new_v6(),
    }?;
    // A restart need not wait until old connections are forgotten.
    socket.set_reuseaddr(true)?;
    // The sockets of connections have it from this one.
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Seals what is in the log, if there is time for it. A seal that does not end in time is left as if the power had gone: all files
/// are whole, and the next start reads the log back.
fn close(engine: &Arc<Engine>, deadline: Instant) {
    let waiting = engine.size().log_events;
    let left = deadline.saturating_duration_since(Instant::now());
    let (ended, end) = channel();
    let has_time = waiting as f64 <= SEALED_A_SECOND * left.as_secs_f64();
    if has_time {
        let engine = engine.clone();
        let sealing = std::thread::Builder::new().spawn(move || {
            engine.close();
            // Nobody may wait any more.
            let _ = ended.send(());
        });
        if sealing.is_ok() && end.recv_timeout(left).is_ok() {
            return;
        }
    }
    warn!(
        events = waiting,
        "No time to seal {waiting} events: they stay in the log, which is read back at the next start"
    );
}

/// Says how to send the first event and see the first number.
fn greet(url: &str, key: &str) {
    eprintln!(
        r#"
EchoPilot Analytics answers at {url}

Open it in a browser, or send an event:
  curl {url}/api/analytics/event \
    -H 'Content-Type: application/json' \
    -d '{{"events":[{{"event_type":"page_view",
                    "user_id":"user123","feature":"dashboard"}}]}}'

See usage:
  curl '{url}/api/analytics/usage?days=30' \
    -H "X-Dash-Key: {key}"
"#
    );
}
