//! The command line: each command is one call of the engine, or of the store where no metric is involved. Results go to stdout, everything else to stderr.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use chrono::{NaiveDate, Utc};
use clap::builder::StyledStr;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::config::{ServeConfig, StoreConfig};
use crate::demo::Demo;
use crate::engine::{self, Cancel, Engine, ExportRequest, RollupScope};
use crate::error::Error;
use crate::export::lake::Since;
use crate::export::warehouse::Warehouse;
use crate::export::{self, Format};

use crate::import::{self, Progress, Source};
use crate::metrics;
use crate::metrics::cohort::Cohort;
use crate::metrics::query::{Query, QueryAnswer};
use crate::metrics::usage::MAX_FEATURES;
use crate::server;
use crate::store::Clock;
use crate::store::folder::Purpose;
use crate::window::{WindowRequest, parse_day};

/// Exit code of a command whose work failed.
const FAILED: u8 = 1;
/// Exit code of a command that was used wrongly; clap's own.
const WRONG_USAGE: u8 = 2;
/// How often a progress bar moves.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

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
    /// Run the server: ingest, questions, daily jobs
    Serve(ServeConfig),
    /// Bring in events from NDJSON and JSON files
    ///
    /// An event is an object as the server takes it: one a line, several without a break between them, a list of any length,
    /// or `{"events":[…]}`. Compressed files (gzip, zstd, bzip2, xz) are inflated. What is no event is reported with its
    /// place and does not stop the import; the exit code is 1 then. Events are stored in groups of up to a
    /// gigabyte: an import that is cut off leaves whole groups, and may be repeated where events have ids. So does a
    /// compressed file that is damaged; `gzip -dc FILE | echopilot import -` brings in what can still be read.
    Import(ImportArgs),
    /// Print usage of a window as JSON: active users, features, event types
    Usage(UsageArgs),
    /// Run a query of a metric
    #[command(long_about = query_help())]
    Query(QueryArgs),
    /// Name, list and forget cohorts, which any question can be limited to
    #[command(subcommand)]
    Cohort(CohortCommand),
    /// Write the events as Parquet for a warehouse, with what it needs to load them
    ///
    /// Each table has a folder of its own: `events`, `daily_rollups`, `daily_features`. `export.json` names the files of the
    /// export and is replaced in one step; no file name is ever used twice.
    Export(ExportArgs),
    /// Everything that is stored of a user, or erase users
    #[command(subcommand)]
    User(UserCommand),
    /// Write the daily rollups that are missing, and correct those whose days got late events or lost erased ones
    Rollup {
        /// Only this day, YYYY-MM-DD
        #[arg(long, value_name = "DATE", value_parser = parse_day)]
        day: Option<NaiveDate>,
    },
    /// Turn the event log into Parquet segments now, and join small ones
    Seal,
    /// Make the daily states anew from the Parquet segments
    Rebuild,
    /// Remove what is older than it may be kept, as the server does each day
    Expire {
        /// Today's date, if the clock jumped and is right: events are accepted by it again
        #[arg(long, value_name = "DATE", value_parser = parse_day)]
        confirm_date: Option<NaiveDate>,
    },
    /// Check every checksum; exit with 1 if something is damaged
    Verify,
    /// Fill an empty data folder with a made-up history to look at
    Demo(DemoArgs),
}

#[derive(Debug, Args)]
struct ImportArgs {
    /// Files of events; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    /// Shift all times by whole days so that the newest event falls on this day
    #[arg(long, value_name = "DATE|today")]
    rebase_to: Option<String>,
}

#[derive(Debug, Args)]
struct UsageArgs {
    /// Length of the window in days, 1 to 365 [default: 30]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    days: Option<i64>,
    /// Last day of the window, YYYY-MM-DD [default: today]
    #[arg(long, value_name = "DATE", value_parser = parse_day)]
    end: Option<NaiveDate>,
    /// Reporting time zone, such as Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE")]
    tz: Option<String>,
    /// Most used features that are listed; the others are summed up
    #[arg(long, value_name = "N", default_value_t = MAX_FEATURES)]
    limit: usize,
}

