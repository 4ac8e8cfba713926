//! What the client is told when something fails: RFC 9457 problems, one place for all of them.
//!
//! What the log says is another text: a failure of ours is told as such, without its cause.

use axum::Json;
use axum::http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use thiserror::Error;

use crate::clickhouse::ClickHouseError;
use crate::ingest::store::StoreError;
use crate::registry::RegistryError;

/// Why a request failed.
#[derive(Debug, Error)]
pub(super) enum ApiError {
    #[error("no administrator's credential")]
    Unauthorized,
    #[error("the administrator's role does not allow it")]
    Forbidden,
    #[error("no such route")]
    NoRoute,
    #[error("the route does not take this method")]
    Method,
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    NotFound(String),
    #[error("a task of ours broke off")]
    Broken,
    #[error("the body is longer than 1 MiB")]
    TooLarge,
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ApiError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NoRoute | Self::NotFound(_) | Self::Registry(RegistryError::NotFound { .. }) => {
                StatusCode::NOT_FOUND
            }
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Invalid(_) | Self::Registry(RegistryError::Invalid { .. }) => StatusCode::BAD_REQUEST,
            Self::Registry(
                RegistryError::Taken { .. } | RegistryError::Conflict(_) | RegistryError::Ambiguous { .. },
            ) => StatusCode::CONFLICT,
            Self::Registry(_) | Self::Broken => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn detail(&self, status: StatusCode) -> String {
        match self {
            Self::Store(StoreError::ClickHouse(ClickHouseError::Server { code, .. })) => {
                format!("clickhouse refused the question with code {code}; the control plane's log says more")
            }
            Self::Store(_) => "clickhouse does not answer; data planes and keys are not affected".to_owned(),
            _ if status.is_server_error() => "the control plane's log says more".to_owned(),
            _ => self.to_string(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.status();
        if status.is_server_error() {
            tracing::error!(error = %self, "an administrator's request failed");
        }
        let problem = json!({
            "type": "about:blank",
            "title": status.canonical_reason().unwrap_or_default(),
            "status": status.as_u16(),
            "detail": self.detail(status),
        });
        let mut response = (status, Json(problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

pub(super) async fn not_found() -> ApiError {
    ApiError::NoRoute
}

pub(super) async fn method_not_allowed() -> ApiError {
    ApiError::Method
}
