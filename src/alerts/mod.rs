//! Alerts and digests that users define: a number of a query and a condition on it, and where
//! messages go. One readable file in the data folder, replaced atomically.
//!
//! Alerts of the server about itself are in `monitoring`.

pub mod address;
pub mod digest;
pub mod message;
pub mod sender;
pub mod state;
pub mod value;

use chrono::DateTime;
use lettre::message::Mailbox;
use reqwest::Url;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::error::{Error, ErrorCode, Result, shown};
use crate::metrics::query::Query;
use crate::reports::{check_id, check_length, check_name, parse};
use crate::store::folder::Folder;
use crate::window::{MAX_DAYS, WindowRequest};
use state::AlertState;
use value::ValuePath;

/// Its name in the data folder.
pub const FILE_NAME: &str = "alerts.json";
/// Most alerts: each runs a query a day.
const MAX_ALERTS: usize = 100;
/// Most destinations of an alert.
const MAX_DESTINATIONS: usize = 5;
/// Most characters of a destination.
const MAX_DESTINATION_CHARS: usize = 2_000;
/// Most evaluations in a row that a condition can be required for.
const MAX_TIMES: u32 = 30;
/// Metrics that count events, which alerts can evaluate each hour.
const LIVE_METRICS: [&str; 3] = ["event_types", "feature_usage", "trends"];

/// An alert or a digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Alert {
    /// Its id; in a request as in the path, if given.
    #[serde(default)]
    pub id: String,
    /// Its name.
    #[schema(min_length = 1, max_length = 200)]
    pub name: String,
    /// Of an alert: the query, with `days` and without an end, which is the day of the evaluation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub query: Option<Map<String, Value>>,
    /// Of an alert: the number in the result, such as `rows[-1].dau`, or the letter of a series of
    /// trends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 200)]
    pub value: Option<String>,
    /// Of an alert: the condition on the number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Condition>,
    /// Of an alert: evaluations in a row for which the condition has to hold.
    #[serde(rename = "for", default = "once")]
    #[schema(minimum = 1, maximum = 30)]
    pub times: u32,
    /// Of an alert on the number of events: it is evaluated each hour.
    #[serde(default)]
    pub live: bool,
    /// Of a digest: its interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Of a digest: the time zone; UTC if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = "iana-time-zone")]
    pub tz: Option<String>,
    /// Where messages go: `https://…`, `slack+https://…` or `mailto:…`.
    #[schema(min_items = 1, max_items = 5)]
    pub to: Vec<String>,
    /// Its state, which is ignored in a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<AlertState>,
}

/// The interval of a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = DigestInterval)]
pub enum Digest {
    /// Usage of each ISO week that is over, with the changes to the week before.
    Weekly,
}

/// A condition on a number; exactly one of `below`, `above` and `changes_by`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AlertCondition)]
pub struct Condition {
    /// It is less than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<f64>,
    /// It is greater than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub above: Option<f64>,
    /// It changes by at least this share: −0.25 is a quarter less, 0.5 half more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes_by: Option<f64>,
    /// The earlier number that a change is relative to, such as `7 days before`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<String>,
}

fn once() -> u32 {
    1
}

impl Condition {
    /// Checks it.
    fn check(&self) -> Result<(), String> {
        let given = [self.below, self.above, self.changes_by];
        let given: Vec<f64> = given.into_iter().flatten().collect();
        let [number] = given[..] else {
            return Err("when: allowed is one of below, above and changes_by".into());
        };
        if !number.is_finite() || self.changes_by == Some(0.0) {
            return Err(format!("when: {number} is not a threshold"));
        }
        match self.changes_by {
            None if self.against.is_some() => {
                Err("when.against: it is allowed with changes_by".into())
            }
            _ => self.days_before().map(drop),
        }
    }

    /// Days before the day of the evaluation that a change is relative to; none without a change.
    ///
    /// # Errors
    /// A sentence with the field, the value and what is allowed.
    pub fn days_before(&self) -> Result<Option<u16>, String> {
        if self.changes_by.is_none() {
            return Ok(None);
        }
        let against = self.against.as_deref().unwrap_or("7 days before");
        let words: Vec<&str> = against.split(' ').collect();
        let days = match words[..] {
            [days, "day" | "days", "before"] => days.parse::<u16>().ok(),
            _ => None,
        };
        let allowed = days.filter(|days| (1..=MAX_DAYS).contains(days));
        allowed.map(Some).ok_or_else(|| {
            let against = shown(against);
            format!("when.against is {against:?}; allowed is \"1 day before\" to \"{MAX_DAYS} days before\"")
        })
    }

