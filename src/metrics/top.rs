//! The first items of a long list in an order, without sorting all of it.

use std::cmp::Ordering;

use super::source::CancelChecks;
use crate::error::Result;

/// The first `limit` items in an order, sorted.
///
/// # Errors
/// If the query is cancelled.
pub fn first_by<T>(
    items: impl Iterator<Item = T>,
    limit: usize,
    order: impl Fn(&T, &T) -> Ordering,
    checks: &mut CancelChecks<'_>,
) -> Result<Vec<T>> {
    let Some(last) = limit.checked_sub(1) else {
        return Ok(Vec::new());
    };
    let mut kept: Vec<T> = Vec::new();
    // After the first cut, the item at place `last` comes after all others that are kept.
    let mut is_cut = false;
    for item in items {
        checks.step()?;
        if is_cut
            && kept
                .get(last)
                .is_some_and(|last| order(&item, last).is_ge())
        {
            continue;
        }
        kept.push(item);
        if kept.len() >= limit.saturating_mul(2) {
            kept.select_nth_unstable_by(last, &order);
            kept.truncate(limit);
            is_cut = true;
        }
    }
    kept.sort_unstable_by(&order);
    kept.truncate(limit);
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::frame::FrameSource;

    #[test]
    fn the_first_items_are_those_of_the_sorted_list() {
        let source = FrameSource::new("2024-03-01", 1, &[]);
        let mut checks = CancelChecks::new(&source);
        // Every remainder several times, in no order.
        let items: Vec<u64> = (0..500).map(|i| i * 7_919 % 101).collect();
        let mut sorted = items.clone();
        sorted.sort_unstable();
        for limit in [0, 1, 2, 25, 499, 500, 501] {
            let first = first_by(items.iter().copied(), limit, u64::cmp, &mut checks);
            let first = first.expect("not cancelled");
            assert_eq!(
                first,
                sorted.iter().copied().take(limit).collect::<Vec<_>>()
            );
        }
    }
}
