//! Writing of Parquet files that every Arrow reader can use.
//!
//! Polars embeds an Arrow schema in each file, in which strings are *string views*. Pyarrow before
//! 16 and Polars before 0.20 reject such a file; later versions of pyarrow and pandas read it but
//! cannot filter, sort, take or join its strings. So the schema that is embedded here has plain
//! strings; the data pages are the same either way.

use std::io::Write;

use arrow::datatypes::{DataType as ArrowType, Field as ArrowField, Schema as ArrowSchema};
use arrow::ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use polars::prelude::{
    DataType, KeyValueMetadata, ParquetCompression, ParquetWriter, Schema, TimeUnit,
};

use crate::error::{Error, Result};

/// The metadata key under which every writer and reader of Parquet puts the Arrow schema.
const ARROW_SCHEMA_KEY: &str = "ARROW:schema";
/// The bytes before each message of an Arrow IPC stream.
const CONTINUATION: [u8; 4] = [0xFF; 4];

/// A writer of a Parquet file with these columns.
///
/// # Errors
/// If a column has a type that none of our files has.
pub fn writer<W: Write>(out: W, schema: &Schema) -> Result<ParquetWriter<W>> {
    let embedded = (ARROW_SCHEMA_KEY.to_owned(), encoded(&arrow_schema(schema)?));
    Ok(ParquetWriter::new(out)
        .with_compression(ParquetCompression::Zstd(None))
        .with_key_value_metadata(Some(KeyValueMetadata::from_static(vec![embedded]))))
}

/// The Arrow schema of these columns, with plain strings.
///
/// # Errors
/// If a column has a type that none of our files has.
pub fn arrow_schema(schema: &Schema) -> Result<ArrowSchema> {
    let fields = schema.iter().map(|(name, dtype)| {
        let dtype = match dtype {
            DataType::String => ArrowType::Utf8,
            DataType::Int64 => ArrowType::Int64,
            DataType::Float64 => ArrowType::Float64,
            DataType::Boolean => ArrowType::Boolean,
            DataType::Date => ArrowType::Date32,
            DataType::Datetime(TimeUnit::Microseconds, zone) => {
                let zone = zone.as_ref().map(|zone| zone.as_str().into());
                ArrowType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, zone)
            }
            other => {
                let message = format!("column {name} has type {other}, which cannot be written");
                return Err(Error::Query(message.into()));
            }
        };
        Ok(ArrowField::new(name.as_str(), dtype, true))
    });
    Ok(ArrowSchema::new(fields.collect::<Result<Vec<_>>>()?))
}

/// The schema as an Arrow IPC message in base64, which readers expect under [`ARROW_SCHEMA_KEY`].
fn encoded(schema: &ArrowSchema) -> String {
    let message = IpcDataGenerator::default()
        .schema_to_bytes_with_dictionary_tracker(
            schema,
            &mut DictionaryTracker::new(true),
            &IpcWriteOptions::default(),
        )
        .ipc_message;
    // A schema of a few columns has a few hundred bytes.
    let length = u32::try_from(message.len()).unwrap_or_default();
    STANDARD.encode([&CONTINUATION[..], &length.to_le_bytes(), &message].concat())
}

#[cfg(test)]
mod tests {
    use polars::prelude::*;

    use super::*;
    use crate::schema;

    #[test]
    fn columns_are_read_back_as_written_and_the_schema_has_plain_strings() -> Result<()> {
        let mut table = df!(
            "text" => [Some("a"), None, Some("")],
            "whole" => [1_i64, 2, 3],
            "number" => [0.5, 1.5, 2.5],
            "flag" => [true, false, true],
        )?;
        let day = Column::new("day".into(), [1_i32, 2, 3]).cast(&DataType::Date)?;
        table.with_column(day)?;
        table.with_column(schema::timestamps(schema::TS, vec![1, 2, 3]))?;
        let mut bytes = Vec::new();
        writer(&mut bytes, table.schema())?.finish(&mut table)?;
        let read = ParquetReader::new(std::io::Cursor::new(&bytes)).finish()?;
        assert_eq!(read.schema(), table.schema());
        assert!(read.equals_missing(&table));
        let embedded = encoded(&arrow_schema(table.schema())?);
        assert!(memchr::memmem::find(&bytes, embedded.as_bytes()).is_some());
        let keys = memchr::memmem::find_iter(&bytes, ARROW_SCHEMA_KEY);
        assert_eq!(keys.count(), 1);
        Ok(())
    }

    #[test]
    fn a_column_of_another_type_is_an_error() {
        let schema = Schema::from_iter([Field::new("a".into(), DataType::UInt32)]);
        assert!(writer(Vec::new(), &schema).is_err());
    }
}
