//! The alerts and digests that users define: their evaluation on days that are over, and their
//! messages.

use std::collections::HashSet;

use chrono::{DateTime, Datelike, Days, DurationRound, NaiveDate, NaiveTime, TimeDelta, Utc};
use chrono_tz::Tz;
use parking_lot::Mutex;
use ring::hmac;
use serde::Serialize;
use serde_json::Value;
use tracing::{error, info, warn};
use utoipa::ToSchema;

use super::{Action, By, Cancel, Engine};
use crate::alerts::digest::{self, WeekUsage};
use crate::alerts::message::{Content, Event};
use crate::alerts::sender::MessageSender;
use crate::alerts::state::{AlertState, AlertStates, Fate, RETRY};
use crate::alerts::{Alert, Alerts, Continuity};
use crate::error::{Error, ErrorCode, Result};
use crate::metrics::query::Query;
use crate::reports::forget_in_query;
use crate::window::WindowRequest;

/// Most days that are evaluated after a pause of the server.
const MAX_MISSED_DAYS: u64 = 31;
/// Most rows of a result in which a number is searched.
const MAX_ROWS: usize = 10_000;
/// Features of each week that a digest compares.
const COMPARED_FEATURES: usize = 1_000;
/// Time after an hour for its events to arrive.
const HOUR_GRACE: TimeDelta = TimeDelta::minutes(1);
const HOUR: TimeDelta = TimeDelta::hours(1);

/// The alerts and their states, once they were read.
#[derive(Default)]
pub(super) struct UserAlerts(Mutex<Option<Loaded>>);

#[derive(Default)]
struct Loaded {
    alerts: Alerts,
    states: AlertStates,
    /// The file of the states is older.
    is_unsaved: bool,
}

/// The alerts and digests.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct AlertsAnswer {
    /// Always true.
    pub ok: bool,
    /// Sorted by id, with their states.
    pub alerts: Vec<Alert>,
    /// The key of the signatures of webhooks.
    pub signing_key: String,
}

/// Result of a test of an alert or digest.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct AlertTestAnswer {
    /// True if all messages were sent.
    pub ok: bool,
    /// The last day that is over, or hour, or the last day of the last week.
    pub at: String,
    /// The number.
    pub value: Option<f64>,
    /// The earlier number of a change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<f64>,
    /// The condition holds; absent if that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holds: Option<bool>,
    /// The messages.
    pub messages: Vec<TestedMessage>,
}

/// A message of a test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct TestedMessage {
    /// Where it went.
    pub to: String,
    /// It was sent.
    pub ok: bool,
    /// The reason why it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The part of an alert or digest that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Day(NaiveDate),
    /// By its end.
    Hour(DateTime<Utc>),
    /// By its last day.
    Week(NaiveDate),
}

impl Due {
    /// It as messages name it.
    fn name(self) -> String {
        match self {
            Self::Day(day) | Self::Week(day) => day.to_string(),
            Self::Hour(end) => (end - HOUR).format("%Y-%m-%dT%H:00Z").to_string(),
        }
    }
}

impl Engine {
    /// The alerts and digests with their states.
    ///
    /// # Errors
    /// If a file is damaged.
    pub fn user_alerts(&self) -> Result<AlertsAnswer> {
        self.with_user_alerts(|loaded| Ok(loaded.entries()))
            .map(|alerts| AlertsAnswer {
                ok: true,
                alerts,
                signing_key: self.signing_key(),
            })
    }

    /// Evaluates the alerts and digests that are due, and sends the messages that wait.
    ///
    /// # Errors
    /// If a file is damaged or cannot be written. A query or message that fails is noted in the
    /// state of its alert.
    pub fn run_user_alerts(&self, sender: &MessageSender, now: DateTime<Utc>) -> Result<()> {
        // A clock that is not trusted must not close a day.
        let Ok(trusted) = self.store.trusted(now) else {
            return Ok(());
        };
        let end_of_trusted = (self.store.last_trusted_day(now) + Days::new(1))
            .and_time(NaiveTime::MIN)
            .and_utc();
        let closed = trusted.min(end_of_trusted - TimeDelta::microseconds(1));
        self.with_user_alerts(|loaded| loaded.save_states(self))?;
        for (alert, due) in self.with_user_alerts(|loaded| Ok(self.due(loaded, closed)))? {
            for one in due {
                if !self.evaluate_due(&alert, one, closed)? {
                    break;
                }
            }
        }
        self.send_waiting(sender, now)
    }

