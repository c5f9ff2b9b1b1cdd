//! Requests to the server that has the data folder locked. Its address and a key that it made at
//! its start are in the folder, so that a command on the same machine needs no settings.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use ureq::http::{Request, Response, StatusCode};
use ureq::{Agent, Body};

use super::progress::{ShownProgress, Unit};
use super::{FAILED, WRONG_USAGE};
use crate::progress::Progress;
use crate::store::folder::ServerAddress;

/// Time to connect to a server on the same machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// First and longest pause before the state of a job is requested again.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// Bytes of a response that are passed on at a time.
const BLOCK_BYTES: usize = 64 << 10;
const JSON: &str = "application/json";

/// The server that has the data folder locked.
pub struct Client {
    agent: Agent,
    server: ServerAddress,
    /// The URL without the path of a request.
    base: String,
}

/// A request that the server rejected.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Rejected {
    /// Status of the response.
    pub status: u16,
    /// Code of the error.
    pub code: String,
    message: String,
}

impl Rejected {
    /// The exit code of a command that fails with this error.
    pub fn exit_code(&self) -> u8 {
        match (self.status, self.code.as_str()) {
            (400, _) | (_, "confirm_erasure") => WRONG_USAGE,
            _ => FAILED,
        }
    }
}

/// The body of an error response, and the error of a job.
#[derive(Deserialize)]
struct ErrorBody {
    #[serde(alias = "code")]
    error: String,
    message: String,
    #[serde(default)]
    status: u16,
}

/// The parts of a job that a command needs.
#[derive(Deserialize)]
struct Job<'a> {
    id: String,
    state: String,
    progress: JobProgress,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    error: Option<ErrorBody>,
}

#[derive(Deserialize)]
struct JobProgress {
    done: u64,
    #[serde(default)]
    total: u64,
    #[serde(default)]
    events: u64,
}

impl Client {
    /// The server that has a folder locked; `None` if another command has it, or the server does
    /// not listen yet.
    ///
    /// # Errors
    /// If the server is of another version.
    pub fn of_folder(folder: &Path) -> anyhow::Result<Option<Self>> {
        let Some(server) = ServerAddress::load(folder) else {
            return Ok(None);
        };
        let version = env!("CARGO_PKG_VERSION");
        if server.version != version {
            bail!(
                "the data folder {} is in use by a server of version {} at {}, and this is version {version}; use the program \
                 of that version, or restart the server with this one",
                folder.display(),
                server.version,
                server.url
            );
        }
        let base = reachable(&server.url).ok_or_else(|| {
            let url = &server.url;
            anyhow!(
                "the address of the server, {url:?}, is not a URL with an IP address and a port"
            )
        })?;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // The server is on this machine.
            .proxy(None)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .build();
        Ok(Some(Self {
            agent: config.into(),
            server,
            base,
        }))
    }

    /// The address of the server, for messages.
    pub fn url(&self) -> &str {
        &self.server.url
    }

    /// Sends a GET request, and returns the body of the response.
    pub fn get(&self, path: &str, query: &impl Serialize) -> anyhow::Result<Vec<u8>> {
        self.get_as(path, query, JSON)
    }

    /// The same, in the format of this media type.
    pub fn get_as(
        &self,
        path: &str,
        query: &impl Serialize,
        accept: &str,
    ) -> anyhow::Result<Vec<u8>> {
        self.send("GET", &with_query(path, query)?, accept, Vec::new())
    }

    /// Sends a GET request, and passes the body of the response on in blocks.
    pub fn stream(
        &self,
        path: &str,
        mut sink: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut response = self.respond("GET", path, "*/*", Vec::new())?;
        let mut reader = response.body_mut().as_reader();
        let mut block = vec![0; BLOCK_BYTES];
        loop {
            let read = reader.read(&mut block).with_context(|| self.broken())?;
            match block.get(..read) {
                None | Some([]) => return Ok(()),
                Some(bytes) => sink(bytes)?,
            }
        }
    }

    /// Sends a POST request with parameters and without a body, and returns the body of the
    /// response.
    pub fn post(&self, path: &str, query: &impl Serialize) -> anyhow::Result<Vec<u8>> {
        self.send("POST", &with_query(path, query)?, JSON, Vec::new())
    }

    /// Sends JSON, and returns the body of the response in the format of this media type.
    pub fn post_json(&self, path: &str, json: Vec<u8>, accept: &str) -> anyhow::Result<Vec<u8>> {
        self.send("POST", path, accept, json)
    }

    /// Sends JSON with PUT, and returns the body of the response.
    pub fn put_json(&self, path: &str, json: Vec<u8>) -> anyhow::Result<Vec<u8>> {
        self.send("PUT", path, JSON, json)
    }

    /// Sends a DELETE request.
    pub fn delete(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        self.send("DELETE", path, JSON, Vec::new())
    }

