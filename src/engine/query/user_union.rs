//! The union of many sets of users.

use roaring::RoaringBitmap;

use crate::daily;

/// Users that a list may have at least, duplicates included.
const MIN_LIST: usize = 1 << 10;
/// A list becomes bits when it has more than one in so many codes: then bits take less than two
/// times its memory, and adding a user is a fraction of sorting it.
const CODES_PER_USER: usize = 64;

/// A union while it is collected: a list of users with duplicates, and bits once there are many. A
/// [`RoaringBitmap`] is merged with each set container by container, which takes several times as
/// long.
#[derive(Debug, Default)]
pub(super) struct UserUnion {
    list: Vec<u32>,
    /// Users in the list when it was sorted last.
    distinct: usize,
    bits: Vec<u64>,
}

impl UserUnion {
    /// Adds users in ascending order.
    pub(super) fn add(&mut self, users: &[u32]) {
        if !self.bits.is_empty() {
            return self.set_bits(users);
        }
        self.list.extend_from_slice(users);
        if self.list.len() > MIN_LIST.max(2 * self.distinct) {
            self.list.sort_unstable();
            self.list.dedup();
            self.distinct = self.list.len();
            let codes = self.list.last().map_or(0, |&last| last as usize + 1);
            if self.distinct > codes / CODES_PER_USER {
                let list = std::mem::take(&mut self.list);
                self.set_bits(&list);
            }
        }
    }

    fn set_bits(&mut self, users: &[u32]) {
        let words = users.last().map_or(0, |&last| last as usize / 64 + 1);
        if words > self.bits.len() {
            self.bits.resize(words, 0);
        }
        for &user in users {
            if let Some(word) = self.bits.get_mut(user as usize / 64) {
                *word |= 1 << (user % 64);
            }
        }
    }

    /// Bytes in memory.
    pub(super) fn bytes(&self) -> u64 {
        let (list, bits) = (self.list.capacity() * 4, self.bits.capacity() * 8);
        (size_of::<Self>() + list + bits) as u64
    }

    /// The users.
    pub(super) fn finish(self) -> RoaringBitmap {
        let bytes: Vec<u8> = self
            .bits
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        match bytes.is_empty() {
            true => daily::set(self.list),
            false => RoaringBitmap::from_lsb0_bytes(0, &bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_union_has_every_user_once(
            sets in prop::collection::vec(
                prop_oneof![
                    prop::collection::btree_set(0_u32..5_000, 0..2_000),
                    prop::collection::btree_set(0_u32..3_000_000, 0..200),
                ],
                0..20,
            ),
        ) {
            let mut union = UserUnion::default();
            for set in &sets {
                union.add(&set.iter().copied().collect::<Vec<u32>>());
            }
            let expected: RoaringBitmap = sets.into_iter().flatten().collect();
            prop_assert_eq!(union.finish(), expected);
        }

        #[test]
        fn few_users_of_many_take_little_memory(days in 1_usize..400) {
            let users: Vec<u32> = (0..500).map(|user| user * 8_000).collect();
            let mut union = UserUnion::default();
            for _ in 0..days {
                union.add(&users);
            }
            prop_assert!(union.bytes() < 16 * 1024, "{} bytes", union.bytes());
            prop_assert_eq!(union.finish().len(), 500);
        }
    }
}
