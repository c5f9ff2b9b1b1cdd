//! Instants as clients write them, and as the event log writes them.
//!
//! Inside, an instant is a number of microseconds since 1970 in UTC.

use chrono::{DateTime, Datelike, NaiveDate};

use crate::window::DAY_US;

/// Reads RFC 3339 text with any offset, or an epoch number whose unit follows from its magnitude.
/// `None` if it is neither.
pub fn parse(json: &str) -> Option<i64> {
    match json.strip_prefix('"') {
        Some(rest) => parse_rfc3339(rest.strip_suffix('"')?),
        None => parse_epoch(json),
    }
}

/// Reads RFC 3339 text, such as `2025-10-21T10:00:00.5+02:00`. A leap second is the second after it.
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    parse_utc(text.as_bytes()).or_else(|| {
        DateTime::parse_from_rfc3339(text)
            .ok()
            .map(|instant| instant.timestamp_micros())
    })
}

/// Reads the form that nearly every event has, `2025-10-21T10:00:00.123Z`, in a fifth of the time that the
/// general reader takes. `None` for any other form, right or wrong.
fn parse_utc(text: &[u8]) -> Option<i64> {
    let (date_and_time, rest) = text.split_first_chunk::<19>()?;
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if separators
        .iter()
        .any(|(at, byte)| date_and_time.get(*at) != Some(byte))
    {
        return None;
    }
    let field = |from: usize, to: usize| digits(date_and_time.get(from..to)?);
    let date = NaiveDate::from_ymd_opt(
        i32::try_from(field(0, 4)?).ok()?,
        field(5, 7)?,
        field(8, 10)?,
    )?;
    let (hour, minute, second) = (field(11, 13)?, field(14, 16)?, field(17, 19)?);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let micros = match rest {
        b"Z" => 0,
        [b'.', decimals @ .., b'Z'] if (1..=6).contains(&decimals.len()) => {
            digits(decimals)? * 10_u32.pow(6 - decimals.len() as u32)
        }
        _ => return None,
    };
    let days = i64::from(date.to_epoch_days());
    let seconds = days * 86_400 + i64::from(hour * 3_600 + minute * 60 + second);
    Some(seconds * 1_000_000 + i64::from(micros))
}

/// The number that some decimal digits, at most nine, stand for.
fn digits(text: &[u8]) -> Option<u32> {
    text.iter().try_fold(0, |number, byte| {
        byte.is_ascii_digit()
            .then(|| number * 10 + u32::from(byte - b'0'))
    })
}

/// Reads an epoch number in s, ms, µs or ns. A count of one unit reaches the next unit's range only after
/// the year 5138, so the magnitude names the unit.
fn parse_epoch(json: &str) -> Option<i64> {
    const SECONDS_BELOW: u128 = 100_000_000_000;
    const MILLIS_BELOW: u128 = SECONDS_BELOW * 1_000;
    const MICROS_BELOW: u128 = MILLIS_BELOW * 1_000;
    const NANOS_BELOW: u128 = MICROS_BELOW * 1_000;
    if let Ok(number) = json.parse::<i128>() {
        return match number.unsigned_abs() {
            magnitude if magnitude < SECONDS_BELOW => i64::try_from(number * 1_000_000).ok(),
            magnitude if magnitude < MILLIS_BELOW => i64::try_from(number * 1_000).ok(),
            magnitude if magnitude < MICROS_BELOW => i64::try_from(number).ok(),
            magnitude if magnitude < NANOS_BELOW => i64::try_from(number.div_euclid(1_000)).ok(),
            _ => None,
        };
    }
    let number: f64 = json.parse().ok()?;
    let micros = match number.abs() {
        magnitude if magnitude < SECONDS_BELOW as f64 => number * 1e6,
        magnitude if magnitude < MILLIS_BELOW as f64 => number * 1e3,
        magnitude if magnitude < MICROS_BELOW as f64 => number,
        magnitude if magnitude < NANOS_BELOW as f64 => number / 1e3,
        _ => return None,
    };
    Some(micros.round() as i64)
}

