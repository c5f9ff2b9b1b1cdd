//! Alerts and digests that users define, against receivers of webhooks and of e-mails.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};

use chrono::{DateTime, Days, TimeDelta, Utc};
use clap::Parser;
use echopilot_analytics::alerts::Alert;
use echopilot_analytics::alerts::sender::{MessageSender, signature};
use echopilot_analytics::config::MessageConfig;
use echopilot_analytics::engine::{AlertsAnswer, Engine};
use serde_json::{Value, json};

use crate::faults::with_fault;
use crate::harness::{
    KEY, PATIENCE, Server, at_time, batch, echopilot, engine, event, folder, free_port, ingest,
    run, run_json,
};

const ALERTS: &str = "/api/analytics/alerts";

#[derive(Parser)]
struct Settings {
    #[command(flatten)]
    messages: MessageConfig,
}

/// A sender with these settings.
fn sender(arguments: &[&str]) -> MessageSender {
    let settings = Settings::parse_from([&["x"], arguments].concat());
    MessageSender::new(&settings.messages).expect("settings")
}

/// A request that a receiver got: its head and its body.
type Received = (String, Value);

/// A receiver of webhooks, which responds with these statuses, one after the other, and then with
/// 200.
struct Hooks {
    url: String,
    received: Receiver<Received>,
}

impl Hooks {
    fn start(statuses: &[&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, received) = channel();
        let mut statuses = Vec::from(statuses).into_iter();
        std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let status = statuses.next().unwrap_or("200 OK");
                let Some(request) = read_request(&connection) else {
                    continue;
                };
                // Before the response: what the client knows to be delivered can be read here.
                if sender.send(request).is_err() {
                    return;
                }
                // The client may have ended.
                let _ = write!(
                    &connection,
                    "HTTP/1.1 {status}\r\nlocation: /other\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                );
            }
        });
        Self { url, received }
    }

    fn next(&self) -> Received {
        self.received.recv_timeout(PATIENCE).expect("a webhook")
    }

    /// Requests that arrived and were not read.
    fn others(&self) -> usize {
        self.received.try_iter().count()
    }
}

fn read_request(connection: &TcpStream) -> Option<Received> {
    let mut reader = BufReader::new(connection);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let head = head.to_lowercase();
    let length = head.split("content-length: ").nth(1)?;
    let mut body = vec![0; length.lines().next()?.parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    Some((head, serde_json::from_slice(&body).ok()?))
}

/// A mail server: the lines of each conversation.
fn mail_server() -> (String, Receiver<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("smtp://{}", listener.local_addr().unwrap());
    let (sender, received) = channel();
    std::thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            let mut lines = Vec::new();
            let mut is_data = false;
            let say = |text: &str| write!(&connection, "{text}\r\n");
            let _ = say("220 test");
            for line in BufReader::new(&connection).lines().map_while(Result::ok) {
                lines.push(line.clone());
                let _ = match (is_data, line.split(' ').next().unwrap_or_default()) {
                    (true, ".") => {
                        is_data = false;
                        say("250 stored")
                    }
                    (true, _) => Ok(()),
                    (false, "EHLO") => say("250-test\r\n250 8BITMIME"),
                    (false, "DATA") => {
                        is_data = true;
                        say("354 go on")
                    }
                    (false, "QUIT") => say("221 bye"),
                    _ => say("250 ok"),
                };
            }
            if sender.send(lines).is_err() {
                return;
            }
        }
    });
    (url, received)
}

fn at(time: &str) -> DateTime<Utc> {
    time.parse().expect("a time")
}

fn set(
    engine: &Engine,
    id: &str,
    alert: &Value,
    now: DateTime<Utc>,
) -> Result<AlertsAnswer, String> {
    let alert = Alert::parse(alert.to_string().as_bytes());
    let set = alert.and_then(|alert| engine.by("anna", now).set_alert(id, alert, None));
    set.map_err(|error| error.to_string())
}

