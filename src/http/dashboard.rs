//! `GET /` and its files: the dashboard, which is part of the binary and prompts for the key
//! itself.

use axum::response::Redirect;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::asset::{FRESH, Field, built};
use super::described::Errors;
use super::extract::AppState;

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
pub fn routes() -> OpenApiRouter<AppState> {
    let page = "The dashboard";
    let part = "A part of the dashboard";
    OpenApiRouter::default()
        .routes(built!("index.html", PAGE).route("/", page))
        .routes(built!("demo.html", PAGE).route("/demo/", "The dashboard of the demo"))
        .routes(routes!(demo))
        .routes(built!("dashboard.js", SCRIPT).route("/static/dashboard.js", part))
        .routes(built!("charts.js", SCRIPT).route("/static/charts.js", part))
        .routes(built!("dashboard.css", STYLE).route("/static/dashboard.css", part))
        .routes(built!("icon.svg", ICON).route("/static/icon.svg", part))
}

/// The dashboard of the demo, at a path without its slash.
#[utoipa::path(
    get,
    path = "/demo",
    operation_id = "demo_page",
    tag = "files",
    responses((status = 308, description = "The page is at `demo/`."), Errors),
    security(())
)]
async fn demo() -> Redirect {
    // Relative, because a proxy may mount the server at a path that it does not know.
    Redirect::permanent("demo/")
}
