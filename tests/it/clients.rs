//! Clients of other products: requests that they were recorded sending become the expected events,
//! and what is wrong in one event, or hostile, costs nothing else.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::DateTime;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::harness::{KEY, Server, at_time, batch, echopilot, folder};

/// Requests of real clients, and the events that each file becomes.
const CAPTURES: &str = "tests/fixtures/clients";
/// The time of the server, after all captures.
const NOW: &str = "2026-11-26 12:00:00";
/// The events that are conversions in the expected ones.
const CONVERSIONS: &str = "Order Completed,order completed,Purchase";
/// An address of documentation, which a proxy names.
const ADDRESS: &str = "203.0.113.77";
/// A clock that is off by less is not corrected, in µs.
const MAX_SKEW_US: i64 = 60_000_000;

/// A response: status, head in lower case, and body.
struct Response {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Response {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines();
        let mut fields = lines.filter_map(|line| line.split_once(": "));
        fields
            .find(|(known, _)| *known == name)
            .map(|field| field.1)
    }
}

/// Sends a request with exactly these headers and bytes.
fn send(
    server: &Server,
    method: &str,
    target: &str,
    headers: &[(String, String)],
    body: &[u8],
) -> Response {
    let address = server.url.strip_prefix("http://").expect("a URL");
    let address = address.trim_end_matches('/');
    let mut stream = TcpStream::connect(address).expect("a connection");
    let mut request =
        format!("{method} {target} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    request += &format!("content-length: {}\r\n\r\n", body.len());
    stream.write_all(request.as_bytes()).expect("a head");
    stream.write_all(body).expect("a body");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("a response");
    let end = bytes
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .expect("a head");
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    let status = head
        .split(' ')
        .nth(1)
        .expect("a status")
        .parse()
        .expect("a number");
    Response {
        status,
        head,
        body: bytes[end + 4..].to_vec(),
    }
}

fn post(server: &Server, target: &str, body: impl AsRef<[u8]>) -> Response {
    send(server, "POST", target, &[], body.as_ref())
}

fn start(data: &Path, settings: &[(&str, &str)]) -> Server {
    start_at(data, NOW, settings)
}

fn start_at(data: &Path, time: &str, settings: &[(&str, &str)]) -> Server {
    let mut command = echopilot(data);
    at_time(&mut command, time);
    command.env("ECHOPILOT_CONVERSIONS", CONVERSIONS);
    command.envs(settings.iter().copied());
    Server::start_as(command)
}

fn captures() -> Vec<(String, Value)> {
    let files = std::fs::read_dir(CAPTURES).expect("the captures");
    let files = files.map(|file| file.expect("a file").path());
    let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some()).collect();
    files.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("a capture");
        let name = path.file_stem().expect("a name").to_str().expect("UTF-8");
        (name.to_owned(), serde_json::from_str(&text).expect("JSON"))
    };
    files.into_iter().map(read).collect()
}

/// True for a capture of a client whose files are imported, and which sends nothing to us.
fn is_imported(name: &str) -> bool {
    name.starts_with("mixpanel") || name.starts_with("umami")
}

/// Sends a recorded request again. Some headers are those of the connection.
fn replay(server: &Server, request: &Value, prefix: &str) -> Response {
    const OF_CONNECTION: [&str; 4] = ["host", "connection", "content-length", "transfer-encoding"];
    let mut headers = vec![("x-forwarded-for".to_owned(), ADDRESS.to_owned())];
    for header in request["headers"].as_array().expect("headers") {
        let [name, value] = [0, 1].map(|at| header[at].as_str().expect("text").to_owned());
        if !OF_CONNECTION.contains(&name.to_lowercase().as_str()) {
            headers.push((name, value));
        }
    }
    let body = match (&request["body_text"], &request["body_base64"]) {
        (Value::String(text), _) => text.as_bytes().to_vec(),
        (_, Value::String(text)) => STANDARD.decode(text).expect("base64"),
        _ => Vec::new(),
    };
    let text = |name: &str| request[name].as_str().expect("text");
    let target = format!("{prefix}{}", text("target"));
    send(server, text("method"), &target, &headers, &body)
}

/// The status that a client expects.
fn expected_status(request: &Value) -> u16 {
    let target = request["target"].as_str().expect("a target");
    match target {
        _ if target.starts_with("/static/") => 404,
        "/api/event" if request["method"] == "POST" => 202,
        _ => 200,
    }
}

/// The events in the log.
fn stored(data: &Path) -> Vec<Value> {
    let log = std::fs::read_to_string(data.join("analytics_events.ndjson")).expect("the log");
    let lines = log
        .lines()
        .map(|line| serde_json::from_str(line).expect("an event"));
    lines.collect()
}

fn micros(value: &Value) -> i64 {
    match value {
        Value::String(text) => DateTime::parse_from_rfc3339(text)
            .expect("a time")
            .timestamp_micros(),
        number => (number.as_f64().expect("a time") * 1e6).round() as i64,
    }
}

/// All statements that an id is an alias of a user, whether they hold or were rejected.
fn statements(server: &Server) -> Vec<Value> {
    let (status, listed) = server.get("/api/analytics/links");
    assert_eq!(status, 200, "{listed}");
    let links = listed["links"].as_array().expect("a list");
    links
        .iter()
        .map(|link| json!({"alias": link["alias"], "user_id": link["user_id"]}))
        .collect()
}

/// True for an identity call that was stored after an event with two ids of a user.
fn is_added(event: &Value) -> bool {
    event["event_type"] == "system" && !event["metadata"]["by"].is_null()
}

