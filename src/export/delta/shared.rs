//! The table of the events of several servers. Each publishes the events that it has sealed under
//! its id, in files whose names begin with it; no event is published twice, whatever becomes of the
//! segments. Of a day that is over, one server joins the files of all ([`SharedTable::join_days`]).
//!
//! A commit succeeds only as the next version after the one that the server has read. If another
//! server was faster, its commit is read, and the changes are made again for the new version.
//! Nothing but the log decides what is in the table, so that no server trusts the clock, the lease
//! or the memory of another. So does the log say which servers were retired ([`super::retire`]):
//! their files belong to all others, and they commit nothing more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::NaiveDate;

use super::action::{Action, Add, Protocol, Remove, Strings, Txn};
use super::lease::Lease;
use super::log::{Commit, Snapshot, foreign, log_dir};
use super::members::{Members, last_commit, server_setting};
use super::table::{
    ATTEMPTS, DAY_COLUMN, DataFile, KEPT_AFTER_ERASURE_MS, KEPT_MS, Outcome, SHARED_SETTING,
    STORE_SETTING, columns, commit_info, data_files, new_add, new_metadata, rows_of,
};
use crate::config::ServerId;
use crate::error::{Error, ErrorCode, Result};
use crate::export::destination::{Destination, Local};
use crate::export::layout::{EVENTS_DIR, RunId};
use crate::schema;
use crate::store::{DayPart, JoinedDay, count_of, pipeline, read_day, rewrite_without};
use crate::window::DAY_US;

/// The folder of the table.
const DIR: &str = EVENTS_DIR;
/// The writer whose state is the number of the last lease under which days were joined.
const JOINS: &str = "echopilot.joins";
/// The name of a joined file, behind the id of the server that wrote it.
const JOINED: &str = "day";
/// Pause after a commit of another server; it grows with each of them.
const CONFLICT_PAUSE: Duration = Duration::from_millis(20);
/// Additional time after which a server deletes files that another one has removed, because that
/// one may have stopped: more than their clocks differ by.
const OTHERS_KEPT_MS: i64 = 10 * 60 * 1_000;
/// Files of a day that are joined although one of them was added a moment ago.
const MANY_FILES: usize = 64;
/// Rows that are joined at once: about a GB of memory.
const PART_ROWS: u64 = 2 << 20;

/// Events that a server has published, in the state of its writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Through(pub u64);

/// A sealed file of a server with the number of its events in the order of its log.
pub struct ServerFile<'a> {
    /// The file.
    pub file: DataFile<'a>,
    /// The number.
    pub number: u64,
}

/// The table as one of its servers uses it.
pub struct SharedTable {
    /// The id of this server.
    server: String,
    /// The id of its store.
    store: String,
    /// The newest version that was read.
    snapshot: Option<Snapshot>,
    /// Files that no commit names have been removed, of this server and of those that were retired,
    /// which were so many then.
    cleaned: Option<u64>,
    /// This server or its store was retired.
    is_retired: bool,
    lease: Option<Lease>,
    /// The times at which files of servers were seen first, by the clock of this one: that of
    /// another server may be ahead.
    seen: BTreeMap<String, i64>,
    /// Files that this process has removed from the table.
    removed_here: BTreeSet<String>,
}

impl SharedTable {
    /// The table as the server with this id and store uses it. Nothing is read yet.
    pub fn new(server: &str, store: &str) -> Self {
        Self {
            server: server.to_owned(),
            store: store.to_owned(),
            snapshot: None,
            cleaned: None,
            is_retired: false,
            lease: None,
            seen: BTreeMap::new(),
            removed_here: BTreeSet::new(),
        }
    }

    /// Reads the newest version and registers this server in a commit of its own, if it is new.
    /// Returns up to which number its events are published.
    ///
    /// # Errors
    /// As [`Snapshot::read`], and `bad_target` for a table of another kind or with other columns,
    /// for an id under which another store publishes, for a store that publishes under another id,
    /// and for a server that was retired; then nothing was written.
    pub fn open(&mut self, to: &Destination, now: i64) -> Result<Through> {
        let opened = self.try_open(to, now);
        if self.is_retired {
            // A commit that failed left files, in which no other server erases. If they cannot be
            // removed now, the next attempt or another server removes them.
            let _ = self.remove_left(to);
        }
        self.forget_if_failed(opened)
    }

