//! All settings of the program, each with a flag, an environment variable, a default and one line
//! of help.

mod base_path;
mod clients;
mod listen;
mod neutral_path;
mod server_id;

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use chrono::NaiveTime;
use clap::{Args, ValueEnum};
use ipnet::IpNet;

pub use base_path::BasePath;
pub use clients::{ForeignClients, Mapping, Names};
pub use listen::Listen;
pub use neutral_path::NeutralPath;
pub use server_id::ServerId;

use crate::alerts::address::AllowedTargets;
use crate::spark::config::RemoteConfig;
use crate::zones::Zones;

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct StoreConfig {
    /// Data folder; only one process can use it at a time
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

    /// Acknowledge events after fdatasync (sync) or after write (os)
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

    /// Store user ids only as keyed hashes; file with the key, outside the data folder
    #[arg(
        long,
        global = true,
        env = "ECHOPILOT_USER_KEY_FILE",
        value_name = "FILE",
        hide_env_values = true,
        help_heading = "Data"
    )]
    pub user_key_file: Option<PathBuf>,

    /// Days for which events are kept
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

    /// Days for which daily states and rollups are kept
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

    /// Percent of all events that an erasure may remove without confirmation
    #[arg(
        long,
        global = true,
        env = "ECHOPILOT_LIMIT_ERASURE_PERCENT",
        default_value_t = 5,
        value_name = "N",
        value_parser = clap::value_parser!(u8).range(..=100),
        hide_env_values = true,
        help_heading = "Data"
    )]
    pub limit_erasure_percent: u8,

    /// Most bytes of columns, which queries read in place of events, in percent of these
    ///
    /// Times, users, event types and features are always in them, and the metadata keys and URLs
    /// that take the fewest bytes per event, as far as there is space. With 0 none are written,
    /// and queries read the events.
    #[arg(
        long,
        global = true,
        env = "ECHOPILOT_COLUMN_SHARE",
        default_value_t = 60,
        value_name = "PERCENT",
        value_parser = clap::value_parser!(u8).range(..=60),
        hide_env_values = true,
        help_heading = "Data"
    )]
    pub column_share: u8,

    /// MiB of memory of one query; one that needs more is rejected
    ///
    /// For groups, sets of users, and the events of funnels and paths. A quarter is left for the
    /// events that are being read.
    #[arg(
        long,
        global = true,
        env = "ECHOPILOT_LIMIT_QUERY_MIB",
        default_value_t = 1_024,
        value_name = "MIB",
        value_parser = clap::value_parser!(u32).range(1..),
        hide_env_values = true,
        help_heading = "Limits"
    )]
    pub limit_query_mib: u32,

    /// Time of day, UTC, of the rollup of the day before
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

    /// Time zones whose days are counted as they come in, like those of UTC
    ///
    /// Comma separated IANA names; the first is the default of the dashboard. The states of a zone
    /// that is added are built in the background from the events that are kept; those of a zone
    /// that is no longer listed are removed when a server starts.
    #[arg(
        long,
        global = true,
        env = "ECHOPILOT_ZONES",
        default_value = "UTC",
        value_name = "LIST",
        hide_env_values = true,
        help_heading = "Data"
    )]
    pub zones: Zones,

    /// Limits of names.
    #[command(flatten)]
    pub names: NameLimits,
}

/// Limits of the names that are counted separately. Clients choose the names of their events, so
/// that without limits they could exhaust the memory. Beyond a limit, events are stored unchanged
/// and counted together.
#[derive(Debug, Clone, Copy, Args)]
pub struct NameLimits {
    /// Features a day with counts of their own; the others are counted together
    #[arg(
        long = "limit-features",
        global = true,
        env = "ECHOPILOT_LIMIT_FEATURES",
        default_value_t = 10_000,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000),
        hide_env_values = true,
        help_heading = "Limits"
    )]
    pub features: u32,

    /// New users a day that count as users; of others only the events are counted
    #[arg(
        long = "limit-new-users",
        global = true,
        env = "ECHOPILOT_LIMIT_NEW_USERS",
        default_value_t = 1_000_000,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..),
        hide_env_values = true,
        help_heading = "Limits"
    )]
    pub new_users: u32,

    /// Metadata keys a day; events with further keys are counted in the status
    #[arg(
        long = "limit-metadata-keys",
        global = true,
        env = "ECHOPILOT_LIMIT_METADATA_KEYS",
        default_value_t = 1_000,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000),
        hide_env_values = true,
        help_heading = "Limits"
    )]
    pub metadata_keys: u32,
}

impl Default for NameLimits {
    fn default() -> Self {
        Self {
            features: 10_000,
            new_users: 1_000_000,
            metadata_keys: 1_000,
        }
    }
}

