//! The command line. Each command is one call of the engine. Results go to stdout, everything else
//! to stderr.

mod alert;
mod audit;
mod backup;
mod cohort;
mod demo;
mod doctor;
mod engine_check;
mod events;
mod expire;
mod export;
mod health;
mod import;
mod json;
mod links;
mod maintenance;
mod manual;
mod output;
mod plan;
mod progress;
mod query;
mod remote;
mod report;
mod rollup;
mod sql;
mod table;
mod usage;
mod user;
mod values;
mod window;

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::builder::StyledStr;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::{ServeConfig, StoreConfig};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::server;
use crate::store::folder::Purpose;
use alert::AlertCommand;
use audit::AuditArgs;
use backup::{BackupArgs, RestoreArgs};
use cohort::CohortCommand;
use demo::DemoArgs;
use doctor::DoctorArgs;
use engine_check::EngineCommand;
use events::EventsArgs;
use expire::ExpireArgs;
use export::ExportArgs;
use health::HealthArgs;
use import::ImportArgs;
use links::LinksCommand;
use manual::{CompletionsArgs, ManArgs};
use plan::{PlanCommand, QuarantineCommand};
use query::QueryArgs;
use remote::{Client, Rejected};
use report::{AnnotationCommand, ReportCommand};
use rollup::RollupArgs;
use sql::SqlArgs;
use table::TableCommand;
use usage::UsageArgs;
use user::UserCommand;
use values::ValuesArgs;

/// Exit code of a command that failed.
const FAILED: u8 = 1;
/// Exit code of wrong usage, as clap has it.
const WRONG_USAGE: u8 = 2;

/// Product analytics in one binary: durable events in, exact numbers out.
#[derive(Debug, Parser)]
#[command(name = "echopilot", version, max_term_width = 80)]
pub struct Cli {
    #[command(flatten)]
    store: StoreConfig,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server: ingest, queries, daily jobs
    Serve(Box<ServeConfig>),
    /// Import events from NDJSON and JSON files
    ///
    /// An event is a JSON object as the server accepts it: one per line, several in a row, an array
    /// of any length, or `{"events":[…]}`. Compressed files (gzip, zstd, bzip2, xz) are
    /// decompressed. Invalid events are reported with their position and do not stop the import;
    /// the exit code is then 1. Events are stored in batches of up to a gigabyte: an interrupted
    /// import leaves complete batches, and may be repeated if events have ids. So does a damaged
    /// compressed file; `gzip -dc FILE | echopilot import -` imports what is readable.
    Import(ImportArgs),
    /// Print usage as JSON: active users, features, event types
    Usage(UsageArgs),
    /// Run a query
    #[command(long_about = query::long_help())]
    Query(QueryArgs),
    /// Print a query as SQL of another engine: views, query and parameters
    ///
    /// The engine reads the lake (`events` in the data folder) or an export. What it cannot count
    /// in the same way is an error; nothing is approximated.
    Sql(SqlArgs),
    /// Print the most used values of a property as JSON, or the keys of the metadata
    Values(ValuesArgs),
    /// Write the events of a window that meet a filter to stdout or a file
    ///
    /// They contain ids of users; the audit log notes it.
    Events(EventsArgs),
    /// Create, list and remove cohorts, to which any query can be limited
    #[command(subcommand)]
    Cohort(CohortCommand),
    /// Save, list, share, export and import reports and boards
    #[command(subcommand)]
    Report(ReportCommand),
    /// Create, list and remove notes on dates, which charts show
    #[command(subcommand)]
    Annotation(AnnotationCommand),
    /// Print, check and replace the tracking plan
    ///
    /// It declares event types, conversions and features with the JSON Schema of their metadata,
    /// and what becomes of events that do not follow it.
    #[command(subcommand)]
    Plan(PlanCommand),
    /// Print the quarantined events, and replay those of the tracking plan
    #[command(subcommand)]
    Quarantine(QuarantineCommand),
    /// Create, list, test and remove alerts on numbers, and weekly digests
    #[command(subcommand)]
    Alert(AlertCommand),
    /// Export the events as Parquet, with the files a warehouse needs to load them
    ///
    /// Each table has its own folder: `events`, `daily_rollups`, `daily_features`,
    /// `daily_event_types`. `export.json` lists the files of the export and is replaced atomically;
    /// file names are never reused.
    Export(ExportArgs),
    /// List the links between the ids of users, and remove one
    ///
    /// An identity call of a client says that an id, such as that of a visitor, is of a user. From
    /// then on the events of both count as those of one user.
    #[command(subcommand)]
    Links(LinksCommand),
    /// Export or erase a user's data
    #[command(subcommand)]
    User(UserCommand),
    /// Print the audit log: who read, exported or erased events of users
    ///
    /// It also has changes of keys, cohorts, reports, share links, alerts and the clock. It has
    /// keyed hashes in place of user ids.
    Audit(AuditArgs),
    /// Write missing daily rollups, and correct those whose events have changed
    Rollup(RollupArgs),
    /// Seal the event log into Parquet segments now, and compact small ones
    Seal,
    /// Rebuild daily states from the Parquet segments
    Rebuild,
    /// Delete expired data, as the server does each day
    Expire(ExpireArgs),
    /// Verify all checksums; exit code 1 if something is damaged
    Verify,
    /// Add a backup of the data folder to a folder or bucket, also while a server runs
    ///
    /// A backup has every event that was acknowledged before it began. Backups share their files:
    /// each adds what is new. Files are linked if both folders are on one file system, else copied.
    /// Exit code 1 if a file of the data folder is damaged: the backup is without it. Not in a
    /// backup are the keys (`dash_key`, the file of `--user-key-file`) and what follows from other
    /// files.
    Backup(BackupArgs),
    /// Restore a backup to a data folder that is missing or empty
    ///
    /// Every file is verified, and no command opens the folder before all of it is there. Users
    /// who were erased after the backup are erased again, as far as the newest backup or
    /// `--erasures` knows of them.
    Restore(RestoreArgs),
    /// Check folder, disk, limits, clock, keys and server; exit code 1 if something fails
    ///
    /// Each line says ok, warning or fails, and what to do. Nothing is changed, also while a server
    /// runs; temporary files are removed at once.
    Doctor(DoctorArgs),
    /// Check that a cluster computes the same numbers as this program
    #[command(subcommand)]
    Engine(EngineCommand),
    /// List and remove the servers of a table to which several publish
    #[command(subcommand)]
    Table(TableCommand),
    /// Fill an empty data folder with synthetic events
    Demo(DemoArgs),
    /// Ask a running server whether it accepts events; exit code 1 if not
    Health(HealthArgs),
    /// Print shell completions
    #[command(hide = true)]
    Completions(CompletionsArgs),
    /// Write the manual pages of all commands to a folder
    #[command(hide = true)]
    Man(ManArgs),
}

