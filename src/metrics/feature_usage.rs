//! Feature usage: events and distinct users per feature, most events first, ties by name.
//!
//! Events without a feature add to none. Anonymous events count as events and never as users. With
//! a breakdown each feature is split by the property of the event; a missing one is a group of its
//! own, and beyond the 25 groups with the most events the others are `__other__`. Events of
//! features beyond a day's limit are in no row; the note `rest` has their number. Definitions:
//! `docs/metrics.md`, "Usage" and "Events".

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;

use super::counts::{Count, Counts, Key};
use super::filter::Property;
use super::local_dictionary::LocalDictionary;
use super::source::{CancelChecks, Source};
use super::table::Table;
use super::{Answer, MAX_GROUPS, Measure, OTHER, check_limit, top};
use crate::dictionary::REST_FEATURE;
use crate::error::Result;

/// Most features of a result.
const MAX_LIMIT: usize = 10_000;

/// The parameters.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FeatureUsage {
    /// Most features of the result.
    #[schema(minimum = 1, maximum = 10_000)]
    pub limit: usize,
    /// The property that the events of a feature are split by.
    #[schema(default = json!(null))]
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

impl Measure for FeatureUsage {
    fn check(&self) -> Result<(), String> {
        check_limit(self.limit, MAX_LIMIT)
    }

    fn days_before(&self) -> u16 {
        0
    }

    fn run(&self, source: &dyn Source, _now: DateTime<Utc>) -> Result<Answer> {
        let mut counts = source.counts(Key::Feature {
            most: self.limit,
            breakdown: self.breakdown.as_ref(),
        })?;
        let mut rest = Count::default();
        for (_, count) in counts.counts.extract_if(|key, _| key.0 == REST_FEATURE) {
            rest.merge(count);
        }
        let answer = Answer::from(self.rows(counts, source)?);
        Ok(match rest.events {
            0 => answer,
            events => {
                answer.with_note("rest", json!({"events": events, "users": rest.users.len()}))
            }
        })
    }
}

impl FeatureUsage {
    fn rows(&self, counts: Counts, source: &dyn Source) -> Result<Table> {
        let mut checks = CancelChecks::new(source);
        let mut charge = source.budget().charge();
        charge.set(counts.bytes())?;
        let dictionary = &source.names().features;
        let name = |feature: u32| dictionary.text(feature).unwrap_or_default();
        let Counts {
            counts,
            groups,
            others,
        } = counts;
        let mut of_feature: HashMap<u32, u64> = HashMap::new();
        let mut of_group: HashMap<u32, u64> = HashMap::new();
        for (&(feature, group), count) in &counts {
            checks.step()?;
            *of_feature.entry(feature).or_default() += count.events;
            if Some(group) != others {
                *of_group.entry(group).or_default() += count.events;
            }
        }
        let features = most_used(of_feature.into_iter().collect(), self.limit, name);
        let features = features.into_iter().map(|(feature, _)| feature);
        let place: HashMap<u32, usize> = features.zip(0..).collect();
        let named = greatest_groups(of_group.into_iter(), &groups, &mut checks)?;
        let named: HashSet<u32> = named.into_iter().collect();
        let mut rows: HashMap<(usize, Option<&str>), (u32, Count)> = HashMap::new();
        for ((feature, group), count) in counts {
            checks.step()?;
            let Some(&place) = place.get(&feature) else {
                continue;
            };
            let group = if named.contains(&group) {
                groups.string(group)
            } else {
                Some(OTHER)
            };
            let row = rows.entry((place, group));
            row.or_insert_with(|| (feature, Count::default()))
                .1
                .merge(count);
        }
        let mut rows: Vec<_> = rows.into_iter().collect();
        rows.sort_by(|((a, group), (_, many)), ((b, other), (_, more))| {
            (a, more.events, group).cmp(&(b, many.events, other))
        });
        let mut text_bytes = 0;
        let (mut features, mut breakdown) = (Vec::new(), Vec::new());
        let (mut events, mut users) = (Vec::new(), Vec::new());
        for ((_, group), (feature, count)) in rows {
            checks.step()?;
            let feature = name(feature);
            // In the row and in the response.
            text_bytes += 2 * (feature.len() + group.map_or(0, str::len)) as u64;
            charge.set(groups.bytes() + text_bytes)?;
            features.push(feature.to_owned());
            breakdown.push(group.map(str::to_owned));
            events.push(count.events);
            users.push(count.users.len());
        }
        let table = Table::default().with("feature", features);
        let table = match self.breakdown {
            Some(_) => table.with("breakdown", breakdown),
            None => table,
        };
        Ok(table.with("events", events).with("users", users))
    }
}

