//! Installation, the Debian package, the tarball, the unit of systemd, completions and manual. All
//! of them take the program of the tests; nothing is built.

use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    PATIENCE, Server, batch, echopilot, event, folder, post_to, printed, run, run_json,
};

/// The files of an installation below its prefix, without the documents and the manual of each
/// command.
const INSTALLED: [&str; 12] = [
    "bin/.debug/echopilot.debug",
    "bin/echopilot",
    "lib/systemd/system/echopilot.service",
    "lib/sysusers.d/echopilot.conf",
    "share/bash-completion/completions/echopilot",
    "share/doc/echopilot/LICENSE",
    "share/doc/echopilot/THIRD-PARTY-LICENCES",
    "share/doc/echopilot/docs/operations.md",
    "share/doc/echopilot/examples/credentials.conf",
    "share/fish/vendor_completions.d/echopilot.fish",
    "share/man/man1/echopilot-cohort-set.1.gz",
    "share/zsh/site-functions/_echopilot",
];

/// A Make of this repository, which builds nothing.
fn make(target: &str, variables: &[String]) -> Command {
    let mut command = Command::new("make");
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["--silent", "--no-print-directory", target])
        .args(variables);
    // Of the Make that runs the tests.
    for name in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"] {
        command.env_remove(name);
    }
    command
}

/// An installation of the program of the tests.
struct Installation {
    prefix: PathBuf,
    etc: PathBuf,
}

/// The program of the tests, installed once for all tests of this process, in a folder that the
/// next run replaces: it has half a gigabyte.
fn installation() -> &'static Installation {
    static INSTALLATION: OnceLock<Installation> = OnceLock::new();
    INSTALLATION.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("installation");
        if folder.exists() {
            std::fs::remove_dir_all(&folder).unwrap();
        }
        let [prefix, etc] = ["usr", "etc"].map(|name| folder.join(name));
        let variables = [
            format!("PROGRAM={}", env!("CARGO_BIN_EXE_echopilot")),
            format!("PREFIX={}", prefix.display()),
            format!("SYSCONFDIR={}", etc.display()),
        ];
        printed(&mut make("install", &variables));
        Installation { prefix, etc }
    })
}

/// Variables of a package from the program that was installed, which is small.
fn package_variables(folder: &Path) -> [String; 4] {
    let program = installation().prefix.join("bin/echopilot");
    [
        format!("PROGRAM={}", program.display()),
        format!("DIST={}", folder.join("dist").display()),
        format!("STAGE={}", folder.join("stage").display()),
        "GZIP_LEVEL=-1".into(),
    ]
}

/// The paths of all files below a folder, relative to it.
fn files(folder: &Path) -> BTreeSet<String> {
    let text = printed(
        Command::new("find")
            .current_dir(folder)
            .args([".", "!", "-type", "d", "-printf", "%P\\n"]),
    );
    let text = String::from_utf8(text).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("a string in UTF-8")
}

/// Returns true if a program is there; reports that a test is skipped if not.
fn is_there(program: &str) -> bool {
    let found = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if found.is_err() {
        eprintln!("SKIPPED: {program} is not there; `make test` installs it");
    }
    found.is_ok()
}

/// The names of all commands that are not hidden, as the help lists them.
fn commands() -> Vec<String> {
    let dir = folder();
    let help = text(run(dir.path(), &["--help"]).stdout);
    let (_, list) = help.split_once("Commands:\n").unwrap();
    let (list, _) = list.split_once("\n\n").unwrap();
    let lines = list.lines().filter(|line| !line.starts_with("   "));
    let names = lines.filter_map(|line| line.split_whitespace().next());
    let names: Vec<String> = names.map(str::to_owned).collect();
    assert!(names.len() > 10, "{help}");
    names
}

