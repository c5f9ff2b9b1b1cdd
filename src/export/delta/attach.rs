//! Statements by which engines find the tables, and the views that the queries read: one file for
//! each engine that can reach the place, with the place filled in. The tables come from
//! `queries/attach/`, the views over them from `queries/views/`.

use super::log::foreign;
use crate::error::Result;
use crate::export::destination::Destination;
use crate::export::layout::{EVENTS_DIR, ROLLUP_DIRS};
use crate::sql::Dialect;

/// The folder of the statements, in the destination.
pub const DIR: &str = "attach";
/// The first line of each file, by which it is recognized before it is replaced.
const HEADER: &str = "-- Written by EchoPilot: the next publication may replace this file.\n";

/// The form in which an engine reads a place; none if it cannot reach it.
type Form = fn(&Place<'_>) -> Option<String>;

/// An engine.
struct Engine {
    name: &'static str,
    /// Its statements, up to the views.
    tables: &'static str,
    /// The dialect of the views, and what stands in the place of some of their parts; none if its
    /// statements have them.
    views: Option<(Dialect, &'static [(&'static str, &'static str)])>,
    form: Form,
}

const ENGINES: [Engine; 9] = [
    Engine {
        name: "duckdb",
        tables: include_str!("../../../queries/attach/duckdb.sql"),
        views: Some((Dialect::DuckDb, &[])),
        form: |place| Some(place.text.to_owned()),
    },
    Engine {
        name: "clickhouse",
        tables: include_str!("../../../queries/attach/clickhouse.sql"),
        views: Some((Dialect::ClickHouse, &[("{source}", "{events}")])),
        form: |place| Some(place.text.to_owned()),
    },
    Engine {
        name: "spark",
        tables: include_str!("../../../queries/attach/spark.sql"),
        views: Some((
            Dialect::Spark,
            &[
                (SPARK_LAKE, "delta.`{place}/events`"),
                (SPARK_LINKS, "delta.`{place}/links`"),
            ],
        )),
        form: |place| match place.bucket {
            Some(_) => place.in_hadoop("s3a"),
            None => Some(place.text.to_owned()),
        },
    },
    Engine {
        name: "databricks",
        tables: include_str!("../../../queries/attach/databricks.sql"),
        views: Some((
            Dialect::Databricks,
            &[
                (SPARK_LAKE, "lake"),
                (SPARK_LINKS, "links"),
                ("temporary view", "view"),
            ],
        )),
        form: |place| place.in_hadoop("s3"),
    },
    Engine {
        name: "bigquery",
        tables: include_str!("../../../queries/attach/bigquery.sql"),
        views: Some((Dialect::BigQuery, &[])),
        form: |place| (place.scheme() == Some("gs")).then(|| place.text.to_owned()),
    },
    Engine {
        name: "snowflake",
        tables: include_str!("../../../queries/attach/snowflake.sql"),
        views: Some((Dialect::Snowflake, &[(FILE_ROWS, "0")])),
        form: |place| {
            let (_, rest) = place.bucket?;
            Some(match place.scheme()? {
                "gs" => format!("gcs://{rest}"),
                "az" => format!("azure://{{account}}.blob.core.windows.net/{rest}"),
                _ => place.text.to_owned(),
            })
        },
    },
    Engine {
        name: "athena",
        tables: include_str!("../../../queries/attach/athena.sql"),
        views: Some((Dialect::Trino, &HIVE_TABLES)),
        form: |place| (place.scheme() == Some("s3")).then(|| place.text.to_owned()),
    },
    Engine {
        name: "trino",
        tables: include_str!("../../../queries/attach/trino.sql"),
        views: Some((Dialect::Trino, &HIVE_TABLES)),
        form: |place| place.in_hadoop("s3"),
    },
    Engine {
        name: "fabric",
        tables: include_str!("../../../queries/attach/fabric.sql"),
        views: None,
        form: |place| place.bucket.map(|_| place.text.to_owned()),
    },
];

/// The events and links in the views of Spark.
const SPARK_LAKE: &str = "parquet.`{lake}`";
const SPARK_LINKS: &str = "parquet.`{lake}/../links/*.parquet`";
/// The tables of the views of Trino.
const HIVE_TABLES: [(&str, &str); 2] = [("{table}", "lake"), ("{links}", "links")];
/// The columns with which the views of Snowflake number the rows of files, which its tables of
/// other formats do not have.
const FILE_ROWS: &str = "row_number() over (partition by dt, coalesce(links.user_id, sent.user_id), ts \
                         order by file_name, file_row) - 1";

impl Engine {
    /// All its statements: those of the tables, and the views over them.
    fn statements(&self) -> String {
        let Some((dialect, others)) = self.views else {
            return self.tables.to_owned();
        };
        let mut views = dialect.views_over_tables().to_owned();
        for (part, other) in others {
            views = views.replace(part, other);
        }
        format!("{}\n{views}", self.tables)
    }
}

/// Where the tables are.
struct Place<'a> {
    /// The absolute path, or the address.
    text: &'a str,
    /// The scheme of an address, and the rest.
    bucket: Option<(&'a str, &'a str)>,
}

impl Place<'_> {
    fn scheme(&self) -> Option<&str> {
        self.bucket.map(|(scheme, _)| scheme)
    }

    /// The address for engines that use the file systems of Hadoop.
    fn in_hadoop(&self, s3: &str) -> Option<String> {
        let (scheme, rest) = self.bucket?;
        Some(match scheme {
            "s3" => format!("{s3}://{rest}"),
            "az" => {
                let (container, path) = rest.split_once('/').unwrap_or((rest, ""));
                format!("abfss://{container}@{{account}}.dfs.core.windows.net/{path}")
            }
            _ => self.text.to_owned(),
        })
    }

    /// The table function of `ClickHouse` for a table.
    fn in_clickhouse(&self, table: &str) -> String {
        match self.bucket {
            None => format!(
                "deltaLakeLocal({})",
                quoted(&format!("{}/{table}", self.text))
            ),
            Some(("az", rest)) => {
                let (container, path) = rest.split_once('/').unwrap_or((rest, ""));
                let path = format!("{path}/{table}/");
                format!(
                    "deltaLakeAzure('{{connection}}', {}, {})",
                    quoted(container),
                    quoted(path.trim_start_matches('/'))
                )
            }
            Some(("gs", rest)) => {
                let url = format!("https://storage.googleapis.com/{rest}/{table}/");
                format!("deltaLake({}, '{{key}}', '{{secret}}')", quoted(&url))
            }
            Some((_, rest)) => {
                let url = format!("{{endpoint}}/{rest}/{table}/");
                format!("deltaLake({}, '{{key}}', '{{secret}}')", quoted(&url))
            }
        }
    }
}

