//! `echopilot report` and `echopilot annotation`.

use std::process::ExitCode;

use clap::Subcommand;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::output::{argument_or_file, field_of, print_compact, print_field, print_json};
use super::remote::{Client, segment};
use super::{Context, Reached};
use crate::engine::{COMMAND_LINE, ReportsImport};
use crate::error::{Error, ErrorCode, Result};
use crate::reports::ReportRequest;
use crate::reports::annotations::AnnotationRequest;
use crate::reports::links::LinkRequest;
use crate::store::folder::Purpose;

const REPORTS: &str = "/api/analytics/reports";
const ANNOTATIONS: &str = "/api/analytics/annotations";
const NO_QUERY: [(); 0] = [];

#[derive(Debug, Subcommand)]
pub enum ReportCommand {
    /// Print the reports and boards as JSON
    List,
    /// Print a report or board
    Show {
        /// Id of the report or board
        id: String,
        /// Print its earlier versions
        #[arg(long)]
        history: bool,
    },
    /// Create or replace a report or board
    ///
    /// A report is `{"id":"weekly","kind":"report","name":"Weekly users","view":"overview",
    /// "state":{},"queries":[{"metric":"active_users","grain":"week"}]}`, a board
    /// `{"id":"team","kind":"board","name":"Team","items":["weekly"]}`, or @FILE. With a `version`,
    /// only that version is replaced.
    Set {
        /// The report, or @ and the name of a file that contains it
        #[arg(value_name = "JSON|@FILE")]
        report: String,
    },
    /// Remove a report or board with its share links
    Remove {
        /// Id of the report or board
        id: String,
    },
    /// Print all reports, boards and annotations, for import elsewhere
    Export,
    /// Create or replace the reports, boards and annotations of an export, all or none
    Import {
        /// The export, or @ and the name of a file that contains it
        #[arg(value_name = "JSON|@FILE")]
        export: String,
    },
    /// Create a read-only link to a report or board, and print its token
    Link {
        /// Id of the report or board
        id: String,
        /// Days until it expires
        #[arg(long, value_name = "N", default_value_t = 30)]
        days: i64,
        /// Origin whose pages may embed it, such as `https://example.com`; several times
        #[arg(long, value_name = "ORIGIN")]
        origin: Vec<String>,
    },
    /// Print the valid links to a report or board
    Links {
        /// Id of the report or board
        id: String,
    },
    /// Revoke a link to a report or board
    Unlink {
        /// Id of the report or board
        id: String,
        /// Id of the link
        link: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum AnnotationCommand {
    /// Print the annotations as JSON
    List,
    /// Create or replace an annotation
    ///
    /// The annotation is `{"id":"release-2","date":"2026-11-01","text":"Release 2"}`, with `"to"`
    /// for several days, or @FILE.
    Set {
        /// The annotation, or @ and the name of a file that contains it
        #[arg(value_name = "JSON|@FILE")]
        annotation: String,
    },
    /// Remove an annotation
    Remove {
        /// Id of the annotation
        id: String,
    },
}

impl ReportCommand {
    pub fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let purpose = match self {
            Self::List | Self::Show { .. } | Self::Export | Self::Links { .. } => Purpose::Read,
            _ => Purpose::Change,
        };
        let engine = match context.reach("report", purpose)? {
            Reached::Engine(engine) => engine,
            Reached::Server(server) => return self.ask(&server),
        };
        let by = engine.by(COMMAND_LINE, context.now);
        match self {
            Self::List => print_json(&engine.reports()?.reports),
            Self::Show { id, history: false } => print_json(&engine.report(&id)?.report),
            Self::Show { id, history: true } => print_json(&engine.report_history(&id)?.history),
            Self::Set { report } => {
                let json = argument_or_file(&report)?;
                let id = id_in(&json, ErrorCode::BadReport)?;
                print_json(&by.set_report(&id, ReportRequest::parse(&json)?)?.report)
            }
            Self::Remove { id } => print_json(&by.remove_report(&id)?.reports),
            Self::Export => print_json(&Exported {
                reports: engine.reports()?.reports,
                annotations: engine.annotations()?.annotations,
            }),
            Self::Import { export } => {
                let import = ReportsImport::parse(&argument_or_file(&export)?)?;
                print_json(&by.import_reports(import)?)
            }
            Self::Link { id, days, origin } => {
                let request = LinkRequest {
                    expires_in_days: Some(days),
                    origins: origin,
                };
                print_json(&by.share(&id, request)?.link)
            }
            Self::Links { id } => print_json(&engine.links(&id, context.now)?.links),
            Self::Unlink { id, link } => print_json(&by.revoke_link(&id, &link)?.links),
        }
    }

    /// Sends the request to a server.
    fn ask(self, server: &Client) -> anyhow::Result<ExitCode> {
        let path = |id: &str| format!("{REPORTS}/{}", segment(id));
        match self {
            Self::List => print_field(&server.get(REPORTS, &NO_QUERY)?, "reports"),
            Self::Show { id, history: false } => {
                print_field(&server.get(&path(&id), &NO_QUERY)?, "report")
            }
            Self::Show { id, history: true } => {
                let path = format!("{}/history", path(&id));
                print_field(&server.get(&path, &NO_QUERY)?, "history")
            }
            Self::Set { report } => {
                let json = argument_or_file(&report)?;
                let id = id_in(&json, ErrorCode::BadReport)?;
                ReportRequest::parse(&json)?;
                print_field(&server.put_json(&path(&id), json)?, "report")
            }
            Self::Remove { id } => print_field(&server.delete(&path(&id))?, "reports"),
            Self::Export => {
                let field = |path: &str, name: &str| {
                    let found = server.get(path, &NO_QUERY)?;
                    anyhow::Ok(field_of(&found, name)?.to_owned())
                };
                print_json(&Exported {
                    reports: field(REPORTS, "reports")?,
                    annotations: field(ANNOTATIONS, "annotations")?,
                })
            }
            Self::Import { export } => {
                let json = argument_or_file(&export)?;
                ReportsImport::parse(&json)?;
                print_compact(&server.post_json(REPORTS, json, "application/json")?)
            }
            Self::Link { id, days, origin } => {
                let request = json!({"expires_in_days": days, "origins": origin}).to_string();
                let path = format!("{}/links", path(&id));
                let made = server.post_json(&path, request.into_bytes(), "application/json")?;
                print_field(&made, "link")
            }
            Self::Links { id } => {
                let path = format!("{}/links", path(&id));
                print_field(&server.get(&path, &NO_QUERY)?, "links")
            }
            Self::Unlink { id, link } => {
                let path = format!("{}/links/{}", path(&id), segment(&link));
                print_field(&server.delete(&path)?, "links")
            }
        }
    }
}

impl AnnotationCommand {
    pub fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let purpose = match self {
            Self::List => Purpose::Read,
            _ => Purpose::Change,
        };
        let engine = match context.reach("annotation", purpose)? {
            Reached::Engine(engine) => engine,
            Reached::Server(server) => return self.ask(&server),
        };
        let by = engine.by(COMMAND_LINE, context.now);
        let answer = match self {
            Self::List => engine.annotations()?,
            Self::Set { annotation } => {
                let json = argument_or_file(&annotation)?;
                let id = id_in(&json, ErrorCode::BadAnnotation)?;
                by.set_annotation(&id, AnnotationRequest::parse(&json)?)?
            }
            Self::Remove { id } => by.remove_annotation(&id)?,
        };
        print_json(&answer.annotations)
    }

    /// Sends the request to a server.
    fn ask(self, server: &Client) -> anyhow::Result<ExitCode> {
        let path = |id: &str| format!("{ANNOTATIONS}/{}", segment(id));
        let answer = match self {
            Self::List => server.get(ANNOTATIONS, &NO_QUERY)?,
            Self::Set { annotation } => {
                let json = argument_or_file(&annotation)?;
                let id = id_in(&json, ErrorCode::BadAnnotation)?;
                AnnotationRequest::parse(&json)?;
                server.put_json(&path(&id), json)?
            }
            Self::Remove { id } => server.delete(&path(&id))?,
        };
        print_field(&answer, "annotations")
    }
}

/// Reports, boards and annotations.
#[derive(Serialize)]
struct Exported<R, A> {
    reports: R,
    annotations: A,
}

/// The id in a request of the command line.
pub(super) fn id_in(json: &[u8], code: ErrorCode) -> Result<String> {
    let object: Map<String, Value> = serde_json::from_slice(json)
        .map_err(|error| Error::bad_input(code, format!("it is not a JSON object: {error}")))?;
    match object.get("id") {
        Some(Value::String(id)) => Ok(id.clone()),
        _ => Err(Error::bad_input(code, "it has no id, a string")),
    }
}
