//! The committed state of the store: an immutable [`Version`], published together with the events
//! in memory, and changed by a [`Transaction`] alone.

pub mod expiry;
#[cfg(test)]
mod failure_points;
mod manifest;
pub(in crate::store) mod row;
pub(in crate::store) mod tail;
mod transaction;
pub mod zone;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use chrono::NaiveDate;
use chrono_tz::Tz;
use polars::prelude::Expr;
use roaring::RoaringBitmap;

use super::clock::ClockMeta;
use super::erased::{ErasedUsers, Visible};
use super::lock::{Guard, Ordered, Rank};
use crate::daily::{Day, OtherZones};
use crate::dictionary::Dictionaries;
use crate::error::{Error, Result};
use crate::links::Links;
use crate::links::canonical::Canonical;
use crate::store::files::dictionary::DictionaryMeta;
use crate::store::files::event_ids::EventIdsMeta;
use crate::store::files::folder::Folder;
use crate::store::files::links::{self as links_files, LinksMeta};
use crate::store::files::rotation::WaitingLogs;
use crate::store::files::segment::{Segment, SegmentMeta};
use crate::store::files::states::{StateFile, StateMeta, ZoneDay};
use tail::{Chunk, Tail};
use zone::ZoneStates;

pub use expiry::{Clock, ExpiryMeta, ExpiryPolicy, Horizon, clock_jump, horizon};
pub use manifest::{Manifest, NewUsers};
pub use transaction::{DayChange, Transaction, Unpublished, changed_meanwhile};

/// The committed state at one time. Replacing it is the commit of every job.
#[derive(Debug, Clone)]
pub struct Version {
    /// Greatest number in the name of a file that was ever live.
    pub sequence: u64,
    /// Number of the last rotated log whose events are all in the segments.
    pub sealed_through: u64,
    /// The live segments; those of one day in the order of the log, which is that of their names.
    pub segments: Vec<Arc<Segment>>,
    /// The live daily states of UTC.
    pub states: BTreeMap<Day, Arc<StateFile>>,
    /// Those of the other reporting zones.
    pub zones: Vec<ZoneStates>,
    /// Committed length of the dictionary.
    pub dictionary: DictionaryMeta,
    /// Progress of expiry.
    pub expiry: ExpiryMeta,
    /// New users of the newest day, of the events in the segments.
    pub new_users: NewUsers,
    /// The newest `received_at`; absent in a manifest of an earlier version.
    pub clock: Option<ClockMeta>,
    /// Fingerprint of the pseudonym key; absent if there never was one.
    pub user_key: Option<String>,
    /// The ids of the events in the segments; absent before the first seal, and in a manifest of an
    /// earlier version.
    pub event_ids: Option<EventIdsMeta>,
    /// The days that are copies of days of a table, each with a digest of the names of the files
    /// that it is made of.
    pub followed: BTreeMap<NaiveDate, String>,
    /// The links between ids that events in the segments say.
    pub links: SealedLinks,
}

/// Committed links between ids.
#[derive(Debug, Clone, Default)]
pub struct SealedLinks {
    /// Their file; absent before the first one.
    pub meta: Option<LinksMeta>,
    /// The links, once [`Version::load_links`] has read the file.
    pub links: Arc<Links>,
}

impl Version {
    /// The version that a manifest of the data folder `root` describes. No file is opened.
    pub fn of(root: &Path, manifest: Manifest) -> Self {
        let segments = manifest.segments.into_iter();
        Self {
            sequence: manifest.sequence,
            sealed_through: manifest.sealed_through,
            segments: segments
                .map(|meta| Arc::new(Segment::new(root, meta)))
                .collect(),
            states: state_files(root, manifest.states).collect(),
            zones: manifest
                .zones
                .into_iter()
                .filter_map(|zone| ZoneStates::of(root, zone))
                .collect(),
            dictionary: manifest.dictionary,
            expiry: manifest.expiry,
            new_users: manifest.new_users,
            clock: manifest.clock,
            user_key: manifest.user_key,
            event_ids: manifest.event_ids,
            followed: manifest.followed,
            links: SealedLinks {
                meta: manifest.links,
                links: Arc::default(),
            },
        }
    }

