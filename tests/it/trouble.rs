//! A full disk in every job, the order of syncs, failed seals, and few descriptors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use chrono::{Days, Utc};
use echopilot_analytics::engine::Engine;
use echopilot_analytics::error::Error;
use echopilot_analytics::event::{Event, EventType};
use echopilot_analytics::store;
use echopilot_analytics::window::{DAY_US, WindowRequest};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::faults::{CutDisk, Tmpfs, copy, with_fault, with_trace};
use crate::harness::{
    KEY, PATIENCE, Server, batch, echopilot, engine, event, folder, ingest, log_lines, log_path,
    run, run_json, unsealed_demo,
};
use crate::metrics::request_of;

/// A job of the command line and its data folder.
struct Job {
    origin: TempDir,
    arguments: Vec<String>,
    environment: Vec<(&'static str, &'static str)>,
}

impl Job {
    fn new(origin: TempDir, arguments: &[&str]) -> Self {
        Self {
            origin,
            arguments: arguments
                .iter()
                .map(|&argument| argument.to_owned())
                .collect(),
            environment: Vec::new(),
        }
    }

    /// The job in a copy of its folder. `{}` in an argument stands for the folder.
    fn command(&self, dir: &Path) -> Command {
        let mut command = echopilot(dir);
        for argument in &self.arguments {
            command.arg(argument.replace("{}", dir.to_str().unwrap()));
        }
        command.envs(self.environment.iter().copied());
        command
    }
}

/// Sealed days, and more events of the same days in the log: a seal merges states, and a compaction
/// joins segments.
fn half_sealed() -> TempDir {
    let origin = folder();
    unsealed_demo(origin.path(), 300, 3, 1);
    run_json(origin.path(), &["seal"]);
    let more = folder();
    unsealed_demo(more.path(), 200, 3, 2);
    std::fs::copy(log_path(more.path()), log_path(origin.path())).unwrap();
    origin
}

/// Sealed days of two segments each.
fn uncompacted() -> TempDir {
    let origin = half_sealed();
    open(origin.path()).store().seal().unwrap();
    origin
}

/// Sealed days.
fn sealed() -> TempDir {
    let origin = half_sealed();
    run_json(origin.path(), &["seal"]);
    origin
}

fn open(dir: &Path) -> Engine {
    engine(dir, Utc::now())
}

/// A user with events.
fn a_user(dir: &Path) -> String {
    let users = std::fs::read_to_string(dir.join("users.ndjson")).unwrap();
    serde_json::from_str(users.lines().next().unwrap()).unwrap()
}

/// Every job of the command line that writes.
fn job(name: &'static str) -> Job {
    match name {
        "seal" => Job::new(half_sealed(), &["seal"]),
        "compaction" => Job::new(uncompacted(), &["seal"]),
        "rollup" => Job::new(sealed(), &["rollup"]),
        "expiry" => Job {
            environment: vec![
                ("ECHOPILOT_RAW_RETENTION_DAYS", "1"),
                ("ECHOPILOT_ROLLUP_RETENTION_DAYS", "2"),
            ],
            ..Job::new(sealed(), &["expire"])
        },
        "erase" => {
            let origin = half_sealed();
            let user = a_user(origin.path());
            Job::new(origin, &["user", "erase", &user])
        }
        "export" => {
            let origin = half_sealed();
            std::fs::create_dir(origin.path().join("export")).unwrap();
            Job::new(origin, &["export", "--to", "{}/export", "--since", "last"])
        }
        "rebuild" => {
            let origin = sealed();
            for state in std::fs::read_dir(origin.path().join("states")).unwrap() {
                std::fs::write(state.unwrap().path(), "damaged").unwrap();
            }
            Job::new(origin, &["rebuild"])
        }
        "cohort" => {
            let cohort = r#"{"name":"testers","users":["u1","u2"]}"#;
            Job::new(sealed(), &["cohort", "set", cohort])
        }
        "import" => {
            let origin = sealed();
            let lines: Vec<String> = (0..200)
                .map(|number| {
                    let day = Utc::now().date_naive() - Days::new(number % 4 + 1);
                    json!({"event_type":"action","user_id":format!("new_{number}"),"feature":"f",
                           "event_id":format!("{number}"),"ts":format!("{day}T12:00:00Z")})
                    .to_string()
                })
                .collect();
            std::fs::write(origin.path().join("lines"), lines.join("\n")).unwrap();
            Job::new(origin, &["import", "{}/lines"])
        }
        _ => panic!("{name}"),
    }
}

/// Results of a store, from states and from events.
fn numbers(dir: &Path) -> Value {
    let engine = open(dir);
    let usage = |tz: &str| {
        let request = WindowRequest {
            days: Some(9),
            tz: Some(tz.into()),
            ..WindowRequest::default()
        };
        let usage = engine.usage(&request, Utc::now());
        let mut usage = serde_json::to_value(usage.unwrap()).unwrap();
        for changing in ["ts", "window", "covered_from"] {
            usage.as_object_mut().unwrap().remove(changing);
        }
        usage
    };
    let rollups = std::fs::read_to_string(dir.join("analytics.ndjson")).unwrap_or_default();
    let cohorts = engine.cohorts().unwrap();
    json!([usage("UTC"), usage("Africa/Abidjan"), rollups, cohorts])
}

