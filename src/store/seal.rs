//! Sealing: the event log becomes segments. At every instant an event is visible exactly once.
//!
//! 1. The writer moves the log aside under a number and goes on with an empty one. 2. The logs that lie
//!    aside are written as segments, which nobody sees yet. 3. The manifest names the segments and the number:
//!    that is the commit. 4. The logs are removed. A crash before 3 leaves the logs, which are read back and
//!    sealed again; a crash after 3 leaves logs that the manifest says are covered, which are removed.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use polars::prelude::*;

use super::folder::{self, Folder};
use super::segment::{self, SegmentFacts};
use crate::error::{Error, Result};
use crate::event::{self, Event};
use crate::schema;

/// Where rotated logs wait to be sealed, in the data folder.
const SEALING_DIR: &str = "sealing";
/// Events that are written at once: with [`BATCH_BYTES`] bounds memory to some hundred MB.
const BATCH_ROWS: usize = 1 << 20;
/// Bytes of lines that are written at once.
const BATCH_BYTES: usize = 256 << 20;

/// A log that was moved aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RotatedLog {
    pub number: u64,
    pub path: PathBuf,
}

impl RotatedLog {
    /// The path for a log of that number, in a folder that is there.
    pub fn prepare(folder: &Path, number: u64) -> Result<PathBuf> {
        let dir = folder.join(SEALING_DIR);
        std::fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        folder::sync_parent(&dir)?;
        Ok(dir.join(format!("{number:08}.ndjson")))
    }

    /// Whether a segment of that file name was made from this log.
    pub fn names(&self, segment: &str) -> bool {
        segment.starts_with(&format!("{:08}-", self.number))
    }

    /// The logs that lie aside, in order.
    pub fn list(folder: &Path) -> Result<Vec<Self>> {
        let dir = folder.join(SEALING_DIR);
        let entries = match std::fs::read_dir(&dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(Error::io("list", &dir))?,
        };
        let mut logs = Vec::new();
        for entry in entries {
            let path = entry.map_err(Error::io("list", &dir))?.path();
            let number = path
                .file_stem()
                .filter(|_| {
                    path.extension()
                        .is_some_and(|extension| extension == "ndjson")
                })
                .and_then(|stem| stem.to_str()?.parse().ok());
            match number {
                Some(number) => logs.push(Self { number, path }),
                None => tracing::warn!(file = %path.display(), "Ignored an unknown file"),
            }
        }
        logs.sort_by_key(|log| log.number);
        Ok(logs)
    }

    /// Writes the log's events as segments. They are not live yet.
    pub fn write_segments(&self, folder: &Folder) -> Result<Vec<SegmentFacts>> {
        let file = File::open(&self.path).map_err(Error::io("open", &self.path))?;
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let mut facts = Vec::new();
        let mut rows = LakeRows::default();
        let mut line = Vec::new();
        let mut offset = 0;
        loop {
            line.clear();
            let read = reader
                .read_until(b'\n', &mut line)
                .map_err(Error::io("read", &self.path))?;
            match event::read_line(line.strip_suffix(b"\n").unwrap_or(&line)) {
                Ok(event) => {
                    rows.push(&event);
                    rows.text_bytes += read;
                }
                // What was damaged when the log was read back is blank now.
                Err(_) if line.trim_ascii().is_empty() => {}
                Err(reason) => {
                    return Err(Error::Damaged {
                        file: self.path.clone(),
                        message: format!(
                            "at byte {offset}: {}; restart to set it aside",
                            reason.reason()
                        ),
                    });
                }
            }
            offset += read;
            let is_full = rows.len() >= BATCH_ROWS || rows.text_bytes >= BATCH_BYTES;
            if is_full || (read == 0 && rows.len() > 0) {
                let name = format!("{:08}-{}", self.number, facts.len());
                facts.extend(segment::write_days(folder, &name, rows.take()?)?);
            }
            if read == 0 {
                return Ok(facts);
            }
        }
    }
}

/// Events as the columns of [`schema::lake`].
#[derive(Default)]
struct LakeRows {
    ts_us: Vec<i64>,
    event_type: Vec<&'static str>,
    user_id: Vec<Option<String>>,
    feature: Vec<Option<String>>,
    metadata: Vec<String>,
    url: Vec<Option<String>>,
    event_id: Vec<Option<String>>,
    received_at_us: Vec<i64>,
    /// Bytes of the events' lines.
    text_bytes: usize,
}

impl LakeRows {
    fn len(&self) -> usize {
        self.ts_us.len()
    }

    fn push(&mut self, event: &Event<'_>) {
        self.ts_us.push(event.ts_us);
        self.event_type.push(event.event_type.name());
        self.user_id
            .push(event.user_id.as_deref().map(str::to_owned));
        self.feature
            .push(event.feature.as_deref().map(str::to_owned));
        self.metadata.push(event.metadata.clone().into_owned());
        self.url.push(event.url.as_deref().map(str::to_owned));
        self.event_id
            .push(event.event_id.as_deref().map(str::to_owned));
        self.received_at_us.push(event.received_at_us);
    }

    /// The events as a frame; the rows are empty afterwards.
    fn take(&mut self) -> Result<DataFrame> {
        let rows = std::mem::take(self);
        let instant = |name: &'static str, instants: &[i64]| {
            Int64Chunked::from_slice(PlSmallStr::from_static(name), instants)
                .into_datetime(TimeUnit::Microseconds, Some(TimeZone::UTC))
                .into_column()
        };
        Ok(DataFrame::new(
            rows.len(),
            vec![
                instant(schema::TS, &rows.ts_us),
                Column::new(schema::EVENT_TYPE.into(), rows.event_type),
                Column::new(schema::USER_ID.into(), rows.user_id),
                Column::new(schema::FEATURE.into(), rows.feature),
                Column::new(schema::METADATA.into(), rows.metadata),
                Column::new(schema::URL.into(), rows.url),
                Column::new(schema::EVENT_ID.into(), rows.event_id),
                instant(schema::RECEIVED_AT, &rows.received_at_us),
            ],
        )?)
    }
}
