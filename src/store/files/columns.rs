//! Files of [columns](crate::columns): the events of a segment as integers, which queries read
//! instead of it, except `system` events. They are written in the background.
//!
//! Nothing depends on them. The manifest does not list them; a file belongs to a segment by its
//! name and the checksum in it. If it is missing or damaged, the segment is read, and the file is
//! written (again) later. It is removed together with its segment.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use polars::prelude::*;
use tracing::warn;

use super::folder::{self, Access, Folder};
use super::segment::{self, ALL_ROWS, FileId, Segment, SegmentMeta};
use super::shape;
use crate::columns::{ANONYMOUS, Block, Content, List, Projection, Table, Writer, without_columns};
use crate::dictionary::Dictionaries;
use crate::error::{Error, Result};
use crate::event::SYSTEM_NAME;
use crate::leb128::CUT;
use crate::links::canonical::Canonical;
use crate::schema;
use crate::store::files;
use crate::window::DAY_US;

/// Folder of the files in the data folder.
const DIR: &str = "columns";
/// Folder of the postings of earlier versions.
const POSTINGS_DIR: &str = "postings";
const EXTENSION: &str = "columns";
const IS_ANONYMOUS: &str = "anonymous";
/// Rows whose metadata is in memory at once while a file is made: those of a row group.
const DETAILS_ROWS: usize = 1 << 17;

/// The file of the columns of a segment.
struct ColumnsFile {
    segment: Arc<Segment>,
    path: PathBuf,
    id: FileId,
}

/// Path of the columns of a segment.
pub fn path_of(segment: &Segment) -> PathBuf {
    segment.root().join(DIR).join(file_name(&segment.meta))
}

fn file_name(segment: &SegmentMeta) -> String {
    format!("{}.{EXTENSION}", segment.file_name())
}

/// Writes the columns of a segment to an unfinished file, durably. Metadata and URLs are in it as
/// far as it has at most `share` percent of the bytes of the segment.
///
/// # Errors
/// [`Error::Damaged`] if the segment is, and if the file cannot be written.
pub fn write(
    folder: &Folder,
    segment: &Arc<Segment>,
    names: &Dictionaries,
    share: u8,
    canonical: Option<&Canonical>,
) -> Result<PathBuf> {
    let temp = folder.temp(&file_name(&segment.meta))?;
    files::write_synced(&temp, &encode(segment, names, (share, canonical), &temp)?)?;
    Ok(temp)
}

/// Moves a finished file into the folder of columns, durably.
///
/// # Errors
/// If it cannot be moved.
pub fn publish(folder: &Folder, temp: &Path, segment: &Segment) -> Result<()> {
    files::make(&folder.path().join(DIR))?;
    files::publish(temp, &path_of(segment))
}

