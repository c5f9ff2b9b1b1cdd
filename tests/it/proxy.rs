//! The server behind nginx and Caddy, with the files of `deploy/`, and behind a plain nginx.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{KEY, PATIENCE, Server, batch, echopilot, event, folder, free_port, printed};

/// Largest body that the server accepts.
const MAX_BODY_BYTES: usize = 2 << 20;

/// A configuration that is delivered, and what it configures.
struct Delivered {
    name: &'static str,
    content: &'static str,
    host: &'static str,
    base_path: &'static str,
}

const NGINX: Delivered = Delivered {
    name: "nginx.conf",
    content: include_str!("../../deploy/nginx.conf"),
    host: "analytics.example",
    base_path: "/",
};
const NGINX_BASE_PATH: Delivered = Delivered {
    name: "nginx-base-path.conf",
    content: include_str!("../../deploy/nginx-base-path.conf"),
    host: "www.example",
    base_path: "/analytics",
};
const CADDY: Delivered = Delivered {
    name: "Caddyfile",
    content: include_str!("../../deploy/Caddyfile"),
    host: "analytics.example",
    base_path: "/",
};
const CADDY_BASE_PATH: Delivered = Delivered {
    name: "Caddyfile-base-path",
    content: include_str!("../../deploy/Caddyfile-base-path"),
    host: "www.example",
    base_path: "/analytics",
};

impl Delivered {
    /// The server with the settings that the file names in its head.
    fn server(&self, dir: &Path, limit_events: &str) -> Server {
        let (head, _) = self.content.split_once("\n\n").unwrap();
        let setting = |flag: &str| {
            let (_, rest) = head.split_once(flag)?;
            rest.split_whitespace().next().map(str::to_owned)
        };
        let proxies = setting("--trusted-proxies ").expect("a list of proxies");
        let base_path = setting("--base-path ").unwrap_or_else(|| "/".into());
        assert_eq!(base_path, self.base_path);
        let mut command = echopilot(dir);
        command
            .env("ECHOPILOT_TRUSTED_PROXIES", proxies)
            .env("ECHOPILOT_BASE_PATH", base_path)
            .env("ECHOPILOT_LIMIT_CLIENT_EVENTS", limit_events);
        Server::start_as(command)
    }

    /// Starts the proxy with the file as it is, except for its port, its certificate, and the
    /// address of the server.
    fn start(&self, server: &Server) -> Proxy {
        let folder = folder();
        let port = free_port();
        let host = self.host;
        let certificate = folder.path().join("certificate.pem");
        let key = folder.path().join("certificate.key");
        printed(
            Command::new("openssl")
                .args(["req", "-x509", "-nodes", "-newkey", "ec", "-days", "2"])
                .args(["-pkeyopt", "ec_paramgen_curve:prime256v1"])
                .args(["-subj", &format!("/CN={host}")])
                .args(["-addext", &format!("subjectAltName=DNS:{host}")])
                .arg("-keyout")
                .arg(&key)
                .arg("-out")
                .arg(&certificate)
                .stderr(Stdio::null()),
        );
        let mut content = self.content.to_owned();
        let mut replace = |old: &str, new: &str| {
            assert_eq!(content.matches(old).count(), 1, "{old:?} in {}", self.name);
            content = content.replace(old, new);
        };
        let [certificate, key] = [certificate, key].map(|path| path.display().to_string());
        replace("127.0.0.1:8787", address(server));
        let command = if self.name.starts_with("nginx") {
            replace("listen 443 ssl;", &format!("listen 127.0.0.1:{port} ssl;"));
            replace(&format!("/etc/ssl/{host}.pem"), &certificate);
            replace(&format!("/etc/ssl/{host}.key"), &key);
            nginx(folder.path(), &content)
        } else {
            let site = format!(
                "\nhttps://{host}:{port} {{\n\tbind 127.0.0.1\n\ttls {certificate} {key}\n"
            );
            replace(&format!("\n{host} {{\n"), &site);
            caddy(folder.path(), &content)
        };
        let mut proxy = Proxy::start(command, folder, port);
        proxy.client = Client {
            url: format!(
                "https://{host}:{port}{}",
                self.base_path.trim_end_matches('/')
            ),
            options: vec![
                "--cacert".into(),
                certificate,
                "--resolve".into(),
                format!("{host}:{port}:127.0.0.1"),
            ],
        };
        proxy
    }
}

/// The address of a server without `http://`.
fn address(server: &Server) -> &str {
    let address = server.url.strip_prefix("http://").unwrap();
    address.split('/').next().unwrap()
}

