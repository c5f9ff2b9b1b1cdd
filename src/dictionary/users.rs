//! The dictionary of users: ids ↔ codes, made for millions of ids.
//!
//! An id takes its own length and 4 bytes in a list, in the order of codes, and about 8 bytes in a
//! hash table, which has codes only. The ids that the store had at its start stay in its file,
//! which is mapped into memory; later ones are in memory, in the same form.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use parking_lot::RwLock;
use polars::prelude::*;
use roaring::RoaringBitmap;

use super::lookup::{Lookup, codes};
use crate::digest::{Digest, Digester};
use crate::error::{Error, Result};
use crate::event::text::{self, Escapes};
use crate::event::visitor::{VISITOR_CHARS, VISITOR_PREFIX, is_visitor_id};
use crate::shards::{SHARDS, shard_of};

/// Ids of a block: so few that its vectors grow quickly.
const BLOCK_IDS: usize = 1 << 16;
/// Lines of a file that are digested before they are inserted: their digests take 16 bytes each.
const LOADED_AT_ONCE: usize = 1 << 20;
/// Length of the line of a daily visitor: prefix and id, in quotes, and a line feed.
const VISITOR_LINE_BYTES: u32 = VISITOR_PREFIX.len_utf8() as u32 + VISITOR_CHARS as u32 + 3;
/// The line of a code without an id.
pub const NO_ID: &[u8] = b"null\n";

/// A dictionary of user ids, whose codes count from 0 in the order of insertion.
#[derive(Clone, Default)]
pub struct UserDictionary {
    digester: Digester,
    table: Arc<RwLock<Table>>,
    forgotten: Arc<Forgotten>,
}

/// Bytes that stay as they are, such as those of a mapped file.
pub type Mapped = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Codes whose strings are not found until they are inserted again.
#[derive(Default)]
struct Forgotten {
    /// Set once there were any. It spares every incoming event the lock.
    is_used: AtomicBool,
    codes: RwLock<RoaringBitmap>,
}

impl Forgotten {
    /// Finds the string of a code again, which was inserted again.
    fn recall_one(&self, code: u32) {
        if self.contains(code) {
            self.change(|codes| {
                codes.remove(code);
            });
        }
    }

    fn contains(&self, code: u32) -> bool {
        self.is_used.load(Ordering::Acquire) && self.codes.read().contains(code)
    }

    fn change(&self, change: impl FnOnce(&mut RoaringBitmap)) {
        change(&mut self.codes.write());
        self.is_used.store(true, Ordering::Release);
    }
}

struct Table {
    lines: Lines,
    /// The codes of daily visitors.
    visitors: RoaringBitmap,
    /// The codes of the ids, by digest.
    shards: Vec<HashTable<u32>>,
}

/// The ids as lines, each a JSON string, in the order of codes.
#[derive(Default)]
struct Lines {
    /// Each but the last has [`BLOCK_IDS`] lines.
    blocks: Vec<Block>,
    len: usize,
}

struct Block {
    bytes: Bytes,
    /// End of each line in the bytes.
    ends: Vec<u32>,
}

enum Bytes {
    /// From this offset on.
    Mapped(Mapped, usize),
    Owned(Vec<u8>),
}

impl Block {
    fn memory_bytes(&self) -> usize {
        let owned = match &self.bytes {
            Bytes::Mapped(..) => 0,
            Bytes::Owned(bytes) => bytes.capacity(),
        };
        owned + self.ends.capacity() * size_of::<u32>()
    }
}

impl Bytes {
    fn get(&self, start: u32, end: u32) -> &[u8] {
        let (start, end) = (start as usize, end as usize);
        let line = match self {
            Self::Mapped(mapped, offset) => {
                mapped.as_ref().as_ref().get(offset + start..offset + end)
            }
            Self::Owned(bytes) => bytes.get(start..end),
        };
        line.unwrap_or_default()
    }
}

impl Lines {
    /// The line of a code; empty if the code is not assigned.
    fn line(&self, code: u32) -> &[u8] {
        let code = code as usize;
        let (place, block) = (code % BLOCK_IDS, self.blocks.get(code / BLOCK_IDS));
        let Some((block, &end)) = block.and_then(|block| Some((block, block.ends.get(place)?)))
        else {
            return &[];
        };
        let before = place
            .checked_sub(1)
            .and_then(|before| block.ends.get(before));
        block.bytes.get(before.copied().unwrap_or(0), end)
    }

