//! `echopilot values`.

use std::process::ExitCode;

use chrono::NaiveDate;
use clap::Args;

use super::output::{print_compact, print_json};
use super::{Context, Reached};
use crate::engine::{Cancel, DEFAULT_LIMIT, ValuesRequest};
use crate::store::folder::Purpose;
use crate::window::{WindowRequest, parse_day};

#[derive(Debug, Args)]
pub struct ValuesArgs {
    /// `event_type`, `feature`, `url`, `metadata.PATH`, or `metadata` for its keys
    property: String,
    /// Beginning of the values or, after these, a part of them, without case
    #[arg(default_value = "")]
    prefix: String,
    /// Most values to list, 1 to 200
    #[arg(long, value_name = "N", default_value_t = DEFAULT_LIMIT)]
    limit: usize,
    /// Length of the window in days of UTC, 1 to 365 [default: 30]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    days: Option<i64>,
    /// Last day of the window, YYYY-MM-DD [default: today]
    #[arg(long, value_name = "DATE", value_parser = parse_day)]
    end: Option<NaiveDate>,
}

impl ValuesArgs {
    pub fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        match context.reach("values", Purpose::Read)? {
            Reached::Engine(engine) => {
                let request = ValuesRequest {
                    property: self.property,
                    prefix: self.prefix,
                    limit: Some(self.limit),
                    window: WindowRequest {
                        days: self.days,
                        end: self.end,
                        ..WindowRequest::default()
                    },
                    ..ValuesRequest::default()
                };
                print_json(&engine.values(&request, context.now, &Cancel::default())?)
            }
            Reached::Server(server) => {
                let query = (
                    ("property", self.property),
                    ("prefix", self.prefix),
                    ("limit", self.limit),
                    ("days", self.days),
                    ("end", self.end),
                );
                print_compact(&server.get("/api/analytics/values", &query)?)
            }
        }
    }
}
