//! One Delta table: the files that it should have are compared with those that it has, the new ones
//! are written under names that were never used, and then one commit adds and removes.
//!
//! The log alone says what belongs to the table. A publication that was interrupted, or whose
//! response was lost, is therefore repeated by publishing again: files that it wrote are recognized
//! by their names, and a commit by its id.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use chrono::{DateTime, NaiveDate};
use polars::prelude::{DataType, Schema};
use serde_json::{Map, Value, json};

use super::action::{Action, Add, CommitInfo, Format, Metadata, Protocol, Remove, Strings, Txn};
use super::log::{Commit, Snapshot, foreign, log_dir};
use crate::error::{Error, Result};
use crate::export::destination::Destination;
use crate::export::layout::RunId;
use crate::store::{ExportPartMeta, pipeline};

/// The partition column.
pub(super) const DAY_COLUMN: &str = "dt";
/// The setting of a table that has the id of its store.
pub(super) const STORE_SETTING: &str = "echopilot.store";
/// The setting of a table that several servers publish to.
pub(super) const SHARED_SETTING: &str = "echopilot.shared";
/// Digits of the id of the store in the name of a file.
const STORE_DIGITS: usize = 8;
/// Times that a commit is tried while other writers are faster.
pub(super) const ATTEMPTS: usize = 10;
/// Time for which a file is kept whose rows are in other files now: a reader of the version before
/// may take that long.
pub(super) const KEPT_MS: i64 = 10 * 60 * 1_000;
/// Time for which a file is kept whose rows were erased or have expired. With the time of the
/// publication it is less than the minute that receipts promise.
pub(super) const KEPT_AFTER_ERASURE_MS: i64 = 40 * 1_000;

/// Writes a file to a path.
type WriteFile<'a> = Box<dyn Fn(&Path) -> Result<ExportPartMeta> + Send + Sync + 'a>;

/// A file that a table should have.
pub struct DataFile<'a> {
    /// The day of its rows, in a table of days.
    pub day: Option<NaiveDate>,
    /// Its position in the order of names, with its origin. Two files with the same have the same
    /// content.
    pub name: String,
    /// Rows.
    pub rows: u64,
    /// Least and greatest `ts`, in µs.
    pub span_us: Option<(i64, i64)>,
    /// Its length, if that is known before it is written.
    pub bytes: Option<u64>,
    /// Writes it durably.
    pub write: WriteFile<'a>,
}

/// The content of a table after a publication.
pub struct Content<'a> {
    /// The columns in the files.
    pub schema: &'a Schema,
    /// All files.
    pub files: Vec<DataFile<'a>>,
    /// State of the store that they are from.
    pub sequence: u64,
}

/// The result of a publication.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The version of the table; none without a commit.
    pub version: Option<u64>,
    /// Files that were added.
    pub added: usize,
    /// Their rows.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that were removed from the table.
    pub removed: usize,
    /// Time at which the last removed file with erased rows is deleted, in ms since 1970.
    pub erased_go_at: Option<i64>,
}

/// A table at a destination.
pub struct Table {
    /// Its folder.
    dir: &'static str,
    /// Its columns never change.
    is_fixed: bool,
    /// The id of the store.
    store: String,
    /// Its newest version, once it was read.
    snapshot: Option<Snapshot>,
}

impl Table {
    /// The table of the events, whose columns never change.
    pub fn events(dir: &'static str, store: &str) -> Self {
        Self {
            dir,
            is_fixed: true,
            store: store.to_owned(),
            snapshot: None,
        }
    }

    /// A table that is one file, whose columns may be others after an update of the program.
    pub fn of_one_file(dir: &'static str, store: &str) -> Self {
        Self {
            is_fixed: false,
            ..Self::events(dir, store)
        }
    }

    /// Forgets what is known of the table, so that it is read again.
    pub fn forget(&mut self) {
        self.snapshot = None;
    }

