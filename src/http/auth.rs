//! The keys of requests: a dashboard key may do everything, a read key may only query. The command
//! line of the server's own machine has a key of its own, which is in the data folder.

use std::sync::Arc;

use axum::http::{HeaderMap, StatusCode, header};
use parking_lot::RwLock;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::error_response::ErrorResponse;
use super::weak_key;
use crate::engine::COMMAND_LINE;
use crate::error::{Error, ErrorCode, Result};

/// A header that carries the key. Never a query parameter: those end up in logs and browser
/// histories.
const HEADER: &str = "x-dash-key";
/// The scheme of the header `Authorization` that carries the key.
const SCHEME: &str = "bearer";
/// Most keys of a role: some for people and programs, twice as many while they are replaced.
const MAX_KEYS: usize = 32;
/// Most characters of the name of a key.
const MAX_NAME_CHARS: usize = 32;

/// The requests that a key allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Dash,
    /// Queries, and nothing that changes something or shows the events of a user.
    Read,
}

impl Role {
    /// The name of the role in messages, and of a key without a name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dash => "dashboard",
            Self::Read => "read",
        }
    }

    /// The code of an error in the keys of the role.
    pub fn error_code(self) -> ErrorCode {
        match self {
            Self::Dash => ErrorCode::BadDashKey,
            Self::Read => ErrorCode::BadReadKey,
        }
    }
}

/// The valid keys as digests, which are compared in constant time.
pub struct Keys {
    listed: RwLock<Vec<Key>>,
    command_line: Key,
}

#[derive(Clone, PartialEq, Eq)]
struct Key {
    digest: [u8; 32],
    identity: Identity,
}

/// The key that a request was sent with.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The requests that it allows.
    pub role: Role,
    /// Its name, for the audit log.
    pub name: Arc<str>,
    /// It is that of the command line, which may name files of this machine.
    pub is_command_line: bool,
}

/// The keys of one role, as a setting or a file lists them.
pub struct KeyList {
    role: Role,
    /// A digest or two for each key.
    keys: Vec<Key>,
    /// The number of keys.
    pub count: usize,
}

impl KeyList {
    /// Reads keys, separated by commas or lines. A key may have a name: `name:key`.
    ///
    /// # Errors
    /// The code of the role if there is no key, one is easy to guess, or there are too many. The
    /// message never contains a key.
    pub fn parse(role: Role, keys: &str) -> Result<Self> {
        let bad = |message: String| Error::bad_input(role.error_code(), message);
        let listed: Vec<&str> = keys
            .split([',', '\n'])
            .map(str::trim)
            .filter(|key| !key.is_empty())
            .collect();
        let count = listed.len();
        let kind = role.name();
        if count == 0 || count > MAX_KEYS {
            return Err(bad(format!(
                "there are {count} {kind} keys; allowed are 1 to {MAX_KEYS}, comma separated or one on each line"
            )));
        }
        let mut keys = Vec::new();
        for entry in listed {
            let (name, key) = match name_of(entry) {
                Some((name, key)) => (name, key),
                None => (kind, entry),
            };
            weak_key::check(key).map_err(|reason| {
                bad(match name == kind {
                    true => format!("a {kind} key is too weak: {reason}"),
                    false => format!("the {kind} key {name:?} is too weak: {reason}"),
                })
            })?;
            keys.push(Key::new(role, name, key));
            if entry != key {
                // Earlier versions had no names: the key may contain a colon.
                keys.push(Key::new(role, name, entry));
            }
        }
        Ok(Self { role, keys, count })
    }
}

/// The name of a key, and the key, of an entry `name:key`.
fn name_of(entry: &str) -> Option<(&str, &str)> {
    let (name, key) = entry.split_once(':')?;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let fits = (1..=MAX_NAME_CHARS).contains(&name.len());
    (fits && name.bytes().all(is_name)).then_some((name, key.trim()))
}

impl Key {
    fn new(role: Role, name: &str, key: &str) -> Self {
        Self {
            digest: digest(key),
            identity: Identity {
                role,
                name: name.into(),
                is_command_line: false,
            },
        }
    }
}

impl Keys {
    /// These keys, and that of the command line.
    ///
    /// # Errors
    /// `bad_read_key` if a key has both roles.
    pub fn new(lists: Vec<KeyList>, command_line: &str) -> Result<Self> {
        let mut command_line = Key::new(Role::Dash, COMMAND_LINE, command_line);
        command_line.identity.is_command_line = true;
        Ok(Self {
            listed: RwLock::new(joined(lists)?),
            command_line,
        })
    }

