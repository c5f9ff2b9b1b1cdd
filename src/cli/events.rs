//! `echopilot events`.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Map, Value};

use super::output::argument_or_file;
use super::remote::with_query;
use super::window::WindowArgs;
use super::{Context, Reached};
use crate::engine::{COMMAND_LINE, Cancel};
use crate::error::Error;
use crate::export::events::EventFormat;
use crate::metrics::query::Query;
use crate::store::folder::Purpose;

#[derive(Debug, Args)]
pub struct EventsArgs {
    /// File to write [default: stdout]
    file: Option<String>,
    /// Only events that meet a filter: the one of a query as JSON, or @ and a file with it
    #[arg(long, value_name = "JSON|@FILE")]
    filter: Option<String>,
    /// `parquet`, `csv`, `csv-spreadsheet`, `ndjson` or `arrow` [default: by the name of the file,
    /// else ndjson]
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    #[command(flatten)]
    window: WindowArgs,
}

impl EventsArgs {
    pub fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let format = self.format()?;
        let filter = match &self.filter {
            Some(filter) => String::from_utf8(argument_or_file(filter)?)?,
            None => "{}".to_owned(),
        };
        let parsed: Map<String, Value> =
            serde_json::from_str(&filter).context("the filter is not a JSON object")?;
        let query = Query::of_events(self.window.into(), parsed)?;
        query.window.resolve(context.now)?;
        let reached = context.reach("events", Purpose::Read)?;
        let mut output = Output::open(self.file.as_deref())?;
        let written = match reached {
            Reached::Engine(engine) => {
                let by = engine.by(COMMAND_LINE, context.now);
                let done = by.export_events(&query, format, &Cancel::default(), |part| {
                    output
                        .write(&part)
                        .map_err(Error::system("write the events"))
                });
                done.map_err(anyhow::Error::from)
            }
            Reached::Server(server) => {
                let fields = (
                    ("days", query.window.days),
                    ("end", query.window.end),
                    ("from", query.window.from),
                    ("to", query.window.to),
                    ("period", query.window.period),
                    ("tz", query.window.tz),
                    ("filter", filter),
                    ("format", format.name()),
                );
                let path = with_query("/api/analytics/export", &fields)?;
                server.stream(&path, |part| Ok(output.write(part)?))
            }
        };
        output.end(written)
    }

    fn format(&self) -> anyhow::Result<EventFormat> {
        if let Some(name) = &self.format {
            return Ok(name.parse()?);
        }
        let Some(file) = self.file.as_deref() else {
            return Ok(EventFormat::Ndjson);
        };
        let extension = Path::new(file).extension().and_then(|name| name.to_str());
        match extension.and_then(EventFormat::from_name) {
            Some(format) => Ok(format),
            None => {
                let names = EventFormat::NAMES.join(", ");
                bail!("the name of {file} tells no format; add --format with one of {names}")
            }
        }
    }
}

/// Stdout, or a file that is removed if it cannot be written completely.
struct Output<'a> {
    file: Option<(&'a str, File)>,
    /// The reader of stdout has all that it wants.
    is_closed: bool,
}

impl<'a> Output<'a> {
    fn open(path: Option<&'a str>) -> anyhow::Result<Self> {
        let created = path.map(|path| {
            let file = File::create_new(path);
            file.map(|file| (path, file))
                .with_context(|| format!("cannot create {path}"))
        });
        Ok(Self {
            file: created.transpose()?,
            is_closed: false,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match &mut self.file {
            Some((_, file)) => file.write_all(bytes),
            None => std::io::stdout()
                .lock()
                .write_all(bytes)
                .inspect_err(|error| {
                    self.is_closed = error.kind() == ErrorKind::BrokenPipe;
                }),
        }
    }

    fn end(self, written: anyhow::Result<()>) -> anyhow::Result<ExitCode> {
        let written = written.and_then(|()| match &self.file {
            Some((path, file)) => file
                .sync_all()
                .with_context(|| format!("cannot write {path}")),
            None => Ok(()),
        });
        if let (Err(_), Some((path, _))) = (&written, &self.file) {
            // A part of it would look complete in some formats.
            let _ = std::fs::remove_file(path);
        }
        if !self.is_closed {
            written?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
