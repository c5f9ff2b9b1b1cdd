//! The alerts of `static/ops/alerts.yml`, evaluated on the numbers of this process.
//!
//! A test compares names, severities and times with the rules. A rule that cannot know, as a rate
//! right after a start, leaves its alert as it was; so alerts survive a restart.

use std::sync::atomic::Ordering;

use crate::window::utc_string;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::history::{History, Moment, Slot, difference, quantile};
use super::{Gauges, Monitoring, Resources};

/// Number of alerts.
pub const ALERTS: usize = 10;

/// Seconds between two evaluations.
const INTERVAL: i64 = 60;
/// Share of failed batches above which ingest counts as failing.
const MAX_FAILURES: f64 = 0.01;
/// The quantile of the times of queries.
const QUANTILE: f64 = 0.95;
/// Seconds above which queries count as slow.
const SLOW_QUERY: f64 = 0.5;
/// Seconds above which a rollup counts as slow.
const SLOW_ROLLUP: f64 = 60.0;
/// Seconds for which a rollup may be due.
const LATE_ROLLUP: f64 = 2.0 * 3_600.0;
/// Seconds for which events may wait to be sealed.
const SEAL_LAG: f64 = 3_600.0;
/// Seconds for which the published tables may be behind.
const TABLE_LAG: f64 = 3_600.0;
/// Seconds of the window of rates.
const RATE_WINDOW: i64 = 300;
/// Seconds by which the free space is extrapolated.
const DISK_WINDOW: i64 = 6 * 3_600;
/// Seconds for which the free space should last.
const DISK_LASTS: f64 = 3.0 * 86_400.0;
/// Seconds without an event.
const SILENCE: i64 = 1_800;
/// Seconds of an hour, and of a day.
const HOUR: i64 = 3_600;
const DAY: i64 = 86_400;
/// Seconds after a start in which no known damage does not mean that there is none: a segment is
/// verified when it is used first.
const FINDS_DAMAGE: f64 = 3_600.0;

/// The urgency of an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// A person has to act now.
    Page,
    /// A person has to act soon.
    Ticket,
}

/// The state of an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AlertState {
    /// Its condition does not hold, or it is not known whether it does.
    Ok,
    /// Its condition holds, but not for long enough.
    Pending,
    /// Its condition holds.
    Firing,
}

/// An alert.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct AlertStatus {
    /// Its name, as in the rules for Prometheus.
    pub name: &'static str,
    /// Its urgency.
    pub severity: Severity,
    /// Its state.
    pub state: AlertState,
    /// Time since which its condition holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// The value that the condition is about, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// The condition.
    pub condition: &'static str,
    /// The next step.
    pub action: &'static str,
}

/// A rule: when an alert is active, and for how long before it fires.
struct Rule {
    name: &'static str,
    severity: Severity,
    /// Seconds for which the condition must hold.
    hold: i64,
    condition: &'static str,
    action: &'static str,
    /// The value and whether the condition holds; `None` if that cannot be known.
    read: fn(&Inputs<'_>) -> Option<Reading>,
}

/// The numbers that rules read.
struct Inputs<'a> {
    now: f64,
    gauges: &'a Gauges,
    resources: &'a Resources,
    last_rollup: Option<f64>,
    history: &'a History,
}

/// A value, and whether the condition holds with it.
struct Reading {
    value: Option<f64>,
    holds: bool,
}

impl Reading {
    fn above(value: f64, limit: f64) -> Self {
        Self {
            value: Some(value),
            holds: value > limit,
        }
    }

    /// No value: there was nothing to measure.
    const NONE: Self = Self {
        value: None,
        holds: false,
    };
}

