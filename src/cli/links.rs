//! `echopilot links`.

use std::process::ExitCode;

use clap::Subcommand;

use super::output::{print_compact, print_json};
use super::remote::{Client, segment};
use super::{Context, Reached};
use crate::engine::{COMMAND_LINE, UserLinksRequest};
use crate::store::folder::Purpose;

const LINKS: &str = "/api/analytics/links";

#[derive(Debug, Subcommand)]
pub enum LinksCommand {
    /// Print the links as JSON: each alias with its user
    List {
        /// Only statements that were rejected, each with the reason
        #[arg(long)]
        rejected: bool,
        /// Most statements
        #[arg(long)]
        limit: Option<usize>,
        /// Only aliases after this one: `next` of the list before
        #[arg(long, value_name = "NEXT")]
        after: Option<String>,
    },
    /// Remove the link of an alias, which is a user of its own again
    Remove {
        /// The alias
        alias: String,
    },
}

impl LinksCommand {
    pub fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let purpose = match self {
            Self::List { .. } => Purpose::Read,
            Self::Remove { .. } => Purpose::Change,
        };
        let engine = match context.reach("links", purpose)? {
            Reached::Engine(engine) => engine,
            Reached::Server(server) => return self.ask(&server),
        };
        match self {
            Self::List {
                rejected,
                limit,
                after,
            } => print_json(&engine.user_links(&UserLinksRequest {
                rejected,
                limit,
                after,
            })?),
            Self::Remove { alias } => print_json(
                &engine
                    .by(COMMAND_LINE, context.now)
                    .remove_user_link(&alias)?,
            ),
        }
    }

    /// Sends the request to a server.
    fn ask(self, server: &Client) -> anyhow::Result<ExitCode> {
        print_compact(&match self {
            Self::List {
                rejected,
                limit,
                after,
            } => {
                let limit = limit.map(|limit| limit.to_string());
                let rejected = rejected.then(|| rejected.to_string());
                server.get(
                    LINKS,
                    &[("rejected", rejected), ("limit", limit), ("after", after)],
                )?
            }
            Self::Remove { alias } => server.delete(&format!("{LINKS}/{}", segment(&alias)))?,
        })
    }
}
