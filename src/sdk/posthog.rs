//! Messages of the clients of `PostHog`.

use std::borrow::Cow;

use super::draft::{Context, Draft, Fault, Kind, Time};
use super::fields::Fields;
use super::object::{Elements, Object, text_of};
use super::page::{CAMPAIGN, Page, add_referrer};
use crate::event::EventCode;

/// Properties that are in the event elsewhere, or are about the page rather than the event.
const ELSEWHERE: [&str; 8] = [
    "distinct_id",
    "token",
    "title",
    CAMPAIGN[0],
    CAMPAIGN[1],
    CAMPAIGN[2],
    CAMPAIGN[3],
    CAMPAIGN[4],
];
/// Their own properties that are kept, with the name of the field.
const KEPT: [(&str, &str); 5] = [
    ("$session_id", "session_id"),
    ("$groups", "groups"),
    ("$feature_flag", "flag"),
    ("$feature_flag_response", "variant"),
    ("$anon_distinct_id", "previous_id"),
];
/// The label of an element in a chain of elements begins after this.
const CHAIN_TEXT: &str = "text=\"";
/// Elements of a click that are searched for a label.
const MAX_ELEMENTS: usize = 50;

/// The event of a message.
pub fn draft<'a>(message: &Object<'a>, settings: &Context<'_>) -> Draft<'a> {
    let name = message.text("event");
    let fault = name.is_none().then(|| {
        let (code, part, allowed) = (EventCode::BadFeature, "the event", "allowed is its name");
        match message.get("event") {
            Some(other) => Fault::wrong(code, part, other, allowed),
            None => Fault::missing(code, part, allowed),
        }
    });
    let name = name.unwrap_or_default();
    let properties = properties(message);
    let user = message.id("distinct_id");
    let user = user.or_else(|| properties.id("distinct_id"));
    let user = user.or_else(|| properties.id("$distinct_id"));
    let page = Page::of(properties.text("$current_url"));
    let mut metadata = Fields::default();
    metadata.set_properties(&properties, &ELSEWHERE, settings.traits);
    page.add_campaign(&mut metadata);
    for name in CAMPAIGN {
        metadata.set_some(name, properties.get(name).filter(|json| *json != "\"\""));
    }
    add_referrer(properties.text("$referrer").as_deref(), &mut metadata);
    for (own, name) in KEPT {
        metadata.set_some(name, properties.get(own));
    }
    for name in ["$set", "$set_once"] {
        for object in [message, &properties] {
            metadata.set_traits(&object.object(name), &[], settings.traits);
        }
    }
    if name == "$groupidentify" {
        metadata.set_some("group_type", properties.get("$group_type"));
        metadata.set_some("group_id", properties.get("$group_key"));
        let group = properties.object("$group_set");
        // The name of a group is not that of a person.
        metadata.set_some("name", group.get("name"));
        metadata.set_traits(&group, &["name"], settings.traits);
    }
    let is_device = user.is_some() && user == properties.id("$device_id");
    if properties.is_false("$is_identified")
        || properties.is_false("$process_person_profile")
        || is_device
    {
        metadata.mark("anonymous");
    }
    let path = page.path.or_else(|| {
        let path = properties.text("$pathname")?;
        let trimmed = path.trim_matches('/');
        (!trimmed.is_empty()).then(|| Cow::Owned(trimmed.to_owned()))
    });
    let (kind, feature) = match &*name {
        "$pageview" => (Kind::PageView, path),
        "$screen" => {
            metadata.mark("screen");
            (Kind::PageView, properties.name("$screen_name"))
        }
        "$autocapture" => {
            metadata.set_some("action", properties.get("$event_type"));
            let text = clicked_text(&properties);
            (Kind::Action, text.or(Some("autocapture".into())))
        }
        other if other.starts_with('$') => (Kind::System, Some(name)),
        _ => (Kind::Named, Some(name)),
    };
    let event_id = message.name("uuid");
    Draft {
        feature: feature.filter(|_| fault.is_none()),
        user_id: user,
        event_id: event_id.or_else(|| properties.name("$insert_id")),
        url: page.url,
        time: time(message, &properties),
        metadata,
        fault,
        ..Draft::new(kind)
    }
}

/// The properties.
fn properties<'a>(message: &Object<'a>) -> Object<'a> {
    let properties = message.object("properties");
    match message.get("session_id") {
        // Of the newer protocol, which has it outside the properties.
        Some(session) if properties.get("$session_id").is_none() => {
            properties.with("$session_id", session)
        }
        _ => properties,
    }
}

/// When it happened.
fn time<'a>(message: &Object<'a>, properties: &Object<'a>) -> Time<'a> {
    let time = message.get("timestamp");
    match time.or_else(|| properties.get("$time")) {
        Some(json) if properties.is_true("$ignore_sent_at") => Time::Exactly(json),
        Some(json) => Time::At(json),
        None => {
            // How long before the request it happened, in ms.
            let offset = message
                .get("offset")
                .and_then(|json| json.parse::<f64>().ok());
            offset.map_or(Time::Receipt, |ms| Time::Before((ms * 1e3) as i64))
        }
    }
}

/// The label of the element that was clicked.
fn clicked_text<'a>(properties: &Object<'a>) -> Option<Cow<'a, str>> {
    let own = properties.text("$el_text");
    own.or_else(|| {
        let elements = properties.get("$elements")?;
        let elements = Elements::read(elements, MAX_ELEMENTS)?;
        let mut elements = elements.kept.into_iter().filter_map(Object::read);
        elements.find_map(|element| element.text("$el_text"))
    })
    .or_else(|| {
        let chain = text_of(properties.get("$elements_chain")?)?;
        let (_, rest) = chain.split_once(CHAIN_TEXT)?;
        let (text, _) = rest.split_once('"')?;
        (!text.is_empty()).then(|| Cow::Owned(text.to_owned()))
    })
}
