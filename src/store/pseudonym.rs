//! Pseudonyms: users stored by a keyed hash of their id, when the operator wants that. With the key, which lies outside of the
//! data, a user is found by the clear id; without it nobody is.

use std::path::Path;

use ring::hmac;

use super::version::Manifest;
use crate::config::StoreConfig;
use crate::error::{Error, Result};

/// What a pseudonym begins with: one that comes in again, as by an import of an export, stays what it is.
const PREFIX: &str = "hmac-";
/// Bytes of the hash that are kept: no two users share them.
const HASH_BYTES: usize = 16;
/// What the fingerprint of a key is made of: no id has a NUL.
const FINGERPRINTED: &[u8] = b"\0fingerprint of the user key";
/// Bytes of a fingerprint: two keys never share it, and it says nothing of the key.
const FINGERPRINT_BYTES: usize = 8;
/// Bytes that a key has at least.
const MIN_KEY_BYTES: usize = 16;

/// Reads the key, if one is set, and checks that it is the one by which the data folder is pseudonymized. Nothing is written
/// before that.
///
/// # Errors
/// As [`Pseudonyms::load`] and [`check`].
pub(super) fn check_and_load(config: &StoreConfig) -> Result<Option<Pseudonyms>> {
    let key_file = config.user_key_file.as_deref();
    let pseudonyms = key_file
        .map(|file| Pseudonyms::load(file, &config.data_dir))
        .transpose()?;
    // What is wrong with the folder itself is said when it is opened.
    if let Ok(manifest) = Manifest::load(&config.data_dir) {
        check(&manifest, pseudonyms.as_ref(), &config.data_dir)?;
    }
    Ok(pseudonyms)
}

/// Checks that this is the key of the pseudonyms in a data folder: with another one, or none, an erasure would find nobody.
///
/// # Errors
/// `bad_user_key` if it is not.
pub(super) fn check(manifest: &Manifest, given: Option<&Pseudonyms>, folder: &Path) -> Result<()> {
    let Some(expected) = &manifest.user_key else {
        return Ok(());
    };
    let found = given.map(Pseudonyms::fingerprint);
    let message = match found {
        Some(found) if found == *expected => return Ok(()),
        Some(found) => format!(
            "the user key is not the one of the data folder {}: its fingerprint is {found}, and users are stored under the key \
             with the fingerprint {expected}; give that key with --user-key-file",
            folder.display()
        ),
        None => format!(
            "the data folder {} stores users under keyed hashes, and without their key nobody is found, counted twice or \
             erased rightly; give the file of the key with the fingerprint {expected} with --user-key-file",
            folder.display()
        ),
    };
    Err(Error::bad_input("bad_user_key", message))
}

/// Whether an id is a pseudonym.
pub(super) fn is_pseudonym(user: &str) -> bool {
    user.strip_prefix(PREFIX).is_some_and(|rest| {
        rest.len() == 2 * HASH_BYTES && rest.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

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
        if is_pseudonym(user) {
            return user.to_owned();
        }
        let tag = hmac::sign(&self.key, user.as_bytes());
        let kept = tag.as_ref().get(..HASH_BYTES).unwrap_or_default();
        format!("{PREFIX}{}", hex::encode(kept))
    }

    /// What tells this key from others.
    pub fn fingerprint(&self) -> String {
        let tag = hmac::sign(&self.key, FINGERPRINTED);
        hex::encode(tag.as_ref().get(..FINGERPRINT_BYTES).unwrap_or_default())
    }
}
