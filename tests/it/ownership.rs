//! The program changes and removes only its own files, whatever the names of other files, and no
//! other user can read the files of the store.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use chrono::{Days, Utc};
use echopilot_analytics::checksum;
use serde_json::{Value, json};

use crate::faults::copy;
use crate::harness::{
    KEY, Server, batch, echopilot, event, folder, log_path, run, run_json, unsealed_demo,
};

/// Every name in a folder with its content. The content of a symbolic link is its target.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let kind = fs::symlink_metadata(&path).unwrap();
        let content = if kind.is_symlink() {
            fs::read_link(&path)
                .unwrap()
                .into_os_string()
                .into_encoded_bytes()
        } else if kind.is_dir() {
            found.extend(tree(&path));
            b"a folder".to_vec()
        } else {
            fs::read(&path).unwrap()
        };
        found.insert(path, content);
    }
    found
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn write(path: &Path, content: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// A store with sealed days and events in the log.
fn store(dir: &Path) {
    unsealed_demo(dir, 300, 3, 1);
    run_json(dir, &["seal"]);
    let server = Server::start(dir);
    server.post(&batch([event("action", "late", "f")]));
    server.kill();
}

const COMMANDS: [&[&str]; 15] = [
    &["usage"],
    &["verify"],
    &["seal"],
    &["rebuild"],
    &["expire"],
    &["rollup"],
    &["demo", "--events", "100"],
    &["import", "/dev/null"],
    &["export", "--to", "/tmp/never-made-by-a-test"],
    &["user", "access", "u"],
    &["user", "erase", "u"],
    &["cohort", "list"],
    &["cohort", "set", r#"{"name":"a","users":["u"]}"#],
    &["query", r#"{"metric":"active_users"}"#],
    &["serve", "--listen", "127.0.0.1:0"],
];

#[test]
fn a_folder_of_another_program_is_rejected_by_every_command_and_left_unchanged() {
    let project: [(&str, &[u8]); 4] = [
        ("package.json", b"{}"),
        ("tmp/notes", b"mine"),
        ("holder", b"of the shares"),
        ("compacting/plans/a", b"mine"),
    ];
    for files in [
        &project[..],
        &[("tmp/notes", b"mine")],
        &[("app.log", b"line\n")],
        &[("manifest.json", br#"{"name":"a web page"}"#)],
        &[("events/dt=2026-01-01/part-00000.parquet", b"PAR1")],
        &[("states/my.state", b"mine")],
        &[("sealing/2024.ndjson", b"{}\n")],
    ] {
        let dir = folder();
        for (name, content) in files {
            write(&dir.path().join(name), content);
        }
        let before = tree(dir.path());
        for command in COMMANDS {
            let output = run(dir.path(), command);
            assert_eq!(output.status.code(), Some(2), "{files:?} {command:?}");
            let message = said(&output);
            assert!(
                message.contains(dir.path().to_str().unwrap()) && message.contains("--data-dir"),
                "{message}"
            );
            assert_eq!(tree(dir.path()), before, "{command:?}");
        }
    }
    assert!(!Path::new("/tmp/never-made-by-a-test").exists());
}

#[test]
fn an_empty_folder_is_accepted_with_system_files_in_it_and_reading_it_leaves_it_empty() {
    for name in [
        None,
        Some(".gitkeep"),
        Some("lost+found/.x"),
        Some(".echopilot-tmp/x"),
    ] {
        let dir = folder();
        if let Some(name) = name {
            write(&dir.path().join(name), "");
        }
        let before = tree(dir.path());
        assert_eq!(run_json(dir.path(), &["verify"])["damage"], json!([]));
        assert_eq!(tree(dir.path()), before, "verify created a file");
        assert_eq!(run_json(dir.path(), &["usage"])["total_events"], 0);
        assert!(dir.path().join(".echopilot").is_file());
        write(&dir.path().join("notes.txt"), "mine");
        run_json(dir.path(), &["seal"]);
        assert!(dir.path().join("notes.txt").exists());
    }
    let dir = folder();
    let link = dir.path().join("link");
    fs::create_dir(dir.path().join("data")).unwrap();
    symlink(dir.path().join("data"), &link).unwrap();
    run_json(&link, &["usage"]);
    assert!(link.is_symlink() && dir.path().join("data/.echopilot").exists());
    let missing = dir.path().join("missing");
    assert_eq!(run(&missing, &["verify"]).status.code(), Some(1));
    assert!(!missing.exists());
}

#[test]
fn files_of_others_within_the_folders_of_the_store_stay_through_every_job() {
    let dir = folder();
    let data = dir.path().join("data");
    store(&data);
    run_json(&data, &["seal"]);
    let mut others: Vec<String> = [
        "tmp/notes",
        "sealing/2024.ndjson",
        "sealing/notes",
        "compacting/plans/a",
        "compacting/notes",
        "damaged/notes",
        "states/my.state",
        "postings/my.postings",
        "events/dt=mine/x.parquet",
        "users-list.ndjson",
        "exports/notes",
    ]
    .map(str::to_owned)
    .into();
    for day in fs::read_dir(data.join("events")).unwrap() {
        let day = day.unwrap().file_name().into_string().unwrap();
        others.push(format!("damaged/{day}-notes"));
        others.push(format!("events/{day}/2024-01.parquet"));
        others.push(format!("events/{day}/part-00000.parquet"));
    }
    for name in &others {
        write(&data.join(name), "mine");
    }
    for command in [
        &["seal"][..],
        &["rebuild"],
        &["rollup"],
        &["user", "erase", "late"],
        &["seal"],
    ] {
        run_json(&data, command);
    }
    let mut expire = echopilot(&data);
    expire
        .env("ECHOPILOT_RAW_RETENTION_DAYS", "1")
        .env("ECHOPILOT_ROLLUP_RETENTION_DAYS", "1");
    assert!(expire.arg("expire").status().unwrap().success());
    assert!(run_json(&data, &["usage", "--days", "9"])["unique_days"].as_u64() <= Some(1));
    for name in &others {
        assert_eq!(fs::read(data.join(name)).unwrap(), b"mine", "{name}");
    }
}

#[test]
fn an_unfinished_file_of_an_earlier_version_goes_and_a_folder_of_that_name_stays() {
    let dir = copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1"));
    let ours = [
        "tmp/2026-11-01-00000009-0001.parquet",
        "tmp/dt=2026-11-01/00000003-m.parquet",
        "tmp/erasures.json",
    ];
    for name in ours {
        write(&dir.path().join(name), "left");
    }
    write(&dir.path().join("tmp/notes"), "mine");
    let output = run(dir.path(), &["seal"]);
    assert!(
        output.status.success() && said(&output).contains("did not write"),
        "{}",
        said(&output)
    );
    for name in ours {
        assert!(!dir.path().join(name).exists(), "{name}");
    }
    assert_eq!(fs::read(dir.path().join("tmp/notes")).unwrap(), b"mine");
    // Logged once: the store has its mark now.
    assert!(!said(&run(dir.path(), &["seal"])).contains("did not write"));
}

#[test]
fn a_symbolic_link_in_the_place_of_a_file_or_folder_of_the_store_is_not_followed() {
    let origin = folder();
    store(origin.path());
    for name in [
        "analytics_events.ndjson",
        "users.ndjson",
        "manifest.json",
        "states",
        "events",
        "compacting",
        ".echopilot-tmp",
        "holder",
        ".echopilot",
    ] {
        let dir = copy(origin.path());
        let outside = folder();
        let place = dir.path().join(name);
        let target = outside.path().join("target");
        if place.exists() {
            fs::rename(&place, &target).unwrap();
        } else {
            write(&target.join("kept"), "mine");
        }
        symlink(&target, &place).unwrap();
        let before = tree(outside.path());
        for command in [&["seal"][..], &["usage"], &["expire"]] {
            let output = run(dir.path(), command);
            assert!(!output.status.success(), "{name} {command:?}");
            assert_eq!(tree(outside.path()), before, "{name} {command:?}");
        }
    }
}

#[test]
fn a_file_of_another_program_with_the_name_of_the_log_is_never_changed() {
    let line = "{\"ts\":\"2025-10-21T10:00:00Z\",\"event_type\":\"page_view\",\"user_id\":\"u\"}\n";
    let list = format!("[{}]", vec![line.trim_end(); 20_000].join(","));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, line.repeat(50).as_bytes()).unwrap();
    let foreign: Vec<(&str, Vec<u8>)> = vec![
        ("byte-order mark", format!("\u{feff}{line}{line}").into()),
        ("blank first line", format!("\n{line}").into()),
        ("", format!("{}{line}", &line[5..]).into()),
        ("JSON", format!(" {line}").into()),
        ("JSON", line.trim_end().into()),
        ("JSON list", list.into()),
        ("JSON list", format!("[\n{line}]\n").into()),
        ("gzip", gzip.finish().unwrap()),
        ("zstd", zstd::encode_all(line.as_bytes(), 3).unwrap()),
        ("binary", vec![0x80, 1, 2, 3, 0x90]),
        ("", b"2025-10-21 10:00:00 INFO started\n".to_vec()),
    ];
    let marked = folder();
    run_json(marked.path(), &["usage"]);
    fs::remove_file(log_path(marked.path())).unwrap();
    for (found, bytes) in &foreign {
        // In an empty folder, and in one of ours.
        for dir in [folder(), copy(marked.path())] {
            for name in ["analytics_events.ndjson", "sealing/00000007.ndjson"] {
                if name.starts_with("sealing") && !dir.path().join(".echopilot").exists() {
                    continue;
                }
                let path = dir.path().join(name);
                write(&path, bytes);
                for command in ["usage", "seal", "verify"] {
                    let output = run(dir.path(), &[command]);
                    if command != "verify" {
                        assert_eq!(output.status.code(), Some(1), "{found}: {}", said(&output));
                        let message = said(&output);
                        assert!(message.contains(found), "{found}: {message}");
                        assert!(message.contains("echopilot import"), "{message}");
                    }
                    assert_eq!(&fs::read(&path).unwrap(), bytes, "{found} {command}");
                }
                fs::remove_file(&path).unwrap();
            }
        }
    }
    // Nor anything that is not a file.
    let dir = copy(marked.path());
    fs::create_dir(log_path(dir.path())).unwrap();
    assert_eq!(run(dir.path(), &["usage"]).status.code(), Some(1));
    fs::remove_dir(log_path(dir.path())).unwrap();
    assert!(
        Command::new("mkfifo")
            .arg(log_path(dir.path()))
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(run(dir.path(), &["usage"]).status.code(), Some(1));
}

#[test]
fn zeros_of_any_length_are_cut_and_more_damage_than_one_write_is_left_as_it_is() {
    let origin = folder();
    let server = Server::start(origin.path());
    server.post(&batch([event("action", "u", "f")]));
    server.kill();
    let whole = fs::read(log_path(origin.path())).unwrap();
    let total = |dir: &Path| run_json(dir, &["usage"])["total_events"].clone();
    for zeros in [1_usize, 4_096, 20 << 20] {
        let dir = copy(origin.path());
        fs::write(
            log_path(dir.path()),
            [&whole[..], &whole[..50], &vec![0; zeros]].concat(),
        )
        .unwrap();
        assert_eq!(total(dir.path()), 1, "{zeros}");
        assert_eq!(fs::read(log_path(dir.path())).unwrap(), whole);
        fs::write(log_path(dir.path()), vec![0; zeros]).unwrap();
        assert_eq!(total(dir.path()), 0, "{zeros} alone");
    }
    // Damage that may be cut is kept in full, also bytes that are not UTF-8.
    let dir = copy(origin.path());
    let torn: Vec<u8> = (0..300_000_u32).map(|n| 128 + (n % 100) as u8).collect();
    fs::write(log_path(dir.path()), [&whole[..], &torn[..]].concat()).unwrap();
    assert_eq!(total(dir.path()), 1);
    let kept = fs::read_to_string(dir.path().join("quarantine.ndjson")).unwrap();
    let kept: Value = serde_json::from_str(kept.lines().next().unwrap()).unwrap();
    let hex: String = torn.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(kept["hex"], hex);
    assert_eq!(run_json(dir.path(), &["verify"])["damage"], json!([]));
    // More than one write group: at the end, and between events.
    let foreign = vec![b'x'; 5 << 20];
    let line = "{\"not\":\"ours\"}\n".repeat(500_000);
    for bytes in [
        [&whole[..], &foreign[..]].concat(),
        [&whole[..], &foreign[..], b"\n", &whole[..]].concat(),
        [line.as_bytes(), &whole[..]].concat(),
    ] {
        let dir = copy(origin.path());
        fs::write(log_path(dir.path()), &bytes).unwrap();
        let output = run(dir.path(), &["usage"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            said(&output).contains("echopilot import"),
            "{}",
            said(&output)
        );
        assert!(fs::read(log_path(dir.path())).unwrap() == bytes);
    }
}

#[test]
fn a_log_or_folder_that_another_program_removes_stops_ingest_with_a_message() {
    type Change = fn(&Path);
    let cases: [(&str, Change); 7] = [
        ("folder removed", |dir| fs::remove_dir_all(dir).unwrap()),
        ("folder renamed", |dir| {
            fs::rename(dir, dir.with_extension("old")).unwrap()
        }),
        ("folder replaced", |dir| {
            fs::rename(dir, dir.with_extension("old")).unwrap();
            let copied = Command::new("cp")
                .arg("-al")
                .arg(dir.with_extension("old"))
                .arg(dir)
                .status();
            assert!(copied.unwrap().success());
        }),
        ("log removed", |dir| fs::remove_file(log_path(dir)).unwrap()),
        ("log renamed", |dir| {
            fs::rename(log_path(dir), dir.join("analytics_events.ndjson.1")).unwrap();
            fs::write(log_path(dir), "").unwrap();
        }),
        ("log truncated", |dir| {
            fs::File::options()
                .write(true)
                .open(log_path(dir))
                .unwrap()
                .set_len(0)
                .unwrap()
        }),
        ("log copied", |dir| {
            let copy = dir.join("copy");
            fs::copy(log_path(dir), &copy).unwrap();
            fs::rename(copy, log_path(dir)).unwrap();
        }),
    ];
    for (name, take_away) in cases {
        let dir = folder();
        let data = dir.path().join("data");
        let mut server = Server::start(&data);
        assert_eq!(server.post(&batch([event("action", "u", "f")])).0, 200);
        take_away(&data);
        // No event is sent meanwhile: the server checks by itself.
        server.wait_for("Nothing more is accepted");
        let (status, body) = server.get_with("/health/ready", &[]);
        assert_eq!(
            (status, &body["error"]),
            (503, &json!("log_stopped")),
            "{name}: {body}"
        );
        let message = body["message"].as_str().unwrap();
        assert!(message.contains("by another program"), "{name}: {message}");
        let (status, body) = server.post(&batch([event("action", "u", "f")]));
        assert_eq!(
            (status, &body["error"]),
            (503, &json!("log_stopped")),
            "{name}"
        );
        assert_eq!(server.usage("")["total_events"], 1, "{name}");
        let traced = server.stop();
        assert_eq!(
            traced.matches("Nothing more is accepted").count(),
            1,
            "{traced}"
        );
        assert!(
            !traced.contains("read back at the next start"),
            "{name}: {traced}"
        );
        assert!(
            traced.contains("only if it is put back"),
            "{name}: {traced}"
        );
        let is_made_anew = !["folder replaced"].contains(&name) && name.starts_with("folder");
        assert!(!is_made_anew || !data.exists(), "{name}");
    }
}

#[test]
fn an_event_is_not_acknowledged_if_the_log_was_just_removed() {
    let dir = folder();
    let server = Server::start(dir.path());
    let mut stored = 0;
    for number in 0..40 {
        if number == 20 {
            fs::rename(log_path(dir.path()), dir.path().join("rotated")).unwrap();
        }
        let (status, _) = server.post(&batch([event("action", &format!("u{number}"), "f")]));
        stored += u32::from(status == 200);
    }
    assert_eq!(stored, 20);
    server.kill();
    fs::rename(dir.path().join("rotated"), log_path(dir.path())).unwrap();
    let total = run_json(dir.path(), &["usage"])["total_events"]
        .as_u64()
        .unwrap();
    assert!((20..=21).contains(&total), "{total}");
}

/// Modes of files and folders below a folder, by their names.
fn modes(dir: &Path) -> BTreeMap<PathBuf, u32> {
    let paths = tree(dir).into_keys().chain([dir.to_owned()]);
    paths
        .map(|path| {
            let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            (path, mode)
        })
        .collect()
}

#[test]
fn other_users_can_read_exports_and_not_the_data_folder_whatever_the_umask() {
    for umask in ["000", "022", "0777"] {
        let dir = folder();
        let (data, out) = (dir.path().join("data"), dir.path().join("out"));
        fs::create_dir(&out).unwrap();
        let program = env!("CARGO_BIN_EXE_echopilot");
        let shell = |arguments: &str| {
            let mut command = Command::new("sh");
            command
                .args(["-c", &format!("umask {umask}; exec {program} {arguments}")])
                .env("ECHOPILOT_DATA_DIR", &data)
                .env("ECHOPILOT_DASH_KEY", KEY);
            command
        };
        let done = |arguments: &str| {
            let output = shell(arguments).output().unwrap();
            assert!(
                output.status.success(),
                "{umask} {arguments}: {}",
                said(&output)
            );
        };
        done("demo --events 500 --days 3");
        done("seal");
        done("rollup");
        done(r#"cohort set '{"name":"a","users":["u"]}'"#);
        done("user erase one");
        done(&format!("export --to {}", data.join("exports/a").display()));
        fs::write(
            log_path(&data),
            [&fs::read(log_path(&data)).unwrap()[..], b"{"].concat(),
        )
        .unwrap();
        done("usage");
        for (path, mode) in modes(&data) {
            let expected = if path.is_dir() { 0o700 } else { 0o600 };
            assert_eq!(mode, expected, "{umask} {}", path.display());
        }
        assert!(data.join("quarantine.ndjson").exists());
        if umask != "0777" {
            done(&format!("export --to {}", out.display()));
            let (file, inner) = if umask == "000" {
                (0o666, 0o777)
            } else {
                (0o644, 0o755)
            };
            for (path, mode) in modes(&out).into_iter().filter(|(path, _)| *path != out) {
                assert_eq!(
                    mode,
                    if path.is_dir() { inner } else { file },
                    "{}",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn a_store_that_others_could_read_is_made_private_and_that_is_logged_once() {
    let dir = copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1"));
    write(&dir.path().join("mine/notes"), "mine");
    for path in modes(dir.path()).into_keys() {
        let mode = if path.is_dir() { 0o755 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    assert!(said(&run(dir.path(), &["usage"])).contains("only its owner can"));
    for (path, mode) in modes(dir.path()) {
        let is_theirs = path.starts_with(dir.path().join("mine"));
        assert_eq!(mode & 0o077 != 0, is_theirs, "{}", path.display());
    }
    assert!(!said(&run(dir.path(), &["usage"])).contains("only its owner can"));
}

/// Removes or restores write access to a folder and everything in it.
fn set_writable(dir: &Path, is_writable: bool) {
    for path in tree(dir).into_keys().chain([dir.to_owned()]) {
        let mode = match (path.is_dir(), is_writable) {
            (true, true) => 0o700,
            (true, false) => 0o500,
            (false, true) => 0o600,
            (false, false) => 0o400,
        };
        match fs::set_permissions(&path, fs::Permissions::from_mode(mode)) {
            // A server that runs removes its temporary files.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            changed => changed.unwrap(),
        }
    }
}

#[test]
fn a_read_only_folder_can_be_verified_queried_and_exported_and_nothing_else() {
    let dir = folder();
    let data = dir.path().join("data");
    store(&data);
    run_json(
        &data,
        &["cohort", "set", r#"{"name":"a","users":["late"]}"#],
    );
    let server = Server::start(&data);
    server.post(&batch([event("action", "late", "f")]));
    server.kill();
    let whole = fs::read(log_path(&data)).unwrap();
    assert!(!whole.is_empty());
    // A torn write, and a rotation and a compaction that were cut off.
    fs::write(log_path(&data), [&whole[..], &whole[..30]].concat()).unwrap();
    fs::create_dir_all(data.join("sealing")).unwrap();
    fs::hard_link(log_path(&data), data.join("sealing/00000099.ndjson")).unwrap();
    let day = fs::read_dir(data.join("events"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let date = day.file_name().unwrap().to_str().unwrap()[3..].to_owned();
    fs::create_dir_all(data.join("compacting")).unwrap();
    fs::rename(&day, data.join(format!("compacting/00000098-{date}"))).unwrap();
    fs::create_dir(&day).unwrap();
    set_writable(&data, false);
    let before = tree(&data);
    let usage = |data: &Path| {
        let mut usage = run_json(data, &["usage", "--days", "9", "--tz", "Africa/Abidjan"]);
        usage.as_object_mut().unwrap().remove("ts");
        usage
    };
    let found = usage(&data);
    assert_eq!(found["total_events"], 302);
    let output = run(&data, &["verify"]);
    let verified: Value = serde_json::from_slice(&output.stdout).unwrap();
    let damage = verified["damage"].as_array().unwrap();
    assert_eq!(damage.len(), 1, "{damage:?}");
    assert!(
        damage[0]
            .as_str()
            .unwrap()
            .contains("analytics_events.ndjson")
    );
    let cohort = r#"{"metric":"feature_usage","filter":{"cohort":"a"}}"#;
    assert_eq!(
        run_json(&data, &["query", cohort])["rows"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        run_json(&data, &["cohort", "list"])
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let access = run(&data, &["user", "access", "late"]);
    assert_eq!(
        access.stdout.iter().filter(|&&byte| byte == b'\n').count(),
        2
    );
    let out = dir.path().join("out");
    let exported = run_json(&data, &["export", "--to", out.to_str().unwrap()]);
    assert_eq!(exported["events"], 302, "the log is in it: {exported}");
    let inside = data.join("exports");
    for command in [
        &["seal"][..],
        &["rebuild"],
        &["expire"],
        &["rollup"],
        &["import", "/dev/null"],
        &["user", "erase", "u"],
        &["cohort", "remove", "a"],
        &["demo"],
        &["serve", "--listen", "127.0.0.1:0"],
        &["export", "--to", inside.to_str().unwrap()],
    ] {
        let output = run(&data, command);
        assert!(!output.status.success(), "{command:?}");
        let message = said(&output);
        assert!(message.contains("is read-only"), "{command:?}: {message}");
        assert_eq!(tree(&data), before, "{command:?}");
    }
    // A second reader is allowed; next to a server it gets the result of the server.
    set_writable(&data, true);
    assert_eq!(usage(&data), found);
    run_json(&data, &["seal"]);
    assert_eq!(usage(&data), found);
    let server = Server::start(&data);
    set_writable(&data, false);
    assert_eq!(usage(&data), found);
    set_writable(&data, true);
    server.kill();
}

fn export(data: &Path, to: &Path, more: &[&str]) -> Output {
    run(
        data,
        &[&["export", "--to", to.to_str().unwrap()], more].concat(),
    )
}

fn exported(data: &Path, to: &Path, more: &[&str]) -> Value {
    let output = export(data, to, more);
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn an_export_removes_and_overwrites_only_what_an_export_of_this_store_wrote() {
    let dir = folder();
    let data = dir.path().join("data");
    let to = dir.path().join("out");
    unsealed_demo(&data, 200, 3, 1);
    // Other files stay, before and after.
    let others = [
        "tmp/notes",
        "notes",
        "events/notes",
        "events/dt=2020-01-01/data.parquet",
        "events/dt=2020-01-01/part-00000.parquet",
        "duckdb/mine.sql",
    ];
    for name in others {
        write(&to.join(name), "mine");
    }
    exported(&data, &to, &[]);
    exported(&data, &to, &["--since", "last"]);
    assert!(!to.join(".echopilot-tmp").exists());
    let check_others = || {
        for name in others {
            assert_eq!(fs::read(to.join(name)).unwrap(), b"mine", "{name}");
        }
    };
    check_others();
    // An existing file is not overwritten, and nothing is written then.
    let yesterday = Utc::now().date_naive() - Days::new(1);
    let part = format!("events/dt={yesterday}/part-00000.parquet");
    for name in [
        "export.json",
        "duckdb/README.md",
        "daily_rollups",
        "daily_features",
        "daily_event_types",
        "links",
        "events",
        "duckdb",
    ] {
        let to = dir.path().join("theirs");
        write(&to.join(name), "mine");
        let before = tree(&to);
        let output = export(&data, &to, &[]);
        assert!(!output.status.success(), "{name}: {}", said(&output));
        assert!(
            said(&output).contains("hoose another folder")
                || said(&output).contains("choose another"),
            "{}",
            said(&output)
        );
        assert_eq!(tree(&to), before, "{name}");
        fs::remove_dir_all(&to).unwrap();
    }
    // Names of earlier versions are no longer used.
    for name in [part.as_str(), "daily_rollups/daily_rollups.parquet"] {
        let to = dir.path().join("beside");
        write(&to.join(name), "mine");
        exported(&data, &to, &[]);
        exported(&data, &to, &["--since", "last"]);
        assert_eq!(fs::read(to.join(name)).unwrap(), b"mine", "{name}");
        fs::remove_dir_all(&to).unwrap();
    }
    // A link out of the folder is not followed.
    let outside = folder();
    write(
        &outside
            .path()
            .join(format!("dt={yesterday}/part-00000.parquet")),
        "mine",
    );
    for name in [
        "events",
        "daily_rollups",
        "daily_features",
        "daily_event_types",
        "links",
        ".echopilot-tmp",
    ] {
        let to = dir.path().join(format!("linked-{name}"));
        fs::create_dir(&to).unwrap();
        symlink(outside.path(), to.join(name)).unwrap();
        let before = tree(outside.path());
        assert_eq!(export(&data, &to, &[]).status.code(), Some(2), "{name}");
        assert_eq!(tree(outside.path()), before, "{name}");
    }
    // The list of another store is not accepted.
    let other = dir.path().join("other");
    unsealed_demo(&other, 100, 2, 2);
    let before = tree(&to);
    let output = export(&other, &to, &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("another store"), "{}", said(&output));
    assert_eq!(tree(&to), before);
    // Nor a list that was changed, or written by another program.
    let victim = dir.path().join("victim");
    fs::write(&victim, "mine").unwrap();
    let list = fs::read_to_string(to.join("export.json")).unwrap();
    let days: Value = serde_json::from_str(&list).unwrap();
    // The form of an earlier version, without a signature.
    let forged = |path: &str| {
        let mut forged = json!({"days": days["days"]});
        forged["days"]["2020-01-01"] = json!({"sources":[],"files":[
            {"path":path,"rows":1,"bytes":4,"crc32c":crc32c::crc32c(b"mine")}]});
        forged.to_string()
    };
    // With a correct checksum, and the signature of other content.
    let signed_otherwise = {
        let (body, _) = list.rsplit_once(",\"crc32c\":\"").unwrap();
        let named = format!(
            "\"pending\": [{:?}]",
            "events/dt=2020-01-01/part-00000.parquet"
        );
        let mut text = body.replacen("\"pending\": []", &named, 1).into_bytes();
        checksum::close_object(&mut text, 0);
        String::from_utf8(text).unwrap() + "\n"
    };
    let data_file = "events/dt=2020-01-01/data.parquet";
    for text in [
        list.replacen("\"pending\": []", "\"pending\": [\"notes\"]", 1),
        list.replacen("part-00000", "part-00001", 1),
        list[..list.len() / 2].to_owned(),
        signed_otherwise,
        forged("../victim"),
        forged(victim.to_str().unwrap()),
        forged("notes"),
        forged(data_file),
        forged("events/dt=2020-01-01/../../notes"),
        forged(&part),
    ] {
        write(&to.join("export.json"), &text);
        let output = export(&data, &to, &["--since", "last"]);
        assert!(!output.status.success(), "{text}");
        check_others();
        assert_eq!(fs::read(&victim).unwrap(), b"mine");
        assert_eq!(fs::read_to_string(to.join("export.json")).unwrap(), text);
    }
    write(&to.join("export.json"), &list);
    assert_eq!(exported(&data, &to, &["--since", "last"])["unchanged"], 3);
    check_others();
}

#[test]
fn an_export_of_an_earlier_version_goes_on_and_removes_only_files_that_fit_its_list() {
    let dir = folder();
    let data = dir.path().join("data");
    let to = dir.path().join("out");
    unsealed_demo(&data, 200, 3, 1);
    exported(&data, &to, &[]);
    // The state that an earlier version left.
    let list: Value = serde_json::from_slice(&fs::read(to.join("export.json")).unwrap()).unwrap();
    let mut old = json!({"days": list["days"]});
    let gone = |day: &str, bytes: u64| {
        json!({"sources":[],"files":[{"path":format!("events/dt={day}/part-00000.parquet"),"rows":1,"bytes":bytes,
            "crc32c":crc32c::crc32c(b"ours")}]})
    };
    old["days"]["2020-01-01"] = gone("2020-01-01", 4);
    old["days"]["2020-01-02"] = gone("2020-01-02", 4);
    fs::write(
        to.join("export.json"),
        serde_json::to_string_pretty(&old).unwrap() + "\n",
    )
    .unwrap();
    let part = |day: &str| to.join(format!("events/dt={day}/part-00000.parquet"));
    write(&part("2020-01-01"), "ours");
    write(&part("2020-01-02"), "mine");
    let again = exported(&data, &to, &["--since", "last"]);
    assert_eq!(again["unchanged"], 3, "{again}");
    assert!(!part("2020-01-01").exists());
    assert_eq!(fs::read(part("2020-01-02")).unwrap(), b"mine");
    assert_eq!(exported(&data, &to, &["--since", "last"])["unchanged"], 3);
}

#[test]
fn a_target_among_the_files_of_a_store_is_rejected_before_anything_is_made() {
    let dir = folder();
    let data = dir.path().join("data/events");
    let other = dir.path().join("other");
    unsealed_demo(&data, 100, 2, 1);
    unsealed_demo(&other, 100, 2, 1);
    symlink(data.join("states"), dir.path().join("link")).unwrap();
    for to in [
        data.clone(),
        data.join("events/new"),
        data.join("states"),
        data.join("postings/a/b"),
        data.join("new/../sealing/x"),
        data.join(".echopilot-tmp/x"),
        data.join("demo/x"),
        dir.path().join("link/x"),
        // The lake of the export would be the data folder.
        dir.path().join("data"),
        other.clone(),
        other.join("events/new"),
    ] {
        let before = tree(&other);
        let made = |dir: &Path| -> Vec<PathBuf> {
            let names = tree(dir).into_keys();
            names
                .filter(|path| path.is_dir() && !path.ends_with(".echopilot-tmp"))
                .collect()
        };
        run_json(&data, &["seal"]);
        let folders = made(&data);
        let output = export(&data, &to, &[]);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{}: {}",
            to.display(),
            said(&output)
        );
        assert_eq!(made(&data), folders, "{}", to.display());
        assert_eq!(tree(&other), before);
    }
    exported(&data, &data.join("exports/lake"), &[]);
}

#[test]
fn a_message_has_its_cause_once_and_contains_no_secret() {
    let dir = folder();
    let data = dir.path().join("data");
    let output = export(&data, Path::new("/proc/nowhere"), &[]);
    let message = said(&output);
    assert_eq!(message.matches("(os error").count(), 1, "{message}");
    for to in [
        "s3://user:topsecret@bucket/a",
        "s3://bucket/a?X-Amz-Signature=topsecret",
    ] {
        let output = run(&data, &["export", "--to", to]);
        assert_eq!(output.status.code(), Some(2));
        assert!(said(&output).contains("s3://bucket/a") && !said(&output).contains("topsecret"));
    }
}
