//! Timestamps: the forms that clients send, and the one form of the event log.
//!
//! In memory a timestamp is a number of microseconds since 1970 in UTC. RFC 3339 is parsed by
//! `chrono`; the other forms are rewritten as RFC 3339 first, so that one parser checks all dates.

use std::borrow::Cow;

use chrono::{DateTime, Datelike, NaiveDate};

use super::text::{self, Escapes};
use crate::window::DAY_US;

/// Parses a JSON value: a string in a form of [`parse_string`], or an epoch number. `None` if it is
/// neither.
pub fn parse(json: &str) -> Option<i64> {
    let Some(string) = json.strip_prefix('"') else {
        return parse_epoch(json);
    };
    parse_rfc3339(string.strip_suffix('"')?)
        // Some programs escape the plus of an offset.
        .or_else(|| parse_string(&text::decode(json, Escapes::of(json))?))
}

/// Parses a timestamp in one of the forms that people and programs write: RFC 3339; the same
/// without a zone (UTC), with a blank instead of the `T`, with `UTC`, `GMT` or an offset such as
/// `+02` or `+0200`, after a blank or not, without seconds; a date alone (its midnight); or an
/// epoch number. `None` for any other string.
pub fn parse_string(string: &str) -> Option<i64> {
    let string = string.trim_ascii();
    parse_rfc3339(string)
        .or_else(|| parse_iso8601(string))
        .or_else(
            || match string.bytes().find(|byte| !matches!(byte, b'+' | b'-')) {
                Some(b'0'..=b'9') => parse_epoch(string),
                _ => None,
            },
        )
}

/// Parses ISO 8601 in the forms of [`parse_string`], by rewriting it as RFC 3339.
fn parse_iso8601(string: &str) -> Option<i64> {
    let (date, rest) = string.split_at_checked(10)?;
    if rest.is_empty() {
        return parse_rfc3339(&format!("{date}T00:00:00Z"));
    }
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let is_time = |char: char| char.is_ascii_digit() || matches!(char, ':' | '.' | ',');
    let (time, zone) = rest.split_at(rest.find(|char| !is_time(char)).unwrap_or(rest.len()));
    let time = time.replace(',', ".");
    let seconds = if time.len() == 5 { ":00" } else { "" };
    parse_rfc3339(&format!("{date}T{time}{seconds}{}", offset(zone)?))
}

/// The RFC 3339 offset of a zone: nothing, `Z`, `UTC`, `GMT`, or an offset with or without a colon
/// and minutes. Its digits are not checked.
fn offset(zone: &str) -> Option<Cow<'_, str>> {
    const UTC: [&str; 4] = ["", "Z", "UTC", "GMT"];
    let zone = zone.trim_ascii();
    if UTC.iter().any(|utc| utc.eq_ignore_ascii_case(zone)) {
        return Some("Z".into());
    }
    // Go writes the name of the zone after its offset.
    let zone = zone.strip_suffix(" UTC").unwrap_or(zone);
    if !zone.starts_with(['+', '-']) {
        return None;
    }
    Some(match zone.split_at_checked(3)? {
        (hours, "") => format!("{hours}:00").into(),
        (hours, minutes) if minutes.len() == 2 => format!("{hours}:{minutes}").into(),
        _ => zone.into(),
    })
}

/// Parses an RFC 3339 string, such as `2025-10-21T10:00:00.5+02:00`. A leap second becomes the
/// second after it, and digits beyond microseconds are dropped.
pub fn parse_rfc3339(string: &str) -> Option<i64> {
    let time = DateTime::parse_from_rfc3339(string).ok()?;
    Some(time.timestamp_micros())
}

/// Parses an epoch number in s, ms, µs or ns. A count of one unit reaches the next unit's range
/// only after the year 5138, so the magnitude determines the unit.
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

/// Appends `2025-10-21T10:00:00.000000Z`. All timestamps have the same width, because readers that
/// infer the format of a column from its first rows fail on another one.
///
/// Each accepted event is written twice this way; `chrono`'s formatter takes 2.6 times as long.
pub fn write(ts_us: i64, out: &mut Vec<u8>) {
    // Accepted timestamps lie within two years of the server's clock: none falls back to 1970.
    let days = i32::try_from(ts_us.div_euclid(DAY_US)).unwrap_or_default();
    let date = NaiveDate::from_epoch_days(days).unwrap_or_default();
    let micros_of_day = ts_us.rem_euclid(DAY_US);
    let seconds = (micros_of_day / 1_000_000) as u32;
    let micros = (micros_of_day % 1_000_000) as u32;
    let mut string = *b"0000-00-00T00:00:00.000000Z";
    put(&mut string, 0, 4, date.year().clamp(0, 9999).unsigned_abs());
    put(&mut string, 5, 2, date.month());
    put(&mut string, 8, 2, date.day());
    put(&mut string, 11, 2, seconds / 3_600);
    put(&mut string, 14, 2, seconds / 60 % 60);
    put(&mut string, 17, 2, seconds % 60);
    put(&mut string, 20, 6, micros);
    out.extend_from_slice(&string);
}

