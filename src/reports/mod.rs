//! Saved reports and boards: one readable file in the data folder, replaced atomically, with the
//! earlier versions of each.

pub mod annotations;
pub mod links;

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::error::{Error, ErrorCode, Result, first_chars, shown};
use crate::metrics::query::Query;
use crate::store::folder::Folder;
use crate::window::utc_string;

/// Its name in the data folder.
pub const FILE_NAME: &str = "reports.json";
/// Most reports and boards together: a list that a person can still read.
const MAX_REPORTS: usize = 500;
/// Most earlier versions of a report.
const MAX_EARLIER: usize = 20;
/// Most bytes of all earlier versions, as JSON; the oldest are dropped.
const MAX_EARLIER_BYTES: usize = 8 << 20;
/// Most bytes of the state of a view, as JSON.
const MAX_STATE_BYTES: usize = 16 << 10;
/// Most queries of a report.
const MAX_QUERIES: usize = 20;
/// Most bytes of the queries of a report, as JSON.
const MAX_QUERIES_BYTES: usize = 64 << 10;
/// Most reports of a board.
const MAX_ITEMS: usize = 50;
/// Most characters of an id.
const MAX_ID_CHARS: usize = 64;
/// Most characters of a name.
pub const MAX_NAME_CHARS: usize = 200;
/// The field of a filter whose values are ids of users.
const USER_ID: &str = "user_id";
/// The words in the place of the id of an erased user.
const ERASED: &str = "(erased user)";
/// Most characters of a description.
const MAX_DESCRIPTION_CHARS: usize = 2_000;

/// The kinds of saved reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ReportKind)]
pub enum Kind {
    /// A view of the dashboard, with its queries.
    Report,
    /// A list of reports.
    Board,
}

/// The content of a report or board: what a client chooses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = ReportContent)]
pub struct Content {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    #[schema(min_length = 1, max_length = 200)]
    pub name: String,
    /// Its description.
    #[serde(default)]
    #[schema(max_length = 2_000)]
    pub description: String,
    /// Of a report: the view of the dashboard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 64)]
    pub view: Option<String>,
    /// Of a report: the state of the view, which the dashboard defines.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schema(value_type = Object)]
    pub state: Map<String, Value>,
    /// Of a report: the queries of the view, exactly as it sends them. A share link allows these
    /// and no others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>, max_items = 20)]
    pub queries: Vec<Map<String, Value>>,
    /// Of a board: the ids of its reports, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 50)]
    pub items: Vec<String>,
}

/// A version of a report or board.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Report {
    /// Its id.
    #[schema(pattern = "^[a-z0-9-]{1,64}$")]
    pub id: String,
    /// Its content.
    #[serde(flatten)]
    pub content: Content,
    /// Number of the version, from 1.
    #[schema(minimum = 1)]
    pub version: u64,
    /// Time of the change.
    pub updated_at: String,
    /// Name of the key that changed it.
    #[serde(default)]
    pub updated_by: String,
}

/// A report as a client sends it: its content and the version that it was made from.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReportRequest {
    /// As in the path, if given.
    #[serde(default)]
    pub id: Option<String>,
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    #[schema(min_length = 1, max_length = 200)]
    pub name: String,
    /// Its description.
    #[serde(default)]
    #[schema(max_length = 2_000)]
    pub description: String,
    /// Of a report: the view of the dashboard.
    #[serde(default)]
    #[schema(max_length = 64)]
    pub view: Option<String>,
    /// Of a report: the state of the view, at most 16 KiB of JSON.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub state: Map<String, Value>,
    /// Of a report: the queries of the view, exactly as it sends them.
    #[serde(default)]
    #[schema(value_type = Vec<Object>, max_items = 20)]
    pub queries: Vec<Map<String, Value>>,
    /// Of a board: the ids of its reports, in order.
    #[serde(default)]
    #[schema(max_items = 50)]
    pub items: Vec<String>,
    /// The version that it replaces, 0 for a report that must not exist. If absent, any version is
    /// replaced.
    #[serde(default)]
    #[schema(minimum = 0)]
    pub version: Option<u64>,
    /// Ignored: the server sets it.
    #[serde(default)]
    pub updated_at: Option<String>,
    /// Ignored: the server sets it.
    #[serde(default)]
    pub updated_by: Option<String>,
}

