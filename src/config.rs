//! Every setting of the program: a flag, an environment variable, a default and one line of help each.

use std::net::SocketAddr;
use std::path::PathBuf;

use chrono::NaiveTime;
use clap::{Args, ValueEnum};

/// What every command takes.
#[derive(Debug, Clone, Args)]
pub struct StoreConfig {
    /// Folder of all data; one process holds it at a time
    #[arg(
        long,
        global = true,
        env = "ECHOPILOT_DATA_DIR",
        default_value = "logs",
        value_name = "DIR",
        hide_env_values = true,
        help_heading = "Data"
    )]
    pub data_dir: PathBuf,

    /// Answer an event after it is on disk, or after the operating system has it
    #[arg(
        long,
        global = true,
        env = "ECHOPILOT_DURABILITY",
        default_value = "sync",
        hide_env_values = true,
        hide_possible_values = true,
        value_name = "sync|os",
        help_heading = "Data"
    )]
    pub durability: Durability,

    /// Days that raw events are kept
    #[arg(
        long,
        global = true,
        env = "ECHOPILOT_RAW_RETENTION_DAYS",
        default_value_t = 90,
        value_name = "N",
        value_parser = clap::value_parser!(u16).range(1..),
        hide_env_values = true,
        help_heading = "Data"
    )]
    pub raw_retention_days: u16,

    /// Days that daily states and rollups are kept
    #[arg(
        long,
        global = true,
        env = "ECHOPILOT_ROLLUP_RETENTION_DAYS",
        default_value_t = 365,
        value_name = "N",
        value_parser = clap::value_parser!(u16).range(1..),
        hide_env_values = true,
        help_heading = "Data"
    )]
    pub rollup_retention_days: u16,

    /// Time of day, UTC, from which yesterday is rolled up
    #[arg(
        long,
        global = true,
        env = "ECHOPILOT_ROLLUP_AT",
        default_value = "03:15",
        value_name = "HH:MM",
        value_parser = parse_time_of_day,
        hide_env_values = true,
        help_heading = "Data"
    )]
    pub rollup_at: NaiveTime,
}

/// What the server takes besides.
#[derive(Debug, Clone, Args)]
pub struct ServeConfig {
    /// Address and port to listen on; port 0 takes a free one
    #[arg(
        long,
        env = "ECHOPILOT_LISTEN",
        default_value = "127.0.0.1:8787",
        value_name = "ADDR",
        hide_env_values = true
    )]
    pub listen: SocketAddr,

    /// Dashboard key; two, comma separated, while you change it
    ///
    /// Without it a key is made on the first start and kept in the data folder, readable by you alone.
    #[arg(
        long,
        env = "ECHOPILOT_DASH_KEY",
        value_name = "KEY[,KEY]",
        hide_env_values = true
    )]
    pub dash_key: Option<String>,
}

/// When an event counts as accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Durability {
    /// After `fdatasync`: it survives a power cut.
    Sync,
    /// After `write`: it survives the end of the process, not of the machine.
    Os,
}

fn parse_time_of_day(text: &str) -> Result<NaiveTime, String> {
    NaiveTime::parse_from_str(text, "%H:%M")
        .map_err(|_| "allowed is a time of day, HH:MM".to_owned())
}
