//! Any body of a client of another product is rejected, or each of its messages is rejected or
//! becomes an event that is equal after writing and parsing its line.
#![no_main]

use echopilot_fuzz::event::{MAX_FEATURE_CHARS, Outcome, metadata, read_line, write_line};
use echopilot_fuzz::sdk::{self, Context, Product, Received, Traits, content};
use libfuzzer_sys::fuzz_target;

/// 2026-11-26T12:00:00Z
const NOW_US: i64 = 1_795_694_400_000_000;
const PRODUCTS: [Product; 5] = [
    Product::Segment,
    Product::PostHog,
    Product::Plausible,
    Product::Mixpanel,
    Product::Umami,
];
/// Labels of encodings, which may be wrong.
const LABELS: [Option<&str>; 4] = [None, Some("gzip"), Some("deflate"), Some("br")];
const TRAITS: [Traits; 2] = [Traits::Drop, Traits::Keep];

fuzz_target!(|input: &[u8]| {
    // The choice is at the end, so that a body is a valid input as it is.
    let choice = usize::from(input.last().copied().unwrap_or_default());
    let Ok(json) = content::decode(input, LABELS[choice % LABELS.len()]) else {
        return;
    };
    assert!(serde_json::from_str::<serde::de::IgnoredAny>(&json).is_ok());
    for product in PRODUCTS {
        let _ = sdk::check_shape(product, &json);
        let Ok(batch) = sdk::read(product, &json) else {
            continue;
        };
        assert!(batch.messages.len() <= sdk::MAX_BATCH_EVENTS);
        batch.has_key(|key| sdk::is_listed(key, |key| key == "k"));
        assert_eq!(batch.uuids().count(), batch.messages.len());
        let context = Context {
            is_conversion: &|name| name.len() > 3,
            traits: TRAITS[choice % TRAITS.len()],
        };
        let received = Received {
            at_us: NOW_US,
            latest_us: NOW_US,
            corrects_clock: true,
            sent_at: batch.sent_at,
        };
        for message in batch.messages {
            let mapped = sdk::map(product, message, Some("track"), &context, received);
            let Outcome::Accepted(event, _) = mapped.outcome else {
                continue;
            };
            assert!(event.metadata.len() <= metadata::MAX_BYTES);
            assert!(event.feature.as_ref().is_none_or(|name| name.chars().count() <= MAX_FEATURE_CHARS));
            let mut line = Vec::new();
            write_line(&event, &mut line);
            assert_eq!(line.pop(), Some(b'\n'));
            assert!(!line.contains(&b'\n') && !line.contains(&0));
            assert_eq!(read_line(&line), Ok(event));
        }
    }
});