#[derive(Debug, Args)]
struct QueryArgs {
    /// The question, or @ and the name of a file with it
    #[arg(value_name = "JSON|@FILE")]
    question: String,
    /// Format of the answer [default: a table on a terminal, else json]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
}

#[derive(Debug, Subcommand)]
enum CohortCommand {
    /// Print the cohorts as JSON
    List,
    /// Keep a cohort, in the place of one of that name
    ///
    /// The cohort is `{"name":"buyers","did":{"filter":{"feature":"purchase"},"at_least":2}}` or
    /// `{"name":"testers","users":["u1","u2"]}`, or @FILE.
    Set {
        /// The cohort, or @ and the name of a file with it
        #[arg(value_name = "JSON|@FILE")]
        cohort: String,
    },
    /// Forget a cohort
    Remove {
        /// Its name
        name: String,
    },
}

#[derive(Debug, Args)]
struct ExportArgs {
    /// The folder, which is made if it is not there; or a bucket: `s3://BUCKET/PREFIX`, `gs://`, `az://`
    ///
    /// Credentials of a bucket come from the environment, under the names of its own tools: `AWS_ACCESS_KEY_ID`,
    /// `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT_URL`; `GOOGLE_SERVICE_ACCOUNT`; `AZURE_STORAGE_ACCOUNT_NAME`,
    /// `AZURE_STORAGE_ACCOUNT_KEY`.
    #[arg(long, value_name = "DIR")]
    to: String,
    /// Who will read it: what it needs to load the files is written beside them
    #[arg(long = "for", value_name = "TARGET", default_value = "plain")]
    target: Warehouse,
    /// Only the last days, 1 to 365 [default: all]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    days: Option<i64>,
    /// Write only days that changed since the last export to the folder
    #[arg(long, value_name = "last")]
    since: Option<Since>,
}

#[derive(Debug, Subcommand)]
enum UserCommand {
    /// Print every event of a user as NDJSON
    Access {
        /// The user's id
        id: String,
    },
    /// Erase all events of users, everywhere, and print a receipt
    Erase {
        /// The users' ids
        #[arg(value_name = "ID", required_unless_present = "file")]
        ids: Vec<String>,
        /// A file with an id on each line
        #[arg(long, value_name = "FILE")]
        file: Option<String>,
        /// The number of events that go, if they are a large share of all
        #[arg(long, value_name = "EVENTS")]
        confirm: Option<u64>,
    },
}