/// State that the commands share.
struct Context {
    store: StoreConfig,
    /// When the command began.
    now: DateTime<Utc>,
}

impl Context {
    /// Identifies this process to others that want the data folder.
    fn owner(&self, command: &str) -> String {
        format!("echopilot {command} (process {})", std::process::id())
    }

    /// Opens the data folder, which no server may have.
    fn open(&self, command: &str) -> Result<Engine> {
        Engine::open(&self.store, &self.owner(command), self.now)
    }

    /// Opens the data folder, or connects to the server that has it.
    fn reach(&self, command: &str, purpose: Purpose) -> anyhow::Result<Reached> {
        let opened = Engine::open_for(&self.store, &self.owner(command), purpose, self.now);
        Ok(match self.or_server(opened)? {
            Ok(engine) => Reached::Engine(Box::new(engine)),
            Err(client) => Reached::Server(client),
        })
    }

    /// The result of work on the data folder, or the server that has it.
    fn or_server<T>(&self, result: Result<T>) -> anyhow::Result<std::result::Result<T, Client>> {
        match result {
            Err(held @ Error::Held { .. }) => match Client::of_folder(&self.store.data_dir)? {
                Some(client) => Ok(Err(client)),
                None => Err(held.into()),
            },
            result => Ok(Ok(result?)),
        }
    }
}

/// The data folder, or the server that has it.
enum Reached {
    /// The data folder.
    Engine(Box<Engine>),
    /// The server that has the data folder.
    Server(Client),
}

