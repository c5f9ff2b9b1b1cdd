//! Responses to other requests of clients than those with events: settings and feature flags, of
//! which there are none, and replays, which are not stored. Without a response some clients wait,
//! send more bytes, or send nothing.

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::events::PostHogAnswer;
use super::{A_DAY, json, kept};
use crate::event::EventCode;
use crate::http::HandlerResult;
use crate::http::body;
use crate::http::described::{BodyErrors, Errors};
use crate::http::extract::{PathParam, Public};
use crate::sdk::content;

/// The id of each response: there is nothing to be found by it.
const REQUEST_ID: &str = "00000000-0000-4000-8000-000000000000";
const SCRIPT: (HeaderName, HeaderValue) = (
    header::CONTENT_TYPE,
    HeaderValue::from_static("text/javascript; charset=utf-8"),
);

/// The settings of Segment's browser client: its own destination and no others.
#[utoipa::path(
    get,
    path = "/v1/projects/{key}/settings",
    operation_id = "segment_settings",
    tag = "clients",
    params(("key" = String, Path, description = "The write key.")),
    responses((status = 200, description = "The settings.", body = Object), Errors),
    security(())
)]
pub async fn segment_settings(PathParam(key): PathParam) -> Response {
    kept(settings(&key))
}

/// The same for Segment's clients in apps.
#[utoipa::path(
    get,
    path = "/projects/{key}/settings",
    operation_id = "segment_settings_of_apps",
    tag = "clients",
    params(("key" = String, Path, description = "The write key.")),
    responses((status = 200, description = "The settings.", body = Object), Errors),
    security(())
)]
pub async fn segment_settings_of_apps(PathParam(key): PathParam) -> Response {
    kept(settings(&key))
}

fn settings(key: &str) -> Value {
    json!({
        "integrations": {"Segment.io": {
            "apiKey": key,
            "unbundledIntegrations": [],
            "addBundledMetadata": true,
            "maybeBundledConfigIds": {},
            "versionSettings": {"version": "4.4.7", "componentTypes": ["browser"]},
        }},
        "plan": {
            "track": {"__default": {"enabled": true, "integrations": {}}},
            "identify": {"__default": {"enabled": true}},
            "group": {"__default": {"enabled": true}},
        },
        "edgeFunction": {},
        "analyticsNextEnabled": true,
        "middlewareSettings": {},
        "enabledMiddleware": {},
        "metrics": {"sampleRate": 0},
        "legacyVideoPluginsEnabled": false,
        "remotePlugins": [],
    })
}

/// The settings of `RudderStack`'s clients: an enabled source without destinations.
#[utoipa::path(
    get,
    path = "/sourceConfig",
    operation_id = "source_config",
    tag = "clients",
    params(("writeKey" = Option<String>, Query, description = "The write key.")),
    responses((status = 200, description = "The settings.", body = Object), Errors),
    security(())
)]
pub async fn source_config() -> Response {
    const AT: &str = "2026-01-01T00:00:00.000Z";
    json(json!({
        "source": {
            "id": "echopilot",
            "name": "echopilot",
            "writeKey": "",
            "config": {"statsCollection": {
                "errors": {"enabled": false},
                "metrics": {"enabled": false},
            }},
            "enabled": true,
            "workspaceId": "echopilot",
            "destinations": [],
            "updatedAt": AT,
            "dataplanes": {},
        },
        "updatedAt": AT,
    }))
}

/// Feature flags, of which there are none.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Flags {
    /// Always empty.
    flags: EmptyObject,
    /// Always empty.
    feature_flags: EmptyObject,
    /// Always empty.
    feature_flag_payloads: EmptyObject,
    /// Always false.
    errors_while_computing_flags: bool,
    /// Always the same.
    request_id: &'static str,
    /// Always false.
    session_recording: bool,
    /// The encodings in which events may be sent.
    supported_compression: [&'static str; 2],
}

/// An object without members.
#[derive(Serialize, ToSchema)]
pub struct EmptyObject {}

/// The feature flags of a user for `PostHog`'s clients: none.
#[utoipa::path(
    post,
    path = "/flags",
    operation_id = "flags",
    tag = "clients",
    params(("v" = Option<String>, Query, description = "The version of the response, all of which are one.")),
    request_body = Object,
    responses((status = 200, description = "No flags.", body = Flags), Errors, BodyErrors),
    security(())
)]
pub async fn flags(public: Public, request: Request) -> HandlerResult<Response> {
    no_flags(&public, request).await
}

