//! `GET /static/js/telemetry.js`: the browser client for pages of any site, the files that it loads
//! when a page asks for more, and its types; the scripts also under the neutral path.

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
/// The second file, which the script imports by its own path with this end.
const WEB_SOURCE: &str = include_str!("../../static/js/telemetry-web.min.js");
const WEB_END: &str = "-web.js";
/// The third file, which the second one imports.
const VITALS_SOURCE: &str = include_str!("../../static/js/telemetry-vitals.min.js");
const VITALS_END: &str = "-vitals.js";
/// The import in the second file, relative to itself.
const VITALS_IMPORT: &str = "./telemetry-vitals.js";
/// The path of the script, which is also in the script. Under the neutral path the script has that
/// path instead.
const SCRIPT_PATH: &str = "/static/js/telemetry.js";
const TYPES_PATH: &str = "/static/js/telemetry.d.ts";

const FIELDS: &[Field] = &fields("text/javascript; charset=utf-8");
const TYPES_FIELDS: &[Field] = &fields("text/plain; charset=utf-8");

const fn fields(content_type: &'static str) -> [Field; 4] {
    [
        ("content-type", content_type),
        // An hour, so that all pages have a new version within a day; a day more while it is
        // fetched.
        (
            "cache-control",
            "public, max-age=3600, stale-while-revalidate=86400",
        ),
        // For pages of other sites: as a module, with `integrity`, and under
        // `Cross-Origin-Embedder-Policy`.
        ("access-control-allow-origin", "*"),
        ("cross-origin-resource-policy", "cross-origin"),
    ]
}

/// The routes of script and ingest, under their own paths and the neutral ones.
pub fn routes(config: &ServeConfig) -> OpenApiRouter<AppState> {
    let ingest_path = config.neutral_path.as_str();
    let script_path = format!("{ingest_path}.js");
    let neutral_source = SOURCE
        .replace(SCRIPT_PATH, &script_path)
        .replace(INGEST_PATH, ingest_path);
    let neutral_import = format!(
        "./{}{VITALS_END}",
        ingest_path.rsplit('/').next().unwrap_or("")
    );
    let neutral_web = WEB_SOURCE.replace(VITALS_IMPORT, &neutral_import);
    let at = |path: &str, end: &str| format!("{}{end}", path.strip_suffix(".js").unwrap_or(path));
    let about = "The browser client";
    let about_web = "The second file of the client, which attributes of its tag ask for";
    let about_vitals = "The third file of the client, which measures Web Vitals";
    OpenApiRouter::default()
        .routes(event::route(&config.origins))
        .routes(described::moved(
            event::route(&config.origins),
            ingest_path,
            "neutral",
        ))
        .routes(built!("telemetry.js", FIELDS).route(SCRIPT_PATH, about))
        .routes(Asset::compress(neutral_source, FIELDS).route(&script_path, about))
        .routes(built!("telemetry-web.js", FIELDS).route(&at(SCRIPT_PATH, WEB_END), about_web))
        .routes(Asset::compress(neutral_web, FIELDS).route(&at(&script_path, WEB_END), about_web))
        .routes(
            built!("telemetry-vitals.js", FIELDS).route(&at(SCRIPT_PATH, VITALS_END), about_vitals),
        )
        .routes(
            Asset::compress(VITALS_SOURCE.to_owned(), FIELDS)
                .route(&at(&script_path, VITALS_END), about_vitals),
        )
        .routes(
            built!("telemetry.d.ts", TYPES_FIELDS)
                .route(TYPES_PATH, "Types of the browser client, for TypeScript"),
        )
}
