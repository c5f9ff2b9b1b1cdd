//! The result of a metric from the rows of its statement.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, NaiveDate, Utc};
use serde_json::json;

use super::scope::STEP;
use super::text::{GROUP_STEP, STEP_GROUP};
use super::{Check, not_portable};
use crate::error::{Error, Result};
use crate::metrics::active_users::ActiveUsers;
use crate::metrics::events::{Cursor, EventColumns, Events, STRINGS};
use crate::metrics::experiment::{Arm, Experiment};
use crate::metrics::feature_usage::FeatureUsage;
use crate::metrics::funnel::Funnel;
use crate::metrics::paths::Paths;
use crate::metrics::query::Query;
use crate::metrics::retention::{Retention, Returning};
use crate::metrics::sessions::Sessions;
use crate::metrics::table::Table;
use crate::metrics::trends::timeline::{Slot, Timeline};
use crate::metrics::trends::{Measured, TrendGrain, Trends};
use crate::metrics::usage::UsageCounts;
use crate::metrics::{Answer, Metric};
use crate::window::{self, Grain, Window};

/// The days of which a lake has events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct History {
    /// The UTC day of the oldest event; none without events.
    pub first_day: Option<NaiveDate>,
    /// First UTC day whose events are all kept; none while none expired.
    pub raw_from: Option<NaiveDate>,
}

impl History {
    /// The day of a window's zone from which on all events are known; none without events.
    fn known_from(&self, window: &Window) -> Option<NaiveDate> {
        let tz = window.tz();
        let noon = self.first_day?.and_hms_opt(12, 0, 0)?.and_utc();
        let kept_from = self.raw_from.map(|day| window::first_day_from(day, tz));
        Some(noon.with_timezone(&tz).date_naive()).max(kept_from)
    }
}

/// True if some of the counted events are of daily visitors, from the row of a check.
///
/// # Errors
/// `not_portable` if engines read metadata of some events differently, and if the rows are not
/// those of the check.
pub fn has_visitors(check: &Check, rows: &Rows) -> Result<bool> {
    let count = |name: &str| match rows.iter().next() {
        Some(row) => match row.cell(name)? {
            // The sum of no events.
            Cell::Null => Ok(0),
            _ => row.count(name),
        },
        None => Ok(0),
    };
    for (at, property) in (1..).zip(&check.properties) {
        let odd = count(&format!("odd_{at}"))?;
        if odd > 0 {
            return Err(not_portable(&format!(
                "{property}: it is a list, an object, or a number in another notation than the usual one in {odd} of the events \
                 that are read, which engines read differently"
            )));
        }
    }
    Ok(count("visitors")? > 0)
}

/// The rows of a statement.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rows {
    /// The names of the columns.
    pub names: Vec<String>,
    /// The rows, each with a cell for every name.
    pub rows: Vec<Vec<Cell>>,
}

/// A value of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// No value.
    Null,
    /// A whole number.
    Integer(i64),
    /// A string.
    String(String),
}

/// A row with the names of its columns.
struct Row<'a> {
    names: &'a [String],
    cells: &'a [Cell],
}

impl Rows {
    fn iter(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(|cells| Row {
            names: &self.names,
            cells,
        })
    }
}

