//! Splits a stream of events into chunks that are validated in parallel: of complete lines if each
//! line is a record, of complete events otherwise.

use std::io::{BufRead, Read, Result};
use std::ops::Range;

use crate::event::foreign;
use crate::event::split::{self, Layout, Splitter, Step};
use crate::event::text::without_mark;

/// Size of a chunk. Its events become one segment per day; a core that works on them takes several
/// times as much memory.
const CHUNK_BYTES: usize = 16 << 20;
/// Maximum size of an event or line. Metadata is reduced to its limit, so events may be larger
/// than what is stored.
const MAX_EVENT_BYTES: usize = 16 << 20;
/// Number of first bytes by which the layout is determined.
const START_BYTES: usize = 1 << 20;
/// Bytes that are read at a time while an event is incomplete.
const STEP_BYTES: usize = 1 << 20;

/// Some events of a stream, as JSON.
#[derive(Debug)]
pub struct Chunk {
    json: Vec<u8>,
    /// The position of each event, unless each line is a record.
    positions: Option<Vec<Range<usize>>>,
    /// The error after the last record.
    fault: Option<Fault>,
}

/// The reason why input after the records of a chunk is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The file holds no events.
    Foreign(String),
    /// The next record is invalid, or all that follow.
    Record(String),
}

impl Fault {
    /// The reason.
    pub fn message(&self) -> &str {
        let (Self::Foreign(message) | Self::Record(message)) = self;
        message
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.json
    }
}

impl Chunk {
    /// Iterates over the records: events, or lines that should be events.
    pub fn records(&self) -> impl Iterator<Item = &[u8]> {
        let positions = self.positions.iter().flatten();
        let listed = positions.filter_map(|position| self.json.get(position.clone()));
        let lines = self.positions.is_none().then_some(&self.json[..]);
        let lines = lines.into_iter().flat_map(crate::event::lines);
        listed.chain(lines)
    }

    /// True if each record is a line, which may hold several events, and not one event.
    pub fn has_lines(&self) -> bool {
        self.positions.is_none()
    }

    /// The error after the last record.
    pub fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }
}

/// Reads a stream chunk by chunk.
pub struct Chunks<R> {
    reader: R,
    /// Bytes that were read and are not part of a chunk yet.
    pending: Vec<u8>,
    reading: Reading,
}

enum Reading {
    Start,
    Lines,
    Document(Splitter),
    Ended,
}

impl<R: BufRead> Chunks<R> {
    /// The chunks of an uncompressed stream.
    pub fn new(reader: R) -> Self {
        Self {
            reader,
            pending: Vec::new(),
            reading: Reading::Start,
        }
    }

    /// The next chunk; `None` at the end.
    ///
    /// # Errors
    /// If the stream cannot be read.
    pub fn next_chunk(&mut self) -> Result<Option<Chunk>> {
        if let Reading::Start = self.reading
            && let Some(fault) = self.start()?
        {
            return Ok(Some(fault));
        }
        let chunk = match std::mem::replace(&mut self.reading, Reading::Ended) {
            Reading::Lines => self.lines()?,
            Reading::Document(splitter) => self.document(splitter)?,
            Reading::Start | Reading::Ended => return Ok(None),
        };
        let is_empty = chunk.json.is_empty() && chunk.fault.is_none();
        Ok((!is_empty).then_some(chunk))
    }

    /// Determines the layout. Returns a chunk without events if the stream holds none.
    fn start(&mut self) -> Result<Option<Chunk>> {
        let is_complete = !self.read(START_BYTES)?;
        let json = without_mark(&self.pending);
        let mark = self.pending.len() - json.len();
        // An archive has lines of the files in it, but not all of them are complete.
        let layout = match foreign::format(json) {
            Some(_) => Layout::Foreign,
            None => split::layout(json, is_complete),
        };
        self.reading = match layout {
            Layout::Lines => Reading::Lines,
            Layout::Document => Reading::Document(Splitter::default()),
            Layout::Foreign => Reading::Ended,
        };
        self.pending.drain(..mark);
        Ok((layout == Layout::Foreign).then(|| Chunk {
            json: Vec::new(),
            positions: None,
            fault: Some(Fault::Foreign(format!(
                "it looks like {}; allowed is JSON, one event per line or an array of events; \
                 no event of it was imported",
                foreign::looks_like(&self.pending)
            ))),
        }))
    }

