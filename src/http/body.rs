//! Request bodies within limits: bytes on the wire, bytes once inflated, and time.
//!
//! The layers of tower-http do not keep what is promised here, so this is not one of them.
//! `RequestDecompressionLayer` knows one encoding a body (a proxy may add a second), no deflate
//! without its zlib header, no gzip without the header field, responds without our JSON, and
//! inflates on the async thread. `RequestBodyLimitLayer` and `http_body_util::Limited` end the body
//! at the limit: the client would be cut off while it sends and not see the 413.
//! `RequestBodyTimeoutLayer` limits the time between two frames, not that of the body. None of them
//! takes permits for the memory.

use std::io::Read;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Bytes};
use tokio::sync::OwnedSemaphorePermit;

use super::HandlerResult;
use super::error_response::ErrorResponse;
use super::permits::PermitPool;
use super::request_body::{BodyError, MAX_WIRE_BYTES};
use crate::error::{Error, ErrorCode};
use crate::event::foreign;
use crate::event::text::without_mark;
use crate::inflate::{Form, Gzip};

/// Most bytes of a body once inflated. A compression bomb is cut off here, having cost this much
/// memory.
pub const MAX_INFLATED_BYTES: usize = 4 << 20;
/// Time for the whole body, so that a client that sends a byte a second does not hold a connection
/// for ever.
const BODY_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes that brotli reads at a time.
const BROTLI_BUFFER_BYTES: usize = 8 << 10;
/// Bytes of a body that are read: a client whose connection is cut while it sends does not see the
/// response.
const MAX_READ_BYTES: usize = 16 << 20;
/// Bytes of a body that need no permit: most batches are not larger, and all connections together
/// may have them.
const FREE_BYTES: usize = 16 << 10;
/// KiB that a larger body takes of the memory for bodies at a time.
const PERMIT_KIB: usize = 32;
/// Bytes of a body without encoding that are parsed on the async thread, in about 0.1 ms. Most
/// batches are smaller; sending each to another thread would cost them more than it gains others.
const SMALL_BYTES: usize = 64 << 10;
/// Encodings of one body: a client's and a proxy's. Each costs as much memory as the inflated body.
const MAX_ENCODINGS: usize = 2;
/// Supported content encodings.
const ENCODINGS: &str = "gzip, deflate, br, zstd";

/// A body as it was received, with the memory permits that it holds until it is decoded.
pub struct ReceivedBody {
    bytes: Bytes,
    content_type: Option<HeaderValue>,
    encodings: Vec<Encoding>,
    _memory: Vec<OwnedSemaphorePermit>,
}

/// Receives a body. `memory` has a permit for each KiB that all bodies together may take.
///
/// # Errors
/// If the encoding is unknown, the body is too large or too slow, or there is no memory for it.
pub async fn receive(
    memory: &PermitPool,
    headers: &HeaderMap,
    body: Body,
) -> HandlerResult<ReceivedBody> {
    let encodings = Encoding::of(headers)?;
    let (bytes, permits) = collect_in_time(memory, body, MAX_WIRE_BYTES).await?;
    // Some clients compress without a header; JSON never begins like that.
    let encodings = if encodings.is_empty() {
        Encoding::of_start(&bytes).into_iter().collect()
    } else {
        encodings
    };
    Ok(ReceivedBody {
        bytes,
        content_type: headers.get(header::CONTENT_TYPE).cloned(),
        encodings,
        _memory: permits,
    })
}

/// Receives a body of at most so many bytes, whose labels are not relied on.
///
/// # Errors
/// If the body is too large or too slow, or there is no memory for it.
pub async fn receive_unlabelled(
    memory: &PermitPool,
    body: Body,
    max_bytes: usize,
) -> HandlerResult<UnlabelledBody> {
    let (bytes, memory) = collect_in_time(memory, body, max_bytes).await?;
    Ok(UnlabelledBody {
        bytes,
        _memory: memory,
    })
}

/// A body of unknown encoding, with the memory permits that it holds.
pub struct UnlabelledBody {
    pub bytes: Bytes,
    _memory: Vec<OwnedSemaphorePermit>,
}

impl UnlabelledBody {
    /// Returns true if decoding and parsing take less time than sending the body to another thread.
    pub fn is_small(&self) -> bool {
        Encoding::of_start(&self.bytes).is_none() && self.bytes.len() <= SMALL_BYTES
    }
}

impl ReceivedBody {
    /// Its length on the wire.
    pub fn wire_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Returns true if decoding and parsing take less time than sending the body to another thread.
    pub fn is_small(&self) -> bool {
        self.encodings.is_empty() && self.bytes.len() <= SMALL_BYTES
    }

