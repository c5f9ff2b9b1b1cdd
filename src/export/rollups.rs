//! The daily rollups as three tables: one row per day, one row per day and feature, and one row per
//! day and event type.
//!
//! Their columns never change, whatever types a plan declares: `daily_rollups` has a column
//! for each of the three that need no declaration, and `daily_event_types` a row for every type.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use chrono::NaiveDate;
use polars::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::layout::{EVENT_TYPES_DIR, FEATURES_DIR, LINKS_DIR, ROLLUPS_DIR, RunId, path};
use crate::checksum::{self, LineCheck};
use crate::error::Result;
use crate::event::EventType;
use crate::parquet;

/// The fields of a line of the rollup log that the tables contain.
#[derive(Deserialize)]
struct Line {
    day: NaiveDate,
    period_days: i64,
    dau: f64,
    wau: f64,
    mau: i64,
    total_events: i64,
    feature_usage: Map<String, Value>,
    funnel_steps: Map<String, Value>,
}

impl Line {
    /// Events of a type.
    fn events_of(&self, event_type: &str) -> i64 {
        let events = self.funnel_steps.get(event_type);
        events.and_then(Value::as_i64).unwrap_or(0)
    }

    /// Types with their events: those that need no declaration in funnel order, and then the others
    /// that occur, by name.
    fn event_types(&self) -> impl Iterator<Item = (&str, i64)> {
        let undeclared = EventType::ALL.map(EventType::name);
        let names = self.funnel_steps.keys().map(String::as_str);
        let declared: BTreeSet<&str> = names.filter(|name| !undeclared.contains(name)).collect();
        let names = undeclared.into_iter().chain(declared);
        names.map(|name| (name, self.events_of(name)))
    }
}

/// The rollup tables.
pub struct Rollups {
    /// Number of days.
    pub days: usize,
    tables: Vec<(&'static str, DataFrame)>,
}

impl Rollups {
    /// Builds the tables from a rollup log.
    ///
    /// # Errors
    /// If Polars cannot build them.
    pub fn read(log: &[u8]) -> Result<Self> {
        // No number comes from a damaged line.
        let is_valid = |line: &&[u8]| !matches!(checksum::check_line(line), LineCheck::Damaged(_));
        let lines: BTreeMap<NaiveDate, Line> = log
            .split(|&byte| byte == b'\n')
            .filter(is_valid)
            .filter_map(|line| serde_json::from_slice(line).ok())
            .map(|line: Line| (line.day, line))
            .collect();
        let lines: Vec<&Line> = lines.values().collect();
        Ok(Self {
            days: lines.len(),
            tables: vec![
                (ROLLUPS_DIR, daily_rollups(&lines)?),
                (FEATURES_DIR, daily_features(&lines)?),
                (EVENT_TYPES_DIR, daily_event_types(&lines)?),
            ],
        })
    }

    /// Adds the table of links between ids.
    pub fn with_links(mut self, links: DataFrame) -> Self {
        self.tables.push((LINKS_DIR, links));
        self
    }

