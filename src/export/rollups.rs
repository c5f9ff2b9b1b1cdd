//! The daily rollups as tables: one row a day, and one a day and feature.

use chrono::NaiveDate;
use polars::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::destination::Destination;
use crate::checksum::{self, LineCheck};
use crate::error::Result;
use crate::event::EventType;
use crate::parquet;

/// Their folder, in the export folder.
pub const DIR: &str = "daily_rollups";
/// Their files.
pub const NAMES: [&str; 2] = [
    "daily_rollups/daily_rollups.parquet",
    "daily_rollups/feature_usage.parquet",
];

/// A line of the rollup log, as far as a table has it.
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

/// Writes `daily_rollups/daily_rollups.parquet` and `daily_rollups/feature_usage.parquet`. Returns the number of days.
///
/// # Errors
/// If they cannot be written.
pub fn export(log: &[u8], to: &Destination) -> Result<usize> {
    // No number is made from a damaged line.
    let is_whole = |line: &&[u8]| !matches!(checksum::check_line(line), LineCheck::Damaged(_));
    let lines: Vec<Line> = log
        .split(|&byte| byte == b'\n')
        .filter(is_whole)
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    let column = |name: &str, value: fn(&Line) -> i64| {
        Column::new(name.into(), lines.iter().map(value).collect::<Vec<_>>())
    };
    let average = |name: &str, value: fn(&Line) -> f64| {
        Column::new(name.into(), lines.iter().map(value).collect::<Vec<_>>())
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
    write(to, "daily_rollups", DataFrame::new(lines.len(), columns)?)?;
    let features: Vec<(NaiveDate, &str, i64)> = lines
        .iter()
        .flat_map(|line| {
            let features = line.feature_usage.iter();
            features
                .map(|(feature, events)| (line.day, feature.as_str(), events.as_i64().unwrap_or(0)))
        })
        .collect();
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
    write(
        to,
        "feature_usage",
        DataFrame::new(features.len(), columns)?,
    )?;
    Ok(lines.len())
}

fn days(days: impl Iterator<Item = NaiveDate>) -> Result<Column> {
    let days: Vec<i32> = days.map(|day| day.to_epoch_days()).collect();
    Ok(Column::new("day".into(), days).cast(&DataType::Date)?)
}

fn write(to: &Destination, name: &str, mut table: DataFrame) -> Result<()> {
    let mut bytes = Vec::new();
    parquet::writer(&mut bytes, table.schema())?.finish(&mut table)?;
    to.write(&format!("{DIR}/{name}.parquet"), &bytes)
}
