//! Long jobs that a client starts, follows and cancels: `/api/analytics/jobs`.
//!
//! They are in memory: after a restart their ids are unknown, and only what a job had committed
//! stays. An interrupted erasure continues by itself.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::value::RawValue;
use tracing::{error, info};
use utoipa::openapi::response::{Response as Described, ResponseBuilder};
use utoipa::openapi::{Content, Ref, RefOr};
use utoipa::{IntoResponses, ToSchema};

use super::described::{ConfirmErrors, DashKeyErrors, Errors, NotFoundErrors};
use super::error_response::ErrorResponse;
use super::extract::{Keyed, PathParam};
use super::json_response::JsonResponse;
use super::{App, HandlerResult};
use crate::engine::Engine;
use crate::error::{Error, ErrorCode, Result, shown};
use crate::progress::Progress;
use crate::window::utc_string;

/// Most jobs that are remembered: a list that a person can read.
const MAX_REMEMBERED: usize = 100;
/// Most jobs that have not ended: more than a person starts, and few enough that a program that
/// starts them in a loop is noticed.
const MAX_UNFINISHED: usize = 20;
/// Time after which a client should try again to start one.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Bytes of the id of a job, which must not be that of another job after a restart.
const ID_BYTES: usize = 8;
/// The header by which a client asks for a job in place of a response that takes long (RFC 7240).
const PREFER: &str = "prefer";
/// The preference.
const RESPOND_ASYNC: &str = "respond-async";

/// The kind of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// Users are erased.
    Erasure,
    /// The lake is exported.
    Export,
    /// Files are imported.
    Import,
    /// Daily states are made again.
    Rebuild,
    /// The missing rollups are written.
    Rollup,
    /// The event log is sealed, and small segments are joined.
    Seal,
    /// Every checksum is verified.
    Verify,
}

impl JobKind {
    /// The unit of its progress.
    fn unit(self) -> &'static str {
        match self {
            Self::Erasure => "users",
            Self::Export => "events",
            Self::Import => "bytes",
            Self::Rebuild | Self::Rollup | Self::Seal => "days",
            Self::Verify => "files",
        }
    }
}

/// The state of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// It waits for other jobs.
    Queued,
    /// It runs.
    Running,
    /// It was cancelled and ends soon.
    Cancelling,
    /// It has ended with a result.
    Done,
    /// It has ended with an error.
    Failed,
    /// It has ended because it was cancelled.
    Cancelled,
}

/// The jobs of the server, oldest first.
#[derive(Default)]
pub struct Jobs(Mutex<VecDeque<Arc<Job>>>);

struct Job {
    id: String,
    kind: JobKind,
    /// The name of the key that started it.
    started_by: Arc<str>,
    created_at: DateTime<Utc>,
    progress: Progress,
    phase: Mutex<Phase>,
}

enum Phase {
    Queued,
    Running(Instant),
    Ended(DateTime<Utc>, Outcome),
}

enum Outcome {
    Done(Box<RawValue>),
    Failed(ErrorResponse),
    Cancelled,
}

/// A job.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobAnswer {
    /// Always true: the state of the job says whether it succeeded.
    ok: bool,
    /// Its id.
    id: String,
    /// Its kind.
    kind: JobKind,
    /// Its state.
    state: JobState,
    /// The name of the key that started it.
    #[schema(value_type = String)]
    started_by: Arc<str>,
    /// Time of the request.
    created_at: String,
    /// Time at which it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<String>,
    /// Its progress.
    progress: JobProgress,
    /// It can be cancelled now.
    can_cancel: bool,
    /// The result of a job that is done: what the command of its name prints.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    result: Option<Box<RawValue>>,
    /// The error of a job that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<JobError>,
}