/// Events of so many users on a day.
fn users(engine: &Engine, count: usize, day: DateTime<Utc>) {
    let events: Vec<Value> = (0..count)
        .map(|user| {
            let mut event = event("action", &format!("u{user}"), "home");
            event["ts"] = json!(day.to_rfc3339());
            event
        })
        .collect();
    assert_eq!(ingest(engine, &events, day).logged, count);
}

/// Opens the store at a time, which a running process would not trust at once after a jump, and
/// runs its alerts.
fn run_at(data_dir: &Path, sender: &MessageSender, now: DateTime<Utc>) -> Engine {
    let store = engine(data_dir, now);
    store.run_user_alerts(sender, now).unwrap();
    store
}

fn state(engine: &Engine, id: &str) -> Value {
    let found = engine.user_alerts().unwrap().alerts;
    let alert = found.into_iter().find(|alert| alert.id == id).unwrap();
    serde_json::to_value(alert.state).unwrap()
}

#[test]
fn an_alert_starts_and_ends_once_over_restarts_and_missed_days() {
    let dir = folder();
    let hooks = Hooks::start(&[]);
    let sender = sender(&["--webhook-allow", "127.0.0.1"]);
    let first = at("2026-11-01T12:00:00Z");
    // Users of each day.
    let days = [5, 5, 2, 2, 2, 6, 6];
    let alert = json!({"name": "Few users", "query": {"metric": "active_users", "days": 3},
        "value": "rows[-1].dau", "when": {"below": 4}, "for": 2, "to": [format!("{}/a?key=x", hooks.url)]});
    set(&engine(dir.path(), first), "few", &alert, first).unwrap();
    let mut firing = Vec::new();
    for (number, count) in days.into_iter().enumerate() {
        let day = first + TimeDelta::days(number as i64);
        let mut store = run_at(dir.path(), &sender, day);
        users(&store, count, day);
        // Several times on the day, and with restarts; the fourth night is missed.
        store
            .run_user_alerts(&sender, day + TimeDelta::minutes(2))
            .unwrap();
        for hours in [13, 14] {
            if number != 3 {
                drop(store);
                store = run_at(dir.path(), &sender, day + TimeDelta::hours(hours));
            }
        }
        firing.push(state(&store, "few")["firing"].clone());
    }
    let store = run_at(dir.path(), &sender, first + TimeDelta::days(7));
    // The 3rd and the 4th day have few users, which is known on the 5th; the 6th has more.
    assert_eq!(
        firing,
        [false, false, false, false, true, false, false].map(Value::from)
    );
    let (head, started) = hooks.next();
    assert!(head.starts_with("post /a?key=x http/1.1\r\n"), "{head}");
    let fields = ["type", "event", "value", "at", "tz", "when"].map(|name| started[name].clone());
    let expected = [
        json!("alert"),
        json!("started"),
        json!(2.0),
        json!("2026-11-04"),
        json!("UTC"),
        json!({"below": 4.0}),
    ];
    assert_eq!(fields, expected);
    assert_eq!(
        started["text"].as_str().unwrap().lines().next(),
        Some("Alert: Few users")
    );
    let (_, ended) = hooks.next();
    assert_eq!(
        (&ended["event"], &ended["at"]),
        (&json!("ended"), &json!("2026-11-06"))
    );
    assert_ne!(started["id"], ended["id"]);
    assert_eq!(hooks.others(), 0);
    let found = state(&store, "few");
    assert_eq!(
        (&found["evaluated_through"], &found["value"]),
        (&json!("2026-11-07"), &json!(6.0))
    );
    // The signature is that of the body as it was sent, with the key of the list.
    let key = store.user_alerts().unwrap().signing_key;
    let sent = head
        .split("x-echopilot-signature: ")
        .nth(1)
        .unwrap()
        .lines()
        .next()
        .unwrap();
    let seconds = sent[2..].split(',').next().unwrap().parse().unwrap();
    let body = serde_json::to_vec(&started).unwrap();
    assert_eq!(sent, signature(&key, seconds, &body));
}

