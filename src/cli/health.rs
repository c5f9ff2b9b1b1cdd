//! `echopilot health`: asks a running server for its health, for containers and scripts, which may
//! have no HTTP client.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use super::FAILED;
use super::output::print_bytes;
use super::remote::reachable_address;
use crate::config::Listen;

/// Longest wait for a connection, and for each part of the response.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Most bytes of a response. That of the server has a few hundred.
const MAX_RESPONSE_BYTES: u64 = 64 << 10;

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
        let (is_healthy, body) =
            ask(listen, path).with_context(|| format!("no response of a server at {listen}"))?;
        print_bytes(format!("{body}\n").as_bytes())?;
        Ok(match is_healthy {
            true => ExitCode::SUCCESS,
            false => ExitCode::from(FAILED),
        })
    }
}

/// Sends a GET request; returns whether the status is 200, and the body.
fn ask(listen: &Listen, path: &str) -> anyhow::Result<(bool, String)> {
    let mut connection = connect(listen)?;
    connection.set_read_timeout(Some(TIMEOUT))?;
    connection.set_write_timeout(Some(TIMEOUT))?;
    write!(
        connection,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )?;
    let mut response = String::new();
    connection
        .take(MAX_RESPONSE_BYTES)
        .read_to_string(&mut response)?;
    let Some((head, body)) = response.split_once("\r\n\r\n") else {
        bail!("the response is not HTTP");
    };
    let is_ok = head.split_ascii_whitespace().nth(1) == Some("200");
    Ok((is_ok, body.trim_end().to_owned()))
}

/// Connects to the first address that accepts.
fn connect(listen: &Listen) -> anyhow::Result<TcpStream> {
    let addresses = listen.addresses()?;
    let mut failed = None;
    for address in addresses {
        match TcpStream::connect_timeout(&reachable_address(address), TIMEOUT) {
            Ok(connection) => return Ok(connection),
            Err(error) => failed = Some(error),
        }
    }
    Err(failed.map_or_else(|| anyhow::anyhow!("it has no address"), Into::into))
}
