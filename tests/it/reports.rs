//! Saved reports and boards, annotations, and share links.

use serde_json::{Value, json};

use crate::harness::{KEY, PATIENCE, Server, batch, echopilot, event, folder, run, run_json};

const REPORTS: &str = "/api/analytics/reports";

/// Sends a request with a key, and returns status, body and the headers of the response.
fn send(
    server: &Server,
    method: &str,
    path: &str,
    key: &str,
    body: Option<&Value>,
) -> (u16, Value, ureq::http::HeaderMap) {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .allow_non_standard_methods(true)
        .timeout_global(Some(PATIENCE))
        .build()
        .into();
    let request = ureq::http::Request::builder()
        .method(method)
        .uri(format!("{}{path}", server.url))
        .header("authorization", format!("Bearer {key}"));
    let mut response = match body {
        Some(body) => agent.run(
            request
                .header("content-type", "application/json")
                .body(body.to_string())
                .unwrap(),
        ),
        None => agent.run(request.body(()).unwrap()),
    }
    .expect("a response");
    let text = response.body_mut().read_to_string().unwrap();
    let headers = response.headers().clone();
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    (response.status().as_u16(), body, headers)
}

fn put(server: &Server, path: &str, body: &Value) -> (u16, Value) {
    let (status, body, _) = send(server, "PUT", path, KEY, Some(body));
    (status, body)
}

fn report(name: &str) -> Value {
    json!({"kind": "report", "name": name, "view": "overview", "state": {"days": 7},
           "queries": [{"metric": "active_users", "days": 7}, {"metric": "event_types"}]})
}

#[test]
fn reports_and_boards_are_saved_with_versions_and_outlive_a_crash() {
    let dir = folder();
    let server = Server::start(dir.path());
    let weekly = format!("{REPORTS}/weekly");
    let (status, made) = put(&server, &weekly, &report("Weekly"));
    assert_eq!((status, &made["report"]["version"]), (200, &json!(1)));
    assert_eq!(made["report"]["updated_by"], "dashboard");
    let mut changed = report("Weekly users");
    changed["version"] = json!(1);
    assert_eq!(put(&server, &weekly, &changed).0, 200);
    // Two people changed the same version: the second is told so, and nothing is lost.
    let (status, stale) = put(&server, &weekly, &changed);
    assert_eq!((status, &stale["error"]), (409, &json!("report_changed")));
    let board =
        json!({"kind": "board", "name": "Team", "description": "For Mondays", "items": ["weekly"]});
    assert_eq!(put(&server, &format!("{REPORTS}/team"), &board).0, 200);
    let note = json!({"date": "2026-11-01", "to": "2026-11-03", "text": "<b>Release</b> 2"});
    let notes = "/api/analytics/annotations";
    assert_eq!(put(&server, &format!("{notes}/release-2"), &note).0, 200);
    for (path, body, code) in [
        (weekly.as_str(), json!({"kind": "report"}), "bad_report"),
        (&format!("{REPORTS}/A"), report("x"), "bad_report"),
        (
            &format!("{REPORTS}/wide"),
            json!({"kind": "board", "name": "Wide", "items": vec!["weekly"; 200]}),
            "bad_report",
        ),
        (
            &format!("{notes}/x"),
            json!({"date": "x"}),
            "bad_annotation",
        ),
    ] {
        let (status, said) = put(&server, path, &body);
        assert_eq!((status, &said["error"]), (400, &json!(code)), "{said}");
    }
    let found =
        [REPORTS, notes, &weekly, &format!("{weekly}/history")].map(|path| server.get(path));
    server.kill();
    let server = Server::start(dir.path());
    let again =
        [REPORTS, notes, &weekly, &format!("{weekly}/history")].map(|path| server.get(path));
    assert_eq!(found, again);
    let names = |list: &Value| -> Vec<Value> {
        let list = list.as_array().unwrap().iter();
        list.map(|report| report["name"].clone()).collect()
    };
    assert_eq!(names(&found[0].1["reports"]), ["Team", "Weekly users"]);
    assert_eq!(found[1].1["annotations"][0]["text"], "<b>Release</b> 2");
    assert_eq!(names(&found[3].1["history"]), ["Weekly"]);
    // The command line next to the server has the same.
    assert_eq!(
        run_json(dir.path(), &["report", "list"]),
        found[0].1["reports"]
    );
    let removed = server.delete(&weekly);
    assert_eq!(removed.1["reports"][0]["items"], Value::Null);
    for path in [
        &weekly,
        &format!("{weekly}/history"),
        &format!("{weekly}/links"),
    ] {
        assert_eq!(server.get(path).0, 404, "{path}");
    }
    assert_eq!(server.delete(&weekly).0, 404);
    assert_eq!(server.delete(&format!("{notes}/release-2")).0, 200);
    assert_eq!(server.delete(&format!("{notes}/release-2")).0, 404);
    server.stop();
    let audit = run_json(dir.path(), &["audit"]).to_string();
    for subject in ["set \\\"weekly\\\"", "removed \\\"weekly\\\"", "release-2"] {
        assert!(
            audit.contains(&subject.replace('\\', "\\\\")) || audit.contains(subject),
            "{audit}"
        );
    }
}

