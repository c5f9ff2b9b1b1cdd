//! The dashboard key: who may ask questions.

use axum::http::{HeaderMap, StatusCode};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::refusal::Refusal;
use crate::error::{Error, Result};

/// The header that carries the key. Never a query parameter: those end in logs and histories.
const HEADER: &str = "x-dash-key";
/// A key must be hard to guess; 16 random characters are.
const MIN_KEY_CHARS: usize = 16;
/// Two keys at once let a key be changed without a gap.
const MAX_KEYS: usize = 2;

/// The valid keys, as digests: comparing those takes equal time whatever was sent.
pub struct DashKeys(Vec<[u8; 32]>);

impl DashKeys {
    /// Reads one or two keys, comma separated.
    ///
    /// # Errors
    /// `bad_dash_key` if there is none, one is short, or there are more than two.
    pub fn parse(keys: &str) -> Result<Self> {
        let keys: Vec<&str> = keys
            .split(',')
            .map(str::trim)
            .filter(|key| !key.is_empty())
            .collect();
        if keys.is_empty() || keys.len() > MAX_KEYS {
            return Err(Error::bad_input(
                "bad_dash_key",
                format!(
                    "there are {} dashboard keys; allowed are 1 or {MAX_KEYS}, comma separated",
                    keys.len()
                ),
            ));
        }
        if let Some(short) = keys.iter().find(|key| key.chars().count() < MIN_KEY_CHARS) {
            return Err(Error::bad_input(
                "bad_dash_key",
                format!(
                    "a dashboard key has {} characters; allowed are {MIN_KEY_CHARS} or more",
                    short.chars().count()
                ),
            ));
        }
        Ok(Self(keys.into_iter().map(digest).collect()))
    }

    /// Lets a request with a valid key pass.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let sent = headers
            .get(HEADER)
            .map_or(&b""[..], |value| value.as_bytes());
        let sent = digest(sent);
        let valid = self
            .0
            .iter()
            .fold(Choice::from(0), |found, key| found | key.ct_eq(&sent));
        if valid.into() {
            Ok(())
        } else {
            Err(Refusal::new(
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "the X-Dash-Key header is missing or wrong",
            ))
        }
    }
}

fn digest(key: impl AsRef<[u8]>) -> [u8; 32] {
    Sha256::digest(key.as_ref()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_or_two_long_keys_are_accepted_and_only_they_pass() {
        for wrong in [
            "",
            ",",
            "short",
            "0123456789abcdef,short",
            &"0123456789abcdef,".repeat(3),
        ] {
            assert!(DashKeys::parse(wrong).is_err(), "{wrong:?}");
        }
        let keys = DashKeys::parse("0123456789abcdef, fedcba9876543210").expect("two keys");
        for (sent, passes) in [
            (Some("0123456789abcdef"), true),
            (Some("fedcba9876543210"), true),
            (Some("0123456789abcdef,fedcba9876543210"), false),
            (Some("0123456789abcde"), false),
            (Some(""), false),
            (None, false),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(sent) = sent {
                headers.insert(HEADER, sent.parse().expect("a header value"));
            }
            assert_eq!(keys.check(&headers).is_ok(), passes, "{sent:?}");
        }
    }
}
