//! Query results in all formats: JSON, CSV, Arrow IPC stream, Parquet, and a table for a terminal.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::ipc::writer::StreamWriter;
use comfy_table::{CellAlignment, ContentArrangement, Table as TextTable};
use serde::Serialize;

use super::csv::{Reader, Records};
use super::failed;
use crate::error::Result;
use crate::metrics::table::{Table, Values};
use crate::parquet;

/// A format of query results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// The complete result as one JSON object.
    Json,
    /// The rows as CSV with a header, values unchanged.
    Csv,
    /// The rows as CSV for a spreadsheet, with a byte-order mark and without formulas in strings.
    CsvSpreadsheet,
    /// The rows as Parquet.
    Parquet,
    /// The rows as an Arrow IPC stream.
    Arrow,
}

impl Format {
    /// All formats; the first one is the default.
    pub const ALL: [Self; 5] = [
        Self::Json,
        Self::Csv,
        Self::CsvSpreadsheet,
        Self::Arrow,
        Self::Parquet,
    ];

    /// Its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Csv => "text/csv; charset=utf-8",
            Self::CsvSpreadsheet => "text/csv; charset=utf-8; variant=spreadsheet",
            Self::Parquet => "application/vnd.apache.parquet",
            Self::Arrow => "application/vnd.apache.arrow.stream",
        }
    }

    /// Encodes a result in this format: all of it in JSON, else its rows.
    ///
    /// # Errors
    /// If it cannot be encoded.
    pub fn encode(self, whole: &impl Serialize, rows: &Table) -> Result<Vec<u8>> {
        match self {
            Self::Json => serde_json::to_vec(whole).map_err(failed),
            Self::Csv => Ok(csv(rows, Reader::Machine)),
            Self::CsvSpreadsheet => Ok(csv(rows, Reader::Spreadsheet)),
            Self::Parquet => {
                let mut bytes = Vec::new();
                let mut rows = rows.frame()?;
                parquet::writer(&mut bytes, rows.schema())?.finish(&mut rows)?;
                Ok(bytes)
            }
            Self::Arrow => arrow_stream(rows),
        }
    }
}

fn csv(table: &Table, reader: Reader) -> Vec<u8> {
    let columns = table.flat();
    let names = columns.iter().map(|(name, _)| name.as_str());
    let mut records = Records::with_header(reader, names);
    for row in 0..table.height() {
        for (_, values) in &columns {
            let value = values.text(row);
            match values.as_ref() {
                Values::Text(_) | Values::Json(_) => records.string(value.as_deref()),
                _ => records.field(value.as_deref()),
            }
        }
        records.end();
    }
    records.into_bytes()
}

fn arrow_stream(table: &Table) -> Result<Vec<u8>> {
    let columns = table.flat().into_iter().map(|(name, values)| {
        let array: ArrayRef = match values.into_owned() {
            Values::Text(values) | Values::Json(values) => Arc::new(StringArray::from(values)),
            Values::Whole(values) => Arc::new(Int64Array::from(values)),
            Values::Number(values) => Arc::new(Float64Array::from(values)),
            Values::Flag(values) => Arc::new(BooleanArray::from(values)),
            // Flat columns have no lists.
            Values::Numbers(_) => Arc::new(Float64Array::from(Vec::<f64>::new())),
        };
        (name, array, true)
    });
    let batch = RecordBatch::try_from_iter_with_nullable(columns).map_err(failed)?;
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).map_err(failed)?;
    writer.write(&batch).map_err(failed)?;
    writer.into_inner().map_err(failed)
}

/// A column of a table for a terminal.
#[derive(Debug, Default)]
pub struct TextColumn {
    /// Its name.
    pub name: String,
    /// It has strings, and not numbers, which are aligned to the right.
    pub is_text: bool,
    /// `None` is null.
    pub cells: Vec<Option<String>>,
}

impl TextColumn {
    /// A column of numbers without cells.
    pub fn new(name: String) -> Self {
        Self {
            name,
            ..Self::default()
        }
    }
}

/// The columns of a result for a terminal.
pub fn text_columns(table: &Table) -> Vec<TextColumn> {
    let columns = table.flat().into_iter();
    let columns = columns.map(|(name, values)| TextColumn {
        name,
        is_text: matches!(values.as_ref(), Values::Text(_) | Values::Json(_)),
        cells: (0..table.height())
            .map(|row| values.text(row).map(Cow::into_owned))
            .collect(),
    });
    columns.collect()
}

/// Columns as a table for a terminal of this width.
pub fn text_table(columns: &[TextColumn], width: u16) -> String {
    let mut text = TextTable::new();
    text.load_style(comfy_table::presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(width)
        .set_header(columns.iter().map(|column| &column.name));
    let height = columns.iter().map(|column| column.cells.len()).max();
    for row in 0..height.unwrap_or(0) {
        text.add_row(columns.iter().map(|column| {
            let cell = column.cells.get(row).and_then(Option::as_deref);
            // A name from an untrusted client must not control the terminal.
            cell.unwrap_or("-")
                .chars()
                .map(|char| if char.is_control() { '\u{FFFD}' } else { char })
                .collect::<String>()
        }));
    }
    for (place, column) in columns.iter().enumerate() {
        if !column.is_text
            && let Some(column) = text.column_mut(place)
        {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    text.trim_fmt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let features = vec![Some("=a\u{1b}[2J".to_owned()), None];
        Table::default()
            .with("feature", features)
            .with("events", vec![10_u64, 7])
    }

    #[test]
    fn a_terminal_table_has_no_control_characters_and_shows_null_as_a_dash() {
        let text = text_table(&text_columns(&table()), 80);
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            lines,
            [["feature", "events"], ["=a\u{FFFD}[2J", "10"], ["-", "7"]]
        );
    }

    #[test]
    fn csv_of_a_table_escapes_formulas_for_spreadsheets_alone() {
        let text = |reader| String::from_utf8(csv(&table(), reader)).unwrap_or_default();
        assert_eq!(
            text(Reader::Machine),
            "feature,events\n=a\u{1b}[2J,10\n,7\n"
        );
        assert_eq!(
            text(Reader::Spreadsheet),
            "\u{FEFF}feature,events\n'=a\u{1b}[2J,10\n,7\n"
        );
    }
}
