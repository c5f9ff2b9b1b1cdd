//! Events of the clients of other products, mapped to our own.
//!
//! Pure, like [`crate::event`]: bytes in, valid events or rejections out, no file and no clock.
//! What a client says about a person is not part of an event: neither its address nor its browser,
//! and no traits such as a name or an e-mail address.

mod batch;
pub mod content;
mod draft;
mod fields;
mod mixpanel;
mod object;
mod page;
mod plausible;
mod posthog;
mod segment;
mod umami;

use std::borrow::Cow;
use std::str::FromStr;

pub use batch::{Batch, MAX_BATCH_EVENTS, is_listed, read};
pub use draft::{Context, Received};
pub use fields::Traits;

use crate::error::shown;
use crate::event::{Event, EventType, Outcome};
use object::{Object, text_of};

/// A product whose clients send events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Product {
    /// Segment, whose protocol the clients of `RudderStack` speak too.
    Segment,
    /// `PostHog`.
    PostHog,
    /// Plausible.
    Plausible,
    /// Mixpanel, whose files are imported.
    Mixpanel,
    /// Umami, whose files are imported.
    Umami,
}

impl Product {
    /// The products whose clients can send events to the server.
    pub const SERVED: [Self; 3] = [Self::Segment, Self::PostHog, Self::Plausible];
    /// The products whose files can be imported.
    pub const IMPORTED: [Self; 4] = [Self::Segment, Self::PostHog, Self::Mixpanel, Self::Umami];

    /// The name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Segment => "segment",
            Self::PostHog => "posthog",
            Self::Plausible => "plausible",
            Self::Mixpanel => "mixpanel",
            Self::Umami => "umami",
        }
    }

    /// The product of this name among some.
    ///
    /// # Errors
    /// A sentence with the names that are allowed.
    pub fn among(products: &[Self], name: &str) -> Result<Self, String> {
        let found = products.iter().find(|one| one.name() == name);
        found.copied().ok_or_else(|| {
            let names: Vec<&str> = products.iter().map(|one| one.name()).collect();
            format!("{name:?} is not one of {}", names.join(", "))
        })
    }
}

/// The products whose clients can send events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served(Vec<Product>);

impl Served {
    /// True if clients of this product can send events.
    pub fn has(&self, product: Product) -> bool {
        self.0.contains(&product)
    }
}

impl FromStr for Served {
    type Err = String;

    fn from_str(value: &str) -> Result<Self, String> {
        if value.trim() == "none" {
            return Ok(Self(Vec::new()));
        }
        let names = value.split(',').map(str::trim);
        let found = names.map(|name| Product::among(&Product::SERVED, name));
        found
            .collect::<Result<_, _>>()
            .map(Self)
            .map_err(|message| format!("{message}, or none"))
    }
}

/// The messages of a list, for a file; `None` if it is none.
pub fn elements(json: &str) -> Option<Vec<&str>> {
    object::Elements::read(json, usize::MAX).map(|elements| elements.kept)
}

/// Checks that a message has the shape of a product's, for a file: of a request it is known.
///
/// # Errors
/// A sentence with what is missing, and the names of the members that it has.
pub fn check_shape(product: Product, json: &str) -> Result<(), String> {
    let Some(message) = Object::read(json) else {
        let json = shown(json);
        return Err(format!("the record is {json}; allowed is an object"));
    };
    let objects = with_objects(&message);
    let message = match &objects {
        Some(json) => Object::read(json).unwrap_or_default(),
        None => message,
    };
    let is_object = |name: &str| message.get(name).is_some_and(|json| json.starts_with('{'));
    let (has_shape, expected) = match product {
        Product::Segment => {
            let kind = message.text("type");
            let is_call = kind.is_some_and(|kind| segment::CALLS.contains(&&*kind));
            (is_call, "type, which is a call such as track or page")
        }
        Product::PostHog => {
            let has_user = message.get("distinct_id").is_some()
                || message.object("properties").get("distinct_id").is_some();
            let has_event = message.text("event").is_some();
            (has_event && has_user, "event and distinct_id")
        }
        Product::Mixpanel => {
            let has_event = message.text("event").is_some();
            (has_event && is_object("properties"), "event and properties")
        }
        Product::Umami => {
            let is_row =
                message.name("event_type").is_some() && message.get("created_at").is_some();
            let is_sent = message.text("type").is_some() && is_object("payload");
            (
                is_row || is_sent,
                "event_type and created_at, or type and payload",
            )
        }
        Product::Plausible => (true, ""),
    };
    if has_shape {
        return Ok(());
    }
    let names: Vec<&str> = message
        .members()
        .map(|(name, _)| &**name)
        .take(SHOWN_NAMES)
        .collect();
    let names = names.join(", ");
    Err(format!(
        "the record has {}; needed are {expected}",
        shown(&names)
    ))
}

