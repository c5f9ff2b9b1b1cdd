//! Parses log bytes into events and damaged ranges. Pure: it opens no file.
//!
//! A line is an event if its checksum matches. Bytes after the last valid line are a torn write.
//! Other bytes that are not events are damage, which affects its own line only.

use memchr::memmem;

use crate::error::Result;
use crate::event::{self, Event, LINE_START, LineError};

/// A piece of the log that is not an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Its position in the log, in bytes.
    pub offset: u64,
    /// Its length, in bytes.
    pub length: u64,
    /// The reason why the bytes are not a valid event.
    pub reason: LineError,
}

/// Result of scanning a log.
#[derive(Debug, Default)]
pub struct Scan {
    /// Number of valid events.
    pub events: u64,
    /// Pieces that are not events, in order.
    pub damage: Vec<Damage>,
    /// End of the last valid line, in bytes.
    pub end_of_last_line: u64,
    /// Length of the log, in bytes.
    pub length: u64,
}

impl Damage {
    /// Replacement of the damage that makes the log valid NDJSON again: blanks between two
    /// newlines, because a valid event may end right before the damage and another begin right
    /// after it.
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
    /// Adds the result of scanning the bytes from `offset` on, which follow those added so far.
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

    /// The damage before the last valid line.
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

/// Searches a damaged line for valid events: a damaged newline joins two, and neither must be lost.
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
        let object = memchr::memrchr(b'}', piece).map_or(0, |brace| brace + 1);
        let mut damaged_from = start;
        let mut reason = LineError::NoChecksum;
        match event::read_line(piece.get(..object).unwrap_or_default()) {
            // The byte after the brace is the damaged newline; without one the write was torn.
            Ok(event) if start + object < end => {
                sink(&event)?;
                scan.events += 1;
                scan.end_of_last_line = (offset + end) as u64;
                damaged_from = start + object;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{EventType, write_line};

    fn line(ts_us: i64) -> Vec<u8> {
        let mut line = Vec::new();
        let event = Event {
            ts_us,
            event_type: EventType::Action,
            user_id: Some("u".into()),
            feature: None,
            metadata: "{}".into(),
            url: None,
            event_id: None,
            received_at_us: ts_us,
        };
        write_line(&event, &mut line);
        line
    }

    /// The times of the events in some bytes, and the result of the scan.
    fn scanned(bytes: &[u8]) -> (Vec<i64>, Scan) {
        let mut times = Vec::new();
        let scan = read_chunk(bytes, |event| {
            times.push(event.ts_us);
            Ok(())
        });
        (times, scan.expect("the sink accepts all"))
    }

    /// Ranges of the damage.
    fn damaged(scan: &Scan) -> Vec<(u64, u64)> {
        let damage = scan.damage.iter();
        damage
            .map(|damage| (damage.offset, damage.length))
            .collect()
    }

    #[test]
    fn damage_affects_its_own_line_only() {
        let [one, two, three] = [1, 2, 3].map(line);
        let length = one.len() as u64;
        let mut flipped = two.clone();
        flipped[20] ^= 1;
        let bytes = [&one[..], &flipped, &three].concat();
        let (times, scan) = scanned(&bytes);
        assert_eq!(times, [1, 3]);
        assert_eq!(damaged(&scan), [(length, length)]);
        assert_eq!(scan.damaged_inside().count(), 1);
        assert_eq!((scan.events, scan.end_of_last_line), (2, 3 * length));
        // Once it is blanked the log has no damage and the same events.
        let blank = scan.damage[0].blank();
        let repaired = [&one[..], &blank, &three].concat();
        let (times, scan) = scanned(&repaired);
        assert_eq!((times, damaged(&scan)), (vec![1, 3], vec![]));
    }

    #[test]
    fn an_event_next_to_a_damaged_newline_is_found() {
        let (one, two) = (line(1), line(2));
        let mut joined = [&one[..], &two].concat();
        joined[one.len() - 1] = b' ';
        let (times, scan) = scanned(&joined);
        assert_eq!(times, [1, 2]);
        assert_eq!(damaged(&scan), [(one.len() as u64 - 1, 1)]);
        assert_eq!(scan.damage[0].blank(), b"\n");
    }

    #[test]
    fn bytes_after_the_last_valid_line_are_a_torn_write() {
        let (one, two) = (line(1), line(2));
        for cut in 1..two.len() {
            let bytes = [&one[..], &two[..cut]].concat();
            let (times, scan) = scanned(&bytes);
            assert_eq!(times, [1], "cut at {cut}");
            assert_eq!(damaged(&scan), [(one.len() as u64, cut as u64)]);
            assert_eq!(scan.damaged_inside().count(), 0);
            assert_eq!(scan.end_of_last_line, one.len() as u64);
        }
    }

    #[test]
    fn scans_of_chunks_add_up_to_the_scan_of_the_log() {
        let mut log = [line(1), b"damage\n".to_vec(), line(2), line(3)].concat();
        log.extend_from_slice(b"torn");
        let (_, all) = scanned(&log);
        for cut in [0, line(1).len(), line(1).len() + 7, log.len() - 4] {
            let mut sum = Scan::default();
            sum.add(0, scanned(&log[..cut]).1);
            sum.add(cut as u64, scanned(&log[cut..]).1);
            assert_eq!(damaged(&sum), damaged(&all), "cut at {cut}");
            assert_eq!(
                (sum.events, sum.end_of_last_line, sum.length),
                (all.events, all.end_of_last_line, all.length)
            );
        }
    }
}
