//! `echopilot doctor`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::output::{print_bytes, print_json};
use super::{Context, FAILED};
use crate::config::Listen;
use crate::doctor::{self, Examined, Outcome, Settings};

/// Columns of a line.
const COLUMNS: usize = 80;
/// Columns before the findings.
const INDENT: usize = 9;

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Address of the server
    #[arg(
        long,
        env = "ECHOPILOT_LISTEN",
        default_value = "127.0.0.1:8787",
        value_name = "ADDR",
        hide_env_values = true
    )]
    listen: Listen,
    /// File of the dashboard keys
    #[arg(
        long,
        env = "ECHOPILOT_DASH_KEY_FILE",
        value_name = "FILE",
        hide_env_values = true
    )]
    dash_key_file: Option<PathBuf>,
    /// Format of the findings
    #[arg(long, default_value = "text")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Lines for people
    Text,
    /// One JSON object
    Json,
}

impl DoctorArgs {
    pub fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let settings = Settings {
            store: context.store.clone(),
            listen: self.listen,
            dash_key_file: self.dash_key_file,
        };
        let examined = doctor::examine(&settings, context.now);
        match self.format {
            Format::Json => print_json(&examined)?,
            Format::Text => print_bytes(text(&examined).as_bytes())?,
        };
        Ok(match examined.ok {
            true => ExitCode::SUCCESS,
            false => ExitCode::from(FAILED),
        })
    }
}

/// The findings in lines of [`COLUMNS`].
fn text(examined: &Examined) -> String {
    let mut text = String::new();
    for found in &examined.checks {
        let outcome = match found.outcome {
            Outcome::Ok => "ok",
            Outcome::Warning => "warning",
            Outcome::Fails => "fails",
        };
        let first = format!("{}: {}", found.check, found.found);
        wrap(&mut text, outcome, &first);
        if let Some(advice) = &found.advice {
            wrap(&mut text, "", advice);
        }
    }
    text
}

/// Appends words in lines of [`COLUMNS`], the first of which begins with a label.
fn wrap(text: &mut String, label: &str, words: &str) {
    let mut line = format!("{label:INDENT$}");
    let mut has_words = false;
    for word in words.split_whitespace() {
        let length = line.chars().count() + usize::from(has_words) + word.chars().count();
        if has_words && length > COLUMNS {
            text.push_str(&line);
            text.push('\n');
            line = " ".repeat(INDENT);
            has_words = false;
        }
        if has_words {
            line.push(' ');
        }
        line.push_str(word);
        has_words = true;
    }
    text.push_str(line.trim_end());
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_at_most_eighty_columns() {
        let mut text = String::new();
        wrap(&mut text, "warning", &"word ".repeat(30));
        wrap(&mut text, "", "");
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.iter().all(|line| line.len() <= COLUMNS), "{text}");
        assert!(lines[0].starts_with("warning  word") && lines[1].starts_with("         word"));
        assert_eq!(text.matches("word").count(), 30);
        assert_eq!(lines.len(), 4);
    }
}
