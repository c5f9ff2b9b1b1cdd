//! The audit log: who read, exported or erased the events of users, and who changed keys, cohorts,
//! reports, share links, alerts and the clock. It has no user ids, only keyed hashes of them.
//!
//! Access, export and erasure have two lines with the same `run`: one before and one after. The
//! events of users are not sent if the first cannot be written. Everything else is done also then:
//! the lines are written together with the next one, or lost with the process.

use std::collections::BTreeMap;
use std::time::Instant;

use chrono::{DateTime, NaiveDate, SecondsFormat, Utc};
use parking_lot::Mutex;
use ring::hmac;
use serde::{Deserialize, Serialize};
use tracing::error;
use utoipa::ToSchema;

use super::{
    AuditAnswer, Cancel, ClockAnswer, Engine, EraseAnswer, ExportAnswer, ExportRequest, PlanAnswer,
    RemovedLinkAnswer, ReplayAnswer, check_limit,
};
use crate::cohorts::Cohorts;
use crate::error::{Error, Result, first_chars};
use crate::export::events::EventFormat;
use crate::metrics::cohort::Cohort;
use crate::metrics::query::Query;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::store::audit;
use crate::store::folder::{Access, Folder};

/// Bytes of the hash of a user id: those of another id differ.
const HASH_BYTES: usize = 16;
/// Bytes of the id of an action.
const RUN_BYTES: usize = 8;
/// Most lines that wait to be written: more than a person causes while the disk is full.
const MAX_WAITING: usize = 10_000;
/// Most characters of the subject of an action.
const MAX_SUBJECT_CHARS: usize = 300;
/// The name of an operator on the command line.
pub const COMMAND_LINE: &str = "command line";
/// The name of the operator of an erasure that continues by itself.
const SERVER: &str = "server";

/// An action that the audit log records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The events of a user are sent.
    Access,
    /// The events of a window, or the lake, are exported.
    Export,
    /// Users are erased.
    Erasure,
    /// An alert or digest is created, replaced or removed.
    Alert,
    /// An annotation is created, replaced or removed.
    Annotation,
    /// A cohort is created, replaced or removed.
    Cohort,
    /// The clock is confirmed.
    Clock,
    /// A link between ids of users is removed.
    Link,
    /// The tracking plan is replaced, or quarantined events are replayed.
    Plan,
    /// The keys are replaced by those of changed files.
    Keys,
    /// A report or board is created, replaced or removed.
    Report,
    /// A share link is created or revoked.
    ShareLink,
}

/// The outcome of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It begins; another line with the same `run` has its outcome.
    Begun,
    /// It was done.
    Done,
    /// It failed, and may be done in part.
    Failed,
    /// Its client disconnected, or it was cancelled.
    Cancelled,
}

/// A line of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// Time.
    pub at: String,
    /// The action.
    pub action: Action,
    /// Id of the action, the same in both lines of one action.
    pub run: String,
    /// Name of the key, `command line`, or what changed the keys.
    pub by: String,
    /// The outcome.
    pub outcome: Outcome,
    /// Keyed hashes of user ids.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<String>,
    /// The subject of the action: the name of a cohort, the target and format of an export, a date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Counts, such as events and bytes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counts: BTreeMap<String, u64>,
    /// The message of an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Lines that could not be written yet.
#[derive(Default)]
pub(super) struct Waiting(Mutex<Vec<AuditEntry>>);

/// The operations that the audit log records, on behalf of an operator.
pub struct By<'a> {
    pub(super) engine: &'a Engine,
    pub(super) name: &'a str,
    pub(super) now: DateTime<Utc>,
    since: Instant,
}

/// A filter of the audit log.
#[derive(Debug, Clone, Default)]
pub struct AuditRequest {
    /// Most entries; `None` for the default.
    pub limit: Option<usize>,
    /// Only actions on this user.
    pub user: Option<String>,
}

impl AuditRequest {
    /// Most entries of a response.
    pub const MAX_LIMIT: usize = 10_000;
    const LIMIT: usize = 100;
}

impl Engine {
    /// The operations that the audit log records, on behalf of an operator, from `now` on: the name
    /// of a key, or [`COMMAND_LINE`].
    pub fn by<'a>(&'a self, name: &'a str, now: DateTime<Utc>) -> By<'a> {
        By {
            engine: self,
            name,
            now,
            since: Instant::now(),
        }
    }

