//! A blocked Bloom filter over hashes: tells, with 15 bits a hash and one cache miss, which hashes
//! are certainly not in a set.
//!
//! F. Putze, P. Sanders, J. Singler: Cache-, Hash- and Space-Efficient Bloom Filters, 2007.

/// Bits for each hash. With [`PROBES`] bits set, about 2 of 1,000 other hashes look like one of the
/// set.
const BITS_PER_HASH: u64 = 15;
/// Bits that are set for a hash.
const PROBES: u32 = 7;
const WORDS: usize = 8;
/// Bits that address a bit of a block.
const BLOCK_SHIFT: u32 = 9;
const BLOCK_BITS: u64 = 1 << BLOCK_SHIFT;
/// An odd number near 2^64 divided by the golden ratio: its product spreads all bits of a hash over
/// the upper ones.
const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;

/// A block: a hash sets bits in one block only. Aligned, so that it is one cache line.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(64))]
struct Block([u64; WORDS]);

/// A filter of a fixed size. Its hashes are numbers of 64 random bits.
#[derive(Debug)]
pub struct Bloom(Vec<Block>);

impl Bloom {
    /// Bytes of a block, by which [`Bloom::write_blocks`] and [`Bloom::read`] work.
    pub const BLOCK_BYTES: usize = size_of::<Block>();

    /// An empty filter for so many hashes.
    pub fn new(hashes: u64) -> Self {
        Self(vec![Block::default(); Self::blocks(hashes) as usize])
    }

    /// Blocks of a filter for so many hashes.
    pub fn blocks(hashes: u64) -> u64 {
        (hashes * BITS_PER_HASH).div_ceil(BLOCK_BITS).max(1)
    }

    /// Adds a hash.
    pub fn insert(&mut self, hash: u64) {
        let (at, bits) = self.place(hash);
        if let Some(Block(words)) = self.0.get_mut(at) {
            for bit in bits {
                if let Some(word) = words.get_mut(bit / 64) {
                    *word |= 1 << (bit % 64);
                }
            }
        }
    }

    /// False if the hash was certainly not added.
    pub fn may_contain(&self, hash: u64) -> bool {
        let (at, mut bits) = self.place(hash);
        self.0.get(at).is_some_and(|Block(words)| {
            bits.all(|bit| {
                let word = words.get(bit / 64);
                word.is_some_and(|word| word >> (bit % 64) & 1 == 1)
            })
        })
    }

    /// The block of a hash, and the bits in it. The block depends on all bits of the hash, so that
    /// the hashes of one block have different ones.
    fn place(&self, hash: u64) -> (usize, impl Iterator<Item = usize> + use<>) {
        let block = u128::from(hash.wrapping_mul(MULTIPLIER)) * self.0.len() as u128;
        let bits = (0..PROBES).map(move |probe| hash >> (probe * BLOCK_SHIFT) & (BLOCK_BITS - 1));
        ((block >> 64) as usize, bits.map(|bit| bit as usize))
    }

    /// Calls `write` with the bytes of each block.
    ///
    /// # Errors
    /// The first error of `write`.
    pub fn write_blocks<E>(&self, mut write: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        self.0
            .iter()
            .try_for_each(|block| write(block.0.map(u64::to_le_bytes).as_flattened()))
    }

    /// The filter for so many hashes whose blocks `read` fills in, in order.
    ///
    /// # Errors
    /// The first error of `read`.
    pub fn read<E>(
        hashes: u64,
        mut read: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut filter = Self::new(hashes);
        for Block(words) in &mut filter.0 {
            let mut bytes = [[0; size_of::<u64>()]; WORDS];
            read(bytes.as_flattened_mut())?;
            *words = bytes.map(u64::from_le_bytes);
        }
        Ok(filter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    const HASHES: u64 = 100_000;

    fn hash(number: u64) -> u64 {
        xxhash_rust::xxh3::xxh3_64(&number.to_le_bytes())
    }

    fn filter() -> Bloom {
        let mut filter = Bloom::new(HASHES);
        (0..HASHES).for_each(|number| filter.insert(hash(number)));
        filter
    }

    #[test]
    fn all_members_are_found_and_few_others() {
        let filter = filter();
        assert!((0..HASHES).all(|number| filter.may_contain(hash(number))));
        let others = HASHES..2 * HASHES;
        let found = others
            .filter(|&number| filter.may_contain(hash(number)))
            .count();
        assert!((50..400).contains(&found), "{found} of {HASHES}");
        assert!(!Bloom::new(0).may_contain(hash(0)));
    }

    #[test]
    fn a_filter_is_the_same_after_it_was_written_and_read() {
        let filter = filter();
        let mut bytes = Vec::new();
        let written: Result<(), ()> = filter.write_blocks(|block| {
            bytes.extend_from_slice(block);
            Ok(())
        });
        assert_eq!(written, Ok(()));
        assert_eq!(
            bytes.len() as u64,
            Bloom::blocks(HASHES) * Bloom::BLOCK_BYTES as u64
        );
        let mut rest = bytes.as_slice();
        let read = Bloom::read(HASHES, |block| {
            let taken = rest.split_off(..block.len()).ok_or("too short")?;
            block.copy_from_slice(taken);
            Ok::<(), &str>(())
        });
        let read = read.expect("it is complete");
        assert!(
            (0..2 * HASHES).all(|number| {
                read.may_contain(hash(number)) == filter.may_contain(hash(number))
            })
        );
    }
}
