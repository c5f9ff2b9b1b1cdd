//! Answering a question: from daily states where they say enough, from events otherwise.
//!
//! States say who was active, who used a feature and who had an event of a type, on each day of UTC. A reporting zone, any
//! other filter, and every question about the order of events need the events; these are read in batches, so that memory is
//! bounded by users and not by events, and a question can be given up between two of them.

use std::cell::Cell;
use std::collections::HashSet;
use std::ops::Range;

use chrono::{DateTime, Days, NaiveDate, SecondsFormat, Utc};
use chrono_tz::Tz;
use polars::prelude::{DataFrame, IntoLazy, LazyFrame, concat};
use roaring::RoaringBitmap;
use serde_json::{Map, Value, json};

mod cancel;
mod states;

pub use cancel::Cancel;

use states::Known;

use super::Engine;
use crate::daily::Day;
use crate::error::{Error, Result};
use crate::metrics::Metric;
use crate::metrics::cohort::{self, Cohort, Did};
use crate::metrics::counts::{self, Count, Counts};
use crate::metrics::experiment::Experiment;
use crate::metrics::feature_usage::{FeatureUsage, most_used};
use crate::metrics::filter::{Filter, Property};
use crate::metrics::funnel::{self, Acts, Funnel};
use crate::metrics::paths::{Paths, Transitions, Visits, WholePath};
use crate::metrics::presence::{Presence, presence};
use crate::metrics::query::{Query, QueryAnswer};
use crate::metrics::retention::{Retention, Sides};
use crate::metrics::sequence::{Sequences, Timed};
use crate::metrics::table::Table;
use crate::names::REST_FEATURE;
use crate::store::{Columns, DayParts, pipeline};
use crate::window::Window;

/// Acts that are searched at once: some 600 MB. A question about more is answered for one part of the users after another.
const MAX_ACTS: usize = 16 << 20;

/// Parts of the users that are searched on all cores: so many that each part's acts are near each other in memory.
const SHARES: u32 = 16;

/// What to do with an excluded event, as every answer to a funnel with one says.
const EXCLUSION_RULE: &str = "an excluded event spoils the attempts it lies in; a user counts up to the best unspoiled attempt";

impl Engine {
    /// Answers a question.
    ///
    /// # Errors
    /// If the question is wrong, something that is needed is damaged, or it was given up.
    pub fn query(&self, query: &Query, now: DateTime<Utc>, cancel: &Cancel) -> Result<QueryAnswer> {
        let window = query.window.resolve(now)?;
        let mut asked = Asked {
            engine: self,
            window,
            filter: &query.filter,
            cohort: None,
            cancel,
            read_events: Cell::new(false),
            history_from: Cell::new(None),
        };
        if let Some(name) = &query.cohort {
            asked.cohort = Some(asked.cohort(self.cohorts()?.find(name)?)?);
        }
        let mut notes = Map::new();
        let rows = asked.answer(&query.metric, now, &mut notes)?;
        if let Some(history_from) = asked.history_from.get() {
            notes.insert("history_from".into(), json!(history_from));
        }
        Ok(QueryAnswer {
            ok: true,
            ts: now.to_rfc3339_opts(SecondsFormat::Secs, true),
            metric: query.metric.name(),
            window: window.describe(now),
            covered_from: asked.covered_from(query.metric.days_before()),
            notes,
            rows,
        })
    }
}

/// A question while it is answered.
struct Asked<'a> {
    engine: &'a Engine,
    window: Window,
    filter: &'a Filter,
    /// The users it is about, if not all.
    cohort: Option<RoaringBitmap>,
    cancel: &'a Cancel,
    /// Whether events were read, which are kept for less time than states.
    read_events: Cell<bool>,
    /// From when it is known whether a user was seen before, if that is not always.
    history_from: Cell<Option<NaiveDate>>,
}

