//! The routes of clients of other products, which a team keeps when it moves here: those of
//! Segment and `RudderStack`, of `PostHog`, and of Plausible.
//!
//! Each client takes some statuses for success and others for a reason to send again, or to drop
//! what it has, so that each product has responses of its own.

mod events;
pub(super) mod paths;
mod stubs;

use axum::Json;
use axum::http::{HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;

use super::error_response::ErrorResponse;
use super::event::cross_origin;
use super::extract::AppState;
use super::json_response::NO_STORE;
use crate::config::ServeConfig;
use crate::sdk::Product;

/// Caching of what clients ask for at each start of a page.
const A_DAY: HeaderValue = HeaderValue::from_static("public, max-age=86400");

/// The routes of the products whose clients may send events.
pub fn routes(config: &ServeConfig) -> OpenApiRouter<AppState> {
    let mut all: Vec<UtoipaMethodRouter<AppState>> = Vec::new();
    let served = &config.clients.sdk;
    if served.has(Product::Segment) {
        all.extend([
            routes!(events::segment),
            routes!(events::segment_beacon),
            routes!(stubs::segment_settings),
            routes!(stubs::segment_settings_of_apps),
            routes!(stubs::source_config),
        ]);
    }
    if served.has(Product::PostHog) {
        all.extend([
            routes!(events::posthog_batch),
            routes!(events::posthog_e),
            routes!(events::posthog_capture),
            routes!(events::posthog_v0),
            routes!(events::posthog_v1),
            routes!(stubs::flags),
            routes!(stubs::decide),
            routes!(stubs::replay),
            routes!(stubs::remote_config),
            routes!(stubs::remote_config_script),
            routes!(stubs::local_evaluation),
        ]);
    }
    if served.has(Product::Plausible) {
        all.push(routes!(events::plausible));
    }
    let neutral = config.neutral_path.as_str();
    let script = format!("{neutral}.js");
    // These clients send no credentials apart from those of beacons, which are not read.
    let cross_origin = cross_origin(&config.origins)
        .allow_methods([Method::GET, Method::POST])
        .allow_credentials(false);
    let mut router = OpenApiRouter::default();
    for route in all {
        let (_, documented, _) = &route;
        let mut paths = documented.paths.keys();
        // The neutral path may be the same, and is our own.
        if paths.any(|path| path == neutral || *path == script) {
            continue;
        }
        router = router.routes(route.map(|route| {
            route
                .fallback(|| async { ErrorResponse::method_not_allowed() })
                .layer(cross_origin.clone())
        }));
    }
    router
}

/// A response that is not cached.
fn json<T: Serialize>(value: T) -> Response {
    (NO_STORE, Json(value)).into_response()
}

/// A response that browsers may keep for a day.
fn kept<T: Serialize>(value: T) -> Response {
    ([(header::CACHE_CONTROL, A_DAY)], Json(value)).into_response()
}
