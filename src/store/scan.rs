//! Finding the events in the bytes of a log, whatever happened to them. Pure: no file is touched.
//!
//! A line is an event if its checksum holds. What follows the last whole line is a torn write; what is no
//! event before that is damage, and costs its own line alone.

use memchr::memmem;

use crate::error::Result;
use crate::event::{self, Event, LINE_START, LineError};

/// A piece of the log that is no event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Its position in the log, in bytes.
    pub offset: u64,
    /// Its length, in bytes.
    pub length: u64,
    /// Why it is none.
    pub reason: LineError,
}

/// What a scan of a log found.
#[derive(Debug, Default)]
pub struct Scan {
    /// Whole events.
    pub events: u64,
    /// Pieces that are no events, in order.
    pub damage: Vec<Damage>,
    /// Where the last whole line ends.
    pub end_of_last_line: u64,
    /// The log's length.
    pub length: u64,
}

impl Damage {
    /// What takes the place of the damage, so that the log is valid NDJSON again: blanks between two line ends,
    /// because a whole event may stand right before it and another right after it.
    pub fn blank(&self) -> Vec<u8> {
        let mut blank = vec![b' '; self.length as usize];
        if let [first, .., last] = blank.as_mut_slice() {
            (*first, *last) = (b'\n', b'\n');
        } else {
            blank.fill(b'\n');
        }
        blank
    }
}

impl Scan {
    /// Adds what a scan of the bytes from `offset` on found; of those before, all was added.
    pub fn add(&mut self, offset: u64, found: Self) {
        self.events += found.events;
        self.length = offset + found.length;
        if found.events > 0 {
            self.end_of_last_line = offset + found.end_of_last_line;
        }
        self.damage
            .extend(found.damage.into_iter().map(|damage| Damage {
                offset: damage.offset + offset,
                ..damage
            }));
    }

    /// The damage that has whole lines after it.
    pub fn damaged_inside(&self) -> impl Iterator<Item = &Damage> {
        self.damage
            .iter()
            .filter(|damage| damage.offset < self.end_of_last_line)
    }
}

/// Reads the events of some bytes of a log. Offsets count from the start of `bytes`.
///
/// # Errors
/// Only what `sink` returns.
pub fn read_chunk(bytes: &[u8], mut sink: impl FnMut(&Event<'_>) -> Result<()>) -> Result<Scan> {
    let mut scan = Scan {
        length: bytes.len() as u64,
        ..Scan::default()
    };
    let mut offset = 0;
    for line in event::lines(bytes) {
        match line.strip_suffix(b"\n").map(event::read_line) {
            Some(Ok(event)) => {
                sink(&event)?;
                scan.events += 1;
                scan.end_of_last_line = (offset + line.len()) as u64;
            }
            // A piece that was blanked out at an earlier start.
            _ if line.trim_ascii().is_empty() && line.ends_with(b"\n") => {}
            _ => read_damaged_line(line, offset, &mut scan, &mut sink)?,
        }
        offset += line.len();
    }
    Ok(scan)
}

/// Looks for whole events inside a damaged line: a damaged newline joins two, and neither should be lost.
fn read_damaged_line(
    line: &[u8],
    offset: usize,
    scan: &mut Scan,
    sink: &mut impl FnMut(&Event<'_>) -> Result<()>,
) -> Result<()> {
    let mut starts: Vec<usize> = memmem::find_iter(line, LINE_START).collect();
    if starts.first() != Some(&0) {
        starts.insert(0, 0);
    }
    let ends = starts.iter().skip(1).copied().chain([line.len()]);
    for (start, end) in starts.iter().copied().zip(ends) {
        let piece = line.get(start..end).unwrap_or_default();
        let whole = memchr::memrchr(b'}', piece).map_or(0, |brace| brace + 1);
        let mut damaged_from = start;
        let mut reason = LineError::NoChecksum;
        match event::read_line(piece.get(..whole).unwrap_or_default()) {
            // The byte after the brace stands where the newline was; without it the write was torn.
            Ok(event) if start + whole < end => {
                sink(&event)?;
                scan.events += 1;
                scan.end_of_last_line = (offset + end) as u64;
                damaged_from = start + whole;
            }
            Ok(_) => {}
            Err(found) => reason = found,
        }
        if damaged_from < end && line.get(damaged_from..end) != Some(b"\n") {
            scan.damage.push(Damage {
                offset: (offset + damaged_from) as u64,
                length: (end - damaged_from) as u64,
                reason,
            });
        }
    }
    Ok(())
}