impl Row<'_> {
    fn cell(&self, name: &str) -> Result<&Cell> {
        let place = self.names.iter().position(|known| known == name);
        let cell = place.and_then(|place| self.cells.get(place));
        cell.ok_or_else(|| self.wrong(&format!("no column {name}")))
    }

    fn wrong(&self, what: &str) -> Error {
        Error::Query(
            format!(
                "the result of the other engine has {what}; its columns are {}",
                self.names.join(", ")
            )
            .into(),
        )
    }

    fn integer(&self, name: &str) -> Result<i64> {
        match self.cell(name)? {
            Cell::Integer(integer) => Ok(*integer),
            _ => Err(self.wrong(&format!("a column {name} that is not a whole number"))),
        }
    }

    /// A count, or the number of a period that is not before the window.
    fn count(&self, name: &str) -> Result<u64> {
        let integer = self.integer(name)?;
        u64::try_from(integer).map_err(|_| self.wrong(&format!("{integer} in the column {name}")))
    }

    fn string(&self, name: &str) -> Result<Option<String>> {
        match self.cell(name)? {
            Cell::Null => Ok(None),
            Cell::String(string) => Ok(Some(string.clone())),
            Cell::Integer(_) => Err(self.wrong(&format!("a column {name} that is not a string"))),
        }
    }

    fn text(&self, name: &str) -> Result<String> {
        let found = self.string(name)?;
        found.ok_or_else(|| self.wrong(&format!("a null in the column {name}")))
    }

    /// The place of the period of a row among those of the window; `None` if it is before them.
    fn place(&self, name: &str) -> Result<Option<usize>> {
        self.place_in(self.integer(name)?, None)
    }

    /// The place of a number of a period, where hours start at these times.
    fn place_in(&self, number: i64, hours: Option<&[i64]>) -> Result<Option<usize>> {
        let Some(hours) = hours else {
            return Ok(usize::try_from(number.div_euclid(STEP)).ok());
        };
        match hours.binary_search(&number) {
            Ok(place) => Ok(Some(place)),
            Err(_) if number < 0 => Ok(None),
            Err(_) => Err(self.wrong(&format!("the hour {number}, which is not in the window"))),
        }
    }
}

/// The result of a query from the rows of its statement over a lake with this history.
///
/// # Errors
/// If the rows are not those of the statement.
pub fn answer(
    query: &Query,
    window: &Window,
    now: DateTime<Utc>,
    history: History,
    rows: &Rows,
) -> Result<Answer> {
    match &query.metric {
        Metric::ActiveUsers(metric) => active_users(metric, window, now, rows),
        Metric::FeatureUsage(FeatureUsage {
            breakdown: Some(_), ..
        }) => features_by_group(rows),
        Metric::FeatureUsage(_) => {
            let (mut features, mut events, mut users) = (Vec::new(), Vec::new(), Vec::new());
            for row in rows.iter() {
                features.push(row.text("feature")?);
                events.push(row.count("uses")?);
                users.push(row.count("users")?);
            }
            let table = Table::default().with("feature", features);
            Ok(table.with("events", events).with("users", users).into())
        }
        Metric::EventTypes(_) => event_types(rows),
        Metric::Trends(metric) => trends(metric, window, now, history.known_from(window), rows),
        Metric::Sessions(metric) => {
            let timeline = Timeline::new(window, metric.grain, None, 1, now);
            sessions(&timeline, metric, rows)
        }
        Metric::Lifecycle(metric) => lifecycle(metric.grain, window, now, rows),
        Metric::Stickiness(metric) => stickiness(metric.grain, window, now, rows),
        Metric::Funnel(metric) => funnel(metric, rows),
        Metric::Retention(metric) => retention(metric, window, now, rows),
        Metric::Paths(metric) => paths(metric, rows),
        Metric::Experiment(metric) => experiment(metric, rows),
        Metric::Events(metric) => events(metric, rows),
    }
}

/// The counts of usage from the rows of its statement, with so many features.
///
/// # Errors
/// If the rows are not those of the statement.
pub fn usage(rows: &Rows, features: usize) -> Result<UsageCounts> {
    let mut counts = UsageCounts::default();
    let mut types: BTreeMap<String, u64> = BTreeMap::new();
    for row in rows.iter() {
        let (quantity, users) = (row.count("quantity")?, row.count("user_sum")?);
        match row.text("kind")?.as_str() {
            "days" => (counts.days, counts.user_days) = (quantity, users),
            "weeks" => (counts.weeks, counts.user_weeks) = (quantity, users),
            "window" => (counts.events, counts.users) = (quantity, users),
            "feature" if counts.features.len() < features => {
                counts.features.push((row.text("name")?, quantity));
            }
            "feature" => counts.rest.feature_events += quantity,
            _ => {
                types.insert(row.text("name")?, quantity);
            }
        }
    }
    let first = FIRST_TYPES.map(|name| (name.to_owned(), types.remove(name).unwrap_or(0)));
    counts.event_types = first.into_iter().chain(types).collect();
    Ok(counts)
}

