//! Counters or histograms for each pair of values of two labels.

use std::marker::PhantomData;

use super::labels::Label;

/// A value for each pair of labels.
#[derive(Debug)]
pub struct Pairs<A, B, T> {
    /// By the first label, and then by the second.
    values: Box<[T]>,
    labels: PhantomData<(A, B)>,
}

impl<A: Label, B: Label, T> Pairs<A, B, T> {
    /// Makes the value of each pair.
    pub fn new(make: impl FnMut() -> T) -> Self {
        let pairs = A::VALUES.len() * B::VALUES.len();
        Self {
            values: std::iter::repeat_with(make).take(pairs).collect(),
            labels: PhantomData,
        }
    }

    /// The value of a pair.
    pub fn at(&self, first: A, second: B) -> Option<&T> {
        let place = first.place() * B::VALUES.len() + second.place();
        self.values.get(place)
    }

    /// The labels of each pair with their values, and its value.
    pub fn iter(&self) -> impl Iterator<Item = ([(&'static str, &'static str); 2], &T)> {
        let pairs = A::VALUES.iter().flat_map(|first| {
            let seconds = B::VALUES.iter();
            seconds.map(|second| [(A::NAME, *first), (B::NAME, *second)])
        });
        pairs.zip(&self.values)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::monitoring::{QueryKind, QuerySource};

    #[test]
    fn each_pair_has_its_own_value_under_its_own_labels() {
        let pairs = Pairs::<QueryKind, QuerySource, AtomicU64>::new(AtomicU64::default);
        let kind = QueryKind::named("retention").expect("a kind");
        let counter = pairs.at(kind, QuerySource::Lake).expect("a counter");
        counter.fetch_add(3, Ordering::Relaxed);
        let counted: Vec<_> = pairs
            .iter()
            .filter(|(_, counter)| counter.load(Ordering::Relaxed) > 0)
            .map(|(labels, _)| labels)
            .collect();
        assert_eq!(counted, [[("metric", "retention"), ("source", "lake")]]);
    }
}
