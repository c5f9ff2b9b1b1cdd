//! Parses the arguments, runs the command, prints the error chain.

use std::process::ExitCode;

use echopilot_analytics::cli::Cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    Cli::of_arguments().run()
}
