//! Results of looking up the strings of a column in a dictionary.

use polars::prelude::*;

/// The codes that a lookup of a column gives. Those of unknown strings are `unknown`.
pub fn codes<'a>(
    column: &Column,
    lookup: impl Iterator<Item = Lookup<'a>>,
    unknown: Option<u32>,
) -> Column {
    let codes = lookup.map(|found| match found {
        Lookup::Null => None,
        Lookup::Known(code) => Some(code),
        Lookup::Unknown(_) => unknown,
    });
    let codes: UInt32Chunked = codes.collect();
    codes.with_name(column.name().clone()).into_column()
}

/// The result of looking up a value of a string column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup<'a> {
    /// The value is null.
    Null,
    /// The code of the string.
    Known(u32),
    /// The string, which has no code.
    Unknown(&'a str),
}
