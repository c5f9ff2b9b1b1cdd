//! The operations that HTTP, command line and scheduler share, and the only place where the store
//! meets the metrics. Time comes in as an argument.

mod alerts;
mod api;
mod audit;
mod cohorts;
mod cost;
mod demo_folder;
mod export;
mod ingest;
mod maintenance;
mod monitoring;
mod privacy;
mod query;
mod revision;
mod rollup;
mod status;
mod usage;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use parking_lot::{Mutex, MutexGuard};
use tracing::warn;

pub use api::{
    AuditAnswer, ClockAnswer, CohortsAnswer, DemoAnswer, EraseAnswer, ExpireAnswer, ExportAnswer,
    IngestAnswer, LimitStatus, RollupAnswer, StatusAnswer, UsageAnswer, ZoneStatus,
};
pub use audit::{Action, AuditEntry, AuditRequest, By, COMMAND_LINE};
pub use cost::Cost;
pub use demo_folder::DemoFolder;
pub use export::{ExportRequest, is_bucket, verify, verify_with};
pub use ingest::PendingIngest;
pub use privacy::MAX_ERASED_USERS;
pub use query::Cancel;
pub use rollup::RollupScope;

use crate::cohorts::Cohorts;
use crate::config::StoreConfig;
use crate::error::Result;
use crate::metrics::budget::QueryMemory;
use crate::store::folder::Purpose;
use crate::store::{self, Store};

/// The open engine.
pub struct Engine {
    store: Store,
    config: StoreConfig,
    rollup_log: Mutex<()>,
    cohorts: Mutex<()>,
    /// Held while an export is written, or changed by an erasure.
    exports: Mutex<()>,
    waiting_audit: audit::Waiting,
    last_rollup: status::LastRollup,
    counted_day: monitoring::CountedDay,
    alerts: alerts::EngineAlerts,
    query_memory: Arc<QueryMemory>,
    opened_at: DateTime<Utc>,
}

impl Engine {
    /// Opens the data folder. `holder` identifies this process in lock-conflict messages.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open(config: &StoreConfig, holder: &str, now: DateTime<Utc>) -> Result<Self> {
        Self::open_for(config, holder, Purpose::Change, now)
    }

    /// Opens the data folder for a purpose.
    ///
    /// # Errors
    /// As [`Store::open_for`].
    pub fn open_for(
        config: &StoreConfig,
        holder: &str,
        purpose: Purpose,
        now: DateTime<Utc>,
    ) -> Result<Self> {
        let store = Store::open_for(config, holder, purpose, now)?;
        if let Err(error) = Cohorts::upgrade(store.folder()) {
            warn!("The cohorts cannot be used: {error}");
        }
        if let Err(error) = store::audit::recover(store.folder()) {
            warn!("The audit log cannot be recovered: {error}");
        }
        let alerts = alerts::EngineAlerts::load(store.folder());
        let engine = Self {
            alerts,
            store,
            config: config.clone(),
            rollup_log: Mutex::new(()),
            cohorts: Mutex::new(()),
            exports: Mutex::new(()),
            waiting_audit: audit::Waiting::default(),
            last_rollup: status::LastRollup::default(),
            counted_day: monitoring::CountedDay::default(),
            query_memory: QueryMemory::new(u64::from(config.limit_query_mib) << 20),
            opened_at: now,
        };
        engine.expose_alerts();
        Ok(engine)
    }

    /// The settings that it was opened with.
    pub fn config(&self) -> &StoreConfig {
        &self.config
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    fn lock_rollup_log(&self) -> MutexGuard<'_, ()> {
        self.rollup_log.lock()
    }
}