fn encode(
    segment: &Arc<Segment>,
    names: &Dictionaries,
    (share, canonical): (u8, Option<&Canonical>),
    temp: &Path,
) -> Result<Vec<u8>> {
    // The checksum is verified again: Polars does not notice damage, and it would pass into the
    // columns.
    segment.verify_again()?;
    let checksum = segment.meta.crc32c;
    let names_of_core = [
        schema::USER_ID,
        schema::TS,
        schema::EVENT_TYPE,
        schema::FEATURE,
    ];
    let core = segment::read_alone(segment, Some(&names_of_core), ALL_ROWS)?;
    let core = core.lazy().select([
        names.users.numbers(col(schema::USER_ID), Some(ANONYMOUS)),
        col(schema::USER_ID).is_null().alias(IS_ANONYMOUS),
        col(schema::TS).to_physical(),
        col(schema::EVENT_TYPE),
        col(schema::FEATURE),
    ]);
    let core = core.collect()?;
    let anonymous = core.column(IS_ANONYMOUS)?.bool()?;
    let coded = core.column(schema::USER_ID)?.u32()?;
    // A user beyond the limit of new users may get a code later.
    let has_code = |(user, anonymous): (Option<u32>, Option<bool>)| {
        anonymous == Some(true) || user.is_some_and(|user| user != ANONYMOUS)
    };
    if !coded.iter().zip(anonymous.iter()).all(has_code) {
        return Ok(without_columns(checksum));
    }
    let is_seen = match segment.meta.system {
        0 => None,
        _ => Some(
            core.column(schema::EVENT_TYPE)?
                .str()?
                .not_equal(SYSTEM_NAME),
        ),
    };
    let core = match &is_seen {
        None => core,
        Some(is_seen) => core.filter(is_seen)?,
    };
    let coded = core.column(schema::USER_ID)?.u32()?;
    let users = coded.iter().map(|user| user.unwrap_or(ANONYMOUS));
    let mut epoch = None;
    let users = users.map(
        |id| match canonical.map(|canonical| (canonical, canonical.of(id))) {
            Some((canonical, user)) if user != id => {
                epoch = Some(canonical.epoch().undone);
                user
            }
            _ => id,
        },
    );
    let users: Vec<u32> = users.collect();
    let start_us = i64::from(segment.day()) * DAY_US;
    let times_us = core.column(schema::TS)?.i64()?.iter();
    let times_us: Vec<u64> = times_us
        .map(|ts_us| (ts_us.unwrap_or(start_us) - start_us).cast_unsigned())
        .collect();
    let budget = segment.meta.bytes as usize / 100 * usize::from(share);
    let mut writer = Writer::new(&users, &times_us, budget);
    writer.set_epoch(epoch);
    writer.add_names(
        core.column(schema::EVENT_TYPE)?.str()?,
        core.column(schema::FEATURE)?.str()?,
    );
    let mut first_row = 0;
    for start in (0..segment.meta.rows as usize).step_by(DETAILS_ROWS) {
        let details = [schema::METADATA, schema::URL];
        let details = segment::read_alone(segment, Some(&details), start..start + DETAILS_ROWS)?;
        let details = match &is_seen {
            None => details,
            Some(is_seen) => details.filter(&is_seen.slice(start as i64, details.height()))?,
        };
        writer.add_details(
            first_row,
            details.column(schema::METADATA)?.str()?,
            details.column(schema::URL)?.str()?,
        );
        first_row += details.height() as u32;
    }
    writer.finish(checksum).map_err(Error::io("encode", temp))
}

/// The columns of a segment, if the file has those that are wanted, and users in the place of all
/// their aliases. None if the segment must be read itself.
pub fn open(
    segment: &Arc<Segment>,
    wanted: &Projection,
    canonical: Option<&Canonical>,
) -> Option<Table> {
    let file = ColumnsFile::open(segment)?;
    let list = file.or_removed(file.table(wanted))?;
    let is_linked = file.is_linked(&list, canonical).map(|is| is.then_some(()));
    file.or_removed(is_linked)?;
    Some(Table::new(Box::new(file), list))
}

/// True if the columns of a segment are missing, or have other users than they should have.
pub fn is_due(segment: &Arc<Segment>, canonical: Option<&Canonical>) -> bool {
    let file = ColumnsFile::open(segment).filter(|file| file.path.exists());
    let Some(file) = file else {
        return true;
    };
    let list = List::read(&file, segment.meta.crc32c, segment.day());
    // A damaged file is removed once it is read, and a segment without columns stays without.
    let Ok(Some(list)) = list else {
        return false;
    };
    file.is_linked(&list, canonical) == Ok(false)
}

/// A description of the events of a segment from the file of its columns. None if there is no
/// file, or it does not say it.
pub fn described<T>(
    segment: &Arc<Segment>,
    read: impl FnOnce(&List, &dyn Content) -> Result<Option<T>, String>,
) -> Option<T> {
    let file = ColumnsFile::open(segment)?;
    let list = List::read(&file, segment.meta.crc32c, segment.day());
    file.or_removed(list.and_then(|list| match list {
        Some(list) => read(&list, &file),
        None => Ok(None),
    }))
}

/// Checks the columns of a segment, if there are any.
///
/// # Errors
/// A sentence about what is wrong with them.
pub fn verify(segment: &Arc<Segment>) -> Result<(), String> {
    let Some(file) = ColumnsFile::open(segment) else {
        return Ok(());
    };
    match List::read(&file, segment.meta.crc32c, segment.day())? {
        Some(list) => list
            .all_blocks()
            .try_for_each(|block| block.read(&file).map(drop)),
        None => Ok(()),
    }
}

/// Maps the columns of a segment into memory for its readers, because the file is about to be
/// removed or replaced.
pub fn keep(segment: &Segment) {
    let path = path_of(segment);
    let Ok(file) = File::open(&path) else {
        return;
    };
    if let Ok(id) = FileId::of(&file, &path)
        && let Ok(content) = segment::mapped(file)
    {
        *segment.columns.kept.lock() = Some((id, content));
    }
}

/// Bytes of all columns.
pub fn bytes(folder: &Folder) -> u64 {
    let files = files::list(&folder.path().join(DIR)).unwrap_or_default();
    let lengths = files.iter().filter_map(|path| path.metadata().ok());
    lengths.map(|found| found.len()).sum()
}

