//! `GET /static/js/telemetry.js`: the browser client, for pages of every site, and the same under the neutral path.

use axum::Router;

use super::asset::{Asset, Line};
use super::event;
use super::extract::Shared;
use super::path::INGEST_PATH;
use crate::config::ServeConfig;

/// Made from `static/js/telemetry.js` by `make client`; a test tells when it is not.
const SOURCE: &str = include_str!("../../static/js/telemetry.min.js");
/// Where the script says that it is, and that events go. Under the neutral path it says that path instead.
const SCRIPT_PATH: &str = "/static/js/telemetry.js";

const HEADERS: &[Line] = &[
    ("content-type", "text/javascript; charset=utf-8"),
    // An hour, so that a new version is everywhere the same day; a day more while the newer one is fetched.
    (
        "cache-control",
        "public, max-age=3600, stale-while-revalidate=86400",
    ),
    // For pages of other sites: as a module, with `integrity`, and where a page lets in only what says so.
    ("access-control-allow-origin", "*"),
    ("cross-origin-resource-policy", "cross-origin"),
];

/// The routes of script and ingest, under their own paths and the neutral ones.
pub fn routes(config: &ServeConfig) -> Router<Shared> {
    let ingest_path = config.neutral_path.as_str();
    let script_path = format!("{ingest_path}.js");
    let neutral_source = SOURCE
        .replace(SCRIPT_PATH, &script_path)
        .replace(INGEST_PATH, ingest_path);
    Router::new()
        .route(INGEST_PATH, event::route(&config.origins))
        .route(ingest_path, event::route(&config.origins))
        .route(SCRIPT_PATH, Asset::new(SOURCE, HEADERS).route())
        .route(&script_path, Asset::new(neutral_source, HEADERS).route())
}
