//! The search for a user's best attempt at a funnel, over the user's step events in the order of
//! time.
//!
//! Compiled code over sorted columns and not expressions, because an attempt depends on all events
//! before: the best of all entries is a running state, which no group-by expresses.
//!
//! **Ordered and strict.** For each level the search keeps the latest step 1 of an attempt that
//! reached it and can go on: for later events, of two attempts at one level the one that began
//! later is as good or better, because it has more of the conversion window left. Events of one
//! timestamp are taken together: among them steps follow each other by their number, and one event
//! fills one step, which is a matching of events and steps. So a step 1 at the timestamp of a step
//! 2 never replaces the step 1 before it (a scan with one state a level that takes event after
//! event loses that one).
//!
//! **Any order.** The window slides over the timestamps; the level is the size of the greatest
//! matching of the events in it and the steps.

use std::ops::RangeInclusive;

use super::matching::Matching;
use super::steps::{MAX_STEPS, StepMask};
use crate::error::Result;

/// Checks whether the search is to continue.
pub type Check<'a> = &'a mut dyn FnMut() -> Result<()>;

/// An event that fills a step or is excluded. For [`Order::Strict`] any event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepEvent {
    /// Its time in µs.
    pub ts_us: i64,
    /// The steps that it may fill and the exclusions that it meets.
    pub steps: StepMask,
    /// Code of its group of the breakdown.
    pub group: u32,
}

/// The order of the steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// By their number; other events may lie between them.
    #[default]
    Ordered,
    /// By their number, and no other event of the user lies between two of them.
    Strict,
    /// In any order, all within the conversion window from the earliest.
    Any,
}

/// An exclusion spoils an attempt if its event lies between these steps, counted from 1: later than
/// the first and earlier than the second or, in an attempt that did not get that far, than its
/// last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Between {
    /// The step after which it counts.
    pub from: usize,
    /// The step before which it counts.
    pub to: usize,
}

/// The rules of a valid attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Number of steps.
    pub steps: usize,
    /// Conversion window: the time after step 1 in which the others count, in µs, inclusive.
    pub within_us: i64,
    /// The order of the steps.
    pub order: Order,
    /// The exclusions that spoil it.
    pub exclusions: Vec<Between>,
}

/// The best attempt of a user: the greatest level, then the earliest completion, then the latest
/// step 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The time of each step that was reached, in µs: each as early as the rest allows.
    pub times_us: Vec<i64>,
    /// Group of its first event.
    pub group: u32,
}

/// The start of no attempt.
const NONE: i64 = i64::MIN;
/// A value for each level from 0.
type Levels<T> = [T; MAX_STEPS + 1];

const STEPS: StepMask = (1 << MAX_STEPS) - 1;

impl Rules {
    /// The best attempt of a user with these events, which are in the order of time and then of the
    /// log. Calls `check` for each timestamp.
    ///
    /// # Errors
    /// The first error of `check`.
    pub fn best(&self, events: &[StepEvent], check: Check<'_>) -> Result<Option<Attempt>> {
        match self.order {
            Order::Ordered | Order::Strict => self.best_in_order(events, check),
            Order::Any => self.best_in_any_order(events, check),
        }
    }

