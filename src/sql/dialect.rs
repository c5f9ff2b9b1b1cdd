//! Differences between dialects of SQL: parameters, functions of strings and JSON, and the views.

use clap::ValueEnum;

use super::{Parameter, Value};

/// A dialect of SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dialect {
    /// `DuckDB`.
    #[value(name = "duckdb")]
    DuckDb,
    /// Apache Spark.
    Spark,
    /// Databricks, which is Spark with its own names of tables.
    Databricks,
    /// Google `BigQuery`.
    #[value(name = "bigquery")]
    BigQuery,
    /// Snowflake.
    Snowflake,
    /// `ClickHouse`.
    #[value(name = "clickhouse")]
    ClickHouse,
    /// Trino, and Athena.
    Trino,
}

impl Dialect {
    /// The views `events` and `numbers`. Names in braces are to be replaced.
    pub fn views(self) -> &'static str {
        match self {
            Self::DuckDb => include_str!("../../queries/views/duckdb.sql"),
            Self::Spark | Self::Databricks => include_str!("../../queries/views/spark.sql"),
            Self::BigQuery => include_str!("../../queries/views/bigquery.sql"),
            Self::Snowflake => include_str!("../../queries/views/snowflake.sql"),
            Self::ClickHouse => include_str!("../../queries/views/clickhouse.sql"),
            Self::Trino => include_str!("../../queries/views/trino.sql"),
        }
    }

    /// The views alone, without the statements before them that make tables of files.
    pub fn views_over_tables(self) -> &'static str {
        let views = self.views();
        let (head, _) = views.split_once("all_events as\n").unwrap_or_default();
        let start = head.rfind("create or replace").unwrap_or_default();
        views.get(start..).unwrap_or_default()
    }

    /// True if parameters have no names, so that each use has a value of its own.
    pub fn is_positional(self) -> bool {
        self == Self::Trino
    }

    /// Writes a use of a parameter.
    pub(super) fn placeholder(self, parameter: &Parameter, into: &mut String) {
        let name = &parameter.name;
        match self {
            Self::DuckDb => into.extend(["$", name]),
            Self::Spark | Self::Databricks | Self::Snowflake => into.extend([":", name]),
            Self::BigQuery => into.extend(["@", name]),
            Self::ClickHouse => {
                let kind = match parameter.value {
                    Value::Date(_) => "Date",
                    Value::Bigint(_) => "Int64",
                    Value::Text(_) => "String",
                };
                into.extend(["{", name, ":", kind, "}"]);
            }
            Self::Trino => into.push('?'),
        }
    }

    /// The condition that a string contains another.
    pub(super) fn contains(self, string: &str, part: &str) -> String {
        match self {
            Self::DuckDb | Self::Spark | Self::Databricks | Self::Snowflake => {
                format!("contains({string}, {part})")
            }
            Self::BigQuery | Self::Trino => format!("strpos({string}, {part}) > 0"),
            Self::ClickHouse => format!("position({string}, {part}) > 0"),
        }
    }

    /// The condition that a string begins with another.
    pub(super) fn begins(self, string: &str, prefix: &str) -> String {
        let function = match self {
            Self::DuckDb | Self::BigQuery | Self::Trino => "starts_with",
            Self::Spark | Self::Databricks | Self::Snowflake => "startswith",
            Self::ClickHouse => "startsWith",
        };
        format!("{function}({string}, {prefix})")
    }

    /// The condition that a string ends with another.
    pub(super) fn ends(self, string: &str, suffix: &str) -> String {
        let function = match self {
            Self::DuckDb | Self::BigQuery => "ends_with",
            Self::Spark | Self::Databricks | Self::Snowflake => "endswith",
            Self::ClickHouse => "endsWith",
            Self::Trino => return format!("strpos(reverse({string}), reverse({suffix})) = 1"),
        };
        format!("{function}({string}, {suffix})")
    }

    /// The condition that a part of a string matches a regular expression, of which only
    /// Snowflake cannot have the start and the end of a string.
    pub(super) fn matches(self, string: &str, expression: &str) -> String {
        match self {
            Self::DuckDb => format!("regexp_matches({string}, {expression})"),
            Self::Spark | Self::Databricks | Self::Trino => {
                format!("regexp_like({string}, {expression})")
            }
            Self::BigQuery => format!("regexp_contains({string}, {expression})"),
            Self::Snowflake => format!("regexp_instr({string}, {expression}) > 0"),
            Self::ClickHouse => format!("match({string}, {expression})"),
        }
    }

    /// The value that the metadata has under a key, which consists of letters, digits, `-`, `_` and
    /// spaces: a string decoded, a number or boolean as JSON, and null if it is missing or null.
    pub(super) fn value_of(self, key: &str) -> String {
        match self {
            Self::DuckDb => format!("json_extract_string(metadata, '$.\"{key}\"')"),
            Self::Spark | Self::Databricks => {
                format!("get_json_object(metadata, '$[\\'{key}\\']')")
            }
            Self::BigQuery => format!("json_value(metadata, '$.\"{key}\"')"),
            Self::Snowflake => format!("cast(get(try_parse_json(metadata), '{key}') as varchar)"),
            Self::ClickHouse => {
                let object = "ifNull(metadata, '{}')";
                format!(
                    "case toString(JSONType({object}, '{key}')) when 'String' then JSONExtractString({object}, '{key}') when \
                     'Null' then null else JSONExtractRaw({object}, '{key}') end"
                )
            }
            Self::Trino => format!("json_extract_scalar(metadata, '$[\"{key}\"]')"),
        }
    }

    /// A string that is a JSON number as the nearest double.
    pub(super) fn double(self, string: &str) -> String {
        match self {
            Self::DuckDb | Self::Spark | Self::Databricks | Self::Snowflake | Self::Trino => {
                format!("try_cast({string} as double)")
            }
            Self::BigQuery => format!("safe_cast({string} as float64)"),
            Self::ClickHouse => format!("toFloat64OrNull({string})"),
        }
    }

    /// A quotient of two whole numbers, of which the second is not 0, as a double.
    pub(super) fn quotient(self, dividend: &str, divisor: &str) -> String {
        let double = if self == Self::BigQuery {
            "float64"
        } else {
            "double"
        };
        format!("cast({dividend} as {double}) / {divisor}")
    }

    /// A timestamp of the lake as microseconds since 1970.
    pub(super) fn microseconds(self, timestamp: &str) -> String {
        match self {
            Self::DuckDb => format!("epoch_us({timestamp})"),
            Self::Spark | Self::Databricks | Self::BigQuery => format!("unix_micros({timestamp})"),
            Self::Snowflake => format!("date_part(epoch_microsecond, {timestamp})"),
            Self::ClickHouse => format!("toUnixTimestamp64Micro({timestamp})"),
            Self::Trino => {
                format!("cast(round(to_unixtime({timestamp}) * 1000000) as bigint)")
            }
        }
    }
}