    /// The id of a code; none if it has none.
    fn id(&self, code: u32) -> Option<Cow<'_, str>> {
        id_of_line(self.line(code))
    }

    /// The codes of daily visitors.
    fn visitors(&self) -> RoaringBitmap {
        let mut found = Vec::new();
        for (code, block) in (0..).step_by(BLOCK_IDS).zip(&self.blocks) {
            let starts = std::iter::once(&0).chain(&block.ends);
            for (code, (&start, &end)) in (code..).zip(starts.zip(&block.ends)) {
                if end - start == VISITOR_LINE_BYTES
                    && id_of_line(block.bytes.get(start, end)).is_some_and(|id| is_visitor_id(&id))
                {
                    found.push(code);
                }
            }
        }
        found.into_iter().collect()
    }

    /// Appends an id. Returns its code.
    fn push(&mut self, id: &str) -> Result<u32> {
        // The last code has another meaning.
        let code = u32::try_from(self.len).ok().filter(|&code| code < u32::MAX);
        let code = code.ok_or_else(|| Error::Query("all codes of users are assigned".into()))?;
        if self.len.is_multiple_of(BLOCK_IDS) {
            self.blocks.push(Block {
                bytes: Bytes::Owned(Vec::new()),
                ends: Vec::new(),
            });
        }
        let Some(block) = self.blocks.last_mut() else {
            return Ok(code);
        };
        if let Bytes::Mapped(..) = block.bytes {
            let end = block.ends.last().copied().unwrap_or(0);
            block.bytes = Bytes::Owned(block.bytes.get(0, end).to_vec());
        }
        if let Bytes::Owned(bytes) = &mut block.bytes {
            text::encode(id, bytes);
            bytes.push(b'\n');
            block.ends.push(bytes.len() as u32);
            self.len += 1;
        }
        Ok(code)
    }

    /// The lines of a mapped file.
    fn of(mapped: &Mapped, length: usize) -> Self {
        let bytes = mapped.as_ref().as_ref().get(..length).unwrap_or_default();
        let mut lines = Self::default();
        let mut start = 0;
        let mut ends = Vec::new();
        let mut newlines = memchr::memchr_iter(b'\n', bytes).peekable();
        while let Some(newline) = newlines.next() {
            ends.push((newline + 1 - start) as u32);
            if ends.len() == BLOCK_IDS || newlines.peek().is_none() {
                lines.len += ends.len();
                let bytes = Bytes::Mapped(mapped.clone(), start);
                ends.shrink_to_fit();
                let ends = std::mem::take(&mut ends);
                lines.blocks.push(Block { bytes, ends });
                start = newline + 1;
            }
        }
        lines
    }
}

/// The id in a line; none if the line has none.
fn id_of_line(line: &[u8]) -> Option<Cow<'_, str>> {
    let json = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    text::decode(json, Escapes::Some)
}

/// True if a line has this id. Most ids need no escapes, and their lines are compared as they are.
fn is_line_of(line: &[u8], id: &str) -> bool {
    let json = line
        .strip_prefix(b"\"")
        .and_then(|rest| rest.strip_suffix(b"\"\n"));
    match json {
        Some(json) if memchr::memchr(b'\\', json).is_none() => json == id.as_bytes(),
        _ => id_of_line(line).is_some_and(|found| found == id),
    }
}

impl Default for Table {
    fn default() -> Self {
        Self {
            lines: Lines::default(),
            visitors: RoaringBitmap::new(),
            shards: std::iter::repeat_with(HashTable::new)
                .take(SHARDS)
                .collect(),
        }
    }
}

impl Table {
    fn find(&self, id: &str, digest: Digest) -> Option<u32> {
        let shard = self.shards.get(shard_of(digest))?;
        let is_it = |&code: &u32| is_line_of(self.lines.line(code), id);
        shard.find(digest.hash(), is_it).copied()
    }

    fn insert(&mut self, id: &str, digest: Digest, digester: Digester) -> Result<u32> {
        if let Some(code) = self.find(id, digest) {
            return Ok(code);
        }
        let Self {
            lines,
            visitors,
            shards,
        } = self;
        let code = lines.push(id)?;
        if is_visitor_id(id) {
            visitors.insert(code);
        }
        if let Some(shard) = shards.get_mut(shard_of(digest)) {
            shard.insert_unique(digest.hash(), code, |&code| hash_of(lines, code, digester));
        }
        Ok(code)
    }
}

