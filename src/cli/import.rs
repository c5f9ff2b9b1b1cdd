//! `echopilot import`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use chrono::Utc;
use clap::Args;
use serde::Deserialize;

use super::export::absolute;
use super::output::{print_compact, print_json};
use super::progress::{ShownProgress, Unit};
use super::remote::Client;
use super::{Context, FAILED, Reached};
use crate::config::Mapping;
use crate::engine::Engine;
use crate::error::{Error, ErrorCode};
use crate::http::ImportBody;
use crate::import::{self, Foreign, Options, Source};
use crate::progress::Progress;
use crate::sdk::Product;
use crate::store::folder::Purpose;

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Files of events; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    /// Shift all times by whole days so that the newest event is on this day
    #[arg(long, value_name = "DATE|today")]
    rebase_to: Option<String>,
    /// The files are exports of another product: segment, posthog, mixpanel or umami
    ///
    /// JSON, comma-separated values or Parquet, also compressed. All are checked first; if a record
    /// has another shape, nothing is imported.
    #[arg(long, value_name = "PRODUCT", value_parser = product)]
    from: Option<Product>,
    /// Mapping of the events of other products.
    #[command(flatten)]
    mapping: Mapping,
}

fn product(name: &str) -> Result<Product, String> {
    Product::among(&Product::IMPORTED, name)
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
        let mapping = self.mapping;
        let options = Options {
            rebase_to,
            from: self.from.map(|product| Foreign { product, mapping }),
        };
        match context.reach("import", Purpose::Change)? {
            Reached::Engine(engine) => {
                let code = import_all(&engine, &sources, &options);
                engine.close();
                code
            }
            Reached::Server(server) => import_by_server(&server, &sources, &options),
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

fn import_all(engine: &Engine, sources: &[Source], options: &Options) -> anyhow::Result<ExitCode> {
    let progress = Progress::default();
    let shown = ShownProgress::start("import", Unit::Bytes, &progress);
    let imported = engine.import(sources, options, Utc::now(), &progress);
    drop(shown);
    let imported = imported?;
    report(imported.refused, imported.quarantined, &imported.errors);
    print_json(&imported)?;
    Ok(exit_code(imported.refused))
}

/// Lets the server that has the data folder import the files.
fn import_by_server(
    server: &Client,
    sources: &[Source],
    options: &Options,
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
        #[serde(default)]
        quarantined: u64,
        errors: Vec<String>,
    }
    let body = serde_json::to_vec(&ImportBody {
        files,
        rebase_to: options.rebase_to,
        from: options
            .from
            .as_ref()
            .map(|from| from.product.name().to_owned()),
    })?;
    let path = "/api/analytics/imports";
    let json = server.run_job(path, body, "import", Unit::Bytes)?;
    let imported: Imported = serde_json::from_slice(&json)?;
    report(imported.refused, imported.quarantined, &imported.errors);
    print_compact(&json)?;
    Ok(exit_code(imported.refused))
}

/// Prints what was not imported to stderr.
fn report(refused: u64, quarantined: u64, errors: &[String]) {
    if quarantined > 0 {
        eprintln!(
            "echopilot: {quarantined} events do not follow the tracking plan and are in the quarantine: see echopilot \
             quarantine list"
        );
    }
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
