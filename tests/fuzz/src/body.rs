//! Any body is rejected, or its valid events are equal after writing and parsing their lines.
#![no_main]

use echopilot_fuzz::event::{Outcome, read_batch, read_event, read_line, write_line};
use libfuzzer_sys::fuzz_target;

/// 2025-10-21T10:00:00Z
const NOW_US: i64 = 1_761_040_800_000_000;

fuzz_target!(|body: &[u8]| {
    check_line_in_a_batch(body);
    let Ok(batch) = read_batch(body) else {
        return;
    };
    let skew_us = batch.clock_skew_us(NOW_US);
    for raw in batch.events {
        let Outcome::Accepted(event, _) = raw.validate(NOW_US, skew_us) else {
            continue;
        };
        let mut line = Vec::new();
        write_line(&event, &mut line);
        assert_eq!(line.pop(), Some(b'\n'));
        assert!(!line.contains(&b'\n') && !line.contains(&0));
        let again = read_event(&line).map(|raw| raw.validate(NOW_US, 0));
        assert_eq!(again, Ok(Outcome::Accepted(event.clone(), Vec::new())));
        assert_eq!(read_line(&line), Ok(event));
    }
});

/// A line has the same outcome alone, where a faster parser may read it, and in a batch.
fn check_line_in_a_batch(line: &[u8]) {
    let Ok(alone) = read_event(line) else {
        return;
    };
    let body = [b"{\"events\":[", line, b"]}"].concat();
    let batch = read_batch(&body).expect("it holds one JSON value");
    let outcomes = batch.events.into_iter().map(|raw| raw.validate(NOW_US, 0));
    assert_eq!(outcomes.collect::<Vec<_>>(), [alone.validate(NOW_US, 0)]);
}