    /// The JSON in the body.
    ///
    /// # Errors
    /// If it cannot be inflated, inflates to too much, or is not JSON in UTF-8.
    pub fn decode(&self) -> HandlerResult<Bytes> {
        let mut body = self.bytes.clone();
        for encoding in self.encodings.iter().rev() {
            body = encoding.inflate(&body)?.into();
        }
        let bytes = without_mark(&body).len();
        body = body.slice(body.len() - bytes..);
        if let Some(charset) = foreign::charset(&body) {
            return Err(ErrorResponse::new(
                StatusCode::BAD_REQUEST,
                ErrorCode::BadCharset,
                format!("the body is {charset}; allowed is UTF-8"),
            ));
        }
        match body.trim_ascii_start().first() {
            // Whatever the content type says: `curl -d` sends that of a form.
            Some(b'{' | b'[') => Ok(body),
            _ => check_type(self.content_type.as_ref()).map(|()| body),
        }
    }
}

/// Checks a content type: JSON, or plain text, which beacons can send without a preflight request.
fn check_type(content_type: Option<&HeaderValue>) -> HandlerResult<()> {
    let Some(value) = content_type else {
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
    let is_allowed = matches!(&*essence, "" | "application/json" | "text/plain");
    if is_allowed || essence.ends_with("json") {
        return Ok(());
    }
    Err(ErrorResponse::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ErrorCode::BadContentType,
        format!(
            "Content-Type is {essence:.80} and the body does not begin with {{ or [; allowed is JSON"
        ),
    ))
}

/// Collects the bytes of a body, within the time for one.
async fn collect_in_time(
    memory: &PermitPool,
    body: Body,
    max_bytes: usize,
) -> HandlerResult<(Bytes, Vec<OwnedSemaphorePermit>)> {
    let received = tokio::time::timeout(BODY_TIMEOUT, collect(memory, body, max_bytes)).await;
    received.unwrap_or_else(|_| {
        Err(ErrorResponse::new(
            StatusCode::REQUEST_TIMEOUT,
            ErrorCode::SlowBody,
            format!(
                "the body did not arrive within {} s",
                BODY_TIMEOUT.as_secs()
            ),
        ))
    })
}

/// Collects the bytes of a body. Permits for its memory are taken as they arrive, so that a slow
/// client holds few.
async fn collect(
    memory: &PermitPool,
    mut body: Body,
    max_bytes: usize,
) -> HandlerResult<(Bytes, Vec<OwnedSemaphorePermit>)> {
    let mut wire = Vec::with_capacity(FREE_BYTES.min(body.size_hint().lower() as usize));
    let mut permits = Vec::new();
    let mut received = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| match BodyError::of(&error) {
            Some(BodyError::TooManyBytes) => ErrorResponse::too_many(
                ErrorCode::TooManyBytes,
                "this client sends too many bytes at once",
                Duration::from_secs(1),
            ),
            _ => ErrorResponse::new(
                StatusCode::BAD_REQUEST,
                ErrorCode::BadBody,
                "the body ended early",
            ),
        })?;
        let Ok(bytes) = frame.into_data() else {
            continue;
        };
        received += bytes.len();
        if received > max_bytes {
            wire = Vec::new();
            permits.clear();
            if received > MAX_READ_BYTES {
                break;
            }
            continue;
        }
        wire.extend_from_slice(&bytes);
        let kib = wire.len().saturating_sub(FREE_BYTES).div_ceil(1024);
        while kib > permits.len() * PERMIT_KIB {
            let Some(permit) = memory.try_acquire(PERMIT_KIB as u32) else {
                return Err(Error::Busy("too many bytes are being received").into());
            };
            permits.push(permit);
        }
    }
    if received > max_bytes {
        return Err(too_large(format!(
            "the body is larger than {max_bytes} bytes"
        )));
    }
    Ok((wire.into(), permits))
}

fn too_large(message: String) -> ErrorResponse {
    ErrorResponse::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::TooLarge, message)
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
    fn of(headers: &HeaderMap) -> HandlerResult<Vec<Self>> {
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
        if encodings.len() > MAX_ENCODINGS {
            return Err(bad_encoding("more than two after each other"));
        }
        Ok(encodings)
    }

    /// Detects an encoding by the first bytes.
    fn of_start(body: &[u8]) -> Option<Self> {
        match Form::of(body)? {
            Form::Gzip => Some(Self::Gzip),
            Form::Zstd => Some(Self::Zstd),
            Form::Bzip2 | Form::Xz => None,
        }
    }

    fn inflate(self, wire: &[u8]) -> HandlerResult<Vec<u8>> {
        let inflated = match self {
            Self::Gzip => read_limited(Gzip::new(wire)),
            // The standard requires a zlib header; some clients send raw deflate.
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
            Err(_) => Err(ErrorResponse::new(
                StatusCode::BAD_REQUEST,
                ErrorCode::BadEncoding,
                "the body does not match its Content-Encoding",
            )),
        }
    }
}

fn bad_encoding(found: &str) -> ErrorResponse {
    ErrorResponse::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ErrorCode::BadEncoding,
        format!("Content-Encoding is {found:.80}; allowed are {ENCODINGS}"),
    )
}