fn hash_of(lines: &Lines, code: u32, digester: Digester) -> u64 {
    let id = lines.id(code);
    id.map_or(0, |id| digester.digest(&id).hash())
}

/// Divides a range into parts of this length; the last may be shorter.
fn parts_of(range: Range<usize>, length: usize) -> impl Iterator<Item = Range<usize>> {
    let starts = range.clone().step_by(length.max(1));
    starts.map(move |start| start..range.end.min(start + length))
}

/// Does each part of some work on a thread of its own.
fn on_threads<P: Send, T: Send>(
    parts: impl Iterator<Item = P>,
    work: impl Fn(P) -> Result<T, String> + Sync,
) -> Result<Vec<T>, String> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = parts.map(|part| scope.spawn(move || work(part))).collect();
        let results = threads.into_iter().map(|thread| {
            let joined = thread.join();
            joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        results.collect()
    })
}

impl UserDictionary {
    /// Replaces the ids by those in the first bytes of a file, which has a line for each code: the
    /// id as a JSON string, or [`NO_ID`]. Returns the number of lines.
    ///
    /// # Errors
    /// A sentence about the line that is not one of these, or that repeats an id.
    pub fn load(&self, mapped: &Mapped, length: usize) -> Result<usize, String> {
        let lines = Lines::of(mapped, length);
        let mut shards = Table::default().shards;
        // A shard has up to 1.4 times the average.
        for shard in &mut shards {
            shard.reserve(lines.len / SHARDS, |&code| {
                hash_of(&lines, code, self.digester)
            });
        }
        for codes in parts_of(0..lines.len, LOADED_AT_ONCE) {
            self.fill(&lines, codes, &mut shards)?;
        }
        let len = lines.len;
        let visitors = lines.visitors();
        *self.table.write() = Table {
            lines,
            visitors,
            shards,
        };
        Ok(len)
    }

