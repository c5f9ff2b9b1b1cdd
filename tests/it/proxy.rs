//! The server behind nginx, as documented and with the defaults of nginx.

use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::json;
use tempfile::TempDir;

use crate::harness::{KEY, PATIENCE, Server, batch, echopilot, event, folder, post_to};

const DOCUMENT: &str = include_str!("../../docs/operations.md");

/// A running nginx; ended when dropped.
struct Nginx {
    child: Child,
    folder: TempDir,
    url: String,
}

impl Nginx {
    /// Starts it with the content of the `http` block, in which `PORT` stands for its port.
    fn start(config: &str) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let folder = folder();
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {kind};\n"))
            .concat();
        let config = config.replace("PORT", &port.to_string());
        let whole = format!(
            "daemon off;\nmaster_process off;\npid nginx.pid;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}{config}\n}}\n"
        );
        std::fs::write(folder.path().join("nginx.conf"), whole).unwrap();
        let program = match Path::new("/usr/sbin/nginx").exists() {
            true => "/usr/sbin/nginx",
            false => "nginx",
        };
        let child = Command::new(program)
            .arg("-p")
            .arg(folder.path())
            .args(["-c", "nginx.conf", "-e", "error.log"])
            .stdin(Stdio::null())
            .spawn()
            .expect("nginx, which `make test` installs");
        let mut nginx = Self {
            child,
            folder,
            url: format!("http://127.0.0.1:{port}"),
        };
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = nginx.child.try_wait().unwrap();
            let waits = ended.is_none() && started.elapsed() < PATIENCE;
            assert!(waits, "nginx ended: {ended:?}: {}", nginx.errors());
            std::thread::yield_now();
        }
        nginx
    }

    fn errors(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("error.log")).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address of a server without `http://`.
fn address(server: &Server) -> &str {
    let address = server.url.strip_prefix("http://").unwrap();
    address.split('/').next().unwrap()
}

/// The code blocks of the documentation in a language.
fn blocks(language: &str) -> Vec<&'static str> {
    let start = format!("```{language}\n");
    let mut blocks = DOCUMENT.split(start.as_str());
    blocks.next();
    blocks
        .map(|rest| rest.split("```").next().unwrap())
        .collect()
}

/// A block that proxies to this server, without TLS, for which a test has no certificate.
fn without_tls(block: &str, server: &Server) -> String {
    assert!(block.contains("listen 443 ssl;") && block.contains("127.0.0.1:8787"));
    let lines = block.lines();
    let lines = lines.filter(|line| !line.trim_start().starts_with("ssl_certificate"));
    let config: String = lines.map(|line| format!("{line}\n")).collect();
    config
        .replace("listen 443 ssl;", "listen 127.0.0.1:PORT;")
        .replace("127.0.0.1:8787", address(server))
}

/// Checks ingest, live events without delay, and all other routes.
fn everything_passes(url: &str) {
    let live = ureq::get(format!("{url}/api/analytics/live"))
        .config()
        .timeout_global(Some(PATIENCE))
        .build()
        .header("x-dash-key", KEY)
        .call()
        .unwrap();
    let mut lines = BufReader::new(live.into_body().into_reader()).lines();
    let mut next = |name: &str| {
        let line = format!("event: {name}");
        assert!(lines.any(|found| found.unwrap() == line), "{name}");
    };
    next("before");
    for _ in 0..3 {
        let body = batch([event("action", "u", "f")]).to_string();
        let (status, answer) = post_to(url, body.as_bytes(), &[]).unwrap();
        assert_eq!((status, &answer["logged"]), (200, &json!(1)));
        next("events");
    }
    // Larger than the body that nginx lets pass by default would not come through.
    let large = batch([json!({"event_type":"action","metadata":{"a":"x".repeat(900_000)}})]);
    let (status, answer) = post_to(url, large.to_string().as_bytes(), &[]).unwrap();
    assert_eq!(status, 200, "{answer}");
    for (path, key) in [
        ("/", ""),
        ("/demo/", ""),
        ("/static/dashboard.js", ""),
        ("/static/js/telemetry.js", ""),
        ("/health/ready", ""),
        ("/api/analytics/usage?days=1", KEY),
        ("/api/analytics/export?days=1&format=ndjson", KEY),
    ] {
        let mut answer = ureq::get(format!("{url}{path}"))
            .header("x-dash-key", key)
            .call()
            .unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        let mut bytes = Vec::new();
        answer
            .body_mut()
            .as_reader()
            .read_to_end(&mut bytes)
            .unwrap();
        assert!(!bytes.is_empty(), "{path}");
    }
    let answer = ureq::get(format!("{url}/api/analytics/usage?days=1"))
        .header("x-dash-key", KEY)
        .call()
        .unwrap();
    let usage: serde_json::Value =
        serde_json::from_reader(answer.into_body().into_reader()).unwrap();
    assert_eq!(usage["total_events"], 4);
}

/// Asks for the page at the path of a mount without its slash, and follows where it is sent.
fn the_page_is_found(url: &str) {
    let answer = ureq::get(url).call().unwrap();
    let page = answer.into_body().read_to_string().unwrap();
    assert!(
        page.contains("<html") || page.contains("<!doctype"),
        "{page}"
    );
}

#[test]
fn the_documented_nginx_passes_everything_at_a_host_of_its_own() {
    let dir = folder();
    let mut command = echopilot(dir.path());
    command.env("ECHOPILOT_TRUSTED_PROXIES", "127.0.0.1,::1");
    let server = Server::start_as(command);
    let nginx = Nginx::start(&without_tls(blocks("nginx")[0], &server));
    everything_passes(&nginx.url);
}

#[test]
fn the_documented_nginx_passes_everything_under_a_path() {
    let dir = folder();
    let mut command = echopilot(dir.path());
    command.env("ECHOPILOT_BASE_PATH", "/analytics");
    let server = Server::start_as(command);
    let nginx = Nginx::start(&without_tls(blocks("nginx")[1], &server));
    everything_passes(&format!("{}/analytics", nginx.url));
    the_page_is_found(&format!("{}/analytics", nginx.url));
}

#[test]
fn an_nginx_with_its_defaults_passes_everything_whether_it_strips_the_path_or_not() {
    for (base_path, location, target) in [
        ("/", "/", ""),
        ("/analytics", "/analytics", ""),
        ("/analytics", "/analytics/", "/"),
        ("/", "/analytics/", "/"),
    ] {
        let dir = folder();
        let mut command = echopilot(dir.path());
        command.env("ECHOPILOT_BASE_PATH", base_path);
        let server = Server::start_as(command);
        let nginx = Nginx::start(&format!(
            "server {{ listen 127.0.0.1:PORT; location {location} {{ proxy_pass http://{}{target}; }} }}",
            address(&server)
        ));
        let url = format!("{}{}", nginx.url, location.trim_end_matches('/'));
        everything_passes(&url);
        the_page_is_found(&url);
    }
}

#[test]
fn the_documentation_has_a_block_of_caddy_for_each_of_nginx() {
    assert_eq!(blocks("nginx").len(), 2);
    assert_eq!(blocks("caddyfile").len(), 2);
}