/// Checks an event against the expected one, which may say a link.
fn check(found: &Value, expected: &Value, said: &[Value], context: &str) {
    let says = &expected["link"];
    assert!(
        says.is_null() || said.contains(says),
        "{context}: {says} is not in {said:?}"
    );
    // An export has no time of receipt.
    let received = found
        .get("received_at")
        .map_or(micros(&found["ts"]), micros);
    let sent = expected.get("sent_at").map_or(received, micros);
    let skew = Some(received - sent).filter(|skew| skew.abs() > MAX_SKEW_US);
    let ts = expected
        .get("ts")
        .map_or(received, |ts| micros(ts) + skew.unwrap_or(0));
    assert_eq!(micros(&found["ts"]), ts, "{context}: {found}");
    let mut metadata = found["metadata"].clone();
    let mut expected_metadata = expected["metadata"].clone();
    // An e-mail address is left out.
    expected_metadata
        .as_object_mut()
        .expect("an object")
        .remove("email");
    let link = &expected["link"]["alias"];
    if found["event_type"] == "system" {
        // The link can be derived from the event, unless it is an alias of itself.
        let said = ["previous_id", "alias"].map(|name| &metadata[name]);
        let is_said = said.contains(&link) || metadata["previous_id"] == found["user_id"];
        assert!(link.is_null() || is_said, "{context}: {found}");
        if expected_metadata.get("previous_id").is_none() {
            metadata
                .as_object_mut()
                .expect("an object")
                .remove("previous_id");
        }
    }
    assert_eq!(metadata, expected_metadata, "{context}: {found}");
    for field in ["event_type", "feature", "user_id", "event_id"] {
        let expected = expected.get(field).unwrap_or(&Value::Null);
        assert_eq!(&found[field], expected, "{context}: {field} of {found}");
    }
    // In compressed bodies the port of the page remains.
    let place = |event: &Value| {
        let url = event.get("url").and_then(Value::as_str)?;
        let is_of_page = url.contains("PAGEPORT") || url.contains("://127.0.0.1:");
        let (_, path) = url
            .split_once("://")
            .and_then(|(_, rest)| rest.split_once('/'))?;
        Some(if is_of_page {
            path.to_owned()
        } else {
            url.to_owned()
        })
    };
    let urls =
        [found, expected].map(|event| place(event).or(event.get("url").map(Value::to_string)));
    assert_eq!(
        urls[0].as_deref().unwrap_or("null"),
        urls[1].as_deref().unwrap_or("null"),
        "{context}: {found}"
    );
}

fn expected(name: &str, capture: &Value) -> Vec<Value> {
    let path = format!("{CAPTURES}/expected/{name}.ndjson");
    let lines = std::fs::read_to_string(path).unwrap_or_default();
    let lines = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    let mut events: Vec<Value> = lines.collect();
    // The times of old events are right.
    if name.contains("historical") {
        for event in &mut events {
            event.as_object_mut().expect("an object").remove("sent_at");
        }
    }
    // The time of sending is in a header of the newer protocol of PostHog.
    for header in capture["requests"][0]["headers"]
        .as_array()
        .expect("headers")
    {
        if header[0] == "PostHog-Request-Timestamp" {
            for event in &mut events {
                event["sent_at"] = header[1].clone();
            }
        }
    }
    events
}

#[test]
fn recorded_requests_become_the_expected_events_and_a_repetition_adds_none() {
    let captures = captures();
    assert!(captures.len() > 25);
    for (name, capture) in captures.iter().filter(|(name, _)| !is_imported(name)) {
        let dir = folder();
        let server = start(dir.path(), &[]);
        let expected = expected(name, capture);
        for round in ["once", "twice"] {
            // The second time below the neutral path.
            let prefix = if round == "once" { "" } else { "/echo" };
            for request in capture["requests"].as_array().expect("requests") {
                let response = replay(&server, request, prefix);
                let target = &request["target"];
                let is_file = prefix == "/echo" && expected_status(request) == 404;
                assert!(
                    response.status == expected_status(request) || is_file,
                    "{name}: {} for {target}",
                    response.status
                );
            }
            let mut found = stored(dir.path());
            // All clients of these say it in an identity call before.
            assert!(!found.iter().any(is_added), "{name}: {found:#?}");
            let said = statements(&server);
            if round == "twice" {
                // Events without an id are stored again.
                let repeated = expected
                    .iter()
                    .filter(|event| event.get("event_id").is_none());
                assert_eq!(found.len(), expected.len() + repeated.count(), "{name}");
                found.truncate(expected.len());
            }
            assert_eq!(found.len(), expected.len(), "{name} {round}: {found:#?}");
            for (found, expected) in found.iter().zip(&expected) {
                check(found, expected, &said, &format!("{name} {round}"));
            }
        }
    }
}

#[test]
fn neither_address_nor_browser_nor_e_mail_reaches_the_data_folder() {
    let dir = folder();
    let settings = [("ECHOPILOT_TRUSTED_PROXIES", "127.0.0.1")];
    let server = start(dir.path(), &settings);
    for (_, capture) in captures() {
        for request in capture["requests"].as_array().expect("requests") {
            replay(&server, request, "");
        }
    }
    let personal = json!({"email": "hidden@b.example", "phone": "555-0100", "firstName": "Hidden",
        "address": {"city": "Hidden"}, "ip": ADDRESS, "plan": "team"});
    let message = json!({"type": "identify", "userId": "u-9", "traits": personal,
        "context": {"ip": ADDRESS, "userAgent": "Hidden/1.0", "traits": personal,
            "page": {"url": "https://hidden:secret@a.example/p?email=hidden@b.example#hidden"}}});
    assert_eq!(
        post(&server, "/v1/identify", message.to_string()).status,
        200
    );
    let event = json!({"event": "$identify", "distinct_id": "u-8", "properties": {"$ip": ADDRESS,
        "$raw_user_agent": "Hidden/1.0", "$set": personal, "email": "hidden@b.example"}});
    assert_eq!(post(&server, "/e", event.to_string()).status, 200);
    let event = json!({"n": "pageview", "u": "https://a.example/?email=hidden@b.example",
        "d": "a.example", "p": {"ip": ADDRESS, "user_agent": "Hidden/1.0"}});
    assert_eq!(post(&server, "/api/event", event.to_string()).status, 202);
    assert_eq!(
        post(&server, "/v1/track", "{\"type\":\"Hidden/1.0\"}").status,
        200
    );
    let (status, export) = server.get_bytes(
        "/api/analytics/export?days=365&format=ndjson",
        &[("x-dash-key", KEY)],
    );
    assert_eq!(status, 200);
    assert!(
        stored(dir.path())
            .iter()
            .any(|event| event["user_id"] == "u-9")
    );
    let traces = server.stop();
    for text in texts(dir.path(), [export, traces.into_bytes()]) {
        for needle in [
            ADDRESS,
            "Mozilla/",
            "HeadlessChrome",
            "@",
            "Hidden",
            "hidden",
            "555-0100",
            "secret",
        ] {
            let found = text.find(needle).map(|at| {
                let start = text[..at]
                    .char_indices()
                    .rev()
                    .nth(60)
                    .map_or(0, |(at, _)| at);
                text[start..].chars().take(140).collect::<String>()
            });
            // Compressed blocks may have any byte.
            let is_binary = needle == "@" && text.contains(char::REPLACEMENT_CHARACTER);
            assert!(found.is_none() || is_binary, "{needle}: {found:?}");
        }
    }
}

