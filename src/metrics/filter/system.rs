//! `system` events in filters: a filter meets them only where it names their type.

use super::{Condition, Filter, Predicate, Property};
use crate::event::SYSTEM_NAME;

impl Filter {
    /// True if it lists `system` among the values of `event_type`, or a filter under its `any`
    /// does. A negation names nothing.
    pub fn names_system(&self) -> bool {
        self.lists_system() || self.conditions.iter().any(Condition::names_system)
    }

    /// The filter that the same events meet, except that a `system` event does only where the
    /// filter names it: the filter itself, or the one under `any` that it meets.
    pub fn of_seen(&self) -> Self {
        if self.lists_system() {
            return self.clone();
        }
        if !self.names_system() {
            return self.and(&Self::not_system());
        }
        let conditions = self.conditions.iter().map(|condition| match condition {
            Condition::Any(filters) if condition.names_system() => {
                Condition::Any(filters.iter().map(Self::of_seen).collect())
            }
            other => other.clone(),
        });
        Self {
            conditions: conditions.collect(),
        }
    }

    /// The filter of a query whose own filters, `others`, narrow it: each of these sees `system`
    /// events only where it names them, and the query reads no others.
    pub fn of_seen_with(&self, others: Vec<&mut Self>) -> Self {
        if self.names_system() {
            return self.of_seen();
        }
        if !others.iter().any(|filter| filter.names_system()) {
            return self.clone();
        }
        let others: Vec<&Self> = others
            .into_iter()
            .map(|filter| {
                *filter = filter.of_seen();
                &*filter
            })
            .collect();
        self.and(&Self::of_all_seen(others.into_iter()))
    }

    /// The filter of all events but the `system` events that none of some filters names; without
    /// conditions if none of them names any.
    pub fn of_all_seen<'a>(filters: impl Iterator<Item = &'a Self>) -> Self {
        let named: Vec<Self> = filters
            .filter(|filter| filter.names_system())
            .cloned()
            .collect();
        if named.is_empty() {
            return Self::default();
        }
        let seen = std::iter::once(Self::not_system()).chain(named);
        Self {
            conditions: vec![Condition::Any(seen.collect())],
        }
    }

    fn not_system() -> Self {
        let system = Predicate::OneOf(vec![SYSTEM_NAME.to_owned()]);
        Self {
            conditions: vec![Condition::Of {
                property: Property::EventType,
                predicate: Predicate::Not(Box::new(system)),
            }],
        }
    }

    fn lists_system(&self) -> bool {
        self.conditions.iter().any(|condition| match condition {
            Condition::Of {
                property: Property::EventType,
                predicate,
            } => predicate.lists(SYSTEM_NAME),
            _ => false,
        })
    }
}

impl Condition {
    fn names_system(&self) -> bool {
        match self {
            Self::Any(filters) => filters.iter().any(Filter::names_system),
            Self::Of { .. } | Self::Not(_) => false,
        }
    }
}

impl Predicate {
    /// True if it, or one of the predicates that must all be met, lists a value.
    fn lists(&self, value: &str) -> bool {
        match self {
            Self::OneOf(values) => values.iter().any(|one| one == value),
            Self::All(all) => all.iter().any(|one| one.lists(value)),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn filter(value: Value) -> Filter {
        serde_json::from_value(value).expect("a filter")
    }

    #[test]
    fn a_filter_names_system_events_by_a_value_that_is_not_negated() {
        for (value, expected) in [
            (json!({}), false),
            (json!({"event_type":"system"}), true),
            (
                json!({"event_type":["action","system"],"feature":"x"}),
                true,
            ),
            (
                json!({"event_type":{"all":[["system","action"],{"prefix":"s"}]}}),
                true,
            ),
            (
                json!({"any":[{"feature":"x"},{"any":[{"event_type":"system"}]}]}),
                true,
            ),
            (json!({"event_type":{"prefix":"sys"}}), false),
            (json!({"event_type":{"not":"action"}}), false),
            (json!({"event_type":{"not":{"not":"system"}}}), false),
            (json!({"not":{"event_type":"system"}}), false),
            (json!({"feature":"system"}), false),
        ] {
            assert_eq!(filter(value.clone()).names_system(), expected, "{value}");
        }
    }

    #[test]
    fn filters_see_system_events_only_where_they_name_them() {
        let not_system = json!({"not":"system"});
        let seen = |value: Value| filter(value).of_seen();
        assert_eq!(seen(json!({})), filter(json!({"event_type":not_system})));
        let named = json!({"event_type":"system","any":[{"feature":"a"}]});
        assert_eq!(seen(named.clone()), filter(named));
        let of_one = json!({"url":"u","any":[{"feature":"a"},{"event_type":"system"}]});
        let expected = json!({"url":"u","any":[{"feature":"a","event_type":not_system},{"event_type":"system"}]});
        let [found, expected] = [seen(of_one), filter(expected)];
        assert_eq!(format!("{found:?}").len(), format!("{expected:?}").len());
        let mut others = [
            filter(json!({"feature":"a"})),
            filter(json!({"event_type":"system"})),
        ];
        let base = filter(json!({"url":"u"}));
        let whole = base.of_seen_with(others.iter_mut().collect());
        let expected = json!({"url":"u","any":[{"event_type":not_system},{"event_type":"system"}]});
        assert!(whole.names_system());
        assert_eq!(whole.conditions.len(), filter(expected).conditions.len());
        assert_eq!(others[0], seen(json!({"feature":"a"})));
        assert_eq!(others[1], filter(json!({"event_type":"system"})));
        // Without such a filter nothing changes.
        let mut others = [filter(json!({"feature":"a"}))];
        assert_eq!(base.of_seen_with(others.iter_mut().collect()), base);
        assert_eq!(others[0], filter(json!({"feature":"a"})));
    }
}