/// Files that no manifest lists, and temporary ones.
fn leftovers(dir: &Path) -> Vec<PathBuf> {
    let manifest = std::fs::read(dir.join("manifest.json")).unwrap_or_default();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap_or_default();
    let lists = [&manifest["segments"], &manifest["states"]];
    let named: BTreeSet<PathBuf> = lists
        .into_iter()
        .flat_map(|list| list.as_array().into_iter().flatten())
        .map(|facts| dir.join(facts["path"].as_str().unwrap()))
        .collect();
    let mut found = Vec::new();
    for kept in ["events", "states"] {
        files_below(&dir.join(kept), &mut found);
    }
    found.retain(|path| !named.contains(path));
    // Whatever the folder of temporary files is called.
    for entry in std::fs::read_dir(dir)
        .unwrap()
        .chain(read_dir_if(&dir.join("export")))
    {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.contains("tmp") && path.is_dir() {
            files_below(&path, &mut found);
        }
    }
    found
}

fn read_dir_if(dir: &Path) -> impl Iterator<Item = std::io::Result<std::fs::DirEntry>> {
    std::fs::read_dir(dir).into_iter().flatten()
}

fn files_below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in read_dir_if(dir) {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files_below(&path, found),
            false => found.push(path),
        }
    }
}

/// Runs a job on a disk that is full from its `n`-th writing call on, for each `n`: it fails with
/// one message and leaves nothing incomplete, and when there is space again it succeeds.
fn fill_the_disk_in(name: &'static str) {
    let job = job(name);
    let before = match name {
        "rebuild" => None,
        _ => Some(numbers(job.origin.path())),
    };
    let undisturbed = copy(job.origin.path());
    assert!(
        job.command(undisturbed.path())
            .output()
            .unwrap()
            .status
            .success()
    );
    let after = numbers(undisturbed.path());
    let mut points = 0;
    for at in 1.. {
        match on_full_disk(name, &job, (&before, &after), at, None) {
            Ended::Failed => points += 1,
            Ended::Succeeded => break,
        }
    }
    assert!(points >= 2, "{name}: only {points} points were tried");
    // If there is space again at once, the failed write may not have been necessary.
    if ["seal", "import"].contains(&name) {
        let failed = (1..=points).filter(|&at| {
            on_full_disk(name, &job, (&before, &after), at, Some(1)) == Ended::Failed
        });
        assert!(failed.count() * 2 > points, "{name}: of {points} points");
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Succeeded,
    Failed,
}

/// Runs a job on a disk that is full from the `at`-th writing call on, for `count` calls.
fn on_full_disk(
    name: &str,
    job: &Job,
    (before, after): (&Option<Value>, &Value),
    at: usize,
    count: Option<usize>,
) -> Ended {
    let dir = copy(job.origin.path());
    let mut command = job.command(dir.path());
    with_fault(&mut command, dir.path(), "enospc", at);
    if let Some(count) = count {
        command.env("FAULT_COUNT", count.to_string());
    }
    let output = command.output().unwrap();
    let ended = match output.status.success() {
        true => Ended::Succeeded,
        false => Ended::Failed,
    };
    if ended == Ended::Failed {
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{name} at {at}: {said}");
        let lines: Vec<&str> = said
            .lines()
            .filter(|line| line.starts_with("echopilot: "))
            .collect();
        assert_eq!(
            lines,
            ["echopilot: no space left on the device; free some and try again"],
            "{name} at {at}: {said}"
        );
        assert_eq!(leftovers(dir.path()), [] as [PathBuf; 0], "{name} at {at}");
        let verified = store::verify(dir.path(), "the test").unwrap();
        if let Some(before) = before {
            assert_eq!(verified.damage, [] as [String; 0], "{name} at {at}");
            let found = numbers(dir.path());
            let is_whole = found == *before || found == *after;
            // Days and users are erased one after another.
            assert!(is_whole || name == "erase", "{name} at {at}: {found}");
        }
        let again = job.command(dir.path()).output().unwrap();
        assert!(
            again.status.success(),
            "{name} at {at}, again: {}",
            String::from_utf8_lossy(&again.stderr)
        );
    }
    assert_eq!(numbers(dir.path()), *after, "{name} at {at}, again");
    let verified = store::verify(dir.path(), "the test").unwrap();
    assert_eq!(verified.damage, [] as [String; 0], "{name} at {at}, again");
    if name == "export" {
        let events = exported_events(&dir.path().join("export"));
        assert_eq!(events, 500, "{name} at {at}");
    }
    ended
}

/// Events of an export, by its list and by its files.
fn exported_events(dir: &Path) -> u64 {
    let list: Value =
        serde_json::from_slice(&std::fs::read(dir.join("export.json")).unwrap()).unwrap();
    let files = list["days"].as_object().unwrap().values();
    let files = files.flat_map(|day| day["files"].as_array().unwrap());
    files
        .map(|file| {
            let path = dir.join(file["path"].as_str().unwrap());
            assert_eq!(file["bytes"].as_u64(), Some(path.metadata().unwrap().len()));
            file["rows"].as_u64().unwrap()
        })
        .sum()
}

#[test]
fn a_full_disk_stops_a_seal_and_leaves_nothing_incomplete() {
    fill_the_disk_in("seal");
}

#[test]
fn a_full_disk_stops_a_compaction_and_leaves_nothing_incomplete() {
    fill_the_disk_in("compaction");
}

#[test]
fn a_full_disk_stops_other_jobs_and_leaves_nothing_incomplete() {
    for name in ["rollup", "expiry", "rebuild", "cohort"] {
        fill_the_disk_in(name);
    }
}

#[test]
fn a_full_disk_stops_an_erasure_which_ends_when_there_is_space() {
    fill_the_disk_in("erase");
}

#[test]
fn a_full_disk_stops_an_export_and_leaves_nothing_incomplete() {
    fill_the_disk_in("export");
}

#[test]
fn a_full_disk_stops_an_import_and_leaves_nothing_incomplete() {
    fill_the_disk_in("import");
}

#[test]
fn on_a_full_disk_requests_that_write_get_507_until_there_is_space() {
    let dir = folder();
    let Some(_mounted) = Tmpfs::mount(dir.path(), "size=4m") else {
        return;
    };
    unsealed_demo(dir.path(), 3_000, 3, 1);
    let filler = dir.path().join("filler");
    // Larger than the rest of the disk.
    let full = std::fs::write(&filler, vec![0; 8 << 20]);
    assert_eq!(full.map_err(|error| error.raw_os_error()), Err(Some(28)));
    let server = Server::start(dir.path());
    let cohort = json!({"name":"testers","users":["u1","u2"]});
    let disk_full = |(status, body): (u16, Value)| {
        assert_eq!(
            (status, &body["error"]),
            (507, &json!("disk_full")),
            "{body}"
        );
    };
    disk_full(server.ask("/api/analytics/cohorts", &cohort));
    disk_full(server.rollup());
    disk_full(server.delete("/api/analytics/users/user_1"));
    let before = server.usage("?days=9")["total_events"].clone();
    assert_eq!(before, 3_000);
    std::fs::remove_file(&filler).unwrap();
    assert_eq!(server.ask("/api/analytics/cohorts", &cohort).0, 200);
    assert_eq!(server.rollup().0, 200);
    let (status, receipt) = server.delete("/api/analytics/users/user_1");
    assert_eq!(status, 200, "{receipt}");
    let left = 3_000 - receipt["events"].as_u64().unwrap();
    assert_eq!(server.usage("?days=9")["total_events"], left);
    server.stop();
    assert_eq!(leftovers(dir.path()), [] as [PathBuf; 0]);
    let verified = run_json(dir.path(), &["verify"]);
    assert_eq!(verified["damage"], json!([]));
}

/// Creates logs that wait to be sealed, as after a server was killed during a seal: each with
/// `events` events of other users.
fn waiting_logs(dir: &Path, logs: u64, events: u64) {
    std::fs::create_dir_all(dir.join("sealing")).unwrap();
    for number in 1..=logs {
        let other = folder();
        unsealed_demo(other.path(), events, 2, number);
        let path = dir.join(format!("sealing/{number:08}.ndjson"));
        std::fs::copy(log_path(other.path()), path).unwrap();
    }
}

fn logs_left(dir: &Path) -> usize {
    read_dir_if(&dir.join("sealing")).count()
}

#[test]
fn each_waiting_log_is_sealed_by_a_commit_of_its_own() {
    let origin = folder();
    waiting_logs(origin.path(), 4, 100);
    let before = numbers(origin.path());
    // It makes progress even if it is killed again and again.
    let dir = copy(origin.path());
    let mut left = vec![logs_left(dir.path())];
    for at in (10..).step_by(10) {
        let mut command = echopilot(dir.path());
        with_fault(&mut command, dir.path(), "kill", at);
        let done = command.arg("seal").output().unwrap().status.success();
        left.push(logs_left(dir.path()));
        assert_eq!(numbers(dir.path()), before, "killed at {at}");
        if done {
            break;
        }
    }
    left.dedup();
    assert!(left.len() > 3, "logs left: {left:?}");
    assert!(left.is_sorted_by(|a, b| a >= b), "{left:?}");
    assert_eq!(run_json(dir.path(), &["verify"])["sealed_events"], 400);
    // A server seals them soon after its start.
    let server = Server::start(origin.path());
    let waiting = Instant::now();
    loop {
        let (_, status) = server.get("/api/analytics/status");
        if status["store"]["sealed_events"] == 400 {
            assert_eq!(status["waiting"]["events"], 0, "{status}");
            assert_eq!(status["store"]["waiting_logs"], 0, "{status}");
            break;
        }
        assert!(waiting.elapsed() < PATIENCE, "{status}");
    }
    server.stop();
    for by in [0, 1] {
        assert_eq!(numbers(origin.path())[by], before[by]);
    }
}

#[test]
fn an_import_and_a_waiting_log_do_not_overwrite_each_other() {
    let dir = folder();
    waiting_logs(dir.path(), 1, 100);
    let day = Utc::now().date_naive() - Days::new(1);
    let line = json!({"event_type":"action","user_id":"new","feature":"f","ts":format!("{day}T12:00:00Z")});
    let file = dir.path().join("lines");
    std::fs::write(&file, line.to_string()).unwrap();
    assert_eq!(
        run_json(dir.path(), &["import", file.to_str().unwrap()])["accepted"],
        1
    );
    run_json(dir.path(), &["seal"]);
    let verified = run_json(dir.path(), &["verify"]);
    assert_eq!(
        (&verified["sealed_events"], &verified["damage"]),
        (&json!(101), &json!([]))
    );
    assert_eq!(run_json(dir.path(), &["usage"])["total_events"], 101);
}

#[test]
fn a_failed_seal_waits_longer_each_time_and_is_traced_once() {
    let dir = folder();
    waiting_logs(dir.path(), 1, 100);
    let flag = folder();
    let flag = flag.path().join("flag");
    std::fs::write(&flag, "").unwrap();
    let trace = folder();
    let trace = trace.path().join("trace");
    let mut command = echopilot(dir.path());
    // A written segment cannot be renamed to its path.
    let lake = dir.path().join("events");
    with_fault(&mut command, &lake, "eio", 1);
    with_trace(&mut command, &lake, &trace);
    command
        .env("FAULT_CALLS", "rename")
        .env("FAULT_FLAG", &flag);
    let started = Instant::now();
    let mut server = Server::start_as(command);
    server.wait_for("The seal failed");
    // Each attempt creates the folder of the day again. Three attempts: at once, after a second and
    // after two more. The fourth comes four seconds later.
    let attempts = || {
        let text = std::fs::read_to_string(&trace).unwrap_or_default();
        text.lines()
            .filter(|line| line.starts_with("mkdir") && line.contains("/dt="))
            .count()
    };
    let per_attempt = attempts();
    assert!(per_attempt > 0);
    while attempts() < 3 * per_attempt {
        assert!(started.elapsed() < PATIENCE, "{} attempts", attempts());
    }
    let waited = started.elapsed();
    assert!(waited >= Duration::from_millis(2_900), "{waited:?}");
    // An erasure seals without waiting.
    let tried = attempts();
    assert_eq!(server.delete("/api/analytics/users/nobody").0, 500);
    assert!(attempts() > tried);
    std::fs::remove_file(&flag).unwrap();
    let healed = Instant::now();
    while server.get("/api/analytics/status").1["store"]["sealed_events"] != 100 {
        assert!(healed.elapsed() < PATIENCE, "it is never sealed");
    }
    let traced = server.stop();
    let said = traced
        .lines()
        .filter(|line| line.contains("The seal failed"));
    let said: Vec<&str> = said.filter(|line| line.contains("ERROR")).collect();
    assert_eq!(said.len(), 1, "{traced}");
    assert_eq!(said[0].matches("os error 5").count(), 1, "{said:?}");
}

#[test]
fn an_event_that_differs_in_memory_and_log_is_not_sealed() {
    let dir = folder();
    let engine = open(dir.path());
    let events: Vec<Value> = (0..3)
        .map(|number| event("action", &format!("u{number}"), "f"))
        .collect();
    ingest(&engine, &events, Utc::now());
    let log = std::fs::read_to_string(log_path(dir.path())).unwrap();
    let twice = format!("{log}{}\n", log.lines().next().unwrap());
    std::fs::write(log_path(dir.path()), twice).unwrap();
    let sealed = engine.store().seal();
    assert!(matches!(sealed, Err(Error::Damaged { .. })), "{sealed:?}");
    assert_eq!(engine.size().sealed_events, 0);
    assert_eq!(leftovers(dir.path()), [] as [PathBuf; 0]);
}

#[test]
fn a_changed_dictionary_is_rejected() {
    let origin = sealed();
    let path = origin.path().join("users.ndjson");
    let mut users = std::fs::read(&path).unwrap();
    // Another id, which is as valid as the one that was written.
    let letter = users.iter_mut().find(|byte| byte.is_ascii_digit()).unwrap();
    *letter = if *letter == b'9' { b'8' } else { b'9' };
    std::fs::write(&path, users).unwrap();
    let output = run(origin.path(), &["usage"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("users.ndjson is damaged"), "{said}");
    let verified = run(origin.path(), &["verify"]);
    assert_eq!(verified.status.code(), Some(1));
}

/// The state of a disk after the calls that `fault.c` recorded, if a power cut undoes everything
/// that was not synced.
///
/// A file is durable after a sync that follows its last write, a name after a sync of its folder.
/// Temporary files and the file that names the lock owner need not be durable.
struct Disk<'a> {
    job: &'a str,
    root: &'a Path,
    /// Files that were written and not synced, by inode.
    files: BTreeMap<u64, String>,
    /// Folders whose entries were changed and not synced, and the call that changed them.
    folders: BTreeMap<String, String>,
    /// Prepared folders of days, whose exchange the library does not see: the number of syncs of
    /// their parent folder, and whether the lake was synced since.
    prepared: BTreeMap<String, (usize, bool)>,
    commits: usize,
    answers: usize,
}

impl Disk<'_> {
    fn replay<'a>(job: &'a str, root: &'a Path, trace: &Path) -> Disk<'a> {
        let mut disk = Disk {
            job,
            root,
            files: BTreeMap::new(),
            folders: BTreeMap::new(),
            prepared: BTreeMap::new(),
            commits: 0,
            answers: 0,
        };
        for line in std::fs::read_to_string(trace).unwrap().lines() {
            let mut fields = line.split('\t');
            let mut next = || fields.next().unwrap();
            let (call, inode, path, to) = (next(), next().parse().unwrap(), next(), next());
            disk.call(call, inode, path, to, line);
        }
        disk.check_all("at the end");
        disk
    }

    /// Returns true if a file or folder may be lost.
    fn is_unfinished(&self, path: &str) -> bool {
        let inside = Path::new(path).strip_prefix(self.root).unwrap();
        let first = inside.components().next();
        let first = first
            .map(|first| first.as_os_str().to_str().unwrap())
            .unwrap_or_default();
        first.contains("tmp")
            || first == "holder"
            || inside.components().any(|part| part.as_os_str() == "tmp")
    }

    fn change_names(&mut self, path: &str, line: &str) {
        let parent = Path::new(path)
            .parent()
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        if !self.is_unfinished(path) && !self.is_unfinished(&parent) {
            self.folders.insert(parent, line.to_owned());
        }
    }

    fn call(&mut self, call: &str, inode: u64, path: &str, to: &str, line: &str) {
        match call {
            "answer" => {
                self.answers += 1;
                let log = self
                    .files
                    .values()
                    .find(|path| path.ends_with("analytics_events.ndjson"));
                assert_eq!(
                    log, None,
                    "{}: a response before the sync of the log",
                    self.job
                );
            }
            "write" => drop(self.files.insert(inode, path.to_owned())),
            "sync" => {
                self.files.remove(&inode);
                self.folders.remove(path);
                for (prepared, (synced, lake)) in &mut self.prepared {
                    *synced += usize::from(Path::new(prepared).parent() == Some(Path::new(path)));
                    *lake |= path.ends_with("/events");
                }
            }
            "create" => self.change_names(path, line),
            "mkdir" => {
                self.change_names(path, line);
                if Path::new(path).parent().unwrap().ends_with("compacting") {
                    self.prepared.insert(path.to_owned(), (0, false));
                }
            }
            "link" => {
                self.change_names(to, line);
                self.change_prepared(to);
            }
            "rename" => {
                let unsynced = self.files.get(&inode);
                assert_eq!(
                    unsynced, None,
                    "{}: it gets a name before its sync: {line}",
                    self.job
                );
                if to.ends_with("/manifest.json") {
                    self.commits += 1;
                    self.check_all(&format!("at commit {}", self.commits));
                }
                self.change_names(path, line);
                self.change_names(to, line);
                self.change_prepared(to);
                self.folders
                    .retain(|folder, _| !folder.starts_with(&format!("{path}/")));
            }
            "unlink" => {
                self.files.retain(|_, written| written != path);
                self.change_names(path, line);
            }
            "rmdir" => {
                self.folders.remove(path);
                self.prepared.remove(path);
                self.change_names(path, line);
            }
            call => panic!("{call}"),
        }
    }

    /// Notes that a prepared folder has changed.
    fn change_prepared(&mut self, path: &str) {
        let parent = Path::new(path).parent().unwrap().to_str().unwrap();
        if let Some((_, lake)) = self.prepared.get_mut(parent) {
            *lake = false;
        }
    }

    fn check_all(&self, when: &str) {
        let job = self.job;
        for path in self.files.values() {
            // The log is synced before its events are acknowledged.
            let is_log = when != "at the end" && path.ends_with("analytics_events.ndjson");
            assert!(
                is_log || self.is_unfinished(path),
                "{job} {when}: {path} is not synced"
            );
        }
        if let Some((folder, change)) = self.folders.first_key_value() {
            panic!("{job} {when}: {folder} is not synced after: {change}");
        }
        for (prepared, (synced, lake)) in &self.prepared {
            assert!(
                *synced >= 2 && *lake,
                "{job} {when}: the exchange of {prepared} is not synced: {synced} {lake}"
            );
        }
    }
}

