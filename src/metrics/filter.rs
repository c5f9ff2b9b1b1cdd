//! Filters: conditions on the properties of an event, all of which must hold.
//!
//! A filter is a JSON object from property to condition: `{"event_type":"action","metadata.plan":["pro","team"]}`. The
//! properties are `event_type`, `feature`, `url` and `metadata.<path>` ([`Path`]); a condition is a value, a list of values, or
//! one of `{"prefix":"/docs"}`, `{"min":1,"max":5}` (numbers, both included, one may be missing) and `{"exists":true}`.
//! A property that is missing or null meets no condition but `{"exists":false}`; a list meets one when a member does.
//!
//! Numbers are compared by their exact values in whatever notation ([`Number`]), other values as strings: `true` equals the
//! string `true`, and a number the string of its one notation. A string is in a range only if it is a JSON number.
//! Definitions: `docs/metrics.md`, "Property values" and "Filters".

use std::borrow::Cow;

use polars::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::event::number::{self, Number};
use crate::event::path::{self, Path};
use crate::schema;

/// Conditions of a filter: more is a mistake, and each is computed for each event.
const MAX_CONDITIONS: usize = 20;
/// Values of a condition.
const MAX_VALUES: usize = 1_000;

/// Conditions that an event meets all together; none of them is met by every event.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub struct Filter {
    /// The conditions, each of another property.
    pub conditions: Vec<Condition>,
}

/// A condition on a property.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// What it is about.
    pub property: Property,
    /// What must hold of it.
    pub test: Test,
}

/// A property of an event.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Property {
    /// The event's type.
    EventType,
    /// The feature.
    Feature,
    /// Where it happened.
    Url,
    /// The value at a path in the metadata.
    Metadata(String),
}

/// What must hold of a property.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// It is one of these texts.
    OneOf(Vec<String>),
    /// It begins with this text.
    Prefix(String),
    /// It is a number in this range.
    Range(Range),
    /// Whether it is there.
    Exists(bool),
}

/// Numbers, both ends included.
#[derive(Debug, Clone, PartialEq)]
pub struct Range {
    /// The least.
    min: Option<Number>,
    /// The greatest.
    max: Option<Number>,
}

impl Filter {
    /// The events that meet all conditions, as an expression that is never null.
    pub fn expr(&self) -> Expr {
        self.conditions
            .iter()
            .map(Condition::expr)
            .reduce(Expr::and)
            .unwrap_or(lit(true))
    }

    /// Whether an event meets one of some filters: a single look at a column where they name values of one property.
    pub fn any<'a>(filters: impl Iterator<Item = &'a Self> + Clone) -> Expr {
        match Self::only_any(filters.clone()) {
            Some((property, values)) => Condition {
                property: property.clone(),
                test: Test::OneOf(values),
            }
            .expr(),
            None => filters
                .map(Self::expr)
                .reduce(Expr::or)
                .unwrap_or(lit(true)),
        }
    }

    /// The values of one property that events which meet one of some filters have, if that is all that these say.
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

    /// The features of events which meet one of some filters, if that is all that these say.
    pub fn only_features<'a>(filters: impl Iterator<Item = &'a Self>) -> Option<Vec<String>> {
        match Self::only_any(filters)? {
            (Property::Feature, names) => Some(names),
            _ => None,
        }
    }

    /// Whether it looks at the feature alone, if at anything.
    pub fn is_about_features(&self) -> bool {
        let mut conditions = self.conditions.iter();
        conditions.all(|condition| condition.property == Property::Feature)
    }

    /// The events that meet both.
    pub fn and(&self, other: &Self) -> Self {
        let conditions = self.conditions.iter().chain(&other.conditions);
        Self {
            conditions: conditions.cloned().collect(),
        }
    }

    /// Whether every event meets it.
    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }

    /// The values that events are allowed to have, if that is all that the filter says.
    pub fn only(&self) -> Option<(&Property, &[String])> {
        match self.conditions.as_slice() {
            [
                Condition {
                    property,
                    test: Test::OneOf(values),
                },
            ] => Some((property, values)),
            _ => None,
        }
    }

    /// Whether columns are needed that are not among [`schema::COUNTED`].
    pub fn needs_details(&self) -> bool {
        self.conditions
            .iter()
            .any(|condition| condition.property.is_detail())
    }
}

impl Condition {
    fn expr(&self) -> Expr {
        let test = self.test.clone();
        if let Property::Metadata(path) = &self.property {
            let test = test.of_metadata();
            let path = Path::new(path);
            let meets = move |object: &str| test.is_met(&path, object);
            return boolean(col(schema::METADATA), meets);
        }
        let value = self.property.expr();
        let met = match test {
            Test::OneOf(texts) => match texts.as_slice() {
                [text] => value.eq(lit(text.as_str())),
                texts => {
                    let texts = Series::new(PlSmallStr::EMPTY, texts);
                    value.is_in(lit(texts).implode(false), false)
                }
            },
            Test::Prefix(prefix) => value.str().starts_with(lit(prefix)),
            Test::Range(range) => {
                return boolean(value.cast(DataType::String), move |text| range.has(text));
            }
            Test::Exists(true) => return value.is_not_null(),
            Test::Exists(false) => return value.is_null(),
        };
        met.fill_null(lit(false))
    }
}

