//! The files of links between ids: the links as the store reads them, which the manifest names, and
//! a table of them for other programs, which lies next to the lake.
//!
//! The first is immutable and written again when links change. The table follows from it, under a
//! name of its own for those who read one committed version, and under one that stays the same.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use polars::prelude::*;
use serde::{Deserialize, Serialize};

use super::folder::Folder;
use super::output::Output;
use super::shape;
use crate::dictionary::UserDictionary;
use crate::error::{Error, Result};
use crate::links::Links;
use crate::parquet;
use crate::schema;
use crate::store::files;

/// Their folder in the data folder.
const DIR: &str = "links";
/// Time for which the table of an earlier version is kept: a query of another program that reads it
/// may take that long.
const KEPT: Duration = Duration::from_secs(180);

/// Metadata of the links in the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinksMeta {
    /// Path below the data folder.
    pub path: String,
    /// Length of the file.
    pub bytes: u64,
    /// CRC-32C of the file.
    pub crc32c: u32,
    /// Number of links that hold.
    pub links: u64,
}

impl LinksMeta {
    /// Path of the table of these links below the data folder. It is written after their commit.
    pub fn table(&self) -> String {
        format!("{}{}", self.path, shape::LINKS_TABLE_SUFFIX)
    }
}

/// Reads the links; none before there were any.
///
/// # Errors
/// [`Error::Damaged`] if they are not what was written.
pub fn load(root: &Path, meta: Option<&LinksMeta>) -> Result<Links> {
    let Some(meta) = meta else {
        return Ok(Links::default());
    };
    let path = root.join(&meta.path);
    let damaged = |message: String| Error::Damaged {
        file: path.clone(),
        message,
    };
    let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
    if crc32c::crc32c(&bytes) != meta.crc32c {
        return Err(damaged("its checksum does not match; restore it".into()));
    }
    Links::decode(&bytes).map_err(damaged)
}

/// Writes links. They are not live before a manifest names the file. The number makes its name
/// unique.
///
/// # Errors
/// If the file cannot be written.
pub fn write(folder: &Folder, number: u64, links: &Links) -> Result<LinksMeta> {
    let dir = folder.path().join(DIR);
    files::make(&dir)?;
    let path = format!("{DIR}/{}", shape::links(number));
    let bytes = links.encode();
    files::write_synced(&folder.path().join(&path), &bytes)?;
    files::sync(&dir)?;
    Ok(LinksMeta {
        path,
        bytes: bytes.len() as u64,
        crc32c: crc32c::crc32c(&bytes),
        links: links.len(),
    })
}

/// Removes the files of links that are not live.
///
/// # Errors
/// If the folder cannot be listed or changed.
pub fn remove_others(folder: &Folder, live: Option<&LinksMeta>) -> Result<()> {
    let live = live.map(|live| folder.path().join(&live.path));
    for path in files::list(&folder.path().join(DIR))? {
        if shape::links_number(&name_of(&path)).is_some() && Some(&path) != live.as_ref() {
            files::remove(&path)?;
        }
    }
    Ok(())
}

/// The tables of earlier versions that are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldTables {
    /// All: they may have ids of erased users.
    All,
    /// Those that no reader needs any more.
    Unneeded,
}

/// Removes tables of links that are not live.
///
/// # Errors
/// If the folder cannot be listed or changed.
pub fn remove_old_tables(
    folder: &Folder,
    live: Option<&LinksMeta>,
    which: OldTables,
) -> Result<()> {
    let live = live.map(|live| folder.path().join(live.table()));
    for path in files::list(&folder.path().join(DIR))? {
        if !shape::is_table_of_links(&name_of(&path)) || Some(&path) == live.as_ref() {
            continue;
        }
        let written = path.metadata().and_then(|found| found.modified()).ok();
        // A time in the future has no age.
        let age = written.and_then(|written| written.elapsed().ok());
        if which == OldTables::All || age.is_none_or(|age| age > KEPT) {
            files::remove(&path)?;
        }
    }
    Ok(())
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Path of the newest table.
pub fn table_path(root: &Path) -> PathBuf {
    root.join(DIR).join(shape::LINKS_TABLE)
}

/// True if the newest table is that of these links.
pub fn is_table_current(root: &Path, meta: Option<&LinksMeta>) -> bool {
    let file = |path: &Path| path.metadata().map(|found| (found.dev(), found.ino())).ok();
    let newest = file(&table_path(root));
    match meta {
        Some(meta) => newest.is_some() && newest == file(&root.join(meta.table())),
        None => newest.is_some(),
    }
}

/// The links that hold as a table of aliases, their users, and the time of the first statement, by
/// alias. Links of ids that have expired are left out.
///
/// # Errors
/// If the table cannot be built.
pub fn table(links: &Links, users: &UserDictionary) -> Result<DataFrame> {
    let holding = links.list(0).into_iter();
    let holding = holding.filter(|link| link.rejected.is_none());
    let rows = holding.filter_map(|link| {
        let ids = (users.text(link.alias)?, users.text(link.user)?);
        Some((ids, link.since_us))
    });
    let mut rows: Vec<((String, String), i64)> = rows.collect();
    rows.sort_unstable();
    let aliases: Vec<&str> = rows.iter().map(|((alias, _), _)| alias.as_str()).collect();
    let of: Vec<&str> = rows.iter().map(|((_, user), _)| user.as_str()).collect();
    let since_us = rows.iter().map(|(_, since_us)| *since_us).collect();
    let columns = vec![
        Column::new(schema::ALIAS.into(), aliases),
        Column::new(schema::USER_ID.into(), of),
        schema::timestamps(schema::SINCE, since_us),
    ];
    Ok(DataFrame::new(rows.len(), columns)?)
}

/// Writes the table of committed links, and replaces the newest one by it, each atomically and
/// durably.
///
/// # Errors
/// If it cannot be written.
pub fn write_table(
    folder: &Folder,
    meta: Option<&LinksMeta>,
    links: &Links,
    users: &UserDictionary,
) -> Result<()> {
    let mut table = table(links, users)?;
    let temp = folder.temp(shape::LINKS_TABLE)?;
    files::or_remove(&temp, || {
        Output::new(files::create(&temp)?, &temp).write(|out| {
            parquet::writer(out, table.schema())?.finish(&mut table)?;
            Ok(())
        })?;
        files::make(&folder.path().join(DIR))?;
        if let Some(meta) = meta {
            let of_version = folder.path().join(meta.table());
            files::publish(&temp, &of_version)?;
            std::fs::hard_link(&of_version, &temp).map_err(Error::io("link", &of_version))?;
        }
        files::publish(&temp, &table_path(folder.path()))
    })
}
