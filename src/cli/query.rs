//! `echopilot query`.

use std::io::IsTerminal;
use std::process::ExitCode;

use chrono::NaiveDate;
use clap::Args;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::json::{self, Fields};
use super::output::{argument_or_file, print_bytes, print_compact, print_json};
use super::{Context, Reached};
use crate::engine::Cancel;
use crate::export::Format;
use crate::export::answer::{TextColumn, text_columns, text_table};
use crate::metrics;
use crate::metrics::query::{Query, QueryAnswer};
use crate::spark::{RemoteConfig, Spark};
use crate::store::folder::Purpose;

#[derive(Debug, Args)]
pub struct QueryArgs {
    /// The query, or @ and the name of a file that contains it
    #[arg(value_name = "JSON|@FILE")]
    query: String,
    /// Output format [default: a table on a terminal, else json]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    #[command(flatten)]
    remote: RemoteConfig,
}

impl QueryArgs {
    pub fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let json = argument_or_file(&self.query)?;
        let query = Query::parse(&json)?;
        query.window.resolve(context.now)?;
        if let Some(spark) = Spark::of(&self.remote, &context.store.data_dir)? {
            let found = spark.query(&query, context.now, &|| Ok(()))?;
            let is_json = match self.format {
                None => !std::io::stdout().is_terminal(),
                Some(format) => format == Format::Json,
            };
            return match is_json {
                true => print_json(&found),
                false => print_result(&found.answer, self.format),
            };
        }
        match context.reach("query", Purpose::Read)? {
            Reached::Engine(engine) => {
                let answer = engine.query(&query, context.now, &Cancel::default())?;
                print_result(&answer, self.format)
            }
            Reached::Server(server) => {
                let format = self.format.unwrap_or(Format::Json);
                let media_type = format.media_type();
                let answer = server.post_json("/api/analytics/query", json, media_type)?;
                match self.format {
                    None if std::io::stdout().is_terminal() => print_table(&answer),
                    None | Some(Format::Json) => print_compact(&answer),
                    Some(_) => print_bytes(&answer),
                }
            }
        }
    }
}

/// The long help, with the list of metrics.
pub fn long_help() -> String {
    let help = "Run a query\n\n\
        The query is a JSON object such as {\"metric\":\"retention\",\"grain\":\"week\",\"days\":90}, \
        or @FILE. Metrics:\n";
    metrics::LIST.iter().fold(help.to_owned(), |help, metric| {
        format!("{help}\n  {:<14} {}", metric.name, metric.about.trim())
    })
}

/// The parts of a server's response that a table shows.
#[derive(Deserialize)]
struct ServerAnswer<'a> {
    metric: String,
    window: ServerWindow,
    covered_from: NaiveDate,
    #[serde(borrow)]
    rows: &'a RawValue,
}

#[derive(Deserialize)]
struct ServerWindow {
    from: NaiveDate,
    to: NaiveDate,
    tz: String,
}

/// Prints the response of a server as a table.
fn print_table(json: &[u8]) -> anyhow::Result<ExitCode> {
    let answer: ServerAnswer<'_> = serde_json::from_slice(json)?;
    print_heading(
        &answer.metric,
        (answer.window.from, answer.window.to),
        &answer.window.tz,
        answer.covered_from,
    );
    let rows: Vec<Fields<'_>> = serde_json::from_str(answer.rows.get())?;
    print_columns(&json::columns(&rows)?)
}

fn print_heading(metric: &str, (from, to): (NaiveDate, NaiveDate), tz: &str, covered: NaiveDate) {
    eprintln!("{metric} from {from} to {to}, {tz}");
    if covered > from {
        eprintln!("Older days have expired: known from {covered}");
    }
}

fn print_columns(columns: &[TextColumn]) -> anyhow::Result<ExitCode> {
    let width = terminal_size::terminal_size().map_or(80, |(width, _)| width.0);
    print_bytes(format!("{}\n", text_table(columns, width)).as_bytes())
}

/// Prints a result: as a table on a terminal unless a format is given.
fn print_result(answer: &QueryAnswer, format: Option<Format>) -> anyhow::Result<ExitCode> {
    if format.is_none() && std::io::stdout().is_terminal() {
        let window = &answer.window;
        let days = (window.from, window.to);
        print_heading(answer.metric, days, window.tz, answer.covered_from);
        return print_columns(&text_columns(&answer.rows));
    }
    match format {
        None | Some(Format::Json) => print_json(answer),
        Some(format) => print_bytes(&format.encode(answer, &answer.rows)?),
    }
}
