//! Predicates: conditions on the values of one property.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::pattern::{Case, Pattern};
use crate::error::{first_chars, shown};
use crate::event::number::{self, Number};
use crate::event::path;

/// Most values of a condition.
pub const MAX_VALUES: usize = 1_000;
/// Longest string to search for, in characters: the length of a URL.
pub const MAX_SEARCHED_CHARS: usize = 2_048;
/// Most conditions of a filter, in all its parts: each is computed for each event.
pub const MAX_CONDITIONS: usize = 50;
/// Deepest nesting of `any`, `not` and `all`: more than a person can read.
pub const MAX_DEPTH: usize = 8;

/// Characters of a message about a field, which has its name and the known ones.
const MAX_ERROR_CHARS: usize = 200;

const ALLOWED: &str = "allowed is a string, a number, true or false, a list of them, or one of \
     {\"not\":condition}, {\"all\":[conditions]}, {\"contains\":string}, {\"prefix\":string}, \
     {\"suffix\":string}, {\"matches\":regular expression}, each with \"ignore_case\":true, \
     {\"min\":number,\"max\":number,\"above\":number,\"below\":number} and \
     {\"exists\":true or false}";

/// A predicate on the value of a property.
#[derive(Debug, Clone, PartialEq)]
pub enum Predicate {
    /// Equal to one of these strings.
    OneOf(Vec<String>),
    /// Contains this string.
    Contains(String),
    /// Begins with this string.
    Prefix(String),
    /// Ends with this string.
    Suffix(String),
    /// Matches this regular expression, which also stands for a search that ignores case.
    Matches(Pattern),
    /// A number in this range.
    Range(Range),
    /// Present (`true`) or absent (`false`).
    Exists(bool),
    /// Does not meet this one.
    Not(Box<Self>),
    /// Meets all of these.
    All(Vec<Self>),
}

/// A range of numbers. The missing bounds do not limit it.
#[derive(Debug, Clone, PartialEq)]
pub struct Range {
    /// Lower bound, included.
    min: Option<Number>,
    /// Upper bound, included.
    max: Option<Number>,
    /// Lower bound, excluded.
    above: Option<Number>,
    /// Upper bound, excluded.
    below: Option<Number>,
}

impl Range {
    /// The bounds, each with its comparison as an operator.
    pub fn bounds(&self) -> impl Iterator<Item = (&'static str, &Number)> {
        let bounds = [
            (">=", &self.min),
            ("<=", &self.max),
            (">", &self.above),
            ("<", &self.below),
        ];
        bounds
            .into_iter()
            .filter_map(|(operator, bound)| Some((operator, bound.as_ref()?)))
    }

    /// True if a string is a number in the range.
    fn has(&self, string: &str) -> bool {
        let Some(number) = Number::parse(string) else {
            return false;
        };
        self.min.as_ref().is_none_or(|min| number >= *min)
            && self.max.as_ref().is_none_or(|max| number <= *max)
            && self.above.as_ref().is_none_or(|above| number > *above)
            && self.below.as_ref().is_none_or(|below| number < *below)
    }
}

/// A value of a property, as the string that it is compared by.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    string: &'a str,
    /// True for a list or an object, in which no string is searched: its elements are values too.
    is_nested: bool,
}

/// Calls a test with the values of a property until one meets it; returns whether one did.
type Values<'a> = dyn Fn(&dyn Fn(Found<'_>) -> bool) -> bool + 'a;

impl Predicate {
    /// The predicate made ready for values of a property of metadata, where a string that is a JSON
    /// number also equals that number.
    pub fn of_metadata(self) -> Self {
        self.ready(true)
    }

    /// The predicate made ready for values of the other properties.
    pub fn of_strings(self) -> Self {
        self.ready(false)
    }

    fn ready(self, is_metadata: bool) -> Self {
        match self {
            Self::OneOf(mut strings) => {
                if is_metadata {
                    let numbers = strings.iter().map(|string| number::canonical(string));
                    let numbers: Vec<_> = numbers.map(Cow::into_owned).collect();
                    strings.extend(numbers);
                }
                strings.sort_unstable();
                strings.dedup();
                Self::OneOf(strings)
            }
            Self::Not(inner) => Self::Not(Box::new(inner.ready(is_metadata))),
            Self::All(all) => {
                Self::All(all.into_iter().map(|one| one.ready(is_metadata)).collect())
            }
            other => other,
        }
    }

    /// True if a value meets it, which is `None` if it is missing; for a predicate from
    /// [`Predicate::of_strings`].
    pub fn is_met_by_string(&self, value: Option<&str>) -> bool {
        self.is_met(&|test| {
            value.is_some_and(|string| {
                test(Found {
                    string,
                    is_nested: false,
                })
            })
        })
    }

