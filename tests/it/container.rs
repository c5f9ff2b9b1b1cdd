//! The container file: its steps are carried out in a copy of the file system.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use crate::harness::{Server, batch, event, folder, post_to, printed};
use crate::overlay::Overlay;
use crate::packages::installation;

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
    let Some(machine) = Overlay::with_devices() else {
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

/// A container engine that runs and has the image `base`. It is not asked to fetch one.
fn engine_with(base: &str) -> Option<&'static str> {
    ["docker", "podman"].into_iter().find(|engine| {
        let done = Command::new(engine)
            .args(["run", "--rm", "--pull", "never", "--network", "host"])
            .args([base, "true"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        done.is_ok_and(|status| status.success())
    })
}

#[test]
fn the_image_builds_and_runs_where_a_container_engine_has_its_base() {
    let file = include_str!("../../deploy/Containerfile");
    let stage = last_stage(file);
    let base = &stage.first().unwrap().1;
    let Some(engine) = engine_with(base) else {
        eprintln!("SKIPPED: no container engine has {base} here");
        return;
    };
    let dir = folder();
    // In the place of the stage that builds the program for twenty minutes.
    let built = dir.path().join("stage");
    std::fs::create_dir(&built).unwrap();
    let prefix = &installation().prefix;
    printed(Command::new("cp").arg("-a").args([prefix, &built]));
    let image = format!("echopilot-test-{}", std::process::id());
    printed(
        Command::new(engine)
            .args(["build", "--network", "host", "--tag", &image, "--file"])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/Containerfile"))
            .arg("--build-context")
            .arg(format!("build={}", dir.path().display()))
            .arg(folder().path()),
    );
    let mut command = Command::new(engine);
    command
        .args(["run", "--rm", "--network", "host", "--name", &image])
        .args(["--read-only", "--cap-drop", "all"])
        .args(["--env", "ECHOPILOT_DASH_KEY", &image]);
    let server = Server::start_as(command);
    let events = batch([event("action", "u", "f")]).to_string();
    assert_eq!(post_to(&server.url, events.as_bytes(), &[]).unwrap().0, 200);
    let address = server.url.strip_prefix("http://").unwrap();
    let mut inside = Command::new(engine);
    inside.args(["exec", &image, "echopilot", "health", "--listen", address]);
    printed(&mut inside);
    server.stop();
    printed(Command::new(engine).args(["rmi", &image]));
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