#[test]
fn a_message_that_fails_is_tried_three_times_and_kept_over_a_crash() {
    let dir = folder();
    let sender = sender(&["--webhook-allow", "127.0.0.1"]);
    let hooks = Hooks::start(&[
        "500 No",
        "302 Found",
        "200 OK",
        "503 No",
        "503 No",
        "503 No",
    ]);
    let now = at("2026-11-05T12:00:00Z");
    let store = engine(dir.path(), now);
    let alert = json!({"name": "Silence", "query": {"metric": "active_users", "days": 1},
        "value": "rows[-1].dau", "when": {"below": 1}, "to": [format!("{}/slow", hooks.url)]});
    set(&store, "silence", &alert, now).unwrap();
    store.run_user_alerts(&sender, now).unwrap();
    let id = hooks.next().1["id"].clone();
    assert_eq!(
        state(&store, "silence")["last_error"],
        "the webhook responded with status 500; allowed is 200 to 299, without a redirect"
    );
    // Not before its pause is over, also after a restart.
    drop(store);
    let store = engine(dir.path(), now);
    store
        .run_user_alerts(&sender, now + TimeDelta::seconds(9))
        .unwrap();
    assert_eq!(hooks.others(), 0);
    for seconds in [10, 69, 70, 71, 500] {
        store
            .run_user_alerts(&sender, now + TimeDelta::seconds(seconds))
            .unwrap();
    }
    // Each attempt has the same id, and a redirect is not followed.
    for _ in 0..2 {
        let (head, body) = hooks.next();
        assert!(head.starts_with("post /slow "), "{head}");
        assert_eq!(body["id"], id);
    }
    assert_eq!(hooks.others(), 0);
    // Three failures are the end of a message.
    users(&store, 2, now + TimeDelta::seconds(500));
    drop(store);
    let next = now + TimeDelta::days(1);
    let store = run_at(dir.path(), &sender, next);
    for seconds in [10, 70, 1_000] {
        store
            .run_user_alerts(&sender, next + TimeDelta::seconds(seconds))
            .unwrap();
    }
    let failed: Vec<Value> = (0..3).map(|_| hooks.next().1["event"].clone()).collect();
    assert_eq!(failed, ["ended", "ended", "ended"]);
    assert_eq!(hooks.others(), 0);
    // A removed alert sends nothing.
    assert!(engine_has_alerts(&store, 1));
    store.by("anna", now).remove_alert("silence").unwrap();
    assert!(engine_has_alerts(&store, 0));
}

fn engine_has_alerts(engine: &Engine, count: usize) -> bool {
    engine.user_alerts().unwrap().alerts.len() == count
}

#[test]
fn private_addresses_and_names_that_resolve_to_them_are_not_reached() {
    let dir = folder();
    let hooks = Hooks::start(&[]);
    let port = hooks.url.rsplit(':').next().unwrap();
    let now = at("2026-11-05T12:00:00Z");
    let store = engine(dir.path(), now);
    let to = [
        "https://127.0.0.1",
        "https://localhost",
        "https://[::ffff:7f00:1]",
        "http://localhost",
        "https://2130706433",
    ]
    .map(|host| format!("{host}:{port}/x"));
    let alert = json!({"name": "Silence", "query": {"metric": "active_users", "days": 1},
        "value": "rows[-1].dau", "when": {"below": 1}, "to": to});
    set(&store, "silence", &alert, now).unwrap();
    let tested = store.test_user_alert("silence", &sender(&[]), now).unwrap();
    assert!(!tested.ok);
    let said: Vec<String> = tested
        .messages
        .into_iter()
        .map(|one| one.error.unwrap())
        .collect();
    for (said, says) in said
        .iter()
        .zip(["private", "private", "private", "has http", "private"])
    {
        assert!(said.contains(says) && !said.contains(port), "{said}");
    }
    assert_eq!(hooks.others(), 0);
    // Allowed by name, which allows what it resolves to.
    let alert = json!({"name": "Silence", "query": {"metric": "active_users", "days": 1},
        "value": "rows[-1].dau", "when": {"below": 1},
        "to": [format!("http://localhost:{port}/x"), format!("slack+http://localhost:{port}/y")]});
    set(&store, "silence", &alert, now).unwrap();
    let sender = sender(&["--webhook-allow", "localhost"]);
    let tested = store.test_user_alert("silence", &sender, now).unwrap();
    assert!(tested.ok, "{tested:?}");
    assert_eq!((tested.value, tested.holds), (Some(0.0), Some(true)));
    let mut sent = [hooks.next(), hooks.next()];
    sent.sort_by_key(|(head, _)| head.contains("/y"));
    assert_eq!(sent[0].1["event"], "test");
    // Slack gets the words and no signature.
    assert_eq!(sent[1].1.as_object().unwrap().len(), 1);
    assert!(
        sent[1].1["text"]
            .as_str()
            .unwrap()
            .starts_with("Test: Silence\nrows[-1].dau is 0; ")
    );
    assert!(!sent[1].0.contains("x-echopilot-signature"));
    assert_eq!(state(&store, "silence")["firing"], false);
}

