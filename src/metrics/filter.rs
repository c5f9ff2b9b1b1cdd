//! Filters: conditions on the properties of an event, all of which must hold.
//!
//! A filter is a JSON object from property to condition:
//! `{"event_type":"action","metadata.plan":["pro","team"]}`. The properties are `event_type`,
//! `feature`, `url`, `user_id` and `metadata.<path>` ([`Path`]). The key `any` has a list of
//! filters of which at least one must hold, the key `not` a filter that must not hold.
//!
//! A condition ([`Predicate`]) is a value, a list of values, or one of `{"contains":"x"}`,
//! `{"prefix":"x"}`, `{"suffix":"x"}`, `{"matches":"a|b"}`, each also with `"ignore_case":true`,
//! `{"min":1,"max":5}` (both included), `{"above":1,"below":5}` (both excluded), `{"exists":true}`,
//! `{"not":condition}` and `{"all":[conditions]}`. A property that is missing or null meets only
//! `{"exists":false}` and negations; a list meets a condition when a member does.
//!
//! Numbers are compared by their exact values in whatever notation ([`Number`]), other values as
//! strings: `true` equals the string `true`, and a number the string of its one notation. A string
//! is in a range only if it is a JSON number. Definitions: `docs/metrics.md`, "Property values" and
//! "Filters".
//!
//! The id of a user is compared as it was sent. Tables have codes instead, so that events are read
//! from segments where a filter names `user_id`.
//!
//! [`Number`]: crate::event::number::Number

pub mod described;
pub mod pattern;
pub mod predicate;
mod system;

use std::borrow::Cow;

use polars::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::{Error, ErrorCode, Result, shown};
use crate::event::path::{self, Path};
use crate::schema;

use predicate::Left;
pub use predicate::{MAX_CONDITIONS, Predicate, scalar_string};

/// The key of a list of filters of which at least one must hold.
const ANY: &str = "any";
/// The key of a filter that must not hold.
const NOT: &str = "not";

/// A condition on a value, `None` where it is missing.
pub type ValueTest = Box<dyn Fn(Option<&str>) -> bool + Send + Sync>;

/// Conditions that must all hold. Every event meets a filter without conditions.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub struct Filter {
    /// The conditions.
    pub conditions: Vec<Condition>,
}

/// A condition on an event.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// On a property.
    Of {
        /// The property.
        property: Property,
        /// The predicate that it must meet.
        predicate: Predicate,
    },
    /// At least one of these filters must hold.
    Any(Vec<Filter>),
    /// This filter must not hold.
    Not(Filter),
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
    /// The id of the user, as it was sent.
    UserId,
    /// The value at a path in the metadata.
    Metadata(String),
}

impl Filter {
    /// The filter as an expression that is never null, over the columns of
    /// [`Source::for_each_batch`](super::source::Source::for_each_batch).
    pub fn expr(&self) -> Expr {
        self.conditions
            .iter()
            .map(Condition::expr)
            .reduce(Expr::and)
            .unwrap_or(lit(true))
    }

    /// The events with the columns of [`schema::lake`] that meet it; all if it has no conditions.
    pub fn of_lake(&self, events: LazyFrame) -> LazyFrame {
        if self.is_empty() {
            return events;
        }
        let user = col(schema::USER_ID).alias(schema::USER);
        let columns: Vec<Expr> = schema::lake().iter_names().cloned().map(col).collect();
        events
            .with_columns([user])
            .filter(self.of_seen().expr())
            .select(columns)
    }