    /// Reads the table, unless that was done before, and checks that it is one of this store.
    /// Nothing is changed.
    ///
    /// # Errors
    /// As [`Snapshot::read`], and `bad_target` for a table of another store or with other columns.
    pub fn open(&mut self, to: &Destination, schema: &Schema) -> Result<&mut Snapshot> {
        if self.snapshot.is_none() {
            let snapshot = Snapshot::read(to, self.dir)?;
            self.check(to, &snapshot, schema)?;
            self.snapshot = Some(snapshot);
        }
        self.snapshot
            .as_mut()
            .ok_or(Error::Busy("a table is being read"))
    }

    fn check(&self, to: &Destination, snapshot: &Snapshot, schema: &Schema) -> Result<()> {
        let shown = to.shown(&log_dir(self.dir));
        let version = snapshot.version.unwrap_or(0);
        let foreign = |what: String| Err(foreign(&shown, format!("(version {version}) {what}")));
        let Some(metadata) = &snapshot.metadata else {
            return match snapshot.version {
                Some(_) => foreign("does not describe its table".into()),
                None => self.check_files(to, snapshot),
            };
        };
        match metadata.configuration.get(STORE_SETTING) {
            Some(store) if *store == self.store => {}
            Some(_) => return foreign("is the log of a table of another server".into()),
            None if metadata.configuration.contains_key(SHARED_SETTING) => {
                let what =
                    "is the log of a table of several servers, which publish with --server-id";
                return foreign(what.into());
            }
            None => return foreign("is the log of a table of another program".into()),
        }
        let columns: Value = serde_json::from_str(&metadata.schema_string).unwrap_or_default();
        if self.is_fixed && columns != self.columns(schema)
            || metadata.partition_columns != self.partition_columns()
        {
            return foreign("is the log of a table with other columns".into());
        }
        let paths = snapshot.live.keys().chain(snapshot.removed.keys());
        match paths.into_iter().find(|path| self.parse(path).is_none()) {
            Some(path) => foreign(format!("names {path:?}, which this server does not write")),
            None => self.check_files(to, snapshot),
        }
    }

    /// Rejects files in the folder of the table that no publication of this store writes.
    fn check_files(&self, to: &Destination, snapshot: &Snapshot) -> Result<()> {
        for path in data_files(to, self.dir)? {
            if snapshot.live.contains_key(&path) || self.parse(&path).is_some() {
                continue;
            }
            let shown = to.shown(&format!("{}/{path}", self.dir));
            let what = "is in the folder of the table and was not written by this server";
            return Err(foreign(&shown, what));
        }
        Ok(())
    }

    fn partition_columns(&self) -> Vec<String> {
        match self.is_fixed {
            true => vec![DAY_COLUMN.to_owned()],
            false => Vec::new(),
        }
    }

    /// The columns of the table as its log describes them.
    fn columns(&self, schema: &Schema) -> Value {
        columns(schema, &self.partition_columns())
    }

