//! The lake as open tables: `events`, `links` and the tables of daily rollups as Delta tables of
//! protocol 1/2 without features, which every engine that knows Delta reads.
//!
//! | module | contents |
//! |---|---|
//! | [`action`] | what a line of a log does |
//! | [`log`] | the log of a table: commits, checkpoints, and what is rejected |
//! | [`checkpoint`] | actions as Parquet |
//! | [`table`] | one table: new files, one commit, old files later |
//! | [`shared`] | the table of the events of several servers |
//! | [`lease`] | the one of them that joins the days that are over |
//! | [`members`] | the servers of it, and those that were retired |
//! | [`retire`] | the removal of a server that does not come back |
//! | [`erasures`] | the erasures that all of them have to apply |
//! | [`erased_ids`] | the users whom they have erased, for servers that come later |
//! | [`attach`] | statements by which engines find the tables |
//!
//! The files are copies of segments. A seal, a compaction or an erasure is one commit. A file that
//! is no longer in a table is deleted later, so that readers of the version before can end.

pub mod action;
pub mod attach;
pub mod checkpoint;
pub mod erased_ids;
pub mod erasures;
pub mod lease;
pub mod log;
pub mod members;
pub mod retire;
pub mod shared;
#[cfg(test)]
mod shared_tests;
pub mod table;
#[cfg(test)]
mod test_place;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use polars::prelude::DataFrame;
use serde::de::DeserializeOwned;

use super::destination::{self, Destination};
use super::layout::{EVENTS_DIR, LINKS_DIR};
use crate::error::{Error, Result};
use crate::parquet;
use crate::schema;
use crate::store::{ExportPartMeta, Mark, SealedSegment, SealedVersion};
use table::{Content, DataFile, Outcome, Table};

/// The content of the tables.
pub struct Source<'a> {
    /// The events.
    pub version: &'a SealedVersion,
    /// The tables of one file each, with the folders of their names: always the same ones.
    pub small: &'a [(&'static str, DataFrame)],
}

/// The tables of a store at a destination.
pub struct Tables {
    /// The id of the store.
    store: String,
    events: Table,
    /// The tables of one file each, by name.
    small: BTreeMap<&'static str, Table>,
    /// The statements were written.
    is_described: bool,
}

/// The result of a publication: each table with its name.
pub type Published = Vec<(&'static str, Outcome)>;

impl Tables {
    /// The tables of a store. Nothing is read yet.
    pub fn new(mark: &Mark) -> Self {
        Self {
            store: mark.store.clone(),
            events: Table::events(EVENTS_DIR, &mark.store),
            small: BTreeMap::new(),
            is_described: false,
        }
    }

    /// Makes the tables have these events and rows, in at most one commit a table. `place` is
    /// the address of the destination for the statements. `progress` is called with the number of
    /// events of each file. Times are in ms since 1970.
    ///
    /// # Errors
    /// As [`Table::publish`]; then each table is at its old or new version, and the next call
    /// continues. A table or a file of another program is an error before anything is written.
    pub fn publish(
        &mut self,
        to: &Destination,
        source: &Source<'_>,
        place: &str,
        now: i64,
        progress: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<Published> {
        let lake = schema::lake();
        // What an interrupted publication left may have events of users who are erased now.
        to.clear_temp()?;
        let statements = match self.is_described {
            true => Vec::new(),
            false => attach::changed(to, place)?,
        };
        self.events.open(to, &lake)?;
        for (dir, rows) in source.small {
            let new = || Table::of_one_file(dir, &self.store);
            let table = self.small.entry(*dir).or_insert_with(new);
            table.open(to, rows.schema())?;
        }
        let mut published = Vec::new();
        let files = source.version.segments.iter().map(data_file);
        let content = Content {
            schema: &lake,
            files: files.collect(),
            sequence: source.version.sequence,
        };
        let outcome = self.events.publish(to, &content, now, progress)?;
        published.push((EVENTS_DIR, outcome));
        for (dir, rows) in source.small {
            let Some(table) = self.small.get_mut(dir) else {
                continue;
            };
            let (bytes, meta) = encoded(rows)?;
            let name = format!("{:08x}", meta.crc32c);
            let file = DataFile {
                day: None,
                name: match *dir {
                    LINKS_DIR => table::removals_name(source.version.link_removals(), &name),
                    _ => name,
                },
                rows: meta.rows,
                span_us: None,
                bytes: Some(meta.bytes),
                write: Box::new(|path| {
                    destination::write_synced(path, &bytes)?;
                    Ok(meta)
                }),
            };
            let content = Content {
                schema: rows.schema(),
                files: vec![file],
                sequence: source.version.sequence,
            };
            let outcome = table.publish(to, &content, now, &mut |_| Ok(()))?;
            published.push((*dir, outcome));
        }
        for (path, content) in &statements {
            to.write(path, content.as_bytes())?;
        }
        self.is_described = true;
        Ok(published)
    }

    /// Deletes the files whose time has come, and writes the checkpoints that are due.
    ///
    /// # Errors
    /// As [`Table::tidy`].
    pub fn tidy(&mut self, to: &Destination, now: i64) -> Result<()> {
        self.events.tidy(to, now)?;
        let mut small = self.small.values_mut();
        small.try_for_each(|table| table.tidy(to, now))
    }

    /// Time at which the next removed file is deleted, in ms since 1970.
    pub fn next_deletion(&self) -> Option<i64> {
        let small = self.small.values().filter_map(Table::next_deletion);
        self.events.next_deletion().into_iter().chain(small).min()
    }
}

/// A small file next to a table; none if it is not there.
///
/// # Errors
/// If it cannot be read, and [`Error::Damaged`] if it cannot be decoded.
fn read_json<T: DeserializeOwned>(to: &Destination, path: &str) -> Result<Option<T>> {
    let Some(content) = to.read(path)? else {
        return Ok(None);
    };
    let value = serde_json::from_slice(&content).map_err(|error| Error::Damaged {
        file: to.shown(path).into(),
        message: error.to_string(),
    })?;
    Ok(Some(value))
}

/// The file of a segment.
pub fn data_file(segment: &SealedSegment) -> DataFile<'_> {
    DataFile {
        day: Some(segment.day()),
        name: segment.name(),
        rows: segment.rows(),
        span_us: Some(segment.span_us()),
        bytes: segment.bytes(),
        write: Box::new(|path| segment.write(path)),
    }
}

/// A table as a Parquet file.
fn encoded(rows: &DataFrame) -> Result<(Vec<u8>, ExportPartMeta)> {
    let mut bytes = Vec::new();
    parquet::writer(&mut bytes, rows.schema())?.finish(&mut rows.clone())?;
    let meta = ExportPartMeta {
        rows: rows.height() as u64,
        bytes: bytes.len() as u64,
        crc32c: crc32c::crc32c(&bytes),
    };
    Ok((bytes, meta))
}
