//! Any body is refused or becomes events whose lines are read back as they were.
#![no_main]

use echopilot_fuzz::event::{Verdict, read_batch, read_event, read_line, write_line};
use libfuzzer_sys::fuzz_target;

/// 2025-10-21T10:00:00Z
const NOW_US: i64 = 1_761_040_800_000_000;

fuzz_target!(|body: &[u8]| {
    one_line_and_a_batch_of_it_are_judged_alike(body);
    let Ok(batch) = read_batch(body) else {
        return;
    };
    let skew_us = batch.clock_skew_us(NOW_US);
    for raw in batch.events {
        let Verdict::Accepted(event, _) = raw.judge(NOW_US, skew_us) else {
            continue;
        };
        let mut line = Vec::new();
        write_line(&event, &mut line);
        assert_eq!(line.pop(), Some(b'\n'));
        assert!(!line.contains(&b'\n') && !line.contains(&0));
        let again = read_event(&line).map(|raw| raw.judge(NOW_US, 0));
        assert_eq!(again, Ok(Verdict::Accepted(event.clone(), Vec::new())));
        assert_eq!(read_line(&line), Ok(event));
    }
});

/// A line alone may be read by a quicker way.
fn one_line_and_a_batch_of_it_are_judged_alike(line: &[u8]) {
    let Ok(alone) = read_event(line) else {
        return;
    };
    let body = [b"{\"events\":[", line, b"]}"].concat();
    let batch = read_batch(&body).expect("it holds one JSON value");
    let judged = batch.events.into_iter().map(|raw| raw.judge(NOW_US, 0));
    assert_eq!(judged.collect::<Vec<_>>(), [alone.judge(NOW_US, 0)]);
}
