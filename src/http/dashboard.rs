//! `GET /` and its files: the dashboard, which is part of the binary and prompts for the key
//! itself.

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::accept::preferences;
use super::asset::{Asset, FRESH, Field, built};
use super::described::Errors;
use super::error_response::ErrorResponse;
use super::extract::AppState;
use super::json_response::NO_STORE;
use super::path::ToRoot;
use crate::error::ErrorCode;

/// The policy of the page. It loads from this server alone and runs no inline script. Event names
/// never become HTML: the only policy of trusted types rejects every string but the empty one.
macro_rules! policy {
    ($ancestors:expr) => {
        concat!(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; \
             base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types default; \
             frame-ancestors ",
            $ancestors
        )
    };
}
/// No other page embeds this one.
const PAGE: &[Field] = &[
    ("content-type", "text/html; charset=utf-8"),
    FRESH,
    ("content-security-policy", policy!("'none'")),
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
        .routes(built!("shared.js", SCRIPT).route("/static/shared.js", part))
        .routes(built!("more.js", SCRIPT).route("/static/more.js", part))
        .routes(built!("charts.js", SCRIPT).route("/static/charts.js", part))
        .routes(built!("charts-core.js", SCRIPT).route("/static/charts-core.js", part))
        .routes(built!("more-charts.js", SCRIPT).route("/static/more-charts.js", part))
        .routes(built!("dashboard.css", STYLE).route("/static/dashboard.css", part))
        .routes(built!("icon.svg", ICON).route("/static/icon.svg", part))
}

/// The page under a path of two segments, as that of a share link.
pub fn page_in_folder() -> Asset {
    built!("demo.html", PAGE)
}

/// The policy of a page that other origins may embed, separated by spaces.
pub fn policy_of_page(origins: &str) -> String {
    format!("{}{origins}", policy!(""))
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

/// The response to a request for a path that nothing has: a page that links to the dashboard for a
/// person in a browser, an error in JSON for a program.
pub async fn not_found(request: Request) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let accepted = preferences(request.headers(), &header::ACCEPT);
    let weight = |name: &str| {
        let found = accepted.iter().find(|range| range.is(name));
        found.map_or(0, |range| range.weight)
    };
    if !reads || weight("text/html") <= weight("application/json") {
        return ErrorResponse::not_found().into_response();
    }
    let root = request.extensions().get::<ToRoot>();
    let root = root.map_or("./", |ToRoot(root)| root);
    let page = format!(
        r#"<!doctype html>
<html lang="en" data-theme="light">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>Not found · EchoPilot Analytics</title>
<link rel="icon" href="{root}static/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="{root}static/dashboard.css">
</head>
<body class="shared">
<main class="not-found">
<img src="{root}static/icon.svg" alt="" width="44" height="44">
<h1>There is no page here</h1>
<p>The address is not one of this server. The numbers are in its dashboard.</p>
<a class="button primary" href="{root}">Open the dashboard</a>
</main>
</body>
</html>
"#
    );
    let mut response = (StatusCode::NOT_FOUND, page).into_response();
    for &(name, value) in PAGE {
        let name = HeaderName::from_static(name);
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    let [(name, value)] = NO_STORE;
    response.headers_mut().insert(name, value);
    // By which the response is counted.
    response.extensions_mut().insert(ErrorCode::NotFound);
    response
}