/// The progress of a job.
#[derive(Debug, Serialize, ToSchema)]
struct JobProgress {
    /// The unit of the numbers.
    unit: &'static str,
    /// The part that is done.
    done: u64,
    /// The whole work; absent while it is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
    /// Events that an import has read.
    #[serde(skip_serializing_if = "is_zero")]
    events: u64,
    /// Expected time until it ends, in seconds; absent while it is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_left: Option<u64>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The error of a job, as the response of a request that waits for the work would have it.
#[derive(Debug, Serialize, ToSchema)]
struct JobError {
    /// The status of that response.
    status: u16,
    /// Its code.
    code: ErrorCode,
    /// Its message.
    message: String,
}

/// The jobs that are remembered.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobsAnswer {
    /// Always true.
    ok: bool,
    /// Newest first.
    jobs: Vec<JobAnswer>,
}

/// The jobs that are remembered, the newest first.
#[utoipa::path(
    get,
    path = "/api/analytics/jobs",
    operation_id = "jobs",
    tag = "operation",
    responses(
        (status = 200, description = "The jobs.", body = JobsAnswer),
        Errors, DashKeyErrors
    )
)]
pub async fn list(Keyed(app): Keyed) -> JsonResponse<JobsAnswer> {
    let jobs = app.jobs.0.lock();
    JsonResponse(JobsAnswer {
        ok: true,
        jobs: jobs.iter().rev().map(|job| job.describe()).collect(),
    })
}

/// A job.
#[utoipa::path(
    get,
    path = "/api/analytics/jobs/{id}",
    operation_id = "job",
    tag = "operation",
    params(("id" = String, Path, description = "The job's id.")),
    responses(
        (status = 200, description = "The job.", body = JobAnswer),
        Errors, DashKeyErrors, NotFoundErrors
    )
)]
pub async fn show(
    Keyed(app): Keyed,
    PathParam(id): PathParam,
) -> HandlerResult<JsonResponse<JobAnswer>> {
    Ok(JsonResponse(app.jobs.find(&id)?.describe()))
}

/// Cancels a job, if it has not committed its work.
#[utoipa::path(
    delete,
    path = "/api/analytics/jobs/{id}",
    operation_id = "cancel_job",
    tag = "operation",
    params(("id" = String, Path, description = "The job's id.")),
    responses(
        (status = 200, description = "The job, which ends soon.", body = JobAnswer),
        Errors, DashKeyErrors, NotFoundErrors, ConfirmErrors
    )
)]
pub async fn cancel(
    Keyed(app): Keyed,
    PathParam(id): PathParam,
) -> HandlerResult<JsonResponse<JobAnswer>> {
    let job = app.jobs.find(&id)?;
    let described = job.describe();
    let conflict = |code, message| Err(ErrorResponse::new(StatusCode::CONFLICT, code, message));
    match described.state {
        JobState::Cancelled | JobState::Cancelling => Ok(JsonResponse(described)),
        JobState::Done | JobState::Failed => conflict(
            ErrorCode::JobEnded,
            "the job has ended; nothing was changed",
        ),
        JobState::Queued | JobState::Running if job.progress.cancel() => {
            info!(job = %job.id, "Cancelling the job {}", job.id);
            Ok(JsonResponse(job.describe()))
        }
        JobState::Queued | JobState::Running => conflict(
            ErrorCode::JobCommitted,
            match job.kind {
                JobKind::Erasure => {
                    "the erasure is recorded and cannot be undone; it continues to its end, also after a restart"
                }
                _ => "the job is committing its work and cannot be cancelled any more",
            },
        ),
    }
}

/// The response of a route that starts a job.
pub struct JobResponse;

impl IntoResponses for JobResponse {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        let job = Ref::from_schema_name(JobAnswer::name());
        let response = ResponseBuilder::new()
            .description("The job, whose path is in the header Location.")
            .content("application/json", Content::new(Some(RefOr::Ref(job))))
            .build();
        [(StatusCode::ACCEPTED.as_u16().to_string(), response.into())].into()
    }
}

impl Jobs {
    fn find(&self, id: &str) -> HandlerResult<Arc<Job>> {
        let jobs = self.0.lock();
        let found = jobs.iter().find(|job| job.id == id);
        found.cloned().ok_or_else(|| {
            let id = shown(id);
            ErrorResponse::new(
                StatusCode::NOT_FOUND,
                ErrorCode::UnknownJob,
                format!(
                    "there is no job {id:?}; the server remembers the last {MAX_REMEMBERED} jobs since its start, and an \
                     erasure that a restart interrupted continues by itself"
                ),
            )
        })
    }

