//! The `OpenAPI` document against the server that sends it: its operations are those of the router,
//! and its examples are responses of the server.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{KEY, PATIENCE, Server, at_time, echopilot, folder};
use crate::oracle::python_command;

/// Requests with their responses, in the order in which they are sent. They are part of the
/// document. With `ECHOPILOT_WRITE_EXAMPLES` the test writes the responses of the server.
const EXAMPLES: &str = "src/http/openapi/examples.json";
/// The time of the server of the examples: that of the golden tables.
const NOW: &str = "2024-03-03 12:00:00";
/// The methods that an operation may have.
const METHODS: [&str; 5] = ["get", "put", "post", "delete", "patch"];

fn document(server: &Server) -> Value {
    let (status, document) = server.get_with("/openapi.json", &[]);
    assert_eq!(status, 200, "{document}");
    document
}

/// The operations of a document: path, method and description.
fn operations(document: &Value) -> Vec<(&str, &str, &Value)> {
    let paths = document["paths"].as_object().expect("paths");
    let operations = paths.iter().flat_map(|(path, item)| {
        let methods = METHODS.into_iter();
        methods.filter_map(move |method| Some((path.as_str(), method, item.get(method)?)))
    });
    operations.collect()
}

/// Sends a request; returns status, media type and body.
fn send(
    server: &Server,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: Option<&Value>,
) -> (u16, String, String) {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .allow_non_standard_methods(true)
        .timeout_global(Some(PATIENCE))
        .build()
        .into();
    let mut request = ureq::http::Request::builder()
        .method(method.to_uppercase().as_str())
        .uri(format!("{}{target}", server.url));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let sent = match body {
        Some(body) => {
            let request = request.header("content-type", "application/json");
            agent.run(request.body(body.to_string()).unwrap())
        }
        None => agent.run(request.body(()).unwrap()),
    };
    let mut response = sent.expect("the server responds");
    let media_type = response.headers().get("content-type");
    let media_type = media_type.map_or("", |value| value.to_str().unwrap());
    let media_type = media_type.split(';').next().unwrap().to_owned();
    let mut body = Vec::new();
    let mut reader = response.body_mut().as_reader();
    if media_type == "text/event-stream" {
        // Up to the end of the first message.
        while !body.ends_with(b"\n\n") {
            let mut byte = [0];
            reader.read_exact(&mut byte).expect("a message");
            body.push(byte[0]);
        }
    } else {
        reader.read_to_end(&mut body).expect("a body");
    }
    let body = String::from_utf8_lossy(&body).into_owned();
    (response.status().as_u16(), media_type, body)
}

/// True for an operation that this machine may do without a key.
fn is_public(operation: &Value) -> bool {
    let schemes = operation["security"].as_array();
    schemes.is_some_and(|schemes| schemes.contains(&json!({})))
}

#[test]
fn each_operation_exists_takes_no_other_method_and_needs_the_key_as_documented() {
    let dir = folder();
    let server = Server::start(dir.path());
    let document = document(&server);
    assert_eq!(document["openapi"], "3.1.0");
    let schemes = document["components"]["securitySchemes"].as_object();
    let schemes: Vec<&String> = schemes.unwrap().keys().collect();
    assert_eq!(schemes, ["bearer", "dash_key"]);
    let operations = operations(&document);
    let ids: BTreeSet<&str> = operations
        .iter()
        .filter_map(|(.., operation)| operation["operationId"].as_str())
        .collect();
    assert_eq!(ids.len(), operations.len(), "each operation has an id");
    let paths: BTreeSet<&str> = operations.iter().map(|(path, ..)| *path).collect();
    for path in paths {
        // A wrong key comes before anything else that is wrong.
        let target = path.replace("{id}", "a%FF").replace("{name}", "a");
        let target = target.replace("{link}", "a").replace("{key}", "a");
        let target = target.replace("{call}", "track");
        let target = format!("{target}?days=0&confirm=x");
        for method in METHODS {
            let (status, _, body) = send(&server, method, &target, &[], Some(&json!("{")));
            let operation = operations.iter().find(|of| (of.0, of.1) == (path, method));
            let is_public = match operation {
                None => {
                    assert_eq!(status, 405, "{method} {path}: {body}");
                    continue;
                }
                Some((.., operation)) => is_public(operation),
            };
            assert_ne!(status, 404, "{method} {path}: {body}");
            assert_ne!(status, 405, "{method} {path}: {body}");
            assert_eq!(status != 401, is_public, "{method} {path}: {body}");
        }
    }
}

