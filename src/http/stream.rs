//! The socket of a connection, with what HTTP/1 in hyper lacks: a deadline for writing, and bodies for the responses that hyper
//! gives by itself to heads that it cannot read.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::progress::Progress;
use super::refusal::Refusal;

/// A socket whose client must read.
pub struct Stream {
    tcp: TcpStream,
    progress: Arc<Progress>,
    write_timeout: Duration,
    /// Runs while the socket takes nothing.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Whether a line of the next head has come.
    has_line: bool,
    /// What is written in the place of hyper's own response.
    own: Vec<u8>,
}

impl Stream {
    /// Of a connection that waits for its first request.
    pub fn new(tcp: TcpStream, progress: Arc<Progress>, write_timeout: Duration) -> Self {
        Self {
            tcp,
            progress,
            write_timeout,
            deadline: None,
            has_line: false,
            own: Vec::new(),
        }
    }

    /// The socket.
    pub fn into_tcp(self) -> TcpStream {
        self.tcp
    }

    /// Ends the connection with an error if the socket has taken nothing for too long.
    fn progressed<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.deadline = None;
            self.progress.set_blocked(false);
            return written;
        }
        self.progress.set_blocked(true);
        let timeout = self.write_timeout;
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        ready!(deadline.as_mut().poll(context));
        // What the system holds of the response would stay in its memory for minutes. Without this it is only freed later.
        let _ = self.tcp.set_zero_linger();
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client does not read its response",
        )))
    }

    /// Writes what is left of our own response.
    fn poll_own(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.own.is_empty() {
            let written = Pin::new(&mut self.tcp).poll_write(context, &self.own);
            let written = ready!(self.progressed(context, written))?;
            self.own.drain(..written);
        }
        Poll::Ready(Ok(()))
    }

    /// Takes bytes that hyper writes while no request is answered: its response to a head that it cannot read, which has no
    /// body. Ours is written instead. How many bytes were taken.
    fn take_own(&mut self, start: &[u8], bytes: usize) -> Option<usize> {
        if !self.progress.is_waiting() {
            return None;
        }
        let refusal = match start.strip_prefix(b"HTTP/1.1 ")?.get(..3)? {
            b"431" if !self.has_line => uri_too_long(),
            b"431" => head_too_large(),
            b"414" => uri_too_long(),
            b"400" => bad_request("the head of the request is no HTTP/1"),
            _ => return None,
        };
        self.own.extend(refusal.raw());
        Some(bytes)
    }
}

/// The answer to a request that cannot be read.
pub fn bad_request(message: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "bad_request", message)
}

/// The answer to a request with too long a path.
pub fn uri_too_long() -> Refusal {
    Refusal::new(
        StatusCode::URI_TOO_LONG,
        "uri_too_long",
        format!(
            "the path and query string are longer than {} bytes",
            super::MAX_URI_BYTES
        ),
    )
}

/// The answer to a request with too large a head.
pub fn head_too_large() -> Refusal {
    Refusal::new(
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        "head_too_large",
        format!(
            "the head of the request has more than {} bytes or {} header lines",
            super::MAX_HEAD_BYTES,
            super::MAX_HEADERS
        ),
    )
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if !self.progress.has_ended() {
            ready!(Pin::new(&mut self.tcp).poll_read(context, buffer))?;
            let read = buffer.filled().get(before..).unwrap_or_default();
            if !read.is_empty() || buffer.remaining() == 0 {
                self.has_line |= memchr::memchr(b'\n', read).is_some();
                return Poll::Ready(Ok(()));
            }
        }
        self.progress.poll_end(context).map(Ok)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_own(context))?;
        let bytes = pieces.iter().map(|piece| piece.len()).sum();
        let start = pieces.first().map_or(&[][..], |piece| piece);
        if let Some(taken) = self.take_own(start, bytes) {
            return Poll::Ready(Ok(taken));
        }
        let written = Pin::new(&mut self.tcp).poll_write_vectored(context, pieces);
        self.progressed(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes when nothing is left in its own buffer.
        ready!(self.poll_own(context))?;
        if self.progress.flushed() {
            self.has_line = false;
        }
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_own(context))?;
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}