    /// True if the values at a path in a metadata object meet it, for a predicate from
    /// [`Predicate::of_metadata`].
    pub fn is_met_by_object(&self, path: &path::Path, object: Option<&str>) -> bool {
        let object = object.unwrap_or_default();
        self.is_met(&|test| path.any(object, &mut |value| test_json(value, test)))
    }

    /// The same for the JSON that was found at the path.
    pub fn is_met_by_json(&self, json: Option<&str>) -> bool {
        self.is_met(&|test| {
            json.is_some_and(|json| path::any_of(json, &mut |value| test_json(value, test)))
        })
    }

    fn is_met(&self, values: &Values<'_>) -> bool {
        let searched =
            |test: &dyn Fn(&str) -> bool| values(&|found| !found.is_nested && test(found.string));
        match self {
            Self::OneOf(strings) => match strings.as_slice() {
                [string] => values(&|found| found.string == string),
                strings => values(&|found| {
                    let place =
                        strings.binary_search_by(|string| string.as_str().cmp(found.string));
                    place.is_ok()
                }),
            },
            Self::Contains(part) => searched(&|string| string.contains(part.as_str())),
            Self::Prefix(prefix) => searched(&|string| string.starts_with(prefix.as_str())),
            Self::Suffix(suffix) => searched(&|string| string.ends_with(suffix.as_str())),
            Self::Matches(pattern) => searched(&|string| pattern.is_match(string)),
            Self::Range(range) => values(&|found| range.has(found.string)),
            Self::Exists(exists) => values(&|_| true) == *exists,
            Self::Not(inner) => !inner.is_met(values),
            Self::All(all) => all.iter().all(|one| one.is_met(values)),
        }
    }

    /// Checks that no regular expression was too slow so far.
    ///
    /// # Errors
    /// A sentence that names it.
    pub fn check_time(&self) -> Result<(), String> {
        match self {
            Self::Matches(pattern) => pattern.check(),
            Self::Not(inner) => inner.check_time(),
            Self::All(all) => all.iter().try_for_each(Self::check_time),
            _ => Ok(()),
        }
    }

    /// Parses a condition within the limits of its filter.
    ///
    /// # Errors
    /// A sentence that names the place, the value and what is allowed.
    pub fn parse(value: Value, left: &mut Left) -> Result<Self, String> {
        match value {
            Value::Array(values) if values.is_empty() || values.len() > MAX_VALUES => Err(format!(
                "a list of {} values; allowed are 1 to {MAX_VALUES}",
                values.len()
            )),
            Value::Array(values) => {
                left.take_condition()?;
                let strings = values.iter().map(scalar_string).collect::<Option<_>>();
                Ok(Self::OneOf(strings.ok_or_else(|| {
                    let found = Value::Array(values.clone()).to_string();
                    format!("{}; {ALLOWED}", shown(&found))
                })?))
            }
            Value::Object(object) => Self::parse_object(object, left),
            value => {
                left.take_condition()?;
                match scalar_string(&value) {
                    Some(string) => Ok(Self::OneOf(vec![string])),
                    None => Err(format!("{value}; {ALLOWED}")),
                }
            }
        }
    }

    fn parse_object(mut object: Map<String, Value>, left: &mut Left) -> Result<Self, String> {
        if object.len() == 1 {
            if let Some(inner) = object.remove("not") {
                let inner = left.nested(|left| Self::parse(inner, left));
                let inner = inner.map_err(|message| format!("not: {message}"))?;
                return Ok(Self::Not(Box::new(inner)));
            }
            if let Some(all) = object.remove("all") {
                return left.nested(|left| Self::parse_all(all, left));
            }
        }
        left.take_condition()?;
        let object = Value::Object(object);
        let found = shown(&object.to_string()).to_owned();
        let fields: Fields = serde_json::from_value(object).map_err(|error| {
            let error = error.to_string();
            format!(
                "{found}: {}; {ALLOWED}",
                first_chars(&error, MAX_ERROR_CHARS)
            )
        })?;
        fields
            .predicate()
            .unwrap_or_else(|| Err(format!("{found}; {ALLOWED}")))
    }

    fn parse_all(all: Value, left: &mut Left) -> Result<Self, String> {
        let all = match all {
            Value::Array(all) if !all.is_empty() => all,
            other => {
                let found = other.to_string();
                return Err(format!(
                    "all: {}; allowed is a list of 1 to {MAX_CONDITIONS} conditions",
                    shown(&found)
                ));
            }
        };
        let all = all.into_iter().enumerate().map(|(at, one)| {
            Self::parse(one, left).map_err(|message| format!("all[{at}]: {message}"))
        });
        Ok(Self::All(all.collect::<Result<_, String>>()?))
    }
}

