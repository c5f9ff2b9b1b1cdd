//! `echopilot engine`.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::bail;
use chrono::{Days, NaiveDate};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::output::print_bytes;
use super::progress::Unit;
use super::{Context, FAILED, Reached};
use crate::engine::Cancel;
use crate::metrics::query::Query;
use crate::progress::Progress;
use crate::spark::{EngineKind, RemoteConfig, Spark};
use crate::store::folder::Purpose;
use crate::window::parse_day;

/// Quotients of equal counts differ in the last digits where they are rounded twice.
const ROUNDING: f64 = 1e-12;
/// Fields that are about the computation and not its result.
const OF_THE_ENGINE: [&str; 6] = [
    "ts",
    "engine",
    "version",
    "sealed_through",
    "files",
    "history_from",
];

#[derive(Debug, Subcommand)]
pub enum EngineCommand {
    /// Compute every metric here and on the cluster; exit code 1 if anything differs
    ///
    /// The events are sealed first, so that both read the same ones. The window ends yesterday.
    Check(EngineCheckArgs),
}

#[derive(Debug, Args)]
pub struct EngineCheckArgs {
    /// Length of the window in days, 1 to 365
    #[arg(
        long,
        value_name = "N",
        default_value_t = 7,
        allow_negative_numbers = true
    )]
    days: i64,
    /// Last day of the window, YYYY-MM-DD [default: yesterday]
    #[arg(long, value_name = "DATE", value_parser = parse_day)]
    end: Option<NaiveDate>,
    #[command(flatten)]
    remote: RemoteConfig,
}

impl EngineCommand {
    pub fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let Self::Check(check) = self;
        check.run(context)
    }
}

impl EngineCheckArgs {
    fn run(mut self, context: &Context) -> anyhow::Result<ExitCode> {
        self.remote.engine = EngineKind::Spark;
        let Some(spark) = Spark::of(&self.remote, &context.store.data_dir)? else {
            bail!("no cluster is given");
        };
        let here = context.reach("engine", Purpose::Change)?;
        let version = spark.version()?;
        let workers = spark.workers();
        let workers = workers.map_or("unknown".into(), |workers| workers.to_string());
        print_bytes(
            format!(
                "Spark {version} at {}, workers: {workers}\n",
                spark.address()
            )
            .as_bytes(),
        )?;
        match &here {
            Reached::Engine(engine) => {
                engine.seal_with(context.now, &Progress::default())?;
            }
            Reached::Server(server) => {
                server.run_job(
                    "/api/analytics/seal",
                    Vec::new(),
                    "seal",
                    Unit::Things("events"),
                )?;
            }
        }
        let end = self
            .end
            .unwrap_or_else(|| (context.now - Days::new(1)).date_naive());
        let mut table = format!(
            "{:<16}{:>8}{:>10}{:>10}  result\n",
            "metric", "rows", "here s", "spark s"
        );
        let mut is_equal = true;
        let mut first = None;
        for mut query in queries() {
            if let Some(fields) = query.as_object_mut() {
                fields.insert("days".into(), json!(self.days));
                fields.insert("end".into(), json!(end.to_string()));
            }
            let parsed = Query::parse(query.to_string().as_bytes())?;
            let started = Instant::now();
            let ours = match &here {
                Reached::Engine(engine) => {
                    json!(engine.query(&parsed, context.now, &Cancel::default())?)
                }
                Reached::Server(server) => {
                    let path = "/api/analytics/query";
                    let found = server.post_json(
                        path,
                        query.to_string().into_bytes(),
                        "application/json",
                    )?;
                    serde_json::from_slice(&found)?
                }
            };
            if ours.get("engine").is_some() {
                bail!(
                    "the server at the data folder computes queries on a cluster itself; stop it, and run the command again"
                );
            }
            let here_s = started.elapsed().as_secs_f64();
            let started = Instant::now();
            let theirs = spark.query(&parsed, context.now, &|| Ok(()));
            let spark_s = started.elapsed().as_secs_f64();
            let rows = ours
                .get("rows")
                .and_then(Value::as_array)
                .map_or(0, Vec::len);
            let result = match theirs {
                Ok(theirs) => {
                    first.get_or_insert((theirs.version, theirs.sealed_through.clone()));
                    difference("", &ours, &json!(theirs)).map(|at| format!("DIFFERS {at}"))
                }
                Err(error) => Some(format!("FAILED {error}")),
            };
            is_equal &= result.is_none();
            let result = result.unwrap_or_else(|| "equal".into());
            table += &format!(
                "{:<16}{rows:>8}{here_s:>10.2}{spark_s:>10.2}  {result}\n",
                parsed.metric.name()
            );
        }
        if let Some((version, sealed_through)) = first {
            let sealed_through = sealed_through.unwrap_or_else(|| "no event".into());
            table +=
                &format!("Version {version} of the lake, with the events up to {sealed_through}\n");
        }
        print_bytes(table.as_bytes())?;
        Ok(match is_equal {
            true => ExitCode::SUCCESS,
            false => ExitCode::from(FAILED),
        })
    }
}

