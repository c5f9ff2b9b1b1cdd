//! The address that the server listens on.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

/// A host and a port. The host is an address, a name, or every address of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    host: Host,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    /// All addresses of the machine.
    Every,
    Address(IpAddr),
    /// A host name, which may have several addresses.
    Name(String),
}

impl Listen {
    /// The default port.
    const PORT: u16 = 8787;
    /// The default host, which other machines cannot reach.
    const HOST: Host = Host::Address(IpAddr::V4(Ipv4Addr::LOCALHOST));

    /// Resolves the addresses, without duplicates.
    ///
    /// # Errors
    /// If a name has no address.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let with_port = |address: IpAddr| SocketAddr::new(address, self.port);
        Ok(match &self.host {
            // The first may include the second, depending on the system.
            Host::Every => vec![
                with_port(Ipv6Addr::UNSPECIFIED.into()),
                with_port(Ipv4Addr::UNSPECIFIED.into()),
            ],
            Host::Address(address) => vec![with_port(*address)],
            Host::Name(name) => {
                let found: BTreeSet<SocketAddr> =
                    (name.as_str(), self.port).to_socket_addrs()?.collect();
                found.into_iter().collect()
            }
        })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.port;
        match &self.host {
            Host::Every => write!(formatter, ":{port}"),
            Host::Address(address) => SocketAddr::new(*address, port).fmt(formatter),
            Host::Name(name) => write!(formatter, "{name}:{port}"),
        }
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(value: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{value:?} is not an address; allowed are 127.0.0.1:8787, [::1]:8787, localhost:8787, :8787 for every \
                 address of the machine, a host alone (port {}), or a port alone (on 127.0.0.1)",
                Self::PORT
            )
        };
        let value = value.trim();
        let bare = value
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        if let Ok(address) = bare.unwrap_or(value).parse() {
            let host = Host::Address(address);
            return Ok(Self {
                host,
                port: Self::PORT,
            });
        }
        if let Ok(address) = value.parse::<SocketAddr>() {
            return Ok(Self {
                host: Host::Address(address.ip()),
                port: address.port(),
            });
        }
        let is_number =
            |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let (host, port) = match value.rsplit_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None if is_number(value) => (None, Some(value)),
            None => (Some(value), None),
        };
        let port = match port {
            None => Self::PORT,
            Some(port) if is_number(port) => port.parse().map_err(|_| wrong())?,
            Some(_) => return Err(wrong()),
        };
        let is_name = |host: &str| {
            let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            // A name of digits and dots is a mistyped address.
            !host.is_empty()
                && host.bytes().all(is_letter)
                && host.bytes().any(|byte| byte.is_ascii_alphabetic())
        };
        let host = match host {
            None => Self::HOST,
            Some("" | "*") if value.contains(':') => Host::Every,
            Some(host) if is_name(host) => Host::Name(host.to_owned()),
            Some(_) => return Err(wrong()),
        };
        Ok(Self { host, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_hosts_and_ports_are_parsed() {
        for (text, means) in [
            ("127.0.0.1:8787", "127.0.0.1:8787"),
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("[::1]:8787", "[::1]:8787"),
            ("[::]:0", "[::]:0"),
            ("localhost:8787", "localhost:8787"),
            ("analytics.example:1", "analytics.example:1"),
            (":8787", ":8787"),
            ("*:8787", ":8787"),
            ("8788", "127.0.0.1:8788"),
            ("localhost", "localhost:8787"),
            ("10.0.0.1", "10.0.0.1:8787"),
            ("::1", "[::1]:8787"),
            ("[::1]", "[::1]:8787"),
            (" :9 ", ":9"),
        ] {
            let listen: Listen = text.parse().expect(text);
            assert_eq!(listen.to_string(), means, "{text}");
        }
        for text in [
            "",
            " ",
            ":",
            "localhost:",
            "localhost:http",
            "localhost:65536",
            "70000",
            ":-1",
            "localhost:+1",
            "1.2.3:80",
            "1.2.3.4.5",
            "http://localhost:8787",
            "localhost:8787/",
            "a b:1",
            "[::1:8787",
            "::1]:8787",
            "[x]:1",
            "*",
        ] {
            let message = text.parse::<Listen>().expect_err(text);
            assert!(message.contains(&format!("{text:?}")), "{message}");
            assert!(message.contains("localhost:8787"), "{message}");
        }
    }

    #[test]
    fn host_names_resolve_to_distinct_addresses() {
        let of = |text: &str| text.parse::<Listen>().expect(text).addresses();
        assert_eq!(of(":0").map(|found| found.len()).ok(), Some(2));
        assert_eq!(
            of("[::1]:5").ok(),
            Some(vec![([0_u16, 0, 0, 0, 0, 0, 0, 1], 5).into()])
        );
        let local = of("localhost:5").expect("every machine knows it");
        assert!(
            local
                .iter()
                .all(|one| one.ip().is_loopback() && one.port() == 5)
        );
        assert!(!local.is_empty());
        assert!(of("no-such-host.invalid:5").is_err());
    }
}