    /// Inserts codes into the shards. Each core computes the digests of a part of the ids, and then
    /// fills a part of the shards, one at a time, which is in its cache meanwhile.
    fn fill(
        &self,
        lines: &Lines,
        codes: Range<usize>,
        shards: &mut [HashTable<u32>],
    ) -> Result<(), String> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let parts = parts_of(codes.clone(), codes.len().div_ceil(cores));
        let digested = on_threads(parts, |codes| self.digest(lines, codes))?;
        let shards_of_core = SHARDS.div_ceil(cores);
        let parts = shards.chunks_mut(shards_of_core).enumerate();
        let filled = on_threads(parts, |(part, shards)| {
            for (number, shard) in (part * shards_of_core..).zip(shards) {
                let entries = digested.iter().filter_map(|shards| shards.get(number));
                for &(hash, code) in entries.flatten() {
                    let is_it = |&other: &u32| lines.id(other) == lines.id(code);
                    let rehash = |&code: &u32| hash_of(lines, code, self.digester);
                    match shard.entry(hash, is_it, rehash) {
                        Entry::Occupied(_) => {
                            return Err(format!("line {} repeats an id", u64::from(code) + 1));
                        }
                        Entry::Vacant(entry) => entry.insert(code),
                    };
                }
            }
            Ok(())
        });
        filled.map(|_| ())
    }

    /// The hashes and codes of the ids with these codes, by shard.
    fn digest(&self, lines: &Lines, codes: Range<usize>) -> Result<Vec<Vec<(u64, u32)>>, String> {
        let ids_of_shard = codes.len() * 3 / 2 / SHARDS;
        let mut shards: Vec<_> = std::iter::repeat_with(|| Vec::with_capacity(ids_of_shard))
            .take(SHARDS)
            .collect();
        for code in codes.start as u32..codes.end as u32 {
            let line = lines.line(code);
            if line == NO_ID {
                continue;
            }
            let id = id_of_line(line)
                .ok_or_else(|| format!("line {} is not a JSON string", u64::from(code) + 1))?;
            let digest = self.digester.digest(&id);
            if let Some(shard) = shards.get_mut(shard_of(digest)) {
                shard.push((digest.hash(), code));
            }
        }
        Ok(shards)
    }

    /// Inserts an id and returns its code; an id that has a code keeps it.
    ///
    /// # Errors
    /// If all codes of 32 bits are assigned.
    pub fn number(&self, id: &str) -> Result<u32> {
        let digest = self.digester.digest(id);
        let known = self.table.read().find(id, digest);
        let code = match known {
            Some(code) => code,
            None => self.table.write().insert(id, digest, self.digester)?,
        };
        self.forgotten.recall_one(code);
        Ok(code)
    }

    /// The code of an id; none if it has no code or was forgotten.
    pub fn find(&self, id: &str) -> Option<u32> {
        let code = self.known(id)?;
        (!self.forgotten.contains(code)).then_some(code)
    }

    /// The code of an id, also of one that was forgotten.
    fn known(&self, id: &str) -> Option<u32> {
        self.table.read().find(id, self.digester.digest(id))
    }

    /// Hides ids from [`UserDictionary::find`] until they are inserted again. Their codes keep
    /// their ids, for events that still have them.
    pub fn forget(&self, codes: &RoaringBitmap) {
        self.forgotten.change(|forgotten| *forgotten |= codes);
    }

    /// Undoes [`UserDictionary::forget`].
    pub fn recall(&self, codes: &RoaringBitmap) {
        self.forgotten.change(|forgotten| *forgotten -= codes);
    }

    /// The id of a code.
    pub fn text(&self, code: u32) -> Option<String> {
        self.table.read().lines.id(code).map(Cow::into_owned)
    }

    /// Number of codes.
    pub fn len(&self) -> usize {
        self.table.read().lines.len
    }

    /// Estimate of the bytes that the ids take in memory, without those of a mapped file.
    pub fn memory_bytes(&self) -> u64 {
        let table = self.table.read();
        let lines: usize = table.lines.blocks.iter().map(Block::memory_bytes).sum();
        let codes: usize = table.shards.iter().map(HashTable::capacity).sum();
        // A code has a byte of the hash table.
        (lines + codes * (size_of::<u32>() + 1)) as u64
    }

    /// Number of ids: codes that have one.
    pub fn ids(&self) -> usize {
        self.table.read().shards.iter().map(HashTable::len).sum()
    }

    /// True if there are daily visitors.
    pub fn has_visitors(&self) -> bool {
        !self.table.read().visitors.is_empty()
    }

    /// True if some of these codes are of daily visitors.
    pub fn has_visitors_among(&self, codes: &RoaringBitmap) -> bool {
        !self.table.read().visitors.is_disjoint(codes)
    }

    /// True if a code has an id.
    pub fn has_id(&self, code: u32) -> bool {
        ![&[], NO_ID].contains(&self.table.read().lines.line(code))
    }

    /// True if no code is assigned.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The codes of a column of ids as an expression; ids without a code become `unknown`. Assigns
    /// no codes.
    pub fn numbers(&self, ids: Expr, unknown: Option<u32>) -> Expr {
        let this = self.clone();
        ids.map(
            move |column| Ok(codes(&column, this.lookup(column.str()?), unknown)),
            |_, field| Ok(Field::new(field.name().clone(), DataType::UInt32)),
        )
    }

    /// Looks up each id of a column. Forgotten ids are found, because stored events have them. The
    /// events of a user are neighbours, so that most ids equal the one before them.
    pub fn lookup<'a>(&'a self, ids: &'a StringChunked) -> impl Iterator<Item = Lookup<'a>> + 'a {
        let mut last = (None, Lookup::Null);
        ids.iter().map(move |id| {
            if last.0 != id {
                let found = id.map(|id| self.known(id).map_or(Lookup::Unknown(id), Lookup::Known));
                last = (id, found.unwrap_or(Lookup::Null));
            }
            last.1
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(content: &str) -> (Mapped, usize) {
        (Arc::new(content.as_bytes().to_vec()), content.len())
    }

    #[test]
    fn codes_count_from_zero_and_stay() -> Result<()> {
        let users = UserDictionary::default();
        assert!(users.is_empty());
        assert_eq!(users.find("a"), None);
        for _ in 0..2 {
            assert_eq!([users.number("a")?, users.number("b \"ü\"")?], [0, 1]);
        }
        assert_eq!(users.text(1).as_deref(), Some("b \"ü\""));
        assert_eq!(users.text(2), None);
        assert_eq!((users.len(), users.is_empty()), (2, false));
        Ok(())
    }

    #[test]
    fn ids_of_a_file_and_later_ones_are_found_over_several_blocks() -> Result<()> {
        let id = |code: usize| format!("user \"{code}\"");
        let loaded = BLOCK_IDS + 10;
        let mut content = Vec::new();
        for code in 0..loaded {
            if code == 5 {
                content.extend_from_slice(NO_ID);
                continue;
            }
            text::encode(&id(code), &mut content);
            content.push(b'\n');
        }
        let length = content.len();
        content.extend_from_slice(b"\"torn");
        let users = UserDictionary::default();
        let mapped: Mapped = Arc::new(content);
        assert_eq!(users.load(&mapped, length), Ok(loaded));
        let all = 3 * BLOCK_IDS;
        for code in loaded..all {
            assert_eq!(users.number(&id(code))?, code as u32);
        }
        for code in 0..all {
            let expected = (code != 5).then_some(code as u32);
            assert_eq!(users.find(&id(code)), expected, "{code}");
            assert_eq!(users.text(code as u32), expected.map(|_| id(code)));
        }
        assert_eq!((users.len(), users.ids()), (all, all - 1));
        assert!(users.has_id(4) && !users.has_id(5) && !users.has_id(all as u32));
        assert_eq!(
            users.number(&id(5))?,
            all as u32,
            "its code is not used again"
        );
        Ok(())
    }

    #[test]
    fn daily_visitors_are_recognized_by_the_form_of_their_ids() -> Result<()> {
        let users = UserDictionary::default();
        let (mapped, length) = mapped("\"~AZaz09-_AZaz09-_\"\n\"~AZaz09-_AZaz09@_\"\nnull\n");
        assert_eq!(users.load(&mapped, length), Ok(3));
        assert_eq!(users.number("~0000000000000000")?, 3);
        assert_eq!(users.number("~000000000000000")?, 4);
        assert!(users.has_visitors());
        for (codes, expected) in [
            (vec![0], true),
            (vec![1, 2, 4], false),
            (vec![1, 3], true),
            (vec![], false),
        ] {
            let codes = codes.into_iter().collect();
            assert_eq!(users.has_visitors_among(&codes), expected, "{codes:?}");
        }
        assert!(!UserDictionary::default().has_visitors());
        Ok(())
    }

    #[test]
    fn lines_that_are_not_ids_or_repeat_one_are_errors() {
        for (content, message) in [
            ("\"a\"\nb\n", "line 2 is not a JSON string"),
            ("\"a\"\nnull\n\"a\"\n", "line 3 repeats an id"),
            ("\"a\"\n\n", "line 2 is not a JSON string"),
        ] {
            let (mapped, length) = mapped(content);
            let loaded = UserDictionary::default().load(&mapped, length);
            assert_eq!(loaded, Err(message.to_owned()));
        }
    }

    #[test]
    fn a_forgotten_id_is_found_once_it_is_inserted_or_recalled() -> Result<()> {
        let users = UserDictionary::default();
        let codes: RoaringBitmap = [users.number("a")?, users.number("b")?]
            .into_iter()
            .collect();
        users.forget(&codes);
        assert_eq!((users.find("a"), users.find("b")), (None, None));
        assert_eq!(
            users.text(0).as_deref(),
            Some("a"),
            "events still have the code"
        );
        assert_eq!(users.number("a")?, 0);
        assert_eq!((users.find("a"), users.find("b")), (Some(0), None));
        users.recall(&codes);
        assert_eq!(users.find("b"), Some(1));
        Ok(())
    }

    #[test]
    fn a_lookup_finds_what_has_a_code_at_that_moment_and_assigns_none() -> Result<()> {
        let users = UserDictionary::default();
        users.number("a")?;
        let ids = [Some("a"), Some("a"), None, Some("b"), Some("a"), None];
        let ids = StringChunked::from_iter_options("s".into(), ids.into_iter());
        let (a, null) = (Lookup::Known(0), Lookup::Null);
        let lookup = || users.lookup(&ids).collect::<Vec<_>>();
        assert_eq!(lookup(), [a, a, null, Lookup::Unknown("b"), a, null]);
        assert_eq!(users.len(), 1);
        users.number("b")?;
        assert_eq!(lookup(), [a, a, null, Lookup::Known(1), a, null]);
        Ok(())
    }

    #[test]
    fn one_code_is_assigned_to_an_id_that_several_threads_insert() -> Result<()> {
        let users = UserDictionary::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for id in 0..2_000 {
                        let code = users.number(&id.to_string()).expect("few");
                        assert_eq!(users.text(code), Some(id.to_string()));
                    }
                });
            }
        });
        assert_eq!(users.len(), 2_000);
        Ok(())
    }
}
