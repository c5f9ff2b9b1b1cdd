//! Parsing of a query: one JSON object with a metric, its parameters, a window and a filter.
//!
//! ```json
//! {"metric":"funnel","steps":[{"feature":"cart"},{"feature":"purchase"}],"within":"7d","days":30,
//!  "filter":{"metadata.platform":"ios"}}
//! ```

mod schema;

use chrono::NaiveDate;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::filter::Filter;
use super::filter::described::{MAX_COHORTS, QueryFilter};
use super::table::Table;
use super::{Metric, NAMES};
use crate::error::{Error, ErrorCode, Result, first_chars, shown};
use crate::window::{NamedPeriod, WindowMeta, WindowRequest, named_day};

/// A query.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// The metric with its parameters.
    pub metric: Metric,
    /// The window.
    pub window: WindowRequest,
    /// The filter of events.
    pub filter: Filter,
    /// The cohorts that it is limited to, all of them.
    pub cohorts: Vec<CohortCondition>,
}

/// A cohort that a query is limited to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CohortCondition {
    /// The name of the cohort.
    pub name: String,
    /// True for its users; false for all others, and anonymous events.
    pub is_in: bool,
}

/// The fields that every query has.
#[derive(Deserialize, ToSchema)]
struct Common {
    metric: String,
    /// Length of the window in days; 30 if absent.
    #[schema(minimum = 1, maximum = 365)]
    days: Option<i64>,
    /// Last day of the window; today in the zone if absent.
    #[schema(format = Date)]
    end: Option<String>,
    /// First day of the window, instead of `days`.
    #[schema(format = Date)]
    from: Option<String>,
    /// Last day of the window, with `from`; today in the zone if absent.
    #[schema(format = Date)]
    to: Option<String>,
    /// A calendar period of the zone, instead of the other fields of the window.
    #[schema(inline)]
    period: Option<NamedPeriod>,
    /// IANA name of the reporting zone; UTC if absent.
    #[schema(format = "iana-time-zone")]
    tz: Option<String>,
    /// The filter of events.
    #[serde(default)]
    #[schema(value_type = QueryFilter)]
    filter: Map<String, Value>,
}

/// The response to a query.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct QueryAnswer {
    /// Always true.
    pub ok: bool,
    /// Time of the computation.
    pub ts: String,
    /// The metric's name.
    pub metric: &'static str,
    /// The window.
    pub window: WindowMeta,
    /// First day of the window that is known completely.
    pub covered_from: NaiveDate,
    /// Further fields, for what rows cannot express.
    #[serde(flatten)]
    #[schema(value_type = HashMap<String, Value>)]
    pub notes: Map<String, Value>,
    /// The rows: see `docs/metrics.md` for those of each metric.
    #[schema(value_type = Vec<Object>)]
    pub rows: Table,
}

const COMMON: [&str; 8] = [
    "metric", "days", "end", "from", "to", "period", "tz", "filter",
];
/// The field of a filter that names cohorts.
const COHORT: &str = "cohort";

impl Query {
    /// Parses a query.
    ///
    /// # Errors
    /// `bad_query`, with the field, the value and what is allowed.
    pub fn parse(json: &[u8]) -> Result<Self> {
        Self::of_object(
            serde_json::from_slice(json)
                .map_err(|error| bad(format!("the query is not a JSON object: {error}")))?,
        )
    }

    /// The query of the events of a window that meet a filter, which may name a cohort.
    ///
    /// # Errors
    /// As [`Query::parse`].
    pub fn of_events(window: WindowRequest, filter: Map<String, Value>) -> Result<Self> {
        let mut query = Map::new();
        query.insert("metric".into(), "events".into());
        query.insert("filter".into(), filter.into());
        Ok(Self {
            window,
            ..Self::of_object(query)?
        })
    }

    /// Parses a query that is a JSON object already.
    ///
    /// # Errors
    /// As [`Query::parse`].
    pub fn of_object(mut object: Map<String, Value>) -> Result<Self> {
        let own: Map<String, Value> = object
            .keys()
            .filter(|name| !COMMON.contains(&name.as_str()))
            .cloned()
            .collect::<Vec<_>>()
            .into_iter()
            .filter_map(|name| object.remove_entry(&name))
            .collect();
        let mut common: Common = fields(object)?;
        let cohorts = cohort_conditions(common.filter.remove(COHORT))?;
        let mut metric = parse_metric(&common.metric, own)?;
        let filter = Filter::try_from(common.filter)
            .map_err(|message| bad(format!("filter: {message}")))?
            .of_seen_with(metric.filters_mut());
        Ok(Self {
            metric,
            window: WindowRequest {
                days: common.days,
                end: day("end", ErrorCode::BadEnd, common.end.as_deref())?,
                from: day("from", ErrorCode::BadWindow, common.from.as_deref())?,
                to: day("to", ErrorCode::BadWindow, common.to.as_deref())?,
                period: common.period,
                tz: common.tz,
            },
            filter,
            cohorts,
        })
    }
}

/// Reads the cohorts of a filter: a name, `{"not":name}`, or a list of these.
fn cohort_conditions(value: Option<Value>) -> Result<Vec<CohortCondition>> {
    let wrong = |value: &Value| {
        let value = value.to_string();
        bad(format!(
            "filter.cohort is {}; allowed is the name of a cohort, {{\"not\":name}}, or a list of 1 to \
             {MAX_COHORTS} of these",
            shown(&value)
        ))
    };
    let one = |value: Value| {
        let (inner, is_in) = match &value {
            Value::Object(map) if map.len() == 1 => (map.get("not"), false),
            other => (Some(other), true),
        };
        match inner {
            Some(Value::String(name)) => Ok(CohortCondition {
                name: name.clone(),
                is_in,
            }),
            _ => Err(wrong(&value)),
        }
    };
    match value {
        None => Ok(Vec::new()),
        Some(Value::Array(all)) if (1..=MAX_COHORTS).contains(&all.len()) => {
            all.into_iter().map(one).collect()
        }
        Some(value @ Value::Array(_)) => Err(wrong(&value)),
        Some(value) => Ok(vec![one(value)?]),
    }
}

fn day(field: &str, code: ErrorCode, text: Option<&str>) -> Result<Option<NaiveDate>> {
    text.map(|text| named_day(field, code, text)).transpose()
}

/// Parses and checks the parameters of a metric.
fn parse_metric(name: &str, parameters: Map<String, Value>) -> Result<Metric> {
    let Some(metric) = Metric::read(name, parameters)? else {
        let name = shown(name);
        let allowed = NAMES.join(", ");
        return Err(bad(format!("metric is {name:?}; allowed are {allowed}")));
    };
    metric.measure().check().map_err(bad)?;
    Ok(metric)
}

/// Reads the fields of an object; the message of a failure begins with the field's path.
pub(super) fn fields<T: DeserializeOwned>(object: Map<String, Value>) -> Result<T> {
    serde_path_to_error::deserialize(Value::Object(object)).map_err(|error| {
        let path = error.path().to_string();
        let message = error.inner().to_string();
        let message = first_chars(&message, 400);
        match path.as_str() {
            "." => bad(message),
            path => bad(format!("{path}: {message}")),
        }
    })
}

fn bad(message: impl Into<String>) -> Error {
    Error::bad_input(ErrorCode::BadQuery, message)
}