fn test_json(value: &str, test: &dyn Fn(Found<'_>) -> bool) -> bool {
    path::string_of(value).is_some_and(|string| {
        test(Found {
            string: &string,
            is_nested: value.starts_with(['[', '{']),
        })
    })
}

/// A condition that is an object.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    contains: Option<String>,
    prefix: Option<String>,
    suffix: Option<String>,
    matches: Option<String>,
    ignore_case: Option<bool>,
    min: Option<serde_json::Number>,
    max: Option<serde_json::Number>,
    above: Option<serde_json::Number>,
    below: Option<serde_json::Number>,
    exists: Option<bool>,
}

impl Fields {
    /// The predicate; `None` if the fields do not make one.
    fn predicate(self) -> Option<Result<Predicate, String>> {
        let has_case = self.ignore_case.is_some();
        let case = match self.ignore_case {
            Some(true) => Case::Ignored,
            _ => Case::Exact,
        };
        let range = [self.min, self.max, self.above, self.below];
        let has_range = range.iter().any(Option::is_some);
        let searches = [
            self.contains.map(|string| (Search::Contains, string)),
            self.prefix.map(|string| (Search::Prefix, string)),
            self.suffix.map(|string| (Search::Suffix, string)),
            self.matches.map(|string| (Search::Matches, string)),
        ];
        let mut searches = searches.into_iter().flatten();
        match (searches.next(), searches.next(), self.exists) {
            (Some((search, string)), None, None) if !has_range => {
                Some(search.predicate(string, case))
            }
            (None, None, Some(exists)) if !has_range && !has_case => {
                Some(Ok(Predicate::Exists(exists)))
            }
            (None, None, None) if has_range && !has_case => {
                let [min, max, above, below] = range
                    .map(|number| number.and_then(|number| Number::parse(&number.to_string())));
                Some(Ok(Predicate::Range(Range {
                    min,
                    max,
                    above,
                    below,
                })))
            }
            _ => None,
        }
    }
}

/// A kind of search in a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Search {
    Contains,
    Prefix,
    Suffix,
    Matches,
}

impl Search {
    fn predicate(self, string: String, case: Case) -> Result<Predicate, String> {
        let length = string.chars().count();
        if length > MAX_SEARCHED_CHARS {
            return Err(format!(
                "{:?} has {length} characters; allowed are {MAX_SEARCHED_CHARS}",
                shown(&string)
            ));
        }
        if case == Case::Ignored || self == Self::Matches {
            let literal = || regex::escape(&string);
            let expression = match self {
                Self::Contains => literal(),
                Self::Prefix => format!(r"\A{}", literal()),
                Self::Suffix => format!(r"{}\z", literal()),
                Self::Matches => string,
            };
            return Pattern::new(&expression, case).map(Predicate::Matches);
        }
        Ok(match self {
            Self::Contains => Predicate::Contains(string),
            Self::Prefix => Predicate::Prefix(string),
            Self::Suffix | Self::Matches => Predicate::Suffix(string),
        })
    }
}

/// The rest of the limits of a filter while it is parsed.
#[derive(Debug)]
pub struct Left {
    conditions: usize,
    depth: usize,
}

impl Default for Left {
    fn default() -> Self {
        Self {
            conditions: MAX_CONDITIONS,
            depth: MAX_DEPTH,
        }
    }
}

impl Left {
    /// Counts a condition.
    ///
    /// # Errors
    /// A sentence with the limit.
    pub fn take_condition(&mut self) -> Result<(), String> {
        self.conditions = self.conditions.checked_sub(1).ok_or_else(|| {
            format!("the filter has more than {MAX_CONDITIONS} conditions, which is the limit")
        })?;
        Ok(())
    }

    /// Parses something one level deeper.
    ///
    /// # Errors
    /// A sentence with the limit, and those of `parse`.
    pub fn nested<T>(
        &mut self,
        parse: impl FnOnce(&mut Self) -> Result<T, String>,
    ) -> Result<T, String> {
        self.depth = self.depth.checked_sub(1).ok_or_else(|| {
            format!("any, not and all are nested more than {MAX_DEPTH} deep, which is the limit")
        })?;
        let parsed = parse(self);
        self.depth += 1;
        parsed
    }
}

/// A scalar as the string that properties are compared by; `None` for null, lists and objects.
pub fn scalar_string(value: &Value) -> Option<String> {
    match value {
        Value::String(string) => Some(string.clone()),
        Value::Number(number) => Some(number::canonical(&number.to_string()).into_owned()),
        Value::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}
