//! Addresses that webhooks may go to: public ones, and those that a setting lists. A person who may
//! define alerts must not reach the services of the server's own network by them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use reqwest::Url;

/// Hosts and networks to which webhooks may go although they are private, also with http.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedTargets {
    networks: Vec<IpNet>,
    /// In lower case.
    hosts: Vec<String>,
}

impl FromStr for AllowedTargets {
    type Err = String;

    fn from_str(value: &str) -> Result<Self, String> {
        let mut allowed = Self::default();
        let listed = value.split(',').map(str::trim);
        for one in listed.filter(|one| !one.is_empty()) {
            let network = one.parse::<IpNet>();
            let network = network.or_else(|_| one.parse::<IpAddr>().map(IpNet::from));
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            match network {
                Ok(network) => allowed.networks.push(network),
                Err(_) if one.bytes().all(is_name) => allowed.hosts.push(one.to_ascii_lowercase()),
                Err(_) => {
                    return Err(format!(
                        "{one:?} is not a host or network; allowed is a list such as hooks.internal,10.0.0.0/8"
                    ));
                }
            }
        }
        Ok(allowed)
    }
}

impl AllowedTargets {
    /// Checks the scheme of a URL, and its host if that is an address. Addresses of names are
    /// checked with [`AllowedTargets::allow`] when a connection is made.
    ///
    /// # Errors
    /// A sentence without the URL, which may be secret.
    pub fn check(&self, url: &Url) -> Result<(), String> {
        let host = url.host_str().unwrap_or_default();
        let address = address_of(host);
        if address.is_some_and(|address| !self.allow(host, address)) {
            return Err(PRIVATE.into());
        }
        let is_listed =
            self.lists_host(host) || address.is_some_and(|address| self.lists_address(address));
        if url.scheme() != "https" && !is_listed {
            return Err(
                "the webhook has http; allowed is https, and http to hosts of --webhook-allow"
                    .into(),
            );
        }
        Ok(())
    }

    /// True if webhooks for a host may go to one of its addresses.
    pub fn allow(&self, host: &str, address: IpAddr) -> bool {
        is_public(address) || self.lists_host(host) || self.lists_address(address)
    }

    fn lists_host(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.');
        self.hosts
            .iter()
            .any(|listed| listed.eq_ignore_ascii_case(host))
    }

    fn lists_address(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks
            .iter()
            .any(|network| network.contains(&address))
    }
}

/// The message about a private address.
pub const PRIVATE: &str =
    "the host of the webhook has a private address; --webhook-allow can list it";

/// The address that the host of a URL is, if it is not a name.
fn address_of(host: &str) -> Option<IpAddr> {
    let inner = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    inner.unwrap_or(host).parse().ok()
}

/// True for an address of the public internet: no loopback, private, link-local, shared, test,
/// multicast, reserved or translated one (RFC 6890 and its successors).
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_special = matches!(
        (a, b, c),
        (0 | 10 | 127 | 224.., ..)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 0, 0 | 2)
            | (192, 88, 99)
            | (192, 168, _)
            | (198, 18 | 19, _)
            | (198, 51, 100)
            | (203, 0, 113)
    );
    !is_special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    // Global unicast is 2000::/3. In it are special: 2001::/23 with tunnels, documentation, and
    // 6to4, which has an address of version 4 inside.
    let is_global = a & 0xe000 == 0x2000;
    let is_special = matches!(
        (a, b),
        (0x2001, 0..=0x01ff) | (0x2001, 0x0db8) | (0x2002, _)
    ) || a == 0x3fff && b < 0x1000;
    is_global && !is_special
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_and_special_addresses_are_not_public() {
        for address in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::7f00:1",
            "64:ff9b::7f00:1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "fc00::1",
            "fd00::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(address.parse().expect(address)), "{address}");
        }
        for address in [
            "1.1.1.1",
            "100.63.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.20.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "2a00:1450::1",
            "::ffff:1.1.1.1",
        ] {
            assert!(is_public(address.parse().expect(address)), "{address}");
        }
    }

    #[test]
    fn a_setting_allows_hosts_and_networks_also_with_http() {
        let allowed: AllowedTargets = "Hooks.internal, 10.0.0.0/8,192.168.1.7,fd00::/8"
            .parse()
            .expect("a list");
        let none = AllowedTargets::default();
        for (url, by_none, by_list) in [
            ("https://hooks.example/x", true, true),
            ("http://hooks.example/x", false, false),
            ("http://hooks.internal:8080/x", false, true),
            ("http://HOOKS.internal./x", false, true),
            ("http://hooks.internal.example/x", false, false),
            ("https://10.9.9.9/x", false, true),
            ("http://10.9.9.9/x", false, true),
            ("http://192.168.1.8/x", false, false),
            ("https://192.168.1.8/x", false, false),
            ("http://[fd00::1]:80/x", false, true),
            ("https://[::1]/x", false, false),
            ("https://[::ffff:10.0.0.1]/x", false, true),
            // Other forms of 127.0.0.1.
            ("https://2130706433/", false, false),
            ("https://0x7f.1/", false, false),
            ("https://017700000001/", false, false),
            ("https://1.1.1.1/", true, true),
            ("http://1.1.1.1/", false, false),
        ] {
            let url: Url = url.parse().expect(url);
            assert_eq!(none.check(&url).is_ok(), by_none, "{url}");
            assert_eq!(allowed.check(&url).is_ok(), by_list, "{url}");
        }
        assert!(allowed.allow("hooks.internal", Ipv4Addr::LOCALHOST.into()));
        assert!(!allowed.allow("hooks.example", Ipv4Addr::LOCALHOST.into()));
        assert!(allowed.allow("hooks.example", "10.0.0.1".parse().expect("an address")));
        for wrong in ["http://x", "10.0.0.0/33", "a b", "*"] {
            assert!(wrong.parse::<AllowedTargets>().is_err(), "{wrong}");
        }
        assert_eq!("".parse(), Ok(AllowedTargets::default()));
    }
}