    /// Reads this number of bytes more; false at the end of the stream.
    fn read(&mut self, bytes: usize) -> Result<bool> {
        let read = self
            .reader
            .by_ref()
            .take(bytes as u64)
            .read_to_end(&mut self.pending)?;
        Ok(read == bytes)
    }

    /// A chunk of complete lines.
    fn lines(&mut self) -> Result<Chunk> {
        let mut json = Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 8);
        json.append(&mut self.pending);
        let missing = CHUNK_BYTES.saturating_sub(json.len()) as u64;
        self.reader.by_ref().take(missing).read_to_end(&mut json)?;
        let mut fault = None;
        if json.len() >= CHUNK_BYTES {
            self.reading = Reading::Lines;
            if !json.ends_with(b"\n") {
                let limit = MAX_EVENT_BYTES as u64;
                let read = self
                    .reader
                    .by_ref()
                    .take(limit)
                    .read_until(b'\n', &mut json)?;
                if read == MAX_EVENT_BYTES && !json.ends_with(b"\n") {
                    json.truncate(memchr::memrchr(b'\n', &json).map_or(0, |newline| newline + 1));
                    self.skip_line()?;
                    fault = Some(Fault::Record(format!(
                        "it is longer than {MAX_EVENT_BYTES} bytes, the limit of an event"
                    )));
                }
            }
        }
        Ok(Chunk {
            json,
            positions: None,
            fault,
        })
    }

    /// Reads to the end of a line and discards it.
    fn skip_line(&mut self) -> Result<()> {
        loop {
            let bytes = self.reader.fill_buf()?;
            let newline = memchr::memchr(b'\n', bytes);
            let read = newline.map_or(bytes.len(), |newline| newline + 1);
            self.reader.consume(read);
            if newline.is_some() || read == 0 {
                return Ok(());
            }
        }
    }

    /// A chunk of complete events of an array, or of values that extend over several lines.
    fn document(&mut self, mut splitter: Splitter) -> Result<Chunk> {
        let mut positions = Vec::new();
        let mut fault = None;
        let mut is_open = true;
        loop {
            let at = splitter.position();
            // An event that is too long counts as the end, so that it is not searched repeatedly.
            let is_complete = !is_open || self.pending.len() - at > MAX_EVENT_BYTES;
            match splitter.step(&self.pending, is_complete) {
                Step::Event(position) => {
                    let end = position.end;
                    positions.push(position);
                    if end >= CHUNK_BYTES {
                        break;
                    }
                }
                Step::More => is_open = self.read(STEP_BYTES.max(self.pending.len() - at))?,
                Step::End if is_open => is_open = self.read(STEP_BYTES)?,
                Step::End => break,
                Step::Malformed(_) => {
                    let message = "the array of events is truncated or malformed from here on";
                    fault = Some(Fault::Record(message.into()));
                    break;
                }
            }
        }
        let end = splitter.position().min(self.pending.len());
        let rest = self.pending.split_off(end);
        let json = std::mem::replace(&mut self.pending, rest);
        let has_ended = fault.is_some() || (!is_open && positions.is_empty());
        if !has_ended {
            splitter.rebase();
            self.reading = Reading::Document(splitter);
        }
        Ok(Chunk {
            json,
            positions: Some(positions),
            fault,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str = r#"{"event_type":"action"}"#;

    /// The records of some input, and the error after them.
    fn records(input: &[u8]) -> (Vec<Vec<u8>>, Option<String>) {
        let mut chunks = Chunks::new(input);
        let (mut records, mut fault) = (Vec::new(), None);
        while let Some(chunk) = chunks.next_chunk().expect("memory") {
            let found = chunk.records().map(|record| record.trim_ascii().to_vec());
            records.extend(found.filter(|record| !record.is_empty()));
            fault = chunk.fault().map(|fault| format!("{fault:?}")).or(fault);
        }
        (records, fault)
    }

    #[test]
    fn events_are_found_in_every_layout_across_chunk_boundaries() {
        let event = |n: usize| format!("{{\"event_type\":\"action\",\"metadata\":{{\"n\":{n}}}}}");
        let count = 2 * CHUNK_BYTES / event(0).len();
        let events: Vec<String> = (0..count).map(event).collect();
        for (before, between, after) in [
            ("", "\n", ""),
            ("", "\r\n", "\r\n"),
            ("\u{FEFF}", "\n", "\n"),
            ("", "", ""),
            ("", " \r", ""),
            ("[", ",", "]"),
            ("[\n  ", ",\n  ", "\n]\n"),
            ("\u{FEFF}{\"events\":[", ",", "]}"),
            ("{\n \"sent_at\": 1,\n \"events\": [\n", ",\n", "]\n}\n"),
        ] {
            let input = format!("{before}{}{after}", events.join(between));
            let (found, fault) = records(input.as_bytes());
            assert_eq!(fault, None, "{before:?} {between:?}");
            assert_eq!(found.len(), count, "{before:?} {between:?}");
            let same = found.iter().zip(&events);
            assert!(
                same.into_iter()
                    .all(|(found, event)| found == event.as_bytes()),
                "{before:?} {between:?}"
            );
        }
    }

    #[test]
    fn a_line_across_a_chunk_boundary_is_one_record() {
        let filler = format!("{EVENT}\n").repeat(CHUNK_BYTES / 2 / (EVENT.len() + 1));
        let long = format!(
            r#"{{"event_type":"action","x":"{}"}}"#,
            "x".repeat(12 << 20)
        );
        let input = format!("{filler}{long}\n{EVENT}\n");
        let (found, fault) = records(input.as_bytes());
        assert_eq!(fault, None);
        assert_eq!(found.len(), filler.lines().count() + 2);
        assert_eq!(found[found.len() - 2].len(), long.len());
        // A longer line is skipped, and its end is not taken for another record.
        let longer = "x".repeat(40 << 20) + EVENT;
        let input = format!("{filler}{longer}\n{EVENT}\n{EVENT}");
        let (found, fault) = records(input.as_bytes());
        assert!(fault.is_some_and(|fault| fault.contains("longer than")));
        assert_eq!(found.len(), filler.lines().count() + 2);
    }

    #[test]
    fn a_truncated_array_yields_its_complete_events_and_an_error() {
        for input in [
            format!("[\n{EVENT},\n{EVENT},\n{{\"event_type\":"),
            format!("[\n{EVENT},\n{EVENT}\n"),
            format!("{{\"events\":[\n{EVENT},\n{EVENT},\n{{\"event_type\":\"ac"),
            format!("{{\"events\":[\n{EVENT},\n{EVENT}\n]"),
        ] {
            let (found, fault) = records(input.as_bytes());
            assert_eq!(found.len(), 2, "{input}");
            assert!(
                fault.is_some_and(|fault| fault.contains("truncated")),
                "{input}"
            );
        }
    }

    #[test]
    fn other_file_formats_are_recognised_and_not_read_further() {
        let mut tar = [&[0; 512][..], EVENT.as_bytes(), b"\n", EVENT.as_bytes()].concat();
        tar[257..262].copy_from_slice(b"ustar");
        let csv = "ts,event_type\n2025-10-21,action\n".repeat(100_000);
        for (input, says) in [
            (csv.as_bytes(), "CSV"),
            (b"PAR1\x15\x04\x15", "Parquet"),
            (b"\xff\xfe{\0\"\0a\0", "UTF-16"),
            (b"\0\0\0\0", "binary"),
            (&tar, "tar"),
        ] {
            let (found, fault) = records(input);
            assert!(found.is_empty(), "{says}");
            assert!(fault.is_some_and(|fault| fault.contains(says)), "{says}");
        }
        assert_eq!(records(b""), (Vec::new(), None));
        assert_eq!(records(b"\n \r\n"), (Vec::new(), None));
        let commented = format!("# exported today\n{EVENT}\n");
        assert_eq!(records(commented.as_bytes()).0.len(), 2);
    }
}
