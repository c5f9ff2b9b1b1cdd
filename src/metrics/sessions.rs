//! Sessions: events of one user with gaps of at most 30 minutes, by the period of the first event.
//!
//! - `sessions`, the distinct `users` who began them, their `events`, `bounces` (sessions of one
//!   event), and `seconds` from the first event to the last: mean, median and 90th percentile
//!   (interpolated).
//! - A session that began before the window is in no period; of one that goes on after it, the
//!   events in the window count.
//! - `breakdown` is the property of the first event of a session, or with `breakdown_of` `last` of
//!   the last one: of `feature` or `url`, where sessions begin and end. The groups with the most
//!   sessions of the window have rows of their own, ties by value; then come the sessions without a
//!   value and the rest.
//!
//! Sessions consist of the events that meet the filter. Anonymous events are in none. Events of a
//! user at one timestamp are in the order of the log. Definitions: `docs/metrics.md`, "Sessions".

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::budget::{Charge, set_bytes};
use super::filter::Property;
use super::funnel::quantile;
use super::local_dictionary::LocalDictionary;
use super::source::{CancelChecks, Source};
use super::table::Table;
use super::trends::timeline::Timeline;
use super::trends::{TrendGrain, check_rows};
use super::visits::{NO_VALUE, Visit, Visits, Which, is_one_session};
use super::{Answer, Measure, check_limit, top};
use crate::daily::{self, Day};
use crate::error::Result;

/// Most groups of a breakdown that have rows of their own.
const MAX_LIMIT: usize = 100;
/// Sessions of a range of users after which their memory is charged again.
const SESSIONS_PER_CHARGE: usize = 16_384;

/// The parameters.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sessions {
    /// Length of a period.
    pub grain: TrendGrain,
    /// The property of an event of the session by which sessions are split.
    #[schema(default = json!(null))]
    pub breakdown: Option<Property>,
    /// The event that has the property.
    pub breakdown_of: SessionEvent,
    /// Most groups of the breakdown that have rows of their own.
    #[schema(minimum = 1, maximum = 100)]
    pub limit: usize,
}

/// An event of a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SessionEvent {
    /// The first one.
    #[default]
    First,
    /// The last one.
    Last,
}

/// Some sessions.
#[derive(Debug, Clone, Default)]
struct Count {
    users: RoaringBitmap,
    /// The user of each session, until they are among `users`.
    new_users: Vec<u32>,
    events: u64,
    bounces: u64,
    durations_us: Vec<i64>,
}

/// Sessions by group and period.
struct OfRange<'a> {
    counts: HashMap<(u32, u32), Count>,
    sessions: usize,
    checks: CancelChecks<'a>,
    charge: Charge<'a>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            grain: TrendGrain::default(),
            breakdown: None,
            breakdown_of: SessionEvent::default(),
            limit: 10,
        }
    }
}

impl Measure for Sessions {
    fn check(&self) -> Result<(), String> {
        check_limit(self.limit, MAX_LIMIT)
    }

    /// The day before the window shows which sessions began before it.
    fn days_before(&self) -> u16 {
        1
    }

    fn run(&self, source: &dyn Source, now: DateTime<Utc>) -> Result<Answer> {
        let timeline = Timeline::new(source.window(), self.grain, None, 1, now);
        check_rows(timeline.slots.len() * self.breakdown.as_ref().map_or(1, |_| self.limit + 2))?;
        let mut days = source.window().days_in_epoch();
        days.start -= Day::from(self.days_before());
        let visits = Visits {
            days,
            property: self.breakdown.as_ref(),
            filters: Vec::new(),
            which: Which::All,
        };
        let new = || OfRange {
            counts: HashMap::new(),
            sessions: 0,
            checks: CancelChecks::new(source),
            charge: source.budget().charge(),
        };
        let all = Mutex::new(new());
        let groups = visits.for_each_user(
            source,
            new,
            |user, visits, of_range| self.add_user(user, visits, &timeline, of_range),
            |of_range| all.lock().merge(of_range),
        )?;
        let OfRange { counts, charge, .. } = all.into_inner();
        let answer = self.answer(&groups, counts, &timeline, source);
        drop(charge);
        answer
    }
}

impl Sessions {
    fn add_user(
        &self,
        user: u32,
        visits: &[Visit],
        timeline: &Timeline,
        into: &mut OfRange<'_>,
    ) -> Result<()> {
        for session in visits.chunk_by(|a, b| is_one_session(a.ts_us, b.ts_us)) {
            into.checks.step()?;
            let (Some(first), Some(last)) = (session.first(), session.last()) else {
                continue;
            };
            let slots = &timeline.slots;
            let slot = slots.partition_point(|slot| slot.us.end <= first.ts_us);
            let begins = slots
                .get(slot)
                .is_some_and(|slot| slot.us.contains(&first.ts_us));
            if !begins {
                continue;
            }
            let group = match self.breakdown_of {
                SessionEvent::First => first.value,
                SessionEvent::Last => last.value,
            };
            let count = into.counts.entry((group, slot as u32)).or_default();
            count.events += session.len() as u64;
            count.bounces += u64::from(session.len() == 1);
            count.durations_us.push(last.ts_us - first.ts_us);
            if count.new_users.last() != Some(&user) {
                count.new_users.push(user);
            }
            into.sessions += 1;
            if into.sessions.is_multiple_of(SESSIONS_PER_CHARGE) {
                into.charge()?;
            }
        }
        Ok(())
    }

