//! Groups of paths: `/order/17` and `/order/18` are the page `/order/:id`.

use crate::error::shown;
use crate::event::MAX_FEATURE_CHARS;

/// The path rules of a plan, in its order.
#[derive(Default)]
pub struct Paths(Vec<Pattern>);

struct Pattern {
    /// The pattern without its first slash.
    text: String,
    /// Its segments; none for one that stands for any.
    segments: Vec<Option<String>>,
}

impl Paths {
    /// Parses the paths of a plan.
    ///
    /// # Errors
    /// The place, the value and what is allowed.
    pub fn new<'a>(paths: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let patterns = paths.enumerate().map(|(at, path)| {
            Pattern::parse(path).ok_or_else(|| {
                let path = shown(path);
                format!(
                    "paths[{at}].path is {path:?}; allowed are paths such as /order/:id of at most \
                     {MAX_FEATURE_CHARS} characters, without empty segments"
                )
            })
        });
        patterns.collect::<Result<_, _>>().map(Self)
    }

    /// The pattern that a path becomes: that of the first rule that matches. `None` if the path
    /// stays as it is. Our own client sends paths without the slash at the start.
    pub fn group(&self, path: &str) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        let end = path.find(['?', '#']).unwrap_or(path.len());
        let path = path.get(..end)?;
        let (slash, inner) = match path.strip_prefix('/') {
            Some(inner) => ("/", inner),
            None => ("", path),
        };
        let inner = inner.strip_suffix('/').unwrap_or(inner);
        let pattern = self.0.iter().find(|pattern| pattern.matches(inner))?;
        pattern
            .has_placeholder()
            .then(|| format!("{slash}{}", pattern.text))
    }
}

impl Pattern {
    fn parse(path: &str) -> Option<Self> {
        let text = path.strip_prefix('/')?;
        let segments = text.split('/').map(|segment| match segment {
            "" | ":" => None,
            _ if segment.contains(['?', '#']) => None,
            _ if segment.starts_with(':') => Some(None),
            _ => Some(Some(segment.to_owned())),
        });
        let is_short = path.chars().count() <= MAX_FEATURE_CHARS;
        Some(Self {
            text: text.to_owned(),
            segments: segments.collect::<Option<_>>()?,
        })
        .filter(|_| is_short)
    }

    fn has_placeholder(&self) -> bool {
        self.segments.iter().any(Option::is_none)
    }

    fn matches(&self, path: &str) -> bool {
        let mut found = path.split('/');
        let all_match = self.segments.iter().all(|wanted| match found.next() {
            Some(segment) => {
                let is_wanted = wanted.as_deref().is_none_or(|wanted| wanted == segment);
                !segment.is_empty() && is_wanted
            }
            None => false,
        });
        all_match && found.next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_pattern_that_matches_groups_a_path() {
        let rules = ["/order/new", "/order/:id", "/:team/board/:board"];
        let paths = Paths::new(rules.into_iter()).expect("rules");
        for (path, grouped) in [
            ("/order/17", Some("/order/:id")),
            ("order/17", Some("order/:id")),
            ("/order/17/", Some("/order/:id")),
            ("/order/17?tab=2#top", Some("/order/:id")),
            ("/order/:id", Some("/order/:id")),
            ("/order/new", None),
            ("/order", None),
            ("/order//", None),
            ("/order/17/items", None),
            ("/a/board/b", Some("/:team/board/:board")),
            ("Checkout", None),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(paths.group(path).as_deref(), grouped, "{path}");
        }
        for wrong in ["", "/", "order/:id", "/order//:id", "/order/:", "/a?b"] {
            assert!(Pattern::parse(wrong).is_none(), "{wrong}");
        }
    }
}
