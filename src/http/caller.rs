//! The client of a request, as limits count it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Version, header};

use super::clients::{Client, Clients};
use super::error_response::ErrorResponse;
use crate::config::TrustedProxies;
use crate::error::ErrorCode;

/// The peer of a connection.
#[derive(Clone)]
pub struct Peer {
    pub client: Arc<Client>,
    /// True for a trusted proxy, whose `X-Forwarded-For` names the client.
    pub is_proxy: bool,
    /// True for a process on this machine.
    pub is_loopback: bool,
    /// In memory while the connection is open, and nowhere else.
    pub address: IpAddr,
}

/// The header in which proxies list the addresses that a request came through.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// The client of a request, for handlers that take from its limits.
#[derive(Clone)]
pub struct Caller {
    clients: Arc<Clients>,
    client: Arc<Client>,
    is_local: bool,
    address: Option<IpAddr>,
}

impl Caller {
    /// A caller for a client of the table, with the result of [`is_local`].
    pub fn new(clients: Arc<Clients>, client: Arc<Client>, is_local: bool) -> Self {
        Self {
            clients,
            client,
            is_local,
            address: None,
        }
    }

    /// The same with the address of the client, if it is known.
    pub fn with_address(self, address: Option<IpAddr>) -> Self {
        Self { address, ..self }
    }

    /// The address of the client; none if a trusted proxy does not name it.
    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// True for a request that a process on this machine sent for itself.
    pub fn is_local(&self) -> bool {
        self.is_local
    }

    /// Takes tokens for the events of a batch before any of them is stored.
    ///
    /// # Errors
    /// 429 if the client sends too many; then none of them may be stored.
    pub fn take_events(&self, events: usize) -> Result<(), ErrorResponse> {
        self.clients
            .take_events(&self.client, events)
            .map_err(|wait| {
                ErrorResponse::too_many(
                    ErrorCode::TooManyEventsASecond,
                    "this client sends too many events a second; nothing of the batch is stored",
                    wait,
                )
            })
    }

    /// Checks that the client may send a key: not after too many wrong ones.
    ///
    /// # Errors
    /// 429 after too many.
    pub fn check_key_attempts(&self) -> Result<(), ErrorResponse> {
        self.clients
            .check_key_attempts(&self.client)
            .map_err(|wait| {
                ErrorResponse::too_many(
                    ErrorCode::TooManyWrongKeys,
                    "this client sent too many wrong keys",
                    wait,
                )
            })
    }

    /// Counts a wrong key.
    pub fn count_wrong_key(&self) {
        self.clients.count_wrong_key(&self.client);
    }

    /// A quota for the bytes of a body, with nothing taken yet.
    pub fn body_quota(&self) -> BodyQuota {
        BodyQuota {
            caller: self.clone(),
            bytes: 0,
        }
    }
}

/// Bytes that a client is sending. They are returned when this is dropped.
pub struct BodyQuota {
    caller: Caller,
    bytes: usize,
}

impl BodyQuota {
    /// Takes more bytes, up to `at_most` in total; false if the client is sending too much at once.
    pub fn take(&mut self, bytes: usize, at_most: usize) -> bool {
        let more = bytes.min(at_most.saturating_sub(self.bytes));
        let taken = self.caller.clients.receive(&self.caller.client, more);
        if taken {
            self.bytes += more;
        }
        taken
    }
}

impl Drop for BodyQuota {
    fn drop(&mut self) {
        self.caller
            .clients
            .received(&self.caller.client, self.bytes);
    }
}

/// The address that a trusted proxy names: the last one of the list that is not a proxy itself. The
/// addresses before it were sent by the client, which can send anything.
pub fn forwarded_for(headers: &HeaderMap, proxies: &TrustedProxies) -> Option<IpAddr> {
    let mut lines: Vec<&str> = Vec::new();
    for line in headers.get_all(FORWARDED_FOR) {
        lines.push(line.to_str().unwrap_or_default());
    }
    let named = lines.iter().rev().flat_map(|line| line.rsplit(','));
    for address in named {
        let address = parse(address.trim())?;
        if !proxies.contain(address) {
            return Some(address);
        }
    }
    None
}

/// Headers by which proxies say that they pass on a request.
const FORWARDING: [&str; 7] = [
    "forwarded",
    "via",
    "x-forwarded",
    FORWARDED_FOR,
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
];

