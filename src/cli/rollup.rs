//! `echopilot rollup`.

use std::process::ExitCode;

use chrono::NaiveDate;
use clap::Args;

use super::output::{print_compact, print_json};
use super::{Context, Reached};
use crate::engine::RollupScope;
use crate::store::folder::Purpose;
use crate::window::parse_day;

#[derive(Debug, Args)]
pub struct RollupArgs {
    /// Only this day, YYYY-MM-DD
    #[arg(long, value_name = "DATE", value_parser = parse_day)]
    day: Option<NaiveDate>,
}

impl RollupArgs {
    pub fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        match context.reach("rollup", Purpose::Change)? {
            Reached::Engine(engine) => {
                let scope = self.day.map_or(RollupScope::Closed, RollupScope::Day);
                print_json(&engine.rollup(scope, context.now)?)
            }
            Reached::Server(server) => {
                print_compact(&server.post("/api/analytics/rollup", &[("day", self.day)])?)
            }
        }
    }
}