    fn try_open(&mut self, to: &Destination, now: i64) -> Result<Through> {
        self.follow(to)?;
        let setting = server_setting(&self.server);
        let store = self.store.clone();
        self.commit(to, now, |snapshot| {
            let known = snapshot.metadata.as_ref();
            let is_known = |known: &Strings| known.get(&setting) == Some(&store);
            if known.is_some_and(|known| is_known(&known.configuration)) {
                return Ok(Vec::new());
            }
            let mut metadata = match known {
                Some(known) => known.clone(),
                None => new_metadata(DIR, now)?,
            };
            let days = vec![DAY_COLUMN.to_owned()];
            metadata.schema_string = columns(&schema::lake(), &days).to_string();
            metadata.partition_columns = days;
            let settings = &mut metadata.configuration;
            settings.insert(SHARED_SETTING.to_owned(), true.to_string());
            settings.insert(setting.clone(), store.clone());
            let protocol = snapshot.version.is_none().then(Protocol::ours);
            let protocol = protocol.map(Action::from);
            Ok(protocol.into_iter().chain([metadata.into()]).collect())
        })?;
        Ok(self.snapshot()?.through(&self.server))
    }

    /// Reads the commits since the last call, and checks the table.
    fn follow(&mut self, to: &Destination) -> Result<()> {
        match &mut self.snapshot {
            Some(snapshot) => snapshot.follow(to, DIR)?,
            None => {
                let snapshot = Snapshot::read(to, DIR)?;
                if snapshot.version.is_none() {
                    check_files(to)?;
                }
                self.snapshot = Some(snapshot);
            }
        }
        let snapshot = self.snapshot()?;
        check(to, snapshot)?;
        let servers = snapshot.servers();
        let retired = snapshot.retired();
        let shown = to.shown(&log_dir(DIR));
        if retired.contains_key(self.server.as_str())
            || retired.values().any(|store| *store == self.store)
        {
            let error = retired_error(&shown, &self.server);
            self.is_retired = true;
            return Err(error);
        }
        let own = servers.get(self.server.as_str());
        if own.is_some_and(|store| *store != self.store) {
            let what = format!(
                "is the log of a table to which another data folder publishes with --server-id {}",
                self.server
            );
            return Err(foreign(&shown, what));
        }
        let mut others = servers.iter().filter(|(server, _)| **server != self.server);
        match others.find(|(_, store)| **store == self.store) {
            Some((other, _)) => {
                let what = format!(
                    "is the log of a table to which this data folder publishes with --server-id {other}"
                );
                Err(foreign(&shown, what))
            }
            None => Ok(()),
        }
    }

    fn snapshot(&self) -> Result<&Snapshot> {
        let known = self.snapshot.as_ref();
        known.ok_or(Error::Busy("the table is being read"))
    }

    /// Up to which number the events of this server are published.
    ///
    /// # Errors
    /// If the table was not read.
    pub fn through(&self) -> Result<Through> {
        Ok(self.snapshot()?.through(&self.server))
    }

    /// The newest version that was read.
    pub fn version(&self) -> Option<u64> {
        self.snapshot.as_ref()?.version
    }

    /// The servers that have to apply an erasure, at the version that was read. After
    /// [`SharedTable::erase`] it is that of which the files were searched.
    ///
    /// # Errors
    /// If the table was not read.
    pub fn members(&self) -> Result<Members> {
        Ok(self.snapshot()?.members())
    }

    /// True once the log says that this server or its store was retired.
    pub fn is_retired(&self) -> bool {
        self.is_retired
    }

    /// After a failure, the outcome of a commit may not be known: the table is read again.
    fn forget_if_failed<T>(&mut self, done: Result<T>) -> Result<T> {
        if done.is_err() {
            self.snapshot = None;
            self.cleaned = None;
        }
        done
    }

