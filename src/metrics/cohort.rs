//! Cohorts: named sets of users, by behaviour or as a list, that every query can be limited to.
//!
//! A cohort has one definition: what its users `did`, the `step` of a funnel at which they stopped,
//! a `cell` of a retention, the `last` value of a property, or a list of `users`. All but the list
//! are of the window of the query, or of a window of the cohort's own, in the zone of the query.
//! Anonymous events have no user and are in no cohort.

use std::ops::Range;

use chrono::{DateTime, NaiveDate, TimeDelta};
use polars::prelude::*;
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::Measure;
use super::filter::{Condition, Filter, Predicate, Property};
use super::funnel::Funnel;
use super::query::fields;
use super::retention::Retention;
use super::sharded::ShardedMap;
use super::source::{CancelChecks, Columns, Scan, Source};
use crate::error::{Error, ErrorCode, Result};
use crate::schema;
use crate::window::{NamedPeriod, WindowRequest};

/// Longest name, in characters.
const MAX_NAME_CHARS: usize = 100;
/// Most ids of a list: as many as fit into a request body.
const MAX_USERS: usize = 100_000;

/// Days after 1970-01-01 of a time at which the windows of cohorts are checked: no period is too
/// long then.
const SOME_DAY: i64 = 20_000;

const EVENTS: &str = "events";
const MET: &str = "met";

/// A named set of users.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Cohort {
    /// Its name.
    #[schema(min_length = 1, max_length = 100)]
    pub name: String,
    /// Users by their events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub did: Option<BehaviouralCohort>,
    /// Users by the steps of a funnel that they reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<StepCohort>,
    /// Users of a cell of a retention.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cell: Option<CellCohort>,
    /// Users by the last value of a property.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastValueCohort>,
    /// Users by id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 100_000)]
    pub users: Option<Vec<String>>,
    /// The window of the events; that of the query if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<CohortWindow>,
}

/// Users with at least a number of events that meet a filter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BehaviouralCohort {
    /// The filter of the events.
    #[schema(value_type = Filter)]
    pub filter: Map<String, Value>,
    /// Least number of events.
    #[serde(default = "once")]
    #[schema(minimum = 1)]
    pub at_least: u64,
}

/// Users who reached a step of a funnel, and not a later one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StepCohort {
    /// The funnel: `steps`, `within`, `order` and `exclude`, as in its query.
    #[schema(value_type = Object)]
    pub funnel: Map<String, Value>,
    /// The step that they reached, from 1.
    #[schema(minimum = 1, maximum = 20)]
    pub reached: usize,
    /// The step that they did not reach; whether they did does not matter if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 2, maximum = 20)]
    pub not_reached: Option<usize>,
}

/// Users of the cohort of a period, who returned in a later one or did not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CellCohort {
    /// The retention: `grain`, `cohort`, `returning`, `start`, `return` and `ever`, as in a query.
    #[schema(value_type = Object)]
    pub retention: Map<String, Value>,
    /// First day of the period of the cohort.
    #[schema(format = Date)]
    pub cohort: NaiveDate,
    /// The periods after it.
    pub period: u16,
    /// Users who returned then; `false` for those who did not.
    #[serde(default = "yes")]
    pub returned: bool,
}

/// Users whose latest event with a property has a value that meets a condition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LastValueCohort {
    /// The property.
    #[schema(value_type = Property)]
    pub property: String,
    /// The condition on its last value.
    #[schema(value_type = Predicate)]
    pub is: Value,
}

/// A window of a cohort's own, with the fields of that of a query; relative to the time of the
/// query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CohortWindow {
    /// Length in days, up to the last day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 365)]
    pub days: Option<i64>,
    /// Last day; today if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = Date)]
    pub end: Option<NaiveDate>,
    /// First day, instead of `days`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = Date)]
    pub from: Option<NaiveDate>,
    /// Last day, with `from`; today if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = Date)]
    pub to: Option<NaiveDate>,
    /// A calendar period, instead of the other fields.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(inline)]
    pub period: Option<NamedPeriod>,
}

fn once() -> u64 {
    1
}

fn yes() -> bool {
    true
}

impl CohortWindow {
    /// The window in a zone.
    pub fn request(&self, tz: &str) -> WindowRequest {
        WindowRequest {
            days: self.days,
            end: self.end,
            from: self.from,
            to: self.to,
            period: self.period,
            tz: Some(tz.to_owned()),
        }
    }

    /// Checks what does not depend on the time of the query.
    fn check(&self) -> Result<(), String> {
        let mut request = self.request("UTC");
        if request.to.is_none() {
            request.to = request.from;
        }
        let resolved = request.resolve(DateTime::UNIX_EPOCH + TimeDelta::days(SOME_DAY));
        resolved
            .map(drop)
            .map_err(|error| format!("window: {}", message_of(error)))
    }
}