/// Options of `serve`.
#[derive(Debug, Clone, Args)]
pub struct ServeConfig {
    /// Address or host and port to listen on; :PORT is every address
    ///
    /// The server listens on each address of a host. Port 0 selects a free port.
    #[arg(
        long,
        env = "ECHOPILOT_LISTEN",
        default_value = "127.0.0.1:8787",
        value_name = "ADDR",
        hide_env_values = true
    )]
    pub listen: Listen,

    /// Path at which a reverse proxy mounts the server, such as /analytics
    ///
    /// The proxy may keep the path or remove it.
    #[arg(
        long,
        env = "ECHOPILOT_BASE_PATH",
        default_value = "/",
        value_name = "PATH",
        hide_env_values = true
    )]
    pub base_path: BasePath,

    /// Dashboard keys, comma separated; each may have a name: NAME:KEY
    ///
    /// Without any, a key is created on the first start and stored in the data folder, readable
    /// only by its owner.
    #[arg(
        long,
        env = "ECHOPILOT_DASH_KEY",
        value_name = "KEY[,KEY]",
        hide_env_values = true
    )]
    pub dash_key: Option<String>,

    /// File with dashboard keys, comma or line separated; read again when it changes
    #[arg(
        long,
        env = "ECHOPILOT_DASH_KEY_FILE",
        value_name = "FILE",
        conflicts_with = "dash_key",
        hide_env_values = true
    )]
    pub dash_key_file: Option<PathBuf>,

    /// Read keys, which may only query; comma separated, each may have a name
    #[arg(
        long,
        env = "ECHOPILOT_READ_KEY",
        value_name = "KEY[,KEY]",
        hide_env_values = true
    )]
    pub read_key: Option<String>,

    /// File with read keys, comma or line separated; read again when it changes
    #[arg(
        long,
        env = "ECHOPILOT_READ_KEY_FILE",
        value_name = "FILE",
        conflicts_with = "read_key",
        hide_env_values = true
    )]
    pub read_key_file: Option<PathBuf>,

    /// Ingest path that ad blockers do not list; `PATH.js` serves the client
    #[arg(
        long,
        env = "ECHOPILOT_NEUTRAL_PATH",
        default_value = "/echo",
        value_name = "PATH",
        hide_env_values = true
    )]
    pub neutral_path: NeutralPath,

    /// Origins whose pages may send events, comma separated, or * for all
    #[arg(
        long,
        env = "ECHOPILOT_ORIGINS",
        default_value = "*",
        value_name = "LIST",
        hide_env_values = true
    )]
    pub origins: Origins,

    /// Networks of trusted reverse proxies, comma separated (X-Forwarded-For)
    #[arg(
        long,
        env = "ECHOPILOT_TRUSTED_PROXIES",
        default_value = "",
        value_name = "LIST",
        hide_default_value = true,
        hide_env_values = true
    )]
    pub trusted_proxies: TrustedProxies,

    /// Folder or bucket in which the lake is kept up to date as open Delta tables
    ///
    /// `s3://BUCKET/PREFIX`, `gs://` or `az://`, with credentials from the environment as for
    /// `echopilot export`. It is written after seals, compactions, erasures and expiry.
    #[arg(
        long,
        env = "ECHOPILOT_PUBLISH",
        value_name = "TO",
        hide_env_values = true
    )]
    pub publish: Option<String>,

    /// Least seconds between two publications; erasures are published at once
    #[arg(
        long,
        env = "ECHOPILOT_PUBLISH_EVERY",
        default_value_t = 60,
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u32).range(1..),
        hide_env_values = true
    )]
    pub publish_every: u32,

    /// Id of this server in a table to which several servers publish
    ///
    /// Lower-case letters and digits, another one for each server. With it `--publish` names the
    /// table of all of them, in which a day that is over has each event once.
    #[arg(
        long,
        env = "ECHOPILOT_SERVER_ID",
        value_name = "ID",
        requires = "publish",
        hide_env_values = true
    )]
    pub server_id: Option<ServerId>,

    /// Seconds without a new file after which the files of a day are joined; shorter in tests.
    #[arg(
        long = "join-after-seconds",
        env = "ECHOPILOT_JOIN_AFTER_SECONDS",
        default_value_t = JOIN_AFTER_SECONDS,
        hide = true
    )]
    pub join_after_seconds: u32,

    /// Query the events of this table, and take none
    ///
    /// A folder or bucket to which other servers publish. The data folder keeps what is read from
    /// there, on the local disk.
    #[arg(
        long,
        env = "ECHOPILOT_READ_FROM",
        value_name = "TABLE",
        conflicts_with = "publish",
        hide_env_values = true
    )]
    pub read_from: Option<String>,

    /// Seconds between two looks for a new version of the table of --read-from
    #[arg(
        long,
        env = "ECHOPILOT_READ_EVERY",
        default_value_t = 10,
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u32).range(1..),
        hide_env_values = true
    )]
    pub read_every: u32,

    /// Ids of events without a user: none (off), or one a day and visitor (daily)
    ///
    /// The id is a hash of the client's address and User-Agent with a random key of the day. None
    /// of them is stored.
    #[arg(
        long,
        env = "ECHOPILOT_VISITORS",
        default_value = "off",
        hide_env_values = true,
        hide_possible_values = true,
        value_name = "off|daily"
    )]
    pub visitors: VisitorIds,

    /// Settings of the clients of other products.
    #[command(flatten)]
    pub clients: ForeignClients,

    /// Settings of messages.
    #[command(flatten)]
    pub messages: MessageConfig,

    /// Limits of clients.
    #[command(flatten)]
    pub limits: ClientLimits,

    /// The engine of queries.
    #[command(flatten)]
    pub remote: RemoteConfig,
}