    /// Commits the actions for the newest version, if there are any: for a later one if other
    /// servers commit meanwhile. Returns whether there were any.
    fn commit(
        &mut self,
        to: &Destination,
        now: i64,
        mut actions: impl FnMut(&Snapshot) -> Result<Vec<Action>>,
    ) -> Result<bool> {
        for attempt in 1..=ATTEMPTS {
            let changes = actions(self.snapshot()?)?;
            if changes.is_empty() {
                return Ok(false);
            }
            let id = RunId::new()?;
            let snapshot = self.snapshot.as_mut();
            let snapshot = snapshot.ok_or(Error::Busy("the table is being read"))?;
            let version = snapshot.version.map_or(0, |version| version + 1);
            let mut all = vec![commit_info(now, &id)];
            all.extend(changes);
            all.push(last_commit(&self.server, version, now).into());
            if snapshot.commit(to, DIR, id.as_str(), &all)? == Commit::Done {
                let removed = all.into_iter().filter_map(|action| action.remove);
                self.removed_here.extend(removed.map(|remove| remove.path));
                return Ok(true);
            }
            std::thread::sleep(CONFLICT_PAUSE.saturating_mul(attempt as u32));
            self.follow(to)?;
        }
        Err(Error::Busy("other servers of the table are faster"))
    }

