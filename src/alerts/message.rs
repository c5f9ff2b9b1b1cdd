//! Messages of alerts and digests, in the forms in which they are sent.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Alert;
use crate::error::{Error, Result};

/// Bytes of an id.
const ID_BYTES: usize = 8;

/// The reasons for a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A condition begins to hold.
    Started,
    /// A condition holds no longer.
    Ended,
    /// A week is over.
    Digest,
    /// A person tests the destinations.
    Test,
}

/// A message to one destination.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Random; the same in each attempt, so that a receiver can recognize a repetition.
    pub id: String,
    /// The id of the alert.
    pub alert: String,
    /// The destination.
    pub to: String,
    /// A line for the subject of an e-mail.
    pub subject: String,
    /// Plain words.
    pub plain: String,
    /// The same as HTML.
    pub html: String,
    /// The body of a webhook, without id and words.
    pub body: Value,
}

/// The content of a message, for all destinations.
#[derive(Debug, Clone, PartialEq)]
pub struct Content {
    /// A line for the subject of an e-mail.
    pub subject: String,
    /// Plain words.
    pub plain: String,
    /// The same as HTML.
    pub html: String,
    /// The body of a webhook, without id and words.
    pub body: Value,
}

impl Content {
    /// The message about an alert.
    pub fn of_alert(
        alert: &Alert,
        (value, before): (Option<f64>, Option<f64>),
        event: Event,
        at: &str,
    ) -> Self {
        let name = &alert.name;
        let what = match event {
            Event::Started => "Alert",
            Event::Ended => "Ended",
            Event::Test | Event::Digest => "Test",
        };
        let number = |value: Option<f64>| value.map_or("not known".to_owned(), |v| v.to_string());
        let path = alert.value.as_deref().unwrap_or("A");
        let condition = alert
            .when
            .as_ref()
            .map_or(String::new(), super::Condition::words);
        let zone = alert.zone().unwrap_or("UTC");
        let mut plain = format!("{what}: {name}\n{path} is {}", number(value));
        if let Some(before) = before {
            plain += &format!(", and was {before}");
        }
        plain += &format!("; the alert is for {condition}.\n{at}, {zone}");
        let lines = plain.lines().map(escaped).collect::<Vec<_>>();
        Self {
            subject: format!("{what}: {name}"),
            html: format!("<p>{}</p>", lines.join("<br>")),
            plain,
            body: json!({
                "type": "alert",
                "event": event,
                "alert": {"id": alert.id, "name": name},
                "value": value,
                "before": before,
                "when": alert.when,
                "at": at,
                "tz": zone,
                "query": alert.query,
            }),
        }
    }

    /// The messages to all destinations of an alert.
    ///
    /// # Errors
    /// If the system has no random bytes.
    pub fn messages(&self, alert: &Alert) -> Result<Vec<Message>> {
        let to = alert.to.iter();
        to.map(|to| {
            let mut id = [0; ID_BYTES];
            getrandom::fill(&mut id).map_err(|error| {
                Error::system("make a message")(std::io::Error::other(error.to_string()))
            })?;
            Ok(Message {
                id: hex::encode(id),
                alert: alert.id.clone(),
                to: to.clone(),
                subject: self.subject.clone(),
                plain: self.plain.clone(),
                html: self.html.clone(),
                body: self.body.clone(),
            })
        })
        .collect()
    }
}

impl Message {
    /// The body of a webhook.
    pub fn webhook(&self) -> Vec<u8> {
        let mut body = self.body.clone();
        if let Some(fields) = body.as_object_mut() {
            fields.insert("id".into(), json!(self.id));
            fields.insert("text".into(), json!(for_slack(&self.plain)));
        }
        body.to_string().into_bytes()
    }

    /// The body for Slack.
    pub fn slack(&self) -> Vec<u8> {
        json!({"text": for_slack(&self.plain)})
            .to_string()
            .into_bytes()
    }

    /// A message for tests of other modules.
    #[cfg(test)]
    pub fn for_test(id: &str, alert: &str) -> Self {
        Self {
            id: id.into(),
            alert: alert.into(),
            to: "https://hooks.example/x".into(),
            subject: "Alert: Few".into(),
            plain: "Alert: Few\nrows[-1].dau is 3".into(),
            html: "<p>Alert: Few</p>".into(),
            body: json!({"type": "alert"}),
        }
    }
}

/// Words in HTML.
pub fn escaped(words: &str) -> String {
    let mut html = String::with_capacity(words.len());
    for one in words.chars() {
        match one {
            '&' => html += "&amp;",
            '<' => html += "&lt;",
            '>' => html += "&gt;",
            '"' => html += "&quot;",
            one => html.push(one),
        }
    }
    html
}

/// Words for Slack, in which `<…>` are links and mentions.
fn for_slack(words: &str) -> String {
    words
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words_in_every_form() {
        let json = json!({"id": "few", "name": "<!channel> & \"<b>\"", "to": ["https://a.example"],
            "query": {"metric": "active_users", "tz": "Asia/Tokyo"}, "value": "rows[-1].dau",
            "when": {"changes_by": -0.25}});
        let alert = Alert::parse(json.to_string().as_bytes()).expect("an alert");
        let numbers = (Some(3.0), Some(4.5));
        let content = Content::of_alert(&alert, numbers, Event::Started, "2026-11-25");
        assert_eq!(
            content.plain,
            "Alert: <!channel> & \"<b>\"\nrows[-1].dau is 3, and was 4.5; the alert is for a change of \
             -25% or more against 7 days before.\n2026-11-25, Asia/Tokyo"
        );
        assert!(content.html.starts_with(
            "<p>Alert: &lt;!channel&gt; &amp; &quot;&lt;b&gt;&quot;<br>rows[-1].dau is 3"
        ));
        let messages = content.messages(&alert).expect("messages");
        let message = messages.first().expect("a message");
        let body: Value = serde_json::from_slice(&message.webhook()).expect("JSON");
        assert_eq!(body["event"], "started");
        assert_eq!(body["alert"]["name"], "<!channel> & \"<b>\"");
        assert_eq!(
            (&body["value"], &body["before"]),
            (&json!(3.0), &json!(4.5))
        );
        assert_eq!(body["id"], json!(message.id));
        let slack: Value = serde_json::from_slice(&message.slack()).expect("JSON");
        assert_eq!(slack["text"], body["text"]);
        let words = slack["text"].as_str().expect("words");
        assert!(words.starts_with("Alert: &lt;!channel&gt; &amp; \"&lt;b&gt;\""));
        assert_eq!(slack.as_object().map(serde_json::Map::len), Some(1));
    }
}
