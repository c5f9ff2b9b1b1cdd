//! `GET /static/js/telemetry.js`: the browser client, for pages of every site, and the same under the neutral path.
//!
//! The script is part of the binary. It is packed once, at the start.

use std::io::Read;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use flate2::Compression;
use flate2::read::GzEncoder;
use hyper::body::Bytes;
use sha2::{Digest, Sha256};

use super::refusal::Refusal;
use super::{App, event};
use crate::config::NeutralPath;

/// Made from `static/js/telemetry.js` by `make client`; a test tells when it is not.
const SOURCE: &str = include_str!("../../static/js/telemetry.min.js");
/// Where the script says that it is, and that events go. Under the neutral path it says that path instead.
const SCRIPT_PATH: &str = "/static/js/telemetry.js";
const INGEST_PATH: &str = "/api/analytics/event";

const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("text/javascript; charset=utf-8");
/// An hour, so that a new version is everywhere the same day; a day more while the newer one is fetched.
const CACHE_CONTROL: HeaderValue =
    HeaderValue::from_static("public, max-age=3600, stale-while-revalidate=86400");

/// The routes of script and ingest, under their own paths and the neutral ones.
pub fn routes(neutral: &NeutralPath) -> Router<App> {
    let ingest_path = neutral.as_str();
    let script_path = format!("{ingest_path}.js");
    let neutral_source = SOURCE
        .replace(SCRIPT_PATH, &script_path)
        .replace(INGEST_PATH, ingest_path);
    Router::new()
        .route(INGEST_PATH, event::route())
        .route(ingest_path, event::route())
        .route(SCRIPT_PATH, Script::new(SOURCE).route())
        .route(&script_path, Script::new(&neutral_source).route())
}

/// A script as it is sent.
#[derive(Clone)]
struct Script {
    plain: Bytes,
    gzip: Bytes,
    etag: HeaderValue,
}

impl Script {
    #[expect(
        clippy::expect_used,
        reason = "neither can fail, and each says why; a start without a client would not be better"
    )]
    fn new(text: &str) -> Self {
        let mut gzip = Vec::new();
        GzEncoder::new(text.as_bytes(), Compression::best())
            .read_to_end(&mut gzip)
            .expect("memory can be read");
        let digest = Sha256::digest(text);
        let digest: String = digest.iter().take(8).map(|b| format!("{b:02x}")).collect();
        Self {
            plain: Bytes::copy_from_slice(text.as_bytes()),
            gzip: gzip.into(),
            // Weak, because it is the same for both encodings.
            etag: HeaderValue::try_from(format!("W/\"{digest}\""))
                .expect("hexadecimal digits are a header's value"),
        }
    }

    fn route(self) -> MethodRouter<App> {
        get(move |request: Request| async move { self.answer(request.headers()) })
            .fallback(|| async { Refusal::method_not_allowed() })
    }

    fn answer(&self, asked: &HeaderMap) -> Response {
        let response = if self.is_known(asked) {
            StatusCode::NOT_MODIFIED.into_response()
        } else if accepts_gzip(asked) {
            let encoding = (header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            ([encoding], self.gzip.clone()).into_response()
        } else {
            self.plain.clone().into_response()
        };
        let headers = [
            (header::CONTENT_TYPE, CONTENT_TYPE),
            (header::CACHE_CONTROL, CACHE_CONTROL),
            (header::ETAG, self.etag.clone()),
            (header::VARY, HeaderValue::from_static("accept-encoding")),
            // For pages of other sites: as a module, with `integrity`, and where a page lets in only what says so.
            (
                header::ACCESS_CONTROL_ALLOW_ORIGIN,
                HeaderValue::from_static("*"),
            ),
            (
                header::HeaderName::from_static("cross-origin-resource-policy"),
                HeaderValue::from_static("cross-origin"),
            ),
        ];
        (headers, response).into_response()
    }

    /// Whether the browser has this very script.
    fn is_known(&self, asked: &HeaderMap) -> bool {
        let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
        let own = self.etag.to_str().map(opaque).unwrap_or_default();
        list(asked, header::IF_NONE_MATCH).any(|tag| tag.trim() == "*" || opaque(tag) == own)
    }
}

/// Whether gzip is named, and not with a weight of nothing.
fn accepts_gzip(asked: &HeaderMap) -> bool {
    list(asked, header::ACCEPT_ENCODING).any(|part| {
        let mut part = part.split(';').map(str::trim);
        let name = part.next().unwrap_or_default();
        let is_refused = part.any(|weight| {
            weight
                .strip_prefix("q=")
                .is_some_and(|q| q.parse() == Ok(0.0))
        });
        (name.eq_ignore_ascii_case("gzip") || name == "*") && !is_refused
    })
}

/// The members of a header's list.
fn list(headers: &HeaderMap, name: header::HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
}
