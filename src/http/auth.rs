//! The dashboard key, which gives access to all queries.

use axum::http::{HeaderMap, StatusCode, header};
use parking_lot::RwLock;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::error_response::ErrorResponse;
use super::weak_key;
use crate::error::{Error, ErrorCode, Result};

/// The header that carries the key. Never a query parameter: those end up in logs and browser
/// histories.
const HEADER: &str = "x-dash-key";
/// The scheme of `Authorization` that carries it as well.
const BEARER: &[u8] = b"Bearer ";
/// Two valid keys at once let a key be changed without downtime.
const MAX_KEYS: usize = 2;

/// The valid keys as digests, which are compared in constant time.
pub struct DashKeys(RwLock<Vec<[u8; 32]>>);

impl DashKeys {
    /// Reads one or two keys, separated by commas or lines.
    ///
    /// # Errors
    /// `bad_dash_key` if there is none, one is easy to guess, or there are more than two. The
    /// message never contains a key.
    pub fn parse(keys: &str) -> Result<Self> {
        let keys: Vec<&str> = keys
            .split([',', '\n'])
            .map(str::trim)
            .filter(|key| !key.is_empty())
            .collect();
        if keys.is_empty() || keys.len() > MAX_KEYS {
            return Err(Error::bad_input(
                ErrorCode::BadDashKey,
                format!(
                    "there are {} dashboard keys; allowed are 1 or {MAX_KEYS}, comma separated",
                    keys.len()
                ),
            ));
        }
        for key in &keys {
            weak_key::check(key).map_err(|reason| {
                let message = format!("a dashboard key is too weak: {reason}");
                Error::bad_input(ErrorCode::BadDashKey, message)
            })?;
        }
        Ok(Self(RwLock::new(keys.into_iter().map(digest).collect())))
    }

    /// Replaces the keys in one step.
    pub fn replace(&self, other: Self) {
        *self.0.write() = other.0.into_inner();
    }

    /// The number of valid keys.
    pub fn count(&self) -> usize {
        self.0.read().len()
    }

    /// Checks that a request has a valid key.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), ErrorResponse> {
        let sent = digest(sent(headers).unwrap_or_default());
        let keys = self.0.read();
        let valid = keys
            .iter()
            .fold(Choice::from(0), |found, key| found | key.ct_eq(&sent));
        if valid.into() {
            Ok(())
        } else {
            Err(ErrorResponse::new(
                StatusCode::UNAUTHORIZED,
                ErrorCode::Unauthorized,
                "the X-Dash-Key header is missing or wrong",
            ))
        }
    }

    /// Checks the same, but lets requests without a key pass that a process on this machine sent.
    pub(super) fn check_unless_local(
        &self,
        headers: &HeaderMap,
        is_local: bool,
    ) -> Result<(), ErrorResponse> {
        if is_local && !has_key(headers) {
            return Ok(());
        }
        self.check(headers)
    }
}

/// The key that a request sent.
fn sent(headers: &HeaderMap) -> Option<&[u8]> {
    if let Some(key) = headers.get(HEADER) {
        return Some(key.as_bytes());
    }
    let bearer = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, key) = bearer.split_at_checked(BEARER.len())?;
    scheme
        .eq_ignore_ascii_case(BEARER)
        .then(|| key.trim_ascii())
}

/// Returns true if a request has a key, valid or not.
pub(super) fn has_key(headers: &HeaderMap) -> bool {
    sent(headers).is_some()
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
            "9f86d081884c7d65,short",
            "9f86d081884c7d65,password12345678",
            &"9f86d081884c7d65,".repeat(3),
        ] {
            assert!(DashKeys::parse(wrong).is_err(), "{wrong:?}");
        }
        let keys = DashKeys::parse("9f86d081884c7d65, 60303ae22b998861").expect("two keys");
        for (sent, passes) in [
            (Some("9f86d081884c7d65"), true),
            (Some("60303ae22b998861"), true),
            (Some("9f86d081884c7d65,60303ae22b998861"), false),
            (Some("9f86d081884c7d6"), false),
            (Some(""), false),
            (None, false),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(sent) = sent {
                headers.insert(HEADER, sent.parse().expect("a header value"));
            }
            assert_eq!(keys.check(&headers).is_ok(), passes, "{sent:?}");
        }
        for (sent, passes) in [
            ("Bearer 9f86d081884c7d65", true),
            ("bearer  60303ae22b998861", true),
            ("Bearer 9f86d081884c7d6", false),
            ("Bearer", false),
            ("Basic 9f86d081884c7d65", false),
            ("9f86d081884c7d65", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, sent.parse().expect("a header value"));
            assert_eq!(keys.check(&headers).is_ok(), passes, "{sent}");
            // A request of this machine that sends a key is checked.
            let is_local = keys.check_unless_local(&headers, true);
            assert_eq!(is_local.is_ok(), passes || !has_key(&headers), "{sent}");
        }
        let none = HeaderMap::new();
        assert!(keys.check_unless_local(&none, true).is_ok());
        assert!(keys.check_unless_local(&none, false).is_err());
        keys.replace(DashKeys::parse("\nb5d54c39e66671c9\n").expect("a key"));
        assert_eq!(keys.count(), 1);
        for (sent, passes) in [("b5d54c39e66671c9", true), ("9f86d081884c7d65", false)] {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, sent.parse().expect("a header value"));
            assert_eq!(keys.check(&headers).is_ok(), passes, "{sent}");
        }
    }
}
