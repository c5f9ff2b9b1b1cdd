//! Saved reports and boards, annotations and share links.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tracing::warn;
use utoipa::ToSchema;

use super::{Action, By, Engine};
use crate::error::{Error, ErrorCode, Result};
use crate::reports::annotations::{Annotation, AnnotationRequest, Annotations};
use crate::reports::links::{Link, LinkRequest, Links, NewLink};
use crate::reports::{self, Change, Report, ReportRequest, Reports};
use crate::store::folder::Folder;

/// All reports and boards.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ReportsAnswer {
    /// Always true.
    pub ok: bool,
    /// Sorted by id.
    pub reports: Vec<Report>,
}

/// A report or board.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ReportAnswer {
    /// Always true.
    pub ok: bool,
    /// Its newest version.
    pub report: Report,
}

/// The earlier versions of a report or board.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct HistoryAnswer {
    /// Always true.
    pub ok: bool,
    /// Newest first, at most 20, without the present one.
    pub history: Vec<Report>,
}

/// All annotations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct AnnotationsAnswer {
    /// Always true.
    pub ok: bool,
    /// Sorted by date.
    pub annotations: Vec<Annotation>,
}

/// A new share link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct LinkAnswer {
    /// Always true.
    pub ok: bool,
    /// The link with its token, which is in no other response.
    pub link: NewLink,
}

/// The share links of a report or board.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct LinksAnswer {
    /// Always true.
    pub ok: bool,
    /// Oldest first, without those that have expired.
    pub links: Vec<Link>,
}

/// Result of an import of reports and annotations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct ReportsImportAnswer {
    /// Always true.
    pub ok: bool,
    /// Reports and boards that were created or replaced.
    pub reports: usize,
    /// Annotations that were created or replaced.
    pub annotations: usize,
}

/// Reports and annotations, as an export has them.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReportsImport {
    /// Reports and boards, each with its id; versions are ignored.
    #[serde(default)]
    pub reports: Vec<ReportRequest>,
    /// Annotations, each with its id.
    #[serde(default)]
    pub annotations: Vec<AnnotationRequest>,
}

impl ReportsImport {
    /// Reads reports and annotations from JSON.
    ///
    /// # Errors
    /// `bad_report`, with the field, the value and what is allowed.
    pub fn parse(json: &[u8]) -> Result<Self> {
        reports::parse(json, ErrorCode::BadReport)
    }
}

/// The report or board of a share link, and the queries that the link allows.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Shared {
    /// Always true.
    pub ok: bool,
    /// Time from which the link is not valid.
    pub expires_at: DateTime<Utc>,
    /// The report or board.
    pub report: Report,
    /// The reports of a board, in order.
    pub reports: Vec<Report>,
    /// All annotations.
    pub annotations: Vec<Annotation>,
}

impl Shared {
    /// True if the report, or one of the board, has this query and its result has no user ids.
    pub fn allows(&self, query: &Value) -> bool {
        let Value::Object(query) = query else {
            return false;
        };
        let all = std::iter::once(&self.report).chain(&self.reports);
        let mut listed = all.flat_map(|report| &report.content.queries);
        !shows_users(query) && listed.any(|listed| listed == query)
    }
}

/// True for a query whose rows are events, or have ids of users.
fn shows_users(query: &Map<String, Value>) -> bool {
    let is = |field: &str, value: &str| query.get(field).and_then(Value::as_str) == Some(value);
    is("metric", "events") || is("breakdown", "user_id")
}

/// Reads the links; a damaged file has none, and `verify` reports it.
pub(super) fn load_links(folder: &Folder) -> Links {
    Links::load(folder).unwrap_or_else(|error| {
        warn!("No share link is valid: {error}");
        Links::default()
    })
}

impl Engine {
    /// All reports and boards.
    ///
    /// # Errors
    /// If the file is damaged.
    pub fn reports(&self) -> Result<ReportsAnswer> {
        Ok(ReportsAnswer::of(&self.load_reports()?))
    }