    /// Evaluates an alert or digest and sends its messages as a test, whatever the outcome is. Its
    /// state does not change.
    ///
    /// # Errors
    /// `unknown_alert`, and those of its query.
    pub fn test_user_alert(
        &self,
        id: &str,
        sender: &MessageSender,
        now: DateTime<Utc>,
    ) -> Result<AlertTestAnswer> {
        let alert = self.with_user_alerts(|loaded| loaded.alerts.find(id).cloned())?;
        let tz = tz_of(&alert)?;
        let day = self.last_due_day(tz, now);
        let due = match (alert.digest, alert.live) {
            (Some(_), _) => Due::Week(last_sunday(day)),
            (None, true) => Due::Hour(last_hour(now)),
            (None, false) => Due::Day(day),
        };
        let (content, numbers) = match due {
            Due::Week(sunday) => (self.digest_of(&alert, sunday, now)?, (None, None)),
            _ => {
                let numbers = self.numbers_of_alert(&alert, due, now)?;
                let content = Content::of_alert(&alert, numbers, Event::Test, &due.name());
                (content, numbers)
            }
        };
        let sent = sender.send(content.messages(&alert)?, &self.signing_key(), now)?;
        let sent = sent.into_iter().map(|(message, sent)| TestedMessage {
            to: message.to,
            ok: sent.is_ok(),
            error: sent.err(),
        });
        let mut messages: Vec<TestedMessage> = sent.collect();
        let place = |message: &TestedMessage| alert.to.iter().position(|to| *to == message.to);
        messages.sort_by_key(place);
        let when = alert.when.as_ref();
        Ok(AlertTestAnswer {
            ok: messages.iter().all(|message| message.ok),
            at: due.name(),
            value: numbers.0,
            before: numbers.1,
            holds: when.and_then(|when| when.holds(numbers.0, numbers.1)),
            messages,
        })
    }

    /// Removes erased users from the queries of alerts, and drops the waiting messages of these.
    /// Returns the number of alerts that had one.
    pub(super) fn forget_in_alerts(&self, users: &HashSet<&str>) -> Result<usize> {
        self.with_user_alerts(|loaded| {
            let mut alerts = loaded.alerts.clone();
            let queries = alerts.alerts.iter_mut();
            for query in queries.filter_map(|alert| alert.query.as_mut()) {
                forget_in_query(query, users);
            }
            if alerts == loaded.alerts {
                return Ok(0);
            }
            alerts.save(self.store.folder())?;
            let mut changed = 0;
            for (new, old) in alerts.alerts.iter().zip(&loaded.alerts.alerts) {
                if new != old {
                    loaded.states.forget(&new.id);
                    changed += 1;
                }
            }
            loaded.alerts = alerts;
            loaded.is_unsaved = true;
            loaded.save_states(self)?;
            Ok(changed)
        })
    }