/// Names of members that a message shows.
const SHOWN_NAMES: usize = 12;

/// Members of a message that some programs send as a string of JSON.
const OBJECTS: [&str; 6] = ["properties", "p", "props", "traits", "context", "data"];

/// A message as an event.
#[derive(Debug, Clone, PartialEq)]
pub struct Mapped<'a> {
    /// The event, or the reason why it is none.
    pub outcome: Outcome<'a>,
    /// Another id of its user, if the event has one. That of an identity call is in its metadata
    /// instead.
    pub alias: Option<Cow<'a, str>>,
    /// An event of what is understood of a rejected message, and the reason without the value that
    /// is wrong, for the quarantine. It has no metadata, which may name a person where the kind of
    /// the message is not known. Its `event_id` has a prefix: that of the client belongs to the
    /// event that may still come.
    pub understood: Option<(Event<'a>, String)>,
}

impl<'a> From<Outcome<'a>> for Mapped<'a> {
    fn from(outcome: Outcome<'a>) -> Self {
        Self {
            outcome,
            alias: None,
            understood: None,
        }
    }
}

/// Maps one message of a client. `call` is the name of its kind where the message has none.
pub fn map<'a>(
    product: Product,
    json: &'a str,
    call: Option<&'a str>,
    context: &Context<'_>,
    received: Received<'a>,
) -> Mapped<'a> {
    let Some(message) = Object::read(json) else {
        return draft::not_an_object(json, context, received);
    };
    match with_objects(&message) {
        None => map_message(product, &message, call, context, received),
        Some(json) => {
            let message = Object::read(&json).unwrap_or_default();
            owned(map_message(product, &message, call, context, received))
        }
    }
}

fn map_message<'a>(
    product: Product,
    message: &Object<'a>,
    call: Option<&'a str>,
    context: &Context<'_>,
    received: Received<'a>,
) -> Mapped<'a> {
    let draft = match product {
        Product::Segment => segment::draft(message, call, context),
        Product::PostHog => posthog::draft(message, context),
        Product::Plausible => plausible::draft(message, context),
        Product::Mixpanel => mixpanel::draft(message, context),
        Product::Umami => umami::draft(message, context),
    };
    draft.finish(context, received)
}

/// A message as an event that does not borrow from it.
fn owned(mapped: Mapped<'_>) -> Mapped<'static> {
    let text = |text: Option<Cow<'_, str>>| text.map(|text| Cow::Owned(text.into_owned()));
    let event = |event: Event<'_>| Event {
        ts_us: event.ts_us,
        event_type: match event.event_type {
            EventType::PageView => EventType::PageView,
            EventType::Conversion => EventType::Conversion,
            EventType::System => EventType::System,
            // No message becomes an event of a declared type.
            EventType::Action | EventType::Declared(_) => EventType::Action,
        },
        user_id: text(event.user_id),
        feature: text(event.feature),
        metadata: Cow::Owned(event.metadata.into_owned()),
        url: text(event.url),
        event_id: text(event.event_id),
        received_at_us: event.received_at_us,
    };
    Mapped {
        outcome: match mapped.outcome {
            Outcome::Accepted(accepted, notes) => Outcome::Accepted(event(accepted), notes),
            Outcome::TooOld => Outcome::TooOld,
            Outcome::Rejected(code, message) => Outcome::Rejected(code, message),
        },
        alias: text(mapped.alias),
        understood: mapped
            .understood
            .map(|(understood, reason)| (event(understood), reason)),
    }
}

