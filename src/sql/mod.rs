//! Queries as SQL for other engines: one SQL per query, which every dialect reads in the same way
//! but for the spelling of parameters and of some functions.
//!
//! | module | contents |
//! |---|---|
//! | [`answer`] | results from rows |
//! | [`dialect`] | what differs between dialects |
//! | `condition` | filters |
//! | `pattern` | regular expressions |
//! | `scope` | the events of a query, with their periods |
//! | `cohort` | the users of a cohort |
//! | `text` | the metrics |
//! | `fixed` | what they have in common with `queries/` |
//!
//! The SQL reads the views of `queries/views`. Values of the query are parameters with a type and
//! never part of the SQL, because engines treat quotes and backslashes differently. It counts;
//! [`answer`] makes from its rows what the embedded engine returns. What
//! engines count differently is an error that names it: a number is exact or there is none. Where
//! that depends on the events, a second SQL counts those that are read differently ([`Check`]).
//!
//! Nothing here opens a file or runs anything.

pub mod answer;
mod cohort;
mod condition;
pub mod dialect;
mod fixed;
mod pattern;
mod scope;
mod text;

use std::fmt::Write;

use chrono::{DateTime, Days, NaiveDate, Utc};
use serde::Serialize;

pub use dialect::Dialect;

use crate::cohorts::Cohorts;
use crate::error::{Error, ErrorCode, Result};
use crate::event::visitor::{VISITOR_CHARS, VISITOR_PREFIX};
use crate::metrics::query::Query;
use crate::window::Window;

/// A query as SQL.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    /// One `select`, with the parameters as the dialect spells them.
    pub text: String,
    /// The values of the parameters, in the order of their first use, or for a dialect with `?` in
    /// the order of all uses.
    pub parameters: Vec<Parameter>,
    /// First and last UTC day of the events that it reads; no first day if it reads all of them.
    pub days: (Option<NaiveDate>, NaiveDate),
    /// The check of its events.
    pub check: Check,
}

/// A SQL with one row over the events of a statement: `odd_1` and so on, which are 0 if the
/// statement is exact, and `visitors`, the number of events of daily visitors.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Check {
    /// One `select`.
    pub text: String,
    /// As those of the statement.
    pub parameters: Vec<Parameter>,
    /// The properties that `odd_1` and so on are about.
    pub properties: Vec<String>,
}

/// The part of a data folder that a statement needs in addition to the query.
#[derive(Debug, Clone, Copy)]
pub struct QueryContext<'a> {
    /// The named cohorts.
    pub cohorts: &'a Cohorts,
    /// Ids of users are stored as pseudonyms.
    pub has_user_key: bool,
    /// The time of the query.
    pub now: DateTime<Utc>,
}

/// A parameter of a statement.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Parameter {
    /// Its name in the SQL.
    pub name: String,
    /// Its value.
    #[serde(flatten)]
    pub value: Value,
}

/// A value with its type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", content = "value", rename_all = "UPPERCASE")]
pub enum Value {
    /// A calendar day.
    Date(NaiveDate),
    /// A whole number.
    Bigint(i64),
    /// A string.
    Text(String),
}

impl Statement {
    /// The statement of a query over a window.
    ///
    /// # Errors
    /// `not_portable`, which names the part of the query that SQL cannot say on every engine, and
    /// `unknown_cohort`.
    pub fn of(
        query: &Query,
        window: &Window,
        dialect: Dialect,
        context: QueryContext<'_>,
    ) -> Result<Self> {
        let mut writer = Writer::new(dialect);
        let (text, scope) = text::write(query, window, context, &mut writer)?;
        Ok(writer.finish(&text, &scope, window, query.metric.days_before()))
    }

    /// The statement of usage over a window.
    ///
    /// # Errors
    /// `not_portable` for a zone whose clock repeats a midnight.
    pub fn of_usage(window: &Window, dialect: Dialect) -> Result<Self> {
        let mut writer = Writer::new(dialect);
        let (text, scope) = text::usage(window, &mut writer)?;
        Ok(writer.finish(&text, &scope, window, 0))
    }

    /// Its check as a statement.
    pub fn of_check(&self) -> Self {
        Self {
            text: self.check.text.clone(),
            parameters: self.check.parameters.clone(),
            days: self.days,
            check: Check::default(),
        }
    }

    /// The definitions of the views that the SQL reads. The place of the lake stays in braces if it
    /// is not given.
    pub fn views(dialect: Dialect, lake: Option<&str>) -> String {
        // No statement reads these columns: it reads metadata itself.
        let views = dialect.views().replace("{variant}", "variant");
        let views = views.replace("{amount}", "amount");
        match lake {
            Some(lake) => views.replace("{lake}", lake),
            None => views,
        }
    }
}

/// The error about a part of a query that portable SQL does not have.
fn not_portable(what: &str) -> Error {
    Error::bad_input(
        ErrorCode::NotPortable,
        format!("{what}; this part of a query is not available as SQL, nor on another engine"),
    )
}

/// Collects the parameters of a statement while its SQL is written with `:name` for each.
struct Writer {
    dialect: Dialect,
    parameters: Vec<Parameter>,
    strings: usize,
    /// Properties and conditions that no event may meet.
    checks: Vec<(String, String)>,
}

