//! Regular expressions of conditions, in bounded memory and time.
//!
//! The engine takes time that is linear in the length of a value, without look-around and back
//! references (the syntax of RE2). What is left to bound is the size of the compiled expression,
//! and the time over all values of a query.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use regex::{Regex, RegexBuilder};

use crate::error::{Error, ErrorCode, shown};

/// Bytes of a compiled expression, with those of its cache: some twenty Unicode classes, but no
/// nested repetition of hundreds.
const MAX_COMPILED_BYTES: usize = 1 << 20;
/// Deepest nesting of groups.
const MAX_NESTING: u32 = 50;
/// Time on all values of a query that no expression may exceed if it is also slow for each value.
const MAX_TIME: Duration = Duration::from_secs(10);
/// The time for a value that is not slow: many times what most expressions take.
const SLOW_VALUE: Duration = Duration::from_micros(20);
/// The beginning of the message about an expression that is too slow.
const TOO_SLOW: &str = "a condition is too slow: matches";

/// A compiled expression. It is shared by the copies of a filter, with the time that they took.
#[derive(Debug, Clone)]
pub struct Pattern(Arc<Compiled>);

#[derive(Debug)]
struct Compiled {
    regex: Regex,
    case: Case,
    values: AtomicU64,
    nanos: AtomicU64,
    is_too_slow: AtomicBool,
}

/// Uppercase and lowercase letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// Are different.
    Exact,
    /// Are equal.
    Ignored,
}

impl Pattern {
    /// Compiles an expression.
    ///
    /// # Errors
    /// A sentence about what is wrong with it.
    pub fn new(expression: &str, case: Case) -> Result<Self, String> {
        let regex = RegexBuilder::new(expression)
            .case_insensitive(case == Case::Ignored)
            .size_limit(MAX_COMPILED_BYTES)
            .dfa_size_limit(MAX_COMPILED_BYTES)
            .nest_limit(MAX_NESTING)
            .build();
        let regex = regex.map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => format!(
                "the expression {:?} is too large: compiled it takes more than {MAX_COMPILED_BYTES} \
                 bytes; use smaller repetitions",
                shown(expression)
            ),
            error => {
                // The last line has the reason, those before it show the place.
                let message = error.to_string();
                let reason = message.lines().last().unwrap_or_default();
                let reason = reason.trim_start_matches("error: ");
                format!("the expression {:?}: {reason}", shown(expression))
            }
        })?;
        Ok(Self(Arc::new(Compiled {
            regex,
            case,
            values: AtomicU64::new(0),
            nanos: AtomicU64::new(0),
            is_too_slow: AtomicBool::new(false),
        })))
    }

    /// The expression as it was written, and the case of its letters.
    pub fn expression(&self) -> (&str, Case) {
        (self.0.regex.as_str(), self.0.case)
    }

    /// True if a part of a value matches. False for every value from the time on when the
    /// expression is too slow, which [`Pattern::check`] reports.
    pub fn is_match(&self, value: &str) -> bool {
        let compiled = &*self.0;
        if compiled.is_too_slow.load(Ordering::Relaxed) {
            return false;
        }
        let started = Instant::now();
        let is_match = compiled.regex.is_match(value);
        let nanos = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let values = compiled.values.fetch_add(1, Ordering::Relaxed) + 1;
        let nanos = compiled
            .nanos
            .fetch_add(nanos, Ordering::Relaxed)
            .saturating_add(nanos);
        if is_too_slow(values, Duration::from_nanos(nanos)) {
            compiled.is_too_slow.store(true, Ordering::Relaxed);
        }
        is_match
    }

    /// Checks that the expression was not too slow so far.
    ///
    /// # Errors
    /// A sentence that names it.
    pub fn check(&self) -> Result<(), String> {
        let compiled = &*self.0;
        if !compiled.is_too_slow.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(format!(
            "{TOO_SLOW} {:?} took more than {} s over the values of the window; use a simpler \
             expression, or a shorter window",
            shown(compiled.regex.as_str()),
            MAX_TIME.as_secs()
        ))
    }
}

/// True if an expression took too long for so many values.
fn is_too_slow(values: u64, time: Duration) -> bool {
    let allowed = u64::try_from(SLOW_VALUE.as_nanos()).unwrap_or(u64::MAX);
    time > MAX_TIME && time.as_nanos() > u128::from(values) * u128::from(allowed)
}

/// The error of the user in a failure of the query engine, if an expression was too slow.
pub fn too_slow(error: &polars::error::PolarsError) -> Option<Error> {
    let message = error.to_string();
    let start = message.find(TOO_SLOW)?;
    let sentence = message.get(start..)?.lines().next()?;
    Some(Error::bad_input(ErrorCode::BadQuery, sentence))
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.expression() == other.expression()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_matches_a_part_with_or_without_case() {
        let is_match = |expression: &str, case, value: &str| {
            let pattern = Pattern::new(expression, case).expect(expression);
            pattern.is_match(value)
        };
        assert!(is_match("b+", Case::Exact, "abbc"));
        assert!(!is_match("^b+", Case::Exact, "abbc"));
        assert!(!is_match("É", Case::Exact, "café"));
        assert!(is_match("É", Case::Ignored, "café"));
    }

    #[test]
    fn an_expression_that_would_take_much_memory_is_rejected() {
        for (expression, says) in [
            ("(", "unclosed group"),
            (r"(a)\1", "backreferences are not supported"),
            ("((((a{99}){99}){99}){99})", "too large"),
            (r"\w{500}", "too large"),
            (&format!("{}{}", "(".repeat(90), ")".repeat(90)), "nest"),
        ] {
            let started = Instant::now();
            let message = Pattern::new(expression, Case::Exact).expect_err("rejected");
            assert!(message.contains(says), "{message}");
            assert!(message.len() < 300, "{message}");
            assert!(started.elapsed() < Duration::from_secs(30), "{says}");
        }
    }

    #[test]
    fn only_an_expression_that_is_slow_for_each_value_is_stopped() {
        let seconds = Duration::from_secs;
        assert!(!is_too_slow(1_000, seconds(9)));
        assert!(is_too_slow(1_000, seconds(11)));
        assert!(!is_too_slow(100_000_000, seconds(60)));
        let pattern = Pattern::new("a", Case::Exact).expect("an expression");
        assert_eq!(pattern.check(), Ok(()));
        pattern.0.nanos.store(20_000_000_000, Ordering::Relaxed);
        assert!(pattern.is_match("a"));
        assert!(!pattern.is_match("a"));
        let message = pattern.check().expect_err("too slow");
        let failed = polars::error::PolarsError::ComputeError(message.clone().into());
        match too_slow(&failed) {
            Some(Error::BadInput { message: found, .. }) => assert_eq!(found, message),
            other => panic!("{other:?}"),
        }
    }
}