#[test]
fn a_change_is_relative_to_the_same_day_of_the_week_before() {
    let dir = folder();
    let (smtp, mails) = mail_server();
    let sender = sender(&[
        "--smtp-url",
        &smtp,
        "--smtp-from",
        "Stats <stats@a.example>",
    ]);
    let first = at("2026-11-02T12:00:00Z");
    let store = engine(dir.path(), first);
    let alert = json!({"name": "Fewer <users>", "query": {"metric": "active_users", "days": 1, "tz": "Europe/Berlin"},
        "value": "rows[0].dau", "when": {"changes_by": -0.25, "against": "7 days before"},
        "to": ["mailto:Anna <anna@b.example>"]});
    set(&store, "fewer", &alert, first).unwrap();
    drop(store);
    for (number, count) in [8, 8, 8, 8, 8, 8, 8, 7, 6, 7].into_iter().enumerate() {
        let day = first + TimeDelta::days(number as i64);
        users(&run_at(dir.path(), &sender, day), count, day);
        // The day of Berlin is over an hour before that of UTC.
        let evaluated = |minutes| {
            let store = run_at(dir.path(), &sender, day + TimeDelta::minutes(minutes));
            state(&store, "fewer")["evaluated_through"].clone()
        };
        let (today, before) = (day.date_naive(), day.date_naive() - Days::new(1));
        assert_eq!(evaluated(11 * 60 - 1), json!(before));
        assert_eq!(evaluated(11 * 60), json!(today));
        if number == 8 {
            let store = engine(dir.path(), day + TimeDelta::hours(12));
            let known = state(&store, "fewer");
            assert_eq!(
                (&known["value"], &known["before"]),
                (&json!(6.0), &json!(8.0))
            );
        }
    }
    let end = first + TimeDelta::days(10);
    let store = run_at(dir.path(), &sender, end);
    for says in ["Alert", "Ended"] {
        let mail = mails.recv_timeout(PATIENCE).expect("an e-mail").join("\n");
        for line in [
            "MAIL FROM:<stats@a.example>",
            "RCPT TO:<anna@b.example>",
            "From: Stats <stats@a.example>",
            "To: Anna <anna@b.example>",
            "Content-Type: text/html; charset=utf-8",
            &format!("Subject: {says}: Fewer <users>"),
        ] {
            assert!(mail.contains(line), "{line}: {mail}");
        }
        assert!(mail.contains("Fewer &lt;users&gt;"), "{mail}");
    }
    assert!(mails.try_recv().is_err());
    // A condition that is not known is reported, and does not fire.
    let early = json!({"name": "Early", "query": {"metric": "active_users", "days": 1},
        "value": "rows[0].dau", "when": {"changes_by": -0.25, "against": "60 days before"},
        "to": ["mailto:anna@b.example"]});
    set(&store, "early", &early, end).unwrap();
    store.run_user_alerts(&sender, end).unwrap();
    let known = state(&store, "early");
    assert_eq!(known["firing"], false);
    assert_eq!(
        known["last_error"],
        "the condition is not known for 2026-11-11"
    );
}