    /// Adds the events of the files with greater numbers than those that are published, and removes
    /// files with days before `raw_from`, in one commit. [`SharedTable::open`] was called before.
    ///
    /// # Errors
    /// If a file cannot be read or written, and `bad_target` if another process publishes as this
    /// server; then the table is what it was, or has the new version, and the next call finds out.
    pub fn publish(
        &mut self,
        to: &Destination,
        files: &[ServerFile<'_>],
        raw_from: Option<NaiveDate>,
        now: i64,
    ) -> Result<Outcome> {
        let published = self.try_publish(to, files, raw_from, now);
        self.forget_if_failed(published)
    }

    fn try_publish(
        &mut self,
        to: &Destination,
        files: &[ServerFile<'_>],
        raw_from: Option<NaiveDate>,
        now: i64,
    ) -> Result<Outcome> {
        // The files first, then the log, which names those that are committed in between.
        let left = match self.is_clean() {
            true => None,
            false => Some(to.list(DIR)?),
        };
        self.follow(to)?;
        let before = self.snapshot()?.through(&self.server);
        let new = files.iter().filter(|file| Through(file.number) > before);
        let new: Vec<&ServerFile<'_>> = new.collect();
        let through = new.iter().map(|file| Through(file.number)).max();
        let through = through.unwrap_or(before);
        let written = match left {
            Some(left) => self.clean(to, left, &new)?,
            None => BTreeMap::new(),
        };
        let adds = self.write(to, &new, written, now)?;
        let mut outcome = Outcome {
            added: adds.len(),
            rows: new.iter().map(|file| file.file.rows).sum(),
            bytes: adds.iter().map(|add| add.size).sum(),
            ..Outcome::default()
        };
        let server = self.server.clone();
        self.commit(to, now, |snapshot| {
            if snapshot.through(&server) != before {
                let what = format!("has events that another process publishes as {server}");
                return Err(foreign(&to.shown(&log_dir(DIR)), what));
            }
            let expired = snapshot.live.values().filter(|add| {
                let parsed = parse(&add.path);
                parsed.is_some_and(|file| {
                    let is_ours = snapshot.is_of(&file, &server);
                    is_ours && raw_from.is_some_and(|raw_from| file.day < raw_from)
                })
            });
            let expired = expired.map(|add| removal(add, now, KEPT_AFTER_ERASURE_MS));
            let mut actions: Vec<Action> = expired.collect();
            outcome.removed = actions.len();
            if actions.is_empty() && adds.is_empty() {
                return Ok(actions);
            }
            actions.push(Action::from(Txn {
                app_id: app_id(&server),
                version: through.0,
                last_updated: Some(now),
            }));
            actions.extend(adds.iter().cloned().map(Action::from));
            Ok(actions)
        })?;
        outcome.version = self.version();
        Ok(outcome)
    }

    /// True if no file is left that [`SharedTable::clean`] removes.
    fn is_clean(&self) -> bool {
        let retired = self.snapshot.as_ref().map(|known| known.members().retired);
        self.cleaned.is_some() && self.cleaned == retired
    }

    /// Removes the files of this server and of retired ones that no commit names, if that was not
    /// done: they may have events of users who are erased now.
    ///
    /// # Errors
    /// If the destination cannot be read or a file not be removed.
    pub fn remove_left(&mut self, to: &Destination) -> Result<()> {
        if self.is_clean() {
            return Ok(());
        }
        let left = to.list(DIR)?;
        match self.follow(to) {
            Err(error) if !self.is_retired => Err(error),
            _ => self.clean(to, left, &[]).map(drop),
        }
    }

    /// The same for files that were listed before the log was read. Returns those of an interrupted
    /// publication that this one needs, by day and name.
    fn clean(
        &mut self,
        to: &Destination,
        found: BTreeMap<String, u64>,
        new: &[&ServerFile<'_>],
    ) -> Result<BTreeMap<(NaiveDate, String), (String, u64)>> {
        let mut needed = BTreeMap::new();
        let snapshot = self.snapshot()?;
        let retired = snapshot.retired();
        let own = snapshot.servers().remove(self.server.as_str());
        let prefix = DIR.len() + 1;
        for (path, bytes) in found {
            let inside = path.get(prefix..).unwrap_or_default();
            let is_named =
                snapshot.live.contains_key(inside) || snapshot.removed.contains_key(inside);
            // No commit of a retired server can name them any more. Of another store's server, one
            // may be about to.
            let is_left = |file: &Parsed<'_>| {
                let is_own = file.server == self.server && own == Some(self.store.as_str());
                !is_named && (is_own || retired.contains_key(file.server))
            };
            let Some(file) = parse(inside).filter(is_left) else {
                continue;
            };
            let is_needed = new.iter().any(|ServerFile { file: wanted, .. }| {
                file.server == self.server
                    && wanted.day == Some(file.day)
                    && wanted.name == file.name
                    && wanted.bytes == Some(bytes)
            });
            let key = (file.day, file.name.to_owned());
            if is_needed && !needed.contains_key(&key) {
                needed.insert(key, (inside.to_owned(), bytes));
            } else {
                to.remove(&path)?;
            }
        }
        self.cleaned = Some(retired.len() as u64);
        Ok(needed)
    }

    /// Writes the new files, except for those that were written before.
    fn write(
        &self,
        to: &Destination,
        new: &[&ServerFile<'_>],
        mut written: BTreeMap<(NaiveDate, String), (String, u64)>,
        now: i64,
    ) -> Result<Vec<Add>> {
        let run = RunId::new()?;
        let mut adds = Vec::with_capacity(new.len());
        let mut names = Vec::new();
        let mut to_write = Vec::new();
        for ServerFile { file, .. } in new {
            let Some(day) = file.day else {
                continue;
            };
            let add = |path, size| new_add(path, size, now, Some(day), file.rows, file.span_us);
            match written.remove(&(day, file.name.clone())) {
                Some((path, bytes)) => adds.push(add(path, bytes)),
                None => to_write.push((file, day)),
            }
        }
        let mut waiting = to_write.into_iter();
        pipeline::ordered(
            || Ok(waiting.next()),
            |(file, day): (&DataFile<'_>, NaiveDate)| {
                let path = path(&self.server, day, &file.name, &run);
                let meta = to.add(&format!("{DIR}/{path}"), |temp| (file.write)(temp))?;
                let span = file.span_us;
                Ok(new_add(path, meta.bytes, now, Some(day), meta.rows, span))
            },
            |add: Result<Add>| {
                let add = add?;
                names.push(format!("{DIR}/{}", add.path));
                adds.push(add);
                Ok(())
            },
        )?;
        to.sync_added(&names)?;
        Ok(adds)
    }

    /// Removes the events of some users from the files of this server and from those that belong to
    /// no server, which are joined or of a retired one, in one commit.
    ///
    /// # Errors
    /// If a file cannot be read or written; then the table is what it was, or has the new version.
    pub fn erase(&mut self, to: &Destination, users: &[&str], now: i64) -> Result<Outcome> {
        let erased = self.try_erase(to, users, now);
        self.forget_if_failed(erased)
    }

    fn try_erase(&mut self, to: &Destination, users: &[&str], now: i64) -> Result<Outcome> {
        self.follow(to)?;
        let mut outcome = Outcome::default();
        let run = RunId::new()?;
        let mut searched: BTreeMap<String, Searched> = BTreeMap::new();
        for _ in 0..ATTEMPTS {
            let snapshot = self.snapshot()?;
            let unknown = snapshot.live.values().filter(|add| {
                let is_ours = |file: Parsed<'_>| snapshot.is_of(&file, &self.server);
                parse(&add.path).is_some_and(is_ours) && !searched.contains_key(&add.path)
            });
            let unknown: Vec<Add> = unknown.cloned().collect();
            for add in unknown {
                let found = self.search(to, &add, users, &run, now)?;
                if let Searched::Replaced(new) = &found {
                    searched.insert(new.path.clone(), Searched::Nothing);
                }
                searched.insert(add.path, found);
            }
            let version = self.version();
            let mut is_newest = false;
            self.commit(to, now, |snapshot| {
                // Files that another server has joined meanwhile are searched first.
                is_newest = snapshot.version == version;
                let mut actions = Vec::new();
                (outcome.added, outcome.removed) = (0, 0);
                for (path, found) in searched.iter().filter(|_| is_newest) {
                    let Some(old) = snapshot.live.get(path) else {
                        continue;
                    };
                    if let Searched::Nothing = found {
                        continue;
                    }
                    actions.push(removal(old, now, KEPT_AFTER_ERASURE_MS));
                    outcome.removed += 1;
                    if let Searched::Replaced(new) = found {
                        actions.push(new.clone().into());
                        outcome.added += 1;
                    }
                }
                Ok(actions)
            })?;
            if is_newest {
                // Another server was faster with a joined file.
                for found in searched.values() {
                    if let Searched::Replaced(new) = found
                        && !self.snapshot()?.live.contains_key(&new.path)
                    {
                        to.remove(&format!("{DIR}/{}", new.path))?;
                    }
                }
                outcome.version = self.version();
                let is_changed = outcome.removed > 0;
                outcome.erased_go_at = is_changed.then_some(now + KEPT_AFTER_ERASURE_MS);
                return Ok(outcome);
            }
        }
        Err(Error::Busy("other servers of the table are faster"))
    }

    /// Searches a file for events of some users, and writes it without them.
    fn search(
        &self,
        to: &Destination,
        add: &Add,
        users: &[&str],
        run: &RunId,
        now: i64,
    ) -> Result<Searched> {
        let old = copy(to, add)?;
        let theirs = count_of(old.path(), users)?;
        if theirs == 0 {
            return Ok(Searched::Nothing);
        }
        let (true, Some(file)) = (theirs < rows_of(add), parse(&add.path)) else {
            return Ok(Searched::All);
        };
        let path = path(&self.server, file.day, file.name, run);
        let name = format!("{DIR}/{path}");
        let written = to.add(&name, |temp| rewrite_without(old.path(), temp, users))?;
        to.sync_added(&[name])?;
        let Some(meta) = written else {
            return Ok(Searched::Nothing);
        };
        let mut new = new_add(path, meta.bytes, now, Some(file.day), meta.rows, None);
        new.stats = add
            .stats
            .as_deref()
            .map(|stats| with_rows(stats, meta.rows));
        Ok(Searched::Replaced(new))
    }

    /// Joins the files of each day that is over and has files of servers, for which no file was
    /// added for a while, if this server gets the lease. Returns the number of days.
    ///
    /// # Errors
    /// If a file cannot be read or written; then the days that are done stay so.
    pub fn join_days(
        &mut self,
        to: &Destination,
        quiet_ms: i64,
        now: impl Fn() -> i64,
    ) -> Result<usize> {
        let joined = self.try_join_days(to, quiet_ms, &now);
        self.forget_if_failed(joined)
    }

    fn try_join_days(
        &mut self,
        to: &Destination,
        quiet_ms: i64,
        now: &impl Fn() -> i64,
    ) -> Result<usize> {
        let due = self.due_days(now(), quiet_ms)?;
        let mut joined = 0;
        for day in due {
            self.lease = Lease::take(to, DIR, &self.server, self.lease, now())?;
            let Some(lease) = self.lease else {
                break;
            };
            self.follow(to)?;
            if self.due_days(now(), quiet_ms)?.contains(&day) {
                joined += usize::from(self.join_day(to, day, lease, now())?);
            }
        }
        Ok(joined)
    }

    /// The days that are over and have several files, one of which is of a server, if no file was
    /// added a moment ago. Times are in ms.
    fn due_days(&mut self, now: i64, quiet_ms: i64) -> Result<Vec<NaiveDate>> {
        #[derive(Default)]
        struct Files {
            count: usize,
            of_servers: usize,
            newest: i64,
        }
        let before = std::mem::take(&mut self.seen);
        let mut seen = BTreeMap::new();
        let mut days: BTreeMap<NaiveDate, Files> = BTreeMap::new();
        for add in self.snapshot()?.live.values() {
            let Some(file) = parse(&add.path) else {
                continue;
            };
            let of_day = days.entry(file.day).or_default();
            of_day.count += 1;
            if !file.is_joined() {
                let seen_at = before.get(&add.path).copied().unwrap_or(now);
                seen.insert(add.path.clone(), seen_at);
                of_day.of_servers += 1;
                of_day.newest = of_day.newest.max(seen_at.min(add.modification_time));
            }
        }
        self.seen = seen;
        let is_due = |(day, files): &(NaiveDate, Files)| {
            let end = (i64::from(day.to_epoch_days()) + 1) * (DAY_US / 1_000);
            let is_quiet = files.newest + quiet_ms <= now || files.count >= MANY_FILES;
            end + quiet_ms <= now && files.count > 1 && files.of_servers > 0 && is_quiet
        };
        let due = days.into_iter().filter(is_due);
        Ok(due.map(|(day, _)| day).collect())
    }

    /// Replaces the files of a day by those with the events of all of them, each once. False if
    /// another server has changed the day meanwhile.
    fn join_day(
        &mut self,
        to: &Destination,
        day: NaiveDate,
        lease: Lease,
        now: i64,
    ) -> Result<bool> {
        let inputs = days_of(self.snapshot()?).remove(&day).unwrap_or_default();
        let copies: Vec<Local> = inputs
            .iter()
            .map(|add| copy(to, add))
            .collect::<Result<_>>()?;
        let rows: u64 = inputs.iter().map(rows_of).sum();
        let parts = rows.div_ceil(PART_ROWS).max(1);
        let run = RunId::new()?;
        let (mut adds, mut names) = (Vec::new(), Vec::new());
        for part in 0..parts {
            let mut frames = Vec::with_capacity(copies.len());
            for copy in &copies {
                let part = DayPart { part, parts };
                frames.push(read_day(copy.path(), day, part)?);
            }
            let joined = JoinedDay::of(frames)?;
            if joined.rows() == 0 {
                continue;
            }
            let path = path(&self.server, day, &format!("{JOINED}-{part:04}"), &run);
            let name = format!("{DIR}/{path}");
            let meta = to.add(&name, |temp| joined.write(temp))?;
            let span = joined.span_us()?;
            adds.push(new_add(path, meta.bytes, now, Some(day), meta.rows, span));
            names.push(name);
        }
        drop(copies);
        to.sync_added(&names)?;
        let is_done = self.commit(to, now, |snapshot| {
            let fence = snapshot.txns.get(JOINS).map_or(0, |txn| txn.version);
            let has = |add: &Add| snapshot.live.contains_key(&add.path);
            if fence > lease.number || !inputs.iter().all(has) {
                return Ok(Vec::new());
            }
            let fence = Txn {
                app_id: JOINS.to_owned(),
                version: lease.number,
                last_updated: Some(now),
            };
            let mut actions = vec![Action::from(fence)];
            actions.extend(inputs.iter().map(|add| {
                let delete_at = now + KEPT_MS;
                Action::from(Remove::of(add, now, delete_at, false))
            }));
            actions.extend(adds.iter().cloned().map(Action::from));
            Ok(actions)
        })?;
        if !is_done {
            names.iter().try_for_each(|name| to.remove(name))?;
        }
        Ok(is_done)
    }

    /// Deletes the files whose time has come, and writes a checkpoint if one is due.
    ///
    /// # Errors
    /// If a file cannot be written or removed; the next call continues.
    pub fn tidy(&mut self, to: &Destination, now: i64) -> Result<()> {
        let due: Vec<String> = self
            .deletions()
            .filter(|(_, at)| *at <= now)
            .map(|(path, _)| path.to_owned())
            .collect();
        let Some(snapshot) = &mut self.snapshot else {
            return Ok(());
        };
        for path in &due {
            to.remove(&format!("{DIR}/{path}"))?;
            snapshot.removed.remove(path);
            self.removed_here.remove(path);
        }
        if !due.is_empty() {
            to.remove_empty(DIR)?;
        }
        snapshot.checkpoint(to, DIR)
    }

    /// Time at which the next removed file is deleted, in ms since 1970.
    pub fn next_deletion(&self) -> Option<i64> {
        self.deletions().map(|(_, at)| at).min()
    }

    /// The removed files with the times at which this server deletes them.
    fn deletions(&self) -> impl Iterator<Item = (&str, i64)> {
        let removed = self.snapshot.iter().flat_map(Snapshot::deletions);
        removed.map(move |(path, at)| match self.removed_here.contains(path) {
            true => (path, at),
            false => (path, at + OTHERS_KEPT_MS),
        })
    }
}

/// The events of some users in a file.
enum Searched {
    /// It has none of theirs.
    Nothing,
    /// It has no others.
    All,
    /// It was written again without theirs.
    Replaced(Add),
}

impl Snapshot {
    /// Up to which number the events of a server are published.
    fn through(&self, server: &str) -> Through {
        let txn = self.txns.get(&app_id(server));
        Through(txn.map_or(0, |txn| txn.version))
    }

    /// True for a file in which a server erases: its own, and every file that belongs to no server.
    fn is_of(&self, file: &Parsed<'_>, server: &str) -> bool {
        file.is_joined() || file.server == server || !self.has_server(file.server)
    }
}

fn app_id(server: &str) -> String {
    format!("echopilot-{server}")
}

/// The error for a server that was retired.
fn retired_error(log: &str, server: &str) -> Error {
    let message = format!(
        "{log} is the log of a table from which the server {server:?} or its data folder was retired; nothing is \
         published any more, and what was published stays in the table. Start it with an empty data folder and a new \
         --server-id"
    );
    Error::bad_input(ErrorCode::BadTarget, message)
}

fn removal(add: &Add, now: i64, kept_ms: i64) -> Action {
    Remove::of(add, now, now + kept_ms, true).into()
}

/// Rejects a table that is not a shared one of this program.
///
/// # Errors
/// `bad_target` for any other table.
pub fn check(to: &Destination, snapshot: &Snapshot) -> Result<()> {
    let Some(version) = snapshot.version else {
        return Ok(());
    };
    let shown = to.shown(&log_dir(DIR));
    let foreign = |what: &str| Err(foreign(&shown, format!("(version {version}) {what}")));
    let Some(metadata) = &snapshot.metadata else {
        return foreign("does not describe its table");
    };
    let settings = &metadata.configuration;
    if settings.contains_key(STORE_SETTING) {
        return foreign("is the log of a table of one server, which publishes without --server-id");
    }
    if !settings.contains_key(SHARED_SETTING) {
        return foreign("is the log of a table of another program");
    }
    let days = vec![DAY_COLUMN.to_owned()];
    let known: serde_json::Value =
        serde_json::from_str(&metadata.schema_string).unwrap_or_default();
    if known != columns(&schema::lake(), &days) || metadata.partition_columns != days {
        return foreign("is the log of a table with other columns");
    }
    let mut paths = snapshot.live.keys().chain(snapshot.removed.keys());
    match paths.find(|path| parse(path).is_none()) {
        Some(path) => foreign(&format!("names {path:?}, which no server writes")),
        None => Ok(()),
    }
}

/// Rejects a table whose events a server cannot read: it may be that of one server.
///
/// # Errors
/// `bad_target` for a table of another program.
pub fn check_readable(to: &Destination, snapshot: &Snapshot) -> Result<()> {
    let settings = snapshot.metadata.as_ref().map(|known| &known.configuration);
    let is_of_one = settings.is_some_and(|known| known.contains_key(STORE_SETTING));
    if !is_of_one {
        return check(to, snapshot);
    }
    match snapshot.live.keys().find(|path| parse(path).is_none()) {
        Some(path) => {
            let what = format!("names {path:?}, which no server writes");
            Err(foreign(&to.shown(&log_dir(DIR)), what))
        }
        None => Ok(()),
    }
}

/// Rejects a folder of another program that has no log.
fn check_files(to: &Destination) -> Result<()> {
    match data_files(to, DIR)?
        .into_iter()
        .find(|path| parse(path).is_none())
    {
        Some(path) => {
            let shown = to.shown(&format!("{DIR}/{path}"));
            let what = "is in the folder of the table and was not written by a server";
            Err(foreign(&shown, what))
        }
        None => Ok(()),
    }
}

/// The path of a new file in the folder of the table.
fn path(server: &str, day: NaiveDate, name: &str, run: &RunId) -> String {
    format!(
        "{DAY_COLUMN}={day}/{server}-{name}-{}.parquet",
        run.as_str()
    )
}

/// The parts of the path of a file.
struct Parsed<'p> {
    day: NaiveDate,
    /// The server that wrote it.
    server: &'p str,
    name: &'p str,
}

impl Parsed<'_> {
    /// True if it has the events of all servers.
    fn is_joined(&self) -> bool {
        self.name.starts_with(JOINED)
    }
}

/// The parts of the path of a file that a server writes; `None` for any other path.
fn parse(path: &str) -> Option<Parsed<'_>> {
    let (folder, file) = path.split_once('/')?;
    let date = folder.strip_prefix(DAY_COLUMN)?.strip_prefix('=')?;
    let day = NaiveDate::parse_from_str(date, "%Y-%m-%d").ok()?;
    let (rest, run) = file.strip_suffix(".parquet")?.rsplit_once('-')?;
    let (server, name) = rest.split_once('-')?;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let is_ours = day.to_string() == date
        && RunId::parse(run).is_some()
        && ServerId::is_valid(server)
        && name.bytes().all(is_name);
    is_ours.then_some(Parsed { day, server, name })
}