/// The event types that a result always has, in their order.
const FIRST_TYPES: [&str; 3] = ["page_view", "action", "conversion"];

/// Names of the periods of a window, and whether each is cut.
fn periods(grain: Grain, window: &Window, now: DateTime<Utc>) -> (Vec<String>, Vec<bool>) {
    let periods = window.periods(grain);
    let names = periods.iter().map(|period| period.first_day.to_string());
    let cut = periods.iter().map(|period| window.cuts(period, now));
    (names.collect(), cut.collect())
}

fn active_users(
    metric: &ActiveUsers,
    window: &Window,
    now: DateTime<Utc>,
    rows: &Rows,
) -> Result<Answer> {
    let (names, partial) = periods(metric.grain, window, now);
    let table = Table::default();
    if metric.grain != Grain::Day {
        let mut users = vec![0; names.len()];
        for row in rows.iter() {
            set(&mut users, row.place("period_num")?, row.count("users")?);
        }
        let table = table.with("period", names).with("users", users);
        return Ok(table.with("partial", partial).into());
    }
    let (mut dau, mut wau, mut mau) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows.iter() {
        dau.push(row.count("dau")?);
        wau.push(row.count("wau")?);
        mau.push(row.count("mau")?);
    }
    if dau.len() != names.len() {
        let found = dau.len();
        let message = format!(
            "the result has {found} days; the window has {}",
            names.len()
        );
        return Err(Error::Query(message.into()));
    }
    let stickiness: Vec<f64> = dau
        .iter()
        .zip(&mau)
        .map(|(&dau, &mau)| share(dau, mau))
        .collect();
    let table = table
        .with("period", names)
        .with("dau", dau)
        .with("wau", wau);
    let table = table.with("mau", mau).with("stickiness", stickiness);
    Ok(table.with("partial", partial).into())
}

fn event_types(rows: &Rows) -> Result<Answer> {
    let mut found: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for row in rows.iter() {
        let counts = (row.count("occurrences")?, row.count("users")?);
        found.insert(row.text("event_type")?, counts);
    }
    let first = FIRST_TYPES.map(|name| (name.to_owned(), found.remove(name).unwrap_or_default()));
    let (mut names, mut events, mut users) = (Vec::new(), Vec::new(), Vec::new());
    for (name, (of_type, by)) in first.into_iter().chain(found) {
        names.push(name);
        events.push(of_type);
        users.push(by);
    }
    let table = Table::default().with("event_type", names);
    Ok(table.with("events", events).with("users", users).into())
}

fn lifecycle(grain: Grain, window: &Window, now: DateTime<Utc>, rows: &Rows) -> Result<Answer> {
    let (names, partial) = periods(grain, window, now);
    let mut counts = [const { Vec::<u64>::new() }; 3].map(|_| vec![0; names.len()]);
    let mut dormant = vec![0_i64; names.len()];
    for row in rows.iter() {
        let place = row.place("period_num")?;
        let columns = ["new_count", "returning_count", "resurrecting_count"];
        for (counts, name) in counts.iter_mut().zip(columns) {
            set(counts, place, row.count(name)?);
        }
        set(&mut dormant, place, row.integer("dormant_count")?);
    }
    let [new, returning, resurrecting] = counts;
    let table = Table::default().with("period", names).with("new", new);
    let table = table
        .with("returning", returning)
        .with("resurrecting", resurrecting);
    Ok(table
        .with("dormant", dormant)
        .with("partial", partial)
        .into())
}

fn stickiness(grain: Grain, window: &Window, now: DateTime<Utc>, rows: &Rows) -> Result<Answer> {
    let mut users = vec![0_u64; window.periods(grain).len()];
    for row in rows.iter() {
        let place = usize::try_from(row.count("active_periods")?).ok();
        set(
            &mut users,
            place.and_then(|place| place.checked_sub(1)),
            row.count("users")?,
        );
    }
    let mut cumulative: Vec<u64> = users
        .iter()
        .rev()
        .scan(0, |sum, users| {
            *sum += users;
            Some(*sum)
        })
        .collect();
    cumulative.reverse();
    let table = Table::default()
        .with("periods", (1..).take(users.len()).collect::<Vec<u64>>())
        .with("users", users)
        .with("cumulative", cumulative);
    let cut = window.cut_periods(grain, now);
    Ok(Answer::from(table).with_note("partial_periods", json!(cut)))
}