    /// The key of the signatures of webhooks, which follows from the key of the store.
    fn signing_key(&self) -> String {
        let key = self.store.folder().mark().map(|mark| mark.key.as_str());
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.unwrap_or_default().as_bytes());
        hex::encode(hmac::sign(&key, b"webhook signatures"))
    }

    fn with_user_alerts<T>(&self, work: impl FnOnce(&mut Loaded) -> Result<T>) -> Result<T> {
        let mut loaded = self.user_alerts.0.lock();
        if loaded.is_none() {
            let folder = self.store.folder();
            *loaded = Some(Loaded {
                alerts: Alerts::load(folder)?,
                states: AlertStates::load(folder)?,
                is_unsaved: false,
            });
        }
        work(loaded.get_or_insert_default())
    }

    /// The alerts that are due, each with its days in order.
    fn due(&self, loaded: &Loaded, now: DateTime<Utc>) -> Vec<(Alert, Vec<Due>)> {
        let alerts = loaded.alerts.alerts.iter().filter_map(|alert| {
            let state = loaded.states.states.get(&alert.id);
            let waits = state
                .and_then(|state| state.retry_at)
                .is_some_and(|at| now < at);
            let tz = tz_of(alert).ok()?;
            let day = self.last_due_day(tz, now);
            let due = match waits {
                true => Vec::new(),
                false => due_parts(alert, state, day, last_hour(now)),
            };
            (!due.is_empty()).then(|| (alert.clone(), due))
        });
        alerts.collect()
    }

    /// The last day of a zone that is over, from the time of the rollup on, so that late events can
    /// arrive before.
    fn last_due_day(&self, tz: Tz, now: DateTime<Utc>) -> NaiveDate {
        let local = now.with_timezone(&tz).naive_local();
        let days = if local.time() < self.config.rollup_at {
            2
        } else {
            1
        };
        local.date() - Days::new(days)
    }

    /// Evaluates an alert for a day or hour, or makes a digest, and commits the outcome with its
    /// messages. Returns false if it failed and is tried again later.
    fn evaluate_due(&self, alert: &Alert, due: Due, now: DateTime<Utc>) -> Result<bool> {
        let outcome = match due {
            Due::Week(sunday) => self.digest_of(alert, sunday, now).map(Outcome::Digest),
            _ => self.numbers_of_alert(alert, due, now).map(Outcome::Numbers),
        };
        self.with_user_alerts(|loaded| {
            if loaded.alerts.find(&alert.id).ok() != Some(alert) {
                // It was changed or removed meanwhile.
                return Ok(false);
            }
            let evaluated = loaded.take(alert, due, outcome, now);
            loaded.save_states(self)?;
            evaluated
        })
    }

    /// The number of an alert for a day or hour, and the earlier one of a change.
    fn numbers_of_alert(
        &self,
        alert: &Alert,
        due: Due,
        now: DateTime<Utc>,
    ) -> Result<(Option<f64>, Option<f64>)> {
        let day = match due {
            Due::Day(day) | Due::Week(day) => day,
            Due::Hour(end) => end.with_timezone(&tz_of(alert)?).date_naive(),
        };
        let value = self.number_of_alert(alert, day, now)?;
        let days_before = alert.when.as_ref().map(days_before);
        let before = days_before.transpose()?.flatten();
        let before = before.map(|days| day - Days::new(days.into()));
        // Before the first event nothing is known.
        let is_known = |day: &NaiveDate| self.store.first_day().is_some_and(|first| *day >= first);
        let before = before.filter(is_known);
        let before = before.map(|day| self.number_of_alert(alert, day, now));
        Ok((value, before.transpose()?.flatten()))
    }

    fn number_of_alert(
        &self,
        alert: &Alert,
        end: NaiveDate,
        now: DateTime<Utc>,
    ) -> Result<Option<f64>> {
        let bad = |message: String| Error::bad_input(ErrorCode::BadAlert, message);
        let mut query = alert.query.clone().unwrap_or_default();
        query.insert("end".into(), Value::String(end.to_string()));
        let query = Query::of_object(query)?;
        let answer = self.query(&query, now, &Cancel::default())?;
        let rows = answer.rows.height();
        if rows > MAX_ROWS {
            return Err(bad(format!(
                "query: the result has {rows} rows; allowed are {MAX_ROWS}"
            )));
        }
        let mut result = serde_json::to_value(&answer).unwrap_or_default();
        if alert.live
            && let Some(rows) = result.get_mut("rows").and_then(Value::as_array_mut)
        {
            // The running hour.
            rows.retain(|row| row.get("partial") != Some(&Value::Bool(true)));
        }
        alert
            .path()
            .and_then(|path| path.find(&result))
            .map_err(bad)
    }

    /// The digest of the week that ends with a Sunday.
    fn digest_of(&self, alert: &Alert, sunday: NaiveDate, now: DateTime<Utc>) -> Result<Content> {
        let week = self.week_usage(alert, sunday, now)?.0;
        let (before, first) = self.week_usage(alert, sunday - Days::new(7), now)?;
        let is_known = self.store.first_day().is_some_and(|known| known <= first);
        let days = (sunday - Days::new(6), sunday);
        Ok(digest::content(
            alert,
            days,
            &week,
            is_known.then_some(&before),
        ))
    }

    /// The usage of the week that ends with a day, and its first day.
    fn week_usage(
        &self,
        alert: &Alert,
        last: NaiveDate,
        now: DateTime<Utc>,
    ) -> Result<(WeekUsage, NaiveDate)> {
        let window = WindowRequest {
            days: Some(7),
            end: Some(last),
            tz: alert.zone().map(str::to_owned),
            ..WindowRequest::default()
        };
        let cancel = Cancel::default();
        let usage = self.usage_of(&window, COMPARED_FEATURES, now, &cancel)?;
        let numbers = usage.numbers;
        let week = WeekUsage {
            users: numbers.mau,
            // Of all days of the week, also those without data.
            daily_users: usage.users_per_day as f64 / 7.0,
            events: numbers.total_events,
            types: numbers.funnel_steps,
            features: numbers.feature_usage,
        };
        Ok((week, usage.window.from))
    }

    /// Sends the messages that are due. Only messages whose state is on disk are sent, so that none
    /// is sent again after a crash because its alert starts a second time.
    fn send_waiting(&self, sender: &MessageSender, now: DateTime<Utc>) -> Result<()> {
        let messages = self.with_user_alerts(|loaded| {
            loaded.save_states(self)?;
            Ok(loaded.states.due(now))
        })?;
        if messages.is_empty() {
            return Ok(());
        }
        let sent = sender.send(messages, &self.signing_key(), now)?;
        self.with_user_alerts(|loaded| {
            for (message, sent) in sent {
                let alert = message.alert.as_str();
                loaded.is_unsaved = true;
                let Err(error) = sent else {
                    loaded.states.sent(&message.id);
                    info!(alert, "Sent a message of the alert {alert}");
                    continue;
                };
                match loaded.states.unsent(&message.id, &error, now) {
                    Some(Fate::Waits) => {
                        warn!(alert, "A message of the alert {alert} waits: {error}");
                    }
                    Some(Fate::Dropped) => {
                        self.monitoring().job_failures.count("messages", 1);
                        error!(
                            alert,
                            "A message of the alert {alert} was not sent: {error}"
                        );
                    }
                    None => {}
                }
            }
            loaded.save_states(self)
        })
    }
}

