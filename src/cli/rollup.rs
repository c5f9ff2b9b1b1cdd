//! `echopilot rollup`.

use std::process::ExitCode;

use chrono::NaiveDate;
use clap::Args;

use super::Context;
use super::output::print_json;
use crate::engine::RollupScope;
use crate::window::parse_day;

#[derive(Debug, Args)]
pub struct RollupArgs {
    /// Only this day, YYYY-MM-DD
    #[arg(long, value_name = "DATE", value_parser = parse_day)]
    day: Option<NaiveDate>,
}

impl RollupArgs {
    pub fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let scope = self.day.map_or(RollupScope::Closed, RollupScope::Day);
        print_json(&context.open("rollup")?.rollup(scope, context.now)?)
    }
}