/// A query of every metric, by names that all histories have.
fn queries() -> Vec<Value> {
    let of_type = |name: &str| json!({"event_type": name});
    let [view, action, conversion] = ["page_view", "action", "conversion"].map(of_type);
    vec![
        json!({"metric": "active_users"}),
        json!({"metric": "feature_usage"}),
        json!({"metric": "event_types"}),
        json!({"metric": "trends", "series": [{}, {"measure": "users"}], "breakdown": "feature"}),
        json!({"metric": "sessions"}),
        json!({"metric": "lifecycle", "grain": "week"}),
        json!({"metric": "stickiness"}),
        json!({"metric": "funnel", "steps": [view, action, conversion], "within": "2d"}),
        json!({"metric": "retention", "start": view, "return": action}),
        json!({"metric": "paths", "depth": 3}),
        json!({"metric": "experiment", "variant": "plan", "exposure": view, "goal": conversion}),
        json!({"metric": "events"}),
    ]
}

/// The place and both values of the first difference between two results.
fn difference(at: &str, ours: &Value, theirs: &Value) -> Option<String> {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            let names = a
                .keys()
                .chain(b.keys().filter(|name| !a.contains_key(*name)));
            let mut names =
                names.filter(|name| !at.is_empty() || !OF_THE_ENGINE.contains(&name.as_str()));
            names.find_map(|name| {
                let of = |object: &serde_json::Map<String, Value>| {
                    object.get(name).cloned().unwrap_or_default()
                };
                difference(&format!("{at}.{name}"), &of(a), &of(b))
            })
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let mut pairs = a.iter().zip(b).enumerate();
            pairs.find_map(|(place, (a, b))| difference(&format!("{at}[{place}]"), a, b))
        }
        (Value::Array(a), Value::Array(b)) => {
            Some(format!("{at}: {} here, {} there", a.len(), b.len()))
        }
        (Value::Number(a), Value::Number(b)) if a.is_f64() || b.is_f64() => {
            let (a, b) = (a.as_f64()?, b.as_f64()?);
            let is_same = (a - b).abs() <= ROUNDING * a.abs().max(b.abs());
            (!is_same).then(|| format!("{at}: {a} here, {b} there"))
        }
        _ => (ours != theirs).then(|| format!("{at}: {ours} here, {theirs} there")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::NAMES;

    #[test]
    fn every_metric_is_checked() {
        let names = queries();
        let names: Vec<&str> = names
            .iter()
            .filter_map(|query| query["metric"].as_str())
            .collect();
        assert_eq!(names, NAMES);
        for query in queries() {
            Query::parse(query.to_string().as_bytes()).expect("a query");
        }
    }

    #[test]
    fn a_difference_is_named_and_that_of_the_engine_ignored() {
        let ours = json!({"ts": 1, "rows": [{"users": 3, "rate": 0.1}]});
        for (theirs, says) in [
            (
                json!({"ts": 2, "engine": "spark", "rows": [{"users": 3, "rate": 0.1 + f64::EPSILON / 16.0}]}),
                None,
            ),
            (
                json!({"rows": [{"users": 4, "rate": 0.1}]}),
                Some(".rows[0].users: 3 here, 4 there"),
            ),
            (
                json!({"rows": [{"users": 3, "rate": 0.11}]}),
                Some(".rows[0].rate: 0.1 here, 0.11 there"),
            ),
            (json!({"rows": []}), Some(".rows: 1 here, 0 there")),
            (
                json!({"rows": [{"users": 3}]}),
                Some(".rows[0].rate: 0.1 here, null there"),
            ),
        ] {
            assert_eq!(difference("", &ours, &theirs).as_deref(), says);
        }
    }
}