    /// Reads the links between ids.
    ///
    /// # Errors
    /// [`Error::Damaged`] if they are not what was written.
    pub fn load_links(&mut self, root: &Path) -> Result<()> {
        self.links.links = Arc::new(links_files::load(root, self.links.meta.as_ref())?);
        Ok(())
    }

    /// Events in the live segments.
    pub fn rows(&self) -> u64 {
        self.segments.iter().map(|segment| segment.meta.rows).sum()
    }

    /// Metadata of the live segments.
    pub fn segment_metas(&self) -> impl Iterator<Item = &SegmentMeta> + Clone {
        self.segments.iter().map(|segment| &segment.meta)
    }

    /// The segments of a day, in the order of the log.
    pub fn segments_of(&self, day: Day) -> Vec<Arc<Segment>> {
        let segments = self.segments.iter().filter(|segment| segment.day() == day);
        segments.cloned().collect()
    }

    /// True if a day has segments.
    pub fn has_segments_of(&self, day: Day) -> bool {
        self.segments.iter().any(|segment| segment.day() == day)
    }

    /// Metadata of the segments of each day, in the order of the log.
    pub fn by_day(&self) -> BTreeMap<Day, Vec<&SegmentMeta>> {
        let mut days: BTreeMap<Day, Vec<&SegmentMeta>> = BTreeMap::new();
        for segment in &self.segments {
            days.entry(segment.day()).or_default().push(&segment.meta);
        }
        days
    }

    /// The live segment with this path below the data folder.
    pub fn has_segment(&self, path: &str) -> bool {
        self.segment_metas().any(|meta| meta.path == path)
    }

    /// Paths of the live segments.
    pub fn segment_paths(&self) -> HashSet<PathBuf> {
        self.segments.iter().map(|segment| segment.path()).collect()
    }

    /// The live states of all zones.
    pub fn all_states(&self) -> impl Iterator<Item = &Arc<StateFile>> + Clone {
        let of_zones = self.zones.iter().flat_map(|zone| zone.states.values());
        self.states.values().chain(of_zones)
    }

    /// The live states of all zones with their days.
    pub fn zone_days(&self) -> impl Iterator<Item = (ZoneDay, Arc<StateFile>)> {
        let utc = (Tz::UTC, &self.states);
        let zones = self.zones.iter().map(|zone| (zone.tz, &zone.states));
        let of_zone = |(tz, states): (Tz, &BTreeMap<Day, Arc<StateFile>>)| {
            let states = states.iter();
            let states = states.map(move |(&day, file)| (ZoneDay { tz, day }, file.clone()));
            states.collect::<Vec<_>>()
        };
        std::iter::once(utc).chain(zones).flat_map(of_zone)
    }

    /// The states of a zone other than UTC; none for other zones.
    pub fn zone(&self, tz: Tz) -> Option<&ZoneStates> {
        self.zones.iter().find(|zone| zone.tz == tz)
    }

    /// The same, to change them.
    pub fn zone_mut(&mut self, tz: Tz) -> Option<&mut ZoneStates> {
        self.zones.iter_mut().find(|zone| zone.tz == tz)
    }

    /// The live states of a zone by day; none for other zones.
    pub fn states_of(&self, tz: Tz) -> Option<&BTreeMap<Day, Arc<StateFile>>> {
        match tz {
            Tz::UTC => Some(&self.states),
            tz => self.zone(tz).map(|zone| &zone.states),
        }
    }

    /// The live state of a day.
    pub fn state(&self, day: ZoneDay) -> Option<&Arc<StateFile>> {
        self.states_of(day.tz)?.get(&day.day)
    }

    /// Paths of the live states below the data folder.
    pub fn state_paths(&self) -> HashSet<&str> {
        let states = self.all_states();
        states.map(|state| state.meta.path.as_str()).collect()
    }

    /// The features that the state of a day of UTC names; none if it has no state that can be read.
    pub fn named_features(&self, day: Day, names: &Dictionaries) -> RoaringBitmap {
        let state = self.states.get(&day);
        state.map_or_else(RoaringBitmap::new, |state| state.named_features(names))
    }

