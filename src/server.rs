//! Start and stop of the server process: traces, the port, and the order of both.

mod keys;
mod service_manager;
mod signals;

use std::io::{ErrorKind, IsTerminal};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use chrono::Utc;
use rustix::io::Errno;
use tokio::net::{TcpListener, TcpSocket};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use crate::alerts::sender::MessageSender;
use crate::config::{ServeConfig, StoreConfig};
use crate::engine::{Action, Engine, PublishTarget, ReadTarget, SharedTarget};
use crate::error::{Error, ErrorCode, Result};
use crate::http::{self, Keys, PublicLimits};
use crate::schedule::Schedule;
use crate::spark::Spark;
use crate::store::folder::ServerAddress;
use keys::KeySources;

/// The environment variable that selects traces.
const TRACE_VARIABLE: &str = "ECHOPILOT_LOG";
/// Size of the accept backlog: a burst of new clients.
const BACKLOG: u32 = 4_096;
/// Socket send buffer of one connection. The system would buffer up to 4 MB for a client that does
/// not read, which counts against a container's memory limit; this much is in flight at some MB a
/// second to the other side of the world.
const SEND_BUFFER_BYTES: u32 = 256 << 10;
/// Time for queries that still run when all connections are closed.
const LAST_QUERIES: Duration = Duration::from_secs(1);
/// Time from the signal until the last seal ends or is left to the next start.
const SEAL_DEADLINE: Duration = Duration::from_millis(8_500);
/// Events that a slow machine seals in a second. A log that would take longer than the remaining
/// time is read back at the next start, which takes about as long.
const SEALED_A_SECOND: f64 = 100_000.0;

/// Writes traces of `level` and above to stderr; of other crates only warnings.
pub fn start_traces(level: &str) {
    let default = format!("warn,echopilot_analytics={level}");
    let filter =
        EnvFilter::try_from_env(TRACE_VARIABLE).unwrap_or_else(|_| EnvFilter::new(default));
    // Tests may start them twice; the first start stays.
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
/// If the data folder cannot be locked, the key cannot be read or the port cannot be bound.
pub fn serve(store: &StoreConfig, config: &ServeConfig) -> Result<()> {
    let addresses = addresses(config)?;
    let sender = Arc::new(MessageSender::new(&config.messages)?);
    let spark = Spark::of(&config.remote, &store.data_dir)?.map(Arc::new);
    let loaded: Arc<OnceLock<KeyReload>> = Arc::default();
    let to_reload = loaded.clone();
    // First of all: a SIGHUP while the server starts must not end it.
    signals::on_reload(move || {
        // Before the keys are loaded they are about to be read.
        if let Some(reload) = to_reload.get() {
            reload.run("SIGHUP");
        }
    })?;
    let process = std::process::id();
    let owner = format!("echopilot serve (process {process})");
    let engine = Arc::new(Engine::open(store, &owner, Utc::now())?);
    // Other commands may be run without the setting, and keep the states of all zones up to date.
    if let Err(error) = engine.store().keep_zones(&store.zones.others()) {
        warn!("The states of zones that are no longer listed are still there: {error}");
    }
    if let Some(to) = &config.publish {
        engine.publish_to(&PublishTarget {
            to: to.clone(),
            every: Duration::from_secs(config.publish_every.into()),
            shared: config.server_id.as_ref().map(|server| SharedTarget {
                server: server.to_string(),
                join_after: Duration::from_secs(config.join_after_seconds.into()),
            }),
        })?;
    }
    if let Some(from) = &config.read_from {
        engine.read_from(&ReadTarget {
            from: from.clone(),
            every: Duration::from_secs(config.read_every.into()),
        })?;
    }
    let sources = Arc::new(KeySources::new(config, engine.store().folder())?);
    let (keys, key_for_curl) = sources.load()?;
    let reload = loaded.get_or_init(|| KeyReload {
        sources: sources.clone(),
        keys: keys.clone(),
        engine: Arc::downgrade(&engine),
    });
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
        let server = ServerAddress {
            url: url.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            key: sources.command_line().into(),
        };
        engine
            .store()
            .folder()
            .describe_server(&format!("{owner}, which listens on {url}"), &server);
        let reload = reload.clone();
        tokio::spawn(sources.follow(move || reload.run("changed file")));
        let stop_signal = signals::on_stop()?;
        let for_live = engine.clone();
        let mut stopped_at = None;
        let stop = async {
            stop_signal.await;
            stopped_at = Some(Instant::now());
            service_manager::report_stopping();
            // Live streams would never end by themselves.
            for_live.store().end_subscriptions();
        };
        let schedule = Schedule::start(engine.clone(), store.rollup_at, sender.clone())?;
        print_welcome(&url, &key_for_curl);
        for address in listeners.iter().flat_map(TcpListener::local_addr) {
            info!(%address, "Listening on {address}");
        }
        // From here on the system accepts connections for the server.
        service_manager::report_ready(&url);
        let public_limits = PublicLimits::new(config, engine.monitoring().clone());
        let router = http::router(engine.clone(), keys, public_limits.clone(), sender, spark);
        http::serve(listeners, router, public_limits, stop).await;
        schedule.stop();
        Ok::<_, Error>(stopped_at.unwrap_or_else(Instant::now))
    })?;
    runtime.shutdown_timeout(LAST_QUERIES);
    // All acknowledged events are on disk.
    close(&engine, stopped_at + SEAL_DEADLINE);
    info!("Stopped");
    Ok(())
}

