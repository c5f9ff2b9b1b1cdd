//! The attempts of all users, and the rows for each group and step that follow from them.

use super::attempt::Attempt;
use crate::error::Result;
use crate::metrics::local_dictionary::LocalDictionary;
use crate::metrics::source::{CancelChecks, Source};
use crate::metrics::table::Table;
use crate::metrics::{MAX_GROUPS, OTHER, top};

/// The attempts of all users, in the parts in which they were found: a list of them all would be
/// copied as it grows.
#[derive(Debug, Default)]
pub struct Tally {
    parts: Vec<Attempts>,
}

/// Attempts of some users.
#[derive(Debug, Default)]
pub struct Attempts {
    /// Group and level of each.
    of_users: Vec<(u32, u8)>,
    /// The times of their steps after the first, since that, in µs.
    since_first_us: Vec<i64>,
}

impl Attempts {
    /// Adds the best attempt of a user.
    pub fn add(&mut self, attempt: &Attempt) {
        if let Some((first, later)) = attempt.times_us.split_first() {
            self.of_users
                .push((attempt.group, attempt.times_us.len() as u8));
            let since_first = later.iter().map(|time| time - first);
            self.since_first_us.extend(since_first);
        }
    }

    /// Group of each attempt, with the times of its steps after the first.
    fn iter(&self) -> impl Iterator<Item = (u32, &[i64])> {
        let mut start = 0;
        self.of_users.iter().map(move |&(group, level)| {
            let end = start + usize::from(level) - 1;
            let times = self.since_first_us.get(start..end).unwrap_or_default();
            start = end;
            (group, times)
        })
    }
}

impl Tally {
    /// Adds the attempts of other users.
    pub fn push(&mut self, mut part: Attempts) {
        part.of_users.shrink_to_fit();
        part.since_first_us.shrink_to_fit();
        self.parts.push(part);
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> u64 {
        let parts = self.parts.iter().map(|part| {
            size_of_val(part.of_users.as_slice()) + size_of_val(part.since_first_us.as_slice())
        });
        parts.sum::<usize>() as u64
    }

    fn iter(&self) -> impl Iterator<Item = (u32, &[i64])> {
        self.parts.iter().flat_map(Attempts::iter)
    }

    /// A row for each step of each group: the groups with the most users first, ties by name, and
    /// the others as one. `breakdown` has the names of the groups; without it there is one group.
    ///
    /// # Errors
    /// If the query is cancelled, or its memory is not enough.
    pub fn table(
        &self,
        steps: usize,
        breakdown: Option<&LocalDictionary>,
        source: &dyn Source,
    ) -> Result<Table> {
        let mut checks = CancelChecks::new(source);
        let mut charge = source.budget().charge();
        let groups = breakdown.map_or(1, LocalDictionary::len);
        // The name, the users and the place of each.
        let counts = groups * (size_of::<u64>() + size_of::<u8>());
        charge.set(breakdown.map_or(0, LocalDictionary::bytes) + counts as u64)?;
        let mut users_of = vec![0_u64; groups];
        for (group, _) in self.iter() {
            checks.step()?;
            if let Some(users) = users_of.get_mut(group as usize) {
                *users += 1;
            }
        }
        let all: u64 = users_of.iter().sum();
        let name = |code: u32| breakdown.and_then(|names| names.string(code));
        let most_users_first = |&(a, many): &(u32, u64), &(b, more): &(u32, u64)| {
            more.cmp(&many).then_with(|| name(a).cmp(&name(b)))
        };
        let with_users = (0..).zip(users_of).filter(|&(_, users)| users > 0);
        let first = top::first_by(with_users, MAX_GROUPS, most_users_first, &mut checks)?;
        let mut names: Vec<Option<&str>> = first.iter().map(|&(code, _)| name(code)).collect();
        let mut places = vec![first.len() as u8; groups];
        for (&(code, _), place) in first.iter().zip(0..) {
            if let Some(of_group) = places.get_mut(code as usize) {
                *of_group = place;
            }
        }
        if first.iter().map(|(_, users)| users).sum::<u64>() < all {
            names.push(Some(OTHER));
        } else if names.is_empty() && breakdown.is_none() {
            names.push(None);
        }
        let mut rows = vec![Rows::default(); names.len()];
        for step in 0..steps {
            self.add_step(step, &places, &mut rows, source)?;
        }
        Ok(Rows::table(&rows, &names, breakdown.is_some()))
    }

    /// Adds a row for a step to each group, whose places among the rows are given.
    fn add_step(
        &self,
        step: usize,
        places: &[u8],
        rows: &mut [Rows],
        source: &dyn Source,
    ) -> Result<()> {
        let mut checks = CancelChecks::new(source);
        let mut charge = source.budget().charge();
        let mut durations = vec![Durations::default(); rows.len()];
        let mut reached = 0_u64;
        for (group, times) in self.iter() {
            checks.step()?;
            let place = places.get(group as usize).copied().map(usize::from);
            let Some(of_group) = place.and_then(|place| durations.get_mut(place)) else {
                continue;
            };
            // The first step takes no time.
            let Some(place) = step.checked_sub(1) else {
                of_group.users += 1;
                continue;
            };
            if let Some(&since_first) = times.get(place) {
                let before = place.checked_sub(1).and_then(|place| times.get(place));
                of_group.users += 1;
                of_group.from_first_us.push(since_first);
                let previous = before.copied().unwrap_or(0);
                of_group.from_previous_us.push(since_first - previous);
                reached += 1;
            }
        }
        // The lists grow by doubling.
        charge.set(reached * 4 * size_of::<i64>() as u64)?;
        for (rows, mut of_group) in rows.iter_mut().zip(durations) {
            source.check_cancelled()?;
            rows.push(&mut of_group);
        }
        Ok(())
    }
}

/// Users who reached a step, and how long that took them, in µs.
#[derive(Debug, Clone, Default)]
struct Durations {
    users: u64,
    from_first_us: Vec<i64>,
    from_previous_us: Vec<i64>,
}

/// The columns of one group, a row for each step.
#[derive(Debug, Clone, Default)]
struct Rows {
    users: Vec<u64>,
    from_first: Times,
    from_previous: Times,
}

/// Durations until a step, in seconds.
#[derive(Debug, Clone, Default)]
struct Times {
    mean: Vec<Option<f64>>,
    median: Vec<Option<f64>>,
    p90: Vec<Option<f64>>,
}

impl Rows {
    fn push(&mut self, of_step: &mut Durations) {
        self.users.push(of_step.users);
        self.from_first.push(&mut of_step.from_first_us);
        self.from_previous.push(&mut of_step.from_previous_us);
    }

