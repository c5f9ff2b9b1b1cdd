//! Filters: conditions on the properties of an event, all of which must hold.
//!
//! A filter is a JSON object from property to condition:
//! `{"event_type":"action","metadata.plan":["pro","team"]}`. The properties are `event_type`,
//! `feature`, `url` and `metadata.<path>` ([`Path`]); a condition is a value, a list of values, or
//! one of `{"prefix":"/docs"}`, `{"min":1,"max":5}` (numbers, both included, one may be missing)
//! and `{"exists":true}`. A property that is missing or null meets only `{"exists":false}`; a list
//! meets a condition when a member does.
//!
//! Numbers are compared by their exact values in whatever notation ([`Number`]), other values as
//! strings: `true` equals the string `true`, and a number the string of its one notation. A string
//! is in a range only if it is a JSON number. Definitions: `docs/metrics.md`, "Property values" and
//! "Filters".

pub mod described;

use std::borrow::Cow;

use polars::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::event::number::{self, Number};
use crate::event::path::{self, Path};
use crate::schema;

/// Most conditions of a filter: each is computed for each event.
const MAX_CONDITIONS: usize = 20;
/// Most values of a condition.
const MAX_VALUES: usize = 1_000;

/// A condition on a value, `None` where it is missing.
pub type ValueTest = Box<dyn Fn(Option<&str>) -> bool>;
/// True if one of several values meets a condition.
type AnyValue<'a> = dyn Fn(&dyn Fn(&str) -> bool) -> bool + 'a;

/// Conditions that must all hold. Every event meets a filter without conditions.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub struct Filter {
    /// The conditions, each on another property.
    pub conditions: Vec<Condition>,
}

/// A condition on a property.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// The property.
    pub property: Property,
    /// The predicate that it must meet.
    pub predicate: Predicate,
}

/// A property of an event.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Property {
    /// The event's type.
    EventType,
    /// The feature.
    Feature,
    /// The URL.
    Url,
    /// The value at a path in the metadata.
    Metadata(String),
}

/// A predicate on the value of a property.
#[derive(Debug, Clone, PartialEq)]
pub enum Predicate {
    /// Equal to one of these strings.
    OneOf(Vec<String>),
    /// Begins with this string.
    Prefix(String),
    /// A number in this range.
    Range(Range),
    /// Present (`true`) or absent (`false`).
    Exists(bool),
}

/// A range of numbers, both ends included.
#[derive(Debug, Clone, PartialEq)]
pub struct Range {
    /// Lower end.
    min: Option<Number>,
    /// Upper end.
    max: Option<Number>,
}

impl Filter {
    /// The filter as an expression that is never null.
    pub fn expr(&self) -> Expr {
        self.conditions
            .iter()
            .map(Condition::expr)
            .reduce(Expr::and)
            .unwrap_or(lit(true))
    }

    /// Any of several filters as an expression: a single comparison if they all list values of one
    /// property.
    pub fn any<'a>(filters: impl Iterator<Item = &'a Self> + Clone) -> Expr {
        match Self::only_any(filters.clone()) {
            Some((property, values)) => Condition {
                property: property.clone(),
                predicate: Predicate::OneOf(values),
            }
            .expr(),
            None => filters
                .map(Self::expr)
                .reduce(Expr::or)
                .unwrap_or(lit(true)),
        }
    }

    /// The property and all values, if each filter only lists values of the same property.
    fn only_any<'a>(
        filters: impl Iterator<Item = &'a Self>,
    ) -> Option<(&'a Property, Vec<String>)> {
        let only: Vec<_> = filters.map(Self::only).collect::<Option<_>>()?;
        let (property, _) = only.first()?;
        let is_same = only.iter().all(|(other, _)| other == property);
        is_same.then(|| {
            let values = only.iter().flat_map(|(_, values)| values.iter().cloned());
            (*property, values.collect())
        })
    }

    /// The filter that requires both.
    pub fn and(&self, other: &Self) -> Self {
        let conditions = self.conditions.iter().chain(&other.conditions);
        Self {
            conditions: conditions.cloned().collect(),
        }
    }

    /// True if it has no conditions, so that every event meets it.
    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }

    /// The property and its values, if the filter only lists values of one property.
    pub fn only(&self) -> Option<(&Property, &[String])> {
        match self.conditions.as_slice() {
            [
                Condition {
                    property,
                    predicate: Predicate::OneOf(values),
                },
            ] => Some((property, values)),
            _ => None,
        }
    }

    /// The properties that it names.
    pub fn properties(&self) -> impl Iterator<Item = &Property> {
        self.conditions.iter().map(|condition| &condition.property)
    }

    /// True if columns are needed that are not among [`schema::COUNTED`].
    pub fn needs_details(&self) -> bool {
        self.conditions
            .iter()
            .any(|condition| condition.property.is_detail())
    }
}

