//! The rows of an answer: columns of plain values, from which every format of the interface is made.
//!
//! A column has a path of names, such as `seconds_from_first` and `mean`: nested objects in JSON, one name joined by `_`
//! where there is no nesting. A list column is one array in JSON and a column for each place elsewhere.

use std::borrow::Cow;

use polars::prelude::*;
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};

use crate::error::Result;

/// Rows of an answer, by columns of equal height.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table {
    columns: Vec<TableColumn>,
    height: usize,
}

/// One column, or two levels of a name with several.
#[derive(Debug, Clone, PartialEq)]
struct TableColumn {
    group: Option<&'static str>,
    name: Cow<'static, str>,
    values: Values,
}

/// The values of a column; `None` is null.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// Texts, days and names among them.
    Text(Vec<Option<String>>),
    /// Whole numbers.
    Whole(Vec<Option<i64>>),
    /// Numbers with a fraction.
    Number(Vec<Option<f64>>),
    /// Yes or no.
    Flag(Vec<Option<bool>>),
    /// Lists of numbers, all of one length.
    Numbers(Vec<Vec<Option<f64>>>),
}

impl Table {
    /// Adds a column.
    pub fn with(self, name: &'static str, values: impl Into<Values>) -> Self {
        self.push(None, name, values.into())
    }

    /// Adds a column that belongs to a group.
    pub fn with_in(
        self,
        group: &'static str,
        name: &'static str,
        values: impl Into<Values>,
    ) -> Self {
        self.push(Some(group), name, values.into())
    }

    fn push(mut self, group: Option<&'static str>, name: &'static str, values: Values) -> Self {
        debug_assert!(self.columns.is_empty() || self.height == values.len());
        self.height = values.len();
        self.columns.push(TableColumn {
            group,
            name: Cow::Borrowed(name),
            values,
        });
        self
    }

    /// Number of rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The columns without nesting: their names, and what they hold.
    pub fn flat(&self) -> Vec<(String, Cow<'_, Values>)> {
        let mut flat = Vec::new();
        for column in &self.columns {
            let name = match column.group {
                Some(group) => format!("{group}_{}", column.name),
                None => column.name.clone().into_owned(),
            };
            match &column.values {
                Values::Numbers(lists) => {
                    // `cells` of a retention are `cell_0`, `cell_1` and so on.
                    let name = name.strip_suffix('s').unwrap_or(&name);
                    for place in 0..lists.iter().map(Vec::len).max().unwrap_or(0) {
                        let values = lists.iter().map(|list| list.get(place).copied().flatten());
                        flat.push((
                            format!("{name}_{place}"),
                            Cow::Owned(Values::Number(values.collect())),
                        ));
                    }
                }
                values => flat.push((name, Cow::Borrowed(values))),
            }
        }
        flat
    }

    /// The rows as a frame.
    ///
    /// # Errors
    /// If two columns have one name.
    pub fn frame(&self) -> Result<DataFrame> {
        let columns = self.flat().into_iter().map(|(name, values)| {
            let name = PlSmallStr::from_string(name);
            match values.as_ref() {
                Values::Text(values) => Column::new(name, values),
                Values::Whole(values) => Column::new(name, values),
                Values::Number(values) => Column::new(name, values),
                Values::Flag(values) => Column::new(name, values),
                Values::Numbers(_) => Column::new_empty(name, &DataType::Float64),
            }
        });
        Ok(DataFrame::new(self.height, columns.collect())?)
    }
}

impl Values {
    fn len(&self) -> usize {
        match self {
            Self::Text(values) => values.len(),
            Self::Whole(values) => values.len(),
            Self::Number(values) => values.len(),
            Self::Flag(values) => values.len(),
            Self::Numbers(values) => values.len(),
        }
    }

    /// The value of a row as it stands in CSV and on a terminal; `None` is null.
    pub fn text(&self, row: usize) -> Option<Cow<'_, str>> {
        match self {
            Self::Text(values) => values.get(row)?.as_deref().map(Cow::Borrowed),
            Self::Whole(values) => Some(Cow::Owned((*values.get(row)?)?.to_string())),
            Self::Number(values) => Some(Cow::Owned((*values.get(row)?)?.to_string())),
            Self::Flag(values) => Some(Cow::Owned((*values.get(row)?)?.to_string())),
            Self::Numbers(_) => None,
        }
    }
}