    /// Any of several filters as an expression: a single comparison if they all list values of one
    /// property.
    pub fn any<'a>(filters: impl Iterator<Item = &'a Self> + Clone) -> Expr {
        match Self::only_any(filters.clone()) {
            Some((property, values)) => Condition::Of {
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
                Condition::Of {
                    property,
                    predicate: Predicate::OneOf(values),
                },
            ] => Some((property, values)),
            _ => None,
        }
    }

    /// The properties that it names.
    pub fn properties(&self) -> Box<dyn Iterator<Item = &Property> + '_> {
        Box::new(self.conditions.iter().flat_map(Condition::properties))
    }

    /// The property, if all conditions are on one.
    pub fn property(&self) -> Option<&Property> {
        only_one(self.properties())
    }

    /// True if columns are needed that are not among [`schema::COUNTED`].
    pub fn needs_details(&self) -> bool {
        self.properties().any(Property::is_detail)
    }

    /// The filter on a value of the only property that it is on, as [`Condition::on_value`].
    pub fn on_value(&self) -> ValueTest {
        let tests: Vec<ValueTest> = self.conditions.iter().map(Condition::on_value).collect();
        Box::new(move |value| tests.iter().all(|test| test(value)))
    }

    /// Checks that no regular expression was too slow so far.
    ///
    /// # Errors
    /// `bad_query`, which names it.
    pub fn check_time(&self) -> Result<()> {
        let checked = self.conditions.iter().try_for_each(Condition::check_time);
        checked.map_err(|message| Error::bad_input(ErrorCode::BadQuery, message))
    }

    fn parse(map: Map<String, Value>, left: &mut Left) -> Result<Self, String> {
        let conditions = map.into_iter().map(|(name, value)| match name.as_str() {
            ANY => left.nested(|left| parse_any(value, left)),
            NOT => match value {
                Value::Object(map) => left
                    .nested(|left| Self::parse(map, left))
                    .map(Condition::Not)
                    .map_err(|message| format!("{NOT}.{message}")),
                other => Err(format!("{NOT}: {}; allowed is a filter", start_of(&other))),
            },
            _ => {
                let property = Property::try_from(name.clone())?;
                let predicate = Predicate::parse(value, left)
                    .map_err(|message| format!("{}: {message}", shown(&name)))?;
                Ok(Condition::Of {
                    property,
                    predicate,
                })
            }
        });
        Ok(Self {
            conditions: conditions.collect::<Result<_, String>>()?,
        })
    }
}

fn parse_any(value: Value, left: &mut Left) -> Result<Condition, String> {
    let filters = match value {
        Value::Array(filters) if !filters.is_empty() => filters,
        other => {
            return Err(format!(
                "{ANY}: {}; allowed is a list of 1 to {MAX_CONDITIONS} filters",
                start_of(&other)
            ));
        }
    };
    let filters = filters.into_iter().enumerate().map(|(at, one)| match one {
        Value::Object(map) => {
            if map.is_empty() {
                // Otherwise a list of any length would have no conditions.
                left.take_condition()?;
            }
            Filter::parse(map, left).map_err(|message| format!("{ANY}[{at}].{message}"))
        }
        other => Err(format!(
            "{ANY}[{at}]: {}; allowed is a filter",
            start_of(&other)
        )),
    });
    Ok(Condition::Any(filters.collect::<Result<_, String>>()?))
}

/// The beginning of a JSON value, for messages.
fn start_of(value: &Value) -> String {
    shown(&value.to_string()).to_owned()
}

/// The property, if all of them are the same.
fn only_one<'a>(mut properties: impl Iterator<Item = &'a Property>) -> Option<&'a Property> {
    let first = properties.next()?;
    properties.all(|other| other == first).then_some(first)
}

impl Condition {
    fn expr(&self) -> Expr {
        match self {
            Self::Of {
                property: Property::Metadata(path),
                predicate,
            } => {
                let (predicate, path) = (predicate.clone().of_metadata(), Path::new(path));
                let checked = predicate.clone();
                let meets = move |object: Option<&str>| predicate.is_met_by_object(&path, object);
                boolean(col(schema::METADATA), meets, checked)
            }
            Self::Of {
                property,
                predicate,
            } => of_string(property.expr(), &predicate.clone().of_strings()),
            Self::Any(filters) => {
                let any = filters.iter().map(Filter::expr).reduce(Expr::or);
                any.unwrap_or(lit(false))
            }
            Self::Not(filter) => filter.expr().not(),
        }
    }

