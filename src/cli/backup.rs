//! `echopilot backup` and `echopilot restore`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use indicatif::ProgressBar;

use super::output::print_json;
use super::progress::progress_bar;
use super::{Context, FAILED};
use crate::backup::restore::{self, At, RestoreRequest};
use crate::backup::{self, BackupRequest};
use crate::engine::MAX_ERASED_USERS;

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
        let bar = bar();
        let data_dir = &context.store.data_dir;
        let backed_up = backup::back_up(data_dir, &request, context.now, show(&bar));
        bar.finish_and_clear();
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
        let bar = bar();
        let restored = match self.check {
            true => restore::check(&request, show(&bar)),
            false => restore::restore(&context.store.data_dir, &request, show(&bar)),
        };
        bar.finish_and_clear();
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

fn bar() -> ProgressBar {
    progress_bar(None, "{bytes}/{total_bytes}, {bytes_per_sec}, {eta} left")
}

/// Shows the bytes done and of all files.
fn show(bar: &ProgressBar) -> impl Fn(u64, u64) {
    |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    }
}
