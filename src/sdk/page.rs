//! The page of an event: its path, its URL without query string, its campaign, and where the
//! visitor came from.

use std::borrow::Cow;

use super::fields::Fields;

/// The parameters of a campaign that are kept. Nothing else of a query string is.
pub const CAMPAIGN: [&str; 5] = [
    "utm_source",
    "utm_medium",
    "utm_campaign",
    "utm_term",
    "utm_content",
];

/// Longest query string that is read, in bytes: several times what browsers and servers accept.
const MAX_QUERY_BYTES: usize = 64 << 10;

/// A page.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Page<'a> {
    /// Its path without slashes around it, or `/`.
    pub path: Option<Cow<'a, str>>,
    /// Its URL without user, query string and fragment.
    pub url: Option<Cow<'a, str>>,
    query: Option<Cow<'a, str>>,
}

impl<'a> Page<'a> {
    /// The page of a URL.
    pub fn of(url: Option<Cow<'a, str>>) -> Self {
        match url {
            Some(Cow::Borrowed(url)) => Self::parse(url),
            Some(Cow::Owned(url)) => {
                let Page { path, url, query } = Page::parse(&url);
                let owned = |text: Option<Cow<'_, str>>| text.map(|text| text.into_owned().into());
                Self {
                    path: owned(path),
                    url: owned(url),
                    query: owned(query),
                }
            }
            None => Self::default(),
        }
    }

    fn parse(url: &'a str) -> Self {
        let (before, query) = match url.split_once('#') {
            Some((before, _)) => before,
            None => url,
        }
        .split_once('?')
        .map_or_else(
            || (url.split('#').next().unwrap_or_default(), None),
            |(before, query)| (before, Some(query)),
        );
        let (scheme, rest) = match before.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, before),
        };
        let (host, path) = match scheme {
            Some(_) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
            None => ("", rest),
        };
        let url = match (scheme, host) {
            (Some(scheme), host) if !host.is_empty() => match host.rsplit_once('@') {
                Some((_, host)) => format!("{scheme}://{host}{path}").into(),
                None => before.into(),
            },
            _ => path.into(),
        };
        let trimmed = path.trim_matches('/');
        Self {
            path: Some(if trimmed.is_empty() { "/" } else { trimmed }.into()),
            url: Some(url),
            query: query.map(Cow::Borrowed),
        }
    }

    /// Adds the parameters of the campaign.
    pub fn add_campaign(&self, fields: &mut Fields<'a>) {
        let query = self.query.as_deref().unwrap_or_default();
        if query.len() > MAX_QUERY_BYTES {
            return;
        }
        let pairs: Vec<(String, String)> = serde_urlencoded::from_str(query).unwrap_or_default();
        for name in CAMPAIGN {
            let value = pairs.iter().rev().find(|(key, _)| key == name);
            if let Some((_, value)) = value.filter(|(_, value)| !value.is_empty()) {
                fields.set_text(name, value);
            }
        }
    }
}

/// Adds the origin of the page that the visitor came from.
pub fn add_referrer(url: Option<&str>, fields: &mut Fields<'_>) {
    let Some((scheme, rest)) = url.and_then(|url| url.split_once("://")) else {
        return;
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or_default();
    if !host.is_empty() {
        fields.set_text("referrer", &format!("{scheme}://{host}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_a_path_and_a_url_without_user_query_and_fragment() {
        for (url, path, bare) in [
            ("https://shop.example", "/", "https://shop.example"),
            ("https://shop.example/", "/", "https://shop.example/"),
            (
                "https://shop.example/docs/start/?a=b#c",
                "docs/start",
                "https://shop.example/docs/start/",
            ),
            ("https://shop.example/a#b?c", "a", "https://shop.example/a"),
            (
                "https://me:secret@shop.example:8443/a",
                "a",
                "https://shop.example:8443/a",
            ),
            ("https://shop.example?a=me@b", "/", "https://shop.example"),
            ("/pricing?x=1", "pricing", "/pricing"),
            ("pricing", "pricing", "pricing"),
            ("file:///tmp/a.html", "tmp/a.html", "/tmp/a.html"),
        ] {
            for text in [Cow::Borrowed(url), Cow::Owned(url.to_owned())] {
                let page = Page::of(Some(text));
                assert_eq!(page.path.as_deref(), Some(path), "{url}");
                assert_eq!(page.url.as_deref(), Some(bare), "{url}");
            }
        }
        assert_eq!(Page::of(None), Page::default());
    }

    #[test]
    fn of_a_query_string_only_the_campaign_is_kept() {
        let url = "https://a.example/?utm_source=x%20y&email=me@b.example&utm_medium=&utm_campaign=a+b&utm_source=z";
        let mut fields = Fields::default();
        Page::of(Some(url.into())).add_campaign(&mut fields);
        assert_eq!(fields.json(), r#"{"utm_source":"z","utm_campaign":"a b"}"#);
        let hostile = format!(
            "https://a.example/?utm_source=a{}",
            "&a".repeat(MAX_QUERY_BYTES)
        );
        let mut fields = Fields::default();
        Page::of(Some(hostile.into())).add_campaign(&mut fields);
        assert_eq!(fields.json(), "{}");
    }

    #[test]
    fn of_a_referrer_only_the_origin_is_kept() {
        for (url, origin) in [
            (
                "https://a.example/b?c=d",
                r#"{"referrer":"https://a.example"}"#,
            ),
            (
                "https://me@a.example:1/b",
                r#"{"referrer":"https://a.example:1"}"#,
            ),
            (
                "https://a.example?x=@",
                r#"{"referrer":"https://a.example"}"#,
            ),
            ("$direct", "{}"),
            ("", "{}"),
            ("https:///b", "{}"),
        ] {
            let mut fields = Fields::default();
            add_referrer(Some(url), &mut fields);
            assert_eq!(fields.json(), origin, "{url}");
        }
    }
}
