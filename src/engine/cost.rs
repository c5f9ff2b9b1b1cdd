//! The cost of a query, known before it runs, so that cheap ones do not wait for expensive ones.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::query::AggregateFilter;
use crate::metrics::Metric;
use crate::metrics::filter::Filter;
use crate::metrics::query::Query;
use crate::window::WindowRequest;

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
    pub fn of(query: &Query, now: DateTime<Utc>) -> Self {
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
            Self::of_usage(&query.window, now)
        } else {
            Self::Events
        }
    }

    /// The cost of usage of a window: daily states are those of UTC.
    pub fn of_usage(request: &WindowRequest, now: DateTime<Utc>) -> Self {
        match request.resolve(now) {
            Ok(window) if window.tz() != Tz::UTC => Self::Events,
            _ => Self::States,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_of_whole_days_of_utc_are_cheap() {
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
            assert_eq!(Cost::of(&parsed, Utc::now()), cost, "{query}");
        }
        let berlin = WindowRequest {
            tz: Some("Europe/Berlin".into()),
            ..WindowRequest::default()
        };
        assert_eq!(Cost::of_usage(&berlin, Utc::now()), Cost::Events);
        let utc = WindowRequest::default();
        assert_eq!(Cost::of_usage(&utc, Utc::now()), Cost::States);
    }
}
