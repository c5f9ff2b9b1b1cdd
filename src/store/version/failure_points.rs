//! Walks every failure point of every job: each change of a file, of its preparation and of its
//! commit, fails, alone or with all that follow. Queries return the state before or the state
//! after, also when the store is opened again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use chrono::{DateTime, NaiveTime, TimeDelta, Utc};
use chrono_tz::Tz;
use polars::prelude::BooleanChunked;

use super::{ALWAYS_US, Clock, ExpiryPolicy, VersionControl};
use crate::config::{Durability, NameLimits, StoreConfig};
use crate::daily::{Day, day_of};
use crate::error::{Error, Result};
use crate::event::{Event, EventType, Outcome};
use crate::progress::Progress;
use crate::schema;
use crate::store::files::faults::{self, Failing};
use crate::store::files::rotation::RotatedLog;
use crate::store::files::states::ZoneDay;
use crate::store::files::{columns, links, shape};
use crate::store::ingest::dedup::WINDOW_US;
use crate::store::jobs::renumber_users;
use crate::store::{CompactionScope, JoinedDay, Store, WriteBatch, files, write_lines};

impl VersionControl {
    /// True after a commit whose outcome is unknown.
    fn is_poisoned(&self) -> bool {
        self.poisoned.get().is_some()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Job {
    Seal,
    Load,
    Compact,
    Index,
    Expire,
    ExpireIds,
    Erase,
    Rebuild,
    BuildZone,
    Renumber,
    ReplaceDay,
}

/// The jobs, each with operations that must have failed once: in addition to the replacement of the
/// manifest, those before and after the commit.
const JOBS: [(Job, &[&str]); 11] = [
    (
        Job::Seal,
        &[
            "rename events/",
            "write states/",
            "create ids/",
            "write links/",
            "remove links/",
            "open users.ndjson",
            "remove states/",
            "remove sealing/",
        ],
    ),
    (
        Job::Load,
        &["rename events/", "write states/", "create ids/"],
    ),
    (
        Job::Compact,
        &["rename compacting/", "exchange events/", "sync events"],
    ),
    (Job::Index, &["rename columns/"]),
    (
        Job::Expire,
        &["rename .echopilot-tmp/dt=", "remove .echopilot-tmp/dt="],
    ),
    (
        Job::ExpireIds,
        &["rename users-1.ndjson", "remove users.ndjson"],
    ),
    (
        Job::Erase,
        &[
            "rename erasures.json",
            "write states/",
            "remove states/",
            "exchange events/",
            "remove compacting/",
            "rename users-1.ndjson",
        ],
    ),
    (Job::Rebuild, &["write states/", "remove states/"]),
    (Job::BuildZone, &["write states/"]),
    (
        Job::Renumber,
        &[
            "write states/",
            "write links/",
            "rename users-2.ndjson",
            "remove users-1.ndjson",
            "remove columns/",
        ],
    ),
    (
        Job::ReplaceDay,
        &["rename compacting/", "exchange events/", "write states/"],
    ),
];

/// Operations of every commit.
const COMMIT: [&str; 4] = [
    "write .echopilot-tmp/manifest.json",
    "rename manifest.json",
    "sync (root)",
    POISONED,
];

/// Noted in the list of operations if one poisoned the store.
const POISONED: &str = "poisoned";
const OLD_DAYS: i64 = 100;
const RETENTION: ExpiryPolicy = ExpiryPolicy {
    raw_days: 50,
    state_days: 365,
};

fn now() -> DateTime<Utc> {
    "2026-03-05T12:00:00Z".parse().expect("a time")
}

/// A zone in which the events of an hour in the middle of the day are of the next day.
const ZONE: Tz = Tz::Pacific__Auckland;

fn open(dir: &Path) -> Result<Store> {
    open_with(dir, &format!("UTC,{ZONE}"))
}

fn open_with(dir: &Path, zones: &str) -> Result<Store> {
    let config = StoreConfig {
        data_dir: dir.to_owned(),
        durability: Durability::Os,
        raw_retention_days: 90,
        rollup_retention_days: 365,
        rollup_at: NaiveTime::MIN,
        zones: zones.parse().expect("zones"),
        user_key_file: None,
        names: NameLimits::default(),
        limit_erasure_percent: 5,
        column_share: 60,
        limit_query_mib: 1_024,
    };
    Store::open(&config, "the test", now())
}

/// The users whose events are identity calls, with the ids that these name.
const ALIASES: [(&str, &str); 3] = [("zoe", "dora"), ("yan", "eve"), ("xena", "ben")];

/// An event of a user, some days ago.
fn event(user: &str, days: i64) -> Event<'_> {
    // One and the same day of UTC, and two days of the zone.
    let hours = if user == "anna" { 0 } else { 2 };
    let ts = now() - TimeDelta::days(days) - TimeDelta::hours(hours);
    let alias = ALIASES.iter().find(|(known, _)| *known == user);
    let (event_type, feature, metadata) = match alias {
        Some((_, alias)) => {
            let metadata = format!(r#"{{"previous_id":"{alias}"}}"#);
            (EventType::System, "identify", metadata)
        }
        None => (EventType::Action, "a feature", "{}".to_owned()),
    };
    Event {
        ts_us: ts.timestamp_micros(),
        event_type,
        user_id: Some(user.into()),
        feature: Some(feature.into()),
        metadata: metadata.into(),
        url: None,
        event_id: Some(format!("{user} {days}").into()),
        // Long enough ago that the day is quiet.
        received_at_us: (now() - TimeDelta::minutes(90)).timestamp_micros(),
    }
}

fn append(store: &Store, events: &[(&str, i64)]) -> Result<()> {
    let mut batch = WriteBatch::default();
    for (user, days) in events {
        store.batch_builder().push(&mut batch, &event(user, *days));
    }
    let reply = store.append(batch)?.blocking_recv();
    reply.expect("a reply").map(drop)
}

impl Job {
    /// Makes the folder that the job starts from.
    fn prepare(self, dir: &Path) -> Result<()> {
        let store = match self {
            Self::BuildZone => open_with(dir, "UTC")?,
            _ => open(dir)?,
        };
        append(&store, &[("anna", 1), ("ben", 1), ("carl", OLD_DAYS)])?;
        store.seal()?;
        append(&store, &[("dora", 1), ("anna", 2), ("ben", 2), ("zoe", 1)])?;
        store.seal()?;
        match self {
            Self::Seal => append(&store, &[("eve", 1), ("eve", 0), ("yan", 0)])?,
            Self::Index => store.compact_without_index(now())?,
            Self::Erase => {
                // The call of another user.
                append(&store, &[("xena", 1), ("xena", 2)])?;
                store.seal()?;
            }
            Self::ExpireIds | Self::Renumber => {
                if self == Self::Renumber {
                    // Most users are old ones, and the index has columns.
                    append(
                        &store,
                        &["f", "g", "h", "i", "j"].map(|user| (user, OLD_DAYS)),
                    )?;
                    append(&store, &[("last", 1)])?;
                    store.seal()?;
                    store.compact(now(), CompactionScope::Full)?;
                }
                let mut transaction = store.begin()?;
                let first = day_of(now().timestamp_micros()) - 50;
                let next = &mut transaction.next;
                next.segments.retain(|segment| segment.day() >= first);
                next.states.retain(|&day, _| day >= first);
                for zone in &mut next.zones {
                    zone.states.retain(|&day, _| day >= first);
                }
                transaction.commit(|_| {})?.removed?;
                if self == Self::Renumber {
                    store.expire_ids(1)?;
                }
            }
            Self::Rebuild => {
                // A state with another count than its segments.
                let mut transaction = store.begin()?;
                transaction.next.sequence += 1;
                let base = transaction.base();
                let days = [Tz::UTC, ZONE].into_iter().flat_map(|tz| {
                    let states = base.states_of(tz).expect("a zone").clone().into_iter();
                    states.map(move |(day, file)| (ZoneDay { tz, day }, file))
                });
                let mut days = days.collect::<Vec<_>>().into_iter();
                let names = store.names();
                transaction.write_states(names, |_| {
                    let Some((day, file)) = days.next() else {
                        return Ok(None);
                    };
                    let mut state = file.state(names)?;
                    state.merge(&file.state(names)?);
                    Ok(Some((day, state)))
                })?;
                transaction.commit(|_| {})?.removed?;
            }
            _ => {}
        }
        Ok(())
    }

    fn run(self, store: &Store) -> Result<()> {
        match self {
            Self::Seal => store.seal().map(drop),
            Self::Load => {
                let mut parts = vec![vec![1], vec![0]].into_iter();
                while store.load(
                    || Ok(parts.next()),
                    |days: Vec<u8>, part| {
                        for day in days {
                            part.push(&event("anna", i64::from(day) + 3));
                            part.push(&event("frank", i64::from(day)));
                        }
                        Ok(())
                    },
                    |(), _| {},
                )? {}
                Ok(())
            }
            Self::Compact => store.compact_without_index(now()),
            Self::Index => store.compact(now(), CompactionScope::Full),
            Self::Expire => store
                .expire(now().date_naive(), RETENTION, Clock::Confirmed)
                .map(drop),
            Self::ExpireIds => store.expire_ids(1).map(drop),
            Self::Erase => store
                .erase(&["ben".into()], Utc::now(), |_| Ok(()))
                .map(drop),
            Self::Rebuild => store.rebuild(&Progress::default()).map(drop),
            Self::BuildZone => store.build_zones(),
            Self::Renumber => renumber_users(&store.versions, &store.folder, store.names(), 0),
            Self::ReplaceDay => {
                let day = (now() - TimeDelta::days(1)).date_naive();
                let mut frames = store.sealed_events(day)?;
                for frame in &mut frames {
                    let users = frame.column(schema::USER_ID)?.str()?;
                    let others = users.iter().map(|user| Some(user != Some("dora")));
                    let others: BooleanChunked = others.collect();
                    *frame = frame.filter(&others)?;
                }
                store.replace_day(day, &JoinedDay::of(frames)?, "files".into())
            }
        }
    }

    /// Completes what a failed run began.
    fn run_again(self, store: &Store) -> Result<()> {
        if self == Self::Erase {
            store.finish_erasures(Utc::now(), |_| Ok(()))?;
        }
        self.run(store)
    }
}

/// Everything that queries return: events, and events and users of each day.
#[derive(Debug, PartialEq, Eq)]
struct Answers {
    events: Vec<String>,
    days: BTreeMap<Day, (u64, BTreeSet<String>)>,
    /// The same in the zone; none as long as its states do not include all events.
    days_of_zone: Option<BTreeMap<Day, (u64, BTreeSet<String>)>>,
    /// The users in the dictionary, where the job changes nothing else.
    users: Vec<bool>,
}

fn answers(store: &Store, job: Job) -> Result<Answers> {
    let mut lines = Vec::new();
    for events in store.whole(ALWAYS_US)? {
        write_lines(&events?.collect()?, &mut lines)?;
    }
    let lines = String::from_utf8(lines).expect("UTF-8");
    let mut events: Vec<String> = lines.lines().map(str::to_owned).collect();
    events.sort_unstable();
    let is_call = |line: &&String| line.contains("identify");
    for line in events.iter().filter(|line| !is_call(line)) {
        let event = crate::event::read_event(line.as_bytes()).expect("an event");
        let event = match event.validate(now().timestamp_micros(), 0) {
            Outcome::Accepted(event, _) => event,
            other => panic!("{line}: {other:?}"),
        };
        let key = store.ingest.maker.key(&event).expect("an id");
        let ids = store.ingest.recent.lock();
        assert!(
            ids.contains(key, event.received_at_us - WINDOW_US),
            "{line}"
        );
    }
    let names = store.names();
    let is_complete = store.has_states(ZONE, &(Day::MIN..Day::MAX));
    let users = ["anna", "ben", "carl"].map(|user| names.users.find(user).is_some());
    Ok(Answers {
        events,
        days: days(store, Tz::UTC)?,
        days_of_zone: is_complete.then(|| days(store, ZONE)).transpose()?,
        users: match job {
            Job::ExpireIds => users.to_vec(),
            _ => Vec::new(),
        },
    })
}

/// Events and users of each day of a zone.
fn days(store: &Store, tz: Tz) -> Result<BTreeMap<Day, (u64, BTreeSet<String>)>> {
    let names = store.names();
    let today = day_of(now().timestamp_micros());
    let mut days = BTreeMap::new();
    for parts in store.days(tz, &(today - 400..today + 2))? {
        let (count, users): &mut (u64, BTreeSet<String>) = days.entry(parts.day).or_default();
        for activity in parts.activities(names)? {
            *count += activity.events;
            let ids = activity
                .users
                .iter()
                .filter_map(|user| names.users.text(user));
            users.extend(ids);
        }
    }
    Ok(days)
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a writable folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let to = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(&path, &to).expect("a copy");
        }
    }
}