/// A change of a report: who makes it and when.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// Name of the key.
    pub by: &'a str,
    /// Time.
    pub now: DateTime<Utc>,
}

impl ReportRequest {
    /// Reads a report from JSON.
    ///
    /// # Errors
    /// `bad_report`, with the field, the value and what is allowed.
    pub fn parse(json: &[u8]) -> Result<Self> {
        parse(json, ErrorCode::BadReport)
    }

    /// Checks it, and returns its content.
    fn checked(self) -> Result<Content, String> {
        check_name("name", &self.name)?;
        check_string("description", &self.description, MAX_DESCRIPTION_CHARS)?;
        let content = Content {
            kind: self.kind,
            name: self.name,
            description: self.description,
            view: self.view,
            state: self.state,
            queries: self.queries,
            items: self.items,
        };
        content.check()?;
        Ok(content)
    }
}

impl Content {
    /// Checks the fields of its kind.
    fn check(&self) -> Result<(), String> {
        let is_report = self.kind == Kind::Report;
        let has_view = self.view.is_some() || !self.state.is_empty() || !self.queries.is_empty();
        if !is_report && has_view {
            return Err("a board has a view, state or queries; allowed are items".into());
        }
        if is_report && !self.items.is_empty() {
            return Err("a report has items; allowed are view, state and queries".into());
        }
        if let Some(view) = &self.view {
            check_id("view", view)?;
        }
        check_bytes("state", &self.state, MAX_STATE_BYTES)?;
        check_length("queries", self.queries.len(), MAX_QUERIES)?;
        check_bytes("queries", &self.queries, MAX_QUERIES_BYTES)?;
        for (place, query) in self.queries.iter().enumerate() {
            Query::of_object(query.clone())
                .map_err(|error| format!("queries[{place}]: {error}"))?;
        }
        check_length("items", self.items.len(), MAX_ITEMS)?;
        for (place, item) in self.items.iter().enumerate() {
            check_id(&format!("items[{place}]"), item)?;
            if self.items.iter().take(place).any(|other| other == item) {
                return Err(format!("items[{place}] is {item:?} a second time"));
            }
        }
        Ok(())
    }
}

/// A report with its earlier versions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Saved {
    report: Report,
    /// Oldest first.
    #[serde(default)]
    earlier: Vec<Report>,
}

/// All reports and boards.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Reports {
    /// Sorted by id, each id once.
    saved: Vec<Saved>,
}

impl Reports {
    /// Reads the reports.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the file does not match its checksum.
    pub fn load(folder: &Folder) -> Result<Self> {
        folder.read_json(FILE_NAME)
    }

    /// Writes the reports, durably.
    ///
    /// # Errors
    /// If the file cannot be written; then the old one is unchanged.
    pub fn save(&self, folder: &Folder) -> Result<()> {
        folder.replace_json(FILE_NAME, self)
    }

    /// The newest version of each, sorted by id.
    pub fn all(&self) -> impl Iterator<Item = &Report> {
        self.saved.iter().map(|saved| &saved.report)
    }

    /// The newest version of a report.
    ///
    /// # Errors
    /// `unknown_report`.
    pub fn find(&self, id: &str) -> Result<&Report> {
        self.saved(id).map(|saved| &saved.report)
    }

    /// The earlier versions of a report, newest first.
    ///
    /// # Errors
    /// `unknown_report`.
    pub fn earlier(&self, id: &str) -> Result<Vec<Report>> {
        Ok(self.saved(id)?.earlier.iter().rev().cloned().collect())
    }

    /// The reports of a board, in order; of a report itself none.
    pub fn of_board(&self, board: &Report) -> Vec<Report> {
        let items = board.content.items.iter();
        items.filter_map(|id| self.find(id).ok().cloned()).collect()
    }