    /// True if it holds; none if that is not known, because a number is missing or nothing is
    /// relative to 0.
    pub fn holds(&self, value: Option<f64>, before: Option<f64>) -> Option<bool> {
        let value = value?;
        if let Some(below) = self.below {
            return Some(value < below);
        }
        if let Some(above) = self.above {
            return Some(value > above);
        }
        let change = self.changes_by?;
        let before = before.filter(|before| *before != 0.0)?;
        let share = value / before - 1.0;
        Some(if change < 0.0 {
            share <= change
        } else {
            share >= change
        })
    }

    /// It in words, for a message.
    pub fn words(&self) -> String {
        match (self.below, self.above, self.changes_by) {
            (Some(below), ..) => format!("below {below}"),
            (_, Some(above), _) => format!("above {above}"),
            (.., change) => {
                let change = change.unwrap_or_default();
                let against = self.against.as_deref().unwrap_or("7 days before");
                format!(
                    "a change of {:+}% or more against {against}",
                    change * 100.0
                )
            }
        }
    }
}

impl Alert {
    /// Reads an alert from JSON.
    ///
    /// # Errors
    /// `bad_alert`, with the field, the value and what is allowed.
    pub fn parse(json: &[u8]) -> Result<Self> {
        parse(json, ErrorCode::BadAlert)
    }

    /// Checks what the types of the fields cannot express.
    fn check(&self) -> Result<(), String> {
        check_id("id", &self.id)?;
        check_name("name", &self.name)?;
        if !(1..=MAX_TIMES).contains(&self.times) {
            let times = self.times;
            return Err(format!("for is {times}; allowed is 1 to {MAX_TIMES}"));
        }
        if self.to.is_empty() {
            return Err("to is empty; allowed are 1 to 5 destinations".into());
        }
        check_length("to", self.to.len(), MAX_DESTINATIONS)?;
        for (place, to) in self.to.iter().enumerate() {
            Destination::parse(to).map_err(|message| format!("to[{place}] {message}"))?;
        }
        match (&self.query, self.digest) {
            (Some(query), None) => self.check_query(query),
            (None, Some(_)) if self.value.is_some() || self.when.is_some() || self.live => {
                Err("a digest has value, when or live; allowed are name, tz and to".into())
            }
            (None, Some(_)) => self.check_zone(),
            _ => Err("allowed is query, value and when, or digest".into()),
        }
    }

    fn check_query(&self, query: &Map<String, Value>) -> Result<(), String> {
        if self.tz.is_some() {
            return Err("tz: allowed is query.tz".into());
        }
        for field in ["end", "from", "to", "period"] {
            if query.contains_key(field) {
                return Err(format!(
                    "query.{field}: the window ends with the day of the evaluation; allowed is days"
                ));
            }
        }
        let parsed = Query::of_object(query.clone()).map_err(|error| format!("query: {error}"))?;
        // A zone that is unknown, or too many days.
        parsed
            .window
            .resolve(DateTime::UNIX_EPOCH + chrono::TimeDelta::days(400))
            .map_err(|error| format!("query: {error}"))?;
        self.path()?;
        let Some(when) = &self.when else {
            return Err("when: it is missing".into());
        };
        when.check()?;
        if !self.live {
            return Ok(());
        }
        let metric = parsed.metric.name();
        if !LIVE_METRICS.contains(&metric) {
            let allowed = LIVE_METRICS.join(", ");
            return Err(format!(
                "live: query.metric is {metric}; allowed are {allowed}"
            ));
        }
        let is_hourly = query.get("grain").and_then(Value::as_str) == Some("hour");
        if when.changes_by.is_some() || when.below.is_some() && !is_hourly {
            return Err(
                "live: the day is not over; allowed is when.above, and when.below with query.grain \"hour\""
                    .into(),
            );
        }
        Ok(())
    }

