//! The rows of a result: columns of plain values, from which every format of the interface is
//! encoded.
//!
//! A column has a path of names, such as `seconds_from_first` and `mean`: nested objects in JSON,
//! one name joined by `_` where there is no nesting. A list column is one array in JSON and a
//! column for each index elsewhere.

use std::borrow::Cow;

use polars::prelude::*;
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::error::Result;

/// Rows of a result, as columns of equal height.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table {
    columns: Vec<TableColumn>,
    height: usize,
}

/// One column, with the group of its name if it has one.
#[derive(Debug, Clone, PartialEq)]
struct TableColumn {
    group: Option<&'static str>,
    name: Cow<'static, str>,
    values: Values,
}

/// The values of a column; `None` is null.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// Strings, among them days and names.
    Text(Vec<Option<String>>),
    /// Whole numbers.
    Whole(Vec<Option<i64>>),
    /// Numbers with a fraction.
    Number(Vec<Option<f64>>),
    /// Booleans.
    Flag(Vec<Option<bool>>),
    /// JSON, which is a string where there is no nesting.
    Json(Vec<Option<String>>),
    /// Lists of numbers, all of one length.
    Numbers(Vec<Vec<Option<f64>>>),
}

impl Table {
    /// Adds a column.
    pub fn with(self, name: &'static str, values: impl Into<Values>) -> Self {
        self.push(None, name, values.into())
    }

    /// Adds a column to a group.
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

    /// The columns without nesting, with their names.
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
                Values::Text(values) | Values::Json(values) => Column::new(name, values),
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
            Self::Text(values) | Self::Json(values) => values.len(),
            Self::Whole(values) => values.len(),
            Self::Number(values) => values.len(),
            Self::Flag(values) => values.len(),
            Self::Numbers(values) => values.len(),
        }
    }

    /// The value of a row as it is printed in CSV and on a terminal; `None` is null.
    pub fn text(&self, row: usize) -> Option<Cow<'_, str>> {
        match self {
            Self::Text(values) | Self::Json(values) => {
                values.get(row)?.as_deref().map(Cow::Borrowed)
            }
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

/// JSON of a table: an array with an object for each row.
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
            Values::Json(values) => {
                let value = values.get(row).and_then(Option::as_deref);
                match value.map(serde_json::from_str::<&RawValue>) {
                    Some(Ok(json)) => json.serialize(serializer),
                    _ => value.serialize(serializer),
                }
            }
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

/// JSON of a number: integers without a fraction, so that counts look like counts.
fn number<S: Serializer>(value: Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    /// Below this every integer is exact as a double.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Some(value) if value.fract() == 0.0 && value.abs() < EXACT => {
            serializer.serialize_i64(value as i64)
        }
        value => value.serialize(serializer),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn table() -> Table {
        Table::default()
            .with("name", vec![Some("a".to_owned()), None])
            .with_in("seconds", "mean", vec![Some(1.5), None])
            .with_in("seconds", "p90", vec![Some(2.0), None])
            .with_in("interval", "low", vec![-0.25, 3.0])
            .with(
                "cells",
                vec![vec![Some(3.0), Some(0.5)], vec![Some(1.0), None]],
            )
            .with("partial", vec![true, false])
    }

    #[test]
    fn a_row_is_an_object_with_groups_and_lists() {
        let expected = json!([
            {"name":"a","seconds":{"mean":1.5,"p90":2},"interval":{"low":-0.25},"cells":[3,0.5],
             "partial":true},
            {"name":null,"seconds":{"mean":null,"p90":null},"interval":{"low":3},"cells":[1,null],
             "partial":false},
        ]);
        assert_eq!(json!(table()), expected);
    }

    #[test]
    fn columns_without_nesting_have_joined_names() {
        let table = table();
        let flat = table.flat();
        let names: Vec<&str> = flat.iter().map(|(name, _)| name.as_str()).collect();
        let expected = [
            "name",
            "seconds_mean",
            "seconds_p90",
            "interval_low",
            "cell_0",
            "cell_1",
            "partial",
        ];
        assert_eq!(names, expected);
        let row = |row: usize| -> Vec<Option<String>> {
            let values = flat.iter().map(|(_, values)| values.text(row));
            values.map(|value| value.map(Cow::into_owned)).collect()
        };
        let some = |string: &str| Some(string.to_owned());
        let first = ["a", "1.5", "2", "-0.25", "3", "0.5", "true"].map(some);
        assert_eq!(row(0), first);
        let second = [None, None, None, some("3"), some("1"), None, some("false")];
        assert_eq!(row(1), second);
        let frame = table.frame().expect("columns of different names");
        assert_eq!((frame.height(), frame.width()), (2, 7));
    }

    #[test]
    fn integers_beyond_the_exact_doubles_keep_their_fraction() {
        let column = |value: f64| json!(Table::default().with("x", vec![value]));
        assert_eq!(column(-3.0).to_string(), r#"[{"x":-3}]"#);
        assert_eq!(column(1e300).to_string(), r#"[{"x":1e+300}]"#);
        assert_eq!(column(f64::NAN).to_string(), r#"[{"x":null}]"#);
    }
}
