//! A question as it is asked: one JSON object with a metric, its parameters, a window and a filter.
//!
//! ```json
//! {"metric":"funnel","steps":[{"feature":"cart"},{"feature":"purchase"}],"within":"7d","days":30,"filter":{"metadata.platform":"ios"}}
//! ```

use chrono::NaiveDate;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Metric;
use super::filter::Filter;
use super::table::Table;
use crate::error::{Error, Result};
use crate::window::{WindowFacts, WindowRequest, parse_day};

/// A question.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// What is asked.
    pub metric: Metric,
    /// Of which days.
    pub window: WindowRequest,
    /// Of which events.
    pub filter: Filter,
    /// Of which users: the name of a cohort.
    pub cohort: Option<String>,
}

/// The fields that every question has.
#[derive(Deserialize)]
struct Common {
    metric: String,
    days: Option<i64>,
    end: Option<String>,
    tz: Option<String>,
    #[serde(default)]
    filter: Map<String, Value>,
}

/// The answer to a question.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QueryAnswer {
    /// Always true.
    pub ok: bool,
    /// When it was computed.
    pub ts: String,
    /// The metric's name.
    pub metric: &'static str,
    /// The window.
    pub window: WindowFacts,
    /// First day of the window that is still known in full.
    pub covered_from: NaiveDate,
    /// What the rows do not say.
    #[serde(flatten)]
    pub notes: Map<String, Value>,
    /// The numbers.
    pub rows: Table,
}

const COMMON: [&str; 5] = ["metric", "days", "end", "tz", "filter"];
/// The field of a filter that names a cohort.
const COHORT: &str = "cohort";

/// The names of all metrics.
pub const NAMES: [&str; 9] = [
    "active_users",
    "feature_usage",
    "event_types",
    "lifecycle",
    "stickiness",
    "funnel",
    "retention",
    "paths",
    "experiment",
];

impl Query {
    /// Reads a question.
    ///
    /// # Errors
    /// `bad_query`, with the field, the value and what is allowed.
    pub fn parse(json: &[u8]) -> Result<Self> {
        let mut object: Map<String, Value> = serde_json::from_slice(json)
            .map_err(|error| bad(format!("the question is no JSON object: {error}")))?;
        let own: Map<String, Value> = object
            .keys()
            .filter(|name| !COMMON.contains(&name.as_str()))
            .cloned()
            .collect::<Vec<_>>()
            .into_iter()
            .filter_map(|name| object.remove_entry(&name))
            .collect();
        let mut common: Common = fields(object)?;
        let cohort = match common.filter.remove(COHORT) {
            None => None,
            Some(Value::String(name)) => Some(name),
            Some(other) => {
                return Err(bad(format!(
                    "filter.cohort is {other}; allowed is the name of a cohort"
                )));
            }
        };
        let end = common.end.as_deref().map(|text| {
            parse_day(text)
                .map_err(|message| Error::bad_input("bad_end", format!("end: {message}")))
        });
        Ok(Self {
            metric: Metric::parse(&common.metric, own)?,
            window: WindowRequest {
                days: common.days,
                end: end.transpose()?,
                tz: common.tz,
            },
            filter: Filter::try_from(common.filter)
                .map_err(|message| bad(format!("filter: {message}")))?,
            cohort,
        })
    }
}

impl Metric {
    /// Days before the window that are counted in it.
    pub fn days_before(&self) -> u16 {
        match self {
            Self::ActiveUsers(metric) => metric.days_before(),
            Self::Lifecycle(metric) => metric.days_before(),
            _ => 0,
        }
    }

    /// The metric of that name with these parameters.
    fn parse(name: &str, parameters: Map<String, Value>) -> Result<Self> {
        Ok(match name {
            "active_users" => Self::ActiveUsers(fields(parameters)?),
            "feature_usage" => Self::FeatureUsage(checked(
                fields(parameters)?,
                |usage: &super::feature_usage::FeatureUsage| usage.check(),
            )?),
            "event_types" => Self::EventTypes(fields(parameters)?),
            "lifecycle" => Self::Lifecycle(fields(parameters)?),
            "stickiness" => Self::Stickiness(fields(parameters)?),
            "funnel" => Self::Funnel(checked(fields(parameters)?, super::funnel::Funnel::check)?),
            "retention" => Self::Retention(fields(parameters)?),
            "paths" => Self::Paths(checked(fields(parameters)?, super::paths::Paths::check)?),
            "experiment" => Self::Experiment(fields(parameters)?),
            other => {
                let other: String = other.chars().take(64).collect();
                let allowed = NAMES.join(", ");
                return Err(bad(format!("metric is {other:?}; allowed are {allowed}")));
            }
        })
    }

    /// The name in requests and answers.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ActiveUsers(_) => "active_users",
            Self::FeatureUsage(_) => "feature_usage",
            Self::EventTypes(_) => "event_types",
            Self::Lifecycle(_) => "lifecycle",
            Self::Stickiness(_) => "stickiness",
            Self::Funnel(_) => "funnel",
            Self::Retention(_) => "retention",
            Self::Paths(_) => "paths",
            Self::Experiment(_) => "experiment",
        }
    }
}

/// Reads the fields of an object; the message of a failure begins with the field's path.
fn fields<T: DeserializeOwned>(object: Map<String, Value>) -> Result<T> {
    serde_path_to_error::deserialize(Value::Object(object)).map_err(|error| {
        let path = error.path().to_string();
        let message: String = error.inner().to_string().chars().take(400).collect();
        match path.as_str() {
            "." => bad(message),
            path => bad(format!("{path}: {message}")),
        }
    })
}

fn checked<T>(value: T, check: impl FnOnce(&T) -> Result<(), String>) -> Result<T> {
    match check(&value) {
        Ok(()) => Ok(value),
        Err(message) => Err(bad(message)),
    }
}

fn bad(message: impl Into<String>) -> Error {
    Error::bad_input("bad_query", message)
}
