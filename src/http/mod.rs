//! The HTTP interface: decode, one engine call, encode.
//!
//! Connections are served by hyper's HTTP/1 with timeouts and with limits for connections and
//! clients (`public_limits`), which `axum::serve` does not have. hyper does not read the next
//! request while a response waits for the socket, so that a client that does not read holds one
//! response. No address of a client is stored or traced.

mod accept;
mod alerts;
mod annotations;
mod asset;
mod audit;
mod auth;
mod blocking;
mod body;
mod caller;
mod client_script;
mod clients;
mod clock;
mod cohorts;
mod compress;
mod connection;
mod connection_state;
mod dashboard;
mod demo;
mod described;
mod docs;
mod entity_tag;
mod error_response;
mod event;
mod export;
mod extract;
mod health;
mod jobs;
mod json_response;
mod links;
mod listener;
mod live;
mod maintenance;
mod monitoring;
mod openapi;
mod path;
mod permits;
mod plan;
mod public_limits;
mod query;
mod query_string;
mod reports;
mod request_body;
mod rollup;
mod sdk;
mod service;
mod shared;
mod socket;
mod status;
mod streaming;
mod token_bucket;
mod transfers;
mod usage;
mod users;
mod values;
mod weak_key;

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, header};
use axum::{Extension, Router, middleware};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::alerts::sender::MessageSender;
use crate::config::ServeConfig;
use crate::engine::{DemoFolder, Engine, LimitStatus, Shared};
use crate::spark::Spark;

use auth::Identity;
pub use auth::{KeyList, Keys, Role};
use blocking::Permits;
use error_response::ErrorResponse;
use extract::AppState;
use jobs::Jobs;
pub use listener::serve;
pub use public_limits::PublicLimits;
pub use transfers::{ExportBody, ImportBody};

/// Most bytes of a request's head; browsers send up to 8 kB of cookies.
const MAX_HEAD_BYTES: usize = 32 << 10;
/// Most bytes of a request's path and query string; proxies have similar limits.
const MAX_URI_BYTES: usize = 16 << 10;
/// Most header lines of a request.
const MAX_HEADERS: usize = 64;

/// The state that handlers need.
#[derive(Clone)]
struct App {
    engine: Arc<Engine>,
    keys: Arc<Keys>,
    /// That of the request; none in the state of the router.
    key: Option<Identity>,
    /// The report or board of the share link of the request; none if it has a key.
    shared: Option<Arc<Shared>>,
    public_limits: Arc<PublicLimits>,
    demo: Arc<DemoFolder>,
    sender: Arc<MessageSender>,
    permits: Arc<Permits>,
    jobs: Arc<Jobs>,
    /// The cluster that computes queries and usage; none if this program does.
    spark: Option<Arc<Spark>>,
}

impl App {
    /// The name of the key of the request, for the audit log.
    fn operator(&self) -> Arc<str> {
        self.key
            .as_ref()
            .map_or_else(Arc::default, |key| key.name.clone())
    }

    /// The limits of clients and requests.
    fn limits(&self) -> Vec<LimitStatus> {
        let mut limits = self.public_limits.status();
        limits.extend(self.permits.limits());
        limits
    }

    /// The same, with the use of the limits of clients as of some seconds ago, so that no request
    /// waits for it.
    fn sampled_limits(&self) -> Vec<LimitStatus> {
        let mut limits = self.public_limits.sampled_status();
        limits.extend(self.permits.limits());
        limits
    }
}

/// The router of the server.
pub fn router(
    engine: Arc<Engine>,
    keys: Arc<Keys>,
    public_limits: Arc<PublicLimits>,
    sender: Arc<MessageSender>,
    spark: Option<Arc<Spark>>,
) -> Router {
    let (routes, document) = routes(public_limits.config());
    let app = App {
        demo: Arc::new(DemoFolder::of(engine.config())),
        engine,
        keys,
        key: None,
        shared: None,
        sender,
        permits: Arc::new(Permits::new()),
        jobs: Arc::default(),
        spark,
        public_limits,
    };
    routes
        .layer(Extension(openapi::finished(document)))
        // Before the compression, so that the tag is one of the body as it is.
        .layer(middleware::from_fn(entity_tag::tag))
        .layer(middleware::from_fn(compress::compress))
        .layer(CatchPanicLayer::custom(ErrorResponse::after_panic))
        // Browsers must not guess another content type.
        .layer(SetResponseHeaderLayer::if_not_present(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ))
        // Bodies are read by `body::receive`, which has limits of its own.
        .layer(DefaultBodyLimit::disable())
        .with_state(AppState::new(app))
}