impl Asked<'_> {
    fn answer(
        &self,
        metric: &Metric,
        now: DateTime<Utc>,
        notes: &mut Map<String, Value>,
    ) -> Result<Table> {
        let window = &self.window;
        let inside = window.days_in_epoch();
        let everything = Day::MIN..inside.end;
        let none = Filter::default();
        Ok(match metric {
            Metric::ActiveUsers(metric) => {
                let days = inside.start - Day::from(metric.days_before())..inside.end;
                metric.answer(&self.presence(days, &none)?, window, now)
            }
            Metric::Lifecycle(metric) => {
                metric.answer(self.presence(everything, &none)?, window, now)
            }
            Metric::Stickiness(metric) => {
                let cut = window.cut_periods(metric.grain, now);
                notes.insert("partial_periods".into(), json!(cut));
                metric.answer(&self.presence(inside, &none)?, window)
            }
            Metric::Retention(metric) => self.retention(metric, now)?,
            Metric::FeatureUsage(metric) => {
                let features = &self.engine.store.names().features;
                let mut counts = match metric.breakdown {
                    None if self.states_are_enough() => self.feature_counts(metric.limit)?,
                    _ => self.feature_counts_of_events(metric)?,
                };
                let mut rest = Count::default();
                let named = counts.split_off(&(REST_FEATURE + 1, None));
                for count in std::mem::replace(&mut counts, named).into_values() {
                    rest.merge(count);
                }
                if rest.events > 0 {
                    let rest = json!({"events": rest.events, "users": rest.users.len()});
                    notes.insert("rest".into(), rest);
                }
                metric.answer(counts, |feature| features.text(feature).unwrap_or_default())
            }
            Metric::EventTypes(metric) => metric.answer(match self.states_are_enough() {
                true => self.event_type_counts()?,
                false => {
                    let types = &self.engine.store.names().event_types;
                    let number = |name: &str| types.find(name).unwrap_or(u32::MAX);
                    self.counts(Columns::Counted, number, |events| {
                        counts::counts(events, metric.key(), None)
                    })?
                }
            }),
            Metric::Funnel(metric) => {
                if !metric.exclude.is_empty() {
                    notes.insert("exclusion_rule".into(), json!(EXCLUSION_RULE));
                }
                self.funnel(metric)?
            }
            Metric::Paths(metric) => {
                let (rows, whole) = self.paths(metric)?;
                notes.insert("paths".into(), json!(whole));
                rows
            }
            Metric::Experiment(metric) => self.experiment(metric)?,
        })
    }

    /// First day of the window of which, and of so many days before, all is known that was read.
    fn covered_from(&self, days_before: u16) -> NaiveDate {
        let expiry = self.engine.store.expiry();
        let kept_from = match self.read_events.get() {
            true => expiry.raw_from,
            false => expiry.states_from,
        };
        kept_from.map_or(self.window.first_day(), |day| {
            let day = day + Days::new(u64::from(days_before));
            self.window.first_whole_day_from(day)
        })
    }

    /// Whether the question is about all that happened on days of UTC.
    fn states_are_enough(&self) -> bool {
        self.window.tz() == Tz::UTC && self.filter.is_empty() && self.cohort.is_none()
    }

    /// Whether a user is one that the question is about.
    fn keeps(&self, user: u32) -> bool {
        self.cohort
            .as_ref()
            .is_none_or(|cohort| cohort.contains(user))
    }

    /// Who had an event that meets the filter and `also`, on which of these days of the zone.
    fn presence(&self, days: Range<Day>, also: &Filter) -> Result<Presence> {
        let filter = self.filter.and(also);
        let mut found = Presence::default();
        let known = Known::of(&filter).filter(|_| self.window.tz() == Tz::UTC);
        let is_known = match known {
            Some(known) => self.add_known(&days, &known, &mut found)?,
            None => false,
        };
        match is_known {
            true => {}
            false => {
                found = Presence::default();
                let tz = self.window.tz();
                let features = Filter::only_features(std::iter::once(&filter));
                self.each_batch(
                    &days,
                    &filter,
                    features.as_deref().map_or(Columns::Counted, Columns::Uses),
                    |events| presence(events, tz),
                    |frame| found.read(frame),
                )?;
                if days.start == Day::MIN {
                    self.add_expired_history(&filter, &mut found)?;
                }
            }
        }
        if let Some(cohort) = &self.cohort {
            found.keep(cohort);
        }
        Ok(found)
    }

    /// Adds who was seen before the events that are kept, where states know it: as days of UTC, which is near enough for
    /// whether a user was seen before. Where they do not, the answer says from when the history is known.
    fn add_expired_history(&self, filter: &Filter, found: &mut Presence) -> Result<()> {
        let Some(raw_from) = self.engine.store.expiry().raw_from else {
            return Ok(());
        };
        let Some(known) = Known::of(filter) else {
            self.history_from.set(Some(raw_from));
            return Ok(());
        };
        let end = raw_from
            .to_epoch_days()
            .min(self.window.days_in_epoch().start);
        if !self.add_known(&(Day::MIN..end), &known, found)? {
            self.history_from.set(Some(raw_from));
        }
        Ok(())
    }

    /// Adds who daily states know, on these days of UTC. Whether all of them know it.
    fn add_known(
        &self,
        days: &Range<Day>,
        known: &Known<'_>,
        found: &mut Presence,
    ) -> Result<bool> {
        let names = self.engine.store.names();
        let mut all_know = true;
        self.each_day(
            days,
            |parts| known.users(parts, names),
            |day, users| {
                match users {
                    Some(users) => found.add(day, &users),
                    None => all_know = false,
                }
                Ok(())
            },
        )?;
        Ok(all_know)
    }

    /// Calls `sink` with what `read` makes of each day of a range that has events, in order.
    fn each_day<T: Send>(
        &self,
        days: &Range<Day>,
        read: impl Fn(&DayParts) -> Result<T> + Sync,
        mut sink: impl FnMut(Day, T) -> Result<()>,
    ) -> Result<()> {
        let mut parts = self.engine.store.days(days)?.into_iter();
        pipeline::ordered(
            || Ok(parts.next()),
            |parts| Ok((parts.day, read(&parts)?)),
            |result: Result<(Day, T)>| {
                self.cancel.check()?;
                let (day, made) = result?;
                sink(day, made)
            },
        )
    }

    /// Calls `sink` with what `plan` makes of the events of a range of days of the zone that meet a filter, part by part and in
    /// order. `needed` says what is needed beside what the filter looks at.
    fn each_batch(
        &self,
        days: &Range<Day>,
        filter: &Filter,
        needed: Columns<'_>,
        plan: impl Fn(LazyFrame) -> LazyFrame + Sync,
        mut sink: impl FnMut(&DataFrame) -> Result<()>,
    ) -> Result<()> {
        self.read_events.set(true);
        let range_us = match NaiveDate::from_epoch_days(days.start) {
            Some(first) => self.window.starting(first).range_us(),
            None => i64::MIN..self.window.range_us().end,
        };
        let columns = match needed {
            _ if filter.needs_details() => Columns::All,
            Columns::Uses(_) if !filter.is_about_features() => Columns::Counted,
            needed => needed,
        };
        let mut batches = self.engine.store.batches(range_us, columns)?.into_iter();
        let condition = (!filter.is_empty()).then(|| filter.expr());
        let cancel = self.cancel;
        pipeline::ordered(
            || Ok(batches.next()),
            |batch| {
                cancel.check()?;
                let events = batch.events()?;
                collect(plan(match &condition {
                    None => events,
                    Some(condition) => events.filter(condition.clone()),
                }))
            },
            |made| sink(&made?),
        )
    }

    /// The same for the days of the window.
    fn each_batch_inside(
        &self,
        needed: Columns<'_>,
        plan: impl Fn(LazyFrame) -> LazyFrame + Sync,
        sink: impl FnMut(&DataFrame) -> Result<()>,
    ) -> Result<()> {
        let days = self.window.days_in_epoch();
        self.each_batch(&days, self.filter, needed, plan, sink)
    }

    fn retention(&self, metric: &Retention, now: DateTime<Utc>) -> Result<Table> {
        let inside = self.window.days_in_epoch();
        let starts = match metric.needs_history() {
            true => Day::MIN..inside.end,
            false => inside.clone(),
        };
        let starts = self.presence(starts, &metric.start)?;
        let returns = match metric.start == metric.return_ {
            true => None,
            false => Some(self.presence(inside, &metric.return_)?),
        };
        let sides = Sides {
            starts: &starts,
            returns: returns.as_ref().unwrap_or(&starts),
        };
        Ok(metric.answer(&sides, &self.window, now))
    }

    fn counts(
        &self,
        needed: Columns<'_>,
        number: impl Fn(&str) -> u32,
        plan: impl Fn(LazyFrame) -> LazyFrame + Sync,
    ) -> Result<Counts> {
        let mut found = Counts::default();
        let keep = |user: Option<u32>| match user {
            Some(user) => self.keeps(user),
            None => self.cohort.is_none(),
        };
        self.each_batch_inside(needed, plan, |frame| {
            counts::read(frame, keep, &number, &mut found)
        })?;
        Ok(found)
    }

    /// Events and users per feature, from events.
    fn feature_counts_of_events(&self, metric: &FeatureUsage) -> Result<Counts> {
        let features = &self.engine.store.names().features;
        self.engine.name_features(&self.window)?;
        let number = |name: &str| features.find(name).unwrap_or(REST_FEATURE);
        let group = metric.breakdown.as_ref();
        let details = group.is_some_and(Property::is_detail);
        self.counts(Columns::with_details(details), number, |events| {
            let (events, key, group) = metric.keys(events);
            counts::counts(events, key, group)
        })
    }

    /// Events and users of the most used features and of the rest, from daily states. Which features these are is found by
    /// events alone: the sets of users of all features may be many.
    fn feature_counts(&self, limit: usize) -> Result<Counts> {
        let names = self.engine.store.names();
        let days = self.window.days_in_epoch();
        let mut features = self.engine.store.activities(days.clone())?.features();
        features.remove(&REST_FEATURE);
        let name = |feature| names.features.text(feature).unwrap_or_default();
        let mut wanted: HashSet<u32> = most_used(features.into_iter().collect(), limit, name)
            .into_iter()
            .map(|(feature, _)| feature)
            .collect();
        wanted.insert(REST_FEATURE);
        let mut found = Counts::default();
        self.each_day(
            &days,
            |parts| parts.states(names),
            |_, states| {
                for state in states {
                    for (feature, events) in &state.activity.features {
                        if wanted.contains(feature) {
                            found.entry((*feature, None)).or_default().events += events;
                        }
                    }
                    for (feature, users) in &state.feature_users {
                        if wanted.contains(feature) {
                            found.entry((*feature, None)).or_default().users |= users;
                        }
                    }
                }
                Ok(())
            },
        )?;
        Ok(found)
    }

    /// Events and users per event type, from daily states.
    fn event_type_counts(&self) -> Result<Counts> {
        let names = self.engine.store.names();
        let mut found = Counts::default();
        self.each_day(
            &self.window.days_in_epoch(),
            |parts| parts.states(names),
            |_, states| {
                for state in states {
                    let of_state = state
                        .activity
                        .event_types
                        .iter()
                        .zip(&state.event_type_users);
                    for (number, (&events, users)) in (0..).zip(of_state) {
                        let count = found.entry((number, None)).or_default();
                        count.events += events;
                        count.users |= users;
                    }
                }
                Ok(())
            },
        )?;
        Ok(found)
    }

    fn funnel(&self, metric: &Funnel) -> Result<Table> {
        let rules = metric.rules();
        let mut tally = funnel::Tally::default();
        let mut acts = Acts::default();
        let features = metric.features();
        let needed = match &features {
            Some(features) => Columns::Uses(features),
            None => Columns::with_details(metric.needs_details()),
        };
        self.each_part_of_users(|this, users| {
            let left_out = this.gather(
                users,
                needed,
                |events| metric.acts(events),
                &mut acts,
                |acts, frame, keep| acts.read(frame, keep),
                Acts::sequences,
            )?;
            let mut shares = acts.sequences().shares(SHARES);
            pipeline::ordered(
                || Ok(shares.next()),
                |users| acts.tally(users, &rules),
                |part| {
                    tally.merge(part);
                    Ok(())
                },
            )?;
            *acts.sequences() = Sequences::default();
            Ok(left_out)
        })?;
        Ok(metric.answer(tally))
    }

    fn paths(&self, metric: &Paths) -> Result<(Table, Vec<WholePath>)> {
        let details = metric.start.as_ref().is_some_and(Filter::needs_details);
        let needed = Columns::with_details(details);
        let mut found = Transitions::default();
        let mut visits = Visits::default();
        self.each_part_of_users(|this, users| {
            let left_out = this.gather(
                users,
                needed,
                |events| metric.visits(events),
                &mut visits,
                |visits, frame, keep| visits.read(frame, keep),
                Visits::sequences,
            )?;
            metric.count(&mut visits, &mut found);
            Ok(left_out)
        })?;
        Ok(metric.answer(&visits, found))
    }

    /// Calls `visit` with ranges of user numbers until all users had their turn: it returns the number from which on it left
    /// users out.
    fn each_part_of_users(
        &self,
        mut visit: impl FnMut(&Self, Range<u32>) -> Result<Option<u32>>,
    ) -> Result<()> {
        let mut next = Some(0);
        while let Some(start) = next {
            next = visit(self, start..u32::MAX)?;
        }
        Ok(())
    }

    /// Gathers what a range of users did; if that is too much, of the first of them. Returns the number of the first user
    /// that was left out.
    fn gather<T, S: Timed>(
        &self,
        users: Range<u32>,
        needed: Columns<'_>,
        plan: impl Fn(LazyFrame) -> LazyFrame + Sync,
        found: &mut T,
        read: impl Fn(&mut T, &DataFrame, &dyn Fn(u32) -> bool) -> Result<()>,
        sequences: impl Fn(&mut T) -> &mut Sequences<S>,
    ) -> Result<Option<u32>> {
        let mut left_out = None;
        self.each_batch_inside(needed, plan, |frame| {
            let end = left_out.unwrap_or(users.end);
            let wanted = users.start..end;
            let keep = |user: u32| wanted.contains(&user) && self.keeps(user);
            read(found, frame, &keep)?;
            while sequences(found).len() > MAX_ACTS {
                match sequences(found).keep_lower_half() {
                    Some(bound) => left_out = Some(bound),
                    // One user alone did more: it has to fit.
                    None => break,
                }
            }
            Ok(())
        })?;
        Ok(left_out)
    }

    fn experiment(&self, metric: &Experiment) -> Result<Table> {
        let mut parts = Vec::new();
        let plan = |events| metric.users(events);
        self.each_batch_inside(Columns::All, plan, |frame| {
            parts.push(frame.clone().lazy());
            // One row a user, before there are too many.
            if parts.len() > 8 {
                let merged =
                    Experiment::merge(concat(std::mem::take(&mut parts), Default::default())?);
                parts.push(collect(merged)?.lazy());
            }
            Ok(())
        })?;
        if parts.is_empty() {
            return Ok(metric.answer_to_nothing());
        }
        let users = collect(Experiment::merge(concat(parts, Default::default())?))?;
        let users = match &self.cohort {
            None => users,
            Some(cohort) => {
                let kept = users.column(crate::schema::USER_ID)?.u32()?;
                let kept = kept
                    .iter()
                    .map(|user| user.is_some_and(|user| cohort.contains(user)));
                users.filter(&kept.collect())?
            }
        };
        metric.answer(&collect(Experiment::arms(users.lazy()))?)
    }

    /// The users of a cohort.
    fn cohort(&self, cohort: &Cohort) -> Result<RoaringBitmap> {
        let names = self.engine.store.names();
        if let Some(users) = &cohort.users {
            let ids = users
                .iter()
                .flat_map(|user| self.engine.store.stored_ids(user));
            return Ok(ids.filter_map(|id| names.users.find(&id)).collect());
        }
        let Some(did) = &cohort.did else {
            return Ok(RoaringBitmap::new());
        };
        let filter = did
            .filter()
            .map_err(|message| Error::bad_input("bad_cohort", message))?;
        let inside = self.window.days_in_epoch();
        if did.at_least == 1 {
            // Not limited by the filter of the question: that is about events, this about users.
            let all = Asked {
                filter: &Filter::default(),
                cohort: None,
                read_events: Cell::new(false),
                history_from: Cell::new(None),
                ..*self
            };
            let users = all.presence(inside, &filter)?.users();
            self.read_events
                .set(self.read_events.get() || all.read_events.get());
            return Ok(users);
        }
        let mut tally = cohort::Tally::default();
        self.each_batch(
            &inside,
            &Filter::default(),
            Columns::with_details(filter.needs_details()),
            |events| Did::counts(&filter, events),
            |frame| tally.read(frame),
        )?;
        Ok(tally.users(did.at_least))
    }
}

/// Executes a plan on the streaming engine.
fn collect(plan: LazyFrame) -> Result<DataFrame> {
    Ok(plan
        .collect_with_engine(polars::prelude::Engine::Streaming)?
        .unwrap_single())
}
