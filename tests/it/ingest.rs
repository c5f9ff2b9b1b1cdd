//! `POST /api/analytics/event`: accepted and rejected requests; a rejected one changes nothing.

use std::io::Write;

use serde_json::{Value, json};

use crate::harness::{Server, batch, event, folder, log_lines, log_path, run_json};

type Headers<'a> = &'a [(&'a str, &'a str)];
/// Name of the case, body, headers, and the status and code of the error response.
type Rejected<'a> = (&'a str, &'a [u8], Headers<'a>, u16, &'a str);

#[test]
fn the_response_to_a_batch_has_the_outcome_of_each_event() {
    let dir = folder();
    let server = Server::start(dir.path());
    let id = "0197a6f0-0000-7000-8000-000000000001";
    let (status, body) = server.post(&batch([
        json!({"event_type":"page_view","user_id":"u1","feature":"dashboard","metadata":{"referrer":"https://example.com"},"url":"/dashboard"}),
        json!({"event_type":"action","user_id":"u1","feature":"save","event_id":id}),
        json!({"event_type":"action","user_id":"u1","feature":"save","event_id":id}),
        json!({"event_type":"action","ts":"2001-01-01T00:00:00Z"}),
        json!({"event_type":"tap"}),
    ]));
    assert_eq!(status, 200);
    assert_eq!(
        body,
        json!({"ok":true,"logged":2,"duplicates":1,"ignored":1,"rejected":1,"errors":[
            {"index":4,"code":"bad_event_type","message":"event_type is \"tap\"; allowed is page_view, action or conversion"}
        ]})
    );
    let lines = log_lines(dir.path());
    assert_eq!(lines.len(), 2);
    let expected = [
        "ts",
        "event_type",
        "user_id",
        "feature",
        "metadata",
        "url",
        "event_id",
        "received_at",
        "crc32c",
    ];
    assert_eq!(lines[0].as_object().unwrap().len(), expected.len());
    // A parsed object does not keep the order of its keys.
    let log = std::fs::read_to_string(log_path(dir.path())).unwrap();
    let places = expected.map(|key| log.find(&format!("\"{key}\":")).expect(key));
    assert!(places.is_sorted(), "{log}");
    assert_eq!(
        lines[0]["metadata"],
        json!({"referrer":"https://example.com"})
    );
    assert_eq!(lines[0]["ts"], lines[0]["received_at"]);
}

#[test]
fn error_responses_have_one_shape_and_leave_the_store_unchanged() {
    let dir = folder();
    let server = Server::start(dir.path());
    let good = batch([event("action", "u", "f")]).to_string();
    let many = batch((0..101).map(|_| event("action", "u", "f"))).to_string();
    let bomb = gzip(&vec![b' '; 200 << 20]);
    let long = vec![b' '; (2 << 20) + 1];
    let deep = format!("{{\"events\":{}", "[".repeat(100_000));
    let cases: [Rejected; 14] = [
        ("not JSON", b"hello", &[], 400, "bad_json"),
        (
            "truncated",
            &good.as_bytes()[..good.len() - 1],
            &[],
            400,
            "bad_json",
        ),
        ("UTF-16", b"\xff\xfe{\0\"\0", &[], 400, "bad_charset"),
        ("nothing", b"", &[], 400, "bad_json"),
        ("a truncated array", b"[", &[], 400, "bad_json"),
        ("very deep", deep.as_bytes(), &[], 400, "bad_json"),
        (
            "events twice",
            br#"{"events":[],"events":[]}"#,
            &[],
            400,
            "bad_json",
        ),
        (
            "bad sent_at",
            br#"{"events":[],"sent_at":"noon"}"#,
            &[],
            400,
            "bad_sent_at",
        ),
        ("101 events", many.as_bytes(), &[], 413, "too_many_events"),
        ("too long", &long, &[], 413, "too_large"),
        (
            "gzip bomb",
            &bomb,
            &[("content-encoding", "gzip")],
            413,
            "too_large",
        ),
        (
            "wrong label",
            good.as_bytes(),
            &[("content-encoding", "gzip")],
            400,
            "bad_encoding",
        ),
        (
            "unknown encoding",
            good.as_bytes(),
            &[("content-encoding", "lzma")],
            415,
            "bad_encoding",
        ),
        (
            "a form",
            b"events=[]",
            &[("content-type", "application/x-www-form-urlencoded")],
            415,
            "bad_content_type",
        ),
    ];
    for (name, body, headers, status, code) in cases {
        let (found, response) = server.post_raw(body, headers);
        assert_eq!(found, status, "{name}: {response}");
        assert_eq!(response["ok"], false, "{name}");
        assert_eq!(response["error"], code, "{name}: {response}");
        assert!(
            response["message"]
                .as_str()
                .is_some_and(|message| !message.is_empty()),
            "{name}"
        );
    }
    let (status, response) = server.post(&batch([json!({"event_type":"x"}), json!(7)]));
    assert_eq!(
        (status, &response["ok"], &response["rejected"]),
        (400, &json!(false), &json!(2))
    );
    assert!(log_lines(dir.path()).is_empty());
    assert_eq!(server.usage("")["total_events"], 0);
}

