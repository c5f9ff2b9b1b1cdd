//! Compression of responses with gzip, for clients that accept it.
//!
//! The layer of tower-http is not used: its features are those of a crate that Polars is built on,
//! and it would compress a whole response at once on an async thread.

use std::io::{self, Write};

use axum::body::{Body, BodyDataStream};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::{StreamExt, stream};
use hyper::body::{Body as _, Bytes};

use super::accept::prefers_gzip;

/// Bytes of a body below which compression saves no packet.
const LEAST_BYTES: u64 = 1_024;
/// Bytes that are compressed at once, in about half a millisecond: other connections of the thread
/// wait for them.
const PIECE_BYTES: usize = 64 << 10;
/// Types that are worth it. Parquet is compressed already.
const TYPES: [&str; 3] = [
    "application/json",
    "application/x-ndjson",
    "application/vnd.apache.arrow.stream",
];

/// Compresses the response if the client accepts that and the body is worth it.
pub async fn compress(request: Request, next: Next) -> Response {
    let is_accepted = prefers_gzip(request.headers());
    let mut response = next.run(request).await;
    if !is_compressible(&response) {
        return response;
    }
    let vary = HeaderValue::from_static("accept-encoding");
    // Files have it already.
    if !response
        .headers()
        .get_all(header::VARY)
        .iter()
        .any(|known| known == vary)
    {
        response.headers_mut().append(header::VARY, vary);
    }
    if !is_accepted {
        return response;
    }
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    make_etag_weak(headers);
    response.map(|body| Body::from_stream(gzip(body.into_data_stream())))
}

/// True for the text formats of a body that is not encoded and not small.
fn is_compressible(response: &Response) -> bool {
    let headers = response.headers();
    let media_type = headers.get(header::CONTENT_TYPE);
    let media_type = media_type
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    let media_type = media_type.split(';').next().unwrap_or_default();
    let is_type = TYPES.contains(&media_type)
        || (media_type.starts_with("text/") && media_type != "text/event-stream");
    let is_large = response.body().size_hint().upper() >= Some(LEAST_BYTES)
        || response.body().size_hint().upper().is_none();
    response.status() == StatusCode::OK
        && is_type
        && is_large
        && !headers.contains_key(header::CONTENT_ENCODING)
}

/// The bytes of an entity tag are those before the compression.
fn make_etag_weak(headers: &mut HeaderMap) {
    let strong = headers.get(header::ETAG).and_then(|tag| tag.to_str().ok());
    let weak = strong
        .filter(|tag| !tag.starts_with("W/"))
        .and_then(|tag| HeaderValue::try_from(format!("W/{tag}")).ok());
    if let Some(weak) = weak {
        headers.insert(header::ETAG, weak);
    }
}

/// The bytes of a body that were received and not compressed yet, and the rest of it.
struct Gzip {
    encoder: GzEncoder<Vec<u8>>,
    waiting: Bytes,
    rest: BodyDataStream,
}

/// Compresses a stream, piece by piece. An error ends it, so that it does not look complete.
fn gzip(body: BodyDataStream) -> impl stream::Stream<Item = Result<Bytes, axum::Error>> {
    let gzip = Gzip {
        encoder: GzEncoder::new(Vec::new(), Compression::fast()),
        waiting: Bytes::new(),
        rest: body,
    };
    stream::unfold(Some(gzip), async |state| {
        let mut gzip = state?;
        loop {
            if gzip.waiting.is_empty() {
                match gzip.rest.next().await {
                    Some(Ok(bytes)) => gzip.waiting = bytes,
                    Some(Err(error)) => return Some((Err(error), None)),
                    None => return Some((finish(gzip.encoder), None)),
                }
            }
            let piece = gzip.waiting.len().min(PIECE_BYTES);
            let piece = gzip.waiting.split_to(piece);
            if let Err(error) = gzip.encoder.write_all(&piece) {
                return Some((Err(axum::Error::new(error)), None));
            }
            let ready = std::mem::take(gzip.encoder.get_mut());
            if !ready.is_empty() {
                return Some((Ok(ready.into()), Some(gzip)));
            }
            tokio::task::yield_now().await;
        }
    })
}

fn finish(encoder: GzEncoder<Vec<u8>>) -> Result<Bytes, axum::Error> {
    let finished: io::Result<Vec<u8>> = encoder.finish();
    finished.map(Bytes::from).map_err(axum::Error::new)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.expect("a runtime").block_on(future)
    }

    #[test]
    fn a_stream_is_compressed_as_it_is_and_an_error_ends_it() {
        let text: Vec<u8> = (0..300_000_u32)
            .flat_map(|n| n.to_string().into_bytes())
            .collect();
        let compressed = block_on(async {
            let body = Body::from_stream(stream::iter(
                text.chunks(100_000)
                    .map(|chunk| Ok::<_, io::Error>(chunk.to_vec()))
                    .collect::<Vec<_>>(),
            ));
            let pieces: Vec<_> = gzip(body.into_data_stream()).collect().await;
            let pieces = pieces.into_iter().map(|piece| piece.expect("no error"));
            pieces.flatten().collect::<Vec<u8>>()
        });
        assert!(compressed.len() < text.len());
        let mut inflated = Vec::new();
        flate2::read::GzDecoder::new(&compressed[..])
            .read_to_end(&mut inflated)
            .expect("gzip");
        assert_eq!(inflated, text);
        let last = block_on(async {
            let failing = [Ok(vec![b'x'; 10]), Err(io::Error::other("stopped"))];
            let body = Body::from_stream(stream::iter(failing));
            let pieces: Vec<_> = gzip(body.into_data_stream()).collect().await;
            pieces.into_iter().next_back()
        });
        assert!(last.is_some_and(|last| last.is_err()));
    }

    #[test]
    fn only_large_strings_without_an_encoding_are_compressed() {
        for (media_type, encoding, bytes, expected) in [
            ("application/json", None, 2_000, true),
            ("text/csv; charset=utf-8", None, 2_000, true),
            ("application/vnd.apache.arrow.stream", None, 2_000, true),
            ("application/json", None, 1_000, false),
            ("application/json", Some("gzip"), 2_000, false),
            ("application/vnd.apache.parquet", None, 2_000, false),
            ("text/event-stream", None, 2_000, false),
        ] {
            let mut response = Response::new(Body::from(vec![b'x'; bytes]));
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
            if let Some(encoding) = encoding {
                headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
            }
            assert_eq!(is_compressible(&response), expected, "{media_type} {bytes}");
        }
    }
}