#[test]
fn every_job_syncs_its_files_and_folders_before_it_commits_and_ends() {
    for name in [
        "seal",
        "compaction",
        "rollup",
        "expiry",
        "erase",
        "export",
        "rebuild",
        "cohort",
        "import",
    ] {
        let job = job(name);
        let trace = folder();
        let trace = trace.path().join("trace");
        let mut command = job.command(job.origin.path());
        with_trace(&mut command, job.origin.path(), &trace);
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let disk = Disk::replay(name, job.origin.path(), &trace);
        let least = match name {
            "rollup" | "cohort" => 0,
            "compaction" => 3,
            _ => 1,
        };
        assert!(disk.commits >= least, "{name}: {} commits", disk.commits);
    }
}

#[test]
fn a_power_cut_undoes_nothing_of_a_job_that_ended() {
    for name in [
        "seal",
        "compaction",
        "rollup",
        "expiry",
        "erase",
        "export",
        "rebuild",
        "cohort",
        "import",
    ] {
        let dir = folder();
        let Some(mut disk) = CutDisk::mount(dir.path()) else {
            return;
        };
        let job = job(name);
        let undisturbed = copy(job.origin.path());
        let done = job.command(undisturbed.path()).output().unwrap();
        assert!(done.status.success());
        let data = disk.mounted.join("data");
        let mut copied = Command::new("cp");
        copied.arg("-a").arg(job.origin.path()).arg(&data);
        assert!(copied.status().unwrap().success());
        disk.sync();
        let done = job.command(&data).output().unwrap();
        assert!(done.status.success(), "{name}: {done:?}");
        disk.cut();
        disk.mount_again();
        assert_eq!(numbers(&data), numbers(undisturbed.path()), "{name}");
        let verified = store::verify(&data, "the test").unwrap();
        assert_eq!(verified.damage, [] as [String; 0], "{name}");
        assert_eq!(leftovers(&data), [] as [PathBuf; 0], "{name}");
        match name {
            "export" => assert_eq!(exported_events(&data.join("export")), 500),
            "erase" => {
                let user = job.arguments.last().unwrap();
                let mut files = Vec::new();
                files_below(&data, &mut files);
                for file in files {
                    let bytes = std::fs::read(&file).unwrap();
                    let found = bytes
                        .windows(user.len())
                        .any(|bytes| bytes == user.as_bytes());
                    assert!(!found, "{}", file.display());
                }
            }
            _ => {}
        }
    }
}

