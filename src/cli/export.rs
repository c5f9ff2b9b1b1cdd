//! `echopilot export`.

use std::process::ExitCode;

use chrono::NaiveDate;
use clap::Args;

use super::Context;
use super::output::print_json;
use super::progress::progress_bar;
use crate::engine::ExportRequest;
use crate::export::lake::Since;
use crate::export::warehouse::Warehouse;
use crate::window::{WindowRequest, parse_day};

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
            ..WindowRequest::default()
        };
        let request = ExportRequest {
            to: self.to,
            target: self.target,
            window: (window != WindowRequest::default()).then_some(window),
            since: self.since,
        };
        let bar = progress_bar(None, "{pos}/{len} events, {per_sec}, {eta} left");
        let engine = context.open_to_read("export")?;
        let exported = engine.export(&request, context.now, |done, all| {
            bar.set_length(all);
            bar.set_position(done);
        });
        bar.finish_and_clear();
        print_json(&exported?)
    }
}