/// The groups that have rows of their own: those with the most events, ties by value.
///
/// # Errors
/// If the query is cancelled.
pub fn greatest_groups(
    events: impl Iterator<Item = (u32, u64)>,
    groups: &LocalDictionary,
    checks: &mut CancelChecks<'_>,
) -> Result<Vec<u32>> {
    let by_events = |&(a, many): &(u32, u64), &(b, more): &(u32, u64)| {
        let by_value = || groups.string(a).cmp(&groups.string(b));
        more.cmp(&many).then_with(by_value)
    };
    let greatest = top::first_by(events, MAX_GROUPS, by_events, checks)?;
    Ok(greatest.into_iter().map(|(group, _)| group).collect())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::frame::FrameSource;

    /// Events of some features and values of the property `v`, each with a user and a number.
    fn source(events: &[(&str, &str, &str, usize)]) -> FrameSource {
        let metadata: Vec<String> = events
            .iter()
            .map(|(_, value, ..)| match *value {
                "" => String::new(),
                value => format!("{{\"v\":\"{value}\"}}"),
            })
            .collect();
        let rows: Vec<_> = events
            .iter()
            .zip(&metadata)
            .flat_map(|(&(feature, _, user, count), metadata)| {
                let row = ("2024-03-01 10:00", "action", user, feature);
                std::iter::repeat_n((row, metadata.as_str()), count)
            })
            .collect();
        FrameSource::with_metadata("2024-03-01", 1, &rows)
    }

    #[test]
    fn the_most_used_features_come_first_and_ties_by_name() {
        let mut source = source(&[
            ("docs", "", "ann", 1),
            ("cart", "", "ann", 2),
            ("cart", "", "", 1),
            ("", "", "ann", 9),
            ("blog", "", "bob", 1),
        ]);
        let rows = source.rows(json!({"metric":"feature_usage","limit":2}));
        let expected = json!([
            {"feature":"cart","events":3,"users":1},
            {"feature":"blog","events":1,"users":1},
        ]);
        assert_eq!(rows, expected);
    }

    #[test]
    fn a_breakdown_names_what_is_missing_and_merges_batches() {
        let mut source = source(&[
            ("cart", "web", "ann", 2),
            ("cart", "", "bob", 1),
            ("cart", "web", "bob", 1),
            ("docs", "app", "ann", 1),
        ]);
        source.batch_rows = 2;
        let rows = source.rows(json!({"metric":"feature_usage","breakdown":"metadata.v"}));
        let expected = json!([
            {"feature":"cart","breakdown":"web","events":3,"users":2},
            {"feature":"cart","breakdown":null,"events":1,"users":1},
            {"feature":"docs","breakdown":"app","events":1,"users":1},
        ]);
        assert_eq!(rows, expected);
    }

    #[test]
    fn groups_beyond_the_greatest_are_one() {
        let values: Vec<String> = (0..MAX_GROUPS + 3).map(|v| format!("v{v:02}")).collect();
        // Three groups of one event beyond 25: the last ones by name.
        let mut events: Vec<_> = values
            .iter()
            .map(|v| ("cart", v.as_str(), "ann", 1))
            .collect();
        events.extend([("cart", "v27", "bob", 1), ("docs", "v26", "ann", 1)]);
        let rows = source(&events).rows(json!({"metric":"feature_usage","breakdown":"metadata.v"}));
        let rows = rows.as_array().expect("rows");
        let of = |group: &str| -> Vec<&serde_json::Value> {
            rows.iter()
                .filter(|row| row["breakdown"] == group)
                .collect()
        };
        // v26 and v27 have two events each, so v23, v24 and v25 are beyond.
        let other = json!({"feature":"cart","breakdown":OTHER,"events":3,"users":1});
        assert_eq!(of(OTHER), [&other]);
        assert!(of("v23").is_empty() && of("v22").len() == 1 && of("v26").len() == 2);
    }

    #[test]
    fn a_cohort_leaves_anonymous_events_out() {
        let mut source = source(&[
            ("cart", "", "ann", 1),
            ("cart", "", "bob", 2),
            ("cart", "", "", 4),
        ]);
        source.cohort = Some([source.user("bob")].into_iter().collect());
        let rows = source.rows(json!({"metric":"feature_usage"}));
        assert_eq!(rows, json!([{"feature":"cart","events":2,"users":1}]));
    }
}