/// The message with objects where it has strings of JSON. `None` if it has none of these.
fn with_objects(message: &Object<'_>) -> Option<String> {
    let is_text = |name: &&str| message.get(name).is_some_and(|json| json.starts_with('"'));
    let names: Vec<&str> = OBJECTS.into_iter().filter(is_text).collect();
    if names.is_empty() {
        return None;
    }
    let mut out = String::from("{");
    for (name, json) in message.members() {
        let text = names.contains(&&**name).then(|| text_of(json));
        let text = text.flatten();
        let text = text.filter(|text| Object::read(text).is_some());
        if out.len() > 1 {
            out.push(',');
        }
        // A string as JSON is valid.
        out.push_str(&serde_json::to_string(name).unwrap_or_default());
        out.push(':');
        out.push_str(text.as_deref().unwrap_or(json));
    }
    out.push('}');
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;
    use proptest::sample::select;
    use serde_json::{Map, Value, json};

    use super::*;
    use crate::event::identity::{Identity, call_after, identity_of};
    use crate::event::{read_line, write_line};

    /// 2026-11-26T12:00:00Z
    const NOW_US: i64 = 1_795_694_400_000_000;
    const PRODUCTS: [Product; 5] = [
        Product::Segment,
        Product::PostHog,
        Product::Plausible,
        Product::Mixpanel,
        Product::Umami,
    ];
    /// Names that the mappers look for.
    const KEYS: [&str; 44] = [
        "batch",
        "type",
        "event",
        "userId",
        "anonymousId",
        "previousId",
        "groupId",
        "messageId",
        "timestamp",
        "originalTimestamp",
        "sentAt",
        "sent_at",
        "properties",
        "traits",
        "context",
        "page",
        "campaign",
        "url",
        "referrer",
        "name",
        "category",
        "uuid",
        "distinct_id",
        "$set",
        "$groups",
        "$elements",
        "$elements_chain",
        "$el_text",
        "$current_url",
        "$device_id",
        "$pathname",
        "$session_id",
        "offset",
        "n",
        "u",
        "d",
        "p",
        "$",
        "payload",
        "event_type",
        "created_at",
        "url_path",
        "cut",
        "time",
    ];
    const TEXTS: [&str; 16] = [
        "track",
        "page",
        "screen",
        "identify",
        "alias",
        "group",
        "$pageview",
        "$autocapture",
        "$identify",
        "pageview",
        "engagement",
        "2",
        "https://a@b.example/c/?utm_source=d#e",
        "2026-11-20T10:00:00.000Z",
        "{\"a\":{\"b\":1}}",
        "text=\"x\"",
    ];

    fn any_json() -> impl Strategy<Value = Value> {
        let text = prop_oneof![select(&TEXTS[..]).prop_map(str::to_owned), any::<String>()];
        let key = prop_oneof![3 => select(&KEYS[..]).prop_map(str::to_owned), 1 => ".{0,9}"];
        let leaf = prop_oneof![
            1 => Just(Value::Null),
            1 => any::<bool>().prop_map(Value::from),
            1 => any::<i64>().prop_map(Value::from),
            1 => any::<f64>().prop_map(Value::from),
            4 => text.prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 96, 12, move |inner| {
            prop_oneof![
                1 => vec(inner.clone(), 0..6).prop_map(Value::from),
                3 => btree_map(key.clone(), inner, 0..12)
                    .prop_map(|members| Value::from(Map::from_iter(members))),
            ]
        })
    }

    /// The other id of the user that a message says, and what its metadata has of it.
    fn said(product: Product, message: &Value) -> (Option<String>, Option<String>) {
        let json = message.to_string();
        let context = Context {
            is_conversion: &|_| false,
            traits: Traits::Drop,
        };
        let received = Received {
            at_us: NOW_US,
            latest_us: NOW_US,
            corrects_clock: true,
            sent_at: None,
        };
        let mapped = map(product, &json, None, &context, received);
        let Outcome::Accepted(event, _) = mapped.outcome else {
            panic!("{message} was rejected");
        };
        let metadata: Value = serde_json::from_str(&event.metadata).expect("JSON");
        let previous = metadata["previous_id"].as_str().map(str::to_owned);
        (mapped.alias.map(Cow::into_owned), previous)
    }

    #[test]
    fn a_message_with_two_ids_of_a_user_says_it_once() {
        let long = "x".repeat(crate::event::MAX_USER_ID_CHARS + 1);
        let a = Some("a".to_owned());
        for call in ["track", "page", "screen", "identify", "group", "alias"] {
            for (anonymous, user, expected) in [
                (json!("a"), json!("u"), &a),
                (json!(" a "), json!(7), &a),
                (json!("u"), json!("u"), &None),
                (json!("a"), Value::Null, &None),
                (Value::Null, json!("u"), &None),
                (json!("undefined"), json!("u"), &None),
                (json!("a"), json!("null"), &None),
                (json!(long), json!("u"), &None),
                (json!("a"), json!(long), &None),
            ] {
                let message = json!({"type": call, "event": "e", "name": "n", "messageId": "m",
                    "anonymousId": anonymous, "userId": user});
                let (alias, previous) = said(Product::Segment, &message);
                match call {
                    "track" | "page" | "screen" => {
                        assert_eq!((&alias, &previous), (expected, &None), "{message}");
                    }
                    // Metadata with an id that is too long says nothing.
                    _ if user == json!(long) || anonymous == json!(long) => assert_eq!(alias, None),
                    _ => assert_eq!((&alias, &previous), (&None, expected), "{message}"),
                }
            }
        }
        let alias = json!({"type": "alias", "userId": "u", "anonymousId": "a", "previousId": "b"});
        assert_eq!(said(Product::Segment, &alias), (None, Some("b".into())));
        // A string of JSON in the place of an object.
        let text = json!({"type": "track", "event": "e", "anonymousId": "a", "userId": "u",
            "properties": "{\"n\":1}"});
        assert_eq!(said(Product::Segment, &text), (a, None));
    }

    #[test]
    fn an_event_of_mixpanel_with_the_ids_of_device_and_user_says_it() {
        let a = Some("a".to_owned());
        for (name, properties, expected) in [
            ("e", json!({"$device_id": "a", "$user_id": "u"}), &a),
            (
                "$mp_web_page_view",
                json!({"$device_id": "a", "$user_id": "u", "distinct_id": "u"}),
                &a,
            ),
            ("e", json!({"$device_id": "a", "distinct_id": "u"}), &None),
            ("e", json!({"$device_id": "a", "$user_id": "a"}), &None),
            (
                "e",
                json!({"$device_id": "a", "$user_id": "$device:b"}),
                &None,
            ),
            ("e", json!({"$device_id": "0", "$user_id": "u"}), &None),
            ("e", json!({"$user_id": "u"}), &None),
        ] {
            let message = json!({"event": name, "properties": properties});
            let found = said(Product::Mixpanel, &message);
            assert_eq!(found, (expected.clone(), None), "{message}");
        }
        let properties = json!({"$device_id": "a", "$user_id": "u"});
        let identify = json!({"event": "$identify", "properties": properties});
        assert_eq!(said(Product::Mixpanel, &identify), (None, a));
        let mut properties = properties;
        properties["distinct_id"] = json!("u");
        let event = json!({"event": "e", "distinct_id": "u", "properties": properties});
        assert_eq!(said(Product::PostHog, &event), (None, None));
    }

    proptest! {
        #[test]
        fn any_message_is_rejected_or_becomes_an_event_that_reads_back(value in any_json()) {
            let json = value.to_string();
            let context = Context {
                is_conversion: &|name| name.len() > 3,
                traits: Traits::Drop,
            };
            for product in PRODUCTS {
                let Ok(batch) = read(product, &json) else {
                    continue;
                };
                batch.has_key(|key| key == "k");
                let received = Received {
                    at_us: NOW_US,
                    latest_us: NOW_US,
                    corrects_clock: true,
                    sent_at: batch.sent_at,
                };
                for message in batch.messages {
                    let mapped = map(product, message, Some("track"), &context, received);
                    let event = match (mapped.outcome, mapped.understood) {
                        (Outcome::Accepted(event, _), None) => event,
                        (Outcome::Rejected(..), Some((event, _))) => {
                            prop_assert_eq!(&mapped.alias, &None);
                            let id = event.event_id.as_deref().unwrap_or("malformed-");
                            prop_assert!(id.starts_with("malformed-") || id.len() == 32);
                            event
                        }
                        (_, understood) => {
                            prop_assert_eq!((mapped.alias, understood), (None, None));
                            continue;
                        }
                    };
                    let call = mapped.alias.as_deref().map(|alias| {
                        let call = call_after(event.clone(), alias);
                        let said = Identity::Alias(Cow::Borrowed(alias));
                        assert_eq!(identity_of(&call), said);
                        call
                    });
                    for event in std::iter::once(&event).chain(&call) {
                        let mut line = Vec::new();
                        write_line(event, &mut line);
                        prop_assert_eq!(line.pop(), Some(b'\n'));
                        let found = read_line(&line);
                        prop_assert_eq!(found.as_ref(), Ok(event));
                    }
                }
            }
        }

        #[test]
        fn any_body_is_decoded_or_rejected(body in vec(any::<u8>(), 0..400)) {
            if let Ok(json) = content::decode(&body, None) {
                prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(&json).is_ok());
            }
        }
    }
}
