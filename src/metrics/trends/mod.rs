//! Trends: a measure of the events of each of several series, by period.
//!
//! - A series is a filter and a measure: `events`, `users` (distinct), `events_per_user`;
//!   `sessions` of the events that meet the filter, each in the period and the group of its first
//!   event; and of a number in the metadata `sum`, `mean`, `min`, `max`, `median`, `p90`, `p95`
//!   and `p99` (interpolated). Empty periods are 0 for counts and sums and null for the others. A
//!   number is a JSON number, also within a string; other values are left out.
//! - A period is an hour, a day, an ISO week or a calendar month of the zone. Totals are those of
//!   the window, and never added up from periods.
//! - `breakdown` has the groups with the greatest total of the first series, then of the second
//!   and so on, ties by value; then the events without a value, and the rest.
//! - `compare` has the value of an earlier period, and of a running one only the same hours;
//!   `rolling` counts the N periods that end with each; `formula` combines series.
//!
//! Anonymous events count as events and never as users. Late events count when they happened.
//! Duplicates are not read. Definitions: `docs/metrics.md`, "Trends".

mod cell;
mod formula;
mod scan;
mod sessions;
pub mod timeline;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::filter::{Filter, Property};
use super::source::{CancelChecks, Kept, Source};
use super::table::Table;
use super::{Answer, Measure, check_limit, top};
use crate::error::{Error, ErrorCode, Result};
use crate::window::{Compare, Grain};
use cell::{Cell, empty_value};
use formula::{Formula, letter};
use scan::{Cells, Groups, Reading};
use timeline::Timeline;

/// Most series of a query.
const MAX_SERIES: usize = 10;
/// Most groups of a breakdown that have rows of their own.
const MAX_LIMIT: usize = 100;
/// Most periods that are counted together.
const MAX_ROLLING: usize = 90;
/// Most rows of a result: some 50 MB of JSON.
const MAX_ROWS: usize = 250_000;
/// The longest name of a series, in characters.
const MAX_NAME_CHARS: usize = 200;

/// The parameters.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Trends {
    /// The series, `A`, `B` and so on: 1 to 10; events without a filter if absent.
    #[schema(default = json!([{}]), min_items = 1, max_items = 10)]
    pub series: Vec<Series>,
    /// Length of a period.
    pub grain: TrendGrain,
    /// The property that the events are split by.
    #[schema(default = json!(null))]
    pub breakdown: Option<Property>,
    /// Most groups of the breakdown that have rows of their own.
    #[schema(minimum = 1, maximum = 100)]
    pub limit: usize,
    /// The earlier window whose values are in the rows as well.
    #[schema(default = json!(null))]
    pub compare: Option<Compare>,
    /// Number of periods that are counted together, those that end with each.
    #[schema(minimum = 1, maximum = 90)]
    pub rolling: usize,
    /// A formula of letters of series, numbers, `+ - * /` and parentheses, such as `B/A`.
    #[schema(value_type = Option<String>, default = json!(null))]
    pub formula: Option<Formula>,
}

/// A filter and what is measured of the events that meet it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = TrendSeries)]
pub struct Series {
    /// Conditions that events meet, in addition to the filter of the query.
    #[schema(default = json!({}))]
    pub filter: Filter,
    /// The measure.
    pub measure: Measured,
    /// The number that is measured, `metadata.<path>`, for the measures of numbers.
    #[schema(default = json!(null))]
    pub of: Option<Property>,
    /// A name, which the response repeats.
    #[schema(default = json!(null), max_length = 200)]
    pub name: Option<String>,
}

/// The measure of a series.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Measured {
    /// Events.
    #[default]
    Events,
    /// Distinct known users.
    Users,
    /// Events divided by users.
    EventsPerUser,
    /// Sessions that began, of known users.
    Sessions,
    /// The sum of a number.
    Sum,
    /// Its mean over the events that have it.
    Mean,
    /// Its least value.
    Min,
    /// Its greatest value.
    Max,
    /// Its median.
    Median,
    /// Its 90th percentile.
    P90,
    /// Its 95th percentile.
    P95,
    /// Its 99th percentile.
    P99,
}

/// The length of a period of trends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TrendGrain {
    /// An hour of the zone.
    Hour,
    /// A calendar day.
    #[default]
    Day,
    /// An ISO week, from Monday.
    Week,
    /// A calendar month.
    Month,
}

impl TrendGrain {
    /// The calendar period; none for hours.
    pub fn calendar(self) -> Option<Grain> {
        match self {
            Self::Hour => None,
            Self::Day => Some(Grain::Day),
            Self::Week => Some(Grain::Week),
            Self::Month => Some(Grain::Month),
        }
    }
}

impl From<Grain> for TrendGrain {
    fn from(grain: Grain) -> Self {
        match grain {
            Grain::Day => Self::Day,
            Grain::Week => Self::Week,
            Grain::Month => Self::Month,
        }
    }
}