impl Condition {
    fn expr(&self) -> Expr {
        let predicate = self.predicate.clone();
        if let Property::Metadata(path) = &self.property {
            let predicate = predicate.of_metadata();
            let path = Path::new(path);
            let meets = move |object: &str| {
                predicate.is_met(&|meets| path.any(object, &mut |value| meets(value)))
            };
            return boolean(col(schema::METADATA), meets);
        }
        let value = self.property.expr();
        let met = match predicate {
            Predicate::OneOf(strings) => match strings.as_slice() {
                [string] => value.eq(lit(string.as_str())),
                strings => {
                    let strings = Series::new(PlSmallStr::EMPTY, strings);
                    value.is_in(lit(strings).implode(false), false)
                }
            },
            Predicate::Prefix(prefix) => value.str().starts_with(lit(prefix)),
            Predicate::Range(range) => {
                return boolean(value.cast(DataType::String), move |string| {
                    range.has(string)
                });
            }
            Predicate::Exists(true) => return value.is_not_null(),
            Predicate::Exists(false) => return value.is_null(),
        };
        met.fill_null(lit(false))
    }
}

impl Condition {
    /// The condition on a value of its column in a table, which is JSON in metadata and a string
    /// elsewhere, `None` where it is missing. The same as `Condition::expr`.
    pub fn on_value(&self) -> ValueTest {
        let predicate = self.predicate.clone();
        if matches!(self.property, Property::Metadata(_)) {
            let predicate = predicate.of_metadata();
            return Box::new(move |json| {
                predicate.is_met(&|meets| {
                    json.is_some_and(|json| path::any_of(json, &mut |value| meets(value)))
                })
            });
        }
        Box::new(move |value| match (&predicate, value) {
            (Predicate::OneOf(strings), Some(value)) => {
                strings.iter().any(|string| string == value)
            }
            (Predicate::Prefix(prefix), Some(value)) => value.starts_with(prefix.as_str()),
            (Predicate::Range(range), Some(value)) => range.has(value),
            (Predicate::Exists(exists), value) => *exists == value.is_some(),
            (_, None) => false,
        })
    }
}

/// A predicate on strings as an expression. Null is passed as `{}`: as metadata without values, and
/// not a number.
fn boolean(string: Expr, meets: impl Fn(&str) -> bool + Send + Sync + 'static) -> Expr {
    string.map(
        move |column| {
            let met = column.str()?.iter();
            let met: BooleanChunked = met
                .map(|string| Some(meets(string.unwrap_or("{}"))))
                .collect();
            Ok(met.with_name(column.name().clone()).into_column())
        },
        |_, field| Ok(Field::new(field.name().clone(), DataType::Boolean)),
    )
}

impl Range {
    /// True if a string is a number in the range.
    fn has(&self, string: &str) -> bool {
        let Some(number) = Number::parse(string) else {
            return false;
        };
        let is_above = self.min.as_ref().is_none_or(|min| number >= *min);
        is_above && self.max.as_ref().is_none_or(|max| number <= *max)
    }
}

impl Property {
    /// The value of the property as a string expression, null where it is missing.
    pub fn expr(&self) -> Expr {
        match self {
            Self::EventType => col(schema::EVENT_TYPE),
            Self::Feature => col(schema::FEATURE),
            Self::Url => col(schema::URL),
            Self::Metadata(path) => value_at(path),
        }
    }

    /// The name of its column in a table.
    pub fn column_name(&self) -> String {
        match self {
            Self::EventType => schema::EVENT_TYPE.into(),
            Self::Feature => schema::FEATURE.into(),
            Self::Url => schema::URL.into(),
            Self::Metadata(path) => format!("{}.{path}", schema::METADATA),
        }
    }

    /// The string of a value of its column in a table, by which breakdowns group.
    pub fn string_of<'a>(&self, value: &'a str) -> Option<Cow<'a, str>> {
        match self {
            Self::Metadata(_) => path::string_of(value),
            _ => Some(Cow::Borrowed(value)),
        }
    }

    /// True if its column is not among [`schema::COUNTED`].
    pub fn is_detail(&self) -> bool {
        matches!(self, Self::Url | Self::Metadata(_))
    }
}

/// The value at a path in the metadata. A closure over rows, because Polars' own expression parses
/// each object into a tree to read one key of it.
fn value_at(path: &str) -> Expr {
    let path = Path::new(path);
    col(schema::METADATA).map(
        move |column| {
            let objects = column.str()?;
            let values: StringChunked = objects
                .iter()
                .map(|object| path.value_in(object?))
                .collect();
            Ok(values.with_name(column.name().clone()).into_column())
        },
        |_, field| Ok(Field::new(field.name().clone(), DataType::String)),
    )
}

