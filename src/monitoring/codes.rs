//! Counters by a code of the program, such as that of an error.
//!
//! Codes are literals of the program and never parts of a request, so that their number is bounded
//! by its source. A new code needs no entry in a list: it is added when it is counted first.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most codes; more than the program has.
const MAX_CODES: usize = 128;
/// Stands for codes beyond the limit.
const OTHER: &str = "other";

/// Counters by code, without a lock.
#[derive(Debug)]
pub struct Codes {
    slots: Box<[Slot]>,
    others: AtomicU64,
}

#[derive(Debug, Default)]
struct Slot {
    code: OnceLock<&'static str>,
    count: AtomicU64,
}

impl Codes {
    /// Counters that begin with these codes.
    pub fn new(known: &[&'static str]) -> Self {
        let codes = Self {
            slots: std::iter::repeat_with(Slot::default)
                .take(MAX_CODES)
                .collect(),
            others: AtomicU64::new(0),
        };
        for code in known {
            codes.count(code, 0);
        }
        codes
    }

    /// Adds to the counter of a code.
    pub fn count(&self, code: &'static str, count: u64) {
        // The first slot that has the code or is free; another thread may take a free one first.
        let slot = self
            .slots
            .iter()
            .find(|slot| *slot.code.get_or_init(|| code) == code);
        let counter = slot.map_or(&self.others, |slot| &slot.count);
        counter.fetch_add(count, Ordering::Relaxed);
    }

    /// The codes with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counted = self.slots.iter().map_while(|slot| {
            let code = slot.code.get()?;
            Some((*code, slot.count.load(Ordering::Relaxed)))
        });
        let others = self.others.load(Ordering::Relaxed);
        counted.chain((others > 0).then_some((OTHER, others)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_is_counted_once_by_all_threads() {
        let codes = Codes::new(&["known"]);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        codes.count("new", 1);
                        codes.count("newer", 2);
                    }
                });
            }
        });
        let mut counted: Vec<_> = codes.iter().collect();
        counted.sort_unstable();
        assert_eq!(counted, [("known", 0), ("new", 4_000), ("newer", 8_000)]);
    }

    #[test]
    fn codes_beyond_the_limit_are_counted_together() {
        let codes = Codes::new(&[]);
        for number in 0..MAX_CODES + 2 {
            let code: &'static str = Box::leak(format!("code_{number}").into_boxed_str());
            codes.count(code, 1);
        }
        assert_eq!(codes.iter().count(), MAX_CODES + 1);
        assert_eq!(codes.iter().last(), Some((OTHER, 2)));
    }
}
