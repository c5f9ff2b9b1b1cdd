//! Places of a table in tests: a folder, and a bucket in memory.

use std::path::PathBuf;
use std::sync::Arc;

use chrono::NaiveDate;
use object_store::memory::InMemory;

use crate::export::destination::{Bucket, Destination, Readers, Root};

/// A day with events.
pub const DAY: NaiveDate = NaiveDate::from_ymd_opt(2026, 11, 26).expect("a date");
/// The folder of the table.
pub const TABLE: &str = "events";
/// A time on that day, in ms.
pub const NOW: i64 = 1_795_700_000_000;
/// An hour in ms.
pub const HOUR_MS: i64 = 3_600_000;

/// A destination, and the path below which its operations are counted.
pub struct Place {
    _dir: tempfile::TempDir,
    /// The destination.
    pub to: Destination,
    /// The path.
    pub root: PathBuf,
}

/// A folder that is not there yet.
pub fn folder() -> Place {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let root = dir.path().join("to");
    let to = Destination::Folder(Root {
        path: root.clone(),
        readers: Readers::ByUmask,
    });
    Place {
        _dir: dir,
        to,
        root,
    }
}

/// An empty bucket.
pub fn bucket() -> Place {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let name = dir.path().file_name().expect("a name").to_string_lossy();
    let url = format!("memory://{name}");
    let temp = dir.path().to_owned();
    let bucket = Bucket::over(Arc::new(InMemory::new()), &url, temp.join("upload"));
    Place {
        _dir: dir,
        to: Destination::Bucket(bucket.expect("a bucket")),
        root: url.into(),
    }
}
