//! Parameters, bodies and lists: what the routes have in common.

use axum::body::Bytes;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

use super::ApiError;
use crate::registry::{Listed, PAGE_ROWS_MAX, Page};

const NO_NUL: &str = "without NUL characters";

/// The parameters of a URL. One whose name ends in `[]` may come again; its values are joined by commas.
pub(super) struct Params(Vec<(String, String)>);

impl Params {
    pub(super) fn parse(query: &str) -> Result<Self, ApiError> {
        let pairs: Vec<(String, String)> = serde_urlencoded::from_str(query).map_err(invalid_params)?;
        let mut params: Vec<(String, String)> = Vec::with_capacity(pairs.len());
        for (name, value) in pairs {
            check_text("parameters", &value)?;
            match params.iter_mut().find(|(one, _)| *one == name && name.ends_with("[]")) {
                Some((_, values)) => {
                    values.push(',');
                    values.push_str(&value);
                }
                None => params.push((name, value)),
            }
        }
        Ok(Self(params))
    }

    /// Takes out a parameter that is true or false.
    pub(super) fn take_flag(&mut self, name: &str) -> Result<bool, ApiError> {
        let mut flag = false;
        for (_, value) in self.0.extract_if(.., |(one, _)| one == name) {
            flag = match value.as_str() {
                "true" => true,
                "false" => false,
                _ => return Err(ApiError::Invalid(format!("parameters: {name} is true or false"))),
            };
        }
        Ok(flag)
    }

    /// Reads what is left.
    pub(super) fn read<T: DeserializeOwned>(self) -> Result<T, ApiError> {
        let text = serde_urlencoded::to_string(self.0)
            .map_err(|_| ApiError::Invalid("parameters: percent-encoded UTF-8".to_owned()))?;
        serde_urlencoded::from_str(&text).map_err(invalid_params)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn invalid_params(error: serde_urlencoded::de::Error) -> ApiError {
    ApiError::Invalid(format!("parameters: {error}"))
}

/// Reads a JSON object; nothing is an empty one.
pub(super) fn body<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, ApiError> {
    let text = if bytes.is_empty() { b"{}" } else { &bytes[..] };
    if text.trim_ascii_start().first() != Some(&b'{') {
        // An array would be taken by position.
        return Err(ApiError::Invalid("body: a JSON object".to_owned()));
    }
    // Behind another backslash it is no NUL, but six letters. It is refused all the same, since telling the
    // two apart takes a parser.
    if memchr::memmem::find(text, b"\\u0000").is_some() {
        return Err(ApiError::Invalid(format!("body: {NO_NUL}")));
    }
    serde_json::from_slice(text).map_err(|error| ApiError::Invalid(format!("body: {error}")))
}

/// Refuses what PostgreSQL has no place for.
pub(super) fn check_text(what: &str, text: &str) -> Result<(), ApiError> {
    if text.contains('\0') { Err(ApiError::Invalid(format!("{what}: {NO_NUL}"))) } else { Ok(()) }
}

/// No parameters, or no members.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// The parameters of a list that is not filtered.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    /// The id after which the page begins: `next` of the page before.
    after: Option<String>,
    /// How many at most; 1 to 1000.
    #[schemars(range(min = 1, max = 1000))]
    limit: Option<i64>,
}

impl ListParams {
    pub(super) fn page(self) -> Result<Page, ApiError> {
        page(self.after, self.limit)
    }
}

/// A page, once its limit is known to be one.
pub(super) fn page(after: Option<String>, limit: Option<i64>) -> Result<Page, ApiError> {
    if limit.is_some_and(|limit| !(1..=PAGE_ROWS_MAX).contains(&limit)) {
        return Err(ApiError::Invalid(format!("parameters: limit is 1 to {PAGE_ROWS_MAX}")));
    }
    Ok(Page { after, limit })
}

/// A page of a list.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(tag = "object", rename = "list")]
#[schemars(rename = "{T}_list")]
pub(super) struct List<T> {
    data: Vec<T>,
    /// Whether there are more.
    has_more: bool,
    /// Where the next page goes on: its `after`.
    next: Option<String>,
}

impl<T> List<T> {
    pub(super) fn new(listed: Listed<T>, id: impl Fn(&T) -> &str) -> Self {
        let last = listed.rows.last().map(|one| id(one).to_owned());
        Self { next: last.filter(|_| listed.has_more), data: listed.rows, has_more: listed.has_more }
    }
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
