//! One connection, from its first byte to its end.

use std::time::Duration;

use axum::http::StatusCode;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tracing::debug;

use super::door::{HEADER_TIMEOUT, Opened, Phase};
use super::refusal::Refusal;
use super::service::Service;
use super::stream::{Stream, bad_request};

/// Time that a client has to read its last answer, before bytes that it sent and nobody read reset the connection.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes that are read meanwhile.
const LINGER_BYTES: usize = 16 << 20;

/// Serves the requests of a connection.
pub async fn serve(http: http1::Builder, stream: TcpStream, service: Service, opened: Opened) {
    // Answers are small and complete; waiting for more of them to send together only delays them.
    if let Err(error) = stream.set_nodelay(true) {
        debug!("Cannot switch off the delay of a connection: {error}");
    }
    let (door, progress) = (opened.door.clone(), opened.progress.clone());
    let mut phase = door.phase();
    // A connection without a byte has no buffers yet.
    let mut byte = [0];
    let is_open = tokio::select! {
        first = tokio::time::timeout(HEADER_TIMEOUT, stream.peek(&mut byte)) => matches!(first, Ok(Ok(1))),
        () = progress.evicted() => false,
        _ = phase.wait_for(|phase| *phase != Phase::Open) => false,
    };
    if !is_open {
        return;
    }
    let timeout = Duration::from_millis(door.config().limits.write_timeout_ms);
    let stream = Stream::new(stream, progress.clone(), timeout);
    let mut connection = http.serve_connection(TokioIo::new(stream), service);
    let mut seen = Phase::Open;
    let ended = loop {
        tokio::select! {
            ended = &mut connection => break ended,
            () = progress.evicted() => {
                if progress.is_waiting() {
                    return;
                }
                door.has_left(&progress);
            }
            changed = phase.wait_for(|phase| *phase != seen) => {
                match changed.map(|phase| *phase) {
                    Ok(Phase::Open) => {}
                    Ok(Phase::Finishing) if !progress.is_waiting() => {
                        seen = Phase::Finishing;
                        std::pin::Pin::new(&mut connection).graceful_shutdown();
                    }
                    _ => return,
                }
            }
        }
    };
    let parts = connection.into_parts();
    // A part of a head has come, and nothing else is being written.
    let is_half_head =
        progress.is_waiting() && !progress.is_blocked() && !parts.read_buf.is_empty();
    let answer = match &ended {
        Ok(()) => None,
        Err(error) if error.is_parse() => {
            // The one head to which hyper gives no response.
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
        // It fits into the buffer of the socket, or the client does not read.
        let answer = answer.raw();
        let _ = tokio::time::timeout(LINGER, stream.write_all(&answer)).await;
    }
    if !progress.has_ended() && seen == Phase::Open {
        linger(stream).await;
    }
}

fn slow_head() -> Refusal {
    Refusal::new(
        StatusCode::REQUEST_TIMEOUT,
        "slow_head",
        format!(
            "the head of the request did not arrive within {} s",
            HEADER_TIMEOUT.as_secs()
        ),
    )
}

/// Closes a connection so that the client can read what it was answered: its own bytes are read for a while, because bytes that
/// nobody reads reset a connection and destroy what is under way to the client.
pub async fn linger(mut stream: TcpStream) {
    let drained = async {
        stream.shutdown().await?;
        let mut left = LINGER_BYTES;
        // Not in the task itself, of which there is one for each connection.
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
    // Whatever goes wrong, the connection ends here.
    let _ = tokio::time::timeout(LINGER, drained).await;
}
