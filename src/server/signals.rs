//! Signals, on threads of their own: they are served also when every other thread is busy.

use std::time::Duration;

use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing::{info, warn};

use crate::error::{Error, Result};

/// Time from the signal to the end of the process. Container engines kill after ten seconds.
const STOP_DEADLINE: Duration = Duration::from_secs(9);

/// Calls `reload` at each SIGHUP, which ends the process no more.
///
/// # Errors
/// If the system gives no thread.
pub fn on_reload(mut reload: impl FnMut() + Send + 'static) -> Result<()> {
    listen([SignalKind::hangup()], async move |[mut hangup]| {
        while hangup.recv().await.is_some() {
            reload();
        }
    })
}

/// Resolves at the first SIGTERM or SIGINT. The process ends at the second, or when a stop has taken too long: at every moment what
/// was answered is on disk and each file is whole.
///
/// # Errors
/// If the system gives no thread.
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
        // A server that failed meanwhile does not wait for it.
        let _ = asked.send(());
        tokio::select! {
            () = next() => info!("Ended at once, as a second signal asks for"),
            () = tokio::time::sleep(STOP_DEADLINE) => {
                warn!("Ended while a job still ran; the next start goes on with it");
            }
        }
        std::process::exit(0);
    })?;
    Ok(async move {
        // Without the other side nobody can ask for a stop.
        if stop.await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}

/// Runs a future with these signals on a thread of its own.
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
