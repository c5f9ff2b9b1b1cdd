//! `POST /api/analytics/exports` and `POST /api/analytics/imports`: jobs that export the lake and
//! import files. Only the command line of the server's machine may name files and folders: a key
//! that leaks must not read or write what else the server can.

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use chrono::{NaiveDate, Utc};
use clap::ValueEnum;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::described::{BodyErrors, DashKeyErrors, Errors};
use super::error_response::ErrorResponse;
use super::extract::Keyed;
use super::jobs::{JobKind, JobResponse};
use super::{App, HandlerResult, body};
use crate::engine::{ExportRequest, is_bucket};
use crate::error::{Error, ErrorCode, Result};
use crate::import::{Foreign, Options, Source};
use crate::sdk::Product;
use crate::window::{NamedPeriod, WindowRequest};

/// The body of a request to export the lake.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportBody {
    /// The address of a bucket or a part of it, such as `s3://BUCKET/PREFIX`.
    pub to: String,
    /// The warehouse that will read it: `plain`, `bigquery` or `snowflake`; `delta`
    /// writes tables.
    #[serde(rename = "for", default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Only the last days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days: Option<i64>,
    /// First day of the export.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<NaiveDate>,
    /// Last day of the export.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<NaiveDate>,
    /// A calendar period, instead of the other days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(inline)]
    pub period: Option<NamedPeriod>,
    /// `last` writes only days that changed since the last export.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

/// The body of a request to import files.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportBody {
    /// Absolute paths of files on the server's machine.
    pub files: Vec<String>,
    /// The day of the newest event, to which all times are shifted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebase_to: Option<NaiveDate>,
    /// The product whose files they are: `segment`, `posthog`, `mixpanel` or `umami`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// Starts a job that exports the lake to a bucket.
#[utoipa::path(
    post,
    path = "/api/analytics/exports",
    operation_id = "start_export",
    tag = "operation",
    request_body = ExportBody,
    responses(
        JobResponse, Errors, DashKeyErrors, BodyErrors
    )
)]
pub async fn export(Keyed(app): Keyed, headers: HeaderMap, body: Body) -> HandlerResult<Response> {
    let body: ExportBody = read(&app, &headers, body, ErrorCode::BadExport).await?;
    if !is_bucket(&body.to) {
        check_command_line(
            &app,
            "an export over HTTP goes to a bucket, such as s3://BUCKET/PREFIX",
        )?;
    }
    let window = WindowRequest {
        days: body.days,
        from: body.from,
        to: body.until,
        period: body.period,
        ..WindowRequest::default()
    };
    let request = ExportRequest {
        target: value("for", body.target.as_deref())?.unwrap_or_default(),
        since: value("since", body.since.as_deref())?,
        window: (window != WindowRequest::default()).then_some(window),
        to: body.to,
    };
    if let Some(window) = &request.window {
        window.resolve(Utc::now())?;
    }
    let operator = app.operator();
    app.start_job(JobKind::Export, move |engine, progress| {
        engine.by(&operator, Utc::now()).export(&request, progress)
    })
}

/// Starts a job that imports files; for the command line on the server's machine.
#[utoipa::path(
    post,
    path = "/api/analytics/imports",
    operation_id = "start_import",
    tag = "operation",
    request_body = ImportBody,
    responses(
        JobResponse, Errors, DashKeyErrors, BodyErrors
    )
)]
pub async fn import(Keyed(app): Keyed, headers: HeaderMap, body: Body) -> HandlerResult<Response> {
    check_command_line(&app, "events are sent over HTTP to /api/analytics/event")?;
    let body: ImportBody = read(&app, &headers, body, ErrorCode::BadImport).await?;
    let sources: Vec<Source> = body
        .files
        .into_iter()
        .map(|file| Source::File(file.into()))
        .collect();
    let mapping = &app.public_limits.config().clients.mapping;
    let from = body.from.map(|name| {
        let product = Product::among(&Product::IMPORTED, &name).map_err(|message| {
            Error::bad_input(ErrorCode::BadImport, format!("from: {message}"))
        })?;
        let mapping = mapping.clone();
        Ok::<_, Error>(Foreign { product, mapping })
    });
    let options = Options {
        rebase_to: body.rebase_to,
        from: from.transpose()?,
    };
    app.start_job(JobKind::Import, move |engine, progress| {
        engine.import(&sources, &options, Utc::now(), progress)
    })
}

fn check_command_line(app: &App, instead: &str) -> HandlerResult<()> {
    if app.key.as_ref().is_some_and(|key| key.is_command_line) {
        return Ok(());
    }
    Err(ErrorResponse::new(
        StatusCode::FORBIDDEN,
        ErrorCode::CommandLineOnly,
        format!("only the command line on the server's machine may name its files; {instead}"),
    ))
}

/// Parses the value of a field as the command line does.
fn value<T: ValueEnum>(field: &str, value: Option<&str>) -> Result<Option<T>> {
    value
        .map(|value| {
            T::from_str(value, false).map_err(|_| {
                let values = T::value_variants().iter();
                let names = values.filter_map(ValueEnum::to_possible_value);
                let names: Vec<String> = names.map(|name| name.get_name().to_owned()).collect();
                let (value, allowed) = (crate::error::shown(value), names.join(", "));
                let message = format!("{field} is {value:?}; allowed is {allowed}");
                Error::bad_input(ErrorCode::BadExport, message)
            })
        })
        .transpose()
}

async fn read<T: DeserializeOwned + Send + 'static>(
    app: &App,
    headers: &HeaderMap,
    body: Body,
    code: ErrorCode,
) -> HandlerResult<T> {
    let body = body::receive(&app.permits.bodies, headers, body).await?;
    let parse = move |json: &[u8]| {
        let mut reader = serde_json::Deserializer::from_slice(json);
        let parsed = serde_path_to_error::deserialize(&mut reader);
        Ok(parsed.map_err(|error| Error::bad_input(code, error.to_string()))?)
    };
    app.permits.decode(body, parse).await
}