impl Measured {
    fn is_of_a_number(self) -> bool {
        !matches!(
            self,
            Self::Events | Self::Users | Self::EventsPerUser | Self::Sessions
        )
    }

    fn needs_users(self) -> bool {
        matches!(self, Self::Users | Self::EventsPerUser)
    }

    /// The share of numbers that a quantile has below it.
    fn quantile(self) -> Option<f64> {
        match self {
            Self::Median => Some(0.5),
            Self::P90 => Some(0.9),
            Self::P95 => Some(0.95),
            Self::P99 => Some(0.99),
            _ => None,
        }
    }
}

impl Default for Trends {
    fn default() -> Self {
        Self {
            series: vec![Series::default()],
            grain: TrendGrain::default(),
            breakdown: None,
            limit: 10,
            compare: None,
            rolling: 1,
            formula: None,
        }
    }
}

impl Measure for Trends {
    fn check(&self) -> Result<(), String> {
        let count = self.series.len();
        if !(1..=MAX_SERIES).contains(&count) {
            return Err(format!(
                "series has {count} items; allowed are 1 to {MAX_SERIES}"
            ));
        }
        for (at, series) in self.series.iter().enumerate() {
            series
                .check()
                .map_err(|message| format!("series[{at}].{message}"))?;
        }
        check_limit(self.limit, MAX_LIMIT)?;
        if !(1..=MAX_ROLLING).contains(&self.rolling) {
            let rolling = self.rolling;
            return Err(format!(
                "rolling is {rolling}; allowed is 1 to {MAX_ROLLING}"
            ));
        }
        let last = self.formula.as_ref().and_then(Formula::last_series);
        match last.filter(|last| *last >= count) {
            None => Ok(()),
            Some(last) => Err(format!(
                "formula: {} is not a series; allowed are A to {}",
                letter(last),
                letter(count - 1)
            )),
        }
    }

    fn filters_mut(&mut self) -> Vec<&mut Filter> {
        self.series
            .iter_mut()
            .map(|series| &mut series.filter)
            .collect()
    }

    fn days_before(&self) -> u16 {
        let periods = self.rolling.saturating_sub(1);
        let days = match self.grain {
            TrendGrain::Hour => periods.div_ceil(24),
            TrendGrain::Day => periods,
            TrendGrain::Week => 7 * periods,
            TrendGrain::Month => 31 * periods,
        };
        // The day before shows which sessions began before.
        let is_of_sessions = |series: &Series| series.measure == Measured::Sessions;
        let days = days + usize::from(self.series.iter().any(is_of_sessions));
        u16::try_from(days).unwrap_or(u16::MAX)
    }

    fn run(&self, source: &dyn Source, now: DateTime<Utc>) -> Result<Answer> {
        let window = source.window();
        let timeline = Timeline::new(window, self.grain, self.compare, self.rolling, now);
        let series = self.series.len() + usize::from(self.formula.is_some());
        let groups = self.breakdown.as_ref().map_or(1, |_| self.limit + 2);
        let rows = timeline.slots.len() * series * groups;
        check_rows(rows)?;
        let query = Run {
            trends: self,
            source,
            timeline: &timeline,
        };
        let counted = query.count()?;
        query.answer(&counted)
    }
}

/// Checks that a result is not too long.
///
/// # Errors
/// `bad_query` with what is allowed.
pub fn check_rows(rows: usize) -> Result<()> {
    if rows <= MAX_ROWS {
        return Ok(());
    }
    Err(Error::bad_input(
        ErrorCode::BadQuery,
        format!(
            "the result may have {rows} rows; allowed are {MAX_ROWS}: ask for a shorter window, longer periods, or fewer \
             series or groups"
        ),
    ))
}

impl Series {
    fn check(&self) -> Result<(), String> {
        match (&self.of, self.measure.is_of_a_number()) {
            (None, true) => return Err("of is absent; allowed is metadata.<path>".into()),
            (Some(of), true) if !matches!(of, Property::Metadata(_)) => {
                let name = of.column_name();
                return Err(format!("of is {name}; allowed is metadata.<path>"));
            }
            (Some(of), false) => {
                return Err(format!(
                    "of is {}; it is only allowed for measures of numbers",
                    of.column_name()
                ));
            }
            _ => {}
        }
        let chars = self.name.as_ref().map_or(0, |name| name.chars().count());
        if chars > MAX_NAME_CHARS {
            return Err(format!(
                "name has {chars} characters; allowed are {MAX_NAME_CHARS}"
            ));
        }
        Ok(())
    }
}

/// A query that runs.
struct Run<'a> {
    trends: &'a Trends,
    source: &'a dyn Source,
    timeline: &'a Timeline,
}

/// The group of a row.
#[derive(Debug, Clone, PartialEq)]
enum Group {
    /// All events, without a breakdown.
    All,
    /// Those with this value.
    Value(String),
    /// Those without a value.
    Missing,
    /// Those of all other values.
    Rest,
}

