//! When keys were used, beside what they are; and those that are used though they are refused.
//!
//! All of it is ClickHouse's. A key is shown also while that is away, without it; questions about refused
//! uses alone are answered 503 then, as those about usage are.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::route::{Answer, Call};
use super::usage::{seen_by, span};
use crate::clickhouse::key_uses::{Activity, KeyMinute, USES_ROWS_MAX};
use crate::registry::key::{Key, KeyStatus};
use crate::registry::show;

/// A key, and when it was used.
#[derive(JsonSchema, Serialize)]
pub(super) struct KeyState {
    #[serde(flatten)]
    pub(super) key: Key,
    /// When it was used last, to the minute; to the day where its events have expired. Null where it was not,
    /// or where that is not known.
    #[serde(rename = "last_used_at", serialize_with = "show::at_if")]
    #[schemars(with = "Option<show::Rfc3339>")]
    last_used_ms: Option<i64>,
    /// How many requests with it were refused in the last 30 days. Null where that is not known, as
    /// ClickHouse is away: then the last use is not, either.
    refused_uses: Option<u64>,
}

/// A span of time.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SpanParams {
    /// 30 days before `to`, where nothing is said.
    from: Option<String>,
    /// The end of today.
    to: Option<String>,
}

/// The refused uses of a key.
#[derive(JsonSchema, Serialize)]
#[serde(tag = "object", rename = "list")]
pub(super) struct Minutes {
    /// The latest first.
    data: Vec<KeyMinute>,
    /// Whether there are more than one answer has.
    has_more: bool,
    /// How many requests were refused in all of the span.
    uses: u64,
}

/// A key that was used though it is refused.
#[derive(JsonSchema, Serialize)]
#[serde(tag = "object", rename = "used_key")]
pub(super) struct UsedKey {
    id: String,
    prefix: String,
    description: String,
    application: String,
    team: String,
    organization_id: String,
    status: KeyStatus,
    /// How many requests were refused.
    uses: u64,
    /// The first minute of them in the span.
    #[serde(rename = "first_use_at", serialize_with = "show::at")]
    #[schemars(with = "show::Rfc3339")]
    first_ms: i64,
    /// The last one.
    #[serde(rename = "last_use_at", serialize_with = "show::at")]
    #[schemars(with = "show::Rfc3339")]
    last_ms: i64,
}

/// The keys that were used though they are refused.
#[derive(JsonSchema, Serialize)]
#[serde(tag = "object", rename = "list")]
pub(super) struct UsedKeys {
    /// The latest first.
    data: Vec<UsedKey>,
    /// Whether there are more than one answer has.
    has_more: bool,
}

/// When keys were used; `None` where that is not known.
pub(super) struct Activities(Option<HashMap<String, Activity>>);

impl Activities {
    /// Of these keys, by one question for all of them.
    pub(super) async fn of(call: &Call, keys: &[Key]) -> Self {
        if keys.is_empty() {
            return Self(Some(HashMap::new()));
        }
        let ids: Vec<&str> = keys.iter().map(|key| key.id.as_str()).collect();
        let Ok(span) = span(None, None) else { return Self(None) };
        match call.api.store.key_activity(&ids, span).await {
            Ok(found) => Self(Some(found.into_iter().collect())),
            Err(error) => {
                tracing::debug!(%error, "when keys were used is not known");
                Self(None)
            }
        }
    }

    fn one(&self, key: &Key) -> Option<Activity> {
        self.0.as_ref().map(|known| known.get(&key.id).copied().unwrap_or_default())
    }

    /// When a key was used last.
    pub(super) fn last_used_ms(&self, key: &Key) -> Option<i64> {
        self.one(key)?.last_used_ms
    }

    /// The key with what is known of its use.
    pub(super) fn beside(&self, key: Key) -> KeyState {
        let (last_used_ms, refused_uses) = (self.last_used_ms(&key), self.one(&key).map(|one| one.refused));
        KeyState { key, last_used_ms, refused_uses }
    }
}

/// How often a key was used though it is refused.
pub(super) async fn of_key(call: Call, params: SpanParams) -> Answer<Minutes> {
    let key = call.registry.key(call.name()).await?;
    let span = span(params.from.as_deref(), params.to.as_deref())?;
    let (uses, data) = call.api.store.key_uses(&key.id, span).await?;
    Ok(Minutes { has_more: data.len() == USES_ROWS_MAX, data, uses }.into())
}

/// Which keys were.
pub(super) async fn of_all(call: Call, params: SpanParams) -> Answer<UsedKeys> {
    let span = span(params.from.as_deref(), params.to.as_deref())?;
    let owner = seen_by(&call.admin);
    let owner = owner.as_ref().map(|(dimension, id)| (dimension.column(), id.as_str()));
    let mut used = call.api.store.used_keys(owner, span).await?;
    let has_more = used.len() > USES_ROWS_MAX;
    used.truncate(USES_ROWS_MAX);
    let ids: Vec<&str> = used.iter().map(|one| one.key_id.as_str()).collect();
    let mut keys = call.registry.keys_with_ids(&ids).await?;
    let shown = used.into_iter().filter_map(|one| {
        let key = keys.remove(&one.key_id)?;
        let Key { id, prefix, description, application, team, organization_id, status, .. } = key;
        let (uses, first_ms, last_ms) = (one.uses, one.first_ms, one.last_ms);
        Some(UsedKey {
            id,
            prefix,
            description,
            application,
            team,
            organization_id,
            status,
            uses,
            first_ms,
            last_ms,
        })
    });
    Ok(UsedKeys { data: shown.collect(), has_more }.into())
}
