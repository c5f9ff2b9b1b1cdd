//! Shell completions and manual pages, made from the definition of the command line. Packages run
//! these commands of the program that they install, so that both always fit.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use clap_complete::Shell;

use super::output::print_bytes;

/// Options of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

impl CompletionsArgs {
    /// Prints the script that the shell reads.
    pub fn run(self, mut definition: clap::Command) -> anyhow::Result<ExitCode> {
        let name = definition.get_name().to_owned();
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut definition, name, &mut script);
        print_bytes(&script)
    }
}

/// Options of `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The folder; it must exist
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl ManArgs {
    /// Writes one page for each command: `echopilot.1`, `echopilot-serve.1`, …
    pub fn run(self, definition: clap::Command) -> anyhow::Result<ExitCode> {
        let folder = &self.folder;
        clap_mangen::generate_to(definition, folder)
            .with_context(|| format!("cannot write the manual to {}", folder.display()))?;
        Ok(ExitCode::SUCCESS)
    }
}
