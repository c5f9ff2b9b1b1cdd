//! Results of closed days, which a client may keep: they have an entity tag, and a client that has
//! the result gets 304 without a computation.
//!
//! The tag is one of the data, the request, the format and the program. In JSON it is weak, because
//! `ts` is the time of each computation.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use sha2::{Digest, Sha256};

use super::asset::is_known;
use super::json_response::NO_STORE;
use super::{App, HandlerResult};
use crate::export::Format;
use crate::window::WindowRequest;

/// Only the client itself may keep it, and asks each time whether it has changed.
const PRIVATE: HeaderValue = HeaderValue::from_static("private, no-cache");
/// The request headers that select the response. The keys, so that no client gets what was sent to
/// another one.
const VARY: HeaderValue = HeaderValue::from_static("accept, authorization, x-dash-key");

/// The entity tag of a result.
pub struct ClosedResult(HeaderValue);

impl ClosedResult {
    /// The tag of the result of a request, if the days of its window are over.
    ///
    /// # Errors
    /// If the window or the cohort is wrong, and as [`App::run_short`].
    pub async fn of(
        app: &App,
        window: &WindowRequest,
        cohort: Option<&str>,
        request: &str,
        format: Format,
    ) -> HandlerResult<Option<Self>> {
        let now = Utc::now();
        if window.resolve(now)?.is_partial(now) {
            return Ok(None);
        }
        let (window, cohort) = (window.clone(), cohort.map(str::to_owned));
        let revision = app
            .run_short(move |engine| engine.revision_of_closed(&window, cohort.as_deref(), now))
            .await?;
        Ok(revision.map(|revision| Self::new(&revision, request, format)))
    }

    #[expect(clippy::expect_used, reason = "digits are a valid header value")]
    fn new(revision: &str, request: &str, format: Format) -> Self {
        let mut digest = Sha256::new();
        for part in [revision, request, format.media_type()] {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        let digest = hex::encode(digest.finalize().get(..16).unwrap_or_default());
        let weak = if format == Format::Json { "W/" } else { "" };
        let tag = HeaderValue::try_from(format!("{weak}\"{digest}\""));
        Self(tag.expect("hexadecimal digits in quotes"))
    }

    /// The response to a client that has the result; `None` if it does not.
    pub fn if_known(&self, request: &HeaderMap) -> Option<Response> {
        is_known(&self.0, request).then(|| self.mark(StatusCode::NOT_MODIFIED.into_response()))
    }

    fn mark(&self, mut response: Response) -> Response {
        let headers = response.headers_mut();
        headers.insert(header::ETAG, self.0.clone());
        headers.insert(header::CACHE_CONTROL, PRIVATE);
        headers.insert(header::VARY, VARY);
        response
    }
}

/// The response with an encoded result.
pub fn respond(format: Format, encoded: Vec<u8>, closed: Option<&ClosedResult>) -> Response {
    let content_type = [(header::CONTENT_TYPE, format.media_type())];
    let response = (NO_STORE, content_type, encoded).into_response();
    match closed {
        Some(closed) => closed.mark(response),
        None => response,
    }
}