/// A server with the history of the golden tables at their time, which stands still.
fn golden_server() -> (TempDir, Server) {
    let dir = folder();
    let mut import = echopilot(dir.path());
    at_time(&mut import, NOW);
    let imported = import.args(["import", "tests/golden/events.ndjson"]);
    assert!(imported.status().expect("the program starts").success());
    let mut serve = echopilot(dir.path());
    at_time(&mut serve, NOW);
    // Generated requests have many wrong keys.
    serve.env("ECHOPILOT_LIMIT_WRONG_KEYS", "0");
    let mut server = Server::start_as(serve);
    // Before it, the rollup of an example could find other days.
    server.wait_for("Rolled up");
    (dir, server)
}

/// The path and query string of an example.
fn target(path: &str, operation: &Value, example: &Value) -> String {
    let (mut target, mut query) = (path.to_owned(), String::new());
    for (name, value) in example["parameters"].as_object().into_iter().flatten() {
        let value = value.as_str().map_or(value.to_string(), str::to_owned);
        let value: String = value
            .bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                    char::from(byte).to_string()
                }
                byte => format!("%{byte:02X}"),
            })
            .collect();
        let parameters = operation["parameters"].as_array();
        let parameter = parameters.into_iter().flatten();
        let place = parameter.into_iter().find(|of| of["name"] == **name);
        match place.unwrap_or_else(|| panic!("{path} has no {name}"))["in"].as_str() {
            Some("path") => target = target.replace(&format!("{{{name}}}"), &value),
            _ => query += &format!("&{name}={value}"),
        }
    }
    match query.strip_prefix('&') {
        None => target,
        Some(query) => format!("{target}?{query}"),
    }
}

/// Replaces values that differ from server to server.
fn mask(value: &mut Value) {
    /// Of the status: the program, numbers by the monotonic clock, and what background work has
    /// written so far.
    const VARYING: [&str; 5] = ["version", "accepted", "waiting", "store", "limits"];
    match value {
        Value::Object(object) => {
            // Of a job the id and the progress vary, and of an entry of the audit log the id and
            // the hashes of users, which a key of the store makes. A share link is random, the key
            // of signatures follows from that of the store, and alerts are evaluated meanwhile.
            for (of, stable) in [
                ("started_by", &["ok", "kind", "started_by"][..]),
                (
                    "created_by",
                    &["report", "created_at", "expires_at", "origins"],
                ),
                ("signing_key", &["ok", "alerts"]),
                ("evaluated_through", &[]),
                ("run", &["action", "by", "outcome", "subject"]),
            ] {
                if object.contains_key(of) {
                    object.retain(|name, _| stable.contains(&name.as_str()));
                }
            }
            for (name, value) in object {
                if VARYING.contains(&name.as_str()) {
                    *value = "varies".into();
                }
                mask(value);
            }
        }
        Value::Array(list) => list.iter_mut().for_each(mask),
        _ => {}
    }
}

#[test]
fn each_operation_has_examples_and_the_server_responds_as_written() {
    let (_dir, server) = golden_server();
    let document = document(&server);
    let operations = operations(&document);
    let text = std::fs::read_to_string(EXAMPLES).expect("the examples");
    let mut examples: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let is_writing = std::env::var_os("ECHOPILOT_WRITE_EXAMPLES").is_some();
    let mut missing: BTreeSet<&str> = BTreeSet::new();
    for (_, _, operation) in &operations {
        missing.insert(operation["operationId"].as_str().unwrap());
    }
    for example in &mut examples {
        let id = example["operation"].as_str().unwrap();
        let (path, method, operation) = operations
            .iter()
            .find(|(.., operation)| operation["operationId"] == id)
            .unwrap_or_else(|| panic!("no operation {id}"));
        missing.remove(operation["operationId"].as_str().unwrap());
        let media_type = example["media_type"].as_str();
        let media_type = media_type.unwrap_or("application/json").to_owned();
        let mut headers = vec![("accept", media_type.as_str())];
        if !is_public(operation) {
            headers.push(("x-dash-key", KEY));
        }
        let target = target(path, operation, example);
        let (status, found_type, body) =
            send(&server, method, &target, &headers, example.get("body"));
        let mut found = match found_type.as_str() {
            "application/json" => serde_json::from_str(&body).expect("JSON"),
            _ => Value::String(body),
        };
        if is_writing {
            example["status"] = status.into();
            example["response"] = found;
            continue;
        }
        let name = &example["name"];
        assert_eq!(
            (status, found_type.as_str()),
            (
                example["status"].as_u64().unwrap() as u16,
                if status == 308 {
                    ""
                } else {
                    media_type.as_str()
                }
            ),
            "{id} {name}: {found}"
        );
        let mut expected = example["response"].clone();
        if id == "metrics" {
            // The example is a part of the page.
            let page = found.as_str().unwrap();
            let described = expected.as_str().unwrap().lines();
            let mut described = described.filter(|line| line.starts_with('#'));
            assert!(described.all(|line| page.contains(line)), "{page}");
            continue;
        }
        mask(&mut expected);
        mask(&mut found);
        assert_eq!(found, expected, "{id} {name}");
        // It is in the document, with its request.
        if status == 200 {
            let name = name.as_str().unwrap();
            let content = &operation["responses"]["200"]["content"][&media_type]["examples"];
            assert_eq!(content[name]["value"], example["response"], "{id} {name}");
            if let Some(body) = example.get("body") {
                let content = &operation["requestBody"]["content"]["application/json"];
                assert_eq!(&content["examples"][name]["value"], body, "{id} {name}");
            }
        }
    }
    if is_writing {
        let text = serde_json::to_string_pretty(&examples).unwrap();
        std::fs::write(EXAMPLES, text + "\n").expect("the examples");
    }
    // A file is its own example.
    missing.retain(|id| {
        let operation = operations.iter().find(|(.., of)| of["operationId"] == *id);
        operation.unwrap().2["tags"] != json!(["files"])
    });
    assert!(missing.is_empty(), "without an example: {missing:?}");
}

