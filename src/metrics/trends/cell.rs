//! Partial results of a series, which are merged in any order.

use std::collections::HashMap;

use roaring::RoaringBitmap;

use super::Measured;
use crate::metrics::budget::set_bytes;
use crate::metrics::sharded::table_bytes;

/// A partial result of one series.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Events, or sessions.
    Events(u64),
    /// Events and their known users.
    Users(u64, RoaringBitmap),
    /// Numbers of events.
    Numbers(Box<Numbers>),
}

/// Numbers of which any measure is computed, whatever their order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Numbers {
    count: u64,
    sum: ExactSum,
    min: f64,
    max: f64,
    /// Occurrences of each number, by its bits, for quantiles; else empty.
    counts: HashMap<u64, u64>,
}

impl Cell {
    /// Merges another result of the series.
    pub fn merge(&mut self, other: &Self) {
        match (self, other) {
            (Self::Events(events), Self::Events(more)) => *events += more,
            (Self::Users(events, users), Self::Users(more, others)) => {
                *events += more;
                *users |= others;
            }
            (Self::Numbers(numbers), Self::Numbers(others)) => numbers.merge(others),
            // Cells of one series are of one kind.
            _ => {}
        }
    }

    /// Bytes in memory that it points to.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Events(_) => 0,
            Self::Users(_, users) => set_bytes(users),
            Self::Numbers(numbers) => {
                let counts = table_bytes::<(u64, u64)>(numbers.counts.capacity());
                let sum = numbers.sum.0.capacity() * size_of::<f64>();
                counts + (sum + size_of::<Numbers>()) as u64
            }
        }
    }

    /// The value of a measure, `None` for null.
    pub fn value(&self, measure: Measured) -> Option<f64> {
        match self {
            Self::Events(events) => Some(*events as f64),
            Self::Users(events, users) => match measure {
                Measured::Users => Some(users.len() as f64),
                _ if users.is_empty() => None,
                _ => Some(*events as f64 / users.len() as f64),
            },
            Self::Numbers(numbers) => numbers.value(measure),
        }
    }
}

/// The value of a measure where there is no event.
pub fn empty_value(measure: Measured) -> Option<f64> {
    match measure {
        Measured::Events | Measured::Users | Measured::Sessions | Measured::Sum => Some(0.0),
        _ => None,
    }
}

impl Numbers {
    /// Adds a number `count` times.
    pub fn add(&mut self, number: f64, count: u64, measure: Measured) {
        if count == 0 {
            return;
        }
        // One zero: -0.0 has other bits.
        let number = number + 0.0;
        if self.count == 0 {
            (self.min, self.max) = (number, number);
        }
        self.count += count;
        self.min = self.min.min(number);
        self.max = self.max.max(number);
        self.sum.add_product(number, count as f64);
        if measure.quantile().is_some() {
            *self.counts.entry(number.to_bits()).or_default() += count;
        }
    }

    fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        if self.count == 0 {
            (self.min, self.max) = (other.min, other.max);
        }
        self.count += other.count;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        for part in &other.sum.0 {
            self.sum.add(*part);
        }
        for (number, count) in &other.counts {
            *self.counts.entry(*number).or_default() += count;
        }
    }

    fn value(&self, measure: Measured) -> Option<f64> {
        if self.count == 0 {
            return empty_value(measure);
        }
        let value = match measure {
            Measured::Sum => self.sum.value(),
            Measured::Mean => self.sum.value() / self.count as f64,
            Measured::Min => self.min,
            Measured::Max => self.max,
            _ => self.quantile(measure.quantile()?)?,
        };
        // Sums beyond the greatest double have no value.
        value.is_finite().then_some(value)
    }

    /// A quantile, interpolated between its neighbours as in `percentile_cont`.
    fn quantile(&self, share: f64) -> Option<f64> {
        let counts = self.counts.iter();
        let mut sorted: Vec<(f64, u64)> = counts
            .map(|(bits, count)| (f64::from_bits(*bits), *count))
            .collect();
        sorted.sort_unstable_by(|(a, _), (b, _)| a.total_cmp(b));
        let position = share * self.count.checked_sub(1)? as f64;
        let (below, above) = (position.floor() as u64, position.ceil() as u64);
        let mut end = 0;
        let mut found = None;
        for (number, count) in sorted {
            end += count;
            if found.is_none() && below < end {
                found = Some(number);
            }
            if above < end {
                let below = found?;
                return Some(below + (number - below) * position.fract());
            }
        }
        found
    }
}

