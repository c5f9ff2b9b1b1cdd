//! Disks that fail and processes that die between any two system calls.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Instant;

use serde_json::{Value, json};

use crate::harness::{
    PATIENCE, Server, batch, columns, echopilot, event, folder, log_lines, log_path, post_to,
    run_json, unsealed_demo,
};

/// The library of `fault.c`, compiled once.
fn fault_library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fault.c");
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fault.so");
        let done = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-o"])
            .args([&library, &source])
            .arg("-ldl")
            .status()
            .expect("a C compiler");
        assert!(done.success());
        library
    })
}

/// Prepares a command whose `at`-th change of a file below `dir` fails.
pub fn with_fault(command: &mut Command, dir: &Path, kind: &str, at: usize) {
    command
        .env("LD_PRELOAD", fault_library())
        .env("FAULT_DIR", dir)
        .env("FAULT_KIND", kind)
        .env("FAULT_AT", at.to_string());
}

/// Prepares a command that records its changes of files below `dir`, see `fault.c`.
pub fn with_trace(command: &mut Command, dir: &Path, trace: &Path) {
    command
        .env("LD_PRELOAD", fault_library())
        .env("FAULT_DIR", dir)
        .env("FAULT_TRACE", trace);
}

/// Three batches of events, each event of another user.
fn batches() -> Vec<Value> {
    (0..3)
        .map(|number| {
            batch((0..5).map(|place| {
                let name = format!("{number}-{place}");
                json!({"event_type":"action","user_id":name,"event_id":name,"feature":"f"})
            }))
        })
        .collect()
}

#[test]
fn server_killed_at_any_call_of_ingest_keeps_acknowledged_events() {
    for kind in ["kill", "torn"] {
        let mut died = 0;
        for at in 1.. {
            let dir = folder();
            let mut command = echopilot(dir.path());
            with_fault(&mut command, dir.path(), kind, at);
            let Some(accepted) = send_while_alive(command) else {
                // It died before it listened.
                died += 1;
                continue;
            };
            let kept = run_json(dir.path(), &["usage", "--days", "1"]);
            let (events, users) = (
                kept["total_events"].as_u64().unwrap(),
                kept["mau"].as_u64().unwrap(),
            );
            assert_eq!(events, users, "{kind} at {at}: an event is there twice");
            assert!(
                events >= accepted,
                "{kind} at {at}: accepted {accepted}, kept {events}"
            );
            let server = Server::start(dir.path());
            for events in batches() {
                assert_eq!(server.post(&events).0, 200);
            }
            assert_eq!(
                server.usage("?days=1")["total_events"],
                15,
                "{kind} at {at}"
            );
            server.stop();
            let verified = run_json(dir.path(), &["verify"]);
            assert_eq!(
                (&verified["sealed_events"], &verified["damage"]),
                (&json!(15), &json!([])),
                "{kind} at {at}: the stop sealed"
            );
            if accepted == 15 {
                break;
            }
            died += 1;
        }
        assert!(died >= 6, "{kind}: only {died} points were tried");
    }
}

/// Starts the server and sends the batches until it ends; `None` if it never listened.
fn send_while_alive(mut command: Command) -> Option<u64> {
    let server = Server::try_start(command.env("ECHOPILOT_DASH_KEY", crate::harness::KEY))?;
    let mut accepted = 0;
    for events in batches() {
        match post_to(&server.url, events.to_string().as_bytes(), &[]) {
            Ok((200, body)) => accepted += body["logged"].as_u64().unwrap(),
            _ => break,
        }
    }
    server.kill();
    Some(accepted)
}