    /// The newest entries of the audit log, newest first.
    ///
    /// # Errors
    /// `bad_limit`, and if it cannot be read.
    pub fn audit(&self, request: &AuditRequest) -> Result<AuditAnswer> {
        let limit = request.limit.unwrap_or(AuditRequest::LIMIT);
        check_limit(limit, AuditRequest::MAX_LIMIT)?;
        let folder = self.store().folder();
        let hashes = match (&request.user, key_of(folder)) {
            (None, _) => None,
            (Some(_), None) => Some(Vec::new()),
            (Some(user), Some(key)) => Some(vec![hash(&key, user)]),
        };
        let mut entries: Vec<AuditEntry> = Vec::new();
        // The line with the hashes of an action is the older one.
        let mut ended: BTreeMap<String, Vec<AuditEntry>> = BTreeMap::new();
        let _whole_lines = self.waiting_audit.0.lock();
        audit::read_back(folder, |line| {
            let Ok(entry) = serde_json::from_slice::<AuditEntry>(line) else {
                return true;
            };
            match &hashes {
                None => entries.push(entry),
                Some(hashes) if entry.users.is_empty() => {
                    if !hashes.is_empty() && entry.outcome != Outcome::Begun {
                        ended.entry(entry.run.clone()).or_default().push(entry);
                    }
                }
                Some(hashes) => {
                    let ends = ended.remove(&entry.run).unwrap_or_default();
                    if entry.users.iter().any(|user| hashes.contains(user)) {
                        entries.extend(ends);
                        entries.push(entry);
                    }
                }
            }
            entries.len() < limit
        })?;
        entries.truncate(limit);
        Ok(AuditAnswer { ok: true, entries })
    }

    /// Appends an entry, and those that wait. An entry that cannot be written waits.
    fn append_audit(&self, entry: AuditEntry) -> Result<()> {
        let folder = self.store().folder();
        if folder.access() == Access::ReadOnly {
            return Ok(());
        }
        let mut waiting = self.waiting_audit.0.lock();
        waiting.push(entry);
        audit::append(folder, &waiting)?;
        waiting.clear();
        Ok(())
    }

    /// Removes the newest entry that waits, whose action does not happen.
    fn withdraw_audit(&self, run: &str) {
        self.waiting_audit.0.lock().retain(|entry| entry.run != run);
    }

    /// Records an erasure that an earlier process began.
    pub(super) fn record_finished_erasure(&self, users: usize, events: u64, now: DateTime<Utc>) {
        let finished = self.by(SERVER, now);
        let counts = [("users", users as u64), ("events", events)];
        finished.record(Action::Erasure, None, &counts);
    }

    /// Checks the files of the audit log.
    pub(super) fn verify_audit(&self) -> Result<Vec<String>> {
        let _whole_lines = self.waiting_audit.0.lock();
        audit::verify(self.store().folder().path())
    }
}

