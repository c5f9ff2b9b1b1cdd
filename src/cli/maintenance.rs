//! `echopilot seal`, `rebuild` and `verify`, which take no arguments.

use std::process::ExitCode;

use serde::Deserialize;

use super::output::{print_compact, print_json};
use super::progress::{ShownProgress, Unit};
use super::{Context, FAILED, Reached};
use crate::engine;
use crate::progress::Progress;
use crate::store::folder::Purpose;

const DAYS: Unit = Unit::Things("days");
const FILES: Unit = Unit::Things("files");

/// Seals the event log.
pub fn seal(context: &Context) -> anyhow::Result<ExitCode> {
    match context.reach("seal", Purpose::Change)? {
        Reached::Engine(engine) => {
            let progress = Progress::default();
            let shown = ShownProgress::start("seal", DAYS, &progress);
            let sealed = engine.seal_with(context.now, &progress);
            drop(shown);
            print_json(&sealed?)
        }
        Reached::Server(server) => {
            let path = "/api/analytics/seal";
            print_compact(&server.run_job(path, Vec::new(), "seal", DAYS)?)
        }
    }
}

/// Rebuilds the daily states.
pub fn rebuild(context: &Context) -> anyhow::Result<ExitCode> {
    match context.reach("rebuild", Purpose::Change)? {
        Reached::Engine(engine) => {
            let progress = Progress::default();
            let shown = ShownProgress::start("rebuild", DAYS, &progress);
            let rebuilt = engine.rebuild_with(&progress);
            drop(shown);
            print_json(&rebuilt?)
        }
        Reached::Server(server) => {
            let path = "/api/analytics/rebuild";
            print_compact(&server.run_job(path, Vec::new(), "rebuild", DAYS)?)
        }
    }
}

/// Verifies all checksums; the exit code is 1 if something is damaged.
pub fn verify(context: &Context) -> anyhow::Result<ExitCode> {
    let progress = Progress::default();
    let shown = ShownProgress::start("verify", FILES, &progress);
    let owner = context.owner("verify");
    let verified = engine::verify_with(&context.store.data_dir, &owner, &progress);
    drop(shown);
    let is_damaged = match context.or_server(verified)? {
        Ok(verified) => {
            print_json(&verified)?;
            !verified.damage.is_empty()
        }
        Err(server) => {
            #[derive(Deserialize)]
            struct Damage {
                damage: Vec<String>,
            }
            let path = "/api/analytics/verify";
            let json = server.run_job(path, Vec::new(), "verify", FILES)?;
            print_compact(&json)?;
            !serde_json::from_slice::<Damage>(&json)?.damage.is_empty()
        }
    };
    Ok(ExitCode::from(if is_damaged { FAILED } else { 0 }))
}