    /// Creates or replaces a report.
    ///
    /// # Errors
    /// `bad_report` if it is wrong or there are too many, and `report_changed` if it was made from
    /// another version than the stored one.
    pub fn set(&mut self, id: &str, request: ReportRequest, change: Change<'_>) -> Result<Report> {
        let bad = |message: String| Error::bad_input(ErrorCode::BadReport, message);
        check_id("id", id).map_err(bad)?;
        if let Some(other) = request.id.as_deref().filter(|other| *other != id) {
            let other = shown(other);
            return Err(bad(format!("id is {other:?}, and in the path {id:?}")));
        }
        let version = request.version;
        let content = request.checked().map_err(bad)?;
        for (place, item) in content.items.iter().enumerate() {
            let found = self.find(item).map(|report| report.content.kind);
            if !matches!(found, Ok(Kind::Report)) {
                let message = format!("items[{place}] is {item:?}; allowed is the id of a report");
                return Err(bad(message));
            }
        }
        let stored_version = self.find(id).map_or(0, |report| report.version);
        if let Some(version) = version.filter(|version| *version != stored_version) {
            return Err(Error::Conflict {
                code: ErrorCode::ReportChanged,
                message: match stored_version {
                    0 => format!("there is no report {id:?}, and version is {version}"),
                    _ => format!(
                        "version is {version}, and the report has version {stored_version}; load it, and change that"
                    ),
                },
            });
        }
        let report = Report {
            id: id.to_owned(),
            content,
            version: stored_version + 1,
            updated_at: utc_string(change.now),
            updated_by: change.by.to_owned(),
        };
        match self.place(id) {
            Ok(place) => {
                if let Some(saved) = self.saved.get_mut(place) {
                    saved.replace(report.clone());
                }
            }
            Err(_) if self.saved.len() >= MAX_REPORTS => {
                return Err(bad(format!(
                    "there are {MAX_REPORTS} reports and boards, which is the limit; remove one first"
                )));
            }
            Err(place) => self.saved.insert(
                place,
                Saved {
                    report: report.clone(),
                    earlier: Vec::new(),
                },
            ),
        }
        self.drop_old_versions(MAX_EARLIER_BYTES);
        Ok(report)
    }

    /// Removes a report with its earlier versions, also from the boards that list it.
    ///
    /// # Errors
    /// `unknown_report`.
    pub fn remove(&mut self, id: &str, change: Change<'_>) -> Result<()> {
        self.find(id)?;
        self.saved.retain(|saved| saved.report.id != id);
        for saved in &mut self.saved {
            if saved.report.content.items.iter().any(|item| item == id) {
                let mut without = saved.report.clone();
                without.content.items.retain(|item| item != id);
                without.version += 1;
                without.updated_at = utc_string(change.now);
                without.updated_by = change.by.to_owned();
                saved.replace(without);
            }
        }
        self.drop_old_versions(MAX_EARLIER_BYTES);
        Ok(())
    }

    /// Removes users from filters by `user_id` and from states of views, also from those of earlier
    /// versions. The versions keep their numbers. Returns the number of reports that had one.
    pub fn forget(&mut self, users: &HashSet<&str>) -> usize {
        let mut changed = 0;
        for saved in &mut self.saved {
            let before = saved.clone();
            for report in saved.earlier.iter_mut().chain([&mut saved.report]) {
                // The dashboard may keep the id of a user anywhere in its state.
                let state = report.content.state.values_mut();
                state.for_each(|value| forget(value, users, IsOfUsers::Yes));
                for query in &mut report.content.queries {
                    forget_in_query(query, users);
                }
            }
            changed += usize::from(*saved != before);
        }
        changed
    }

    fn place(&self, id: &str) -> Result<usize, usize> {
        self.saved
            .binary_search_by(|saved| saved.report.id.as_str().cmp(id))
    }

    fn saved(&self, id: &str) -> Result<&Saved> {
        let found = self.place(id).ok().and_then(|place| self.saved.get(place));
        found.ok_or_else(|| {
            let id = shown(id);
            Error::NotFound {
                code: ErrorCode::UnknownReport,
                message: format!("there is no report {id:?}"),
            }
        })
    }