    /// The rows of all groups, with their names if there is a breakdown.
    fn table(groups: &[Self], names: &[Option<&str>], with_names: bool) -> Table {
        let (mut breakdown, mut steps) = (Vec::new(), Vec::new());
        let (mut of_first, mut of_previous) = (Vec::new(), Vec::new());
        let (mut users, mut drop_off) = (Vec::new(), Vec::new());
        let (mut from_first, mut from_previous) = (Times::default(), Times::default());
        for (group, name) in groups.iter().zip(names) {
            let first = group.users.first().copied().unwrap_or(0);
            let mut previous = first;
            for (step, &reached) in (1_u64..).zip(&group.users) {
                breakdown.push(name.map(str::to_owned));
                steps.push(step);
                users.push(reached);
                of_first.push(ratio(reached, first));
                of_previous.push(ratio(reached, previous));
                drop_off.push(previous - reached);
                previous = reached;
            }
            from_first.extend(&group.from_first);
            from_previous.extend(&group.from_previous);
        }
        let table = if with_names {
            Table::default().with("breakdown", breakdown)
        } else {
            Table::default()
        };
        let table = table
            .with("step", steps)
            .with("users", users)
            .with("conversion_from_first", of_first)
            .with("conversion_from_previous", of_previous)
            .with("drop_off", drop_off);
        let table = from_first.columns(table, "seconds_from_first");
        from_previous.columns(table, "seconds_from_previous")
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

    fn extend(&mut self, other: &Self) {
        self.mean.extend(&other.mean);
        self.median.extend(&other.median);
        self.p90.extend(&other.p90);
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
pub fn quantile(times_us: &mut [i64], share: f64) -> Option<f64> {
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
