//! Files of other products: their exports, as JSON, comma-separated values or Parquet. All of them
//! are checked before anything is stored, because a file of another shape would be half imported
//! otherwise.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use csv::ByteRecord;
use polars::prelude::{DataType, ParquetReader, PolarsResult, SerReader};

use super::chunks::{Chunk, Chunks};
use super::source::{DESCRIBED_REJECTIONS, Source, next_chunk};
use crate::config::Mapping;
use crate::error::{Error, ErrorCode, Result};
use crate::event::{Outcome, text};
use crate::plan::CheckedPlan;
use crate::progress::Progress;
use crate::sdk::{self, Mapped, Product};
use crate::store::pipeline;

/// First bytes of a Parquet file.
const PARQUET_MARK: &[u8] = b"PAR1";
/// Rows of a Parquet file that are read at a time.
const PARQUET_ROWS: usize = 20_000;
/// Times before and after all events, in µs.
const EVER_US: (i64, i64) = (i64::MIN / 2, i64::MAX / 2);
/// Values of missing fields in comma-separated values, apart from none.
const MISSING: [&[u8]; 2] = [b"\\N", b"NULL"];

/// A product whose files are imported, and how its events are mapped.
#[derive(Debug, Clone)]
pub struct Foreign {
    /// The product.
    pub product: Product,
    /// The mapping.
    pub mapping: Mapping,
}

impl Foreign {
    /// Maps a message, received at `received_at_us`; `shift_us` is added to its time.
    pub fn map<'a>(
        &self,
        message: &'a [u8],
        plan: &CheckedPlan,
        received_at_us: i64,
        shift_us: i64,
    ) -> Mapped<'a> {
        // At the time at which it would have been received, so that limits of age are right.
        let at_us = received_at_us.saturating_sub(shift_us);
        let mut mapped = self.map_between(message, plan, at_us, at_us);
        if let Outcome::Accepted(event, _) = &mut mapped.outcome {
            event.ts_us = event.ts_us.saturating_add(shift_us);
            event.received_at_us = received_at_us;
        }
        mapped
    }

    /// Maps a message whose time is within the limits around these two.
    fn map_between<'a>(
        &self,
        message: &'a [u8],
        plan: &CheckedPlan,
        at_us: i64,
        latest_us: i64,
    ) -> Mapped<'a> {
        let context = sdk::Context {
            is_conversion: &|name| self.mapping.has_conversion(name) || plan.is_conversion(name),
            traits: self.mapping.sdk_traits,
        };
        let received = sdk::Received {
            at_us,
            latest_us,
            corrects_clock: false,
            sent_at: None,
        };
        let message = std::str::from_utf8(message).unwrap_or("not UTF-8");
        sdk::map(self.product, message, None, &context, received)
    }

    /// Checks that each record of all files has the shape of the product's. Returns the time of the
    /// newest event.
    ///
    /// # Errors
    /// With the first records that have another shape, and the reason.
    pub fn check(&self, sources: &[Source], plan: &CheckedPlan) -> Result<Option<i64>> {
        let mut newest = None;
        let mut wrong = 0;
        let mut described: Vec<String> = Vec::new();
        for source in sources {
            let name = source.name();
            let mut chunks = Chunks::new(open(source, &Progress::default())?);
            let mut before = 0;
            pipeline::ordered(
                || next_chunk(&mut chunks, &name),
                |chunk: Chunk| self.check_chunk(&chunk, plan),
                |found: Checked| {
                    newest = newest.max(found.newest);
                    for (index, message) in found.wrong {
                        wrong += 1;
                        if described.len() < DESCRIBED_REJECTIONS {
                            let place = index.map_or(String::new(), |index| {
                                format!(", record {}", before + index + 1)
                            });
                            described.push(format!("{name}{place}: {message}"));
                        }
                    }
                    before += found.records;
                    Ok(())
                },
            )?;
        }
        if wrong == 0 {
            return Ok(newest);
        }
        let product = self.product.name();
        let described = described.join("\n");
        Err(Error::bad_input(
            ErrorCode::BadImport,
            format!(
                "{wrong} records do not have the shape of {product}; nothing was imported; the first of them:\n{described}"
            ),
        ))
    }

    fn check_chunk(&self, chunk: &Chunk, plan: &CheckedPlan) -> Checked {
        let mut checked = Checked::default();
        for record in chunk.records() {
            each_message(chunk, record, |message| {
                let text = std::str::from_utf8(message).map_err(|_| "it is not UTF-8".to_owned());
                match text.and_then(|text| sdk::check_shape(self.product, text)) {
                    Ok(()) => {
                        // Whatever its time is. One without any has the first.
                        let mapped = self.map_between(message, plan, EVER_US.0, EVER_US.1);
                        if let Outcome::Accepted(event, _) = mapped.outcome
                            && event.ts_us > EVER_US.0
                        {
                            checked.newest = checked.newest.max(Some(event.ts_us));
                        }
                    }
                    Err(message) => checked.wrong.push((Some(checked.records), message)),
                }
            });
            checked.records += 1;
        }
        if let Some(fault) = chunk.fault() {
            checked.wrong.push((None, fault.message().to_owned()));
        }
        checked
    }
}

/// The result of the check of a chunk.
#[derive(Default)]
struct Checked {
    records: u64,
    newest: Option<i64>,
    /// The index of a record, or none for what follows the last one, and what is wrong.
    wrong: Vec<(Option<u64>, String)>,
}