/// A sum of doubles without rounding errors, so that it does not depend on the order: parts that do
/// not overlap, the least first (Shewchuk 1997, as `math.fsum` of Python).
#[derive(Debug, Clone, Default)]
pub struct ExactSum(Vec<f64>);

impl PartialEq for ExactSum {
    fn eq(&self, other: &Self) -> bool {
        self.value() == other.value()
    }
}

impl ExactSum {
    fn add(&mut self, mut number: f64) {
        self.0.retain_mut(|part| {
            let (great, small) = if number.abs() < part.abs() {
                (*part, number)
            } else {
                (number, *part)
            };
            number = great + small;
            *part = small - (number - great);
            *part != 0.0
        });
        self.0.push(number);
    }

    /// Adds a product, which is the sum of two doubles.
    fn add_product(&mut self, number: f64, times: f64) {
        let product = number * times;
        self.add(product);
        let error = number.mul_add(times, -product);
        if error != 0.0 {
            self.add(error);
        }
    }

    /// The double that is nearest to the sum.
    fn value(&self) -> f64 {
        let mut parts = self.0.iter().rev().copied();
        let mut sum = parts.next().unwrap_or(0.0);
        let mut error = 0.0;
        for part in parts.by_ref() {
            let before = sum;
            sum = before + part;
            error = part - (sum - before);
            if error != 0.0 {
                break;
            }
        }
        // Half of the last place is rounded by the sign of what follows.
        if parts.next().is_some_and(|next| next * error > 0.0) {
            let doubled = error * 2.0;
            let rounded = sum + doubled;
            if doubled == rounded - sum {
                sum = rounded;
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(list: &[f64]) -> Numbers {
        let mut numbers = Numbers::default();
        for number in list {
            numbers.add(*number, 1, Measured::Median);
        }
        numbers
    }

    #[test]
    fn a_sum_does_not_depend_on_the_order_and_is_the_nearest_double() {
        // 0.1 ten times is 1, and the great numbers cancel each other.
        let mut list = vec![1e100, 0.1, -1e100];
        list.extend([0.1; 9]);
        assert_eq!(numbers(&list).value(Measured::Sum), Some(1.0));
        list.reverse();
        assert_eq!(numbers(&list).value(Measured::Sum), Some(1.0));
        let mut ten = Numbers::default();
        ten.add(0.1, 10, Measured::Sum);
        assert_eq!(ten.value(Measured::Sum), Some(1.0));
        assert_eq!(numbers(&[f64::MAX, f64::MAX]).value(Measured::Sum), None);
    }

    #[test]
    fn quantiles_are_interpolated_like_numpy() {
        // numpy.quantile([1, 2, 2, 10], [.5, .9, .95, .99]) = 2, 7.6, 8.8, 9.76
        let mut found = numbers(&[10.0, 2.0]);
        found.merge(&numbers(&[2.0, 1.0]));
        for (measure, expected) in [
            (Measured::Median, 2.0),
            (Measured::P90, 7.6),
            (Measured::P95, 8.8),
            (Measured::P99, 9.76),
            (Measured::Min, 1.0),
            (Measured::Max, 10.0),
            (Measured::Mean, 3.75),
        ] {
            let value = found.value(measure).expect("a value");
            assert!((value - expected).abs() < 1e-9, "{measure:?} is {value}");
        }
        assert_eq!(numbers(&[7.0]).value(Measured::P99), Some(7.0));
        assert_eq!(Numbers::default().value(Measured::Median), None);
        assert_eq!(Numbers::default().value(Measured::Sum), Some(0.0));
    }
}