    /// The properties that it names.
    fn properties(&self) -> Box<dyn Iterator<Item = &Property> + '_> {
        match self {
            Self::Of { property, .. } => Box::new(std::iter::once(property)),
            Self::Any(filters) => Box::new(filters.iter().flat_map(Filter::properties)),
            Self::Not(filter) => filter.properties(),
        }
    }

    /// The property, if it is on one alone.
    pub fn property(&self) -> Option<&Property> {
        only_one(self.properties())
    }

    /// The condition on a value of the column of its only property in a table, which is JSON in
    /// metadata and a string elsewhere, `None` where it is missing. The same as `Condition::expr`.
    pub fn on_value(&self) -> ValueTest {
        match self {
            Self::Of {
                property: Property::Metadata(_),
                predicate,
            } => {
                let predicate = predicate.clone().of_metadata();
                Box::new(move |json| predicate.is_met_by_json(json))
            }
            Self::Of { predicate, .. } => {
                let predicate = predicate.clone().of_strings();
                Box::new(move |value| predicate.is_met_by_string(value))
            }
            Self::Any(filters) => {
                let tests: Vec<ValueTest> = filters.iter().map(Filter::on_value).collect();
                Box::new(move |value| tests.iter().any(|test| test(value)))
            }
            Self::Not(filter) => {
                let test = filter.on_value();
                Box::new(move |value| !test(value))
            }
        }
    }

    fn check_time(&self) -> Result<(), String> {
        match self {
            Self::Of { predicate, .. } => predicate.check_time(),
            Self::Any(filters) => filters
                .iter()
                .flat_map(|filter| &filter.conditions)
                .try_for_each(Self::check_time),
            Self::Not(filter) => filter.conditions.iter().try_for_each(Self::check_time),
        }
    }
}

/// A predicate on a column of strings as an expression that is never null. Comparisons that Polars
/// has are its own, so that they are applied while the column is read.
fn of_string(value: Expr, predicate: &Predicate) -> Expr {
    let met = match predicate {
        Predicate::OneOf(strings) => match strings.as_slice() {
            [string] => value.eq(lit(string.as_str())),
            strings => {
                let strings = Series::new(PlSmallStr::EMPTY, strings);
                value.is_in(lit(strings).implode(false), false)
            }
        },
        Predicate::Prefix(prefix) => value.str().starts_with(lit(prefix.as_str())),
        Predicate::Suffix(suffix) => value.str().ends_with(lit(suffix.as_str())),
        Predicate::Exists(true) => return value.is_not_null(),
        Predicate::Exists(false) => return value.is_null(),
        Predicate::Not(inner) => return of_string(value, inner).not(),
        Predicate::All(all) => {
            let all = all.iter().map(|one| of_string(value.clone(), one));
            return all.reduce(Expr::and).unwrap_or(lit(true));
        }
        Predicate::Contains(_) | Predicate::Matches(_) | Predicate::Range(_) => {
            let (meets, checked) = (predicate.clone(), predicate.clone());
            let meets = move |string: Option<&str>| meets.is_met_by_string(string);
            return boolean(value.cast(DataType::String), meets, checked);
        }
    };
    met.fill_null(lit(false))
}

/// A test of strings as an expression, which fails if a regular expression of the predicate is too
/// slow. A closure over rows, because Polars is built without regular expressions, and has none
/// that reads a path in metadata without parsing each object into a tree.
fn boolean(
    string: Expr,
    meets: impl Fn(Option<&str>) -> bool + Send + Sync + 'static,
    predicate: Predicate,
) -> Expr {
    string.map(
        move |column| {
            // The events of a user are neighbours, and many have the value of the one before.
            let mut last = (None, meets(None));
            let met = column.str()?.iter().map(|string| {
                if last.0 != string {
                    last = (string, meets(string));
                }
                Some(last.1)
            });
            let met: BooleanChunked = met.collect();
            if let Err(message) = predicate.check_time() {
                return Err(PolarsError::ComputeError(message.into()));
            }
            Ok(met.with_name(column.name().clone()).into_column())
        },
        |_, field| Ok(Field::new(field.name().clone(), DataType::Boolean)),
    )
}

