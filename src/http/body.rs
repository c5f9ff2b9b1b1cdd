//! Reading a request body within limits: on the wire, inflated, and in time.

use std::io::Read;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Bytes};

use super::Answer;
use super::limits::Places;
use super::refusal::Refusal;
use super::wire::{BodyError, MAX_WIRE_BYTES};
use crate::error::Error;
use crate::event::foreign;
use crate::event::text::without_mark;
use crate::inflate::{Form, Gzip};

/// Bytes of a body once inflated. A compressed bomb is cut here, having cost this much memory.
pub const MAX_INFLATED_BYTES: usize = 4 << 20;
/// Time for the whole body: a client that sends a byte a second holds no connection for ever.
const BODY_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes that brotli reads at a time.
const BROTLI_BUFFER_BYTES: usize = 8 << 10;

/// Bytes of a body that are read: a client that is cut off while it sends does not see why.
const MAX_PASSED_BYTES: usize = 16 << 20;
/// Bytes of a body that take no room: most batches are no longer, and all connections together may have them.
const FREE_BYTES: usize = 16 << 10;
/// Room that a longer body takes at a time, in KiB: more than a frame.
const ROOM_KIB: usize = 32;

/// Encodings of one body: a client's and a proxy's. Each costs as much memory as the inflated body.
const MAX_ENCODINGS: usize = 2;
/// Content encodings that are understood.
const ENCODINGS: &str = "gzip, deflate, br, zstd";

/// Reads and inflates a body that holds JSON. `room` has a permit for each KiB that all bodies together may take.
pub async fn read_json(room: &Places, headers: &HeaderMap, body: Body) -> Answer<Bytes> {
    let encodings = Encoding::of(headers)?;
    let mut body = read_wire(room, body).await?;
    for encoding in encodings.iter().rev() {
        body = encoding.inflate(&body)?.into();
    }
    // Some clients compress and do not say so; no JSON begins like that.
    if encodings.is_empty()
        && let Some(encoding) = Encoding::of_start(&body)
    {
        body = encoding.inflate(&body)?.into();
    }
    let bytes = without_mark(&body).len();
    body = body.slice(body.len() - bytes..);
    if let Some(charset) = foreign::charset(&body) {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "bad_charset",
            format!("the body is {charset}; allowed is UTF-8"),
        ));
    }
    match body.trim_ascii_start().first() {
        // Whatever type a client names, as `curl -d` names that of a form.
        Some(b'{' | b'[') => Ok(body),
        _ => check_type(headers).map(|()| body),
    }
}

/// JSON, or plain text: what a beacon can send without asking the server first.
fn check_type(headers: &HeaderMap) -> Answer<()> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(());
    };
    let essence = value
        .to_str()
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let is_text = matches!(&*essence, "" | "application/json" | "text/plain");
    if is_text || essence.ends_with("json") {
        return Ok(());
    }
    Err(Refusal::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "bad_content_type",
        format!(
            "Content-Type is {essence:.80} and the body does not begin with {{ or [; allowed is JSON"
        ),
    ))
}

async fn read_wire(room: &Places, body: Body) -> Answer<Bytes> {
    tokio::time::timeout(BODY_TIMEOUT, collect(room, body))
        .await
        .unwrap_or_else(|_| {
            Err(Refusal::new(
                StatusCode::REQUEST_TIMEOUT,
                "slow_body",
                format!(
                    "the body did not arrive within {} s",
                    BODY_TIMEOUT.as_secs()
                ),
            ))
        })
}

/// Collects a body; its bytes take room as they arrive, so that a client that sends little holds little.
async fn collect(room: &Places, mut body: Body) -> Answer<Bytes> {
    let mut wire = Vec::with_capacity(FREE_BYTES.min(body.size_hint().lower() as usize));
    let mut taken = Vec::new();
    let mut received = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| match BodyError::of(&error) {
            Some(BodyError::TooManyBytes) => Refusal::too_many(
                "too_many_bytes",
                "this client sends too many bytes at once",
                Duration::from_secs(1),
            ),
            _ => Refusal::new(StatusCode::BAD_REQUEST, "bad_body", "the body ended early"),
        })?;
        let Ok(bytes) = frame.into_data() else {
            continue;
        };
        received += bytes.len();
        if received > MAX_WIRE_BYTES {
            wire = Vec::new();
            taken.clear();
            if received > MAX_PASSED_BYTES {
                break;
            }
            continue;
        }
        wire.extend_from_slice(&bytes);
        let kib = wire.len().saturating_sub(FREE_BYTES).div_ceil(1024);
        if kib > taken.len() * ROOM_KIB {
            let Some(permit) = room.try_take(ROOM_KIB as u32) else {
                return Err(Error::Busy("too many bytes are being received").into());
            };
            taken.push(permit);
        }
    }
    if received > MAX_WIRE_BYTES {
        return Err(too_large(format!(
            "the body is larger than {MAX_WIRE_BYTES} bytes"
        )));
    }
    Ok(wire.into())
}

fn too_large(message: String) -> Refusal {
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
}

#[derive(Debug, Clone, Copy)]
enum Encoding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Encoding {
    /// The encodings in the order in which they were applied.
    fn of(headers: &HeaderMap) -> Answer<Vec<Self>> {
        let mut encodings = Vec::new();
        let lines = headers.get_all(header::CONTENT_ENCODING).iter();
        for name in lines.flat_map(|line| line.to_str().unwrap_or("?").split(',')) {
            let name = name.trim().to_ascii_lowercase();
            encodings.push(match name.as_str() {
                "" | "identity" => continue,
                "gzip" | "x-gzip" => Self::Gzip,
                "deflate" => Self::Deflate,
                "br" => Self::Brotli,
                "zstd" => Self::Zstd,
                _ => return Err(bad_encoding(&name)),
            });
        }
        match encodings.len() > MAX_ENCODINGS {
            true => Err(bad_encoding("more than two after each other")),
            false => Ok(encodings),
        }
    }

    /// The encoding that the first bytes show.
    fn of_start(body: &[u8]) -> Option<Self> {
        match Form::of(body)? {
            Form::Gzip => Some(Self::Gzip),
            Form::Zstd => Some(Self::Zstd),
            Form::Bzip2 | Form::Xz => None,
        }
    }

    fn inflate(self, wire: &[u8]) -> Answer<Vec<u8>> {
        let inflated = match self {
            Self::Gzip => read_limited(Gzip::new(wire)),
            // The standard says zlib; some clients send the bare stream.
            Self::Deflate => match read_limited(flate2::read::ZlibDecoder::new(wire)) {
                Err(_) => read_limited(flate2::read::DeflateDecoder::new(wire)),
                inflated => inflated,
            },
            Self::Brotli => read_limited(brotli::Decompressor::new(wire, BROTLI_BUFFER_BYTES)),
            Self::Zstd => zstd::stream::read::Decoder::new(wire).and_then(read_limited),
        };
        match inflated {
            Ok(bytes) if bytes.len() > MAX_INFLATED_BYTES => Err(too_large(format!(
                "the body inflates to more than {MAX_INFLATED_BYTES} bytes"
            ))),
            Ok(bytes) => Ok(bytes),
            Err(_) => Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                "bad_encoding",
                "the body is not what its Content-Encoding says",
            )),
        }
    }
}

fn bad_encoding(found: &str) -> Refusal {
    Refusal::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "bad_encoding",
        format!("Content-Encoding is {found:.80}; allowed are {ENCODINGS}"),
    )
}

/// Reads one byte more than is allowed, so that the caller can tell.
fn read_limited(reader: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader
        .take(MAX_INFLATED_BYTES as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}
