//! The tracking plan as it is written: the file in the data folder, and the body of requests.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::error::{Error, ErrorCode, Result};
use crate::store::folder::Folder;

/// Its name in the data folder.
pub const FILE_NAME: &str = "plan.json";
/// Most bytes of a plan as JSON. It bounds the memory of what is compiled from it.
pub(super) const MAX_PLAN_BYTES: usize = 256 << 10;
/// Most declared event types: they are columns of tables and charts.
pub(super) const MAX_EVENT_TYPES: usize = 200;
/// Most path rules: each page view is compared with all of them.
pub(super) const MAX_PATHS: usize = 200;

/// The treatment of an event that does not follow a rule.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It is stored. The rule is documentation.
    Accept,
    /// It is stored, counted, and reported in the response.
    #[default]
    Warn,
    /// It is kept in the quarantine, and in no number until it is replayed.
    Quarantine,
}

/// A tracking plan.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Plan {
    /// Event types. `page_view`, `action` and `conversion` need no entry; any other type is
    /// rejected without one.
    #[schema(max_items = 200)]
    pub event_types: Vec<Rule>,
    /// The features of `conversion` events: the goals. An event of a client of another product
    /// that has one of these names is stored as a conversion.
    pub conversions: Vec<Rule>,
    /// The features of all other events.
    pub features: Vec<Rule>,
    /// Paths of pages that are one page, whatever the ids in them are.
    #[schema(max_items = 200)]
    pub paths: Vec<PathRule>,
    /// Treatment of events that no entry is about.
    pub undeclared: Undeclared,
}

/// An entry of the plan.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The name of the event type or the feature.
    #[schema(min_length = 1, max_length = 200)]
    pub name: String,
    /// Its meaning, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 2_000)]
    pub description: String,
    /// A JSON Schema of the metadata, without references.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Map<String, Value>>,
    /// Treatment of an event whose metadata does not match the schema.
    #[serde(default)]
    pub mode: Mode,
}

/// A group of paths: the feature of a page view whose path matches becomes the pattern.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PathRule {
    /// The pattern, such as `/order/:id`. A segment that begins with a colon stands for any one
    /// segment. The first pattern that matches counts.
    pub path: String,
    /// Its meaning, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 2_000)]
    pub description: String,
}

/// The treatment of events that no entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Undeclared {
    /// Events with a feature that is not in `features`. Page views and `system` events are never
    /// undeclared.
    pub features: Mode,
    /// Conversions whose feature is not in `conversions`, or that have none.
    pub conversions: Mode,
}

impl Default for Undeclared {
    fn default() -> Self {
        Self {
            features: Mode::Accept,
            conversions: Mode::Accept,
        }
    }
}

impl Plan {
    /// Reads the plan of a data folder; an empty one if there is none.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the file does not match its checksum.
    pub fn load(folder: &Folder) -> Result<Self> {
        folder.read_json(FILE_NAME)
    }

    /// Writes the plan, durably.
    ///
    /// # Errors
    /// If the file cannot be written; then the old one is unchanged.
    pub fn save(&self, folder: &Folder) -> Result<()> {
        folder.replace_json(FILE_NAME, self)
    }

    /// Reads a plan from JSON.
    ///
    /// # Errors
    /// `bad_plan`, with the place, the value and what is allowed.
    pub fn parse(json: &[u8]) -> Result<Self> {
        if json.len() > MAX_PLAN_BYTES {
            let found = json.len();
            return Err(bad(format!(
                "the plan has {found} bytes; allowed are {MAX_PLAN_BYTES}"
            )));
        }
        // A list would be read as the fields in their order.
        if !json.trim_ascii_start().starts_with(b"{") {
            return Err(bad("the plan is not a JSON object".into()));
        }
        let mut reader = serde_json::Deserializer::from_slice(json);
        let plan = serde_path_to_error::deserialize(&mut reader)
            .map_err(|error| bad(error.to_string()))?;
        reader.end().map_err(|error| bad(error.to_string()))?;
        Ok(plan)
    }
}

pub(super) fn bad(message: String) -> Error {
    Error::bad_input(ErrorCode::BadPlan, message)
}
