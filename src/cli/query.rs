//! `echopilot query`.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Args;

use super::Context;
use super::output::{argument_or_file, print_bytes, print_json};
use crate::engine::Cancel;
use crate::export::{self, Format};
use crate::metrics;
use crate::metrics::query::{Query, QueryAnswer};

#[derive(Debug, Args)]
pub struct QueryArgs {
    /// The query, or @ and the name of a file that contains it
    #[arg(value_name = "JSON|@FILE")]
    query: String,
    /// Output format [default: a table on a terminal, else json]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
}

impl QueryArgs {
    pub fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let query = Query::parse(&argument_or_file(&self.query)?)?;
        query.window.resolve(context.now)?;
        let engine = context.open_to_read("query")?;
        let answer = engine.query(&query, context.now, &Cancel::default())?;
        print_result(&answer, self.format)
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

/// Prints a result: as a table on a terminal unless a format is given.
fn print_result(answer: &QueryAnswer, format: Option<Format>) -> anyhow::Result<ExitCode> {
    let stdout = std::io::stdout();
    if format.is_none() && stdout.is_terminal() {
        let width = terminal_size::terminal_size().map_or(80, |(width, _)| width.0);
        let window = &answer.window;
        eprintln!(
            "{} from {} to {}, {}",
            answer.metric, window.from, window.to, window.tz
        );
        if answer.covered_from > window.from {
            eprintln!(
                "Older days have expired: known from {}",
                answer.covered_from
            );
        }
        return print_bytes(
            format!("{}\n", export::answer::text_table(&answer.rows, width)).as_bytes(),
        );
    }
    match format {
        None | Some(Format::Json) => print_json(answer),
        Some(format) => print_bytes(&format.encode(answer, &answer.rows)?),
    }
}
