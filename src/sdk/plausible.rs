//! Messages of the clients of Plausible, one event each. They have no user, time or id.

use super::draft::{Context, Draft, Fault, Kind};
use super::object::Object;
use super::page::{Page, add_referrer};
use crate::event::EventCode;

/// The event of a message.
pub fn draft<'a>(message: &Object<'a>, context: &Context<'_>) -> Draft<'a> {
    let either = |short: &str, long: &str| message.text(short).or_else(|| message.text(long));
    let name = either("n", "name");
    let fault = name.is_none().then(|| {
        let allowed = "allowed is \"n\" or \"name\"";
        Fault::missing(EventCode::BadFeature, "the name of the event", allowed)
    });
    let name = name.unwrap_or_default();
    let page = Page::of(either("u", "url"));
    let site = message.get("d").or_else(|| message.get("domain"));
    if name == "engagement" {
        let mut draft = Draft::new(Kind::System);
        draft.metadata.set_some("site", site);
        draft.metadata.set_some("scroll_depth", message.get("sd"));
        draft.metadata.set_some("engaged_ms", message.get("e"));
        draft.feature = Some(name);
        draft.url = page.url;
        return draft;
    }
    let mut draft = Draft::new(if name == "pageview" {
        Kind::PageView
    } else {
        Kind::Named
    });
    let metadata = &mut draft.metadata;
    let mut properties = ["p", "props", "m", "meta"].into_iter();
    let properties = properties.find_map(|name| message.get(name));
    let properties = properties.and_then(Object::read).unwrap_or_default();
    metadata.set_properties(&properties, &[], context.traits);
    page.add_campaign(metadata);
    add_referrer(either("r", "referrer").as_deref(), metadata);
    metadata.set_some("site", site);
    let revenue = message.get("$").or_else(|| message.get("revenue"));
    let revenue = revenue.and_then(Object::read).unwrap_or_default();
    metadata.set_some("revenue", revenue.get("amount"));
    metadata.set_some("currency", revenue.get("currency"));
    draft.feature = if name == "pageview" {
        page.path
    } else {
        Some(name).filter(|_| fault.is_none())
    };
    draft.url = page.url;
    draft.fault = fault;
    draft
}