impl Cohort {
    /// Reads a cohort from JSON.
    ///
    /// # Errors
    /// `bad_cohort`, with the field, the value and what is allowed.
    pub fn parse(json: &[u8]) -> Result<Self> {
        let mut reader = serde_json::Deserializer::from_slice(json);
        serde_path_to_error::deserialize(&mut reader)
            .map_err(|error| Error::bad_input(ErrorCode::BadCohort, error.to_string()))
    }

    /// Checks what the types of the fields cannot express.
    ///
    /// # Errors
    /// A sentence that names the field, the value and what is allowed.
    pub fn check(&self) -> Result<(), String> {
        let length = self.name.chars().count();
        if !(1..=MAX_NAME_CHARS).contains(&length) {
            return Err(format!(
                "name has {length} characters; allowed are 1 to {MAX_NAME_CHARS}"
            ));
        }
        let definitions = [
            self.did.is_some(),
            self.step.is_some(),
            self.cell.is_some(),
            self.last.is_some(),
            self.users.is_some(),
        ];
        if definitions.into_iter().filter(|is_there| *is_there).count() != 1 {
            return Err(
                "a cohort has one of did, such as {\"filter\":{\"feature\":\"cart\"},\"at_least\":3}, step, cell, last \
                 and users, a list of ids"
                    .into(),
            );
        }
        if let Some(users) = &self.users {
            if self.window.is_some() {
                return Err("window is given with users, a list that no window changes".into());
            }
            let found = users.len();
            if found > MAX_USERS {
                return Err(format!("users has {found} ids; allowed are {MAX_USERS}"));
            }
        }
        if let Some(did) = &self.did {
            if did.at_least == 0 {
                return Err("did.at_least is 0; allowed is 1 or more".into());
            }
            check_properties("did.filter", [&did.filter()?])?;
        }
        if let Some(step) = &self.step {
            let (funnel, _) = step.parts()?;
            check_properties("step.funnel", funnel.filters())?;
        }
        if let Some(cell) = &self.cell {
            let retention = cell.retention()?;
            check_properties("cell.retention", [&retention.start, &retention.return_])?;
        }
        if let Some(last) = &self.last {
            let conditions = vec![last.condition()?];
            check_properties("last.property", [&Filter { conditions }])?;
        }
        match &self.window {
            Some(window) => window.check(),
            None => Ok(()),
        }
    }

    /// The users of a source without filter and cohort, for a cohort that is not a list.
    ///
    /// # Errors
    /// `bad_cohort` if the definition is wrong, and as [`Source::for_each_batch`].
    pub fn users_of(&self, source: &dyn Source) -> Result<RoaringBitmap> {
        if let Some(did) = &self.did {
            return did.users(source);
        }
        if let Some(step) = &self.step {
            let (funnel, reached) = step.parts().map_err(bad)?;
            return funnel.users(source, &reached);
        }
        if let Some(cell) = &self.cell {
            return cell.users(source);
        }
        match &self.last {
            Some(last) => last.users(source),
            None => Ok(RoaringBitmap::new()),
        }
    }
}

/// Rejects ids of users in definitions: an erasure finds them in lists, which read keys do not see.
fn check_properties<'a>(
    place: &str,
    filters: impl IntoIterator<Item = &'a Filter>,
) -> Result<(), String> {
    let mut properties = filters.into_iter().flat_map(Filter::properties);
    if properties.any(|property| *property == Property::UserId) {
        return Err(format!(
            "{place} names user_id, which is not allowed in a cohort; use users, a list of ids"
        ));
    }
    Ok(())
}

fn bad(message: String) -> Error {
    Error::bad_input(ErrorCode::BadCohort, message)
}

/// The message of an error in the parameters of a metric.
fn message_of(error: Error) -> String {
    match error {
        Error::BadInput { message, .. } => message,
        other => other.to_string(),
    }
}

impl StepCohort {
    /// The funnel, and how many steps the users reached.
    fn parts(&self) -> Result<(Funnel, Range<usize>), String> {
        let mut funnel: Funnel = fields(self.funnel.clone())
            .map_err(|error| format!("step.funnel: {}", message_of(error)))?;
        funnel
            .check()
            .map_err(|message| format!("step.funnel: {message}"))?;
        for filter in funnel.filters_mut() {
            *filter = filter.of_seen();
        }
        if funnel.breakdown.is_some() {
            return Err("step.funnel has a breakdown, which a cohort has no use for".into());
        }
        let (steps, reached) = (funnel.steps.len(), self.reached);
        if !(1..=steps).contains(&reached) {
            return Err(format!(
                "step.reached is {reached}; allowed is 1 to {steps}"
            ));
        }
        match self.not_reached {
            Some(not) if not <= reached || not > steps => Err(format!(
                "step.not_reached is {not}; allowed is a step after {reached}, at most {steps}"
            )),
            not => Ok((funnel, reached..not.unwrap_or(steps + 1))),
        }
    }
}

impl CellCohort {
    fn retention(&self) -> Result<Retention, String> {
        fields(self.retention.clone())
            .map_err(|error| format!("cell.retention: {}", message_of(error)))
    }

