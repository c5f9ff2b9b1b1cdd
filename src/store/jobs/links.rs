//! Links between ids: those of sealed events are added to the committed ones, an operator removes
//! one, and the table next to the lake follows.

use std::borrow::Cow;
use std::sync::Arc;

use polars::prelude::DataFrame;
use roaring::RoaringBitmap;
use tracing::{info, warn};

use crate::dictionary::{Dictionaries, UserDictionary};
use crate::error::{Error, Result};
use crate::event::identity::{Identity, identity_of};
use crate::event::{Event, EventType, SYSTEM_NAME};
use crate::links::canonical::Canonical;
use crate::links::{Links, Statement};
use crate::schema;
use crate::store::erased::ErasedUsers;
use crate::store::files::folder::Folder;
use crate::store::files::links::OldTables;
use crate::store::files::segment::{self, ALL_ROWS};
use crate::store::files::{dictionary, links};
use crate::store::ingest::dedup::Origin;
use crate::store::version::{Transaction, VersionControl};
use crate::store::{SealedVersion, Store};

/// Adds the links that sealed events of a store say which was written before there were any.
///
/// # Errors
/// If a segment is damaged, or the links cannot be committed.
pub fn add_missing_links(
    versions: &VersionControl,
    folder: &Folder,
    names: &Dictionaries,
    erased: &ErasedUsers,
) -> Result<()> {
    let version = versions.version();
    let mut segments = version.segments.iter();
    let has_calls = segments.any(|segment| segment.meta.system > 0);
    if version.links.meta.is_some() || !has_calls {
        return Ok(());
    }
    let users = &names.users;
    let mut links = Links::default();
    for segment in version
        .segments
        .iter()
        .filter(|segment| segment.meta.system > 0)
    {
        let events = segment::read_alone(segment, Some(&CALL_COLUMNS), ALL_ROWS)?;
        for statement in statements_of(&events, users, |id, ts_us| erased.is_erased(id, ts_us))? {
            links.add(statement);
        }
    }
    let mut transaction = versions.begin(folder)?;
    transaction.next.sequence += 1;
    let until = links.codes().max().map_or(0, |code| code + 1);
    let known = transaction.base().dictionary;
    transaction.next.dictionary =
        dictionary::extend(folder, known, users, &RoaringBitmap::new(), until)?;
    info!(
        "Found {} links between ids of users in the events",
        links.len()
    );
    transaction.write_links(links)?;
    transaction.commit(|_| {})?.removed
}

/// The statements of the identity calls among some events, in their order, without erased aliases.
///
/// # Errors
/// If a column is missing, or an alias gets no code.
pub(super) fn statements_of(
    events: &DataFrame,
    users: &UserDictionary,
    is_erased: impl Fn(&str, i64) -> bool,
) -> Result<Vec<Statement>> {
    let times = events.column(schema::TS)?.to_physical_repr();
    let times = times.i64()?.iter();
    let of_lake = |name| Ok::<_, Error>(events.column(name)?.str()?.iter());
    let types = of_lake(schema::EVENT_TYPE)?.zip(of_lake(schema::FEATURE)?);
    let rows = of_lake(schema::USER_ID)?.zip(of_lake(schema::METADATA)?);
    let mut found = Vec::new();
    for ((ts_us, (event_type, feature)), (user, metadata)) in times.zip(types).zip(rows) {
        if event_type != Some(SYSTEM_NAME) {
            continue;
        }
        let event = Event {
            ts_us: ts_us.unwrap_or_default(),
            event_type: EventType::System,
            user_id: user.map(Cow::Borrowed),
            feature: feature.map(Cow::Borrowed),
            metadata: Cow::Borrowed(metadata.unwrap_or_default()),
            url: None,
            event_id: None,
            received_at_us: 0,
        };
        let alias = match identity_of(&event) {
            Identity::Nothing => continue,
            Identity::Known => None,
            Identity::Alias(id) if is_erased(&id, event.ts_us) => None,
            Identity::Alias(id) => Some(users.number(&id)?),
        };
        if let Some(user) = user.and_then(|user| users.find(user)) {
            let ts_us = event.ts_us;
            found.push(Statement { ts_us, user, alias });
        }
    }
    Ok(found)
}