impl Group {
    fn value(&self) -> Option<&str> {
        match self {
            Self::Value(value) => Some(value),
            _ => None,
        }
    }

    fn kind(&self) -> Option<&'static str> {
        match self {
            Self::All => None,
            Self::Value(_) => Some("value"),
            Self::Missing => Some("missing"),
            Self::Rest => Some("rest"),
        }
    }
}

/// The counts of a query.
struct Counted {
    /// The groups that have rows, in their order.
    groups: Vec<Group>,
    /// For each series, by index of the group and piece.
    of_series: Vec<HashMap<(u32, u32), Cell>>,
    /// True for each series that was counted from states.
    from_states: Vec<bool>,
}

impl Run<'_> {
    fn count(&self) -> Result<Counted> {
        let series: Vec<(usize, &Series)> = self.trends.series.iter().enumerate().collect();
        let reading = Reading {
            source: self.source,
            series: &series,
            breakdown: self.trends.breakdown.as_ref(),
            bounds: &self.timeline.bounds,
            wanted: &self.timeline.wanted,
        };
        let mut from_states = vec![true; series.len()];
        if self.trends.breakdown.is_some() {
            return self.count_groups(&reading, from_states);
        }
        let mut cells = Cells::new(series.len());
        reading.run(Groups::All, &mut from_states, &mut cells)?;
        Ok(Counted {
            groups: vec![Group::All],
            of_series: cells.of_series,
            from_states,
        })
    }

    /// Counts groups: in one scan if these are few, else the greatest ones in a second scan.
    fn count_groups(&self, reading: &Reading<'_>, mut from_states: Vec<bool>) -> Result<Counted> {
        let series = self.trends.series.len();
        let mut cells = Cells::new(series);
        if reading.run(Groups::Few, &mut from_states, &mut cells)? {
            let pieces = self.timeline.pieces(&self.timeline.total_us);
            let greatest = self.greatest(&cells, &pieces)?;
            return self.merge_groups(cells, &greatest, from_states);
        }
        drop(cells);
        let total = &self.timeline.total_us;
        let of_window = Reading {
            bounds: &[total.start, total.end],
            wanted: &[true],
            ..*reading
        };
        let mut cells = Cells::new(series);
        of_window.run(Groups::All, &mut from_states, &mut cells)?;
        let greatest = self.greatest(&cells, &(0..1))?;
        drop(cells);
        let mut cells = Cells::new(series);
        reading.run(Groups::Only(&greatest), &mut from_states, &mut cells)?;
        // The codes of `Groups::Only`.
        cells.groups.code(None);
        for value in &greatest {
            cells.groups.code(Some(value));
        }
        self.merge_groups(cells, &greatest, from_states)
    }

    /// The values of the groups with the greatest totals over some pieces.
    fn greatest(&self, cells: &Cells, pieces: &Range<usize>) -> Result<Vec<String>> {
        let mut checks = CancelChecks::new(self.source);
        let mut charge = self.source.budget().charge();
        let mut totals: Vec<Vec<Option<f64>>> = vec![Vec::new(); cells.groups.len()];
        let series = self.trends.series.iter();
        let empty: Vec<Option<f64>> = series.map(|series| empty_value(series.measure)).collect();
        for (at, (of_series, series)) in cells.of_series.iter().zip(&self.trends.series).enumerate()
        {
            let mut of_group: HashMap<u32, Cell> = HashMap::new();
            for ((group, piece), cell) in of_series {
                checks.step()?;
                if !pieces.contains(&(*piece as usize)) {
                    continue;
                }
                if pieces.len() == 1 {
                    set(&mut totals, *group, &empty, at, cell.value(series.measure));
                    continue;
                }
                match of_group.get_mut(group) {
                    Some(sum) => sum.merge(cell),
                    None => {
                        of_group.insert(*group, cell.clone());
                    }
                }
            }
            charge.set(of_group.values().map(Cell::bytes).sum())?;
            for (group, cell) in of_group {
                checks.step()?;
                set(&mut totals, group, &empty, at, cell.value(series.measure));
            }
        }
        let width =
            size_of::<Vec<Option<f64>>>() + size_of::<Option<f64>>() * cells.of_series.len();
        charge.set((totals.len() * width) as u64)?;
        let name = |group: u32| cells.groups.string(group);
        let values = (0..).zip(&totals);
        let values = values.filter(|(group, of)| !of.is_empty() && name(*group).is_some());
        let order = |(a, of_a): &(u32, &Vec<Option<f64>>), (b, of_b): &(u32, &Vec<Option<f64>>)| {
            let mut orders = of_a
                .iter()
                .zip(of_b.iter())
                .map(|(a, b)| greater_first(*a, *b));
            let unequal = orders.find(|order| order.is_ne());
            unequal.unwrap_or_else(|| name(*a).cmp(&name(*b)))
        };
        let greatest = top::first_by(values, self.trends.limit, order, &mut checks)?;
        let names = greatest.into_iter().filter_map(|(group, _)| name(group));
        return Ok(names.map(str::to_owned).collect());

        fn set(
            totals: &mut [Vec<Option<f64>>],
            group: u32,
            empty: &[Option<f64>],
            series: usize,
            total: Option<f64>,
        ) {
            if let Some(totals) = totals.get_mut(group as usize) {
                if totals.is_empty() {
                    // A group without events of a series has the total of none.
                    totals.extend_from_slice(empty);
                }
                if let Some(place) = totals.get_mut(series) {
                    *place = total;
                }
            }
        }
    }

    /// Merges all groups but the greatest and the missing one into the rest.
    fn merge_groups(
        &self,
        cells: Cells,
        greatest: &[String],
        from_states: Vec<bool>,
    ) -> Result<Counted> {
        let mut checks = CancelChecks::new(self.source);
        let of_value: HashMap<&str, u32> = greatest.iter().map(String::as_str).zip(0..).collect();
        let (missing, rest) = (greatest.len() as u32, greatest.len() as u32 + 1);
        let is_known = |group: u32| (group as usize) < cells.groups.len();
        let (mut has_missing, mut has_rest) = (false, false);
        let mut all = Vec::new();
        for of_series in cells.of_series {
            let mut merged: HashMap<(u32, u32), Cell> = HashMap::new();
            for ((group, piece), cell) in of_series {
                checks.step()?;
                let group = match cells.groups.string(group) {
                    Some(value) => of_value.get(value).copied().unwrap_or(rest),
                    None if is_known(group) => missing,
                    None => rest,
                };
                has_missing |= group == missing;
                has_rest |= group == rest;
                match merged.entry((group, piece)) {
                    Entry::Occupied(mut known) => known.get_mut().merge(&cell),
                    Entry::Vacant(free) => {
                        free.insert(cell);
                    }
                }
            }
            all.push(merged);
        }
        let values = greatest.iter().cloned().map(Group::Value);
        let groups = values
            .chain(has_missing.then_some(Group::Missing))
            .chain(has_rest.then_some(Group::Rest));
        // The rest has the index of the missing where there are none.
        if !has_missing {
            for of_series in &mut all {
                let moved = of_series.extract_if(|(group, _), _| *group == rest);
                let moved: Vec<_> = moved.collect();
                of_series.extend(
                    moved
                        .into_iter()
                        .map(|((_, piece), cell)| ((missing, piece), cell)),
                );
            }
        }
        Ok(Counted {
            groups: groups.collect(),
            of_series: all,
            from_states,
        })
    }

    /// The value of a series in a span.
    fn value(&self, counted: &Counted, series: usize, group: u32, us: &Range<i64>) -> Option<f64> {
        let measure = self.trends.series.get(series)?.measure;
        let cells = counted.of_series.get(series)?;
        let mut of_pieces = self
            .timeline
            .pieces(us)
            .filter_map(|piece| cells.get(&(group, piece as u32)));
        let Some(first) = of_pieces.next() else {
            return empty_value(measure);
        };
        let Some(second) = of_pieces.next() else {
            return first.value(measure);
        };
        let mut all = first.clone();
        all.merge(second);
        of_pieces.for_each(|cell| all.merge(cell));
        all.value(measure)
    }

    /// True if the events of an earlier span are known completely.
    fn is_known(
        &self,
        counted: &Counted,
        series: usize,
        first_day: NaiveDate,
        cut_day: Option<NaiveDate>,
    ) -> bool {
        let from = self.known_from(counted, series);
        let of_events = self.source.known_from(Kept::Events);
        let is_cut_known = |day| of_events.is_some_and(|from| day >= from);
        from.is_some_and(|from| first_day >= from) && cut_day.is_none_or(is_cut_known)
    }

    fn known_from(&self, counted: &Counted, series: usize) -> Option<NaiveDate> {
        self.source
            .known_from(match counted.from_states.get(series) {
                Some(true) => Kept::States,
                _ => Kept::Events,
            })
    }

    fn answer(&self, counted: &Counted) -> Result<Answer> {
        let count = self.trends.series.len();
        let mut checks = CancelChecks::new(self.source);
        let known: Vec<Option<NaiveDate>> = (0..count)
            .map(|series| self.known_from(counted, series))
            .collect();
        let mut values: Vec<Vec<Vec<Pair>>> = Vec::new();
        let mut of_window: Vec<Vec<Pair>> = Vec::new();
        for series in 0..count {
            let mut of_series = Vec::new();
            let mut of_total = Vec::new();
            for group in 0..counted.groups.len() as u32 {
                let mut of_group = Vec::with_capacity(self.timeline.slots.len());
                for slot in &self.timeline.slots {
                    self.source.check_cancelled()?;
                    let previous = slot.previous.as_ref().filter(|previous| {
                        self.is_known(counted, series, previous.first_day, previous.cut_day)
                    });
                    of_group.push([
                        self.value(counted, series, group, &slot.us),
                        previous
                            .and_then(|previous| self.value(counted, series, group, &previous.us)),
                    ]);
                }
                let compared = self.timeline.compared.as_ref();
                let compared =
                    compared.filter(|span| self.is_known(counted, series, span.from, span.cut_day));
                of_total.push([
                    self.value(counted, series, group, &self.timeline.total_us),
                    compared.and_then(|span| self.value(counted, series, group, &span.us)),
                ]);
                of_series.push(of_group);
            }
            values.push(of_series);
            of_window.push(of_total);
        }
        let values = Presented {
            groups: &counted.groups,
            values,
            of_window,
        };
        let mut answer = self
            .trends
            .present(self.timeline, &values, &mut || checks.step())?;
        if let Some(compared) = &self.timeline.compared {
            // Without events nothing is known.
            let known_from = known.into_iter().collect::<Option<Vec<_>>>();
            let known_from = known_from.and_then(|days| days.into_iter().max());
            answer = answer.with_note("compared", compared.note(known_from));
        }
        Ok(answer)
    }
}

