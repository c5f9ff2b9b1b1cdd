//! `echopilot health`: asks a running server for its health, for containers and scripts, which may
//! have no HTTP client.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::FAILED;
use super::output::print_bytes;
use super::remote::reachable_address;
use crate::config::Listen;
use crate::probe;

/// Options of `health`.
#[derive(Debug, Args)]
pub struct HealthArgs {
    /// Address of the server, as `serve` has it
    #[arg(
        long,
        env = "ECHOPILOT_LISTEN",
        default_value = "127.0.0.1:8787",
        value_name = "ADDR",
        hide_env_values = true
    )]
    listen: Listen,

    /// Ask only whether the process responds, not whether it accepts events
    #[arg(long)]
    live: bool,
}

impl HealthArgs {
    /// Prints the response.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let path = match self.live {
            true => "/health/live",
            false => "/health/ready",
        };
        let listen = &self.listen;
        let without = || format!("no response of a server at {listen}");
        let addresses = listen.addresses().with_context(without)?.into_iter();
        let response = probe::get(addresses.map(reachable_address), path).with_context(without)?;
        print_bytes(format!("{}\n", response.body).as_bytes())?;
        Ok(match response.is_ok {
            true => ExitCode::SUCCESS,
            false => ExitCode::from(FAILED),
        })
    }
}