static RULES: [Rule; ALERTS] = [
    Rule {
        name: "EchopilotIngestFailures",
        severity: Severity::Page,
        hold: 300,
        condition: "more than 1 % of event batches fail, over 5 minutes",
        action: "GET /health/ready has the reason",
        read: |inputs| {
            let (first, last) = inputs.history.window(RATE_WINDOW)?;
            let batches = last.batches.saturating_sub(first.batches);
            let failed = last.failed.saturating_sub(first.failed);
            Some(match batches {
                0 => Reading::NONE,
                batches => Reading::above(failed as f64 / batches as f64, MAX_FAILURES),
            })
        },
    },
    Rule {
        name: "EchopilotNotWritable",
        severity: Severity::Page,
        hold: 60,
        condition: "no events are accepted",
        action: "GET /health/ready has the reason",
        read: |inputs| {
            let is_writable = inputs.gauges.is_writable;
            sampled(inputs).map(|_| Reading {
                value: Some(f64::from(u8::from(is_writable))),
                holds: !is_writable,
            })
        },
    },
    Rule {
        name: "EchopilotSegmentsDamaged",
        severity: Severity::Page,
        hold: 0,
        condition: "segments are damaged",
        action: "run echopilot verify, which names the files; restore them from a backup",
        read: |inputs| {
            let gauges = sampled(inputs)?;
            let is_known =
                gauges.damaged_segments > 0 || gauges.at - gauges.opened_at > FINDS_DAMAGE;
            is_known.then(|| Reading::above(gauges.damaged_segments as f64, 0.0))
        },
    },
    Rule {
        name: "EchopilotQueriesSlow",
        severity: Severity::Ticket,
        hold: 600,
        condition: "p95 of queries of daily states is above 0.5 s, over 5 minutes",
        action: "see whether the machine is busy or its memory full",
        read: |inputs| {
            let (first, last) = inputs.history.window(RATE_WINDOW)?;
            let times = difference(&first.query_times, &last.query_times);
            Some(
                quantile(QUANTILE, &times)
                    .map_or(Reading::NONE, |p95| Reading::above(p95, SLOW_QUERY)),
            )
        },
    },
    Rule {
        name: "EchopilotRollupSlow",
        severity: Severity::Ticket,
        hold: 0,
        condition: "the last rollup took more than 60 s",
        action: "it ends with the next rollup that takes less",
        read: |inputs| Some(Reading::above(inputs.last_rollup?, SLOW_ROLLUP)),
    },
    Rule {
        name: "EchopilotRollupMissing",
        severity: Severity::Ticket,
        hold: 0,
        condition: "a rollup is due for more than two hours",
        action: "the traces have the failure of the rollup",
        read: |inputs| {
            let since = inputs.resources.rollup_due_since;
            Some(match since > 0.0 {
                true => Reading::above(inputs.now - since, LATE_ROLLUP),
                false => Reading::above(0.0, LATE_ROLLUP),
            })
        },
    },
    Rule {
        name: "EchopilotSealLag",
        severity: Severity::Ticket,
        hold: 600,
        condition: "events wait for more than an hour to be sealed",
        action: "the traces have the failure of the seal",
        read: |inputs| sampled(inputs).map(|gauges| Reading::above(gauges.seal_lag, SEAL_LAG)),
    },
    Rule {
        name: "EchopilotTablesBehind",
        severity: Severity::Ticket,
        hold: 600,
        condition: "the published tables are behind for more than an hour",
        action: "GET /api/analytics/status has the last error in publication",
        read: |inputs| {
            let tables = sampled(inputs)?.tables;
            Some(tables.map_or(Reading::NONE, |tables| {
                Reading::above(tables.lag as f64, TABLE_LAG)
            }))
        },
    },
    Rule {
        name: "EchopilotDiskSoonFull",
        severity: Severity::Ticket,
        hold: 3_600,
        condition: "by the last 6 hours the disk is full within three days",
        action: "free some space, or keep events for less time (--raw-retention-days)",
        read: |inputs| {
            let free = inputs.history.predict_disk_free(DISK_WINDOW, DISK_LASTS)?;
            Some(Reading {
                value: Some(free),
                holds: free < 0.0,
            })
        },
    },
    Rule {
        name: "EchopilotSilent",
        severity: Severity::Ticket,
        hold: 1_800,
        condition: "no event for an hour, though there were some at this time yesterday",
        action: "see whether pages load the client and reach POST /api/analytics/event",
        read: |inputs| {
            let history = inputs.history;
            let now = history.open_events();
            let events = match now {
                0 => history.events(SILENCE, 0)?,
                now => now,
            };
            // Without a record of yesterday there was nothing that could be missing.
            let yesterday = history.events(DAY + HOUR, DAY).unwrap_or(0);
            Some(Reading {
                value: Some(events as f64),
                holds: events == 0 && yesterday > 0,
            })
        },
    },
];

