//! Cache of complete sealed weeks: each is counted once and kept, so that a year is some fifty sets
//! of users and not 365. Links that are added change what is kept.

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
    /// The week from its days or, which takes a fraction of the time, from what was kept when fewer
    /// of the ids were aliases.
    fn new(
        states: DaysOfWeek<'_>,
        names: &Dictionaries,
        canonical: Option<&Canonical>,
        before: Option<&WeekActivity>,
    ) -> Result<Self> {
        let activity = match (before, canonical) {
            (Some(before), Some(canonical)) => link(before, states, names, canonical)?,
            _ => count(states, names, canonical)?,
        };
        Ok(Self {
            files: states
                .iter()
                .map(|(_, state)| state.meta.path.clone())
                .collect(),
            activity: Arc::new(activity),
            epoch: epoch_of(canonical),
        })
    }

    /// True if it was counted from these, and all aliases of then have the same users now.
    fn is_of(&self, states: DaysOfWeek<'_>, canonical: Option<&Canonical>) -> bool {
        let files = states.iter().map(|(_, state)| &state.meta.path);
        self.epoch == epoch_of(canonical) && self.files.iter().eq(files)
    }
}

/// The epoch of the users, which is that of no links before the first one.
fn epoch_of(canonical: Option<&Canonical>) -> Epoch {
    canonical.map_or_else(Epoch::default, Canonical::epoch)
}

/// Counts a week from its days.
fn count(
    states: DaysOfWeek<'_>,
    names: &Dictionaries,
    canonical: Option<&Canonical>,
) -> Result<WeekActivity> {
    let mut activity = WeekActivity::default();
    for (_, state) in states {
        let mut of_day = state.activity_once(names)?;
        if let Some(canonical) = canonical {
            of_day = canonical.activity(&of_day).activity;
        }
        activity.add(&of_day);
    }
    Ok(activity)
}