#[test]
fn reports_are_exported_imported_backed_up_and_verified() {
    let dir = folder();
    let [one, other, backups] = ["one", "other", "backups"].map(|name| dir.path().join(name));
    let set = |json: Value| run_json(&one, &["report", "set", &json.to_string()]);
    for id in ["b", "a"] {
        let mut body = report(id);
        body["id"] = json!(id);
        assert_eq!(set(body)["version"], 1);
    }
    set(json!({"id": "all", "kind": "board", "name": "All", "items": ["b", "a"]}));
    let note = json!({"id": "n", "date": "2026-11-01", "text": "Release"}).to_string();
    run_json(&one, &["annotation", "set", &note]);
    let exported = run_json(&one, &["report", "export"]);
    let file = dir.path().join("reports.json");
    std::fs::write(&file, exported.to_string()).unwrap();
    let file = format!("@{}", file.display());
    let imported = run_json(&other, &["report", "import", &file]);
    assert_eq!(
        imported,
        json!({"ok": true, "reports": 3, "annotations": 1})
    );
    let names = |value: &Value| value["reports"].as_array().map(Vec::len);
    let again = run_json(&other, &["report", "export"]);
    assert_eq!(
        (names(&again), &again["annotations"]),
        (Some(3), &exported["annotations"])
    );
    // All or none.
    let wrong = json!({"reports": [{"id": "new", "kind": "report", "name": "New"},
                                   {"id": "x", "kind": "board", "name": "X", "items": ["none"]}]});
    let output = run(&other, &["report", "import", &wrong.to_string()]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("reports[1].items[0] is \"none\""), "{said}");
    assert_eq!(run_json(&other, &["report", "export"]), again);
    let link = run_json(&one, &["report", "link", "a", "--days", "3"]);
    run_json(&one, &["backup", "--to", backups.to_str().unwrap()]);
    let restored = dir.path().join("restored");
    run_json(&restored, &["restore", backups.to_str().unwrap()]);
    assert_eq!(run_json(&restored, &["report", "export"]), exported);
    assert_eq!(
        run_json(&restored, &["report", "links", "a"])[0]["id"],
        link["id"]
    );
    assert_eq!(run_json(&restored, &["verify"])["damage"], json!([]));
    for name in ["reports.json", "annotations.json", "share_links.json"] {
        let path = restored.join(name);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, String::from_utf8_lossy(&whole).replacen('a', "b", 1)).unwrap();
        let verified = run(&restored, &["verify"]);
        let said = String::from_utf8_lossy(&verified.stdout).into_owned();
        assert_eq!(verified.status.code(), Some(1), "{name}");
        assert!(said.contains(name), "{said}");
        std::fs::write(&path, whole).unwrap();
    }
}

