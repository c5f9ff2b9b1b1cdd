//! `echopilot table`. The commands read and change the table itself: they need no data folder, and
//! run next to the servers that publish there.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::Context;
use super::output::print_json;
use crate::config::ServerId;
use crate::export::delta::retire;
use crate::export::destination::{Destination, Readers};

#[derive(Debug, Subcommand)]
pub enum TableCommand {
    /// Print the servers of a table as JSON: their last commits and open erasures
    Servers {
        #[command(flatten)]
        place: Place,
    },
    /// Remove a server that does not come back from a table
    ///
    /// Erasures do not wait for it any more, and the other servers erase in its files. It cannot
    /// publish again: a server with its data folder or its id is rejected.
    Retire {
        /// The id of the server, as its `--server-id`
        server: ServerId,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, Args)]
pub struct Place {
    /// Folder or bucket of the table, as `--publish` of its servers
    ///
    /// Credentials of a bucket come from the environment, see `echopilot export --help`.
    #[arg(long, value_name = "TABLE")]
    at: String,
}

impl Place {
    fn open(&self) -> crate::error::Result<Destination> {
        // No file waits for its upload: commits are small.
        let to = Destination::open(&self.at, std::env::temp_dir(), Readers::ByUmask)?;
        to.check_credentials()?;
        Ok(to)
    }
}

impl TableCommand {
    pub fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        match self {
            Self::Servers { place } => print_json(&retire::servers(&place.open()?)?),
            Self::Retire { server, place } => {
                let now = context.now.timestamp_millis();
                print_json(&retire::retire(&place.open()?, server.as_str(), now)?)
            }
        }
    }
}