    /// The segments of the days on which, by their states, one of these users may have been active.
    ///
    /// # Errors
    /// If a state is damaged.
    pub fn segments_with(
        &self,
        users: &RoaringBitmap,
        names: &Dictionaries,
    ) -> Result<Vec<Arc<Segment>>> {
        let mut days = BTreeSet::new();
        for (&day, state) in &self.states {
            let activity = state.activity(names)?;
            // A state does not list the users beyond the limit.
            if activity.stored_rest_user_events() > 0 || activity.has_any(users) {
                days.insert(day);
            }
        }
        let segments = self.segments.iter();
        let segments = segments.filter(|segment| days.contains(&segment.day()));
        Ok(segments.cloned().collect())
    }

    /// A version with a segment of one event for each of these days, and states of others.
    #[cfg(test)]
    pub fn with(segments: &[Day], states: &[Day]) -> Self {
        let mut manifest = Manifest::default();
        for (&day, place) in segments.iter().zip(0..) {
            let ts_us = i64::from(day) * crate::window::DAY_US;
            manifest.segments.push(SegmentMeta {
                path: crate::store::files::segment::path_of(day, &format!("00000001-{place:04}")),
                rows: 1,
                bytes: 1,
                crc32c: 0,
                first_ts_us: ts_us,
                last_ts_us: ts_us,
                last_received_at_us: ts_us,
                format: crate::store::files::segment::FORMAT,
                system: 0,
            });
        }
        for &day in states {
            let day = crate::daily::date(day);
            manifest.states.push(StateMeta {
                day,
                path: format!("states/{day}-00000001.state"),
                bytes: 1,
                crc32c: 0,
                events: 1,
                span_us: None,
            });
        }
        Self::of(Path::new("nowhere"), manifest)
    }

    /// Replaces the states of the same days and adds the others.
    fn put_states(&mut self, root: &Path, states: Vec<(Tz, StateMeta)>) {
        for (tz, meta) in states {
            let put = state_files(root, vec![meta]);
            match tz {
                Tz::UTC => self.states.extend(put),
                tz => {
                    if let Some(zone) = self.zone_mut(tz) {
                        zone.states.extend(put);
                    }
                }
            }
        }
    }
}

fn state_files(root: &Path, states: Vec<StateMeta>) -> impl Iterator<Item = (Day, Arc<StateFile>)> {
    states.into_iter().map(move |meta| {
        let day = meta.day.to_epoch_days();
        (day, Arc::new(StateFile::new(root, meta)))
    })
}

/// The published version and the events in memory, which change in one step, so that every event is
/// visible exactly once.
pub struct Published {
    /// Replaced by [`Transaction::commit`] alone.
    version: Arc<Version>,
    /// Events that are not sealed.
    pub tail: Tail,
    /// Bytes in the open log.
    pub log_bytes: u64,
    /// Time since which the oldest event of the open log waits to be sealed.
    pub log_since: Option<Instant>,
    /// The rotated logs that wait to be sealed.
    pub waiting: WaitingLogs,
    /// The erased users.
    pub erased: ErasedUsers,
}

impl Published {
    /// The version.
    pub fn version(&self) -> &Arc<Version> {
        &self.version
    }
}

/// Holds the published version, and lets one transaction at a time replace it.
pub struct VersionControl {
    /// The reporting zones other than UTC that events in memory are counted for.
    zones: OtherZones,
    /// Held by a [`Transaction`].
    transactions: Ordered<()>,
    published: Ordered<Published>,
    /// The failed commit whose outcome is unknown: after it nothing more is committed.
    poisoned: OnceLock<String>,
    /// The users of ids, as the last reader computed them.
    canonical: Ordered<Option<KnownUsers>>,
}

/// The users of ids, and what they were computed from.
#[derive(Clone)]
struct KnownUsers {
    sealed: Arc<Links>,
    /// The places of the unsealed statements.
    places: Range<u64>,
    canonical: Arc<Canonical>,
}

impl VersionControl {
    /// Publishes the version that was found, without events in memory.
    pub fn new(
        version: Version,
        names: &Dictionaries,
        erased: ErasedUsers,
        zones: OtherZones,
    ) -> Self {
        let published = Published {
            version: Arc::new(version),
            tail: Tail::new(names.clone(), zones.clone()),
            log_bytes: 0,
            log_since: None,
            waiting: WaitingLogs::default(),
            erased,
        };
        Self {
            zones,
            transactions: Ordered::new(Rank::Transaction, ()),
            published: Ordered::new(Rank::Published, published),
            poisoned: OnceLock::new(),
            canonical: Ordered::new(Rank::Leaf, None),
        }
    }

