//! Digests of ids, by which they are known without their text.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use xxhash_rust::xxh3::xxh3_128_with_seed;

/// A 128-bit digest of an id. Two ids that a process meets have one digest with a chance below one in a trillion trillion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest([u64; 2]);

/// Values by digests.
pub type DigestMap<T> = HashMap<Digest, T, BuildHasherDefault<DigestHasher>>;

/// Digests without values.
pub type DigestSet = HashSet<Digest, BuildHasherDefault<DigestHasher>>;

impl Digest {
    /// A part of the digest that [`DigestMap`] does not use.
    pub fn place(self) -> usize {
        self.0[1] as usize
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

/// Makes digests. Its seed is secret and new in each process, so that nobody can craft two ids of one digest.
#[derive(Debug, Clone, Copy)]
pub struct Digester {
    seed: u64,
}

impl Digester {
    /// A maker with a fresh seed.
    pub fn new() -> Self {
        // Without the system's randomness the seed is guessable, which harms only the guesser's own events.
        Self {
            seed: getrandom::u64().unwrap_or(0x9E37_79B9_7F4A_7C15),
        }
    }

    /// A maker whose digests are the same in every process, for what must not depend on chance.
    pub fn fixed() -> Self {
        Self { seed: 0 }
    }

    /// The digest of an id.
    pub fn digest(self, id: &str) -> Digest {
        self.of_bytes(id.as_bytes())
    }

    /// The digest of some strings, of which any may be missing, in this order.
    pub fn digest_all<const N: usize>(self, strings: [Option<&str>; N]) -> Digest {
        // Of digests, which are equally long, so that no two lists have the same bytes.
        let digests = strings.map(|string| match string {
            Some(string) => self.digest(string).0,
            None => [0; 2],
        });
        let mut bytes = [[0; size_of::<Digest>()]; N];
        for (bytes, [low, high]) in bytes.iter_mut().zip(digests) {
            *bytes = (u128::from(low) | u128::from(high) << 64).to_le_bytes();
        }
        self.of_bytes(bytes.as_flattened())
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

/// Digests are digests already: their first half is their hash.
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
    fn what_is_missing_empty_or_cut_elsewhere_has_another_digest() {
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
        let digests: std::collections::HashSet<Digest> =
            lists.map(|list| digester.digest_all(list)).into();
        assert_eq!(digests.len(), lists.len());
        assert_eq!(
            digester.digest_all([Some("a"), None]),
            digester.digest_all([Some("a"), None])
        );
    }
}
