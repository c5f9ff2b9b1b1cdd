//! The short form of `make soak`: traffic with everything on, compared with a model in Python.

use std::path::Path;

use crate::harness::folder;
use crate::oracle::python_command;

/// Seconds of traffic. Each kind of interruption occurs once in any case.
const SECONDS: &str = "20";

#[test]
fn traffic_with_kills_erasures_and_late_events_gives_the_numbers_of_a_model() {
    let dir = folder();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/soak.py");
    let output = python_command()
        .current_dir(dir.path())
        .arg(script)
        .args([env!("CARGO_BIN_EXE_echopilot"), SECONDS])
        .env("SOAK_RATE", "1000")
        .output()
        .expect("Python starts");
    let report = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{report}{errors}");
    for counted in ["erased events", "duplicates", "live messages"] {
        assert!(report.contains(counted), "{counted}: {report}");
    }
    let killed = report.split("kill -9 ").nth(1);
    let killed = killed.and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
    assert!(
        killed.is_some_and(|count| count.parse::<u32>().is_ok_and(|count| count >= 2)),
        "{report}"
    );
    assert!(report.contains("\n0 differences\n"), "{report}");
}
