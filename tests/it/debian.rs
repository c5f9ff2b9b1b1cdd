//! The Debian package: installed in a copy of the file system, started as its unit does, and under
//! a systemd of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::{Server, batch, event, folder, post_to, printed};
use crate::overlay::Overlay;
use crate::packages::{is_there, make, package_variables, text};

/// Makes a package of this version, without the compression of a release.
fn build(dir: &Path, version: &str) -> PathBuf {
    let flags =
        format!("DEB_FLAGS=--fast --compress-type gz --compress-system --deb-version {version}");
    printed(&mut make(
        "deb",
        &[&package_variables(dir)[..], &[flags]].concat(),
    ));
    let name = format!("echopilot_{version}_*.deb");
    let mut find = Command::new("find");
    let found = printed(find.arg(dir.join("dist")).args(["-name", &name]));
    let package = PathBuf::from(text(found).trim_end());
    assert!(package.exists(), "{name}");
    package
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
    let Some(machine) = Overlay::with_devices() else {
        return;
    };
    let dir = folder();
    let build = |version: &str| {
        let package = build(dir.path(), version);
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

/// Script that runs under systemd; each line that it prints is compared.
const UNDER_SYSTEMD: &str = r#"
until_true() { timeout 120 sh -c "until $1; do sleep 0.05; done"; }
ask() { curl -s "$@" -H "X-Dash-Key: $(cat /var/lib/echopilot/dash_key)"; }
dpkg -i /opt/echopilot.deb >&2
echo "installed: $(systemctl is-active echopilot), $(systemctl is-enabled echopilot)"
echopilot health >/dev/null && echo ready
systemctl show -P StatusText echopilot
curl -s http://127.0.0.1:8787/api/analytics/event -H 'Content-Type: application/json' \
    -d '{"events":[{"event_type":"action","user_id":"u"}]}' | grep -o '"logged":1'
systemctl reload echopilot
until_true "journalctl -u echopilot | grep -o 'Reloaded the dashboard keys: 1 valid'"
systemctl kill -s KILL echopilot
until_true '[ "$(systemctl show -P NRestarts echopilot)" = 1 ]'
until_true 'echopilot health >&2' && echo restarted
ask 'http://127.0.0.1:8787/api/analytics/usage?days=1' | grep -o '"total_events":1'
stat -c '%U %a' /var/lib/echopilot
echo "stopped: $(systemctl stop echopilot; systemctl show -P Result echopilot)"
mkdir /etc/echopilot /etc/systemd/system/echopilot.service.d
echo a-key-that-only-root-can-read > /etc/echopilot/dash_key
chmod 600 /etc/echopilot/dash_key
cp /usr/share/doc/echopilot/examples/credentials.conf /etc/systemd/system/echopilot.service.d/
systemctl daemon-reload
systemctl start echopilot
curl -s http://127.0.0.1:8787/api/analytics/usage -H 'X-Dash-Key: a-key-that-only-root-can-read' \
    | grep -o '"ok":true'
dpkg -r echopilot >&2
echo "removed: $(systemctl is-active echopilot)"
"#;

const PRINTED_UNDER_SYSTEMD: &str = r#"installed: active, enabled
ready
Listening on http://127.0.0.1:8787
"logged":1
Reloaded the dashboard keys: 1 valid
restarted
"total_events":1
echopilot 700
stopped: success
"ok":true
removed: inactive
"#;

#[test]
fn the_service_runs_restarts_and_goes_under_systemd() {
    if !is_there("systemd-nspawn") || !is_there("cargo-deb") || !is_there("curl") {
        return;
    }
    let Some(machine) = Overlay::mount() else {
        return;
    };
    let dir = folder();
    let here = |path: &str| machine.root.join(path);
    std::fs::create_dir_all(here("opt")).unwrap();
    std::fs::copy(build(dir.path(), "1.0"), here("opt/echopilot.deb")).unwrap();
    std::fs::write(here("opt/script"), UNDER_SYSTEMD).unwrap();
    let unit = "[Unit]\nAfter=basic.target\n[Service]\nType=oneshot\nTimeoutStartSec=8min\n\
                ExecStart=/bin/sh /opt/script\nStandardOutput=file:/opt/printed\n\
                StandardError=file:/opt/errors\nExecStopPost=systemctl poweroff --force --force\n";
    std::fs::write(here("etc/systemd/system/script.service"), unit).unwrap();
    // Images of containers forbid packages to start services.
    let policy = here("usr/sbin/policy-rc.d");
    if policy.exists() {
        std::fs::remove_file(policy).unwrap();
    }
    let name = format!("echopilot-test-{}", std::process::id());
    let booted = Command::new("timeout")
        .args(["600", "systemd-nspawn", "--boot", "--quiet"])
        .args(["--register=no", "--keep-unit", "--private-network"])
        .arg(format!("--machine={name}"))
        .arg("--directory")
        .arg(&machine.root)
        .args(["--", "systemd.unit=script.service"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    // nspawn leaves a folder if no systemd runs on this machine.
    let _ = std::fs::remove_dir(Path::new("/run/systemd/nspawn/propagate").join(&name));
    let read = |path: &str| std::fs::read_to_string(here(path)).unwrap_or_default();
    let (printed, errors) = (read("opt/printed"), read("opt/errors"));
    if printed.is_empty() && errors.is_empty() {
        let console = String::from_utf8_lossy(&booted.stdout);
        let told = String::from_utf8_lossy(&booted.stderr);
        eprintln!("SKIPPED: no systemd can run here: {told}{console}");
        return;
    }
    assert_eq!(printed, PRINTED_UNDER_SYSTEMD, "{errors}");
}