/// The outcome of an evaluation.
enum Outcome {
    Numbers((Option<f64>, Option<f64>)),
    Digest(Content),
}

impl Loaded {
    /// The alerts with their states.
    fn entries(&self) -> Vec<Alert> {
        let with_state = |alert: &Alert| {
            let state = self.states.states.get(&alert.id);
            Alert {
                state: Some(state.cloned().unwrap_or_default()),
                ..alert.clone()
            }
        };
        self.alerts.alerts.iter().map(with_state).collect()
    }

    /// Writes the states if they have changed.
    fn save_states(&mut self, engine: &Engine) -> Result<()> {
        if self.is_unsaved {
            self.states.save(engine.store.folder())?;
            self.is_unsaved = false;
        }
        Ok(())
    }

    /// Takes the outcome of an evaluation. Returns false if it failed.
    fn take(
        &mut self,
        alert: &Alert,
        due: Due,
        outcome: Result<Outcome>,
        now: DateTime<Utc>,
    ) -> Result<bool> {
        self.is_unsaved = true;
        let state = self.states.states.entry(alert.id.clone()).or_default();
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                state.failed(&error.to_string());
                state.retry_at = Some(now + RETRY);
                return Ok(false);
            }
        };
        match due {
            Due::Day(day) | Due::Week(day) => state.evaluated_through = Some(day),
            Due::Hour(end) => state.evaluated_to = Some(end),
        }
        let content = match (outcome, &alert.when) {
            (Outcome::Digest(content), _) => {
                state.retry_at = None;
                state.last_error = None;
                Some(content)
            }
            (Outcome::Numbers(numbers), Some(when)) => {
                let at = due.name();
                let event = state.take(when, alert.times, numbers, &at);
                event.map(|event| Content::of_alert(alert, numbers, event, &at))
            }
            (Outcome::Numbers(_), None) => None,
        };
        if let Some(content) = content {
            let dropped = self.states.add(content.messages(alert)?, now);
            if dropped > 0 {
                error!(dropped, "{dropped} messages were dropped: too many wait");
            }
        }
        Ok(true)
    }
}

