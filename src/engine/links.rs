//! Links between the ids of users: their list, and the removal of one.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Engine, check_limit};
use crate::error::{Error, ErrorCode, Result, shown};
use crate::links::{Link, Rejected};

/// A filter of the list.
#[derive(Debug, Clone, Default)]
pub struct UserLinksRequest {
    /// Only statements that were rejected.
    pub rejected: bool,
    /// Most statements; `None` for the default.
    pub limit: Option<usize>,
    /// Only those of aliases after this one: `next` of the list before.
    pub after: Option<String>,
}

impl UserLinksRequest {
    /// Most statements of a response.
    pub const MAX_LIMIT: usize = 10_000;
    const LIMIT: usize = 1_000;
}

/// A statement that an id is an alias.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct UserLink {
    /// The alias: an id whose events count as events of the user.
    pub alias: String,
    /// The user.
    pub user_id: String,
    /// Time of the first statement.
    pub since: String,
    /// The reason why it does not hold: `known_user` if the alias is a known user itself,
    /// `other_user` if it is an alias of another one since before. Absent if it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejected: Option<&'static str>,
}

/// The links between the ids of users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct UserLinksAnswer {
    /// Always true.
    pub ok: bool,
    /// Statements, by the first event of the alias.
    pub links: Vec<UserLink>,
    /// Number of all links.
    pub total: u64,
    /// Number of all statements that were rejected.
    pub rejected: u64,
    /// `after` of the next page; null on the last one.
    pub next: Option<String>,
}

/// A link that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct RemovedLinkAnswer {
    /// Always true.
    pub ok: bool,
    /// The id that is a user of its own again.
    pub alias: String,
}

impl Engine {
    /// The links between the ids of users.
    ///
    /// # Errors
    /// `bad_limit`, and `bad_query` if `after` is not an id.
    pub fn user_links(&self, request: &UserLinksRequest) -> Result<UserLinksAnswer> {
        let limit = request.limit.unwrap_or(UserLinksRequest::LIMIT);
        check_limit(limit, UserLinksRequest::MAX_LIMIT)?;
        let users = &self.store.names().users;
        let from = match &request.after {
            None => 0,
            Some(after) => {
                let after_code = users.find(after).ok_or_else(|| {
                    let after = shown(after);
                    let message = format!("after is {after:?}; allowed is next of the page before");
                    Error::bad_input(ErrorCode::BadQuery, message)
                })?;
                after_code.saturating_add(1)
            }
        };
        let all = self.store.all_links();
        let mut listed = all.list(from);
        listed.retain(|link| !request.rejected || link.rejected.is_some());
        // All statements about an alias are on one page.
        let last = listed.get(limit.min(listed.len()).saturating_sub(1));
        let last = last.map_or(0, |link| link.alias);
        let end = listed.partition_point(|link| link.alias <= last);
        let next = (end < listed.len()).then(|| users.text(last)).flatten();
        listed.truncate(end);
        Ok(UserLinksAnswer {
            ok: true,
            links: listed
                .iter()
                .filter_map(|link| self.described(link))
                .collect(),
            total: all.len(),
            rejected: all.rejected(),
            next,
        })
    }

    fn described(&self, link: &Link) -> Option<UserLink> {
        let users = &self.store.names().users;
        let since = DateTime::<Utc>::from_timestamp_micros(link.since_us)?;
        Some(UserLink {
            alias: users.text(link.alias)?,
            user_id: users.text(link.user)?,
            since: since.to_rfc3339_opts(SecondsFormat::AutoSi, true),
            rejected: link.rejected.map(|rejected| match rejected {
                Rejected::KnownUser => "known_user",
                Rejected::OtherUser => "other_user",
            }),
        })
    }

    /// Removes the link of an alias. Statements about it up to now do not count any more.
    ///
    /// # Errors
    /// `unknown_link` if there is no statement about the id, and as
    /// [`crate::store::Store::remove_link`].
    pub fn remove_user_link(&self, alias: &str, now: DateTime<Utc>) -> Result<RemovedLinkAnswer> {
        let mut is_removed = false;
        for id in self.store.stored_ids(alias) {
            is_removed |= self.store.remove_link(&id, now.timestamp_micros())?;
        }
        if !is_removed {
            let alias = shown(alias);
            return Err(Error::NotFound {
                code: ErrorCode::UnknownLink,
                message: format!("there is no link of the alias {alias:?}"),
            });
        }
        self.correct_rollups(now);
        Ok(RemovedLinkAnswer {
            ok: true,
            alias: alias.to_owned(),
        })
    }
}
