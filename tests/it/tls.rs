//! Webhooks and e-mails over TLS, against receivers with certificates of a CA of their own.

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{Server, echopilot, folder, run_json};
use crate::oracle::python_command;

/// The receivers, which end when this is dropped.
struct Receivers {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
    about: Value,
}

impl Receivers {
    fn start(dir: &Path) -> Self {
        let mut child = python_command()
            .arg("tests/oracle/tls_receivers.py")
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let about = lines.next().expect("they start").unwrap();
        Self {
            stdin: child.stdin.take(),
            child,
            lines,
            about: serde_json::from_str(&about).unwrap(),
        }
    }

    fn port(&self, name: &str) -> u64 {
        self.about["ports"][name].as_u64().expect(name)
    }

    /// The next message that one of them received.
    fn next(&mut self) -> Value {
        let line = self.lines.next().expect("a message").unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// A command that trusts a CA and no other.
    fn trusting(&self, data: &Path, ca: &str) -> Command {
        let mut command = echopilot(data);
        command
            .env("SSL_CERT_FILE", self.about[ca].as_str().unwrap())
            .env_remove("SSL_CERT_DIR")
            .env("ECHOPILOT_WEBHOOK_ALLOW", "localhost");
        command
    }

    fn smtp_url(&self, scheme: &str, port: &str) -> String {
        let tls = match scheme {
            "smtp" => "?tls=required",
            _ => "",
        };
        format!("{scheme}://ann:secret@localhost:{}{tls}", self.port(port))
    }
}

impl Drop for Receivers {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

fn alert(id: &str, to: &str) -> String {
    json!({"id": id, "name": id, "query": {"metric": "active_users", "days": 1},
        "value": "rows[-1].dau", "when": {"below": 1}, "to": [to]})
    .to_string()
}

/// The result of a test message.
fn test(mut command: Command, id: &str) -> Value {
    let output = command.args(["alert", "test", id]).output().unwrap();
    let tested: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.success(), tested["ok"] == true, "{tested}");
    tested["messages"][0].clone()
}

#[test]
fn messages_go_to_receivers_with_a_certificate_of_a_trusted_ca_alone() {
    let (dir, other) = (folder(), folder());
    let mut receivers = Receivers::start(other.path());
    let hook = |port: &str| format!("https://localhost:{}/x", receivers.port(port));
    for (id, to) in [
        ("hook", hook("https")),
        ("hook-name", hook("https_wrong_name")),
        ("hook-expired", hook("https_expired")),
        ("mail", "mailto:bob@example.com".into()),
    ] {
        let mut set = receivers.trusting(dir.path(), "ca");
        let smtp = receivers.smtp_url("smtps", "smtps");
        set.env("ECHOPILOT_SMTP_URL", smtp);
        let set = set
            .args(["alert", "set", &alert(id, &to)])
            .output()
            .unwrap();
        assert!(set.status.success(), "{set:?}");
    }
    let with_mail = |ca: &str, scheme: &str, port: &str| {
        let mut command = receivers.trusting(dir.path(), ca);
        command.env("ECHOPILOT_SMTP_URL", receivers.smtp_url(scheme, port));
        test(command, "mail")
    };
    // The certificates are of another CA than the trusted one, for another host, or out of date.
    let unknown = "invalid peer certificate: UnknownIssuer";
    let wrong_name = "certificate not valid for name \"localhost\"";
    for (tested, says) in [
        (
            test(receivers.trusting(dir.path(), "other"), "hook"),
            unknown,
        ),
        (
            test(receivers.trusting(dir.path(), "ca"), "hook-name"),
            wrong_name,
        ),
        (
            test(receivers.trusting(dir.path(), "ca"), "hook-expired"),
            "certificate expired",
        ),
        (with_mail("other", "smtps", "smtps"), unknown),
        (with_mail("ca", "smtps", "smtps_wrong_name"), wrong_name),
        (with_mail("other", "smtp", "starttls"), unknown),
        (
            with_mail("ca", "smtp", "starttls_expired"),
            "certificate expired",
        ),
        // A server that offers no encryption gets neither password nor message.
        (with_mail("ca", "smtp", "plain"), "STARTTLS"),
    ] {
        assert_eq!(tested["ok"], false, "{says}");
        let error = tested["error"].as_str().unwrap();
        assert!(error.contains(says), "{says}: {error}");
        assert!(!error.contains("secret"), "{error}");
    }
    let sent = [
        test(receivers.trusting(dir.path(), "ca"), "hook"),
        with_mail("ca", "smtps", "smtps"),
        with_mail("ca", "smtp", "starttls"),
    ];
    for tested in sent {
        assert_eq!(tested["ok"], true, "{tested}");
    }
    // Nothing else was received.
    let received = receivers.next();
    assert_eq!(received["port"], "https");
    assert!(received["signature"].as_str().unwrap().starts_with("t="));
    for port in ["smtps", "starttls"] {
        let received = receivers.next();
        assert_eq!(
            (&received["port"], &received["encrypted"], &received["user"]),
            (&json!(port), &json!(true), &json!(["ann", "secret"]))
        );
    }
}

#[test]
fn a_certificate_that_is_not_trusted_is_the_last_error_of_an_alert() {
    let (dir, other) = (folder(), folder());
    let mut receivers = Receivers::start(other.path());
    let start = |ca: &str| {
        let mut command = receivers.trusting(dir.path(), ca);
        command.env("ECHOPILOT_SMTP_URL", receivers.smtp_url("smtps", "smtps"));
        Server::start_as(command)
    };
    let mut server = start("other");
    let hook = format!("https://localhost:{}/x", receivers.port("https"));
    for (id, to) in [("hook", hook.as_str()), ("mail", "mailto:bob@example.com")] {
        run_json(dir.path(), &["alert", "set", &alert(id, to)]);
    }
    server.wait_for("A message of the alert hook waits");
    server.wait_for("A message of the alert mail waits");
    let listed = run_json(dir.path(), &["alert", "list"]);
    for alert in listed.as_array().unwrap() {
        let error = alert["state"]["last_error"].as_str().unwrap();
        assert!(error.contains("UnknownIssuer"), "{error}");
        assert_eq!(alert["state"]["firing"], true);
    }
    // Neither is lost: a server that trusts the CA sends them.
    server.stop();
    let mut server = start("ca");
    server.wait_for("Sent a message of the alert hook");
    server.wait_for("Sent a message of the alert mail");
    server.stop();
    let mut ports = [receivers.next(), receivers.next()].map(|received| received["port"].clone());
    ports.sort_by_key(Value::to_string);
    assert_eq!(ports, ["https", "smtps"]);
}