    /// Replaces the listed keys in one step. Returns whether they are others.
    ///
    /// # Errors
    /// As [`Keys::new`]; then the keys stay.
    pub fn replace(&self, lists: Vec<KeyList>) -> Result<bool> {
        let keys = joined(lists)?;
        let known = std::mem::replace(&mut *self.listed.write(), keys.clone());
        Ok(known != keys)
    }

    /// Checks that a request has a valid key.
    ///
    /// # Errors
    /// 401 if not.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<Identity, ErrorResponse> {
        let sent = digest(sent_key(headers).unwrap_or_default());
        let listed = self.listed.read();
        let mut found = None;
        // All of them, so that the time does not depend on the place of the key.
        for key in listed.iter().chain([&self.command_line]) {
            if bool::from(key.digest.ct_eq(&sent)) {
                found = Some(key.identity.clone());
            }
        }
        found.ok_or_else(|| {
            ErrorResponse::new(
                StatusCode::UNAUTHORIZED,
                ErrorCode::Unauthorized,
                "the key is missing or wrong; send it as X-Dash-Key or as Authorization: Bearer",
            )
        })
    }
}

/// The SHA-256 of the key of a request, valid or not; none if it has none.
pub(super) fn digest_of_key(headers: &HeaderMap) -> Option<[u8; 32]> {
    sent_key(headers).map(digest)
}

impl Keys {
    /// Checks that a request has a valid key, or that it has none and comes from this machine.
    ///
    /// # Errors
    /// 401 if not.
    pub(super) fn check_unless_local(
        &self,
        headers: &HeaderMap,
        is_local: bool,
    ) -> Result<(), ErrorResponse> {
        if is_local && !has_key(headers) {
            return Ok(());
        }
        self.check(headers).map(drop)
    }
}

/// The keys of all lists.
fn joined(lists: Vec<KeyList>) -> Result<Vec<Key>> {
    let mut keys: Vec<Key> = Vec::new();
    for list in lists {
        let is_listed = |key: &Key| {
            keys.iter()
                .any(|other| other.identity.role != list.role && other.digest == key.digest)
        };
        if list.keys.iter().any(is_listed) {
            return Err(Error::bad_input(
                Role::Read.error_code(),
                "a read key is also a dashboard key; use another one",
            ));
        }
        keys.extend(list.keys);
    }
    Ok(keys)
}

/// Returns true if a request has a key, valid or not.
pub(super) fn has_key(headers: &HeaderMap) -> bool {
    sent_key(headers).is_some()
}

/// The key of a request. `X-Dash-Key` comes first, because a reverse proxy may have an
/// `Authorization` of its own.
fn sent_key(headers: &HeaderMap) -> Option<&[u8]> {
    if let Some(value) = headers.get(HEADER) {
        return Some(value.as_bytes());
    }
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, key) = value.split_at_checked(SCHEME.len())?;
    let is_bearer = scheme.eq_ignore_ascii_case(SCHEME.as_bytes())
        && key.first().is_none_or(u8::is_ascii_whitespace);
    is_bearer.then(|| key.trim_ascii())
}

