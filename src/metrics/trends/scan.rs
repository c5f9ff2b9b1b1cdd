//! Reads events into cells: by series, group and piece of time, from tables and from batches.
//!
//! Both become arrays of codes, one item for each event, which compiled loops count.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;

use parking_lot::Mutex;
use polars::prelude::*;

use super::cell::{Cell, Numbers};
use super::{Measured, Series, timeline};
use crate::columns::{ANONYMOUS, Rows, Table};
use crate::daily::{self, Day};
use crate::error::{Error, ErrorCode, Result};
use crate::event::number::Number;
use crate::metrics::budget::Charge;
use crate::metrics::coded::{FilterBits, column_of, for_each_table};
use crate::metrics::counts::Count;
use crate::metrics::filter::{Filter, Property};
use crate::metrics::local_dictionary::LocalDictionary;
use crate::metrics::scan::local_codes;
use crate::metrics::sharded::table_bytes;
use crate::metrics::source::{CancelChecks, Columns, Scan, Source, TableScan, TableTimes, Wanted};
use crate::schema;

/// The most cells of a scan that does not know which groups are the greatest.
pub(super) const MAX_CELLS: usize = 1 << 16;
/// Places of a group and piece that are found without a hash table: a MB.
const MAX_PLACES: usize = 1 << 18;
/// Cells that are merged before their memory is measured again, at least.
const MERGES_PER_CHARGE: usize = 4_096;

const GROUP: &str = "group";

/// The cells of a scan.
#[derive(Debug, Default)]
pub struct Cells {
    /// Values of the groups. Without breakdown the only one is null.
    pub groups: LocalDictionary,
    /// For each series, by group and piece.
    pub of_series: Vec<HashMap<(u32, u32), Cell>>,
}

/// The groups that are counted by themselves.
#[derive(Debug, Clone, Copy)]
pub enum Groups<'a> {
    /// All.
    All,
    /// All, unless they are many: then the scan ends without a result.
    Few,
    /// Null, whose code is 0, and these, from 1 on; all others have the code after them.
    Only(&'a [String]),
}

/// The input of a scan.
#[derive(Clone, Copy)]
pub struct Reading<'a> {
    /// The data of the query.
    pub source: &'a dyn Source,
    /// The series, each with its index.
    pub series: &'a [(usize, &'a Series)],
    /// The property of the groups.
    pub breakdown: Option<&'a Property>,
    /// Where the pieces begin and end.
    pub bounds: &'a [i64],
    /// The pieces that are read.
    pub wanted: &'a [bool],
}

impl Cells {
    /// Cells of some series, without events.
    pub fn new(series: usize) -> Self {
        Self {
            groups: LocalDictionary::default(),
            of_series: vec![HashMap::new(); series],
        }
    }

    /// Number of cells.
    fn len(&self) -> usize {
        self.of_series.iter().map(HashMap::len).sum()
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> u64 {
        let of_series = self.of_series.iter().map(|cells| {
            let table = table_bytes::<((u32, u32), Cell)>(cells.capacity());
            table + cells.values().map(Cell::bytes).sum::<u64>()
        });
        self.groups.bytes() + of_series.sum::<u64>()
    }
}

/// The cells with their memory.
pub(super) struct Found<'a> {
    cells: &'a mut Cells,
    /// The codes of the wanted values, if only some are.
    only: Option<HashMap<&'a str, u32>>,
    /// True if many groups end the scan.
    pub(super) is_limited: bool,
    /// True once they did.
    pub(super) is_full: bool,
    merges: usize,
    charge: Charge<'a>,
}

/// The code of the number of each event, and the number of each code.
type NumberCodes = (Vec<u32>, Vec<Option<f64>>);

/// Events as codes.
struct Events {
    /// The series that each event is in, as bits.
    met: Vec<u32>,
    /// The place of each event: its index in `keys`.
    places: Vec<u32>,
    /// The piece and the code of the group of each place.
    keys: Vec<(u32, u32)>,
    /// The user of each event; empty if no series needs users.
    users: Vec<u32>,
    /// For each series with numbers, the code of the number of each event, and the numbers, of
    /// which the one of code 0 is none.
    numbers: Vec<Option<NumberCodes>>,
}

