//! The ingest path that ad blockers do not list.

use std::str::FromStr;

/// A path of plain segments that does not conflict with the server's own paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeutralPath(String);

impl NeutralPath {
    /// Most characters of a path, which is part of the script.
    const MAX_LENGTH: usize = 100;
    /// First segments that are reserved for the server's own paths, now and later.
    const RESERVED: [&str; 6] = ["api", "demo", "static", "health", "metrics", "openapi.json"];

    /// The path with its leading slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NeutralPath {
    type Err = String;

    fn from_str(value: &str) -> Result<Self, String> {
        let is_plain = |name: &str| {
            let mut characters = name.bytes().peekable();
            characters.peek().is_some_and(u8::is_ascii_alphanumeric)
                && characters.all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        let names = value.strip_prefix('/').filter(|names| {
            value.len() <= Self::MAX_LENGTH
                && names.split('/').all(is_plain)
                && !names
                    .split('/')
                    .take(1)
                    .any(|name| Self::RESERVED.contains(&name))
        });
        names.map(|_| Self(value.to_owned())).ok_or_else(|| {
            format!(
                "allowed is a path such as /echo or /a/b, of letters, digits, '-', '_' and '.', up to {} characters, \
                 that does not begin with any of: {}",
                Self::MAX_LENGTH,
                Self::RESERVED.map(|name| format!("/{name}")).join(", ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neutral_paths_are_plain_and_not_reserved() {
        for good in ["/echo", "/a/b-c_d.e", "/9", "/apis"] {
            assert_eq!(good.parse().map(|NeutralPath(path)| path), Ok(good.into()));
        }
        let long = format!("/{}", "a".repeat(100));
        for bad in [
            "",
            "/",
            "echo",
            "/a/",
            "//a",
            "/..",
            "/a/../b",
            "/a b",
            "/{x}",
            "/a?b",
            "/é",
            "/api/x",
            "/static",
            "/health/live",
            "/metrics",
            &long,
        ] {
            assert!(bad.parse::<NeutralPath>().is_err(), "{bad}");
        }
    }
}
