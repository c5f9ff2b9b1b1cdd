//! Regular expressions in the part of their syntax that means the same everywhere.
//!
//! Flags, classes and letters without case are written out as ranges of characters, so that an
//! engine needs neither tables of Unicode nor rules about lines. What it finds is compared as true
//! or false; where in a string, and how much, does not matter.

use std::fmt::Write;

use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class, ClassUnicode, Hir, HirKind, Look, Repetition};

use crate::metrics::filter::pattern::Case;

/// The start and the end of a string, which have other names in some engines.
const ANCHORS: [&str; 2] = [r"\A", r"\z"];
/// Most repetitions of a part that all engines allow.
const MAX_REPETITIONS: u32 = 1_000;
/// Longest expression, in bytes: classes such as `\w` take some thousand.
const MAX_BYTES: usize = 32 << 10;
/// A class that no character is in.
const NO_CHARACTER: &str = "a class without a character";
/// A JSON number and nothing else.
pub const NUMBER: &str = r"\A-?(0|[1-9][0-9]*)([.][0-9]+)?([eE][+\-]?[0-9]+)?\z";

/// True if an expression needs the start or the end of a string.
pub fn has_anchors(expression: &str) -> bool {
    ANCHORS.iter().any(|anchor| expression.contains(anchor))
}

/// An expression of a condition in the common syntax.
///
/// # Errors
/// The part that it does not have.
pub fn portable(expression: &str, case: Case) -> Result<String, &'static str> {
    let parsed = ParserBuilder::new()
        .case_insensitive(case == Case::Ignored)
        .build()
        .parse(expression);
    // The condition has compiled it already.
    let parsed = parsed.map_err(|_| "its syntax")?;
    let mut written = String::new();
    write(&parsed, &mut written)?;
    Ok(written)
}

fn write(part: &Hir, into: &mut String) -> Result<(), &'static str> {
    if into.len() > MAX_BYTES {
        return Err("classes of very many characters");
    }
    match part.kind() {
        HirKind::Empty => into.push_str("(?:)"),
        HirKind::Literal(literal) => {
            let text = std::str::from_utf8(&literal.0).map_err(|_| "single bytes")?;
            for char in text.chars() {
                write_char(char, into)?;
            }
        }
        HirKind::Class(Class::Unicode(class)) => write_class(class, into)?,
        HirKind::Class(Class::Bytes(_)) => return Err(NO_CHARACTER),
        HirKind::Look(Look::Start) => into.push_str(r"\A"),
        HirKind::Look(Look::End) => into.push_str(r"\z"),
        HirKind::Look(_) => return Err("starts and ends of words and lines"),
        HirKind::Repetition(repetition) => write_repetition(repetition, into)?,
        HirKind::Capture(capture) => write_group(std::slice::from_ref(&*capture.sub), into)?,
        HirKind::Concat(parts) => parts.iter().try_for_each(|part| write(part, into))?,
        HirKind::Alternation(parts) => write_group(parts, into)?,
    }
    Ok(())
}

/// Alternatives as a group that is not remembered.
fn write_group(parts: &[Hir], into: &mut String) -> Result<(), &'static str> {
    into.push_str("(?:");
    for (at, part) in parts.iter().enumerate() {
        if at > 0 {
            into.push('|');
        }
        write(part, into)?;
    }
    into.push(')');
    Ok(())
}

fn write_repetition(repetition: &Repetition, into: &mut String) -> Result<(), &'static str> {
    let Repetition { min, max, sub, .. } = repetition;
    if max.unwrap_or(*min) > MAX_REPETITIONS {
        return Err("more than 1,000 repetitions");
    }
    write_group(std::slice::from_ref(&**sub), into)?;
    // Writing to a string cannot fail.
    let _ = match (min, max) {
        (0, None) => write!(into, "*"),
        (1, None) => write!(into, "+"),
        (0, Some(1)) => write!(into, "?"),
        (min, None) => write!(into, "{{{min},}}"),
        (min, Some(max)) => write!(into, "{{{min},{max}}}"),
    };
    Ok(())
}

/// A class as ranges, or as those that it excludes if it reaches the end of all characters.
fn write_class(class: &ClassUnicode, into: &mut String) -> Result<(), &'static str> {
    let last = class.ranges().last();
    let reaches_end = last.is_some_and(|last| last.end() == char::MAX);
    let mut class = class.clone();
    into.push('[');
    if reaches_end {
        class.negate();
        if class.ranges().is_empty() {
            return Err("a class of every character, such as a dot with (?s)");
        }
        into.push('^');
    }
    if class.ranges().is_empty() {
        return Err(NO_CHARACTER);
    }
    for range in class.ranges() {
        write_char(range.start(), into)?;
        if range.start() != range.end() {
            into.push('-');
            write_char(range.end(), into)?;
        }
    }
    into.push(']');
    Ok(())
}

/// A character, with a backslash where it could be an operator.
fn write_char(char: char, into: &mut String) -> Result<(), &'static str> {
    if char == '\0' {
        return Err("the character NUL");
    }
    if regex_syntax::is_meta_character(char) {
        into.push('\\');
    }
    into.push(char);
    Ok(())
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;

    #[test]
    fn an_expression_means_the_same_in_the_common_syntax() {
        let values = [
            "",
            "a",
            "A",
            "ab",
            "abab",
            "cart",
            "CART",
            "/docs/é",
            "É",
            "a.b",
            "a\nb",
            "10",
            "x-1",
            "\u{212a}elvin",
            "kelvin",
            "[]^\\-&&",
            "ﬀ",
            "😀",
            "a😀b",
        ];
        for (expression, case) in [
            ("a|b+", Case::Exact),
            ("^(ab)*$", Case::Exact),
            ("cart", Case::Ignored),
            ("É", Case::Ignored),
            ("k", Case::Ignored),
            (r"\d{2}", Case::Exact),
            (r"^[^a-c]", Case::Exact),
            (r"a.b", Case::Exact),
            (r"[\[\]^\\\-&]{3,}", Case::Exact),
            (r"(?i:C)art|x-\d", Case::Exact),
            (r"\Aa.?b\z", Case::Exact),
            (r"^\w+$", Case::Exact),
            ("", Case::Exact),
        ] {
            let written = portable(expression, case).expect(expression);
            let pattern = if case == Case::Ignored { "(?i)" } else { "" };
            let ours = Regex::new(&format!("{pattern}{expression}")).expect(expression);
            let theirs = Regex::new(&written).expect(&written);
            for value in values {
                assert_eq!(
                    ours.is_match(value),
                    theirs.is_match(value),
                    "{expression} as {written} on {value:?}"
                );
            }
        }
    }

    #[test]
    fn what_engines_understand_differently_is_named() {
        for (expression, says) in [
            (r"\bcart", "words"),
            ("(?m)^a", "lines"),
            (r"a{1001}", "repetitions"),
            ("(?s)a.b", "every character"),
            (r"a\x00", "NUL"),
            (r"[^\s\S]", "without a character"),
        ] {
            let found = portable(expression, Case::Exact).expect_err(expression);
            assert!(found.contains(says), "{expression}: {found}");
        }
    }
}