/// Removes the columns of segments that are not live, and the postings that earlier versions had
/// in their place.
///
/// # Errors
/// If a folder cannot be listed or changed.
pub fn remove_others(folder: &Folder, live: &[SegmentMeta]) -> Result<()> {
    let live: HashSet<OsString> = live
        .iter()
        .map(|segment| file_name(segment).into())
        .collect();
    for path in files::list(&folder.path().join(DIR))? {
        let name = path.file_name().unwrap_or_default();
        if name.to_str().is_some_and(shape::is_columns) && !live.contains(name) {
            files::remove(&path)?;
        }
    }
    for path in files::list(&folder.path().join(POSTINGS_DIR))? {
        let name = path.file_name().unwrap_or_default();
        if name.to_str().is_some_and(shape::is_postings) {
            files::remove(&path)?;
        }
    }
    Ok(())
}

impl ColumnsFile {
    fn open(segment: &Arc<Segment>) -> Option<Self> {
        let path = path_of(segment);
        let id = match File::open(&path) {
            Ok(file) => FileId::of(&file, &path).ok()?,
            Err(_) => segment.columns.kept.lock().as_ref()?.0,
        };
        Some(Self {
            segment: segment.clone(),
            path,
            id,
        })
    }

    /// Returns the part of the file that was read; removes the file if it is damaged.
    fn or_removed<T>(&self, read: Result<Option<T>, String>) -> Option<T> {
        read.unwrap_or_else(|message| {
            let path = self.path.display();
            warn!(
                "{path}: {message}; the segment is read instead, and the columns are written again"
            );
            if folder::access_of(self.segment.root()) == Access::ReadWrite {
                // If it cannot be removed, the next query tries to read it again.
                let _ = files::remove(&self.path);
            }
            None
        })
    }

    /// The list of the file, if it has what is wanted; this is verified once per file and process.
    fn table(&self, wanted: &Projection) -> Result<Option<List>, String> {
        let Some(list) = List::read(self, self.segment.meta.crc32c, self.segment.day())? else {
            return Ok(None);
        };
        let Some(blocks) = list.blocks(wanted) else {
            return Ok(None);
        };
        for block in blocks {
            if !self.is_verified(block) {
                block.read(self)?;
                let mut verified = self.segment.columns.verified.lock();
                match &mut *verified {
                    Some((id, blocks)) if *id == self.id => drop(blocks.insert(block.clone())),
                    other => *other = Some((self.id, HashSet::from([block.clone()]))),
                }
            }
        }
        Ok(Some(list))
    }

    /// True if the file has users in the place of all their aliases, and of no other ids.
    fn is_linked(&self, list: &List, canonical: Option<&Canonical>) -> Result<bool, String> {
        if let Some(epoch) = list.epoch(self)?
            && canonical.map(|canonical| canonical.epoch().undone) != Some(epoch)
        {
            return Ok(false);
        }
        let Some(canonical) = canonical else {
            return Ok(true);
        };
        let known = self.segment.columns.users.lock().clone();
        let known = known.filter(|(id, _)| *id == self.id);
        let users = match known {
            Some((_, users)) => users,
            None => {
                let users = Arc::new(list.users(self)?);
                *self.segment.columns.users.lock() = Some((self.id, users.clone()));
                users
            }
        };
        Ok(!canonical.has_aliases_among(&users))
    }

    fn is_verified(&self, block: &Block) -> bool {
        let verified = self.segment.columns.verified.lock();
        let of_file = verified.as_ref().filter(|(id, _)| *id == self.id);
        of_file.is_some_and(|(_, blocks)| blocks.contains(block))
    }
}

impl Content for ColumnsFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read(&self, ranges: &[Range<u64>]) -> Result<Vec<Vec<u8>>, String> {
        if let Ok(file) = File::open(&self.path)
            && FileId::of(&file, &self.path).is_ok_and(|id| id == self.id)
        {
            let read = ranges.iter().map(|range| {
                let length = range.end.saturating_sub(range.start);
                if range.end > self.id.bytes {
                    return Err(CUT.to_owned());
                }
                let mut bytes = vec![0; length as usize];
                file.read_exact_at(&mut bytes, range.start)
                    .map_err(|error| error.to_string())?;
                Ok(bytes)
            });
            return read.collect();
        }
        let kept = self.segment.columns.kept.lock().clone();
        let (_, kept) = kept
            .filter(|(id, _)| *id == self.id)
            .ok_or("they were replaced; try again")?;
        let kept = kept.first().map(|source| source.to_memslice());
        let kept = kept.transpose().map_err(|error| error.to_string())?;
        let kept = kept.unwrap_or_default();
        let read = ranges.iter().map(|range| {
            let bytes = kept.get(range.start as usize..range.end as usize);
            bytes.map(<[u8]>::to_vec).ok_or_else(|| CUT.to_owned())
        });
        read.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns::Rows;
    use crate::event::{Event, EventType};
    use crate::store::files::rows::LakeRows;
    use crate::store::files::segment::{Sorted, write_days};

