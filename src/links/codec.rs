//! The links as bytes: `EPLINKS1` and a zstd frame with the number of links that ended or changed
//! their user, the number of statements that are not listed, the set of users, the set of aliases
//! with a first statement, user and time of each, and two lists: alias, user and time of each later
//! statement, and alias and time of each removed link; then the number of times that links expired.
//! Integers are LEB128, times zigzag, in µs.

use std::io::Read;

use super::{First, Links};
use crate::leb128::{CUT, Reader, put, put_members};

const MAGIC: &[u8; 8] = b"EPLINKS1";
/// Level of compression; higher ones take longer for the same size.
const ZSTD_LEVEL: i32 = 3;
/// The longest content, uncompressed: more than that of all codes.
const MAX_BYTES: u64 = 1 << 36;

fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -((number & 1).cast_signed())
}

impl Links {
    /// The bytes of the file.
    pub fn encode(&self) -> Vec<u8> {
        let mut content = Vec::new();
        put(&mut content, self.undone);
        put(&mut content, self.unlisted);
        put_members(&mut content, self.users.len(), self.users.iter());
        let mut first: Vec<(u32, First)> = self.first.iter().map(|(&a, &f)| (a, f)).collect();
        first.sort_unstable_by_key(|(alias, _)| *alias);
        let aliases = first.iter().map(|(alias, _)| *alias);
        put_members(&mut content, first.len() as u64, aliases);
        for (_, First { user, ts_us }) in first {
            put(&mut content, u64::from(user));
            put(&mut content, zigzag(ts_us));
        }
        put(&mut content, self.later.len() as u64);
        for (&(alias, user), &ts_us) in &self.later {
            put(&mut content, u64::from(alias));
            put(&mut content, u64::from(user));
            put(&mut content, zigzag(ts_us));
        }
        put(&mut content, self.removed.len() as u64);
        for (&alias, &until_us) in &self.removed {
            put(&mut content, u64::from(alias));
            put(&mut content, zigzag(until_us));
        }
        put(&mut content, self.expired);
        let mut bytes = MAGIC.to_vec();
        // Compression in memory fails for wrong levels only.
        bytes.extend(zstd::bulk::compress(&content, ZSTD_LEVEL).unwrap_or_default());
        bytes
    }

    /// Reads the bytes of a file.
    ///
    /// # Errors
    /// A sentence about what is wrong with them.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let frame = bytes
            .strip_prefix(MAGIC)
            .ok_or("it is not of this version")?;
        let mut content = Vec::new();
        let decoder = zstd::Decoder::new(frame).map_err(|error| error.to_string())?;
        let read = decoder.take(MAX_BYTES).read_to_end(&mut content);
        read.map_err(|error| error.to_string())?;
        let mut reader = Reader(&content);
        let mut links = Self {
            undone: reader.number()?,
            unlisted: reader.number()?,
            users: reader.members()?.into_iter().collect(),
            ..Self::default()
        };
        let code = |reader: &mut Reader<'_>| {
            let code = u32::try_from(reader.number()?).map_err(|_| CUT)?;
            Ok::<u32, String>(code)
        };
        let time = |reader: &mut Reader<'_>| Ok::<i64, String>(unzigzag(reader.number()?));
        for alias in reader.members()? {
            let (user, ts_us) = (code(&mut reader)?, time(&mut reader)?);
            links.first.insert(alias, First { user, ts_us });
            if !links.users.contains(alias) {
                links.aliases.insert(alias);
            }
        }
        for _ in 0..reader.number()? {
            let key = (code(&mut reader)?, code(&mut reader)?);
            links.later.insert(key, time(&mut reader)?);
        }
        for _ in 0..reader.number()? {
            let alias = code(&mut reader)?;
            links.removed.insert(alias, time(&mut reader)?);
        }
        // Earlier versions end here.
        if !reader.0.is_empty() {
            links.expired = reader.number()?;
        }
        reader.end()?;
        Ok(links)
    }
}