    /// A report or board.
    ///
    /// # Errors
    /// `unknown_report`, and if the file is damaged.
    pub fn report(&self, id: &str) -> Result<ReportAnswer> {
        let report = self.load_reports()?.find(id)?.clone();
        Ok(ReportAnswer { ok: true, report })
    }

    /// The earlier versions of a report or board.
    ///
    /// # Errors
    /// `unknown_report`, and if the file is damaged.
    pub fn report_history(&self, id: &str) -> Result<HistoryAnswer> {
        let history = self.load_reports()?.earlier(id)?;
        Ok(HistoryAnswer { ok: true, history })
    }

    /// All annotations.
    ///
    /// # Errors
    /// If the file is damaged.
    pub fn annotations(&self) -> Result<AnnotationsAnswer> {
        Annotations::load(self.store.folder()).map(AnnotationsAnswer::from)
    }

    /// The share links of a report or board.
    ///
    /// # Errors
    /// `unknown_report`, and if the file is damaged.
    pub fn links(&self, report: &str, now: DateTime<Utc>) -> Result<LinksAnswer> {
        self.load_reports()?.find(report)?;
        let links = self.links.read().of(report, now);
        Ok(LinksAnswer { ok: true, links })
    }

    /// The share link whose token has this SHA-256, if it is valid. It reads no file.
    pub fn link_with_token(&self, sha256: &[u8; 32], now: DateTime<Utc>) -> Option<Link> {
        self.links.read().with_token(sha256, now).cloned()
    }

    /// Origins whose pages may embed a share link; none if it is not valid. It reads no file.
    pub fn link_origins(&self, id: &str, now: DateTime<Utc>) -> Vec<String> {
        self.links.read().origins(id, now).to_vec()
    }

    /// The report or board of a share link.
    ///
    /// # Errors
    /// `unknown_report` if its report was removed meanwhile, and if a file is damaged.
    pub fn shared(&self, link: &Link) -> Result<Shared> {
        let all = self.load_reports()?;
        let report = all.find(&link.report)?.clone();
        Ok(Shared {
            ok: true,
            expires_at: link.expires_at,
            reports: all.of_board(&report),
            report,
            annotations: Annotations::load(self.store.folder())?.annotations,
        })
    }

    /// Removes erased users from reports, and returns the number of those that had one.
    pub(super) fn forget_in_reports(&self, users: &HashSet<&str>) -> Result<usize> {
        self.change_reports(|reports| Ok(reports.forget(users)))
            .map(|(changed, _)| changed)
    }

    fn load_reports(&self) -> Result<Reports> {
        Reports::load(self.store.folder())
    }

    /// Changes the reports, one request at a time: the second of two would undo the first.
    fn change_reports<T>(
        &self,
        change: impl FnOnce(&mut Reports) -> Result<T>,
    ) -> Result<(T, ReportsAnswer)> {
        let _one = self.reports.lock();
        let before = self.load_reports()?;
        let mut after = before.clone();
        let changed = change(&mut after)?;
        if after != before {
            after.save(self.store.folder())?;
        }
        Ok((changed, ReportsAnswer::of(&after)))
    }

    fn change_annotations(
        &self,
        change: impl FnOnce(&mut Annotations) -> Result<()>,
    ) -> Result<AnnotationsAnswer> {
        let _one = self.reports.lock();
        let mut annotations = Annotations::load(self.store.folder())?;
        change(&mut annotations)?;
        annotations.save(self.store.folder())?;
        Ok(annotations.into())
    }

    /// Changes the links, in the file and in memory.
    fn change_links<T>(&self, change: impl FnOnce(&mut Links) -> Result<T>) -> Result<T> {
        let _one = self.reports.lock();
        let mut links = Links::load(self.store.folder())?;
        let changed = change(&mut links)?;
        links.save(self.store.folder())?;
        *self.links.write() = links;
        Ok(changed)
    }
}

