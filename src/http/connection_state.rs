//! State of one connection: idle, serving a request, or blocked by a client that does not read. The
//! socket, the service and the accept loop share it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use tokio::sync::Notify;

/// State of a connection. The socket and the service are polled by one task; only
/// [`ConnectionState::evict`] is called by another.
pub struct ConnectionState {
    opened: Instant,
    /// Milliseconds after `opened` at which it began to wait for a request, plus one; 0 while a
    /// request is served.
    waiting_since: AtomicU64,
    /// The last response was passed to the connection completely; buffered bytes may not be written
    /// yet.
    is_passed_on: AtomicBool,
    /// The socket's send buffer is full.
    is_blocked: AtomicBool,
    /// The request is served even if the client has shut down its side.
    holds_end: AtomicBool,
    /// The client has shut down its side.
    has_ended: AtomicBool,
    ended: AtomicWaker,
    released: AtomicWaker,
    is_evicted: AtomicBool,
    evicted: Notify,
}

impl ConnectionState {
    /// The state of a connection that waits for its first request.
    pub fn new() -> Self {
        Self {
            opened: Instant::now(),
            waiting_since: AtomicU64::new(1),
            is_passed_on: AtomicBool::new(true),
            is_blocked: AtomicBool::new(false),
            holds_end: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
            ended: AtomicWaker::new(),
            released: AtomicWaker::new(),
            is_evicted: AtomicBool::new(false),
            evicted: Notify::new(),
        }
    }

    /// A request arrived. With `holds_end`, the end of the client's data is hidden from hyper until
    /// the response is written.
    pub fn begin(&self, holds_end: bool) {
        self.waiting_since.store(0, Ordering::Relaxed);
        self.is_passed_on.store(false, Ordering::Relaxed);
        self.holds_end.store(holds_end, Ordering::Relaxed);
    }

    /// The response was passed on completely, or dropped.
    pub fn set_passed_on(&self) {
        self.is_passed_on.store(true, Ordering::Relaxed);
    }

    /// All bytes that were passed on were written to the socket. Returns true if the connection now
    /// begins to wait for a request.
    pub fn flushed(&self) -> bool {
        let waits = self.is_passed_on.load(Ordering::Relaxed) && !self.is_waiting();
        if waits {
            let since = self.opened.elapsed().as_millis() as u64 + 1;
            self.waiting_since.store(since, Ordering::Relaxed);
            self.holds_end.store(false, Ordering::Relaxed);
            self.released.wake();
        }
        waits
    }

    /// Returns true if no request is being served.
    pub fn is_waiting(&self) -> bool {
        self.waiting_since.load(Ordering::Relaxed) != 0
    }

    /// The time since it began to wait for a request.
    pub fn waited(&self) -> Option<Duration> {
        let since = self.waiting_since.load(Ordering::Relaxed).checked_sub(1)?;
        self.opened
            .elapsed()
            .checked_sub(Duration::from_millis(since))
    }

    /// Sets whether the socket's send buffer is full.
    pub fn set_blocked(&self, is_blocked: bool) {
        self.is_blocked.store(is_blocked, Ordering::Relaxed);
    }

    /// Returns true if the socket's send buffer is full.
    pub fn is_blocked(&self) -> bool {
        self.is_blocked.load(Ordering::Relaxed)
    }

    /// Notes that the client has shut down its side. Ready if hyper may see that now.
    pub fn poll_end(&self, context: &mut Context<'_>) -> Poll<()> {
        self.has_ended.store(true, Ordering::Relaxed);
        self.ended.wake();
        self.released.register(context.waker());
        if self.holds_end.load(Ordering::Relaxed) {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    /// Returns true if the client has shut down its side.
    pub fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed)
    }

    /// Ready once the client has shut down its side.
    pub fn poll_ended(&self, context: &mut Context<'_>) -> Poll<()> {
        self.ended.register(context.waker());
        if self.has_ended() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Asks the connection to close if it is idle; false if it was asked before.
    pub fn evict(&self) -> bool {
        let is_first = !self.is_evicted.swap(true, Ordering::Relaxed);
        if is_first {
            self.evicted.notify_one();
        }
        is_first
    }

    /// Resolves when the connection is asked to close.
    pub async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// Returns true if it was asked to close.
    pub fn is_evicted(&self) -> bool {
        self.is_evicted.load(Ordering::Relaxed)
    }

    /// Withdraws the request to close: a request arrived first, or it has closed. Returns true if
    /// it was asked to close.
    pub fn keep(&self) -> bool {
        self.is_evicted.swap(false, Ordering::Relaxed)
    }
}
