//! Any log is scanned without a panic, and a repaired log has the same events and no damage.
#![no_main]

use echopilot_fuzz::event::{Event, EventType, write_line};
use echopilot_fuzz::scan::read_chunk;
use libfuzzer_sys::fuzz_target;

/// Lines with strings that look like the format itself.
fn log() -> Vec<u8> {
    let mut log = Vec::new();
    for (number, feature) in ["f", "{\"ts\":\"", "\"}\n", "\",\"crc32c\":\"", ""].into_iter().enumerate() {
        let event = Event {
            ts_us: 1_761_040_800_000_000 + number as i64,
            event_type: EventType::Action,
            user_id: Some(number.to_string().into()),
            feature: Some(feature.into()),
            metadata: "{}".into(),
            url: None,
            event_id: None,
            received_at_us: 1_761_040_800_000_000,
        };
        write_line(&event, &mut log);
    }
    log
}

/// A valid log, changed as the input says: position, operation and byte of each change; the rest
/// is appended.
fn damaged(input: &[u8]) -> Vec<u8> {
    let mut log = log();
    let Some((&changes, mut rest)) = input.split_first() else {
        return log;
    };
    for _ in 0..changes % 8 {
        let Some((change, after)) = rest.split_first_chunk::<4>() else {
            break;
        };
        rest = after;
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % log.len().max(1);
        match change[2] % 4 {
            0 => log.truncate(at),
            1 => log.insert(at, change[3]),
            2 if !log.is_empty() => drop(log.remove(at)),
            _ => log.iter_mut().skip(at).take(1).for_each(|byte| *byte = change[3]),
        }
    }
    log.extend_from_slice(rest);
    log
}

fuzz_target!(|input: &[u8]| {
    let mut log = damaged(input);
    let mut found = Vec::new();
    let scan = read_chunk(&log, |event| {
        found.push(event.ts_us);
        Ok(())
    })
    .expect("the sink does not fail");
    assert_eq!(scan.events, found.len() as u64);
    assert!(scan.end_of_last_line <= log.len() as u64);
    let mut before = 0;
    for damage in &scan.damage {
        assert!(damage.length > 0 && damage.offset >= before);
        before = damage.offset + damage.length;
    }
    assert!(before <= log.len() as u64);
    for damage in scan.damaged_inside() {
        let at = damage.offset as usize;
        log.splice(at..at + damage.length as usize, damage.blank());
    }
    log.truncate(scan.end_of_last_line as usize);
    let mut again = Vec::new();
    let repaired = read_chunk(&log, |event| {
        again.push(event.ts_us);
        Ok(())
    })
    .expect("the sink does not fail");
    assert_eq!(again, found);
    assert!(repaired.damage.is_empty());
});
