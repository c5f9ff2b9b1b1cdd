//! Messages of Segment's protocol, which the clients of `RudderStack` send too.

use std::borrow::Cow;

use super::draft::{Context, Draft, Fault, Kind, Time};
use super::object::Object;
use super::page::{CAMPAIGN, Page, add_referrer};
use crate::error::shown;
use crate::event::EventCode;

/// Properties that are in the event elsewhere, or are about the page rather than the event.
const PAGE: [&str; 8] = [
    "url",
    "path",
    "search",
    "referrer",
    "title",
    "tab_url",
    "initial_referrer",
    "initial_referring_domain",
];
/// The same with those that calls other than `track` have also outside their properties.
const PAGE_AND_NAMES: [&str; 11] = [
    "url",
    "path",
    "search",
    "referrer",
    "title",
    "tab_url",
    "initial_referrer",
    "initial_referring_domain",
    "referring_domain",
    "name",
    "category",
];

/// The names of the calls.
pub const CALLS: [&str; 6] = ["track", "page", "screen", "identify", "alias", "group"];

/// The event of a message. `call` is its kind where the message has none.
pub fn draft<'a>(message: &Object<'a>, call: Option<&'a str>, settings: &Context<'_>) -> Draft<'a> {
    let kind = message.text("type").or(call.map(Into::into));
    let fault = kind_fault(kind.as_deref());
    // A call of another kind is read as a track call.
    let kind = kind.filter(|_| fault.is_none());
    let kind = kind.unwrap_or(Cow::Borrowed("track"));
    let mut draft = Draft::new(match &*kind {
        "track" => Kind::Named,
        "page" | "screen" => Kind::PageView,
        _ => Kind::System,
    });
    draft.fault = fault;
    let context = message.object("context");
    let page_of_context = context.object("page");
    let properties = message.object("properties");
    let url = properties
        .text("url")
        .or_else(|| page_of_context.text("url"));
    let page = Page::of(url);
    let metadata = &mut draft.metadata;
    match &*kind {
        "track" => metadata.set_properties(&properties, &PAGE, settings.traits),
        _ if !properties.is_empty() => {
            metadata.set_properties(&properties, &PAGE_AND_NAMES, settings.traits);
        }
        _ => {
            let traits = message.object("traits");
            metadata.set_traits(&traits, &PAGE_AND_NAMES, settings.traits);
        }
    }
    page.add_campaign(metadata);
    let campaign = context.object("campaign");
    for name in CAMPAIGN {
        let short = name.trim_start_matches("utm_");
        let own = if short == "campaign" { "name" } else { short };
        metadata.set_some(name, campaign.get(own));
    }
    let referrer = page_of_context.text("referrer");
    let referrer = referrer.or_else(|| properties.text("referrer"));
    add_referrer(referrer.as_deref(), metadata);
    let (anonymous, known) = (message.id("anonymousId"), message.id("userId"));
    if known.is_none() && anonymous.is_some() {
        metadata.mark("anonymous");
    }
    // By which links between ids can be derived from the log.
    let other = anonymous.clone();
    let other = other.filter(|id| known.as_ref().is_some_and(|known| known != id));
    match &*kind {
        "track" => {
            draft.feature = message.name("event");
            if draft.feature.is_none() {
                let part = "the event of a track call";
                draft.fault.get_or_insert_with(|| {
                    Fault::missing(EventCode::BadFeature, part, "allowed is its name")
                });
            }
            draft.alias = other;
        }
        "page" | "screen" => {
            for name in ["name", "category"] {
                if message.name(name).is_some() {
                    metadata.set_some(name, message.get(name));
                }
            }
            let name = message.name("name");
            draft.feature = if kind == "page" {
                page.path.or(name)
            } else {
                metadata.mark("screen");
                name.or(page.path)
            };
            draft.alias = other;
        }
        _ => {
            if kind == "group" {
                metadata.set_some("group_id", message.get("groupId"));
            }
            let previous = match &*kind {
                "alias" => message.id("previousId").or(other),
                _ => other,
            };
            if let Some(previous) = previous {
                metadata.set_text("previous_id", &previous);
            }
            draft.feature = Some(kind);
        }
    }
    draft.user_id = known.or(anonymous);
    draft.event_id = message.name("messageId");
    draft.url = page.url;
    let time = message.get("timestamp");
    let time = time.or_else(|| message.get("originalTimestamp"));
    draft.time = time.map_or(Time::Receipt, Time::At);
    draft.sent_at = message.get("sentAt");
    draft
}

/// The fault of the kind of a call.
fn kind_fault(kind: Option<&str>) -> Option<Fault> {
    let (code, part) = (EventCode::BadEventType, "the type of the call");
    let allowed = "allowed are track, page, screen, identify, alias and group";
    match kind {
        Some(kind) if CALLS.contains(&kind) => None,
        Some(other) => Some(Fault::wrong(
            code,
            part,
            &format!("{:?}", shown(other)),
            allowed,
        )),
        None => Some(Fault::missing(code, part, allowed)),
    }
}
