//! `echopilot audit`.

use std::process::ExitCode;

use clap::Args;

use super::output::{print_compact, print_json};
use super::{Context, Reached};
use crate::engine::AuditRequest;
use crate::store::folder::Purpose;

#[derive(Debug, Args)]
pub struct AuditArgs {
    /// Most entries, 1 to 10000; the newest come first [default: 100]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Only access to the events of this user, and their erasure
    #[arg(long, value_name = "ID")]
    user: Option<String>,
}

impl AuditArgs {
    pub fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        match context.reach("audit", Purpose::Read)? {
            Reached::Engine(engine) => print_json(&engine.audit(&AuditRequest {
                limit: self.limit,
                user: self.user,
            })?),
            Reached::Server(server) => {
                let limit = self.limit.map(|limit| limit.to_string());
                let query = [("limit", limit), ("user", self.user)];
                print_compact(&server.get("/api/analytics/audit", &query)?)
            }
        }
    }
}
