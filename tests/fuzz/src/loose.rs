//! Malformed sequences of events: the splitter finds the valid events before the malformed part,
//! and finds the same events whether the input arrives at once or in pieces.
#![no_main]

use std::ops::Range;

use echopilot_fuzz::event::split::{Splitter, Step, layout};
use echopilot_fuzz::event::{Outcome, foreign, read_batch, timestamp};
use libfuzzer_sys::fuzz_target;

/// 2025-10-21T10:00:00Z
const NOW_US: i64 = 1_761_040_800_000_000;
const GOOD: &[u8] = br#"{"event_type":"action","metadata":{"p":1}}"#;

fuzz_target!(|input: &[u8]| {
    layout(input, true);
    layout(input, false);
    foreign::looks_like(input);
    if let Ok(text) = std::str::from_utf8(input) {
        timestamp::parse_string(text);
    }
    let whole = positions(input, input.len().max(1));
    let mut before = 0;
    for position in &whole {
        assert!(before <= position.start && position.start < position.end && position.end <= input.len());
        before = position.end;
    }
    if whole.len() < 50 {
        let pieces = positions(input, 7);
        // The end of a malformed event may differ, that of valid JSON may not.
        let strict = |positions: &[Range<usize>]| -> Vec<Range<usize>> {
            let is_json = |position: &&Range<usize>| serde_json::from_slice::<serde::de::IgnoredAny>(&input[(*position).clone()]).is_ok();
            positions.iter().take_while(is_json).cloned().collect()
        };
        let (whole, pieces) = (strict(&whole), strict(&pieces));
        assert!(whole.starts_with(&pieces) || pieces.starts_with(&whole), "{whole:?} {pieces:?}");
    }
    neighbours_are_kept(input);
});

/// The positions of events in an input that arrives in pieces of this length.
fn positions(input: &[u8], piece: usize) -> Vec<Range<usize>> {
    let mut splitter = Splitter::default();
    let mut positions = Vec::new();
    let mut length = 0;
    loop {
        let is_complete = length >= input.len();
        match splitter.step(&input[..length], is_complete) {
            Step::Event(position) => positions.push(position),
            Step::End if is_complete => return positions,
            Step::End | Step::More => {
                assert!(!is_complete, "all of it is there");
                length = (length + piece).min(input.len());
            }
            Step::Malformed(_) if is_complete => return positions,
            Step::Malformed(_) => length = (length + piece).min(input.len()),
        }
    }
}

/// A valid event before any bytes in an array is stored, if the batch is accepted.
fn neighbours_are_kept(input: &[u8]) {
    let body = [b"{\"events\":[", GOOD, b",", input, b"]}"].concat();
    let Ok(batch) = read_batch(&body) else {
        return;
    };
    let mut outcomes = batch.events.into_iter().map(|raw| raw.validate(NOW_US, 0));
    assert!(matches!(outcomes.next(), Some(Outcome::Accepted(..))));
}