impl By<'_> {
    /// Creates or replaces a report or board.
    ///
    /// # Errors
    /// `bad_report`; `report_changed` if it has another version; if it cannot be written.
    pub fn set_report(&self, id: &str, request: ReportRequest) -> Result<ReportAnswer> {
        let set = |reports: &mut Reports| reports.set(id, request, self.change());
        let (report, _) = self.engine.change_reports(set)?;
        let subject = format!("set {id:?}");
        let counts = [("version", report.version)];
        self.record(Action::Report, Some(&subject), &counts);
        Ok(ReportAnswer { ok: true, report })
    }

    /// Removes a report or board with its earlier versions and its share links.
    ///
    /// # Errors
    /// `unknown_report`, and if it cannot be written.
    pub fn remove_report(&self, id: &str) -> Result<ReportsAnswer> {
        // The links first: none may show a later report with this id.
        let has_links = !self.engine.links(id, self.now)?.links.is_empty();
        if has_links {
            self.engine.change_links(|links| {
                links.revoke_all(id);
                Ok(())
            })?;
        }
        let remove = |reports: &mut Reports| reports.remove(id, self.change());
        let ((), answer) = self.engine.change_reports(remove)?;
        self.record(Action::Report, Some(&format!("removed {id:?}")), &[]);
        Ok(answer)
    }

    /// Creates or replaces the reports and annotations of an export, all or none.
    ///
    /// # Errors
    /// `bad_report` and `bad_annotation`, with the place; if they cannot be written.
    pub fn import_reports(&self, import: ReportsImport) -> Result<ReportsImportAnswer> {
        let (mut reports, mut boards): (Vec<_>, Vec<_>) = (import.reports.into_iter().enumerate())
            .partition(|(_, report)| report.kind == reports::Kind::Report);
        reports.append(&mut boards);
        let count = reports.len();
        let annotations = import.annotations;
        let annotation_count = annotations.len();
        let at = |list: &str, place: usize| {
            let place = format!("{list}[{place}]");
            move |error: Error| match error {
                Error::BadInput { code, message } => Error::BadInput {
                    code,
                    message: format!("{place}.{message}"),
                },
                other => other,
            }
        };
        // The annotations are checked before anything is written.
        let mut noted = Annotations::load(self.engine.store.folder())?;
        for (place, mut annotation) in annotations.clone().into_iter().enumerate() {
            let id = annotation.id.take().unwrap_or_default();
            noted
                .set(&id, annotation)
                .map_err(at("annotations", place))?;
        }
        self.engine.change_reports(|all| {
            for (place, mut report) in reports {
                let id = report.id.take().unwrap_or_default();
                report.version = None;
                all.set(&id, report, self.change())
                    .map_err(at("reports", place))?;
            }
            Ok(())
        })?;
        if annotation_count > 0 {
            self.engine.change_annotations(|all| {
                annotations.into_iter().try_for_each(|mut annotation| {
                    let id = annotation.id.take().unwrap_or_default();
                    all.set(&id, annotation)
                })
            })?;
        }
        let counts = [
            ("reports", count as u64),
            ("annotations", annotation_count as u64),
        ];
        self.record(Action::Report, Some("imported"), &counts);
        Ok(ReportsImportAnswer {
            ok: true,
            reports: count,
            annotations: annotation_count,
        })
    }

    /// Creates or replaces an annotation.
    ///
    /// # Errors
    /// `bad_annotation`, and if it cannot be written.
    pub fn set_annotation(
        &self,
        id: &str,
        request: AnnotationRequest,
    ) -> Result<AnnotationsAnswer> {
        let set = |annotations: &mut Annotations| annotations.set(id, request);
        let answer = self.engine.change_annotations(set)?;
        self.record(Action::Annotation, Some(&format!("set {id:?}")), &[]);
        Ok(answer)
    }

    /// Removes an annotation.
    ///
    /// # Errors
    /// `unknown_annotation`, and if it cannot be written.
    pub fn remove_annotation(&self, id: &str) -> Result<AnnotationsAnswer> {
        let remove = |annotations: &mut Annotations| annotations.remove(id);
        let answer = self.engine.change_annotations(remove)?;
        self.record(Action::Annotation, Some(&format!("removed {id:?}")), &[]);
        Ok(answer)
    }

    /// Creates a share link of a report or board.
    ///
    /// # Errors
    /// `unknown_report`, `bad_share_link`, and if it cannot be written.
    pub fn share(&self, report: &str, request: LinkRequest) -> Result<LinkAnswer> {
        self.engine.report(report)?;
        let add = |links: &mut Links| links.add(report, request, self.name, self.now);
        let link = self.engine.change_links(add)?;
        let subject = format!("shared {report:?} as {}", link.link.id);
        self.record(Action::ShareLink, Some(&subject), &[]);
        Ok(LinkAnswer { ok: true, link })
    }

    /// Revokes a share link.
    ///
    /// # Errors
    /// `unknown_share_link`, and if it cannot be written.
    pub fn revoke_link(&self, report: &str, link: &str) -> Result<LinksAnswer> {
        self.engine.report(report)?;
        self.engine
            .change_links(|links| links.revoke(report, link))?;
        let subject = format!("revoked {link:?} of {report:?}");
        self.record(Action::ShareLink, Some(&subject), &[]);
        self.engine.links(report, self.now)
    }

    fn change(&self) -> Change<'_> {
        Change {
            by: self.name,
            now: self.now,
        }
    }
}