    /// Adds a job, and forgets the oldest ones that have ended.
    fn add(&self, kind: JobKind, started_by: Arc<str>) -> HandlerResult<Arc<Job>> {
        let mut id = [0_u8; ID_BYTES];
        getrandom::fill(&mut id).map_err(|error| {
            Error::system("make the id of a job")(std::io::Error::other(error.to_string()))
        })?;
        let job = Arc::new(Job {
            id: hex::encode(id),
            kind,
            started_by,
            created_at: Utc::now(),
            progress: Progress::default(),
            phase: Mutex::new(Phase::Queued),
        });
        let mut jobs = self.0.lock();
        let unfinished = jobs.iter().filter(|job| !job.has_ended()).count();
        if unfinished >= MAX_UNFINISHED {
            return Err(ErrorResponse::too_many(
                ErrorCode::TooManyJobs,
                "too many jobs have not ended",
                RETRY_AFTER,
            ));
        }
        while jobs.len() >= MAX_REMEMBERED
            && let Some(oldest) = jobs.iter().position(|job| job.has_ended())
        {
            jobs.remove(oldest);
        }
        jobs.push_back(job.clone());
        Ok(job)
    }
}

impl Job {
    fn has_ended(&self) -> bool {
        matches!(*self.phase.lock(), Phase::Ended(..))
    }

    fn end(&self, outcome: Outcome) {
        *self.phase.lock() = Phase::Ended(Utc::now(), outcome);
    }

    fn describe(&self) -> JobAnswer {
        let counted = self.progress.counted();
        let phase = self.phase.lock();
        let is_cancelled = self.progress.check().is_err();
        let mut answer = JobAnswer {
            ok: true,
            id: self.id.clone(),
            kind: self.kind,
            state: match &*phase {
                Phase::Queued | Phase::Running(_) if is_cancelled => JobState::Cancelling,
                Phase::Queued => JobState::Queued,
                Phase::Running(_) => JobState::Running,
                Phase::Ended(_, Outcome::Done(_)) => JobState::Done,
                Phase::Ended(_, Outcome::Failed(_)) => JobState::Failed,
                Phase::Ended(_, Outcome::Cancelled) => JobState::Cancelled,
            },
            started_by: self.started_by.clone(),
            created_at: utc_string(self.created_at),
            ended_at: None,
            progress: JobProgress {
                unit: self.kind.unit(),
                done: counted.done,
                total: counted.total,
                events: counted.events,
                seconds_left: None,
            },
            can_cancel: false,
            result: None,
            error: None,
        };
        match &*phase {
            Phase::Queued => answer.can_cancel = self.progress.is_open(),
            Phase::Running(since) => {
                answer.can_cancel = self.progress.is_open();
                answer.progress.seconds_left =
                    counted.left(since.elapsed()).map(|left| left.as_secs());
            }
            Phase::Ended(at, outcome) => {
                answer.ended_at = Some(utc_string(*at));
                match outcome {
                    Outcome::Done(result) => answer.result = Some(result.clone()),
                    Outcome::Failed(error) => {
                        let (status, code, message) = error.parts();
                        answer.error = Some(JobError {
                            status: status.as_u16(),
                            code,
                            message: message.to_owned(),
                        });
                    }
                    Outcome::Cancelled => {}
                }
            }
        }
        answer
    }
}

/// True if the client prefers a job to a response that takes long.
pub(super) fn prefers_job(headers: &HeaderMap) -> bool {
    let preferences = headers.get_all(PREFER).iter();
    preferences
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|preference| preference.split(';').next())
        .any(|name| name.trim().eq_ignore_ascii_case(RESPOND_ASYNC))
}

