//! `echopilot import`.

use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use chrono::{NaiveDate, Utc};
use clap::Args;

use super::output::print_json;
use super::progress::progress_bar;
use super::{Context, FAILED};
use crate::engine::Engine;
use crate::error::{Error, ErrorCode};
use crate::import::{self, Progress, Source};

/// Interval at which the progress bar is updated.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Files of events; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    /// Shift all times by whole days so that the newest event is on this day
    #[arg(long, value_name = "DATE|today")]
    rebase_to: Option<String>,
}

impl ImportArgs {
    pub fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let rebase_to = self
            .rebase_to
            .as_deref()
            .map(|day| import::parse_rebase_to(day, context.now))
            .transpose()
            .map_err(|message| {
                Error::bad_input(ErrorCode::BadRebaseTo, format!("--rebase-to: {message}"))
            })?;
        let sources = sources(&self.files)?;
        let engine = context.open("import")?;
        let code = import_all(&engine, &sources, rebase_to);
        engine.close();
        code
    }
}

fn sources(files: &[String]) -> anyhow::Result<Vec<Source>> {
    files
        .iter()
        .map(|file| match file.as_str() {
            "-" => Ok(Source::Stdin),
            file => {
                let path = Path::new(file);
                std::fs::File::open(path).with_context(|| format!("cannot open {file}"))?;
                Ok(Source::File(path.to_owned()))
            }
        })
        .collect()
}

fn import_all(
    engine: &Engine,
    sources: &[Source],
    rebase_to: Option<NaiveDate>,
) -> anyhow::Result<ExitCode> {
    let progress = Progress::default();
    let total: Option<u64> = sources.iter().map(Source::bytes).sum();
    let bar = progress_bar(total, "{bytes}/{total_bytes}, {msg}, {eta} left");
    let (counters, ticking) = (progress.clone(), bar.clone());
    let ticker = std::thread::spawn(move || {
        while !ticking.is_finished() {
            ticking.set_position(counters.bytes.load(Ordering::Relaxed));
            let lines = counters.lines.load(Ordering::Relaxed);
            let rate = lines as f64 / ticking.elapsed().as_secs_f64().max(0.001);
            ticking.set_message(format!("{lines} events, {rate:.0}/s"));
            std::thread::park_timeout(PROGRESS_INTERVAL);
        }
    });
    let imported = engine.import(sources, rebase_to, Utc::now(), &progress);
    bar.finish_and_clear();
    ticker.thread().unpark();
    // The thread only updates the progress bar.
    let _ = ticker.join();
    let imported = imported?;
    if imported.refused > 0 {
        eprintln!(
            "echopilot: {} events were not imported{}",
            imported.refused,
            if imported.refused > imported.errors.len() as u64 {
                ", the first of them:"
            } else {
                ":"
            }
        );
    }
    for error in &imported.errors {
        eprintln!("echopilot: {error}");
    }
    print_json(&imported)?;
    let has_refused = imported.refused > 0;
    Ok(ExitCode::from(if has_refused { FAILED } else { 0 }))
}
