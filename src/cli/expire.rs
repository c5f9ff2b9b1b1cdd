//! `echopilot expire`.

use std::process::ExitCode;

use chrono::NaiveDate;
use clap::Args;

use super::Context;
use super::output::print_json;
use crate::store::Clock;
use crate::window::parse_day;

#[derive(Debug, Args)]
pub struct ExpireArgs {
    /// Confirm today's date after a clock jump, so that expiry may run
    #[arg(long, value_name = "DATE", value_parser = parse_day)]
    confirm_date: Option<NaiveDate>,
}

impl ExpireArgs {
    pub fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let engine = context.open("expire")?;
        let clock = match self.confirm_date {
            None => Clock::Doubted,
            Some(date) => {
                engine.confirm_clock(date, context.now)?;
                Clock::Confirmed
            }
        };
        print_json(&engine.expire(context.now.date_naive(), clock)?)
    }
}
