//! The attempts of all users by group and step, and the rows that follow from them.

use std::collections::HashMap;

use super::attempt::Attempt;
use crate::error::Result;
use crate::metrics::local_dictionary::LocalDictionary;
use crate::metrics::source::{CancelChecks, Source};
use crate::metrics::table::Table;
use crate::metrics::{MAX_GROUPS, OTHER, top};

/// The attempts of users, by the code of their group.
#[derive(Debug, Default)]
pub struct Tally {
    groups: HashMap<u32, GroupTally>,
}

/// The attempts of one group: for each step the times of the users who reached it, in µs.
#[derive(Debug, Clone, Default)]
struct GroupTally {
    from_first_us: Vec<Vec<i64>>,
    from_previous_us: Vec<Vec<i64>>,
}

impl Tally {
    /// Adds the best attempt of a user.
    pub fn add(&mut self, attempt: &Attempt) {
        let group = self.groups.entry(attempt.group).or_default();
        group.add(&attempt.times_us);
    }

    /// Merges the attempts of other users.
    ///
    /// # Errors
    /// If the query is cancelled.
    pub fn merge(&mut self, other: Self, source: &dyn Source) -> Result<()> {
        let mut checks = CancelChecks::new(source);
        for (code, group) in other.groups {
            checks.step()?;
            self.groups.entry(code).or_default().merge(group);
        }
        Ok(())
    }

    /// A row for each step of each group: the groups with the most users first, ties by name, and
    /// the others as one. `breakdown` has the names of the groups; without it there is one group.
    ///
    /// # Errors
    /// If the query is cancelled.
    pub fn table(
        mut self,
        steps: usize,
        breakdown: Option<&LocalDictionary>,
        source: &dyn Source,
    ) -> Result<Table> {
        let mut checks = CancelChecks::new(source);
        let name = |code: u32| breakdown.and_then(|names| names.string(code));
        let groups = self
            .groups
            .iter()
            .map(|(&code, group)| (code, group.users(0)));
        let most_users_first = |&(a, many): &(u32, u64), &(b, more): &(u32, u64)| {
            more.cmp(&many).then_with(|| name(a).cmp(&name(b)))
        };
        let first = top::first_by(groups, MAX_GROUPS, most_users_first, &mut checks)?;
        let mut rows = Rows::default();
        for (code, _) in &first {
            let group = self.groups.remove(code).unwrap_or_default();
            rows.push_group(name(*code), steps, group, source)?;
        }
        if !self.groups.is_empty() {
            let mut other = GroupTally::default();
            for group in self.groups.into_values() {
                checks.step()?;
                other.merge(group);
            }
            rows.push_group(Some(OTHER), steps, other, source)?;
        }
        if first.is_empty() && breakdown.is_none() {
            rows.push_group(None, steps, GroupTally::default(), source)?;
        }
        Ok(rows.table(breakdown.is_some()))
    }
}

impl GroupTally {
    fn add(&mut self, times_us: &[i64]) {
        let Some(&first) = times_us.first() else {
            return;
        };
        let levels = self.from_first_us.len().max(times_us.len());
        self.from_first_us.resize(levels, Vec::new());
        self.from_previous_us.resize(levels, Vec::new());
        let mut previous = first;
        let times = self
            .from_first_us
            .iter_mut()
            .zip(&mut self.from_previous_us);
        for ((from_first, from_previous), &time) in times.zip(times_us) {
            from_first.push(time - first);
            from_previous.push(time - previous);
            previous = time;
        }
    }

    fn merge(&mut self, other: Self) {
        let levels = self.from_first_us.len().max(other.from_first_us.len());
        self.from_first_us.resize(levels, Vec::new());
        self.from_previous_us.resize(levels, Vec::new());
        for (mine, theirs) in self.from_first_us.iter_mut().zip(other.from_first_us) {
            mine.extend(theirs);
        }
        for (mine, theirs) in self.from_previous_us.iter_mut().zip(other.from_previous_us) {
            mine.extend(theirs);
        }
    }

    fn users(&self, step: usize) -> u64 {
        self.from_first_us.get(step).map_or(0, Vec::len) as u64
    }
}

