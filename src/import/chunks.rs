//! A stream of events in pieces that cores work on: whole lines where each stands for itself, whole events otherwise.

use std::io::{BufRead, Read, Result};
use std::ops::Range;

use crate::event::foreign;
use crate::event::split::{self, Layout, Splitter, Step};
use crate::event::text::without_mark;

/// Bytes of events that are stored at once, as one segment of each day; a core that is at work on them takes several times as
/// much memory.
const CHUNK_BYTES: usize = 16 << 20;
/// The longest event, or line: metadata is cut to what is allowed, however much there is of it.
const MAX_EVENT_BYTES: usize = 16 << 20;
/// Bytes by which the layout is told.
const START_BYTES: usize = 1 << 20;
/// Bytes that are read at a time while an event is not whole.
const STEP_BYTES: usize = 1 << 20;

/// Some events of a stream, as text.
#[derive(Debug)]
pub struct Chunk {
    text: Vec<u8>,
    /// Where each event is, if not each line is one.
    places: Option<Vec<Range<usize>>>,
    /// What is wrong with what follows.
    fault: Option<Fault>,
}

/// Why something after the records of a chunk is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The file holds no events.
    Foreign(String),
    /// The next record cannot be read, or all that follow.
    Record(String),
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

impl Chunk {
    /// The events, or the lines that should be.
    pub fn records(&self) -> impl Iterator<Item = &[u8]> {
        let places = self.places.iter().flatten();
        let listed = places.filter_map(|place| self.text.get(place.clone()));
        let lines = self.places.is_none().then_some(&self.text[..]);
        let lines = lines.into_iter().flat_map(crate::event::lines);
        listed.chain(lines)
    }

    /// Whether each record is a line, which may hold several events, and not an event.
    pub fn has_lines(&self) -> bool {
        self.places.is_none()
    }

    /// What is wrong with what follows the last record.
    pub fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }
}