/// Whether a text meets a condition; what is missing is asked as an empty object of metadata and meets as little as one.
fn boolean(text: Expr, meets: impl Fn(&str) -> bool + Send + Sync + 'static) -> Expr {
    text.map(
        move |column| {
            let met = column.str()?.iter();
            let met: BooleanChunked = met.map(|text| Some(meets(text.unwrap_or("{}")))).collect();
            Ok(met.with_name(column.name().clone()).into_column())
        },
        |_, field| Ok(Field::new(field.name().clone(), DataType::Boolean)),
    )
}

impl Range {
    /// Whether a text is a number in the range.
    fn has(&self, text: &str) -> bool {
        let Some(number) = Number::parse(text) else {
            return false;
        };
        let is_above = self.min.as_ref().is_none_or(|min| number >= *min);
        is_above && self.max.as_ref().is_none_or(|max| number <= *max)
    }
}

impl Property {
    /// The property of an event as text, null where it is missing.
    pub fn expr(&self) -> Expr {
        match self {
            Self::EventType => col(schema::EVENT_TYPE),
            Self::Feature => col(schema::FEATURE),
            Self::Url => col(schema::URL),
            Self::Metadata(path) => value_at(path),
        }
    }

    /// Whether it is in a column that is not among [`schema::COUNTED`].
    pub fn is_detail(&self) -> bool {
        matches!(self, Self::Url | Self::Metadata(_))
    }
}

/// The value at a path in the metadata. A closure over rows, because the engine's own expression parses each object into a
/// tree to look at one key of it.
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
                    "{:?} is no property; allowed are event_type, feature, url and metadata.<path>",
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
                test: Test::parse(value).map_err(|message| format!("{name}: {message}"))?,
                property: name.try_into()?,
            })
        });
        Ok(Self {
            conditions: conditions.collect::<Result<_, String>>()?,
        })
    }
}

impl Test {
    /// The same of metadata, where a string that is a JSON number finds the number as well.
    fn of_metadata(self) -> Self {
        match self {
            Self::OneOf(mut texts) => {
                let numbers = texts.iter().map(|text| number::canonical(text));
                let numbers: Vec<_> = numbers.map(Cow::into_owned).collect();
                texts.extend(numbers);
                texts.sort_unstable();
                texts.dedup();
                Self::OneOf(texts)
            }
            other => other,
        }
    }

    /// Whether the value at a path in an object of metadata meets it; its own texts are those of [`Test::of_metadata`].
    fn is_met(&self, path: &Path, object: &str) -> bool {
        let any = |meets: &dyn Fn(&str) -> bool| {
            path.any(object, &mut |value| {
                path::text_of(value).is_some_and(|text| meets(&text))
            })
        };
        match self {
            Self::OneOf(texts) => match texts.as_slice() {
                [text] => any(&|value| value == text),
                texts => any(&|value| {
                    let found = texts.binary_search_by(|text| text.as_str().cmp(value));
                    found.is_ok()
                }),
            },
            Self::Prefix(prefix) => any(&|value| value.starts_with(prefix.as_str())),
            Self::Range(range) => any(&|value| range.has(value)),
            Self::Exists(exists) => any(&|_| true) == *exists,
        }
    }

    fn parse(value: Value) -> Result<Self, String> {
        /// A condition that is no plain value.
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case", deny_unknown_fields)]
        struct Object {
            prefix: Option<String>,
            min: Option<serde_json::Number>,
            max: Option<serde_json::Number>,
            exists: Option<bool>,
        }
        const ALLOWED: &str = "allowed is a text, a number, true or false, a list of them, {\"prefix\":text}, \
                               {\"min\":number,\"max\":number} or {\"exists\":true or false}";
        match value {
            Value::Array(values) if values.is_empty() || values.len() > MAX_VALUES => Err(format!(
                "a list of {} values; allowed are 1 to {MAX_VALUES}",
                values.len()
            )),
            Value::Array(values) => {
                let texts = values.iter().map(text_of).collect::<Option<_>>();
                Ok(Self::OneOf(texts.ok_or(ALLOWED)?))
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
            value => match text_of(&value) {
                Some(text) => Ok(Self::OneOf(vec![text])),
                None => Err(format!("{value}; {ALLOWED}")),
            },
        }
    }
}

/// A plain value as the text that properties are compared by.
pub(super) fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number::canonical(&number.to_string()).into_owned()),
        Value::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}

/// Enough of a text to recognise it.
fn start_of(text: &str) -> &str {
    let end = text.char_indices().nth(64).map_or(text.len(), |(at, _)| at);
    text.get(..end).unwrap_or(text)
}
