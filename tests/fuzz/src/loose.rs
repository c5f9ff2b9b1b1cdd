//! A text with something wrong in it: whatever is found in it is read as strict JSON, what is right and before the fault is
//! found, and it makes no difference whether the text comes at once or piece by piece.
#![no_main]

use std::ops::Range;

use echopilot_fuzz::event::split::{Splitter, Step, layout};
use echopilot_fuzz::event::{Verdict, foreign, read_batch, timestamp};
use libfuzzer_sys::fuzz_target;

/// 2025-10-21T10:00:00Z
const NOW_US: i64 = 1_761_040_800_000_000;
const GOOD: &[u8] = br#"{"event_type":"action","metadata":{"p":1}}"#;

fuzz_target!(|input: &[u8]| {
    layout(input, true);
    layout(input, false);
    foreign::looks_like(input);
    if let Ok(text) = std::str::from_utf8(input) {
        timestamp::parse_text(text);
    }
    let whole = places(input, input.len().max(1));
    let mut before = 0;
    for place in &whole {
        assert!(before <= place.start && place.start < place.end && place.end <= input.len());
        before = place.end;
    }
    if whole.len() < 50 {
        let pieces = places(input, 7);
        // What is broken at its end may be delimited otherwise; what is JSON may not.
        let strict = |places: &[Range<usize>]| -> Vec<Range<usize>> {
            let is_json = |place: &&Range<usize>| serde_json::from_slice::<serde::de::IgnoredAny>(&input[(*place).clone()]).is_ok();
            places.iter().take_while(is_json).cloned().collect()
        };
        let (whole, pieces) = (strict(&whole), strict(&pieces));
        assert!(whole.starts_with(&pieces) || pieces.starts_with(&whole), "{whole:?} {pieces:?}");
    }
    neighbours_are_kept(input);
});

/// The places of events in a text that comes in pieces of a length.
fn places(text: &[u8], piece: usize) -> Vec<Range<usize>> {
    let mut splitter = Splitter::default();
    let mut places = Vec::new();
    let mut length = 0;
    loop {
        let is_whole = length >= text.len();
        match splitter.step(&text[..length], is_whole) {
            Step::Event(place) => places.push(place),
            Step::End if is_whole => return places,
            Step::End | Step::More => {
                assert!(!is_whole, "all of it is there");
                length = (length + piece).min(text.len());
            }
            Step::Broken(_) if is_whole => return places,
            Step::Broken(_) => length = (length + piece).min(text.len()),
        }
    }
}

/// A good event before anything in a list is stored, if the list can be told.
fn neighbours_are_kept(input: &[u8]) {
    let body = [b"{\"events\":[", GOOD, b",", input, b"]}"].concat();
    let Ok(batch) = read_batch(&body) else {
        return;
    };
    let mut judged = batch.events.into_iter().map(|raw| raw.judge(NOW_US, 0));
    assert!(matches!(judged.next(), Some(Verdict::Accepted(..))));
}
