//! Rows from the Arrow streams of a result.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Int8Type, Int16Type, Int32Type, Int64Type};
use arrow::ipc::reader::StreamReader;
use arrow::record_batch::RecordBatch;

use super::messages::ArrowBatch;
use crate::sql::answer::{Cell, Rows};

/// Adds the rows of a batch.
///
/// # Errors
/// A sentence about what is wrong with the batch.
pub fn add(batch: &ArrowBatch, rows: &mut Rows) -> Result<(), String> {
    let broken =
        |error: arrow::error::ArrowError| format!("its rows are not an Arrow stream: {error}");
    let stream = StreamReader::try_new(batch.data.as_slice(), None).map_err(broken)?;
    let before = rows.rows.len();
    for records in stream {
        add_records(&records.map_err(broken)?, rows)?;
    }
    let added = rows.rows.len() - before;
    match usize::try_from(batch.row_count) {
        Ok(announced) if announced == added => Ok(()),
        _ => Err(format!(
            "a part of its result has {added} rows instead of {}",
            batch.row_count
        )),
    }
}

fn add_records(records: &RecordBatch, rows: &mut Rows) -> Result<(), String> {
    let schema = records.schema();
    let names: Vec<String> = schema
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect();
    if rows.names.is_empty() {
        rows.names = names;
    } else if rows.names != names {
        return Err(format!(
            "the parts of its result have other columns: {}",
            names.join(", ")
        ));
    }
    let columns: Vec<Vec<Cell>> = rows
        .names
        .iter()
        .zip(records.columns())
        .map(|(name, column)| cells(name, column.as_ref()))
        .collect::<Result<_, String>>()?;
    let mut columns: Vec<_> = columns.into_iter().map(Vec::into_iter).collect();
    for _ in 0..records.num_rows() {
        let row = columns
            .iter_mut()
            .map(|column| column.next().unwrap_or(Cell::Null));
        rows.rows.push(row.collect());
    }
    Ok(())
}

fn cells(name: &str, column: &dyn Array) -> Result<Vec<Cell>, String> {
    macro_rules! integers {
        ($Type:ty) => {{
            let values = column.as_primitive::<$Type>().iter();
            let cell = |value: Option<_>| {
                value.map_or(Cell::Null, |value| Cell::Integer(i64::from(value)))
            };
            Ok(values.map(cell).collect())
        }};
    }
    let string = |value: Option<&str>| value.map_or(Cell::Null, |value| Cell::String(value.into()));
    match column.data_type() {
        DataType::Int8 => integers!(Int8Type),
        DataType::Int16 => integers!(Int16Type),
        DataType::Int32 => integers!(Int32Type),
        DataType::Int64 => integers!(Int64Type),
        DataType::Utf8 => Ok(column.as_string::<i32>().iter().map(string).collect()),
        DataType::LargeUtf8 => Ok(column.as_string::<i64>().iter().map(string).collect()),
        DataType::Null => Ok(vec![Cell::Null; column.len()]),
        other => Err(format!(
            "the column {name} of its result is of the type {other}"
        )),
    }
}
