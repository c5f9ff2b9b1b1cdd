//! LEB128: variable-length encoding of integers, of strings with their length, and of sorted sets.

/// The error for bytes that end before the value does.
pub const CUT: &str = "it ends too early";

/// Writes a number.
pub fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Writes a string after its length in bytes.
pub fn put_text(out: &mut Vec<u8>, string: &str) {
    put(out, string.len() as u64);
    out.extend_from_slice(string.as_bytes());
}

/// Writes the `size` members of a set in ascending order, each as the gap to the one before.
pub fn put_members(out: &mut Vec<u8>, size: u64, members: impl Iterator<Item = u32>) {
    put(out, size);
    let mut next = 0;
    for member in members {
        put(out, u64::from(member) - next);
        next = u64::from(member) + 1;
    }
}

/// Reads values from the front of some bytes, which it shortens.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next number.
    ///
    /// # Errors
    /// A sentence about what is wrong with the bytes.
    pub fn number(&mut self) -> Result<u64, String> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(CUT)?;
            self.0 = rest;
            number |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err("a number is too long".into())
    }

    /// The next string.
    ///
    /// # Errors
    /// A sentence about what is wrong with the bytes.
    pub fn text(&mut self) -> Result<&'a str, String> {
        let length = usize::try_from(self.number()?).map_err(|_| CUT)?;
        let (string, rest) = self.0.split_at_checked(length).ok_or(CUT)?;
        self.0 = rest;
        std::str::from_utf8(string).map_err(|error| error.to_string())
    }

    /// The members of the next set, in ascending order.
    ///
    /// # Errors
    /// A sentence about what is wrong with the bytes.
    pub fn members(&mut self) -> Result<Vec<u32>, String> {
        let size = usize::try_from(self.number()?).map_err(|_| CUT)?;
        // Each member takes at least a byte, which bounds the memory that a damaged size can take.
        let mut members = Vec::with_capacity(size.min(self.0.len()));
        let mut next: u64 = 0;
        for _ in 0..size {
            let member = next.saturating_add(self.number()?);
            members.push(u32::try_from(member).map_err(|_| "a member exceeds 32 bits")?);
            next = member + 1;
        }
        Ok(members)
    }

    /// Passes the next set.
    ///
    /// # Errors
    /// A sentence about what is wrong with the bytes.
    pub fn skip_members(&mut self) -> Result<(), String> {
        let size = usize::try_from(self.number()?).map_err(|_| CUT)?;
        if size == 0 {
            return Ok(());
        }
        // Each number ends with the first byte below 0x80.
        let mut ends = self.0.iter().enumerate().filter(|(_, byte)| **byte < 0x80);
        let (last, _) = ends.nth(size - 1).ok_or(CUT)?;
        self.0 = self.0.get(last + 1..).ok_or(CUT)?;
        Ok(())
    }

    /// Checks that all bytes were read.
    ///
    /// # Errors
    /// A sentence, if some were not.
    pub fn end(&self) -> Result<(), String> {
        match self.0 {
            [] => Ok(()),
            _ => Err("it has bytes after its last value".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_back_as_they_were_written() {
        let numbers = [
            0,
            1,
            0x7F,
            0x80,
            0x3FFF,
            0x4000,
            u64::from(u32::MAX),
            u64::MAX,
        ];
        let sets: [&[u32]; 4] = [&[], &[0], &[0, 1, 5, 300], &[7, u32::MAX]];
        let mut bytes = Vec::new();
        for number in numbers {
            put(&mut bytes, number);
        }
        put_text(&mut bytes, "");
        put_text(&mut bytes, "größe");
        for set in sets {
            put_members(&mut bytes, set.len() as u64, set.iter().copied());
        }
        let mut reader = Reader(&bytes);
        for number in numbers {
            assert_eq!(reader.number(), Ok(number));
        }
        assert_eq!(reader.text(), Ok(""));
        assert_eq!(reader.text(), Ok("größe"));
        let mut skipping = Reader(reader.0);
        for set in sets {
            assert_eq!(reader.members().as_deref(), Ok(set));
            assert_eq!(skipping.skip_members(), Ok(()));
            assert_eq!(skipping.0, reader.0);
        }
        assert_eq!(reader.end(), Ok(()));
        assert_eq!(reader.number(), Err(CUT.into()));
    }

    #[test]
    fn damaged_bytes_are_errors() {
        assert!(Reader(&[0x80]).number().is_err(), "cut off");
        assert!(Reader(&[0xFF; 11]).number().is_err(), "more than 64 bits");
        assert!(
            Reader(&[2, b'a']).text().is_err(),
            "shorter than its length"
        );
        assert!(Reader(&[1, 0xFF]).text().is_err(), "not UTF-8");
        assert!(
            Reader(&[0xFF, 0xFF, 0xFF, 0xFF, 0x0F, 1])
                .members()
                .is_err()
        );
        assert_eq!(Reader(&[2, 1]).skip_members(), Err(CUT.into()));
        let too_large = [1, 0xFF, 0xFF, 0xFF, 0xFF, 0x1F];
        assert!(Reader(&too_large).members().is_err(), "more than 32 bits");
        assert!(Reader(&[0]).end().is_err(), "a byte is left");
    }
}