/// Sums of durations: their number, their sum in µs, twice the median and ten times the p90.
#[derive(Debug, Clone, Copy, Default)]
struct Durations {
    count: u64,
    sum_us: i64,
    median_2us: i64,
    p90_10us: i64,
}

impl Durations {
    fn of(row: &Row<'_>, count: u64) -> Result<Self> {
        Ok(Self {
            count,
            sum_us: row.integer("sum_us")?,
            median_2us: row.integer("median_2us")?,
            p90_10us: row.integer("p90_10us")?,
        })
    }

    /// Mean, median and 90th percentile in seconds.
    fn seconds(self) -> [Option<f64>; 3] {
        let count = self.count as f64;
        [
            self.sum_us as f64 / count / 1e6,
            self.median_2us as f64 / 2.0 / 1e6,
            self.p90_10us as f64 / 10.0 / 1e6,
        ]
        .map(|seconds| (self.count > 0).then_some(seconds))
    }
}

/// Events and users of features by groups, in the order of the features and of their events.
fn features_by_group(rows: &Rows) -> Result<Answer> {
    let mut found = Vec::new();
    for row in rows.iter() {
        let group = match row.text("kind")?.as_str() {
            "missing" => None,
            _ => Some(row.text("group_name")?),
        };
        let place = row.count("place")?;
        let counts = (row.count("uses")?, row.count("users")?);
        found.push((place, group, row.text("feature")?, counts));
    }
    found.sort_by(|(a, group, _, many), (b, other, _, more)| {
        (a, more.0, group).cmp(&(b, many.0, other))
    });
    let (mut features, mut groups) = (Vec::new(), Vec::new());
    let (mut events, mut users) = (Vec::new(), Vec::new());
    for (_, group, feature, (uses, by)) in found {
        features.push(feature);
        groups.push(group);
        events.push(uses);
        users.push(by);
    }
    let table = Table::default()
        .with("feature", features)
        .with("breakdown", groups);
    Ok(table.with("events", events).with("users", users).into())
}

fn sessions(timeline: &Timeline, metric: &Sessions, rows: &Rows) -> Result<Answer> {
    type OfPeriod = (u64, u64, u64, Durations);
    /// Kind, name, periods and total of a group.
    type OfGroup = (Option<String>, Option<String>, Vec<OfPeriod>, OfPeriod);
    let hours = hours(timeline, metric.grain, |slot| Some(slot.us.start));
    let periods = timeline.slots.len();
    let mut groups: BTreeMap<i64, OfGroup> = BTreeMap::new();
    let new = || {
        (
            None,
            None,
            vec![OfPeriod::default(); periods],
            OfPeriod::default(),
        )
    };
    if metric.breakdown.is_none() {
        groups.insert(0, new());
    }
    for row in rows.iter() {
        let number = row.integer("first_period")?;
        let place = (number - NAMES).div_euclid(GROUP_STEP);
        let period = number - place * GROUP_STEP;
        if period == NAMES {
            let group = groups.entry(place).or_insert_with(new);
            group.0 = Some(row.text("kind")?);
            group.1 = Some(row.text("group_name")?).filter(|_| group.0.as_deref() == Some("value"));
            continue;
        }
        let count = row.count("session_count")?;
        if count == 0 {
            continue;
        }
        let cell = (
            row.count("users")?,
            row.count("visit_count")?,
            row.count("bounce_count")?,
            Durations::of(&row, count)?,
        );
        let group = groups.entry(place).or_insert_with(new);
        match row.place_in(period, hours.as_deref())? {
            None => group.3 = cell,
            place => set(&mut group.2, place, cell),
        }
    }
    let columns = |table: Table, cells: &[OfPeriod]| {
        let column = |of: &dyn Fn(&OfPeriod) -> u64| cells.iter().map(of).collect::<Vec<u64>>();
        let times = |place: usize| -> Vec<Option<f64>> {
            let seconds = cells.iter().map(|(.., durations)| durations.seconds());
            seconds
                .map(|seconds| seconds.get(place).copied().flatten())
                .collect()
        };
        table
            .with("sessions", column(&|cell| cell.3.count))
            .with("users", column(&|cell| cell.0))
            .with("events", column(&|cell| cell.1))
            .with("bounces", column(&|cell| cell.2))
            .with_in("seconds", "mean", times(0))
            .with_in("seconds", "median", times(1))
            .with_in("seconds", "p90", times(2))
    };
    let slots = || {
        groups
            .values()
            .flat_map(|group| timeline.slots.iter().map(move |slot| (group, slot)))
    };
    let names: Vec<String> = slots().map(|(_, slot)| slot.name.clone()).collect();
    let partial: Vec<bool> = slots().map(|(_, slot)| slot.is_partial).collect();
    let values: Vec<Option<String>> = slots().map(|(group, _)| group.1.clone()).collect();
    let kinds: Vec<Option<String>> = slots().map(|(group, _)| group.0.clone()).collect();
    let cells: Vec<OfPeriod> = groups.values().flat_map(|group| group.2.clone()).collect();
    let table = Table::default().with("period", names);
    let table = table.with("breakdown", values).with("kind", kinds);
    let table = columns(table, &cells).with("partial", partial);
    let values: Vec<Option<String>> = groups.values().map(|group| group.1.clone()).collect();
    let kinds: Vec<Option<String>> = groups.values().map(|group| group.0.clone()).collect();
    let totals: Vec<OfPeriod> = groups.values().map(|group| group.3).collect();
    let of_window = Table::default()
        .with("breakdown", values)
        .with("kind", kinds);
    let of_window = columns(of_window, &totals);
    Ok(Answer::from(table).with_note("totals", json!(of_window)))
}

