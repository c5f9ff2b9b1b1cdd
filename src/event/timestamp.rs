//! Instants as clients write them, and as the event log writes them.
//!
//! Inside, an instant is a number of microseconds since 1970 in UTC.

use chrono::{DateTime, Datelike, NaiveDate};

use super::text::{self, Escapes};
use crate::window::DAY_US;

/// Reads a JSON value: text as [`parse_text`] does, or an epoch number whose unit follows from its magnitude.
/// `None` if it is neither.
pub fn parse(json: &str) -> Option<i64> {
    let Some(text) = json.strip_prefix('"') else {
        return parse_epoch(json);
    };
    // Some programs escape the plus of an offset.
    parse_utc(text.strip_suffix('"')?.as_bytes())
        .or_else(|| parse_text(&text::decode(json, Escapes::of(json))?))
}

/// Reads a time as people and programs write it: RFC 3339, without a zone (which is UTC), with a blank instead of the `T`, with
/// `UTC` or an offset such as `+02` or `+0200` behind a blank or not, without seconds, a date alone (its midnight), or an epoch
/// number. `None` if it is none of these.
pub fn parse_text(text: &str) -> Option<i64> {
    let text = text.trim_ascii();
    parse_rfc3339(text)
        .or_else(|| parse_iso8601(text))
        .or_else(
            || match text.bytes().find(|byte| !matches!(byte, b'+' | b'-')) {
                Some(b'0'..=b'9') => parse_epoch(text),
                _ => None,
            },
        )
}

/// Reads ISO 8601 with the liberties of [`parse_text`].
fn parse_iso8601(text: &str) -> Option<i64> {
    let (date, rest) = text.split_at_checked(10)?;
    let [y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1] = *date.as_bytes() else {
        return None;
    };
    let date = NaiveDate::from_ymd_opt(
        i32::try_from(digits(&[y0, y1, y2, y3])?).ok()?,
        digits(&[m0, m1])?,
        digits(&[d0, d1])?,
    )?;
    let midnight_us = i64::from(date.to_epoch_days()) * DAY_US;
    if rest.is_empty() {
        return Some(midnight_us);
    }
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let is_time = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b':' | b'.' | b',');
    let length = rest.bytes().take_while(|byte| is_time(byte)).count();
    let (time, zone) = rest.split_at_checked(length)?;
    Some(midnight_us + time_of_day_us(time)? - offset_us(zone)?)
}

/// Reads `10:00`, `10:00:00` or `10:00:00.5`, in µs since midnight.
fn time_of_day_us(text: &str) -> Option<i64> {
    let (whole, decimals) = match text.split_once(['.', ',']) {
        Some((whole, decimals)) if whole.len() == 8 => (whole, decimals),
        Some(_) => return None,
        None => (text, "0"),
    };
    let mut parts = whole.split(':').map(|part| {
        let number = digits(part.as_bytes()).filter(|_| part.len() == 2);
        number.map(i64::from)
    });
    let (hour, minute) = (parts.next()??, parts.next()??);
    // One of 60 is a leap second, and the second after it.
    let second = parts.next().unwrap_or(Some(0))?;
    if parts.next().is_some() || hour > 23 || minute > 59 || second > 60 || decimals.is_empty() {
        return None;
    }
    let mut micros = 0;
    for place in 0..6 {
        let digit = decimals.as_bytes().get(place).unwrap_or(&b'0');
        micros = micros * 10 + i64::from(digits(&[*digit])?);
    }
    let has_digits = decimals.bytes().all(|byte| byte.is_ascii_digit());
    has_digits.then_some((hour * 3_600 + minute * 60 + second) * 1_000_000 + micros)
}

/// Reads what follows the time of day: nothing, `Z`, `UTC`, or an offset with or without a colon and minutes, in µs.
fn offset_us(text: &str) -> Option<i64> {
    const UTC: [&str; 4] = ["", "Z", "UTC", "GMT"];
    let text = text.trim_ascii();
    if UTC.iter().any(|utc| utc.eq_ignore_ascii_case(text)) {
        return Some(0);
    }
    // As Go writes it: an offset, and its name behind it.
    let text = text.strip_suffix(" UTC").unwrap_or(text);
    let (sign, offset) = match text.strip_prefix('+') {
        Some(offset) => (1, offset),
        None => (-1, text.strip_prefix('-')?),
    };
    let (hours, minutes) = match offset.as_bytes() {
        [h0, h1] => ([*h0, *h1], *b"00"),
        [h0, h1, m0, m1] | [h0, h1, b':', m0, m1] => ([*h0, *h1], [*m0, *m1]),
        _ => return None,
    };
    let (hours, minutes) = (i64::from(digits(&hours)?), i64::from(digits(&minutes)?));
    (hours <= 23 && minutes <= 59).then_some(sign * (hours * 60 + minutes) * 60_000_000)
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

/// Appends `2025-10-21T10:00:00.000000Z`: each instant has one width, because readers that learn the form of a column from its
/// first rows fail at another one.
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
    out.extend_from_slice(&text);
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
    fn times_as_other_programs_write_them_are_understood() {
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
            ("-1.5", -1_500_000),
        ] {
            assert_eq!(parse_text(form), Some(ts_us), "{form}");
        }
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
    fn writing_and_reading_give_the_instant_back() {
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