    /// Makes the table have these files, in one commit if anything is different. `progress` is
    /// called with the number of rows of each new file.
    ///
    /// # Errors
    /// As [`Table::open`], and if a file cannot be read or written; then the table is what it was,
    /// and the next call continues.
    pub fn publish(
        &mut self,
        to: &Destination,
        content: &Content<'_>,
        now: i64,
        progress: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<Outcome> {
        let published = self.try_publish(to, content, now, progress);
        if published.is_err() {
            // The commit may have been written all the same.
            self.forget();
        }
        published
    }

    fn try_publish(
        &mut self,
        to: &Destination,
        content: &Content<'_>,
        now: i64,
        progress: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<Outcome> {
        for _ in 0..ATTEMPTS {
            let is_known = self.snapshot.is_some();
            let snapshot = self.open(to, content.schema)?.clone();
            let plan = Plan::of(self, &snapshot, content);
            let columns = self.columns(content.schema).to_string();
            let has_columns = snapshot.metadata.as_ref();
            let has_columns = has_columns.is_some_and(|known| known.schema_string == columns);
            let mut outcome = Outcome {
                version: snapshot.version,
                removed: plan.gone.len(),
                ..Outcome::default()
            };
            if plan.new.is_empty() && plan.gone.is_empty() && has_columns {
                if !is_known {
                    self.remove_orphans(to, &snapshot, &BTreeSet::new())?;
                }
                return Ok(outcome);
            }
            let written = match is_known {
                true => BTreeMap::new(),
                false => self.written_before(to, &snapshot, &plan)?,
            };
            let adds = self.write(to, &plan, written, now, progress)?;
            let id = RunId::new()?;
            let mut actions = vec![commit_info(now, &id)];
            if snapshot.version.is_none() {
                actions.push(Protocol::ours().into());
            }
            if !has_columns {
                actions.push(self.metadata(&snapshot, columns, now)?.into());
            }
            actions.push(Action::from(Txn {
                app_id: format!("echopilot-{}", self.store),
                version: content.sequence,
                last_updated: Some(now),
            }));
            for gone in &plan.gone {
                let kept = if gone.has_lost_rows {
                    KEPT_AFTER_ERASURE_MS
                } else {
                    KEPT_MS
                };
                let delete_at = now + kept;
                if gone.has_lost_rows {
                    outcome.erased_go_at = Some(delete_at);
                }
                let remove = Remove::of(gone.add, now, delete_at, gone.has_lost_rows);
                actions.push(remove.into());
            }
            outcome.added = adds.len();
            outcome.rows = plan.new.iter().map(|file| file.rows).sum();
            outcome.bytes = adds.iter().map(|add| add.size).sum();
            actions.extend(adds.into_iter().map(Action::from));
            let dir = self.dir;
            let snapshot = self.open(to, content.schema)?;
            match snapshot.commit(to, dir, id.as_str(), &actions)? {
                Commit::Done => {
                    outcome.version = snapshot.version;
                    return Ok(outcome);
                }
                // What was written is found again by its name.
                Commit::Conflict => self.forget(),
            }
        }
        Err(Error::Busy("other writers of the table are faster"))
    }

    /// Files of an interrupted publication that this one needs, by name, with their paths and
    /// lengths. All others that the log does not name are removed: they may contain erased users.
    fn written_before(
        &self,
        to: &Destination,
        snapshot: &Snapshot,
        plan: &Plan<'_, '_>,
    ) -> Result<BTreeMap<String, (String, u64)>> {
        let prefix = self.dir.len() + 1;
        let mut found = BTreeMap::new();
        for (path, bytes) in to.list(self.dir)? {
            let path = path.get(prefix..).unwrap_or_default();
            if snapshot.live.contains_key(path) || snapshot.removed.contains_key(path) {
                continue;
            }
            let Some(parsed) = self.parse(path) else {
                continue;
            };
            let is_needed = |file: &&DataFile<'_>| {
                file.day == parsed.day && file.name == parsed.name && file.bytes == Some(bytes)
            };
            if let Some(file) = plan.new.iter().copied().find(|file| is_needed(file)) {
                found.insert(self.key(file), (path.to_owned(), bytes));
            }
        }
        let adopted = found.values().map(|(path, _)| path.clone()).collect();
        self.remove_orphans(to, snapshot, &adopted)?;
        Ok(found)
    }

    fn remove_orphans(
        &self,
        to: &Destination,
        snapshot: &Snapshot,
        adopted: &BTreeSet<String>,
    ) -> Result<()> {
        for path in data_files(to, self.dir)? {
            let is_named = snapshot.live.contains_key(&path)
                || snapshot.removed.contains_key(&path)
                || adopted.contains(&path);
            if !is_named && self.parse(&path).is_some() {
                to.remove(&format!("{}/{path}", self.dir))?;
            }
        }
        Ok(())
    }

    /// Writes the new files of a plan, except for those that were written before.
    fn write(
        &self,
        to: &Destination,
        plan: &Plan<'_, '_>,
        mut written: BTreeMap<String, (String, u64)>,
        now: i64,
        progress: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<Vec<Add>> {
        let run = RunId::new()?;
        let mut adds = Vec::with_capacity(plan.new.len());
        let mut to_write = Vec::new();
        for &file in &plan.new {
            match written.remove(&self.key(file)) {
                Some((path, bytes)) => {
                    adds.push(add_of(file, path, bytes, now));
                    progress(file.rows)?;
                }
                None => to_write.push(file),
            }
        }
        let mut names = Vec::new();
        let mut waiting = to_write.into_iter();
        pipeline::ordered(
            || Ok(waiting.next()),
            |file: &DataFile<'_>| {
                let path = self.path(file, &run);
                let meta = to.add(&format!("{}/{path}", self.dir), |temp| (file.write)(temp))?;
                Ok((file, path, meta.bytes))
            },
            |done: Result<(&DataFile<'_>, String, u64)>| {
                let (file, path, bytes) = done?;
                names.push(format!("{}/{path}", self.dir));
                adds.push(add_of(file, path, bytes, now));
                progress(file.rows)
            },
        )?;
        to.sync_added(&names)?;
        Ok(adds)
    }

    fn metadata(&self, snapshot: &Snapshot, columns: String, now: i64) -> Result<Metadata> {
        let known = snapshot.metadata.clone();
        Ok(Metadata {
            schema_string: columns,
            partition_columns: self.partition_columns(),
            configuration: [(STORE_SETTING.to_owned(), self.store.clone())].into(),
            ..match known {
                Some(known) => known,
                None => new_metadata(self.dir, now)?,
            }
        })
    }

    /// Deletes the files whose time has come, and writes a checkpoint if one is due.
    ///
    /// # Errors
    /// If a file cannot be written or removed; the next call continues.
    pub fn tidy(&mut self, to: &Destination, now: i64) -> Result<()> {
        let Some(snapshot) = &mut self.snapshot else {
            return Ok(());
        };
        let due = snapshot.deletions().into_iter();
        let due = due
            .filter(|(_, at)| *at <= now)
            .map(|(path, _)| path.to_owned());
        let due: Vec<String> = due.collect();
        for path in &due {
            to.remove(&format!("{}/{path}", self.dir))?;
            snapshot.removed.remove(path);
        }
        if !due.is_empty() {
            to.remove_empty(self.dir)?;
        }
        snapshot.checkpoint(to, self.dir)
    }

    /// Time at which the next removed file is deleted, in ms since 1970.
    pub fn next_deletion(&self) -> Option<i64> {
        let removed = self
            .snapshot
            .iter()
            .flat_map(|snapshot| snapshot.removed.values());
        removed.map(Remove::delete_at).min()
    }

    /// Identifies a file by its content.
    fn key(&self, file: &DataFile<'_>) -> String {
        match file.day {
            Some(day) => format!("{DAY_COLUMN}={day}/{}", file.name),
            None => file.name.clone(),
        }
    }

    /// The path of a new file in the folder of the table.
    fn path(&self, file: &DataFile<'_>, run: &RunId) -> String {
        let store = self.store.get(..STORE_DIGITS).unwrap_or_default();
        let name = format!("{store}-{}-{}.parquet", file.name, run.as_str());
        match file.day {
            Some(day) => format!("{DAY_COLUMN}={day}/{name}"),
            None => name,
        }
    }

    /// The parts of the path of a file of this store; `None` for any other path.
    fn parse<'p>(&self, path: &'p str) -> Option<Parsed<'p>> {
        let (day, name) = match self.is_fixed {
            true => {
                let (folder, name) = path.split_once('/')?;
                let day = folder.strip_prefix(DAY_COLUMN)?.strip_prefix('=')?;
                let date = NaiveDate::parse_from_str(day, "%Y-%m-%d").ok()?;
                (Some(date).filter(|date| date.to_string() == day), name)
            }
            false => (None, path),
        };
        let (name, run) = name.strip_suffix(".parquet")?.rsplit_once('-')?;
        let store = self.store.get(..STORE_DIGITS)?;
        let name = name.strip_prefix(store)?.strip_prefix('-')?;
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let is_ours = day.is_some() == self.is_fixed
            && RunId::parse(run).is_some()
            && name.bytes().all(is_name);
        is_ours.then_some(Parsed { day, name })
    }
}

