//! Arguments from files, and results on stdout.

use std::collections::HashMap;
use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;
use serde_json::value::RawValue;

use super::json;

/// Returns an argument, or after an @ the content of the file that it names.
pub fn argument_or_file(argument: &str) -> anyhow::Result<Vec<u8>> {
    match argument.strip_prefix('@') {
        None => Ok(argument.as_bytes().to_vec()),
        Some(path) => std::fs::read(path).with_context(|| format!("cannot read {path}")),
    }
}

/// Writes to stdout; a broken pipe is not an error.
pub fn print_bytes(bytes: &[u8]) -> anyhow::Result<ExitCode> {
    match std::io::stdout().lock().write_all(bytes) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write the result")
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Prints JSON of a server as [`print_json`] prints a result.
pub fn print_compact(json: &[u8]) -> anyhow::Result<ExitCode> {
    let mut printed = json::pretty(json);
    printed.push(b'\n');
    print_bytes(&printed)
}

/// A field of the JSON object that a server responded with, as it is written there.
pub fn field_of<'a>(json: &'a [u8], name: &str) -> anyhow::Result<&'a RawValue> {
    let mut fields: HashMap<&str, &RawValue> = serde_json::from_slice(json)?;
    let missing = || format!("the server responded without {name}");
    fields.remove(name).with_context(missing)
}

/// Prints a field of the JSON object that a server responded with.
pub fn print_field(json: &[u8], name: &str) -> anyhow::Result<ExitCode> {
    print_compact(field_of(json, name)?.get().as_bytes())
}

/// Prints a result as JSON; a broken pipe is not an error.
pub fn print_json(result: &impl Serialize) -> anyhow::Result<ExitCode> {
    print_bytes(format!("{}\n", serde_json::to_string_pretty(result)?).as_bytes())
}