/// A string of SQL. No place has a backslash, which engines treat differently.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The files for a place, each with its path in the destination.
pub fn files(place: &str) -> Vec<(String, String)> {
    let place = Place {
        text: place,
        bucket: place.split_once("://"),
    };
    let (provider, access) = match place.scheme() {
        Some("gs") => ("GCS", ""),
        Some("az") => ("AZURE", "    azure_tenant_id = '{tenant}'\n"),
        _ => ("S3", "    storage_aws_role_arn = '{role}'\n"),
    };
    let files = ENGINES.iter().filter_map(|engine| {
        let mut sql = engine
            .statements()
            .replace("    {access}\n", access)
            .replace("{provider}", provider)
            .replace("{events}", &place.in_clickhouse(EVENTS_DIR));
        for table in ROLLUP_DIRS {
            sql = sql.replace(&format!("{{{table}}}"), &place.in_clickhouse(table));
        }
        let sql = sql.replace("{place}", &(engine.form)(&place)?.replace('\'', "''"));
        let path = format!("{DIR}/{}.sql", engine.name);
        Some((path, format!("{HEADER}{sql}")))
    });
    files.collect()
}

/// The files of which the destination has another content, or none.
///
/// # Errors
/// `bad_target` if a file of another program has one of the names, and if one cannot be read.
pub fn changed(to: &Destination, place: &str) -> Result<Vec<(String, String)>> {
    let mut changed = Vec::new();
    for (path, content) in files(place) {
        let found = to.read(&path)?;
        match &found {
            Some(found) if found.as_slice() == content.as_bytes() => continue,
            Some(found) if !found.starts_with(HEADER.as_bytes()) => {
                return Err(foreign(&to.shown(&path), "was not written by this program"));
            }
            _ => changed.push((path, content)),
        }
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_engine_gets_all_tables_and_the_columns_and_filter_of_the_views() {
        for engine in ENGINES {
            let (name, sql) = (engine.name, engine.statements());
            for column in [
                "day", "ts_us", "day_num", "week_num", "position", "variant", "amount",
            ] {
                let found = sql.matches(&format!(" as {column}")).count();
                assert!(found >= 1, "{name}: {column}");
            }
            for part in [
                "all_events\nwhere event_type <> 'system';",
                "numbers as\nselect ",
                "{place}/daily_rollups",
                "{place}/daily_event_types",
                "{place}/links",
                " on links.alias = sent.user_id;",
            ] {
                let part = match name {
                    "clickhouse" => part
                        .replace("{place}/", "{")
                        .replace("user_id;", "user_id\n"),
                    "snowflake" => part.replace("{place}/", "base_location = '"),
                    _ => part.to_owned(),
                };
                assert!(sql.contains(&part), "{name}: {part}\n{sql}");
            }
            let (tables, views) = sql.split_once("all_events as\n").expect("a view");
            let sources = [
                "read_parquet",
                "parquet.`",
                "{source}",
                "{table}",
                "{lake}",
                "file_row)",
            ];
            let source = sources.iter().find(|source| views.contains(**source));
            assert_eq!(source, None, "{name}");
            assert_eq!(tables.contains("temporary view"), name == "spark", "{name}");
        }
    }

    #[test]
    fn each_engine_gets_the_place_in_its_form_if_it_can_reach_it() {
        let engines = |place: &str| -> Vec<String> {
            let files = files(place).into_iter();
            files.map(|(path, _)| path).collect()
        };
        assert_eq!(
            engines("/srv/lake"),
            ["duckdb", "clickhouse", "spark"].map(|name| format!("attach/{name}.sql"))
        );
        assert_eq!(engines("s3://b/p").len(), 8);
        assert_eq!(engines("gs://b/p").len(), 8);
        assert_eq!(engines("az://c/p").len(), 7);
        for (place, engine, says) in [
            ("s3://b/p", "spark", "delta.`s3a://b/p/events`"),
            ("s3://b/p", "snowflake", "storage_aws_role_arn = '{role}'"),
            (
                "gs://b/p",
                "snowflake",
                "storage_base_url = 'gcs://b/p'\n  ));",
            ),
            ("gs://b/p", "bigquery", "uris = ['gs://b/p/events']"),
            (
                "az://c/p",
                "databricks",
                "location 'abfss://c@{account}.dfs.core.windows.net/p/events'",
            ),
            (
                "/srv/it's",
                "clickhouse",
                "from deltaLakeLocal('/srv/it''s/events') as sent",
            ),
            ("/srv/it's", "duckdb", "delta_scan('/srv/it''s/events')"),
        ] {
            let file = format!("attach/{engine}.sql");
            let found = files(place).into_iter().find(|(path, _)| *path == file);
            let sql = found.map(|(_, sql)| sql).unwrap_or_default();
            assert!(sql.contains(says), "{place} {engine}: {sql}");
        }
    }
}
