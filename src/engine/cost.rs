//! The cost of a query, known before it runs, so that cheap ones do not wait for expensive ones.

use chrono::{DateTime, Utc};

use super::Engine;
use super::query::AggregateFilter;
use crate::metrics::Metric;
use crate::metrics::filter::Filter;
use crate::metrics::query::Query;
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
            _ => return Self::Events,
        };
        let are_known = filters
            .into_iter()
            .all(|filter| AggregateFilter::of(&query.filter.and(filter)).is_some());
        if query.cohort.is_none() && are_known {
            Self::of_usage(&query.window, now, has_states)
        } else {
            Self::Events
        }
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
