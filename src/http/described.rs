//! The description of routes in the `OpenAPI` document: their error responses, and those of files.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use axum::routing::MethodRouter;
use utoipa::openapi::path::{HttpMethod, Operation, OperationBuilder, PathItem, Paths};
use utoipa::openapi::response::{Response, ResponseBuilder, ResponsesBuilder};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{
    Content, KnownFormat, ObjectBuilder, Ref, RefOr, Schema, SchemaFormat, Type,
};
use utoipa::{IntoResponses, PartialSchema, ToSchema};
use utoipa_axum::router::UtoipaMethodRouter;

use super::extract::AppState;

/// All statuses of error responses, with their meaning.
pub const ERRORS: [(StatusCode, &str); 15] = [
    (StatusCode::BAD_REQUEST, "Invalid input."),
    (StatusCode::UNAUTHORIZED, "The key is missing or wrong."),
    (
        StatusCode::FORBIDDEN,
        "This key, or pages of this origin, may not do it.",
    ),
    (
        StatusCode::NOT_FOUND,
        "No resource has this path, or nothing has this name.",
    ),
    (
        StatusCode::NOT_ACCEPTABLE,
        "None of the accepted formats is available.",
    ),
    (
        StatusCode::REQUEST_TIMEOUT,
        "The request arrived too slowly.",
    ),
    (
        StatusCode::CONFLICT,
        "The request has to be confirmed, or is about an older version; nothing was changed.",
    ),
    (StatusCode::PAYLOAD_TOO_LARGE, "The body is too large."),
    (
        StatusCode::URI_TOO_LONG,
        "Path and query string are too long.",
    ),
    (
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "Unknown content type or encoding.",
    ),
    (
        StatusCode::TOO_MANY_REQUESTS,
        "A limit of this client was reached; see Retry-After.",
    ),
    (
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        "The head of the request is too large.",
    ),
    (
        StatusCode::INTERNAL_SERVER_ERROR,
        "The server failed; its traces say why.",
    ),
    (
        StatusCode::SERVICE_UNAVAILABLE,
        "Busy, stopping or not accepting events; see Retry-After.",
    ),
    (
        StatusCode::INSUFFICIENT_STORAGE,
        "The disk is full; see Retry-After.",
    ),
];

/// The name of the response of a status.
pub fn component(status: StatusCode) -> String {
    format!("Error{}", status.as_u16())
}

/// An error response with a body of this schema.
pub fn error(meaning: &str, schema: RefOr<Schema>) -> Response {
    ResponseBuilder::new()
        .description(meaning)
        .content("application/json", Content::new(Some(schema)))
        .build()
}

type Responses = BTreeMap<String, RefOr<Response>>;

fn errors(statuses: &[StatusCode]) -> Responses {
    let response = |status: &StatusCode| {
        let named = Ref::from_response_name(component(*status));
        (status.as_u16().to_string(), RefOr::Ref(named))
    };
    statuses.iter().map(response).collect()
}

/// Error responses of every route: of the head, of the limits of a client, and of a failure.
pub struct Errors;

impl IntoResponses for Errors {
    fn responses() -> Responses {
        errors(&[
            StatusCode::BAD_REQUEST,
            StatusCode::REQUEST_TIMEOUT,
            StatusCode::URI_TOO_LONG,
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            StatusCode::INTERNAL_SERVER_ERROR,
            StatusCode::SERVICE_UNAVAILABLE,
        ])
    }
}

/// Error responses of a route that needs a key, for which the token of a share link is not enough.
pub struct KeyErrors;

impl IntoResponses for KeyErrors {
    fn responses() -> Responses {
        errors(&[StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN])
    }
}

/// Error responses of a route that needs a dashboard key, for which a read key is not enough.
pub struct DashKeyErrors;

impl IntoResponses for DashKeyErrors {
    fn responses() -> Responses {
        errors(&[StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN])
    }
}

/// Error response of a route of one thing.
pub struct NotFoundErrors;

impl IntoResponses for NotFoundErrors {
    fn responses() -> Responses {
        errors(&[StatusCode::NOT_FOUND])
    }
}