#[test]
fn an_installation_has_all_files_and_is_removed_without_a_trace() {
    let dir = folder();
    let installed = &installation().prefix;
    // A copy, because other tests use the first one.
    let prefix = dir.path().join("usr");
    printed(Command::new("cp").arg("-a").args([installed, &prefix]));
    let found = files(&prefix);
    for name in INSTALLED {
        assert!(found.contains(name), "{name} is not in {found:#?}");
    }
    for command in commands().iter().filter(|name| *name != "help") {
        let page = format!("share/man/man1/echopilot-{command}.1.gz");
        assert!(found.contains(&page), "{page} is not in {found:#?}");
    }
    let version = printed(Command::new(prefix.join("bin/echopilot")).arg("--version"));
    assert!(text(version).starts_with("echopilot "));
    let unit = std::fs::read_to_string(installed.join("lib/systemd/system/echopilot.service"));
    let start = format!("ExecStart={}/bin/echopilot serve\n", installed.display());
    assert!(unit.unwrap().contains(&start), "{start}");

    let settings = dir.path().join("etc/default/echopilot");
    std::fs::create_dir_all(settings.parent().unwrap()).unwrap();
    let shipped = installation().etc.join("default/echopilot");
    std::fs::copy(shipped, &settings).unwrap();
    let variables = [
        format!("PREFIX={}", prefix.display()),
        format!("SYSCONFDIR={}", dir.path().join("etc").display()),
        "PROGRAM=unused".into(),
    ];
    printed(&mut make("uninstall", &variables));
    assert_eq!(files(dir.path()), BTreeSet::new());
    // Changed settings are kept.
    std::fs::write(&settings, "ECHOPILOT_ZONES=Europe/Berlin\n").unwrap();
    printed(&mut make("uninstall", &variables));
    assert_eq!(files(dir.path()), ["etc/default/echopilot".into()].into());
}

#[test]
fn licences_of_others_are_in_an_installation() {
    let file = installation()
        .prefix
        .join("share/doc/echopilot/THIRD-PARTY-LICENCES");
    let licences = std::fs::read_to_string(file).unwrap();
    for name in [
        "polars ",
        "tokio ",
        "ring ",
        "mimalloc ",
        "echarts ",
        "zrender ",
    ] {
        assert!(licences.contains(&format!("\n  {name}")), "{name}");
    }
    // Neither tests nor builds are part of the program.
    for name in ["proptest ", "esbuild "] {
        assert!(!licences.contains(&format!("\n  {name}")), "{name}");
    }
    assert!(licences.contains("Permission is hereby granted, free of charge"));
}

#[test]
fn shells_complete_commands_and_options() {
    let prefix = &installation().prefix;
    let script = prefix.join("share/bash-completion/completions/echopilot");
    let complete = |words: &[&str]| {
        let command = r#"source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1));
            _echopilot echopilot "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
            printf '%s\n' "${COMPREPLY[@]}""#;
        let found = Command::new("bash")
            .args(["--norc", "-c", command])
            .arg(&script)
            .args(words)
            .output()
            .unwrap();
        text(found.stdout)
    };
    assert_eq!(complete(&["echopilot", "ser"]), "serve\n");
    assert_eq!(complete(&["echopilot", "cohort", "se"]), "set\n");
    assert_eq!(
        complete(&["echopilot", "serve", "--trusted"]),
        "--trusted-proxies\n"
    );
    if is_there("fish") {
        let script = prefix.join("share/fish/vendor_completions.d/echopilot.fish");
        let found = printed(
            Command::new("fish")
                .args(["--no-config", "-c"])
                .arg(format!(
                    "source {}; complete -C 'echopilot ver'",
                    script.display()
                )),
        );
        assert!(text(found).starts_with("verify\t"), "fish");
    }
    if is_there("zsh") {
        let script = prefix.join("share/zsh/site-functions/_echopilot");
        let content = std::fs::read_to_string(&script).unwrap();
        assert!(content.starts_with("#compdef echopilot\n"));
        printed(Command::new("zsh").args(["-f", "-n"]).arg(&script));
    }
}

