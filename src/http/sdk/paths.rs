//! The paths of the clients of other products, which they expect at the root of a host, and which
//! are also below the neutral path.

use axum::http::uri::{PathAndQuery, Uri};

use crate::config::ServeConfig;
use crate::http::path::Routed;
use crate::sdk::Product;

/// Names of Segment's calls after `/v1/`, and the kind of the message where it names none.
const CALLS: [(&str, Option<&str>); 15] = [
    ("batch", None),
    ("b", None),
    ("import", None),
    ("track", Some("track")),
    ("t", Some("track")),
    ("identify", Some("identify")),
    ("i", Some("identify")),
    ("page", Some("page")),
    ("p", Some("page")),
    ("screen", Some("screen")),
    ("s", Some("screen")),
    ("group", Some("group")),
    ("g", Some("group")),
    ("alias", Some("alias")),
    ("a", Some("alias")),
];
/// The other paths, with the product whose clients use them. A segment in braces is any one.
const PATHS: [(&str, Product); 16] = [
    ("/beacon/v1/batch", Product::Segment),
    ("/v1/projects/{key}/settings", Product::Segment),
    ("/projects/{key}/settings", Product::Segment),
    ("/sourceConfig", Product::Segment),
    ("/batch", Product::PostHog),
    ("/e", Product::PostHog),
    ("/capture", Product::PostHog),
    ("/i/v0/e", Product::PostHog),
    ("/i/v1/analytics/events", Product::PostHog),
    ("/flags", Product::PostHog),
    ("/decide", Product::PostHog),
    ("/s", Product::PostHog),
    ("/array/{key}/config", Product::PostHog),
    ("/array/{key}/config.js", Product::PostHog),
    ("/api/feature_flag/local_evaluation", Product::PostHog),
    ("/api/event", Product::Plausible),
];

/// The kind of message of a call of Segment's protocol, if it has this name.
pub fn call(name: &str) -> Option<Option<&'static str>> {
    let found = CALLS.iter().find(|(known, _)| *known == name);
    found.map(|(_, kind)| *kind)
}

/// True for a path that is used by clients of a product whose events are accepted.
pub fn is_foreign(path: &str, config: &ServeConfig) -> bool {
    let neutral = config.neutral_path.as_str();
    path != neutral && product_of(path).is_some_and(|product| config.clients.sdk.has(product))
}

/// The target of a request: below the neutral path are the paths of these clients.
pub fn route(routed: Routed, config: &ServeConfig) -> Routed {
    let Routed::To(uri) = &routed else {
        return routed;
    };
    let inner = uri.path().strip_prefix(config.neutral_path.as_str());
    let inner = inner.filter(|inner| is_foreign(inner, config));
    match inner.and_then(|inner| with_path(uri, inner)) {
        Some(uri) => Routed::To(uri),
        None => routed,
    }
}

fn with_path(uri: &Uri, path: &str) -> Option<Uri> {
    let path = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(path).ok()?);
    Uri::from_parts(parts).ok()
}

fn product_of(path: &str) -> Option<Product> {
    if let Some(name) = path.strip_prefix("/v1/")
        && call(name).is_some()
    {
        return Some(Product::Segment);
    }
    let found = PATHS.iter().find(|(pattern, _)| is_match(pattern, path));
    found.map(|(_, product)| *product)
}

fn is_match(pattern: &str, path: &str) -> bool {
    let mut segments = path.split('/');
    pattern.split('/').all(|expected| {
        let found = segments.next();
        found.is_some_and(|found| found == expected || expected == "{key}" && !found.is_empty())
    }) && segments.next().is_none()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Settings {
        #[command(flatten)]
        serve: ServeConfig,
    }

    fn config(arguments: &[&str]) -> ServeConfig {
        let arguments = [&["serve"], arguments].concat();
        Settings::parse_from(arguments).serve
    }

    fn routed(path: &str, config: &ServeConfig) -> String {
        match route(Routed::To(path.parse().expect("a path")), config) {
            Routed::To(uri) => uri.to_string(),
            Routed::Redirect(to) => to,
        }
    }

    #[test]
    fn the_paths_of_clients_are_also_below_the_neutral_path() {
        let config = config(&[]);
        for (path, expected) in [
            ("/echo/v1/batch", "/v1/batch"),
            ("/echo/e?compression=base64", "/e?compression=base64"),
            ("/echo/array/k/config.js", "/array/k/config.js"),
            ("/echo/api/event", "/api/event"),
            ("/v1/batch", "/v1/batch"),
            ("/echo", "/echo"),
            ("/echo/v1/other", "/echo/v1/other"),
            ("/echo/api/analytics/usage", "/echo/api/analytics/usage"),
            ("/echo/array//config", "/echo/array//config"),
            ("/echoes/e", "/echoes/e"),
        ] {
            assert_eq!(routed(path, &config), expected);
        }
        for path in ["/v1/p", "/e", "/array/k/config", "/projects/k/settings"] {
            assert!(is_foreign(path, &config), "{path}");
        }
        for path in [
            "/v1/x",
            "/",
            "/e/x",
            "/array/config",
            "/api/analytics/event",
        ] {
            assert!(!is_foreign(path, &config), "{path}");
        }
    }

    #[test]
    fn a_product_that_is_off_has_no_paths_and_the_neutral_path_is_ours() {
        let config = config(&["--sdk", "segment", "--neutral-path", "/v1/track"]);
        assert!(is_foreign("/v1/t", &config));
        assert!(!is_foreign("/v1/track", &config));
        assert!(!is_foreign("/e", &config));
        assert_eq!(routed("/v1/track/e", &config), "/v1/track/e");
    }
}