/// Error responses of a route that reads a body.
pub struct BodyErrors;

impl IntoResponses for BodyErrors {
    fn responses() -> Responses {
        errors(&[
            StatusCode::PAYLOAD_TOO_LARGE,
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ])
    }
}

/// Error response of a route that writes.
pub struct WriteErrors;

impl IntoResponses for WriteErrors {
    fn responses() -> Responses {
        errors(&[StatusCode::INSUFFICIENT_STORAGE])
    }
}

/// Error response of a route for pages of allowed origins.
pub struct OriginErrors;

impl IntoResponses for OriginErrors {
    fn responses() -> Responses {
        errors(&[StatusCode::FORBIDDEN])
    }
}

/// Error response of a route with formats.
pub struct FormatErrors;

impl IntoResponses for FormatErrors {
    fn responses() -> Responses {
        errors(&[StatusCode::NOT_ACCEPTABLE])
    }
}

/// Error response of erasures.
pub struct ConfirmErrors;

impl IntoResponses for ConfirmErrors {
    fn responses() -> Responses {
        errors(&[StatusCode::CONFLICT])
    }
}

/// Error response of a change of something that has versions.
pub struct ConflictErrors;

impl IntoResponses for ConflictErrors {
    fn responses() -> Responses {
        errors(&[StatusCode::CONFLICT])
    }
}

/// A body of bytes.
pub struct Binary;

impl PartialSchema for Binary {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)))
            .into()
    }
}

impl ToSchema for Binary {}

/// Adds an error response to the operations of a path.
pub fn add_error(item: &mut PathItem, status: StatusCode) {
    for operation in operations(item) {
        operation.responses.responses.extend(errors(&[status]));
    }
}

/// Adds the response to a client that has the result, unless the result is a stream.
pub fn add_not_modified(operation: &mut Operation) {
    let responses = &mut operation.responses.responses;
    let Some(RefOr::T(found)) = responses.get("200") else {
        return;
    };
    if found.content.contains_key("application/json") {
        responses.insert("304".to_owned(), not_modified().into());
    }
}

fn not_modified() -> Response {
    let known = ResponseBuilder::new().description("The client has it, by its entity tag.");
    known.build()
}

/// The route of a file, with its description.
pub fn file(
    path: &str,
    about: &str,
    media_type: &str,
    route: MethodRouter<AppState>,
) -> UtoipaMethodRouter<AppState> {
    let text = ObjectBuilder::new().schema_type(Type::String).build();
    let found = ResponseBuilder::new()
        .description("The file.")
        .content(media_type, Content::new(Some(text)));
    let operation = OperationBuilder::new()
        .operation_id(Some(path.trim_start_matches('/').replace(['/', '.'], "_")))
        .summary(Some(about))
        .tag("files")
        .responses(
            ResponsesBuilder::new()
                .responses_from_into_responses::<Errors>()
                .response("200", found)
                .response("304", not_modified()),
        )
        .security(SecurityRequirement::default());
    let mut paths = Paths::new();
    paths.add_path_operation(path, vec![HttpMethod::Get], operation);
    (Vec::new(), paths, route)
}

/// The route under another path, with an id of its own.
pub fn moved(
    (schemas, paths, route): UtoipaMethodRouter<AppState>,
    path: &str,
    prefix: &str,
) -> UtoipaMethodRouter<AppState> {
    let mut moved = Paths::new();
    for (_, mut item) in paths.paths {
        rename(&mut item, prefix);
        moved.paths.insert(path.to_owned(), item);
    }
    (schemas, moved, route)
}

/// Gives the operations of a path ids with a prefix.
pub fn rename(item: &mut PathItem, prefix: &str) {
    for operation in operations(item) {
        let id = operation.operation_id.take().unwrap_or_default();
        operation.operation_id = Some(format!("{prefix}_{id}"));
    }
}

/// The operations of a path.
pub fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [
        &mut item.get,
        &mut item.put,
        &mut item.post,
        &mut item.delete,
        &mut item.patch,
    ]
    .into_iter()
    .flatten()
}