#[test]
fn a_digest_of_each_week_is_sent_once() {
    let dir = folder();
    let hooks = Hooks::start(&[]);
    let sender = sender(&["--webhook-allow", "127.0.0.1"]);
    // A Monday.
    let first = at("2026-11-02T12:00:00Z");
    let store = engine(dir.path(), first);
    let digest = json!({"name": "The week", "digest": "weekly", "to": [hooks.url]});
    set(&store, "week", &digest, first).unwrap();
    drop(store);
    let mut sent = Vec::new();
    for number in 0..15 {
        let day = first + TimeDelta::days(number);
        let store = run_at(dir.path(), &sender, day);
        users(&store, if number < 7 { 4 } else { 6 }, day);
        store
            .run_user_alerts(&sender, day + TimeDelta::minutes(1))
            .unwrap();
        sent.extend(std::iter::repeat_n(number, hooks.others()));
    }
    assert_eq!(sent, [7, 14], "on Mondays");
    let end = first + TimeDelta::days(14);
    let store = engine(dir.path(), end);
    let tested = store.test_user_alert("week", &sender, end).unwrap();
    assert_eq!((tested.ok, tested.at.as_str()), (true, "2026-11-15"));
    let (_, body) = hooks.next();
    assert_eq!(
        body["window"],
        json!({"from": "2026-11-09", "to": "2026-11-15", "tz": "UTC"})
    );
    assert_eq!(
        body["numbers"][2],
        json!({"name": "Events", "value": 42.0, "before": 28.0})
    );
    let text = body["text"].as_str().unwrap();
    assert!(text.contains("Users of the week: 6 (+50.0 %)"), "{text}");
    assert!(text.contains("home: 42 (+50.0 %)"), "{text}");
}

#[test]
fn a_live_alert_counts_the_events_of_today_each_hour() {
    let dir = folder();
    let hooks = Hooks::start(&[]);
    let sender = sender(&["--webhook-allow", "127.0.0.1"]);
    let now = at("2026-11-05T09:30:00Z");
    let store = engine(dir.path(), now);
    let alert = json!({"name": "Many errors", "live": true, "value": "rows[0].events",
        "query": {"metric": "feature_usage", "days": 1, "limit": 1, "filter": {"feature": "error"}},
        "when": {"above": 2}, "to": [hooks.url]});
    set(&store, "errors", &alert, now).unwrap();
    let errors = |count: usize, now| {
        let events = vec![event("action", "ann", "error"); count];
        ingest(&store, &events, now);
    };
    errors(2, now);
    for minutes in [31, 45] {
        store
            .run_user_alerts(&sender, now + TimeDelta::minutes(minutes))
            .unwrap();
    }
    assert_eq!(hooks.others(), 0);
    errors(1, now + TimeDelta::minutes(50));
    store
        .run_user_alerts(&sender, now + TimeDelta::minutes(60))
        .unwrap();
    assert_eq!(hooks.others(), 0, "the hour is not over");
    store
        .run_user_alerts(&sender, now + TimeDelta::minutes(91))
        .unwrap();
    let (_, body) = hooks.next();
    assert_eq!(
        (&body["event"], &body["at"], &body["value"]),
        (&json!("started"), &json!("2026-11-05T10:00Z"), &json!(3.0))
    );
}

