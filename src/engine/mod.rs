//! The operations that HTTP, command line and scheduler share, and the only place where the store
//! meets the metrics. Time comes in as an argument.

mod alerts;
mod api;
mod audit;
mod cohorts;
mod cost;
mod demo_folder;
mod export;
mod follower;
mod ingest;
mod links;
mod maintenance;
mod monitoring;
mod plan;
mod privacy;
mod publication;
mod query;
mod rejections;
mod reports;
mod revision;
mod rollup;
mod shared_publication;
mod status;
mod tables;
mod usage;
mod user_alerts;
mod values;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use parking_lot::{Mutex, MutexGuard, RwLock};
use tracing::warn;

pub use api::{
    AuditAnswer, ClockAnswer, CohortsAnswer, DemoAnswer, EraseAnswer, ExpireAnswer, ExportAnswer,
    IngestAnswer, LimitStatus, RollupAnswer, StatusAnswer, UsageAnswer, ZoneStatus,
};
pub use audit::{Action, AuditEntry, AuditRequest, By, COMMAND_LINE};
pub use cost::Cost;
pub use demo_folder::DemoFolder;
pub use export::{ExportRequest, is_bucket, verify, verify_with};
pub use follower::{ReadTarget, TableReadStatus};
pub use ingest::PendingIngest;
pub use links::{RemovedLinkAnswer, UserLink, UserLinksAnswer, UserLinksRequest};
pub use plan::{
    HeldAnswer, PlanAnswer, QuarantineAnswer, QuarantineRequest, QuarantineStatus, ReplayAnswer,
};
pub use privacy::MAX_ERASED_USERS;
pub use publication::{PublicationStatus, PublishTarget, PublishedErasure, SharedTarget};
pub use query::Cancel;
pub use rejections::{RejectedEvent, RejectionsAnswer};
pub use reports::{
    AnnotationsAnswer, HistoryAnswer, LinkAnswer, LinksAnswer, ReportAnswer, ReportsAnswer,
    ReportsImport, ReportsImportAnswer, Shared,
};
pub use rollup::RollupScope;
pub use tables::TableAnswer;
pub use user_alerts::{AlertTestAnswer, AlertsAnswer, TestedMessage};
pub use values::{DEFAULT_LIMIT, UsedValue, ValuesAnswer, ValuesRequest};

use crate::cohorts::Cohorts;
use crate::config::StoreConfig;
use crate::error::{Error, ErrorCode, Result};
use crate::metrics;
use crate::metrics::budget::QueryMemory;
use crate::plan::{CheckedPlan, Plan};
use crate::reports::links::Links;
use crate::store::folder::Purpose;
use crate::store::{self, Store};

/// The open engine.
pub struct Engine {
    store: Store,
    config: StoreConfig,
    rollup_log: Mutex<()>,
    cohorts: Mutex<()>,
    /// Held while the files of reports, share links or annotations are changed.
    reports: Mutex<()>,
    /// As in their file.
    links: RwLock<Links>,
    plan: RwLock<Arc<CheckedPlan>>,
    /// Held while the plan is changed, or held events are replayed.
    changing_plan: Mutex<()>,
    rejections: Mutex<rejections::Rejections>,
    user_alerts: user_alerts::UserAlerts,
    /// Held while an export is written, or changed by an erasure.
    exports: Mutex<()>,
    publication: publication::Publication,
    follower: follower::Follower,
    waiting_audit: audit::Waiting,
    last_rollup: status::LastRollup,
    counted_day: monitoring::CountedDay,
    alerts: alerts::EngineAlerts,
    query_memory: Arc<QueryMemory>,
    value_counts: values::ValueCounts,
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
        // Without its types, events that were declared would be rejected, and lost.
        let plan = CheckedPlan::new(Plan::load(store.folder())?)?;
        let alerts = alerts::EngineAlerts::load(store.folder());
        let links = reports::load_links(store.folder());
        let engine = Self {
            alerts,
            store,
            config: config.clone(),
            rollup_log: Mutex::new(()),
            cohorts: Mutex::new(()),
            reports: Mutex::new(()),
            links: RwLock::new(links),
            plan: RwLock::new(Arc::new(plan)),
            changing_plan: Mutex::new(()),
            rejections: Mutex::default(),
            user_alerts: user_alerts::UserAlerts::default(),
            exports: Mutex::new(()),
            publication: publication::Publication::default(),
            follower: follower::Follower::default(),
            waiting_audit: audit::Waiting::default(),
            last_rollup: status::LastRollup::default(),
            counted_day: monitoring::CountedDay::default(),
            query_memory: QueryMemory::new(u64::from(config.limit_query_mib) << 20),
            value_counts: values::ValueCounts::default(),
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

/// Checks the most entries of a response.
///
/// # Errors
/// `bad_limit`.
fn check_limit(limit: usize, most: usize) -> Result<()> {
    metrics::check_limit(limit, most)
        .map_err(|message| Error::bad_input(ErrorCode::BadLimit, message))
}