    fn answer(
        &self,
        names: &LocalDictionary,
        counts: HashMap<(u32, u32), Count>,
        timeline: &Timeline,
        source: &dyn Source,
    ) -> Result<Answer> {
        let mut checks = CancelChecks::new(source);
        let mut of_group: HashMap<u32, u64> = HashMap::new();
        for ((group, _), count) in &counts {
            checks.step()?;
            *of_group.entry(*group).or_default() += count.durations_us.len() as u64;
        }
        let has_missing = of_group.remove(&NO_VALUE).is_some();
        let by_sessions = |&(a, many): &(u32, u64), &(b, more): &(u32, u64)| {
            let by_value = || names.string(a).cmp(&names.string(b));
            more.cmp(&many).then_with(by_value)
        };
        let all = of_group.len();
        let greatest = top::first_by(of_group.into_iter(), self.limit, by_sessions, &mut checks)?;
        let mut groups: Vec<(Option<&str>, Option<&str>)> = Vec::new();
        let mut places: HashMap<u32, usize> = HashMap::new();
        for (group, _) in &greatest {
            places.insert(*group, groups.len());
            groups.push((names.string(*group), Some("value")));
        }
        if has_missing || self.breakdown.is_none() {
            places.insert(NO_VALUE, groups.len());
            groups.push((None, self.breakdown.as_ref().map(|_| "missing")));
        }
        let rest = groups.len();
        if all > greatest.len() {
            groups.push((None, Some("rest")));
        }
        let periods = timeline.slots.len();
        let mut cells = vec![Count::default(); groups.len() * periods];
        let mut totals = vec![Count::default(); groups.len()];
        for ((group, period), count) in counts {
            checks.step()?;
            let place = places.get(&group).copied().unwrap_or(rest);
            if let Some(total) = totals.get_mut(place) {
                total.merge(count.clone());
            }
            if let Some(cell) = cells.get_mut(place * periods + period as usize) {
                cell.merge(count);
            }
        }
        let mut columns = SessionColumns::default();
        let slots = (0..groups.len()).flat_map(|_| &timeline.slots);
        let (mut names, mut kinds, mut partial) = (Vec::new(), Vec::new(), Vec::new());
        let (mut breakdown, all) = (Vec::new(), slots.zip(&mut cells).enumerate());
        for (at, (slot, cell)) in all {
            source.check_cancelled()?;
            let (value, kind) = groups.get(at / periods).copied().unwrap_or_default();
            names.push(slot.name.clone());
            breakdown.push(value.map(str::to_owned));
            kinds.push(kind.map(str::to_owned));
            partial.push(slot.is_partial);
            columns.push(cell);
        }
        let table = Table::default()
            .with("period", names)
            .with("breakdown", breakdown)
            .with("kind", kinds);
        let rows = columns.add_to(table).with("partial", partial);
        let mut of_window = SessionColumns::default();
        totals.iter_mut().for_each(|total| of_window.push(total));
        let values = groups.iter().map(|(value, _)| value.map(str::to_owned));
        let kinds = groups.iter().map(|(_, kind)| kind.map(str::to_owned));
        let table = Table::default()
            .with("breakdown", values.collect::<Vec<_>>())
            .with("kind", kinds.collect::<Vec<_>>());
        let totals: Value = json!(of_window.add_to(table));
        Ok(Answer::from(rows).with_note("totals", totals))
    }
}

/// The counts of rows.
#[derive(Default)]
struct SessionColumns {
    sessions: Vec<u64>,
    users: Vec<u64>,
    events: Vec<u64>,
    bounces: Vec<u64>,
    mean: Vec<Option<f64>>,
    median: Vec<Option<f64>>,
    p90: Vec<Option<f64>>,
}

impl SessionColumns {
    fn push(&mut self, count: &mut Count) {
        let sessions = count.durations_us.len();
        let sum_us: i64 = count.durations_us.iter().sum();
        self.sessions.push(sessions as u64);
        self.users.push(count.users.len());
        self.events.push(count.events);
        self.bounces.push(count.bounces);
        let mean = (sessions > 0).then(|| sum_us as f64 / (sessions as f64 * 1e6));
        self.mean.push(mean);
        self.median.push(quantile(&mut count.durations_us, 0.5));
        self.p90.push(quantile(&mut count.durations_us, 0.9));
    }