/// Puts users in the place of the ids of a counted week that have become aliases since. Its days
/// are read only if two ids of the week are one user now: otherwise no day has fewer users. After
/// many links at once it is faster to count again.
fn link(
    before: &WeekActivity,
    states: DaysOfWeek<'_>,
    names: &Dictionaries,
    canonical: &Canonical,
) -> Result<WeekActivity> {
    let ids = &before.whole.users;
    let new_aliases = canonical.aliases_among(ids);
    if new_aliases.len() > ids.len() / 2 {
        return count(states, names, Some(canonical));
    }
    let mut linked = before.clone();
    canonical.apply(&mut linked.whole.users);
    if linked.whole.users.len() == ids.len() {
        return Ok(linked);
    }
    for (_, state) in states {
        let of_day = state.activity_once(names)?;
        let aliases = &of_day.users & &new_aliases;
        if aliases.is_empty() {
            continue;
        }
        let mut others = &of_day.users - &aliases;
        canonical.apply(&mut others);
        // Each of the aliases was counted, because no user is an alias.
        let were = others.len() + aliases.len();
        let are = others.union_len(&canonical.users_of(&aliases));
        linked.user_days -= were - are;
    }
    Ok(linked)
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
        let is_linked = |week: &WeekActivity| {
            let users = &week.whole.users;
            !canonical.is_some_and(|canonical| canonical.has_aliases_among(users))
        };
        let mut found = BTreeMap::new();
        let mut missing = Vec::new();
        {
            let kept = self.0.lock();
            for &(week, states) in weeks {
                let known = kept.get(&(tz, week));
                let known = known.filter(|kept| kept.is_of(states, canonical));
                let known = known.map(|kept| kept.activity.clone());
                match known {
                    Some(known) if is_linked(&known) => drop(found.insert(week, known)),
                    known => missing.push((week, states, known)),
                }
            }
        }
        let mut missing = missing.into_iter();
        pipeline::ordered(
            || Ok(missing.next()),
            |(week, states, before)| {
                let new = KeptWeek::new(states, names, canonical, before.as_deref())?;
                Ok((week, new))
            },
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use roaring::RoaringBitmap;

    use super::*;
    use crate::daily::{self, Activity, DailyState, date};
    use crate::links::{Links, Statement};
    use crate::store::files::states::StateMeta;

    /// Writes the states of days with these users, one event each.
    fn states(root: &Path, days: &[Vec<u32>], names: &Dictionaries) -> Vec<(Day, Arc<StateFile>)> {
        let states = (0..).zip(days).map(|(day, users)| {
            let users: RoaringBitmap = users.iter().copied().collect();
            let activity = Activity {
                events: users.len(),
                users,
                ..Activity::default()
            };
            let state = DailyState {
                activity: Arc::new(activity),
                ..DailyState::default()
            };
            let bytes = daily::encode(&state, names).expect("small");
            let meta = StateMeta {
                day: date(day),
                path: day.to_string(),
                bytes: bytes.len() as u64,
                crc32c: crc32c::crc32c(&bytes),
                events: state.activity.events,
                span_us: None,
            };
            std::fs::write(root.join(&meta.path), bytes).expect("written");
            (day, Arc::new(StateFile::new(root, meta)))
        });
        states.collect()
    }

    /// The week, of a cache or without one.
    fn week(
        cache: &WeekCache,
        states: DaysOfWeek<'_>,
        names: &Dictionaries,
        canonical: &Canonical,
    ) -> Result<Arc<WeekActivity>> {
        let mut weeks = cache.activity(Tz::UTC, &[(0, states)], names, Some(canonical))?;
        Ok(weeks.remove(&0).expect("a week"))
    }

    fn statement(ts_us: i64, user: u32, alias: u32) -> Statement {
        Statement {
            ts_us,
            user,
            alias: Some(alias),
        }
    }

    fn any_statement() -> impl Strategy<Value = Statement> {
        let ids = prop_oneof![
            8 => (0..6_u32, 6..24_u32),
            1 => (0..24_u32, 0..24_u32),
        ];
        (0..24_i64, ids).prop_map(|(ts_us, (user, alias))| statement(ts_us, user, alias))
    }

    #[test]
    fn a_week_is_counted_again_only_if_two_of_its_ids_are_one_user_now() -> Result<()> {
        let dir = tempfile::tempdir().expect("a folder");
        let names = Dictionaries::new()?;
        let states = states(
            dir.path(),
            &[vec![1, 10, 11], vec![10], vec![1, 12]],
            &names,
        );
        let none = Arc::<Links>::default();
        let cache = WeekCache::default();
        let users_and_days = |statements: &[Statement]| {
            let week = week(&cache, &states, &names, &Canonical::new(&none, statements))?;
            Ok::<_, crate::error::Error>((week.whole.users.len(), week.user_days))
        };
        assert_eq!(users_and_days(&[])?, (4, 6));
        // 10 and 1 were both active on the first day.
        let first = statement(1, 1, 10);
        assert_eq!(users_and_days(&[first])?, (3, 5));
        for (_, state) in &states {
            std::fs::remove_file(dir.path().join(&state.meta.path)).expect("removed");
        }
        let second = statement(2, 2, 11);
        assert_eq!(users_and_days(&[first, second])?, (3, 5));
        let third = statement(3, 1, 12);
        assert!(users_and_days(&[first, second, third]).is_err());
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_week_to_which_links_were_added_is_the_one_that_is_counted_again(
            days in prop::collection::vec(prop::collection::vec(0..24_u32, 0..16), 1..8),
            statements in prop::collection::vec(any_statement(), 1..24),
            sealed in 0..24_usize,
            step in 1..4_usize,
        ) {
            let dir = tempfile::tempdir().expect("a folder");
            let names = Dictionaries::new().expect("names");
            let states = states(dir.path(), &days, &names);
            let cache = WeekCache::default();
            for known in (0..=statements.len()).step_by(step) {
                let (known, _) = statements.split_at(known);
                let (sealed, unsealed) = known.split_at(sealed.min(known.len()));
                let mut links = Links::default();
                for &statement in sealed {
                    links.add(statement);
                }
                let canonical = Canonical::new(&Arc::new(links), unsealed);
                let kept = week(&cache, &states, &names, &canonical).expect("undamaged");
                let counted = week(&WeekCache::default(), &states, &names, &canonical);
                prop_assert_eq!(kept, counted.expect("undamaged"));
            }
        }
    }
}
