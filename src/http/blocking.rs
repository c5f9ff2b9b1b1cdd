//! Work that may block runs on the blocking thread pool, with permits for each kind of work.
//!
//! A handler runs on one of a few async threads, which serve all connections: it never reads a
//! file, waits for a lock that is held during I/O, inflates or parses megabytes, or computes. A
//! permit is held until the work has ended, also if the client has disconnected; work that can be
//! cancelled then ends soon.

use std::time::Duration;

use axum::http::StatusCode;
use tokio::sync::OwnedSemaphorePermit;
use tracing::info;

use super::body::ReceivedBody;
use super::error_response::ErrorResponse;
use super::permits::PermitPool;
use super::{App, HandlerResult};
use crate::engine::{Cancel, Cost, Engine, LimitStatus};
use crate::error::{Error, ErrorCode, Result};

/// Queries that read events and run at once; each uses all cores.
const MAX_QUERIES: u32 = 4;
/// Queries that read daily states alone and run at once: each takes milliseconds, so that more
/// would not be faster.
const MAX_STATE_QUERIES: u32 = 4;
/// Exports that run at once: each holds some parts in memory for as long as its client takes.
const MAX_EXPORTS: u32 = 2;
/// Users whose events are sent at once: each holds some parts in memory for as long as its client
/// takes.
const MAX_ACCESSES: u32 = 2;
/// Jobs that a request starts and that run at once: erasures wait for each other, and so do
/// rollups.
const MAX_JOBS: u32 = 2;
/// Short reads and writes of small files, and statistics.
const MAX_SHORT_REQUESTS: u32 = 8;
/// Writes that find out whether a full disk has space again. One is enough for all requests.
const MAX_PROBES: u32 = 1;
/// KiB of bodies that are being received, together: what slow or hostile clients can hold of the
/// memory.
const MAX_BODIES_KIB: u32 = 256 << 10;
/// Time that a query waits for a permit.
const QUERY_WAIT: Duration = Duration::from_secs(10);

/// The permits of each kind of work.
pub(super) struct Permits {
    queries: PermitPool,
    state_queries: PermitPool,
    /// Streams of events.
    pub exports: PermitPool,
    /// Streams of the events of a user.
    pub accesses: PermitPool,
    /// Jobs that requests start.
    pub jobs: PermitPool,
    short_requests: PermitPool,
    /// Bodies that are inflated and parsed at once: one for each core. Each inflated body takes up
    /// to 4 MiB, and one of a client of another product up to 20 MiB.
    decoders: PermitPool,
    probes: PermitPool,
    /// Memory for bodies, a permit a KiB.
    pub bodies: PermitPool,
}

impl Permits {
    pub fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            queries: PermitPool::new("queries", MAX_QUERIES),
            state_queries: PermitPool::new("state_queries", MAX_STATE_QUERIES),
            exports: PermitPool::new("exports", MAX_EXPORTS),
            accesses: PermitPool::new("accesses", MAX_ACCESSES),
            jobs: PermitPool::new("jobs", MAX_JOBS),
            short_requests: PermitPool::new("short_requests", MAX_SHORT_REQUESTS),
            decoders: PermitPool::new("decoders", cores as u32),
            probes: PermitPool::new("probes", MAX_PROBES),
            bodies: PermitPool::new("bodies_kib", MAX_BODIES_KIB),
        }
    }

    /// The limits that are reported in the status.
    pub fn limits(&self) -> impl Iterator<Item = LimitStatus> {
        let pools = [
            &self.bodies,
            &self.queries,
            &self.state_queries,
            &self.exports,
            &self.accesses,
            &self.jobs,
            &self.short_requests,
            &self.decoders,
        ];
        pools.into_iter().map(PermitPool::status)
    }
}

/// Cancels a query when it is dropped before the query has ended: its client has disconnected.
#[derive(Default)]
struct CancelOnDrop {
    cancel: Cancel,
    has_ended: bool,
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if !self.has_ended {
            info!("Cancelled a query: its client disconnected");
            self.cancel.cancel();
        }
    }
}

