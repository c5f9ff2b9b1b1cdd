//! `GET /` and what belongs to it: the dashboard, which asks for the key itself. It is part of the binary.

use axum::Router;
use axum::response::Redirect;
use axum::routing::get;

use super::asset::{Asset, Line};
use super::extract::Shared;

/// Browsers ask each time whether a file has changed, so that page and scripts are of one version.
const FRESH: Line = ("cache-control", "no-cache");

/// What the page may do: load from here and nowhere else, and run nothing that is written into it. Whatever a name of an
/// event says, no text becomes HTML: the one policy of trusted types refuses all but the empty text.
const PAGE: &[Line] = &[
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
const SCRIPT: &[Line] = &[("content-type", "text/javascript; charset=utf-8"), FRESH];
const STYLE: &[Line] = &[("content-type", "text/css; charset=utf-8"), FRESH];
const ICON: &[Line] = &[("content-type", "image/svg+xml"), FRESH];

/// A file that `make dashboard` makes of `static/`; `build.rs` says so where it is missing.
macro_rules! built {
    ($name:literal, $lines:expr) => {
        Asset::new(
            include_bytes!(concat!("../../static/dist/", $name)).as_slice(),
            $lines,
        )
    };
}

/// The page names its files relative to itself, so that it works under whatever path a proxy mounts the server.
const INDEX: &str = include_str!("../../static/dist/index.html");

/// The routes of the page. Under `/demo/` the same page shows the demo's folder.
pub fn routes() -> Router<Shared> {
    let demo = INDEX.replace("\"static/", "\"../static/");
    let file = |path, asset: Asset| Router::new().route(path, asset.route());
    Router::new()
        .route("/", Asset::new(INDEX, PAGE).route())
        .route("/demo/", Asset::new(demo, PAGE).route())
        // Relative, because a proxy may mount the server at a path that it does not know.
        .route("/demo", get(|| async { Redirect::permanent("demo/") }))
        .merge(file("/static/dashboard.js", built!("dashboard.js", SCRIPT)))
        .merge(file("/static/charts.js", built!("charts.js", SCRIPT)))
        .merge(file(
            "/static/dashboard.css",
            built!("dashboard.css", STYLE),
        ))
        .merge(file("/static/icon.svg", built!("icon.svg", ICON)))
}