/// The period of a row that has the name of a group.
const NAMES: i64 = -2 * STEP;

fn funnel(metric: &Funnel, rows: &Rows) -> Result<Answer> {
    /// Name, and the times since the first step and since the previous one.
    type OfGroup = (Option<String>, [Vec<Durations>; 2]);
    let steps = metric.steps.len();
    let new = || -> OfGroup {
        (
            None,
            [
                vec![Durations::default(); steps],
                vec![Durations::default(); steps],
            ],
        )
    };
    let mut groups: BTreeMap<i64, OfGroup> = BTreeMap::new();
    if metric.breakdown.is_none() {
        groups.insert(0, new());
    }
    for row in rows.iter() {
        let number = row.integer("step")?;
        if number < 0 {
            return Err(not_portable(&format!(
                "steps of which one event meets several, while a user has another event at the same time: {} such events",
                row.count("users")?
            )));
        }
        let (place, step) = (number.div_euclid(STEP_GROUP), number.rem_euclid(STEP_GROUP));
        let (name, [first, previous]) = groups.entry(place).or_insert_with(new);
        let Some(step) = usize::try_from(step)
            .ok()
            .and_then(|step| step.checked_sub(1))
        else {
            let is_missing = row.text("kind")? == "missing";
            *name = Some(row.text("group_name")?).filter(|_| !is_missing);
            continue;
        };
        let of_step = Durations::of(&row, row.count("users")?)?;
        let since = match row.text("since")?.as_str() {
            "first" => first,
            _ => previous,
        };
        set(since, Some(step), of_step);
    }
    let mut columns = FunnelColumns::default();
    for (name, times) in groups.into_values() {
        columns.add(name, times);
    }
    Ok(columns.table(metric.breakdown.is_some()).into())
}

/// The columns of a funnel: a row for each step of each group.
#[derive(Default)]
struct FunnelColumns {
    names: Vec<Option<String>>,
    steps: Vec<u64>,
    users: Vec<u64>,
    from_first: Vec<f64>,
    from_previous: Vec<f64>,
    lost: Vec<u64>,
    /// Mean, median and p90 since the first step and since the previous one.
    seconds: [Vec<[Option<f64>; 3]>; 2],
}

