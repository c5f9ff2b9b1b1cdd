//! `echopilot seal`, `rebuild` and `verify`, which take no arguments.

use std::process::ExitCode;

use super::output::print_json;
use super::{Context, FAILED};
use crate::engine;

/// Seals the event log.
pub fn seal(context: &Context) -> anyhow::Result<ExitCode> {
    print_json(&context.open("seal")?.seal(context.now)?)
}

/// Rebuilds the daily states.
pub fn rebuild(context: &Context) -> anyhow::Result<ExitCode> {
    print_json(&context.open("rebuild")?.rebuild()?)
}

/// Verifies all checksums; the exit code is 1 if something is damaged.
pub fn verify(context: &Context) -> anyhow::Result<ExitCode> {
    let verified = engine::verify(&context.store.data_dir, &context.owner("verify"))?;
    print_json(&verified)?;
    if verified.damage.is_empty() {
        Ok(ExitCode::SUCCESS)
    } else {
        Ok(ExitCode::from(FAILED))
    }
}