impl Property {
    /// The value of the property as a string expression, null where it is missing.
    pub fn expr(&self) -> Expr {
        match self {
            Self::EventType => col(schema::EVENT_TYPE),
            Self::Feature => col(schema::FEATURE),
            Self::Url => col(schema::URL),
            Self::UserId => col(schema::USER),
            Self::Metadata(path) => value_at(path),
        }
    }

    /// The name of its column in a table. There is none of the ids of users.
    pub fn column_name(&self) -> String {
        match self {
            Self::EventType => schema::EVENT_TYPE.into(),
            Self::Feature => schema::FEATURE.into(),
            Self::Url => schema::URL.into(),
            Self::UserId => schema::USER_ID.into(),
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
        matches!(self, Self::Url | Self::UserId | Self::Metadata(_))
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
            "user_id" => Ok(Self::UserId),
            "cohort" => Err(
                "cohort is allowed at the top of the filter of a query alone, and not in a part of it, in a step or in \
                 another filter"
                    .into(),
            ),
            other => match other.strip_prefix("metadata.") {
                Some(path) => Ok(Self::Metadata(path.into())),
                None => Err(format!(
                    "{:?} is not a property; allowed are event_type, feature, url, user_id and metadata.<path>",
                    shown(&name)
                )),
            },
        }
    }
}

impl TryFrom<Map<String, Value>> for Filter {
    type Error = String;