    /// Drops the oldest versions beyond the bytes that all of them may take.
    fn drop_old_versions(&mut self, most_bytes: usize) {
        let mut sizes: Vec<(String, u64, usize, String)> = Vec::new();
        for saved in &self.saved {
            for earlier in &saved.earlier {
                let at = earlier.updated_at.clone();
                let id = saved.report.id.clone();
                sizes.push((at, earlier.version, bytes_of(earlier), id));
            }
        }
        let mut bytes: usize = sizes.iter().map(|(_, _, bytes, _)| bytes).sum();
        // Those of one report stay in their order, so that the oldest is its first.
        sizes.sort_by(|one, other| (&one.0, one.1).cmp(&(&other.0, other.1)));
        for (_, _, of_version, id) in sizes {
            if bytes <= most_bytes {
                return;
            }
            if let Some(saved) = self.saved.iter_mut().find(|saved| saved.report.id == id) {
                saved.earlier.remove(0);
                bytes -= of_version;
            }
        }
    }
}

impl Saved {
    fn replace(&mut self, report: Report) {
        let earlier = std::mem::replace(&mut self.report, report);
        self.earlier.push(earlier);
        let surplus = self.earlier.len().saturating_sub(MAX_EARLIER);
        self.earlier.drain(..surplus);
    }
}

/// Tells whether strings of a value can be ids of users.
#[derive(Clone, Copy, PartialEq, Eq)]
enum IsOfUsers {
    Yes,
    No,
}

/// Removes users from the filters by `user_id` of a query.
pub(crate) fn forget_in_query(query: &mut Map<String, Value>, users: &HashSet<&str>) {
    for (name, value) in query {
        let is_of_users = match name == USER_ID {
            true => IsOfUsers::Yes,
            false => IsOfUsers::No,
        };
        forget(value, users, is_of_users);
    }
}

/// Replaces ids of users by words that are not the id of one.
fn forget(value: &mut Value, users: &HashSet<&str>, is_of_users: IsOfUsers) {
    match value {
        Value::String(id) if is_of_users == IsOfUsers::Yes && users.contains(id.as_str()) => {
            ERASED.clone_into(id);
        }
        Value::Array(list) => {
            for value in list {
                forget(value, users, is_of_users);
            }
        }
        Value::Object(fields) if is_of_users == IsOfUsers::Yes => {
            for value in fields.values_mut() {
                forget(value, users, is_of_users);
            }
        }
        Value::Object(fields) => forget_in_query(fields, users),
        _ => {}
    }
}

/// Reads a value from JSON; the message of a failure begins with the path of the field.
///
/// # Errors
/// An error with this code.
pub(crate) fn parse<T: DeserializeOwned>(json: &[u8], code: ErrorCode) -> Result<T> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let message = error.to_string();
        Error::bad_input(code, first_chars(&message, 400))
    })?;
    reader
        .end()
        .map_err(|error| Error::bad_input(code, error.to_string()))?;
    Ok(value)
}

/// Checks an id: letters, digits and hyphens.
pub(crate) fn check_id(field: &str, id: &str) -> Result<(), String> {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=MAX_ID_CHARS).contains(&id.len()) && id.bytes().all(is_allowed) {
        return Ok(());
    }
    let id = shown(id);
    Err(format!(
        "{field} is {id:?}; allowed are 1 to {MAX_ID_CHARS} of the characters a-z, 0-9 and -"
    ))
}

/// Checks a name: one line that is not blank.
pub(crate) fn check_name(field: &str, name: &str) -> Result<(), String> {
    check_string(field, name, MAX_NAME_CHARS)?;
    if name.trim().is_empty() || name.chars().any(char::is_control) {
        let name = shown(name);
        return Err(format!("{field} is {name:?}; allowed is a line of words"));
    }
    Ok(())
}

/// Checks the length of a string, which may have several lines.
pub(crate) fn check_string(field: &str, value: &str, most: usize) -> Result<(), String> {
    let length = value.chars().count();
    if length > most {
        return Err(format!(
            "{field} has {length} characters; allowed are {most}"
        ));
    }
    let is_wrong = |one: char| one.is_control() && one != '\n' && one != '\t';
    if let Some(wrong) = value.chars().find(|one| is_wrong(*one)) {
        return Err(format!(
            "{field} has the control character {wrong:?}; allowed are words and newlines"
        ));
    }
    Ok(())
}

/// Checks the length of a list.
pub(crate) fn check_length(field: &str, length: usize, most: usize) -> Result<(), String> {
    if length > most {
        return Err(format!("{field} has {length} entries; allowed are {most}"));
    }
    Ok(())
}

