//! Addresses of Spark Connect: `sc://HOST:PORT/;use_ssl=true;user_id=NAME;x-HEADER=VALUE`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::error::shown;

/// The port of Spark Connect.
const DEFAULT_PORT: u16 = 15_002;
/// The user of the sessions, unless the address names one.
const DEFAULT_USER: &str = "echopilot";

/// Where and how a server of Spark Connect is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
    /// True for TLS.
    pub uses_tls: bool,
    /// The user of the sessions.
    pub user: String,
    /// Headers of each request, such as the name of a Databricks cluster.
    pub headers: Vec<(String, String)>,
}

impl Address {
    /// The URL of the channel.
    pub fn url(&self) -> String {
        let scheme = if self.uses_tls { "https" } else { "http" };
        format!("{scheme}://{}:{}", self.host, self.port)
    }

    /// True if a token may be sent without TLS: it does not leave this machine.
    pub fn is_loopback(&self) -> bool {
        let host = self.host.trim_matches(['[', ']']);
        host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sc://{}:{}", self.host, self.port)
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(string: &str) -> Result<Self, String> {
        let wrong = |what: &str| {
            let start = shown(string).split(';').next().unwrap_or_default();
            format!("{start:?}: {what}; allowed is sc://HOST:PORT/;use_ssl=true")
        };
        let rest = string
            .strip_prefix("sc://")
            .ok_or_else(|| wrong("it does not begin with sc://"))?;
        let (authority, rest) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (
                host,
                port.parse()
                    .map_err(|_| wrong("the port is not a number"))?,
            ),
            _ => (authority, DEFAULT_PORT),
        };
        let is_host = |char: char| char.is_ascii_alphanumeric() || ".-_[]:".contains(char);
        if host.is_empty() || !host.chars().all(is_host) {
            return Err(wrong("it has no host"));
        }
        let mut address = Self {
            host: host.to_owned(),
            port,
            uses_tls: false,
            user: DEFAULT_USER.to_owned(),
            headers: Vec::new(),
        };
        for parameter in rest.split(';').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match (name, value) {
                ("use_ssl", "true") => address.uses_tls = true,
                ("use_ssl", "false") => {}
                ("user_id", user) if !user.is_empty() => user.clone_into(&mut address.user),
                ("token", _) => {
                    return Err(wrong(
                        "a token in an address is seen by others; give it in ECHOPILOT_REMOTE_TOKEN or in a file with \
                         --remote-token-file",
                    ));
                }
                (header, value) if header.starts_with("x-") => {
                    address.headers.push((header.to_owned(), value.to_owned()));
                }
                _ => return Err(wrong(&format!("{:?} is not a parameter", shown(name)))),
            }
        }
        Ok(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_known_parameters() {
        for (string, url, user) in [
            ("sc://spark", "http://spark:15002", "echopilot"),
            ("sc://spark:1/", "http://spark:1", "echopilot"),
            ("sc://[::1]:1/;use_ssl=false", "http://[::1]:1", "echopilot"),
            ("sc://[::1]", "http://[::1]:15002", "echopilot"),
            (
                "sc://a.b:443/;use_ssl=true;user_id=ann;x-cluster=c",
                "https://a.b:443",
                "ann",
            ),
        ] {
            let address: Address = string.parse().expect(string);
            assert_eq!((address.url().as_str(), address.user.as_str()), (url, user));
            let headers = usize::from(string.contains("x-cluster"));
            assert_eq!(address.headers.len(), headers, "{string}");
        }
        for (string, says) in [
            ("spark:15002", "does not begin with sc://"),
            ("sc://", "no host"),
            ("sc://a b", "no host"),
            ("sc://a:x", "port"),
            ("sc://a/;use_ssl=1", "use_ssl"),
            ("sc://a/;other=1", "other"),
            ("sc://a/;token=secret", "ECHOPILOT_REMOTE_TOKEN"),
        ] {
            let message = string.parse::<Address>().expect_err(string);
            assert!(message.contains(says), "{message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn only_addresses_of_this_machine_are_loopback() {
        let is_loopback = |string: &str| string.parse::<Address>().expect(string).is_loopback();
        assert!(
            ["sc://localhost", "sc://127.0.0.1:1", "sc://[::1]:1"]
                .iter()
                .all(|one| is_loopback(one))
        );
        assert!(
            ["sc://spark", "sc://10.0.0.1", "sc://localhost.example"]
                .iter()
                .all(|one| !is_loopback(one))
        );
    }
}
