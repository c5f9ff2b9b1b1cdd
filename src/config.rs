//! Every setting of the program: a flag, an environment variable, a default and one line of help each.

mod base_path;
mod listen;
mod neutral_path;

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use chrono::NaiveTime;
use clap::{Args, ValueEnum};
use ipnet::IpNet;

pub use base_path::BasePath;
pub use listen::Listen;
pub use neutral_path::NeutralPath;

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

    /// Store user ids only as keyed hashes: a file with the key, outside the data folder
    #[arg(
        long,
        global = true,
        env = "ECHOPILOT_USER_KEY_FILE",
        value_name = "FILE",
        hide_env_values = true,
        help_heading = "Data"
    )]
    pub user_key_file: Option<PathBuf>,

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

    /// Percent of all events that an erasure may remove without being confirmed
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

    /// How many names the store counts one by one.
    #[command(flatten)]
    pub names: NameLimits,
}

/// How many names of a day are counted one by one. Whoever sends events chooses the names, so that without limits they could
/// take all memory. Beyond a limit events are stored as they were sent, and counted together.
#[derive(Debug, Clone, Copy, Args)]
pub struct NameLimits {
    /// Features of a day that are counted by name; events of others are counted together
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

    /// New users a day that are counted as users; events of others are counted as events alone
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

    /// Keys of metadata a day that are known as such; events with others are counted and said to have them
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

/// What the server takes besides.
#[derive(Debug, Clone, Args)]
pub struct ServeConfig {
    /// Address or host, and port, to listen on; :PORT is every address
    ///
    /// A host with several addresses is served on each. Port 0 takes a free one.
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
    /// Requests with it and without it, as a proxy may strip it, are understood.
    #[arg(
        long,
        env = "ECHOPILOT_BASE_PATH",
        default_value = "/",
        value_name = "PATH",
        hide_env_values = true
    )]
    pub base_path: BasePath,

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

    /// File with one or two dashboard keys, by comma or line; SIGHUP reads it again
    #[arg(
        long,
        env = "ECHOPILOT_DASH_KEY_FILE",
        value_name = "FILE",
        conflicts_with = "dash_key",
        hide_env_values = true
    )]
    pub dash_key_file: Option<PathBuf>,

    /// Second path for events, its `.js` for the script; lists of blockers name the first
    #[arg(
        long,
        env = "ECHOPILOT_NEUTRAL_PATH",
        default_value = "/echo",
        value_name = "PATH",
        hide_env_values = true
    )]
    pub neutral_path: NeutralPath,

    /// Origins whose pages may send events, comma separated, such as `https://example.com`
    #[arg(
        long,
        env = "ECHOPILOT_ORIGINS",
        default_value = "*",
        value_name = "LIST",
        hide_env_values = true
    )]
    pub origins: Origins,

    /// Networks of reverse proxies, comma separated, whose X-Forwarded-For names the client
    #[arg(
        long,
        env = "ECHOPILOT_TRUSTED_PROXIES",
        default_value = "",
        value_name = "LIST",
        hide_default_value = true,
        hide_env_values = true
    )]
    pub trusted_proxies: TrustedProxies,

    /// What one client may take.
    #[command(flatten)]
    pub limits: ClientLimits,
}

/// How much of the server all clients together, and each of them, may use at once.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits")]
pub struct ClientLimits {
    /// Open connections in all; fewer if the system allows fewer open files
    #[arg(
        long = "limit-connections",
        env = "ECHOPILOT_LIMIT_CONNECTIONS",
        default_value_t = 10_000,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..),
        hide_env_values = true
    )]
    pub connections: u32,

    /// Open connections of one client address; 0 is no limit
    #[arg(
        long = "limit-client-connections",
        env = "ECHOPILOT_LIMIT_CLIENT_CONNECTIONS",
        default_value_t = 1_000,
        value_name = "N",
        hide_env_values = true
    )]
    pub client_connections: u32,

    /// KiB of request bodies that one client may be sending at once; 0 is no limit
    #[arg(
        long = "limit-client-kib",
        env = "ECHOPILOT_LIMIT_CLIENT_KIB",
        default_value_t = 32_768,
        value_name = "KIB",
        hide_env_values = true
    )]
    pub client_kib: u32,

    /// Events a second of one client, with bursts of ten seconds' worth; 0 is no limit
    #[arg(
        long = "limit-client-events",
        env = "ECHOPILOT_LIMIT_CLIENT_EVENTS",
        default_value_t = 10_000,
        value_name = "N",
        hide_env_values = true
    )]
    pub client_events: u32,

    /// Wrong dashboard keys a minute of one client; 0 is no limit
    #[arg(
        long = "limit-wrong-keys",
        env = "ECHOPILOT_LIMIT_WRONG_KEYS",
        default_value_t = 20,
        value_name = "N",
        hide_env_values = true
    )]
    pub wrong_keys: u32,

    /// Seconds without progress after which a response is ended; shorter in tests.
    #[arg(
        long = "write-timeout-ms",
        env = "ECHOPILOT_WRITE_TIMEOUT_MS",
        default_value_t = WRITE_TIMEOUT_MS,
        value_parser = clap::value_parser!(u64).range(1..),
        hide = true
    )]
    pub write_timeout_ms: u64,
}

/// A client that takes no byte of its response for so long has stopped reading: phones that change their network are back
/// within seconds, and each such connection holds a response in memory.
const WRITE_TIMEOUT_MS: u64 = 30_000;

/// Origins whose pages may send events: all, or those of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origins(Option<Vec<String>>);

impl Origins {
    /// The listed origins, in lower case; `None` if all are allowed.
    pub fn listed(&self) -> Option<&[String]> {
        self.0.as_deref()
    }

    /// Whether a request whose `Origin` header has this value may send events.
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

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "*" {
            return Ok(Self(None));
        }
        let listed = text.split(',').map(|origin| {
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
                    "{origin:?} is no origin; allowed is '*', or a list such as \
                     https://example.com,https://shop.example.com:8443, without paths"
                )
            })
        });
        listed
            .collect::<Result<_, _>>()
            .map(|listed| Self(Some(listed)))
    }
}

/// Networks of reverse proxies: what they say of a client's address is believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Whether an address is that of a proxy.
    pub fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

impl FromStr for TrustedProxies {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = text.split(',').map(str::trim).filter(|one| !one.is_empty());
        let networks = named.map(|one| {
            let network = one.parse::<IpNet>();
            let network = network.or_else(|_| one.parse::<IpAddr>().map(IpNet::from));
            network.map_err(|_| {
                format!(
                    "{one:?} is no network; allowed is a list such as 10.0.0.0/8,192.0.2.7,fd00::/8"
                )
            })
        });
        networks.collect::<Result<_, _>>().map(Self)
    }
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