impl From<Vec<String>> for Values {
    fn from(values: Vec<String>) -> Self {
        Self::Text(values.into_iter().map(Some).collect())
    }
}

impl From<Vec<Option<String>>> for Values {
    fn from(values: Vec<Option<String>>) -> Self {
        Self::Text(values)
    }
}

impl From<Vec<u64>> for Values {
    fn from(values: Vec<u64>) -> Self {
        let whole = |value| Some(i64::try_from(value).unwrap_or(i64::MAX));
        Self::Whole(values.into_iter().map(whole).collect())
    }
}

impl From<Vec<i64>> for Values {
    fn from(values: Vec<i64>) -> Self {
        Self::Whole(values.into_iter().map(Some).collect())
    }
}

impl From<Vec<Option<u64>>> for Values {
    fn from(values: Vec<Option<u64>>) -> Self {
        let whole = |value| i64::try_from(value).unwrap_or(i64::MAX);
        Self::Whole(values.into_iter().map(|value| value.map(whole)).collect())
    }
}

impl From<Vec<f64>> for Values {
    fn from(values: Vec<f64>) -> Self {
        Self::Number(values.into_iter().map(Some).collect())
    }
}

impl From<Vec<Option<f64>>> for Values {
    fn from(values: Vec<Option<f64>>) -> Self {
        Self::Number(values)
    }
}

impl From<Vec<bool>> for Values {
    fn from(values: Vec<bool>) -> Self {
        Self::Flag(values.into_iter().map(Some).collect())
    }
}

impl From<Vec<Vec<Option<f64>>>> for Values {
    fn from(values: Vec<Vec<Option<f64>>>) -> Self {
        Self::Numbers(values)
    }
}

/// A table as JSON is an array with an object a row.
impl Serialize for Table {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut rows = serializer.serialize_seq(Some(self.height))?;
        for row in 0..self.height {
            rows.serialize_element(&Row { table: self, row })?;
        }
        rows.end()
    }
}

struct Row<'a> {
    table: &'a Table,
    row: usize,
}

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        let columns = &self.table.columns;
        for group in columns.chunk_by(|a, b| a.group.is_some() && a.group == b.group) {
            match group {
                [
                    TableColumn {
                        group: None,
                        name,
                        values,
                    },
                ] => {
                    object.serialize_entry(name, &Cell(values, self.row))?;
                }
                [
                    TableColumn {
                        group: Some(name), ..
                    },
                    ..,
                ] => {
                    object.serialize_entry(name, &Group(group, self.row))?;
                }
                _ => {}
            }
        }
        object.end()
    }
}

struct Group<'a>(&'a [TableColumn], usize);

impl Serialize for Group<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(columns, row) = *self;
        serializer.collect_map(
            columns
                .iter()
                .map(|column| (&column.name, Cell(&column.values, row))),
        )
    }
}

struct Cell<'a>(&'a Values, usize);

impl Serialize for Cell<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(values, row) = *self;
        match values {
            Values::Text(values) => values.get(row).serialize(serializer),
            Values::Whole(values) => values.get(row).serialize(serializer),
            Values::Flag(values) => values.get(row).serialize(serializer),
            Values::Number(values) => number(values.get(row).copied().flatten(), serializer),
            Values::Numbers(lists) => {
                let list = lists.get(row).map(Vec::as_slice).unwrap_or_default();
                serializer.collect_seq(list.iter().map(|&value| Number(value)))
            }
        }
    }
}

struct Number(Option<f64>);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        number(self.0, serializer)
    }
}

/// A number as JSON: whole ones without a fraction, so that counts look like counts.
fn number<S: Serializer>(value: Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    /// Below this every whole number is a double.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Some(value) if value.fract() == 0.0 && value.abs() < EXACT => {
            serializer.serialize_i64(value as i64)
        }
        value => value.serialize(serializer),
    }
}