#[test]
fn the_document_lists_every_error_code_once() {
    let dir = folder();
    let server = Server::start(dir.path());
    let document = document(&server);
    let schemas = &document["components"]["schemas"];
    let codes = schemas["ErrorCode"]["enum"].as_array().unwrap();
    for code in ["bad_query", "too_many_events_a_second", "unauthorized"] {
        assert!(codes.contains(&code.into()), "{code}");
    }
    let code = &schemas["ErrorBody"]["properties"]["error"];
    assert_eq!(code["$ref"], "#/components/schemas/ErrorCode");
    let code = &schemas["Rejection"]["properties"]["code"];
    assert_eq!(code["$ref"], "#/components/schemas/EventCode");
    // Every response of an error is one.
    for (path, method, operation) in operations(&document) {
        for (status, response) in operation["responses"].as_object().unwrap() {
            let is_named = response["$ref"] == format!("#/components/responses/Error{status}");
            let is_ingest = status == "400" && operation["tags"] == json!(["events"]);
            let is_error = status.as_str() >= "400";
            assert_eq!(is_named, is_error && !is_ingest, "{method} {path} {status}");
        }
    }
}

/// Seconds of the search for requests whose response is not as documented.
const SEARCH_SECONDS: &str = "30";
/// An error of `CPython` 3.11, now and then, when two threads parse at once; its issue 106905.
const INTERPRETER_ERROR: &str = "AST constructor recursion depth mismatch";

#[test]
fn generated_requests_get_only_documented_responses() {
    let (dir, server) = golden_server();
    // So that the routes of the demo have data.
    let key = [("x-dash-key", KEY)];
    let (status, _, body) = send(&server, "post", "/api/analytics/demo", &key, None);
    assert_eq!(status, 200, "{body}");
    let settings = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemathesis");
    let search = || {
        python_command()
            .current_dir(dir.path())
            .env("PYTHONPATH", &settings)
            .env("SCHEMATHESIS_HOOKS", "hooks")
            .args(["-m", "schemathesis.cli", "--config-file"])
            .arg(settings.join("schemathesis.toml"))
            .args(["run", &format!("{}/openapi.json", server.url)])
            .args(["--header", &format!("X-Dash-Key: {KEY}")])
            // Live events never end; files are as they are.
            .args(["--exclude-operation-id", "live", "--exclude-tag", "files"])
            .args(["--max-time", SEARCH_SECONDS, "--workers", "2"])
            .args(["--seed", "1", "--generation-database", "none"])
            .args(["--continue-on-failure", "--no-color"])
            .output()
            .expect("Python starts")
    };
    let mut search = std::iter::repeat_with(search).take(3);
    let is_complete =
        |search: &Output| !String::from_utf8_lossy(&search.stdout).contains(INTERPRETER_ERROR);
    let search = search.find(is_complete).expect("Python works");
    assert!(
        search.status.success(),
        "{}{}",
        String::from_utf8_lossy(&search.stdout),
        String::from_utf8_lossy(&search.stderr)
    );
}
