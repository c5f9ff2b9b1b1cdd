//! Signal handling on separate threads, which respond also when all other threads are busy.

use std::time::Duration;

use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing::{info, warn};

use crate::error::{Error, Result};

/// Most time from the signal to the end of the process. Container engines kill after ten seconds.
const STOP_DEADLINE: Duration = Duration::from_secs(9);

/// Calls `reload` at each SIGHUP, which then no longer ends the process.
///
/// # Errors
/// If a thread or a signal handler cannot be created.
pub fn on_reload(mut reload: impl FnMut() + Send + 'static) -> Result<()> {
    listen([SignalKind::hangup()], async move |[mut hangup]| {
        while hangup.recv().await.is_some() {
            reload();
        }
    })
}

/// Resolves at the first SIGTERM or SIGINT. The process exits at the second, or when a stop takes
/// too long. That is always safe: all acknowledged events are on disk and every file is valid.
///
/// # Errors
/// If a thread or a signal handler cannot be created.
pub fn on_stop() -> Result<impl Future<Output = ()>> {
    let (asked, stop) = oneshot::channel();
    let kinds = [SignalKind::terminate(), SignalKind::interrupt()];
    listen(kinds, async move |[mut terminate, mut interrupt]| {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        next().await;
        // The receiver is gone if the server has failed meanwhile.
        let _ = asked.send(());
        tokio::select! {
            () = next() => info!("Exiting at once after a second signal"),
            () = tokio::time::sleep(STOP_DEADLINE) => {
                warn!("Exiting while a job still runs; the next start continues it");
            }
        }
        std::process::exit(0);
    })?;
    Ok(async move {
        // Without the signal thread there is no request to stop.
        if stop.await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}

/// Runs a future with these signals on a separate thread.
fn listen<const N: usize, F: Future<Output = ()>>(
    kinds: [SignalKind; N],
    run: impl FnOnce([Signal; N]) -> F + Send + 'static,
) -> Result<()> {
    let start = || {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let signals = {
            let _entered = runtime.enter();
            let signals: Vec<Signal> = kinds.into_iter().map(signal).collect::<Result<_, _>>()?;
            <[Signal; N]>::try_from(signals)
                .map_err(|_| std::io::Error::other("a signal is missing"))?
        };
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || runtime.block_on(run(signals)))
    };
    let started: std::io::Result<_> = start();
    started
        .map(drop)
        .map_err(Error::system("listen for signals"))
}