/// Reads one byte more than is allowed, so that the caller can detect an excess.
fn read_limited(reader: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader
        .take(MAX_INFLATED_BYTES as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const JSON: &[u8] = br#"{"metric":"active_users"}"#;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for &(name, value) in fields {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    fn pool() -> PermitPool {
        PermitPool::new("test", 256)
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime")
            .block_on(future)
    }

    fn read(headers: &HeaderMap, body: impl Into<Body>) -> HandlerResult<Bytes> {
        let received = block_on(receive(
            &PermitPool::new("test", 4_096),
            headers,
            body.into(),
        ))?;
        received.decode()
    }

    /// Checks the code of an error response.
    fn check_error<T: std::fmt::Debug>(result: HandlerResult<T>, code: ErrorCode) {
        let error = format!("{:?}", result.expect_err("an error"));
        assert!(error.contains(&format!("{code:?}")), "{error}");
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(content).expect("memory");
        gzip.finish().expect("memory")
    }

    fn raw_deflate(content: &[u8]) -> Vec<u8> {
        let fast = flate2::Compression::fast();
        let mut deflate = flate2::write::DeflateEncoder::new(Vec::new(), fast);
        deflate.write_all(content).expect("memory");
        deflate.finish().expect("memory")
    }

    fn zlib(content: &[u8]) -> Vec<u8> {
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        zlib.write_all(content).expect("memory");
        zlib.finish().expect("memory")
    }

    fn brotli(content: &[u8]) -> Vec<u8> {
        let mut brotli = brotli::CompressorWriter::new(Vec::new(), BROTLI_BUFFER_BYTES, 1, 20);
        brotli.write_all(content).expect("memory");
        brotli.into_inner()
    }

    fn zstd(content: &[u8]) -> Vec<u8> {
        zstd::encode_all(content, 1).expect("memory")
    }

    #[test]
    fn each_encoding_is_inflated_also_two_in_a_row_or_without_a_header() {
        for (encoding, body) in [
            ("", JSON.to_vec()),
            ("identity", JSON.to_vec()),
            ("gzip", gzip(JSON)),
            ("X-GZIP", gzip(JSON)),
            ("deflate", zlib(JSON)),
            ("deflate", raw_deflate(JSON)),
            ("br", brotli(JSON)),
            ("zstd", zstd(JSON)),
            ("gzip, zstd", zstd(&gzip(JSON))),
            ("", gzip(JSON)),
            ("", zstd(JSON)),
        ] {
            let found = read(&headers(&[("content-encoding", encoding)]), body);
            assert_eq!(found.expect(encoding), JSON, "{encoding}");
        }
    }

    #[test]
    fn unknown_wrong_and_too_many_encodings_are_rejected() {
        for encoding in [
            "compress",
            "gzip, br, zstd",
            "gzip",
            "deflate",
            "br",
            "zstd",
        ] {
            let found = read(&headers(&[("content-encoding", encoding)]), JSON);
            check_error(found, ErrorCode::BadEncoding);
        }
    }

    #[test]
    fn bodies_are_limited_on_the_wire_and_inflated() {
        let none = HeaderMap::new();
        let list = |bytes: usize| [&b"["[..], &vec![b' '; bytes - 1]].concat();
        assert!(read(&none, list(MAX_WIRE_BYTES)).is_ok());
        check_error(read(&none, list(MAX_WIRE_BYTES + 1)), ErrorCode::TooLarge);
        assert!(read(&none, gzip(&list(MAX_INFLATED_BYTES))).is_ok());
        let bomb = gzip(&list(MAX_INFLATED_BYTES + 1));
        check_error(read(&none, bomb), ErrorCode::TooLarge);
    }

    #[test]
    fn memory_permits_are_held_until_the_body_is_dropped() {
        let memory = pool();
        let none = HeaderMap::new();
        let small = block_on(receive(&memory, &none, vec![b'['; FREE_BYTES].into()));
        assert!(small.is_ok_and(|body| body.is_small()));
        assert_eq!(memory.status().used, 0);
        let large = block_on(receive(&memory, &none, vec![b'['; 128 << 10].into()));
        let large = large.expect("within the permits");
        assert!(!large.is_small());
        assert_eq!(memory.status().used, 128);
        let rejected = block_on(receive(&memory, &none, vec![b'['; 256 << 10].into()));
        check_error(rejected.map(drop), ErrorCode::Busy);
        drop(large);
        assert_eq!(memory.status().used, 0);
    }

    #[test]
    fn json_is_recognised_by_its_start_or_its_type() {
        for (content_type, body, code) in [
            ("application/json", "1", None),
            ("text/plain;charset=UTF-8", "1", None),
            ("application/x-www-form-urlencoded", " {}", None),
            ("application/x-www-form-urlencoded", "\u{feff}[]", None),
            ("application/cloudevents+json", "1", None),
            ("application/xml", "<a/>", Some(ErrorCode::BadContentType)),
            ("application/json", "\0{\0}\0", Some(ErrorCode::BadCharset)),
        ] {
            let found = read(&headers(&[("content-type", content_type)]), body);
            match code {
                None => assert!(found.is_ok(), "{content_type}"),
                Some(code) => check_error(found, code),
            }
        }
    }
}
