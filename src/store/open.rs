//! Opening a data folder: lock, manifest, unfinished rotation and day exchange, leftovers,
//! dictionary, recent ids, log recovery, writer.

use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, Utc};
use tracing::warn;

use super::Store;
use super::clock::TrustedClock;
use super::ingest::{Ingest, MAX_TAIL_EVENTS};
use super::jobs::{self, Jobs};
use super::lock::{Ordered, Rank};
use super::read::Reader;
use super::version::{Manifest, Version, VersionControl};
use crate::config::StoreConfig;
use crate::daily::OtherZones;
use crate::dictionary::Dictionaries;
use crate::digest::Digester;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::monitoring::Monitoring;
use crate::store::files;
use crate::store::files::folder::{Access, Folder, Purpose};
use crate::store::files::links::OldTables;
use crate::store::files::recovery::{self, Recovered};
use crate::store::files::rotation::{RotatedLog, WaitingLogs, id_of};
use crate::store::files::segment;
use crate::store::files::shape::{EVENT_LOG_FILE, MANIFEST_FILE};
use crate::store::files::{columns, day_folder, dictionary, event_ids, links, states};
use crate::store::held::HeldEvents;
use crate::store::ingest::admission::{Admission, RestCounts};
use crate::store::ingest::batch::{BatchBuilder, WriteBatch};
use crate::store::ingest::dedup::{RecentIds, SharedIds};
use crate::store::ingest::event_log::EventLog;
use crate::store::ingest::live::Live;
use crate::store::ingest::pseudonym;
use crate::store::ingest::statements::RecentStatements;
use crate::store::ingest::writer::{Writer, WriterHandle};
use crate::store::version::row::Row;
use crate::store::version::tail::LogPart;

/// Opens a data folder.
///
/// # Errors
/// As [`Store::open_for`].
pub fn open(
    config: &StoreConfig,
    lock_owner: &str,
    purpose: Purpose,
    now: DateTime<Utc>,
) -> Result<Store> {
    let pseudonyms = pseudonym::check_and_load(config)?;
    let folder = Folder::open(&config.data_dir, lock_owner, purpose)?;
    let is_writable = folder.access() == Access::ReadWrite;
    let manifest = Manifest::load(folder.path())?;
    pseudonym::check(&manifest, pseudonyms.as_ref(), folder.path())?;
    let mut version = Version::of(folder.path(), manifest);
    version.load_links(folder.path())?;
    if is_writable {
        RotatedLog::finish_rotation(folder.path(), version.sequence)?;
        day_folder::finish(&folder, &version.by_day())?;
        remove_leftovers(&folder, &version)?;
    }
    let names = Dictionaries::new()?;
    dictionary::load(folder.path(), version.dictionary, &names.users)?;
    if is_writable {
        dictionary::remove_others(&folder, version.dictionary)?;
    }
    let erased = jobs::load_erased_users(&folder, &version, &names)?;
    let maker = BatchBuilder {
        names: names.clone(),
        keys: match &version.event_ids {
            Some(ids) => Digester::with_seed(ids.seed),
            None => Digester::new(),
        },
        gate: erased.clone(),
        pseudonyms,
    };
    let zones = all_zones(config, &version);
    let versions = VersionControl::new(version, &names, erased.clone(), zones);
    let versions = Arc::new(versions);
    jobs::add_missing_states(&versions, &folder, &names, config.names.features)?;
    if is_writable {
        commit_user_key(&versions, &folder, &maker)?;
        if let Err(error) = jobs::add_missing_links(&versions, &folder, &names, &erased) {
            warn!("Users with several ids count once for each until the next start: {error}");
        }
        match jobs::add_zones(&versions, &folder) {
            // Users whose erasure is in progress have codes in memory.
            Ok(()) if !erased.has_pending() => renumber_users(&versions, &folder, &names)?,
            Ok(()) => {}
            Err(error) => {
                warn!("Queries in new reporting zones read events until the next start: {error}");
            }
        }
    }
    let version = versions.version();
    let received = version.segment_metas();
    let newest_us = received.map(|meta| meta.last_received_at_us).max();
    let clock = TrustedClock::new(version.clock, version.expiry, newest_us);
    let mut recent = jobs::open_event_ids(&versions, &folder, &maker, &clock)?;
    let admission = Admission::new(&maker, config.names, version.new_users);
    let recovered = Recovery {
        folder: &folder,
        versions: &versions,
        maker: &maker,
        clock: &clock,
        admission: &admission,
        recent: &mut recent,
    }
    .run(now)?;
    let log_path = folder.path().join(EVENT_LOG_FILE);
    let log = match folder.access() {
        Access::ReadWrite => EventLog::open(&log_path, config.durability)?,
        Access::ReadOnly => EventLog::open_to_read(&log_path)?,
    };
    let has_events = versions.published().tail.len() > 0;
    let waiting = WaitingLogs::found(folder.path(), has_events)?;
    {
        let mut published = versions.published();
        published.log_bytes = log.length();
        published.log_since = has_events.then(Instant::now);
        published.waiting = waiting;
    }
    let held = HeldEvents::open(&folder, &maker, &recent, config.durability, now)?;
    let live = Arc::new(Live::default());
    let monitoring = Arc::new(Monitoring::default());
    let recent = SharedIds::new(recent);
    let writer = WriterHandle::start(Writer {
        log,
        recent: recent.clone(),
        admission: admission.clone(),
        gate: erased,
        versions: versions.clone(),
        live: live.clone(),
        monitoring: monitoring.clone(),
    })?;
    Ok(Store {
        ingest: Ingest {
            writer,
            live,
            maker,
            recent,
            statements: Arc::new(Ordered::new(Rank::Leaf, RecentStatements::default())),
            admission,
            clock,
            max_tail_events: MAX_TAIL_EVENTS,
        },
        held,
        reader: Reader::new(versions.clone(), names),
        versions,
        jobs: Jobs::new(config.column_share),
        folder,
        recovered,
        monitoring,
    })
}

