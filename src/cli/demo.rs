//! `echopilot demo`.

use std::path::Path;
use std::process::ExitCode;

use chrono::NaiveDate;
use clap::Args;
use serde::Serialize;

use super::Context;
use super::output::print_json;
use super::progress::{ShownProgress, Unit};
use crate::demo::Demo;
use crate::engine::Engine;
use crate::progress::Progress;

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Number of events
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    events: u64,
    /// Number of days, up to yesterday
    #[arg(long, value_name = "N", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=365))]
    days: u32,
    /// Number of users
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    users: u32,
    /// Number of features
    #[arg(long, value_name = "N", default_value_t = 200)]
    features: u32,
    /// Seed; equal seeds give equal events
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Smallest events: no ids, two metadata keys, none late
    #[arg(long)]
    plain: bool,
}

impl DemoArgs {
    pub fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let engine = context.open("demo")?;
        let today = context.now.date_naive();
        let filled = fill_demo(&engine, &self, today, &context.store.data_dir);
        engine.close();
        filled?;
        Ok(ExitCode::SUCCESS)
    }
}

fn fill_demo(
    engine: &Engine,
    args: &DemoArgs,
    today: NaiveDate,
    folder: &Path,
) -> anyhow::Result<()> {
    let demo = Demo {
        events: args.events,
        days: args.days,
        users: args.users,
        features: args.features,
        seed: args.seed,
        last_day: today.pred_opt().unwrap_or(today),
        plain: args.plain,
    };
    let progress = Progress::default();
    progress.set_total(demo.events);
    let shown = ShownProgress::start("demo", Unit::Things("events"), &progress);
    let made = engine.fill_demo(demo, |made| progress.set_done(made));
    drop(shown);
    #[derive(Serialize)]
    struct Made {
        events: u64,
        days: u32,
        last_day: NaiveDate,
    }
    print_json(&Made {
        events: made?,
        days: demo.days,
        last_day: demo.last_day,
    })?;
    eprintln!("View it: echopilot serve --data-dir {}", folder.display());
    Ok(())
}
