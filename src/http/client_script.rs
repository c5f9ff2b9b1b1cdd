//! `GET /static/js/telemetry.js`: the browser client for pages of any site, also under the neutral
//! path.

use utoipa_axum::router::OpenApiRouter;

use super::asset::{Asset, Field, built};
use super::described;
use super::event;
use super::extract::AppState;
use super::path::INGEST_PATH;
use crate::config::ServeConfig;

/// The minified client: `make client` makes it from `static/js/telemetry.js`, and a test fails when
/// they differ.
const SOURCE: &str = include_str!("../../static/js/telemetry.min.js");
/// The path of the script, which is also in the script. Under the neutral path the script has that
/// path instead.
const SCRIPT_PATH: &str = "/static/js/telemetry.js";

const FIELDS: &[Field] = &[
    ("content-type", "text/javascript; charset=utf-8"),
    // An hour, so that all pages have a new version within a day; a day more while it is fetched.
    (
        "cache-control",
        "public, max-age=3600, stale-while-revalidate=86400",
    ),
    // For pages of other sites: as a module, with `integrity`, and under
    // `Cross-Origin-Embedder-Policy`.
    ("access-control-allow-origin", "*"),
    ("cross-origin-resource-policy", "cross-origin"),
];

/// The routes of script and ingest, under their own paths and the neutral ones.
pub fn routes(config: &ServeConfig) -> OpenApiRouter<AppState> {
    let ingest_path = config.neutral_path.as_str();
    let script_path = format!("{ingest_path}.js");
    let neutral_source = SOURCE
        .replace(SCRIPT_PATH, &script_path)
        .replace(INGEST_PATH, ingest_path);
    let about = "The browser client";
    OpenApiRouter::default()
        .routes(event::route(&config.origins))
        .routes(described::moved(
            event::route(&config.origins),
            ingest_path,
            "neutral",
        ))
        .routes(built!("telemetry.js", FIELDS).route(SCRIPT_PATH, about))
        .routes(Asset::compress(neutral_source, FIELDS).route(&script_path, about))
}
