//! Daily limits of the names that untrusted clients can send, and events beyond them.

use std::path::Path;
use std::process::Command;

use chrono::{Days, NaiveDate, Utc};
use serde_json::{Value, json};

use crate::faults::copy;
use crate::harness::{Server, batch, echopilot, folder, printed, run, run_json};

fn today() -> NaiveDate {
    Utc::now().date_naive()
}

/// The program with limits of three features and two new users per day.
fn limited(data_dir: &Path) -> Command {
    let mut command = echopilot(data_dir);
    command
        .env("ECHOPILOT_LIMIT_FEATURES", "3")
        .env("ECHOPILOT_LIMIT_NEW_USERS", "2");
    command
}

fn run_limited(data_dir: &Path, arguments: &[&str]) -> Value {
    let json = printed(limited(data_dir).args(arguments));
    serde_json::from_slice(&json).expect("a command prints JSON")
}

fn event(user: Option<&str>, feature: &str) -> Value {
    json!({"event_type":"action","user_id":user,"feature":feature,"metadata":{"plan":"free"}})
}

/// The results that must not depend on where events are stored: usage and some queries.
fn results(data_dir: &Path) -> Value {
    let mut usage = run_limited(data_dir, &["usage", "--days", "2"]);
    let mut zone = run_limited(
        data_dir,
        &["usage", "--days", "2", "--tz", "Africa/Abidjan"],
    );
    for result in [&mut usage, &mut zone] {
        let result = result.as_object_mut().unwrap();
        result.remove("ts");
        result.remove("window");
    }
    assert_eq!(usage, zone, "states and events give the same result");
    let query = |query: Value| {
        let mut result = run_limited(data_dir, &["query", &query.to_string()]);
        result.as_object_mut().unwrap().remove("ts");
        result
    };
    json!({
        "usage": usage,
        "features": query(json!({"metric":"feature_usage","days":2})),
        "beyond": query(json!({"metric":"feature_usage","days":2,"filter":{"feature":"d"}})),
        "users_beyond": query(json!({"metric":"active_users","days":2,"filter":{"feature":"d"}})),
        "funnel": query(json!({"metric":"funnel","days":2,"steps":[{"feature":"a"},{"feature":"d"}]})),
    })
}

