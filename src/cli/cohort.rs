//! `echopilot cohort`.

use std::process::ExitCode;

use clap::Subcommand;

use super::Context;
use super::output::{argument_or_file, print_json};
use crate::metrics::cohort::Cohort;

#[derive(Debug, Subcommand)]
pub enum CohortCommand {
    /// Print the cohorts as JSON
    List,
    /// Create or replace a cohort
    ///
    /// The cohort is `{"name":"buyers","did":{"filter":{"feature":"purchase"},"at_least":2}}` or
    /// `{"name":"testers","users":["u1","u2"]}`, or @FILE.
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
        let engine = match self {
            Self::List => context.open_to_read("cohort")?,
            _ => context.open("cohort")?,
        };
        print_json(&match self {
            Self::List => engine.cohorts()?,
            Self::Set { cohort } => {
                engine.set_cohort(Cohort::parse(&argument_or_file(&cohort)?)?)?
            }
            Self::Remove { name } => engine.remove_cohort(&name)?,
        })
    }
}
