//! Error responses: one JSON shape with its status. Internal details are traced, never sent.

use std::any::Any;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::value::RawValue;
use tracing::error;
use utoipa::ToSchema;

use crate::error::{Error, ErrorCode};
use crate::store::is_displaced;

/// Seconds after which a client should try again when the server is busy, full or stopping.
const RETRY_AFTER: u64 = 1;

/// An error response.
#[derive(Debug)]
pub struct ErrorResponse {
    status: StatusCode,
    code: ErrorCode,
    message: String,
    /// Seconds after which the client should try again.
    retry_after: Option<u64>,
}

impl ErrorResponse {
    pub fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Self {
        let is_temporary = matches!(
            status,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::INSUFFICIENT_STORAGE
        );
        Self {
            status,
            code,
            message: message.into(),
            retry_after: is_temporary.then_some(RETRY_AFTER),
        }
    }

    /// The response to a client that has exceeded one of its limits and may try again after `wait`.
    pub fn too_many(code: ErrorCode, message: &str, wait: Duration) -> Self {
        let seconds = wait.as_secs_f64().ceil().max(1.0) as u64;
        let message = format!("{message}; try again in {seconds} s");
        Self {
            retry_after: Some(seconds),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, code, message)
        }
    }

    /// The same error with another status, for clients that know no other; with 503 they try again.
    pub fn with_status(self, status: StatusCode) -> Self {
        Self {
            status,
            retry_after: self.retry_after.or(Some(RETRY_AFTER)),
            ..self
        }
    }

    /// Its status, code and message.
    pub fn parts(&self) -> (StatusCode, ErrorCode, &str) {
        (self.status, self.code, &self.message)
    }

    /// The whole response as bytes, for a connection that ends with it.
    pub fn raw(&self) -> Vec<u8> {
        let body = serde_json::to_string(&self.body()).unwrap_or_default();
        let mut response = format!(
            "HTTP/1.1 {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\
             x-content-type-options: nosniff\r\n",
            self.status,
            body.len()
        );
        if let Some(seconds) = self.retry_after {
            response += &format!("retry-after: {seconds}\r\n");
        }
        response += "\r\n";
        response += &body;
        response.into_bytes()
    }

    /// Its body, for a response that has several results.
    pub fn json(&self) -> Box<RawValue> {
        serde_json::value::to_raw_value(&self.body()).unwrap_or_default()
    }

    fn body(&self) -> ErrorBody<'_> {
        ErrorBody {
            ok: false,
            error: self.code,
            message: &self.message,
        }
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The code.
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// The same error as a response of a health check, which has only the statuses 200 and 503.
    pub fn unavailable(self) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, self.code, self.message)
    }

    pub fn not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            ErrorCode::NotFound,
            "no resource has this path",
        )
    }

    pub fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            ErrorCode::MethodNotAllowed,
            "method not allowed; see the Allow header",
        )
    }

    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            ErrorCode::Internal,
            "the server failed; its traces say why",
        )
    }

    /// The response to a request whose handler panicked.
    pub fn after_panic(panic: Box<dyn Any + Send>) -> Response<Body> {
        let message = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("unknown");
        error!(panic = message, "A request handler panicked");
        Self::internal().into_response()
    }
}

/// The body of every error response.
#[derive(Serialize, ToSchema)]
pub struct ErrorBody<'a> {
    /// Always false.
    ok: bool,
    /// For programs.
    error: ErrorCode,
    /// Names the field, the value and what is allowed.
    message: &'a str,
}

impl From<Error> for ErrorResponse {
    fn from(error: Error) -> Self {
        use StatusCode as S;
        let message = error.to_string();
        match error {
            Error::BadInput { code, message } => Self::new(S::BAD_REQUEST, code, message),
            Error::TooLarge { code, message } => Self::new(S::PAYLOAD_TOO_LARGE, code, message),
            Error::NotFound { code, message } => Self::new(S::NOT_FOUND, code, message),
            Error::Conflict { code, message } => Self::new(S::CONFLICT, code, message),
            Error::Busy(_) | Error::Cancelled(_) => {
                Self::new(S::SERVICE_UNAVAILABLE, ErrorCode::Busy, message)
            }
            Error::Clock(_) => Self::new(S::SERVICE_UNAVAILABLE, ErrorCode::Clock, message),
            Error::Unconfirmed(_) => Self::new(S::CONFLICT, ErrorCode::ConfirmErasure, message),
            Error::DiskFull => Self::new(S::INSUFFICIENT_STORAGE, ErrorCode::DiskFull, message),
            Error::Poisoned(reason) if is_displaced(&reason) => {
                Self::new(S::SERVICE_UNAVAILABLE, ErrorCode::LogStopped, reason)
            }
            Error::QueryNode => Self::new(S::SERVICE_UNAVAILABLE, ErrorCode::QueryNode, message),
            Error::Remote { .. } => {
                Self::new(S::SERVICE_UNAVAILABLE, ErrorCode::RemoteEngine, message)
            }
            Error::Poisoned(_) => Self::new(
                S::SERVICE_UNAVAILABLE,
                ErrorCode::LogStopped,
                "the event log stopped after a failed write; the server must be restarted",
            ),
            Error::Damaged { .. } => {
                error!("{message}");
                Self::new(
                    S::SERVICE_UNAVAILABLE,
                    ErrorCode::Damaged,
                    "a file that is needed here is damaged; run `echopilot verify`",
                )
            }
            Error::Held { .. } | Error::Io { .. } | Error::System { .. } | Error::Query(_) => {
                error!("{message}");
                Self::internal()
            }
        }
    }
}

impl IntoResponse for ErrorResponse {
    fn into_response(self) -> Response<Body> {
        let mut response = (self.status, Json(self.body())).into_response();
        // By which the response is counted.
        response.extensions_mut().insert(self.code);
        if let Some(seconds) = self.retry_after {
            let seconds = HeaderValue::from(seconds);
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        if self.status == StatusCode::UNAUTHORIZED {
            // RFC 9110, section 11.6.1. Browsers do not prompt for this scheme.
            let bearer = HeaderValue::from_static("Bearer");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, bearer);
        }
        response
    }
}