/// An nginx with this content of its block `http`.
fn nginx(folder: &Path, content: &str) -> Command {
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {kind};\n"))
        .concat();
    let whole = format!(
        "daemon off;\nmaster_process off;\npid nginx.pid;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}{content}\n}}\n"
    );
    std::fs::write(folder.join("nginx.conf"), whole).unwrap();
    let program = match Path::new("/usr/sbin/nginx").exists() {
        true => "/usr/sbin/nginx",
        false => "nginx",
    };
    let mut command = Command::new(program);
    command
        .arg("-p")
        .arg(folder)
        .args(["-c", "nginx.conf", "-e", "errors"]);
    command
}

/// A Caddy that keeps everything in a folder and requests no certificates.
fn caddy(folder: &Path, content: &str) -> Command {
    let path = folder.join("Caddyfile");
    let options = "{\n\tadmin off\n\tauto_https off\n}\n";
    std::fs::write(&path, format!("{options}{content}")).unwrap();
    let errors = std::fs::File::create(folder.join("errors")).unwrap();
    let mut command = Command::new("caddy");
    command
        .args(["run", "--adapter", "caddyfile", "--config"])
        .arg(&path)
        .envs(["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"].map(|name| (name, folder)))
        .stderr(errors);
    command
}

/// A running proxy; ended when dropped.
struct Proxy {
    child: Child,
    _folder: TempDir,
    client: Client,
}