impl Reading<'_> {
    /// Adds the events to cells: whole days of the series that are marked in `from_states` from
    /// daily states, if these know the series; otherwise its mark is removed. False if the groups
    /// are too many, for [`Groups::Few`].
    ///
    /// # Errors
    /// As [`Source::for_each_batch`]; `too_many_groups` if the cells take too much memory.
    pub fn run(
        &self,
        groups: Groups<'_>,
        from_states: &mut [bool],
        cells: &mut Cells,
    ) -> Result<bool> {
        let only = match groups {
            Groups::Only(wanted) => Some(wanted.iter().map(String::as_str).zip(1..).collect()),
            Groups::All | Groups::Few => None,
        };
        let found = Mutex::new(Found {
            cells,
            only,
            is_limited: matches!(groups, Groups::Few),
            is_full: false,
            merges: 0,
            charge: self.source.budget().charge(),
        });
        let done = self.read(from_states, &found);
        let found = found.into_inner();
        match done {
            Err(_) if found.is_full => Ok(false),
            Err(error) => Err(error),
            Ok(()) => {
                // Before the result is made of them.
                let Found {
                    cells, mut charge, ..
                } = found;
                charge.set(cells.bytes())?;
                Ok(true)
            }
        }
    }

    fn read(&self, from_states: &mut [bool], found: &Mutex<Found<'_>>) -> Result<()> {
        for (index, series) in self.series {
            if let Some(is_known) = from_states.get_mut(*index).filter(|is_tried| **is_tried) {
                *is_known = self.read_states(*index, series, &mut found.lock())?;
            }
        }
        let is_known = |index: usize| from_states.get(index) == Some(&true);
        let is_of_sessions = |series: &Series| series.measure == Measured::Sessions;
        let those = |is_one: &dyn Fn(usize, &Series) -> bool| -> Vec<(usize, &Series)> {
            let series = self.series.iter().copied();
            series
                .filter(|(index, series)| is_one(*index, series))
                .collect()
        };
        let known = those(&|index, _| is_known(index));
        let sessions = those(&|_, series| is_of_sessions(series));
        let others = those(&|index, series| !is_known(index) && !is_of_sessions(series));
        let of = |series| Reading { series, ..*self };
        if !others.is_empty() {
            of(&others).read_events(found)?;
        }
        if !known.is_empty() {
            let mut cut = self.wanted.to_vec();
            for (piece, _) in self.whole_days() {
                if let Some(is_wanted) = cut.get_mut(piece) {
                    *is_wanted = false;
                }
            }
            let of_cut_days = Reading {
                wanted: &cut,
                ..of(&known)
            };
            of_cut_days.read_events(found)?;
        }
        if !sessions.is_empty() {
            of(&sessions).read_sessions(found)?;
        }
        Ok(())
    }

    /// Adds the pieces of whole days of a series from daily states. False if these do not know it:
    /// then nothing is added.
    fn read_states(&self, index: usize, series: &Series, found: &mut Found<'_>) -> Result<bool> {
        let wanted = match series.measure {
            Measured::Events => Wanted::Events,
            Measured::Users | Measured::EventsPerUser => Wanted::Users,
            _ => return Ok(false),
        };
        let whole: Vec<(usize, Range<Day>)> = self.whole_days().collect();
        let spans = self.pieces();
        let is_whole = |piece: &usize| whole.binary_search_by_key(piece, |(at, _)| *at).is_ok();
        let spans = spans.filter_map(|(piece, us)| is_whole(&piece).then_some(us));
        let mut checks = CancelChecks::new(self.source);
        for days in timeline::days_of(spans, self.source.window().tz()) {
            let mut add = |day: Day, counts: Vec<(Option<String>, Count)>| {
                let at = whole.partition_point(|(_, days)| days.end <= day);
                let piece = whole.get(at).filter(|(_, days)| days.contains(&day));
                let Some(&(piece, _)) = piece else {
                    return Ok(());
                };
                for (value, Count { events, users }) in counts {
                    checks.step()?;
                    let cell = match wanted {
                        Wanted::Events => Cell::Events(events),
                        Wanted::Users => Cell::Users(events, users),
                    };
                    let group = found.group(value.as_deref());
                    found.add(index, (group, piece as u32), cell);
                }
                found.settle()
            };
            let by = self.breakdown;
            let source = self.source;
            if !source.day_counts(days, &series.filter, by, wanted, &mut add)? {
                if let Some(cells) = found.cells.of_series.get_mut(index) {
                    cells.clear();
                }
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn read_events(&self, found: &Mutex<Found<'_>>) -> Result<()> {
        let mut days = self.days().into_iter();
        days.try_for_each(|days| self.read_days(days, found))
    }

    /// The wanted pieces with their spans.
    fn pieces(&self) -> impl Iterator<Item = (usize, Range<i64>)> {
        timeline::wanted_pieces(self.bounds, self.wanted)
    }

    /// The wanted pieces that consist of whole days of the zone, with these.
    fn whole_days(&self) -> impl Iterator<Item = (usize, Range<Day>)> {
        let tz = self.source.window().tz();
        let pieces = self.pieces();
        pieces.filter_map(move |(piece, us)| Some((piece, timeline::whole_days(&us, tz)?)))
    }

    /// The days of the zone in which the wanted pieces lie, as ranges without a gap.
    pub(super) fn days(&self) -> Vec<Range<Day>> {
        timeline::days_of(self.pieces().map(|(_, us)| us), self.source.window().tz())
    }

    fn read_days(&self, days: Range<Day>, found: &Mutex<Found<'_>>) -> Result<()> {
        let also = match self.series {
            [(_, only)] => only.filter.clone(),
            _ => Filter::default(),
        };
        let properties = self.properties();
        let scan = Scan {
            days,
            also,
            columns: Columns::with_details(properties.iter().any(Property::is_detail)),
            tables: Some(TableScan {
                properties,
                times: if self.needs_times() {
                    TableTimes::Read
                } else {
                    TableTimes::Unread
                },
            }),
        };
        let plan = |events| self.plan(events);
        let mut checks = CancelChecks::new(self.source);
        let tables = self.source.for_each_batch(&scan, &plan, &mut |frame| {
            let (events, groups) = self.events_of_frame(frame, &mut checks)?;
            self.add(
                &events,
                &|code| groups.get(code).cloned().flatten(),
                &mut found.lock(),
            )
        })?;
        for_each_table(self.source, &tables, |table| self.read_table(table, found))
    }

    /// The properties of groups, numbers and filters.
    fn properties(&self) -> Vec<Property> {
        let of_series = self.series.iter().flat_map(|(_, series)| {
            let properties = series.filter.properties().cloned();
            properties.chain(series.of.clone())
        });
        of_series.chain(self.breakdown.cloned()).collect()
    }

    /// True if pieces begin within days of UTC.
    fn needs_times(&self) -> bool {
        let is_within = |bound: &i64| bound.rem_euclid(crate::window::DAY_US) != 0;
        self.bounds.iter().any(is_within)
    }

    fn needs_users(&self) -> bool {
        self.series
            .iter()
            .any(|(_, series)| series.measure.needs_users())
    }

    /// The time, user, group, series and numbers of each event.
    fn plan(&self, events: LazyFrame) -> LazyFrame {
        let mut columns = vec![
            col(schema::TS).to_physical().alias(schema::TS),
            col(schema::USER_ID),
        ];
        if let Some(property) = self.breakdown {
            columns.push(property.expr().cast(local_codes()).alias(GROUP));
        }
        for (at, (_, series)) in self.series.iter().enumerate() {
            if self.series.len() > 1 {
                columns.push(series.filter.expr().alias(met_column(at)));
            }
            if let Some(property) = &series.of {
                let strings = property.expr().cast(DataType::String);
                columns.push(strings.alias(number_column(at)));
            }
        }
        events.select(columns)
    }

    /// The events of the result of a plan, and the groups by their codes.
    fn events_of_frame(
        &self,
        frame: &DataFrame,
        checks: &mut CancelChecks<'_>,
    ) -> Result<(Events, Vec<Option<String>>)> {
        let rows = frame.height();
        let user_column = frame.column(schema::USER_ID)?.u32()?;
        let mut met = vec![0_u32; rows];
        for (at, _) in self.series.iter().enumerate() {
            let bit = 1 << at;
            if self.series.len() == 1 {
                met.fill(bit);
            } else {
                let column = frame.column(&met_column(at))?.bool()?;
                for (met, is_met) in met.iter_mut().zip(column.iter()) {
                    if is_met == Some(true) {
                        *met |= bit;
                    }
                }
            }
        }
        if self.source.cohort().is_some() {
            for (met, user) in met.iter_mut().zip(user_column.iter()) {
                checks.step()?;
                if !self.source.includes(user) {
                    *met = 0;
                }
            }
        }
        let mut codes = vec![0_u32; rows];
        let mut groups: Vec<Option<String>> = vec![None];
        if self.breakdown.is_some() {
            let column = frame.column(GROUP)?.as_materialized_series().cat32()?;
            let mut known: HashMap<u32, u32> = HashMap::new();
            for (code, category) in codes.iter_mut().zip(column.physical().iter()) {
                checks.step()?;
                let Some(category) = category else { continue };
                *code = *known.entry(category).or_insert_with(|| {
                    let string = column.get_mapping().cat_to_str(category);
                    groups.push(string.map(str::to_owned));
                    groups.len() as u32 - 1
                });
            }
        }
        let mut pieces = Vec::with_capacity(rows);
        let mut finder = Finder::new(self.bounds);
        for (ts, met) in frame.column(schema::TS)?.i64()?.iter().zip(&mut met) {
            checks.step()?;
            let piece = ts.and_then(|ts| self.piece(&mut finder, ts));
            if piece.is_none() {
                *met = 0;
            }
            pieces.push(piece.unwrap_or(0) as u32);
        }
        let mut numbers = Vec::new();
        for (at, (_, series)) in self.series.iter().enumerate() {
            numbers.push(match series.of {
                None => None,
                Some(_) => {
                    let column = frame.column(&number_column(at))?.str()?;
                    // Each event has a number of its own: 0 stands for none.
                    let mut values = vec![None];
                    let mut codes = Vec::with_capacity(rows);
                    for string in column.iter() {
                        checks.step()?;
                        match string.and_then(double) {
                            None => codes.push(0),
                            Some(number) => {
                                values.push(Some(number));
                                codes.push(values.len() as u32 - 1);
                            }
                        }
                    }
                    Some((codes, values))
                }
            });
        }
        let users = if self.needs_users() {
            let users = user_column.iter();
            users.map(|user| user.unwrap_or(ANONYMOUS)).collect()
        } else {
            Vec::new()
        };
        let (places, keys) = places(&pieces, codes, 0, self.wanted.len(), groups.len());
        let events = Events {
            met,
            places,
            keys,
            users,
            numbers,
        };
        Ok((events, groups))
    }

    fn read_table(&self, table: &Table, found: &Mutex<Found<'_>>) -> Result<()> {
        if found.lock().is_full {
            return Err(full());
        }
        let source = self.source;
        let filters: Vec<(Filter, u32)> = self
            .series
            .iter()
            .enumerate()
            .map(|(at, (_, series))| (source.filter().and(&series.filter), 1 << at))
            .collect();
        let filters = filters.iter().map(|(filter, bit)| (filter, *bit));
        let bits = FilterBits::new(table, filters)?;
        let mut columns = bits.columns.clone();
        let mut charge = source.budget().charge();
        let mut text = 0;
        let mut values = |property: &Property| -> Result<(usize, Vec<String>)> {
            let column = column_of(table, property)?;
            columns.push(column);
            let values = table.values(column)?;
            // Each with its group or number.
            let bytes = |value: &String| value.len() + size_of::<String>() + size_of::<u64>();
            text += values.iter().map(bytes).sum::<usize>();
            charge.set(bits.bytes() + text as u64)?;
            Ok((columns.len() - 1, values))
        };
        let groups = self.breakdown.map(&mut values).transpose()?;
        let numbers = self.series.iter().map(|(_, series)| {
            let read = series.of.as_ref().map(&mut values).transpose()?;
            Ok(read.map(|(at, strings)| {
                let property = series.of.as_ref();
                let number = |value: &String| double(&property?.string_of(value)?);
                let values = std::iter::once(None).chain(strings.iter().map(number));
                (at, values.collect::<Vec<Option<f64>>>())
            }))
        });
        let numbers: Vec<_> = numbers.collect::<Result<_>>()?;
        let day_us = i64::from(table.day()) * crate::window::DAY_US;
        let pieces = Finder::pieces(self.bounds, day_us..day_us + crate::window::DAY_US);
        let needs_times = pieces.len() > 1 || self.piece_cuts(&pieces, day_us);
        let slice = table.slice(&Rows::All, &columns, needs_times)?;
        source.check_cancelled()?;
        let mut met = bits.of_rows(&slice);
        let has_cohort = source.cohort().is_some();
        let mut users = Vec::new();
        if has_cohort || self.needs_users() {
            users.reserve(slice.rows());
            for (user, rows) in slice.runs() {
                let known = (user != ANONYMOUS).then_some(user);
                users.extend(std::iter::repeat_n(user, rows.len()));
                if has_cohort && !source.includes(known) {
                    met.get_mut(rows).unwrap_or_default().fill(0);
                }
            }
        }
        let mut of_rows = vec![pieces.start as u32; if needs_times { slice.rows() } else { 0 }];
        if needs_times {
            let mut finder = Finder::new(self.bounds);
            for (row, (piece, met)) in of_rows.iter_mut().zip(&mut met).enumerate() {
                match self.piece(&mut finder, slice.ts_us(row)) {
                    Some(found) => *piece = found as u32,
                    None => *met = 0,
                }
            }
        } else if self.wanted.get(pieces.start) != Some(&true) {
            return Ok(());
        }
        let codes_at = |at: usize| {
            let mut codes = vec![0_u32; slice.rows()];
            if let Some(column) = slice.codes(at) {
                column.zip(&mut codes, |item, code| *item = code as u32);
            }
            codes
        };
        let (codes, values) = match groups {
            None => (vec![0; slice.rows()], Vec::new()),
            Some((at, values)) => (codes_at(at), values),
        };
        source.check_cancelled()?;
        let (places, keys) = places(
            &of_rows,
            codes,
            pieces.start,
            pieces.len(),
            values.len() + 1,
        );
        let numbers = numbers.into_iter();
        let numbers = numbers.map(|read| read.map(|(at, values)| (codes_at(at), values)));
        let events = Events {
            met,
            places,
            keys,
            users,
            numbers: numbers.collect(),
        };
        let group = |code: usize| {
            let value = values.get(code.checked_sub(1)?)?;
            let string = self.breakdown?.string_of(value)?;
            Some(string.into_owned())
        };
        let counted = self.count(&events);
        self.merge(counted, &events.keys, &group, &mut found.lock())
    }

    /// The wanted piece of a time.
    pub(super) fn piece(&self, finder: &mut Finder<'_>, ts_us: i64) -> Option<usize> {
        let piece = finder.find(ts_us)?;
        (self.wanted.get(piece) == Some(&true)).then_some(piece)
    }

    /// True if the only piece of a day does not have all of it.
    fn piece_cuts(&self, pieces: &Range<usize>, day_us: i64) -> bool {
        let bound = |at: usize| self.bounds.get(at).copied();
        let is_before =
            |end: Option<i64>| end.is_none_or(|end| end < day_us + crate::window::DAY_US);
        bound(pieces.start).is_none_or(|start| start > day_us) || is_before(bound(pieces.end))
    }

    fn add(
        &self,
        events: &Events,
        group: &dyn Fn(usize) -> Option<String>,
        found: &mut Found<'_>,
    ) -> Result<()> {
        if found.is_full {
            return Err(full());
        }
        self.merge(self.count(events), &events.keys, group, found)
    }

    /// Counts the events of each series by place.
    fn count(&self, events: &Events) -> Vec<Vec<(u32, Cell)>> {
        let series = self.series.iter().enumerate();
        let counted = series.map(|(at, (_, series))| match series.measure {
            Measured::Events | Measured::Sessions => events.count(at),
            Measured::Users | Measured::EventsPerUser => events.count_users(at),
            measure => events.count_numbers(at, measure),
        });
        counted.collect()
    }

    /// Merges counts by place into the cells.
    pub(super) fn merge(
        &self,
        counted: Vec<Vec<(u32, Cell)>>,
        keys: &[(u32, u32)],
        group: &dyn Fn(usize) -> Option<String>,
        found: &mut Found<'_>,
    ) -> Result<()> {
        let mut checks = CancelChecks::new(self.source);
        let mut groups: HashMap<u32, u32> = HashMap::new();
        for (counted, (index, _)) in counted.into_iter().zip(self.series) {
            for (place, cell) in counted {
                checks.step()?;
                let Some(&(piece, code)) = keys.get(place as usize) else {
                    continue;
                };
                let group = *groups
                    .entry(code)
                    .or_insert_with(|| found.group(group(code as usize).as_deref()));
                found.add(*index, (group, piece), cell);
            }
        }
        found.settle()
    }
}

impl Found<'_> {
    /// The code of the group of a value.
    fn group(&mut self, value: Option<&str>) -> u32 {
        let Some(only) = &self.only else {
            return self.cells.groups.code(value);
        };
        let rest = only.len() as u32 + 1;
        value.map_or(0, |value| only.get(value).copied().unwrap_or(rest))
    }

    /// Merges a partial result of a series into that of a group and piece.
    fn add(&mut self, series: usize, place: (u32, u32), cell: Cell) {
        if let Some(cells) = self.cells.of_series.get_mut(series) {
            match cells.entry(place) {
                Entry::Occupied(mut known) => known.get_mut().merge(&cell),
                Entry::Vacant(free) => {
                    free.insert(cell);
                }
            }
        }
        self.merges += 1;
    }

    /// Charges the memory from time to time, and notes when the cells are too many.
    fn settle(&mut self) -> Result<()> {
        let cells = self.cells.len();
        if self.is_limited && cells > MAX_CELLS {
            self.is_full = true;
            return Err(full());
        }
        if self.merges < cells.max(MERGES_PER_CHARGE) {
            return Ok(());
        }
        self.merges = 0;
        self.charge.set(self.cells.bytes())
    }
}

/// Ends a scan whose groups are too many. It is never returned to a caller.
pub(super) fn full() -> Error {
    Error::bad_input(ErrorCode::TooManyGroups, "the groups are many".to_owned())
}

impl Events {
    /// Events of a series by place.
    fn count(&self, series: usize) -> Vec<(u32, Cell)> {
        let mut counts = vec![0_u64; self.keys.len()];
        for (met, place) in self.met.iter().zip(&self.places) {
            if let Some(count) = counts.get_mut(*place as usize) {
                *count += u64::from(met >> series & 1);
            }
        }
        let counts = (0..).zip(counts).filter(|(_, events)| *events > 0);
        counts
            .map(|(place, events)| (place, Cell::Events(events)))
            .collect()
    }

    /// Events and users of a series by place.
    fn count_users(&self, series: usize) -> Vec<(u32, Cell)> {
        let mut counts: Vec<(u64, Vec<u32>)> = vec![(0, Vec::new()); self.keys.len()];
        let rows = self.met.iter().zip(&self.places).zip(&self.users);
        for ((met, place), user) in rows {
            if met >> series & 1 == 0 {
                continue;
            }
            if let Some((events, users)) = counts.get_mut(*place as usize) {
                *events += 1;
                // The events of a user are mostly neighbours.
                if *user != ANONYMOUS && users.last() != Some(user) {
                    users.push(*user);
                }
            }
        }
        let counts = (0..).zip(counts).filter(|(_, (events, _))| *events > 0);
        let cell = |(place, (events, users))| (place, Cell::Users(events, daily::set(users)));
        counts.map(cell).collect()
    }

    /// Numbers of a series by place.
    fn count_numbers(&self, series: usize, measure: Measured) -> Vec<(u32, Cell)> {
        let Some(Some((codes, values))) = self.numbers.get(series) else {
            return Vec::new();
        };
        let mut counts: HashMap<(u32, u32), u64> = HashMap::new();
        for ((met, place), code) in self.met.iter().zip(&self.places).zip(codes) {
            if met >> series & 1 == 1 && *code > 0 {
                *counts.entry((*place, *code)).or_default() += 1;
            }
        }
        let mut numbers: HashMap<u32, Numbers> = HashMap::new();
        for ((place, code), count) in counts {
            if let Some(Some(value)) = values.get(code as usize) {
                numbers
                    .entry(place)
                    .or_default()
                    .add(*value, count, measure);
            }
        }
        let cell = |(place, numbers): (u32, Numbers)| (place, Cell::Numbers(Box::new(numbers)));
        numbers.into_iter().map(cell).collect()
    }
}

/// The place of each event: its piece, from `first` on, and the code of its group as one number;
/// with the piece and the code of each place. Without pieces, all events are in the first one.
fn places(
    pieces: &[u32],
    mut codes: Vec<u32>,
    first: usize,
    count: usize,
    width: usize,
) -> (Vec<u32>, Vec<(u32, u32)>) {
    let (first, width) = (first as u32, width as u32);
    if count.saturating_mul(width as usize) <= MAX_PLACES {
        for (code, piece) in codes.iter_mut().zip(pieces) {
            *code += (piece - first) * width;
        }
        let pieces = first..first + count as u32;
        let keys = pieces.flat_map(|piece| (0..width).map(move |code| (piece, code)));
        return (codes, keys.collect());
    }
    let mut known: HashMap<(u32, u32), u32> = HashMap::new();
    let mut keys = Vec::new();
    let mut pieces = pieces.iter();
    for code in &mut codes {
        let key = (pieces.next().copied().unwrap_or(first), *code);
        *code = *known.entry(key).or_insert_with(|| {
            keys.push(key);
            keys.len() as u32 - 1
        });
    }
    (codes, keys)
}

/// Finds the piece of a time. Times of neighbours are mostly in one piece.
pub(super) struct Finder<'a> {
    bounds: &'a [i64],
    last: usize,
    us: Range<i64>,
}

