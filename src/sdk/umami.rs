//! Events of Umami: rows of its table `website_event`, and what its clients send.

use std::borrow::Cow;

use super::draft::{Context, Draft, Fault, Kind, Time};
use super::object::{Object, name_of};
use super::page::{CAMPAIGN, Page, add_referrer};
use crate::event::EventCode;

/// The event type of a page view in the table.
const PAGE_VIEW: &str = "1";
/// That of a custom event.
const CUSTOM: &str = "2";

/// The event of a message or a row.
pub fn draft<'a>(message: &Object<'a>, context: &Context<'_>) -> Draft<'a> {
    match message.get("payload").and_then(Object::read) {
        Some(payload) => sent(message, &payload, context),
        None => stored(message),
    }
}

/// The event of a message of a client.
fn sent<'a>(message: &Object<'a>, payload: &Object<'a>, context: &Context<'_>) -> Draft<'a> {
    let kind = message.text("type");
    let fault = kind.is_none().then(|| {
        let allowed = "allowed are event and identify";
        Fault::missing(EventCode::BadEventType, "the type", allowed)
    });
    let kind = kind.unwrap_or(Cow::Borrowed("event"));
    let page = Page::of(payload.text("url"));
    let name = payload.name("name");
    let mut draft = Draft::new(match (&*kind, &name) {
        ("event", Some(_)) => Kind::Named,
        ("event", None) => Kind::PageView,
        _ => Kind::System,
    });
    let metadata = &mut draft.metadata;
    let data = payload.object("data");
    match kind == "identify" {
        true => metadata.set_traits(&data, &[], context.traits),
        false => metadata.set_properties(&data, &[], context.traits),
    }
    page.add_campaign(metadata);
    add_referrer(payload.text("referrer").as_deref(), metadata);
    metadata.set_some("site", payload.get("website"));
    metadata.set_some("tag", payload.get("tag"));
    draft.feature = match draft.kind {
        Kind::PageView => page.path,
        Kind::System => Some(kind),
        _ => name,
    };
    draft.user_id = payload.id("id");
    draft.url = page.url;
    draft.time = payload
        .get("timestamp")
        .map_or(Time::Receipt, Time::Exactly);
    draft.fault = fault;
    draft
}

/// The event of a row of the table, whose values are strings in a file of comma-separated values.
fn stored<'a>(row: &Object<'a>) -> Draft<'a> {
    let kind = row.get("event_type").and_then(name_of);
    let name = row.text("event_name");
    let kind = kind.as_deref();
    let is_custom = kind == Some(CUSTOM);
    let fault = (!is_custom && kind != Some(PAGE_VIEW)).then(|| {
        let (code, part, allowed) = (EventCode::BadEventType, "event_type", "allowed are 1 and 2");
        match kind {
            Some(other) => Fault::wrong(code, part, other, allowed),
            None => Fault::missing(code, part, allowed),
        }
    });
    let path = row.text("url_path");
    let query = row.text("url_query").unwrap_or_default();
    let host = row.text("hostname");
    let path = path.unwrap_or_default();
    let url = match host {
        Some(host) => format!("https://{host}{path}?{query}"),
        None => format!("{path}?{query}"),
    };
    let page = Page::of((!path.is_empty()).then_some(Cow::Owned(url)));
    let mut draft = Draft::new(match is_custom {
        true => Kind::Named,
        false => Kind::PageView,
    });
    let metadata = &mut draft.metadata;
    page.add_campaign(metadata);
    for name in CAMPAIGN {
        metadata.set_some(name, row.get(name).filter(|json| *json != "\"\""));
    }
    if let Some(domain) = row.text("referrer_domain") {
        metadata.set_text("referrer", &format!("https://{domain}"));
    }
    for (column, field) in [
        ("website_id", "site"),
        ("tag", "tag"),
        ("visit_id", "session_id"),
    ] {
        metadata.set_some(field, row.get(column).filter(|json| *json != "\"\""));
    }
    let known = row.id("distinct_id");
    if known.is_none() {
        metadata.mark("anonymous");
    }
    draft.user_id = known.or_else(|| row.id("session_id"));
    draft.feature = if is_custom { name } else { page.path };
    draft.event_id = row.name("event_id");
    draft.url = page.url;
    draft.time = row.get("created_at").map_or(Time::Receipt, Time::Exactly);
    draft.fault = fault;
    draft
}