    fn try_from(map: Map<String, Value>) -> Result<Self, String> {
        Self::parse(map, &mut Left::default())
    }
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
            schema::USER => [Some("ann"), Some("bob"), None, Some("ann")],
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
            .with_columns([filter.expr().alias("met")]);
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
            (json!({"metadata.n":{"above":10,"max":11.5}}), vec![3]),
            (json!({"metadata.n":{"min":10,"below":11.5}}), vec![0, 1]),
            // Parts of strings, with and without case; nested values have none.
            (json!({"url":{"contains":"ocs"}}), vec![0, 3]),
            (json!({"url":{"contains":"OCS"}}), vec![]),
            (
                json!({"url":{"contains":"OCS","ignore_case":true}}),
                vec![0, 3],
            ),
            (json!({"url":{"suffix":"/a"}}), vec![0]),
            (
                json!({"url":{"suffix":"/DOCS","ignore_case":true}}),
                vec![3],
            ),
            (json!({"url":{"prefix":"/P","ignore_case":true}}), vec![2]),
            (json!({"url":{"matches":"^/(docs|pricing)$"}}), vec![2, 3]),
            (json!({"url":{"contains":".","ignore_case":true}}), vec![]),
            (
                json!({"metadata.plan":{"matches":"^FR","ignore_case":true}}),
                vec![1],
            ),
            (json!({"metadata.tags":{"contains":","}}), vec![]),
            (json!({"metadata.tags":{"suffix":"b"}}), vec![0]),
            // A missing property meets negations, and a list by none of its members.
            (json!({"feature":{"not":"cart"}}), vec![1, 2]),
            (json!({"feature":{"not":["cart","docs"]}}), vec![2]),
            (json!({"metadata.tags":{"not":"a"}}), vec![1, 2, 3]),
            (json!({"metadata.n":{"not":{"min":11}}}), vec![0, 1, 2]),
            (json!({"url":{"not":{"contains":"docs"}}}), vec![1, 2]),
            (json!({"url":{"not":{"exists":true}}}), vec![1]),
            (
                json!({"url":{"not":{"not":{"prefix":"/docs"}}}}),
                vec![0, 3],
            ),
            (
                json!({"url":{"all":[{"prefix":"/docs"},{"not":"/docs"}]}}),
                vec![0],
            ),
            (json!({"metadata.tags":{"all":["a","b"]}}), vec![0]),
            (json!({"user_id":"ann"}), vec![0, 3]),
            (json!({"user_id":{"exists":false}}), vec![2]),
            // One of several filters, and the negation of a filter.
            (
                json!({"any":[{"feature":"docs"},{"url":"/docs"}]}),
                vec![1, 3],
            ),
            (json!({"any":[{}]}), vec![0, 1, 2, 3]),
            (json!({"not":{}}), vec![]),
            (
                json!({"not":{"event_type":"action","feature":"cart"}}),
                vec![1, 2, 3],
            ),
            (
                json!({"event_type":"action","any":[{"not":{"url":{"exists":true}}},{"any":[{"user_id":"ann"}]}]}),
                vec![0, 1],
            ),
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
                json!({"feature":["a",null]}),
                "feature: [\"a\",null]; allowed",
            ),
            (
                json!({"any":[]}),
                "any: []; allowed is a list of 1 to 50 filters",
            ),
            (json!({"any":{}}), "any: {}; allowed"),
            (
                json!({"any":[{"url":1},{"url":null}]}),
                "any[1].url: null; allowed",
            ),
            (json!({"not":[]}), "not: []; allowed is a filter"),
            (
                json!({"not":{"any":[3]}}),
                "not.any[0]: 3; allowed is a filter",
            ),
            (
                json!({"not":{"cohort":"a"}}),
                "not.cohort is allowed at the top",
            ),
            (json!({"url":{"not":{"not":null}}}), "url: not: not: null"),
            (
                json!({"url":{"not":"a","prefix":"b"}}),
                "unknown field `not`",
            ),
            (
                json!({"url":{"all":["a",{"min":"x"}]}}),
                "url: all[1]: {\"min\":\"x\"}",
            ),
            (
                json!({"url":{"ignore_case":true}}),
                "url: {\"ignore_case\":true}; allowed",
            ),
            (
                json!({"url":{"exists":true,"ignore_case":true}}),
                "ignore_case",
            ),
            (json!({"url":{"matches":"("}}), "url: the expression \"(\""),
            (
                json!({"url":{"matches":"a".repeat(1_000_000)}}),
                "has 1000000 characters; allowed are 2048",
            ),
            (
                json!({"url":{"matches":"((((a{99}){99}){99}){99})"}}),
                "too large",
            ),
            (
                json!({"any":vec![json!({"url":"a"}); 51]}),
                "any[50].url: the filter has more than 50 conditions",
            ),
            (
                json!({"any":vec![json!({}); 51]}),
                "more than 50 conditions",
            ),
            (
                json!({"url":{"all":vec![json!("a"); 51]}}),
                "url: all[50]: the filter has more than 50 conditions",
            ),
            (
                deep(9, "not", json!({"url":"a"})),
                "nested more than 8 deep",
            ),
            (
                json!({"url":deep(9, "not", json!("a"))}),
                "nested more than 8 deep",
            ),
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
            assert!(message.contains(says), "{says}: {message}");
            assert!(message.len() < 1_000, "{message}");
        }
        let allowed = deep(8, "not", json!({"url":"a"}));
        assert!(filter(allowed).is_ok());
    }

    /// A value inside of so many objects.
    fn deep(levels: usize, key: &str, value: Value) -> Value {
        (0..levels).fold(value, |value, _| json!({ key: value }))
    }

    #[test]
    fn the_only_property_of_a_filter_is_known_in_any_form() {
        let of = |value: Value| filter(value).expect("a filter").property().cloned();
        let (event_type, feature) = (Some(Property::EventType), Some(Property::Feature));
        for (value, expected) in [
            (json!({}), None),
            (json!({"feature":{"not":"a"}}), feature.clone()),
            (json!({"any":[{"feature":"a"},{"feature":"b"}]}), feature),
            (
                json!({"not":{"event_type":"a"},"event_type":"b"}),
                event_type,
            ),
            (json!({"any":[{"feature":"a"},{"url":"b"}]}), None),
        ] {
            assert_eq!(of(value.clone()), expected, "{value}");
        }
        let odd = filter(json!({"any":[{"feature":"a"},{"not":{"feature":{"exists":true}}}]}));
        let test = odd.expect("a filter").on_value();
        assert!(test(Some("a")) && test(None) && !test(Some("b")));
    }
}
