//! Installation, the tarball, completions, manual and licences. All of them take the program of
//! the tests; nothing is built.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::harness::{Server, batch, echopilot, event, folder, printed, run, run_json};

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
pub fn make(target: &str, variables: &[String]) -> Command {
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
pub struct Installation {
    pub prefix: PathBuf,
    pub etc: PathBuf,
}

/// The program of the tests, installed once for all tests of this process, in a folder that the
/// next run replaces: it has half a gigabyte.
pub fn installation() -> &'static Installation {
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
pub fn package_variables(folder: &Path) -> [String; 4] {
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

pub fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("a string in UTF-8")
}

/// Returns true if a program is there; reports that a test is skipped if not.
pub fn is_there(program: &str) -> bool {
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
        "web-vitals ",
    ] {
        assert!(licences.contains(&format!("\n  {name}")), "{name}");
    }
    // Neither tests nor builds are part of the program.
    for name in ["proptest ", "esbuild ", "terser "] {
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
