//! A file that is part of the binary, as browsers get it. It is packed once, when it is first asked for.

use std::io::Read;
use std::sync::{Arc, OnceLock};

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use flate2::Compression;
use flate2::read::GzEncoder;
use hyper::body::Bytes;
use sha2::{Digest, Sha256};

use super::accept::preferences;
use super::extract::Shared;
use super::refusal::Refusal;

/// A header line that is always the same.
pub type Line = (&'static str, &'static str);

/// A file and what is said of it.
#[derive(Clone)]
pub struct Asset {
    bytes: Bytes,
    lines: &'static [Line],
    packed: Arc<OnceLock<Packed>>,
}

struct Packed {
    gzip: Bytes,
    etag: HeaderValue,
}

impl Asset {
    /// A file with its header lines, its type and how long it may be kept among them.
    pub fn new(bytes: impl Into<Bytes>, lines: &'static [Line]) -> Self {
        Self {
            bytes: bytes.into(),
            lines,
            packed: Arc::default(),
        }
    }

    /// Its route.
    pub fn route(self) -> MethodRouter<Shared> {
        get(move |request: Request| async move { self.answer(request.headers()) })
            .fallback(|| async { Refusal::method_not_allowed() })
    }

    fn answer(&self, asked: &HeaderMap) -> Response {
        let packed = self.packed.get_or_init(|| Packed::new(&self.bytes));
        let mut response = if packed.is_known(asked) {
            StatusCode::NOT_MODIFIED.into_response()
        } else if accepts_gzip(asked) {
            let encoding = (header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            ([encoding], packed.gzip.clone()).into_response()
        } else {
            self.bytes.clone().into_response()
        };
        let lines = self.lines.iter().map(|&(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        });
        let own = [
            (header::ETAG, packed.etag.clone()),
            (header::VARY, HeaderValue::from_static("accept-encoding")),
        ];
        for (name, value) in lines.chain(own) {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

impl Packed {
    #[expect(
        clippy::expect_used,
        reason = "neither can fail, and each says why; an answer without the file would not be better"
    )]
    fn new(bytes: &[u8]) -> Self {
        let mut gzip = Vec::new();
        GzEncoder::new(bytes, Compression::best())
            .read_to_end(&mut gzip)
            .expect("memory can be read");
        let digest = Sha256::digest(bytes);
        let digest: String = digest.iter().take(8).map(|b| format!("{b:02x}")).collect();
        Self {
            gzip: gzip.into(),
            // Weak, because it is the same for both encodings.
            etag: HeaderValue::try_from(format!("W/\"{digest}\""))
                .expect("hexadecimal digits are a header's value"),
        }
    }

    /// Whether the browser has this very file.
    fn is_known(&self, asked: &HeaderMap) -> bool {
        let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
        let own = self.etag.to_str().map(opaque).unwrap_or_default();
        list(asked, header::IF_NONE_MATCH).any(|tag| tag.trim() == "*" || opaque(tag) == own)
    }
}

/// Whether gzip is wanted, and not less than no coding at all.
fn accepts_gzip(asked: &HeaderMap) -> bool {
    let wanted = preferences(asked, &header::ACCEPT_ENCODING);
    let named = |name: &str| wanted.iter().find(|coding| coding.is(name));
    let gzip = named("gzip").or(named("x-gzip")).or(named("*"));
    let gzip = gzip.map_or(0, |coding| coding.weight);
    let identity = named("identity").map_or(0, |coding| coding.weight);
    gzip > 0 && gzip >= identity
}

/// The members of a header's list.
fn list(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
}
