//! `echopilot export`.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use chrono::NaiveDate;
use clap::{Args, ValueEnum};

use super::output::{print_compact, print_json};
use super::progress::{ShownProgress, Unit};
use super::{Context, Reached};
use crate::engine::{COMMAND_LINE, ExportRequest, is_bucket};
use crate::export::lake::Since;
use crate::export::warehouse::Warehouse;
use crate::http::ExportBody;
use crate::progress::Progress;
use crate::store::folder::Purpose;
use crate::window::{NamedPeriod, WindowRequest, parse_day, parse_period};

const EVENTS: Unit = Unit::Things("events");

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Folder, created if needed, or bucket: `s3://BUCKET/PREFIX`, `gs://`, `az://`
    ///
    /// Credentials of a bucket come from the environment variables of its own tools:
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT_URL`;
    /// `GOOGLE_SERVICE_ACCOUNT`; `AZURE_STORAGE_ACCOUNT_NAME`, `AZURE_STORAGE_ACCOUNT_KEY`.
    #[arg(long, value_name = "DIR")]
    to: String,
    /// Reader of the export: adds the files that it needs to load the data
    #[arg(long = "for", value_name = "TARGET", default_value = "plain")]
    target: Warehouse,
    /// Only the last days, 1 to 365 [default: all]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    days: Option<i64>,
    /// First day of the export, YYYY-MM-DD
    #[arg(long, value_name = "DATE", value_parser = parse_day)]
    from: Option<NaiveDate>,
    /// Last day of the export, YYYY-MM-DD [default: today]
    #[arg(long, value_name = "DATE", value_parser = parse_day)]
    until: Option<NaiveDate>,
    /// Calendar period of the export, instead of the above
    #[arg(long, value_name = "NAME", value_parser = parse_period)]
    period: Option<NamedPeriod>,
    /// Export only days that changed since the last export to the folder
    #[arg(long, value_name = "last")]
    since: Option<Since>,
}

impl ExportArgs {
    pub fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let window = WindowRequest {
            days: self.days,
            from: self.from,
            to: self.until,
            period: self.period,
            ..WindowRequest::default()
        };
        let request = ExportRequest {
            to: self.to,
            target: self.target,
            window: (window != WindowRequest::default()).then_some(window),
            since: self.since,
        };
        match context.reach("export", Purpose::Read)? {
            Reached::Engine(engine) => {
                let progress = Progress::default();
                let shown = ShownProgress::start("export", EVENTS, &progress);
                let by = engine.by(COMMAND_LINE, context.now);
                let exported = by.export(&request, &progress);
                drop(shown);
                print_json(&exported?)
            }
            Reached::Server(server) => {
                let body = serde_json::to_vec(&in_body(request)?)?;
                let path = "/api/analytics/exports";
                print_compact(&server.run_job(path, body, "export", EVENTS)?)
            }
        }
    }
}

/// The request for a server, which may have another working directory.
fn in_body(request: ExportRequest) -> anyhow::Result<ExportBody> {
    let name = |value: Option<clap::builder::PossibleValue>| {
        value.map(|value| value.get_name().to_owned())
    };
    let to = match is_bucket(&request.to) {
        true => request.to,
        false => absolute(&request.to)?,
    };
    let window = request.window.unwrap_or_default();
    Ok(ExportBody {
        to,
        target: name(request.target.to_possible_value()),
        days: window.days,
        from: window.from,
        until: window.to,
        period: window.period,
        since: name(request.since.and_then(|since| since.to_possible_value())),
    })
}

/// The absolute path of a file or folder, for a server.
pub fn absolute(path: &str) -> anyhow::Result<String> {
    let absolute = std::path::absolute(path).with_context(|| format!("cannot find {path}"))?;
    match absolute.to_str() {
        Some(absolute) => Ok(absolute.to_owned()),
        None => bail!("the path {} is not UTF-8", absolute.display()),
    }
}
