//! `echopilot cohort`.

use std::process::ExitCode;

use clap::Subcommand;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::output::{argument_or_file, print_compact, print_json};
use super::remote::{Client, segment};
use super::{Context, Reached};
use crate::engine::COMMAND_LINE;
use crate::metrics::cohort::Cohort;
use crate::store::folder::Purpose;

const PATH: &str = "/api/analytics/cohorts";

#[derive(Debug, Subcommand)]
pub enum CohortCommand {
    /// Print the cohorts as JSON
    List,
    /// Create or replace a cohort
    ///
    /// The cohort is `{"name":"buyers","did":{"filter":{"feature":"purchase"},"at_least":2}}` or
    /// `{"name":"testers","users":["u1","u2"]}`, or @FILE. docs/metrics.md has the other kinds.
    Set {
        /// The cohort, or @ and the name of a file that contains it
        #[arg(value_name = "JSON|@FILE")]
        cohort: String,
    },
    /// Remove a cohort
    Remove {
        /// Name of the cohort
        name: String,
    },
}

impl CohortCommand {
    pub fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let purpose = match self {
            Self::List => Purpose::Read,
            _ => Purpose::Change,
        };
        let engine = match context.reach("cohort", purpose)? {
            Reached::Engine(engine) => engine,
            Reached::Server(server) => return self.ask(&server),
        };
        print_json(&match self {
            Self::List => engine.cohorts()?,
            Self::Set { cohort } => {
                let cohort = Cohort::parse(&argument_or_file(&cohort)?)?;
                engine.by(COMMAND_LINE, context.now).set_cohort(cohort)?
            }
            Self::Remove { name } => engine.by(COMMAND_LINE, context.now).remove_cohort(&name)?,
        })
    }

    /// Sends the request to a server.
    fn ask(self, server: &Client) -> anyhow::Result<ExitCode> {
        let answer = match self {
            Self::List => server.get(PATH, &[(); 0])?,
            Self::Set { cohort } => {
                let json = argument_or_file(&cohort)?;
                Cohort::parse(&json)?;
                server.post_json(PATH, json, "application/json")?
            }
            Self::Remove { name } => server.delete(&format!("{PATH}/{}", segment(&name)))?,
        };
        #[derive(Deserialize)]
        struct Answer<'a> {
            #[serde(borrow)]
            cohorts: &'a RawValue,
        }
        let answer: Answer<'_> = serde_json::from_slice(&answer)?;
        print_compact(answer.cohorts.get().as_bytes())
    }
}
