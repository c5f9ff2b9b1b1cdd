//! JSON numbers, compared exactly by value: `10`, `10.0` and `1e1` are equal, and no two integers
//! become equal by rounding.

use std::borrow::Cow;
use std::cmp::Ordering;

/// Maximum number of digits that are written without an exponent: more than a 64-bit integer has.
const MAX_PLAIN_DIGITS: i64 = 40;

/// A JSON number.
#[derive(Debug, Clone, PartialEq)]
pub struct Number {
    /// The nearest double. Numbers with different doubles have the order of these.
    nearest: f64,
    decimal: Decimal,
}

/// The value `0.digits × 10^exponent`, without zeros at either end of the digits. Zero has no
/// digits.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Decimal {
    is_negative: bool,
    digits: String,
    exponent: i64,
}

impl Number {
    /// Parses a JSON number. `None` for any other string, such as `NaN`, `+1`, `01`, `.5` or one
    /// with blanks.
    pub fn parse(string: &str) -> Option<Self> {
        if !is_number(string) {
            return None;
        }
        Some(Self {
            nearest: string.parse().ok()?,
            decimal: Decimal::of(string),
        })
    }

    /// The nearest double, infinite beyond the greatest one.
    pub fn nearest(&self) -> f64 {
        self.nearest
    }

    /// The canonical notation of its value: digits without an exponent if they are few.
    pub fn notation(&self) -> String {
        self.decimal.notation()
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match self.nearest.partial_cmp(&other.nearest)? {
            Ordering::Equal => Some(self.decimal.compare(&other.decimal)),
            unequal => Some(unequal),
        }
    }
}

/// The canonical notation of a number. A string that is not a JSON number is returned unchanged.
pub fn canonical(string: &str) -> Cow<'_, str> {
    let is_plain = string.len() as i64 <= MAX_PLAIN_DIGITS
        && !string.starts_with("-0")
        && string
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'-');
    if is_plain || !is_number(string) {
        return Cow::Borrowed(string);
    }
    Cow::Owned(Decimal::of(string).notation())
}

/// True if a string is a number by the grammar of JSON.
fn is_number(string: &str) -> bool {
    let digits = |string: &str| string.bytes().take_while(u8::is_ascii_digit).count();
    let string = string.strip_prefix('-').unwrap_or(string);
    let integer = digits(string);
    if integer == 0 || (integer > 1 && string.starts_with('0')) {
        return false;
    }
    let mut rest = string.get(integer..).unwrap_or_default();
    if let Some(fraction) = rest.strip_prefix('.') {
        let count = digits(fraction);
        if count == 0 {
            return false;
        }
        rest = fraction.get(count..).unwrap_or_default();
    }
    if let Some(exponent) = rest.strip_prefix(['e', 'E']) {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        let count = digits(exponent);
        return count > 0 && count == exponent.len();
    }
    rest.is_empty()
}

impl Decimal {
    /// Parses a number that [`is_number`] accepts.
    fn of(number: &str) -> Self {
        let (is_negative, number) = match number.strip_prefix('-') {
            Some(positive) => (true, positive),
            None => (false, number),
        };
        let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = format!("{whole}{fraction}");
        let significant = all.trim_start_matches('0');
        let digits = significant.trim_end_matches('0').to_owned();
        if digits.is_empty() {
            return Self {
                is_negative: false,
                digits,
                exponent: 0,
            };
        }
        // An exponent that overflows an i64 is beyond all others.
        let exponent = exponent.parse().unwrap_or(if exponent.starts_with('-') {
            i64::MIN / 2
        } else {
            i64::MAX / 2
        });
        let leading_zeros = (all.len() - significant.len()) as i64;
        Self {
            is_negative,
            digits,
            exponent: exponent.saturating_add(whole.len() as i64 - leading_zeros),
        }
    }

    fn compare(&self, other: &Self) -> Ordering {
        let sign = |decimal: &Self| match (decimal.digits.is_empty(), decimal.is_negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        };
        let magnitude = |one: &Self, other: &Self| {
            // Digits compare as strings, because both begin with a digit that is not 0.
            (one.exponent, &one.digits).cmp(&(other.exponent, &other.digits))
        };
        sign(self).cmp(&sign(other)).then_with(|| {
            if self.is_negative {
                magnitude(other, self)
            } else {
                magnitude(self, other)
            }
        })
    }