#[test]
fn names_beyond_the_limits_of_a_day_are_stored_as_sent_and_counted_under_rest() {
    let dir = folder();
    let server = Server::start_as(limited(dir.path()));
    let (status, body) = server.post(&batch([
        event(Some("u1"), "a"),
        event(Some("u2"), "b"),
        event(Some("u1"), "c"),
    ]));
    assert_eq!((status, body.get("rest")), (200, None), "{body}");
    let (status, body) = server.post(&batch([
        event(Some("u1"), "d"),
        event(Some("u3"), "a"),
        event(Some("u4"), "e"),
        event(None, "b"),
    ]));
    assert_eq!(
        (status, &body["logged"], &body["rest"]),
        (
            200,
            &json!(4),
            &json!({"features":2,"users":2,"metadata_keys":0})
        ),
        "{body}"
    );
    let usage = server.usage("?days=2");
    assert_eq!(usage["feature_usage"], json!({"a":2,"b":2,"c":1}));
    assert_eq!(
        (&usage["mau"], &usage["total_events"], &usage["rest"]),
        (
            &json!(2),
            &json!(7),
            &json!({"feature_events":2,"user_events":2})
        ),
        "{usage}"
    );
    let (_, features) = server.ask(
        "/api/analytics/query",
        &json!({"metric":"feature_usage","days":2}),
    );
    assert_eq!(
        features["rest"],
        json!({"events":2,"users":1}),
        "{features}"
    );
    server.kill();

    // The results are the same after recovery from the log, seal, compaction and rebuild.
    let expected = results(dir.path());
    assert_eq!(expected["usage"]["rest"], usage["rest"]);
    assert_eq!(
        expected["beyond"]["rows"],
        json!([]),
        "a name beyond the limit has no row of its own"
    );
    assert_eq!(expected["beyond"]["rest"], json!({"events":1,"users":1}));
    let users = &expected["users_beyond"]["rows"];
    assert_eq!(users[1]["dau"], 1, "events are found by any name: {users}");
    assert_eq!(expected["funnel"]["rows"][1]["users"], 1);
    run_limited(dir.path(), &["seal"]);
    assert_eq!(results(dir.path()), expected, "sealed");
    assert_eq!(
        run_limited(dir.path(), &["rebuild"]),
        json!({"days":1,"changed":0,"kept":0})
    );
    assert_eq!(run(dir.path(), &["verify"]).status.code(), Some(0));

    // After a restart the first three names of the day are still the counted ones.
    let server = Server::start_as(limited(dir.path()));
    let (_, body) = server.post(&batch([event(Some("u3"), "f"), event(Some("u2"), "c")]));
    assert_eq!(
        body["rest"],
        json!({"features":1,"users":1,"metadata_keys":0}),
        "{body}"
    );
    let usage = server.usage("?days=2");
    assert_eq!(usage["feature_usage"], json!({"a":2,"b":2,"c":2}));
    assert_eq!(usage["rest"], json!({"feature_events":3,"user_events":3}));
    server.stop();
    assert_eq!(
        run_limited(dir.path(), &["rebuild"])["changed"],
        0,
        "two seals give the same state as a rebuild"
    );
    let lake = printed(limited(dir.path()).args(["user", "access", "u3"]));
    let lake = String::from_utf8(lake).unwrap();
    assert_eq!(lake.lines().count(), 2, "{lake}");
    assert!(lake.contains("\"feature\":\"f\""), "stored as sent: {lake}");
}

#[test]
fn a_user_beyond_the_limit_is_erased_like_any_other() {
    let dir = folder();
    let server = Server::start_as(limited(dir.path()));
    let events = ["u1", "u2", "u3", "u4", "u3"].map(|user| event(Some(user), "a"));
    assert_eq!(server.post(&batch(events)).1["rest"]["users"], 3);
    server.stop();
    let erased = run_limited(dir.path(), &["user", "erase", "u3"]);
    assert_eq!(
        (&erased["users_found"], &erased["events"]),
        (&json!(1), &json!(2)),
        "{erased}"
    );
    let usage = run_limited(dir.path(), &["usage", "--days", "2"]);
    assert_eq!(
        (&usage["mau"], &usage["total_events"], &usage["rest"]),
        (
            &json!(2),
            &json!(3),
            &json!({"feature_events":0,"user_events":1})
        )
    );
    assert_eq!(run_limited(dir.path(), &["rebuild"])["changed"], 0);
    for file in ["events", "users.ndjson", "analytics_events.ndjson"] {
        let found = Command::new("grep")
            .args(["-rl", "u3"])
            .arg(dir.path().join(file))
            .output()
            .unwrap();
        assert!(found.stdout.is_empty(), "{file}");
    }
}

#[test]
fn a_user_beyond_the_limit_gets_an_id_on_a_day_below_the_limit() {
    let (dir, input) = (folder(), folder());
    let file = input.path().join("in.ndjson");
    let line = |user: &str| format!("{}\n", event(Some(user), "a"));
    let import = |users: &[&str]| {
        let lines: String = users.iter().map(|user| line(user)).collect();
        std::fs::write(&file, lines).unwrap();
        run_limited(dir.path(), &["import", file.to_str().unwrap()])
    };
    import(&["u1", "u2", "u3"]);
    let usage = run_limited(dir.path(), &["usage", "--days", "1"]);
    assert_eq!(
        (&usage["mau"], &usage["rest"]["user_events"]),
        (&json!(2), &json!(1))
    );
    // With a higher limit the user gets an id; earlier events stay in `rest` until a rebuild.
    std::fs::write(&file, line("u3")).unwrap();
    run_json(dir.path(), &["import", file.to_str().unwrap()]);
    let usage = run_json(dir.path(), &["usage", "--days", "1"]);
    assert_eq!(
        (&usage["mau"], &usage["rest"]["user_events"]),
        (&json!(3), &json!(1))
    );
    assert_eq!(run_json(dir.path(), &["rebuild"])["changed"], 1);
    let usage = run_json(dir.path(), &["usage", "--days", "1"]);
    assert_eq!((&usage["mau"], usage.get("rest")), (&json!(3), None));
}

