//! The messages of a request, and the key that it was sent with.

use std::borrow::Cow;

use super::object::{Elements, Object};
use super::{Product, text_of};
use crate::error::{Error, ErrorCode, Result};

/// Most messages of one request. Clients send fewer; beyond it some send smaller batches, and
/// others lose them.
pub const MAX_BATCH_EVENTS: usize = 1_000;

/// The messages of a request.
#[derive(Debug)]
pub struct Batch<'a> {
    /// JSON of each, in the client's order.
    pub messages: Vec<&'a str>,
    /// The time of sending, as JSON; `None` for a transfer of old events, whose times are right.
    pub sent_at: Option<&'a str>,
    /// The product whose client sent it.
    pub product: Product,
    key: Option<Cow<'a, str>>,
}

/// Reads the messages of a body.
///
/// # Errors
/// If it is neither an object nor an array, and [`Error::TooLarge`] above [`MAX_BATCH_EVENTS`].
pub fn read(product: Product, json: &str) -> Result<Batch<'_>> {
    let bad = || {
        let message = "the body is neither an object nor an array";
        Error::bad_input(ErrorCode::BadJson, message)
    };
    let json = json.trim();
    let (elements, object) = match json.starts_with('[') {
        true => (Elements::read(json, MAX_BATCH_EVENTS), Object::default()),
        false => {
            let object = Object::read(json).ok_or_else(bad)?;
            let batch = object.get("batch").filter(|json| json.starts_with('['));
            let one = || Elements {
                kept: vec![json],
                count: 1,
            };
            let elements = match batch {
                Some(batch) => Elements::read(batch, MAX_BATCH_EVENTS),
                None => Some(one()),
            };
            (elements, object)
        }
    };
    let elements = elements.ok_or_else(bad)?;
    if elements.count > MAX_BATCH_EVENTS {
        return Err(Error::TooLarge {
            code: ErrorCode::TooManyEvents,
            message: format!(
                "the batch has {} events; allowed are {MAX_BATCH_EVENTS}; nothing was stored",
                elements.count
            ),
        });
    }
    let sent_at = object.get("sentAt").or_else(|| object.get("sent_at"));
    Ok(Batch {
        messages: elements.kept,
        sent_at: sent_at.filter(|_| !object.is_true("historical_migration")),
        key: key_of(product, &object),
        product,
    })
}

impl Batch<'_> {
    /// True if the batch, or else each of its messages, has a key for which `is_listed`.
    pub fn has_key(&self, is_listed: impl Fn(&str) -> bool) -> bool {
        if self.key.is_some() {
            return self.key.as_deref().is_some_and(is_listed);
        }
        let has_key = |message: &&str| {
            let key = Object::read(message).and_then(|message| key_of(self.product, &message));
            key.is_some_and(|key| is_listed(&key))
        };
        !self.messages.is_empty() && self.messages.iter().all(has_key)
    }
}

impl Batch<'_> {
    /// The `uuid` of each message, by which a client knows its events; empty where it has none.
    pub fn uuids(&self) -> impl Iterator<Item = String> {
        self.messages.iter().map(|message| {
            let uuid = Object::read(message).and_then(|message| message.text("uuid"));
            uuid.unwrap_or_default().into_owned()
        })
    }
}

/// The key of an object: of a project, or the name of a site.
fn key_of<'a>(product: Product, object: &Object<'a>) -> Option<Cow<'a, str>> {
    let names: &[&str] = match product {
        Product::Segment => &["writeKey"],
        Product::PostHog => &["api_key", "token"],
        _ => &["d", "domain"],
    };
    let own = names.iter().find_map(|name| object.text(name));
    own.or_else(|| {
        let properties = object.get("properties").and_then(Object::read)?;
        text_of(properties.get("token")?)
    })
}

/// True if a key is listed. Plausible's clients may name several sites in one.
pub fn is_listed(key: &str, has: impl Fn(&str) -> bool) -> bool {
    key.split(',').any(|key| has(key.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_a_batch_a_list_or_one_message() {
        for (json, messages, sent_at) in [
            (
                r#"{"batch":[{"a":1}, {"a":2}],"sentAt":"x"}"#,
                vec![r#"{"a":1}"#, r#"{"a":2}"#],
                Some("\"x\""),
            ),
            (r#"{"batch":[],"sent_at":7}"#, vec![], Some("7")),
            (
                r#"{"batch":[1],"sent_at":7,"historical_migration":true}"#,
                vec!["1"],
                None,
            ),
            (r#" [{"a":1},2] "#, vec![r#"{"a":1}"#, "2"], None),
            (r#"{"event":"a"}"#, vec![r#"{"event":"a"}"#], None),
        ] {
            let batch = read(Product::PostHog, json).expect("a batch");
            assert_eq!(batch.messages, messages, "{json}");
            assert_eq!(batch.sent_at, sent_at, "{json}");
        }
        assert!(read(Product::Segment, "7").is_err());
        let most = format!("[{}0]", "0,".repeat(MAX_BATCH_EVENTS - 1));
        assert!(read(Product::Segment, &most).is_ok());
        let more = format!("[{}0]", "0,".repeat(MAX_BATCH_EVENTS));
        assert!(read(Product::Segment, &more).is_err());
    }

    #[test]
    fn the_key_is_that_of_the_batch_or_of_each_message() {
        let listed = |key: &str| ["k", "shop.example"].contains(&key);
        for (product, json, expected) in [
            (Product::Segment, r#"{"batch":[],"writeKey":"k"}"#, true),
            (
                Product::Segment,
                r#"{"batch":[],"writeKey":"other"}"#,
                false,
            ),
            (Product::Segment, r#"{"batch":[{"writeKey":"k"}]}"#, true),
            (
                Product::Segment,
                r#"{"batch":[{"writeKey":"k"},{"writeKey":"other"}]}"#,
                false,
            ),
            (Product::Segment, r#"{"type":"track"}"#, false),
            (Product::Segment, r#"{"batch":[]}"#, false),
            (Product::PostHog, r#"{"api_key":"k","batch":[]}"#, true),
            (Product::PostHog, r#"[{"properties":{"token":"k"}}]"#, true),
            (Product::PostHog, r#"[{"properties":{"token":"x"}}]"#, false),
            (
                Product::Plausible,
                r#"{"n":"pageview","d":"other.example, shop.example"}"#,
                true,
            ),
            (Product::Plausible, r#"{"n":"pageview","d":"x"}"#, false),
        ] {
            let batch = read(product, json).expect("a batch");
            let found = batch.has_key(|key| is_listed(key, listed));
            assert_eq!(found, expected, "{json}");
        }
    }
}
