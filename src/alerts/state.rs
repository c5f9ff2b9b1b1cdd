//! The state of alerts and digests, and the messages that wait to be sent, in one file: an
//! evaluation and its messages are one commit, so that neither a restart nor a crash evaluates a
//! day twice or loses a message.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Condition;
use super::message::{Event, Message};
use crate::error::{Result, first_chars};
use crate::store::folder::Folder;

/// Its name in the data folder.
pub const FILE_NAME: &str = "alerts_state.json";
/// Most messages that wait: those of all alerts, twice.
const MAX_MESSAGES: usize = 1_000;
/// Pauses before the second and the third attempt to send a message.
const PAUSES: [TimeDelta; 2] = [TimeDelta::seconds(10), TimeDelta::seconds(60)];
/// Time until a query that failed runs again.
pub const RETRY: TimeDelta = TimeDelta::minutes(10);
/// Most characters of an error.
const MAX_ERROR_CHARS: usize = 400;

/// The state of an alert or digest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = NumberAlertState)]
pub struct AlertState {
    /// Its condition holds, and a message said so.
    pub firing: bool,
    /// First day, or hour, of which that is true.
    #[serde(default)]
    pub since: Option<String>,
    /// The last number.
    #[serde(default)]
    pub value: Option<f64>,
    /// The earlier number of a change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<f64>,
    /// Last day that was evaluated; of a digest the last day of the last week.
    #[serde(default)]
    pub evaluated_through: Option<NaiveDate>,
    /// End of the last hour that was evaluated, of an alert with `live`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluated_to: Option<DateTime<Utc>>,
    /// Evaluations in a row for which the condition held.
    #[serde(default)]
    pub held: u32,
    /// Of the last query or message that failed, until one succeeds.
    #[serde(default)]
    pub last_error: Option<String>,
    /// Time before which a failed query does not run again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(ignore)]
    pub retry_at: Option<DateTime<Utc>>,
}

impl AlertState {
    /// Takes the number of a day or hour. Returns whether the alert starts or ends with it.
    pub fn take(
        &mut self,
        when: &Condition,
        times: u32,
        (value, before): (Option<f64>, Option<f64>),
        at: &str,
    ) -> Option<Event> {
        self.value = value;
        self.before = before;
        self.retry_at = None;
        self.last_error = None;
        match when.holds(value, before) {
            // It stays as it is.
            None => {
                self.last_error = Some(format!("the condition is not known for {at}"));
                None
            }
            Some(true) => {
                self.held = self.held.saturating_add(1);
                let starts = !self.firing && self.held >= times;
                starts.then(|| {
                    self.firing = true;
                    self.since = Some(at.to_owned());
                    Event::Started
                })
            }
            Some(false) => {
                self.held = 0;
                let ends = std::mem::take(&mut self.firing);
                ends.then(|| {
                    self.since = None;
                    Event::Ended
                })
            }
        }
    }

    /// Notes why its query or a message failed.
    pub fn failed(&mut self, error: &str) {
        self.last_error = Some(first_chars(error, MAX_ERROR_CHARS).to_owned());
    }
}

/// A message that waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Waiting {
    /// The message.
    pub message: Message,
    /// Attempts that failed.
    #[serde(default)]
    pub failures: usize,
    /// Time of the next attempt.
    pub next_at: DateTime<Utc>,
}

/// The states by alert, and the messages.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AlertStates {
    /// By id of the alert.
    #[serde(default)]
    pub states: BTreeMap<String, AlertState>,
    /// Oldest first.
    #[serde(default)]
    pub waiting: Vec<Waiting>,
}

/// The next step for a message that could not be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is sent again after a pause.
    Waits,
    /// It was the last attempt.
    Dropped,
}

impl AlertStates {
    /// Reads the states.
    ///
    /// # Errors
    /// If the file is damaged.
    pub fn load(folder: &Folder) -> Result<Self> {
        folder.read_json(FILE_NAME)
    }

    /// Writes the states, durably.
    ///
    /// # Errors
    /// If the file cannot be written; then the old one is unchanged.
    pub fn save(&self, folder: &Folder) -> Result<()> {
        folder.replace_json(FILE_NAME, self)
    }

