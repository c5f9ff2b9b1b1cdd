//! The path of a number in the result of a query: names and indexes, such as `rows[-1].dau`, or the
//! letter of a series of trends, whose last complete period counts.

use serde_json::Value;

use crate::error::shown;

/// Most characters of a path.
const MAX_CHARS: usize = 200;
/// Most fields that a message lists.
const MAX_LISTED: usize = 20;
/// The additional series of trends.
const FORMULA: &str = "formula";

/// A path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValuePath(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Series(String),
    Steps(Vec<Step>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Name(String),
    /// From 0, or from the end with −1.
    Index(i64),
}

impl ValuePath {
    /// Reads a path.
    ///
    /// # Errors
    /// The path and what is allowed.
    pub fn parse(path: &str) -> Result<Self, String> {
        let is_letter = path.len() == 1 && path.bytes().all(|byte| byte.is_ascii_uppercase());
        if is_letter || path == FORMULA {
            return Ok(Self(Kind::Series(path.to_owned())));
        }
        let steps = match path.chars().count() <= MAX_CHARS {
            true => steps(path),
            false => None,
        };
        steps.map(|steps| Self(Kind::Steps(steps))).ok_or_else(|| {
            let path = shown(path);
            format!(
                "{path:?} is not a path; allowed is one such as rows[-1].dau, or the letter of a series such as A"
            )
        })
    }

    /// The number in a result; none if the result has no such row, or null there.
    ///
    /// # Errors
    /// The place of the path that no result of this query has.
    pub fn find(&self, result: &Value) -> Result<Option<f64>, String> {
        let steps = match &self.0 {
            Kind::Series(series) => return last_of_series(series, result),
            Kind::Steps(steps) => steps,
        };
        let mut value = result;
        let mut place = String::new();
        for step in steps {
            let next = match step {
                Step::Name(name) => {
                    let Value::Object(fields) = value else {
                        return Err(format!("value: {place} has no fields"));
                    };
                    let next = fields.get(name).ok_or_else(|| {
                        let known: Vec<&str> =
                            fields.keys().take(MAX_LISTED).map(String::as_str).collect();
                        let known = known.join(", ");
                        let place = if place.is_empty() {
                            "the result"
                        } else {
                            &place
                        };
                        format!("value: {place} has no {name}; it has {known}")
                    })?;
                    if !place.is_empty() {
                        place.push('.');
                    }
                    place += name;
                    Some(next)
                }
                Step::Index(index) => {
                    let Value::Array(list) = value else {
                        return Err(format!("value: {place} is not a list"));
                    };
                    place += &format!("[{index}]");
                    let from_end = list.len() as i64 + index;
                    let index = if *index < 0 { from_end } else { *index };
                    usize::try_from(index)
                        .ok()
                        .and_then(|index| list.get(index))
                }
            };
            match next {
                None | Some(Value::Null) => return Ok(None),
                Some(next) => value = next,
            }
        }
        match value {
            Value::Number(number) => Ok(number.as_f64()),
            _ => Err(format!("value: {place} is not a number")),
        }
    }
}

/// The steps of a path that begins with a name.
fn steps(path: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    for part in path.split('.') {
        let name_end = part.find('[').unwrap_or(part.len());
        let (name, mut indexes) = part.split_at(name_end);
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if name.is_empty() || !name.bytes().all(is_name) {
            return None;
        }
        steps.push(Step::Name(name.to_owned()));
        while !indexes.is_empty() {
            let (index, rest) = indexes.strip_prefix('[')?.split_once(']')?;
            steps.push(Step::Index(index.parse().ok()?));
            indexes = rest;
        }
    }
    Some(steps)
}

/// The value of the last complete period of a series without breakdown.
fn last_of_series(series: &str, result: &Value) -> Result<Option<f64>, String> {
    let rows = result.get("rows").and_then(Value::as_array);
    let rows = rows.map(Vec::as_slice).unwrap_or_default();
    let of_series = |row: &&Value| row.get("series").and_then(Value::as_str) == Some(series);
    let mut found = rows.iter().filter(of_series).peekable();
    if found.peek().is_none() && !rows.is_empty() {
        return Err(format!("value: the result has no series {series}"));
    }
    let is_partial = |row: &&Value| row.get("partial") == Some(&Value::Bool(true));
    let period = |row: &&Value| row.get("period").map(Value::to_string);
    let last = found.filter(|row| !is_partial(row)).max_by_key(period);
    Ok(last.and_then(|row| row.get("value")?.as_f64()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_are_names_and_indexes() {
        let result = json!({"rows": [
            {"period": "2026-11-01", "dau": 3, "seconds": {"mean": 1.5}, "cells": [9, 4, null]},
            {"period": "2026-11-02", "dau": 4, "seconds": {"mean": null}, "cells": [8, null, null]},
        ]});
        for (path, expected) in [
            ("rows[-1].dau", Ok(Some(4.0))),
            ("rows[0].dau", Ok(Some(3.0))),
            ("rows[0].seconds.mean", Ok(Some(1.5))),
            ("rows[1].seconds.mean", Ok(None)),
            ("rows[0].cells[1]", Ok(Some(4.0))),
            ("rows[0].cells[2]", Ok(None)),
            ("rows[2].dau", Ok(None)),
            ("rows[-3].dau", Ok(None)),
            ("rows[-9223372036854775808].dau", Ok(None)),
            ("rows[0].mau", Err("value: rows[0] has no mau; it has ")),
            ("total", Err("value: the result has no total; it has rows")),
            ("rows.dau", Err("value: rows has no fields")),
            (
                "rows[0].period",
                Err("value: rows[0].period is not a number"),
            ),
            ("rows[0].dau[0]", Err("value: rows[0].dau is not a list")),
        ] {
            let found = ValuePath::parse(path).expect("a path").find(&result);
            match (found, expected) {
                (Err(said), Err(says)) => assert!(said.contains(says), "{path}: {said}"),
                (found, Ok(expected)) => assert_eq!(found, Ok(expected), "{path}"),
                (found, Err(says)) => panic!("{path}: {found:?}, not {says}"),
            }
        }
        for wrong in [
            "", ".", "rows[", "rows[]", "rows[x]", "rows[0]x", "[0]", "a..b", "a b", "AB", "a",
        ] {
            let is_path = ValuePath::parse(wrong).is_ok();
            assert_eq!(is_path, ["AB", "a"].contains(&wrong), "{wrong:?}");
        }
        assert!(ValuePath::parse(&"a".repeat(201)).is_err());
    }

    #[test]
    fn a_series_is_its_last_complete_period() {
        let row = |series: &str, period: &str, value: Value, partial: bool| json!({"series": series, "period": period, "value": value, "partial": partial});
        let result = json!({"rows": [
            row("A", "2026-11-02", json!(2), false),
            row("A", "2026-11-01", json!(1), false),
            row("A", "2026-11-03", json!(9), true),
            row("B", "2026-11-02", json!(null), false),
        ]});
        let find =
            |path: &str, result: &Value| ValuePath::parse(path).expect("a series").find(result);
        assert_eq!(find("A", &result), Ok(Some(2.0)));
        assert_eq!(find("B", &result), Ok(None));
        assert!(find("formula", &result).is_err());
        assert_eq!(find("A", &json!({"rows": []})), Ok(None));
    }
}
