//! Numbers and texts as bytes: LEB128, as in many formats of files.

/// Why bytes that were cut off cannot be read.
pub const CUT: &str = "it ends too early";

/// Writes a number.
pub fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Writes a text, after its length.
pub fn put_text(out: &mut Vec<u8>, text: &str) {
    put(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// Writes the `size` members of a set, in order, each as the gap to the one before.
pub fn put_members(out: &mut Vec<u8>, size: u64, members: impl Iterator<Item = u32>) {
    put(out, size);
    let mut next = 0;
    for member in members {
        put(out, u64::from(member) - next);
        next = u64::from(member) + 1;
    }
}

/// What is left of some bytes.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next number.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
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

    /// The next text.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn text(&mut self) -> Result<&'a str, String> {
        let length = usize::try_from(self.number()?).map_err(|_| CUT)?;
        let (text, rest) = self.0.split_at_checked(length).ok_or(CUT)?;
        self.0 = rest;
        std::str::from_utf8(text).map_err(|error| error.to_string())
    }

    /// The members of the next set, in order.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn members(&mut self) -> Result<Vec<u32>, String> {
        let size = usize::try_from(self.number()?).map_err(|_| CUT)?;
        // Each takes at least a byte, which bounds what a damaged size can ask for.
        let mut members = Vec::with_capacity(size.min(self.0.len()));
        let mut next: u64 = 0;
        for _ in 0..size {
            let member = next.saturating_add(self.number()?);
            members.push(u32::try_from(member).map_err(|_| "a user's number is too large")?);
            next = member + 1;
        }
        Ok(members)
    }

    /// Makes sure that nothing is left.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn end(&self) -> Result<(), String> {
        match self.0 {
            [] => Ok(()),
            _ => Err("it is longer than it says".into()),
        }
    }
}