impl TryFrom<String> for Property {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match name.as_str() {
            "event_type" => Ok(Self::EventType),
            "feature" => Ok(Self::Feature),
            "url" => Ok(Self::Url),
            other => match other.strip_prefix("metadata.") {
                Some(path) => Ok(Self::Metadata(path.into())),
                None => Err(format!(
                    "{:?} is not a property; allowed are event_type, feature, url and metadata.<path>",
                    start_of(&name)
                )),
            },
        }
    }
}

impl TryFrom<Map<String, Value>> for Filter {
    type Error = String;

    fn try_from(map: Map<String, Value>) -> Result<Self, String> {
        if map.len() > MAX_CONDITIONS {
            return Err(format!(
                "the filter has {} conditions; allowed are {MAX_CONDITIONS}",
                map.len()
            ));
        }
        let conditions = map.into_iter().map(|(name, value)| {
            Ok(Condition {
                predicate: Predicate::parse(value)
                    .map_err(|message| format!("{name}: {message}"))?,
                property: name.try_into()?,
            })
        });
        Ok(Self {
            conditions: conditions.collect::<Result<_, String>>()?,
        })
    }
}

impl Predicate {
    /// The predicate for metadata, where a string that is a JSON number also equals that number.
    fn of_metadata(self) -> Self {
        match self {
            Self::OneOf(mut strings) => {
                let numbers = strings.iter().map(|string| number::canonical(string));
                let numbers: Vec<_> = numbers.map(Cow::into_owned).collect();
                strings.extend(numbers);
                strings.sort_unstable();
                strings.dedup();
                Self::OneOf(strings)
            }
            other => other,
        }
    }

    /// True if one of the values at a path in a metadata object meets it, for a predicate from
    /// [`Predicate::of_metadata`]. `values` tells whether one of them, as JSON, meets a condition.
    fn is_met(&self, values: &AnyValue<'_>) -> bool {
        let any = |meets: &dyn Fn(&str) -> bool| {
            values(&|value| path::string_of(value).is_some_and(|string| meets(&string)))
        };
        match self {
            Self::OneOf(strings) => match strings.as_slice() {
                [string] => any(&|value| value == string),
                strings => any(&|value| {
                    let found = strings.binary_search_by(|string| string.as_str().cmp(value));
                    found.is_ok()
                }),
            },
            Self::Prefix(prefix) => any(&|value| value.starts_with(prefix.as_str())),
            Self::Range(range) => any(&|value| range.has(value)),
            Self::Exists(exists) => any(&|_| true) == *exists,
        }
    }

    fn parse(value: Value) -> Result<Self, String> {
        /// A condition that is an object.
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case", deny_unknown_fields)]
        struct Object {
            prefix: Option<String>,
            min: Option<serde_json::Number>,
            max: Option<serde_json::Number>,
            exists: Option<bool>,
        }
        const ALLOWED: &str = "allowed is a string, a number, true or false, a list of them, {\"prefix\":string}, \
                               {\"min\":number,\"max\":number} or {\"exists\":true or false}";
        match value {
            Value::Array(values) if values.is_empty() || values.len() > MAX_VALUES => Err(format!(
                "a list of {} values; allowed are 1 to {MAX_VALUES}",
                values.len()
            )),
            Value::Array(values) => {
                let strings = values.iter().map(scalar_string).collect::<Option<_>>();
                Ok(Self::OneOf(strings.ok_or(ALLOWED)?))
            }
            Value::Object(_) => {
                let found = start_of(&value.to_string()).to_owned();
                let object: Object = serde_json::from_value(value)
                    .map_err(|error| format!("{found}: {error}; {ALLOWED}"))?;
                match object {
                    Object {
                        prefix: Some(prefix),
                        min: None,
                        max: None,
                        exists: None,
                    } => Ok(Self::Prefix(prefix)),
                    Object {
                        prefix: None,
                        min: None,
                        max: None,
                        exists: Some(exists),
                    } => Ok(Self::Exists(exists)),
                    Object {
                        prefix: None,
                        min,
                        max,
                        exists: None,
                    } if min.is_some() || max.is_some() => {
                        let number = |number: Option<serde_json::Number>| {
                            number.and_then(|number| Number::parse(&number.to_string()))
                        };
                        Ok(Self::Range(Range {
                            min: number(min),
                            max: number(max),
                        }))
                    }
                    _ => Err(format!("{found}; {ALLOWED}")),
                }
            }
            value => match scalar_string(&value) {
                Some(string) => Ok(Self::OneOf(vec![string])),
                None => Err(format!("{value}; {ALLOWED}")),
            },
        }
    }
}

