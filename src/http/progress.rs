//! How far one connection is: between two requests, in one, or waiting for a client that does not read. The stream, the service
//! and the accept loop share it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use tokio::sync::Notify;

/// State of a connection. Stream and service are polled by one task; only [`Progress::evict`] comes from another.
pub struct Progress {
    opened: Instant,
    /// Milliseconds after `opened` at which it began to wait for a request, plus one; 0 while a request is answered.
    waiting_since: AtomicU64,
    /// The last response was handed over whole; what of it is buffered may not be written yet.
    is_answered: AtomicBool,
    /// The socket takes no more bytes.
    is_blocked: AtomicBool,
    /// The request is answered also if the client sends nothing more and has shut down its side.
    holds_end: AtomicBool,
    /// The client has shut down its side.
    has_ended: AtomicBool,
    ended: AtomicWaker,
    released: AtomicWaker,
    is_evicted: AtomicBool,
    evicted: Notify,
}

impl Progress {
    /// Of a connection that waits for its first request.
    pub fn new() -> Self {
        Self {
            opened: Instant::now(),
            waiting_since: AtomicU64::new(1),
            is_answered: AtomicBool::new(true),
            is_blocked: AtomicBool::new(false),
            holds_end: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
            ended: AtomicWaker::new(),
            released: AtomicWaker::new(),
            is_evicted: AtomicBool::new(false),
            evicted: Notify::new(),
        }
    }

    /// A request came. With `holds_end` the end of the client's data is hidden from HTTP until the request is answered.
    pub fn begin(&self, holds_end: bool) {
        self.waiting_since.store(0, Ordering::Relaxed);
        self.is_answered.store(false, Ordering::Relaxed);
        self.holds_end.store(holds_end, Ordering::Relaxed);
    }

    /// The response was handed over whole, or dropped.
    pub fn answered(&self) {
        self.is_answered.store(true, Ordering::Relaxed);
    }

    /// All bytes that were handed over were written to the socket. Whether the connection begins to wait for a request by that.
    pub fn flushed(&self) -> bool {
        let waits = self.is_answered.load(Ordering::Relaxed) && !self.is_waiting();
        if waits {
            let since = self.opened.elapsed().as_millis() as u64 + 1;
            self.waiting_since.store(since, Ordering::Relaxed);
            self.holds_end.store(false, Ordering::Relaxed);
            self.released.wake();
        }
        waits
    }

    /// Whether no request is being answered.
    pub fn is_waiting(&self) -> bool {
        self.waiting_since.load(Ordering::Relaxed) != 0
    }

    /// How long it has waited for a request.
    pub fn waited(&self) -> Option<Duration> {
        let since = self.waiting_since.load(Ordering::Relaxed).checked_sub(1)?;
        self.opened
            .elapsed()
            .checked_sub(Duration::from_millis(since))
    }

    /// Notes whether the socket takes bytes.
    pub fn set_blocked(&self, is_blocked: bool) {
        self.is_blocked.store(is_blocked, Ordering::Relaxed);
    }

    /// Whether the socket takes no bytes.
    pub fn is_blocked(&self) -> bool {
        self.is_blocked.load(Ordering::Relaxed)
    }

    /// The client has shut down its side. Whether that is told now.
    pub fn poll_end(&self, context: &mut Context<'_>) -> Poll<()> {
        self.has_ended.store(true, Ordering::Relaxed);
        self.ended.wake();
        self.released.register(context.waker());
        match self.holds_end.load(Ordering::Relaxed) {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }

    /// Whether the client has shut down its side.
    pub fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed)
    }

    /// Is ready once the client has shut down its side.
    pub fn poll_ended(&self, context: &mut Context<'_>) -> Poll<()> {
        self.ended.register(context.waker());
        match self.has_ended() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Asks the connection to end if it still waits; false if it was asked before.
    pub fn evict(&self) -> bool {
        let is_first = !self.is_evicted.swap(true, Ordering::Relaxed);
        if is_first {
            self.evicted.notify_one();
        }
        is_first
    }

    /// Resolves when the connection was asked to end.
    pub async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// Whether it was asked to end.
    pub fn is_evicted(&self) -> bool {
        self.is_evicted.load(Ordering::Relaxed)
    }

    /// A request came before it was asked to end. Whether it had been asked.
    pub fn keep(&self) -> bool {
        self.is_evicted.swap(false, Ordering::Relaxed)
    }
}