impl FunnelColumns {
    fn add(&mut self, name: Option<String>, times: [Vec<Durations>; 2]) {
        let [first, _] = &times;
        let all = first.first().map_or(0, |of_step| of_step.count);
        let mut before = all;
        for (step, of_step) in (1..).zip(first) {
            let users = of_step.count;
            self.names.push(name.clone());
            self.steps.push(step);
            self.users.push(users);
            self.from_first.push(share(users, all));
            self.from_previous.push(share(users, before));
            self.lost.push(before.saturating_sub(users));
            before = users;
        }
        for (seconds, times) in self.seconds.iter_mut().zip(&times) {
            // The first step takes no time.
            seconds.extend(times.iter().enumerate().map(|(step, times)| match step {
                0 => [None; 3],
                _ => times.seconds(),
            }));
        }
    }

    fn table(self, has_groups: bool) -> Table {
        let table = match has_groups {
            true => Table::default().with("breakdown", self.names),
            false => Table::default(),
        };
        let mut table = table
            .with("step", self.steps)
            .with("users", self.users)
            .with("conversion_from_first", self.from_first)
            .with("conversion_from_previous", self.from_previous)
            .with("drop_off", self.lost);
        let names = ["seconds_from_first", "seconds_from_previous"];
        for (group, times) in names.into_iter().zip(&self.seconds) {
            for (place, name) in ["mean", "median", "p90"].into_iter().enumerate() {
                let column = times
                    .iter()
                    .map(|times| times.get(place).copied().flatten());
                table = table.with_in(group, name, column.collect::<Vec<_>>());
            }
        }
        table
    }
}

fn retention(
    metric: &Retention,
    window: &Window,
    now: DateTime<Utc>,
    rows: &Rows,
) -> Result<Answer> {
    let periods = window.periods(metric.grain).len();
    let mut counts = vec![vec![0_u64; periods]; periods];
    for row in rows.iter() {
        let (cohort, back) = (row.place("cohort_num")?, row.place("return_num")?);
        if let Some(of_cohort) = cohort.and_then(|cohort| counts.get_mut(cohort)) {
            set(of_cohort, back, row.count("users")?);
        }
    }
    if metric.returning == Returning::OnOrAfter {
        for (cohort, of_cohort) in counts.iter_mut().enumerate() {
            let mut later = 0;
            for users in of_cohort.iter_mut().skip(cohort + 1).rev() {
                later += *users;
                *users = later;
            }
        }
    }
    let table = metric.table_of(window, now, &|cohort, back| {
        let users = counts.get(cohort).and_then(|of_cohort| of_cohort.get(back));
        Ok(users.copied().unwrap_or(0))
    });
    Ok(table?.into())
}

fn paths(metric: &Paths, rows: &Rows) -> Result<Answer> {
    let (mut steps, mut from, mut to, mut users) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut complete = Vec::new();
    for row in rows.iter() {
        if row.text("kind")? == "step" {
            steps.push(row.count("step")?);
            from.push(row.text("from_feature")?);
            to.push(row.text("to_feature")?);
            users.push(row.count("users")?);
            continue;
        }
        let stops = (1..=metric.depth).map(|step| row.text(&format!("stop_{step}")));
        let mut stops = stops.collect::<Result<Vec<String>>>()?;
        stops.retain(|stop| !stop.is_empty());
        complete.push(json!({"path": stops, "users": row.count("users")?}));
    }
    let table = Table::default().with("step", steps).with("from", from);
    let table = table.with("to", to).with("users", users);
    Ok(Answer::from(table).with_note("paths", json!(complete)))
}

fn experiment(metric: &Experiment, rows: &Rows) -> Result<Answer> {
    let mut multiple = 0;
    let mut arms = Vec::new();
    for row in rows.iter() {
        let exposed = row.count("exposed")?;
        if row.text("kind")? == "multiple" {
            multiple = exposed;
            continue;
        }
        arms.push(Arm {
            variant: row.text("arm_name")?,
            exposed,
            converted: row.count("converted")?,
        });
    }
    Ok(metric.table(arms, multiple).into())
}