/// Calls `found` with each message of a record: it is one, or a line with a list of them.
pub fn each_message<'a>(chunk: &Chunk, record: &'a [u8], mut found: impl FnMut(&'a [u8])) {
    let record = record.trim_ascii();
    if record.is_empty() {
        return;
    }
    let list = (chunk.has_lines() && record.starts_with(b"["))
        .then(|| std::str::from_utf8(record).ok())
        .flatten();
    match list.and_then(sdk::elements) {
        Some(messages) => messages.into_iter().for_each(|one| found(one.as_bytes())),
        None => found(record),
    }
}

/// Opens a file as lines of JSON.
pub fn open(source: &Source, progress: &Progress) -> Result<Box<dyn BufRead + Send>> {
    let Source::File(path) = source else {
        return Err(Error::bad_input(
            ErrorCode::BadImport,
            "--from reads each file twice and cannot be used with standard input; pass a file",
        ));
    };
    let mut start = [0; PARQUET_MARK.len()];
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let is_parquet = file.read_exact(&mut start).is_ok() && start == PARQUET_MARK;
    if is_parquet {
        let rows = ParquetRows {
            path: path.clone(),
            offset: 0,
            progress: progress.clone(),
            bytes: source.bytes().unwrap_or(0),
        };
        return Ok(Box::new(BufReader::new(Lines::new(rows))));
    }
    let mut reader = source.open(progress)?;
    let start = reader.fill_buf().map_err(Error::io("read", path))?;
    let start = text::without_mark(start).trim_ascii_start();
    match start.first() {
        None | Some(b'{' | b'[') => Ok(reader),
        Some(byte) if byte.is_ascii_graphic() => {
            let reader = csv::ReaderBuilder::new().flexible(true).from_reader(reader);
            let rows = CsvRows::new(reader, path)?;
            Ok(Box::new(BufReader::new(Lines::new(rows))))
        }
        // It is reported as what it is.
        Some(_) => Ok(reader),
    }
}

/// A table whose rows become objects with the columns as members.
trait Rows {
    /// Appends some rows, each as a line of JSON; false at the end.
    fn append(&mut self, out: &mut Vec<u8>) -> std::io::Result<bool>;
}

/// The rows of a table as lines of JSON.
struct Lines<R> {
    rows: R,
    buffer: Vec<u8>,
    at: usize,
}

impl<R: Rows> Lines<R> {
    fn new(rows: R) -> Self {
        Self {
            rows,
            buffer: Vec::new(),
            at: 0,
        }
    }
}

impl<R: Rows> Read for Lines<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        while self.at == self.buffer.len() {
            self.buffer.clear();
            self.at = 0;
            if !self.rows.append(&mut self.buffer)? {
                return Ok(0);
            }
        }
        let rest = self.buffer.get(self.at..).unwrap_or_default();
        let count = rest.len().min(out.len());
        if let (Some(to), Some(from)) = (out.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        self.at += count;
        Ok(count)
    }
}

/// Appends a member of an object; values that are missing are left out.
fn put(out: &mut Vec<u8>, is_first: &mut bool, name: &str, value: &str) {
    out.push(if std::mem::take(is_first) { b'{' } else { b',' });
    text::encode(name, out);
    out.push(b':');
    text::encode(value, out);
}

/// Ends an object, which may be empty.
fn end_line(out: &mut Vec<u8>, is_first: bool) {
    out.extend_from_slice(if is_first { b"{}\n" } else { b"}\n" });
}

struct CsvRows<R> {
    reader: csv::Reader<R>,
    names: Vec<String>,
    row: ByteRecord,
}

impl<R: Read> CsvRows<R> {
    fn new(mut reader: csv::Reader<R>, path: &Path) -> Result<Self> {
        let names = reader
            .byte_headers()
            .map_err(|error| Error::io("read", path)(std::io::Error::other(error)))?;
        let names = names.iter().map(|name| {
            let name = String::from_utf8_lossy(text::without_mark(name)).into_owned();
            name.trim().to_owned()
        });
        Ok(Self {
            names: names.collect(),
            reader,
            row: ByteRecord::new(),
        })
    }
}

impl<R: Read> Rows for CsvRows<R> {
    fn append(&mut self, out: &mut Vec<u8>) -> std::io::Result<bool> {
        let read = self.reader.read_byte_record(&mut self.row);
        if !read.map_err(std::io::Error::other)? {
            return Ok(false);
        }
        let mut is_first = true;
        for (name, value) in self.names.iter().zip(&self.row) {
            if !value.is_empty() && !MISSING.contains(&value) {
                put(out, &mut is_first, name, &String::from_utf8_lossy(value));
            }
        }
        end_line(out, is_first);
        Ok(true)
    }
}

struct ParquetRows {
    path: PathBuf,
    offset: usize,
    progress: Progress,
    /// Those of the file that are not reported as progress yet.
    bytes: u64,
}

impl Rows for ParquetRows {
    fn append(&mut self, out: &mut Vec<u8>) -> std::io::Result<bool> {
        let rows = ParquetReader::new(File::open(&self.path)?)
            .with_slice(Some((self.offset, PARQUET_ROWS)))
            .finish()
            .map_err(std::io::Error::other)?;
        self.offset += rows.height();
        if rows.height() < PARQUET_ROWS {
            self.progress.add(std::mem::take(&mut self.bytes));
        }
        let columns = rows.columns().iter().map(|column| {
            let text = column.cast(&DataType::String)?;
            Ok((column.name().to_string(), text.str()?.clone()))
        });
        let columns: PolarsResult<Vec<_>> = columns.collect();
        let columns = columns.map_err(std::io::Error::other)?;
        for row in 0..rows.height() {
            let mut is_first = true;
            for (name, values) in &columns {
                if let Some(value) = values.get(row) {
                    put(out, &mut is_first, name, value);
                }
            }
            end_line(out, is_first);
        }
        Ok(rows.height() > 0)
    }
}