/// The value of a series in a span, and in the span that it is compared with.
type Pair = [Option<f64>; 2];

/// The values of all series but the formula.
struct Presented<'a> {
    groups: &'a [Group],
    /// By series, group and period.
    values: Vec<Vec<Vec<Pair>>>,
    /// Of the window, by series and group.
    of_window: Vec<Vec<Pair>>,
}

impl Trends {
    /// The result from the values of each series, group and period, or of the window where there is
    /// no period; with true of the earlier window. Groups are a kind, `all` without a breakdown,
    /// and a value. Events are known from a day on.
    ///
    /// # Errors
    /// If the result would be too long.
    pub fn answer_of(
        &self,
        timeline: &Timeline,
        groups: impl Iterator<Item = (String, String)>,
        known_from: Option<NaiveDate>,
        value: &dyn Fn(usize, usize, Option<usize>, bool) -> Option<f64>,
    ) -> Result<Answer> {
        let groups: Vec<Group> = groups
            .map(|(kind, value)| match kind.as_str() {
                "value" => Group::Value(value),
                "missing" => Group::Missing,
                "rest" => Group::Rest,
                _ => Group::All,
            })
            .collect();
        let series = self.series.len();
        check_rows(timeline.slots.len() * groups.len() * (series + 1))?;
        let is_known = |first_day: NaiveDate| known_from.is_some_and(|from| first_day >= from);
        let compared = timeline.compared.as_ref();
        let values = (0..series).map(|series| {
            let of_series = (0..groups.len()).map(|group| {
                let periods = timeline.slots.iter().enumerate();
                let pairs = periods.map(|(period, slot)| {
                    let previous = slot.previous.as_ref();
                    let previous = previous.filter(|previous| is_known(previous.first_day));
                    [
                        value(series, group, Some(period), false),
                        previous.and_then(|_| value(series, group, Some(period), true)),
                    ]
                });
                pairs.collect()
            });
            of_series.collect()
        });
        let of_window = (0..series).map(|series| {
            let of_series = (0..groups.len()).map(|group| {
                let compared = compared.filter(|compared| is_known(compared.from));
                [
                    value(series, group, None, false),
                    compared.and_then(|_| value(series, group, None, true)),
                ]
            });
            of_series.collect()
        });
        let presented = Presented {
            groups: &groups,
            values: values.collect(),
            of_window: of_window.collect(),
        };
        let answer = self.present(timeline, &presented, &mut || Ok(()))?;
        Ok(match compared {
            Some(compared) => answer.with_note("compared", compared.note(known_from)),
            None => answer,
        })
    }

