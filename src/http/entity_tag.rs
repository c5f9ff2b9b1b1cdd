//! Entity tags of responses, by which a client learns whether the one that it has is still right.
//!
//! For results of days that are over the tag is one of the data, the request, the format and the
//! program, so that a client that has the result gets 304 without a computation. For all other
//! responses of the API it is one of the body. In JSON it is weak, because `ts` is the time of each
//! computation.

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use hyper::body::Body as _;
use sha2::{Digest, Sha256};

use super::asset::is_known;
use super::error_response::ErrorResponse;
use super::json_response::NO_STORE;
use super::{App, HandlerResult};
use crate::export::Format;
use crate::metrics::query::CohortCondition;
use crate::window::WindowRequest;

/// Only the client itself may keep it, and asks each time whether it has changed.
const PRIVATE: HeaderValue = HeaderValue::from_static("private, no-cache");
/// The request headers that select the response. The keys, so that no client gets what was sent to
/// another one.
const VARY: HeaderValue = HeaderValue::from_static("accept, authorization, x-dash-key");

/// The paths of the API, and those of the demo.
const API: [&str; 2] = ["/api/analytics/", "/demo/api/analytics/"];
/// Paths whose responses no client may keep: those about single users, of which nothing may stay
/// after an erasure, and those with a secret, the key of the signatures of alerts.
const NOT_KEPT: [&str; 5] = [
    "/api/analytics/alerts",
    "/api/analytics/audit",
    "/api/analytics/links",
    "/api/analytics/quarantine",
    "/api/analytics/users",
];

/// The start of a JSON response that has the time of its computation.
const BEFORE_TS: &[u8] = b"{\"ok\":true,\"ts\":\"";
/// Bytes that are digested at once, in about a third of a millisecond: other connections of the
/// thread wait for them.
const PIECE_BYTES: usize = 64 << 10;

/// The entity tag of a response.
pub struct EntityTag(HeaderValue);

impl EntityTag {
    /// The tag of the result of a request, if the days of its window are over.
    ///
    /// # Errors
    /// If the window or a cohort is wrong, and as [`App::run_short`].
    pub async fn of(
        app: &App,
        window: &WindowRequest,
        cohorts: &[CohortCondition],
        request: &str,
        format: Format,
    ) -> HandlerResult<Option<Self>> {
        let now = Utc::now();
        if window.resolve(now)?.is_partial(now) {
            return Ok(None);
        }
        let (window, cohorts) = (window.clone(), cohorts.to_vec());
        let revision = app
            .run_short(move |engine| engine.revision_of_closed(&window, &cohorts, now))
            .await?;
        Ok(revision.map(|revision| {
            let mut digest = Sha256::new();
            for part in [revision.as_str(), request, format.media_type()] {
                digest.update((part.len() as u64).to_le_bytes());
                digest.update(part);
            }
            Self::new(digest, format == Format::Json)
        }))
    }

    /// The tag of a body of some type, whatever the time of its computation.
    async fn of_body(body: &[u8], media_type: &[u8]) -> Self {
        let is_json = media_type.starts_with(Format::Json.media_type().as_bytes());
        let (before, after) = if is_json {
            around_ts(body)
        } else {
            (body, &[][..])
        };
        let mut digest = Sha256::new_with_prefix(media_type);
        for piece in before.chunks(PIECE_BYTES).chain(after.chunks(PIECE_BYTES)) {
            digest.update(piece);
            if piece.len() == PIECE_BYTES {
                tokio::task::yield_now().await;
            }
        }
        Self::new(digest, is_json)
    }