/// The columns of the result.
#[derive(Default)]
struct Rows {
    groups: Vec<Option<String>>,
    steps: Vec<u64>,
    users: Vec<u64>,
    of_first: Vec<f64>,
    of_previous: Vec<f64>,
    drop_off: Vec<u64>,
    from_first: Times,
    from_previous: Times,
}

/// Durations until a step, in seconds.
#[derive(Default)]
struct Times {
    mean: Vec<Option<f64>>,
    median: Vec<Option<f64>>,
    p90: Vec<Option<f64>>,
}

impl Rows {
    fn push_group(
        &mut self,
        name: Option<&str>,
        steps: usize,
        mut group: GroupTally,
        source: &dyn Source,
    ) -> Result<()> {
        for step in 0..steps {
            source.check_cancelled()?;
            self.push(name, step, &mut group);
        }
        Ok(())
    }

    fn push(&mut self, name: Option<&str>, step: usize, group: &mut GroupTally) {
        let (first, users) = (group.users(0), group.users(step));
        let previous = step
            .checked_sub(1)
            .map_or(users, |before| group.users(before));
        self.groups.push(name.map(str::to_owned));
        self.steps.push(step as u64 + 1);
        self.users.push(users);
        self.of_first.push(ratio(users, first));
        self.of_previous.push(ratio(users, previous));
        self.drop_off.push(previous - users);
        // The first step takes no time.
        let times = |times: &mut Times, of: &mut Vec<Vec<i64>>| match of.get_mut(step) {
            Some(of_step) if step > 0 => times.push(of_step),
            _ => times.push(&mut []),
        };
        times(&mut self.from_first, &mut group.from_first_us);
        times(&mut self.from_previous, &mut group.from_previous_us);
    }

    fn table(self, with_groups: bool) -> Table {
        let table = if with_groups {
            Table::default().with("breakdown", self.groups)
        } else {
            Table::default()
        };
        let table = table
            .with("step", self.steps)
            .with("users", self.users)
            .with("conversion_from_first", self.of_first)
            .with("conversion_from_previous", self.of_previous)
            .with("drop_off", self.drop_off);
        let table = self.from_first.columns(table, "seconds_from_first");
        self.from_previous.columns(table, "seconds_from_previous")
    }
}

impl Times {
    fn push(&mut self, times_us: &mut [i64]) {
        let sum: i128 = times_us.iter().map(|&us| i128::from(us)).sum();
        let mean = (!times_us.is_empty()).then(|| sum as f64 / times_us.len() as f64 / 1e6);
        self.mean.push(mean);
        self.median.push(quantile(times_us, 0.5));
        self.p90.push(quantile(times_us, 0.9));
    }

    fn columns(self, table: Table, group: &'static str) -> Table {
        table
            .with_in(group, "mean", self.mean)
            .with_in(group, "median", self.median)
            .with_in(group, "p90", self.p90)
    }
}

/// A quantile of durations, interpolated between its neighbours, in seconds. Changes the order of
/// the durations.
fn quantile(times_us: &mut [i64], share: f64) -> Option<f64> {
    let position = share * times_us.len().checked_sub(1)? as f64;
    let (_, &mut below, greater) = times_us.select_nth_unstable(position.floor() as usize);
    let above = greater.iter().min().copied().unwrap_or(below);
    let (below, above) = (below as f64, above as f64);
    Some((below + (above - below) * position.fract()) / 1e6)
}

fn ratio(part: u64, all: u64) -> f64 {
    match all {
        0 => 0.0,
        all => part as f64 / all as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_interpolated_like_numpy() {
        // numpy.quantile([0, 1, 1_800, 86_400], q): position 1.5 and 2.7.
        let mut times: Vec<i64> = [86_400, 1, 0, 1_800].map(|s: i64| s * 1_000_000).into();
        assert_eq!(quantile(&mut times, 0.5), Some(900.5));
        let p90 = quantile(&mut times, 0.9).expect("times");
        assert!((p90 - 61_020.0).abs() < 1e-9, "{p90}");
        assert_eq!(quantile(&mut [7_000_000], 0.9), Some(7.0));
        assert_eq!(quantile(&mut [], 0.5), None);
    }
}