/// The parts of a path.
struct Parsed<'a> {
    day: Option<NaiveDate>,
    name: &'a str,
}

/// A file that leaves a table.
struct Gone<'s> {
    add: &'s Add,
    /// Some of its rows are in no other file now: they were erased, or have expired.
    has_lost_rows: bool,
}

/// The difference between a table and the files that it should have.
struct Plan<'s, 'c> {
    new: Vec<&'c DataFile<'c>>,
    gone: Vec<Gone<'s>>,
}

impl<'s, 'c> Plan<'s, 'c> {
    fn of(table: &Table, snapshot: &'s Snapshot, content: &'c Content<'c>) -> Self {
        let wanted: BTreeSet<(Option<NaiveDate>, &str)> = content
            .files
            .iter()
            .map(|file| (file.day, file.name.as_str()))
            .collect();
        let mut has = BTreeSet::new();
        let mut gone = Vec::new();
        let places: BTreeMap<Place, u64> = content
            .files
            .iter()
            .map(|file| (Place::of(file.day, &file.name), file.rows))
            .collect();
        // Rows of the old files by the new file that has their place: the last that does not come
        // behind them.
        let mut rows: BTreeMap<Option<Place>, u64> = BTreeMap::new();
        for add in snapshot.live.values() {
            let Some(parsed) = table.parse(&add.path) else {
                continue;
            };
            let before = places
                .range(..=Place::of(parsed.day, parsed.name))
                .next_back();
            let place = before
                .map(|(place, _)| place)
                .filter(|place| place.day == parsed.day);
            let place = place.cloned();
            *rows.entry(place.clone()).or_default() += rows_of(add);
            match wanted.contains(&(parsed.day, parsed.name)) {
                true => drop(has.insert((parsed.day, parsed.name))),
                false => gone.push((add, parsed, place)),
            }
        }
        let is_kept = |place: &Option<Place>| {
            let now = place.as_ref().and_then(|place| places.get(place));
            now.is_some() && now == rows.get(place)
        };
        let gone = gone.into_iter().map(|(add, parsed, place)| Gone {
            add,
            has_lost_rows: match parsed.day {
                Some(_) => !is_kept(&place),
                None => !content
                    .files
                    .iter()
                    .any(|file| has_all_rows(&file.name, parsed.name)),
            },
        });
        let is_new = |file: &&DataFile<'_>| !has.contains(&(file.day, file.name.as_str()));
        Self {
            gone: gone.collect(),
            new: content.files.iter().filter(is_new).collect(),
        }
    }
}

