//! Feature usage: events and distinct users per feature, most events first, ties by name.
//!
//! Events without a feature add to none. Anonymous events count as events and never as users. With a breakdown each feature
//! is split by the property of the event; a missing one is a group of its own, and beyond the 25 groups with the most events
//! the rest is `__other__`. Events of features beyond a day's limit are in no row; the answer says how many there are as
//! `rest`. Definitions: `docs/metrics.md`, "Usage" and "Events".

use std::collections::{BTreeMap, HashMap, HashSet};

use polars::prelude::*;
use serde::Deserialize;

use super::counts::{Count, Counts};
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

    /// The answer, from the counts of each feature, by its number, and group.
    pub fn answer<'a>(&self, counts: Counts, name: impl Fn(u32) -> &'a str) -> Table {
        let mut of_group: HashMap<&Option<String>, u64> = HashMap::new();
        let mut of_feature: HashMap<u32, u64> = HashMap::new();
        for ((feature, group), count) in &counts {
            *of_group.entry(group).or_default() += count.events;
            *of_feature.entry(*feature).or_default() += count.events;
        }
        let mut groups: Vec<(&Option<String>, u64)> = of_group.into_iter().collect();
        groups.sort_by(|(a, many), (b, more)| more.cmp(many).then_with(|| a.cmp(b)));
        let rest = groups.split_off(groups.len().min(MAX_GROUPS));
        let rest: HashSet<Option<String>> =
            rest.into_iter().map(|(group, _)| group.clone()).collect();
        let features = most_used(of_feature.into_iter().collect(), self.limit, &name);
        let features = features.into_iter().map(|(feature, _)| feature);
        let place: HashMap<u32, usize> = features.zip(0..).collect();
        let mut rows: BTreeMap<(usize, Option<String>), Count> = BTreeMap::new();
        let mut names = vec![""; place.len()];
        for ((feature, group), count) in counts {
            let Some(&place) = place.get(&feature) else {
                continue;
            };
            let group = match rest.contains(&group) {
                true => Some(OTHER.into()),
                false => group,
            };
            rows.entry((place, group)).or_default().merge(count);
            if let Some(slot) = names.get_mut(place) {
                *slot = name(feature);
            }
        }
        let mut rows: Vec<((usize, Option<String>), Count)> = rows.into_iter().collect();
        rows.sort_by(|((a, group), many), ((b, other), more)| {
            (a, more.events, group).cmp(&(b, many.events, other))
        });
        let of_row = |place: usize| names.get(place).copied().unwrap_or_default().to_owned();
        let mut features = Vec::new();
        let mut groups = Vec::new();
        let (mut events, mut users) = (Vec::new(), Vec::new());
        for ((place, group), count) in rows {
            features.push(of_row(place));
            groups.push(group);
            events.push(count.events);
            users.push(count.users.len());
        }
        let table = Table::default().with("feature", features);
        let table = match self.breakdown {
            Some(_) => table.with("breakdown", groups),
            None => table,
        };
        table.with("events", events).with("users", users)
    }
}

/// The features with the most events, most first, ties by name.
pub fn most_used<'a>(
    mut features: Vec<(u32, u64)>,
    limit: usize,
    name: impl Fn(u32) -> &'a str,
) -> Vec<(u32, u64)> {
    let most_used_first = |&(a, many): &(u32, u64), &(b, more): &(u32, u64)| {
        more.cmp(&many).then_with(|| name(a).cmp(name(b)))
    };
    if features.len() > limit {
        features.select_nth_unstable_by(limit, most_used_first);
        features.truncate(limit);
    }
    features.sort_unstable_by(most_used_first);
    features
}