/// The reloading of keys while the server runs.
#[derive(Clone)]
struct KeyReload {
    sources: Arc<KeySources>,
    keys: Arc<Keys>,
    /// The thread of the signal lives as long as the process, and must not keep the folder locked.
    engine: Weak<Engine>,
}

impl KeyReload {
    /// Reads the files of keys again, and records a change of the keys and what caused it.
    fn run(&self, cause: &str) {
        if let Some(counts) = self.sources.reload(&self.keys)
            && let Some(engine) = self.engine.upgrade()
        {
            let by = engine.by(cause, Utc::now());
            by.record(Action::Keys, None, &counts);
        }
    }
}

/// Resolves the addresses to listen on, before anything is opened.
fn addresses(config: &ServeConfig) -> Result<Vec<SocketAddr>> {
    let listen = &config.listen;
    let wrong = |reason: &dyn std::fmt::Display| {
        let message = format!("--listen {listen}: the host has no address: {reason}");
        Error::bad_input(ErrorCode::BadListen, message)
    };
    let addresses = listen.addresses().map_err(|error| wrong(&error))?;
    if addresses.is_empty() {
        return Err(wrong(&"none was found"));
    }
    Ok(addresses)
}

/// Listens on each address that the machine has, all on one port.
fn listen(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    let mut failed = None;
    for &(mut address) in addresses {
        if let Some(Ok(first)) = listeners.first().map(TcpListener::local_addr) {
            address.set_port(first.port());
        }
        match listen_on(address) {
            Ok(listener) => listeners.push(listener),
            // The socket for all IPv6 addresses also accepts IPv4.
            Err(error)
                if error.kind() == ErrorKind::AddrInUse
                    && address.ip() == Ipv4Addr::UNSPECIFIED
                    && !listeners.is_empty() => {}
            Err(error) if is_missing(&error) && addresses.len() > 1 => {
                warn!(%address, %error, "Not listening on {address}, which this machine does not have: {error}");
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

/// Returns true if the machine does not have the address or its address family: many containers
/// have no IPv6.
fn is_missing(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error())
}

fn listen_on(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // A restart does not have to wait for connections in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    // Accepted sockets inherit it.
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Seals the log if there is time. A seal that does not end in time is abandoned as by a power cut:
/// all files stay valid, and the next start reads the log back.
fn close(engine: &Arc<Engine>, deadline: Instant) {
    let waiting = engine.size().log_events;
    let left = deadline.saturating_duration_since(Instant::now());
    let (ended, end) = channel();
    let has_time = waiting as f64 <= SEALED_A_SECOND * left.as_secs_f64();
    if has_time {
        let engine = engine.clone();
        let sealing = std::thread::Builder::new().spawn(move || {
            engine.close();
            // The receiver may have stopped waiting.
            let _ = ended.send(());
        });
        if sealing.is_ok() && end.recv_timeout(left).is_ok() {
            return;
        }
    }
    warn!(
        events = waiting,
        "No time to seal {waiting} events; the next start reads them back from the log"
    );
}

/// Prints how to send the first event and query usage.
fn print_welcome(url: &str, key: &str) {
    eprintln!(
        r#"
EchoPilot Analytics listens on {url}

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
