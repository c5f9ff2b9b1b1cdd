//! Events as a stream of bytes, part by part, so that memory is bounded by one part.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::Schema;
use arrow::ipc::writer::StreamWriter;
use parking_lot::Mutex;
use polars::io::parquet::write::BatchedWriter;
use polars::prelude::DataFrame;
use utoipa::ToSchema;

use super::csv::{Reader, Records};
use super::failed;
use crate::error::{Error, ErrorCode, Result, shown};
use crate::event::timestamp;
use crate::parquet;
use crate::schema;
use crate::store;

/// Most rows of a row group.
const ROW_GROUP_ROWS: usize = 1 << 16;

/// Rows that are encoded at once in formats without row groups; a few MB.
const SLICE_ROWS: usize = 1 << 13;

/// A format of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "kebab-case")]
pub enum EventFormat {
    /// One line per event, as in the log.
    Ndjson,
    /// CSV with a header, values unchanged.
    Csv,
    /// CSV for a spreadsheet, with a byte-order mark and without formulas in strings.
    CsvSpreadsheet,
    /// The columns of the lake as an Arrow IPC stream.
    Arrow,
    /// The columns of the lake as one Parquet file.
    Parquet,
}

impl EventFormat {
    /// All formats; the first one is the default.
    pub const ALL: [Self; 5] = [
        Self::Parquet,
        Self::Csv,
        Self::CsvSpreadsheet,
        Self::Ndjson,
        Self::Arrow,
    ];
    /// The names of all formats.
    pub const NAMES: [&str; 5] = ["parquet", "csv", "csv-spreadsheet", "ndjson", "arrow"];

    /// The format with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Csv => "csv",
            Self::CsvSpreadsheet => "csv-spreadsheet",
            Self::Ndjson => "ndjson",
            Self::Arrow => "arrow",
        }
    }

    /// Rows that are encoded at once.
    pub fn slice_rows(self) -> usize {
        match self {
            Self::Ndjson | Self::Csv | Self::CsvSpreadsheet | Self::Arrow => SLICE_ROWS,
            // A slice becomes a row group, or several where it spans parts of a segment.
            Self::Parquet => ROW_GROUP_ROWS,
        }
    }

    /// Its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Ndjson => "application/x-ndjson",
            Self::Csv => "text/csv; charset=utf-8",
            Self::CsvSpreadsheet => "text/csv; charset=utf-8; variant=spreadsheet",
            Self::Arrow => "application/vnd.apache.arrow.stream",
            Self::Parquet => "application/vnd.apache.parquet",
        }
    }
}

/// Encodes events part by part.
pub struct Encoder {
    kind: Kind,
    /// Encoded bytes that were not taken yet.
    out: Sink,
}

enum Kind {
    Ndjson,
    Csv(Reader),
    Arrow(Box<StreamWriter<Sink>>),
    Parquet(Box<BatchedWriter<Sink>>),
}

