//! Pseudonyms: by choice of the operator, users are stored under a keyed hash of their id. With the
//! key, which is kept outside of the data folder, a user is found by the clear id.

use std::path::Path;

use ring::hmac;

use crate::config::StoreConfig;
use crate::error::{Error, ErrorCode, Result};
use crate::event::visitor::is_visitor_id;
use crate::store::version::Manifest;

/// Prefix of pseudonyms. By it a pseudonym that comes in again, for example with the import of an
/// export, is recognized and stored unchanged.
const PREFIX: &str = "hmac-";
/// Bytes of the hash that are kept, enough that no two users share them.
const HASH_BYTES: usize = 16;
/// The message whose keyed hash is the fingerprint of the key. It is not the id of a user, because
/// ids contain no NUL.
const FINGERPRINTED: &[u8] = b"\0fingerprint of the user key";
/// Bytes of a fingerprint, enough to tell keys apart.
const FINGERPRINT_BYTES: usize = 8;
/// Least length of a key, in bytes.
const MIN_KEY_BYTES: usize = 16;

/// Reads the key, if one is configured, and checks that it is the key of the data folder. This
/// happens before anything is written.
///
/// # Errors
/// As [`Pseudonyms::load`] and [`check`].
pub(in crate::store) fn check_and_load(config: &StoreConfig) -> Result<Option<Pseudonyms>> {
    let key_file = config.user_key_file.as_deref();
    let pseudonyms = key_file
        .map(|file| Pseudonyms::load(file, &config.data_dir))
        .transpose()?;
    // Errors in the folder itself are reported when it is opened.
    if let Ok(manifest) = Manifest::load(&config.data_dir) {
        check(&manifest, pseudonyms.as_ref(), &config.data_dir)?;
    }
    Ok(pseudonyms)
}

/// Checks that this is the key of the pseudonyms in a data folder: with another key, or none, an
/// erasure would not find the user.
///
/// # Errors
/// `bad_user_key` if it is not.
pub(in crate::store) fn check(
    manifest: &Manifest,
    given: Option<&Pseudonyms>,
    folder: &Path,
) -> Result<()> {
    let Some(expected) = &manifest.user_key else {
        return Ok(());
    };
    let found = given.map(Pseudonyms::fingerprint);
    let message = match found {
        Some(found) if found == *expected => return Ok(()),
        Some(found) => format!(
            "the user key is not the one of the data folder {}: its fingerprint is {found}, and users are stored under the key \
             with the fingerprint {expected}; pass that key with --user-key-file",
            folder.display()
        ),
        None => format!(
            "the data folder {} stores users under keyed hashes, and without their key users cannot be counted, found or \
             erased correctly; pass the file of the key with the fingerprint {expected} with --user-key-file",
            folder.display()
        ),
    };
    Err(Error::bad_input(ErrorCode::BadUserKey, message))
}

/// True if an id is a pseudonym.
pub(in crate::store) fn is_pseudonym(user: &str) -> bool {
    user.strip_prefix(PREFIX).is_some_and(|rest| {
        rest.len() == 2 * HASH_BYTES && rest.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// Computes pseudonyms with a key.
#[derive(Clone)]
pub(in crate::store) struct Pseudonyms {
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
                ErrorCode::BadUserKey,
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

    /// The pseudonym of a user; that of a pseudonym is the pseudonym itself. So is that of a daily
    /// visitor, whose id is a keyed hash already.
    pub fn of(&self, user: &str) -> String {
        if is_pseudonym(user) || is_visitor_id(user) {
            return user.to_owned();
        }
        let tag = hmac::sign(&self.key, user.as_bytes());
        let kept = tag.as_ref().get(..HASH_BYTES).unwrap_or_default();
        format!("{PREFIX}{}", hex::encode(kept))
    }

    /// Fingerprint of the key, which does not reveal it.
    pub fn fingerprint(&self) -> String {
        let tag = hmac::sign(&self.key, FINGERPRINTED);
        hex::encode(tag.as_ref().get(..FINGERPRINT_BYTES).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pseudonyms with this key in a file outside of the data folder.
    fn pseudonyms(key: &str) -> Result<Pseudonyms> {
        let [outside, data_dir] =
            [(); 2].map(|()| tempfile::tempdir().expect("a temporary folder"));
        let file = outside.path().join("key");
        std::fs::write(&file, key).expect("written");
        Pseudonyms::load(&file, data_dir.path())
    }

    #[test]
    fn a_user_has_one_pseudonym_for_each_key() -> Result<()> {
        let (one, other) = (
            pseudonyms("0123456789abcdef")?,
            pseudonyms("another key of 24 bytes.")?,
        );
        let pseudonym = one.of("ada");
        assert_eq!(pseudonym, pseudonyms("0123456789abcdef\n")?.of("ada"));
        assert_ne!(pseudonym, one.of("Ada"));
        assert_ne!(pseudonym, other.of("ada"));
        assert_ne!(one.fingerprint(), other.fingerprint());
        assert!(is_pseudonym(&pseudonym));
        for kept in [&pseudonym, "~AZaz09-_AZaz09-_"] {
            assert_eq!(one.of(kept), kept, "it is stored unchanged");
        }
        assert!(is_pseudonym(&one.of("~AZaz09-_AZaz09@_")));
        for id in [
            "",
            "hmac-",
            "hmac-0123",
            &pseudonym[..36],
            &format!("{pseudonym}0"),
        ] {
            assert!(!is_pseudonym(id), "{id}");
        }
        Ok(())
    }

    #[test]
    fn a_short_key_or_one_in_the_data_folder_is_rejected() -> Result<()> {
        assert!(pseudonyms("0123456789abcde\n").is_err());
        let data_dir = tempfile::tempdir().expect("a temporary folder");
        let file = data_dir.path().join("key");
        std::fs::write(&file, "0123456789abcdef").expect("written");
        assert!(Pseudonyms::load(&file, data_dir.path()).is_err());
        Ok(())
    }

    #[test]
    fn a_folder_accepts_only_the_key_of_its_pseudonyms() -> Result<()> {
        let (right, wrong) = (
            pseudonyms("0123456789abcdef")?,
            pseudonyms("fedcba9876543210")?,
        );
        let folder = Path::new("data");
        let without = Manifest::default();
        assert!(check(&without, None, folder).is_ok());
        let mut manifest = Manifest::default();
        manifest.user_key = Some(right.fingerprint());
        assert!(check(&manifest, Some(&right), folder).is_ok());
        assert!(check(&manifest, Some(&wrong), folder).is_err());
        assert!(check(&manifest, None, folder).is_err());
        Ok(())
    }
}