#[test]
fn seal_or_rollup_killed_at_any_call_loses_and_duplicates_nothing() {
    // Sealed days and more events of the same days in the log, so that a seal merges states and
    // segments, and a rollup corrects earlier lines.
    let origin = folder();
    unsealed_demo(origin.path(), 300, 3, 1);
    run_json(origin.path(), &["seal"]);
    run_json(origin.path(), &["rollup"]);
    let old_rollups = rollups(origin.path());
    let more = folder();
    unsealed_demo(more.path(), 200, 3, 2);
    std::fs::copy(log_path(more.path()), log_path(origin.path())).unwrap();
    let ask = ["usage", "--days", "5"];
    let expected = numbers(run_json(origin.path(), &ask));
    assert_eq!(expected["total_events"], 500);
    let expected_rollups = {
        let dir = copy(origin.path());
        run_json(dir.path(), &["rollup"]);
        rollups(dir.path())
    };
    assert_eq!(expected_rollups.lines().count(), 3);
    assert_ne!(expected_rollups, old_rollups);
    for (job, kind) in [
        ("seal", "kill"),
        ("seal", "torn"),
        ("seal", "eio"),
        ("rollup", "kill"),
        ("rollup", "torn"),
        ("rollup", "eio"),
    ] {
        let mut points = 0;
        for at in 1.. {
            let dir = copy(origin.path());
            let mut command = echopilot(dir.path());
            with_fault(&mut command, dir.path(), kind, at);
            let done = command.arg(job).output().unwrap().status.success();
            let whole = rollups(dir.path());
            assert!(
                [&old_rollups, &expected_rollups].contains(&&whole),
                "{job} {kind} at {at}: a torn rollup log"
            );
            assert_eq!(
                numbers(run_json(dir.path(), &ask)),
                expected,
                "{job} {kind} at {at}"
            );
            assert_eq!(
                run_json(dir.path(), &["verify"])["damage"],
                json!([]),
                "{job} {kind} at {at}"
            );
            // A second attempt succeeds, with the outcome of an undisturbed run.
            run_json(dir.path(), &[job]);
            assert_eq!(
                numbers(run_json(dir.path(), &ask)),
                expected,
                "{job} {kind} at {at}, again"
            );
            // The numbers of the states are those of the events.
            let mut by_events = numbers(run_json(
                dir.path(),
                &["usage", "--days", "5", "--tz", "Africa/Abidjan"],
            ));
            by_events["window"] = expected["window"].clone();
            assert_eq!(by_events, expected, "{job} {kind} at {at}, by events");
            if job == "seal" {
                let verified = run_json(dir.path(), &["verify"]);
                assert_eq!(verified["segments"], 3, "{job} {kind} at {at}: one a day");
            }
            if job == "rollup" {
                assert_eq!(
                    rollups(dir.path()),
                    expected_rollups,
                    "{job} {kind} at {at}"
                );
                assert_eq!(run_json(dir.path(), &[job])["days"], json!([]));
            }
            if done {
                break;
            }
            points += 1;
        }
        assert!(points >= 5, "{job} {kind}: only {points} points were tried");
    }
}

#[test]
fn expiry_killed_at_any_call_removes_all_or_nothing_and_can_be_repeated() {
    let origin = folder();
    unsealed_demo(origin.path(), 300, 5, 1);
    run_json(origin.path(), &["seal"]);
    run_json(origin.path(), &["rollup"]);
    let expire = |dir: &Path| {
        let mut command = echopilot(dir);
        command
            .env("ECHOPILOT_RAW_RETENTION_DAYS", "2")
            .env("ECHOPILOT_ROLLUP_RETENTION_DAYS", "3")
            .arg("expire");
        command
    };
    let days = |dir: &Path| {
        let by_states = run_json(dir, &["usage", "--days", "9"]);
        let by_events = run_json(dir, &["usage", "--days", "9", "--tz", "Africa/Abidjan"]);
        let days = |usage: &Value| usage["unique_days"].as_u64().unwrap();
        (days(&by_states), days(&by_events))
    };
    let undisturbed = copy(origin.path());
    assert!(
        expire(undisturbed.path())
            .output()
            .unwrap()
            .status
            .success()
    );
    assert_eq!(
        (days(origin.path()), days(undisturbed.path())),
        ((5, 5), (3, 2))
    );
    for kind in ["kill", "eio"] {
        let mut points = 0;
        for at in 1.. {
            let dir = copy(origin.path());
            let mut command = expire(dir.path());
            with_fault(&mut command, dir.path(), kind, at);
            let done = command.output().unwrap().status.success();
            let found = days(dir.path());
            assert!(
                [(5, 5), (3, 2)].contains(&found),
                "{kind} at {at}: {found:?}"
            );
            let verified = run_json(dir.path(), &["verify"]);
            assert_eq!(verified["damage"], json!([]), "{kind} at {at}");
            assert!(expire(dir.path()).output().unwrap().status.success());
            assert_eq!(days(dir.path()), (3, 2), "{kind} at {at}, again");
            assert_eq!(rollups(dir.path()), rollups(undisturbed.path()));
            let files = |dir: &Path| std::fs::read_dir(dir.join("events")).unwrap().count();
            assert_eq!(files(dir.path()), 2, "{kind} at {at}: days in the lake");
            assert_eq!(columns(dir.path()).1.len(), 0, "{kind} at {at}");
            if done {
                break;
            }
            points += 1;
        }
        assert!(points >= 5, "{kind}: only {points} points were tried");
    }
}

