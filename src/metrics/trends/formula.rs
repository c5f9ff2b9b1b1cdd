//! Formulas over the series of trends: `B/A`, `(A+B)*100`.
//!
//! Letters are series, `A` is the first one; then numbers, `+ - * /` with the usual precedence,
//! a sign and parentheses. A value that is null makes the result null, and so does a division by 0.

use serde::Deserialize;

/// The longest formula, in characters. It also bounds how deep parentheses are.
const MAX_CHARS: usize = 200;

/// A formula.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct Formula(Node);

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Number(f64),
    /// The index of a series.
    Series(usize),
    Negative(Box<Node>),
    Of(Operator, Box<Node>, Box<Node>),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Operator {
    Plus,
    Minus,
    Times,
    Divided,
}

impl Formula {
    /// The value for the values of the series; `None` is null.
    pub fn value(&self, series: &[Option<f64>]) -> Option<f64> {
        self.0.value(series).filter(|value| value.is_finite())
    }

    /// The greatest index of a series that it names.
    pub fn last_series(&self) -> Option<usize> {
        self.0.last_series()
    }
}

impl Node {
    fn value(&self, series: &[Option<f64>]) -> Option<f64> {
        Some(match self {
            Self::Number(number) => *number,
            Self::Series(index) => (*series.get(*index)?)?,
            Self::Negative(node) => -node.value(series)?,
            Self::Of(operator, left, right) => {
                let (left, right) = (left.value(series)?, right.value(series)?);
                match operator {
                    Operator::Plus => left + right,
                    Operator::Minus => left - right,
                    Operator::Times => left * right,
                    Operator::Divided if right == 0.0 => return None,
                    Operator::Divided => left / right,
                }
            }
        })
    }

    fn last_series(&self) -> Option<usize> {
        match self {
            Self::Number(_) => None,
            Self::Series(index) => Some(*index),
            Self::Negative(node) => node.last_series(),
            Self::Of(_, left, right) => left.last_series().max(right.last_series()),
        }
    }
}

impl TryFrom<String> for Formula {
    type Error = String;

    fn try_from(formula: String) -> Result<Self, String> {
        let count = formula.chars().count();
        if count > MAX_CHARS {
            return Err(format!(
                "a formula of {count} characters; allowed are {MAX_CHARS}"
            ));
        }
        let mut parser = Parser {
            chars: formula.chars().collect(),
            at: 0,
        };
        let node = parser.sum()?;
        match parser.next() {
            None => Ok(Self(node)),
            Some(_) => Err(parser.expected("an operator or the end")),
        }
    }
}

/// The letter of a series.
pub fn letter(index: usize) -> char {
    u8::try_from(index)
        .ok()
        .and_then(|index| b'A'.checked_add(index))
        .map_or('?', char::from)
}

struct Parser {
    chars: Vec<char>,
    at: usize,
}

impl Parser {
    /// The next character that is not a blank.
    fn next(&mut self) -> Option<char> {
        while self.chars.get(self.at).is_some_and(|c| c.is_whitespace()) {
            self.at += 1;
        }
        self.chars.get(self.at).copied()
    }

    fn expected(&self, what: &str) -> String {
        let found = match self.chars.get(self.at) {
            Some(found) => format!("{found:?}"),
            None => "the end".into(),
        };
        let place = self.at + 1;
        format!("{found} at character {place}; allowed there is {what}")
    }

    fn sum(&mut self) -> Result<Node, String> {
        let mut left = self.product()?;
        loop {
            let operator = match self.next() {
                Some('+') => Operator::Plus,
                Some('-') => Operator::Minus,
                _ => return Ok(left),
            };
            self.at += 1;
            left = Node::Of(operator, left.into(), self.product()?.into());
        }
    }

    fn product(&mut self) -> Result<Node, String> {
        let mut left = self.factor()?;
        loop {
            let operator = match self.next() {
                Some('*') => Operator::Times,
                Some('/') => Operator::Divided,
                _ => return Ok(left),
            };
            self.at += 1;
            left = Node::Of(operator, left.into(), self.factor()?.into());
        }
    }

    fn factor(&mut self) -> Result<Node, String> {
        match self.next() {
            Some('-') => {
                self.at += 1;
                Ok(Node::Negative(self.factor()?.into()))
            }
            Some('(') => {
                self.at += 1;
                let inner = self.sum()?;
                if self.next() != Some(')') {
                    return Err(self.expected("an operator or \")\""));
                }
                self.at += 1;
                Ok(inner)
            }
            Some(letter @ 'A'..='Z') => {
                self.at += 1;
                Ok(Node::Series(letter as usize - 'A' as usize))
            }
            Some('0'..='9') => {
                let rest = self.chars.get(self.at..).unwrap_or_default();
                let is_part = |c: &&char| c.is_ascii_digit() || **c == '.';
                let digits: String = rest.iter().take_while(is_part).collect();
                let number = digits.parse();
                let number = number.map_err(|_| self.expected("a number such as 100 or 0.5"))?;
                self.at += digits.len();
                Ok(Node::Number(number))
            }
            _ => Err(self.expected("the letter of a series, a number, \"-\" or \"(\"")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(formula: &str, series: &[Option<f64>]) -> Option<f64> {
        let formula = Formula::try_from(formula.to_owned()).expect("a formula");
        formula.value(series)
    }

    #[test]
    fn operators_have_the_usual_precedence_and_null_stays_null() {
        let series = [Some(8.0), Some(2.0), None];
        for (formula, expected) in [
            ("B/A", Some(0.25)),
            ("A - B - 1", Some(5.0)),
            ("A/B/B", Some(2.0)),
            ("A+B*3", Some(14.0)),
            ("(A+B) * -0.5", Some(-5.0)),
            ("--A", Some(8.0)),
            ("A/(B-2)", None),
            ("A/0", None),
            ("0/0", None),
            ("A+C", None),
        ] {
            assert_eq!(value(formula, &series), expected, "{formula}");
        }
    }

    #[test]
    fn an_error_names_the_place() {
        for (formula, place) in [
            ("", "the end at character 1;"),
            ("A+", "the end at character 3;"),
            ("A B", "'B' at character 3;"),
            ("(A", "the end at character 3;"),
            ("A)", "')' at character 2;"),
            ("a/B", "'a' at character 1;"),
            ("1.2.3", "'1' at character 1;"),
            ("A**B", "'*' at character 3;"),
        ] {
            let error = Formula::try_from(formula.to_owned()).expect_err(formula);
            assert!(error.starts_with(place), "{formula}: {error}");
        }
        let long = "(".repeat(MAX_CHARS + 1);
        let error = Formula::try_from(long).expect_err("too long");
        assert!(error.contains("allowed are 200"), "{error}");
        assert!(Formula::try_from("(".repeat(MAX_CHARS)).is_err());
    }
}