impl By<'_> {
    /// As [`Engine::user_events`].
    ///
    /// # Errors
    /// Its errors, and if the audit log cannot be written; then nothing is sent.
    pub fn user_events(
        &self,
        user: &str,
        mut sink: impl FnMut(Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let users = [user.to_owned()];
        let run = self.begin(Action::Access, &users, None)?;
        let mut bytes = 0;
        let sent = self.engine.user_events(user, |lines| {
            bytes += lines.len() as u64;
            sink(lines)
        });
        self.end(Action::Access, run, &sent, |()| vec![("bytes", bytes)]);
        sent
    }

    /// As [`Engine::export_events`].
    ///
    /// # Errors
    /// Its errors, and if the audit log cannot be written; then nothing is sent.
    pub fn export_events(
        &self,
        query: &Query,
        format: EventFormat,
        cancel: &Cancel,
        mut sink: impl FnMut(Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let now = self.now;
        let window = query.window.resolve(now)?.describe(now);
        let mut subject = format!("{} to {}, {}", window.from, window.to, format.media_type());
        if !query.filter.is_empty() || !query.cohorts.is_empty() {
            // Not the filter itself: it may have personal data.
            subject.push_str(", filtered");
        }
        let run = self.begin(Action::Export, &[], Some(&subject))?;
        let mut bytes = 0;
        let sent = self
            .engine
            .export_events(query, format, now, cancel, |part| {
                bytes += part.len() as u64;
                sink(part)
            });
        self.end(Action::Export, run, &sent, |()| vec![("bytes", bytes)]);
        sent
    }

    /// As [`Engine::export`].
    ///
    /// # Errors
    /// Its errors, and if the audit log cannot be written; then nothing is exported.
    pub fn export(&self, request: &ExportRequest, progress: &Progress) -> Result<ExportAnswer> {
        let run = self.begin(Action::Export, &[], Some(&request.to))?;
        let exported = self.engine.export(request, self.now, progress);
        self.end(Action::Export, run, &exported, |answer| {
            vec![
                ("events", answer.exported.events),
                ("bytes", answer.exported.bytes),
            ]
        });
        exported
    }

    /// As [`Engine::erase_with`].
    ///
    /// # Errors
    /// Its errors. An erasure does not fail because it cannot be recorded.
    pub fn erase(
        &self,
        users: &[String],
        confirmed: Option<u64>,
        progress: &Progress,
    ) -> Result<EraseAnswer> {
        let run = new_run()?;
        let mut entry = self.entry(Action::Erasure, run.clone(), Outcome::Begun);
        entry.users = self.hashes(users);
        self.keep(entry);
        let erased = self.engine.erase_with(users, confirmed, self.now, progress);
        self.end(Action::Erasure, run, &erased, |answer| {
            vec![
                ("users", answer.erased.users as u64),
                ("events", answer.erased.events),
            ]
        });
        erased
    }

    /// As [`Engine::set_cohort`].
    ///
    /// # Errors
    /// Its errors.
    pub fn set_cohort(&self, cohort: Cohort) -> Result<Cohorts> {
        let subject = format!("set {:?}", cohort.name);
        let users = cohort.users.as_ref().map_or(0, Vec::len) as u64;
        let set = self.engine.set_cohort(cohort)?;
        self.record(Action::Cohort, Some(&subject), &[("users", users)]);
        Ok(set)
    }

    /// As [`Engine::remove_cohort`].
    ///
    /// # Errors
    /// Its errors.
    pub fn remove_cohort(&self, name: &str) -> Result<Cohorts> {
        let removed = self.engine.remove_cohort(name)?;
        self.record(Action::Cohort, Some(&format!("removed {name:?}")), &[]);
        Ok(removed)
    }

    /// As [`Engine::set_plan`].
    ///
    /// # Errors
    /// Its errors.
    pub fn set_plan(&self, plan: Plan) -> Result<PlanAnswer> {
        let counts = [
            ("event_types", plan.event_types.len() as u64),
            ("conversions", plan.conversions.len() as u64),
            ("features", plan.features.len() as u64),
            ("paths", plan.paths.len() as u64),
        ];
        let set = self.engine.set_plan(plan)?;
        self.record(Action::Plan, Some("set"), &counts);
        Ok(set)
    }

    /// As [`Engine::replay_quarantine`].
    ///
    /// # Errors
    /// Its errors.
    pub fn replay_quarantine(&self) -> Result<ReplayAnswer> {
        let replayed = self.engine.replay_quarantine(self.now)?;
        let counts = [
            ("replayed", replayed.replayed as u64),
            ("kept", replayed.kept as u64),
        ];
        self.record(Action::Plan, Some("replayed"), &counts);
        Ok(replayed)
    }

    /// As [`Engine::confirm_clock`].
    ///
    /// # Errors
    /// Its errors.
    pub fn confirm_clock(&self, date: NaiveDate) -> Result<ClockAnswer> {
        let confirmed = self.engine.confirm_clock(date, self.now)?;
        self.record(Action::Clock, Some(&date.to_string()), &[]);
        Ok(confirmed)
    }

    /// As [`Engine::remove_user_link`].
    ///
    /// # Errors
    /// Its errors.
    pub fn remove_user_link(&self, alias: &str) -> Result<RemovedLinkAnswer> {
        let removed = self.engine.remove_user_link(alias, self.now)?;
        let run = new_run().unwrap_or_default();
        let mut entry = self.entry(Action::Link, run, Outcome::Done);
        entry.users = self.hashes(&[alias.to_owned()]);
        self.keep(entry);
        Ok(removed)
    }

    /// Records an action that was done.
    pub fn record(&self, action: Action, subject: Option<&str>, counts: &[(&str, u64)]) {
        // An id is only missing where the system has no random bytes.
        let run = new_run().unwrap_or_default();
        let mut entry = self.entry(action, run, Outcome::Done);
        entry.subject = subject.map(shortened);
        entry.counts = counted(counts);
        self.keep(entry);
    }

    /// Records the begin of an action that must not happen unrecorded. Returns its id.
    fn begin(&self, action: Action, users: &[String], subject: Option<&str>) -> Result<String> {
        let run = new_run()?;
        let mut entry = self.entry(action, run.clone(), Outcome::Begun);
        entry.users = self.hashes(users);
        entry.subject = subject.map(shortened);
        match self.engine.append_audit(entry) {
            Ok(()) => Ok(run),
            Err(error) => {
                self.engine.withdraw_audit(&run);
                Err(error)
            }
        }
    }

    /// Records the end of an action.
    fn end<'b, T>(
        &self,
        action: Action,
        run: String,
        result: &'b Result<T>,
        counts: impl FnOnce(&'b T) -> Vec<(&'static str, u64)>,
    ) {
        let mut entry = self.entry(action, run, Outcome::Done);
        match result {
            Ok(result) => entry.counts = counted(&counts(result)),
            Err(Error::Cancelled(_)) => entry.outcome = Outcome::Cancelled,
            Err(error) => {
                entry.outcome = Outcome::Failed;
                entry.error = Some(kind_of(error).to_owned());
            }
        }
        self.keep(entry);
    }

    fn entry(&self, action: Action, run: String, outcome: Outcome) -> AuditEntry {
        AuditEntry {
            at: (self.now + self.since.elapsed()).to_rfc3339_opts(SecondsFormat::Millis, true),
            action,
            run,
            by: self.name.to_owned(),
            outcome,
            users: Vec::new(),
            subject: None,
            counts: BTreeMap::new(),
            error: None,
        }
    }

    /// Appends an entry; one that cannot be written waits for the next one.
    fn keep(&self, entry: AuditEntry) {
        let (action, run) = (entry.action, entry.run.clone());
        if let Err(error) = self.engine.append_audit(entry) {
            error!(
                ?action,
                run, "The audit log lacks an entry until the next one can be written: {error}"
            );
            let mut waiting = self.engine.waiting_audit.0.lock();
            let lost = waiting.len().saturating_sub(MAX_WAITING);
            if lost > 0 {
                error!(
                    lost,
                    "The audit log lost {lost} entries that could not be written"
                );
                waiting.drain(..lost);
            }
        }
    }

    fn hashes(&self, users: &[String]) -> Vec<String> {
        let Some(key) = key_of(self.engine.store().folder()) else {
            return Vec::new();
        };
        users.iter().map(|user| hash(&key, user)).collect()
    }
}