/// The files of an open store that neither its version nor its log explains.
fn unknown_files(store: &Store) -> Result<Vec<PathBuf>> {
    let root = store.folder.path();
    let version = store.versions.version();
    let mut known: BTreeSet<PathBuf> = version.segment_paths().into_iter().collect();
    known.extend(version.state_paths().iter().map(|path| root.join(path)));
    known.extend(
        version
            .links
            .meta
            .iter()
            .map(|links| root.join(&links.path)),
    );
    known.insert(links::table_path(root));
    let links = version.links.meta.iter();
    known.extend(links.map(|links| root.join(links.table())));
    let ids = version.event_ids.iter().flat_map(|ids| &ids.files);
    known.extend(ids.map(|file| root.join(&file.path)));
    known.extend(
        version
            .segments
            .iter()
            .map(|segment| columns::path_of(segment)),
    );
    let logs = RotatedLog::list(root)?.into_iter();
    known.extend(logs.filter_map(|log| {
        let waits = log.number > version.sealed_through;
        waits.then_some(log.path)
    }));
    let small = [
        ".echopilot",
        "holder",
        "erasures.json",
        shape::MANIFEST_FILE,
        shape::EVENT_LOG_FILE,
    ];
    known.extend(small.map(|name| root.join(name)));
    let mut unknown = Vec::new();
    let mut dictionaries = 0;
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for path in files::list(&dir)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() {
                dirs.push(path);
            } else if shape::is_dictionary(&name) {
                dictionaries += 1;
            } else if !known.contains(&path) {
                unknown.push(path);
            }
        }
    }
    assert!(dictionaries <= 1, "only one dictionary is live");
    Ok(unknown)
}