/// A scalar as the string that properties are compared by; `None` for null, lists and objects.
pub(super) fn scalar_string(value: &Value) -> Option<String> {
    match value {
        Value::String(string) => Some(string.clone()),
        Value::Number(number) => Some(number::canonical(&number.to_string()).into_owned()),
        Value::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}

/// The first 64 characters.
fn start_of(string: &str) -> &str {
    let end = string
        .char_indices()
        .nth(64)
        .map_or(string.len(), |(at, _)| at);
    string.get(..end).unwrap_or(string)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn filter(value: Value) -> Result<Filter, String> {
        match value {
            Value::Object(map) => Filter::try_from(map),
            other => panic!("{other} is not a filter"),
        }
    }

    /// The rows of four events that meet a filter.
    fn met(value: Value) -> Vec<usize> {
        let events = df![
            schema::EVENT_TYPE => ["action", "action", "page_view", "conversion"],
            schema::FEATURE => [Some("cart"), Some("docs"), None, Some("cart")],
            schema::URL => [Some("/docs/a"), None, Some("/pricing"), Some("/docs")],
            schema::METADATA => [
                Some(r#"{"plan":"pro","n":10,"tags":["a","b"]}"#),
                Some(r#"{"plan":"free","n":"1e1"}"#),
                None,
                Some(r#"{"plan":null,"n":11.5}"#),
            ],
        ];
        let filter = filter(value).expect("a filter");
        let met = events
            .expect("columns")
            .lazy()
            .select([filter.expr().alias("met")]);
        let met = met.collect().expect("a column");
        let met = met.column("met").and_then(|met| met.bool().cloned());
        let met = met.expect("booleans");
        assert_eq!(met.null_count(), 0);
        let rows = met.iter().enumerate().filter(|(_, met)| *met == Some(true));
        rows.map(|(row, _)| row).collect()
    }

    #[test]
    fn conditions_are_met_by_values_prefixes_ranges_and_existence() {
        for (value, rows) in [
            (json!({"feature":"cart"}), vec![0, 3]),
            (
                json!({"feature":["docs","cart"],"event_type":"action"}),
                vec![0, 1],
            ),
            (json!({"feature":{"exists":false}}), vec![2]),
            (json!({"url":{"prefix":"/docs"}}), vec![0, 3]),
            (json!({"metadata.plan":["pro","free"]}), vec![0, 1]),
            (json!({"metadata.plan":{"exists":true}}), vec![0, 1]),
            (json!({"metadata.plan":{"exists":false}}), vec![2, 3]),
            // A list meets a condition when a member does.
            (json!({"metadata.tags":"b"}), vec![0]),
            // A number in every notation, but not a string; a string that is a number is in a
            // range.
            (json!({"metadata.n":10.0}), vec![0]),
            (json!({"metadata.n":{"min":10,"max":11}}), vec![0, 1]),
            (json!({"metadata.n":{"min":10.5}}), vec![3]),
        ] {
            let expected: Vec<usize> = rows;
            assert_eq!(met(value.clone()), expected, "{value}");
        }
    }

    #[test]
    fn a_filter_that_only_lists_values_of_one_property_is_known() {
        let cart = filter(json!({"feature":"cart"})).expect("a filter");
        let others = filter(json!({"feature":["docs","blog"]})).expect("a filter");
        let only = Filter::only_any([&cart, &others].into_iter());
        let expected: Vec<String> = ["cart", "docs", "blog"].map(str::to_owned).into();
        assert_eq!(only, Some((&Property::Feature, expected)));
        let typed = filter(json!({"event_type":"action"})).expect("a filter");
        assert_eq!(Filter::only_any([&cart, &typed].into_iter()), None);
        assert_eq!(cart.and(&typed).only(), None);
        assert!(Filter::default().is_empty() && !cart.needs_details());
    }

    #[test]
    fn a_wrong_filter_names_the_property_and_what_is_allowed() {
        for (value, says) in [
            (json!({"colour":"red"}), "\"colour\" is not a property"),
            (json!({"feature":null}), "feature: null; allowed is"),
            (json!({"feature":[]}), "a list of 0 values"),
            (
                json!({"feature":{"min":1,"prefix":"a"}}),
                "feature: {\"min\":1",
            ),
            (
                json!({"url":{"like":"a"}}),
                "url: {\"like\":\"a\"}: unknown field",
            ),
        ] {
            let message = filter(value.clone()).expect_err("a wrong filter");
            assert!(message.contains(says), "{value}: {message}");
        }
    }
}
