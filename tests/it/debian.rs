//! The Debian package: installed in a copy of the file system, and started as its unit does.

use std::path::PathBuf;
use std::process::Command;

use crate::harness::{Server, batch, event, folder, post_to, printed};
use crate::overlay::Overlay;
use crate::packages::{is_there, make, package_variables, text};

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