impl<'a> Finder<'a> {
    /// A finder in pieces with these bounds.
    pub(super) fn new(bounds: &'a [i64]) -> Self {
        Self {
            bounds,
            last: 0,
            us: 0..0,
        }
    }

    #[inline]
    fn find(&mut self, ts_us: i64) -> Option<usize> {
        if self.us.contains(&ts_us) {
            return Some(self.last);
        }
        let after = self.bounds.partition_point(|bound| *bound <= ts_us);
        let last = after.checked_sub(1)?;
        self.us = *self.bounds.get(last)?..*self.bounds.get(after)?;
        self.last = last;
        Some(last)
    }

    /// The pieces that overlap a span; one at least.
    fn pieces(bounds: &[i64], us: Range<i64>) -> Range<usize> {
        let first = bounds.partition_point(|bound| *bound <= us.start);
        let first = first.saturating_sub(1);
        let end = bounds.partition_point(|bound| *bound < us.end);
        first..end.clamp(first + 1, bounds.len().max(first + 1))
    }
}

fn met_column(series: usize) -> PlSmallStr {
    format!("met{series}").into()
}

fn number_column(series: usize) -> PlSmallStr {
    format!("number{series}").into()
}

/// The nearest double of a JSON number.
fn double(string: &str) -> Option<f64> {
    let number = Number::parse(string)?.nearest();
    number.is_finite().then_some(number)
}