impl App {
    /// Starts a job, which runs once a permit is free. The response is 202 with its address.
    ///
    /// # Errors
    /// 429 `too_many_jobs` if too many have not ended.
    pub(super) fn start_job<T: Serialize + Send + 'static>(
        &self,
        kind: JobKind,
        work: impl FnOnce(&Engine, &Progress) -> Result<T> + Send + 'static,
    ) -> HandlerResult<Response> {
        let job = self.jobs.add(kind, self.operator())?;
        let (app, to_run) = (self.clone(), job.clone());
        tokio::spawn(async move {
            let permit = app.permits.jobs.acquire().await;
            *to_run.phase.lock() = Phase::Running(Instant::now());
            let (engine, progress) = (app.engine.clone(), to_run.progress.clone());
            let worked = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                progress.check()?;
                work(&engine, &progress)
            });
            to_run.end(match worked.await {
                Ok(Ok(result)) => match serde_json::value::to_raw_value(&result) {
                    Ok(result) => Outcome::Done(result),
                    Err(error) => {
                        error!("The result of a job cannot be encoded: {error}");
                        Outcome::Failed(ErrorResponse::internal())
                    }
                },
                Ok(Err(Error::Cancelled(_))) => Outcome::Cancelled,
                Ok(Err(error)) => Outcome::Failed(error.into()),
                Err(_) => {
                    error!(job = %to_run.id, "The job {} panicked", to_run.id);
                    Outcome::Failed(ErrorResponse::internal())
                }
            });
        });
        let base = self.public_limits.config().base_path.as_str();
        let location = format!("{base}/api/analytics/jobs/{}", job.id);
        let mut response = (StatusCode::ACCEPTED, JsonResponse(job.describe())).into_response();
        // A base path is of plain segments.
        if let Ok(location) = HeaderValue::from_str(&location) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        response.headers_mut().insert(
            HeaderName::from_static("preference-applied"),
            HeaderValue::from_static(RESPOND_ASYNC),
        );
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bounded_number_of_jobs_is_remembered_and_unfinished_ones_are_kept() {
        let jobs = Jobs::default();
        let add = || jobs.add(JobKind::Seal, "anna".into());
        let first = add().expect("a job");
        for _ in 0..2 * MAX_REMEMBERED {
            add().expect("a job").end(Outcome::Cancelled);
        }
        assert_eq!(jobs.0.lock().len(), MAX_REMEMBERED);
        assert!(jobs.find(&first.id).is_ok());
        for _ in 1..MAX_UNFINISHED {
            add().expect("a job");
        }
        let rejected = add().err().expect("too many");
        assert_eq!(rejected.status(), StatusCode::TOO_MANY_REQUESTS);
        first.end(Outcome::Cancelled);
        assert!(add().is_ok() && jobs.0.lock().len() == MAX_REMEMBERED);
        assert!(jobs.find("0123456789abcdef").is_err());
    }

    #[test]
    fn the_state_of_a_job_follows_its_phase() {
        let jobs = Jobs::default();
        let job = jobs.add(JobKind::Rebuild, "anna".into()).expect("a job");
        assert_eq!(job.describe().state, JobState::Queued);
        *job.phase.lock() = Phase::Running(Instant::now() - Duration::from_secs(10));
        job.progress.set_total(4);
        job.progress.set_done(1);
        let running = job.describe();
        assert!(running.state == JobState::Running && running.can_cancel);
        assert!(running.progress.seconds_left.is_some_and(|left| left >= 30));
        assert!(job.progress.cancel());
        let cancelling = job.describe();
        assert!(cancelling.state == JobState::Cancelling && !cancelling.can_cancel);
        let full: ErrorResponse = Error::DiskFull.into();
        job.end(Outcome::Failed(full));
        let failed = job.describe();
        assert_eq!(failed.state, JobState::Failed);
        assert!(
            failed
                .error
                .is_some_and(|error| error.status == 507 && error.code == ErrorCode::DiskFull)
        );
    }

    #[test]
    fn the_preference_for_a_job_is_read_from_a_list() {
        for (value, expected) in [
            ("respond-async", true),
            ("wait=10, Respond-Async; x=1", true),
            ("respond-asynchronously", false),
            ("return=minimal", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(PREFER, value.parse().expect("a header value"));
            assert_eq!(prefers_job(&headers), expected, "{value}");
        }
        assert!(!prefers_job(&HeaderMap::new()));
    }
}