/// Options of the messages of alerts and digests.
#[derive(Clone, Args)]
#[command(next_help_heading = "Messages")]
pub struct MessageConfig {
    /// Mail server: `smtps://USER:PASSWORD@HOST`, or `smtp://HOST:587?tls=required`
    ///
    /// Without it no e-mails are sent. Special characters of the password are percent-encoded.
    #[arg(
        long,
        env = "ECHOPILOT_SMTP_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    pub smtp_url: Option<String>,

    /// Sender of e-mails
    #[arg(
        long,
        env = "ECHOPILOT_SMTP_FROM",
        default_value = "EchoPilot <echopilot@localhost>",
        value_name = "ADDRESS",
        hide_env_values = true
    )]
    pub smtp_from: String,

    /// Hosts and networks of webhooks that may be private or use http, comma separated
    ///
    /// Other webhooks go to public addresses with https.
    #[arg(
        long,
        env = "ECHOPILOT_WEBHOOK_ALLOW",
        default_value = "",
        value_name = "LIST",
        hide_default_value = true,
        hide_env_values = true
    )]
    pub webhook_allow: AllowedTargets,
}

/// Without the URL of the mail server, which may have a password.
impl std::fmt::Debug for MessageConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MessageConfig")
            .field("smtp_from", &self.smtp_from)
            .field("webhook_allow", &self.webhook_allow)
            .finish_non_exhaustive()
    }
}

/// Limits of all clients together and of each client.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits")]
pub struct ClientLimits {
    /// Open connections in total; fewer if the system allows fewer open files
    #[arg(
        long = "limit-connections",
        env = "ECHOPILOT_LIMIT_CONNECTIONS",
        default_value_t = 10_000,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..),
        hide_env_values = true
    )]
    pub connections: u32,

    /// Open connections of one client address; 0 means unlimited
    #[arg(
        long = "limit-client-connections",
        env = "ECHOPILOT_LIMIT_CLIENT_CONNECTIONS",
        default_value_t = 1_000,
        value_name = "N",
        hide_env_values = true
    )]
    pub client_connections: u32,

    /// KiB of request bodies that one client may send at once; 0 means unlimited
    #[arg(
        long = "limit-client-kib",
        env = "ECHOPILOT_LIMIT_CLIENT_KIB",
        default_value_t = 32_768,
        value_name = "KIB",
        hide_env_values = true
    )]
    pub client_kib: u32,

    /// Events a second of one client, in bursts of 10 s at most; 0 means unlimited
    #[arg(
        long = "limit-client-events",
        env = "ECHOPILOT_LIMIT_CLIENT_EVENTS",
        default_value_t = 10_000,
        value_name = "N",
        hide_env_values = true
    )]
    pub client_events: u32,

    /// Wrong keys a minute of one client; 0 means unlimited
    #[arg(
        long = "limit-wrong-keys",
        env = "ECHOPILOT_LIMIT_WRONG_KEYS",
        default_value_t = 20,
        value_name = "N",
        hide_env_values = true
    )]
    pub wrong_keys: u32,

    /// Milliseconds without progress after which a response is aborted; shorter in tests.
    #[arg(
        long = "write-timeout-ms",
        env = "ECHOPILOT_WRITE_TIMEOUT_MS",
        default_value_t = WRITE_TIMEOUT_MS,
        value_parser = clap::value_parser!(u64).range(1..),
        hide = true
    )]
    pub write_timeout_ms: u64,
}

/// Default pause before the files of a day are joined: late events of a busy day come in for some
/// minutes, and each of them would have the day joined again.
const JOIN_AFTER_SECONDS: u32 = 600;

