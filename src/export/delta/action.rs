//! Actions: what a line of the log of a Delta table does. Fields are those of the protocol; what
//! this program never writes is kept apart, so that a table of another program is recognized.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A map of strings.
pub type Strings = BTreeMap<String, String>;

/// One action; exactly one field is present.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Action {
    /// About the commit, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit_info: Option<CommitInfo>,
    /// The version of the protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// The table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meta_data: Option<Metadata>,
    /// The state of the store that the table has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub txn: Option<Txn>,
    /// A file that belongs to the table from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub add: Option<Add>,
    /// A file that does not belong to it any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remove: Option<Remove>,
    /// Actions that no version of this program writes.
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

/// About a commit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CommitInfo {
    /// Time, in ms since 1970.
    pub timestamp: i64,
    /// Always `WRITE`.
    pub operation: String,
    /// Parameters of the operation.
    pub operation_parameters: Map<String, Value>,
    /// The program.
    pub engine_info: String,
    /// An id that no other commit has: a writer that got no response recognizes its own commit.
    pub txn_id: String,
}

/// The protocol of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Protocol {
    /// Least version of a reader.
    pub min_reader_version: u32,
    /// Least version of a writer.
    pub min_writer_version: u32,
    /// Lists of features.
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

impl Protocol {
    /// The protocol of our tables: the first one with everything they need, which every reader has.
    pub fn ours() -> Self {
        Self {
            min_reader_version: 1,
            min_writer_version: 2,
            others: Map::new(),
        }
    }
}

/// The description of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Id of the table.
    pub id: String,
    /// Its name.
    #[serde(default)]
    pub name: Option<String>,
    /// The format of its files.
    pub format: Format,
    /// Its columns, as JSON.
    pub schema_string: String,
    /// The columns that are in the paths.
    pub partition_columns: Vec<String>,
    /// Settings; ours has the id of the store.
    pub configuration: Strings,
    /// Time, in ms since 1970.
    #[serde(default)]
    pub created_time: Option<i64>,
}

/// The format of the files of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format {
    /// Always `parquet`.
    pub provider: String,
    /// Always empty.
    #[serde(default)]
    pub options: Strings,
}

/// The state of a writer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Txn {
    /// The writer.
    pub app_id: String,
    /// Its state.
    pub version: u64,
    /// Time, in ms since 1970.
    #[serde(default)]
    pub last_updated: Option<i64>,
}

/// A file that belongs to a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Add {
    /// Its path in the folder of the table.
    pub path: String,
    /// Values of the partition columns.
    pub partition_values: Strings,
    /// Its length in bytes.
    pub size: u64,
    /// Time, in ms since 1970.
    pub modification_time: i64,
    /// False if all rows were in the table before.
    pub data_change: bool,
    /// Its statistics, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stats: Option<String>,
    /// Fields that we do not write, such as deletion vectors.
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

/// A file that belonged to a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Remove {
    /// Its path in the folder of the table.
    pub path: String,
    /// Time, in ms since 1970.
    #[serde(default)]
    pub deletion_timestamp: i64,
    /// False if all rows are still in the table.
    pub data_change: bool,
    /// The fields below are present.
    #[serde(default)]
    pub extended_file_metadata: bool,
    /// Values of the partition columns.
    #[serde(default)]
    pub partition_values: Strings,
    /// Its length in bytes.
    #[serde(default)]
    pub size: u64,
    /// Ours has the time at which the file is deleted.
    #[serde(default)]
    pub tags: Strings,
}

/// Keys in [`Remove::tags`]: the time at which the file is deleted, in ms since 1970, and that rows
/// of it are in no other file now.
const DELETE_AT: &str = "echopilot.deleteAt";
const LOST_ROWS: &str = "echopilot.lostRows";

impl Remove {
    /// The removal of a file, which is deleted at `delete_at`. Times are in ms since 1970.
    pub fn of(add: &Add, now: i64, delete_at: i64, has_lost_rows: bool) -> Self {
        let mut tags = Strings::from([(DELETE_AT.to_owned(), delete_at.to_string())]);
        if has_lost_rows {
            tags.insert(LOST_ROWS.to_owned(), true.to_string());
        }
        Self {
            path: add.path.clone(),
            deletion_timestamp: now,
            data_change: true,
            extended_file_metadata: true,
            partition_values: add.partition_values.clone(),
            size: add.size,
            tags,
        }
    }

    /// Time at which the file is deleted, in ms since 1970.
    pub fn delete_at(&self) -> i64 {
        let delete_at = self.tags.get(DELETE_AT).and_then(|at| at.parse().ok());
        delete_at.unwrap_or(self.deletion_timestamp)
    }

    /// True if rows of it are in no other file now.
    pub fn has_lost_rows(&self) -> bool {
        self.tags.contains_key(LOST_ROWS)
    }
}

impl From<Protocol> for Action {
    fn from(protocol: Protocol) -> Self {
        Self {
            protocol: Some(protocol),
            ..Self::default()
        }
    }
}

impl From<Metadata> for Action {
    fn from(meta_data: Metadata) -> Self {
        Self {
            meta_data: Some(meta_data),
            ..Self::default()
        }
    }
}

impl From<Txn> for Action {
    fn from(txn: Txn) -> Self {
        Self {
            txn: Some(txn),
            ..Self::default()
        }
    }
}

impl From<Add> for Action {
    fn from(add: Add) -> Self {
        Self {
            add: Some(add),
            ..Self::default()
        }
    }
}

impl From<Remove> for Action {
    fn from(remove: Remove) -> Self {
        Self {
            remove: Some(remove),
            ..Self::default()
        }
    }
}
