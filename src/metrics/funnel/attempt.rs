//! The search for a user's best attempt at a funnel, over the user's acts in the order of time.
//!
//! Compiled code over sorted columns and not expressions, because an attempt depends on all acts before: the best of all
//! entries is a running state, which no group-by expresses.
//!
//! **Ordered and strict.** For each level the search keeps the latest step 1 of an attempt that reached it and can go on:
//! for what comes later, of two attempts at one level the one that began later is as good or better, because it has more
//! of the conversion window left. Acts of one instant are taken together: within it steps follow each other by their number,
//! and one act fills one step, which is a matching of acts and steps. So a step 1 at the instant of a step 2 never
//! takes the place of the step 1 before it (a scan with one state a level that takes act after act loses that one).
//!
//! **Any order.** The window slides over the instants; the level is the size of the greatest matching of the acts in it
//! and the steps.

use super::matching::Matching;
use super::steps::{MAX_STEPS, Marks};

/// An event that fills a step or is excluded. For [`Order::Strict`] any event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Act {
    /// When, in µs.
    pub ts_us: i64,
    /// Bit `s` for step `s + 1`, bit [`MAX_STEPS`] + `x` for exclusion `x`.
    pub marks: Marks,
    /// Group of the breakdown that the event is in.
    pub group: u32,
}

/// How the steps follow each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// By their number; other events may lie between.
    #[default]
    Ordered,
    /// By their number, and no other event of the user lies between two of them.
    Strict,
    /// In any order, all within the conversion window from the earliest.
    Any,
}

/// An exclusion spoils an attempt if its event lies between these steps, counted from 1: later than the first and earlier
/// than the second or, in an attempt that did not get that far, than its last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Between {
    /// The step after which it counts.
    pub from: usize,
    /// The step before which it counts.
    pub to: usize,
}

/// What an attempt must be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Number of steps.
    pub steps: usize,
    /// How long after step 1 the others count, in µs, included.
    pub within_us: i64,
    /// How they follow each other.
    pub order: Order,
    /// What spoils it.
    pub exclusions: Vec<Between>,
}

/// The best attempt of a user: the greatest level, then the earliest completion, then the latest step 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// When each step was reached that was, in µs: each as early as the rest allows.
    pub times_us: Vec<i64>,
    /// Group of its first event.
    pub group: u32,
}

/// No attempt.
const NONE: i64 = i64::MIN;
/// A place for each level, and for level 0.
type Levels<T> = [T; MAX_STEPS + 1];

const STEPS: Marks = (1 << MAX_STEPS) - 1;

impl Rules {
    /// The best attempt of a user with these acts, which are in the order of time and then of the log.
    pub fn best(&self, acts: &[Act]) -> Option<Attempt> {
        match self.order {
            Order::Ordered | Order::Strict => self.best_in_order(acts),
            Order::Any => self.best_in_any_order(acts),
        }
    }