impl Writer {
    fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            parameters: Vec::new(),
            strings: 0,
            checks: Vec::new(),
        }
    }

    /// Binds a named value.
    fn bind(&mut self, name: &str, value: Value) -> String {
        if !self.parameters.iter().any(|known| known.name == name) {
            self.parameters.push(Parameter {
                name: name.to_owned(),
                value,
            });
        }
        format!(":{name}")
    }

    /// Binds a number.
    fn number(&mut self, name: &str, number: i64) -> String {
        self.bind(name, Value::Bigint(number))
    }

    /// Binds a string of the query; one that it already has keeps its name.
    fn string(&mut self, string: &str) -> String {
        let value = Value::Text(string.to_owned());
        let known = self.parameters.iter().find(|known| known.value == value);
        if let Some(known) = known {
            return format!(":{}", known.name);
        }
        self.strings += 1;
        let name = format!("text_{}", self.strings);
        self.bind(&name, value)
    }

    /// Adds a condition that no event may meet, about a property.
    fn check(&mut self, property: &str, condition: String) {
        let check = (property.to_owned(), condition);
        if !self.checks.contains(&check) {
            self.checks.push(check);
        }
    }

    /// The statement with the parameters as the dialect spells them. Only those that the SQL uses
    /// are kept. Users count once a day if they are daily visitors, which the check finds in the
    /// window and so many days before it.
    fn finish(
        mut self,
        text: &str,
        scope: &scope::Scope,
        window: &Window,
        days_before: u16,
    ) -> Statement {
        let range_us = window.range_us();
        let day = |us: i64| DateTime::from_timestamp_micros(us).unwrap_or_default();
        let first = day(range_us.start).date_naive() - Days::new(u64::from(days_before));
        let last = day(range_us.end - 1).date_naive();
        let (first_read, last_read) = scope.days;
        let days = (first_read.map(|day| day.min(first)), last_read.max(last));
        let check = self.check_text(days, (first, last));
        let (text, parameters) = self.filled(text);
        let (check, of_check) = self.filled(&check);
        Statement {
            text,
            parameters,
            days,
            check: Check {
                text: check,
                parameters: of_check,
                properties: self
                    .checks
                    .into_iter()
                    .map(|(property, _)| property)
                    .collect(),
            },
        }
    }

    /// The SQL of the check over the days that are read, which finds daily visitors in those that
    /// are counted.
    fn check_text(
        &mut self,
        read: (Option<NaiveDate>, NaiveDate),
        counted: (NaiveDate, NaiveDate),
    ) -> String {
        let mut columns = String::new();
        for (at, (_, condition)) in self.checks.iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = write!(
                columns,
                "\n  sum(case when {condition} then 1 else 0 end) as odd_{},",
                at + 1
            );
        }
        let visitor = format!("{VISITOR_PREFIX}[A-Za-z0-9_-]{{{VISITOR_CHARS}}}");
        let visitor = self.string(&visitor);
        let is_visitor = self.dialect.matches("user_id", &visitor);
        let first = self.bind("counted_day", Value::Date(counted.0));
        let last = self.bind("last_counted_day", Value::Date(counted.1));
        let length = VISITOR_CHARS + 1;
        let last_read = self.bind("last_checked_day", Value::Date(read.1));
        let from = match read.0 {
            Some(day) => {
                let first = self.bind("checked_day", Value::Date(day));
                format!("day between {first} and {last_read}")
            }
            None => format!("day <= {last_read}"),
        };
        format!(
            "select{columns}\n  sum(case when day between {first} and {last} and length(user_id) = {length} and {is_visitor} then 1 \
             else 0 end) as visitors\nfrom events\nwhere {from}\n"
        )
    }

    /// A SQL with the parameters as the dialect spells them, and the values of those that it uses.
    fn filled(&self, text: &str) -> (String, Vec<Parameter>) {
        let mut written = String::with_capacity(text.len());
        let mut used: Vec<Parameter> = Vec::new();
        let mut pieces = text.split(':');
        written.push_str(pieces.next().unwrap_or_default());
        for piece in pieces {
            let end = piece.find(|char: char| !char.is_ascii_alphanumeric() && char != '_');
            let (name, rest) = piece.split_at(end.unwrap_or(piece.len()));
            let known = self.parameters.iter().find(|known| known.name == name);
            if let Some(known) = known {
                if self.dialect.is_positional() || !used.contains(known) {
                    used.push(known.clone());
                }
                self.dialect.placeholder(known, &mut written);
            }
            written.push_str(rest);
        }
        (written, used)
    }
}

/// Joins common table expressions and the final `select` into one statement.
fn with(expressions: &[(String, String)], select: &str) -> String {
    let mut text = String::from("with ");
    for (at, (name, body)) in expressions.iter().enumerate() {
        let separator = if at == 0 { "" } else { ",\n" };
        let body = body.trim().replace('\n', "\n  ");
        // Writing to a string cannot fail.
        let _ = write!(text, "{separator}{name} as (\n  {body}\n)");
    }
    text.push('\n');
    text.push_str(select.trim());
    text.push('\n');
    text
}

/// A SQL in which some names have a suffix.
pub fn renamed(sql: &str, names: &[&str], suffix: &str) -> String {
    let mut renamed = String::with_capacity(sql.len());
    let mut rest = sql;
    while let Some(start) = rest.find(|char: char| char.is_ascii_alphabetic() || char == '_') {
        let (before, word) = rest.split_at(start);
        let end = word.find(|char: char| !char.is_ascii_alphanumeric() && char != '_');
        let (word, after) = word.split_at(end.unwrap_or(word.len()));
        renamed.extend([before, word]);
        if names.contains(&word) {
            renamed.push_str(suffix);
        }
        rest = after;
    }
    renamed + rest
}