    fn notation(&self) -> String {
        let sign = if self.is_negative { "-" } else { "" };
        let digits = &self.digits;
        let length = digits.len() as i64;
        match self.exponent {
            _ if digits.is_empty() => "0".into(),
            exponent if exponent >= length && exponent <= MAX_PLAIN_DIGITS => {
                let zeros = "0".repeat((exponent - length).unsigned_abs() as usize);
                format!("{sign}{digits}{zeros}")
            }
            exponent if exponent > 0 && exponent < length => {
                let (whole, fraction) = digits.split_at(exponent.unsigned_abs() as usize);
                format!("{sign}{whole}.{fraction}")
            }
            exponent if exponent <= 0 && length - exponent <= MAX_PLAIN_DIGITS => {
                let zeros = "0".repeat(exponent.unsigned_abs() as usize);
                format!("{sign}0.{zeros}{digits}")
            }
            exponent => {
                let (first, others) = digits.split_at(1);
                let point = if others.is_empty() { "" } else { "." };
                format!("{sign}{first}{point}{others}e{}", exponent - 1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_notations_of_a_value_have_one_canonical_notation() {
        for (notations, expected) in [
            (
                &["10", "10.0", "1e1", "1E+1", "100e-1", "0.1e2", "10.000"][..],
                "10",
            ),
            (
                &[
                    "0",
                    "-0",
                    "0.0",
                    "-0.00",
                    "0e5",
                    "-0e-999999999999999999999",
                ],
                "0",
            ),
            (&["0.5", "5e-1", "0.50", "50E-2"], "0.5"),
            (&["-1.25", "-125e-2", "-0.125e1"], "-1.25"),
            (&["0.001", "1e-3"], "0.001"),
            (
                &[
                    "9007199254740993",
                    "9007199254740993.0",
                    "9.007199254740993e15",
                ],
                "9007199254740993",
            ),
            (
                &["123456789012345678901234567890"],
                "123456789012345678901234567890",
            ),
            (&["1e300", "10e299", "1.0e+300"], "1e300"),
            (&["-1.5e-300", "-15e-301"], "-1.5e-300"),
        ] {
            for notation in notations {
                assert_eq!(canonical(notation), expected, "{notation}");
                let number = Number::parse(notation).expect("a number");
                assert_eq!(number.notation(), expected, "{notation}");
            }
        }
        for plain in ["10", "-7", "9223372036854775808"] {
            assert!(matches!(canonical(plain), Cow::Borrowed(_)), "{plain}");
        }
    }

    #[test]
    fn strings_that_are_not_json_numbers_are_unchanged() {
        for string in [
            "", "-", "NaN", "Infinity", "inf", "12abc", "+1", "01", "-01", ".5", "5.", "1e", "1e+",
            " 1", "1 ", "0x10", "1_000", "1,5", "--1", "1.2.3", "1e5.5", "١",
        ] {
            assert_eq!(Number::parse(string), None, "{string:?}");
            assert_eq!(canonical(string), string);
        }
    }

    #[test]
    fn numbers_are_ordered_by_their_exact_values() {
        let ascending = [
            "-1e400",
            "-1e300",
            "-9007199254740993",
            "-9007199254740992",
            "-1.5",
            "-1",
            "-1e-400",
            "0",
            "1e-400",
            "0.1",
            "0.10000000000000000001",
            "1",
            "9007199254740992",
            "9007199254740992.5",
            "9007199254740993",
            "18446744073709551615",
            "18446744073709551616",
            "1e300",
            "1e400",
            "2e400",
        ];
        let numbers: Vec<Number> = ascending
            .iter()
            .map(|number| Number::parse(number).expect("a number"))
            .collect();
        for (place, one) in numbers.iter().enumerate() {
            for (other_place, other) in numbers.iter().enumerate() {
                assert_eq!(
                    one.partial_cmp(other),
                    Some(place.cmp(&other_place)),
                    "{one:?} {other:?}"
                );
            }
        }
        assert_eq!(
            Number::parse("10").partial_cmp(&Number::parse("1e1")),
            Some(Ordering::Equal)
        );
    }
}