fn numbers(mut usage: Value) -> Value {
    usage.as_object_mut().unwrap().remove("ts");
    usage
}

fn rollups(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("analytics.ndjson")).unwrap_or_default()
}

pub fn copy(origin: &Path) -> tempfile::TempDir {
    let dir = folder();
    let done = Command::new("cp")
        .arg("-a")
        .arg(format!("{}/.", origin.display()))
        .arg(dir.path())
        .status()
        .unwrap();
    assert!(done.success());
    dir
}

#[test]
fn a_failed_sync_is_never_acknowledged_or_retried_and_needs_a_restart() {
    let dir = folder();
    let flag = dir.path().join("../").join(format!(
        "{}.flag",
        dir.path().file_name().unwrap().display()
    ));
    let mut command = echopilot(dir.path());
    with_fault(&mut command, dir.path(), "eio", 1);
    command.env("FAULT_CALLS", "sync").env("FAULT_FLAG", &flag);
    let server = Server::start_as(command);
    assert_eq!(server.post(&batch([event("action", "before", "f")])).0, 200);
    std::fs::write(&flag, "").unwrap();
    let (status, body) = server.post(&batch([event("action", "during", "f")]));
    assert_eq!(
        (status, &body["error"]),
        (503, &json!("log_stopped")),
        "{body}"
    );
    std::fs::remove_file(&flag).unwrap();
    // The disk works again, and a sync would succeed, but it must not be tried.
    let (status, body) = server.post(&batch([event("action", "after", "f")]));
    assert_eq!((status, &body["error"]), (503, &json!("log_stopped")));
    let (status, body) = server.get_with("/health/ready", &[]);
    assert_eq!((status, &body["error"]), (503, &json!("log_stopped")));
    assert_eq!(server.get_with("/health/live", &[]).0, 200);
    assert_eq!(server.usage("")["total_events"], 1, "queries still work");
    let traced = server.stop();
    assert!(
        traced.contains("ERROR") && traced.contains("restart the server"),
        "{traced}"
    );
    let server = Server::start(dir.path());
    assert_eq!(server.post(&batch([event("action", "after", "f")])).0, 200);
    let total = server.usage("")["total_events"].as_u64().unwrap();
    assert!(
        (2..=3).contains(&total),
        "an event without a response may be stored or not: {total}"
    );
}

#[test]
fn a_full_disk_rejects_whole_batches_and_recovers_by_itself() {
    let dir = folder();
    let Some(_mounted) = Tmpfs::mount(dir.path(), "size=1m") else {
        return;
    };
    let server = Server::start(dir.path());
    let filler = dir.path().join("filler");
    let events = |number: usize| {
        batch((0..100).map(|place| {
            let mut event = event("action", &format!("{number}-{place}"), &"f".repeat(150));
            event["event_id"] = json!(format!("{number}-{place}"));
            event
        }))
    };
    let mut accepted = 0;
    let mut refused = Vec::new();
    std::fs::write(&filler, vec![0; 512 << 10]).unwrap();
    for number in 0..20 {
        let (status, body) = server.post(&events(number));
        match status {
            200 => accepted += 100,
            507 => {
                refused.push(number);
                assert_eq!(
                    (&body["ok"], &body["error"]),
                    (&json!(false), &json!("disk_full"))
                );
            }
            status => panic!("{status}: {body}"),
        }
    }
    assert!(
        accepted > 0 && !refused.is_empty(),
        "accepted {accepted}, refused {refused:?}"
    );
    assert_eq!(
        log_lines(dir.path()).len(),
        accepted,
        "nothing is half-written"
    );
    assert_eq!(server.usage("")["total_events"], accepted);
    let (status, health) = server.get_with("/health/ready", &[]);
    assert_eq!((status, &health["error"]), (503, &json!("disk_full")));
    // Clients of other products send again after 503 and no other status.
    let track = json!({"type": "track", "event": "f", "userId": "u"});
    assert_eq!(server.ask_with("/v1/track", &track, &[]).0, 503);
    std::fs::remove_file(&filler).unwrap();
    let freed = Instant::now();
    while server.get_with("/health/ready", &[]).0 != 200 {
        assert!(freed.elapsed() < PATIENCE, "health never recovers");
    }
    assert_eq!(
        server.post(&events(99)).0,
        200,
        "it recovers without a restart"
    );
    assert_eq!(server.get_with("/health/ready", &[]).0, 200);
    accepted += 100;
    // The ids of rejected events are not kept: sent again, these are stored, once.
    for duplicates in [0, 100] {
        for &number in &refused {
            let (status, body) = server.post(&events(number));
            assert_eq!((status, &body["duplicates"]), (200, &json!(duplicates)));
            accepted += body["logged"].as_u64().unwrap() as usize;
        }
    }
    assert_eq!(server.usage("")["total_events"], accepted);
    server.kill();
    assert_eq!(run_json(dir.path(), &["usage"])["total_events"], accepted);
}

