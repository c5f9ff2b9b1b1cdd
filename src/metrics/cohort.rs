//! Cohorts: named sets of users, by what they did or as a list, usable as a filter in every metric.

use std::collections::HashMap;

use polars::prelude::*;
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};

use super::filter::Filter;
use crate::error::{Error, Result};
use crate::schema;

/// Longest name, in characters.
const MAX_NAME_CHARS: usize = 100;
/// Most ids of a list: as many as a body has room for.
const MAX_USERS: usize = 100_000;

const EVENTS: &str = "events";

/// Which users a cohort has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cohort {
    /// Its name.
    pub name: String,
    /// Who did something in the window of the question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub did: Option<Did>,
    /// These users.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users: Option<Vec<String>>,
}

/// Users with at least so many events that meet a filter, in the window of the question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Did {
    /// Which events.
    pub filter: serde_json::Map<String, serde_json::Value>,
    /// How many at least.
    #[serde(default = "once")]
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
            .map_err(|error| Error::bad_input("bad_cohort", error.to_string()))
    }

    /// Checks what the fields do not say alone.
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

impl Did {
    /// Which events.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn filter(&self) -> Result<Filter, String> {
        Filter::try_from(self.filter.clone()).map_err(|message| format!("did.filter: {message}"))
    }

    /// A row a user with the number of events, from events whose users are numbers.
    pub fn counts(filter: &Filter, events: LazyFrame) -> LazyFrame {
        events
            .filter(filter.expr().and(col(schema::USER_ID).is_not_null()))
            .group_by([col(schema::USER_ID)])
            .agg([len().cast(DataType::Int64).alias(EVENTS)])
    }
}

/// How often users did what a cohort asks for.
#[derive(Debug, Default)]
pub struct Tally {
    events: HashMap<u32, u64>,
}

impl Tally {
    /// Adds what [`Did::counts`] gave.
    ///
    /// # Errors
    /// If the frame lacks a column.
    pub fn read(&mut self, frame: &DataFrame) -> Result<()> {
        let users = frame.column(schema::USER_ID)?.u32()?;
        let events = frame.column(EVENTS)?.i64()?;
        for (user, events) in users.iter().zip(events.iter()) {
            if let (Some(user), Some(events)) = (user, events) {
                *self.events.entry(user).or_default() += events.unsigned_abs();
            }
        }
        Ok(())
    }

    /// Users with at least so many events.
    pub fn users(self, at_least: u64) -> RoaringBitmap {
        let users = self.events.into_iter();
        crate::daily::set(
            users
                .filter(|(_, events)| *events >= at_least)
                .map(|(user, _)| user)
                .collect(),
        )
    }
}
