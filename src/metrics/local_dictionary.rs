//! Codes for the values of a column, for the time of one query.

use std::collections::HashMap;
use std::sync::Arc;

/// Strings and null, with codes from 0 in the order in which they came.
#[derive(Debug, Default)]
pub struct LocalDictionary {
    strings: Vec<Option<Arc<str>>>,
    codes: HashMap<Arc<str>, u32>,
    null: Option<u32>,
}

impl LocalDictionary {
    /// The code of a string or of null, which gets one if it has none.
    pub fn code(&mut self, string: Option<&str>) -> u32 {
        let known = match string {
            Some(string) => self.codes.get(string).copied(),
            None => self.null,
        };
        known.unwrap_or_else(|| {
            let code = self.strings.len() as u32;
            let string: Option<Arc<str>> = string.map(Arc::from);
            self.strings.push(string.clone());
            match string {
                Some(string) => drop(self.codes.insert(string, code)),
                None => self.null = Some(code),
            }
            code
        })
    }

    /// The string of a code; `None` for that of null.
    pub fn string(&self, code: u32) -> Option<&str> {
        self.strings.get(code as usize)?.as_deref()
    }
}