    fn best_in_order(&self, events: &[StepEvent], check: Check<'_>) -> Result<Option<Attempt>> {
        let mut starts: Levels<i64> = [NONE; MAX_STEPS + 1];
        let mut best = (0, NONE, NONE);
        for tied in events.chunk_by(|a, b| a.ts_us == b.ts_us) {
            check()?;
            let Some(now) = tied.first().map(|event| event.ts_us) else {
                continue;
            };
            let mut reached: Levels<i64> = [NONE; MAX_STEPS + 1];
            // Of these, the attempts that no excluded event of this timestamp spoils.
            let mut unspoiled: Levels<i64> = [NONE; MAX_STEPS + 1];
            let spoiled_from = self.spoiled_from(tied);
            self.advances(tied, |from, to| {
                let start = match from {
                    0 => now,
                    from => match starts.get(from) {
                        Some(&start) if start != NONE && now - start <= self.within_us => start,
                        _ => return,
                    },
                };
                raise(&mut reached, to, start);
                if spoiled_from.get(to).is_none_or(|&least| from < least) {
                    raise(&mut unspoiled, to, start);
                }
            });
            let mut levels = reached.iter().take(self.steps + 1);
            let highest = levels.rposition(|&start| start != NONE);
            if let Some(level) = highest.filter(|&level| level > best.0) {
                best = (level, now, reached.get(level).copied().unwrap_or(NONE));
                if level == self.steps {
                    break;
                }
            }
            for (level, start) in starts.iter_mut().enumerate().take(self.steps + 1) {
                let is_spoiled = spoiled_from.get(level).is_some_and(|&least| least <= level);
                if is_spoiled || self.order == Order::Strict {
                    *start = NONE;
                }
                *start = (*start).max(unspoiled.get(level).copied().unwrap_or(NONE));
            }
        }
        let (level, end, start) = best;
        if level == 0 {
            return Ok(None);
        }
        let attempt = self.retrace(events, level, start..=end, check)?;
        debug_assert!(attempt.is_some(), "an attempt from {start} to {end}");
        Ok(attempt)
    }

    /// For each level the least step after which an event of this timestamp spoils an attempt at
    /// that level; more than the level if none does.
    fn spoiled_from(&self, tied: &[StepEvent]) -> Levels<usize> {
        let mut least: Levels<usize> = [usize::MAX; MAX_STEPS + 1];
        let excluded = tied.iter().fold(0, |all, event| all | event.steps) >> MAX_STEPS;
        if excluded == 0 {
            return least;
        }
        for (bit, between) in self.exclusions.iter().enumerate() {
            if excluded & (1 << bit) != 0 {
                for least in least.iter_mut().take(between.to).skip(between.from) {
                    *least = (*least).min(between.from);
                }
            }
        }
        least
    }

    /// Calls `advance` with each pair of levels between which the events of one timestamp can take
    /// an attempt.
    fn advances(&self, tied: &[StepEvent], mut advance: impl FnMut(usize, usize)) {
        if let [event] = tied {
            let mut steps = event.steps & STEPS;
            while steps != 0 {
                let step = steps.trailing_zeros() as usize;
                advance(step, step + 1);
                steps &= steps - 1;
            }
            return;
        }
        let mut all = Matching::default();
        tied.iter().for_each(|event| all.add(event.steps & STEPS));
        for from in 0..self.steps {
            let mut matching = all.clone();
            for step in from..self.steps {
                if !matching.fill(step) {
                    break;
                }
                advance(from, step + 1);
            }
        }
    }

