//! `echopilot sql`.

use std::fmt::Write;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::{Map, Value as Json, json};

use super::Context;
use super::output::{argument_or_file, print_bytes, print_json};
use super::window::WindowArgs;
use crate::cohorts::Cohorts;
use crate::metrics::query::Query;
use crate::sql::{Check, Dialect, Parameter, QueryContext, Statement, Value};
use crate::store::inspect::committed_lake;

#[derive(Debug, Args)]
pub struct SqlArgs {
    /// A metric, a query as JSON, or @ and the name of a file that contains one
    #[arg(value_name = "METRIC|JSON|@FILE")]
    query: String,
    /// Dialect of the SQL
    #[arg(long, value_name = "DIALECT", default_value = "duckdb")]
    dialect: Dialect,
    /// Place of the lake, which the views read: a folder or URL [default: stays in braces]
    #[arg(long, value_name = "LAKE")]
    lake: Option<String>,
    /// Output format: a script with comments, or its parts as JSON
    #[arg(long, value_name = "FORMAT", default_value = "script")]
    format: SqlFormat,
    #[command(flatten)]
    window: WindowArgs,
    /// Filter of the events, as in a query
    #[arg(long, value_name = "JSON")]
    filter: Option<String>,
}

/// The form in which the SQL is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SqlFormat {
    /// Views, SQL and parameters, the latter as comments.
    Script,
    /// An object with `views`, `SQL` and `parameters`.
    Json,
}

/// The parts of the SQL of a query.
#[derive(Serialize)]
struct Parts<'a> {
    views: String,
    text: &'a str,
    parameters: &'a [Parameter],
    /// The SQL that counts events which engines read differently; none if there can be none.
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<&'a Check>,
}

impl SqlArgs {
    pub fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let query = Query::of_object(self.object()?)?;
        let window = query.window.resolve(context.now)?;
        let folder = &context.store.data_dir;
        let (cohorts, has_user_key) = match query.cohorts.is_empty() {
            true => Default::default(),
            false => (
                Cohorts::of_folder(folder)?,
                committed_lake(folder)?.has_user_key,
            ),
        };
        let of_query = QueryContext {
            cohorts: &cohorts,
            has_user_key,
            now: context.now,
        };
        let statement = Statement::of(&query, &window, self.dialect, of_query)?;
        let parts = Parts {
            views: Statement::views(self.dialect, self.lake.as_deref()),
            text: &statement.text,
            parameters: &statement.parameters,
            check: Some(&statement.check).filter(|check| !check.properties.is_empty()),
        };
        match self.format {
            SqlFormat::Json => print_json(&parts),
            SqlFormat::Script => print_bytes(script(&parts).as_bytes()),
        }
    }

    /// The query with the fields that options have.
    fn object(&self) -> anyhow::Result<Map<String, Json>> {
        let mut query = if self.query.starts_with(['{', '@']) {
            serde_json::from_slice(&argument_or_file(&self.query)?)
                .context("the query is not a JSON object")?
        } else {
            Map::from_iter([("metric".to_owned(), Json::from(self.query.as_str()))])
        };
        let filter = self.filter.as_deref().map(serde_json::from_str::<Json>);
        let filter = filter.transpose().context("--filter is not JSON")?;
        let window = &self.window;
        for (name, value) in [
            ("days", json!(window.days)),
            ("end", json!(window.end)),
            ("from", json!(window.from)),
            ("to", json!(window.to)),
            ("period", json!(window.period)),
            ("tz", json!(window.tz)),
            ("filter", json!(filter)),
        ] {
            if value.is_null() {
                continue;
            }
            if query.insert(name.to_owned(), value).is_some() {
                bail!("{name} is in the query and an option; give one of them");
            }
        }
        Ok(query)
    }
}

/// A script: the views, then the query with its parameters.
fn script(parts: &Parts<'_>) -> String {
    let mut script = format!("{}\n-- The query. Its parameters:\n", parts.views);
    write_parameters(parts.parameters, &mut script);
    script += parts.text;
    if let Some(check) = parts.check {
        let properties = check.properties.join(", ");
        // Writing to a string cannot fail.
        let _ = writeln!(
            script,
            ";\n\n-- The result is exact if each odd_… here is 0: they count events with lists, objects and unusual numbers, \
             which engines read differently, as {properties}. Its parameters:"
        );
        write_parameters(&check.parameters, &mut script);
        script += &check.text;
    }
    script
}

fn write_parameters(parameters: &[Parameter], script: &mut String) {
    for Parameter { name, value } in parameters {
        // A string as JSON, because a line end in it would end the comment.
        let (kind, value) = match value {
            Value::Date(day) => ("DATE", day.to_string()),
            Value::Bigint(number) => ("BIGINT", number.to_string()),
            Value::Text(text) => ("TEXT", Json::from(text.as_str()).to_string()),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(script, "-- param {name} {kind} {value}");
    }
}
