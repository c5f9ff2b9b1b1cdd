//! The server as a service: the unit of systemd, reports to the service manager, and health.

use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::mpsc::channel;

use serde_json::{Value, json};

use crate::harness::{PATIENCE, Server, batch, echopilot, event, folder, printed, run};
use crate::packages::{installation, is_there, text};

#[test]
fn the_unit_is_valid_and_exposes_less_than_two_of_ten() {
    if !is_there("systemd-analyze") {
        return;
    }
    let unit = installation()
        .prefix
        .join("lib/systemd/system/echopilot.service");
    let verified = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(&unit)
        .output()
        .unwrap();
    assert!(
        verified.status.success() && verified.stderr.is_empty(),
        "{}",
        text(verified.stderr)
    );
    let exposure = |threshold: &str| {
        Command::new("systemd-analyze")
            .args(["security", "--no-pager", "--offline=true", threshold])
            .arg(&unit)
            .output()
            .unwrap()
    };
    let analysed = exposure("--threshold=19");
    assert!(analysed.status.success(), "{}", text(analysed.stdout));
    assert!(!exposure("--threshold=1").status.success());
}

/// The system calls of the groups of a filter, without those of the groups that it excludes.
fn allowed_calls(unit: &str) -> BTreeSet<String> {
    let mut allowed = BTreeSet::new();
    for filter in unit
        .lines()
        .filter_map(|line| line.strip_prefix("SystemCallFilter="))
    {
        match filter.strip_prefix('~') {
            None => allowed.extend(calls_of(filter)),
            Some(excluded) => {
                let excluded = calls_of(excluded);
                allowed.retain(|call| !excluded.contains(call));
            }
        }
    }
    allowed
}

fn calls_of(groups: &str) -> BTreeSet<String> {
    let mut calls = BTreeSet::new();
    for name in groups.split_whitespace() {
        if !name.starts_with('@') {
            calls.insert(name.to_owned());
            continue;
        }
        let listed = printed(Command::new("systemd-analyze").args(["syscall-filter", name]));
        for line in text(listed).lines().skip(1) {
            let name = line.trim();
            if !name.is_empty() && !name.starts_with('#') {
                calls.extend(calls_of(name));
            }
        }
    }
    calls
}

#[test]
fn the_unit_allows_every_system_call_of_a_session() {
    if !is_there("strace") || !is_there("systemd-analyze") {
        return;
    }
    let dir = folder();
    let trace = dir.path().join("trace");
    let data = dir.path().join("data");
    let program = echopilot(&data).get_program().to_owned();
    let mut command = Command::new("strace");
    command
        .args(["--follow-forks", "--quiet=all", "--output"])
        .arg(&trace)
        .arg(program)
        .env("ECHOPILOT_DATA_DIR", &data)
        .env("ECHOPILOT_ZONES", "UTC,Asia/Tokyo");
    let mut server = Server::start_as(command);
    let body = batch([event("action", "u", "f"), event("conversion", "v", "g")]);
    assert_eq!(server.post(&body).0, 200);
    server.usage("?days=30");
    let funnel =
        json!({"metric":"funnel","steps":[{"event_type":"action"},{"event_type":"conversion"}]});
    assert_eq!(server.ask("/api/analytics/query", &funnel).0, 200);
    assert_eq!(server.rollup().0, 200);
    assert_eq!(server.delete("/api/analytics/users/v").0, 200);
    let id = server.id();
    let child = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    for name in ["-HUP", "-TERM"] {
        printed(Command::new("kill").args([name, child.trim()]));
    }
    // strace ends as the server does.
    assert!(server.wait().success());
    let trace = std::fs::read_to_string(trace).unwrap();
    let called: BTreeSet<&str> = trace
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1)?.split_once('('))
        .map(|(name, _)| name)
        .collect();
    for expected in ["accept4", "execve", "fdatasync", "setpriority"] {
        assert!(called.contains(expected), "{expected} is not in {called:?}");
    }
    let unit = include_str!("../../deploy/echopilot.service");
    let allowed = allowed_calls(unit);
    let missing: Vec<_> = called
        .iter()
        .filter(|name| !allowed.contains(**name))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_service_manager_learns_of_start_life_and_stop() {
    let dir = folder();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    // Read all the time: the system holds few reports, and a report waits for its place.
    let (sender, reports) = channel();
    std::thread::spawn(move || {
        let mut message = [0; 1_024];
        while let Ok(length) = socket.recv(&mut message) {
            if sender.send(text(message[..length].to_vec())).is_err() {
                return;
            }
        }
    });
    let next = || reports.recv_timeout(PATIENCE).expect("a report");
    let mut command = echopilot(&dir.path().join("data"));
    command
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "30000");
    let server = Server::start_as(command);
    let ready = format!("READY=1\nSTATUS=Listening on {}\n", server.url);
    assert_eq!(next(), ready);
    assert_eq!(next(), "WATCHDOG=1\n");
    assert_eq!(next(), "WATCHDOG=1\n");
    server.stop();
    let last = UnixDatagram::unbound().unwrap();
    last.send_to(b"the end", &path).unwrap();
    let rest: Vec<String> = std::iter::from_fn(|| Some(next()))
        .take_while(|report| report != "the end")
        .collect();
    assert_eq!(
        rest.iter().filter(|one| *one == "STOPPING=1\n").count(),
        1,
        "{rest:?}"
    );
}

#[test]
fn the_program_asks_for_the_health_of_a_server() {
    let dir = folder();
    let data = dir.path().join("data");
    let health = |address: &str, switch: &[&str]| {
        let arguments = [&["health", "--listen", address], switch].concat();
        let output = run(dir.path(), &arguments);
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let server = Server::start(&data);
    let (_, port) = server.url.rsplit_once(':').unwrap();
    for host in ["127.0.0.1", "0.0.0.0", "localhost"] {
        let address = format!("{host}:{port}");
        let (code, body, _) = health(&address, &[]);
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((code, &body["ok"]), (Some(0), &json!(true)), "{host}");
    }
    let address = format!("127.0.0.1:{port}");
    // A log that was moved: the process responds, and accepts nothing.
    std::fs::rename(crate::harness::log_path(&data), dir.path().join("moved")).unwrap();
    server.post(&batch([event("action", "u", "f")]));
    let (code, body, _) = health(&address, &[]);
    assert_eq!(code, Some(1), "{body}");
    assert!(body.contains("log_stopped"), "{body}");
    assert_eq!(health(&address, &["--live"]).0, Some(0));
    server.kill();
    let (code, _, told) = health(&address, &[]);
    assert_eq!(code, Some(1));
    assert!(told.contains(&address), "{told}");
    assert_eq!(health("nowhere", &[]).0, Some(1));
}
