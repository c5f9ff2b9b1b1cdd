//! Events of Mixpanel's export, which have the shape that its clients send.

use std::borrow::Cow;

use super::draft::{Context, Draft, Fault, Kind, Time};
use super::fields::Fields;
use super::object::Object;
use super::page::{CAMPAIGN, Page, add_referrer};
use crate::event::EventCode;

/// Begins an id of a device in place of that of a user.
const DEVICE: &str = "$device:";
/// Properties that are in the event elsewhere, or about the page.
const ELSEWHERE: [&str; 4] = ["distinct_id", "token", "time", "title"];
/// Properties about the client or the page begin with these.
const OWN: [&str; 2] = ["mp_", "current_"];
/// Events that say that two ids are of one user.
const IDENTITY: [&str; 3] = ["$identify", "$create_alias", "$merge"];

/// The event of a message.
pub fn draft<'a>(message: &Object<'a>, context: &Context<'_>) -> Draft<'a> {
    let name = message.text("event");
    let fault = name
        .is_none()
        .then(|| Fault::missing(EventCode::BadFeature, "the event", "allowed is its name"));
    let name = name.unwrap_or_default();
    let properties = message.object("properties");
    let known = properties.id("$user_id");
    let is_known = known.is_some();
    let user = known.or_else(|| properties.id("distinct_id"));
    let device = properties.id("$device_id");
    let page = Page::of(properties.text("$current_url"));
    let mut metadata = Fields::default();
    let own = properties.without(|key| OWN.iter().any(|start| key.starts_with(start)));
    let mut without = ELSEWHERE.to_vec();
    without.extend(CAMPAIGN);
    metadata.set_properties(&own, &without, context.traits);
    for name in CAMPAIGN {
        metadata.set_some(name, properties.get(name));
    }
    page.add_campaign(&mut metadata);
    add_referrer(properties.text("$referrer").as_deref(), &mut metadata);
    let is_device = user.as_ref().is_some_and(|id| id.starts_with(DEVICE));
    if is_device {
        metadata.mark("anonymous");
    }
    let user = match user {
        Some(Cow::Borrowed(id)) => Some(id.strip_prefix(DEVICE).unwrap_or(id).into()),
        Some(Cow::Owned(id)) => Some(Cow::Owned(
            id.strip_prefix(DEVICE).unwrap_or(&id).to_owned(),
        )),
        None => device.clone(),
    };
    let is_identity = IDENTITY.contains(&&*name);
    // By which links between ids can be derived from the log.
    let alias = if is_identity {
        let previous = properties.id("$anon_id").or(device);
        if let Some(previous) = previous.filter(|id| Some(id) != user.as_ref()) {
            metadata.set_text("previous_id", &previous);
        }
        None
    } else {
        device.filter(|_| is_known && !is_device)
    };
    let time = properties.get("time");
    let (kind, feature) = match &*name {
        "$mp_web_page_view" => (Kind::PageView, page.path),
        _ if is_identity => (Kind::System, Some(name)),
        _ => (Kind::Named, Some(name)),
    };
    Draft {
        feature: feature.filter(|_| fault.is_none()),
        user_id: user,
        event_id: properties.name("$insert_id"),
        url: page.url,
        time: time.map_or(Time::Receipt, Time::Exactly),
        metadata,
        alias,
        fault,
        ..Draft::new(kind)
    }
}
