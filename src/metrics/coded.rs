//! Events as codes: what filters say of the rows of a table.
//!
//! Compiled loops over integers and not expressions: a filter is computed once per value of the
//! table, and what is left is a lookup per row.

use std::collections::BTreeMap;

use super::filter::{Condition, Filter, Property};
use super::source::Source;
use crate::columns::{Slice, Table};
use crate::error::{Error, Result};

/// Filters as bits of the rows of a table.
#[derive(Debug)]
pub struct FilterBits {
    /// The columns that the filters need.
    pub columns: Vec<usize>,
    /// For each of them, by code, the filters that the value does not rule out.
    allowed: Vec<Vec<u32>>,
    all: u32,
}

impl FilterBits {
    /// Each filter with the bit that its rows have.
    ///
    /// # Errors
    /// If the table has no column for a property, or cannot be read.
    pub fn new<'a>(
        table: &Table,
        filters: impl IntoIterator<Item = (&'a Filter, u32)>,
    ) -> Result<Self> {
        let mut all = 0;
        let mut of_column: BTreeMap<usize, Vec<(&Condition, u32)>> = BTreeMap::new();
        for (filter, bit) in filters {
            all |= bit;
            for condition in &filter.conditions {
                let column = column_of(table, &condition.property)?;
                of_column.entry(column).or_default().push((condition, bit));
            }
        }
        let mut bits = Self {
            columns: Vec::new(),
            allowed: Vec::new(),
            all,
        };
        for (column, conditions) in of_column {
            let tests: Vec<_> = conditions
                .into_iter()
                .map(|(condition, bit)| (condition.on_value(), bit))
                .collect();
            let allowed = |value: Option<&str>| {
                let ruled_out = tests.iter().filter(|(test, _)| !test(value));
                ruled_out.fold(all, |all, (_, bit)| all & !bit)
            };
            let values = table.values(column)?;
            let values = values.iter().map(|value| Some(value.as_str()));
            let values = std::iter::once(None).chain(values);
            bits.columns.push(column);
            bits.allowed.push(values.map(allowed).collect());
        }
        Ok(bits)
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> u64 {
        let values: usize = self.allowed.iter().map(Vec::len).sum();
        (values * size_of::<u32>()) as u64
    }

    /// The bits of each row of a slice, which begins with the columns of the filters.
    pub fn of_rows(&self, slice: &Slice) -> Vec<u32> {
        let mut bits = vec![self.all; slice.rows()];
        for (at, allowed) in self.allowed.iter().enumerate() {
            if let Some(codes) = slice.codes(at) {
                codes.zip(&mut bits, |bits, code| {
                    *bits &= allowed.get(code).copied().unwrap_or(0);
                });
            }
        }
        bits
    }
}

/// The column of a property in a table that was opened with it.
///
/// # Errors
/// [`Error::Busy`] if there is none.
pub fn column_of(table: &Table, property: &Property) -> Result<usize> {
    let column = table.column(&property.column_name());
    column.ok_or(Error::Busy("a table was opened without a column"))
}

/// Does work on each table, on all cores.
///
/// # Errors
/// The first error of the work, and if the query is cancelled.
pub fn for_each_table(
    source: &dyn Source,
    tables: &[Table],
    work: impl Fn(&Table) -> Result<()> + Sync,
) -> Result<()> {
    let each = (0..tables.len() as u32).map(|at| at..at + 1).collect();
    source.in_parallel(each, &|at| {
        source.check_cancelled()?;
        let table = tables.get(at.start as usize);
        table.map_or(Ok(()), &work)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::metrics::frame::{FrameSource, Row};

    /// Metadata of events whose property `v` is of any kind.
    const ODD: [&str; 22] = [
        "",
        "{}",
        r#"{"v":null}"#,
        r#"{"v":1}"#,
        r#"{"v":1.0}"#,
        r#"{"v":"1"}"#,
        r#"{"v":"1.0"}"#,
        r#"{"v":1e2}"#,
        r#"{"v":9007199254740993}"#,
        r#"{"v":"9007199254740993.0"}"#,
        r#"{"v":true}"#,
        r#"{"v":"true"}"#,
        r#"{"v":""}"#,
        r#"{"v":"NaN"}"#,
        r#"{"v":[1,"b",[2]]}"#,
        r#"{"v":[]}"#,
        r#"{"v":[null]}"#,
        r#"{"v":{"x":1}}"#,
        r#"{"v.x":7,"v":{"x":1}}"#,
        r#"{"w":1,"v":"a \"quoted\" é\n"}"#,
        r#"{"v":"__other__"}"#,
        r#"{"w":{"v":1}}"#,
    ];

    /// Events of some users over two days, each with one of [`ODD`].
    fn source() -> FrameSource {
        let long = format!(r#"{{"v":"{}"}}"#, "x".repeat(10_000));
        let metadata: Vec<&str> = ODD.iter().copied().chain([long.as_str()]).collect();
        let strings: Vec<[String; 3]> = (0..20 * metadata.len())
            .map(|at| {
                let user = match at % 7 {
                    0 => String::new(),
                    user => format!("u{user}"),
                };
                let time = format!("2024-03-0{} {:02}:{:02}", at % 2 + 1, at / 60 % 24, at % 60);
                [time, user, format!("f{}", at % 3)]
            })
            .collect();
        let rows: Vec<(Row<'_>, &str)> = strings
            .iter()
            .zip(metadata.iter().cycle())
            .map(|([time, user, feature], metadata)| {
                let row = (time.as_str(), "action", user.as_str(), feature.as_str());
                (row, *metadata)
            })
            .collect();
        FrameSource::with_metadata("2024-03-02", 2, &rows)
    }

    #[test]
    fn values_of_any_kind_meet_the_conditions_that_they_meet_in_events() {
        let mut source = source();
        let steps = json!([{"feature":"f0"},{"metadata.v":[1,"b"]},{"feature":["f1","f2"]}]);
        let metrics = [
            json!({"metric":"feature_usage","breakdown":"metadata.v"}),
            json!({"metric":"active_users"}),
            json!({"metric":"funnel","steps":steps,"breakdown":"metadata.v"}),
            json!({"metric":"funnel","steps":steps,"order":"strict"}),
            json!({"metric":"funnel","steps":steps,"order":"any","exclude":[{"filter":{"metadata.v":true}}]}),
            json!({"metric":"paths","start":{"metadata.v":{"exists":true}}}),
            json!({"metric":"paths","by":"session"}),
        ];
        let mut met = 0;
        for condition in [
            json!({}),
            json!(1),
            json!(1.0),
            json!("1"),
            json!("1.0"),
            json!(true),
            json!("true"),
            json!(100),
            json!(9_007_199_254_740_993_i64),
            json!(["", "NaN", 2]),
            json!("__other__"),
            json!({"prefix":"a"}),
            json!({"prefix":"[1"}),
            json!({"prefix":"xxx"}),
            json!({"min":1,"max":1}),
            json!({"min":9_007_199_254_740_993_i64}),
            json!({"exists":true}),
            json!({"exists":false}),
        ] {
            for property in ["v", "v.x", "w"] {
                for metric in &metrics {
                    let mut query = metric.clone();
                    if condition != json!({}) {
                        let mut filter = serde_json::Map::new();
                        filter.insert(format!("metadata.{property}"), condition.clone());
                        query["filter"] = Value::Object(filter);
                    }
                    // It compares the results.
                    let rows = source.rows(query);
                    met += usize::from(rows[0]["events"].as_u64().is_some_and(|events| events > 0));
                }
            }
        }
        assert!(met > 20, "{met}");
    }
}
