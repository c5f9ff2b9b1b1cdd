//! Rejects dashboard keys that are easy to guess: short ones, those of few different characters,
//! and those that consist mostly of common words, keyboard or alphabet sequences, or repetitions.
//! Messages never contain a part of the key.

use std::collections::HashSet;

/// Fewest characters of a key; 16 random ones cannot be guessed.
const MIN_CHARS: usize = 16;
/// Fewest different characters of a key; about one of a million random keys of 32 hexadecimal
/// digits has fewer.
const MIN_DIFFERENT: usize = 8;
/// Fewest letters and digits that must remain without the easily guessed parts.
const MIN_LEFT: usize = 10;
/// Shortest sequence, such as `3456`, that counts as easy to guess.
const MIN_RUN: usize = 4;
/// Words from lists of common passwords and from example configurations.
const WORDS: [&str; 31] = [
    "analytics",
    "dashboard",
    "echopilot",
    "password",
    "passwort",
    "changeme",
    "iloveyou",
    "football",
    "sunshine",
    "princess",
    "starwars",
    "superman",
    "letmein",
    "welcome",
    "replace",
    "default",
    "example",
    "trustno",
    "dragon",
    "monkey",
    "master",
    "passwd",
    "secret",
    "change",
    "shadow",
    "admin",
    "login",
    "token",
    "your",
    "here",
    "key",
];
/// Rows of keyboards, the alphabet and the digits; sequences count in both directions.
const ROWS: [&str; 9] = [
    "abcdefghijklmnopqrstuvwxyz",
    "01234567890",
    "qwertyuiop",
    "qwertzuiop",
    "asdfghjkl",
    "zxcvbnm",
    "yxcvbnm",
    "azertyuiop",
    "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik9ol0p",
];

/// Checks that a key is hard to guess.
///
/// # Errors
/// The reason, without a part of the key.
pub fn check(key: &str) -> Result<(), String> {
    let characters = key.chars().count();
    if characters < MIN_CHARS {
        return Err(format!(
            "it has {characters} characters; allowed are {MIN_CHARS} or more"
        ));
    }
    let lower: Vec<char> = key.to_lowercase().chars().collect();
    let different = lower.iter().collect::<HashSet<_>>().len();
    if different < MIN_DIFFERENT {
        return Err(format!(
            "it has {different} different characters; allowed are {MIN_DIFFERENT} or more"
        ));
    }
    if is_repetition(&lower) {
        return Err("it repeats a short part".into());
    }
    let left = without_runs(&without_words(&lower)).len();
    // A key may contain a word if it is long enough without it.
    if left < MIN_LEFT {
        return Err(format!(
            "without common words and sequences such as 'password', '12345678' or 'qwerty', {left} letters and digits remain; \
             allowed are {MIN_LEFT} or more"
        ));
    }
    Ok(())
}

/// Returns true if the key repeats a part that is too short for a key.
fn is_repetition(key: &[char]) -> bool {
    (1..MIN_CHARS.min(key.len() / 2 + 1)).any(|period| {
        key.iter()
            .zip(key.iter().skip(period))
            .all(|(before, after)| before == after)
    })
}

/// Removes common words, also if digits and symbols replace letters, and keeps letters and digits.
fn without_words(key: &[char]) -> Vec<char> {
    let mut left: Vec<char> = key
        .iter()
        .copied()
        .filter(|character| character.is_alphanumeric() || "@$!".contains(*character))
        .collect();
    for word in WORDS {
        let word: Vec<char> = word.chars().collect();
        while let Some(at) = left.windows(word.len()).position(|part| {
            part.iter()
                .zip(&word)
                .all(|(a, b)| letter(*a) == *b || a == b)
        }) {
            left.drain(at..at + word.len());
        }
    }
    left
}

/// The letter that a digit or symbol replaces.
fn letter(character: char) -> char {
    match character {
        '0' => 'o',
        '1' | '!' => 'i',
        '3' => 'e',
        '4' | '@' => 'a',
        '5' | '$' => 's',
        '7' => 't',
        other => other,
    }
}

/// Removes sequences of neighbours on a keyboard row, in the alphabet or of digits, and of equal
/// characters.
fn without_runs(key: &[char]) -> Vec<char> {
    let mut left = Vec::new();
    let mut rest = key;
    while let Some((first, others)) = rest.split_first() {
        let run = longest_run(rest);
        if run >= MIN_RUN {
            rest = rest.get(run..).unwrap_or_default();
        } else {
            left.push(*first);
            rest = others;
        }
    }
    left
}

/// The length of the sequence at the start of the key.
fn longest_run(key: &[char]) -> usize {
    let along = |row: &mut dyn Iterator<Item = char>| {
        let row: Vec<char> = row.collect();
        let starts = row.iter().enumerate();
        let runs = starts
            .filter(|(_, character)| Some(*character) == key.first())
            .map(|(start, _)| {
                let row = row.iter().skip(start);
                row.zip(key).take_while(|(a, b)| a == b).count()
            });
        runs.max().unwrap_or(0)
    };
    let equal = key
        .iter()
        .take_while(|character| Some(*character) == key.first());
    let rows = ROWS
        .iter()
        .map(|row| along(&mut row.chars()).max(along(&mut row.chars().rev())));
    rows.max().unwrap_or(0).max(equal.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weak_keys_are_rejected_and_not_in_the_message() {
        for weak in [
            "",
            "short",
            "fifteen-charact",
            "aaaaaaaaaaaaaaaa",
            "abababababababab",
            "password12345678",
            "Password-1234567890",
            "P@ssw0rd-p4$$w0rd",
            "changeme-changeme",
            "CHANGE_ME_CHANGE_ME",
            "change-me-please",
            "qwertyuiopasdfgh",
            "1qaz2wsx3edc4rfv",
            "0123456789abcdef",
            "fedcba9876543210",
            "abcdefghijklmnop",
            "your-secret-key-here",
            "echopilot-dashboard-key",
            "admin-admin-admin-1234",
            "k3v9x2m1k3v9x2m1",
            "letmein-welcome-2026",
            "secretsecretsecret1",
            "12345678901234567890",
        ] {
            let reason = check(weak).expect_err(weak);
            assert!(weak.is_empty() || !reason.contains(weak), "{reason}");
        }
        for strong in [
            "a-key-for-the-tests",
            "a-key-for-the-bench",
            "another-key-for-the-tests",
            "first-key-of-the-two",
            "9f86d081884c7d659a2feaa0c55ad015",
            "Zq8kd92lxPqW7vTn",
            "my-password-is-Zq8kd92lxPqW",
            "correct horse battery staple",
        ] {
            assert_eq!(check(strong), Ok(()), "{strong}");
        }
    }
}