#[test]
fn a_server_acknowledges_after_the_sync_of_the_log_and_syncs_all_before_it_ends() {
    let dir = folder();
    let trace = folder();
    let trace = trace.path().join("trace");
    let mut command = echopilot(dir.path());
    with_trace(&mut command, dir.path(), &trace);
    let server = Server::start_as(command);
    for number in 0..20 {
        let user = format!("u{number}");
        assert_eq!(server.post(&batch([event("action", &user, "f")])).0, 200);
    }
    assert_eq!(server.delete("/api/analytics/users/u1").0, 200);
    server.stop();
    let disk = Disk::replay("serve", dir.path(), &trace);
    assert!(
        disk.answers >= 21 && disk.commits >= 1,
        "{} {}",
        disk.answers,
        disk.commits
    );
    assert_eq!(log_lines(dir.path()), [] as [Value; 0]);
}

/// Fills a store with `per_day` segments for each of `days` days, the last one yesterday, each with
/// one user.
fn many_segments(dir: &Path, days: i64, per_day: i64) {
    let engine = open(dir);
    let today = i64::from(Utc::now().date_naive().to_epoch_days());
    let mut parts = 0..per_day;
    let mut load = || {
        engine.store().load(
            || Ok(parts.next().map(|part| part.to_le_bytes())),
            |part, events| {
                let part = i64::from_le_bytes(part);
                for day in 1..=days {
                    let ts_us = (today - day) * DAY_US + part * 1_000_000;
                    events.push(&Event {
                        ts_us,
                        event_type: EventType::Action,
                        user_id: Some(format!("user_{part}").into()),
                        feature: Some(format!("feature_{}", part % 3).into()),
                        metadata: "{}".into(),
                        url: None,
                        event_id: None,
                        received_at_us: ts_us,
                    });
                }
                Ok(())
            },
            |(), _| {},
        )
    };
    while load().unwrap() {}
}

