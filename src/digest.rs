//! 128-bit digests that stand for ids, so that the ids themselves need not be kept in memory.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use xxhash_rust::xxh3::xxh3_128_with_seed;

/// A 128-bit digest of an id. The chance that two ids of one process share a digest is below one in
/// a trillion trillion.
///
/// Two halves and not a `u128`, whose alignment would make each entry of a [`DigestMap`] of `i64`
/// a third larger. The first half is the low one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest([u64; 2]);

/// A map from digests to values.
pub type DigestMap<T> = HashMap<Digest, T, BuildHasherDefault<DigestHasher>>;

/// A set of digests.
pub type DigestSet = HashSet<Digest, BuildHasherDefault<DigestHasher>>;

impl Digest {
    /// The high half of the digest, which is not the hash in a [`DigestMap`]: for choosing a shard.
    pub fn place(self) -> usize {
        self.0[1] as usize
    }

    /// The low half of the digest, which is the hash in a [`DigestMap`].
    pub fn hash(self) -> u64 {
        self.0[0]
    }

    /// The digest as one number; the high half is the high one.
    pub fn number(self) -> u128 {
        let [low, high] = self.0.map(u128::from);
        high << 64 | low
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [low, high] = self.0;
        write!(out, "{high:016x}{low:016x}")
    }
}

impl std::hash::Hash for Digest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0[0]);
    }
}

/// Computes digests. Its seed is secret and random, so that a client cannot craft two ids with the
/// same digest.
#[derive(Debug, Clone, Copy)]
pub struct Digester {
    seed: u64,
}

impl Digester {
    /// A digester with a new random seed.
    pub fn new() -> Self {
        // Without random bytes from the operating system the seed can be guessed. A client that
        // guesses it can only make its own events collide.
        Self::with_seed(getrandom::u64().unwrap_or(0x9E37_79B9_7F4A_7C15))
    }

    /// A digester whose digests are those of another one with this seed.
    pub fn with_seed(seed: u64) -> Self {
        Self { seed }
    }

    /// The seed.
    pub fn seed(self) -> u64 {
        self.seed
    }

    /// A digester whose digests are the same in every process, for results that are stored.
    pub fn fixed() -> Self {
        Self { seed: 0 }
    }

    /// The digest of an id.
    pub fn digest(self, id: &str) -> Digest {
        self.of_bytes(id.as_bytes())
    }

    /// The digest of a list of optional strings, whose order matters.
    pub fn digest_all<const N: usize>(self, strings: [Option<&str>; N]) -> Digest {
        // The digests of the strings are hashed, not the strings: they all have one length, so that
        // two different lists never have the same bytes.
        let digests = strings.map(|string| string.map_or([0; 2], |string| self.digest(string).0));
        let bytes = digests.map(|digest| digest.map(u64::to_le_bytes));
        self.of_bytes(bytes.as_flattened().as_flattened())
    }

    fn of_bytes(self, bytes: &[u8]) -> Digest {
        let digest = xxh3_128_with_seed(bytes, self.seed);
        Digest([digest as u64, (digest >> 64) as u64])
    }
}

impl Default for Digester {
    fn default() -> Self {
        Self::new()
    }
}

/// Uses the low half of a digest as its hash, because a digest is random already.
#[derive(Default)]
pub struct DigestHasher(u64);

impl Hasher for DigestHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, half: u64) {
        self.0 = half;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_that_differ_in_a_missing_empty_or_split_string_have_different_digests() {
        let digester = Digester::new();
        let lists = [
            [None, None],
            [Some(""), None],
            [None, Some("")],
            [Some(""), Some("")],
            [Some("ab"), Some("c")],
            [Some("a"), Some("bc")],
            [Some("abc"), None],
            [None, Some("abc")],
        ];
        let digests: HashSet<Digest> = lists.map(|list| digester.digest_all(list)).into();
        assert_eq!(digests.len(), lists.len());
        assert_eq!(
            digester.digest_all([Some("a"), None]),
            digester.digest_all([Some("a"), None])
        );
    }

    /// They are stored with rollups, and their order decides which features a rebuild counts by
    /// name.
    #[test]
    fn fixed_digests_never_change() {
        let fixed = Digester::fixed();
        let (one, list) = (
            fixed.digest("dashboard"),
            fixed.digest_all([Some("ab"), None]),
        );
        assert_eq!(one.to_string(), "0741817be61ed82dbf06c1d4a202348a");
        assert_eq!(list.to_string(), "f40379e5aa9adb878f17e70fbd24d857");
        assert!(one > list, "the low half counts first");
    }
}