    fn users(&self, source: &dyn Source) -> Result<RoaringBitmap> {
        let retention = self.retention().map_err(bad)?;
        let users = retention.users(source, (self.cohort, self.period), self.returned)?;
        users.ok_or_else(|| {
            let (cohort, period, window) = (self.cohort, self.period, source.window());
            bad(format!(
                "cell.cohort is {cohort} and cell.period {period}; allowed is the first day of a period of the window \
                 {} to {}, and a period up to its end; give the cohort a window of its own",
                window.first_day(),
                window.last_day()
            ))
        })
    }
}

impl LastValueCohort {
    /// The condition on the last value.
    ///
    /// # Errors
    /// A sentence that names what is wrong with it.
    pub fn condition(&self) -> Result<Condition, String> {
        let property = self.property.clone();
        let property =
            Property::try_from(property).map_err(|message| format!("last.property: {message}"))?;
        let predicate = Predicate::parse(self.is.clone(), &mut Default::default())
            .map_err(|message| format!("last.is: {message}"))?;
        Ok(Condition::Of {
            property,
            predicate,
        })
    }

    fn users(&self, source: &dyn Source) -> Result<RoaringBitmap> {
        let condition = self.condition().map_err(bad)?;
        let with_value = condition.property().map(|property| Condition::Of {
            property: property.clone(),
            predicate: Predicate::Exists(true),
        });
        let exists = Filter {
            conditions: with_value.into_iter().collect(),
        };
        let is_met = Filter {
            conditions: vec![condition],
        };
        let scan = Scan {
            columns: Columns::with_details(exists.needs_details()),
            days: source.window().days_in_epoch(),
            also: exists,
            tables: None,
        };
        let plan = |events: LazyFrame| {
            let is_known = col(schema::USER_ID).is_not_null();
            events.filter(is_known).select([
                col(schema::USER_ID),
                col(schema::TS).to_physical(),
                is_met.expr().alias(MET),
            ])
        };
        let mut last: ShardedMap<u32, (i64, bool)> = ShardedMap::default();
        let mut checks = CancelChecks::new(source);
        let mut charge = source.budget().charge();
        source.for_each_batch(&scan, &plan, &mut |frame| {
            let users = frame.column(schema::USER_ID)?.u32()?.iter();
            let times = frame.column(schema::TS)?.i64()?.iter();
            let met = frame.column(MET)?.bool()?.iter();
            for ((user, ts_us), met) in users.zip(times).zip(met) {
                checks.step()?;
                if let (Some(user), Some(ts_us), Some(met)) = (user, ts_us, met) {
                    let known = last.entry(user).or_insert((ts_us, met));
                    // At one timestamp, the later one in the log.
                    if ts_us >= known.0 {
                        *known = (ts_us, met);
                    }
                }
            }
            charge.set(last.bytes())
        })?;
        let mut users = Vec::new();
        for (user, (_, is_met)) in last {
            checks.step()?;
            users.extend(is_met.then_some(user));
        }
        Ok(crate::daily::set(users))
    }
}

impl BehaviouralCohort {
    /// The filter of the events.
    ///
    /// # Errors
    /// A sentence that names what is wrong with it.
    pub fn filter(&self) -> Result<Filter, String> {
        Filter::try_from(self.filter.clone()).map_err(|message| format!("did.filter: {message}"))
    }

    /// The users, of a source without filter and cohort.
    ///
    /// # Errors
    /// `bad_cohort` if the filter is wrong, and as [`Source::for_each_batch`].
    fn users(&self, source: &dyn Source) -> Result<RoaringBitmap> {
        let filter = self.filter().map_err(bad)?;
        let inside = source.window().days_in_epoch();
        if self.at_least == 1 {
            return Ok(source.active_days(inside, &filter)?.users());
        }
        let mut events_of: ShardedMap<u32, u64> = ShardedMap::default();
        let scan = Scan {
            columns: Columns::with_details(filter.needs_details()),
            days: inside,
            also: filter,
            tables: None,
        };
        let mut checks = CancelChecks::new(source);
        let mut charge = source.budget().charge();
        source.for_each_batch(&scan, &count_events, &mut |frame| {
            let users = frame.column(schema::USER_ID)?.u32()?;
            let events = frame.column(EVENTS)?.i64()?;
            for (user, events) in users.iter().zip(events.iter()) {
                checks.step()?;
                if let (Some(user), Some(events)) = (user, events) {
                    *events_of.entry(user).or_default() += events.unsigned_abs();
                }
            }
            charge.set(events_of.bytes())
        })?;
        let mut users = Vec::new();
        for (user, events) in events_of {
            checks.step()?;
            if events >= self.at_least {
                users.push(user);
            }
        }
        Ok(crate::daily::set(users))
    }
}

/// A row for each user with the number of events.
fn count_events(events: LazyFrame) -> LazyFrame {
    events
        .filter(col(schema::USER_ID).is_not_null())
        .group_by([col(schema::USER_ID)])
        .agg([len().cast(DataType::Int64).alias(EVENTS)])
}