impl ReportsAnswer {
    fn of(reports: &Reports) -> Self {
        Self {
            ok: true,
            reports: reports.all().cloned().collect(),
        }
    }
}

impl From<Annotations> for AnnotationsAnswer {
    fn from(found: Annotations) -> Self {
        Self {
            ok: true,
            annotations: found.annotations,
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use serde_json::json;

    use super::*;
    use crate::reports::{Content, Kind};

    #[test]
    fn a_share_link_allows_the_listed_queries_and_no_user_ids() {
        let query =
            json!({"metric": "active_users", "days": 30, "filter": {"feature": ["a", "b"]}});
        let events = json!({"metric": "events", "limit": 10});
        let by_user = json!({"metric": "feature_usage", "breakdown": "user_id"});
        let queries =
            [&query, &events, &by_user].map(|query| query.as_object().cloned().unwrap_or_default());
        let report = |queries: Vec<Map<String, Value>>| Report {
            id: "a".into(),
            content: Content {
                kind: Kind::Report,
                name: "A".into(),
                description: String::new(),
                view: None,
                state: Map::new(),
                queries,
                items: Vec::new(),
            },
            version: 1,
            updated_at: String::new(),
            updated_by: String::new(),
        };
        let shared = Shared {
            ok: true,
            expires_at: DateTime::UNIX_EPOCH + TimeDelta::days(1),
            report: report(Vec::new()),
            reports: vec![report(queries.to_vec())],
            annotations: Vec::new(),
        };
        for (query, is_allowed) in [
            (query.to_string(), true),
            // The order of fields and spaces do not matter.
            (
                r#"{ "filter":{"feature":["a","b"]}, "days":30, "metric":"active_users" }"#.into(),
                true,
            ),
            (
                r#"{"metric":"active_users","days":31,"filter":{"feature":["a","b"]}}"#.into(),
                false,
            ),
            (
                r#"{"metric":"active_users","days":30,"filter":{"feature":["b","a"]}}"#.into(),
                false,
            ),
            (r#"{"metric":"active_users","days":30}"#.into(), false),
            (events.to_string(), false),
            (by_user.to_string(), false),
            ("[]".into(), false),
            ("null".into(), false),
        ] {
            let value: Value = serde_json::from_str(&query).expect("JSON");
            assert_eq!(shared.allows(&value), is_allowed, "{query}");
        }
    }
}
