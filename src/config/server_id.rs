//! The id of a server among those that publish to one table.

use std::fmt;
use std::str::FromStr;

/// Longest id.
const MAX_CHARS: usize = 32;

/// The id of a server. It is a part of file names, up to the first `-`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerId(String);

impl ServerId {
    /// True for an id.
    pub fn is_valid(id: &str) -> bool {
        let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        !id.is_empty() && id.len() <= MAX_CHARS && id.bytes().all(is_allowed)
    }

    /// As it is in names.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServerId {
    type Err = String;

    fn from_str(id: &str) -> Result<Self, String> {
        if Self::is_valid(id) {
            return Ok(Self(id.to_owned()));
        }
        Err(format!(
            "allowed are 1 to {MAX_CHARS} lower-case letters and digits"
        ))
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_part_of_a_file_name() {
        for id in ["a", "eu1", "0", &"x".repeat(MAX_CHARS)] {
            assert!(id.parse::<ServerId>().is_ok(), "{id}");
        }
        for id in ["", "A", "a-b", "a/b", "é", ".", &"x".repeat(MAX_CHARS + 1)] {
            assert!(id.parse::<ServerId>().is_err(), "{id}");
        }
    }
}