#[test]
fn the_manual_has_every_option_of_the_help() {
    let dir = folder();
    let pages = dir.path().join("man");
    std::fs::create_dir(&pages).unwrap();
    printed(echopilot(dir.path()).arg("man").arg(&pages));
    let help = text(run(dir.path(), &["serve", "--help"]).stdout);
    let page = std::fs::read_to_string(pages.join("echopilot-serve.1")).unwrap();
    let page = page.replace("\\-", "-");
    let options = help
        .split_whitespace()
        .filter(|word| word.starts_with("--") && word.len() > 2);
    let options: BTreeSet<&str> = options
        .map(|word| word.trim_end_matches(|letter: char| !letter.is_alphanumeric()))
        .collect();
    assert!(options.len() > 20, "{options:?}");
    for option in options {
        assert!(page.contains(option), "{option}");
    }
    assert!(page.contains("ECHOPILOT_TRUSTED_PROXIES"));
    let hidden = ["echopilot-man.1", "echopilot-completions.1"];
    assert!(hidden.iter().all(|page| !pages.join(page).exists()));
    let output = run(dir.path(), &["man", "/nowhere"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(output.stderr).contains("/nowhere"));
}

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
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let next = || {
        let mut message = [0; 1_024];
        let length = socket.recv(&mut message).expect("a report");
        text(message[..length].to_vec())
    };
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
    let rest: Vec<String> = std::iter::from_fn(|| {
        socket.set_nonblocking(true).unwrap();
        let mut message = [0; 1_024];
        let length = socket.recv(&mut message).ok()?;
        Some(text(message[..length].to_vec()))
    })
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

#[test]
fn a_tarball_is_the_same_each_time_and_runs_where_it_is_unpacked() {
    let dir = folder();
    let mut sums = Vec::new();
    for place in ["one", "two"] {
        let folder = dir.path().join(place);
        std::fs::create_dir(&folder).unwrap();
        let made = printed(&mut make("dist", &package_variables(&folder)));
        let tarball = PathBuf::from(text(made).trim_end());
        assert!(tarball.starts_with(folder.join("dist")), "{tarball:?}");
        let checked = Command::new("sha256sum")
            .args(["--check", "--strict", "SHA256SUMS"])
            .current_dir(folder.join("dist"))
            .output()
            .unwrap();
        assert!(checked.status.success(), "{}", text(checked.stdout));
        sums.push(std::fs::read_to_string(folder.join("dist/SHA256SUMS")).unwrap());
        std::fs::remove_dir_all(folder.join("stage")).unwrap();
        printed(
            Command::new("tar")
                .args(["--strip-components=1", "-xzf"])
                .args([&tarball, Path::new("-C"), &folder]),
        );
    }
    assert_eq!(sums[0], sums[1]);
    let unpacked = dir.path().join("two");
    let found = files(&unpacked);
    for name in INSTALLED.iter().filter(|name| !name.contains(".debug")) {
        assert!(found.contains(*name), "{name} is not in {found:#?}");
    }
    let unit = unpacked.join("lib/systemd/system/echopilot.service");
    let unit = std::fs::read_to_string(unit).unwrap();
    assert!(unit.contains("ExecStart=/usr/local/bin/echopilot serve\n"));
    let mut command = Command::new(unpacked.join("bin/echopilot"));
    let data = dir.path().join("data");
    command.env("ECHOPILOT_DATA_DIR", &data);
    let server = Server::start_as(command);
    assert_eq!(server.post(&batch([event("action", "u", "f")])).0, 200);
    server.stop();
    assert_eq!(run_json(&data, &["usage", "--days", "1"])["mau"], 1);
}

/// A copy of the file system of this machine, which takes changes in their place; unmounted when
/// dropped.
struct Overlay {
    root: PathBuf,
    _folder: TempDir,
}

impl Overlay {
    /// `None` if this process may not mount.
    fn mount() -> Option<Self> {
        let folder = folder();
        let [upper, work, root] = ["upper", "work", "root"].map(|name| folder.path().join(name));
        // The upper layer cannot be in an overlay itself, as in a container.
        let upper_is_mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1g", "tmpfs"])
            .arg(folder.path())
            .stderr(Stdio::null())
            .status();
        if !upper_is_mounted.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: cannot mount; run as root to test the Debian package");
            return None;
        }
        let overlay = Self {
            root: root.clone(),
            _folder: folder,
        };
        for folder in [&upper, &work, &root] {
            std::fs::create_dir(folder).unwrap();
        }
        let layers = format!(
            "lowerdir=/,upperdir={},workdir={}",
            upper.display(),
            work.display()
        );
        let mounted = Command::new("mount")
            .args(["-t", "overlay", "-o", &layers, "overlay"])
            .arg(&root)
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: cannot mount an overlay; the Debian package was not installed");
            return None;
        }
        for (how, source, place) in [
            (&["--bind"][..], "/dev", "dev"),
            (&["-t", "proc"], "proc", "proc"),
            (&["-t", "tmpfs"], "tmpfs", "tmp"),
            (&["-t", "tmpfs"], "tmpfs", "run"),
        ] {
            let mut mount = Command::new("mount");
            mount.args(how).arg(source).arg(root.join(place));
            assert!(mount.status().unwrap().success(), "{place}");
        }
        Some(overlay)
    }

    /// A command in the copy.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("chroot");
        command.arg(&self.root).arg(program);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ECHOPILOT_")) {
            command.env_remove(name);
        }
        command
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C.UTF-8");
        command
    }

    /// Runs a shell script in the copy, which must succeed, and returns what it prints.
    fn shell(&self, script: &str) -> String {
        text(printed(self.command("sh").args(["-euc", script])))
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let folder = self.root.parent().expect("a folder").to_owned();
        let mounted = [self.root.clone(), folder];
        for place in mounted {
            // Everything that is mounted below it, too.
            let _ = Command::new("umount").arg("-lR").arg(place).status();
        }
    }
}

