//! `GET /` and its files: the dashboard, which is part of the binary and prompts for the key
//! itself.

use axum::Router;
use axum::response::Redirect;
use axum::routing::get;

use super::asset::{Field, built};
use super::extract::AppState;

/// Browsers ask each time whether a file has changed, so that page and scripts are of one version.
const FRESH: Field = ("cache-control", "no-cache");

/// The page loads from this server alone and runs no inline script. Event names never become HTML:
/// the only policy of trusted types rejects every string but the empty one.
const PAGE: &[Field] = &[
    ("content-type", "text/html; charset=utf-8"),
    FRESH,
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types default",
    ),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    (
        "permissions-policy",
        "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    ),
    ("referrer-policy", "no-referrer"),
    ("x-frame-options", "DENY"),
];
const SCRIPT: &[Field] = &[("content-type", "text/javascript; charset=utf-8"), FRESH];
const STYLE: &[Field] = &[("content-type", "text/css; charset=utf-8"), FRESH];
const ICON: &[Field] = &[("content-type", "image/svg+xml"), FRESH];

/// The routes of the page and its files. Under `/demo/` the same page shows the demo's data.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/", built!("index.html", PAGE).route())
        .route("/demo/", built!("demo.html", PAGE).route())
        // Relative, because a proxy may mount the server at a path that it does not know.
        .route("/demo", get(|| async { Redirect::permanent("demo/") }))
        .route(
            "/static/dashboard.js",
            built!("dashboard.js", SCRIPT).route(),
        )
        .route("/static/charts.js", built!("charts.js", SCRIPT).route())
        .route(
            "/static/dashboard.css",
            built!("dashboard.css", STYLE).route(),
        )
        .route("/static/icon.svg", built!("icon.svg", ICON).route())
}