#[test]
fn an_error_response_does_not_contain_the_body() {
    let dir = folder();
    let server = Server::start(dir.path());
    let body = format!("{{\"events\":\"{}\"}}", "\u{200b}".repeat(300_000));
    let (status, response) = server.post_raw(body.as_bytes(), &[]);
    assert_eq!((status, &response["error"]), (400, &json!("bad_json")));
    assert!(response.to_string().len() < 2_000);
}

#[test]
fn an_empty_batch_is_accepted() {
    let dir = folder();
    let server = Server::start(dir.path());
    let (status, response) = server.post(&batch([]));
    assert_eq!(
        (status, response),
        (
            200,
            json!({"ok":true,"logged":0,"duplicates":0,"ignored":0,"rejected":0,"errors":[]})
        )
    );
}

#[test]
fn every_encoding_and_the_content_types_of_beacons_are_accepted() {
    let dir = folder();
    let server = Server::start(dir.path());
    let body = batch([event("action", "u", "f")]).to_string().into_bytes();
    let mut brotli_body = Vec::new();
    brotli::CompressorWriter::new(&mut brotli_body, 4096, 5, 20)
        .write_all(&body)
        .unwrap();
    let zlib = {
        let mut encoder =
            flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(&body).unwrap();
        encoder.finish().unwrap()
    };
    let raw_deflate = {
        let mut encoder =
            flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(&body).unwrap();
        encoder.finish().unwrap()
    };
    let gzip_twice = [gzip(&body[..10]), gzip(&body[10..]), vec![0; 100]].concat();
    let zstd_twice = [
        &b"\x50\x2A\x4D\x18\x03\0\0\0abc"[..],
        &zstd::encode_all(&body[..10], 3).unwrap(),
        &zstd::encode_all(&body[10..], 3).unwrap(),
    ]
    .concat();
    let cases: [(&[u8], Headers); 14] = [
        (&gzip_twice, &[("content-encoding", "gzip")]),
        (&zstd_twice, &[("content-encoding", "zstd")]),
        // Some clients send no Content-Encoding.
        (&gzip(&body), &[("content-type", "text/plain")]),
        (&gzip(&zlib), &[("content-encoding", "deflate, gzip")]),
        (&gzip(&body), &[("content-encoding", "gzip, identity")]),
        (&body, &[]),
        (
            &body,
            &[("content-type", "application/json; charset=UTF-8")],
        ),
        (&body, &[("content-type", "text/plain;charset=UTF-8")]),
        (&body, &[("content-encoding", "identity")]),
        (&gzip(&body), &[("content-encoding", "gzip")]),
        (&zlib, &[("content-encoding", "deflate")]),
        (&raw_deflate, &[("content-encoding", "deflate")]),
        (&brotli_body, &[("content-encoding", "br")]),
        (
            &zstd::encode_all(body.as_slice(), 3).unwrap(),
            &[("content-encoding", "ZSTD")],
        ),
    ];
    for (body, headers) in cases {
        let (status, response) = server.post_raw(body, headers);
        assert_eq!(
            (status, &response["logged"]),
            (200, &json!(1)),
            "{headers:?}: {response}"
        );
    }
    assert_eq!(server.usage("")["total_events"], cases.len());
}

