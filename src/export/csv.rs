//! CSV for programs, which read back the same values, and for spreadsheets.
//!
//! Null is an empty field and an empty string is `""`, so that the two differ. Fields with a
//! comma, a quote or a line break are quoted as in RFC 4180; records end with a line feed.

use std::borrow::Cow;

/// The reader of a CSV file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// A program: values are unchanged.
    Machine,
    /// A spreadsheet: the file begins with a byte-order mark, and no string is taken for a
    /// formula.
    Spreadsheet,
}

/// Without it, spreadsheets decode the file in the system's code page.
const BYTE_ORDER_MARK: &[u8] = "\u{FEFF}".as_bytes();

/// Records of a CSV file that is being written.
pub struct Records {
    reader: Reader,
    bytes: Vec<u8>,
    is_first_field: bool,
}

impl Records {
    /// Records without a header, which follow others.
    pub fn new(reader: Reader) -> Self {
        Self {
            reader,
            bytes: Vec::new(),
            is_first_field: true,
        }
    }

    /// The start of a file: a record with the names of its columns.
    pub fn with_header<'a>(reader: Reader, names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut records = Self::new(reader);
        if reader == Reader::Spreadsheet {
            records.bytes.extend_from_slice(BYTE_ORDER_MARK);
        }
        for name in names {
            records.string(Some(name));
        }
        records.end();
        records
    }

    /// Adds a string, which may come from an untrusted client.
    pub fn string(&mut self, value: Option<&str>) {
        match (self.reader, value) {
            (Reader::Spreadsheet, Some(value)) => self.field(Some(&inert(value))),
            _ => self.field(value),
        }
    }

    /// Adds a value of another type, such as a number or a timestamp.
    pub fn field(&mut self, value: Option<&str>) {
        if !std::mem::take(&mut self.is_first_field) {
            self.bytes.push(b',');
        }
        let Some(value) = value else {
            return;
        };
        let is_special = |byte: u8| matches!(byte, b',' | b'"' | b'\r' | b'\n');
        if !value.is_empty() && !value.bytes().any(is_special) {
            self.bytes.extend_from_slice(value.as_bytes());
            return;
        }
        self.bytes.push(b'"');
        self.bytes
            .extend_from_slice(value.replace('"', "\"\"").as_bytes());
        self.bytes.push(b'"');
    }

    /// Ends a record.
    pub fn end(&mut self) {
        self.bytes.push(b'\n');
        self.is_first_field = true;
    }

    /// The bytes of the records.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Escapes a string that a spreadsheet would take for a formula, with a leading apostrophe.
fn inert(string: &str) -> Cow<'_, str> {
    let is_special = |first: char| matches!(first, '=' | '+' | '-' | '@') || first.is_control();
    if string.starts_with(is_special) {
        Cow::Owned(format!("'{string}"))
    } else {
        Cow::Borrowed(string)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(reader: Reader) -> String {
        let mut records = Records::with_header(reader, ["name", "-5"]);
        for value in [
            None,
            Some(""),
            Some("-5"),
            Some("=1+1"),
            Some("a,\"b\"\r\n"),
        ] {
            records.string(value);
            records.field(Some("-5"));
            records.end();
        }
        String::from_utf8(records.into_bytes()).unwrap_or_default()
    }

    #[test]
    fn values_for_programs_are_unchanged_and_null_differs_from_an_empty_string() {
        assert_eq!(
            written(Reader::Machine),
            "name,-5\n,-5\n\"\",-5\n-5,-5\n=1+1,-5\n\"a,\"\"b\"\"\r\n\",-5\n"
        );
    }

    #[test]
    fn spreadsheets_get_a_byte_order_mark_and_no_formulas_in_strings() {
        assert_eq!(
            written(Reader::Spreadsheet),
            "\u{FEFF}name,'-5\n,-5\n\"\",-5\n'-5,-5\n'=1+1,-5\n\"a,\"\"b\"\"\r\n\",-5\n"
        );
    }
}