/// The gauges, once they were sampled.
fn sampled<'a>(inputs: &Inputs<'a>) -> Option<&'a Gauges> {
    Some(inputs.gauges).filter(|gauges| gauges.at > 0.0)
}

/// The names of the alerts.
pub fn names() -> impl Iterator<Item = &'static str> {
    RULES.iter().map(|rule| rule.name)
}

/// The alerts of a server, and the past that they compare with.
#[derive(Debug, Default)]
pub struct Alerts {
    active: [Option<Active>; ALERTS],
    values: [Option<f64>; ALERTS],
    history: History,
    /// Seconds since 1970 of the last evaluation.
    evaluated: Option<i64>,
    /// Something changed that a restart has to know.
    is_unsaved: bool,
}

/// An alert whose condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Active {
    /// Seconds since 1970.
    since: i64,
    is_firing: bool,
}

/// The part that a restart keeps, as in the file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SavedAlerts {
    #[serde(default)]
    active: Vec<SavedAlert>,
    #[serde(default)]
    slots: Vec<Slot>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct SavedAlert {
    name: String,
    since: i64,
    is_firing: bool,
    value: Option<f64>,
}

/// A change of an alert that a person should know of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlertChange {
    /// It fires from now on.
    Fires(&'static str, &'static str),
    /// It does not fire any more.
    Ends(&'static str),
}

impl Alerts {
    /// The alerts as they were saved. Those of other versions are left out.
    pub fn of(saved: SavedAlerts) -> Self {
        let mut alerts = Self {
            history: History::of(saved.slots),
            ..Self::default()
        };
        let places = alerts.active.iter_mut().zip(&mut alerts.values);
        for (rule, (active, value)) in RULES.iter().zip(places) {
            let known = saved.active.iter().find(|alert| alert.name == rule.name);
            if let Some(alert) = known {
                *value = alert.value;
                *active = Some(Active {
                    since: alert.since,
                    is_firing: alert.is_firing,
                });
            }
        }
        alerts
    }

    /// Evaluates the rules, unless they were evaluated less than a minute ago.
    pub fn evaluate(&mut self, monitoring: &Monitoring, now: DateTime<Utc>) -> Vec<AlertChange> {
        let at = now.timestamp();
        if let Some(last) = self.evaluated
            && (last..last + INTERVAL).contains(&at)
        {
            return Vec::new();
        }
        self.evaluated = Some(at);
        let (gauges, resources) = (monitoring.gauges(), monitoring.resources());
        let ended = self
            .history
            .add(Moment::of(monitoring, at), resources.disk_free);
        self.is_unsaved |= ended;
        let inputs = Inputs {
            now: at as f64,
            gauges: &gauges,
            resources: &resources,
            last_rollup: monitoring.last_rollup_seconds(),
            history: &self.history,
        };
        let mut changes = Vec::new();
        let places = self.active.iter_mut().zip(&mut self.values);
        for (rule, (active, value)) in RULES.iter().zip(places) {
            let Some(reading) = (rule.read)(&inputs) else {
                continue;
            };
            *value = reading.value;
            let before = *active;
            *active = reading.holds.then(|| {
                let since = before.map_or(at, |active| active.since.min(at));
                let was_firing = before.is_some_and(|active| active.is_firing);
                Active {
                    since,
                    is_firing: was_firing || at - since >= rule.hold,
                }
            });
            self.is_unsaved |= *active != before;
            let is_firing = |active: Option<Active>| active.is_some_and(|active| active.is_firing);
            match (is_firing(before), is_firing(*active)) {
                (false, true) => changes.push(AlertChange::Fires(rule.name, rule.condition)),
                (true, false) => changes.push(AlertChange::Ends(rule.name)),
                _ => {}
            }
        }
        self.expose(monitoring);
        changes
    }

