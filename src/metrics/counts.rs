//! Events and distinct users per key: what feature usage and event types are made of.

use std::collections::HashMap;

use roaring::RoaringBitmap;

use super::budget::set_bytes;
use super::filter::Property;
use super::local_dictionary::LocalDictionary;
use super::sharded::table_bytes;

/// The key that events are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key<'a> {
    /// The code of the event type.
    EventType,
    /// The code of the feature and, with a breakdown, the value of that property.
    Feature {
        /// Features beyond the `most` used ones may be missing, except
        /// [`crate::dictionary::REST_FEATURE`].
        most: usize,
        /// The property that groups are made by. Groups beyond the `MAX_GROUPS` with the
        /// most events may be merged.
        breakdown: Option<&'a Property>,
    },
}

/// Events and users of one key and group.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Count {
    /// Events, anonymous ones included.
    pub events: u64,
    /// Known users.
    pub users: RoaringBitmap,
}

impl Count {
    /// Merges another partial count.
    pub fn merge(&mut self, other: Self) {
        self.events += other.events;
        self.users |= other.users;
    }
}

/// Events and users by the code of a key and the code of a group.
#[derive(Debug, Default)]
pub struct Counts {
    /// By key and group.
    pub counts: HashMap<(u32, u32), Count>,
    /// Values of the groups. Without breakdown the only one is null.
    pub groups: LocalDictionary,
    /// Code of the group that all but the ones with the most events were merged into, if they were.
    pub others: Option<u32>,
}

impl Counts {
    /// The count of a key without a group.
    pub fn of_key(&mut self, key: u32) -> &mut Count {
        let group = self.groups.code(None);
        self.counts.entry((key, group)).or_default()
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> u64 {
        let sets = self.counts.values().map(|count| set_bytes(&count.users));
        let table = table_bytes::<((u32, u32), Count)>(self.counts.capacity());
        self.groups.bytes() + table + sets.sum::<u64>()
    }
}
