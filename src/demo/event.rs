//! One event of a synthetic history, and the event that the server stores for it.

use std::fmt::Write;

use uuid::Builder;

use super::users::Visitor;
use crate::event::{Event, EventType};

/// An event of a session, small enough to hold all events of a day.
#[derive(Debug, Clone, Copy)]
pub struct DemoEvent {
    pub ts_us: i64,
    pub received_at_us: i64,
    /// Random id of the session.
    pub session: u64,
    /// True for the first event of the session.
    pub is_first: bool,
    /// Code of the user; `None` if the visitor never signs in.
    pub user: Option<u32>,
    /// False until the visitor signs in.
    pub is_signed_in: bool,
    /// Code of the feature.
    pub feature: u32,
    pub event_type: EventType<'static>,
    /// Random bits, of which the event's own values are made.
    pub random: u64,
}

/// Referrer, and `utm_source`, `utm_medium` and `utm_campaign` if a campaign brought the visitor.
type Landing = (&'static str, Option<[&'static str; 3]>);

const LANDINGS: [Landing; 8] = [
    ("https://www.google.com", None),
    ("https://www.google.com", None),
    ("https://www.google.com", Some(["google", "cpc", "brand"])),
    ("https://duckduckgo.com", None),
    ("https://news.example", None),
    ("https://social.example", Some(["social", "post", "launch"])),
    ("https://mail.example", Some(["letter", "email", "weekly"])),
    ("https://shop.example", Some(["shop", "referral", "bundle"])),
];
/// Choices for the start of a session: half of them are direct, without a referrer.
const LANDING_CHOICES: usize = 2 * LANDINGS.len();
/// One in so many sessions of a user of an app is in a browser.
const SESSIONS_PER_BROWSER: u64 = 8;
/// One in so many actions has a duration.
const ACTIONS_PER_DURATION: u64 = 3;
/// One in so many actions is a submitted form; the others are clicks.
const ACTIONS_PER_FORM: u64 = 5;
/// One in so many page views is of an item, as all actions and conversions are.
const VIEWS_PER_ITEM: u64 = 3;
const ITEMS: u64 = 100_000;
/// Amounts and durations are up to 500, in hundredths.
const HUNDREDTHS: u64 = 50_000;

impl DemoEvent {
    /// The event as the browser client of a site sends it.
    pub fn as_sent<'a>(&self, feature: &'a str, visitor: Visitor) -> Event<'a> {
        let is_view = self.event_type == EventType::PageView;
        let is_item = !is_view || self.random.is_multiple_of(VIEWS_PER_ITEM);
        Event {
            metadata: self.metadata(&visitor).into(),
            url: match is_item {
                true => Some(format!("/{feature}/{}", self.random % ITEMS).into()),
                false => Some(format!("/{feature}").into()),
            },
            event_id: Some(self.id().into()),
            user_id: visitor.id.filter(|_| self.is_signed_in).map(Into::into),
            received_at_us: self.received_at_us,
            ..self.common(feature)
        }
    }

    /// The event of a plain history.
    pub fn plain<'a>(&self, feature: &'a str, visitor: Visitor) -> Event<'a> {
        let Visitor { platform, plan, .. } = visitor;
        Event {
            metadata: match visitor.id {
                Some(_) => format!(r#"{{"platform":"{platform}","plan":"{plan}"}}"#).into(),
                None => "{}".into(),
            },
            url: Some(format!("/{feature}").into()),
            user_id: visitor.id.map(Into::into),
            ..self.common(feature)
        }
    }

    fn common<'a>(&self, feature: &'a str) -> Event<'a> {
        Event {
            ts_us: self.ts_us,
            event_type: self.event_type,
            user_id: None,
            feature: Some(feature.into()),
            metadata: "{}".into(),
            url: None,
            event_id: None,
            received_at_us: self.ts_us,
        }
    }

    /// An id like those of the browser client: `UUIDv7` with a counter, which is 0 for the first
    /// event of a millisecond.
    fn id(&self) -> String {
        let [a, b, c, d, e, f, g, h] = self.random.to_be_bytes();
        let ms = (self.ts_us / 1_000).cast_unsigned();
        let id = Builder::from_unix_timestamp_millis(ms, &[0, 0, a, b, c, d, e, f, g, h]);
        id.into_uuid().to_string()
    }

    fn metadata(&self, visitor: &Visitor) -> String {
        let platform = match self.session.is_multiple_of(SESSIONS_PER_BROWSER) {
            true => "web",
            false => visitor.platform,
        };
        let mut json = String::with_capacity(256);
        // Writing to a string cannot fail.
        let _ = write!(
            json,
            r#"{{"platform":"{platform}","country":"{}","session":"{:016x}""#,
            visitor.country, self.session
        );
        if self.is_signed_in && visitor.id.is_some() {
            let _ = write!(json, r#","plan":"{}""#, visitor.plan);
        }
        let number = (1 + (self.random >> 20) % HUNDREDTHS) as f64 / 100.0;
        match self.event_type {
            EventType::PageView | EventType::System | EventType::Declared(_) => {}
            EventType::Action => {
                let is_form = self.random.is_multiple_of(ACTIONS_PER_FORM);
                let action = if is_form { "submit" } else { "click" };
                let _ = write!(json, r#","action":"{action}""#);
                if (self.random >> 10).is_multiple_of(ACTIONS_PER_DURATION) {
                    let _ = write!(json, r#","duration":{number}"#);
                }
            }
            EventType::Conversion => {
                let _ = write!(json, r#","amount":{number}"#);
            }
        }
        let landing = LANDINGS.get((self.session >> 8) as usize % LANDING_CHOICES);
        if let Some((referrer, campaign)) = landing.filter(|_| self.is_first) {
            let _ = write!(json, r#","referrer":"{referrer}""#);
            if let Some([source, medium, campaign]) = campaign {
                let _ = write!(
                    json,
                    r#","utm_source":"{source}","utm_medium":"{medium}","utm_campaign":"{campaign}""#
                );
            }
        }
        json.push('}');
        json
    }
}