    /// Notes which alerts fire, for the page of Prometheus.
    pub fn expose(&self, monitoring: &Monitoring) {
        for (active, fires) in self.active.iter().zip(&monitoring.firing) {
            let is_firing = active.is_some_and(|active| active.is_firing);
            fires.store(is_firing, Ordering::Relaxed);
        }
    }

    /// The alerts, in the order of the rules.
    pub fn status(&self) -> Vec<AlertStatus> {
        let places = self.active.iter().zip(&self.values);
        let status = |(rule, (active, value)): (&Rule, (&Option<Active>, &Option<f64>))| {
            let since = active.and_then(|active| DateTime::from_timestamp(active.since, 0));
            AlertStatus {
                name: rule.name,
                severity: rule.severity,
                state: match active {
                    None => AlertState::Ok,
                    Some(Active {
                        is_firing: false, ..
                    }) => AlertState::Pending,
                    Some(Active {
                        is_firing: true, ..
                    }) => AlertState::Firing,
                },
                since: since.map(utc_string),
                value: *value,
                condition: rule.condition,
                action: rule.action,
            }
        };
        RULES.iter().zip(places).map(status).collect()
    }

    /// The state to save, if it has changed since it was saved last.
    pub fn unsaved(&self) -> Option<SavedAlerts> {
        self.is_unsaved.then(|| SavedAlerts {
            active: self.saved_active(),
            slots: self.history.slots(),
        })
    }

    fn saved_active(&self) -> Vec<SavedAlert> {
        let places = self.active.iter().zip(&self.values);
        let saved = RULES
            .iter()
            .zip(places)
            .filter_map(|(rule, (active, value))| {
                active.map(|active| SavedAlert {
                    name: rule.name.into(),
                    since: active.since,
                    is_firing: active.is_firing,
                    value: *value,
                })
            });
        saved.collect()
    }

    /// Notes that the state was saved.
    pub fn saved(&mut self) {
        self.is_unsaved = false;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::monitoring::{BatchOutcome, EventOutcome, Family, QueryKind, QuerySource};

    const START: i64 = 1_764_000_000;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(START + seconds, 0).expect("a time")
    }

    /// A server whose gauges are sampled, and its alerts.
    struct Server {
        monitoring: Monitoring,
        alerts: Alerts,
        now: i64,
        gauges: Gauges,
        resources: Resources,
    }

    impl Server {
        fn new() -> Self {
            Self {
                monitoring: Monitoring::default(),
                alerts: Alerts::default(),
                now: 0,
                gauges: Gauges {
                    is_writable: true,
                    opened_at: START as f64,
                    ..Gauges::default()
                },
                resources: Resources::default(),
            }
        }

        /// Lets a minute pass, and evaluates.
        fn minute(&mut self) -> Vec<AlertChange> {
            self.now += 60;
            self.gauges.at = (START + self.now) as f64;
            self.monitoring.set_gauges(self.gauges.clone());
            self.monitoring.set_resources(self.resources.clone());
            self.alerts.evaluate(&self.monitoring, at(self.now))
        }

        fn minutes(&mut self, count: usize) -> Vec<AlertChange> {
            (0..count).flat_map(|_| self.minute()).collect()
        }

        fn state(&self, name: &str) -> AlertState {
            let alerts = self.alerts.status();
            let alert = alerts.iter().find(|alert| alert.name == name);
            alert.expect(name).state
        }

        fn firing(&self) -> Vec<&'static str> {
            let alerts = self.alerts.status().into_iter();
            let firing = alerts.filter(|alert| alert.state == AlertState::Firing);
            firing.map(|alert| alert.name).collect()
        }

