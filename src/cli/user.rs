//! `echopilot user`.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use serde::Serialize;

use super::output::{print_compact, print_json};
use super::remote::{Client, segment};
use super::{Context, Reached};
use crate::engine::{By, COMMAND_LINE};
use crate::error::Error;
use crate::progress::Progress;
use crate::store::folder::Purpose;

#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Print every event of a user as NDJSON
    Access {
        /// The user's id
        id: String,
    },
    /// Erase all events of users, everywhere, and print a receipt
    Erase {
        /// The users' ids
        #[arg(value_name = "ID", required_unless_present = "file")]
        ids: Vec<String>,
        /// File with one id per line
        #[arg(long, value_name = "FILE")]
        file: Option<String>,
        /// Number of events to erase, required if it is a large part of all
        #[arg(long, value_name = "EVENTS")]
        confirm: Option<u64>,
    },
}

impl UserCommand {
    pub fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        match self {
            Self::Access { id } => match context.reach("user access", Purpose::Read)? {
                Reached::Engine(engine) => print_access(&engine.by(COMMAND_LINE, context.now), &id),
                Reached::Server(server) => print_access_of_server(&server, &id),
            },
            Self::Erase {
                mut ids,
                file,
                confirm,
            } => {
                if let Some(file) = file {
                    let lines = std::fs::read_to_string(&file)
                        .with_context(|| format!("cannot read {file}"))?;
                    ids.extend(
                        lines
                            .lines()
                            .filter(|line| !line.is_empty())
                            .map(str::to_owned),
                    );
                }
                match context.reach("user erase", Purpose::Change)? {
                    Reached::Engine(engine) => {
                        let by = engine.by(COMMAND_LINE, context.now);
                        print_json(&by.erase(&ids, confirm, &Progress::default())?)
                    }
                    Reached::Server(server) => {
                        #[derive(Serialize)]
                        struct Users {
                            users: Vec<String>,
                            confirm: Option<u64>,
                        }
                        let users = serde_json::to_vec(&Users {
                            users: ids,
                            confirm,
                        })?;
                        let path = "/api/analytics/erasures";
                        print_compact(&server.post_json(path, users, "application/json")?)
                    }
                }
            }
        }
    }
}

/// Prints every event of a user that a server sends; a broken pipe is not an error.
fn print_access_of_server(server: &Client, user: &str) -> anyhow::Result<ExitCode> {
    let stdout = std::io::stdout();
    let mut is_open = true;
    let path = format!("/api/analytics/users/{}/events", segment(user));
    let printed = server.stream(&path, |lines| {
        stdout.lock().write_all(lines).map_err(|error| {
            is_open = error.kind() != std::io::ErrorKind::BrokenPipe;
            error.into()
        })
    });
    if is_open {
        printed?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints every event of a user; a broken pipe is not an error.
fn print_access(by: &By<'_>, user: &str) -> anyhow::Result<ExitCode> {
    let stdout = std::io::stdout();
    let mut is_open = true;
    let printed = by.user_events(user, |lines| {
        stdout.lock().write_all(&lines).map_err(|error| {
            is_open = error.kind() != std::io::ErrorKind::BrokenPipe;
            Error::system("write the result")(error)
        })
    });
    if is_open {
        printed?;
    }
    Ok(ExitCode::SUCCESS)
}