/// The command of a unit, as its user and with its settings.
fn as_the_unit(machine: &Overlay) -> Command {
    let unit = machine.shell("cat /usr/lib/systemd/system/echopilot.service");
    let value = |name: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} in {unit}"))
            .to_owned()
    };
    let start = value("ExecStart=");
    let start = start.strip_suffix(" serve").unwrap();
    let settings = value("EnvironmentFile=-");
    let state = value("StateDirectory=");
    let user = value("User=");
    // What systemd does before it starts the program.
    machine.shell(&format!(
        "install -d -o {user} -g {user} -m 700 /var/lib/{state}"
    ));
    let script = format!(
        "export {}; set -a; . {settings}; exec setpriv --reuid {user} --regid {user} --clear-groups \
         --bounding-set -all --no-new-privs {start} \"$@\"",
        value("Environment=")
    );
    let mut command = machine.command("sh");
    command.args(["-euc", &script, "sh"]);
    command
}

#[test]
fn the_debian_package_installs_starts_upgrades_and_goes() {
    if !is_there("dpkg") || !is_there("cargo-deb") {
        return;
    }
    let Some(machine) = Overlay::mount() else {
        return;
    };
    let dir = folder();
    let variables = package_variables(dir.path());
    let build = |version: &str| {
        let flags = format!(
            "DEB_FLAGS=--fast --compress-type gz --compress-system --deb-version {version}"
        );
        printed(&mut make("deb", &[&variables[..], &[flags]].concat()));
        let name = format!("echopilot_{version}_*.deb");
        let found = printed(
            Command::new("find")
                .arg(dir.path().join("dist"))
                .args(["-name", &name]),
        );
        let package = PathBuf::from(text(found).trim_end());
        assert!(package.exists(), "{name}");
        std::fs::copy(&package, machine.root.join(format!("tmp/{version}.deb"))).unwrap();
        package
    };
    let package = build("1.0");
    let control = text(printed(Command::new("dpkg-deb").arg("-I").arg(&package)));
    assert!(control.contains("\n Depends: "), "{control}");
    assert!(control.contains("libc6 (>= 2."), "{control}");
    let content = text(printed(Command::new("dpkg-deb").arg("-c").arg(&package)));
    assert!(!content.contains(".debug"), "{content}");

    machine.shell(
        "dpkg -i /tmp/1.0.deb >&2; dpkg --audit >&2; test -z \"$(dpkg --verify echopilot)\"",
    );
    let user = machine.shell("getent passwd echopilot");
    assert!(
        user.contains(":/var/lib/echopilot:/usr/sbin/nologin"),
        "{user}"
    );
    let files = machine.shell("dpkg -L echopilot");
    for name in [
        "/etc/default/echopilot",
        "/usr/bin/echopilot",
        "/usr/share/bash-completion/completions/echopilot",
        "/usr/share/doc/echopilot/copyright",
        "/usr/share/doc/echopilot/examples/credentials.conf",
        "/usr/share/man/man1/echopilot-serve.1.gz",
        "/usr/share/zsh/vendor-completions/_echopilot",
    ] {
        assert!(files.lines().any(|line| line == name), "{name}: {files}");
    }
    let enabled = machine.shell("ls /etc/systemd/system/multi-user.target.wants/");
    assert!(enabled.contains("echopilot.service"), "{enabled}");
    machine.shell("systemd-analyze verify --man=no echopilot.service");

    let settings = machine.root.join("etc/default/echopilot");
    let mut changed = std::fs::read_to_string(&settings).unwrap();
    changed.push_str("ECHOPILOT_ZONES=Europe/Berlin\n");
    std::fs::write(&settings, &changed).unwrap();
    let server = Server::start_as(as_the_unit(&machine));
    let (status, _) = post_to(
        &server.url,
        batch([event("action", "u", "f")]).to_string().as_bytes(),
        &[],
    )
    .unwrap();
    assert_eq!(status, 200);
    let (_, status) = server.get("/api/analytics/status");
    assert_eq!(status["zones"][0]["zone"], "Europe/Berlin", "{status}");
    let owner = machine.shell("stat -c %U:%a /var/lib/echopilot/manifest.json");
    assert_eq!(owner, "echopilot:600\n");
    server.stop();

    // An upgrade keeps changed settings, the data, and the user.
    build("1.1");
    machine.shell("dpkg -i /tmp/1.1.deb >&2");
    assert_eq!(std::fs::read_to_string(&settings).unwrap(), changed);
    assert_eq!(machine.shell("getent passwd echopilot"), user);
    let server = Server::start_as(as_the_unit(&machine));
    assert_eq!(server.usage("?days=1")["total_events"], 1);
    server.stop();

    machine.shell(
        "dpkg -r echopilot >&2; ! test -e /usr/bin/echopilot; test -e /etc/default/echopilot",
    );
    let told = machine.shell("dpkg -P echopilot");
    assert!(told.contains("/var/lib/echopilot were kept"), "{told}");
    machine.shell(
        "! test -e /etc/default/echopilot; ! test -e /usr/share/doc/echopilot; test -d /var/lib/echopilot/events;
         ! ls /etc/systemd/system/multi-user.target.wants/echopilot.service 2>/dev/null",
    );
}