/// The file system keeps what was synced before the cut and nothing else. Without syncs the same
/// cut loses events, which shows that the test notices a missing sync.
#[test]
fn a_power_cut_loses_unsynced_events_and_no_acknowledged_ones() {
    for durability in ["sync", "os"] {
        let dir = folder();
        let Some(mut disk) = CutDisk::mount(dir.path()) else {
            return;
        };
        let data = disk.mounted.join("data");
        // Started and stopped, so that the folder itself is on disk before the cut.
        Server::start(&data).stop();
        disk.sync();
        let mut command = echopilot(&data);
        command.env("ECHOPILOT_DURABILITY", durability);
        let server = Server::start_as(command);
        let mut accepted = 0;
        for number in 0..40 {
            let events =
                batch((0..10).map(|place| event("action", &format!("{number}-{place}"), "f")));
            accepted += server.post(&events).1["logged"].as_u64().unwrap();
        }
        assert_eq!(accepted, 400);
        disk.cut();
        server.kill();
        disk.mount_again();
        let kept = run_json(&data, &["usage", "--days", "2"])["total_events"]
            .as_u64()
            .unwrap();
        match durability {
            "sync" => assert_eq!(kept, accepted),
            _ => assert!(
                kept < accepted,
                "the cut lost nothing, so the test proves nothing"
            ),
        }
    }
}

/// An ext4 file system in a file, whose power can be cut.
pub struct CutDisk {
    image: PathBuf,
    pub mounted: PathBuf,
}

impl CutDisk {
    pub fn mount(dir: &Path) -> Option<Self> {
        let disk = Self {
            image: dir.join("image"),
            mounted: dir.join("mounted"),
        };
        std::fs::create_dir(&disk.mounted).unwrap();
        std::fs::File::create(&disk.image)
            .unwrap()
            .set_len(64 << 20)
            .unwrap();
        let made = Command::new("mkfs.ext4")
            .arg("-qF")
            .arg(&disk.image)
            .status();
        if made.is_ok_and(|status| status.success()) && disk.try_mount() {
            return Some(disk);
        }
        eprintln!(
            "SKIPPED: cannot mount a file system in a file here; run as root to test a power cut"
        );
        None
    }

    fn try_mount(&self) -> bool {
        let mut mount = Command::new("mount");
        mount
            .args(["-o", "loop"])
            .arg(&self.image)
            .arg(&self.mounted);
        mount.status().is_ok_and(|status| status.success())
    }

    pub fn sync(&self) {
        assert!(
            Command::new("sync")
                .arg("-f")
                .arg(&self.mounted)
                .status()
                .unwrap()
                .success()
        );
    }

    /// Stops all writes and drops what is in memory, the journal included: `FS_IOC_SHUTDOWN`.
    pub fn cut(&self) {
        let cut = "import fcntl, os, struct, sys\n\
                   fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";
        let done = Command::new("python3")
            .args(["-c", cut])
            .arg(&self.mounted)
            .status();
        assert!(done.unwrap().success());
    }

    pub fn mount_again(&mut self) {
        assert!(
            Command::new("umount")
                .arg(&self.mounted)
                .status()
                .unwrap()
                .success()
        );
        assert!(self.try_mount());
    }
}

impl Drop for CutDisk {
    fn drop(&mut self) {
        // Lazily, so that it also works while a file is open.
        let _ = Command::new("umount").arg("-l").arg(&self.mounted).status();
    }
}

/// A small file system, unmounted when dropped.
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    pub fn mount(path: &Path, options: &str) -> Option<Self> {
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(path)
            .status();
        if done.is_ok_and(|status| status.success()) {
            return Some(Self(path.to_owned()));
        }
        eprintln!(
            "SKIPPED: cannot mount a small file system here; run as root to test a full disk"
        );
        None
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily, so that it also works while a file is open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
