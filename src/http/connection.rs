//! One connection, from its first byte to its end.

use std::time::Duration;

use axum::http::StatusCode;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tracing::debug;

use super::error_response::ErrorResponse;
use super::public_limits::{HEADER_TIMEOUT, OpenConnection, Phase};
use super::service::Service;
use super::socket::{Socket, bad_request};
use crate::error::ErrorCode;

/// Time that a client has to read its last response, before unread bytes that it sent reset the
/// connection.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes of the client that are read and dropped in this time.
const LINGER_BYTES: usize = 16 << 20;

/// Serves the requests of a connection.
pub async fn serve(
    http: http1::Builder,
    stream: TcpStream,
    service: Service,
    opened: OpenConnection,
) {
    // Responses are small and complete; waiting for more to send together only delays them.
    if let Err(error) = stream.set_nodelay(true) {
        debug!("Cannot switch off the delay of a connection: {error}");
    }
    let (public_limits, state) = (opened.public_limits.clone(), opened.state.clone());
    let mut phase = public_limits.phase();
    // Until the first byte arrives, no buffers are allocated.
    let mut byte = [0];
    let is_open = tokio::select! {
        first = tokio::time::timeout(HEADER_TIMEOUT, stream.peek(&mut byte)) => matches!(first, Ok(Ok(1))),
        () = state.evicted() => false,
        _ = phase.wait_for(|phase| *phase != Phase::Open) => false,
    };
    if !is_open {
        return;
    }
    let timeout = Duration::from_millis(public_limits.config().limits.write_timeout_ms);
    let stream = Socket::new(stream, state.clone(), timeout);
    let mut connection = http.serve_connection(TokioIo::new(stream), service);
    let mut seen = Phase::Open;
    let ended = loop {
        tokio::select! {
            ended = &mut connection => break ended,
            () = state.evicted() => {
                if state.is_waiting() {
                    return;
                }
                public_limits.has_closed(&state);
            }
            changed = phase.wait_for(|phase| *phase != seen) => {
                match changed.map(|phase| *phase) {
                    Ok(Phase::Open) => {}
                    Ok(Phase::Finishing) if !state.is_waiting() => {
                        seen = Phase::Finishing;
                        std::pin::Pin::new(&mut connection).graceful_shutdown();
                    }
                    _ => return,
                }
            }
        }
    };
    let parts = connection.into_parts();
    // Part of a head was received, and nothing is being written.
    let is_half_head = state.is_waiting() && !state.is_blocked() && !parts.read_buf.is_empty();
    let answer = match &ended {
        Ok(()) => None,
        Err(error) if error.is_parse() => {
            // The only head to which hyper sends no response.
            parts
                .read_buf
                .starts_with(b"PRI * HTTP/2.0")
                .then(|| bad_request("HTTP/2 is not served here"))
        }
        Err(error) if is_half_head && error.is_timeout() => Some(slow_head()),
        Err(error) if is_half_head && error.is_incomplete_message() => {
            Some(bad_request("the request ended before its head did"))
        }
        Err(error) => {
            debug!("A connection ended early: {error}");
            return;
        }
    };
    let mut stream = parts.io.into_inner().into_tcp();
    if let Some(answer) = answer {
        // It fits into the socket's buffer, or the client does not read.
        let answer = answer.raw();
        let _ = tokio::time::timeout(LINGER, stream.write_all(&answer)).await;
    }
    if !state.has_ended() && seen == Phase::Open {
        linger(stream).await;
    }
}

fn slow_head() -> ErrorResponse {
    ErrorResponse::new(
        StatusCode::REQUEST_TIMEOUT,
        ErrorCode::SlowHead,
        format!(
            "the head of the request did not arrive within {} s",
            HEADER_TIMEOUT.as_secs()
        ),
    )
}

/// Closes a connection so that the client can read the last response: its own bytes are read for a
/// while, because unread bytes reset the connection, which destroys data in flight to the client.
pub async fn linger(mut stream: TcpStream) {
    let drained = async {
        stream.shutdown().await?;
        let mut left = LINGER_BYTES;
        // On the heap, because each connection has a task of its own that would grow by it.
        let mut buffer = vec![0; 4096];
        while left > 0 {
            let read = stream.read(&mut buffer).await?;
            if read == 0 {
                break;
            }
            left = left.saturating_sub(read);
        }
        std::io::Result::Ok(())
    };
    // Whether or not this fails, the connection ends here.
    let _ = tokio::time::timeout(LINGER, drained).await;
}
