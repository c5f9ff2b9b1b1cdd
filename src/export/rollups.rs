//! The daily rollups as two tables: one row per day, and one row per day and feature.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use chrono::NaiveDate;
use polars::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::layout::{FEATURES_DIR, ROLLUPS_DIR, RunId, path};
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

/// The rollup tables.
pub struct Rollups {
    /// Number of days.
    pub days: usize,
    tables: [(&'static str, DataFrame); 2],
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
            tables: [
                (ROLLUPS_DIR, daily_rollups(&lines)?),
                (FEATURES_DIR, daily_features(&lines)?),
            ],
        })
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
        let events = lines.iter().map(|line| {
            let events = line.funnel_steps.get(event_type.name());
            events.and_then(Value::as_i64).unwrap_or(0)
        });
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
    let columns = vec![
        days(features.iter().map(|row| row.0))?,
        Column::new(
            "feature".into(),
            features.iter().map(|row| row.1).collect::<Vec<_>>(),
        ),
        Column::new(
            "events".into(),
            features.iter().map(|row| row.2).collect::<Vec<_>>(),
        ),
    ];
    Ok(DataFrame::new(features.len(), columns)?)
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
        let [(_, days), (_, features)] = &rollups.tables;
        let strings = |name: &str| -> Result<Vec<String>> {
            let column = features.column(name)?.cast(&DataType::String)?;
            Ok(column.str()?.iter().flatten().map(str::to_owned).collect())
        };
        assert_eq!(strings("feature")?, ["z", "b", "c", "a"]);
        assert_eq!(strings("events")?, ["7", "3", "3", "1"]);
        assert_eq!(
            strings("day")?.first().map(String::as_str),
            Some("2026-11-01")
        );
        assert_eq!(days.height(), 2);
        assert_eq!(days.column("action")?.i64()?.sum(), Some(8));
        Ok(())
    }
}
