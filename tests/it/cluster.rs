//! Several servers that publish to one table, and servers that run queries on it, over an S3 server
//! that fails.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use chrono::{Days, Utc};
use echopilot_analytics::metrics::NAMES;
use serde_json::{Value, json};

use crate::bucket::{S3, TABLE, read_table};
use crate::delta::published_erasure;
use crate::harness::{
    FEATURES, KEY, Server, at_time, batch, echopilot, event, folder, numbers_below, printed,
    refused, run, run_json,
};
use crate::metrics::request_of;
use crate::oracle::python;

/// Longest wait for the table to have everything: publications are a second apart, and after a
/// request that failed several times there is a pause.
const PATIENCE: Duration = Duration::from_secs(180);
/// Days with events, the last of which is yesterday: all of them are over.
const DAYS: u64 = 3;

/// A server that publishes to a table under an id, each second.
fn member(mut command: Command, to: &str, id: &str) -> Command {
    command
        .env("ECHOPILOT_PUBLISH", to)
        .env("ECHOPILOT_PUBLISH_EVERY", "1")
        .env("ECHOPILOT_SERVER_ID", id)
        .env("ECHOPILOT_JOIN_AFTER_SECONDS", "1");
    command
}

/// A server that reads a table, each second.
fn node(mut command: Command, from: &str) -> Command {
    command
        .env("ECHOPILOT_READ_FROM", from)
        .env("ECHOPILOT_READ_EVERY", "1");
    command
}

