//! `GET /docs`: a page to read the HTTP API and to try it, Swagger UI over `openapi.json`.

use utoipa_axum::router::OpenApiRouter;

use super::asset::{FRESH, Field, packed};
use super::extract::AppState;

/// The page loads from this server alone, without inline scripts and styles. The icons of Swagger
/// UI are data URLs.
const PAGE: &[Field] = &[
    ("content-type", "text/html; charset=utf-8"),
    FRESH,
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; \
         img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
    ),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("referrer-policy", "no-referrer"),
    ("x-frame-options", "DENY"),
];
const SCRIPT: &[Field] = &[("content-type", "text/javascript; charset=utf-8"), FRESH];
const STYLE: &[Field] = &[("content-type", "text/css; charset=utf-8"), FRESH];

/// The routes of the page and its files.
pub fn routes() -> OpenApiRouter<AppState> {
    let part = "A part of the page of the HTTP API";
    OpenApiRouter::default()
        .routes(packed!("docs.html", PAGE).route("/docs", "The HTTP API as a page"))
        .routes(packed!("docs.js", SCRIPT).route("/static/docs.js", part))
        .routes(packed!("docs.css", STYLE).route("/static/docs.css", part))
}
