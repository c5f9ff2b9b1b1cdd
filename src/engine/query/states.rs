//! What daily states say about the users of events that meet a filter.

use roaring::RoaringBitmap;

use crate::daily::{Activity, DailyState};
use crate::error::Result;
use crate::event::EventType;
use crate::metrics::filter::{Filter, Property};
use crate::names::{Names, REST_FEATURE};
use crate::store::DayParts;

/// What daily states say about the users of events that meet a filter.
pub(super) enum Known<'a> {
    /// Users of any event.
    All,
    /// Users of events of these types.
    EventTypes(&'a [String]),
    /// Users of these features.
    Features(&'a [String]),
}

impl<'a> Known<'a> {
    /// `None` if states do not say it.
    pub(super) fn of(filter: &'a Filter) -> Option<Self> {
        match filter.only() {
            _ if filter.is_empty() => Some(Self::All),
            Some((Property::EventType, names)) => Some(Self::EventTypes(names)),
            Some((Property::Feature, names)) => Some(Self::Features(names)),
            _ => None,
        }
    }

    /// The users of a day; `None` if one of the features may be beyond the day's limit.
    pub(super) fn users(&self, parts: &DayParts, names: &Names) -> Result<Option<RoaringBitmap>> {
        let mut users = RoaringBitmap::new();
        if let Self::All = self {
            for activity in parts.activities(names)? {
                let Activity { users: some, .. } = activity.as_ref();
                users |= some;
            }
            return Ok(Some(users));
        }
        for state in parts.states(names)? {
            if self.may_be_rest(&state.activity, names) {
                return Ok(None);
            }
            self.add_users(&state, names, &mut users);
        }
        Ok(Some(users))
    }

    fn may_be_rest(&self, activity: &Activity, names: &Names) -> bool {
        let Self::Features(wanted) = self else {
            return false;
        };
        let is_named = |name: &String| {
            let number = names.features.find(name);
            number.is_some_and(|number| activity.features.contains_key(&number))
        };
        activity.features.contains_key(&REST_FEATURE) && !wanted.iter().all(is_named)
    }

    fn add_users(&self, state: &DailyState, names: &Names, users: &mut RoaringBitmap) {
        match self {
            Self::All => *users |= &state.activity.users,
            Self::EventTypes(wanted) => {
                for (event_type, some) in EventType::ALL.iter().zip(&state.event_type_users) {
                    if wanted.iter().any(|name| name == event_type.name()) {
                        *users |= some;
                    }
                }
            }
            Self::Features(wanted) => {
                for feature in wanted.iter().filter_map(|name| names.features.find(name)) {
                    if let Some(some) = state.feature_users.get(&feature) {
                        *users |= some;
                    }
                }
            }
        }
    }
}
