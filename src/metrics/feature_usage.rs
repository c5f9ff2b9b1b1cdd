//! Feature usage: events and distinct users per feature, most events first, ties by name.
//!
//! Events without a feature add to none. Anonymous events count as events and never as users. With a breakdown each feature
//! is split by the property of the event; a missing one is a group of its own, and beyond the 25 groups with the most events
//! the rest is `__other__`. Definitions: `spec/definitions.md`, "Usage" and "Events".

use std::collections::{BTreeMap, HashMap, HashSet};

use polars::prelude::*;
use serde::Deserialize;

use super::counts::Count;
use super::filter::Property;
use super::funnel::{MAX_GROUPS, OTHER};
use super::table::Table;
use crate::schema;

/// Most rows of an answer.
const MAX_LIMIT: usize = 10_000;

/// The question.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FeatureUsage {
    /// Features in the answer.
    pub limit: usize,
    /// The property that events are counted by.
    pub breakdown: Option<Property>,
}

impl Default for FeatureUsage {
    fn default() -> Self {
        Self {
            limit: 100,
            breakdown: None,
        }
    }
}

impl FeatureUsage {
    /// Checks what the fields do not say alone.
    ///
    /// # Errors
    /// A sentence that names the field, the value and what is allowed.
    pub fn check(&self) -> Result<(), String> {
        match self.limit {
            1..=MAX_LIMIT => Ok(()),
            limit => Err(format!("limit is {limit}; allowed is 1 to {MAX_LIMIT}")),
        }
    }

    /// The events that count, and what they are counted by.
    pub fn keys(&self, events: LazyFrame) -> (LazyFrame, Expr, Option<Expr>) {
        (
            events.filter(col(schema::FEATURE).is_not_null()),
            col(schema::FEATURE),
            self.breakdown.as_ref().map(Property::expr),
        )
    }

    /// The answer, from the counts of each feature and group.
    pub fn answer(&self, counts: BTreeMap<(String, Option<String>), Count>) -> Table {
        let mut of_group: HashMap<Option<String>, u64> = HashMap::new();
        let mut of_feature: HashMap<String, u64> = HashMap::new();
        for ((feature, group), count) in &counts {
            *of_group.entry(group.clone()).or_default() += count.events;
            *of_feature.entry(feature.clone()).or_default() += count.events;
        }
        let mut groups: Vec<(Option<String>, u64)> = of_group.into_iter().collect();
        groups.sort_by(|(a, many), (b, more)| more.cmp(many).then_with(|| a.cmp(b)));
        let rest = groups.split_off(groups.len().min(MAX_GROUPS));
        let rest: HashSet<Option<String>> = rest.into_iter().map(|(group, _)| group).collect();
        let mut rows: BTreeMap<(String, Option<String>), Count> = BTreeMap::new();
        for ((feature, group), count) in counts {
            let group = match rest.contains(&group) {
                true => Some(OTHER.into()),
                false => group,
            };
            rows.entry((feature, group)).or_default().merge(count);
        }
        let mut features: Vec<(String, u64)> = of_feature.into_iter().collect();
        features.sort_by(|(a, many), (b, more)| more.cmp(many).then_with(|| a.cmp(b)));
        features.truncate(self.limit);
        let place: HashMap<&str, usize> = features
            .iter()
            .enumerate()
            .map(|(place, (name, _))| (name.as_str(), place))
            .collect();
        let mut rows: Vec<(usize, String, Option<String>, Count)> = rows
            .into_iter()
            .filter_map(|((feature, group), count)| {
                Some((*place.get(feature.as_str())?, feature, group, count))
            })
            .collect();
        rows.sort_by(|a, b| (a.0, b.3.events, &a.2).cmp(&(b.0, a.3.events, &b.2)));
        let mut names = Vec::new();
        let mut groups = Vec::new();
        let (mut events, mut users) = (Vec::new(), Vec::new());
        for (_, feature, group, count) in rows {
            names.push(feature);
            groups.push(group);
            events.push(count.events);
            users.push(count.users.len());
        }
        let table = Table::default().with("feature", names);
        let table = match self.breakdown {
            Some(_) => table.with("breakdown", groups),
            None => table,
        };
        table.with("events", events).with("users", users)
    }
}