/// Waits until something is so.
fn eventually(what: &str, mut is_so: impl FnMut() -> Result<(), String>) {
    let began = Instant::now();
    loop {
        match is_so() {
            Ok(()) => return,
            Err(why) => assert!(began.elapsed() < PATIENCE, "{what}: {why}"),
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn same(found: &Value, expected: &Value) -> Result<(), String> {
    match found == expected {
        true => Ok(()),
        false => Err(format!("{found} and not {expected}")),
    }
}

/// The rows of a metric over all days.
fn rows_of(server: &Server, metric: &str) -> Value {
    let mut request = request_of(metric);
    request["days"] = json!(DAYS + 2);
    request["end"] = json!(Utc::now().date_naive().to_string());
    let (status, answer) = server.ask("/api/analytics/query", &request);
    assert_eq!(status, 200, "{metric}: {answer}");
    let mut rows = answer["rows"].clone();
    for row in rows.as_array_mut().unwrap() {
        // Two servers receive an event at two times.
        row.as_object_mut().unwrap().remove("received_at");
    }
    rows
}

/// A batch of events of past days, each with its own time and id.
fn batch_of(round: u64, size: u64, below: &mut impl FnMut(u64) -> u64) -> Value {
    let today = Utc::now().date_naive();
    batch((0..size).map(|place| {
        let user = format!("user-{:02}", below(25));
        let feature = FEATURES[below(FEATURES.len() as u64) as usize];
        let kind = ["page_view", "action", "conversion"][below(3) as usize];
        let mut event = event(kind, &user, feature);
        if feature.is_empty() {
            event.as_object_mut().unwrap().remove("feature");
        }
        let day = today - Days::new(1 + below(DAYS));
        // No two events have one time: their order is that of the servers otherwise.
        let (minute, micros) = (below(1_440), round * size + place);
        event["ts"] = json!(format!(
            "{day}T{:02}:{:02}:07.{micros:06}Z",
            minute / 60,
            minute % 60
        ));
        event["event_id"] = json!(format!("event-{round}-{place}"));
        let variant = if below(2) == 0 { "a" } else { "b" };
        event["metadata"] = json!({"variant": variant, "amount": below(90)});
        event
    }))
}

#[test]
fn three_servers_and_two_nodes_give_the_numbers_of_one_server_that_got_everything() {
    let dir = folder();
    let data = |name: &str| dir.path().join(name);
    let mut below = numbers_below(22);
    // One request in twenty fails.
    let s3 = S3::start(20);
    let ids = ["a", "b", "c"];
    // Their clocks are a minute apart.
    let clocks = ["+0", "+30", "-30"];
    let start = |at: usize| {
        let mut command = member(s3.command(&data(ids[at])), TABLE, ids[at]);
        at_time(&mut command, clocks[at]);
        Server::start_as(command)
    };
    let start_node = |name: &str| Server::start_as(node(s3.command(&data(name)), TABLE));
    let mut servers: Vec<Server> = (0..3).map(start).collect();
    let mut nodes = vec![start_node("n1"), start_node("n2")];
    let reference = Server::start(&data("one"));

    let mut unique = 0;
    for round in 0..9 {
        let events = batch_of(round, 40, &mut below);
        let of_erased = |event: &Value| round > 4 && event["user_id"] == "user-07";
        let events = events["events"].as_array().unwrap().clone();
        let events = batch(events.into_iter().filter(|event| !of_erased(event)));
        unique += events["events"].as_array().unwrap().len();
        let (first, second) = (round as usize % 3, (round as usize + 1) % 3);
        for server in [&reference, &servers[first], &servers[second]] {
            let (status, answer) = server.post(&events);
            assert_eq!((status, &answer["rejected"]), (200, &json!(0)), "{answer}");
        }
        run_json(&data(ids[first]), &["seal"]);
        if round == 4 {
            // While the servers publish: with a pause after a failed request it is repeated.
            eventually("the erasure", || {
                match servers[1].delete("/api/analytics/users/user-07") {
                    (200, _) => Ok(()),
                    (_, answer) => Err(answer.to_string()),
                }
            });
            let (status, receipt) = reference.delete("/api/analytics/users/user-07");
            assert_eq!(status, 200, "{receipt}");
            unique -= receipt["events"].as_u64().unwrap() as usize;
        }
        // At no particular moment of its publication.
        servers.remove(first).kill();
        servers.insert(first, start(first));
        if round == 5 {
            nodes.remove(0).kill();
            nodes.insert(0, start_node("n1"));
        }
    }
    for id in ids {
        run_json(&data(id), &["seal"]);
    }

    // Each event is in the table once, by another reader; one file a day.
    eventually("the table", || {
        same(&read_table(&s3, &["count", "{}"]), &json!(unique))
    });
    for node in &nodes {
        for metric in NAMES {
            let expected = rows_of(&reference, metric);
            eventually(metric, || same(&rows_of(node, metric), &expected));
        }
        let (status, answer) = node.post(&batch([event("action", "ann", "a")]));
        assert_eq!((status, &answer["error"]), (503, &json!("query_node")));
        let (status, answer) = node.delete("/api/analytics/users/user-01");
        assert_eq!((status, &answer["error"]), (503, &json!("query_node")));
    }
    // What the table of several servers lacks, from the data folder of a node and its server.
    let tables = |name: &str| {
        run_json(&data(name), &["rollup"]);
        let to = dir.path().join(format!("tables-of-{name}"));
        let to = to.to_str().unwrap();
        let exported = run_json(&data(name), &["export", "--for", "delta", "--to", to]);
        assert_eq!(exported["events"], json!(unique), "{exported}");
        python(&["tests/oracle/delta.py", "daily", to])
    };
    let expected = tables("one");
    assert_eq!(expected[0].as_array().map(Vec::len), Some(DAYS as usize));
    assert_eq!(tables("n1"), expected);
    assert_eq!(tables("n2"), expected);
    eventually("the record of the erasure", || {
        let objects = s3.objects();
        match objects.iter().any(|name| name.contains("_erasures")) {
            false => Ok(()),
            true => Err(format!("{objects:?}")),
        }
    });
    for server in &servers {
        let path = "/api/analytics/users/user-07/events";
        let (status, events) = server.get_bytes(path, &[("x-dash-key", KEY)]);
        assert_eq!((status, events), (200, Vec::new()));
    }
    for server in servers.into_iter().chain(nodes) {
        server.stop();
    }
}

#[test]
fn ids_that_one_server_has_linked_count_as_one_user_and_are_erased_by_all() {
    let dir = folder();
    let table = dir.path().join("table");
    let table = table.to_str().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let servers = [(&a, "a"), (&b, "b")]
        .map(|(data, id)| Server::start_as(member(echopilot(data), table, id)));
    let reader = Server::start_as(node(echopilot(&dir.path().join("n")), table));
    let yesterday = Utc::now().date_naive() - Days::new(1);
    let send = |server: &Server, second: u8, mut message: Value| {
        message["timestamp"] = json!(format!("{yesterday}T10:00:{second:02}Z"));
        message["messageId"] = json!(format!("message-{second}"));
        let (status, answer) = server.ask("/v1/batch", &json!({"batch": [message]}));
        assert_eq!(status, 200, "{answer}");
    };
    // One server has the events of both ids, and the other one knows that they are of one user.
    let page = json!({"type": "page", "anonymousId": "visitor-1", "name": "prices"});
    send(&servers[0], 1, page);
    let track = json!({"type": "track", "userId": "user-1", "event": "used"});
    send(&servers[0], 2, track);
    let identify = json!({"type": "identify", "userId": "user-1", "anonymousId": "visitor-1"});
    send(&servers[1], 3, identify);
    for data in [&a, &b] {
        run_json(data, &["seal"]);
    }
    assert_eq!(servers[0].usage("?days=30")["mau"], json!(2));
    let counts = |events: u64, users: u64| {
        let usage = reader.usage("?days=30");
        let found = json!([usage["total_events"], usage["mau"]]);
        same(&found, &json!([events, users]))
    };
    eventually("the node", || counts(2, 1));

    let (status, receipt) = servers[0].delete("/api/analytics/users/user-1");
    assert_eq!((status, &receipt["events"]), (200, &json!(1)), "{receipt}");
    eventually("the node", || counts(0, 0));
    eventually("the server without the link", || {
        let usage = servers[0].usage("?days=30");
        same(&usage["total_events"], &json!(0))
    });
    for server in servers.into_iter().chain([reader]) {
        server.stop();
    }
}

#[test]
fn no_day_is_joined_before_all_servers_have_applied_an_erasure() {
    let dir = folder();
    let data = |name: &str| dir.path().join(name);
    let table = dir.path().join("table");
    let table = table.to_str().unwrap();
    let start = |id: &str| Server::start_as(member(echopilot(&data(id)), table, id));
    let (a, c) = (start("a"), start("c"));
    let reader = Server::start_as(node(echopilot(&data("n")), table));
    let mut events = 0;
    let mut send = |user: &str, days: u64| {
        let mut event = event("action", user, "a");
        event["ts"] = json!(Utc::now() - Days::new(days));
        assert_eq!(a.post(&batch([event])).0, 200);
        run_json(&data("a"), &["seal"]);
        events += 1;
        eventually("the node", || {
            same(&reader.usage("?days=3")["total_events"], &json!(events))
        });
    };
    let own_files = || {
        let mut command = echopilot(&data("none"));
        command.args(["table", "servers", "--at", table]);
        let listed: Value = serde_json::from_slice(&printed(&mut command)).unwrap();
        assert_eq!(listed["servers"][0]["id"], "a", "{listed}");
        listed["servers"][0]["files"].clone()
    };
    // A joined file belongs to none of the servers.
    send("bob", 1);
    send("bob", 1);
    eventually("the first join", || same(&own_files(), &json!(0)));
    c.kill();
    eventually("the erasure", || {
        match a.delete("/api/analytics/users/ann") {
            (200, _) => Ok(()),
            (_, answer) => Err(answer.to_string()),
        }
    });
    send("bob", 1);
    send("bob", 1);
    // Each is published after the joins of the publication before.
    for _ in 0..3 {
        send("bob", 0);
    }
    assert_eq!(own_files(), json!(5));
    let c = start("c");
    eventually("the second join", || same(&own_files(), &json!(3)));
    for server in [a, c, reader] {
        server.stop();
    }
}

#[test]
fn a_server_that_does_not_return_is_retired_and_a_new_one_knows_who_was_erased() {
    let dir = folder();
    let data = |name: &str| dir.path().join(name);
    let s3 = S3::start(20);
    let command = |id: &str| {
        let mut command = member(s3.command(&data(id)), TABLE, id);
        // Each file stays that of its server.
        command.env("ECHOPILOT_JOIN_AFTER_SECONDS", "3600");
        command
    };
    let start = |id: &str| Server::start_as(command(id));
    let (a, c) = (start("a"), start("c"));
    let reader = Server::start_as(node(s3.command(&data("n")), TABLE));
    let yesterday = Utc::now().date_naive() - Days::new(1);
    let of = |user: &str| {
        let mut event = event("action", user, "a");
        event["ts"] = json!(format!("{yesterday}T10:00:00Z"));
        event["event_id"] = json!(format!("event of {user}"));
        event
    };
    let send = |server: &Server, user: &str| {
        let (status, answer) = server.post(&batch([of(user)]));
        assert_eq!((status, &answer["rejected"]), (200, &json!(0)), "{answer}");
        answer
    };
    send(&a, "bob");
    send(&c, "ann");
    send(&c, "cyd");
    for id in ["a", "c"] {
        run_json(&data(id), &["seal"]);
    }
    let counts = |users: u64| {
        let usage = reader.usage("?days=3");
        let found = json!([usage["total_events"], usage["mau"]]);
        same(&found, &json!([users, users]))
    };
    eventually("the node", || counts(3));
    c.kill();

    eventually("the erasure", || {
        match a.delete("/api/analytics/users/ann") {
            (200, _) => Ok(()),
            (_, answer) => Err(answer.to_string()),
        }
    });
    let table = |arguments: &[&str]| -> Value {
        let mut command = s3.command(&data("none"));
        command.arg("table").args(arguments).args(["--at", TABLE]);
        serde_json::from_slice(&printed(&mut command)).unwrap()
    };
    // It waits for the server that is gone, which has the events.
    eventually("the erasure by the other server", || {
        let listed = table(&["servers"]);
        let ids = [&listed["servers"][0]["id"], &listed["servers"][1]["id"]];
        assert_eq!(ids, [&json!("a"), &json!("c")]);
        assert!(
            listed["servers"][1]["erasing"].as_u64() > Some(0),
            "{listed}"
        );
        same(&listed["servers"][0]["erasing"], &json!(0))
    });
    counts(3).unwrap();
    let retired = table(&["retire", "c"]);
    assert_eq!(retired["files"], json!(1), "{retired}");
    assert_eq!(retired["servers"], json!(["a"]), "{retired}");
    eventually("the erasure in its file", || counts(2));
    eventually("the record", || {
        same(&table(&["servers"])["open_erasures"], &json!(0))
    });
    assert_eq!(table(&["retire", "c"])["version"], Value::Null);
    assert!(!data("none").exists());

    // It returns nevertheless: it says why it publishes nothing, and cannot be started again.
    let back = start("c");
    send(&back, "gus");
    eventually("its error", || {
        let (_, status) = back.get("/api/analytics/status");
        let error = status["publication"]["last_error"].as_str().unwrap_or("");
        match error.contains("retired") && error.contains("a new --server-id") {
            true => Ok(()),
            false => Err(status["publication"].to_string()),
        }
    });
    back.stop();
    refused(command("c"), "a new --server-id");
    // What it took is added to another server; what the table has already counts once.
    let events = data("events of c.ndjson");
    let events = events.to_str().unwrap();
    assert!(
        run(&data("c"), &["events", "--days", "3", events])
            .status
            .success()
    );
    let imported = run_json(&data("a"), &["import", events]);
    assert_eq!(imported["accepted"], json!(2), "{imported}");
    eventually("the node", || counts(3));

    // A new one has an event of the erased user, and gets more before and after it knows of her.
    let file = dir.path().join("events");
    std::fs::write(&file, format!("{}\n{}", of("ann"), of("eve"))).unwrap();
    run_json(&data("d"), &["import", file.to_str().unwrap()]);
    let d = start("d");
    let mut late = of("ann");
    late["event_id"] = json!("another event of ann");
    d.post(&batch([late.clone(), of("dan")]));
    eventually("the new server", || {
        let (_, status) = d.get("/api/analytics/status");
        let version = status["publication"]["version"].as_u64();
        version.map(drop).ok_or(status["publication"].to_string())
    });
    late["event_id"] = json!("a third event of ann");
    let (status, answer) = d.post(&batch([late]));
    assert_eq!((status, &answer["ignored"]), (200, &json!(1)), "{answer}");
    run_json(&data("d"), &["seal"]);
    eventually("the node", || counts(5));
    let usage = d.usage("?days=3");
    assert_eq!(usage["total_events"], json!(2), "{usage}");
    let users = d.get_bytes("/api/analytics/users/ann/events", &[("x-dash-key", KEY)]);
    assert_eq!(users, (200, Vec::new()));
    for server in [a, d, reader] {
        server.stop();
    }
}

#[test]
fn a_data_folder_is_for_one_table_and_one_kind_of_server() {
    let dir = folder();
    let (a, n) = (dir.path().join("a"), dir.path().join("n"));
    let (table, other) = (dir.path().join("table"), dir.path().join("other"));
    let place = |path: &Path| path.to_str().unwrap().to_owned();
    let server = Server::start_as(member(echopilot(&a), &place(&table), "a"));
    let reader = Server::start_as(node(echopilot(&n), &place(&table)));
    let yesterday = Utc::now().date_naive() - Days::new(1);
    let mut sent = event("action", "ann", "a");
    sent["ts"] = json!(format!("{yesterday}T10:00:00Z"));
    server.post(&batch([sent]));
    run_json(&a, &["seal"]);
    eventually("the node", || {
        let usage = reader.usage("?days=3");
        same(&usage["total_events"], &json!(1))
    });
    // Queries see a day as soon as it is replaced, and the version is named once all its days are.
    eventually("the version", || {
        let (_, status) = reader.get("/api/analytics/status");
        let from = same(&status["reads"]["from"], &json!(place(&table)));
        from.and(
            status["reads"]["version"]
                .as_u64()
                .map(|_| ())
                .ok_or(status.to_string()),
        )
    });
    let (_, status) = server.get("/api/analytics/status");
    assert_eq!(status["publication"]["server"], "a");
    // An erasure waits for no server but this one.
    let (status, receipt) = server.delete("/api/analytics/users/ann");
    assert_eq!((status, &receipt["events"]), (200, &json!(1)), "{receipt}");
    let again = || server.delete("/api/analytics/users/ann").1;
    let published = published_erasure(receipt, again);
    assert_eq!(published["erasing"], Value::Null, "{published}");
    eventually("the node", || {
        let usage = reader.usage("?days=3");
        same(&usage["total_events"], &json!(0))
    });
    server.post(&batch([event("action", "bob", "a")]));
    server.stop();
    // Without the server, an erasure would not reach the table.
    let output = run(&a, &["user", "erase", "bob"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("--server-id a"), "{said}");

    let says = "publishes to";
    refused(member(echopilot(&a), &place(&other), "a"), says);
    refused(member(echopilot(&a), &place(&table), "b"), says);
    refused(
        node(echopilot(&a), &place(&table)),
        "use another data folder",
    );
    assert!(!other.exists());
    reader.post(&batch([event("action", "bob", "a")]));
    reader.stop();
    refused(member(echopilot(&n), &place(&table), "n"), "changes none");
    let file = dir.path().join("events");
    std::fs::write(&file, r#"{"event_type":"action"}"#).unwrap();
    let output = run(&n, &["import", file.to_str().unwrap()]);
    assert!(!output.status.success());
    let mut command = member(echopilot(&dir.path().join("x")), &place(&table), "A-1");
    command.env("ECHOPILOT_SERVER_ID", "A-1");
    refused(command, "lower-case letters and digits");
}
