//! `echopilot plan` and `echopilot quarantine`.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::output::{print_compact, print_json};
use super::remote::Client;
use super::{Context, Reached};
use crate::engine::{COMMAND_LINE, Cancel, QuarantineRequest};
use crate::plan::{CheckedPlan, Plan};
use crate::store::folder::Purpose;
use crate::window::WindowRequest;

const PLAN: &str = "/api/analytics/plan";
const QUARANTINE: &str = "/api/analytics/quarantine";

#[derive(Debug, Subcommand)]
pub enum PlanCommand {
    /// Print the tracking plan as JSON
    Show,
    /// Replace the tracking plan, for all events that come in from now on
    Set {
        /// The file with the plan
        file: std::path::PathBuf,
    },
    /// Check a plan without using it; exit code 2 if it is wrong
    Check {
        /// The file with the plan
        file: std::path::PathBuf,
    },
    /// Print a plan of the events that are stored, to begin with; it is not used
    ///
    /// It has what the plan in use declares, and the event types, features, metadata keys and paths
    /// with ids of the window.
    Infer {
        /// Length of the window in days, 1 to 365
        #[arg(long, value_name = "N", default_value_t = 30)]
        days: i64,
    },
}

#[derive(Debug, Subcommand)]
pub enum QuarantineCommand {
    /// Print the quarantined events, the newest first, each with the reason
    List {
        /// Most events
        #[arg(long)]
        limit: Option<usize>,
        /// Only events before these: `next` of the list before
        #[arg(long, value_name = "NEXT")]
        before: Option<usize>,
    },
    /// Store the quarantined events that follow the tracking plan now, each once
    Replay,
}

impl PlanCommand {
    pub fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let plan = match &self {
            Self::Show | Self::Infer { .. } => None,
            Self::Set { file } | Self::Check { file } => {
                let json = std::fs::read(file)
                    .with_context(|| format!("cannot read {}", file.display()))?;
                let plan = CheckedPlan::new(Plan::parse(&json)?)?.plan().clone();
                Some((json, plan))
            }
        };
        if matches!(self, Self::Check { .. }) {
            return print_json(&plan.map(|(_, plan)| plan));
        }
        let is_set = matches!(self, Self::Set { .. });
        if let Self::Infer { days } = self {
            let request = WindowRequest {
                days: Some(days),
                ..WindowRequest::default()
            };
            return match context.reach("plan", Purpose::Read)? {
                Reached::Engine(engine) => {
                    let cancel = Cancel::default();
                    print_json(&engine.infer_plan(&request, context.now, &cancel)?.plan)
                }
                Reached::Server(server) => {
                    print_plan(&server.get(&format!("{PLAN}/inferred"), &[("days", days)])?)
                }
            };
        }
        let purpose = match plan {
            None => Purpose::Read,
            Some(_) => Purpose::Change,
        };
        let printed = match context.reach("plan", purpose)? {
            Reached::Engine(engine) => print_json(&match plan {
                None => engine.plan().plan,
                Some((_, plan)) => engine.by(COMMAND_LINE, context.now).set_plan(plan)?.plan,
            }),
            Reached::Server(server) => print_plan(&match plan {
                None => server.get(PLAN, &[(); 0])?,
                Some((json, _)) => server.put_json(PLAN, json)?,
            }),
        }?;
        if is_set {
            eprintln!(
                "echopilot: the plan counts for events that come in from now on; stored events do not change"
            );
        }
        Ok(printed)
    }
}

/// Prints the plan of a response.
fn print_plan(answer: &[u8]) -> anyhow::Result<ExitCode> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        plan: &'a RawValue,
    }
    let answer: Answer<'_> = serde_json::from_slice(answer)?;
    print_compact(answer.plan.get().as_bytes())
}

impl QuarantineCommand {
    pub fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let purpose = match self {
            Self::List { .. } => Purpose::Read,
            Self::Replay => Purpose::Change,
        };
        let engine = match context.reach("quarantine", purpose)? {
            Reached::Engine(engine) => engine,
            Reached::Server(server) => return self.ask(&server),
        };
        match self {
            Self::List { limit, before } => {
                print_json(&engine.quarantine(QuarantineRequest { limit, before })?)
            }
            Self::Replay => print_json(&engine.by(COMMAND_LINE, context.now).replay_quarantine()?),
        }
    }

    /// Sends the request to a server.
    fn ask(self, server: &Client) -> anyhow::Result<ExitCode> {
        print_compact(&match self {
            Self::List { limit, before } => {
                server.get(QUARANTINE, &[("limit", limit), ("before", before)])?
            }
            Self::Replay => server.post(&format!("{QUARANTINE}/replay"), &[(); 0])?,
        })
    }
}