/// The name of the file of a table whose rows are about users, with the number of times that rows
/// were removed from it.
pub(super) fn removals_name(removals: u64, name: &str) -> String {
    format!("{removals:08}-{name}")
}

/// True if the file of a table has all rows of the one before it: none was removed, or the table is
/// about no users.
fn has_all_rows(new: &str, old: &str) -> bool {
    let removals = |name: &str| Some(name.split_once('-')?.0.to_owned());
    removals(new) == removals(old)
}

/// The place of a file in the order of the log. A file that replaces others has that of the first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    day: Option<NaiveDate>,
    number: u64,
    part: String,
}

impl Place {
    fn of(day: Option<NaiveDate>, name: &str) -> Self {
        let mut parts = name.split('-');
        let number = parts.next().and_then(|number| number.parse().ok());
        Self {
            day,
            number: number.unwrap_or(0),
            part: parts.next().unwrap_or_default().to_owned(),
        }
    }
}

/// The description of a new table, without columns.
pub(super) fn new_metadata(dir: &str, now: i64) -> Result<Metadata> {
    Ok(Metadata {
        id: uuid()?,
        name: Some(dir.to_owned()),
        format: Format {
            provider: "parquet".into(),
            options: Strings::new(),
        },
        schema_string: String::new(),
        partition_columns: Vec::new(),
        configuration: Strings::new(),
        created_time: Some(now),
    })
}

