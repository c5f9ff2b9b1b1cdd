//! Queries on an existing Apache Spark cluster, through Spark Connect.
//!
//! A request is complete in itself: the SQL of [`crate::sql`], its typed parameters, and the exact
//! files of one committed version of the lake. The cluster needs access to these files and nothing
//! else: no table, view or setting. Rows come back as Arrow. Whatever goes wrong is an error with
//! the address and the reason; nothing is computed elsewhere instead.

mod address;
mod client;
pub mod config;
mod messages;
mod rows;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chrono::{DateTime, Days, Utc};
use serde::Serialize;
use serde_json::{Value, json};

pub use address::Address;
use client::Client;
pub use config::{EngineKind, RemoteConfig};

use crate::cohorts::Cohorts;
use crate::engine::{Engine, UsageAnswer};
use crate::error::{Error, ErrorCode, Result};
use crate::event::timestamp;
use crate::metrics::query::{Query, QueryAnswer};
use crate::sql::answer::{self, History, Rows};
use crate::sql::{Dialect, QueryContext, Statement};
use crate::store::inspect::{CommittedLake, committed_lake};
use crate::window::{self, Window, WindowRequest, utc_string};

/// The way in which daily visitors count, in responses.
const DAILY: &str = "daily";
/// Time for which the table of links of a version is waited for.
const LINKS_PATIENCE: Duration = Duration::from_secs(10);
/// Interval at which it is looked for.
const POLL: Duration = Duration::from_millis(20);

/// A cluster that computes queries over the lake of a data folder.
pub struct Spark {
    client: Client,
    /// The data folder.
    root: PathBuf,
    /// The lake as the cluster sees it, without a slash at the end.
    lake: String,
}

/// A result, and what it was computed from.
#[derive(Debug, Serialize)]
pub struct FromCluster<T> {
    /// The result, with the fields that it has from this program.
    #[serde(flatten)]
    pub answer: T,
    /// Always `spark`.
    engine: &'static str,
    /// Number of the committed version of the lake.
    pub version: u64,
    /// The newest time of receipt of a sealed event: later ones are not counted.
    pub sealed_through: Option<String>,
    /// Files that were read.
    pub files: usize,
}

/// The files of a statement, as the cluster sees them.
struct Files<'a> {
    /// The folder of the partitions.
    lake: &'a str,
    /// The events.
    segments: Vec<String>,
    /// The table of links between ids; none without links.
    links: Option<String>,
}

/// The version and number of files of a statement.
struct ReadFrom {
    lake: CommittedLake,
    files: usize,
}

impl ReadFrom {
    fn with<T>(self, answer: T) -> FromCluster<T> {
        FromCluster {
            answer,
            engine: "spark",
            version: self.lake.version,
            sealed_through: sealed_through(&self.lake),
            files: self.files,
        }
    }
}

impl Spark {
    /// The cluster of the options; none if this program computes queries.
    ///
    /// # Errors
    /// `bad_remote` if an option is missing or the token would be sent in clear SQL.
    pub fn of(config: &RemoteConfig, root: &Path) -> Result<Option<Self>> {
        if config.engine == EngineKind::Embedded {
            return Ok(None);
        }
        let bad = |message: String| Error::bad_input(ErrorCode::BadRemote, message);
        let Some(address) = config.remote.clone() else {
            return Err(bad(
                "--engine spark needs --remote sc://HOST:PORT/;use_ssl=true".into(),
            ));
        };
        let has_token = config.remote_token.is_some() || config.remote_token_file.is_some();
        if has_token && !address.uses_tls && !address.is_loopback() {
            return Err(bad(format!(
                "the token would be sent to {address} without encryption; add ;use_ssl=true to the address"
            )));
        }
        let lake = match &config.remote_lake {
            Some(lake) => lake.trim_end_matches('/').to_owned(),
            None => {
                let root = std::path::absolute(root).map_err(Error::io("find", root))?;
                format!("file://{}/events", root.display())
            }
        };
        Ok(Some(Self {
            client: Client::new(address, config),
            root: root.to_owned(),
            lake,
        }))
    }

