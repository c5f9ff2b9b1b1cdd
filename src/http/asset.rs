//! Static files that are part of the binary, with an entity tag and in two encodings.

use std::io::Read;
use std::sync::{Arc, OnceLock};

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flate2::Compression;
use flate2::read::{GzDecoder, GzEncoder};
use hyper::body::Bytes;
use sha2::{Digest, Sha256};
use utoipa_axum::router::UtoipaMethodRouter;

use super::accept::prefers_gzip;
use super::described;
use super::error_response::ErrorResponse;
use super::extract::AppState;

/// A constant header field.
pub type Field = (&'static str, &'static str);

/// A file that `build.rs` wrote and compressed, with its header fields.
macro_rules! built {
    ($name:literal, $fields:expr) => {
        $crate::http::asset::Asset::new(
            include_bytes!(concat!(env!("OUT_DIR"), "/", $name)).as_slice(),
            include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".gz")).as_slice(),
            $fields,
        )
    };
}
pub(super) use built;

/// A large file that `build.rs` compressed, with its header fields: only its gzip form is in the
/// binary.
macro_rules! packed {
    ($name:literal, $fields:expr) => {
        $crate::http::asset::Asset::packed(
            include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".gz")).as_slice(),
            $fields,
        )
    };
}
pub(super) use packed;

/// Browsers ask each time whether a file has changed, so that page and scripts are of one version.
pub const FRESH: Field = ("cache-control", "no-cache");

/// A file, its gzip form and its header fields.
#[derive(Clone)]
pub struct Asset {
    /// The file, for clients that do not accept gzip.
    plain: Arc<OnceLock<Bytes>>,
    gzip: Bytes,
    /// Weak, because it is the same for both encodings.
    etag: HeaderValue,
    fields: &'static [Field],
}

impl Asset {
    /// A file with its gzip form and its header fields, which include its type and how long it may
    /// be cached.
    pub fn new(bytes: impl Into<Bytes>, gzip: impl Into<Bytes>, fields: &'static [Field]) -> Self {
        let bytes = bytes.into();
        Self {
            gzip: gzip.into(),
            etag: etag(&bytes),
            plain: Arc::new(bytes.into()),
            fields,
        }
    }

    /// A file of which only the gzip form is there. It is inflated for the first client that does
    /// not accept that, which takes milliseconds.
    pub fn packed(gzip: &'static [u8], fields: &'static [Field]) -> Self {
        Self {
            gzip: gzip.into(),
            etag: etag(gzip),
            plain: Arc::default(),
            fields,
        }
    }

    /// The file without compression.
    #[expect(clippy::expect_used, reason = "build.rs compressed it")]
    fn plain(&self) -> Bytes {
        let inflate = || {
            let mut bytes = Vec::new();
            GzDecoder::new(&self.gzip[..])
                .read_to_end(&mut bytes)
                .expect("it is gzip");
            bytes.into()
        };
        self.plain.get_or_init(inflate).clone()
    }

    /// A file whose content depends on a setting, so that it is compressed when the server starts.
    #[expect(clippy::expect_used, reason = "reading from memory cannot fail")]
    pub fn compress(content: String, fields: &'static [Field]) -> Self {
        let mut gzip = Vec::new();
        GzEncoder::new(content.as_bytes(), Compression::best())
            .read_to_end(&mut gzip)
            .expect("memory can be read");
        Self::new(content, gzip, fields)
    }

    /// The route of the file, with its description.
    pub fn route(self, path: &str, about: &str) -> UtoipaMethodRouter<AppState> {
        let media_type = self.fields.iter().find(|(name, _)| *name == "content-type");
        let media_type = media_type.map_or("", |(_, value)| value.split(';').next().unwrap_or(""));
        let route = get(move |request: Request| async move { self.respond(request.headers()) })
            .fallback(|| async { ErrorResponse::method_not_allowed() });
        described::file(path, about, media_type, route)
    }

    /// The file, or that the client has it.
    pub fn respond(&self, request: &HeaderMap) -> Response {
        let mut response = if self.is_cached(request) {
            StatusCode::NOT_MODIFIED.into_response()
        } else if prefers_gzip(request) {
            let encoding = (header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            ([encoding], self.gzip.clone()).into_response()
        } else {
            self.plain().into_response()
        };
        let fields = self.fields.iter().map(|&(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        });
        let own = [
            (header::ETAG, self.etag.clone()),
            (header::VARY, HeaderValue::from_static("accept-encoding")),
        ];
        for (name, value) in fields.chain(own) {
            response.headers_mut().insert(name, value);
        }
        response
    }

    /// Returns true if the client has this version of the file.
    fn is_cached(&self, request: &HeaderMap) -> bool {
        is_known(&self.etag, request)
    }
}

#[expect(clippy::expect_used, reason = "digits are a valid header value")]
fn etag(bytes: &[u8]) -> HeaderValue {
    let digest = Sha256::digest(bytes);
    let digest = hex::encode(digest.get(..8).unwrap_or_default());
    HeaderValue::try_from(format!("W/\"{digest}\"")).expect("hexadecimal digits in quotes")
}

/// True if `If-None-Match` has this entity tag, compared weakly.
pub fn is_known(etag: &HeaderValue, request: &HeaderMap) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let own = etag.to_str().map(opaque).unwrap_or_default();
    members(request, header::IF_NONE_MATCH).any(|tag| tag.trim() == "*" || opaque(tag) == own)
}

/// The members of a list in a header.
fn members(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cached_file_is_recognised_by_its_etag() {
        let asset = Asset::new("content", "", &[]);
        let other = Asset::new("other", "", &[]);
        assert_ne!(asset.etag, other.etag);
        let etag = asset.etag.to_str().expect("ASCII").to_owned();
        let strong = etag.trim_start_matches("W/").to_owned();
        for (sent, is_cached) in [
            (etag.clone(), true),
            (strong, true),
            (format!("\"x\", {etag}"), true),
            ("*".to_owned(), true),
            ("\"x\"".to_owned(), false),
            (String::new(), false),
        ] {
            let mut request = HeaderMap::new();
            request.insert(header::IF_NONE_MATCH, sent.parse().expect("a value"));
            assert_eq!(asset.is_cached(&request), is_cached, "{sent}");
        }
        assert!(!asset.is_cached(&HeaderMap::new()));
    }

    #[test]
    fn both_encodings_have_the_same_content() {
        let assets = [
            built!("charts.js", &[]),
            built!("demo.html", &[]),
            built!("telemetry.js", &[]),
            packed!("docs.html", &[]),
            Asset::compress("content".repeat(100), &[]),
        ];
        for asset in assets {
            let mut inflated = Vec::new();
            GzDecoder::new(&asset.gzip[..])
                .read_to_end(&mut inflated)
                .expect("gzip");
            assert_eq!(inflated, asset.plain());
            assert!(asset.gzip.len() < inflated.len());
        }
    }
}
