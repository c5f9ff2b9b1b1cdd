//! Limits of the public interface: requests of unknown clients, how much of the server they can
//! use, and shutdown.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{
    Answer, KEY, PATIENCE, Server, batch, echopilot, engine, event, folder, post_to, run_json,
    unsealed_demo,
};

/// Most memory of a server whose clients do not read.
const MOST_MB: u64 = 150;

/// A server with these settings.
fn serve(data: &Path, settings: &[(&str, &str)]) -> Server {
    let mut command = echopilot(data);
    for (name, value) in settings {
        command.env(format!("ECHOPILOT_{name}"), value);
    }
    Server::start_as(command)
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.url.trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends bytes and reads until the server closes the connection.
fn exchange(server: &Server, bytes: &[u8]) -> String {
    let mut stream = connect(server);
    // A server that has seen enough does not read the rest.
    let _ = stream.write_all(bytes);
    read_all(&mut stream)
}

fn read_all(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset ends it too; what came before counts.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status and the error code of an error response, which must have the common shape.
fn error_response(response: &str) -> (u16, String) {
    let (head, body) = response.split_once("\r\n\r\n").expect(response);
    let body: Value = serde_json::from_str(body).expect(response);
    assert_eq!(body["ok"], false, "{response}");
    assert!(!body["message"].as_str().unwrap().is_empty(), "{response}");
    let head = head.to_ascii_lowercase();
    assert!(head.contains("content-type: application/json"), "{head}");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    assert_eq!(
        matches!(status, 429 | 503 | 507),
        head.contains("retry-after: "),
        "{head}"
    );
    (status, body["error"].as_str().unwrap().to_owned())
}

/// Repeats a check until it holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// A limit in the status: its value, how much is used, and how often it was reached.
pub fn limit(server: &Server, name: &str) -> (u64, u64, u64) {
    let (status, body) = server.get("/api/analytics/status");
    assert_eq!(status, 200, "{body}");
    let limits = body["limits"].as_array().unwrap();
    let limit = limits.iter().find(|limit| limit["name"] == name);
    let limit = limit.unwrap_or_else(|| panic!("{name}: {body}"));
    let number = |field: &str| limit[field].as_u64().unwrap();
    (number("limit"), number("used"), number("reached"))
}

fn post_as(server: &Server, client: &str, events: &Value) -> Answer {
    let headers = [("x-forwarded-for", client)];
    server.post_raw(events.to_string().as_bytes(), &headers)
}

/// Returns true if the server stores an event now; it may reject the connection.
fn is_stored(server: &Server) -> bool {
    let body = events(1).to_string();
    matches!(post_to(&server.url, body.as_bytes(), &[]), Ok((200, _)))
}

fn events(count: usize) -> Value {
    batch((0..count).map(|number| event("action", &format!("u{number}"), "f")))
}

/// Sends requests on many connections without reading, until the server accepts nothing more.
fn flood(server: &Server, connections: usize, requests: &[u8]) -> Vec<TcpStream> {
    let mut open: Vec<(TcpStream, &[u8])> = (0..connections)
        .map(|_| {
            let stream = connect(server);
            stream.set_nonblocking(true).unwrap();
            (stream, requests)
        })
        .collect();
    let mut last = Instant::now();
    // A second without progress: all buffers are full.
    while last.elapsed() < Duration::from_secs(1) {
        for (stream, rest) in &mut open {
            match stream.write(rest) {
                Ok(0) => {}
                Ok(sent) => {
                    *rest = &rest[sent..];
                    last = Instant::now();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => *rest = &[],
            }
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    open.into_iter().map(|(stream, _)| stream).collect()
}

#[test]
fn clients_that_send_requests_and_read_nothing_take_little_memory() {
    let keyed =
        format!("GET /api/analytics/status HTTP/1.1\r\nHost: x\r\nX-Dash-Key: {KEY}\r\n\r\n");
    let body = events(1).to_string();
    let requests = [
        "GET /static/charts-core.js HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        // Its response has no body and is ready before the body of the request is read.
        "HEAD /static/charts-core.js HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx".to_owned(),
        "GET /static/dashboard.js HTTP/1.1\r\nHost: x\r\nIf-None-Match: *\r\n\r\n".to_owned(),
        "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        keyed,
        format!(
            "POST /api/analytics/event HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ),
    ];
    let only = |request: &String| request.repeat(700);
    let mixed = requests.concat().repeat(120);
    for flooded in [only(&requests[0]), only(&requests[1]).repeat(30), mixed] {
        let dir = folder();
        let server = serve(dir.path(), &[]);
        let open = flood(&server, 200, flooded.as_bytes());
        let asked = Instant::now();
        assert_eq!(server.get_with("/health/live", &[]).0, 200);
        // A busy machine is slow; a server that copies responses into memory never responds.
        assert!(asked.elapsed() < Duration::from_secs(30));
        assert!(server.peak_mb() < MOST_MB, "{} MB", server.peak_mb());
        drop(open);
    }
}

#[test]
fn an_unread_response_closes_its_connection() {
    let dir = folder();
    let server = serve(dir.path(), &[("WRITE_TIMEOUT_MS", "4000")]);
    let requests = "GET /static/charts-core.js HTTP/1.1\r\nHost: x\r\n\r\n".repeat(700);
    let _open = flood(&server, 5, requests.as_bytes());
    until("the connections end", || {
        limit(&server, "connections").1 == 1
    });
    // A client that reads slowly, but reads, keeps its connection.
    let mut slow = connect(&server);
    slow.write_all(requests.as_bytes()).unwrap();
    let mut buffer = [0; 64 << 10];
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(6_000) {
        slow.read_exact(&mut buffer).unwrap();
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

#[test]
fn an_export_waits_for_its_reader_and_ends_without_one() {
    let dir = folder();
    unsealed_demo(dir.path(), 500_000, 1, 1);
    // As lines they are 176 MB, more than the server may become.
    run_json(dir.path(), &["seal"]);
    for format in ["ndjson", "csv", "arrow", "parquet"] {
        let server = serve(dir.path(), &[("WRITE_TIMEOUT_MS", "2000")]);
        let request = format!(
            "GET /api/analytics/export?days=3&format={format} HTTP/1.1\r\nHost: x\r\nX-Dash-Key: {KEY}\r\n\r\n"
        );
        let mut reader = connect(&server);
        reader.write_all(request.as_bytes()).unwrap();
        let mut start = [0; 4096];
        reader.read_exact(&mut start).unwrap();
        assert!(start.starts_with(b"HTTP/1.1 200"));
        // It does not read on.
        until("the export ends", || limit(&server, "exports").1 == 0);
        // One that leaves.
        let mut reader = connect(&server);
        reader.write_all(request.as_bytes()).unwrap();
        reader.read_exact(&mut start).unwrap();
        drop(reader);
        let left = Instant::now();
        until("the export ends", || limit(&server, "exports").1 == 0);
        assert!(left.elapsed() < Duration::from_secs(40), "{format}");
        assert!(
            server.peak_mb() < MOST_MB,
            "{format}: {} MB",
            server.peak_mb()
        );
    }
}

#[test]
fn rejected_heads_get_the_common_error_response() {
    let dir = folder();
    let server = serve(dir.path(), &[]);
    let live = "GET /health/live HTTP/1.1\r\nHost: x\r\n";
    let post = "POST /api/analytics/event HTTP/1.1\r\nHost: x\r\n";
    let long = "x".repeat(60_000);
    let many: String = (0..65).map(|n| format!("a{n}: b\r\n")).collect();
    for (request, status, code) in [
        (format!("{live}{many}\r\n"), 431, "head_too_large"),
        (format!("{live}a: {long}\r\n\r\n"), 431, "head_too_large"),
        (
            format!("{live}a: {}\r\n\r\n", "x".repeat(1 << 20)),
            431,
            "head_too_large",
        ),
        (
            format!("{live}a: {}\r\n\r\n", "x".repeat(33 << 10)),
            431,
            "head_too_large",
        ),
        (
            format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n"),
            414,
            "uri_too_long",
        ),
        (
            format!("GET /?{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(17 << 10)),
            414,
            "uri_too_long",
        ),
        (
            format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(1 << 20)),
            414,
            "uri_too_long",
        ),
        (
            "GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n".into(),
            400,
            "bad_request",
        ),
        ("\x16\x03\x01\x02\0\x01\0\x01\n".into(), 400, "bad_request"),
        (
            "GET / HTTP/3.0\r\nHost: x\r\n\r\n".into(),
            400,
            "bad_request",
        ),
        (
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(),
            400,
            "bad_request",
        ),
        (format!("{live}a b: c\r\n\r\n"), 400, "bad_request"),
        (format!("{live}a: \u{1}\r\n\r\n"), 400, "bad_request"),
        (
            format!("{post}Content-Length: 5\r\nContent-Length: 6\r\n\r\n"),
            400,
            "bad_request",
        ),
        (
            format!("{post}Content-Length: 99999999999999999999\r\n\r\n"),
            400,
            "bad_request",
        ),
        (
            format!("{post}Transfer-Encoding: gzip\r\n\r\n"),
            400,
            "bad_request",
        ),
        (
            format!(
                "{post}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
            400,
            "bad_transfer_encoding",
        ),
        (
            format!("{post}Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
            400,
            "bad_transfer_encoding",
        ),
        (
            format!("{post}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
            400,
            "bad_body",
        ),
        ("GET /health/live HTTP/1.1\r\n\r\n".into(), 400, "bad_host"),
        (
            "GET /health/live HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n".into(),
            400,
            "bad_host",
        ),
        (
            "GET /health/live HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n".into(),
            400,
            "bad_host",
        ),
        (
            format!(
                "{post}Connection: close\r\nContent-Length: 3000000\r\n\r\n{}",
                "x".repeat(3_000_000)
            ),
            413,
            "too_large",
        ),
    ] {
        let what: String = request.chars().take(90).collect();
        let response = exchange(&server, request.as_bytes());
        assert_eq!(error_response(&response), (status, code.into()), "{what}");
    }
    let old = "GET /health/live HTTP/1.0\r\n\r\n";
    assert!(exchange(&server, old.as_bytes()).starts_with("HTTP/1.0 200"));
    // Behind another response, so that the client sees both.
    let two = exchange(
        &server,
        format!("{live}\r\nGET /{long} HTTP/1.1\r\n\r\n").as_bytes(),
    );
    assert!(
        two.starts_with("HTTP/1.1 200") && two.contains("HTTP/1.1 414"),
        "{two}"
    );
}

#[test]
fn every_route_rejects_in_the_common_shape() {
    let dir = folder();
    let server = serve(dir.path(), &[]);
    for (method, path, status, code) in [
        ("GET", "/api/analytics/users/%ff/events", 400, "bad_path"),
        ("DELETE", "/api/analytics/users/%ff", 400, "bad_path"),
        ("DELETE", "/api/analytics/cohorts/%c3%28", 400, "bad_path"),
        ("GET", "/demo/api/analytics/%ff", 404, "not_found"),
        ("GET", "/api/analytics/usage?days=%ff", 400, "bad_days"),
        ("GET", "/api/analytics/usage?%ff=1", 400, "bad_query"),
        ("GET", "/api/analytics/export?format=%ff", 400, "bad_format"),
        ("GET", "/%zz", 404, "not_found"),
        ("GET", "/%ff", 404, "not_found"),
        ("OPTIONS", "*", 404, "not_found"),
        ("CONNECT", "x:80", 404, "not_found"),
        ("GET", "http://x/nothing", 404, "not_found"),
        ("OPTIONS", "/api/analytics/usage", 405, "method_not_allowed"),
        ("BREW", "/health/live", 405, "method_not_allowed"),
        ("PUT", "/static/charts-core.js", 405, "method_not_allowed"),
        ("PUT", "/static/js/telemetry.js", 405, "method_not_allowed"),
        ("POST", "/", 405, "method_not_allowed"),
        ("POST", "/demo", 405, "method_not_allowed"),
        ("PUT", "/api/analytics/event", 405, "method_not_allowed"),
        ("PUT", "/echo", 405, "method_not_allowed"),
    ] {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Dash-Key: {KEY}\r\n\r\n"
        );
        let response = exchange(&server, request.as_bytes());
        assert_eq!(
            error_response(&response),
            (status, code.into()),
            "{method} {path}"
        );
    }
}

#[test]
fn an_incomplete_head_gets_a_response_and_silence_does_not() {
    let dir = folder();
    let server = serve(dir.path(), &[]);
    let live = "GET /health/live HTTP/1.1\r\nHost: x\r\n";
    let mut half = connect(&server);
    half.write_all(live.as_bytes()).unwrap();
    let mut second = connect(&server);
    second
        .write_all(format!("{live}\r\nGET /").as_bytes())
        .unwrap();
    let mut idle = connect(&server);
    idle.write_all(format!("{live}\r\n").as_bytes()).unwrap();
    let mut silent = connect(&server);
    assert_eq!(
        error_response(&read_all(&mut half)),
        (408, "slow_head".into())
    );
    let second = read_all(&mut second);
    assert!(second.starts_with("HTTP/1.1 200"), "{second}");
    assert_eq!(
        error_response(&second[second.find("HTTP/1.1 408").unwrap()..]).0,
        408
    );
    let idle = read_all(&mut idle);
    assert!(
        idle.starts_with("HTTP/1.1 200") && idle.matches("HTTP/1.1").count() == 1,
        "{idle}"
    );
    assert_eq!(read_all(&mut silent), "");
    // One that ends in the middle is told so.
    let mut cut = connect(&server);
    cut.write_all(live.as_bytes()).unwrap();
    cut.shutdown(Shutdown::Write).unwrap();
    assert_eq!(
        error_response(&read_all(&mut cut)),
        (400, "bad_request".into())
    );
}

#[test]
fn events_of_a_client_that_has_shut_down_its_side_are_stored() {
    let dir = folder();
    let server = serve(dir.path(), &[]);
    let body = events(1).to_string();
    let request = |length: usize| {
        format!("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    for _ in 0..20 {
        let mut stream = connect(&server);
        stream.write_all(request(body.len()).as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let answer = read_all(&mut stream);
        assert!(answer.contains("\"logged\":1"), "{answer}");
    }
    let mut stream = connect(&server);
    stream
        .write_all(request(body.len() + 1).as_bytes())
        .unwrap();
    let asked = Instant::now();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(
        error_response(&read_all(&mut stream)),
        (400, "bad_body".into())
    );
    assert!(asked.elapsed() < Duration::from_secs(10));
}

#[test]
fn thousands_of_idle_connections_do_not_block_others() {
    // The client side of each connection is a descriptor of this process.
    let allowed = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1_024);
    let many = (allowed.saturating_sub(300) / 2).min(3_000) as usize;
    let dir = folder();
    let server = serve(dir.path(), &[("LIMIT_CLIENT_CONNECTIONS", "0")]);
    let idle: Vec<TcpStream> = (0..many).map(|_| connect(&server)).collect();
    until("all are accepted", || {
        limit(&server, "connections").1 > many as u64 / 2
    });
    let asked = Instant::now();
    assert_eq!(server.post(&events(10)).0, 200);
    assert!(asked.elapsed() < Duration::from_secs(30));
    assert!(server.peak_mb() < MOST_MB, "{} MB", server.peak_mb());
    drop(idle);
}

#[test]
fn at_the_limit_idle_connections_are_closed_or_new_ones_rejected() {
    let dir = folder();
    let server = serve(dir.path(), &[("LIMIT_CONNECTIONS", "10")]);
    let mut idle: Vec<TcpStream> = (0..10).map(|_| connect(&server)).collect();
    // One that has just come is not ended for another; and none would end by itself for seconds.
    let asked = Instant::now();
    until("the oldest may go", || is_stored(&server));
    for _ in 0..20 {
        until("a connection is accepted", || is_stored(&server));
    }
    assert!(limit(&server, "connections").2 >= 1);
    assert!(asked.elapsed() < Duration::from_secs(8));
    // The oldest ended, without a byte.
    assert_eq!(read_all(&mut idle[0]), "");
    drop(idle);
    until("they are gone", || limit(&server, "connections").1 == 1);
    let busy: Vec<TcpStream> = (0..10)
        .map(|_| {
            let mut stream = connect(&server);
            stream
                .write_all(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
                .unwrap();
            stream
        })
        .collect();
    until("a client is rejected", || {
        let answer = exchange(
            &server,
            b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        );
        !answer.starts_with("HTTP/1.1 200") && error_response(&answer) == (503, "busy".into())
    });
    drop(busy);
    until("connections are accepted again", || is_stored(&server));
}

#[test]
fn connections_of_a_client_are_limited_and_those_of_a_proxy_are_not() {
    let dir = folder();
    let limits = [
        ("LIMIT_CLIENT_CONNECTIONS", "5"),
        ("TRUSTED_PROXIES", "10.0.0.0/8"),
    ];
    let server = serve(dir.path(), &limits);
    let open: Vec<TcpStream> = (0..5).map(|_| connect(&server)).collect();
    let answer = exchange(&server, b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(
        error_response(&answer),
        (429, "too_many_connections".into())
    );
    drop(open);
    until("connections are accepted again", || {
        exchange(&server, b"GET /health/live HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 200")
    });
    assert!(limit(&server, "client_connections").2 >= 1);
    drop(server);
    let limits = [
        ("LIMIT_CLIENT_CONNECTIONS", "5"),
        ("TRUSTED_PROXIES", "127.0.0.0/8,::1"),
    ];
    let server = serve(dir.path(), &limits);
    let _open: Vec<TcpStream> = (0..50).map(|_| connect(&server)).collect();
    assert_eq!(server.get_with("/health/live", &[]).0, 200);
}

#[test]
fn fewer_descriptors_mean_fewer_connections_and_a_warning() {
    let dir = folder();
    let program = echopilot(dir.path());
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -n 128 && exec \"$0\" \"$@\""])
        .arg(program.get_program());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let mut server = Server::start_as(command);
    server.wait_for("At most 64 connections instead of 10000");
    let _open: Vec<TcpStream> = (0..200).map(|_| connect(&server)).collect();
    for _ in 0..10 {
        until("a connection is accepted", || is_stored(&server));
    }
    assert_eq!(limit(&server, "connections").0, 64);
    let traced = server.kill();
    assert!(!traced.contains("Cannot accept"), "{traced}");
}

#[test]
fn events_beyond_the_rate_of_a_client_are_rejected() {
    let dir = folder();
    let limits = [
        ("LIMIT_CLIENT_EVENTS", "10"),
        ("TRUSTED_PROXIES", "127.0.0.1/32"),
    ];
    let server = serve(dir.path(), &limits);
    let twice =
        batch((0..50).map(|_| json!({"event_type":"action","user_id":"u","event_id":"one"})));
    // Duplicates and rejected events count, too: a burst is that of ten seconds.
    assert_eq!(post_as(&server, "192.0.2.1", &twice).1["duplicates"], 49);
    assert_eq!(post_as(&server, "192.0.2.1", &events(50)).0, 200);
    // In nine seconds there will be enough again.
    let (status, body) = post_as(&server, "192.0.2.1", &events(95));
    assert_eq!(
        (status, &body["error"]),
        (429, &json!("too_many_events_a_second")),
        "{body}"
    );
    // The client names whom it wants; the last address is the one that the proxy saw.
    let (status, _) = post_as(&server, "198.51.100.9, 192.0.2.1", &events(95));
    assert_eq!(status, 429);
    for client in [
        "192.0.2.2",
        "192.0.2.1, 192.0.2.3",
        "2001:db8:1::1",
        "2001:db8:2::1",
    ] {
        assert_eq!(post_as(&server, client, &events(100)).0, 200, "{client}");
    }
    // The same /64.
    assert_eq!(post_as(&server, "2001:db8:2::2", &events(100)).0, 429);
    assert_eq!(server.usage("?days=1")["total_events"], 451);
    let (value, used, reached) = limit(&server, "client_events");
    assert!((value, reached) == (10, 3) && used > 50, "{used} {reached}");
    // A page of another site can read when to come back.
    let body = events(95).to_string();
    let answer = exchange(
        &server,
        format!(
            "POST /echo HTTP/1.1\r\nHost: x\r\nOrigin: https://a.example\r\nX-Forwarded-For: 192.0.2.1\r\n\
             Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .as_bytes(),
    );
    assert_eq!(error_response(&answer).0, 429);
    let answer = answer.to_ascii_lowercase();
    assert!(
        answer.contains("access-control-allow-origin: https://a.example"),
        "{answer}"
    );
    assert!(
        answer.contains("access-control-expose-headers: retry-after"),
        "{answer}"
    );
    // After a while it may send again.
    until("the client may send", || {
        post_as(&server, "192.0.2.1", &events(1)).0 == 200
    });
}

#[test]
fn forwarded_addresses_of_unknown_peers_are_ignored() {
    let dir = folder();
    let server = serve(dir.path(), &[("LIMIT_CLIENT_EVENTS", "10")]);
    assert_eq!(post_as(&server, "192.0.2.1", &events(100)).0, 200);
    assert_eq!(post_as(&server, "192.0.2.2", &events(100)).0, 429);
}

#[test]
fn the_bodies_of_a_client_are_limited() {
    let dir = folder();
    let limits = [
        ("LIMIT_CLIENT_KIB", "64"),
        ("TRUSTED_PROXIES", "127.0.0.1/32"),
    ];
    let server = serve(dir.path(), &limits);
    let padded = |bytes: usize| format!("{:bytes$}", events(1).to_string());
    let mut half = connect(&server);
    half.write_all(b"POST /echo HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.1\r\nContent-Length: 99999\r\n\r\n")
        .unwrap();
    half.write_all(padded(60 << 10).as_bytes()).unwrap();
    until("it has arrived", || limit(&server, "client_kib").1 >= 60);
    let post =
        |client, bytes| server.post_raw(padded(bytes).as_bytes(), &[("x-forwarded-for", client)]);
    let (status, body) = post("192.0.2.1", 20 << 10);
    assert_eq!(
        (status, &body["error"]),
        (429, &json!("too_many_bytes")),
        "{body}"
    );
    assert_eq!(post("192.0.2.1", 100).0, 200);
    assert_eq!(post("192.0.2.2", 60 << 10).0, 200);
    assert_eq!(limit(&server, "client_kib").2, 1);
    drop(half);
    until("its quota is free", || limit(&server, "client_kib").1 == 0);
    assert_eq!(post("192.0.2.1", 20 << 10).0, 200);
}

#[test]
fn wrong_keys_are_limited_counted_and_never_traced() {
    let dir = folder();
    let limits = [
        ("LIMIT_WRONG_KEYS", "30"),
        ("TRUSTED_PROXIES", "127.0.0.1/32"),
    ];
    let mut server = serve(dir.path(), &limits);
    let ask = |server: &Server, client, key| {
        server.get_with(
            "/api/analytics/status",
            &[("x-forwarded-for", client), ("x-dash-key", key)],
        )
    };
    let mut rejected = 0;
    let mut reject = || {
        while ask(&server, "192.0.2.1", "not-the-key-of-this-server").0 == 401 {
            rejected += 1;
            assert!(rejected < 1_000, "wrong keys are not slowed");
        }
    };
    // Also the right one, so that it cannot be guessed. Every two seconds one more is allowed.
    until("the right key is rejected", || {
        reject();
        let (status, body) = ask(&server, "192.0.2.1", KEY);
        status == 429 && body["error"] == "too_many_wrong_keys"
    });
    let question = json!({"metric":"event_types"});
    let headers = [("x-forwarded-for", "192.0.2.1"), ("x-dash-key", KEY)];
    until("also for a query", || {
        reject();
        let answer = server.ask_with("/api/analytics/query", &question, &headers);
        answer.0 == 429
    });
    assert!(rejected >= 30, "{rejected}");
    // Others are not slowed, and events need no key.
    let (status, body) = ask(&server, "192.0.2.2", KEY);
    assert_eq!((status, &body["wrong_keys"]), (200, &json!(rejected)));
    assert_eq!(post_as(&server, "192.0.2.1", &events(1)).0, 200);
    let (value, _, reached) = limit(&server, "wrong_keys");
    assert!(value == 30 && reached >= 2);
    until("the client may ask again", || {
        ask(&server, "192.0.2.1", KEY).0 == 200
    });
    server.wait_for("with a wrong dashboard key");
    let traced = server.kill();
    assert_eq!(
        traced.matches("with a wrong dashboard key").count(),
        1,
        "{traced}"
    );
    for secret in ["not-the-key-of-this-server", KEY, "192.0.2", "127.0.0.1 "] {
        assert!(!traced.contains(secret), "{secret}: {traced}");
    }
}

#[test]
fn events_come_only_from_pages_of_listed_origins() {
    let dir = folder();
    let server = serve(
        dir.path(),
        &[("ORIGINS", "https://a.example,https://b.example:8443")],
    );
    let send = |method: &str, origin: &str| {
        let body = if method == "POST" {
            events(1).to_string()
        } else {
            String::new()
        };
        let origin = match origin {
            "" => String::new(),
            origin => format!("Origin: {origin}\r\n"),
        };
        let request = format!(
            "{method} /api/analytics/event HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{origin}\
             Access-Control-Request-Method: POST\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        exchange(&server, request.as_bytes()).to_ascii_lowercase()
    };
    for origin in ["https://a.example", "https://b.example:8443"] {
        for method in ["POST", "OPTIONS"] {
            let answer = send(method, origin);
            assert!(answer.starts_with("http/1.1 200"), "{answer}");
            assert!(
                answer.contains(&format!("access-control-allow-origin: {origin}\r\n")),
                "{answer}"
            );
            assert!(answer.contains("vary: origin"), "{answer}");
        }
    }
    for origin in [
        "https://evil.example",
        "null",
        "https://a.example.evil.example",
        "http://a.example",
    ] {
        let answer = send("POST", origin);
        assert_eq!(
            error_response(&answer),
            (403, "origin_not_allowed".into()),
            "{origin}"
        );
        assert!(!answer.contains("access-control-allow-origin"), "{answer}");
        assert!(
            !send("OPTIONS", origin).contains("access-control-allow-origin"),
            "{origin}"
        );
    }
    // Other clients send no origin.
    assert!(send("POST", "").starts_with("http/1.1 200"));
    assert_eq!(server.usage("?days=1")["total_events"], 3);
    assert_eq!(limit(&server, "origins"), (2, 2, 4));
}

#[test]
fn every_limit_is_in_the_status() {
    let dir = folder();
    let server = serve(dir.path(), &[]);
    for (name, value) in [
        ("connections", 10_000),
        ("client_connections", 1_000),
        ("client_kib", 32_768),
        ("client_events", 10_000),
        ("wrong_keys", 20),
        ("clients", 100_000),
        ("bodies_kib", 262_144),
        ("queries", 4),
        ("state_queries", 4),
        ("exports", 2),
        ("accesses", 2),
        ("jobs", 2),
    ] {
        let (limit, _, reached) = limit(&server, name);
        // A machine with few descriptors allows fewer connections.
        assert!(limit == value || name == "connections", "{name}: {limit}");
        assert_eq!(reached, 0, "{name}");
    }
}

#[test]
fn a_weak_key_is_rejected_with_its_reason_and_never_shown() {
    let dir = folder();
    let file = dir.path().join("key");
    for weak in [
        "password12345678",
        "aaaaaaaaaaaaaaaaaaaa",
        "qwertyuiopasdfghjkl",
        "changeme-changeme",
    ] {
        std::fs::write(&file, weak).unwrap();
        let data = dir.path().join("data");
        for setting in [
            ("ECHOPILOT_DASH_KEY", weak),
            ("ECHOPILOT_DASH_KEY_FILE", file.to_str().unwrap()),
        ] {
            let output = echopilot(&data)
                .env(setting.0, setting.1)
                .args(["serve", "--listen", "127.0.0.1:0"])
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{said}");
            assert!(said.contains("too weak") && !said.contains(weak), "{said}");
        }
    }
}

#[test]
fn sighup_reloads_the_keys_and_an_invalid_file_changes_nothing() {
    let dir = folder();
    let file = dir.path().join("the 'keys'");
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    let (old, new, newest) = (
        "the-old-key-of-the-team",
        "the-new-key-of-the-team",
        "a-third-one-of-the-team",
    );
    write(&format!("{old}\n"));
    let data = dir.path().join("data");
    let start = || {
        Server::start_with_its_key(
            echopilot(&data)
                .env("ECHOPILOT_DASH_KEY_FILE", &file)
                .env("ECHOPILOT_LIMIT_WRONG_KEYS", "0"),
        )
    };
    let mut server = start();
    server.wait_for("Others may read the dashboard keys");
    let valid = |server: &Server| {
        [old, new, newest].map(|key| {
            server
                .get_with("/api/analytics/usage", &[("x-dash-key", key)])
                .0
                == 200
        })
    };
    assert_eq!(valid(&server), [true, false, false]);
    write(&format!("{old}\n{new}\n"));
    server.signal("HUP");
    server.wait_for("Reloaded the dashboard keys: 2 valid");
    assert_eq!(valid(&server), [true, true, false]);
    write(&format!("{newest},{new}"));
    server.signal("HUP");
    until("the old key is gone", || {
        valid(&server) == [false, true, true]
    });
    let too_many = (0..33).map(|number| format!("one-of-the-many-{number:04x},"));
    let too_many: String = too_many.collect();
    for (bad, reason) in [
        ("password12345678", "too weak"),
        ("", "there are 0 dashboard keys"),
        (&too_many, "there are 33 dashboard keys"),
    ] {
        write(bad);
        server.signal("HUP");
        server.wait_for(reason);
        assert_eq!(valid(&server), [false, true, true]);
    }
    std::fs::remove_file(&file).unwrap();
    server.signal("HUP");
    server.wait_for("cannot read");
    assert_eq!(valid(&server), [false, true, true]);
    write(old);
    let traced = server.stop();
    for key in [old, new, newest, "password12345678"] {
        assert!(!traced.contains(key), "{traced}");
    }
    // The command that is printed writes the first key of the file, whatever the file is called.
    assert_eq!(printed_key(&traced), old);
    for text in [format!("{new},{old}"), format!("\n{new}\n{old}\n")] {
        write(&text);
        let mut server = start();
        // It comes after the command.
        server.wait_for("Listening on");
        assert_eq!(printed_key(&server.kill()), new);
    }
    // A key that is a setting stays, and so does the server.
    let mut server = serve(&data, &[]);
    server.signal("HUP");
    server.wait_for("stay unchanged");
    assert_eq!(server.get("/api/analytics/usage").0, 200);
    server.stop();
    // The file in the data folder is read again, too.
    let mut server = Server::start_with_its_key(&mut echopilot(&data));
    std::fs::write(data.join("dash_key"), new).unwrap();
    server.signal("HUP");
    server.wait_for("Reloaded the dashboard keys: 1 valid");
    assert_eq!(valid(&server), [false, true, false]);
}

/// The key that a shell reads with the printed command; the file has the old key
/// again.
fn printed_key(traced: &str) -> String {
    let (_, command) = traced.split_once("X-Dash-Key: ").expect(traced);
    let (key, _) = command.split_once("\"\n").expect(traced);
    let shell = Command::new("sh")
        .args(["-c", &format!("printf %s \"{key}\"")])
        .output()
        .unwrap();
    String::from_utf8(shell.stdout).unwrap()
}

#[test]
fn a_stop_under_full_load_takes_seconds_and_loses_nothing() {
    let dir = folder();
    let data = dir.path().join("data");
    // Something to export.
    unsealed_demo(&data, 100_000, 2, 1);
    engine(&data, chrono::Utc::now()).store().seal().unwrap();
    let mut server = serve(&data, &[("LIMIT_CLIENT_EVENTS", "0")]);
    let half: Vec<TcpStream> = (0..100)
        .map(|number| {
            let mut stream = connect(&server);
            let half: &[u8] = match number % 2 {
                0 => b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-",
                _ => b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n{",
            };
            stream.write_all(half).unwrap();
            stream
        })
        .collect();
    let mut export = connect(&server);
    write!(
        export,
        "GET /api/analytics/export?days=9&format=ndjson HTTP/1.1\r\nHost: x\r\nX-Dash-Key: {KEY}\r\n\r\n"
    )
    .unwrap();
    let mut first = [0];
    export.read_exact(&mut first).unwrap();
    let before = server.usage("?days=9")["total_events"].as_u64().unwrap();
    let url = server.url.clone();
    let (accepted, took) = std::thread::scope(|scope| {
        let url = url.as_str();
        let writers: Vec<_> = (0..8)
            .map(|writer| scope.spawn(move || write_until_it_stops(url, writer)))
            .collect();
        until("many events are stored", || {
            let (_, status) = server.get("/api/analytics/status");
            status["accepted"]["since_start"].as_u64().unwrap() > 30_000
        });
        server.signal("TERM");
        let stopping = Instant::now();
        assert!(server.wait().success());
        let took = stopping.elapsed();
        let accepted: u64 = writers
            .into_iter()
            .map(|writer| writer.join().unwrap())
            .sum();
        (accepted, took)
    });
    assert!(took < Duration::from_secs(20), "{took:?}");
    drop((half, export));
    let stored = run_json(&data, &["usage", "--days", "9"])["total_events"]
        .as_u64()
        .unwrap()
        - before;
    assert!(
        (accepted..=accepted + 8 * 100).contains(&stored),
        "accepted {accepted}, stored {stored}"
    );
}

/// Sends batches of 100 events until the server is gone; returns the number of acknowledged events.
fn write_until_it_stops(url: &str, writer: usize) -> u64 {
    let mut accepted = 0;
    for number in 0.. {
        let events = batch((0..100).map(|place| {
            let id = format!("{writer}-{number}-{place}");
            json!({"event_type":"action","user_id":format!("u{place}"),"feature":"f","event_id":id})
        }));
        match post_to(url, events.to_string().as_bytes(), &[]) {
            Ok((200, body)) => accepted += body["logged"].as_u64().unwrap(),
            _ => break,
        }
    }
    accepted
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    let dir = folder();
    let mut server = serve(dir.path(), &[]);
    assert_eq!(server.post(&events(10)).0, 200);
    let mut half = connect(&server);
    half.write_all(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n")
        .unwrap();
    half.write_all(&[b' '; 60 << 10]).unwrap();
    until("its body is read", || limit(&server, "client_kib").1 >= 60);
    server.signal("TERM");
    server.wait_for("Stopping");
    server.signal("INT");
    server.wait_for("Exiting at once");
    assert!(server.wait().success());
    assert_eq!(
        run_json(dir.path(), &["usage", "--days", "1"])["total_events"],
        10
    );
}