    /// Adds messages. Returns how many old ones were dropped because too many wait.
    pub fn add(&mut self, messages: Vec<Message>, now: DateTime<Utc>) -> usize {
        self.waiting
            .extend(messages.into_iter().map(|message| Waiting {
                message,
                failures: 0,
                next_at: now,
            }));
        let surplus = self.waiting.len().saturating_sub(MAX_MESSAGES);
        self.waiting.drain(..surplus);
        surplus
    }

    /// The messages that are due.
    pub fn due(&self, now: DateTime<Utc>) -> Vec<Message> {
        let due = self.waiting.iter().filter(|waiting| waiting.next_at <= now);
        due.map(|waiting| waiting.message.clone()).collect()
    }

    /// Notes that a message was sent.
    pub fn sent(&mut self, id: &str) {
        self.waiting.retain(|waiting| waiting.message.id != id);
    }

    /// Notes that a message could not be sent; none if it does not wait.
    pub fn unsent(&mut self, id: &str, error: &str, now: DateTime<Utc>) -> Option<Fate> {
        let place = self
            .waiting
            .iter()
            .position(|waiting| waiting.message.id == id)?;
        let waiting = self.waiting.get_mut(place)?;
        waiting.failures += 1;
        if let Some(state) = self.states.get_mut(&waiting.message.alert) {
            state.failed(error);
        }
        match PAUSES.get(waiting.failures - 1) {
            Some(pause) => {
                waiting.next_at = now + *pause;
                Some(Fate::Waits)
            }
            None => {
                self.waiting.remove(place);
                Some(Fate::Dropped)
            }
        }
    }

    /// Forgets an alert and its messages.
    pub fn forget(&mut self, alert: &str) {
        self.states.remove(alert);
        self.waiting
            .retain(|waiting| waiting.message.alert != alert);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn below(limit: f64) -> Condition {
        Condition {
            below: Some(limit),
            ..Condition::default()
        }
    }

    #[test]
    fn an_alert_starts_once_and_ends_once() {
        let mut state = AlertState::default();
        let mut events = Vec::new();
        for (day, value) in [9, 12, 9, 9, 9, 8, 12, 12, 9].into_iter().enumerate() {
            let value = (Some(f64::from(value)), None);
            let event = state.take(&below(10.0), 2, value, &day.to_string());
            events.extend(event.map(|event| (day, event, state.since.clone())));
        }
        let since = Some("3".to_owned());
        assert_eq!(
            events,
            [(3, Event::Started, since), (6, Event::Ended, None)]
        );
        assert_eq!((state.held, state.firing), (1, false));
        // A number that is missing changes nothing and is told.
        state.take(&below(10.0), 2, (None, None), "9");
        assert_eq!((state.held, state.value), (1, None));
        assert!(state.last_error.is_some());
        let event = state.take(&below(10.0), 2, (Some(1.0), None), "10");
        assert_eq!((event, state.last_error), (Some(Event::Started), None));
    }

    #[test]
    fn a_message_is_sent_three_times_with_growing_pauses() {
        let now = DateTime::UNIX_EPOCH;
        let mut states = AlertStates::default();
        states.states.insert("few".into(), AlertState::default());
        let message = |id: &str| Message::for_test(id, "few");
        states.add(vec![message("a"), message("b")], now);
        assert_eq!(states.due(now).len(), 2);
        states.sent("b");
        assert_eq!(states.unsent("b", "x", now), None);
        let mut at = now;
        for pause in PAUSES {
            assert_eq!(states.unsent("a", "status 500", at), Some(Fate::Waits));
            assert_eq!(states.due(at + pause - TimeDelta::milliseconds(1)).len(), 0);
            at += pause;
            assert_eq!(states.due(at).len(), 1);
        }
        assert_eq!(states.unsent("a", "status 500", at), Some(Fate::Dropped));
        assert!(states.waiting.is_empty());
        let error = states
            .states
            .get("few")
            .and_then(|state| state.last_error.as_deref());
        assert_eq!(error, Some("status 500"));
        let many = (0..1_005).map(|id| message(&id.to_string())).collect();
        assert_eq!(states.add(many, now), 5);
        states.forget("few");
        assert_eq!(states, AlertStates::default());
    }
}