    /// The reporting zones other than UTC that events are counted for: those of the settings and
    /// those that the folder has states of.
    pub fn zones(&self) -> &OtherZones {
        &self.zones
    }

    /// Begins a transaction, once no other one runs.
    ///
    /// # Errors
    /// [`Error::Poisoned`] after a commit whose outcome is unknown, and if the data folder was
    /// displaced.
    pub fn begin<'a>(&'a self, folder: &'a Folder) -> Result<Transaction<'a>> {
        folder.check_in_place()?;
        let guard = self.transactions.lock();
        match self.poisoned.get() {
            Some(reason) => Err(Error::Poisoned(reason.clone())),
            None => Ok(Transaction::new(self, folder, guard)),
        }
    }

    /// The version and the tail. Writer and readers wait for it: never hold it across I/O or while
    /// a large frame is built.
    pub fn published(&self) -> Guard<'_, Published> {
        self.published.lock()
    }

    /// The published version.
    pub fn version(&self) -> Arc<Version> {
        self.published.lock().version.clone()
    }

    /// A consistent view of the version and of the events in memory that may lie in a time range.
    ///
    /// # Errors
    /// If the engine cannot build the open chunk.
    pub fn snapshot(&self, range_us: &Range<i64>) -> Result<Snapshot> {
        let published = self.published.lock();
        let mut snapshot = Snapshot {
            version: published.version.clone(),
            tail: published.tail.snapshot(range_us)?,
            visible: published.erased.visible(),
            visible_tail: published.erased.visible_numbers(),
            canonical: None,
        };
        snapshot.canonical = self.canonical_of(published);
        Ok(snapshot)
    }

    /// The users of ids; none if there are no links.
    pub fn canonical(&self) -> Option<Arc<Canonical>> {
        self.canonical_of(self.published.lock())
    }

    /// The users of ids as of a published state, which is unlocked before they are computed: from
    /// those of an earlier reader and the statements since, unless some were sealed.
    fn canonical_of(&self, published: Guard<'_, Published>) -> Option<Arc<Canonical>> {
        let sealed = published.version.links.links.clone();
        let places = published.tail.statement_places();
        if sealed.is_empty() && places.is_empty() {
            return None;
        }
        let known = self.canonical.lock().clone();
        let known = known.filter(|known| {
            Arc::ptr_eq(&known.sealed, &sealed)
                && known.places.start == places.start
                && known.places.end <= places.end
        });
        if let Some(known) = known.as_ref().filter(|known| known.places == places) {
            return Some(known.canonical.clone());
        }
        let from = known
            .as_ref()
            .map_or(places.start, |known| known.places.end);
        let statements = published.tail.statements_from(from);
        drop(published);
        let canonical = Arc::new(match known {
            Some(known) => Canonical::clone(&known.canonical).with(&statements),
            None => Canonical::new(&sealed, &statements),
        });
        *self.canonical.lock() = Some(KnownUsers {
            sealed,
            places,
            canonical: canonical.clone(),
        });
        Some(canonical)
    }
}

/// A reader's copy of the published state. Files and chunks stay readable while it exists.
pub struct Snapshot {
    /// The committed state.
    pub version: Arc<Version>,
    /// Events that are not sealed.
    pub tail: Vec<Arc<Chunk>>,
    /// Hides users whose erasure is in progress, if there are any.
    pub visible: Option<Visible>,
    /// The same for the frames of the tail: an expression on codes.
    pub visible_tail: Option<Expr>,
    /// The users of ids; none if there are no links.
    pub canonical: Option<Arc<Canonical>>,
}

/// Adds a segment of these files to a version. The file is not opened.
fn segment_of(root: &Path, meta: SegmentMeta) -> Arc<Segment> {
    Arc::new(Segment::new(root, meta))
}

/// All of time.
pub const ALWAYS_US: Range<i64> = i64::MIN..i64::MAX;
