//! `echopilot import`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use chrono::{NaiveDate, Utc};
use clap::Args;
use serde::Deserialize;

use super::export::absolute;
use super::output::{print_compact, print_json};
use super::progress::{ShownProgress, Unit};
use super::remote::Client;
use super::{Context, FAILED, Reached};
use crate::engine::Engine;
use crate::error::{Error, ErrorCode};
use crate::http::ImportBody;
use crate::import::{self, Source};
use crate::progress::Progress;
use crate::store::folder::Purpose;

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
        match context.reach("import", Purpose::Change)? {
            Reached::Engine(engine) => {
                let code = import_all(&engine, &sources, rebase_to);
                engine.close();
                code
            }
            Reached::Server(server) => import_by_server(&server, &sources, rebase_to),
        }
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
    let shown = ShownProgress::start("import", Unit::Bytes, &progress);
    let imported = engine.import(sources, rebase_to, Utc::now(), &progress);
    drop(shown);
    let imported = imported?;
    report(imported.refused, &imported.errors);
    print_json(&imported)?;
    Ok(exit_code(imported.refused))
}

/// Lets the server that has the data folder import the files.
fn import_by_server(
    server: &Client,
    sources: &[Source],
    rebase_to: Option<NaiveDate>,
) -> anyhow::Result<ExitCode> {
    let mut files = Vec::new();
    for source in sources {
        match source {
            Source::File(path) if path.is_file() => {
                files.push(absolute(&path.display().to_string())?);
            }
            source => bail!(
                "the server at {} has the data folder and imports regular files alone, which {} is not; write it into a \
                 file and import that, or stop the server",
                server.url(),
                source.name()
            ),
        }
    }
    #[derive(Deserialize)]
    struct Imported {
        refused: u64,
        errors: Vec<String>,
    }
    let body = serde_json::to_vec(&ImportBody { files, rebase_to })?;
    let path = "/api/analytics/imports";
    let json = server.run_job(path, body, "import", Unit::Bytes)?;
    let imported: Imported = serde_json::from_slice(&json)?;
    report(imported.refused, &imported.errors);
    print_compact(&json)?;
    Ok(exit_code(imported.refused))
}

/// Prints what was not imported to stderr.
fn report(refused: u64, errors: &[String]) {
    if refused > 0 {
        eprintln!(
            "echopilot: {refused} events were not imported{}",
            if refused > errors.len() as u64 {
                ", the first of them:"
            } else {
                ":"
            }
        );
    }
    for error in errors {
        eprintln!("echopilot: {error}");
    }
}

fn exit_code(refused: u64) -> ExitCode {
    ExitCode::from(if refused > 0 { FAILED } else { 0 })
}