    /// Starts a job, shows its progress, and returns its result as JSON.
    pub fn run_job(
        &self,
        path: &str,
        body: Vec<u8>,
        work: &'static str,
        unit: Unit,
    ) -> anyhow::Result<Vec<u8>> {
        let mut response = self.send("POST", path, JSON, body)?;
        let progress = Progress::default();
        let mut shown = None;
        let mut pause = FIRST_PAUSE;
        loop {
            let job: Job<'_> = serde_json::from_slice(&response).with_context(|| {
                format!("the server at {} described a job otherwise", self.url())
            })?;
            progress.set_total(job.progress.total);
            progress.set_done(job.progress.done);
            progress.set_events(job.progress.events);
            match job.state.as_str() {
                "done" => {
                    let result = job.result.map_or("null", RawValue::get);
                    return Ok(result.as_bytes().to_vec());
                }
                "failed" => {
                    let error = job.error.context("the job failed without an error")?;
                    return Err(Rejected {
                        status: error.status,
                        code: error.error,
                        message: error.message,
                    }
                    .into());
                }
                "cancelled" => bail!("the job {} was cancelled by another request", job.id),
                _ => {}
            }
            let path = format!("/api/analytics/jobs/{}", job.id);
            shown.get_or_insert_with(|| {
                eprintln!(
                    "The server at {} does this as the job {}, also if this command is stopped; DELETE {path} cancels it.",
                    self.url(),
                    job.id
                );
                ShownProgress::start(work, unit, &progress)
            });
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
            response = self.send("GET", &path, JSON, Vec::new())?;
        }
    }

    fn send(
        &self,
        method: &str,
        path: &str,
        accept: &str,
        body: Vec<u8>,
    ) -> anyhow::Result<Vec<u8>> {
        let mut response = self.respond(method, path, accept, body)?;
        let mut bytes = Vec::new();
        response
            .body_mut()
            .as_reader()
            .read_to_end(&mut bytes)
            .with_context(|| self.broken())?;
        Ok(bytes)
    }

    /// Sends a request; the response has a status of success.
    fn respond(
        &self,
        method: &str,
        path: &str,
        accept: &str,
        body: Vec<u8>,
    ) -> anyhow::Result<Response<Body>> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header("authorization", format!("Bearer {}", self.server.key))
            .header("accept", accept);
        let request = match body.is_empty() {
            true => request.body(body),
            false => request.header("content-type", JSON).body(body),
        };
        let request = request.context("the request is not valid")?;
        let url = self.url();
        let mut response = self.agent.run(request).with_context(|| {
            format!(
                "the server at {url} has the data folder, and does not respond; wait until it has started or ended, or stop \
                 it, and run the command again"
            )
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        if status == StatusCode::UNAUTHORIZED {
            bail!(
                "the server at {url} does not accept the key in the data folder: it has another folder, and the one that has \
                 this folder is starting or ending; nothing was changed, run the command again"
            );
        }
        // A message is not long.
        let text = response.body_mut().read_to_string().unwrap_or_default();
        Err(match serde_json::from_str::<ErrorBody>(&text) {
            Ok(error) => Rejected {
                status: status.as_u16(),
                code: error.error,
                message: error.message,
            }
            .into(),
            Err(_) => anyhow!(
                "the server at {url} responded {status} to {method} {path}; it may be of another version or program"
            ),
        })
    }

    fn broken(&self) -> String {
        format!(
            "the connection to the server at {} broke before the response was complete",
            self.url()
        )
    }
}

/// The URL at which a server on this machine is reached: one that listens on all addresses by a
/// loopback address.
fn reachable(url: &str) -> Option<String> {
    let rest = url.strip_prefix("http://")?;
    let (authority, path) = match rest.split_once('/') {
        Some((authority, path)) => (authority, format!("/{path}")),
        None => (rest, String::new()),
    };
    let address = reachable_address(authority.parse().ok()?);
    Some(format!("http://{address}{}", path.trim_end_matches('/')))
}

/// The address at which this machine reaches a server that listens on `address`.
pub fn reachable_address(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// A path with a query string.
pub fn with_query(path: &str, query: &impl Serialize) -> anyhow::Result<String> {
    let query = serde_urlencoded::to_string(query)?;
    Ok(match query.as_str() {
        "" => path.to_owned(),
        query => format!("{path}?{query}"),
    })
}

/// A segment of a path: everything but letters, digits, `-` and `_` is percent-encoded.
pub fn segment(name: &str) -> String {
    let encode = |byte: u8| match byte {
        byte if byte.is_ascii_alphanumeric() || b"-_".contains(&byte) => {
            char::from(byte).to_string()
        }
        byte => format!("%{byte:02X}"),
    };
    name.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_reached_at_an_address_of_this_machine() {
        for (listens, reached) in [
            ("http://127.0.0.1:8787", Some("http://127.0.0.1:8787")),
            ("http://0.0.0.0:80/a/b", Some("http://127.0.0.1:80/a/b")),
            ("http://[::]:8787/base", Some("http://[::1]:8787/base")),
            ("http://192.0.2.7:8787/", Some("http://192.0.2.7:8787")),
            ("https://127.0.0.1:8787", None),
            ("http://example.com:80", None),
            ("http://127.0.0.1", None),
            ("", None),
        ] {
            assert_eq!(reachable(listens).as_deref(), reached, "{listens}");
        }
    }

    #[test]
    fn ids_are_segments_of_a_path() {
        assert_eq!(segment("u-1_A"), "u-1_A");
        assert_eq!(segment("a/b é?%.."), "a%2Fb%20%C3%A9%3F%25%2E%2E");
    }
}