/// A command with a limit of open files.
fn limited(dir: &Path, descriptors: usize) -> Command {
    let plain = echopilot(dir);
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            &format!("ulimit -n {descriptors}; exec \"$0\" \"$@\""),
        ])
        .arg(plain.get_program());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
        .env("ECHOPILOT_RAW_RETENTION_DAYS", "400")
        .env("ECHOPILOT_ROLLUP_RETENTION_DAYS", "400");
    command
}

/// Counts the open descriptors of a process repeatedly and keeps the maximum.
struct Descriptors {
    ended: Arc<AtomicBool>,
    watch: std::thread::JoinHandle<usize>,
}

impl Descriptors {
    fn of(process: u32) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let is_over = ended.clone();
        let watch = std::thread::spawn(move || {
            let most = AtomicUsize::new(0);
            while !is_over.load(Ordering::Relaxed) {
                let open = read_dir_if(Path::new(&format!("/proc/{process}/fd"))).count();
                most.fetch_max(open, Ordering::Relaxed);
                std::thread::yield_now();
            }
            most.into_inner()
        });
        Self { ended, watch }
    }

    fn most(self) -> usize {
        self.ended.store(true, Ordering::Relaxed);
        self.watch.join().unwrap()
    }
}

/// Runs a command with a limit of open files; it must succeed and stay far below the limit.
fn run_limited(dir: &Path, arguments: &[&str]) -> Vec<u8> {
    let mut command = limited(dir, 256);
    let child = command
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let descriptors = Descriptors::of(child.id());
    let output = child.wait_with_output().unwrap();
    let most = descriptors.most();
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(most <= 128, "{arguments:?}: {most} descriptors");
    output.stdout
}