/// The days, the hour or the week of an alert that were not evaluated yet.
fn due_parts(
    alert: &Alert,
    state: Option<&AlertState>,
    day: NaiveDate,
    hour: DateTime<Utc>,
) -> Vec<Due> {
    let through = state.and_then(|state| state.evaluated_through);
    if alert.digest.is_some() {
        let sunday = last_sunday(day);
        // That of the week in which it is created comes when that week is over.
        let is_due = through.is_some_and(|through| through < sunday);
        return if is_due {
            vec![Due::Week(sunday)]
        } else {
            Vec::new()
        };
    }
    if alert.live {
        let to = state.and_then(|state| state.evaluated_to);
        // Hours that were missed are over.
        let is_due = to.is_none_or(|to| to < hour);
        return if is_due {
            vec![Due::Hour(hour)]
        } else {
            Vec::new()
        };
    }
    let first = match through {
        None => day,
        Some(through) => (through + Days::new(1)).max(day - Days::new(MAX_MISSED_DAYS - 1)),
    };
    let days = first.iter_days().take_while(|one| *one <= day);
    days.map(Due::Day).collect()
}

fn days_before(when: &crate::alerts::Condition) -> Result<Option<u16>> {
    when.days_before()
        .map_err(|message| Error::bad_input(ErrorCode::BadAlert, message))
}

fn tz_of(alert: &Alert) -> Result<Tz> {
    let window = WindowRequest {
        tz: alert.zone().map(str::to_owned),
        ..WindowRequest::default()
    };
    let resolved = window.resolve(DateTime::UNIX_EPOCH + TimeDelta::days(400))?;
    Ok(resolved.tz())
}

/// The last day of the last ISO week that is over with a day.
fn last_sunday(day: NaiveDate) -> NaiveDate {
    day - Days::new(u64::from(day.weekday().number_from_monday() % 7))
}

/// The end of the last hour that is over.
fn last_hour(now: DateTime<Utc>) -> DateTime<Utc> {
    let now = now - HOUR_GRACE;
    now.duration_trunc(HOUR).unwrap_or(now)
}

