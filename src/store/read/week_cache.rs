//! Cache of complete sealed weeks: each is counted once and kept, so that a year is some fifty sets
//! of users and not 365.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chrono_tz::Tz;

use crate::daily::{Day, Week, WeekActivity};
use crate::dictionary::Dictionaries;
use crate::error::Result;
use crate::links::canonical::{Canonical, Epoch};
use crate::store::files::states::StateFile;
use crate::store::lock::{Ordered, Rank};
use crate::store::pipeline;

/// The weeks of each zone that were counted.
pub struct WeekCache(Ordered<HashMap<(Tz, Week), KeptWeek>>);

impl Default for WeekCache {
    fn default() -> Self {
        Self(Ordered::new(Rank::Leaf, HashMap::new()))
    }
}

/// The states of the days of a week that have events.
pub type DaysOfWeek<'a> = &'a [(Day, Arc<StateFile>)];

/// A counted week, and the files that it was counted from.
struct KeptWeek {
    /// Names of the states' files, which are never used twice.
    files: Vec<String>,
    activity: Arc<WeekActivity>,
    /// The epoch of the users.
    epoch: Epoch,
}

impl KeptWeek {
    fn count(
        states: DaysOfWeek<'_>,
        names: &Dictionaries,
        canonical: Option<&Canonical>,
    ) -> Result<Self> {
        let mut activity = WeekActivity::default();
        for (_, state) in states {
            let mut of_day = state.activity_once(names)?;
            if let Some(canonical) = canonical {
                of_day = canonical.activity(&of_day).activity;
            }
            activity.add(&of_day);
        }
        Ok(Self {
            files: states
                .iter()
                .map(|(_, state)| state.meta.path.clone())
                .collect(),
            activity: Arc::new(activity),
            epoch: epoch_of(canonical),
        })
    }

    /// True if it was counted from these, with the same users in the place of aliases.
    fn is_of(&self, states: DaysOfWeek<'_>, canonical: Option<&Canonical>) -> bool {
        let users = &self.activity.whole.users;
        let files = states.iter().map(|(_, state)| &state.meta.path);
        self.epoch == epoch_of(canonical)
            && !canonical.is_some_and(|canonical| canonical.has_aliases_among(users))
            && self.files.iter().eq(files)
    }
}

/// The epoch of the users, which is that of no links before the first one.
fn epoch_of(canonical: Option<&Canonical>) -> Epoch {
    canonical.map_or_else(Epoch::default, Canonical::epoch)
}

impl WeekCache {
    /// The weeks that are kept.
    pub fn kept(&self) -> Vec<Arc<WeekActivity>> {
        let kept = self.0.lock();
        kept.values().map(|week| week.activity.clone()).collect()
    }

    /// The activity of weeks of a zone whose events are all sealed.
    ///
    /// # Errors
    /// [`crate::error::Error::Damaged`] if a state is.
    pub fn activity(
        &self,
        tz: Tz,
        weeks: &[(Week, DaysOfWeek<'_>)],
        names: &Dictionaries,
        canonical: Option<&Canonical>,
    ) -> Result<BTreeMap<Week, Arc<WeekActivity>>> {
        let mut found = BTreeMap::new();
        let mut missing = Vec::new();
        {
            let kept = self.0.lock();
            for &(week, states) in weeks {
                match kept
                    .get(&(tz, week))
                    .filter(|kept| kept.is_of(states, canonical))
                {
                    Some(kept) => drop(found.insert(week, kept.activity.clone())),
                    None => missing.push((week, states)),
                }
            }
        }
        let mut missing = missing.into_iter();
        pipeline::ordered(
            || Ok(missing.next()),
            |(week, states)| Ok((week, KeptWeek::count(states, names, canonical)?)),
            |counted: Result<(Week, KeptWeek)>| {
                let (week, counted) = counted?;
                found.insert(week, counted.activity.clone());
                self.0.lock().insert((tz, week), counted);
                Ok(())
            },
        )?;
        Ok(found)
    }
}
