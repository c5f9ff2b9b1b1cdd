//! Scripts and queries for a warehouse: table, load script, external table, views, and the metrics
//! in its dialect. They come from `queries/`, which the tests compare with the engine.

use super::destination::Destination;
use crate::error::Result;
use crate::metrics;
use crate::sql::Dialect;

/// The warehouse that reads an export.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Warehouse {
    /// Any program that reads Parquet.
    #[default]
    Plain,
    /// Google `BigQuery`.
    #[value(help = "Google BigQuery")]
    Bigquery,
    /// Snowflake.
    Snowflake,
    /// Every engine that reads Delta tables.
    #[value(help = "Delta tables, which many engines read")]
    Delta,
}

const CONTRACT: &str = include_str!("../../queries/README.md");

impl Warehouse {
    /// All warehouses whose export is files; tables have a log instead ([`super::delta`]).
    pub const ALL: [Self; 3] = [Self::Plain, Self::Bigquery, Self::Snowflake];

    /// The folder of its files, in the export folder.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "duckdb",
            Self::Bigquery => "bigquery",
            Self::Snowflake => "snowflake",
            Self::Delta => "delta",
        }
    }

    /// Its files, each with its path in the export folder.
    pub fn files(self) -> Vec<(String, String)> {
        let mut files: Vec<(String, String)> = match self {
            Self::Plain | Self::Delta => vec![("views.sql".into(), Dialect::DuckDb.views().into())],
            Self::Bigquery => vec![
                (
                    "table.sql".into(),
                    include_str!("../../queries/warehouse/bigquery/table.sql").into(),
                ),
                (
                    "load.sh".into(),
                    include_str!("../../queries/warehouse/bigquery/load.sh").into(),
                ),
                ("external.sql".into(), Dialect::BigQuery.views().into()),
                (
                    "views.sql".into(),
                    Dialect::BigQuery.views_over_tables().into(),
                ),
            ],
            Self::Snowflake => vec![
                (
                    "table.sql".into(),
                    include_str!("../../queries/warehouse/snowflake/table.sql").into(),
                ),
                (
                    "load.sql".into(),
                    include_str!("../../queries/warehouse/snowflake/load.sql").into(),
                ),
                ("external.sql".into(), Dialect::Snowflake.views().into()),
                (
                    "views.sql".into(),
                    Dialect::Snowflake.views_over_tables().into(),
                ),
            ],
        };
        files.push(("README.md".into(), CONTRACT.into()));
        let queries = metrics::LIST.map(|metric| (metric.name, metric.sql));
        files.extend(
            queries
                .into_iter()
                .chain(metrics::MORE_SQL)
                .map(|(name, sql)| {
                    let path = format!("queries/{name}.sql");
                    (path, self.translate(sql))
                }),
        );
        files
            .into_iter()
            .map(|(path, content)| (format!("{}/{path}", self.name()), content))
            .collect()
    }

    /// The paths of its files.
    pub fn names(self) -> impl Iterator<Item = String> {
        self.files().into_iter().map(|(path, _)| path)
    }

    /// Writes its files.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(self, to: &Destination) -> Result<()> {
        self.files()
            .iter()
            .try_for_each(|(path, content)| to.write(path, content.as_bytes()))
    }

    /// Translates a query into the dialect: only the notation of parameters differs.
    fn translate(self, sql: &str) -> String {
        let dates: Vec<&str> = sql
            .lines()
            .filter_map(|line| {
                let mut words = line.strip_prefix("-- param ")?.split(' ');
                let name = words.next()?;
                (words.next()? == "DATE").then_some(name)
            })
            .collect();
        let lines = sql.lines().map(|line| {
            if line.starts_with("--") {
                line.to_owned()
            } else {
                self.parameters(line, &dates)
            }
        });
        lines.collect::<Vec<_>>().join("\n") + "\n"
    }

    fn parameters(self, line: &str, dates: &[&str]) -> String {
        let mut out = String::new();
        let mut rest = line;
        while let Some((before, after)) = rest.split_once(':') {
            out.push_str(before);
            let length = after
                .find(|char: char| !char.is_ascii_alphanumeric() && char != '_')
                .unwrap_or(after.len());
            let (name, following) = after.split_at(length);
            out.push_str(&match self {
                Self::Plain | Self::Delta => format!("${name}"),
                Self::Bigquery => format!("@{name}"),
                // Session variables are strings and numbers.
                Self::Snowflake if dates.contains(&name) => format!("to_date(${name})"),
                Self::Snowflake => format!("${name}"),
            });
            rest = following;
        }
        out.push_str(rest);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SQL: &str = "-- {\"metric\":\"x\"}\n\
        -- param from_day DATE first day, as in :from_day\n\
        -- param feature VARCHAR\n\
        select :feature from events where day >= :from_day and day < (:from_day);\n";

    #[test]
    fn parameters_are_translated_into_the_dialect_and_comments_are_kept() {
        let comments = SQL.split_inclusive('\n').take(3).collect::<String>();
        for (warehouse, feature, day) in [
            (Warehouse::Plain, "$feature", "$from_day"),
            (Warehouse::Bigquery, "@feature", "@from_day"),
            (Warehouse::Snowflake, "$feature", "to_date($from_day)"),
        ] {
            let expected = format!(
                "{comments}select {feature} from events where day >= {day} and day < ({day});\n"
            );
            assert_eq!(warehouse.translate(SQL), expected);
        }
    }

    #[test]
    fn views_of_a_loaded_table_make_no_tables() {
        for dialect in [Dialect::BigQuery, Dialect::Snowflake] {
            let views = dialect.views_over_tables();
            assert!(views.starts_with("create or replace view "), "{views}");
            assert!(!views.contains(" table "), "{views}");
        }
    }

    #[test]
    fn all_files_of_a_warehouse_are_in_its_folder_and_have_no_foreign_parameters() {
        for warehouse in Warehouse::ALL {
            for (path, content) in warehouse.files() {
                assert!(
                    path.starts_with(&format!("{}/", warehouse.name())),
                    "{path}"
                );
                let statements = content.lines().filter(|line| !line.starts_with("--"));
                let is_query = path.contains("/queries/");
                let untranslated = |line: &str| is_query && line.contains(" :");
                assert!(
                    statements.into_iter().all(|line| !untranslated(line)),
                    "{path}"
                );
            }
        }
    }
}