/// Lets each operation of a job fail. Returns the operations that failed first.
fn walk(job: Job) -> Result<BTreeSet<String>> {
    let origin = tempfile::tempdir().expect("a temporary folder");
    job.prepare(origin.path())?;
    let before = answers(&open(origin.path())?, job)?;
    let after = {
        let dir = tempfile::tempdir().expect("a temporary folder");
        copy(origin.path(), dir.path());
        let store = open(dir.path())?;
        job.run(&store)?;
        answers(&store, job)?
    };
    let is_visible = !matches!(job, Job::Seal | Job::Compact | Job::Index | Job::Renumber);
    assert_eq!(after != before, is_visible, "{job:?}");
    let mut failed = BTreeSet::new();
    for failing in [Failing::Once, Failing::FromThenOn] {
        for at in 0.. {
            let dir = tempfile::tempdir().expect("a temporary folder");
            copy(origin.path(), dir.path());
            let store = open(dir.path())?;
            let fault = faults::fail_at(dir.path(), at, failing);
            let result = job.run(&store);
            let seen = fault.seen();
            let Some(operation) = seen.get(at) else {
                result?;
                break;
            };
            let place = format!("{job:?}, {operation} (number {at}, {failing:?}): {result:?}");
            let is_one = |found: &Answers| *found == before || *found == after;
            let found = answers(&store, job)?;
            assert!(is_one(&found), "{place}: {found:?}");
            if result.is_ok() {
                assert_eq!(found, after, "{place}");
            }
            let is_poisoned = store.versions.is_poisoned();
            if is_poisoned {
                assert!(result.is_err(), "{place}");
                let begun = store.begin().map(drop);
                assert!(matches!(begun, Err(Error::Poisoned(_))), "{place}");
                failed.insert(POISONED.into());
            }
            drop(store);
            drop(fault);
            let store = open(dir.path())?;
            let reopened = answers(&store, job)?;
            if is_poisoned {
                assert!(is_one(&reopened), "{place}: {reopened:?}");
            } else {
                assert_eq!(reopened, found, "{place}");
            }
            assert_eq!(unknown_files(&store)?, Vec::<PathBuf>::new(), "{place}");
            job.run_again(&store)?;
            assert_eq!(answers(&store, job)?, after, "{place}");
            failed.insert(operation.clone());
        }
    }
    Ok(failed)
}

#[test]
fn a_failure_at_any_point_of_a_job_leaves_the_state_before_or_after() {
    std::thread::scope(|scope| {
        let walks = JOBS.map(|(job, operations)| {
            let walk =
                scope.spawn(move || walk(job).unwrap_or_else(|error| panic!("{job:?}: {error}")));
            (job, operations, walk)
        });
        for (job, operations, walk) in walks {
            let failed = walk
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            // Columns are in no manifest.
            let commit = COMMIT.iter().filter(|_| job != Job::Index);
            for expected in operations.iter().chain(commit) {
                let has_failed = failed.iter().any(|seen| seen.starts_with(expected));
                assert!(has_failed, "{job:?}: {expected:?} is not in {failed:#?}");
            }
        }
    });
}