/// Removes the backticks that mark code in doc comments from the help.
fn without_backticks(command: clap::Command) -> clap::Command {
    let without = |help: Option<&StyledStr>| help.map(|help| help.to_string().replace('`', ""));
    let (about, long_about) = (
        without(command.get_about()),
        without(command.get_long_about()),
    );
    let mut command = command.mut_args(|mut arg| {
        let (help, long_help) = (without(arg.get_help()), without(arg.get_long_help()));
        if let Some(help) = help {
            arg = arg.help(help);
        }
        if let Some(long_help) = long_help {
            arg = arg.long_help(long_help);
        }
        arg
    });
    if let Some(about) = about {
        command = command.about(about);
    }
    if let Some(long_about) = long_about {
        command = command.long_about(long_about);
    }
    command.mut_subcommands(without_backticks)
}

impl Cli {
    /// The definition of all commands and options.
    fn definition() -> clap::Command {
        without_backticks(Self::command())
    }

    /// Parses the arguments of this process; exits if they are wrong or ask for help.
    pub fn from_arguments() -> Self {
        let matches = Self::definition().get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// Runs the command and prints its error, if any.
    pub fn run(self) -> ExitCode {
        let hint = self.command.hint();
        server::start_traces(self.command.trace_level());
        // Each connection needs a file descriptor, and the usual limit is about a thousand. If it
        // cannot be raised, the server accepts fewer connections.
        let _ = rlimit::increase_nofile_limit(u64::MAX);
        let context = Context {
            store: self.store,
            now: Utc::now(),
        };
        match self.command.run(&context) {
            Ok(code) => code,
            Err(error) => {
                eprintln!("echopilot: {error:#}");
                if let Some(rejected) = error.downcast_ref::<Rejected>() {
                    return ExitCode::from(rejected.exit_code());
                }
                match error.downcast_ref() {
                    Some(Error::Held { .. }) => {
                        eprintln!("{hint}");
                        ExitCode::from(FAILED)
                    }
                    Some(Error::BadInput { .. } | Error::Unconfirmed(_)) => {
                        ExitCode::from(WRONG_USAGE)
                    }
                    _ => ExitCode::from(FAILED),
                }
            }
        }
    }
}

impl Command {
    fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        match self {
            Self::Serve(config) => {
                server::serve(&context.store, &config)?;
                Ok(ExitCode::SUCCESS)
            }
            Self::Import(command) => command.run(context),
            Self::Usage(command) => command.run(context),
            Self::Query(command) => command.run(context),
            Self::Sql(command) => command.run(context),
            Self::Values(command) => command.run(context),
            Self::Events(command) => command.run(context),
            Self::Cohort(command) => command.run(context),
            Self::Report(command) => command.run(context),
            Self::Annotation(command) => command.run(context),
            Self::Plan(command) => command.run(context),
            Self::Quarantine(command) => command.run(context),
            Self::Alert(command) => command.run(context),
            Self::Export(command) => command.run(context),
            Self::Links(command) => command.run(context),
            Self::User(command) => command.run(context),
            Self::Audit(command) => command.run(context),
            Self::Rollup(command) => command.run(context),
            Self::Seal => maintenance::seal(context),
            Self::Rebuild => maintenance::rebuild(context),
            Self::Expire(command) => command.run(context),
            Self::Verify => maintenance::verify(context),
            Self::Backup(command) => command.run(context),
            Self::Restore(command) => command.run(context),
            Self::Doctor(command) => command.run(context),
            Self::Engine(command) => command.run(context),
            Self::Table(command) => command.run(context),
            Self::Demo(command) => command.run(context),
            Self::Health(command) => command.run(),
            Self::Completions(command) => command.run(Cli::definition()),
            Self::Man(command) => command.run(Cli::definition()),
        }
    }

    /// The level of traces: the server reports its work, other commands only problems.
    fn trace_level(&self) -> &'static str {
        match self {
            Self::Serve(_) => "info",
            _ => "warn",
        }
    }

    /// The next step while another process has the data folder locked, and no request to it does
    /// the work.
    fn hint(&self) -> &'static str {
        match self {
            Self::Serve(_) => "Stop it first, or choose another folder with --data-dir.",
            Self::Demo(_) => {
                "Stop it first, or choose another folder with --data-dir; a running server makes a synthetic history by POST \
                 /api/analytics/demo."
            }
            Self::Backup(_) | Self::Doctor(_) => "Wait until it has ended.",
            Self::Restore(_) => "Choose another folder with --data-dir.",
            _ => {
                "Run the command again when it has ended; next to a running server commands work once it listens."
            }
        }
    }
}
