//! `echopilot usage`.

use std::process::ExitCode;

use clap::Args;

use super::output::{print_bytes, print_compact, print_json};
use super::window::WindowArgs;
use super::{Context, Reached};
use crate::engine::Cancel;
use crate::export::Format;
use crate::metrics::usage::MAX_FEATURES;
use crate::spark::{RemoteConfig, Spark};
use crate::store::folder::Purpose;
use crate::window::WindowRequest;

#[derive(Debug, Args)]
pub struct UsageArgs {
    #[command(flatten)]
    window: WindowArgs,
    /// Most features to list, by use; the others are summed up
    #[arg(long, value_name = "N", default_value_t = MAX_FEATURES)]
    limit: usize,
    /// Output format; the others than json have a row for each number
    #[arg(long, value_name = "FORMAT", default_value = "json")]
    format: Format,
    #[command(flatten)]
    remote: RemoteConfig,
}

impl UsageArgs {
    pub fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let request = WindowRequest::from(self.window);
        request.resolve(context.now)?;
        if let Some(spark) = Spark::of(&self.remote, &context.store.data_dir)? {
            let found = spark.usage(&request, self.limit, context.now, &|| Ok(()))?;
            return match self.format {
                Format::Json => print_json(&found),
                format => print_bytes(&format.encode(&found, &found.answer.numbers.rows())?),
            };
        }
        match context.reach("usage", Purpose::Read)? {
            Reached::Engine(engine) => {
                let cancel = Cancel::default();
                let answer = engine.usage_of(&request, self.limit, context.now, &cancel)?;
                match self.format {
                    Format::Json => print_json(&answer),
                    format => print_bytes(&format.encode(&answer, &answer.numbers.rows())?),
                }
            }
            Reached::Server(server) => {
                let query = (
                    ("days", request.days),
                    ("end", request.end),
                    ("from", request.from),
                    ("to", request.to),
                    ("period", request.period),
                    ("tz", request.tz),
                    ("limit", self.limit),
                );
                let media_type = self.format.media_type();
                let answer = server.get_as("/api/analytics/usage", &query, media_type)?;
                match self.format {
                    Format::Json => print_compact(&answer),
                    _ => print_bytes(&answer),
                }
            }
        }
    }
}