#[test]
fn an_invalid_event_does_not_affect_its_neighbours() {
    let dir = folder();
    let server = Server::start(dir.path());
    let good = r#"{"event_type":"action"}"#;
    let bad = br#"{"event_type":"action","metadata":{"p":NaN}}"#;
    let mut logged = 0;
    for (before, between, after) in [
        (r#"{"events":["#, ",", "]}"),
        ("\u{FEFF}{\"events\":[", ",", "]}"),
        ("[", ",", "]"),
        ("", "\r\n", ""),
    ] {
        for bad in [
            &bad[..],
            b"{\"event_type\":\"action\",\"feature\":\"\xff\"}",
        ] {
            let body = [before.as_bytes(), good.as_bytes(), between.as_bytes(), bad];
            let body = [
                &body.concat()[..],
                between.as_bytes(),
                good.as_bytes(),
                after.as_bytes(),
            ];
            let (status, response) = server.post_raw(&body.concat(), &[]);
            logged += 2;
            assert_eq!(status, 200, "{response}");
            assert_eq!(response["logged"], 2, "{response}");
            assert_eq!(response["rejected"], 1, "{response}");
            assert_eq!(response["errors"][0]["index"], 1, "{response}");
            assert_eq!(response["errors"][0]["code"], "bad_event", "{response}");
        }
    }
    let (status, response) = server.post_raw(b"{\"events\":[\"\xff\"]}", &[]);
    assert_eq!(
        (status, &response["rejected"]),
        (400, &json!(1)),
        "{response}"
    );
    assert_eq!(log_lines(dir.path()).len(), logged);
}

#[test]
fn changes_of_a_stored_event_are_notes_in_the_response() {
    let dir = folder();
    let server = Server::start(dir.path());
    let (status, response) = server.post(&batch([
        event("action", "u", "f"),
        json!({"event_type":"action","user_id":123,"feature":404,"event_id":5,"ts":"","metadata":[]}),
        json!({"event_type":"action","feature":"x".repeat(300),"metadata":{"a":"y".repeat(20_000),"b":1}}),
    ]));
    assert_eq!(
        (status, &response["logged"]),
        (200, &json!(3)),
        "{response}"
    );
    let notes: Vec<_> = response["notes"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|note| (note["index"].as_u64(), note["code"].as_str()))
        .collect();
    let expected = [
        (Some(1), Some("metadata_dropped")),
        (Some(2), Some("feature_cut")),
        (Some(2), Some("metadata_cut")),
    ];
    assert_eq!(notes, expected);
    let lines = log_lines(dir.path());
    assert_eq!(lines[1]["user_id"], "123");
    assert_eq!(lines[1]["feature"], "404");
    assert_eq!(lines[1]["event_id"], "5");
    assert_eq!(lines[1]["metadata"], json!({}));
    assert_eq!(lines[2]["feature"], "x".repeat(200));
    assert_eq!(lines[2]["metadata"], json!({"b":1,"cut":true}));
}

#[test]
fn a_resent_batch_counts_once_also_after_a_restart_and_a_seal() {
    let dir = folder();
    let events = batch((0..10).map(|number| {
        json!({"event_type":"action","user_id":format!("u{number}"),"event_id":format!("id-{number}")})
    }));
    let server = Server::start(dir.path());
    assert_eq!(server.post(&events).1["logged"], 10);
    assert_eq!(server.post(&events).1["duplicates"], 10);
    server.kill();
    let server = Server::start(dir.path());
    assert_eq!(server.post(&events).1["duplicates"], 10);
    server.stop();
    crate::harness::run_json(dir.path(), &["seal"]);
    let server = Server::start(dir.path());
    assert_eq!(server.post(&events).1["duplicates"], 10);
    assert_eq!(server.usage("")["total_events"], 10);
}

#[test]
fn strings_that_break_other_programs_are_stored_safely() {
    let dir = folder();
    let server = Server::start(dir.path());
    let body = br#"{"events":[{"event_type":"action","user_id":"a\u0000b","feature":"x\ud800y",
        "metadata":{"line":"one\ntwo","big":12345678901234567890123,"esc":"\u2028\"\\"},"url":"/\u00e9"}]}"#;
    assert_eq!(server.post_raw(body, &[]).0, 200);
    let text = std::fs::read_to_string(log_path(dir.path())).unwrap();
    assert_eq!(text.lines().count(), 1);
    assert!(text.contains(r#""big":12345678901234567890123,"#), "{text}");
    let line: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(line["user_id"], "ab");
    assert_eq!(line["feature"], "x\u{FFFD}y");
    assert_eq!(line["metadata"]["line"], "one\ntwo");
    assert_eq!(line["metadata"]["esc"], "\u{2028}\"\\");
    assert_eq!(line["url"], "/é");
}

#[test]
fn cors_allows_events_with_credentials_from_any_site_and_no_queries() {
    let dir = folder();
    let server = Server::start(dir.path());
    let preflight = |path: &str, method: &str| {
        let request = ureq::http::Request::options(format!("{}{path}", server.url))
            .header("origin", "https://shop.example")
            .header("access-control-request-method", method)
            .header("access-control-request-private-network", "true")
            .header(
                "access-control-request-headers",
                "content-type,x-request-id",
            )
            .body(())
            .unwrap();
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .build()
            .into();
        agent.run(request).unwrap()
    };
    for path in ["/api/analytics/event", "/api/analytics/event/", "/echo"] {
        let allowed = preflight(path, "POST");
        let header = |name: &str| {
            allowed
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        assert_eq!(allowed.status(), 200);
        let origin = header("access-control-allow-origin");
        assert_eq!(origin, Some("https://shop.example"));
        assert_eq!(header("access-control-allow-credentials"), Some("true"));
        assert_eq!(header("access-control-allow-methods"), Some("POST"));
        assert_eq!(header("access-control-allow-private-network"), Some("true"));
        assert_eq!(
            header("access-control-allow-headers"),
            Some("content-type,x-request-id")
        );
        assert!(header("vary").is_some_and(|vary| vary.contains("origin")));
    }
    for path in ["/api/analytics/usage", "/api/analytics/query"] {
        let rejected = preflight(path, "GET");
        assert_eq!(rejected.status(), 405);
        assert!(
            !rejected
                .headers()
                .contains_key("access-control-allow-origin")
        );
    }
    // The page can read responses with any status.
    for (body, status) in [("{\"events\":[]}", 200), ("{", 400), ("x=1", 415)] {
        let request = ureq::http::Request::post(format!("{}/api/analytics/event", server.url))
            .header("origin", "null")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body)
            .unwrap();
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .build()
            .into();
        let response = agent.run(request).unwrap();
        assert_eq!(response.status(), status, "{body}");
        let header = |name: &str| response.headers().get(name).map(|value| value.as_bytes());
        assert_eq!(header("access-control-allow-origin"), Some(&b"null"[..]));
        assert_eq!(
            header("access-control-allow-credentials"),
            Some(&b"true"[..])
        );
    }
}

#[test]
fn any_content_type_is_accepted_if_the_body_begins_as_json_and_paths_are_normalised() {
    let dir = folder();
    let server = Server::start(dir.path());
    let body = batch([event("action", "u", "f")]).to_string();
    let bodies = [body.clone(), format!("\u{FEFF}\r\n {body}")];
    let mut sent = 0;
    for content_type in [
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/octet-stream",
        "application/x-ndjson",
        "nonsense",
        "",
    ] {
        for body in &bodies {
            let headers = [("content-type", content_type)];
            let (status, response) = server.post_raw(body.as_bytes(), &headers);
            assert_eq!(status, 200, "{content_type}: {response}");
            sent += 1;
        }
    }
    for path in [
        "/api/analytics/event/",
        "//api//analytics/event",
        "/api/analytics/event//",
        "/echo/",
    ] {
        let (status, response) = server.ask_with(path, &serde_json::from_str(&body).unwrap(), &[]);
        assert_eq!(
            status,
            200,
            "{path}: {}",
            String::from_utf8_lossy(&response)
        );
        sent += 1;
    }
    for path in ["/api/analytics/usage/", "//api/analytics//usage?days=1"] {
        let (status, response) = server.get(path);
        assert_eq!(
            (status, &response["total_events"]),
            (200, &json!(sent)),
            "{path}"
        );
    }
    let query = json!({"metric": "event_types"}).to_string();
    let response = server.ask(
        "/api/analytics/query/",
        &serde_json::from_str(&query).unwrap(),
    );
    assert_eq!(response.0, 200);
    assert_eq!(server.get_with("/health/ready/", &[]).0, 200);
}

#[test]
fn the_address_of_a_client_is_neither_stored_nor_traced() {
    let dir = folder();
    let mut command = crate::harness::echopilot(dir.path());
    command.env("ECHOPILOT_LOG", "trace");
    let server = Server::start_as(command);
    let headers = [
        ("x-forwarded-for", "203.0.113.77"),
        ("forwarded", "for=203.0.113.77"),
    ];
    let body = batch([event("action", "canary-user", "canary-feature")]).to_string();
    assert_eq!(server.post_raw(body.as_bytes(), &headers).0, 200);
    assert_eq!(server.post_raw(b"{broken", &headers).0, 400);
    server.get_with(
        "/api/analytics/usage",
        &[("x-dash-key", "canary-key-canary-key")],
    );
    let traced = server.stop();
    for secret in [
        "203.0.113.77",
        "canary-user",
        "canary-feature",
        "canary-key",
        crate::harness::KEY,
    ] {
        assert!(!traced.contains(secret), "{secret} was traced:\n{traced}");
    }
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
            assert!(!text.contains("203.0.113.77"), "{}", path.display());
            assert!(
                !text.contains("127.0.0.1:") || path.ends_with("holder"),
                "{}",
                path.display()
            );
        }
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Different events with the same id: of several users, anonymous ones, and of several types.
fn events_of_one_id(id: &str) -> Vec<Value> {
    let users = [json!("ann"), json!("bob"), json!(null), json!("an")];
    let types = ["page_view", "action", "conversion"];
    let event = |user: &Value, event_type: &str| json!({"event_type":event_type,"user_id":user,"event_id":id,"feature":"f"});
    types
        .iter()
        .flat_map(|event_type| users.iter().map(move |user| event(user, event_type)))
        .collect()
}

#[test]
fn an_id_of_another_user_or_type_is_another_event_wherever_the_first_one_lies() {
    let (dir, elsewhere) = (folder(), folder());
    let send = |server: &Server, id: &str| {
        let (status, response) = server.post(&batch(events_of_one_id(id)));
        assert_eq!(status, 200, "{response}");
        (response["logged"].clone(), response["duplicates"].clone())
    };
    let is_new = (json!(12), json!(0));
    let is_known = (json!(0), json!(12));
    // In one request, in a second one, after a restart from the log, after a seal, and after a
    // restart from segments.
    let server = Server::start(dir.path());
    let mut twice = events_of_one_id("first");
    twice.extend(events_of_one_id("first"));
    let response = server.post(&batch(twice)).1;
    assert_eq!(
        (&response["logged"], &response["duplicates"]),
        (&json!(12), &json!(12))
    );
    assert_eq!(send(&server, "first"), is_known);
    server.kill();
    let server = Server::start(dir.path());
    assert_eq!(send(&server, "first"), is_known);
    assert_eq!(send(&server, "second"), is_new);
    server.stop();
    assert_eq!(
        log_lines(dir.path()),
        [] as [Value; 0],
        "a clean stop seals"
    );
    let server = Server::start(dir.path());
    for id in ["first", "second"] {
        assert_eq!(send(&server, id), is_known);
    }
    // An import recognises earlier events and its own.
    server.stop();
    let file = elsewhere.path().join("in.ndjson");
    let lines: Vec<String> = ["second", "third", "third"]
        .iter()
        .flat_map(|id| events_of_one_id(id))
        .map(|event| event.to_string())
        .collect();
    std::fs::write(&file, lines.join("\n")).unwrap();
    for (accepted, duplicates) in [(12, 24), (0, 36)] {
        let imported = run_json(dir.path(), &["import", file.to_str().unwrap()]);
        assert_eq!(
            (&imported["accepted"], &imported["duplicates"]),
            (&json!(accepted), &json!(duplicates))
        );
    }
    let server = Server::start(dir.path());
    assert_eq!(send(&server, "third"), is_known);
    let usage = server.usage("?days=1");
    // Three users and one anonymous event each, of three ids and three types.
    assert_eq!(
        (&usage["total_events"], &usage["mau"]),
        (&json!(36), &json!(3))
    );
}