/// A buffer that an encoder writes, and that is emptied after each part.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Sink {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock())
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Encoder {
    /// Starts an encoder of this format.
    ///
    /// # Errors
    /// If the header cannot be encoded.
    pub fn new(format: EventFormat) -> Result<Self> {
        let mut out = Sink::default();
        let kind = match format {
            EventFormat::Ndjson => Kind::Ndjson,
            EventFormat::Csv => csv(Reader::Machine, &mut out)?,
            EventFormat::CsvSpreadsheet => csv(Reader::Spreadsheet, &mut out)?,
            EventFormat::Arrow => {
                let writer =
                    StreamWriter::try_new(out.clone(), &arrow_schema()?).map_err(failed)?;
                Kind::Arrow(Box::new(writer))
            }
            EventFormat::Parquet => {
                let writer =
                    parquet::writer(out.clone(), &schema::lake())?.batched(&schema::lake())?;
                Kind::Parquet(Box::new(writer))
            }
        };
        Ok(Self { kind, out })
    }

    /// Encodes events with the columns of [`schema::lake`]; returns the bytes that are ready.
    ///
    /// # Errors
    /// If they cannot be encoded.
    pub fn write(&mut self, events: &DataFrame) -> Result<Vec<u8>> {
        match &mut self.kind {
            Kind::Ndjson => {
                let mut lines = Vec::new();
                store::write_lines(events, &mut lines)?;
                self.out.write_all(&lines).map_err(failed)?;
            }
            Kind::Csv(reader) => {
                let rows = csv_rows(events, *reader)?;
                self.out.write_all(&rows).map_err(failed)?;
            }
            Kind::Arrow(writer) => writer.write(&record_batch(events)?).map_err(failed)?,
            Kind::Parquet(writer) => writer.write_batch(events)?,
        }
        Ok(self.out.take())
    }

    /// Ends the stream; returns the remaining bytes.
    ///
    /// # Errors
    /// If the footer cannot be encoded.
    pub fn finish(self) -> Result<Vec<u8>> {
        match self.kind {
            Kind::Ndjson | Kind::Csv(_) => {}
            Kind::Arrow(mut writer) => writer.finish().map_err(failed)?,
            Kind::Parquet(writer) => drop(writer.finish()?),
        }
        Ok(self.out.take())
    }
}

fn csv(reader: Reader, out: &mut Sink) -> Result<Kind> {
    let lake = schema::lake();
    let records = Records::with_header(reader, lake.iter_names().map(|name| name.as_str()));
    out.write_all(&records.into_bytes()).map_err(failed)?;
    Ok(Kind::Csv(reader))
}

fn csv_rows(events: &DataFrame, reader: Reader) -> Result<Vec<u8>> {
    /// The values of a column.
    enum Cells<'a> {
        Strings(&'a polars::prelude::StringChunked),
        Timestamps(polars::prelude::Int64Chunked),
    }
    let columns: Vec<Cells<'_>> = events
        .columns()
        .iter()
        .map(|column| match column.str() {
            Ok(strings) => Ok(Cells::Strings(strings)),
            Err(_) => Ok(Cells::Timestamps(column.to_physical_repr().i64()?.clone())),
        })
        .collect::<Result<_>>()?;
    let mut records = Records::new(reader);
    for row in 0..events.height() {
        for column in &columns {
            match column {
                Cells::Strings(strings) => records.string(strings.get(row)),
                Cells::Timestamps(timestamps) => {
                    records.field(timestamps.get(row).map(rfc3339).as_deref());
                }
            }
        }
        records.end();
    }
    Ok(records.into_bytes())
}

fn rfc3339(ts_us: i64) -> String {
    let mut string = Vec::new();
    timestamp::write(ts_us, &mut string);
    String::from_utf8_lossy(&string).into_owned()
}

fn arrow_schema() -> Result<Schema> {
    parquet::arrow_schema(&schema::lake())
}

fn record_batch(events: &DataFrame) -> Result<RecordBatch> {
    let columns = events.columns().iter().map(|column| -> Result<ArrayRef> {
        Ok(match column.str() {
            Ok(strings) => Arc::new(strings.iter().collect::<StringArray>()),
            Err(_) => {
                let timestamps = column.to_physical_repr();
                let timestamps: TimestampMicrosecondArray = timestamps.i64()?.iter().collect();
                Arc::new(timestamps.with_timezone("UTC"))
            }
        })
    });
    RecordBatch::try_new(Arc::new(arrow_schema()?), columns.collect::<Result<_>>()?).map_err(failed)
}

impl std::str::FromStr for EventFormat {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::from_name(name).ok_or_else(|| {
            let name = shown(name);
            let allowed = Self::NAMES.join(", ");
            Error::bad_input(
                ErrorCode::BadFormat,
                format!("format is {name:?}; allowed are {allowed}"),
            )
        })
    }
}