        /// Starts again with what was saved.
        fn restart(&mut self) {
            let saved = SavedAlerts {
                active: self.alerts.saved_active(),
                slots: self.alerts.history.slots(),
            };
            let json = serde_json::to_string(&saved).expect("JSON");
            let saved: SavedAlerts = serde_json::from_str(&json).expect("what was saved");
            self.alerts = Alerts::of(saved);
            self.monitoring = Monitoring::default();
            self.gauges.opened_at = (START + self.now) as f64;
        }
    }

    #[test]
    fn the_alerts_are_those_of_the_rules() {
        let rules = include_str!("../../static/ops/alerts.yml");
        let mut found = Vec::new();
        for rule in rules.split("- alert: ").skip(1) {
            let name = rule.lines().next().expect("a name").trim();
            let field = |field: &str| {
                let mut lines = rule.lines().map(str::trim);
                lines
                    .find_map(|line| line.strip_prefix(field))
                    .map(str::trim)
            };
            let hold = match field("for:") {
                None => 0,
                Some(hold) => {
                    let (number, unit) = hold.split_at(hold.len() - 1);
                    let unit = if unit == "h" { 3_600 } else { 60 };
                    number.parse::<i64>().expect("a number") * unit
                }
            };
            let severity = field("labels: {severity:").expect("a severity");
            found.push((name, severity.trim_end_matches('}').to_owned(), hold));
        }
        let expected = RULES.iter().map(|rule| {
            let severity = serde_json::to_value(rule.severity).expect("JSON");
            let severity = severity.as_str().expect("a string").to_owned();
            (rule.name, severity, rule.hold)
        });
        assert_eq!(found, expected.collect::<Vec<_>>());
    }

    #[test]
    fn failing_batches_fire_after_five_minutes_above_one_percent() {
        let mut server = Server::new();
        let mut minute = |failed: usize| {
            for batch in 0..100 {
                let outcome = match batch < failed {
                    true => BatchOutcome::Failed,
                    false => BatchOutcome::Stored,
                };
                server.monitoring.count_batch(Family::Native, outcome);
            }
            server.minute();
            server.state("EchopilotIngestFailures")
        };
        // One percent is not above one percent.
        for _ in 0..10 {
            assert_eq!(minute(1), AlertState::Ok);
        }
        let states: Vec<AlertState> = (0..7).map(|_| minute(3)).collect();
        let pending = states.iter().filter(|state| **state == AlertState::Pending);
        assert_eq!(pending.count(), 5, "{states:?}");
        assert_eq!(states.last(), Some(&AlertState::Firing));
        // It ends when the window has no more of them than one in a hundred.
        let after: Vec<AlertState> = (0..6).map(|_| minute(0)).collect();
        assert_eq!(after.last(), Some(&AlertState::Ok));
        // Without batches nothing fails.
        assert_eq!(server.minutes(10), []);
    }

    #[test]
    fn slow_queries_of_states_fire_and_those_of_the_lake_do_not() {
        let mut server = Server::new();
        let mut minutes = |source, ms| {
            for _ in 0..16 {
                let time = Duration::from_millis(ms);
                server
                    .monitoring
                    .count_query(QueryKind::USAGE, source, &Ok(()), time);
                server.minute();
            }
            server.state("EchopilotQueriesSlow")
        };
        assert_eq!(minutes(QuerySource::Lake, 4_000), AlertState::Ok);
        assert_eq!(minutes(QuerySource::States, 400), AlertState::Ok);
        assert_eq!(minutes(QuerySource::States, 700), AlertState::Firing);
        assert_eq!(minutes(QuerySource::States, 400), AlertState::Ok);
    }

    #[test]
    fn alerts_fire_and_end_with_their_gauges() {
        let mut server = Server::new();
        assert_eq!(server.minutes(5), []);
        server.gauges.is_writable = false;
        assert_eq!(server.minute(), []);
        assert_eq!(server.state("EchopilotNotWritable"), AlertState::Pending);
        server.minute();
        assert_eq!(server.firing(), ["EchopilotNotWritable"]);
        server.gauges.is_writable = true;
        let ends = AlertChange::Ends("EchopilotNotWritable");
        assert_eq!(server.minute(), [ends]);
        // A rollup of a minute and a second.
        server.monitoring.count_rollup(Duration::from_secs(61));
        server.minute();
        assert_eq!(server.firing(), ["EchopilotRollupSlow"]);
        server.monitoring.count_rollup(Duration::from_secs(60));
        server.minute();
        assert_eq!(server.firing(), [""; 0]);
        server.gauges.seal_lag = 3_601.0;
        assert_eq!(server.minutes(10), []);
        server.minute();
        assert_eq!(server.firing(), ["EchopilotSealLag"]);
        server.gauges.seal_lag = 0.0;
        server.minute();
        server.resources.rollup_due_since = (START + server.now) as f64;
        assert_eq!(server.minutes(120), []);
        server.minute();
        assert_eq!(server.firing(), ["EchopilotRollupMissing"]);
        server.resources.rollup_due_since = 0.0;
        server.minute();
        assert_eq!(server.firing(), [""; 0]);
    }

    #[test]
    fn a_disk_that_fills_up_fires_after_an_hour() {
        let mut server = Server::new();
        let mut free: u64 = 400 << 30;
        let mut hours = |hours: usize, minute: u64, server: &mut Server| {
            for _ in 0..hours * 60 {
                free -= minute;
                server.resources.disk_free = Some(free);
                server.minute();
            }
            server.state("EchopilotDiskSoonFull")
        };
        // 400 GiB last longer than three days at 64 MiB a minute, and not at 128 MiB.
        assert_eq!(hours(8, 64 << 20, &mut server), AlertState::Ok);
        assert_eq!(hours(8, 128 << 20, &mut server), AlertState::Firing);
        assert_eq!(hours(7, 0, &mut server), AlertState::Ok);
    }

    #[test]
    fn silence_fires_where_there_were_events_at_this_time_yesterday() {
        let mut server = Server::new();
        let hours = |hours: usize, events: usize, server: &mut Server| {
            for _ in 0..hours * 60 {
                let logged = EventOutcome::Logged;
                server
                    .monitoring
                    .count_events(Family::Native, logged, events);
                server.minute();
            }
            server.state("EchopilotSilent")
        };
        // Events for a day but its last two hours.
        assert_eq!(hours(22, 1, &mut server), AlertState::Ok);
        assert_eq!(hours(2, 0, &mut server), AlertState::Ok);
        // Now there were events yesterday.
        assert_eq!(hours(2, 0, &mut server), AlertState::Firing);
        // A restart keeps both, and knows nothing for half an hour.
        server.restart();
        assert_eq!(server.state("EchopilotSilent"), AlertState::Firing);
        server.minutes(20);
        assert_eq!(server.state("EchopilotSilent"), AlertState::Firing);
        assert_eq!(hours(1, 1, &mut server), AlertState::Ok);
    }

    #[test]
    fn known_damage_is_kept_over_a_restart_until_it_would_have_been_found() {
        let mut server = Server::new();
        server.gauges.damaged_segments = 2;
        let fires = AlertChange::Fires("EchopilotSegmentsDamaged", "segments are damaged");
        assert_eq!(server.minute(), [fires]);
        assert!(server.alerts.unsaved().is_some());
        server.alerts.saved();
        assert_eq!(server.minute(), []);
        server.restart();
        server.gauges.damaged_segments = 0;
        server.minutes(60);
        assert_eq!(server.firing(), ["EchopilotSegmentsDamaged"]);
        server.minute();
        assert_eq!(server.firing(), [""; 0]);
    }

    #[test]
    fn rules_are_evaluated_once_a_minute_and_what_is_unknown_is_left_out() {
        let mut server = Server::new();
        server.minute();
        server.gauges.damaged_segments = 1;
        server.monitoring.set_gauges(server.gauges.clone());
        let evaluate = |server: &mut Server, seconds| {
            let now = at(server.now + seconds);
            server.alerts.evaluate(&server.monitoring, now).len()
        };
        assert_eq!(evaluate(&mut server, 59), 0);
        assert_eq!(evaluate(&mut server, 60), 1);
        let saved =
            r#"{"active":[{"name":"Another","since":5,"is_firing":true,"value":1.5}],"more":1}"#;
        let saved: SavedAlerts = serde_json::from_str(saved).expect("a later version");
        let alerts = Alerts::of(saved).status();
        assert_eq!(alerts.len(), ALERTS);
        assert!(alerts.iter().all(|alert| alert.state == AlertState::Ok));
    }
}