    /// The attempt that begins at the start of `times` and reaches `level` at their end, each step
    /// as early as the rest allows; `None` if there is none.
    fn retrace(
        &self,
        events: &[StepEvent],
        level: usize,
        times: RangeInclusive<i64>,
        check: Check<'_>,
    ) -> Result<Option<Attempt>> {
        let (start, end) = times.into_inner();
        let first = events.partition_point(|event| event.ts_us < start);
        let last = events.partition_point(|event| event.ts_us <= end);
        let events = events.get(first..last).unwrap_or_default();
        let group = events
            .iter()
            .find(|event| event.steps & 1 != 0)
            .map_or(0, |event| event.group);
        if level == 1 {
            return Ok(Some(Attempt {
                times_us: vec![start],
                group,
            }));
        }
        // For each level the first attempt that reached it and can go on.
        let mut attempts: Levels<Option<Vec<i64>>> = [const { None }; MAX_STEPS + 1];
        for tied in events.chunk_by(|a, b| a.ts_us == b.ts_us) {
            check()?;
            let Some(now) = tied.first().map(|event| event.ts_us) else {
                continue;
            };
            let mut reached: Levels<Option<Vec<i64>>> = [const { None }; MAX_STEPS + 1];
            let mut unspoiled: Levels<Option<Vec<i64>>> = [const { None }; MAX_STEPS + 1];
            let spoiled_from = self.spoiled_from(tied);
            self.advances(tied, |from, to| {
                let is_kept = attempts.get(to).is_some_and(Option::is_some)
                    && self.order != Order::Strict
                    && spoiled_from.get(to).is_none_or(|&least| least > to);
                if to > level || (to == level && now != end) || (to < level && is_kept) {
                    return;
                }
                let mut times = match (from, attempts.get(from)) {
                    (0, _) if now == start => Vec::with_capacity(level),
                    (1.., Some(Some(times))) => times.clone(),
                    _ => return,
                };
                times.resize(to, now);
                if spoiled_from.get(to).is_none_or(|&least| from < least) {
                    keep_earlier(&mut unspoiled, to, &times);
                }
                keep_earlier(&mut reached, to, &times);
            });
            if now == end
                && let Some(times_us) = reached.get_mut(level).and_then(Option::take)
            {
                return Ok(Some(Attempt { times_us, group }));
            }
            for (at, attempt) in attempts.iter_mut().enumerate() {
                let is_spoiled = spoiled_from.get(at).is_some_and(|&least| least <= at);
                if is_spoiled || self.order == Order::Strict {
                    *attempt = None;
                }
                if attempt.is_none() {
                    *attempt = unspoiled.get_mut(at).and_then(Option::take);
                }
            }
        }
        Ok(None)
    }

    fn best_in_any_order(&self, events: &[StepEvent], check: Check<'_>) -> Result<Option<Attempt>> {
        let mut best = (0, 0..0);
        let mut window = Matching::default();
        let (mut oldest, mut end) = (0, 0);
        // The last timestamp with an excluded event: an attempt ends or begins there.
        let mut barrier = NONE;
        for tied in events.chunk_by(|a, b| a.ts_us == b.ts_us) {
            check()?;
            let Some(now) = tied.first().map(|event| event.ts_us) else {
                continue;
            };
            end += tied.len();
            tied.iter()
                .for_each(|event| window.add(event.steps & STEPS));
            let first_allowed = now.saturating_sub(self.within_us).max(barrier);
            while let Some(event) = events
                .get(oldest)
                .filter(|event| event.ts_us < first_allowed)
            {
                window.remove(event.steps & STEPS);
                oldest += 1;
            }
            let level = window.size(self.steps);
            if level > best.0 {
                best = (level, oldest..end);
                if level == self.steps {
                    break;
                }
            }
            if tied.iter().any(|event| event.steps >> MAX_STEPS != 0) {
                barrier = now;
            }
        }
        let (level, range) = best;
        let events = events.get(range).unwrap_or_default();
        // From the end back, until all of them match: the latest possible start.
        let mut matching = Matching::default();
        let mut start = NONE;
        let mut found = 0;
        for event in events.iter().rev() {
            check()?;
            matching.add(event.steps & STEPS);
            if matching.grow(self.steps) {
                found += 1;
                start = event.ts_us;
            }
            if found == level {
                break;
            }
        }
        let first = events.partition_point(|event| event.ts_us < start);
        let events = events.get(first..).unwrap_or_default();
        let mut matching = Matching::default();
        let mut times_us = Vec::with_capacity(level);
        for event in events {
            check()?;
            matching.add(event.steps & STEPS);
            if matching.grow(self.steps) {
                times_us.push(event.ts_us);
            }
        }
        let first = events.iter().find(|event| event.steps & STEPS != 0);
        Ok(first.map(|first| Attempt {
            times_us,
            group: first.group,
        }))
    }
}

fn raise(levels: &mut Levels<i64>, level: usize, start: i64) {
    if let Some(latest) = levels.get_mut(level) {
        *latest = (*latest).max(start);
    }
}

fn keep_earlier(levels: &mut Levels<Option<Vec<i64>>>, level: usize, times: &[i64]) {
    if let Some(kept) = levels.get_mut(level)
        && kept.as_deref().is_none_or(|kept| times < kept)
    {
        *kept = Some(times.to_vec());
    }
}
