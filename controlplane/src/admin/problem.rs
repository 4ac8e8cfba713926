//! What the client is told when something fails: RFC 9457 problems, one place for all of them.
//!
//! What the log says is another text: a failure of ours is told as such, without its cause.

use axum::Json;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use thiserror::Error;

use super::{Api, OPENAI_PREFIX, PREFIX, auth};
use crate::clickhouse::ClickHouseError;
use crate::ingest::store::StoreError;
use crate::registry::RegistryError;

/// Why a request failed.
#[derive(Debug, Error)]
pub(super) enum ApiError {
    #[error("no administrator's credential")]
    Unauthorized,
    #[error("too many calls without an administrator's credential: try again in a second")]
    TooManyFailures,
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
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::TooManyFailures => StatusCode::TOO_MANY_REQUESTS,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NoRoute | Self::NotFound(_) | Self::Registry(RegistryError::NotFound { .. }) => {
                StatusCode::NOT_FOUND
            }
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Invalid(_) | Self::Registry(RegistryError::Invalid { .. }) => StatusCode::BAD_REQUEST,
            Self::Registry(RegistryError::Precondition { .. }) => StatusCode::PRECONDITION_FAILED,
            Self::Registry(RegistryError::KeyReused) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Registry(
                RegistryError::Taken { .. } | RegistryError::Conflict(_) | RegistryError::Ambiguous { .. },
            ) => StatusCode::CONFLICT,
            Self::Registry(_) | Self::Broken => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The answer in OpenAI's form.
    pub(super) fn into_openai(self) -> Response {
        let status = self.status();
        self.log(status);
        let kind = if status.is_server_error() { "server_error" } else { "invalid_request_error" };
        let code = match status {
            StatusCode::UNAUTHORIZED => Some("invalid_api_key"),
            StatusCode::TOO_MANY_REQUESTS => Some("rate_limit_exceeded"),
            _ => None,
        };
        let error = json!({"message": self.detail(status), "type": kind, "param": null, "code": code});
        let mut response = (status, Json(json!({"error": error}))).into_response();
        Self::say_when(status, &mut response);
        response
    }

    /// When to try again, where that is known.
    fn say_when(status: StatusCode, response: &mut Response) {
        if status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
    }

    fn log(&self, status: StatusCode) {
        if status.is_server_error() {
            tracing::error!(error = %self, "an administrator's request failed");
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
        self.log(status);
        let problem = json!({
            "type": "about:blank",
            "title": status.canonical_reason().unwrap_or_default(),
            "status": status.as_u16(),
            "detail": self.detail(status),
        });
        let mut response = (status, Json(problem)).into_response();
        Self::say_when(status, &mut response);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

pub(super) async fn not_found(State(api): State<Api>, uri: Uri, headers: HeaderMap) -> ApiError {
    denied(&api, &uri, &headers).await.unwrap_or(ApiError::NoRoute)
}

pub(super) async fn method_not_allowed(State(api): State<Api>, uri: Uri, headers: HeaderMap) -> ApiError {
    denied(&api, &uri, &headers).await.unwrap_or(ApiError::Method)
}

/// Below the API's path only administrators are told what is not there.
async fn denied(api: &Api, uri: &Uri, headers: &HeaderMap) -> Option<ApiError> {
    if ![PREFIX, OPENAI_PREFIX].iter().any(|prefix| uri.path().starts_with(prefix)) {
        return None;
    }
    auth::authenticate(api, headers).await.err()
}
