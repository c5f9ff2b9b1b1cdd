//! `echopilot backup` and `echopilot restore`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::output::print_json;
use super::progress::{ShownProgress, Unit};
use super::{Context, FAILED};
use crate::backup::restore::{self, At, RestoreRequest};
use crate::backup::{self, BackupRequest};
use crate::engine::MAX_ERASED_USERS;
use crate::progress::Progress;

#[derive(Debug, Args)]
pub struct BackupArgs {
    /// Folder, created if needed, or bucket: `s3://BUCKET/PREFIX`, `gs://`, `az://`
    ///
    /// It has the backups of one store and nothing else. One backup at a time is written to a
    /// bucket. Credentials come from the environment, see `echopilot export --help`.
    #[arg(long, value_name = "DIR")]
    to: String,
    /// Remove all backups but the newest N, with this one [default: none is removed]
    #[arg(long, value_name = "N")]
    keep: Option<NonZeroUsize>,
}

#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// Folder or bucket of the backups
    #[arg(value_name = "FROM")]
    from: String,
    /// Restore the newest backup up to this time or day (UTC) [default: the newest]
    #[arg(long, value_name = "TIME")]
    at: Option<At>,
    /// `erasures.json` of a data folder whose erasures are repeated
    #[arg(long, value_name = "FILE")]
    erasures: Option<PathBuf>,
    /// List the backups, and restore none
    #[arg(long, conflicts_with_all = ["at", "erasures", "check"])]
    list: bool,
    /// Read and verify every file of the backup, and restore none
    #[arg(long, conflicts_with = "erasures")]
    check: bool,
}

impl BackupArgs {
    pub fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let request = BackupRequest {
            to: self.to,
            keep: self.keep,
        };
        let progress = Progress::default();
        let shown = ShownProgress::start("backup", Unit::Bytes, &progress);
        let data_dir = &context.store.data_dir;
        let backed_up = backup::back_up(data_dir, &request, context.now, note(&progress));
        drop(shown);
        let backed_up = backed_up?;
        print_json(&backed_up)?;
        Ok(match backed_up.ok {
            true => ExitCode::SUCCESS,
            false => ExitCode::from(FAILED),
        })
    }
}

impl RestoreArgs {
    pub fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        if self.list {
            return print_json(&restore::available(&self.from)?);
        }
        let request = RestoreRequest {
            from: self.from,
            at: self.at,
            erasures: self.erasures,
        };
        let progress = Progress::default();
        let shown = ShownProgress::start("restore", Unit::Bytes, &progress);
        let restored = match self.check {
            true => restore::check(&request, note(&progress)),
            false => restore::restore(&context.store.data_dir, &request, note(&progress)),
        };
        drop(shown);
        let restored = restored?;
        if !restored.erased.is_empty() {
            erase_again(context, &restored.erased);
        }
        print_json(&restored)
    }
}

/// Completes the erasures that were repeated. They are recorded: otherwise a server completes them.
fn erase_again(context: &Context, users: &[String]) {
    let erased = context.open("restore").and_then(|engine| {
        // Recorded erasures need no confirmation.
        let mut parts = users.chunks(MAX_ERASED_USERS);
        parts.try_for_each(|users| engine.erase(users, None, context.now).map(drop))
    });
    if let Err(error) = erased {
        eprintln!("echopilot: the server will complete the repeated erasures: {error}");
    }
}

/// Notes the bytes done and of all files.
fn note(progress: &Progress) -> impl Fn(u64, u64) {
    |done, all| {
        progress.set_total(all);
        progress.set_done(done);
    }
}
