//! Counts of the values or keys of events.

use std::collections::HashMap;

/// Bytes of an entry of a [`Counter`] without its name: key, count, and its share of the table.
const ENTRY_BYTES: usize = 64;

/// The kinds of the values of a property.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kinds(u8);

impl Kinds {
    const STRING: Self = Self(1);
    const NUMBER: Self = Self(2);
    const BOOLEAN: Self = Self(4);

    /// The kind of a scalar, given as JSON; none for anything else.
    pub fn of(json: &str) -> Self {
        match json.as_bytes().first() {
            Some(b'"') => Self::STRING,
            Some(b'-' | b'0'..=b'9') => Self::NUMBER,
            Some(b't' | b'f') => Self::BOOLEAN,
            _ => Self::default(),
        }
    }

    /// The kinds of both.
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The kinds as bits, for a file.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// The kinds with these bits.
    pub fn from_bits(bits: u8) -> Self {
        Self(bits & 7)
    }

    /// Their name: `string`, `number`, `boolean`, or `mixed` for several.
    pub fn name(self) -> &'static str {
        match self {
            Self::STRING => "string",
            Self::NUMBER => "number",
            Self::BOOLEAN => "boolean",
            _ => "mixed",
        }
    }
}

/// The events that have a value or a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Number of events.
    pub events: u64,
    /// The kinds of the values.
    pub kinds: Kinds,
}

/// Events by value or key. An event that has one of them several times counts once.
#[derive(Debug, Default)]
pub struct Counter {
    /// Counts, with the number of the last event that was counted.
    counts: HashMap<Box<str>, (Count, u64)>,
    name_bytes: usize,
}

impl Counter {
    /// Counts a value of so many equal events. `event` is their number, which must not be that of
    /// other events; a value that these events have already counts once.
    pub fn add(&mut self, name: &str, kinds: Kinds, event: u64, events: u64) {
        let (count, last) = match self.counts.get_mut(name) {
            Some(known) => known,
            None => {
                self.name_bytes += name.len();
                let none = (Count::default(), u64::MAX);
                self.counts.entry(name.into()).or_insert(none)
            }
        };
        if *last != event {
            *last = event;
            count.events += events;
        }
        count.kinds = count.kinds.union(kinds);
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// True if nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// True if it has a value.
    pub fn has(&self, name: &str) -> bool {
        self.counts.contains_key(name)
    }

    /// Bytes of the names.
    pub fn name_bytes(&self) -> usize {
        self.name_bytes
    }

    /// About the bytes in memory.
    pub fn bytes(&self) -> u64 {
        (self.name_bytes + self.counts.capacity() * ENTRY_BYTES) as u64
    }

    /// The counts, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Count)> {
        let counts = self.counts.iter();
        counts.map(|(name, (count, _))| (&**name, *count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_counts_once_for_each_of_its_values() {
        let mut counter = Counter::default();
        for (event, events, name, json) in [
            (0, 1, "a", "1"),
            (0, 1, "a", "\"1\""),
            (0, 1, "b", "true"),
            (1, 5, "a", "-1"),
        ] {
            counter.add(name, Kinds::of(json), event, events);
        }
        let mut counts: Vec<_> = counter.iter().collect();
        counts.sort_unstable_by_key(|(name, _)| *name);
        let named =
            |(name, count): &(&str, Count)| (name.to_string(), count.events, count.kinds.name());
        let named: Vec<_> = counts.iter().map(named).collect();
        assert_eq!(
            named,
            [("a".into(), 6, "mixed"), ("b".into(), 1, "boolean")]
        );
        assert_eq!((counter.len(), counter.name_bytes()), (2, 2));
    }
}
