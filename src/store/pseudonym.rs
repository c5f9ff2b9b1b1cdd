//! Pseudonyms: users stored by a keyed hash of their id, when the operator wants that. With the key, which lies outside of the
//! data, a user is found by the clear id; without it nobody is.

use std::path::Path;

use ring::hmac;

use super::erasure::hex;
use crate::error::{Error, Result};

/// What a pseudonym begins with: one that comes in again, as by an import of an export, stays what it is.
const PREFIX: &str = "hmac-";
/// Bytes of the hash that are kept: no two users share them.
const HASH_BYTES: usize = 16;
/// Bytes that a key has at least.
const MIN_KEY_BYTES: usize = 16;

/// Makes pseudonyms.
#[derive(Clone)]
pub(super) struct Pseudonyms {
    key: hmac::Key,
}

impl Pseudonyms {
    /// Reads the key.
    ///
    /// # Errors
    /// `bad_user_key` if it is too short or lies in the data folder, and if it cannot be read.
    pub fn load(file: &Path, data_dir: &Path) -> Result<Self> {
        let bad = |message: &str| {
            Error::bad_input(
                "bad_user_key",
                format!("the file of the user key, {}, {message}", file.display()),
            )
        };
        let key = std::fs::read(file).map_err(Error::io("read", file))?;
        let key = key.trim_ascii();
        if key.len() < MIN_KEY_BYTES {
            return Err(bad(&format!(
                "has {} bytes; allowed are {MIN_KEY_BYTES} or more",
                key.len()
            )));
        }
        let inside = file.canonicalize().ok().zip(data_dir.canonicalize().ok());
        if inside.is_some_and(|(file, data_dir)| file.starts_with(data_dir)) {
            return Err(bad(
                "lies in the data folder, where it would protect nothing",
            ));
        }
        Ok(Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, key),
        })
    }

    /// What is stored of a user.
    pub fn of(&self, user: &str) -> String {
        let is_one = user.strip_prefix(PREFIX).is_some_and(|rest| {
            rest.len() == 2 * HASH_BYTES && rest.bytes().all(|byte| byte.is_ascii_hexdigit())
        });
        if is_one {
            return user.to_owned();
        }
        let tag = hmac::sign(&self.key, user.as_bytes());
        let kept = tag.as_ref().get(..HASH_BYTES).unwrap_or_default();
        format!("{PREFIX}{}", hex(kept))
    }
}