impl By<'_> {
    /// Creates or replaces an alert or digest. Its query runs once, to check the path of its
    /// number; its destinations are checked with the settings of a server.
    ///
    /// # Errors
    /// `bad_alert`, those of its query, and if it cannot be written.
    pub fn set_alert(
        &self,
        id: &str,
        mut alert: Alert,
        sender: Option<&MessageSender>,
    ) -> Result<AlertsAnswer> {
        let engine = self.engine;
        let mut checked = Alerts::default();
        checked.set(id, alert.clone())?;
        if let Some(sender) = sender {
            sender.check(&alert.to)?;
        }
        id.clone_into(&mut alert.id);
        let day = engine.last_due_day(tz_of(&alert)?, self.now);
        if alert.digest.is_none() {
            engine.number_of_alert(&alert, day, self.now)?;
        }
        engine.with_user_alerts(|loaded| {
            let mut alerts = loaded.alerts.clone();
            let is_digest = alert.digest.is_some();
            let continuity = alerts.set(id, alert)?;
            alerts.save(engine.store.folder())?;
            loaded.alerts = alerts;
            if continuity == Continuity::Begins {
                loaded.states.forget(id);
                if is_digest {
                    let state = AlertState {
                        evaluated_through: Some(last_sunday(day)),
                        ..AlertState::default()
                    };
                    loaded.states.states.insert(id.to_owned(), state);
                }
                loaded.is_unsaved = true;
            }
            loaded.save_states(engine)
        })?;
        self.record(Action::Alert, Some(&format!("set {id:?}")), &[]);
        engine.user_alerts()
    }

    /// Removes an alert or digest and its messages.
    ///
    /// # Errors
    /// `unknown_alert`, and if it cannot be written.
    pub fn remove_alert(&self, id: &str) -> Result<AlertsAnswer> {
        let engine = self.engine;
        engine.with_user_alerts(|loaded| {
            let mut alerts = loaded.alerts.clone();
            alerts.remove(id)?;
            alerts.save(engine.store.folder())?;
            loaded.alerts = alerts;
            loaded.states.forget(id);
            loaded.is_unsaved = true;
            loaded.save_states(engine)
        })?;
        self.record(Action::Alert, Some(&format!("removed {id:?}")), &[]);
        engine.user_alerts()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn day(day: u32) -> NaiveDate {
        NaiveDate::from_ymd_opt(2026, 11, day).expect("a day")
    }

    fn alert(more: Value) -> Alert {
        let mut json = json!({"name": "x", "to": ["https://a.example"]});
        let fields = json.as_object_mut().expect("an object");
        fields.extend(more.as_object().expect("an object").clone());
        Alert::parse(json.to_string().as_bytes()).expect("an alert")
    }

    fn through(day: NaiveDate) -> AlertState {
        AlertState {
            evaluated_through: Some(day),
            ..AlertState::default()
        }
    }

    #[test]
    fn each_closed_day_is_due_once_and_a_long_pause_is_cut() {
        let daily = alert(json!({}));
        let hour = DateTime::UNIX_EPOCH;
        let due = |state: Option<&AlertState>| due_parts(&daily, state, day(25), hour);
        assert_eq!(due(None), [Due::Day(day(25))]);
        assert_eq!(due(Some(&through(day(25)))), []);
        assert_eq!(due(Some(&through(day(26)))), [], "a clock that was ahead");
        assert_eq!(
            due(Some(&through(day(22)))),
            [23, 24, 25].map(|one| Due::Day(day(one)))
        );
        let long_ago = through(day(1) - Days::new(300));
        assert_eq!(due(Some(&long_ago)).len(), MAX_MISSED_DAYS as usize);
    }

    #[test]
    fn a_digest_is_due_after_a_sunday_and_a_live_alert_each_hour() {
        let digest = alert(json!({"digest": "weekly"}));
        let hour = last_hour(DateTime::UNIX_EPOCH + TimeDelta::minutes(121));
        assert_eq!(hour, DateTime::UNIX_EPOCH + TimeDelta::hours(2));
        assert_eq!(last_hour(hour + TimeDelta::seconds(59)), hour - HOUR);
        // 2026-11-22 is a Sunday.
        for (one, sunday) in [(21, 15), (22, 22), (23, 22), (28, 22), (29, 29)] {
            assert_eq!(last_sunday(day(one)), day(sunday), "{one}");
        }
        for (known, today, expected) in [
            (None, 25, vec![]),
            (Some(15), 21, vec![]),
            (Some(15), 22, vec![Due::Week(day(22))]),
            (Some(1), 28, vec![Due::Week(day(22))]),
            (Some(22), 28, vec![]),
        ] {
            let state = known.map(|known| through(day(known)));
            let due = due_parts(&digest, state.as_ref(), day(today), hour);
            assert_eq!(due, expected, "{known:?} {today}");
        }
        let live = alert(json!({"live": true}));
        let mut state = AlertState::default();
        assert_eq!(due_parts(&live, None, day(25), hour), [Due::Hour(hour)]);
        state.evaluated_to = Some(hour);
        assert_eq!(due_parts(&live, Some(&state), day(25), hour), []);
        let later = hour + TimeDelta::hours(5);
        let due = due_parts(&live, Some(&state), day(25), later);
        assert_eq!(due, [Due::Hour(later)]);
        assert_eq!(Due::Hour(hour).name(), "1970-01-01T01:00Z");
    }
}
