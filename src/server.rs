//! Starting and stopping the server process: traces, the dashboard key, the port, signals.

use std::fs::OpenOptions;
use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;
use tracing_subscriber::EnvFilter;

use crate::config::{ServeConfig, StoreConfig};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::http::{self, DashKeys};
use crate::schedule::Schedule;
use crate::store::folder::{self, Folder};

/// The dashboard key's file in the data folder.
const KEY_FILE: &str = "dash_key";
/// The variable that chooses which traces are written.
const TRACE_VARIABLE: &str = "ECHOPILOT_LOG";
/// Time for questions that still run when all connections have ended.
const LAST_QUERIES: Duration = Duration::from_secs(1);

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

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// If the data folder, the key or the port is not to be had.
pub fn serve(store: &StoreConfig, config: &ServeConfig) -> Result<()> {
    let process = std::process::id();
    let holder = format!("echopilot serve (process {process})");
    let engine = Arc::new(Engine::open(store, &holder, Utc::now())?);
    let (keys, key_for_curl) = dash_keys(config, engine.store().folder())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Error::io("start", "the server's threads".as_ref()))?;
    runtime.block_on(async {
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(Error::io("listen on", config.listen.to_string().as_ref()))?;
        let address = listener
            .local_addr()
            .map_err(Error::io("listen on", config.listen.to_string().as_ref()))?;
        engine
            .store()
            .folder()
            .describe_holder(&format!("{holder}, which answers at http://{address}"));
        let stopped = stop_signal()?;
        let watched = engine.clone();
        let stop = async move {
            stopped.await;
            // Their answers would never end by themselves.
            watched.store().end_watches();
        };
        let schedule = Schedule::start(engine.clone(), store.rollup_at)?;
        greet(&format!("http://{address}"), &key_for_curl);
        info!(%address, "Listening on {address}");
        let router = http::router(engine.clone(), keys, &config.neutral_path);
        http::serve(listener, router, stop).await;
        schedule.stop();
        Ok::<(), Error>(())
    })?;
    runtime.shutdown_timeout(LAST_QUERIES);
    // What was answered is on disk; a job that still runs is waited for here.
    engine.close();
    info!("Stopped");
    Ok(())
}

/// Resolves when the process is told to stop.
fn stop_signal() -> Result<impl Future<Output = ()>> {
    let listen = |kind| signal(kind).map_err(Error::io("listen for", "signals".as_ref()));
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// The valid keys, and how a shell writes one without showing it.
fn dash_keys(config: &ServeConfig, folder: &Folder) -> Result<(DashKeys, String)> {
    if let Some(keys) = &config.dash_key {
        return Ok((DashKeys::parse(keys)?, "<your dashboard key>".into()));
    }
    let path = folder.path().join(KEY_FILE);
    let key = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => make_key(folder, &path)?,
        read => read.map_err(Error::io("read", &path))?,
    };
    eprintln!("Dashboard key: in the file {}", path.display());
    Ok((
        DashKeys::parse(&key)?,
        format!("$(cat '{}')", path.display()),
    ))
}

/// Makes a key of 256 random bits, in a file that only its owner can read and that is never half-written.
fn make_key(folder: &Folder, path: &Path) -> Result<String> {
    let mut bits = [0; 32];
    getrandom::fill(&mut bits).map_err(|error| {
        Error::io("make a key for", path)(std::io::Error::other(error.to_string()))
    })?;
    let key: String = bits.iter().map(|byte| format!("{byte:02x}")).collect();
    let temp = folder.temp(KEY_FILE)?;
    OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&temp)
        .and_then(|mut file| {
            writeln!(file, "{key}")?;
            file.sync_all()
        })
        .map_err(Error::io("write", &temp))?;
    folder::publish(&temp, path)?;
    Ok(key)
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