/// Default write timeout. A client that takes no byte of its response for that long has stopped
/// reading: phones that change their network are back within seconds, and each such connection
/// holds a response in memory.
const WRITE_TIMEOUT_MS: u64 = 30_000;

/// Origins whose pages may send events: all, or those of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origins(Option<Vec<String>>);

impl Origins {
    /// The listed origins, in lower case; `None` if all are allowed.
    pub fn listed(&self) -> Option<&[String]> {
        self.0.as_deref()
    }

    /// Returns true if a request whose `Origin` header has this value may send events.
    pub fn allow(&self, origin: &str) -> bool {
        self.listed().is_none_or(|listed| {
            listed
                .iter()
                .any(|allowed| allowed.eq_ignore_ascii_case(origin))
        })
    }
}

impl FromStr for Origins {
    type Err = String;

    fn from_str(value: &str) -> Result<Self, String> {
        if value.trim() == "*" {
            return Ok(Self(None));
        }
        let listed = value.split(',').map(|origin| {
            let origin = origin.trim();
            let host = origin.split_once("://").filter(|(scheme, host)| {
                let is_name = |name: &str, also: &[u8]| {
                    !name.is_empty()
                        && name
                            .bytes()
                            .all(|byte| byte.is_ascii_alphanumeric() || also.contains(&byte))
                };
                is_name(scheme, b"+-.") && is_name(host, b"-._:[]")
            });
            host.map(|_| origin.to_ascii_lowercase()).ok_or_else(|| {
                format!(
                    "{origin:?} is not an origin; allowed is '*', or a list such as \
                     https://example.com,https://shop.example.com:8443, without paths"
                )
            })
        });
        listed
            .collect::<Result<_, _>>()
            .map(|listed| Self(Some(listed)))
    }
}

/// Networks of trusted reverse proxies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Returns true if the address is that of a trusted proxy.
    pub fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

impl FromStr for TrustedProxies {
    type Err = String;

    fn from_str(value: &str) -> Result<Self, String> {
        let named = value
            .split(',')
            .map(str::trim)
            .filter(|one| !one.is_empty());
        let networks = named.map(|one| {
            let network = one.parse::<IpNet>();
            let network = network.or_else(|_| one.parse::<IpAddr>().map(IpNet::from));
            network.map_err(|_| {
                format!(
                    "{one:?} is not a network; allowed is a list such as 10.0.0.0/8,192.0.2.7,fd00::/8"
                )
            })
        });
        networks.collect::<Result<_, _>>().map(Self)
    }
}

/// The time at which an event is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Durability {
    /// After `fdatasync`: it survives a power cut.
    Sync,
    /// After `write`: it survives the end of the process, not of the machine.
    Os,
}

/// The ids of events without a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum VisitorIds {
    /// None: they are anonymous.
    Off,
    /// One for each client address and User-Agent, which is new each day of UTC.
    Daily,
}

fn parse_time_of_day(time: &str) -> Result<NaiveTime, String> {
    NaiveTime::parse_from_str(time, "%H:%M")
        .map_err(|_| "allowed is a time of day, HH:MM".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_any_or_those_of_a_list() {
        let any: Origins = "*".parse().expect("any origin");
        assert!(any.allow("https://x.example") && any.listed().is_none());
        let listed: Origins = "https://a.example, HTTP://b.example:8080"
            .parse()
            .expect("a list");
        for (origin, is_allowed) in [
            ("https://a.example", true),
            ("HTTPS://A.example", true),
            ("http://b.example:8080", true),
            ("http://a.example", false),
            ("https://a.example.evil.example", false),
            ("https://a.example:444", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(listed.allow(origin), is_allowed, "{origin}");
        }
        for bad in [
            "",
            ",",
            "a.example",
            "https://a.example/",
            "https://",
            "https://*.example",
            "*,https://a.example",
            "https://a.example,",
        ] {
            assert!(bad.parse::<Origins>().is_err(), "{bad}");
        }
    }

    #[test]
    fn trusted_proxies_are_networks_and_addresses() {
        let proxies: TrustedProxies = "10.0.0.0/8, 192.0.2.7,fd00::/8".parse().expect("a list");
        for (address, is_proxy) in [
            ("10.255.0.1", true),
            ("::ffff:10.0.0.1", true),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("fd00::1", true),
            ("fe80::1", false),
        ] {
            let address = address.parse().expect("an address");
            assert_eq!(proxies.contain(address), is_proxy, "{address}");
        }
        assert_eq!("".parse(), Ok(TrustedProxies::default()));
        for bad in ["10.0.0.0/33", "proxy.example", "10.0.0"] {
            assert!(bad.parse::<TrustedProxies>().is_err(), "{bad}");
        }
    }
}