fn digest(key: impl AsRef<[u8]>) -> [u8; 32] {
    Sha256::digest(key.as_ref()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMAND_LINE_KEY: &str = "f1c0b3a8d5e27496";

    fn keys(dash: &str, read: Option<&str>) -> Result<Keys> {
        let mut lists = vec![KeyList::parse(Role::Dash, dash)?];
        if let Some(read) = read {
            lists.push(KeyList::parse(Role::Read, read)?);
        }
        Keys::new(lists, COMMAND_LINE_KEY)
    }

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().expect("a header value"));
        headers
    }

    /// The role and the name of a key.
    fn identity(keys: &Keys, key: &str) -> Option<(Role, String)> {
        let dashed = keys.check(&headers(HEADER, key)).ok();
        let borne = keys.check(&headers("authorization", &format!("Bearer {key}")));
        let [dashed, borne] = [dashed, borne.ok()]
            .map(|found| found.map(|found| (found.role, found.name.to_string())));
        assert_eq!(dashed, borne, "{key}");
        dashed
    }

    #[test]
    fn long_keys_are_accepted_and_only_they_pass() {
        let distinct = |count: u32| {
            let keys = (0..count).map(|number| format!("9f86d081884c{number:04}"));
            keys.collect::<Vec<_>>().join(",")
        };
        for wrong in [
            "",
            ",",
            "short",
            "9f86d081884c7d65,short",
            "9f86d081884c7d65,password12345678",
            "name:short",
            "name:password12345678",
            &distinct(33),
        ] {
            assert!(KeyList::parse(Role::Dash, wrong).is_err(), "{wrong:?}");
        }
        assert!(KeyList::parse(Role::Dash, &distinct(32)).is_ok());
        let keys = keys("9f86d081884c7d65, 60303ae22b998861", None).expect("two keys");
        let dash = || Some((Role::Dash, "dashboard".to_owned()));
        for (sent, found) in [
            ("9f86d081884c7d65", dash()),
            ("60303ae22b998861", dash()),
            ("9f86d081884c7d65,60303ae22b998861", None),
            ("9f86d081884c7d6", None),
            ("", None),
        ] {
            assert_eq!(identity(&keys, sent), found, "{sent:?}");
        }
        let none = HeaderMap::new();
        assert!(keys.check(&none).is_err());
        assert!(keys.check_unless_local(&none, false).is_err());
        assert!(keys.check_unless_local(&none, true).is_ok());
        let mut wrong = HeaderMap::new();
        wrong.insert(
            header::AUTHORIZATION,
            "Bearer wrong".parse().expect("a header value"),
        );
        assert!(keys.check_unless_local(&wrong, true).is_err());
        let list = KeyList::parse(Role::Dash, "\nb5d54c39e66671c9\n").expect("a key");
        assert_eq!(list.count, 1);
        assert_eq!(keys.replace(vec![list]).ok(), Some(true));
        let list = KeyList::parse(Role::Dash, "b5d54c39e66671c9").expect("a key");
        assert_eq!(keys.replace(vec![list]).ok(), Some(false));
        assert_eq!(identity(&keys, "b5d54c39e66671c9"), dash());
        assert_eq!(identity(&keys, "9f86d081884c7d65"), None);
    }

    #[test]
    fn keys_have_names_and_roles() {
        let keys = keys(
            "anna:9f86d081884c7d65\nold key: 60303ae22b998861",
            Some("grafana: b5d54c39e66671c9"),
        )
        .expect("three keys");
        for (sent, found) in [
            ("9f86d081884c7d65", Some((Role::Dash, "anna"))),
            ("anna:9f86d081884c7d65", Some((Role::Dash, "anna"))),
            ("old key: 60303ae22b998861", Some((Role::Dash, "dashboard"))),
            ("60303ae22b998861", None),
            ("b5d54c39e66671c9", Some((Role::Read, "grafana"))),
            (COMMAND_LINE_KEY, Some((Role::Dash, "command line"))),
        ] {
            let found = found.map(|(role, name)| (role, name.to_owned()));
            assert_eq!(identity(&keys, sent), found, "{sent}");
        }
        let local = keys.check(&headers(HEADER, COMMAND_LINE_KEY));
        assert!(local.is_ok_and(|key| key.is_command_line));
        let remote = keys.check(&headers(HEADER, "9f86d081884c7d65"));
        assert!(remote.is_ok_and(|key| !key.is_command_line));
    }

    #[test]
    fn a_key_with_both_roles_is_rejected() {
        let both = keys("a:9f86d081884c7d65", Some("9f86d081884c7d65"));
        assert!(both.is_err_and(|error| !error.to_string().contains("9f86d081884c7d65")));
    }

    #[test]
    fn a_key_is_read_from_either_header() {
        for (name, value, sent) in [
            ("authorization", "Bearer abc", Some("abc")),
            ("authorization", "bearer   abc ", Some("abc")),
            ("authorization", "BEARER", Some("")),
            ("authorization", "Bearerabc", None),
            ("authorization", "Basic abc", None),
            ("authorization", "é", None),
            (HEADER, "abc", Some("abc")),
            (HEADER, "", Some("")),
        ] {
            let headers = headers(name, value);
            assert_eq!(sent_key(&headers), sent.map(str::as_bytes), "{value}");
            assert_eq!(has_key(&headers), sent.is_some(), "{value}");
        }
        let mut both = headers(HEADER, "abc");
        both.insert(header::AUTHORIZATION, "Bearer def".parse().expect("valid"));
        assert_eq!(sent_key(&both), Some(&b"abc"[..]));
    }
}