    /// The address of the cluster, for messages.
    pub fn address(&self) -> &Address {
        self.client.address()
    }

    /// The version of Spark.
    ///
    /// # Errors
    /// [`Error::Remote`] if it does not respond.
    pub fn version(&self) -> Result<String> {
        self.client.version()
    }

    /// Number of machines or processes that run the tasks of a query.
    ///
    /// # Errors
    /// [`Error::Remote`] if it does not respond.
    pub fn workers(&self) -> Result<usize> {
        self.client.workers()
    }

    /// The result of a query. `check` is called from time to time, and its error interrupts the
    /// query.
    ///
    /// # Errors
    /// `not_portable`, [`Error::Remote`], that of `check`, and if the manifest is damaged.
    pub fn query(
        &self,
        query: &Query,
        now: DateTime<Utc>,
        check: &(dyn Fn() -> Result<()> + Sync),
    ) -> Result<FromCluster<QueryAnswer>> {
        let window = query.window.resolve(now)?;
        let lake = self.committed_lake(check)?;
        let cohorts = match query.cohorts.is_empty() {
            true => Cohorts::default(),
            false => Cohorts::of_folder(&self.root)?,
        };
        let context = QueryContext {
            cohorts: &cohorts,
            has_user_key: lake.has_user_key,
            now,
        };
        let statement = Statement::of(query, &window, Dialect::Spark, context)?;
        let utc_days = utc_days(&window, query.metric.days_before());
        let (rows, has_visitors, from) = self.run(&statement, utc_days, lake, check)?;
        let history = History {
            first_day: from.lake.first_day(),
            raw_from: from.lake.raw_from,
        };
        let found = answer::answer(query, &window, now, history, &rows);
        let mut found = found.map_err(|error| self.wrong(error))?;
        // Whether users were seen before is known from the first day on whose events are kept.
        if let (None, Some(day)) = (statement.days.0, history.raw_from) {
            found = found.with_note("history_from", json!(day));
        }
        if has_visitors {
            found = found.with_note("visitors", json!(DAILY));
        }
        let own = own_windows(query, &cohorts, &window, &from.lake, now)?;
        if !own.is_empty() {
            found = found.with_note("cohort_windows", own.into());
        }
        let answer = QueryAnswer {
            ok: true,
            ts: utc_string(now),
            metric: query.metric.name(),
            window: window.describe(now),
            covered_from: covered_from(&window, &from.lake, query.metric.days_before()),
            notes: found.notes,
            rows: found.rows,
        };
        Ok(from.with(answer))
    }

    /// Usage of a window, with the `features` most used features.
    ///
    /// # Errors
    /// As [`Spark::query`].
    pub fn usage(
        &self,
        request: &WindowRequest,
        features: usize,
        now: DateTime<Utc>,
        check: &(dyn Fn() -> Result<()> + Sync),
    ) -> Result<FromCluster<UsageAnswer>> {
        Engine::check_features(features)?;
        let window = request.resolve(now)?;
        let statement = Statement::of_usage(&window, Dialect::Spark)?;
        let lake = self.committed_lake(check)?;
        let (rows, has_visitors, from) = self.run(&statement, utc_days(&window, 0), lake, check)?;
        let counted = answer::usage(&rows, features).map_err(|error| self.wrong(error))?;
        let covered_from = covered_from(&window, &from.lake, 0);
        let visitors = has_visitors.then_some(DAILY);
        let answer = UsageAnswer::of(counted, &window, now, covered_from, visitors);
        Ok(from.with(answer))
    }

    /// The committed version of the lake, whose table of links is written a moment after it.
    fn committed_lake(&self, check: &(dyn Fn() -> Result<()> + Sync)) -> Result<CommittedLake> {
        let began = Instant::now();
        loop {
            let lake = committed_lake(&self.root)?;
            let links = lake.links.as_ref().map(|links| self.root.join(links));
            if links.is_none_or(|links| links.exists()) {
                return Ok(lake);
            }
            if began.elapsed() > LINKS_PATIENCE {
                return Err(Error::Busy("the table of links is not written yet"));
            }
            check()?;
            std::thread::sleep(POLL);
        }
    }

