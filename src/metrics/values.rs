//! Numbers for the values of a column while a question is answered.

use std::collections::HashMap;

/// Texts, null among them, numbered from 0 in the order in which they came.
#[derive(Debug, Default)]
pub struct Names {
    names: Vec<Option<String>>,
    numbers: HashMap<String, u32>,
    missing: Option<u32>,
}

impl Names {
    /// The number of a text.
    pub fn number(&mut self, name: Option<&str>) -> u32 {
        let known = match name {
            Some(name) => self.numbers.get(name).copied(),
            None => self.missing,
        };
        known.unwrap_or_else(|| {
            let number = self.names.len() as u32;
            self.names.push(name.map(str::to_owned));
            match name {
                Some(name) => drop(self.numbers.insert(name.to_owned(), number)),
                None => self.missing = Some(number),
            }
            number
        })
    }

    /// The text of a number that was given.
    pub fn name(&self, number: u32) -> Option<&str> {
        self.names.get(number as usize)?.as_deref()
    }
}
