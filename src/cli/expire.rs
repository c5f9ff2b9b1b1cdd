//! `echopilot expire`.

use std::process::ExitCode;

use chrono::NaiveDate;
use clap::Args;

use super::output::{print_compact, print_json};
use super::{Context, Reached};
use crate::engine::COMMAND_LINE;
use crate::store::Clock;
use crate::store::folder::Purpose;
use crate::window::parse_day;

#[derive(Debug, Args)]
pub struct ExpireArgs {
    /// Confirm today's date after a clock jump, so that expiry may run
    #[arg(long, value_name = "DATE", value_parser = parse_day)]
    confirm_date: Option<NaiveDate>,
}

impl ExpireArgs {
    pub fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let engine = match context.reach("expire", Purpose::Change)? {
            Reached::Engine(engine) => engine,
            Reached::Server(server) => {
                let query = [("confirm", self.confirm_date)];
                return print_compact(&server.post("/api/analytics/expire", &query)?);
            }
        };
        let clock = match self.confirm_date {
            None => Clock::Doubted,
            Some(date) => {
                engine.by(COMMAND_LINE, context.now).confirm_clock(date)?;
                Clock::Confirmed
            }
        };
        print_json(&engine.expire(context.now.date_naive(), clock)?)
    }
}
