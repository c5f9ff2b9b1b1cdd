//! The `OpenAPI` document, made from the routes and from the types of requests and responses.
//!
//! Every route is added with its description ([`utoipa_axum`]), so that none can be missing.

use std::collections::BTreeMap;

use axum::Extension;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;
use utoipa::openapi::example::ExampleBuilder;
use utoipa::openapi::path::{Operation, ParameterBuilder};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Content, OpenApi, Ref, RefOr};
use utoipa::{OpenApi as _, PartialSchema, ToSchema};

use super::asset::{Asset, Field};
use super::described::{self, Errors};
use super::entity_tag;
use super::error_response::ErrorBody;

/// Requests with their responses, which a test sends to a server and compares.
const EXAMPLES: &str = include_str!("openapi/examples.json");

/// The document changes with the program, and tools of other sites may read it.
const FIELDS: &[Field] = &[
    ("content-type", "application/json"),
    ("cache-control", "no-cache"),
    ("access-control-allow-origin", "*"),
];

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "EchoPilot Analytics",
        description = "Product analytics in one process. Definitions of all numbers: docs/metrics.md."
    ),
    // Relative to the document, because a proxy may mount the server at a path that it does not
    // know.
    servers((url = "./")),
    security(("dash_key" = []), ("bearer" = [])),
    tags(
        (name = "events", description = "Adding events"),
        (name = "clients", description = "Clients of other products"),
        (name = "queries", description = "Numbers and rows"),
        (name = "reports", description = "Saved reports, boards, share links, annotations and alerts"),
        (name = "users", description = "Access to the data of a user, and erasure"),
        (name = "operation", description = "Health, status and jobs"),
        (name = "demo", description = "A synthetic history, separate from the real data"),
        (name = "files", description = "Pages and scripts")
    )
)]
struct Document;

/// The document before any route is added.
pub fn empty() -> OpenApi {
    let mut document = Document::openapi();
    let components = document.components.get_or_insert_default();
    let header = "the dashboard key; never in a URL";
    components.add_security_scheme(
        "dash_key",
        SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description(
            "X-Dash-Key",
            header,
        ))),
    );
    components.add_security_scheme(
        "bearer",
        SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)),
    );
    let mut schemas = vec![(ErrorBody::name().into_owned(), ErrorBody::schema())];
    ErrorBody::schemas(&mut schemas);
    components.schemas.extend(schemas);
    for (status, meaning) in described::ERRORS {
        let response = described::error(meaning, Ref::from_schema_name(ErrorBody::name()).into());
        components
            .responses
            .insert(described::component(status), response.into());
    }
    document
}

/// Adds the examples and the responses to clients that have a result, and makes the file that is
/// sent.
pub fn finished(mut document: OpenApi) -> Asset {
    for (path, item) in &mut document.paths.paths {
        if let Some(operation) = item.get.as_mut().filter(|_| entity_tag::is_tagged(path)) {
            described::add_not_modified(operation);
        }
    }
    let examples: Vec<DocumentedExample> = serde_json::from_str(EXAMPLES).unwrap_or_default();
    for example in examples.iter().rev() {
        for item in document.paths.paths.values_mut() {
            for operation in described::operations(item) {
                if operation.operation_id.as_ref() == Some(&example.operation) {
                    example.add_to(operation);
                }
            }
        }
    }
    Asset::compress(document.to_json().unwrap_or_default(), FIELDS)
}

/// This document.
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "openapi",
    tag = "files",
    responses(
        (status = 200, description = "OpenAPI 3.1", body = Object),
        (status = 304, description = "The client has it."),
        Errors
    ),
    security(())
)]
pub async fn openapi(Extension(document): Extension<Asset>, headers: HeaderMap) -> Response {
    document.respond(&headers)
}

/// A request and its response.
#[derive(Deserialize)]
struct DocumentedExample {
    /// Id of the operation.
    operation: String,
    name: String,
    /// Values of the parameters of path and query.
    #[serde(default)]
    parameters: BTreeMap<String, Value>,
    body: Option<Value>,
    status: u16,
    media_type: Option<String>,
    response: Value,
}

impl DocumentedExample {
    fn add_to(&self, operation: &mut Operation) {
        for parameter in operation.parameters.iter_mut().flatten() {
            if let RefOr::T(parameter) = parameter
                && let Some(value) = self.parameters.get(&parameter.name)
            {
                let described = std::mem::replace(parameter, ParameterBuilder::new().build());
                *parameter = ParameterBuilder::from(described)
                    .example(Some(value.clone()))
                    .build();
            }
        }
        if let (Some(body), Some(RefOr::T(request))) = (&self.body, &mut operation.request_body) {
            for content in request.content.values_mut() {
                self.insert(content, body);
            }
        }
        let response = operation
            .responses
            .responses
            .get_mut(&self.status.to_string());
        if let Some(RefOr::T(response)) = response {
            let media_type = self.media_type.as_deref().unwrap_or("application/json");
            if let Some(content) = response.content.get_mut(media_type) {
                self.insert(content, &self.response);
            }
        }
    }

    fn insert(&self, content: &mut RefOr<Content>, value: &Value) {
        if let RefOr::T(content) = content {
            let example = ExampleBuilder::new().value(Some(value.clone())).build();
            content.examples.insert(self.name.clone(), example.into());
        }
    }
}