#[test]
fn only_names_of_stored_events_count_towards_the_limit() {
    let dir = folder();
    let server = Server::start_as(limited(dir.path()));
    let with_id = |feature: &str| {
        let mut event = event(Some("a"), feature);
        event["event_id"] = json!("one");
        event
    };
    server.post(&batch([with_id("a")]));
    let duplicates = server.post(&batch(["b", "c", "d", "e"].map(with_id)));
    assert_eq!(duplicates.1["duplicates"], 4);
    let mut rejected = event(Some("r"), "r");
    rejected["ts"] = json!("soon");
    assert_eq!(server.post(&batch([rejected])).0, 400);
    let (_, body) = server.post(&batch([event(Some("a"), "b"), event(Some("u2"), "c")]));
    assert_eq!(body.get("rest"), None, "{body}");
    assert_eq!(
        server.usage("?days=2")["feature_usage"],
        json!({"a":1,"b":1,"c":1})
    );
}

#[test]
fn an_unreadable_state_is_rebuilt_with_the_first_features_of_the_day() {
    let dir = folder();
    for features in [["a", "b"], ["c", "d"]] {
        let server = Server::start(dir.path());
        for feature in features {
            assert_eq!(server.post(&batch([event(Some("u1"), feature)])).0, 200);
        }
        server.stop();
    }
    let state = std::fs::read_dir(dir.path().join("states"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    std::fs::write(state.path(), "damaged").unwrap();
    assert_eq!(run(dir.path(), &["verify"]).status.code(), Some(1));
    assert_eq!(run_limited(dir.path(), &["rebuild"])["changed"], 1);
    let usage = run_limited(dir.path(), &["usage", "--days", "2"]);
    assert_eq!(usage["feature_usage"], json!({"a":1,"b":1,"c":1}));
    assert_eq!(usage["rest"], json!({"feature_events":1,"user_events":0}));
    assert_eq!(run_limited(dir.path(), &["rebuild"])["changed"], 0);
}

#[test]
fn usage_lists_the_requested_number_of_features_and_sums_up_the_others() {
    let dir = folder();
    let server = Server::start(dir.path());
    server.post(&batch(
        ["a", "b", "b", "c", "c", "c"].map(|feature| event(None, feature)),
    ));
    let usage = server.usage("?days=1&limit=2");
    assert_eq!(usage["feature_usage"], json!({"c":3,"b":2}));
    assert_eq!(usage["rest"], json!({"feature_events":1,"user_events":0}));
    let all = server.usage("?days=1&limit=10000");
    assert_eq!(
        (all["feature_usage"].clone(), all.get("rest")),
        (json!({"c":3,"b":2,"a":1}), None)
    );
    for wrong in ["0", "10001", "-1", "many", ""] {
        let (status, body) = server.get(&format!("/api/analytics/usage?limit={wrong}"));
        assert_eq!(
            (status, &body["error"]),
            (400, &json!("bad_limit")),
            "{wrong}"
        );
    }
}

#[test]
fn rollup_lines_stay_short_and_unreadable_ones_are_rebuilt() {
    let (dir, input) = (folder(), folder());
    let file = input.path().join("in.ndjson");
    let day = today() - Days::new(1);
    let lines: String = (0..1_500)
        .map(|number| {
            let line = json!({"ts":format!("{day}T12:00:00Z"),"event_type":"action","feature":format!("f{number:04}")});
            format!("{line}\n")
        })
        .collect();
    std::fs::write(&file, lines).unwrap();
    run_json(dir.path(), &["import", file.to_str().unwrap()]);
    run_json(dir.path(), &["rollup"]);
    let path = dir.path().join("analytics.ndjson");
    let written = std::fs::read(&path).unwrap();
    let line: Value = serde_json::from_slice(&written).unwrap();
    assert_eq!(line["feature_usage"].as_object().unwrap().len(), 1_000);
    assert_eq!(
        (&line["total_events"], &line["rest"]),
        (
            &json!(1_500),
            &json!({"feature_events":500,"user_events":0})
        )
    );
    let long = format!(
        "{{\"ts\":\"2020-01-01T03:15:00Z\",\"day\":\"{day}\",\"feature_usage\":{{\"{}\":1}}}}\n",
        "f".repeat(5 << 20)
    );
    let mut changed = written.clone();
    let digit = changed
        .windows(4)
        .position(|bytes| bytes == b"1500")
        .unwrap();
    changed[digit] = b'9';
    for unreadable in [long.into_bytes(), changed, written[..200].to_vec()] {
        let dir = copy(dir.path());
        let path = dir.path().join("analytics.ndjson");
        std::fs::write(&path, unreadable).unwrap();
        let out = folder();
        let to = out.path().to_str().unwrap();
        let exported = run_json(dir.path(), &["export", "--to", to]);
        assert_eq!(exported["rollups"], 0, "an unreadable line is not exported");
        assert_eq!(run_json(dir.path(), &["rollup"])["days"], json!([day]));
        assert_eq!(std::fs::read(&path).unwrap(), written);
    }
}

#[test]
fn metadata_keys_beyond_the_limit_of_a_day_are_stored_and_reported() {
    let dir = folder();
    let limited = || {
        let mut command = echopilot(dir.path());
        command.env("ECHOPILOT_LIMIT_METADATA_KEYS", "3");
        command
    };
    let with = |metadata: Value| json!({"event_type":"action","metadata":metadata});
    let server = Server::start_as(limited());
    let (_, body) = server.post(&batch([with(json!({"a":{"x":1,"y":2},"b":1}))]));
    assert_eq!(body.get("rest"), None, "{body}");
    let (_, body) = server.post(&batch([
        with(json!({"a":1,"c":"d\":"})),
        with(json!({"d":1,"e":2})),
        with(json!({"a":1,"f":2})),
        with(json!({})),
    ]));
    assert_eq!(
        (&body["logged"], &body["rest"]["metadata_keys"]),
        (&json!(4), &json!(2)),
        "an event counts once, and only by its keys of the first level: {body}"
    );
    let unstored = json!({"event_type":"nothing","metadata":{"g":1}});
    assert_eq!(server.post(&batch([unstored])).1["rejected"], 1);
    let status = server.get("/api/analytics/status").1;
    let limits = status["limits"].as_array().unwrap();
    let found = limits
        .iter()
        .find(|limit| limit["name"] == "metadata_keys_a_day");
    assert_eq!(
        found,
        Some(&json!({"name":"metadata_keys_a_day","limit":3,"used":3,"reached":2}))
    );
    server.kill();

    // Keys of the log are recovered by a restart, and keys of an import count too.
    let server = Server::start_as(limited());
    let (_, body) = server.post(&batch([with(json!({"e":1})), with(json!({"c":1}))]));
    assert_eq!(body["rest"]["metadata_keys"], 1, "{body}");
    server.stop();
    let file = folder();
    let file = file.path().join("events.ndjson");
    let lines = [
        json!({"a":1}),
        json!({"b":1,"c":1}),
        json!({"d":1}),
        json!({"e":1,"d":1}),
    ];
    let lines = lines.map(|metadata| format!("{}\n", with(metadata)));
    std::fs::write(&file, lines.concat()).unwrap();
    let report = printed(limited().args(["import", file.to_str().unwrap()]));
    let report: Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["rest"]["metadata_keys"], 2, "{report}");
}
