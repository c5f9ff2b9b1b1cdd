//! Division of a hash table into shards. A table that grows moves all its entries at once; with
//! millions of entries in one table that would delay its users by a tenth of a second. Resizing one
//! shard is too short to matter.

use std::sync::LazyLock;

use crate::digest::Digest;

/// Number of shards.
pub const SHARDS: usize = 256;
/// Slots over which digests are spread evenly; each belongs to one shard.
const SLOTS: usize = 4_096;

/// The shard of each slot. The shares of the shards are a geometric series from 1 to 2, so that
/// they are resized one after the other while a table doubles; equal shards would all be resized at
/// the same time.
static SHARD_OF_SLOT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let share = |slot| 1.0 + slot as f64 / SLOTS as f64;
    (0..SLOTS)
        .map(|slot| (SHARDS as f64 * share(slot).log2()) as u8)
        .collect()
});

/// The shard of a digest, by the half that is not the hash within the shard.
pub fn shard_of(digest: Digest) -> usize {
    let shard = SHARD_OF_SLOT.get(digest.place() % SLOTS);
    shard.copied().map_or(0, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digester;

    #[test]
    fn every_shard_is_used_and_the_last_about_half_as_much_as_the_first() {
        let digester = Digester::fixed();
        let mut counts = [0_u32; SHARDS];
        for number in 0..1_000_000 {
            counts[shard_of(digester.digest(&number.to_string()))] += 1;
        }
        let sum = |shards: &[u32]| f64::from(shards.iter().sum::<u32>());
        assert!(counts.iter().all(|&count| count > 2_000));
        let ratio = sum(&counts[SHARDS - 32..]) / sum(&counts[..32]);
        assert!((1.7..2.0).contains(&ratio), "{ratio}");
    }
}