    fn check_zone(&self) -> Result<(), String> {
        let window = WindowRequest {
            tz: self.tz.clone(),
            ..WindowRequest::default()
        };
        let resolved = window.resolve(DateTime::UNIX_EPOCH + chrono::TimeDelta::days(400));
        resolved.map(drop).map_err(|error| error.to_string())
    }

    /// The path of its number.
    ///
    /// # Errors
    /// A sentence with the field, the value and what is allowed.
    pub fn path(&self) -> Result<ValuePath, String> {
        let path = self.value.as_deref().unwrap_or("A");
        ValuePath::parse(path).map_err(|message| format!("value {message}"))
    }

    /// The name of its time zone.
    pub fn zone(&self) -> Option<&str> {
        let of_query = self.query.as_ref().and_then(|query| query.get("tz"));
        of_query.and_then(Value::as_str).or(self.tz.as_deref())
    }

    /// True if the other one has the same numbers and the same condition, so that its state counts.
    fn continues(&self, other: &Self) -> bool {
        (&self.query, &self.value, &self.when) == (&other.query, &other.value, &other.when)
            && (self.times, self.live, self.digest) == (other.times, other.live, other.digest)
            && self.zone() == other.zone()
    }
}

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A request with JSON, signed.
    Webhook(Url),
    /// A request with the words alone, as Slack and compatible servers take it.
    Slack(Url),
    /// An e-mail.
    Mail(Box<Mailbox>),
}

impl Destination {
    /// Reads a destination.
    ///
    /// # Errors
    /// What is wrong with it, without the value, which may be secret.
    pub fn parse(to: &str) -> Result<Self, String> {
        const ALLOWED: &str = "allowed is https://…, slack+https://… or mailto:…";
        if to.chars().count() > MAX_DESTINATION_CHARS {
            return Err(format!("has more than {MAX_DESTINATION_CHARS} characters"));
        }
        if let Some(address) = to.strip_prefix("mailto:") {
            let mailbox = address.parse::<Mailbox>();
            return mailbox
                .map(|mailbox| Self::Mail(Box::new(mailbox)))
                .map_err(|_| "is not an e-mail address after mailto:".into());
        }
        let (url, is_slack) = match to.strip_prefix("slack+") {
            Some(url) => (url, true),
            None => (to, to.starts_with("https://hooks.slack.com/")),
        };
        let url = Url::parse(url).map_err(|error| format!("is not a URL: {error}; {ALLOWED}"))?;
        if !["https", "http"].contains(&url.scheme()) || !url.has_host() {
            return Err(format!("is of another kind; {ALLOWED}"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("has a user or a password; allowed is a secret in the path".into());
        }
        Ok(if is_slack {
            Self::Slack(url)
        } else {
            Self::Webhook(url)
        })
    }
}

/// All alerts and digests.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Alerts {
    /// Sorted by id, each id once.
    pub alerts: Vec<Alert>,
}

/// Tells whether the state of a changed alert still counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Continuity {
    /// Only its name or destinations are others.
    Continues,
    /// It begins.
    Begins,
}

impl Alerts {
    /// Reads the alerts.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the file does not match its checksum.
    pub fn load(folder: &Folder) -> Result<Self> {
        folder.read_json(FILE_NAME)
    }

    /// Writes the alerts, durably.
    ///
    /// # Errors
    /// If the file cannot be written; then the old one is unchanged.
    pub fn save(&self, folder: &Folder) -> Result<()> {
        folder.replace_json(FILE_NAME, self)
    }

    /// An alert.
    ///
    /// # Errors
    /// `unknown_alert`.
    pub fn find(&self, id: &str) -> Result<&Alert> {
        let found = self.alerts.iter().find(|alert| alert.id == id);
        found.ok_or_else(|| {
            let id = shown(id);
            Error::NotFound {
                code: ErrorCode::UnknownAlert,
                message: format!("there is no alert {id:?}"),
            }
        })
    }