/// The reporting zones other than UTC: those of the settings, and those that a folder has states
/// of, whose states every process keeps up to date.
fn all_zones(config: &StoreConfig, version: &Version) -> OtherZones {
    let mut zones = config.zones.others();
    for zone in &version.zones {
        if !zones.contains(&zone.tz) {
            zones.push(zone.tz);
        }
    }
    zones.into()
}

/// Assigns the codes of users again, if most are free. If that is not possible, the codes stay.
fn renumber_users(versions: &VersionControl, folder: &Folder, names: &Dictionaries) -> Result<()> {
    let dictionary = versions.version().dictionary;
    match jobs::renumber_users(versions, folder, names, jobs::MIN_FREE) {
        Err(error) if versions.version().dictionary == dictionary => {
            warn!("The codes of users stay as they are until the next start: {error}");
            Ok(())
        }
        renumbered => renumbered,
    }
}

/// Commits the fingerprint of the pseudonym key before the first event is stored under it.
fn commit_user_key(versions: &VersionControl, folder: &Folder, maker: &BatchBuilder) -> Result<()> {
    let Some(pseudonyms) = &maker.pseudonyms else {
        return Ok(());
    };
    let mut transaction = versions.begin(folder)?;
    if transaction.base().user_key.is_none() {
        transaction.next.user_key = Some(pseudonyms.fingerprint());
        // Their digests are of clear ids.
        transaction.next.event_ids = None;
        transaction.commit(|_| {})?.removed?;
    }
    Ok(())
}

/// Removes the files that an interrupted seal, compaction or expiry left in the lake and among the
/// states.
///
/// # Errors
/// [`Error::Damaged`] for a lake that is newer than its manifest, as after a restore that forgot
/// the manifest: its events would be invisible.
fn remove_leftovers(folder: &Folder, version: &Version) -> Result<()> {
    let waiting = RotatedLog::list(folder.path())?;
    let live = version.segment_paths();
    for path in segment::files(folder.path())? {
        if live.contains(&path) {
            continue;
        }
        let Some(number) = segment::number_of(&path) else {
            continue;
        };
        // The log of an unfinished seal is still in the folder, and will be sealed again.
        if number > version.sequence && !waiting.iter().any(|log| log.number == number) {
            return Err(Error::Damaged {
                file: folder.path().join(MANIFEST_FILE),
                message: format!(
                    "{} is not in it and is newer; restore the manifest that belongs to it",
                    path.display()
                ),
            });
        }
        files::remove(&path)?;
    }
    segment::remove_empty_days(folder.path(), &live)?;
    RotatedLog::remove_through(folder.path(), version.sealed_through)?;
    let live: Vec<_> = version.segment_metas().cloned().collect();
    event_ids::remove_others(folder, version.event_ids.as_ref())?;
    let links = version.links.meta.as_ref();
    links::remove_others(folder, links)?;
    links::remove_old_tables(folder, links, OldTables::All)?;
    columns::remove_others(folder, &live)?;
    states::remove_others(folder, &version.state_paths())
}

/// Reads the logs back into memory.
struct Recovery<'a> {
    folder: &'a Folder,
    versions: &'a VersionControl,
    maker: &'a BatchBuilder,
    clock: &'a TrustedClock,
    admission: &'a Admission,
    recent: &'a mut RecentIds,
}

impl Recovery<'_> {
    fn run(self, now: DateTime<Utc>) -> Result<Recovered> {
        let Self {
            folder,
            versions,
            maker,
            clock,
            admission,
            recent,
        } = self;
        let version = versions.version();
        let names = admission.names();
        let named = |day| version.named_features(day, names);
        let mut recovered = Recovered::default();
        for path in recovery::logs_to_read(folder, version.sealed_through)? {
            let file = Arc::new(files::open(&path)?);
            let add = |batch: &mut WriteBatch, event: &Event<'_>| maker.push_stored(batch, event);
            let found = recovery::recover(folder, &path, now, add, |batch, bytes| {
                clock.note(batch.rows.iter().map(|row| row.received_at_us));
                let mut admitted = admission.lock();
                let rows: Vec<Row> = batch
                    .rows
                    .iter()
                    .map(|row| {
                        if let Some(key) = row.key {
                            recent.restore(key, row.received_at_us);
                        }
                        let mut rest = RestCounts::default();
                        admission.admit(&mut admitted, row, &batch, &named, &mut rest)
                    })
                    .collect();
                let file = file.clone();
                let mut published = versions.published();
                published.tail.append(&rows, LogPart { file, bytes })
            })?;
            versions.published().tail.end_log()?;
            recent.end_log(id_of(&file)?);
            admission.end_log(id_of(&file)?);
            found.report(&path, folder.access());
            recovered.events += found.events;
            recovered.torn_bytes += found.torn_bytes;
            recovered.damaged += found.damaged;
        }
        Ok(recovered)
    }
}