#[test]
fn a_share_link_shows_its_board_and_nothing_else() {
    let dir = folder();
    let mut command = echopilot(dir.path());
    command.env("ECHOPILOT_LIMIT_WRONG_KEYS", "0");
    let mut server = Server::start_as(command);
    server.post(&batch([event("action", "ann", "home")]));
    put(&server, &format!("{REPORTS}/weekly"), &report("Weekly"));
    let mut other = report("Other");
    other["queries"] = json!([{"metric": "feature_usage", "days": 3}]);
    put(&server, &format!("{REPORTS}/other"), &other);
    let board = json!({"kind": "board", "name": "Team", "items": ["weekly"]});
    put(&server, &format!("{REPORTS}/team"), &board);
    let note = json!({"date": "2026-11-01", "text": "Release"});
    put(&server, "/api/analytics/annotations/n", &note);
    let links = format!("{REPORTS}/team/links");
    let request = json!({"expires_in_days": 2, "origins": ["https://wiki.example"]});
    let (status, made) = server.ask(&links, &request);
    assert_eq!(status, 200, "{made}");
    let link = &made["link"];
    let (id, token) = (
        link["id"].as_str().unwrap(),
        link["token"].as_str().unwrap(),
    );
    assert_eq!(link["path"], format!("/shared/{id}#/shared?token={token}"));
    // Only a digest of the token is stored, and no response has it a second time.
    let stored = std::fs::read_to_string(dir.path().join("share_links.json")).unwrap();
    assert!(!stored.contains(token) && stored.contains(id));
    assert!(!server.get(&links).1.to_string().contains(token));
    let ask = |path: &str, body: &Value| {
        let (status, body, _) = send(&server, "POST", path, token, Some(body));
        (status, body)
    };
    let (status, shown, _) = send(&server, "GET", "/api/analytics/shared", token, None);
    assert_eq!((status, &shown["report"]["name"]), (200, &json!("Team")));
    assert_eq!(shown["reports"][0]["name"], "Weekly");
    assert_eq!(shown["reports"][1], Value::Null);
    assert_eq!(shown["annotations"][0]["text"], "Release");
    let query = "/api/analytics/query";
    let (status, found) = ask(query, &json!({"days": 7, "metric": "active_users"}));
    assert_eq!(
        (status, &found["rows"][6]["dau"]),
        (200, &json!(1)),
        "{found}"
    );
    for body in [
        json!({"metric": "active_users", "days": 8}),
        json!({"metric": "active_users"}),
        json!({"metric": "feature_usage", "days": 3}),
        json!({"metric": "active_users", "days": 7, "filter": {"user_id": "ann"}}),
        json!([{"metric": "active_users", "days": 7}]),
    ] {
        let (status, said) = ask(query, &body);
        assert_eq!(
            (status, &said["error"]),
            (403, &json!("share_link")),
            "{body}"
        );
    }
    let get = "/api/analytics/query?metric=active_users&days=7";
    for (method, path) in [
        ("GET", get),
        ("GET", "/api/analytics/usage"),
        ("GET", "/api/analytics/status"),
        ("GET", "/api/analytics/live"),
        ("GET", "/api/analytics/cohorts"),
        ("GET", "/api/analytics/export?days=1"),
        ("GET", "/api/analytics/users/ann/events"),
        ("DELETE", "/api/analytics/users/ann"),
        ("GET", "/api/analytics/audit"),
        ("GET", "/api/analytics/annotations"),
        ("PUT", "/api/analytics/annotations/n"),
        ("GET", REPORTS),
        ("POST", REPORTS),
        ("GET", &format!("{REPORTS}/team")),
        ("PUT", &format!("{REPORTS}/team")),
        ("DELETE", &format!("{REPORTS}/team")),
        ("GET", &links),
        ("POST", &links),
        ("DELETE", &format!("{links}/{id}")),
        ("POST", "/demo/api/analytics/query"),
        ("GET", "/metrics"),
    ] {
        let (status, said, _) = send(&server, method, path, token, None);
        assert_eq!(
            (status, &said["error"]),
            (403, &json!("share_link")),
            "{method} {path}"
        );
    }
    // A dashboard key is not a token, and neither are other keys.
    assert_eq!(server.get("/api/analytics/shared").0, 404);
    for key in [id, &token[1..], "", &token.to_uppercase()] {
        assert_eq!(
            send(&server, "GET", "/api/analytics/shared", key, None).0,
            401,
            "{key}"
        );
    }
    // Only the listed origin may embed the page of the link, and only that page.
    let policy = |path: &str| {
        let (status, page, headers) = send(&server, "GET", path, KEY, None);
        assert_eq!(status, 200);
        assert!(page.as_str().unwrap().contains("<noscript>"), "{page}");
        let policy = headers["content-security-policy"].to_str().unwrap();
        let (_, ancestors) = policy.split_once("frame-ancestors ").unwrap();
        (
            ancestors.to_owned(),
            headers.contains_key("x-frame-options"),
        )
    };
    let page = format!("/shared/{id}");
    assert_eq!(policy(&page), ("https://wiki.example".to_owned(), false));
    for path in ["/", "/shared/0123456789abcdef", "/demo/"] {
        assert_eq!(policy(path), ("'none'".to_owned(), true), "{path}");
    }
    // It survives a restart, and not its revocation.
    server.stop();
    server = Server::start(dir.path());
    let shown = |server: &Server| send(server, "GET", "/api/analytics/shared", token, None).0;
    assert_eq!(shown(&server), 200);
    assert_eq!(server.delete(&format!("{links}/{id}")).0, 200);
    assert_eq!(server.delete(&format!("{links}/{id}")).0, 404);
    assert_eq!(shown(&server), 401);
    let traced = server.kill();
    assert!(!traced.contains(token), "{traced}");
}

