//! Codes for the values of a column, for the time of one query.

use super::sharded::{SHARDS, table_bytes};
use crate::digest::{Digest, DigestMap, Digester};

/// Bytes of a piece of strings: at least, and at most unless one is longer. Pieces never grow,
/// because a copy of all strings would take twice the memory, and time in which a query cannot be
/// cancelled.
const PIECE_BYTES: [u64; 2] = [4 << 10, 1 << 20];

/// Strings and null, with codes from 0 in the order in which they came.
///
/// Strings are found by their digests and stored one after the other, so that a value of 32
/// characters takes some 100 bytes.
#[derive(Debug)]
pub struct LocalDictionary {
    digester: Digester,
    codes: Vec<DigestMap<u32>>,
    pieces: Vec<String>,
    places: Vec<Option<Place>>,
    null: Option<u32>,
    /// Bytes of the pieces.
    text_bytes: u64,
}

/// The place of a string.
#[derive(Debug, Clone, Copy)]
struct Place {
    piece: u32,
    start: u32,
    end: u32,
}

impl Default for LocalDictionary {
    fn default() -> Self {
        Self {
            digester: Digester::new(),
            codes: (0..SHARDS).map(|_| DigestMap::default()).collect(),
            pieces: Vec::new(),
            places: Vec::new(),
            null: None,
            text_bytes: 0,
        }
    }
}

impl LocalDictionary {
    /// The code of a string or of null, which gets one if it has none.
    pub fn code(&mut self, string: Option<&str>) -> u32 {
        let next = self.places.len() as u32;
        let Some(string) = string else {
            return *self.null.get_or_insert_with(|| {
                self.places.push(None);
                next
            });
        };
        let digest = self.digester.digest(string);
        let shard = shard(digest);
        if let Some(known) = self.codes.get(shard).and_then(|codes| codes.get(&digest)) {
            return *known;
        }
        let place = self.store(string);
        self.places.push(Some(place));
        if let Some(codes) = self.codes.get_mut(shard) {
            codes.insert(digest, next);
        }
        next
    }

    fn store(&mut self, string: &str) -> Place {
        let has_room = |piece: &String| piece.capacity() - piece.len() >= string.len();
        if !self.pieces.last().is_some_and(has_room) {
            let [least, most] = PIECE_BYTES;
            let bytes = string
                .len()
                .max(self.text_bytes.clamp(least, most) as usize);
            self.pieces.push(String::with_capacity(bytes));
            self.text_bytes += bytes as u64;
        }
        let piece = self.pieces.len() as u32 - 1;
        let mut place = Place {
            piece,
            start: 0,
            end: 0,
        };
        if let Some(text) = self.pieces.last_mut() {
            place.start = text.len() as u32;
            text.push_str(string);
            place.end = text.len() as u32;
        }
        place
    }

    /// The string of a code; `None` for that of null.
    pub fn string(&self, code: u32) -> Option<&str> {
        let place = (*self.places.get(code as usize)?)?;
        let piece = self.pieces.get(place.piece as usize)?;
        piece.get(place.start as usize..place.end as usize)
    }

    /// Number of codes.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> u64 {
        let codes: usize = self.codes.iter().map(DigestMap::capacity).sum();
        let places = self.places.capacity() * size_of::<Option<Place>>();
        self.text_bytes + table_bytes::<(Digest, u32)>(codes) + places as u64
    }
}

fn shard(digest: Digest) -> usize {
    digest.place() % SHARDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_keep_their_codes_whatever_their_length() {
        let mut dictionary = LocalDictionary::default();
        let strings: Vec<Option<String>> = (0..5_000)
            .map(|i| match i % 7 {
                0 if i == 0 => None,
                // Of all lengths, some of them longer than a piece.
                1 if i % 1_000 == 1 => Some(format!("{i}-").repeat(600_000)),
                _ => Some(format!("{i}").repeat(i % 90)),
            })
            .collect();
        let codes: Vec<u32> = strings
            .iter()
            .map(|string| dictionary.code(string.as_deref()))
            .collect();
        for (string, &code) in strings.iter().zip(&codes) {
            assert_eq!(dictionary.string(code), string.as_deref());
            assert_eq!(dictionary.code(string.as_deref()), code);
        }
        let mut distinct = strings.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(dictionary.len(), distinct.len());
        let text: usize = distinct.iter().flatten().map(String::len).sum();
        assert!(dictionary.bytes() > text as u64);
    }
}
