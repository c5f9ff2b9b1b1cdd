//! Cohorts: named sets of users, by behaviour or as a list, that every query can be limited to.

use polars::prelude::*;
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::filter::Filter;
use super::sharded::ShardedMap;
use super::source::{CancelChecks, Columns, Scan, Source};
use crate::error::{Error, ErrorCode, Result};
use crate::schema;

/// Longest name, in characters.
const MAX_NAME_CHARS: usize = 100;
/// Most ids of a list: as many as fit into a request body.
const MAX_USERS: usize = 100_000;

const EVENTS: &str = "events";

/// A named set of users.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Cohort {
    /// Its name.
    #[schema(min_length = 1, max_length = 100)]
    pub name: String,
    /// Users by their events in the window of the query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub did: Option<BehaviouralCohort>,
    /// Users by id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 100_000)]
    pub users: Option<Vec<String>>,
}

/// Users with at least a number of events that meet a filter, in the window of the query.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BehaviouralCohort {
    /// The filter of the events.
    #[schema(value_type = Filter)]
    pub filter: serde_json::Map<String, serde_json::Value>,
    /// Least number of events.
    #[serde(default = "once")]
    #[schema(minimum = 1)]
    pub at_least: u64,
}

fn once() -> u64 {
    1
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
        match (&self.did, &self.users) {
            (Some(did), None) => {
                if did.at_least == 0 {
                    return Err("did.at_least is 0; allowed is 1 or more".into());
                }
                did.filter().map(drop)
            }
            (None, Some(users)) if users.len() > MAX_USERS => {
                let found = users.len();
                Err(format!("users has {found} ids; allowed are {MAX_USERS}"))
            }
            (None, Some(_)) => Ok(()),
            _ => Err("a cohort has either did, such as {\"filter\":{\"feature\":\"cart\"},\"at_least\":3}, \
                      or users, a list of ids"
                .into()),
        }
    }
}

impl BehaviouralCohort {
    /// The filter of the events.
    ///
    /// # Errors
    /// A sentence that names what is wrong with it.
    fn filter(&self) -> Result<Filter, String> {
        Filter::try_from(self.filter.clone()).map_err(|message| format!("did.filter: {message}"))
    }

    /// The users, of a source without filter and cohort.
    ///
    /// # Errors
    /// `bad_cohort` if the filter is wrong, and as [`Source::for_each_batch`].
    pub fn users(&self, source: &dyn Source) -> Result<RoaringBitmap> {
        let filter = self
            .filter()
            .map_err(|message| Error::bad_input(ErrorCode::BadCohort, message))?;
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
