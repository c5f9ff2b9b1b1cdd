//! Filters as conditions of SQL, which are true or false and never null.
//!
//! Values of metadata are read with the functions of JSON that every engine has. These differ in
//! what they make of lists, objects, and numbers in other notations than the usual one. So that no
//! number is wrong because of that, each value of metadata comes with a check of the raw metadata,
//! which counts the events with such a value: the statement is exact if there are none.

use super::pattern::{self, portable};
use super::{Dialect, Writer, not_portable};
use crate::error::{Result, shown};
use crate::event::number::{self, Number};
use crate::metrics::filter::predicate::Range;
use crate::metrics::filter::{Condition, Filter, Predicate, Property};

/// The type of events that only a filter which names it sees.
const HIDDEN: &str = "system";
/// Significant digits of a decimal number that a double keeps: two numbers with so many are never
/// the same double.
const EXACT_DIGITS: usize = 15;

/// A list or an object, after a key.
const NESTED: &str = r"[\[{]";
/// A number after a key in a notation that engines write differently: with an exponent, with zeros
/// at its end, minus zero, with more digits than a double has, below 0.01, or with a fraction and
/// more than six digits before it.
const ODD_NUMBER: &str =
    "(-?[0-9.]+[eE]|-?[0-9]+[.][0-9]*0[,}]|-0[,}]|-?[0-9.]{17,}|-?0[.]00|-?[0-9]{7,}[.])";
/// A number of more digits than [`EXACT_DIGITS`].
const LONG: &str = "-?[0-9][0-9.]{15,}";
/// A number with an exponent of three digits, which may be beyond all doubles.
const HUGE: &str = "-?[0-9.]+[eE][+-]?[0-9]{3,}";

/// The use of a value of metadata, which decides what is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// It is compared with strings that are not numbers, or only needs to be there.
    Presence,
    /// Its characters matter.
    Text,
}

/// The condition of a filter; `None` if every event meets it.
///
/// # Errors
/// `not_portable` for a part that engines understand differently.
pub fn of_filter(filter: &Filter, writer: &mut Writer) -> Result<Option<String>> {
    let all = filter.conditions.iter();
    let all: Vec<String> = all
        .map(|condition| of_condition(condition, writer))
        .collect::<Result<_>>()?;
    Ok(joined(&all, "and"))
}

/// The same as 1 for an event that meets the filter, and 0 for others.
///
/// # Errors
/// As [`of_filter`].
pub fn flag(filter: &Filter, writer: &mut Writer) -> Result<String> {
    Ok(match of_filter(filter, writer)? {
        Some(condition) => format!("case when {condition} then 1 else 0 end"),
        None => "1".into(),
    })
}

/// The value of a property of events as a string, by which they can be grouped.
///
/// # Errors
/// `not_portable` for a path into nested metadata.
pub fn value(property: &Property, writer: &mut Writer) -> Result<String> {
    expression(property, Use::Text, writer)
}

fn expression(property: &Property, of: Use, writer: &mut Writer) -> Result<String> {
    Ok(match property {
        Property::EventType => "event_type".into(),
        Property::Feature => "feature".into(),
        Property::Url => "url".into(),
        Property::UserId => "user_id".into(),
        Property::Metadata(key) => {
            if !is_plain(key) {
                return Err(not_portable(&format!(
                    "metadata.{}: a key with other characters than letters, digits, -, _ and spaces, or a path with dots, \
                     which engines read differently",
                    shown(key)
                )));
            }
            let odd = match of {
                Use::Presence => NESTED.to_owned(),
                Use::Text => format!("({NESTED}|{ODD_NUMBER})"),
            };
            check(key, &odd, None, writer);
            writer.dialect.value_of(key)
        }
    })
}

/// True for a key that can be part of a path in every dialect.
fn is_plain(key: &str) -> bool {
    let is_key = |char: char| char.is_ascii_alphanumeric() || "_- ".contains(char);
    !key.is_empty() && key.chars().all(is_key)
}

/// Checks that no metadata has such a value after a key, in events that meet a condition.
fn check(key: &str, odd: &str, condition: Option<&str>, writer: &mut Writer) {
    let pattern = writer.string(&format!("\"{key}\":{odd}"));
    let mut found = writer.dialect.matches("metadata", &pattern);
    if let Some(condition) = condition {
        found = format!("{condition} and {found}");
    }
    writer.check(&format!("metadata.{key}"), found);
}

fn joined(conditions: &[String], word: &str) -> Option<String> {
    match conditions {
        [] => None,
        [one] => Some(one.clone()),
        several => Some(format!("({})", several.join(&format!(" {word} ")))),
    }
}

fn of_condition(condition: &Condition, writer: &mut Writer) -> Result<String> {
    Ok(match condition {
        Condition::Of {
            property,
            predicate,
        } => of_predicate(property, predicate, writer)?,
        Condition::Any(filters) => {
            let any = filters
                .iter()
                .map(|filter| Ok(of_filter(filter, writer)?.unwrap_or_else(|| "1 = 1".into())));
            let any = any.collect::<Result<Vec<String>>>()?;
            joined(&any, "or").unwrap_or_else(|| "1 = 0".into())
        }
        Condition::Not(filter) => match of_filter(filter, writer)? {
            Some(condition) => format!("not ({condition})"),
            None => "1 = 0".into(),
        },
    })
}