/// Writes the last `width` decimal digits of `value` at `at`.
fn put(string: &mut [u8], at: usize, width: usize, mut value: u32) {
    for digit in string.iter_mut().skip(at).take(width).rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_of_one_timestamp_are_equal() {
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
    fn timestamps_of_other_programs_are_accepted() {
        for form in [
            "2025-10-21T10:00:00",
            "2025-10-21 10:00:00",
            "2025-10-21 10:00",
            "2025-10-21T10:00Z",
            "2025-10-21t10:00:00z",
            "2025-10-21T10:00:00+0000",
            "2025-10-21T10:00:00+00",
            "2025-10-21T10:00:00-00:00",
            "2025-10-21 10:00:00+00",
            "2025-10-21 10:00:00 UTC",
            "2025-10-21 10:00:00.000 utc",
            "2025-10-21 10:00:00 GMT",
            "2025-10-21 10:00:00 +0000",
            "2025-10-21 10:00:00.000000000 +0000 UTC",
            "2025-10-21T12:00:00+0200",
            "2025-10-21T12:00:00+02",
            "2025-10-21 12:00:00 +02:00",
            "2025-10-21 05:30:00-0430",
            "2025-10-21 10:00:00,000",
            " 2025-10-21T10:00:00Z ",
            r"2025-10-21T12:00:00\u002B02:00",
            "1761040800",
            "1761040800.0",
            "1761040800000",
            "1761040800000000",
            " 1761040800000000000 ",
            "+1761040800",
        ] {
            let json = format!("\"{form}\"");
            assert_eq!(parse(&json), Some(1_761_040_800_000_000), "{form}");
        }
        for (form, ts_us) in [
            ("2025-10-21", 1_761_004_800_000_000),
            ("2025-10-21 10:00:00.1234567", 1_761_040_800_123_456),
            ("2016-12-31 23:59:60", 1_483_228_800_000_000),
            ("2016-12-31T23:59:60.5+01", 1_483_225_200_500_000),
            ("-1.5", -1_500_000),
        ] {
            assert_eq!(parse_string(form), Some(ts_us), "{form}");
        }
    }

    #[test]
    fn invalid_timestamps_are_rejected() {
        for form in [
            r#""""#,
            r#"" ""#,
            r#""yesterday""#,
            r#""2025-02-29T00:00:00Z""#,
            r#""2025-02-29""#,
            r#""2025-10-21T""#,
            r#""2025-10-21T10""#,
            r#""2025-10-21T1:00""#,
            r#""2025-10-21T10:00:00.""#,
            r#""2025-10-21T10:00:00.1x""#,
            r#""2025-10-21T10:00.5""#,
            r#""2025-10-21T24:00:00""#,
            r#""2025-10-21T10:60:00""#,
            r#""2025-10-21T10:00:61""#,
            r#""2025-10-21T10:00:00:00""#,
            r#""2025-10-21T10:00:00+1""#,
            r#""2025-10-21T10:00:00+24""#,
            r#""2025-10-21T10:00:00+0060""#,
            r#""2025-10-21T10:00:00 -02:00:00""#,
            r#""2025-10-21T10:00:00 \u221202:00""#,
            r#""2025-10-21_10:00:00Z""#,
            r#""2025-10-21T10:00:00 Mars""#,
            r#""2025-10-21T10:00:00 Europe/Berlin""#,
            r#""2025-10-21 10:00:00 PM""#,
            r#""21-10-2025 10:00:00""#,
            r#""10/21/2025""#,
            r#""NaN""#,
            r#""inf""#,
            r#""-infinity""#,
            r#""1e400""#,
            r#""0x10""#,
            r#""--5""#,
            r#""é025-10-21""#,
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
    fn written_timestamps_parse_to_the_same_value() {
        for (ts_us, text) in [
            (1_761_040_800_000_000, "2025-10-21T10:00:00.000000Z"),
            (1_761_040_800_120_000, "2025-10-21T10:00:00.120000Z"),
            (1_761_040_800_000_001, "2025-10-21T10:00:00.000001Z"),
            (1_709_164_800_000_000, "2024-02-29T00:00:00.000000Z"),
        ] {
            let mut out = Vec::new();
            write(ts_us, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), text);
            assert_eq!(parse_rfc3339(text), Some(ts_us));
        }
    }
}