#[test]
fn a_server_takes_alerts_evaluates_them_and_hides_them_from_read_keys() {
    let dir = folder();
    let hooks = Hooks::start(&[]);
    let mut command = echopilot(dir.path());
    command
        .env("ECHOPILOT_READ_KEY", "a-read-key-for-the-tests")
        .env("ECHOPILOT_WEBHOOK_ALLOW", "127.0.0.1,localhost");
    let server = Server::start_as(command);
    server.post(&batch([event("action", "ann", "home")]));
    let path = format!("{ALERTS}/few");
    let put = |body: &Value| -> (u16, Value) {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .build()
            .into();
        let request = agent
            .put(format!("{}{path}", server.url))
            .header("x-dash-key", KEY);
        let mut response = request.send(body.to_string()).expect("a response");
        let text = response.body_mut().read_to_string().unwrap();
        (
            response.status().as_u16(),
            serde_json::from_str(&text).unwrap(),
        )
    };
    let mut alert = json!({"name": "Few users", "query": {"metric": "active_users", "days": 2},
        "value": "rows[-1].dau", "when": {"below": 1_000_000}, "to": [hooks.url]});
    let (status, set) = put(&alert);
    assert_eq!(
        (status, &set["alerts"][0]["id"]),
        (200, &json!("few")),
        "{set}"
    );
    let (_, started) = hooks.next();
    assert_eq!(started["event"], "started");
    for (field, value, says) in [
        (
            "value",
            json!("rows[-1].duu"),
            "value: rows[-1] has no duu; it has",
        ),
        (
            "value",
            json!("rows[-1].period"),
            "value: rows[-1].period is not a number",
        ),
        (
            "to",
            json!(["http://10.0.0.1/x"]),
            "to[0]: the host of the webhook has a private address",
        ),
        (
            "to",
            json!(["mailto:a@b.example"]),
            "to[0]: e-mails need --smtp-url",
        ),
        (
            "query",
            json!({"metric": "active_users", "filter": {"cohort": "none"}}),
            "there is no cohort",
        ),
    ] {
        let before = std::mem::replace(&mut alert[field], value);
        let (status, said) = put(&alert);
        assert_eq!(status, 400, "{said}");
        assert!(said["message"].as_str().unwrap().contains(says), "{said}");
        alert[field] = before;
    }
    // The list may be sent back.
    let listed = server.get(ALERTS).1["alerts"][0].clone();
    assert_eq!(put(&listed).0, 200);
    let read = [("x-dash-key", "a-read-key-for-the-tests")];
    assert_eq!(server.get_with(ALERTS, &read).0, 403);
    // The command line next to the server.
    let listed = run_json(dir.path(), &["alert", "list"]);
    assert_eq!(listed[0]["name"], "Few users");
    let tested = run_json(dir.path(), &["alert", "test", "few"]);
    assert_eq!(
        (&tested["ok"], &tested["holds"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(hooks.next().1["event"], "test");
    let shown = run_json(dir.path(), &["alert", "key"]);
    assert_eq!(shown["signing_key"], server.get(ALERTS).1["signing_key"]);
    assert_eq!(server.delete(&path).1["alerts"], json!([]));
    assert_eq!(server.delete(&path).0, 404);
    assert_eq!(server.get(&format!("{path}/test")).0, 405);
    let traced = server.stop();
    assert!(!traced.contains(&hooks.url), "{traced}");
    let audit = run_json(dir.path(), &["audit"]).to_string();
    assert!(
        audit.contains(r#"set \"few\""#) && !audit.contains(&hooks.url),
        "{audit}"
    );
    assert_eq!(run_json(dir.path(), &["verify"])["damage"], json!([]));
}

#[test]
fn a_wrong_setting_stops_the_start_and_prints_no_password() {
    let dir = folder();
    for (arguments, says) in [
        (
            ["--smtp-url", "smtp://user:hidden@mail.example"],
            "without encryption",
        ),
        (
            ["--smtp-url", "ftp://user:hidden@mail.example"],
            "--smtp-url: allowed is",
        ),
        (["--smtp-from", "nobody"], "--smtp-from is not"),
        (["--webhook-allow", "http://x"], "is not a host or network"),
    ] {
        let output = run(
            dir.path(),
            &[&["serve", "--listen", "127.0.0.1:0"], &arguments[..]].concat(),
        );
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(says) && !said.contains("hidden"), "{said}");
    }
}

#[test]
fn a_killed_server_continues_where_it_was() {
    let dir = folder();
    // Nothing listens there: the message waits.
    let url = format!("http://127.0.0.1:{}/x", free_port());
    let start = |data: &Path| {
        let mut command = echopilot(data);
        at_time(&mut command, "@2026-11-05 12:00:00");
        command.env("ECHOPILOT_WEBHOOK_ALLOW", "127.0.0.1");
        Server::start_as(command)
    };
    let mut server = start(dir.path());
    let alert = json!({"id": "silence", "name": "Silence", "query": {"metric": "active_users", "days": 1},
        "value": "rows[-1].dau", "when": {"below": 1}, "to": [url]});
    run_json(dir.path(), &["alert", "set", &alert.to_string()]);
    server.wait_for("A message of the alert silence waits");
    let before = run_json(dir.path(), &["alert", "list"]);
    server.kill();
    let server = start(dir.path());
    let after = run_json(dir.path(), &["alert", "list"]);
    assert_eq!(after[0]["state"]["firing"], true);
    for field in ["since", "evaluated_through", "held"] {
        assert_eq!(
            after[0]["state"][field], before[0]["state"][field],
            "{field}"
        );
    }
    server.stop();
    let states = std::fs::read_to_string(dir.path().join("alerts_state.json")).unwrap();
    assert_eq!(
        states.matches("\"event\": \"started\"").count(),
        1,
        "{states}"
    );
}

/// A receiver of webhooks that leaves the response to the test.
fn requests() -> (String, Receiver<(TcpStream, Received)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/x", listener.local_addr().unwrap());
    let (sender, received) = channel();
    std::thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            if let Some(request) = read_request(&connection)
                && sender.send((connection, request)).is_err()
            {
                return;
            }
        }
    });
    (url, received)
}