fn events(metric: &Events, rows: &Rows) -> Result<Answer> {
    let mut columns = EventColumns::default();
    // Events with the time and user of the last one, and how many of them are in the page.
    let mut last: Option<(i64, Option<String>, u64, u64)> = None;
    for row in rows.iter() {
        let (ts_us, user) = (row.integer("ts_us")?, row.string("user_id")?);
        let shown = match &last {
            Some((ts, holder, _, shown)) if *ts == ts_us && *holder == user => shown + 1,
            _ => 1,
        };
        last = Some((ts_us, user.clone(), row.count("of_key")?, shown));
        let received_at_us = match row.cell("received_us")? {
            Cell::Null => None,
            _ => Some(row.integer("received_us")?),
        };
        let mut strings = STRINGS.map(|_| None);
        for (string, name) in strings.iter_mut().zip(STRINGS) {
            *string = row.string(name)?;
        }
        columns.push(ts_us, user, received_at_us, strings);
    }
    let next = last.filter(|_| columns.is_full(metric.limit));
    let next = next.map(|(ts_us, user, of_key, shown)| {
        Cursor::new(ts_us, user, of_key.saturating_sub(shown)).to_string()
    });
    Ok(Answer::from(columns.table()).with_note("next", json!(next)))
}

/// The starts of the hours of a timeline, or of those that they are compared with; none of other
/// periods.
fn hours(
    timeline: &Timeline,
    grain: TrendGrain,
    start: impl Fn(&Slot) -> Option<i64>,
) -> Option<Vec<i64>> {
    let slots = timeline.slots.iter();
    (grain == TrendGrain::Hour).then(|| slots.filter_map(start).collect())
}

/// The place of counts of trends: series, group, period (none for the whole window), and whether it
/// is of the earlier window.
type Place = (usize, i64, Option<usize>, bool);

fn trends(
    metric: &Trends,
    window: &Window,
    now: DateTime<Utc>,
    known_from: Option<NaiveDate>,
    rows: &Rows,
) -> Result<Answer> {
    let timeline = Timeline::new(window, metric.grain, metric.compare, metric.rolling, now);
    let of_window = hours(&timeline, metric.grain, |slot| Some(slot.us.start));
    let of_earlier = hours(&timeline, metric.grain, |slot| {
        slot.previous.as_ref().map(|previous| previous.us.start)
    });
    let mut groups: BTreeMap<i64, (String, String)> = BTreeMap::new();
    let mut counts: HashMap<Place, (u64, u64)> = HashMap::new();
    if metric.breakdown.is_none() {
        groups.insert(0, ("all".into(), String::new()));
    }
    for row in rows.iter() {
        let place = row.integer("group_place")?;
        groups.insert(place, (row.text("kind")?, row.text("group_name")?));
        if let Ok(series) = usize::try_from(row.integer("series")?) {
            let is_earlier = row.integer("is_earlier")? == 1;
            let hours = if is_earlier { &of_earlier } else { &of_window };
            let number = row.integer("period_num")?;
            let period = match row.place_in(number, hours.as_deref()) {
                // The earlier window has more hours where its days are longer.
                Err(_) if is_earlier => continue,
                period => period?,
            };
            let key = (series, place, period, is_earlier);
            counts.insert(key, (row.count("occurrences")?, row.count("users")?));
        }
    }
    let places: Vec<i64> = groups.keys().copied().collect();
    let value = |series: usize, group: usize, period: Option<usize>, is_earlier: bool| {
        let place = places.get(group)?;
        let (events, users) = counts
            .get(&(series, *place, period, is_earlier))
            .copied()
            .unwrap_or_default();
        match metric.series.get(series)?.measure {
            Measured::Users => Some(users as f64),
            Measured::EventsPerUser => (users > 0).then(|| events as f64 / users as f64),
            _ => Some(events as f64),
        }
    };
    metric.answer_of(&timeline, groups.into_values(), known_from, &value)
}

fn set<T>(list: &mut [T], place: Option<usize>, value: T) {
    if let Some(slot) = place.and_then(|place| list.get_mut(place)) {
        *slot = value;
    }
}

fn share(part: u64, all: u64) -> f64 {
    match all {
        0 => 0.0,
        all => part as f64 / all as f64,
    }
}
