//! Reports to the service manager (systemd, `Type=notify`). Without one, nothing is sent.

use sd_notify::NotifyState;
use tracing::warn;

/// Signs of life in the time after which the service manager restarts a server without one.
const SIGNS_OF_LIFE: u32 = 3;

/// Reports that the server accepts requests at a URL. From now on, if the service manager expects
/// signs of life (`WatchdogSec=`), a task of the current runtime sends them: they end when the
/// threads that serve requests hang.
pub fn report_ready(url: &str) {
    report(&[
        NotifyState::Ready,
        NotifyState::Status(&format!("Listening on {url}")),
    ]);
    if let Some(limit) = sd_notify::watchdog_enabled() {
        let mut ticks = tokio::time::interval(limit / SIGNS_OF_LIFE);
        tokio::spawn(async move {
            loop {
                ticks.tick().await;
                report(&[NotifyState::Watchdog]);
            }
        });
    }
}

/// Reports that the server has begun to stop.
pub fn report_stopping() {
    report(&[NotifyState::Stopping]);
}

fn report(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "The service manager did not take a report: {error}");
    }
}