    /// The rows and totals of all series, the formula after them.
    fn present(
        &self,
        timeline: &Timeline,
        presented: &Presented<'_>,
        check: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Answer> {
        let count = self.series.len();
        let has_formula = usize::from(self.formula.is_some());
        let mut rows = Rows::default();
        let mut totals = Vec::new();
        for series in 0..count + has_formula {
            let formula = self.formula.as_ref().filter(|_| series == count);
            let name = formula.map_or_else(|| letter(series).to_string(), |_| "formula".into());
            for (group, of_group) in presented.groups.iter().enumerate() {
                let pair = |of: &dyn Fn(usize) -> Option<Pair>| match formula {
                    None => of(series).unwrap_or_default(),
                    Some(formula) => [0, 1].map(|at: usize| {
                        let of_series =
                            (0..count).map(|series| of(series)?.get(at).copied().flatten());
                        formula.value(&of_series.collect::<Vec<_>>())
                    }),
                };
                for (at, slot) in timeline.slots.iter().enumerate() {
                    check()?;
                    let [value, previous] =
                        pair(&|series| presented.values.get(series)?.get(group)?.get(at).copied());
                    rows.series.push(name.clone());
                    rows.period.push(slot.name.clone());
                    rows.breakdown.push(of_group.value().map(str::to_owned));
                    rows.kind.push(of_group.kind().map(str::to_owned));
                    rows.value.push(value);
                    rows.previous.push(previous);
                    rows.previous_period
                        .push(slot.previous.as_ref().map(|slot| slot.name.clone()));
                    rows.partial.push(slot.is_partial);
                }
                let [value, previous] =
                    pair(&|series| presented.of_window.get(series)?.get(group).copied());
                totals.push(json!({
                    "series": name, "breakdown": of_group.value(), "kind": of_group.kind(),
                    "value": number(value), "previous": number(previous),
                }));
            }
        }
        let names = self.series.iter().enumerate().map(|(at, series)| {
            json!({
                "series": letter(at).to_string(), "name": series.name, "measure": series.measure,
                "of": series.of.as_ref().map(Property::column_name),
            })
        });
        Ok(Answer::from(rows.table())
            .with_note("series", names.collect())
            .with_note("totals", Value::Array(totals)))
    }
}

/// The columns of the result.
#[derive(Default)]
struct Rows {
    series: Vec<String>,
    period: Vec<String>,
    breakdown: Vec<Option<String>>,
    kind: Vec<Option<String>>,
    value: Vec<Option<f64>>,
    previous: Vec<Option<f64>>,
    previous_period: Vec<Option<String>>,
    partial: Vec<bool>,
}

impl Rows {
    fn table(self) -> Table {
        Table::default()
            .with("series", self.series)
            .with("period", self.period)
            .with("breakdown", self.breakdown)
            .with("kind", self.kind)
            .with("value", self.value)
            .with("previous", self.previous)
            .with("previous_period", self.previous_period)
            .with("partial", self.partial)
    }
}

/// JSON of a value: integers without a fraction, as in rows.
fn number(value: Option<f64>) -> Value {
    /// Below this every integer is exact as a double.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Some(value) if value.fract() == 0.0 && value.abs() < EXACT => json!(value as i64),
        value => json!(value),
    }
}

