//! The browser client: how it is served, and the neutral path. Its behaviour is tested in a
//! browser, `tests/browser`.

use std::io::Read;

use serde_json::json;
use ureq::http::Response;

use crate::harness::{Server, batch, echopilot, event, folder, run};

/// Most bytes that a visitor downloads for the script.
const MAX_GZIP_BYTES: usize = 5 * 1024;

fn get(server: &Server, path: &str, headers: &[(&str, &str)]) -> Response<ureq::Body> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .accept_encoding("identity")
        .build()
        .into();
    let mut request = agent.get(format!("{}{path}", server.url));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.call().expect("the server responds")
}

fn body(mut response: Response<ureq::Body>) -> Vec<u8> {
    let mut bytes = Vec::new();
    response
        .body_mut()
        .as_reader()
        .read_to_end(&mut bytes)
        .expect("a complete body");
    bytes
}

/// The values of a header, of which there should be one.
fn header<'a>(response: &'a Response<ureq::Body>, name: &str) -> Vec<&'a str> {
    let values = response.headers().get_all(name);
    values.iter().map(|value| value.to_str().unwrap()).collect()
}

#[test]
fn pages_of_any_site_may_use_and_cache_the_script() {
    let dir = folder();
    let server = Server::start(dir.path());
    let script = "text/javascript; charset=utf-8";
    for (path, content_type) in [
        ("/static/js/telemetry.js", script),
        ("/echo.js", script),
        ("/echo.js?v=1", script),
        ("/static/js/telemetry-web.js", script),
        ("/echo-web.js", script),
        ("/static/js/telemetry-vitals.js", script),
        ("/echo-vitals.js", script),
        ("/static/js/telemetry.d.ts", "text/plain; charset=utf-8"),
    ] {
        let response = get(&server, path, &[]);
        assert_eq!(response.status(), 200, "{path}");
        for (name, value) in [
            ("content-type", content_type),
            ("access-control-allow-origin", "*"),
            ("cross-origin-resource-policy", "cross-origin"),
            ("x-content-type-options", "nosniff"),
            ("vary", "accept-encoding"),
            (
                "cache-control",
                "public, max-age=3600, stale-while-revalidate=86400",
            ),
        ] {
            assert_eq!(header(&response, name), [value], "{path} {name}");
        }
        assert!(header(&response, "content-encoding").is_empty());
        let etag = header(&response, "etag")[0].to_owned();
        let script = body(response);
        assert!(!script.is_empty());

        for known in [etag.clone(), format!("\"other\", {etag}"), "*".into()] {
            let again = get(&server, path, &[("if-none-match", &known)]);
            assert_eq!(again.status(), 304, "{known}");
            assert_eq!(header(&again, "etag"), [etag.as_str()]);
            assert!(body(again).is_empty());
        }
        let other = get(&server, path, &[("if-none-match", "\"other\"")]);
        assert_eq!(body(other), script);
    }
}

#[test]
fn the_script_has_at_most_5_kib_with_gzip() {
    let dir = folder();
    let server = Server::start(dir.path());
    for path in ["/static/js/telemetry.js", "/echo.js"] {
        let plain = body(get(&server, path, &[]));
        for accepted in ["gzip", "br, gzip;q=0.5", "*", "GZIP", "*;q=0, gzip;q=0.1"] {
            let compressed = get(&server, path, &[("accept-encoding", accepted)]);
            assert_eq!(
                header(&compressed, "content-encoding"),
                ["gzip"],
                "{accepted}"
            );
            let bytes = body(compressed);
            assert!(
                bytes.len() <= MAX_GZIP_BYTES,
                "{path} has {} bytes with gzip",
                bytes.len()
            );
            let mut inflated = Vec::new();
            flate2::read::GzDecoder::new(&bytes[..])
                .read_to_end(&mut inflated)
                .unwrap();
            assert_eq!(inflated, plain);
        }
        for accepted in [
            "identity",
            "br",
            "gzip;q=0",
            "gzip; q=0.0",
            "",
            "gzip;Q=0.000, *",
            "*;q=0",
            "identity, gzip;q=0.5",
        ] {
            let response = get(&server, path, &[("accept-encoding", accepted)]);
            assert!(
                header(&response, "content-encoding").is_empty(),
                "{accepted}"
            );
        }
    }
}

#[test]
fn the_neutral_path_accepts_events_and_its_script_has_no_other_path() {
    let dir = folder();
    let mut command = echopilot(dir.path());
    command.env("ECHOPILOT_NEUTRAL_PATH", "/a/pulse");
    let server = Server::start_as(command);
    let script = String::from_utf8(body(get(&server, "/a/pulse.js", &[]))).unwrap();
    assert!(script.contains("/a/pulse.js"));
    let web = String::from_utf8(body(get(&server, "/a/pulse-web.js", &[]))).unwrap();
    assert!(web.contains("import(\"./pulse-vitals.js\")"), "{web}");
    let vitals = String::from_utf8(body(get(&server, "/a/pulse-vitals.js", &[]))).unwrap();
    for word in ["analytics", "telemetry", "/static"] {
        for file in [&script, &web, &vitals] {
            assert!(!file.contains(word), "{word}");
        }
    }
    let own = String::from_utf8(body(get(&server, "/static/js/telemetry.js", &[]))).unwrap();
    assert!(own.contains("/static/js/telemetry.js") && own.contains("/api/analytics/event"));

    let agent = ureq::Agent::new_with_defaults();
    let url = format!("{}/a/pulse", server.url);
    let events = batch([event("action", "u", "f")]).to_string();
    let answer = agent
        .post(&url)
        .header("content-type", "text/plain;charset=UTF-8")
        .header("origin", "https://shop.example")
        .send(&events)
        .unwrap();
    let allowed = header(&answer, "access-control-allow-origin");
    assert_eq!(allowed, ["https://shop.example"]);
    server.post(&batch([event("action", "u", "f")]));
    assert_eq!(server.usage("")["total_events"], json!(2));
    assert_eq!(get(&server, "/a/pulse", &[]).status(), 405);
    for path in ["/echo", "/echo.js"] {
        assert_eq!(get(&server, path, &[]).status(), 404, "{path}");
    }
}

#[test]
fn a_reserved_neutral_path_is_wrong_usage() {
    let dir = folder();
    for path in ["/api/analytics/event", "/static", "/", "echo", "/{x}"] {
        let output = run(dir.path(), &["serve", "--neutral-path", path]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{path}: {stderr}");
        assert!(stderr.contains("--neutral-path"), "{stderr}");
    }
}
