//! The cost of a query, known before it runs, so that cheap ones do not wait for expensive ones.

use chrono::{DateTime, Utc};

use super::query::AggregateFilter;
use super::{Engine, ValuesRequest};
use crate::metrics::Metric;
use crate::metrics::filter::{Filter, Property};
use crate::metrics::query::Query;
use crate::metrics::trends::{Measured, TrendGrain, Trends};
use crate::schema;
use crate::window::{Window, WindowRequest};

/// The data that a query reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cost {
    /// Daily states: milliseconds, whatever the number of events.
    States,
    /// Events: up to seconds on all cores.
    Events,
}

impl Cost {
    /// The cost of a query. One with an invalid window costs nothing, as it is rejected.
    ///
    /// A cohort counts as events, because its definition may be of any kind. The estimate is wrong
    /// for a filter on a feature that is beyond the limit of a day: states do not have it, and
    /// events are read.
    fn of(query: &Query, now: DateTime<Utc>, has_states: impl Fn(&Window) -> bool) -> Self {
        let all = Filter::default();
        let filters = match &query.metric {
            Metric::ActiveUsers(_) | Metric::Lifecycle(_) | Metric::Stickiness(_) => vec![&all],
            Metric::Retention(metric) => vec![&metric.start, &metric.return_],
            Metric::FeatureUsage(metric) if metric.breakdown.is_some() => return Self::Events,
            Metric::FeatureUsage(_) | Metric::EventTypes(_) if query.filter.is_empty() => vec![],
            Metric::Trends(metric) if Self::is_of_whole_days(metric) => {
                let by = metric.breakdown.as_ref();
                let mut filters = metric.series.iter().map(|series| &series.filter);
                let knows_groups = filters.all(|filter| {
                    let filter = query.filter.and(filter);
                    AggregateFilter::of(&filter).is_some_and(|known| known.knows_groups(by))
                });
                if !knows_groups {
                    return Self::Events;
                }
                vec![]
            }
            _ => return Self::Events,
        };
        let are_known = filters
            .into_iter()
            .all(|filter| AggregateFilter::of(&query.filter.and(filter)).is_some());
        if query.cohorts.is_empty() && are_known {
            Self::of_usage(&query.window, now, has_states)
        } else {
            Self::Events
        }
    }

    /// True if trends count events and users of whole days. States do not know which users had
    /// events without a feature.
    fn is_of_whole_days(metric: &Trends) -> bool {
        let by_feature = metric.breakdown == Some(Property::Feature);
        let are_counts = metric.series.iter().all(|series| match series.measure {
            Measured::Events => true,
            Measured::Users | Measured::EventsPerUser => !by_feature,
            _ => false,
        });
        are_counts && metric.grain != TrendGrain::Hour && metric.compare.is_none()
    }

    /// The cost of usage of a window: there are daily states of UTC and of the reporting zones.
    fn of_usage(
        request: &WindowRequest,
        now: DateTime<Utc>,
        has_states: impl Fn(&Window) -> bool,
    ) -> Self {
        match request.resolve(now) {
            Ok(window) if !has_states(&window) => Self::Events,
            _ => Self::States,
        }
    }
}

impl Engine {
    /// The cost of a query.
    pub fn cost_of(&self, query: &Query, now: DateTime<Utc>) -> Cost {
        Cost::of(query, now, |window| self.has_states(window))
    }

    /// The cost of a request for values.
    pub fn cost_of_values(&self, request: &ValuesRequest) -> Cost {
        match request.property.as_str() {
            schema::EVENT_TYPE | schema::FEATURE => Cost::States,
            _ => Cost::Events,
        }
    }

    /// The cost of usage of a window.
    pub fn cost_of_usage(&self, request: &WindowRequest, now: DateTime<Utc>) -> Cost {
        Cost::of_usage(request, now, |window| self.has_states(window))
    }

