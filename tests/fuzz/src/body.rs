//! Any body is refused or becomes events whose lines are read back as they were.
#![no_main]

use echopilot_fuzz::event::{Verdict, judge_stored, read_batch, read_line, write_line};
use libfuzzer_sys::fuzz_target;

/// 2025-10-21T10:00:00Z
const NOW_US: i64 = 1_761_040_800_000_000;

fuzz_target!(|body: &[u8]| {
    let Ok(batch) = read_batch(body) else {
        return;
    };
    let skew_us = batch.clock_skew_us(NOW_US);
    for raw in batch.events {
        let Verdict::Accepted(event) = raw.judge(NOW_US, skew_us) else {
            continue;
        };
        let mut line = Vec::new();
        write_line(&event, &mut line);
        assert_eq!(line.pop(), Some(b'\n'));
        assert!(!line.contains(&b'\n') && !line.contains(&0));
        assert_eq!(judge_stored(&line, NOW_US, 0), Some(Verdict::Accepted(event.clone())));
        assert_eq!(read_line(&line), Ok(event));
    }
});