/// The same for older clients.
#[utoipa::path(
    post,
    path = "/decide",
    operation_id = "decide",
    tag = "clients",
    params(("v" = Option<String>, Query, description = "As of `/flags`.")),
    request_body = Object,
    responses((status = 200, description = "No flags.", body = Flags), Errors, BodyErrors),
    security(())
)]
pub async fn decide(public: Public, request: Request) -> HandlerResult<Response> {
    no_flags(&public, request).await
}

async fn no_flags(public: &Public, request: Request) -> HandlerResult<Response> {
    discard(public, request).await?;
    Ok(json(Flags {
        flags: EmptyObject {},
        feature_flags: EmptyObject {},
        feature_flag_payloads: EmptyObject {},
        errors_while_computing_flags: false,
        request_id: REQUEST_ID,
        session_recording: false,
        supported_compression: ["gzip", "gzip-js"],
    }))
}

/// Session replays of `PostHog`'s browser client, which are counted and not stored.
#[utoipa::path(
    post,
    path = "/s",
    operation_id = "replay",
    tag = "clients",
    request_body = Object,
    responses((status = 200, description = "Nothing is stored.", body = PostHogAnswer), Errors, BodyErrors),
    security(())
)]
pub async fn replay(public: Public, request: Request) -> HandlerResult<Response> {
    discard(&public, request).await?;
    let monitoring = public.monitoring();
    monitoring.rejections.count(EventCode::Replay.into(), 1);
    Ok(json(PostHogAnswer::OK))
}

/// Receives a body and drops it: a client whose body is not read sees no response.
async fn discard(public: &Public, request: Request) -> HandlerResult<()> {
    let memory = &public.permits().bodies;
    body::receive_unlabelled(memory, request.into_body(), content::MAX_WIRE_BYTES).await?;
    Ok(())
}

/// The settings of `PostHog`'s browser client: events may be compressed, and there is nothing else.
#[utoipa::path(
    get,
    path = "/array/{key}/config",
    operation_id = "remote_config",
    tag = "clients",
    params(("key" = String, Path, description = "The project key.")),
    responses((status = 200, description = "The settings.", body = Object), Errors),
    security(())
)]
pub async fn remote_config(PathParam(key): PathParam) -> Response {
    kept(config(&key))
}

/// The same as a script.
#[utoipa::path(
    get,
    path = "/array/{key}/config.js",
    operation_id = "remote_config_script",
    tag = "clients",
    params(("key" = String, Path, description = "The project key.")),
    responses(
        (status = 200, description = "Sets the settings of this key.", body = String, content_type = "text/javascript"),
        Errors
    ),
    security(())
)]
pub async fn remote_config_script(PathParam(key): PathParam) -> Response {
    let settings = json!({"config": config(&key), "siteApps": []});
    let key = Value::from(key);
    let script = format!(
        "(window._POSTHOG_REMOTE_CONFIG = window._POSTHOG_REMOTE_CONFIG || {{}})[{key}] = {settings};\n"
    );
    ([SCRIPT, (header::CACHE_CONTROL, A_DAY)], script).into_response()
}

fn config(key: &str) -> Value {
    json!({
        "token": key,
        "supportedCompression": ["gzip", "gzip-js"],
        "hasFeatureFlags": false,
        "captureDeadClicks": false,
        "capturePerformance": false,
        "autocapture_opt_out": false,
        "autocaptureExceptions": false,
        "analytics": {"endpoint": "/i/v0/e/"},
        "elementsChainAsString": true,
        "errorTracking": {"autocaptureExceptions": false, "suppressionRules": []},
        "sessionRecording": false,
        "heatmaps": false,
        "conversations": false,
        "surveys": false,
        "logs": {"captureConsoleLogs": false},
        "defaultIdentifiedOnly": true,
        "siteApps": [],
        "isAuthenticated": false,
        "toolbarParams": {},
    })
}

/// The definitions of feature flags for clients that evaluate them: none.
#[utoipa::path(
    get,
    path = "/api/feature_flag/local_evaluation",
    operation_id = "local_evaluation",
    tag = "clients",
    responses((status = 200, description = "No flags.", body = Object), Errors),
    security(())
)]
pub async fn local_evaluation() -> Response {
    json(json!({"flags": [], "group_type_mapping": {}, "cohorts": {}}))
}
