//! Compares usage with another engine: DuckDB reads the lake and the log, and every number must be
//! equal.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{folder, import, printed, run, run_json};
use crate::histories::{purchases, shop_clicks};

/// Python with the packages of `tests/requirements.txt`, which `make test` installs.
pub fn python_command() -> Command {
    let mut command = Command::new(installed(&python_path()));
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

/// Python with the packages of `tests/requirements-old.txt`.
pub fn old_python_command() -> Command {
    let python = python_path();
    let environment = python.ancestors().nth(2).expect("it is in bin");
    let packages = environment.join("old-readers");
    let mut command = python_command();
    command.env("PYTHONPATH", installed(&packages));
    command
}

fn python_path() -> PathBuf {
    std::env::var_os("ECHOPILOT_TEST_PYTHON").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python"),
        PathBuf::from,
    )
}

fn installed(path: &Path) -> &Path {
    assert!(
        path.exists(),
        "{} is missing; `make test` installs it",
        path.display()
    );
    path
}

/// Runs Python and reads its JSON.
pub fn python(arguments: &[&str]) -> Value {
    let answer = printed(python_command().args(arguments));
    serde_json::from_slice(&answer).expect("the script prints JSON")
}

/// Compares usage of a window with DuckDB's over the same events.
fn compare(data: &Path, days: u16, tz: &str) {
    // Not as a parsed object: the order of the features is part of the result.
    let output = run(data, &["usage", "--days", &days.to_string(), "--tz", tz]);
    let text = String::from_utf8(output.stdout).unwrap();
    let ours: Value = serde_json::from_str(&text).unwrap();
    let window = &ours["window"];
    let theirs = python(&[
        "tests/oracle/usage.py",
        data.to_str().unwrap(),
        window["from"].as_str().unwrap(),
        window["to"].as_str().unwrap(),
        tz,
    ]);
    for field in [
        "dau",
        "wau",
        "mau",
        "total_events",
        "unique_days",
        "unique_weeks",
    ] {
        assert_eq!(ours[field], theirs[field], "{field} of {days} days in {tz}");
    }
    for field in ["feature_usage", "funnel_steps"] {
        assert_eq!(
            json!(pairs(&text, field)),
            theirs[field],
            "{field} of {days} days in {tz}"
        );
    }
}

/// The entries of an object in the output, in their order.
fn pairs(text: &str, field: &str) -> Vec<(String, u64)> {
    let (_, rest) = text.split_once(&format!("\"{field}\": {{")).unwrap();
    let (object, _) = rest.split_once('}').unwrap();
    object
        .lines()
        .filter_map(|line| line.trim().trim_end_matches(',').rsplit_once(": "))
        .map(|(name, events)| (serde_json::from_str(name).unwrap(), events.parse().unwrap()))
        .collect()
}

#[test]
fn usage_of_a_shop_and_of_its_customers_is_that_of_duckdb() {
    for history in [shop_clicks, purchases] {
        let dir = folder();
        let data = dir.path().join("data");
        let imported = import(&data, &history(dir.path()));
        assert_eq!(imported["refused"], 0);
        for days in [30, 90, 365] {
            compare(&data, days, "UTC");
        }
        compare(&data, 90, "America/New_York");
        compare(&data, 365, "Asia/Kathmandu");
    }
}

#[test]
fn usage_of_a_synthetic_history_is_that_of_duckdb() {
    // From events, and from the states of reporting zones.
    for zones in ["UTC", "UTC,Europe/Berlin,Pacific/Apia"] {
        let dir = folder();
        let demo = ["demo", "--events", "20000", "--users", "500"];
        let options = ["--days", "120", "--zones", zones];
        run_json(dir.path(), &[&demo[..], &options].concat());
        for (days, tz) in [(7, "UTC"), (120, "Europe/Berlin"), (365, "Pacific/Apia")] {
            compare(dir.path(), days, tz);
        }
    }
}