/// Reads a stream chunk after chunk.
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
    /// Of a stream that is not compressed any more.
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
        let is_empty = chunk.text.is_empty() && chunk.fault.is_none();
        Ok((!is_empty).then_some(chunk))
    }

    /// Finds the layout. A chunk without events if there is none.
    fn start(&mut self) -> Result<Option<Chunk>> {
        let is_whole = !self.read(START_BYTES)?;
        let text = without_mark(&self.pending);
        let mark = self.pending.len() - text.len();
        // Archives hold lines of the files in them, of which not all are whole.
        let layout = match foreign::format(text) {
            Some(_) => Layout::Foreign,
            None => split::layout(text, is_whole),
        };
        self.reading = match layout {
            Layout::Lines => Reading::Lines,
            Layout::Document => Reading::Document(Splitter::default()),
            Layout::Foreign => Reading::Ended,
        };
        self.pending.drain(..mark);
        Ok((layout == Layout::Foreign).then(|| Chunk {
            text: Vec::new(),
            places: None,
            fault: Some(Fault::Foreign(format!(
                "it looks like {}; allowed is JSON, one event a line or a list of events; nothing of it was imported",
                foreign::looks_like(&self.pending)
            ))),
        }))
    }

    /// Reads so many bytes more; false at the end of the stream.
    fn read(&mut self, bytes: usize) -> Result<bool> {
        let read = self
            .reader
            .by_ref()
            .take(bytes as u64)
            .read_to_end(&mut self.pending)?;
        Ok(read == bytes)
    }

    /// Whole lines.
    fn lines(&mut self) -> Result<Chunk> {
        let mut text = Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 8);
        text.append(&mut self.pending);
        let missing = CHUNK_BYTES.saturating_sub(text.len()) as u64;
        self.reader.by_ref().take(missing).read_to_end(&mut text)?;
        let mut fault = None;
        if text.len() >= CHUNK_BYTES {
            self.reading = Reading::Lines;
            if !text.ends_with(b"\n") {
                let limit = MAX_EVENT_BYTES as u64;
                let read = self
                    .reader
                    .by_ref()
                    .take(limit)
                    .read_until(b'\n', &mut text)?;
                if read == MAX_EVENT_BYTES && !text.ends_with(b"\n") {
                    text.truncate(memchr::memrchr(b'\n', &text).map_or(0, |newline| newline + 1));
                    self.skip_line()?;
                    fault = Some(Fault::Record(format!(
                        "it is longer than {MAX_EVENT_BYTES} bytes, as no event is"
                    )));
                }
            }
        }
        Ok(Chunk {
            text,
            places: None,
            fault,
        })
    }

    /// Reads to the end of a line and keeps nothing of it.
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

    /// Whole events of a list, or of values that go over lines.
    fn document(&mut self, mut splitter: Splitter) -> Result<Chunk> {
        let mut places = Vec::new();
        let mut fault = None;
        let mut is_open = true;
        loop {
            let at = splitter.position();
            // One that is too long is taken for the end: it is not looked through again and again.
            let is_whole = !is_open || self.pending.len() - at > MAX_EVENT_BYTES;
            match splitter.step(&self.pending, is_whole) {
                Step::Event(place) => {
                    let end = place.end;
                    places.push(place);
                    if end >= CHUNK_BYTES {
                        break;
                    }
                }
                Step::More => is_open = self.read(STEP_BYTES.max(self.pending.len() - at))?,
                Step::End if is_open => is_open = self.read(STEP_BYTES)?,
                Step::End => break,
                Step::Broken(_) => {
                    let message = "from here on nothing can be understood: the list of events is cut off or broken";
                    fault = Some(Fault::Record(message.into()));
                    break;
                }
            }
        }
        let end = splitter.position().min(self.pending.len());
        let rest = self.pending.split_off(end);
        let text = std::mem::replace(&mut self.pending, rest);
        let has_ended = fault.is_some() || (!is_open && places.is_empty());
        if !has_ended {
            splitter.rebase();
            self.reading = Reading::Document(splitter);
        }
        Ok(Chunk {
            text,
            places: Some(places),
            fault,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str = r#"{"event_type":"action"}"#;

    /// The records of a text, and the fault behind them.
    fn records(text: &[u8]) -> (Vec<Vec<u8>>, Option<String>) {
        let mut chunks = Chunks::new(text);
        let (mut records, mut fault) = (Vec::new(), None);
        while let Some(chunk) = chunks.next_chunk().expect("memory") {
            let found = chunk.records().map(|record| record.trim_ascii().to_vec());
            records.extend(found.filter(|record| !record.is_empty()));
            fault = chunk.fault().map(|fault| format!("{fault:?}")).or(fault);
        }
        (records, fault)
    }

    #[test]
    fn events_are_found_in_every_layout_across_the_edges_of_chunks() {
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
            let text = format!("{before}{}{after}", events.join(between));
            let (found, fault) = records(text.as_bytes());
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
    fn a_line_across_the_edge_of_a_chunk_stays_whole() {
        let filler = format!("{EVENT}\n").repeat(CHUNK_BYTES / 2 / (EVENT.len() + 1));
        let long = format!(
            r#"{{"event_type":"action","x":"{}"}}"#,
            "x".repeat(12 << 20)
        );
        let text = format!("{filler}{long}\n{EVENT}\n");
        let (found, fault) = records(text.as_bytes());
        assert_eq!(fault, None);
        assert_eq!(found.len(), filler.lines().count() + 2);
        assert_eq!(found[found.len() - 2].len(), long.len());
        // One that no event can be is passed over, and its end is not taken for another.
        let longer = "x".repeat(40 << 20) + EVENT;
        let text = format!("{filler}{longer}\n{EVENT}\n{EVENT}");
        let (found, fault) = records(text.as_bytes());
        assert!(fault.is_some_and(|fault| fault.contains("longer than")));
        assert_eq!(found.len(), filler.lines().count() + 2);
    }

    #[test]
    fn a_list_that_is_cut_off_gives_what_was_whole_and_the_fault() {
        for text in [
            format!("[\n{EVENT},\n{EVENT},\n{{\"event_type\":"),
            format!("[\n{EVENT},\n{EVENT}\n"),
            format!("{{\"events\":[\n{EVENT},\n{EVENT},\n{{\"event_type\":\"ac"),
            format!("{{\"events\":[\n{EVENT},\n{EVENT}\n]"),
        ] {
            let (found, fault) = records(text.as_bytes());
            assert_eq!(found.len(), 2, "{text}");
            assert!(
                fault.is_some_and(|fault| fault.contains("cut off")),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_json_is_named_and_not_read_further() {
        let mut tar = [&[0; 512][..], EVENT.as_bytes(), b"\n", EVENT.as_bytes()].concat();
        tar[257..262].copy_from_slice(b"ustar");
        let csv = "ts,event_type\n2025-10-21,action\n".repeat(100_000);
        for (text, says) in [
            (csv.as_bytes(), "CSV"),
            (b"PAR1\x15\x04\x15", "Parquet"),
            (b"\xff\xfe{\0\"\0a\0", "UTF-16"),
            (b"\0\0\0\0", "binary"),
            (&tar, "tar"),
        ] {
            let (found, fault) = records(text);
            assert!(found.is_empty(), "{says}");
            assert!(fault.is_some_and(|fault| fault.contains(says)), "{says}");
        }
        assert_eq!(records(b""), (Vec::new(), None));
        assert_eq!(records(b"\n \r\n"), (Vec::new(), None));
        let commented = format!("# exported today\n{EVENT}\n");
        assert_eq!(records(commented.as_bytes()).0.len(), 2);
    }
}