#[test]
fn ten_thousand_segments_need_few_descriptors() {
    let dir = folder();
    // On a file system in memory, where syncs cost nothing.
    let _mounted = Tmpfs::mount(dir.path(), "size=2g");
    let data = dir.path().join("data");
    let (days, per_day) = (360, 28);
    many_segments(&data, days, per_day);
    let events = days * per_day;
    assert!(events >= 10_000);
    let json = |arguments: &[&str]| -> Value {
        serde_json::from_slice(&run_limited(&data, arguments)).unwrap()
    };
    assert_eq!(json(&["verify"])["segments"], events);
    let funnel = r#"{"metric":"funnel","days":365,"steps":[{"feature":"feature_0"},{"feature":"feature_1"}]}"#;
    let zone = ["usage", "--days", "365", "--tz", "Asia/Tokyo"];
    let ask = |json: &dyn Fn(&[&str]) -> Value| {
        let usage = json(&["usage", "--days", "365"]);
        assert_eq!(
            (&usage["total_events"], &usage["mau"]),
            (&json!(events), &json!(per_day))
        );
        let usage = json(&zone);
        assert_eq!(
            (&usage["total_events"], &usage["mau"]),
            (&json!(events), &json!(per_day))
        );
        json(&["query", funnel])["rows"].clone()
    };
    let before = ask(&json);
    // From states, from events, and with metadata.
    for metric in ["active_users", "paths", "experiment"] {
        let mut request = request_of(metric);
        request["days"] = json!(days);
        request["end"] = json!(Utc::now().date_naive().to_string());
        let answer = json(&["query", &request.to_string()]);
        assert_eq!(answer["ok"], true, "{metric}");
    }
    assert_eq!(
        json(&["rollup"])["days"].as_array().unwrap().len() as i64,
        days
    );
    let access = run_limited(&data, &["user", "access", "user_3"]);
    assert_eq!(access.split(|&byte| byte == b'\n').count() as i64 - 1, days);
    assert_eq!(json(&["rebuild"])["changed"], 0);
    let export = dir.path().join("export");
    assert_eq!(
        json(&["export", "--to", export.to_str().unwrap()])["events"],
        events
    );
    // An erasure, as many late events, and corrected rollups.
    let receipt = json(&["user", "erase", "user_26"]);
    assert_eq!(receipt["events"], days, "{receipt}");
    let late = dir.path().join("late");
    let lines: Vec<String> = (1..=days)
        .map(|day| {
            let ts = (today_number() - day) * 86_400;
            json!({"ts":ts,"event_type":"action","user_id":"late","event_id":format!("{day}")})
                .to_string()
        })
        .collect();
    std::fs::write(&late, lines.join("\n")).unwrap();
    let import = ["import", late.to_str().unwrap()];
    assert_eq!(json(&import)["accepted"], days);
    // The ids are read back.
    assert_eq!(json(&import)["duplicates"], days);
    assert_eq!(
        json(&["rollup"])["days"].as_array().unwrap().len() as i64,
        days
    );
    // A server returns the same, one query after another and several at once.
    let mut command = limited(&data, 256);
    let mut server = Server::start_with_its_key(command.env("ECHOPILOT_DASH_KEY", KEY));
    let descriptors = Descriptors::of(server.id());
    let usage = server.usage("?days=365&tz=Asia/Tokyo");
    assert_eq!(usage["total_events"], events);
    let query = serde_json::from_str(funnel).unwrap();
    assert_eq!(server.ask("/api/analytics/query", &query).1["rows"], before);
    let (status, lines) = server.get_bytes(
        "/api/analytics/export?days=365&format=ndjson",
        &[("x-dash-key", KEY)],
    );
    assert_eq!(
        (
            status,
            lines.split(|&byte| byte == b'\n').count() as i64 - 1
        ),
        (200, events)
    );
    let at_once = [
        "usage?days=365&tz=Asia/Tokyo",
        "usage?days=365&tz=Europe/Berlin",
        "usage?days=365",
        "export?days=365&format=csv",
        "export?days=365&format=parquet",
        "status",
    ];
    std::thread::scope(|scope| {
        for path in at_once {
            let url = format!("{}/api/analytics/{path}", server.url);
            scope.spawn(move || {
                let asked = ureq::get(url).header("x-dash-key", KEY).call();
                assert!(asked.unwrap().body_mut().read_to_vec().is_ok(), "{path}");
            });
        }
    });
    let receipt = server.delete("/api/analytics/users/user_27").1;
    assert_eq!(receipt["events"], days, "{receipt}");
    let most = descriptors.most();
    assert!(most <= 128, "{most} descriptors");
    server.signal("TERM");
    assert!(server.wait().success());
    // And again when the days are compacted.
    json(&["seal"]);
    let verified = json(&["verify"]);
    assert_eq!(
        (&verified["segments"], &verified["damage"]),
        (&json!(days), &json!([]))
    );
    assert_eq!(json(&zone)["total_events"], events - days);
    assert_eq!(json(&["expire"])["ok"], true);
}

