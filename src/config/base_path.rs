//! The path under which a reverse proxy serves the server.

use std::str::FromStr;

use super::neutral_path::NeutralPath;

/// A path of plain segments without a trailing slash; the root is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BasePath(String);

impl BasePath {
    /// The path with its leading slash; empty for the root.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Removes this path from the start of another one, up to its next slash.
    pub fn strip<'a>(&self, path: &'a str) -> Option<&'a str> {
        path.strip_prefix(self.0.as_str())
            .filter(|rest| !self.0.is_empty() && rest.starts_with('/'))
    }

    /// Its last segment.
    pub fn last_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

impl FromStr for BasePath {
    type Err = String;

    fn from_str(value: &str) -> Result<Self, String> {
        let path = value.trim().trim_end_matches('/');
        if path.is_empty() {
            return Ok(Self::default());
        }
        // The same segments are reserved: a request below one of the server's own paths would be
        // ambiguous.
        path.parse::<NeutralPath>()
            .map(|path| Self(path.as_str().to_owned()))
            .map_err(|message| message.replace("/echo", "/analytics"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_paths_are_plain_or_the_root() {
        for (text, path) in [
            ("/", ""),
            ("", ""),
            ("/analytics", "/analytics"),
            ("/analytics/", "/analytics"),
            ("/a/b-c", "/a/b-c"),
        ] {
            let parsed: BasePath = text.parse().expect(text);
            assert_eq!(parsed.as_str(), path);
        }
        for text in [
            "analytics",
            "/a//b",
            "/a b",
            "/../a",
            "https://a.example/b",
            "/api",
            "/static/x",
            "/é",
        ] {
            let message = text.parse::<BasePath>().expect_err(text);
            assert!(message.contains("/analytics"), "{message}");
        }
    }

    #[test]
    fn only_complete_segments_match() {
        let base: BasePath = "/analytics".parse().expect("a path");
        for (path, rest) in [
            ("/analytics/", Some("/")),
            ("/analytics/api", Some("/api")),
            ("/analytics", None),
            ("/analytics2/api", None),
            ("/api/analytics/event", None),
        ] {
            assert_eq!(base.strip(path), rest, "{path}");
        }
        assert_eq!(BasePath::default().strip("/api"), None);
    }
}