fn of_predicate(property: &Property, predicate: &Predicate, writer: &mut Writer) -> Result<String> {
    let (value, met) = match predicate {
        Predicate::OneOf(strings) => {
            if *property == Property::EventType && strings.iter().any(|one| one == HIDDEN) {
                return Err(not_portable(
                    "event_type \"system\": the views leave these events out",
                ));
            }
            one_of(property, strings, writer)?
        }
        Predicate::Contains(part) => {
            let value = value(property, writer)?;
            let part = writer.string(part);
            let met = writer.dialect.contains(&value, &part);
            (value, met)
        }
        Predicate::Prefix(prefix) => {
            let value = value(property, writer)?;
            let prefix = writer.string(prefix);
            let met = writer.dialect.begins(&value, &prefix);
            (value, met)
        }
        Predicate::Suffix(suffix) => {
            let value = value(property, writer)?;
            let suffix = writer.string(suffix);
            let met = writer.dialect.ends(&value, &suffix);
            (value, met)
        }
        Predicate::Exists(exists) => {
            let value = expression(property, Use::Presence, writer)?;
            let is_there = if *exists { "is not null" } else { "is null" };
            return Ok(format!("{value} {is_there}"));
        }
        Predicate::Not(inner) => {
            return Ok(format!("not ({})", of_predicate(property, inner, writer)?));
        }
        Predicate::All(all) => {
            let all = all.iter().map(|one| of_predicate(property, one, writer));
            let all = all.collect::<Result<Vec<String>>>()?;
            return Ok(joined(&all, "and").unwrap_or_else(|| "1 = 1".into()));
        }
        Predicate::Matches(pattern) => {
            let (expression, case) = pattern.expression();
            let name = property.column_name();
            let found = portable(expression, case).map_err(|part| {
                not_portable(&format!(
                    "{name}: matches {:?} has {part}",
                    shown(expression)
                ))
            })?;
            if writer.dialect == Dialect::Snowflake && pattern::has_anchors(&found) {
                return Err(not_portable(&format!(
                    "{name}: Snowflake has no sure sign for the start and the end of a string, which prefix, suffix and matches \
                     with ^ or $ need"
                )));
            }
            let value = value(property, writer)?;
            let found = writer.string(&found);
            let met = writer.dialect.matches(&value, &found);
            (value, met)
        }
        Predicate::Range(range) => return in_range(property, range, writer),
    };
    Ok(format!("({value} is not null and {met})"))
}

/// A comparison with some strings. Of metadata, a string that is a number also stands for it.
fn one_of(
    property: &Property,
    strings: &[String],
    writer: &mut Writer,
) -> Result<(String, String)> {
    let mut strings = strings.to_vec();
    let mut of = Use::Presence;
    if matches!(property, Property::Metadata(_)) {
        if strings.iter().any(|string| Number::parse(string).is_some()) {
            of = Use::Text;
        }
        let numbers = strings
            .iter()
            .map(|string| number::canonical(string).into_owned());
        let numbers: Vec<String> = numbers.collect();
        strings.extend(numbers);
        strings.sort_unstable();
        strings.dedup();
    }
    let value = expression(property, of, writer)?;
    let strings: Vec<String> = strings.iter().map(|one| writer.string(one)).collect();
    let met = match strings.as_slice() {
        [one] => format!("{value} = {one}"),
        several => format!("{value} in ({})", several.join(", ")),
    };
    Ok((value, met))
}

/// A comparison of a string as a number. Doubles have the order of the numbers; where a number has
/// the double of a bound and more digits than one keeps, the check finds it.
fn in_range(property: &Property, range: &Range, writer: &mut Writer) -> Result<String> {
    let dialect = writer.dialect;
    let name = property.column_name();
    if matches!(dialect, Dialect::ClickHouse | Dialect::Snowflake) {
        return Err(not_portable(&format!(
            "{name}: min, max, above and below in the dialects clickhouse and snowflake, which do not read numbers in strings \
             exactly"
        )));
    }
    let value = expression(property, Use::Presence, writer)?;
    let pattern = writer.string(pattern::NUMBER);
    let is_number = dialect.matches(&value, &pattern);
    let double = format!("case when {is_number} then {} end", dialect.double(&value));
    let (mut met, mut equal) = (Vec::new(), Vec::new());
    for (operator, bound) in range.bounds() {
        let notation = bound.notation();
        let digits = notation.split(['e', 'E']).next().unwrap_or_default();
        if digits.bytes().filter(u8::is_ascii_digit).count() > EXACT_DIGITS {
            return Err(not_portable(&format!(
                "{name}: the bound {notation} has more than {EXACT_DIGITS} digits"
            )));
        }
        let bound = writer.string(&notation);
        let bound = dialect.double(&bound);
        met.push(format!("{double} {operator} {bound}"));
        equal.push(format!("{double} = {bound}"));
    }
    let equal = format!("({})", equal.join(" or "));
    for (odd, condition) in [
        (LONG, format!("{is_number} and {equal}")),
        (HUGE, is_number.clone()),
    ] {
        match property {
            // Numbers are in strings, too.
            Property::Metadata(key) => {
                check(key, &format!("\"?{odd}"), Some(&condition), writer);
            }
            _ => {
                let odd = writer.string(odd);
                let found = dialect.matches(&value, &odd);
                writer.check(&name, format!("{condition} and {found}"));
            }
        }
    }
    Ok(format!(
        "({value} is not null and {is_number} and {})",
        met.join(" and ")
    ))
}