#[test]
fn a_message_is_received_once_or_again_with_its_id_whenever_the_server_dies() {
    let mut points = 0;
    let mut repeated = 0;
    for at in 0.. {
        let (dir, other) = (folder(), folder());
        let flag = other.path().join("flag");
        let (url, requests) = requests();
        let alert = json!({"id": "silence", "name": "Silence",
            "query": {"metric": "active_users", "days": 1}, "value": "rows[-1].dau",
            "when": {"below": 1}, "to": [url]});
        run_json(dir.path(), &["alert", "set", &alert.to_string()]);
        let start = |at: usize| {
            let mut command = echopilot(dir.path());
            command.env("ECHOPILOT_WEBHOOK_ALLOW", "127.0.0.1");
            if at > 0 {
                with_fault(&mut command, dir.path(), "kill", at);
                command.env("FAULT_FLAG", &flag);
            }
            Server::start_as(command)
        };
        let next = || requests.recv_timeout(PATIENCE).expect("a webhook");
        let respond = |mut connection: TcpStream| {
            // The server may have died.
            let _ = connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        };
        let mut server = start(at);
        let (connection, (_, first)) = next();
        let is_alive = if at == 0 {
            // It has arrived, and the server does not know.
            server.kill();
            false
        } else {
            // From the response on, it dies at the change `at` of a file.
            std::fs::write(&flag, "").unwrap();
            respond(connection);
            server.sees("Sent a message of the alert silence");
            server.ends_well()
        };
        let waiting = || {
            let states = std::fs::read(dir.path().join("alerts_state.json")).unwrap();
            let states: Value = serde_json::from_slice(&states).unwrap();
            states["checked"]["waiting"]
                .as_array()
                .expect("a list")
                .len()
        };
        // A stop between sending and noting is like a crash.
        let is_waiting = waiting() > 0;
        let mut server = start(0);
        if is_waiting {
            let (connection, (_, again)) = next();
            assert_eq!(again["id"], first["id"], "{at}");
            respond(connection);
            assert!(server.sees("Sent a message of the alert silence"));
            // It is noted before the list can be read.
            assert_eq!(server.get(ALERTS).0, 200);
            repeated += 1;
        }
        assert!(server.ends_well());
        assert_eq!((waiting(), requests.try_iter().count()), (0, 0), "{at}");
        if is_alive && !is_waiting {
            break;
        }
        points += 1;
    }
    assert!(points >= 3 && repeated >= 2, "{points} points, {repeated}");
}
