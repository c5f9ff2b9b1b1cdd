//! Normalises the path of a request for the routes: removes the base path, repeated slashes and a
//! trailing slash.
//!
//! Done before routing and without a redirect, because clients do not send a body again after one.

use axum::http::Method;
use axum::http::uri::{PathAndQuery, Uri};

use crate::config::BasePath;

/// The path that takes events.
pub const INGEST_PATH: &str = "/api/analytics/event";

/// Paths whose next segment is an id of the user's own, which is left unchanged.
const NAMED: [&str; 2] = ["/api/analytics/users", "/api/analytics/cohorts"];
/// A page whose relative URLs need the trailing slash.
const FOLDER: &str = "/demo";
/// A page whose relative URLs do not work with a trailing slash.
const PAGE: &str = "/docs";

/// The target of a request, by its path.
#[derive(Debug, PartialEq, Eq)]
pub enum Routed {
    /// It is served as one for this path.
    To(Uri),
    /// The page is at this URL, relative to that of the request.
    Redirect(String),
}

/// The URL of the root, relative to a URL whose path is not changed by [`route`]: a proxy may have
/// removed a prefix that only the client knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToRoot(pub String);

impl ToRoot {
    /// That of a request for this path.
    pub fn from(path: &str, base: &BasePath) -> Self {
        let slashes = |path: &str| path.matches('/').count();
        let inner = if base.strip(path).is_some() {
            slashes(path) - slashes(base.as_str())
        } else {
            slashes(path)
        };
        match inner.saturating_sub(1) {
            0 => Self("./".into()),
            depth => Self("../".repeat(depth)),
        }
    }
}

/// Returns the path for the routes.
pub fn route(uri: &Uri, method: &Method, base: &BasePath) -> Routed {
    let path = uri.path();
    if !path.starts_with('/') {
        return Routed::To(uri.clone());
    }
    let collapsed = collapse(path);
    let reads = matches!(*method, Method::GET | Method::HEAD);
    if reads && !base.as_str().is_empty() && collapsed == base.as_str() {
        let query = uri
            .query()
            .map_or(String::new(), |query| format!("?{query}"));
        return Routed::Redirect(format!("{}/{query}", base.last_name()));
    }
    // A proxy may have removed the base path already.
    let inner = base.strip(&collapsed).unwrap_or(&collapsed);
    let trimmed = inner.trim_end_matches('/');
    if reads && trimmed == PAGE && inner != PAGE {
        return Routed::Redirect(format!("..{PAGE}"));
    }
    let routed = match trimmed {
        "" => "/".to_owned(),
        FOLDER if inner.ends_with('/') => format!("{FOLDER}/"),
        path => path.to_owned(),
    };
    if routed == path {
        return Routed::To(uri.clone());
    }
    let with_query = match uri.query() {
        None => routed,
        Some(query) => format!("{routed}?{query}"),
    };
    let mut parts = uri.clone().into_parts();
    // Joined segments are a valid path.
    if let Ok(path) = PathAndQuery::try_from(with_query) {
        parts.path_and_query = Some(path);
    }
    Routed::To(Uri::from_parts(parts).unwrap_or_else(|_| uri.clone()))
}

/// Collapses repeated slashes. A trailing slash stays.
fn collapse(path: &str) -> String {
    let mut collapsed = String::with_capacity(path.len());
    let mut rest = path;
    while !rest.is_empty() {
        if NAMED.iter().any(|named| collapsed.ends_with(named)) {
            collapsed.push_str(rest);
            break;
        }
        let name = rest.trim_start_matches('/');
        let end = name.find('/').unwrap_or(name.len());
        let (name, after) = name.split_at(end);
        collapsed.push('/');
        collapsed.push_str(name);
        rest = after;
    }
    collapsed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(path: &str, method: &Method, base: &str) -> String {
        let uri: Uri = path.parse().expect("a path");
        match route(&uri, method, &base.parse().expect("a base path")) {
            Routed::To(uri) => uri.to_string(),
            Routed::Redirect(to) => format!("redirect {to}"),
        }
    }

    #[test]
    fn the_root_is_as_many_folders_above_as_a_path_has() {
        for (path, base, expected) in [
            ("/", "/", "./"),
            ("/x", "/", "./"),
            ("/x/", "/", "../"),
            ("/a/b/c", "/", "../../"),
            ("//a", "/", "../"),
            ("/stats/x", "/stats", "./"),
            ("/stats/x/y", "/stats", "../"),
            // A proxy has removed the base path.
            ("/x/y", "/stats", "../"),
            ("*", "/", "./"),
        ] {
            let base = base.parse().expect("a base path");
            assert_eq!(ToRoot::from(path, &base), ToRoot(expected.into()), "{path}");
        }
    }

    #[test]
    fn repeated_and_trailing_slashes_are_ignored() {
        for (path, expected) in [
            ("/", "/"),
            ("//", "/"),
            ("/api/analytics/event", "/api/analytics/event"),
            ("/api/analytics/event/", "/api/analytics/event"),
            ("//api///analytics/event//", "/api/analytics/event"),
            (
                "/api/analytics/usage/?days=3",
                "/api/analytics/usage?days=3",
            ),
            ("/health/ready/", "/health/ready"),
            ("/demo", "/demo"),
            ("/demo/", "/demo/"),
            ("/demo//", "/demo/"),
            ("/demo/api/analytics/usage/", "/demo/api/analytics/usage"),
            ("/static//dashboard.js", "/static/dashboard.js"),
            (
                "/api/analytics/users/a%2F%2Fb/events/",
                "/api/analytics/users/a%2F%2Fb/events",
            ),
            // Ids are not changed.
            (
                "/api//analytics/users//events",
                "/api/analytics/users//events",
            ),
            ("/api/analytics/users/a//b", "/api/analytics/users/a//b"),
            ("/api/analytics/cohorts//x", "/api/analytics/cohorts//x"),
            ("/api/analytics/users/", "/api/analytics/users"),
            ("*", "*"),
        ] {
            for method in [Method::GET, Method::POST, Method::DELETE] {
                assert_eq!(routed(path, &method, "/"), expected, "{path}");
            }
        }
        let absolute = routed("http://a.example//api/x/", &Method::POST, "/");
        assert_eq!(absolute, "http://a.example/api/x");
    }

    #[test]
    fn the_base_path_has_the_same_routes_as_the_root() {
        for (path, expected) in [
            ("/analytics", "redirect analytics/"),
            ("/analytics?a=1", "redirect analytics/?a=1"),
            ("/analytics/", "/"),
            ("/analytics//", "/"),
            ("//analytics/static/dashboard.js", "/static/dashboard.js"),
            ("/analytics/demo", "/demo"),
            ("/analytics/demo/", "/demo/"),
            ("/analytics/health/ready", "/health/ready"),
            ("/health/ready", "/health/ready"),
            ("/api/analytics/usage", "/api/analytics/usage"),
            (
                "/analytics/api/analytics/usage?days=3",
                "/api/analytics/usage?days=3",
            ),
            ("/analytics2", "/analytics2"),
            ("/docs", "/docs"),
            ("/docs/", "redirect ../docs"),
            ("/analytics/docs/", "redirect ../docs"),
        ] {
            assert_eq!(routed(path, &Method::GET, "/analytics"), expected, "{path}");
        }
        // The neutral path for events may be the same.
        assert_eq!(routed("/echo", &Method::POST, "/echo"), "/echo");
        assert_eq!(routed("/a/b", &Method::HEAD, "/a/b"), "redirect b/");
    }
}
