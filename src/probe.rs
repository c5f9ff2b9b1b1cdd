//! A GET request to a server of this program on the same machine, for commands that need no HTTP
//! client.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest wait for a connection, and for each part of the response.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Most bytes of a response. That of the server has a few hundred.
const MAX_RESPONSE_BYTES: u64 = 64 << 10;

/// A response.
pub struct Response {
    /// The status is 200.
    pub is_ok: bool,
    /// The body.
    pub body: String,
}

/// Sends a GET request to the first address that accepts a connection.
///
/// # Errors
/// If none does, or the response is not HTTP.
pub fn get(addresses: impl IntoIterator<Item = SocketAddr>, path: &str) -> Result<Response> {
    let mut connection = connect(addresses)?;
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
    let (head, body) = response
        .split_once("\r\n\r\n")
        .ok_or_else(|| Error::new(ErrorKind::InvalidData, "the response is not HTTP"))?;
    Ok(Response {
        is_ok: head.split_ascii_whitespace().nth(1) == Some("200"),
        body: body.trim_end().to_owned(),
    })
}

fn connect(addresses: impl IntoIterator<Item = SocketAddr>) -> Result<TcpStream> {
    let mut failed = Error::new(ErrorKind::AddrNotAvailable, "it has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(connection) => return Ok(connection),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}
