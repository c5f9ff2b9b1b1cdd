//! Events as codes: what filters say of the rows of a table.
//!
//! Compiled loops over integers and not expressions: a filter is computed once per value of the
//! table, and what is left is a lookup per row. Only a condition on several properties, such as
//! `any` of two, is combined for each row.

use std::collections::BTreeMap;

use super::filter::{Condition, Filter, Property, ValueTest};
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
    /// Conditions on several properties, each with the bits of its filters.
    mixed: Vec<(Mixed, u32)>,
    all: u32,
}

/// A condition whose parts are on several columns.
#[derive(Debug)]
enum Mixed {
    /// On the column at this place of [`FilterBits::columns`]: whether each code meets it.
    Column(usize, Vec<bool>),
    /// All of them.
    All(Vec<Mixed>),
    /// Any of them.
    Any(Vec<Mixed>),
    /// Not this one.
    Not(Box<Mixed>),
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
        let mut mixed = Vec::new();
        let mut checked = Vec::new();
        for (filter, bit) in filters {
            all |= bit;
            checked.push(filter);
            for property in filter.properties() {
                of_column.entry(column_of(table, property)?).or_default();
            }
            for condition in &filter.conditions {
                match condition.property() {
                    Some(property) => {
                        let column = column_of(table, property)?;
                        of_column.entry(column).or_default().push((condition, bit));
                    }
                    None => mixed.push((condition, bit)),
                }
            }
        }
        let mut columns = Columns::default();
        let mut allowed = Vec::with_capacity(of_column.len());
        for (column, conditions) in of_column {
            let values = table.values(column)?;
            let tests: Vec<_> = conditions
                .into_iter()
                .map(|(condition, bit)| (condition.on_value(), bit))
                .collect();
            allowed.push(of_codes(&values, |value| {
                let ruled_out = tests.iter().filter(|(test, _)| !test(value));
                ruled_out.fold(all, |all, (_, bit)| all & !bit)
            }));
            columns.places.push(column);
            if !mixed.is_empty() {
                columns.values.push(values);
            }
        }
        let mixed = mixed
            .into_iter()
            .map(|(condition, bit)| Ok((columns.mixed(table, condition)?, bit)));
        let bits = Self {
            mixed: mixed.collect::<Result<_>>()?,
            columns: columns.places,
            allowed,
            all,
        };
        checked.into_iter().try_for_each(Filter::check_time)?;
        Ok(bits)
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> u64 {
        let values: usize = self.allowed.iter().map(Vec::len).sum();
        let mixed: usize = self.mixed.iter().map(|(mixed, _)| mixed.bytes()).sum();
        (values * size_of::<u32>() + mixed) as u64
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
        for (mixed, bit) in &self.mixed {
            for (bits, is_met) in bits.iter_mut().zip(mixed.of_rows(slice)) {
                *bits &= if is_met { u32::MAX } else { !bit };
            }
        }
        bits
    }
}

/// The results of a test for null and for each value of a column, by code.
fn of_codes<T>(values: &[String], test: impl Fn(Option<&str>) -> T) -> Vec<T> {
    let values = values.iter().map(|value| Some(value.as_str()));
    std::iter::once(None).chain(values).map(test).collect()
}

/// The columns of some filters, with their values.
#[derive(Default)]
struct Columns {
    places: Vec<usize>,
    values: Vec<Vec<String>>,
}

impl Columns {
    fn column(&self, table: &Table, property: &Property, test: &ValueTest) -> Result<Mixed> {
        let column = column_of(table, property)?;
        let place = self.places.iter().position(|place| *place == column);
        let place = place.ok_or(Error::Busy("a table was opened without a column"))?;
        let values = self.values.get(place).map_or(&[][..], Vec::as_slice);
        Ok(Mixed::Column(place, of_codes(values, test)))
    }

    /// A condition on these columns.
    fn mixed(&self, table: &Table, condition: &Condition) -> Result<Mixed> {
        if let Some(property) = condition.property() {
            return self.column(table, property, &condition.on_value());
        }
        Ok(match condition {
            Condition::Of {
                property,
                predicate: _,
            } => self.column(table, property, &condition.on_value())?,
            Condition::Any(filters) => {
                let filters = filters.iter().map(|filter| self.all(table, filter));
                Mixed::Any(filters.collect::<Result<_>>()?)
            }
            Condition::Not(filter) => Mixed::Not(Box::new(self.all(table, filter)?)),
        })
    }

    fn all(&self, table: &Table, filter: &Filter) -> Result<Mixed> {
        let conditions = filter.conditions.iter();
        let conditions = conditions.map(|condition| self.mixed(table, condition));
        Ok(Mixed::All(conditions.collect::<Result<_>>()?))
    }
}

impl Mixed {
    /// True for each row of a slice that meets it.
    fn of_rows(&self, slice: &Slice) -> Vec<bool> {
        let join = |parts: &[Self], start: bool, join: fn(bool, bool) -> bool| {
            let mut met = vec![start; slice.rows()];
            for part in parts {
                for (met, of_part) in met.iter_mut().zip(part.of_rows(slice)) {
                    *met = join(*met, of_part);
                }
            }
            met
        };
        match self {
            Self::Column(place, is_met) => {
                let mut met = vec![false; slice.rows()];
                if let Some(codes) = slice.codes(*place) {
                    codes.zip(&mut met, |met, code| {
                        *met = is_met.get(code).copied().unwrap_or(false);
                    });
                }
                met
            }
            Self::All(parts) => join(parts, true, |one, other| one & other),
            Self::Any(parts) => join(parts, false, |one, other| one | other),
            Self::Not(part) => {
                let mut met = part.of_rows(slice);
                met.iter_mut().for_each(|met| *met = !*met);
                met
            }
        }
    }

    /// Bytes in memory.
    fn bytes(&self) -> usize {
        match self {
            Self::Column(_, is_met) => is_met.len(),
            Self::All(parts) | Self::Any(parts) => parts.iter().map(Self::bytes).sum(),
            Self::Not(part) => part.bytes(),
        }
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
            json!({"contains":"QUOTED","ignore_case":true}),
            json!({"suffix":"x"}),
            json!({"matches":"^(b|1)$"}),
            json!({"above":1,"below":101}),
            json!({"not":[1,"b"]}),
            json!({"not":{"exists":true}}),
            json!({"all":[{"not":"1.0"},{"min":1}]}),
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
        // Conditions on several properties.
        for filter in [
            json!({"any":[{"metadata.v":1},{"feature":"f0"}]}),
            json!({"not":{"metadata.v":{"exists":true},"feature":["f0","f1"]}}),
            json!({"metadata.v":{"not":"b"},"any":[{"not":{"feature":"f2"}},{"metadata.w":1}]}),
            json!({"any":[{}],"feature":"f1"}),
            json!({"not":{}}),
        ] {
            for metric in &metrics {
                let mut query = metric.clone();
                query["filter"] = filter.clone();
                let rows = source.rows(query);
                met += usize::from(rows[0]["events"].as_u64().is_some_and(|events| events > 0));
            }
            let steps = json!([filter, {"feature":"f1"}]);
            source.rows(json!({"metric":"funnel","steps":steps}));
        }
        assert!(met > 40, "{met}");
    }
}
