//! Links between the ids of users: `/api/analytics/links`.

use axum::extract::RawQuery;
use chrono::Utc;

use super::HandlerResult;
use super::described::{DashKeyErrors, Errors, NotFoundErrors, WriteErrors};
use super::extract::{Keyed, PathParam};
use super::json_response::JsonResponse;
use super::query_string::parameters;
use crate::engine::{RemovedLinkAnswer, UserLinksAnswer, UserLinksRequest};
use crate::error::{Error, ErrorCode, Result, shown};

/// The links between the ids of users, and the statements that were rejected.
#[utoipa::path(
    get,
    path = "/api/analytics/links",
    operation_id = "user_links",
    tag = "users",
    params(
        ("rejected" = Option<bool>, Query, description = "True for rejected statements alone."),
        ("limit" = Option<usize>, Query, minimum = 1, maximum = 10_000, description = "Most statements; 1,000 if absent. All about one alias are on one page."),
        ("after" = Option<String>, Query, description = "`next` of the page before."),
    ),
    responses(
        (status = 200, description = "What identity calls say of ids.", body = UserLinksAnswer),
        Errors, DashKeyErrors
    )
)]
pub async fn user_links(
    Keyed(app): Keyed,
    RawQuery(query): RawQuery,
) -> HandlerResult<JsonResponse<UserLinksAnswer>> {
    let request = parse(&query.unwrap_or_default())?;
    app.run_short(move |engine| engine.user_links(&request))
        .await
        .map(JsonResponse)
}

/// Removes the link of an alias, which is a user of its own again.
#[utoipa::path(
    delete,
    path = "/api/analytics/links/{id}",
    operation_id = "remove_user_link",
    tag = "users",
    params(("id" = String, Path, description = "The id that is not an alias any more.")),
    responses(
        (status = 200, description = "Statements about it up to now do not count.", body = RemovedLinkAnswer),
        Errors, DashKeyErrors, NotFoundErrors, WriteErrors
    )
)]
pub async fn remove_user_link(
    Keyed(app): Keyed,
    PathParam(alias): PathParam,
) -> HandlerResult<JsonResponse<RemovedLinkAnswer>> {
    let operator = app.operator();
    app.run_job(move |engine| engine.by(&operator, Utc::now()).remove_user_link(&alias))
        .await
        .map(JsonResponse)
}

fn parse(query: &str) -> Result<UserLinksRequest> {
    let mut request = UserLinksRequest::default();
    for (field, value) in parameters(query, &["rejected", "limit", "after"])? {
        let wrong = |code, allowed: &str| {
            let value = shown(&value);
            Error::bad_input(code, format!("{field} is {value:?}; allowed is {allowed}"))
        };
        match field.as_str() {
            "rejected" => {
                let rejected = value.parse();
                let bad = |_| wrong(ErrorCode::BadQuery, "true or false");
                request.rejected = rejected.map_err(bad)?;
            }
            "limit" => {
                let limit = value.parse();
                let limit = limit.map_err(|_| wrong(ErrorCode::BadLimit, "1 to 10000"))?;
                request.limit = Some(limit);
            }
            _ => request.after = Some(value),
        }
    }
    Ok(request)
}