#[derive(Debug, Args)]
struct DemoArgs {
    /// Events in all
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    events: u64,
    /// Days, up to yesterday
    #[arg(long, value_name = "N", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=365))]
    days: u32,
    /// Users in all
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    users: u32,
    /// Features in all
    #[arg(long, value_name = "N", default_value_t = 200)]
    features: u32,
    /// Equal seeds give equal histories
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

/// The long help of `query`, with the list of metrics.
fn query_help() -> String {
    let help = "Run a query of a metric\n\n\
        The query is a JSON object such as {\"metric\":\"retention\",\"grain\":\"week\",\"days\":90}, or @FILE. Metrics:\n";
    let metrics = metrics::LIST.iter();
    metrics.fold(help.to_owned(), |help, metric| {
        format!("{help}\n  {:<14} {}", metric.name, metric.about.trim())
    })
}

/// The command with help as it is read on a terminal: what doc comments mark as code stands without its backticks.
fn plain(command: clap::Command) -> clap::Command {
    let without = |text: Option<&StyledStr>| text.map(|text| text.to_string().replace('`', ""));
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
    command.mut_subcommands(plain)
}

impl Cli {
    /// The command of the arguments of this process; ends it where they are wrong or ask for help.
    pub fn of_arguments() -> Self {
        let matches = plain(Self::command()).get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// Runs the command and prints what went wrong, if anything.
    pub fn run(self) -> ExitCode {
        let hint = self.command.hint();
        match self.execute() {
            Ok(code) => code,
            Err(error) => {
                eprintln!("echopilot: {error:#}");
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

    fn execute(self) -> anyhow::Result<ExitCode> {
        let now = Utc::now();
        // Each connection needs a descriptor, and the usual limit is for a thousand. With it the server takes fewer at once.
        let _ = rlimit::increase_nofile_limit(u64::MAX);
        let holder = |name: &str| format!("echopilot {name} (process {})", std::process::id());
        let open = |name: &str| Engine::open(&self.store, &holder(name), now);
        let open_to_read =
            |name: &str| Engine::open_for(&self.store, &holder(name), Purpose::Read, now);
        match self.command {
            Command::Serve(config) => {
                server::start_traces("info");
                server::serve(&self.store, &config)?;
            }
            Command::Import(args) => {
                let rebase_to = args
                    .rebase_to
                    .as_deref()
                    .map(|text| import::parse_rebase_to(text, now))
                    .transpose()
                    .map_err(|message| {
                        Error::bad_input("bad_rebase_to", format!("--rebase-to: {message}"))
                    })?;
                server::start_traces("warn");
                let sources = sources(&args.files)?;
                let engine = open("import")?;
                let code = import_all(&engine, &sources, rebase_to);
                engine.close();
                return code;
            }
            Command::Usage(args) => {
                server::start_traces("warn");
                let request = WindowRequest {
                    days: args.days,
                    end: args.end,
                    tz: args.tz,
                };
                request.resolve(now)?;
                print_json(&open_to_read("usage")?.usage_of(
                    &request,
                    args.limit,
                    now,
                    &Cancel::default(),
                )?)?;
            }
            Command::Query(args) => {
                server::start_traces("warn");
                let query = Query::parse(&text_or_file(&args.question)?)?;
                query.window.resolve(now)?;
                let answer = open_to_read("query")?.query(&query, now, &Cancel::default())?;
                print_answer(&answer, args.format)?;
            }
            Command::Cohort(command) => {
                server::start_traces("warn");
                let engine = match command {
                    CohortCommand::List => open_to_read("cohort")?,
                    _ => open("cohort")?,
                };
                print_json(&match command {
                    CohortCommand::List => engine.cohorts()?,
                    CohortCommand::Set { cohort } => {
                        engine.set_cohort(Cohort::parse(&text_or_file(&cohort)?)?)?
                    }
                    CohortCommand::Remove { name } => engine.remove_cohort(&name)?,
                })?;
            }
            Command::Export(args) => {
                server::start_traces("warn");
                let request = ExportRequest {
                    to: args.to,
                    target: args.target,
                    window: args.days.map(|days| WindowRequest {
                        days: Some(days),
                        ..WindowRequest::default()
                    }),
                    since: args.since,
                };
                let bar = progress_bar(None, "{pos}/{len} events, {per_sec}, {eta} left");
                let exported = open_to_read("export")?.export(&request, now, |done, all| {
                    bar.set_length(all);
                    bar.set_position(done);
                });
                bar.finish_and_clear();
                print_json(&exported?)?;
            }
            Command::User(UserCommand::Access { id }) => {
                server::start_traces("warn");
                print_access(&open_to_read("user access")?, &id)?;
            }
            Command::User(UserCommand::Erase {
                mut ids,
                file,
                confirm,
            }) => {
                server::start_traces("warn");
                if let Some(file) = file {
                    let lines = std::fs::read_to_string(&file)
                        .with_context(|| format!("cannot read {file}"))?;
                    ids.extend(
                        lines
                            .lines()
                            .filter(|line| !line.is_empty())
                            .map(str::to_owned),
                    );
                }
                print_json(&open("user erase")?.erase(&ids, confirm, now)?)?;
            }
            Command::Rollup { day } => {
                server::start_traces("warn");
                let scope = day.map_or(RollupScope::Closed, RollupScope::Day);
                print_json(&open("rollup")?.rollup(scope, now)?)?;
            }
            Command::Seal => {
                server::start_traces("warn");
                print_json(&open("seal")?.seal(now)?)?;
            }
            Command::Rebuild => {
                server::start_traces("warn");
                print_json(&open("rebuild")?.rebuild()?)?;
            }
            Command::Expire { confirm_date } => {
                server::start_traces("warn");
                let engine = open("expire")?;
                let clock = match confirm_date {
                    None => Clock::Doubted,
                    Some(date) => {
                        engine.confirm_clock(date, now)?;
                        Clock::Confirmed
                    }
                };
                print_json(&engine.expire(now.date_naive(), clock)?)?;
            }
            Command::Verify => {
                server::start_traces("warn");
                let verified = engine::verify(&self.store.data_dir, &holder("verify"))?;
                print_json(&verified)?;
                if !verified.damage.is_empty() {
                    return Ok(ExitCode::from(FAILED));
                }
            }
            Command::Demo(args) => {
                server::start_traces("warn");
                let engine = open("demo")?;
                let filled = fill_demo(&engine, &args, now.date_naive(), &self.store.data_dir);
                engine.close();
                filled?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Command {
    /// What to do instead while a server holds the data folder.
    fn hint(&self) -> &'static str {
        match self {
            Self::Serve(_) => "Stop it first, or choose another folder with --data-dir.",
            Self::Usage(_) => {
                "Ask that server: GET /api/analytics/usage with the header X-Dash-Key."
            }
            Self::Query(_) => {
                "Ask that server: POST /api/analytics/query with the header X-Dash-Key."
            }
            Self::Cohort(_) => {
                "Ask that server: GET or POST /api/analytics/cohorts with the header X-Dash-Key."
            }
            Self::Export(_) => {
                "Ask that server: GET /api/analytics/export?days=&format= with the header X-Dash-Key; or stop it and \
                 export then."
            }
            Self::User(_) => {
                "Ask that server: GET /api/analytics/users/{id}/events or DELETE /api/analytics/users/{id} with the \
                 header X-Dash-Key."
            }
            Self::Rollup { .. } => {
                "Ask that server: POST /api/analytics/rollup with the header X-Dash-Key."
            }
            Self::Import(_) => {
                "Send the events to that server: POST /api/analytics/event, up to 100 a request; or stop it \
                 and import then."
            }
            Self::Expire { .. } => {
                "Stop it first, and start it again afterwards; or confirm the clock to that server: POST \
                 /api/analytics/clock?confirm=DATE with the header X-Dash-Key."
            }
            Self::Seal | Self::Rebuild | Self::Verify | Self::Demo(_) => {
                "Stop it first, and start it again afterwards."
            }
        }
    }
}

fn sources(files: &[String]) -> anyhow::Result<Vec<Source>> {
    files
        .iter()
        .map(|file| match file.as_str() {
            "-" => Ok(Source::Stdin),
            file => {
                let path = Path::new(file);
                std::fs::File::open(path).with_context(|| format!("cannot open {file}"))?;
                Ok(Source::File(path.to_owned()))
            }
        })
        .collect()
}

fn import_all(
    engine: &Engine,
    sources: &[Source],
    rebase_to: Option<NaiveDate>,
) -> anyhow::Result<ExitCode> {
    let progress = Progress::default();
    let total: Option<u64> = sources.iter().map(Source::bytes).sum();
    let bar = progress_bar(total, "{bytes}/{total_bytes}, {msg}, {eta} left");
    let (watched, ticking) = (progress.clone(), bar.clone());
    let ticker = std::thread::spawn(move || {
        while !ticking.is_finished() {
            ticking.set_position(watched.bytes.load(Ordering::Relaxed));
            let lines = watched.lines.load(Ordering::Relaxed);
            let rate = lines as f64 / ticking.elapsed().as_secs_f64().max(0.001);
            ticking.set_message(format!("{lines} events, {rate:.0}/s"));
            std::thread::park_timeout(PROGRESS_INTERVAL);
        }
    });
    let imported = engine.import(sources, rebase_to, Utc::now(), &progress);
    bar.finish_and_clear();
    ticker.thread().unpark();
    // The ticker only draws.
    let _ = ticker.join();
    let imported = imported?;
    if imported.refused > 0 {
        eprintln!(
            "echopilot: {} could not be imported{}",
            imported.refused,
            match imported.refused > imported.errors.len() as u64 {
                true => ", the first of them:",
                false => ":",
            }
        );
    }
    for error in &imported.errors {
        eprintln!("echopilot: {error}");
    }
    print_json(&imported)?;
    let has_refused = imported.refused > 0;
    Ok(ExitCode::from(if has_refused { FAILED } else { 0 }))
}

fn fill_demo(
    engine: &Engine,
    args: &DemoArgs,
    today: NaiveDate,
    folder: &Path,
) -> anyhow::Result<()> {
    let demo = Demo {
        events: args.events,
        days: args.days,
        users: args.users,
        features: args.features,
        seed: args.seed,
        last_day: today.pred_opt().unwrap_or(today),
    };
    let bar = progress_bar(
        Some(demo.events),
        "{pos}/{len} events, {per_sec}, {eta} left",
    );
    let made = engine.fill_demo(demo, |made| bar.set_position(made));
    bar.finish_and_clear();
    #[derive(Serialize)]
    struct Made {
        events: u64,
        days: u32,
        last_day: NaiveDate,
    }
    print_json(&Made {
        events: made?,
        days: demo.days,
        last_day: demo.last_day,
    })?;
    eprintln!(
        "Look at it: echopilot serve --data-dir {}",
        folder.display()
    );
    Ok(())
}

/// A bar on a terminal, and nothing elsewhere.
fn progress_bar(total: Option<u64>, template: &str) -> ProgressBar {
    let bar = match total {
        Some(total) => ProgressBar::new(total),
        None => ProgressBar::no_length(),
    };
    bar.set_draw_target(match std::io::stderr().is_terminal() {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    });
    if let Ok(style) = ProgressStyle::with_template(&format!("{{bar:16}} {template}")) {
        bar.set_style(style);
    }
    bar
}

/// An argument that is the text itself or, after an @, the name of a file with it.
fn text_or_file(argument: &str) -> anyhow::Result<Vec<u8>> {
    match argument.strip_prefix('@') {
        None => Ok(argument.as_bytes().to_vec()),
        Some(path) => std::fs::read(path).with_context(|| format!("cannot read {path}")),
    }
}

/// Prints an answer: as a table on a terminal, unless a format was asked for.
fn print_answer(answer: &QueryAnswer, format: Option<Format>) -> anyhow::Result<()> {
    let stdout = std::io::stdout();
    if format.is_none() && stdout.is_terminal() {
        let width = terminal_size::terminal_size().map_or(80, |(width, _)| width.0);
        let window = &answer.window;
        eprintln!(
            "{} from {} to {}, {}",
            answer.metric, window.from, window.to, window.tz
        );
        if answer.covered_from > window.from {
            eprintln!(
                "Older days have expired: known from {}",
                answer.covered_from
            );
        }
        return print_bytes(
            format!("{}\n", export::answer::text_table(&answer.rows, width)).as_bytes(),
        );
    }
    match format {
        None | Some(Format::Json) => print_json(answer),
        Some(format) => print_bytes(&format.encode(answer)?),
    }
}

/// Prints every event of a user, which a broken pipe downstream may no longer want.
fn print_access(engine: &Engine, user: &str) -> anyhow::Result<()> {
    let stdout = std::io::stdout();
    let mut is_wanted = true;
    let printed = engine.user_events(user, |lines| {
        stdout.lock().write_all(&lines).map_err(|error| {
            is_wanted = error.kind() != std::io::ErrorKind::BrokenPipe;
            Error::system("write the result")(error)
        })
    });
    match is_wanted {
        true => Ok(printed?),
        false => Ok(()),
    }
}

/// Prints bytes, which a broken pipe downstream may no longer want.
fn print_bytes(bytes: &[u8]) -> anyhow::Result<()> {
    match std::io::stdout().lock().write_all(bytes) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write the result")
        }
        _ => Ok(()),
    }
}

/// Prints a result, which a broken pipe downstream may no longer want.
fn print_json(result: &impl Serialize) -> anyhow::Result<()> {
    print_bytes(format!("{}\n", serde_json::to_string_pretty(result)?).as_bytes())
}