/// The order of totals, the greatest first and null last.
fn greater_first(a: Option<f64>, b: Option<f64>) -> std::cmp::Ordering {
    match (a, b) {
        (Some(a), Some(b)) => b.total_cmp(&a),
        (a, b) => b.is_some().cmp(&a.is_some()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::frame::{FrameSource, Row};

    /// Events with a plan and an amount: ann and bob on March 1st, ann on the 2nd.
    fn source() -> FrameSource {
        let rows: [(Row<'_>, &str); 8] = [
            (
                ("2024-02-28 23:00", "action", "eve", "a"),
                r#"{"plan":"pro","n":100}"#,
            ),
            (
                ("2024-03-01 10:00", "action", "ann", "a"),
                r#"{"plan":"pro","n":1}"#,
            ),
            (
                ("2024-03-01 10:30", "action", "ann", "b"),
                r#"{"plan":"pro","n":"2.0"}"#,
            ),
            (
                ("2024-03-01 11:00", "page_view", "bob", "a"),
                r#"{"plan":"free","n":"x"}"#,
            ),
            (("2024-03-01 11:00", "page_view", "", "a"), r#"{"n":4}"#),
            (
                ("2024-03-02 00:00", "page_view", "ann", "a"),
                r#"{"plan":"team","n":2}"#,
            ),
            (
                ("2024-03-02 09:00", "action", "bob", "b"),
                r#"{"plan":"pro"}"#,
            ),
            (
                ("2024-03-03 00:00", "action", "bob", "b"),
                r#"{"plan":"pro"}"#,
            ),
        ];
        FrameSource::with_metadata("2024-03-02", 2, &rows)
    }

    /// The values of the rows of a query, in their order.
    fn values(source: &mut FrameSource, query: Value) -> Vec<Value> {
        let rows = source.rows(query);
        let rows = rows.as_array().expect("rows").iter();
        rows.map(|row| row["value"].clone()).collect()
    }

    #[test]
    fn each_series_has_a_row_for_each_period_and_totals_over_the_window() {
        let mut source = source();
        source.batch_rows = 2;
        let query = json!({"metric":"trends","series":[
            {},{"measure":"users","name":"People"},{"measure":"events_per_user"},
            {"filter":{"event_type":"conversion"},"measure":"events_per_user"}]});
        let answer = source.query(query, "2038-01-01 00:00").expect("a result");
        let rows = json!(answer.rows);
        assert_eq!(
            rows[0],
            json!({"series":"A","period":"2024-03-01","breakdown":null,"kind":null,"value":4,
            "previous":null,"previous_period":null,"partial":false})
        );
        let of = |rows: &Value| -> Vec<Value> {
            let rows = rows.as_array().expect("rows").iter();
            rows.map(|row| row["value"].clone()).collect()
        };
        assert_eq!(json!(of(&rows)), json!([4, 2, 2, 2, 2, 1, null, null]));
        // Ann and bob are active on both days: two users of the window.
        assert_eq!(json!(of(&answer.notes["totals"])), json!([6, 2, 3, null]));
        assert_eq!(
            answer.notes["series"][1],
            json!({"series":"B","name":"People","measure":"users","of":null})
        );
    }

    #[test]
    fn a_breakdown_has_the_greatest_groups_then_missing_then_the_rest() {
        let mut source = source();
        let mut query = json!({"metric":"trends","breakdown":"metadata.plan","limit":1,"series":[{"measure":"users"}]});
        let groups = |source: &mut FrameSource, query: &Value| -> Value {
            let rows = source.rows(query.clone());
            let rows = rows.as_array().expect("rows").iter();
            rows.map(|row| json!([row["breakdown"], row["kind"], row["value"]]))
                .collect()
        };
        let expected = json!([
            ["pro", "value", 1],
            ["pro", "value", 1],
            [null, "missing", 0],
            [null, "missing", 0],
            [null, "rest", 1],
            [null, "rest", 1],
        ]);
        assert_eq!(groups(&mut source, &query), expected);
        query["limit"] = json!(3);
        // Ties by value.
        let expected = json!([
            ["pro", "value", 1],
            ["pro", "value", 1],
            ["free", "value", 1],
            ["free", "value", 0],
            ["team", "value", 0],
            ["team", "value", 1],
            [null, "missing", 0],
            [null, "missing", 0],
        ]);
        assert_eq!(groups(&mut source, &query), expected);
    }

    #[test]
    fn equal_groups_of_the_first_series_are_ordered_by_the_next_one() {
        let mut source = source();
        // Both features have ann and bob, and only b an event without a number.
        let query = json!({"metric":"trends","breakdown":"feature","limit":1,"grain":"month",
            "series":[{"measure":"users"},{"filter":{"metadata.n":{"exists":false}}}]});
        let rows = source.rows(query);
        assert_eq!(
            (&rows[0]["breakdown"], &rows[0]["value"]),
            (&json!("b"), &json!(2))
        );
    }

    #[test]
    fn numbers_are_those_of_json_also_within_strings() {
        let mut source = source();
        let of = |measure: &str| json!({"measure":measure,"of":"metadata.n"});
        let measures = ["sum", "mean", "min", "max", "median", "p90"];
        let series: Vec<Value> = measures.iter().map(|measure| of(measure)).collect();
        let query = json!({"metric":"trends","series":series});
        // 1, 2 and 4 on the first day, 2 on the second.
        let expected = json!([7, 2, 7.0 / 3.0, 2, 1, 2, 4, 2, 2, 2, 3.6, 2]);
        assert_eq!(json!(values(&mut source, query)), expected);
        let query = json!({"metric":"trends","series":[of("sum"), of("max")],"filter":{"event_type":"conversion"}});
        assert_eq!(json!(values(&mut source, query)), json!([0, 0, null, null]));
    }

    #[test]
    fn a_session_is_in_the_period_and_the_group_of_its_first_event() {
        let rows: [Row<'_>; 12] = [
            // A session that begins before the earlier window, and one in it.
            ("2024-02-27 23:50", "action", "ann", "home"),
            ("2024-02-28 00:10", "action", "ann", "docs"),
            ("2024-02-29 23:20", "action", "ann", "home"),
            // It goes on in the window.
            ("2024-02-29 23:50", "action", "ann", "home"),
            ("2024-03-01 00:10", "page_view", "ann", "docs"),
            // Exactly 30 minutes: one session; a minute more is another.
            ("2024-03-01 10:00", "page_view", "ann", "home"),
            ("2024-03-01 10:30", "action", "ann", "cart"),
            ("2024-03-01 11:01", "action", "ann", "docs"),
            // It begins on the first day and ends on the second.
            ("2024-03-01 23:50", "page_view", "bob", "docs"),
            ("2024-03-02 00:10", "page_view", "bob", "home"),
            ("2024-03-02 09:00", "action", "bob", ""),
            ("2024-03-02 09:00", "action", "", "home"),
        ];
        let mut source = FrameSource::new("2024-03-02", 2, &rows);
        source.batch_rows = 3;
        let mut query = json!({"metric":"trends","series":[{"measure":"sessions"},
            {"measure":"sessions","filter":{"event_type":"page_view"}},{}]});
        // Of the page views on the first day: the end of the earlier session, ann's and bob's.
        let expected = json!([3, 1, 3, 0, 5, 3]);
        assert_eq!(json!(values(&mut source, query.clone())), expected);
        query["compare"] = json!("previous");
        query["rolling"] = json!(2);
        query["formula"] = json!("C/A");
        let answer = source
            .query(query.clone(), "2038-01-01 00:00")
            .expect("a result");
        let rows = json!(answer.rows);
        let of = |at: usize| (rows[at]["value"].clone(), rows[at]["previous"].clone());
        // Two days each: February 29th and March 1st, and both days of the window. Of the earlier
        // ones, the first session is on February 27th.
        assert_eq!(of(0), (json!(4), json!(1)));
        assert_eq!(of(1), (json!(4), json!(1)));
        assert_eq!(answer.notes["totals"][0]["value"], json!(4));
        assert_eq!(answer.notes["totals"][3]["value"], json!(2));
        let mut groups = |query: &Value| -> Value {
            let rows = source.rows(query.clone());
            let rows = rows.as_array().expect("rows").iter();
            rows.map(|row| json!([row["breakdown"], row["kind"], row["value"]]))
                .collect()
        };
        let query = json!({"metric":"trends","breakdown":"feature","limit":1,"grain":"month",
            "series":[{"measure":"sessions"}]});
        // Home has one, docs has two, and bob's last session has none.
        let expected = json!([
            ["docs", "value", 2],
            [null, "missing", 1],
            [null, "rest", 1],
        ]);
        assert_eq!(groups(&query), expected);
    }

    #[test]
    fn hours_comparisons_rolling_periods_and_formulas_are_of_the_same_counts() {
        let mut source = source();
        let hours = values(&mut source, json!({"metric":"trends","grain":"hour"}));
        assert_eq!(hours.len(), 48);
        assert_eq!(
            [&hours[10], &hours[11], &hours[24], &hours[33]],
            [2, 2, 1, 1].map(|n| json!(n)).each_ref()
        );
        // Both days have ann and bob.
        let rolling = json!({"metric":"trends","rolling":2,"series":[{"measure":"users"},{}]});
        assert_eq!(json!(values(&mut source, rolling)), json!([2, 2, 4, 6]));
        let formula = json!({"metric":"trends","formula":"A/B*10","series":[{},{"filter":{"event_type":"action"}}]});
        assert_eq!(
            json!(values(&mut source, formula)),
            json!([4, 2, 2, 1, 20, 20])
        );
        let compare = json!({"metric":"trends","compare":"previous"});
        let answer = source.query(compare, "2024-03-02 08:00").expect("a result");
        let rows = json!(answer.rows);
        // The first event ever is on February 28th; until 08:00 of the 29th there is none.
        assert_eq!(rows[0]["previous"], json!(1));
        assert_eq!(rows[0]["previous_period"], json!("2024-02-28"));
        assert_eq!(
            (&rows[1]["previous"], &rows[1]["partial"]),
            (&json!(0), &json!(true))
        );
        assert_eq!(answer.notes["totals"][0]["previous"], json!(1));
        let compared = json!({"from":"2024-02-28","to":"2024-02-29","known_from":"2024-02-28"});
        assert_eq!(answer.notes["compared"], compared);
        let year = json!({"metric":"trends","compare":"year"});
        let rows = source.rows(year);
        assert_eq!(
            (&rows[0]["previous"], &rows[0]["previous_period"]),
            (&json!(null), &json!("2023-03-01"))
        );
    }

    #[test]
    fn many_groups_are_found_in_two_scans() {
        // 40,000 values of one event each on one of two days, and v7 and v8 with more.
        let strings: Vec<(String, String)> = (0..40_000)
            .chain([7, 7, 8])
            .map(|value| {
                (
                    format!("2024-03-0{} 10:00", value % 2 + 1),
                    format!("{{\"v\":\"v{value}\"}}"),
                )
            })
            .collect();
        let rows: Vec<(Row<'_>, &str)> = strings
            .iter()
            .map(|(time, metadata)| ((time.as_str(), "action", "ann", "a"), metadata.as_str()))
            .collect();
        let mut source = FrameSource::with_metadata("2024-03-02", 2, &rows);
        let query = json!({"metric":"trends","breakdown":"metadata.v","limit":2,"series":[{},{"measure":"users"}]});
        let found = values(&mut source, query);
        let expected = json!([0, 3, 2, 0, 19_999, 19_999, 0, 1, 1, 0, 1, 1]);
        assert_eq!(json!(found), expected);
    }

    #[test]
    fn wrong_parameters_name_the_field() {
        let mut source = source();
        for (query, message) in [
            (json!({"series":[]}), "series has 0 items"),
            (
                json!({"series":[{"measure":"sum"}]}),
                "series[0].of is absent",
            ),
            (
                json!({"series":[{},{"of":"metadata.n"}]}),
                "series[1].of is metadata.n",
            ),
            (
                json!({"series":[{"measure":"sum","of":"feature"}]}),
                "series[0].of is feature",
            ),
            (json!({"limit":101}), "limit is 101"),
            (json!({"rolling":0}), "rolling is 0"),
            (json!({"formula":"A/B"}), "formula: B is not a series"),
            (json!({"formula":"A/"}), "formula: the end at character 3"),
            (json!({"series":[{"measure":"avg"}]}), "series[0].measure"),
        ] {
            let mut query = query;
            query["metric"] = json!("trends");
            let error = source.query(query, "2038-01-01 00:00").expect_err(message);
            assert!(error.to_string().contains(message), "{message}: {error}");
        }
    }
}