/// The routes and their description. Each is added with `routes!`, or as a file, so that none is
/// missing in the document.
fn routes(config: &ServeConfig) -> (Router<AppState>, OpenApi) {
    let (routes, mut document) = OpenApiRouter::with_openapi(openapi::empty())
        .routes(routes!(usage::usage))
        .routes(routes!(query::query, query::query_by_url))
        .routes(routes!(query::queries))
        .routes(routes!(values::values))
        .routes(routes!(cohorts::cohorts, cohorts::set_cohort))
        .routes(routes!(cohorts::remove_cohort))
        .routes(routes!(reports::reports, reports::import_reports))
        .routes(routes!(
            reports::report,
            reports::set_report,
            reports::remove_report
        ))
        .routes(routes!(reports::report_history))
        .routes(routes!(shared::links, shared::share))
        .routes(routes!(shared::revoke_link))
        .routes(routes!(shared::shared))
        .routes(routes!(shared::shared_page))
        .routes(routes!(annotations::annotations))
        .routes(routes!(alerts::alerts))
        .routes(routes!(alerts::set_alert, alerts::remove_alert))
        .routes(routes!(alerts::test_alert))
        .routes(routes!(
            annotations::set_annotation,
            annotations::remove_annotation
        ))
        .routes(routes!(plan::plan, plan::set_plan))
        .routes(routes!(plan::infer))
        .routes(routes!(plan::quarantine))
        .routes(routes!(plan::replay))
        .routes(routes!(export::export))
        .routes(routes!(users::access))
        .routes(routes!(users::erase))
        .routes(routes!(users::erase_many))
        .routes(routes!(links::user_links))
        .routes(routes!(links::remove_user_link))
        .routes(routes!(clock::confirm))
        .routes(routes!(rollup::rollup))
        .routes(routes!(maintenance::seal))
        .routes(routes!(maintenance::rebuild))
        .routes(routes!(maintenance::verify))
        .routes(routes!(maintenance::expire))
        .routes(routes!(transfers::export))
        .routes(routes!(transfers::import))
        .routes(routes!(audit::audit))
        .routes(routes!(jobs::list))
        .routes(routes!(jobs::show, jobs::cancel))
        .routes(routes!(status::status))
        .routes(routes!(live::live))
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(monitoring::metrics))
        .routes(routes!(openapi::openapi))
        .merge(demo::routes())
        .merge(dashboard::routes())
        .merge(docs::routes())
        .split_for_parts();
    let (scripts, document_of_scripts) = client_script::routes(config).split_for_parts();
    document.merge(document_of_scripts);
    let (clients, document_of_clients) = sdk::routes(config).split_for_parts();
    document.merge(document_of_clients);
    let routes = routes
        .fallback(dashboard::not_found)
        .method_not_allowed_fallback(|| async { ErrorResponse::method_not_allowed() })
        // After the fallback, which would otherwise replace the response to a preflight request.
        .merge(scripts)
        .merge(clients);
    (routes, document)
}

/// The result of a handler.
type HandlerResult<T> = Result<T, ErrorResponse>;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Settings {
        #[command(flatten)]
        serve: ServeConfig,
    }

    /// The paths of a router, which only its debug output tells.
    fn paths(router: &Router<AppState>) -> BTreeSet<String> {
        let routes = format!("{router:?}");
        let own = routes.split("fallback_router").next().unwrap_or_default();
        own.split('"')
            .filter(|piece| piece.starts_with('/'))
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn the_document_has_the_paths_of_the_router_and_no_others() {
        let (routes, document) = routes(&Settings::parse_from(["serve"]).serve);
        let documented: BTreeSet<String> = document.paths.paths.into_keys().collect();
        assert_eq!(paths(&routes), documented);
        assert!(documented.len() > 20, "{documented:?}");
    }
}