/// The columns that say what an identity call says, and when.
pub(super) const CALL_COLUMNS: [&str; 5] = [
    schema::TS,
    schema::EVENT_TYPE,
    schema::USER_ID,
    schema::FEATURE,
    schema::METADATA,
];
/// The file of no links, in the place of its path.
const NO_FILE: &str = "";

impl Store {
    /// Adds what sealed events say of ids to the links that a transaction commits. Returns the
    /// codes of these ids.
    ///
    /// # Errors
    /// If the links cannot be written.
    pub(super) fn add_links(
        &self,
        transaction: &mut Transaction<'_>,
        statements: &[Statement],
        origin: Origin,
    ) -> Result<RoaringBitmap> {
        let mut codes = RoaringBitmap::new();
        if statements.is_empty() {
            return Ok(codes);
        }
        // A user may have been erased since the event was accepted.
        let erased = self.ingest.maker.gate.pending();
        let mut links = Links::clone(&transaction.base().links.links);
        let mut has_changed = false;
        for &Statement { ts_us, user, alias } in statements {
            if erased.contains(user) {
                continue;
            }
            let alias = alias.filter(|&alias| !erased.contains(alias));
            has_changed |= links.add(Statement { ts_us, user, alias });
            codes.insert(user);
            codes.extend(alias);
        }
        if has_changed {
            if origin == Origin::Load {
                links.count_import();
            }
            transaction.write_links(links)?;
        }
        Ok(codes)
    }

    /// The users of ids; none if there are no links.
    pub fn canonical(&self) -> Option<Arc<Canonical>> {
        self.versions.canonical()
    }

    /// All links, with those that events in memory say.
    pub fn all_links(&self) -> Links {
        let (sealed, statements) = {
            let published = self.versions.published();
            (
                published.version().links.links.clone(),
                published.tail.statements_from(0),
            )
        };
        let mut links = Links::clone(&sealed);
        for statement in statements {
            links.add(statement);
        }
        links
    }

    /// Removes the link of an alias: statements up to now, in µs, do not count any more.
    /// Returns whether there was one.
    ///
    /// # Errors
    /// If it cannot be committed; then the link is as before.
    pub fn remove_link(&self, alias: &str, now_us: i64) -> Result<bool> {
        // Links of events in memory are committed with these.
        self.seal()?;
        let Some(alias) = self.names().users.find(alias) else {
            return Ok(false);
        };
        let mut transaction = self.begin()?;
        let mut links = Links::clone(&transaction.base().links.links);
        if !links.remove(alias, now_us) {
            return Ok(false);
        }
        transaction.next.sequence += 1;
        transaction.write_links(links)?;
        transaction.commit(|_| {})?.removed?;
        info!("Removed a link between ids");
        self.refresh_links_table();
        Ok(true)
    }

    /// The links of a version as a table of aliases, users and times.
    ///
    /// # Errors
    /// If the table cannot be built.
    pub fn links_table(&self, version: &SealedVersion) -> Result<DataFrame> {
        links::table(&version.links.links, &self.names().users)
    }

    /// Brings the table next to the lake up to date. If that fails, the next seal does it.
    pub(super) fn refresh_links_table(&self) {
        if let Err(error) = self.write_links_table(OldTables::Unneeded) {
            warn!("The table of links for other programs is not up to date: {error}");
        }
    }

    /// Writes the table next to the lake, if the links have changed, and removes old ones.
    ///
    /// # Errors
    /// If it cannot be written or an old one cannot be removed.
    pub(super) fn write_links_table(&self, old: OldTables) -> Result<()> {
        let mut written = self.jobs.links_table.lock();
        let version = self.versions.version();
        let meta = version.links.meta.as_ref();
        let file = meta.map_or(NO_FILE, |meta| meta.path.as_str());
        links::remove_old_tables(&self.folder, meta, old)?;
        let is_needed = !version.segments.is_empty() || file != NO_FILE;
        let is_current = match written.as_deref() {
            Some(known) => known == file && links::table_path(self.folder.path()).exists(),
            None => links::is_table_current(self.folder.path(), meta),
        };
        if !is_needed || is_current {
            return Ok(());
        }
        let users = &self.names().users;
        links::write_table(&self.folder, meta, &version.links.links, users)?;
        *written = Some(file.to_owned());
        Ok(())
    }
}