    /// Runs a statement and its check at the same time over the files of its days. Returns the
    /// rows, and whether daily visitors are counted on more than one of so many days of UTC: they
    /// count once a day.
    fn run(
        &self,
        statement: &Statement,
        utc_days: i64,
        lake: CommittedLake,
        check: &(dyn Fn() -> Result<()> + Sync),
    ) -> Result<(Rows, bool, ReadFrom)> {
        let (first, last) = statement.days;
        let is_read = |day| first.is_none_or(|first| first <= day) && day <= last;
        let files = lake.files.iter().filter(|(day, _)| is_read(*day));
        let segments = files.map(|(_, file)| format!("{}/{file}", self.lake));
        // The folder of the lake and that of the links are next to each other.
        let root = self.lake.rsplit_once('/').map_or("", |(root, _)| root);
        let links = lake.links.as_ref();
        let files = Files {
            lake: &self.lake,
            segments: segments.collect(),
            links: links.map(|links| format!("{root}/{links}")),
        };
        let from = ReadFrom {
            files: files.segments.len(),
            lake,
        };
        if utc_days < 2 && statement.check.properties.is_empty() {
            let rows = self.client.run(statement, &files, check)?;
            return Ok((rows, false, from));
        }
        let checked = statement.of_check();
        let (rows, found) = std::thread::scope(|scope| {
            let found = scope.spawn(|| self.client.run(&checked, &files, check));
            let rows = self.client.run(statement, &files, check);
            let found = found
                .join()
                .unwrap_or_else(|_| Err(Error::Query("the check of a query ended early".into())));
            (rows, found)
        });
        let rows = rows?;
        let has_visitors = answer::has_visitors(&statement.check, &found?);
        let has_visitors = has_visitors.map_err(|error| self.wrong(error))?;
        Ok((rows, has_visitors && utc_days > 1, from))
    }

    /// An error about the rows that came back, with the address.
    fn wrong(&self, error: Error) -> Error {
        match error {
            Error::Query(reason) => Error::Remote {
                address: self.address().to_string(),
                reason: reason.to_string(),
            },
            other => other,
        }
    }
}

/// The days of UTC that a window overlaps, with so many days before it.
fn utc_days(window: &Window, days_before: u16) -> i64 {
    let range_us = window.range_us();
    let day = |us: i64| us.div_euclid(window::DAY_US);
    day(range_us.end - 1) - day(range_us.start) + 1 + i64::from(days_before)
}

/// The windows that cohorts of a query have of their own.
fn own_windows(
    query: &Query,
    cohorts: &Cohorts,
    window: &Window,
    lake: &CommittedLake,
    now: DateTime<Utc>,
) -> Result<Vec<Value>> {
    let mut own_windows = Vec::new();
    for condition in &query.cohorts {
        let cohort = cohorts.find(&condition.name)?;
        if let Some(own) = cohort.window.as_ref().filter(|_| cohort.users.is_none()) {
            let own = own.request(window.tz().name()).resolve(now)?;
            own_windows.push(json!({
                "cohort": cohort.name,
                "from": own.first_day(),
                "to": own.last_day(),
                "covered_from": covered_from(&own, lake, 0),
            }));
        }
    }
    Ok(own_windows)
}

/// The time up to which received events are sealed.
fn sealed_through(lake: &CommittedLake) -> Option<String> {
    lake.newest_us.map(|newest_us| {
        let mut time = Vec::new();
        timestamp::write(newest_us, &mut time);
        String::from_utf8_lossy(&time).into_owned()
    })
}

/// First day of the window of which no event has expired, with so many days before it.
fn covered_from(window: &Window, lake: &CommittedLake, days_before: u16) -> chrono::NaiveDate {
    let kept = lake
        .raw_from
        .map(|day| window::first_day_from(day, window.tz()));
    kept.map_or(window.first_day(), |day| {
        let day = day + Days::new(u64::from(days_before));
        day.clamp(window.first_day(), window.last_day() + Days::new(1))
    })
}