    /// The tables with the folders of their names.
    pub fn tables(&self) -> &[(&'static str, DataFrame)] {
        &self.tables
    }

    /// Encodes the tables as Parquet files, with their paths in the export folder.
    ///
    /// # Errors
    /// If they cannot be encoded.
    pub fn files(self, run: &RunId) -> Result<Vec<(String, Vec<u8>)>> {
        let files = self.tables.into_iter().map(|(dir, mut table)| {
            let mut bytes = Vec::new();
            parquet::writer(&mut bytes, table.schema())?.finish(&mut table)?;
            Ok((path(dir, run), bytes))
        });
        files.collect()
    }
}

fn daily_rollups(lines: &[&Line]) -> Result<DataFrame> {
    let column = |name: &str, value: fn(&Line) -> i64| {
        let values = lines.iter().map(|line| value(line));
        Column::new(name.into(), values.collect::<Vec<_>>())
    };
    let average = |name: &str, value: fn(&Line) -> f64| {
        let values = lines.iter().map(|line| value(line));
        Column::new(name.into(), values.collect::<Vec<_>>())
    };
    let mut columns = vec![
        days(lines.iter().map(|line| line.day))?,
        column("period_days", |line| line.period_days),
        average("dau", |line| line.dau),
        average("wau", |line| line.wau),
        column("mau", |line| line.mau),
        column("total_events", |line| line.total_events),
    ];
    for event_type in EventType::ALL {
        let events = lines.iter().map(|line| line.events_of(event_type.name()));
        columns.push(Column::new(
            event_type.name().into(),
            events.collect::<Vec<_>>(),
        ));
    }
    Ok(DataFrame::new(lines.len(), columns)?)
}

fn daily_features(lines: &[&Line]) -> Result<DataFrame> {
    let mut features: Vec<(NaiveDate, &str, i64)> = lines
        .iter()
        .flat_map(|line| {
            let features = line.feature_usage.iter();
            features
                .map(|(feature, events)| (line.day, feature.as_str(), events.as_i64().unwrap_or(0)))
        })
        .collect();
    // As in the rollup log: most used features first.
    features.sort_by_key(|&(day, feature, events)| (day, Reverse(events), feature));
    daily_events("feature", &features)
}

fn daily_event_types(lines: &[&Line]) -> Result<DataFrame> {
    let types = lines.iter().flat_map(|line| {
        let types = line.event_types();
        types.map(|(event_type, events)| (line.day, event_type, events))
    });
    daily_events("event_type", &types.collect::<Vec<_>>())
}

/// A table of days, names and numbers of events.
fn daily_events(name: &str, rows: &[(NaiveDate, &str, i64)]) -> Result<DataFrame> {
    let names: Vec<&str> = rows.iter().map(|row| row.1).collect();
    let events: Vec<i64> = rows.iter().map(|row| row.2).collect();
    let columns = vec![
        days(rows.iter().map(|row| row.0))?,
        Column::new(name.into(), names),
        Column::new("events".into(), events),
    ];
    Ok(DataFrame::new(rows.len(), columns)?)
}

fn days(days: impl Iterator<Item = NaiveDate>) -> Result<Column> {
    let days: Vec<i32> = days.map(|day| day.to_epoch_days()).collect();
    Ok(Column::new("day".into(), days).cast(&DataType::Date)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(day: &str, features: &str) -> String {
        format!(
            "{{\"ts\":\"x\",\"day\":\"{day}\",\"period_days\":30,\"dau\":1.5,\"wau\":2.0,\"mau\":3,\
             \"feature_usage\":{features},\"funnel_steps\":{{\"action\":4}},\"total_events\":4}}\n"
        )
    }

    #[test]
    fn features_of_a_day_are_ordered_by_events_and_the_last_line_of_a_day_counts() -> Result<()> {
        let log = [
            line("2026-11-02", r#"{"b":3,"c":3,"a":1}"#),
            line("2026-11-01", r#"{"old":9}"#),
            line("2026-11-01", r#"{"z":7}"#),
            "{\"day\":\"2026-11-03\"}\n".to_owned(),
        ];
        let rollups = Rollups::read(log.concat().as_bytes())?;
        assert_eq!(rollups.days, 2);
        let [(_, days), (_, features), _] = rollups.tables() else {
            panic!("three tables");
        };
        assert_eq!(strings(features, "feature")?, ["z", "b", "c", "a"]);
        assert_eq!(strings(features, "events")?, ["7", "3", "3", "1"]);
        assert_eq!(
            strings(features, "day")?.first().map(String::as_str),
            Some("2026-11-01")
        );
        assert_eq!(days.height(), 2);
        assert_eq!(days.column("action")?.i64()?.sum(), Some(8));
        Ok(())
    }

    fn strings(table: &DataFrame, name: &str) -> Result<Vec<String>> {
        let column = table.column(name)?.cast(&DataType::String)?;
        Ok(column.str()?.iter().flatten().map(str::to_owned).collect())
    }

    #[test]
    fn types_of_a_day_are_rows_and_the_columns_stay_the_same() -> Result<()> {
        let before = Rollups::read(line("2026-11-01", "{}").as_bytes())?;
        let declared = r#"{"trial":2,"action":4,"signup":1,"page_view":3}"#;
        let log = line("2026-11-02", "{}").replace(r#"{"action":4}"#, declared);
        let after = Rollups::read((line("2026-11-01", "{}") + &log).as_bytes())?;
        for ((_, before), (_, after)) in before.tables.iter().zip(&after.tables) {
            assert_eq!(before.schema(), after.schema());
        }
        let (dir, types) = after.tables().last().expect("three tables");
        assert_eq!(*dir, "daily_event_types");
        let rows: Vec<String> = strings(types, "event_type")?
            .iter()
            .zip(strings(types, "events")?)
            .map(|(name, events)| format!("{name} {events}"))
            .collect();
        assert_eq!(
            rows,
            [
                "page_view 0",
                "action 4",
                "conversion 0",
                "page_view 3",
                "action 4",
                "conversion 0",
                "signup 1",
                "trial 2"
            ]
        );
        Ok(())
    }
}