fn today_number() -> i64 {
    i64::from(Utc::now().date_naive().to_epoch_days())
}

#[test]
fn a_reader_keeps_its_snapshot_when_a_job_removes_the_files() {
    let dir = uncompacted();
    let engine = open(dir.path());
    let request = WindowRequest {
        days: Some(9),
        ..WindowRequest::default()
    };
    let range = request.resolve(Utc::now()).unwrap().range_us();
    let count = |parts: &mut dyn Iterator<
        Item = echopilot_analytics::error::Result<polars::prelude::LazyFrame>,
    >| {
        parts
            .map(|part| part.unwrap().collect().unwrap().height())
            .sum::<usize>()
    };
    // The files are listed, and nothing is read yet.
    let mut compacted = engine.store().whole(range.clone()).unwrap();
    engine.seal(Utc::now()).unwrap();
    let mut erased = engine.store().whole(range.clone()).unwrap();
    let receipt = engine
        .erase(&[a_user(dir.path())], None, Utc::now())
        .unwrap();
    assert!(receipt.erased.events > 0);
    let mut expired = engine.store().whole(range.clone()).unwrap();
    let retention = store::ExpiryPolicy {
        raw_days: 1,
        state_days: 9,
    };
    let gone = engine
        .store()
        .expire(Utc::now().date_naive(), retention, store::Clock::Confirmed)
        .unwrap();
    assert!(gone.events > 0);
    let left = 500 - receipt.erased.events as usize;
    assert_eq!(count(&mut compacted), 500);
    assert_eq!(count(&mut erased), 500);
    assert_eq!(count(&mut expired), left);
    let mut now = engine.store().whole(range).unwrap();
    assert_eq!(count(&mut now), left - gone.events as usize);
}