    fn best_in_order(&self, acts: &[Act]) -> Option<Attempt> {
        let mut starts: Levels<i64> = [NONE; MAX_STEPS + 1];
        let mut best = (0, NONE, NONE);
        for instant in acts.chunk_by(|a, b| a.ts_us == b.ts_us) {
            let Some(now) = instant.first().map(|act| act.ts_us) else {
                continue;
            };
            let mut reached: Levels<i64> = [NONE; MAX_STEPS + 1];
            // Of those, attempts that are not spoiled by what is excluded at this instant.
            let mut unspoiled: Levels<i64> = [NONE; MAX_STEPS + 1];
            let spoiled_from = self.spoiled_from(instant);
            self.advances(instant, |from, to| {
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
        (level > 0).then(|| self.retrace(acts, level, start, end))
    }

    /// For each level the least step after which an event of this instant spoils an attempt at that level; a number above
    /// the level if none does.
    fn spoiled_from(&self, instant: &[Act]) -> Levels<usize> {
        let mut least: Levels<usize> = [usize::MAX; MAX_STEPS + 1];
        let excluded = instant.iter().fold(0, |all, act| all | act.marks) >> MAX_STEPS;
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

    /// Calls `advance` with each pair of levels that an attempt can go up between by the acts of one instant.
    fn advances(&self, instant: &[Act], mut advance: impl FnMut(usize, usize)) {
        if let [act] = instant {
            let mut steps = act.marks & STEPS;
            while steps != 0 {
                let step = steps.trailing_zeros() as usize;
                advance(step, step + 1);
                steps &= steps - 1;
            }
            return;
        }
        for from in 0..self.steps {
            let mut matching = Matching::default();
            instant
                .iter()
                .for_each(|act| matching.add(act.marks & STEPS));
            for step in from..self.steps {
                if !matching.fill(step) {
                    break;
                }
                advance(from, step + 1);
            }
        }
    }

    /// The attempt that begins at `start` and reaches `level` at `end`, each step as early as the rest allows.
    fn retrace(&self, acts: &[Act], level: usize, start: i64, end: i64) -> Attempt {
        let first = acts.partition_point(|act| act.ts_us < start);
        let last = acts.partition_point(|act| act.ts_us <= end);
        let acts = acts.get(first..last).unwrap_or_default();
        let group = acts
            .iter()
            .find(|act| act.marks & 1 != 0)
            .map_or(0, |act| act.group);
        if level == 1 {
            return Attempt {
                times_us: vec![start],
                group,
            };
        }
        // Of each level the attempt that got there first and can go on.
        let mut attempts: Levels<Option<Vec<i64>>> = [const { None }; MAX_STEPS + 1];
        for instant in acts.chunk_by(|a, b| a.ts_us == b.ts_us) {
            let Some(now) = instant.first().map(|act| act.ts_us) else {
                continue;
            };
            let mut reached: Levels<Option<Vec<i64>>> = [const { None }; MAX_STEPS + 1];
            let mut unspoiled: Levels<Option<Vec<i64>>> = [const { None }; MAX_STEPS + 1];
            let spoiled_from = self.spoiled_from(instant);
            self.advances(instant, |from, to| {
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
                return Attempt { times_us, group };
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
        unreachable!("the search found an attempt that begins at {start} and ends at {end}")
    }

    fn best_in_any_order(&self, acts: &[Act]) -> Option<Attempt> {
        let mut best = (0, 0..0);
        let mut window = Matching::default();
        let (mut oldest, mut end) = (0, 0);
        // The last instant with an excluded event: an attempt ends or begins there.
        let mut barrier = NONE;
        for instant in acts.chunk_by(|a, b| a.ts_us == b.ts_us) {
            let Some(now) = instant.first().map(|act| act.ts_us) else {
                continue;
            };
            end += instant.len();
            instant.iter().for_each(|act| window.add(act.marks & STEPS));
            let first_allowed = now.saturating_sub(self.within_us).max(barrier);
            while let Some(act) = acts.get(oldest).filter(|act| act.ts_us < first_allowed) {
                window.remove(act.marks & STEPS);
                oldest += 1;
            }
            let level = window.size(self.steps);
            if level > best.0 {
                best = (level, oldest..end);
                if level == self.steps {
                    break;
                }
            }
            if instant.iter().any(|act| act.marks >> MAX_STEPS != 0) {
                barrier = now;
            }
        }
        let (level, range) = best;
        let acts = acts.get(range)?;
        // From the end back, until all of them match: the latest start there is.
        let mut matching = Matching::default();
        let mut start = NONE;
        let mut found = 0;
        for act in acts.iter().rev() {
            matching.add(act.marks & STEPS);
            if matching.grow(self.steps) {
                found += 1;
                start = act.ts_us;
            }
            if found == level {
                break;
            }
        }
        let acts = acts.get(acts.partition_point(|act| act.ts_us < start)..)?;
        let mut matching = Matching::default();
        let mut times_us = Vec::with_capacity(level);
        for act in acts {
            matching.add(act.marks & STEPS);
            if matching.grow(self.steps) {
                times_us.push(act.ts_us);
            }
        }
        let first = acts.iter().find(|act| act.marks & STEPS != 0)?;
        Some(Attempt {
            times_us,
            group: first.group,
        })
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
