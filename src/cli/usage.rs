//! `echopilot usage`.

use std::process::ExitCode;

use chrono::NaiveDate;
use clap::Args;

use super::Context;
use super::output::print_json;
use crate::engine::Cancel;
use crate::metrics::usage::MAX_FEATURES;
use crate::window::{WindowRequest, parse_day};

#[derive(Debug, Args)]
pub struct UsageArgs {
    /// Length of the window in days, 1 to 365 [default: 30]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    days: Option<i64>,
    /// Last day of the window, YYYY-MM-DD [default: today]
    #[arg(long, value_name = "DATE", value_parser = parse_day)]
    end: Option<NaiveDate>,
    /// Reporting time zone, such as Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE")]
    tz: Option<String>,
    /// Most features to list, by use; the others are summed up
    #[arg(long, value_name = "N", default_value_t = MAX_FEATURES)]
    limit: usize,
}

impl UsageArgs {
    pub fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let request = WindowRequest {
            days: self.days,
            end: self.end,
            tz: self.tz,
        };
        request.resolve(context.now)?;
        let engine = context.open_to_read("usage")?;
        print_json(&engine.usage_of(&request, self.limit, context.now, &Cancel::default())?)
    }
}