/// These strings, and the contents of all files of a folder as strings.
fn texts(folder: &Path, others: [Vec<u8>; 2]) -> Vec<String> {
    let mut texts = others.to_vec();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                texts.push(std::fs::read(&path).expect("a file"));
            }
        }
    }
    let as_text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    texts.into_iter().map(as_text).collect()
}

#[test]
fn one_wrong_event_of_a_thousand_costs_no_other() {
    let dir = folder();
    let server = start(dir.path(), &[]);
    let wrong = [
        "7",
        "null",
        "\"text\"",
        "[]",
        "{}",
        r#"{"type":"unknown"}"#,
        r#"{"type":"track"}"#,
        r#"{"type":"track","event":{"a":1}}"#,
        r#"{"type":"track","event":"e","timestamp":"yesterday"}"#,
        r#"{"type":"track","event":"e","properties":{"n":1e999}}"#,
        r#"{"type":"track","event":"e","properties":{"a":{"b":1,"b":2}}}"#,
    ];
    let mut messages: Vec<String> = (wrong.len()..1_000)
        .map(|n| {
            format!(r#"{{"type":"track","event":"e","userId":"u-{n}","properties":{{"n":NaN}}}}"#)
        })
        .collect();
    for (at, wrong) in wrong.iter().enumerate() {
        messages.insert(at * 90, (*wrong).to_owned());
    }
    let body = format!("{{\"batch\":[{}]}}", messages.join(","));
    let response = post(&server, "/v1/batch", body);
    assert_eq!(
        (response.status, response.json()),
        (200, json!({"success": true}))
    );
    assert_eq!(stored(dir.path()).len(), 1_000 - wrong.len());
    let (_, quarantine) = server.get("/api/analytics/quarantine");
    let by_code = &quarantine["rejections"]["by_code"];
    let total: u64 = by_code
        .as_object()
        .expect("codes")
        .values()
        .filter_map(Value::as_u64)
        .sum();
    assert_eq!(total, wrong.len() as u64, "{quarantine}");
    assert_eq!(by_code["bad_ts"], 1, "{quarantine}");
    assert_eq!(quarantine["count"], wrong.len(), "{quarantine}");
    let more = format!("[{}{{}}]", "{},".repeat(1_000));
    for target in ["/v1/batch", "/e"] {
        assert_eq!(post(&server, target, &more).status, 413);
    }
}

/// Sets a plan that an event of [`send_against_plan`] does not follow.
fn set_plan(server: &Server) {
    let plan = json!({"conversions": [{"name": "purchase", "mode": "quarantine",
        "metadata": {"required": ["amount"]}}]});
    let headers = [("x-dash-key".to_owned(), KEY.to_owned())];
    let plan = plan.to_string();
    let set = send(
        server,
        "PUT",
        "/api/analytics/plan",
        &headers,
        plan.as_bytes(),
    );
    assert_eq!(set.status, 200);
}

/// Sends an event that the plan quarantines.
fn send_against_plan(server: &Server) {
    let purchase = json!({"event_type": "conversion", "feature": "purchase"});
    let (_, answer) = server.post(&batch([purchase]));
    assert_eq!(answer["quarantined"], 1, "{answer}");
}

#[test]
fn a_malformed_message_stays_in_the_quarantine_until_its_user_is_erased_and_is_never_an_event() {
    let dir = folder();
    let server = start(dir.path(), &[]);
    let track = |timestamp: &str| {
        json!({"type": "track", "event": "act", "messageId": "m", "userId": "ann",
            "timestamp": timestamp, "context": {"ip": "203.0.113.9"},
            "properties": {"plan": "pro", "email": "ann@mail.example"}})
    };
    let mut body = json!({"batch": [track("yesterday"), {"type": "trakc", "userId": "bob", "messageId": "b"},
        "eve@mail.example"]});
    let held = |server: &Server| {
        let (_, answer) = server.get("/api/analytics/quarantine");
        assert_eq!(
            answer["count"],
            answer["events"].as_array().expect("events").len()
        );
        answer["events"].clone()
    };
    let send = |server: &Server, body: &Value| post(server, "/v1/batch", body.to_string());
    assert_eq!(send(&server, &body).json(), json!({"success": true}));
    let first = held(&server);
    // Again: each that has an id once.
    body["batch"].as_array_mut().expect("messages").pop();
    assert_eq!(send(&server, &body).json(), json!({"success": true}));
    assert_eq!(held(&server), first);
    let traces = server.kill();
    let server = start(dir.path(), &[]);
    assert_eq!(held(&server), first);
    let [text, bob, ann] = first.as_array().expect("events").as_slice() else {
        panic!("{first}");
    };
    for (event, code, reason) in [
        (text, "bad_event", "the event is a string; allowed is"),
        (
            bob,
            "bad_event_type",
            "the type of the call is wrong; allowed are",
        ),
        (ann, "bad_ts", "the timestamp is wrong; allowed is"),
    ] {
        assert_eq!(
            (&event["code"], &event["malformed"]),
            (&json!(code), &json!(true))
        );
        assert!(
            event["reason"].as_str().expect("text").starts_with(reason),
            "{event}"
        );
    }
    assert_eq!(bob["event"]["user_id"], "bob");
    let event = &ann["event"];
    assert_eq!(
        (&event["user_id"], &event["feature"]),
        (&json!("ann"), &json!("act"))
    );
    // It may name a person.
    assert_eq!(event["metadata"], json!({}));
    // A broken identity call names no id.
    let call = json!({"event": null, "distinct_id": "fay", "properties": {
        "$anon_distinct_id": "hidden-1", "alias": "hidden-2", "$current_url": "https://a.example/p?hidden-3"}});
    assert_eq!(post(&server, "/e", call.to_string()).status, 200);
    let fay = &held(&server)[0];
    assert_eq!(
        (&fay["event"]["user_id"], &fay["event"]["feature"]),
        (&json!("fay"), &Value::Null)
    );
    let quarantine = |server: &Server| {
        let (_, status) = server.get("/api/analytics/status");
        ["events", "malformed"].map(|name| status["quarantine"][name].as_u64().expect("a number"))
    };
    assert_eq!(quarantine(&server), [4, 4]);
    // The same message without its fault is an event, and a replay makes none of the others.
    set_plan(&server);
    send_against_plan(&server);
    assert_eq!(quarantine(&server), [5, 4]);
    let wrong = track("tomorrow").to_string();
    let track = track("2026-11-26T11:00:00Z").to_string();
    assert_eq!(post(&server, "/v1/track", track).status, 200);
    let (_, replayed) = server.ask("/api/analytics/quarantine/replay", &json!({}));
    assert_eq!(
        (&replayed["replayed"], &replayed["kept"]),
        (&json!(0), &json!(5))
    );
    assert_eq!(server.usage("?days=2")["total_events"], 1);
    let key = [("x-dash-key", KEY)];
    let (_, access) = server.get_bytes("/api/analytics/users/ann/events", &key);
    let access = String::from_utf8(access).expect("UTF-8");
    assert_eq!(
        (
            access.lines().count(),
            access.matches("malformed\":true").count()
        ),
        (2, 1),
        "{access}"
    );
    let stopped = server.stop();
    for text in texts(dir.path(), [traces.into_bytes(), stopped.into_bytes()]) {
        for word in ["203.0.113.9", "mail.example", "yesterday", "hidden"] {
            assert!(!text.contains(word), "{word}: {text}");
        }
    }
    let server = start(dir.path(), &[]);
    assert_eq!(quarantine(&server), [5, 4]);
    let (_, receipt) = server.delete("/api/analytics/users/ann?confirm=1");
    assert_eq!(receipt["held"], 1, "{receipt}");
    // An hour later. Its time is unknown: it may be of before the erasure.
    server.stop();
    let server = start_at(dir.path(), "2026-11-26 13:00:00", &[]);
    assert_eq!(post(&server, "/v1/track", wrong).status, 200);
    let left = held(&server);
    assert_eq!(
        left.as_array().expect("events")[2..],
        [text.clone(), bob.clone()]
    );
    assert_eq!(quarantine(&server), [4, 3]);
}

#[test]
fn malformed_messages_leave_half_of_the_quarantine_to_the_tracking_plan() {
    const MIB: u64 = 1 << 20;
    let dir = folder();
    let server = start(dir.path(), &[]);
    set_plan(&server);
    let page = "x".repeat(2_000);
    let mut number = 0;
    let mut bytes = 0;
    for _ in 0..18 {
        let messages: Vec<String> = (0..1_000)
            .map(|_| {
                number += 1;
                format!(
                    r#"{{"type":"x","userId":"u-{number}","properties":{{"url":"https://a.example/{page}"}}}}"#
                )
            })
            .collect();
        let body = format!("[{}]", messages.join(","));
        assert_eq!(post(&server, "/v1/batch", body).status, 200);
        let (_, status) = server.get("/api/analytics/status");
        let quarantine = &status["quarantine"];
        assert_eq!(
            quarantine["events"], quarantine["malformed"],
            "{quarantine}"
        );
        bytes = quarantine["bytes"].as_u64().expect("bytes");
    }
    assert!((31 * MIB..=32 * MIB).contains(&bytes), "{bytes}");
    send_against_plan(&server);
}

#[test]
fn a_hostile_body_costs_bounded_memory_and_time_and_is_cut() {
    let dir = folder();
    let server = start(dir.path(), &[]);
    let before = server.peak_mb();
    let long = "x".repeat(4 << 20);
    let keys: BTreeMap<String, u32> = (0..10_000).map(|n| (format!("key{n}"), n)).collect();
    let deep = format!("{}1{}", "{\"a\":".repeat(1_000), "}".repeat(1_000));
    let keys = serde_json::to_string(&keys).expect("JSON");
    for (name, properties) in [
        ("long", format!("{{\"kept\":1,\"long\":\"{long}\"}}")),
        ("keys", keys),
        ("deep", format!("{{\"kept\":1,\"deep\":{deep}}}")),
        (
            "list",
            format!("{{\"kept\":1,\"list\":[{}0]}}", "0,".repeat(2 << 20)),
        ),
    ] {
        let body = format!(r#"{{"event":"{name}","distinct_id":"u","properties":{properties}}}"#);
        assert_eq!(post(&server, "/capture/", body).status, 200, "{name}");
    }
    let long = "n".repeat(5_000);
    let body = json!({"type": "track", "event": long, "messageId": long, "userId": long,
        "timestamp": "2027-03-01T00:00:00Z", "context": {"page": {"url": format!("https://a.example/{long}")}}});
    assert_eq!(post(&server, "/v1/track", body.to_string()).status, 200);
    let events = stored(dir.path());
    assert_eq!(events.len(), 5);
    for event in &events {
        assert_eq!(event["metadata"]["cut"], true, "{event}");
        assert!(event["metadata"].to_string().len() <= 16 << 10);
    }
    for event in events.iter().filter(|event| event["feature"] == "deep") {
        assert_eq!(event["metadata"]["kept"], 1, "{event}");
    }
    let cut = &events[4];
    assert_eq!(cut["feature"].as_str().map(str::len), Some(200));
    assert_eq!(cut["url"].as_str().map(str::len), Some(2_048));
    assert_eq!(cut["event_id"].as_str().map(str::len), Some(32));
    assert_eq!(cut["user_id"], Value::Null);
    assert_eq!(cut["metadata"]["clock"], true);
    assert_eq!(cut["ts"], cut["received_at"]);
    assert_eq!(post(&server, "/e", vec![b'['; 6 << 20]).status, 413);
    let peak = server.peak_mb();
    assert!(peak < before + 150, "{before} MB, then {peak} MB");
}

#[test]
fn an_event_with_a_million_keys_costs_its_neighbours_nothing_and_little_memory() {
    let dir = folder();
    let server = start(dir.path(), &[]);
    let before = server.peak_mb();
    let keys: Vec<String> = (0..1_000_000).map(|n| format!("\"{n:05x}\":0")).collect();
    let event = |name: &str, properties: &str| {
        format!(r#"{{"type":"track","event":"{name}","userId":"u","properties":{properties}}}"#)
    };
    let query = "&a".repeat(2 << 20);
    let messages = [
        event("before", "{\"n\":1}"),
        event(
            "keys",
            &format!("{{\"n\":1,\"keys\":{{{}}}}}", keys.join(",")),
        ),
        event(
            "query",
            &format!("{{\"n\":1,\"url\":\"https://a.example/?{query}\"}}"),
        ),
        event("after", "{\"n\":1}"),
    ];
    let body = format!("{{\"batch\":[{}]}}", messages.join(","));
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(body.as_bytes()).expect("memory");
    let gzip = gzip.finish().expect("memory");
    assert_eq!(post(&server, "/v1/batch", gzip).status, 200);
    let peak = server.peak_mb();
    let found: Vec<(Value, Value)> = stored(dir.path())
        .iter_mut()
        .map(|event| (event["feature"].take(), event["metadata"].take()))
        .collect();
    let expected = [
        ("before", json!({"n": 1})),
        ("keys", json!({"n": 1, "cut": true})),
        ("query", json!({"n": 1})),
        ("after", json!({"n": 1})),
    ];
    assert_eq!(
        found,
        expected.map(|(name, metadata)| (json!(name), metadata))
    );
    // The body has 14 MB.
    assert!(peak < before + 100, "{before} MB, then {peak} MB");
}

#[test]
fn each_product_gets_the_statuses_that_its_clients_know() {
    let dir = folder();
    let server = start(dir.path(), &[("ECHOPILOT_LIMIT_CLIENT_EVENTS", "10")]);
    for target in [
        "/v1/batch",
        "/v1/t",
        "/e/",
        "/batch",
        "/i/v1/analytics/events",
        "/api/event",
    ] {
        for body in [&b""[..], b"{", b"hello", b"\x1f\x8bdamaged"] {
            assert_eq!(post(&server, target, body).status, 400, "{target} {body:?}");
        }
    }
    for target in ["/v1/other", "/e/x", "/v1", "/array//config"] {
        assert_eq!(post(&server, target, "{}").status, 404, "{target}");
    }
    assert_eq!(send(&server, "GET", "/v1/batch", &[], b"").status, 405);
    // Nothing in it, or nothing that is right.
    assert_eq!(post(&server, "/v1/batch", "{\"batch\":[]}").status, 200);
    assert_eq!(post(&server, "/e", "[{}]").status, 200);
    assert_eq!(post(&server, "/api/event", "{}").status, 202);
    let event = |n: u32| json!({"event": "e", "uuid": format!("id-{n}"), "distinct_id": "u"});
    let mut old = event(2);
    old["timestamp"] = json!("2020-01-01T00:00:00Z");
    let body = json!({"batch": [event(1), old, {"uuid": "id-3"}, event(1)]});
    let response = post(&server, "/i/v1/analytics/events", body.to_string());
    assert_eq!(response.status, 200);
    let results = &response.json()["results"];
    assert_eq!(results["id-1"], json!({"result": "ok"}));
    assert_eq!(results["id-2"]["result"], "drop");
    assert!(
        results["id-2"]["details"]
            .as_str()
            .is_some_and(|text| text.contains("365 days"))
    );
    assert!(
        results["id-3"]["details"]
            .as_str()
            .is_some_and(|text| text.contains("missing"))
    );
    assert_eq!(stored(dir.path()).len(), 1);
    // Too many a second.
    let many = json!({"batch": (0..200).map(event).collect::<Vec<_>>()}).to_string();
    let response = post(&server, "/v1/batch", &many);
    assert_eq!(response.status, 429);
    assert!(response.header("retry-after").is_some());
    // The browser client of PostHog would drop its events.
    for target in ["/e", "/i/v1/analytics/events"] {
        let response = post(&server, target, &many);
        assert_eq!(response.status, 503);
        assert!(response.header("retry-after").is_some());
    }
    assert_eq!(stored(dir.path()).len(), 1);
}

#[test]
fn listed_keys_are_found_wherever_a_client_puts_them() {
    let dir = folder();
    let server = start(
        dir.path(),
        &[("ECHOPILOT_SDK_KEYS", "k-1, k-2,shop.example")],
    );
    let basic = |key: &str| {
        let value = STANDARD.encode(format!("{key}:"));
        vec![("authorization".to_owned(), format!("Basic {value}"))]
    };
    let bearer = |key: &str| vec![("authorization".to_owned(), format!("Bearer {key}"))];
    let track = r#"{"type":"track","event":"e","userId":"u"}"#;
    let event = r#"{"event":"e","distinct_id":"u"}"#;
    let with_key = |name: &str, key: &str, json: &str| {
        json.replacen('{', &format!("{{\"{name}\":\"{key}\","), 1)
    };
    let page =
        |site: &str| json!({"n": "pageview", "u": "https://a.example/", "d": site}).to_string();
    for (target, headers, body, status) in [
        ("/v1/t", basic("k-1"), track.to_owned(), 200),
        ("/v1/t", basic("k-3"), track.to_owned(), 401),
        ("/v1/t", vec![], with_key("writeKey", "k-2", track), 200),
        ("/v1/t", vec![], with_key("writeKey", "k-3", track), 401),
        ("/v1/t", vec![], track.to_owned(), 401),
        (
            "/beacon/v1/batch?writeKey=k-1",
            vec![],
            format!("{{\"batch\":[{track}]}}"),
            200,
        ),
        (
            "/beacon/v1/batch?writeKey=x",
            vec![],
            format!("{{\"batch\":[{track}]}}"),
            401,
        ),
        ("/e", vec![], with_key("api_key", "k-1", event), 200),
        ("/e", vec![], with_key("api_key", "k-3", event), 401),
        (
            "/i/v1/analytics/events",
            bearer("k-1"),
            format!("{{\"batch\":[{event}]}}"),
            200,
        ),
        (
            "/i/v1/analytics/events",
            bearer("k-3"),
            format!("{{\"batch\":[{event}]}}"),
            401,
        ),
        ("/api/event", vec![], page("shop.example"), 202),
        ("/api/event", vec![], page("other.example"), 401),
    ] {
        let response = send(&server, "POST", target, &headers, body.as_bytes());
        assert_eq!(response.status, status, "{target} {body}");
    }
    assert_eq!(stored(dir.path()).len(), 6);
    // None of these is an attempt to guess a dashboard key.
    for _ in 0..30 {
        assert_eq!(
            send(&server, "POST", "/v1/t", &basic("x"), track.as_bytes()).status,
            401
        );
    }
    assert_eq!(server.get("/api/analytics/usage").0, 200);
}

#[test]
fn settings_and_flags_have_responses_so_that_no_client_waits() {
    let dir = folder();
    let server = start(dir.path(), &[]);
    let origin = vec![("origin".to_owned(), "https://shop.example".to_owned())];
    let get = |target: &str| {
        let response = send(&server, "GET", target, &origin, b"");
        assert_eq!(response.status, 200, "{target}");
        assert_eq!(
            response.header("access-control-allow-origin"),
            Some("https://shop.example")
        );
        response
    };
    for target in [
        "/v1/projects/WK/settings",
        "/projects/WK/settings",
        "/echo/v1/projects/WK/settings",
    ] {
        let response = get(target);
        assert_eq!(
            response.json()["integrations"]["Segment.io"]["apiKey"],
            "WK"
        );
        assert_eq!(
            response.header("cache-control"),
            Some("public, max-age=86400")
        );
    }
    let source = get("/sourceConfig/?writeKey=WK").json();
    assert_eq!(source["source"]["enabled"], true);
    assert_eq!(source["source"]["destinations"], json!([]));
    let config = get("/array/phc/config").json();
    assert_eq!(config["supportedCompression"], json!(["gzip", "gzip-js"]));
    let script = get("/array/p\"h/config.js".replace('"', "%22").as_str());
    let script = String::from_utf8(script.body).expect("UTF-8");
    assert!(
        script.starts_with("(window._POSTHOG_REMOTE_CONFIG"),
        "{script}"
    );
    assert!(script.contains(r#"["p\"h"] = {"#), "{script}");
    assert_eq!(
        get("/api/feature_flag/local_evaluation?token=x").json()["flags"],
        json!([])
    );
    for target in [
        "/flags/?v=2",
        "/decide?v=3",
        "/flags/?v=2&compression=base64",
    ] {
        let flags = post(&server, target, "data=e30%3D").json();
        assert_eq!(flags["featureFlags"], json!({}));
        assert_eq!(flags["errorsWhileComputingFlags"], false);
    }
    assert_eq!(
        post(&server, "/s/?compression=gzip-js", vec![7; 3 << 20]).status,
        200
    );
    let preflight = [
        ("origin", "https://shop.example"),
        ("access-control-request-method", "POST"),
        (
            "access-control-request-headers",
            "anonymousid,authorization,content-type,sentat",
        ),
    ];
    let preflight: Vec<_> = preflight
        .map(|(name, value)| (name.into(), value.into()))
        .into();
    for target in [
        "/v1/track",
        "/echo/v1/track",
        "/e/",
        "/sourceConfig/",
        "/api/event",
    ] {
        let response = send(&server, "OPTIONS", target, &preflight, b"");
        assert_eq!(response.status, 200, "{target}");
        let allowed = response.header("access-control-allow-headers");
        assert_eq!(
            allowed,
            Some("anonymousid,authorization,content-type,sentat"),
            "{target}"
        );
        assert_eq!(
            response.header("access-control-allow-methods"),
            Some("get,post")
        );
        assert_eq!(response.header("access-control-allow-credentials"), None);
    }
    let (_, page) = server.get_bytes("/metrics", &[("x-dash-key", KEY)]);
    let page = String::from_utf8(page).expect("UTF-8");
    assert!(page.contains(r#"code="replay"} 1"#), "{page}");
    assert!(stored(dir.path()).is_empty());
}

#[test]
fn a_product_that_is_off_has_no_routes() {
    let dir = folder();
    let server = start(
        dir.path(),
        &[
            ("ECHOPILOT_SDK", "plausible"),
            ("ECHOPILOT_NEUTRAL_PATH", "/v1/track"),
        ],
    );
    for target in ["/v1/batch", "/e", "/flags", "/v1/track/v1/batch"] {
        assert_eq!(post(&server, target, "{}").status, 404, "{target}");
    }
    let body = json!({"name": "pageview", "url": "https://a.example/x", "domain": "a.example"});
    for target in ["/api/event", "/v1/track/api/event"] {
        assert_eq!(
            post(&server, target, body.to_string()).status,
            202,
            "{target}"
        );
    }
    // The neutral path is that of our own events.
    let own = json!({"events": [{"event_type": "action"}]});
    assert_eq!(
        post(&server, "/v1/track", own.to_string()).json()["logged"],
        1
    );
    assert_eq!(stored(dir.path()).len(), 3);
}

/// The messages of a capture, each as JSON.
fn messages(capture: &Value) -> Vec<Value> {
    let mut found = Vec::new();
    for request in capture["requests"].as_array().expect("requests") {
        let target = request["target"].as_str().expect("a target");
        if target.starts_with("/engage") {
            continue;
        }
        let text = request["body_text"].as_str().unwrap_or_default();
        let query = target.split_once('?').map_or("", |(_, query)| query);
        let fields: Vec<(String, String)> =
            serde_urlencoded(if text.contains("data=") { text } else { query });
        let data = fields
            .into_iter()
            .find(|(name, _)| name == "data")
            .map(|(_, value)| value);
        let data = data.unwrap_or_else(|| text.to_owned());
        let decoded = STANDARD
            .decode(&data)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok());
        let json = decoded
            .filter(|text| text.starts_with(['{', '[']))
            .unwrap_or(data);
        match serde_json::from_str(&json).expect("JSON") {
            Value::Array(list) => found.extend(list),
            one => found.push(one),
        }
    }
    found
}

/// The fields of a form.
fn serde_urlencoded(form: &str) -> Vec<(String, String)> {
    let decode = |text: &str| {
        let mut bytes = Vec::new();
        let mut rest = text.bytes();
        while let Some(byte) = rest.next() {
            match byte {
                b'%' => {
                    let hex = [rest.next().expect("a digit"), rest.next().expect("a digit")];
                    let hex = String::from_utf8_lossy(&hex).into_owned();
                    bytes.push(u8::from_str_radix(&hex, 16).expect("a byte"));
                }
                b'+' => bytes.push(b' '),
                byte => bytes.push(byte),
            }
        }
        String::from_utf8(bytes).expect("UTF-8")
    };
    let fields = form.split('&').filter_map(|field| field.split_once('='));
    fields
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

/// Imports a file, at the time of the captures.
fn import(data: &Path, arguments: &[&str]) -> (bool, Value, String) {
    let mut command = echopilot(data);
    at_time(&mut command, NOW);
    command.env("ECHOPILOT_CONVERSIONS", CONVERSIONS);
    let output = command
        .arg("import")
        .args(arguments)
        .output()
        .expect("the program starts");
    let answer = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), answer, text)
}

/// All events of a folder, the oldest first.
fn exported(data: &Path) -> Vec<Value> {
    exported_by(&start(data, &[]))
}

fn exported_by(server: &Server) -> Vec<Value> {
    let (status, text) = server.get_bytes(
        "/api/analytics/export?days=365&format=ndjson",
        &[("x-dash-key", KEY)],
    );
    assert_eq!(status, 200);
    let text = String::from_utf8(text).expect("UTF-8");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

#[test]
fn exports_of_mixpanel_and_umami_become_the_expected_events() {
    for (name, capture) in captures().iter().filter(|(name, _)| is_imported(name)) {
        let dir = folder();
        let product = name.split('-').next().expect("a name");
        let messages = messages(capture);
        let file = dir.path().join("export.json");
        std::fs::write(&file, Value::from(messages).to_string()).expect("a file");
        let data = dir.path().join("data");
        let file = file.to_str().expect("UTF-8");
        let (done, answer, text) = import(&data, &["--from", product, file]);
        assert!(done, "{name}: {text}");
        let expected = expected(name, &json!({"requests": [{"headers": []}]}));
        let in_time = expected.iter().filter(|event| {
            let ts = event.get("ts").map(micros);
            ts.is_none_or(|ts| ts > 1_764_000_000_000_000)
        });
        let mut in_time: Vec<&Value> = in_time.collect();
        assert_eq!(answer["accepted"], in_time.len(), "{name}: {answer}");
        let server = start(&data, &[]);
        let found = exported_by(&server);
        let said = statements(&server);
        // All clients of these say it in an identity call before.
        assert!(!found.iter().any(is_added), "{name}: {found:#?}");
        assert_eq!(answer["identity_calls"], Value::Null, "{name}");
        assert_eq!(found.len(), in_time.len(), "{name}: {found:#?}");
        for event in found {
            let same = |expected: &&Value| {
                let fields = ["event_type", "feature", "user_id", "event_id"];
                fields
                    .iter()
                    .all(|field| event[field] == *expected.get(field).unwrap_or(&Value::Null))
            };
            let at = in_time.iter().position(same);
            let expected = in_time.remove(at.unwrap_or_else(|| panic!("{name}: {event}")));
            check(&event, expected, &said, name);
        }
    }
}

#[test]
fn events_of_mixpanel_with_two_ids_link_them_without_an_identity_call() {
    let name = "mixpanel-browser";
    let captures = captures();
    let (_, capture) = captures
        .iter()
        .find(|(known, _)| known == name)
        .expect("it");
    let mut messages = messages(capture);
    messages.retain(|message| message["event"] != "$identify");
    messages.reverse();
    let dir = folder();
    let file = dir.path().join("export.json");
    std::fs::write(&file, Value::from(messages).to_string()).expect("a file");
    let data = dir.path().join("data");
    let file = file.to_str().expect("UTF-8");
    let (done, answer, text) = import(&data, &["--from", "mixpanel", file]);
    assert!(done && answer["identity_calls"] == 1, "{answer} {text}");
    let server = start(&data, &[]);
    let found = exported_by(&server);
    let stored = answer["accepted"].as_u64().expect("a number") + 1;
    assert_eq!(found.len() as u64, stored, "{found:#?}");
    let added = found.iter().find(|event| is_added(event)).expect("it");
    // That of the first event with both ids, which is the last one of the file.
    let first = found
        .iter()
        .find(|event| event["event_type"] == "conversion");
    let first = first.expect("it");
    for field in ["ts", "user_id", "event_id"] {
        assert_eq!(added[field], first[field], "{added}");
    }
    let said = statements(&server);
    let expected = expected(name, &json!({"requests": [{"headers": []}]}));
    let links = expected.iter().map(|event| &event["link"]);
    let links: Vec<&Value> = links.filter(|link| !link.is_null()).collect();
    assert_eq!(links.len(), 2);
    assert!(links.iter().all(|link| said.contains(link)), "{said:?}");
}

#[test]
fn one_history_is_equal_in_every_format_and_twice() {
    let dir = folder();
    let path = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_owned();
    let events: Vec<Value> = (0..300)
        .map(|n| {
            let name = ["$pageview", "signup", "Purchase"][n % 3];
            let properties = json!({"$current_url": "https://a.example/b,c?utm_source=d", "n": n, "q": "say \"hi\", \n"});
            json!({"uuid": format!("id-{n}"), "event": name, "distinct_id": format!("u-{}", n % 7),
                "timestamp": format!("2026-11-{:02} 10:00:{:02}.500000+00:00", 1 + n % 20, n % 60), "properties": properties.to_string()})
        })
        .collect();
    let lines: Vec<String> = events.iter().map(Value::to_string).collect();
    std::fs::write(path("a.json"), lines.join("\n")).expect("a file");
    std::fs::write(path("b.json"), format!("[{}]", lines.join(",\n"))).expect("a file");
    let mut csv = csv::Writer::from_path(path("c.csv")).expect("a file");
    let names = [
        "uuid",
        "event",
        "distinct_id",
        "timestamp",
        "properties",
        "person_id",
    ];
    csv.write_record(names).expect("a row");
    for event in &events {
        csv.write_record(names.map(|name| event[name].as_str().unwrap_or_default()))
            .expect("a row");
    }
    csv.flush().expect("a file");
    let zstd = zstd::encode_all(&std::fs::read(path("c.csv")).expect("a file")[..], 1);
    std::fs::write(path("d.zst"), zstd.expect("memory")).expect("a file");
    let script = "import sys, polars as p; f = p.read_ndjson(sys.argv[1]); \
        f = f.with_columns(p.col('timestamp').str.to_datetime('%Y-%m-%d %H:%M:%S%.f%:z', time_unit='us')); \
        f.write_parquet(sys.argv[2], compression='snappy', row_group_size=100)";
    let made = crate::oracle::python_command()
        .args(["-c", script, &path("a.json"), &path("e.parquet")])
        .status();
    assert!(made.expect("Python starts").success());
    let mut histories = Vec::new();
    for file in ["a.json", "b.json", "c.csv", "d.zst", "e.parquet"] {
        let data = dir.path().join(format!("data-{file}"));
        let (done, answer, text) = import(&data, &["--from", "posthog", &path(file)]);
        assert!(done && answer["accepted"] == 300, "{file}: {answer} {text}");
        let (done, answer, _) = import(&data, &["--from", "posthog", &path("a.json")]);
        assert!(
            done && answer["accepted"] == 0 && answer["duplicates"] == 300,
            "{file}: {answer}"
        );
        let mut found = exported(&data);
        found.sort_by_key(|event| event["event_id"].to_string());
        histories.push(found);
    }
    assert_eq!(histories[0].len(), 300);
    assert_eq!(histories[0][0]["feature"], "b,c");
    assert_eq!(histories[0][0]["metadata"]["n"], 0);
    for history in &histories[1..] {
        assert_eq!(history, &histories[0]);
    }
}

#[test]
fn a_file_of_another_shape_is_reported_and_nothing_is_imported() {
    let dir = folder();
    let path = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_owned();
    let right = r#"{"type":"track","event":"e","userId":"u","messageId":"1","timestamp":"2026-11-01T00:00:00Z"}"#;
    let other = r#"{"event":"e","distinct_id":"u","timestamp":"2026-11-01T00:00:00Z"}"#;
    std::fs::write(path("right.json"), right).expect("a file");
    std::fs::write(
        path("mixed.json"),
        format!("{right}\n{right}\n{other}\n7\n"),
    )
    .expect("a file");
    std::fs::write(path("cut.json"), format!("[{right},{{\"type\":\"tra")).expect("a file");
    std::fs::write(path("other.csv"), "date,visitors\n2026-11-01,7\n").expect("a file");
    std::fs::write(
        path("bad.json"),
        format!("{right}\n{}\n", right.replace("2026-11", "2026-99")),
    )
    .expect("a file");
    let data = dir.path().join("data");
    for (file, says) in [
        (
            "mixed.json",
            "mixed.json, record 3: the record has event, distinct_id, timestamp; needed are type",
        ),
        ("mixed.json", "mixed.json, record 4: the record is 7"),
        ("cut.json", "cut.json"),
        (
            "other.csv",
            "other.csv, record 1: the record has date, visitors",
        ),
    ] {
        let (done, _, text) = import(
            &data,
            &["--from", "segment", &path("right.json"), &path(file)],
        );
        assert!(
            !done && text.contains(says) && text.contains("nothing was imported"),
            "{text}"
        );
    }
    let (done, _, text) = import(&data, &["--from", "plausible", &path("right.json")]);
    assert!(
        !done && text.contains("segment, posthog, mixpanel, umami"),
        "{text}"
    );
    assert!(exported(&data).is_empty());
    // A wrong value costs its own event.
    let (done, answer, text) = import(&data, &["--from", "segment", &path("bad.json")]);
    assert!(
        !done && answer["accepted"] == 1 && answer["refused"] == 1,
        "{answer} {text}"
    );
}

#[test]
fn a_table_of_umami_becomes_events() {
    let dir = folder();
    let file = dir.path().join("website_event.csv");
    let table = "event_id,website_id,session_id,visit_id,created_at,url_path,url_query,referrer_domain,page_title,event_type,event_name,hostname\n\
        e1,w1,s1,v1,2026-11-20 10:00:00.123+00,/pricing,utm_source=d&email=x@b.example,search.example,Pricing,1,\\N,shop.example\n\
        e2,w1,s1,v1,2026-11-20 10:01:00+00,/pricing,,,Pricing,2,Purchase,shop.example\n";
    std::fs::write(&file, table).expect("a file");
    let data = dir.path().join("data");
    let (done, answer, text) = import(&data, &["--from", "umami", file.to_str().expect("UTF-8")]);
    assert!(done && answer["accepted"] == 2, "{answer} {text}");
    let found = exported(&data);
    assert_eq!(found[0]["feature"], "pricing");
    assert_eq!(found[0]["url"], "https://shop.example/pricing");
    assert_eq!(
        found[0]["metadata"],
        json!({"utm_source": "d", "referrer": "https://search.example",
        "site": "w1", "session_id": "v1", "anonymous": true})
    );
    assert_eq!(found[1]["event_type"], "conversion");
    assert_eq!(
        (&found[1]["user_id"], &found[1]["event_id"]),
        (&json!("s1"), &json!("e2"))
    );
}

/// The code of a language in a page of the documentation.
fn snippet(page: &str, language: &str) -> String {
    let text = std::fs::read_to_string(page).expect("a page");
    let start = format!("```{language}\n");
    let (_, rest) = text.split_once(&start).expect("a snippet");
    rest.split_once("\n```").expect("an end").0.to_owned()
}

#[test]
fn the_snippets_for_servers_store_their_events() {
    let dir = folder();
    let server = start(dir.path(), &[]);
    let page = "docs/server-side.md";
    for (language, program, flag) in [("sh", "sh", "-c"), ("python", "python3", "-c")] {
        run_snippet(&server, program, &[flag], &snippet(page, language));
    }
    run_snippet(
        &server,
        "node",
        &["--input-type=module", "-e"],
        &snippet(page, "js"),
    );
    let users: Vec<Value> = stored(dir.path())
        .iter()
        .map(|event| event["user_id"].clone())
        .collect();
    assert_eq!(users, ["u-1", "u-2", "u-3"]);
    // There is no compiler for it here: its body is that of a batch.
    let go = snippet(page, "go");
    let (_, body) = go.split_once("body := `").expect("a body");
    let (body, _) = body.split_once('`').expect("an end");
    assert_eq!(server.post_raw(body.as_bytes(), &[]).1["logged"], 1);
}

fn run_snippet(server: &Server, program: &str, flags: &[&str], code: &str) {
    let code = code.replace("http://127.0.0.1:8787", server.url.trim_end_matches('/'));
    let output = std::process::Command::new(program)
        .args(flags)
        .arg(code)
        .output();
    let output = output.expect("the program starts");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