/// An instruction of a container file: its name, and the rest of the line.
type Instruction = (String, String);

/// The instructions of the last stage, each on one line.
fn last_stage(file: &str) -> Vec<Instruction> {
    let lines = file.lines().filter(|line| !line.starts_with('#'));
    let joined = lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
    let instructions = joined.lines().filter_map(|line| line.split_once(' '));
    let mut stage: Vec<Instruction> = Vec::new();
    for (name, rest) in instructions {
        if name == "FROM" {
            stage.clear();
        }
        stage.push((name.to_owned(), rest.trim().to_owned()));
    }
    stage
}

#[test]
fn the_steps_of_the_container_file_give_a_server_that_is_not_root_and_healthy() {
    let file = include_str!("../../deploy/Containerfile");
    let Some(machine) = Overlay::mount() else {
        return;
    };
    let stage = last_stage(file);
    let list = |rest: &str| -> Vec<String> {
        let (_, json) = rest.split_at(rest.find('[').expect("the form of a list"));
        serde_json::from_str(json).expect("a list of strings")
    };
    let (mut user, mut environment) = (String::new(), Vec::new());
    let (mut entry_point, mut command, mut health, mut volumes) = Default::default();
    for (name, rest) in stage {
        match name.as_str() {
            "FROM" | "EXPOSE" => {}
            // Signals of the test are the same.
            "STOPSIGNAL" => assert_eq!(rest, "SIGTERM"),
            // The network is none of the subjects.
            "RUN" if rest.starts_with("apt-get") => {
                assert!(rest.contains("--no-install-recommends") && rest.contains("rm -rf"));
            }
            "RUN" => drop(machine.shell(&rest)),
            "COPY" => {
                let paths: Vec<&str> = rest.split(' ').collect();
                let ["--from=build", from, to] = paths[..] else {
                    panic!("{rest}");
                };
                let from = from.strip_prefix("/stage/usr").expect("an installed file");
                let from = format!("{}{from}", installation().prefix.display());
                let to = machine.root.join(to.trim_start_matches('/'));
                printed(Command::new("cp").args(["-rT", &from]).arg(to));
            }
            "USER" => user = rest,
            "ENV" => environment = rest.split(' ').map(str::to_owned).collect(),
            "VOLUME" => volumes = list(&rest),
            "HEALTHCHECK" => health = list(&rest),
            "ENTRYPOINT" => entry_point = list(&rest),
            "CMD" => command = list(&rest),
            _ => panic!("{name} {rest}"),
        }
    }
    assert_eq!(
        (&volumes, &command),
        (
            &vec!["/var/lib/echopilot".to_owned()],
            &vec!["serve".to_owned()]
        )
    );
    assert!(!user.starts_with('0') && user.starts_with(|digit: char| digit.is_ascii_digit()));
    let run = |arguments: &[String]| {
        let mut command = Command::new("chroot");
        command
            .args(["--userspec", &user, "--groups="])
            .arg(&machine.root)
            .arg("env")
            .args(&environment)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .args(arguments);
        command
    };
    let server = Server::start_as(run(&entry_point));
    let events = batch([event("action", "u", "f")]).to_string();
    assert_eq!(post_to(&server.url, events.as_bytes(), &[]).unwrap().0, 200);
    let owner = machine.shell("stat -c %u:%g:%a /var/lib/echopilot/analytics_events.ndjson");
    assert_eq!(owner, format!("{user}:600\n"));
    // The address of the test instead of that of the container.
    let address = server.url.strip_prefix("http://").unwrap();
    let listen = format!("ECHOPILOT_LISTEN={address}");
    let is_healthy = || {
        let health = [&["env".to_owned(), listen.clone()], &health[..]].concat();
        let done = run(&health).output().unwrap();
        done.status.code() == Some(0)
    };
    assert!(is_healthy());
    server.stop();
    assert!(!is_healthy());
}

#[test]
fn neither_events_nor_keys_get_into_an_image() {
    let ignored: BTreeSet<&str> = include_str!("../../.dockerignore").lines().collect();
    for name in [
        ".git",
        ".tmp*",
        ".venv",
        "**/node_modules",
        "logs",
        "target",
    ] {
        assert!(ignored.contains(name), "{name}");
    }
    let file = include_str!("../../deploy/Containerfile");
    let toolchain = include_str!("../../rust-toolchain.toml");
    let (_, version) = toolchain.split_once("channel = \"").unwrap();
    let (version, _) = version.split_once('"').unwrap();
    assert!(file.contains(&format!("FROM rust:{version}-")), "{version}");
    assert!(
        file.contains(&format!("RUSTUP_TOOLCHAIN={version}\n")),
        "{version}"
    );
}