    /// Creates or replaces an alert.
    ///
    /// # Errors
    /// `bad_alert` if it is wrong or there are too many.
    pub fn set(&mut self, id: &str, mut alert: Alert) -> Result<Continuity> {
        let bad = |message: String| Error::bad_input(ErrorCode::BadAlert, message);
        if !alert.id.is_empty() && alert.id != id {
            let other = shown(&alert.id);
            return Err(bad(format!("id is {other:?}, and in the path {id:?}")));
        }
        id.clone_into(&mut alert.id);
        alert.state = None;
        alert.check().map_err(bad)?;
        let place = self
            .alerts
            .binary_search_by(|known| known.id.as_str().cmp(id));
        match place {
            Ok(place) => {
                let known = self.alerts.get_mut(place);
                let continues = known.as_ref().is_some_and(|known| known.continues(&alert));
                if let Some(known) = known {
                    *known = alert;
                }
                if continues {
                    return Ok(Continuity::Continues);
                }
            }
            Err(_) if self.alerts.len() >= MAX_ALERTS => {
                return Err(bad(format!(
                    "there are {MAX_ALERTS} alerts, which is the limit; remove one first"
                )));
            }
            Err(place) => self.alerts.insert(place, alert),
        }
        Ok(Continuity::Begins)
    }