    fn add_to(self, table: Table) -> Table {
        table
            .with("sessions", self.sessions)
            .with("users", self.users)
            .with("events", self.events)
            .with("bounces", self.bounces)
            .with_in("seconds", "mean", self.mean)
            .with_in("seconds", "median", self.median)
            .with_in("seconds", "p90", self.p90)
    }
}

impl Count {
    fn merge(&mut self, mut other: Self) {
        self.users |= other.users;
        self.users |= daily::set(other.new_users);
        self.events += other.events;
        self.bounces += other.bounces;
        self.durations_us.append(&mut other.durations_us);
    }

    /// Bytes in memory. Lists have space to grow, and a copy is made of them for the totals.
    fn bytes(&self) -> u64 {
        let users = self.new_users.capacity() * size_of::<u32>();
        let durations = 2 * self.durations_us.capacity() * size_of::<i64>();
        2 * set_bytes(&self.users) + (size_of::<Self>() + users + durations) as u64
    }
}

impl OfRange<'_> {
    fn charge(&mut self) -> Result<()> {
        self.charge
            .set(self.counts.values().map(Count::bytes).sum())
    }

    /// Merges the sessions of other users.
    fn merge(&mut self, others: Self) -> Result<()> {
        for (key, count) in others.counts {
            self.checks.step()?;
            self.counts.entry(key).or_default().merge(count);
        }
        self.charge()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::frame::{FrameSource, Row};

    const EVENTS: [Row<'_>; 10] = [
        // A session that begins before the window, with its end in it.
        ("2024-02-29 23:50", "action", "ann", "home"),
        ("2024-03-01 00:10", "action", "ann", "docs"),
        // Exactly 30 minutes: one session; a minute more is another.
        ("2024-03-01 10:00", "action", "ann", "home"),
        ("2024-03-01 10:30", "action", "ann", "cart"),
        ("2024-03-01 11:01", "action", "ann", "home"),
        // Begins on the first day and ends on the second.
        ("2024-03-01 23:50", "action", "bob", "docs"),
        ("2024-03-02 00:10", "action", "bob", ""),
        ("2024-03-02 09:00", "page_view", "bob", ""),
        ("2024-03-02 09:00", "action", "", "home"),
        // After the window.
        ("2024-03-03 00:00", "action", "ann", "home"),
    ];

    #[test]
    fn a_session_is_in_the_period_of_its_first_event() {
        let mut source = FrameSource::new("2024-03-02", 2, &EVENTS);
        source.batch_rows = 3;
        let rows = source.rows(json!({"metric":"sessions"}));
        let seconds =
            |mean: u64, median: u64, p90: u64| json!({"mean":mean,"median":median,"p90":p90});
        // Ann's of 30 minutes and of one event, and bob's of 20 minutes.
        let expected = json!([
            {"period":"2024-03-01","breakdown":null,"kind":null,"sessions":3,"users":2,"events":5,
             "bounces":1,"seconds":seconds(1_000, 1_200, 1_680),"partial":false},
            {"period":"2024-03-02","breakdown":null,"kind":null,"sessions":1,"users":1,"events":1,
             "bounces":1,"seconds":seconds(0, 0, 0),"partial":false},
        ]);
        assert_eq!(rows, expected);
        // Without the page view there is no session on the second day.
        let actions = json!({"metric":"sessions","filter":{"event_type":"action"}});
        let rows = source.rows(actions);
        assert_eq!(rows[1]["sessions"], json!(0));
        assert_eq!(
            rows[1]["seconds"],
            json!({"mean":null,"median":null,"p90":null})
        );
        let total = source.query(json!({"metric":"sessions"}), "2038-01-01 00:00");
        let totals = total.expect("a result").notes["totals"].clone();
        assert_eq!(totals[0]["users"], json!(2));
        assert_eq!(totals[0]["sessions"], json!(4));
    }

    #[test]
    fn a_breakdown_is_of_the_first_event_or_of_the_last() {
        let mut source = FrameSource::new("2024-03-02", 2, &EVENTS);
        let mut groups = |query: Value| -> Value {
            let answer = source.query(query, "2038-01-01 00:00").expect("a result");
            let totals = answer.notes["totals"].as_array().cloned();
            let rows = totals.expect("totals").into_iter();
            rows.map(|row| json!([row["breakdown"], row["kind"], row["sessions"]]))
                .collect()
        };
        let first = json!({"metric":"sessions","breakdown":"feature"});
        let expected = json!([
            ["home", "value", 2],
            ["docs", "value", 1],
            [null, "missing", 1]
        ]);
        assert_eq!(groups(first), expected);
        let last =
            json!({"metric":"sessions","breakdown":"feature","breakdown_of":"last","limit":1});
        let expected = json!([
            ["cart", "value", 1],
            [null, "missing", 2],
            [null, "rest", 1]
        ]);
        assert_eq!(groups(last), expected);
    }
}