/// Appends `2025-10-21T10:00:00Z`, with three or six decimals where the instant has them.
pub fn write(ts_us: i64, out: &mut Vec<u8>) {
    // Accepted instants lie within two years of the server's clock, so this holds for every event.
    let days = i32::try_from(ts_us.div_euclid(DAY_US)).unwrap_or_default();
    let date = NaiveDate::from_epoch_days(days).unwrap_or_default();
    let micros_of_day = ts_us.rem_euclid(DAY_US);
    let seconds = (micros_of_day / 1_000_000) as u32;
    let micros = (micros_of_day % 1_000_000) as u32;
    let mut text = *b"0000-00-00T00:00:00.000000Z";
    put(&mut text, 0, 4, date.year().clamp(0, 9999).unsigned_abs());
    put(&mut text, 5, 2, date.month());
    put(&mut text, 8, 2, date.day());
    put(&mut text, 11, 2, seconds / 3_600);
    put(&mut text, 14, 2, seconds / 60 % 60);
    put(&mut text, 17, 2, seconds % 60);
    put(&mut text, 20, 6, micros);
    let kept = match micros {
        0 => 19,
        micros if micros.is_multiple_of(1_000) => 23,
        _ => 26,
    };
    out.extend(text.iter().take(kept));
    out.push(b'Z');
}

/// Writes the last `width` decimal digits of `value` at `at`.
fn put(text: &mut [u8], at: usize, width: usize, mut value: u32) {
    for digit in text.iter_mut().skip(at).take(width).rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_one_instant_is_the_same_instant() {
        for form in [
            r#""2025-10-21T10:00:00.123456Z""#,
            r#""2025-10-21T12:00:00.123456+02:00""#,
            r#""2025-10-21T05:30:00.123456-04:30""#,
            "1761040800123456",
            "1761040800123456000",
            "1761040800.123456",
        ] {
            assert_eq!(parse(form), Some(1_761_040_800_123_456), "{form}");
        }
        assert_eq!(parse("1761040800"), Some(1_761_040_800_000_000));
        assert_eq!(parse("1761040800123"), Some(1_761_040_800_123_000));
        assert_eq!(
            parse(r#""2016-12-31T23:59:60Z""#),
            parse(r#""2017-01-01T00:00:00Z""#)
        );
    }

    #[test]
    fn the_quick_reader_agrees_with_the_general_one_or_passes() {
        let forms = [
            "2024-02-29T23:59:59Z",
            "2025-02-29T00:00:00Z",
            "2025-10-21T10:00:00.1Z",
            "2025-10-21T10:00:00.123456Z",
            "2025-10-21T10:00:00.1234567Z",
            "2025-10-21T10:00:00.Z",
            "1969-12-31T23:59:59.999999Z",
            "0000-01-01T00:00:00Z",
            "9999-12-31T23:59:59Z",
            "2025-10-21T24:00:00Z",
            "2025-10-21T10:60:00Z",
            "2025-10-21T10:00:60Z",
            "2025-1-021T10:00:00Z",
            "2025-10-21T10:00:00",
            "2025-10-21T10:00:00+00:00",
            "2025-10-21 10:00:00Z",
            "+025-10-21T10:00:00Z",
        ];
        for text in forms {
            let general = DateTime::parse_from_rfc3339(text)
                .ok()
                .map(|instant| instant.timestamp_micros());
            let quick = parse_utc(text.as_bytes());
            assert!(
                quick.is_none() || quick == general,
                "{text}: {quick:?}, {general:?}"
            );
        }
        assert!(
            forms
                .iter()
                .filter(|text| parse_utc(text.as_bytes()).is_some())
                .count()
                >= 6
        );
    }

    #[test]
    fn what_is_no_instant_is_none() {
        for form in [
            r#""""#,
            r#""yesterday""#,
            r#""2025-02-29T00:00:00Z""#,
            r#""1761040800""#,
            "true",
            "[]",
            "1e400",
            "123456789012345678901234567890",
            r#"""#,
        ] {
            assert_eq!(parse(form), None, "{form}");
        }
    }

    #[test]
    fn writing_and_reading_give_the_instant_back() {
        for (ts_us, text) in [
            (1_761_040_800_000_000, "2025-10-21T10:00:00Z"),
            (1_761_040_800_120_000, "2025-10-21T10:00:00.120Z"),
            (1_761_040_800_000_001, "2025-10-21T10:00:00.000001Z"),
            (1_709_164_800_000_000, "2024-02-29T00:00:00Z"),
        ] {
            let mut out = Vec::new();
            write(ts_us, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), text);
            assert_eq!(parse_rfc3339(text), Some(ts_us));
        }
    }
}