    #[expect(clippy::expect_used, reason = "digits are a valid header value")]
    fn new(digest: Sha256, is_weak: bool) -> Self {
        let digest = hex::encode(digest.finalize().get(..16).unwrap_or_default());
        let weak = if is_weak { "W/" } else { "" };
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

/// The response with an encoded result to a request that has no tag of its own.
pub fn respond(format: Format, encoded: Vec<u8>) -> Response {
    let content_type = [(header::CONTENT_TYPE, format.media_type())];
    (NO_STORE, content_type, encoded).into_response()
}

/// The response with an encoded result, and with its tag if it is one of closed days.
pub fn respond_tagged(format: Format, encoded: Vec<u8>, closed: Option<EntityTag>) -> Response {
    let response = respond(format, encoded);
    match closed {
        Some(tag) => tag.mark(response),
        None => response,
    }
}

/// True for a path whose finished responses to `GET` have a tag.
pub fn is_tagged(path: &str) -> bool {
    API.iter().any(|start| path.starts_with(start))
}

/// Adds a tag to the finished response of the API to `GET` or `HEAD`, unless it has one. Of one
/// that the client has only the head is sent. Streams and errors are left as they are.
pub async fn tag(request: Request, next: Next) -> Response {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let path = request.uri().path();
    if !is_read || !is_tagged(path) {
        return next.run(request).await;
    }
    let is_kept = !NOT_KEPT.iter().any(|start| path.starts_with(start));
    let sent = request.headers().clone();
    let response = next.run(request).await;
    let is_finished = response.body().size_hint().exact().is_some();
    let has_tag = response.headers().contains_key(header::ETAG);
    if response.status() != StatusCode::OK || !is_finished || has_tag {
        return response;
    }
    let (head, body) = response.into_parts();
    // It is in memory already.
    let Ok(body) = to_bytes(body, usize::MAX).await else {
        return ErrorResponse::internal().into_response();
    };
    let media_type = head.headers.get(header::CONTENT_TYPE);
    let media_type = media_type.map_or(&[][..], HeaderValue::as_bytes);
    let tag = EntityTag::of_body(&body, media_type).await;
    let known = tag.if_known(&sent);
    let mut response =
        known.unwrap_or_else(|| tag.mark(Response::from_parts(head, Body::from(body))));
    if !is_kept {
        let [(name, value)] = NO_STORE;
        response.headers_mut().insert(name, value);
    }
    response
}

/// The parts of a JSON response before and after the time of its computation.
fn around_ts(json: &[u8]) -> (&[u8], &[u8]) {
    let Some(rest) = json.strip_prefix(BEFORE_TS) else {
        return (json, &[]);
    };
    let end = rest.iter().position(|byte| *byte == b'"');
    (
        BEFORE_TS,
        rest.get(end.unwrap_or(rest.len())..).unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag_of(body: &str, media_type: &str) -> HeaderValue {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let tag = EntityTag::of_body(body.as_bytes(), media_type.as_bytes());
        runtime.expect("a runtime").block_on(tag).0
    }

    #[test]
    fn the_tag_of_a_body_does_not_depend_on_the_time_of_its_computation() {
        let first = r#"{"ok":true,"ts":"2026-01-01T00:00:00Z","rows":[{"ts":"x"}]}"#;
        let later = first.replace("2026-01", "2026-02");
        let json = |body: &str| tag_of(body, "application/json");
        assert_eq!(json(first), json(&later));
        assert_ne!(json(first), json(&first.replace('x', "y")));
        assert_ne!(
            tag_of(first, "text/csv"),
            tag_of(&later, "text/csv"),
            "rows have no time of their computation"
        );
        assert_ne!(tag_of("", "text/csv"), tag_of("", "text/html"));
        // The time of an event counts.
        let event = r#"{"ok":true,"events":[{"ts":"2026-01-01T00:00:00Z"}]}"#;
        assert_ne!(json(event), json(&event.replace("2026-01", "2026-02")));
        for broken in ["", "{}", r#"{"ok":true,"ts":"#, r#"{"ok":true,"ts":"2026"#] {
            json(broken);
        }
        let long = "x".repeat(3 * PIECE_BYTES);
        assert_ne!(tag_of(&long, ""), tag_of(&format!("{long}x"), ""));
    }
}