    fn has_states(&self, window: &Window) -> bool {
        self.store.has_states(window.tz(), &window.days_in_epoch())
    }
}

#[cfg(test)]
mod tests {
    use chrono_tz::Tz;

    use super::*;

    /// As with the reporting zones UTC and Asia/Kathmandu.
    fn has_states(window: &Window) -> bool {
        [Tz::UTC, Tz::Asia__Kathmandu].contains(&window.tz())
    }

    #[test]
    fn queries_of_whole_days_of_utc_and_of_reporting_zones_are_cheap() {
        for (query, cost) in [
            (r#"{"metric":"active_users"}"#, Cost::States),
            (r#"{"metric":"lifecycle","days":0}"#, Cost::States),
            (
                r#"{"metric":"stickiness","filter":{"feature":"home"}}"#,
                Cost::States,
            ),
            (
                r#"{"metric":"active_users","filter":{"event_type":["action"]}}"#,
                Cost::States,
            ),
            (
                r#"{"metric":"active_users","tz":"Europe/Berlin"}"#,
                Cost::Events,
            ),
            (
                r#"{"metric":"active_users","tz":"Asia/Kathmandu"}"#,
                Cost::States,
            ),
            (
                r#"{"metric":"active_users","filter":{"metadata.plan":"pro"}}"#,
                Cost::Events,
            ),
            (
                r#"{"metric":"active_users","filter":{"feature":"home","event_type":"action"}}"#,
                Cost::Events,
            ),
            (
                r#"{"metric":"active_users","filter":{"cohort":"testers"}}"#,
                Cost::Events,
            ),
            (r#"{"metric":"retention"}"#, Cost::States),
            (
                r#"{"metric":"retention","start":{"feature":"home"},"return":{"metadata.a":"b"}}"#,
                Cost::Events,
            ),
            (
                r#"{"metric":"retention","start":{"feature":"home"},"filter":{"event_type":"action"}}"#,
                Cost::Events,
            ),
            (r#"{"metric":"feature_usage"}"#, Cost::States),
            (r#"{"metric":"event_types"}"#, Cost::States),
            (r#"{"metric":"trends"}"#, Cost::States),
            (
                r#"{"metric":"trends","breakdown":"event_type","series":[{"measure":"users"}]}"#,
                Cost::States,
            ),
            (r#"{"metric":"trends","breakdown":"feature"}"#, Cost::States),
            (
                r#"{"metric":"trends","breakdown":"feature","series":[{"measure":"users"}]}"#,
                Cost::Events,
            ),
            (
                r#"{"metric":"trends","breakdown":"feature","filter":{"event_type":"action"}}"#,
                Cost::Events,
            ),
            (r#"{"metric":"trends","grain":"hour"}"#, Cost::Events),
            (
                r#"{"metric":"trends","series":[{"measure":"sessions"}]}"#,
                Cost::Events,
            ),
            (
                r#"{"metric":"event_types","filter":{"feature":"home"}}"#,
                Cost::Events,
            ),
            (
                r#"{"metric":"feature_usage","breakdown":"event_type"}"#,
                Cost::Events,
            ),
            (
                r#"{"metric":"funnel","steps":[{"feature":"a"},{"feature":"b"}]}"#,
                Cost::Events,
            ),
        ] {
            let parsed = Query::parse(query.as_bytes()).expect(query);
            assert_eq!(Cost::of(&parsed, Utc::now(), has_states), cost, "{query}");
        }
        let usage = |tz: Option<&str>| {
            let request = WindowRequest {
                tz: tz.map(str::to_owned),
                ..WindowRequest::default()
            };
            Cost::of_usage(&request, Utc::now(), has_states)
        };
        assert_eq!(usage(Some("Europe/Berlin")), Cost::Events);
        assert_eq!(usage(Some("Asia/Kathmandu")), Cost::States);
        assert_eq!(usage(None), Cost::States);
    }
}
