//! Parts of a request, whose absence is answered in the one shape of every refusal.

use axum::extract::{FromRequestParts, Path};
use axum::http::StatusCode;
use axum::http::request::Parts;

use super::refusal::Refusal;

/// The one variable part of a path, decoded.
pub struct PathText(pub String);

impl<S: Send + Sync> FromRequestParts<S> for PathText {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        path.map(|Path(text)| Self(text)).map_err(|_| {
            Refusal::new(
                StatusCode::BAD_REQUEST,
                "bad_path",
                "the path is no UTF-8 text once its %-escapes are decoded",
            )
        })
    }
}