#[test]
fn an_erased_user_is_in_no_saved_report() {
    let dir = folder();
    let mut body = report("Ann's page");
    body["id"] = json!("page");
    for user in ["secret-ann", "secret-ben"] {
        body["state"] = json!({"user": user, "of": ["secret-cid", user]});
        run_json(dir.path(), &["report", "set", &body.to_string()]);
    }
    let receipt = run_json(dir.path(), &["user", "erase", "secret-ann", "secret-cid"]);
    assert_eq!(
        (&receipt["reports"], &receipt["alerts"]),
        (&json!(1), &json!(0))
    );
    let found = run_json(dir.path(), &["report", "show", "page"]);
    assert_eq!(
        found["state"],
        json!({"user": "secret-ben", "of": ["(erased user)", "secret-ben"]})
    );
    let file = std::fs::read_to_string(dir.path().join("reports.json")).unwrap();
    assert!(
        !file.contains("secret-ann") && !file.contains("secret-cid"),
        "{file}"
    );
}

#[test]
fn a_removed_report_and_an_expired_link_show_nothing() {
    let dir = folder();
    let server = Server::start(dir.path());
    let links = format!("{REPORTS}/weekly/links");
    put(&server, &format!("{REPORTS}/weekly"), &report("Weekly"));
    let token = |answer: Value| answer["link"]["token"].as_str().unwrap().to_owned();
    let shown =
        |server: &Server, token: &str| send(server, "GET", "/api/analytics/shared", token, None).0;
    let first = token(server.ask(&links, &json!({"expires_in_days": 1})).1);
    assert_eq!(shown(&server, &first), 200);
    server.delete(&format!("{REPORTS}/weekly"));
    // A later report with this id has other links.
    put(&server, &format!("{REPORTS}/weekly"), &report("Weekly"));
    assert_eq!(shown(&server, &first), 401);
    let second = token(server.ask(&links, &json!({"expires_in_days": 1})).1);
    server.stop();
    let file = dir.path().join("share_links.json");
    // As if the day were over: the file of an earlier version has no checksum.
    let stored: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let mut links = stored["checked"].clone();
    let server = {
        std::fs::write(&file, links.to_string()).unwrap();
        Server::start(dir.path())
    };
    assert_eq!(shown(&server, &second), 200);
    server.stop();
    links[0]["expires_at"] = json!("2026-01-01T00:00:00Z");
    std::fs::write(&file, links.to_string()).unwrap();
    let server = Server::start(dir.path());
    assert_eq!(shown(&server, &second), 401);
}
