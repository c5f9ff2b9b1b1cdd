//! Share links: their list, what each shows, and its page.
//!
//! The path of the page has the id of the link, by which the server knows which origins may embed
//! it. The token is in the fragment, which is in no request: neither in a log of a proxy nor in
//! `Referer`.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use chrono::Utc;

use super::dashboard;
use super::described::{BodyErrors, DashKeyErrors, Errors, KeyErrors, NotFoundErrors, WriteErrors};
use super::extract::{Keyed, OfLink, PathParam, Public};
use super::json_response::JsonResponse;
use super::{HandlerResult, body};
use crate::engine::{LinkAnswer, LinksAnswer, Shared};
use crate::reports::links::LinkRequest;

/// The share links of a report or board, without their tokens.
#[utoipa::path(
    get,
    path = "/api/analytics/reports/{id}/links",
    operation_id = "links",
    tag = "reports",
    params(("id" = String, Path, description = "The report's id.")),
    responses(
        (status = 200, description = "Those that are valid, the oldest first.", body = LinksAnswer),
        Errors, DashKeyErrors, NotFoundErrors
    )
)]
pub async fn links(
    Keyed(app): Keyed,
    PathParam(id): PathParam,
) -> HandlerResult<JsonResponse<LinksAnswer>> {
    app.run_short(move |engine| engine.links(&id, Utc::now()))
        .await
        .map(JsonResponse)
}

/// Creates a share link of a report or board. Its token is in this response alone.
#[utoipa::path(
    post,
    path = "/api/analytics/reports/{id}/links",
    operation_id = "share",
    tag = "reports",
    params(("id" = String, Path, description = "The report's id.")),
    request_body = LinkRequest,
    responses(
        (status = 200, description = "The link.", body = LinkAnswer),
        Errors, DashKeyErrors, BodyErrors, NotFoundErrors, WriteErrors
    )
)]
pub async fn share(
    Keyed(app): Keyed,
    PathParam(id): PathParam,
    headers: HeaderMap,
    body: Body,
) -> HandlerResult<JsonResponse<LinkAnswer>> {
    let body = body::receive(&app.permits.bodies, &headers, body).await?;
    let request = app
        .permits
        .decode(body, |json| Ok(LinkRequest::parse(json)?))
        .await?;
    let operator = app.operator();
    app.run_short(move |engine| engine.by(&operator, Utc::now()).share(&id, request))
        .await
        .map(JsonResponse)
}

/// Revokes a share link.
#[utoipa::path(
    delete,
    path = "/api/analytics/reports/{id}/links/{link}",
    operation_id = "revoke_link",
    tag = "reports",
    params(
        ("id" = String, Path, description = "The report's id."),
        ("link" = String, Path, description = "The link's id."),
    ),
    responses(
        (status = 200, description = "The links that stay.", body = LinksAnswer),
        Errors, DashKeyErrors, NotFoundErrors, WriteErrors
    )
)]
pub async fn revoke_link(
    Keyed(app): Keyed,
    PathParam((id, link)): PathParam<(String, String)>,
) -> HandlerResult<JsonResponse<LinksAnswer>> {
    let operator = app.operator();
    app.run_short(move |engine| engine.by(&operator, Utc::now()).revoke_link(&id, &link))
        .await
        .map(JsonResponse)
}

/// The report or board of the share link whose token is sent as the key.
#[utoipa::path(
    get,
    path = "/api/analytics/shared",
    operation_id = "shared",
    tag = "reports",
    responses(
        (status = 200, description = "The report, or the board with its reports.", body = Shared),
        Errors, KeyErrors, NotFoundErrors
    )
)]
pub async fn shared(OfLink(shared): OfLink) -> JsonResponse<Shared> {
    JsonResponse((*shared).clone())
}

/// The page of a share link, which the origins of the link may embed.
///
/// It is the dashboard, which reads the token from the fragment of its URL.
#[utoipa::path(
    get,
    path = "/shared/{link}",
    operation_id = "shared_page",
    tag = "files",
    params(("link" = String, Path, description = "The link's id.")),
    responses(
        (status = 200, description = "The page.", body = String, content_type = "text/html"),
        (status = 304, description = "The client has it."),
        Errors
    ),
    security(())
)]
pub async fn shared_page(
    public: Public,
    PathParam(link): PathParam,
    headers: HeaderMap,
) -> Response {
    let mut response = dashboard::page_in_folder().respond(&headers);
    let origins = public.link_origins(&link);
    if !origins.is_empty() {
        let policy = dashboard::policy_of_page(&origins.join(" "));
        // The characters of origins are those of a header value.
        if let Ok(policy) = HeaderValue::try_from(policy) {
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_SECURITY_POLICY, policy);
            headers.remove(header::X_FRAME_OPTIONS);
        }
    }
    response
}