fn check_bytes(field: &str, value: &impl Serialize, most: usize) -> Result<(), String> {
    let bytes = bytes_of(value);
    if bytes > most {
        return Err(format!(
            "{field} has {bytes} bytes of JSON; allowed are {most}"
        ));
    }
    Ok(())
}

fn bytes_of(value: &impl Serialize) -> usize {
    // No value has a map whose keys are not strings.
    serde_json::to_vec(value).map_or(usize::MAX / MAX_REPORTS, |json| json.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const BY: &str = "anna";

    fn change() -> Change<'static> {
        Change {
            by: BY,
            now: DateTime::UNIX_EPOCH,
        }
    }

    fn set(reports: &mut Reports, id: &str, body: Value) -> Result<Report, String> {
        let request = ReportRequest::parse(body.to_string().as_bytes());
        let set = request.and_then(|request| reports.set(id, request, change()));
        set.map_err(|error| error.to_string())
    }

    fn report(name: &str) -> Value {
        json!({"kind": "report", "name": name, "view": "trends", "state": {"days": 30},
               "queries": [{"metric": "active_users", "days": 30}]})
    }

    #[test]
    fn each_change_is_a_version_and_a_stale_one_changes_nothing() {
        let mut reports = Reports::default();
        let first = set(&mut reports, "weekly", report("Weekly")).expect("a report");
        assert_eq!((first.version, first.updated_by.as_str()), (1, BY));
        let mut next = report("Weekly users");
        next["version"] = json!(1);
        assert_eq!(
            set(&mut reports, "weekly", next.clone()).map(|report| report.version),
            Ok(2)
        );
        let stale = set(&mut reports, "weekly", next).expect_err("it is stale");
        assert!(stale.contains("has version 2"), "{stale}");
        next = report("new");
        next["version"] = json!(0);
        assert!(set(&mut reports, "weekly", next.clone()).is_err());
        assert_eq!(
            set(&mut reports, "new", next).map(|report| report.version),
            Ok(1)
        );
        next = report("gone");
        next["version"] = json!(3);
        let gone = set(&mut reports, "gone", next).expect_err("it does not exist");
        assert!(gone.contains("there is no report"), "{gone}");
        let names: Vec<String> = reports
            .earlier("weekly")
            .expect("versions")
            .into_iter()
            .map(|report| report.content.name)
            .collect();
        assert_eq!(names, ["Weekly"]);
        for number in 0..30 {
            set(&mut reports, "weekly", report(&format!("n {number}"))).expect("a version");
        }
        let earlier = reports.earlier("weekly").expect("versions");
        assert_eq!(earlier.len(), MAX_EARLIER);
        assert_eq!(earlier.first().map(|report| report.version), Some(31));
    }

    #[test]
    fn boards_list_existing_reports_and_lose_removed_ones() {
        let mut reports = Reports::default();
        for id in ["a", "b"] {
            set(&mut reports, id, report(id)).expect("a report");
        }
        let board = |items: Value| json!({"kind": "board", "name": "Board", "items": items});
        set(&mut reports, "board", board(json!(["b", "a"]))).expect("a board");
        for (items, says) in [
            (json!(["a", "none"]), "items[1] is \"none\""),
            (json!(["board"]), "items[0] is \"board\""),
            (json!(["a", "a"]), "items[1] is \"a\" a second time"),
            (json!(["A"]), "items[0] is \"A\""),
            (json!(vec!["a"; 51]), "items has 51 entries"),
        ] {
            let rejected = set(&mut reports, "board", board(items)).expect_err(says);
            assert!(rejected.contains(says), "{rejected}");
        }
        let found = reports.find("board").expect("a board").clone();
        let ids = |reports: Vec<Report>| reports.into_iter().map(|report| report.id);
        assert!(ids(reports.of_board(&found)).eq(["b", "a"]));
        reports.remove("b", change()).expect("it exists");
        let found = reports.find("board").expect("a board");
        assert_eq!(
            (found.version, &found.content.items),
            (2, &vec!["a".to_owned()])
        );
        assert!(reports.remove("b", change()).is_err());
    }

    #[test]
    fn a_wrong_report_is_rejected_with_its_place() {
        let wrong = |name: &str, value: Value| {
            let mut body = report("Weekly");
            body[name] = value;
            set(&mut Reports::default(), "weekly", body).expect_err(name)
        };
        for (name, value, says) in [
            ("name", json!(" "), "name is \" \""),
            ("name", json!("a\nb"), "name is \"a\\nb\""),
            ("name", json!("x".repeat(201)), "name has 201 characters"),
            ("description", json!("\u{0}"), "description has the control"),
            ("kind", json!("chart"), "kind: unknown variant"),
            ("view", json!("../x"), "view is \"../x\""),
            ("state", json!({"x": "y".repeat(17 << 10)}), "state has"),
            ("state", json!([]), "state: invalid type"),
            (
                "queries",
                json!([{"metric": "x"}]),
                "queries[0]: metric is \"x\"",
            ),
            (
                "queries",
                json!([{"metric": "active_users"}, {"metric": "active_users", "day": 1}]),
                "queries[1]: ",
            ),
            (
                "queries",
                json!(vec![json!({"metric": "active_users"}); 21]),
                "queries has 21 entries",
            ),
            ("items", json!(["a"]), "a report has items"),
            ("id", json!("other"), "id is \"other\""),
            ("colour", json!("red"), "unknown field"),
        ] {
            let said = wrong(name, value);
            assert!(said.contains(says), "{name}: {said}");
        }
        for id in ["", "A", "a b", "a/b", "é", &"x".repeat(65)] {
            assert!(
                set(&mut Reports::default(), id, report("x")).is_err(),
                "{id}"
            );
        }
    }

    #[test]
    fn erased_users_are_removed_from_all_versions() {
        let mut reports = Reports::default();
        let body = json!({"kind": "report", "name": "A", "state": {"page": {"user": "ann"}, "of": ["ben"]},
            "queries": [{"metric": "feature_usage", "filter": {"feature": ["ann", "x"]}}]});
        let request = ReportRequest::parse(body.to_string().as_bytes()).expect("a report");
        reports
            .set("a", request.clone(), change())
            .expect("a version");
        let mut again = request;
        again.name = "B".into();
        reports.set("a", again, change()).expect("a version");
        // As a query that filters by users has it.
        for saved in &mut reports.saved {
            for report in saved.earlier.iter_mut().chain([&mut saved.report]) {
                let filter =
                    json!({"any": [{"user_id": ["ann", "cid"]}, {"user_id": {"not": "ann"}}]});
                let query = report.content.queries.first_mut().expect("a query");
                query.insert("exclude".into(), filter);
            }
        }
        assert_eq!(reports.forget(&HashSet::from(["ann", "dan"])), 1);
        assert_eq!(reports.forget(&HashSet::from(["ann", "dan"])), 0);
        let expected = json!({
            "state": {"page": {"user": ERASED}, "of": ["ben"]},
            "queries": [{"metric": "feature_usage", "filter": {"feature": ["ann", "x"]},
                "exclude": {"any": [{"user_id": [ERASED, "cid"]}, {"user_id": {"not": ERASED}}]}}],
        });
        let mut all = reports.earlier("a").expect("versions");
        all.push(reports.find("a").expect("a report").clone());
        assert_eq!(all.len(), 2);
        for report in all {
            let found = serde_json::to_value(&report).expect("JSON");
            for field in ["state", "queries"] {
                assert_eq!(found[field], expected[field]);
            }
        }
    }

    #[test]
    fn the_oldest_versions_are_dropped_beyond_their_bytes() {
        let mut reports = Reports::default();
        for round in 0..6 {
            for id in ["a", "b", "c"] {
                set(&mut reports, id, report(&format!("{id} {round}"))).expect("a version");
            }
        }
        let versions = |reports: &Reports, id: &str| -> Vec<u64> {
            let earlier = reports.earlier(id).expect("versions").into_iter();
            earlier.map(|report| report.version).collect()
        };
        assert_eq!(versions(&reports, "a"), [5, 4, 3, 2, 1]);
        let one = bytes_of(reports.find("a").expect("a report"));
        reports.drop_old_versions(8 * one);
        assert_eq!(versions(&reports, "a"), [5, 4]);
        assert_eq!(versions(&reports, "b"), [5, 4, 3]);
        assert_eq!(versions(&reports, "c"), [5, 4, 3]);
    }
}
