//! The alerts that the engine evaluates on its own numbers, and their file, which a restart reads.

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use tracing::{info, warn};

use super::Engine;
use crate::error::Result;
use crate::monitoring::{AlertChange, AlertState, AlertStatus, Alerts, SavedAlerts};
use crate::store::ALERTS_FILE;
use crate::store::folder::Folder;

/// The alerts of an engine.
pub(super) struct EngineAlerts(Mutex<Alerts>);

impl EngineAlerts {
    /// The alerts as the last process left them. Without its file, or with a damaged one, none is
    /// active.
    pub fn load(folder: &Folder) -> Self {
        let saved = folder.read_json(ALERTS_FILE).unwrap_or_else(|error| {
            warn!("The alerts begin without those of the last process: {error}");
            SavedAlerts::default()
        });
        Self(Mutex::new(Alerts::of(saved)))
    }
}

impl Engine {
    /// Evaluates the alerts on the newest samples, at most once a minute, and saves those that
    /// changed.
    ///
    /// # Errors
    /// If they cannot be saved; the next evaluation tries it again.
    pub fn evaluate_alerts(&self, now: DateTime<Utc>) -> Result<()> {
        let (changes, unsaved) = {
            let mut alerts = self.alerts.0.lock();
            let changes = alerts.evaluate(self.monitoring(), now);
            (changes, alerts.unsaved())
        };
        for change in changes {
            match change {
                AlertChange::Fires(name, condition) => {
                    warn!(alert = name, "Alert {name}: {condition}");
                }
                AlertChange::Ends(name) => info!(alert = name, "Alert {name} has ended"),
            }
        }
        if let Some(unsaved) = unsaved {
            self.store.folder().replace_json(ALERTS_FILE, &unsaved)?;
            self.alerts.0.lock().saved();
        }
        Ok(())
    }

    /// The alerts, active or not.
    pub fn alerts(&self) -> Vec<AlertStatus> {
        self.alerts.0.lock().status()
    }

    /// The alerts that fire.
    pub fn firing_alerts(&self) -> Vec<AlertStatus> {
        let mut alerts = self.alerts();
        alerts.retain(|alert| alert.state == AlertState::Firing);
        alerts
    }

    /// Notes which alerts fire, for the page of Prometheus.
    pub(super) fn expose_alerts(&self) {
        self.alerts.0.lock().expose(self.monitoring());
    }
}
