//! `echopilot alert`.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::output::{argument_or_file, print_compact, print_field, print_json};
use super::remote::{Client, segment};
use super::report::id_in;
use super::{Context, FAILED, Reached};
use crate::alerts::Alert;
use crate::alerts::sender::MessageSender;
use crate::config::MessageConfig;
use crate::engine::COMMAND_LINE;
use crate::error::ErrorCode;
use crate::store::folder::Purpose;

const PATH: &str = "/api/analytics/alerts";

#[derive(Debug, Subcommand)]
pub enum AlertCommand {
    /// Print the alerts and digests with their states as JSON
    List,
    /// Create or replace an alert or digest
    ///
    /// An alert is `{"id":"few","name":"Few users","query":{"metric":"active_users","days":7},
    /// "value":"rows[-1].dau","when":{"below":100},"to":["mailto:anna@example.com"]}`, a digest
    /// `{"id":"week","name":"The week","digest":"weekly","to":["https://hooks.example.com/x"]}`, or
    /// @FILE.
    Set {
        /// The alert, or @ and the name of a file that contains it
        #[arg(value_name = "JSON|@FILE")]
        alert: String,
    },
    /// Remove an alert or digest
    Remove {
        /// Id of the alert
        id: String,
    },
    /// Print the key of the signatures of webhooks
    Key,
    /// Evaluate an alert now, and send a test message to each destination
    ///
    /// Exit code 1 if one was not sent. Next to a server its settings count.
    Test {
        /// Id of the alert
        id: String,
        #[command(flatten)]
        messages: MessageConfig,
    },
}

impl AlertCommand {
    pub fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let purpose = match self {
            Self::List | Self::Key | Self::Test { .. } => Purpose::Read,
            _ => Purpose::Change,
        };
        let engine = match context.reach("alert", purpose)? {
            Reached::Engine(engine) => engine,
            Reached::Server(server) => return self.ask(&server),
        };
        let by = engine.by(COMMAND_LINE, context.now);
        let answer = match self {
            Self::List => engine.user_alerts()?,
            Self::Set { alert } => {
                let json = argument_or_file(&alert)?;
                let id = id_in(&json, ErrorCode::BadAlert)?;
                by.set_alert(&id, Alert::parse(&json)?, None)?
            }
            Self::Remove { id } => by.remove_alert(&id)?,
            Self::Key => {
                let key = engine.user_alerts()?.signing_key;
                return print_json(&json!({"signing_key": key}));
            }
            Self::Test { id, messages } => {
                let sender = MessageSender::new(&messages)?;
                let tested = engine.test_user_alert(&id, &sender, context.now)?;
                print_json(&tested)?;
                return Ok(exit_code(tested.ok));
            }
        };
        print_json(&answer.alerts)
    }

    /// Sends the request to a server.
    fn ask(self, server: &Client) -> anyhow::Result<ExitCode> {
        let path = |id: &str| format!("{PATH}/{}", segment(id));
        let answer = match self {
            Self::List => server.get(PATH, &[(); 0])?,
            Self::Set { alert } => {
                let json = argument_or_file(&alert)?;
                let id = id_in(&json, ErrorCode::BadAlert)?;
                Alert::parse(&json)?;
                server.put_json(&path(&id), json)?
            }
            Self::Remove { id } => server.delete(&path(&id))?,
            Self::Key => {
                let listed: Value = serde_json::from_slice(&server.get(PATH, &[(); 0])?)?;
                return print_json(&json!({"signing_key": listed.get("signing_key")}));
            }
            Self::Test { id, .. } => {
                let tested = server.post(&format!("{}/test", path(&id)), &[(); 0])?;
                print_compact(&tested)?;
                let tested: Value = serde_json::from_slice(&tested)?;
                return Ok(exit_code(tested.get("ok") == Some(&true.into())));
            }
        };
        print_field(&answer, "alerts")
    }
}

fn exit_code(is_sent: bool) -> ExitCode {
    if is_sent {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILED)
    }
}