    /// A segment with an event of each of these users at the start of day 1, and its columns. Users
    /// that begin with `?` get no code.
    fn written(
        users: &[Option<&'static str>],
    ) -> Result<(tempfile::TempDir, Folder, Arc<Segment>)> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let folder = Folder::take(dir.path(), "a test")?;
        let mut events = LakeRows::for_lines(0);
        let names = Dictionaries::new()?;
        for &user in users {
            if let Some(user) = user.filter(|user| !user.starts_with('?')) {
                names.users.number(user)?;
            }
            events.push(&Event {
                ts_us: DAY_US,
                event_type: EventType::Action,
                user_id: user.map(Into::into),
                feature: Some("a".into()),
                metadata: r#"{"plan":"pro"}"#.into(),
                url: None,
                event_id: None,
                received_at_us: DAY_US,
            });
        }
        let meta = write_days(&folder, "00000001-0000", &Sorted::new(events.finish()?)?)?;
        let segment = Arc::new(Segment::new(folder.path(), meta[0].clone()));
        let temp = write(&folder, &segment, &names, 60, None)?;
        publish(&folder, &temp, &segment)?;
        Ok((dir, folder, segment))
    }

    fn wanted(columns: &[&str]) -> Projection {
        Projection {
            columns: columns.iter().map(|&name| name.to_owned()).collect(),
            times: true,
        }
    }

    fn users_of(table: &Table) -> Result<Vec<u32>> {
        let slice = table.slice(&Rows::All, &[], true)?;
        Ok(slice.runs().map(|(user, _)| user).collect())
    }

    #[test]
    fn a_reader_goes_on_when_the_files_are_removed() -> Result<()> {
        let (_dir, folder, segment) = written(&[Some("v"), None, Some("u")])?;
        let table = open(&segment, &wanted(&["feature"]), None).expect("columns");
        assert!(open(&segment, &wanted(&["metadata.other"]), None).is_none());
        let users = users_of(&table)?;
        assert_eq!(users, [0, 1, ANONYMOUS]);
        keep(&segment);
        remove_others(&folder, std::slice::from_ref(&segment.meta))?;
        assert!(path_of(&segment).exists());
        remove_others(&folder, &[])?;
        assert!(!path_of(&segment).exists());
        assert_eq!(users_of(&table)?, users);
        assert_eq!(
            users_of(&open(&segment, &wanted(&[]), None).expect("kept"))?,
            users
        );
        Ok(())
    }

    #[test]
    fn damaged_columns_are_removed_and_another_file_is_not_read() -> Result<()> {
        let (_dir, _folder, segment) = written(&[Some("u"), Some("v")])?;
        let path = path_of(&segment);
        let valid = std::fs::read(&path).expect("read");
        let table = open(&segment, &wanted(&[]), None).expect("columns");
        for at in [0, 9, 13, 17, 21, valid.len() - 1] {
            let mut damaged = valid.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, &damaged).expect("written");
            assert!(verify(&segment).is_err(), "{at}");
            assert!(
                open(&segment, &wanted(&["event_type", "feature"]), None).is_none()
                    || path.exists()
            );
            if at < HEAD {
                assert!(!path.exists(), "{at}");
            }
            assert!(
                users_of(&table).is_err(),
                "{at}: it was verified in another file"
            );
        }
        Ok(())
    }

    /// Bytes whose damage every reader finds.
    const HEAD: usize = 22;

    #[test]
    fn a_segment_with_a_user_without_a_code_is_read_itself() -> Result<()> {
        let (_dir, _folder, segment) = written(&[Some("u"), Some("?new")])?;
        assert!(open(&segment, &wanted(&[]), None).is_none());
        assert!(
            path_of(&segment).exists(),
            "it is not written again and again"
        );
        assert_eq!(verify(&segment), Ok(()));
        Ok(())
    }
}
