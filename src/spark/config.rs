//! Options of the engine that computes queries.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::address::Address;

/// Longest time of a query on the cluster, by default, in seconds.
const DEFAULT_TIMEOUT_S: u64 = 300;

/// The engine that computes queries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum EngineKind {
    /// This program.
    #[default]
    Embedded,
    /// An Apache Spark cluster.
    Spark,
}

/// Options of the engine that computes queries.
#[derive(Clone, Args)]
#[command(next_help_heading = "Engine")]
pub struct RemoteConfig {
    /// Engine of queries: this program, or an Apache Spark cluster
    ///
    /// A cluster reads the sealed events of the lake, never newer ones; responses say up to when.
    /// If it fails, so does the query: nothing is computed elsewhere instead.
    #[arg(
        long,
        env = "ECHOPILOT_ENGINE",
        default_value = "embedded",
        value_name = "ENGINE",
        hide_env_values = true
    )]
    pub engine: EngineKind,

    /// Spark Connect server: `sc://HOST:PORT/;use_ssl=true`
    #[arg(
        long,
        env = "ECHOPILOT_REMOTE",
        value_name = "URL",
        hide_env_values = true
    )]
    pub remote: Option<Address>,

    /// The lake as the cluster sees it, such as `s3a://BUCKET/events` [default: the data folder's]
    #[arg(
        long,
        env = "ECHOPILOT_REMOTE_LAKE",
        value_name = "URL",
        hide_env_values = true
    )]
    pub remote_lake: Option<String>,

    /// Token of the Spark Connect server; better in the environment, where others do not see it
    #[arg(
        long,
        env = "ECHOPILOT_REMOTE_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    pub remote_token: Option<String>,

    /// File with the token; read again for each query
    #[arg(
        long,
        env = "ECHOPILOT_REMOTE_TOKEN_FILE",
        value_name = "FILE",
        conflicts_with = "remote_token",
        hide_env_values = true
    )]
    pub remote_token_file: Option<PathBuf>,

    /// Seconds after which a query on the cluster is interrupted
    #[arg(
        long,
        env = "ECHOPILOT_REMOTE_TIMEOUT",
        default_value_t = DEFAULT_TIMEOUT_S,
        value_name = "S",
        value_parser = clap::value_parser!(u64).range(1..=86_400),
        hide_env_values = true
    )]
    pub remote_timeout: u64,
}

/// Without the token.
impl std::fmt::Debug for RemoteConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteConfig")
            .field("engine", &self.engine)
            .field("remote", &self.remote)
            .field("remote_lake", &self.remote_lake)
            .finish_non_exhaustive()
    }
}