    /// Removes an alert.
    ///
    /// # Errors
    /// `unknown_alert`.
    pub fn remove(&mut self, id: &str) -> Result<()> {
        self.find(id)?;
        self.alerts.retain(|alert| alert.id != id);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn alert() -> Value {
        json!({"name": "Few users", "query": {"metric": "active_users", "days": 7},
               "value": "rows[-1].dau", "when": {"below": 100}, "to": ["https://hooks.example/x"]})
    }

    fn set(alerts: &mut Alerts, body: &Value) -> Result<Continuity, String> {
        let alert = Alert::parse(body.to_string().as_bytes());
        let set = alert.and_then(|alert| alerts.set("few", alert));
        set.map_err(|error| error.to_string())
    }

    #[test]
    fn a_wrong_alert_is_rejected_with_its_place() {
        assert_eq!(
            set(&mut Alerts::default(), &alert()),
            Ok(Continuity::Begins)
        );
        let query = |more: Value| {
            let mut query = json!({"metric": "active_users"});
            let fields = query.as_object_mut().expect("an object");
            fields.extend(more.as_object().expect("an object").clone());
            query
        };
        for (field, value, says) in [
            ("name", json!(""), "name is \"\""),
            ("id", json!("other"), "id is \"other\""),
            ("query", query(json!({"end": "2026-11-01"})), "query.end: "),
            (
                "query",
                query(json!({"from": "2026-11-01"})),
                "query.from: ",
            ),
            (
                "query",
                query(json!({"period": "yesterday"})),
                "query.period: ",
            ),
            ("query", query(json!({"days": 366})), "query: days is 366"),
            (
                "query",
                query(json!({"tz": "Mars"})),
                "query: tz is \"Mars\"",
            ),
            ("query", query(json!({"day": 1})), "query: "),
            ("query", json!({"metric": "x"}), "query: metric is \"x\""),
            ("query", Value::Null, "allowed is query"),
            ("tz", json!("UTC"), "tz: allowed is query.tz"),
            ("value", json!("rows[-1]..dau"), "value \"rows[-1]..dau\""),
            ("when", Value::Null, "when: it is missing"),
            ("when", json!({}), "when: allowed is one of"),
            (
                "when",
                json!({"below": 1, "above": 2}),
                "when: allowed is one of",
            ),
            (
                "when",
                json!({"changes_by": 0}),
                "when: 0 is not a threshold",
            ),
            (
                "when",
                json!({"below": 1, "against": "7 days before"}),
                "when.against: ",
            ),
            ("when", json!({"under": 1}), "unknown field `under`"),
            (
                "when",
                json!({"changes_by": 1, "against": "yesterday"}),
                "when.against is \"yesterday\"",
            ),
            (
                "when",
                json!({"changes_by": 1, "against": "0 days before"}),
                "when.against is \"0 days before\"",
            ),
            ("for", json!(0), "for is 0"),
            ("for", json!(31), "for is 31"),
            ("live", json!(true), "live: query.metric is active_users"),
            ("digest", json!("weekly"), "allowed is query"),
            ("digest", json!("daily"), "digest: unknown variant"),
            ("to", json!([]), "to is empty"),
            (
                "to",
                json!(vec!["https://a.example"; 6]),
                "to has 6 entries",
            ),
            (
                "to",
                json!(["https://a.example", "x"]),
                "to[1] is not a URL",
            ),
            ("to", json!(["ftp://a.example"]), "to[0] is of another kind"),
            (
                "to",
                json!(["file:///etc/passwd"]),
                "to[0] is of another kind",
            ),
            ("to", json!(["https://u:p@a.example"]), "to[0] has a user"),
            (
                "to",
                json!(["mailto:nobody"]),
                "to[0] is not an e-mail address",
            ),
            (
                "to",
                json!(["mailto:a@b.example\nBcc: c@d.example"]),
                "to[0] is not",
            ),
            ("colour", json!("red"), "unknown field"),
        ] {
            let mut body = alert();
            body[field] = value;
            let said = set(&mut Alerts::default(), &body).expect_err(says);
            assert!(said.contains(says), "{field}: {said}");
            assert!(!said.contains("u:p"), "{said}");
        }
        let live = json!({"name": "Silence", "query": {"metric": "event_types", "days": 1},
            "value": "rows[0].events", "when": {"below": 1}, "live": true, "to": ["mailto:a@b.example"]});
        let said = set(&mut Alerts::default(), &live).expect_err("not by the hour");
        assert!(said.contains("the day is not over"), "{said}");
        let digest =
            json!({"name": "Week", "digest": "weekly", "tz": "Mars", "to": ["mailto:a@b.example"]});
        let said = set(&mut Alerts::default(), &digest).expect_err("an unknown zone");
        assert!(said.contains("tz is \"Mars\""), "{said}");
    }

    #[test]
    fn a_new_name_keeps_the_state_and_another_condition_does_not() {
        let mut alerts = Alerts::default();
        let mut body = alert();
        let mut change = |name: &str, value: Value| {
            body[name] = value;
            set(&mut alerts, &body).expect("an alert")
        };
        assert_eq!(change("name", json!("Few")), Continuity::Begins);
        assert_eq!(change("name", json!("Fewer")), Continuity::Continues);
        assert_eq!(
            change("to", json!(["slack+https://a.example"])),
            Continuity::Continues
        );
        assert_eq!(
            change("state", json!({"firing": true, "since": "2026-11-01"})),
            Continuity::Continues
        );
        assert_eq!(change("when", json!({"below": 99})), Continuity::Begins);
        assert_eq!(change("for", json!(2)), Continuity::Begins);
        assert_eq!(
            change(
                "query",
                json!({"metric": "active_users", "tz": "Asia/Tokyo"})
            ),
            Continuity::Begins
        );
        alerts.remove("few").expect("it exists");
        assert!(alerts.remove("few").is_err());
    }

    #[test]
    fn conditions_hold_by_their_definition() {
        let of = |json: Value| serde_json::from_value::<Condition>(json).expect("a condition");
        let below = of(json!({"below": 100}));
        let above = of(json!({"above": 100}));
        let less = of(json!({"changes_by": -0.25, "against": "7 days before"}));
        let more = of(json!({"changes_by": 0.5}));
        for (condition, value, before, holds) in [
            (&below, Some(99.0), None, Some(true)),
            (&below, Some(100.0), None, Some(false)),
            (&below, None, None, None),
            (&above, Some(100.0), None, Some(false)),
            (&above, Some(100.5), None, Some(true)),
            (&less, Some(75.0), Some(100.0), Some(true)),
            (&less, Some(76.0), Some(100.0), Some(false)),
            (&less, Some(200.0), Some(100.0), Some(false)),
            (&less, Some(0.0), Some(0.0), None),
            (&less, Some(1.0), None, None),
            (&more, Some(150.0), Some(100.0), Some(true)),
            (&more, Some(149.0), Some(100.0), Some(false)),
        ] {
            assert_eq!(
                condition.holds(value, before),
                holds,
                "{condition:?} {value:?}"
            );
        }
        assert_eq!(more.days_before(), Ok(Some(7)));
        assert_eq!(below.days_before(), Ok(None));
        assert_eq!(
            less.words(),
            "a change of -25% or more against 7 days before"
        );
    }
}