/// The files of each day, in the order of their events: by server, and in the order of its log;
/// joined ones first.
pub fn days_of(snapshot: &Snapshot) -> BTreeMap<NaiveDate, Vec<Add>> {
    let mut days: BTreeMap<NaiveDate, Vec<_>> = BTreeMap::new();
    for add in snapshot.live.values() {
        if let Some(file) = parse(&add.path) {
            let order = (!file.is_joined(), file.server, file.name);
            days.entry(file.day).or_default().push((order, add));
        }
    }
    let in_order = days.into_iter().map(|(day, mut files)| {
        files.sort_by_key(|(order, _)| *order);
        let files = files.into_iter().map(|(_, add)| add.clone());
        (day, files.collect())
    });
    in_order.collect()
}

/// The number of files of a table that a server has written and that are not joined.
pub fn files_of(snapshot: &Snapshot, server: &str) -> usize {
    let parsed = snapshot.live.keys().filter_map(|path| parse(path));
    parsed
        .filter(|file| !file.is_joined() && file.server == server)
        .count()
}

/// A file of the table on this machine, of the length that the log says.
///
/// # Errors
/// If it cannot be read, and [`Error::Damaged`] if its length is another one.
pub fn copy(to: &Destination, add: &Add) -> Result<Local> {
    let name = format!("{DIR}/{}", add.path);
    let local = to.local(&name)?;
    let found = std::fs::metadata(local.path()).map_err(Error::io("inspect", local.path()))?;
    if found.len() != add.size {
        return Err(Error::Damaged {
            file: to.shown(&name).into(),
            message: format!(
                "it has {} bytes, and the log says {}",
                found.len(),
                add.size
            ),
        });
    }
    Ok(local)
}

/// The statistics of a file with another number of rows.
fn with_rows(stats: &str, rows: u64) -> String {
    let mut stats: serde_json::Value = serde_json::from_str(stats).unwrap_or_default();
    if let Some(stats) = stats.as_object_mut() {
        stats.insert("numRecords".into(), rows.into());
    }
    stats.to_string()
}
