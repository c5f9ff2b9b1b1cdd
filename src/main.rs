//! The `echopilot` binary.

use std::process::ExitCode;

use echopilot_analytics::cli::Cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    Cli::from_arguments().run()
}