impl App {
    /// Runs a query once a permit for its cost is free. It is cancelled when the client
    /// disconnects.
    ///
    /// # Errors
    /// 503 `busy` if no permit is free in time, and the errors of the query.
    pub async fn run_query<T: Send + 'static>(
        &self,
        cost: Cost,
        query: impl FnOnce(&Engine, &Cancel) -> Result<T> + Send + 'static,
    ) -> HandlerResult<T> {
        let pool = match cost {
            Cost::States => &self.permits.state_queries,
            Cost::Events => &self.permits.queries,
        };
        let permit = pool
            .acquire_within(QUERY_WAIT)
            .await
            .ok_or(Error::Busy("too many queries at once"))?;
        let engine = self.engine.clone();
        let mut guard = CancelOnDrop::default();
        let cancel = guard.cancel.clone();
        let result = run_blocking(permit, move || query(&engine, &cancel)).await;
        guard.has_ended = true;
        result
    }

    /// Runs a job once a permit is free, however long that takes. A job that has begun ends also
    /// without its client.
    ///
    /// # Errors
    /// Those of the job.
    pub async fn run_job<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Engine) -> Result<T> + Send + 'static,
    ) -> HandlerResult<T> {
        let permit = self.permits.jobs.acquire().await;
        let engine = self.engine.clone();
        run_blocking(permit, move || job(&engine)).await
    }

    /// Runs something that takes milliseconds, once a permit is free.
    ///
    /// # Errors
    /// 503 `busy` if no permit is free in time, and the errors of the work.
    pub async fn run_short<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Engine) -> Result<T> + Send + 'static,
    ) -> HandlerResult<T> {
        let permit = self
            .permits
            .short_requests
            .acquire_within(QUERY_WAIT)
            .await
            .ok_or(Error::Busy("too many requests at once"))?;
        let engine = self.engine.clone();
        run_blocking(permit, move || work(&engine)).await
    }
}

impl Permits {
    /// Decodes a body and parses it: on this thread if it is small, else on the blocking thread
    /// pool.
    ///
    /// # Errors
    /// If the body cannot be decoded, and the errors of `parse`.
    pub async fn decode<T: Send + 'static>(
        &self,
        body: ReceivedBody,
        parse: impl FnOnce(&[u8]) -> HandlerResult<T> + Send + 'static,
    ) -> HandlerResult<T> {
        self.run_decoder(body.is_small(), move || parse(&body.decode()?))
            .await
    }

    /// Runs something that decodes and parses a body: on this thread if that is small, else on the
    /// blocking thread pool.
    ///
    /// # Errors
    /// Those of the work.
    pub async fn run_decoder<T: Send + 'static>(
        &self,
        is_small: bool,
        work: impl FnOnce() -> HandlerResult<T> + Send + 'static,
    ) -> HandlerResult<T> {
        if is_small {
            return work();
        }
        let permit = self.decoders.acquire().await;
        run_blocking(permit, work).await
    }
}

impl App {
    /// Checks whether events can be accepted now. Only a full disk is written to, to find out
    /// whether it has space again, and by one request at a time.
    ///
    /// # Errors
    /// Why not.
    pub async fn check_writable(&self) -> HandlerResult<()> {
        self.engine.check_takes_events()?;
        match self.engine.store().check_accepting() {
            Err(Error::DiskFull) => {}
            accepting => return Ok(accepting?),
        }
        let permit = self.permits.probes.try_acquire(1).ok_or(Error::DiskFull)?;
        let engine = self.engine.clone();
        run_blocking(permit, move || engine.store().check_writable()).await
    }
}

/// Runs work on the blocking thread pool and returns the permit when it has ended.
async fn run_blocking<T: Send + 'static, E: Into<ErrorResponse> + Send + 'static>(
    permit: OwnedSemaphorePermit,
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> HandlerResult<T> {
    let ended = tokio::task::spawn_blocking(move || {
        let result = work();
        drop(permit);
        result
    });
    match ended.await {
        Ok(result) => result.map_err(Into::into),
        Err(error) => match error.try_into_panic() {
            // The layer that catches panics traces it and responds.
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(ErrorResponse::new(
                StatusCode::SERVICE_UNAVAILABLE,
                ErrorCode::Stopping,
                "the server is stopping",
            )),
        },
    }
}