/// The columns of a table as its log describes them: those in its files, and those of its days.
pub(super) fn columns(schema: &Schema, days: &[String]) -> Value {
    let column =
        |name: &str, of: &str| json!({"name": name, "type": of, "nullable": true, "metadata": {}});
    let in_files = schema.iter().map(|(name, of)| column(name, type_name(of)));
    let fields: Vec<Value> = in_files
        .chain(days.iter().map(|name| column(name, "date")))
        .collect();
    json!({"type": "struct", "fields": fields})
}

/// The data files in the folder of a table, by path in it.
pub(super) fn data_files(to: &Destination, dir: &str) -> Result<Vec<String>> {
    let found = to.list(dir)?.into_keys();
    let inside = found.filter_map(|path| Some(path.get(dir.len() + 1..)?.to_owned()));
    // Readers ignore names that begin so: the log, and what other programs leave.
    let is_hidden = |path: &str| path.split('/').any(|part| part.starts_with(['_', '.']));
    Ok(inside.filter(|path| !is_hidden(path)).collect())
}

/// The number of rows in the statistics of a file.
pub(super) fn rows_of(add: &Add) -> u64 {
    let stats = add.stats.as_deref().unwrap_or_default();
    let stats: Value = serde_json::from_str(stats).unwrap_or_default();
    stats.get("numRecords").and_then(Value::as_u64).unwrap_or(0)
}

fn add_of(file: &DataFile<'_>, path: String, size: u64, now: i64) -> Add {
    new_add(path, size, now, file.day, file.rows, file.span_us)
}

/// The addition of a file.
pub(super) fn new_add(
    path: String,
    size: u64,
    now: i64,
    day: Option<NaiveDate>,
    rows: u64,
    span_us: Option<(i64, i64)>,
) -> Add {
    let mut stats = json!({"numRecords": rows});
    if let (Some((first, last)), Some(stats)) = (span_us, stats.as_object_mut()) {
        // Readers compare in milliseconds, so the greatest one is rounded up.
        let value = |ms: i64| json!({"ts": shown_ms(ms)});
        stats.insert("minValues".into(), value(first.div_euclid(1_000)));
        stats.insert("maxValues".into(), value(-(-last).div_euclid(1_000)));
        stats.insert("nullCount".into(), json!({"ts": 0}));
    }
    let day = day.map(|day| (DAY_COLUMN.to_owned(), day.to_string()));
    Add {
        path,
        partition_values: day.into_iter().collect(),
        size,
        modification_time: now,
        data_change: true,
        stats: Some(stats.to_string()),
        others: Map::new(),
    }
}

fn shown_ms(ms: i64) -> String {
    let at = DateTime::from_timestamp_millis(ms).unwrap_or_default();
    at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

pub(super) fn commit_info(now: i64, id: &RunId) -> Action {
    let parameters = json!({"mode": "Append", "partitionBy": "[]"});
    Action {
        commit_info: Some(CommitInfo {
            timestamp: now,
            operation: "WRITE".into(),
            operation_parameters: parameters.as_object().cloned().unwrap_or_default(),
            engine_info: format!("echopilot/{}", env!("CARGO_PKG_VERSION")),
            txn_id: id.as_str().to_owned(),
        }),
        ..Action::default()
    }
}

/// The name of the type of a column.
fn type_name(of: &DataType) -> &'static str {
    match of {
        DataType::Int64 => "long",
        DataType::Float64 => "double",
        DataType::Boolean => "boolean",
        DataType::Date => "date",
        DataType::Datetime(..) => "timestamp",
        // No file of ours has another type.
        _ => "string",
    }
}

/// A random id of a table.
fn uuid() -> Result<String> {
    let mut random = [0; 16];
    getrandom::fill(&mut random)
        .map_err(|error| Error::io("name", Path::new("a table"))(std::io::Error::other(error)))?;
    Ok(uuid::Builder::from_random_bytes(random)
        .into_uuid()
        .to_string())
}