impl Proxy {
    /// Waits until it listens.
    fn start(mut command: Command, folder: TempDir, port: u16) -> Self {
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}, which `make test` installs: {error}"));
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = child.try_wait().unwrap();
            let waits = ended.is_none() && started.elapsed() < PATIENCE;
            let errors = std::fs::read_to_string(folder.path().join("errors"));
            assert!(waits, "{program} ended: {ended:?}: {errors:?}");
            std::thread::yield_now();
        }
        let client = Client {
            url: format!("http://127.0.0.1:{port}"),
            options: Vec::new(),
        };
        Self {
            child,
            _folder: folder,
            client,
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Requests to one URL by curl, which has TLS.
struct Client {
    url: String,
    options: Vec<String>,
}

impl Client {
    fn curl(&self, path: &str, options: &[&str]) -> Command {
        let patience = PATIENCE.as_secs().to_string();
        let mut command = Command::new("curl");
        command
            .args(["--disable", "--silent", "--show-error", "--no-buffer"])
            .args(["--max-time", &patience])
            .args(&self.options)
            .args(options)
            .arg(format!("{}{path}", self.url))
            .env_remove("https_proxy")
            .env_remove("http_proxy")
            .env_remove("all_proxy")
            .env_remove("HTTPS_PROXY")
            .env_remove("ALL_PROXY");
        command
    }

    /// Sends a request; returns status and body.
    fn ask(&self, path: &str, options: &[&str]) -> (u16, Vec<u8>) {
        let status = ["--write-out", "%{stderr}%{http_code}"];
        let done = self
            .curl(path, &[&status, options].concat())
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{path}: {told}");
        (told.parse().expect("a status"), done.stdout)
    }

    /// Sends a body to the ingest route.
    fn post(&self, body: &[u8], options: &[&str]) -> (u16, Value) {
        let file = folder();
        let path = file.path().join("body");
        std::fs::write(&path, body).unwrap();
        let body = format!("@{}", path.display());
        let send = [
            "--header",
            "Content-Type: application/json",
            "--data-binary",
            &body,
        ];
        let (status, answer) = self.ask("/api/analytics/event", &[&send, options].concat());
        let answer = serde_json::from_slice(&answer).unwrap_or(Value::Null);
        (status, answer)
    }
}

/// A connection to the live events; ended when dropped.
struct Live(Child);

impl Drop for Live {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A batch of so many bytes.
fn body_of(bytes: usize) -> Vec<u8> {
    // One event has no more metadata than 16 KB.
    let filler = "x".repeat(bytes / 100 - 200);
    let events = (0..100).map(|number| {
        json!({"event_type":"action","user_id":format!("u{number}"),"metadata":{"a":filler}})
    });
    let mut body = batch(events).to_string().into_bytes();
    assert!(body.len() <= bytes);
    body.resize(bytes, b' ');
    body
}

/// Checks ingest, live events without delay, bodies up to a size, and all other routes.
fn everything_passes(client: &Client, largest_body: usize) {
    let key = format!("X-Dash-Key: {KEY}");
    let with_key = ["--header", key.as_str()];
    let mut live = Live(
        client
            .curl("/api/analytics/live", &with_key)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut lines = BufReader::new(live.0.stdout.take().unwrap()).lines();
    let mut next = |name: &str| {
        let line = format!("event: {name}");
        assert!(lines.any(|found| found.unwrap() == line), "{name}");
    };
    next("before");
    // Each event arrives before the next one is sent: nothing collects them.
    for _ in 0..3 {
        let body = batch([event("action", "u", "f")]).to_string();
        let (status, answer) = client.post(body.as_bytes(), &[]);
        assert_eq!((status, &answer["logged"]), (200, &json!(1)));
        next("events");
    }
    let (status, answer) = client.post(&body_of(largest_body), &[]);
    assert_eq!((status, &answer["logged"]), (200, &json!(100)), "{answer}");
    let (status, _) = client.post(&body_of(MAX_BODY_BYTES + 1), &[]);
    assert_eq!(status, 413);
    for path in [
        "/",
        "/demo/",
        "/static/dashboard.js",
        "/static/js/telemetry.js",
        "/health/ready",
        "/api/analytics/usage?days=1",
        "/api/analytics/export?days=1&format=ndjson",
    ] {
        let is_private = path.starts_with("/api");
        let (status, body) = client.ask(path, if is_private { &with_key } else { &[] });
        assert_eq!(status, 200, "{path}");
        assert!(!body.is_empty(), "{path}");
    }
    let (_, usage) = client.ask("/api/analytics/usage?days=1", &with_key);
    let usage: Value = serde_json::from_slice(&usage).unwrap();
    assert_eq!(usage["total_events"], 103);
}

/// Asks for the page at the path of a mount without its slash, and follows where it is sent.
fn the_page_is_found(client: &Client) {
    let (status, page) = client.ask("", &["--location"]);
    let page = String::from_utf8(page).unwrap();
    assert!(
        status == 200 && (page.contains("<html") || page.contains("<!doctype")),
        "{status}: {page}"
    );
}

fn the_delivered_file_passes_everything(delivered: &Delivered) {
    let dir = folder();
    let server = delivered.server(dir.path(), "0");
    let proxy = delivered.start(&server);
    everything_passes(&proxy.client, MAX_BODY_BYTES);
    the_page_is_found(&proxy.client);
}

#[test]
fn nginx_passes_everything_at_a_host_of_its_own() {
    the_delivered_file_passes_everything(&NGINX);
}

#[test]
fn nginx_passes_everything_under_a_path() {
    the_delivered_file_passes_everything(&NGINX_BASE_PATH);
}

#[test]
fn caddy_passes_everything_at_a_host_of_its_own() {
    the_delivered_file_passes_everything(&CADDY);
}

#[test]
fn caddy_passes_everything_under_a_path() {
    the_delivered_file_passes_everything(&CADDY_BASE_PATH);
}

#[test]
fn limits_apply_to_the_client_in_front_of_the_proxy() {
    // A hundred events at once, and ten seconds until the next hundred.
    let body = batch((0..100).map(|_| event("action", "u", "f"))).to_string();
    for delivered in [NGINX, NGINX_BASE_PATH, CADDY, CADDY_BASE_PATH] {
        let dir = folder();
        let server = delivered.server(dir.path(), "10");
        let proxy = delivered.start(&server);
        let from = |address: &str, headers: &[&str]| {
            let options = ["--interface", address]
                .into_iter()
                .chain(headers.iter().flat_map(|header| ["--header", *header]));
            let options: Vec<&str> = options.collect();
            let (status, answer) = proxy.client.post(body.as_bytes(), &options);
            (
                status,
                answer["error"].as_str().unwrap_or_default().to_owned(),
            )
        };
        let name = delivered.name;
        assert_eq!(from("127.0.0.2", &[]).0, 200, "{name}");
        let limited = (429, "too_many_events_a_second".to_owned());
        assert_eq!(from("127.0.0.2", &[]), limited, "{name}");
        for forged in [
            "X-Forwarded-For: 192.0.2.7",
            "X-Forwarded-For: 127.0.0.1",
            "X-Forwarded-For: 192.0.2.7, ::1, 127.0.0.1",
            "X-Real-IP: 192.0.2.7",
            "Forwarded: for=192.0.2.7",
        ] {
            assert_eq!(from("127.0.0.2", &[forged]), limited, "{name}: {forged}");
        }
        assert_eq!(from("127.0.0.3", &[]).0, 200, "{name}");
    }
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
        let config = folder();
        let port = free_port();
        let command = nginx(
            config.path(),
            &format!(
                "server {{ listen 127.0.0.1:{port}; location {location} {{ proxy_pass http://{}{target}; }} }}",
                address(&server)
            ),
        );
        let mut proxy = Proxy::start(command, config, port);
        let path = location.trim_end_matches('/');
        proxy.client.url.push_str(path);
        // The default limit of nginx.
        everything_passes(&proxy.client, 1 << 20);
        the_page_is_found(&proxy.client);
    }
}

#[test]
fn the_documentation_names_each_configuration() {
    let document = include_str!("../../docs/operations.md");
    for delivered in [NGINX, NGINX_BASE_PATH, CADDY, CADDY_BASE_PATH] {
        let link = format!("](../deploy/{})", delivered.name);
        assert!(document.contains(&link), "{link}");
    }
}
