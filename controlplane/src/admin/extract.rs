//! Bodies, parameters, lists and times: what the routes have in common.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::IntoResponse as _;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use super::{Api, ApiError};
use crate::registry::{Listed, Page};

/// A JSON body; an empty one is `{}`.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Api> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> Result<Self, ApiError> {
        let bytes = Bytes::from_request(request, api).await.map_err(|error| {
            match error.into_response().status() {
                StatusCode::PAYLOAD_TOO_LARGE => ApiError::TooLarge,
                _ => ApiError::Invalid("the body can't be read".to_owned()),
            }
        })?;
        let text = if bytes.is_empty() { b"{}" } else { &bytes[..] };
        if text.trim_ascii_start().first() != Some(&b'{') {
            // An array would be taken by position.
            return Err(ApiError::Invalid("body: a JSON object".to_owned()));
        }
        let body =
            serde_json::from_slice(text).map_err(|error| ApiError::Invalid(format!("body: {error}")))?;
        Ok(Self(body))
    }
}

/// The parameters of the URL.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Api> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, ApiError> {
        Query::try_from_uri(&parts.uri)
            .map(|Query(params)| Self(params))
            .map_err(|error| ApiError::Invalid(format!("parameters: {}", error.body_text())))
    }
}

/// The part of the path that names something.
pub(super) struct Named(pub(super) String);

impl FromRequestParts<Api> for Named {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        match Path::from_request_parts(parts, api).await {
            Ok(Path(name)) => Ok(Self(name)),
            Err(_) => Err(ApiError::Invalid("path: percent-encoded UTF-8".to_owned())),
        }
    }
}

/// The parameters of a list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    pub(super) after: Option<String>,
    pub(super) limit: Option<i64>,
    pub(super) organization: Option<String>,
    pub(super) team: Option<String>,
    pub(super) application: Option<String>,
}

impl ListParams {
    /// The page, once filters that the list does not have are refused.
    pub(super) fn page(&self, filters: &[&str]) -> Result<Page, ApiError> {
        for (name, value) in
            [("organization", &self.organization), ("team", &self.team), ("application", &self.application)]
        {
            if value.is_some() && !filters.contains(&name) {
                return Err(ApiError::Invalid(format!("parameters: this list is not filtered by {name}")));
            }
        }
        if self.limit.is_some_and(|limit| !(1..=crate::registry::PAGE_ROWS_MAX).contains(&limit)) {
            return Err(ApiError::Invalid(format!(
                "parameters: limit is 1 to {}",
                crate::registry::PAGE_ROWS_MAX
            )));
        }
        Ok(Page { after: self.after.clone(), limit: self.limit })
    }
}

/// The answer that holds a list.
pub(super) fn list<T, S: Serialize>(listed: &Listed<T>, show: impl Fn(&T) -> S) -> Json<Value> {
    let data: Vec<S> = listed.rows.iter().map(show).collect();
    Json(json!({"object": "list", "data": data, "has_more": listed.has_more}))
}

/// A time as RFC 3339 in UTC.
pub(super) fn time(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map(|time| time.to_string()).unwrap_or_default()
}

/// Reads a time as RFC 3339.
pub(super) fn parse_time(field: &str, text: &str) -> Result<i64, ApiError> {
    let time: Result<Timestamp, _> = text.parse();
    time.map(Timestamp::as_millisecond).map_err(|_| {
        ApiError::Invalid(format!("{field}: a time as in RFC 3339, such as 2026-11-01T00:00:00Z"))
    })
}

/// Reads a member that may be absent (leave it), null (unset it) or a value (set it).
pub(super) fn patch<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Some)
}