/// True for a request that a process on this machine sent for itself, and not as a proxy.
///
/// A trusted proxy never does, whatever address it names. Of another proxy on this machine, which
/// the settings do not list, this recognizes what it adds to a request; HTTP/1.0, which nginx
/// speaks unless it is told not to; and a `Host` that is not this machine, which is also that of a
/// page whose name an attacker points to this machine (DNS rebinding).
pub fn is_local(peer: &Peer, head: &Parts) -> bool {
    let headers = &head.headers;
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    peer.is_loopback
        && !peer.is_proxy
        && head.version >= Version::HTTP_11
        && !FORWARDING.iter().any(|name| headers.contains_key(*name))
        && host.is_some_and(is_loopback_host)
}

/// True for the `Host` of a server on this machine, with or without a port.
fn is_loopback_host(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name.eq_ignore_ascii_case("localhost")
        || parse(host).is_some_and(|address| address.to_canonical().is_loopback())
}

/// Parses an address with or without a port.
fn parse(address: &str) -> Option<IpAddr> {
    let bare = address
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let found = bare.unwrap_or(address).parse().ok();
    found.or_else(|| address.parse().ok().map(|address: SocketAddr| address.ip()))
}

/// Checks a head that HTTP allows: whether it contradicts itself or is too large.
///
/// # Errors
/// 400 without one `Host` or with a doubtful `Transfer-Encoding`, 414 and 431.
pub fn check_head(head: &Parts) -> Result<(), ErrorResponse> {
    let uri_bytes = head
        .uri
        .path_and_query()
        .map_or(0, |path| path.as_str().len());
    if uri_bytes > super::MAX_URI_BYTES {
        return Err(super::socket::uri_too_long());
    }
    let lines = head.headers.iter();
    let head_bytes: usize = lines
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    if head_bytes + uri_bytes > super::MAX_HEAD_BYTES {
        return Err(super::socket::head_too_large());
    }
    let hosts = head.headers.get_all(header::HOST).iter().count();
    if hosts > 1 || (hosts == 0 && head.version >= Version::HTTP_11) {
        // RFC 9112, section 3.2.
        return Err(ErrorResponse::new(
            StatusCode::BAD_REQUEST,
            ErrorCode::BadHost,
            format!("the request has {hosts} Host headers; HTTP/1.1 requires one"),
        ));
    }
    let codings: Vec<_> = head
        .headers
        .get_all(header::TRANSFER_ENCODING)
        .iter()
        .collect();
    let is_chunked =
        |value: &&axum::http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"chunked");
    if codings.len() > 1 || !codings.iter().all(is_chunked) {
        return Err(ErrorResponse::new(
            StatusCode::BAD_REQUEST,
            ErrorCode::BadTransferEncoding,
            "Transfer-Encoding is not a single \"chunked\"",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_the_last_address_before_the_proxies() {
        let proxies: TrustedProxies = "10.0.0.0/8,fd00::/8".parse().expect("networks");
        for (lines, client) in [
            (vec!["192.0.2.1"], Some("192.0.2.1")),
            (vec!["6.6.6.6, 192.0.2.1"], Some("192.0.2.1")),
            (vec!["6.6.6.6, 192.0.2.1, 10.0.0.9"], Some("192.0.2.1")),
            (vec!["6.6.6.6", "192.0.2.1,10.0.0.9"], Some("192.0.2.1")),
            (vec!["192.0.2.1", "10.0.0.9"], Some("192.0.2.1")),
            (vec!["192.0.2.1:4711"], Some("192.0.2.1")),
            (vec!["[2001:db8::1]:4711, fd00::2"], Some("2001:db8::1")),
            (vec!["[2001:db8::1]"], Some("2001:db8::1")),
            (vec!["2001:db8::1"], Some("2001:db8::1")),
            (vec!["192.0.2.1, unknown"], None),
            (vec!["192.0.2.1,"], None),
            (vec!["10.0.0.1"], None),
            (vec![""], None),
            (vec![], None),
        ] {
            let mut headers = HeaderMap::new();
            for line in &lines {
                headers.append(FORWARDED_FOR, line.parse().expect("a header value"));
            }
            let client = client.map(|client| client.parse().expect("an address"));
            assert_eq!(forwarded_for(&headers, &proxies), client, "{lines:?}");
        }
    }
    #[test]
    fn only_a_process_on_this_machine_that_asks_for_itself_is_local() {
        let own = ("host", "127.0.0.1:8787");
        for (is_loopback, is_proxy, version, fields, expected) in [
            (true, false, Version::HTTP_11, vec![own], true),
            (
                true,
                false,
                Version::HTTP_11,
                vec![("host", "[::1]:80")],
                true,
            ),
            (true, false, Version::HTTP_11, vec![("host", "[::1]")], true),
            (
                true,
                false,
                Version::HTTP_11,
                vec![("host", "LocalHost:1")],
                true,
            ),
            (
                true,
                false,
                Version::HTTP_11,
                vec![("host", "localhost")],
                true,
            ),
            (true, false, Version::HTTP_11, vec![], false),
            (
                true,
                false,
                Version::HTTP_11,
                vec![("host", "evil.example")],
                false,
            ),
            (
                true,
                false,
                Version::HTTP_11,
                vec![("host", "127.0.0.1.evil.example")],
                false,
            ),
            (true, false, Version::HTTP_10, vec![own], false),
            (true, true, Version::HTTP_11, vec![own], false),
            (
                true,
                true,
                Version::HTTP_11,
                vec![own, ("x-forwarded-for", "127.0.0.1")],
                false,
            ),
            (false, false, Version::HTTP_11, vec![own], false),
            (
                true,
                false,
                Version::HTTP_11,
                vec![own, ("x-forwarded-for", "192.0.2.1")],
                false,
            ),
            (
                true,
                false,
                Version::HTTP_11,
                vec![own, ("via", "1.1 a")],
                false,
            ),
            (
                true,
                false,
                Version::HTTP_11,
                vec![own, ("x-real-ip", "127.0.0.1")],
                false,
            ),
            (
                true,
                false,
                Version::HTTP_11,
                vec![own, ("forwarded", "for=127.0.0.1")],
                false,
            ),
        ] {
            let peer = Peer {
                address: [127, 0, 0, 1].into(),
                client: Arc::default(),
                is_proxy,
                is_loopback,
            };
            let mut request = axum::http::Request::builder()
                .uri("/metrics")
                .version(version);
            for (name, value) in &fields {
                request = request.header(*name, *value);
            }
            let (head, ()) = request.body(()).expect("a request").into_parts();
            let found = is_local(&peer, &head);
            assert_eq!(
                found, expected,
                "{is_loopback} {is_proxy} {version:?} {fields:?}"
            );
        }
    }

    #[test]
    fn contradicting_and_too_large_heads_are_rejected() {
        let long = "x".repeat(crate::http::MAX_URI_BYTES);
        let large = "x".repeat(crate::http::MAX_HEAD_BYTES);
        for (uri, fields, code) in [
            ("/", vec![("host", "x")], None),
            (
                "/",
                vec![("host", "x"), ("transfer-encoding", "Chunked")],
                None,
            ),
            ("/", vec![], Some(ErrorCode::BadHost)),
            (
                "/",
                vec![("host", "x"), ("host", "y")],
                Some(ErrorCode::BadHost),
            ),
            (
                "/",
                vec![("host", "x"), ("transfer-encoding", "gzip, chunked")],
                Some(ErrorCode::BadTransferEncoding),
            ),
            (
                "/",
                vec![
                    ("host", "x"),
                    ("transfer-encoding", "chunked"),
                    ("transfer-encoding", "chunked"),
                ],
                Some(ErrorCode::BadTransferEncoding),
            ),
            (
                &format!("/{long}"),
                vec![("host", "x")],
                Some(ErrorCode::UriTooLong),
            ),
            (
                "/",
                vec![("host", "x"), ("cookie", &large)],
                Some(ErrorCode::HeadTooLarge),
            ),
        ] {
            let mut request = axum::http::Request::builder().uri(uri);
            for (name, value) in fields {
                request = request.header(name, value);
            }
            let (head, ()) = request.body(()).expect("a request").into_parts();
            let found = check_head(&head).map_err(|error| format!("{error:?}"));
            match code {
                None => assert_eq!(found, Ok(())),
                Some(code) => assert!(
                    found.is_err_and(|error| error.contains(&format!("{code:?}"))),
                    "{code}"
                ),
            }
        }
    }
}