/// The key of the hashes: it follows from the key of the store, so that copies and backups of the
/// folder find the same users.
fn key_of(folder: &Folder) -> Option<hmac::Key> {
    let key = folder.mark()?.key.as_bytes();
    Some(hmac::Key::new(hmac::HMAC_SHA256, key))
}

/// The keyed hash of a user id.
fn hash(key: &hmac::Key, user: &str) -> String {
    let mut signed = hmac::Context::with_key(key);
    // Not the hash of the same string for another purpose.
    signed.update(b"audit log, user ");
    signed.update(user.as_bytes());
    let hash = signed.sign();
    hex::encode(hash.as_ref().get(..HASH_BYTES).unwrap_or_default())
}

/// The id of an action.
fn new_run() -> Result<String> {
    let mut run = [0_u8; RUN_BYTES];
    getrandom::fill(&mut run).map_err(|error| {
        Error::system("make the id of an action")(std::io::Error::other(error.to_string()))
    })?;
    Ok(hex::encode(run))
}

fn shortened(subject: &str) -> String {
    first_chars(subject, MAX_SUBJECT_CHARS).to_owned()
}

fn counted(counts: &[(&str, u64)]) -> BTreeMap<String, u64> {
    let counts = counts.iter();
    counts
        .map(|(name, count)| ((*name).to_owned(), *count))
        .collect()
}

/// The kind of an error, whose message may have the id of a user.
fn kind_of(error: &Error) -> &'static str {
    match error {
        Error::BadInput { code, .. }
        | Error::TooLarge { code, .. }
        | Error::NotFound { code, .. }
        | Error::Conflict { code, .. } => (*code).into(),
        Error::Busy(_) => "busy",
        Error::Cancelled(_) => "cancelled",
        Error::Clock(_) => "clock",
        Error::Unconfirmed(_) => "confirm_erasure",
        Error::DiskFull => "disk_full",
        Error::Poisoned(_) => "log_stopped",
        Error::Damaged { .. } => "damaged",
        Error::QueryNode => "query_node",
        Error::Remote { .. } => "remote_engine",
        Error::Held { .. } | Error::Io { .. } | Error::System { .. } | Error::Query(_) => {
            "internal"
        }
    }
}