#[test]
fn a_segment_that_was_replaced_by_another_file_is_verified_again() {
    let dir = sealed();
    let engine = open(dir.path());
    let zone = WindowRequest {
        days: Some(9),
        tz: Some("Asia/Tokyo".into()),
        ..WindowRequest::default()
    };
    assert!(engine.usage(&zone, Utc::now()).is_ok());
    let mut segments = Vec::new();
    files_below(&dir.path().join("events"), &mut segments);
    let (first, second) = (&segments[0], &segments[1]);
    let copy = dir.path().join("copy");
    std::fs::copy(second, &copy).unwrap();
    std::fs::rename(&copy, first).unwrap();
    let usage = engine.usage(&zone, Utc::now());
    assert!(matches!(usage, Err(Error::Damaged { .. })), "{usage:?}");
}

#[test]
fn threads_of_queries_keep_their_priority_when_a_job_uses_them_first() {
    let dir = folder();
    let server = Server::start(dir.path());
    let events = ["u1", "u2"].map(|user| json!({"event_type":"action","user_id":user}));
    assert_eq!(server.post(&batch(events)).1["logged"], 2);
    // The first job, at low priority, and then a query.
    assert_eq!(server.delete("/api/analytics/users/u1").0, 200);
    assert_eq!(server.usage("?days=1&tz=Asia/Tokyo")["ok"], true);
    let niceness = |stat: &Path| {
        // A thread may have ended since.
        let stat = std::fs::read_to_string(stat).ok()?;
        let (name, fields) = stat.split_once('(')?.1.rsplit_once(") ")?;
        Some((name.to_owned(), fields.split(' ').nth(16)?.to_owned()))
    };
    let process = format!("/proc/{}", server.id());
    let (_, of_process) = niceness(&Path::new(&process).join("stat")).unwrap();
    let threads = std::fs::read_dir(Path::new(&process).join("task")).unwrap();
    let of_queries: Vec<_> = threads
        .filter_map(|thread| niceness(&thread.ok()?.path().join("stat")))
        .filter(|(name, _)| name.starts_with("polars") || name.starts_with("async-executor"))
        .collect();
    assert!(of_queries.len() >= 2, "{of_queries:?}");
    assert!(
        of_queries.iter().all(|(_, nice)| *nice == of_process),
        "{of_queries:?}, not {of_process}"
    );
}
